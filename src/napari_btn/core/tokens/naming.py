"""Named groups of tokens by one point of view, such as morphology or chemistry, valid for every cut."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from napari_btn.core.tokens.tokens import Tokens

__all__ = ["VIEWPOINTS", "Naming"]

VIEWPOINTS: Final = ("morphology", "chemistry")
"""Points of view that the Tokens dock offers; a script may use others."""


@dataclass(frozen=True)
class Naming:
    """Group of each leaf of a palette, by one point of view.

    Two namings are independent: a token may be "grain" by morphology and "iron-rich" by
    chemistry.

    Parameters
    ----------
    viewpoint : str
        Point of view of the groups; the name of their column in tables.
    of_leaf : mapping of int to str
        Name of the group of each leaf that has one.
    """

    viewpoint: str
    of_leaf: Mapping[int, str] = field(default_factory=dict)

    def assigned(self, tokens: Tokens, numbers: Iterable[int], group: str) -> Naming:
        """Return the naming with some tokens assigned to a group.

        Parameters
        ----------
        tokens : Tokens
            A cut of the palette.
        numbers : iterable of int
            Tokens of this cut, from 1.
        group : str
            Name of the group; empty removes them from theirs.

        Returns
        -------
        Naming
            Valid for finer and coarser cuts too.

        Raises
        ------
        ValueError
            If there is no such token.
        """
        chosen = sorted(set(numbers))
        wrong = [n for n in chosen if not 1 <= n <= tokens.k]
        if wrong:
            raise ValueError(f"Token {wrong[0]} came; this cut has 1 to {tokens.k}.")
        names = dict(self.of_leaf)
        for number in chosen:
            for leaf in _leaves(tokens, number):
                names.pop(leaf, None)
                if group:
                    names[leaf] = group
        return replace(self, of_leaf=names)

    def names(self, tokens: Tokens) -> dict[int, str]:
        """Return the group of each token that has one, by number; a merged token has that of its larger part."""
        groups = (
            (number, self.of_leaf.get(int(leaf), "")) for number, leaf in enumerate(tokens.lineages, start=1)
        )
        return {number: group for number, group in groups if group}

    def column(self, tokens: Tokens) -> NDArray[np.object_]:
        """Return the group of each token, (k,), as a column for `Tokens.table`; empty for none."""
        names = self.names(tokens)
        return np.array([names.get(n, "") for n in range(1, tokens.k + 1)], dtype=object)

    def labels(self, tokens: Tokens) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Return the groups as a label map.

        Parameters
        ----------
        tokens : Tokens
            A cut; the finest one keeps every leaf.

        Returns
        -------
        labels : ndarray of int32, (*image)
            1 for the first name, and so on; 0 for tokens in no group.
        names : tuple of str
            Names of the groups, in alphabetical order.
        """
        names = self.names(tokens)
        groups = tuple(sorted(set(names.values())))
        number = np.zeros(tokens.k + 1, dtype=np.int32)
        for token, name in names.items():
            number[token] = 1 + groups.index(name)
        return number[tokens.labels], groups


def _leaves(tokens: Tokens, number: int) -> list[int]:
    """Return the leaves of the palette that make up a token of a cut."""
    found: list[int] = np.flatnonzero(tokens.palette.leaves[tokens.identities[number - 1]]).tolist()
    return found
