"""Hidden layers of many members at once: one convolution per node whose groups are the members.

On a graphics card a step is bound by the number of kernels, not by arithmetic: every feature of
every member lies in one tensor, a node reads its sources by one gather, and its gradient returns by
one scatter. Nothing here waits for the device, so that a step can be captured and replayed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.networks.sms.one_member import Layers

__all__ = ["gathers", "grouped_hidden"]


def gathers(
    sources: Sequence[Sequence[Sequence[int]]], *, n_in: int, chunk: int, inputs: int, widths: Sequence[int]
) -> list[torch.Tensor]:
    """Return for each node the channels of the feature tensor that all members read, (M * width,) int64.

    A member's channels are its input, one of zeros, and its nodes' outputs in their order. Where a
    member reads fewer than the widest, it reads zeros.

    Parameters
    ----------
    sources : sequence
        Per member and node, the chunks that it reads, rising.
    n_in : int
        Channels of the input, which is chunk 0, padded with zeros to a chunk.
    chunk : int
        Channels of a chunk.
    inputs : int
        Chunks that a node makes.
    widths : sequence of int
        For each node, the channels that its kernel reads.
    """
    stride = n_in + 1 + len(widths) * chunk * inputs
    made = []
    for t, width in enumerate(widths):
        rows: list[int] = []
        for m, nodes in enumerate(sources):
            read: list[int] = []
            for source in nodes[t]:
                first = n_in + 1 + (source - 1) * chunk
                padded = [*range(n_in), *[n_in] * max(chunk - n_in, 0)]
                read += range(first, first + chunk) if source else padded
            rows += [m * stride + i for i in read + [n_in] * (width - len(read))]
        made.append(torch.tensor(rows))
    return made


class _GroupedHidden(torch.autograd.Function):
    """Hidden layers of sparse mixed-scale members; the arguments are those of `grouped_hidden`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        reads: Sequence[torch.Tensor],
        dilations: Sequence[int],
        bias: torch.Tensor,
        heads: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        depth = len(reads)
        kernels, biases = parameters[:depth], parameters[depth:]
        batch, members, n_in, *space = x.shape
        width = kernels[0].shape[1]
        features = x.new_empty(batch, members, n_in + 1 + depth * width, *space)
        features[:, :, :n_in] = x
        features[:, :, n_in] = 0
        flat = features.flatten(1, 2)
        for t, read in enumerate(reads):
            made = _convolve(flat.index_select(1, read), kernels[t], biases[t], dilations[t])
            features[:, :, _outputs(t, n_in, width)] = made.relu_().unflatten(1, (members, width))
        ctx.save_for_backward(features, heads, *kernels)
        ctx.plan = reads, dilations
        latent = features[:, :, n_in + 1 :].flatten(3)
        return torch.matmul(heads, latent) + bias[..., None]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        features, heads, *kernels = ctx.saved_tensors
        reads, dilations = ctx.plan
        members, space = features.shape[1], features.shape[3:]
        width = kernels[0].shape[1]
        n_in = features.shape[2] - 1 - len(reads) * width
        (grad,) = grads
        latent = features[:, :, n_in + 1 :].flatten(3)
        to_heads = torch.matmul(grad, latent.transpose(2, 3)).sum(0)
        back = torch.zeros_like(features)
        back[:, :, n_in + 1 :] = torch.matmul(heads.transpose(1, 2), grad).unflatten(3, space)
        flat, sent_back = features.flatten(1, 2), back.flatten(1, 2)
        to_kernels, to_biases = [], []
        for t in range(len(reads) - 1, -1, -1):
            own = _outputs(t, n_in, width)
            # the gradient from later nodes is complete here, because nodes only read earlier ones
            passed = (back[:, :, own] * (features[:, :, own] > 0)).flatten(1, 2)
            kernel = kernels[t]
            sent, weight, bias = torch.ops.aten.convolution_backward(
                passed,
                flat.index_select(1, reads[t]),
                kernel.flatten(0, 1),
                [members * width],
                [1] * len(space),
                _padding(kernel, dilations[t]),
                [dilations[t]] * len(space),
                False,
                [0] * len(space),
                members,
                [t > 0, True, True],
            )
            if t > 0:
                sent_back.index_add_(1, reads[t], sent)
            to_kernels.append(weight.view_as(kernel))
            to_biases.append(bias.view(members, width))
        to_bias = grad.sum((0, 3))
        return None, None, None, to_bias, to_heads, *to_kernels[::-1], *to_biases[::-1]


def _outputs(node: int, n_in: int, width: int) -> slice:
    """Return the channels that a member's node writes."""
    return slice(n_in + 1 + node * width, n_in + 1 + (node + 1) * width)


def _padding(kernel: torch.Tensor, dilation: int) -> list[int]:
    return [dilation * (k // 2) for k in kernel.shape[3:]]


def _convolve(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, dilation: int) -> torch.Tensor:
    """Return the same-size convolution of (B, M * C, *space) whose groups are the members."""
    conv: Any = (F.conv1d, F.conv2d, F.conv3d)[kernel.ndim - 4]
    padding = _padding(kernel, dilation)
    made: torch.Tensor = conv(x, kernel.flatten(0, 1), bias.flatten(), 1, padding, dilation, len(kernel))
    return made


def grouped_hidden(
    x: torch.Tensor, reads: Sequence[torch.Tensor], dilations: Sequence[int], layers: Layers
) -> torch.Tensor:
    """Return the hidden layer (B, M, units, N), before its ReLU, of members that each have a batch of their own.

    Parameters
    ----------
    x : Tensor, (B, M, C, *space), float32
        The scaled inputs; no gradient goes back to them.
    reads : sequence of Tensor
        `gathers` of the members' graphs, on the device of ``x``.
    dilations : sequence of int
        For each node, in pixels.
    layers : Layers
        With the member as first axis.
    """
    heads = torch.cat(list(layers.heads), 2)
    made: torch.Tensor = _GroupedHidden.apply(  # type: ignore[no-untyped-call]
        x, reads, dilations, layers.bias, heads, *layers.kernels, *layers.biases
    )
    return made
