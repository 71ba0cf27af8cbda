"""Run the ensemble over tiles: members averaged as they come, nothing kept per member."""

from __future__ import annotations

from collections import deque
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from napari_btn.core.config import Progress, TileSettings
from napari_btn.core.conformal import Note
from napari_btn.core.device import exact_arithmetic, in_memory, release
from napari_btn.core.families import Blueprint, Weights, build
from napari_btn.core.pairs import Box, View
from napari_btn.core.pool import Inline, one_thread, process_pool, slots
from napari_btn.core.stopping import StopSign
from napari_btn.core.tiles import Tile, plan_tiles, tile_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.config import Step
    from napari_btn.core.conformal import Calibration
    from napari_btn.core.ensemble import Ensemble
    from napari_btn.core.groups import GroupCalibration

__all__ = [
    "Member",
    "TileQuantiles",
    "loaded",
    "predict_steps",
    "tile_quantiles",
    "written_steps",
]

# Input pixels of a tile: a third of a second a member and small in memory, in 3D a few seconds, because halos
# there cost more than anything else.
_TILE_PIXELS = {2: 384**2, 3: 128**3}
# Member-pixels under which starting processes costs more than it saves.
INLINE_WORK = {2: 1_500_000, 3: 200_000}


@dataclass(frozen=True, eq=False)
class Member:
    """One trained member.

    Parameters
    ----------
    number : int
        Which member of the ensemble, from 0.
    attempt : int
        How often it had to be trained again; its graph comes from this child of its seed.
    weights : dict of str to ndarray
        Parameters and scaling, float32.
    """

    number: int
    attempt: int
    weights: Weights


@dataclass(frozen=True, eq=False)
class TileQuantiles:
    """Averaged quantiles of one tile.

    Parameters
    ----------
    scene : int
    write : tuple of slice
        Where the tile belongs, over the space axes.
    quantiles : ndarray of float32, (L, C, *tile)
    spread : ndarray of float32, (C, *tile)
    """

    scene: int
    write: tuple[slice, ...]
    quantiles: NDArray[np.float32]
    spread: NDArray[np.float32]


def tile_side(settings: TileSettings, halo: int, ndim: int, pixels: int | None = None) -> int:
    """Side of a tile in pixels, halo included; of so many pixels, by default what suits a prediction."""
    # a tile keeps at least a third of its side: one pixel at a time would take for ever
    return max(settings.tile_px or round((pixels or _TILE_PIXELS[ndim]) ** (1 / ndim)), 3 * halo)


def written_steps(blueprint: Blueprint, space: Sequence[int], settings: TileSettings) -> tuple[int, ...]:
    """Distance of the tiles in which an image is predicted, along each space axis."""
    halo = _halo(blueprint, settings)
    return tile_steps(space, tile_side(settings, max(halo), len(space)), halo)


def _halo(blueprint: Blueprint, settings: TileSettings) -> tuple[int, ...]:
    """Discarded margin along each space axis."""
    return blueprint.reach if settings.halo_px is None else (settings.halo_px,) * blueprint.ndim


def loaded(blueprint: Blueprint, member: Member, device: str = "cpu") -> Ensemble:
    """One trained member as a module on a device."""
    module = build(blueprint, [(member.number, member.attempt)])
    module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in member.weights.items()})
    return module.to(device)


def _quantiles_of(
    module: Ensemble, x: NDArray[np.float32], keep: tuple[slice, ...], device: str
) -> NDArray[np.float32]:
    """Quantiles (L, C, *kept) of a tile (C, *space) from a module of one member."""
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
    """Task: one member's quantiles (L, C, *kept) of a tile (C, *space)."""
    with one_thread():
        module = loaded(blueprint, member)
        if stop is not None:
            # a tile of a volume takes seconds, one of its layers a fraction of one
            module.between = stop.look
        return _quantiles_of(module, x, keep, "cpu")


class _Card:
    """Members on a graphics card, each brought there once, and what became of its memory."""

    def __init__(self, blueprint: Blueprint, device: str) -> None:
        self.blueprint, self.device = blueprint, device
        self.modules: dict[int, Ensemble] = {}
        self.lacked = False

    def quantiles(
        self, member: Member, x: NDArray[np.float32], keep: tuple[slice, ...]
    ) -> NDArray[np.float32]:
        """One member's quantiles (L, C, *kept) of a tile (C, *space)."""

        def task(x: NDArray[np.float32], keep: tuple[slice, ...], device: str) -> NDArray[np.float32]:
            if device == "cpu" != self.device:
                return _member_quantiles(self.blueprint, member, x, keep)
            if member.number not in self.modules:
                self.modules[member.number] = loaded(self.blueprint, member, device)
            return _quantiles_of(self.modules[member.number], x, keep, device)

        made, whole = in_memory(task, x, keep, self.blueprint.reach, self.device)
        self.lacked |= not whole
        return made

    def notes(self) -> tuple[Note, ...]:
        """What to say for a person."""
        if not self.lacked:
            return ()
        text = f"{self.device} had too little free memory for tiles of this size; smaller ones took longer."
        return (Note("amber", text),)


def tile_quantiles(
    source: View,
    regions: Sequence[Box],
    members: Sequence[Member],
    blueprint: Blueprint,
    *,
    tiles: TileSettings | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    notes: list[Note] | None = None,
) -> Iterator[tuple[Progress, TileQuantiles | None]]:
    """Yield the ensemble's quantiles tile by tile, and ``None`` in between so that a caller may stop.

    Members are added in their order whatever order they finish in, so the result depends on
    neither the pool nor its speed.

    Parameters
    ----------
    source : View
        The noisy image.
    regions : sequence of Box
        What to predict; halos read beyond it.
    members : sequence of Member
    blueprint : Blueprint
    tiles : TileSettings, optional
    executor : concurrent.futures.Executor, optional
        Where tasks run; local processes by default. On a graphics card nothing runs elsewhere.
    device : str
        Torch's name.
    notes : list of Note, optional
        Takes what there is to say of the device at the end.
    """
    settings = tiles or TileSettings()
    halo = _halo(blueprint, settings)
    side = tile_side(settings, max(halo), source.ndim)
    plan = [(box.scene, t) for box in regions for t in plan_tiles(source.space, side, halo, box.slices)]
    work = len(members) * sum(box.size for box in regions)
    card = None if device == "cpu" else _Card(blueprint, device)
    pool: Executor = Inline() if executor is None or card is not None else executor
    if executor is None and card is None:
        pool = Inline() if work < INLINE_WORK[source.ndim] else process_pool()
    total, n = len(plan) * len(members), len(members)
    # tiles under way: all workers have something to do while one tile is put together
    ahead = 0 if isinstance(pool, Inline) else max(2, 1 + -(-slots(pool) // n))
    pending: deque[tuple[int, Tile, deque[Future[Any]]]] = deque()
    todo = iter(plan)
    done, stop = 0, StopSign()

    def send(scene: int, tile: Tile, first: int = 0) -> Iterator[Future[Any]]:
        x = np.nan_to_num(source.read(scene, tile.read), nan=0.0, posinf=0.0, neginf=0.0)
        for member in members[first:]:
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
            # inline, a member runs when its turn comes, so that a stop waits for one member alone
            futures = pending[0][2] if pending else send(scene, tile)
            for k in range(n):
                future = futures.popleft() if isinstance(futures, deque) else next(futures)
                note = f"Predicting tile {done // n + 1} of {len(plan)}"
                yield Progress(done, total, note), None
                while not future.done():
                    wait([future], timeout=0.2)
                    yield Progress(done, total, note), None
                try:
                    q = future.result()
                except BrokenExecutor as error:
                    pool, ahead = _without_workers(executor, error), 0
                    q = next(send(scene, tile, k)).result()
                done += 1
                median = q[blueprint.levels.index(0.5)]
                if k == 0:
                    # the first median is the origin: squares of small differences keep their digits
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
    """Where the rest is predicted after a worker of the local pool died: here, which takes less memory."""
    if given is None:
        return Inline()
    raise RuntimeError(
        "A worker process died while predicting, most likely for lack of memory. "
        "Use smaller tiles, or close other programs."
    ) from error


def predict_steps(
    source: View,
    members: Sequence[Member],
    blueprint: Blueprint,
    calibration: Calibration,
    maps: dict[str, Any],
    *,
    groups: tuple[GroupCalibration, NDArray[np.integer[Any]]] | None = None,
    valid: NDArray[np.bool_] | Literal["finite"] | None = None,
    tiles: TileSettings | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
) -> Step[tuple[Note, ...]]:
    """Write calibrated maps into arrays, tile by tile; a step that returns notes on the device and the image.

    Parameters
    ----------
    source : View
        The noisy image.
    maps : dict of str to array
        Writable arrays in the axes of the source, under any of "lower", "median", "upper",
        "width", "spread", and "quantiles" with the levels first.
    groups : tuple of GroupCalibration, ndarray of int (S, *space), optional
        Offsets by group, and the group of each pixel from 0, instead of the calibration's.
    valid : ndarray of bool (S, *space), or "finite", optional
        Where a pixel counts; maps are NaN elsewhere. "finite": where no channel is NaN or infinite.

    Raises
    ------
    ValueError
        If a pixel that counts is NaN or infinite.
    """
    views = {k: View(v, source.axes, k) for k, v in maps.items() if k != "quantiles"}
    if "quantiles" in maps:
        levels = range(len(blueprint.levels))
        stack = [View(maps["quantiles"], source.axes, "quantiles", first=(i,)) for i in levels]
    whole = [Box(s, tuple(slice(0, n) for n in source.space)) for s in range(source.n_scenes)]
    notes: list[Note] = []
    results = tile_quantiles(
        source, whole, members, blueprint, tiles=tiles, executor=executor, device=device, notes=notes
    )
    left_out = 0
    for progress, result in results:
        if result is not None:
            unknown = _left_out(source, result, valid)
            left_out += int(unknown.sum())
            if groups is None:
                lower, median, upper = calibration.interval(result.quantiles)
            else:
                here = groups[1][result.scene][result.write]
                lower, median, upper = groups[0].interval(result.quantiles, here)
            made = {
                "lower": lower,
                "median": median,
                "upper": upper,
                "width": upper - lower,
                "spread": result.spread,
            }
            if unknown.any():
                for values in (*made.values(), result.quantiles):
                    values[..., unknown] = np.nan
            for name, view in views.items():
                view.write(result.scene, result.write, made[name])
            if "quantiles" in maps:
                for i, view in enumerate(stack):
                    view.write(result.scene, result.write, result.quantiles[i])
        yield progress
    if left_out:
        text = f"{left_out:,} pixels don't count or are NaN or infinite; maps are NaN there, and less sure beside them."
        notes.append(Note("amber", text))
    return tuple(notes)


def _left_out(
    source: View, tile: TileQuantiles, valid: NDArray[np.bool_] | Literal["finite"] | None
) -> NDArray[np.bool_]:
    """Pixels of a tile that don't count, (*tile)."""
    finite = np.asarray(np.isfinite(source.read(tile.scene, tile.write)).all(0))
    if isinstance(valid, str):
        return np.asarray(~finite)
    counted = np.ones_like(finite) if valid is None else valid[tile.scene][tile.write]
    if not finite[counted].all():
        first = [int(i) + s.start for i, s in zip(np.argwhere(counted & ~finite)[0], tile.write, strict=True)]
        raise ValueError(
            f"The image has NaN or infinite values, such as at {source.space_axes} {tuple(first)}. Give valid='finite' "
            "to leave such pixels out, a mask of those that count, or fill them first."
        )
    return np.asarray(~counted)
