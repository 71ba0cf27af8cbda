"""Dither: counts get uniform noise that keeps their mean; other values stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core.data.pairs import Pair
from napari_btn.core.supervision.dither import Dither


@pytest.mark.parametrize(("factor", "step"), [(1, 1), (2, 2), (0.5, 0), (1000, 1000)])
def test_few_counts_are_dithered_by_their_step(factor, step):
    rng = np.random.default_rng(0)
    first, second = (factor * rng.poisson(2.0, (2, 60, 70))).astype(np.float32)
    scenes = Pair(first, second).views
    dither = Dither(scenes, scenes.whole())
    assert dither.steps.tolist() == [step]
    made = dither(scenes.read_clean(0), rng) - second
    assert np.abs(made).max() <= step / 2
    # the standard error of the mean of 4200 uniform numbers is 0.0045 steps
    assert abs(made.mean()) <= 0.02 * step


def test_many_counts_and_unknown_pixels_stay():
    rng = np.random.default_rng(0)
    first, second = rng.poisson(400.0, (2, 30, 30)).astype(np.float32)
    scenes = Pair(first, second).views
    assert Dither(scenes, scenes.whole()).steps.tolist() == [0]
    few = np.array([[0, 1, np.nan, 3]], np.float32)[None].repeat(8, 1).repeat(8, 2)
    scenes = Pair(few[0], few[0] + 1, valid="finite").views
    made = Dither(scenes, scenes.whole())(scenes.read_clean(0), rng)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(scenes.read_clean(0)))
