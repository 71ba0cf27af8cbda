"""All members as one torch module: random trunks, quantile heads, latents.

Every parameter has the member as its first axis, and members run as the groups of one
convolution, so the same module serves one member in a process of its own and all of them on
a GPU. Nothing here looks across the batch or normalises over space: a pixel depends on its
receptive field alone, whatever the batch and the tile it came in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from napari_btn.core.gradients import convolve, noncrossing_pinball, sparse_hidden
from napari_btn.core.grouped import gathers, grouped_hidden, grouped_pinball

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.graph import Graph

__all__ = ["Ensemble", "SparseMixedScale", "Trunk", "quantiles_from_raw"]

# Pixels that go through the heads together in a prediction: all that is between fits in a core's own cache.
_HEAD_PIXELS = 8192


def _conv(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dilation: int = 1
) -> torch.Tensor:
    """Grouped same-size convolution; ``weight`` is (M, out, in, *kernel), ``x`` is (B, M * in, *space)."""
    members, out, _, *kernel = weight.shape
    if members == 1:
        return convolve(x, weight[0], None if bias is None else bias[0], dilation)
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    padding = tuple(dilation * (k // 2) for k in kernel)
    flat_bias = None if bias is None else bias.reshape(-1)
    return conv(x, weight.reshape(members * out, *weight.shape[2:]), flat_bias, 1, padding, dilation, members)


def _cut(x: torch.Tensor, part: Sequence[slice]) -> torch.Tensor:
    """View of a part of the space of (B, C, *space)."""
    view: torch.Tensor = x[(slice(None), slice(None), *part)]
    return view


def _grown(part: Sequence[slice], margin: Sequence[int], space: Sequence[int]) -> tuple[slice, ...]:
    """A part of the space with a margin, as far as there is space."""
    return tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in zip(part, margin, space, strict=True)
    )


def _inside(part: Sequence[slice], whole: Sequence[slice]) -> tuple[slice, ...]:
    """Where a part of the space lies in a larger one."""
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True))


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return the same values with the channels of a pixel side by side in memory."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.ndim]) if x.ndim in formats else x


class Trunk(Protocol):
    """What a member family gives to `Ensemble`: features in the order they are made."""

    widths: tuple[int, ...]
    """Channels of each feature that ``forward`` yields, per member."""

    def forward(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield features (B, M * width, *space); ``x`` is (B, M * C, *space)."""
        ...

    def weights(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield (weight, bias) of each feature's layer, for the initialisation."""
        ...


class SparseMixedScale(nn.Module):
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

    def forward(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> Iterator[torch.Tensor]:
        """Yield each node's features (B, M * width, *kept), freeing chunks after their last use.

        Where only a part is to be kept, each node is computed on that part and what later nodes
        still see around it: the halo of a tile shrinks from node to node.
        """
        space = x.shape[2:]
        dilations = self.graphs[0].dilations
        part_kept = tuple(slice(0, n) for n in space) if keep is None else tuple(keep)
        steps = [
            [d * (k // 2) for k in weight.shape[3:]]
            for (weight, _), d in zip(self.weights(), dilations, strict=True)
        ]
        margin = [sum(axis) for axis in zip(*steps, strict=True)]
        area = _grown(part_kept, margin, space)
        x = _cut(x, area)
        chunks: dict[tuple[int, int], torch.Tensor] = {}
        for m, part in enumerate(x.split(x.shape[1] // self.members, 1)):
            pad = part.new_zeros(part.shape[0], self.input_pad, *part.shape[2:])
            # torch keeps the memory order of its input from here on; channels last is the fastest on a CPU
            chunks[m, 0] = _channels_last(torch.cat([part, pad], 1))
        for t, (weight, bias) in enumerate(self.weights()):
            read = torch.cat(list(self._read(chunks, t, weight.shape[2])), 1)
            out = F.relu_(_conv(read, weight, bias, dilations[t]))
            del read
            margin = [m - step for m, step in zip(margin, steps[t], strict=True)]
            smaller = _grown(part_kept, margin, space)
            if smaller != area:
                inner, area = _inside(smaller, area), smaller
                out = _cut(out, inner)
                chunks = {key: _cut(part, inner) for key, part in chunks.items()}
            per_node = self.widths[t] // self.chunk
            for i, part in enumerate(out.split(self.chunk, 1)):
                key = i // per_node, 1 + t * per_node + i % per_node
                if self._last_use.get(key, -1) > t:
                    chunks[key] = part
            chunks = {key: part for key, part in chunks.items() if self._last_use[key] > t}
            yield _cut(out, _inside(part_kept, area))

    def hidden(self, x: torch.Tensor, heads: Sequence[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
        """Hidden layer of a lone member, (B, *space, units), by hand-written gradients; none goes to ``x``.

        Parameters
        ----------
        x : Tensor, (B, C, *space), float32
        heads : sequence of Tensor, (units, width)
            One per node.
        bias : Tensor, (units,)
        """
        (graph,) = self.graphs
        rows = F.pad(x.movedim(1, -1), (0, self.input_pad))
        sizes = [
            sum(self.chunk if chunk else self.input_width for chunk in source) for source in graph.sources
        ]
        kernels = [weight[0, :, :size] for (weight, _), size in zip(self.weights(), sizes, strict=True)]
        biases = [bias[0] for _, bias in self.weights()]
        return sparse_hidden(rows, graph.sources, graph.dilations, self.chunk, bias, kernels, biases, heads)

    def grouped_hidden(
        self, x: torch.Tensor, heads: Sequence[torch.Tensor], bias: torch.Tensor
    ) -> torch.Tensor:
        """Hidden layers of all members, (B, M, units, N), each on a batch of its own; no gradient goes to ``x``.

        Parameters
        ----------
        x : Tensor, (B, M, C, *space), float32
        heads : sequence of Tensor, (M, units, width)
            One per node.
        bias : Tensor, (M, units)
        """
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
        kernels, biases = [weight for weight, _ in weights], [b for _, b in weights]
        dilations = self.graphs[0].dilations
        return grouped_hidden(
            x, self._gathers[x.device], dilations, bias, torch.cat(list(heads), 2), kernels, biases
        )

    def _read(
        self, chunks: dict[tuple[int, int], torch.Tensor], node: int, width: int
    ) -> Iterator[torch.Tensor]:
        """Yield what each member's node reads; where members read different widths, zeros fill up."""
        for m, graph in enumerate(self.graphs):
            parts = [chunks[m, s] for s in graph.sources[node]]
            yield from parts
            if missing := width - sum(p.shape[1] for p in parts):
                yield parts[0].new_zeros(parts[0].shape[0], missing, *parts[0].shape[2:])


def quantiles_from_raw(raw: torch.Tensor, middle: int) -> torch.Tensor:
    """Quantiles that never cross, along axis 2: the middle one plus cumulative softplus steps.

    Parameters
    ----------
    raw : Tensor, (B, M * C, L, *space)
        Unconstrained outputs.
    middle : int
        Index of the median among the L levels.
    """
    centre = raw[:, :, middle : middle + 1]
    parts = [centre]
    if middle:
        below = F.softplus(raw[:, :, :middle]).flip(2).cumsum(2).flip(2)
        parts.insert(0, centre - below)
    if middle + 1 < raw.shape[2]:
        parts.append(centre + F.softplus(raw[:, :, middle + 1 :]).cumsum(2))
    return torch.cat(parts, 2)


def _step_from_middle(raw: torch.Tensor, out: torch.Tensor, middle: int) -> None:
    """Write the quantiles of raw outputs, (L, ...): those of `quantiles_from_raw`, without a gradient."""
    out[middle] = raw[middle]
    below, above = F.softplus(raw[:middle]), F.softplus(raw[middle + 1 :])
    for level in range(middle - 1, -1, -1):
        torch.sub(out[level + 1], below[level], out=out[level])
    for level in range(middle + 1, len(raw)):
        torch.add(out[level - 1], above[level - middle - 1], out=out[level])


def _go_on() -> None:
    """Do nothing between two layers."""


class Ensemble(nn.Module):
    """Members that map a noisy image to quantiles of the clean one, pixel by pixel.

    One hidden layer, shared by all levels, reads every feature of the trunk; the output has an
    input skip that starts at zero.

    Parameters
    ----------
    trunk : Trunk and nn.Module
        The members' feature makers.
    members : int
        Number of members, M.
    n_in, n_out : int
        Channels of the input and of the target.
    levels : tuple of float
        Quantile levels, rising, with the median among them.
    head_units : int
        Hidden units.
    ndim : int
        Spatial dimensions.

    Attributes
    ----------
    between : callable
        Called after each layer of a prediction; where it raises, the prediction ends.
    """

    level_values: torch.Tensor
    x_loc: torch.Tensor
    x_scale: torch.Tensor
    y_loc: torch.Tensor
    y_scale: torch.Tensor

    def __init__(
        self,
        trunk: Any,
        *,
        members: int,
        n_in: int,
        n_out: int,
        levels: tuple[float, ...],
        head_units: int,
        ndim: int,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.members, self.n_in, self.n_out, self.ndim = members, n_in, n_out, ndim
        self.between: Callable[[], None] = _go_on
        self.levels = levels
        self.middle = levels.index(0.5)
        outputs = n_out * len(levels)
        for t, width in enumerate(trunk.widths):
            self.register_parameter(f"head{t}_weight", nn.Parameter(torch.empty(members, head_units, width)))
        self.hidden_bias = nn.Parameter(torch.zeros(members, head_units))
        self.out_weight = nn.Parameter(torch.empty(members, outputs, head_units))
        self.out_bias = nn.Parameter(torch.zeros(members, outputs))
        self.skip_weight = nn.Parameter(torch.zeros(members, outputs, n_in))
        self.register_buffer("level_values", torch.tensor(levels), persistent=False)
        for name, n in (("x_loc", n_in), ("x_scale", n_in), ("y_loc", n_out), ("y_scale", n_out)):
            fill = torch.ones if name.endswith("scale") else torch.zeros
            self.register_buffer(name, fill(n))

    def _column(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape(1, -1, *(1,) * self.ndim)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        """Pixels first: (B, M * C, *space) as (B, *space, M, C); no copy where channels are last."""
        rows: torch.Tensor = x.movedim(1, -1).unflatten(-1, (self.members, -1))
        return rows

    def _point(
        self, rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Each member's 1x1 convolution, weight (M, out, in), as a matrix product over the rows."""
        if self.members == 1:
            return F.linear(rows, weight[0], None if bias is None else bias[0])
        made = torch.einsum("...mi,moi->...mo", rows, weight)
        return made if bias is None else made + bias

    def _input(self, x: torch.Tensor) -> torch.Tensor:
        """Scaled input, repeated for each member."""
        x = (x - self._column(self.x_loc)) / self._column(self.x_scale)
        if self.members > 1:
            x = x.repeat(1, self.members, *(1,) * self.ndim)
        return x

    def forward_scaled(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Quantiles in scaled units, (B, M, C, L, *kept), of a raw input (B, n_in, *space)."""
        x = self._input(x)
        hidden = self._hidden(x, keep)
        rows = self._rows(x if keep is None else _cut(x, keep))
        if not torch.is_grad_enabled():
            return self._heads(hidden, rows)
        raw = self._point(F.relu(hidden), self.out_weight, self.out_bias)
        raw = (raw + self._point(rows, self.skip_weight)).flatten(-2).movedim(-1, 1)
        raw = raw.unflatten(1, (self.members * self.n_out, len(self.levels)))
        made: torch.Tensor = quantiles_from_raw(raw, self.middle).unflatten(1, (self.members, self.n_out))
        return made

    def _heads(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Quantiles (B, M, C, L, *space) of the hidden layer, which is overwritten, and the scaled input.

        A few pixels go through all of the head at a time, so that what is between stays in the cache.
        """
        batch, *space, members, _ = hidden.shape
        levels, pixels = len(self.levels), math.prod(space)
        # levels first, as predictions keep them: nothing is turned afterwards
        made = hidden.new_empty(batch, members, levels, self.n_out, pixels)
        weight, bias, skip = (
            w.unflatten(1, (self.n_out, levels)).transpose(1, 2).flatten(1, 2)
            for w in (self.out_weight, self.out_bias, self.skip_weight)
        )
        side = _HEAD_PIXELS if hidden.device.type == "cpu" else pixels
        parts = hidden.view(batch, pixels, members, -1).split(side, 1)
        inputs = rows.reshape(batch, pixels, members, -1).split(side, 1)
        for out, part, given in zip(made.split(side, -1), parts, inputs, strict=True):
            part.relu_()
            for b, m in np.ndindex(batch, members):
                raw = torch.addmm(bias[m, :, None], weight[m], part[b, :, m].t())
                raw.addmm_(skip[m], given[b, :, m].t())
                _step_from_middle(raw.unflatten(0, (levels, self.n_out)), out[b, m], self.middle)
        quantiles: torch.Tensor = made.transpose(2, 3).unflatten(-1, space)
        return quantiles

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean pinball loss in scaled units, summed over the members; NaN targets don't count.

        Parameters
        ----------
        x, y : Tensor, (B, n_in, *space), (B, n_out, *space)
            One batch in raw units.
        """
        target = (y - self._column(self.y_loc)) / self._column(self.y_scale)
        target = target.transpose(0, 1).flatten(1)
        scaled = self._input(x)
        rows = F.relu(self._hidden(scaled)).flatten(0, -3)
        skipped = self._rows(scaled).flatten(0, -3)
        total = x.new_zeros(())
        for m in range(self.members):
            # levels first: every pass of the loss then runs along contiguous pixels
            raw = torch.addmm(self.out_bias[m, :, None], self.out_weight[m], rows[:, m].t())
            raw = torch.addmm(raw, self.skip_weight[m], skipped[:, m].t())
            raw = raw.unflatten(0, (self.n_out, len(self.levels)))
            total = total + noncrossing_pinball(raw, target, self.levels, self.middle)
        return total

    def losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean pinball loss in scaled units of each member on a batch of its own, (M,); NaN targets don't count.

        Parameters
        ----------
        x, y : Tensor, (B, M, n_in, *space), (B, M, n_out, *space)
            Batches in raw units.
        """
        heads = [self.get_parameter(f"head{t}_weight") for t in range(len(self.trunk.widths))]
        scaled = (x - self._column(self.x_loc)[:, None]) / self._column(self.x_scale)[:, None]
        target = ((y - self._column(self.y_loc)[:, None]) / self._column(self.y_scale)[:, None]).flatten(3)
        hidden = F.relu(self.trunk.grouped_hidden(scaled, heads, self.hidden_bias))
        raw = torch.matmul(self.out_weight, hidden) + self.out_bias[..., None]
        raw = raw + torch.matmul(self.skip_weight, scaled.flatten(3))
        raw = raw.unflatten(2, (self.n_out, len(self.levels))).flatten(1, 2)
        quantiles = quantiles_from_raw(raw, self.middle).unflatten(1, (self.members, self.n_out))
        known = torch.isfinite(target)
        return grouped_pinball(
            quantiles, torch.where(known, target, 0.0), self.level_values, known.to(x.dtype)
        )

    def _features(self, x: torch.Tensor, keep: Sequence[slice] | None) -> Iterator[torch.Tensor]:
        """Yield the trunk's features (B, M * width, *kept)."""
        if keep is None:
            yield from self.trunk(x)
        elif isinstance(self.trunk, SparseMixedScale):
            yield from self.trunk(x, keep)
        else:
            for feature in self.trunk(x):
                yield _cut(feature, keep)

    def _hidden(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Hidden layer before its ReLU, (B, *kept, M, units)."""
        weights: list[torch.Tensor] = [
            self.get_parameter(f"head{t}_weight") for t in range(len(self.trunk.widths))
        ]
        if torch.is_grad_enabled():
            lone = self.members == 1 and isinstance(self.trunk, SparseMixedScale)
            if lone and keep is None and x.device.type == "cpu" and not x.requires_grad:
                heads = [weight[0] for weight in weights]
                made: torch.Tensor = self.trunk.hidden(x, heads, self.hidden_bias[0])
                return made.unsqueeze(-2)
            # gradients keep every feature anyway, and one wide product is faster than many thin ones
            rows = torch.cat([self._rows(f) for f in self._features(x, keep)], -1)
            return self._point(rows, torch.cat(weights, 2), self.hidden_bias)
        hidden = x.new_zeros(())
        for t, feature in enumerate(self._features(x, keep)):
            self.between()
            rows = self._rows(feature)
            if t == 0:
                hidden = self.hidden_bias.expand(*rows.shape[:-1], -1).contiguous()
            if self.members == 1:
                # added in place: at 32 units a pass over the sums costs as much as the product
                hidden.view(-1, hidden.shape[-1]).addmm_(rows.reshape(-1, rows.shape[-1]), weights[t][0].t())
            else:
                hidden += self._point(rows, weights[t])
        return hidden

    def forward(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Quantiles in the target's units, (B, M, C, L, *kept), of (B, n_in, *space).

        Parameters
        ----------
        x : Tensor, (B, n_in, *space)
            In raw units.
        keep : sequence of slice, optional
            The part of the space that is wanted; the rest is computed only as far as that part sees it.
        """
        shape = (1, 1, self.n_out, 1, *(1,) * self.ndim)
        made = self.forward_scaled(x, keep)
        if torch.is_grad_enabled():
            return made * self.y_scale.reshape(shape) + self.y_loc.reshape(shape)
        return made.mul_(self.y_scale.reshape(shape)).add_(self.y_loc.reshape(shape))

    def latents(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> Iterator[torch.Tensor]:
        """Yield the latent features (B, M, width, *kept) one layer at a time, in the trunk's order."""
        for feature in self._features(self._input(x), keep):
            yield feature.unflatten(1, (self.members, -1))

    @torch.no_grad()
    def initialise(self, x: torch.Tensor, y: torch.Tensor, *, rng: np.random.Generator) -> None:
        """Set one member's weights from one batch: unit variance by layer, output at the quantiles.

        Parameters
        ----------
        x, y : Tensor, (B, n_in, *space), (B, n_out, *space)
            One training batch in raw units; NaN targets don't count.
        rng : numpy.random.Generator
            The member's own generator.

        References
        ----------
        Mishkin & Matas, "All you need is a good init", ICLR 2016.
        """
        if self.members != 1:
            raise ValueError(f"Initialise members one by one; this ensemble has {self.members}.")
        for weight, _ in self.trunk.weights():
            weight.copy_(_orthogonal(weight.shape, rng))
        n_features = sum(self.trunk.widths)
        for t in range(len(self.trunk.widths)):
            head = self.get_parameter(f"head{t}_weight")
            head.copy_(_normal(head.shape, math.sqrt(2.0 / n_features), rng))
        scaled = self._input(x)
        for layer, (weight, _) in enumerate(self.trunk.weights()):
            for t, feature in enumerate(self.trunk(scaled)):
                if t == layer:
                    # after a ReLU half of a unit-variance signal's mean square is left
                    weight.mul_(1.0 / feature.square().mean().mul(2.0).sqrt().clamp_min(1e-6))
                    break
        gain = 1.0 / self._hidden(scaled).std().clamp_min(1e-6)
        for t in range(len(self.trunk.widths)):
            self.get_parameter(f"head{t}_weight").mul_(gain)
        self.out_weight.copy_(_normal(self.out_weight.shape, 0.3 / math.sqrt(self.out_weight.shape[2]), rng))
        self.out_bias.copy_(torch.from_numpy(self._bias_at_quantiles(y)).reshape(1, -1))

    def _bias_at_quantiles(self, y: torch.Tensor) -> NDArray[np.float32]:
        """Output biases that make the constant quantiles of the targets."""
        scaled = (
            ((y - self._column(self.y_loc)) / self._column(self.y_scale)).transpose(0, 1).flatten(1).numpy()
        )
        quantiles = np.nanquantile(scaled, self.levels, axis=1).T
        steps = np.maximum(np.diff(quantiles, axis=1), 1e-2)
        inverse = np.log(np.expm1(steps))
        raw = np.empty_like(quantiles)
        raw[:, self.middle] = quantiles[:, self.middle]
        raw[:, : self.middle] = inverse[:, : self.middle]
        raw[:, self.middle + 1 :] = inverse[:, self.middle :]
        biases: NDArray[np.float32] = raw.reshape(-1).astype(np.float32)
        return biases


def _normal(shape: Sequence[int], scale: float, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy((rng.standard_normal(tuple(shape)) * scale).astype(np.float32))


def _orthogonal(shape: Sequence[int], rng: np.random.Generator) -> torch.Tensor:
    """Rows orthonormal over the flattened kernel, (1, out, in, *kernel)."""
    rows = int(shape[1])
    columns = math.prod(shape[2:])
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    matrix = q if rows >= columns else q.T
    return torch.from_numpy(np.ascontiguousarray(matrix.reshape(tuple(shape))).astype(np.float32))
