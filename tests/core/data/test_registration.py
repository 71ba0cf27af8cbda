"""A shift between noisy and clean is found when it is there, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.registration import align, registration_shift, shift_of


@pytest.mark.parametrize(("size", "seeds"), [((96, 192), 8), ((256, 512), 1), ((131, 97), 4)])
def test_aligned_counts_give_no_shift(size, seeds):
    for seed in range(seeds):
        assert shift_of(samples.edx(seed=seed, size=size).scenes) in ((0.0, 0.0), None)


def test_where_the_shift_is_uncertain_none_is_claimed():
    found = [
        registration_shift(p.noisy, p.clean) for p in (samples.edx(seed=k, size=(64, 64)) for k in range(40))
    ]
    # by the estimate alone seven of these would be shifted
    assert sum(f is not None and any(f) for f in found) <= 2


def test_a_shift_at_low_counts_is_found_and_fixed():
    pair = samples.edx(seed=5)
    for moved in [(-3.1, 0.0), (1.4, -3.1)]:
        displaced = align(pair.clean, "CYX", moved)
        found = registration_shift(pair.noisy, displaced)
        assert found is not None
        np.testing.assert_allclose(found, np.negative(moved), atol=0.3)
    back = align(displaced, "CYX", found)
    inside = (slice(None), slice(8, -8), slice(8, -8))
    before = np.abs(displaced - pair.clean)[inside].mean()
    assert np.abs(back - pair.clean)[inside].mean() < before / 3
    assert registration_shift(pair.noisy, back) == (0.0, 0.0)


def test_half_a_pixel_is_no_shift_and_two_are():
    rng = np.random.default_rng(0)
    clean = samples.edx(seed=2, size=(128, 256)).clean
    noisy = clean + rng.normal(0, 0.05, clean.shape).astype(np.float32)
    assert registration_shift(noisy, align(clean, "CYX", (0.3, -0.3))) == (0.0, 0.0)
    assert registration_shift(noisy, align(clean, "CYX", (0.0, 2.0))) == pytest.approx((0, -2), abs=0.2)


@pytest.mark.parametrize("size", [(64, 64), (96, 192)])
def test_unrelated_images_have_none(size):
    rng = np.random.default_rng(1)
    for _ in range(5):
        assert registration_shift(*rng.normal(size=(2, 3, *size)).astype(np.float32)) is None


@pytest.mark.parametrize(("scale", "offset"), [(0.01, 0.0), (1e6, -1e3), (1.0, 500.0)])
def test_units_and_offsets_do_not_matter(scale, offset):
    pair = samples.edx(seed=3, size=(64, 128))
    clean = align(pair.clean, "CYX", (0.0, 4.0)).astype(np.float64)
    assert registration_shift(pair.noisy, clean * scale + offset) == pytest.approx(
        registration_shift(pair.noisy, clean), abs=0.01
    )


def test_inverted_contrast_is_recognised():
    pair = samples.edx(seed=0, size=(128, 256))
    found = registration_shift(-pair.noisy, align(pair.clean, "CYX", (0.0, 3.0)))
    assert found == pytest.approx((0, -3), abs=0.3)


def test_scenes_are_looked_at_together():
    pair = samples.blobs(seed=1, n=10)
    assert shift_of(pair.scenes) in ((0.0, 0.0), None)
    found = shift_of(Pair(np.roll(pair.noisy, 3, 1), pair.clean, "SYX").scenes)
    assert found == pytest.approx((3, 0), abs=0.7)


def test_repeats_are_averaged_first():
    pair = samples.edx(seed=0, size=(96, 128))
    rng = np.random.default_rng(0)
    rate = np.array([2.0, 2.0, 0.33])[:, None, None] * pair.clean
    scans = rng.poisson(rate[None], (6, *rate.shape)).astype(np.float32)
    found = shift_of(Pair(scans, align(pair.clean, "CYX", (2.5, 0.0)), "SCYX").scenes)
    assert found == pytest.approx((-2.5, 0), abs=0.3)


def test_a_volume_and_a_mask():
    pair = samples.xct(seed=0, size=(32, 64, 64))
    clean = align(pair.clean, "ZYX", (0.0, 2.0, -1.5))
    found = shift_of(Pair(pair.noisy, clean, "ZYX").scenes)
    assert found == pytest.approx((0, -2, 1.5), abs=0.5)
    image = samples.edx(seed=0, size=(128, 320))
    valid = np.ones(image.clean.shape[1:], bool)
    valid[40:90, 100:300] = False
    clean = np.where(valid, image.clean, 50.0)
    assert shift_of(Pair(image.noisy, clean, "CYX", valid=valid).scenes) in ((0.0, 0.0), None)


def test_small_images_have_no_known_shift():
    rng = np.random.default_rng(0)
    noisy, clean = rng.normal(size=(2, 31, 200)).astype(np.float32)
    assert shift_of(Pair(noisy, clean, "YX").scenes) is None
