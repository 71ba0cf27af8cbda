"""Sample data, made on the spot from a seed: no download, under a second.

`blobs` has a known noise law in every pixel, `edx` looks like element maps of a soil, `xct`
like a tomogram of one, `lattice` like atomic columns in an electron microscope. Their truth is
free of noise, so coverage on them is coverage of the clean signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from napari_btn.core.data import noise
from napari_btn.core.data.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["EDX_PHASES", "XCT_PHASES", "blobs", "edx", "edx_phases", "lattice", "xct", "xct_phases"]

EDX_PHASES: Final = ("pore", "clay", "quartz", "feldspar", "aluminous", "iron oxide")
"""What the numbers in `edx_phases` mean."""
XCT_PHASES: Final = ("void", "matrix", "quartz", "feldspar", "dense", "crack")
"""What the numbers in `xct_phases` mean."""

_PORE, _CLAY, _QUARTZ, _FELDSPAR, _ALUMINOUS, _IRON = range(6)
_VOID, _MATRIX, _DENSE, _CRACK = 0, 1, 4, 5

# Si, Al, Fe of each phase relative to the brightest of its element
_EDX_RATES = np.array(
    [
        (0.06, 0.05, 0.045),
        (0.24, 0.150, 0.095),
        (0.90, 0.025, 0.035),
        (0.54, 0.270, 0.045),
        (0.36, 0.460, 0.080),
        (0.24, 0.170, 0.680),
    ],
    dtype=np.float32,
)
_XCT_RATES = np.array([0.06, 0.34, 0.58, 0.68, 0.97, 0.10], dtype=np.float32)

# counts of a 7 s scan at a rate of one: half of the Si, four fifths of the Al and nearly all
# of the Fe pixels stay empty
_EDX_DOSE = np.array([2.0, 2.0, 0.33], dtype=np.float32)


def blobs(seed: int = 0, n: int = 100, size: int = 64) -> Pair:
    """Scenes of elongated blobs under skewed noise that grows with the signal.

    Each scene holds 5 to 12 elongated Gaussians per 64 x 64 pixels: sigma 4 to 13 px along,
    0.2 to 0.6 times that plus 0.8 px across, centres up to 2 px outside, amplitude 0.5 to
    2.5; their sum is clipped at 4. The noise has standard deviation ``0.8 + 0.15 * clean``;
    a centred exponential makes 70 % of its variance.

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
    _need_size((n,), 1, "n")
    _need_size((size,), 8, "size")
    clean = np.empty((n, size, size), dtype=np.float32)
    noisy = np.empty_like(clean)
    for scene, child in enumerate(np.random.SeedSequence(seed).spawn(n)):
        rng = np.random.default_rng(child)
        clean[scene] = _blob_scene(rng, size)
        noisy[scene] = noise.skewed(clean[scene], rng=rng)
    return Pair(noisy=noisy, clean=clean, axes="SYX", name="blobs")


def edx(seed: int = 0, size: tuple[int, int] = (256, 512)) -> Pair:
    """Maps of Si, Al and Fe in a soil: the counts of a 7 s scan and the rates behind them.

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
    phase, rates = _soil_section(seed, size)
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
    """Mineral of each pixel of `edx` of the same seed and size.

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
    return _soil_section(seed, size)[0]


def xct(seed: int = 0, size: tuple[int, int, int] = (32, 128, 128)) -> Pair:
    """A tomogram of grains, voids and cracks: a fast scan and the volume behind it.

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
    phase, clean = _soil_volume(seed, size)
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
    """Material of each voxel of `xct` of the same seed and size.

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
    return _soil_volume(seed, size)[0]


def lattice(
    seed: int = 0, size: tuple[int, int] = (256, 512), *, period_px: float = 10.0, dose: float = 0.25
) -> Pair:
    """Atomic columns of two crystal grains and a surface: electron counts and the rates behind them.

    Each grain repeats itself every ``period_px``, so the columns far around a pixel say where its own
    lies, which its own few counts do not. A few columns are missing; their thickness varies smoothly.

    Parameters
    ----------
    seed : int
        Seed.
    size : tuple of int
        Height and width, in pixels, each at least 32.
    period_px : float
        Distance of neighbouring columns, in pixels, at least 4.
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
    IEEE Trans. Comput. Imaging 8 (2022) 585: why a wide field of view wins on such images.
    """
    _need_size(size, 32, "size")
    if period_px < 4:
        raise ValueError(f"period_px is {period_px}; it must be at least 4, or columns run into each other.")
    if dose <= 0:
        raise ValueError(f"dose is {dose}; it must be above 0, or there are no counts.")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    y, x = np.meshgrid(*map(np.arange, size), indexing="ij")
    boundary = x - size[1] * rng.uniform(0.35, 0.65) + 0.15 * size[0] * _field(rng, size, 0.5 * size[0])
    surface = size[0] * 0.12 - y + 0.04 * size[0] * _field(rng, size, 0.3 * size[0])
    thickness = 1 + 0.25 * _field(rng, size, 8 * period_px)
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
    """Positions (n, 2) of a turned hexagonal lattice that covers the image."""
    reach = int(np.hypot(*size) / period_px) + 2
    i, j = np.meshgrid(np.arange(-reach, reach), np.arange(-reach, reach), indexing="ij")
    flat = period_px * np.stack([np.sqrt(0.75) * i.ravel(), (j + 0.5 * (i % 2)).ravel()], 1)
    flat += rng.uniform(0, period_px, 2)
    c, s = np.cos(turn), np.sin(turn)
    turned: NDArray[np.float64] = flat @ np.array([[c, s], [-s, c]]) + np.array(size) / 2
    return turned + rng.normal(0, 0.02 * period_px, turned.shape)


def _blob_scene(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """The clean signal of one scene of `blobs`."""
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


def _soil_section(seed: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Phase map and element rates (3, height, width) of one polished section."""
    _need_size(size, 32, "size")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    ground = _Ground(rng, size, start=_CLAY, roughness=((14, 2.5), (5, 0.8)))
    area = float(np.prod(size)) / 2**17
    for _ in range(rng.poisson(11 * area) + 1):
        _composite_grain(ground)
    for _ in range(rng.poisson(420 * area)):
        material = rng.choice([_QUARTZ, _FELDSPAR, _ALUMINOUS, _IRON], p=[0.68, 0.13, 0.09, 0.10])
        ground.grain(material, radius=1.5 * (1 - rng.random()) ** -0.65, longest=12)
    ridge = _warped(rng, _field(rng, size, (7, 22)), 40, 10)
    patches = _field(rng, size, 50)
    ground.phase[(np.abs(ridge) < 0.09 + 0.05 * patches) & (ground.phase == _CLAY)] = _PORE
    return ground.phase, _section_rates(rng, ground)


def _composite_grain(ground: _Ground) -> None:
    """Add one large grain of quartz with its inclusions, and perhaps a coat of iron oxide."""
    rng = ground.rng
    radius = rng.uniform(12, 42)
    centre = ground.grain(_QUARTZ, radius=radius, longest=70)
    for _ in range(rng.poisson(1.2)):
        material = _IRON if rng.random() < 0.65 else _FELDSPAR
        beside = centre + rng.normal(0, 0.7 * radius, 2)
        share = 0.25 if material == _IRON else 0.5
        ground.grain(material, radius=share * radius, longest=40, centre=beside, over=_QUARTZ)
    if rng.random() < 0.4:
        ground.coat(_IRON, centre, radius)


def _section_rates(rng: np.random.Generator, ground: _Ground) -> NDArray[np.float32]:
    """Element rates of a section: composition, shade of each grain, texture, finite beam."""
    size = ground.phase.shape
    rates = np.moveaxis(_EDX_RATES[ground.phase], -1, 0) * ground.shade
    streaks = _warped(rng, _field(rng, size, (5, 16)), 40, 10)
    clay = ground.phase == _CLAY
    for channel, (common, own) in enumerate([(0.22, 0.22), (0.20, 0.28), (0.16, 0.30)]):
        texture = common * streaks + own * _field(rng, size, 6)
        fine = 0.025 * _field(rng, size, 2.5)
        rates[channel] *= np.where(clay, np.exp(np.clip(texture, -1, 0.8) - 0.05), 1 + fine)
        rates[channel] = gaussian_filter(rates[channel], 0.55)
    return np.asarray(np.clip(rates, 0, 1), dtype=np.float32)


def _soil_volume(seed: int, size: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Phase map and attenuation of one volume."""
    _need_size(size, 8, "size")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    ground = _Ground(rng, size, start=_MATRIX, roughness=((12, 2.0),))
    volume = float(np.prod(size)) / 2**19
    for longest, count in ((26, 14), (14, 45), (7, 120)):
        for _ in range(rng.poisson(count * volume) + 1):
            material = rng.choice([_QUARTZ, _FELDSPAR, _DENSE, _VOID], p=[0.5, 0.3, 0.05, 0.15])
            ground.grain(material, radius=longest * rng.uniform(0.35, 0.7), longest=longest)
    for _ in range(rng.poisson(4 * volume) + 2):
        _crack(ground)
    clean = _XCT_RATES[ground.phase] * ground.shade
    texture = 0.07 * _field(rng, size, 3) + 0.06 * _field(rng, size, 9)
    clean[ground.phase == _MATRIX] += texture[ground.phase == _MATRIX]
    return ground.phase, np.maximum(gaussian_filter(clean, 0.5), 0).astype(np.float32)


def _crack(ground: _Ground) -> None:
    """Open a thin bent sheet through matrix and grains."""
    rng = ground.rng
    normal = rng.standard_normal(3)
    normal /= np.linalg.norm(normal)
    centre = rng.uniform(0, ground.phase.shape)
    offset = ground.position - centre.astype(np.float32)[:, None, None, None]
    height = np.tensordot(normal.astype(np.float32), offset, 1)
    distance = np.sqrt(np.maximum((offset**2).sum(0) - height**2, 0))
    height += 3 * _field(rng, ground.phase.shape, 24)
    reach = rng.uniform(0.25, 0.5) * max(ground.phase.shape)
    # thinner towards its rim, so that it ends without a wall
    half_width = rng.uniform(0.8, 1.6) * (1 - (distance / reach) ** 2)
    ground.phase[np.abs(height) < half_width] = _CRACK
    ground.shade[ground.phase == _CRACK] = 1


def _rings(rng: np.random.Generator, size: tuple[int, int, int]) -> NDArray[np.float32]:
    """Rings around the middle of each slice, alike in neighbouring slices."""
    depth, height, width = size
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    profile = rng.standard_normal((depth, int(radius.max()) + 2))
    profile = gaussian_filter(profile, (1.5, 0.5)) * np.clip(profile.shape[1] / 40, 1, None)
    rings = np.stack([np.interp(radius, np.arange(row.size), row) for row in profile])
    return (0.05 * rings / max(float(rings.std()), 1e-6)).astype(np.float32)


class _Ground:
    """A block of material into which grains are set, in any number of dimensions.

    The coordinates are bent once by smooth random displacements, so that plain ellipsoids in
    them are rough grains in space.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        size: Sequence[int],
        *,
        start: int,
        roughness: Sequence[tuple[float, float]],
    ) -> None:
        self.rng = rng
        self.start = start
        self.phase = np.full(tuple(size), start, dtype=np.uint8)
        self.shade = np.ones(tuple(size), dtype=np.float32)
        self.position = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(np.float32)
        self.margin = 3 * sum(amplitude for _, amplitude in roughness)
        for axis in self.position:
            for length, amplitude in roughness:
                axis += amplitude * _field(rng, size, length)

    def grain(
        self,
        material: int,
        *,
        radius: float,
        longest: float,
        centre: NDArray[np.float64] | None = None,
        over: int | None = None,
    ) -> NDArray[np.float64]:
        """Set one grain where the ground (or ``over``) shows, and return its centre."""
        rng, ndim = self.rng, self.phase.ndim
        if centre is None:
            centre = rng.uniform(0, self.phase.shape)
        semi = np.minimum(radius * np.exp(rng.normal(0, 0.25, ndim)), longest)
        turn = np.linalg.qr(rng.standard_normal((ndim, ndim)))[0]
        power = rng.uniform(1.8, 4)
        shade = float(np.clip(rng.normal(1, 0.05), 0.85, 1.1))
        # a superellipsoid of power 4 at most reaches ndim**(1/2 - 1/4) beyond its longest axis
        box = self._box(centre, ndim**0.25 * float(semi.max()))
        local = np.tensordot((turn / semi).T.astype(np.float32), self._offset(box, centre), 1)
        inside = (np.abs(local) ** power).sum(0) < 1
        inside &= self.phase[box] == (self.start if over is None else over)
        self.phase[box][inside] = material
        self.shade[box][inside] = shade
        return centre

    def coat(self, material: int, centre: NDArray[np.float64], radius: float) -> None:
        """Lay a thin coat on one side of the grain around ``centre``."""
        side = self.rng.standard_normal(self.phase.ndim)
        side /= np.linalg.norm(side)
        box = self._box(centre, 2 * radius)
        facing = np.tensordot(side, self._offset(box, centre), 1) > 0.3 * radius
        grain = gaussian_filter((self.phase[box] == _QUARTZ).astype(np.float32), 1.2)
        ring = (grain > 0.08) & (self.phase[box] == self.start) & facing
        self.phase[box][ring] = material

    def _box(self, centre: NDArray[np.float64], reach: float) -> tuple[slice, ...]:
        """The slices around ``centre`` that bent coordinates within ``reach`` may lie in."""
        far = reach + self.margin
        return tuple(
            slice(min(max(int(c - far), 0), n), max(min(int(c + far) + 1, n), 0))
            for c, n in zip(centre, self.phase.shape, strict=True)
        )

    def _offset(self, box: tuple[slice, ...], centre: NDArray[np.float64]) -> NDArray[np.float32]:
        """Bent coordinates in the box, from ``centre``."""
        middle = centre.astype(np.float32).reshape(-1, *(1,) * self.phase.ndim)
        return np.asarray(self.position[(slice(None), *box)] - middle, dtype=np.float32)


def _field(
    rng: np.random.Generator, size: Sequence[int], length_px: float | Sequence[float]
) -> NDArray[np.float32]:
    """Smooth random field of zero mean and unit variance: cubic B-splines on random knots."""
    lengths = np.broadcast_to(np.asarray(length_px, dtype=float), (len(size),))
    knots = [int(np.ceil(n / length)) + 4 for n, length in zip(size, lengths, strict=True)]
    field = rng.standard_normal(knots)
    for axis, (n, length, count) in enumerate(zip(size, lengths, knots, strict=True)):
        place = np.arange(n) / length + 1 + rng.random()
        t = np.abs(place[:, None] - np.arange(count))
        basis = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
        basis /= np.sqrt((basis**2).sum(1, keepdims=True))
        field = np.moveaxis(np.tensordot(basis, field, (1, axis)), 0, axis)
    return field.astype(np.float32)


def _warped(
    rng: np.random.Generator, field: NDArray[np.float32], length_px: float, amplitude_px: float
) -> NDArray[np.float32]:
    """The field with its coordinates bent."""
    place = np.stack(np.meshgrid(*map(np.arange, field.shape), indexing="ij")).astype(np.float32)
    for axis in place:
        axis += amplitude_px * _field(rng, field.shape, length_px)
    return np.asarray(map_coordinates(field, place, order=1, mode="mirror"), dtype=np.float32)


def _need_size(size: Sequence[int], least: int, name: str) -> None:
    """Raise unless every number is large enough to draw a scene."""
    if min(size) < least:
        raise ValueError(f"{name} is {size if len(size) > 1 else size[0]}; it must be at least {least}.")
