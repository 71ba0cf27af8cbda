"""The functions of model and workflow that docks call, each imported on first use.

A dock opens without the modules of its steps, which a thread loads when the first step starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from napari_btn.core.compute.pool import compute_for

if TYPE_CHECKING:
    from napari_btn.core.calibration.drawn import statistic_steps
    from napari_btn.core.calibration.draws import draws_steps
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.noise_findings import find_noise_steps
    from napari_btn.core.evaluation.report import evaluate
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.core.training.plan import estimate_training
    from napari_btn.model import load_model, save_model
    from napari_btn.workflow.adapt import adapt_steps
    from napari_btn.workflow.batch import batch_files, batch_steps
    from napari_btn.workflow.calibrate import calibrate_steps
    from napari_btn.workflow.compare import compare_steps
    from napari_btn.workflow.evaluate import (
        coverage_apart_of,
        coverage_by_level,
        equivalent_filter_steps,
        missed_share,
    )
    from napari_btn.workflow.fit import fit_steps, plan_of, prepare
    from napari_btn.workflow.fuse import fuse_steps
    from napari_btn.workflow.inputs import axes_seen, image_for, size_note
    from napari_btn.workflow.now import first_look_steps
    from napari_btn.workflow.offers import offers_steps, simulation_offers
    from napari_btn.workflow.predict import predict_steps
    from napari_btn.workflow.recipe_files import layers_recipe_steps, save_recipe_of
    from napari_btn.workflow.refine import refine_steps
    from napari_btn.workflow.scan import grid_of, scan_steps
    from napari_btn.workflow.tokens import tokens_steps

__all__ = [
    "adapt_steps",
    "axes_seen",
    "batch_files",
    "batch_steps",
    "calibrate_steps",
    "compare_steps",
    "compute_on",
    "coverage_apart_of",
    "coverage_by_level",
    "draws_steps",
    "equivalent_filter_steps",
    "estimate_training",
    "evaluate",
    "find_noise_steps",
    "first_look_steps",
    "fit_steps",
    "fuse_steps",
    "grid_of",
    "image_for",
    "layers_recipe_steps",
    "load_model",
    "missed_share",
    "offers_steps",
    "plan_of",
    "predict_steps",
    "prepare",
    "refine_steps",
    "save_model",
    "save_recipe_of",
    "scan_steps",
    "simulation_offers",
    "size_note",
    "statistic_steps",
    "tokens_steps",
]

_HOME = {
    "adapt_steps": "workflow.adapt",
    "axes_seen": "workflow.inputs",
    "batch_files": "workflow.batch",
    "batch_steps": "workflow.batch",
    "calibrate_steps": "workflow.calibrate",
    "compare_steps": "workflow.compare",
    "coverage_apart_of": "workflow.evaluate",
    "coverage_by_level": "workflow.evaluate",
    "draws_steps": "core.calibration.draws",
    "equivalent_filter_steps": "workflow.evaluate",
    "estimate_training": "core.training.plan",
    "evaluate": "core.evaluation.report",
    "find_noise_steps": "core.data.noise_findings",
    "first_look_steps": "workflow.now",
    "fit_steps": "workflow.fit",
    "fuse_steps": "workflow.fuse",
    "grid_of": "workflow.scan",
    "image_for": "workflow.inputs",
    "size_note": "workflow.inputs",
    "layers_recipe_steps": "workflow.recipe_files",
    "load_model": "model",
    "missed_share": "workflow.evaluate",
    "offers_steps": "workflow.offers",
    "plan_of": "workflow.fit",
    "predict_steps": "workflow.predict",
    "prepare": "workflow.fit",
    "refine_steps": "workflow.refine",
    "save_model": "model",
    "save_recipe_of": "workflow.recipe_files",
    "scan_steps": "workflow.scan",
    "simulation_offers": "workflow.offers",
    "statistic_steps": "core.calibration.drawn",
    "tokens_steps": "workflow.tokens",
}


def compute_on(device: str, settings: EnsembleSettings) -> Compute:
    """Return the device and processes for the steps of an ensemble; call it in the thread.

    Parameters
    ----------
    device : str
        As in `Session.device`.
    settings : EnsembleSettings
        Settings of the ensemble.

    Raises
    ------
    ValueError
        If this machine has no such device, or PyTorch can't use it.
    """
    return compute_for(device, settings.members, settings.tiles)


def __getattr__(name: str) -> object:
    """Import a function on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"napari_btn.{_HOME[name]}"), name)
    globals()[name] = value
    return value
