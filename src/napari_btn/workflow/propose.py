"""Windows to measure again: their score, the search, and the expected wrong area before and after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_btn.core.calibration.conformal import NOISY_TARGETS, covered
from napari_btn.core.calibration.neighbours import Errors
from napari_btn.core.data.image import shown_amount, shown_unit
from napari_btn.core.data.record import recipe_step, with_step
from napari_btn.core.progress import Progress
from napari_btn.core.remeasure.expected import share_dwell, wrong_after, wrong_now
from napari_btn.core.remeasure.regions import propose_regions
from napari_btn.core.remeasure.scores import combine_channels, score_map
from napari_btn.core.remeasure.stage import travel_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.core.remeasure.expected import Decision
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.workflow.search import Choice, Search

__all__ = [
    "Expected",
    "Proposal",
    "dwell_sentence",
    "expected_wrong",
    "pixel_size_of",
    "propose_steps",
    "sizes_of",
]

_SPREADS: dict[str, Literal["plain", "relative"]] = {"spread": "plain", "relative spread": "relative"}
_RANKED = ("ambiguity", "relative width")
_SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # dwells of a window, of the mean dwell


@dataclass(frozen=True)
class Expected:
    """Expected wrong area in pixels, where the probabilities are right; several channels add up.

    Parameters
    ----------
    now : float
        Of the whole scene.
    after : float
        Of the whole scene, once the windows are fused with what was measured in them.
    more : int, optional
        Number of further windows for the area that was asked for; None if it wasn't asked for, or if all
        windows together would not do.
    dwells : tuple of float
        Dwell of each window, in dwells of the noisy image; empty without a dose.
    covers : str
        What the decisions are on, as `Prediction.covers`.
    channels : int
        Number of channels whose areas add up.
    """

    now: float
    after: float
    more: int | None = None
    dwells: tuple[float, ...] = ()
    covers: str = "clean"
    channels: int = 1

    def sentence(self, pixel_size: Sequence[float] | None, unit: str, until: float | None = None) -> str:
        """Return the areas as a sentence, in physical units if the pixel size is known.

        Parameters
        ----------
        pixel_size : sequence of float, optional
            Along (Z,) Y, X.
        unit : str
        until : float, optional
            Area in pixels that was asked for.
        """
        unit = shown_unit(unit)
        known = pixel_size is not None and unit not in ("px", "")
        size = float(np.prod(pixel_size)) if known and pixel_size is not None else 1.0
        power = "²" if pixel_size is None or len(pixel_size) == 2 else "³"
        name = f"{unit}{power}" if known else "px"
        over = f", the sum over {self.channels} channels" if self.channels > 1 else ""
        exactly = "" if self.dwells else " if they are measured without error"
        text = (
            f"Expected wrongly decided area{over}, on average over fields like the calibration data: "
            f"now {shown_amount(size * self.now)} {name}, after these windows {shown_amount(size * self.after)} "
            f"{name}{exactly}."
        )
        if self.dwells:
            text = f"{text} After short dwells the gain is often smaller than expected."
        if self.covers in NOISY_TARGETS:
            text = (
                f"{text} It counts values of {covered(self.covers)}, with its noise; of the clean signal another area "
                "is decided wrongly."
            )
        if until is None:
            return text
        wanted = f"{shown_amount(size * until)} {name}"
        if self.more is None:
            return f"{text} No number of windows of this size was found to reach {wanted}."
        if self.more == 0:
            return f"{text} {wanted} is expected to be reached."
        return (
            f"{text} To reach {wanted}, about {self.more} more {'window is' if self.more == 1 else 'windows are'} "
            "expected to be needed."
        )


@dataclass(frozen=True, eq=False)
class Proposal:
    """Proposed windows, and the score that they were chosen by.

    Parameters
    ----------
    score : ndarray of float32, (Y, X) or (Z, Y, X)
        Finite; 0 where it isn't known.
    regions : tuple of Region
        Best first, or in an order of travel.
    expected : Expected, optional
        Expected wrong area, where thresholds are set.
    provenance : dict
        That of the prediction, whose recipe has the search as one more step.
    """

    score: NDArray[np.float32]
    regions: tuple[Region, ...] = ()
    expected: Expected | None = None
    provenance: dict[str, Any] = field(default_factory=dict)


def dwell_sentence(regions: Sequence[Region], shape: Sequence[int]) -> str:
    """Return how the dwell is shared out, as a sentence; empty if no region has a dwell.

    Parameters
    ----------
    regions : sequence of Region
        Windows.
    shape : sequence of int
        Of the image, along (Z,) Y, X.
    """
    planned = [r for r in regions if r.dwell is not None]
    if not planned:
        return ""
    dwells = [r.dwell or 0.0 for r in planned]
    time = sum(d * r.area_px for d, r in zip(dwells, planned, strict=True)) / float(np.prod(shape))
    who = "All have" if len(planned) == len(regions) else f"{len(planned)} of {len(regions)} windows have"
    least, most = min(dwells), max(dwells)
    each = f"{least:.3g}" if least == most else f"{least:.3g} to {most:.3g}"
    return f"{who} a dwell of {each} times that of the image; together {time:.3g} times its beam time."


def sizes_of(prediction: Prediction) -> dict[str, int]:
    """Return the size along each axis of a prediction.

    Parameters
    ----------
    prediction : Prediction
        Any.

    Returns
    -------
    dict of str to int
        By axis letter.
    """
    shape = (int(n) for n in prediction.median.shape)
    return dict(zip(prediction.axes, shape, strict=True))


def pixel_size_of(prediction: Prediction) -> tuple[tuple[float, ...], str]:
    """Return the pixel size along (Z,) Y, X and its unit; 1 px if the prediction has none.

    Parameters
    ----------
    prediction : Prediction
        Any.

    Returns
    -------
    tuple of float
        In the order Z, Y, X.
    str
        Unit.
    """
    space = [a for a in prediction.axes if a in "ZYX"]
    if prediction.pixel_size is None:
        return (1.0,) * len(space), "px"
    size = dict(zip(space, prediction.pixel_size, strict=True))
    return tuple(float(size[a]) for a in "ZYX" if a in size), prediction.unit


def propose_steps(
    prediction: Prediction,
    choice: Choice,
    search: Search | None = None,
    score: NDArray[np.float32] | None = None,
) -> Step[Proposal]:
    """Score the image, then search it; a step.

    The recipe of the proposal has the choice and the search, with the area that was painted or drawn. Regions that
    a hand draws or moves have no step: they are kept as they are, in files of regions and with what is fused.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps.
    choice : Choice
        Of the score.
    search : Search, optional
        Windows to look for; None makes the score only.
    score : ndarray of float32, optional
        The score of that choice, if it is known already.

    Returns
    -------
    Proposal
        The score, and the windows.

    Yields
    ------
    Progress
        Per channel, then before each search.
    """
    n = len(choice.channels)
    if score is None:
        maps = []
        for i, channel in enumerate(choice.channels):
            yield Progress(i, n + 1, f"Scoring channel {i + 1} of {n}")
            maps.append(_score(prediction, choice, i, channel))
        stack = np.stack(maps)
        finite = np.isfinite(stack).all(0)
        by: Literal["rank", "mean"] = "rank" if choice.kind in _RANKED else "mean"
        made = stack[0] if n == 1 else combine_channels(np.where(finite, stack, 0), mask=finite, by=by)
        score = np.where(finite, made, 0).astype(np.float32)
    if search is None:
        return Proposal(score, provenance=prediction.provenance)
    yield Progress(n, n + 1, "Searching windows")
    regions, more, errors = _search(prediction, score, search, search.count), None, None
    if search.dose is not None and choice.decisions and prediction.held_out is not None:
        errors = yield from Errors.of_steps(prediction.held_out)
    if search.until is not None and choice.decisions:
        regions, more = yield from _until_steps(prediction, choice, search, score, regions, errors)
    if search.travel:
        regions = travel_order(regions, stage=search.stage)
    if not choice.decisions:
        return _recorded(Proposal(score, tuple(regions)), prediction, choice, search)
    yield Progress(n, n + 1, "Estimating the wrongly decided area")
    expected = expected_wrong(
        prediction, choice.decisions, regions, dose=search.dose, dwell=search.dwell, errors=errors
    )
    if expected.dwells:
        regions = [replace(r, dwell=d) for r, d in zip(regions, expected.dwells, strict=True)]
    made = Proposal(score, tuple(regions), replace(expected, more=more))
    return _recorded(made, prediction, choice, search)


def _recorded(proposal: Proposal, prediction: Prediction, choice: Choice, search: Search) -> Proposal:
    """Return a proposal with the provenance of the prediction, and the search in its recipe if it has one."""
    known = prediction.provenance
    if known.get("recipe"):
        places = [[[int(n) for n in (*r.start, *r.size)], float(r.score), r.dwell] for r in proposal.regions]
        digest = hashlib.sha256(json.dumps(places).encode()).hexdigest()
        step = recipe_step("regions", {}, choice=choice.to_dict(), search=search.to_dict(), regions=digest)
        known = with_step(known, step)
    return replace(proposal, provenance=known)


def expected_wrong(
    prediction: Prediction,
    decisions: Sequence[Decision],
    regions: Sequence[Region],
    *,
    dose: Dose | None = None,
    dwell: float = 1.0,
    errors: Errors | None = None,
) -> Expected:
    """Return the expected wrong area of a scene: now, and after some windows were measured again.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps with quantiles.
    decisions : sequence of Decision
        Of one scene.
    regions : sequence of Region
        Disjoint windows.
    dose : Dose, optional
        Dose of the noisy image. Without it, a window counts as decided.
    dwell : float
        Mean dwell of the windows, in dwells of the noisy image; shared out where it decides most.
    errors : Errors, optional
        How errors of the prediction go together, as a fusion takes them; each pixel for itself by default.
    """
    maps = [wrong_now(prediction, one) for one in decisions]
    now = float(sum(m.sum(dtype=np.float64) for m in maps))
    inside = [sum(_sum(m, r) for m in maps) for r in regions]
    left, dwells = np.zeros(len(regions)), tuple[float, ...]()
    if dose is not None and regions:
        left, dwells = _shared(_after(prediction, decisions, regions, dose, dwell, errors), dwell)
    after = now - float(np.sum(inside)) + float(left.sum())
    channels = len({one.channel for one in decisions})
    return Expected(now, after, None, dwells, prediction.covers, channels)


def _after(
    prediction: Prediction,
    decisions: Sequence[Decision],
    regions: Sequence[Region],
    dose: Dose,
    dwell: float,
    errors: Errors | None,
) -> NDArray[np.float64]:
    """Return the expected wrong area of each window (windows, shares) after each dwell that it may get."""
    doses = [dose.times(dwell * share) for share in _SHARES]
    after = np.sum([wrong_after(prediction, one, regions, doses, errors) for one in decisions], axis=0)
    return np.asarray(np.minimum.accumulate(after, axis=1))


def _shared(after: NDArray[np.float64], dwell: float) -> tuple[NDArray[np.float64], tuple[float, ...]]:
    """Return the area that is left in each window once the dwell of all is shared out, and each dwell."""
    dwells = [dwell * share for share in _SHARES]
    chosen = share_dwell(after, dwells, dwell * len(after))
    at = np.searchsorted(dwells, chosen)
    return after[np.arange(len(after)), at], tuple(float(d) for d in chosen)


def _until_steps(
    prediction: Prediction,
    choice: Choice,
    search: Search,
    score: NDArray[np.float32],
    regions: list[Region],
    errors: Errors | None,
) -> Step[tuple[list[Region], int | None]]:
    """Return the windows that are enough, and how many more are needed; None if all would not do; a step."""
    assert search.until is not None
    maps = [wrong_now(prediction, one) for one in choice.decisions]
    now = float(sum(m.sum(dtype=np.float64) for m in maps))
    room = int(np.prod(score.shape) // np.prod(search.window))
    tried = regions
    while True:
        inside = [sum(_sum(m, r) for m in maps) for r in tried]
        after = np.zeros((len(tried), len(_SHARES)))
        if search.dose is not None:
            after = _after(prediction, choice.decisions, tried, search.dose, search.dwell, errors)
        least = np.concatenate([[now], now - np.cumsum(inside) + np.cumsum(after[:, -1])])
        # fewer windows share less dwell, so each number that may do is judged with its own
        for enough in np.flatnonzero(least <= search.until).tolist():
            left, _ = _shared(after[:enough], search.dwell)
            if now - sum(inside[:enough]) + left.sum() <= search.until:
                return regions[:enough], max(enough - len(regions), 0)
        if len(tried) < search.count or len(tried) >= room:
            return regions, None
        asked = min(2 * len(tried), room)
        yield Progress(0, 1, "Searching windows")
        found = _search(prediction, score, search, asked)
        if len(found) <= len(tried):
            return regions, None
        tried = found


def _search(prediction: Prediction, score: NDArray[np.float32], search: Search, count: int) -> list[Region]:
    """Return the best windows of a score."""
    size, unit = pixel_size_of(prediction)
    spacing = search.margin if search.spacing is None else search.spacing
    return propose_regions(
        score, search.window, count, size, unit, mask=search.area, margin=search.margin, spacing=spacing
    )


def _sum(values: NDArray[np.float32], region: Region) -> float:
    """Return the sum of a map in a region."""
    return float(values[region.slices][region.own].sum(dtype=np.float64))


def _score(prediction: Prediction, choice: Choice, i: int, channel: int) -> NDArray[np.float32]:
    """Return the score of one channel."""
    scene = choice.scene
    if choice.kind == "ambiguity":
        return score_map(prediction, channel=channel, threshold=choice.thresholds[i], scene=scene)
    if choice.kind in _SPREADS:
        return score_map(prediction, channel=channel, spread=_SPREADS[choice.kind], scene=scene)
    width: Literal["plain", "relative"] = "relative" if choice.kind == "relative width" else "plain"
    return score_map(prediction, channel=channel, width=width, scene=scene)
