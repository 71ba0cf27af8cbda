"""Outlines of masks along the edges of their pixels, and masks of outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["inside", "polygons", "reached", "ring_area"]

_AT_ONCE = 2**17  # crossings of rows and edges that are computed together: 15 MB

Ring = list[list[int]]


def polygons(mask: NDArray[np.bool_]) -> list[list[Ring]]:
    """Return the polygons of a mask, for each patch its outer ring, then its holes, exact along pixel edges.

    Parameters
    ----------
    mask : ndarray of bool, (Y, X)
        Pixels that touch by an edge belong to one patch.

    Returns
    -------
    list of list of ring
        A ring is a closed list of [x, y], the first point repeated at the end; outer rings turn one
        way, holes the other.
    """
    if not mask.any():
        return []
    patches, _ = ndimage.label(mask)
    found = []
    for number, box in enumerate(ndimage.find_objects(patches), 1):
        rings = _rings(patches[box] == number)
        y, x = box[0].start, box[1].start
        rings.sort(key=ring_area, reverse=True)
        found.append([[[px + x, py + y] for px, py in ring] for ring in rings])
    return found


def _rings(patch: NDArray[np.bool_]) -> list[Ring]:
    """Return closed rings around one patch, with the patch on the left of every step."""
    padded = np.pad(patch, 1)
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # an edge lies between a pixel that is in and one that isn't, and runs so that the first is on its left
    for (dy, dx), (start, end) in {
        (-1, 0): ((0, 1), (0, 0)),
        (1, 0): ((1, 0), (1, 1)),
        (0, -1): ((0, 0), (1, 0)),
        (0, 1): ((1, 1), (0, 1)),
    }.items():
        beyond = np.roll(padded, (-dy, -dx), (0, 1))
        for y, x in np.argwhere(padded & ~beyond) - 1:
            first = int(y) + start[0], int(x) + start[1]
            after.setdefault(first, []).append((int(y) + end[0], int(x) + end[1]))
    rings = []
    while after:
        begin = point = next(iter(after))
        ring, before = [point], None
        while True:
            point, before = _next(after, point, before), point
            # a corner only where the direction changes
            if len(ring) > 1 and _straight(ring[-2], ring[-1], point):
                ring[-1] = point
            else:
                ring.append(point)
            if point == begin:
                break
        if len(ring) > 3 and _straight(ring[-2], ring[0], ring[1]):
            ring = [*ring[1:-1], ring[1]]
        rings.append([[x, y] for y, x in ring])
    return rings


def _next(
    after: dict[tuple[int, int], list[tuple[int, int]]],
    point: tuple[int, int],
    before: tuple[int, int] | None,
) -> tuple[int, int]:
    """Remove an edge that begins at a point and return its end; where pixels touch by a corner, turn left."""
    ends = after[point]
    chosen = ends[0]
    if len(ends) > 1 and before is not None:
        dy, dx = point[0] - before[0], point[1] - before[1]
        # patches are joined by edges alone, so the way stays with its own pixel
        chosen = next(e for e in ends if (e[0] - point[0], e[1] - point[1]) == (-dx, dy))
    ends.remove(chosen)
    if not ends:
        del after[point]
    return chosen


def _straight(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Return True if b lies between a and c on one line."""
    return (b[0] - a[0]) * (c[1] - b[1]) == (b[1] - a[1]) * (c[0] - b[0])


def reached(ring: NDArray[np.float64], rows: int) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return the first row that each edge of a ring reaches, and how many rows it reaches.

    Parameters
    ----------
    ring : ndarray of float, (n, 2)
        Points (y, x) in pixels, in order; the centre of the first pixel is (0, 0).
    rows : int
        Rows of the mask; others don't count.

    Returns
    -------
    first, count : ndarray of int, (n,)
        Edge *k* runs from point *k* to the next one; level edges reach no row.
    """
    y, below = ring[:, 0], np.roll(ring[:, 0], -1)
    first = np.clip(np.ceil(np.minimum(y, below)), 0, rows).astype(int)
    count = np.clip(np.floor(np.maximum(y, below)) + 1, 0, rows).astype(int) - first
    return first, np.where(y == below, 0, np.maximum(count, 0))


def inside(ring: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie inside a ring or on it, by the rule of even and odd crossings.

    Memory is that of the mask and 15 MB, where `skimage.draw.polygon2mask`, which gives the same, takes forty times
    that of the mask; each row of an edge whose centres lie on pixels takes 8 bytes more.

    Parameters
    ----------
    ring : ndarray of float, (n, 2)
        Points (y, x) in pixels, in order; the centre of the first pixel is (0, 0).
    shape : tuple of int
        Rows and columns of the mask.

    Returns
    -------
    ndarray of bool, of that shape
    """
    ahead = np.roll(ring, -1, axis=0)
    first, count = reached(ring, shape[0])
    last = np.cumsum(count)
    crossed = np.zeros(shape[0] * shape[1], dtype=np.uint8)
    touched = []
    for begin in range(0, int(last[-1]), _AT_ONCE):
        # one entry per row that an edge reaches, its ends included
        entry = np.arange(begin, min(begin + _AT_ONCE, last[-1]))
        edge = np.searchsorted(last, entry, side="right")
        row = first[edge] + entry - (last - count)[edge]
        (y, x), (below, beyond) = ring[edge].T, ahead[edge].T
        x = x + (row - y) / (below - y) * (beyond - x)
        # at a corner, only the edge below it crosses the row
        crosses = (row < np.maximum(y, below)) & (x <= shape[1] - 1)
        column = np.ceil(np.maximum(x[crosses], 0)).astype(int)
        np.add.at(crossed, row[crosses] * shape[1] + column, np.uint8(1))
        near = np.rint(x)
        on = (np.abs(x - near) < 1e-12) & (near >= 0) & (near < shape[1])
        touched.append(row[on] * shape[1] + near[on].astype(int))
    crossed &= 1
    odd = crossed.reshape(shape)
    np.bitwise_xor.accumulate(odd, axis=1, out=odd)
    mask = odd.view(bool)
    for pixels in touched:
        mask.reshape(-1)[pixels] = True
    level = (ring[:, 0] == ahead[:, 0]) & (ring[:, 0] == np.rint(ring[:, 0]))
    for k in np.flatnonzero(level & (ring[:, 0] >= 0) & (ring[:, 0] < shape[0])):
        low, high = sorted((ring[k, 1], ahead[k, 1]))
        mask[int(ring[k, 0]), max(int(np.ceil(low)), 0) : max(int(np.floor(high)) + 1, 0)] = True
    return mask


def ring_area(ring: ArrayLike) -> float:
    """Return the area inside a closed ring.

    Parameters
    ----------
    ring : (n, 2) array_like
        Points in order, the first repeated at the end.

    Returns
    -------
    float
        In the square of the unit of the points.
    """
    x, y = np.array(ring, dtype=float).T
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2
