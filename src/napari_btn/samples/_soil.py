"""Ground truth of the samples: a polished section of a soil, a volume of one, and smooth random fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["EDX_PHASES", "XCT_PHASES", "field", "need_size", "soil_section", "soil_volume"]

EDX_PHASES: Final = ("pore", "clay", "quartz", "feldspar", "aluminous", "iron oxide")
"""Names of the minerals that `edx_phases` numbers."""
XCT_PHASES: Final = ("void", "matrix", "quartz", "feldspar", "dense", "crack")
"""Names of the materials that `xct_phases` numbers."""

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


def soil_section(seed: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the phase map and the element rates (3, height, width) of a polished section."""
    need_size(size, 32, "size")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    ground = _Ground(rng, size, start=_CLAY, roughness=((14, 2.5), (5, 0.8)))
    area = float(np.prod(size)) / 2**17
    for _ in range(rng.poisson(11 * area) + 1):
        _composite_grain(ground)
    for _ in range(rng.poisson(420 * area)):
        material = rng.choice([_QUARTZ, _FELDSPAR, _ALUMINOUS, _IRON], p=[0.68, 0.13, 0.09, 0.10])
        ground.grain(material, radius=1.5 * (1 - rng.random()) ** -0.65, longest=12)
    ridge = _warped(rng, field(rng, size, (7, 22)), 40, 10)
    patches = field(rng, size, 50)
    ground.phase[(np.abs(ridge) < 0.09 + 0.05 * patches) & (ground.phase == _CLAY)] = _PORE
    return ground.phase, _section_rates(rng, ground)


def _composite_grain(ground: _Ground) -> None:
    """Add one large grain of quartz with its inclusions, and sometimes a coat of iron oxide."""
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
    """Return the element rates of a section: composition, shade of each grain, texture, finite beam."""
    size = ground.phase.shape
    rates = np.moveaxis(_EDX_RATES[ground.phase], -1, 0) * ground.shade
    streaks = _warped(rng, field(rng, size, (5, 16)), 40, 10)
    clay = ground.phase == _CLAY
    for channel, (common, own) in enumerate([(0.22, 0.22), (0.20, 0.28), (0.16, 0.30)]):
        texture = common * streaks + own * field(rng, size, 6)
        fine = 0.025 * field(rng, size, 2.5)
        rates[channel] *= np.where(clay, np.exp(np.clip(texture, -1, 0.8) - 0.05), 1 + fine)
        rates[channel] = gaussian_filter(rates[channel], 0.55)
    return np.asarray(np.clip(rates, 0, 1), dtype=np.float32)


def soil_volume(seed: int, size: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the phase map and the attenuation of a volume."""
    need_size(size, 8, "size")
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
    texture = 0.07 * field(rng, size, 3) + 0.06 * field(rng, size, 9)
    clean[ground.phase == _MATRIX] += texture[ground.phase == _MATRIX]
    return ground.phase, np.maximum(gaussian_filter(clean, 0.5), 0).astype(np.float32)


def _crack(ground: _Ground) -> None:
    """Add a thin bent crack through matrix and grains."""
    rng = ground.rng
    normal = rng.standard_normal(3)
    normal /= np.linalg.norm(normal)
    centre = rng.uniform(0, ground.phase.shape)
    offset = ground.position - centre.astype(np.float32)[:, None, None, None]
    height = np.tensordot(normal.astype(np.float32), offset, 1)
    distance = np.sqrt(np.maximum((offset**2).sum(0) - height**2, 0))
    height += 3 * field(rng, ground.phase.shape, 24)
    reach = rng.uniform(0.25, 0.5) * max(ground.phase.shape)
    # thinner towards the rim, so that it has no blunt end
    half_width = rng.uniform(0.8, 1.6) * (1 - (distance / reach) ** 2)
    ground.phase[np.abs(height) < half_width] = _CRACK
    ground.shade[ground.phase == _CRACK] = 1


class _Ground:
    """A block of material to which grains are added, in any number of dimensions.

    Its coordinates have smooth random displacements, so that plain ellipsoids in them are rough
    grains in space.
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
                axis += amplitude * field(rng, size, length)

    def grain(
        self,
        material: int,
        *,
        radius: float,
        longest: float,
        centre: NDArray[np.float64] | None = None,
        over: int | None = None,
    ) -> NDArray[np.float64]:
        """Add one grain where the material is the start (or ``over``), and return its centre."""
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
        """Add a thin coat on one side of the grain around ``centre``."""
        side = self.rng.standard_normal(self.phase.ndim)
        side /= np.linalg.norm(side)
        box = self._box(centre, 2 * radius)
        facing = np.tensordot(side, self._offset(box, centre), 1) > 0.3 * radius
        grain = gaussian_filter((self.phase[box] == _QUARTZ).astype(np.float32), 1.2)
        ring = (grain > 0.08) & (self.phase[box] == self.start) & facing
        self.phase[box][ring] = material

    def _box(self, centre: NDArray[np.float64], reach: float) -> tuple[slice, ...]:
        """Return the slices around ``centre`` in which displaced coordinates may lie within ``reach``."""
        far = reach + self.margin
        return tuple(
            slice(min(max(int(c - far), 0), n), max(min(int(c + far) + 1, n), 0))
            for c, n in zip(centre, self.phase.shape, strict=True)
        )

    def _offset(self, box: tuple[slice, ...], centre: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the displaced coordinates in the box, relative to ``centre``."""
        middle = centre.astype(np.float32).reshape(-1, *(1,) * self.phase.ndim)
        return np.asarray(self.position[(slice(None), *box)] - middle, dtype=np.float32)


def field(
    rng: np.random.Generator, size: Sequence[int], length_px: float | Sequence[float]
) -> NDArray[np.float32]:
    """Return a smooth random field of zero mean and unit variance: cubic B-splines on random knots."""
    lengths = np.broadcast_to(np.asarray(length_px, dtype=float), (len(size),))
    knots = [int(np.ceil(n / length)) + 4 for n, length in zip(size, lengths, strict=True)]
    values = rng.standard_normal(knots)
    for axis, (n, length, count) in enumerate(zip(size, lengths, knots, strict=True)):
        place = np.arange(n) / length + 1 + rng.random()
        t = np.abs(place[:, None] - np.arange(count))
        basis = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
        basis /= np.sqrt((basis**2).sum(1, keepdims=True))
        values = np.moveaxis(np.tensordot(basis, values, (1, axis)), 0, axis)
    return values.astype(np.float32)


def _warped(
    rng: np.random.Generator, values: NDArray[np.float32], length_px: float, amplitude_px: float
) -> NDArray[np.float32]:
    """Return a field with smooth random displacements of its coordinates."""
    place = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij")).astype(np.float32)
    for axis in place:
        axis += amplitude_px * field(rng, values.shape, length_px)
    return np.asarray(map_coordinates(values, place, order=1, mode="mirror"), dtype=np.float32)


def need_size(size: Sequence[int], least: int, name: str) -> None:
    """Raise unless every number is large enough for a scene."""
    if min(size) < least:
        raise ValueError(f"{name} is {size if len(size) > 1 else size[0]}; it must be at least {least}.")
