"""Quality against training steps on blobs, and the position of the presets on the curve.

Each point is a training of its own, because the learning rate follows one cycle over all steps. There is
one member at a time, without the gain of an ensemble; the data are the same for every point.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks import peers
from benchmarks.blobs import ALPHA, RANGE, TEST_SEED, train
from benchmarks.measure import close_pool, spent
from benchmarks.table import Bar, Result, main
from napari_btn import samples
from napari_btn.core.settings import PRESETS

STEPS = (75, 150, 300, 600, 1000, 1500, 3000)
SEEDS = 2


def run(tiny: bool) -> list[Result]:
    """Train one member for each number of steps, with a few seeds, and evaluate it on fresh images."""
    n_train, n_held_out, n_test = (8, 12, 4) if tiny else (100, 50, 100)
    steps, seeds = ((3, 6), 1) if tiny else (STEPS, SEEDS)
    pair = samples.blobs(seed=0, n=n_train + n_held_out)
    test = samples.blobs(seed=TEST_SEED, n=n_test)
    presets = {settings.steps: name for name, settings in PRESETS.items()}
    result = Result(f"Blobs: quality against steps, one member, mean of {seeds} seeds, {n_test} test images")
    psnr: dict[str, list[float]] = {}
    for count in steps:
        rows, seconds = [], []
        for seed in range(seeds):
            with spent() as cost:
                denoiser = train(pair, n_train, "quick", 1, replace(PRESETS["quick"], steps=count), seed=seed)
            made = denoiser.predict(test.noisy, axes=test.axes)
            rows.append(
                peers.scores(test.clean, made.median, made.lower, made.upper, data_range=RANGE, alpha=ALPHA)
            )
            seconds.append(cost.cpu)
        name = presets.get(count, "")
        psnr[name] = [row["PSNR"] for row in rows]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        spread = float(np.ptp(psnr[name])) if seeds > 1 else 0.0
        result.add(
            {"steps": count, "preset": name, **mean, "PSNR apart": spread, "CPU-s": float(np.mean(seconds))}
        )
    close_pool()
    for better, than in (("standard", "quick"), ("thorough", "standard")):
        if better in psnr and than in psnr:
            gains = np.subtract(psnr[better], psnr[than])
            result.bars.append(Bar(f"2: {better} above {than}, PSNR, worst seed", float(gains.min()), 0))
    return [result]


if __name__ == "__main__":
    main("plateaus", run)
