"""Tables as CSV: named columns with their types."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.io.atomic import MissingInputError, path_of, written_whole
from napari_btn.io.damage import ExplainedError, reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_table", "write_table"]


def write_table(
    columns: Mapping[str, Sequence[Any] | NDArray[Any]], path: str | Path, *, overwrite: bool = False
) -> None:
    """Write named columns of one length as CSV (UTF-8, a header line, a point for decimals).

    Parameters
    ----------
    columns : mapping of str to sequence
        Numbers, words, or None for an empty cell.
    path : str or Path
        File to write; it appears only when it is whole.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    ValueError
        If the columns differ in length, or the file exists and may not be replaced.
    OSError
        If the folder is read-only or the disk full.
    """
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns have lengths {lengths}; a table needs the same for all.")
    with (
        written_whole(path, overwrite=overwrite) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(map(_cell, values) for values in columns.values()), strict=True))


def read_table(path: str | Path) -> dict[str, list[Any]]:
    """Read the named columns of a CSV file: integers, floats, words, and None for empty cells.

    Parameters
    ----------
    path : str or Path
        File with a header line.

    Returns
    -------
    dict of str to list
        In the order of the file.

    Raises
    ------
    ValueError
        If there is no such file, or it is not a table.
    """
    path = path_of(path)
    if not path.is_file():
        raise MissingInputError(f"There is no file {path}; check the name.")
    with (
        reading(path, "{file} is not a CSV table: {why}. Save it as CSV in UTF-8."),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        rows = [row for row in csv.reader(file) if row]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ExplainedError(
            f"{path.name} is not a CSV table with a header and rows of one length; correct it, or save it again."
        )
    return {name: [_value(row[i]) for row in rows[1:]] for i, name in enumerate(rows[0])}


def _cell(value: Any) -> Any:
    """Return the content of a cell: the shortest digits that give the same number back."""
    if value is None:
        return ""
    return value.item() if isinstance(value, np.generic) else value


def _value(cell: str) -> Any:
    """Return the value of a cell."""
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
