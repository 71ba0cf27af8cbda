"""Which files or arrays a folder, a file or a description gave, and a button that describes them in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_btn.widgets.shared.notes import NoteLabel, Theme
from napari_btn.widgets.shared.panels import lay_out
from napari_btn.widgets.shared.worker import sentence_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.io.datasets import DataSet

__all__ = ["MatchedFiles"]

_SHOWN: Final = 3  # files that the note names; its tooltip has them all
_KINDS: Final = {"YAML (*.yaml *.yml)": ".yaml", "JSON (*.json)": ".json"}


class MatchedFiles(QWidget):
    """A note on the files that a folder, a file or a description gave; hidden where there are none.

    Parameters
    ----------
    theme : Theme
        Colours of the note.
    role : str
        Role of the picker, from which the parts have their names.
    """

    def __init__(self, theme: Theme, role: str) -> None:
        super().__init__()
        self._found: DataSet | None = None
        self._shown = ""
        self.note = NoteLabel(theme, f"{role}_matched")
        self.describe = QPushButton("Describe in a file…")
        self.describe.setObjectName(f"{role}_describe")
        self.describe.setToolTip(
            "Write which files or arrays are noisy and clean to a small file (.yaml, .json). Open file… and napari-btn "
            "train read it; axes, channels and pixel size can be added with any editor."
        )
        self.describe.setAccessibleName(f"Describe the files of {role} in a file")
        self.describe.clicked.connect(self._on_user_describe)
        lay_out(self, self.note, self.describe)
        self.clear()

    def clear(self) -> None:
        """Show nothing."""
        self._found = None
        self.note.say()
        self.hide()

    def show_files(self, found: DataSet, table: Sequence[str], source: Path, *, opened: bool) -> None:
        """Say which files were matched, and offer to describe them unless they come from a description.

        Parameters
        ----------
        found : DataSet
            What was matched.
        table : sequence of str
            Which noisy file belongs to which clean one, a line each.
        source : Path
            The folder, the file with several arrays, or the description.
        opened : bool
            False if the files were matched, but not all of them opened.
        """
        from napari_btn.io.datasets import is_description

        more = f"; and {len(table) - _SHOWN} more" if table[_SHOWN:] else ""
        kind = f" as {found.files}" if found.files else ""
        verb = "Opened from" if opened else "Matched in"
        self._found = found
        self._shown = f"{verb} {source.name}{kind}: {'; '.join(table[:_SHOWN])}{more}."
        self.note.say(("info", self._shown))
        self.note.setToolTip("\n".join(table))
        self.describe.setVisible(not is_description(source))
        self.show()

    def _on_user_describe(self) -> None:
        """Ask where to write the description."""
        if self._found is None:
            return
        suggested = str(self._found.folder / f"{self._found.name}.yaml")
        path, kind = QFileDialog.getSaveFileName(self, "Describe data set", suggested, ";;".join(_KINDS))
        if path:
            # the dialog has asked for the name as it is, not for one with a suffix added
            whole = bool(Path(path).suffix)
            target = Path(path) if whole else Path(path).with_suffix(_KINDS.get(kind, ".yaml"))
            self.write_to(target, overwrite=whole)

    def write_to(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Describe the matched files in a file, and say where.

        Parameters
        ----------
        path : str or Path
            Ends in ``.yaml``, ``.yml`` or ``.json``.
        overwrite : bool
            Replace an existing file.
        """
        from napari_btn.io.datasets import write_dataset

        if self._found is None:
            return
        try:
            write_dataset(self._found, path, overwrite=overwrite)
        except (OSError, ValueError) as error:
            said = ("red", f"Nothing was written. {sentence_of(error)}")
        else:
            said = ("info", f"Described in {path}. Look through it; Open file… reads it.")
        self.note.say(("info", self._shown), said)

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        self.note.redraw()
