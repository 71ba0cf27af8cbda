"""Members trained together take the very steps that each takes alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_btn.core.networks.family import Blueprint, build, member_rng
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.settings import NetworkSettings, TrainSettings
from napari_btn.core.training.optimiser import GroupOptimiser, Optimiser, bias_correction, one_cycle

LEVELS = (0.05, 0.25, 0.5, 0.9)


def blueprint_of(ndim=2, n_in=3, dilations=(1, 2, 3, 8, 1), flat=(), **more):
    network = NetworkSettings(**{"depth": len(dilations), "channels": 2, "inputs": 3, "head_units": 8} | more)
    return Blueprint(network, Schedule(dilations, flat), n_in, n_in, ndim, LEVELS, 5)


def batches_of(blueprint, members, side=17, count=3, seed=0):
    rng = np.random.default_rng(seed)
    shape = (members, count, blueprint.n_in, *(side,) * blueprint.ndim)
    x, y = (torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for _ in range(2))
    y[0, 0, 0, :3] = torch.nan
    return x, y


def members_of(blueprint, count, x, y):
    """Modules of one member each, and the same members as one module."""
    alone = []
    for k in range(count):
        module = build(blueprint, [(k, 0)])
        module.initialise(x[0], y[0], rng=member_rng(blueprint.seed, k, use=2))
        with torch.no_grad():
            module.skip_weight.add_(0.1 * (k + 1))
        alone.append(module)
    together = build(blueprint, [(k, 0) for k in range(count)])
    states = [module.state_dict() for module in alone]
    shared = ("x_loc", "x_scale", "y_loc", "y_scale")
    together.load_state_dict(
        {n: states[0][n] if n in shared else torch.cat([s[n] for s in states]) for n in states[0]}
    )
    return alone, together


CASES = [
    {},
    {"n_in": 1, "dilations": (1, 4, 8)},
    {"n_in": 7, "dilations": (1, 2, 3, 1)},
    {"ndim": 3, "n_in": 1, "dilations": (1, 2, 4)},
    {"ndim": 3, "n_in": 2, "dilations": (1, 2, 1), "flat": (False, True, False)},
    {"dilations": (2,)},
    {"inputs": 1, "channels": 4},
]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_each_member_alone(case):
    blueprint = blueprint_of(**case)
    x, y = batches_of(blueprint, 3, side=17 if blueprint.ndim == 2 else 9)
    alone, together = members_of(blueprint, 3, x, y)
    losses = together.losses(x.transpose(0, 1), y.transpose(0, 1))
    losses.sum().backward()
    for k, module in enumerate(alone):
        loss = module.loss(x[k], y[k])
        loss.backward()
        assert losses[k].item() == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in module.named_parameters():
            expected, got = parameter.grad[0], together.get_parameter(name).grad[k]
            assert (expected - got).abs().max() <= 1e-4 * expected.abs().max().clamp_min(1e-6), name


def test_steps_are_those_of_each_member_alone():
    blueprint, settings = blueprint_of(), TrainSettings(steps=6)
    x, y = batches_of(blueprint, 3)
    alone, together = members_of(blueprint, 3, x, y)
    optimisers = [Optimiser(module, {}) for module in alone]
    group = GroupOptimiser(together, {})
    for step in range(6):
        rate = one_cycle(step, settings)
        together.losses(x.transpose(0, 1), y.transpose(0, 1)).sum().backward()
        group.step(torch.tensor(rate), torch.tensor(bias_correction(step)))
        for k, module in enumerate(alone):
            module.loss(x[k], y[k]).backward()
            optimisers[k].step(rate, step)
    for k, module in enumerate(alone):
        for name, parameter in module.named_parameters():
            got = together.get_parameter(name)[k]
            assert (parameter[0] - got).abs().max() <= 1e-3 * parameter.abs().max().clamp_min(1e-2), name
        for name, moment in optimisers[k].moments.items():
            got = group.moments[name][k]
            assert (moment[0] - got).abs().max() <= 1e-3 * moment.abs().max().clamp_min(1e-6), name


def test_moments_go_on_where_they_were_left():
    blueprint = blueprint_of()
    x, y = batches_of(blueprint, 2)
    _, together = members_of(blueprint, 2, x, y)
    made = []
    for restart in (False, True):
        module = build(blueprint, [(0, 0), (1, 0)])
        module.load_state_dict(together.state_dict())
        group = GroupOptimiser(module, {})
        for step in range(4):
            if restart and step == 2:
                weights = {n: v.clone() for n, v in module.state_dict().items()}
                module = build(blueprint, [(0, 0), (1, 0)])
                module.load_state_dict(weights)
                group = GroupOptimiser(module, group.moments)
            module.losses(x.transpose(0, 1), y.transpose(0, 1)).sum().backward()
            group.step(torch.tensor(0.01), torch.tensor(bias_correction(step)))
        made.append(module.state_dict())
    assert all(torch.equal(made[0][n], made[1][n]) for n in made[0])
