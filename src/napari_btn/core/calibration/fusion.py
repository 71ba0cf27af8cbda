"""Fusion of predicted distributions with a new measurement of the same pixels, by Bayes' rule.

A measurement is evidence, not truth: a short one says less than the prediction does, a long one more. The
posterior of the held-out pixels, with measurements simulated from their targets, calibrates the result.
Long because likelihoods, posterior and calibration are only right together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_btn.core.calibration.conformal import covered, with_offsets
from napari_btn.core.calibration.distribution import mean, variance
from napari_btn.core.calibration.dose_check import dose_notes
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.progress import Note
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.calibration.exceedance import Exceedance
    from napari_btn.core.calibration.prediction import Prediction

__all__ = ["Fused", "Place", "fuse", "measured_again", "posterior"]

_CHUNK = 8192  # pixels at a time, so that the grids of a chunk stay in the cache
_PARTS = 4  # cells of the grid between two levels
_TAIL = np.array([0.3, 0.7, 1.2, 2.0, 3.0, 4.5, 6.5, 10.0, 16.0])  # edges of cells in a tail, in its scales
# Edges of cells around the measured value, in its standard deviations. Those far off keep a wide cell from
# being judged by its likelihood at one end.
_REACH = np.concatenate([[-300, -60, -15, -8], np.linspace(-6, 6, 37), [8, 15, 60, 300]])
_NARROW = 1e-6  # least distance of two quantiles, relative to their size


class Place(Protocol):
    """A part of an image: a `Region`."""

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of its bounding box along (Z,) Y, X."""

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Its pixels in the bounding box; None for all."""


def posterior(
    quantiles: NDArray[np.floating[Any]],
    levels: Sequence[float],
    values: ArrayLike,
    dose: Dose,
    *,
    channel: int = 0,
) -> NDArray[np.float32]:
    """Return the quantiles of the signal after a measurement: prediction times likelihood.

    Parameters
    ----------
    quantiles : ndarray of float, shape (L, *space)
        Predicted quantiles of one channel, ascending: straight between the levels, exponential tails.
    levels : sequence of float
        The L levels, ascending, at least two.
    values : array_like, shape (*space)
        Measured values; NaN where there is none.
    dose : Dose
        Of the measurement.
    channel : int
        Index of the channel in the dose.

    Returns
    -------
    ndarray of float32, shape (L, *space)
        Quantiles at the same levels, never crossing; those that came where there is no evidence.
    """
    came = np.asarray(quantiles, np.float32)
    flat, measured = came.reshape(len(levels), -1), np.asarray(values, np.float64).ravel()
    out = flat.copy()
    known = np.isfinite(measured) & np.isfinite(flat).all(0)
    if not known.any() or dose.dose[channel] == 0:
        return out.reshape(came.shape)
    at = np.flatnonzero(known)
    for start in range(0, at.size, _CHUNK):
        part = at[start : start + _CHUNK]
        out[:, part] = _posterior_chunk(flat[:, part].T, np.asarray(levels), measured[part], dose, channel).T
    return out.reshape(came.shape)


def fuse(
    prediction: Prediction,
    region: Place | tuple[slice, ...],
    counts: ArrayLike,
    dose: Dose,
    *,
    scene: int = 0,
) -> Prediction:
    """Return the prediction with a window replaced by the fusion with its new measurement.

    Parameters
    ----------
    prediction : Prediction
        In memory, with quantiles, held-out scores and the calibration.
    region : Region, or tuple of slice
        Place of the window along (Z,) Y, X; of a region with a mask, its pixels alone.
    counts : array_like
        Measured values in the axes of the maps without S and T, independent of the image that was predicted
        from; NaN where there is none.
    dose : Dose
        Of the measurement.
    scene : int
        Number of the scene, where the maps have several.

    Returns
    -------
    Prediction
        Its quantiles in the window are those of the posterior, and `Fused` their recalibration.

    Raises
    ------
    ValueError
        If the prediction lacks what is needed, or the measured values don't fit the window.
    """
    held_out, calibration, before = prediction.held_out, prediction.calibration, prediction.distribution
    if held_out is None or calibration is None or before is None or prediction.quantiles is None:
        raise ValueError(
            "These maps come without quantiles or held-out scores; a fusion needs both. Predict the image again."
        )
    window = _Window.of(prediction, region, scene)
    predicted = np.stack([window.read(plane) for plane in prediction.quantiles], 0).astype(np.float32)
    values = window.values(counts, predicted.shape[1:])
    fused = _posterior_of_channels(predicted, held_out.levels, values, dose)
    again = measured_again(held_out, dose)
    lower, median, upper = with_offsets(calibration, again).interval(fused)
    known = np.isfinite(values)
    names = prediction.channel_names or ("The channel",) * len(values)
    clean = prediction.covers == "clean"
    # counts are evidence of the clean signal, whatever the maps cover
    record = window.record | dose.to_dict() | {"covers": "clean"}
    planes = zip(prediction.quantiles, fused, strict=True)
    return replace(
        prediction,
        lower=window.written(prediction.lower, lower, known),
        median=window.written(prediction.median, median, known),
        upper=window.written(prediction.upper, upper, known),
        quantiles=np.stack([window.written(plane, one, known) for plane, one in planes]),
        stored_width=None,
        **_own_pixels(prediction, window, fused, known),
        fused=(
            *prediction.fused,
            Fused(window.place, window.axes_order(known), exceedance_from(again, before.rule)),
        ),
        provenance={
            **prediction.provenance,
            "fused": [*prediction.provenance.get("fused", []), record],
        },
        notes=_noted(prediction, *dose_notes(held_out, dose, predicted, values, names, clean=clean)),
    )


def _own_pixels(
    prediction: Prediction, window: _Window, fused: NDArray[np.float32], known: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return mean and standard deviation with own values outside of the window; without them, no stored mean."""
    if prediction.signal_sd is None:
        return {"stored_mean": None}
    levels = prediction.levels
    deviation = np.sqrt(variance(fused, levels)).astype(np.float32)
    return {
        "stored_mean": window.written(prediction.mean, mean(fused, levels), known),
        "signal_sd": window.written(prediction.signal_sd, deviation, known),
    }


@dataclass(frozen=True, eq=False)
class Fused:
    """A window that was fused, and the recalibration of its distributions.

    Parameters
    ----------
    place : dict of str to slice or int
        Index by axis of the maps, in their order.
    known : ndarray of bool
        Pixels that were measured, in the axes of the maps without S and T.
    distribution : Exceedance
        Of the fused quantiles.
    """

    place: dict[str, Any]
    known: NDArray[np.bool_]
    distribution: Exceedance

    def drawn(
        self,
        values: NDArray[np.float32],
        at: Mapping[str, int],
        quantiles: Any,
        of: Callable[[Exceedance, NDArray[np.float32]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Return a map with the pixels of the window by their own recalibration.

        Parameters
        ----------
        values : ndarray of float32
            The map, in the axes that aren't fixed.
        at : mapping of str to int
            Index of the fixed axes by letter.
        quantiles : array of float32, (L, *axes)
            Of all maps.
        of : callable
            Makes the map from a recalibration and quantiles (L, *space).
        """
        inside, whole, part = [], [], []
        for axis, here in self.place.items():
            fixed = at.get(axis)
            if fixed is None:
                whole.append(here)
                inside.append(here)
            else:
                first, stop = (here, here + 1) if isinstance(here, int) else (here.start, here.stop)
                if not first <= fixed < stop:
                    return values
                inside.append(fixed)
            if isinstance(here, slice):
                part.append(slice(None) if fixed is None else fixed - first)
        made = np.array(values)
        window = np.ascontiguousarray(quantiles[(slice(None), *inside)], np.float32)
        made[tuple(whole)] = np.where(
            self.known[tuple(part)], of(self.distribution, window), made[tuple(whole)]
        )
        return made


def measured_again(held_out: HeldOut, dose: Dose) -> HeldOut:
    """Return held-out scores after a fusion with measurements that are simulated from the targets.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    dose : Dose
        Of the measurements.

    Returns
    -------
    HeldOut
        The same pixels and targets, with the fused quantiles; the same for the same input.
    """
    values = dose.simulated(held_out.target)
    return replace(
        held_out, quantiles=_posterior_of_channels(held_out.quantiles, held_out.levels, values, dose)
    )


def _posterior_of_channels(
    quantiles: NDArray[np.float32], levels: Sequence[float], values: NDArray[np.float64], dose: Dose
) -> NDArray[np.float32]:
    """Return the posterior quantiles (L, C, *space) of values (C, *space)."""
    need(len(dose.dose) == len(values), "dose", dose.dose, f"one number for each of {len(values)} channels")
    channels = enumerate(values)
    return np.stack([posterior(quantiles[:, c], levels, v, dose, channel=c) for c, v in channels], 1)


def _noted(prediction: Prediction, *more: Note) -> tuple[Note, ...]:
    """Return the notes of a fused prediction, with one on what its windows cover if that has changed."""
    notes = (*prediction.notes, *more)
    if prediction.covers == "clean":
        return notes
    changed = Note(
        "amber",
        "Inside fused windows the intervals and probabilities speak of the clean signal, no longer of "
        f"{covered(prediction.covers)}; outside they are unchanged.",
    )
    return notes if changed in notes else (*notes, changed)


@dataclass(frozen=True)
class _Window:
    """A window of the maps: its index, and its axes in the order C, Z, Y, X."""

    place: dict[str, Any]
    at: tuple[Any, ...]
    order: tuple[int, ...]
    channels: bool
    mask: NDArray[np.bool_] | None
    record: dict[str, Any]

    @classmethod
    def of(cls, prediction: Prediction, region: Place | tuple[slice, ...], scene: int) -> _Window:
        """Return a region of one scene, checked."""
        axes, sizes = prediction.axes, dict(zip(prediction.axes, prediction.median.shape, strict=True))
        space, many = [a for a in "ZYX" if a in axes], [a for a in "ST" if a in axes]
        slices = region if isinstance(region, tuple) else region.slices
        box = [
            (s.start or 0, int(sizes[a]) if s.stop is None else s.stop)
            for a, s in zip(space, slices, strict=False)
        ]
        if len(slices) != len(space) or any(
            not 0 <= b[0] < b[1] <= sizes[a] for a, b in zip(space, box, strict=True)
        ):
            raise ValueError(
                f"The window is {slices}; the maps have {[int(sizes[a]) for a in space]} px along "
                f"{', '.join(space)}. Give one slice for each, inside the image."
            )
        counts = [int(sizes[a]) for a in many]
        if not 0 <= scene < int(np.prod(counts)):
            raise ValueError(f"scene is {scene}; the maps have {int(np.prod(counts))}, counted from 0.")
        index: dict[str, Any] = {
            "C": slice(0, sizes.get("C", 1)),
            **{a: slice(*b) for a, b in zip(space, box, strict=True)},
        }
        if many:
            index |= {a: int(i) for a, i in zip(many, np.unravel_index(scene, counts), strict=True)}
        left = [a for a in axes if a not in many]
        order = tuple(left.index(a) for a in "CZYX" if a in left)
        mask = None if isinstance(region, tuple) else region.mask
        record = {"window": [list(b) for b in box], "scene": scene}
        place = {a: index[a] for a in axes}
        return cls(place, tuple(place.values()), order, "C" in axes, mask, record)

    def read(self, values: Any) -> NDArray[Any]:
        """Return the window of a map, (C, *space)."""
        return self._ordered(np.asarray(values[self.at]))

    def values(self, counts: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return measured values, (C, *space), NaN outside of the mask."""
        came = np.asarray(counts, np.float64)
        wanted = tuple(np.argsort(self.order))
        needed = tuple((shape if self.channels else shape[1:])[i] for i in wanted)
        if came.shape != needed:
            raise ValueError(
                f"The measured values have shape {came.shape}; the window has {needed}, in the axes of the maps "
                "without S and T. Crop them to the window."
            )
        made = self._ordered(came)
        return made if self.mask is None else np.where(self.mask, made, np.nan)

    def written(
        self, whole: Any, values: NDArray[np.float32], known: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Return a copy of a map with the known values (C, *space) in the window."""
        made = np.array(whole[...], np.float32)
        new = np.where(known, values, self.read(made))
        made[self.at] = self.axes_order(new)
        return made

    def axes_order(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (C, *space) in the axes of the maps without S and T."""
        return (values if self.channels else values[0]).transpose(np.argsort(self.order))

    def _ordered(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of the window as (C, *space)."""
        moved = values.transpose(self.order)
        return moved if self.channels else moved[None]


def _posterior_chunk(
    quantiles: NDArray[np.float32],
    levels: NDArray[np.float64],
    values: NDArray[np.float64],
    dose: Dose,
    channel: int,
) -> NDArray[np.float32]:
    """Return the posterior quantiles (n, L) of pixels (n, L)."""
    q = _ascending(quantiles.astype(np.float64))
    tails = _tails(q, levels)
    edges = _edges(q, tails, dose.centre(values, channel))
    mass = _log_mass(q, levels, tails, edges) + _log_mean_likelihood(edges, values[:, None], dose, channel)
    mass = np.exp(mass - mass.max(1, keepdims=True))
    below = np.concatenate([np.zeros((len(q), 1)), np.cumsum(mass, 1)], 1)
    return _inverse(edges, below / below[:, -1:], levels)


def _ascending(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return quantiles with a least distance, which turns a jump of the distribution into a narrow step."""
    gap = _NARROW * np.maximum(np.abs(q).max(1), q[:, -1] - q[:, 0])[:, None] + 1e-12
    ramp = gap * np.arange(q.shape[1])
    return np.asarray(np.maximum.accumulate(q - ramp, axis=1) + ramp)


def _tails(
    q: NDArray[np.float64], levels: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scales (n, 1) of the exponential tails, as `distribution.ppf` has them."""
    lower = (q[:, 1:2] - q[:, :1]) * levels[0] / (levels[1] - levels[0])
    upper = (q[:, -1:] - q[:, -2:-1]) * (1 - levels[-1]) / (levels[-1] - levels[-2])
    return lower, upper


def _edges(
    q: NDArray[np.float64],
    tails: tuple[NDArray[np.float64], NDArray[np.float64]],
    measured: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Return edges of cells (n, K + 1), fine where the prediction and where the measurement lie."""
    between = q[:, :-1, None] + np.diff(q, axis=1)[:, :, None] * np.arange(_PARTS) / _PARTS
    centre, sd = measured
    parts = [
        between.reshape(len(q), -1),
        q[:, -1:],
        q[:, :1] - tails[0] * _TAIL,
        q[:, -1:] + tails[1] * _TAIL,
        centre[:, None] + sd[:, None] * _REACH,
    ]
    return np.sort(np.concatenate(parts, 1), 1)


def _log_mass(
    q: NDArray[np.float64],
    levels: NDArray[np.float64],
    tails: tuple[NDArray[np.float64], NDArray[np.float64]],
    edges: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the log probability of each cell (n, K), exact in the far tails too."""
    low, high = edges[:, :-1], edges[:, 1:]
    size = high - low
    segment = ((low + high)[:, :, None] / 2 > q[:, None, :]).sum(2)
    slope = np.diff(levels) / np.diff(q, axis=1)
    inner = np.take_along_axis(slope, np.clip(segment - 1, 0, slope.shape[1] - 1), 1)
    with np.errstate(divide="ignore"):
        mass = np.log(inner * size)
        sides = (
            (segment == 0, levels[0], (q[:, :1] - high) / tails[0], size / tails[0]),
            (segment == len(levels), 1 - levels[-1], (low - q[:, -1:]) / tails[1], size / tails[1]),
        )
        for where, share, distance, length in sides:
            tail = np.log(share) - np.maximum(distance, 0) + np.log(-np.expm1(-length))
            mass = np.where(where, tail, mass)
    return np.asarray(mass)


def _log_mean_likelihood(
    edges: NDArray[np.float64], values: NDArray[np.float64], dose: Dose, channel: int
) -> NDArray[np.float64]:
    """Return the log of the mean likelihood in each cell, by Simpson's rule."""
    ends = dose.log_likelihood(edges, values, channel)
    low, high = ends[:, :-1], ends[:, 1:]
    middle = dose.log_likelihood((edges[:, :-1] + edges[:, 1:]) / 2, values, channel)
    top = np.maximum(np.maximum(low, high), middle)
    return np.asarray(top + np.log((np.exp(low - top) + 4 * np.exp(middle - top) + np.exp(high - top)) / 6))


def _inverse(
    edges: NDArray[np.float64], below: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the places (n, L) where the cumulated probability (n, K + 1) reaches each level."""
    out = np.empty((len(edges), len(levels)), np.float32)
    rows = np.arange(len(edges))
    for i, level in enumerate(levels):
        k = np.clip((below <= level).sum(1), 1, edges.shape[1] - 1)
        start, stop = below[rows, k - 1], below[rows, k]
        share = (level - start) / np.maximum(stop - start, 1e-300)
        low, high = edges[rows, k - 1], edges[rows, k]
        out[:, i] = low + np.clip(share, 0, 1) * (high - low)
    return np.asarray(np.maximum.accumulate(out, axis=1))
