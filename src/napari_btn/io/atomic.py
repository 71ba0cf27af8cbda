"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import errno
import re
import shutil
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from napari_btn.core.compute.scratch import dead_folders, scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MissingInputError", "OutputExistsError", "path_of", "recover", "room_beside", "written_whole"]

_WRITING = ".writing-"
_WHOLE = ".whole"  # beside an output that is whole and about to replace a folder


class MissingInputError(FileNotFoundError, ValueError):
    """A file or folder doesn't exist."""


class OutputExistsError(FileExistsError, ValueError):
    """The output exists already and may not be replaced."""


def path_of(path: str | PathLike[str]) -> Path:
    """Return the path of a file or folder.

    Parameters
    ----------
    path : str or Path
        It need not exist.

    Raises
    ------
    ValueError
        If it is neither a text nor a path, or empty.
    """
    if not isinstance(path, str | PathLike) or not str(path):
        raise ValueError(f"The path is {path!r}; give the name of a file as a text or a Path.")
    return Path(path)


@contextmanager
def written_whole(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` if the block succeeds, and removed if it fails.

    A folder (zarr) may be written there as well as a file. An existing output stays until the new
    one is whole.

    Parameters
    ----------
    path : str or Path
        File or folder to be written.
    overwrite : bool
        Replace what is there; a folder only where it is a zarr.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    ValueError
        If ``path`` exists and may not be replaced, or its folder is missing.
    OSError
        If the folder is read-only or the disk full; the message says which.
    """
    path = path_of(path)
    recover(path.parent)
    _need_free(path, overwrite)
    with room_beside(path) as holder:
        temporary = holder / path.name
        yield temporary
        # someone else may have written there meanwhile
        _need_free(path, overwrite)
        _put(temporary, path)


@contextmanager
def room_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside an output, for what is too large for memory; it is removed at the end.

    Parameters
    ----------
    path : Path
        File or folder to be written.

    Yields
    ------
    Path
        The folder, on the same disk as the output.

    Raises
    ------
    OSError
        If the folder is read-only or the disk full; the message says which.
    """
    try:
        holder = scratch_folder(_WRITING, path.parent)
    except OSError as error:
        raise OSError(_why(error, path)) from error
    try:
        yield holder
    except (MissingInputError, OutputExistsError):
        raise
    except OSError as error:
        raise OSError(_why(error, path)) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _need_free(path: Path, overwrite: bool) -> None:
    """Raise unless a file or folder of this name may be written."""
    if not path.parent.is_dir():
        raise MissingInputError(f"There is no folder {path.parent}; create it, or write elsewhere.")
    if not path.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{path} exists; choose another name, or allow it to be replaced.")
    if path.is_dir() and not any((path / mark).exists() for mark in ("zarr.json", ".zgroup", ".zarray")):
        raise OutputExistsError(
            f"{path} is a folder of something else and is not replaced; choose another name."
        )


def recover(folder: Path) -> None:
    """Remove what killed processes left in a folder, and finish the replacement that one of them had begun.

    Parameters
    ----------
    folder : Path
        Folder of outputs.
    """
    for holder in dead_folders(_WRITING, folder):
        for mark in holder.glob(f"*{_WHOLE}"):
            name = mark.name.removesuffix(_WHOLE)
            with suppress(OSError):
                if not (folder / name).exists():
                    (holder / name).rename(folder / name)
                # the new one is under its name, so the old one may go
                shutil.rmtree(_aside(folder / name))
        shutil.rmtree(holder, ignore_errors=True)


def _aside(path: Path) -> Path:
    """Return the name of a folder while it is replaced; its suffix stays, so that it can be opened."""
    return path.with_name(f"replaced-{path.name}")


def _put(temporary: Path, path: Path) -> None:
    """Give the output its name; an existing folder of that name is first moved aside.

    No system renames a folder onto another. A process killed between the two renames leaves the old one under
    a name that is easily found, and the new one where `recover` finds it.
    """
    if not path.is_dir() or path.is_symlink():
        temporary.replace(path)
        return
    aside = _aside(path)
    if aside.exists():
        raise OutputExistsError(f"{aside} exists, and is needed for a moment; rename or remove it first.")
    temporary.with_name(path.name + _WHOLE).touch()
    path.replace(aside)
    try:
        temporary.replace(path)
    except OSError:
        aside.replace(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _why(error: OSError, path: Path) -> str:
    """Return the sentence for a failure of the disk or the folder."""
    full = "the disk is full; free some space or choose another disk"
    why = {
        errno.ENOSPC: full,
        errno.EDQUOT: full,
        errno.EACCES: "the folder is read-only for you; choose another folder",
        errno.EROFS: "the disk is read-only; choose another folder",
        errno.EPERM: "it is not permitted; choose another folder",
        errno.ENOENT: "the folder does not exist; create it or choose another",
    }.get(error.errno or 0, error.strerror or str(error))
    if error.errno is None and re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        why = full  # how numpy says that a disk took a part only
    return f"{path} could not be written: {why}. Nothing was written."
