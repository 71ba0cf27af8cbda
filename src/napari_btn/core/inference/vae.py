"""Draws of a trained ladder, tile by tile: the pixels of a draw don't depend on the tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.device import exact_arithmetic
from napari_btn.core.compute.pool import one_thread
from napari_btn.core.data.image import View
from napari_btn.core.data.white_noise import white_noise
from napari_btn.core.inference.tiles import Tile, plan_tiles
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_btn.core.networks.vae import Ladder
    from napari_btn.core.progress import Step

__all__ = ["ladder_draws_steps", "ladder_mean_steps"]

# Side of a tile with its halo, in pixels.
_TILE = {2: 512, 3: 128}


def ladder_draws_steps(
    ladder: Ladder, view: View, out: Any, *, seed: int = 0, tile_px: int | None = None
) -> Step[Any]:
    """Write draws of an image; a step that returns them.

    Parameters
    ----------
    ladder : Ladder
        On its device.
    view : View
        Noisy image.
    out : array of float32, (n, *axes)
        Where to write them.
    seed : int
        The same seed gives the same draws; more draws keep the earlier ones.
    tile_px : int, optional
        Side of a tile in pixels, halo included.
    """
    n = int(out.shape[0])
    targets = [View(out, view.axes, first=(k,)) for k in range(n)]
    for scene, tile, number, progress, values in _drawn(ladder, view, n, seed, tile_px):
        yield progress
        targets[number].write(scene, tile.write, values)
    return out


def ladder_mean_steps(
    ladder: Ladder, view: View, n: int, *, seed: int = 0, tile_px: int | None = None
) -> Step[NDArray[np.float32]]:
    """Return the mean of draws of an image, float32 in its axes, without keeping any; a step.

    Parameters
    ----------
    ladder : Ladder
    view : View
    n : int
        Number of draws.
    seed : int
        As in `ladder_draws_steps`: the mean is that of the same draws.
    tile_px : int, optional
        Side of a tile in pixels, halo included.
    """
    out = np.empty(view.array.shape, np.float32)
    target = View(out, view.axes)
    total = np.zeros(0)
    for scene, tile, number, progress, values in _drawn(ladder, view, n, seed, tile_px):
        yield progress
        total = values.astype(np.float64) if number == 0 else total + values
        if number == n - 1:
            target.write(scene, tile.write, (total / n).astype(np.float32))
    return out


def _drawn(
    ladder: Ladder, view: View, n: int, seed: int, tile_px: int | None
) -> Iterator[tuple[int, Tile, int, Progress, NDArray[np.float32]]]:
    """Yield scene, tile, number of the draw, progress and values (C, *tile), all draws of a tile in a row."""
    device = next(ladder.parameters()).device
    side = _TILE[view.ndim] if tile_px is None else tile_px
    tiles = plan_tiles(view.space, side, ladder.reach, alignment=ladder.alignment)
    every = [(scene, tile) for scene in range(view.n_scenes) for tile in tiles]
    for done, (scene, tile) in enumerate(every):
        # a copy: the image may be read-only
        x = torch.tensor(view.read(scene, tile.read)[None], device=device)
        with torch.no_grad(), one_thread(), exact_arithmetic():
            found = ladder.encode(x)
        for k in range(n):
            noise = [
                torch.as_tensor(white_noise(seed, (k, scene, level), ladder.latent, box)[None], device=device)
                for level, box in enumerate(_cells(ladder, tile))
            ]
            # one draw at a time: its pixels don't depend on how many there are
            with torch.no_grad(), one_thread(), exact_arithmetic():
                signal = ladder.decode(found, noise, x.shape[2:]).signal[0].cpu().numpy()
            progress = Progress(done * n + k, len(every) * n, "Drawing plausible images")
            yield scene, tile, k, progress, signal[(slice(None), *tile.keep)]


def _cells(ladder: Ladder, tile: Tile) -> list[tuple[slice, ...]]:
    """Return the cells of each level that a tile reads, by their place in the image."""
    shape = [s.stop - s.start for s in tile.read]
    boxes = []
    for level, size in enumerate(ladder.sizes(shape)):
        starts = [s.start // 2 ** (level + 1) for s in tile.read]
        boxes.append(tuple(slice(a, a + m) for a, m in zip(starts, size, strict=True)))
    return boxes
