"""Defects: found on simulated detectors, filled, and divided out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn.core.data.defects import SATURATED, corrected, fill_defects, find_defects, repair
from napari_btn.core.data.noise import DEAD, HOT, defect_map, defects


def _rate(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return a smooth rate of 20 to 200 counts."""
    smooth = gaussian_filter(rng.standard_normal(shape), 6)
    smooth -= smooth.min()
    return 20 + 180 * smooth / smooth.max()


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("space", [(97, 123), (5, 61, 70)])
def test_dead_and_hot_pixels_are_found(frames: int, space: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    rate = _rate(rng, space)
    broken = defect_map(space, rng=rng, dead=0.005, hot=0.01)
    seen = defects(rng.poisson(rate, (frames, 1, *space)), broken=broken, saturation=4095)
    found = find_defects(seen)
    assert (found.kinds[0][broken == HOT] == HOT).mean() > 0.97
    bright = (broken == DEAD) & (rate > 80)
    assert (found.kinds[0][bright] == DEAD).mean() > 0.9
    assert (found.broken[0] & (broken == 0)).mean() < 0.001
    np.testing.assert_array_equal(found.valid, ~found.broken[0])


@pytest.mark.parametrize("rate", [0.05, 0.5, 4.0, 60.0])
def test_sound_counts_have_no_defects(rate: float) -> None:
    rng = np.random.default_rng(2)
    for frames in (1, 5):
        assert find_defects(rng.poisson(rate, (frames, 1, 128, 120)).astype(np.float32)).kinds.mean() < 1e-4


def test_small_bright_structure_is_no_defect() -> None:
    rng = np.random.default_rng(3)
    rate = np.full((90, 90), 10.0)
    for y, x in rng.integers(5, 85, (40, 2)):
        rate[y - 1 : y + 2, x - 1 : x + 2] += 150
    rate = gaussian_filter(rate, 0.7)
    assert find_defects(rng.poisson(rate)[None, None].astype(np.float32)).count(HOT) == 0


def test_a_stuck_pixel_is_dead_although_its_value_is_ordinary() -> None:
    rng = np.random.default_rng(4)
    seen = rng.poisson(50.0, (7, 1, 60, 70)).astype(np.float32)
    seen[:, 0, 20, 30] = 50
    kinds = find_defects(seen).kinds[0]
    assert kinds[20, 30] == DEAD
    assert (kinds != 0).sum() == 1


def test_saturated_pixels_are_found_and_their_value() -> None:
    rng = np.random.default_rng(5)
    rate = _rate(rng, (100, 110))
    counts = rng.poisson(rate).astype(np.float32)
    top = float(np.quantile(counts, 0.96))
    found = find_defects(np.minimum(counts, top)[None, None])
    assert found.saturation[0] == top
    np.testing.assert_array_equal(found.kinds[0] == SATURATED, counts >= top)
    assert np.isinf(find_defects(counts[None, None]).saturation[0])


def test_filled_pixels_are_the_median_of_sound_neighbours() -> None:
    y, x = np.mgrid[:20, :25]
    image = (3.0 * y + 2 * x).astype(np.float32)
    broken = np.zeros(image.shape, bool)
    broken[7, 9] = broken[0, 0] = True
    broken[12:15, 12:15] = True  # its middle has no sound neighbour next to it
    spoiled = np.where(broken, 9999, image).astype(np.float32)
    filled = fill_defects(spoiled, broken)
    np.testing.assert_array_equal(filled[~broken], image[~broken])
    assert filled[7, 9] == image[7, 9]
    assert filled[13, 13] == pytest.approx(image[13, 13], abs=5)
    assert filled[0, 0] == np.median(image[[0, 1, 1], [1, 0, 1]])
    several = fill_defects(np.stack([spoiled, spoiled + 1]), broken)
    np.testing.assert_array_equal(several[1], filled + 1)
    assert spoiled[7, 9] == 9999


def test_dark_and_flat_frames_are_divided_out() -> None:
    rng = np.random.default_rng(6)
    clean = rng.random((3, 2, 40, 50)) * 100
    dark, light = 100 + rng.random((40, 50)), 0.5 + rng.random((2, 40, 50))
    out = corrected(clean * light + dark, "TCYX", dark=dark, flat=300 * light + dark)
    expected = clean * light.mean((1, 2))[:, None, None]
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(corrected(clean, "TCYX", dark=dark), clean - dark, atol=1e-3)
    unlit = light.copy()
    unlit[0, 3, 4] = 0
    assert np.isnan(corrected(clean, "TCYX", flat=unlit)[:, 0, 3, 4]).all()
    for dark_frame, flat, message in (
        (np.ones((4, 4)), None, "must match"),
        (None, np.full((40, 50), np.nan), "NaN"),
        (np.full((40, 50), 5.0), np.ones((40, 50)), "nowhere brighter"),
    ):
        with pytest.raises(ValueError, match=message):
            corrected(clean, "TCYX", dark=dark_frame, flat=flat)


def test_a_repaired_image_has_no_broken_pixels_and_says_where_they_were() -> None:
    rng = np.random.default_rng(7)
    rate = _rate(rng, (60, 70))
    broken = defect_map((60, 70), rng=rng, dead=0.0, hot=0.01)
    light = 0.7 + 0.6 * gaussian_filter(rng.random((60, 70)), 8)
    dark = np.full((60, 70), 100.0)
    seen = defects(rng.poisson(rate * light, (3, 60, 70)) + dark, broken=broken, saturation=4095)
    made = repair(seen, "TYX", dark=dark, flat=light * 1000 + dark)
    assert made.image.shape == seen.shape
    np.testing.assert_array_equal(made.valid, broken == 0)
    expected = rate * light.mean()
    assert np.abs(made.image.mean(0) - expected)[broken != 0].max() < 60
    assert np.abs((made.image - expected).mean()) < 1
    assert seen.max() == 4095
    # a mask of one's own, in the axes of the image
    mask = np.zeros((70, 60), bool)
    mask[5, 7] = True
    given = repair(seen.transpose(2, 0, 1), "XTY", defects=mask)
    assert given.image.shape == (70, 3, 60)
    assert not given.valid[5, 7]
    assert given.valid.sum() == mask.size - 1
    with pytest.raises(ValueError, match="must match"):
        repair(seen, "TYX", defects=mask)
