"""Fingerprints of images, by which a bundle knows what its members were trained on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.data.image import Box
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from napari_btn.core.data.image import View
    from napari_btn.core.progress import Step

__all__ = ["fingerprint_steps"]


def fingerprint_steps(image: View) -> Step[dict[str, str]]:
    """Return the SHA-256 of each scene of an image, by number; a step.

    Parameters
    ----------
    image : View
    """
    prints = {}
    for scene in range(image.n_scenes):
        digest = hashlib.sha256()
        for part in _rows(Box(scene, tuple(slice(0, n) for n in image.space))):
            yield Progress(scene, image.n_scenes, "Reading the images")
            digest.update(np.ascontiguousarray(image.read(scene, part)).data)
        prints[str(scene)] = digest.hexdigest()
    return prints


def _rows(box: Box) -> list[tuple[slice, ...]]:
    """Cut a box into runs of rows of about four million values."""
    step = max(4_000_000 // max(box.size // max(box.shape[0], 1), 1), 1)
    first = box.slices[0]
    return [
        (slice(a, min(a + step, first.stop)), *box.slices[1:]) for a in range(first.start, first.stop, step)
    ]
