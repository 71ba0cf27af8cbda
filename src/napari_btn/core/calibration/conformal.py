"""Calibrated intervals from held-out scores.

The unit of calibration is the block (or the scene): neighbouring pixels are not exchangeable.
Long because the fields of a calibration are documented where they are stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from napari_btn.core.calibration.cases import FIELDS
from napari_btn.core.calibration.rules import (
    SLACK,
    choose_rule,
    need_alpha,
    needed_blocks,
    promise_of,
    rule_quantile,
)
from napari_btn.core.progress import Note
from napari_btn.core.settings import CalibrationSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.rules import Rule

__all__ = [
    "NOISY_TARGETS",
    "NOT_CALIBRATED",
    "Calibration",
    "Interval",
    "calibrate",
    "covered",
    "cross_fitted",
    "from_other_folds",
    "json_numbers",
    "noisy_sentence",
    "with_offsets",
]

NOT_CALIBRATED = "nothing"
"""Word for what the intervals of members cover that were changed since they were calibrated."""

NOISY_TARGETS = ("replicate", "masked pixel", "thinned counts")
"""Values of `covers` for targets that have about as much noise as the inputs."""

Score = Literal["symmetric", "asymmetric", "scaled"]

Interval = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Lower bound, median and upper bound."""


def covered(covers: str) -> str:
    """Return the words for what an interval covers.

    Parameters
    ----------
    covers : str
        "clean", "long exposure", "replicate", "masked pixel", "thinned counts", "simulation" or `NOT_CALIBRATED`.

    Returns
    -------
    str
        With its article: "the clean signal".
    """
    words = {
        "clean": "the clean signal",
        "replicate": "a repeat",
        NOT_CALIBRATED: NOT_CALIBRATED,
        "thinned counts": "twice a count at half the dose",
        "simulation": "the clean signal of simulated images",
    }
    return words.get(covers, f"a {covers}")


def noisy_sentence(covers: str) -> str:
    """Return what probabilities, claims and draws say nothing of, to be put behind a text; often empty.

    Parameters
    ----------
    covers : str
        As for `covered`.

    Returns
    -------
    str
        A sentence with a space before it where targets are noisy, else nothing.
    """
    if covers not in NOISY_TARGETS:
        return ""
    return (
        f" These are values of {covered(covers)}, with its noise: they say nothing of the clean signal, of which "
        "another share lies above a threshold."
    )


@dataclass(frozen=True, eq=False)
class Calibration:
    """Offsets that turn predicted quantiles into an interval that aims at a coverage.

    Parameters
    ----------
    alpha : float
        Miscoverage; the interval aims at ``1 - alpha``.
    rule : str
        "block" (every block counts once), "pixel" (pixels pooled), "image" (a share ``1 - delta`` of
        new images is covered, each) or "risk" (the average holds with probability ``1 - delta``, if the
        blocks are independent).
    score : str
        "symmetric" (one offset for both sides), "asymmetric" (``alpha / 2`` on each side) or "scaled"
        (one offset, in units of the predicted width).
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
    delta : float
        For the rules "image" and "risk".
    width_floor : ndarray of float64, shape (C,), optional
        Added to the predicted width by the "scaled" score.
    blocks : str
        Blocks in words, as in `HeldOut`.
    """

    alpha: float
    rule: Rule
    score: Score
    levels: tuple[float, ...]
    lower_index: int
    upper_index: int
    offset_lower: NDArray[np.float64]
    offset_upper: NDArray[np.float64]
    n_blocks: int
    n_pixels: int
    minimum: float | None = None
    notes: tuple[Note, ...] = ()
    delta: float = 0.1
    width_floor: NDArray[np.float64] | None = None
    blocks: str = "blocks"

    @property
    def _median_index(self) -> int:
        """Index of the level nearest one half."""
        return int(np.argmin(np.abs(np.asarray(self.levels) - 0.5)))

    @property
    def finite(self) -> bool:
        """True if every offset is finite."""
        return bool(np.isfinite(self.offset_lower).all() and np.isfinite(self.offset_upper).all())

    def interval(
        self,
        quantiles: NDArray[np.floating[Any]],
        offsets: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]] | None = None,
    ) -> Interval:
        """Return lower bound, median and upper bound, with lower <= median <= upper.

        Parameters
        ----------
        quantiles : ndarray of float, shape (L, C, *space)
            Quantiles averaged over the ensemble, at `levels`.
        offsets : tuple of ndarray of float, shape (C, *space), optional
            Lower and upper offset of each pixel, instead of the calibration's.

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
        shape = (-1, *([1] * (quantiles.ndim - 2)))
        offset_lower, offset_upper = offsets or (
            o.reshape(shape) for o in (self.offset_lower, self.offset_upper)
        )
        q_lower, q_median, q_upper = (
            np.asarray(quantiles[i], dtype=np.float32)
            for i in (self.lower_index, self._median_index, self.upper_index)
        )
        if self.width_floor is not None:
            floor = self.width_floor.reshape(shape)
            offset_lower, offset_upper = (
                o * (q_upper - q_lower + floor) for o in (offset_lower, offset_upper)
            )
        lower = _outward(q_lower, -offset_lower, -np.inf)
        upper = _outward(q_upper, offset_upper, np.inf)
        np.minimum(lower, q_median, out=lower)
        np.maximum(upper, q_median, out=upper)
        if self.minimum is None:
            return lower, q_median.copy(), upper
        low = np.float32(self.minimum)
        return np.maximum(lower, low, out=lower), np.maximum(q_median, low), np.maximum(upper, low, out=upper)

    def caption(self, covers: str = "clean") -> str:
        """Return what the interval aims at, as a line to print under every map.

        Parameters
        ----------
        covers : str
            What the target is: "clean", "long exposure" or "replicate".

        Returns
        -------
        str
            Coverage, what is covered, over which images, number of blocks, number of warnings.
        """
        if covers == NOT_CALIBRATED:
            return "Not calibrated: these intervals cover nothing in particular. Calibrate before relying on them."
        field = "" if self.blocks == FIELDS else self.blocks
        promise = promise_of(self.rule, self.alpha, self.delta, field)
        levels = [note.level for note in self.notes]
        warned = [f"{levels.count(level)} {level}" for level in ("red", "amber") if level in levels]
        text = f"Aims to cover {covered(covers)}: {promise}; not per pixel. Held-out blocks: {self.n_blocks}."
        return f"{text} Warnings: {', '.join(warned)}." if warned else text

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as a JSON-ready dict; an infinite offset is the string "inf"."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["levels"] = list(self.levels)
        for name in ("offset_lower", "offset_upper", "width_floor"):
            values[name] = None if values[name] is None else json_numbers(values[name])
        values["notes"] = [note.to_dict() for note in self.notes]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the calibration that `to_dict` stored."""
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        fields["levels"] = tuple(float(level) for level in fields["levels"])
        for name in ("offset_lower", "offset_upper", "width_floor"):
            if fields.get(name) is not None:
                fields[name] = np.asarray(fields[name], dtype=np.float64)
        fields["notes"] = tuple(Note.from_dict(note) for note in fields["notes"])
        return cls(**fields)


def calibrate(
    held_out: HeldOut, *, alpha: float = 0.1, settings: CalibrationSettings | None = None
) -> Calibration:
    """Calibrate: find offsets per channel with which the interval aims to cover ``1 - alpha``.

    All held-out blocks are used.

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
    Romano et al., arXiv 1905.03222 (2019), algorithm 1; Sesia and Candes, Stat 9 (2020), for the
    scaled score; Lee, Barber and Willett, arXiv 2306.06342 (2023), for the block rule; Bates et al.,
    arXiv 2101.02703 (2021), for the risk rule.
    """
    need_alpha(alpha)
    if not held_out.levels:
        raise ValueError("There are no quantile levels; a calibration needs at least one. Predict quantiles.")
    settings = settings or CalibrationSettings()
    lower, upper, notes = _start_levels(held_out.levels, alpha)
    rule, rule_notes = choose_rule(held_out.n_blocks, alpha, settings)
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
        notes=(*notes, *_image_notes(rule, held_out), *rule_notes),
        delta=settings.delta,
        width_floor=_width_floor(held_out, lower, upper) if settings.score == "scaled" else None,
        blocks=held_out.blocks,
    )
    return with_offsets(start, held_out)


def cross_fitted(held_out: HeldOut, calibration: Calibration, *, folds: int = 5, seed: int = 0) -> Interval:
    """Return intervals of the held-out pixels, each with an offset from the other blocks.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    calibration : Calibration
        Made from `held_out`; gives the level, the rule and the score.
    folds : int
        Folds of whole blocks; every block is its own fold where fewer would leave no finite offset.
    seed : int
        Seed of the draw that deals blocks into folds.

    Returns
    -------
    lower, median, upper : ndarray of float32, shape (C, n)
        In the target's unit; NaN in lower and upper where there is only one block.
    """

    def left_out(others: HeldOut, inside: NDArray[np.bool_]) -> Interval:
        return with_offsets(calibration, others).interval(held_out.quantiles[:, :, inside])

    return from_other_folds(held_out, calibration, left_out, folds=folds, seed=seed)


def from_other_folds(
    held_out: HeldOut,
    calibration: Calibration,
    left_out: Callable[[HeldOut, NDArray[np.bool_]], Interval],
    *,
    folds: int,
    seed: int,
) -> Interval:
    """Return intervals of the held-out pixels, fold by fold.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that were not trained on.
    calibration : Calibration
        Made from `held_out`; gives the level, the rule and the score.
    left_out : callable
        From the other held-out pixels and the mask (n,) of those to check, to intervals of the latter.
    folds : int
        Folds of whole blocks; every block is its own fold where fewer would leave no finite offset.
    seed : int
        Seed of the draw that deals blocks into folds.

    Returns
    -------
    lower, median, upper : ndarray of float32, shape (C, n)
        In the target's unit; NaN in lower and upper where there is only one block.
    """
    fold = _folds(held_out.block, calibration, folds, seed)
    lower, median, upper = (np.full(held_out.target.shape, np.nan, dtype=np.float32) for _ in range(3))
    if fold.max() == 0:
        return lower, calibration.interval(held_out.quantiles)[1], upper
    n_blocks = held_out.n_blocks
    for k in range(int(fold.max()) + 1):
        inside = fold == k
        others = held_out.take(~inside)
        others = replace(others, kept=held_out.kept * others.n_blocks / n_blocks)
        lower[:, inside], median[:, inside], upper[:, inside] = left_out(others, inside)
    return lower, median, upper


def _folds(block: NDArray[np.int64], calibration: Calibration, folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold of each pixel; whole blocks are dealt at random, and one block makes one fold."""
    numbers, index = np.unique(block, return_inverse=True)
    n_blocks = len(numbers)
    n_folds = min(folds, n_blocks)
    least = needed_blocks(calibration.alpha, calibration.score, calibration.rule, calibration.delta)
    if n_blocks - math.ceil(n_blocks / n_folds) < least and calibration.rule != "pixel":
        n_folds = n_blocks
    order = np.random.default_rng(seed).permutation(n_blocks)
    return np.asarray((order % n_folds)[index], dtype=np.int64)


def with_offsets(calibration: Calibration, held_out: HeldOut) -> Calibration:
    """Return the calibration with offsets from these held-out data."""
    target = held_out.target.astype(np.float64)
    q_lower, q_upper = (held_out.quantiles[i] for i in (calibration.lower_index, calibration.upper_index))
    below, above = q_lower - target, target - q_upper
    if calibration.width_floor is not None:
        width = q_upper - q_lower + calibration.width_floor[:, None]
        below, above = below / width, above / width
    if calibration.score == "asymmetric":
        low, high = (_offsets(side, calibration, held_out, sides=2) for side in (below, above))
    else:
        low = high = _offsets(np.maximum(below, above), calibration, held_out, sides=1)
    return replace(calibration, offset_lower=low, offset_upper=high)


def _offsets(
    scores: NDArray[np.float64], calibration: Calibration, held_out: HeldOut, sides: int
) -> NDArray[np.float64]:
    """Return the conformal quantile of each channel; each of two sides gets half of alpha."""
    alpha, delta = calibration.alpha / sides, calibration.delta / sides
    quantiles = [
        rule_quantile(calibration.rule, row, alpha, delta, held_out.block, kept=held_out.kept)
        for row in scores
    ]
    return np.asarray(quantiles)


def _width_floor(held_out: HeldOut, lower: int, upper: int) -> NDArray[np.float64]:
    """Return a hundredth of the typical predicted width, so that a width of zero can grow."""
    width = held_out.quantiles[upper].astype(np.float64) - held_out.quantiles[lower]
    typical = np.median(width, axis=-1)
    return np.asarray(np.maximum(0.01 * typical, 1e-30), dtype=np.float64)


def _start_levels(levels: Sequence[float], alpha: float) -> tuple[int, int, tuple[Note, ...]]:
    """Return the levels at or outside alpha / 2 and 1 - alpha / 2, and a note where there is none."""
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


def _image_notes(rule: Rule, held_out: HeldOut) -> tuple[Note, ...]:
    """Return a note if coverage by image is asked for where there is only one field."""
    if rule != "image" or held_out.blocks == FIELDS:
        return ()
    text = (
        f'The unit is "image", but there is only one field: most of its {held_out.blocks} are covered, which '
        "says nothing about new images. For that, give several scenes, each with its own target."
    )
    return (Note("amber", text),)


def _outward(
    quantile: NDArray[np.float32], offset: NDArray[np.floating[Any]], direction: float
) -> NDArray[np.float32]:
    """Return quantile plus offset in float32, rounded outward."""
    # On flat background thousands of pixels tie exactly at the bound: rounding inward would lose them all.
    step = np.nextafter(offset.astype(np.float32), np.float32(direction))
    moved = quantile + step
    return np.nextafter(moved, np.float32(direction), out=moved)


def json_numbers(values: NDArray[np.float64]) -> list[Any]:
    """Return numbers as nested lists for JSON, where an infinite one is the string "inf".

    Parameters
    ----------
    values : ndarray of float64

    Returns
    -------
    list
        Lists as deep as the array has axes, which ``np.asarray(..., dtype=float)`` reads back.
    """
    if values.ndim > 1:
        return [json_numbers(row) for row in values]
    return [v if math.isfinite(v) else str(v) for v in values.tolist()]
