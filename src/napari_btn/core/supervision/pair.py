"""Supervised training on pairs: a noisy image and a clean one of the same scene (CARE)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.splits import split
from napari_btn.core.progress import Note
from napari_btn.core.supervision.patches import Lesson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, TrainSettings

__all__ = ["PAIR", "PairSupervision"]

_NOISELESS, _NOISY = 0.01, 0.1  # noise of the target as a share of the residual variance


class PairSupervision:
    """Supervised learning of the clean image from the noisy one, as a `Supervision`.

    References
    ----------
    Weigert et al., "Content-aware image restoration", Nature Methods 15 (2018) 1090.
    """

    name = "pair"
    title = "Clean image"
    help = "A noisy and a clean image of the same scene."

    def scenes(self, pair: Pair) -> Scenes:
        """Return noisy and clean; raise ``ValueError`` if clean is missing or does not fit."""
        return pair.views

    def split(
        self,
        scenes: Scenes,
        rf_px: int,
        settings: CalibrationSettings,
        *,
        seed: int,
        regions: NDArray[Any] | None = None,
    ) -> Split:
        """Split by scene, or one field with a guard gap, by `data.splits.split`; with notes on a wrong pair."""
        from napari_btn.core.data.mismatch import mismatch_notes

        parts = split(scenes, rf_px, settings, seed=seed, regions=regions)
        return replace(parts, notes=(*mismatch_notes(scenes), *parts.notes))

    def lesson_steps(
        self, scenes: Scenes, boxes: Sequence[Box], train: TrainSettings, validation: Sequence[Box] = ()
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return noisy and clean patches, and settings with fewer steps if the image is small; a step."""
        # scipy, which takes a while to load, is not needed to list the ways of learning
        from napari_btn.core.supervision.redraw import against_overfitting

        settings, redraw = yield from against_overfitting(scenes, boxes, train)
        patch = None if redraw is None else redraw.patch
        return settings, Lesson(scenes, tuple(boxes), tuple(validation), patch)

    def covers(
        self, noise: NDArray[np.floating[Any]] | None, channel_names: Sequence[str]
    ) -> tuple[str, tuple[Note, ...]]:
        """Return "clean", or "long exposure" and a note if the target is noisy itself."""
        if noise is None or noise.max() < _NOISELESS:
            return "clean", ()
        worst = int(np.argmax(noise))
        if noise[worst] <= _NOISY:
            return "long exposure", ()
        text = (
            f"The target is noisy itself (in {channel_names[worst]} its noise makes {noise[worst]:.0%} of the residual "
            "variance): intervals cover another long exposure, and cover the clean signal more often than stated."
        )
        return "long exposure", (Note("amber", text),)


PAIR = PairSupervision()
