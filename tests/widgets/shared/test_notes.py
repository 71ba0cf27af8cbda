"""Notes of the docks: each names the control that removes it, and speaks of controls instead of arguments."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QTabWidget, QWidget

import napari_btn
from napari_btn.widgets.shared.notes import _CONTROLS, _WORDS, NoteLabel, Theme, on_screen
from napari_btn.widgets.shared.tabs import DOCKS, open_dock

PACKAGE = Path(napari_btn.__file__).parent
WITHOUT = {
    ("core/calibration/conformal.py", "caption"): "counts notes",
    (
        "core/calibration/dose_check.py",
        "_note",
    ): "is about the dose of a measured window",
    ("core/calibration/exceedance.py", "lock_notes"): "stands beside the lock",
    ("core/calibration/fusion.py", "_noted"): "says what was done",
    ("core/calibration/maps.py", "write_maps_steps"): "is printed by the command line",
    ("core/data/windows.py", "shifted"): "is about the place of a measured window",
    ("core/inference/run.py", "notes"): "says what was done",
    ("core/supervision/pair.py", "covers"): "says what a noisy target means",
    ("core/supervision/thinning.py", "covers"): "says what a noisy target means",
    ("core/evaluation/report.py", "_kind_notes"): "says which images check intervals of noisy values",
    ("core/training/card.py", "note"): "says what was done",
    ("core/training/card.py", "advance_steps"): "says what was done",
    ("core/training/processes.py", "_warn"): "gets its sentence from elsewhere",
    ("core/training/plan.py", "plan_network"): "says what was done",
    ("core/training/tuning.py", "_unchanged"): "says what was done",
    ("workflow/adapt.py", "_uncalibrated"): "gets its sentence from elsewhere",
    ("workflow/calibrate.py", "group_labels_steps"): "is about masks of scripts",
    ("workflow/fit.py", "_members_steps"): "gets its sentences from elsewhere",
    ("workflow/inputs.py", "size_note"): "is removed by resampling, for which there is no control",
    ("workflow/predict.py", "_own_pixels_steps"): "says what was done",
    ("workflow/refine.py", "_regroup_notes"): "is about masks of scripts",
}
"""Functions whose notes need no control, and why."""


def notes_of_the_core() -> list[tuple[str, str, str]]:
    """Return file, function and all sentences of each function that makes notes."""
    found = []
    for folder in ("core", "workflow"):
        for file in sorted((PACKAGE / folder).rglob("*.py")):
            for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if not isinstance(function, ast.FunctionDef):
                    continue
                nodes = list(ast.walk(function))
                calls = [n.func for n in nodes if isinstance(n, ast.Call)]
                if not any(isinstance(call, ast.Name) and call.id == "Note" for call in calls):
                    continue
                said = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                said = [text for text in said if text != ast.get_docstring(function, clean=False)]
                found.append((file.relative_to(PACKAGE).as_posix(), function.name, "".join(said)))
    return found


def test_every_note_names_the_control_that_removes_it() -> None:
    notes = notes_of_the_core()
    assert len(notes) > 20
    missing = [
        (file, name, text)
        for file, name, text in notes
        if (file, name) not in WITHOUT and not _WORDS.search(on_screen(text))
    ]
    assert not missing


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        (
            'Mask neighbours as well: struct_n2v_axes="horizontal", struct_n2v_span=11.',
            "Mask neighbours as well ('horizontal', over 11 px).",
        ),
        (
            'Use "noise2void" if the noise is independent.',
            "Use 'Noisy image alone' if the noise is independent.",
        ),
        (' Use split="checkerboard", which mixes both.', " Use a checkerboard split, which mixes both."),
    ],
)
def test_docks_name_no_arguments(script: str, shown: str) -> None:
    assert on_screen(script) == shown


def test_each_link_leads_to_a_control_of_a_dock(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer(show=True)
    for title in DOCKS.values():
        open_dock(viewer, title)
    qtbot.wait(100)
    window = next(iter(viewer.window.dock_widgets.values())).window()
    assert not {name for name in _CONTROLS.values() if window.findChild(QWidget, name) is None}


def test_a_link_opens_the_dock_of_its_control(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer(show=True)
    open_dock(viewer, "Denoise")
    qtbot.wait(100)
    dock = next(d for d in viewer.window.dock_widgets.values() if d.objectName() == "napari_btn_denoise")
    dock.view.message.say(("amber", "Check it on a second frame."))
    dock.view.message.linkActivated.emit("check_second")
    qtbot.wait(300)
    tabs = dock.window().findChild(QTabWidget, "closer")
    assert not tabs.visibleRegion().isEmpty()
    assert tabs.currentWidget().findChild(QWidget, "check_second") is not None


def test_a_link_opens_denoise_for_a_control_of_it(make_napari_viewer: Any, qtbot: Any) -> None:
    viewer = make_napari_viewer(show=True)
    open_dock(viewer, "Tokens")
    qtbot.wait(100)
    (dock,) = viewer.window.dock_widgets.values()
    dock.findChild(NoteLabel).linkActivated.emit("groups")
    qtbot.waitUntil(lambda: dock.window().findChild(QWidget, "groups") is not None)
    qtbot.waitUntil(lambda: not dock.window().findChild(QWidget, "groups").visibleRegion().isEmpty())


def test_a_link_to_a_hidden_control_leads_to_what_makes_it_appear(dock: Any, qtbot: Any) -> None:
    dock.show()
    assert dock.view.calibrate_on.isHidden()
    with qtbot.waitSignal(dock.view.message.linkActivated):
        dock.view.message.linkActivated.emit("calibrate_on")
    qtbot.waitUntil(
        lambda: dock.view.pair.noisy.combo.hasFocus() or dock.focusWidget() is dock.view.pair.noisy.combo
    )


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("level", ["text", "accent", "red", "amber"])
def test_words_can_be_read_on_the_background(viewer: Any, theme: str, level: str) -> None:
    def luminance(name: str) -> float:
        """Return the relative luminance, as WCAG 2 defines it."""
        shares = np.array(colours[name].getRgbF()[:3])
        linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    viewer.theme = theme
    colours = Theme(viewer).colours()
    low, high = sorted((luminance(level), luminance("background")))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_link_of_a_note_is_a_word_of_it(viewer: Any, qtbot: Any) -> None:
    label = NoteLabel(Theme(viewer), "note")
    qtbot.addWidget(label)
    label.say(("amber", "Ask for a lower coverage, or calibrate again."))
    assert "<a href='coverage'" in label.text()
    assert "<a href='calibrate_on'" in label.text()
