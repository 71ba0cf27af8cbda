"""From held-out scores to calibrated intervals and their report, for all pixels together or group by group."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.calibration.groups import calibrate_groups, cross_fitted_groups
from napari_btn.core.evaluation.report import report_on
from napari_btn.core.progress import Note, Progress
from napari_btn.model import Fitted, at_stage, distribution_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from napari_btn.core.calibration.conformal import Calibration
    from napari_btn.core.calibration.groups import GroupCalibration
    from napari_btn.core.data.image import View
    from napari_btn.core.inference.latents import LatentSource
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import CalibrationSettings, TileSettings
    from napari_btn.model import Measured

__all__ = ["by_mask", "by_tokens_steps", "calibrated_steps", "held_out_intervals", "labels_steps"]


def calibrated_steps(
    fitted: Measured, alpha: float, settings: CalibrationSettings, seed: int
) -> Step[Fitted]:
    """The same with offsets and report at a level, from the stored held-out scores; a step.

    Parameters
    ----------
    fitted : Measured
        Trained, with held-out scores, and their grouping where groups are calibrated apart.
    alpha : float
        Miscoverage.
    settings : CalibrationSettings
        Unit, score, folds and minimum.
    seed : int
        Seed of folds and bootstrap.
    """
    yield Progress(0, 3, "Calibrating: how far intervals must reach")
    calibration = calibrate(fitted.held_out, alpha=alpha, settings=settings)
    made = partial(
        at_stage,
        Fitted,
        fitted,
        calibration=calibration,
        distribution=distribution_of(fitted.held_out, calibration),
    )
    groups, grouping = None, fitted.grouping
    about: dict[str, Any] = {
        "channel_names": fitted.channel_names,
        "covers": fitted.covers,
        "block_px": fitted.block_px,
        "seed": seed,
    }
    if grouping is not None:
        group = grouping.groups(grouping.held_out)
        groups = calibrate_groups(
            fitted.held_out,
            group,
            parents=grouping.parents,
            alpha=alpha,
            settings=settings,
            name=grouping.name,
        )
        about |= {"group": group, "group_name": grouping.name}
    on, intervals = fitted.held_out, None
    if fitted.reported is not None:
        on, intervals = fitted.reported, _reported_intervals(fitted, calibration, groups)
        if grouping is not None and grouping.reported is not None:
            about["group"] = grouping.groups(grouping.reported)
    yield Progress(1, 3, "Calibrating: checking each block by the others")
    if intervals is None:
        intervals = held_out_intervals(fitted, calibration, settings, seed)
    yield Progress(2, 3, "Calibrating: measuring coverage")
    notes = calibration.notes if groups is None else groups.notes
    measured = report_on(
        on, *intervals, alpha=alpha, rule=calibration.rule, notes=(*fitted.notes, *notes), **about
    )
    return made(report=measured, groups=groups)


def _reported_intervals(
    fitted: Measured, calibration: Calibration, groups: GroupCalibration | None
) -> tuple[NDArray[np.float32], ...]:
    """Intervals of the pixels that a report is measured on, which no offset comes from."""
    assert fitted.reported is not None, "pixels to report on are painted"
    quantiles, grouping = fitted.reported.quantiles, fitted.grouping
    if groups is None or grouping is None or grouping.reported is None:
        return calibration.interval(quantiles)
    return groups.interval(quantiles, grouping.groups(grouping.reported))


def held_out_intervals(
    fitted: Measured, calibration: Calibration, settings: CalibrationSettings, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Lower, median and upper (C, n) of the held-out pixels; no block's offset used that block."""
    grouping = fitted.grouping
    if grouping is None:
        return cross_fitted(fitted.held_out, calibration, folds=settings.folds, seed=seed)
    return cross_fitted_groups(
        fitted.held_out,
        grouping.groups(grouping.held_out),
        parents=grouping.parents,
        alpha=calibration.alpha,
        settings=settings,
        seed=seed,
    )


# ---------------------------------------------------------------- groups


def by_tokens_steps(
    fitted: Measured,
    view: View,
    count: int,
    *,
    seed: int,
    tiles: TileSettings,
    executor: Executor | None,
    device: str,
) -> Step[Measured]:
    """The same with every held-out pixel in the group of its token; a step.

    Parameters
    ----------
    fitted : Measured
        Trained, with held-out scores of this image; its palette is used, or one is learned.
    view : View
        The noisy image.
    count : int
        Tokens that are calibrated apart.
    """
    from napari_btn.core.calibration.grouping import Grouping, leaves_at_steps, model_steps

    source = _latents(fitted, view, tiles, executor, device)
    model = fitted.tokens or (yield from model_steps(source, view, count, seed=seed))
    held_out = yield from leaves_at_steps(source, model, _positions(fitted.held_out))
    reported = None
    if fitted.reported is not None:
        reported = yield from leaves_at_steps(source, model, _positions(fitted.reported))
    grouping = Grouping(min(count, model.palette.size), held_out, model, reported)
    return replace(fitted, tokens=fitted.tokens or model, grouping=grouping)


def by_mask(fitted: Measured, mask: View) -> Measured:
    """The same with every held-out pixel in the group that was painted there.

    Parameters
    ----------
    fitted : Measured
        Trained, with held-out scores.
    mask : View
        Groups from 1, 0 for none, over the field that was calibrated on.

    Raises
    ------
    ValueError
        If the mask doesn't cover the held-out pixels, or holds none of them.
    """
    from napari_btn.core.calibration.grouping import mask_grouping

    reported = None if fitted.reported is None else _positions(fitted.reported)
    return replace(fitted, grouping=mask_grouping(mask, _positions(fitted.held_out), reported))


def labels_steps(
    fitted: Fitted,
    view: View,
    mask: View | None,
    *,
    tiles: TileSettings,
    executor: Executor | None,
    device: str,
) -> Step[tuple[NDArray[np.integer[Any]] | None, tuple[Note, ...]]]:
    """Group of each pixel of an image (S, *space) from 0, -1 for none, and what to know of it; a step.

    Parameters
    ----------
    fitted : Fitted
        Trained and calibrated.
    view : View
        The noisy image.
    mask : View, optional
        Its groups, where groups were painted.

    Raises
    ------
    ValueError
        If a mask comes and none is needed, or it doesn't fit the image.
    """
    from napari_btn.core.calibration.grouping import leaf_map_steps

    grouping = fitted.grouping
    painted = grouping is not None and grouping.model is None
    if mask is not None and not painted:
        how = "by token" if grouping is not None else "all together"
        raise ValueError(
            f"groups came, but pixels were calibrated {how}; leave them out, or calibrate(groups=...) by a mask first."
        )
    if grouping is None:
        return None, ()
    if grouping.model is not None:
        source = _latents(fitted, view, tiles, executor, device)
        return grouping.groups((yield from leaf_map_steps(source, grouping.model))), ()
    if mask is None:
        text = "Groups were calibrated apart by a mask, and this image came without one: all pixels together."
        return None, (Note("amber", text + " Give predict its groups."),)
    if mask.space != view.space or mask.n_scenes not in (1, view.n_scenes):
        raise ValueError(f"groups have shape {mask.space}, the image {view.space}; they must match.")
    scenes = [mask.read(s if mask.n_scenes > 1 else 0)[0] for s in range(view.n_scenes)]
    return np.stack(scenes).astype(np.int32) - 1, ()


def _latents(
    fitted: Measured, view: View, tiles: TileSettings, executor: Executor | None, device: str
) -> LatentSource:
    from napari_btn.core.inference.latents import EnsembleLatents

    return EnsembleLatents(
        view, fitted.members, fitted.blueprint, tiles=tiles, executor=executor, device=device
    )


def _positions(part: Any) -> NDArray[np.int64]:
    """Scene and index of stored pixels."""
    if part.position is None:
        raise ValueError(
            "The held-out pixels have no positions; groups need them. Calibrate on images again."
        )
    position: NDArray[np.int64] = part.position
    return position
