"""Damaged and hostile files: any exception of a reader becomes one sentence."""

from __future__ import annotations

import errno
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["DAMAGED", "DamagedFileError", "ExplainedError", "LazyPixels", "reading"]

DAMAGED: Final = "{file} is damaged or not what its name says ({why}); write it again."
"""Sentence on a damaged file."""

_LONGEST = 200  # characters of a library's message that are shown

# What a decoder gets from the operating system when it follows a wrong number in a file. Other errors of the
# system, such as a missing permission, say nothing about the content.
_MISLED: Final = (None, errno.EINVAL, errno.EOVERFLOW, errno.EFBIG, errno.ENAMETOOLONG, errno.EILSEQ)


class ExplainedError(ValueError):
    """Bad input, explained in a whole sentence that needs no other around it."""


class DamagedFileError(ExplainedError):
    """A file is damaged, or another kind of file than its name says."""


@contextmanager
def reading(file: Path, sentence: str = DAMAGED) -> Iterator[None]:
    """Turn exceptions of a reader of a damaged file into one sentence.

    Parameters
    ----------
    file : Path
        File that is read in this context.
    sentence : str
        Sentence with the fields ``{file}`` and ``{why}``.

    Raises
    ------
    DamagedFileError
        If anything but an `ExplainedError`, a missing package or an error of the operating system is raised.
    """
    try:
        yield
    except (ExplainedError, ImportError):
        raise
    except MemoryError as error:
        raise DamagedFileError(
            f"{file.name} asks for more memory than there is ({_short(error)}); it is damaged, or too large to be "
            "read whole. Use a .zarr or an uncompressed .tif, which are read in parts."
        ) from error
    except Exception as error:
        # The one boundary to decoders of other packages. What they raise for damaged bytes is not documented and
        # differs between versions: tifffile, imagecodecs, zarr, numcodecs, numpy, zipfile, roifile and safetensors
        # raised thirty types in 45,000 mutated files, AssertionError and RecursionError among them. All of them
        # mean the same to a user, and the original stays as the cause.
        if isinstance(error, FileNotFoundError | FileExistsError):
            raise
        if isinstance(error, OSError) and error.errno not in _MISLED:
            raise
        raise DamagedFileError(sentence.format(file=file.name, why=_short(error))) from error


def _short(error: BaseException) -> str:
    """Return the message of an error on one line, shortened, or its type if it has none."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _memory_bytes() -> int:
    """Return the memory of this machine; a large number if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 2**63


class LazyPixels:
    """An opened array whose pixels are read when indexed; damage found then is one sentence too.

    Parameters
    ----------
    array : array-like
        Array of zarr.
    file : Path
        File of the array.
    """

    def __init__(self, array: Any, file: Path) -> None:
        self._array, self._file = array, file

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self._array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Number type of the array."""
        dtype: np.dtype[Any] = np.dtype(self._array.dtype)
        return dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        with reading(self._file):
            return self._array[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        size, memory = math.prod(self.shape) * self.dtype.itemsize, _memory_bytes()
        if size > memory:
            # the system would end the process rather than refuse the memory
            raise ExplainedError(
                f"{self._file.name} holds {size:,} bytes of pixels, and this machine has {memory:,} bytes of memory; "
                "give a smaller image, or read it in parts."
            )
        return np.asarray(self[...], dtype=dtype)

    def __getattr__(self, name: str) -> Any:
        # chunks, attributes and the like; private names would recurse while the object is being copied
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array, name)
