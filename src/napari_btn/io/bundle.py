"""A bundle: one safetensors file with settings, weights, held-out scores and provenance.

Everything that is not an array is JSON in the metadata of the file. There is no pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.io.atomic import written_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BUNDLE_VERSION", "Bundle", "read_bundle", "write_bundle"]

BUNDLE_VERSION = 1
_KEY = "napari-btn"


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
    values = {"version": BUNDLE_VERSION, **bundle.values, "sha256": _digest(arrays)}
    metadata = {_KEY: json.dumps(values, sort_keys=True)}
    with written_whole(Path(path), overwrite=True) as temporary:
        # safetensors' own save_file makes files that only their owner may read
        temporary.write_bytes(save(arrays, metadata=metadata))


def read_bundle(path: str | Path) -> Bundle:
    """Read a bundle.

    Raises
    ------
    ValueError
        If the file is damaged, cut short, not a napari-btn bundle, or newer than this version.
    OSError
        If the file can't be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no bundle {path}; check the name.")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a dict)
        values = json.loads(metadata[_KEY]) if _KEY in metadata else None
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path.name} is not a whole napari-btn bundle (damaged, cut short, or another kind of file): {error}. "
            "Copy it again, or train again."
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("version"), int):
        raise ValueError(
            f"{path.name} is a safetensors file of another program; choose a bundle saved by napari-btn."
        )
    if values["version"] > BUNDLE_VERSION:
        raise ValueError(
            f"{path.name} has bundle version {values['version']}; this napari-btn reads up to {BUNDLE_VERSION}. "
            "Update napari-btn."
        )
    if values.get("sha256", _digest(arrays)) != _digest(arrays):
        raise ValueError(f"{path.name} is damaged: its arrays are not those that were saved. Copy it again.")
    return Bundle(values, arrays)


def _digest(arrays: dict[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of all arrays: the format itself notices a missing byte, but not a wrong one."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
