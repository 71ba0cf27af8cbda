"""Collapsed members are distinguished from channels with nothing to learn."""

from __future__ import annotations

import numpy as np
import pytest
import scoringrules
from scipy import ndimage

from napari_btn.core.training.collapse import Collapse, pinball_per_channel

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def case(seed=0):
    """Noisy and clean patches of three channels: predictable, unpredictable, constant."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(16, 1, 32, 32)), (0, 0, 3, 3)) * 10
    y = np.concatenate([smooth, rng.normal(size=smooth.shape), np.zeros_like(smooth)], 1)
    x = y.copy()
    x[:, 0] += rng.normal(size=x[:, 0].shape)
    x[:, 1] = rng.normal(size=x[:, 1].shape)
    return x.astype(np.float32), y.astype(np.float32)


def judged(median, y, check, *, end):
    """Channels found dead for a member whose quantiles stand about this median."""
    residual = np.quantile((y - median).swapaxes(0, 1).reshape(3, -1), LEVELS, axis=1).T
    quantiles = median[:, :, None] + residual[None, :, :, None, None]
    loss = pinball_per_channel(quantiles, y, LEVELS)
    return list(check.channels(loss, median.std(axis=(0, 2, 3)), end=end))


@pytest.mark.parametrize("end", [False, True])
def test_a_dead_channel_is_found_and_an_unpredictable_one_is_not(end):
    x, y = case()
    check = Collapse(x, y, LEVELS)
    dead = np.zeros_like(y)
    assert judged(dead, y, check, end=end) == [0]
    alive = dead.copy()
    alive[:, 0] = ndimage.gaussian_filter(x[:, 0], (0, 2, 2))
    assert judged(alive, y, check, end=end) == []


def test_a_channel_that_barely_learned_is_dead():
    x, y = case(1)
    check = Collapse(x, y, LEVELS)
    faint = 0.03 * y
    faint[:, 1:] = 0
    assert judged(faint, y, check, end=True) == [0]


def test_a_constant_channel_is_never_dead():
    x, y = case(2)
    for value in (0.0, 3.0, -1e4):
        y[:, 2] = value
        check = Collapse(x, y, LEVELS)
        alive = y + np.random.default_rng(0).normal(0, 1e-3, y.shape).astype(np.float32)
        assert judged(alive, y, check, end=True) == []


def test_units_do_not_matter():
    x, y = case(3)
    for scale in (1e-6, 1e6):
        check = Collapse(x * scale, y * scale, LEVELS)
        assert judged(np.zeros_like(y), y * scale, check, end=True) == [0]


def test_unknown_targets_do_not_count():
    x, y = case(4)
    y[:, :, :6] = np.nan
    check = Collapse(x, y, LEVELS)
    assert np.isfinite(check.constant).all()
    assert np.isfinite(check.linear_skill).all()


def test_siblings_are_no_yardstick():
    x, y = case(5)
    one, two = Collapse(x, y, LEVELS), Collapse(x, y, LEVELS)
    judged(np.zeros_like(y), y, one, end=True)
    np.testing.assert_array_equal(one.linear_skill, two.linear_skill)


def test_pinball_is_the_published_one():
    rng = np.random.default_rng(0)
    q, y = rng.normal(size=(4, 2, 5, 6, 7)), rng.normal(size=(4, 2, 6, 7))
    level = np.reshape(LEVELS, (1, 1, 5, 1, 1))
    expected = scoringrules.quantile_score(y[:, :, None], q, level).mean((0, 2, 3, 4))
    np.testing.assert_allclose(pinball_per_channel(q, y, LEVELS), expected, atol=1e-12)


def test_loss_of_quantiles_that_are_the_same_everywhere_equals_scoringrules():
    from napari_btn.core.training.tasks import _constant_loss

    y = np.random.default_rng(4).gamma(2, 1, (3, 501))
    q = np.quantile(y, LEVELS, axis=1).T
    expected = [
        np.mean(
            [scoringrules.quantile_score(values, at, level) for at, level in zip(row, LEVELS, strict=True)]
        )
        for values, row in zip(y, q, strict=True)
    ]
    made = [_constant_loss(at, values, LEVELS) for at, values in zip(q, y, strict=True)]
    np.testing.assert_allclose(made, expected, rtol=1e-12)


def test_unknown_values_have_no_say_in_the_scaling():
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.training.tasks import scaling_of

    x, y = np.random.default_rng(4).gamma(2, 1, (2, 3, 20, 31)).astype(np.float32)
    holes = np.random.default_rng(5).random((20, 31)) < 0.3
    known = np.where(holes, np.nan, x), np.where(holes, np.nan, y)
    made = scaling_of(*scenes_of(Pair(*known, "CYX", valid=~holes)), LEVELS, seed=0)
    flat = [v[:, ~holes][:, None] for v in (x, y)]
    expected = scaling_of(*scenes_of(Pair(*flat, "CYX")), LEVELS, seed=0)
    for name in ("x_loc", "x_scale", "y_loc", "y_scale"):
        np.testing.assert_allclose(getattr(made, name), getattr(expected, name), rtol=1e-6)


def scenes_of(pair):
    return pair.scenes, pair.scenes.whole()
