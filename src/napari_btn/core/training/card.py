"""Train members side by side on a graphics card, as the groups of one module.

A member gets the same batches as on the CPU, from its own seed. So it is the same member to rounding,
on any device and beside any number of others. A batch shared by all members, with random loss weights,
would save only the drawing of patches.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.device import exact_arithmetic, free_bytes, lacks_memory, release
from napari_btn.core.compute.pool import Inline
from napari_btn.core.networks.family import Member, build
from napari_btn.core.progress import Note, Progress
from napari_btn.core.supervision.patches import step_bytes
from napari_btn.core.training.optimiser import GroupOptimiser, bias_correction, one_cycle
from napari_btn.core.training.processes import (
    FROM_NONE,
    Preview,
    Run,
    Start,
    Trained,
    Trainer,
    fitting,
    train_steps,
    trained_of,
)
from napari_btn.core.training.tasks import State, probe_member, start_member

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.networks.family import Blueprint
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TrainSettings
    from napari_btn.core.supervision.patches import Lesson

__all__ = ["train_together_steps"]

_BETWEEN_S = 0.1  # wall time aimed at between two yields
_WARM_STEPS = 3  # libraries choose their kernels in the first steps, which must be over before a capture
_SHARE = 0.8  # of the free memory: other programs draw on the card, too


def _member_bytes(blueprint: Blueprint, settings: TrainSettings) -> int:
    """Return the memory in bytes that a member's training step takes on a device, to a factor of about two."""
    count, side = settings.patches
    return step_bytes(blueprint, count * side**blueprint.ndim)


class _Group:
    """Members on a device, all at one step."""

    def __init__(
        self, blueprint: Blueprint, settings: TrainSettings, states: Sequence[State], device: str
    ) -> None:
        self.settings, self.states, self.device = settings, states, device
        self.module = build(blueprint, [(s.member, s.attempt) for s in states])
        own = {name for name, _ in self.module.named_parameters()}
        first = states[0]
        stacked = {
            n: np.concatenate([s.weights[n] for s in states]) if n in own else first.weights[n]
            for n in first.weights
        }
        self.module.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in stacked.items()})
        self.module.to(device)
        self.module.saturation = math.inf if settings.saturation is None else settings.saturation
        moments = {n: np.concatenate([s.moments[n] for s in states]) for n in first.moments}
        self.optimiser = GroupOptimiser(
            self.module, {n: torch.from_numpy(v).to(device) for n, v in moments.items()}
        )
        self.step = first.step
        self._rate, self._correction = (torch.zeros((), device=device) for _ in range(2))
        self._x = self._y = self._loss = torch.zeros(0)
        self._graph: Any = None
        self._warm = 0
        self.refusal = ""

    def _take_step(self) -> torch.Tensor:
        losses = self.module.losses(self._x, self._y)
        losses.sum().backward()
        self.optimiser.step(self._rate, self._correction)
        return losses.detach()

    def train(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> torch.Tensor:
        """Take one step on batches (B, M, C, *patch) and return the losses (M,), still on the device."""
        if not self._x.numel():
            self._x, self._y = (torch.empty(v.shape, device=self.device) for v in (x, y))
        self._x.copy_(torch.from_numpy(x))
        self._y.copy_(torch.from_numpy(y))
        self._rate.fill_(one_cycle(self.step, self.settings))
        self._correction.fill_(bias_correction(self.step))
        self.step += 1
        if not self.device.startswith("cuda"):
            return self._take_step()
        return self._replayed().clone()

    def _replayed(self) -> torch.Tensor:
        """Take one step on a card: the first ones kernel by kernel, later ones by one call for all kernels."""
        if self._warm < _WARM_STEPS:
            self._warm += 1
            side = torch.cuda.Stream(self.device)
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                losses = self._take_step()
            torch.cuda.current_stream(self.device).wait_stream(side)
            return losses
        if self._graph is None and not self.refusal:
            self._capture()
        if self.refusal:
            return self._take_step()
        self._graph.replay()
        return self._loss

    def _capture(self) -> None:
        """Record a step, or the reason why the card refuses: kernel by kernel the step is the same, only slower."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self.device), torch.cuda.graph(graph):
                self._loss = self._take_step()
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            self.refusal = str(error).splitlines()[0]
            self.module.zero_grad(set_to_none=True)
        else:
            self._graph = graph

    def read(self) -> list[State]:
        """Return the present state of the members, in the memory of the CPU."""
        weights, moments = _off(self.module.state_dict()), _off(self.optimiser.moments)
        own = {name for name, _ in self.module.named_parameters()}
        return [
            replace(
                state,
                step=self.step,
                weights={n: v[k : k + 1].copy() if n in own else v for n, v in weights.items()},
                moments={n: v[k : k + 1].copy() for n, v in moments.items()},
            )
            for k, state in enumerate(self.states)
        ]


def _off(tensors: dict[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    return {n: v.detach().cpu().contiguous().numpy().copy() for n, v in tensors.items()}


@dataclass
class _Ladder:
    """Number of members and patches trained at once; each lack of memory reduces it by one rung."""

    device: str
    count: int
    batch: int
    descended: bool = False

    def descend(self) -> bool:
        """Halve the members, then the batch; return False where neither can be halved."""
        self.descended = True
        if self.count > 1:
            self.count //= 2
        elif self.batch > 1:
            self.batch //= 2
        else:
            return False
        return True

    def note(self, *, on_cpu: bool) -> Note:
        """Return the note for the user about the reduction."""
        rest = (
            "the CPU trained the rest"
            if on_cpu
            else f"members were trained {self.count} at a time, in batches of {self.batch}"
        )
        return Note("amber", f"{self.device} had too little free memory for what was asked; {rest}.")


class _Together:
    """Members in training on one device; those that train together take the same steps at the same rates."""

    def __init__(self, trainer: Trainer, device: str, preview: Preview, members: int) -> None:
        self.trainer, self.device, self.preview, self.members = trainer, device, preview, members
        self.finished: dict[int, Member] = {}

    def progress(self, runs: Sequence[Run], step: int) -> Progress:
        """Return the progress."""
        trainer, steps = self.trainer, runs[0].settings.steps
        total = sum(trainer.steps_of(k) for k in range(self.members))
        done = sum(trainer.steps_of(k) for k in self.finished) + step * len(runs)
        fresh, trainer.fresh = tuple(trainer.fresh), []
        names = ", ".join(str(run.member + 1) for run in runs)
        plural = "s" if len(runs) > 1 else ""
        return Progress(
            min(done, total),
            total,
            f"Training member{plural} {names} of {self.members} (step {step} of {steps}) on {self.device}",
            self.preview.make(trainer, runs),
            fresh,
            tuple(self.finished[k] for k in sorted(self.finished)),
            self.preview.offset,
        )

    def start_steps(self, runs: Sequence[Run]) -> Step[None]:
        """Initialise members that have no state yet."""
        for run in runs:
            if run.state is None:
                yield self.progress(runs, 0)
                x, y = self.trainer.batch(run, 0)
                run.state = start_member(
                    self.trainer.blueprint, self.trainer.scaling, run.member, run.attempt, x, y
                )

    def advance_steps(self, runs: Sequence[Run], stop: int) -> Step[None]:
        """Train members up to a step, drawing the next batches while the device computes."""
        trainer = self.trainer
        states = [run.state for run in runs if run.state is not None]
        for run, state in zip(runs, states, strict=True):
            trainer.losses[run.member] = trainer.losses.get(run.member, [])[: state.step]
        drawer = ThreadPoolExecutor(1, "napari-btn batches")
        try:
            group = _Group(trainer.blueprint, runs[0].settings, states, self.device)
            ahead = drawer.submit(self._draw, runs, group.step)
            count = 1
            while group.step < stop:
                began, losses = time.perf_counter(), []
                with exact_arithmetic():
                    for _ in range(min(count, stop - group.step)):
                        x, y = ahead.result()
                        ahead = drawer.submit(self._draw, runs, min(group.step + 1, stop - 1))
                        losses.append(group.train(x, y))
                    self._record(runs, torch.stack(losses).cpu().numpy())
                seconds = time.perf_counter() - began
                count = max(1, min(round(_BETWEEN_S * len(losses) / max(seconds, 1e-6)), 4 * count))
                if self.preview.due:
                    self._read(runs, group)
                yield self.progress(runs, group.step)
            self._read(runs, group)
            if group.refusal:
                text = f"{self.device} took steps kernel by kernel, which is slower: {group.refusal}"
                trainer.notes = [*(n for n in trainer.notes if n.text != text), Note("amber", text)]
        finally:
            drawer.shutdown(cancel_futures=True)

    def _draw(self, runs: Sequence[Run], step: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the batches (B, M, C, *patch) of one step."""
        drawn = [self.trainer.batch(run, step) for run in runs]
        return np.stack([x for x, _ in drawn], 1), np.stack([y for _, y in drawn], 1)

    def _record(self, runs: Sequence[Run], losses: NDArray[np.float32]) -> None:
        """Keep the losses (steps, M) of the last steps."""
        for run, values in zip(runs, losses.T, strict=True):
            history = self.trainer.losses[run.member]
            for value in values.tolist():
                if not math.isfinite(value):
                    raise ArithmeticError(
                        f"The loss of member {run.member + 1} is {value} at step {len(history)}; "
                        "lower the learning rate."
                    )
                self.trainer.fresh.append((run.member, len(history), value))
                history.append(value)

    @staticmethod
    def _read(runs: Sequence[Run], group: _Group) -> None:
        for run, state in zip(runs, group.read(), strict=True):
            run.state = state

    def through_steps(self, runs: Sequence[Run]) -> Step[list[Run]]:
        """Train members to the end; a step that returns those that have to be trained again."""
        yield from self.start_steps(runs)
        again: list[Run] = []
        for stop in self.trainer.stops(runs[0].settings):
            on = [run for run in runs if run not in again]
            on = [run for run in on if run.state is not None and run.state.step < stop]
            if on:
                yield from self.advance_steps(on, stop)
            for run in on:
                self.trainer.arrive(run)
                self.look(run)
                if run.state is None:
                    again.append(run)
        return again

    def look(self, run: Run) -> None:
        """Validate and judge a member where that is due; keep it when it has finished and not collapsed."""
        trainer = self.trainer
        while run.todo and run.state is not None:
            if run.todo[0] == "check" and trainer.validation is not None:
                trainer.validate(run, probe_member(trainer.blueprint, run.state, *trainer.validation)[0])
                continue
            quality = probe_member(trainer.blueprint, run.state, trainer.collapse.x, trainer.collapse.y)
            if trainer.judge(run, *quality) and run.state is not None:
                self.finished[run.member] = trainer.finish(run)


def train_together_steps(
    lesson: Lesson,
    blueprint: Blueprint,
    settings: TrainSettings,
    *,
    members: int,
    compute: Compute,
    start: Start = FROM_NONE,
    preview_every: float = 0.0,
) -> Step[Trained]:
    """Train as many members at a time as a device holds; a step that returns `Trained`.

    Where memory runs out, it trains fewer members at a time, then uses smaller batches, then the CPU, and adds
    one note about it.

    Parameters
    ----------
    lesson : Lesson
        What to train on.
    blueprint : Blueprint
    settings : TrainSettings
    members : int
        How many members the ensemble has.
    compute : Compute
        The device, and how many members train at one time where the CPU has to take over.
    start : Start
        Weights to go on from, and members that are trained already.
    preview_every : float
        Least seconds between previews of the median; 0 for none. They take 3 % of the time at most.
    """
    device = compute.device
    trainer = Trainer(lesson, blueprint, settings, Inline(), start)
    work = _Together(
        trainer, device, Preview(lesson.scenes, blueprint, preview_every, device=device), members
    )
    work.finished = {m.number: m for m in fitting(start.finished, blueprint) if m.number < members}
    waiting = [trainer.begin(k) for k in range(members) if k not in work.finished]
    fits = int(_SHARE * free_bytes(device)) // _member_bytes(blueprint, settings)
    ladder = _Ladder(device, max(1, min(members, fits)), settings.patches[0])
    # pretrained members show what they know before they learn
    work.preview.make(trainer, waiting)
    try:
        while waiting:
            kind = blueprint.of(waiting[0].member), waiting[0].settings
            now = [run for run in waiting if (blueprint.of(run.member), run.settings) == kind]
            now = now[: ladder.count]
            waiting = [run for run in waiting if run not in now]
            try:
                waiting = (yield from work.through_steps(now)) + waiting
            except RuntimeError as error:
                if not lacks_memory(error):
                    raise
                waiting = [run for run in now if run.member not in work.finished] + waiting
                if not ladder.descend():
                    break
                trainer.settings = replace(settings, batch_size=ladder.batch)
                for run in waiting:
                    run.settings = replace(run.settings, batch_size=ladder.batch)
            release(device)
    finally:
        release(device)
    notes = [*trainer.notes, *([ladder.note(on_cpu=bool(waiting))] if ladder.descended else [])]
    if waiting:
        rest = yield from train_steps(
            lesson,
            blueprint,
            settings,
            members=members,
            compute=replace(compute, executor=None, device="cpu"),
            start=replace(start, finished=tuple(work.finished.values())),
            preview_every=preview_every,
        )
        return replace(rest, notes=(*notes, *rest.notes))
    return trained_of(work.finished, notes)
