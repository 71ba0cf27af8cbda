"""Estimates of time that learn from trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from napari_btn.core.training.plan import Estimate
from napari_btn.widgets.denoise.pace import Pace

if TYPE_CHECKING:
    from pathlib import Path

ESTIMATE = Estimate(20.0, 10**9, "About 20 s and 1.0 GB on 2 CPU cores")


def test_an_estimate_follows_what_trainings_took(tmp_path: Path) -> None:
    pace = Pace(tmp_path / "cache" / "pace.json")
    assert pace.corrected(ESTIMATE, "cpu") is ESTIMATE
    pace.learn(20.0, 100.0, "cpu")
    assert pace.corrected(ESTIMATE, "cpu").seconds == pytest.approx(100)
    assert pace.corrected(ESTIMATE, "cpu").note == (
        "About 2 min, judging by earlier trainings on this machine, and 1.0 GB on 2 CPU cores"
    )
    pace.learn(20.0, 25.0, "cpu")
    # the geometric mean of 5 and 1.25
    assert pace.corrected(ESTIMATE, "cpu").seconds == pytest.approx(50)
    assert pace.corrected(ESTIMATE, "cuda") is ESTIMATE
    assert Pace(pace.path).corrected(ESTIMATE, "cpu").seconds == pytest.approx(50)


def test_nonsense_is_not_learned(tmp_path: Path) -> None:
    pace = Pace(tmp_path / "pace.json")
    for took in (0.0, 1e6):
        pace.learn(20.0, took, "cpu")
    assert not pace.path.exists()
    pace.path.write_text("[1]")
    assert Pace(pace.path).corrected(ESTIMATE, "cpu") is ESTIMATE
