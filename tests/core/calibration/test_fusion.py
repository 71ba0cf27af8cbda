"""Fusion of a prediction with a new measurement: laws of evidence, coverage, and the axes of windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma, norm

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate, covered
from napari_btn.core.calibration.dose import Dose, dose_of
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.fusion import fuse_steps, measured_again_steps
from napari_btn.core.calibration.posterior import posterior
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.progress import drain
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SHAPE, RATE, FAST = 3.0, 6.0, 2.0  # signals are Gamma(3, 1/6), scanned at 2 counts per unit


def scanned(n, seed, stretch=1.0):
    """Signals, counts of a fast scan, and quantiles given those counts, too narrow or wide by a factor."""
    rng = np.random.default_rng(seed)
    signal = rng.gamma(SHAPE, 1 / RATE, n)
    counts = rng.poisson(FAST * signal)
    q = gamma.ppf(np.asarray(LEVELS)[:, None], SHAPE + counts, scale=1 / (RATE + FAST))
    q = q[3] + stretch * (q - q[3])
    return signal.astype(np.float32), counts.astype(np.float32), q.astype(np.float32)


def held_out(n=20_000, seed=0, stretch=1.0):
    signal, counts, q = scanned(n, seed, stretch)
    return HeldOut(q[:, None], signal[None], np.arange(n) // 100, LEVELS, counts[None])


def predicted(axes="YX", shape=(40, 50), seed=1, stretch=1.0):
    """A prediction of independent pixels, and their signal."""
    channels = shape[axes.index("C")] if "C" in axes else 1
    known = held_out(stretch=stretch)
    known = replace(
        known,
        quantiles=np.repeat(known.quantiles, channels, 1),
        target=np.repeat(known.target, channels, 0),
        observed=np.repeat(known.observed, channels, 0),
    )
    calibration = calibrate(known, settings=CalibrationSettings(unit="pixel"))
    signal, _, q = scanned(int(np.prod(shape)), seed, stretch)
    wide = np.repeat(q[:, None], channels, 1)
    lower, median, upper = (m[0].reshape(shape) for m in calibration.interval(wide))
    prediction = Prediction(
        lower, median, upper, 0 * median, q.reshape(-1, *shape), LEVELS, axes,
        tuple("abcdef"[:channels]), None, "px", 0.1, "clean",
        distribution=exceedance_from(known, "pixel"), held_out=known, calibration=calibration,
    )  # fmt: skip
    return prediction, signal.reshape(shape)


# ---------------------------------------------------------------- the posterior


def test_no_evidence_leaves_the_prediction():
    _, _, q = scanned(500, 0)
    counts = np.zeros(500)
    np.testing.assert_array_equal(posterior(q, LEVELS, counts, Dose((0.0,), (1.0,))), q)
    np.testing.assert_array_equal(posterior(q, LEVELS, counts * np.nan, Dose((5.0,), (1.0,))), q)
    for flat in (Dose((1e-9,), (1.0,)), Dose((1.0,), (1.0,), (1e9,))):
        np.testing.assert_allclose(posterior(q, LEVELS, counts, flat), q, atol=2e-5)


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_overwhelming_counts_are_the_answer_wherever_the_prediction_was(gain):
    _, _, q = scanned(300, 0)
    signal = np.linspace(0.01, 40.0, 300)
    dose = Dose((1e8,), (gain,))
    values = gain * np.random.default_rng(0).poisson(1e8 * signal)
    np.testing.assert_allclose(
        posterior(q, LEVELS, values, dose), np.broadcast_to(values / gain / 1e8, q.shape), rtol=5e-3
    )
    normal = Dose((1.0,), (gain,), (1e-5,))
    np.testing.assert_allclose(
        posterior(q, LEVELS, gain * signal, normal), np.broadcast_to(signal, q.shape), rtol=5e-3
    )


@pytest.mark.parametrize("dose", [0.5, 5.0, 50.0])
def test_the_posterior_is_that_of_bayes_rule(dose):
    signal, counts, q = scanned(4000, 0)
    more = np.random.default_rng(1).poisson(dose * signal)
    found = posterior(q, LEVELS, more, Dose((dose,), (1.0,)))
    exact = gamma.ppf(np.asarray(LEVELS)[:, None], SHAPE + counts + more, scale=1 / (RATE + FAST + dose))
    # seven levels with straight lines between them aren't a gamma distribution
    assert np.abs(found - exact).mean() < 0.03 * (exact[-1] - exact[0]).mean()


def test_normal_noise_and_a_normal_prediction_add_their_precisions():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=2000)
    value = centre + rng.normal(
        0, np.sqrt(0.5), 2000
    )  # the signal differs from the centre, the value from it
    q = (centre + 0.5 * norm.ppf(LEVELS)[:, None]).astype(np.float32)
    found = posterior(q, LEVELS, 3 * value, Dose((1.0,), (3.0,), (1.5,)))
    assert np.abs(found[3] - (centre + value) / 2).mean() < 0.02
    assert abs(np.mean((found[-1] - found[0]) / (2 * norm.ppf(0.95) * 0.5 / np.sqrt(2))) - 1) < 0.05


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-3, 50, width=32), min_size=7, max_size=7),
    st.floats(0, 1e6),
    st.floats(1e-6, 1e6),
    st.floats(1e-3, 1e3),
    st.none() | st.floats(1e-3, 1e3),
)
def test_quantiles_stay_finite_and_never_cross(q, value, dose, gain, sd):
    quantiles = np.sort(np.asarray(q, np.float32))[:, None]
    made = posterior(quantiles, LEVELS, [value], Dose((dose,), (gain,), None if sd is None else (sd,)))
    assert np.isfinite(made).all()
    assert (np.diff(made, axis=0) >= 0).all()


def test_a_certain_prediction_is_not_moved_by_a_little_evidence():
    q = np.full((7, 1), 0.25, np.float32)
    np.testing.assert_allclose(posterior(q, LEVELS, [3], Dose((2.0,), (1.0,))), q, atol=1e-4)


# ---------------------------------------------------------------- a window of a prediction


@pytest.mark.parametrize("stretch", [0.6, 1.0, 1.6])
@pytest.mark.parametrize("dose", [2.0, 20.0])
def test_fused_intervals_cover_as_they_promise(stretch, dose):
    prediction, signal = predicted(shape=(100, 200), stretch=stretch)
    counts = np.random.default_rng(2).poisson(dose * signal)
    fused = prediction.fuse((slice(0, 100), slice(0, 200)), counts, dose=dose)
    inside = (fused.lower <= signal) & (signal <= fused.upper)
    assert 0.88 <= inside.mean() <= 0.92
    assert fused.width.mean() < prediction.width.mean()
    for t in (0.3, 0.6):
        p, truth = fused.exceedance(t), signal > t
        wrong = ((p > 0.5) != truth).mean()
        assert abs(p.mean() - truth.mean()) < 0.015
        assert wrong <= ((prediction.exceedance(t) > 0.5) != truth).mean()
        if stretch == 1:
            # a right prediction and the scan together decide better than the scan, too
            assert wrong < ((counts / dose > t) != truth).mean()
            assert abs(np.minimum(p, 1 - p).mean() / wrong - 1) < 0.1


def test_a_fusion_without_evidence_is_the_prediction():
    prediction, _ = predicted()
    box = (slice(3, 20), slice(5, 30))
    same = prediction.fuse(box, np.zeros((17, 25)), dose=0.0)
    for name in ("lower", "median", "upper", "quantiles"):
        np.testing.assert_allclose(getattr(same, name), getattr(prediction, name), atol=3e-6)
    np.testing.assert_allclose(same.exceedance(0.4), prediction.exceedance(0.4), atol=2e-3)


def test_only_the_measured_pixels_of_the_window_change_and_the_record_says_so():
    prediction, signal = predicted()
    box = (slice(3, 20), slice(5, 30))
    counts = np.random.default_rng(2).poisson(9.0 * signal[box]).astype(float)
    counts[4, 6] = np.nan
    fused = prediction.fuse(box, counts, 1.0, dose=9.0)
    again = prediction.fuse(box, counts, 1.0, dose=9.0)
    measured = np.zeros(signal.shape, bool)
    measured[box] = True
    measured[7, 11] = False
    for name in ("lower", "median", "upper", "quantiles", "width"):
        old, new = getattr(prediction, name), getattr(fused, name)
        np.testing.assert_array_equal(new[..., ~measured], old[..., ~measured])
        assert (new[..., measured] != old[..., measured]).mean() > 0.9
        np.testing.assert_array_equal(new, getattr(again, name))
    assert (fused.lower <= fused.median).all()
    assert (fused.median <= fused.upper).all()
    assert (np.diff(fused.quantiles, axis=0) >= 0).all()
    (record,) = fused.provenance["fused"]
    assert record == {
        "window": [[3, 20], [5, 30]], "scene": 0, "dose": [9.0], "gain": [1.0], "sd": None, "covers": "clean"
    }  # fmt: skip
    assert "fused" not in prediction.provenance
    assert len(again.fuse(box, counts, dose=9.0).provenance["fused"]) == 2


def test_fused_windows_of_replicates_are_said_to_cover_the_clean_signal():
    prediction, signal = predicted()
    box = (slice(0, 40), slice(0, 50))
    counts = np.random.default_rng(2).poisson(20.0 * signal)
    noisy = replace(prediction, covers="replicate")
    once = noisy.fuse(box, counts, dose=20.0)
    (note,) = once.notes
    assert note.level == "red"
    assert (
        f"meant for the clean signal, no longer for {covered('replicate')}; outside they are unchanged"
        in note.text
    )
    assert "may be worse than without the fusion" in note.text
    (longer,) = replace(prediction, covers="long exposure").fuse(box, counts, dose=20.0).notes
    assert longer.level == "amber"
    assert once.covers == "replicate"
    assert once.provenance["fused"][0]["covers"] == "clean"
    assert once.fuse(box, counts, dose=20.0).notes[0] == note
    assert [n.text for n in once.fuse(box, counts, dose=20.0).notes].count(note.text) == 1


@pytest.mark.parametrize("own", [False, True])
def test_the_interval_of_the_clean_signal_in_a_fused_window_is_the_fused_one(own):
    prediction, signal = predicted()
    noisy = replace(
        prediction,
        covers="replicate",
        provenance={"shown": "mean", "target_noise": [0.9]},
        signal_sd=np.ones_like(signal) if own else None,
        stored_mean=np.array(prediction.mean),
    )
    box = (slice(3, 20), slice(5, 30))
    counts = np.random.default_rng(2).poisson(20.0 * signal[box]).astype(float)
    counts[4, 6] = np.nan
    fused = noisy.fuse(box, counts, dose=20.0)
    before, made = noisy.signal_interval(), fused.signal_interval()
    measured = np.zeros(signal.shape, bool)
    measured[box] = True
    measured[7, 11] = False
    for name in ("lower", "upper"):
        # it is of the clean signal already; shrunk by the noise of targets it would hold far too little
        np.testing.assert_array_equal(getattr(made, name)[measured], getattr(fused, name)[measured])
        np.testing.assert_allclose(
            getattr(made, name)[~measured], getattr(before, name)[~measured], rtol=1e-5
        )


@pytest.mark.parametrize(("axes", "shape"), [("YX", (40, 50)), ("XSYC", (50, 2, 40, 2))])
def test_pixels_that_were_fused_before_are_noted(axes, shape):
    prediction, _ = predicted(axes, shape)
    left = tuple({"X": 10, "Y": 10, "C": 2}[a] for a in axes if a != "S")
    nothing = np.zeros(left)
    once = prediction.fuse((slice(0, 10), slice(0, 10)), nothing, dose=0.0)
    beside = once.fuse((slice(0, 10), slice(10, 20)), nothing, dose=0.0)
    assert not beside.notes
    if "S" in axes:
        assert not once.fuse((slice(0, 10), slice(0, 10)), nothing, dose=0.0, scene=1).notes
    (note,) = beside.fuse((slice(0, 10), slice(5, 15)), nothing, dose=0.0).notes
    assert note.level == "amber"
    assert "100 % of the pixels of this window were fused before" in note.text
    (note,) = once.fuse((slice(5, 15), slice(0, 10)), nothing, dose=0.0).notes
    assert "50 % of the pixels" in note.text


def test_a_set_says_that_fused_pixels_are_judged_by_the_scores_of_unfused_ones():
    prediction, signal = predicted()
    fused = prediction.fuse((slice(0, 10), slice(0, 10)), signal[:10, :10], dose=1.0)
    assert "fused" not in prediction.select(0.6, level=0.4).caption
    assert "this share is not theirs" in fused.select(0.6, level=0.4).caption


def test_counts_far_from_the_dose_are_noted():
    prediction, signal = predicted()
    counts = np.random.default_rng(2).poisson(20.0 * signal)
    box = (slice(0, 40), slice(0, 50))
    assert not prediction.fuse(box, counts, dose=20.0).notes
    for wrong in (1.0, 12.0, 30.0):
        (note,) = prediction.fuse(box, counts, dose=wrong).notes
        assert "Check dose and gain" in note.text


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("YXC", (12, 15, 2)), ("SCYX", (3, 2, 12, 15)), ("XYTC", (15, 12, 3, 2)), ("ZYX", (4, 12, 15))],
)
def test_windows_have_the_axes_of_the_maps(axes, shape):
    prediction, signal = predicted(axes, shape)
    scene = 1 if {"S", "T"} & set(axes) else 0
    box = (slice(1, 3),) * ("Z" in axes) + (slice(2, 9), slice(3, 14))
    where = dict(zip([a for a in "ZYX" if a in axes], box, strict=True)) | {
        "C": slice(None),
        "S": scene,
        "T": scene,
    }
    at = tuple(where[a] for a in axes)
    counts = np.random.default_rng(0).poisson(1e6 * signal[at])
    fused = prediction.fuse(box, counts, dose=1e6, scene=scene)
    np.testing.assert_allclose(fused.median[at], counts / 1e6, rtol=0.01, atol=1e-3)
    untouched = np.ones(shape, bool)
    untouched[at] = False
    np.testing.assert_array_equal(fused.median[untouched], prediction.median[untouched])
    for channel in range(len(prediction.channel_names)):
        p = fused.exceedance(0.4, channel)
        here = tuple(i for a, i in zip(axes, at, strict=True) if a != "C")
        truth = counts[tuple(channel if a == "C" else slice(None) for a in axes if a not in "ST")] / 1e6 > 0.4
        assert (np.abs(p[here] - truth) < 0.2).mean() > 0.95
        fixed = {"C": channel} | {a: 1 for a in axes if a in "STZ"}
        cut = tuple(1 if a in "STZ" else slice(None) for a in axes if a != "C")
        np.testing.assert_array_equal(fused.probability(fixed, 0.4), p[cut])
        one = {"C": channel} | {a: 3 if a in "YX" else 1 for a in axes if a != "C"}
        assert fused.probability(one, 0.4) == p[tuple(one[a] for a in axes if a != "C")]
        np.testing.assert_array_equal(fused.bound(fixed, 0.7), fused.lower_bound(0.7, channel)[cut])


def test_channels_have_their_own_dose():
    prediction, signal = predicted("CYX", (2, 12, 15))
    counts = np.random.default_rng(0).poisson(signal * np.array([1e6, 2e5])[:, None, None])
    fused = prediction.fuse((slice(0, 12), slice(0, 15)), counts * 2.0, 2.0, dose=(1e6, 2e5))
    np.testing.assert_allclose(fused.median, signal, rtol=0.05, atol=1e-2)
    with pytest.raises(ValueError, match="each of 2 channels"):
        prediction.fuse((slice(0, 12), slice(0, 15)), counts, dose=(1.0, 2.0, 3.0))


def test_what_doesnt_fit_is_refused():
    prediction, _ = predicted()
    with pytest.raises(ValueError, match="Crop them"):
        prediction.fuse((slice(0, 5), slice(0, 5)), np.zeros((5, 6)))
    with pytest.raises(ValueError, match="inside the image"):
        prediction.fuse((slice(0, 5), slice(0, 500)), np.zeros((5, 500)))
    with pytest.raises(ValueError, match="Predict the image again"):
        replace(prediction, calibration=None).fuse((slice(0, 5), slice(0, 5)), np.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"each of 1 channel\."):
        drain(
            fuse_steps(prediction, (slice(0, 5), slice(0, 5)), np.zeros((5, 5)), Dose((1.0, 1.0), (1.0, 1.0)))
        )


# ---------------------------------------------------------------- the dose


def test_the_dose_of_the_fast_scan_is_found_from_held_out_pixels():
    known = held_out(60_000)
    found = dose_of(known)
    assert abs(found.dose[0] / FAST - 1) < 0.03
    assert abs(found.gain[0] - 1) < 0.03
    amplified = dose_of(replace(known, observed=5 * known.observed))
    assert abs(amplified.gain[0] / 5 - 1) < 0.03
    assert abs(amplified.dose[0] / FAST - 1) < 0.03
    with pytest.raises(ValueError, match="Subtract the offset"):
        dose_of(replace(known, observed=known.observed + 100))
    with pytest.raises(ValueError, match="give the dose"):
        dose_of(replace(known, observed=None))


def test_a_longer_dwell_has_more_counts():
    assert Dose((2.0, 0.5), (1.0, 3.0)).times(10) == Dose((20.0, 5.0), (1.0, 3.0))
    assert Dose((2.0,), (1.0,), (3.0,)).times(4) == Dose((8.0,), (1.0,), (6.0,))
    for wrong in ({"dose": (-1.0,)}, {"gain": (0.0,)}, {"sd": (0.0,)}, {"gain": (1.0, 1.0)}):
        with pytest.raises(ValueError, match="must be"):
            Dose(**{"dose": (1.0,), "gain": (1.0,)} | wrong)


def test_simulated_measurements_of_held_out_pixels_are_the_same_each_time():
    known = held_out(2000)
    dose = Dose((10.0,), (1.0,))
    one, two = (drain(measured_again_steps(known, dose)) for _ in range(2))
    np.testing.assert_array_equal(one.quantiles, two.quantiles)
    np.testing.assert_array_equal(
        drain(measured_again_steps(known, dose.times(0))).quantiles, known.quantiles
    )


def test_enough_blocks_are_kept_for_intervals_of_each_side():
    rng = np.random.default_rng(0)
    n = 45 * 1500
    signal = rng.uniform(1, 2, n)
    q = (signal + rng.normal(0, 0.2, n) + 0.2 * norm.ppf(LEVELS)[:, None]).astype(np.float32)
    known = HeldOut(q[:, None], signal[None].astype(np.float32), np.arange(n) // 1500, LEVELS)
    again = drain(measured_again_steps(known, Dose((1.0,), (1.0,))))
    assert 39 <= again.n_blocks < 45
    how = CalibrationSettings(unit="block", score="asymmetric")
    assert np.isfinite(calibrate(again, alpha=0.05, settings=how).interval(q[:, None, :9])).all()
