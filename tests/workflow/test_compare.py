"""Classical filters beside an ensemble: what is judged where, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn.cli import main
from napari_btn.core.compute.pool import Inline
from napari_btn.core.settings import TrainSettings

NAMES = ("gaussian", "median")


@pytest.fixture(scope="module")
def pair():
    return btn.samples.edx(seed=1, size=(48, 176))


@pytest.fixture(scope="module")
def denoiser(pair):
    made = btn.Denoiser(
        members=1,
        network=btn.NetworkSettings(depth=3, max_dilation=2),
        train=TrainSettings(steps=30, start="scratch"),
        device="cpu",
    )
    return made.fit(
        pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names, executor=Inline()
    )


def column(made, method, name):
    return made.table[name][made.table["method"] == method]


def test_with_clean_all_are_judged_on_the_held_out_part_of_the_model(pair, denoiser):
    made = btn.compare(pair.noisy, pair.clean, axes="CYX", denoiser=denoiser, filters=NAMES)
    assert list(dict.fromkeys(made.table["method"])) == ["noisy", *NAMES, "ensemble"]
    assert list(made.table["channel"][:3]) == ["Si", "Al", "Fe"]
    assert set(made.images) == {*NAMES, "ensemble"}
    assert all(image.shape == pair.noisy.shape for image in made.images.values())
    assert "loss" not in made.table
    # split-conformal intervals of all methods have the same coverage, on the pixels that they are calibrated on
    np.testing.assert_allclose(made.table["coverage"], 0.9, atol=0.02)
    held = denoiser.held_out
    at = (slice(None), *held.position[:, 1:].T)
    for c, r in enumerate(column(made, "ensemble", "correlation")):
        assert r == pytest.approx(
            np.corrcoef(made.images["ensemble"][at][c], pair.clean[at][c])[0, 1], abs=1e-5
        )
    assert (column(made, "gaussian", "correlation") > column(made, "noisy", "correlation")).all()
    assert (column(made, "gaussian", "PSNR") > column(made, "noisy", "PSNR")).all()
    width = column(made, "ensemble", "width")
    assert width.shape == (3,)
    assert (width > 0).all()


def test_a_better_estimate_has_a_narrower_interval(pair):
    noisy = (pair.clean + np.random.default_rng(0).normal(0, 0.2, pair.clean.shape)).astype(np.float32)
    made = btn.compare(noisy, pair.clean, axes="CYX", filters=("gaussian",))
    assert set(made.images) == {"gaussian"}
    assert (column(made, "gaussian", "width") < column(made, "noisy", "width")).all()
    assert (column(made, "gaussian", "SSIM") > column(made, "noisy", "SSIM")).all()


def test_without_clean_the_self_supervised_loss_is_shown(pair, denoiser):
    made = btn.compare(pair.noisy, axes="CYX", denoiser=denoiser, filters=NAMES)
    assert "PSNR" not in made.table
    assert list(dict.fromkeys(made.table["method"])) == [*NAMES, "ensemble"]
    assert (column(made, "gaussian", "loss") > 0).all()
    assert np.isfinite(column(made, "ensemble", "width")).all()
    assert "loss" in made.text().splitlines()[0]
    assert len(made.text().splitlines()) == 10


def test_missing_values_are_left_out(pair):
    noisy, clean = pair.noisy.copy(), pair.clean.copy()
    noisy[:, 5:9, 20:30] = np.nan
    clean[0, 30:33, 150:160] = np.nan
    made = btn.compare(noisy, clean, axes="CYX", filters=("gaussian",))
    assert np.isfinite(made.table["PSNR"]).all()
    np.testing.assert_array_equal(np.isfinite(made.images["gaussian"]), np.isfinite(noisy))


def test_crops_of_what_a_model_was_trained_on_are_refused(pair, denoiser):
    with pytest.raises(ValueError, match="trained on"):
        btn.compare(
            pair.noisy[..., :120], pair.clean[..., :120], axes="CYX", denoiser=denoiser, filters=("gaussian",)
        )


def test_scenes_and_volumes_can_be_compared():
    blobs = btn.samples.blobs(seed=0, n=12, size=32)
    made = btn.compare(blobs.noisy, blobs.clean, axes=blobs.axes, filters=("gaussian",))
    assert made.images["gaussian"].shape == blobs.noisy.shape
    assert column(made, "gaussian", "PSNR") > column(made, "noisy", "PSNR") + 3
    volume = btn.samples.xct(seed=0, size=(12, 40, 80))
    made = btn.compare(volume.noisy, volume.clean, axes=volume.axes, filters=("gaussian",))
    assert column(made, "gaussian", "PSNR") > column(made, "noisy", "PSNR")


def test_the_command_prints_the_table(pair, denoiser, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_btn.core.evaluation.classical._filter_names", lambda _: NAMES)
    np.savez(tmp_path / "p.npz", noisy=pair.noisy, clean=pair.clean)
    denoiser.save(tmp_path / "m.btn")
    given = ["compare", f"{tmp_path / 'p.npz'}:noisy", "--axes", "CYX", "--device", "cpu"]
    pair_given = [*given, f"{tmp_path / 'p.npz'}:clean", "--model", str(tmp_path / "m.btn"), "--json"]
    result = CliRunner().invoke(main, pair_given)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["method"], row["channel"]) for row in rows[-3:]] == [
        ("ensemble", c) for c in ("Si", "Al", "Fe")
    ]
    assert rows[-1]["loss"] is None
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[:3] == ["method", "channel", "loss"]
    assert CliRunner().invoke(main, [*given, "--model", str(tmp_path / "none.btn")]).exit_code == 2
