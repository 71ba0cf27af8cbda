"""A palette of tokens: clusters of latent points, and the tree that merges them one by one.

Leaves are numbered 0 to n - 1; node n + i is what merge i makes. A cut into k tokens takes k
nodes; Lloyd's steps from their centres polish the cut, and each point goes to the nearest of
the polished centres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
_LLOYD_STEPS: Final = 20
_COARSE: Final = 12  # cuts into so many tokens or fewer are compared between seeds
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
    polished : ndarray of float32, (2 + 3 + ... + n, D)
        Centres of the tokens of each cut, from 2 tokens to n, in the order of `cut`.
    agreement : ndarray of float64, (n - 1,)
        Adjusted Rand index between seeds when cut into 2, 3, ..., n tokens; NaN if unknown.
    order : ndarray of float32, (C, 2 + 3 + ... + n)
        Median of each channel in each token of each cut, by which tokens can be ordered.
    """

    centres: NDArray[np.float32]
    weights: NDArray[np.float64]
    merges: NDArray[np.intp]
    polished: NDArray[np.float32]
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
        median = self.order[channel, _rows(base)] if base > 1 else np.zeros(1)
        number[nodes[np.lexsort((nodes, median))]] = np.arange(1, base + 1)
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
        cuts = [(k, self.cut(k), _rows(k)) for k in range(2, self.size + 1)]
        square = np.square(self.polished).sum(1)
        out = np.empty((len(cuts), len(points)), dtype=np.uint8)
        # in pieces that stay in the processor's cache
        for first in range(0, len(points), _CHUNK):
            piece = slice(first, first + _CHUNK)
            # squared distances but for the points' own squares, which no comparison needs
            far = points[piece] @ self.polished.T
            far *= -2
            far += square
            for k, nodes, rows in cuts:
                out[k - 2, piece] = nodes[np.argmin(far[:, rows], axis=1)]
        return out

    def finest(self, points: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Leaf of each point: the last row of `assign`.

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
        if self.size > 1:
            centres = self.polished[_rows(self.size)]
            square = np.square(centres).sum(1)
            for first in range(0, len(points), _CHUNK):
                piece = slice(first, first + _CHUNK)
                out[piece] = np.argmin(square - 2 * (points[piece] @ centres.T), axis=1)
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
        Of the seed whose coarse cuts fit the points best, so that the outcome depends little on
        the first seed. Agreement is the mean over all pairs of single seeds, on all points.

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
    inertia = np.zeros((len(seeds), max(count - 1, 0)))
    for i, s in enumerate(seeds):
        yield Progress(2 * i, 2 * len(seeds), "Clustering" if i == 0 else "Clustering with another seed")
        tree = _tree(x, _clusters(x, count, int(s)))
        yield Progress(2 * i + 1, 2 * len(seeds), "Polishing the clusters")
        palette, inertia[i] = _polish(x, tree)
        found.append(palette)
    best = _best_of(x, found, inertia)
    best = replace(best, order=_medians(best.assign(x), channels, best))
    if replicates < 1 or count < 2:
        return best
    labels = [palette.assign(x) for palette in found]
    agreement = np.empty(count - 1)
    for k in range(count - 1):
        pairs = [adjusted_rand(labels[a][k], labels[b][k]) for b in range(len(labels)) for a in range(b)]
        agreement[k] = np.mean(pairs)
    yield Progress(len(seeds), len(seeds), "Clustered")
    return replace(best, agreement=agreement)


def _clusters(points: NDArray[np.float32], count: int, seed: int) -> NDArray[np.intp]:
    """Cluster of each point, the best of ten k-means."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    # with several threads the sums come in any order, and the same seed would not give the same labels
    with threadpool_limits(limits=1):
        means = KMeans(count, n_init=_RESTARTS, random_state=seed % 2**32, max_iter=100)
        return np.asarray(means.fit_predict(points), dtype=np.intp)


def _medians(
    assigned: NDArray[np.uint8], values: NDArray[np.float32], palette: Palette
) -> NDArray[np.float32]:
    """Median of each channel in each token of each cut; NaN for a token without points."""
    out = np.full((len(values), len(palette.polished)), np.nan, dtype=np.float32)
    for k in range(2, palette.size + 1):
        for row, node in zip(range(_rows(k).start, _rows(k).stop), palette.cut(k), strict=True):
            here = values[:, assigned[k - 2] == node]
            if here.shape[1]:
                out[:, row] = np.median(here, axis=1)
    return out


def _tree(points: NDArray[np.float32], cluster: NDArray[np.intp]) -> Palette:
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
    return Palette(
        centre.astype(np.float32),
        size / len(points),
        merges,
        np.zeros((0, points.shape[1]), dtype=np.float32),
        np.full(n - 1, np.nan),
        np.zeros((1, 0), dtype=np.float32),
    )


def _polish(points: NDArray[np.float32], palette: Palette) -> tuple[Palette, NDArray[np.float64]]:
    """The palette with polished cuts, and the inertia of each."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    polished, inertia = [], []
    with threadpool_limits(limits=1):
        for k in range(2, palette.size + 1):
            start = palette.centres[palette.cut(k)]
            # fine cuts are near their optimum already, and there are many
            steps = _LLOYD_STEPS if k <= _COARSE else _LLOYD_STEPS // 4
            means = KMeans(k, init=start, n_init=1, max_iter=steps).fit(points)
            polished.append(np.asarray(means.cluster_centers_, dtype=np.float32))
            inertia.append(float(means.inertia_))
    rows = np.concatenate(polished) if polished else palette.polished
    return replace(palette, polished=rows), np.array(inertia)


def _best_of(points: NDArray[np.float32], found: list[Palette], inertia: NDArray[np.float64]) -> Palette:
    """The palette whose coarse cuts fit best; where another's cut fits better still, with that cut's centres.

    Trees of different seeds fall into different optima of a coarse cut; the best of them is what
    most seeds agree on.
    """
    from scipy.optimize import linear_sum_assignment

    coarse = np.log(np.maximum(inertia[:, : _COARSE - 1], 1e-30))
    palette = found[int(np.argmin(coarse.sum(axis=1)))]
    polished = palette.polished.copy()
    for k in range(2, min(palette.size, _COARSE) + 1):
        other = found[int(np.argmin(inertia[:, k - 2]))]
        if other is palette:
            continue
        rows = _rows(k)
        mine, theirs = (
            np.argmin(np.square(c).sum(1) - 2 * points @ c.T, axis=1)
            for c in (palette.polished[rows], other.polished[rows])
        )
        overlap = np.bincount(mine * k + theirs, minlength=k * k).reshape(k, k)
        order = linear_sum_assignment(overlap, maximize=True)[1]
        polished[rows] = other.polished[rows][order]
    return replace(palette, polished=polished)


def _rows(k: int) -> slice:
    """Rows of the polished centres that belong to the cut into k tokens."""
    return slice(k * (k - 1) // 2 - 1, k * (k + 1) // 2 - 1)


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
