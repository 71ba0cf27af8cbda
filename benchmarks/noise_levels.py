"""Members with and without additive constants, at a quarter to four times the noise of training.

The noise is that of the blobs, scaled by its amplitude. All members are trained at amplitude 1.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks import peers
from benchmarks.blobs import ALPHA, RANGE, TEST_SEED
from benchmarks.measure import close_pool
from benchmarks.table import Result, main
from napari_btn import CalibrationSettings, Denoiser, NetworkSettings, samples
from napari_btn.core.settings import PRESETS

AMPLITUDES = (0.25, 0.5, 1.0, 2.0, 4.0)


def run(tiny: bool) -> list[Result]:
    """Train both kinds at one amplitude with a few seeds, and evaluate their medians at others."""
    n_train, n_held_out, n_test, seeds = (8, 12, 4, 1) if tiny else (100, 50, 100, 3)
    settings = replace(PRESETS["quick"], steps=6 if tiny else 400)
    pair = samples.blobs(seed=0, n=n_train + n_held_out)
    test = samples.blobs(seed=TEST_SEED, n=n_test)
    share = CalibrationSettings(train_fraction=n_train / len(pair.noisy))
    result = Result(
        f"Noise of other amplitudes: PSNR, one member, {settings.steps} steps, mean of {seeds} seeds"
    )
    for name, bias_free in (("with constants", False), ("bias-free", True)):
        psnr: dict[float, list[float]] = {a: [] for a in AMPLITUDES}
        for seed in range(seeds):
            network = NetworkSettings(bias_free=bias_free)
            denoiser = Denoiser(
                "quick", members=1, alpha=ALPHA, seed=seed, train=settings, calibration=share, network=network
            ).fit(pair.noisy, pair.clean, axes=pair.axes)
            for amplitude in AMPLITUDES:
                noisy = test.clean + amplitude * (test.noisy - test.clean)
                median = np.asarray(denoiser.predict(noisy, axes=test.axes).median)
                psnr[amplitude].append(peers.scores(test.clean, median, data_range=RANGE)["PSNR"])
        means = {f"noise x {a:g}": float(np.mean(v)) for a, v in psnr.items()}
        spread = max(float(np.ptp(v)) for v in psnr.values())
        result.add({"members": name, **means, "seeds apart": spread})
    close_pool()
    return [result]


if __name__ == "__main__":
    main("noise_levels", run)
