"""The interval of coverage says of which fields it speaks, and holds for those."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import norm

from napari_btn.core.calibration.cases import FIELDS, HeldOut
from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.evaluation.report import Judged, Report, report_on
from napari_btn.core.settings import CalibrationSettings

LEVELS = (0.05, 0.5, 0.95)
SD = 0.1


def fields(seed, n, pixels=400, sd=SD):
    """Errors of fields whose noise scale varies; one field alone comes in 60 blocks."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(0, sd, (n, 1)))
    target = (rng.normal(size=(n, pixels)) * scale).reshape(1, -1).astype(np.float32)
    quantiles = np.stack([np.full_like(target, norm.ppf(level)) for level in LEVELS])
    block = np.repeat(np.arange(n), pixels) if n > 1 else np.arange(pixels) * 60 // pixels
    return HeldOut(quantiles, target, block, LEVELS, blocks=FIELDS if n > 1 else "blocks of 16 px")


def report_of(data, **settings):
    calibration = calibrate(data, settings=CalibrationSettings(**settings))
    return calibration, report_on(Judged(data, *cross_fitted(data, calibration)), alpha=0.1)


def true_coverage(calibration):
    """Coverage over endless fresh fields."""
    scale = np.exp(SD * norm.ppf((np.arange(1000) + 0.5) / 1000))
    upper, lower = norm.ppf(0.95) + calibration.offset_upper, norm.ppf(0.05) - calibration.offset_lower
    return np.mean(norm.cdf(upper / scale) - norm.cdf(lower / scale))


def times_held(n, sets=100, pixels=400, **settings):
    held = 0
    for seed in range(sets):
        calibration, report = report_of(fields(seed, n, pixels), **settings)
        held += report.coverage_low[0] <= true_coverage(calibration) <= report.coverage_high[0]
    return held


@pytest.mark.parametrize(("n", "unit"), [(9, "auto"), (20, "auto"), (20, "block"), (60, "auto")])
def test_the_interval_of_fields_like_these_holds_the_truth(n, unit):
    assert times_held(n, unit=unit) >= 88


def test_the_interval_of_one_field_says_little_of_others_and_says_so():
    assert times_held(1, pixels=24_000) < 60
    report = report_of(fields(0, 1))[1]
    assert report.scope == "this field"
    assert "says nothing" in report.beyond


def test_variation_between_fields_is_reported():
    data = fields(3, 12)
    report = report_of(data)[1]
    assert report.scope == "fields like these"
    assert report.beyond == ""
    assert report.field_coverage.shape == (1, 12)
    spread, least, most = report.between_fields[0]
    assert least == report.field_coverage.min() < report.coverage[0] < most
    assert spread == pytest.approx(report.field_coverage.std(ddof=1))
    again = Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert again.scope == report.scope
    np.testing.assert_array_equal(again.field_coverage, report.field_coverage)
    assert report_of(fields(3, 4))[1].scope == "these fields"
    one = report_of(fields(3, 1))[1]
    assert one.field_coverage.size == 0
    assert np.isnan(one.between_fields).all()


def test_reports_of_earlier_bundles_name_their_blocks():
    values = report_of(fields(0, 1))[1].to_dict()
    del values["blocks"], values["field_coverage"]
    assert Report.from_dict(values | {"block_px": 16}).blocks == "blocks of 16 px"
    assert Report.from_dict(values | {"block_px": 0}).blocks == "fields"


def test_coverage_by_image_of_one_field_is_coverage_by_block():
    for data, words in (
        (fields(0, 1), "90 % of new blocks of 16 px of this field"),
        (fields(0, 40), "of new images"),
    ):
        calibration = report_of(data, unit="image")[0]
        assert words in calibration.caption()
        assert bool(calibration.notes) == (words != "of new images")
    one = report_of(fields(0, 1), unit="risk")[0].caption()
    assert "over this field, with a probability of 90 %, if its blocks were independent;" in one
    assert "one field" not in report_of(fields(0, 40), unit="block")[0].caption()
