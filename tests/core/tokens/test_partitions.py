"""Agreement of labellings, and numbers that match."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from napari_btn.core.tokens.clustering import adjusted_rand, aligned


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_agreement_is_the_adjusted_rand_index(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, m, 60), rng.integers(0, n, 60)
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))


@given(st.integers(0, 10_000), st.integers(2, 7))
@settings(max_examples=50, deadline=None)
def test_alignment_undoes_a_renumbering(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, n, 200)
    shuffled = np.concatenate([[0], rng.permutation(np.arange(1, n)) + 3])[reference]
    np.testing.assert_array_equal(aligned(shuffled, reference), reference)
    finer = np.where((reference == 1) & (rng.random(200) < 0.1), n + 5, reference)
    back = aligned(finer, reference)
    assert adjusted_rand(back, finer) == pytest.approx(1)
    assert (back == reference).mean() > 0.7


def test_labellings_of_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match="same places"):
        adjusted_rand([1, 2], [1])
