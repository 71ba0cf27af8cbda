"""Tiles cover an image once, and give it back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.inference.tiles import plan_tiles, tile_strides

SHAPES = st.lists(st.integers(1, 23), min_size=1, max_size=3)


@st.composite
def cases(draw):
    shape = draw(SHAPES)
    halo = draw(st.one_of(st.integers(0, 9), st.tuples(*(st.integers(0, 9) for _ in shape))))
    tile = draw(st.one_of(st.integers(1, 30), st.tuples(*(st.integers(1, 30) for _ in shape))))
    return tuple(shape), tile, halo


@given(cases())
def test_stitch_of_cut_is_the_identity(case):
    shape, tile, halo = case
    image = np.arange(np.prod(shape), dtype=float).reshape(shape)
    result = np.full(shape, np.nan)
    times = np.zeros(shape, int)
    for t in plan_tiles(shape, tile, halo):
        result[t.write] = image[t.read][t.keep]
        times[t.write] += 1
    np.testing.assert_array_equal(result, image)
    assert (times == 1).all()


@given(cases())
def test_every_kept_pixel_sees_its_whole_halo(case):
    shape, tile, halo = case
    halos = (halo,) * len(shape) if isinstance(halo, int) else halo
    for t in plan_tiles(shape, tile, halo):
        for n, h, read, write in zip(shape, halos, t.read, t.write, strict=True):
            assert read.start == max(write.start - h, 0)
            assert read.stop == min(write.stop + h, n)


@given(cases())
def test_tiles_are_no_larger_than_asked(case):
    shape, tile, halo = case
    halos = (halo,) * len(shape) if isinstance(halo, int) else halo
    tiles = (tile,) * len(shape) if isinstance(tile, int) else tile
    for t in plan_tiles(shape, tile, halo):
        for read, h, side in zip(t.read, halos, tiles, strict=True):
            assert read.stop - read.start <= max(side, 2 * h + 1)


@given(cases(), st.integers(1, 5))
def test_aligned_tiles_read_multiples_or_to_the_border(case, alignment):
    shape, tile, halo = case
    halos = (halo,) * len(shape) if isinstance(halo, int) else halo
    tiles = (tile,) * len(shape) if isinstance(tile, int) else tile
    times = np.zeros(shape, int)
    for t in plan_tiles(shape, tile, halo, alignment=alignment):
        times[t.write] += 1
        for n, h, side, read, write in zip(shape, halos, tiles, t.read, t.write, strict=True):
            assert read.start % alignment == 0
            assert read.stop % alignment == 0 or read.stop == n
            assert read.start <= max(write.start - h, 0)
            assert read.stop >= min(write.stop + h, n)
            assert read.stop - read.start <= max(side, 2 * (h + alignment - 1) + 1)
    assert (times == 1).all()


@given(cases(), st.data())
def test_a_region_is_covered_once_and_reads_beyond_itself(case, data):
    shape, tile, halo = case
    region = []
    for n in shape:
        start = data.draw(st.integers(0, n - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, n))))
    times = np.zeros(shape, int)
    for t in plan_tiles(shape, tile, halo, region):
        times[t.write] += 1
    wanted = np.zeros(shape, int)
    wanted[tuple(region)] = 1
    np.testing.assert_array_equal(times, wanted)


@pytest.mark.parametrize("shape", [(41, 29), (7, 53), (13, 17, 11)])
def test_a_local_filter_gives_the_same_in_tiles(shape):
    image = np.random.default_rng(0).normal(size=shape)
    whole = ndimage.uniform_filter(image, 5, mode="constant")
    result = np.empty(shape)
    for t in plan_tiles(shape, 9, 2):
        result[t.write] = ndimage.uniform_filter(image[t.read], 5, mode="constant")[t.keep]
    np.testing.assert_allclose(result, whole, atol=1e-12)


def test_what_fits_in_one_tile_is_one_tile():
    assert len(plan_tiles((100, 60), 100, 30)) == 1
    assert len(plan_tiles((101, 60), 100, 30)) > 1


def test_sizes_that_do_not_fit_the_shape_are_refused():
    with pytest.raises(ValueError, match="one number for each axis"):
        plan_tiles((10, 10), (5, 5, 5), 1)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=3), st.integers(1, 40), st.integers(0, 9))
def test_every_tile_fills_a_chunk_of_its_step(shape, tile, halo):
    steps = tile_strides(shape, tile, (halo,) * len(shape))
    filled = set()
    for part in plan_tiles(shape, tile, halo):
        for w, step, n in zip(part.write, steps, shape, strict=True):
            assert w.start % step == 0
            assert w.stop == min(w.start + step, n)
        filled.add(tuple(w.start // step for w, step in zip(part.write, steps, strict=True)))
    assert len(filled) == np.prod([-(-n // step) for n, step in zip(shape, steps, strict=True)])
