"""A first look at an image that has no clean counterpart, by pretrained members and without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box, Image, View
from napari_btn.core.networks.family import Blueprint, Extent, Member, Networks, family_of
from napari_btn.core.progress import Progress
from napari_btn.core.settings import LEVELS, NetworkSettings
from napari_btn.io.priors import shipped_priors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.networks.prior import Prior
    from napari_btn.core.progress import Step

__all__ = ["NO_INTERVAL", "FirstLook", "first_look_steps"]

NO_INTERVAL = (
    "Median of networks that know only made-up images; no interval is promised, because there is no clean "
    "image to calibrate on. They may invent structure, or smooth it away."
)
_GRAINY = 0.3  # autocorrelation of the noise at a lag of one pixel from which it counts as correlated
_MEASURED = 2**20  # pixels in which scale and noise are measured


@dataclass(frozen=True, eq=False)
class FirstLook:
    """The median of pretrained members, without an interval.

    Attributes
    ----------
    median : ndarray of float32
        In the axes and units of the image.
    axes : str
        One letter per dimension.
    channel_names : tuple of str
        Names of the channels; empty if unknown.
    pixel_size : tuple of float, optional
        One per space axis, in ``unit``.
    unit : str
        Unit of the pixel size.
    caption : str
        Sentence on what it is and what it does not promise.
    provenance : dict
        Pretrained members that made it, JSON-ready.
    """

    median: NDArray[np.float32]
    axes: str
    channel_names: tuple[str, ...]
    pixel_size: tuple[float, ...] | None
    unit: str
    caption: str
    provenance: dict[str, Any]


def first_look_steps(image: Image, compute: Compute) -> Step[FirstLook]:
    """Return the median of the package's pretrained members for an image, tile by tile; a step.

    Channels go together where members for so many come with the package, else one by one. Of members for white
    and for correlated noise, the autocorrelation of the noise decides.

    Parameters
    ----------
    image : Image
        Noisy image of any axes, in 2D or 3D.
    compute : Compute

    Raises
    ------
    ValueError
        If the image has values of another kind, or no pretrained members know its dimensions.
    """
    view = image.view
    yield Progress(0, 1, "Measuring the noise")
    middle = view.read_finite(0, _middle(view.space))
    axes = tuple(range(1, middle.ndim))
    mean, sd = middle.mean(axes), middle.std(axes)
    sd = np.where(sd > 0, sd, 1).astype(np.float32)
    groups = _groups(view)
    made = np.empty(tuple(view.array.shape), np.float32)
    target = View(made, view.axes, "median")
    used: list[str] = []
    for k, channels in enumerate(groups):
        prior = _prior_for(view.ndim, len(channels), _noise_lag(middle[channels]))
        used.append(prior.name)
        scaling = {
            "x_loc": mean[channels],
            "x_scale": sd[channels],
            "y_loc": mean[channels],
            "y_scale": sd[channels],
        }
        members = tuple(
            Member(
                m.number, m.attempt, {**m.weights, **{n: v.astype(np.float32) for n, v in scaling.items()}}
            )
            for m in prior.members
        )
        networks = Networks(replace(prior.blueprint, wiring=prior.blueprint.seed), members)
        yield from _predict_steps(view, target, channels, networks, compute, (k, len(groups)))
    return FirstLook(
        made,
        view.axes,
        tuple(image.channel_names or ()),
        image.pixel_size,
        image.unit or "px",
        NO_INTERVAL,
        {"start": {"from": sorted(set(used))}, "covers": "nothing", "note": NO_INTERVAL},
    )


def _predict_steps(
    view: View,
    target: View,
    channels: Sequence[int],
    networks: Networks,
    compute: Compute,
    part: tuple[int, int],
) -> Step[None]:
    """Write the median of some channels, tile by tile; a step."""
    from napari_btn.core.inference.run import tile_quantiles

    source = view if len(channels) == view.n_channels else _ChannelView(view, channels)
    boxes = [Box(s, tuple(slice(0, n) for n in view.space)) for s in range(view.n_scenes)]
    middle = networks.blueprint.levels.index(0.5)
    for progress, tile in tile_quantiles(source, boxes, networks, compute):
        k, n = part
        yield Progress(k * progress.total + progress.done, n * progress.total, progress.note)
        if tile is None:
            continue
        values = target.read(tile.scene, tile.write)
        values[list(channels)] = tile.quantiles[middle]
        target.write(tile.scene, tile.write, values)


class _ChannelView(View):
    """A view of some channels of an image."""

    def __init__(self, view: View, channels: Sequence[int]) -> None:
        super().__init__(view.array, view.axes, "image", first=view._first)
        self._channels = list(channels)
        self.n_channels = len(self._channels)

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return the channels of one scene, or of a box of it, as float32 (C, *space)."""
        return super().read(scene, box)[self._channels]


def _middle(space: Sequence[int]) -> tuple[slice, ...]:
    """Return the middle of an image, in which scale and noise are measured."""
    most = int(_MEASURED ** (1 / len(space)))
    starts = [max(n - most, 0) // 2 for n in space]
    return tuple(slice(s, s + min(n, most)) for s, n in zip(starts, space, strict=True))


def _blueprint(ndim: int, channels: int) -> Blueprint:
    """Return the default networks for a number of channels."""
    network = NetworkSettings()
    plan = family_of(network.family).plan(network, Extent(ndim))
    return Blueprint(network, plan, channels, channels, ndim, LEVELS, 0)


def _groups(view: View) -> list[list[int]]:
    """Return the channels that are denoised together."""
    every = list(range(view.n_channels))
    return [every] if shipped_priors(_blueprint(view.ndim, view.n_channels)) else [[c] for c in every]


def _prior_for(ndim: int, channels: int, lag: float) -> Prior:
    """Return the pretrained members for noise of an autocorrelation at a lag of one pixel."""
    priors = shipped_priors(_blueprint(ndim, channels))
    if not priors:
        raise ValueError(
            f"No pretrained networks know images of {channels} channel{'s' if channels > 1 else ''} in {ndim}D. Train "
            "on a noisy and a clean image instead."
        )
    wanted = "correlated" if lag > _GRAINY else "white"
    kinds = {str(p.record.get("corpus", {}).get("grain", "")): p for p in priors}
    return kinds.get(wanted) or kinds.get("mixed") or priors[0]


def _noise_lag(values: NDArray[np.float32]) -> float:
    """Return the largest autocorrelation of the noise at a lag of one pixel, over channels and axes."""
    from napari_btn.core.data.noise_models import NoiseModel

    try:
        noise = NoiseModel.fit(values, "CZYX" if values.ndim == 4 else "CYX")
    except ValueError:
        # too small, or without noise, to measure
        return 0.0
    return float(np.nan_to_num(noise.correlation[..., 1]).mean(-1).max())
