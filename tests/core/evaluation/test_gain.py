"""What more members bring."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.pairs import Pair
from napari_btn.core.evaluation.gain import ensemble_gain, gain_steps
from napari_btn.core.networks.family import Networks

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
Z = np.array([-1.645, -0.674, 0, 0.674, 1.645], np.float32)


def made(members=10, n=6000, channels=2, own=0.5):
    """Members that share an error and have errors of their own around a truth."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(channels, n)).astype(np.float32)
    common = 0.3 * rng.normal(size=(channels, n))
    each = common + own * rng.normal(size=(members, channels, n))
    quantiles = truth + each[:, None] + 0.3 * Z[:, None, None]
    quantiles = quantiles.astype(np.float32)
    return quantiles, HeldOut(quantiles.mean(0), truth, np.arange(n) // 100, LEVELS)


def test_more_members_correlate_better_and_are_narrower_at_the_same_coverage():
    gain = ensemble_gain(*made(), sizes=(1, 2, 5, 10, 25), channel_names=("Si", "Fe"))
    assert gain.sizes == (1, 2, 5, 10)
    assert gain.correlation.shape == gain.coverage.shape == gain.width.shape == (4, 2)
    assert (np.diff(gain.correlation, axis=0) > 0).all()
    assert (np.diff(gain.width, axis=0) < 0).all()
    np.testing.assert_allclose(gain.coverage, 0.9, atol=0.03)
    rows = gain.rows()
    assert len(rows) == 8
    assert (rows[1]["members"], rows[1]["channel"]) == (1, "Fe")


def test_identical_members_bring_nothing():
    gain = ensemble_gain(*made(members=4, own=0.0), sizes=(1, 4))
    np.testing.assert_allclose(gain.width[0], gain.width[1], rtol=1e-5)
    np.testing.assert_allclose(gain.correlation[0], gain.correlation[1], rtol=1e-6)


def test_what_does_not_fit_is_said():
    quantiles, held_out = made(members=2)
    with pytest.raises(ValueError, match="must be"):
        ensemble_gain(quantiles[:, :3], held_out)
    with pytest.raises(ValueError, match="from 1 to 2"):
        ensemble_gain(quantiles, held_out, sizes=(5,))


@pytest.mark.parametrize(("axes", "shape"), [("SYX", (4, 21, 34)), ("CZYX", (1, 7, 19, 24))])
def test_gain_of_trained_members(random_members, axes, shape):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=shape).astype(np.float32)
    scenes = Pair(clean + rng.normal(size=shape).astype(np.float32), clean, axes).scenes
    blueprint, members = random_members(3, ndim=3 if "Z" in axes else 2)
    steps = gain_steps(scenes, Networks(blueprint, members), Compute(executor=Inline()), sizes=(1, 3))
    while True:
        try:
            assert next(steps).fraction <= 1
        except StopIteration as end:
            gain = end.value
            break
    assert gain.sizes == (1, 3)
    assert np.isfinite(gain.correlation).all()


def test_coverage_of_one_block_is_unknown():
    quantiles, held_out = made()
    one = replace(held_out, block=np.zeros_like(held_out.block))
    gain = ensemble_gain(quantiles, one, sizes=(2,))
    assert np.isnan(gain.coverage).all()
    assert np.isnan(gain.width).all()
    assert np.isfinite(gain.correlation).all()
