"""A model of a camera's or detector's noise: its fit, its law, and its draws.

Long because they are methods of one class, and more than half are docstrings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import special

from napari_btn.core.data import photon_transfer
from napari_btn.core.data._noise_fit import Kind, fit_channel, offsets_of, record_channel, signal_range
from napari_btn.core.data.noise_frames import NoiseFrames, read_noise_frames_steps
from napari_btn.core.data.recorded_noise import Recorded, recorded_of
from napari_btn.core.progress import Progress, Step, counted, drain
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["NoiseModel", "need_noise_model"]

_CORRELATED = 0.1  # a smaller autocorrelation counts as none
_CORRELATED_IMAGE = 0.25  # the same for one image, where texture gives up to 0.2
_SUMMED = 25.0  # up to so many expected counts, Poisson and read-out noise are convolved exactly


_LATER: Any = None  # a value that __post_init__ sets


@dataclass(frozen=True, eq=False)
class NoiseModel:
    """Noise of each channel: counting, read-out, gain, offset, digitisation, excess and correlation.

    The variance at a signal ``s`` (in the unit of the image, offset included) is
    ``read_sd**2 + gain * excess * (s - offset) + multiplicative * (s - offset)**2``.

    Attributes
    ----------
    gain : ndarray of float, (C,)
        Value per count; 0 where the noise does not grow with the signal.
    offset : ndarray of float, (C,)
        Value without light.
    read_sd : ndarray of float, (C,)
        Standard deviation without light, in the unit of the image; rounding is included.
    fano : ndarray of float, (C,)
        Variance of the noise over mean above the offset, measured: 1 for plain counts; NaN if unknown.
    correlation : ndarray of float, (C, ndim, lags + 1)
        Autocorrelation of the noise along each space axis at lags of 0, 1, ... px.
    excess : ndarray of float, (C,)
        Excess noise factor of an amplifier: 1 for none, 2 for an electron multiplier.
    multiplicative : ndarray of float, (C,)
        Squared relative noise that is in proportion to the signal.
    step : ndarray of float, (C,)
        Step between neighbouring values; 0 where values are not digitised.
    saturation : ndarray of float, (C,)
        Largest value of the detector; infinite if none was seen.
    gain_se, fano_se : ndarray of float, (C,)
        Standard errors.
    source : str
        What was measured: "repeats", "frames", "image", or "given".
    curve : tuple of ndarray
        Points of the photon-transfer curve, (2, n) per channel: mean and variance.
    recorded : tuple of HistogramNoise or MixtureNoise
        Recorded distribution of each channel, which then rules variance, draws and likelihood; empty for none.
    """

    gain: NDArray[np.float64]
    offset: NDArray[np.float64] = _LATER
    read_sd: NDArray[np.float64] = _LATER
    fano: NDArray[np.float64] = _LATER
    correlation: NDArray[np.float64] = _LATER
    excess: NDArray[np.float64] = _LATER
    multiplicative: NDArray[np.float64] = _LATER
    step: NDArray[np.float64] = _LATER
    saturation: NDArray[np.float64] = _LATER
    gain_se: NDArray[np.float64] = _LATER
    fano_se: NDArray[np.float64] = _LATER
    source: str = "given"
    curve: tuple[NDArray[np.float64], ...] = field(default=())
    recorded: tuple[Recorded, ...] = ()

    def __post_init__(self) -> None:
        gain = np.atleast_1d(np.asarray(self.gain, np.float64))
        need(gain.size > 0, "gain", self.gain, "a number for each channel")
        defaults = {"excess": 1.0, "saturation": np.inf, "fano": np.nan, "gain_se": np.nan, "fano_se": np.nan}
        object.__setattr__(self, "gain", gain)
        for name in _PER_CHANNEL[1:]:
            came = getattr(self, name)
            value = np.asarray(defaults.get(name, 0.0) if came is None else came, np.float64)
            fits = value.ndim == 0 or value.shape == gain.shape
            need(
                fits, name, value.tolist(), f"one number, or one for each of {counted(len(gain), 'channel')}"
            )
            object.__setattr__(self, name, np.broadcast_to(value, gain.shape).copy())
        none = np.broadcast_to([1.0, 0.0], (len(gain), 2, 2))
        correlation = np.asarray(none if self.correlation is None else self.correlation, np.float64)
        object.__setattr__(self, "correlation", correlation)
        need(gain.ndim == 1 and bool((gain >= 0).all()), "gain", gain.tolist(), "0 or more")
        for name, low in (("read_sd", 0.0), ("excess", 1.0), ("multiplicative", 0.0), ("step", 0.0)):
            value = getattr(self, name)
            need(bool((value >= low).all()), name, value.tolist(), f"{low:g} or more")
        need(bool(np.isfinite(self.offset).all()), "offset", self.offset.tolist(), "finite")
        need(
            len(self.recorded) in (0, len(gain)),
            "recorded",
            len(self.recorded),
            f"of each of {counted(len(gain), 'channel')}",
        )
        ok = correlation.ndim == 3 and len(correlation) == len(gain) and correlation.shape[-1] > 1
        need(ok, "correlation's shape", correlation.shape, f"({len(gain)}, space axes, lags + 1)")

    @property
    def n_channels(self) -> int:
        """Number of channels."""
        return len(self.gain)

    @property
    def correlation_px(self) -> NDArray[np.int64]:
        """Correlation length of the noise, (C, ndim): last lag in px before it falls under 0.1; 0 is none."""
        least = _CORRELATED_IMAGE if self.source == "image" else _CORRELATED
        first = np.abs(self.correlation[..., 1:2])
        low = ~(np.abs(self.correlation) >= _CORRELATED) | ~(first >= least)
        low[..., 0] = False
        return np.asarray(np.where(low.any(-1), low.argmax(-1), low.shape[-1]) - 1, np.int64)

    @classmethod
    def fit(
        cls,
        frames: ArrayLike,
        axes: str = "TYX",
        *,
        offset: float | Sequence[float] | None = None,
        excess: float = 1.0,
        valid: NDArray[np.bool_] | None = None,
        kind: Kind = "photon transfer",
    ) -> Self:
        """Fit the noise of repeats (S), of consecutive frames (T), or of single images.

        Frames along T are of one field; they are aligned by whole pixels. Frames along S are
        repeats if they agree, else images of their own, each analysed by flat patches. Without
        a dark frame the offset and the read-out noise can't both be known: ``offset`` is taken
        as zero, or as where the variance would vanish if that is above zero.

        Parameters
        ----------
        frames : array_like
            Image in the axes ``axes``; numpy, dask or zarr.
        axes : str
            One letter per dimension, of S, T, C, Z, Y, X.
        offset : float or sequence of float, optional
            Value without light, one for all channels or one each.
        excess : float
            Excess noise factor of the amplifier, 1 or more.
        valid : ndarray of bool, optional
            True where a pixel counts; the shape of the space axes in the order Z, Y, X.
        kind : str
            "photon transfer", or a recorded distribution of about 100 frames of a static scene: "histogram",
            or "mixture" of normal distributions.

        Raises
        ------
        ValueError
            If the image is smaller than 16 px along Y or X, constant, or without known pixels; or if a recorded
            distribution is asked of fewer than 20 frames of one field.

        References
        ----------
        Janesick, Photon Transfer (SPIE Press, 2007), chapter 5.
        """
        seen = drain(read_noise_frames_steps(frames, axes, valid=valid))
        return drain(cls.fit_steps(seen, offset=offset, excess=excess, kind=kind))

    @classmethod
    def fit_steps(
        cls,
        seen: NoiseFrames,
        *,
        offset: float | Sequence[float] | None = None,
        excess: float = 1.0,
        kind: Kind = "photon transfer",
    ) -> Step[Self]:
        """Fit the noise of frames that were read; see `fit`.

        Raises
        ------
        ValueError
            If ``offset`` or ``excess`` is out of range.
        """
        need(np.isfinite(excess) and excess >= 1, "excess", excess, "1 or more")
        channels = seen.stack.shape[1]
        offsets = offsets_of(offset, channels)
        parts: list[dict[str, Any]] = []
        for c in range(channels):
            yield Progress(c, channels, "Measuring the noise")
            parts.append(fit_channel(seen, c, offsets[c], excess))
        correlation = np.stack([p.pop("correlation") for p in parts])
        curve = tuple(p.pop("curve") for p in parts)
        values = {name: np.array([p[name] for p in parts]) for name in parts[0]}
        recorded = []
        if kind != "photon transfer":
            for c in range(channels):
                yield Progress(c, channels, "Recording the noise")
                recorded.append(record_channel(seen, c, kind))
        return cls(
            source=seen.source, correlation=correlation, curve=curve, recorded=tuple(recorded), **values
        )

    @classmethod
    def from_recorded(cls, *channels: Recorded) -> Self:
        """Return the model of recorded distributions, one per channel, with the photon-transfer line fitted to them."""
        lines = []
        for one in channels:
            signal = np.linspace(*signal_range(one), 33)
            variance = np.maximum(one.variance(signal), 0)
            lines.append(photon_transfer.fit_line(signal, variance, np.ones(33)))
        intercept = np.array([max(line.intercept, 0.0) for line in lines])
        gain = np.array([max(line.slope, 0.0) for line in lines])
        return cls(gain=gain, read_sd=np.sqrt(intercept), recorded=channels)

    def variance(self, signal: ArrayLike, channel: int = 0) -> NDArray[np.float64]:
        """Return the variance of the noise at each value of the clean signal."""
        if self.recorded:
            return self.recorded[channel].variance(np.asarray(signal, np.float64))
        above = np.maximum(np.asarray(signal, np.float64) - self.offset[channel], 0.0)
        grows = self.gain[channel] * self.excess[channel] * above
        return np.asarray(self.read_sd[channel] ** 2 + grows + self.multiplicative[channel] * above**2)

    def sample(self, clean: ArrayLike, rng: np.random.Generator | int) -> NDArray[np.float32]:
        """Draw a noisy image whose mean is ``clean``.

        Independent noise is drawn count by count; correlated noise is normal, as wide and correlated as measured.

        Parameters
        ----------
        clean : array_like, (C, *space)
            Signal in the unit of the image, offset included; of one channel also without C.
        rng : numpy.random.Generator, or int as its seed

        Returns
        -------
        ndarray of float32
            The shape of ``clean``.

        Raises
        ------
        ValueError
            If the number of channels differs, the signal isn't finite, or ``rng`` is neither.
        """
        need(isinstance(rng, int | np.integer | np.random.Generator), "rng", rng, "a Generator or a seed")
        rng = np.random.default_rng(rng)
        signal = np.asarray(clean, np.float64)
        if self.n_channels == 1 and signal.ndim == self.correlation.shape[1]:
            signal = signal[None]
        if signal.ndim < 2 or len(signal) != self.n_channels:
            came = f"The clean signal has shape {np.shape(clean)}; the model has {counted(self.n_channels, 'channel')}."
            raise ValueError(f"{came} Give an array (channels, *space) with as many.")
        if not np.isfinite(signal).all():
            raise ValueError("The clean signal holds NaN or infinite values; fill or crop them first.")
        noisy = np.stack([self._sample(one, c, rng) for c, one in enumerate(signal)])
        return noisy.reshape(np.shape(clean)).astype(np.float32)

    def _sample(self, signal: NDArray[np.float64], c: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return a noisy image of one channel."""
        if self.correlation_px[c].any():
            noisy = signal + np.sqrt(self.variance(signal, c)) * _normal(
                signal.shape, self.correlation[c], rng
            )
            return self._digitised(noisy, c)
        if self.recorded:
            return self._digitised(self.recorded[c].sample(signal, rng), c)
        gain, offset, excess = self.gain[c], self.offset[c], self.excess[c]
        above = signal - offset
        if self.multiplicative[c] > 0:
            above = above * (1 + np.sqrt(self.multiplicative[c]) * rng.standard_normal(signal.shape))
        if gain > 0:
            light = np.maximum(above, 0)
            counts = rng.poisson(light / gain).astype(np.float64)
            if excess > 1:
                # gamma steps per count: mean gain, variance (excess - 1) * gain**2
                counts = (excess - 1) * rng.standard_gamma(counts / (excess - 1))
            above = np.minimum(above, 0) + gain * counts
        # rounding adds its part again
        read = np.sqrt(max(self.read_sd[c] ** 2 - self.step[c] ** 2 / 12, 0.0))
        if read > 0:
            above = above + read * rng.standard_normal(signal.shape)
        return self._digitised(offset + above, c)

    def _digitised(self, values: NDArray[np.float64], c: int) -> NDArray[np.float64]:
        """Return values rounded to the steps of the detector and clipped at its saturation."""
        if self.step[c] > 0:
            values = np.round(values / self.step[c]) * self.step[c]
        return np.asarray(np.minimum(values, self.saturation[c]))

    def log_likelihood(self, observed: ArrayLike, signal: ArrayLike, channel: int = 0) -> NDArray[np.float64]:
        """Return the log probability density of observed values given the clean signal.

        Counts follow the Poisson law, convolved with the normal read-out noise up to 25 expected
        counts; beyond, and for amplifiers with excess noise, a normal law of equal variance.

        Parameters
        ----------
        observed, signal : array_like
            Broadcast against each other, in the unit of the image.
        channel : int
            Number of the channel.
        """
        value, mean = np.broadcast_arrays(np.asarray(observed, np.float64), np.asarray(signal, np.float64))
        if self.recorded:
            return self.recorded[channel].log_likelihood(value, mean)
        variance = np.maximum(self.variance(mean, channel), 1e-12)
        normal = -0.5 * ((value - mean) ** 2 / variance + np.log(2 * np.pi * variance))
        gain = self.gain[channel]
        if gain == 0 or self.excess[channel] > 1 or self.multiplicative[channel] > 0:
            return np.asarray(normal)
        expected = np.maximum(mean - self.offset[channel], 1e-9 * gain) / gain
        low = expected <= _SUMMED
        if not low.any():
            return np.asarray(normal)
        counts, rate = (value - self.offset[channel])[low] / gain, expected[low]
        read = self.read_sd[channel] / gain
        if read < 0.05:
            # the nearest whole count; a density over values of one gain
            whole = np.maximum(np.round(counts), 0)
            normal[low] = special.xlogy(whole, rate) - rate - special.gammaln(whole + 1) - np.log(gain)
            return np.asarray(normal)
        total = np.full(rate.shape, -np.inf)
        for n in range(int(_SUMMED + 6 * np.sqrt(_SUMMED) + 8)):
            poisson = special.xlogy(n, rate) - rate - special.gammaln(n + 1)
            total = np.logaddexp(total, poisson - 0.5 * ((counts - n) / read) ** 2)
        normal[low] = total - np.log(read * gain * np.sqrt(2 * np.pi))
        return np.asarray(normal)

    def anscombe(self, x: ArrayLike, channel: int = 0) -> NDArray[np.float64]:
        """Return values whose noise has a standard deviation of about one.

        Raises
        ------
        ValueError
            If the model has no noise.

        References
        ----------
        Starck, Murtagh, Bijaoui, Image Processing and Data Analysis (1998), generalized Anscombe.
        """
        gain, read = self._effective(channel)
        above = np.asarray(x, np.float64) - self.offset[channel]
        if gain == 0:
            return np.asarray(above / read)
        return np.asarray(2 / gain * np.sqrt(np.maximum(gain * above + 0.375 * gain**2 + read**2, 0)))

    def inverse_anscombe(self, z: ArrayLike, channel: int = 0) -> NDArray[np.float64]:
        """Return the signal whose transformed values have the mean ``z``: the exact unbiased inverse.

        Raises
        ------
        ValueError
            If the model has no noise.

        References
        ----------
        Mäkitalo & Foi, IEEE Trans. Image Process. 22 (2013) 91, eq. 10: the closed form.
        """
        gain, read = self._effective(channel)
        z = np.asarray(z, np.float64)
        if gain == 0:
            return np.asarray(z * read + self.offset[channel])
        d = np.maximum(z, 2 * np.sqrt(0.375))
        root = np.sqrt(1.5)
        counts = d**2 / 4 + root / (4 * d) - 11 / (8 * d**2) + 5 * root / (8 * d**3) - 0.125
        return np.asarray(np.maximum(counts - (read / gain) ** 2, 0) * gain + self.offset[channel])

    def _effective(self, channel: int) -> tuple[float, float]:
        """Return the slope of the variance and the read-out noise of a channel."""
        gain, read = float(self.gain[channel] * self.excess[channel]), float(self.read_sd[channel])
        if gain == 0 and read == 0:
            raise ValueError(f"Channel {channel} of the noise model has neither gain nor read-out noise.")
        return gain, read

    def to_dict(self) -> dict[str, Any]:
        """Return the model as a JSON-ready dict."""
        arrays = {name: _listed(getattr(self, name)) for name in (*_PER_CHANNEL, "correlation")}
        made = {**arrays, "source": self.source, "curve": [_listed(points) for points in self.curve]}
        return made | {"recorded": [one.to_dict() for one in self.recorded]} if self.recorded else made

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the model of a dict of `to_dict`.

        Raises
        ------
        ValueError
            If a field is unknown, or the gain is missing.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"A noise model has no field {', '.join(unknown)}; it knows {', '.join(sorted(known))}."
            )
        if "gain" not in values:
            raise ValueError("The noise model has no gain; save it again with this program.")
        made: dict[str, Any] = {k: v for k, v in values.items() if k in ("source",)}
        for name in {*_PER_CHANNEL, "correlation"} & set(values):
            missing = np.inf if name == "saturation" else np.nan
            made[name] = _array(values[name], missing)
        curve = tuple(_array(points, np.nan) for points in values.get("curve", ()))
        return cls(**made, curve=curve, recorded=tuple(recorded_of(v) for v in values.get("recorded", ())))


_PER_CHANNEL = (
    "gain", "offset", "read_sd", "fano", "excess", "multiplicative", "step", "saturation", "gain_se", "fano_se",
)  # fmt: skip


def _listed(values: NDArray[np.float64]) -> Any:
    """Return nested lists, None where a number is not finite, as JSON needs."""
    return np.where(np.isfinite(values), values.astype(object), None).tolist()  # type: ignore[call-overload]


def _array(values: Any, missing: float) -> NDArray[np.float64]:
    """Return the array of nested lists; raise ``ValueError`` unless they are numbers."""
    try:
        made = np.asarray(values, dtype=object)
        return np.array([missing if v is None else v for v in made.ravel()], np.float64).reshape(made.shape)
    except (TypeError, ValueError) as error:
        raise ValueError("The noise model holds values that are not numbers; save it again.") from error


def _normal(
    shape: tuple[int, ...], correlation: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return a normal field of unit variance whose autocorrelation is the product of those along the axes."""
    margin = [2 * rho.size for rho in correlation]
    z = rng.standard_normal([n + m for n, m in zip(shape, margin, strict=True)])
    for axis, rho in enumerate(correlation):
        n = z.shape[axis]
        kernel = np.zeros(n)
        kept = np.nan_to_num(rho)[: n // 2]
        # a taper keeps the power of a cut-off autocorrelation from ringing
        kept = kept * np.where(np.abs(kept) < 0.02, 0, 1)
        kernel[: kept.size] = kept
        kernel[n - kept.size + 1 :] = kept[:0:-1]
        power = np.maximum(np.fft.rfft(kernel).real, 0)
        power /= (power[0] + 2 * power[1:].sum() - (power[-1] if n % 2 == 0 else 0)) / n
        turned = [1] * z.ndim
        turned[axis] = power.size
        spectrum = np.fft.rfft(z, axis=axis) * np.sqrt(power).reshape(turned)
        z = np.fft.irfft(spectrum, n, axis=axis)
    return np.asarray(z[tuple(slice(m // 2, m // 2 + n) for n, m in zip(shape, margin, strict=True))])


def need_noise_model(noise_model: object, channels: int) -> None:
    """Raise ``ValueError`` unless a noise model of so many channels came.

    Parameters
    ----------
    noise_model : NoiseModel
    channels : int
        Channels of the image.
    """
    if not isinstance(noise_model, NoiseModel):
        raise ValueError(
            f"noise_model is {noise_model!r}; give a NoiseModel, of a file btn.NoiseModel.load(path)."
        )
    if noise_model.n_channels != channels:
        raise ValueError(
            f"The noise model has {counted(noise_model.n_channels, 'channel')}, the image {channels}; fit one to such "
            "images."
        )
