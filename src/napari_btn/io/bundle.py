"""A bundle: one safetensors file with settings, weights, held-out scores and provenance.

Everything that is not an array is JSON in the metadata of the file. There is no pickle anywhere. A checksum in
the JSON covers all of its other values, and the names, types, shapes and values of all arrays, so that no change
of either goes unnoticed. In bundles of version 1 it covers names and values of the arrays alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.io.atomic import MissingInputError, path_of, written_whole
from napari_btn.io.damage import DamagedFileError, reading

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BUNDLE_VERSION", "Bundle", "read_bundle", "write_bundle"]

BUNDLE_VERSION = 2
_KEY, _SUM = "napari-btn", "sha256"
_DAMAGED = (
    "{file} is not a whole napari-btn bundle (damaged, cut short, or another kind of file): {why}. "
    "Copy it again, or train again."
)


@dataclass(frozen=True, eq=False)
class Bundle:
    """The content of a bundle file.

    Parameters
    ----------
    values : dict
        JSON-ready: settings, calibration, report, provenance.
    arrays : dict of str to ndarray
        Weights and held-out scores.
    """

    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def write_bundle(bundle: Bundle, path: str | Path) -> None:
    """Write a bundle; it appears under its name only when it is whole.

    Raises
    ------
    OSError
        If the folder is missing or read-only, or the disk is full; the message says which.
    """
    from safetensors.numpy import save

    arrays = {k: np.asarray(v, order="C") for k, v in sorted(bundle.arrays.items())}
    values = {"version": BUNDLE_VERSION, **bundle.values}
    text = json.dumps({**values, _SUM: _digest(values, arrays)}, sort_keys=True)
    with written_whole(path, overwrite=True) as temporary:
        # safetensors' own save_file makes files that only their owner may read
        temporary.write_bytes(save(arrays, metadata={_KEY: text}))


def read_bundle(path: str | Path) -> Bundle:
    """Read a bundle.

    Raises
    ------
    ValueError
        If the file is damaged, cut short, not a napari-btn bundle, or newer than this version.
    OSError
        If the file can't be read.
    """
    from safetensors import safe_open

    path = path_of(path)
    if not path.is_file():
        raise MissingInputError(f"There is no bundle {path}; check the name.")
    with reading(path, _DAMAGED):
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a dict)
        values = json.loads(metadata.get(_KEY, "null"))
    if not isinstance(values, dict) or type(values.get("version")) is not int:
        raise ValueError(
            f"{path.name} is a safetensors file of another program; choose a bundle saved by napari-btn."
        )
    if values["version"] > BUNDLE_VERSION:
        raise ValueError(
            f"{path.name} has bundle version {values['version']}; this napari-btn reads up to {BUNDLE_VERSION}. "
            "Update napari-btn."
        )
    saved = values.pop(_SUM, None)
    if saved != (_digest_of_version_1(arrays) if values["version"] == 1 else _digest(values, arrays)):
        raise DamagedFileError(
            f"{path.name} is damaged: its content differs from what was saved. Copy it again, or train again."
        )
    return Bundle({k: v for k, v in values.items() if k != "version"}, arrays)


def _digest(values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of all that a bundle holds; values read again from their JSON give the same."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        # a header before each array, so that no two contents give the same bytes
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _digest_of_version_1(arrays: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of names and values of arrays, as bundles of version 1 have it."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
