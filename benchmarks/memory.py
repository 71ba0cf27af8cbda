"""Bar 4: memory of predicting a large image with many members, and a volume through zarr.

Each case runs in its own process, whose memory is watched together with that of its workers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import peak_memory, spent
from benchmarks.table import Bar, Result, main

GB = 1e9


def _save_denoiser(path: Path, members: int, ndim: int) -> None:
    """Write a bundle of members that are hardly trained."""
    from napari_btn import CalibrationSettings, Denoiser, samples
    from napari_btn.core.compute.pool import Inline
    from napari_btn.core.settings import TrainSettings

    train = TrainSettings(steps=2, batch_size=2, patch_px=16)
    if ndim == 2:
        pair, axes = samples.blobs(seed=0, n=12), "SYX"
    else:
        pair, axes = samples.xct(seed=0, size=(32, 96, 96)), "ZYX"
    denoiser = Denoiser(
        "quick", members=members, train=train, calibration=CalibrationSettings(train_fraction=0.5)
    )
    denoiser.fit(np.asarray(pair.noisy), np.asarray(pair.clean), axes=axes, executor=Inline()).save(path)


def _predict(bundle: Path, shape: tuple[int, ...], out: Path | None) -> dict[str, Any]:
    """Predict noise of a shape; runs in its own process."""
    import psutil

    import napari_btn as btn

    denoiser = btn.load(bundle)
    axes = "ZYX"[-len(shape) :]
    if out is None:
        image = np.random.default_rng(0).standard_normal(shape, np.float32)
        arrays = image.nbytes * (1 + 4 + len(denoiser.levels))
    else:
        import zarr

        image = zarr.create_array(
            str(out.with_suffix(".in.zarr")), shape=shape, chunks=(64,) * len(shape), dtype="f4"
        )
        for z in range(0, shape[0], 64):
            image[z : z + 64] = np.random.default_rng(z).standard_normal(
                (min(64, shape[0] - z), *shape[1:]), np.float32
            )
        arrays = 0
    before = psutil.Process().memory_info().rss
    with peak_memory() as peak, spent() as cost:
        if out is None:
            denoiser.predict(image, axes=axes)
        else:
            denoiser.predict(image, axes=axes, out=str(out), quantiles=False)
    return {
        "arrays": arrays,
        "before": before,
        "own": peak.own,
        "together": peak.together,
        "proportional": peak.proportional,
        "cpu": cost.cpu,
        "wall": cost.wall,
    }


def case(shape: tuple[int, ...], members: int, *, through_zarr: bool = False) -> dict[str, Any]:
    """Return the row of one case."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model.btn"
        _save_denoiser(bundle, members, len(shape))
        call = [
            sys.executable,
            "-m",
            "benchmarks.memory",
            "--child",
            str(bundle),
            "--shape",
            *map(str, shape),
        ]
        if through_zarr:
            call += ["--zarr", str(Path(folder) / "out.ome.zarr")]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        found = json.loads(done.stdout.splitlines()[-1])
    return {
        "image": " x ".join(map(str, shape)) + (", zarr" if through_zarr else ""),
        "members": members,
        "arrays GB": found["arrays"] / GB,
        "peak GB, workers too": found["together"] / GB,
        "peak GB, shared pages once": found["proportional"] / GB,
        "main process GB": found["own"] / GB,
        "above the arrays GB": (found["together"] - found["arrays"]) / GB,
        "CPU-s": found["cpu"],
        "wall s": found["wall"],
    }


def run(tiny: bool) -> list[Result]:
    """Measure the memory of predictions."""
    large, small = (512, 256) if tiny else (4096, 2048)
    result = Result("Memory of a prediction, with its worker processes")
    result.add(case((large, large), 10))
    # the memory per member shows on a quarter of the pixels as well, in a quarter of the time
    for members in (10, 25):
        result.add(case((small, small), members))
    above, few, many = (row["above the arrays GB"] for row in result.rows)
    result.bars.append(Bar(f"4: GB above the arrays, {large} x {large}, 10 members", above, 1.5, above=False))
    result.bars.append(Bar("4: GB that 25 members take more than 10", many - few, 0.1, above=False))
    edge = 64 if tiny else 512
    result.add(case((edge,) * 3, 1, through_zarr=True))
    volume = result.rows[-1]["peak GB, workers too"]
    result.bars.append(Bar(f"4: GB for a {edge}^3 volume through zarr", volume, 4, above=False))
    return [result]


if __name__ == "__main__":
    if "--child" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--child", type=Path)
        parser.add_argument("--shape", type=int, nargs="+")
        parser.add_argument("--zarr", type=Path)
        asked = parser.parse_args()
        print(json.dumps(_predict(asked.child, tuple(asked.shape), asked.zarr)))
    else:
        main("memory", run)
