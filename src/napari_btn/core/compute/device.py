"""Which devices this machine can compute on, and why not on others; torch is not needed to tell."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "Devices",
    "device_for",
    "devices",
    "exact_arithmetic",
    "free_bytes",
    "lacks_memory",
    "release",
    "works",
]


@dataclass(frozen=True)
class Devices:
    """Devices of this machine.

    Parameters
    ----------
    found : tuple of (str, str)
        Torch's name and a name for a person, the one that "auto" takes first; the CPU is always there.
    reason : str
        Why there is no graphics card among them; empty where there is one.
    """

    found: tuple[tuple[str, str], ...]
    reason: str

    @property
    def names(self) -> tuple[str, ...]:
        """Torch's names."""
        return tuple(name for name, _ in self.found)


@cache
def devices() -> Devices:
    """Return what there is: asked of the driver, so that a window need not wait for torch to load."""
    cuda, hip = _built_for()
    if sys.platform == "darwin":
        if platform.machine() == "arm64":
            return Devices((("cpu", "CPU"), ("mps", "Apple GPU")), "")
        return Devices((("cpu", "CPU"),), "this Mac has no Apple GPU")
    if not cuda:
        built = "for AMD cards, which are not supported" if hip else "without CUDA"
        return Devices((("cpu", "CPU"),), f"the installed PyTorch is built {built}")
    cards = _cards()
    if not cards:
        return Devices((("cpu", "CPU"),), "no NVIDIA card with a driver was found")
    named = [("cuda" if i == 0 else f"cuda:{i}", name) for i, name in enumerate(cards)]
    return Devices((*named, ("cpu", "CPU")), "")


def device_for(wanted: str) -> str:
    """Torch's name of the device that a user's name means.

    "auto" is the first NVIDIA card, else the CPU: whether an Apple GPU beats its CPU at networks this
    small has not been measured, so it is taken only when named.

    Parameters
    ----------
    wanted : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    ValueError
        If it is no device, or none of this machine's.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", wanted):
        raise ValueError(f'device is {wanted!r}; it must be "auto", "cpu", "cuda", "cuda:1" or "mps".')
    here = devices()
    if wanted == "auto":
        return here.names[0]
    name = "cuda" if wanted == "cuda:0" else wanted
    if name not in here.names:
        reason = f" ({here.reason})" if here.reason else ""
        raise ValueError(
            f"device is {wanted!r}, but this machine offers {', '.join(here.names)}{reason}; give one of these."
        )
    return name


def _built_for() -> tuple[bool, bool]:
    """Whether the installed torch is built for CUDA, and for HIP, as its version file says."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False, False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    built = [re.search(rf"^{name}\b[^=\n]*=\s*['\"]", text, re.MULTILINE) for name in ("cuda", "hip")]
    return built[0] is not None, built[1] is not None


def _cards() -> list[str]:
    """Names of the NVIDIA cards that the driver shows, in CUDA's order."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    names = []
    for i in range(count.value):
        text = ctypes.create_string_buffer(128)
        driver.cuDeviceGetName(text, len(text), i)
        names.append(text.value.decode(errors="replace"))
    return names


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Full float32 products inside: what is made on a card is what the CPU makes, to rounding."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def free_bytes(device: str) -> int:
    """Memory that training may count on: what is free on a card, elsewhere four gigabytes.

    Parameters
    ----------
    device : str
        Torch's name.
    """
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 4 * 2**30


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is used up: only CUDA has a class for that.

    Parameters
    ----------
    error : Exception
    """
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def in_memory(
    task: Callable[[NDArray[np.float32], tuple[slice, ...], str], NDArray[np.float32]],
    x: NDArray[np.float32],
    keep: tuple[slice, ...],
    reach: Sequence[int],
    device: str,
    alignment: int = 1,
) -> tuple[NDArray[np.float32], bool]:
    """What a task makes of a tile, in halves where the device's memory is too small, at last on the CPU.

    Parameters
    ----------
    task : callable
        Of a tile (C, *space), the part to keep and a device; returns an array that ends in that part's axes.
    x : ndarray of float32, (C, *space)
        With its halo.
    keep : tuple of slice
        The part that is wanted.
    reach : sequence of int
        How far a pixel sees, along each axis.
    device : str
        Torch's name.
    alignment : int
        Halves begin and end at multiples of so many pixels, or at the tile's border.

    Returns
    -------
    result : ndarray of float32
    whole : bool
        Whether the device had room for the tile as it was.
    """
    try:
        return task(x, keep, device), True
    except RuntimeError as error:
        if not lacks_memory(error) or device == "cpu":
            raise
    release(device)
    axis = max(range(len(keep)), key=lambda a: keep[a].stop - keep[a].start)
    start, stop = keep[axis].start, keep[axis].stop
    if stop - start <= max(2 * reach[axis], 1):
        return task(x, keep, "cpu"), False
    middle = (start + stop) // 2
    made = []
    for first, last in ((start, middle), (middle, stop)):
        low = max(first - reach[axis], 0) // alignment * alignment
        high = min(-(-(last + reach[axis]) // alignment) * alignment, x.shape[1 + axis])
        part = x[(slice(None),) * (1 + axis) + (slice(low, high),)]
        inner = (*keep[:axis], slice(first - low, last - low), *keep[axis + 1 :])
        made.append(in_memory(task, part, inner, reach, device, alignment)[0])
    return np.concatenate(made, axis - len(keep)), False


def works(device: str) -> bool:
    """Whether torch itself can compute on a device that the driver shows; it loads torch where that isn't the CPU.

    Parameters
    ----------
    device : str
        Torch's name.
    """
    if device == "cpu":
        return True
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_available())
    return bool(torch.backends.mps.is_available())


def release(device: str) -> None:
    """Give memory that torch holds ready on a device back to other programs.

    Parameters
    ----------
    device : str
        Torch's name.
    """
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
