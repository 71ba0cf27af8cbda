"""However a field is split: parts are disjoint, and as far apart as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import checkerboard, painted_gap, region_box, split
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
    assert painted_gap(labels) == 15
    labels[5, 14] = 3
    assert painted_gap(labels) == 4
    assert region_box(labels == 2) == (slice(0, 30), slice(25, 40))
    with pytest.raises(ValueError, match="painted 2"):
        painted_gap(np.ones((5, 5), int))
