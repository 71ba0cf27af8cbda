"""Fingerprints of images: they let a bundle recognise the images that its members were trained on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from napari_btn.core.data.image import View
    from napari_btn.core.progress import Step

__all__ = ["array_digest_steps", "fingerprint_steps"]

_READ = 4_000_000  # pixels read at a time; another number would change the fingerprints


def fingerprint_steps(image: View) -> Step[dict[str, str]]:
    """Return the SHA-256 of each scene of an image, by number; a step.

    Parameters
    ----------
    image : View
    """
    prints = {}
    for scene in range(image.n_scenes):
        digest = hashlib.sha256()
        for part in Box(scene, tuple(slice(0, n) for n in image.space)).slabs(_READ):
            yield Progress(scene, image.n_scenes, "Reading the images")
            digest.update(np.ascontiguousarray(image.read(scene, part)).data)
        prints[str(scene)] = digest.hexdigest()
    return prints


def array_digest_steps(array: Any) -> Step[str]:
    """Return the SHA-256 of type, shape and values of an array, which is read in parts; a step.

    Parameters
    ----------
    array : array
        Numpy, dask or zarr; all byte orders give the same.
    """
    dtype = np.dtype(array.dtype).newbyteorder("<")
    digest = hashlib.sha256(json.dumps([dtype.str, [int(n) for n in array.shape]]).encode())
    rows, row = (array.shape[-2], array.shape[-1]) if len(array.shape) > 1 else (1, 0)
    step = max(_READ // max(row, 1), 1)
    if len(array.shape) < 2:
        digest.update(np.asarray(array, dtype=dtype).tobytes())
        return digest.hexdigest()
    for index in np.ndindex(*array.shape[:-2]):
        for start in range(0, rows, step):
            yield Progress(0, 1, "Reading the images")
            part = np.asarray(array[(*index, slice(start, start + step))])
            digest.update(np.ascontiguousarray(part, dtype=dtype).data)
    return digest.hexdigest()
