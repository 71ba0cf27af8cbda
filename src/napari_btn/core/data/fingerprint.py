"""Fingerprints of images: they let a bundle recognise the images that its members were trained on."""

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
