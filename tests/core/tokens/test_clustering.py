"""Palettes by a mixture and by HDBSCAN: what they find that k-means can't, and the laws all palettes keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from napari_btn.core.tokens.clustering import adjusted_rand, fit_palette_steps
from napari_btn.core.tokens.palette import Palette
from napari_btn.core.tokens.shares import _MixtureShares

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = ("kmeans", "mixture", "hdbscan")


def drain(steps: Any) -> Any:
    """Result of a step."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def cigars(seed: int = 0, n: int = 1800) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Three long clusters side by side, five times as long as wide."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    points = rng.normal(size=(n, 4)) * (5, 1, 1, 1)
    points[:, 1] += 6 * group
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    return (points @ turn).astype(np.float32), group


def islands(seed: int = 0, n: int = 2400) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Six round clusters, far apart."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 6, n)
    centres = 20 * np.eye(6)
    return (centres[group] + rng.normal(size=(n, 6))).astype(np.float32), group


def palette_of(points: NDArray[np.float32], method: Any, **about: Any) -> Palette:
    made: Palette = drain(fit_palette_steps(points, points[:, :2].T, method=method, **about))
    return made


@pytest.fixture(scope="module")
def palettes() -> dict[str, Palette]:
    points, _ = islands()
    return {method: palette_of(points, method, count=10, seed=3) for method in METHODS}


def test_a_mixture_finds_long_clusters_that_k_means_cuts_in_pieces() -> None:
    points, group = cigars()
    found = {
        method: palette_of(points, method, count=3, replicates=2).assign(points)[1]
        for method in ("kmeans", "mixture")
    }
    assert adjusted_rand(found["mixture"], group) > 0.98
    assert adjusted_rand(found["kmeans"], group) < 0.5


def test_dense_groups_are_counted_and_noise_goes_to_the_nearest() -> None:
    points, group = islands()
    rng = np.random.default_rng(1)
    between = rng.uniform(-3, 23, (150, 6)).astype(np.float32)
    palette = palette_of(np.concatenate([points, between]), "hdbscan", replicates=0)
    assert palette.size == 6
    assert adjusted_rand(palette.finest(points), group) > 0.99
    arrays = palette.to_arrays()
    clustered, leaf = arrays["hdbscan.points"], arrays["hdbscan.leaf"]
    assert len(clustered) < len(points) + 100
    nearest = np.square(between[:, None] - clustered).sum(-1).argmin(1)
    np.testing.assert_array_equal(palette.finest(between), leaf[nearest])


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_palette(method: str, palettes: dict[str, Palette]) -> None:
    again = palette_of(islands()[0], method, count=10, seed=3).to_arrays()
    arrays = palettes[method].to_arrays()
    assert sorted(arrays) == sorted(again)
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, again[name])


@pytest.mark.parametrize("method", METHODS)
def test_palettes_come_apart_and_together(method: str, palettes: dict[str, Palette]) -> None:
    palette = palettes[method]
    again = Palette.from_arrays(palette.to_arrays())
    assert again.method == palette.method == method
    points = np.random.default_rng(5).normal(0, 12, (3000, 6)).astype(np.float32)
    np.testing.assert_array_equal(again.assign(points), palette.assign(points))
    np.testing.assert_array_equal(again.finest(points), palette.finest(points))


@pytest.mark.parametrize("method", METHODS)
def test_points_are_dealt_alike_in_any_company(method: str, palettes: dict[str, Palette]) -> None:
    palette = palettes[method]
    points = np.random.default_rng(6).normal(0, 12, (2500, 6)).astype(np.float32)
    whole = palette.assign(points)
    parts = np.concatenate([palette.assign(p) for p in np.array_split(points, 7)], axis=1)
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(palette.finest(points), whole[-1])


@pytest.mark.parametrize("method", METHODS)
def test_cuts_nest_and_numbers_run_from_one(method: str, palettes: dict[str, Palette]) -> None:
    palette, (points, group) = palettes[method], islands()
    assert palette.weights[palette.cut(palette.size)].sum() == pytest.approx(1)
    assigned = palette.assign(points)
    assert assigned.shape == (palette.size - 1, len(points))
    for k in range(2, palette.size + 1):
        nodes = palette.cut(k)
        assert (palette.leaves[nodes].sum(0) == 1).all()
        assert set(np.unique(assigned[k - 2])) <= set(nodes)
        number = palette.numbers(k, 5)
        assert sorted(number[number > 0]) == list(range(1, k + 1))
    for k in range(2, palette.size):
        assert len(np.intersect1d(palette.cut(k), palette.cut(k + 1))) == k - 1
    assert adjusted_rand(assigned[6 - 2], group) > 0.98
    assert palette.agreement[6 - 2] > 0.95


def test_overlapping_gaussians_share_points_by_weight_and_size() -> None:
    from scipy.stats import norm

    weights, sizes = np.array([0.9, 0.1]), np.array([1.0, 4.0])
    shares = _MixtureShares(
        np.zeros((2, 1), np.float32),
        (1 / sizes).reshape(2, 1, 1).astype(np.float32),
        (np.log(weights) - np.log(sizes)).astype(np.float32),
    )
    points = np.linspace(-9, 9, 101, dtype=np.float32)[:, None]
    density = weights * norm.pdf(points, scale=sizes)
    np.testing.assert_allclose(shares.of(points), density / density.sum(1, keepdims=True), atol=1e-5)


def test_a_node_of_a_mixture_has_the_posterior_of_its_leaves(palettes: dict[str, Palette]) -> None:
    from scipy.stats import multivariate_normal

    palette = palettes["mixture"]
    shares = palette.shares
    assert isinstance(shares, _MixtureShares)
    points = np.random.default_rng(7).normal(0, 12, (200, 6)).astype(np.float32)
    covariances = [np.linalg.inv(w.astype(float) @ w.T.astype(float)) for w in shares.whitening]
    weights = np.exp(shares.offset - [np.log(np.diagonal(w)).sum() for w in shares.whitening])
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-4)
    density = np.stack(
        [
            w * multivariate_normal.pdf(points, m, c)
            for w, m, c in zip(weights, shares.means, covariances, strict=True)
        ]
    )
    for k in (2, 4, 10):
        nodes = palette.cut(k)
        expected = nodes[(palette.leaves[nodes] @ density).argmax(0)]
        known = density.sum(0) > 1e-290
        assert np.mean(palette.assign(points)[k - 2][known] == expected[known]) > 0.99


def test_without_two_dense_groups_hdbscan_says_so() -> None:
    one = np.random.default_rng(0).normal(size=(600, 5)).astype(np.float32)
    with pytest.raises(ValueError, match="fewer than two dense groups"):
        palette_of(one, "hdbscan")
    with pytest.raises(ValueError, match="'kmeans', 'mixture', 'hdbscan'"):
        palette_of(one, "ward")


def test_few_different_points_give_few_gaussians() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
    palette = palette_of(points, "mixture")
    assert palette.size == 3
    assert len(np.unique(palette.assign(points)[1])) == 3
    assert palette_of(np.ones((60, 2), np.float32), "mixture").assign(points[:, :2]).shape == (0, 150)


# ---------------------------------------------------------------- agreement of labellings


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_agreement_is_the_adjusted_rand_index(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, m, 60), rng.integers(0, n, 60)
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))


def test_labellings_of_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match="same places"):
        adjusted_rand([1, 2], [1])
