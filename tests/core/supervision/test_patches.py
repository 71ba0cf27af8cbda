"""Patches and batches chosen from the image: what the presets were measured with, and what odd images get."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import napari_btn as btn
from napari_btn import samples
from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import split
from napari_btn.core.networks.family import Blueprint
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.networks.sms.graph import draw_dilations
from napari_btn.core.settings import (
    PRESETS,
    CalibrationSettings,
    EnsembleSettings,
    NetworkSettings,
    TrainSettings,
)
from napari_btn.core.supervision.patches import Lesson, patch_sides, patches_for, step_bytes
from napari_btn.core.training.plan import plan_training


def blueprint(ndim=2, channels=1, levels=7, **network):
    settings = NetworkSettings(**network)
    dilations = draw_dilations(settings, ndim=ndim)
    return Blueprint(settings, Schedule(dilations), channels, channels, ndim, (0.5,) * levels, 0)


def boxes(*shape, count=1):
    return [Box(i, tuple(slice(0, n) for n in shape)) for i in range(count)]


def chosen(train, network, parts):
    """Patches of a step and their sides."""
    count, side = patches_for(train, network, parts).patches
    return count, patch_sides(side, parts)


def planned(pair, preset):
    """What a preset takes for the training part of a pair."""
    settings = EnsembleSettings(preset, train=PRESETS[preset])
    plan = plan_training(pair.scenes, settings)
    return chosen(settings.train, plan.blueprint, plan.split.train)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_take_what_their_figures_were_measured_with(preset):
    """4 patches of 64 x 64 px, or 2 of 32 x 32 x 32."""
    assert planned(samples.blobs(seed=0, n=20), preset) == (4, (64, 64))
    # the size of the real element maps
    assert planned(samples.edx(seed=0, size=(238, 597)), preset) == (4, (64, 64))
    assert planned(samples.xct(seed=0, size=(64, 96, 96)), preset) == (2, (32, 32, 32))


def test_patches_grow_with_what_networks_see():
    """A patch should hold pixels that see what they see in an image."""
    train, parts = TrainSettings(), boxes(500, 700)
    sides = []
    for top in (1, 4, 8, 10, 16, 30, 64):
        network = blueprint(dilations=(top,) * 8, depth=8)
        count, (side, other) = chosen(train, network, parts)
        assert side == other
        assert side == 128 or side >= network.receptive_field * 4 / 3
        assert 2 <= count <= 4
        assert count * side**2 <= 2 * 128**2
        sides.append(side)
    assert sides == sorted(sides)
    assert (sides[0], sides[-1]) == (64, 128)
    deep = blueprint(ndim=3, dilations=(4,) * 12, depth=12)
    assert chosen(train, deep, boxes(90, 90, 90)) == (1, (48, 48, 48))


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((61, 47), 1, (4, (61, 47))),  # small: more patches would take steps away
        ((33, 31), 200, (16, (33, 31))),  # many small scenes: as many pixels a step as ever
        ((21, 900), 1, (4, (21, 64))),  # long, and too few pixels
        ((40, 40_000), 1, (6, (40, 64))),  # long
        ((5, 64, 64), 1, (2, (5, 32, 32))),  # a few planes
        ((5, 2000, 2000), 1, (13, (5, 32, 32))),  # few, but large ones
    ],
)
def test_narrow_images_get_more_patches_where_they_have_the_pixels(shape, count, expected):
    assert chosen(TrainSettings(), blueprint(len(shape)), boxes(*shape, count=count)) == expected


def test_many_channels_take_fewer_patches_at_a_time():
    parts = boxes(64, 64, 64)
    counts = [chosen(TrainSettings(), blueprint(3, channels), parts)[0] for channels in (1, 8, 40, 400)]
    assert counts == [2, 2, 1, 1]
    for channels, count in zip((8, 40), counts[1:], strict=False):
        assert step_bytes(blueprint(3, channels), count * 32**3) <= 2**29


@given(
    st.lists(st.integers(4, 300), min_size=2, max_size=3),
    st.integers(1, 40),
    st.integers(1, 3000),
    st.integers(1, 30),
)
def test_every_image_gets_patches_that_fit(shape, count, steps, depth):
    parts = boxes(*shape, count=count)
    train = TrainSettings(steps=steps)
    number, sides = chosen(train, blueprint(len(shape), depth=depth), parts)
    assert 1 <= number <= 16
    assert all(side <= n for side, n in zip(sides, shape, strict=True))
    usual = {2: 4, 3: 2}[len(shape)]
    if number > usual:
        shown = number * math.prod(sides) * steps
        assert shown <= train.passes * sum(box.size for box in parts)


def test_what_is_asked_for_stays():
    parts = boxes(200, 300)
    assert patches_for(TrainSettings(patch_px=20, batch_size=9), blueprint(), parts).patches == (9, 20)
    assert patches_for(TrainSettings(batch_size=9), blueprint(), parts).patches == (9, 64)
    assert patches_for(TrainSettings(patch_px=128), blueprint(), parts).patches == (2, 128)
    assert patches_for(TrainSettings(patch_px=20), blueprint(), parts).patches == (4, 20)
    # steps on volumes stay affordable
    volume = TrainSettings(batch_size=8, patch_px=64)
    assert patches_for(volume, blueprint(3), boxes(90, 90, 90)).patches == (2, 32)
    assert patches_for(TrainSettings(patch_px=16), blueprint(3), boxes(90, 90, 90)).patches[1] == 16


def test_open_settings_say_who_closes_them():
    with pytest.raises(ValueError, match="patches_for"):
        _ = TrainSettings(patch_px=32).patches
    with pytest.raises(ValueError, match="patch_px is 2; it must be 4 or more, or None"):
        TrainSettings(patch_px=2)


def test_patches_are_shown_and_kept_in_the_bundle(tmp_path):
    rng = np.random.default_rng(0)
    clean = np.cumsum(rng.normal(size=(96, 150)), axis=1).astype(np.float32)
    pair = Pair((clean + rng.normal(size=clean.shape))[None].astype(np.float32), clean[None], "CYX", ("a",))
    denoiser = btn.Denoiser(members=1, network=NetworkSettings(depth=2), train=TrainSettings(steps=2))
    steps = denoiser.fit_steps(pair.noisy, pair.clean, axes="CYX")
    notes = [progress.note for progress in steps]
    assert "Each step learns from 4 patches of 64 x 64 px" in notes
    denoiser.save(tmp_path / "a.btn")
    known = btn.load(tmp_path / "a.btn")
    assert known.provenance["patches"] == {"count": 4, "sides_px": [64, 64]}
    assert known.train == denoiser.train
    assert known.train.patch_px is None


# ---------------------------------------------------------------- drawn from a lesson


def image(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lesson_of(scenes):
    return Lesson(scenes, tuple(scenes.whole()))


@pytest.mark.parametrize(("shape", "axes"), [((3, 2, 30, 41), "SCYX"), ((2, 17, 33, 21), "CZYX")])
def test_patches_come_from_the_boxes_turned_alike(shape, axes):
    noisy = np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    clean = noisy * 2 + 1
    scenes = Pair(noisy, clean, axes).scenes
    parts = split(scenes, 2, CalibrationSettings(), seed=0)
    lesson = Lesson(scenes, tuple(parts.train))
    x, y = lesson.draw(40, 9, np.random.default_rng(0), augment=True)
    assert x.shape == (40, 2, *(9,) * scenes.noisy.ndim)
    np.testing.assert_array_equal(y, 2 * x + 1)
    allowed = np.concatenate([scenes.noisy.read(b.scene, b.slices).ravel() for b in parts.train])
    assert np.isin(x, allowed).all()
    # some are flipped and some turned: steps along the last axis are +-1, or +-(row)
    steps = {float(patch[0].ravel()[1] - patch[0].ravel()[0]) for patch in x}
    assert steps == {1.0, -1.0, float(shape[-1]), -float(shape[-1])}


def test_patches_shrink_to_small_boxes_and_keep_one_shape():
    scenes = Pair(image(0, 4, 30, 11), image(1, 4, 30, 11), "SYX").scenes
    x, _ = lesson_of(scenes).draw(6, 64, np.random.default_rng(0), augment=True)
    assert x.shape == (6, 1, 30, 11)


def test_without_augmentation_patches_are_crops():
    noisy = np.arange(900.0).reshape(30, 30)
    scenes = Pair(noisy, noisy + 1).scenes
    x, _ = lesson_of(scenes).draw(9, 5, np.random.default_rng(0))
    for patch in x[:, 0]:
        row, column = divmod(int(patch[0, 0]), 30)
        np.testing.assert_array_equal(patch, noisy[row : row + 5, column : column + 5])


def test_every_patch_holds_a_counted_pixel():
    valid = np.zeros((60, 60), bool)
    valid[50:, 50:] = True
    scenes = Pair(image(0, 60, 60), image(1, 60, 60), valid=valid).scenes
    _, y = lesson_of(scenes).draw(30, 16, np.random.default_rng(0), augment=True)
    assert np.isfinite(y).any(axis=(1, 2, 3)).all()


def test_patches_may_come_from_other_boxes_and_draw_the_same_again():
    noisy = np.arange(900.0).reshape(30, 30)
    scenes = Pair(noisy, noisy + 1).scenes
    lesson = Lesson(scenes, (Box(0, (slice(0, 30), slice(0, 12))),))
    other = (Box(0, (slice(0, 30), slice(20, 30))),)
    x, y = lesson.draw(7, 5, np.random.default_rng(0), boxes=other)
    assert (x % 30 >= 20).all()
    assert (lesson.draw(7, 5, np.random.default_rng(0))[0] % 30 < 12).all()
    for a, b in zip((x, y), lesson.draw(7, 5, np.random.default_rng(0), boxes=other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_augmented_patches_are_made_by_the_redraw():
    scenes = Pair(image(0, 20, 24), image(1, 20, 24)).scenes
    asked = []

    def redraw(box, crop, patch, rng):
        asked.append((box, tuple(s.stop - s.start for s in crop)))
        return patch[0] * 0, patch[1]

    lesson = Lesson(scenes, tuple(scenes.whole()), redraw=redraw)
    x, _ = lesson.draw(3, 6, np.random.default_rng(0))
    assert not asked
    assert x.any()
    x, y = lesson.draw(3, 6, np.random.default_rng(0), augment=True)
    assert asked == [(0, (6, 6))] * 3
    assert not x.any()
    assert y.any()
