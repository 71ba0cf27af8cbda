"""Expected area of wrong decisions at a threshold: now, and after windows were measured again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtr, pdtr

from napari_btn.core.calibration.distribution import ppf
from napari_btn.core.calibration.exceedance import can_lock
from napari_btn.core.calibration.posterior import ALONE
from napari_btn.core.data.image import View
from napari_btn.core.remeasure.scores import one_scene
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.calibration.neighbours import Errors
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.remeasure.regions import Region

__all__ = ["Decision", "decided", "share_dwell", "undecided", "wrong_after", "wrong_now"]

_SIGNALS, _CUTS, _FAR = 28, 61, 5.0  # cells of the signal, decision rules, and their reach in noise
_TAILS = 0.005, 0.995  # levels where the cells of the signal end


@dataclass(frozen=True)
class Decision:
    """The question, for each pixel, if the signal of a channel exceeds a threshold.

    Parameters
    ----------
    channel : int
        From 0.
    threshold : float
        In the units of the maps.
    scene : int
        Number of the scene, where the maps have several.
    """

    channel: int
    threshold: float
    scene: int = 0


def undecided(exceedance: ArrayLike) -> NDArray[np.float32]:
    """Return the probability that the more probable answer is wrong: ``min(p, 1 - p)``.

    Parameters
    ----------
    exceedance : array_like
        P(signal > t), 0 to 1, any shape; NaN counts as decided.
    """
    p = np.asarray(exceedance, np.float32)
    return np.asarray(np.nan_to_num(np.clip(np.minimum(p, 1 - p), 0, 0.5), nan=0.0), np.float32)


def wrong_now(prediction: Prediction, decision: Decision) -> NDArray[np.float32]:
    """Return the probability of a wrong decision of each pixel; its sum estimates the wrong area.

    The exceedance is recalibrated at the threshold alone, where enough held-out blocks lie on both of its sides.
    Fused windows have their own calibration.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps with quantiles.
    decision : Decision

    Returns
    -------
    ndarray of float32, (Y, X) or (Z, Y, X)
        0 to 0.5.
    """
    axes = prediction.axes.replace("C", "")
    return undecided(one_scene(decided(prediction, decision), axes, decision.scene))


def decided(prediction: Prediction, decision: Decision) -> NDArray[np.float32]:
    """Return P(signal > threshold) that `wrong_now` and decisions come from, in the axes of the maps without C.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps with quantiles.
    decision : Decision
    """
    held_out, c, t = prediction.held_out, decision.channel, decision.threshold
    locked = held_out is not None and can_lock(held_out, t, channel=c)
    return prediction.exceedance(t, c, locked=locked)


def wrong_after(
    prediction: Prediction,
    decision: Decision,
    regions: Sequence[Region],
    doses: Sequence[Dose | None],
    errors: Errors | None = None,
) -> NDArray[np.float64]:
    """Return the expected wrong area in each region after a measurement at each dose.

    It is what `wrong_now` has there, times the share that remains: the Bayes risk, averaged over the values that
    the predicted distribution lets expect, each decided by prediction and value together. More dose never gives
    more.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps with quantiles.
    decision : Decision
    regions : sequence of Region
        Disjoint.
    doses : sequence of Dose or None
        Doses to compare; None measures the truth.
    errors : Errors, optional
        How errors of the prediction go together, so that neighbours count, as they do in a fusion: the measurement of
        a pixel is as good as one of a higher dose, but for the chance that it goes its own way.

    Returns
    -------
    ndarray of float64, (regions, doses)
        In pixels, 0 or more.
    """
    out = np.zeros((len(regions), len(doses)))
    known = [dose for dose in doses if dose is not None]
    if not known or not regions:
        return out
    grid = _signals(prediction, decision, known)
    above = np.stack(
        [
            np.concatenate([_part(p, r) for r in regions])
            for p in (_probability(prediction, decision, float(value)) for value in grid)
        ]
    ).astype(np.float64)
    above = np.minimum.accumulate(np.nan_to_num(above), axis=0)
    mass = -np.diff(above, axis=0, prepend=1.0, append=0.0)
    signal = np.concatenate([grid[:1], (grid[:-1] + grid[1:]) / 2, grid[-1:]])
    positive = signal > decision.threshold
    start = np.concatenate([[0], np.cumsum([r.area_px for r in regions])])
    fixed = np.minimum(mass[positive].sum(0), mass[~positive].sum(0))
    parts = list(pairwise(start))
    now, map_now = [fixed[a:b].sum() for a, b in parts], wrong_now(prediction, decision)
    scale = [_part(map_now, r).sum() / max(n, 1e-12) for r, n in zip(regions, now, strict=True)]
    for k, dose in enumerate(doses):
        if dose is None:
            continue
        for i, ((a, b), region) in enumerate(zip(parts, regions, strict=True)):
            gain = 1.0 if errors is None else _gain(prediction, decision, region, dose, errors)
            for share, one in ((1 - ALONE, dose.times(gain)), (ALONE, dose)):
                below = _below_cuts(signal, decision, one)
                wrong = np.where(positive[:, None], below, 1 - below)
                best = np.minimum((mass[:, a:b].T @ wrong).min(1), fixed[a:b]) if below.size else fixed[a:b]
                out[i, k] += share * best.sum() * scale[i]
    return out


def _gain(prediction: Prediction, decision: Decision, region: Region, dose: Dose, errors: Errors) -> float:
    """Return how many times the dose the measurement of a pixel is worth, with that of its neighbours."""
    planes = [
        View(prediction.quantiles, prediction.axes, first=(i,)).read(decision.scene, region.slices)
        for i in range(len(prediction.levels))
    ]
    quantiles = np.stack(planes)
    measured = np.zeros(quantiles.shape[2:], bool)
    measured[region.own] = True
    return float(errors.gain(quantiles[..., measured], prediction.levels, dose, measured)[decision.channel])


def share_dwell(
    after: NDArray[np.floating[Any]], dwells: Sequence[float], total: float
) -> NDArray[np.float64]:
    """Return the dwell of each window: shared out step by step to where the expected wrong area falls most.

    Dwell is given where the next step lowers the area most per dwell, as long as there is some left.

    Parameters
    ----------
    after : ndarray of float, (windows, dwells)
        Expected wrong area of each window after each dwell.
    dwells : sequence of float
        Dwells to choose from, rising; each window gets at least the first.
    total : float
        Largest sum of the dwells of all windows.

    Returns
    -------
    ndarray of float64, (windows,)
        One of the dwells for each window.
    """
    steps = np.asarray(dwells, np.float64)
    need(bool((np.diff(steps) > 0).all()), "dwells", dwells, "rising")
    at, left = np.zeros(len(after), int), float(total) - steps[0] * len(after)
    while True:
        best, chosen = 0.0, None
        for w, k in enumerate(at):
            for to in range(k + 1, len(steps)):
                cost = steps[to] - steps[k]
                gain = (after[w, k] - after[w, to]) / cost
                if cost <= left + 1e-9 and gain > best * (1 + 1e-9):
                    best, chosen = gain, (w, to)
        if chosen is None:
            return np.asarray(steps[at])
        w, to = chosen
        left -= steps[to] - steps[at[w]]
        at[w] = to


def _probability(prediction: Prediction, decision: Decision, threshold: float) -> NDArray[np.float32]:
    """Return P(signal > threshold) of one scene, (Y, X) or (Z, Y, X)."""
    found = prediction.exceedance(threshold, decision.channel)
    return one_scene(found, prediction.axes.replace("C", ""), decision.scene)


def _part(values: NDArray[np.float32], region: Region) -> NDArray[np.float32]:
    """Return the pixels of a region, (n,)."""
    return values[region.slices][region.own].ravel()


def _signals(prediction: Prediction, decision: Decision, doses: Sequence[Dose]) -> NDArray[np.float64]:
    """Return the edges of cells of the signal: evenly over the predicted values, fine near the threshold."""
    planes = prediction.planes({"C": decision.channel})
    values = planes[:, ...].reshape(len(planes), -1)
    values = values[:, :: max(values.shape[1] // 20_000, 1)]
    spread = np.nanquantile(values, np.linspace(0, 1, _SIGNALS)).astype(np.float64)
    # the tails beyond the outermost levels hold signals, too
    low = float(np.nanmin(ppf(values, prediction.levels, _TAILS[0])))
    high = float(np.nanmax(ppf(values, prediction.levels, _TAILS[1])))
    t, c = decision.threshold, decision.channel
    if t >= high:  # the few signals above the threshold have a cell of their own
        high = t + max(high - float(spread[-1]), 1e-3 * max(abs(t), 1e-9))
    near = [t + np.linspace(-_FAR, _FAR, 15) * _noise(t, dose, c) for dose in doses if dose.dose[c] > 0]
    edges = np.unique(np.concatenate([spread, [t, low, high], *near]).astype(np.float32))
    inside = (edges >= np.float32(low)) & (edges <= np.float32(high))
    kept = edges[inside | (edges == np.float32(t))].astype(np.float64)
    # the threshold itself, not its neighbour in single precision
    kept[np.argmin(np.abs(kept - t))] = t
    return np.asarray(kept, np.float64)


def _noise(signal: float, dose: Dose, channel: int) -> float:
    """Return the standard deviation of a measurement at a signal, in units of the signal."""
    if dose.sd is not None:
        return float(dose.sd[channel] / (dose.gain[channel] * dose.dose[channel]))
    return float(np.sqrt(max(signal, 0) * dose.dose[channel] + 1) / dose.dose[channel])


def _below_cuts(signal: NDArray[np.float64], decision: Decision, dose: Dose) -> NDArray[np.float64]:
    """Return P(value below a cut | signal), (signals, cuts), for cuts around the value at the threshold."""
    c, t = decision.channel, decision.threshold
    scale, noise = dose.dose[c], _noise(t, dose, c) if dose.dose[c] > 0 else 0.0
    if scale == 0:
        return np.empty((len(signal), 0))
    reach = t + np.linspace(-_FAR, _FAR, _CUTS) * noise
    if dose.sd is not None:
        return np.asarray(ndtr((reach[None] - signal[:, None]) / noise))
    # an answer is "above" from a whole number of counts on: the likelihood ratio rises with the counts
    cuts = np.unique(np.ceil(np.maximum(scale * reach, 1)))
    return np.asarray(pdtr(cuts[None] - 1, np.maximum(scale * signal[:, None], 0)))
