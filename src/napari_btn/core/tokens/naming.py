"""Groups of tokens by one point of view, such as morphology or chemistry, that hold for every cut."""

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
"""Points of view that the Tokens dock offers; a script may take others."""


@dataclass(frozen=True)
class Naming:
    """Group of each leaf of a palette, by one point of view.

    Two namings know nothing of each other: a token may be "grain" by morphology and "iron-rich" by
    chemistry.

    Parameters
    ----------
    viewpoint : str
        What the groups are told apart by; the name of their column in tables.
    of_leaf : mapping of int to str
        Name of the group of each leaf that has one.
    """

    viewpoint: str
    of_leaf: Mapping[int, str] = field(default_factory=dict)

    def assigned(self, tokens: Tokens, numbers: Iterable[int], group: str) -> Naming:
        """The same with some tokens in a group.

        Parameters
        ----------
        tokens : Tokens
            A cut of the palette.
        numbers : iterable of int
            Tokens of this cut, from 1.
        group : str
            Name of the group; empty takes them out of theirs.

        Returns
        -------
        Naming
            It holds for finer and coarser cuts too.

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
        """Group of each token of a cut that lies wholly within one, by number."""
        found = {}
        for number in range(1, tokens.k + 1):
            groups = {self.of_leaf.get(leaf, "") for leaf in _leaves(tokens, number)}
            if len(groups) == 1 and (name := groups.pop()):
                found[number] = name
        return found

    def column(self, tokens: Tokens) -> NDArray[np.object_]:
        """Group of each token, (k,), as a column beside `Tokens.table`; empty for none."""
        names = self.names(tokens)
        return np.array([names.get(n, "") for n in range(1, tokens.k + 1)], dtype=object)

    def labels(self, tokens: Tokens) -> tuple[NDArray[np.int32], tuple[str, ...]]:
        """Groups as a label map of their own.

        Parameters
        ----------
        tokens : Tokens
            Any cut; the finest loses no leaf.

        Returns
        -------
        labels : ndarray of int32, (*image)
            1 for the first name, and so on; 0 for tokens in no group.
        names : tuple of str
            Of the groups, in alphabetical order.
        """
        names = self.names(tokens)
        groups = tuple(sorted(set(names.values())))
        number = np.zeros(tokens.k + 1, dtype=np.int32)
        for token, name in names.items():
            number[token] = 1 + groups.index(name)
        return number[tokens.labels], groups


def _leaves(tokens: Tokens, number: int) -> list[int]:
    """Leaves of the palette that a token of a cut is made of."""
    found: list[int] = np.flatnonzero(tokens.palette.leaves[tokens.identities[number - 1]]).tolist()
    return found
