"""CPU time of the exceedance layer per megapixel, which a threshold slider waits for (goal: 50 ms).

Run ``python benchmarks/exceedance.py [--json FILE]``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.claims import select
from napari_btn.core.calibration.exceedance import exceedance_from, lock_threshold

if TYPE_CHECKING:
    from collections.abc import Callable

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SIDE = 1024


def milliseconds(action: Callable[[], object], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return 1e3 * float(np.median(times))


def measure() -> dict[str, float]:
    rng = np.random.default_rng(0)
    planes = np.sort(rng.normal(size=(len(LEVELS), SIDE, SIDE)).astype(np.float32), axis=0)
    quantiles = planes.reshape(len(LEVELS), 1, -1)[:, :, :100_000]
    target = rng.normal(size=(1, 100_000)).astype(np.float32)
    held_out = HeldOut(quantiles, target, np.arange(100_000) // 1000, LEVELS)
    fitted = exceedance_from(held_out)
    locked = lock_threshold(fitted, held_out, 0.3)
    megapixels = SIDE * SIDE / 1e6
    actions: dict[str, Callable[[], object]] = {
        "threshold slider": lambda: fitted.probability(planes, 0.3),
        "confidence slider": lambda: fitted.lower_bound(planes, 0.75),
        "locked threshold": lambda: locked.probability(planes),
        "conformal selection": lambda: select(held_out, planes, 0.3),
    }
    return {name: milliseconds(action) / megapixels for name, action in actions.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    chosen = parser.parse_args()
    result = measure()
    for name, value in result.items():
        print(f"{name:22s} {value:8.1f} ms per megapixel")
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n")
