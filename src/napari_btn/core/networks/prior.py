"""A prior: members trained on made-up or clean images, to start from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_btn.core.networks.family import Blueprint, Member

__all__ = ["Prior"]


@dataclass(frozen=True, eq=False)
class Prior:
    """Members to start from.

    Parameters
    ----------
    name : str
        Name of the prior, for notes.
    blueprint : Blueprint
        Networks of the members; its seed is that of their wiring.
    members : tuple of Member
        In the order of their numbers. They map an input with a mean of zero and an SD of one, as the whole
        noisy image has them, to the signal in the same units.
    record : dict
        What they were trained on, and how; JSON-ready.
    """

    name: str
    blueprint: Blueprint
    members: tuple[Member, ...]
    record: dict[str, Any] = field(default_factory=dict)

    def mismatch(self, blueprint: Blueprint) -> str:
        """Return why networks of a blueprint can't start from these members; empty if they can.

        Parameters
        ----------
        blueprint : Blueprint
        """
        own = self.blueprint
        pairs = (
            ("channels", f"{own.n_in} to {own.n_out}", f"{blueprint.n_in} to {blueprint.n_out}"),
            ("space axes", own.ndim, blueprint.ndim),
            ("network settings", own.settings, blueprint.settings),
            ("quantile levels", own.levels, blueprint.levels),
            ("dilations", own.plan, blueprint.plan),
        )
        return next((what for what, mine, other in pairs if mine != other), "")
