"""The names that scripts drive the docks by, and what kind of control stands behind each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel, QLineEdit, QTableWidget, QWidget

import napari_btn

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

PICKER, TEXT, BUTTON = QComboBox, QLineEdit, QAbstractButton
NUMBER = "setValue"

CONTROLS: dict[str, dict[str, Any]] = {
    "Denoise": {
        **dict.fromkeys(("noisy", "clean", "supervision", "preset", "device"), PICKER),
        "axes": TEXT,
        **dict.fromkeys(("members", "coverage"), NUMBER),
        **dict.fromkeys(("train", "pause", "stop", "apply", "save", "load"), BUTTON),
    },
    "Uncertainty": {
        "channel": PICKER,
        **dict.fromkeys(("threshold", "confidence"), NUMBER),
        "line_cut": BUTTON,
        "report": QLabel,
    },
    "Tokens": {
        "n_tokens": NUMBER,
        "table": QTableWidget,
        **dict.fromkeys(("merge", "rename", "export"), BUTTON),
    },
    "Re-measure": {
        **dict.fromkeys(("score", "measured"), PICKER),
        **dict.fromkeys(("window_height", "window_width", "count"), NUMBER),
        **dict.fromkeys(("propose", "export", "put", "continue_training"), BUTTON),
    },
}
COMMANDS = {
    "Denoise": "denoise",
    "Uncertainty": "uncertainty",
    "Tokens": "tokens",
    "Re-measure": "remeasure",
}


def manifest() -> dict[str, Any]:
    from importlib.resources import files

    read: dict[str, Any] = yaml.safe_load((files(napari_btn) / "napari.yaml").read_text(encoding="utf-8"))
    return read["contributions"]


def test_docks_and_samples_have_their_names() -> None:
    found = {w["display_name"]: w["command"] for w in manifest()["widgets"]}
    docks = {name: f"napari-btn.{command}" for name, command in COMMANDS.items()}
    assert found == {**docks, "Open all": "napari-btn.open_all"}
    assert {"blobs", "edx", "xct"} <= {s["key"] for s in manifest()["sample_data"]}


@pytest.mark.parametrize("name", list(CONTROLS))
def test_every_control_has_its_name_and_kind(name: str, viewer: ViewerModel, qtbot: QtBot) -> None:
    [made] = [c["python_name"] for c in manifest()["commands"] if c["id"] == f"napari-btn.{COMMANDS[name]}"]
    module, _, attribute = made.partition(":")
    dock = getattr(import_module(module), attribute)(viewer)
    qtbot.addWidget(dock)
    for control, kind in CONTROLS[name].items():
        found = dock.findChildren(QWidget, control)
        assert len(found) == 1, (control, found)
        if kind == NUMBER:
            assert callable(found[0].setValue), control
        else:
            assert isinstance(found[0], kind), (control, found[0])
    dock.leave()


def test_the_preset_offers_the_four_names(viewer: ViewerModel, qtbot: QtBot) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    dock = DenoiseWidget(viewer)
    qtbot.addWidget(dock)
    preset = dock.findChild(QComboBox, "preset")
    names = [preset.itemText(i).lower() for i in range(preset.count())]
    assert names == ["instant", "quick", "standard", "thorough"]
    assert not dock.findChild(QAbstractButton, "train").isEnabled()
    assert dock.findChild(QAbstractButton, "train").toolTip().startswith("No noisy image is picked")
    dock.leave()
