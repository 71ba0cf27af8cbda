"""Records of steps for recipes: inputs as shapes and hashes, versions of the software, masks as text."""

from __future__ import annotations

import base64
import hashlib
import math
import platform
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.fingerprint import array_digest_steps
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.progress import Step

__all__ = ["inputs_steps", "maps_digest_steps", "packed", "recipe_step", "unpacked", "with_step"]


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
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_cpu_maker()}".rstrip(),
    }
    known = {k: v for k, v in values.items() if v is not None}
    return {"do": do, **known, "inputs": dict(inputs), "versions": versions}


def _cpu_maker() -> str:
    """Return the maker of the CPU, by which MKL chooses the order of its sums; "" where the system doesn't say."""
    if (told := Path("/proc/cpuinfo")).exists():
        lines = told.read_text(errors="replace").splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")
    return platform.processor().rpartition(",")[2].strip()


def with_step(provenance: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a provenance whose recipe has one more step.

    Parameters
    ----------
    provenance : mapping
        With a recipe.
    step : mapping
        Result of `recipe_step`.
    """
    return {**provenance, "recipe": [*provenance["recipe"], dict(step)]}


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


def packed(mask: NDArray[np.bool_]) -> str:
    """Return a mask as text, its bits compressed.

    Parameters
    ----------
    mask : ndarray of bool
        Of any shape, which the text doesn't tell.
    """
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes())).decode("ascii")


def unpacked(text: str, shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return the mask of a text that `packed` made.

    Parameters
    ----------
    text : str
        Result of `packed`.
    shape : sequence of int
        Of the mask; no more than its bits are read.

    Raises
    ------
    ValueError
        If the text is damaged, or of a mask of another size.
    """
    size = math.prod(shape)
    try:
        found = zlib.decompressobj().decompress(base64.b64decode(text), max(-(-size // 8), 1))
    except (TypeError, ValueError, zlib.error):
        found = b""
    if len(found) != -(-size // 8):
        raise ValueError(
            "The recipe holds a mask that is damaged or of another image. Export the recipe again."
        )
    return np.unpackbits(np.frombuffer(found, np.uint8), count=size).astype(bool).reshape(shape)
