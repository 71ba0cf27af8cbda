"""A palette of tokens: clusters of latent points, and the tree that merges them one by one.

Leaves are numbered 0 to n - 1; merge i makes node n + i. A cut into k tokens takes k
nodes. With k-means, the tree is built around one coarse cut, the anchors: each point goes to the
nearest anchor and then to the nearest leaf within it, so that all cuts nest exactly. With a mixture or
HDBSCAN a node's share of a point is the sum of its leaves' shares, and each point goes to the node with
the largest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_btn.core.settings import TokenMethod
    from napari_btn.core.tokens.shares import Shares

from napari_btn.core.progress import counted
from napari_btn.core.settings import need
from napari_btn.core.tokens.shares import shares_from

__all__ = ["Palette", "rows_of"]

_STABLE: Final = 0.8
_CHUNK: Final = 1024
_ARRAYS: Final = ("centres", "weights", "merges", "polished", "agreement", "order")


@dataclass(frozen=True, eq=False)
class Palette:
    """Clusters of latent points and the tree over them.

    Parameters
    ----------
    centres : ndarray of float32, (2 n - 1, D)
        Mean of each node's points, the n leaves first; they make colours and the tree.
    weights : ndarray of float64, (2 n - 1,)
        Share of the points in each node.
    merges : ndarray of int, (n - 1, 2)
        The two children of node n + i.
    polished : ndarray of float32, (n, D) or (2 + 3 + ... + n, D)
        Centres of the leaves; without anchors, as in bundles of version 1, centres of the tokens of each cut,
        from 2 tokens to n, in the order of `cut`. None with `shares`.
    agreement : ndarray of float64, (n - 1,)
        Adjusted Rand index between seeds when cut into 2, 3, ..., n tokens; NaN if unknown.
    order : ndarray of float32, (C, 2 + 3 + ... + n)
        Median of each channel in each token of each cut, by which tokens can be ordered.
    shares : Shares, optional
        Share of each point in each leaf, where it is not assigned to the nearest centre.
    anchors : ndarray of float32, (a, D), optional
        Centres of the tokens of the cut into ``a``, in the order of `cut`.
    """

    centres: NDArray[np.float32]
    weights: NDArray[np.float64]
    merges: NDArray[np.intp]
    polished: NDArray[np.float32]
    agreement: NDArray[np.float64]
    order: NDArray[np.float32]
    shares: Shares | None = None
    anchors: NDArray[np.float32] | None = None

    @property
    def method(self) -> TokenMethod:
        """Method that it was learned with: "kmeans", "mixture" or "hdbscan"."""
        return "kmeans" if self.shares is None else self.shares.method

    @property
    def size(self) -> int:
        """Number of leaves, the most tokens there can be."""
        return len(self.merges) + 1

    @property
    def suggested(self) -> int:
        """Largest number of tokens on which seeds agree to 0.8; where none does, the best agreed."""
        if not np.isfinite(self.agreement).any():
            return min(self.size, 2)
        stable = np.flatnonzero(self.agreement >= _STABLE)
        return int(stable[-1] if len(stable) else np.nanargmax(self.agreement)) + 2

    def cut(self, k: int) -> NDArray[np.intp]:
        """Return the nodes that make k tokens.

        Parameters
        ----------
        k : int
            1 to `size`.

        Returns
        -------
        ndarray of int, (k,)
            Ascending node numbers.

        Raises
        ------
        ValueError
            If there cannot be so many tokens.
        """
        need(hasattr(k, "__index__"), "The number of tokens", k, "a whole number")
        if not 1 <= k <= self.size:
            raise ValueError(f"{counted(k, 'token')} wanted; this palette can be cut into 1 to {self.size}.")
        made = self.size + self.size - k
        nodes = np.arange(made)
        return np.setdiff1d(nodes, self.merges[: self.size - k].ravel())

    @cached_property
    def leaves(self) -> NDArray[np.bool_]:
        """Membership of each leaf in each node, (2 n - 1, n)."""
        member = np.zeros((2 * self.size - 1, self.size), dtype=bool)
        member[np.arange(self.size), np.arange(self.size)] = True
        for i, (a, b) in enumerate(self.merges):
            member[self.size + i] = member[a] | member[b]
        return member

    def numbers(self, k: int, base: int, channel: int = 0) -> NDArray[np.intp]:
        """Return the token numbers of a cut, aligned with those of a base cut.

        In the cut into `base` tokens, numbers rise with the channel's median. From there one token
        at a time splits or merges, and the larger part keeps its number. A new part gets the next number; where
        a merge leaves a gap, the last token fills it, so that numbers always run from 1 to k. With a base of 1
        there are no such gaps: only the smaller part of a split token changes its number.

        Parameters
        ----------
        k, base : int
            Tokens in this cut and in the base cut.
        channel : int
            Channel that orders the base cut.

        Returns
        -------
        ndarray of int, (2 n - 1,)
            Number of each node in the cut, 0 for the others.
        """
        number = np.zeros(2 * self.size - 1, dtype=np.intp)
        nodes = self.cut(base)
        median = self.order[channel, rows_of(base)] if base > 1 else np.zeros(1)
        number[nodes[np.lexsort((nodes, median))]] = np.arange(1, base + 1)
        self.cut(k)
        for made in range(base + 1, k + 1):
            parent = 2 * self.size - made
            large, small = self._larger(self.merges[parent - self.size])
            number[large], number[small], number[parent] = number[parent], made, 0
        for left in range(base - 1, k - 1, -1):
            parent = 2 * self.size - left - 1
            large, small = self._larger(self.merges[parent - self.size])
            number[parent], free = number[large], number[small]
            number[large] = number[small] = 0
            number[number == left + 1] = free
        return number

    @cached_property
    def leaders(self) -> NDArray[np.intp]:
        """Leaf that each node is followed by, (2 n - 1,): that of its larger child, and so on."""
        leader = np.arange(2 * self.size - 1)
        for i, pair in enumerate(self.merges):
            leader[self.size + i] = leader[self._larger(pair)[0]]
        return leader

    def _larger(self, pair: NDArray[np.intp]) -> tuple[int, int]:
        """Return the larger and the smaller of two nodes."""
        large, small = sorted((int(c) for c in pair), key=lambda c: (-self.weights[c], c))
        return large, small

    @cached_property
    def colours(self) -> NDArray[np.float32]:
        """One colour per node, RGB 0 to 1: the first three components of its leader as L, a, b."""
        from skimage.color import lab2rgb

        leaves, share = np.zeros((self.size, 3)), self.weights[: self.size, None]
        leaves[:, : min(3, self.centres.shape[1])] = self.centres[: self.size, :3]
        middle = (leaves * share).sum(0)
        spread = np.sqrt((np.square(leaves - middle) * share).sum(0))
        z = np.clip((leaves - middle) / np.where(spread > 0, spread, 1), -2, 2)
        lab = z * (17, 34, 34) + (58, 0, 0)
        rgb: NDArray[np.float32] = np.clip(lab2rgb(lab), 0, 1).astype(np.float32)
        return rgb[self.leaders]

    def assign(self, points: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the node of each point in every cut.

        Parameters
        ----------
        points : ndarray of float32, (m, D)
            Points in latent components.

        Returns
        -------
        ndarray of uint8, (n - 1, m)
            Row k - 2 holds the nearest node of the cut into k tokens, or the one with the largest share.
        """
        if self.shares is not None:
            return self._by_shares(points)
        if self.anchors is not None:
            return self._nested[:, self.finest(points)]
        cuts = [(k, self.cut(k), rows_of(k)) for k in range(2, self.size + 1)]
        square = np.square(self.polished).sum(1)
        out = np.empty((len(cuts), len(points)), dtype=np.uint8)
        # Pieces stay in the cache of the processor.
        for first in range(0, len(points), _CHUNK):
            piece = slice(first, first + _CHUNK)
            # Squared distances without the squares of the points, which no comparison needs.
            far = points[piece] @ self.polished.T
            far *= -2
            far += square
            for k, nodes, rows in cuts:
                out[k - 2, piece] = nodes[np.argmin(far[:, rows], axis=1)]
        return out

    def finest(self, points: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the leaf of each point: the last row of `assign`.

        Parameters
        ----------
        points : ndarray of float32, (m, D)
            Points in latent components.

        Returns
        -------
        ndarray of uint8, (m,)
            Leaf numbers.
        """
        out = np.zeros(len(points), dtype=np.uint8)
        if self.shares is not None:
            for first in range(0, len(points), _CHUNK):
                piece = slice(first, first + _CHUNK)
                out[piece] = np.argmax(self.shares.of(points[piece]), axis=1)
        elif self.size > 1:
            centres = self.polished if self.anchors is not None else self.polished[rows_of(self.size)]
            square = np.square(centres).sum(1)
            for first in range(0, len(points), _CHUNK):
                piece = slice(first, first + _CHUNK)
                far = square - 2 * (points[piece] @ centres.T)
                if self.anchors is not None:
                    anchor = np.argmin(
                        np.square(self.anchors).sum(1) - 2 * (points[piece] @ self.anchors.T), axis=1
                    )
                    far[~self._held[anchor]] = np.inf
                out[piece] = np.argmin(far, axis=1)
        return out

    def distances(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the distance of each point from the centre of the nearest leaf.

        Parameters
        ----------
        points : ndarray of float32, (m, D)
            Points in latent components.

        Returns
        -------
        ndarray of float32, (m,)
            In the unit of the components.
        """
        centres = self.centres[: self.size]
        out = np.empty(len(points), np.float32)
        for first in range(0, len(points), _CHUNK):
            piece = points[first : first + _CHUNK]
            square = np.square(centres).sum(1) - 2 * (piece @ centres.T) + np.square(piece).sum(1)[:, None]
            out[first : first + _CHUNK] = np.sqrt(np.maximum(square.min(1), 0))
        return out

    @cached_property
    def _held(self) -> NDArray[np.bool_]:
        """Membership of each leaf in each anchor, (a, n)."""
        assert self.anchors is not None, "asked for with anchors only"
        return self.leaves[self.cut(len(self.anchors))]

    @cached_property
    def _nested(self) -> NDArray[np.uint8]:
        """Node of each leaf in every cut, (n - 1, n)."""
        cuts = [self.cut(k) for k in range(2, self.size + 1)]
        rows = [nodes[np.argmax(self.leaves[nodes], axis=0)] for nodes in cuts]
        return np.array(rows, dtype=np.uint8).reshape(-1, self.size)

    def _by_shares(self, points: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the node with the largest share of each point in every cut, (n - 1, m)."""
        assert self.shares is not None, "without shares the nearest centre counts"
        cuts = [self.cut(k) for k in range(2, self.size + 1)]
        out = np.empty((len(cuts), len(points)), dtype=np.uint8)
        for first in range(0, len(points), _CHUNK):
            piece = slice(first, first + _CHUNK)
            leaves = self.shares.of(points[piece]).T
            share = np.empty((2 * self.size - 1, leaves.shape[1]), dtype=np.float32)
            share[: self.size] = leaves
            for i, (a, b) in enumerate(self.merges):
                share[self.size + i] = share[a] + share[b]
            for row, nodes in zip(out, cuts, strict=True):
                row[piece] = nodes[np.argmax(share[nodes], axis=0)]
        return out

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the palette as named arrays, for `from_arrays`."""
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        if self.anchors is not None:
            arrays["anchors"] = self.anchors
        if self.shares is None:
            return arrays
        return arrays | {f"{self.method}.{name}": value for name, value in self.shares.to_arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Palette:
        """Return the palette that `to_arrays` stored; raise `KeyError` if an array is missing."""
        anchors = np.asarray(arrays["anchors"]) if "anchors" in arrays else None
        kept = {name: np.asarray(arrays[name]) for name in _ARRAYS}
        return cls(**kept, shares=shares_from(arrays), anchors=anchors)


def rows_of(k: int) -> slice:
    """Return the rows of the polished centres, and of the order, that belong to the cut into k tokens."""
    return slice(k * (k - 1) // 2 - 1, k * (k + 1) // 2 - 1)
