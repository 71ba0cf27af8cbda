"""Repeats as targets of each other: who teaches whom, and which images won't do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import drain
from napari_btn.core.settings import CalibrationSettings, SupervisionSettings, TrainSettings
from napari_btn.core.supervision.noise2noise import NOISE2NOISE

TRAIN = TrainSettings(steps=10_000, batch_size=4, patch_px=16)


def repeats(count, shape=(40, 56), *, seed=0, step=0):
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(2.0, 5.0, [n // 8 + 1 + count * step for n in shape])
    field = np.kron(coarse, np.ones((8, 8)))
    cut = [field[i * step : shape[0] + i * step, : shape[1]] for i in range(count)]
    return rng.poisson(np.stack(cut)).astype(np.float32)


@pytest.mark.parametrize("axes", ["SYX", "TYX"])
def test_each_repeat_has_the_next_one_as_target(axes):
    noisy = repeats(3)
    scenes = NOISE2NOISE.scenes(Pair(noisy, axes=axes))
    drain(scenes.check_steps())
    box = (slice(3, 20), slice(5, 31))
    for scene in range(3):
        np.testing.assert_array_equal(scenes.read_noisy(scene, box)[0], noisy[scene][box])
        np.testing.assert_array_equal(scenes.read_clean(scene, box)[0], noisy[(scene + 1) % 3][box])
    assert scenes.one_field
    parts = NOISE2NOISE.split(scenes, 4, CalibrationSettings(), seed=0)
    places = {(b.slices[0].start, b.slices[1].start) for b in parts.train}
    assert len(places) == 1, "all repeats are split alike, in space"
    with pytest.raises(ValueError, match="each other's targets"):
        NOISE2NOISE.split(scenes, 4, CalibrationSettings(split="time"), seed=0)


def test_of_scenes_with_repeats_only_repeats_of_the_same_scene_meet():
    noisy = np.stack([repeats(3, seed=1), repeats(3, seed=2)])
    pair = Pair(noisy, axes="STYX")
    with pytest.raises(ValueError, match="both S and T"):
        NOISE2NOISE.scenes(pair)
    along_t = NOISE2NOISE.scenes(pair, SupervisionSettings(repeats="t"))
    np.testing.assert_array_equal(along_t.read_clean(5)[0], noisy[1, 0])
    assert along_t.n_fields == 2
    along_s = NOISE2NOISE.scenes(pair, SupervisionSettings(repeats="s"))
    np.testing.assert_array_equal(along_s.read_clean(5)[0], noisy[0, 2])


def test_targets_are_drawn_among_all_other_repeats_and_never_the_input_itself():
    noisy = repeats(4)
    scenes = NOISE2NOISE.scenes(Pair(noisy, axes="SYX"))
    settings, lesson = drain(NOISE2NOISE.lesson_steps(scenes, scenes.whole(), TRAIN))
    assert settings.steps < TRAIN.steps
    rng, box, seen = np.random.default_rng(0), (slice(0, 16), slice(0, 16)), set()
    for _ in range(60):
        given = (scenes.read_noisy(1, box), scenes.read_clean(1, box))
        x, y = lesson.example(1, box, given, rng)
        np.testing.assert_array_equal(x[0], noisy[1][box])
        (found,) = [i for i in range(4) if np.abs(y[0] - noisy[i][box]).max() <= 0.5]
        seen.add(found)
    assert seen == {0, 2, 3}


def test_pixels_that_count_in_one_repeat_alone_have_no_target():
    noisy = repeats(3)
    noisy[2, 4, 6] = np.nan
    scenes = NOISE2NOISE.scenes(Pair(noisy, axes="SYX", valid="finite"))
    drain(scenes.check_steps())
    unknown = [bool(np.isnan(scenes.read_clean(s)[0, 4, 6])) for s in range(3)]
    assert unknown == [False, True, True]


def test_one_image_is_refused_with_what_to_do_instead():
    for noisy, axes in ((repeats(1)[0], "YX"), (repeats(1), "SYX")):
        with pytest.raises(ValueError, match=r"hold no repeats .*\"thinning\".*\"noise2void\""):
            NOISE2NOISE.scenes(Pair(noisy, axes=axes))
    with pytest.raises(ValueError, match="no repeats along T"):
        NOISE2NOISE.scenes(Pair(repeats(2), axes="SYX"), SupervisionSettings(repeats="t"))


def test_copies_are_refused_and_drift_and_change_are_noted():
    still = repeats(3, (64, 72))
    assert not drain(NOISE2NOISE.check_steps(NOISE2NOISE.scenes(Pair(still, axes="TYX"))))
    copies = np.stack([still[0], still[0]])
    with pytest.raises(ValueError, match="same values"):
        drain(NOISE2NOISE.check_steps(NOISE2NOISE.scenes(Pair(copies, axes="TYX"))))
    drifting = repeats(3, (64, 72), step=2)
    (note,) = drain(NOISE2NOISE.check_steps(NOISE2NOISE.scenes(Pair(drifting, axes="TYX"))))
    assert note.level == "amber"
    assert "drift" in note.text
    fading = still * np.array([1, 1, 0.5], np.float32)[:, None, None]
    (note,) = drain(NOISE2NOISE.check_steps(NOISE2NOISE.scenes(Pair(fading, axes="TYX"))))
    assert "changes" in note.text


def test_a_second_image_is_a_target_as_a_clean_one_would_be():
    first, second = repeats(2)
    scenes = NOISE2NOISE.scenes(Pair(first, second))
    np.testing.assert_array_equal(scenes.read_clean(0)[0], second)
    drain(scenes.check_steps())
    assert not drain(NOISE2NOISE.check_steps(scenes))


@pytest.mark.parametrize(
    ("longer", "level", "says"),
    [
        (1.0, None, ""),
        (20.0, "red", "aim to cover images like the second, and hold"),
        (0.2, "amber", "repeat of the first more often"),
    ],
)
def test_a_second_image_of_other_noise_is_no_repeat_and_noted(longer, level, says):
    rng = np.random.default_rng(0)
    clean = gaussian_filter(4 * np.kron(rng.gamma(3.0, 1.0, (12, 16)), np.ones((8, 8))), 1.5)
    first, second = rng.poisson(clean), rng.poisson(longer * clean) / longer
    scenes = NOISE2NOISE.scenes(Pair(first.astype(np.float32), second.astype(np.float32)))
    notes = drain(NOISE2NOISE.check_steps(scenes))
    assert [note.level for note in notes] == ([] if level is None else [level])
    assert all(says in note.text for note in notes)


def test_intervals_cover_a_replicate_and_the_noise_is_half_the_difference():
    covers, (note,) = NOISE2NOISE.covers(None, ("0",))
    assert covers == "replicate"
    assert "another repeat, with noise like that of the targets" in note.text
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 2, (2, 1, 20_000))
    # the standard error of a variance is 1 % of it here
    assert NOISE2NOISE.noise_variance(a, b)[0] == pytest.approx(4, rel=0.04)
    assert NOISE2NOISE.noise_variance(a, 3 * b) is None


@pytest.mark.parametrize(("longer", "noise", "covers"), [
    (1.0, 0.9, "replicate"), (0.2, 0.9, "replicate"), (20.0, 0.4, "long exposure"), (np.inf, 0.001, "clean"),
])  # fmt: skip
def test_what_intervals_cover_follows_from_the_noise_of_the_second_image(longer, noise, covers):
    rng = np.random.default_rng(0)
    clean = gaussian_filter(4 * np.kron(rng.gamma(3.0, 1.0, (12, 16)), np.ones((8, 8))), 1.5)
    second = clean if longer == np.inf else rng.poisson(longer * clean) / longer
    scenes = NOISE2NOISE.scenes(Pair(rng.poisson(clean).astype(np.float32), second.astype(np.float32)))
    found, (note,) = NOISE2NOISE.covers(np.array([noise]), ("0",), scenes)
    assert found == covers
    assert ("aim to cover another repeat" in note.text) == (covers == "replicate")
    assert ("hold a repeat of the first less often" in note.text) == (covers != "replicate")


@pytest.mark.parametrize("size", [(24, 24), (96, 128)])
def test_a_clean_second_image_is_found_in_small_images_and_repeats_are_never_taken_for_one(size):
    rng = np.random.default_rng(1)
    clean = gaussian_filter(rng.gamma(3.0, 4.0, size), 2).astype(np.float32)
    noisy = rng.poisson(clean).astype(np.float32)
    scenes = NOISE2NOISE.scenes(Pair(noisy, clean))
    assert NOISE2NOISE.covers(np.array([0.001]), ("0",), scenes)[0] == "clean"
    assert (
        NOISE2NOISE.covers(None, ("0",), NOISE2NOISE.scenes(Pair(repeats(3), axes="SYX")))[0] == "replicate"
    )
