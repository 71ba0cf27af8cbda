"""Whole plausible images: what is drawn has the truth's distribution, pixel by pixel and together."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.draws import Field, sampler_steps
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.data.image import Box
from napari_btn.core.progress import drain

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SCORES = ndtri(LEVELS)


def smooth_noise(rng, shape, sigma):
    """Normal noise of unit variance, correlated over a few pixels."""
    white = rng.standard_normal([n + 8 * int(sigma + 1) for n in shape])
    made = gaussian_filter(white, sigma)
    cut = tuple(slice(4 * int(sigma + 1), 4 * int(sigma + 1) + n) for n in shape)
    return made[cut] / made.std()


def world(shape=(1, 150, 130), seed=0, *, sigma=2.0, together=0.0, stretch=1.0):
    """(prediction, truth): known errors of two sizes around a median, channels that share a part of them."""
    rng = np.random.default_rng(seed)
    channels, *space = shape
    median = np.stack([smooth_noise(rng, space, 6) for _ in range(channels)])
    size = 0.3 + 0.4 * (smooth_noise(rng, space, 8) > 0) + np.zeros((channels, *space))
    shared = smooth_noise(rng, space, sigma)
    own = np.stack([smooth_noise(rng, space, sigma) for _ in range(channels)])
    error = np.sqrt(together) * shared + np.sqrt(1 - together) * own
    truth = (median + size * error).astype(np.float32)
    # a spread that is wrong by a factor is what the calibration has to find
    quantiles = (median + stretch * size * SCORES.reshape(-1, *[1] * len(shape))).astype(np.float32)
    return quantiles, truth


def prediction_of(quantiles, truth, axes="CYX", **fields):
    """The prediction of an image, calibrated on its own pixels."""
    channels, *space = truth.shape
    position = np.argwhere(np.ones(space, bool))
    held_out = HeldOut(
        quantiles.reshape(len(LEVELS), channels, -1),
        truth.reshape(channels, -1),
        (position[:, -1] // 16).astype(np.int64),
        LEVELS,
        position=np.column_stack([np.zeros(len(position), int), position]),
    )
    calibration = calibrate(held_out)
    lower, median, upper = calibration.interval(quantiles)
    return Prediction(
        lower=lower,
        median=median,
        upper=upper,
        spread=np.zeros_like(median),
        quantiles=quantiles,
        levels=LEVELS,
        axes=axes,
        channel_names=tuple("ABC"[:channels]),
        pixel_size=None,
        unit="px",
        alpha=0.1,
        covers="clean",
        distribution=exceedance_from(held_out, "pixel"),
        held_out=held_out,
        calibration=calibration,
        **fields,
    )


def variogram(error, lag):
    """Half the mean squared difference of pixels so far apart along the last two axes."""
    rows, columns = error[..., lag:, :] - error[..., :-lag, :], error[..., lag:] - error[..., :-lag]
    return (np.mean(rows**2) + np.mean(columns**2)) / 4


def test_draws_have_the_marginals_and_the_variogram_of_the_errors():
    known = prediction_of(*world(stretch=0.5))
    quantiles, truth = world(seed=1, stretch=0.5)
    fresh = replace(prediction_of(quantiles, truth), held_out=known.held_out)
    draws = fresh.draws(60, seed=3)
    assert draws.shape == (60, 1, 150, 130)
    assert draws.dtype == np.float32
    # 3rd and 58th of 60 hold 55 of 61 exchangeable values; errors over 2.5 px leave some 800 independent pixels
    ordered = np.sort(draws, 0)
    assert 0.87 <= np.mean((truth >= ordered[2]) & (truth <= ordered[57])) <= 0.93
    own, drawn = truth - fresh.median, draws - fresh.median
    for lag in (1, 2, 4, 8, 16):
        assert variogram(drawn, lag) == pytest.approx(variogram(own, lag), rel=0.15)


def test_channels_go_together_as_their_errors_do():
    quantiles, truth = world((3, 121, 128), together=0.6)
    drawn = prediction_of(quantiles, truth).draws(12) - quantiles[3]
    scores = drawn / drawn.std(axis=(0, 2, 3), keepdims=True)
    found = np.corrcoef(np.moveaxis(scores, 1, 0).reshape(3, -1))
    errors = (truth - quantiles[3]).reshape(3, -1)
    np.testing.assert_allclose(found, np.corrcoef(errors), atol=0.06)


def test_area_above_a_threshold_is_covered_where_independent_pixels_fail():
    known = prediction_of(*world())
    inside, alone = [], []
    for seed in range(1, 9):
        quantiles, truth = world((1, 100, 100), seed)
        fresh = replace(prediction_of(quantiles, truth), held_out=known.held_out)
        draws = fresh.draws(39, seed=seed)[:, 0]
        rng = np.random.default_rng(seed)
        independent = quantiles[3] + (quantiles[5] - quantiles[3]) / SCORES[5] * rng.standard_normal(
            draws.shape
        )
        for y, x in np.ndindex(4, 4):
            window = (..., slice(25 * y, 25 * y + 25), slice(25 * x, 25 * x + 25))
            area = np.sum(truth[window] > 0.5)
            for values, hits in ((draws, inside), (independent, alone)):
                areas = np.sort(np.sum(values[window] > 0.5, (-1, -2)))
                hits.append(areas[1] <= area <= areas[-2])
    # 128 windows: two standard errors are 0.05
    assert 0.85 <= np.mean(inside) <= 0.96
    assert np.mean(alone) < 0.6


def test_the_same_seed_draws_the_same_and_more_draws_keep_the_earlier():
    prediction = prediction_of(*world((2, 60, 47)))
    first = prediction.draws(2, seed=4)
    np.testing.assert_array_equal(prediction.draws(3, seed=4)[:2], first)
    assert np.abs(first - prediction.draws(2, seed=5)).mean() > 0.1


def test_draws_into_a_file_are_the_same_and_need_no_memory_for_all_of_them(tmp_path):
    prediction = prediction_of(*world((1, 200, 190)))

    def peak(n, out):
        tracemalloc.start()
        assert prediction.draws(n, seed=4, out=out) is out
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    def file(n):
        shape = (n, *prediction.median.shape)
        return np.lib.format.open_memmap(tmp_path / f"{n}.npy", mode="w+", dtype=np.float32, shape=shape)

    few, many = file(2), file(60)
    peak(2, few)  # imports
    assert peak(60, many) - peak(2, few) < 4 * prediction.median.nbytes
    np.testing.assert_array_equal(many[:2], few)
    np.testing.assert_array_equal(many[:3], prediction.draws(3, seed=4))
    with pytest.raises(ValueError, match=r"\(3, 1, 200, 190\)"):
        prediction.draws(3, out=few)


@pytest.mark.parametrize(("shape", "axes"), [((2, 90, 71), "CYX"), ((1, 13, 33, 30), "CZYX")])
def test_a_box_of_a_draw_does_not_depend_on_the_boxes(shape, axes):
    sampler = drain(sampler_steps(prediction_of(*world(shape, sigma=1.0), axes), seed=1))
    whole = sampler.box(0, Box(0, tuple(slice(0, n) for n in shape[1:])))
    part = tuple(slice(n // 4, n - n // 3) for n in shape[1:])
    np.testing.assert_allclose(sampler.box(0, Box(0, part)), whole[(slice(None), *part)], atol=1e-4)
    np.testing.assert_allclose(sampler.box(0, Box(0, part), 0), whole[(slice(0, 1), *part)], atol=1e-4)


def test_volumes_scenes_and_turned_axes():
    quantiles, truth = world((2, 41, 50))
    plain = prediction_of(quantiles, truth)
    turned = replace(
        plain,
        quantiles=np.moveaxis(quantiles, 1, -1)[:, None].repeat(2, 1),
        median=np.moveaxis(plain.median, 0, -1)[None].repeat(2, 0),
        axes="SYXC",
    )
    draws = turned.draws(2)
    assert draws.shape == (2, 2, 41, 50, 2)
    np.testing.assert_allclose(draws[:, 0], np.moveaxis(plain.draws(2), 1, -1), atol=1e-5)
    assert np.abs(draws[:, 0] - draws[:, 1]).mean() > 0.1


def test_unknown_pixels_stay_unknown_and_the_minimum_holds():
    quantiles, truth = world((1, 40, 50))
    prediction = prediction_of(quantiles, truth)
    holed, median = quantiles.copy(), prediction.median.copy()
    holed[:, :, 3:9, 4:7], median[:, 3:9, 4:7] = np.nan, np.nan
    calibration = replace(prediction.calibration, minimum=0.0)
    draws = replace(prediction, quantiles=holed, median=median, calibration=calibration).draws(2)
    assert np.isnan(draws[:, :, 3:9, 4:7]).all()
    assert np.isfinite(draws).sum() == draws.size - 2 * 18
    assert np.nanmin(draws) == 0


def test_flat_background_and_a_single_value_are_drawn():
    quantiles, truth = world((1, 40, 50))
    quantiles[:, :, :, :30], truth[:, :, :30] = 0, 0
    draws = prediction_of(quantiles, truth).draws(3)
    assert np.isfinite(draws).all()
    assert np.abs(draws[..., :25]).max() < np.abs(draws[..., 32:]).max() / 5


def phases(seed):
    """(prediction, truth): of a bright phase the median sees a smooth trace, and errors are never in between."""
    rng = np.random.default_rng(seed)
    trace = smooth_noise(rng, (1, 144, 160), 3)
    truth = (trace + 0.7 * smooth_noise(rng, (1, 144, 160), 3) > 2.1).astype(np.float32)
    median = np.clip(0.12 * (trace + 1), 0, None)
    quantiles = median + (0.05 + 0.3 * median) * SCORES.reshape(-1, 1, 1, 1)
    return quantiles.astype(np.float32), truth


def test_areas_of_draws_are_those_of_the_held_out_blocks_on_average():
    known = prediction_of(*phases(0)).held_out
    ratios = []
    for seed in range(1, 5):
        quantiles, truth = phases(seed)
        fresh = replace(prediction_of(quantiles, truth), held_out=known)
        area = fresh.statistic("area_above", threshold=0.7, n=19)
        ratios.append(area.values.mean() / np.mean(known.target > 0.7) / truth.size)
    assert np.mean(ratios) == pytest.approx(1, abs=0.25)


def test_measured_windows_keep_the_threshold():
    quantiles, truth = phases(0)
    prediction = prediction_of(quantiles, truth)
    region = (slice(20, 84), slice(30, 94))
    counts = np.random.default_rng(0).poisson(1000.0 * truth[:, *region])
    fused = prediction.fuse(region, counts, gain=1.0, dose=1000.0)
    area = fused.statistic("area_above", threshold=0.5, n=19, region=region)
    assert truth[:, *region].sum() > 100
    assert area.median == pytest.approx(truth[:, *region].sum(), rel=0.02)


@pytest.mark.parametrize("stretch", [0.6, 1.6])
def test_draws_of_a_fused_window_are_as_wide_as_its_errors(stretch):
    quantiles, truth = world((2, 96, 90), stretch=stretch)
    prediction = prediction_of(quantiles, truth)
    box = (slice(None), slice(10, 80), slice(12, 70))
    before = prediction.draws(6, seed=1)
    for noise in (5.0, 0.5):
        values = truth[box] + np.random.default_rng(3).normal(0, noise, truth[box].shape)
        fused = prediction.fuse(box[1:], values, sd=noise)
        draws = fused.draws(6, seed=1)
        drawn, error = ((one - fused.median)[(..., *box)].std() for one in (draws, truth))
        assert drawn == pytest.approx(error, rel=0.15)
        outside = np.ones(truth.shape, bool)
        outside[box] = False
        np.testing.assert_array_equal(draws[:, outside], before[:, outside])
        one = drain(sampler_steps(fused, seed=1)).box(0, Box(0, (slice(5, 60), slice(3, 50))), 1)
        np.testing.assert_allclose(one[0], draws[0, 1, 5:60, 3:50], atol=1e-4)


def test_statistics_are_those_of_the_draws():
    prediction = replace(prediction_of(*world((2, 60, 47))), pixel_size=(0.5, 2.0), unit="um")
    mask = np.zeros((60, 47), bool)
    mask[5:40, 3:30] = mask[50, 40] = True
    draws = prediction.draws(19, seed=2)[:, 1]
    area = prediction.statistic("area_above", "B", threshold=0.3, region=mask, n=19, seed=2)
    # each threshold is moved by what the area of the held-out blocks is off
    assert np.corrcoef(area.values, np.sum((draws > 0.3) & mask, (1, 2)))[0, 1] > 0.8
    assert (area.lower, area.upper) == (area.values.min(), area.values.max())
    assert area.unit == "um^2"
    assert "area_above" in str(area)
    assert "of the draws)" in str(area)
    mean = prediction.statistic("mean", 1, region=mask, n=19, seed=2)
    np.testing.assert_allclose(mean.values, draws[:, mask].mean(1), rtol=1e-5)
    part = (slice(5, 40), slice(3, 30))
    highest = prediction.statistic(lambda v, m: float(v[m].max()), 1, region=part, n=19, seed=2)
    np.testing.assert_allclose(highest.values, draws[:, *part].max((1, 2)), rtol=1e-5)
    grains = prediction.statistic("grains", 1, threshold=0.3, n=19, seed=2)
    large = prediction.statistic("grains", 1, threshold=0.3, n=19, seed=2, smallest_px=50)
    assert grains.median >= large.median >= 1


def test_a_statistic_of_noisy_draws_says_so():
    prediction = replace(prediction_of(*world((1, 40, 50))), covers="replicate")
    area = prediction.statistic("area_above", threshold=0.3, n=19)
    assert area.covers == "replicate"
    assert str(area).startswith("area_above of a repeat: ")


def test_grains_are_counted_by_sides():
    from napari_btn.core.calibration.drawn import _grains

    image = np.zeros((9, 9), bool)
    image[1:3, 1:3] = image[3, 3] = image[6:8, 5] = True
    assert (_grains(image, 1), _grains(image, 2)) == (3, 2)


def test_what_is_missing_is_said():
    prediction = prediction_of(*world((2, 40, 50)))
    with pytest.raises(ValueError, match="positions"):
        replace(prediction, held_out=replace(prediction.held_out, position=None)).draws(1)
    with pytest.raises(ValueError, match="held-out scores"):
        replace(prediction, held_out=None).draws(1)
    with pytest.raises(ValueError, match="at least one draw"):
        prediction.draws(0)
    bad = {
        "at least 19 draws": {"statistic": "mean", "n": 18},
        "threshold": {"statistic": "grains"},
        "area_above, grains, mean": {"statistic": "volume"},
        "region": {"statistic": "mean", "region": np.ones((3, 3))},
        "without pixels": {"statistic": "mean", "region": np.zeros((40, 50))},
        "scene": {"statistic": "mean", "scene": 1},
    }
    for match, values in bad.items():
        with pytest.raises(ValueError, match=match):
            prediction.statistic(**{"channel": 0, **values})


def test_a_field_has_the_covariance_that_it_was_made_from():
    y, x = np.meshgrid(np.arange(-12, 13), np.arange(-12, 13), indexing="ij")
    wanted = np.exp(-(y**2) / 8 - (x**2) / 18)[None, None]
    found = Field.of(wanted).correlation()[0, 0]
    middle = [n // 2 for n in found.shape]
    cut = found[middle[0] - 8 : middle[0] + 9, middle[1] - 8 : middle[1] + 9]
    np.testing.assert_allclose(cut, wanted[0, 0, 4:-4, 4:-4], atol=0.02)
