"""Bar 3: prediction speed of one member on one thread, and agreement of whole images, tiles and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.measure import own_cpu
from benchmarks.table import Bar, Result, main
from napari_btn import Denoiser, TileSettings, samples
from napari_btn.core.compute.pool import Inline, process_pool
from napari_btn.core.networks.family import Blueprint, Extent, build
from napari_btn.core.networks.sms.family import FAMILY
from napari_btn.core.settings import CalibrationSettings, NetworkSettings, TrainSettings

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
_TILE = 384  # side of a tile in 2D by default


def _module(n_in: int, ndim: int, side: int) -> tuple[Any, torch.Tensor]:
    settings = NetworkSettings()
    blueprint = Blueprint(settings, FAMILY.plan(settings, Extent(ndim)), n_in, n_in, ndim, LEVELS, 0)
    module = build(blueprint, [(0, 0)])
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((1, n_in, *(side,) * ndim)).astype(np.float32))
    module.initialise(x[..., :32, :32], x[..., :32, :32], rng=rng)
    return module, x


def _seconds(n_in: int, ndim: int, side: int, repeats: int) -> tuple[float, int]:
    """Return CPU-seconds of one pass and the number of weights; a task for a worker."""
    torch.set_num_threads(1)
    module, x = _module(n_in, ndim, side)
    with torch.inference_mode():
        return own_cpu(lambda: module(x), repeats), sum(p.numel() for p in module.parameters())


def engine(tiny: bool) -> Result:
    """Return megapixels per CPU-second of the network alone, in a worker."""
    result = Result("Prediction of one member, one thread: the network alone")
    for ndim, n_in, side in ((2, 1, _TILE), (2, 3, _TILE), (3, 1, 64)):
        side = side // 6 if tiny else side
        seconds, weights = process_pool().submit(_seconds, n_in, ndim, side, 2 if tiny else 7).result()
        speed = side**ndim / 1e6 / seconds
        row = {"dimensions": ndim, "channels": n_in, "side": side, "weights": weights, "MP per CPU-s": speed}
        result.add(row)
        if ndim == 2:
            result.bars.append(Bar(f"3: {n_in} channels, MP per CPU-second and member", speed, 0.9))
    return result


def _trained(tiny: bool) -> Denoiser:
    pair = samples.blobs(seed=0, n=12)
    train = TrainSettings(steps=4 if tiny else 60, batch_size=4, patch_px=32)
    share = CalibrationSettings(train_fraction=0.5)
    return Denoiser("quick", members=2, train=train, calibration=share).fit(
        pair.noisy, pair.clean, axes="SYX", executor=Inline()
    )


def whole_path(denoiser: Denoiser, tiny: bool) -> Result:
    """Return megapixels per CPU-second of `predict`, everything counted."""
    side = 256 if tiny else 1024
    image = samples.blobs(seed=5, n=1, size=side).noisy[0]
    seconds = own_cpu(lambda: denoiser.predict(image, axes="YX", executor=Inline()), 1 if tiny else 3)
    speed = denoiser.members * side**2 / 1e6 / seconds
    result = Result("Prediction by `predict`: tiles, averaging, calibration and maps counted")
    result.add({"side": side, "members": denoiser.members, "MP per CPU-s and member": speed})
    return result


def agreement(denoiser: Denoiser) -> Result:
    """Return the largest difference between whole image, odd tiles and a batch, as a share of the range."""
    stack = samples.blobs(seed=6, n=4, size=200).noisy
    span = float(np.ptp(samples.blobs(seed=6, n=4, size=200).clean))
    denoiser = _cut(denoiser, 1000)
    whole = [denoiser.predict(image, axes="YX", executor=Inline()).median for image in stack]
    result = Result("The same pixels whatever the tile and the batch")
    worst = 0.0
    for tile in (97, 131, 160):
        denoiser = _cut(denoiser, tile)
        tiled = [denoiser.predict(image, axes="YX", executor=Inline()).median for image in stack]
        off = max(float(np.abs(a - b).max()) for a, b in zip(whole, tiled, strict=True)) / span
        worst = max(worst, off)
        result.add({"against the whole image": f"tiles of {tile} px", "largest difference": off})
    module, _ = _module(1, 2, 32)
    bright = np.array(stack)
    bright[1:] *= 100
    with torch.inference_mode():
        alone = module(torch.from_numpy(bright[:1, None])).numpy()
        among = module(torch.from_numpy(bright[:, None])).numpy()[:1]
    off = float(np.abs(alone - among).max() / np.ptp(alone))
    result.add({"against the whole image": "batch with bright neighbours", "largest difference": off})
    result.bars.append(
        Bar("3: whole = tiles = batches, share of the range", max(worst, off), 1e-5, above=False)
    )
    return result


def _cut(denoiser: Denoiser, tile: int) -> Denoiser:
    """Return the denoiser with tiles of that side."""
    settings = replace(denoiser.model.settings, tiles=TileSettings(tile_px=tile))
    return Denoiser.of(replace(denoiser.model, settings=settings))


def run(tiny: bool) -> list[Result]:
    """Measure speed and agreement of predictions."""
    torch.set_num_threads(1)
    denoiser = _trained(tiny)
    return [engine(tiny), whole_path(denoiser, tiny), agreement(denoiser)]


if __name__ == "__main__":
    main("inference", run)
