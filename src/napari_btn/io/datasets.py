"""Data sets by description: which files or keys are noisy and clean, with axes, channels and pixel size.

A description is a small YAML or JSON file. Nothing is guessed when it is read: several files need the word for
what they are, and a number of noisy files that is not that of the clean ones is refused.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from napari_btn.core.data.image import Image, Stacked
from napari_btn.core.data.pairs import Pair
from napari_btn.io._format import package
from napari_btn.io.atomic import MissingInputError, path_of, written_whole
from napari_btn.io.damage import ExplainedError, reading
from napari_btn.io.images import SUFFIXES, read_image, split_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["DataSet", "is_description", "read_dataset", "write_dataset"]

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_STACKS: Final = {"fields": "S", "repeats": "S", "channels": "C", "times": "T", "planes": "Z"}


@dataclass(frozen=True)
class DataSet:
    """The description of a data set.

    Parameters
    ----------
    noisy, clean : tuple of str
        Files, patterns (``scan_*.tif``), or files with a key (``pair.npz:noisy``), relative to ``folder``. Clean is
        empty where there is none.
    files : str, optional
        What several files of one side are: "fields", "repeats" (of one field, with one clean file), "channels",
        "times" or "planes".
    axes : str, optional
        Axes of one file, letters of S T C Z Y X; what the files say by default.
    channels : tuple of str, optional
        Names of the channels.
    pixel_size : tuple of float, optional
        One per space axis of a file, in ``unit``.
    unit : str, optional
        Unit of the pixel size, such as "um".
    valid : str, optional
        File that isn't zero where a pixel counts, or "finite".
    name : str
        Name of the data set.
    folder : Path
        Folder of the description.
    """

    noisy: tuple[str, ...]
    clean: tuple[str, ...] = ()
    files: str | None = None
    axes: str | None = None
    channels: tuple[str, ...] | None = None
    pixel_size: tuple[float, ...] | None = None
    unit: str | None = None
    valid: str | None = None
    name: str = ""
    folder: Path = Path()

    def matched(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the noisy and the clean files in their order.

        Raises
        ------
        ValueError
            If a file is missing, or the numbers of files don't fit.
        """
        noisy, clean = (self._found(given) for given in (self.noisy, self.clean))
        if len(noisy) > 1 and self.files is None:
            raise ValueError(
                f"{len(noisy)} noisy files came ({some_of(noisy)}); say what they are with "
                f"`files:`, one of {', '.join(_STACKS)}."
            )
        if clean and len(clean) != len(noisy) and not (len(clean) == 1 and self.files == "repeats"):
            raise ValueError(
                f"{len(noisy)} noisy files came ({some_of(noisy)}) and {len(clean)} clean ones ({some_of(clean)}); "
                "each noisy file needs its clean one, or `files: repeats` one for all."
            )
        return noisy, clean

    def _found(self, given: Sequence[str]) -> tuple[str, ...]:
        """Return the files that names and patterns stand for, in natural order within a pattern."""
        found: list[str] = []
        for one in given:
            path = self.folder / one
            file, _ = split_key(path)
            if file.is_dir() and file.suffix.lower() not in SUFFIXES:
                names = sorted((str(p) for p in file.iterdir() if p.suffix.lower() in SUFFIXES), key=in_order)
            elif any(sign in one for sign in "*?["):
                root = Path(path.anchor) if Path(one).is_absolute() else self.folder
                names = sorted((str(p) for p in root.glob(str(path.relative_to(root)))), key=in_order)
            else:
                names = [str(path)] if file.exists() else []
            if not names:
                raise MissingInputError(f"There is no image {path}; check the description and its folder.")
            found += names
        return tuple(found)

    def with_whole_paths(self) -> DataSet:
        """Return the same data set with the whole paths of its files, which hold in any folder."""
        near = self.folder.resolve()
        return replace(
            self,
            noisy=tuple(str(near / name) for name in self.noisy),
            clean=tuple(str(near / name) for name in self.clean),
            valid=self.valid if self.valid in (None, "finite") else str(near / self.valid),
        )

    def table(self) -> str:
        """Return which noisy file belongs to which clean one, a line each."""
        noisy, clean = self.matched()
        others = clean if len(clean) == len(noisy) else clean * len(noisy)
        if not clean:
            return "\n".join(self._shown(n) for n in noisy)
        return "\n".join(
            f"{self._shown(n)}  ->  {self._shown(c)}" for n, c in zip(noisy, others, strict=True)
        )

    def _shown(self, path: str) -> str:
        """Return a path relative to the folder."""
        return path.removeprefix(f"{self.folder}/")

    def images(self) -> tuple[Image, Image | None]:
        """Open the images: noisy and clean, each as one array; clean is None where there is none.

        Raises
        ------
        ValueError
            If a file is missing or damaged, or files of one stack differ.
        """
        noisy, clean = self.matched()
        return self._stacked(noisy, "noisy"), self._stacked(clean, "clean") if clean else None

    def _stacked(self, paths: Sequence[str], side: str) -> Image:
        """Return the files of one side as one image."""
        opened = [read_image(path) for path in paths]
        first = opened[0]
        for path, other in zip(paths, opened, strict=True):
            if other.data.shape != first.data.shape:
                raise ValueError(
                    f"{self._shown(paths[0])} has shape {first.data.shape}, {self._shown(path)} {other.data.shape}; "
                    "images of one data set must have one shape. Crop them, or describe them apart."
                )
        axes = (self.axes or first.axes or "").upper()
        if not axes or (first.axes_guessed and not self.axes):
            raise ValueError(
                f"{self._shown(paths[0])} has shape {first.data.shape} and doesn't say its axes; give `axes:` in the "
                "description, letters of S T C Z Y X."
            )
        letter = "" if self.files is None or (side == "clean" and len(paths) == 1) else _STACKS[self.files]
        if letter and letter in axes:
            raise ValueError(
                f"Each file has the axes {axes}, which hold {letter} already; files can't be {self.files}. "
                "Take another word for `files:`, or one file."
            )
        many = len(opened) > 1 or bool(letter)
        size = self.pixel_size if self.pixel_size is not None else first.pixel_size
        if letter == "Z" and size is not None and len(size) < sum(a in "ZYX" for a in letter + axes):
            size = (1.0, *size)
        return Image(
            Stacked([one.data for one in opened]) if many else first.data,
            letter + axes,
            self.channels or (first.channel_names if "C" in axes else None),
            size,
            self.unit or first.unit,
            self.name or first.name,
        )

    def pair(self) -> Pair:
        """Open the images as a pair.

        Raises
        ------
        ValueError
            If a file is missing or damaged, or the images don't fit.
        """
        noisy, clean = self.images()
        valid: Any = self.valid
        if valid is not None and valid != "finite":
            found = self._found((valid,))
            if len(found) != 1:
                raise ValueError(f"`valid:` names {len(found)} files ({some_of(found)}); give one.")
            valid = read_image(found[0]).data
        return Pair(
            noisy.data,
            None if clean is None else clean.data,
            noisy.axes or "",
            noisy.channel_names,
            noisy.pixel_size,
            noisy.unit or "px",
            valid,
            noisy.name,
        )


def is_description(path: str | Path) -> bool:
    """Return True if a path names a description, by its suffix.

    Parameters
    ----------
    path : str or Path
    """
    return Path(path).suffix.lower() in _SUFFIXES


def read_dataset(path: str | Path) -> DataSet:
    """Read a description of a data set.

    Parameters
    ----------
    path : str or Path
        YAML (``.yaml``, ``.yml``) or JSON. Keys as the parameters of `DataSet`; ``noisy`` and ``clean`` may be one
        text or a list.

    Raises
    ------
    ValueError
        If there is no such file, it can't be read, or a key is unknown or of another kind.
    """
    path = path_of(path)
    if not path.is_file():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    is_json = path.suffix.lower() == ".json"
    sentence = (
        "{file} is no " + ("JSON" if is_json else "YAML") + " that describes a data set ({why}); check it."
    )
    with reading(path, sentence):
        text = path.read_text(encoding="utf-8")
        return _checked(json.loads(text) if is_json else package("yaml", path).safe_load(text), path)


def _checked(given: Any, path: Path) -> DataSet:
    """Return the data set of the keys of a description."""
    known = [f.name for f in fields(DataSet) if f.name != "folder"]
    if not isinstance(given, dict) or given.get("noisy") is None:
        raise ExplainedError(
            f"{path.name} describes no data set; it needs `noisy:`, and mostly `clean:` and `axes:`."
        )
    if unknown := sorted(str(key) for key in given if key not in known):
        raise ExplainedError(
            f"{path.name} has the unknown key {_brief(unknown[0])}; there are {', '.join(known)}."
        )
    made: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in ("noisy", "clean", "channels"):
        if name in made:
            made[name] = _texts(made[name], name, path)
    for name in ("files", "axes", "unit", "valid", "name"):
        if name in made and not isinstance(made[name], str):
            raise ExplainedError(f"{path.name} has {name}: {_brief(made[name])}; a text is needed.")
    if made.get("files") not in (None, *_STACKS):
        raise ExplainedError(
            f"{path.name} has files: {_brief(made['files'])}; it must be {', '.join(_STACKS)}."
        )
    size = made.get("pixel_size")
    if size is not None:
        sizes = size if isinstance(size, list) else [size]
        if not all(
            isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < math.inf for v in sizes
        ):
            raise ExplainedError(
                f"{path.name} has pixel_size: {_brief(size)}; numbers above zero are needed, one per space axis."
            )
        made["pixel_size"] = tuple(float(v) for v in sizes)
    return DataSet(**made, folder=path.parent)


def _texts(value: Any, name: str, path: Path) -> tuple[str, ...]:
    """Return a text, or a list of them, as a tuple."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and len(one.splitlines()) == 1 for one in values):
        raise ExplainedError(
            f"{path.name} has {name}: {_brief(value)}; a text of one line or a list of such texts is needed."
        )
    return tuple(values)


def _brief(value: Any) -> str:
    """Return a value as text; short, because a few bytes of YAML can stand for gigabytes."""
    return (
        " ".join(str(value).split())[:80]
        if isinstance(value, str | int | float)
        else f"a {type(value).__name__}"
    )


def write_dataset(described: DataSet, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a description of a data set as YAML or JSON.

    Parameters
    ----------
    described : DataSet
    path : str or Path
        Ends in ``.yaml``, ``.yml`` or ``.json``. Outside the folder of the data set, files get their whole paths.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    ValueError
        If the suffix is another one, or the file exists and may not be replaced.
    """
    path = path_of(path)
    if not is_description(path):
        raise ValueError(f"{path.name} names no description; end it in {', '.join(_SUFFIXES)}.")
    if path.parent.resolve() != described.folder.resolve():
        described = described.with_whole_paths()
    kept = {
        name: value
        for name, value in asdict(described).items()
        if name != "folder" and value not in (None, "", ())
    }
    plain: dict[str, Any] = {n: list(v) if isinstance(v, tuple) else v for n, v in kept.items()}
    for name in ("noisy", "clean"):
        if name in plain and len(plain[name]) == 1:
            plain[name] = plain[name][0]
    if path.suffix.lower() == ".json":
        text = json.dumps(plain, indent=2) + "\n"
    else:
        text = package("yaml", path).safe_dump(
            plain, sort_keys=False, default_flow_style=None, allow_unicode=True
        )
    with written_whole(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def in_order(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts scan 2 before scan 10.

    Parameters
    ----------
    name : str
    """
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def some_of(names: Iterable[str]) -> str:
    """Return the first names of a list of files.

    Parameters
    ----------
    names : iterable of str
    """
    shown = [Path(name).name for name in names]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")
