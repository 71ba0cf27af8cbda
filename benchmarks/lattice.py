"""Quality against the receptive field on a periodic lattice, and the choice by autocorrelation.

A lattice repeats itself, so the columns around a pixel hold more information than its own few counts. A
larger receptive field helps only if members are trained long enough to use it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from benchmarks.measure import close_pool, spent
from benchmarks.table import OUT, Result, main
from napari_btn import Denoiser, NetworkSettings, samples
from napari_btn.core.settings import PRESETS

PERIODS = (10.0, 20.0)
DILATIONS = (1, 2, 4, 8, 16)


def _networks() -> dict[str, NetworkSettings]:
    fixed = {
        f"to {d}": NetworkSettings(max_dilation=d) if d <= 10 else NetworkSettings(dilations=_wide(d))
        for d in DILATIONS
    }
    return {**fixed, "repeats": NetworkSettings(field_of_view="repeats")}


def _wide(top: int) -> tuple[int, ...]:
    return tuple(int(d) for d in np.linspace(1, top, NetworkSettings().depth).round())


def run(tiny: bool) -> list[Result]:
    """Train a network for each receptive field, and evaluate it on another crystal."""
    train = replace(PRESETS["standard"], passes=1e9, batch_size=4, steps=6 if tiny else 500)
    seeds, size = ((0,), (128, 256)) if tiny else ((0, 1, 2), (256, 768))
    results = []
    for period in PERIODS[:1] if tiny else PERIODS:
        result = Result(
            f"Field of view on a lattice of {period:g} px, {train.steps} steps of {train.batch_size} patches"
        )
        for name, network in _networks().items():
            scores, fields = [], []
            with spent() as cost:
                for seed in seeds:
                    pair = samples.lattice(seed=seed, size=size, period_px=period)
                    test = samples.lattice(seed=100 + seed, size=(192, 256), period_px=period)
                    denoiser = Denoiser("standard", members=1, seed=seed, network=network, train=train)
                    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes)
                    error = np.mean((denoiser.predict(test.noisy).median - test.clean) ** 2)
                    scores.append(float(10 * np.log10(np.ptp(test.clean) ** 2 / error)))
                    fields.append(denoiser.receptive_field)
            result.add(
                {
                    "dilations": name,
                    "sees px": float(np.mean(fields)),
                    "repeats": float(np.mean(fields)) / period,
                    "PSNR": float(np.mean(scores)),
                    "SD of seeds": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
                    "CPU-s": cost.cpu / len(seeds),
                }
            )
        results.append(result)
    fixed = [[row for row in r.rows if row["dilations"] != "repeats"] for r in results]
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for result, rows in zip(results, fixed, strict=True):
        label = result.title.split(",")[0].removeprefix("Field of view on a ")
        axes.plot([row["sees px"] for row in rows], [row["PSNR"] for row in rows], marker="o", label=label)
    axes.set(xlabel="receptive field to each side / px", ylabel="PSNR / dB")
    axes.legend(frameon=False)
    OUT.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT / f"lattice{'-tiny' if tiny else ''}.png", dpi=150)
    close_pool()
    return results


if __name__ == "__main__":
    main("lattice", run)
