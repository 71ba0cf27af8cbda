from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.core.data import noise


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(rate=st.floats(0.05, 50), seed=st.integers(0, 2**32))
def test_poisson_counts_have_variance_equal_to_their_mean(rate: float, seed: int) -> None:
    counts = noise.poisson(np.full(40_000, rate), rng=_rng(seed))
    assert counts.dtype == np.float32
    assert np.array_equal(counts, np.round(counts))
    assert counts.mean() == pytest.approx(rate, abs=6 * np.sqrt(rate / 40_000))
    # the fourth moment of a Poisson law: Var(s^2) ~ (rate + 2 rate^2) / n
    assert counts.var() == pytest.approx(rate, abs=6 * np.sqrt((rate + 2 * rate**2) / 40_000))


def test_poisson_takes_one_dose_per_channel() -> None:
    counts = noise.poisson(np.ones((3, 101, 97)), rng=_rng(), dose=np.array([1, 10, 100])[:, None, None])
    np.testing.assert_allclose(counts.mean((1, 2)), [1, 10, 100], rtol=0.05)


def test_amplification_doubles_the_variance_of_an_ideal_amplifier() -> None:
    counts = noise.poisson(np.full(200_000, 9.0), rng=_rng())
    amplified = noise.amplification(counts, rng=_rng(1), gain=50)
    assert amplified.mean() == pytest.approx(50 * 9, rel=0.01)
    assert amplified.var() == pytest.approx(2 * 50**2 * 9, rel=0.03)
    assert (amplified[counts == 0] == 0).all()


def test_readout_is_normal_with_its_offset() -> None:
    read = noise.readout(np.full(100_000, 3.0), rng=_rng(), sd=0.5, offset=2.0)
    assert read.mean() == pytest.approx(5, abs=0.01)
    assert read.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(noise.readout(np.arange(7), rng=_rng(), sd=0), np.arange(7))


@given(bits=st.integers(1, 24), step=st.floats(1e-3, 1e3))
def test_digital_numbers_are_whole_and_within_the_converter(bits: int, step: float) -> None:
    signal = np.linspace(-2 * step, 1.5 * step * 2**bits, 501)
    numbers = noise.digitise(signal, step=step, bits=bits).astype(np.float64)
    assert np.array_equal(numbers, np.round(numbers))
    assert numbers.min() == 0
    assert numbers.max() == 2**bits - 1
    inside = (signal >= 0) & (signal <= step * (2**bits - 1))
    assert np.abs(numbers[inside] * step - signal[inside]).max() <= 0.5001 * step


@pytest.mark.parametrize("level", [0.0, 1.0, 4.0])
def test_skewed_noise_follows_its_law(level: float) -> None:
    error = noise.skewed(np.full(400_000, level), rng=_rng(), floor=0.8, slope=0.15, share=0.7) - level
    sd = 0.8 + 0.15 * level
    assert error.mean() == pytest.approx(0, abs=5 * sd / np.sqrt(400_000))
    assert error.std() == pytest.approx(sd, rel=0.01)
    # an exponential has skewness 2; the normal share adds none
    assert ((error / sd) ** 3).mean() == pytest.approx(2 * 0.7**1.5, abs=0.05)


@pytest.mark.parametrize("length", [0.0, 0.7, 2.0, (0.0, 3.0)])
def test_correlated_noise_has_its_variance_and_correlation_up_to_the_border(
    length: float | tuple[float, float],
) -> None:
    draws = np.stack(
        [noise.correlated(np.zeros((41, 67)), rng=_rng(k), sd=0.3, length_px=length) for k in range(120)]
    )
    assert draws.std() == pytest.approx(0.3, rel=0.03)
    assert draws[:, 0, 0].std() == pytest.approx(0.3, rel=0.25)
    along = np.broadcast_to(length, 2)[1]
    got = (draws[:, :, 1:] * draws[:, :, :-1]).mean() / draws.var()
    # a kernel under a pixel wide is sampled too coarsely for the continuous formula
    want = 0.0 if along == 0 else np.exp(-1 / (4 * along**2))
    assert got == pytest.approx(want, abs=0.05)


def test_stripes_are_constant_along_their_axis() -> None:
    striped = noise.stripes(np.zeros((3, 301, 57)), rng=_rng(), sd=0.2, axis=-1)
    assert np.ptp(striped, axis=-1).max() == 0
    assert striped[..., 0].std() == pytest.approx(0.2, rel=0.1)


@given(dead=st.floats(0, 0.5), hot=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_defects_are_shared_by_all_frames(dead: float, hot: float, seed: int) -> None:
    broken = noise.defect_map((50, 61), rng=_rng(seed), dead=dead, hot=hot)
    assert (broken == noise.DEAD).mean() == pytest.approx(dead, abs=0.06)
    assert (broken == noise.HOT).mean() == pytest.approx(hot, abs=0.06)
    signal = _rng(seed).uniform(1, 6, (4, 50, 61))
    shown = noise.defects(signal, broken=broken, saturation=5)
    assert (shown[:, broken == noise.DEAD] == 0).all()
    assert (shown[:, broken == noise.HOT] == 5).all()
    works = broken == 0
    np.testing.assert_allclose(shown[:, works], np.minimum(signal, 5)[:, works], rtol=1e-6)


@pytest.mark.parametrize(
    "draw",
    [
        lambda x, rng: noise.poisson(x, rng=rng),
        lambda x, rng: noise.amplification(x, rng=rng),
        lambda x, rng: noise.readout(x, rng=rng, sd=1),
        lambda x, rng: noise.skewed(x, rng=rng),
        lambda x, rng: noise.correlated(x, rng=rng, sd=1, length_px=1),
        lambda x, rng: noise.stripes(x, rng=rng, sd=1),
    ],
)
def test_the_same_seed_gives_the_same_noise_and_leaves_the_signal_alone(draw) -> None:  # type: ignore[no-untyped-def]
    clean = np.full((3, 5, 7), 4.0)
    first, second, other = (draw(clean, _rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    assert (clean == 4).all()
    assert first.dtype == np.float32
    assert first.shape == clean.shape


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: noise.poisson([-1.0, 2.0], rng=_rng()), "goes down to -1; counts need zero or more"),
        (lambda: noise.poisson([np.nan], rng=_rng()), "NaN or infinite"),
        (lambda: noise.poisson([1.0], rng=_rng(), dose=1e300), "Lower the dose"),
        (lambda: noise.amplification([1.0], rng=_rng(), gain=0), "gain is 0; it must be above zero"),
        (lambda: noise.readout([1.0], rng=_rng(), sd=-1), "sd is -1; it must be zero or more"),
        (lambda: noise.digitise([1.0], bits=0), "bits is 0; it must be 1 to 24"),
        (lambda: noise.digitise([np.inf]), "no digital number"),
        (lambda: noise.skewed([1.0], rng=_rng(), share=1.5), "share is 1.5"),
        (lambda: noise.skewed([9.0], rng=_rng(), slope=-1), "standard deviation"),
        (lambda: noise.correlated(np.ones((4, 4)), rng=_rng(), sd=1, length_px=(1, 2, 3)), "3 values"),
        (lambda: noise.stripes(np.ones(4), rng=_rng(), sd=1, axis=2), "axis is 2"),
        (lambda: noise.defect_map((4, 4), rng=_rng(), dead=0.7, hot=0.7), "at most 1"),
        (lambda: noise.defects(np.ones((4, 5)), broken=np.zeros((5, 4), np.uint8), saturation=1), "(5, 4)"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(call, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert sentence in str(caught.value)
