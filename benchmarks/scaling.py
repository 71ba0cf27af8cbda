"""Bar 6: two processes against one, for training members and for predicting tiles.

Both pools have started and loaded torch before the clock runs. The result is meaningful only on an idle
machine with two cores or more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.table import Bar, Result, main
from napari_btn import CalibrationSettings, Denoiser, samples
from napari_btn.core.settings import TrainSettings

if TYPE_CHECKING:
    from concurrent.futures import Executor

_MEMBERS = 4


def _pool(workers: int) -> Executor:
    from joblib.externals.loky import ProcessPoolExecutor

    pool: Executor = ProcessPoolExecutor(max_workers=workers, timeout=600)
    return pool


def _denoiser(tiny: bool, *, steps: int) -> Denoiser:
    train = TrainSettings(steps=2 if tiny else steps)
    return Denoiser(
        "quick", members=_MEMBERS, train=train, calibration=CalibrationSettings(train_fraction=0.8)
    )


def run(tiny: bool) -> list[Result]:
    """Time the same work on one worker process and on two."""
    pair = samples.blobs(seed=0, n=15 if tiny else 60)
    side = 256 if tiny else 1536
    image = np.random.default_rng(0).standard_normal((side, side), np.float32)
    wall: dict[tuple[str, int], float] = {}
    result = Result("Two processes against one, wall seconds")
    for workers in (1, 2):
        pool = _pool(workers)
        try:
            _denoiser(True, steps=2).fit(pair.noisy[:10], pair.clean[:10], axes="SYX", executor=pool)
            began = time.perf_counter()
            denoiser = _denoiser(tiny, steps=100).fit(pair.noisy, pair.clean, axes="SYX", executor=pool)
            wall["training members", workers] = time.perf_counter() - began
            began = time.perf_counter()
            denoiser.predict(image, axes="YX", executor=pool)
            wall["predicting tiles", workers] = time.perf_counter() - began
        finally:
            pool.shutdown(wait=True)
    for work in ("training members", "predicting tiles"):
        one, two = wall[work, 1], wall[work, 2]
        result.add({"work": work, "one process": one, "two processes": two, "ratio": one / two})
        result.bars.append(Bar(f"6: {work}, two processes / one", one / two, 1.7))
    return [result]


if __name__ == "__main__":
    main("scaling", run)
