"""How far two ways of dealing the same places into groups agree, and how their numbers match."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["adjusted_rand", "aligned"]


def adjusted_rand(a: ArrayLike, b: ArrayLike) -> float:
    """Adjusted Rand index of two labellings: 1 for the same partition, about 0 for chance.

    Parameters
    ----------
    a, b : array_like of int, any one shape
        Labels, none negative; their numbers need not match.

    Returns
    -------
    float
        At most 1.

    References
    ----------
    Hubert & Arabie (1985), J. Classification 2, 193.
    """
    table = _contingency(a, b)
    n = table.sum()

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    rows, columns, both = pairs(table.sum(1)), pairs(table.sum(0)), pairs(table)
    chance = rows * columns / max(n * (n - 1) / 2, 1)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def aligned(labels: ArrayLike, reference: ArrayLike) -> NDArray[np.intp]:
    """Labels renumbered so that they overlap a reference as far as they can.

    Parameters
    ----------
    labels, reference : array_like of int, one shape
        Labels from 1; 0 stays 0 and does not count.

    Returns
    -------
    ndarray of int
        The same partition. Labels without a partner get the lowest numbers that are free.

    References
    ----------
    Kuhn (1955), Nav. Res. Logist. Q. 2, 83.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = np.asarray(labels, dtype=np.intp), np.asarray(reference, dtype=np.intp)
    table = _contingency(a, b)
    table[0], table[:, 0] = 0, 0
    mine, match = linear_sum_assignment(table, maximize=True)
    lut = np.zeros(len(table), dtype=np.intp)
    shared = table[mine, match] > 0
    lut[mine[shared]] = match[shared]
    present = np.setdiff1d(np.unique(a), (0,))
    late: Sequence[int] = [int(v) for v in present if lut[v] == 0]
    free = np.setdiff1d(np.arange(1, len(table) + table.shape[1] + 1), lut)
    lut[late] = free[: len(late)]
    return lut[a]


def _contingency(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """How many places have each pair of labels."""
    x, y = np.asarray(a, dtype=np.intp).ravel(), np.asarray(b, dtype=np.intp).ravel()
    if x.shape != y.shape or not x.size:
        raise ValueError(f"Labellings of {x.size} and {y.size} places came; they must be of the same places.")
    shape = (int(x.max()) + 1, int(y.max()) + 1)
    return np.bincount(x * shape[1] + y, minlength=shape[0] * shape[1]).reshape(shape).astype(float)
