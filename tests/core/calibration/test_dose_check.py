"""The test of a stated dose: how often it notes a right one, and how often a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import gamma

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.dose import Dose
from napari_btn.core.calibration.dose_check import DOSE_LEVEL, dose_notes

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SHAPE, RATE, FAST = 3.0, 6.0, 2.0  # signals are Gamma(3, 1/6), scanned at 2 counts per unit
BLOCKS, PIXELS = 25, 150
TABLE = gamma.ppf(np.asarray(LEVELS)[:, None], SHAPE + np.arange(30), scale=1 / (RATE + FAST))


def part(pixels, rng, spread):
    """Quantiles (L, 1, n) and signals (1, n) of pixels whose predictions are all off by the same random factor."""
    signal = rng.gamma(SHAPE, 1 / RATE, pixels)
    q = TABLE[:, np.minimum(rng.poisson(FAST * signal), 29)]
    return (q * np.exp(spread * rng.normal())).astype(np.float32)[:, None], signal.astype(np.float32)[None]


def held_out(rng, spread):
    rows = [part(PIXELS, rng, spread) for _ in range(BLOCKS)]
    q, signal = (np.concatenate(arrays, -1) for arrays in zip(*rows, strict=True))
    return HeldOut(q, signal, np.repeat(np.arange(BLOCKS), PIXELS), LEVELS)


def noted(stated, *, true=None, spread=0.1, pixels=PIXELS, draws=200, seed=0):
    """Share of windows with a note at a stated dose; each with held-out blocks of its own."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(draws):
        known = held_out(rng, spread)
        q, signal = part(pixels, rng, spread)
        values = np.stack([(true or stated).simulate(signal[0], 0, rng)])
        found += bool(dose_notes(known, stated, q, values, ("signal",)))
    return found / draws


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("pixels", [PIXELS // 4, PIXELS, 6 * PIXELS])
def test_a_right_dose_is_noted_as_rarely_as_stated(spread, pixels):
    # factors of two are common where predictions of a block are off together by 0.5, which blocks show
    draws = 200
    most = DOSE_LEVEL + 3 * np.sqrt(DOSE_LEVEL * (1 - DOSE_LEVEL) / draws)
    assert noted(Dose((10.0,), (1.0,)), spread=spread, pixels=pixels, draws=draws) <= most


@pytest.mark.parametrize(("spread", "factor"), [(0.0, 1.4), (0.0, 0.7), (0.1, 1.8), (0.1, 0.6)])
def test_a_wrong_dose_within_a_factor_of_two_is_noted(spread, factor):
    stated = Dose((10.0,), (1.0,))
    assert noted(stated, true=stated.times(factor), spread=spread, draws=60) >= 0.9


@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_a_wrong_dwell_of_values_in_the_units_of_the_maps_is_noted_by_their_scatter(factor):
    # the dwell cancels in such values: their mean fits the prediction whatever it was
    stated, true = Dose((2.0,), (0.5,)), Dose((2.0 * factor,), (0.5 / factor,))
    assert noted(stated, true=true, spread=0.05, pixels=4 * PIXELS, draws=60) >= 0.9


def test_few_blocks_or_counts_say_nothing():
    rng = np.random.default_rng(0)
    known = held_out(rng, 0.1)
    q, signal = part(PIXELS, rng, 0.1)
    dose = Dose((10.0,), (1.0,))
    wrong = 3 * dose.simulate(signal, 0, rng)
    assert dose_notes(known, dose, q, wrong, ("signal",))
    assert not dose_notes(known.take(known.block == 0), dose, q, wrong, ("signal",))
    assert not dose_notes(known, Dose((0.01,), (1.0,)), q, 0 * wrong, ("signal",))
    assert not dose_notes(known, dose, q, np.nan * wrong, ("signal",))


def test_the_note_says_what_came_what_was_expected_and_what_to_do():
    rng = np.random.default_rng(0)
    known = held_out(rng, 0.1)
    q, signal = part(PIXELS, rng, 0.1)
    (note,) = dose_notes(
        known, Dose((10.0,), (1.0,)), q, 3.0 * Dose((10.0,), (1.0,)).simulated(signal), ("Fe",)
    )
    assert note.level == "amber"
    assert note.text.startswith("Fe has ")
    assert "99 of 100 windows like the held-out blocks" in note.text
    assert "Check dose and gain" in note.text
