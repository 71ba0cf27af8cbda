"""A prediction gives calibrated probabilities, bounds and selections in its own axes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from napari_btn.core.cases import HeldOut
from napari_btn.core.exceedance import exceedance_from
from napari_btn.core.predict import Prediction

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
Z = norm.ppf(LEVELS).astype(np.float32)


def prediction(shape=(2, 40, 60), axes="CYX"):
    """Standard normal errors around a known centre, and a held-out set of the same kind."""
    rng = np.random.default_rng(0)
    centre = rng.normal(size=shape).astype(np.float32)
    quantiles = centre + Z.reshape(-1, *([1] * len(shape)))
    n = 40_000
    held = np.broadcast_to(Z[:, None, None], (7, 2, n)).copy()
    held_out = HeldOut(held, rng.normal(size=(2, n)).astype(np.float32), np.arange(n) // 400, LEVELS)
    return Prediction(
        quantiles[0],
        centre,
        quantiles[-1],
        np.zeros_like(centre),
        quantiles,
        LEVELS,
        axes,
        ("Si", "Fe"),
        None,
        "px",
        0.1,
        "clean",
        distribution=exceedance_from(held_out),
        held_out=held_out,
    )


def test_exceedance_is_that_of_the_distribution():
    made = prediction()
    p = made.exceedance(0.3, channel="Fe")
    assert p.shape == (40, 60)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p, 1 - norm.cdf(0.3 - made.median[1]), atol=0.05)
    np.testing.assert_array_equal(p, made.exceedance(0.3, 1))
    assert (made.exceedance(0.3, 1, side="conservative") <= p).all()


@pytest.mark.parametrize(
    ("shape", "axes", "left"), [((3, 2, 9, 8), "SCYX", (3, 9, 8)), ((9, 8, 2), "YXC", (9, 8))]
)
def test_the_channel_axis_goes_and_the_others_stay(shape, axes, left):
    assert prediction(shape, axes).exceedance(0.0, "Si").shape == left
    assert prediction(shape, axes).lower_bound(0.75, "Si").shape == left


def test_one_channel_without_an_axis():
    made = replace(prediction((9, 8), "YX"), channel_names=("0",))
    assert made.exceedance(0.0).shape == (9, 8)


def test_a_bound_above_the_threshold_is_a_claim_at_that_confidence():
    made = prediction()
    above = made.lower_bound(0.75, "Si") > 0.3
    assert (made.exceedance(0.3, "Si", side="conservative")[above] >= 0.75 - 1e-3).all()


def test_a_selection_says_what_is_true_of_it():
    chosen = prediction().select(0.3, "Si", level=0.2)
    assert chosen.mask.shape == (40, 60)
    assert "at most 0.2" in chosen.caption


def test_what_is_missing_is_said():
    made = prediction()
    with pytest.raises(ValueError, match="Si, Fe"):
        made.exceedance(0.3, "Al")
    with pytest.raises(ValueError, match="Si, Fe"):
        made.exceedance(0.3, 2)
    with pytest.raises(ValueError, match="at least two levels"):
        replace(made, distribution=None).exceedance(0.3)
    with pytest.raises(ValueError, match="held-out"):
        replace(made, held_out=None).select(0.3)
