"""Scores per pixel."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core.remeasure.scores import ambiguity, combine_channels, relative_width, width_reduction


def test_ambiguity_is_largest_where_the_matter_is_even() -> None:
    np.testing.assert_allclose(ambiguity([0, 0.25, 0.5, 1]), [0, 0.75, 1, 0])
    with pytest.raises(ValueError, match="0 to 1"):
        ambiguity([0.2, 1.5])


def test_relative_width_has_a_floor() -> None:
    width, median = np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.5, 4.0])
    np.testing.assert_allclose(relative_width(width, median, 1.0), [1, 1, 0.25])
    assert np.isfinite(relative_width(np.ones(5), np.zeros(5))).all()
    with pytest.raises(ValueError, match="floor"):
        relative_width(width, median, 0.0)
    with pytest.raises(ValueError, match="they must match"):
        relative_width(width, median[:2])


def test_width_reduction_grows_with_the_dwell_and_never_exceeds_the_width() -> None:
    width = np.array([0.0, 1.0, 3.0])
    short, long = width_reduction(width, 1.0), width_reduction(width, 100.0)
    np.testing.assert_allclose(short, width * (1 - 1 / np.sqrt(2)), rtol=1e-6)
    assert (long >= short).all()
    assert (long <= width).all()
    noisy = width_reduction(width, 1.0, noise_width=np.full(3, 10.0))
    assert (noisy <= short).all()
    assert noisy[2] > noisy[1] > 0
    np.testing.assert_allclose(width_reduction(width, 1.0, noise_width=np.zeros(3)), width)
    with pytest.raises(ValueError, match="dwell_ratio"):
        width_reduction(width, 0.0)


def test_channels_are_combined_by_rank_not_by_unit() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 9, 11))
    both = combine_channels(scores)
    np.testing.assert_allclose(combine_channels(scores * np.array([1e6, 1e-6])[:, None, None]), both)
    np.testing.assert_allclose(combine_channels(np.exp(scores)), both)
    assert both.min() >= 0
    assert both.max() <= 1
    one = combine_channels(scores, weights=(1, 0))
    assert np.unravel_index(one.argmax(), one.shape) == np.unravel_index(scores[0].argmax(), one.shape)


def test_channels_in_units_of_their_mean_keep_how_much_wider_one_pixel_is() -> None:
    scores = np.random.default_rng(1).gamma(2, 1, (2, 8, 9))
    scores[0, 3, 4] = 50.0
    both = combine_channels(scores, by="mean")
    np.testing.assert_allclose(both, (scores / scores.mean((1, 2), keepdims=True)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(combine_channels(scores * 7.0, by="mean"), both, rtol=1e-5)
    assert (combine_channels(np.zeros((2, 4, 5)), by="mean") == 0).all()


def test_ties_at_the_bottom_stay_at_zero() -> None:
    scores = np.zeros((1, 10, 10))
    scores[0, 0, 0] = 5
    out = combine_channels(scores)
    assert out[0, 0] == 1
    assert np.count_nonzero(out) == 1


def test_masked_pixels_are_not_ranked() -> None:
    scores = np.full((1, 4, 5), np.nan)
    scores[0, :2] = np.arange(10.0).reshape(2, 5)
    mask = np.isfinite(scores[0])
    out = combine_channels(scores, mask=mask)
    assert (out[2:] == 0).all()
    np.testing.assert_allclose(out[:2].ravel(), np.arange(10) / 9)
    with pytest.raises(ValueError, match="NaN"):
        combine_channels(scores)
    with pytest.raises(ValueError, match="weights"):
        combine_channels(scores, weights=(1, 2))
    with pytest.raises(ValueError, match="channels come first"):
        combine_channels(scores[0])
