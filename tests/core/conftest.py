"""Members with random weights: the laws of the engine hold for any, trained or not."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core.networks.family import Blueprint, Member, build, member_rng
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.networks.sms.graph import draw_dilations
from napari_btn.core.settings import NetworkSettings


def _random_members(
    n=2, *, channels=1, ndim=2, n_out=None, levels=(0.05, 0.5, 0.95), seed=0, flat=(), chunk=2, **network
):
    """(blueprint, members) of small networks, initialised on noise."""
    import torch

    settings = NetworkSettings(**{"depth": 4, "channels": chunk, "inputs": 3, "max_dilation": 3} | network)
    dilations = draw_dilations(settings, ndim=ndim)
    plan = Schedule(dilations, flat)
    blueprint = Blueprint(settings, plan, channels, n_out or channels, ndim, levels, seed)
    x, y = (
        torch.from_numpy(_noise(s, (4, c, *(12,) * ndim))) for s, c in ((1, channels), (2, blueprint.n_out))
    )
    members = []
    for k in range(n):
        module = build(blueprint, [(k, 0)])
        module.initialise(x, y, rng=member_rng(seed, k, use=2))
        # initialised biases and skips are zero; any weights must obey
        rng = np.random.default_rng(k)
        weights = {
            name: value.numpy() + 0.1 * _noise(rng, value.shape)
            for name, value in module.state_dict().items()
        }
        for name in ("x_scale", "y_scale"):
            weights[name] = np.abs(weights[name]) + 0.5
        members.append(Member(k, 0, {name: np.asarray(v, np.float32) for name, v in weights.items()}))
    return blueprint, tuple(members)


def _noise(seed, shape):
    return np.random.default_rng(seed).normal(size=tuple(shape)).astype(np.float32)


@pytest.fixture(scope="session")
def random_members():
    """Make (blueprint, members) of small random networks."""
    return _random_members
