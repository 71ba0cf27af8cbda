"""What the members never saw: gathered pixel by pixel, in the right blocks, with the right words."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_btn.core.calibration import held_out
from napari_btn.core.calibration.blocks import blocks_of, error_length
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.held_out import block_numbers, held_out_steps, saturation_notes, target_noise
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.networks.family import Networks
from napari_btn.core.settings import CalibrationSettings, TileSettings
from napari_btn.core.supervision.pair import PairSupervision


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def box(*bounds, scene=0):
    return Box(scene, tuple(slice(a, b) for a, b in bounds))


def gathered(scenes, boxes, members, blueprint, *, kind="block", tile=None, **settings):
    steps = held_out_steps(
        scenes,
        boxes,
        Networks(blueprint, members),
        Compute(TileSettings(tile_px=tile), Inline()),
        kind=kind,
        alpha=0.1,
        settings=CalibrationSettings(**settings),
    )
    while True:
        try:
            assert next(steps).note.startswith("Calibrating: ")
        except StopIteration as end:
            return end.value


# ---------------------------------------------------------------- what is gathered


@pytest.mark.parametrize("tile", [None, 25])
def test_every_pixel_comes_with_its_own_prediction_target_and_place(random_members, tile):
    blueprint, members = random_members(2, channels=2, dilations=(1, 2, 1, 1))
    noisy, clean = noise(0, 3, 2, 37, 64), noise(1, 2, 37, 64)
    scenes = Pair(noisy, clean, "SCYX").scenes
    boxes = [box((0, 37), (30, 64), scene=s) for s in range(3)]
    made, side = gathered(scenes, boxes, members, blueprint, tile=tile, block_px=11)
    assert side == 11
    assert made.block.size == 3 * 37 * 34
    scene, y, x = made.position.T
    assert x.min() == 30
    assert len(np.unique(made.position, axis=0)) == made.block.size
    np.testing.assert_array_equal(made.target, clean[:, y, x])
    np.testing.assert_array_equal(made.observed, noisy[scene, :, y, x].T)
    for s in range(3):
        # the same networks on the whole image: halos reach into gap and training part
        found = tile_quantiles(
            scenes.noisy, [box((0, 37), (0, 64), scene=s)], Networks(blueprint, members), Compute()
        )
        [tiles] = [tile for _, tile in found if tile is not None]
        here = scene == s
        np.testing.assert_allclose(
            made.quantiles[:, :, here], tiles.quantiles[:, :, y[here], x[here]], atol=1e-4
        )
    # repeats of one field: a block holds the same pixels of all of them
    mask = np.zeros((1, 37, 64), bool)
    mask[0, :, 30:] = True
    np.testing.assert_array_equal(made.block, blocks_of(mask, 11)[0][y, x])


def test_scenes_are_blocks(random_members):
    blueprint, members = random_members(1)
    scenes = Pair(noise(0, 5, 20, 22), noise(1, 5, 20, 22), "SYX").scenes
    boxes = [box((0, 20), (0, 22), scene=s) for s in (1, 4)]
    made, side = gathered(scenes, boxes, members, blueprint, kind="field")
    assert side == 0
    assert made.n_blocks == 2
    np.testing.assert_array_equal(made.block, made.position[:, 0] == 4)


def test_pixels_that_do_not_count_are_left_out(random_members):
    blueprint, members = random_members(1, channels=2)
    valid = np.random.default_rng(0).random((2, 24, 40)) > 0.3
    clean = np.where(valid, noise(1, 2, 24, 40), np.nan)
    scenes = Pair(noise(0, 2, 24, 40), clean, "CYX", valid=valid).scenes
    made, _ = gathered(scenes, [box((0, 24), (10, 40))], members, blueprint)
    assert made.block.size == valid[:, :, 10:].all(0).sum()
    assert np.isfinite(made.target).all()


def test_large_scores_are_thinned_the_same_every_time(random_members, monkeypatch):
    blueprint, members = random_members(1)
    scenes = Pair(noise(0, 60, 60), noise(1, 60, 60)).scenes
    whole, _ = gathered(scenes, [box((0, 60), (0, 60))], members, blueprint)
    monkeypatch.setattr(held_out, "_STORED_VALUES", 5000)
    few, again = (gathered(scenes, [box((0, 60), (0, 60))], members, blueprint)[0] for _ in range(2))
    assert few.block.size == 1000
    np.testing.assert_array_equal(few.position, again.position)
    np.testing.assert_array_equal(
        few.target[0], whole.target[0].reshape(60, 60)[tuple(few.position[:, 1:].T)]
    )


def test_a_block_is_four_lengths_of_the_errors_and_at_least_16_px():
    def side(sigma):
        error = ndimage.gaussian_filter(noise(3, 1, 200, 240), (0, sigma, sigma))
        error /= error.std()
        scenes = Pair(noise(0, 200, 240), noise(1, 200, 240)).scenes
        limit = np.full((1, 200, 240), 1.2, np.float32)
        return block_numbers([error], [-limit], [limit], scenes, None)[0]

    assert side(0.01) == 16
    assert side(3.0) == 4 * round(side(3.0) / 4)
    assert 20 < side(3.0) < side(6.0) <= 200


# ---------------------------------------------------------------- the target's own noise


def held(residual, shape=(64, 80)):
    quantiles = np.zeros((3, 1, shape[0] * shape[1]), np.float32)
    target = np.random.default_rng(0).normal(0, residual, quantiles.shape[1:]).astype(np.float32)
    return HeldOut(quantiles, target, np.zeros(quantiles.shape[2], np.int64), (0.1, 0.5, 0.9))


def share(scenes):
    """Share of residuals of SD 1 that is noise of the target."""
    return target_noise(scenes, [box((0, 64), (0, 80))], held(1.0))


def covered(scenes):
    return PairSupervision().covers(share(scenes), scenes.channel_names)


@pytest.mark.parametrize(
    ("own", "name", "warned"),
    [(0.0, "clean", False), (0.2, "long exposure", False), (0.6, "long exposure", True)],
)
def test_the_targets_own_noise_says_what_is_covered(own, name, warned):
    smooth = ndimage.gaussian_filter(noise(0, 64, 80), 4) * 20
    clean = smooth + own * noise(1, 64, 80)
    scenes = Pair(noise(2, 64, 80), clean.astype(np.float32), channel_names=("Fe",)).scenes
    np.testing.assert_allclose(share(scenes), own**2, rtol=0.25, atol=0.01)
    word, notes = covered(scenes)
    assert word == name
    assert bool(notes) == warned
    if warned:
        assert notes[0].level == "amber"
        assert "in Fe its noise makes 3" in notes[0].text  # 0.6 squared is 36 %


def test_a_target_of_few_counts_is_not_called_clean():
    rate = 0.02 + 0.5 * np.clip(ndimage.gaussian_filter(noise(0, 64, 80), 4) * 20, 0, None)
    counts = np.random.default_rng(1).poisson(rate).astype(np.float32)
    assert np.mean(counts == 0) > 0.7
    scenes = Pair(noise(2, 64, 80), counts, channel_names=("Fe",)).scenes
    assert covered(scenes)[0] == "long exposure"
    grains = (ndimage.gaussian_filter(noise(3, 64, 80), 4) > 0.05).astype(np.float32)
    assert covered(Pair(noise(2, 64, 80), grains).scenes) == ("clean", ())


@pytest.mark.parametrize("own", [0.0, 0.6])
@pytest.mark.parametrize("kept", ["few rows", "scattered"])
def test_pixels_that_do_not_count_say_nothing_of_the_targets_noise(own, kept):
    smooth = ndimage.gaussian_filter(noise(0, 64, 80), 4) * 20
    clean = (smooth + own * noise(1, 64, 80)).astype(np.float32)
    valid = np.zeros((64, 80), bool)
    valid[:14] = True
    if kept == "scattered":
        valid = np.random.default_rng(0).random((64, 80)) < 0.7
    word, notes = covered(Pair(noise(2, 64, 80), clean, valid=valid).scenes)
    assert word == ("clean" if own == 0 else "long exposure")
    assert bool(notes) == (own > 0)


def test_of_few_pixels_nothing_is_said_of_the_targets_noise():
    valid = np.zeros((64, 80), bool)
    valid[:6, :6] = True
    assert share(Pair(noise(2, 64, 80), noise(1, 64, 80), valid=valid).scenes) is None


def test_blocks_are_made_of_the_pixels_that_count(random_members):
    blueprint, members = random_members(1)
    valid = np.random.default_rng(0).random((48, 60)) < 0.002
    valid[:, :36] = True
    scenes = Pair(noise(0, 48, 60), noise(1, 48, 60), valid=valid).scenes
    made, _ = gathered(scenes, [box((0, 48), (0, 60))], members, blueprint, block_px=12)
    assert np.bincount(made.block).min() >= 36
    assert made.n_blocks == 12


def test_a_volume_of_few_planes_has_the_blocks_of_its_planes():
    error = ndimage.gaussian_filter(noise(3, 200, 200), 8)
    miss = np.abs(error) > 1.2 * error.std()
    flat = error_length(miss)
    assert flat > 8
    for planes in (1, 4, 16):
        assert error_length(np.repeat(miss[None], planes, 0)) == flat


# ---------------------------------------------------------------- series


def test_blocks_of_a_series_hold_all_frames_and_runs_hold_whole_frames(random_members):
    blueprint, members = random_members(1)
    scenes = Pair(noise(0, 12, 40, 48), noise(1, 12, 40, 48), "TYX").scenes
    boxes = [box((0, 40), (20, 48), scene=s) for s in range(12)]
    made, side = gathered(scenes, boxes, members, blueprint, block_px=14)
    assert (side, made.blocks) == (14, "blocks of 14 px")
    places = {b: set(made.position[made.block == b, 0].tolist()) for b in range(made.n_blocks)}
    assert len(places) == 6
    assert all(frames == set(range(12)) for frames in places.values())
    whole = [box((0, 40), (0, 48), scene=s) for s in range(5, 12)]
    made, side = gathered(scenes, whole, members, blueprint, kind="run")
    # independent noise: each frame is a run
    assert (side, made.n_blocks, made.blocks) == (0, 7, "runs of 1 frame")
    np.testing.assert_array_equal(made.block, made.position[:, 0] - 5)


def test_a_block_of_a_series_is_no_smaller_than_the_way_of_its_content():
    rough = ndimage.gaussian_filter(noise(0, 64, 238), 1.5)
    for step, least in ((2, 38), (0, 16)):
        clean = np.stack([rough[:, step * t : step * t + 200] / rough.std() for t in range(20)])
        scenes = Pair(clean + noise(1, 20, 64, 200), clean, "TYX").scenes
        errors, limit = [noise(s, 1, 64, 200) for s in range(20)], np.full((1, 64, 200), 1.6, np.float32)
        side, block = block_numbers(errors, [-limit] * 20, [limit] * 20, scenes, None)
        # errors of one pixel would be 16 px; content that moves 38 px is in no more than two blocks of 38 px
        assert abs(side - least) <= 1
        assert (block == block[0]).all()


def test_runs_are_as_long_as_errors_last(random_members):
    blueprint, members = random_members(1)
    clean = ndimage.gaussian_filter(noise(1, 120, 24, 24), (3, 0, 0)) * 20
    scenes = Pair(noise(0, 120, 24, 24), clean, "TYX").scenes
    boxes = [box((0, 24), (0, 24), scene=s) for s in range(20, 120)]
    made, _ = gathered(scenes, boxes, members, blueprint, kind="run")
    length = int(made.blocks.split()[2])
    assert 16 <= length <= 40
    runs = np.bincount(made.block) / 24**2
    assert made.n_blocks == 100 // length
    # the rest of the frames joins the last run
    assert (runs[:-1] == length).all()
    assert length <= runs[-1] < 2 * length


def test_frames_of_a_scene_are_one_field(random_members):
    blueprint, members = random_members(1)
    scenes = Pair(noise(0, 4, 3, 20, 22), noise(1, 4, 3, 20, 22), "STYX").scenes
    boxes = [box((0, 20), (0, 22), scene=s) for s in (0, 1, 2, 9, 10, 11)]
    made, _ = gathered(scenes, boxes, members, blueprint, kind="field")
    assert (made.n_blocks, made.blocks) == (2, "fields")
    np.testing.assert_array_equal(made.block, made.position[:, 0] // 9)


def test_saturated_targets_are_named_where_the_detector_is_known_to_saturate():
    rng = np.random.default_rng(0)
    target = np.minimum(rng.normal(0, 1, (2, 4000)), [[9.0], [1.0]]).astype(np.float32)
    scores = HeldOut(
        np.stack([target - 1, target, target + 1]), target, np.arange(4000) // 100, (0.1, 0.5, 0.9)
    )
    (note,) = saturation_notes(scores, 1.0, ("Si", "Fe"))
    share = 100 * float((target[1] >= 1).mean())
    assert f"{share:.2g} % of the held-out targets of Fe are saturated at 1." in note.text
    assert note.level == "amber"
    assert not saturation_notes(scores, 5.0, ("Si", "Fe"))
    assert not saturation_notes(scores, None, ("Si", "Fe"))
