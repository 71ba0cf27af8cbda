"""The part of the Denoise dock that applies the trained networks to many files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_btn.core.data.image import shown_names
from napari_btn.core.progress import Progress, counted
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.opening import FILES
from napari_btn.widgets.shared.panels import lay_out, push_button
from napari_btn.widgets.shared.sight import bring_into_sight
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.progress import Step
    from napari_btn.session import Session
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.shared.notes import Theme
    from napari_btn.widgets.shared.worker import Run
    from napari_btn.workflow.batch import BatchFile, BatchRow

__all__ = ["BatchPanel", "Batcher"]

_START_HELP = (
    "Denoise all files of the table with the trained networks. The folder gets one .ome.tif with the maps of "
    "each file, and table.csv with widths, coverage and notes."
)
_HEADS = {
    "file": "Image file; its tooltip shows the folder.",
    "maps": "File with the maps once it is written, or what is wrong.",
    "width": "Mean width of the intervals, channel by channel.",
    "coverage": "Share of the clean image inside the intervals, where a clean image belongs to the file.",
    "notes": "How the image differs from the calibrated one; the coverage may be lower there.",
}
_ROWS_SHOWN, _ROW_PX = 6, 24


class BatchPanel(QWidget):
    """Files, the folder for their maps, and the table of results.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    """

    files_wanted = Signal()
    """Emitted when the user wants to add files."""
    folder_wanted = Signal()
    """Emitted when the user wants to add a folder of images."""
    asked = Signal()
    """Emitted when the user starts the batch."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self.files: tuple[BatchFile, ...] = ()
        """Files of the table."""
        self.given: tuple[str, ...] = ()
        """Files, folders and descriptions that they came from."""
        self._reason = ""
        self.add_files = push_button(
            "batch_files", "Add files…", "Add image files, or the description of a data set (.yaml, .json)."
        )
        self.add_folder = push_button(
            "batch_folder",
            "Add folder…",
            "Add the images of a folder. If the names say which images are noisy and which are clean, "
            "coverage is measured on the clean ones.",
        )
        self.clear = push_button("batch_clear", "Clear", "Remove all files from the table.")
        self.table = QTableWidget(0, len(_HEADS))
        self.table.setObjectName("batch_table")
        self.table.setAccessibleName("Files to denoise")
        self.table.setToolTip("One row per file; results follow as files are done.")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(_ROW_PX)
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.table.horizontalHeader().setStretchLastSection(True)
        for k, (head, text) in enumerate(_HEADS.items()):
            title = QTableWidgetItem(head)
            title.setToolTip(text)
            self.table.setHorizontalHeaderItem(k, title)
        self.output = QLineEdit()
        self.output.setObjectName("batch_output")
        self.output.setPlaceholderText("folder for the maps")
        self.output.setToolTip("Folder for the maps and the table; it is created if it doesn't exist.")
        self.output.setAccessibleName("Folder for the maps")
        self.choose = push_button("batch_output_choose", "…", "Choose the folder for the maps.")
        self.choose.setAccessibleName("Choose the folder for the maps")
        self.choose.setMaximumWidth(32)
        self.replace = QCheckBox("replace")
        self.replace.setObjectName("batch_replace")
        self.replace.setToolTip("Replace maps and table that already exist in the folder.")
        self.replace.setAccessibleName("Replace existing maps")
        self.start = push_button("batch_start", "Apply to all files", _START_HELP)
        self.note = NoteLabel(theme, "batch_note")
        self._arrange()
        self.add_files.clicked.connect(self.files_wanted)
        self.add_folder.clicked.connect(self.folder_wanted)
        self.clear.clicked.connect(lambda: self.show_files((), ()))
        self.choose.clicked.connect(self._on_user_choose)
        self.output.textChanged.connect(lambda _: self.set_busy(self._reason))
        self.start.clicked.connect(self.asked)
        self.show_files((), ())

    def _arrange(self) -> None:
        """Lay the parts out."""
        self._output = QWidget()
        files, output = QHBoxLayout(), QHBoxLayout(self._output)
        for row, parts in (
            (files, (self.add_files, self.add_folder, self.clear)),
            (output, (QLabel("Maps to"), self.output, self.choose, self.replace)),
        ):
            row.setContentsMargins(0, 0, 0, 0)
            row.setSpacing(4)
            for part in parts:
                row.addWidget(part)
        lay_out(self, files, self.table, self._output, self.start, self.note, above_px=4)

    def show_files(self, files: Sequence[BatchFile], given: Sequence[str]) -> None:
        """Show files, without results.

        Parameters
        ----------
        files : sequence of BatchFile
            One row each.
        given : sequence of str
            Files, folders and descriptions that they came from.
        """
        self.files, self.given = tuple(files), tuple(given)
        self.table.setRowCount(len(self.files))
        for row, file in enumerate(self.files):
            clean = "" if file.clean is None else f"clean: {Path(file.clean).name}"
            self._fill(
                row, (Path(file.image).name, "", "", clean, ""), (file.image, "", "", file.clean or "", "")
            )
        shown = min(max(len(self.files), 2), _ROWS_SHOWN)
        # the bar below is of the style, which is known as soon as the panel is seen
        self.table.setFixedHeight(
            self.table.horizontalHeader().sizeHint().height()
            + _ROW_PX * shown
            + self.table.horizontalScrollBar().sizeHint().height()
            + 2 * self.table.frameWidth()
        )
        for part in (self.table, self._output, self.start):
            part.setVisible(bool(self.files))
        self.note.say()
        self.set_busy(self._reason)

    def show_rows(self, rows: Sequence[BatchRow], channel_names: Sequence[str]) -> None:
        """Show the results of the first files.

        Parameters
        ----------
        rows : sequence of BatchRow
            In the order of the files.
        channel_names : sequence of str
            Of the networks.
        """
        for k, row in enumerate(rows):
            name = Path(row.file.image).name
            notes = " ".join(row.notes)
            if row.error:
                self._fill(
                    k, (name, "no maps", "", "", row.error), (row.file.image, row.error, "", "", row.error)
                )
                continue
            width = _by_channel(row.width, channel_names, "{:.3g}")
            coverage = _by_channel(row.coverage, channel_names, "{:.1%}")
            self._fill(
                k,
                (name, row.file.output.name, width, coverage, notes),
                (row.file.image, str(row.file.output), width, coverage, notes),
            )
        if rows:
            self.table.scrollToItem(self.table.item(len(rows) - 1, 0))

    def say_result(self, rows: Sequence[BatchRow]) -> None:
        """Say how many files have maps, which have none, and which differ from the calibrated image.

        Parameters
        ----------
        rows : sequence of BatchRow
            What is done.
        """
        failed = [row for row in rows if row.error]
        noted = [row for row in rows if row.notes and not row.error]
        done, n = len(rows) - len(failed), len(self.files)
        where = f"; the maps are in {self.output.text()}" if done else ""
        notes = [("info", f"{done} of {n} {'file is' if n == 1 else 'files are'} denoised{where}.")]
        if failed:
            first = failed[0]
            more = f" ({len(failed) - 1} more in the table)" if len(failed) > 1 else ""
            name = Path(first.file.image).name
            said = first.error if first.error.startswith(name) else f"{name}: {first.error}"
            notes.append(("red", f"{said}{more}"))
        if noted:
            first = noted[0]
            more = f" ({len(noted) - 1} more in the table)" if len(noted) > 1 else ""
            notes.append(("amber", f"{Path(first.file.image).name}: {first.notes[0]}{more}"))
        self.note.say(*notes)

    def set_busy(self, reason: str) -> None:
        """Allow a batch, or show why it is impossible.

        Parameters
        ----------
        reason : str
            Empty where it is possible.
        """
        self._reason = reason
        why = reason or ("" if self.output.text().strip() else "Choose the folder for the maps.")
        self.start.setEnabled(not why)
        self.start.setToolTip(why or _START_HELP)

    def _fill(self, row: int, texts: Sequence[str], tips: Sequence[str]) -> None:
        """Fill a row of the table."""
        for k, (text, tip) in enumerate(zip(texts, tips, strict=True)):
            item = QTableWidgetItem(text)
            item.setToolTip(tip)
            self.table.setItem(row, k, item)

    def _on_user_choose(self) -> None:
        """Ask for the folder."""
        path = QFileDialog.getExistingDirectory(self, "Folder for the maps", self.output.text())
        if path:
            self.output.setText(path)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        self.note.redraw()


class Batcher:
    """Applies the trained networks to the files of the panel.

    Parameters
    ----------
    view : DenoiseView
        Form with the panel.
    work : Work
        Runs the batch.
    session : Session
        Has the trained networks.
    lifetime : Lifetime
        Of the dock.
    """

    def __init__(self, view: DenoiseView, work: Work, session: Session, lifetime: Lifetime) -> None:
        self._view, self._panel = view, view.batch
        self._work, self._session, self._lifetime = work, session, lifetime
        self._panel.files_wanted.connect(self._on_user_wants_files)
        self._panel.folder_wanted.connect(self._on_user_wants_folder)
        self._panel.asked.connect(self._on_user_starts)

    def _on_user_wants_files(self) -> None:
        """Ask for image files."""
        paths, _ = QFileDialog.getOpenFileNames(self._panel, "Images to denoise", "", FILES)
        if paths:
            self.add(paths)

    def _on_user_wants_folder(self) -> None:
        """Ask for a folder of images."""
        path = QFileDialog.getExistingDirectory(self._panel, "Folder of images to denoise (or a .zarr)")
        if path:
            self.add([path])

    def add(self, paths: Sequence[str | Path]) -> None:
        """Add files, descriptions and folders of images to the table.

        Parameters
        ----------
        paths : sequence of str or Path
        """
        panel = self._panel
        first = Path(paths[0]).resolve()
        near = first if first.is_dir() else first.parent
        folder = Path(panel.output.text().strip() or near / "maps")
        given = tuple(dict.fromkeys([*panel.given, *map(str, paths)]))

        def step() -> Step[tuple[BatchFile, ...]]:
            """List the files; a step."""
            yield Progress(0, 1, "Listing files")
            return engine.batch_files(given, folder)

        def listed(files: tuple[BatchFile, ...]) -> None:
            """Show the files."""
            panel.output.setText(str(folder))
            panel.show_files(files, given)
            bring_into_sight(panel.start)

        def failed(error: Exception) -> None:
            """Show the error."""
            panel.note.say(("red", sentence_of(error)))

        self._lifetime.drop("list files")
        self._lifetime.start("list files", step, listed, failed, title="listing files")

    def _on_user_starts(self) -> None:
        """Denoise the files."""
        panel, model = self._panel, self._session.model
        folder = Path(panel.output.text().strip())
        if model is None or not panel.files or self._work.run is not None:
            return
        device, names, overwrite = self._session.device, model.channel_names, panel.replace.isChecked()
        files = [replace(file, output=folder / file.output.name) for file in panel.files]
        panel.show_files(files, panel.given)

        def step() -> Step[tuple[BatchRow, ...]]:
            """Write the maps; a step."""
            compute = engine.compute_on(device, model.settings)
            return engine.batch_steps(model, files, compute, table=folder / "table.csv", overwrite=overwrite)

        def tell(progress: Progress) -> None:
            """Show the rows that are done."""
            if progress.checkpoint:
                panel.show_rows(progress.checkpoint, names)

        def done(rows: tuple[BatchRow, ...]) -> None:
            """Show all rows."""
            self._view.progress.finish(f"Done: {counted(len(rows), 'file')}; the folder has table.csv.")
            panel.show_rows(rows, names)
            panel.say_result(rows)

        def ended(run: Run[Any]) -> str:
            """Show what was done before the end."""
            rows = run.checkpoint or ()
            panel.show_rows(rows, names)
            panel.say_result(rows)
            return f" {len(rows)} of {len(files)} files are done."

        self._work.launch("Denoising files", step, done, tell, ended)


def _by_channel(values: Any, names: Sequence[str], form: str) -> str:
    """Return a figure per channel, with its name where there are several."""
    if values is None:
        return ""
    texts = [form.format(float(v)).replace("%", " %") for v in values]
    if len(texts) == 1:
        return texts[0]
    return ", ".join(f"{n} {t}" for n, t in zip(shown_names(names), texts, strict=True))
