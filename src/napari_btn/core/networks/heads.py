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

from napari_btn.core.networks.sms.many_members import grouped_pinball
from napari_btn.core.networks.sms.one_member import ABSOLUTE, SOFTPLUS, Steps, noncrossing_pinball
from napari_btn.core.networks.sms.trunk import SparseMixedScale, cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Ensemble", "Trunk", "quantiles_from_raw"]

# Pixels that go through the heads together in a prediction: all that is between fits in a core's own cache.
_HEAD_PIXELS = 8192


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


def quantiles_from_raw(raw: torch.Tensor, middle: int, steps: Steps = SOFTPLUS) -> torch.Tensor:
    """Quantiles that never cross, along axis 2: the middle one plus cumulative steps.

    Parameters
    ----------
    raw : Tensor, (B, M * C, L, *space)
        Unconstrained outputs.
    middle : int
        Index of the median among the L levels.
    steps : Steps
        How steps are made.
    """
    centre = raw[:, :, middle : middle + 1]
    parts = [centre]
    if middle:
        below = steps.made(raw[:, :, :middle]).flip(2).cumsum(2).flip(2)
        parts.insert(0, centre - below)
    if middle + 1 < raw.shape[2]:
        parts.append(centre + steps.made(raw[:, :, middle + 1 :]).cumsum(2))
    return torch.cat(parts, 2)


def _step_from_middle(raw: torch.Tensor, out: torch.Tensor, middle: int, steps: Steps) -> None:
    """Write the quantiles of raw outputs, (L, ...): those of `quantiles_from_raw`, without a gradient."""
    out[middle] = raw[middle]
    below, above = steps.made(raw[:middle]), steps.made(raw[middle + 1 :])
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
    bias_free : bool
        Without additive constants, so that an image that is twice as bright gives quantiles twice as high
        (where the scaling goes through the origin).

    Attributes
    ----------
    steps : Steps
        How the heads' outputs become steps between quantiles.
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
        bias_free: bool = False,
    ) -> None:
        super().__init__()
        self.steps = ABSOLUTE if bias_free else SOFTPLUS
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
        if bias_free:
            for name, parameter in self.named_parameters():
                # they begin at zero, and what has no gradient stays
                if name.endswith("_bias"):
                    parameter.requires_grad_(False)

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
        rows = self._rows(x if keep is None else cut(x, keep))
        if not torch.is_grad_enabled():
            return self._heads(hidden, rows)
        raw = self._point(F.relu(hidden), self.out_weight, self.out_bias)
        raw = (raw + self._point(rows, self.skip_weight)).flatten(-2).movedim(-1, 1)
        raw = raw.unflatten(1, (self.members * self.n_out, len(self.levels)))
        made: torch.Tensor = quantiles_from_raw(raw, self.middle, self.steps).unflatten(
            1, (self.members, self.n_out)
        )
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
                _step_from_middle(raw.unflatten(0, (levels, self.n_out)), out[b, m], self.middle, self.steps)
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
            total = total + noncrossing_pinball(raw, target, self.levels, self.middle, self.steps)
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
        quantiles = quantiles_from_raw(raw, self.middle, self.steps).unflatten(1, (self.members, self.n_out))
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
                yield cut(feature, keep)

    def _hidden(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Hidden layer before its ReLU, (B, *kept, M, units)."""
        weights: list[torch.Tensor] = [
            self.get_parameter(f"head{t}_weight") for t in range(len(self.trunk.widths))
        ]
        trunk, heads = self.trunk, [weight[0] for weight in weights]
        lone = self.members == 1 and isinstance(trunk, SparseMixedScale) and x.device.type == "cpu"
        if lone and not torch.is_grad_enabled():
            part = tuple(slice(0, n) for n in x.shape[2:]) if keep is None else keep
            made: torch.Tensor = trunk.banded_hidden(
                x, heads, self.hidden_bias[0], keep=part, between=self.between
            )
            return made.unsqueeze(-2)
        if torch.is_grad_enabled():
            if lone and keep is None and not x.requires_grad:
                made = trunk.hidden(x, heads, self.hidden_bias[0])
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
        quantiles = self._constant_quantiles(y)
        steps = np.maximum(np.diff(quantiles, axis=1), 1e-2)
        if self.steps is SOFTPLUS:
            self.out_bias.copy_(self._outputs(quantiles, np.log(np.expm1(steps))))
        else:
            # the mean hidden layer takes the place of the constant
            mean = F.relu(self._hidden(scaled)).flatten(0, -2).mean(0)
            outputs = self._outputs(quantiles, steps).unsqueeze(-1)
            self.out_weight.add_(outputs * mean / mean.square().sum().clamp_min(1e-6))

    def _constant_quantiles(self, y: torch.Tensor) -> NDArray[np.float64]:
        """Quantiles of the scaled targets, (C, L)."""
        scaled = ((y - self._column(self.y_loc)) / self._column(self.y_scale)).transpose(0, 1).flatten(1)
        quantiles: NDArray[np.float64] = np.nanquantile(scaled.numpy(), self.levels, axis=1).T
        return quantiles

    def _outputs(self, quantiles: NDArray[np.floating], steps: NDArray[np.floating]) -> torch.Tensor:
        """Raw outputs (1, C * L) for quantiles (C, L) and what makes the steps between them (C, L - 1)."""
        raw = np.insert(steps, self.middle, quantiles[:, self.middle], axis=1)
        return torch.from_numpy(raw.reshape(1, -1).astype(np.float32))


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
