"""Predict with a sparse mixed-scale member on the CPU, band of rows by band.

Nodes take turns. In its turn a node computes the rows that later nodes need for the next rows of the
result, and rows that no node will read again are freed. So features are still in the cache when the
next node reads them, nothing is computed twice, and the memory grows with the width of an image but
not with its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from napari_btn.core.networks.sms.one_member import Layers, convolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_btn.core.networks.sms.graph import Graph

__all__ = ["banded_hidden", "grown", "inside", "margins_of"]

# Pixels that a node makes in a turn: of fewer, starting the operations costs more than the cache saves.
_BAND_PIXELS = 65_536

Part = tuple[slice, ...]


def grown(part: Sequence[slice], margin: Sequence[int], space: Sequence[int]) -> Part:
    """Return a part of the space with a margin, as far as there is space.

    Parameters
    ----------
    part : sequence of slice
    margin : sequence of int
        In pixels, one per axis.
    space : sequence of int
        Shape of the whole.
    """
    return tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in zip(part, margin, space, strict=True)
    )


def inside(part: Sequence[slice], whole: Sequence[slice]) -> Part:
    """Return where a part of the space lies in a larger one.

    Parameters
    ----------
    part, whole : sequence of slice
    """
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True))


def margins_of(reach: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the margins around the result within which the input and each node are needed, per space axis.

    Parameters
    ----------
    reach : sequence of sequence of int
        Half-width of each node's kernel in pixels, along each space axis.
    """
    margins = [(0,) * len(reach[0])]
    for node in reversed(reach):
        margins.append(tuple(m + r for m, r in zip(margins[-1], node, strict=True)))
    return margins[::-1]


@dataclass
class _Feature:
    """Output of a node over an area: its next row, and the bands (first row, values) that are still read."""

    area: Part
    row: int
    bands: list[tuple[int, torch.Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class _Node:
    """One node: the (feature, first channel, channels) that it reads, its weights, and its reach in pixels."""

    reads: tuple[tuple[int, int, int], ...]
    kernel: torch.Tensor
    bias: torch.Tensor
    dilation: int
    reach: tuple[int, ...]


def banded_hidden(
    x: torch.Tensor,
    graph: Graph,
    chunk: int,
    layers: Layers,
    *,
    keep: Sequence[slice],
    between: Callable[[], None],
) -> torch.Tensor:
    """Return the hidden layer of a part of the space, (B, *kept, units), as `sparse_hidden` without gradients.

    Parameters
    ----------
    x : Tensor, (B, *space, C), float32
        Chunk 0: the scaled input.
    graph : Graph
    chunk : int
        Channels of a chunk.
    layers : Layers
        Of one member.
    keep : sequence of slice
        The part of the space that is wanted.
    between : callable
        Called before each turn; where it raises, the work ends.
    """
    batch, *space, n_in = x.shape
    keep = grown(keep, (0,) * len(space), space)
    nodes = [
        _Node(
            tuple(_read(number, chunk, len(kernel) // chunk, n_in) for number in source),
            kernel,
            shift,
            dilation,
            tuple(dilation * (k // 2) for k in kernel.shape[2:]),
        )
        for source, dilation, kernel, shift in zip(
            graph.sources, graph.dilations, layers.kernels, layers.biases, strict=True
        )
    ]
    margins = margins_of([node.reach for node in nodes])
    areas = [grown(keep, margin, space) for margin in margins]
    features = [_Feature(area, area[0].start) for area in areas]
    features[0] = _Feature(tuple(slice(0, n) for n in space), space[0], [(0, x)])
    shape = (batch, *(s.stop - s.start for s in keep), len(layers.bias))
    hidden = layers.bias.expand(shape).contiguous()
    step = max(1, _BAND_PIXELS // math.prod(s.stop - s.start for s in areas[len(nodes) // 2][1:]))
    buffer = x.new_empty(0)
    for start in range(keep[0].start, keep[0].stop, step):
        for t, (node, made) in enumerate(zip(nodes, features[1:], strict=True)):
            stop = min(start + step + margins[t + 1][0], made.area[0].stop)
            while made.row < stop:
                between()
                part = (slice(made.row, min(made.row + step, stop)), *made.area[1:])
                read, buffer = _gather(node, features, part, buffer)
                band = F.relu_(
                    convolve(read.movedim(-1, 1), node.kernel, node.bias, node.dilation, padding=0)
                )
                band = band.movedim(1, -1)
                _add(hidden, band, layers.heads[t], part, keep)
                made.bands.append((made.row, band))
                made.row = part[0].stop
        _forget(features, nodes)
    return hidden


def _read(number: int, chunk: int, per_node: int, n_in: int) -> tuple[int, int, int]:
    """Return feature, first channel and channels of a chunk; chunk 0 is the input."""
    if number == 0:
        return 0, 0, n_in
    node, place = divmod(number - 1, per_node)
    return 1 + node, place * chunk, chunk


def _gather(
    node: _Node, features: Sequence[_Feature], part: Part, buffer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the input of a node (B, *part and margin, C), zeros beyond the image; and the memory of it."""
    space = [s.stop for s in features[0].area]
    batch = features[0].bands[0][1].shape[0]
    wanted = [slice(s.start - r, s.stop + r) for s, r in zip(part, node.reach, strict=True)]
    there = grown(part, node.reach, space)
    shape = (batch, *(s.stop - s.start for s in wanted), sum(width for _, _, width in node.reads))
    if buffer.numel() < math.prod(shape):
        buffer = buffer.new_empty(math.prod(shape))
    # one memory for all nodes: it stays in the cache
    read = buffer[: math.prod(shape)].view(shape)
    for axis, (w, s) in enumerate(zip(wanted, there, strict=True), 1):
        read.narrow(axis, 0, s.start - w.start).zero_()
        read.narrow(axis, s.stop - w.start, w.stop - s.stop).zero_()
    at = 0
    for number, first, width in node.reads:
        for rows, band in _bands(features[number], there[0]):
            here = (rows, *there[1:])
            to = read[(slice(None), *inside(here, wanted), slice(at, at + width))]
            across = inside(there[1:], features[number].area[1:])
            _copy(to, band[(slice(None), slice(None), *across, slice(first, first + width))])
        at += width
    return read, buffer


def _bands(feature: _Feature, rows: slice) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the rows of a feature, and their values (B, rows, *across, C), band by band."""
    for first, band in feature.bands:
        low, high = max(rows.start, first), min(rows.stop, first + band.shape[1])
        if low < high:
            yield slice(low, high), band[:, low - first : high - first]


def _copy(to: torch.Tensor, source: torch.Tensor) -> None:
    """Copy channels; four at a time where they come in fours, which takes a quarter of the steps."""
    fours = all(n % 4 == 0 for t in (to, source) for n in (t.shape[-1], t.storage_offset(), *t.stride()[:-1]))
    if fours:
        to, source = to.view(torch.complex128), source.view(torch.complex128)
    to.copy_(source)


def _add(
    hidden: torch.Tensor, band: torch.Tensor, head: torch.Tensor, part: Part, keep: Sequence[slice]
) -> None:
    """Add a band's share to the hidden layer (B, *kept, units)."""
    low, high = max(part[0].start, keep[0].start), min(part[0].stop, keep[0].stop)
    if low >= high:
        return
    kept = (slice(low, high), *keep[1:])
    seen = band[(slice(None), *inside(kept, part))]
    for rows, values in zip(hidden[:, low - keep[0].start : high - keep[0].start], seen, strict=True):
        # added in place: at 32 units a pass over the sums costs as much as the product
        rows.view(-1, rows.shape[-1]).addmm_(values.reshape(-1, values.shape[-1]), head.t())


def _forget(features: Sequence[_Feature], nodes: Sequence[_Node]) -> None:
    """Free the bands that no node will read."""
    needed = [feature.row for feature in features]
    for node, made in zip(nodes, features[1:], strict=True):
        for number, _, _ in node.reads:
            needed[number] = min(needed[number], made.row - node.reach[0])
    for feature, row in zip(features[1:], needed[1:], strict=True):
        feature.bands = [(first, band) for first, band in feature.bands if first + band.shape[1] > row]
