"""Materials that differ only in texture, and common filters that distinguish them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.feature import (
    hessian_matrix,
    hessian_matrix_eigvals,
    structure_tensor,
    structure_tensor_eigenvalues,
)

from napari_btn.core.data import noise
from napari_btn.core.data.pairs import Pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEANS = (0.25, 0.5, 0.5, 0.75)
GRAIN_PX = (1.5, 0.8, 2.5, 1.5)
CONTRAST = (0.02, 0.12, 0.12, 0.02)
DOSE = 40.0


def textured(seed: int, side: int) -> tuple[Pair, NDArray[np.intp]]:
    """Return counts and rates of four materials in patches, and the map of materials.

    The second and the third have the same mean and spread, but one is fine-grained (a correlation length of
    0.8 px) and one coarse (2.5 px).
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x7E87,)))

    def grain(length_px: float) -> NDArray[np.float64]:
        made = ndimage.gaussian_filter(rng.standard_normal((side, side)), length_px)
        return (made - made.mean()) / made.std()

    material = np.argmax([grain(16) for _ in MEANS], axis=0)
    shades = [m + c * grain(g) for m, c, g in zip(MEANS, CONTRAST, GRAIN_PX, strict=True)]
    clean = np.maximum(np.choose(material, shades), 0).astype(np.float32)
    counts = noise.poisson(clean, rng=rng, dose=DOSE)
    return Pair(noisy=(counts / DOSE).astype(np.float32), clean=clean, axes="YX", name="textures"), material


def filter_bank(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return seven filters of one channel (Y, X), as in pixel classifiers, (7, Y, X)."""
    smooth = ndimage.gaussian_filter(image, 3)
    curved = hessian_matrix_eigvals(hessian_matrix(image, sigma=1.5, use_gaussian_derivatives=False))
    oriented = structure_tensor_eigenvalues(structure_tensor(image, sigma=1.5))
    made = (
        ndimage.gaussian_filter(image, 1),
        smooth,
        ndimage.gaussian_gradient_magnitude(image, 1.5),
        ndimage.gaussian_laplace(image, 1.5),
        curved[0],
        oriented[0],
        np.sqrt(np.maximum(ndimage.gaussian_filter(image**2, 3) - smooth**2, 0)),
    )
    return np.stack(made).astype(np.float32)
