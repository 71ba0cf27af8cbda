"""A pixel's own noisy value beside a prediction that was made without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

import napari_btn as btn
from napari_btn.core.calibration.distribution import ppf, variance
from napari_btn.core.calibration.own_pixel import add_own_pixels_steps
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.image import View
from napari_btn.core.data.noise_models import NoiseModel
from napari_btn.core.progress import drain
from napari_btn.core.settings import PRESETS

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
NOISE_SD = 3.0


def blind(shape, axes, seed, misjudged=1.0):
    """Return clean and noisy image, maps of a blind prediction of known errors, and these errors' variances."""
    rng = np.random.default_rng(seed)
    # errors of the surroundings differ from pixel to pixel: from none to three times the noise
    error = rng.choice([0.0, 1.0, 9.0], size=shape)
    middle = rng.normal(50, 10, size=shape)
    clean = middle + rng.normal(size=shape) * error
    noisy = clean + rng.normal(size=shape) * NOISE_SD
    sd = np.sqrt(misjudged * (error**2 + NOISE_SD**2))
    quantiles = np.stack([middle + norm.ppf(level) * sd for level in LEVELS]).astype(np.float32)
    maps = {name: np.empty(shape, np.float32) for name in ("mean", "signal_sd")} | {"quantiles": quantiles}
    view = View(noisy.astype(np.float32), axes)
    return clean, view, maps, error


@pytest.mark.parametrize(
    ("shape", "axes"), [((301, 217), "YX"), ((2, 3, 97, 131), "SCYX"), ((9, 83, 71), "ZYX")]
)
@pytest.mark.parametrize("misjudged", [0.5, 1.0, 2.0])
def test_own_values_reach_the_error_of_the_best_linear_estimate(shape, axes, misjudged):
    clean, view, maps, error = blind(shape, axes, seed=41, misjudged=misjudged)
    channels = view.n_channels
    noise = NoiseModel(gain=[0.0] * channels, read_sd=[NOISE_SD] * channels)
    drain(add_own_pixels_steps(view, noise, maps, LEVELS))
    for sd in (0.0, 1.0, 9.0):
        here = error == sd
        best = sd**2 * NOISE_SD**2 / (sd**2 + NOISE_SD**2)
        found = np.mean((maps["mean"] - clean)[here] ** 2)
        # one part in 50 of the noise: quantiles are interpolated, weights fitted
        assert found <= best + 0.02 * NOISE_SD**2
    half = norm.ppf(0.95) * maps["signal_sd"]
    inside = np.abs(maps["mean"] - clean) <= half + 1e-3
    for sd in (1.0, 9.0):
        # the variance ``sd**2`` is fitted to n squares of mean ``sd**2 + noise``; its error moves the bounds
        n = int((error == sd).sum()) / channels
        off = np.sqrt(2 / n) * (sd**2 + NOISE_SD**2) / sd**2 / 2 * NOISE_SD**2 / (sd**2 + NOISE_SD**2)
        moved = 2 * norm.pdf(norm.ppf(0.95)) * norm.ppf(0.95) * off
        assert abs(inside[error == sd].mean() - 0.9) < 3 * np.sqrt(0.09 / n) + 3 * moved + 0.01


def test_a_right_prediction_leaves_own_values_out_and_a_useless_one_takes_them():
    rng = np.random.default_rng(5)
    clean = rng.normal(0, 100, size=(128, 96))
    noisy = clean + rng.normal(size=clean.shape) * NOISE_SD
    noise = NoiseModel(gain=[0.0], read_sd=[NOISE_SD])
    for middle, sd, wanted in ((clean, NOISE_SD, 0.0), (np.zeros_like(clean), 100.0, 1.0)):
        quantiles = np.stack([middle + norm.ppf(level) * sd for level in LEVELS]).astype(np.float32)
        maps = {"mean": np.empty(clean.shape, np.float32), "signal_sd": np.empty(clean.shape, np.float32)}
        view = View(noisy.astype(np.float32), "YX")
        (weight,) = drain(add_own_pixels_steps(view, noise, maps | {"quantiles": quantiles}, LEVELS))
        # the weight is fitted to 12,288 squares, whose mean has a relative error of 1.3 %
        assert abs(weight - wanted) < 0.04


@pytest.mark.parametrize(
    ("error", "variance_said", "wide"),
    [(1.0, 9.5, False), (1.0, 8.0, True), (9.0, 4.0, False), (9.0, 16.0, True)],
)
def test_an_interval_is_too_narrow_by_too_much_noise_at_small_weights_and_by_too_little_at_large_ones(
    error, variance_said, wide
):
    # with the sum T of both variances, b T that of the noise, and a T what is said of it, the variance that is
    # said of the mean minus the true one is T (1 - 2a) (a - b)
    rng = np.random.default_rng(8)
    middle = rng.normal(50, 10, size=(256, 256))
    clean = middle + rng.normal(size=middle.shape) * error
    noisy = clean + rng.normal(size=middle.shape) * NOISE_SD
    sd = np.hypot(error, NOISE_SD)
    quantiles = np.stack([middle + norm.ppf(level) * sd for level in LEVELS]).astype(np.float32)
    maps = {name: np.empty(middle.shape, np.float32) for name in ("mean", "signal_sd")} | {
        "quantiles": quantiles
    }
    noise = NoiseModel(gain=[0.0], read_sd=[variance_said**0.5])
    drain(add_own_pixels_steps(View(noisy.astype(np.float32), "YX"), noise, maps, LEVELS))
    inside = np.mean(np.abs(maps["mean"] - clean) <= norm.ppf(0.95) * maps["signal_sd"])
    assert inside > 0.93 if wide else inside < 0.85


def test_unknown_pixels_stay_unknown_and_others_do_not_see_them():
    _, view, maps, _ = blind((64, 80), "YX", seed=3)
    maps["quantiles"][:, 10:20] = np.nan
    drain(add_own_pixels_steps(view, NoiseModel(gain=[0.0], read_sd=[NOISE_SD]), maps, LEVELS))
    for name in ("mean", "signal_sd"):
        assert np.isnan(maps[name][10:20]).all()
        assert np.isfinite(np.delete(maps[name], np.s_[10:20], axis=0)).all()


def test_noise_of_other_channels_is_refused():
    _, view, maps, _ = blind((20, 20), "YX", seed=3)
    with pytest.raises(ValueError, match="2 channels, the image 1"):
        drain(add_own_pixels_steps(view, NoiseModel(gain=[0.0, 0.0]), maps, LEVELS))


@pytest.mark.parametrize("levels", [LEVELS, (0.1, 0.9)])
def test_variance_is_that_of_the_quantile_function(levels):
    values = np.sort(np.random.default_rng(2).normal(1000, 1, size=(len(levels), 7)), axis=0)
    drawn = np.stack([ppf(values, levels, float(u)) for u in (np.arange(20_000) + 0.5) / 20_000])
    np.testing.assert_allclose(variance(values, levels), drawn.astype(np.float64).var(0), rtol=2e-3)
    with pytest.raises(ValueError, match="planes"):
        variance(values[:1], levels)


@pytest.fixture(scope="module")
def noisy_and_clean():
    clean = btn.samples.edx(seed=71, size=(96, 130)).clean[0] * 100
    return (clean + np.random.default_rng(7).normal(0, 20, clean.shape)).astype(np.float32), clean


@pytest.fixture(scope="module")
def trained(noisy_and_clean):
    settings = btn.SupervisionSettings(own_pixel=True)
    train = replace(PRESETS["quick"], steps=20)
    denoiser = btn.Denoiser(
        "quick", members=1, supervision="noise2void", supervision_settings=settings, train=train
    )
    return denoiser.fit(noisy_and_clean[0], axes="YX", executor=Inline())


def test_own_values_of_noise2void_lower_the_error_of_the_mean(trained, noisy_and_clean):
    noisy, clean = noisy_and_clean
    made = trained.predict(noisy, "YX", executor=Inline())
    blind_mean = replace(made, stored_mean=None).mean
    assert np.mean((made.mean - clean) ** 2) < 0.9 * np.mean((blind_mean - clean) ** 2)
    # the interval of the clean signal has its middle in the mean, and is narrower than that of noisy values
    interval = made.signal_interval()
    np.testing.assert_allclose((interval.lower + interval.upper) / 2, made.mean, rtol=1e-4, atol=1e-3)
    assert np.mean(interval.upper - interval.lower) < np.mean(made.width)
    assert "noise model" in interval.caption
    assert any("own noisy value" in note.text for note in made.notes)


def test_maps_on_disk_and_from_a_bundle_are_those_in_memory(trained, noisy_and_clean, tmp_path):
    noisy, _ = noisy_and_clean
    made = trained.predict(noisy, "YX", executor=Inline())
    trained.save(tmp_path / "own.btn")
    again = btn.load(tmp_path / "own.btn")
    stored = again.predict(noisy, "YX", out=tmp_path / "own.ome.zarr", quantiles=False, executor=Inline())
    np.testing.assert_array_equal(np.asarray(stored.mean[...]), made.mean)
    np.testing.assert_array_equal(np.asarray(stored.signal_sd[...]), made.signal_sd)


def test_a_fused_window_keeps_own_values_outside(trained, noisy_and_clean):
    noisy, _ = noisy_and_clean
    made = trained.predict(noisy, "YX", executor=Inline())
    window = (slice(10, 30), slice(40, 60))
    fused = made.fuse(window, np.full((20, 20), 50.0), dose=1.0, sd=5.0)
    outside = np.ones(noisy.shape, bool)
    outside[window] = False
    np.testing.assert_array_equal(fused.mean[outside], made.mean[outside])
    assert not np.array_equal(fused.mean[~outside], made.mean[~outside])


def test_supervisions_that_see_the_pixel_leave_own_values_alone(noisy_and_clean):
    noisy, clean = noisy_and_clean
    settings = btn.SupervisionSettings(own_pixel=True)
    train = replace(PRESETS["quick"], steps=4)
    denoiser = btn.Denoiser("quick", members=1, supervision_settings=settings, train=train)
    made = denoiser.fit(noisy, clean, axes="YX", executor=Inline()).predict(noisy, "YX", executor=Inline())
    assert made.signal_sd is None


def test_correlated_noise_leaves_own_values_out_and_says_so(trained, noisy_and_clean):
    # noise of pairs of neighbours: a pixel's own value is no news beside its neighbour's
    grain = np.repeat(np.random.default_rng(8).normal(0, 20, (96, 65)), 2, axis=1)
    made = trained.predict((noisy_and_clean[1] + grain).astype(np.float32), "YX", executor=Inline())
    assert made.signal_sd is None
    assert any("leaves each pixel's own value out" in note.text for note in made.notes)
    np.testing.assert_array_equal(made.mean, replace(made, stored_mean=None).mean)
