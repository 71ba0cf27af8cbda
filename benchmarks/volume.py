"""A volume from end to end: train, calibrate, predict into zarr, evaluate, and look at slices."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import close_pool, peak_memory, spent
from benchmarks.table import OUT, Bar, Result, main
from napari_btn import Denoiser, evaluate, samples
from napari_btn.core.settings import PRESETS

if TYPE_CHECKING:
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.pairs import Pair

MEMBERS = 3


def _workflow(tiny: bool, folder: Path) -> tuple[Result, Pair, Prediction]:
    size = (16, 48, 64) if tiny else (64, 256, 256)
    train = replace(PRESETS["quick"], steps=4) if tiny else PRESETS["quick"]
    pair, fresh = samples.xct(seed=0, size=size), samples.xct(seed=1, size=size)
    denoiser = Denoiser("quick", members=MEMBERS, train=train)
    result = Result(f"A volume of {' x '.join(str(n) for n in size)} voxels, {MEMBERS} members, quick preset")
    with spent() as fit_cost:
        denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, pixel_size=pair.pixel_size, unit=pair.unit)
    out = folder / "volume.ome.zarr"
    with peak_memory() as peak, spent() as cost:
        prediction = denoiser.predict(fresh.noisy, axes=fresh.axes, out=out, quantiles=False)
    report = evaluate(prediction, fresh.clean)
    median = np.asarray(prediction.median[...])
    held_out = denoiser.report
    assert held_out is not None, "a fitted denoiser has a report"
    result.add(
        {
            "correlation, noisy": float(np.corrcoef(fresh.noisy.ravel(), fresh.clean.ravel())[0, 1]),
            "correlation, median": float(np.corrcoef(median.ravel(), fresh.clean.ravel())[0, 1]),
            "coverage, held out": float(held_out.coverage[0]),
            "coverage, fresh": float(report.coverage[0]),
            "mean width": float(report.width[0]),
            "training CPU-s": fit_cost.cpu,
            "prediction CPU-s": cost.cpu,
            "MP per CPU-s and member": MEMBERS * fresh.noisy.size / 1e6 / cost.cpu,
            "peak GB": peak.proportional / 1e9,
        }
    )
    result.bars.append(Bar("volume: coverage of the held-out part", float(held_out.coverage[0]), 0.88))
    return result, fresh, prediction


def _slices(pair: Pair, prediction: Prediction, path: Path) -> None:
    """Take a picture of napari with one slice of every map, after moving the slider."""
    import napari
    from qtpy.QtWidgets import QApplication

    viewer: Any = napari.Viewer()
    limits = tuple(float(v) for v in np.percentile(pair.clean, (0.5, 99.5)))
    scale = pair.pixel_size
    for name, values in (
        ("noisy", pair.noisy),
        ("median", prediction.median),
        ("lower", prediction.lower),
        ("upper", prediction.upper),
    ):
        viewer.add_image(np.asarray(values[...]), name=name, scale=scale, contrast_limits=limits)
    width = np.asarray(prediction.width[...])
    viewer.add_image(width, name="width", scale=scale, colormap="magma",
                     contrast_limits=(0.0, float(np.percentile(width, 99.5))))  # fmt: skip
    viewer.add_image(pair.clean, name="clean", scale=scale, contrast_limits=limits)
    viewer.canvas.grid.shape = (2, 3)
    viewer.canvas.grid.enabled = True
    for z in (0, pair.clean.shape[0] // 2):
        viewer.dims.set_current_step(0, z)
        QApplication.processEvents()
    viewer.reset_view()
    QApplication.processEvents()
    viewer.screenshot(str(path), canvas_only=False, flash=False)
    viewer.close()


def run(tiny: bool) -> list[Result]:
    """Measure the workflow; if there is a display, take a picture of the slices."""
    with tempfile.TemporaryDirectory() as name:
        result, fresh, prediction = _workflow(tiny, Path(name))
        if os.environ.get("DISPLAY") or sys.platform != "linux":
            OUT.mkdir(parents=True, exist_ok=True)
            path = OUT / f"volume{'-tiny' if tiny else ''}.png"
            _slices(fresh, prediction, path)
            result.notes.append(f"Slices in napari: {path.name}.")
        else:
            result.notes.append("Without a display there is no picture of the slices.")
    close_pool()
    return [result]


if __name__ == "__main__":
    main("volume", run)
