"""Faults of real processes: what was finished stays, nothing is left behind, nothing hangs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from napari_btn import samples
from napari_btn.cli import main
from napari_btn.core.compute.scratch import dead_folders, remove_dead, scratch_folder

TINY = ("--preset", "quick", "--depth", "2", "--members", "3", "--device", "cpu", "--axes", "CYX")
posix = pytest.mark.skipif(os.name != "posix", reason="signals and process tables of POSIX")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a pair of one channel."""
    folder = tmp_path_factory.mktemp("faults")
    pair = samples.edx(seed=1, size=(40, 150))
    np.save(folder / "noisy.npy", pair.noisy[:1])
    np.save(folder / "clean.npy", pair.clean[:1])
    return folder


def arguments(folder, out, *more, steps=6):
    """The call that trains three small members."""
    files = (folder / "noisy.npy", folder / "clean.npy", "-o", out)
    return [str(a) for a in ("train", *files, *TINY, "--steps", steps, *more)]


# ends itself by a signal right after the second member was finished and reported
ENDS_ITSELF = """
import os, signal, sys
from napari_btn.cli import main
from napari_btn.cli.keeping import Keeper
from napari_btn.core.compute.pool import process_pool
whole = Keeper.watch
def watch(self, progress):
    whole(self, progress)
    if len(progress.checkpoint or ()) >= 2:
        print(*process_pool()._processes, file=sys.stdout, flush=True)
        os.kill(os.getpid(), int(sys.argv[1]))
Keeper.watch = watch
main(sys.argv[2:])
"""


def ended(pid, seconds=15.0):
    """Return True once no such process runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_training_loses_no_finished_member_and_leaves_no_process(folder, tmp_path, number, code):
    out, scratch = tmp_path / "edx.btn", tmp_path / "scratch"
    scratch.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", ENDS_ITSELF, str(int(number)), *arguments(folder, out)],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    assert run.returncode == code, run.stderr
    workers = [int(pid) for pid in run.stdout.split()]
    assert workers
    assert all(ended(pid) for pid in workers)
    if number == signal.SIGTERM:
        assert re.match(r"Interrupted; [23] members of 3 kept in", run.stderr.splitlines()[-1])
        assert not list(scratch.glob("napari-btn-*"))
    assert [p.name for p in tmp_path.iterdir() if p != scratch] == ["edx.btn.partial"]

    result = CliRunner().invoke(main, arguments(folder, out, "--resume"))
    assert result.exit_code == 0, result.output
    fresh = tmp_path / "fresh.btn"
    assert CliRunner().invoke(main, arguments(folder, fresh)).exit_code == 0
    assert out.read_bytes() == fresh.read_bytes()  # losses of the resumed members among them
    assert not (tmp_path / "edx.btn.partial").exists()


def test_members_that_can_not_be_kept_are_said_once_and_kept_elsewhere(folder, tmp_path, monkeypatch):
    from napari_btn.denoiser import Denoiser, load_partial

    out, save = tmp_path / "edx.btn", Denoiser.save_partial

    def full(self, path, *rest):
        if path.parent == tmp_path:
            raise OSError(28, "No space left on device", str(path))
        save(self, path, *rest)

    stopped_after(monkeypatch, 2, KeyboardInterrupt)
    monkeypatch.setattr(Denoiser, "save_partial", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    result = CliRunner().invoke(main, arguments(folder, out))
    assert result.exit_code == 130, result.output
    assert result.stderr.count("can't be stored during the training") == 1
    kept = list((tmp_path / "elsewhere").glob("*/edx.btn.partial"))
    assert f"{len(load_partial(kept[0])[1])} members of 3 kept in {kept[0]}" in result.stderr


def stopped_after(monkeypatch, members, error):
    """Let a training raise an error once so many members are finished."""
    from napari_btn.denoiser import Denoiser

    whole = Denoiser.fit_steps

    def stopped(self, *args, **kwargs):
        step = whole(self, *args, **kwargs)
        for progress in step:
            yield progress
            if len(progress.checkpoint or ()) >= members:
                step.close()
                raise error

    monkeypatch.setattr(Denoiser, "fit_steps", stopped)


def test_a_worker_that_dies_again_and_again_costs_no_finished_member(folder, tmp_path, monkeypatch):
    from napari_btn.core.compute.pool import WorkerDiedError

    error = WorkerDiedError("A worker process died twice while training member 3. Use smaller patches.")
    stopped_after(monkeypatch, 2, error)
    out = tmp_path / "edx.btn"
    result = CliRunner().invoke(main, arguments(folder, out))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == f"Error: {error}"
    # two members may finish in the same moment
    assert re.search(rf"Note: [23] members of 3 kept in {re.escape(str(out))}\.partial", result.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["edx.btn.partial"]


@posix
def test_an_interrupt_while_members_are_saved_waits_until_they_are_whole(folder, tmp_path, monkeypatch):
    from napari_btn.denoiser import Denoiser, load_partial

    out, save = tmp_path / "edx.btn", Denoiser.save_partial

    def interrupted(self, path, *rest):
        os.kill(os.getpid(), signal.SIGINT)
        save(self, path, *rest)

    monkeypatch.setattr(Denoiser, "save_partial", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = CliRunner().invoke(main, arguments(folder, out))
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.exit_code == 130, result.output
    kept = len(load_partial(f"{out}.partial")[1])
    assert re.search(rf"Interrupted; {kept} members? of 3 kept in", result.stderr)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 400. GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400 bytes."),
        RuntimeError("could not create a primitive"),  # oneDNN
        ImportError("_levyst.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_one_sentence(folder, tmp_path, monkeypatch, error):
    stopped_after(monkeypatch, 0, error)
    result = CliRunner().invoke(main, arguments(folder, tmp_path / "edx.btn"))
    assert result.exit_code == 2
    assert f"not enough memory ({error})" in result.stderr.splitlines()[-1]


LATE = """
import sys
from napari_btn.cli import main
from napari_btn.cli.keeping import Keeper
watch, loaded = Keeper.watch, set()
def watched(self, progress):
    watch(self, progress)
    if progress.note.startswith("Calibrating") and not loaded:
        loaded.update(sys.modules)
Keeper.watch = watched
try:
    main(sys.argv[1:])
finally:
    late = set(sys.modules) - loaded if loaded else {"all"}
    compiled = [n for n in late if not (getattr(sys.modules.get(n), "__file__", None) or "").endswith(".py")]
    print(*sorted(compiled), file=sys.stderr)
"""


def test_no_compiled_library_is_loaded_once_members_are_trained(folder, tmp_path):
    # without memory, a library that is being loaded may end the process instead of raising an error
    run = subprocess.run(
        [sys.executable, "-c", LATE, *arguments(folder, tmp_path / "edx.btn", steps=2)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert not run.stderr.splitlines()[-1].strip(), run.stderr


FULL = """
import resource, sys
from napari_btn.cli import main
from napari_btn.cli.keeping import Keeper
watch = Keeper.watch
def watched(self, progress):
    watch(self, progress)
    if progress.note.startswith("Calibrating"):
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
Keeper.watch = watched
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its memory")
def test_no_memory_to_calibrate_is_one_sentence_before_numpy_ends_the_process(folder, tmp_path):
    out = tmp_path / "edx.btn"
    run = subprocess.run(
        [sys.executable, "-c", FULL, *arguments(folder, out)], capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 2, run.stderr
    assert "There is not enough memory (Unable to allocate 64.0 MiB" in run.stderr.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["edx.btn.partial"]


# ---------------------------------------------------------------- folders of dead processes


@posix
def test_folders_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    mine = scratch_folder(".test-", tmp_path)
    code = (
        "import sys; from pathlib import Path; from napari_btn.core.compute.scratch import scratch_folder; "
        "print(scratch_folder('.test-', Path(sys.argv[1])))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    dead = Path(run.stdout.strip())
    others = [tmp_path / ".test-by-hand", tmp_path / ".test-0badcafe-1-abc", tmp_path / "data"]
    for other in others:
        other.mkdir()
    assert list(dead_folders(".test-", tmp_path)) == [dead]
    remove_dead(".test-", tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, *others])


# ---------------------------------------------------------------- processes of the user

FITS = """
import multiprocessing, os, sys
import napari_btn as btn
from napari_btn import samples

def fit(_=None):
    pair = samples.edx(seed=1, size=(40, 150))
    network = btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8)
    made = btn.Denoiser(members=1, device="cpu", network=network, train=btn.TrainSettings(steps=2))
    made.fit(pair.noisy[:1], pair.clean[:1], axes="CYX")
    return float(made.predict(pair.noisy[:1]).median.sum())

def tell(queue):
    queue.put(fit())

def fork(want):
    child = os.fork()
    if not child:
        sys.exit(0 if fit() == want else 3)
    assert os.waitpid(child, 0)[1] == 0

def child(want):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=tell, args=(queue,))
    child.start()
    assert queue.get() == want
    # idle workers end after two minutes by themselves; the child must not wait for them
    child.join(100)
    assert child.exitcode == 0, "the child waited for idle workers"

def pool(want):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(fit, [0]) == [want]

if __name__ == "__main__":
    want = fit()
    for kind in (fork, child, pool):
        kind(want)
        print(kind.__name__, flush=True)
"""


@posix
@pytest.mark.slow
def test_a_denoiser_trains_in_the_processes_of_a_user(tmp_path):
    script = tmp_path / "fits.py"
    script.write_text(FITS)
    # one worker in each pool: a single member needs no more
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True, text=True, timeout=500, check=False, env={**os.environ, "LOKY_MAX_CPU_COUNT": "1"},
    )  # fmt: skip
    assert run.returncode == 0, f"after {run.stdout!r}:\n{run.stderr}"
    assert run.stdout.split() == ["fork", "child", "pool"]
    assert "Traceback" not in run.stderr


def test_threads_copies_and_an_event_loop_change_no_bit():
    import asyncio
    import copy
    from concurrent.futures import ThreadPoolExecutor

    import napari_btn as btn

    pair = samples.edx(seed=1, size=(40, 150))
    network = btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8)

    def median(seed):
        train = btn.TrainSettings(steps=2, start="scratch")
        made = btn.Denoiser(members=2, seed=seed, device="cpu", network=network, train=train)
        made.fit(pair.noisy, pair.clean, axes="CYX")
        return made.predict(pair.noisy).median, copy.deepcopy(made).predict(pair.noisy).median

    async def in_a_loop():
        return median(0)

    want = median(0), median(1)
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(median, (0, 1)))
    for made, known in zip((*both, asyncio.run(in_a_loop())), (*want, want[0]), strict=True):
        np.testing.assert_array_equal(made[0], known[0])
        np.testing.assert_array_equal(made[1], known[0])
