"""Training as groups on one device: the members of the CPU, whatever the memory holds; exercised on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from napari_btn.core.compute.device import devices
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.pairs import Pair
from napari_btn.core.networks.family import Blueprint
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.settings import NetworkSettings, TrainSettings
from napari_btn.core.supervision.patches import Lesson
from napari_btn.core.training import card as together
from napari_btn.core.training import processes as training
from napari_btn.core.training.card import _member_bytes, train_together_steps
from napari_btn.core.training.processes import Start, train_steps

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
BLUEPRINT = Blueprint(
    NetworkSettings(depth=3, channels=2, inputs=2, head_units=8), Schedule((1, 2, 1)), 2, 2, 2, LEVELS, 3
)
SETTINGS = TrainSettings(steps=8, batch_size=2, patch_px=12)


def scenes_of(shape=(40, 56), channels=2):
    rng = np.random.default_rng(0)
    clean = ndimage.gaussian_filter(rng.normal(size=(channels, *shape)), (0, 3, 3)).astype(np.float32) * 8
    return Pair(clean + rng.normal(0, 1, clean.shape).astype(np.float32), clean, "CYX").scenes


SCENES = scenes_of()
LESSON = Lesson(SCENES, tuple(SCENES.whole()))


def steps_of(members=3, *, device="cpu", settings=SETTINGS, **more):
    compute = Compute(device=device)
    return train_together_steps(LESSON, BLUEPRINT, settings, members=members, compute=compute, **more)


def drain(steps):
    """(everything yielded, what is returned)."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def alone(members=3, settings=SETTINGS, **more):
    compute = Compute(executor=Inline())
    return drain(train_steps(LESSON, BLUEPRINT, settings, members=members, compute=compute, **more))[1]


def close(a, b, tolerance=1e-3):
    """Whether members are the same, to the rounding of a few steps."""
    return [(m.number, m.attempt) for m in a] == [(m.number, m.attempt) for m in b] and all(
        np.abs(x.weights[n] - y.weights[n]).max() <= tolerance * max(np.abs(y.weights[n]).max(), 1e-2)
        for x, y in zip(a, b, strict=True)
        for n in x.weights
    )


@pytest.fixture(autouse=True)
def verdicts(monkeypatch):
    """Decide which members have collapsed, by the number of the judgement: none by default."""
    given = {"bad": lambda n: False, "count": 0}

    def channels(self, loss, sd, *, end):
        given["count"] += 1
        return np.array([1]) if given["bad"](given["count"]) else np.array([], int)

    monkeypatch.setattr(training.Collapse, "channels", channels)
    return given


def test_members_are_those_of_the_cpu():
    made, expected = drain(steps_of(3))[1], alone(3)
    assert close(made.members, expected.members)
    assert not close(
        made.members[:1], alone(3, TrainSettings(steps=9, batch_size=2, patch_px=12)).members[:1]
    )
    for k in range(3):
        np.testing.assert_allclose(made.losses[k], expected.losses[k], rtol=1e-3)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_members_of_a_card_are_those_of_the_cpu(device):
    if device not in devices().names:
        pytest.skip(f"there is no {device} here: {devices().reason}")
    settings = TrainSettings(steps=12, batch_size=2, patch_px=12)
    made = drain(steps_of(3, device=device, settings=settings))[1]
    assert close(made.members, alone(3, settings).members, 1e-2)


def test_bias_free_members_are_those_of_the_cpu(monkeypatch):
    free = replace(BLUEPRINT, settings=replace(BLUEPRINT.settings, bias_free=True))
    monkeypatch.setitem(globals(), "BLUEPRINT", free)
    made = drain(steps_of())[1].members
    assert close(made, alone().members)
    assert not any(v.any() for m in made for n, v in m.weights.items() if n.endswith("_bias"))


def test_more_members_keep_the_earlier_ones():
    assert close(drain(steps_of(5))[1].members[:2], drain(steps_of(2))[1].members)


def test_training_goes_on_from_given_weights(verdicts):
    start = Start(alone(2).members, 1000)
    made = drain(steps_of(2, start=start))[1]
    assert close(made.members, alone(2, start=start).members)
    assert not close(made.members, start.members)
    verdicts["bad"] = lambda n: True
    kept = drain(steps_of(2, start=start))[1]
    assert close(kept.members, start.members, 0)


def test_progress_grows_to_its_total_and_carries_every_loss_once():
    seen, made = drain(steps_of(2))
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == 2 * SETTINGS.steps
    losses = [entry for p in seen for entry in p.losses]
    assert sorted((m, s) for m, s, _ in losses) == [(m, s) for m in range(2) for s in range(8)]
    assert all(made.losses[m][s] == value for m, s, value in losses)
    assert seen[-1].note == "Training members 1, 2 of 2 (step 8 of 8) on cpu"


def test_a_stop_waits_for_one_slow_step(monkeypatch):
    """Where a step takes longer than there should be between two yields, each comes alone."""
    taken = []
    real = together._Group.train

    def slow(self, x, y):
        taken.append(1)
        monkeypatch.setattr(together, "_BETWEEN_S", 0.0)
        return real(self, x, y)

    monkeypatch.setattr(together._Group, "train", slow)
    steps, counts = steps_of(2), []
    for progress in steps:
        counts.append(len(taken))
        if progress.done >= 8:
            break
    steps.close()
    assert max(np.diff(counts)) == 1
    assert len(taken) == counts[-1]


def test_a_closed_step_frees_the_device_and_its_thread(monkeypatch):
    freed, pools = [], []

    class Watched(ThreadPoolExecutor):
        def __init__(self, *given):
            super().__init__(*given)
            pools.append(self)

    monkeypatch.setattr(together, "release", freed.append)
    monkeypatch.setattr(together, "ThreadPoolExecutor", Watched)
    steps = steps_of(2)
    while not pools:
        next(steps)
    steps.close()
    assert freed == ["cpu"]
    with pytest.raises(RuntimeError, match="shutdown"):
        pools[0].submit(int)


def test_a_checkpoint_goes_on_to_the_same_members():
    reference = drain(steps_of(3))[1]
    seen, made = drain(steps_of(3, start=Start(finished=reference.members[:2])))
    assert close(made.members, reference.members)
    assert seen[0].done == 2 * SETTINGS.steps
    assert made.losses.keys() == {2}


def test_pretrained_members_take_their_own_steps_beside_others():
    settings = replace(SETTINGS, warm_share=0.5, warm_rate=5e-3)
    known = alone(2).members
    start = Start(warm=known[:1])
    seen, made = drain(steps_of(2, settings=settings, start=start, preview_every=1e-9))
    expected = alone(2, settings, start=start)
    assert close(made.members, expected.members)
    assert {k: len(v) for k, v in made.losses.items()} == {0: 4, 1: 8}
    assert seen[-1].total == 12
    assert all(p.done <= 12 for p in seen)
    # member 1 began from random weights, as if it were alone
    assert close(made.members[1:], known[1:])
    assert not close(made.members[:1], known[:1])
    first = next(p.preview for p in seen if p.preview is not None)
    from napari_btn.core.training.tasks import State, median_of

    before = median_of(BLUEPRINT, State(0, 0, 0, known[0].weights), SCENES.read_noisy(0))[0]
    np.testing.assert_allclose(first, before, atol=1e-4)


def test_previews_are_medians_of_the_middle():
    seen, _ = drain(steps_of(2, preview_every=1e-9))
    shown = [p.preview for p in seen if p.preview is not None]
    assert shown
    assert shown[-1].shape == (2, 40, 56)
    assert np.isfinite(shown[-1]).all()


@pytest.mark.parametrize("judgement", [1, 4])
def test_a_collapsed_member_is_trained_again_and_changes_no_other(verdicts, judgement):
    well = drain(steps_of(2))[1]
    verdicts.update(count=0, bad=lambda n: n == judgement)
    repaired = drain(steps_of(2))[1]
    collapsed = 0 if judgement == 1 else 1
    assert [m.attempt for m in repaired.members] == [int(k == collapsed) for k in range(2)]
    other = 1 - collapsed
    assert close(repaired.members[other : other + 1], well.members[other : other + 1])
    assert [len(repaired.losses[k]) for k in range(2)] == [8, 8]
    assert "trained again from a new seed" in repaired.notes[0].text


def test_a_loss_that_is_not_finite_is_said(monkeypatch):
    monkeypatch.setattr(together, "one_cycle", lambda *_: float("nan"))
    with pytest.raises(ArithmeticError, match="lower the learning rate"):
        drain(steps_of(1))


# ---------------------------------------------------------------- memory


def lacking(monkeypatch, holds):
    """Let the device hold so many patches at once."""
    real, tried = together._Group.train, []

    def train(self, x, y):
        patches = x.shape[0] * x.shape[1]
        if not tried or tried[-1] != (x.shape[1], x.shape[0]):
            tried.append((x.shape[1], x.shape[0]))
        if patches > holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, x, y)

    monkeypatch.setattr(together._Group, "train", train)
    return tried


def test_fewer_members_at_a_time_are_the_same_members(monkeypatch):
    expected = alone(4).members
    tried = lacking(monkeypatch, 2)
    made = drain(steps_of(4))[1]
    assert tried == [(4, 2), (2, 2), (1, 2)]
    assert close(made.members, expected)
    assert [n.text for n in made.notes] == [
        "cpu had too little free memory for what was asked; members were trained 1 at a time, in batches of 2."
    ]
    assert all(len(made.losses[k]) == 8 for k in range(4))


def test_then_batches_get_smaller(monkeypatch):
    tried = lacking(monkeypatch, 1)
    made = drain(steps_of(2))[1]
    assert tried == [(2, 2), (1, 2), (1, 1)]
    assert [m.number for m in made.members] == [0, 1]
    assert "1 at a time, in batches of 1" in made.notes[0].text


def test_then_the_cpu_trains_what_was_asked_for(monkeypatch):
    lacking(monkeypatch, 0)
    monkeypatch.setattr(training, "process_pool", Inline)
    made = drain(steps_of(2))[1]
    assert close(made.members, alone(2).members, 0)
    assert [n.text for n in made.notes] == [
        "cpu had too little free memory for what was asked; the CPU trained the rest."
    ]


def test_another_error_is_no_lack_of_memory(monkeypatch):
    def broken(self, x, y):
        raise RuntimeError("an illegal instruction was encountered")

    monkeypatch.setattr(together._Group, "train", broken)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        drain(steps_of(2))


def test_no_more_members_are_asked_for_than_fit(monkeypatch):
    monkeypatch.setattr(together, "free_bytes", lambda _: 2.6 * _member_bytes(BLUEPRINT, SETTINGS))
    tried = lacking(monkeypatch, 99)
    made = drain(steps_of(5))[1]
    assert tried == [(2, 2), (1, 2)]
    assert not made.notes


def recorded_by(monkeypatch, end):
    """Let what CUDA is asked for stand in, and a recording end so; the arithmetic is the CPU's."""
    recorded = []

    @contextmanager
    def within(*_):
        yield

    @contextmanager
    def record(_):
        recorded.append(1)
        yield
        end(len(recorded))

    class Stream:
        def wait_stream(self, _):
            pass

    for name, stand_in in (
        ("Stream", lambda _: Stream()),
        ("current_stream", lambda _: Stream()),
        ("stream", within),
        ("device", within),
        ("CUDAGraph", object),
        ("graph", record),
    ):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(together._Group, "train", _as_on_a_card(together._Group.train))
    return recorded


def test_a_card_that_refuses_to_record_a_step_takes_it_kernel_by_kernel(monkeypatch):
    def refuse(_):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorded = recorded_by(monkeypatch, refuse)
    _, trained = drain(steps_of(2))
    assert recorded
    assert any("operation not permitted" in note.text for note in trained.notes)
    assert sum("kernel by kernel" in note.text for note in trained.notes) == 1


def test_a_recording_that_lacks_memory_takes_fewer_members(monkeypatch):
    def lack(count):
        if count == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        raise RuntimeError("operation not permitted when stream is capturing")

    recorded = recorded_by(monkeypatch, lack)
    _, trained = drain(steps_of(2))
    assert len(recorded) == 5  # of two members, then of each alone, in each half of its training
    assert any("trained 1 at a time" in note.text for note in trained.notes)


def _as_on_a_card(train):
    def step(group, x, y):
        group.device, kept = "cuda", group.device
        if not group._x.numel():
            group._x, group._y = torch.empty(x.shape), torch.empty(y.shape)
        try:
            return train(group, x, y)
        finally:
            group.device = kept

    return step
