"""Each way to learn without a clean image, through the user's object: from fit to bundle, tokens and refinement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import napari_btn as btn
from napari_btn.core.compute.pool import Inline
from napari_btn.core.training import processes as training

NETWORK = btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8, max_dilation=2)
TRAIN = btn.TrainSettings(steps=6, batch_size=2, patch_px=16)
BLOCKS = btn.CalibrationSettings(block_px=8)
OPTIONS = btn.SupervisionSettings(masked_pixel_percentage=25, thinnings=2)
CAMERA = btn.NoiseModel(gain=[1.0, 1.0])
WAYS = ("noise2noise", "noise2void", "thinning", "simulation")
COVERS = {
    "noise2noise": "replicate",
    "noise2void": "masked pixel",
    "thinning": "thinned counts",
    "simulation": "simulation",
}


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


def field(shape, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(3.0, 3.0, (channels, *(n // 8 + 1 for n in shape)))
    return np.kron(coarse, np.ones((1, *(8,) * len(shape))))[(slice(None), *(slice(0, n) for n in shape))]


def given(way, shape=(40, 88), seed=0):
    """Noisy, clean, axes and more that a supervision takes."""
    rng, clean = np.random.default_rng(seed), field(shape)
    space = "ZYX"[-len(shape) :]
    if way == "simulation":
        return (None, clean.astype(np.float32)), {"axes": "C" + space, "noise_model": CAMERA}
    if way == "noise2noise":
        return (rng.poisson(np.stack([clean] * 3)).astype(np.float32),), {"axes": "SC" + space}
    return (rng.poisson(clean).astype(np.float32),), {"axes": "C" + space}


def image(shape=(40, 88), seed=9):
    return np.random.default_rng(seed).poisson(field(shape)).astype(np.float32)


def tiny(way, **options):
    return btn.Denoiser(members=1, seed=1, network=NETWORK, train=TRAIN, calibration=BLOCKS, supervision=way,
                        supervision_settings=OPTIONS, **options)  # fmt: skip


def fitted(way, shape=(40, 88), **options):
    images, named = given(way, shape)
    return tiny(way, **options).fit(*images, executor=Inline(), **named)


@pytest.mark.parametrize("way", WAYS)
def test_from_fit_to_bundle(way, tmp_path):
    denoiser = fitted(way)
    assert denoiser.report.covers == COVERS[way]
    prediction = denoiser.predict(image(), "CYX")
    assert prediction.covers == COVERS[way]
    assert prediction.shown == ("median" if way == "simulation" else "mean")
    assert (prediction.lower <= prediction.upper).all()
    assert np.isfinite(prediction.mean).all()
    denoiser.save(tmp_path / "a.btn")
    again = btn.load(tmp_path / "a.btn")
    assert (again.supervision, again.supervision_settings) == (way, OPTIONS)
    other = again.predict(image(), "CYX")
    for name in ("lower", "median", "upper", "mean"):
        np.testing.assert_array_equal(getattr(prediction, name), getattr(other, name))
    assert other.covers == COVERS[way]
    again.calibrate(alpha=0.3)
    assert (again.predict(image(), "CYX").width <= prediction.width + 1e-4).all()


@pytest.mark.parametrize("way", WAYS)
def test_volumes_and_tiles(way):
    shape = (9, 20, 48)
    denoiser = fitted(way, shape, tiles=btn.TileSettings(tile_px=24))
    small = denoiser.predict(image(shape), "CZYX")
    model = replace(denoiser.model, settings=replace(denoiser.model.settings, tiles=btn.TileSettings()))
    large = btn.Denoiser.of(model).predict(image(shape), "CZYX")
    for name in ("lower", "median", "upper", "mean"):
        a, b = getattr(small, name), getattr(large, name)
        np.testing.assert_allclose(a, b, atol=1e-5 * np.ptp(b))


@pytest.mark.parametrize("way", WAYS)
def test_tokens_and_equivalent_filters_work(way):
    denoiser = fitted(way)
    tokens = denoiser.tokens(image(), 3, "CYX")
    assert tokens.labels.shape == (40, 88)
    found = denoiser.equivalent_filter(image(), (20, 40), "CYX", channel=0)
    assert np.isfinite(np.asarray(found.weights)).all()


@pytest.mark.parametrize("way", WAYS)
def test_refinement_goes_on_in_the_same_way_and_refuses_windows(way):
    denoiser = fitted(way)
    images, named = given(way)
    noisy, clean = (*images, None)[:2]
    if way == "simulation":
        with pytest.raises(ValueError, match="noisy came"):
            denoiser.refine(image(), clean, axes="CYX")
        return
    window = ((0, 0), np.ones((2, 8, 8), np.float32))
    with pytest.raises(ValueError, match="Refine without windows"):
        denoiser.refine(noisy, clean, axes=named["axes"], windows=[window])
    done = denoiser.refine(noisy, clean, axes=named["axes"], train=TRAIN, executor=Inline())
    assert done.after.covers == COVERS[way]


@pytest.mark.parametrize("way", ["noise2noise", "noise2void", "thinning"])
def test_calibration_on_other_images_of_the_same_kind(way):
    denoiser = fitted(way)
    images, named = given(way, seed=5)
    denoiser.calibrate(*images, axes=named["axes"])
    assert denoiser.report.covers == COVERS[way]
    images, named = given(way)
    with pytest.raises(ValueError, match="trained on these images"):
        denoiser.calibrate(*images, axes=named["axes"])


def test_bundles_of_pairs_without_settings_of_a_supervision_still_load():
    from napari_btn.core.settings import EnsembleSettings

    values = EnsembleSettings().to_dict()
    del values["supervision_settings"]
    assert EnsembleSettings.from_dict(values) == EnsembleSettings()


@pytest.mark.parametrize(
    ("way", "images", "named", "needed"),
    [
        ("pair", (image()[0],), {}, "Clean is missing"),
        ("noise2noise", (image()[0],), {}, "hold no repeats"),
        ("thinning", (image()[0] + 0.5,), {}, "thinning needs counts"),
        ("noise2void", (image()[0], image()[1]), {}, "A clean image came"),
        ("simulation", (None, image()[0]), {}, "no noise_model came"),
        ("noise2noise", (np.stack([image()[0]] * 2),), {"axes": "TYX"}, "same values"),
    ],
)
def test_what_the_data_do_not_permit_is_refused_before_training(way, images, named, needed):
    denoiser = tiny(way)
    for call in (denoiser.check, denoiser.fit):
        with pytest.raises(ValueError, match=needed):
            call(*images, **named)
    assert not denoiser.trained


@pytest.mark.parametrize(
    ("way", "low", "high"), [("noise2noise", 0.9, 0.9), ("noise2void", 0.9, 0.9), ("thinning", 0.9, 0.95)]
)
def test_intervals_hold_a_fresh_repeat(way, low, high):
    # untrained members do: calibration, not training, makes the coverage; a network that saw the pixel that it is
    # judged on would hold that pixel more often than a fresh one
    clean = np.kron(np.random.default_rng(0).gamma(3.0, 3.0, (12, 32)), np.ones((8, 8)))
    rng = np.random.default_rng(1)
    images = rng.poisson(np.stack([clean] * 2)).astype(np.float32)
    given, axes = (images, "TYX") if way == "noise2noise" else (images[0], "YX")
    denoiser = tiny(way, alpha=0.1).fit(given, axes=axes, executor=Inline())
    held_out = denoiser.held_out.position[:, 1:]
    part = tuple(slice(a, b + 1) for a, b in zip(held_out.min(0), held_out.max(0), strict=True))
    fresh = 2 * rng.poisson(clean / 2) if way == "thinning" else rng.poisson(clean)
    made = denoiser.predict(images[0], "YX")
    inside = ((made.lower <= fresh) & (fresh <= made.upper))[part]
    # about 8000 pixels: the standard error is 0.0034 for them, and about as much for the calibration
    assert low - 0.02 <= inside.mean() <= high + 0.02


@pytest.mark.parametrize("way", ["noise2noise", "thinning"])
def test_noisy_targets_are_no_wrong_pair(way):
    clean = 3 * np.asarray(btn.samples.edx(seed=0, size=(96, 192)).clean)[0]
    repeats = np.random.default_rng(0).poisson(np.stack([clean] * 2)).astype(np.float32)
    given, axes = (repeats, "TYX") if way == "noise2noise" else (repeats[0], "YX")
    report = tiny(way).fit(given, axes=axes, executor=Inline()).report
    assert not any("as noisy as" in note.text for note in report.warnings)


def test_the_interval_of_the_clean_signal_is_assisted_by_a_model_and_says_so():
    made = fitted("noise2noise").predict(image(), "CYX")
    inner = made.signal_interval()
    assert inner.caption.startswith("Model-assisted")
    assert (inner.upper - inner.lower <= made.width + 1e-4).all()
    assert (inner.lower <= made.mean + 1e-5).all()
    assert (made.mean <= inner.upper + 1e-5).all()
    shares = np.asarray(made.provenance["target_noise"], np.float32)
    outer = made.upper - np.minimum(made.mean, made.upper)
    np.testing.assert_allclose(
        inner.upper - made.mean, np.sqrt(1 - shares)[:, None, None] * outer, atol=1e-4 * np.ptp(made.upper)
    )
    with pytest.raises(ValueError, match="noise of the targets is unknown"):
        fitted("noise2void").predict(image(), "CYX").signal_interval()
    with pytest.raises(ValueError, match="no part of them"):
        fitted("simulation").predict(image(), "CYX").signal_interval()


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("noise2noise", "aim to cover a repeat; on simulated fields, clean images lay inside more often"),
        ("noise2void", "A repeat lies inside less often if noise is correlated"),
        ("thinning", "give twice a binomial half of its counts"),
        ("simulation", None),
    ],
)
def test_the_check_on_another_image_says_which_one_checks(way, says):
    report = btn.evaluate(fitted(way).predict(image(), "CYX"), field((40, 88)).astype(np.float32))
    assert any("aim to cover" in note.text for note in report.warnings) == (says is not None)
    assert says is None or any(says in note.text for note in report.warnings)


def test_a_frame_of_the_full_dose_lies_inside_intervals_of_thinned_counts_more_often():
    clean = np.full((96, 256), 40.0)
    rng = np.random.default_rng(1)
    counts = rng.poisson(clean).astype(np.float32)
    denoiser = tiny("thinning", alpha=0.1).fit(counts, axes="YX", executor=Inline())
    made = denoiser.predict(counts, "YX")
    whole = btn.evaluate(made, rng.poisson(clean).astype(np.float32)).coverage[0]
    half = btn.evaluate(made, 2 * rng.poisson(clean / 2).astype(np.float32)).coverage[0]
    assert half == pytest.approx(0.9, abs=0.03)
    assert whole > 0.95  # 0.98 without errors of the networks


def test_the_bundle_keeps_the_noise_model_that_it_was_trained_with(tmp_path):
    denoiser = fitted("simulation")
    denoiser.save(tmp_path / "a.btn")
    kept = btn.NoiseModel.from_dict(btn.load(tmp_path / "a.btn").provenance["noise_model"])
    np.testing.assert_array_equal(kept.gain, CAMERA.gain)
    np.testing.assert_array_equal(kept.read_sd, CAMERA.read_sd)


def test_noise2noise_that_was_calibrated_on_a_clean_image_covers_the_clean_signal():
    shape = (64, 88)
    rng, clean = np.random.default_rng(5), field(shape, seed=5).astype(np.float32)
    denoiser = fitted("noise2noise", shape)
    assert denoiser.report.covers == "replicate"
    denoiser.calibrate(rng.poisson(clean).astype(np.float32), clean, axes="CYX")
    assert denoiser.report.covers == "clean"
    assert "red" in [note.level for note in denoiser.report.warnings]
    made = denoiser.predict(image(shape), "CYX")
    assert made.covers == "clean"
    with pytest.raises(ValueError, match="the noise of the targets is no part of them"):
        made.signal_interval()
    first, second = rng.poisson(np.stack([clean] * 2)).astype(np.float32)
    denoiser.calibrate(first, second, axes="CYX")
    assert denoiser.predict(image(shape), "CYX").covers == "replicate"


@pytest.mark.parametrize("way", ["noise2noise", "noise2void", "thinning"])
def test_a_report_says_that_its_figures_are_against_noisy_values(way):
    report = fitted(way).report
    assert any("against such noisy values, not a clean image" in note.text for note in report.warnings)
    assert np.isnan(report.width_ratio).all()


def test_a_training_with_saturated_targets_says_that_their_signal_is_unknown():
    clean = field((40, 88)).astype(np.float32)
    noisy = np.random.default_rng(0).poisson(clean).astype(np.float32)
    top = float(np.quantile(clean, 0.9))
    said = []
    for saturation in (None, top):
        made = btn.Denoiser(members=1, seed=1, network=NETWORK, train=replace(TRAIN, saturation=saturation),
                            calibration=BLOCKS)  # fmt: skip
        made.fit(noisy, np.minimum(clean, top), axes="CYX", executor=Inline())
        said.append(any("saturated at" in note.text for note in made.report.warnings))
    assert said == [False, True]
