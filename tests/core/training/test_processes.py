"""Training: the same bits wherever it runs, in whatever pieces, stopped, resumed or struck by a dead worker."""

from __future__ import annotations

import math
import os
import signal
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_btn.core.compute.pool import Compute, Inline, process_pool
from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.networks.family import Blueprint, Member
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.settings import NetworkSettings, TrainSettings
from napari_btn.core.supervision.patches import Lesson
from napari_btn.core.training import processes as training
from napari_btn.core.training.card import train_together_steps
from napari_btn.core.training.preview import _middle_of
from napari_btn.core.training.processes import Start, train_steps
from napari_btn.core.training.tasks import train_member

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def scenes_of(channels=2, shape=(40, 56), valid=None, seed=0):
    rng = np.random.default_rng(seed)
    clean = ndimage.gaussian_filter(rng.normal(size=(channels, *shape)), (0, 3, 3)).astype(np.float32) * 8
    noisy = clean + rng.normal(0, 1, clean.shape).astype(np.float32)
    return Pair(noisy, clean, "CYX", valid=valid).scenes


SCENES = scenes_of()
BLUEPRINT = Blueprint(
    NetworkSettings(depth=3, channels=2, inputs=2, head_units=8), Schedule((1, 2, 1)), 2, 2, 2, LEVELS, 3
)
SETTINGS = TrainSettings(steps=8, batch_size=2, patch_px=12)


def steps_of(
    members=2,
    *,
    executor=None,
    workers=2,
    settings=SETTINGS,
    blueprint=BLUEPRINT,
    scenes=SCENES,
    boxes=(),
    validation=(),
    **more,
):
    lesson = Lesson(scenes, tuple(boxes or scenes.whole()), tuple(validation))
    compute = Compute(executor=executor, workers=workers)
    return train_steps(lesson, blueprint, settings, members=members, compute=compute, **more)


def drain(steps):
    """(everything yielded, what is returned)."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def train(*args, executor=None, **options):
    return drain(steps_of(*args, executor=executor or Inline(), **options))[1]


def same(a, b):
    """Whether members are the same, bit for bit."""
    return [m.number for m in a] == [m.number for m in b] and all(
        x.attempt == y.attempt
        and x.weights.keys() == y.weights.keys()
        and all(np.array_equal(x.weights[k], y.weights[k]) for k in x.weights)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(autouse=True)
def verdicts(monkeypatch):
    """Decide which members have collapsed, by the number of the judgement: none by default."""
    plan = {"bad": lambda n: False, "count": 0}

    def channels(self, loss, sd, *, end):
        plan["count"] += 1
        return np.array([1]) if plan["bad"](plan["count"]) else np.array([], int)

    monkeypatch.setattr(training.Collapse, "channels", channels)
    return plan


@pytest.fixture
def reference():
    """Three members trained in this thread."""
    if not _REFERENCE:
        _REFERENCE.append(train(3))
    return _REFERENCE[0]


_REFERENCE = []


# ---------------------------------------------------------------- the same bits


def test_a_seed_says_it_all(reference):
    assert same(train(3).members, reference.members)
    other = train(1, blueprint=Blueprint(**{**BLUEPRINT.__dict__, "seed": 4}))
    assert not same(other.members, reference.members[:1])


def test_more_members_keep_the_earlier_ones(reference):
    assert same(train(5).members[:3], reference.members)
    assert same(train(1).members, reference.members[:1])


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_give_the_same_bits(reference, workers):
    with ThreadPoolExecutor(3) as pool:
        assert same(train(3, executor=pool, workers=workers).members, reference.members)


def test_processes_give_the_same_bits(reference):
    made = drain(steps_of(3))[1]
    assert same(made.members, reference.members)
    assert made.losses == reference.losses


@pytest.mark.parametrize("task_s", [0.0, 1e3])
def test_the_length_of_a_task_does_not_matter(reference, monkeypatch, verdicts, task_s):
    monkeypatch.setattr(training, "_TASK_S", task_s)
    verdicts["count"] = 0
    made = train(3)
    assert same(made.members, reference.members)
    assert made.losses == reference.losses
    assert verdicts["count"] == 6  # each member at half and at the end


def test_the_order_in_which_tasks_end_does_not_matter(reference):
    class Backwards(Executor):
        """Runs what came last first, when it is waited for."""

        def __init__(self):
            self.held = []

        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            self.held.append((future, fn, args))
            if len(self.held) == 3:
                while self.held:
                    waiting, task, given = self.held.pop()
                    waiting.set_result(task(*given))
            return future

    assert same(train(3, executor=Backwards(), workers=3).members, reference.members)


# ---------------------------------------------------------------- progress, stopping, going on


def test_progress_grows_to_its_total_and_carries_every_loss_once():
    seen, made = drain(steps_of(2, executor=Inline()))
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].total == 2 * SETTINGS.steps
    losses = [entry for p in seen for entry in p.losses]
    assert sorted((m, s) for m, s, _ in losses) == [(m, s) for m in range(2) for s in range(8)]
    for member, step, value in losses:
        assert made.losses[member][step] == value
    assert "2 members" in seen[-1].note


def test_a_checkpoint_goes_on_to_the_same_bits(reference):
    steps = steps_of(3, executor=Inline(), workers=1)
    checkpoint = next(p.checkpoint for p in steps if len(p.checkpoint) == 2)
    steps.close()
    assert [m.number for m in checkpoint] == [0, 1]
    seen, made = drain(steps_of(3, executor=Inline(), start=Start(finished=checkpoint)))
    assert same(made.members, reference.members)
    assert seen[0].done >= 2 * SETTINGS.steps
    assert same(
        drain(steps_of(3, executor=Inline(), start=Start(finished=made.members)))[1].members,
        reference.members,
    )


def test_a_checkpoint_of_a_longer_run_gives_its_first_members(reference):
    assert same(train(2, start=Start(finished=reference.members)).members, reference.members[:2])


def test_a_checkpoint_of_other_networks_is_refused(reference):
    other = Blueprint(**{**BLUEPRINT.__dict__, "settings": NetworkSettings(depth=3, channels=3, inputs=2)})
    with pytest.raises(ValueError, match="does not fit these settings"):
        next(steps_of(3, executor=Inline(), blueprint=other, start=Start(finished=reference.members)))


def test_a_stop_leaves_the_pool_free():
    long = TrainSettings(steps=2000, batch_size=2, patch_px=12)
    steps = steps_of(2, settings=long)
    while next(steps).done == 0:
        pass
    steps.close()
    assert process_pool().submit(int).result(timeout=600) == 0


class Stuck(Executor):
    """A pool whose tasks never end."""

    def __init__(self):
        self.tasks = []

    def submit(self, fn, /, *args, **kwargs):
        self.tasks.append(Future())
        return self.tasks[-1]


def test_neither_progress_nor_a_stop_waits_for_a_task():
    stuck = Stuck()
    steps = steps_of(2, executor=stuck)
    notes = [next(steps).note for _ in range(6)]
    assert notes[-1].startswith("Training members 1 (step 0 of 8), 2 (step 0 of 8)")
    steps.close()
    assert len(stuck.tasks) == 2
    assert all(task.cancelled() for task in stuck.tasks)


@pytest.mark.parametrize(("seconds_a_step", "lengths"), [(0.01, {2, 35}), (0.05, {2, 7}), (1.0, {2, 1})])
def test_a_task_has_as_many_steps_as_fit_into_a_third_of_a_second(monkeypatch, seconds_a_step, lengths):
    """A stop waits for one task at most, and progress is seen after each."""
    asked = []

    def timed(blueprint, settings, state, batches):
        asked.append(len(batches))
        state, losses, _ = train_member(blueprint, settings, state, batches)
        return state, losses, seconds_a_step * len(batches)

    monkeypatch.setattr(training, "train_member", timed)
    drain(steps_of(1, executor=Inline(), settings=TrainSettings(steps=144, batch_size=1, patch_px=8)))
    assert sum(asked) == 144
    assert set(asked) == lengths


def test_previews_are_medians_of_the_middle(reference, monkeypatch):
    monkeypatch.setattr("napari_btn.core.training.preview._SHARE", np.inf)
    seen, made = drain(steps_of(2, executor=Inline(), preview_every=1e-9))
    shown = [p.preview for p in seen if p.preview is not None]
    assert len(shown) > 2
    assert shown[-1].shape == (2, 40, 56)
    assert shown[-1].dtype == np.float32
    assert same(made.members, reference.members[:2])
    assert all(p.preview is None for p in drain(steps_of(1, executor=Inline()))[0])


class Noted(Inline):
    """Runs a task at once, and keeps its name."""

    def __init__(self):
        self.names = []

    def submit(self, fn, /, *args, **kwargs):
        self.names.append(fn.__name__)
        return super().submit(fn, *args, **kwargs)


def test_the_first_preview_does_not_wait_behind_the_next_tasks_of_the_members():
    noted = Noted()
    drain(steps_of(2, executor=noted, preview_every=1e-9))
    assert noted.names[:5] == ["start_member"] * 2 + ["train_member"] * 2 + ["median_of"]


def test_the_preview_of_a_large_image_says_where_it_is():
    scenes = scenes_of(1, (600, 560))
    blueprint = Blueprint(BLUEPRINT.settings, Schedule((1, 2, 1)), 1, 1, 2, LEVELS, 0)
    seen, _ = drain(steps_of(1, executor=Inline(), scenes=scenes, blueprint=blueprint, preview_every=1e-9))
    shown = next(p for p in seen if p.preview is not None)
    assert shown.preview.shape == (1, 512, 512)
    assert shown.preview_offset == (44, 24)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=3),
    st.integers(1, 20_000),
)
def test_the_middle_is_as_large_as_allowed_and_whole_along_short_sides(space, pixels):
    box = _middle_of(space, pixels)
    sides = [b.stop - b.start for b in box]
    assert math.prod(sides) <= pixels
    for n, b in zip(space, box, strict=True):
        assert 0 <= b.start <= n - b.stop <= b.start + 1
    cut = [side for n, side in zip(space, sides, strict=True) if side < n]
    assert max(cut, default=0) <= min(cut, default=0) + 1
    assert all(side <= min(cut, default=side) for n, side in zip(space, sides, strict=True) if side == n)
    if math.prod(space) <= pixels:
        assert sides == space


def test_previews_take_a_twentieth_of_the_time_at_most(monkeypatch):
    asked = []

    def slow(blueprint, state, x, device):
        asked.append(state.step)
        return np.zeros((2, 40, 56), np.float32), 3600.0

    monkeypatch.setattr("napari_btn.core.training.preview.median_of", slow)
    seen, _ = drain(steps_of(2, executor=Inline(), preview_every=1e-9))
    assert len(asked) == 1
    assert sum(p.preview is not None for p in seen) == 1


# ---------------------------------------------------------------- workers that die


class Deadly(Executor):
    """A pool whose workers die at the given submissions; then it is broken, as a real one."""

    def __init__(self, *deaths):
        self.deaths, self.count, self.broken = set(deaths), 0, False

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        if self.broken:
            raise BrokenProcessPool("it is broken")
        if self.count in self.deaths:
            self.broken = True
            future = Future()
            future.set_exception(BrokenProcessPool("a process died"))
            return future
        return Inline().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("death", [1, 2, 3, 5, 8, 13])
def test_a_dead_worker_is_reported_and_changes_no_bit(reference, monkeypatch, death):
    monkeypatch.setattr(training, "_TASK_S", 0.0)
    pools = [Deadly(death), Inline(), Inline()]
    monkeypatch.setattr(training, "process_pool", lambda: pools.pop(0))
    made = drain(steps_of(3))[1]
    assert same(made.members, reference.members)
    assert made.losses == reference.losses
    assert any("worker process died while training member" in n.text for n in made.notes)


def test_a_killed_process_is_reported_and_changes_no_bit(monkeypatch):
    monkeypatch.setattr(training, "_TASK_S", 0.02)
    settings = TrainSettings(steps=100, batch_size=2, patch_px=12)
    expected = train(2, settings=settings)
    steps, killed, made = steps_of(2, settings=settings), False, None
    while made is None:
        try:
            progress = next(steps)
        except StopIteration as end:
            made = end.value
            break
        if not killed and progress.done:
            os.kill(next(iter(process_pool()._processes)), signal.SIGKILL)
            killed = True
    assert same(made.members, expected.members)
    assert any("worker process died" in n.text for n in made.notes)


def test_workers_that_keep_dying_end_the_training(monkeypatch):
    monkeypatch.setattr(training, "process_pool", lambda: Deadly(1))
    with pytest.raises(RuntimeError, match=r"died twice while training member 1.*lack of memory"):
        drain(steps_of(1))


def test_a_given_executor_is_not_replaced():
    with pytest.raises(RuntimeError, match="A worker process died while training"):
        drain(steps_of(1, executor=Deadly(2)))


def test_an_error_in_a_task_arrives():
    class Failing(Inline):
        def submit(self, fn, /, *args, **kwargs):
            return super().submit(int, "no number")

    with pytest.raises(ValueError, match="invalid literal"):
        drain(steps_of(1, executor=Failing()))


# ---------------------------------------------------------------- members that collapse


def test_a_collapsed_member_is_trained_again_from_a_child_of_its_seed(verdicts):
    well = train(2, workers=1)
    assert verdicts["count"] == 4  # each at half and at the end
    verdicts.update(count=0, bad=lambda n: n == 1)
    repaired = train(2, workers=1)
    assert [m.attempt for m in repaired.members] == [1, 0]
    assert same(repaired.members[1:], well.members[1:])
    assert not np.array_equal(
        repaired.members[0].weights["out_weight"], well.members[0].weights["out_weight"]
    )
    assert [len(repaired.losses[k]) for k in range(2)] == [8, 8]
    assert [n.text for n in repaired.notes] == [
        "Member 1 learned almost nothing about channel 1 (collapsed); trained again from a new seed."
    ]
    # from the end, too, and the same whoever judges when
    verdicts.update(count=0, bad=lambda n: n == 2)
    assert same(train(2, workers=1).members, repaired.members)


def test_a_member_that_never_learns_is_kept_and_said(verdicts):
    verdicts["bad"] = lambda n: True
    made = train(1)
    assert made.members[0].attempt == 2
    assert len(made.losses[0]) == 8
    assert "in 3 attempts; it was kept" in made.notes[-1].text


def test_one_step_is_not_judged_before_it_is_made(verdicts):
    made = train(1, settings=TrainSettings(steps=1, batch_size=2, patch_px=12))
    assert len(made.losses[0]) == 1
    assert verdicts["count"] == 1


# ---------------------------------------------------------------- it learns, from what counts


def test_it_learns():
    made = train(1, settings=TrainSettings(steps=60, batch_size=4, patch_px=24))
    losses = made.losses[0]
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:3])


def test_what_does_not_count_changes_nothing():
    valid = np.ones((40, 56), bool)
    valid[:, 20:30] = False
    one = scenes_of(valid=valid)
    other_clean = np.where(valid, one.clean.array, 1e7).astype(np.float32)
    other = Pair(one.noisy.array, other_clean, "CYX", valid=valid).scenes
    assert same(train(1, scenes=one).members, train(1, scenes=other).members)


def test_only_the_boxes_are_trained_on():
    other = scenes_of()
    for view in (other.noisy, other.clean):
        view.array = view.array.copy()
        view.array[:, :, 30:] = 9e5
    box = [Box(0, (slice(0, 40), slice(0, 30)))]
    made = [train(1, scenes=s, boxes=box, workers=1) for s in (scenes_of(), other)]
    assert same(made[0].members, made[1].members)


def test_members_hold_their_graph_and_all_weights(reference):
    assert all(isinstance(m, Member) for m in reference.members)
    assert len({m.weights["node0_weight" if "node0_weight" in m.weights else "trunk.node0_weight"].tobytes()
                for m in reference.members}) == 3  # fmt: skip
    for member in reference.members:
        assert all(np.isfinite(v).all() and v.dtype == np.float32 for v in member.weights.values())


# ---------------------------------------------------------------- going on


def test_training_goes_on_from_given_weights_the_same_everywhere(reference):
    on = train(3, start=Start(reference.members, 1000))
    assert not same(on.members, reference.members)
    assert same(train(1, start=Start(reference.members[:1], 1000)).members, on.members[:1])
    with ThreadPoolExecutor(2) as pool:
        assert same(train(3, start=Start(reference.members, 1000), executor=pool).members, on.members)
    assert [len(v) for v in on.losses.values()] == [SETTINGS.steps] * 3


def test_a_step_of_no_length_leaves_the_weights_as_they_were(reference):
    still = TrainSettings(steps=3, batch_size=2, patch_px=12, learning_rate=1e-30)
    assert same(train(3, start=Start(reference.members), settings=still).members, reference.members)


def test_another_draw_shows_other_patches(reference):
    a, b = (train(1, start=Start(reference.members, n)) for n in (0, 1000))
    assert not same(a.members, b.members)


def test_a_member_that_is_lost_while_going_on_is_kept_as_it_was(reference, verdicts):
    verdicts["bad"] = lambda n: True
    made = train(2, start=Start(reference.members))
    assert same(made.members, reference.members[:2])
    assert [note.level for note in made.notes] == ["amber", "amber"]
    assert "kept as it was before" in made.notes[0].text


def test_weights_of_another_shape_are_refused(reference):
    other = Blueprint(**{**BLUEPRINT.__dict__, "n_out": 1})
    with pytest.raises(ValueError, match="does not fit"):
        train(1, start=Start(reference.members), blueprint=other)


# ---------------------------------------------------------------- early stopping


VALIDATION = [Box(0, (slice(0, 40), slice(0, 14)))]
OWN = [Box(0, (slice(0, 40), slice(14, 56)))]
LONG = TrainSettings(steps=20, batch_size=2, patch_px=12)


def validated(monkeypatch, scores, members=1, together=False):
    """Members whose loss on the validation block is as given, look by look; and what was looked at."""
    looked = []

    def probe(blueprint, state, x, y):
        if x.shape == looked_shape[0]:
            looked.append((state.member, state.step, {k: v.copy() for k, v in state.weights.items()}))
            return np.full(2, scores[len([1 for m, *_ in looked if m == state.member]) - 1]), np.ones(2)
        return np.zeros(2), np.ones(2)

    looked_shape = []
    real = training.Trainer.__init__

    def init(self, *given):
        real(self, *given)
        looked_shape.append(self.validation[0].shape)

    monkeypatch.setattr(training.Trainer, "__init__", init)
    monkeypatch.setattr(training, "probe_member", probe)
    monkeypatch.setattr("napari_btn.core.training.card.probe_member", probe)
    if together:
        lesson = Lesson(SCENES, tuple(OWN), tuple(VALIDATION))
        steps = train_together_steps(lesson, BLUEPRINT, LONG, members=members, compute=Compute())
    else:
        steps = steps_of(members, executor=Inline(), settings=LONG, boxes=OWN, validation=VALIDATION)
    return looked, drain(steps)


@pytest.mark.parametrize("together", [False, True])
def test_a_member_that_gets_worse_ends_with_its_best_weights(monkeypatch, together):
    looked, (seen, made) = validated(monkeypatch, [5, 4, 3, 3.5, 4, 1, 1, 1], 2, together)
    assert [(m, step) for m, step, _ in sorted(looked, key=lambda x: x[:2])] == [
        (k, step) for k in range(2) for step in (6, 8, 10, 12, 14)
    ]
    for member in made.members:
        best = next(w for m, step, w in looked if (m, step) == (member.number, 10))
        assert all(np.array_equal(member.weights[k], best[k]) for k in best)
        assert len(made.losses[member.number]) == 14
    done = [p.done for p in seen]
    assert done == sorted(done)


@pytest.mark.parametrize("together", [False, True])
def test_a_member_that_gets_better_is_trained_to_the_end(monkeypatch, together):
    looked, (_, made) = validated(monkeypatch, [5, 4, 4.5, 3, 3.5, 2, 3, 1], 1, together)
    assert looked[-1][1] == LONG.steps
    assert all(np.array_equal(made.members[0].weights[k], v) for k, v in looked[-1][2].items())
    looked, (_, made) = validated(monkeypatch, [5, 4, 4.5, 3, 3.5, 2, 3, 2.5], 1, together)
    best = next(w for _, step, w in looked if step == 16)
    assert all(np.array_equal(made.members[0].weights[k], v) for k, v in best.items())


def test_validation_changes_nothing_else_and_no_seed_of_anybody():
    plain = train(2, boxes=OWN)
    looked_at = train(2, boxes=OWN, validation=VALIDATION)
    assert looked_at.losses == plain.losses
