"""Regions to measure again: fields of view that collect the most score.

Images have any number of spatial axes from two (Y, X) to three (Z, Y, X). Positions in pixels
count from the first pixel; positions in physical units count from that pixel's outer corner, so
the centre of a window is ``(start + size / 2) * pixel_size``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.remeasure._search import best_windows
from napari_btn.core.remeasure.scores import need_finite, need_same_shape
from napari_btn.core.settings import is_whole, need

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import EllipsisType

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Region", "label_image", "propose_regions", "rescore"]


@dataclass(frozen=True)
class Region:
    """An area to measure again: a field of view, or the bounding box of a connected component.

    Parameters
    ----------
    y, x : int
        First row and column, in pixels.
    height, width : int
        Size in pixels.
    score : float
        The score summed over the region's pixels.
    pixel_size : tuple of float
        Size of a pixel along (Z,) Y, X, in `unit`.
    unit : str
        Physical unit of `pixel_size`; empty if pixels have a size but no unit is known.
    z, depth : int, optional
        First plane and number of planes; only in volumes.
    mask : ndarray of bool, optional
        True for pixels of the bounding box that belong to it; None if all do.
    dwell : float, optional
        Planned dwell, in dwells of the noisy image; None if none was chosen.
    """

    y: int
    x: int
    height: int
    width: int
    score: float = 0.0
    pixel_size: tuple[float, ...] = (1.0, 1.0)
    unit: str = "px"
    z: int | None = None
    depth: int | None = None
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)
    dwell: float | None = None

    def __post_init__(self) -> None:
        if self.unit in ("px", ""):
            object.__setattr__(self, "unit", "px" if set(self.pixel_size) == {1.0} else "")

    @property
    def start(self) -> tuple[int, ...]:
        """First pixel along (Z,) Y, X."""
        return (self.y, self.x) if self.z is None else (self.z, self.y, self.x)

    @property
    def size(self) -> tuple[int, ...]:
        """Size in pixels along (Z,) Y, X."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the bounding box in an image with axes (Z,) Y, X."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))

    @property
    def centre(self) -> tuple[float, ...]:
        """Centre of the bounding box along (Z,) Y, X, in `unit`, from the image's outer corner."""
        triples = zip(self.start, self.size, self.pixel_size, strict=True)
        return tuple((a + n / 2) * p for a, n, p in triples)

    @property
    def area_px(self) -> int:
        """Number of pixels that belong to it."""
        return int(np.prod(self.size)) if self.mask is None else int(np.count_nonzero(self.mask))

    @property
    def own(self) -> NDArray[np.bool_] | EllipsisType:
        """Index of its pixels in the bounding box, as in ``image[region.slices][region.own]``."""
        return ... if self.mask is None else self.mask

    @property
    def mean_score(self) -> float:
        """Mean score of its pixels."""
        return self.score / max(self.area_px, 1)


def propose_regions(
    score: ArrayLike,
    window: int | Sequence[int] = (64, 64),
    count: int = 5,
    pixel_size: float | Sequence[float] | None = None,
    unit: str = "px",
    *,
    mask: ArrayLike | None = None,
    margin: int = 0,
    spacing: int = 0,
) -> list[Region]:
    """Propose fields of view to measure again: disjoint windows that collect the most score.

    Windows are taken greedily from sums over an integral image, then moved one at a time while
    the total grows. A second search starts from the best tiles of the regular grid, and the better
    result is returned, so that it is never worse than those tiles. Large images are searched
    on a coarser set of places (with exact sums), and refined to the pixel at the end. The same
    input gives the same output. No recipe records it, since a score says nothing of the prediction that it
    was made of; `propose_steps` of the workflow takes the prediction, and records it.

    Parameters
    ----------
    score : array_like, (Y, X) or (Z, Y, X)
        Value of measuring each pixel again; larger is better.
    window : int or sequence of int
        Size in pixels along the axes of `score`; one number for all of them.
    count : int
        Largest number of windows. Fewer are returned where no more fit, or where the rest has no
        positive score.
    pixel_size : float or sequence of float, optional
        Size of a pixel along the axes of `score`, in `unit`; 1 by default.
    unit : str
        Physical unit of `pixel_size`. Without one, regions of pixels with a size have an empty unit.
    mask : array_like, same shape as `score`, optional
        Multiplies the score: True (or a weight of 1) where a pixel counts, False (0) where not.
    margin : int
        Pixels kept free along the image's border.
    spacing : int
        Pixels kept free between windows.

    Returns
    -------
    list of Region
        Best first.

    Raises
    ------
    ValueError
        If the shapes do not fit, the window is larger than what the margin leaves, or the score
        has NaN or infinite values where the mask counts.

    Examples
    --------
    >>> import numpy as np
    >>> score = np.zeros((40, 50))
    >>> score[10:20, 30:40] = 1
    >>> [(r.y, r.x, r.score) for r in propose_regions(score, (10, 10), 3)]
    [(10, 30, 100.0)]
    """
    image = _weighted(score, mask)
    size = _window(window, image.shape, margin)
    need(is_whole(count) and count >= 1, "count", count, "1 or more")
    need(is_whole(spacing) and spacing >= 0, "spacing", spacing, "0 or more")
    need(isinstance(unit, str), "unit", unit, 'a text such as "um"')
    pixels = _pixel_size(pixel_size, image.ndim)
    starts = best_windows(image, size, count, margin=margin, spacing=spacing)
    regions = [_region(image, start, size, pixels, unit) for start in starts]
    return sorted(regions, key=lambda r: (-r.score, r.start))


def rescore(region: Region, score: NDArray[Any]) -> Region:
    """Return a region with its score summed again, after it was moved or the score changed.

    Parameters
    ----------
    region : Region
        Inside the image.
    score : ndarray of float, (Y, X) or (Z, Y, X)
        The score map; only the region's part is read.

    Raises
    ------
    ValueError
        If the region reaches over the image's border, or its part of the score has NaN or infinite values.
    """
    _check_inside(region, score.shape)
    part = _weighted(score[region.slices], None)
    return replace(region, score=float(part[region.own].sum()))


def label_image(regions: Sequence[Region], shape: Sequence[int]) -> NDArray[np.int32]:
    """Paint regions into one label image: 1 for the first, 2 for the second, 0 elsewhere.

    Parameters
    ----------
    regions : sequence of Region
        Where two overlap, the earlier one is on top.
    shape : sequence of int
        Shape of the image, (Y, X) or (Z, Y, X).

    Returns
    -------
    ndarray of int32, `shape`
        The label image.

    Raises
    ------
    ValueError
        If a region reaches over the image's border.
    """
    labels = np.zeros(tuple(shape), dtype=np.int32)
    for k in range(len(regions), 0, -1):
        r = regions[k - 1]
        _check_inside(r, labels.shape)
        labels[r.slices][r.own] = k
    return labels


def _weighted(score: ArrayLike, mask: ArrayLike | None) -> NDArray[np.float64]:
    """Return score times mask, checked."""
    image = np.asarray(score)
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(
            f"The score has shape {image.shape}; it must be (Y, X) or (Z, Y, X). "
            "Take one channel, or combine them with combine_channels."
        )
    if image.dtype.kind not in "biuf":
        raise ValueError(f"The score has type {image.dtype}; it must be real numbers.")
    if mask is None:
        need_finite(image)
        return image.astype(np.float64)
    weight = np.asarray(mask)
    need_same_shape("score", image.shape, "mask", weight.shape)
    need_finite(weight)
    out = np.where(weight != 0, image, 0).astype(np.float64)
    need_finite(out)
    return out if weight.dtype == bool else out * weight


def _region(
    image: NDArray[np.float64],
    start: tuple[int, ...],
    size: tuple[int, ...],
    pixels: tuple[float, ...],
    unit: str,
) -> Region:
    """Return a Region with its score summed."""
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    z, depth = (start[0], size[0]) if len(start) == 3 else (None, None)
    return Region(start[-2], start[-1], size[-2], size[-1], float(image[box].sum()), pixels, unit, z, depth)


def _window(window: int | Sequence[int], shape: tuple[int, ...], margin: int) -> tuple[int, ...]:
    """Return the window size, checked against the image and the margin."""
    sides = (window,) * len(shape) if isinstance(window, int | np.integer) else window
    size = tuple(int(n) for n in sides)
    need(is_whole(margin) and margin >= 0, "margin", margin, "0 or more")
    room = tuple(n - 2 * margin for n in shape)
    if len(size) != len(shape) or min(size) < 1 or any(n > r for n, r in zip(size, room, strict=True)):
        raise ValueError(
            f"The window is {size} px, the image leaves {room} px inside the margin; "
            "one size is needed per axis, from 1 px to what is left. Choose a smaller window or margin."
        )
    return size


def _pixel_size(pixel_size: float | Sequence[float] | None, ndim: int) -> tuple[float, ...]:
    """Return the pixel size per axis, checked."""
    sizes = np.ones(ndim) if pixel_size is None else np.asarray(pixel_size, dtype=float)
    sizes = np.full(ndim, float(sizes)) if sizes.ndim == 0 else sizes
    if sizes.shape != (ndim,) or not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise ValueError(
            f"pixel_size is {pixel_size}; one positive number is needed for each of the {ndim} axes."
        )
    return tuple(float(p) for p in sizes)


def _check_inside(region: Region, shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` if a region is not inside an image."""
    ok = len(region.start) == len(shape) and all(
        a >= 0 and n >= 1 and a + n <= m for a, n, m in zip(region.start, region.size, shape, strict=True)
    )
    if not ok:
        raise ValueError(
            f"A region starts at {region.start} with size {region.size}; the image has shape {shape}. "
            "Move it inside, or make it smaller."
        )
