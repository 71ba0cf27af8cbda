"""Fits of noise models to simulated noise of a known law, and their draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import gaussian_filter

import napari_btn as btn
from napari_btn.core.data import noise


def _clean(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Return a smooth signal between two values."""
    smooth = gaussian_filter(rng.standard_normal(shape), [0] * (len(shape) - 2) + [9, 9])
    smooth -= smooth.min()
    return low + (high - low) * smooth / smooth.max()


def _camera(
    clean: np.ndarray, rng: np.random.Generator, gain: float, offset: float, read: float
) -> np.ndarray:
    """Return one frame of a camera whose mean is ``clean``."""
    counts = rng.poisson((clean - offset) / gain)
    return noise.digitise(noise.readout(gain * counts, rng=rng, sd=read, offset=offset))


@pytest.mark.parametrize(("gain", "offset", "read"), [(2.2, 100, 12), (0.7, 0, 5), (5, 300, 30)])
def test_photon_transfer_of_frames_finds_gain_and_read_noise(gain: float, offset: float, read: float) -> None:
    rng = np.random.default_rng(1)
    clean = _clean(rng, (121, 151), offset, offset + 300 * gain)
    frames = np.stack([_camera(clean, rng, gain, offset, read) for _ in range(16)])
    model = btn.NoiseModel.fit(frames, axes="TYX", offset=offset)
    assert model.gain[0] == pytest.approx(gain, rel=0.03)
    assert model.read_sd[0] == pytest.approx(read, rel=0.1)
    assert model.step[0] == 1
    assert (model.correlation_px == 0).all()
    assert model.source == "frames"


def test_plain_counts_have_a_fano_factor_of_one() -> None:
    rng = np.random.default_rng(2)
    clean = _clean(rng, (2, 97, 110), 0.2, 9)
    model = btn.NoiseModel.fit(rng.poisson(clean, (6, *clean.shape)), axes="SCYX")
    assert model.source == "repeats"
    np.testing.assert_allclose(model.gain, 1, atol=0.03)
    np.testing.assert_allclose(model.fano, 1, atol=0.03)
    np.testing.assert_allclose(model.read_sd, 0, atol=0.05)
    assert (np.abs(model.fano - 1) < 4 * model.fano_se).all()


@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_one_image_gives_the_gain_within_ten_per_cent(gain: float) -> None:
    rng = np.random.default_rng(3)
    clean = _clean(rng, (251, 301), 1, 60)
    clean[60:140, 80:200] += 40  # an edge, which is no noise
    model = btn.NoiseModel.fit(gain * rng.poisson(clean), axes="YX")
    assert model.source == "image"
    assert model.gain[0] == pytest.approx(gain, rel=0.1)
    assert model.step[0] == pytest.approx(gain)


def test_scenes_along_s_are_no_repeats() -> None:
    rng = np.random.default_rng(4)
    clean = np.stack([_clean(rng, (96, 96), 1, 50) for _ in range(3)])
    model = btn.NoiseModel.fit(rng.poisson(clean), axes="SYX")
    assert model.source == "image"
    assert model.gain[0] == pytest.approx(1, rel=0.1)


def test_drifting_frames_are_aligned() -> None:
    rng = np.random.default_rng(5)
    wide = _clean(rng, (120, 140), 2, 40)
    wide[rng.choice(120, 15, replace=False)] += 30  # thin lines: unaligned, they would raise the variance
    wide[:, rng.choice(140, 15, replace=False)] += 30
    frames = np.stack([rng.poisson(wide[4 + 2 * k : 104 + 2 * k, 8 - k : 128 - k]) for k in range(4)])
    assert btn.NoiseModel.fit(frames, axes="TYX").gain[0] == pytest.approx(1, rel=0.05)


def test_correlation_along_rows_is_measured() -> None:
    rng = np.random.default_rng(6)
    clean = _clean(rng, (80, 130), 0, 20)
    z = np.empty((5, *clean.shape))
    z[..., 0] = rng.standard_normal(z.shape[:-1])
    for x in range(1, z.shape[-1]):
        z[..., x] = 0.7 * z[..., x - 1] + np.sqrt(1 - 0.49) * rng.standard_normal(z.shape[:-1])
    frames = clean + 3 * z
    fits = ((btn.NoiseModel.fit(frames, axes="TYX"), 0.04), (btn.NoiseModel.fit(frames[0], axes="YX"), 0.16))
    for model, tolerance in fits:
        np.testing.assert_allclose(model.correlation[0, 1, :4], 0.7 ** np.arange(4), atol=tolerance)
        assert model.correlation_px[0, 0] == 0
        assert model.correlation_px[0, 1] >= 3
        assert np.sqrt(model.variance(10.0)) == pytest.approx(3, rel=0.15)
    drawn = btn.NoiseModel.fit(frames, axes="TYX").sample(np.full((1, 200, 300), 10.0), rng)[0] - 10
    assert drawn.std() == pytest.approx(3, rel=0.05)
    assert np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1] == pytest.approx(0.7, abs=0.03)


def test_noise_in_proportion_to_the_signal_is_quadratic() -> None:
    rng = np.random.default_rng(7)
    clean = _clean(rng, (110, 120), 0, 30).astype(np.float32)
    frames = np.stack([noise.skewed(clean, rng=rng) for _ in range(10)])
    model = btn.NoiseModel.fit(frames, axes="TYX")
    np.testing.assert_allclose(np.sqrt(model.variance([5.0, 25.0])), [1.55, 4.55], rtol=0.05)


def test_volumes_are_measured_too() -> None:
    rng = np.random.default_rng(8)
    clean = _clean(rng, (7, 65, 70), 1, 30)
    model = btn.NoiseModel.fit(rng.poisson(clean), axes="ZYX")
    assert model.gain[0] == pytest.approx(1, rel=0.1)
    assert model.correlation.shape[:2] == (1, 3)


def test_draws_have_the_mean_and_variance_of_the_law() -> None:
    rng = np.random.default_rng(9)
    clean = np.repeat(np.array([110.0, 130, 200])[None, :, None], 40_000, axis=2)
    for excess in (1.0, 2.0, 1.4):
        model = btn.NoiseModel(gain=3.0, offset=100.0, read_sd=4.0, excess=excess, step=1.0)
        drawn = model.sample(clean, rng)[0].astype(float)
        np.testing.assert_allclose(drawn.mean(1), clean[0, :, 0], atol=0.5)
        np.testing.assert_allclose(drawn.var(1), model.variance(clean[0, :, 0]), rtol=0.05)


@pytest.mark.parametrize("shape", [(7, 9), (3, 7, 9)])
def test_one_channel_needs_no_axis_of_channels_and_a_seed_is_a_generator(shape: tuple[int, ...]) -> None:
    lags = np.broadcast_to([1.0, 0.0], (1, len(shape), 2))
    noise, clean = btn.NoiseModel(gain=2.0, offset=10.0, correlation=lags), np.full(shape, 40.0)
    drawn = noise.sample(clean, 3)
    assert (drawn.shape, drawn.dtype) == (shape, np.float32)
    np.testing.assert_array_equal(drawn, noise.sample(clean[None], np.random.default_rng(3))[0])
    with pytest.raises(ValueError, match="rng is None"):
        noise.sample(clean, None)


def test_likelihood_of_counts_is_that_of_scipy() -> None:
    counts, rate = np.arange(12)[:, None], np.array([0.3, 2.0, 7.0])
    plain = btn.NoiseModel(gain=1.0, step=1.0)
    np.testing.assert_allclose(
        plain.log_likelihood(counts, rate), stats.poisson.logpmf(counts, rate), atol=1e-9
    )
    mixed = btn.NoiseModel(gain=2.0, offset=10.0, read_sd=1.5)
    grid = np.arange(-20, 120, 0.05)
    mass = np.exp(mixed.log_likelihood(grid[:, None], 10 + 2 * rate)).sum(0) * 0.05
    np.testing.assert_allclose(mass, 1, atol=1e-3)


def test_anscombe_makes_the_noise_even_and_its_inverse_is_unbiased() -> None:
    rng = np.random.default_rng(10)
    model = btn.NoiseModel(gain=2.0, offset=50.0, read_sd=1.0)
    for counts in (1.5, 4.0, 30.0):
        clean = np.full((1, 1, 200_000), 50 + 2 * counts)
        z = model.anscombe(model.sample(clean, rng))
        if counts > 3:
            assert z.std() == pytest.approx(1, abs=0.05)
        assert model.inverse_anscombe(z.mean()) == pytest.approx(50 + 2 * counts, abs=0.05 * counts + 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: btn.NoiseModel.fit(np.ones((40, 40)), axes="YX"), "constant"),
        (lambda: btn.NoiseModel.fit(np.ones((8, 40)), axes="YX"), "at least 16 x 16"),
        (lambda: btn.NoiseModel.fit(np.eye(40), axes="YX", valid=np.ones((3, 3), bool)), "must match"),
        (lambda: btn.NoiseModel.fit(np.eye(40), axes="YX", valid=np.zeros((40, 40), bool)), "0 pixels"),
        (lambda: btn.NoiseModel.fit(np.eye(40), axes="YX", excess=0.5), "excess is 0.5"),
        (lambda: btn.NoiseModel(gain=-1.0), "gain is"),
        (lambda: btn.NoiseModel(gain=[1.0, 1], offset=[1.0, 2, 3]), "offset is"),
        (
            lambda: btn.NoiseModel(gain=1.0).sample(np.ones((2, 4, 4)), np.random.default_rng(0)),
            "has 1 channel\\.",
        ),
        (lambda: btn.NoiseModel.from_dict({"gain": [1], "colour": 2}), "no field colour"),
        (lambda: btn.NoiseModel.from_dict({"gain": ["red"]}), "not numbers"),
        (lambda: btn.NoiseModel(gain=0.0).anscombe(1.0), "neither gain"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_no_variance_is_negative_at_a_known_offset() -> None:
    rng = np.random.default_rng(11)
    # a narrow range of brightness far from the offset, as of a dim uniform field
    clean = _clean(rng, (120, 130), 400, 460)
    frame = _camera(clean, rng, 2.2, 100, 6)
    model = btn.NoiseModel.fit(frame, axes="YX", offset=100)
    assert model.gain[0] == pytest.approx(2.2, rel=0.3)
