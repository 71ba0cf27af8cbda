"""Forward and backward passes of the training step, written by hand for one member on the CPU.

Autograd's own backward of a dilated convolution is two to three times slower than the two passes
below, and it writes every slice and concatenation of the sparse graph to memory once more. These
functions do the same arithmetic in fewer passes; tests compare them with autograd's gradients.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.networks.sms.graph import Graph

__all__ = ["Layers", "convolve", "sparse_hidden"]


class Layers(NamedTuple):
    """Weights of the nodes and of the hidden layer; those of many members have the member as their first axis.

    Parameters
    ----------
    kernels : sequence of Tensor, (width, read, *kernel), float32
        One per node.
    biases : sequence of Tensor, (width,), float32
        One per node.
    heads : sequence of Tensor, (units, width), float32
        One per node.
    bias : Tensor, (units,), float32
        Of the hidden layer.
    """

    kernels: Sequence[torch.Tensor]
    biases: Sequence[torch.Tensor]
    heads: Sequence[torch.Tensor]
    bias: torch.Tensor


# Pixels that go through the graph together: their features stay in the cache between the passes.
_BLOCK_PIXELS = 16_384


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    dilation: int,
    padding: int | None = None,
) -> torch.Tensor:
    """Return the dilated convolution of (B, C, *space), channels last in memory.

    Parameters
    ----------
    x : Tensor, (B, C, *space), float32
    weight : Tensor, (out, C, *kernel), float32
        Sides of the kernel are odd.
    bias : Tensor, (out,), float32, optional
    dilation : int
        In pixels.
    padding : int, optional
        Zeros beyond each side; as many as keep the size by default.
    """
    ndim = weight.ndim - 2
    pads = [dilation * (k // 2) if padding is None else padding for k in weight.shape[2:]]
    if torch.backends.mkldnn.is_available() and x.device.type == "cpu" and ndim > 1:
        # torch's own choice falls back to a kernel six times slower for small batches of volumes
        made: torch.Tensor = torch.mkldnn_convolution(x, weight, bias, pads, [1] * ndim, [dilation] * ndim, 1)
        return made
    conv: Any = (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
    convolved: torch.Tensor = conv(x, weight, bias, 1, pads, dilation)
    return convolved


def _weight_gradient(
    grad: torch.Tensor, read: torch.Tensor, kernel: Sequence[int], dilation: int
) -> torch.Tensor:
    """Return the gradient (out, C, *kernel) of a same-size convolution's weight, by products of shifted views.

    Parameters
    ----------
    grad : Tensor, (B, *space, out), float32, contiguous
        Gradient by the convolution's output.
    read : Tensor, (B, *space, C), float32, contiguous
        Input of the convolution.
    kernel : sequence of int
        Sides of the kernel, odd.
    dilation : int
        In pixels.
    """
    space, out = grad.shape[1:-1], grad.shape[-1]
    channels = read.shape[-1]
    # the taps along the last axis lie side by side, so that one product makes them all
    row = read.new_empty(*read.shape[:-1], kernel[-1], channels)
    for i in range(kernel[-1]):
        to, of = _overlap(space[-1], dilation * (i - kernel[-1] // 2))
        row[..., to, i, :] = read[..., of, :]
        row[..., : to.start, i, :] = 0
        row[..., to.stop :, i, :] = 0
    row = row.flatten(-2)
    taps = []
    for offsets in product(*([dilation * (i - k // 2) for i in range(k)] for k in kernel[:-1])):
        cuts = [_overlap(n, o) for n, o in zip(space, offsets, strict=False)]
        left = grad[(slice(None), *(to for to, _ in cuts))]
        right = row[(slice(None), *(of for _, of in cuts))]
        # the last two axes of space make one long product without a copy; in a volume, one for each plane
        pixels = math.prod(left.shape[1:-1][-2:])
        planes = math.prod(left.shape[:-1]) // max(pixels, 1)
        left, right = left.reshape(planes, pixels, out), right.reshape(planes, pixels, row.shape[-1])
        taps.append(torch.bmm(left.transpose(1, 2), right).sum(0))
    made = torch.stack(taps).unflatten(-1, (kernel[-1], channels))
    gradient: torch.Tensor = made.permute(1, 3, 0, 2).reshape(out, channels, *kernel)
    return gradient


def _overlap(n: int, offset: int) -> tuple[slice, slice]:
    """Return where an axis of n pixels and itself moved by an offset overlap: (to, from)."""
    if abs(offset) >= n:
        return slice(0, 0), slice(0, 0)
    return slice(max(0, -offset), n - max(0, offset)), slice(max(0, offset), n - max(0, -offset))


class _SparseHidden(torch.autograd.Function):
    """Hidden layer of a sparse mixed-scale member; the arguments are those of `sparse_hidden`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        graph: Graph,
        chunk: int,
        bias: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        depth = len(graph.sources)
        kernels, biases, heads = (parameters[i * depth : (i + 1) * depth] for i in range(3))
        hidden = bias.expand(*x.shape[:-1], len(bias)).contiguous()
        side = max(1, _BLOCK_PIXELS // (x[0, ..., 0].numel()))
        kept: list[torch.Tensor] = []
        for block, out in zip(x.split(side), hidden.split(side), strict=True):
            chunks = [block]
            rows = out.view(-1, out.shape[-1])
            for t, source in enumerate(graph.sources):
                parts = [chunks[s] for s in source]
                read = parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, -1)
                made = convolve(read.movedim(-1, 1), kernels[t], biases[t], graph.dilations[t])
                feature = made.relu_().movedim(1, -1).contiguous()
                chunks += feature.split(chunk, -1)
                rows.addmm_(feature.view(-1, feature.shape[-1]), heads[t].t())
                kept += [read, feature]
        ctx.save_for_backward(*kernels, *heads, *kept)
        ctx.plan = graph, chunk, side
        return hidden

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        graph, chunk, side = ctx.plan
        depth = len(graph.sources)
        saved = ctx.saved_tensors
        kernels, heads, kept = saved[:depth], saved[depth : 2 * depth], saved[2 * depth :]
        back = [_transposed(k, s, chunk) for k, s in zip(kernels, graph.sources, strict=True)]
        totals = [[torch.zeros_like(k) for k in kernels], [k.new_zeros(len(k)) for k in kernels]]
        totals.append([torch.zeros_like(h) for h in heads])
        grad = grads[0].contiguous()
        for b, block in enumerate(grad.split(side)):
            features = kept[2 * depth * b : 2 * depth * (b + 1)]
            _sparse_backward(block.reshape(-1, block.shape[-1]), features, graph, chunk, heads, back, totals)
        return None, None, None, grad.flatten(0, -2).sum(0), *totals[0], *totals[1], *totals[2]


def _transposed(kernel: torch.Tensor, source: tuple[int, ...], chunk: int) -> torch.Tensor | None:
    """Return the kernel of the pass from a node's output back to the chunks of nodes it read; None if none."""
    nodes = chunk * sum(s > 0 for s in source)
    if not nodes:
        return None
    turned: torch.Tensor = kernel[:, -nodes:].flip(tuple(range(2, kernel.ndim))).transpose(0, 1).contiguous()
    return turned


def _sparse_backward(
    rows: torch.Tensor,
    kept: Sequence[torch.Tensor],
    graph: Graph,
    chunk: int,
    heads: Sequence[torch.Tensor],
    back: Sequence[torch.Tensor | None],
    totals: Sequence[list[torch.Tensor]],
) -> None:
    """Add one block's gradients to the totals (kernels, biases, heads); ``rows`` are of the hidden layer."""
    waiting: dict[int, torch.Tensor] = {}
    for t in range(len(graph.sources) - 1, -1, -1):
        read, feature = kept[2 * t], kept[2 * t + 1]
        flat = feature.view(-1, feature.shape[-1])
        # the gradient from later nodes is complete here, because nodes only read earlier ones
        later = waiting.pop(t, None)
        grad = rows @ heads[t] if later is None else later.view_as(flat).addmm_(rows, heads[t])
        totals[2][t].addmm_(rows.t(), flat)
        grad = torch.ops.aten.threshold_backward(grad, flat, 0)
        totals[1][t].add_(grad.sum(0))
        grad = grad.view_as(feature)
        totals[0][t].add_(_weight_gradient(grad, read, totals[0][t].shape[2:], graph.dilations[t]))
        turned = back[t]
        if turned is None:
            continue
        sent = convolve(grad.movedim(-1, 1), turned, None, graph.dilations[t]).movedim(1, -1)
        nodes = [s - 1 for s in graph.sources[t] if s > 0]
        for s, part in zip(nodes, sent.split(chunk, -1), strict=True):
            node, place = divmod(s, feature.shape[-1] // chunk)
            if node not in waiting:
                waiting[node] = torch.zeros_like(kept[2 * node + 1])
            waiting[node][..., place * chunk : (place + 1) * chunk].add_(part)


def sparse_hidden(x: torch.Tensor, graph: Graph, chunk: int, layers: Layers) -> torch.Tensor:
    """Return the hidden layer (B, *space, units), before its ReLU, over every feature of one member.

    Parameters
    ----------
    x : Tensor, (B, *space, C), float32
        Chunk 0: the scaled input; no gradient goes back to it.
    graph : Graph
    chunk : int
        Channels of a chunk.
    layers : Layers
        Of one member.
    """
    made: torch.Tensor = _SparseHidden.apply(  # type: ignore[no-untyped-call]
        x.contiguous(), graph, chunk, layers.bias, *layers.kernels, *layers.biases, *layers.heads
    )
    return made
