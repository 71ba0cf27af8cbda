"""Coverage by predicted and by true value."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn.core.calibration.blocks import blocks_of, effective_blocks
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.evaluation.by_value import BIN_NAMES, ByValue
from napari_btn.core.evaluation.report import Judged, Report, report_on

LEVELS = (0.05, 0.5, 0.95)


def judged(target, median, half_width, block) -> Judged:
    """Return intervals of one width around the median."""
    quantiles = np.stack([median - half_width, median, median + half_width]).astype(np.float32)
    return Judged(HeldOut(quantiles, target.astype(np.float32), block, LEVELS), *quantiles)


def rare_phase(seed: int, *, n_blocks: int = 40, touched: int = 40) -> Judged:
    """Return a field in which 2 % of the pixels are bright, predicted at half of their brightness."""
    rng = np.random.default_rng(seed)
    block = np.repeat(np.arange(n_blocks), 500)
    median = rng.uniform(0, 1, size=(1, block.size))
    bright = (np.arange(block.size) % 500 < 10 * n_blocks // touched) & (block < touched)
    target = median + rng.normal(0, 0.1, size=median.shape)
    median[:, bright], target[:, bright] = 1.5, rng.uniform(3, 3.1, size=bright.sum())
    return judged(target, median, 0.18, block)


def test_each_bin_counts_its_own_pixels():
    rng = np.random.default_rng(0)
    value = rng.permutation(1000).astype(np.float64)[None]
    miss = rng.random((1, 1000)) < 0.3
    found = ByValue.of(value, miss, np.arange(1000) // 50)
    order = np.argsort(value[0])
    for at, part in enumerate([*np.split(order, 5), order[950:], order[990:]]):
        assert found.coverage[0, at] == pytest.approx(1 - miss[0, part].mean()), BIN_NAMES[at]
        assert found.share[0, at] == pytest.approx(len(part) / 1000)
        assert found.blocks[0, at] == pytest.approx(effective_blocks((np.arange(1000) // 50)[part]))
        assert (value[0, part] > found.edge[0, at]).sum() >= len(part) - 1


def test_a_channel_of_few_values_has_empty_bins_and_no_error():
    value = np.repeat([0.0, 1.0, 5.0], [700, 280, 20])[None]
    found = ByValue.of(value, value > 4, np.arange(1000) // 50)
    np.testing.assert_allclose(found.share[0, :5].sum(), 1)
    np.testing.assert_allclose(found.coverage[0, [0, 5]], [1, 0])
    assert np.isnan(found.coverage[0, 1])
    assert ByValue.of(np.zeros((1, 100)), np.zeros((1, 100), bool), np.zeros(100, int)).least() == (0, 0)
    assert ByValue().least() is None


def test_a_rare_phase_that_is_missed_is_named_although_the_average_holds():
    report = report_on(rare_phase(0), alpha=0.1, channel_names=("Fe",))
    assert report.coverage[0] > 0.89
    at = report.by_true.least()
    assert at == (0, 6)
    assert report.by_true.coverage[at] == 0
    assert (
        report.by_true.words(("Fe",), *at) == f"Fe above {report.by_true.edge[at]:.3g} (brightest 1 %): 0 %"
    )
    (note,) = report.warnings
    assert note.level == "amber"
    assert "by true value, Fe above" in note.text
    assert "no method can promise" in note.text


def test_a_bin_in_too_few_blocks_is_said_to_be_hardly_known_and_gives_no_note():
    report = report_on(rare_phase(0, touched=2), alpha=0.1, channel_names=("Fe",))
    at = report.by_true.least()
    assert report.by_true.coverage[at] == 0
    assert report.by_true.words(("Fe",), *at).endswith("(worth only 2 blocks)")
    assert "1 %): 0 %" not in "".join(note.text for note in report.warnings)


def test_intervals_that_hold_everywhere_give_no_note_on_predicted_values():
    """Thirty correlated fields of 24 blocks, as a sample of 256 x 512 px holds out."""
    noted = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        error, signal = (gaussian_filter(rng.normal(size=(1, 96, 144)), (0, s, s)) for s in (1.5, 6))
        error, signal = error / error.std(), signal / signal.std()
        block = blocks_of(np.ones((1, 96, 144), bool), 24)[0].ravel()
        made = judged((3 * signal + error).reshape(1, -1), 3 * signal.reshape(1, -1), 1.645, block)
        report = report_on(made, alpha=0.1)
        noted += any("by predicted value" in note.text for note in report.warnings)
    assert noted <= 3


@pytest.mark.parametrize("covers", ["replicate", "masked pixel", "thinned counts"])
def test_a_noisy_target_is_no_truth(covers):
    judged = rare_phase(0)
    target = judged.held_out.target
    observed = target + np.random.default_rng(0).normal(0, 1, target.shape).astype(np.float32)
    seen = replace(judged, held_out=replace(judged.held_out, observed=observed))
    assert np.isfinite(report_on(seen, alpha=0.1, covers="long exposure").width_ratio).all()
    report = report_on(seen, alpha=0.1, covers=covers)
    assert report.by_true.least() is None
    # the noisy image would be judged by its own values, or by others as noisy
    assert np.isnan(report.width_ratio).all()
    assert report.by_predicted.coverage.shape == (1, 7)


def test_the_report_keeps_it_and_older_reports_load():
    report = report_on(rare_phase(1), alpha=0.1)
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    again = Report.from_dict(values)
    assert again.to_dict() == report.to_dict()
    assert again.by_true.edge.shape == (1, 7)
    older = {k: v for k, v in values.items() if k not in ("by_true", "by_predicted")}
    assert Report.from_dict(older).by_true.least() is None
    empty = replace(report, by_true=ByValue())
    assert Report.from_dict(empty.to_dict()).by_true.coverage.shape == (0, 7)
