"""Fusion of predicted distributions with a new measurement of the same pixels, by Bayes' rule.

A measurement is evidence, not truth: a short one says less than the prediction does, a long one more. It also
speaks for the pixels around it, since a prediction errs over patches. The posterior of the held-out pixels, with
measurements simulated from their targets, calibrates the result.

Long because windows, what is recorded of them and their calibration are parts of one step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_btn.core.calibration.conformal import NOISY_TARGETS, covered, with_offsets
from napari_btn.core.calibration.distribution import mean, variance
from napari_btn.core.calibration.dose_check import dose_notes
from napari_btn.core.calibration.draws import parts_of
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.neighbours import Errors
from napari_btn.core.calibration.posterior import posterior
from napari_btn.core.data.record import inputs_steps, maps_digest_steps, packed, recipe_step, with_step
from napari_btn.core.progress import Note, Progress, counted
from napari_btn.core.settings import is_whole, need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.calibration.exceedance import Exceedance
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step

__all__ = ["Fused", "Place", "fuse_steps", "measured_again_steps"]

_MOST_PIXELS = 50_000  # held-out pixels that a fusion is calibrated on, in whole blocks
_FEWEST_BLOCKS = 40  # that are kept all the same: each side at a coverage of 95 % needs 39
_SIDE = {2: 192, 3: 32}  # of the parts that neighbours are looked for in
# Share of pixels with a held-out one beside them from which on none was left out, and the least that counts.
_WHOLE, _THINNEST = 0.85, 0.02


class Place(Protocol):
    """A part of an image: a `Region`."""

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of its bounding box along (Z,) Y, X."""

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Its pixels in the bounding box; None for all."""


def fuse_steps(
    prediction: Prediction,
    region: Place | tuple[slice, ...],
    counts: ArrayLike,
    dose: Dose,
    *,
    scene: int = 0,
) -> Step[Prediction]:
    """Replace a window of a prediction by the fusion with its new measurement; a step.

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
        If the prediction lacks what is needed, or the measured values don't fit the window, or are negative without
        ``dose.sd``.
    """
    held_out = prediction.scores_for("a fusion")
    calibration, before = prediction.calibration, prediction.distribution
    if calibration is None or before is None or prediction.quantiles is None:
        raise ValueError(
            "These maps come without quantiles or held-out scores; a fusion needs both. Predict the image again."
        )
    window = _Window.of(prediction, region, scene)
    predicted = np.stack([window.read(plane) for plane in prediction.quantiles], 0).astype(np.float32)
    values = window.values(counts, predicted.shape[1:])
    if dose.sd is None and (negative := int((values < 0).sum())):
        raise ValueError(
            f"{negative} of {values.size} measured values are negative (down to {np.nanmin(values):.4g}), and "
            "counts are not. Subtract no more than the offset, give NaN where nothing was measured, or, for readings "
            "with normal noise, its standard deviation (sd)."
        )
    errors = yield from Errors.of_steps(held_out)
    fused = _posterior_of_channels(predicted, held_out.levels, values, dose, errors)
    found = [(o.distribution, o.again) for o in prediction.fused if o.scores is held_out and o.dose == dose]
    distribution, again = (
        found[0] if found else (yield from _recalibrated_steps(held_out, dose, errors, before.rule))
    )
    lower, median, upper = with_offsets(calibration, again).interval(fused)
    known = np.isfinite(values)
    names = prediction.channel_names or ("The channel",) * len(values)
    # counts are evidence of the clean signal, whatever the maps cover
    record = window.record | dose.to_dict() | {"covers": "clean"}
    planes = zip(prediction.quantiles, fused, strict=True)
    made = replace(
        prediction,
        lower=window.written(prediction.lower, lower, known),
        median=window.written(prediction.median, median, known),
        upper=window.written(prediction.upper, upper, known),
        quantiles=np.stack([window.written(plane, one, known) for plane, one in planes]),
        stored_width=None,
        **_own_pixels(prediction, window, fused, known),
        fused=(
            *prediction.fused,
            Fused(
                window.place,
                window.axes_order(known),
                distribution,
                dose,
                again,
                held_out,
            ),
        ),
        provenance={
            **prediction.provenance,
            "fused": [*prediction.provenance.get("fused", []), record],
        },
        notes=_noted(
            prediction,
            *_fused_before(prediction, window, known),
            *dose_notes(held_out, dose, predicted, values, names, clean=prediction.covers == "clean"),
        ),
    )
    return (yield from _recorded_steps(made, window, counts, known, dose))


def _recorded_steps(
    made: Prediction, window: _Window, counts: ArrayLike, known: NDArray[np.bool_], dose: Dose
) -> Step[Prediction]:
    """Return a prediction with the fusion in its recipe, if it has one; a step."""
    if not made.provenance.get("recipe"):
        return made
    inputs = yield from inputs_steps({"counts": counts})
    # what was measured may lie in a file of the whole field
    inputs["counts"]["window"] = window.record["window"]
    maps = yield from maps_digest_steps({"lower": made.lower, "median": made.median, "upper": made.upper})
    mask = None if window.mask is None else packed(window.axes_order(known))
    step = recipe_step("fuse", inputs, scene=window.record["scene"], mask=mask, **dose.to_dict(), maps=maps)
    return replace(made, provenance=with_step(made.provenance, step))


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
    dose : Dose
        Of the measurement.
    again : HeldOut
        Held-out scores after such a measurement.
    scores : HeldOut
        Those before.
    """

    place: dict[str, Any]
    known: NDArray[np.bool_]
    distribution: Exceedance
    dose: Dose
    again: HeldOut
    scores: HeldOut

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


def _recalibrated_steps(
    held_out: HeldOut, dose: Dose, errors: Errors | None, rule: str
) -> Step[tuple[Exceedance, HeldOut]]:
    """Return the recalibration of probabilities, and the scores that intervals are calibrated on; a step.

    Thresholds are moved by pixels that were fused as those of a window are: what half of the blocks say of a rare
    phase would move them to wrong places.
    """
    alike = yield from measured_again_steps(held_out, dose, errors)
    apart = alike if errors is None else (yield from measured_again_steps(held_out, dose))
    return exceedance_from(alike, rule, clearly=1.0), apart


def measured_again_steps(held_out: HeldOut, dose: Dose, errors: Errors | None = None) -> Step[HeldOut]:
    """Fuse the held-out pixels with measurements that are simulated from their targets; a step.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained; without positions, no pixel speaks for another.
    dose : Dose
        Of the measurements.
    errors : Errors, optional
        How errors go together. By default each half of the blocks says it for the other one: taken from the same
        pixels, it fits them better than other fields, whose intervals would be too narrow.

    Returns
    -------
    HeldOut
        The same pixels and targets, of some blocks where there are many, with the fused quantiles; the same for the
        same input. Where a bundle keeps a random part of the held-out pixels, each of them speaks for those that are
        missing, with a dose as many times larger.
    """
    kept = _some_blocks(held_out)
    values = dose.simulated(kept.target)
    if held_out.position is None or kept.position is None:
        return replace(kept, quantiles=_posterior_of_channels(kept.quantiles, kept.levels, values, dose))
    made = np.empty_like(kept.quantiles)
    longer = dose.times(1 / _density(kept.position))
    around = longer.simulated(kept.target)
    half, side = _half_of_blocks(held_out.block, held_out.position), _SIDE[kept.position.shape[1] - 1]
    if errors is not None:
        half[:] = 0
    for one in np.unique(half[kept.block]):
        inside = np.flatnonzero(half[kept.block] == one)
        away = (half[held_out.block] != one) | (held_out.n_blocks == 1)  # but for a single block
        fitted = errors or (yield from Errors.of_steps(held_out.take(away)))
        parts = [inside[part] for part in parts_of(kept.position[inside], side)]
        for done, rows in enumerate(parts):
            yield Progress(done, len(parts), "Fusing: simulated measurements of held-out pixels")
            place = kept.position[rows, 1:] - kept.position[rows, 1:].min(0)
            at = (slice(None), *place.T)
            grid, near = np.full((2, len(values), *place.max(0) + 1), np.nan)
            grid[at], near[at] = values[:, rows], around[:, rows]
            quantiles = np.zeros((len(kept.levels), *grid.shape), np.float32)
            quantiles[(slice(None), *at)] = kept.quantiles[:, :, rows]
            fused = _posterior_of_channels(quantiles, kept.levels, grid, dose, fitted, (near, longer))
            made[:, :, rows] = fused[(slice(None), *at)]
    return replace(kept, quantiles=made)


def _half_of_blocks(block: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the half, 0 or 1, of each block: of several scenes the first ones, else along the longest axis."""
    number, first = np.unique(block, return_index=True)
    longest = 1 + int(np.argmax(np.ptp(position[:, 1:], axis=0)))
    order = np.lexsort((position[first, longest], position[first, 0]))
    half = np.zeros(number.max() + 1, np.int64)
    half[number[order[number.size // 2 :]]] = 1
    return half


def _density(position: NDArray[np.int64]) -> float:
    """Return the share of the held-out pixels (n, 1 + ndim) that are kept, if some were left out at random; or 1."""
    index = np.ravel_multi_index(tuple(position.T), tuple(position.max(0) + 2))
    beside = float(np.isin(index + 1, index).mean())
    return 1.0 if beside > _WHOLE else max(beside, _THINNEST)


def _some_blocks(held_out: HeldOut) -> HeldOut:
    """Return the pixels of evenly chosen blocks, as many as fit."""
    if held_out.block.size <= _MOST_PIXELS:
        return held_out
    number = np.unique(held_out.block)
    some = max(int(number.size * _MOST_PIXELS / held_out.block.size), min(number.size, _FEWEST_BLOCKS))
    chosen = number[np.unique(np.linspace(0, number.size - 1, some).round().astype(int))]
    return held_out.take(np.isin(held_out.block, chosen))


def _posterior_of_channels(
    quantiles: NDArray[np.float32],
    levels: Sequence[float],
    values: NDArray[np.float64],
    dose: Dose,
    errors: Errors | None = None,
    around: tuple[NDArray[np.float64], Dose] | None = None,
) -> NDArray[np.float32]:
    """Return the posterior quantiles (L, C, *space) of values (C, *space).

    Neighbours speak by their values and dose in ``around``, if that is given.
    """
    need(
        len(dose.dose) == len(values),
        "dose",
        dose.dose,
        f"one number for each of {counted(len(values), 'channel')}",
    )
    belief = None
    if errors is not None and any(dose.dose):
        quantiles = errors.calibrated(quantiles, levels)
        belief = errors.neighbours.beliefs(quantiles, levels, *(around or (values, dose)))
    return np.stack(
        [posterior(quantiles[:, c], levels, v, dose, channel=c, belief=belief) for c, v in enumerate(values)],
        1,
    )


def _fused_before(prediction: Prediction, window: _Window, known: NDArray[np.bool_]) -> tuple[Note, ...]:
    """Return a note if pixels of a window, known (C, *space), were fused before."""
    before = np.zeros(prediction.median.shape, bool)
    for one in prediction.fused:
        before[tuple(one.place.values())] |= one.known
    share = float((window.read(before) & known).sum() / max(known.sum(), 1))
    if not share:
        return ()
    return (
        Note(
            "amber",
            f"{100 * share:.3g} % of the pixels of this window were fused before. The calibration is that of one "
            "fusion, so intervals and probabilities there may hold far less than they promise. Sum up all measurements "
            "of a place, predict the image again, and fuse once.",
        ),
    )


def _noted(prediction: Prediction, *more: Note) -> tuple[Note, ...]:
    """Return the notes of a fused prediction, with one on what its windows cover if that has changed."""
    notes = (*prediction.notes, *more)
    if prediction.covers == "clean":
        return notes
    text = (
        "Inside fused windows the intervals and probabilities are meant for the clean signal, no longer for "
        f"{covered(prediction.covers)}; outside they are unchanged."
    )
    changed = Note("amber", text)
    if prediction.covers in NOISY_TARGETS:
        changed = Note(
            "red",
            f"{text} Measurements were simulated from noisy targets to calibrate this, so that maps in the windows "
            "may be worse than without the fusion. Networks that learned from a clean image don't have this.",
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
        slices = region if isinstance(region, tuple) else getattr(region, "slices", None)
        if slices is None or not all(isinstance(one, slice) for one in slices):
            raise ValueError(
                f"The window is {region!r}; give a Region, or a slice for each of {', '.join(space)}."
            )
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
        if not is_whole(scene) or not 0 <= scene < int(np.prod(counts)):
            raise ValueError(f"scene is {scene!r}; the maps have {int(np.prod(counts))}, counted from 0.")
        index: dict[str, Any] = {
            "C": slice(0, sizes.get("C", 1)),
            **{a: slice(*b) for a, b in zip(space, box, strict=True)},
        }
        if many:
            index |= {a: int(i) for a, i in zip(many, np.unravel_index(scene, counts), strict=True)}
        left = [a for a in axes if a not in many]
        order = tuple(left.index(a) for a in "CZYX" if a in left)
        mask = None if isinstance(region, tuple) else region.mask
        record = {"window": [[int(n) for n in b] for b in box], "scene": int(scene)}
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
