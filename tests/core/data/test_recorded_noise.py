"""Recorded noise: histograms and mixtures of simulated frames, and files of other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

import napari_btn as btn
from napari_btn.core.data.recorded_noise import histogram_of_array, mixture_of_polynomials

if TYPE_CHECKING:
    from pathlib import Path


def _frames(rng: np.random.Generator) -> np.ndarray:
    """Return 100 frames of a ramp under noise of gamma shape: variance 2 x signal, skewness 2 / sqrt(signal / 2)."""
    signal = np.tile(np.linspace(10, 80, 60), (40, 1))
    return 2 * rng.standard_gamma(signal / 2, (100, 40, 60))


@pytest.mark.parametrize("kind", ["histogram", "mixture"])
def test_a_recorded_model_has_the_shape_of_the_noise(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = btn.NoiseModel.fit(_frames(rng), axes="TYX", kind=kind)
    model.save(tmp_path / "camera.json")
    model = btn.NoiseModel.load(tmp_path / "camera.json")
    np.testing.assert_allclose(model.variance([20.0, 50.0, 70.0]), [40, 100, 140], rtol=0.12)
    drawn = model.sample(np.full((1, 1, 60_000), 30.0), rng)
    assert drawn.mean() == pytest.approx(30, abs=0.3)
    # a normal law would have none
    assert stats.skew(drawn.ravel()) == pytest.approx(2 / np.sqrt(15), abs=0.15)
    grid = np.arange(0, 150, 0.25)
    density = np.exp(model.log_likelihood(grid, 30.0))
    assert density.sum() * 0.25 == pytest.approx(1, abs=0.01)
    known = stats.gamma.logpdf(grid[60:240], 15, scale=2)
    assert np.abs(density[60:240] - np.exp(known)).max() < 0.012


def test_few_frames_are_refused() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(ValueError, match="about 100 frames"):
        btn.NoiseModel.fit(_frames(rng)[:5], axes="TYX", kind="mixture")


def test_polynomial_mixtures_are_read_as_their_code_evaluates_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 0.5, (6, 2))
    path = tmp_path / "gmm.npz"
    np.savez(
        path,
        trained_weight=weight,
        min_signal=np.array([100.0]),
        max_signal=np.array([500.0]),
        min_sigma=0.01,
    )
    model = btn.NoiseModel.load(path)
    signal, observed = 300.0, np.array([298.0, 300.5, 303.0])
    x = (signal - 100) / 400
    value = weight[:, 0] + weight[:, 1] * x
    variance = (np.exp(weight[2:4]) * [1, x]).sum(1)
    share = np.exp(value[4:]) / np.exp(value[4:]).sum()
    mean = value[:2] - (share * value[:2]).sum() + signal
    known = (share * stats.norm.pdf(observed[:, None], mean, np.sqrt(variance))).sum(1)
    np.testing.assert_allclose(np.exp(model.log_likelihood(observed, signal)), known, rtol=0.01)


@pytest.mark.parametrize("along", [0, 1])
def test_histogram_arrays_are_read(along: int, tmp_path: Path) -> None:
    edges = np.linspace(0, 100, 51)
    centre = (edges[1:] + edges[:-1]) / 2
    table = stats.norm.pdf(centre, centre[:, None], 8)
    array = np.stack(
        [
            table / table.sum(1, keepdims=True),
            *(np.broadcast_to(e[:, None] if along == 0 else e, table.shape) for e in (edges[:-1], edges[1:])),
        ]
    )
    np.save(tmp_path / "histogram.npy", array)
    model = btn.NoiseModel.load(tmp_path / "histogram.npy")
    assert np.sqrt(model.variance(51.0)) == pytest.approx(8, rel=0.02)
    assert model.log_likelihood(45.0, 51.0) == pytest.approx(stats.norm.logpdf(45, 51, 8), abs=0.02)


def test_wrong_files_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    for name, arrays in (
        ("rows", {"trained_weight": np.ones((4, 2)), "min_signal": 0, "max_signal": 1, "min_sigma": 1}),
        ("range", {"trained_weight": np.ones((3, 2)), "min_signal": 1, "max_signal": 1, "min_sigma": 1}),
        ("object", {"trained_weight": np.array([{}]), "min_signal": 0, "max_signal": 1, "min_sigma": 1}),
        ("others", {"a": np.ones(2), "b": np.ones(2)}),
        ("flat", {"a": np.ones((3, 5, 6))}),
    ):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=f"{name}.npz"):
            btn.NoiseModel.load(path)
    (tmp_path / "cut.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"cut\.npz"):
        btn.NoiseModel.load(tmp_path / "cut.npz")
    with pytest.raises(ValueError, match="rising"):
        histogram_of_array(np.ones((3, 4, 4)))
    with pytest.raises(ValueError, match="not finite"):
        mixture_of_polynomials(np.full((3, 1), np.nan), 0, 1, 1)
