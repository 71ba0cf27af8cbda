"""Latents of trained members, at single pixels or projected tile by tile."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from napari_btn.core.compute.device import exact_arithmetic, in_memory, release
from napari_btn.core.compute.pool import Inline, one_thread, process_pool
from napari_btn.core.data.image import Box, View
from napari_btn.core.inference.run import INLINE_WORK, loaded, tile_side
from napari_btn.core.inference.tiles import Tile, plan_tiles
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.networks.family import Blueprint, Member, Networks


__all__ = ["EnsembleLatents", "LatentSource", "Projected"]

# Input pixels of a tile; unlike a prediction, latents hold the features of all layers in memory.
_TILE_PIXELS = {2: 384**2, 3: 96**3}


@dataclass(frozen=True, eq=False)
class Projected:
    """Latent components of one tile with its margin, clipped at the border of the image.

    Parameters
    ----------
    scene : int
        Number of the scene.
    write : tuple of slice
        Slices of the tile in the image.
    keep : tuple of slice
        Slices of the tile in `values`.
    values : ndarray of float32, (D, *tile with margin)
        Projections summed over the members.
    """

    scene: int
    write: tuple[slice, ...]
    keep: tuple[slice, ...]
    values: NDArray[np.float32]


class LatentSource(Protocol):
    """A source of latents, by member and tile."""

    @property
    def members(self) -> int:
        """Number of members."""

    @property
    def features(self) -> int:
        """Number of latent features of a member; members with fewer have zeros."""

    @property
    def scenes(self) -> int:
        """Number of scenes."""

    @property
    def space(self) -> tuple[int, ...]:
        """Shape of a scene."""

    def sample(
        self, positions: NDArray[np.intp]
    ) -> Iterator[tuple[Progress, tuple[int, NDArray[np.intp], NDArray[np.float32]] | None]]:
        """Yield (member, rows, latents (n, F)) of pixels (m, 1 + ndim) of scene and index; None while waiting."""

    def project(
        self, weights: Sequence[NDArray[np.float32]], boxes: Sequence[Box], margin: int
    ) -> Iterator[tuple[Progress, Projected | None]]:
        """Yield tiles of the boxes, projected by (F, D) and summed over members; None while waiting."""


class EnsembleLatents:
    """The latents of an ensemble for one image, as a `LatentSource`.

    Parameters
    ----------
    view : View
        Noisy image.
    networks : Networks
        Trained members.
    compute : Compute
        Device and executor; without an executor, local processes for large images.
    """

    def __init__(self, view: View, networks: Networks, compute: Compute) -> None:
        members, blueprint = networks.members, networks.blueprint
        self._view, self._members, self._blueprint = view.widened, members, blueprint
        self._executor, self._device, self._tiles = compute.executor, compute.device, compute.tiles
        self.members, self.features = len(members), sum(blueprint.widths)
        self.scenes, self.space = view.n_scenes, view.space

    def sample(
        self, positions: NDArray[np.intp]
    ) -> Iterator[tuple[Progress, tuple[int, NDArray[np.intp], NDArray[np.float32]] | None]]:
        """Yield (member, rows, latents (n, F)) of pixels (m, 1 + ndim); None while waiting.

        Parameters
        ----------
        positions : ndarray of int, (m, 1 + ndim)
            Scene and index of each pixel.
        """
        jobs = []
        for scene, tile in self._plan([Box(s, self._whole()) for s in np.unique(positions[:, 0])], 0):
            low = np.array([w.start for w in tile.write])
            high = np.array([w.stop for w in tile.write])
            here = positions[:, 1:]
            rows = np.flatnonzero((positions[:, 0] == scene) & (here >= low).all(1) & (here < high).all(1))
            if len(rows):
                jobs.append((scene, tile, rows, here[rows] - [r.start for r in tile.read]))

        def tasks() -> Iterator[tuple[Any, ...]]:
            """Yield a task for each tile and member."""
            for scene, tile, _, index in jobs:
                x = self._view.read_finite(scene, tile.read)
                for member in self._members:
                    yield _latents_at, self._blueprint, member, x, index, self._device, self.features

        for progress, n, found in self._run(tasks(), len(jobs) * self.members):
            if found is None:
                yield progress, None
            else:
                job, k = divmod(n, self.members)
                yield progress, (k, jobs[job][2], found)

    def project(
        self, weights: Sequence[NDArray[np.float32]], boxes: Sequence[Box], margin: int
    ) -> Iterator[tuple[Progress, Projected | None]]:
        """Yield tiles of the boxes, projected and summed over members; None while waiting.

        Parameters
        ----------
        weights : sequence of ndarray of float32, (F, D)
            Projection of each member.
        boxes : sequence of Box
            Boxes to cover.
        margin : int
            Pixels around each tile, clipped at the border.
        """
        plan = list(self._plan(boxes, margin))
        outer = [
            tuple(
                slice(max(w.start - margin, 0), min(w.stop + margin, n))
                for w, n in zip(t.write, self.space, strict=True)
            )
            for _, t in plan
        ]

        def tasks() -> Iterator[tuple[Any, ...]]:
            """Yield a task for each tile and member."""
            for (scene, tile), box in zip(plan, outer, strict=True):
                x = self._view.read_finite(scene, tile.read)
                keep = tuple(
                    slice(o.start - r.start, o.stop - r.start) for o, r in zip(box, tile.read, strict=True)
                )
                for member, weight in zip(self._members, weights, strict=True):
                    yield _projected, self._blueprint, member, x, keep, weight, self._device

        total: NDArray[np.float32] | None = None
        for progress, n, found in self._run(tasks(), len(plan) * self.members):
            if found is None:
                yield progress, None
                continue
            job, k = divmod(n, self.members)
            # members are added in their order, so that the sum does not depend on timing
            total = found.copy() if total is None else np.add(total, found, out=total)
            if k + 1 < self.members:
                yield progress, None
                continue
            (scene, tile), box = plan[job], outer[job]
            keep = tuple(
                slice(w.start - o.start, w.stop - o.start) for w, o in zip(tile.write, box, strict=True)
            )
            yield progress, Projected(scene, tile.write, keep, total)
            total = None

    def _whole(self) -> tuple[slice, ...]:
        """Return the slices of a whole scene."""
        return tuple(slice(0, n) for n in self.space)

    def _plan(self, boxes: Sequence[Box], margin: int) -> Iterator[tuple[int, Tile]]:
        """Yield the tiles of the boxes, with the receptive field and a margin around each."""
        halo = margin + (
            self._blueprint.receptive_field if self._tiles.halo_px is None else self._tiles.halo_px
        )
        side = tile_side(self._tiles, halo, len(self.space), _TILE_PIXELS[len(self.space)])
        for box in boxes:
            for tile in plan_tiles(self.space, side, halo, box.slices, self._blueprint.alignment_px):
                yield int(box.scene), tile

    def _run(
        self, tasks: Iterator[tuple[Any, ...]], total: int
    ) -> Iterator[tuple[Progress, int, NDArray[np.float32] | None]]:
        """Run tasks a few ahead, and yield their results in order; None while waiting."""
        work = self.members * self.scenes * int(np.prod(self.space))
        pool = self._executor
        if pool is None:
            pool = (
                Inline() if self._device != "cpu" or work < INLINE_WORK[len(self.space)] else process_pool()
            )
        ahead = 1 if isinstance(pool, Inline) else 2 * max(getattr(pool, "_max_workers", 2), 1)
        waiting: deque[Future[Any]] = deque()
        try:
            for n in range(total):
                while len(waiting) < ahead and (task := next(tasks, None)) is not None:
                    yield Progress(n, total), n, None
                    waiting.append(pool.submit(*task))
                future = waiting.popleft()
                while not future.done():
                    wait([future], timeout=0.2)
                    yield Progress(n, total), n, None
                yield Progress(n + 1, total), n, future.result()
        finally:
            for future in waiting:
                future.cancel()
            if self._device != "cpu":
                release(self._device)


def _latents_at(
    blueprint: Blueprint,
    member: Member,
    x: NDArray[np.float32],
    index: NDArray[np.intp],
    device: str,
    features: int,
) -> NDArray[np.float32]:
    """Return the latents (n, F) at pixels of a tile (C, *space), filled up with zeros; a task."""
    with one_thread(), torch.inference_mode(), exact_arithmetic():
        at: Any = (slice(None), *(torch.from_numpy(i.copy()).to(device) for i in index.T))
        image = torch.from_numpy(np.array(x[None], order="C")).to(device)
        found = [f[0, 0][at].T for f in loaded(blueprint, member, device).latents(image)]
        latents = torch.cat(found, 1).cpu().numpy()
        return np.pad(latents, ((0, 0), (0, features - latents.shape[1])))


def _projected(
    blueprint: Blueprint,
    member: Member,
    x: NDArray[np.float32],
    keep: tuple[slice, ...],
    weight: NDArray[np.float32],
    device: str,
) -> NDArray[np.float32]:
    """Return the projection (D, *kept) of the latents of a tile, added layer by layer; a task."""

    def task(x: NDArray[np.float32], keep: tuple[slice, ...], device: str) -> NDArray[np.float32]:
        """Project the kept part on a device."""
        image = torch.from_numpy(np.array(x[None], order="C")).to(device)
        w = torch.from_numpy(np.array(weight)).to(device)
        total: torch.Tensor | None = None
        first = 0
        for feature in loaded(blueprint, member, device).latents(image, keep):
            kept = feature[0, 0]
            part = torch.tensordot(w[first : first + len(kept)].T, kept, dims=1)
            total = part if total is None else total.add_(part)
            first += len(kept)
        if total is None:
            raise ValueError("A member without features has no latents; train with a depth of at least 1.")
        return np.ascontiguousarray(total.cpu().numpy())

    with one_thread(), torch.inference_mode(), exact_arithmetic():
        return in_memory(task, x, keep, blueprint.reach, device, blueprint.alignment_px)[0]
