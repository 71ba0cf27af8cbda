"""Descriptions of data sets, proposed from the names of files and arrays.

`propose` looks at a folder or a file with several arrays and returns a description with what it matched, to be
looked at before it is used.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from napari_btn.core.progress import counted
from napari_btn.io.atomic import MissingInputError, path_of
from napari_btn.io.datasets import DataSet, in_order, some_of
from napari_btn.io.images import SUFFIXES, array_names, split_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["of_files", "of_folder", "propose"]

_NOISY: Final = ("noisy", "noise", "raw", "low", "input", "inputs", "fast", "short")


_CLEAN: Final = ("clean", "gt", "ground_truth", "groundtruth", "truth", "high", "target", "targets", "slow", "long",
                 "reference", "denoised")  # fmt: skip


def propose(path: str | Path) -> DataSet:
    """Return a description of a folder, or of a file with several arrays, from the names in it.

    Names tell noisy ("noisy", "raw", "low", "input", ...) from clean ("clean", "gt", "truth", "high", "target", ...):
    of two folders, of files beside each other, or of the arrays in a file. Files are matched by what is left of
    their names. Look at `DataSet.table` before the description is used.

    Parameters
    ----------
    path : str or Path
        A folder, ``.npz``, ``.h5``, ``.zarr`` or ``.pt``.

    Raises
    ------
    ValueError
        If nothing matches; the message lists what is there.
    """
    path = path_of(path)
    if not path.exists():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    if path.suffix.lower() in SUFFIXES:
        names = array_names(path)
        made = _by_words({name: f"{path.name}:{name}" for name in names})
        if len(made) != 1:
            raise ValueError(
                f"{path.name} holds {', '.join(names) or 'no named array'}; which are noisy and clean is not clear. "
                f"Write a description: noisy: {path.name}:NAME, clean: {path.name}:NAME."
            )
        (noisy, clean), *_ = made
        return DataSet((noisy,), (clean,), name=split_suffix(path.name)[0], folder=path.parent)
    inside = sorted((p for p in path.iterdir() if not p.name.startswith(".")), key=lambda p: in_order(p.name))
    folders = [p for p in inside if p.is_dir() and p.suffix.lower() not in SUFFIXES]
    sides = [[p for p in folders if _side(p.name) == side] for side in ("noisy", "clean")]
    if [len(side) for side in sides] == [1, 1]:
        return _from_folders(path, sides[0][0], sides[1][0])
    files = {split_suffix(p.name)[0]: p.name for p in inside if p.suffix.lower() in SUFFIXES}
    pairs = _by_words(files)
    if not pairs:
        shown = ", ".join(p.name for p in inside[:6]) + (", ..." if len(inside) > 6 else "")
        raise ValueError(
            f"{path} holds {shown or 'nothing'}; no names of noisy and clean images match. Write a description, or "
            "name them as in a_noisy.tif and a_clean.tif, or put them in the folders noisy and clean."
        )
    return DataSet(
        tuple(n for n, _ in pairs),
        tuple(c for _, c in pairs),
        files="fields" if len(pairs) > 1 else None,
        name=path.name,
        folder=path,
    )


def of_folder(path: str | Path) -> DataSet:
    """Return the images of a folder: noisy and clean where names tell them apart, else all as noisy.

    Parameters
    ----------
    path : str or Path
        A folder.

    Raises
    ------
    ValueError
        If it holds no image.
    """
    path = path_of(path)
    try:
        return propose(path)
    except ValueError:
        names = sorted((p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES), key=in_order)
    if not names:
        raise ValueError(f"{path} holds no image; choose a folder of images ({', '.join(SUFFIXES)}).")
    return DataSet(tuple(names), files="fields", name=path.name, folder=path)


def _from_folders(path: Path, noisy: Path, clean: Path) -> DataSet:
    """Return the description of a folder of noisy and one of clean images, matched by name."""
    sides = [
        {_rest(split_suffix(p.name)[0]): p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES}
        for folder in (noisy, clean)
    ]
    if len(sides[1]) == 1 and len(sides[0]) > 1 and not set(sides[0]) & set(sides[1]):
        files = [f"{noisy.name}/{name}" for name in sorted(sides[0].values(), key=in_order)]
        (only,) = sides[1].values()
        return DataSet(tuple(files), (f"{clean.name}/{only}",), files="repeats", name=path.name, folder=path)
    both = sorted(set(sides[0]) & set(sides[1]), key=in_order)
    alone = sorted(set(sides[0]) ^ set(sides[1]), key=in_order)
    if alone or not both:
        raise ValueError(
            f"{noisy.name} holds {counted(len(sides[0]), 'image')} and {clean.name} {len(sides[1])}; {some_of(alone)} "
            "have no partner of the same name. Rename or remove them, or list the files in order in a description."
        )
    return DataSet(
        tuple(f"{noisy.name}/{sides[0][name]}" for name in both),
        tuple(f"{clean.name}/{sides[1][name]}" for name in both),
        files="fields" if len(both) > 1 else None,
        name=path.name,
        folder=path,
    )


def _by_words(names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return noisy and clean of names that differ only in the word for the side."""
    found: dict[str, dict[str, str]] = {}
    for name, whole in names.items():
        if side := _side(name):
            found.setdefault(_rest(name), {})[side] = whole
    return [
        (one["noisy"], one["clean"])
        for _, one in sorted(found.items(), key=lambda i: in_order(i[0]))
        if len(one) == 2
    ]


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _side(name: str) -> str:
    """Return "noisy" or "clean" from a word in a name; empty if it has neither, or both."""
    words = set(_words(name)) | {re.sub(r"\d+$", "", word) for word in _words(name)}
    sides = [side for side, known in (("noisy", _NOISY), ("clean", _CLEAN)) if words & set(known)]
    return sides[0] if len(sides) == 1 else ""


def _rest(name: str) -> str:
    """Return what is left of a name without the word for its side: numbers at its end stay."""
    left = []
    for word in _words(name):
        stem = re.sub(r"\d+$", "", word)
        left.append(word.removeprefix(stem) if stem in (*_NOISY, *_CLEAN) else word)
    return " ".join(word for word in left if word)


def of_files(noisy: Sequence[str], clean: Sequence[str], **known: Any) -> DataSet:
    """Return the data set of several pairs of files, as different fields.

    Parameters
    ----------
    noisy, clean : sequence of str
        Files, as many of each.
    **known : object
        Further parameters of `DataSet`.
    """
    made = DataSet(tuple(noisy), tuple(clean), files="fields" if len(noisy) > 1 else None)
    return replace(made, **known)
