"""Files that the pickers open: several as fields, descriptions, pictures; and links in notes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QFileDialog, QLabel, QVBoxLayout, QWidget

from napari_btn.io.images import write_images
from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.opening import open_image

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


def test_several_files_are_stacked_as_different_fields(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"field{i}.npy" for i in range(3)]
    for path in paths:
        np.save(path, rng.normal(size=(33, 47)).astype(np.float32))
    picker = dock.view.pair.noisy
    open_image(viewer, picker, paths[0], dock.lifetime, *paths[1:])
    qtbot.waitUntil(lambda: len(viewer.layers) == 3)
    made = picker.read()
    assert made is not None
    assert (made.axes, made.shape) == ("SYX", (3, 33, 47))
    assert picker.stack_as.currentText() == "different fields"
    # the second file had been taken for clean, when there were two layers
    assert dock.view.pair.clean.layers == []


def test_a_description_opens_both_images(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(2, 33, 47)).astype(np.float32)
    np.savez(tmp_path / "pair.npz", noisy=clean + 1, clean=clean)
    keys = {
        "noisy": "pair.npz:noisy",
        "clean": "pair.npz:clean",
        "axes": "CYX",
        "channels": ["Si", "Fe"],
        "name": "soil",
    }
    (tmp_path / "soil.json").write_text(json.dumps(keys))
    open_image(viewer, dock.view.pair.noisy, tmp_path / "soil.json", dock.lifetime)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert dock.view.pair.noisy.layer.name == "soil noisy"
    assert dock.view.pair.clean.layer.name == "soil clean"
    assert dock.view.pair.axes.channels.text() == "Si, Fe"


def test_a_folder_says_which_files_were_matched_until_another_layer_is_picked(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for side in ("noisy", "clean"):
        (tmp_path / side).mkdir()
        for number in (1, 2, 3, 10):
            image = rng.normal(size=(33, 47)).astype(np.float32)
            tifffile.imwrite(tmp_path / side / f"{number}.ome.tif", image, metadata={"axes": "YX"})
    picker = dock.view.pair.noisy
    open_image(viewer, picker, tmp_path, dock.lifetime)
    qtbot.waitUntil(lambda: bool(picker.matched.note.notes))
    [(_, text)] = picker.matched.note.notes
    for number in (1, 2, 3):
        assert f"noisy/{number}.ome.tif  ->  clean/{number}.ome.tif" in text
    assert "and 1 more" in text
    assert "noisy/10.ome.tif  ->  clean/10.ome.tif" in picker.matched.note.toolTip()
    viewer.add_image(np.zeros((33, 47), np.float32), name="other")
    assert picker.matched.note.notes
    picker.combo.setCurrentText("other")
    picker.combo.activated.emit(picker.combo.currentIndex())
    assert not picker.matched.note.notes


def fields_in(folder: Path, *, axes: str | None) -> None:
    """Write two fields, each a noisy and a clean image, into two folders."""
    rng = np.random.default_rng(0)
    for side in ("noisy", "clean"):
        (folder / side).mkdir(parents=True)
        for number in (1, 2):
            values = rng.normal(size=(3, 33, 47)).astype(np.float32)
            if axes is None:
                np.save(folder / side / f"{number}.npy", values)
            else:
                write_images({"image": values}, folder / side / f"{number}.ome.tif", axes=axes)


@pytest.mark.parametrize("name", ["soil/soil.yaml", "elsewhere.json"])
def test_a_folder_is_described_in_a_file_that_opens_the_same_images(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    fields_in(tmp_path / "soil", axes="CYX")
    matched, target = dock.view.pair.noisy.matched, tmp_path / name
    assert matched.describe.isHidden() or matched.isHidden()
    open_image(viewer, dock.view.pair.noisy, tmp_path / "soil", dock.lifetime)
    qtbot.waitUntil(lambda: bool(matched.note.notes))
    assert matched.note.notes[0][1].startswith("Opened from soil as fields: noisy/1.ome.tif")
    assert not matched.isHidden()
    assert not matched.describe.isHidden()
    asked = []

    def answer(_: QWidget, __: str, suggested: str, kinds: str) -> tuple[str, str]:
        asked.append(suggested)
        return str(target), kinds.split(";;")[0]

    monkeypatch.setattr(QFileDialog, "getSaveFileName", answer)
    matched.describe.click()
    assert asked == [str(tmp_path / "soil" / "soil.yaml")]
    assert str(target) in matched.note.notes[1][1]
    first = [np.asarray(layer.data) for layer in viewer.layers]
    viewer.layers.clear()
    open_image(viewer, dock.view.pair.noisy, target, dock.lifetime)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    for layer, before in zip(viewer.layers, first, strict=True):
        np.testing.assert_array_equal(np.asarray(layer.data), before)
    assert tuple(viewer.layers[0].axis_labels) == ("s", "c", "y", "x")
    # what is described already needs no description
    assert not matched.isHidden()
    assert matched.describe.isHidden()


@pytest.mark.parametrize("kind", ["npz", "h5"])
def test_a_file_with_both_images_is_described_too(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path, kind: str
) -> None:
    import h5py

    clean = np.random.default_rng(0).random((33, 47), np.float32)
    names = {"scan/raw": clean + 1, "scan/gt": clean}
    if kind == "npz":
        np.savez(tmp_path / "soil.npz", **names)
    else:
        with h5py.File(tmp_path / "soil.h5", "w") as file:
            for name, values in names.items():
                file[name] = values
    pair = dock.view.pair
    open_image(viewer, pair.noisy, tmp_path / f"soil.{kind}", dock.lifetime)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    np.testing.assert_array_equal(np.asarray(pair.noisy.layer.data), clean + 1)
    np.testing.assert_array_equal(np.asarray(pair.clean.layer.data), clean)
    [(_, text)] = pair.noisy.matched.note.notes
    assert f"soil.{kind}:scan/raw  ->  soil.{kind}:scan/gt" in text
    assert not pair.noisy.matched.describe.isHidden()
    pair.noisy.matched.write_to(tmp_path / "soil.json")
    described = json.loads((tmp_path / "soil.json").read_text())
    assert (described["noisy"], described["clean"]) == (f"soil.{kind}:scan/raw", f"soil.{kind}:scan/gt")


def test_axes_go_with_the_image(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    np.save(tmp_path / "soil.npy", np.zeros((3, 33, 47), np.float32))
    pair = dock.view.pair
    open_image(viewer, pair.noisy, tmp_path / "soil.npy", dock.lifetime)
    qtbot.waitUntil(lambda: pair.axes.letters.text() == "CYX")
    pair.axes.channels.setText("Si, Al, Fe")
    viewer.layers.clear()
    (tmp_path / "damaged.npy").write_bytes(b"nothing")
    open_image(viewer, pair.noisy, tmp_path / "damaged.npy", dock.lifetime)
    qtbot.waitUntil(lambda: bool(pair.noisy.note.notes))
    assert (pair.axes.letters.text(), pair.axes.channels.text(), pair.axes.shape.text()) == ("", "", "")


def test_a_description_replaces_only_the_file_that_the_dialog_asked_about(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields_in(tmp_path / "soil", axes="CYX")
    matched, there = dock.view.pair.noisy.matched, tmp_path / "soil" / "soil.json"
    there.write_text("mine")
    open_image(viewer, dock.view.pair.noisy, tmp_path / "soil", dock.lifetime)
    qtbot.waitUntil(lambda: bool(matched.note.notes))
    answer = str(there.with_suffix(""))
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (answer, "JSON (*.json)"))
    matched.describe.click()
    assert matched.note.notes[1][0] == "red"
    assert there.read_text() == "mine"
    answer = ""
    matched.describe.click()
    assert there.read_text() == "mine"
    answer = str(there)
    matched.describe.click()
    assert matched.note.notes[1][0] == "info"
    assert json.loads(there.read_text())["noisy"] == ["noisy/1.ome.tif", "noisy/2.ome.tif"]


def test_a_folder_whose_images_lack_axes_is_described_and_opens_with_them(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    fields_in(tmp_path / "soil", axes=None)
    picker, target = dock.view.pair.noisy, tmp_path / "soil" / "soil.yaml"
    open_image(viewer, picker, tmp_path / "soil", dock.lifetime)
    qtbot.waitUntil(lambda: bool(picker.matched.note.notes))
    assert "give `axes:` in the description" in picker.note.notes[0][1]
    assert picker.matched.note.notes[0][1].startswith(
        "Matched in soil as fields: noisy/1.npy  ->  clean/1.npy"
    )
    picker.matched.write_to(target)
    assert "axes" not in target.read_text()
    target.write_text(target.read_text() + "axes: CYX\n")
    open_image(viewer, picker, target, dock.lifetime)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    assert viewer.layers[0].data.shape == (2, 3, 33, 47)


def test_files_of_one_name_are_told_apart_by_their_folders(
    dock: DenoiseWidget, viewer: ViewerModel, tmp_path: Path, qtbot: QtBot
) -> None:
    for folder, picker in (("raw", dock.view.pair.noisy), ("gt", dock.view.pair.clean)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "cells.npy", np.random.default_rng(0).random((40, 50)))
        open_image(viewer, picker, tmp_path / folder / "cells.npy", dock.lifetime)
        qtbot.waitUntil(lambda picker=picker: bool(picker.layers))  # type: ignore[misc]
    assert [layer.name for layer in viewer.layers] == ["cells", "cells (gt)"]


def test_a_picture_opens_as_napari_opens_it_and_is_refused_with_a_sentence(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    np.save(tmp_path / "picture.npy", np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8))
    open_image(viewer, dock.view.pair.noisy, tmp_path / "picture.npy", dock.lifetime)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert viewer.layers[0].rgb
    assert "RGB" in dock.view.pair.noisy.note.notes[0][1]


def test_words_in_notes_lead_to_their_control(viewer: ViewerModel, qtbot: QtBot) -> None:
    inside = QWidget()
    qtbot.addWidget(inside)
    layout = QVBoxLayout(inside)
    note, control = NoteLabel(Theme(viewer), "note"), QLabel("here")
    control.setObjectName("split")
    control.setFocusPolicy(control.focusPolicy().StrongFocus)
    for part in (note, control):
        layout.addWidget(part)
    note.say(("amber", "A checkerboard split or more fields (Add scenes) give more. 3 < 4"))
    assert "<a href='split'" in note.text()
    assert "<a href='noisy_stack'" in note.text()
    assert "3 &lt; 4" in note.text()
    inside.show()
    qtbot.waitExposed(inside)
    note.linkActivated.emit("split")
    assert inside.focusWidget() is control


@pytest.mark.parametrize("words", ["no link here", "recalibrated"])
def test_other_words_are_no_links(viewer: ViewerModel, qtbot: QtBot, words: str) -> None:
    note: Any = NoteLabel(Theme(viewer), "note")
    qtbot.addWidget(note)
    note.say(("amber", words))
    assert "<a" not in note.text()


def test_a_dock_closed_in_mid_training_goes_on_when_it_is_opened_again(
    ready: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, steps: Any
) -> None:
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    steps.updates = 10**6
    ready.view.form.members.setValue(4)
    ready.view.train.click()
    qtbot.waitUntil(lambda: steps.updated > 15 and "soil noisy preview" in viewer.layers)
    ready.leave()
    assert "soil noisy preview" not in viewer.layers
    assert ready.session.unfinished is not None
    again = DenoiseWidget(viewer)
    qtbot.addWidget(again)
    assert again.view.form.members.value() == 4
    qtbot.waitUntil(lambda: again.view.train.text() == "Continue")
    again.leave()


def test_a_zarr_store_is_picked_from_the_menu_of_the_button(
    dock: DenoiseWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).random((33, 47), np.float32)
    write_images({"image": values}, tmp_path / "soil.ome.zarr", axes="YX")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "soil.ome.zarr"))
    for picker, count in ((dock.view.pair.noisy, 1), (dock.view.apply_to, 2)):
        menu = picker.open.menu()
        assert menu is not None
        menu.actions()[1].trigger()
        qtbot.waitUntil(lambda: len(viewer.layers) == count)  # noqa: B023  (called before the next turn)
        assert picker.layer is not None
        np.testing.assert_array_equal(np.asarray(picker.layer.data), values)


def test_a_folder_of_noisy_and_clean_images_opens_both(
    dock: DenoiseWidget, viewer: ViewerModel, qtbot: QtBot, tmp_path: Path
) -> None:
    clean = np.random.default_rng(0).random((33, 47), np.float32)
    for side, values in (("noisy", clean + 1), ("clean", clean)):
        write_images({"image": values}, tmp_path / f"soil_{side}.ome.tif", axes="YX")
    open_image(viewer, dock.view.pair.noisy, tmp_path, dock.lifetime)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    made, target = dock.view.pair.noisy.read(), dock.view.pair.clean.read()
    assert made is not None
    assert target is not None
    np.testing.assert_allclose(np.asarray(made.data), np.asarray(target.data) + 1)
