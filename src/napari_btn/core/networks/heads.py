"""Members as one torch module: a trunk of any family, quantile heads, latents.

Every parameter has the member as its first axis, and members run as the groups of one
convolution, so the same module serves one member in a process of its own and all of them on
a GPU. Nothing here looks across the batch or normalises over space: a pixel depends on its
receptive field alone, in any batch and any tile.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from napari_btn.core.networks.pinball import (
    ABSOLUTE,
    SOFTPLUS,
    grouped_pinball,
    noncrossing_pinball,
    quantiles_from_raw,
    step_from_middle,
)
from napari_btn.core.networks.trunk import cut, point, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.networks.trunk import Trunk

__all__ = ["Ensemble"]

# Pixels that go through the heads together in a prediction: their intermediate values fit in a core's cache.
_HEAD_PIXELS = 8192
# Added to a patch's loss before its log: a patch without any structure must not outweigh all others.
_LEAST_LOSS = 0.03


def _go_on() -> None:
    """Do nothing between two layers."""


class Ensemble(nn.Module):
    """Members that map a noisy image to quantiles of the clean one, pixel by pixel.

    One hidden layer, shared by all levels, reads every feature of the trunk; the output has an
    input skip that starts at zero.

    Parameters
    ----------
    trunk : Trunk
        The members' features.
    blueprint : Blueprint
        Channels, levels and settings. Bias-free members have no additive constants, so that an image that is
        twice as bright gives quantiles twice as high (where the scaling goes through the origin).
    members : int
        Number of members, M.

    Attributes
    ----------
    steps : Steps
        Map of the heads' outputs to the steps between quantiles.
    between : callable
        Called after each layer of a prediction; where it raises, the prediction ends.
    saturation : float
        Largest value of the detector, in the units of the target: such targets are lower bounds. Infinite for none.
    """

    level_values: torch.Tensor
    x_loc: torch.Tensor
    x_scale: torch.Tensor
    y_loc: torch.Tensor
    y_scale: torch.Tensor

    def __init__(self, trunk: Trunk, blueprint: Blueprint, members: int) -> None:
        super().__init__()
        bias_free, head_units = blueprint.settings.bias_free, blueprint.settings.head_units
        self.steps = ABSOLUTE if bias_free else SOFTPLUS
        self.trunk, self.members = trunk, members
        n_in, n_out = blueprint.n_in, blueprint.n_out
        self.n_in, self.n_out, self.ndim = n_in, n_out, blueprint.ndim
        self.between: Callable[[], None] = _go_on
        self.saturation = math.inf
        self.levels = levels = blueprint.levels
        self.middle = levels.index(0.5)
        outputs = n_out * len(levels)
        self.widths = blueprint.widths
        for t, width in enumerate(self.widths):
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

    def _head_weights(self) -> list[nn.Parameter]:
        """Return the heads' weights of each feature, (M, units, width)."""
        return [self.get_parameter(f"head{t}_weight") for t in range(len(self.widths))]

    def _input(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scaled input, repeated for each member."""
        x = (x - self._column(self.x_loc)) / self._column(self.x_scale)
        if self.members > 1:
            x = x.repeat(1, self.members, *(1,) * self.ndim)
        return x

    def forward_scaled(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Return quantiles in scaled units, (B, M, C, L, *kept), of a raw input (B, n_in, *space)."""
        x = self._input(x)
        hidden = self._hidden(x, keep)
        rows = rows_of(x if keep is None else cut(x, keep), self.members)
        if not torch.is_grad_enabled():
            return self._heads(hidden, rows)
        raw = point(F.relu(hidden), self.out_weight, self.out_bias)
        raw = (raw + point(rows, self.skip_weight)).flatten(-2).movedim(-1, 1)
        raw = raw.unflatten(1, (self.members * self.n_out, len(self.levels)))
        made: torch.Tensor = quantiles_from_raw(raw, self.middle, self.steps).unflatten(
            1, (self.members, self.n_out)
        )
        return made

    def _heads(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return quantiles (B, M, C, L, *space) of the hidden layer, which is overwritten, and the scaled input.

        A few pixels go through all of the head at a time, so that intermediate values stay in the cache.
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
                step_from_middle(raw.unflatten(0, (levels, self.n_out)), out[b, m], self.middle, self.steps)
        quantiles: torch.Tensor = made.transpose(2, 3).unflatten(-1, space)
        return quantiles

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean pinball loss in scaled units, summed over the members; NaN targets don't count.

        Parameters
        ----------
        x, y : Tensor, (B, n_in, *space), (B, n_out, *space)
            One batch in raw units.
        """
        target = (y - self._column(self.y_loc)) / self._column(self.y_scale)
        target = target.transpose(0, 1).flatten(1)
        scaled = self._input(x)
        rows = F.relu(self._hidden(scaled)).flatten(0, -3)
        skipped = rows_of(scaled, self.members).flatten(0, -3)
        total = x.new_zeros(())
        for m in range(self.members):
            # levels first: every pass of the loss then runs along contiguous pixels
            raw = torch.addmm(self.out_bias[m, :, None], self.out_weight[m], rows[:, m].t())
            raw = torch.addmm(raw, self.skip_weight[m], skipped[:, m].t())
            raw = raw.unflatten(0, (self.n_out, len(self.levels)))
            total = total + noncrossing_pinball(
                raw, target, self.levels, self.middle, self.steps, self._top()
            )
        return total

    def _top(self) -> torch.Tensor | None:
        """Return the saturation in scaled units, (C, 1); None for none."""
        if math.isinf(self.saturation):
            return None
        return ((self.saturation - self.y_loc) / self.y_scale)[:, None]

    def log_loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean log of the pinball loss of each patch and channel, for one member.

        Patches that are easy and patches that are hard then count alike: what matters is by which share their
        loss falls.

        Parameters
        ----------
        x, y : Tensor, (B, n_in, *space), (B, n_out, *space)
            One batch in raw units.
        """
        target = ((y - self._column(self.y_loc)) / self._column(self.y_scale)).flatten(2)
        scaled = self._input(x)
        rows = F.relu(self._hidden(scaled)).flatten(1, -3)[:, :, 0]
        skipped = rows_of(scaled, self.members).flatten(1, -3)[:, :, 0]
        total = x.new_zeros(())
        for b in range(len(x)):
            raw = torch.addmm(self.out_bias[0, :, None], self.out_weight[0], rows[b].t())
            raw = torch.addmm(raw, self.skip_weight[0], skipped[b].t())
            raw = raw.unflatten(0, (self.n_out, len(self.levels)))
            for c in range(self.n_out):
                loss = noncrossing_pinball(
                    raw[c : c + 1], target[b, c : c + 1], self.levels, self.middle, self.steps
                )
                total = total + torch.log(loss + _LEAST_LOSS)
        return total / (len(x) * self.n_out)

    def losses(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return each member's mean pinball loss in scaled units on its own batch, (M,); NaN targets don't count.

        Parameters
        ----------
        x, y : Tensor, (B, M, n_in, *space), (B, M, n_out, *space)
            Batches in raw units.
        """
        scaled = (x - self._column(self.x_loc)[:, None]) / self._column(self.x_scale)[:, None]
        target = ((y - self._column(self.y_loc)[:, None]) / self._column(self.y_scale)[:, None]).flatten(3)
        hidden = F.relu(self.trunk.grouped_hidden(scaled, self._head_weights(), self.hidden_bias))
        raw = torch.matmul(self.out_weight, hidden) + self.out_bias[..., None]
        raw = raw + torch.matmul(self.skip_weight, scaled.flatten(3))
        raw = raw.unflatten(2, (self.n_out, len(self.levels))).flatten(1, 2)
        quantiles = quantiles_from_raw(raw, self.middle, self.steps).unflatten(1, (self.members, self.n_out))
        known = torch.isfinite(target)
        return grouped_pinball(
            quantiles,
            torch.where(known, target, 0.0),
            self.level_values,
            known.to(x.dtype),
            self._top(),
        )

    def _hidden(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Return the hidden layer before its ReLU, (B, *kept, M, units)."""
        heads, bias = self._head_weights(), self.hidden_bias
        if torch.is_grad_enabled():
            return self.trunk.hidden(x, heads, bias, keep)
        return self.trunk.predicted_hidden(x, heads, bias, keep=keep, between=self.between)

    def forward(self, x: torch.Tensor, keep: Sequence[slice] | None = None) -> torch.Tensor:
        """Return quantiles in the target's units, (B, M, C, L, *kept), of (B, n_in, *space).

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
        for feature in self.trunk.features(self._input(x), keep):
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
        scaled = self._input(x)
        self.trunk.initialise(scaled, rng)
        heads = self._head_weights()
        for head in heads:
            head.copy_(_normal(head.shape, math.sqrt(2.0 / sum(self.widths)), rng))
        gain = 1.0 / self._hidden(scaled).std().clamp_min(1e-6)
        for head in heads:
            head.mul_(gain)
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
        """Return the quantiles of the scaled targets, (C, L)."""
        scaled = ((y - self._column(self.y_loc)) / self._column(self.y_scale)).transpose(0, 1).flatten(1)
        quantiles: NDArray[np.float64] = np.nanquantile(scaled.numpy(), self.levels, axis=1).T
        return quantiles

    def _outputs(self, quantiles: NDArray[np.floating], steps: NDArray[np.floating]) -> torch.Tensor:
        """Return raw outputs (1, C * L) for quantiles (C, L) and the outputs of the steps between them (C, L - 1)."""
        raw = np.insert(steps, self.middle, quantiles[:, self.middle], axis=1)
        return torch.from_numpy(raw.reshape(1, -1).astype(np.float32))


def _normal(shape: Sequence[int], scale: float, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy((rng.standard_normal(tuple(shape)) * scale).astype(np.float32))
