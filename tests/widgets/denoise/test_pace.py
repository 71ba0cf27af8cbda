"""Estimates of time that learn from trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from napari_btn.core.training.plan import Estimate
from napari_btn.widgets.denoise.pace import Pace, busy_note
from napari_btn.widgets.shared import engine

if TYPE_CHECKING:
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget

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


def test_a_training_that_is_stopped_teaches_what_its_first_steps_took(
    ready: DenoiseWidget, steps: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "estimate_training", lambda *_, **__: ESTIMATE)
    monkeypatch.setattr("os.getloadavg", lambda: (1e3, 0.0, 0.0), raising=False)
    steps.updates, steps.pause_s = 400, 0.02
    qtbot.waitUntil(lambda: ready.view.train.isEnabled() and not ready.lifetime.runs)
    ready.view.form.members.setValue(3)
    assert "About 20 s" in ready.view.estimate.text()
    assert "The processor is busy now" in ready.view.estimate.text()
    ready.view.train.click()
    qtbot.waitUntil(lambda: ready.work.run is not None and ready.work.run.expected_s is not None)
    ready.view.stop.click()
    qtbot.waitUntil(lambda: not ready.busy)
    assert steps.updated < 400
    assert Pace().corrected(ESTIMATE, "cpu").seconds >= 400 * 0.02
    assert "judging by earlier trainings" in ready.view.estimate.text()
    assert "busy" not in ready.view.estimate.text()


def test_a_busy_processor_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for load, said in ((5.0, False), (9.0, True)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0), raising=False)
        assert bool(busy_note("cpu")) == said
        assert not busy_note("cuda")
    monkeypatch.delattr("os.getloadavg")
    assert not busy_note("cpu")


def test_nonsense_is_not_learned(tmp_path: Path) -> None:
    pace = Pace(tmp_path / "pace.json")
    for took in (0.0, 1e6):
        pace.learn(20.0, took, "cpu")
    assert not pace.path.exists()
    pace.path.write_text("[1]")
    assert Pace(pace.path).corrected(ESTIMATE, "cpu") is ESTIMATE
