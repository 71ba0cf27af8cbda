"""Other ways to split one field: a checkerboard of macro-blocks, and areas that a person painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["CALIBRATE", "REPORT", "TRAIN", "checkerboard", "painted_gap", "region_box"]

TRAIN, CALIBRATE, REPORT = 1, 2, 3
# Held-out cells hold at least one block of the smallest side.
_LEAST_PX = 16


def checkerboard(
    space: Sequence[int], gap_px: int
) -> tuple[list[tuple[slice, ...]], list[tuple[slice, ...]]]:
    """Training and held-out cells of a checkerboard over the last two axes.

    Parameters
    ----------
    space : sequence of int
        Shape of the field.
    gap_px : int
        Taken from every held-out cell where it borders on a training cell.

    Returns
    -------
    train, held_out : list of tuple of slice
        Cells are as small as lets a held-out cell keep half of its side; none where the field is too small.
    """
    side = max(4 * gap_px, 2 * gap_px + _LEAST_PX, 2 * _LEAST_PX)
    counts = [max(n // side, 2) for n in space[-2:]]
    edges = [np.linspace(0, n, k + 1).astype(int) for n, k in zip(space[-2:], counts, strict=True)]
    train: list[tuple[slice, ...]] = []
    held_out: list[tuple[slice, ...]] = []
    before = tuple(slice(0, n) for n in space[:-2])
    for place in np.ndindex(*counts):
        ends = [(int(e[i]), int(e[i + 1])) for e, i in zip(edges, place, strict=True)]
        if sum(place) % 2 == 0:
            train.append((*before, *(slice(a, b) for a, b in ends)))
            continue
        cut = [
            slice(a + gap_px * (i > 0), b - gap_px * (i < k - 1))
            for (a, b), i, k in zip(ends, place, counts, strict=True)
        ]
        if min(s.stop - s.start for s in cut) >= _LEAST_PX:
            held_out.append((*before, *cut))
    return train, held_out


def painted_gap(labels: NDArray[Any]) -> int:
    """Fewest pixels between an area painted for training and one that is held out.

    Parameters
    ----------
    labels : ndarray of int, shape (*space)
        1 train, 2 calibrate, 3 report; anything else is left out.

    Returns
    -------
    int
        0 where they touch.

    Raises
    ------
    ValueError
        If nothing is painted for training, or nothing for calibration.
    """
    for value, what in ((TRAIN, "training"), (CALIBRATE, "calibration")):
        if not (labels == value).any():
            raise ValueError(
                f"No pixel is painted {value}, for {what}; paint 1 for training, 2 for calibration and, "
                "where you like, 3 for the report."
            )
    held = (labels == CALIBRATE) | (labels == REPORT)
    # loaded for painted areas alone: workers, which read this file on their way, would wait for it
    from scipy import ndimage

    far = ndimage.distance_transform_cdt(labels != TRAIN, metric="chessboard")
    return int(far[held].min()) - 1


def region_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Smallest box around the True pixels.

    Parameters
    ----------
    mask : ndarray of bool, shape (*space)
        With at least one True pixel.

    Returns
    -------
    tuple of slice
        One per axis.
    """
    ends = [
        np.flatnonzero(mask.any(axis=tuple(b for b in range(mask.ndim) if b != a))) for a in range(mask.ndim)
    ]
    return tuple(slice(int(e[0]), int(e[-1]) + 1) for e in ends)
