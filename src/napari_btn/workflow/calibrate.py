"""Calibration: held-out scores, groups of pixels, offsets and their report.

Long because every way to calibrate (first time, another level, other images, groups) ends in the same steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.calibration.drift import profile_of
from napari_btn.core.calibration.groups import calibrate_groups, cross_fitted_groups
from napari_btn.core.calibration.held_out import held_out_steps, noise_share, saturation_notes, target_noise
from napari_btn.core.data.record import inputs_steps, recipe_step
from napari_btn.core.data.splits import CALIBRATE, REPORT, spread_boxes
from napari_btn.core.evaluation.report import Judged, report_on
from napari_btn.core.progress import Note, Progress
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.model import Calibrated, Scores, distribution_of
from napari_btn.workflow.inputs import axes_seen, image_for, need_same, over_space, scenes_for, seen_by
from napari_btn.workflow.recipe import recorded
from napari_btn.workflow.unseen import as_given, need_unseen_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.conformal import Calibration
    from napari_btn.core.calibration.groups import GroupCalibration
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Box, View
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Kind, Split
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, EnsembleSettings
    from napari_btn.core.tokens.learn import TokenModel
    from napari_btn.model import Learned, Model

__all__ = [
    "calibrate_steps",
    "calibrated_steps",
    "group_labels_steps",
    "held_out_intervals",
    "scores_steps",
]


def calibrate_steps(
    model: Model,
    compute: Compute,
    settings: EnsembleSettings,
    *,
    pair: Pair | None = None,
    groups: Any = None,
) -> Step[Model]:
    """Return the model calibrated at another level or on other data, without training; a step.

    Parameters
    ----------
    model : Model
    compute : Compute
    settings : EnsembleSettings
        Settings of the model, with another ``alpha`` or ``calibration``.
    pair : Pair, optional
        Images that no member was trained on; all of their pixels calibrate. Without ``clean``, the image of
        the stored scores, which ``groups`` may need.
    groups : int or array of int, optional
        Groups that are calibrated separately: a number of tokens, or the group of each pixel, from 1; 0 for
        none.

    Raises
    ------
    ValueError
        If members were trained on these images, or groups can't be found.
    """
    if groups is None and settings.calibration.groups != model.settings.calibration.groups:
        groups = settings.calibration.groups
    mask = groups is not None and not isinstance(groups, int | np.integer)
    if groups is not None:
        count = 0 if mask else int(groups)
        settings = replace(settings, calibration=replace(settings.calibration, groups=count))
    if pair is None or pair.clean is None:
        model.need_calibrated()
    learned, scores, view = model.learned, model.scores, None
    if pair is not None:
        yield Progress(0, 1, "Checking the images")
        if pair.noisy is None:
            view = scenes_for(model, pair).noisy  # simulated
        else:
            view = seen_by(model, image_for(model, pair.noisy, pair.axes))
        if pair.clean is not None or groups is None:
            _need_groups(scores, groups)
            learned, scores = yield from _scores_on_steps(model, pair, settings, compute)
        else:
            need_same(view, scores.held_out)
    tokens = model.tokens
    if mask:
        axes = axes_seen(learned.axes, settings) if view is None else view.axes
        scores = _in_mask(scores, over_space(groups, axes))
    else:
        count = settings.calibration.groups
        scores, tokens = yield from _in_tokens_steps(model, scores, view, groups, count, compute)
    calibrated = yield from calibrated_steps(learned, scores, settings, model.calibrated.locks)
    given = {"noisy": None, "clean": None, "valid": None, "groups": groups if mask else None}
    if pair is not None:
        given |= {"noisy": pair.noisy, "clean": pair.clean, "valid": pair.valid}
    inputs = yield from inputs_steps(given)
    step = recipe_step(
        "calibrate",
        inputs,
        alpha=settings.alpha,
        calibration=settings.calibration.to_dict(),
        groups=None if groups is None or mask else int(groups),
        axes=None if pair is None else pair.axes,
        valid=pair.valid if pair is not None and isinstance(pair.valid, str) else None,
        noise_model=None if pair is None or pair.noise_model is None else pair.noise_model.to_dict(),
    )
    yield Progress(1, 1, "Calibrated")
    made = replace(
        model, settings=settings, learned=learned, scores=scores, calibrated=calibrated, tokens=tokens
    )
    return recorded(made, step)


def scores_steps(
    learned: Learned,
    scenes: Scenes,
    parts: Split,
    settings: EnsembleSettings,
    compute: Compute,
    tokens: TokenModel | None = None,
) -> Step[tuple[Scores, TokenModel | None]]:
    """Predict the held-out part, in groups if the settings ask for them; a step.

    Parameters
    ----------
    learned : Learned
        Trained members.
    scenes : Scenes
        Training images.
    parts : Split
        Their training and held-out parts.
    settings : EnsembleSettings
    compute : Compute
    tokens : TokenModel, optional
        Palette, if there is one.

    Returns
    -------
    tuple of Scores, TokenModel or None
        The palette is learned if groups need one.
    """
    judged = scenes.within(parts.regions, CALIBRATE)
    scores = yield from _measured_steps(learned, judged, parts.held_out, settings, compute, kind=parts.kind)
    if parts.report:
        apart = scenes.within(parts.regions, REPORT)
        other = yield from _measured_steps(learned, apart, parts.report, settings, compute, kind=parts.kind)
        scores = replace(scores, reported=other.held_out)
    if settings.calibration.groups:
        return (yield from _by_tokens_steps(learned, scores, tokens, scenes.noisy, settings, compute))
    return scores, tokens


def _measured_steps(
    learned: Learned,
    scenes: Scenes,
    boxes: Sequence[Box],
    settings: EnsembleSettings,
    compute: Compute,
    *,
    kind: Kind,
) -> Step[Scores]:
    """Return the scores of boxes that no member was trained on; a step."""
    boxes = spread_boxes(boxes, scenes.noisy.ndim)
    held_out, block_px = yield from held_out_steps(
        scenes,
        boxes,
        learned.networks,
        compute,
        kind=kind,
        alpha=settings.alpha,
        settings=settings.calibration,
    )
    way = supervision_of(settings.supervision)
    covers, notes = way.covers(target_noise(scenes, boxes, held_out), learned.channel_names, scenes)
    notes = (*notes, *saturation_notes(held_out, settings.train.saturation, learned.channel_names))
    noise = noise_share(held_out, way.noise_variance)
    return Scores(held_out=held_out, block_px=block_px, covers=covers, notes=notes, noise=noise)


def _scores_on_steps(
    model: Model, pair: Pair, settings: EnsembleSettings, compute: Compute
) -> Step[tuple[Learned, Scores]]:
    """Return the scores of other images, of which all pixels calibrate together; a step."""
    scenes = scenes_for(model, pair)
    yield from scenes.check_steps()
    way = supervision_of(settings.supervision)
    doubts = yield from way.check_steps(scenes, settings.supervision_settings)
    yield from need_unseen_steps(model, scenes, as_given(model, pair))
    kind: Kind = "block" if scenes.one_field else "field"
    scores = yield from _measured_steps(model.learned, scenes, scenes.whole(), settings, compute, kind=kind)
    return replace(model.learned, notes=doubts, profile=profile_of(scenes.noisy)), scores


def calibrated_steps(
    learned: Learned, scores: Scores, settings: EnsembleSettings, locks: Mapping[str, float] | None = None
) -> Step[Calibrated]:
    """Return offsets and report from held-out scores; a step.

    Parameters
    ----------
    learned : Learned
        Trained members, whose notes go into the report.
    scores : Scores
        Held-out scores; their grouping is calibrated separately.
    settings : EnsembleSettings
        Gives ``alpha``, ``calibration``, and the seed of folds and bootstrap.
    locks : mapping of str to float, optional
        Locked threshold by channel name, to keep.
    """
    yield Progress(0, 3, "Calibrating: computing offsets")
    how, alpha, grouping = settings.calibration, settings.alpha, scores.grouping
    calibration = calibrate(scores.held_out, alpha=alpha, settings=how)
    groups, group, on = None, None, scores.held_out
    if grouping is not None:
        group = grouping.groups(grouping.held_out)
        groups = calibrate_groups(
            scores.held_out, group, parents=grouping.parents, alpha=alpha, settings=how, name=grouping.name
        )
    yield Progress(1, 3, "Calibrating: cross-fitting the blocks")
    if scores.reported is None:
        intervals = held_out_intervals(scores, calibration, how, settings.seed)
    else:
        on, intervals = scores.reported, _reported_intervals(scores, calibration, groups)
        if grouping is not None and grouping.reported is not None:
            group = grouping.groups(grouping.reported)
    yield Progress(2, 3, "Calibrating: measuring coverage")
    found = calibration.notes if groups is None else groups.notes
    judged = Judged(
        on,
        *intervals,
        block_px=scores.block_px,
        group=group,
        group_name=grouping.name if grouping else "token",
    )
    report = report_on(
        judged,
        alpha=alpha,
        rule=calibration.rule,
        notes=(*learned.notes, *scores.notes, *found),
        channel_names=learned.channel_names,
        covers=scores.covers,
        seed=settings.seed,
    )
    distribution = distribution_of(scores.held_out, calibration)
    return Calibrated(
        calibration=calibration,
        report=report,
        distribution=distribution,
        groups=groups,
        locks=dict(locks or {}),
    )


def _reported_intervals(
    scores: Scores, calibration: Calibration, groups: GroupCalibration | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the intervals of the pixels for the report alone."""
    assert scores.reported is not None, "pixels to report on are painted"
    quantiles, grouping = scores.reported.quantiles, scores.grouping
    if groups is None or grouping is None or grouping.reported is None:
        return calibration.interval(quantiles)
    return groups.interval(quantiles, grouping.groups(grouping.reported))


def held_out_intervals(
    scores: Scores, calibration: Calibration, settings: CalibrationSettings, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return lower, median and upper (C, n) of the held-out pixels, cross-fitted over blocks.

    Parameters
    ----------
    scores : Scores
    calibration : Calibration
    settings : CalibrationSettings
    seed : int
        Seed of the folds.
    """
    grouping = scores.grouping
    if grouping is None:
        return cross_fitted(scores.held_out, calibration, folds=settings.folds, seed=seed)
    return cross_fitted_groups(
        scores.held_out,
        grouping.groups(grouping.held_out),
        parents=grouping.parents,
        alpha=calibration.alpha,
        settings=settings,
        seed=seed,
    )


# ---------------------------------------------------------------- groups


def _need_groups(scores: Scores, groups: Any) -> None:
    """Raise ``ValueError`` if groups were painted and other images come without groups."""
    if groups is None and scores.grouping is not None and scores.grouping.model is None:
        raise ValueError(
            "Groups of a mask are calibrated separately; give groups of these images as well, or groups=0 to "
            "calibrate all pixels together."
        )


def _in_tokens_steps(
    model: Model, scores: Scores, view: View | None, groups: int | None, count: int, compute: Compute
) -> Step[tuple[Scores, TokenModel | None]]:
    """Return the scores with pixels grouped by ``count`` tokens, or as before; a step."""
    known = scores.grouping
    if not count:
        return replace(scores, grouping=known if groups is None else None), model.tokens
    if view is not None:
        settings = replace(model.settings, calibration=replace(model.settings.calibration, groups=count))
        return (yield from _by_tokens_steps(model.learned, scores, model.tokens, view, settings, compute))
    if known is None or known.model is None:
        raise ValueError(
            f"groups is {count}, and the tokens of the held-out pixels are unknown; give their image: "
            f"calibrate(noisy, groups={count})."
        )
    grouping = replace(known, count=min(count, known.model.palette.size))
    return replace(scores, grouping=grouping), model.tokens


def _by_tokens_steps(
    learned: Learned,
    scores: Scores,
    tokens: TokenModel | None,
    view: View,
    settings: EnsembleSettings,
    compute: Compute,
) -> Step[tuple[Scores, TokenModel]]:
    """Group held-out pixels by token, and learn a palette if there is none; a step."""
    from napari_btn.core.calibration.grouping import Grouping, leaves_at_steps, model_steps
    from napari_btn.core.inference.latents import EnsembleLatents

    count = settings.calibration.groups
    source = EnsembleLatents(view, learned.networks, compute)
    model = tokens or (yield from model_steps(source, view, count, seed=settings.seed))
    held_out = yield from leaves_at_steps(source, model, _positions(scores.held_out))
    reported = None
    if scores.reported is not None:
        reported = yield from leaves_at_steps(source, model, _positions(scores.reported))
    grouping = Grouping(min(count, model.palette.size), held_out, model, reported)
    return replace(scores, grouping=grouping), model


def _in_mask(scores: Scores, mask: View) -> Scores:
    """Group held-out pixels by a painted mask."""
    from napari_btn.core.calibration.grouping import mask_grouping

    reported = None if scores.reported is None else _positions(scores.reported)
    return replace(scores, grouping=mask_grouping(mask, _positions(scores.held_out), reported))


def group_labels_steps(
    model: Model, view: View, mask: View | None, compute: Compute
) -> Step[tuple[NDArray[np.integer[Any]] | None, tuple[Note, ...]]]:
    """Return the group of each pixel of an image, and notes on it; a step.

    Parameters
    ----------
    model : Model
    view : View
        Noisy image.
    mask : View, optional
        Groups of the image, if groups were painted.
    compute : Compute

    Returns
    -------
    tuple of (ndarray of int, (S, *space), or None), tuple of Note
        Groups from 0, -1 for none; None if all pixels are calibrated together.

    Raises
    ------
    ValueError
        If a mask is given but not needed, or does not fit the image.
    """
    from napari_btn.core.calibration.grouping import leaf_map_steps
    from napari_btn.core.inference.latents import EnsembleLatents

    grouping = model.scores.grouping
    painted = grouping is not None and grouping.model is None
    if mask is not None and not painted:
        how = "by token" if grouping is not None else "all together"
        raise ValueError(
            f"groups came, but pixels were calibrated {how}; leave them out, or calibrate(groups=...) by a mask first."
        )
    if grouping is None:
        return None, ()
    if grouping.model is not None:
        source = EnsembleLatents(view, model.networks, compute)
        return grouping.groups((yield from leaf_map_steps(source, grouping.model))), ()
    if mask is None:
        text = "Groups of a mask were calibrated separately, but this image has no mask: all pixels are taken together."
        return None, (Note("amber", text + " Give predict its groups."),)
    if mask.space != view.space or mask.n_scenes not in (1, view.n_scenes):
        raise ValueError(f"groups have shape {mask.space}, the image {view.space}; they must match.")
    scenes = [mask.read(s if mask.n_scenes > 1 else 0)[0] for s in range(view.n_scenes)]
    return np.stack(scenes).astype(np.int32) - 1, ()


def _positions(part: Any) -> NDArray[np.int64]:
    """Return scene and index of stored pixels."""
    if part.position is None:
        raise ValueError(
            "The held-out pixels have no positions; groups need them. Calibrate on images again."
        )
    position: NDArray[np.int64] = part.position
    return position
