"""Detector effects on a clean signal, one function each.

The effects compose in the order of the physics: counts arrive (`poisson`), are amplified
(`amplification`), read out (`readout`), and digitised (`digitise`). `defects` adds broken pixels
and saturation. `skewed` and `correlated` are noise models of their own. `noise_sd` estimates how much there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "DEAD",
    "HOT",
    "amplification",
    "correlated",
    "defect_map",
    "defects",
    "digitise",
    "noise_sd",
    "poisson",
    "readout",
    "skewed",
    "stripes",
]

DEAD: Final = 1
"""Value of a dead pixel in a map of `defect_map`."""
HOT: Final = 2
"""Value of a hot pixel, which is always saturated, in a map of `defect_map`."""

_MAX_COUNTS = 2.0**53


def poisson(
    clean: ArrayLike, *, rng: np.random.Generator, dose: float | NDArray[np.floating] = 1.0
) -> NDArray[np.float32]:
    """Draw Poisson counts of a signal.

    Parameters
    ----------
    clean : array_like
        Rate per pixel, finite and not negative.
    rng : numpy.random.Generator
        Source of randomness.
    dose : float or ndarray
        Expected counts at a rate of one; an array is broadcast against ``clean``, e.g. one
        dose per channel.

    Returns
    -------
    ndarray
        Whole numbers, float32, of the broadcast shape.

    Raises
    ------
    ValueError
        If a rate or a dose is negative, not finite, or too large to draw.
    """
    expected = np.asarray(clean, dtype=np.float64) * dose
    _need_rates(expected)
    return rng.poisson(expected).astype(np.float32)


def amplification(clean: ArrayLike, *, rng: np.random.Generator, gain: float = 100.0) -> NDArray[np.float32]:
    """Multiply counts by an avalanche gain, including its excess noise.

    The output of n counts follows a gamma distribution with shape n and scale ``gain``. This is the
    large-gain limit of an electron-multiplying register; its variance is twice that of an ideal
    amplifier. Zero counts stay zero.

    Parameters
    ----------
    clean : array_like
        Counts per pixel, finite and not negative, e.g. from `poisson`.
    rng : numpy.random.Generator
        Source of randomness.
    gain : float
        Mean output per count, above zero.

    Returns
    -------
    ndarray
        Amplified signal, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If a count is negative or not finite, or ``gain`` is not above zero.

    References
    ----------
    Basden, Haniff, Mackay, "Photon counting strategies with low-light-level CCDs",
    MNRAS 345 (2003), eq. 2.
    """
    counts = np.asarray(clean, dtype=np.float64)
    _need_rates(counts)
    need(gain > 0, "gain", gain, "above zero")
    return (gain * rng.standard_gamma(counts)).astype(np.float32)


def readout(
    clean: ArrayLike, *, rng: np.random.Generator, sd: float, offset: float = 0.0
) -> NDArray[np.float32]:
    """Add the normal noise and the offset of the read-out electronics.

    Parameters
    ----------
    clean : array_like
        Signal of any shape.
    rng : numpy.random.Generator
        Source of randomness.
    sd : float
        Standard deviation of the noise, in the unit of ``clean``, not negative.
    offset : float
        Constant added to every pixel.

    Returns
    -------
    ndarray
        Signal read out, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If ``sd`` is negative or not finite.
    """
    signal = np.asarray(clean, dtype=np.float32)
    need(np.isfinite(sd) and sd >= 0, "sd", sd, "zero or more")
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    return signal + np.float32(offset) + np.float32(sd) * noise


def digitise(clean: ArrayLike, *, step: float = 1.0, bits: int = 16) -> NDArray[np.float32]:
    """Round and clip a signal to the range of an analogue-to-digital converter.

    Parameters
    ----------
    clean : array_like
        Signal of any shape, finite.
    step : float
        Signal per digital number, above zero.
    bits : int
        Width of the converter, 1 to 24: the result lies in 0 to ``2**bits - 1``.

    Returns
    -------
    ndarray
        Digital numbers, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If ``step`` or ``bits`` is out of range, or the signal is not finite.
    """
    signal = np.asarray(clean, dtype=np.float64)
    need(step > 0, "step", step, "above zero")
    need(1 <= bits <= 24, "bits", bits, "1 to 24")
    if not np.isfinite(signal).all():
        raise ValueError("The signal holds NaN or infinite values, which have no digital number.")
    return np.clip(np.round(signal / step), 0, 2**bits - 1).astype(np.float32)


def skewed(
    clean: ArrayLike,
    *,
    rng: np.random.Generator,
    floor: float = 0.8,
    slope: float = 0.15,
    share: float = 0.7,
) -> NDArray[np.float32]:
    """Add asymmetric noise that grows with the signal.

    The noise has mean zero and standard deviation ``floor + slope * clean``. ``share`` of its
    variance comes from a centred exponential, the rest from a normal distribution.

    Parameters
    ----------
    clean : array_like
        Signal of any shape.
    rng : numpy.random.Generator
        Source of randomness.
    floor : float
        Standard deviation at a signal of zero.
    slope : float
        Growth of the standard deviation per unit of signal.
    share : float
        Share of the variance that is skewed, 0 to 1.

    Returns
    -------
    ndarray
        Noisy signal, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If ``share`` is outside 0 to 1, or the standard deviation is negative or NaN anywhere.
    """
    signal = np.asarray(clean, dtype=np.float32)
    need(0 <= share <= 1, "share", share, "0 to 1")
    sd = floor + slope * signal
    if not (sd >= 0).all():
        raise ValueError(
            f"floor {floor} and slope {slope} give a negative or undefined standard deviation for "
            "this signal; raise the floor or leave such pixels out."
        )
    exponential = rng.standard_exponential(signal.shape, dtype=np.float32) - 1
    normal = rng.standard_normal(signal.shape, dtype=np.float32)
    noise = np.sqrt(share) * exponential + np.sqrt(1 - share) * normal
    return np.asarray(signal + sd * noise, dtype=np.float32)


def correlated(
    clean: ArrayLike, *, rng: np.random.Generator, sd: float, length_px: float | Sequence[float]
) -> NDArray[np.float32]:
    """Add normal noise that is correlated between neighbouring pixels.

    Parameters
    ----------
    clean : array_like
        Signal of any shape.
    rng : numpy.random.Generator
        Source of randomness.
    sd : float
        Standard deviation of the noise, in the unit of ``clean``, not negative.
    length_px : float or sequence of float
        Sigma of the Gaussian kernel that correlates the noise, in pixels, one value or one
        per axis (zero: independent along that axis). The correlation of the noise falls as
        ``exp(-lag**2 / (4 * length_px**2))``.

    Returns
    -------
    ndarray
        Noisy signal, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If ``sd`` or a length is negative, or the number of lengths is not that of the axes.
    """
    signal = np.asarray(clean, dtype=np.float32)
    need(np.isfinite(sd) and sd >= 0, "sd", sd, "zero or more")
    lengths = _per_axis(length_px, signal.ndim)
    margin = [int(np.ceil(4 * length)) for length in lengths]
    # a margin, because reflection at the border would raise the variance there
    padded = tuple(n + 2 * m for n, m in zip(signal.shape, margin, strict=True))
    noise = gaussian_filter(rng.standard_normal(padded), lengths)
    inner = noise[tuple(slice(m, m + n) for m, n in zip(margin, signal.shape, strict=True))]
    return np.asarray(signal + sd * inner / _kernel_norm(lengths), dtype=np.float32)


def stripes(clean: ArrayLike, *, rng: np.random.Generator, sd: float, axis: int = -1) -> NDArray[np.float32]:
    """Add a random offset to each scan line.

    Parameters
    ----------
    clean : array_like
        Signal of any shape.
    rng : numpy.random.Generator
        Source of randomness.
    sd : float
        Standard deviation of the offsets, not negative.
    axis : int
        Axis along which scan lines run.

    Returns
    -------
    ndarray
        Striped signal, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If ``sd`` is negative, or ``axis`` isn't an axis of ``clean``.
    """
    signal = np.asarray(clean, dtype=np.float32)
    need(np.isfinite(sd) and sd >= 0, "sd", sd, "zero or more")
    need(-signal.ndim <= axis < signal.ndim, "axis", axis, f"an axis of {signal.ndim}")
    shape = list(signal.shape)
    shape[axis] = 1
    return signal + np.float32(sd) * rng.standard_normal(shape, dtype=np.float32)


def defect_map(
    shape: Sequence[int], *, rng: np.random.Generator, dead: float = 0.001, hot: float = 0.001
) -> NDArray[np.uint8]:
    """Draw a map of broken detector pixels: 0 works, `DEAD` or `HOT`.

    Parameters
    ----------
    shape : sequence of int
        Shape of the detector.
    rng : numpy.random.Generator
        Source of randomness.
    dead, hot : float
        Probability that a pixel is dead or hot, not negative, at most 1 together.

    Returns
    -------
    ndarray
        Map, uint8, of ``shape``.

    Raises
    ------
    ValueError
        If a probability is out of range.
    """
    need(dead >= 0, "dead", dead, "zero or more")
    need(hot >= 0, "hot", hot, "zero or more")
    need(dead + hot <= 1, "dead + hot", dead + hot, "at most 1")
    draw = rng.random(tuple(shape))
    return np.where(draw < dead, DEAD, np.where(draw < dead + hot, HOT, 0)).astype(np.uint8)


def defects(
    clean: ArrayLike,
    *,
    broken: NDArray[np.uint8],
    saturation: float,
) -> NDArray[np.float32]:
    """Saturate a signal and replace its broken pixels: dead ones by 0.

    Parameters
    ----------
    clean : array_like
        Signal; its last axes are those of ``broken``, so that all frames share the defects.
    broken : ndarray
        Map from `defect_map`.
    saturation : float
        Largest value of the detector, and the value of every hot pixel.

    Returns
    -------
    ndarray
        Signal with defects, float32, the shape of ``clean``.

    Raises
    ------
    ValueError
        If the last axes of ``clean`` don't have the shape of ``broken``.
    """
    signal = np.asarray(clean, dtype=np.float32)
    if signal.shape[signal.ndim - broken.ndim :] != broken.shape:
        raise ValueError(
            f"The signal has shape {signal.shape}, the defect map {broken.shape}; the map must have "
            "the shape of the signal's last axes. Draw the map for the detector's own shape."
        )
    shown = np.minimum(signal, np.float32(saturation))
    shown = np.where(broken == DEAD, np.float32(0), shown)
    return np.where(broken == HOT, np.float32(saturation), shown)


def _need_rates(expected: NDArray[np.float64]) -> None:
    """Raise ``ValueError`` unless every expected count can be drawn."""
    if not np.isfinite(expected).all():
        raise ValueError("The signal holds NaN or infinite values; counts need finite ones. Mask them first.")
    if (expected < 0).any():
        raise ValueError(
            f"The signal goes down to {expected.min():.4g}; counts need zero or more. "
            "Clip it at zero or subtract its minimum."
        )
    if (expected > _MAX_COUNTS).any():
        raise ValueError(
            f"The signal goes up to {expected.max():.4g} counts; at most {_MAX_COUNTS:.4g} can be "
            "drawn. Lower the dose."
        )


def _per_axis(length_px: float | Sequence[float], ndim: int) -> tuple[float, ...]:
    """Return one length per axis."""
    lengths = (float(length_px),) * ndim if np.ndim(length_px) == 0 else tuple(map(float, length_px))  # type: ignore[arg-type]
    if len(lengths) != ndim:
        raise ValueError(
            f"length_px has {len(lengths)} values, the signal {ndim} axes; give one value for all, "
            "or one per axis."
        )
    need(all(np.isfinite(v) and v >= 0 for v in lengths), "length_px", length_px, "zero or more")
    return lengths


def _kernel_norm(lengths: Sequence[float]) -> float:
    """Return the standard deviation of unit white noise after the Gaussian filter."""
    norm = 1.0
    for length in lengths:
        impulse = np.zeros(2 * int(np.ceil(4 * length)) + 3)
        impulse[len(impulse) // 2] = 1
        norm *= float(np.sqrt((gaussian_filter(impulse, length) ** 2).sum()))
    return norm


def noise_sd(parts: Sequence[NDArray[np.floating[Any]]]) -> float:
    """Return the standard deviation of the noise, from second differences of neighbours in a plane.

    Parameters
    ----------
    parts : sequence of ndarray, (*space)
        Parts of one channel; finite.

    References
    ----------
    Donoho & Johnstone, Biometrika 81 (1994) 425, on the median absolute deviation.
    """
    details = []
    for part in parts:
        along = [axis for axis, n in enumerate(part.shape) if n > 2][-2:]
        d = part
        for axis in along:
            d = np.diff(d, axis=axis) / np.sqrt(2.0)
        details.append(d.ravel())
    values = np.concatenate(details)
    spread = float(np.median(np.abs(values)) / 0.6745)
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    # of sparse counts most differences are zero
    return spread if spread > rms / 2 else rms
