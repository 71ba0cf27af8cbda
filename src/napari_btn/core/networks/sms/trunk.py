"""Random sparse mixed-scale trunks as one torch module: one convolution per node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from napari_btn.core.networks.sms.bands import banded_hidden, grown, inside, margins_of
from napari_btn.core.networks.sms.many_members import gathers, grouped_hidden
from napari_btn.core.networks.sms.one_member import Layers, convolve, sparse_hidden
from napari_btn.core.networks.trunk import Trunk, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_btn.core.networks.sms.graph import Graph

__all__ = ["SparseMixedScale"]


def _conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int = 1
) -> torch.Tensor:
    """Return the grouped same-size convolution; ``weight`` is (M, out, in, *kernel), ``x`` is (B, M * in, *space)."""
    members, out, _, *kernel = weight.shape
    if members == 1:
        return convolve(x, weight[0], None if bias is None else bias[0], dilation)
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    padding = tuple(dilation * (k // 2) for k in kernel)
    flat_bias = None if bias is None else bias.reshape(-1)
    return conv(x, weight.reshape(members * out, *weight.shape[2:]), flat_bias, 1, padding, dilation, members)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return the same values with the channels of a pixel side by side in memory."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.ndim]) if x.ndim in formats else x


class SparseMixedScale(Trunk):
    """Random sparse mixed-scale trunks, node-major: one convolution per node.

    Parameters
    ----------
    graphs : sequence of Graph
        One per member, all of one dilation schedule.
    n_in : int
        Channels of the input.
    channels : int
        Channels of a chunk.
    inputs : int
        Chunks that a node makes.
    ndim : int
        Spatial dimensions, 1 to 3.
    flat : sequence of bool
        Nodes whose kernels are one plane thick along the first axis; empty for none.

    References
    ----------
    Roberts et al., DLSIA, arXiv 2308.02559; fused by node rather than run edge by edge.
    """

    def __init__(
        self,
        graphs: Sequence[Graph],
        *,
        n_in: int,
        channels: int,
        inputs: int,
        ndim: int,
        flat: Sequence[bool] = (),
    ) -> None:
        super().__init__()
        self.graphs = tuple(graphs)
        self.members = len(self.graphs)
        self.chunk = channels
        width = channels * inputs
        self.widths = (width,) * len(self.graphs[0].dilations)
        # the input is chunk 0, padded with zeros to a chunk's width for the nodes that draw it
        self.input_width = max(n_in, channels)
        self.input_pad = self.input_width - n_in
        for t in range(len(self.widths)):
            others = channels * min(inputs - 1, t * inputs)
            kernel = (1 if flat and flat[t] else 3, *(3,) * (ndim - 1))
            shape = (self.members, width, self.input_width + others, *kernel)
            self.register_parameter(f"node{t}_weight", nn.Parameter(torch.empty(shape)))
            self.register_parameter(f"node{t}_bias", nn.Parameter(torch.zeros(self.members, width)))
        self._gathers: dict[torch.device, list[torch.Tensor]] = {}
        self._last_use = {
            (m, s): t
            for m, graph in enumerate(self.graphs)
            for t, read in enumerate(graph.sources)
            for s in read
        }

    def weights(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield (weight, bias) node by node."""
        for t in range(len(self.widths)):
            yield self.get_parameter(f"node{t}_weight"), self.get_parameter(f"node{t}_bias")

    def _reach(self) -> list[list[int]]:
        """Return the half-width of each node's kernel in pixels, along each space axis."""
        return [
            [dilation * (k // 2) for k in weight.shape[3:]]
            for (weight, _), dilation in zip(self.weights(), self.graphs[0].dilations, strict=True)
        ]

    def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield each node's features (B, M * width, *space)."""
        yield from self.features(x)

    def features(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> Iterator[torch.Tensor]:
        """Yield each node's features of a part of the space, freeing chunks after their last use.

        Each node is computed on the part and on what later nodes still see around it: the halo of a tile
        shrinks from node to node.

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
        keep : sequence of slice, optional
            The part that is wanted; all of it by default.
        """
        space = x.shape[2:]
        dilations = self.graphs[0].dilations
        part_kept = tuple(slice(0, n) for n in space) if keep is None else tuple(keep)
        margins = margins_of(self._reach())
        area = grown(part_kept, margins[0], space)
        x = cut(x, area)
        chunks: dict[tuple[int, int], torch.Tensor] = {}
        for m, part in enumerate(x.split(x.shape[1] // self.members, 1)):
            pad = part.new_zeros(part.shape[0], self.input_pad, *part.shape[2:])
            # torch keeps the memory order of its input from here on; channels last is the fastest on a CPU
            chunks[m, 0] = _channels_last(torch.cat([part, pad], 1))
        for t, (weight, bias) in enumerate(self.weights()):
            read = torch.cat(list(self._read(chunks, t, weight.shape[2])), 1)
            out = F.relu_(_conv(read, weight, bias, dilations[t]))
            del read
            smaller = grown(part_kept, margins[t + 1], space)
            if smaller != area:
                inner, area = inside(smaller, area), smaller
                out = cut(out, inner)
                chunks = {key: cut(part, inner) for key, part in chunks.items()}
            per_node = self.widths[t] // self.chunk
            for i, part in enumerate(out.split(self.chunk, 1)):
                key = i // per_node, 1 + t * per_node + i % per_node
                if self._last_use.get(key, -1) > t:
                    chunks[key] = part
            chunks = {key: part for key, part in chunks.items() if self._last_use[key] > t}
            yield cut(out, inside(part_kept, area))

    def hidden(
        self,
        x: torch.Tensor,
        heads: Sequence[torch.Tensor],
        bias: torch.Tensor,
        keep: Sequence[slice] | None = None,
    ) -> torch.Tensor:
        """Return the hidden layer, (B, *kept, M, units), by hand-written gradients for a lone member on the CPU.

        Parameters
        ----------
        x : Tensor, (B, M * C, *space)
            Where it needs a gradient, autograd computes all of them.
        heads : sequence of Tensor, (M, units, width)
            One per node.
        bias : Tensor, (M, units)
        keep : sequence of slice, optional
            The part of the space that is wanted; all of it by default.
        """
        if not self._is_lone_on_cpu(x) or keep is not None or x.requires_grad:
            return super().hidden(x, heads, bias, keep)
        layers = self._lone_layers(heads, bias)
        return sparse_hidden(self._lone_input(x), self.graphs[0], self.chunk, layers).unsqueeze(-2)

    def predicted_hidden(
        self,
        x: torch.Tensor,
        heads: Sequence[torch.Tensor],
        bias: torch.Tensor,
        *,
        keep: Sequence[slice] | None,
        between: Callable[[], None],
    ) -> torch.Tensor:
        """Return the hidden layer, (B, *kept, M, units), without gradients; by bands for a lone member on the CPU.

        Arguments as in `Trunk.predicted_hidden`; ``between`` is called before each turn of a node.
        """
        if not self._is_lone_on_cpu(x):
            return super().predicted_hidden(x, heads, bias, keep=keep, between=between)
        part = tuple(slice(0, n) for n in x.shape[2:]) if keep is None else keep
        layers = self._lone_layers(heads, bias)
        made = banded_hidden(
            self._lone_input(x), self.graphs[0], self.chunk, layers, keep=part, between=between
        )
        return made.unsqueeze(-2)

    def _is_lone_on_cpu(self, x: torch.Tensor) -> bool:
        """Return True where the passes for one member apply."""
        return self.members == 1 and x.device.type == "cpu"

    def _lone_input(self, x: torch.Tensor) -> torch.Tensor:
        """Return chunk 0 of a lone member, pixels first."""
        return F.pad(x.movedim(1, -1), (0, self.input_pad)).contiguous()

    def _lone_layers(self, heads: Sequence[torch.Tensor], bias: torch.Tensor) -> Layers:
        """Return the weights of a lone member, of the channels that its nodes read."""
        (graph,) = self.graphs
        sizes = [
            sum(self.chunk if chunk else self.input_width for chunk in source) for source in graph.sources
        ]
        kernels = [weight[0, :, :size] for (weight, _), size in zip(self.weights(), sizes, strict=True)]
        return Layers(kernels, [b[0] for _, b in self.weights()], [head[0] for head in heads], bias[0])

    def grouped_hidden(
        self, x: torch.Tensor, heads: Sequence[torch.Tensor], bias: torch.Tensor
    ) -> torch.Tensor:
        """Return the hidden layers of all members, (B, M, units, N), each of a batch of its own."""
        weights = list(self.weights())
        if x.device not in self._gathers:
            read = [weight.shape[2] for weight, _ in weights]
            found = gathers(
                [graph.sources for graph in self.graphs],
                n_in=self.input_width - self.input_pad,
                chunk=self.chunk,
                inputs=self.widths[0] // self.chunk,
                widths=read,
            )
            self._gathers[x.device] = [rows.to(x.device) for rows in found]
        layers = Layers([weight for weight, _ in weights], [b for _, b in weights], heads, bias)
        return grouped_hidden(x, self._gathers[x.device], self.graphs[0].dilations, layers)

    def _read(
        self, chunks: dict[tuple[int, int], torch.Tensor], node: int, width: int
    ) -> Iterator[torch.Tensor]:
        """Yield the chunks that each member's node reads, filled up with zeros where others read more."""
        for m, graph in enumerate(self.graphs):
            parts = [chunks[m, s] for s in graph.sources[node]]
            yield from parts
            if missing := width - sum(p.shape[1] for p in parts):
                yield parts[0].new_zeros(parts[0].shape[0], missing, *parts[0].shape[2:])
