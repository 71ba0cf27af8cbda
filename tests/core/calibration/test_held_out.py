"""What the members never saw: gathered pixel by pixel, in the right blocks, with the right words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.calibration import held_out
from napari_btn.core.calibration.blocks import blocks_of, error_length
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.held_out import block_numbers, covers, fingerprint_steps, held_out_steps
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import spread_boxes
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.progress import drain
from napari_btn.core.settings import CalibrationSettings, TileSettings


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def box(*bounds, scene=0):
    return Box(scene, tuple(slice(a, b) for a, b in bounds))


def gathered(scenes, boxes, members, blueprint, *, by_scene=False, tile=None, **settings):
    steps = held_out_steps(
        scenes,
        boxes,
        members,
        blueprint,
        by_scene=by_scene,
        alpha=0.1,
        settings=CalibrationSettings(**settings),
        tiles=TileSettings(tile_px=tile),
        executor=Inline(),
        device="cpu",
    )
    while True:
        try:
            assert next(steps).note.startswith("Calibrating: ")
        except StopIteration as end:
            return end.value


# ---------------------------------------------------------------- which boxes


def test_few_pixels_are_all_taken():
    boxes = [box((0, 30), (5, 70)), box((0, 30), (5, 70), scene=1)]
    assert spread_boxes(boxes, 2) == boxes


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=4
    )
)
def test_many_pixels_are_thinned_to_disjoint_parts(drawn):
    boxes = [box((a, a + h), (a, a + w), scene=s) for s, (a, h, w) in enumerate(drawn)]
    chosen = spread_boxes(boxes, 2)
    total = sum(b.size for b in boxes)
    if total <= held_out.HELD_OUT_PIXELS:
        assert chosen == boxes
        return
    assert sum(b.size for b in chosen) <= 1.5 * held_out.HELD_OUT_PIXELS + len(boxes) * 256**2
    assert {b.scene for b in chosen} == {b.scene for b in boxes}
    for part in chosen:
        whole = boxes[part.scene]
        assert all(
            w.start <= p.start < p.stop <= w.stop for p, w in zip(part.slices, whole.slices, strict=True)
        )
    corners = [(b.scene, *(s.start for s in b.slices)) for b in chosen]
    assert len(set(corners)) == len(corners)  # cells of one grid: other corners, no overlap


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
        [(_, tiles)] = [t for t in tile_quantiles(scenes.noisy, [box((0, 37), (0, 64), scene=s)], members, blueprint)
                        if t[1] is not None]  # fmt: skip
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
    made, side = gathered(scenes, boxes, members, blueprint, by_scene=True)
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


# ---------------------------------------------------------------- what is covered


def held(residual, shape=(64, 80)):
    quantiles = np.zeros((3, 1, shape[0] * shape[1]), np.float32)
    target = np.random.default_rng(0).normal(0, residual, quantiles.shape[1:]).astype(np.float32)
    return HeldOut(quantiles, target, np.zeros(quantiles.shape[2], np.int64), (0.1, 0.5, 0.9))


@pytest.mark.parametrize(
    ("target_noise", "name", "warned"),
    [(0.0, "clean", False), (0.2, "long exposure", False), (0.6, "long exposure", True)],
)
def test_the_targets_own_noise_says_what_is_covered(target_noise, name, warned):
    smooth = ndimage.gaussian_filter(noise(0, 64, 80), 4) * 20
    clean = smooth + target_noise * noise(1, 64, 80)
    scenes = Pair(noise(2, 64, 80), clean.astype(np.float32), channel_names=("Fe",)).scenes
    word, notes = covers(scenes, [box((0, 64), (0, 80))], held(1.0))
    assert word == name
    assert bool(notes) == warned
    if warned:
        assert notes[0].level == "amber"
        assert "in Fe its noise makes 3" in notes[0].text  # 0.6 squared is 36 %


@pytest.mark.parametrize("target_noise", [0.0, 0.6])
@pytest.mark.parametrize("kept", ["few rows", "scattered"])
def test_pixels_that_do_not_count_say_nothing_of_the_targets_noise(target_noise, kept):
    smooth = ndimage.gaussian_filter(noise(0, 64, 80), 4) * 20
    clean = (smooth + target_noise * noise(1, 64, 80)).astype(np.float32)
    valid = np.zeros((64, 80), bool)
    valid[:14] = True
    if kept == "scattered":
        valid = np.random.default_rng(0).random((64, 80)) < 0.7
    scenes = Pair(noise(2, 64, 80), clean, valid=valid).scenes
    word, notes = covers(scenes, [box((0, 64), (0, 80))], held(1.0))
    assert word == ("clean" if target_noise == 0 else "long exposure")
    assert bool(notes) == (target_noise > 0)


def test_blocks_are_made_of_the_pixels_that_count(random_members):
    blueprint, members = random_members(1)
    valid = np.random.default_rng(0).random((48, 60)) < 0.002
    valid[:, :36] = True
    scenes = Pair(noise(0, 48, 60), noise(1, 48, 60), valid=valid).scenes
    settings = CalibrationSettings(block_px=12)
    made, _ = drain(
        held_out_steps(
            scenes, [box((0, 48), (0, 60))], members, blueprint, by_scene=False, alpha=0.1, settings=settings,
            tiles=TileSettings(), executor=Inline(), device="cpu",
        )
    )  # fmt: skip
    assert np.bincount(made.block).min() >= 36
    assert made.n_blocks == 12


def test_a_volume_of_few_planes_has_the_blocks_of_its_planes():
    error = ndimage.gaussian_filter(noise(3, 200, 200), 8)
    miss = np.abs(error) > 1.2 * error.std()
    flat = error_length(miss)
    assert flat > 8
    for planes in (1, 4, 16):
        assert error_length(np.repeat(miss[None], planes, 0)) == flat


# ---------------------------------------------------------------- which images


def prints(scenes):
    return drain(fingerprint_steps(scenes.noisy))


def test_a_fingerprint_knows_an_image_in_any_dress():
    values = noise(0, 2, 3, 20, 25)
    scenes = Pair(values, values + 1, "SCYX").scenes
    known = prints(scenes)
    assert len(set(known.values())) == 2
    turned = values.transpose(3, 1, 0, 2).astype(np.float64)
    assert prints(Pair(turned, turned + 1, "XCSY").scenes) == known
    alone = Pair(values[1], values[1] + 1, "CYX").scenes
    assert prints(alone)["0"] == known["1"]
    values[0, 2, 19, 24] += 1e-3
    changed = prints(Pair(values, values + 1, "SCYX").scenes)
    assert changed["0"] != known["0"]
    assert changed["1"] == known["1"]
