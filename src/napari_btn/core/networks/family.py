"""The registry of member families: settings and a seed in, an `Ensemble` out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.networks.sms.graph import Graph, draw_graph, receptive_field

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.networks.sms.trunk import SparseMixedScale
    from napari_btn.core.settings import NetworkSettings

__all__ = ["FAMILIES", "Blueprint", "Member", "Networks", "build", "graph_of", "member_rng"]

_SCALING = ("x_loc", "x_scale", "y_loc", "y_scale")

Weights = dict[str, "NDArray[np.float32]"]


@dataclass(frozen=True)
class Blueprint:
    """All that a member's module is made from, but its weights.

    Parameters
    ----------
    settings : NetworkSettings
    dilations : tuple of int
        The ensemble's one schedule.
    n_in, n_out, ndim : int
        Channels of input and target; spatial dimensions.
    levels : tuple of float
        Quantile levels.
    seed : int
        The ensemble's seed; member ``k`` draws its graph from child ``k``.
    flat : tuple of bool
        Nodes with kernels of one plane, see `flat_nodes`; empty for none.
    """

    settings: NetworkSettings
    dilations: tuple[int, ...]
    n_in: int
    n_out: int
    ndim: int
    levels: tuple[float, ...]
    seed: int
    flat: tuple[bool, ...] = ()

    @property
    def receptive_field(self) -> int:
        """Half-width in pixels, along the axis where it is largest."""
        return FAMILIES[self.settings.family].receptive_field(self.dilations)

    @property
    def reach(self) -> tuple[int, ...]:
        """Half-width of the receptive field along each space axis."""
        whole = self.receptive_field
        if not any(self.flat):
            return (whole,) * self.ndim
        deep = [d for d, flat in zip(self.dilations, self.flat, strict=True) if not flat]
        return (receptive_field(deep), *(whole,) * (self.ndim - 1))


@dataclass(frozen=True, eq=False)
class Member:
    """One trained member.

    Parameters
    ----------
    number : int
        Which member of the ensemble, from 0.
    attempt : int
        How often it had to be trained again; its graph comes from this child of its seed.
    weights : dict of str to ndarray
        Parameters and scaling, float32.
    """

    number: int
    attempt: int
    weights: Weights


@dataclass(frozen=True, eq=False)
class Networks:
    """Trained members and what they are made from.

    Parameters
    ----------
    blueprint : Blueprint
    members : tuple of Member
        In the order of their numbers.
    """

    blueprint: Blueprint
    members: tuple[Member, ...]

    @property
    def parameters(self) -> int:
        """Weights of one member."""
        weights = self.members[0].weights
        return sum(int(value.size) for name, value in weights.items() if name not in _SCALING)


def member_rng(seed: int, member: int, *, attempt: int = 0, use: int = 0) -> np.random.Generator:
    """Return the generator of one member, which no other member's existence changes.

    ``attempt`` counts retrainings of a collapsed member; ``use`` keeps graph, weights and
    patches independent of each other. `SeedSequence.spawn`'s k-th child has the spawn key (k,).
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(member, attempt, use)))


@dataclass(frozen=True)
class Family:
    """A kind of member: how its trunk is built and how far it sees."""

    trunk: Callable[[Blueprint, Sequence[tuple[int, int]]], Any]
    receptive_field: Callable[[tuple[int, ...]], int]


def graph_of(blueprint: Blueprint, member: int, attempt: int = 0) -> Graph:
    """Return a member's graph, from the ensemble's seed."""
    rng = member_rng(blueprint.seed, member, attempt=attempt, use=0)
    return draw_graph(rng, blueprint.settings, blueprint.dilations)


def _sms(blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> SparseMixedScale:
    # torch, which takes seconds to load, is not needed to plan and check
    from napari_btn.core.networks.sms.trunk import SparseMixedScale

    settings = blueprint.settings
    return SparseMixedScale(
        [graph_of(blueprint, member, attempt) for member, attempt in members],
        n_in=blueprint.n_in,
        channels=settings.channels,
        inputs=settings.inputs,
        ndim=blueprint.ndim,
        flat=blueprint.flat,
    )


FAMILIES: dict[str, Family] = {"sms": Family(_sms, receptive_field)}
"""Every family by the name that `NetworkSettings.family` takes."""


def build(blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> Ensemble:
    """Return the module of some members, weights not set.

    Parameters
    ----------
    blueprint : Blueprint
    members : sequence of (int, int)
        Number and attempt of each member.
    """
    from napari_btn.core.networks.heads import Ensemble

    return Ensemble(
        FAMILIES[blueprint.settings.family].trunk(blueprint, members),
        members=len(members),
        n_in=blueprint.n_in,
        n_out=blueprint.n_out,
        levels=blueprint.levels,
        head_units=blueprint.settings.head_units,
        ndim=blueprint.ndim,
        bias_free=blueprint.settings.bias_free,
    )
