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

__all__ = ["Settled", "settle_member"]

_LEAST_GAIN = 1e-4  # slope of the target on a member's median, under which it says nothing of the target
_RIDGE = 1e-4
_PIXELS = 40_000


@dataclass(frozen=True, eq=False)
class Settled:
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


def settle_member(blueprint: Blueprint, member: Member, scaling: Scaling, x: Any, y: Any) -> Settled:
    """Match scales of input and target of a pretrained member, and measure how well it fits; a task.

    The input is scaled as that of any member. The target is an affine function of the median, found by least
    squares for each channel, and the output layer is changed so that it yields the target's units itself: its
    median exactly, the steps between quantiles to a linear function of the hidden layer.

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
        _speak(module, torch.from_numpy(x), slope, offset)
        made = module(torch.from_numpy(x))[:, 0].numpy()
        settled = {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}
    share = pinball_per_channel(made, y, blueprint.levels) / np.maximum(worst, 1e-12)
    # a constant channel is as good as any other start
    fits = bool(
        np.isfinite(share).all() and ((share < 1) | (worst < 1e-12)).all() and (slope > _LEAST_GAIN).all()
    )
    return Settled(Member(member.number, member.attempt, settled), float(share.mean()), fits)


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


def _speak(
    module: Ensemble, x: torch.Tensor, slope: NDArray[np.float64], offset: NDArray[np.float64]
) -> None:
    """Change the output layer so that each channel's quantiles become ``slope * quantile + offset``."""
    scaled = module._input(x)
    hidden = F.relu(module._hidden(scaled)).flatten(0, -3)[:, 0]
    given = rows_of(scaled, 1).flatten(0, -3)[:, 0]
    every = max(len(hidden) // _PIXELS, 1)
    design = torch.cat([hidden[::every], given[::every], torch.ones_like(hidden[::every, :1])], 1).double()
    units, levels = hidden.shape[1], len(module.levels)
    old = torch.cat([module.out_weight[0], module.skip_weight[0], module.out_bias[0, :, None]], 1).double()
    raw = (design @ old.T).unflatten(1, (module.n_out, levels))
    new = old.clone().unflatten(0, (module.n_out, levels))
    scale = design.square().mean(0).sqrt().clamp_min(1e-6)
    normal = (design / scale).T @ (design / scale) / len(design)
    normal += _RIDGE * torch.eye(len(normal), dtype=normal.dtype)
    for c, level in np.ndindex(module.n_out, levels):
        if level == module.middle:
            new[c, level] *= float(slope[c])
            new[c, level, -1] += float(offset[c])
            continue
        wanted = _unmade(float(slope[c]) * F.softplus(raw[:, c, level]))
        # what has to change, so that the ridge draws towards the member as it was
        change = ((design / scale).T @ (wanted - raw[:, c, level])) / len(design)
        new[c, level] += torch.linalg.solve(normal, change) / scale
    new = new.flatten(0, 1).float()
    module.out_weight[0] = new[:, :units]
    module.skip_weight[0] = new[:, units:-1]
    module.out_bias[0] = new[:, -1]


def _unmade(steps: torch.Tensor) -> torch.Tensor:
    """Return what softplus makes these steps of."""
    steps = steps.clamp_min(1e-6)
    return steps + torch.log(-torch.expm1(-steps))
