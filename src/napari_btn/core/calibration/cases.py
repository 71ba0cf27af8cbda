"""Held-out predictions and targets, from which a calibration is made."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FIELDS", "HeldOut", "name_of_blocks"]

FIELDS = "fields"
"""Name of blocks that are whole fields of view."""


def name_of_blocks(side: int, kind: str = "block") -> str:
    """Return the blocks in words.

    Parameters
    ----------
    side : int
        Side of a block in pixels, or frames of a run; 0 if unknown.
    kind : str
        "block", "field" or "run".
    """
    if kind == "field":
        return FIELDS
    unit = "px" if kind == "block" else "frame" if side == 1 else "frames"
    return f"{kind}s of {side} {unit}" if side else f"{kind}s"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions and targets of pixels that the networks were not trained on.

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
    blocks : str
        Blocks in words: "blocks of 24 px", "fields" or "runs of 3 frames".
    kept : float
        Share of all blocks that these are, where others were left out to check them. The correction for the
        number of blocks counts all of them: with still fewer, a check would report more coverage than there is.

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
    blocks: str = "blocks"
    kept: float = 1.0

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
        """Return the data of some of the pixels, given as a mask (n,) or as indices (m,)."""
        return HeldOut(
            quantiles=self.quantiles[:, :, pixels],
            target=self.target[:, pixels],
            block=self.block[pixels],
            levels=self.levels,
            observed=None if self.observed is None else self.observed[:, pixels],
            position=None if self.position is None else self.position[pixels],
            blocks=self.blocks,
            kept=self.kept,
        )


def _ascending(levels: Sequence[float]) -> bool:
    """Return True if levels ascend strictly between 0 and 1."""
    bounds = (0.0, *levels, 1.0)
    return all(a < b for a, b in itertools.pairwise(bounds))
