"""Scores per pixel, from arrays and from a prediction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.remeasure.scores import (
    _ambiguity,
    _relative_width,
    _width_reduction,
    combine_channels,
    score_map,
    width_outside,
)

RNG = np.random.default_rng(0)


def test_ambiguity_is_largest_where_the_matter_is_even() -> None:
    np.testing.assert_allclose(_ambiguity([0, 0.25, 0.5, 1]), [0, 0.75, 1, 0])
    with pytest.raises(ValueError, match="0 to 1"):
        _ambiguity([0.2, 1.5])


def test_relative_width_has_a_floor() -> None:
    width, median = np.ones(20), np.full(20, 1.0)
    median[:3] = 0.0, 0.5, 4.0
    np.testing.assert_allclose(_relative_width(width, median)[:4], [1, 1, 0.25, 1])
    assert np.isfinite(_relative_width(np.ones(5), np.zeros(5))).all()
    with pytest.raises(ValueError, match="they must match"):
        _relative_width(width, median[:2])


def test_width_reduction_grows_with_the_dwell_and_never_exceeds_the_width() -> None:
    width = np.array([0.0, 1.0, 3.0])
    short, long = _width_reduction(width, 1.0), _width_reduction(width, 100.0)
    np.testing.assert_allclose(short, width * (1 - 1 / np.sqrt(2)), rtol=1e-6)
    assert (long >= short).all()
    assert (long <= width).all()
    with pytest.raises(ValueError, match="dwell_ratio"):
        _width_reduction(width, 0.0)


def test_channels_are_combined_by_rank_not_by_unit() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 9, 11))
    both = combine_channels(scores)
    np.testing.assert_allclose(combine_channels(scores * np.array([1e6, 1e-6])[:, None, None]), both)
    np.testing.assert_allclose(combine_channels(np.exp(scores)), both)
    assert both.min() >= 0
    assert both.max() <= 1


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
    with pytest.raises(ValueError, match="channels come first"):
        combine_channels(scores[0])


# ---------------------------------------------------------------- of a prediction


def made(axes: str = "CYX", shape: tuple[int, ...] = (2, 12, 15)) -> Prediction:
    """Maps with a width that grows with the signal."""
    median = RNG.gamma(2, 1, shape).astype(np.float32)
    names = ("Si", "Fe")[: shape[axes.index("C")] if "C" in axes else 1]
    return Prediction(
        0.5 * median, median, 2 * median, 0 * median, None, (0.5,), axes, names, None, "px", 0.1, "clean"
    )


def test_one_channel_is_the_width_plain_or_relative() -> None:
    p = made()
    np.testing.assert_array_equal(score_map(p, channel="Fe"), p.width[1])
    np.testing.assert_array_equal(score_map(p, channel="Fe"), score_map(p, channel=1, width="plain"))
    score = score_map(p, channel="Fe", width="relative")
    assert score.shape == (12, 15)
    bright = p.median[1] > np.quantile(p.median[1], 0.95)
    np.testing.assert_allclose(score[bright], 1.5, rtol=1e-5)
    assert (score <= 1.5001).all()
    np.testing.assert_array_equal(score, score_map(p, channel=1, width="relative"))


def test_all_channels_are_combined() -> None:
    p = made()
    np.testing.assert_allclose(score_map(p), np.mean([w / w.mean() for w in p.width], 0), rtol=1e-5)
    score = score_map(p, width="relative")
    assert score.shape == (12, 15)
    assert 0 <= score.min() < score.max() <= 1


def test_a_dwell_asks_for_the_reduction() -> None:
    p = made()
    np.testing.assert_allclose(score_map(p, channel=0, dwell_ratio=3), 0.5 * p.width[0], rtol=1e-5)
    with pytest.raises(ValueError, match="Leave one out"):
        score_map(p, channel=0, dwell_ratio=3, threshold=1)


def test_a_spread_asks_where_members_disagree() -> None:
    p = replace(made(), spread=RNG.gamma(2, 1, (2, 12, 15)).astype(np.float32))
    np.testing.assert_array_equal(score_map(p, channel=1, spread="plain"), p.spread[1])
    np.testing.assert_allclose(
        score_map(p, channel=1, spread="relative"), p.spread[1] / p.width[1], rtol=1e-6
    )
    both = score_map(p, spread="plain")
    np.testing.assert_allclose(both, np.mean([s / s.mean() for s in p.spread], axis=0), rtol=1e-4)
    with pytest.raises(ValueError, match="Leave one out"):
        score_map(p, spread="plain", dwell_ratio=1)
    with pytest.raises(ValueError, match="two members or more"):
        score_map(made(), spread="plain")
    with pytest.raises(ValueError, match="'plain' or 'relative'"):
        score_map(p, spread="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'plain' or 'relative'"):
        score_map(p, width="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", ["CZYX", "XYZC", "ZCXY"])
def test_volumes_come_in_order(axes: str) -> None:
    size = {"C": 2, "Z": 3, "Y": 4, "X": 5}
    assert score_map(made(axes, tuple(size[a] for a in axes)), channel=1).shape == (3, 4, 5)


def test_scenes_are_chosen() -> None:
    p = made("YXSC", (12, 15, 3, 2))
    with pytest.raises(ValueError, match="3 scenes"):
        score_map(p)
    score = score_map(p, channel=1, width="relative", scene=2)
    np.testing.assert_array_equal(
        score.argmax(),
        (
            p.width[..., 2, 1] / np.maximum(p.median[..., 2, 1], max(np.quantile(p.median[..., 1], 0.9), 0))
        ).argmax(),
    )
    with pytest.raises(ValueError, match="counted from 0"):
        score_map(p, scene=3)


def test_images_without_channels() -> None:
    assert score_map(made("YX", (12, 15))).shape == (12, 15)


def test_the_width_outside_of_regions_leaves_them_out() -> None:
    p = made()
    regions = [Region(2, 3, 4, 5), Region(0, 0, 1, 1)]
    outside = np.ones((12, 15), bool)
    outside[2:6, 3:8] = outside[0, 0] = False
    wanted = [float(w[outside].mean()) for w in p.width]
    np.testing.assert_allclose(width_outside(p, regions), wanted, rtol=1e-6)
    assert np.isnan(width_outside(p, [Region(0, 0, 12, 15)])).all()


def test_the_width_outside_is_that_of_a_scene() -> None:
    p = made("YXSC", (12, 15, 3, 2))
    np.testing.assert_allclose(width_outside(p, [], 1), p.width[:, :, 1].mean((0, 1)), rtol=1e-6)
