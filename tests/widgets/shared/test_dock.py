"""A dock that ends well: its runs stop, its timers rest, and nothing from outside reaches it any more."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QWidget

from napari_btn.core.progress import Progress
from napari_btn.session import session_of
from napari_btn.widgets.shared.dock import Dock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot


class View(QWidget):
    """A view that counts how often it is redrawn."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self._heard = heard

    def redraw(self) -> None:
        self._heard.append("redraw")


class Plain(Dock):
    """A dock that counts what reaches it."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "plain")
        self.heard: list[str] = []
        self.results: list[Any] = []
        self.later = self.lifetime.timer(30, lambda: self.heard.append("timer"))
        events = self.viewer.layers.events
        self.lifetime.hear(self._on_viewer_layers, events.inserted, events.removed)
        self.lifetime.hear(self._on_session_changed, self.session.changed)
        self.lifetime.at_end(lambda: self.heard.append("let go"))
        self.show_view(View(self.heard))

    def _on_viewer_layers(self, event: Any) -> None:
        self.heard.append(event.type)

    def _on_session_changed(self, slot: str) -> None:
        self.heard.append(slot)

    def work(self, name: str) -> None:
        self.lifetime.start(name, endless, self.results.append, self.results.append)


def endless() -> Generator[Progress, None, str]:
    for done in range(1_000_000):
        yield Progress(done, 1_000_000)
        time.sleep(0.01)
    return "never"


@pytest.fixture
def plain(viewer: ViewerModel, qtbot: QtBot) -> Plain:
    dock = Plain(viewer)
    qtbot.addWidget(dock)
    return dock


def test_a_dock_follows_signals_until_it_leaves(plain: Plain, viewer: ViewerModel, qtbot: QtBot) -> None:
    viewer.add_points()
    session_of(viewer).prediction = None
    viewer.theme = "light"
    plain.later.start()
    qtbot.waitUntil(lambda: "timer" in plain.heard)
    assert plain.heard[0] == "inserted"
    assert {"prediction", "redraw"} < set(plain.heard)
    plain.later.start()
    plain.leave()
    assert plain.heard[-1] == "let go"
    plain.heard.clear()
    viewer.layers.clear()
    session_of(viewer).prediction = None
    viewer.theme = "dark"
    plain.leave()
    qtbot.wait(100)
    assert plain.heard == []


def test_leaving_stops_all_runs_together(plain: Plain, qtbot: QtBot) -> None:
    for name in ("one", "two", "three"):
        plain.work(name)
    runs = list(plain.lifetime.runs.values())
    qtbot.waitUntil(runs[0]._started.is_set)
    started = [run for run in runs if run._started.is_set()]  # Qt runs as many at a time as there are cores
    plain.leave()
    assert not any(run.running for run in started)
    assert plain.lifetime.runs == {}
    qtbot.waitUntil(lambda: not any(run.running for run in runs))
    qtbot.wait(50)
    assert plain.results == []


def test_a_dock_leaves_although_a_step_is_stuck(
    plain: Plain, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_btn.widgets.shared.lifetime._CLOSE_WAIT", 0.05)
    go_on = threading.Event()

    def stuck() -> Generator[Progress, None, str]:
        go_on.wait(60)
        yield Progress(0, 1)
        return "too late"

    plain.lifetime.start("stuck", stuck, plain.results.append, plain.results.append)
    run = plain.lifetime.runs["stuck"]
    qtbot.waitUntil(run._started.is_set)
    plain.leave()
    assert run.running
    go_on.set()
    qtbot.waitUntil(lambda: not run.running)
    assert plain.results == []


def test_a_dropped_run_is_stopped_alone(plain: Plain, qtbot: QtBot) -> None:
    plain.work("old")
    plain.work("other")
    old, other = plain.lifetime.runs["old"], plain.lifetime.runs["other"]
    assert plain.lifetime.drop("old")
    assert not plain.lifetime.drop("old")
    qtbot.waitUntil(lambda: not old.running)
    assert other.running
    assert plain.results == []
    plain.leave()


def test_a_dock_that_is_deleted_unasked_stops_its_runs(viewer: ViewerModel, qtbot: QtBot) -> None:
    dock = Plain(viewer)
    dock.work("work")
    run = dock.lifetime.runs["work"]
    qtbot.waitUntil(run._started.is_set)
    dock.deleteLater()
    qtbot.waitUntil(lambda: not run.running)
    del dock
    gc.collect()


@pytest.mark.parametrize("way", ["dock", "viewer"])
def test_closing_the_dock_or_the_window_makes_it_leave(
    make_napari_viewer: Callable[..., Any], qtbot: QtBot, way: str
) -> None:
    viewer = make_napari_viewer(show=True)
    dock = Plain(viewer)
    viewer.window.add_dock_widget(dock, name="plain")
    qtbot.waitUntil(lambda: dock.isVisible() and dock.window().windowHandle().isExposed())
    dock.work("work")
    run = dock.lifetime.runs["work"]
    qtbot.waitUntil(run._started.is_set)
    if way == "dock":
        viewer.window.remove_dock_widget(dock)
    else:
        viewer.close()
    qtbot.waitUntil(lambda: dock.lifetime.ended)
    assert not run.running
    assert dock.heard[-1] == "let go"
