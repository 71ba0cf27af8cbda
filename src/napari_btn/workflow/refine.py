"""Refinement: continued training of members, new calibration, and the gain.

Members remember the images of all earlier trainings. So a bundle records which pixels of which images
were trained on. An image that comes again must have the same split, and pixels near a window that was
measured again no longer calibrate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.drift import parts_notes, profile_of
from napari_btn.core.data.copies import patches_steps
from napari_btn.core.data.fingerprint import fingerprint_steps
from napari_btn.core.data.image import Box
from napari_btn.core.data.record import inputs_steps, recipe_step
from napari_btn.core.data.splits import CALIBRATE, TRAIN
from napari_btn.core.data.windows import (
    boxes_of,
    join,
    places_in,
    shifted,
    window_scenes,
    windows_of,
    without_near,
)
from napari_btn.core.progress import Note, Progress
from napari_btn.core.supervision.patches import patches_for
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.workflow.calibrate import calibrated_steps, scores_steps
from napari_btn.workflow.inputs import scenes_for, sound_view
from napari_btn.workflow.recipe import recorded
from napari_btn.workflow.unseen import as_given, marks_steps, need_no_copies_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.grouping import Grouping
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image, View
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.data.windows import Window
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TrainSettings
    from napari_btn.core.supervision.registry import Supervision
    from napari_btn.model import Model, Scores

__all__ = ["Refinement", "refine_steps", "split_record"]

_STEPS, _RATE = 0.5, 0.5
_MARGIN = 8  # margin around a window in 1/8 patches; a larger one would favour the middle of windows
_DRAWS = 1_000_000  # most batches of one training


@dataclass(frozen=True, eq=False)
class Refinement:
    """The gain of a refinement, measured on the same held-out pixels.

    Parameters
    ----------
    before, after : Report
        Reports of the members before and after, each calibrated and cross-fitted on pixels that neither
        training used.
    windows : int
        Number of windows that were trained on.
    """

    before: Report
    after: Report
    windows: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return windows, and width and coverage per channel, as a JSON-ready dict."""
        parts = {"before": self.before, "after": self.after}
        measured = {
            f"{what} {when}": [float(v) for v in getattr(report, what)]
            for what in ("width", "coverage")
            for when, report in parts.items()
        }
        return {"windows": self.windows, "channel_names": list(self.after.channel_names), **measured}

    def __str__(self) -> str:
        rows = zip(
            self.after.channel_names, self.before.width, self.after.width, self.after.coverage, strict=True
        )
        return "\n".join(
            f"{name}: mean width {old:.4g} -> {new:.4g} ({new / old - 1:+.1%}), coverage {inside:.3f}"
            for name, old, new, inside in rows
        )


@dataclass(frozen=True, eq=False)
class _Plan:
    """A plan of a refinement.

    Parameters
    ----------
    learnt : Scenes
        Scenes of the pair, and a scene for each window.
    boxes : tuple of Box
        Training part.
    counted : Scenes
        Scenes of the pair, without pixels too near to a window to calibrate or report.
    notes : tuple of Note
    provenance : dict
        Provenance, with the images of this training.
    first_draw : int
        First draw of a batch, as in `Start`.
    """

    learnt: Scenes
    boxes: tuple[Box, ...]
    counted: Scenes
    notes: tuple[Note, ...]
    provenance: dict[str, Any]
    first_draw: int


def _gentler(train: TrainSettings) -> TrainSettings:
    """Return settings for a refinement: half the steps at half the rate, so that members forget little."""
    return replace(
        train, steps=max(round(_STEPS * train.steps), 1), learning_rate=_RATE * train.learning_rate
    )


def split_record(split: Split, images: Sequence[str]) -> dict[str, Any]:
    """Return a record of the training pixels of the images, JSON-ready.

    Parameters
    ----------
    split : Split
        Split of the images.
    images : sequence of str
        Fingerprints of the images.
    """
    painted = None
    if split.regions is not None:
        labels = np.ascontiguousarray(split.regions, np.int64)
        painted = hashlib.sha256(labels.tobytes()).hexdigest()
    return {
        "images": sorted(images),
        "train": [[b.scene, _plain(b.slices)] for b in split.train],
        "held_out": [[b.scene, _plain(b.slices)] for b in split.held_out],
        "painted": painted,
    }


def _plain(box: Sequence[slice]) -> list[list[int]]:
    """Return a box as numbers."""
    return [[s.start, s.stop] for s in box]


def refine_steps(
    model: Model,
    pair: Pair,
    compute: Compute,
    *,
    windows: Sequence[tuple[Any, Any]] = (),
    image: Image | None = None,
    train: TrainSettings | None = None,
    regions: NDArray[Any] | None = None,
) -> Step[tuple[Model, Refinement]]:
    """Continue the training of a model, then calibrate and report again; a step.

    Parameters
    ----------
    model : Model
    pair : Pair
        Pair of the first training, which keeps its split, or another pair.
    compute : Compute
    windows : sequence of (Region or sequence of int, array)
        Position and measured values of each window; all windows are for training.
    image : Image, optional
        Noisy image of the windows; that of the pair by default.
    train : TrainSettings, optional
        Settings of the training; by default those of the model, changed by `_gentler`.
    regions : ndarray of int, (*space), optional
        Painted areas of the pair.

    Returns
    -------
    tuple of Model, Refinement
        New model, and its gain on the same held-out pixels. A palette is kept only if groups need one.

    Raises
    ------
    ValueError
        If the images or windows don't fit the model, or members were trained on pixels that would
        calibrate.
    """
    from napari_btn.core.training.processes import Start
    from napari_btn.workflow.fit import train_members_steps

    settings = model.settings
    wanted = _gentler(settings.train) if train is None else train
    yield Progress(0, settings.members * wanted.steps, "Checking the images")
    scenes = scenes_for(model, pair)
    yield from scenes.check_steps()
    way, reach = supervision_of(settings.supervision), model.blueprint.receptive_field
    if windows:
        _need_learnable_windows(len(windows), way, scenes.noisy)
    doubts = yield from way.check_steps(scenes, settings.supervision_settings)
    parts = way.split(scenes, reach, settings.calibration, seed=settings.seed, regions=regions)
    wanted = patches_for(wanted, model.blueprint, parts.train)
    seen = scenes.noisy if image is None else sound_view(model, image.view)
    places = windows_of(windows, seen, model.channel_names)
    before_repair = as_given(model, pair)
    plan = yield from _plan_steps(
        model, scenes, parts, places, seen, before_repair, patch_px=wanted.patches[1]
    )
    train, lesson = yield from way.lesson_steps(
        plan.learnt, plan.boxes, wanted, (), settings.supervision_settings
    )
    start = Start(model.networks.members, plan.first_draw)
    trained = yield from train_members_steps(
        lesson, model.blueprint, train, settings.members, compute, start=start
    )
    learned = replace(
        model.learned,
        networks=replace(model.networks, members=trained.members),
        losses={k: (*model.learned.losses.get(k, ()), *v) for k, v in trained.losses.items()},
        notes=(*doubts, *plan.notes, *trained.notes, *_regroup_notes(model.scores.grouping)),
        provenance=plan.provenance,
        profile=profile_of(scenes.noisy),
    )
    scores, tokens = yield from scores_steps(learned, plan.counted, parts, settings, compute)
    calibrated = yield from calibrated_steps(learned, scores, settings, model.calibrated.locks)
    before = yield from _report_before_steps(model, plan, parts, scores, compute)
    total = settings.members * train.steps
    yield Progress(total, total, "Calibrated")
    made = replace(model, learned=learned, scores=scores, calibrated=calibrated, tokens=tokens)
    step = yield from _recipe_steps(pair, [values for _, values in windows], places, image, wanted, regions)
    return recorded(made, step), Refinement(before, calibrated.report, len(windows))


def _need_learnable_windows(count: int, way: Supervision, noisy: View) -> None:
    """Raise ``ValueError`` if members can't learn from measured windows."""
    if not way.windows:
        raise ValueError(
            f'{count} windows came, and these members learned without clean images ("{way.name}"); windows are '
            "measured values, which need members that were trained on a pair. Refine without windows, or train on a "
            "pair."
        )
    if noisy.series is not None:
        raise ValueError(
            f"{count} windows came, and these members see {noisy.series.count} frames at a time, which a "
            "window lacks. Refine without windows, or train members that see single frames (frames=1)."
        )


def _report_before_steps(
    model: Model, plan: _Plan, split: Split, scores: Scores, compute: Compute
) -> Step[Report]:
    """Return the report of the members before, on the blocks of the new scores; a step."""
    former = replace(model.learned, notes=plan.notes)
    before, _ = yield from scores_steps(former, plan.counted, split, model.settings, compute, model.tokens)
    # the same blocks for both, so that only the members differ
    blocks = replace(before.held_out, block=scores.held_out.block)
    before = replace(before, held_out=blocks, block_px=scores.block_px)
    earlier = yield from calibrated_steps(former, before, model.settings)
    return earlier.report


def _recipe_steps(
    pair: Pair,
    measured: Sequence[Any],
    places: Sequence[Window],
    image: Image | None,
    train: TrainSettings,
    regions: NDArray[Any] | None,
) -> Step[dict[str, Any]]:
    """Return the record of a refinement for its recipe; a step."""
    given = {"noisy": pair.noisy, "clean": pair.clean, "valid": pair.valid, "regions": regions}
    windows = {f"window{k}": values for k, values in enumerate(measured, 1)}
    inputs = yield from inputs_steps({**given, **windows, "image": None if image is None else image.data})
    for k, place in enumerate(places, 1):
        # what was measured may lie in a file of the whole field
        inputs[f"window{k}"]["window"] = [[side.start, side.stop] for side in place.box]
    return recipe_step(
        "refine",
        inputs,
        train=train.to_dict(),
        axes=pair.axes.upper(),
        valid=pair.valid if isinstance(pair.valid, str) else None,
        windows=[list(window.start) for window in places],
        image_axes=None if image is None else image.view.axes,
    )


def _plan_steps(
    model: Model,
    scenes: Scenes,
    split: Split,
    windows: Sequence[Window],
    image: View,
    given: View | None,
    *,
    patch_px: int,
) -> Step[_Plan]:
    """Return the pixels for training and those that may still calibrate; a step.

    All windows are for training, because they were chosen as hard and would bias a calibration. Pixels
    within the receptive field around a window can't calibrate.
    """
    provenance, reach_px = model.learned.provenance, model.blueprint.receptive_field
    prints = yield from fingerprint_steps(scenes.noisy)
    record = split_record(split, list(prints.values()))
    earlier, splits = provenance.get("refined", []), provenance.get("splits", [])
    _need_same_split(record, splits, earlier, provenance)
    remembered = list(provenance.get("remembered", []))
    before_repair = set(provenance.get("given_images", ()))
    if record not in splits:
        yield from need_no_copies_steps(model, scenes, split.held_out, also=given)
        marks = yield from marks_steps(scenes, split, given)
        remembered.extend(marks["remembered"])
        before_repair |= set(marks.get("given_images", ()))
    now: dict[str, Any] = {"image": None, "windows": [], "near": {}}
    if windows:
        (now["image"],) = (yield from fingerprint_steps(image)).values()
        now["windows"] = [_plain(window.box) for window in windows]
        places = places_in(scenes, image, windows)
        around = [Box(0, window.box) for window in windows]
        remembered.append({"noisy": (yield from patches_steps(image, around))})
        now["near"] = {prints[str(s)]: [_plain(b) for b in boxes] for s, boxes in places.items()}
    counted = scenes
    for one in (*earlier, now):
        places = {
            int(s): [tuple(slice(a, b) for a, b in box) for box in one["near"].get(found, ())]
            for s, found in prints.items()
        }
        counted = without_near(counted, places, reach_px)
    judged = counted.within(split.regions, CALIBRATE)
    if not any(np.isfinite(judged.read_clean(b.scene, b.slices)).all(0).any() for b in split.held_out):
        raise ValueError(
            "The windows leave nothing of the held-out part to calibrate on. Propose windows away from it, or give "
            "another pair."
        )
    images = dict(provenance.get("images", {}))
    for name, found in (*prints.items(), ("windows", now["image"])):
        if found is not None and found not in images.values():
            images[f"{len(earlier) + 1}: {name}"] = found
    extra = window_scenes(image, windows, scenes.channel_names, patch_px // _MARGIN)
    return _Plan(
        join([scenes.within(split.regions, TRAIN), *extra]),
        (*split.train, *boxes_of(extra, scenes.noisy.n_scenes)),
        counted,
        (*split.notes, *parts_notes(scenes, split, model.settings.calibration.split), *shifted(extra)),
        {
            **provenance,
            "images": images,
            "splits": splits if record in splits else [*splits, record],
            "remembered": remembered,
            **({"given_images": sorted(before_repair)} if before_repair else {}),
            "refined": [*earlier, now],
        },
        _DRAWS * (1 + len(earlier)),
    )


def _need_same_split(
    record: dict[str, Any],
    splits: Sequence[dict[str, Any]],
    refined: Sequence[dict[str, Any]],
    provenance: dict[str, Any],
) -> None:
    """Raise ``ValueError`` if images of an earlier training would be split in another way."""
    known = set(provenance.get("images", {}).values()) - {one["image"] for one in refined}
    for old in splits:
        known -= set(old["images"])
        if set(old["images"]) & set(record["images"]) and old != record:
            raise ValueError(
                "Members were trained on some of these images in another split, so also on pixels that would be held "
                "out now. Give all images of that training, with its `regions`, or other images."
            )
    if known & set(record["images"]):
        raise ValueError(
            "Members were trained on these images, but the training pixels are unknown. Give other images as noisy "
            "and clean, or train again."
        )


def _regroup_notes(grouping: Grouping | None) -> tuple[Note, ...]:
    """Return a note if groups of a mask were calibrated separately before the refinement."""
    if grouping is None or grouping.model is not None:
        return ()
    text = "Groups of a mask were calibrated separately before, now all pixels together. Calibrate with groups again."
    return (Note("amber", text),)
