"""End work that has begun in other processes of this machine: a file appears, and they look for it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import uuid
from functools import cache
from pathlib import Path

__all__ = ["StopSign", "StoppedError"]


class StoppedError(Exception):
    """The work was given up while it was under way; nobody waits for its result."""


class StopSign:
    """A sign that tasks in other processes look at; on other machines it never shows."""

    def __init__(self) -> None:
        self._path = str(Path(_folder()) / uuid.uuid4().hex)

    def show(self) -> None:
        """Ask all who look to end."""
        Path(self._path).touch()

    def look(self) -> None:
        """Go on, unless the sign shows.

        Raises
        ------
        StoppedError
            When it shows.
        """
        if os.path.exists(self._path):  # noqa: PTH110  (a path object costs more than the question)
            raise StoppedError("This work was stopped.")


@cache
def _folder() -> str:
    """Folder of this process's signs, gone when the process ends."""
    made = tempfile.mkdtemp(prefix="napari-btn-stop-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
