"""The relation of a measured value to the signal: dose, gain and noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.progress import counted
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

__all__ = ["Dose", "dose_of"]

_DARK = 1e-9  # least expected counts: a signal of 0 excludes no count entirely
_SEED = 0x5EED
_REST = 0.25  # largest share of the mean that may be an offset


@dataclass(frozen=True)
class Dose:
    """The relation of a measured value to the signal: ``value ~ gain * Poisson(dose * signal)``.

    With ``sd``, ``value ~ Normal(gain * dose * signal, sd)``.

    Parameters
    ----------
    dose : tuple of float
        Expected counts at a signal of one, in the units of the maps, for each channel.
    gain : tuple of float
        Measured value per count, for each channel.
    sd : tuple of float, optional
        Standard deviation of normal noise in the unit of the measured value, for each channel, instead of
        counting noise.

    Raises
    ------
    ValueError
        If a dose is negative, a gain or a standard deviation not positive, or their numbers differ.
    """

    dose: tuple[float, ...]
    gain: tuple[float, ...]
    sd: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        need(all(np.isfinite(d) and d >= 0 for d in self.dose), "dose", self.dose, "0 or more")
        need(all(np.isfinite(g) and g > 0 for g in self.gain), "gain", self.gain, "above 0")
        need(self.sd is None or all(s > 0 for s in self.sd), "sd", self.sd, "above 0")
        numbers = {len(part) for part in (self.dose, self.gain, self.sd) if part is not None}
        need(len(numbers) == 1, "dose, gain and sd", self, "one number for each channel")

    @classmethod
    def of(
        cls,
        channels: int,
        *,
        dose: float | Sequence[float] = 1.0,
        gain: float | Sequence[float] = 1.0,
        sd: float | Sequence[float] | None = None,
    ) -> Dose:
        """Return the dose of some channels; one number counts for all of them."""

        def each(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
            needed = f"one number, or one for each of {counted(channels, 'channel')}"
            need(np.ndim(value) == 0 or np.shape(value) == (channels,), name, value, needed)
            return tuple(np.broadcast_to(np.asarray(value, float), channels).tolist())

        return cls(each("dose", dose), each("gain", gain), None if sd is None else each("sd", sd))

    def times(self, dwell: float) -> Dose:
        """Return the dose of a measurement that takes ``dwell`` times as long."""
        need(np.isfinite(dwell) and dwell >= 0, "dwell", dwell, "0 or more")
        sd = None if self.sd is None else tuple(s * float(np.sqrt(dwell)) or s for s in self.sd)
        return Dose(tuple(d * dwell for d in self.dose), self.gain, sd)

    def to_dict(self) -> dict[str, Any]:
        """Return the dose as a JSON-ready dict."""
        sd = None if self.sd is None else list(self.sd)
        return {"dose": list(self.dose), "gain": list(self.gain), "sd": sd}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Dose:
        """Return the dose of a dict that `to_dict` made."""
        sd = values.get("sd")
        return cls(
            tuple(map(float, values["dose"])),
            tuple(map(float, values["gain"])),
            None if sd is None else tuple(map(float, sd)),
        )

    def simulate(
        self, signal: NDArray[np.floating[Any]], channel: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """Return a measurement of a signal of one channel."""
        dose, gain = self.dose[channel], self.gain[channel]
        if self.sd is not None:
            return gain * dose * signal + rng.normal(0, self.sd[channel], signal.shape)
        return np.asarray(gain * rng.poisson(dose * np.maximum(signal, 0).astype(np.float64)))

    def simulated(self, signal: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return a measurement of all channels (C, n), always the same for the same signal."""
        seeds = [np.random.SeedSequence(_SEED, spawn_key=(c,)) for c in range(len(signal))]
        rows = [self.simulate(s, c, np.random.default_rng(seeds[c])) for c, s in enumerate(signal)]
        return np.stack(rows)

    def centre(
        self, value: NDArray[np.float64], channel: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the signal that a value stands for by itself, and its standard deviation."""
        scale = self.gain[channel] * self.dose[channel]
        if self.sd is not None:
            return value / scale, np.full(value.shape, self.sd[channel] / scale)
        counts = np.maximum(value / self.gain[channel], 0)
        return counts / self.dose[channel], np.sqrt(counts + 1) / self.dose[channel]

    def variance(self, signal: NDArray[np.floating[Any]], channel: int) -> NDArray[np.float64]:
        """Return the variance of a measurement at each signal, in the square of the signal's unit."""
        dose = max(self.dose[channel], 1e-150)
        if self.sd is not None:
            return np.full(signal.shape, (self.sd[channel] / (self.gain[channel] * dose)) ** 2)
        return np.asarray(np.maximum(dose * signal.astype(np.float64), _DARK) / dose**2)

    def log_likelihood(
        self, signal: NDArray[np.float64], value: NDArray[np.float64], channel: int
    ) -> NDArray[np.float64]:
        """Return the log likelihood of a value for each signal, up to a constant."""
        dose, gain = self.dose[channel], self.gain[channel]
        if self.sd is not None:
            return np.asarray(-0.5 * np.square((value - gain * dose * signal) / self.sd[channel]))
        expected = np.maximum(dose * signal, _DARK)
        return np.asarray(np.maximum(value / gain, 0) * np.log(expected) - expected)


def dose_of(held_out: HeldOut) -> Dose:
    """Estimate the dose of the noisy image from held-out pixels, for counts.

    Parameters
    ----------
    held_out : HeldOut
        With the observed values of the noisy image.

    Returns
    -------
    Dose
        Of one dwell: the noisy image's.

    Raises
    ------
    ValueError
        If the observed values are missing, or don't behave as counts: their mean isn't proportional to the
        target.
    """
    if held_out.observed is None:
        raise ValueError(
            "The held-out scores came without the noisy image; give the dose, in counts per unit of signal."
        )
    doses, gains = [], []
    for seen, target in zip(held_out.observed.astype(float), held_out.target.astype(float), strict=True):
        slope, rest = np.polyfit(target, seen, 1) if np.ptp(target) > 0 else (0.0, 0.0)
        total = float(target.mean())
        if not (slope > 0 and total > 0 and abs(rest) < _REST * slope * total and seen.min() >= 0):
            raise ValueError(
                "The noisy image doesn't look like counts in proportion to the signal, so its dose is unknown. "
                "Subtract the offset, or give the dose in counts per unit of signal."
            )
        scale = float(seen.mean()) / total
        gain = float(np.mean(np.square(seen - scale * target)) / seen.mean())
        gains.append(gain)
        doses.append(scale / gain)
    return Dose(tuple(doses), tuple(gains))
