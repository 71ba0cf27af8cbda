"""Measurement of CPU-seconds and memory of a process and its workers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Spent:
    """The seconds of a block: wall time, and user + system time of this process and its children."""

    wall: float = 0.0
    cpu: float = 0.0


def _processes() -> Iterator[psutil.Process]:
    me = psutil.Process()
    yield me
    yield from me.children(recursive=True)


def _cpu_so_far() -> float:
    """Return user + system seconds of all living processes and of their finished children."""
    total = 0.0
    for process in _processes():
        with contextlib.suppress(psutil.Error):
            t = process.cpu_times()
            total += t.user + t.system + getattr(t, "children_user", 0.0) + getattr(t, "children_system", 0.0)
    return total


@contextlib.contextmanager
def spent() -> Iterator[Spent]:
    """Measure a block; workers that are alive at its end are counted as well."""
    made = Spent()
    wall, cpu = time.perf_counter(), _cpu_so_far()
    try:
        yield made
    finally:
        made.wall, made.cpu = time.perf_counter() - wall, _cpu_so_far() - cpu


def own_cpu(action: Callable[[], object], repeats: int) -> float:
    """Return the least CPU-seconds of this process over repeats of an action."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        action()
        best = min(best, time.process_time() - began)
    return best


@dataclass
class Peak:
    """The peak memory in bytes, of this process alone and with all its workers.

    Workers share the pages of their libraries, which the resident set size counts in each of them;
    ``proportional`` counts a shared page once (Linux).
    """

    own: int = 0
    together: int = 0
    proportional: int = 0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)


@contextlib.contextmanager
def peak_memory(interval: float = 0.05) -> Iterator[Peak]:
    """Watch memory from a thread while a block runs."""
    peak = Peak()

    def watch() -> None:
        turn = 0
        while not peak._stop.wait(interval):
            sizes = []
            shares = []
            for process in _processes():
                with contextlib.suppress(psutil.Error):
                    sizes.append(process.memory_info().rss)
                    if turn % 10 == 0:
                        shares.append(getattr(process.memory_full_info(), "pss", 0))
            turn += 1
            peak.own = max(peak.own, sizes[0])
            peak.together = max(peak.together, sum(sizes))
            peak.proportional = max(peak.proportional, sum(shares))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        peak._stop.set()
        thread.join()


def close_pool() -> None:
    """End the local pool, so that the next block includes the start of its own."""
    from napari_btn.core.compute.pool import process_pool

    process_pool().shutdown(wait=True)


def machine() -> dict[str, Any]:
    """Return a description of this machine and of the installed versions."""
    packages = ("napari-btn", "torch", "numpy", "scikit-image", "napari")
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "load_at_start": [round(v, 2) for v in psutil.getloadavg()],
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
