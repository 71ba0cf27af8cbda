"""Open image files and folders for a layer picker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import Progress
from napari_btn.io.images import SUFFIXES
from napari_btn.widgets.shared.layers import add_image
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

    from napari_btn.core.progress import Step
    from napari_btn.io.datasets import DataSet
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.pickers import LayerPicker

__all__ = ["FILES", "let_open", "open_image"]

_DESCRIPTIONS = "*.yaml *.yml *.json"
FILES = f"Images ({' '.join(f'*{s}' for s in SUFFIXES)});;Descriptions of data sets ({_DESCRIPTIONS});;All files (*)"
"""Kinds of files that dialogs offer."""


def let_open(picker: LayerPicker, parent: QWidget, viewer: Any, lifetime: Lifetime) -> None:
    """Let a picker open files and folders.

    Parameters
    ----------
    picker : LayerPicker
        Picks what is opened.
    parent : QWidget
        Parent of the dialogs.
    viewer : napari.Viewer
        Gets the layers.
    lifetime : Lifetime
        Of the dock.
    """
    picker.file_wanted.connect(lambda: _ask_for_image(parent, viewer, picker, lifetime))
    picker.folder_wanted.connect(lambda: _ask_for_folder(parent, viewer, picker, lifetime))


def _ask_for_image(parent: QWidget, viewer: Any, picker: LayerPicker, lifetime: Lifetime) -> None:
    """Ask for image files and open them for a picker; several are stacked as different fields."""
    paths, _ = QFileDialog.getOpenFileNames(parent, "Open images", "", FILES)
    if paths:
        open_image(viewer, picker, paths[0], lifetime, *paths[1:])


def _ask_for_folder(parent: QWidget, viewer: Any, picker: LayerPicker, lifetime: Lifetime) -> None:
    """Ask for a folder, a zarr store or one with noisy and clean images, and open it for a picker."""
    path = QFileDialog.getExistingDirectory(parent, "Open a zarr store, or a folder of images")
    if path:
        open_image(viewer, picker, path, lifetime)


def _both_in(path: str | Path) -> DataSet | None:
    """Return the noisy and the clean array of a file, if the names of its arrays tell them apart."""
    from napari_btn.io.proposals import propose

    if not Path(path).is_file():
        return None
    try:
        return propose(path)
    except ValueError:
        return None


def open_image(
    viewer: Any, picker: LayerPicker, path: str | Path, lifetime: Lifetime, *others: str | Path
) -> None:
    """Read an image file in a thread, add it as a layer, and pick that.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer.
    picker : LayerPicker
        Picks it, or says why the file can't be read.
    path : str or Path
        An image file, the description of a data set, or a folder of images.
    lifetime : Lifetime
        Of the dock.
    *others : str or Path
        More files, stacked with the first as different fields.
    """
    role = picker.combo.objectName()
    matched: list[tuple[DataSet, list[str]]] = []
    picker.matched.clear()

    def step() -> Step[Any]:
        """Read the file; a step."""
        from napari_btn.io.datasets import is_description, read_dataset
        from napari_btn.io.images import read_image
        from napari_btn.io.proposals import of_folder

        yield Progress(0, 1, "Reading")
        folder = Path(path).is_dir() and Path(path).suffix.lower() not in SUFFIXES
        if is_description(path) or folder:
            found = of_folder(path) if folder else read_dataset(path)
            matched.append((found, found.table().splitlines()))
            noisy, clean = found.images()
            sides = {"noisy": noisy, **({} if clean is None else {"clean": clean})}
            return [replace(image, name=f"{image.name} {side}") for side, image in sides.items()]
        if others:
            return [read_image(one) for one in (path, *others)]
        both = _both_in(path)
        if both is not None:
            matched.append((both, both.table().splitlines()))
        # a file with both images often names its arrays like the pickers
        if both is not None or Path(path).suffix == ".npz":
            try:
                return replace(read_image(f"{path}:{role}"), name=f"{Path(path).stem} {role}")
            except ValueError:
                pass
        if both is None:
            return read_image(path)
        return [
            replace(read_image(both.folder / name), name=f"{both.name} {side}")
            for side, (name,) in (("noisy", both.noisy), ("clean", both.clean))
        ]

    def show_matched(*, opened: bool) -> None:
        """Say which files a folder or a description gave."""
        for found, table in matched:
            picker.matched.show_files(found, table, Path(path), opened=opened)

    def read(image: Any) -> None:
        """Add the layers, and pick them."""
        if not isinstance(image, list):
            if image.name in viewer.layers:
                # noisy and clean often have one name in two folders
                image = replace(image, name=f"{image.name} ({Path(path).resolve().parent.name})")
            picker.pick(add_image(viewer, image))
            show_matched(opened=False)
        elif others:
            layers = [add_image(viewer, one) for one in image]
            picker.pick_many(layers, "different fields")
        else:
            made = {one.name.rpartition(" ")[2]: add_image(viewer, one) for one in image}
            picker.pick(made.get(role, made["noisy"]))
            show_matched(opened=True)
        picker.by_user = True

    def failed(error: Exception) -> None:
        """Show the error, and what was matched before it came."""
        picker.note.say(("red", sentence_of(error)))
        show_matched(opened=False)

    name = f"read {role}"
    lifetime.drop(name)
    lifetime.start(name, step, read, failed, title=f"reading {path}")
