"""Shares of points in the leaves of a palette, by a Gaussian mixture or by the nearest clustered point."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import numpy as np

from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TokenMethod

__all__ = ["Shares", "density_steps", "mixture_steps", "shares_from"]

_STARTS: Final = 6
_ROUNDS: Final = 10
_ROUND_STEPS: Final = 5  # iterations between which the fit can't be stopped
_FLOOR: Final = 1e-4  # least variance of a Gaussian, in units of the components' mean variance
_DENSE_POINTS: Final = 5_000
_NEIGHBOURS: Final = 5
_LEAST: Final = 25
_MOST: Final = 120  # since nodes are numbered in eight bits


class Shares(Protocol):
    """Shares of points in leaves."""

    method: ClassVar[TokenMethod]

    def of(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the share of each point (m, D) in each leaf, (m, n); rows sum to one."""
        ...

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the shares as named arrays, for `shares_from`."""
        ...


@dataclass(frozen=True, eq=False)
class _MixtureShares:
    """Posterior probabilities of a mixture of Gaussians.

    Parameters
    ----------
    means : ndarray of float32, (n, D)
        Means.
    whitening : ndarray of float32, (n, D, D)
        Cholesky factors of the inverse covariances: ``(x - mean) @ whitening`` has unit variance.
    offset : ndarray of float32, (n,)
        Logarithm of weight and normalisation, without the terms common to all Gaussians.

    References
    ----------
    Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39, 1.
    """

    means: NDArray[np.float32]
    whitening: NDArray[np.float32]
    offset: NDArray[np.float32]
    method: ClassVar[TokenMethod] = "mixture"

    @cached_property
    def _side_by_side(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """All factors as one matrix (D, n D), and the whitened means (n, D)."""
        n, d = self.means.shape
        return (
            np.ascontiguousarray(self.whitening.transpose(1, 0, 2).reshape(d, n * d)),
            np.einsum("nd,nde->ne", self.means, self.whitening),
        )

    def of(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of each point in each leaf.

        Parameters
        ----------
        points : ndarray of float32, (m, D)
            Points in latent components.

        Returns
        -------
        ndarray of float32, (m, n)
            Posterior probabilities.
        """
        factors, middle = self._side_by_side
        z = (points @ factors).reshape(len(points), *middle.shape)
        z -= middle
        log = self.offset - np.einsum("mnd,mnd->mn", z, z) / 2
        log -= log.max(axis=1, keepdims=True)
        share: NDArray[np.float32] = np.exp(log, out=log)
        share /= share.sum(axis=1, keepdims=True)
        return share

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the mixture as named arrays, for `shares_from`."""
        return {"means": self.means, "whitening": self.whitening, "offset": self.offset}


@dataclass(frozen=True, eq=False)
class _NeighbourShares:
    """Full share for the leaf of the nearest clustered point.

    Parameters
    ----------
    points : ndarray of float32, (p, D)
        Points that were clustered; noise is not among them.
    leaf : ndarray of uint8, (p,)
        Leaf of each.

    References
    ----------
    Cover & Hart (1967), IEEE Trans. Inf. Theory 13, 21.
    """

    points: NDArray[np.float32]
    leaf: NDArray[np.uint8]
    method: ClassVar[TokenMethod] = "hdbscan"

    @cached_property
    def _square(self) -> NDArray[np.float32]:
        """Squared length of each clustered point, (p,)."""
        return np.asarray(np.square(self.points).sum(1))

    def of(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of each point in each leaf.

        Parameters
        ----------
        points : ndarray of float32, (m, D)
            Points in latent components.

        Returns
        -------
        ndarray of float32, (m, n)
            One for the nearest point's leaf, zero for the others.
        """
        far = points @ self.points.T
        far *= -2
        far += self._square
        share = np.zeros((len(points), int(self.leaf.max()) + 1), dtype=np.float32)
        share[np.arange(len(points)), self.leaf[np.argmin(far, axis=1)]] = 1
        return share

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the points as named arrays, for `shares_from`."""
        return {"points": self.points, "leaf": self.leaf}


def shares_from(arrays: Mapping[str, NDArray[Any]]) -> Shares | None:
    """Return the shares that `to_arrays` stored, with names "<method>.<array>"; None if there are none."""
    for kind in (_MixtureShares, _NeighbourShares):
        first = f"{kind.method}."
        found = {k.removeprefix(first): np.asarray(v) for k, v in arrays.items() if k.startswith(first)}
        if found:
            return kind(**found)
    return None


def mixture_steps(points: NDArray[np.float32], count: int, seed: int) -> Step[tuple[_MixtureShares, float]]:
    """Fit a mixture of Gaussians with full covariances, from the likeliest of a few short runs; a step.

    Parameters
    ----------
    points : ndarray of float32, (m, D)
        A sample of pixels in latent components.
    count : int
        Number of Gaussians, at most the number of different points.
    seed : int
        Seed of the initial means.

    Returns
    -------
    tuple of MixtureShares, float
        The mixture, and its mean log-likelihood per point.

    References
    ----------
    Short runs: Biernacki, Celeux & Govaert (2003), Comput. Stat. Data Anal. 41, 561.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    x = points.astype(np.float64)
    # Without a floor a Gaussian can shrink onto a few points, and its likelihood grow without limit.
    floor = max(_FLOOR * float(x.var(axis=0).mean()), 1e-12)

    def go_on(mixture: Any) -> Any:
        """Run a few more iterations."""
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            # A round is expected to end before the fit has converged.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return mixture.fit(x)

    starts = []
    for i, s in enumerate(np.random.SeedSequence(seed).generate_state(_STARTS)):
        yield Progress(i, _STARTS + _ROUNDS)
        begun = GaussianMixture(
            count, init_params="k-means++", reg_covar=floor, max_iter=_ROUND_STEPS, warm_start=True,
            random_state=int(s),
        )  # fmt: skip
        starts.append(go_on(begun))
    mixture = max(starts, key=lambda one: float(one.lower_bound_))
    for i in range(_ROUNDS):
        if mixture.converged_:
            break
        yield Progress(_STARTS + i, _STARTS + _ROUNDS)
        go_on(mixture)
    factors = mixture.precisions_cholesky_
    log_det = np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(1)
    offset = np.log(np.maximum(mixture.weights_, 1e-300)) + log_det
    parts = (np.asarray(part, dtype=np.float32) for part in (mixture.means_, factors, offset))
    return _MixtureShares(*parts), float(mixture.lower_bound_)


def density_steps(points: NDArray[np.float32], seed: int) -> Step[tuple[_NeighbourShares | None, float]]:
    """Find dense groups of any shape and number by HDBSCAN, on 5000 of the points; a step.

    Parameters
    ----------
    points : ndarray of float32, (m, D)
        A sample of pixels in latent components.
    seed : int
        Seed of the choice of points.

    Returns
    -------
    tuple of NeighbourShares or None, float
        Groups of at least 1/120 of the points and 25 each, None where there are fewer than two; and
        the share of the points that lie in none.

    References
    ----------
    Campello, Moulavi & Sander (2013), PAKDD, LNCS 7819, 160.
    """
    from sklearn.cluster import HDBSCAN
    from threadpoolctl import threadpool_limits

    yield Progress(0, 1)
    rows = np.random.default_rng(seed).choice(len(points), min(len(points), _DENSE_POINTS), replace=False)
    x = points[np.sort(rows)]
    least = max(-(-len(x) // _MOST), _LEAST)
    with threadpool_limits(limits=1):
        group = HDBSCAN(min_cluster_size=least, min_samples=_NEIGHBOURS, copy=True).fit_predict(x)
    dense = group >= 0
    found = _NeighbourShares(x[dense], group[dense].astype(np.uint8)) if group.max() >= 1 else None
    return found, float(1 - dense.mean())
