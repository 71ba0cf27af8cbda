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
from napari_btn.core.inference.tiles import Tile, plan_tiles, tile_steps
from napari_btn.core.networks.family import Blueprint, Member, Networks, build_trained
from napari_btn.core.progress import Note, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box, View
    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.settings import TileSettings

__all__ = [
    "TileQuantiles",
    "loaded",
    "tile_quantiles",
    "written_steps",
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


def written_steps(blueprint: Blueprint, space: Sequence[int], settings: TileSettings) -> tuple[int, ...]:
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
    return tile_steps(space, side, halo, blueprint.alignment_px)


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
    members, blueprint = networks.members, networks.blueprint
    executor, device = compute.executor, compute.device
    halo = _halo(blueprint, compute.tiles)
    side = tile_side(compute.tiles, max(halo), source.ndim)
    aligned = blueprint.alignment_px
    plan = [
        (box.scene, t) for box in regions for t in plan_tiles(source.space, side, halo, box.slices, aligned)
    ]
    looks = source.looks
    work = len(members) * len(looks) * sum(box.size for box in regions)
    card = None if device == "cpu" else _Card(blueprint, device)
    pool: Executor = Inline() if executor is None or card is not None else executor
    if executor is None and card is None:
        pool = Inline() if work < INLINE_WORK[source.ndim] else process_pool()
    n, passes = len(members), len(looks)
    units = n * passes
    total = len(plan) * units
    # number of tiles in progress, so that all workers are busy while one tile is averaged
    ahead = 0 if isinstance(pool, Inline) else max(2, 1 + -(-slots(pool) // units))
    pending: deque[tuple[int, Tile, deque[Future[Any]]]] = deque()
    todo = iter(plan)
    done, stop = 0, StopSign()
    # quantiles of a member in its looks so far
    summed = np.zeros((), np.float32)

    def send(scene: int, tile: Tile, first: int = 0) -> Iterator[Future[Any]]:
        """Submit a tile for one member after another, each in all looks."""
        seen = [look.view.read_finite(scene, tile.read) for look in looks]
        for unit in range(first, units):
            member, x = members[unit // passes], seen[unit % passes]
            if card is not None:
                yield pool.submit(card.quantiles, member, x, tile.keep)
            else:
                yield pool.submit(_member_quantiles, blueprint, member, x, tile.keep, stop)

    try:
        for scene, tile in plan:
            try:
                while len(pending) < ahead and (job := next(todo, None)) is not None:
                    pending.append((*job, deque(send(*job))))
            except BrokenExecutor as error:
                pool, ahead = _without_workers(executor, error), 0
            # inline, a member runs only when its result is needed, so that a stop waits for one member
            futures = pending[0][2] if pending else send(scene, tile)
            for unit in range(units):
                k, look = divmod(unit, passes)
                future = futures.popleft() if isinstance(futures, deque) else next(futures)
                note = f"Predicting tile {done // units + 1} of {len(plan)}"
                yield Progress(done, total, note), None
                while not future.done():
                    wait([future], timeout=0.2)
                    yield Progress(done, total, note), None
                try:
                    q = future.result()
                except BrokenExecutor as error:
                    pool, ahead = _without_workers(executor, error), 0
                    q = next(send(scene, tile, unit)).result()
                done += 1
                if (weight := looks[look].weight) is not None:
                    q = q * weight(scene, tile.write)
                q = q if look == 0 else summed + q
                if look < passes - 1:
                    summed = q
                    continue
                median = q[blueprint.levels.index(0.5)]
                if k == 0:
                    # differences from the first median, whose squares keep more digits
                    mean, base, moments = q.copy(), median.copy(), np.zeros((2, *median.shape), np.float32)
                    continue
                mean += q
                moments[0] += median - base
                moments[1] += (median - base) ** 2
            if pending:
                pending.popleft()
            mean /= n
            variance = np.maximum(moments[1] / n - (moments[0] / n) ** 2, 0) * (n / max(n - 1, 1))
            spread = np.sqrt(variance).astype(np.float32)
            yield Progress(done, total, note), TileQuantiles(scene, tile.write, mean, spread)
    finally:
        for _, _, futures in pending:
            for future in futures:
                future.cancel()
        if pending:
            stop.show()
        if card is not None:
            if notes is not None:
                notes += card.notes()
            card.modules.clear()
            release(device)


def _without_workers(given: Executor | None, error: BrokenExecutor) -> Executor:
    """Return an executor in this thread, which takes less memory, after a worker of the local pool died."""
    if given is None:
        return Inline()
    raise WorkerDiedError(
        "A worker process died while predicting, most likely for lack of memory. "
        "Use smaller tiles, or close other programs."
    ) from error
