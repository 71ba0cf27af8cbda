"""From a prediction to one score per pixel: how much it deserves another measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_btn.core.scores import ambiguity, combine_channels, disagreement, relative_width, width_reduction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.prediction import Prediction
    from napari_btn.core.regions import Region

__all__ = ["score_map", "width_outside"]


def score_map(
    prediction: Prediction,
    *,
    channel: str | int | None = None,
    threshold: float | None = None,
    dwell_ratio: float | None = None,
    spread: Literal["plain", "relative"] | None = None,
    scene: int | None = None,
) -> NDArray[np.float32]:
    """Score of each pixel of a prediction, for `regions.propose_regions`.

    With a threshold, how undecided ``P(signal > threshold)`` is; with a dwell, how much narrower
    the interval is expected to become; with a spread, how far the members disagree; else the width of the
    interval relative to the signal.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps.
    channel : str or int, optional
        Name or number; by default the average of all channels, each replaced by its ranks, or with a
        dwell or a spread divided by its mean.
    threshold : float, optional
        In the units of the maps.
    dwell_ratio : float, optional
        Dwell of the new measurement over that of the old one.
    spread : str, optional
        "plain", the members' spread; or "relative", its share of the interval's width.
    scene : int, optional
        Which scene, where the maps have several.

    Returns
    -------
    ndarray of float32, (Y, X) or (Z, Y, X)
        Larger is more deserving.

    Raises
    ------
    ValueError
        If the scene or the channel is missing, there is no spread, or more than one of threshold, dwell and
        spread is given.
    """
    asked = {"threshold": threshold, "dwell_ratio": dwell_ratio, "spread": spread}
    came = [name for name, value in asked.items() if value is not None]
    if len(came) > 1:
        raise ValueError(
            f"{' and '.join(came)} came together; the score is made from one of them. Leave one out."
        )
    if spread not in (None, "plain", "relative"):
        raise ValueError(f"spread is {spread!r}; it must be 'plain' or 'relative'.")
    names = prediction.channel_names
    numbers = range(len(names)) if channel is None else [prediction.channel_number(channel)]
    axes = prediction.axes.replace("C", "")
    maps = []
    for c in numbers:
        if threshold is not None:
            one = ambiguity(prediction.exceedance(threshold, c))
        else:
            at = tuple(c if a == "C" else slice(None) for a in prediction.axes)
            width = np.asarray(prediction.width[at], np.float32)
            if spread is not None:
                found = np.asarray(prediction.spread[at], np.float32)
                one = disagreement(found, width if spread == "relative" else None)
            elif dwell_ratio is not None:
                one = width_reduction(width, dwell_ratio)
            else:
                one = relative_width(width, np.asarray(prediction.median[at], np.float32))
        maps.append(_one_scene(one, axes, scene))
    if len(maps) == 1:
        return maps[0]
    by: Literal["rank", "mean"] = "rank" if dwell_ratio is None and spread is None else "mean"
    return combine_channels(np.stack(maps), by=by)


def width_outside(prediction: Prediction, regions: Sequence[Region], scene: int = 0) -> NDArray[np.float64]:
    """Mean width of the intervals outside of regions, (C,): what measuring them again is good for elsewhere.

    Parameters
    ----------
    prediction : Prediction
        Calibrated maps.
    regions : sequence of Region
        Left out.
    scene : int
        Which scene, where the maps have several.
    """
    axes = prediction.axes.replace("C", "")
    made = []
    for c in range(max(len(prediction.channel_names), 1)):
        at = tuple(c if a == "C" else slice(None) for a in prediction.axes)
        width = _one_scene(np.asarray(prediction.width[at], np.float32), axes, scene)
        outside = np.ones(width.shape, bool)
        for region in regions:
            outside[region.slices][... if region.mask is None else region.mask] = False
        made.append(float(width[outside].mean(dtype=np.float64)) if outside.any() else float("nan"))
    return np.array(made)


def _one_scene(values: NDArray[np.float32], axes: str, scene: int | None) -> NDArray[np.float32]:
    """One scene of a map, its axes in the order Z, Y, X."""
    space = [a for a in "ZYX" if a in axes]
    stack = values.transpose([axes.index(a) for a in "STZYX" if a in axes])
    stack = stack.reshape(-1, *stack.shape[stack.ndim - len(space) :])
    if scene is None and len(stack) > 1:
        raise ValueError(
            f"The maps have {len(stack)} scenes; regions are proposed in one. Give scene=0, 1, ..."
        )
    number = scene or 0
    if not 0 <= number < len(stack):
        raise ValueError(f"scene is {number}; the maps have {len(stack)}, counted from 0.")
    return np.ascontiguousarray(stack[number])
