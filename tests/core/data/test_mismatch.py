"""Wrong pairs get a note, right ones none."""

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.core.data import noise
from napari_btn.core.data.mismatch import match_of, mismatch_notes, same_field_notes
from napari_btn.core.data.pairs import Pair
from napari_btn.core.settings import CalibrationSettings
from napari_btn.core.supervision.pair import PAIR


def _fields():
    """Return clean images with a function that draws a noisy frame, in 2D and 3D, one and several channels."""
    blobs = samples.blobs(seed=3, n=6)
    edx = samples.edx(seed=3, size=(97, 150))
    xct = samples.xct(seed=3, size=(17, 65, 90))
    dose = np.array([2.0, 2.0, 0.33])[:, None, None]
    return {
        "SYX": (blobs, lambda seed: noise.skewed(blobs.clean, rng=np.random.default_rng(seed))),
        "CYX": (edx, lambda seed: noise.poisson(edx.clean, rng=np.random.default_rng(seed), dose=dose)),
        "ZYX": (xct, lambda seed: noise.readout(xct.clean, rng=np.random.default_rng(seed), sd=0.2)),
    }


@pytest.fixture(scope="module", params=["SYX", "CYX", "ZYX"])
def field(request):
    pair, draw = _fields()[request.param]
    return pair, draw, request.param


@pytest.mark.parametrize("moved", [0, 3])
def test_wrong_pairs_are_named(field, moved):
    pair, draw, axes = field
    clean, noisy = pair.clean, draw(1)
    other = np.rot90(clean, 2, (-2, -1))
    alone = np.random.default_rng(5).normal(1, 0.3, clean.shape).astype(np.float32)
    mean = np.mean([noisy, *(draw(10 + i) for i in range(7))], axis=0)
    wrong = {
        "swapped": (clean, noisy),
        "like another noisy frame": (noisy, draw(2)),
        "no more alike than chance": (noisy, alone),
        "repeats that contains this one": (noisy, mean),
        "they show different fields": (noisy, other),
    }
    for words, (x, y) in wrong.items():
        (note,) = mismatch_notes(Pair(x, np.roll(y, moved, -1), axes).views)
        assert note.level == "red"
        assert words in note.text


def test_right_pairs_get_no_note(field):
    pair, draw, axes = field
    assert mismatch_notes(pair.views) == ()
    mean_of_others = np.mean([draw(10 + i) for i in range(8)], axis=0)
    assert mismatch_notes(Pair(draw(1), mean_of_others, axes).views) == ()


def test_share_of_a_repeat_in_the_mean():
    # the shared noise of 4 repeats is 1/4; it is estimated from a quarter of 256 blocks of 256 px
    pair = samples.blobs(seed=1, n=16, size=64)
    draws = [noise.skewed(pair.clean, rng=np.random.default_rng(s)) for s in range(4)]
    match = match_of(Pair(draws[0], np.mean(draws, axis=0), "SYX").views)
    assert match.shared == pytest.approx(0.25, abs=0.05)
    assert match.aligned


@pytest.mark.parametrize("dose", [0.1, 0.4])
def test_a_repeat_is_found_in_the_mean_of_sparse_counts(dose):
    # most of the field is empty, and counts are so few that the images seem to lie a pixel apart
    y, x = np.mgrid[:256, :256]
    rate = dose * ((x > y + 60) + 0.5 * (np.hypot(y - 200, x - 90) < 12) + 0.002)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        repeats = rng.poisson(rate, (14, 256, 256)).astype(np.float32)
        for count in (2, 4, 8, 14):
            (note,) = mismatch_notes(Pair(repeats[0], repeats[:count].mean(0), "YX").views)
            assert "repeats that contains this one" in note.text
        assert mismatch_notes(Pair(repeats[0], repeats[1:].mean(0), "YX").views) == ()


def test_masked_pixels_do_not_count():
    pair = samples.edx(seed=0, size=(96, 128))
    clean = pair.clean.copy()
    clean[:, 20:40, 30:60] = np.nan
    right = Pair(pair.noisy, clean, "CYX", valid="finite")
    assert mismatch_notes(right.views) == ()


def test_small_images_are_left_alone():
    pair = samples.blobs(seed=0, n=2, size=16)
    assert match_of(pair.views) is None


def test_plan_says_it_first():
    pair = samples.blobs(seed=0, n=12)
    parts = PAIR.split(Pair(pair.clean, pair.noisy, "SYX").views, 8, CalibrationSettings(), seed=0)
    assert "swapped" in parts.notes[0].text


def _several(make, count=5):
    """Return noisy and clean scenes of different fields."""
    pairs = [make(20 + k) for k in range(count)]
    return np.stack([p.noisy for p in pairs]), np.stack([p.clean for p in pairs])


@pytest.mark.parametrize(
    ("make", "axes"),
    [
        (lambda seed: samples.edx(seed=seed, size=(97, 130)), "SCYX"),
        (lambda seed: samples.lattice(seed=seed, size=(96, 128)), "SYX"),
        (lambda seed: samples.xct(seed=seed, size=(9, 65, 70)), "SZYX"),
    ],
)
def test_different_fields_get_no_note_and_neighbouring_frames_called_scenes_do(make, axes):
    noisy, clean = _several(make)
    assert same_field_notes(Pair(noisy, clean, axes).views) == ()
    # a field that moves by 2 px from scene to scene
    drifting = np.stack([np.roll(clean[0], 2 * k, -1) for k in range(5)])
    drawn = drifting + np.random.default_rng(1).normal(0, 0.2, drifting.shape).astype(np.float32)
    (note,) = same_field_notes(Pair(drawn, drifting, axes).views)
    assert note.level == "amber"
    assert "name its axes with T" in note.text
    assert same_field_notes(Pair(drawn, drifting, axes.replace("S", "T")).views) == ()


def test_a_training_on_frames_called_scenes_says_so():
    movie = samples.movie(0, 6, (64, 96))
    parts = PAIR.split(Pair(movie.noisy, movie.clean, "SYX").views, 4, CalibrationSettings(), seed=0)
    assert any("look like one field" in note.text for note in parts.notes)
