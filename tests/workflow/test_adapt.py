"""An adapted model: better on its image, and without a calibration until it gets one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn.cli import main
from napari_btn.core.settings import AdaptSettings, NetworkSettings, TrainSettings

NETWORK = NetworkSettings(depth=5, channels=4, inputs=2, max_dilation=3)


def with_noise(clean, sd, seed):
    return (clean + np.random.default_rng(seed).normal(0, sd, clean.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def denoiser():
    """One member that knows weak noise alone."""
    clean = np.asarray(btn.samples.blobs(seed=0, n=10, size=48).clean)
    made = btn.Denoiser(
        "quick", members=1, device="cpu", network=NETWORK, train=TrainSettings(steps=80, patch_px=48)
    )
    return made.fit(with_noise(clean, 0.3, 1), clean, axes="SYX")


@pytest.fixture(scope="module")
def field():
    """(noisy, clean) with four times the noise of the training."""
    clean = np.asarray(btn.samples.blobs(seed=50, n=1, size=96).clean[0])
    return with_noise(clean, 1.2, 2), clean


@pytest.fixture(scope="module")
def adapted(denoiser, field):
    return denoiser.adapt(field[0], axes="YX", settings=AdaptSettings(steps=60))


def test_stronger_noise_is_denoised_better(denoiser, adapted, field):
    noisy, clean = field
    error = [np.mean((d.predict(noisy, axes="YX").median - clean) ** 2) for d in (denoiser, adapted)]
    assert error[1] < 0.8 * error[0]


def test_nothing_pretends_to_be_calibrated(denoiser, adapted, field):
    prediction = adapted.predict(field[0], axes="YX")
    assert np.isinf(prediction.lower).all()
    assert np.isinf(prediction.upper).all()
    assert prediction.covers == "nothing"
    assert prediction.notes[0].level == "red"
    assert np.isnan(adapted.report.coverage).all()
    assert "Not calibrated" in adapted.calibration.caption(prediction.covers)
    for action in (
        lambda: prediction.exceedance(0.5),
        lambda: prediction.draws(1),
        lambda: prediction.select(0.5),
        lambda: prediction.signal_interval(),
        lambda: replace(prediction, signal_sd=np.ones_like(prediction.median)).signal_interval(),
        lambda: adapted.calibrate(alpha=0.2),
        lambda: adapted.coverage_curve(),
        lambda: adapted.miscoverage((96, 96)),
        lambda: adapted.lock(0.5),
    ):
        with pytest.raises(ValueError, match="adapted"):
            action()
    # the first one still is
    assert denoiser.predict(field[0], axes="YX").covers != "nothing"
    assert np.isfinite(denoiser.report.coverage).all()


def test_a_bundle_keeps_it_and_a_pair_calibrates_it_again(adapted, field, tmp_path):
    adapted.save(tmp_path / "adapted.btn")
    loaded = btn.load(tmp_path / "adapted.btn", device="cpu")
    noisy, clean = field
    np.testing.assert_array_equal(
        loaded.predict(noisy, axes="YX").median, adapted.predict(noisy, axes="YX").median
    )
    assert loaded.predict(noisy, axes="YX").covers == "nothing"
    assert loaded.provenance["adapted"][0]["loss"] == "blind_spot"
    loaded.calibrate(noisy, clean, axes="YX")
    prediction = loaded.predict(noisy, axes="YX")
    assert prediction.covers != "nothing"
    assert 0.8 < np.mean((clean >= prediction.lower) & (clean <= prediction.upper)) < 0.98
    assert np.isfinite(loaded.report.coverage).all()
    loaded.save(tmp_path / "again.btn")
    assert btn.load(tmp_path / "again.btn", device="cpu").predict(noisy, axes="YX").covers != "nothing"


def test_the_command_adapts_and_says_so(denoiser, field, tmp_path):
    denoiser.save(tmp_path / "m.btn")
    np.save(tmp_path / "noisy.npy", field[0])
    arguments = [
        "adapt",
        tmp_path / "m.btn",
        tmp_path / "noisy.npy",
        "--axes",
        "YX",
        "--steps",
        "4",
        "--device",
        "cpu",
    ]
    result = CliRunner().invoke(main, [str(a) for a in (*arguments, "-o", tmp_path / "a.btn")])
    assert result.exit_code == 0, result.output
    assert "no longer holds" in result.output
    assert np.isnan(btn.load(tmp_path / "a.btn").report.coverage).all()
    said = CliRunner().invoke(main, ["info", str(tmp_path / "a.btn")])
    assert said.exit_code == 0, said.output
    assert "no longer holds" in said.output
    refused = CliRunner().invoke(
        main, [str(a) for a in (*arguments, "--loss", "sure", "-o", tmp_path / "b.btn")]
    )
    assert refused.exit_code == 2
    assert "NoiseModel" in refused.output
