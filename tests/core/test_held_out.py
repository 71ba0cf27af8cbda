"""Drift is measured on rows spread over scenes and planes, whatever the size and the axes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core import held_out
from napari_btn.core.held_out import drift_notes, profile_of
from napari_btn.core.pairs import View


def noisy(seed, shape=(2, 61, 47), sd=1.0):
    rng = np.random.default_rng(seed)
    return (10 + rng.random(shape) + sd * rng.normal(size=shape)).astype(np.float32)


def test_the_calibrated_image_itself_is_no_drift_and_a_noisier_one_is():
    known = profile_of(View(noisy(0), "CYX"))
    assert drift_notes(known, View(noisy(0), "CYX"), ("Si", "Fe")) == ()
    notes = drift_notes(known, View(noisy(1, sd=2.0), "CYX"), ("Si", "Fe"))
    assert "Si (" in notes[0].text


@pytest.mark.parametrize(("shape", "axes"), [((3, 2, 61, 47), "SCYX"), ((2, 5, 61, 47), "CZYX")])
def test_scenes_and_planes_count_alike(shape, axes):
    known = profile_of(View(noisy(0), "CYX"))
    assert drift_notes(known, View(noisy(2, shape), axes), ("Si", "Fe")) == ()


def test_a_large_image_is_read_in_part(monkeypatch):
    monkeypatch.setattr(held_out, "_PROFILE_PIXELS", 4000)
    image = View(noisy(0, (2, 400, 47)), "CYX")
    assert held_out._spread_rows(image).size <= 2 * 4000
    assert drift_notes(profile_of(image), image, ("Si", "Fe")) == ()


def test_what_is_too_small_or_unknown_says_nothing():
    assert profile_of(View(np.ones((2, 2, 50), np.float32), "CYX")) is None
    assert profile_of(View(np.full((1, 20, 20), np.nan, np.float32), "CYX")) is None
    assert drift_notes(None, View(noisy(0), "CYX"), ("Si", "Fe")) == ()
