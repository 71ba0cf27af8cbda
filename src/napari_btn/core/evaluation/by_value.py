"""Coverage by value, of pixels binned by their predicted or by their true value.

By true value it is a description: no method holds a coverage for pixels chosen by their truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core.calibration.blocks import effective_blocks
from napari_btn.core.data.image import shown_names
from napari_btn.core.evaluation.bootstrap import FEWEST_GROUPS
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["BIN_NAMES", "ByValue", "note_on_values"]

BIN_NAMES = (
    *("darkest 20 %", "20 to 40 %", "40 to 60 %", "60 to 80 %", "brightest 20 %"),
    *("brightest 5 %", "brightest 1 %"),
)
_STARTS = np.array([0.2, 0.4, 0.6, 0.8, 0.95, 0.99])
_FIFTHS = 5
# A shortfall worth a note: larger than the scatter of a coverage from the fewest blocks that count.
_SHORT = 0.1


@dataclass(frozen=True, eq=False)
class ByValue:
    """Coverage of pixels by their value: five bins of equal share, and the brightest 5 % and 1 %.

    A pixel at an edge is in the bin below it, so bins of values with many ties can differ in share or be empty.

    Parameters
    ----------
    edge : ndarray of float64, shape (C, 7)
        Values above which the pixels of each bin lie, in the target's unit; of the first bin, the lowest value.
    coverage : ndarray of float64, shape (C, 7)
        Fraction inside; NaN for an empty bin.
    share : ndarray of float64, shape (C, 7)
        Share of the pixels; the last two bins are parts of the fifth.
    blocks : ndarray of float64, shape (C, 7)
        Number of blocks of equal size that the pixels are worth.
    """

    edge: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, len(BIN_NAMES))))
    coverage: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, len(BIN_NAMES))))
    share: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, len(BIN_NAMES))))
    blocks: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, len(BIN_NAMES))))

    @classmethod
    def of(cls, value: ArrayLike, miss: NDArray[np.bool_], block: NDArray[np.int64]) -> Self:
        """Return the coverage by value.

        Parameters
        ----------
        value : ndarray of float, shape (C, n)
            Predicted or true values.
        miss : ndarray of bool, shape (C, n)
            True where an interval missed.
        block : ndarray of int64, shape (n,)
            Block (or scene) of each pixel.
        """
        shape = (len(miss), len(BIN_NAMES))
        edge, coverage, share, blocks = (np.full(shape, np.nan) for _ in range(4))
        for c, row in enumerate(np.asarray(value)):
            edge[c] = row.min(), *np.quantile(row, _STARTS)
            fifth = np.searchsorted(edge[c, 1:_FIFTHS], row, side="left")
            for b in range(len(BIN_NAMES)):
                inside = fifth == b if b < _FIFTHS else row > edge[c, b]
                share[c, b] = inside.mean()
                if share[c, b]:
                    coverage[c, b] = 1 - miss[c, inside].mean()
                blocks[c, b] = effective_blocks(block[inside])
        return cls(edge, coverage, share, blocks)

    def least(self, fewest: float = 0) -> tuple[int, int] | None:
        """Return channel and bin with the lowest coverage; None if nothing is known.

        Parameters
        ----------
        fewest : float
            Bins that are worth fewer blocks don't count.
        """
        known = np.where(self.blocks >= fewest, self.coverage, np.nan)
        if np.isnan(known).all():
            return None
        c, b = np.unravel_index(np.nanargmin(known), known.shape)
        return int(c), int(b)

    def words(self, names: Sequence[str], channel: int, at: int) -> str:
        """Return a bin in words, such as "Fe above 0.42 (brightest 1 %): 64 % (worth 3.1 blocks)".

        Parameters
        ----------
        names : sequence of str
            The C channels.
        channel, at : int
            Channel and bin; its blocks are named if a coverage from so few is hardly known.
        """
        edge, coverage = self.edge[channel], 100 * self.coverage[channel, at]
        where = f"from {edge[at]:.3g} to {edge[min(at + 1, _FIFTHS - 1)]:.3g}"
        if at == 0:
            where = f"up to {edge[1]:.3g}"
        if at >= _FIFTHS - 1:
            where = f"above {edge[at]:.3g}"
        blocks = self.blocks[channel, at]
        few = f" (worth only {blocks:.2g} blocks)" if blocks < FEWEST_GROUPS else ""
        return f"{shown_names(names)[channel]} {where} ({BIN_NAMES[at]}): {coverage:.0f} %{few}"

    def to_dict(self) -> dict[str, Any]:
        """Return the arrays as a dict."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: Mapping[str, ArrayLike]) -> Self:
        """Return the coverage by value that `to_dict` gave."""
        arrays = {name: np.asarray(values[name], dtype=np.float64) for name in cls.__dataclass_fields__}
        return cls(**{name: array.reshape(-1, len(BIN_NAMES)) for name, array in arrays.items()})


def note_on_values(
    by_predicted: ByValue, by_true: ByValue, names: Sequence[str], alpha: float
) -> tuple[Note, ...]:
    """Return an amber note on the least covered bins, if they are more than 10 points short.

    Parameters
    ----------
    by_predicted, by_true : ByValue
        Coverage by predicted and by true value.
    names : sequence of str
        The C channels.
    alpha : float
        Miscoverage aimed at.
    """
    short = []
    for kind, bins in (("predicted", by_predicted), ("true", by_true)):
        at = bins.least(FEWEST_GROUPS)
        if at is not None and bins.coverage[at] < 1 - alpha - _SHORT:
            short.append(f"by {kind} value, {bins.words(names, *at)}")
    if not short:
        return ()
    text = (
        f"Some values are covered far less than {100 * (1 - alpha):.4g} %: {'; '.join(short)}. The coverage is "
        "aimed at on average over all pixels; by true value no method can promise it. A training part with more of "
        "these values and more steps may help; measure such places again."
    )
    return (Note("amber", text),)
