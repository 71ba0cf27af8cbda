"""The families of U-Nets, plain convolutional networks and convolutional autoencoders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from napari_btn.core.networks.family import Blueprint, Extent, Family

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.networks.trunk import Trunk
    from napari_btn.core.settings import NetworkSettings

__all__ = ["CDAE", "DNCNN", "UNET", "Layer"]

_WIDER = 4  # a level has at most so many times the channels of the first: cost grows with their square
_MOST_POOLINGS = 6


@dataclass(frozen=True)
class _Stages:
    """The convolutions of all members of an ensemble, by resolution.

    Parameters
    ----------
    down : tuple of int
        Convolutions before each pooling, at the full resolution first; as many again follow each
        upsampling, in reverse order. Empty for a plain stack.
    bottom : int
        Convolutions at the lowest resolution.
    """

    down: tuple[int, ...]
    bottom: int

    @property
    def poolings(self) -> int:
        """Number of times that the resolution is halved."""
        return len(self.down)

    @classmethod
    def of(cls, depth: int, poolings: int) -> _Stages:
        """Return the stages of a number of convolutions: two each, the rest at the lowest resolution.

        Parameters
        ----------
        depth : int
            Convolutions in all.
        poolings : int
        """
        each = 2 if depth >= 4 * poolings + 2 else 1
        return cls((each,) * poolings, max(depth - 2 * each * poolings, 1))


@dataclass(frozen=True)
class Layer:
    """One convolution.

    Parameters
    ----------
    level : int
        Number of poolings before it.
    reads, makes : int
        Channels.
    """

    level: int
    reads: int
    makes: int


class _ConvolutionalFamily(Family):
    """Convolutions of 3 pixels a side in order, each followed by a ReLU.

    Heads read the last layer where there are skips; else every layer, or every one from the bottleneck on,
    because deep stacks without normalisation learn weak channels late from their last layer alone. The heads'
    input skip adds the noisy image: members learn what differs from a multiple of it.

    Parameters
    ----------
    pools : bool
        Halve the resolution between stages, by averages, and double it again.
    skips : bool
        Let each stage after an upsampling read the stage of the same resolution before the poolings.
    """

    dilates = False

    def __init__(self, *, pools: bool, skips: bool) -> None:
        self.pools, self.skips = pools, skips

    def plan(self, settings: NetworkSettings, extent: Extent) -> _Stages:
        """Return the stages: as many poolings as the depth allows, fewer for a small image.

        Parameters
        ----------
        settings : NetworkSettings
            With ``depth`` convolutions in all. A pooling takes four, and two are left for the lowest
            resolution: 10, 18 and 26 give two, four and six poolings.
        extent : Extent
            With a wanted receptive field, there are as many poolings as it needs.
        """
        depth, limit = settings.depth, extent.limit_px
        most = min(max((depth - 2) // 4, min(depth // 3, 1)), _MOST_POOLINGS) if self.pools else 0
        if self.pools and extent.field_px is not None:
            most = 0
            while self._reach_of(_Stages.of(4 * most + 2, most)) < extent.field_px and most < _MOST_POOLINGS:
                most += 1
            depth = 4 * most + 2
        stages = _Stages.of(depth, most)
        while limit is not None and stages.poolings and self._reach_of(stages) > limit:
            stages = _Stages.of(4 * (stages.poolings - 1) + 2, stages.poolings - 1)
        if limit is not None and not stages.poolings:
            stages = replace(stages, bottom=max(min(stages.bottom, limit), 1))
        return stages

    def trunk(self, blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> Trunk:
        """Return the trunk of some members, weights not set."""
        from napari_btn.core.networks.convolutional.trunk import Convolutional

        layers, first = self.layers(blueprint), self._first_feature(blueprint.plan)
        return Convolutional(len(members), layers, blueprint.ndim, features_from=first, skips=self.skips)

    def _first_feature(self, stages: _Stages) -> int:
        """Return the number of the first layer that heads read: the last one, or the first after the poolings."""
        before = sum(stages.down)
        return (
            2 * before + stages.bottom - 1
            if self.skips
            else before + max(stages.bottom - 1, 0) * bool(before)
        )

    def layers(self, blueprint: Blueprint) -> tuple[Layer, ...]:
        """Return the convolutions of a member, in order.

        Parameters
        ----------
        blueprint : Blueprint
        """
        stages, first = blueprint.plan, blueprint.settings.channels * blueprint.settings.inputs
        wide = [first * min(2**level, _WIDER) for level in range(stages.poolings + 1)]
        # without skips, all that is known of a pixel passes the lowest resolution: as wide as the first level
        lowest = wide[-1] if self.skips else first
        made, width = [], blueprint.n_in
        for level, count in enumerate(stages.down):
            made += _stage(level, count, width, wide[level], wide[level])
            width = wide[level]
        made += _stage(stages.poolings, stages.bottom, width, wide[-1], lowest)
        width = lowest
        for level in reversed(range(stages.poolings)):
            read = width + (wide[level] if self.skips else 0)
            made += _stage(level, stages.down[level], read, wide[level], wide[level])
            width = wide[level]
        return tuple(made)

    def reach(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return how many pixels a member sees to each side along each space axis."""
        return (self._reach_of(blueprint.plan),) * blueprint.ndim

    def _reach_of(self, stages: _Stages) -> int:
        """Return the half-width of the receptive field, of the pixel of a pooled square that sees farthest."""
        farthest = 0
        for pixel in range(2**stages.poolings):
            low = high = pixel
            seen = []
            for count in stages.down:
                low, high = low - count, high + count
                seen.append((low, high))
                low, high = low // 2, high // 2
            low, high = low - stages.bottom, high + stages.bottom
            for count, (skip_low, skip_high) in zip(reversed(stages.down), reversed(seen), strict=True):
                low, high = 2 * low, 2 * high + 1
                if self.skips:
                    low, high = min(low, skip_low), max(high, skip_high)
                low, high = low - count, high + count
            farthest = max(farthest, pixel - low, high - pixel)
        return farthest

    def alignment(self, blueprint: Blueprint) -> int:
        """Return the stride of all poolings together."""
        return int(2**blueprint.plan.poolings)

    def widths(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return the channels of the layers that heads and tokens read."""
        first = self._first_feature(blueprint.plan)
        return tuple(layer.makes for layer in self.layers(blueprint)[first:])

    def multiplications(self, blueprint: Blueprint) -> int:
        """Return the multiplications of a prediction per pixel."""
        return round(
            sum(
                c.reads * c.makes * int(3**blueprint.ndim) * self._share(blueprint, c)
                for c in self.layers(blueprint)
            )
        )

    def floats(self, blueprint: Blueprint) -> int:
        """Return how many numbers per pixel a training step of a trunk keeps, to a factor of about two."""
        # what each layer reads and makes, and their gradients
        return round(sum(2 * (c.reads + c.makes) * self._share(blueprint, c) for c in self.layers(blueprint)))

    @staticmethod
    def _share(blueprint: Blueprint, layer: Layer) -> float:
        """Return the pixels of a layer as a share of those of the image."""
        return float(2.0 ** (-blueprint.ndim * layer.level))

    def to_dict(self, plan: _Stages) -> dict[str, Any]:
        """Return the stages as entries of a bundle."""
        return {"down": list(plan.down), "bottom": plan.bottom}

    def from_dict(self, values: Mapping[str, Any]) -> _Stages:
        """Return the stages from the values of a bundle."""
        return _Stages(tuple(values["down"]), values["bottom"])


def _stage(level: int, count: int, reads: int, width: int, last: int) -> list[Layer]:
    """Return the convolutions at one resolution, the last of which may have another width."""
    widths = (reads, *(width,) * (count - 1), last)
    return [Layer(level, n_in, n_out) for n_in, n_out in pairwise(widths)]


UNET = _ConvolutionalFamily(pools=True, skips=True)
"""U-Nets: an encoder and a decoder, joined at each resolution (Ronneberger et al., arXiv 1505.04597)."""

DNCNN = _ConvolutionalFamily(pools=False, skips=False)
"""Plain stacks with a residual output, without normalisation (Zhang et al., IEEE TIP 26 (2017) 3142)."""

CDAE = _ConvolutionalFamily(pools=True, skips=False)
"""Autoencoders: the image passes a bottleneck of low resolution (Gondara, arXiv 1608.04667)."""
