"""Soak: damaged files by the thousand, faults of real processes, and cycles that must leave nothing behind.

``make soak`` prints the table of docs/reliability.md. Sizes are options: the full run takes hours.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.hostile import READERS, attempt, changed
from benchmarks.measure import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("flip", "set", "cut", "drop", "insert", "repeat")
STAGES = {
    "checking": "Checking the images",
    "training": "Training member",
    "calibrating": "Calibrating",
}
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}
MOST_S, MOST_MB = 2.0, 500.0
_MOST_ADDRESS = 4 * 2**30
RUN = "import sys; from napari_btn.cli import main; main(sys.argv[1:])"

# ends itself when the note of its progress begins with a text and so many members are finished
ENDS_ITSELF = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from napari_btn.cli import main
from napari_btn.cli.keeping import Keeper
from napari_btn.core.compute import pool
whole = Keeper.watch
number, note, least = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def watch(self, progress):
    whole(self, progress)
    if progress.note.startswith(note) and len(progress.checkpoint or ()) >= least:
        workers = pool._POOL[0]._processes if pool._POOL else ()
        print(len(progress.checkpoint or ()), *workers, flush=True)
        os.kill(os.getpid(), number)
Keeper.watch = watch
main(sys.argv[4:])
"""


def fuzz(name: str, cases: int, seed: int) -> dict[str, Any]:
    """Read damaged files; return how many were read and refused, what else was raised, time and memory."""
    # a bomb becomes a MemoryError here, and not the end of another program
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESS, _MOST_ADDRESS))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    reader, rng = READERS[name], np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = reader.write(Path(folder))
        assert attempt(reader, path) == "read", f"{name}: the whole file is refused"
        files = [f for f in sorted(Path(folder).rglob("*")) if f.is_file() and reader.uses(f, path)]
        whole = {f: f.read_bytes() for f in files}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(cases):
            file = files[rng.integers(len(files))]
            # headers stand at the beginning, so half of the places are there
            places = [rng.random() ** (1 if rng.random() < 0.5 else 4) for _ in range(1 + rng.integers(3))]
            changes = [(KINDS[rng.integers(6)], float(p), int(rng.integers(2**16))) for p in places]
            file.write_bytes(changed(whole[file], changes))
            began = time.process_time()
            try:
                counts[attempt(reader, path)] += 1
            except BaseException as error:  # noqa: BLE001  (what is counted here must not exist)
                odd[f"{type(error).__name__}: {error}"[:120]] += 1
            slowest = max(slowest, time.process_time() - began)
            file.write_bytes(whole[file])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"cases": cases, **counts, "odd": dict(odd), "slowest_s": slowest, "grown_mb": grown}


def _alive(pid: int) -> bool:
    """Return True if a process runs and is no zombie."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def killed(name: str, stage: str, folder: Path, whole: bytes, least: int) -> list[str]:
    """Kill a training at a stage, resume it, and return what was lost or left behind."""
    out, scratch = folder / "edx.btn", folder / "scratch"
    scratch.mkdir()
    number = getattr(signal, name)
    call = _call(folder.parent, out)
    run = subprocess.run(
        [sys.executable, "-c", ENDS_ITSELF, str(int(number)), STAGES[stage], str(least), *call],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(scratch)}, timeout=600,
    )  # fmt: skip
    wrong = []
    if run.returncode != SIGNALS[name]:
        wrong.append(f"exit code {run.returncode}")
    if "Traceback" in run.stderr:
        wrong.append("traceback")
    finished, *workers = (int(n) for n in run.stdout.split()[: 1 + (os.cpu_count() or 1)])
    until = time.monotonic() + 20
    while time.monotonic() < until and any(map(_alive, workers)):
        time.sleep(0.2)
    if any(map(_alive, workers)):
        wrong.append("a worker lives on")
    partial = out.with_name(out.name + ".partial")
    if finished:
        from napari_btn.denoiser import load_partial

        kept = len(load_partial(partial)[1]) if partial.exists() else 0
        if kept < finished:
            wrong.append(f"{finished - kept} finished members lost")
    again = subprocess.run(
        [sys.executable, "-c", RUN, *call, "--resume"],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(scratch)}, timeout=600,
    )  # fmt: skip
    if again.returncode or out.read_bytes() != whole:
        wrong.append("the resumed bundle differs")
    left = [p.name for p in (*folder.iterdir(), *scratch.iterdir()) if p not in (out, scratch)]
    left = [n for n in left if n.startswith((".writing-", "napari-btn", "edx.btn."))]
    return wrong + ([f"left behind: {', '.join(left)}"] if left else [])


def _call(data: Path, out: Path) -> list[str]:
    """Return the arguments of a small training."""
    files = (data / "noisy.npy", data / "clean.npy", "-o", out)
    tiny = (
        "--preset",
        "quick",
        "--depth",
        "2",
        "--members",
        "3",
        "--steps",
        "8",
        "--device",
        "cpu",
        "--start",
        "scratch",
    )
    return [str(a) for a in ("train", *files, "--axes", "CYX", *tiny)]


def faults(times: int) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each fault, how often it was injected, and what was lost."""
    from napari_btn import samples

    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        pair = samples.edx(seed=1, size=(40, 150))
        np.save(data / "noisy.npy", pair.noisy[:1])
        np.save(data / "clean.npy", pair.clean[:1])
        first = data / "whole.btn"
        subprocess.run([sys.executable, "-c", RUN, *_call(data, first)], check=True, capture_output=True)
        for kind in SIGNALS:
            for stage in STAGES:
                lost = []
                for k in range(times):
                    folder = data / f"{kind}-{stage}-{k}"
                    folder.mkdir()
                    lost += killed(kind, stage, folder, first.read_bytes(), 1 if stage == "training" else 0)
                yield f"{kind} while {stage}", times, lost


def cycles(times: int) -> dict[str, tuple[float, float]]:
    """Train, save, load and predict again and again; return memory, threads and open files early and at the end."""
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
    # the first cycles load libraries and start workers
    early, late = seen[min(len(seen) // 4, len(seen) - 1)], seen[-1]
    names = ("memory in MB", "threads", "open files")
    return {name: (early[i], late[i]) for i, name in enumerate(names)}


def main() -> int:
    """Run the soak, print its table and return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="damaged files per reader")
    parser.add_argument(
        "--readers", nargs="+", choices=READERS, default=list(READERS), metavar="NAME",
        help=f"readers of damaged files: {', '.join(READERS)}; default: all",
    )  # fmt: skip
    parser.add_argument("--faults", type=int, default=20, help="times each fault is injected")
    parser.add_argument("--cycles", type=int, default=200, help="train and predict cycles in one process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    print(
        f"Measured on: {machine()}; seed {options.seed}\n\n| what | how often | lost, or wrong |\n|---|---|---|",
        flush=True,
    )
    rows, sound = [], True

    def row(what: str, count: int, wrong: str) -> None:
        """Print one line of the table."""
        nonlocal sound
        sound &= not wrong
        rows.append({"what": what, "count": count, "wrong": wrong})
        print(f"| {what} | {count:,} | {wrong or 'nothing'} |", flush=True)

    context = multiprocessing.get_context("spawn")
    slowest, largest = (0.0, ""), (0.0, "")
    for name in options.readers if options.cases else ():
        # a process each, so that its memory is its own
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            try:
                made = pool.submit(fuzz, name, options.cases, options.seed).result()
            except BrokenProcessPool:
                row(f"damaged file: {name}", options.cases, "the process died")
                continue
        slowest = max(slowest, (made["slowest_s"], name))
        largest = max(largest, (made["grown_mb"], name))
        wrong = [f"{n} times {text}" for text, n in made["odd"].items()]
        wrong += [f"a case of {made['slowest_s']:.1f} s"] if made["slowest_s"] > MOST_S else []
        wrong += [f"{made['grown_mb']:.0f} MB more memory"] if made["grown_mb"] > MOST_MB else []
        shown = f"damaged file: {name} ({made.get('read', 0):,} read, {made.get('refused', 0):,} refused, slowest "
        row(f"{shown}{made['slowest_s']:.2f} s, {made['grown_mb']:.0f} MB)", made["cases"], "; ".join(wrong))
    for what, count, lost in faults(options.faults) if options.faults else ():
        row(what, count, "; ".join(lost))
    if options.cycles:
        for what, (early, late) in cycles(options.cycles).items():
            room = 1.1 * early + 30 if "memory" in what else early
            wrong = "" if late <= room else f"grew from {early:.0f} to {late:.0f}"
            row(
                f"train, save, load, predict: {what} ({early:.0f} early, {late:.0f} at the end)",
                options.cycles,
                wrong,
            )
    if options.cases:
        print(
            f"\nWorst case of a damaged file: {slowest[0]:.2f} s of CPU ({slowest[1]}) and {largest[0]:.0f} MB "
            f"({largest[1]}); {MOST_S:g} s and {MOST_MB:g} MB are allowed."
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(f"\n{'All green.' if sound else 'Something was lost.'}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
