"""Previews of the median during training."""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.compute.pool import process_pool
from napari_btn.core.training.tasks import median_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.training.processes import Run, Trainer

__all__ = ["Preview"]

_PIXELS, _SHARE = 262_144, 0.03  # most pixels of a preview; share of the time of workers for previews


def _middle_of(space: Sequence[int], pixels: int) -> tuple[slice, ...]:
    """Return the middle part of an image of at most ``pixels`` pixels, whole along short sides."""
    sides, left, rest = list(space), pixels, len(space)
    for axis in sorted(range(len(space)), key=lambda a: space[a]):
        # a rounded root may be slightly below a whole number
        sides[axis] = max(min(space[axis], int(left ** (1 / rest) + 1e-9)), 1)
        left, rest = left // sides[axis], rest - 1
    return tuple(slice((n - side) // 2, (n - side) // 2 + side) for n, side in zip(space, sides, strict=True))


class Preview:
    """Previews of the median of the middle of the first scene, every few seconds.

    Parameters
    ----------
    scenes : Scenes
    blueprint : Blueprint
    every : float
        Least seconds between previews; 0 for none.
    workers : int
        Number of tasks that run in parallel.
    device : str
        Name of the device in torch.
    """

    def __init__(
        self, scenes: Scenes, blueprint: Blueprint, every: float, workers: int = 1, device: str = "cpu"
    ) -> None:
        self.workers, self.device = workers, device
        box = _middle_of(scenes.noisy.space, _PIXELS)
        self.offset = tuple(s.start for s in box)
        self.every = self.least = every
        self.blueprint = blueprint
        self.x = scenes.noisy.widened.read_finite(0, box) if every > 0 else None
        self.last = time.monotonic() - every
        self.medians: dict[int, NDArray[np.float32]] = {}
        self.task: tuple[int, Future[Any]] | None = None

    @property
    def due(self) -> bool:
        """True if it is time for the next preview."""
        waited = time.monotonic() - self.last >= self.every
        return self.x is not None and self.task is None and waited

    def make(self, trainer: Trainer, running: Sequence[Run]) -> NDArray[np.float32] | None:
        """Return a new preview if one is ready, and submit the next one if it is due."""
        if self.x is None:
            return None
        ready = None
        if self.task is not None and self.task[1].done():
            member, task = self.task
            self.task = None
            if not task.cancelled() and task.exception() is None:
                self.medians[member], seconds = task.result()
                self.every = max(self.least, seconds / (_SHARE * self.workers))
                shown = [self.medians[m] for m in sorted(self.medians)]
                ready = np.asarray(np.mean(shown, axis=0), np.float32)
        started = [
            r.state for r in running if r.state is not None and (r.state.step > 0 or r.member in trainer.warm)
        ]
        if self.due and started:
            if trainer.executor is None:
                trainer.executor = process_pool()
            self.last = time.monotonic()
            state = max(started, key=lambda s: s.step)
            with suppress(BrokenExecutor):  # the trainer replaces the pool
                self.task = (
                    state.member,
                    trainer.executor.submit(median_of, self.blueprint, state, self.x, self.device),
                )
        return ready
