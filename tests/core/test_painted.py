"""Painted areas: what is painted 1 trains, 2 calibrates, 3 reports, and nothing else counts."""

from __future__ import annotations

import numpy as np
import pytest

import napari_btn as btn

TINY = {
    "members": 1,
    "train": btn.TrainSettings(steps=3, batch_size=2, patch_px=16),
    "network": btn.NetworkSettings(depth=2, max_dilation=1),
}


@pytest.fixture(scope="module")
def pair():
    return btn.samples.edx(seed=0, size=(64, 150))


@pytest.fixture(scope="module")
def labels():
    painted = np.zeros((64, 150), int)
    painted[4:60, :50] = 1
    painted[:, 70:105] = 2
    painted[10:50, 120:] = 3
    return painted


def spoilt(pair, labels, kept):
    """The clean image with nonsense wherever nothing is to be looked at."""
    clean = pair.clean.copy()
    clean[:, ~np.isin(labels, kept)] = 1e6
    return clean


def test_only_painted_pixels_count(pair, labels, tmp_path):
    denoiser = btn.Denoiser(**TINY)
    denoiser.fit(pair.noisy, spoilt(pair, labels, (1, 2, 3)), axes="CYX", regions=labels)
    assert (denoiser.report.width < 1e3).all()
    held = denoiser.held_out
    assert set(labels[tuple(held.position[:, 1:].T)]) == {2}
    reported = denoiser.model.scores.reported
    assert set(labels[tuple(reported.position[:, 1:].T)]) == {3}
    assert denoiser.report.n_pixels == (labels == 3).sum()
    denoiser.save(tmp_path / "a.btn")
    loaded = btn.load(tmp_path / "a.btn").calibrate(alpha=0.3)
    denoiser.calibrate(alpha=0.3)
    np.testing.assert_array_equal(loaded.report.coverage, denoiser.report.coverage)
    assert loaded.report.n_pixels == (labels == 3).sum()


def test_without_a_painted_report_it_is_cross_fitted(pair, labels):
    denoiser = btn.Denoiser(**TINY)
    denoiser.fit(pair.noisy, pair.clean, axes="CYX", regions=np.where(labels == 3, 0, labels))
    assert denoiser.report.n_pixels == (labels == 2).sum()


def test_valid_narrows_what_is_painted(pair, labels):
    valid = np.ones((64, 150), bool)
    valid[:32] = False
    denoiser = btn.Denoiser(**TINY)
    denoiser.fit(pair.noisy, pair.clean, axes="CYX", regions=labels, valid=valid)
    assert denoiser.report.n_pixels == ((labels == 3) & valid).sum()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x[:, :100], "Paint a layer of that shape"),
        (lambda x: np.where(x == 2, 0, x), "painted 2"),
        (lambda x: np.where(x == 0, 1, x), "Erase a strip"),
    ],
)
def test_what_is_wrong_with_the_paint_is_said_before_training(pair, labels, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        btn.Denoiser(**TINY).check(pair.noisy, pair.clean, axes="CYX", regions=change(labels))
