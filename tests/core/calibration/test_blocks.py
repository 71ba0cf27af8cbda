"""Blocks fill the held-out pixels, and are as long as errors stay alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from napari_btn.core.calibration.blocks import blocks_of, error_length


class TestBlocks:
    @given(
        mask=hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=4, max_side=12)),
        side=st.integers(1, 6),
    )
    def test_blocks_fill_the_mask_and_are_numbered_without_gaps(self, mask, side):
        numbers = blocks_of(mask, side)
        np.testing.assert_array_equal(numbers >= 0, mask)
        used = np.unique(numbers[mask])
        np.testing.assert_array_equal(used, np.arange(len(used)))

    def test_repeats_share_their_blocks(self):
        mask = np.zeros((3, 40, 50), bool)
        mask[:, 5:, 10:] = True
        numbers = blocks_of(mask, 10)
        np.testing.assert_array_equal(numbers[0], numbers[2])

    def test_scenes_are_blocks(self):
        mask = np.ones((4, 9, 9), bool)
        mask[1] = False
        numbers = blocks_of(mask, 3, by_scene=True)
        assert [set(np.unique(n)) for n in numbers] == [{0}, {-1}, {1}, {2}]

    def test_slivers_join_a_neighbour_and_larger_parts_stand(self):
        # 35 = 2 * 16 + 3: a strip of 3 is under a quarter of 16; 40 = 2 * 16 + 8 stands.
        assert blocks_of(np.ones((1, 35, 32), bool), 16).max() + 1 == 4
        assert blocks_of(np.ones((1, 40, 32), bool), 16).max() + 1 == 6
        sizes = np.bincount(blocks_of(np.ones((1, 35, 35), bool), 16).ravel())
        assert len(sizes) == 4
        assert sizes.min() >= 16 * 16

    def test_a_thin_volume_is_cut_along_its_long_axes(self):
        assert blocks_of(np.ones((1, 4, 32, 48), bool), 16).max() + 1 == 6

    def test_empty_mask_and_bad_side(self):
        assert (blocks_of(np.zeros((1, 5, 5), bool), 4) == -1).all()
        with pytest.raises(ValueError, match="at least 1 px"):
            blocks_of(np.ones((1, 5, 5), bool), 0)


class TestErrorLength:
    def test_independent_misses_are_one_pixel_long(self):
        miss = np.random.default_rng(0).uniform(size=(120, 130)) < 0.1
        assert error_length(miss) == 1

    def test_grows_with_the_correlation(self):
        rng = np.random.default_rng(0)
        lengths = []
        for sigma in (1, 3, 6):
            field = gaussian_filter(rng.normal(size=(200, 200)), sigma)
            lengths.append(error_length(field > np.quantile(field, 0.9)))
        assert lengths == sorted(lengths)
        # Neighbours of a Gaussian-smoothed field correlate as exp(-lag^2 / (4 sigma^2)).
        assert 4 <= lengths[1] <= 12
        assert lengths[2] >= 1.5 * lengths[1]

    def test_the_worst_axis_counts_and_the_mask_is_kept(self):
        rng = np.random.default_rng(0)
        field = gaussian_filter(rng.normal(size=(200, 200)), (1, 8))
        miss = field > np.quantile(field, 0.9)
        valid = np.zeros_like(miss)
        valid[40:160, 40:160] = True
        assert error_length(miss) >= 10
        assert error_length(np.where(valid, miss, True), valid=valid) == pytest.approx(
            error_length(miss[40:160, 40:160]), abs=2
        )

    def test_no_miss_or_a_single_row(self):
        assert error_length(np.zeros((8, 9), bool)) == 1
        assert error_length(np.array([[True, True, False, False]] * 1)) <= 4
