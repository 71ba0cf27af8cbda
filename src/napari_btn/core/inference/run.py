"""Prediction of an ensemble over tiles; members are averaged one by one, without keeping any."""

from __future__ import annotations

from collections import deque
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.device import exact_arithmetic, in_memory, release
from napari_btn.core.compute.pool import (
    Compute,
    Inline,
    StopSign,
    WorkerDiedError,
    one_thread,
    process_pool,
    slots,
)
from napari_btn.core.inference.tiles import Tile, plan_tiles, tile_strides
from napari_btn.core.networks.family import Blueprint, Member, Networks, build_trained
from napari_btn.core.progress import Note, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box, Look, View
    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.settings import TileSettings

__all__ = [
    "TileQuantiles",
    "loaded",
    "tile_quantiles",
    "tile_strides_of",
]

# Input pixels of a tile: a third of a second for a member, and little memory. Tiles of volumes take a few
# seconds, because smaller ones would compute mostly halo.
_TILE_PIXELS = {2: 384**2, 3: 128**3}
# Pixels times members below which starting processes costs more than it saves.
INLINE_WORK = {2: 1_500_000, 3: 200_000}


@dataclass(frozen=True, eq=False)
class TileQuantiles:
    """The quantiles of one tile, averaged over members.

    Parameters
    ----------
    scene : int
        Number of the scene.
    write : tuple of slice
        Slices of the tile in the image, over the space axes.
    quantiles : ndarray of float32, (L, C, *tile)
    spread : ndarray of float32, (C, *tile)
        Standard deviation of the medians of the members.
    """

    scene: int
    write: tuple[slice, ...]
    quantiles: NDArray[np.float32]
    spread: NDArray[np.float32]


def tile_side(settings: TileSettings, halo: int, ndim: int, pixels: int | None = None) -> int:
    """Return the side of a tile in pixels, halo included.

    Parameters
    ----------
    settings : TileSettings
    halo : int
        Discarded margin in pixels.
    ndim : int
        Number of space axes.
    pixels : int, optional
        Pixels of a tile; by default a size that suits predictions.
    """
    # a tile keeps at least a third of its side, or nearly all work would be halo
    return max(settings.tile_px or round((pixels or _TILE_PIXELS[ndim]) ** (1 / ndim)), 3 * halo)


def tile_strides_of(blueprint: Blueprint, space: Sequence[int], settings: TileSettings) -> tuple[int, ...]:
    """Return the distance in pixels of the tiles of a prediction along each space axis.

    Parameters
    ----------
    blueprint : Blueprint
    space : sequence of int
        Spatial shape of the image.
    settings : TileSettings
    """
    halo = _halo(blueprint, settings)
    side = tile_side(settings, max(halo), len(space))
    return tile_strides(space, side, halo, blueprint.alignment_px)


def _halo(blueprint: Blueprint, settings: TileSettings) -> tuple[int, ...]:
    """Return the discarded margin along each space axis."""
    return blueprint.reach if settings.halo_px is None else (settings.halo_px,) * blueprint.ndim


def loaded(blueprint: Blueprint, member: Member, device: str = "cpu") -> Ensemble:
    """Return a trained member as a module on a device.

    Parameters
    ----------
    blueprint : Blueprint
    member : Member
    device : str
        Name of the device in torch.

    Raises
    ------
    ValueError
        If the weights don't fit the blueprint.
    """
    return build_trained(blueprint, member.number, member.attempt, member.weights).to(device)


def _quantiles_of(
    module: Ensemble, x: NDArray[np.float32], keep: tuple[slice, ...], device: str
) -> NDArray[np.float32]:
    """Return the quantiles (L, C, *kept) of a tile (C, *space) from a module of one member."""
    with one_thread(), torch.inference_mode(), exact_arithmetic():
        q = module(torch.from_numpy(np.array(x[None], order="C")).to(device), keep)[0, 0]
        return np.ascontiguousarray(q.transpose(0, 1).cpu().numpy())


def _member_quantiles(
    blueprint: Blueprint,
    member: Member,
    x: NDArray[np.float32],
    keep: tuple[slice, ...],
    stop: StopSign | None = None,
) -> NDArray[np.float32]:
    """Return the quantiles (L, C, *kept) of one member for a tile (C, *space); a task."""
    with one_thread():
        module = loaded(blueprint, member)
        if stop is not None:
            # between layers, because a tile of a volume takes seconds
            module.between = stop.look
        return _quantiles_of(module, x, keep, "cpu")


class _Card:
    """The members on a graphics card, each loaded once, and a record of missing memory."""

    def __init__(self, blueprint: Blueprint, device: str) -> None:
        self.blueprint, self.device = blueprint, device
        self.modules: dict[int, Ensemble] = {}
        self.lacked = False

    def quantiles(
        self, member: Member, x: NDArray[np.float32], keep: tuple[slice, ...]
    ) -> NDArray[np.float32]:
        """Return the quantiles (L, C, *kept) of one member for a tile (C, *space)."""

        def task(x: NDArray[np.float32], keep: tuple[slice, ...], device: str) -> NDArray[np.float32]:
            """Predict the kept part on a device."""
            if device == "cpu" != self.device:
                return _member_quantiles(self.blueprint, member, x, keep)
            if member.number not in self.modules:
                self.modules[member.number] = loaded(self.blueprint, member, device)
            return _quantiles_of(self.modules[member.number], x, keep, device)

        aligned = self.blueprint.alignment_px
        made, whole = in_memory(task, x, keep, self.blueprint.reach, self.device, aligned)
        self.lacked |= not whole
        return made

    def notes(self) -> tuple[Note, ...]:
        """Return notes for the user."""
        if not self.lacked:
            return ()
        text = f"{self.device} had too little free memory for tiles of this size; smaller ones took longer."
        return (Note("amber", text),)


def tile_quantiles(
    source: View,
    regions: Sequence[Box],
    networks: Networks,
    compute: Compute,
    *,
    notes: list[Note] | None = None,
) -> Iterator[tuple[Progress, TileQuantiles | None]]:
    """Yield the quantiles of the ensemble tile by tile; ``None`` while waiting, so that a caller may stop.

    Members are added in their own order, so that the result doesn't depend on the pool or its speed.

    Parameters
    ----------
    source : View
        Noisy image; quantiles are summed over its looks.
    regions : sequence of Box
        Boxes to predict; halos are read beyond them.
    networks : Networks
    compute : Compute
    notes : list of Note, optional
        Notes on the device are added to this list at the end.
    """
    blueprint, looks = networks.blueprint, source.looks
    halo = _halo(blueprint, compute.tiles)
    side = tile_side(compute.tiles, max(halo), source.ndim)
    aligned = blueprint.alignment_px
    plan = [
        (box.scene, t) for box in regions for t in plan_tiles(source.space, side, halo, box.slices, aligned)
    ]
    units = len(networks.members) * len(looks)
    card = None if compute.device == "cpu" else _Card(blueprint, compute.device)
    work = units * sum(box.size for box in regions)
    jobs = _Jobs(plan, looks, networks, compute.executor, card, small=work < INLINE_WORK[source.ndim])
    done, total = 0, len(plan) * units
    try:
        for number, (scene, tile) in enumerate(plan, 1):
            note = f"Predicting tile {number} of {len(plan)}"
            average = _Average(blueprint.levels.index(0.5))
            # quantiles of a member in its looks so far
            summed = np.zeros((), np.float32)
            for unit, future in enumerate(jobs.futures(scene, tile)):
                yield Progress(done, total, note), None
                while not future.done():
                    wait([future], timeout=0.2)
                    yield Progress(done, total, note), None
                q = jobs.result(future, scene, tile, unit)
                done += 1
                look = unit % len(looks)
                if (weight := looks[look].weight) is not None:
                    q = q * weight(scene, tile.write)
                summed = q if look == 0 else summed + q
                if look == len(looks) - 1:
                    average.add(summed)
            yield Progress(done, total, note), TileQuantiles(scene, tile.write, *average.result())
    finally:
        jobs.stop()
        if card is not None:
            if notes is not None:
                notes += card.notes()
            card.modules.clear()
            release(compute.device)


class _Average:
    """Mean of the quantiles of members, and the standard deviation of their medians."""

    def __init__(self, middle: int) -> None:
        self._middle, self._n = middle, 0
        self._mean = self._base = self._moments = np.zeros((), np.float32)

    def add(self, q: NDArray[np.float32]) -> None:
        """Add the quantiles (L, C, *kept) of the next member."""
        median = q[self._middle]
        if self._n == 0:
            # differences from the first median, whose squares keep more digits
            self._mean, self._base = q.copy(), median.copy()
            self._moments = np.zeros((2, *median.shape), np.float32)
        else:
            self._mean += q
            self._moments[0] += median - self._base
            self._moments[1] += (median - self._base) ** 2
        self._n += 1

    def result(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the mean (L, C, *kept) and the spread (C, *kept)."""
        n, moments = self._n, self._moments
        self._mean /= n
        variance = np.maximum(moments[1] / n - (moments[0] / n) ** 2, 0) * (n / max(n - 1, 1))
        return self._mean, np.sqrt(variance).astype(np.float32)


class _Jobs:
    """Tiles in progress: enough ahead that all workers are busy while one tile is averaged."""

    def __init__(
        self,
        plan: Sequence[tuple[int, Tile]],
        looks: Sequence[Look],
        networks: Networks,
        executor: Executor | None,
        card: _Card | None,
        *,
        small: bool,
    ) -> None:
        self._looks, self._networks, self._given, self._card = looks, networks, executor, card
        if card is not None or (executor is None and small):
            self._pool: Executor = Inline()
        else:
            self._pool = executor or process_pool()
        self._units = len(networks.members) * len(looks)
        inline = isinstance(self._pool, Inline)
        self._ahead = 0 if inline else max(2, 1 + -(-slots(self._pool) // self._units))
        self._todo = iter(plan)
        self._pending: deque[deque[Future[Any]]] = deque()
        self._stop = StopSign()

    def futures(self, scene: int, tile: Tile) -> Iterator[Future[Any]]:
        """Yield the quantiles of the next tile of the plan, of one member after another, each in all looks."""
        try:
            while len(self._pending) < self._ahead and (job := next(self._todo, None)) is not None:
                self._pending.append(deque(self._send(*job)))
        except BrokenExecutor as error:
            self._go_on_alone(error)
        if not self._pending:
            # inline, a member runs only when its result is needed, so that a stop waits for one member
            yield from self._send(scene, tile)
            return
        while self._pending[0]:
            yield self._pending[0].popleft()
        self._pending.popleft()

    def result(self, future: Future[Any], scene: int, tile: Tile, unit: int) -> NDArray[np.float32]:
        """Return what a future of `futures` made, or make it here if its worker died."""
        try:
            made: NDArray[np.float32] = future.result()
        except BrokenExecutor as error:
            self._go_on_alone(error)
            made = next(self._send(scene, tile, unit)).result()
        return made

    def stop(self) -> None:
        """End what is in progress."""
        for futures in self._pending:
            for future in futures:
                future.cancel()
        if self._pending:
            self._stop.show()

    def _send(self, scene: int, tile: Tile, first: int = 0) -> Iterator[Future[Any]]:
        """Submit a tile for one member after another, each in all looks."""
        seen = [look.view.read_finite(scene, tile.read) for look in self._looks]
        for unit in range(first, self._units):
            member, x = self._networks.members[unit // len(seen)], seen[unit % len(seen)]
            if self._card is not None:
                yield self._pool.submit(self._card.quantiles, member, x, tile.keep)
            else:
                blueprint = self._networks.blueprint
                yield self._pool.submit(_member_quantiles, blueprint, member, x, tile.keep, self._stop)

    def _go_on_alone(self, error: BrokenExecutor) -> None:
        """Continue in this thread, which takes less memory, after a worker of the local pool died."""
        if self._given is not None:
            raise WorkerDiedError(
                "A worker process died while predicting, most likely for lack of memory. "
                "Use smaller tiles, or close other programs."
            ) from error
        self._pool, self._ahead = Inline(), 0
