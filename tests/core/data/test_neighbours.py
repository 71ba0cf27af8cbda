"""Neighbouring frames as input channels: which they are, where scenes change, and what stays masked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.data.image import View
from napari_btn.core.data.series import Series, _scene_changes, series_axes


def field(seed, *shape):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, 4, 4)) * 8


def shots(*lengths, noise=1.0):
    """Frames of different still fields, one after another."""
    frames = np.concatenate([np.repeat(field(k, 1, 96, 112), n, 0) for k, n in enumerate(lengths)])
    return (frames + noise * np.random.default_rng(9).normal(size=frames.shape)).astype(np.float32)


@given(st.integers(1, 9), st.sampled_from([3, 5, 7]), st.integers(0, 8))
def test_neighbours_are_other_frames_of_the_same_field(frames, count, at):
    at %= frames
    series = Series(View(np.zeros((2, frames, 8, 8), np.float32), "STYX"), count)
    for f in range(2):
        near = series.neighbours(f * frames + at)
        assert len(near) == count - 1
        assert {n // frames for n in near} == {f}
        assert frames == 1 or f * frames + at not in near
        for k, n in enumerate(near):
            step = (k // 2 + 1) * (-1 if k % 2 == 0 else 1)
            if 0 <= at + step < frames:
                assert n == f * frames + at + step
            elif 0 <= at - step < frames:
                assert n == f * frames + at - step


@pytest.mark.parametrize("noise", [0.0, 1.0, 4.0])
def test_scene_changes_are_found(noise):
    assert _scene_changes(View(shots(7, 5, 9, noise=noise), "TYX")) == (7, 12)


@pytest.mark.parametrize("seed", range(3))
def test_movement_brightness_and_noise_are_no_change_of_scene(seed):
    from napari_btn import samples

    moving = np.array(samples.movie(seed).noisy)
    moving[12:] = 100 + 0.4 * (moving[12:] - 100)
    assert _scene_changes(View(moving, "TYX")) == ()
    noise = np.random.default_rng(seed).normal(size=(30, 64, 72))
    assert _scene_changes(View(noise, "TYX")) == ()


def test_no_neighbour_lies_beyond_a_scene_change():
    series = Series(View(shots(7, 5, 9), "TYX"), 5)
    for first, after in ((0, 7), (7, 12), (12, 21)):
        for frame in range(first, after):
            assert all(first <= n < after for n in series.neighbours(frame))
    assert series.neighbours(7) == (8, 8, 9, 9)
    assert series.neighbours(11) == (10, 10, 9, 9)


def test_channels_are_the_frame_and_its_neighbours_in_any_part():
    movie = np.random.default_rng(0).random((5, 2, 12, 10), np.float32)
    view = View(movie, "TCYX")
    view.series = Series(View(movie, "TCYX"), 3)
    assert view.n_inputs == 6
    box = (slice(2, 9), slice(1, 8))
    (look,) = view.looks
    np.testing.assert_array_equal(look.view.read(2, box), np.concatenate(movie[[2, 1, 3], :, 2:9, 1:8]))
    assert view.read(2, box).shape == (2, 7, 7), "the image itself keeps its channels"


def test_a_frame_without_neighbours_does_not_show_what_is_masked():
    lone = np.random.default_rng(0).random((1, 8, 8), np.float32)
    series = Series(View(lone, "TYX"), 5)
    made = series.around(np.zeros((1, 8, 8), np.float32), 0)
    assert made.shape == (5, 8, 8)
    assert not made.any()


def test_slices_become_frames_and_times_scenes():
    assert [series_axes(a, "z") for a in ("zyx", "CZYX", "TCZYX", "SZYX")] == ["TYX", "CTYX", "SCTYX", "STYX"]
    assert series_axes("TCYX", "t") == "TCYX"
    for axes, along in (("YX", "t"), ("TYX", "z"), ("STZYX", "z")):
        with pytest.raises(ValueError, match="axes"):
            series_axes(axes, along)
