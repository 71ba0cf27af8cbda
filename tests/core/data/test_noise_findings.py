"""Findings: the sentence, and what the noise permits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn.core.data import noise
from napari_btn.core.data.noise_findings import find_noise_steps
from napari_btn.core.progress import drain


def _rate(shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Return a smooth rate."""
    smooth = gaussian_filter(np.random.default_rng(0).standard_normal(shape), 8)
    smooth -= smooth.min()
    return low + (high - low) * smooth / smooth.max()


def test_counts_permit_thinning_and_noise2void() -> None:
    counts = np.random.default_rng(1).poisson(_rate((120, 141), 1, 12))
    found = drain(find_noise_steps(counts, "YX"))
    assert found.sentence.startswith("no correlation found, Poisson with gain ")
    assert found.sentence.endswith(": thinning and Noise2Void are allowed")
    assert found.permits["thinning"].allowed
    assert not found.permits["noise2noise"].allowed
    assert "take a second frame" in found.permits["noise2noise"].reason
    assert not found.mask_spans


@pytest.mark.parametrize("frames", [1, 4])
def test_counts_with_a_gain_are_refused_with_the_fano_factor(frames: int) -> None:
    rng = np.random.default_rng(2)
    counts = rng.poisson(_rate((110, 130), 2, 12), (frames, 110, 130))
    found = drain(find_noise_steps(2.5 * counts, "TYX"))
    assert not found.permits["thinning"].allowed
    assert "counts times 2.5" in found.permits["thinning"].reason
    assert f"Fano factor {found.model.fano[0]:.3g}" in found.permits["thinning"].reason
    assert found.model.fano[0] == pytest.approx(2.5, rel=0.1)


def test_overdispersed_counts_are_refused_where_repeats_show_it() -> None:
    rng = np.random.default_rng(3)
    rate = _rate((120, 150), 4, 20) * rng.gamma(50, 1 / 50, (8, 120, 150))
    found = drain(find_noise_steps(rng.poisson(rate), "TYX"))
    assert found.model.fano[0] > 1.1
    assert "Fano factor" in found.permits["thinning"].reason


def test_a_camera_is_refused_with_its_offset() -> None:
    rng = np.random.default_rng(4)
    rate = _rate((100, 110), 5, 90)
    frames = [
        noise.digitise(noise.readout(2.2 * rng.poisson(rate), rng=rng, sd=3, offset=100)) for _ in range(4)
    ]
    found = drain(find_noise_steps(np.stack(frames), "TYX"))
    assert "offset" in found.permits["thinning"].reason
    assert found.permits["noise2void"].allowed
    assert found.permits["noise2noise"].allowed


def test_correlated_noise_asks_for_a_mask_along_it() -> None:
    rng = np.random.default_rng(5)
    frames = np.stack(
        [noise.correlated(_rate((90, 100), 0, 20), rng=rng, sd=3, length_px=(0, 1.5)) for _ in range(4)]
    )
    found = drain(find_noise_steps(frames, "TYX"))
    assert not found.permits["noise2void"].allowed
    assert "mask along x" in found.permits["noise2void"].reason
    assert list(found.mask_spans) == ["X"]
    # exp(-lag**2 / 9) falls under 0.1 at 4.55 px
    assert found.mask_spans["X"] == 9
    assert "Noise2Void with a mask along x" in found.sentence


def test_drift_and_defects_are_noted() -> None:
    rng = np.random.default_rng(6)
    wide = _rate((140, 140), 10, 60)
    wide[rng.choice(140, 20, replace=False)] += 60
    wide[:, rng.choice(140, 20, replace=False)] += 60
    frames = np.stack([rng.poisson(wide[3 * k : 110 + 3 * k, 10:130]) for k in range(3)]).astype(np.float32)
    frames[:, 30, 40] = 4095
    found = drain(find_noise_steps(frames, "TYX"))
    assert found.frames.drift == (6, 0)
    assert any("6 px along Y" in note for note in found.notes)
    assert "align them first" in found.permits["noise2noise"].reason
    assert found.defects.broken[0, 30, 40]


def test_findings_are_json() -> None:
    counts = np.random.default_rng(7).poisson(3.0, (2, 3, 40, 50))
    found = drain(find_noise_steps(counts, "TCYX", channel_names=("Si", "Al", "Fe")))
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(values["gain"]) == 3
    assert values["permits"]["noise2noise"]["allowed"]
    assert values["sentence"] == found.sentence
    with pytest.raises(ValueError, match="2 channel names"):
        drain(find_noise_steps(counts, "TCYX", channel_names=("Si", "Al")))
