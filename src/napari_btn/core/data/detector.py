"""Dark frame, flat field and broken pixels of a detector, which every image of it is repaired by."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core.data.defects import Repaired, repair
from napari_btn.core.data.image import SPACE, canonical_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.data.pairs import Pair

__all__ = ["Detector"]


@dataclass(frozen=True, eq=False)
class Detector:
    """Dark frame, flat field and broken pixels of a detector.

    Parameters
    ----------
    dark : array_like, optional
        Frame without light, over the space axes of the images, or over their channel and space axes.
    flat : array_like, optional
        Frame of even light, of the same shape.
    defects : array_like of bool, optional
        True where a pixel is broken, over the space axes; found in the image by default.
    axes : str
        Axes of the frames; those of the first image that they are used on by default.
    """

    dark: ArrayLike | None = None
    flat: ArrayLike | None = None
    defects: ArrayLike | None = None
    axes: str = ""

    def repaired(self, image: ArrayLike, axes: str) -> Repaired:
        """Return an image with dark and flat frames divided out and broken pixels filled.

        Parameters
        ----------
        image : array_like
        axes : str
            Axes of the image; their order may differ from that of the frames.

        Raises
        ------
        ValueError
            If the frames don't fit the image.
        """
        return repair(
            image,
            axes,
            dark=self._turned(self.dark, axes),
            flat=self._turned(self.flat, axes),
            defects=self._turned(self.defects, axes),
        )

    def _turned(self, frame: ArrayLike | None, axes: str) -> NDArray[Any] | None:
        """Return a frame with its axes in the order of an image."""
        if frame is None:
            return None
        values, axes = np.asarray(frame), axes.upper()
        own = (self.axes or axes).upper()
        space = [a for a in own if a in SPACE]
        letters = space if values.ndim == len(space) else [a for a in own if a in "C" + SPACE]
        wanted = [a for a in axes if a in letters]
        if values.ndim != len(letters) or sorted(wanted) != sorted(letters):
            return values
        return values.transpose([letters.index(a) for a in wanted])

    def repaired_pair(self, pair: Pair) -> tuple[Pair, Detector]:
        """Return a pair with its noisy image repaired, and the detector with the broken pixels that were found.

        Broken pixels don't count in training and calibration. The clean image stays as it is.

        Parameters
        ----------
        pair : Pair

        Raises
        ------
        ValueError
            If there is no noisy image, or frames don't fit it.
        """
        if pair.noisy is None:
            raise ValueError(
                "Frames of a detector came without a noisy image; leave them out where noise is simulated."
            )
        axes = canonical_axes(pair.axes, len(pair.noisy.shape), "noisy")
        made = self.repaired(pair.noisy, axes)
        sound = made.valid
        if isinstance(pair.valid, str):
            for image, letters in (
                (pair.noisy, axes),
                (pair.clean, axes if pair.clean is None else pair.clean_axes),
            ):
                if image is not None:
                    others = tuple(i for i, a in enumerate(letters) if a not in SPACE)
                    sound = sound & np.isfinite(np.asarray(image)).all(others)
        elif pair.valid is not None:
            given = np.asarray(pair.valid, bool)
            letters = axes if pair.clean is None else pair.clean_axes
            shape = made.valid.shape
            if given.ndim == len(letters) != len(shape):
                sizes = iter(shape)
                shape = tuple(next(sizes) if a in SPACE else 1 for a in letters)
            sound = given & sound.reshape(shape)
        found = replace(self, axes=axes, defects=~made.valid)
        return replace(pair, noisy=made.image, valid=None if sound.all() else sound), found

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the frames as arrays of a bundle."""
        frames = {"dark": self.dark, "flat": self.flat, "defects": self.defects}
        return {name: np.asarray(frame) for name, frame in frames.items() if frame is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], axes: str) -> Self:
        """Return the detector of the arrays of `to_arrays`.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        axes : str
            Axes of the frames.
        """
        known = {f.name for f in fields(cls)} - {"axes"}
        return cls(**{name: array for name, array in arrays.items() if name in known}, axes=axes)
