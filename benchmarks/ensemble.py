"""The gain of ensembles of 1, 2, 5, 10 and 25 members on blobs, as in the figure of the paper.

One ensemble is trained. Each figure is the mean over random subsets of its members, calibrated as an
ensemble of that size, on scenes that no member was trained on.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.measure import close_pool, spent
from benchmarks.table import OUT, Result, main
from napari_btn import CalibrationSettings, Denoiser, samples
from napari_btn.core.settings import PRESETS
from napari_btn.plots import figures as plots


def run(tiny: bool) -> list[Result]:
    """Train 25 members and measure subsets of them."""
    members, n_train, n_test = (3, 6, 12) if tiny else (25, 100, 100)
    settings = replace(PRESETS["quick"], steps=6) if tiny else PRESETS["quick"]
    pair = samples.blobs(seed=0, n=n_train + n_test // 2)
    test = samples.blobs(seed=1000, n=n_test)
    share = CalibrationSettings(train_fraction=n_train / len(pair.noisy))
    denoiser = Denoiser("quick", members=members, train=settings, calibration=share)
    with spent() as cost:
        denoiser.fit(pair.noisy, pair.clean, axes=pair.axes)
    gain = denoiser.ensemble_gain(test.noisy, test.clean, sizes=(1, 2, 5, 10, 25))
    result = Result(f"Members of an ensemble: blobs, quick preset, {n_test} test images")
    for row in gain.rows():
        result.add({k: v for k, v in row.items() if k != "channel"})
    OUT.mkdir(parents=True, exist_ok=True)
    plots.ensemble_gain(gain).savefig(OUT / f"ensemble{'-tiny' if tiny else ''}.png", dpi=150)
    result.notes.append(f"Training took {cost.cpu / members:.3g} CPU-seconds a member.")
    close_pool()
    return [result]


if __name__ == "__main__":
    main("ensemble", run)
