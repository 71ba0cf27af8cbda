"""Agreement of labellings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from napari_btn.core.tokens.clustering import adjusted_rand


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_agreement_is_the_adjusted_rand_index(seed: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, m, 60), rng.integers(0, n, 60)
    assert adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))


def test_labellings_of_other_places_are_refused() -> None:
    with pytest.raises(ValueError, match="same places"):
        adjusted_rand([1, 2], [1])
