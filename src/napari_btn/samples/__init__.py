"""Sample data, computed from a seed in under a second: no download.

`blobs` has a known noise law in every pixel, `edx` looks like element maps of a soil, `xct`
like a tomogram of one, `lattice` like atomic columns in an electron microscope. `counts`, `repeats`,
`movie` and `defects` are what microscopes give without a clean image: one image of counts, repeats of one
field, a series, and one frame of a camera with broken pixels; `stripes` is a sinogram with stripes. The
truth of all is free of noise, so coverage on them is coverage of the clean signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_btn.core.data import noise
from napari_btn.core.data.pairs import Pair
from napari_btn.samples._cells import counts, defects, movie, repeats
from napari_btn.samples._sinogram import stripes
from napari_btn.samples._soil import EDX_PHASES, XCT_PHASES, field, need_size, soil_section, soil_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "EDX_PHASES",
    "XCT_PHASES",
    "blobs",
    "counts",
    "defects",
    "edx",
    "edx_phases",
    "lattice",
    "movie",
    "repeats",
    "stripes",
    "xct",
    "xct_phases",
]

# counts of a 7 s scan at a rate of one: half of the Si, four fifths of the Al and nearly all
# of the Fe pixels stay empty
_EDX_DOSE = np.array([2.0, 2.0, 0.33], dtype=np.float32)


def blobs(seed: int = 0, n: int = 100, size: int = 64) -> Pair:
    """Make scenes of elongated blobs under skewed noise that grows with the signal.

    Each scene holds 5 to 12 elongated Gaussians per 64 x 64 pixels: sigma 4 to 13 px along,
    0.2 to 0.6 times that plus 0.8 px across, centres up to 2 px outside, amplitude 0.5 to
    2.5; their sum is clipped at 4. The noise has standard deviation ``0.8 + 0.15 * clean``;
    a centred exponential contributes 70 % of its variance.

    Parameters
    ----------
    seed : int
        Seed; more scenes never change the earlier ones.
    n : int
        Number of scenes.
    size : int
        Side of a scene, in pixels.

    Returns
    -------
    Pair
        ``noisy`` and ``clean`` float32 of shape (n, size, size), axes ``"SYX"``.

    Raises
    ------
    ValueError
        If ``n`` or ``size`` is too small.
    """
    need_size((n,), 1, "n")
    need_size((size,), 8, "size")
    clean = np.empty((n, size, size), dtype=np.float32)
    noisy = np.empty_like(clean)
    for scene, child in enumerate(np.random.SeedSequence(seed).spawn(n)):
        rng = np.random.default_rng(child)
        clean[scene] = _blob_scene(rng, size)
        noisy[scene] = noise.skewed(clean[scene], rng=rng)
    return Pair(noisy=noisy, clean=clean, axes="SYX", name="blobs")


def edx(seed: int = 0, size: tuple[int, int] = (256, 512)) -> Pair:
    """Make maps of Si, Al and Fe in a soil: the counts of a 7 s scan and their true rates.

    Grains of quartz, feldspar and aluminous minerals with iron oxide as inclusions and coats
    lie in a textured clay with pores. About 50 % (Si), 80 % (Al) and 97 % (Fe) of the pixels
    of the scan hold no count. The rates are relative, 0 to 1 per element; the counts have a
    scale of their own.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Height and width, in pixels, each at least 32.

    Returns
    -------
    Pair
        ``noisy`` (counts) and ``clean`` (rates) float32 of shape (3, height, width), axes
        ``"CYX"``, pixels of 0.5 um.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    phase, rates = soil_section(seed, size)
    del phase
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    counts = noise.poisson(rates, rng=rng, dose=_EDX_DOSE[:, None, None])
    return Pair(
        noisy=counts,
        clean=rates,
        axes="CYX",
        channel_names=("Si", "Al", "Fe"),
        pixel_size=(0.5, 0.5),
        unit="um",
        name="edx",
    )


def edx_phases(seed: int = 0, size: tuple[int, int] = (256, 512)) -> NDArray[np.uint8]:
    """Return the mineral of each pixel of `edx` of the same seed and size.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Height and width, in pixels, each at least 32.

    Returns
    -------
    ndarray
        Indices into `EDX_PHASES`, uint8, of shape ``size``.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    return soil_section(seed, size)[0]


def xct(seed: int = 0, size: tuple[int, int, int] = (32, 128, 128)) -> Pair:
    """Make a tomogram of grains, voids and cracks: a fast scan and the true volume.

    The fast scan is blurred, grainy with the short correlation of a reconstruction, and has
    rings around the axis of rotation.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Depth, height and width, in pixels, each at least 8.

    Returns
    -------
    Pair
        ``noisy`` and ``clean`` float32 of shape ``size``, axes ``"ZYX"``, clean 0 to about 1,
        voxels of 2 um.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    phase, clean = soil_volume(seed, size)
    del phase
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,)))
    blurred = np.maximum(gaussian_filter(clean, 0.8), 0)
    grainy = noise.readout(noise.poisson(blurred, rng=rng, dose=25) / 25, rng=rng, sd=0.15)
    scan = gaussian_filter(grainy, 0.55) + _rings(rng, size)
    return Pair(
        noisy=scan.astype(np.float32),
        clean=clean,
        axes="ZYX",
        pixel_size=(2.0, 2.0, 2.0),
        unit="um",
        name="xct",
    )


def xct_phases(seed: int = 0, size: tuple[int, int, int] = (32, 128, 128)) -> NDArray[np.uint8]:
    """Return the material of each voxel of `xct` of the same seed and size.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Depth, height and width, in pixels, each at least 8.

    Returns
    -------
    ndarray
        Indices into `XCT_PHASES`, uint8, of shape ``size``.

    Raises
    ------
    ValueError
        If ``size`` is too small.
    """
    return soil_volume(seed, size)[0]


def lattice(
    seed: int = 0, size: tuple[int, int] = (256, 512), *, period_px: float = 10.0, dose: float = 0.25
) -> Pair:
    """Make atomic columns of two crystal grains and a surface: electron counts and their true rates.

    Each grain is periodic, so that columns far from a pixel tell more about it than its own few counts.
    A few columns are missing; their thickness varies smoothly.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Height and width, in pixels, each at least 32.
    period_px : float
        Distance between neighbouring columns, in pixels, at least 4.
    dose : float
        Counts per pixel at a rate of one, above 0.

    Returns
    -------
    Pair
        ``noisy`` (counts) and ``clean`` (rates) float32 of shape ``size``, axes ``"YX"``, pixels of a
        tenth of 0.2 nm for the default period.

    Raises
    ------
    ValueError
        If ``size``, ``period_px`` or ``dose`` is too small.

    References
    ----------
    Mohan et al., "Deep denoising for scientific discovery: a case study in electron microscopy",
    IEEE Trans. Comput. Imaging 8 (2022) 585: why a large receptive field helps on such images.
    """
    need_size(size, 32, "size")
    if period_px < 4:
        raise ValueError(f"period_px is {period_px}; it must be at least 4, or columns overlap. Give more.")
    if dose <= 0:
        raise ValueError(f"dose is {dose}; it must be above 0, or there are no counts. Give more.")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    y, x = np.meshgrid(*map(np.arange, size), indexing="ij")
    boundary = x - size[1] * rng.uniform(0.35, 0.65) + 0.15 * size[0] * field(rng, size, 0.5 * size[0])
    surface = size[0] * 0.12 - y + 0.04 * size[0] * field(rng, size, 0.3 * size[0])
    thickness = 1 + 0.25 * field(rng, size, 8 * period_px)
    amplitude = np.zeros(size)
    turn = rng.uniform(0, np.pi / 3)
    for grain, side in enumerate((boundary < 0, boundary >= 0)):
        place = _columns(rng, size, period_px, turn + grain * rng.uniform(0.2, 0.6))
        inside = [(p >= 0) & (p < n - 1) for p, n in zip(place.T, size, strict=True)]
        place = place[inside[0] & inside[1]]
        near = tuple(np.round(place).astype(int).T)
        place = place[side[near] & (surface[near] < 0) & (rng.random(len(place)) > 0.03)]
        low = np.floor(place).astype(int)
        part = place - low
        for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
            share = np.where(step, part, 1 - part).prod(1)
            np.add.at(amplitude, tuple((low + step).T), share)
    width = 0.2 * period_px
    columns = gaussian_filter(amplitude, width) * 2 * np.pi * width**2
    clean = (0.1 + 0.9 * columns * np.maximum(thickness, 0.3)).astype(np.float32)
    counts = noise.poisson(clean, rng=rng, dose=dose)
    pixel = 0.2 / period_px
    return Pair(noisy=counts, clean=clean, axes="YX", pixel_size=(pixel, pixel), unit="nm", name="lattice")


def _columns(
    rng: np.random.Generator, size: tuple[int, int], period_px: float, turn: float
) -> NDArray[np.float64]:
    """Return positions (n, 2) of a rotated hexagonal lattice that covers the image."""
    reach = int(np.hypot(*size) / period_px) + 2
    i, j = np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach), indexing="ij")
    flat = period_px * np.stack([np.sqrt(0.75) * i.ravel(), (j + 0.5 * (i % 2)).ravel()], 1)
    flat += rng.uniform(0, period_px, 2)
    c, s = np.cos(turn), np.sin(turn)
    turned: NDArray[np.float64] = flat @ np.array([[c, s], [-s, c]]) + np.array(size) / 2
    return turned + rng.normal(0, 0.02 * period_px, turned.shape)


def _blob_scene(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """Return the clean signal of one scene of `blobs`."""
    density = (size / 64) ** 2
    count = int(rng.integers(round(5 * density), round(12 * density) + 1))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    scene = np.zeros((size, size), dtype=np.float32)
    for _ in range(count):
        along = rng.uniform(4, 13)
        across = along * rng.uniform(0.2, 0.6) + 0.8
        dy, dx = y - rng.uniform(-2, size + 1), x - rng.uniform(-2, size + 1)
        turn = rng.uniform(0, np.pi)
        u = dx * np.cos(turn) + dy * np.sin(turn)
        v = dy * np.cos(turn) - dx * np.sin(turn)
        scene += rng.uniform(0.5, 2.5) * np.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    return np.minimum(scene, 4).astype(np.float32)


def _rings(rng: np.random.Generator, size: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return rings around the centre of each slice, similar in neighbouring slices."""
    depth, height, width = size
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    profile = rng.standard_normal((depth, int(radius.max()) + 2))
    profile = gaussian_filter(profile, (1.5, 0.5)) * np.clip(profile.shape[1] / 40, 1, None)
    rings = np.stack([np.interp(radius, np.arange(row.size), row) for row in profile])
    return (0.05 * rings / max(float(rings.std()), 1e-6)).astype(np.float32)
