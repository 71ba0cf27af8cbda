"""Redrawn noise keeps its distribution given the signal, and is used only where this is valid."""

import numpy as np
import pytest

from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.settings import TrainSettings
from napari_btn.core.supervision.redraw import NoiseRedraw, against_overfitting_steps

MANY = TrainSettings(steps=1000, batch_size=4, patch_px=16)


def scenes_of(noisy, clean, **kwargs):
    return Pair(noisy.astype(np.float32), clean.astype(np.float32), axes="CYX", **kwargs).scenes


@pytest.fixture
def steps_of_counts():
    """Two channels on vertical stripes of four rates; Poisson counts."""
    rng = np.random.default_rng(0)
    rates = np.array([[0.5, 2.0, 5.0, 9.0], [4.0, 1.0, 8.0, 2.0]])
    clean = np.repeat(np.repeat(rates[:, None], 61, 1), 13, 2)
    return scenes_of(rng.poisson(clean), clean), clean


def whole(scenes):
    return scenes.whole()


def against_overfitting(*given):
    steps = against_overfitting_steps(*given)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_many_pixels_keep_their_noise_and_their_steps(steps_of_counts):
    scenes, _ = steps_of_counts
    few = TrainSettings(steps=100, batch_size=4, patch_px=16)
    assert against_overfitting(scenes, whole(scenes), few) == (few, None)


def test_redrawn_noise_keeps_mean_and_variance_given_the_signal(steps_of_counts):
    scenes, clean = steps_of_counts
    train, redraw = against_overfitting(scenes, whole(scenes), MANY)
    assert 200 <= train.steps < MANY.steps
    assert redraw is not None
    own = scenes.read_noisy(0)
    crop = whole(scenes)[0].slices
    drawn = [redraw.patch(0, crop, (own, clean), np.random.default_rng(i)) for i in range(60)]
    noisy, signal = (np.stack([d[i] for d in drawn]) for i in range(2))
    changed = [not np.array_equal(x, own) for x in noisy]
    assert 30 <= sum(changed) <= 54  # 70 % of 60, within 3.4 standard deviations
    for c in range(2):
        for rate in np.unique(clean[c]):
            values = noisy[changed, c][signal[changed, c] == rate]
            # stripes of at least 61 x 13 pixels are the population that is drawn from
            n = (clean[c] == rate).sum()
            assert values.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate / n) + 0.02 * rate)
            assert values.var() == pytest.approx(rate, rel=4 * np.sqrt(2 / n) + 0.1)


def test_redrawn_channels_of_a_pixel_stay_together():
    rng = np.random.default_rng(1)
    clean = np.repeat(rng.uniform(1, 4, (1, 40, 37)), 2, 0)
    noise = rng.normal(size=(1, 40, 37))
    scenes = scenes_of(clean + np.concatenate([noise, noise]), clean)
    _, redraw = against_overfitting(scenes, whole(scenes), MANY)
    assert redraw is not None
    drawn = redraw.noisy[:, redraw.alike[:, -1]]
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_correlated_noise_is_not_redrawn_but_steps_are_cut():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(2)
    clean = gaussian_filter(rng.normal(size=(1, 64, 80)), (0, 6, 6)) * 20
    noise = gaussian_filter(rng.normal(size=clean.shape), (0, 2, 2)) * 5
    scenes = scenes_of(clean + noise, clean)
    train, redraw = against_overfitting(scenes, whole(scenes), MANY)
    assert redraw is None
    assert 100 <= train.steps < MANY.steps


def test_crops_of_several_boxes_find_their_own_pixels():
    rng = np.random.default_rng(3)
    noisy = rng.normal(size=(1, 30, 41)).astype(np.float32)
    boxes = (Box(0, (slice(0, 11), slice(3, 40))), Box(0, (slice(15, 30), slice(0, 41))))
    flat = np.concatenate([noisy[0][b.slices].ravel() for b in boxes])[None]
    itself = np.arange(flat.shape[1], dtype=np.int32)[:, None]
    redraw = NoiseRedraw((0, boxes[0].size), boxes, flat, -flat, itself)
    for i, crop in ((0, (slice(2, 9), slice(5, 31))), (1, (slice(17, 30), slice(1, 40)))):
        own = noisy[:, *crop]
        in_place = 0
        for seed in range(20):
            x, y = redraw.patch(i, crop, (own, -own), np.random.default_rng(seed))
            np.testing.assert_array_equal(x, -y)
            assert np.isin(x, noisy[0][boxes[i].slices]).all()
            in_place += np.array_equal(x, own)
        assert 7 <= in_place <= 19  # all but 29 % of 20, which are turned; 3.3 standard deviations


def test_turned_patches_keep_their_middle_and_their_scale():
    from napari_btn.core.supervision.redraw import _warped

    at = np.stack(np.meshgrid(np.arange(40, 61), np.arange(50, 71), indexing="ij"), -1)
    rng = np.random.default_rng(5)
    areas = []
    for _ in range(200):
        there = _warped(at, (101, 121), rng)
        np.testing.assert_array_equal(there[10, 10], at[10, 10])
        first, second = (there[-1, 10] - there[0, 10]) / 20, (there[10, -1] - there[10, 0]) / 20
        assert abs(first @ second) < 0.15  # right angles stay, but for rounding to whole pixels
        areas.append(np.sqrt((first @ first) * (second @ second)))
    # a step of a half to 1.22 pixels along each side, its ends rounded by half a pixel of 20
    assert 0.2 < min(areas) < 0.35
    assert 1.35 < max(areas) < 1.62
    corner = _warped(at[:11, :11] - [40, 50], (101, 121), rng)
    assert corner.min() >= 0
    assert (corner < (101, 121)).all()


def test_pixels_that_do_not_count_stand_in_for_none():
    rng = np.random.default_rng(4)
    clean = rng.uniform(1, 4, (1, 33, 29))
    valid = rng.random((33, 29)) > 0.2
    noisy = np.where(valid, clean[0] + rng.normal(size=(33, 29)), 1e6)[None]
    scenes = scenes_of(noisy, clean, valid=valid)
    _, redraw = against_overfitting(scenes, whole(scenes), MANY)
    assert redraw is not None
    assert np.isin(redraw.alike[valid.ravel()], np.flatnonzero(valid)).all()
    np.testing.assert_array_equal(redraw.alike[~valid.ravel(), 0], np.flatnonzero(~valid))
