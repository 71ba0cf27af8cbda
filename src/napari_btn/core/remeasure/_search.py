"""Search for disjoint windows that collect the most score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Starts = list[NDArray[np.intp]]

__all__ = ["best_windows"]

_PLACEMENTS = 1 << 19
_PASSES = 8
_SMALLEST_GAIN = 1e-9


def best_windows(
    image: NDArray[np.float64], size: tuple[int, ...], count: int, *, margin: int, spacing: int
) -> list[tuple[int, ...]]:
    """Return the starts of up to `count` disjoint windows that collect the most score.

    Parameters
    ----------
    image : ndarray of float64, (Y, X) or (Z, Y, X)
        Score of each pixel, finite.
    size : tuple of int
        Size of a window in pixels along each axis; it fits within the margin.
    count : int
        Largest number of windows.
    margin, spacing : int
        Pixels kept free along the border, and between windows.

    Returns
    -------
    list of tuple of int
        First pixel of each window.
    """
    search = _Search(image, size, margin, spacing)
    best: list[tuple[int, ...]] = []
    for first in ([], search.grid_tiles(count)):
        picked = search.refine(search.improve(first, count))
        if search.total(picked) > search.total(best) * (1 + _SMALLEST_GAIN):
            best = picked
    return best


class _Search:
    """Window sums at a set of places of one image, and the moves that pick among them."""

    def __init__(self, image: NDArray[np.float64], size: tuple[int, ...], margin: int, spacing: int) -> None:
        self.image, self.size, self.spacing = image, size, spacing
        self.low = (margin,) * image.ndim
        self.high = tuple(n - s - margin for n, s in zip(image.shape, size, strict=True))
        places = float(np.prod([h - margin + 1.0 for h in self.high]))
        step = int(np.ceil((places / _PLACEMENTS) ** (1 / image.ndim)))
        self.step = max(1, min(step, min(size) // 4))
        self.starts: Starts = [
            np.unique(
                np.concatenate(
                    [np.arange(margin, h + 1, self.step), np.arange(margin, h + 1, s + spacing), [h]]
                )
            )
            for h, s in zip(self.high, size, strict=True)
        ]
        self.sums = _window_sums(image, self.starts, size)

    def total(self, picked: Sequence[tuple[int, ...]]) -> float:
        """Return the score collected by windows at these starts."""
        return sum(self._at(start) for start in picked)

    def _at(self, start: tuple[int, ...]) -> float:
        """Return the score collected by one window."""
        box = tuple(slice(a, a + s) for a, s in zip(start, self.size, strict=True))
        return float(self.image[box].sum())

    def grid_tiles(self, count: int) -> list[tuple[int, ...]]:
        """Return the best tiles of the regular grid."""
        regular = [
            np.arange(low, h + 1, s + self.spacing)
            for low, h, s in zip(self.low, self.high, self.size, strict=True)
        ]
        index = np.ix_(*(np.searchsorted(a, r) for a, r in zip(self.starts, regular, strict=True)))
        sums = self.sums[index]
        top = np.argsort(-sums, axis=None, kind="stable")[:count]
        where = [np.unravel_index(k, sums.shape) for k in top if sums.flat[k] > 0]
        return [tuple(int(r[i]) for r, i in zip(regular, w, strict=True)) for w in where]

    def improve(self, picked: list[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
        """Add windows greedily up to `count`, then move one at a time while the total grows."""
        picked = list(picked)
        blocked = np.zeros(self.sums.shape, dtype=np.int16)
        for start in picked:
            blocked[self._near(start)] += 1
        for _ in range(_PASSES):
            moved = self._fill(picked, blocked, count)
            for i, start in enumerate(picked):
                blocked[self._near(start)] -= 1
                other = self._best(blocked)
                better = other is not None and self._at(other) > self._at(start) * (1 + _SMALLEST_GAIN)
                picked[i] = other if better and other is not None else start
                blocked[self._near(picked[i])] += 1
                moved |= better
            if not moved:
                break
        return picked

    def _fill(self, picked: list[tuple[int, ...]], blocked: NDArray[np.int16], count: int) -> bool:
        """Add the best free windows to `picked`; True where any was added."""
        before = len(picked)
        while len(picked) < count and (start := self._best(blocked)) is not None:
            picked.append(start)
            blocked[self._near(start)] += 1
        return len(picked) > before

    def _best(self, blocked: NDArray[np.int16]) -> tuple[int, ...] | None:
        """Return the start of the best free place, or None if none has a positive score."""
        free = np.where(blocked == 0, self.sums, -np.inf)
        k = np.unravel_index(int(np.argmax(free)), free.shape)
        if not free[k] > 0:
            return None
        return tuple(int(a[i]) for a, i in zip(self.starts, k, strict=True))

    def _near(self, start: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the index of the places whose window would touch the one at `start`."""
        return tuple(
            slice(
                int(np.searchsorted(a, s - n - self.spacing, side="right")),
                int(np.searchsorted(a, s + n + self.spacing, side="left")),
            )
            for a, s, n in zip(self.starts, start, self.size, strict=True)
        )

    def refine(self, picked: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Move windows to the best pixel near their coarse place."""
        picked = list(picked)
        for i, start in enumerate(picked if self.step > 1 else []):
            near = [
                np.arange(max(low, a - self.step), min(high, a + self.step) + 1)
                for low, high, a in zip(self.low, self.high, start, strict=True)
            ]
            sums = _window_sums(self.image, near, self.size)
            for other in picked[:i] + picked[i + 1 :]:
                touching = [
                    np.abs(a - o) < n + self.spacing for a, o, n in zip(near, other, self.size, strict=True)
                ]
                sums[np.ix_(*touching)] = -np.inf
            k = np.unravel_index(int(np.argmax(sums)), sums.shape)
            best = tuple(int(a[j]) for a, j in zip(near, k, strict=True))
            if self._at(best) > self._at(start):
                picked[i] = best
        return picked


def _window_sums(image: NDArray[np.float64], starts: Starts, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Sum windows at all combinations of starts, by an integral image over the edges only."""
    total = image
    ends = []
    for axis, (a, n) in enumerate(zip(starts, size, strict=True)):
        edges = np.unique(np.concatenate([a, a + n]))
        kept = total[(slice(None),) * axis + (slice(edges[0], edges[-1]),)]
        bins = np.add.reduceat(kept, edges[:-1] - edges[0], axis=axis, dtype=np.float64)
        before = np.zeros_like(np.take(bins, [0], axis))
        total = np.concatenate([before, np.cumsum(bins, axis=axis)], axis=axis)
        ends.append((np.searchsorted(edges, a), np.searchsorted(edges, a + n)))
    for axis, (low, high) in enumerate(ends):
        total = np.take(total, high, axis=axis) - np.take(total, low, axis=axis)
    return total
