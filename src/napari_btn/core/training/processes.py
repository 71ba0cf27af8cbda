"""Training of members as short tasks in a pool of processes.

A member in training is a value (weights, optimiser moments, step count). It is sent to a worker with
the next few batches and comes back a third of a second later. So progress, a stop and a killed worker
need no channel of their own. Batches are drawn here from the seed of the member, so that results don't
depend on the worker or the size of tasks.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.compute.pool import WorkerDiedError, process_pool
from napari_btn.core.data.image import names_in_text
from napari_btn.core.networks.family import Blueprint, Member, build, member_rng
from napari_btn.core.progress import Note, Progress
from napari_btn.core.training.collapse import Collapse
from napari_btn.core.training.preview import Preview
from napari_btn.core.training.tasks import State, probe_member, scaling_of, start_member, train_member

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TrainSettings
    from napari_btn.core.supervision.patches import Lesson

__all__ = ["Preview", "Run", "Start", "Trained", "Trainer", "fitting", "train_steps", "trained_of"]

_TASK_S = 0.35  # wall time of one task, and so the longest wait for a stop
_MAX_ATTEMPTS = 3
_CHECKS = range(3, 11)  # tenths of the steps after which members are validated; earlier all improve
_PATIENCE = 2  # validations without improvement that end a member
_VALIDATION_PIXELS = 65_536
_FIRST_BATCH = 16  # first use of the seed of a member for batches, see `member_rng`


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Parameters
    ----------
    members : tuple of Member
        In the order of their numbers.
    losses : dict
        Training loss of each step, by member number.
    notes : tuple of Note
        Notes on members that were trained again and workers that died.
    """

    members: tuple[Member, ...]
    losses: dict[int, tuple[float, ...]]
    notes: tuple[Note, ...]


@dataclass(frozen=True, eq=False)
class Start:
    """The start of a training.

    Parameters
    ----------
    members : sequence of Member
        Members to continue from; other members are initialised.
    first_draw : int
        Number of the first draw of a batch; a new number gives new patches.
    finished : sequence of Member
        Members already trained, with the same blueprint and settings.
    warm : sequence of Member
        Pretrained members in the units of the images, which take the steps and the rate of `TrainSettings.warm`.
        One that collapses starts again from random weights.
    """

    members: Sequence[Member] = ()
    first_draw: int = 0
    finished: Sequence[Member] = ()
    warm: Sequence[Member] = ()


FROM_NONE = Start()


@dataclass(eq=False)
class Run:
    """A member in training: its settings and state, its current task, and the batches of the next task."""

    member: int
    settings: TrainSettings
    attempt: int = 0
    state: State | None = None
    task: Future[Any] | None = None
    kind: str = ""
    ready: list[tuple[Any, Any]] = field(default_factory=list)
    chunk: int = 2
    todo: list[str] = field(default_factory=list)
    best: tuple[float, State] | None = None
    worse: int = 0
    deaths: int = 0
    notes: list[Note] = field(default_factory=list)


class Trainer:
    """A trainer that submits the tasks of members and receives their results.

    Parameters
    ----------
    lesson : Lesson
        Training data.
    blueprint : Blueprint
    settings : TrainSettings
    executor : concurrent.futures.Executor, optional
        Runs the tasks; local processes by default.
    start : Start
        Weights to continue from.
    """

    def __init__(
        self,
        lesson: Lesson,
        blueprint: Blueprint,
        settings: TrainSettings,
        executor: Executor | None,
        start: Start = FROM_NONE,
    ) -> None:
        self.start = {m.number: m for m in fitting(start.members, blueprint)}
        self.warm = {m.number: m for m in fitting(start.warm, blueprint)}
        self.first_draw = start.first_draw
        self.lesson, self.blueprint, self.settings = lesson, blueprint, settings
        scaling = scaling_of(lesson.scenes, lesson.boxes, blueprint.levels, seed=blueprint.seed)
        self.scaling = scaling.through_origin() if blueprint.settings.bias_free else scaling
        self.given = executor
        self.executor = executor
        self.losses: dict[int, list[float]] = {}
        self.fresh: list[tuple[int, int, float]] = []
        self.notes: list[Note] = []
        probe_rng = np.random.default_rng(np.random.SeedSequence(blueprint.seed, spawn_key=(2**31, 2)))
        patches, side = settings.patches
        self._probe = lesson.draw(min(16, 4 * patches), side, probe_rng)
        self.validation: tuple[Any, Any] | None = None
        if lesson.validation:
            count = max(_VALIDATION_PIXELS // side**blueprint.ndim, 4)
            self.validation = lesson.draw(count, side, probe_rng, boxes=lesson.validation)

    @cached_property
    def collapse(self) -> Collapse:
        """Test for collapsed members; computed on first use, while members train."""
        return Collapse(*self._probe, self.blueprint.levels)

    def batch(self, run: Run, step: int) -> tuple[Any, Any]:
        """Draw the batch of one step, from the seed of the member."""
        use = _FIRST_BATCH + self.first_draw + step
        rng = member_rng(self.blueprint.seed, run.member, attempt=run.attempt, use=use)
        return self.lesson.draw(*self.settings.patches, rng, augment=self.settings.augment)

    def begin(self, member: int) -> Run:
        """Return a member at the start of training, with its earlier or pretrained weights if it has some."""
        known = self.start.get(member) or self.warm.get(member)
        settings = self.settings.warm if member in self.warm else self.settings
        if known is None:
            return Run(member, settings)
        return Run(member, settings, known.attempt, State(member, known.attempt, 0, known.weights))

    def steps_of(self, member: int) -> int:
        """Return the number of steps that a member takes, if it does not start again."""
        return (self.settings.warm if member in self.warm else self.settings).steps

    def stops(self, settings: TrainSettings) -> list[int]:
        """Return the steps after which a member is tested or validated."""
        return sorted({*self._looks("probe", settings), *self._looks("check", settings)})

    def _looks(self, kind: str, settings: TrainSettings) -> set[int]:
        """Return the steps after which a member is tested ("probe") or validated ("check")."""
        steps = settings.steps
        if kind == "probe":
            return {max(steps // 2, 1), steps}
        return {max(steps * k // 10, 1) for k in _CHECKS} if self.validation is not None else set()

    def arrive(self, run: Run) -> None:
        """List the tests of a member that are due before its next training steps."""
        assert run.state is not None
        run.todo = [kind for kind in ("check", "probe") if run.state.step in self._looks(kind, run.settings)]

    def submit(self, run: Run) -> None:
        """Submit the next task of a member, then draw the batches of the one after while it runs."""
        if run.state is None:
            x, y = self.batch(run, 0)
            self._send(
                run, "start", start_member, self.blueprint, self.scaling, run.member, run.attempt, x, y
            )
            return
        if run.todo:
            seen = self.validation if run.todo[0] == "check" else None
            x, y = seen or (self.collapse.x, self.collapse.y)
            self._send(run, run.todo[0], probe_member, self.blueprint, run.state, x, y)
            return
        step = run.state.step
        stop = next(s for s in self.stops(run.settings) if s > step)
        count = min(run.chunk, stop - step)
        while len(run.ready) < count:
            run.ready.append(self.batch(run, step + len(run.ready)))
        now, run.ready = run.ready[:count], run.ready[count:]
        self._send(run, "train", train_member, self.blueprint, run.settings, run.state, now)
        ahead = step + count
        while len(run.ready) < min(run.chunk, run.settings.steps - ahead):
            run.ready.append(self.batch(run, ahead + len(run.ready)))

    def _send(self, run: Run, kind: str, *call: Any) -> None:
        """Submit a task; if the pool is broken, return its error as the result."""
        run.kind = kind
        if self.executor is None:
            self.executor = process_pool()
        try:
            run.task = self.executor.submit(*call)
        except BrokenExecutor as error:
            # a worker died between two looks; `receive` handles it like any dead task
            run.task = Future()
            run.task.set_exception(error)

    def receive(self, run: Run) -> bool:
        """Receive the result of a task; return True if the member is trained."""
        assert run.task is not None
        try:
            result = run.task.result()
        except BrokenExecutor:
            self._replace_worker(run)
            return False
        if run.kind == "start":
            run.state = result
        elif run.kind == "probe":
            return self.judge(run, *result)
        elif run.kind == "check":
            self.validate(run, result[0])
        else:
            run.state, losses, seconds = result
            self.arrive(run)
            history = self.losses.setdefault(run.member, [])
            self.fresh += [(run.member, len(history) + i, loss) for i, loss in enumerate(losses)]
            history += losses
            run.chunk = max(1, min(round(_TASK_S * len(losses) / max(seconds, 1e-6)), 200))
        return False

    def validate(self, run: Run, loss: NDArray[np.float64]) -> None:
        """Keep the best weights so far; end a member that gets worse on the validation part."""
        assert run.state is not None
        run.todo.remove("check")
        score = float(np.mean(loss / self.scaling.y_scale))
        run.worse += 1
        if run.best is None or score < run.best[0]:
            run.best, run.worse = (score, run.state), 0
        steps = run.settings.steps
        if run.worse >= _PATIENCE or run.state.step == steps:
            run.state, run.ready, run.todo = replace(run.best[1], step=steps), [], ["probe"]

    def judge(self, run: Run, loss: NDArray[np.float64], sd: NDArray[np.float64]) -> bool:
        """Restart a collapsed member from a child of its seed; return True if the member is trained."""
        assert run.state is not None
        end = run.state.step == run.settings.steps
        run.todo.remove("probe")
        bad = self.collapse.channels(loss, sd, end=end)
        if not bad.size:
            return end
        names, who = names_in_text(self.lesson.scenes.channel_names, bad.tolist()), f"Member {run.member + 1}"
        if run.member in self.start:
            if end:
                self._warn(
                    f"{who} got worse in {names} during this training; it was kept as it was before.", run
                )
                run.state = replace(run.state, weights=self.start[run.member].weights)
            return end
        if run.attempt + 1 >= _MAX_ATTEMPTS:
            if end:
                self._warn(
                    f"{who} learned almost nothing about {names} in {_MAX_ATTEMPTS} attempts; it was kept. Train "
                    "longer, or check that noisy and clean show the same field.",
                    run,
                )
            return end
        self._warn(
            f"{who} learned almost nothing about {names} (collapsed); trained again from a new seed.", run
        )
        self.losses[run.member], run.settings = [], self.settings
        run.attempt, run.state, run.ready, run.best, run.worse = run.attempt + 1, None, [], None, 0
        return False

    def _replace_worker(self, run: Run) -> None:
        """Start a new pool after a worker died, once per member, and repeat the task."""
        run.deaths += 1
        if run.deaths > 1 or self.given is not None:
            died = "died" if run.deaths == 1 else "died twice"
            raise WorkerDiedError(
                f"A worker process {died} while training member {run.member + 1}, most likely for lack of memory. "
                "Use smaller patches or batches, or close other programs."
            )
        # batches drawn ahead belong to the task after the repeated one
        run.ready = []
        self.executor = process_pool()
        self._warn(
            f"A worker process died while training member {run.member + 1}; its last task was repeated."
        )

    def _warn(self, text: str, run: Run | None = None) -> None:
        """Add an amber note for the user, on a member or on the training."""
        (self.notes if run is None else run.notes).append(Note("amber", text))

    def finish(self, run: Run) -> Member:
        """Return a trained member, with what a checkpoint keeps of its training."""
        assert run.state is not None
        losses = tuple(self.losses.get(run.member, ()))
        return Member(run.member, run.attempt, run.state.weights, losses, tuple(run.notes))


def train_steps(
    lesson: Lesson,
    blueprint: Blueprint,
    settings: TrainSettings,
    *,
    members: int,
    compute: Compute,
    start: Start = FROM_NONE,
    preview_every: float = 0.0,
) -> Step[Trained]:
    """Train members, several at a time; a step.

    Parameters
    ----------
    lesson : Lesson
        Training data.
    blueprint : Blueprint
    settings : TrainSettings
    members : int
        Number of members of the ensemble.
    compute : Compute
        Executor, a pool of processes by default, and number of members trained at the same time.
    start : Start
        Weights to continue from, with a new one-cycle schedule, and members that are trained already.
    preview_every : float
        Least seconds between previews of the median; 0 for none. Previews take at most 3 % of the time.
    """
    finished = {m.number: m for m in fitting(start.finished, blueprint) if m.number < members}
    warm = {m.number for m in start.warm}
    steps = {k: (settings.warm if k in warm else settings).steps for k in range(members)}
    total, kept = sum(steps.values()), tuple(finished[k] for k in sorted(finished))
    done = sum(steps[m.number] for m in kept)
    yield Progress(done, total, "Measuring the brightness of the training part", checkpoint=kept)
    trainer = Trainer(lesson, blueprint, settings, compute.executor, start)
    yield Progress(done, total, "Starting the members", checkpoint=kept)
    waiting = [trainer.begin(k) for k in range(members) if k not in finished]
    running: list[Run] = []
    preview = Preview(lesson.scenes, blueprint, preview_every, compute.workers)
    # pretrained members show what they know before they learn
    preview.make(trainer, waiting)
    try:
        while waiting or running:
            while waiting and len(running) < compute.workers:
                running.append(waiting.pop(0))
                trainer.submit(running[-1])
            wait([r.task for r in running if r.task is not None], timeout=0.2, return_when=FIRST_COMPLETED)
            arrived = [r for r in running if r.task is not None and r.task.done()]
            for run in [r for r in arrived if trainer.receive(r)]:
                finished[run.member] = trainer.finish(run)
                running.remove(run)
            # before the next tasks of members, or the preview would wait behind them
            shown = preview.make(trainer, running)
            for run in [r for r in arrived if r in running]:
                trainer.submit(run)
            done = sum(steps[k] for k in finished) + sum(r.state.step for r in running if r.state is not None)
            fresh, trainer.fresh = tuple(trainer.fresh), []
            yield Progress(
                min(done, total),
                total,
                _note(running, members),
                shown,
                fresh,
                tuple(finished[k] for k in sorted(finished)),
                preview.offset,
            )
    finally:
        for run in running:
            if run.task is not None:
                run.task.cancel()
    return trained_of(finished, trainer.notes)


def trained_of(finished: Mapping[int, Member], notes: Sequence[Note]) -> Trained:
    """Return the result of training from members with their losses, those of a checkpoint among them.

    Parameters
    ----------
    finished : mapping of int to Member
        Members by number.
    notes : sequence of Note
        Notes on the training; those on members come before them.
    """
    members = tuple(finished[k] for k in sorted(finished))
    losses = {m.number: m.losses for m in members if m.losses}
    told = tuple(note for m in members for note in m.notes)
    return Trained(tuple(replace(m, losses=(), notes=()) for m in members), losses, (*told, *notes))


def fitting(resume: Sequence[Member], blueprint: Blueprint) -> Sequence[Member]:
    """Return the members of a checkpoint, after a check that they fit the blueprint.

    Parameters
    ----------
    resume : sequence of Member
    blueprint : Blueprint

    Raises
    ------
    ValueError
        If the weights of a member have other shapes.
    """
    wanted: dict[str, dict[str, tuple[int, ...]]] = {}
    for member in resume:
        family = blueprint.of(member.number).settings.family
        if family not in wanted:
            module = build(blueprint, [(member.number, 0)])
            wanted[family] = {k: tuple(v.shape) for k, v in module.state_dict().items()}
        if {k: v.shape for k, v in member.weights.items()} != wanted[family]:
            raise ValueError(
                f"Member {member.number + 1} of the checkpoint does not fit these settings and images; "
                "continue with those that it was trained with, or start again."
            )
    return resume


def _note(running: Sequence[Run], members: int) -> str:
    """Return the note of the progress: the members in training."""
    if not running:
        return f"Trained {members} member{'' if members == 1 else 's'}"
    at = ", ".join(
        f"{r.member + 1} (step {r.state.step if r.state else 0} of {r.settings.steps})" for r in running
    )
    return (
        f"Training member {at} of {members}"
        if len(running) == 1
        else f"Training members {at}, {members} in all"
    )
