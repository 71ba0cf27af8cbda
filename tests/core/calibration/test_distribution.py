"""A distribution through quantiles: monotone, within 0 and 1, and its own inverse."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from napari_btn.core.calibration import distribution
from napari_btn.core.calibration.distribution import cdf, cdf_rows, density, mean, ppf

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

planes = hnp.arrays(
    np.float32, (len(LEVELS), 3, 5), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
)


@given(quantiles=planes, thresholds=st.lists(st.floats(-1100, 1100, width=32), min_size=2, max_size=6))
def test_monotone_in_the_threshold_and_within_0_and_1(quantiles, thresholds):
    quantiles = np.sort(quantiles, axis=0)
    maps = [cdf(quantiles, LEVELS, t) for t in sorted(thresholds)]
    for low, high in pairwise(maps):
        assert (high >= low - 1e-6).all()
    assert np.min(maps) >= 0
    assert np.max(maps) <= 1


def test_passes_through_the_levels():
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(7, 9, 11)), axis=0).astype(np.float32)
    for plane, level in zip(quantiles, LEVELS, strict=True):
        np.testing.assert_allclose(cdf(quantiles, LEVELS, plane), level, atol=1e-6)
        np.testing.assert_allclose(ppf(quantiles, LEVELS, level), plane, atol=1e-6)


@given(level=st.floats(0.001, 0.999))
def test_the_inverse_is_the_inverse(level):
    quantiles = np.cumsum(np.random.default_rng(0).uniform(0.5, 2, size=(7, 4, 3)), axis=0).astype(np.float32)
    np.testing.assert_allclose(cdf(quantiles, LEVELS, ppf(quantiles, LEVELS, level)), level, atol=2e-5)


def test_a_table_is_read_at_the_probability(monkeypatch):
    monkeypatch.setattr(distribution, "CHUNK", 7)
    rng = np.random.default_rng(1)
    quantiles = np.sort(rng.normal(size=(7, 9, 11)), axis=0).astype(np.float32)
    table = rng.normal(size=33).astype(np.float32)
    for t in (-9.0, 0.1, 9.0):
        place = np.minimum(np.float32(32) * cdf(quantiles, LEVELS, t), 32).astype(int)
        np.testing.assert_array_equal(cdf(quantiles, LEVELS, t, table=table), table[place])


def test_the_ends_of_the_inverse_are_infinite():
    quantiles = np.arange(7, dtype=np.float32)[:, None]
    assert np.isneginf(ppf(quantiles, LEVELS, 0)).all()
    assert np.isposinf(ppf(quantiles, LEVELS, 1)).all()


def test_close_to_a_normal_distribution():
    quantiles = norm.ppf(LEVELS).astype(np.float32)[:, None]
    for t in np.linspace(-3, 3, 13):
        assert cdf(quantiles, LEVELS, t)[0] == pytest.approx(norm.cdf(t), abs=0.03)


def test_levels_that_coincide_make_a_jump():
    quantiles = np.full((7, 4), 2.0, np.float32)
    assert (cdf(quantiles, LEVELS, 1.9) == 0).all()
    assert (cdf(quantiles, LEVELS, 2.1) == 1).all()
    np.testing.assert_array_equal(ppf(quantiles, LEVELS, 0.01), 2)


def test_chunks_leave_no_trace(monkeypatch):
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(7, 13, 17)), axis=0).astype(np.float32)
    value = rng.normal(size=(13, 17))
    whole = cdf(quantiles, LEVELS, value)
    monkeypatch.setattr(distribution, "CHUNK", 7)
    np.testing.assert_array_equal(whole, cdf(quantiles, LEVELS, value))


@pytest.mark.parametrize("chunk", [1, 30, 10_000])
@pytest.mark.parametrize("table", [None, np.linspace(1, 0, 33, dtype=np.float32)])
def test_many_thresholds_at_once_give_the_bits_of_each(monkeypatch, chunk, table):
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.normal(size=(7, 13)), axis=0).astype(np.float32)
    quantiles[:, 5], quantiles[:, 7] = np.nan, 0.5
    values = np.append(rng.normal(size=11), [0.5, -50.0, 50.0])
    wanted = [cdf(quantiles, LEVELS, value, table=table) for value in values]
    monkeypatch.setattr(distribution, "CHUNK", chunk)
    rows = [row.copy() for row in cdf_rows(quantiles, LEVELS, values, table=table)]
    np.testing.assert_array_equal(rows, wanted)


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        cdf(np.zeros((1, 3)), (0.5,), 0)
    with pytest.raises(ValueError, match="one plane per level"):
        ppf(np.zeros((3, 3)), (0.1, 0.9), 0.5)


@given(quantiles=planes)
def test_density_holds_99_percent_and_is_finite(quantiles):
    one = np.sort(quantiles[:, 0, 0])
    edges, height = density(one, LEVELS)
    assert np.isfinite(edges).all()
    assert np.isfinite(height).all()
    assert (np.diff(edges) >= 0).all()
    assert np.sum(height * np.diff(edges)) <= 0.99 + 1e-6


def test_density_of_a_normal_distribution():
    edges, height = density(norm.ppf(LEVELS), LEVELS)
    assert np.sum(height * np.diff(edges)) == pytest.approx(0.99)
    middle = (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose(height, norm.pdf(middle), atol=0.1)


@pytest.mark.parametrize("levels", [LEVELS, (0.1, 0.9), (0.02, 0.5, 0.6)])
def test_the_mean_is_the_integral_of_the_quantile_function(levels):
    rng = np.random.default_rng(2)
    quantiles = np.sort(rng.normal(size=(len(levels), 5, 3)), axis=0)
    # substituting u = s(v) with a slope of zero at both ends tames the logarithms of the tails
    edges = np.linspace(0, 1, 20_001)
    v = (edges[1:] + edges[:-1]) / 2
    u, slope = v**3 * (10 - 15 * v + 6 * v**2), 30 * v**2 * (1 - v) ** 2
    values = np.stack([ppf(quantiles, levels, one) for one in u], -1).astype(np.float64)
    np.testing.assert_allclose(mean(quantiles, levels), (values * slope).mean(-1), atol=2e-5)


@given(quantiles=planes)
def test_the_mean_agrees_with_probabilities(quantiles):
    # the mean is the integral of P(> t) above the lowest threshold minus that of P(<= t) below it
    one = np.sort(quantiles, axis=0)[:, :1, 0]
    low, high = float(one.min()), float(one.max())
    reach = 60 * max(high - low, 1e-3)
    t = np.linspace(low - reach, high + reach, 40_001)
    above = 1 - np.concatenate(
        [cdf(np.repeat(one, len(part), 1), LEVELS, part) for part in np.split(t[:-1], 40)]
    )
    wanted = t[0] + above.sum() * (t[1] - t[0])
    step = t[1] - t[0]
    assert mean(one, LEVELS)[0] == pytest.approx(wanted, abs=step + 1e-4 * max(abs(low), abs(high), reach))


def test_the_mean_of_skewed_noise_is_unbiased_where_the_median_is_not():
    rng = np.random.default_rng(3)
    # a centred exponential: mean 0, median -0.307
    samples = rng.exponential(size=200_000) - 1
    quantiles = np.quantile(samples, LEVELS)[:, None]
    assert float(quantiles[3, 0]) < -0.29
    # the chords between the levels lie above the convex quantile function by 0.015 in all
    assert mean(quantiles, LEVELS)[0] == pytest.approx(0, abs=0.03)
    assert mean(quantiles[3:4], LEVELS[3:4])[0] == np.float32(quantiles[3, 0])


def test_the_mean_keeps_a_minimum_and_needs_a_plane_per_level():
    quantiles = np.linspace(-1, -0.5, 7)[:, None] * np.ones((7, 4))
    assert (mean(quantiles, LEVELS, minimum=0.0) == 0).all()
    with pytest.raises(ValueError, match="one plane per level"):
        mean(quantiles, LEVELS[:3])
