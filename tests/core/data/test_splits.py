"""However a field is split: parts are disjoint, and as far apart as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import (
    HELD_OUT_PIXELS,
    _painted_gap,
    checkerboard,
    region_box,
    split,
    spread_boxes,
)
from napari_btn.core.settings import CalibrationSettings


def painted(boxes, shape):
    mask = np.zeros(shape, bool)
    for box in boxes:
        assert not mask[box].any()
        mask[box] = True
    return mask


@given(st.integers(40, 300), st.integers(40, 300), st.integers(0, 30))
def test_cells_are_apart_by_the_gap(rows, columns, gap):
    train, held = (painted(b, (rows, columns)) for b in checkerboard((rows, columns), gap))
    assert not (train & held).any()
    assert train.mean() > 0.3
    if held.any():
        far = ndimage.distance_transform_cdt(~train, metric="chessboard")
        assert far[held].min() > gap


def test_a_large_field_has_many_cells_that_keep_a_quarter_of_their_area():
    _, held = checkerboard((512, 768), 20)
    assert len(held) >= 20
    assert painted(held, (512, 768)).mean() > 0.1


def test_a_volume_is_cut_in_the_plane():
    train, held = checkerboard((9, 200, 200), 10)
    assert all(box[0] == slice(0, 9) for box in train + held)


def pair(shape):
    rng = np.random.default_rng(0)
    clean = rng.random(shape).astype(np.float32)
    return Pair(clean + rng.random(shape).astype(np.float32), clean, "CYX").scenes


def test_the_setting_splits_a_field_and_says_where_it_is_short():
    settings = CalibrationSettings(split="checkerboard")
    wide = split(pair((1, 400, 400)), 20, settings, seed=0)
    assert wide.gap_px == 40
    assert wide.notes == ()
    short = split(pair((1, 120, 120)), 30, settings, seed=0)
    assert short.gap_px == 30
    assert "one receptive field" in short.notes[0].text
    with pytest.raises(ValueError, match="Split along an axis"):
        split(pair((1, 60, 60)), 30, settings, seed=0)
    with pytest.raises(ValueError, match="checkerboard"):
        CalibrationSettings(split="stripes")


def test_painted_areas_know_their_distance():
    labels = np.zeros((30, 50), int)
    labels[:, :10], labels[:, 25:40] = 1, 2
    assert _painted_gap(labels) == 15
    labels[5, 14] = 3
    assert _painted_gap(labels) == 4
    assert region_box(labels == 2) == (slice(0, 30), slice(25, 40))
    with pytest.raises(ValueError, match="painted 2"):
        _painted_gap(np.ones((5, 5), int))


# ---------------------------------------------------------------- which held-out boxes are predicted


def box(*bounds, scene=0):
    return Box(scene, tuple(slice(a, b) for a, b in bounds))


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
    if total <= HELD_OUT_PIXELS:
        assert chosen == boxes
        return
    assert sum(b.size for b in chosen) <= 1.5 * HELD_OUT_PIXELS + len(boxes) * 256**2
    assert {b.scene for b in chosen} == {b.scene for b in boxes}
    for part in chosen:
        whole = boxes[part.scene]
        assert all(
            w.start <= p.start < p.stop <= w.stop for p, w in zip(part.slices, whole.slices, strict=True)
        )
    corners = [(b.scene, *(s.start for s in b.slices)) for b in chosen]
    assert len(set(corners)) == len(corners)  # cells of one grid: other corners, no overlap
