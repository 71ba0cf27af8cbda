"""Stage coordinates of image positions, and a short path through regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.remeasure.regions import Region

__all__ = ["StageAffine", "travel_order"]

_PASSES = 8
_SMALLEST_GAIN = 1e-9


@dataclass(frozen=True)
class StageAffine:
    """Affine map from image positions to stage coordinates.

    Parameters
    ----------
    matrix : ndarray of float64, (2, 3)
        ``stage = matrix[:, :2] @ (y, x) + matrix[:, 2]``.
    residual : float
        Root mean square distance of the registration points after the fit, in stage units; 0
        with three points.
    """

    matrix: NDArray[np.float64]
    residual: float = 0.0

    @classmethod
    def from_points(cls, image: ArrayLike, stage: ArrayLike) -> StageAffine:
        """Fit the affine map to three or more registration points, by least squares.

        Parameters
        ----------
        image : array_like, (n, 2)
            Positions (y, x) in the image, in the unit of `Region.centre`.
        stage : array_like, (n, 2)
            The same points in stage coordinates, in the stage's own axes and unit.

        Returns
        -------
        StageAffine
            The fitted map.

        Raises
        ------
        ValueError
            If there are fewer than three points, or they lie on one line.
        """
        a, b = np.asarray(image, dtype=float), np.asarray(stage, dtype=float)
        if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 2 or len(a) < 3:
            raise ValueError(
                f"Registration needs at least three points (n, 2) in the image and on the stage; "
                f"{a.shape} and {b.shape} came. Add points."
            )
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise ValueError("A registration point is NaN or infinite; give finite coordinates.")
        spread = np.linalg.svd(a - a.mean(0), compute_uv=False)
        if spread[1] <= 1e-6 * spread[0]:
            raise ValueError("The registration points lie on one line; choose three that span a triangle.")
        design = np.column_stack([a, np.ones(len(a))])
        solution = np.linalg.lstsq(design, b, rcond=None)[0]
        rest = np.sqrt(((design @ solution - b) ** 2).sum(1).mean()) if len(a) > 3 else 0.0
        return cls(matrix=solution.T, residual=float(rest))

    @classmethod
    def from_pixels(cls, pixels: ArrayLike, stage: ArrayLike, pixel_size: Sequence[float]) -> StageAffine:
        """Fit the affine map to points given by their pixels in the image.

        Parameters
        ----------
        pixels : array_like, (n, 2)
            Rows and columns, from 0 at the centre of the first pixel, as a viewer shows them under the mouse.
        stage : array_like, (n, 2)
            The same points in stage coordinates.
        pixel_size : sequence of float
            Along Y and X, in the unit of `Region.centre`.

        Returns
        -------
        StageAffine
            The fitted map, from positions in that unit.

        Raises
        ------
        ValueError
            If there are fewer than three points, or they lie on one line.
        """
        # Positions count from the outer corner of the first pixel, half a pixel before its centre.
        return cls.from_points((np.asarray(pixels, dtype=float) + 0.5) * np.asarray(pixel_size), stage)

    def to_stage(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return stage coordinates (n, 2) of image positions (n, 2), given as (y, x)."""
        p = np.atleast_2d(np.asarray(points, dtype=float))
        return p @ self.matrix[:, :2].T + self.matrix[:, 2]


def travel_order(regions: Sequence[Region], stage: StageAffine | None = None) -> list[Region]:
    """Order regions for short travel: nearest neighbour, then 2-opt on the open path; the first stays first.

    Parameters
    ----------
    regions : sequence of Region
        Regions to visit.
    stage : StageAffine, optional
        Measure distances on the stage, whose axes may be scaled differently.

    Returns
    -------
    list of Region
        The same regions, reordered.
    """
    if not regions:
        return []
    points = np.array([r.centre for r in regions])
    path = np.concatenate([points[:1], points])
    if stage is not None:
        path = np.column_stack([path[:, :-2], stage.to_stage(path[:, -2:])])
    distance = np.linalg.norm(path[:, None] - path[None], axis=-1)
    order = [0]
    left = np.ones(len(path), bool)
    left[0] = False
    while left.any():
        nearest = int(np.argmin(np.where(left, distance[order[-1]], np.inf)))
        order.append(nearest)
        left[nearest] = False
    return [regions[i - 1] for i in _two_opt(order, distance)[1:]]


def _two_opt(order: list[int], distance: NDArray[np.float64]) -> list[int]:
    """Return the path with crossings removed by reversals that shorten it; the first stop is fixed."""
    n = len(order)
    for _ in range(_PASSES if n <= 400 else 0):
        changed = False
        for i in range(1, n - 1):
            o = np.array(order)
            j = np.arange(i + 1, n)
            gain = distance[o[i - 1], o[i]] - distance[o[i - 1], o[j]]
            inner = j < n - 1
            after = o[np.minimum(j + 1, n - 1)]
            gain = gain + np.where(inner, distance[o[j], after] - distance[o[i], after], 0.0)
            k = int(np.argmax(gain))
            if gain[k] > _SMALLEST_GAIN * (1 + distance.max()):
                order[i : j[k] + 1] = order[i : j[k] + 1][::-1]
                changed = True
        if not changed:
            break
    return order
