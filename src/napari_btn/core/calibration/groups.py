"""Calibration by groups of pixels, each with offsets of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core.calibration.blocks import effective_blocks
from napari_btn.core.calibration.conformal import (
    Calibration,
    calibrate,
    cross_fitted,
    from_other_folds,
    json_numbers,
    with_offsets,
)
from napari_btn.core.calibration.rules import choose_rule, needed_blocks
from napari_btn.core.progress import Note
from napari_btn.core.settings import CalibrationSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.conformal import Interval
    from napari_btn.core.calibration.rules import Rule

__all__ = ["GroupCalibration", "calibrate_groups", "coverage_apart", "cross_fitted_groups"]


_MOST_PIXELS = 50_000  # a random part of a group that foretells its coverage


@dataclass(frozen=True, eq=False)
class GroupCalibration:
    """Calibration with one pair of offsets per group of pixels and channel.

    Parameters
    ----------
    base : Calibration
        All pixels together; used where a pixel belongs to no group.
    offset_lower, offset_upper : ndarray of float64, shape (G, C)
        Offsets of each group, as in `Calibration`.
    node : ndarray of int64, shape (G,)
        Node of the tree that the offsets come from: the group itself, a parent, or -1 for all pixels.
    n_blocks : ndarray of int64, shape (G,)
        Blocks behind the offsets of each group.
    notes : tuple of Note
        What to know before relying on it.
    """

    base: Calibration
    offset_lower: NDArray[np.float64]
    offset_upper: NDArray[np.float64]
    node: NDArray[np.int64]
    n_blocks: NDArray[np.int64]
    notes: tuple[Note, ...] = ()

    @property
    def fallback(self) -> tuple[int, ...]:
        """Groups with too few blocks, calibrated with their neighbours in the tree."""
        return tuple(int(g) for g in np.flatnonzero(self.node != np.arange(len(self.node))))

    def interval(self, quantiles: NDArray[np.floating[Any]], group: NDArray[np.integer[Any]]) -> Interval:
        """Return lower bound, median and upper bound, with lower <= median <= upper.

        Parameters
        ----------
        quantiles : ndarray of float, shape (L, C, *space)
            Quantiles averaged over the ensemble, at the calibration's levels.
        group : ndarray of int, shape (*space)
            Group of each pixel, from 0; any other number for none.

        Returns
        -------
        lower, median, upper : ndarray of float32, shape (C, *space)
            In the target's unit.

        Raises
        ------
        ValueError
            If the shapes don't fit.
        """
        if group.shape != quantiles.shape[2:]:
            raise ValueError(
                f"Groups have shape {group.shape}, quantiles {quantiles.shape}; every pixel needs a group. "
                "Assign the tokens of this very image."
            )
        row = np.where((group >= 0) & (group < len(self.node)), group, len(self.node))
        low, high = (
            np.moveaxis(np.vstack([table, own]).astype(np.float32)[row], -1, 0)
            for table, own in (
                (self.offset_lower, self.base.offset_lower),
                (self.offset_upper, self.base.offset_upper),
            )
        )
        return self.base.interval(quantiles, (low, high))

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as a JSON-ready dict; an infinite offset is the string "inf"."""
        return {
            "base": self.base.to_dict(),
            "offset_lower": json_numbers(self.offset_lower),
            "offset_upper": json_numbers(self.offset_upper),
            "node": self.node.tolist(),
            "n_blocks": self.n_blocks.tolist(),
            "notes": [note.to_dict() for note in self.notes],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the calibration that `to_dict` stored."""
        return cls(
            base=Calibration.from_dict(values["base"]),
            offset_lower=np.asarray(values["offset_lower"], dtype=np.float64),
            offset_upper=np.asarray(values["offset_upper"], dtype=np.float64),
            node=np.asarray(values["node"], dtype=np.int64),
            n_blocks=np.asarray(values["n_blocks"], dtype=np.int64),
            notes=tuple(Note.from_dict(note) for note in values["notes"]),
        )


def calibrate_groups(
    held_out: HeldOut,
    group: NDArray[np.integer[Any]],
    *,
    parents: Sequence[int] | None = None,
    alpha: float = 0.1,
    settings: CalibrationSettings | None = None,
    name: str = "token",
) -> GroupCalibration:
    """Calibrate by group: find offsets that aim to cover ``1 - alpha`` within each.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    group : ndarray of int, shape (n,)
        Group of each pixel, 0 to G - 1, a function of the input alone; -1 for none.
    parents : sequence of int, optional
        Parent of each node of a tree whose first G nodes are the groups, -1 for the root. A group
        with too few blocks (where pixels are pooled, weighed by how many it has in each) climbs to the
        first parent that has enough. Without a tree it takes the offsets of all pixels.
    alpha : float
        Miscoverage, between 0 and 1.
    settings : CalibrationSettings, optional
        Unit, score and minimum; the defaults if left out.
    name : str
        Word for a group in notes.

    Returns
    -------
    GroupCalibration
        With an amber note that names the groups that climbed.

    Raises
    ------
    ValueError
        If there is no group number for every pixel, or the tree is too small.

    References
    ----------
    Vovk, arXiv 1209.2673 (2012), on conditional validity; Ding et al., arXiv 2306.09335 (2023), on
    groups with too few cases.
    """
    members = np.asarray(group, dtype=np.int64)
    if members.shape != held_out.block.shape:
        raise ValueError(
            f"There are {members.size} group numbers for {held_out.block.size} held-out pixels; each needs one."
        )
    n_groups = int(members.max(initial=-1)) + 1
    tree = np.full(n_groups, -1) if parents is None else np.asarray(parents, dtype=np.int64)
    if len(tree) < n_groups:
        raise ValueError(f"The tree has {len(tree)} nodes for {n_groups} groups; every group needs a node.")
    settings = settings or CalibrationSettings()
    base = calibrate(held_out, alpha=alpha, settings=settings)
    least = _least(base.rule, alpha, settings)
    leaves = _leaves(tree, n_groups)
    worth = {
        at: _worth(held_out.block[np.isin(members, under)], alpha, settings) for at, under in leaves.items()
    }
    rows: dict[int, tuple[Calibration, int]] = {-1: (base, base.n_blocks)}
    node = np.empty(n_groups, dtype=np.int64)
    for g in range(n_groups):
        node[g] = _climb(g, tree, worth, least)
        if node[g] not in rows:
            part = held_out.take(np.isin(members, leaves[node[g]]))
            # A rare phase has fewer blocks than the field, so it may need the other rule.
            rule, _ = choose_rule(part.n_blocks, alpha, settings)
            apart = replace(base, rule=rule, n_blocks=part.n_blocks)
            rows[int(node[g])] = (with_offsets(apart, part), part.n_blocks)
    used = [rows[int(k)] for k in node]
    pooled = [g for g, (row, _) in enumerate(used) if row.rule == "pixel" != base.rule]
    made = GroupCalibration(
        base=base,
        offset_lower=np.asarray([c.offset_lower for c, _ in used]).reshape(n_groups, -1),
        offset_upper=np.asarray([c.offset_upper for c, _ in used]).reshape(n_groups, -1),
        node=node,
        n_blocks=np.asarray([n for _, n in used], dtype=np.int64),
        notes=base.notes,
    )
    return replace(
        made, notes=(*base.notes, *_fallback_notes(made, least, name), *_pooled_notes(pooled, name))
    )


def cross_fitted_groups(
    held_out: HeldOut,
    group: NDArray[np.integer[Any]],
    *,
    parents: Sequence[int] | None = None,
    alpha: float = 0.1,
    settings: CalibrationSettings | None = None,
    seed: int = 0,
) -> Interval:
    """Return intervals of the held-out pixels by group, each with an offset from the other blocks.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    group : ndarray of int, shape (n,)
        Group of each pixel, as in `calibrate_groups`.
    parents : sequence of int, optional
        The tree, as in `calibrate_groups`.
    alpha : float
        Miscoverage, between 0 and 1.
    settings : CalibrationSettings, optional
        Unit, score, folds and minimum; the defaults if left out.
    seed : int
        Seed of the draw that deals blocks into folds.

    Returns
    -------
    lower, median, upper : ndarray of float32, shape (C, n)
        In the target's unit; NaN in lower and upper where there is only one block.
    """
    settings = settings or CalibrationSettings()
    base = calibrate(held_out, alpha=alpha, settings=settings)
    members = np.asarray(group, dtype=np.int64)

    def left_out(others: HeldOut, inside: NDArray[np.bool_]) -> Interval:
        made = calibrate_groups(others, members[~inside], parents=parents, alpha=alpha, settings=settings)
        return made.interval(held_out.quantiles[:, :, inside], members[inside])

    return from_other_folds(held_out, base, left_out, folds=settings.folds, seed=seed)


def coverage_apart(
    held_out: HeldOut,
    inside: NDArray[np.bool_],
    *,
    alpha: float = 0.1,
    settings: CalibrationSettings | None = None,
    seed: int = 0,
) -> NDArray[np.float64] | None:
    """Return the coverage (C,) that a group would have with offsets of its own; None if it has too few blocks for them.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    inside : ndarray of bool, shape (n,)
        True for the pixels of the group, a function of the input alone.
    alpha : float
        Miscoverage, between 0 and 1.
    settings : CalibrationSettings, optional
        Unit, score, folds and minimum; the defaults if left out.
    seed : int
        Seed of the draw that deals blocks into folds; each pixel is checked with the offsets of other folds.
    """
    settings = settings or CalibrationSettings()
    whole, _ = choose_rule(held_out.n_blocks, alpha, settings)
    if not inside.any() or _worth(held_out.block[inside], alpha, settings) < _least(whole, alpha, settings):
        return None
    pixels = np.flatnonzero(inside)
    if len(pixels) > _MOST_PIXELS:  # a window waits for it
        pixels = np.random.default_rng(seed).choice(pixels, _MOST_PIXELS, replace=False)
    part = held_out.take(pixels)
    made = calibrate(part, alpha=alpha, settings=settings)
    lower, _, upper = cross_fitted(part, made, folds=settings.folds, seed=seed)
    return np.asarray(((lower <= part.target) & (part.target <= upper)).mean(axis=1))


def _least(rule: Rule, alpha: float, settings: CalibrationSettings) -> int:
    """Return the fewest blocks of a group with offsets of its own, where all pixels together follow a rule."""
    own = needed_blocks(alpha, settings.score, rule, settings.delta)
    # Twice the fewest: with an offset of its own, a group must also be worth its variance.
    return max(needed_blocks(alpha, "asymmetric"), own)


def _leaves(tree: NDArray[np.int64], n_groups: int) -> dict[int, list[int]]:
    """Return the groups under each node of the tree."""
    leaves: dict[int, list[int]] = {}
    for g in range(n_groups):
        at, seen = g, set[int]()
        while at != -1:
            if at in seen or not 0 <= at < len(tree):
                raise ValueError(f"The tree leads from group {g} to node {at}, and never to a root (-1).")
            seen.add(at)
            leaves.setdefault(at, []).append(g)
            at = int(tree[at])
    return leaves


def _climb(
    group: int,
    tree: NDArray[np.int64],
    worth: Mapping[int, float],
    least: int,
) -> int:
    """Return the first node from the group up with enough blocks; -1, all pixels, if there is none."""
    at = group
    while at != -1 and worth[at] < least:
        at = int(tree[at])
    return at


def _worth(block: NDArray[np.int64], alpha: float, settings: CalibrationSettings) -> float:
    """Return the number of blocks of a group: the effective one where pixels are pooled."""
    n_blocks = int(np.count_nonzero(np.bincount(block)))
    if not n_blocks or choose_rule(n_blocks, alpha, settings)[0] != "pixel":
        return n_blocks
    return effective_blocks(block)


def _fallback_notes(made: GroupCalibration, least: int, name: str) -> tuple[Note, ...]:
    """Return notes that name the groups calibrated with others."""
    notes = []
    for with_all, with_what in ((False, "their neighbours in the tree"), (True, "all pixels")):
        numbers = [str(g + 1) for g in made.fallback if (made.node[g] == -1) == with_all]
        if not numbers:
            continue
        who = f"{name.capitalize()}{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
        text = (
            f"{who}: worth fewer than {least} held-out blocks, so calibrated together with {with_what}; the "
            f"coverage there may differ. Hold out more, or calibrate fewer {name}s separately."
        )
        notes.append(Note("amber", text))
    return tuple(notes)


def _pooled_notes(groups: Sequence[int], name: str) -> tuple[Note, ...]:
    """Return a note on groups whose pixels were pooled although the whole was calibrated by blocks."""
    if not groups:
        return ()
    who = f"{name.capitalize()}{'s' if len(groups) > 1 else ''} {', '.join(str(g + 1) for g in groups)}"
    text = (
        f"{who}: few held-out blocks, so that the coverage there is aimed at on average, without a guarantee. Hold out "
        "more, or add scenes."
    )
    return (Note("amber", text),)
