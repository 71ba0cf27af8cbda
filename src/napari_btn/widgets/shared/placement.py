"""The place of a layer's data in the world: scale, translation and the rest, per axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Placement"]


@dataclass(frozen=True)
class Placement:
    """The place of a layer's data in the world, per axis.

    Parameters
    ----------
    axes : str
        One letter per dimension.
    scale, translate : tuple of float
        One per dimension.
    rotate, shear, affine : ndarray
        Matrices of (n, n), (n, n) and (n + 1, n + 1).
    units, labels : tuple of str
        One per dimension.
    """

    axes: str
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    rotate: NDArray[np.float64]
    shear: NDArray[np.float64]
    affine: NDArray[np.float64]
    units: tuple[str, ...]
    labels: tuple[str, ...]

    def onto(self, axes: str) -> Placement:
        """Return the placement for other axes: missing ones are dropped, new ones start at the origin.

        Parameters
        ----------
        axes : str
            One letter per dimension of the data to place.

        Returns
        -------
        Placement
            For those axes, in that order.
        """
        kept = [(new, self.axes.index(letter)) for new, letter in enumerate(axes) if letter in self.axes]
        n = len(axes)

        def row(values: Sequence[Any], default: Any) -> tuple[Any, ...]:
            """Return one value per new axis."""
            out = [default] * n
            for new, old in kept:
                out[new] = values[old]
            return tuple(out)

        def square(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
            """Return the matrix of the kept axes, identity elsewhere."""
            out = np.eye(n)
            for new, old in kept:
                for other_new, other_old in kept:
                    out[new, other_new] = matrix[old, other_old]
            return out

        affine = np.eye(n + 1)
        affine[:n, :n] = square(self.affine[:-1, :-1])
        affine[:n, n] = row(tuple(self.affine[:-1, -1]), 0.0)
        labels = tuple(
            self.labels[self.axes.index(a)] if a in self.axes and not self._default_labels else a.lower()
            for a in axes
        )
        return Placement(
            axes,
            row(self.scale, 1.0),
            row(self.translate, 0.0),
            square(self.rotate),
            square(self.shear),
            affine,
            row(self.units, "pixel"),
            labels,
        )

    def cropped(self, start: Sequence[int]) -> Placement:
        """Return the placement of a part of the data.

        Parameters
        ----------
        start : sequence of int
            First index of the part, one per dimension.

        Returns
        -------
        Placement
            With the translation that puts the part where it was.
        """
        moved = self.rotate @ self.shear @ (np.asarray(self.scale) * np.asarray(start, dtype=float))
        translate = tuple(float(t + m) for t, m in zip(self.translate, moved, strict=True))
        return replace(self, translate=translate)

    @property
    def _default_labels(self) -> bool:
        """True if the labels are napari's default numbers."""
        return all(label.lstrip("-").isdigit() for label in self.labels)

    def to_layer(self) -> dict[str, Any]:
        """Return keyword arguments for a new layer, in an order that also suits an old one."""
        return {
            "scale": self.scale,
            "translate": self.translate,
            "rotate": self.rotate,
            "shear": self.shear,
            "affine": self.affine,
            "units": self.units,
            "axis_labels": self.labels,
        }
