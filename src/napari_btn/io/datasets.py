"""Data sets by description: which files or keys are noisy and clean, with axes, channels and pixel size.

A description is a small YAML or JSON file. Nothing is guessed when it is read: several files need the word for
what they are, and a number of noisy files that is not that of the clean ones is refused. `propose` looks at a folder
or a file with several arrays and returns a description with what it matched, to be looked at before it is used.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from napari_btn.core.data.image import Image, Stacked
from napari_btn.core.data.pairs import Pair
from napari_btn.io._format import package
from napari_btn.io.atomic import MissingInputError, written_whole
from napari_btn.io.images import SUFFIXES, array_names, read_image, split_key, split_suffix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["DataSet", "is_description", "of_files", "of_folder", "propose", "read_dataset", "write_dataset"]

_SUFFIXES: Final = (".yaml", ".yml", ".json")
_STACKS: Final = {"fields": "S", "repeats": "S", "channels": "C", "times": "T", "planes": "Z"}
_NOISY: Final = ("noisy", "noise", "raw", "low", "input", "inputs", "fast", "short")
_CLEAN: Final = ("clean", "gt", "ground_truth", "groundtruth", "truth", "high", "target", "targets", "slow", "long",
                 "reference", "denoised")  # fmt: skip


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
                f"{len(noisy)} noisy files came ({_some(noisy)}); say what they are with "
                f"`files:`, one of {', '.join(_STACKS)}."
            )
        if clean and len(clean) != len(noisy) and not (len(clean) == 1 and self.files == "repeats"):
            raise ValueError(
                f"{len(noisy)} noisy files came ({_some(noisy)}) and {len(clean)} clean ones ({_some(clean)}); each "
                "noisy file needs its clean one, or `files: repeats` one for all."
            )
        return noisy, clean

    def _found(self, given: Sequence[str]) -> tuple[str, ...]:
        """Return the files that names and patterns stand for, in natural order within a pattern."""
        found: list[str] = []
        for one in given:
            path = self.folder / one
            file, _ = split_key(path)
            if file.is_dir() and file.suffix.lower() not in SUFFIXES:
                names = sorted((str(p) for p in file.iterdir() if p.suffix.lower() in SUFFIXES), key=_natural)
            elif any(sign in one for sign in "*?["):
                names = sorted((str(p) for p in self.folder.glob(one)), key=_natural)
            else:
                names = [str(path)] if file.exists() else []
            if not names:
                raise MissingInputError(f"There is no image {path}; check the description and its folder.")
            found += names
        return tuple(found)

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
            (path,) = self._found((valid,))
            valid = read_image(path).data
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
    path = Path(path)
    if not path.is_file():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    text = path.read_text(encoding="utf-8")
    try:
        given = json.loads(text) if path.suffix.lower() == ".json" else package("yaml", path).safe_load(text)
    except ValueError as error:
        if isinstance(error, ImportError):
            raise
        raise ValueError(f"{path.name} is no JSON ({error}); check its commas and quotes.") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise ValueError(f"{path.name} is no YAML ({' '.join(str(error).split())}); check it.") from error
    return _checked(given, path)


def _checked(given: Any, path: Path) -> DataSet:
    """Return the data set of the keys of a description."""
    known = [f.name for f in fields(DataSet) if f.name != "folder"]
    if not isinstance(given, dict) or "noisy" not in given:
        raise ValueError(
            f"{path.name} describes no data set; it needs `noisy:`, and mostly `clean:` and `axes:`."
        )
    if unknown := sorted(str(key) for key in given if key not in known):
        raise ValueError(f"{path.name} has the unknown key {unknown[0]}; there are {', '.join(known)}.")
    made: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in ("noisy", "clean", "channels"):
        if name in made:
            made[name] = _texts(made[name], name, path)
    for name in ("files", "axes", "unit", "valid", "name"):
        if name in made and not isinstance(made[name], str):
            raise ValueError(f"{path.name} has {name}: {made[name]!r}; a text is needed.")
    if made.get("files") not in (None, *_STACKS):
        raise ValueError(f"{path.name} has files: {made['files']}; it must be {', '.join(_STACKS)}.")
    size = made.get("pixel_size")
    if size is not None:
        sizes = size if isinstance(size, list) else [size]
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in sizes):
            raise ValueError(
                f"{path.name} has pixel_size: {size!r}; numbers above zero are needed, one per space axis."
            )
        made["pixel_size"] = tuple(float(v) for v in sizes)
    return DataSet(**made, folder=path.parent)


def _texts(value: Any, name: str, path: Path) -> tuple[str, ...]:
    """Return a text, or a list of them, as a tuple."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, str) and one for one in values):
        raise ValueError(f"{path.name} has {name}: {value!r}; a text or a list of texts is needed.")
    return tuple(values)


def write_dataset(described: DataSet, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a description of a data set as YAML or JSON.

    Parameters
    ----------
    described : DataSet
    path : str or Path
        Ends in ``.yaml``, ``.yml`` or ``.json``; it should lie in the folder of the data set.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    ValueError
        If the suffix is another one, or the file exists and may not be replaced.
    """
    path = Path(path)
    if not is_description(path):
        raise ValueError(f"{path.name} names no description; end it in {', '.join(_SUFFIXES)}.")
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
    path = Path(path)
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
    inside = sorted((p for p in path.iterdir() if not p.name.startswith(".")), key=lambda p: _natural(p.name))
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
    path = Path(path)
    try:
        return propose(path)
    except ValueError:
        names = sorted((p.name for p in path.iterdir() if p.suffix.lower() in SUFFIXES), key=_natural)
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
        files = [f"{noisy.name}/{name}" for name in sorted(sides[0].values(), key=_natural)]
        (only,) = sides[1].values()
        return DataSet(tuple(files), (f"{clean.name}/{only}",), files="repeats", name=path.name, folder=path)
    both = sorted(set(sides[0]) & set(sides[1]), key=_natural)
    alone = sorted(set(sides[0]) ^ set(sides[1]), key=_natural)
    if alone or not both:
        raise ValueError(
            f"{noisy.name} holds {len(sides[0])} images and {clean.name} {len(sides[1])}; {_some(alone)} "
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
        for _, one in sorted(found.items(), key=lambda i: _natural(i[0]))
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


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts scan 2 before scan 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _some(names: Iterable[str]) -> str:
    """Return the first names of a list."""
    shown = [Path(name).name for name in names]
    return ", ".join(shown[:3]) + (", ..." if len(shown) > 3 else "")


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
