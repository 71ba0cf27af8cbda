"""Held-out scores in, calibrated intervals out.

The unit of calibration is the block (or the scene): neighbouring pixels are not exchangeable.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from napari_btn.core.config import CalibrationSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Calibration",
    "HeldOut",
    "Note",
    "blocks_of",
    "calibrate",
    "conformal_quantile",
    "cross_fitted",
    "error_length",
]

# Of ranks and masses: (n + 1)(1 - alpha) that is a whole number must not round up to the next one.
SLACK = 1e-9
# The block rule covers (1 - alpha)(1 + 1/B) on average: from this many times 1/alpha on, that costs little.
BLOCKS_PER_ALPHA = 5


@dataclass(frozen=True)
class Note:
    """Something the user should know about a result.

    Parameters
    ----------
    level : str
        "red" (don't trust the coverage) or "amber" (read before relying on it).
    text : str
        What came, what is needed, and what to do.
    """

    level: Literal["red", "amber"]
    text: str

    def to_dict(self) -> dict[str, str]:
        """Note as a JSON-ready dict."""
        return {"level": self.level, "text": self.text}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Note from `to_dict`."""
        return cls(level=values["level"], text=str(values["text"]))


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the networks predict, and what is true, on pixels they never trained on.

    Parameters
    ----------
    quantiles : ndarray of float32, shape (L, C, n)
        Quantiles averaged over the ensemble, in the target's unit.
    target : ndarray of float32, shape (C, n)
        Target at the same pixels.
    block : ndarray of int64, shape (n,)
        Block (or scene) of each pixel, 0 to B - 1.
    levels : tuple of float
        The L quantile levels, ascending, each between 0 and 1.
    observed : ndarray of float32, shape (C, n), optional
        Raw noisy input at the same pixels, in its own unit.
    position : ndarray of int, shape (n, 1 + ndim), optional
        Scene and spatial index of each pixel.

    Raises
    ------
    ValueError
        If shapes don't fit, levels don't ascend, or a value isn't finite.
    """

    quantiles: NDArray[np.float32]
    target: NDArray[np.float32]
    block: NDArray[np.int64]
    levels: tuple[float, ...]
    observed: NDArray[np.float32] | None = None
    position: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.quantiles.ndim != 3 or self.quantiles.shape[0] != len(self.levels):
            raise ValueError(
                f"Held-out quantiles have shape {self.quantiles.shape}; they need (levels, channels, pixels) "
                f"with {len(self.levels)} levels. Pass one quantile per level."
            )
        shape = self.quantiles.shape[1:]
        arrays = {"target": self.target, "observed": self.observed}
        for name, array in arrays.items():
            if array is not None and array.shape != shape:
                raise ValueError(
                    f"Held-out {name} has shape {array.shape}; it needs (channels, pixels) {shape}, "
                    "as the quantiles. Take both at the same pixels."
                )
        if self.block.shape != shape[1:] or shape[1] == 0 or self.block.min() < 0:
            raise ValueError(
                f"Held-out blocks have shape {self.block.shape} for {shape[1]} pixels; every pixel needs a "
                "block number from 0 up, and there must be at least one pixel. Hold out more of the field."
            )
        if not _ascending(self.levels):
            raise ValueError(
                f"Levels are {self.levels}; they must ascend between 0 and 1. Sort them and drop repeats."
            )
        if not (np.isfinite(self.quantiles).all() and np.isfinite(self.target).all()):
            raise ValueError(
                "Held-out quantiles or target hold NaN or infinite values; every pixel must be finite. "
                "Leave such pixels out."
            )

    @property
    def n_blocks(self) -> int:
        """Number of distinct blocks."""
        return int(np.count_nonzero(np.bincount(self.block)))

    def take(self, pixels: NDArray[Any]) -> HeldOut:
        """Held-out data at some of the pixels, given as a mask or as indices, shape (n,) or (m,)."""
        return HeldOut(
            quantiles=self.quantiles[:, :, pixels],
            target=self.target[:, pixels],
            block=self.block[pixels],
            levels=self.levels,
            observed=None if self.observed is None else self.observed[:, pixels],
            position=None if self.position is None else self.position[pixels],
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """Offsets that turn predicted quantiles into an interval of stated coverage.

    Parameters
    ----------
    alpha : float
        Miscoverage; the interval covers ``1 - alpha``.
    rule : str
        "block" (every block counts once) or "pixel" (pixels pooled).
    score : str
        "symmetric" (one offset for both sides) or "asymmetric" (``alpha / 2`` on each side).
    levels : tuple of float
        Quantile levels that `interval` expects.
    lower_index, upper_index : int
        The levels that the interval starts from.
    offset_lower, offset_upper : ndarray of float64, shape (C,)
        Subtracted from the lower and added to the upper quantile; may be negative, or infinite
        where there are too few blocks for a guarantee.
    n_blocks, n_pixels : int
        Blocks and pixels that the offsets come from.
    minimum : float, optional
        Lowest value that the signal can have.
    notes : tuple of Note
        What to know before relying on it.
    """

    alpha: float
    rule: Literal["block", "pixel"]
    score: Literal["symmetric", "asymmetric"]
    levels: tuple[float, ...]
    lower_index: int
    upper_index: int
    offset_lower: NDArray[np.float64]
    offset_upper: NDArray[np.float64]
    n_blocks: int
    n_pixels: int
    minimum: float | None = None
    notes: tuple[Note, ...] = ()

    @property
    def median_index(self) -> int:
        """Index of the level nearest one half."""
        return int(np.argmin(np.abs(np.asarray(self.levels) - 0.5)))

    @property
    def finite(self) -> bool:
        """Whether every offset is finite."""
        return bool(np.isfinite(self.offset_lower).all() and np.isfinite(self.offset_upper).all())

    def interval(
        self, quantiles: NDArray[np.floating[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Lower bound, median and upper bound, with lower <= median <= upper.

        Parameters
        ----------
        quantiles : ndarray of float, shape (L, C, *space)
            Quantiles averaged over the ensemble, at `levels`.

        Returns
        -------
        lower, median, upper : ndarray of float32, shape (C, *space)
            In the target's unit, at least `minimum` where there is one.

        Raises
        ------
        ValueError
            If the numbers of levels or channels differ from the calibration's.

        References
        ----------
        Romano et al., arXiv 1905.03222 (2019), equation 7.
        """
        wanted = (len(self.levels), len(self.offset_lower))
        if quantiles.shape[:2] != wanted:
            raise ValueError(
                f"Quantiles have shape {quantiles.shape}; this calibration needs {wanted[0]} levels and "
                f"{wanted[1]} channels first. Predict with the ensemble that was calibrated."
            )
        q_lower, q_median, q_upper = (
            np.asarray(quantiles[i], dtype=np.float32)
            for i in (self.lower_index, self.median_index, self.upper_index)
        )
        shape = (-1, *([1] * (quantiles.ndim - 2)))
        lower = _outward(q_lower, -self.offset_lower.reshape(shape), -np.inf)
        upper = _outward(q_upper, self.offset_upper.reshape(shape), np.inf)
        np.minimum(lower, q_median, out=lower)
        np.maximum(upper, q_median, out=upper)
        if self.minimum is None:
            return lower, q_median.copy(), upper
        low = np.float32(self.minimum)
        return np.maximum(lower, low, out=lower), np.maximum(q_median, low), np.maximum(upper, low, out=upper)

    def to_dict(self) -> dict[str, Any]:
        """Calibration as a JSON-ready dict; an infinite offset is the string "inf"."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["levels"] = list(self.levels)
        values["offset_lower"] = _plain(self.offset_lower)
        values["offset_upper"] = _plain(self.offset_upper)
        values["notes"] = [asdict(note) for note in self.notes]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Calibration from `to_dict`."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        fields["levels"] = tuple(float(level) for level in fields["levels"])
        for name in ("offset_lower", "offset_upper"):
            fields[name] = np.asarray([float(v) for v in fields[name]], dtype=np.float64)
        fields["notes"] = tuple(Note.from_dict(note) for note in fields["notes"])
        return cls(**fields)


def calibrate(
    held_out: HeldOut, *, alpha: float = 0.1, settings: CalibrationSettings | None = None
) -> Calibration:
    """Offsets that make the interval cover ``1 - alpha``, per channel, from all held-out blocks.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    alpha : float
        Miscoverage, between 0 and 1.
    settings : CalibrationSettings, optional
        Unit, score and minimum; the defaults if left out.

    Returns
    -------
    Calibration
        The offsets, and notes on what they are worth.

    Raises
    ------
    ValueError
        If `alpha` isn't between 0 and 1, or there are no levels.

    References
    ----------
    Romano et al., arXiv 1905.03222 (2019), algorithm 1. Lee, Barber and Willett,
    arXiv 2306.06342 (2023), for the block rule.
    """
    _need_alpha(alpha)
    if not held_out.levels:
        raise ValueError("There are no quantile levels; a calibration needs at least one. Predict quantiles.")
    settings = settings or CalibrationSettings()
    lower, upper, notes = _start_levels(held_out.levels, alpha)
    rule, rule_notes = _choose_rule(held_out.n_blocks, alpha, settings)
    empty = np.zeros(held_out.target.shape[0])
    start = Calibration(
        alpha=float(alpha),
        rule=rule,
        score=settings.score,
        levels=tuple(float(level) for level in held_out.levels),
        lower_index=lower,
        upper_index=upper,
        offset_lower=empty,
        offset_upper=empty,
        n_blocks=held_out.n_blocks,
        n_pixels=held_out.target.shape[1],
        minimum=settings.minimum,
        notes=(*notes, *rule_notes),
    )
    return _with_offsets(start, held_out)


def conformal_quantile(scores: ArrayLike, alpha: float, block: ArrayLike | None = None) -> float:
    """Smallest score that covers ``1 - alpha`` of new cases, with the finite-sample correction.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        Conformal scores.
    alpha : float
        Miscoverage, between 0 and 1.
    block : array_like of int, shape (n,), optional
        Block of each score, from 0: every block then weighs the same, and the correction counts
        blocks. Without it every score is a case of its own.

    Returns
    -------
    float
        The quantile; infinite where there are too few cases for a guarantee.

    Raises
    ------
    ValueError
        If `alpha` isn't between 0 and 1, there is no score, or the lengths differ.

    References
    ----------
    Romano et al., arXiv 1905.03222 (2019), equation 8; Lee, Barber and Willett, arXiv 2306.06342
    (2023), equation 6, which equals conformal risk control, arXiv 2208.02814 (2022), equation 4, on
    the miscoverage of blocks.
    """
    _need_alpha(alpha)
    s = np.asarray(scores, dtype=np.float64).ravel()
    if s.size == 0:
        raise ValueError("There are no scores; at least one is needed. Hold out more of the field.")
    if block is None:
        # The k-th smallest itself: np.quantile(..., "higher") lands one rank too high.
        k = max(1, math.ceil((s.size + 1) * (1 - alpha) - SLACK))
        return math.inf if k > s.size else float(np.partition(s, k - 1)[k - 1])
    b = np.asarray(block).ravel()
    if b.size != s.size:
        raise ValueError(f"There are {s.size} scores and {b.size} block numbers; each score needs one.")
    counts = np.bincount(b)
    n_blocks = int(np.count_nonzero(counts))
    needed = (1 - alpha) * (1 + 1 / n_blocks) - SLACK
    if needed > 1:
        return math.inf
    order = np.argsort(s)
    mass = np.cumsum(1 / counts[b[order]]) / n_blocks
    return float(s[order[min(int(np.searchsorted(mass, needed)), s.size - 1)]])


def cross_fitted(
    held_out: HeldOut, calibration: Calibration, *, folds: int = 5, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Intervals of the held-out pixels, where no block's offset used that block.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    calibration : Calibration
        Made from `held_out`; gives the level, the rule and the score.
    folds : int
        Folds of whole blocks; every block its own where fewer would leave no finite offset.
    seed : int
        Seed of the draw that deals blocks into folds.

    Returns
    -------
    lower, median, upper : ndarray of float32, shape (C, n)
        In the target's unit; NaN in lower and upper where there is only one block.
    """
    numbers, index = np.unique(held_out.block, return_inverse=True)
    n_blocks = len(numbers)
    n_folds = min(folds, n_blocks)
    if calibration.rule == "block" and n_blocks - math.ceil(n_blocks / n_folds) < needed_blocks(
        calibration.alpha, calibration.score
    ):
        n_folds = n_blocks
    fold = (np.random.default_rng(seed).permutation(n_blocks) % n_folds)[index]
    lower, median, upper = (np.full(held_out.target.shape, np.nan, dtype=np.float32) for _ in range(3))
    if n_folds == 1:
        return lower, calibration.interval(held_out.quantiles)[1], upper
    for k in range(n_folds):
        inside = fold == k
        others = _with_offsets(calibration, held_out.take(~inside))
        lower[:, inside], median[:, inside], upper[:, inside] = others.interval(
            held_out.quantiles[:, :, inside]
        )
    return lower, median, upper


def needed_blocks(alpha: float, score: str = "symmetric") -> int:
    """Fewest blocks with a finite offset under the block rule: 9 at 90 %, 19 asymmetric."""
    sides = 2 if score == "asymmetric" else 1
    return max(1, math.ceil(sides / alpha - 1 - SLACK))


def error_length(miss: ArrayLike, max_lag: int, *, valid: ArrayLike | None = None) -> int:
    """First lag at which misses stop being alike: autocorrelation under 0.1, along the worst axis.

    Parameters
    ----------
    miss : array_like of bool, shape (*space)
        True where the interval missed the target.
    max_lag : int
        Longest lag looked at, in pixels; returned where the autocorrelation never falls.
    valid : array_like of bool, shape (*space), optional
        True where `miss` counts; everywhere if left out.

    Returns
    -------
    int
        Correlation length in pixels, at least 1.
    """
    hit = np.asarray(miss, dtype=np.float64)
    weight = np.ones_like(hit) if valid is None else np.asarray(valid, dtype=np.float64)
    n = weight.sum()
    mean = float((hit * weight).sum() / n) if n else 0.0
    deviation = (hit - mean) * weight
    variance = float(np.square(deviation).sum() / n) if n else 0.0
    if variance == 0:
        return 1
    lags = [_first_low_lag(deviation, weight, variance, axis, max_lag) for axis in range(hit.ndim)]
    return max(lags)


def blocks_of(mask: ArrayLike, side: int, by_scene: bool = False) -> NDArray[np.int64]:
    """Number of the block that each pixel belongs to, -1 outside the mask.

    Parameters
    ----------
    mask : array_like of bool, shape (S, *space)
        True on the held-out pixels.
    side : int
        Side of a block in pixels.
    by_scene : bool
        True where scenes have targets of their own: each is then one block. Otherwise scenes are
        repeats of one field, and a block holds the same pixels of all of them.

    Returns
    -------
    ndarray of int64, shape (S, *space)
        Blocks numbered 0 to B - 1 in raster order. A block with under a quarter of a full one's
        pixels joins its largest neighbour.

    Raises
    ------
    ValueError
        If `side` is under 1.
    """
    inside = np.asarray(mask, dtype=bool)
    if side < 1:
        raise ValueError(f"The block side is {side} px; it must be at least 1 px.")
    numbers = np.full(inside.shape, -1, dtype=np.int64)
    if not inside.any():
        return numbers
    if by_scene:
        rows = inside.reshape(inside.shape[0], -1).any(axis=1)
        scene = np.cumsum(rows) - 1
        return np.where(inside, scene.reshape(-1, *([1] * (inside.ndim - 1))), -1)
    field = inside.any(axis=0)
    where = np.nonzero(field)
    origin = [int(w.min()) for w in where]
    extent = [int(w.max()) - o + 1 for w, o in zip(where, origin, strict=True)]
    grid = tuple(-(-e // side) for e in extent)
    cell = np.ravel_multi_index(tuple((w - o) // side for w, o in zip(where, origin, strict=True)), grid)
    full = math.prod(min(side, e) for e in extent)
    group = _join_small(np.bincount(cell, minlength=math.prod(grid)), grid, full / 4)[cell]
    flat = np.full(field.shape, -1, dtype=np.int64)
    flat[where] = np.unique(group, return_inverse=True)[1]
    return np.where(inside, flat, -1)


def _join_small(counts: NDArray[np.int64], grid: tuple[int, ...], least: float) -> NDArray[np.int64]:
    """Group of each grid cell, after cells with fewer than `least` pixels joined a neighbour."""
    group = np.arange(counts.size)
    size = counts.copy()
    index = np.stack(np.unravel_index(group, grid), axis=1)
    for cell in np.argsort(counts, kind="stable"):
        own = group[cell]
        if counts[cell] == 0 or size[own] >= least:
            continue
        near = np.flatnonzero((np.abs(index - index[cell]).sum(axis=1) == 1) & (counts > 0) & (group != own))
        if near.size == 0:
            continue
        target = group[near[np.argmax(size[group[near]])]]
        size[target] += size[own]
        group[group == own] = target
    return group


def _first_low_lag(
    deviation: NDArray[np.float64], weight: NDArray[np.float64], variance: float, axis: int, max_lag: int
) -> int:
    """First lag along one axis with autocorrelation under 0.1."""
    d, w = np.moveaxis(deviation, axis, 0), np.moveaxis(weight, axis, 0)
    length = int(d.shape[0])
    for lag in range(1, min(max_lag, length - 1) + 1):
        pairs = float((w[lag:] * w[:-lag]).sum())
        if float((d[lag:] * d[:-lag]).sum()) <= 0.1 * variance * pairs:
            return lag
    return max(1, min(max_lag, length))


def _with_offsets(calibration: Calibration, held_out: HeldOut) -> Calibration:
    """The same calibration with offsets from these held-out data."""
    target = held_out.target.astype(np.float64)
    below = held_out.quantiles[calibration.lower_index] - target
    above = target - held_out.quantiles[calibration.upper_index]
    block = held_out.block if calibration.rule == "block" else None
    alpha = calibration.alpha
    if calibration.score == "symmetric":
        low = high = _per_channel(np.maximum(below, above), alpha, block)
    else:
        low, high = (_per_channel(side, alpha / 2, block) for side in (below, above))
    return replace(calibration, offset_lower=low, offset_upper=high)


def _per_channel(
    scores: NDArray[np.float64], alpha: float, block: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Conformal quantile of each row."""
    return np.asarray([conformal_quantile(row, alpha, block) for row in scores])


def _start_levels(levels: Sequence[float], alpha: float) -> tuple[int, int, tuple[Note, ...]]:
    """Levels at or outside alpha / 2 and 1 - alpha / 2, and a note where there is none."""
    values = np.asarray(levels)
    lower = np.flatnonzero(values <= alpha / 2 + SLACK)
    upper = np.flatnonzero(values >= 1 - alpha / 2 - SLACK)
    if lower.size and upper.size:
        return int(lower[-1]), int(upper[0]), ()
    note = Note(
        "amber",
        f"Coverage {1 - alpha:.3g} needs levels {alpha / 2:.3g} and {1 - alpha / 2:.3g}; the outermost "
        f"trained ones are {values[0]:.3g} and {values[-1]:.3g}, and the interval starts from those. Its "
        "width adapts less to the pixel; train with wider levels for such a coverage.",
    )
    return (int(lower[-1]) if lower.size else 0), (int(upper[0]) if upper.size else len(values) - 1), (note,)


def _choose_rule(
    n_blocks: int, alpha: float, settings: CalibrationSettings
) -> tuple[Literal["block", "pixel"], tuple[Note, ...]]:
    """The rule that the settings ask for, and what to say about it."""
    finite = needed_blocks(alpha, settings.score)
    enough = math.ceil(BLOCKS_PER_ALPHA / alpha - SLACK)
    notes: list[Note] = []
    rule: Literal["block", "pixel"] = "pixel" if settings.unit == "pixel" else "block"
    if settings.unit == "auto" and n_blocks < enough:
        rule = "pixel"
        notes.append(
            Note(
                "amber",
                f"Calibrated on {n_blocks} held-out blocks; the block rule wants {enough} at coverage "
                f"{1 - alpha:.3g}, so pixels were pooled: right on average for images like the calibration "
                "data, without a finite-sample guarantee. Hold out more for one.",
            )
        )
    if n_blocks < finite:
        what = "The interval is infinite" if rule == "block" else "The coverage is not backed by the data"
        notes.append(
            Note(
                "red",
                f"Only {n_blocks} held-out blocks; coverage {1 - alpha:.3g} needs at least {finite}. {what}. "
                "Hold out more of the field, add scenes, or ask for a lower coverage.",
            )
        )
    return rule, tuple(notes)


def _outward(
    quantile: NDArray[np.float32], offset: NDArray[np.float64], direction: float
) -> NDArray[np.float32]:
    """Quantile plus offset in float32, rounded outward."""
    # On flat background thousands of pixels tie exactly at the bound: rounding inward would lose them all.
    step = np.nextafter(offset.astype(np.float32), np.float32(direction))
    moved = quantile + step
    return np.nextafter(moved, np.float32(direction), out=moved)


def _ascending(levels: Sequence[float]) -> bool:
    """Whether levels ascend strictly between 0 and 1."""
    bounds = (0.0, *levels, 1.0)
    return all(a < b for a, b in itertools.pairwise(bounds))


def _need_alpha(alpha: float) -> None:
    """Raise unless alpha is a miscoverage."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must be between 0 and 1, as 0.1 for 90 % coverage.")


def _plain(values: NDArray[np.float64]) -> list[float | str]:
    """Numbers for JSON, which knows no infinity."""
    return [float(v) if math.isfinite(v) else str(float(v)) for v in values]
