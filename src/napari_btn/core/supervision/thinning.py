"""Learning from counts: one random half of the counts of each pixel predicts the other half."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.bits import pixel_bits, pixel_uniform
from napari_btn.core.data.image import Look, View, middle_of_space, names_in_text
from napari_btn.core.progress import Note, Progress
from napari_btn.core.supervision.dither import Dither
from napari_btn.core.supervision.pair import AGAINST_NOISY, DEFAULT, PairSupervision
from napari_btn.core.supervision.patches import Lesson, within_passes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import SupervisionSettings, TrainSettings
    from napari_btn.core.supervision.patches import Patch

__all__ = ["THINNING", "Half"]

_SEED = 20_240  # thinnings for calibration and prediction follow from the pixel, not from the seed of members
_WORDS = 16  # up to 64 * _WORDS counts are thinned count by count
_REFUSED, _DOUBTED = 0.2, 0.1  # departure of the Fano factor from one
_OTHER = 0.1  # share of the values but zero that may be no counts: broken pixels are filled by medians
_ENOUGH_PX = 10_000  # pixels of a single image that show its Fano factor
_AGAIN = 3  # halves drawn again differ, so pixels may be seen more often
_ONES = np.array([bin(n).count("1") for n in range(256)], np.uint8)
_INSTEAD = 'Use "noise2void" if the noise is independent from pixel to pixel, or "noise2noise" with repeats.'


class Half(View):
    """Twice a random half of the counts of an image, or twice the rest.

    Whether a count falls into the half depends on pixel and draw alone, not on the part that is read.

    Parameters
    ----------
    source : View
        Counts.
    draw : int
        Number of the random half.
    rest : bool
        True for the counts that the half leaves.
    """

    def __init__(self, source: View, draw: int = 0, *, rest: bool = False) -> None:
        super().__init__(source.array, source.axes)
        self._source, self._draw, self._rest = source, draw, rest
        self.n_scenes = source.n_scenes

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one scene, or a box of it, as float32 (C, *space); NaN and infinite values stay.

        Raises
        ------
        ValueError
            If more than a tenth of the values other than zero are no counts.
        """
        box = tuple(slice(0, n) for n in self.space) if box is None else box
        counts = self._source.read(scene, box)
        known = np.isfinite(counts)
        other = known & ((counts < 0) | (counts != np.round(counts)))
        if other.sum() > _OTHER * np.count_nonzero(counts[known]):
            raise ValueError(
                f"Values of the image such as {float(counts[other][0]):.4g} are not counts; thinning needs counts: "
                f"whole numbers from 0 up, before scaling, subtraction and a flat field. {_INSTEAD}"
            )
        whole = np.where(known, np.maximum(counts, 0), 0).astype(np.int64)
        half = np.stack([_half(n, box, _SEED, scene, c, self._draw) for c, n in enumerate(whole)])
        made = 2 * (whole - half) if self._rest else 2 * half
        return np.where(known, made, counts).astype(np.float32)


class _Thinned(Half):
    """An image of counts whose prediction is the mean over several random halves."""

    def __init__(self, source: View, thinnings: int) -> None:
        super().__init__(source)
        self._thinnings = thinnings

    @property
    def own_looks(self) -> tuple[Look, ...]:
        """Random halves, with equal weights."""
        return tuple(Look(Half(self._source, draw), self._weight) for draw in range(self._thinnings))

    def _weight(self, scene: int, box: Sequence[slice]) -> NDArray[np.float32]:
        """Return the same weight for all pixels."""
        del scene
        return np.full([part.stop - part.start for part in box], 1 / self._thinnings, np.float32)


class _Thinning(PairSupervision):
    """Learning of one half of the counts from the other, as a `Supervision`.

    References
    ----------
    Neufeld et al., "Data thinning for convolution-closed distributions", JMLR 25 (2024), arXiv 2301.07276.
    """

    name = "thinning"
    title = "Counts alone"
    help = "Images of plain counts (Poisson, gain 1), whose halves are independent."
    shown: Literal["median", "mean"] = "mean"
    because = (
        "The values look like plain counts: the networks learn to predict a random half of them from the other "
        "half."
    )
    rank, alone, windows = 2, True, False
    _clean_targets = False

    def scenes(self, pair: Pair, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> Scenes:
        """Return the two halves of the counts; raise ``ValueError`` if a clean image came too."""
        del settings, seed
        if pair.clean is not None:
            raise ValueError(
                'A clean image came, and thinning learns from counts alone; leave it out, or use supervision="pair".'
            )
        base = replace(pair, clean=pair.noisy).views
        return replace(base, noisy=Half(base.noisy), clean=Half(base.noisy, rest=True), own_target=True)

    def check_steps(self, scenes: Scenes, settings: SupervisionSettings = DEFAULT) -> Step[tuple[Note, ...]]:
        """Return a note if the Fano factor is doubtful; a step.

        Raises
        ------
        ValueError
            If values are no counts, or have a gain.
        """
        del settings
        from napari_btn.core.data.noise_models import NoiseModel

        yield Progress(0, 1, "Measuring the noise")
        source = View(scenes.noisy.array, scenes.noisy.axes)
        box = middle_of_space(source.space)
        for scene in np.unique(np.linspace(0, source.n_scenes - 1, 8).astype(int)).tolist():
            counts = source.read_finite(scene, box)
            _need_counts(counts, scenes.channel_names)
        if min(source.space[-2:]) < 16:
            return ()
        noise = NoiseModel.fit(source.array, source.axes)
        fano = np.where(np.isfinite(noise.fano), noise.fano, 1.0)
        worst = int(np.argmax(np.abs(np.log(np.maximum(fano, 1e-6)))))
        slack = 3 * (noise.fano_se[worst] if np.isfinite(noise.fano_se[worst]) else 0.0)
        name, away = names_in_text(scenes.channel_names, [worst]), abs(fano[worst] - 1)
        # of a single small image, too few flat patches are left for a judgement
        sure = noise.source != "image" or np.prod(source.space) >= _ENOUGH_PX
        if sure and away > max(_REFUSED, slack):
            raise ValueError(
                f"In {name} the variance of the noise is {fano[worst]:.2f} times its mean (the Fano factor), and "
                "thinning needs 1: plain counts, without gain and offset. Divide by the gain if that makes it 1. "
                f"{_INSTEAD}"
            )
        if away > max(_DOUBTED, slack):
            text = (
                f"In {name} the Fano factor seems to be {fano[worst]:.2f}, and thinning needs 1: the halves are "
                f"correlated, and intervals hold {'fewer' if fano[worst] > 1 else 'more'} counts of a repeat than "
                "stated. Check for a gain or an offset."
            )
            return (Note("amber", text),)
        return ()

    def lesson_steps(
        self,
        scenes: Scenes,
        boxes: Sequence[Box],
        train: TrainSettings,
        validation: Sequence[Box] = (),
        settings: SupervisionSettings = DEFAULT,
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return patches whose halves are drawn each time; a step."""
        del settings
        yield from ()
        dither = Dither(scenes, boxes)

        def example(scene: int, crop: Sequence[slice], patch: Patch, rng: np.random.Generator) -> Patch:
            """Return twice a random half of the counts, and twice the rest."""
            del scene, crop
            x, y = patch
            known = np.isfinite(y)
            counts = np.where(known, (x + y) / 2, x).astype(np.int64)
            half = rng.binomial(counts, 0.5)
            rest = np.where(known, 2 * (counts - half), np.nan).astype(np.float32)
            return (2 * half).astype(np.float32), dither(rest, rng)

        train = within_passes(train, boxes, _AGAIN)
        return train, Lesson(scenes, tuple(boxes), tuple(validation), example=example)

    def seen(self, image: View, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> View:
        """Return the image with its prediction averaged over several thinnings."""
        del seed
        return _Thinned(image, settings.thinnings)

    def noise_variance(
        self, observed: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]] | None:
        """Return the variance of twice the counts of a half, (C,): twice their mean."""
        del observed
        return np.asarray(2 * target.mean(1))

    def covers(
        self,
        noise: NDArray[np.floating[Any]] | None,
        channel_names: Sequence[str],
        scenes: Scenes | None = None,
    ) -> tuple[str, tuple[Note, ...]]:
        """Return "thinned counts", and a note on the dose."""
        del noise, channel_names, scenes
        text = (
            "Calibrated on thinned counts: intervals aim to cover twice the counts of a repeat at half the dose; a "
            "repeat at the full dose lies inside more often, and on simulated fields the clean signal did. A "
            "prediction averages several thinnings, and calibration uses one, so intervals may be a little too "
            f"wide in this field. Of few counts they are less exact, and other fields differ. {AGAINST_NOISY}"
        )
        return "thinned counts", (Note("amber", text),)


def _need_counts(counts: NDArray[np.float32], names: Sequence[str]) -> None:
    """Raise ``ValueError`` unless values are plain counts."""
    for c, values in enumerate(counts):
        name = names_in_text(names, [c])
        bad = (values < 0) | (values != np.round(values))
        if bad.any():
            raise ValueError(
                f"Values of {name} such as {float(values[bad][0]):.4g} are not counts; thinning needs counts: "
                f"whole numbers from 0 up, before scaling, subtraction and a flat field. {_INSTEAD}"
            )
        step = int(np.gcd.reduce(values.astype(np.int64).ravel()))
        if step > 1:
            raise ValueError(
                f"All values of {name} are multiples of {step}, a gain; thinning needs plain counts. Divide by {step} "
                "first."
            )


def _half(counts: NDArray[np.int64], box: Sequence[slice], *key: int) -> NDArray[np.int64]:
    """Return a binomial half of the counts (*box)."""
    half, left = np.zeros_like(counts), counts
    for word in range(_WORDS):
        if not left.any():
            return half
        take = np.minimum(left, 64)
        # each of the lowest bits is a coin for one count
        keep = np.where(
            take == 64, np.uint64(2**64 - 1), (np.uint64(1) << (take % 64).astype(np.uint64)) - np.uint64(1)
        )
        bits = np.ascontiguousarray(pixel_bits(box, *key, word) & keep)
        half = half + _ONES[bits.view(np.uint8).reshape(*bits.shape, 8)].sum(-1, dtype=np.int64)
        left = left - take
    if left.any():
        from scipy.special import ndtri

        normal = ndtri(pixel_uniform(box, *key, _WORDS))
        half = half + np.clip(np.round(left / 2 + np.sqrt(left) / 2 * normal), 0, left).astype(np.int64)
    return half


THINNING = _Thinning()
