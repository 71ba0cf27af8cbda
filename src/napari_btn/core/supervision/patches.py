"""Training patches: their size, their number in a step, and the draw."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.settings import TrainSettings

    Patch = tuple[NDArray[np.float32], NDArray[np.float32]]
    Redraw = Callable[[int, Sequence[slice], Patch, np.random.Generator], Patch]
    Example = Callable[[int, Sequence[slice], Patch, np.random.Generator], Patch]

__all__ = ["Lesson", "patch_sides", "patches_for", "step_bytes", "within_passes"]

# By the number of space axes: least and largest side, usual number of patches in a step at the least side,
# and the fewest. The presets were measured with the usual numbers.
_SIDES = {2: (64, 128), 3: (32, 48)}
_USUAL = {2: 4, 3: 2}
_FEWEST = {2: 2, 3: 1}
_MOST = 16
_TRIES = 100  # most draws of a patch until it holds a pixel that counts
_SEEN = 4 / 3  # side of a patch in receptive fields; in smaller ones nearly all pixels are close to a border
_STEP_BYTES = 2**29
_FEWEST_STEPS = 100  # training steps for an image of any size


def step_bytes(blueprint: Blueprint, pixels: int) -> int:
    """Return the memory of one training step of a member in bytes, to a factor of about two.

    Parameters
    ----------
    blueprint : Blueprint
    pixels : int
        Pixels of all patches of the step.
    """
    outputs = blueprint.n_out * len(blueprint.levels)
    # trunk; hidden layer; loss
    floats = blueprint.family.floats(blueprint) + 4 * blueprint.settings.head_units + 10 * outputs
    return 4 * pixels * floats


def patches_for(train: TrainSettings, blueprint: Blueprint, boxes: Sequence[Box]) -> TrainSettings:
    """Return the settings with ``patch_px`` and ``batch_size`` chosen if they are None.

    The side of a patch is 64 px (32 in a volume), or four thirds of the receptive field if that is more,
    in multiples of 16 px up to 128 (48). A step takes 4 patches of 64 x 64 px (2 of 32 x 32 x 32). With
    patches of another size it takes about as many pixels: fewer large patches, or more small ones from a
    narrow image, up to 16. More patches are taken only while training shows no pixel more than
    ``train.passes`` times. Fewer are taken if a step would need more than half a gigabyte.

    Parameters
    ----------
    train : TrainSettings
        Given numbers are kept, except that a volume has at most 2 patches of 32 px.
    blueprint : Blueprint
    boxes : sequence of Box
        Training part.
    """
    ndim = blueprint.ndim
    least, largest = _SIDES[ndim]
    side = train.patch_px
    if side is None:
        wanted = 16 * math.ceil(_SEEN * blueprint.receptive_field / 16)
        side = min(max(wanted, least), largest)
    elif ndim == 3:
        side = min(side, least)
    count = train.batch_size
    if count is None:
        count = _count(train, blueprint, boxes, math.prod(patch_sides(side, boxes)))
    elif ndim == 3:
        count = min(count, _USUAL[ndim])
    return replace(train, patch_px=side, batch_size=count)


def _count(train: TrainSettings, blueprint: Blueprint, boxes: Sequence[Box], pixels: int) -> int:
    """Return the number of patches in a step, of ``pixels`` each."""
    usual, side = _USUAL[blueprint.ndim], _SIDES[blueprint.ndim][0]
    count = max(round(usual * math.prod([side] * blueprint.ndim) / pixels), _FEWEST[blueprint.ndim])
    if count > usual:
        # with few training pixels, more steps help more than more patches
        shown = int(train.passes * sum(box.size for box in boxes) / (train.steps * pixels))
        # a user who asks for small patches wants small steps
        most = _MOST if train.patch_px is None else usual
        count = max(usual, min(count, shown, most))
    return max(min(count, _STEP_BYTES // step_bytes(blueprint, pixels)), 1)


def patch_sides(side: int, boxes: Sequence[Box]) -> tuple[int, ...]:
    """Return the sides of a patch in pixels along each space axis, cut to the smallest box.

    Parameters
    ----------
    side : int
        Wanted side in pixels.
    boxes : sequence of Box
        Training part.
    """
    return tuple(min(side, *lengths) for lengths in zip(*(box.shape for box in boxes), strict=True))


def within_passes(train: TrainSettings, boxes: Sequence[Box], factor: float = 1.0) -> TrainSettings:
    """Return the settings with fewer steps if members would see pixels too often.

    Parameters
    ----------
    train : TrainSettings
        Settings with patch size and number chosen.
    boxes : sequence of Box
        Training part.
    factor : float
        How many times more often than ``train.passes`` a pixel may be seen, because its noise changes.
    """
    count, side = train.patches
    batch = count * math.prod(patch_sides(side, boxes))
    allowed = max(round(factor * train.passes * sum(box.size for box in boxes) / batch), _FEWEST_STEPS)
    return replace(train, steps=min(train.steps, allowed))


@dataclass(frozen=True, eq=False)
class Lesson:
    """The training data of members: images, their training part, and the draw of patches.

    Parameters
    ----------
    scenes : Scenes
        Inputs and targets; NaN targets have no weight in the loss.
    boxes : tuple of Box
        Training part.
    validation : tuple of Box
        Part that early stopping validates on; empty for no early stopping.
    redraw : callable, optional
        Returns a patch, given the number of its box, its crop, its input and target, and a generator.
        Applied only if patches are augmented.
    example : callable, optional
        Returns input and target of a patch, given the number of its scene, its crop, its values in both
        images, and a generator. Always applied: it makes the task that members learn.
    """

    scenes: Scenes
    boxes: tuple[Box, ...]
    validation: tuple[Box, ...] = ()
    redraw: Redraw | None = None
    example: Example | None = None

    def draw(
        self,
        count: int,
        patch_px: int,
        rng: np.random.Generator,
        *,
        augment: bool = False,
        boxes: Sequence[Box] = (),
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw random patches, (count, C, *patch) input and target.

        All patches of a batch have one shape: ``patch_px`` a side, cut to the smallest box. Boxes are
        drawn in proportion to their size; a patch without a pixel that counts is drawn again.
        Inputs of a series have the channels of neighbouring frames as well.

        Parameters
        ----------
        count : int
            Patches of the batch.
        patch_px : int
            Side in pixels.
        rng : numpy.random.Generator
        augment : bool
            Flip and turn input and target alike, and apply ``redraw``.
        boxes : sequence of Box
            Boxes to draw from; the training part by default.
        """
        boxes, scenes = boxes or self.boxes, self.scenes
        sides = patch_sides(patch_px, boxes)
        odds = np.array([b.size for b in boxes], float)
        inputs, targets = [], []
        for index in rng.choice(len(boxes), size=count, p=odds / odds.sum()):
            for _ in range(_TRIES):
                crop = boxes[index].crop(sides, rng)
                x, y = (read(boxes[index].scene, crop) for read in (scenes.read_noisy, scenes.read_clean))
                if self.redraw is not None and augment:
                    x, y = self.redraw(int(index), crop, (x, y), rng)
                if self.example is not None:
                    x, y = self.example(boxes[index].scene, crop, (x, y), rng)
                if scenes.valid is None or np.isfinite(y).any():
                    break
            if scenes.noisy.series is not None:
                x = np.nan_to_num(scenes.noisy.series.around(x, boxes[index].scene, crop))
            if augment:
                x, y = _turned(x, y, rng)
            inputs.append(x)
            targets.append(y)
        return np.stack(inputs), np.stack(targets)


def _turned(
    x: NDArray[np.float32], y: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flip along random axes, and swap the last two where the patch is square."""
    flips = tuple(a for a in range(1, x.ndim) if rng.random() < 0.5)
    x, y = np.flip(x, flips), np.flip(y, flips)
    if rng.random() < 0.5 and x.shape[-1] == x.shape[-2]:
        x, y = x.swapaxes(-1, -2), y.swapaxes(-1, -2)
    return x, y
