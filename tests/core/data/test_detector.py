"""The frames of a detector: what they do to a pair, to an image of other axes, and what a bundle keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import napari_btn as btn
from napari_btn.core.compute.pool import Inline
from napari_btn.core.training import processes as training
from napari_btn.workflow.recipe import Recipe

NETWORK = btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8, max_dilation=2)
TRAIN = btn.TrainSettings(steps=6, batch_size=2, patch_px=16)


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


def camera(seed=0, shape=(40, 88)):
    """An image behind an uneven illumination with an offset, a broken pixel, and the frames that undo it."""
    rng = np.random.default_rng(seed)
    even = rng.poisson(np.kron(rng.gamma(3.0, 9.0, (5, 11)), np.ones((8, 8)))).astype(float)
    field = np.linspace(0.5, 1.5, shape[1]) * np.ones(shape)
    dark = 100 + rng.normal(0, 1, shape)
    seen = dark + field * even
    seen[20, 30] = 4095
    return seen.astype(np.float32), even, dark, dark + 200 * field


def tiny(supervision="noise2void"):
    return btn.Denoiser(members=1, seed=1, network=NETWORK, train=TRAIN, supervision=supervision, device="cpu",
                        calibration=btn.CalibrationSettings(block_px=8),
                        supervision_settings=btn.SupervisionSettings(masked_pixel_percentage=25))  # fmt: skip


def test_frames_are_divided_out_in_any_order_of_axes():
    seen, even, dark, flat = camera()
    detector = btn.Detector(dark, flat, axes="YX")
    sound = np.arange(seen.size).reshape(seen.shape) != 20 * 88 + 30
    np.testing.assert_allclose(detector.repaired(seen, "YX").image[sound], even[sound], rtol=1e-4)
    turned = detector.repaired(np.stack([seen.T, seen.T]), "CXY").image
    np.testing.assert_allclose(turned[1], detector.repaired(seen, "YX").image.T, rtol=1e-6)
    stack = btn.Detector(np.stack([dark, dark]), np.stack([flat, flat]), axes="CYX")
    np.testing.assert_allclose(
        stack.repaired(np.stack([seen.T, seen.T], -1), "XYC").image[..., 0], turned[0], rtol=1e-6
    )


def test_a_bundle_repairs_what_it_predicts_as_its_training_image(tmp_path):
    seen, _, dark, flat = camera()
    made = btn.repair(seen, "YX", dark=dark, flat=flat)
    by_hand = tiny().fit(made.image, axes="YX", valid=made.valid, executor=Inline())
    detector = btn.Detector(dark, flat)
    denoiser = tiny().fit(seen, axes="YX", detector=detector, executor=Inline())
    other = camera(3)[0]
    wanted = by_hand.predict(btn.repair(other, "YX", dark=dark, flat=flat, defects=~made.valid).image, "YX")
    for one in (denoiser, saved(denoiser, tmp_path / "a.btn")):
        found = one.predict(other, "YX")
        np.testing.assert_array_equal(found.median, wanted.median)
        np.testing.assert_array_equal(found.lower, wanted.lower)
    assert {"dark", "flat"} <= set(denoiser.recipe["steps"][0]["inputs"])
    new = denoiser.predict(other, "YX", detector=btn.Detector(dark - 5, flat))
    assert (new.median != wanted.median).any()
    with pytest.raises(ValueError, match=r"has shape \(40, 88\), the image \(30, 88\)"):
        denoiser.predict(other[:30], "YX")


def saved(denoiser, path):
    denoiser.save(path)
    return btn.load(path, device="cpu")


@pytest.mark.parametrize("valid", ["finite", "space", "all"])
def test_broken_pixels_are_left_out_with_those_of_valid(valid):
    seen, even, dark, flat = camera()
    frames = np.stack([seen, camera(1)[0]])
    frames[:, 20, 30] = 4095
    frames[1, 5, 6] = np.nan
    mask = {"finite": "finite", "space": np.isfinite(frames).all(0), "all": np.isfinite(frames)}[valid]
    given = btn.Pair(frames, np.stack([even, even]), "TYX", valid=mask, detector=btn.Detector(dark, flat))
    pair, detector = given.detector.repaired_pair(given)
    left_out = ~np.broadcast_to(pair.valid, frames.shape)
    assert left_out[:, 20, 30].all()
    assert left_out[1, 5, 6]
    assert np.isfinite(pair.noisy).all()
    assert np.asarray(detector.defects)[20, 30]
    assert detector.axes == "TYX"


def test_frames_without_a_noisy_image_are_refused():
    clean = camera()[1]
    with pytest.raises(ValueError, match="without a noisy image"):
        tiny().fit(None, clean, axes="YX", noise_model=btn.NoiseModel(gain=1.0), detector=btn.Detector(clean))


def test_a_training_image_is_recognised_as_it_was_given_and_as_it_is_repaired(tmp_path):
    from click.testing import CliRunner

    from napari_btn.cli import main

    seen, even, dark, flat = camera()
    detector = btn.Detector(dark, flat)
    denoiser = tiny("pair").fit(seen, even, axes="YX", detector=detector, executor=Inline())
    other = even + np.random.default_rng(9).normal(0, 1, even.shape)  # not the target of the training
    repaired = btn.repair(seen, "YX", dark=dark, flat=flat).image
    for image in (seen, repaired):
        with pytest.raises(ValueError, match="trained on these images"):
            denoiser.calibrate(image, other)
    with pytest.raises(ValueError, match="hold pixels that the members were trained on"):
        denoiser.calibrate(repaired[:, ::-1], other)
    saved(denoiser, tmp_path / "a.btn")
    np.save(tmp_path / "seen.npy", seen)
    np.save(tmp_path / "other.npy", other.astype(np.float32))
    files = [str(tmp_path / name) for name in ("a.btn", "seen.npy", "other.npy")]
    said = CliRunner().invoke(main, ["evaluate", *files, "--axes", "YX"])
    assert said.exit_code == 0, said.output
    assert "were trained on a part of this image" in said.stderr
    # a comparison judges on the held-out part of the training image, and refuses copies of its other part
    assert btn.compare(seen, even, denoiser=denoiser, filters=["gaussian"]).rows
    with pytest.raises(ValueError, match="hold pixels that the members were trained on"):
        btn.compare(seen[:, ::-1], other, denoiser=denoiser, filters=["gaussian"])


@pytest.mark.parametrize("mask", [False, True])
def test_broken_pixels_of_counts_are_filled_with_counts_so_that_thinning_permits_them(mask):
    rng = np.random.default_rng(4)
    counts = rng.poisson(np.kron(rng.gamma(3.0, 3.0, (5, 11)), np.ones((8, 8)))).astype(np.float32)
    broken = np.zeros(counts.shape, bool)
    broken[2::7, 3::7] = True
    counts[broken] = 4095
    made = btn.repair(counts, "YX", defects=broken if mask else None)
    assert not (made.image % 1).any()
    np.testing.assert_array_equal(made.image[made.valid], counts[made.valid])
    shifted = btn.repair(counts + np.float32(0.25), "YX", defects=broken).image
    assert (np.abs(shifted - 0.25 - made.image)[broken] <= 0.5).all(), "the fill is their median, rounded"
    assert ((shifted[broken] - 0.25) % 1).any(), "other values are not rounded"
    detector = btn.Detector(defects=broken if mask else None)
    denoiser = tiny("thinning").fit(counts, axes="YX", detector=detector, executor=Inline())
    assert denoiser.predict(counts, "YX").covers == "thinned counts"


def test_a_methods_paragraph_names_the_fill_of_broken_pixels():
    seen, _, dark, flat = camera()
    framed = tiny().fit(seen, axes="YX", detector=btn.Detector(dark, flat), executor=Inline())
    recipe = Recipe.of(framed.model.caption)
    assert "filled with the median of their neighbours" in recipe.explain()
    assert "corrected by the dark frame and the flat frame" in recipe.explain()
    plain = replace(recipe, steps=tuple({**step, "detector": None} for step in recipe.steps))
    assert "neighbours" not in plain.explain()
