"""Training of a prior: members that learn from made-up scenes before they see an image of a user."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.pool import one_thread
from napari_btn.core.networks.family import build, member_rng
from napari_btn.core.training.optimiser import Optimiser, one_cycle
from napari_btn.core.training.tasks import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.settings import TrainSettings

    Batches = Callable[[int], tuple[Any, Any]]

__all__ = ["begin_prior", "go_on_prior"]


def begin_prior(blueprint: Blueprint, member: int, batches: Batches) -> State:
    """Initialise a member from the first batch; a task.

    Parameters
    ----------
    blueprint : Blueprint
    member : int
        Number of the member.
    batches : callable
        Returns input and target, (B, C, *patch) each, of a step; scaled already.
    """
    with one_thread():
        module = build(blueprint, [(member, 0)])
        x, y = (torch.from_numpy(np.ascontiguousarray(v)) for v in batches(0))
        module.initialise(x, y, rng=member_rng(blueprint.seed, member, use=2))
        weights = {k: v.detach().numpy().copy() for k, v in module.state_dict().items()}
    return State(member, 0, 0, weights)


def go_on_prior(
    blueprint: Blueprint, settings: TrainSettings, state: State, batches: Batches, count: int
) -> tuple[State, list[float]]:
    """Train a member for some steps; a task.

    The loss is the mean log of the pinball loss of a patch and channel, so that scenes of few and of many
    counts matter alike.

    Parameters
    ----------
    blueprint : Blueprint
    settings : TrainSettings
        Steps and peak rate of the one-cycle schedule.
    state : State
    batches : callable
        Returns input and target, (B, C, *patch) each, of a step.
    count : int
        Steps to take now.

    Returns
    -------
    state : State
    losses : list of float
        Loss of each step.

    Raises
    ------
    ArithmeticError
        If a loss is not finite.
    """
    with one_thread():
        module = build(blueprint, [(state.member, state.attempt)])
        module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.weights.items()})
        optimiser = Optimiser(module, state.moments)
        losses = []
        for step in range(state.step, min(state.step + count, settings.steps)):
            x, y = (torch.from_numpy(np.ascontiguousarray(v)) for v in batches(step))
            loss = module.log_loss(x, y)
            if not torch.isfinite(loss):
                raise ArithmeticError(
                    f"The loss of member {state.member + 1} is {float(loss)} at step {step}; lower the rate."
                )
            loss.backward()
            optimiser.step(one_cycle(step, settings), step)
            losses.append(loss.item())
        made = replace(
            state,
            step=state.step + len(losses),
            weights={k: v.detach().numpy().copy() for k, v in module.state_dict().items()},
            moments={k: v.numpy().copy() for k, v in optimiser.moments.items()},
        )
    return made, losses
