"""Denoise images with calibrated intervals, and see where to measure again.

Names are imported on first use: ``import napari_btn`` loads neither torch nor Qt nor napari, so that
napari starts as fast with the plugin as without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_btn import samples
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.defects import repair
    from napari_btn.core.data.detector import Detector
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.evaluation.report import evaluate
    from napari_btn.core.remeasure.regions import propose_regions
    from napari_btn.core.settings import (
        CalibrationSettings,
        NetworkSettings,
        SupervisionSettings,
        TileSettings,
        TrainSettings,
        VariationalSettings,
    )
    from napari_btn.denoiser import Denoiser, compare, load
    from napari_btn.io.noise import NoiseModel
    from napari_btn.variational import Variational

__version__ = "0.1.0"

__all__ = [
    "CalibrationSettings",
    "Denoiser",
    "Detector",
    "NetworkSettings",
    "NoiseModel",
    "Pair",
    "Prediction",
    "SupervisionSettings",
    "TileSettings",
    "TrainSettings",
    "Variational",
    "VariationalSettings",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "propose_regions",
    "repair",
    "samples",
]

_HOME = {
    "CalibrationSettings": "core.settings",
    "Denoiser": "denoiser",
    "NetworkSettings": "core.settings",
    "Detector": "core.data.detector",
    "NoiseModel": "io.noise",
    "Pair": "core.data.pairs",
    "Prediction": "core.calibration.prediction",
    "SupervisionSettings": "core.settings",
    "TileSettings": "core.settings",
    "TrainSettings": "core.settings",
    "Variational": "variational",
    "VariationalSettings": "core.settings",
    "compare": "denoiser",
    "evaluate": "denoiser",
    "load": "denoiser",
    "propose_regions": "core.remeasure.regions",
    "repair": "core.data.defects",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name == "samples":
        return import_module("napari_btn.samples")
    if name not in _HOME:
        raise AttributeError(f"module 'napari_btn' has no attribute {name!r}")
    value = getattr(import_module(f"napari_btn.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
