"""A new image is distinguished from the calibrated one by its noise and brightness, not by its content."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn import samples
from napari_btn.core.calibration.drift import Profile, _check_drift, parts_notes, profile
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import split
from napari_btn.core.settings import CalibrationSettings


def scene(seed, shape=(96, 130), channels=2):
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(channels, *shape)), (0, *([5] * len(shape))))
    return 20 * np.exp(field / field.std() / 2)


def poisson(clean, seed, dose=1.0):
    return np.random.default_rng(seed).poisson(dose * clean) / dose


def test_another_scene_at_the_same_dose_is_no_drift():
    known = profile(poisson(scene(0), 1))
    for seed in range(5):
        drift = _check_drift(known, poisson(scene(10 + seed), seed))
        assert drift.notes == ()
        np.testing.assert_allclose(drift.noise_ratio, 1, atol=0.08)


def test_noise_level_is_compared_at_equal_brightness():
    known = profile(poisson(scene(0), 1))
    # Four times the dose halves the noise; twice the signal at the same gain changes nothing.
    finer = _check_drift(known, poisson(scene(3), 2, dose=4), channel_names=("Si", "Fe"))
    np.testing.assert_allclose(finer.noise_ratio, 0.5, atol=0.06)
    assert finer.notes[0].level == "amber"
    assert "Si (0.5" in finer.notes[0].text
    brighter = _check_drift(known, poisson(1.3 * scene(3), 2))
    np.testing.assert_allclose(brighter.noise_ratio, 1, atol=0.08)


def test_unknown_brightness_is_amber_then_red():
    known = profile(poisson(scene(0), 1))
    image = poisson(scene(3), 2)
    for share, level in ((0.05, "amber"), (0.3, "red")):
        changed = image.copy()
        changed[0, : int(share * image.shape[1])] += 500
        drift = _check_drift(known, changed)
        assert [note.level for note in drift.notes] == [level]
        assert "of 0 are" in drift.notes[0].text
        assert drift.outside[0] == pytest.approx(share, abs=0.03)


def test_json_keeps_the_profile_and_invalid_pixels_do_not_count():
    image = poisson(scene(0, shape=(5, 33, 47)), 1)
    image[:, 2, 10:20, 10:20] = np.nan
    known = profile(image)
    again = Profile.from_dict(json.loads(json.dumps(known.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.noise, known.noise)
    drift = _check_drift(again, image)
    assert drift.notes == ()
    np.testing.assert_allclose(drift.noise_ratio, 1)


def test_bad_images_are_refused():
    known = profile(poisson(scene(0), 1))
    with pytest.raises(ValueError, match="Pick the same channels"):
        _check_drift(known, poisson(scene(0, channels=1), 1))
    with pytest.raises(ValueError, match="larger image"):
        _check_drift(known, np.zeros((2, 2, 9)))


# ---------------------------------------------------------------- the parts of one field


GRADIENTS = {
    "counts times the gradient": lambda rng, rates, dose: rng.poisson(rates) * dose,
    "counts at a rising dose": lambda rng, rates, dose: rng.poisson(rates * dose),
    "rates from a rising dose": lambda rng, rates, dose: rng.poisson(rates * dose) / dose,
}


def parts_of(seed, counts, **calibration):
    pair = samples.edx(seed=seed, size=(160, 320))
    rates = pair.clean * np.array([2, 2, 0.33])[:, None, None]
    noisy = (
        pair.noisy if counts is None else counts(np.random.default_rng(seed), rates, np.linspace(1, 4, 320))
    )
    scenes = Pair(np.asarray(noisy, np.float32), pair.clean, "CYX", pair.channel_names).views
    settings = CalibrationSettings(**calibration)
    return parts_notes(scenes, split(scenes, 20, settings, seed=0), settings.split)


@pytest.mark.parametrize("seed", range(4))
def test_a_gradient_of_the_dose_is_seen_and_its_absence_too(seed):
    assert parts_of(seed, None) == ()
    for counts in GRADIENTS.values():
        (note,) = parts_of(seed, counts)
        assert note.level == "amber"
        assert 'Use split="checkerboard"' in note.text
        assert not any("checkerboard" in n.text for n in parts_of(seed, counts, split="checkerboard"))


def test_fields_drawn_at_random_are_not_compared():
    rng = np.random.default_rng(0)
    clean = rng.gamma(3, size=(6, 40, 50))
    noisy = rng.poisson(clean * np.arange(1, 7)[:, None, None])
    scenes = Pair(noisy, clean, "SYX").views
    assert parts_notes(scenes, split(scenes, 4, CalibrationSettings(), seed=0), "auto") == ()


def test_painted_parts_are_compared_within_what_is_painted():
    rng = np.random.default_rng(0)
    clean = scene(0, (96, 200), 1)[0]
    painted = np.zeros((96, 200), int)
    painted[:, :80], painted[:40, 110:] = 1, 2
    noisy = rng.poisson(clean).astype(float)
    scenes = Pair(noisy, clean, "YX").views
    parts = split(scenes, 10, CalibrationSettings(), seed=0, regions=painted)
    assert parts_notes(scenes, parts, "auto") == ()
    noisy[painted == 2] *= 2
    (note,) = parts_notes(scenes, parts, "auto")
    assert "checkerboard" not in note.text
