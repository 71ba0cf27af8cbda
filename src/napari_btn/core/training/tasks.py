"""The state of a member in training, and the tasks that train it for a few steps."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.pool import one_thread
from napari_btn.core.networks.family import Blueprint, Weights, build, build_trained, member_rng
from napari_btn.core.training.collapse import pinball_per_channel
from napari_btn.core.training.optimiser import Optimiser, one_cycle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.settings import TrainSettings

__all__ = [
    "Scaling",
    "State",
    "median_of",
    "pinball",
    "probe_member",
    "scaling_of",
    "start_member",
    "train_member",
]


@dataclass(frozen=True)
class Scaling:
    """Location and scale of inputs and targets per channel, float32 (C,) each."""

    x_loc: NDArray[np.float32]
    x_scale: NDArray[np.float32]
    y_loc: NDArray[np.float32]
    y_scale: NDArray[np.float32]

    def as_weights(self) -> Weights:
        """Return the scaling as buffers of a module, by name."""
        return {"x_loc": self.x_loc, "x_scale": self.x_scale, "y_loc": self.y_loc, "y_scale": self.y_scale}

    def through_origin(self) -> Scaling:
        """Return the scaling without locations, for bias-free members: inputs have a mean square of one."""
        none = np.zeros_like
        return Scaling(none(self.x_loc), np.hypot(self.x_loc, self.x_scale), none(self.y_loc), self.y_scale)


def scaling_of(scenes: Scenes, boxes: Sequence[Box], levels: Sequence[float], *, seed: int) -> Scaling:
    """Return the mean and scale of training values, per channel.

    The scale of a target is the pinball loss of its constant quantiles, normalised to the standard
    deviation for normal values. So a channel with a rare bright phase, whose standard deviation comes from a
    few pixels, counts as much in the loss as other channels.

    Parameters
    ----------
    scenes : Scenes
    boxes : sequence of Box
        Training part.
    levels : sequence of float
        Quantile levels.
    seed : int
        Seed of the sample of values.
    """
    # imported here, because workers don't need it and must not wait for scipy
    from scipy.special import ndtri

    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2**31, 1)))
    sampled = scenes.sample(boxes, rng)
    x, y = ([row[np.isfinite(row)] for row in values] for values in sampled)
    constant = [np.quantile(row, levels) for row in y]
    loss = np.asarray([_constant_loss(q, row, levels) for q, row in zip(constant, y, strict=True)])
    normal = np.mean(np.exp(-(ndtri(levels) ** 2) / 2) / np.sqrt(2 * np.pi))
    spread_x, spread_y, sd_y = np.asarray([row.std() for row in x]), loss / normal, [row.std() for row in y]
    spread_y = np.where(spread_y > 0.1 * np.asarray(sd_y), spread_y, sd_y)
    # the channels of neighbouring frames are those of the frame itself
    times = scenes.noisy.n_inputs // scenes.noisy.n_channels
    return Scaling(
        np.tile(np.asarray([row.mean() for row in x], np.float32), times),
        np.tile(np.where(spread_x > 0, spread_x, 1.0).astype(np.float32), times),
        np.asarray([row.mean() for row in y], np.float32),
        np.where(spread_y > 0, spread_y, 1.0).astype(np.float32),
    )


def _constant_loss(quantiles: NDArray[Any], values: NDArray[Any], levels: Sequence[float]) -> float:
    """Return the mean pinball loss of constant quantiles (L,) against values (n,)."""
    # the loss is level * (y - q) + max(q - y, 0): only the second part needs every value
    over = [np.maximum(q - values, 0).mean() for q in quantiles]
    return float(np.mean(np.asarray(levels) * (values.mean() - quantiles) + over))


@dataclass(frozen=True)
class State:
    """The state of a member between two training tasks.

    Parameters
    ----------
    member, attempt : int
        Number of the member, and number of its restarts.
    step : int
        Number of optimiser steps taken.
    weights, moments : dict of str to ndarray
        State of the module and of the optimiser, float32.
    """

    member: int
    attempt: int
    step: int
    weights: Weights
    moments: Weights = field(default_factory=dict)


def pinball(quantiles: torch.Tensor, target: torch.Tensor, levels: Sequence[float]) -> torch.Tensor:
    """Return the mean pinball loss of each member, (M,); NaN targets don't count.

    Parameters
    ----------
    quantiles : Tensor, (B, M, C, L, *space)
    target : Tensor, (B, C, *space)
    levels : sequence of float
        Quantile levels.

    References
    ----------
    Koenker & Bassett, Econometrica 46 (1978) 33.
    """
    level = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    level = level.reshape(1, 1, 1, -1, *(1,) * (quantiles.ndim - 4))
    diff = target[:, None, :, None] - quantiles
    # one multiplication per value: the slope is the level above the quantile, and level - 1 below
    slope = (level - (diff < 0).to(diff.dtype)).detach()
    counts = torch.isfinite(target)
    if bool(counts.all()):
        return (slope * diff).flatten(2).mean(2).mean(0)
    known = counts[:, None, :, None].expand_as(diff)
    loss = torch.where(known, slope * torch.where(known, diff, 0.0), 0.0).transpose(0, 1).flatten(1)
    return loss.sum(1) / known.transpose(0, 1).flatten(1).sum(1).clamp_min(1)


def start_member(blueprint: Blueprint, scaling: Scaling, member: int, attempt: int, x: Any, y: Any) -> State:
    """Initialise a member from one batch; a task.

    Parameters
    ----------
    blueprint : Blueprint
    scaling : Scaling
    member, attempt : int
        Number of the member, and number of its restarts.
    x, y : ndarray of float32, (B, C, *patch)
        Inputs and targets.
    """
    with one_thread():
        module = build(blueprint, [(member, attempt)])
        for name, value in scaling.as_weights().items():
            getattr(module, name).copy_(torch.from_numpy(value))
        rng = member_rng(blueprint.seed, member, attempt=attempt, use=2)
        module.initialise(torch.from_numpy(x), torch.from_numpy(y), rng=rng)
        return State(member, attempt, 0, _to_numpy(module.state_dict()))


def _loaded(blueprint: Blueprint, state: State) -> Ensemble:
    """Return a member as a module."""
    return build_trained(blueprint, state.member, state.attempt, state.weights)


def _to_numpy(tensors: dict[str, torch.Tensor]) -> Weights:
    """Return copies of tensors as arrays."""
    return {k: v.detach().cpu().contiguous().numpy().copy() for k, v in tensors.items()}


def train_member(
    blueprint: Blueprint, settings: TrainSettings, state: State, batches: list[tuple[Any, Any]]
) -> tuple[State, list[float], float]:
    """Train a member for one step per batch; a task.

    Parameters
    ----------
    blueprint : Blueprint
    settings : TrainSettings
    state : State
    batches : list of (ndarray, ndarray)
        Inputs and targets of each step.

    Returns
    -------
    state : State
        The member after these steps.
    losses : list of float
        Loss of each step.
    seconds : float
        Wall time.

    Raises
    ------
    ArithmeticError
        If a loss is not finite.
    """
    began = time.perf_counter()
    with one_thread():
        module = _loaded(blueprint, state)
        module.saturation = math.inf if settings.saturation is None else settings.saturation
        optimiser = Optimiser(module, state.moments)
        losses = []
        for i, (x, y) in enumerate(batches):
            loss = module.loss(torch.from_numpy(x), torch.from_numpy(y))
            if not torch.isfinite(loss):
                raise ArithmeticError(
                    f"The loss of member {state.member + 1} is {float(loss)} at step {state.step + i}; "
                    "lower the learning rate."
                )
            loss.backward()
            optimiser.step(one_cycle(state.step + i, settings), state.step + i)
            losses.append(loss.item())
        new = replace(
            state,
            step=state.step + len(batches),
            weights=_to_numpy(module.state_dict()),
            moments=_to_numpy(optimiser.moments),
        )
    return new, losses, time.perf_counter() - began


def probe_member(
    blueprint: Blueprint, state: State, x: Any, y: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pinball loss and the standard deviation of the median, (C,) each; a task.

    Parameters
    ----------
    blueprint : Blueprint
    state : State
    x, y : ndarray of float32, (B, C, *patch)
        Inputs and targets.
    """
    with one_thread(), torch.inference_mode():
        module = _loaded(blueprint, state)
        q = module(torch.from_numpy(x))[:, 0].numpy()
    return pinball_per_channel(q, y, blueprint.levels), q[:, :, module.middle].std(
        axis=(0, *range(2, x.ndim))
    )


def median_of(
    blueprint: Blueprint, state: State, x: Any, device: str = "cpu"
) -> tuple[NDArray[np.float32], float]:
    """Return the median of one member, (C, *space), and the CPU-seconds taken; a task.

    Parameters
    ----------
    blueprint : Blueprint
    state : State
    x : ndarray of float32, (C, *space)
        Image.
    device : str
        Name of the device in torch.
    """
    began = time.process_time()
    with one_thread(), torch.inference_mode():
        module = _loaded(blueprint, state)
        made = module.to(device)(torch.from_numpy(np.array(x[None])).to(device))
        median = np.ascontiguousarray(made[0, 0, :, module.middle].cpu().numpy())
    return median, time.process_time() - began
