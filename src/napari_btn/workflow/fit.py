"""Training of an ensemble: plan, members, held-out scores, calibration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.drift import parts_notes, profile_of
from napari_btn.core.calibration.forecast import Forecast, forecast_blocks
from napari_btn.core.data.record import inputs_steps, recipe_step
from napari_btn.core.data.splits import TRAIN, split
from napari_btn.core.networks.family import Member, Networks
from napari_btn.core.progress import Note, Progress, drain
from napari_btn.core.settings import need
from napari_btn.core.supervision.patches import patch_sides, patches_for
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.core.training.plan import Plan, plan_training, validation_part
from napari_btn.model import Learned, Model
from napari_btn.workflow.calibrate import calibrated_steps, scores_steps
from napari_btn.workflow.inputs import scenes_of, sound_pair
from napari_btn.workflow.recipe import recorded
from napari_btn.workflow.refine import split_record
from napari_btn.workflow.start import origin_of, warm_steps
from napari_btn.workflow.unseen import marks_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import View
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, EnsembleSettings, TrainSettings
    from napari_btn.core.supervision.patches import Lesson
    from napari_btn.core.training.processes import Start, Trained
    from napari_btn.workflow.start import Origin

__all__ = ["Outlook", "fit_steps", "plan_of", "prepare", "train_members_steps"]

_ROOM_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Outlook(Plan):
    """A plan of the training, and the held-out blocks that it will have.

    Parameters
    ----------
    forecast : Forecast
        What they permit to promise.
    origin : Origin
        What members start from; ``origin.sentence(10)`` says so for ten of them.
    """

    forecast: Forecast = field(kw_only=True)
    origin: Origin = field(kw_only=True)


def plan_of(pair: Pair, settings: EnsembleSettings, regions: NDArray[Any] | None = None) -> Outlook:
    """Return the plan of a training, without training.

    Parameters
    ----------
    pair : Pair
        Images of the user, all of whose values are read.
    settings : EnsembleSettings
    regions : ndarray of int, (*space), optional
        Painted areas: 1 for training, 2 for calibration, 3 for the report.

    Raises
    ------
    ValueError
        If the images can't be trained on.
    """
    pair, _ = sound_pair(pair)
    way, scenes = supervision_of(settings.supervision), scenes_of(pair, settings)
    drain(scenes.check_steps())
    doubts = drain(way.check_steps(scenes, settings.supervision_settings))
    plan = _plan(scenes, settings, regions, doubts)
    origin = origin_of(settings.train, plan.blueprint, scenes.noisy)
    other = None if regions is not None else _checkerboard(scenes, settings.calibration, plan)
    forecast = forecast_blocks(scenes, plan.split, settings.calibration, other)
    return Outlook(**vars(plan), forecast=forecast, origin=origin)


def _checkerboard(scenes: Scenes, known: CalibrationSettings, plan: Plan) -> Split | None:
    """Return the checkerboard split of the same field; None where it is the plan's own, or impossible."""
    if known.split != "auto" or plan.split.kind != "block":
        return None
    try:
        return split(scenes, plan.receptive_field, replace(known, split="checkerboard"), seed=0)
    except ValueError:
        return None


def _plan(
    scenes: Scenes, settings: EnsembleSettings, regions: NDArray[Any] | None, doubts: tuple[Note, ...]
) -> Plan:
    """Return the plan of a training, with doubts about the data, and a note if training and held-out parts differ."""
    plan = plan_training(scenes, settings, regions)
    unlike = parts_notes(scenes, plan.split, settings.calibration.split)
    changes = () if scenes.noisy.series is None else scenes.noisy.series.notes
    return replace(plan, notes=(*doubts, *changes, *plan.notes, *unlike))


def prepare(compute: Compute) -> None:
    """Load the libraries that training needs, and start the local processes.

    Parameters
    ----------
    compute : Compute
    """
    from napari_btn.core.compute.pool import process_pool

    # before the import, so that processes load their libraries at the same time
    if compute.device == "cpu":
        process_pool()
    import napari_btn.core.training.processes  # noqa: F401  (imported early)


def fit_steps(
    pair: Pair,
    settings: EnsembleSettings,
    compute: Compute,
    *,
    regions: NDArray[Any] | None = None,
    resume: Sequence[Member] = (),
    preview_every: float = 0.0,
) -> Step[Model]:
    """Train, calibrate and report; a step.

    Parameters
    ----------
    pair : Pair
        Noisy and clean images.
    settings : EnsembleSettings
    compute : Compute
    regions : ndarray of int, (*space), optional
        Painted areas instead of the split: 1 for training, 2 for calibration, 3 for the report.
    resume : sequence of Member
        `Progress.checkpoint` of an earlier run with the same settings and data.
    preview_every : float
        Least seconds between previews of the median; 0 for none.

    Raises
    ------
    ValueError
        If the images can't be trained on.
    """
    given = pair
    known = isinstance(resume, list | tuple) and all(isinstance(one, Member) for one in resume)
    need(known, "resume", resume, "a Progress.checkpoint of an earlier run, or left out")
    way, steps = supervision_of(settings.supervision), settings.members * settings.train.steps
    yield Progress(0, steps, "Checking the images")
    pair, detector = sound_pair(pair)
    scenes = scenes_of(pair, settings)
    before = None if detector is None else scenes_of(replace(given, detector=None), settings).noisy
    yield from scenes.check_steps()
    doubts = yield from way.check_steps(scenes, settings.supervision_settings)
    yield Progress(0, steps, "Planning the training")
    if compute.executor is None and settings.train.warm_share > 0:
        # early, so that processes start while the training is planned
        prepare(compute)
    plan = _plan(scenes, settings, regions, doubts)
    origin = origin_of(settings.train, plan.blueprint, scenes.noisy)
    blueprint = origin.wired(plan.blueprint)
    learnt = scenes.within(plan.split.regions, TRAIN)
    own, validation = (
        validation_part(plan.split.train) if settings.train.early_stopping else (plan.split.train, ())
    )
    train = patches_for(_wanted(settings, origin), blueprint, own)
    count, side = train.patches
    sides = patch_sides(side, own)
    shown = f"{count} patch{'es' if count > 1 else ''} of {' x '.join(str(n) for n in sides)} px"
    yield Progress(0, steps, f"Each step learns from {shown}")
    train, lesson = yield from way.lesson_steps(learnt, own, train, validation, settings.supervision_settings)
    trained, start, steps = yield from _members_steps(
        origin, lesson, blueprint, train, settings, compute, resume=resume, preview_every=preview_every
    )
    asked, settings = settings, replace(settings, members=len(trained.members))
    provenance = yield from _provenance_steps(scenes, plan, settings, before)
    provenance |= {"patches": {"count": count, "sides_px": list(sides)}, "start": start}
    if pair.noise_model is not None:
        provenance["noise_model"] = pair.noise_model.to_dict()
    yield Progress(steps, steps, "Calibrating: measuring noise and brightness")
    _need_room()
    learned = Learned(
        networks=Networks(blueprint, trained.members),
        losses=trained.losses,
        notes=(*plan.notes, *trained.notes),
        axes=pair.axes.upper(),
        channel_names=scenes.channel_names,
        pixel_size=pair.pixel_size,
        unit=pair.unit,
        provenance=provenance,
        profile=profile_of(scenes.noisy),
        detector=detector,
    )
    scores, tokens = yield from scores_steps(learned, scenes, plan.split, settings, compute)
    calibrated = yield from calibrated_steps(learned, scores, settings)
    made = Model(settings=settings, learned=learned, scores=scores, calibrated=calibrated, tokens=tokens)
    step = yield from _recipe_steps(given, regions, asked)
    yield Progress(steps, steps, "Calibrated")
    return recorded(made, step)


def _need_room() -> None:
    """Raise a MemoryError unless there is room for the arrays of a calibration of a small image."""
    # NumPy 2.4 reports that a buffer of an addition finds no memory while it doesn't hold the lock of the
    # interpreter, which ends the process; a large array that finds none is an error
    np.empty(_ROOM_BYTES, np.uint8)


def _wanted(settings: EnsembleSettings, origin: Origin) -> TrainSettings:
    """Return the settings that patches are chosen for: of pretrained members, if all are."""
    every, instant = origin.members >= settings.members, settings.train.warm_share == 0
    return settings.train.warm if every or (instant and origin.priors) else settings.train


def _members_steps(
    origin: Origin,
    lesson: Lesson,
    blueprint: Blueprint,
    train: TrainSettings,
    settings: EnsembleSettings,
    compute: Compute,
    *,
    resume: Sequence[Member],
    preview_every: float,
) -> Step[tuple[Trained, dict[str, Any], int]]:
    """Return the members, a record of what they start from, and the number of steps of all; a step.

    Pretrained members without a training are taken as they are, which may be fewer than asked for.
    """
    from napari_btn.core.training.processes import Start, Trained

    warmth = yield from warm_steps(origin, lesson, blueprint, train, settings.members)
    instant, warm = settings.train.warm_share == 0, len(warmth.members)
    if instant and warm:
        taken = Trained(warmth.members, {m.number: () for m in warmth.members}, ())
        return taken, warmth.record, warm * train.steps
    notes: tuple[Note, ...] = ()
    if instant:
        notes = (Note("amber", _not_instant(origin, settings.train.steps)),)
    elif origin.priors and warm < settings.members:
        notes = (Note("amber", _some_random(origin, warm, settings.members)),)
    train = _both(settings.train, _wanted(settings, origin), train)
    start = Start(finished=resume, warm=warmth.members)
    trained = yield from train_members_steps(
        lesson, blueprint, train, settings.members, compute, start=start, preview_every=preview_every
    )
    trained = replace(trained, notes=(*notes, *trained.notes))
    return trained, warmth.record, settings.members * train.steps


def _recipe_steps(
    pair: Pair, regions: NDArray[Any] | None, settings: EnsembleSettings
) -> Step[dict[str, Any]]:
    """Return the record of a training for its recipe; a step."""
    frames = {} if pair.detector is None else pair.detector.to_arrays()
    inputs = yield from inputs_steps(
        {"noisy": pair.noisy, "clean": pair.clean, "valid": pair.valid, "regions": regions, **frames}
    )
    return recipe_step(
        "fit",
        inputs,
        settings=settings.to_dict(),
        axes=pair.axes.upper(),
        channel_names=None if pair.channel_names is None else list(pair.channel_names),
        pixel_size=None if pair.pixel_size is None else list(pair.pixel_size),
        unit=pair.unit,
        valid=pair.valid if isinstance(pair.valid, str) else None,
        noise_model=None if pair.noise_model is None else pair.noise_model.to_dict(),
        detector=None if pair.detector is None else pair.detector.axes,
    )


def _both(asked: TrainSettings, wanted: TrainSettings, chosen: TrainSettings) -> TrainSettings:
    """Return settings of members from random weights and of pretrained ones, with the patches that were chosen.

    Parameters
    ----------
    asked : TrainSettings
        Settings of the user.
    wanted : TrainSettings
        Those of them that patches were chosen for: of pretrained members, if all are.
    chosen : TrainSettings
        The same with patches, and fewer steps if the image is small.
    """
    fewer = chosen.steps < wanted.steps
    return replace(
        asked,
        steps=chosen.steps if fewer or wanted is asked else asked.steps,
        batch_size=chosen.batch_size,
        patch_px=chosen.patch_px,
        augment=chosen.augment,
        warm_share=1.0 if fewer and wanted is not asked else asked.warm_share,
    )


def _not_instant(origin: Origin, steps: int) -> str:
    """Return why an instant result had to wait for a training."""
    why = "they are no better than a constant here" if origin.priors else f"they start from {origin.why}"
    return (
        f"A result without training is not possible: {why}. Members took up to {steps} steps from random "
        "weights; for a better result, train longer."
    )


def _some_random(origin: Origin, warm: int, members: int) -> str:
    """Return why some members start from random weights though there are pretrained ones."""
    held = min(origin.members, members)
    unfit = held - warm
    why = f"{unfit} of {held} pretrained {'is' if unfit == 1 else 'are'} no better than a constant on these images"
    if not unfit:
        why = f"only {held} pretrained {'one is' if held == 1 else 'ones are'} available"
    faster = f" For a shorter training, ask for {_count(warm)}." if warm else ""
    return (
        f"{members - warm} of {_count(members)} took all steps from random weights, because {why}. The "
        f"coverage aimed at doesn't depend on it.{faster}"
    )


def _count(members: int) -> str:
    return f"{members} member{'s' if members > 1 else ''}"


def train_members_steps(
    lesson: Lesson,
    blueprint: Blueprint,
    train: TrainSettings,
    members: int,
    compute: Compute,
    *,
    start: Start,
    preview_every: float = 0.0,
) -> Step[Trained]:
    """Train members in processes, or together on a graphics card; a step.

    Parameters
    ----------
    lesson : Lesson
        Training data.
    blueprint : Blueprint
    train : TrainSettings
        Settings with patch size and number chosen.
    members : int
        Number of members of the ensemble.
    compute : Compute
    start : Start
        Weights to continue from, and members that are trained already.
    preview_every : float
        Least seconds between previews of the median; 0 for none.
    """
    if compute.device == "cpu":
        from napari_btn.core.training.processes import train_steps as run
    else:
        from napari_btn.core.training.card import train_together_steps as run
    return (
        yield from run(
            lesson,
            blueprint,
            train,
            members=members,
            compute=compute,
            start=start,
            preview_every=preview_every,
        )
    )


def _provenance_steps(
    scenes: Scenes, plan: Plan, settings: EnsembleSettings, before: View | None
) -> Step[dict[str, Any]]:
    """Return version, settings and fingerprints, JSON-ready; a step."""
    import torch

    from napari_btn import __version__

    marks = yield from marks_steps(scenes, plan.split, before)
    return {
        "napari_btn": __version__,
        "torch": torch.__version__,
        "settings": settings.to_dict(),
        "receptive_field_px": plan.blueprint.receptive_field,
        "gap_px": plan.split.gap_px,
        "splits": [split_record(plan.split, list(marks["images"].values()))],
        **marks,
    }
