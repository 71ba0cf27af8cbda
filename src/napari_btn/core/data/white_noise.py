"""White noise by place: any box of it holds the same values, in whatever tiles it is asked for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["white_noise"]

# Side of the cells that are drawn one by one.
_CELL = {2: 64, 3: 20}


def white_noise(seed: int, key: Sequence[int], n: int, box: Sequence[slice]) -> NDArray[np.float32]:
    """Return standard normal noise of a box, which may reach beyond the image.

    Parameters
    ----------
    seed : int
    key : sequence of int
        Which noise: other keys give independent values.
    n : int
        Values of each pixel.
    box : sequence of slice
        One per space axis, from -1024 cells on.

    Returns
    -------
    ndarray of float32
        `n` values of each pixel: (n, the shape of the box).
    """
    cell = _CELL[len(box)]
    out = np.empty((n, *(s.stop - s.start for s in box)), np.float32)
    ranges = [range(s.start // cell, (s.stop - 1) // cell + 1) for s in box]
    for at in itertools.product(*ranges):
        # spawn keys can't be negative, and cells left of the image are
        where = (*key, *(i + 1024 for i in at))
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=where))
        values = rng.standard_normal((n, *(cell,) * len(box)), np.float32)
        from_, to = [], []
        for i, s in zip(at, box, strict=True):
            first, stop = max(i * cell, s.start), min((i + 1) * cell, s.stop)
            from_.append(slice(first - i * cell, stop - i * cell))
            to.append(slice(first - s.start, stop - s.start))
        out[(slice(None), *to)] = values[(slice(None), *from_)]
    return out
