"""A training whose dock is closed: it goes on, can be taken up again, and ends in the session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QMainWindow

from napari_btn.core.training.plan import Estimate
from napari_btn.session import session_of
from napari_btn.widgets.denoise.pace import Pace
from napari_btn.widgets.shared import engine

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


ESTIMATE = Estimate(1.0, 10**9, "About 1 s")


@pytest.fixture
def put_away(ready: DenoiseWidget, qtbot: QtBot, steps: Any, monkeypatch: pytest.MonkeyPatch) -> QMainWindow:
    """The window of a dock that was closed in mid-training."""
    steps.updates, steps.pause_s = 60, 0.02
    monkeypatch.setattr(engine, "estimate_training", lambda *_, **__: ESTIMATE)
    window = QMainWindow()
    qtbot.addWidget(window)
    ready._window = lambda: window
    ready.view.form.members.setValue(2)
    qtbot.waitUntil(lambda: ready.view.train.isEnabled() and not ready.lifetime.runs)
    ready.view.train.click()
    qtbot.waitUntil(lambda: steps.updated > 3)
    ready.put_away()
    return window


def test_a_training_goes_on_without_its_dock(
    put_away: QMainWindow, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    session = session_of(viewer)
    assert session.background is not None
    assert session.model is None
    qtbot.waitUntil(lambda: session.model is not None)
    assert session.background is None
    assert session.training is not None
    assert session.unfinished is None
    assert session.report_of == "soil noisy"
    assert steps.updated == 60
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.view.apply_to.layer is viewer.layers["soil noisy"]
    assert again.view.apply.isEnabled()
    assert [text for _, text in again.view.message.notes] == [
        "Trained on 'soil noisy' while Denoise was closed. Click Apply to denoise it."
    ]
    again.leave()
    # said once
    once_more = DenoiseWidget(viewer)
    qtbot.addWidget(once_more)
    assert not once_more.view.message.notes
    once_more.leave()


def test_the_next_dock_says_why_a_training_in_the_background_failed(
    put_away: QMainWindow, viewer: ViewerModel, qtbot: QtBot
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    session, reason = session_of(viewer), "The loss is not a number. " * 5
    background = session.background
    background.run.leave(wait=60)
    background._fail(ValueError(reason))
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.view.message.notes == (("red", f"Training failed. {reason.strip()}"),)
    again.leave()


@pytest.mark.parametrize("opened", [False, True])
def test_a_training_in_the_background_teaches_how_long_trainings_take(
    put_away: QMainWindow, viewer: ViewerModel, qtbot: QtBot, opened: bool
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    assert Pace().corrected(ESTIMATE, "cpu") is ESTIMATE
    again = DenoiseWidget(viewer) if opened else None
    if again is not None:
        qtbot.addWidget(again)
    qtbot.waitUntil(lambda: session_of(viewer).model is not None)
    assert Pace().corrected(ESTIMATE, "cpu").seconds > 60 * 0.02
    if again is not None:
        qtbot.waitUntil(lambda: not again.busy)
        again.leave()


def test_a_dock_that_is_opened_again_takes_the_training_up(
    put_away: QMainWindow, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.busy
    assert again.view.form.members.value() == 2
    assert again.session.background is None
    again.view.pause.click()
    assert again.work.paused
    again.view.pause.click()
    qtbot.waitUntil(lambda: not again.busy and "soil noisy median" in viewer.layers)
    assert steps.updated == 60
    again.leave()


def test_the_window_ends_a_training_in_the_background(
    put_away: QMainWindow, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    put_away.show()
    run = session_of(viewer).background.run
    put_away.hide()
    qtbot.waitUntil(lambda: not run.running)
    assert session_of(viewer).background is None
    assert steps.updated < 60


def test_settings_survive_a_dock_that_is_closed(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    ready.view.form.members.setValue(7)
    ready.view.form.coverage.setValue(0.8)
    ready.view.form.split.setCurrentText("checkerboard")
    ready.put_away()
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.view.form.settings() == ready.view.form.settings()
    again.leave()
