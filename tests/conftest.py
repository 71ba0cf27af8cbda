"""What all tests share: one thread per process, hypothesis' profile, the real data, a watch on windows."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytestqt.qtbot import QtBot

# Before torch is loaded, and inherited by worker processes: small problems on busy cores run
# many times slower on two threads than on one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The same examples on every run: a red test is red for everyone.
# HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "default",
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("search", max_examples=500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real data; the test is skipped where there is none."""
    named = os.environ.get("NAPARI_BTN_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; name one in NAPARI_BTN_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _workers_stay() -> Iterator[None]:
    """Let the processes of the pool wait for the next test that needs them: each loads torch, for seconds."""
    from napari_btn.core.compute import pool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "_IDLE_S", 600)
        yield


@pytest.fixture
def qtbot(qtbot: QtBot) -> QtBot:
    """Wait up to ten minutes for anything: a busy machine is no failure."""
    qtbot.waitUntil = partial(qtbot.waitUntil, timeout=600_000)  # type: ignore[method-assign]
    return qtbot


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Torch, once something has loaded it, keeps to one thread."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_window_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that leaves a window behind fails: the next one would be drawn into its shadow."""
    if "qapp" not in request.fixturenames:
        yield
        return
    app = request.getfixturevalue("qapp")
    failed_before = request.session.testsfailed
    before = {id(widget) for widget in app.topLevelWidgets()}
    yield
    if request.session.testsfailed > failed_before:
        return
    app.processEvents()
    left = [w for w in app.topLevelWidgets() if id(w) not in before and w.isVisible()]
    assert not left, f"the test left these windows open: {left}; close them, or give them to qtbot.addWidget"
