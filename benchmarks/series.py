"""Coverage of fresh movies, by networks that were trained on one movie of a field that drifts.

Frames of a series resemble each other. Networks that were trained on some of them cover the others better
than a new movie. Each frame has its own counts and its own truth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.measure import spent
from benchmarks.table import Bar, Result, main
from napari_btn import CalibrationSettings, Denoiser, samples
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data import noise
from napari_btn.core.data.pairs import Pair
from napari_btn.core.settings import PRESETS

FRAMES, SIZE, SEEDS, FRESH = 60, (96, 192), 5, 3
NEAR = 0.03
DOSE = 2.0


def movie(seed: int, frames: int, size: tuple[int, int], drift: int = 1) -> Pair:
    """Return counts and rates of a field that moves along X, with axes TYX."""
    height, width = size
    rates = np.asarray(samples.edx(seed=seed, size=(height, width + drift * frames)).clean)[0]
    clean = np.stack([rates[:, drift * t : drift * t + width] for t in range(frames)])
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(5,)))
    return Pair(noise.poisson(clean, rng=rng, dose=DOSE), clean, "TYX")


def one(seed: int, way: str, *, tiny: bool) -> dict[str, Any]:
    """Train on one movie, and return the reported coverage and that of fresh movies."""
    frames, size = (12, (48, 120)) if tiny else (FRAMES, SIZE)
    pair = movie(seed, frames, size)
    train = replace(PRESETS["quick"], steps=6) if tiny else PRESETS["quick"]
    # frames that are called scenes are mixed, as if each were a field of its own
    axes, split = ("SYX", "auto") if way == "frames as scenes" else ("TYX", way)
    settings = CalibrationSettings(**({"split": split} if split != "auto" else {}))
    denoiser = Denoiser("quick", members=2, seed=seed, train=train, calibration=settings)
    denoiser.fit(pair.noisy, pair.clean, axes=axes, executor=Inline())
    report = denoiser.report
    assert report is not None
    shares = []
    for k in range(FRESH):
        other = movie(1000 + FRESH * seed + k, frames, size)
        shown = slice(None, None, max(frames // 4, 1))
        made = denoiser.predict(other.noisy[shown], axes=axes, quantiles=False, executor=Inline())
        inside = (made.lower <= other.clean[shown]) & (other.clean[shown] <= made.upper)
        shares.append(float(inside.mean()))
    return {
        "split": way,
        "seed": seed,
        "reported": float(report.coverage[0]),
        "low": float(report.coverage_low[0]),
        "high": float(report.coverage_high[0]),
        "effective": float(report.n_eff[0]),
        "blocks": int(report.n_blocks[0]),
        "fresh": float(np.mean(shares)),
        "least": min(shares),
        "most": max(shares),
        "red": sum(note.level == "red" for note in report.warnings),
    }


def run(tiny: bool) -> list[Result]:
    """Compare splits of a movie in space, in time, and by frame."""
    result = Result(f"{FRAMES} frames with 1 px of drift each: reported coverage, and that of fresh movies")
    seeds = 1 if tiny else SEEDS
    with spent() as cost:
        for way in ("auto", "frames as scenes", "time"):
            rows = [one(seed, way, tiny=tiny) for seed in range(seeds)]
            for row in rows:
                result.add(row)
            if way == "auto":
                off = [r["reported"] - r["fresh"] for r in rows]
                name = "reported coverage and that of fresh movies differ on average by"
                result.bars.append(Bar(name, float(abs(np.mean(off))), NEAR, above=False))
                silent = sum(abs(d) > NEAR and not r["red"] for d, r in zip(off, rows, strict=True))
                name = "movies that differ by more, without a red note"
                result.bars.append(Bar(name, float(silent), 0.0, above=False))
    result.notes.append(f"{cost.cpu:.0f} CPU-s")
    return [result]


if __name__ == "__main__":
    main("series", run)
