"""The number of held-out blocks that a training will have, before it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_btn.core.calibration.blocks import Blocks, error_length
from napari_btn.core.calibration.cases import name_of_blocks
from napari_btn.core.data.splits import spread_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.settings import CalibrationSettings

__all__ = ["Forecast", "forecast_blocks"]

_SMOOTH_PX = (0.5, 1.0, 2.0, 4.0)  # Gaussians that stand in for networks; the best one counts
_WIDTH_PX = 16.0  # SD in pixels over which the stand-in's error is averaged to a width
_MISSED = 0.1
_LEAST_PX = 16
_READ = 1_000_000  # pixels of the held-out part that are read


@dataclass(frozen=True)
class Forecast:
    """Held-out blocks that are to be expected.

    Parameters
    ----------
    blocks : int
        Number of blocks, fields or runs of frames.
    side_px : int
        Side of a block in pixels; 0 for fields and runs of frames.
    name : str
        Blocks in words.
    checkerboard : int
        Number of blocks of the same side with a checkerboard split; 0 where it is impossible.
    fewest : int, optional
        Number of blocks if they must be twice as wide; `blocks` by default.
    """

    blocks: int
    side_px: int
    name: str
    checkerboard: int = 0
    fewest: int | None = None

    @property
    def _least(self) -> int:
        """Number of blocks that there are even if errors reach twice as far."""
        return self.blocks if self.fewest is None else self.fewest

    @property
    def better_split(self) -> bool:
        """True if a checkerboard split gives more blocks."""
        return self.checkerboard > self.blocks

    def level(self, alpha: float) -> str:
        """Return "red" if the blocks can't carry the coverage, "amber" if without a guarantee, else "info".

        Parameters
        ----------
        alpha : float
            Miscoverage.
        """
        least, enough = _needed(alpha)
        return "red" if self.blocks < least else "amber" if self._least < enough else "info"

    def note(self, alpha: float) -> tuple[str, str]:
        """Return level and sentence: the blocks, what they permit to promise, and what gives more.

        Parameters
        ----------
        alpha : float
            Miscoverage.
        """
        level, (least, enough), n = self.level(alpha), _needed(alpha), self.blocks
        name, aim = self.name if n != 1 else self.name.replace("s", "", 1), f"{100 * (1 - alpha):.4g} %"
        held = f"Held out: about {n} {name}."
        if self._least < n:
            held = (
                f"Held out: about {n} {name}, or {self._least} twice as wide if errors are correlated over "
                "longer distances."
            )
        more = "Add scenes for more."
        if self.better_split:
            more = (
                f"A checkerboard split gives about {self.checkerboard}; more scenes give more (Add scenes)."
            )
        if level == "red":
            return level, f"{held} That is too few for {aim} (at least {least}): don't rely on it. {more}"
        if level == "amber":
            unsure = f"without a guarantee; a guarantee, even only for others like them, needs {enough}"
            return level, f"{held} {aim} is aimed at on average, {unsure}. {more}"
        return (
            level,
            f"{held} That is enough for {aim} on average over others like them ({enough} are needed).",
        )


def _needed(alpha: float) -> tuple[int, int]:
    """Return the least number of blocks for a coverage at all, and for its guarantee."""
    return math.ceil(1 / alpha - 1 - 1e-9), math.ceil(5 / alpha - 1e-9)


def forecast_blocks(
    scenes: Scenes, split: Split, settings: CalibrationSettings, checkerboard: Split | None = None
) -> Forecast:
    """Return the blocks that a split will have.

    Blocks are as wide as misses reach, which is measured after training. Before it, the best of a few Gaussians
    stands in for the networks: its errors, over their mean size nearby, miss where they are largest.

    Parameters
    ----------
    scenes : Scenes
        Inputs and targets.
    split : Split
        Training and held-out parts.
    settings : CalibrationSettings
    checkerboard : Split, optional
        The same field, split as a checkerboard.
    """
    held = spread_boxes(split.held_out, scenes.noisy.ndim)
    if split.kind != "block":
        fields = {scenes.field_of(box.scene) for box in held}
        return Forecast(len(fields) if split.kind == "field" else len(held), 0, name_of_blocks(0, split.kind))
    side = settings.block_px or max(4 * _reach(scenes, held), _LEAST_PX)
    other = 0 if checkerboard is None else _count(scenes, checkerboard.held_out, side)
    fewest = None if settings.block_px else _count(scenes, held, 2 * side)
    return Forecast(_count(scenes, held, side), side, name_of_blocks(side), other, fewest)


def _count(scenes: Scenes, boxes: Sequence[Box], side: int) -> int:
    """Return the number of blocks of a side in some boxes."""
    field = np.zeros(scenes.noisy.space, bool)
    for box in boxes:
        counts = True if scenes.valid is None else scenes.read_valid(box.scene, box.slices).all(0)
        field[box.slices] |= counts
    return int(Blocks.of(field, side).numbers.max()) + 1 if field.any() else 0


def _reach(scenes: Scenes, boxes: Sequence[Box]) -> int:
    """Return how far misses of the stand-in reach, in pixels."""
    lengths, read = [1], 0
    for box in boxes:
        if read and read + box.size > _READ:
            break
        read += box.size
        noisy, clean = scenes.read_noisy(box.scene, box.slices), scenes.read_clean(box.scene, box.slices)
        for c, target in enumerate(clean):
            lengths.append(_reach_of(noisy[min(c, len(noisy) - 1)], target))
    return max(lengths)


def _reach_of(noisy: NDArray[Any], target: NDArray[Any]) -> int:
    """Return how far misses of the best Gaussian reach in one channel, in pixels."""
    known = np.isfinite(noisy) & np.isfinite(target)
    if np.count_nonzero(known) < 64:
        return 1
    noisy, target = (np.where(known, v, v[known].mean()).astype(np.float64) for v in (noisy, target))
    errors = []
    for sigma in _SMOOTH_PX:
        smooth = ndimage.gaussian_filter(noisy, sigma)
        slope, offset = np.polyfit(smooth[known], target[known], 1) if np.ptp(smooth) else (0.0, 0.0)
        errors.append(target - slope * smooth - offset)
    error = min(errors, key=lambda e: float(np.square(e[known]).mean()))
    width = np.sqrt(ndimage.gaussian_filter(np.square(error), _WIDTH_PX)) + np.finfo(np.float64).tiny
    size = np.abs(error) / width
    return error_length(known & (size > np.quantile(size[known], 1 - _MISSED)), valid=known)
