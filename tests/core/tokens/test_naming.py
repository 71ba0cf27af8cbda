"""Groups of tokens by morphology and by chemistry: independent, and the same in every cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_btn.core.tokens.clustering import fit_palette_steps
from napari_btn.core.tokens.naming import Naming
from napari_btn.core.tokens.tokens import Tokens


def _drain(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _tokens() -> Tokens:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=4, size=(10, 3))
    points = (centres[rng.integers(0, 10, 900)] + 0.2 * rng.normal(size=(900, 3))).astype(np.float32)
    palette = _drain(fit_palette_steps(points, points.T.copy(), count=10, replicates=1))
    nodes = palette.assign(points).reshape(-1, 30, 30)
    return Tokens(palette, nodes, 6, 1, "YX", channel_names=("a", "b", "c"))


TOKENS = _tokens()


@given(st.integers(2, 10), st.integers(2, 10), st.sets(st.integers(1, 10), min_size=1))
@settings(max_examples=60, deadline=None)
def test_groups_hold_for_finer_cuts_and_come_back(k, other, numbers):
    tokens, other = TOKENS.cut(k), TOKENS.cut(other)
    numbers = {n for n in numbers if n <= k}
    named = Naming("morphology").assigned(tokens, numbers, "grain")
    assert named.names(tokens) == dict.fromkeys(sorted(numbers), "grain")
    # a token of another cut has the name exactly where its larger part has it
    leaves = TOKENS.palette.leaves
    inside = np.zeros(leaves.shape[1], bool)
    for n in numbers:
        inside |= leaves[tokens.identities[n - 1]]
    for n in range(1, other.k + 1):
        assert (n in named.names(other)) == bool(inside[other.lineages[n - 1]])
    assert named.assigned(tokens, numbers, "").of_leaf == {}


def test_two_points_of_view_know_nothing_of_each_other():
    shape = Naming("morphology").assigned(TOKENS, [1, 2], "grain").assigned(TOKENS, [3], "pore")
    phase = Naming("chemistry").assigned(TOKENS, [2, 3], "iron-rich")
    assert shape.column(TOKENS).tolist() == ["grain", "grain", "pore", "", "", ""]
    assert phase.column(TOKENS).tolist() == ["", "iron-rich", "iron-rich", "", "", ""]
    labels, names = shape.labels(TOKENS)
    assert names == ("grain", "pore")
    np.testing.assert_array_equal(labels == 1, np.isin(TOKENS.labels, (1, 2)))
    np.testing.assert_array_equal(labels == 2, TOKENS.labels == 3)


@pytest.mark.parametrize("number", [0, 7])
def test_other_tokens_are_refused(number):
    with pytest.raises(ValueError, match="1 to 6"):
        Naming("chemistry").assigned(TOKENS, [number], "x")


def test_a_token_that_merges_two_groups_is_in_that_of_its_larger_part():
    for k in range(2, 10):
        fine, coarse = TOKENS.cut(k + 1), TOKENS.cut(k)
        named = Naming("morphology")
        for number in range(1, k + 2):
            named = named.assigned(fine, [number], f"group {number}")
        # with numbers that follow the tree, token k + 1 is the smaller part of a split
        assert named.names(coarse) == {n: f"group {n}" for n in range(1, k + 1)}
