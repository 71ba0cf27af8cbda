"""Supervised training on pairs: a noisy image and a clean one of the same scene (CARE)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import names_in_text
from napari_btn.core.data.splits import split
from napari_btn.core.progress import Note
from napari_btn.core.settings import SupervisionSettings
from napari_btn.core.supervision.patches import Lesson, within_passes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box, View
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, TrainSettings

__all__ = ["AGAINST_NOISY", "DEFAULT", "NOISELESS", "PAIR", "PairSupervision"]

NOISELESS = 0.01
"""Noise of a target as a share of the residual variance, under which it counts as clean."""
_NOISY = 0.1  # the same, over which a note says that the target is noisy

AGAINST_NOISY = "Correlation, PSNR and errors of the report are against such noisy values, not a clean image."
"""Sentence on the figures of a report whose targets are noisy."""

DEFAULT = SupervisionSettings()
"""Settings of a supervision that has none of its own."""


class PairSupervision:
    """Supervised learning of the clean image from the noisy one, as a `Supervision`.

    Other supervisions inherit what they have in common with it.

    References
    ----------
    Weigert et al., "Content-aware image restoration", Nature Methods 15 (2018) 1090.
    """

    name = "pair"
    title = "Clean image"
    help = "A noisy and a clean image of the same scene."
    shown: Literal["median", "mean"] = "median"
    because = "A clean image is the best target."
    rank, alone, windows, blind, simulated = 0, False, True, False, False
    _clean_targets = True

    def scenes(self, pair: Pair, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> Scenes:
        """Return noisy and clean; raise ``ValueError`` if clean is missing or does not fit."""
        del settings, seed
        return pair.views

    def check_steps(self, scenes: Scenes, settings: SupervisionSettings = DEFAULT) -> Step[tuple[Note, ...]]:
        """Return no notes: any two images will do; a step."""
        del scenes, settings
        yield from ()
        return ()

    def fitting(self, scenes: Scenes, settings: SupervisionSettings) -> SupervisionSettings:
        """Return the settings: none of them depends on the noise."""
        del scenes
        return settings

    def split(
        self,
        scenes: Scenes,
        rf_px: int,
        settings: CalibrationSettings,
        *,
        seed: int,
        regions: NDArray[Any] | None = None,
    ) -> Split:
        """Split by scene, or one field with a guard gap, by `data.splits.split`; with notes on wrong images."""
        from napari_btn.core.data.mismatch import mismatch_notes, same_field_notes

        parts = split(scenes, rf_px, settings, seed=seed, regions=regions)
        wrong = mismatch_notes(scenes, clean=self._clean_targets)
        return replace(parts, notes=(*wrong, *same_field_notes(scenes), *parts.notes))

    def lesson_steps(
        self,
        scenes: Scenes,
        boxes: Sequence[Box],
        train: TrainSettings,
        validation: Sequence[Box] = (),
        settings: SupervisionSettings = DEFAULT,
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return noisy and clean patches, and settings with fewer steps if the image is small; a step."""
        # scipy, which takes a while to load, is not needed to list the ways of learning
        from napari_btn.core.supervision.redraw import against_overfitting_steps

        del settings
        if scenes.noisy.series is not None:
            # noise of single pixels can't be drawn again in frames that move
            return within_passes(train, boxes), Lesson(scenes, tuple(boxes), tuple(validation))
        train, redraw = yield from against_overfitting_steps(scenes, boxes, train)
        patch = None if redraw is None else redraw.patch
        return train, Lesson(scenes, tuple(boxes), tuple(validation), patch)

    def seen(self, image: View, settings: SupervisionSettings = DEFAULT, *, seed: int = 0) -> View:
        """Return the image itself."""
        del settings, seed
        return image

    def noise_variance(
        self, observed: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]] | None:
        """Return None: the noise of the target must be estimated from its detail."""
        del observed, target
        return None

    def covers(
        self,
        noise: NDArray[np.floating[Any]] | None,
        channel_names: Sequence[str],
        scenes: Scenes | None = None,
    ) -> tuple[str, tuple[Note, ...]]:
        """Return "clean", or "long exposure" and a note if the target is noisy itself."""
        del scenes
        if noise is None or noise.max() < NOISELESS:
            return "clean", ()
        worst = int(np.argmax(noise))
        if noise[worst] <= _NOISY:
            return "long exposure", ()
        text = (
            f"The target is noisy itself (in {names_in_text(channel_names, [worst])} its noise makes "
            f"{100 * noise[worst]:.0f} % of the residual variance): intervals aim to cover another long exposure "
            f"(on simulated fields, the clean signal lay inside more often). {AGAINST_NOISY}"
        )
        return "long exposure", (Note("amber", text),)


PAIR = PairSupervision()
