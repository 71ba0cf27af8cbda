"""Palettes from points: clusters by k-means, a mixture or HDBSCAN, their tree, and the agreement of seeds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.core.progress import Progress, with_progress
from napari_btn.core.tokens.palette import Palette, rows_of
from napari_btn.core.tokens.shares import density_steps, mixture_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TokenMethod
    from napari_btn.core.tokens.shares import Shares

    _Fit = Step[tuple[Palette, NDArray[np.float64]]]  # a palette, and its misfit

__all__ = ["adjusted_rand", "fit_palette_steps"]

_RESTARTS: Final = 10
_LLOYD_STEPS: Final = 20
_COARSE: Final = 12  # cuts into so many tokens or fewer are compared between seeds
_ANCHORS: Final = 5  # tokens that the tree is built around: the cut that seeds agree on in most images
_INNER_RESTARTS: Final = 3
_CHUNK: Final = 1024


def fit_palette_steps(
    points: ArrayLike,
    values: ArrayLike,
    *,
    count: int = 40,
    seed: int = 0,
    replicates: int = 2,
    method: TokenMethod = "kmeans",
) -> Step[Palette]:
    """Cluster points into a palette, build its tree, and measure the agreement of seeds; a step.

    Parameters
    ----------
    points : array_like, (m, D)
        A sample of pixels in latent components, not whitened.
    values : array_like, (C, m)
        The channels at these pixels, for the order of tokens.
    count : int
        Clusters in the palette; fewer where there are fewer different points. HDBSCAN finds its own number.
    seed : int
        Seed of the clustering.
    replicates : int
        Further seeds that the agreement is measured with; 0 leaves it unknown.
    method : str
        "kmeans", "mixture" (Gaussians with full covariances) or "hdbscan" (dense groups of any shape; a
        point outside of them belongs to the group of the nearest point within one).

    Returns
    -------
    Palette
        From the seed that fits best, so that the result depends little on the first seed: the best fit of the
        coarse cuts, the highest likelihood of the mixture, or the most points in dense groups. Agreement is
        the mean over all pairs of seeds, on all points.

    Raises
    ------
    ValueError
        If points and values don't fit, the method is unknown, or HDBSCAN finds fewer than two groups.

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
    if method not in _FITS:
        raise ValueError(f"method is {method!r}; it must be {', '.join(map(repr, _FITS))}.")
    # Points that differ only by rounding count once.
    coarse = np.round(x * (1e4 / max(float(np.abs(x).max()), 1e-30))).astype(np.int32)
    count = int(min(count, len(np.unique(coarse, axis=0))))
    seeds = np.random.SeedSequence(seed).generate_state(replicates + 1)
    found: list[Palette] = []
    misfits: list[NDArray[np.float64]] = []
    for i, s in enumerate(seeds):
        fit = _FITS[method](x, count, int(s))
        palette, misfit = yield from with_progress(fit, partial(_as_part, number=i, total=len(seeds)))
        found.append(palette)
        misfits.append(misfit)
    best = found[int(np.argmin([misfit.sum() for misfit in misfits]))]
    if method == "kmeans" and best.size > 1:
        best = yield from _nested_steps(x, found, np.array(misfits), [int(s) for s in seeds])
    best = replace(best, order=_medians(best.assign(x), channels, best))
    if method == "hdbscan" and best.size < 2:
        raise ValueError(
            "HDBSCAN found fewer than two dense groups among the latents; choose the method kmeans or mixture."
        )
    yield Progress(len(seeds), len(seeds), "Clustered")
    if best.anchors is not None:
        return best
    return replace(best, agreement=_agreement([p.assign(x) for p in found], best.size))


def _as_part(progress: Progress, number: int, total: int) -> Progress:
    """Return the progress of a whole from that of one of several equal parts."""
    again = " with another seed" if number else ""
    done = int(100 * (number + progress.fraction))
    return Progress(done, 100 * total, f"{progress.note or 'Clustering'}{again}")


def _agreement(labels: Sequence[Sequence[NDArray[Any]] | NDArray[Any]], size: int) -> NDArray[np.float64]:
    """Return the mean adjusted Rand index of each cut from 2 to `size`; NaN if no two seeds have the cut."""
    agreement = np.full(size - 1, np.nan)
    for k in range(size - 1):
        cut = [one[k] for one in labels if k < len(one)]
        pairs = [adjusted_rand(cut[a], cut[b]) for b in range(len(cut)) for a in range(b)]
        if pairs:
            agreement[k] = np.mean(pairs)
    return agreement


def _by_centres(points: NDArray[np.float32], count: int, seed: int) -> _Fit:
    """Return the palette of the best of ten k-means, and the inertia of each cut."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    yield Progress(0, 2)
    # With several threads the order of sums varies, and the same seed would not give the same labels.
    with threadpool_limits(limits=1):
        means = KMeans(count, n_init=_RESTARTS, random_state=seed % 2**32, max_iter=100)
        cluster = np.unique(means.fit_predict(points), return_inverse=True)[1]
    yield Progress(1, 2, "Polishing the clusters")
    return _polish(points, _tree_over(points, cluster))


def _by_mixture(points: NDArray[np.float32], count: int, seed: int) -> _Fit:
    """Return the palette of a Gaussian mixture, and its negative log-likelihood."""
    shares, likelihood = yield from mixture_steps(points, count, seed)
    return _tree_of(points, shares), np.array([-likelihood])


def _by_density(points: NDArray[np.float32], count: int, seed: int) -> _Fit:
    """Return the palette of dense groups, and the share of points in none; a single leaf if there are no two."""
    del count
    shares, outside = yield from density_steps(points, seed)
    if shares is None:
        return _tree(points.mean(0, keepdims=True), np.ones(1)), np.array([np.inf])
    return _tree_of(points, shares), np.array([outside])


def _tree_of(points: NDArray[np.float32], shares: Shares) -> Palette:
    """Return the palette over leaves that each hold a share of each point."""
    # A Gaussian may have almost no points; a weight above zero keeps its mean defined.
    weight = np.full(1, 1e-9)
    total = np.zeros((1, points.shape[1]))
    for first in range(0, len(points), _CHUNK):
        part = points[first : first + _CHUNK]
        share = shares.of(part).astype(np.float64)
        weight, total = weight + share.sum(0), total + share.T @ part
    return replace(_tree(total / weight[:, None], weight / weight.sum()), shares=shares)


_FITS: Final[dict[str, Callable[[NDArray[np.float32], int, int], _Fit]]] = {
    "kmeans": _by_centres,
    "mixture": _by_mixture,
    "hdbscan": _by_density,
}


def _medians(
    assigned: NDArray[np.uint8], values: NDArray[np.float32], palette: Palette
) -> NDArray[np.float32]:
    """Return the median of each channel in each token of each cut; NaN for a token without points."""
    out = np.full((len(values), rows_of(palette.size).stop), np.nan, dtype=np.float32)
    for k in range(2, palette.size + 1):
        for row, node in zip(range(rows_of(k).start, rows_of(k).stop), palette.cut(k), strict=True):
            here = values[:, assigned[k - 2] == node]
            if here.shape[1]:
                out[:, row] = np.median(here, axis=1)
    return out


def _tree_over(
    points: NDArray[np.float32], cluster: NDArray[np.intp], within: NDArray[np.intp] | None = None
) -> Palette:
    """Return the size-weighted Ward tree over clusters, numbered from 0."""
    size = np.bincount(cluster).astype(np.float64)
    total = np.zeros((len(size), points.shape[1]))
    np.add.at(total, cluster, points)
    return _tree(total / size[:, None], size / len(points), within)


def _tree(
    centres: NDArray[np.floating], weights: NDArray[np.float64], within: NDArray[np.intp] | None = None
) -> Palette:
    """Return the Ward tree over leaves, (n, D) and (n,); those within one anchor merge before all others."""
    n = len(weights)
    size = np.concatenate([weights, np.zeros(n - 1)])
    centre = np.concatenate([centres, np.zeros((n - 1, centres.shape[1]))])
    alive = list(range(n))
    held = np.concatenate([np.zeros(n, np.intp) if within is None else within, np.zeros(n - 1, np.intp)])
    merges = np.empty((n - 1, 2), dtype=np.intp)
    for i in range(n - 1):
        c, s = centre[alive], size[alive]
        cost = np.square(c[:, None] - c[None]).sum(-1) * (s[:, None] * s / (s[:, None] + s))
        cost[np.tril_indices(len(alive))] = np.inf
        if within is not None and len(alive) > within.max() + 1:
            cost[held[alive][:, None] != held[alive]] = np.inf
        a, b = (alive[j] for j in np.unravel_index(int(np.argmin(cost)), cost.shape))
        merges[i] = a, b
        held[n + i], size[n + i] = held[a], size[a] + size[b]
        centre[n + i] = (size[a] * centre[a] + size[b] * centre[b]) / size[n + i]
        alive = [j for j in alive if j not in (a, b)] + [n + i]
    return Palette(
        centre.astype(np.float32),
        size,
        merges,
        np.zeros((0, centres.shape[1]), dtype=np.float32),
        np.full(n - 1, np.nan),
        np.zeros((1, 0), dtype=np.float32),
    )


def _polish(points: NDArray[np.float32], palette: Palette) -> tuple[Palette, NDArray[np.float64]]:
    """Return the palette with polished coarse cuts, and the inertia of each."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    polished, inertia = [], []
    with threadpool_limits(limits=1):
        for k in range(2, min(palette.size, _COARSE) + 1):
            start = palette.centres[palette.cut(k)]
            means = KMeans(k, init=start, n_init=1, max_iter=_LLOYD_STEPS).fit(points)
            polished.append(np.asarray(means.cluster_centers_, dtype=np.float32))
            inertia.append(float(means.inertia_))
    rows = np.concatenate(polished) if polished else palette.polished
    return replace(palette, polished=rows), np.array(inertia)


def _nested_steps(
    points: NDArray[np.float32], found: list[Palette], inertia: NDArray[np.float64], seeds: Sequence[int]
) -> Step[Palette]:
    """Return the best palette, built around its polished cut into a few tokens, with the agreement of the seeds.

    Cuts of a plain tree agree less between seeds than cuts that Lloyd's steps polished, and polished cuts don't
    nest. A tree around one polished cut has both.
    """
    best = _best_of(points, found, inertia)
    yield Progress(0, 1, "Building the tree")
    nested = _around(points, best.polished[rows_of(min(best.size, _ANCHORS))], best.size, seeds[0])
    # cuts of single seeds agree less than the best of all seeds would: their agreement is on the safe side
    agreement = _agreement([_cuts_of(points, p) for p in found], nested.size)
    return replace(nested, agreement=agreement)


def _cuts_of(points: NDArray[np.float32], palette: Palette) -> list[NDArray[np.intp]]:
    """Return the token of each point in each cut of one seed: polished, or of the plain tree where that is fine."""
    leaf = _nearest(points, palette.centres[: palette.size])
    most = min(palette.size, _COARSE)
    polished = [_nearest(points, palette.polished[rows_of(k)]) for k in range(2, most + 1)]
    fine = [
        np.argmax(palette.leaves[palette.cut(k)], axis=0)[leaf] for k in range(most + 1, palette.size + 1)
    ]
    return polished + fine


def _around(points: NDArray[np.float32], anchors: NDArray[np.float32], count: int, seed: int) -> Palette:
    """Return a palette with the given tokens among its cuts: leaves divide them, and a tree merges them."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    there, anchor = np.unique(_nearest(points, anchors), return_inverse=True)
    anchors, a = anchors[there], len(there)
    spread = np.array([np.square(points[anchor == i] - points[anchor == i].mean(0)).sum() for i in range(a)])
    # leaves go where points are spread, by the largest remainder
    wanted = spread / max(float(spread.sum()), 1e-30) * (count - a)
    leaves = 1 + np.floor(wanted).astype(int)
    leaves[np.argsort(np.floor(wanted) - wanted, kind="stable")[: count - leaves.sum()]] += 1
    cluster, first, of_leaf = np.empty(len(points), dtype=np.intp), 0, []
    with threadpool_limits(limits=1):
        for i in range(a):
            own = points[anchor == i]
            k = min(int(leaves[i]), len(np.unique(own, axis=0)))
            means = KMeans(k, n_init=_INNER_RESTARTS, random_state=seed % 2**32).fit(own)
            found = np.unique(means.labels_, return_inverse=True)[1]
            cluster[anchor == i] = first + found
            of_leaf += [i] * (int(found.max()) + 1)
            first = len(of_leaf)
    palette = _tree_over(points, cluster, np.array(of_leaf))
    order = [of_leaf[int(np.argmax(palette.leaves[node]))] for node in palette.cut(a)]
    return replace(palette, anchors=anchors[order], polished=palette.centres[: palette.size])


def _nearest(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the nearest centre of each point."""
    found: NDArray[np.intp] = np.argmin(np.square(centres).sum(1) - 2 * points @ centres.T, axis=1)
    return found


def _best_of(points: NDArray[np.float32], found: list[Palette], inertia: NDArray[np.float64]) -> Palette:
    """Return the palette whose coarse cuts fit best, with the centres of better cuts of other palettes.

    Trees of different seeds reach different optima of a coarse cut; the best of them is the one that
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
        rows = rows_of(k)
        mine, theirs = (_nearest(points, p.polished[rows]) for p in (palette, other))
        overlap = np.bincount(mine * k + theirs, minlength=k * k).reshape(k, k)
        order = linear_sum_assignment(overlap, maximize=True)[1]
        polished[rows] = other.polished[rows][order]
    return replace(palette, polished=polished)


def adjusted_rand(a: ArrayLike, b: ArrayLike) -> float:
    """Return the adjusted Rand index of two labellings: 1 for the same partition, about 0 for chance.

    Parameters
    ----------
    a, b : array_like of int, any one shape
        Labels, none negative; their numbers need not match.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    ValueError
        If the labellings differ in size, or are empty.

    References
    ----------
    Hubert & Arabie (1985), J. Classification 2, 193.
    """
    x, y = np.asarray(a, dtype=np.intp).ravel(), np.asarray(b, dtype=np.intp).ravel()
    if x.shape != y.shape or not x.size:
        raise ValueError(
            f"Labellings of {x.size} and {y.size} places came; they must be of the same places. Compare one image."
        )
    shape = (int(x.max()) + 1, int(y.max()) + 1)
    table = np.bincount(x * shape[1] + y, minlength=shape[0] * shape[1]).reshape(shape).astype(float)
    # scikit-learn's function rounds differently in the last digit, and takes forty times as long.

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    rows, columns, both = pairs(table.sum(1)), pairs(table.sum(0)), pairs(table)
    chance = rows * columns / max(x.size * (x.size - 1) / 2, 1)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)
