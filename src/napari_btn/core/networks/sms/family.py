"""The family of random sparse mixed-scale networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_btn.core.networks.family import Blueprint, Extent, Family, member_rng
from napari_btn.core.networks.sms.graph import (
    Graph,
    draw_dilations,
    draw_graph,
    flat_nodes,
    receptive_field,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.networks.trunk import Trunk
    from napari_btn.core.settings import NetworkSettings

__all__ = ["FAMILY", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """The nodes of all members of an ensemble.

    Parameters
    ----------
    dilations : tuple of int
        Dilation of each node.
    flat : tuple of bool
        Nodes with kernels of one plane, see `flat_nodes`; empty for none.
    """

    dilations: tuple[int, ...]
    flat: tuple[bool, ...] = ()


class _SparseMixedScaleFamily(Family):
    """Random sparse mixed-scale networks: each node reads a few earlier chunks, with a dilation of its own.

    References
    ----------
    Roberts et al., DLSIA, arXiv 2308.02559.
    """

    def plan(self, settings: NetworkSettings, extent: Extent) -> Schedule:
        """Return the schedule of dilations, drawn once so that all members see equally far."""
        dilations = draw_dilations(
            settings, ndim=extent.ndim, limit_px=extent.limit_px, field_px=extent.field_px
        )
        return Schedule(dilations, flat_nodes(dilations, extent.z_step) if extent.ndim == 3 else ())

    def trunk(self, blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> Trunk:
        """Return the trunk of some members, weights not set."""
        from napari_btn.core.networks.sms.trunk import SparseMixedScale

        settings = blueprint.settings
        return SparseMixedScale(
            [self.graph(blueprint, member, attempt) for member, attempt in members],
            n_in=blueprint.n_in,
            channels=settings.channels,
            inputs=settings.inputs,
            ndim=blueprint.ndim,
            flat=blueprint.plan.flat,
        )

    def reach(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return how many pixels a member sees to each side along each space axis."""
        dilations, flat = blueprint.plan.dilations, blueprint.plan.flat
        across = receptive_field(dilations)
        if not any(flat):
            return (across,) * blueprint.ndim
        deep = [d for d, is_flat in zip(dilations, flat, strict=True) if not is_flat]
        return (receptive_field(deep), *(across,) * (blueprint.ndim - 1))

    def widths(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return the channels that each node makes."""
        settings = blueprint.settings
        return (settings.channels * settings.inputs,) * settings.depth

    def multiplications(self, blueprint: Blueprint) -> int:
        """Return the multiplications of a prediction per pixel: each node reads as many channels as it makes."""
        return sum(width * width for width in blueprint.widths) * int(3**blueprint.ndim)

    def graph(self, blueprint: Blueprint, member: int, attempt: int) -> Graph:
        """Return a member's random connections, from the seed of the wiring."""
        seed = blueprint.seed if blueprint.wiring is None else blueprint.wiring
        rng = member_rng(seed, member, attempt=attempt, use=0)
        return draw_graph(rng, blueprint.settings, blueprint.plan.dilations)

    def to_dict(self, plan: Schedule) -> dict[str, Any]:
        """Return a schedule as entries of a bundle."""
        return {"dilations": list(plan.dilations), "flat": list(plan.flat)}

    def from_dict(self, values: Mapping[str, Any]) -> Schedule:
        """Return a schedule from the values of a bundle; those of before volumes had none that were flat.

        Parameters
        ----------
        values : mapping

        Raises
        ------
        ValueError
            If there isn't one dilation, a whole number of at least 1, for each node.
        """
        dilations, flat = tuple(values["dilations"]), tuple(values.get("flat", ()))
        depth = values["settings"]["network"]["depth"] if "settings" in values else len(dilations)
        whole = all(type(d) is int and 1 <= d <= 10_000 for d in dilations)
        if not whole or len(dilations) != depth or len(flat) not in (0, depth):
            raise ValueError(f"dilations are {list(dilations)} for {depth} nodes")
        return Schedule(dilations, flat)


FAMILY = _SparseMixedScaleFamily()
