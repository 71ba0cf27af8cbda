"""A warm start: pretrained members in the units of a user's images, and how well they fit them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from napari_btn.core.compute.pool import one_thread
from napari_btn.core.networks.family import Member, build
from napari_btn.core.networks.trunk import rows_of
from napari_btn.core.training.collapse import pinball_per_channel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.training.tasks import Scaling

__all__ = ["settle_member"]

_LEAST_GAIN = 1e-4  # slope of the target on a member's median, under which it says nothing of the target
_RIDGE = 1e-4
_LEAST_FACTOR = 0.05  # steps that were much too wide keep a share of their width, or they would not learn
_ENOUGH = 2000  # known targets from which the median is solved for; with fewer it stays an affine function


@dataclass(frozen=True, eq=False)
class _Settled:
    """A pretrained member that speaks in the units of a user's images.

    Parameters
    ----------
    member : Member
    loss : float
        Pinball loss over that of constant quantiles, mean over the channels.
    fits : bool
        True if the loss is below that of constant quantiles in each channel.
    """

    member: Member
    loss: float
    fits: bool


def settle_member(blueprint: Blueprint, member: Member, scaling: Scaling, x: Any, y: Any) -> _Settled:
    """Match scales of input and target of a pretrained member, and measure how well it fits; a task.

    The input is scaled as that of any member. The target is nearly an affine function of the median, found by
    least squares for each channel. The output layer is then solved for by least squares, without a training step:
    the median for the target itself, starting from that function, and the steps between quantiles for a multiple of
    what they were, that with the least pinball loss.

    Parameters
    ----------
    blueprint : Blueprint
    member : Member
        Maps an input of mean zero and SD one to the signal in the same units.
    scaling : Scaling
        Of the training part.
    x, y : ndarray of float32, (B, C, *patch)
        Inputs and targets of the training part; NaN targets don't count.
    """
    constant = np.nanquantile(y.swapaxes(0, 1).reshape(y.shape[1], -1), blueprint.levels, axis=1).T
    worst = pinball_per_channel(
        constant.reshape(1, *constant.shape, *(1,) * (y.ndim - 2)), y, blueprint.levels
    )
    with one_thread(), torch.no_grad():
        module = build(blueprint, [(member.number, member.attempt)])
        weights = {**member.weights, **scaling.as_weights()}
        module.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        slope, offset = _matched(module, torch.from_numpy(x), y, scaling)
        target = (y.swapaxes(0, 1).reshape(y.shape[1], -1).T - scaling.y_loc) / scaling.y_scale
        _speak(module, torch.from_numpy(x), torch.from_numpy(target).double(), slope, offset)
        made = module(torch.from_numpy(x))[:, 0].numpy()
        settled = {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}
    share = pinball_per_channel(made, y, blueprint.levels) / np.maximum(worst, 1e-12)
    # a constant channel is as good as any other start
    fits = bool(
        np.isfinite(share).all() and ((share < 1) | (worst < 1e-12)).all() and (slope > _LEAST_GAIN).all()
    )
    return _Settled(Member(member.number, member.attempt, settled), float(share.mean()), fits)


def _matched(
    module: Ensemble, x: torch.Tensor, y: NDArray[np.float32], scaling: Scaling
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return slope and offset (C,) that make the scaled target of the scaled median."""
    median = module.forward_scaled(x)[:, 0, :, module.middle].numpy()
    slope, offset = np.ones(y.shape[1]), np.zeros(y.shape[1])
    for c in range(y.shape[1]):
        target = (y[:, c].ravel().astype(float) - scaling.y_loc[c]) / scaling.y_scale[c]
        known = np.isfinite(target)
        given, target = median[:, c].ravel().astype(float)[known], target[known]
        variance = given.var()
        if variance > 0:
            slope[c] = np.mean((given - given.mean()) * (target - target.mean())) / variance
        offset[c] = target.mean() - slope[c] * given.mean()
    return np.maximum(slope, _LEAST_GAIN), offset


class _OutputLayer:
    """The output layer of a member, as rows (C, L, features) over the hidden layer, the input, and a constant.

    Parameters
    ----------
    module : Ensemble
        One member.
    x : Tensor, (B, n_in, *space)
        Inputs on which it is refitted.
    """

    def __init__(self, module: Ensemble, x: torch.Tensor) -> None:
        self.module = module
        scaled = module._input(x)
        hidden = F.relu(module._hidden(scaled)).flatten(0, -3)[:, 0]
        given = rows_of(scaled, 1).flatten(0, -3)[:, 0]
        self.units = hidden.shape[1]
        self.design = torch.cat([hidden, given, torch.ones_like(hidden[:, :1])], 1).double()
        self.scale = self.design.square().mean(0).sqrt().clamp_min(1e-6)
        rows = [module.out_weight[0], module.skip_weight[0], module.out_bias[0, :, None]]
        self.rows = torch.cat(rows, 1).double().unflatten(0, (module.n_out, len(module.levels)))

    def outputs(self, channel: int, level: int) -> torch.Tensor:
        """Return raw outputs at all pixels."""
        made: torch.Tensor = self.design @ self.rows[channel, level]
        return made

    def fit(self, channel: int, level: int, wanted: torch.Tensor, known: torch.Tensor) -> None:
        """Fit a row to the wanted raw outputs, by ridge regression towards the present row."""
        design = self.design[known] / self.scale
        normal = design.T @ design / len(design)
        normal += _RIDGE * torch.eye(len(normal), dtype=normal.dtype)
        change = design.T @ (wanted[known] - self.outputs(channel, level)[known]) / len(design)
        self.rows[channel, level] += torch.linalg.solve(normal, change) / self.scale

    def write(self) -> None:
        """Put the rows into the member."""
        rows = self.rows.flatten(0, 1).float()
        self.module.out_weight[0] = rows[:, : self.units]
        self.module.skip_weight[0] = rows[:, self.units : -1]
        self.module.out_bias[0] = rows[:, -1]


def _speak(
    module: Ensemble, x: torch.Tensor, target: torch.Tensor, slope: NDArray[np.float64], offset: Any
) -> None:
    """Refit the output layer: medians to the scaled targets (n, C), steps by a common factor."""
    layer, middle = _OutputLayer(module, x), module.middle
    for c in range(module.n_out):
        layer.rows[c, middle] *= float(slope[c])
        layer.rows[c, middle, -1] += float(offset[c])
        known = torch.isfinite(target[:, c])
        enough = int(known.sum()) >= _ENOUGH
        if enough:
            layer.fit(c, middle, target[:, c], known)
        median = layer.outputs(c, middle)
        for outward in (range(middle - 1, -1, -1), range(middle + 1, len(module.levels))):
            reached = median
            for level in outward:
                side = 1 if level > middle else -1
                steps = float(slope[c]) * F.softplus(layer.outputs(c, level))
                if enough:
                    rest = side * (target[:, c] - reached)[known]
                    share = module.levels[level] if side > 0 else 1 - module.levels[level]
                    steps = steps * _factor(rest, steps[known], share)
                reached = reached + side * steps
                layer.fit(c, level, _unmade(steps), torch.ones_like(known))
    layer.write()


def _factor(rest: torch.Tensor, steps: torch.Tensor, share: float) -> float:
    """Return the factor of steps with the least pinball loss against the residual of the target.

    It is a quantile of the ratios, weighted by the steps (Koenker, Quantile Regression, section 6.2).
    """
    ratio, order = (rest / steps).sort()
    weight = steps[order].cumsum(0)
    at = int(torch.searchsorted(weight, share * weight[-1]))
    return max(float(ratio[min(at, len(ratio) - 1)]), _LEAST_FACTOR)


def _unmade(steps: torch.Tensor) -> torch.Tensor:
    """Return what softplus makes these steps of."""
    steps = steps.clamp_min(1e-6)
    return steps + torch.log(-torch.expm1(-steps))
