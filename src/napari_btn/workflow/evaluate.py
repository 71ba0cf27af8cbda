"""Evaluation of a trained model: coverage by level and place, gain of members, equivalent filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.groups import coverage_apart
from napari_btn.core.data.image import channel_number
from napari_btn.core.evaluation.diagnostics import (
    coverage_curve,
    inside_map,
    miscoverage_map,
    values_at_held_out,
)
from napari_btn.core.settings import need
from napari_btn.workflow.calibrate import held_out_intervals
from napari_btn.workflow.inputs import axes_seen, is_same, need_same, scenes_for, seen_by
from napari_btn.workflow.unseen import as_given, need_unseen_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image, View
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.evaluation.gain import EnsembleGain
    from napari_btn.core.inference.jacobian import EquivalentFilter
    from napari_btn.core.networks.sms.graph import Graph
    from napari_btn.core.progress import Step
    from napari_btn.model import Model

__all__ = [
    "coverage_apart_of",
    "coverage_by_level",
    "equivalent_filter_steps",
    "gain_of_members_steps",
    "graph_of_member",
    "held_out_inside",
    "missed_share",
]


def coverage_by_level(model: Model, alphas: Sequence[float]) -> NDArray[np.float64]:
    """Return the cross-fitted coverage after calibration at several levels, (C, A).

    Parameters
    ----------
    model : Model
    alphas : sequence of float
        Miscoverage levels.
    """
    model.need_calibrated()
    grouping = model.scores.grouping
    group = None if grouping is None else grouping.groups(grouping.held_out).astype(np.int64)
    return coverage_curve(
        model.scores.held_out,
        model.settings.calibration,
        alphas,
        group=group,
        parents=None if grouping is None else grouping.parents,
        seed=model.settings.seed,
    )


def missed_share(
    model: Model, shape: Sequence[int], axes: str | None = None, image: Image | None = None
) -> NDArray[np.float32]:
    """Return a map of the cross-fitted share of missed pixels in each held-out block.

    Parameters
    ----------
    model : Model
    shape : sequence of int
        Shape of the calibration field in pixels, one number per space axis in the order ZYX. If scenes have
        their own targets, one number per axis of the image except C, in its order.
    axes : str, optional
        Axes of the image; those of training by default.
    image : Image, optional
        Image of the map, which must be the calibration image.

    Returns
    -------
    ndarray of float32, (C, *shape)
        0 to 1; NaN outside the held-out blocks.

    Raises
    ------
    ValueError
        If the held-out pixels don't lie within the shape, or come from another image.
    """
    model.need_calibrated()
    scores, ndim = model.scores, model.blueprint.ndim
    if image is not None:
        need_same(seen_by(model, image), scores.held_out)
    known = axes_seen(axes or model.learned.axes, model.settings).replace("C", "")
    letters = "ZYX"[-ndim:] if len(shape) == ndim else known
    if len(letters) != len(shape):
        raise ValueError(
            f"The shape {tuple(shape)} has {len(shape)} numbers; give one per axis of {letters}, or {ndim} for "
            "the space axes alone."
        )
    lower, _, upper = _intervals(model)
    return miscoverage_map(scores.held_out, lower, upper, shape, letters)


def held_out_inside(model: Model, view: View, shape: Sequence[int], axes: str) -> NDArray[np.float32] | None:
    """Return a map of the held-out pixels inside their cross-fitted intervals.

    Parameters
    ----------
    model : Model
    view : View
        Noisy image.
    shape : sequence of int
        Shape of the map, in ``axes``.
    axes : str
        One letter per dimension.

    Returns
    -------
    ndarray of float32, or None
        Map as `diagnostics.inside_map` makes it; None if the held-out pixels are of another image.
    """
    if model.calibrated.invalid or not is_same(view, model.scores.held_out):
        return None
    lower, _, upper = _intervals(model)
    return inside_map(model.scores.held_out, lower, upper, shape, axes)


def coverage_apart_of(
    model: Model, image: Image, labels: NDArray[np.integer[Any]], axes: str, number: int
) -> NDArray[np.float64] | None:
    """Return the coverage (C,) of a token if it were calibrated separately; None if it is worth too few blocks.

    Parameters
    ----------
    model : Model
    image : Image
        Result of `inputs.image_for`, which must be the calibration image.
    labels : ndarray of int
        Token of each pixel.
    axes : str
        One letter per dimension of the labels.
    number : int
        Number of the token.

    Raises
    ------
    ValueError
        If the held-out pixels come from another image.
    """
    settings, held_out = model.settings, model.scores.held_out
    need_same(seen_by(model, image), held_out)
    return coverage_apart(
        held_out,
        values_at_held_out(held_out, labels, axes) == number,
        alpha=settings.alpha,
        settings=settings.calibration,
        seed=settings.seed,
    )


def _look_at(view: View, scene: int, at: Sequence[int]) -> View:
    """Return the view that weighs most in the prediction of a pixel."""
    box = tuple(slice(int(i), int(i) + 1) for i in at)
    weights = [1.0 if one.weight is None else float(np.max(one.weight(scene, box))) for one in view.looks]
    return view.looks[int(np.argmax(weights))].view


def _intervals(model: Model) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return the cross-fitted intervals of the held-out pixels."""
    settings = model.settings
    return held_out_intervals(model.scores, model.calibrated.calibration, settings.calibration, settings.seed)


def graph_of_member(model: Model, member: int) -> Graph:
    """Return the graph of a member.

    Parameters
    ----------
    model : Model
    member : int
        Number of the member, from 0.

    Raises
    ------
    ValueError
        If there is no such member.
    """
    from napari_btn.core.networks.family import graph_of

    members = model.networks.members
    need(0 <= member < len(members), "member", member, f"0 to {len(members) - 1}")
    return graph_of(model.blueprint, members[member].number, members[member].attempt)


def gain_of_members_steps(
    model: Model, pair: Pair, compute: Compute, sizes: Sequence[int]
) -> Step[EnsembleGain]:
    """Return the gain of several ensemble sizes on new images; a step.

    Parameters
    ----------
    model : Model
    pair : Pair
        Noisy and clean images.
    compute : Compute
    sizes : sequence of int
        Numbers of members; numbers above the size of the ensemble are left out.

    Raises
    ------
    ValueError
        If the images don't fit the networks, or members were trained on them.
    """
    from napari_btn.core.evaluation.gain import gain_steps

    scenes = scenes_for(model, pair)
    yield from scenes.check_steps()
    yield from need_unseen_steps(model, scenes, as_given(model, pair))
    settings = model.settings
    return (
        yield from gain_steps(
            scenes,
            model.networks,
            compute,
            alpha=settings.alpha,
            sizes=sizes,
            settings=settings.calibration,
            seed=settings.seed,
        )
    )


def equivalent_filter_steps(
    model: Model,
    image: Image,
    at: Sequence[int],
    compute: Compute,
    *,
    channel: str | int | None = None,
    scene: int = 0,
    noise_factor: float = 1.0,
) -> Step[EquivalentFilter]:
    """Return the equivalent filter of one pixel of the median; a step.

    Parameters
    ----------
    model : Model
    image : Image
        Noisy image; only the receptive field of the pixel is read.
    at : sequence of int
        Pixel, one index along each space axis (Z, Y, X).
    compute : Compute
    channel : str or int, optional
        Channel of the median; needed if there are several.
    scene : int
        Number of the scene, S times T in that order, from 0.
    noise_factor : float
        As in `filter_steps`: with so many times the noise.

    Raises
    ------
    ValueError
        If the image has no such pixel or channel, or the noise is to become less.
    """
    from napari_btn.core.inference.jacobian import filter_steps

    number = channel_number(channel, model.channel_names)
    whole = np.iterable(at) and all(hasattr(index, "__index__") for index in at)
    need(whole, "at", at, f"one whole number for each of {', '.join(image.view.space_axes)}, from 0")
    return (
        yield from filter_steps(
            _look_at(seen_by(model, image), scene, at),
            model.networks,
            at,
            channel=number,
            scene=scene,
            noise_factor=noise_factor,
            device=compute.device,
        )
    )
