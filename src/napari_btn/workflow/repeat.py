"""Repetition of the steps of a recipe on the same images, bit by bit the same on the same kind of CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_btn.core.calibration.dose import Dose
from napari_btn.core.calibration.fusion import fuse_steps
from napari_btn.core.data.detector import Detector
from napari_btn.core.data.noise_models import NoiseModel
from napari_btn.core.data.record import inputs_steps, unpacked
from napari_btn.core.settings import (
    AdaptSettings,
    CalibrationSettings,
    EnsembleSettings,
    TokenSettings,
    TrainSettings,
)
from napari_btn.workflow.adapt import adapt_steps
from napari_btn.workflow.calibrate import calibrate_steps
from napari_btn.workflow.fit import fit_steps
from napari_btn.workflow.inputs import image_for, pair_for, pair_of
from napari_btn.workflow.predict import predict_steps
from napari_btn.workflow.propose import propose_steps, sizes_of
from napari_btn.workflow.recipe import with_files
from napari_btn.workflow.refine import refine_steps
from napari_btn.workflow.search import Choice, Search
from napari_btn.workflow.tokens import edited_again_steps, tokens_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.progress import Step
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.model import Model
    from napari_btn.workflow.recipe import Recipe

__all__ = ["HASHED", "REPEATED", "Repeated", "run_recipe_steps"]

REPEATED = ("fit", "refine", "adapt", "calibrate", "tokens", "edit", "predict", "regions", "fuse")
"""Steps that can be repeated."""
HASHED = {"makes": "weights and offsets", "maps": "maps", "labels": "labels", "regions": "regions"}
"""Names of the results of a step that have a hash, by their key in the record."""


class _Opener(Protocol):
    """Opens an input of a recipe."""

    def __call__(self, name: str, known: Mapping[str, Any], /) -> Any:
        """Return the array of an input."""


@dataclass(frozen=True)
class Repeated:
    """The result of a recipe that was run.

    Parameters
    ----------
    model : Model
        The model after all steps.
    prediction : Prediction, optional
        The prediction, if there is one of the model, with what was fused.
    tokens : Tokens, optional
        The tokens, if the last step makes or edits them.
    regions : tuple of Region, optional
        Windows that were proposed on the prediction.
    image : array, optional
        What was predicted, as it was opened.
    differences : tuple of str
        Sentences on hashes that differ from the recorded ones; empty if every bit is the same.
    compared : int
        Number of hashes that were compared.
    """

    model: Model
    prediction: Prediction | None = None
    tokens: Tokens | None = None
    regions: tuple[Region, ...] | None = None
    image: Any = None
    differences: tuple[str, ...] = ()
    compared: int = 0

    @property
    def last(self) -> dict[str, Any]:
        """The record of the last step."""
        made = self.prediction or self.tokens
        provenance = self.model.learned.provenance if made is None else made.provenance
        return dict(provenance["recipe"][-1])


def run_recipe_steps(recipe: Recipe, opened: _Opener, compute: Compute) -> Step[Repeated]:
    """Repeat the steps of a recipe; a step.

    Parameters
    ----------
    recipe : Recipe
    opened : callable
        Opens an input by its name in `Recipe.inputs` and what is known of it.
    compute : Compute
        Hashes are the same on the CPU alone.

    Raises
    ------
    ValueError
        If a step can't be repeated, or an input has another hash than the recorded one.
    """
    first, unknown = recipe.steps[0]["do"], [s["do"] for s in recipe.steps if s["do"] not in REPEATED]
    if unknown or first != "fit":
        raise ValueError(
            f"The recipe has the steps {', '.join(s['do'] for s in recipe.steps)}; it must begin with fit, and what "
            f"can be repeated is {', '.join(REPEATED)}. Repeat the others in a script."
        )
    arrays = yield from _arrays_steps(recipe, opened)
    made: Repeated | None = None
    differences, compared = [], 0
    for number, step in enumerate(recipe.steps, 1):
        given = {name: arrays[known["sha256"]] for name, known in step.get("inputs", {}).items()}
        made = _with_places((yield from _repeat_steps(made, step, given, compute)), step)
        last = made.last
        for what, name in HASHED.items():
            if what in step and what in last:
                compared += 1
                if step[what] != last[what]:
                    then, now = (
                        ", ".join(f"{k} {v}" for k, v in s.get("versions", {}).items()) for s in (step, last)
                    )
                    differences.append(
                        f"Step {number} ({step['do']}) gives other {name} than recorded; recorded with {then}, "
                        f"now {now}."
                    )
    assert made is not None, "a recipe has a step"
    return replace(made, differences=tuple(differences), compared=compared)


def _with_places(made: Repeated, step: Mapping[str, Any]) -> Repeated:
    """Return a result whose record says where the inputs lie, as the record of the step that was repeated does."""
    files = {name: known["file"] for name, known in step.get("inputs", {}).items() if "file" in known}
    if made.prediction is not None:
        known = with_files(made.prediction.provenance, files)
        return replace(made, prediction=replace(made.prediction, provenance=known))
    if made.tokens is not None:
        return replace(
            made, tokens=replace(made.tokens, provenance=with_files(made.tokens.provenance, files))
        )
    learned = made.model.learned
    learned = replace(learned, provenance=with_files(learned.provenance, files))
    return replace(made, model=replace(made.model, learned=learned))


def _arrays_steps(recipe: Recipe, opened: _Opener) -> Step[dict[str, Any]]:
    """Open all inputs and compare their hashes with the recorded ones; a step."""
    arrays = {}
    for name, known in recipe.inputs.items():
        array = opened(name, known)
        found = yield from inputs_steps({name: array})
        if found[name]["sha256"] != known["sha256"]:
            raise ValueError(
                f"The input {name} has shape {tuple(found[name]['shape'])}, type {found[name]['dtype']} and the hash "
                f"{found[name]['sha256'][:12]}; the recipe was made with {tuple(known['shape'])}, {known['dtype']}, "
                f"{known['sha256'][:12]}. Give the same image."
            )
        arrays[known["sha256"]] = array
    return arrays


def _detector_of(step: Mapping[str, Any], given: Mapping[str, Any]) -> Detector | None:
    """Return the detector of a step, from its frames; None without."""
    return None if "detector" not in step else Detector.from_arrays(given, step["detector"])


def _repeat_steps(
    before: Repeated | None, step: Mapping[str, Any], given: Mapping[str, Any], compute: Compute
) -> Step[Repeated]:
    """Repeat one step."""
    valid = given.get("valid", step.get("valid"))
    if step["do"] == "fit":
        return Repeated((yield from _fit_steps(step, given, valid, compute)))
    assert before is not None, "the first step is fit"
    if step["do"] in ("regions", "fuse"):
        return (yield from _measure_again_steps(before, step, given))
    model = before.model
    if step["do"] == "edit":
        if before.tokens is None:
            raise ValueError("The recipe has edit without tokens before it. Export it again.")
        return Repeated(model, tokens=(yield from edited_again_steps(before.tokens, step)))
    if step["do"] == "calibrate":
        how = CalibrationSettings.from_dict(step["calibration"])
        settings = replace(model.settings, alpha=step["alpha"], calibration=how)
        pair, noise = None, _noise_model(step)
        if "noisy" in given or noise is not None:
            pair = pair_for(model, given.get("noisy"), given.get("clean"), step["axes"], valid)
            pair = replace(pair, noise_model=noise)
        groups = given.get("groups", step.get("groups"))
        return Repeated((yield from calibrate_steps(model, compute, settings, pair=pair, groups=groups)))
    if step["do"] == "refine":
        return Repeated((yield from _refine_steps(model, step, given, valid, compute)))
    image = image_for(model, given["image"], step["axes"], step.get("pixel_size"), step.get("unit"))
    if step["do"] == "adapt":
        noise = _noise_model(step)
        return Repeated(
            (yield from adapt_steps(model, image, compute, AdaptSettings.from_dict(step["settings"]), noise))
        )
    if step["do"] == "tokens":
        wanted = TokenSettings.from_dict(step["tokens"])
        made, tokens = yield from tokens_steps(
            model, image, compute, wanted, refit=step["refit"], valid=valid
        )
        return Repeated(made, tokens=tokens)
    prediction = yield from predict_steps(
        model, image, compute, groups=given.get("groups"), valid=valid, detector=_detector_of(step, given)
    )
    return Repeated(model, prediction, image=given["image"])


def _measure_again_steps(
    before: Repeated, step: Mapping[str, Any], given: Mapping[str, Any]
) -> Step[Repeated]:
    """Repeat the choice of windows, or the fusion with what was measured in one."""
    prediction = before.prediction
    if prediction is None:
        raise ValueError(f"The recipe has {step['do']} without a prediction before it. Export it again.")
    if step["do"] == "regions":
        sizes = sizes_of(prediction)
        search = Search.from_dict(step["search"], [sizes[a] for a in "ZYX" if a in sizes])
        proposal = yield from propose_steps(prediction, Choice.from_dict(step["choice"]), search)
        known = replace(prediction, provenance=proposal.provenance)
        return replace(before, prediction=known, regions=proposal.regions)
    window = tuple(slice(int(a), int(b)) for a, b in step["inputs"]["counts"]["window"])
    counts, mask = given["counts"], step.get("mask")
    if mask is not None:
        counts = np.where(unpacked(mask, counts.shape), counts, np.nan)
    fused = yield from fuse_steps(prediction, window, counts, Dose.from_dict(step), scene=int(step["scene"]))
    return replace(before, prediction=fused)


def _noise_model(step: Mapping[str, Any]) -> NoiseModel | None:
    """Return the noise model of a step, if it has one."""
    return NoiseModel.from_dict(step["noise_model"]) if step.get("noise_model") is not None else None


def _fit_steps(
    step: Mapping[str, Any], given: Mapping[str, Any], valid: Any, compute: Compute
) -> Step[Model]:
    """Repeat a training."""
    settings = EnsembleSettings.from_dict(step["settings"])
    images = pair_of(
        given.get("noisy"),
        given.get("clean"),
        step["axes"],
        channel_names=step.get("channel_names"),
        pixel_size=step.get("pixel_size"),
        unit=step.get("unit", "px"),
        valid=valid,
        noise_model=_noise_model(step),
        detector=_detector_of(step, given),
    )
    compute = replace(compute, tiles=settings.tiles, workers=max(min(compute.workers, settings.members), 1))
    return (yield from fit_steps(images, settings, compute, regions=given.get("regions")))


def _refine_steps(
    model: Model, step: Mapping[str, Any], given: Mapping[str, Any], valid: Any, compute: Compute
) -> Step[Model]:
    """Repeat a refinement."""
    places = step.get("windows", ())
    if len(places) < sum(name.startswith("window") for name in given):
        raise ValueError(
            "The recipe does not say where its windows lie: an earlier napari-btn made it. Repeat the refinement in a "
            "script."
        )
    image = given.get("image")
    made, _ = yield from refine_steps(
        model,
        pair_for(model, given["noisy"], given.get("clean"), step["axes"], valid),
        compute,
        windows=[(place, given[f"window{k}"]) for k, place in enumerate(places, 1)],
        image=None if image is None else image_for(model, image, step["image_axes"]),
        train=TrainSettings.from_dict(step["train"]),
        regions=given.get("regions"),
    )
    return made
