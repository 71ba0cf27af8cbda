"""Soak: damaged files by the thousand, faults of real processes, and cycles that must leave nothing behind.

``make soak`` prints the table of docs/reliability.md. Sizes are options: the full run takes hours. Readers and
faults run on all cores, each in a process of its own; `--jobs 1` runs one at a time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.faults import faults
from benchmarks.hostile import KINDS, READERS, Tally, changed
from benchmarks.measure import machine
from benchmarks.window import NAMES, window_cycles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_S, MOST_MB = 2.0, 500.0


def fuzz(name: str, cases: int, seed: int) -> dict[str, Any]:
    """Read damaged files; return how many were read and refused, what else was raised, time and memory."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        tally = Tally(READERS[name], Path(folder))
        files = list(tally.whole)
        for _ in range(cases):
            file = files[rng.integers(len(files))]
            # headers stand at the beginning, so half of the places are there
            places = [rng.random() ** (1 if rng.random() < 0.5 else 4) for _ in range(1 + rng.integers(3))]
            changes = [(KINDS[rng.integers(6)], float(p), int(rng.integers(2**16))) for p in places]
            tally.take(file, changed(tally.whole[file], changes))
    return tally.to_dict()


def guided(name: str, runs: int, seed: int) -> dict[str, Any]:
    """Read files that atheris damages further where they reached new lines; return the same figures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        call = [sys.executable, "-m", "benchmarks.guided", name, str(runs), str(seed), str(out)]
        subprocess.run(call, check=True, capture_output=True)
        return dict(json.loads(out.read_text(encoding="utf-8")))


def cycles(times: int) -> list[tuple[float, ...]]:
    """Train, save, load and predict again and again; return memory, threads and open files after each cycle."""
    import gc

    import psutil

    import napari_btn as btn
    from napari_btn import samples

    pair = samples.edx(seed=1, size=(40, 150))
    network = btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8)
    me, seen = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(times):
            train = btn.TrainSettings(steps=3, start="scratch")
            made = btn.Denoiser(members=2, seed=k, device="cpu", network=network, train=train)
            made.fit(pair.noisy, pair.clean, axes="CYX")
            made.save(Path(folder) / "a.btn")
            btn.load(Path(folder) / "a.btn").predict(pair.noisy, out=Path(folder) / "a.zarr", overwrite=True)
            del made
            gc.collect()
            seen.append((me.memory_info().rss / 2**20, threading.active_count(), me.num_fds()))
    return seen


def alone(task: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a task gives in a new process, so that its memory and its screen are its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments, **options).result()


def damaged_files(
    readers: Sequence[str], cases: int, runs: int, seed: int, jobs: int
) -> Iterator[tuple[str, str, int, dict[str, Any] | str]]:
    """Yield each reader, how its files were damaged, how many, and its figures or why there are none.

    Readers run beside each other, and come as they end.
    """
    tasks: dict[Any, tuple[str, str, int]] = {}
    with ThreadPoolExecutor(jobs) as threads:
        for name in readers if cases else ():
            tasks[threads.submit(alone, fuzz, name, cases, seed)] = (name, "", cases)
        for name in readers if runs else ():
            tasks[threads.submit(guided, name, runs, seed)] = (name, ", guided by coverage", runs)
        for task in as_completed(tasks):
            try:
                yield *tasks[task], task.result()
            except BrokenProcessPool:
                yield *tasks[task], "the process died"
            except subprocess.CalledProcessError as error:
                yield *tasks[task], f"the process died ({error.returncode})"


class Table:
    """The table of what was injected, printed as it comes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.slowest, self.largest = (0.0, ""), (0.0, "")

    def row(self, what: str, count: int, wrong: str) -> None:
        """Print one line."""
        self.rows.append({"what": what, "count": count, "wrong": wrong})
        print(f"| {what} | {count:,} | {wrong or 'nothing'} |", flush=True)

    def damaged(self, name: str, how: str, made: dict[str, Any]) -> None:
        """Print the line of one reader; atheris itself keeps the results of comparisons, so there only files count."""
        self.slowest = max(self.slowest, (made["slowest_s"], name))
        self.largest = max(self.largest, (made["largest_mb"], name))
        wrong = [f"{n} times {text}" for text, n in made["odd"].items()]
        wrong += [f"a case of {made['slowest_s']:.1f} s"] if made["slowest_s"] > MOST_S else []
        wrong += [f"a case of {made['largest_mb']:.0f} MB"] if made["largest_mb"] > MOST_MB else []
        wrong += [f"{made['kept_mb']:.0f} MB left behind"] if made["kept_mb"] > MOST_MB and not how else []
        shown = f"damaged file: {name}{how} ({made.get('read', 0):,} read, {made.get('refused', 0):,} refused, slowest "
        self.row(
            f"{shown}{made['slowest_s']:.2f} s, {made['largest_mb']:.0f} MB)", made["cases"], "; ".join(wrong)
        )

    def flat(self, what: str, names: Sequence[str], seen: Sequence[tuple[float, ...]]) -> None:
        """Print a line for each figure that must not grow from cycle to cycle."""
        # the first cycles load libraries and start workers
        early, late = seen[min(len(seen) // 4, len(seen) - 1)], seen[-1]
        for name, first, last in zip(names, early, late, strict=False):
            room = 1.1 * first + 30 if "memory" in name else first
            wrong = "" if last <= room else f"grew from {first:.0f} to {last:.0f}"
            self.row(f"{what}: {name} ({first:.0f} early, {last:.0f} at the end)", len(seen), wrong)


def main() -> int:
    """Run the soak, print its table and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="damaged files per reader")
    parser.add_argument(
        "--guided", type=int, default=0, metavar="RUNS", help="as many files per reader, damaged by atheris"
    )
    parser.add_argument(
        "--readers", nargs="+", choices=READERS, default=list(READERS), metavar="NAME",
        help=f"readers of damaged files: {', '.join(READERS)}; default: all",
    )  # fmt: skip
    parser.add_argument("--faults", type=int, default=5, help="times each fault is injected")
    parser.add_argument("--cycles", type=int, default=200, help="train and predict cycles in one process")
    parser.add_argument("--windows", type=int, default=50, help="cycles of docks and layers in one viewer")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="readers and faults at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.guided and find_spec("atheris") is None:
        parser.error("--guided needs atheris; pip install atheris brings it.")
    table = Table()
    print(
        f"Measured on: {machine()}; seed {options.seed}\n\n| what | how often | lost, or wrong |\n|---|---|---|",
        flush=True,
    )
    for name, how, count, made in damaged_files(
        options.readers, options.cases, options.guided, options.seed, options.jobs
    ):
        if isinstance(made, str):
            table.row(f"damaged file: {name}{how}", count, made)
        else:
            table.damaged(name, how, made)
    for what, count, lost in faults(options.faults, options.jobs) if options.faults else ():
        table.row(what, count, "; ".join(lost))
    if options.cycles:
        table.flat("train, save, load, predict", NAMES, cycles(options.cycles))
    shows = {"layers and empty docks": False, "four docks, training and results": True}
    for what, docks in shows.items() if options.windows else ():
        table.flat(f"{what} in one viewer", NAMES, alone(window_cycles, options.windows, docks=docks))
    if table.slowest[1]:
        print(
            f"\nWorst case of a damaged file: {table.slowest[0]:.2f} s of CPU ({table.slowest[1]}) and "
            f"{table.largest[0]:.0f} MB ({table.largest[1]}); {MOST_S:g} s and {MOST_MB:g} MB are allowed."
        )
    if options.json:
        options.json.write_text(json.dumps(table.rows, indent=1), encoding="utf-8")
    sound = not any(row["wrong"] for row in table.rows)
    print(f"\n{'All green.' if sound else 'Something was lost.'}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
