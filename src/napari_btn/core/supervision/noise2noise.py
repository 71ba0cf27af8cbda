"""Learning from repeats: each noisy image is the target of another one of the same field (Noise2Noise)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import View, middle_of_space
from napari_btn.core.progress import Note, Progress
from napari_btn.core.supervision.dither import Dither
from napari_btn.core.supervision.pair import AGAINST_NOISY, DEFAULT, NOISELESS, PairSupervision
from napari_btn.core.supervision.patches import Lesson, within_passes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, SupervisionSettings, TrainSettings
    from napari_btn.core.supervision.patches import Patch

__all__ = ["NOISE2NOISE"]

_DRIFT_PX, _COMPARED = 0.5, 6  # shift that makes a note; repeats compared with the first one
_QUIETER, _NOISIER = 0.4, 3.0  # noise variance of a second image over that of the first; a repeat has 1
_BLOCK_PX, _CHANGED = 8, 2.0  # side of the means that changes show in; their variance over that of noise
_INSTEAD = 'Of a single image, counts permit "thinning", and pixel-independent noise permits "noise2void".'


class _Partner(View):
    """A view of repeats in which each scene is the next repeat of the same field.

    Parameters
    ----------
    source : View
        The repeats.
    along : str
        "S" or "T".
    """

    def __init__(self, source: View, along: str) -> None:
        super().__init__(source.array, source.axes, "repeats")
        self._source, self._along = source, along
        self.count: int = self.n_frames if along == "T" else self.n_scenes // self.n_frames

    def other(self, scene: int, ahead: int = 1) -> int:
        """Return the number of the scene that lies ``ahead`` repeats after a scene, in a circle."""
        frames: int = self.n_frames
        field, frame = divmod(scene, frames)
        if self._along == "T":
            return field * frames + (frame + ahead) % self.count
        return (field + ahead) % self.count * frames + frame

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return the next repeat, or a box of it, as float32 (C, *space)."""
        return self._source.read(self.other(scene), box)


class _Both(View):
    """A mask of pixels that count in a scene and in its partner."""

    def __init__(self, mask: View, partner: _Partner) -> None:
        super().__init__(mask.array, mask.axes, "valid")
        self._mask, self._partner, self.n_channels = mask, partner, mask.n_channels

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return 1 where a pixel counts in both, (C, *space)."""
        return np.minimum(self._mask.read(scene, box), self._mask.read(self._partner.other(scene), box))


class _Noise2Noise(PairSupervision):
    """Learning of a repeat from another one, as a `Supervision`.

    References
    ----------
    Lehtinen et al., "Noise2Noise", ICML 2018, arXiv 1803.04189.
    """

    name = "noise2noise"
    title = "Noisy repeats"
    help = "Two or more noisy images of the same field: repeats along S or T, or a second image."
    shown: Literal["median", "mean"] = "mean"
    because = (
        "The networks learn to predict one noisy image of the field from another; their noise must be "
        "independent."
    )
    rank, alone, windows = 1, True, False
    _clean_targets = False

    def scenes(self, pair: Pair, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> Scenes:
        """Return repeats and their partners; raise ``ValueError`` if there is only one image."""
        del seed
        if pair.clean is not None:
            return replace(pair.views, names=("The second image", "the first"))
        base = replace(replace(pair, clean=pair.noisy).views, own_target=True)
        along = _axis_of_repeats(base.noisy, settings)
        if along == "T" and settings.frames > 1:
            raise ValueError(
                f"The repeats lie along T, and members were to see {settings.frames} neighbouring frames along T: they "
                'would see their targets. Use "noise2void" with these frames for a series, or frames=1 for repeats.'
            )
        partner = _Partner(base.noisy, along)
        valid = base.valid
        if valid is not None and valid.n_scenes > 1:
            valid = _Both(valid, partner)
        return replace(
            base,
            clean=partner,
            valid=valid,
            shared_field=along == "S",
            names=("The next repeat", "the one before it"),
        )

    def check_steps(self, scenes: Scenes, settings: SupervisionSettings = DEFAULT) -> Step[tuple[Note, ...]]:
        """Return notes on repeats that drift or change, or a second image of other noise; a step.

        Raises
        ------
        ValueError
            If two repeats hold the same values.
        """
        del settings
        if not isinstance(scenes.clean, _Partner):
            yield Progress(0, 1, "Comparing the noise")
            return _unlike_notes(scenes)
        from napari_btn.core.data.registration import registration_shift

        box = middle_of_space(scenes.noisy.space)
        first = scenes.noisy.read_finite(0, box)
        farthest, changed = np.zeros(scenes.noisy.ndim), 0.0
        steps = np.unique(np.linspace(1, scenes.clean.count - 1, _COMPARED).round().astype(int))
        for ahead in steps:
            yield Progress(0, 1, "Comparing the repeats")
            other = scenes.noisy.read_finite(scenes.clean.other(0, int(ahead)), box)
            if np.array_equal(first, other):
                raise ValueError(
                    f"Repeats 1 and {ahead + 1} hold the same values; noise2noise needs repeats with noise of their "
                    "own. Leave copies out."
                )
            if min(first.shape[1:]) >= 32:
                shift = registration_shift(first, other)
                if shift is not None and np.abs(shift).max() > np.abs(farthest).max():
                    farthest = np.asarray(shift)
            changed = max(changed, _change(first, other))
        if np.abs(farthest).max() > _DRIFT_PX:
            axes = scenes.noisy.space_axes
            size = ", ".join(f"{a} {round(s, 1) + 0.0:+.1f}" for a, s in zip(axes, farthest, strict=True))
            text = (
                f"The repeats drift: one must be moved by {size} px to lie on the first. Align them before "
                "training."
            )
            return (Note("amber", text),)
        if changed > _CHANGED:
            text = (
                "The repeats differ by more than independent noise: their field changes, or their noise is correlated. "
                "Targets hold that change, and so do the intervals. Give repeats of a still field."
            )
            return (Note("amber", text),)
        return ()

    def split(
        self,
        scenes: Scenes,
        rf_px: int,
        settings: CalibrationSettings,
        *,
        seed: int,
        regions: NDArray[Any] | None = None,
    ) -> Split:
        """Split in space, alike in all repeats of a field."""
        if isinstance(scenes.clean, _Partner) and settings.split == "time":
            raise ValueError(
                'split is "time", but repeats are each other\'s targets; split them in space with split="auto".'
            )
        return super().split(scenes, rf_px, settings, seed=seed, regions=regions)

    def lesson_steps(
        self,
        scenes: Scenes,
        boxes: Sequence[Box],
        train: TrainSettings,
        validation: Sequence[Box] = (),
        settings: SupervisionSettings = DEFAULT,
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return patches with another repeat as target, drawn at random; a step."""
        del settings
        yield from ()
        partner, dither = scenes.clean, Dither(scenes, boxes)

        def example(scene: int, crop: Sequence[slice], patch: Patch, rng: np.random.Generator) -> Patch:
            """Return the patch with a random partner as target."""
            if not isinstance(partner, _Partner) or partner.count == 2:
                return patch[0], dither(patch[1], rng)
            ahead = int(rng.integers(1, partner.count))
            # the target of the scene before is this scene's own repeat, and so on around the circle
            before = partner.other(scene, ahead - 1)
            return patch[0], dither(scenes.read_clean(before, crop) + _unknown(scenes, scene, crop), rng)

        train = within_passes(train, boxes, partner.count - 1 if isinstance(partner, _Partner) else 1)
        return train, Lesson(scenes, tuple(boxes), tuple(validation), example=example)

    def noise_variance(
        self, observed: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]] | None:
        """Return half the variance of the differences of two repeats, (C,); None if their scales differ."""
        scales = observed.std(1), target.std(1)
        means = observed.mean(1), target.mean(1)
        alike = np.allclose(*scales, rtol=0.1) and np.allclose(*means, atol=0.1 * float(scales[0].max()))
        return np.asarray((observed - target).var(1) / 2) if alike else None

    def covers(
        self,
        noise: NDArray[np.floating[Any]] | None,
        channel_names: Sequence[str],
        scenes: Scenes | None = None,
    ) -> tuple[str, tuple[Note, ...]]:
        """Return "replicate" and a note; what a pair would cover if a second image with less noise came instead."""
        if scenes is not None and _is_quieter(scenes, noise):
            covers, _ = super().covers(noise, channel_names)
            much = "nearly no noise" if covers == "clean" else "less noise than the first"
            text = (
                f"Calibrated on a second image with {much}: intervals aim to cover "
                f"{'the clean signal' if covers == 'clean' else 'another image like the second'}, and hold a repeat "
                "of the first less often."
            )
            return covers, (Note("amber", text),)
        text = (
            "The targets are repeats with noise of their own: intervals aim to cover another repeat, with noise like "
            "that of the targets (on simulated fields, the clean signal lay inside more often). Look at the mean "
            f"first: skewed noise moves the median. {AGAINST_NOISY}"
        )
        return "replicate", (Note("amber", text),)


def _axis_of_repeats(noisy: View, settings: SupervisionSettings) -> str:
    """Return the axis of the repeats; raise ``ValueError`` if there is none, or if it is unclear."""
    size = dict(zip(noisy.axes, noisy.array.shape, strict=True))
    there = [a for a in "ST" if size.get(a, 1) > 1]
    wanted = settings.repeats.upper()
    if wanted in there:
        return wanted
    if not there or wanted != "AUTO":
        named = f"along {wanted} " if wanted != "AUTO" else ""
        raise ValueError(
            f"Noisy has axes {noisy.axes} {tuple(noisy.array.shape)}, which hold no repeats {named}of the field; "
            f"noise2noise needs two or more, or a second image as clean. {_INSTEAD}"
        )
    if len(there) > 1:
        raise ValueError(
            f"Noisy has axes {noisy.axes} with both S and T; name the axis of the repeats by "
            'SupervisionSettings(repeats="s") or "t".'
        )
    return there[0]


def _is_quieter(scenes: Scenes, noise: NDArray[np.floating[Any]] | None) -> bool:
    """Return True if a second image came that has clearly less noise than the first, so that it is no repeat."""
    from napari_btn.core.data.mismatch import match_of

    if isinstance(scenes.clean, _Partner):
        return False
    match = match_of(scenes)
    if match is None or np.isnan(match.noise):
        return noise is not None and bool(noise.max() < NOISELESS)
    return match.noise < _QUIETER


def _unlike_notes(scenes: Scenes) -> tuple[Note, ...]:
    """Return a note on a second image that is no repeat of the first: red if intervals would be too narrow for one."""
    from napari_btn.core.data.mismatch import match_of

    match = match_of(scenes)
    if match is None or _QUIETER <= match.noise <= _NOISIER:
        return ()
    share = f"{100 * max(match.noise, 0):.0f} %"
    says = (
        f"The second image has about {share} of the noise variance of the first: intervals aim to cover images like "
        "the second, and hold a repeat of the first"
    )
    if match.noise > _NOISIER:
        return (Note("amber", f"{says} more often. Give one as noisy as the first, or exchange the two."),)
    text = f"{says} far less often. Give one as noisy as the first, or learn from it as from a clean image."
    return (Note("red", text),)


def _change(first: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the variance of block means of a difference, over that of independent noise."""
    difference = (other - first).astype(np.float64)
    sides = [min(_BLOCK_PX, n) for n in difference.shape[1:]]
    inner = tuple(slice(0, n // s * s) for n, s in zip(difference.shape[1:], sides, strict=True))
    cut = difference[(slice(None), *inner)]
    shape = [len(cut)]
    for n, s in zip(cut.shape[1:], sides, strict=True):
        shape += [n // s, s]
    blocks = cut.reshape(shape).mean(tuple(range(2, len(shape), 2)))
    if blocks[0].size < 16:
        return 0.0
    ratio = blocks.reshape(len(cut), -1).var(1) * np.prod(sides)
    return float((ratio / np.maximum(cut.reshape(len(cut), -1).var(1), 1e-30)).max())


def _unknown(scenes: Scenes, scene: int, crop: Sequence[slice]) -> NDArray[np.float32] | float:
    """Return NaN where a pixel doesn't count in a scene, else 0, to be added to a target."""
    if scenes.valid is None:
        return 0.0
    return np.where(scenes.read_valid(scene, crop), 0.0, np.nan).astype(np.float32)


NOISE2NOISE = _Noise2Noise()
