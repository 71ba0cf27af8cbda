"""Member families, and members as values: settings and a seed in, an `Ensemble` out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.registry import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.networks.sms.graph import Graph
    from napari_btn.core.networks.trunk import Trunk
    from napari_btn.core.progress import Note
    from napari_btn.core.settings import NetworkSettings

__all__ = [
    "Blueprint",
    "Extent",
    "Family",
    "Member",
    "Networks",
    "build",
    "build_trained",
    "family_of",
    "graph_of",
    "member_rng",
]

_SCALING = ("x_loc", "x_scale", "y_loc", "y_scale")

Weights = dict[str, "NDArray[np.float32]"]


@dataclass(frozen=True)
class Extent:
    """Facts of the image that a family may use before training.

    Parameters
    ----------
    ndim : int
        Spatial dimensions.
    field_px : int, optional
        Receptive field that is wanted; None where it follows from the settings.
    limit_px : int, optional
        Largest receptive field that the image allows; None where there is no limit.
    z_step : float
        Distance of two planes of a volume, in pixels of Y and X.
    """

    ndim: int
    field_px: int | None = None
    limit_px: int | None = None
    z_step: float = 1.0


@dataclass(frozen=True)
class Blueprint:
    """All that a member's module is made from, except its weights.

    Parameters
    ----------
    settings : NetworkSettings
    plan : object
        What the family decided from the image, the same for all members; see `Family.plan`.
    n_in, n_out, ndim : int
        Channels of input and target; spatial dimensions.
    levels : tuple of float
        Quantile levels.
    seed : int
        The ensemble's seed; member ``k`` draws from child ``k``.
    wiring : int, optional
        Seed of the members' random connections, if they are those of pretrained members; that of the ensemble
        by default.
    """

    settings: NetworkSettings
    plan: Any
    n_in: int
    n_out: int
    ndim: int
    levels: tuple[float, ...]
    seed: int
    wiring: int | None = None

    @property
    def family(self) -> Family:
        """The kind of member."""
        return family_of(self.settings.family)

    def of(self, member: int) -> Blueprint:
        """Return the blueprint of one member; in a mixed ensemble it names one family.

        Parameters
        ----------
        member : int
            Number of the member, from 0.
        """
        return self.family.part(self, member)

    @property
    def alignment_px(self) -> int:
        """Pixels at whose multiples tiles begin and end."""
        return self.family.alignment(self)

    @property
    def reach(self) -> tuple[int, ...]:
        """Half-width of the receptive field in pixels along each space axis."""
        return self.family.reach(self)

    @property
    def receptive_field(self) -> int:
        """Half-width of the receptive field in pixels, along the axis where it is largest."""
        return max(self.reach)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each feature of a member."""
        return self.family.widths(self)


class Family(ABC):
    """A kind of member: how its trunk is built, how far it sees, what it costs, and what is stored.

    Nothing here needs torch but `trunk`, so that a screen can plan and check without loading it.

    Attributes
    ----------
    alignment_px : int
        Tiles begin and end at multiples of so many pixels, or at the image's border; the stride of all
        pooling together.
    dilates : bool
        Members follow ``max_dilation``.
    """

    alignment_px: int = 1
    dilates: bool = True

    @abstractmethod
    def trunk(self, blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> Trunk:
        """Return the trunk of some members, weights not set.

        Parameters
        ----------
        blueprint : Blueprint
        members : sequence of (int, int)
            Number and attempt of each member, for what a member draws by `member_rng`.
        """

    @abstractmethod
    def reach(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return how many pixels a member sees to each side along each space axis, in the worst case.

        Parameters
        ----------
        blueprint : Blueprint
        """

    @abstractmethod
    def widths(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return the channels of each feature of a member, in the order in which its trunk yields them.

        Parameters
        ----------
        blueprint : Blueprint
        """

    def plan(self, settings: NetworkSettings, extent: Extent) -> Any:  # noqa: ARG002
        """Return what is decided from the image, the same for all members; None where there is nothing.

        Parameters
        ----------
        settings : NetworkSettings
        extent : Extent

        Returns
        -------
        object
            A value that can be compared and pickled.
        """
        return None

    def alignment(self, blueprint: Blueprint) -> int:  # noqa: ARG002
        """Return the pixels at whose multiples tiles begin and end; `alignment_px` by default.

        Parameters
        ----------
        blueprint : Blueprint
        """
        return self.alignment_px

    def part(self, blueprint: Blueprint, member: int) -> Blueprint:  # noqa: ARG002
        """Return the blueprint of one member; by default all members share one.

        Parameters
        ----------
        blueprint : Blueprint
        member : int
            Number of the member, from 0.
        """
        return blueprint

    def multiplications(self, blueprint: Blueprint) -> int:
        """Return the multiplications of a prediction per pixel; by default, each layer reads the one before it.

        Parameters
        ----------
        blueprint : Blueprint
        """
        layers = pairwise((blueprint.n_in, *blueprint.widths))
        return sum(n_in * n_out for n_in, n_out in layers) * int(3**blueprint.ndim)

    def floats(self, blueprint: Blueprint) -> int:
        """Return how many numbers per pixel a training step of a trunk keeps, to a factor of about two.

        Parameters
        ----------
        blueprint : Blueprint
        """
        # features and their gradients; what one layer reads, makes and sends back
        return 2 * (blueprint.n_in + 1 + sum(blueprint.widths)) + 6 * max(blueprint.widths)

    def graph(self, blueprint: Blueprint, member: int, attempt: int) -> Graph:  # noqa: ARG002
        """Return a member's random connections, for families that have them.

        Parameters
        ----------
        blueprint : Blueprint
        member, attempt : int

        Raises
        ------
        ValueError
            If members of this family have no random connections.
        """
        raise ValueError(
            f"family is {blueprint.settings.family!r}, whose members have no random connections to show; "
            'train with the family "sms" to see them.'
        )

    def to_dict(self, plan: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return a plan as entries of a bundle: a JSON-ready dict.

        Parameters
        ----------
        plan : object
        """
        return {}

    def from_dict(self, values: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return a plan from the values of a bundle, among which are those of `to_dict`.

        Parameters
        ----------
        values : mapping
        """
        return None


def family_of(name: str) -> Family:
    """Return a family by its name, or the mixture that several names with "+" between stand for.

    Parameters
    ----------
    name : str
    """
    names = tuple(name.split("+"))
    if len(names) > 1:
        # imported here, because that module needs this one
        from napari_btn.core.networks.mixed import MixedFamily

        return MixedFamily(names)
    family: Family = FAMILIES[name]
    return family


@dataclass(frozen=True, eq=False)
class Member:
    """One trained member.

    Parameters
    ----------
    number : int
        Which member of the ensemble, from 0.
    attempt : int
        How often it had to be trained again; it draws from this child of its seed.
    weights : dict of str to ndarray
        Parameters and scaling, float32.
    losses : tuple of float
        Training loss of each step, in a checkpoint; empty elsewhere.
    notes : tuple of Note
        Notes of its training, in a checkpoint; empty elsewhere.
    """

    number: int
    attempt: int
    weights: Weights
    losses: tuple[float, ...] = ()
    notes: tuple[Note, ...] = ()


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


def graph_of(blueprint: Blueprint, member: int, attempt: int = 0) -> Graph:
    """Return a member's random connections, from the ensemble's seed.

    Parameters
    ----------
    blueprint : Blueprint
    member, attempt : int

    Raises
    ------
    ValueError
        If the family has none.
    """
    return blueprint.family.graph(blueprint, member, attempt)


def build(blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> Ensemble:
    """Return the module of some members, weights not set.

    Parameters
    ----------
    blueprint : Blueprint
    members : sequence of (int, int)
        Number and attempt of each member, all of one family.

    Raises
    ------
    ValueError
        If the members are of several families.
    """
    # torch, which takes seconds to load, is not needed to plan and check
    from napari_btn.core.networks.heads import Ensemble

    own, *others = [blueprint.of(number) for number, _ in members]
    if any(other != own for other in others):
        raise ValueError(
            f"Members {', '.join(str(number + 1) for number, _ in members)} of the family "
            f"{blueprint.settings.family!r} can't run as groups of one module; build those of one family together."
        )
    return Ensemble(own.family.trunk(own, members), own, len(members))


def build_trained(blueprint: Blueprint, member: int, attempt: int, weights: Weights) -> Ensemble:
    """Return one member as a module with its weights.

    Parameters
    ----------
    blueprint : Blueprint
    member, attempt : int
        Number of the member, and number of its restarts.
    weights : dict of str to ndarray
        Parameters and scaling; they are copied.

    Raises
    ------
    ValueError
        If names or shapes of the weights are not those of the blueprint.
    """
    import torch

    module = build(blueprint, [(member, attempt)])
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    came = {name: value.shape for name, value in weights.items()}
    if came != wanted:
        wrong = sorted({name for name, _ in came.items() ^ wanted.items()})
        raise ValueError(
            f"The weights of member {member + 1} don't fit its network ({', '.join(wrong[:3])} "
            "differ in name or shape); the bundle is damaged, or its settings were changed. Copy it again, or train "
            "again."
        )
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    return module
