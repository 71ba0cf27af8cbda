"""A line cut reads what lies between the pixels; observations come to the target's scale unshrunk."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.core.evaluation.line import along, points_between, to_scale

number = st.floats(-3, 30)


@given(number, number, number, number)
def test_a_plane_is_read_exactly_inside_and_nan_outside(y0, x0, y1, x1):
    rows, columns = np.mgrid[:17, :23]
    plane = 2.0 * rows - 0.5 * columns + 3
    points = points_between((y0, x0), (y1, x1))
    assert len(points) >= 2
    np.testing.assert_allclose(points[[0, -1]], [[y0, x0], [y1, x1]], atol=1e-12)
    assert np.hypot(*np.diff(points, axis=0).T).max() <= 1 + 1e-12
    values = along(plane, points)
    inside = ((points >= 0) & (points <= [16, 22])).all(1)
    np.testing.assert_allclose(values[inside], (2 * points[:, 0] - 0.5 * points[:, 1] + 3)[inside], atol=1e-9)
    far = ((points < -0.5) | (points > [16.5, 22.5])).any(1)
    assert np.isnan(values[far]).all()


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_a_plane_one_pixel_wide(shape):
    plane = np.arange(float(np.prod(shape))).reshape(shape)
    np.testing.assert_allclose(along(plane, np.array([[0.0, 0.0]])), 0)
    np.testing.assert_allclose(along(plane, np.array([[shape[0] - 1.0, shape[1] - 1.0]])), plane[-1, -1])


def test_gain_and_offset_are_found_under_noise():
    rng = np.random.default_rng(0)
    target = rng.normal(size=200_000)
    observed = 0.01 * target + 5 + 0.05 * rng.normal(size=target.size)
    gain, offset = to_scale(observed, target)
    assert gain == pytest.approx(100, rel=0.1)
    np.testing.assert_allclose((gain * observed + offset).mean(), target.mean(), atol=1e-9)
    observed[:10] = np.nan
    assert np.isfinite(to_scale(observed, target)).all()


def test_what_says_nothing_of_the_scale_gives_no_nan():
    assert to_scale([1.0, 1.0], [2.0, 2.0]) == (0.0, 2.0)
    assert to_scale([np.nan], [2.0]) == (1.0, 0.0)
    gain, _ = to_scale([1.0, 2.0], [2.0, 1.0])
    assert gain == pytest.approx(1)
