"""A dock that ends well: its runs stop, its timers rest, and nothing from outside reaches it any more."""

from __future__ import annotations

import gc
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from napari_btn.core.progress import Progress
from napari_btn.session import session_of
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.worker import run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot


class Plain(Dock):
    """A dock that counts what reaches it."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.heard: list[str] = []
        self.results: list[Any] = []
        self.later = self._timer(30)
        self.later.timeout.connect(lambda: self.heard.append("timer"))
        self._hear(self._on_layers, self.viewer.layers.events.inserted, self.viewer.layers.events.removed)
        self._hear(self._on_session, self.session.changed)

    def _on_layers(self, event: Any) -> None:
        self.heard.append(event.type)

    def _on_session(self, slot: str) -> None:
        self.heard.append(slot)

    def _let_go(self) -> None:
        self.heard.append("let go")

    def redraw(self) -> None:
        self.heard.append("redraw")

    def work(self, name: str) -> None:
        self._runs[name] = run_step(endless, on_result=self.results.append, on_error=self.results.append)


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


def test_a_dock_hears_until_it_leaves(plain: Plain, viewer: ViewerModel, qtbot: QtBot) -> None:
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
    runs = list(plain._runs.values())
    qtbot.waitUntil(runs[0]._started.is_set)
    started = [run for run in runs if run._started.is_set()]  # Qt runs as many at a time as there are cores
    plain.leave()
    assert not any(run.running for run in started)
    assert plain._runs == {}
    qtbot.waitUntil(lambda: not any(run.running for run in runs))
    qtbot.wait(50)
    assert plain.results == []


def test_a_dock_leaves_although_a_step_is_stuck(
    plain: Plain, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_btn.widgets.shared.dock._CLOSE_WAIT", 0.05)
    go_on = threading.Event()

    def stuck() -> Generator[Progress, None, str]:
        go_on.wait(60)
        yield Progress(0, 1)
        return "too late"

    run = plain._runs["stuck"] = run_step(
        stuck, on_result=plain.results.append, on_error=plain.results.append
    )
    qtbot.waitUntil(run._started.is_set)
    plain.leave()
    assert run.running
    go_on.set()
    qtbot.waitUntil(lambda: not run.running)
    assert plain.results == []


def test_a_dropped_run_is_stopped_alone(plain: Plain, qtbot: QtBot) -> None:
    plain.work("old")
    plain.work("other")
    old, other = plain._runs["old"], plain._runs["other"]
    assert plain._drop("old")
    assert not plain._drop("old")
    qtbot.waitUntil(lambda: not old.running)
    assert other.running
    assert plain.results == []
    plain.leave()


def test_a_dock_that_is_deleted_unasked_stops_its_runs(viewer: ViewerModel, qtbot: QtBot) -> None:
    dock = Plain(viewer)
    dock.work("work")
    run = dock._runs["work"]
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
    dock.work("work")
    run = dock._runs["work"]
    qtbot.waitUntil(run._started.is_set)
    if way == "dock":
        viewer.window.remove_dock_widget(dock)
    else:
        viewer.close()
    assert dock._left
    assert not run.running
    assert dock.heard[-1] == "let go"
