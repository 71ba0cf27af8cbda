"""The 95 % interval of coverage: how often it holds the coverage of endless fresh fields; a simulation.

Errors are normal, and their scale varies between fields. With nine fields or more, fields are the cases of the
interval; with one field, its blocks are, and the interval says nothing of other fields.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from benchmarks.table import Bar, Result, main
from napari_btn.core.calibration.cases import FIELDS, HeldOut
from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.evaluation.report import Judged, report_on
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.5, 0.95)
NEEDED = 0.88
SECOND = 0.1  # share of the fields of a second kind, where there is one
WITHIN = 0.1  # SD of the noise scale between blocks of a field


def one_set(
    seed: int, n: int, sd: float, unit: str, pixels: int, other: float = 1
) -> tuple[bool, bool, float]:
    """Return if the interval holds the coverage of fresh fields, that of the same fields, and its width.

    ``other`` is the noise of a second kind of field, one in ten, relative to that of the rest.
    """
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, sd, n))
    if other != 1:
        scale *= np.where(rng.random(n) < SECOND, other, 1)
    errors = rng.normal(size=(n, pixels)) * scale[:, None]
    if n == 1:
        # errors of a field vary from block to block, too
        errors *= np.repeat(np.exp(rng.normal(0, WITHIN, 60)), pixels // 60)
    target = errors.reshape(1, -1).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    block = np.repeat(np.arange(n), pixels) if n > 1 else np.arange(pixels) * 60 // pixels
    held_out = HeldOut(quantiles, target, block, LEVELS, blocks=FIELDS if n > 1 else "blocks of 16 px")
    calibration = calibrate(held_out, settings=CalibrationSettings(unit=unit))  # type: ignore[arg-type]
    report = report_on(Judged(held_out, *cross_fitted(held_out, calibration)), alpha=0.1)
    low, high = float(report.coverage_low[0]), float(report.coverage_high[0])
    upper, lower = norm.ppf(0.95) + calibration.offset_upper, norm.ppf(0.05) - calibration.offset_lower
    fresh = np.exp(sd * norm.ppf((np.arange(2000) + 0.5) / 2000))
    if other != 1:
        fresh = np.concatenate([np.tile(fresh, round(1 / SECOND) - 1), other * fresh])
    if n == 1:
        blocks = np.exp(WITHIN * norm.ppf((np.arange(200) + 0.5) / 200))
        fresh, scale = (np.multiply.outer(s, blocks) for s in (fresh, scale))
    truth = [float(np.mean(norm.cdf(upper / s) - norm.cdf(lower / s))) for s in (fresh, scale)]
    return low <= truth[0] <= high, low <= truth[1] <= high, high - low


def run(tiny: bool) -> list[Result]:
    """Simulate sets of fields."""
    sets = 10 if tiny else 300
    result = Result(f"Share of {sets} simulated sets in which the 95 % interval holds the coverage, at 90 %")
    for n, unit, sd, other in (
        (1, "pixel", 0.0, 1), (1, "pixel", 0.1, 1), (9, "auto", 0.1, 1), (20, "auto", 0.1, 1), (20, "auto", 0.2, 1),
        (20, "block", 0.1, 1), (60, "auto", 0.1, 1),
        *((n, "auto", 0.1, other) for other in (1.6, 2.5) for n in (9, 12, 20, 60)),
    ):  # fmt: skip
        made = [one_set(seed, n, sd, unit, 24_000 if n == 1 else 600, other) for seed in range(sets)]
        fresh, same, width = (float(np.mean(values)) for values in zip(*made, strict=True))
        result.add(
            {
                "fields": n,
                "unit": unit,
                "SD of the noise scale": sd,
                "noise of one in ten": other,
                "fresh fields": fresh,
                "same fields": same,
                "width": width,
            }
        )
        if n > 1 and other == 1:  # so few fields often hold none of a rare second kind
            what = f"{n} fields, unit {unit}, SD {sd}: interval holds the coverage of fresh fields"
            result.bars.append(Bar(what, fresh, NEEDED))
    return [result]


if __name__ == "__main__":
    main("fields", run)
