"""One score per pixel from a prediction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.remeasure.scores import score_map, width_outside

RNG = np.random.default_rng(0)


def made(axes: str = "CYX", shape: tuple[int, ...] = (2, 12, 15)) -> Prediction:
    """Maps with a width that grows with the signal."""
    median = RNG.gamma(2, 1, shape).astype(np.float32)
    names = ("Si", "Fe")[: shape[axes.index("C")] if "C" in axes else 1]
    return Prediction(
        0.5 * median, median, 2 * median, 0 * median, None, (0.5,), axes, names, None, "px", 0.1, "clean"
    )


def test_one_channel_is_the_relative_width() -> None:
    p = made()
    score = score_map(p, channel="Fe")
    assert score.shape == (12, 15)
    bright = p.median[1] > np.quantile(p.median[1], 0.95)
    np.testing.assert_allclose(score[bright], 1.5, rtol=1e-5)
    assert (score <= 1.5001).all()
    np.testing.assert_array_equal(score, score_map(p, channel=1))


def test_all_channels_are_combined_by_rank() -> None:
    p = made()
    score = score_map(p)
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


@pytest.mark.parametrize("axes", ["CZYX", "XYZC", "ZCXY"])
def test_volumes_come_in_order(axes: str) -> None:
    size = {"C": 2, "Z": 3, "Y": 4, "X": 5}
    assert score_map(made(axes, tuple(size[a] for a in axes)), channel=1).shape == (3, 4, 5)


def test_scenes_are_chosen() -> None:
    p = made("YXSC", (12, 15, 3, 2))
    with pytest.raises(ValueError, match="3 scenes"):
        score_map(p)
    score = score_map(p, channel=1, scene=2)
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
