"""Learning from single noisy images: masked pixels are predicted from their surroundings (Noise2Void).

Masks are lattices: of every neighbourhood, pixels far apart from each other are masked at a time. The networks
predict an image in as many passes as there are shifts of the lattice, and each pixel is taken from the pass in
which it was masked. So a prediction never depends on the pixel's own noise: held-out pixels can calibrate it,
which they could not if the networks saw them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.bits import pixel_uniform
from napari_btn.core.data.image import Look, View
from napari_btn.core.progress import Note, Progress
from napari_btn.core.supervision.dither import Dither
from napari_btn.core.supervision.pair import AGAINST_NOISY, DEFAULT, PairSupervision
from napari_btn.core.supervision.patches import Lesson, within_passes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, SupervisionSettings, TrainSettings
    from napari_btn.core.supervision.patches import Patch

__all__ = ["NOISE2VOID", "Mask", "fitting_mask"]

_AT_MOST = 3  # a third of the pixels are replaced at a time at most
_LEAST_PX = 16  # side of an image whose noise can be measured
_PIXELS = 20_000  # masked pixels whose neighbourhoods are gathered at a time


@dataclass(frozen=True)
class Mask:
    """A lattice of masked pixels, and what replaces them.

    Parameters
    ----------
    coefficients : tuple of int
        A pixel belongs to the phase ``sum(coefficients * index) % phases``.
    phases : int
        Number of shifts of the lattice; each pixel is masked in one of them.
    hidden : tuple of int
        Phases that are replaced together with phase 0, relative to it: the pixel and its structured mask.
    offsets : ndarray of int, (K, ndim)
        Neighbourhood from which a replaced pixel gets its value.
    uniform : bool
        True for a random pixel of the neighbourhood, else its median.
    """

    coefficients: tuple[int, ...]
    phases: int
    hidden: tuple[int, ...]
    offsets: NDArray[np.int64]
    uniform: bool

    @classmethod
    def of(cls, settings: SupervisionSettings, ndim: int) -> Mask:
        """Return the mask of the settings."""
        half = settings.struct_n2v_span // 2
        steps = range(-half, half + 1)
        structured = {
            "none": [(0, 0)],
            "horizontal": [(0, s) for s in steps],
            "vertical": [(s, 0) for s in steps],
            "cross": [(0, s) for s in steps] + [(s, 0) for s in steps if s],
            "square": list(itertools.product(steps, steps)),
        }[settings.struct_n2v_axes]
        phases = max(round(100 / settings.masked_pixel_percentage), _AT_MOST * len(structured), 4)
        coefficients = _lattice(ndim, phases)
        hidden = sorted({(dy * coefficients[-2] + dx * coefficients[-1]) % phases for dy, dx in structured})
        radius = settings.roi_size // 2
        if len(structured) > 1:
            # some pixels of the neighbourhood must lie outside of the structured mask
            radius = max(radius, half + 1)
        around = np.array(list(itertools.product(range(-radius, radius + 1), repeat=ndim)))
        around = around[np.any(around != 0, axis=1)]
        return cls(coefficients, phases, tuple(hidden), around, settings.strategy == "uniform")

    @property
    def radius(self) -> int:
        """Reach of the neighbourhood in pixels."""
        return int(self.offsets.max())

    def phase(self, box: Sequence[slice]) -> NDArray[np.int64]:
        """Return the phase of each pixel of a box."""
        total: Any = 0
        for axis, (part, c) in enumerate(zip(box, self.coefficients, strict=True)):
            line = np.arange(part.start, part.stop) * c
            total = total + line.reshape(-1, *(1,) * (len(box) - 1 - axis))
        return np.asarray(total % self.phases)

    def replaced(self, phase: NDArray[np.int64], number: int) -> NDArray[np.bool_]:
        """Return the pixels that are replaced when the pixels of a phase are masked."""
        table = np.zeros(self.phases, bool)
        table[[(number + h) % self.phases for h in self.hidden]] = True
        return table[phase]

    def fill(
        self,
        values: NDArray[np.float32],
        replaced: NDArray[np.bool_],
        known: NDArray[np.bool_],
        draw: NDArray[np.float64] | None,
    ) -> NDArray[np.float32]:
        """Return values (C, *box) with replaced pixels filled from their neighbourhood.

        Parameters
        ----------
        values : ndarray of float32, (C, *box)
        replaced : ndarray of bool, (*box)
        known : ndarray of bool, (*box)
            False where a value is not to be used.
        draw : ndarray of float, (*box), optional
            Uniform random numbers, to choose a pixel; the median is taken without them.
        """
        out = np.array(values)
        pad = [(self.radius, self.radius)] * replaced.ndim
        usable = np.pad(known & ~replaced, pad)
        padded = np.pad(values, [(0, 0), *pad])
        strides = np.array([int(np.prod(usable.shape[a + 1 :])) for a in range(usable.ndim)])
        near = self.offsets @ strides
        flat, good = padded.reshape(len(values), -1), usable.ravel()
        place = np.argwhere(replaced)
        for start in range(0, len(place), _PIXELS):
            here = place[start : start + _PIXELS]
            index = ((here + self.radius) @ strides)[:, None] + near
            fine = good[index]
            count = fine.sum(1)
            if draw is None:
                found = np.sort(np.where(fine, flat[:, index], np.inf), axis=2)
                middle = np.maximum(count - 1, 0)
                ranks = np.stack([middle // 2, (middle + 1) // 2], 1)
                made = np.take_along_axis(found, ranks[None].repeat(len(values), 0), 2).mean(2)
            else:
                chosen = np.minimum((draw[tuple(here.T)] * count).astype(np.int64), np.maximum(count - 1, 0))
                order = np.argsort(~fine, axis=1, kind="stable")
                column = np.take_along_axis(order, chosen[:, None], 1)
                made = flat[:, np.take_along_axis(index, column, 1)[:, 0]]
            out[(slice(None), *here.T)] = np.where(count > 0, made, 0.0)
        return out


@lru_cache(maxsize=32)
def _lattice(ndim: int, phases: int) -> tuple[int, ...]:
    """Return coefficients of a lattice whose points of one phase lie as far apart as possible."""
    reach = int(np.ceil(phases ** (1 / ndim))) + 1
    vectors = np.array(list(itertools.product(range(-reach, reach + 1), repeat=ndim)))
    vectors = vectors[np.any(vectors != 0, axis=1)]
    length = (vectors**2).sum(1)
    # a step along x is one phase, so that no neighbour along x has the same one
    choices = np.array(list(itertools.product(range(1, phases), repeat=ndim - 1)))
    best, chosen = -1.0, choices[0]
    for some in np.array_split(choices, max(len(choices) // 256, 1)):
        same = (vectors[:, :-1] @ some.T + vectors[:, -1:]) % phases == 0
        nearest = np.where(same, length[:, None], np.inf).min(0)
        if nearest.max() > best:
            best, chosen = float(nearest.max()), some[int(nearest.argmax())]
    return (*(int(c) for c in chosen), 1)


class _Blind(View):
    """A noisy image of which each pixel is predicted while it is masked.

    Parameters
    ----------
    source : View
        The noisy image, which `read` returns.
    mask : Mask
    seed : int
        Seed of random replacements.
    """

    def __init__(self, source: View, mask: Mask, seed: int = 0) -> None:
        super().__init__(source.array, source.axes)
        self._source, self.mask, self._seed = source, mask, seed
        self.n_scenes = source.n_scenes

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one scene of the noisy image, or a box of it, as float32 (C, *space)."""
        return self._source.read(scene, box)

    @property
    def own_looks(self) -> tuple[Look, ...]:
        """The image with the pixels of each phase masked, which are those that are predicted."""
        return tuple(
            Look(_Masked(self._source, self.mask, number, self._seed), partial(self._weight, number))
            for number in range(self.mask.phases)
        )

    def _weight(self, number: int, scene: int, box: Sequence[slice]) -> NDArray[np.float32]:
        """Return 1 for the pixels of a phase, else 0."""
        del scene
        return np.asarray(self.mask.phase(box) == number, np.float32)


class _Masked(View):
    """A noisy image with the pixels of one phase replaced."""

    def __init__(self, source: View, mask: Mask, number: int, seed: int) -> None:
        super().__init__(source.array, source.axes)
        self._source, self._mask, self._number, self._seed = source, mask, number, seed

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one scene, or a box of it, as float32 (C, *space); not finite values are zero."""
        box = tuple(slice(0, n) for n in self.space) if box is None else box
        # the same replacements in any tile need the neighbourhood of the tile
        r = self._mask.radius
        wide = tuple(
            slice(max(s.start - r, 0), min(s.stop + r, n)) for s, n in zip(box, self.space, strict=True)
        )
        values = self._source.read(scene, wide)
        known = np.isfinite(values).all(0)
        draw = pixel_uniform(wide, self._seed, scene, self._number) if self._mask.uniform else None
        replaced = self._mask.replaced(self._mask.phase(wide), self._number)
        inner = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True))
        # pixels in the margin are seen, but need not be replaced
        own = np.zeros_like(known)
        own[inner] = True
        made = self._mask.fill(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), replaced & own,
                               known & ~replaced, draw)  # fmt: skip
        return made[(slice(None), *inner)]


class _Noise2Void(PairSupervision):
    """Learning of masked pixels from their surroundings, as a `Supervision`.

    References
    ----------
    Krull, Buchholz, Jug, "Noise2Void", CVPR 2019, arXiv 1811.10980; Broaddus et al., ISBI 2020, for structured
    masks; Batson & Royer, "Noise2Self", ICML 2019, arXiv 1901.11365, for predictions of masked pixels.
    """

    name = "noise2void"
    title = "Noisy image alone"
    help = "Noisy images alone, whose noise is independent from pixel to pixel."
    shown: Literal["median", "mean"] = "mean"
    because = (
        "The networks learn to fill masked pixels of the noisy image; its noise must be independent from "
        "pixel to pixel."
    )
    rank, alone, windows, blind = 3, True, False, True
    _clean_targets = False

    def scenes(self, pair: Pair, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> Scenes:
        """Return the noisy image as its own target; raise ``ValueError`` if a clean one came too."""
        if pair.clean is not None:
            raise ValueError(
                "A clean image came, and noise2void learns from noisy ones alone; leave it out, or use "
                'supervision="pair".'
            )
        base = replace(pair, clean=pair.noisy).views
        blind = _Blind(base.noisy, Mask.of(settings, base.noisy.ndim), seed)
        return replace(base, noisy=blind, own_target=True)

    def check_steps(self, scenes: Scenes, settings: SupervisionSettings = DEFAULT) -> Step[tuple[Note, ...]]:
        """Return a note if the noise is correlated beyond the mask; a step."""
        from napari_btn.core.data.noise_models import NoiseModel

        yield Progress(0, 1, "Measuring the noise")
        if min(scenes.noisy.space[-2:]) < _LEAST_PX:
            return ()
        noise = NoiseModel.fit(scenes.noisy.array, scenes.noisy.axes)
        wanted = fitting_mask(noise, settings)
        if wanted == settings:
            return ()
        length = noise.correlation_px.max(0)
        along = ", ".join(
            f"{n} px along {a}" for a, n in zip(scenes.noisy.space_axes, length, strict=True) if n > 0
        )
        text = (
            f"The noise is correlated over {along}: Noise2Void would take correlated noise for signal. Mask "
            f'neighbours as well: struct_n2v_axes="{wanted.struct_n2v_axes}", '
            f"struct_n2v_span={wanted.struct_n2v_span}."
        )
        return (Note("amber", text),)

    def fitting(self, scenes: Scenes, settings: SupervisionSettings) -> SupervisionSettings:
        """Return settings whose structured mask hides the correlated noise."""
        from napari_btn.core.data.noise_models import NoiseModel

        if min(scenes.noisy.space[-2:]) < _LEAST_PX:
            return settings
        return fitting_mask(NoiseModel.fit(scenes.noisy.array, scenes.noisy.axes), settings)

    def split(
        self,
        scenes: Scenes,
        rf_px: int,
        settings: CalibrationSettings,
        *,
        seed: int,
        regions: NDArray[Any] | None = None,
    ) -> Split:
        """Split like a pair; replaced pixels widen the receptive field by half the neighbourhood."""
        reach = rf_px + scenes.noisy.mask.radius if isinstance(scenes.noisy, _Blind) else rf_px
        return super().split(scenes, reach, settings, seed=seed, regions=regions)

    def lesson_steps(
        self,
        scenes: Scenes,
        boxes: Sequence[Box],
        train: TrainSettings,
        validation: Sequence[Box] = (),
        settings: SupervisionSettings = DEFAULT,
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return patches with masked pixels, which are the only targets; a step."""
        yield from ()
        mask, dither = Mask.of(settings, scenes.noisy.ndim), Dither(scenes, boxes)

        def example(scene: int, crop: Sequence[slice], patch: Patch, rng: np.random.Generator) -> Patch:
            """Return the patch with the pixels of a random phase replaced in the input and known in the target."""
            del scene, crop
            x, y = patch
            phase = mask.phase([slice(0, n) for n in x.shape[1:]])
            number = int(rng.integers(mask.phases))
            replaced = mask.replaced(phase, number)
            known = np.isfinite(y).all(0) & ~replaced
            draw = rng.random(phase.shape) if mask.uniform else None
            seen = mask.fill(x, replaced, known, draw)
            return seen, dither(np.where(phase == number, y, np.nan).astype(np.float32), rng)

        if len(mask.hidden) > 1:
            # turned patches would have noise that is correlated along the other axis
            train = replace(train, augment=False)
        train = within_passes(train, boxes, mask.phases)
        return train, Lesson(scenes, tuple(boxes), tuple(validation), example=example)

    def seen(self, image: View, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> View:
        """Return the image with each pixel predicted while it is masked."""
        return _Blind(image, Mask.of(settings, image.ndim), seed)

    def covers(
        self,
        noise: NDArray[np.floating[Any]] | None,
        channel_names: Sequence[str],
        scenes: Scenes | None = None,
    ) -> tuple[str, tuple[Note, ...]]:
        """Return "masked pixel", and a note on what follows for the clean signal."""
        del noise, channel_names, scenes
        text = (
            "Calibrated on masked noisy pixels: intervals aim to cover the noisy value of a pixel that the networks "
            "did not see, and of a repeat only if noise is independent from pixel to pixel. Where it is correlated, a "
            "repeat lies inside less often than reported here. They promise nothing for the clean signal: on "
            f"simulated fields it lay inside more often, with correlated noise far less often. {AGAINST_NOISY}"
        )
        return "masked pixel", (Note("amber", text),)


def fitting_mask(noise: NoiseModel, settings: SupervisionSettings) -> SupervisionSettings:
    """Return settings whose structured mask hides correlated noise; unchanged if they do already.

    Parameters
    ----------
    noise : NoiseModel
        Measured noise; its correlation lengths along Y and X count.
    settings : SupervisionSettings
    """
    y, x = (int(n) for n in noise.correlation_px[:, -2:].max(0))
    half = settings.struct_n2v_span // 2
    hidden = {
        "none": (0, 0),
        "horizontal": (0, half),
        "vertical": (half, 0),
        "cross": (half, half),
        "square": (half, half),
    }[settings.struct_n2v_axes]
    if y <= hidden[0] and x <= hidden[1]:
        return settings
    axes: Any = "cross" if x and y else "horizontal" if x else "vertical"
    return replace(settings, struct_n2v_axes=axes, struct_n2v_span=min(2 * max(x, y, 1) + 1, 49))


NOISE2VOID = _Noise2Void()
