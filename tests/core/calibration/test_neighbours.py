"""Estimates of a pixel from its neighbours: exact posteriors of normal fields, and laws of evidence."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import convolve, gaussian_filter
from scipy.stats import norm

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.dose import Dose
from napari_btn.core.calibration.draws import Field
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.fusion import measured_again_steps
from napari_btn.core.calibration.neighbours import Errors, _Neighbours
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.progress import drain
from napari_btn.core.remeasure.expected import Decision, wrong_after
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SD, SMOOTH = 0.3, 2.0  # of the errors, and how far they go together in pixels


def field(length, cross=0.0, ndim=2):
    """A field of two channels whose correlation falls with the distance over some pixels."""
    lags = np.meshgrid(*(np.arange(-9, 10),) * ndim, indexing="ij")
    fall = (
        np.exp(-np.sum(np.square(lags), 0) / (2 * length**2)) if length else (np.abs(lags).sum(0) == 0) * 1.0
    )
    return Field.of(np.array([[1, cross], [cross, 1]])[(...,) + (None,) * ndim] * fall)


def normal_quantiles(centre, sd):
    """Quantiles (L, C, *space) of normal distributions, at many levels, so that they are nearly normal."""
    levels = tuple(np.round(np.linspace(0.005, 0.995, 199), 4))
    q = centre[None] + sd * norm.ppf(levels).reshape(-1, *(1,) * centre.ndim)
    return q.astype(np.float32), levels


@pytest.mark.parametrize(("shape", "cross"), [((13, 11), 0.0), ((11, 14), 0.6), ((5, 6, 5), 0.4)])
def test_beliefs_are_those_of_the_exact_posterior_without_the_pixel(shape, cross):
    made = field(1.5, cross, len(shape))
    rng = np.random.default_rng(0)
    correlation = made.correlation()
    n = int(np.prod(shape))
    place = np.argwhere(np.ones(shape, bool))
    middle = np.array(correlation.shape[2:]) // 2
    lag = place[:, None] - place[None]
    inside = (np.abs(lag) <= middle).all(2)
    at = tuple(np.where(inside[..., None], lag + middle, 0).transpose(2, 0, 1))
    dense = np.block([[np.where(inside, correlation[i, j][at], 0) for j in range(2)] for i in range(2)])
    score = np.linalg.cholesky(dense + 1e-6 * np.eye(2 * n)) @ rng.normal(size=2 * n)
    centre = rng.normal(size=(2, *shape))
    noise = 0.7
    values = centre + (score + rng.normal(0, noise, 2 * n)).reshape(2, *shape)
    quantiles, levels = normal_quantiles(centre, 1.0)
    found = _Neighbours(made).beliefs(quantiles, levels, values, Dose((1.0,) * 2, (1.0,) * 2, (noise,) * 2))
    inverse = np.linalg.inv(dense + noise**2 * np.eye(2 * n))
    own = np.diag(inverse)
    shift = (values - centre).ravel()
    exact, spread = shift - (inverse @ shift) / own, 1 / own - noise**2
    assert np.corrcoef(found.mean.ravel(), exact)[0, 1] > 0.98
    assert np.sqrt(np.mean(np.square(found.mean.ravel() - exact))) < 0.2 * exact.std()
    assert abs(found.variance.mean() / spread.mean() - 1) < 0.15


def test_independent_errors_say_nothing():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(2, 20, 17))
    quantiles, levels = normal_quantiles(centre, 1.0)
    dose = Dose((1.0,) * 2, (1.0,) * 2, (0.3,) * 2)
    alone = _Neighbours(field(0.0))
    found = alone.beliefs(quantiles, levels, centre + 2, dose)
    np.testing.assert_allclose(found.mean, 0, atol=0.02)
    np.testing.assert_allclose(found.variance, 1, atol=0.02)
    np.testing.assert_allclose(alone.gain(np.array([1.0, 5.0])), 1, atol=0.02)


def test_one_measured_pixel_speaks_for_those_around_it_alone():
    centre = np.zeros((2, 41, 41))
    quantiles, levels = normal_quantiles(centre, 1.0)
    values = np.full((2, 41, 41), np.nan)
    values[0, 20, 20] = 1.0
    made = field(1.5, 0.5)
    found = _Neighbours(made).beliefs(quantiles, levels, values, Dose((1.0,) * 2, (1.0,) * 2, (0.5,) * 2))
    correlation = made.correlation()
    lag = correlation.shape[2] // 2
    # a normal posterior of one value moves each score by its correlation with that pixel
    for c in range(2):
        for step in (1, 2, 3):
            expected = correlation[c, 0, lag, lag + step] / (1 + 0.25)
            assert found.mean[c, 20, 20 + step] == pytest.approx(expected, abs=0.02)
    assert np.abs(found.mean[:, :8]).max() < 0.01
    # the pixel itself learns nothing from its own value, but for the even field that its variance is taken from
    assert found.mean[0, 20, 20] == pytest.approx(0, abs=0.1)


def test_a_measurement_is_worth_more_the_farther_errors_go_together():
    gains = [_Neighbours(field(length)).gain(np.array([0.05, 0.05]))[0] for length in (0.0, 0.8, 1.6, 2.4)]
    assert (np.diff(gains) > 0).all()
    # little evidence adds up over all pixels that err alike: the sum of the squared correlation
    squared = float(np.square(field(1.6).correlation()[0, 0]).sum())
    assert gains[2] == pytest.approx(squared, rel=0.35)
    few, many = (_Neighbours(field(1.6)).gain(np.full(2, precision))[0] for precision in (0.05, 50.0))
    assert many < few


def scene(seed, shape=(96, 90), miss=None):
    """Predicted quantiles, and a signal whose errors go together over some pixels."""
    rng = np.random.default_rng(seed)
    error = gaussian_filter(rng.normal(size=shape), SMOOTH, mode="wrap")
    error *= SD / error.std()
    centre = 1.5 + gaussian_filter(rng.normal(size=shape), 6) * 6
    q = (centre + SD * norm.ppf(LEVELS)[:, None, None]).astype(np.float32)
    signal = centre + error
    if miss is not None:
        signal[miss] += 3.0
    return q, signal.astype(np.float32)


def predicted(seed=1, miss=None, position=True, known_seed=100, known_side=144):
    """A prediction with held-out pixels of another field in blocks of 16 px."""
    q, signal = scene(known_seed, (known_side, known_side))
    place = np.argwhere(np.ones(signal.shape, bool))
    block = (place[:, 0] // 16) * (known_side // 16) + place[:, 1] // 16
    known = HeldOut(q.reshape(7, 1, -1), signal.reshape(1, -1), block, LEVELS, signal.reshape(1, -1))
    if position:
        known = replace(known, position=np.column_stack([0 * place[:, :1], place]))
    calibration = calibrate(known, settings=CalibrationSettings(unit="pixel"))
    planes, truth = scene(seed, miss=miss)
    lower, median, upper = (m[0].reshape(truth.shape) for m in calibration.interval(planes[:, None]))
    made = Prediction(
        lower, median, upper, 0 * median, planes, LEVELS, "YX", ("a",), None, "px", 0.1, "clean",
        distribution=exceedance_from(known, "pixel"), held_out=known, calibration=calibration,
    )  # fmt: skip
    return made, truth


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_neighbours_make_a_fusion_better_and_its_intervals_still_cover(noise):
    box = (slice(8, 88), slice(5, 85))
    error = {}
    for position in (True, False):
        prediction, signal = predicted(position=position)
        values = signal[box] + np.random.default_rng(3).normal(0, noise, (80, 80))
        fused = prediction.fuse(box, values, sd=noise)
        inside = (fused.lower <= signal) & (signal <= fused.upper)
        # 80 x 80 px hold about 127 independent errors (4 pi SMOOTH^2 px each): three standard errors
        assert 0.82 <= inside[box].mean() <= 0.98
        error[position] = np.sqrt(np.mean(np.square(fused.median - signal)[box]))
        p, above = fused.exceedance(1.5)[box], (signal > 1.5)[box]
        assert abs(p.mean() - above.mean()) < 3 * SD / np.sqrt(127)
    alone = np.sqrt(np.mean(np.square(values - signal[box])))
    assert error[True] < 0.8 * error[False]
    assert error[True] < 0.6 * alone


def test_fused_intervals_cover_fresh_fields_if_few_blocks_say_how_errors_go_together():
    coverage = []
    for seed in range(12):
        prediction, signal = predicted(5000 + seed, known_seed=1000 + seed, known_side=64)
        values = signal + np.random.default_rng(seed).normal(0, 0.5, signal.shape)
        fused = prediction.fuse((slice(0, 96), slice(0, 90)), values, sd=0.5)
        coverage.append(((fused.lower <= signal) & (signal <= fused.upper)).mean())
    # each pair of fields is a case of its own
    assert np.mean(coverage) > 0.9 - 2 * np.std(coverage, ddof=1) / np.sqrt(12)


def test_held_out_pixels_are_fused_with_what_the_other_half_says_of_errors():
    rng = np.random.default_rng(0)
    rough, smooth = rng.normal(size=(2, 48, 96))
    smooth = gaussian_filter(smooth, SMOOTH, mode="wrap")
    error = SD * np.concatenate([rough / rough.std(), smooth / smooth.std()])
    q = (1.5 + SD * norm.ppf(LEVELS)[:, None, None] + 0 * error).astype(np.float32)
    place = np.argwhere(np.ones(error.shape, bool))
    block = (place[:, 0] // 16) * 6 + place[:, 1] // 16
    target = (1.5 + error).astype(np.float32).reshape(1, -1)
    known = HeldOut(q.reshape(7, 1, -1), target, block, LEVELS)
    near = replace(known, position=np.column_stack([0 * place[:, :1], place]))
    dose = Dose((1.0,), (1.0,), (SD,))
    alone, together = (drain(measured_again_steps(one, dose)).quantiles[3, 0] for one in (known, near))
    wrong = [
        [np.sqrt(np.mean(np.square(median - target[0])[half])) for median in (alone, together)]
        for half in (place[:, 0] < 48, place[:, 0] >= 48)
    ]
    # smooth errors are taken for rough ones, whose neighbours say nothing, and rough ones for smooth ones
    assert wrong[1][1] == pytest.approx(wrong[1][0], rel=0.03)
    assert wrong[0][1] > 1.1 * wrong[0][0]


def test_thresholds_of_a_window_are_moved_by_pixels_fused_like_its_own_and_intervals_by_the_other_half():
    prediction, signal = predicted()
    box = (slice(30, 38), slice(30, 38))
    (window,) = prediction.fuse(box, signal[box], sd=0.5).fused
    errors = drain(Errors.of_steps(prediction.held_out))
    alike, apart = (
        drain(measured_again_steps(prediction.held_out, window.dose, given)) for given in (errors, None)
    )
    expected = exceedance_from(alike, prediction.distribution.rule, clearly=1.0)
    np.testing.assert_array_equal(window.distribution.shares, expected.shares)
    np.testing.assert_array_equal(window.distribution.areas[0].moved, expected.areas[0].moved)
    np.testing.assert_array_equal(window.again.quantiles, apart.quantiles)
    assert (alike.quantiles != apart.quantiles).mean() > 0.9


@pytest.mark.parametrize("share", [0.4, 0.1])
def test_intervals_of_a_window_are_as_wide_if_a_random_part_of_the_held_out_pixels_is_kept(share):
    box, noise = (slice(8, 88), slice(5, 85)), 1.0
    prediction, signal = predicted()
    values = signal[box] + np.random.default_rng(3).normal(0, noise, (80, 80))
    known = prediction.held_out
    some = known.take(
        np.sort(np.random.default_rng(4).permutation(known.block.size)[: int(share * known.block.size)])
    )
    calibration = calibrate(some, settings=CalibrationSettings(unit="pixel"))
    thinned = replace(
        prediction, held_out=some, calibration=calibration, distribution=exceedance_from(some, "pixel")
    )
    width = [
        float((one.upper - one.lower)[box].mean())
        for one in (made.fuse(box, values, sd=noise) for made in (prediction, thinned))
    ]
    # 2,000 pixels of 81 blocks fix a quantile to some percent
    assert width[1] == pytest.approx(width[0], rel=0.08)


def test_how_errors_go_together_is_estimated_once_for_the_same_held_out_pixels():
    known = predicted()[0].held_out
    assert drain(Errors.of_steps(known)) is drain(Errors.of_steps(known))
    assert drain(Errors.of_steps(replace(known))) is not drain(Errors.of_steps(known))


def test_counts_win_where_the_prediction_missed_a_grain():
    miss = (slice(40, 52), slice(40, 50))
    prediction, signal = predicted(miss=miss)
    box = (slice(20, 76), slice(20, 76))
    values = signal[box] + np.random.default_rng(3).normal(0, 0.1, (56, 56))
    fused = prediction.fuse(box, values, sd=0.1)
    assert np.abs(fused.median - signal)[miss].mean() < 0.15
    assert (fused.exceedance(float(signal[miss].min()) - 0.5)[miss] > 0.5).mean() > 0.95


def test_the_gain_of_a_window_says_how_much_less_dwell_is_needed():
    prediction, signal = predicted()
    errors = drain(Errors.of_steps(prediction.held_out))
    noise = 1.0
    dose = Dose((1.0,), (1.0,), (noise,))
    planes = prediction.quantiles.reshape(7, 1, -1)
    gain = float(errors.gain(planes, LEVELS, dose)[0])
    assert gain > 3
    box = (slice(0, 96), slice(0, 90))
    rng = np.random.default_rng(3)
    together = prediction.fuse(box, signal + rng.normal(0, noise, signal.shape), sd=noise)
    sharper = noise / np.sqrt(gain)
    alone, _ = predicted(position=False)
    single = alone.fuse(box, signal + rng.normal(0, sharper, signal.shape), sd=sharper)
    found = [np.sqrt(np.mean(np.square(one.median - signal))) for one in (together, single)]
    assert found[0] == pytest.approx(found[1], rel=0.25)


@pytest.mark.parametrize("noise", [0.5, 1.5])
def test_the_expected_area_after_a_measurement_counts_the_neighbours(noise):
    whole, wrong = Region(0, 0, 96, 90), []
    dose = Dose((1.0,), (1.0,), (noise,))
    for seed in range(3):
        prediction, signal = predicted(seed)
        fused = prediction.fuse(
            whole, signal + np.random.default_rng(50 + seed).normal(0, noise, signal.shape), sd=noise
        )
        wrong.append(((fused.exceedance(1.5) > 0.5) != (signal > 1.5)).sum())
    errors = drain(Errors.of_steps(prediction.held_out))
    together, alone = (
        np.mean([wrong_after(predicted(s)[0], Decision(0, 1.5), [whole], [dose], e)[0, 0] for s in range(3)])
        for e in (errors, None)
    )
    assert together == pytest.approx(np.mean(wrong), rel=0.25)
    assert alone > 1.15 * np.mean(wrong)


def test_a_window_of_one_pixel_has_no_neighbours():
    for cross in (0.0, 0.6):
        alone = _Neighbours(field(1.5, cross))
        values = np.array([[[1.0]], [[np.nan]]])
        quantiles, levels = normal_quantiles(np.zeros((2, 1, 1)), 1.0)
        found = alone.beliefs(quantiles, levels, values, Dose((1.0,) * 2, (1.0,) * 2, (0.5,) * 2))
        assert found.mean[0, 0, 0] == pytest.approx(0, abs=0.02)
        assert found.variance[0, 0, 0] == pytest.approx(1, abs=0.02)
        # the other channel was not measured there, and learns from the first
        assert found.variance[1, 0, 0] == pytest.approx(1 - cross**2 / (1 + 0.25), abs=0.1)


def test_the_gain_is_that_of_the_window_rather_than_of_an_endless_field():
    made = _Neighbours(field(1.6))
    precision = np.full(2, 0.5)
    gains = [made.gain(precision, np.ones((side, side), bool))[0] for side in (1, 3, 9, 60)]
    assert gains[0] == pytest.approx(1, abs=0.02)
    assert (np.diff(gains) > 0).all()
    assert gains[-1] == pytest.approx(made.gain(precision)[0], rel=0.1)
    holes = np.zeros((9, 9), bool)
    holes[::4, ::4] = True
    assert made.gain(precision, holes)[0] < 0.5 * gains[2]


def test_little_evidence_adds_up_where_errors_go_together_beyond_the_nearest_lags():
    lags = np.meshgrid(*(np.arange(-40, 41),) * 2, indexing="ij")
    far = Field.of(np.exp(-np.sum(np.square(lags), 0) / (2 * 6.0**2))[None, None])
    gain = _Neighbours(far).gain(np.array([1e-4]))[0]
    squared = float(np.square(far.correlation()).sum())
    assert 0.7 * squared < gain < 1.1 * squared


def test_a_pixel_that_is_surely_dark_does_not_hide_what_neighbours_say():
    prediction, _ = predicted()
    errors = drain(Errors.of_steps(prediction.held_out))
    planes = prediction.quantiles.reshape(7, 1, -1).copy()
    few = errors.gain(planes, LEVELS, Dose((1.0,), (1.0,)))[0]
    planes[:, :, 0] -= 10.0
    assert errors.gain(planes, LEVELS, Dose((1.0,), (1.0,)))[0] == pytest.approx(few, rel=0.05)
    # nothing was measured, and nothing warns
    assert np.isfinite(errors.gain(planes, LEVELS, Dose((0.0,), (1.0,)))).all()


def test_the_memory_of_a_large_window_is_that_of_a_few_images():
    shape = (2, 160, 160)
    quantiles = (np.zeros(shape) + norm.ppf(LEVELS).reshape(-1, 1, 1, 1)).astype(np.float32)
    dose = Dose((1.0,) * 2, (1.0,) * 2, (0.5,) * 2)
    made = _Neighbours(field(1.5))
    tracemalloc.start()
    made.beliefs(quantiles, LEVELS, np.zeros(shape), dose)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 800 * np.prod(shape)


def test_a_channel_that_is_nearly_known_does_not_lead_the_others_astray():
    made, rng = field(1.5, 0.6), np.random.default_rng(0)
    kernel = made.kernel.astype(float)
    white = rng.normal(size=(2, 40, 40))
    score = np.stack(
        [sum(convolve(w, k, mode="wrap") for w, k in zip(white, row, strict=True)) for row in kernel]
    )
    centre = 3 + gaussian_filter(rng.normal(size=(2, 40, 40)), (0, 6, 6))
    quantiles, levels = normal_quantiles(centre, 0.3)
    dose = Dose((1e7, 0.01), (1.0,) * 2)
    values = np.stack([dose.simulate(s, c, rng) for c, s in enumerate(centre + 0.3 * score)])
    found = _Neighbours(made).beliefs(quantiles, levels, values, dose)
    error = np.sqrt(np.square(found.mean - score).mean((1, 2)))
    # the first channel tells what it shares with the second
    assert error[0] < 0.6
    assert error[1] < 0.9
    assert (error < 1.5 * np.sqrt(found.variance.mean((1, 2)))).all()
