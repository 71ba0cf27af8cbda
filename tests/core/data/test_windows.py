"""Windows measured again: read at their place, found in the pair, kept away from calibration."""

from __future__ import annotations

import re

import numpy as np
import pytest

from napari_btn.core.data.image import View
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.windows import (
    _offset_in,
    boxes_of,
    join,
    places_in,
    shifted,
    window_scenes,
    windows_of,
    without_near,
)
from napari_btn.core.remeasure.regions import Region

RNG = np.random.default_rng(0)
NOISY = RNG.poisson(1.0, (2, 50, 70)).astype(np.float32)
CLEAN = RNG.normal(size=(2, 50, 70)).astype(np.float32)
NAMES = ("a", "b")
IMAGE = View(NOISY, "CYX")


def windows(*measured, image=IMAGE):
    return windows_of(measured, image, NAMES)


def measured(y, x, height=8, width=10):
    return Region(y, x, height, width), CLEAN[:, y : y + height, x : x + width]


def test_a_window_is_read_at_its_place_with_its_surroundings():
    (scene,) = window_scenes(IMAGE, windows(measured(20, 30)), NAMES, 5)
    np.testing.assert_array_equal(scene.read_noisy(0), NOISY[:, 15:33, 25:45])
    clean = scene.read_clean(0)
    np.testing.assert_array_equal(clean[:, 5:13, 5:15], CLEAN[:, 20:28, 30:40])
    assert np.isfinite(clean).all(0).sum() == 80


def test_surroundings_end_at_the_border():
    (scene,) = window_scenes(IMAGE, windows(measured(42, 0)), NAMES, 5)
    assert scene.noisy.space == (13, 15)
    np.testing.assert_array_equal(scene.read_clean(0)[:, 5:, :10], CLEAN[:, 42:, :10])


def test_the_axes_of_the_image_hold_for_what_was_measured():
    image = View(NOISY.transpose(1, 2, 0), "YXC")
    (window,) = windows(((3, 4), CLEAN[:, 3:9, 4:11].transpose(1, 2, 0)), image=image)
    np.testing.assert_array_equal(window.values, CLEAN[:, 3:9, 4:11])


def test_a_volume_has_windows_of_planes():
    volume = View(RNG.normal(size=(6, 20, 24)).astype(np.float32), "ZYX")
    place = Region(y=5, x=6, height=7, width=8, z=2, depth=1, pixel_size=(1.0, 1.0, 1.0))
    made = windows_of([(place, np.ones((1, 7, 8)))], volume, ("0",))
    assert made[0].box == (slice(2, 3), slice(5, 12), slice(6, 14))


@pytest.mark.parametrize(
    ("place", "array", "words"),
    [
        ((45, 0), CLEAN[:, :8, :8], "must lie within"),
        ((-1, 0), CLEAN[:, :8, :8], "must lie within"),
        ((0, 0, 0), CLEAN[:, :8, :8], "must lie within"),
        ((0, 0), CLEAN[:1, :8, :8], "2 channels"),
        ((0, 0), np.full((2, 4, 4), np.nan), "no pixel that is known"),
        ((0, 0), NOISY[:, :8, :8], "the noisy image itself"),
    ],
)
def test_what_does_not_fit_is_refused(place, array, words):
    with pytest.raises(ValueError, match=words):
        windows((place, array))


def test_several_scenes_are_refused():
    with pytest.raises(ValueError, match="2 scenes"):
        windows(measured(0, 0), image=View(np.stack([NOISY, NOISY]), "SCYX"))


def test_joined_scenes_keep_their_numbers_and_sizes():
    pair = Pair(np.stack([NOISY, NOISY + 1]), CLEAN, "SCYX", NAMES).scenes
    extra = window_scenes(IMAGE, windows(measured(20, 30), measured(0, 0)), NAMES, 4)
    made = join([pair, *extra])
    assert made.noisy.n_scenes == 4
    np.testing.assert_array_equal(made.read_noisy(1), NOISY + 1)
    np.testing.assert_array_equal(made.read_clean(1), CLEAN)
    boxes = boxes_of(extra, 2)
    assert [b.scene for b in boxes] == [2, 3]
    for box, one in zip(boxes, extra, strict=True):
        np.testing.assert_array_equal(made.read_clean(box.scene, box.slices), one.read_clean(0))
    assert join([pair]) is pair


def test_an_image_is_found_in_a_larger_one_by_its_pixels():
    assert _offset_in(NOISY[:, 7:40, 11:60], NOISY) == (7, 11)
    assert _offset_in(NOISY, NOISY) == (0, 0)
    changed = NOISY[:, 7:40, 11:60].copy()
    changed[0, 3, 3] += 1
    assert _offset_in(changed, NOISY) is None
    assert _offset_in(NOISY, NOISY[:, 1:]) is None


def test_an_image_is_found_although_pixels_are_unknown():
    holes = NOISY.copy()
    holes[:, 9, 15] = np.nan
    holes[0, 30, 40] = np.inf
    assert _offset_in(holes[:, 7:40, 11:60], holes) == (7, 11)
    assert _offset_in(holes, holes.copy()) == (0, 0)
    pair = Pair(holes, CLEAN, "CYX", NAMES, valid=np.isfinite(holes).all(0)).views
    found = places_in(pair, View(holes.copy(), "CYX"), windows(measured(20, 30)))
    assert found == {0: [(slice(20, 28), slice(30, 40))]}
    assert places_in(pair, pair.noisy, windows(measured(20, 30))) == found


def test_an_image_too_large_to_search_is_refused_and_not_passed_over(monkeypatch):
    monkeypatch.setattr("napari_btn.core.data.windows._SEARCHED", 1000)
    with pytest.raises(ValueError, match="too large to look for"):
        _offset_in(NOISY[:, 7:40, 11:60], NOISY)
    assert _offset_in(NOISY, NOISY.copy()) == (0, 0)


@pytest.mark.parametrize("crop", [np.s_[:, 10:, 20:], np.s_[:, :, :]])
def test_windows_are_placed_in_a_pair_that_is_part_of_their_image(crop):
    pair = Pair(NOISY[crop], CLEAN[crop], "CYX", NAMES).scenes
    place = places_in(pair, IMAGE, windows(measured(20, 30)))[0][0]
    np.testing.assert_array_equal(pair.read_clean(0, place), CLEAN[:, 20:28, 30:40])


def test_windows_are_placed_in_a_pair_that_their_image_is_part_of():
    image = View(NOISY[:, 10:, 20:], "CYX")
    pair = Pair(NOISY, CLEAN, "CYX", NAMES).scenes
    found = places_in(pair, image, windows(((5, 6), CLEAN[:, 15:20, 26:32]), image=image))
    assert found == {0: [(slice(15, 20), slice(26, 32))]}


def test_windows_of_another_field_are_nowhere():
    pair = Pair(NOISY[:, ::-1], CLEAN, "CYX", NAMES).scenes
    assert places_in(pair, IMAGE, windows(measured(20, 30))) == {}


def test_pixels_near_a_window_do_not_count():
    pair = Pair(NOISY, CLEAN, "CYX", NAMES).scenes
    left = without_near(pair, {0: [(slice(-4, 5), slice(30, 40))]}, 3)
    gone = np.isnan(left.read_clean(0)).all(0)
    wanted = np.zeros((50, 70), bool)
    wanted[:8, 27:43] = True
    np.testing.assert_array_equal(gone, wanted)
    assert without_near(pair, {0: []}, 3) is pair


def test_a_window_of_one_repeat_counts_for_all_and_a_scene_for_itself():
    place = {1: [(slice(0, 5), slice(0, 5))]}
    repeats = Pair(np.stack([NOISY, NOISY + 1]), CLEAN, "SCYX", NAMES).scenes
    assert np.isnan(without_near(repeats, place, 0).read_clean(0)[:, :5, :5]).all()
    scenes = Pair(np.stack([NOISY, NOISY + 1]), np.stack([CLEAN, CLEAN]), "SCYX", NAMES).scenes
    left = without_near(scenes, place, 0)
    assert np.isfinite(left.read_clean(0)).all()
    assert np.isnan(left.read_clean(1)[:, :5, :5]).all()


def test_a_misplaced_window_is_reported():
    import napari_btn as btn

    pair = btn.samples.edx(seed=0, size=(200, 200))
    bright = pair.clean * 300
    image = View(bright + RNG.normal(size=bright.shape).astype(np.float32), "CYX")
    for place, said in (((40, 40), 0), ((43, 38), 1)):
        made = windows_of([(place, bright[:, 40:140, 40:140])], image, pair.channel_names)
        notes = shifted(window_scenes(image, made, pair.channel_names, 16))
        assert len(notes) == said
    said = [float(v) for v in re.findall(r"[YX] ([+-][\d.]+)", notes[0].text)]
    np.testing.assert_allclose(said, (-3, 2), atol=0.75)
