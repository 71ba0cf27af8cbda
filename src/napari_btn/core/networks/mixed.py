"""Mixed ensembles: several families, whose members take turns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_btn.core.networks.family import Blueprint, Extent, Family, family_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.networks.sms.graph import Graph
    from napari_btn.core.networks.trunk import Trunk
    from napari_btn.core.settings import NetworkSettings

__all__ = ["MixedFamily"]


class MixedFamily(Family):
    """Several families in one ensemble, whose members take turns.

    A member is built, trained and stored as one of its own family. The plan is a tuple of the families' own.

    Parameters
    ----------
    names : tuple of str
        Member ``k`` is of the family number ``k`` modulo their number.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.dilates = any(family_of(name).dilates for name in names)

    def plan(self, settings: NetworkSettings, extent: Extent) -> tuple[Any, ...]:
        """Return the plan of each family."""
        return tuple(family_of(n).plan(replace(settings, family=n), extent) for n in self.names)

    def part(self, blueprint: Blueprint, member: int) -> Blueprint:
        """Return the blueprint of one member's own family."""
        k = member % len(self.names)
        settings = replace(blueprint.settings, family=self.names[k])
        return replace(blueprint, settings=settings, plan=blueprint.plan[k])

    def _parts(self, blueprint: Blueprint) -> list[Blueprint]:
        """Return the blueprint of each family."""
        return [self.part(blueprint, k) for k in range(len(self.names))]

    def trunk(self, blueprint: Blueprint, members: Sequence[tuple[int, int]]) -> Trunk:
        """Return the trunk of some members of one family, weights not set."""
        own = self.part(blueprint, members[0][0])
        return own.family.trunk(own, members)

    def reach(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return how many pixels the family that sees farthest sees along each space axis."""
        return tuple(max(along) for along in zip(*(p.reach for p in self._parts(blueprint)), strict=True))

    def alignment(self, blueprint: Blueprint) -> int:
        """Return the least common multiple of the families' alignments."""
        return math.lcm(*(p.alignment_px for p in self._parts(blueprint)))

    def widths(self, blueprint: Blueprint) -> tuple[int, ...]:
        """Return the channels of each feature of the family with the most."""
        return max((p.widths for p in self._parts(blueprint)), key=sum)

    def multiplications(self, blueprint: Blueprint) -> int:
        """Return the multiplications of a prediction per pixel, the mean over the families."""
        parts = self._parts(blueprint)
        return round(sum(p.family.multiplications(p) for p in parts) / len(parts))

    def floats(self, blueprint: Blueprint) -> int:
        """Return how many numbers per pixel a training step keeps, of the family with the most."""
        return max(p.family.floats(p) for p in self._parts(blueprint))

    def graph(self, blueprint: Blueprint, member: int, attempt: int) -> Graph:
        """Return a member's random connections, if its family has them."""
        own = self.part(blueprint, member)
        return own.family.graph(own, member, attempt)

    def to_dict(self, plan: tuple[Any, ...]) -> dict[str, Any]:
        """Return the plans as entries of a bundle."""
        return {"plans": [family_of(n).to_dict(p) for n, p in zip(self.names, plan, strict=True)]}

    def from_dict(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the plans from the values of a bundle."""
        return tuple(family_of(n).from_dict(p) for n, p in zip(self.names, values["plans"], strict=True))
