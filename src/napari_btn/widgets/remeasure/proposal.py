"""Proposals of windows from a choice of score, and the scores of moved windows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_btn.core.progress import Progress
from napari_btn.core.remeasure.regions import propose_regions, rescore
from napari_btn.core.remeasure.scores import combine_channels, score_map
from napari_btn.core.remeasure.stage import travel_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.core.remeasure.stage import StageAffine

__all__ = ["Choice", "Proposal", "Search", "pixel_size_of", "propose_steps", "scored", "sizes_of"]


_SPREADS: dict[str, Literal["plain", "relative"]] = {"spread": "plain", "relative spread": "relative"}


@dataclass(frozen=True)
class Choice:
    """The score that makes a pixel worth another measurement.

    Parameters
    ----------
    kind : str
        "ambiguity", "relative width", "width", "spread" or "relative spread".
    channels : tuple of int
        From 0; several are combined by their ranks, widths and spreads in units of their mean.
    thresholds : tuple of float
        One per channel of `channels`, for the ambiguity.
    scene : int
        Which of the scenes.
    """

    kind: str
    channels: tuple[int, ...]
    thresholds: tuple[float, ...] = ()
    scene: int = 0


@dataclass(frozen=True)
class Search:
    """Windows to look for.

    Parameters
    ----------
    window : tuple of int
        Size in pixels along (Z,) Y, X.
    count : int
        How many windows at most.
    margin : int
        Pixels kept free along the border and between windows.
    travel : bool
        True for an order of short travel, from the best window on.
    stage : StageAffine, optional
        Measures the travel on the stage.
    """

    window: tuple[int, ...]
    count: int
    margin: int = 0
    travel: bool = field(default=False, kw_only=True)
    stage: StageAffine | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Proposal:
    """Proposed windows, and the score that they were chosen by.

    Parameters
    ----------
    score : ndarray of float32, (Y, X) or (Z, Y, X)
        Finite; 0 where it isn't known.
    regions : tuple of Region
        Best first.
    """

    score: NDArray[np.float32]
    regions: tuple[Region, ...] = ()


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
        Per channel, then before the search.
    """
    n = len(choice.channels)
    if score is None:
        maps = []
        for i, channel in enumerate(choice.channels):
            yield Progress(i, n + 1, f"Scoring channel {i + 1} of {n}")
            maps.append(_score(prediction, choice, i, channel))
        stack = np.stack(maps)
        finite = np.isfinite(stack).all(0)
        by: Literal["rank", "mean"] = "rank" if choice.kind in ("ambiguity", "relative width") else "mean"
        made = stack[0] if n == 1 else combine_channels(np.where(finite, stack, 0), mask=finite, by=by)
        score = np.where(finite, made, 0).astype(np.float32)
    if search is None:
        return Proposal(score)
    yield Progress(n, n + 1, "Searching windows")
    size, unit = pixel_size_of(prediction)
    margin = search.margin
    found = propose_regions(score, search.window, search.count, size, unit, margin=margin, spacing=margin)
    return Proposal(score, tuple(travel_order(found, stage=search.stage) if search.travel else found))


def scored(region: Region, score: NDArray[np.float32] | None) -> Region:
    """Return the region with its score, summed over its own pixels.

    Parameters
    ----------
    region : Region
        Inside the image.
    score : ndarray of float32, optional
        Score map; None where there is none, which gives a score of 0.

    Returns
    -------
    Region
        The same place.
    """
    if score is None:
        return replace(region, score=0.0)
    at_origin = replace(region, y=0, x=0, z=None if region.z is None else 0)
    return replace(region, score=rescore([at_origin], score[region.slices])[0].score)


def _score(prediction: Prediction, choice: Choice, i: int, channel: int) -> NDArray[np.float32]:
    """Return the score of one channel."""
    scene = choice.scene
    if choice.kind == "ambiguity":
        return score_map(prediction, channel=channel, threshold=choice.thresholds[i], scene=scene)
    if choice.kind in _SPREADS:
        return score_map(prediction, channel=channel, spread=_SPREADS[choice.kind], scene=scene)
    # The same dwell again narrows each interval by the same share, so this ranks pixels by their width.
    dwell = 1.0 if choice.kind == "width" else None
    return score_map(prediction, channel=channel, dwell_ratio=dwell, scene=scene)
