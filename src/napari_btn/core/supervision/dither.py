"""Dither of whole numbers: quantiles of few counts are steps, which a network learns badly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes

__all__ = ["Dither"]

_COARSE = 8.0  # standard deviation in steps beyond which steps don't matter


class Dither:
    """Uniform noise of one step that is added to targets which are whole numbers of steps.

    It keeps the mean of the targets, and makes their quantiles continuous. Intervals are calibrated without it.

    Parameters
    ----------
    scenes : Scenes
        Inputs and targets.
    boxes : sequence of Box
        Training part.

    References
    ----------
    Machado & Santos Silva, "Quantiles for counts", J. Am. Stat. Assoc. 100 (2005) 1226.
    """

    def __init__(self, scenes: Scenes, boxes: Sequence[Box]) -> None:
        _, targets = scenes.sample(boxes, np.random.default_rng(0))
        self.steps = np.array([_step(row[np.isfinite(row)]) for row in targets], np.float32)

    def __call__(self, target: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Return a target (C, *patch) with the noise added; unchanged if its steps are fine."""
        if not self.steps.any():
            return target
        noise = rng.random(target.shape, dtype=np.float32) - np.float32(0.5)
        return target + self.steps.reshape(-1, *(1,) * (target.ndim - 1)) * noise


def _step(values: NDArray[np.float32]) -> float:
    """Return the step of whole numbers; 0 if values are no whole numbers, or many steps apart."""
    if not values.size or (values != np.round(values)).any():
        return 0.0
    step = float(np.gcd.reduce(np.abs(values).astype(np.int64)))
    return step if step > 0 and values.std() < _COARSE * step else 0.0
