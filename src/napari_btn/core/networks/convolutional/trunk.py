"""Convolutions in order, with or without pooling, as one torch module."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from napari_btn.core.networks.trunk import Trunk, cut, orthogonal, point, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from napari_btn.core.networks.convolutional.family import Layer

__all__ = ["Convolutional"]


class Convolutional(Trunk):
    """Convolutions of 3 pixels a side in order; the last one is the only feature.

    Parameters
    ----------
    members : int
    layers : sequence of Layer
        At levels that rise and fall again; between two levels there is a pooling or an upsampling.
    ndim : int
        Spatial dimensions, 1 to 3.
    skips : bool
        Layers after an upsampling also read the last layer of their level before the poolings.
    """

    def __init__(self, members: int, layers: Sequence[Layer], ndim: int, *, skips: bool) -> None:
        super().__init__()
        self.members, self.ndim, self.skips = members, ndim, skips
        self.count = len(layers)
        numbered = groupby(enumerate(layers), lambda item: item[1].level)
        self.stages = tuple((level, tuple(t for t, _ in stage)) for level, stage in numbered)
        for t, layer in enumerate(layers):
            shape = (members, layer.makes, layer.reads, *(3,) * ndim)
            self.register_parameter(f"layer{t}_weight", nn.Parameter(torch.empty(shape)))
            self.register_parameter(f"layer{t}_bias", nn.Parameter(torch.zeros(members, layer.makes)))

    def weights(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield (weight, bias) layer by layer."""
        for t in range(self.count):
            yield self.get_parameter(f"layer{t}_weight"), self.get_parameter(f"layer{t}_bias")

    def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the last layer, (B, M * width, *space)."""
        yield self._last(x, lambda _, made: made)

    def _last(self, x: torch.Tensor, after: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Return the last layer; what a layer makes goes through ``after``, with its number."""
        if x.device.type == "cpu" and self.ndim > 1:
            # the fastest order of memory on a CPU, which all further layers keep
            x = x.contiguous(memory_format=torch.channels_last if self.ndim == 2 else torch.channels_last_3d)
        seen: dict[int, torch.Tensor] = {}
        before = 0
        for level, stage in self.stages:
            if level > before:
                seen[before] = x
                x = self._halved(x)
            elif level < before:
                x = self._joined(x, seen.pop(level))
            for t in stage:
                x = after(t, self._convolved(x, t))
            before = level
        return x

    def _convolved(self, x: torch.Tensor, t: int) -> torch.Tensor:
        """Return what a layer makes."""
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.ndim - 1]
        weight, bias = self.get_parameter(f"layer{t}_weight"), self.get_parameter(f"layer{t}_bias")
        made = convolve(x, weight.flatten(0, 1), bias.flatten(), padding=1, groups=self.members)
        return F.relu_(made)

    def _halved(self, x: torch.Tensor) -> torch.Tensor:
        """Return averages of two pixels along each axis; of one, at the end of an odd axis."""
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.ndim - 1]
        made: torch.Tensor = pool(x, 2, ceil_mode=True, count_include_pad=False)
        return made

    def _joined(self, x: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Return the upsampled layer, cut to the finer level, beside the finer one if there are skips."""
        x = cut(F.interpolate(x, scale_factor=2, mode="nearest"), [slice(0, n) for n in fine.shape[2:]])
        if not self.skips:
            return x
        parts = [layer.unflatten(1, (self.members, -1)) for layer in (fine, x)]
        return torch.cat([fine, x], 1) if self.members == 1 else torch.cat(parts, 2).flatten(1, 2)

    def initialise(self, x: torch.Tensor, rng: np.random.Generator) -> None:
        """Set a lone member's weights: orthogonal, then scaled to layers of unit variance on one batch.

        Parameters
        ----------
        x : Tensor, (B, C, *space)
            A scaled batch.
        rng : numpy.random.Generator
            The member's own generator.

        References
        ----------
        Mishkin & Matas, "All you need is a good init", ICLR 2016.
        """
        kernels = [weight for weight, _ in self.weights()]
        for weight in kernels:
            weight.copy_(orthogonal(weight.shape, rng))

        def scaled(t: int, made: torch.Tensor) -> torch.Tensor:
            """Scale a layer, which without a bias scales what it makes."""
            # after a ReLU half of a unit-variance signal's mean square is left
            gain = 1.0 / made.square().mean().mul(2.0).sqrt().clamp_min(1e-6)
            kernels[t].mul_(gain)
            return made.mul_(gain)

        self._last(x, scaled)

    def predicted_hidden(
        self,
        x: torch.Tensor,
        heads: Sequence[torch.Tensor],
        bias: torch.Tensor,
        *,
        keep: Sequence[slice] | None,
        between: Callable[[], None],
    ) -> torch.Tensor:
        """Return the hidden layer before its ReLU, (B, *kept, M, units), without gradients.

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
        heads : sequence of Tensor, (M, units, width)
            One, of the last layer.
        bias : Tensor, (M, units)
        keep : sequence of slice, optional
            The part of the space that is wanted; None for all of it.
        between : callable
            Called after each layer; where it raises, the work ends.
        """

        def after(_: int, made: torch.Tensor) -> torch.Tensor:
            """Look for a stop."""
            between()
            return made

        last = self._last(x, after)
        kept = last if keep is None else cut(last, keep)
        return point(rows_of(kept, self.members), heads[0], bias).contiguous()
