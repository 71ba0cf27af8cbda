"""Where members are computed: processes that are nobody else's, a sign that stops them, and the choice of a device."""

from __future__ import annotations

import builtins
import os
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from joblib.externals.loky import ProcessPoolExecutor, cpu_count

from napari_btn.core.compute import pool as pools
from napari_btn.core.compute.pool import (
    Inline,
    StoppedError,
    StopSign,
    _keep_worker,
    compute_for,
    process_pool,
)
from napari_btn.core.settings import TileSettings


def test_the_pool_is_nobody_elses():
    """Another plugin, or the user's own script, may use joblib's pool at the same time."""
    pool = process_pool()
    assert pool.submit(abs, -3).result() == 3
    assert process_pool() is pool
    assert joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    assert pool.submit(abs, -4).result() == 4
    pool.shutdown()
    assert process_pool().submit(abs, -5).result() == 5


def test_the_pool_starts_before_there_is_a_task():
    """Who prepares while a form is filled in wants processes that have loaded what they need."""
    process_pool().shutdown()
    pool = process_pool()
    assert len(pool._processes) == cpu_count()
    assert pool.submit(eval, "'torch' in __import__('sys').modules").result()


@pytest.mark.skipif(not hasattr(os, "nice"), reason="processes have no niceness on this system")
def test_workers_stand_back_for_the_program_that_uses_them():
    assert process_pool().submit(os.nice, 0).result() >= min(os.nice(0) + 5, 19)


def _hold(megabytes):
    """Keep so much memory in the worker, and say which one it is."""
    builtins.held = [*getattr(builtins, "held", []), np.ones(megabytes * 2**17)]
    time.sleep(1.1)  # loky looks at a worker's memory once a second
    return os.getpid()


def test_a_worker_that_keeps_memory_is_not_replaced():
    """Without `_keep_worker` loky replaces it in the middle of the work, and the last number differs."""
    pool = ProcessPoolExecutor(1, initializer=_keep_worker)
    try:
        assert len({pool.submit(_hold, megabytes).result(timeout=600) for megabytes in (1, 400, 1, 1)}) == 1
    finally:
        pool.shutdown(kill_workers=True)


def test_a_sign_travels_and_shows_itself_to_its_own_work_only():
    sign, other = StopSign(), StopSign()
    there = process_pool().submit(_looks_until_stopped, sign)
    process_pool().submit(other.look).result()
    sign.show()
    assert there.result(timeout=600) == "stopped"
    other.look()


def _looks_until_stopped(sign):
    while True:
        try:
            sign.look()
        except StoppedError:
            return "stopped"
        time.sleep(0.01)


# ---------------------------------------------------------------- where work runs


def test_on_the_cpu_as_many_members_train_as_there_are_cores():
    cores = cpu_count()
    for members in (1, cores, cores + 5):
        compute = compute_for("cpu", members)
        assert compute.workers == min(members, cores)
        assert (compute.device, compute.executor) == ("cpu", None)
        assert compute.tiles == TileSettings()
    tiles = TileSettings(tile_px=64)
    assert compute_for("cpu", 1, tiles).tiles is tiles


def test_a_given_executor_says_how_many_train_and_looks_for_no_card(monkeypatch):
    monkeypatch.setattr(pools, "device_for", lambda wanted: pytest.fail("no device is asked for"))
    with ThreadPoolExecutor(3) as threads:
        compute = compute_for("cuda", 10, executor=threads)
        assert compute.executor is threads
        assert (compute.device, compute.workers) == ("cpu", 3)
    assert compute_for("auto", 10, executor=Inline()).workers == 2  # it doesn't say how many it runs


def test_a_card_that_torch_can_not_use_is_one_sentence(monkeypatch):
    monkeypatch.setattr(pools, "device_for", lambda wanted: "cuda")
    monkeypatch.setattr(pools, "works", lambda device: False)
    with pytest.raises(ValueError, match=r"PyTorch can't use 'cuda', most likely .* give device=\"cpu\"\.$"):
        compute_for("cuda", 10)
    assert compute_for("auto", 10).device == "cpu"


def test_a_card_that_works_is_taken(monkeypatch):
    monkeypatch.setattr(pools, "device_for", lambda wanted: "cuda:1")
    monkeypatch.setattr(pools, "works", lambda device: device == "cuda:1")
    compute = compute_for("auto", 10)
    assert (compute.device, compute.executor) == ("cuda:1", None)
