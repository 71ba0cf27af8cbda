"""Time series: frames of a field are no scenes, so content that trains is never held out in another frame."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.registration import travel_of
from napari_btn.core.data.splits import split
from napari_btn.core.settings import CalibrationSettings


def field(seed, *shape):
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (rough / rough.std()).astype(np.float32)


def movie(seed, frames=20, size=(64, 200), drift=(0, 1)):
    """Frames of a field that moves, and the place in the field of each of their pixels."""
    moves = [tuple(abs(d) * t for d in drift) for t in range(frames)]
    whole = field(seed, *(n + max(m) for n, m in zip(size, zip(*moves, strict=True), strict=True)))
    place = np.arange(whole.size).reshape(whole.shape)
    cuts = [tuple(slice(m, m + n) for m, n in zip(move, size, strict=True)) for move in moves]
    clean = np.stack([whole[cut] for cut in cuts])
    noisy = clean + np.random.default_rng(seed + 1).normal(size=clean.shape).astype(np.float32)
    return Pair(noisy, clean, "TYX").views, np.stack([place[cut] for cut in cuts])


def shown(boxes, place):
    return set(np.concatenate([place[b.scene][b.slices].ravel() for b in boxes]).tolist())


@pytest.mark.parametrize("drift", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)])
@pytest.mark.parametrize("seed", [0, 5])
def test_no_content_that_trains_is_held_out_in_another_frame(drift, seed):
    scenes, place = movie(seed, drift=drift)
    parts = split(scenes, 8, CalibrationSettings(), seed=0)
    assert not parts.by_scene
    assert len(parts.train) == len(parts.held_out) == 20
    assert len({repr(b.slices) for b in parts.train}) == 1
    assert not shown(parts.train, place) & shown(parts.held_out, place)
    # the gap is at least a receptive field wider than the way of the content
    axis = 0 if parts.train[0].shape[0] < 64 else 1
    assert parts.gap_px >= 8 + 19 * drift[axis] - 1


def test_the_way_of_the_content_is_measured():
    for drift in ((0, 0), (0, 1), (2, 1)):
        expected = [19 * d for d in drift]
        np.testing.assert_allclose(travel_of(movie(3, size=(96, 160), drift=drift)[0]), expected, atol=1)
    clean = field(0, 64, 96)
    still = Pair(np.stack([clean + 1, clean + 2]), clean, "TYX").views
    assert travel_of(still) == (0, 0)


def test_content_that_moves_farther_than_the_field_allows_gives_a_red_note():
    scenes, _ = movie(0, frames=40, size=(48, 64), drift=(1, 2))
    parts = split(scenes, 8, CalibrationSettings(), seed=0)
    assert [n.level for n in parts.notes if "moves" in n.text] == ["red"]
    slow, _ = movie(0, size=(48, 120), drift=(0, 0))
    assert split(slow, 8, CalibrationSettings(), seed=0).notes == ()


def test_frames_of_a_scene_stay_together():
    rng = np.random.default_rng(0)
    noisy, clean = rng.normal(size=(2, 6, 4, 20, 24))
    for axes, order in (("STYX", (0, 1, 2, 3)), ("TSYX", (1, 0, 2, 3))):
        pair = Pair(noisy.transpose(order), clean.transpose(order), axes)
        scenes = pair.views
        assert (scenes.n_fields, scenes.one_field) == (6, False)
        parts = split(scenes, 4, CalibrationSettings(), seed=1)
        train, held = ({b.scene // 4 for b in boxes} for boxes in (parts.train, parts.held_out))
        assert parts.by_scene
        assert not train & held
        assert len(parts.train) == 4 * len(train)
        assert len(train) + len(held) == 6


def test_fields_of_all_axes():
    rng = np.random.default_rng(0)
    one = {"YX": (20, 24), "TYX": (3, 20, 24), "STYX": (1, 3, 20, 24), "CYX": (2, 20, 24)}
    for axes, shape in one.items():
        assert Pair(*rng.normal(size=(2, *shape)), axes).views.one_field
    assert Pair(rng.normal(size=(5, 20, 24)), rng.normal(size=(20, 24)), "SYX").views.one_field
    assert not Pair(*rng.normal(size=(2, 5, 20, 24)), "SYX").views.one_field


# ---------------------------------------------------------------- in time


def test_a_split_in_time_has_a_gap_of_frames_and_says_what_it_promises():
    scenes, _ = movie(0, frames=30)
    parts = split(scenes, 8, CalibrationSettings(split="time"), seed=0)
    train, held = [b.scene for b in parts.train], [b.scene for b in parts.held_out]
    assert (train, held) == (list(range(16)), list(range(19, 30)))
    assert parts.kind == "run"
    assert [n.level for n in parts.notes] == ["amber"]
    assert "this series, not of other fields" in parts.notes[0].text


def test_what_can_not_be_split_in_time_is_refused():
    in_time = CalibrationSettings(split="time")
    rng = np.random.default_rng(0)
    for noisy, clean, axes in (
        ((20, 60), (20, 60), "YX"),
        ((9, 20, 60), (20, 60), "TYX"),
        ((2, 9, 9),) * 2 + ("TYX",),
    ):
        scenes = Pair(rng.normal(size=noisy), rng.normal(size=clean), axes).views
        with pytest.raises(ValueError, match='split="auto"'):
            split(scenes, 4, in_time, seed=0)
