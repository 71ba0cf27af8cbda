"""Patches: crops, flips and quarter turns are recognised; other images, empty or regular places are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.core.data.copies import copied_steps, patches_steps
from napari_btn.core.data.image import Box, View
from napari_btn.core.progress import drain


def whole(view):
    return [Box(s, tuple(slice(0, n) for n in view.space)) for s in range(view.n_scenes)]


def record_of(array, axes="YX", boxes=None):
    view = View(array, axes)
    return json.loads(json.dumps(drain(patches_steps(view, boxes or whole(view)))))


def found(array, record, axes="YX", boxes=None):
    return drain(copied_steps(View(np.ascontiguousarray(array), axes), record, boxes))[0]


TURNS = {
    "crop": lambda a: a,
    "flip": lambda a: a[..., ::-1],
    "quarter turn": lambda a: np.rot90(a, 1, (-2, -1)),
    "turn and flip": lambda a: np.rot90(a, 3, (-2, -1))[..., ::-1, :],
}


@pytest.mark.parametrize("turn", list(TURNS))
@pytest.mark.parametrize("seed", [0, 1])
def test_copies_of_sparse_counts_are_found_and_other_parts_and_fields_are_not(turn, seed):
    counts = samples.edx(seed=seed, size=(96, 200)).noisy
    record = record_of(counts, "CYX", [Box(0, (slice(0, 96), slice(0, 120)))])
    assert len(json.dumps(record)) < 4000
    assert found(TURNS[turn](counts[:, 7:90, 11:100]), record, "CYX") > 60
    assert found(TURNS[turn](counts[:, :, 120:]), record, "CYX") == 0
    assert found(TURNS[turn](samples.edx(seed=10 + seed, size=(96, 200)).noisy), record, "CYX") == 0


@pytest.mark.parametrize("rate", [0.03, 0.1, 1.0])
def test_windows_of_few_counts_never_match_by_chance(rate):
    rng = np.random.default_rng(0)
    counts = rng.poisson(rate, (256, 256)).astype(np.float32)
    record = record_of(counts)
    assert found(counts[20:220, 30:].T, record) > 5
    for _ in range(4):
        assert found(rng.poisson(rate, (600, 600)).astype(np.float32), record) == 0


def test_empty_and_regular_places_are_not_remembered():
    flat = np.zeros((128, 128), np.float32)
    flat[:, 60:], flat[20:50, 20:40] = 1, 2
    regular = np.tile(np.random.default_rng(0).normal(size=(8, 8)), (16, 16)).astype(np.float32)
    for image in (flat, regular, np.full((128, 128), 7, np.float32)):
        assert record_of(image)["hashes"] == ""
        assert found(image, record_of(image)) == 0


def test_a_scale_bar_that_many_images_share_is_no_copy():
    rng = np.random.default_rng(0)
    bar = rng.integers(0, 255, (20, 60)).astype(np.float32)

    def image():
        made = rng.normal(size=(256, 256)).astype(np.float32)
        made[-22:-2, -62:-2] = bar
        return made

    assert found(image(), record_of(image())) == 0


def test_scenes_volumes_and_large_images_in_slabs(monkeypatch):
    blobs = samples.blobs(seed=0, n=30).noisy
    view = View(blobs, "SYX")
    record = record_of(blobs, "SYX", whole(view)[:18])
    assert found(blobs, record, "SYX") > 200
    assert found(blobs[18:], record, "SYX") == 0
    assert found(blobs[5, ::-1, 3:], record) > 2
    assert found(blobs, record, "SYX", whole(view)[18:]) == 0
    volume = samples.xct(size=(24, 48, 64)).noisy
    record = record_of(volume, "ZYX", [Box(0, (slice(0, 24), slice(0, 48), slice(0, 36)))])
    assert found(volume[::-1, 4:44, 2:34], record, "ZYX") > 50
    assert found(volume[:, :, 36:], record, "ZYX") == 0
    large = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
    record = record_of(large)
    monkeypatch.setattr("napari_btn.core.data.copies._READ", 6000)
    assert record_of(large) == record
    assert found(large[100:250].T, record) > 100


def test_patches_outside_a_mask_are_left_out():
    image = np.random.default_rng(0).normal(size=(120, 160)).astype(np.float32)
    mask = np.zeros((120, 160), bool)
    mask[:, :80] = True
    record = drain(patches_steps(View(image, "YX"), whole(View(image, "YX")), mask))
    assert found(image[:, :80], record) > 50
    assert found(image[:, 80:], record) == 0
