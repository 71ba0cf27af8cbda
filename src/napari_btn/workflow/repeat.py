"""Repetition of the steps of a recipe on the same images, bit by bit the same on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from napari_btn.core.data.detector import Detector
from napari_btn.core.settings import CalibrationSettings, EnsembleSettings, TokenSettings
from napari_btn.workflow.calibrate import calibrate_steps
from napari_btn.workflow.fit import fit_steps
from napari_btn.workflow.inputs import image_for, pair_for, pair_of
from napari_btn.workflow.predict import predict_steps
from napari_btn.workflow.recipe import inputs_steps
from napari_btn.workflow.tokens import tokens_steps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.progress import Step
    from napari_btn.model import Model
    from napari_btn.workflow.recipe import Recipe

__all__ = ["Opener", "Repeated", "run_recipe_steps"]

_REPEATED = ("fit", "calibrate", "tokens", "predict")


class Opener(Protocol):
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
        The prediction, if the last step makes one.
    differences : tuple of str
        Sentences on hashes that differ from the recorded ones; empty if every bit is the same.
    compared : int
        Number of hashes that were compared.
    """

    model: Model
    prediction: Prediction | None
    differences: tuple[str, ...]
    compared: int


def run_recipe_steps(recipe: Recipe, opened: Opener, compute: Compute) -> Step[Repeated]:
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
    first, unknown = recipe.steps[0]["do"], [s["do"] for s in recipe.steps if s["do"] not in _REPEATED]
    if unknown or first != "fit":
        raise ValueError(
            f"The recipe has the steps {', '.join(s['do'] for s in recipe.steps)}; it must begin with fit, and what "
            f"can be repeated is {', '.join(_REPEATED)}. Repeat the others in a script."
        )
    arrays = yield from _arrays_steps(recipe, opened)
    model: Any = None
    prediction, differences, compared = None, [], 0
    for number, step in enumerate(recipe.steps, 1):
        given = {name: arrays[known["sha256"]] for name, known in step.get("inputs", {}).items()}
        model, prediction = yield from _repeat_steps(model, step, given, compute)
        last = (prediction.provenance if prediction else model.learned.provenance)["recipe"][-1]
        for what, name in (("makes", "weights and offsets"), ("maps", "maps")):
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
    return Repeated(model, prediction, tuple(differences), compared)


def _arrays_steps(recipe: Recipe, opened: Opener) -> Step[dict[str, Any]]:
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
    model: Model | None, step: Mapping[str, Any], given: Mapping[str, Any], compute: Compute
) -> Step[tuple[Model, Prediction | None]]:
    """Repeat one step; return the model, and the prediction if it makes one."""
    valid = given.get("valid", step.get("valid"))
    if step["do"] == "fit":
        if step.get("noise_model") is not None:
            raise ValueError(
                "The recipe trains on simulated noise; repeat it in a script with its noise model."
            )
        settings = EnsembleSettings.from_dict(step["settings"])
        about = {k: step.get(k) for k in ("channel_names", "pixel_size")}
        images = pair_of(
            given.get("noisy"),
            given.get("clean"),
            step["axes"],
            valid=valid,
            unit=step.get("unit", "px"),
            detector=_detector_of(step, given),
            **about,
        )
        compute = replace(
            compute, tiles=settings.tiles, workers=max(min(compute.workers, settings.members), 1)
        )
        return (yield from fit_steps(images, settings, compute, regions=given.get("regions"))), None
    assert model is not None, "the first step is fit"
    if step["do"] == "calibrate":
        how = CalibrationSettings.from_dict(step["calibration"])
        settings = replace(model.settings, alpha=step["alpha"], calibration=how)
        pair = (
            pair_for(model, given["noisy"], given.get("clean"), step["axes"], valid)
            if "noisy" in given
            else None
        )
        groups = given.get("groups", step.get("groups"))
        return (yield from calibrate_steps(model, compute, settings, pair=pair, groups=groups)), None
    image = image_for(model, given["image"], step["axes"], step.get("pixel_size"), step.get("unit"))
    if step["do"] == "tokens":
        wanted = TokenSettings.from_dict(step["tokens"])
        return (yield from tokens_steps(model, image, compute, wanted, refit=step["refit"], valid=valid))[
            0
        ], None
    return model, (
        yield from predict_steps(
            model, image, compute, groups=given.get("groups"), valid=valid, detector=_detector_of(step, given)
        )
    )
