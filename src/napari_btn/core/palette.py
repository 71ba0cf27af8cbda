"""A palette of tokens: clusters of latent points, and the tree that merges them one by one.

Leaves are numbered 0 to n - 1; node n + i is what merge i makes. A cut into k tokens takes k
nodes, and each point goes to the nearest of their centres (one Lloyd step from the cut).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.config import Step

from napari_btn.core.config import Progress

__all__ = ["Palette", "adjusted_rand", "aligned", "fit_palette"]

_STABLE: Final = 0.8
_RESTARTS: Final = 10
_ARRAYS: Final = ("centres", "weights", "merges", "agreement", "order")


@dataclass(frozen=True, eq=False)
class Palette:
    """Clusters of latent points and the tree over them.

    Parameters
    ----------
    centres : ndarray of float32, (2 n - 1, D)
        Mean of each node's points, the n leaves first.
    weights : ndarray of float64, (2 n - 1,)
        Share of the points in each node.
    merges : ndarray of int, (n - 1, 2)
        The two children of node n + i.
    agreement : ndarray of float64, (n - 1,)
        Adjusted Rand index between seeds when cut into 2, 3, ..., n tokens; NaN if unknown.
    order : ndarray of float32, (C, 2 n - 1)
        Median of each channel in each node, by which tokens can be ordered.
    """

    centres: NDArray[np.float32]
    weights: NDArray[np.float64]
    merges: NDArray[np.intp]
    agreement: NDArray[np.float64]
    order: NDArray[np.float32]

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
        """The nodes that make k tokens.

        Parameters
        ----------
        k : int
            1 to `size`.

        Returns
        -------
        ndarray of int, (k,)
            Rising node numbers.

        Raises
        ------
        ValueError
            If there cannot be so many tokens.
        """
        if not 1 <= k <= self.size:
            raise ValueError(f"{k} tokens are asked for; this palette can be cut into 1 to {self.size}.")
        made = self.size + self.size - k
        nodes = np.arange(made)
        return np.setdiff1d(nodes, self.merges[: self.size - k].ravel())

    @cached_property
    def leaves(self) -> NDArray[np.bool_]:
        """Which leaves belong to which node, (2 n - 1, n)."""
        member = np.zeros((2 * self.size - 1, self.size), dtype=bool)
        member[np.arange(self.size), np.arange(self.size)] = True
        for i, (a, b) in enumerate(self.merges):
            member[self.size + i] = member[a] | member[b]
        return member

    def numbers(self, k: int, base: int, channel: int = 0) -> NDArray[np.intp]:
        """Token numbers of a cut, aligned with those of another.

        In the cut into `base` tokens, numbers rise with the channel's median. From there one token
        at a time splits or merges, and the larger part keeps its number: of all numberings it
        overlaps the last one most. A new part gets the next number; where a merge leaves a hole,
        the last token fills it, so that numbers always run from 1 to k.

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
        number[nodes[np.lexsort((nodes, self.order[channel, nodes]))]] = np.arange(1, base + 1)
        self.cut(k)
        for made in range(base + 1, k + 1):
            parent = 2 * self.size - made
            large, small = sorted(self.merges[parent - self.size], key=lambda c: (-self.weights[c], c))
            number[large], number[small], number[parent] = number[parent], made, 0
        for left in range(base - 1, k - 1, -1):
            parent = 2 * self.size - left - 1
            large, small = sorted(self.merges[parent - self.size], key=lambda c: (-self.weights[c], c))
            number[parent], free = number[large], number[small]
            number[large] = number[small] = 0
            number[number == left + 1] = free
        return number

    @cached_property
    def colours(self) -> NDArray[np.float32]:
        """One colour per node, RGB 0 to 1: its centre's first three components as L, a, b."""
        from skimage.color import lab2rgb

        three = np.zeros((len(self.centres), 3))
        three[:, : min(3, self.centres.shape[1])] = self.centres[:, :3]
        leaves, share = three[: self.size], self.weights[: self.size, None]
        middle = (leaves * share).sum(0)
        spread = np.sqrt((np.square(leaves - middle) * share).sum(0))
        z = np.clip((three - middle) / np.where(spread > 0, spread, 1), -2, 2)
        lab = z * (17, 34, 34) + (58, 0, 0)
        rgb: NDArray[np.float32] = np.clip(lab2rgb(lab), 0, 1).astype(np.float32)
        return rgb

    def assign(self, points: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Node of each point in every cut.

        Parameters
        ----------
        points : ndarray of float32, (m, D)
            Points in latent components.

        Returns
        -------
        ndarray of uint8, (n - 1, m)
            Row k - 2 holds the nearest node of the cut into k tokens.
        """
        # squared distances but for the points' own squares, which no comparison needs
        square = np.square(self.centres).sum(1)
        far = square[:, None] - 2 * (self.centres @ np.ascontiguousarray(points.T))
        out = np.empty((len(self.merges), len(points)), dtype=np.uint8)
        if not len(self.merges):
            return out
        nodes = self.cut(2)
        best = nodes[np.argmin(far[nodes], axis=0)]
        least = np.take_along_axis(far, best[None], 0)[0]
        out[0] = best
        for k in range(3, self.size + 1):
            # from k - 1 to k tokens one node falls into its two children
            gone = 2 * self.size - k
            nodes = self.cut(k)
            lost = np.flatnonzero(best == gone)
            for child in self.merges[gone - self.size]:
                nearer = far[child] < least
                nearer[lost] = False
                np.copyto(best, child, where=nearer)
                np.copyto(least, far[child], where=nearer)
            part = far[np.ix_(nodes, lost)]
            best[lost] = nodes[np.argmin(part, axis=0)]
            least[lost] = part.min(axis=0)
            out[k - 2] = best
        return out

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as named arrays, for `from_arrays`."""
        return {name: np.asarray(getattr(self, name)) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Palette:
        """The palette that `to_arrays` took apart; `KeyError` where an array is missing."""
        return cls(**{name: np.asarray(arrays[name]) for name in _ARRAYS})


def fit_palette(
    points: ArrayLike, values: ArrayLike, *, count: int = 40, seed: int = 0, replicates: int = 2
) -> Step[Palette]:
    """Cluster points into a palette, build its tree, and see how far other seeds agree; a step.

    Parameters
    ----------
    points : array_like, (m, D)
        A sample of pixels in latent components, not whitened.
    values : array_like, (C, m)
        The channels at these pixels, for the order of tokens.
    count : int
        Clusters in the palette; fewer where there are fewer different points.
    seed : int
        Seed of the clustering.
    replicates : int
        Further seeds that the agreement is measured with; 0 leaves it unknown.

    Returns
    -------
    Palette
        Agreement is the mean over all pairs of seeds, on all points.

    References
    ----------
    Ward (1963), J. Am. Stat. Assoc. 58, 236, with clusters weighted by size; agreement: Hubert &
    Arabie (1985), J. Classification 2, 193.
    """
    x = np.ascontiguousarray(points, dtype=np.float32)
    channels = np.atleast_2d(np.asarray(values, dtype=np.float32))
    if x.ndim != 2 or channels.shape[1] != len(x) or not np.isfinite(x).all():
        raise ValueError(
            f"Points of shape {x.shape} and values of {channels.shape} came; (m, D) finite points and (C, m) "
            "values of the same pixels are needed."
        )
    # points that differ by rounding alone are one
    coarse = np.round(x * (1e4 / max(float(np.abs(x).max()), 1e-30))).astype(np.int32)
    count = int(min(count, len(np.unique(coarse, axis=0))))
    seeds = np.random.SeedSequence(seed).generate_state(replicates + 1)
    found: list[Palette] = []
    labels: list[NDArray[np.uint8]] = []
    for i, s in enumerate(seeds):
        yield Progress(i, len(seeds), "Clustering" if i == 0 else "Clustering with another seed")
        found.append(_tree(x, channels, _clusters(x, count, int(s))))
        labels.append(found[-1].assign(x))
    if replicates < 1 or count < 2:
        return found[0]
    agreement = np.empty(count - 1)
    for k in range(count - 1):
        pairs = [adjusted_rand(labels[a][k], labels[b][k]) for b in range(len(labels)) for a in range(b)]
        agreement[k] = np.mean(pairs)
    yield Progress(len(seeds), len(seeds), "Clustered")
    return Palette(**{**found[0].to_arrays(), "agreement": agreement})


def _clusters(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.intp]:
    """Cluster of each point, the best of ten k-means."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # with several threads the sums come in any order, and the same seed would not give the same labels
    with threadpool_limits(limits=1):
        means = KMeans(count, n_init=_RESTARTS, random_state=seed % 2**32, max_iter=100)
        return np.asarray(means.fit_predict(points), dtype=np.intp)


def _tree(points: NDArray[np.float32], values: NDArray[np.float32], cluster: NDArray[np.intp]) -> Palette:
    """Size-weighted Ward tree over clusters."""
    names, cluster = np.unique(cluster, return_inverse=True)
    n = len(names)
    size = np.zeros(2 * n - 1)
    centre = np.zeros((2 * n - 1, points.shape[1]))
    size[:n] = np.bincount(cluster, minlength=n)
    np.add.at(centre, cluster, points)
    centre[:n] /= size[:n, None]
    alive = list(range(n))
    merges = np.empty((n - 1, 2), dtype=np.intp)
    for i in range(n - 1):
        c, s = centre[alive], size[alive]
        cost = np.square(c[:, None] - c[None]).sum(-1) * (s[:, None] * s / (s[:, None] + s))
        cost[np.tril_indices(len(alive))] = np.inf
        a, b = (alive[j] for j in np.unravel_index(int(np.argmin(cost)), cost.shape))
        merges[i] = a, b
        size[n + i] = size[a] + size[b]
        centre[n + i] = (size[a] * centre[a] + size[b] * centre[b]) / size[n + i]
        alive = [j for j in alive if j not in (a, b)] + [n + i]
    palette = Palette(
        centre.astype(np.float32),
        size / len(points),
        merges,
        np.full(n - 1, np.nan),
        np.zeros((len(values), 2 * n - 1), dtype=np.float32),
    )
    for node, leaves in enumerate(palette.leaves):
        palette.order[:, node] = np.median(values[:, leaves[cluster]], axis=1)
    return palette


def adjusted_rand(a: ArrayLike, b: ArrayLike) -> float:
    """Adjusted Rand index of two labellings: 1 for the same partition, about 0 for chance.

    Parameters
    ----------
    a, b : array_like of int, any one shape
        Labels, none negative; their numbers need not match.

    Returns
    -------
    float
        At most 1.

    References
    ----------
    Hubert & Arabie (1985), J. Classification 2, 193.
    """
    table = _contingency(a, b)
    n = table.sum()

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    rows, columns, both = pairs(table.sum(1)), pairs(table.sum(0)), pairs(table)
    chance = rows * columns / max(n * (n - 1) / 2, 1)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def aligned(labels: ArrayLike, reference: ArrayLike) -> NDArray[np.intp]:
    """Labels renumbered so that they overlap a reference as far as they can.

    Parameters
    ----------
    labels, reference : array_like of int, one shape
        Labels from 1; 0 stays 0 and does not count.

    Returns
    -------
    ndarray of int
        The same partition. Labels without a partner get the lowest numbers that are free.

    References
    ----------
    Kuhn (1955), Nav. Res. Logist. Q. 2, 83.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = np.asarray(labels, dtype=np.intp), np.asarray(reference, dtype=np.intp)
    table = _contingency(a, b)
    table[0], table[:, 0] = 0, 0
    mine, match = linear_sum_assignment(table, maximize=True)
    lut = np.zeros(len(table), dtype=np.intp)
    shared = table[mine, match] > 0
    lut[mine[shared]] = match[shared]
    present = np.setdiff1d(np.unique(a), (0,))
    late: Sequence[int] = [int(v) for v in present if lut[v] == 0]
    free = np.setdiff1d(np.arange(1, len(table) + table.shape[1] + 1), lut)
    lut[late] = free[: len(late)]
    return lut[a]


def _contingency(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """How many places have each pair of labels."""
    x, y = np.asarray(a, dtype=np.intp).ravel(), np.asarray(b, dtype=np.intp).ravel()
    if x.shape != y.shape or not x.size:
        raise ValueError(f"Labellings of {x.size} and {y.size} places came; they must be of the same places.")
    shape = (int(x.max()) + 1, int(y.max()) + 1)
    return np.bincount(x * shape[1] + y, minlength=shape[0] * shape[1]).reshape(shape).astype(float)
