"""Adaptation of a model to one noisy image, after which its calibration no longer holds."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.distribution import mean
from napari_btn.core.data.fingerprint import fingerprint_steps
from napari_btn.core.data.record import inputs_steps, recipe_step
from napari_btn.core.progress import Note
from napari_btn.model import NOT_CALIBRATED, Calibrated
from napari_btn.workflow.inputs import sound_view
from napari_btn.workflow.recipe import recorded

if TYPE_CHECKING:
    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import AdaptSettings
    from napari_btn.core.training.tuning import Signal
    from napari_btn.model import Model

__all__ = ["adapt_steps"]

_LOST = (
    "The members were adapted to an image, so their calibration no longer holds: intervals are infinite, and there "
    "are no probabilities. Calibrate on a noisy image with its clean target, or with a second scan of the same field."
)


def adapt_steps(
    model: Model,
    image: Image,
    compute: Compute,
    settings: AdaptSettings,
    noise_model: NoiseModel | None = None,
) -> Step[Model]:
    """Return the model adapted to an image, uncalibrated; a step.

    Parameters
    ----------
    model : Model
    image : Image
        Noisy image: result of `inputs.image_for`.
    compute : Compute
        Device; members are adapted one after another.
    settings : AdaptSettings
    noise_model : NoiseModel, optional
        For the losses "sure" and "resample".

    Returns
    -------
    Model
        With infinite intervals, a report without figures, and a red note that says so. A palette of tokens and groups
        are left out, because they come from the former members.

    Raises
    ------
    ValueError
        If the loss needs a noise model, or the networks make other channels than they read.
    """
    from napari_btn.core.training.tuning import tune_steps

    tuned = yield from tune_steps(
        model.networks,
        sound_view(model, image.view),
        settings,
        _signal(model.scores.held_out),
        noise_model=noise_model,
        device=compute.device,
        seed=model.settings.seed,
    )
    prints = yield from fingerprint_steps(image.view)
    record = {**settings.to_dict(), "images": sorted(prints.values())}
    provenance = model.learned.provenance
    learned = replace(
        model.learned,
        networks=replace(model.networks, members=tuned.members),
        notes=tuned.notes,
        provenance={**provenance, "adapted": [*provenance.get("adapted", []), record]},
    )
    calibration = replace(model.settings.calibration, groups=0)
    inputs = yield from inputs_steps({"image": image.data})
    made = replace(
        model,
        settings=replace(model.settings, calibration=calibration),
        learned=learned,
        scores=replace(model.scores, grouping=None, notes=(), covers=NOT_CALIBRATED),
        calibrated=_uncalibrated(model.calibrated, tuned.notes),
        tokens=None,
    )
    step = recipe_step(
        "adapt",
        inputs,
        settings=settings.to_dict(),
        axes=image.view.axes,
        noise_model=None if noise_model is None else noise_model.to_dict(),
    )
    return recorded(made, step)


def _signal(held_out: HeldOut) -> Signal:
    """Return how the networks' result becomes an expected noisy value: by a line through held-out pixels."""
    from napari_btn.core.training.tuning import Signal

    n, levels = len(held_out.target), held_out.levels
    weights = mean(np.eye(len(levels), dtype=np.float32), levels).astype(np.float64)
    slope, intercept = np.ones(n), np.zeros(n)
    if held_out.observed is not None and held_out.observed.shape == held_out.target.shape:
        for c, (x, y) in enumerate(zip(held_out.target, held_out.observed, strict=True)):
            known = np.isfinite(y)
            if known.sum() > 1 and np.ptp(x[known]) > 0:
                slope[c], intercept[c] = np.polyfit(x[known].astype(np.float64), y[known], 1)
    return Signal(weights, slope, intercept)


def _uncalibrated(calibrated: Calibrated, notes: tuple[Note, ...]) -> Calibrated:
    """Return offsets and a report that promise nothing."""
    lost = (Note("red", _LOST), *notes)
    infinite = np.full_like(calibrated.calibration.offset_lower, np.inf)
    offsets = replace(
        calibrated.calibration, offset_lower=infinite, offset_upper=infinite, width_floor=None, notes=lost
    )
    return Calibrated(calibration=offsets, report=_unmeasured(calibrated.report, lost), invalid=_LOST)


def _unmeasured(report: Report, notes: tuple[Note, ...]) -> Report:
    """Return a report without figures."""
    values: dict[str, Any] = {}
    for one in fields(report):
        value = getattr(report, one.name)
        if isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating):
            # what has a default is empty where it is not measured
            values[one.name] = np.full_like(value, np.nan)
    optional = (
        "bin_width",
        "bin_coverage",
        "pit",
        "group_coverage",
        "group_low",
        "group_high",
        "field_coverage",
    )
    values |= {name: np.empty((len(report.channel_names), 0)) for name in optional}
    values |= {"group_share": np.empty(0), "warnings": notes, "covers": NOT_CALIBRATED}
    values |= {name: type(getattr(report, name))() for name in ("by_predicted", "by_true")}
    return replace(report, **values)
