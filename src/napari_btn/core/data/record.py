"""Records of steps for recipes: inputs as shapes and hashes, and versions of the software."""

from __future__ import annotations

import hashlib
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.fingerprint import array_digest_steps
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_btn.core.progress import Step

__all__ = ["inputs_steps", "maps_digest_steps", "recipe_step"]


def inputs_steps(arrays: Mapping[str, Any]) -> Step[dict[str, dict[str, Any]]]:
    """Return shape, type and hash of each array, without those that are None; a step.

    Parameters
    ----------
    arrays : mapping of str to array
        By the name of the argument.
    """
    made = {}
    for name, array in arrays.items():
        if array is None or isinstance(array, str):
            continue
        values = array if hasattr(array, "shape") else np.asarray(array)
        digest = yield from array_digest_steps(values)
        made[name] = {"shape": [int(n) for n in values.shape], "dtype": str(values.dtype), "sha256": digest}
    return made


def recipe_step(do: str, inputs: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """Return a step for a recipe.

    Parameters
    ----------
    do : str
        What was done, as the workflow names it.
    inputs : mapping
        Result of `inputs_steps`.
    **values
        Settings, JSON-ready; None is left out.
    """
    import torch

    from napari_btn import __version__

    versions = {
        "napari-btn": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    known = {k: v for k, v in values.items() if v is not None}
    return {"do": do, **known, "inputs": dict(inputs), "versions": versions}


def maps_digest_steps(maps: Mapping[str, NDArray[np.float32]]) -> Step[str]:
    """Return the SHA-256 of the maps of a prediction; a step.

    Parameters
    ----------
    maps : mapping of str to ndarray
        Lower, median and upper among them.
    """
    digest = hashlib.sha256()
    for name in ("lower", "median", "upper"):
        part = yield from array_digest_steps(maps[name])
        digest.update(part.encode())
    yield Progress(1, 1, "Recording")
    return digest.hexdigest()
