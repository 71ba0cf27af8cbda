"""Temporary folders that belong to one process, and are removed once it has died."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["dead_folders", "remove_dead", "scratch_folder"]


def scratch_folder(prefix: str, parent: Path) -> Path:
    """Create a folder whose name says which process of which machine it belongs to.

    Parameters
    ----------
    prefix : str
        First part of the name.
    parent : Path
        Folder to create it in.

    Raises
    ------
    OSError
        If the parent is missing, full or read-only.
    """
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{_machine()}-{os.getpid()}-", dir=parent))


def dead_folders(prefix: str, parent: Path) -> Iterator[Path]:
    """Yield the folders of `scratch_folder` whose process has died.

    Parameters
    ----------
    prefix : str
        First part of the names.
    parent : Path
        Folder that they are in.
    """
    own = re.compile(rf"{re.escape(prefix)}{_machine()}-(\d+)-\w+")
    try:
        names = sorted(entry.name for entry in os.scandir(parent) if entry.name.startswith(prefix))
    except OSError:  # a folder that can't be listed is not ours to clean
        return
    for name in names:
        match = own.fullmatch(name)
        if match and not _alive(int(match[1])):
            yield parent / name


def remove_dead(prefix: str, parent: Path) -> None:
    """Remove the folders of `scratch_folder` whose process has died.

    Parameters
    ----------
    prefix : str
        First part of the names.
    parent : Path
        Folder that they are in.
    """
    for folder in dead_folders(prefix, parent):
        shutil.rmtree(folder, ignore_errors=True)


def _machine() -> str:
    """Return a short name of this machine; another machine's processes can't be looked up."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _alive(pid: int) -> bool:
    """Return True if a process of this machine is running, or if that can't be found out."""
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
