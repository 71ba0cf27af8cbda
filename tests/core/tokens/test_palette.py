"""Palettes: seeds, trees, cuts that nest, numbers that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from napari_btn.core.tokens.clustering import _tree_over, adjusted_rand, fit_palette_steps
from napari_btn.core.tokens.palette import Palette

if TYPE_CHECKING:
    from numpy.typing import NDArray


def drain(steps: Any) -> Any:
    """Result of a step."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def clouds(
    seed: int = 0, n: int = 400, groups: int = 5, dims: int = 6
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Points around a few well separated centres, of unequal sizes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 6, (groups, dims))
    group = rng.choice(groups, n, p=np.arange(1, groups + 1) / np.arange(1, groups + 1).sum())
    return (centres[group] + rng.normal(0, 1, (n, dims))).astype(np.float32), group


@pytest.fixture(scope="module")
def palette() -> Palette:
    points, _ = clouds(n=1500)
    return drain(fit_palette_steps(points, points[:, :2].T, count=16, seed=3))


def test_the_same_seed_gives_the_same_palette(palette: Palette) -> None:
    points, _ = clouds(n=1500)
    again = drain(fit_palette_steps(points, points[:, :2].T, count=16, seed=3))
    for name, value in palette.to_arrays().items():
        np.testing.assert_array_equal(value, again.to_arrays()[name])


def test_known_groups_are_found_and_suggested() -> None:
    points, group = clouds(n=2000)
    palette = drain(fit_palette_steps(points, points[:, :1].T, count=20, seed=0))
    assert adjusted_rand(palette.assign(points)[5 - 2], group) > 0.98
    assert palette.agreement[5 - 2] > 0.95
    assert palette.suggested >= 5
    assert palette.agreement[-1] < palette.agreement[3]


def test_the_tree_halves_what_plain_clustering_finds() -> None:
    points, _ = clouds(seed=1, n=2000, groups=8)
    plain = KMeans(8, n_init=10, random_state=0).fit_predict(points)
    palette = drain(fit_palette_steps(points, points[:, :1].T, count=40, seed=0, replicates=0))
    assert np.isnan(palette.agreement).all()
    assert palette.suggested == 2
    assert adjusted_rand(palette.assign(points)[8 - 2], plain) > 0.95


def test_cuts_nest(palette: Palette) -> None:
    for k in range(1, palette.size + 1):
        nodes = palette.cut(k)
        assert len(nodes) == k
        assert (palette.leaves[nodes].sum(0) == 1).all()
        assert palette.weights[nodes].sum() == pytest.approx(1)
    for k in range(2, palette.size):
        assert len(np.intersect1d(palette.cut(k), palette.cut(k + 1))) == k - 1
    for k in (0, palette.size + 1):
        with pytest.raises(ValueError, match="can be cut into"):
            palette.cut(k)


def test_merges_cost_more_and_more_within_anchors_and_between_them(palette: Palette) -> None:
    w, c = palette.weights, palette.centres
    a, b = palette.merges.T
    cost = w[a] * w[b] / (w[a] + w[b]) * np.square(c[a] - c[b]).sum(1)
    within = palette.size - len(palette.anchors)
    for part in (cost[:within], cost[within:]):
        assert (np.diff(part) > -1e-6).all()


def test_points_go_to_the_nearest_anchor_and_the_nearest_leaf_within(palette: Palette) -> None:
    points = np.random.default_rng(5).normal(0, 6, (3000, 6)).astype(np.float32)
    nodes = palette.cut(len(palette.anchors))
    found = palette.assign(points)
    nearest = np.square(points[:, None] - palette.anchors).sum(-1).argmin(1)
    assert np.mean(found[len(nodes) - 2] == nodes[nearest]) > 0.999
    far = np.square(points[:, None] - palette.polished).sum(-1)
    far[~palette.leaves[nodes[nearest]]] = np.inf
    assert np.mean(found[-1] == far.argmin(1)) > 0.999


def test_every_cut_splits_one_token_of_the_last(palette: Palette) -> None:
    points = np.random.default_rng(5).normal(0, 6, (3000, 6)).astype(np.float32)
    found = palette.assign(points)
    for k in range(3, palette.size + 1):
        coarse, fine = found[k - 3], found[k - 2]
        parent = 2 * palette.size - k
        np.testing.assert_array_equal(np.where(fine == coarse, fine, parent), coarse)
        assert set(np.unique(fine[fine != coarse])) <= set(palette.merges[parent - palette.size])


def test_numbers_and_colours_change_for_the_smaller_part_of_a_split_only(palette: Palette) -> None:
    for k in range(1, palette.size):
        before, after = palette.numbers(k, 1), palette.numbers(k + 1, 1)
        parent = 2 * palette.size - k - 1
        large, small = sorted(palette.merges[parent - palette.size], key=lambda n: -palette.weights[n])
        assert after[small] == k + 1
        assert after[large] == before[parent]
        kept = np.intersect1d(palette.cut(k), palette.cut(k + 1))
        np.testing.assert_array_equal(before[kept], after[kept])
        np.testing.assert_array_equal(palette.colours[large], palette.colours[parent])


def test_the_anchors_fit_better_than_a_plain_tree(palette: Palette) -> None:
    points, _ = clouds(n=1500)
    plain = _tree_over(
        points, np.unique(KMeans(16, n_init=1, random_state=0).fit_predict(points), return_inverse=True)[1]
    )

    def inertia(centres: NDArray[np.float32]) -> float:
        return float(np.square(points[:, None] - centres).sum(-1).min(1).sum())

    k = len(palette.anchors)
    assert inertia(palette.anchors) <= inertia(plain.centres[plain.cut(k)]) * 1.0001


def test_a_palette_of_version_one_keeps_its_polished_cuts(palette: Palette) -> None:
    rows = [palette.centres[palette.cut(k)] for k in range(2, palette.size + 1)]
    arrays = {**palette.to_arrays(), "polished": np.concatenate(rows)}
    del arrays["anchors"]
    old = Palette.from_arrays(arrays)
    points = np.random.default_rng(5).normal(0, 6, (500, 6)).astype(np.float32)
    for k in (2, 7, 16):
        far = np.square(points[:, None] - rows[k - 2]).sum(-1)
        np.testing.assert_array_equal(old.assign(points)[k - 2], old.cut(k)[far.argmin(1)])
    np.testing.assert_array_equal(old.finest(points), old.assign(points)[-1])


def test_the_base_cut_is_ordered_by_a_channel(palette: Palette) -> None:
    points, _ = clouds(n=1500)
    for channel in range(2):
        for base in (2, 5, 16):
            number = palette.numbers(base, base, channel)[palette.assign(points)[base - 2]]
            medians = [np.median(points[number == k, channel]) for k in range(1, base + 1)]
            assert (np.diff(medians) >= 0).all()


@given(st.integers(1, 16), st.integers(2, 16))
@settings(max_examples=80, deadline=None)
def test_numbers_run_from_one_and_stay_where_they_can(k: int, base: int) -> None:
    palette = _PALETTE
    number = palette.numbers(k, base)
    assert sorted(number[number > 0]) == list(range(1, k + 1))
    assert set(np.flatnonzero(number)) == set(palette.cut(k))
    if k > 1:
        before = palette.numbers(k - 1, base)
        kept = np.intersect1d(palette.cut(k), palette.cut(k - 1))
        # one token splits; at most one more gives its number up, so that no hole is left
        moved = (before[kept] != number[kept]).sum()
        assert moved <= (0 if k > base else 1)


def test_more_tokens_than_the_base_leave_the_base_alone(palette: Palette) -> None:
    base = palette.numbers(6, 6)
    for k in range(6, 17):
        number = palette.numbers(k, 6)
        for node in np.intersect1d(palette.cut(6), palette.cut(k)):
            assert number[node] == base[node]


def test_colours_are_colours_and_differ(palette: Palette) -> None:
    assert palette.colours.shape == (31, 3)
    assert palette.colours.min() >= 0
    assert palette.colours.max() <= 1
    assert len(np.unique(np.round(palette.colours[: palette.size], 2), axis=0)) > 8


def test_few_different_points_give_few_tokens() -> None:
    points = np.repeat(np.eye(3, dtype=np.float32), 50, axis=0)
    palette = drain(fit_palette_steps(points, points[:, :1].T, count=40))
    assert palette.size == 3
    one = drain(fit_palette_steps(np.ones((60, 2)), np.ones((1, 60))))
    assert one.size == 1
    assert one.assign(np.ones((4, 2), np.float32)).shape == (0, 4)


def test_palettes_come_apart_and_together(palette: Palette) -> None:
    again = Palette.from_arrays(palette.to_arrays())
    points = np.random.default_rng(5).normal(0, 6, (50, 6)).astype(np.float32)
    np.testing.assert_array_equal(again.assign(points), palette.assign(points))
    np.testing.assert_array_equal(again.numbers(5, 9), palette.numbers(5, 9))
    with pytest.raises(KeyError):
        Palette.from_arrays({})


def test_bad_points_are_refused() -> None:
    with pytest.raises(ValueError, match="are needed"):
        drain(fit_palette_steps(np.full((60, 2), np.nan), np.ones((1, 60))))
    with pytest.raises(ValueError, match="are needed"):
        drain(fit_palette_steps(np.ones((60, 2)), np.ones((1, 50))))


_PALETTE: Palette = drain(
    fit_palette_steps(clouds(n=600)[0], clouds(n=600)[0][:, :2].T, count=16, seed=3, replicates=0)
)
