"""Outlines along pixel edges: exact, with holes, for any mask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from napari_btn.io.outlines import polygons


def area(ring):
    x, y = np.array(ring, float).T
    return (np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2


def painted(shapes, shape):
    """Mask of polygons, by crossings of a ray to the left of each pixel's centre."""
    mask = np.zeros(shape, bool)
    for rings in shapes:
        for ring in rings:
            for (x0, y0), (x1, y1) in pairwise(ring):
                if x0 == x1:
                    mask[min(y0, y1) : max(y0, y1), x0:] ^= True
    return mask


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_enclose_exactly_the_mask(mask):
    shapes = polygons(mask)
    np.testing.assert_array_equal(painted(shapes, mask.shape), mask)
    assert len(shapes) == ndimage.label(mask)[1]
    for outer, *holes in shapes:
        assert outer[0] == outer[-1]
        assert all(np.sign(area(hole)) == -np.sign(area(outer)) for hole in holes)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_rings_have_only_corners(mask):
    for rings in polygons(mask):
        for ring in rings:
            steps = np.diff(ring, axis=0)
            after = np.roll(steps, -1, 0)
            assert (steps[:, 0] * after[:, 1] != steps[:, 1] * after[:, 0]).all()


def test_each_patch_has_its_own_ring_of_corners():
    mask = np.zeros((6, 6), bool)
    mask[0, 0] = mask[3:5, 3:5] = True
    (_,), ((*corners, _),) = polygons(mask)
    assert sorted(corners) == [[3, 3], [3, 5], [5, 3], [5, 5]]


@pytest.mark.parametrize("shape", [(0, 4), (3, 3)])
def test_an_empty_mask_has_no_outline(shape):
    assert polygons(np.zeros(shape, bool)) == []
