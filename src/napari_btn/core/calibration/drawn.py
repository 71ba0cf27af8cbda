"""Statistics of a region with their range over draws, which per-pixel intervals cannot give.

The range has no stated coverage of true values: see `Prediction.statistic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from napari_btn.core.calibration.conformal import covered
from napari_btn.core.calibration.draws import need_draws, sampler_steps, tiles_of
from napari_btn.core.calibration.marginals import chances
from napari_btn.core.calibration.rules import need_alpha
from napari_btn.core.data.image import View
from napari_btn.core.progress import Progress
from napari_btn.core.settings import is_whole, need

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_btn.core.calibration.draws import Sampler
    from napari_btn.core.calibration.fusion import Place
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step

__all__ = ["STATISTICS", "DrawnStatistic", "MatchedArea", "statistic_steps"]

STATISTICS = ("area_above", "grains", "mean")
"""Names of the statistics: area above a threshold, number of grains above it, mean."""

Statistic = Literal["area_above", "grains", "mean"]

_PIXELS, _CHANCES = (
    20_000,
    16,
)  # held-out pixels, and values of each, that stand for what draws would have there
_TAIL = np.geomspace(1e-4, 0.5, 200)


@dataclass(frozen=True, eq=False)
class DrawnStatistic:
    """A statistic of a region, with its range over draws.

    Parameters
    ----------
    name : str
        "area_above", "grains" or "mean", or that of a function.
    lower, median, upper : float
        Range and median over the draws, in ``unit``.
    alpha : float
        Share of the draws outside the range.
    unit : str
        Of an area its unit, as "um^2", or "px"; empty for a number of grains, or in the units of the maps.
    values : ndarray of float64, shape (n,)
        The statistic of each draw.
    covers : str
        What is drawn, as `Prediction.covers`: with noisy targets, values with their noise, so that areas and grains
        are not those of the clean signal.
    """

    name: str
    lower: float
    median: float
    upper: float
    alpha: float
    unit: str
    values: NDArray[np.float64]
    covers: str = "clean"

    def __str__(self) -> str:
        share = f"{100 * (1 - self.alpha):.4g} % of the draws"
        text = f"{self.median:.4g} ({self.lower:.4g} to {self.upper:.4g} in {share})"
        of = "" if self.covers == "clean" else f" of {covered(self.covers)}"
        return f"{self.name}{of}: {text} {self.unit}".rstrip()


def _needed_draws(alpha: float) -> int:
    """Return the fewest draws whose extremes hold a share ``1 - alpha`` of further draws."""
    return math.ceil(2 / alpha - 1 - 1e-9)


def statistic_steps(
    prediction: Prediction,
    statistic: Statistic | Callable[[NDArray[np.float32], NDArray[np.bool_]], float],
    *,
    channel: str | int | None = None,
    threshold: float | None = None,
    region: Place | tuple[slice, ...] | NDArray[Any] | None = None,
    scene: int = 0,
    n: int = 100,
    seed: int = 0,
    alpha: float | None = None,
    smallest_px: int = 1,
) -> Step[DrawnStatistic]:
    """Return a statistic of a region with its range over draws; a step.

    Parameters
    ----------
    prediction : Prediction
        With quantiles and held-out scores.
    statistic : str or callable
        "area_above": area above the threshold; "grains": connected parts above it (pixels that share a side), both
        after a shift of each draw by which it would have the true area in the held-out blocks;
        "mean": mean of the region; or a function of the values (*box) and the mask (*box) of the region.
    channel : str or int, optional
        Name or number; may be left out where there is only one.
    threshold : float, optional
        In the units of the maps; needed for areas and grains.
    region : Region, tuple of slice, or array over the space axes, optional
        Where; of an array, the pixels that aren't zero. All of the scene by default.
    scene : int
        Number of the scene, S times T in that order.
    n : int
        Number of draws.
    seed : int
        As in `draws_steps`: the statistic is that of the same draws.
    alpha : float, optional
        Share of the draws outside the range; the miscoverage of the prediction by default.
    smallest_px : int
        Grains of fewer pixels don't count.

    Raises
    ------
    ValueError
        If the statistic is unknown, a threshold is missing, the region is empty or doesn't fit, there are too few
        draws for such a range, or the prediction lacks what draws need.
    """
    alpha = prediction.alpha if alpha is None else alpha
    need_alpha(alpha)
    fewest = _needed_draws(alpha)
    need_draws(n, seed, None, ())
    need(n >= fewest, "n", n, f"at least {fewest} draws for a range of {100 * (1 - alpha):.3g} % of them")
    name, measure = _measure(statistic, threshold, smallest_px)
    number = prediction.channel_number(channel)
    view = View(prediction.median, prediction.axes)
    whole = is_whole(scene) and 0 <= scene < view.n_scenes
    need(whole, "scene", scene, f"a number from 0 to {view.n_scenes - 1}")
    part, mask = _place(region, view)
    # the maps are NaN where nothing is known
    mask &= np.isfinite(view.read(scene, part)[number if view.n_channels > 1 else 0])
    need(bool(mask.any()), "region", "without pixels", "a region with pixels of the maps that are known")
    sampler = yield from sampler_steps(prediction, seed=seed)
    tiles = list(tiles_of(prediction, scene, part))
    drawn = np.empty(mask.shape, np.float32)
    values = np.empty(n)
    named = statistic in ("area_above", "grains") and threshold is not None
    matched = MatchedArea.of(sampler, number, threshold) if named and threshold is not None else None
    fused = _fused(prediction, view, number, scene)[part]
    for k in range(n):
        for done, tile in enumerate(tiles):
            yield Progress(k * len(tiles) + done, n * len(tiles), f"{name} of draw {k + 1} of {n}")
            at = tuple(
                slice(t.start - p.start, t.stop - p.start) for t, p in zip(tile.slices, part, strict=True)
            )
            drawn[at] = sampler.box(k, tile, number)[0]
        if matched is not None and threshold is not None:
            # what was measured again needs no other threshold
            drawn += np.where(fused, 0, threshold - matched.threshold(sampler.weight(k))).astype(np.float32)
        values[k] = measure(drawn, mask)
    scale, unit = _unit(prediction, len(part)) if name == "area_above" else (1.0, "")
    return replace(_interval(name, values * scale, alpha, unit), covers=prediction.covers)


@dataclass(frozen=True, eq=False)
class MatchedArea:
    """Threshold of each draw at which its area in the held-out blocks would be that of their targets.

    Values of a draw are smooth where true values lie in groups, so as many of them need not lie above a
    threshold. Each draw counts held-out blocks as it does for its distributions.

    Parameters
    ----------
    asked : float
        The threshold.
    above, pixels : ndarray of float64, shape (B,)
        Pixels of each block, and those whose target lies above the threshold.
    values : ndarray of float64, shape (G,)
        Values, rising.
    expected : ndarray of float64, shape (B, G)
        Pixels of each block that draws are expected to have above each value.
    """

    asked: float
    above: NDArray[np.float64]
    pixels: NDArray[np.float64]
    values: NDArray[np.float64]
    expected: NDArray[np.float64]

    @classmethod
    def of(cls, sampler: Sampler, channel: int, threshold: float) -> Self:
        """Return the areas in the held-out blocks of a sampler.

        Parameters
        ----------
        sampler : Sampler
        channel : int
        threshold : float
            In the units of the maps.
        """
        held_out = sampler.prediction.scores_for("a draw")
        n = held_out.block.size
        few = np.unique(np.linspace(0, n - 1, min(n, _PIXELS)).astype(int))
        q, block = held_out.quantiles[:, channel, few], held_out.block[few]
        marginal = sampler.targets[channel].calibrated()
        drawn = [marginal.values(q, np.full(few.size, u)) for u in chances(_CHANCES)]
        blocks = sampler.targets[channel].n_blocks
        values = np.unique(np.quantile(drawn, np.concatenate([[0.0], _TAIL, 1 - _TAIL[-2::-1], [1.0]])))
        expected = np.zeros((blocks, values.size))
        for one in drawn:
            cell = block * (values.size + 1) + np.searchsorted(values, one)
            counts = np.bincount(cell, minlength=blocks * (values.size + 1)).reshape(blocks, -1)
            expected += counts[:, ::-1].cumsum(1)[:, -2::-1] / len(drawn)
        above = held_out.target[channel, few] > threshold
        pixels = np.bincount(block, minlength=blocks).astype(np.float64)
        reached = np.bincount(block, above, minlength=blocks).astype(np.float64)
        return cls(threshold, reached, pixels, values, expected)

    def threshold(self, weight: NDArray[np.integer[Any]]) -> float:
        """Return the threshold of a draw.

        Parameters
        ----------
        weight : ndarray of int, shape (B,)
            How often each block counts in it, as `Sampler.weight`.
        """
        if not 0 < self.above.sum() < self.pixels.sum() or not (weight * self.pixels).any():
            return self.asked
        pixels = float(weight @ self.pixels)
        share, expected = float(weight @ self.above) / pixels, (weight @ self.expected) / pixels
        return float(np.interp(share, expected[::-1], self.values[::-1]))


def _fused(prediction: Prediction, view: View, channel: int, scene: int) -> NDArray[np.bool_]:
    """Return True for the pixels of a scene that were fused with a measurement, (*space)."""
    axes = prediction.axes
    sizes = dict(zip(axes, prediction.median.shape, strict=True))
    at = dict(zip("ST", np.unravel_index(scene, [sizes.get(a, 1) for a in "ST"]), strict=True))
    fixed = {"C": channel} | {a: int(i) for a, i in at.items()}
    left = [a for a in axes if a not in fixed]
    made = np.zeros([sizes[a] for a in left], np.float32)
    for one in prediction.fused:
        made = one.drawn(
            made, fixed, prediction.quantiles, lambda _, planes: np.ones(planes.shape[1:], np.float32)
        )
    return np.asarray(made.transpose([left.index(a) for a in view.space_axes]) > 0)


def _interval(name: str, values: NDArray[np.float64], alpha: float, unit: str) -> DrawnStatistic:
    """Return the statistic with the range that holds one more draw."""
    rank = max(int((values.size + 1) * alpha / 2 + 1e-9), 1)
    ordered = np.sort(values)
    low, high = float(ordered[rank - 1]), float(ordered[-rank])
    return DrawnStatistic(name, low, float(np.median(values)), high, alpha, unit, values)


def _measure(
    statistic: Any, threshold: float | None, smallest_px: int
) -> tuple[str, Callable[[NDArray[np.float32], NDArray[np.bool_]], float]]:
    """Return the name and the function of a statistic."""
    if callable(statistic):
        return getattr(statistic, "__name__", "statistic"), statistic
    need(statistic in STATISTICS, "statistic", statistic, f"one of {', '.join(STATISTICS)}, or a function")
    if statistic == "mean":
        return "mean", lambda values, mask: float(values[mask].mean(dtype=np.float64))
    number = isinstance(threshold, Real) and threshold == threshold
    need(number, "threshold", threshold, f"a number in the units of the maps for {statistic}")
    need(isinstance(smallest_px, Real), "smallest_px", smallest_px, "a number of pixels")
    if statistic == "area_above":
        return "area_above", lambda values, mask: float(np.count_nonzero((values > threshold) & mask))
    return "grains", lambda values, mask: _grains((values > threshold) & mask, smallest_px)


def _grains(above: NDArray[np.bool_], smallest_px: int) -> float:
    """Return the number of connected parts of at least ``smallest_px`` pixels."""
    from skimage.measure import label

    sizes = np.bincount(label(above, connectivity=1).ravel())[1:]
    return float(np.count_nonzero(sizes >= smallest_px))


def _place(
    region: Place | tuple[slice, ...] | NDArray[Any] | None, view: View
) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Return the bounding box of a region, and its pixels in it."""
    whole = tuple(slice(0, n) for n in view.space)
    if region is None:
        return whole, np.ones(view.space, bool)
    slices = region if isinstance(region, tuple) else getattr(region, "slices", None)
    if slices is None:
        painted = np.asarray(region)
        fits = painted.shape == view.space and painted.dtype.kind in "biuf"
        given = painted.shape or region
        need(fits, "region", given, f"a Region, or an array of {view.space} px along {view.space_axes}")
        inside = np.nan_to_num(painted) != 0
        need(bool(inside.any()), "region", "without pixels", "at least one pixel that isn't zero")
        part = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(inside))
        return part, np.asarray(inside[part])
    known = len(slices) == view.ndim and all(isinstance(s, slice) for s in slices)
    need(known, "region", slices, f"one slice for each of {view.space_axes}")
    part = tuple(slice(*s.indices(n)[:2]) for s, n in zip(slices, view.space, strict=True))
    need(all(s.start < s.stop for s in part), "region", slices, f"a part of {view.space} px")
    own = getattr(region, "mask", None)
    return part, np.ones([s.stop - s.start for s in part], bool) if own is None else np.array(own, bool)


def _unit(prediction: Prediction, ndim: int) -> tuple[float, str]:
    """Return the area (or volume) of a pixel, and its unit."""
    if prediction.pixel_size is None or prediction.unit == "px":
        return 1.0, "px"
    return math.prod(prediction.pixel_size), f"{prediction.unit}^{ndim}"
