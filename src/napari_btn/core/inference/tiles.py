"""Geometry of tiles with a halo."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Tile", "plan_tiles", "tile_strides"]


@dataclass(frozen=True)
class Tile:
    """One tile of an image, over the space axes.

    Parameters
    ----------
    read : tuple of slice
        Part of the image to read, halo included and clipped at the border.
    keep : tuple of slice
        Part of the result to keep.
    write : tuple of slice
        Position of the kept part in the image.
    """

    read: tuple[slice, ...]
    keep: tuple[slice, ...]
    write: tuple[slice, ...]


def plan_tiles(
    shape: Sequence[int],
    tile: int | Sequence[int],
    halo: int | Sequence[int],
    region: Sequence[slice] | None = None,
    alignment: int = 1,
) -> list[Tile]:
    """Return tiles that cover an image once.

    With a halo of the receptive field they join without seams. The halo is clipped at the border of the
    image and not padded, so that convolutions pad there as they do for the whole image.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape of the image, any length.
    tile : int or sequence of int
        Side of a tile in pixels, halo included; at least ``2 * halo + 1`` is used.
    halo : int or sequence of int
        Discarded margin in pixels.
    region : sequence of slice, optional
        Part of the image to cover; halos are read beyond it. The whole image by default.
    alignment : int
        What is read begins and ends at multiples of so many pixels, or at the image's border; halos grow to
        that. A network that pools needs the pixels that it pools in an image side by side in a tile, too.

    Raises
    ------
    ValueError
        If ``tile`` or ``halo`` has another number of values than ``shape``.
    """
    ndim = len(shape)
    tiles = (tile,) * ndim if isinstance(tile, int) else tuple(tile)
    halos = (halo,) * ndim if isinstance(halo, int) else tuple(halo)
    if len(tiles) != ndim or len(halos) != ndim:
        raise ValueError(
            f"Tile {tiles} and halo {halos} must have one number for each axis of shape {tuple(shape)}."
        )
    parts = [slice(0, n) for n in shape] if region is None else region
    axes = [_cuts(n, p, t, h, alignment) for n, p, t, h in zip(shape, parts, tiles, halos, strict=True)]
    return [
        Tile(tuple(c[0] for c in cell), tuple(c[1] for c in cell), tuple(c[2] for c in cell))
        for cell in product(*axes)
    ]


def tile_strides(shape: Sequence[int], tile: int, halo: Sequence[int], alignment: int = 1) -> tuple[int, ...]:
    """Return the distance of the tiles of a whole image along each axis, in pixels.

    Chunks of this size are each written once.

    Parameters
    ----------
    shape : sequence of int
        Spatial shape of the image.
    tile : int
        Side of a tile in pixels, halo included.
    halo : sequence of int
        Discarded margin in pixels, one per axis.
    alignment : int
        As in `plan_tiles`.
    """
    return tuple(_step(n, slice(0, n), tile, h + alignment - 1) for n, h in zip(shape, halo, strict=True))


def _step(n: int, part: slice, tile: int, halo: int) -> int:
    """Return the length of the pieces along one axis; the last may be a little shorter."""
    length = part.stop - part.start
    whole = min(part.stop + halo, n) - max(part.start - halo, 0) <= tile
    count = 1 if whole else -(-length // max(tile - 2 * halo, 1))
    return -(-length // count) if length else 1


def _cuts(n: int, part: slice, tile: int, halo: int, alignment: int) -> list[tuple[slice, slice, slice]]:
    """Return (read, keep, write) along one axis, in pieces of one length but the last."""
    step = _step(n, part, tile, halo + alignment - 1)
    edges = [*range(part.start, part.stop, step), part.stop]
    cuts = []
    for start, stop in pairwise(edges):
        first = max(start - halo, 0) // alignment * alignment
        read = slice(first, min(-(-(stop + halo) // alignment) * alignment, n))
        cuts.append((read, slice(start - first, stop - first), slice(start, stop)))
    return cuts
