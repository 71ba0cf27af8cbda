"""Files of numpy: one array (.npy), or several with their metadata (.npz)."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io import metadata
from napari_btn.io._format import ExplainedError, Format, choose
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["NPY", "NPZ"]

_MAGIC: Final = b"\x93NUMPY"
_DEFLATED: Final = 1100  # deflate makes numbers smaller by 1032 times at most
_NOTES: Final = ("axes", "channel_names", "pixel_size", "unit", "levels", "provenance")


def _read_npy(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Map an array into memory."""
    if key is not None:
        raise ExplainedError(f"{file.name} holds one array without a name; leave :{key} out.")
    with file.open("rb") as stream:
        # numpy takes all other files for pickles, and advises to open them as such
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it doesn't begin as an npy file")
    return np.load(file, mmap_mode="r", allow_pickle=False), Meta()


def _read_npz(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Read one array of an archive, with the metadata that our own archives keep beside it."""
    with np.load(file, allow_pickle=False) as arrays:
        keys = [name for name in arrays.files if name not in _NOTES]
        chosen = choose(keys, key, file)
        _need_content(file, chosen)
        data = arrays[chosen]
        if "axes" not in arrays or "provenance" not in arrays:
            return data, Meta(name=key or "")
        known = [name for name in _NOTES if name in arrays]
        for name in known:
            _need_content(file, name)
        note = {name: arrays[name].tolist() for name in known}
    return data, metadata.from_note(note, key or "")


def _need_content(file: Path, name: str) -> None:
    """Raise unless an archive holds as many bytes as the header of an array claims, before memory is asked for."""
    with zipfile.ZipFile(file) as archive:
        member = next(f for f in archive.namelist() if f in (f"{name}.npy", name))
        info = archive.getinfo(member)
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(stream)
    claimed, packed = math.prod(shape) * dtype.itemsize, _DEFLATED * info.compress_size + 1000
    if claimed > info.file_size or info.file_size > packed:
        raise ValueError(
            f"it claims {claimed:,} bytes of pixels in an archive of {info.compress_size:,} bytes"
        )


def _npz_names(file: Path) -> list[str]:
    """Return the names of the arrays that are images."""
    with np.load(file, allow_pickle=False) as arrays:
        return [name for name in arrays.files if name not in _NOTES]


def _npz_provenance(file: Path, key: str | None) -> dict[str, Any]:
    """Read the provenance beside the maps; it is the same for all of them."""
    del key
    with np.load(file, allow_pickle=False) as arrays:
        if "provenance" not in arrays:
            return {}
        _need_content(file, "provenance")
        return metadata.read_json(str(arrays["provenance"]))


def _write_npz(maps: Mapping[str, Any], path: Path, meta: Meta, provenance: Mapping[str, Any]) -> None:
    """Write one key per map, and the metadata beside them."""
    notes: dict[str, Any] = {"axes": meta.axes, "provenance": metadata.to_json(provenance)}
    notes |= {"channel_names": meta.channel_names, "pixel_size": meta.pixel_size, "unit": meta.unit}
    notes["levels"] = provenance.get("levels")
    kept = {name: np.asarray(value) for name, value in notes.items() if value is not None}
    with path.open("xb") as file:
        np.savez(
            file, allow_pickle=False, **{name: np.asarray(values) for name, values in maps.items()}, **kept
        )


NPY: Final = Format(suffixes=(".npy",), shown=".npy", read=_read_npy)
NPZ: Final = Format(
    suffixes=(".npz",),
    shown="file.npz:key",
    read=_read_npz,
    provenance=_npz_provenance,
    write=_write_npz,
    output=".npz",
    reserved=_NOTES,
    names=_npz_names,
)
