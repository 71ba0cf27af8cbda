"""A real dask scheduler with workers of its own: the same members and pixels as here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn import samples
from napari_btn.cli import main
from napari_btn.core.compute.pool import Compute, Inline, WorkerDiedError, slots
from napari_btn.core.progress import drain
from napari_btn.core.training import processes as training
from napari_btn.workflow.inputs import image_for
from napari_btn.workflow.predict import predict_steps

pytest.importorskip("distributed")
import cloudpickle
from distributed import Client, LocalCluster, WorkerPlugin

from napari_btn.cluster import connected

NETWORK = btn.NetworkSettings(depth=3, channels=2, inputs=2, head_units=8)
PAIR = samples.edx(seed=0, size=(48, 120))
MAPS = ("lower", "median", "upper", "spread", "quantiles")


def tiny(steps=6, members=2):
    return btn.Denoiser(
        members=members,
        seed=1,
        network=NETWORK,
        train=btn.TrainSettings(steps=steps, batch_size=2, patch_px=16),
        calibration=btn.CalibrationSettings(block_px=12),
    )


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as started:
        yield started


@pytest.fixture(scope="module")
def here():
    """Trained and predicted in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))
        denoiser = tiny().fit(PAIR.noisy, PAIR.clean, axes="CYX", executor=Inline())
    return denoiser, denoiser.predict(PAIR.noisy, executor=Inline())


def test_workers_elsewhere_make_the_same_pixels(cluster, here):
    with connected(cluster.scheduler_address) as executor:
        assert slots(executor) == 2
        denoiser = tiny().fit(PAIR.noisy, PAIR.clean, axes="CYX", executor=executor)
        made = denoiser.predict(PAIR.noisy, executor=executor)
        tokens = denoiser.tokens(PAIR.noisy, n_tokens=4, executor=executor)
    for name in MAPS:
        np.testing.assert_array_equal(getattr(made, name), getattr(here[1], name))
    assert denoiser.losses == here[0].losses
    np.testing.assert_array_equal(
        tokens.labels, here[0].tokens(PAIR.noisy, n_tokens=4, executor=Inline()).labels
    )


class Started(WorkerPlugin):
    """Writes a line for each task that a worker starts."""

    name = "started"

    def __init__(self, path):
        self.path = path

    def transition(self, key, start, finish, **_):
        if finish == "executing":
            with Path(self.path).open("a") as file:
                file.write(f"{key}\n")


@contextmanager
def killed_once(cluster, path):
    """Yield what kills a worker at its first call; at most one task may have been started twice at the end."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Client(cluster.scheduler_address) as client:
        client.register_plugin(Started(str(path)))
        pids, dead = list(client.run(os.getpid).values()), []

        def kill():
            if not dead:
                # a task that runs, and has not run for long
                busy = [p for p in pids if psutil.Process(p).cpu_percent(0.05) > 20] or pids
                os.kill(busy[0], signal.SIGKILL)
                dead.append(busy[0])

        yield kill
        assert dead
        client.unregister_worker_plugin("started")
        cluster.scale(2)
        client.wait_for_workers(2, timeout=600)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    keys = Counter(path.read_text().splitlines())
    assert keys.total() - len(keys) <= 1, [key for key, n in keys.items() if n > 1]


def driven(steps, kill, when):
    """Run a step to its end; kill a worker once its progress is so far."""
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value
        if when(progress):
            kill()


def test_a_worker_that_is_killed_in_mid_member_costs_one_task(cluster, tmp_path):
    with connected(cluster.scheduler_address) as executor, killed_once(cluster, tmp_path / "keys") as kill:
        steps = tiny(steps=60, members=3).fit_steps(PAIR.noisy, PAIR.clean, axes="CYX", executor=executor)
        denoiser = driven(steps, kill, lambda progress: progress.done >= 4)
    expected = tiny(steps=60, members=3).fit(PAIR.noisy, PAIR.clean, axes="CYX", executor=Inline())
    np.testing.assert_array_equal(denoiser.predict(PAIR.noisy).median, expected.predict(PAIR.noisy).median)


def test_a_worker_that_is_killed_in_mid_tile_costs_one_task(cluster, here, tmp_path):
    model, image = here[0].model, samples.edx(seed=2, size=(240, 600)).noisy
    shown, tiles = image_for(model, image, "CYX", None, None), btn.TileSettings(tile_px=96)
    with connected(cluster.scheduler_address) as executor, killed_once(cluster, tmp_path / "keys") as kill:
        steps = predict_steps(model, shown, Compute(executor=executor, tiles=tiles))
        made = driven(steps, kill, lambda progress: progress.done >= 2)
    expected = drain(predict_steps(model, shown, Compute(executor=Inline(), tiles=tiles)))
    for name in MAPS:
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))


ALONE = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def alone(tmp_path):
    """A scheduler with one worker in a process of its own, and its address."""
    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, str(script)], text=True, **pipes) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_scheduler_that_is_killed_is_one_sentence_and_costs_no_finished_member(
    alone, tmp_path, monkeypatch
):
    from napari_btn.cli.keeping import Keeper
    from napari_btn.denoiser import load_partial

    process, address = alone
    watch = Keeper.watch

    def kill(self, progress):
        watch(self, progress)
        if progress.checkpoint and process.poll() is None:
            process.kill()
            process.wait()

    monkeypatch.setattr(Keeper, "watch", kill)
    np.savez(tmp_path / "pair.npz", noisy=PAIR.noisy, clean=PAIR.clean)
    pair = [f"{tmp_path / 'pair.npz'}:{name}" for name in ("noisy", "clean")]
    options = ["--axes", "CYX", "--members", "3", "--depth", "3", "--steps", "6", "--scheduler", address]
    done = CliRunner().invoke(main, ["train", *pair, "-o", str(tmp_path / "a.btn"), *options])
    assert done.exit_code == 2, done.output
    assert "was lost while it worked" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.output
    assert len(load_partial(tmp_path / "a.btn.partial")[1]) >= 1

    # the scheduler is started again, and the same call goes on
    monkeypatch.setattr(Keeper, "watch", watch)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as again:
        options[-1] = again.scheduler_address
        done = CliRunner().invoke(main, ["train", *pair, "-o", str(tmp_path / "a.btn"), *options, "--resume"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["train", *pair, "-o", str(tmp_path / "b.btn"), *options[:-2]])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.btn").read_bytes() == (tmp_path / "b.btn").read_bytes()


# ends itself once a member is finished and kept
KILLED = """
import os, signal, sys
import numpy as np
from napari_btn.cli import main
from napari_btn.cli.keeping import Keeper
from napari_btn.core.training import processes
processes.Collapse.channels = lambda *_, **__: np.array([], int)
whole = Keeper.watch
def watch(self, progress):
    whole(self, progress)
    if progress.checkpoint:
        os.kill(os.getpid(), signal.SIGKILL)
Keeper.watch = watch
main(sys.argv[1:])
"""


def test_a_client_that_is_killed_goes_on_with_the_same_bits(cluster, tmp_path):
    np.savez(tmp_path / "pair.npz", noisy=PAIR.noisy, clean=PAIR.clean)
    pair = [f"{tmp_path / 'pair.npz'}:{name}" for name in ("noisy", "clean")]
    options = ["--axes", "CYX", "--members", "3", "--depth", "3", "--steps", "6"]
    call = ["train", *pair, "-o", str(tmp_path / "a.btn"), *options, "--scheduler", cluster.scheduler_address]
    run = subprocess.run([sys.executable, "-c", KILLED, *call], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".npz"] == ["a.btn.partial"]
    assert CliRunner().invoke(main, [*call, "--resume"]).exit_code == 0
    assert CliRunner().invoke(main, ["train", *pair, "-o", str(tmp_path / "b.btn"), *options]).exit_code == 0
    assert (tmp_path / "a.btn").read_bytes() == (tmp_path / "b.btn").read_bytes()


def test_workers_that_are_all_gone_are_missed_within_seconds(caplog, monkeypatch):
    monkeypatch.setattr("napari_btn.cluster._MISSED_S", 0.5)
    monkeypatch.setattr("napari_btn.cluster._GIVEN_UP_S", 3.0)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as started,
        connected(started.scheduler_address) as executor,
    ):
        assert executor.submit(abs, -3).result(timeout=600) == 3
        started.scale(0)
        waiting = executor.submit(time.sleep, 60)
        with pytest.raises(WorkerDiedError, match=r"have been gone for 3 s; start one with `dask scheduler`"):
            waiting.result(timeout=600)
    assert "All workers of the dask scheduler at" in caplog.text


def test_a_stop_leaves_nothing_to_do(cluster):
    with connected(cluster.scheduler_address) as executor:
        steps = tiny(steps=5000).fit_steps(PAIR.noisy, PAIR.clean, axes="CYX", executor=executor)
        while next(steps).done < 4:
            pass
        steps.close()
        executor.submit(int).result(timeout=600)


def test_the_command_line_takes_a_scheduler(cluster, tmp_path):
    np.savez(tmp_path / "pair.npz", noisy=PAIR.noisy, clean=PAIR.clean)
    pair = [f"{tmp_path / 'pair.npz'}:{name}" for name in ("noisy", "clean")]
    options = ["--axes", "CYX", "--members", "2", "--depth", "3", "--steps", "6", "--seed", "1"]
    for name, more in (("there", ["--scheduler", cluster.scheduler_address]), ("here", [])):
        model, out = str(tmp_path / f"{name}.btn"), str(tmp_path / f"{name}.npz")
        for call in (["train", *pair, "-o", model, *options], ["predict", model, pair[0], "-o", out]):
            done = CliRunner().invoke(main, [*call, *more])
            assert done.exit_code == 0, done.output
    with np.load(tmp_path / "there.npz") as there, np.load(tmp_path / "here.npz") as local:
        assert sorted(there.files) == sorted(local.files)
        for name in there.files:
            np.testing.assert_array_equal(there[name], local[name])


def test_nobody_at_the_address(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_btn.cluster._PATIENCE_S", 1)
    np.savez(tmp_path / "pair.npz", noisy=PAIR.noisy, clean=PAIR.clean)
    pair = [f"{tmp_path / 'pair.npz'}:{name}" for name in ("noisy", "clean")]
    call = ["train", *pair, "-o", str(tmp_path / "a.btn"), "--axes", "CYX", "--scheduler", "127.0.0.1:1"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 2
    assert "No dask scheduler answers at '127.0.0.1:1'" in done.output
    assert "Traceback" not in done.output


def test_a_scheduler_without_workers_is_refused():
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ValueError, match="has no workers"),
        connected(empty.scheduler_address),
    ):
        pass


def test_workers_of_another_version_are_refused(cluster, monkeypatch):
    monkeypatch.setattr(btn, "__version__", "9.9")
    refused = pytest.raises(ValueError, match=r"must have napari-btn 9\.9, as here: tcp")
    with refused, connected(cluster.scheduler_address):
        pass
