"""Equivalent filters: the weights of the input pixels in one pixel of the median."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.device import exact_arithmetic
from napari_btn.core.compute.pool import one_thread
from napari_btn.core.data.image import Box, View
from napari_btn.core.data.noise import noise_sd
from napari_btn.core.inference.run import loaded
from napari_btn.core.inference.tiles import plan_tiles
from napari_btn.core.progress import Progress, counted
from napari_btn.core.settings import is_whole, need

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from napari_btn.core.networks.family import Blueprint, Member, Networks
    from napari_btn.core.progress import Step

__all__ = ["EquivalentFilter", "filter_steps"]


@dataclass(frozen=True, eq=False)
class EquivalentFilter:
    """The linear filter behind one pixel of the median of an image: a row of the Jacobian.

    ``median = sum(weights * image) + net_bias`` holds exactly, because networks are linear except for their
    ReLUs, each of which is on or off for this image. The filter converts to a numpy array.

    Parameters
    ----------
    crop : ndarray of float32, shape (C, *box)
        Weights within the receptive field, in units of the target per unit of the input; zero elsewhere.
    box : Box
        Position of the crop: scene, and slices over the space axes.
    shape : tuple of int
        Shape of the image.
    axes : str
        Axes of the image.
    at : tuple of int
        Pixel of the median, along the space axes.
    channel : int
        Channel of the median.
    value : float
        Median at the pixel, in units of the target.
    net_bias : float
        Part of the median that depends on no input pixel, in units of the target; 0 for bias-free networks.
    neighbours : tuple of int
        Scenes of the further channels of the crop, if networks see neighbouring frames: C channels each.
    added_sd : tuple of float
        Standard deviation of the noise that was added to each channel; empty if the image is as it came.

    References
    ----------
    Mohan, Kadkhodaie, Simoncelli & Fernandez-Granda, "Robust and interpretable blind image denoising via
    bias-free convolutional neural networks", ICLR 2020, on the Jacobian and the net bias.
    """

    crop: NDArray[np.float32]
    box: Box
    shape: tuple[int, ...]
    axes: str
    at: tuple[int, ...]
    channel: int
    value: float
    net_bias: float
    neighbours: tuple[int, ...] = ()
    added_sd: tuple[float, ...] = ()

    @property
    def frames(self) -> dict[int, NDArray[np.float32]]:
        """Weights (C, *box) by number of the scene: of the pixel's own, and of neighbouring frames."""
        made: dict[int, NDArray[np.float32]] = {}
        numbers = (self.box.scene, *self.neighbours)
        for number, part in zip(numbers, np.split(self.crop, len(numbers)), strict=True):
            # near an end of a series, one frame may stand for two neighbours
            made[number] = made[number] + part if number in made else part
        return made

    @property
    def weights(self) -> NDArray[np.float32]:
        """Weight of every pixel, float32, in the shape of the image."""
        made = np.zeros(self.shape, np.float32)
        view = View(made, self.axes)
        for scene, part in self.frames.items():
            view.write(scene, self.box.slices, part)
        return made

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Return `weights`."""
        if copy is False:
            raise ValueError(
                "The weights are made when they are asked for; ask for a copy, or for `crop` and `box`."
            )
        return self.weights if dtype is None else self.weights.astype(dtype, copy=False)

    @property
    def effective_width(self) -> float:
        """Diameter in pixels of a disc (or ball) that averages as much noise away: from the sum of squared weights.

        Weights are those of the median's own channel; a filter that takes over one pixel has a width of about 1.
        """
        own = self.crop[min(self.channel, len(self.crop) - 1)].astype(np.float64)
        squares = float(np.square(own).sum())
        if squares == 0:
            return 0.0
        # as many equal weights have the same sum and the same sum of squares
        area = float(own.sum()) ** 2 / squares
        return (
            2 * math.sqrt(area / math.pi) if own.ndim == 2 else 2 * float(3 * area / (4 * math.pi)) ** (1 / 3)
        )

    @property
    def centre(self) -> tuple[float, ...]:
        """Centre of the absolute weights along the space axes, in pixels from the pixel of the median."""
        return self._centre_of(self.crop)

    @property
    def displacements(self) -> dict[int, tuple[float, ...]]:
        """Displacement of the weights' centre of each neighbouring frame from that of the pixel's own, in pixels.

        Networks that follow a motion take each frame's weights from where the content is in that frame. Centres
        are those of the squared weights: many small weights around would pull them to the pixel.

        References
        ----------
        Sheth et al., "Unsupervised deep video denoising", ICCV 2021, arXiv 2011.15045: filters of the frames
        follow the motion.
        """
        frames = self.frames
        own = self._centre_of(frames.pop(self.box.scene), power=2)
        return {
            number: tuple(a - b for a, b in zip(self._centre_of(part, power=2), own, strict=True))
            for number, part in frames.items()
        }

    def _centre_of(self, crop: NDArray[np.float32], power: int = 1) -> tuple[float, ...]:
        """Return the centre of absolute weights to a power, in pixels from the pixel of the median."""
        mass = np.power(np.abs(crop.astype(np.float64)), power).sum(0)
        total = float(mass.sum())
        if total == 0:
            return tuple(0.0 for _ in self.at)
        places = np.meshgrid(*(np.arange(s.start, s.stop) for s in self.box.slices), indexing="ij")
        return tuple(float((p * mass).sum() / total - a) for p, a in zip(places, self.at, strict=True))

    @property
    def total(self) -> float:
        """Sum of the weights: change of the median if the whole input were brighter by one, to first order."""
        return float(self.crop.sum(dtype=np.float64))


def filter_steps(
    source: View,
    networks: Networks,
    at: Sequence[int],
    *,
    channel: int = 0,
    scene: int = 0,
    noise_factor: float = 1.0,
    device: str = "cpu",
) -> Step[EquivalentFilter]:
    """Return the equivalent filter of one pixel, the mean over members; a step.

    Parameters
    ----------
    source : View
        Noisy image as networks see it: one of its looks.
    networks : Networks
    at : sequence of int
        Pixel along the space axes.
    channel : int
        Channel of the median.
    scene : int
        Scene of the image.
    noise_factor : float
        Gaussian noise is added so that the noise around the pixel has this many times its standard deviation;
        1 leaves the image as it is.
    device : str
        Name of the device in torch.

    Raises
    ------
    ValueError
        If the pixel or the scene lies outside the image, or the noise is to become less.
    """
    known = isinstance(noise_factor, Real) and noise_factor >= 1
    need(known, "noise_factor", noise_factor, "1 or more: noise can only be added")
    members, blueprint = networks.members, networks.blueprint
    place = tuple(int(p) for p in at)
    inside = len(place) == source.ndim and all(0 <= p < n for p, n in zip(place, source.space, strict=True))
    if not inside or not is_whole(scene) or not 0 <= scene < source.n_scenes:
        raise ValueError(
            f"The pixel is {place} of scene {scene}; the image has {source.space} pixels along "
            f"{source.space_axes} and {counted(source.n_scenes, 'scene')}. Give one index per space axis, from 0."
        )
    pixel = [slice(p, p + 1) for p in place]
    (tile,) = plan_tiles(source.space, 1, blueprint.reach, pixel, blueprint.alignment_px)
    box, keep = tile.read, tile.keep
    x, added = _noisier(source.read_finite(scene, box), noise_factor)
    weights, value = np.zeros(x.shape, np.float64), 0.0
    for done, member in enumerate(members):
        yield Progress(done, len(members), f"Filter of member {done + 1} of {len(members)}")
        row, median = _row(blueprint, member, x, keep, channel, device)
        weights += row / len(members)
        value += median / len(members)
    crop = weights.astype(np.float32)
    bias = value - float(np.sum(crop * x.astype(np.float64)))
    shape = tuple(int(n) for n in source.array.shape)
    frames = source.neighbours(scene)
    return EquivalentFilter(
        crop, Box(scene, box), shape, source.axes, place, channel, value, bias, frames, added
    )


def _noisier(x: NDArray[np.float32], factor: float) -> tuple[NDArray[np.float32], tuple[float, ...]]:
    """Return a crop (C, *box) with more noise, and the standard deviation of what was added to each channel."""
    if factor == 1:
        return x, ()
    added = [math.sqrt(factor**2 - 1) * noise_sd([channel]) for channel in x]
    noise = np.random.default_rng(0).standard_normal(x.shape, np.float32)
    scale = np.asarray(added, np.float32).reshape(-1, *(1,) * (x.ndim - 1))
    return x + scale * noise, tuple(added)


def _row(
    blueprint: Blueprint,
    member: Member,
    x: NDArray[np.float32],
    keep: tuple[slice, ...],
    channel: int,
    device: str,
) -> tuple[NDArray[np.float32], float]:
    """Return the row of the Jacobian (C, *box) and the median of one member at the kept pixel."""
    with one_thread(), exact_arithmetic():
        module = loaded(blueprint, member, device)
        given = torch.from_numpy(np.array(x[None], order="C")).to(device).requires_grad_()
        median = module(given, keep)[0, 0, channel, blueprint.levels.index(0.5)].sum()
        (row,) = torch.autograd.grad(median, given)
        return row[0].cpu().numpy(), float(median.detach())
