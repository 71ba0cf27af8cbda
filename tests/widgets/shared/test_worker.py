"""A step in a thread: its result, its errors, its end by force, and how often it speaks."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
import pytest
from qtpy.QtCore import QTimer

from napari_btn.core.progress import Progress
from napari_btn.widgets.shared.worker import Run, StepError, Timing, _Clock, run_step

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

Step = Generator[Progress, None, str]


class Heard:
    """Calls of a run, in order."""

    def __init__(self) -> None:
        self.progress: list[tuple[Progress, Timing]] = []
        self.end: list[tuple[str, Any]] = []

    def run(self, make_step: Callable[[], Step]) -> Run[str]:
        return run_step(
            make_step,
            on_progress=lambda progress, timing: self.progress.append((progress, timing)),
            on_result=lambda result: self.end.append(("result", result)),
            on_error=lambda error: self.end.append(("error", error)),
            on_stopped=lambda: self.end.append(("stopped", None)),
            on_finished=lambda: self.end.append(("finished", None)),
        )

    def over(self) -> bool:
        return bool(self.end) and self.end[-1][0] == "finished"


def failing(error: Exception) -> Step:
    yield Progress(0, 2)
    raise error


def endless(closed: threading.Event, threads: list[int]) -> Step:
    try:
        for done in range(1_000_000):
            yield Progress(done, 1_000_000, checkpoint=done)
            time.sleep(0.01)
    finally:
        threads.append(threading.get_ident())
        closed.set()
    return "never"


def test_a_step_that_returns_is_heard_once(qtbot: QtBot) -> None:
    def step() -> Step:
        yield Progress(1, 2, "half")
        return "done"

    heard = Heard()
    run = heard.run(step)
    qtbot.waitUntil(heard.over)
    assert heard.end == [("result", "done"), ("finished", None)]
    assert heard.progress[0][0].note == "half"
    assert not run.running


def test_a_run_that_has_finished_keeps_no_member_and_nobody_who_listened(qtbot: QtBot) -> None:
    def step() -> Step:
        yield Progress(1, 2, checkpoint=("member",))
        return "done"

    heard = Heard()
    run, listener = heard.run(step), ref(heard)
    qtbot.waitUntil(heard.over)
    del heard
    gc.collect()
    # napari keeps the worker, and the worker the run
    assert listener() is None
    assert run.checkpoint is None
    run.leave()


class OutOfMemory(RuntimeError):
    """As torch's: a RuntimeError by another name."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong axes"),
        RuntimeError("shapes differ"),
        OutOfMemory("CUDA out of memory"),
        MemoryError("no memory"),
    ],
    ids=["value", "runtime", "gpu memory", "memory"],
)
def test_no_error_vanishes(qtbot: QtBot, error: Exception) -> None:
    heard = Heard()
    heard.run(lambda: failing(error))
    qtbot.waitUntil(heard.over)
    [(kind, raised), _] = heard.end
    assert kind == "error"
    assert str(raised) == str(error)
    assert not isinstance(raised, RuntimeError)
    assert raised is error or raised.__cause__ is error
    assert isinstance(raised, StepError) == isinstance(error, RuntimeError)


def test_an_error_before_the_first_progress_is_heard(qtbot: QtBot) -> None:
    def make() -> Step:
        raise RuntimeError("no such device")

    heard = Heard()
    heard.run(make)
    qtbot.waitUntil(heard.over)
    assert heard.end[0][0] == "error"


def test_a_stop_closes_the_step_in_its_thread_before_it_is_reported(qtbot: QtBot) -> None:
    closed, threads, heard = threading.Event(), [], Heard()
    run = heard.run(lambda: endless(closed, threads))
    qtbot.waitUntil(lambda: bool(heard.progress))
    assert run.stop(wait=60)
    assert closed.is_set()
    qtbot.waitUntil(heard.over)
    assert heard.end == [("stopped", None), ("finished", None)]
    assert threads != [threading.get_ident()]
    assert run.checkpoint is not None


def test_napari_that_quits_all_workers_closes_the_step_too(qtbot: QtBot) -> None:
    closed, heard = threading.Event(), Heard()
    run = heard.run(lambda: endless(closed, []))
    qtbot.waitUntil(lambda: bool(heard.progress))
    run._worker.quit()
    qtbot.waitUntil(heard.over)
    assert closed.is_set()
    assert heard.end[0] == ("stopped", None)


def test_nobody_is_called_back_by_a_run_that_was_left(qtbot: QtBot) -> None:
    closed, heard = threading.Event(), Heard()
    run = heard.run(lambda: endless(closed, []))
    qtbot.waitUntil(lambda: bool(heard.progress))
    said = len(heard.progress)
    assert run.leave(wait=60)
    qtbot.wait(200)
    assert heard.end == []
    assert len(heard.progress) == said


def test_signals_that_went_with_the_window_are_missed_by_nobody(
    qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(worker: object) -> None:
        raise RuntimeError("wrapped C/C++ object has been deleted")

    closed, heard = threading.Event(), Heard()
    run = heard.run(lambda: endless(closed, []))
    qtbot.waitUntil(lambda: bool(heard.progress))
    monkeypatch.setattr("napari.qt.threading.GeneratorWorker.run", gone, raising=False)
    with pytest.raises(RuntimeError):
        run._worker.run()
    assert run.leave(wait=60)
    run._worker.run()


def test_a_run_left_before_its_thread_started_does_no_work(qtbot: QtBot) -> None:
    made: list[object] = []

    def make() -> Step:
        made.append(1)
        return failing(ValueError("never"))

    def start_and_leave() -> None:
        # In an event loop, as a click is, superqt starts a thread a millisecond later.
        assert run_step(make, on_result=made.append, on_error=made.append).leave(wait=60)

    QTimer.singleShot(0, start_and_leave)
    qtbot.wait(100)
    assert made == []


def test_frequent_progress_is_merged_to_once_a_second(qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("napari_btn.widgets.shared.worker.time", SimpleNamespace(monotonic=lambda: now[0]))

    def step() -> Step:
        for done in range(1, 101):
            yield Progress(done, 0, losses=((0, done, 1.0),))
            now[0] += 1 / 64
        return "done"

    heard = Heard()
    heard.run(step)
    qtbot.waitUntil(heard.over)
    assert [progress.done for progress, _ in heard.progress] == [1, 65, 100]
    losses = [loss for progress, _ in heard.progress for loss in progress.losses]
    assert [done for _, done, _ in losses] == list(range(1, 101))


def test_a_preview_is_passed_on_at_once(qtbot: QtBot) -> None:
    def step() -> Step:
        yield Progress(0, 3)
        yield Progress(1, 3, preview=np.zeros((2, 3), np.float32))
        yield Progress(2, 3)
        return "done"

    heard = Heard()
    heard.run(step)
    qtbot.waitUntil(heard.over)
    assert [(p.done, p.preview is not None) for p, _ in heard.progress] == [(0, False), (1, True), (2, False)]


def test_a_paused_step_stops_and_resumes(qtbot: QtBot) -> None:
    begun, heard = [0], Heard()

    def step() -> Step:
        while True:
            begun[0] += 1
            yield Progress(begun[0], 0)
            time.sleep(0.01)

    run = heard.run(step)
    qtbot.waitUntil(lambda: bool(heard.progress))
    run.pause()
    before = begun[0]
    qtbot.wait(300)
    assert run.paused
    assert begun[0] <= before + 1  # the piece that was under way
    run.resume()
    qtbot.waitUntil(lambda: begun[0] > before + 1)
    run.pause()
    assert run.stop(wait=60)
    qtbot.waitUntil(heard.over)


def test_the_clock_estimates_from_the_rate_and_leaves_pauses_out() -> None:
    now = [0.0]
    clock = _Clock(lambda: now[0])
    now[0] = 5.0
    assert clock.read(Progress(10, 110)).remaining is None
    now[0] = 15.0
    assert clock.read(Progress(30, 110)) == (Timing(15.0, 40.0))
    clock.pause()
    now[0] = 115.0
    clock.resume()
    now[0] = 125.0
    assert clock.read(Progress(50, 110)) == (Timing(25.0, 30.0))
    assert clock.read(Progress(0, 7)).remaining is None


def test_libraries_loaded_ahead_make_the_import_brief_and_harmless() -> None:
    code = (
        "import sys\n"
        "from napari_btn.widgets.shared.worker import load_ahead\n"
        "load_ahead()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert float(torch.ones(3).sum()) == 3\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
