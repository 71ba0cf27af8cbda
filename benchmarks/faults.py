"""Faults of real processes: signals, sleep, a full disk, a read-only folder and too little memory.

Each is injected into a small training or prediction at a stage; then what was lost is listed, and the same call goes
on to its end, where its output must have the same bytes as without a fault. Linux only.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}
STAGES = {
    "checking": "Checking the images",
    "training": "Training member",
    "calibrating": "Calibrating",
    "saving": "",
    "predicting": "",
    "saving maps": "",
}
PREDICTS = ("predicting", "saving maps")
ASLEEP_S = 5.0
_TINY = "--axes CYX --preset quick --depth 2 --members 3 --steps 8 --device cpu --start scratch"
RUN = "import sys; from napari_btn.cli import main; main(sys.argv[1:])"

# Tells its finished members and its workers at a stage, and ends itself there by a signal, or goes on with 0. A
# stage is the begin of a note of progress with so many members finished, or the moment before an output is named.
AT_A_STAGE = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from napari_btn.cli import main
from napari_btn.cli.keeping import Keeper
from napari_btn.core.compute import pool
from napari_btn.io import atomic
import tqdm
number, stage, note, least = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
known = []
def reached():
    if known and known[-1] is None:
        return
    workers = pool._POOL[0]._processes if pool._POOL else ()
    print(len(known[-1]) if known else 0, *workers, flush=True)
    known.append(None)
    if number:
        os.kill(os.getpid(), number)
    else:
        sys.stdin.readline()
watch, put, update = Keeper.watch, atomic._put, tqdm.tqdm.update
def watched(self, progress):
    watch(self, progress)
    if stage in ("checking", "training", "calibrating"):
        if progress.note.startswith(note) and len(progress.checkpoint or ()) >= least:
            known.append(progress.checkpoint or ())
            reached()
def named(temporary, path):
    if stage.startswith("saving") and path.suffix in (".btn", ".npz"):
        reached()
    put(temporary, path)
def updated(self, n=1):
    if stage == "predicting":
        reached()
    return update(self, n)
Keeper.watch, atomic._put, tqdm.tqdm.update = watched, named, updated
main(sys.argv[5:])
"""


def _alive(pid: int) -> bool:
    """Return True if a process runs and is no zombie."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


class Case:
    """One call in a folder of its own, into which a fault is injected.

    Parameters
    ----------
    folder : Path
        A new one, whose parent has the images and the whole outputs.
    predicts : bool
        True for a prediction, False for a training.
    """

    def __init__(self, folder: Path, *, predicts: bool = False) -> None:
        folder.mkdir()
        self.folder, self.predicts, self.wrong = folder, predicts, list[str]()
        self.out = folder / ("maps.npz" if predicts else "edx.btn")
        self.whole = (folder.parent / f"whole{self.out.suffix}").read_bytes()
        self.scratch = folder.with_name(f"{folder.name}-scratch")
        self.scratch.mkdir()
        self.call = _predict(folder.parent, self.out) if predicts else _train(folder.parent, self.out)

    def run(self, *code: str, workers: int = 2, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the call in a script to its end."""
        environment = {**os.environ, "TMPDIR": str(self.scratch), "LOKY_MAX_CPU_COUNT": str(workers)}
        return subprocess.run(
            [sys.executable, "-c", *code, *self.call], capture_output=True, text=True, check=False,
            env=environment, timeout=900, **options,
        )  # fmt: skip

    def ended(self, code: int, wanted: int, told: str, said: str) -> None:
        """Note what is wrong after the fault: the exit code, a traceback, living workers, lost members."""
        if code != wanted:
            self.wrong.append(f"exit code {code}: {said[-200:]}")
        if "Traceback" in said:
            self.wrong.append("traceback")
        finished, *workers = (int(n) for n in told.splitlines()[0].split()) if told else (0,)
        until = time.monotonic() + 30
        while time.monotonic() < until and any(map(_alive, workers)):
            time.sleep(0.2)
        if any(map(_alive, workers)):
            self.wrong.append("a worker lives on")
        if self.out.exists() and self.out.read_bytes() != self.whole:
            self.wrong.append("half an output under its name")
        partials = [*self.folder.glob("*.partial"), *self.scratch.glob("*/*.partial")]
        if finished and not self.out.exists():
            from napari_btn.denoiser import load_partial

            kept = max((len(load_partial(p)[1]) for p in partials), default=0)
            if kept < finished:
                self.wrong.append(f"{finished - kept} finished members lost")

    def goes_on(self) -> list[str]:
        """Run the same call to its end, compare its bytes, and return all that was wrong."""
        if not self.out.exists():
            self.call += [] if self.predicts else ["--resume"]
            # the bytes don't depend on the number of workers, and each takes seconds to start
            again = self.run(RUN, workers=1)
            if again.returncode or self.out.read_bytes() != self.whole:
                self.wrong.append(f"the output of the same call differs {again.stderr[-200:]}")
        left = [p.name for p in (*self.folder.iterdir(), *self.scratch.iterdir())]
        left = [n for n in left if n.startswith((".writing-", "napari-btn", f"{self.out.name}."))]
        return self.wrong + ([f"left behind: {', '.join(left)}"] if left else [])


def _train(data: Path, out: Path) -> list[str]:
    """Return the arguments of a small training."""
    return ["train", str(data / "noisy.npy"), str(data / "clean.npy"), "-o", str(out), *_TINY.split()]


def _predict(data: Path, out: Path) -> list[str]:
    """Return the arguments of a prediction."""
    return ["predict", str(data / "whole.btn"), str(data / "noisy.npy"), "-o", str(out), "--axes", "CYX"]


def killed(name: str, stage: str, folder: Path) -> list[str]:
    """End a call by a signal at a stage and repeat it; return what was lost or left behind."""
    case = Case(folder, predicts=stage in PREDICTS)
    run = case.run(AT_A_STAGE, str(int(getattr(signal, name))), *_at(stage))
    if stage.startswith("saving") and run.returncode == 0 and name != "SIGKILL":
        run.returncode = SIGNALS[name]  # the signal came too late to end anything, and the output is whole
    case.ended(run.returncode, SIGNALS[name], run.stdout, run.stderr)
    return case.goes_on()


def _at(stage: str) -> tuple[str, str, str]:
    """Return a stage as `AT_A_STAGE` takes it: its name, the begin of its note, and the members finished by then."""
    return stage, STAGES[stage], "1" if stage == "training" else "0"


@contextmanager
def _held(case: Case, stage: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a call that waits at a stage, in a group of processes of its own, and the line that it wrote there."""
    code = [AT_A_STAGE, "0", *_at(stage)]
    process = subprocess.Popen(
        [sys.executable, "-c", *code, *case.call], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "TMPDIR": str(case.scratch), "LOKY_MAX_CPU_COUNT": "2"},
    )  # fmt: skip
    assert process.stdout is not None
    yield process, process.stdout.readline()


def _finish(process: subprocess.Popen[str], written: str, case: Case, wanted: int) -> str:
    """Let a held call go on to its end, and note what is wrong; return what it said."""
    _, said = process.communicate("\n", timeout=900)
    case.ended(process.returncode, wanted, written, said)
    return said


def slept(stage: str, folder: Path) -> list[str]:
    """Stop all processes of a call for some seconds at a stage, as a laptop that sleeps."""
    case = Case(folder, predicts=stage in PREDICTS)
    with _held(case, stage) as (process, written):
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(ASLEEP_S)
        os.killpg(process.pid, signal.SIGCONT)
        _finish(process, written, case, 0)
    return case.goes_on()


def short_of_memory(stage: str, folder: Path) -> list[str]:
    """Give no process of a call any more memory than it has at a stage."""
    case = Case(folder, predicts=stage in PREDICTS)
    with _held(case, stage) as (process, written):
        for pid in (process.pid, *map(int, written.split()[1:])):
            with suppress(ProcessLookupError, FileNotFoundError):
                size = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[0])
                resource.prlimit(pid, resource.RLIMIT_AS, (size * resource.getpagesize(),) * 2)
        _, said = process.communicate("\n", timeout=900)
        # little is needed: it may end well, or in one sentence
        wanted = 0 if process.returncode == 0 else 2
        case.ended(process.returncode, wanted, written, said)
    return case.goes_on()


def _may_not_write() -> None:
    """Take the right of root to write everywhere from the next program of this process."""
    if os.geteuid() == 0:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability)


def read_only(folder: Path, *, predicts: bool) -> list[str]:
    """Write into a folder that is read-only."""
    case = Case(folder, predicts=predicts)
    folder.chmod(0o555)
    try:
        run = case.run(RUN, preexec_fn=_may_not_write)
    finally:
        folder.chmod(0o755)
    case.ended(run.returncode, 2, "", run.stderr)
    if "can't be written to; choose another" not in run.stderr:
        case.wrong.append(f"said: {run.stderr.splitlines()[-1]}")
    return case.goes_on()


def full_disk(folder: Path, *, predicts: bool) -> list[str]:
    """Write on a disk of a few kilobytes: a small one where it may be mounted, else by a limit for files."""
    case = Case(folder, predicts=predicts)
    most = len(case.whole) // 2
    mount = ["mount", "-t", "tmpfs", "-o", f"size={most}", "soak", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    try:
        run = case.run(RUN, preexec_fn=None if mounted else limited)
        if case.out.exists():
            case.wrong.append("half an output under its name")
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
    for kept in case.scratch.glob("*/*.btn"):
        # the trained model, as the message says
        shutil.move(kept, case.out)
        kept.parent.rmdir()
    if mounted and not predicts and not case.out.exists():
        case.wrong.append("the trained model lost")
    case.ended(run.returncode, 2, "", run.stderr)
    return case.goes_on()


def faults(times: int, jobs: int) -> Iterator[tuple[str, int, list[str]]]:
    """Yield each fault, how often it was injected, and what was lost; so many are injected at a time."""
    from napari_btn import samples

    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        pair = samples.edx(seed=1, size=(40, 150))
        np.save(data / "noisy.npy", pair.noisy[:1])
        np.save(data / "clean.npy", pair.clean[:1])
        for call in (_train(data, data / "whole.btn"), _predict(data, data / "whole.npz")):
            subprocess.run([sys.executable, "-c", RUN, *call], check=True, capture_output=True)
        every: dict[str, Callable[[Path], list[str]]] = {}
        for kind in SIGNALS:
            for stage in STAGES:
                every[f"{kind} while {stage}"] = partial(killed, kind, stage)
        for stage in STAGES:
            every[f"a laptop that sleeps for {ASLEEP_S:g} s while {stage}"] = partial(slept, stage)
            every[f"no more memory while {stage}"] = partial(short_of_memory, stage)
        for what, predicts in (("a training", False), ("a prediction", True)):
            every[f"a read-only folder for the output of {what}"] = partial(read_only, predicts=predicts)
            every[f"a disk with too little room for the output of {what}"] = partial(
                full_disk, predicts=predicts
            )
        # processes, not threads: subprocess calls Python in its child before the program of some faults
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            tasks = {
                what: [pool.submit(inject, data / f"{number}-{k}") for k in range(times)]
                for number, (what, inject) in enumerate(every.items())
            }
            for what, injected in tasks.items():
                yield what, times, [wrong for task in injected for wrong in task.result()]
