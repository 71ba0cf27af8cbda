"""Detection of repeats in noisy images."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from napari_btn import samples
from napari_btn.core.data.image import middle_of_space
from napari_btn.core.data.repetition import repetition_of


@pytest.mark.parametrize("period", [8, 10, 16, 25])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_lattice_is_found_through_its_noise(period, seed):
    pair = samples.lattice(seed=seed, size=(192, 256), period_px=period, dose=0.2)
    found = repetition_of(pair.noisy[None])
    assert found is not None
    assert found.period_px == pytest.approx(period, abs=0.15 * period)
    assert found.reach_px > 5 * period or found.reach_px > 80


@pytest.mark.parametrize("seed", range(3))
def test_soils_and_blobs_do_not_repeat_themselves(seed):
    assert repetition_of(samples.edx(seed=seed).noisy) is None
    assert repetition_of(samples.edx(seed=seed).clean) is None
    assert repetition_of(samples.blobs(seed=seed, n=1, size=256).clean) is None
    assert repetition_of(samples.xct(seed=seed).noisy[None]) is None


@pytest.mark.parametrize("name", ["camera", "grass", "gravel", "moon"])
def test_photographs_do_not_repeat_themselves(name):
    assert repetition_of(getattr(data, name)().astype(np.float32)[None]) is None


def test_noise_and_nothing_do_not_repeat_themselves():
    rng = np.random.default_rng(0)
    assert repetition_of(rng.normal(size=(1, 128, 160)).astype(np.float32)) is None
    assert repetition_of(np.ones((1, 64, 64), np.float32)) is None
    assert repetition_of(np.full((1, 64, 64), np.nan, np.float32)) is None
    assert repetition_of(rng.normal(size=(1, 9, 300)).astype(np.float32)) is None


def test_a_volume_may_repeat_itself():
    z, y, x = np.meshgrid(*(np.arange(64),) * 3, indexing="ij")
    waves = np.cos(2 * np.pi * x / 8) + np.cos(2 * np.pi * y / 8) + np.cos(2 * np.pi * z / 8)
    noisy = waves + np.random.default_rng(0).normal(size=waves.shape)
    found = repetition_of(noisy[None].astype(np.float32))
    assert found is not None
    assert found.period_px == pytest.approx(8, abs=1)


def test_values_that_are_not_finite_count_as_the_mean():
    pair = samples.lattice(seed=0, size=(192, 256))
    noisy = pair.noisy.copy()
    noisy[20:60, 30:90] = np.nan
    found = repetition_of(noisy[None])
    assert found is not None
    assert found.period_px == pytest.approx(10, abs=1)


def test_the_middle_is_no_larger_than_the_image():
    assert middle_of_space((100, 2000)) == (slice(0, 100), slice(744, 1256))
