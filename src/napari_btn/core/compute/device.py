"""Devices of this machine, found without loading torch."""

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
        Torch's name and a display name of each device, the one of "auto" first; the CPU is always among them.
    reason : str
        Why no graphics card was found; empty if there is one.
    """

    found: tuple[tuple[str, str], ...]
    reason: str

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the devices in torch."""
        return tuple(name for name, _ in self.found)


@cache
def devices() -> Devices:
    """Return the devices; the driver is asked, so that a window need not wait for torch."""
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
    """Return torch's name of the device that a user named.

    "auto" is the first NVIDIA card, else the CPU. An Apple GPU is used only if named, because its speed on
    networks this small has not been measured.

    Parameters
    ----------
    wanted : str
        "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises
    ------
    ValueError
        If there is no such device, or not on this machine.
    """
    if not (isinstance(wanted, str) and re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", wanted)):
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
    """Return True for CUDA, and for HIP, if the installed torch is built for it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False, False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    built = [re.search(rf"^{name}\b[^=\n]*=\s*['\"]", text, re.MULTILINE) for name in ("cuda", "hip")]
    return built[0] is not None, built[1] is not None


def _cards() -> list[str]:
    """Return the names of the NVIDIA cards that the driver reports, in the order of CUDA."""
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
    """Compute full float32 products in this context, so that results equal those of the CPU to rounding."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def free_bytes(device: str) -> int:
    """Return the memory in bytes that training may use: free memory of a card, else four gigabytes.

    Parameters
    ----------
    device : str
        Name of the device in torch.
    """
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return 4 * 2**30


def lacks_memory(error: BaseException) -> bool:
    """Return True if an error means that the device is out of memory; only CUDA has a class for it.

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
    """Run a task on a tile; if the device lacks memory, on halves of it, and finally on the CPU.

    Parameters
    ----------
    task : callable
        Takes a tile (C, *space), the part to keep and a device; returns an array whose last axes are those of
        the kept part.
    x : ndarray of float32, (C, *space)
        Tile with its halo.
    keep : tuple of slice
        Part to keep.
    reach : sequence of int
        Receptive field in pixels along each axis.
    device : str
        Name of the device in torch.
    alignment : int
        Halves begin and end at multiples of so many pixels, or at the tile's border.

    Returns
    -------
    result : ndarray of float32
    whole : bool
        True if the device had memory for the whole tile.
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
    """Return True if torch can compute on a device that the driver reports; loads torch except for the CPU.

    Parameters
    ----------
    device : str
        Name of the device in torch.
    """
    if device == "cpu":
        return True
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_available())
    return bool(torch.backends.mps.is_available())


def release(device: str) -> None:
    """Return the memory that torch caches on a device to other programs.

    Parameters
    ----------
    device : str
        Name of the device in torch.
    """
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
