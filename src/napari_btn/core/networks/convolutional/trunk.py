"""Convolutions in order, with or without pooling, as one torch module."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from napari_btn.core.networks.trunk import Trunk, cut, orthogonal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from napari_btn.core.networks.convolutional.family import Layer

__all__ = ["Convolutional"]


def _go_on() -> None:
    """Do nothing between two layers."""


class Convolutional(Trunk):
    """Convolutions of 3 pixels a side in order, some of which are features, at the image's resolution.

    Parameters
    ----------
    members : int
    layers : sequence of Layer
        At levels that rise and fall again; between two levels there is a pooling or an upsampling.
    ndim : int
        Spatial dimensions, 1 to 3.
    features_from : int
        Number of the first layer that is a feature; all later ones are, too.
    skips : bool
        Layers after an upsampling also read the last layer of their level before the poolings.
    """

    def __init__(
        self, members: int, layers: Sequence[Layer], ndim: int, *, features_from: int, skips: bool
    ) -> None:
        super().__init__()
        self.members, self.ndim, self.skips = members, ndim, skips
        self.features_from = features_from
        self._between: Callable[[], None] = _go_on
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
        """Yield the features (B, M * width, *space), layer by layer."""
        whole = [slice(0, n) for n in x.shape[2:]]
        for t, level, made in self._layers(x):
            if t < self.features_from:
                continue
            # pixels of a lower resolution stand for all that they were pooled from
            yield cut(F.interpolate(made, scale_factor=2**level, mode="nearest"), whole) if level else made

    def _layers(self, x: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield number, level and values of each layer; values that are changed in place are passed on."""
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
                self._between()
                x = self._convolved(x, t)
                yield t, level, x
            before = level

    def _convolved(self, x: torch.Tensor, t: int) -> torch.Tensor:
        """Return the output of a layer."""
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

        for t, _, made in self._layers(x):
            # after a ReLU half of a unit-variance signal's mean square is left; without biases what a layer
            # makes scales with its kernel
            gain = 1.0 / made.square().mean().mul(2.0).sqrt().clamp_min(1e-6)
            kernels[t].mul_(gain)
            made.mul_(gain)

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

        Arguments as in `Trunk.predicted_hidden`; ``between`` is called before each layer, not only before features.
        """
        self._between = between
        try:
            return super().predicted_hidden(x, heads, bias, keep=keep, between=between)
        finally:
            self._between = _go_on
