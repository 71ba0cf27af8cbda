"""Devices by name, found without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from napari_btn.core.compute import device
from napari_btn.core.compute.device import Devices, device_for, devices, exact_arithmetic, lacks_memory, works


@pytest.fixture
def machine(monkeypatch):
    """Decide what the machine has."""

    def has(*, built=(True, False), cards=(), system="linux", processor="x86_64"):
        monkeypatch.setattr(device, "_built_for", lambda: built)
        monkeypatch.setattr(device, "_cards", lambda: list(cards))
        monkeypatch.setattr(device.sys, "platform", system)
        monkeypatch.setattr(device.platform, "machine", lambda: processor)
        devices.cache_clear()

    yield has
    monkeypatch.undo()
    devices.cache_clear()


def test_a_machine_without_a_card_says_why(machine):
    machine(built=(False, False), cards=["A card"])
    assert devices() == Devices((("cpu", "CPU"),), "the installed PyTorch is built without CUDA")
    machine(built=(False, True))
    assert "AMD" in devices().reason
    machine()
    assert devices().reason == "no NVIDIA card with a driver was found"
    machine(system="darwin")
    assert "no Apple GPU" in devices().reason
    assert device_for("auto") == "cpu"


def test_cards_are_offered_by_name(machine):
    machine(cards=["One", "Two"])
    assert devices() == Devices((("cuda", "One"), ("cuda:1", "Two"), ("cpu", "CPU")), "")
    assert [device_for(n) for n in ("auto", "cuda", "cuda:0", "cuda:1", "cpu")] == [
        "cuda", "cuda", "cuda", "cuda:1", "cpu",
    ]  # fmt: skip


def test_an_apple_gpu_is_taken_when_it_is_named(machine):
    machine(system="darwin", processor="arm64")
    assert [device_for(n) for n in ("auto", "mps")] == ["cpu", "mps"]


@pytest.mark.parametrize("wanted", ["cuda:2", "mps"])
def test_a_device_that_is_not_there_is_one_sentence(machine, wanted):
    machine(cards=["One"])
    with pytest.raises(
        ValueError, match=rf"device is '{wanted}', but this machine offers cuda, cpu; give one"
    ):
        device_for(wanted)
    machine()
    with pytest.raises(ValueError, match=r"offers cpu \(no NVIDIA card"):
        device_for(wanted)


@pytest.mark.parametrize("wanted", ["tpu", "CPU", "cuda:", "cuda:x", "", "cuda 1"])
def test_what_is_no_device_is_refused(wanted):
    with pytest.raises(ValueError, match="it must be"):
        device_for(wanted)


def test_torch_agrees_and_is_not_loaded():
    code = (
        "import sys; from napari_btn.core.compute.device import devices; print(devices().names); "
        "assert 'torch' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("cuda" in said.stdout) == torch.cuda.is_available()
    assert all(works(name) for name in devices().names)


def test_products_are_exact_inside_and_as_before_outside(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with exact_arithmetic():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_lack_of_memory_is_known_by_its_class_or_its_words():
    assert lacks_memory(torch.OutOfMemoryError("no"))
    assert lacks_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not lacks_memory(RuntimeError("shape mismatch"))


def shifted_sum(x, keep, place):
    """A task that sees two pixels far along each axis, (C, *kept)."""
    total = x.copy()
    for axis in range(1, x.ndim):
        for step in (-2, 2):
            moved = np.zeros_like(x)
            to, of = [slice(None)] * x.ndim, [slice(None)] * x.ndim
            to[axis] = slice(max(step, 0), x.shape[axis] + min(step, 0))
            of[axis] = slice(max(-step, 0), x.shape[axis] - max(step, 0))
            moved[tuple(to)] = x[tuple(of)]
            total = total + moved
    return total[(slice(None), *keep)]


@pytest.mark.parametrize("room", [10_000, 300, 90, 10])
def test_a_tile_without_room_is_made_in_parts(monkeypatch, room):
    """As the whole one, at the image's border, too; and on the CPU where not even that helps."""
    x = np.random.default_rng(0).normal(size=(2, 23, 31)).astype(np.float32)
    keep = (slice(0, 21), slice(4, 29))
    seen, released = [], []
    monkeypatch.setattr(device, "release", released.append)

    def task(x, keep, place):
        seen.append(place)
        if place != "cpu" and x[0].size > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return shifted_sum(x, keep, place)

    made, whole = device.in_memory(task, x, keep, (2, 2), "meta")
    np.testing.assert_allclose(made, shifted_sum(x, keep, "cpu"), rtol=1e-6)
    assert whole == (room == 10_000)
    assert ("cpu" in seen) == (room == 10)
    assert set(released) == (set() if whole else {"meta"})


def test_other_errors_of_a_task_arrive():
    def task(x, keep, place):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="mismatch"):
        device.in_memory(task, np.zeros((1, 9, 9), np.float32), (slice(0, 9),) * 2, (1, 1), "meta")
