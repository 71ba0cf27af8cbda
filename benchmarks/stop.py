"""The wait for a stop: the longest times between two yields of training and prediction of a large image."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.measure import close_pool
from benchmarks.table import Bar, Result, main
from napari_btn import Denoiser, TrainSettings
from napari_btn.core.compute.pool import compute_for
from napari_btn.workflow.inputs import image_for
from napari_btn.workflow.predict import predict_steps

if TYPE_CHECKING:
    from napari_btn.core.progress import Step

SHOWN = 3


def waits(step: Step[Any]) -> list[tuple[float, str]]:
    """Run a step; return the seconds between yields and the note before each, longest first."""
    made, said, last = [], "the call", time.perf_counter()
    for progress in step:
        now = time.perf_counter()
        made.append((now - last, said))
        said, last = progress.note, now
    made.append((time.perf_counter() - last, said))
    return sorted(made, reverse=True)


def run(tiny: bool) -> list[Result]:
    """Train two steps on a pair of 16 megapixels, and predict it."""
    side = 256 if tiny else 4096
    rng = np.random.default_rng(0)
    clean = 5 * gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), 3)
    noisy = clean + rng.normal(size=clean.shape).astype(np.float32)
    denoiser = Denoiser("quick", members=1, train=TrainSettings(steps=2))
    denoiser.prepare()
    result = Result(f"Longest waits of a stop, {side} x {side}")

    def prediction() -> Step[Any]:
        model = denoiser.model
        compute = compute_for(denoiser.device, denoiser.members, denoiser.tiles)
        return predict_steps(model, image_for(model, noisy), compute)

    for action, started in (
        ("training and calibration", lambda: denoiser.fit_steps(noisy, clean)),
        ("prediction", prediction),
    ):
        longest = waits(started())[:SHOWN]
        for seconds, said in longest:
            result.add({"action": action, "after": said, "s": seconds})
        result.bars.append(Bar(f"stop of {action}, s", longest[0][0], 0.5, above=False))
    close_pool()
    return [result]


if __name__ == "__main__":
    main("stop", run)
