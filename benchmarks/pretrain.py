"""Make the weights that the package ships: members pretrained on the made-up corpus.

    python -m benchmarks.pretrain --out src/napari_btn/pretrained --work build/pretrained

The folder ``--work`` holds the state of each member, so that the command goes on where it was stopped, and
the files in ``--out`` are written again whenever a member is done. A member that such a file holds already, with
the same training, is not trained again; for all of them from the beginning, name an empty folder. Members are
trained in the order of their use: wherever the command is stopped, all shapes have had their turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_btn import __version__
from napari_btn.core.networks.family import Blueprint, Extent, Member, family_of
from napari_btn.core.networks.prior import Prior
from napari_btn.core.settings import LEVELS, NetworkSettings, TrainSettings
from napari_btn.core.training.prior import begin_prior, go_on_prior
from napari_btn.core.training.tasks import State
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle
from napari_btn.io.priors import load_prior, save_prior
from napari_btn.samples.corpus import Corpus, Grain

SEED, RATE = 2026, 2e-2
_CHUNK = 40  # steps of a task


@dataclass(frozen=True)
class Kind:
    """One file of the package: networks of one shape, for one kind of noise."""

    channels: int
    ndim: int
    grain: Grain

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return f"{self.ndim}d-{self.channels}c-{self.grain}"

    @property
    def blueprint(self) -> Blueprint:
        """Networks of the default settings."""
        network = NetworkSettings()
        plan = family_of(network.family).plan(network, Extent(self.ndim))
        return Blueprint(network, plan, self.channels, self.channels, self.ndim, LEVELS, SEED)

    @property
    def corpus(self) -> Corpus:
        """Scenes and their noise."""
        return Corpus(self.channels, self.ndim, self.grain, SEED)


@dataclass(frozen=True)
class Pupil:
    """One member to be trained: its kind, number, and steps."""

    kind: Kind
    member: int
    steps: int

    @property
    def train(self) -> TrainSettings:
        """Length and rate of the training."""
        return TrainSettings(steps=self.steps, learning_rate=RATE)


WHITE, CORRELATED = Kind(1, 2, "white"), Kind(1, 2, "correlated")
TWO, THREE, FOUR, VOLUME = Kind(2, 2, "mixed"), Kind(3, 2, "mixed"), Kind(4, 2, "mixed"), Kind(1, 3, "mixed")

STEPS = {WHITE: 3000, CORRELATED: 2400, THREE: 900, TWO: 600, FOUR: 600, VOLUME: 400}

# the order of the work
QUEUE = tuple(
    Pupil(kind, member, STEPS[kind])
    for kind, member in (
        (WHITE, 0), (CORRELATED, 0), (WHITE, 1), (THREE, 0), (THREE, 1), (WHITE, 2), (CORRELATED, 1), (VOLUME, 0),
        (TWO, 0), (FOUR, 0), (CORRELATED, 2), (WHITE, 3), (THREE, 2), (WHITE, 4), (THREE, 3), (CORRELATED, 3),
        (THREE, 4), (CORRELATED, 4), (VOLUME, 1), (TWO, 1), (FOUR, 1), (VOLUME, 2), (TWO, 2), (FOUR, 2),
        (VOLUME, 3), (TWO, 3), (FOUR, 3), (VOLUME, 4), (TWO, 4), (FOUR, 4),
    )
)  # fmt: skip


def run(out: Path, work: Path, workers: int, queue: tuple[Pupil, ...] = QUEUE) -> None:
    """Train what is not trained yet, and write the files."""
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    waiting = [p for p in queue if p.member not in kept(out, p.kind, queue)]
    running: dict[Future[Any], tuple[Pupil, list[float]]] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            while waiting and len(running) < workers:
                pupil = waiting.pop(0)
                state, losses = _stored(work, pupil)
                if state is None or state.step < pupil.steps:
                    running[_next(pool, pupil, state)] = (pupil, losses)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for task in done:
                pupil, losses = running.pop(task)
                made = task.result()
                state, fresh = made if isinstance(made, tuple) else (made, [])
                losses = [*losses, *fresh]
                _store(work, pupil, state, losses)
                if state.step and (state.step % (5 * _CHUNK) == 0 or state.step == pupil.steps):
                    mean = float(np.mean(losses[-5 * _CHUNK :]))
                    print(f"{time.strftime('%H:%M:%S')} {pupil.kind.name} member {pupil.member} step {state.step} of "
                          f"{pupil.steps} loss {mean:.4f}", flush=True)  # fmt: skip
                if state.step < pupil.steps:
                    running[_next(pool, pupil, state)] = (pupil, losses)
                else:
                    write(out, work, pupil.kind, queue)
    for kind in dict.fromkeys(pupil.kind for pupil in queue):
        write(out, work, kind, queue)


def _next(pool: ProcessPoolExecutor, pupil: Pupil, state: State | None) -> Future[Any]:
    """Submit the next task of a member."""
    batches, blueprint = pupil.kind.corpus.of_member(pupil.member).batch, pupil.kind.blueprint
    if state is None:
        return pool.submit(begin_prior, blueprint, pupil.member, batches)
    return pool.submit(go_on_prior, blueprint, pupil.train, state, batches, _CHUNK)


def _path(work: Path, pupil: Pupil) -> Path:
    return work / f"{pupil.kind.name}-{pupil.steps}-{pupil.member}.state"


def _store(work: Path, pupil: Pupil, state: State, losses: list[float]) -> None:
    """Keep the state of a member."""
    arrays = {f"w.{k}": v for k, v in state.weights.items()} | {f"m.{k}": v for k, v in state.moments.items()}
    arrays["losses"] = np.asarray(losses)
    write_bundle(Bundle({"kind": "prior state", "step": state.step}, arrays), _path(work, pupil))


def _stored(work: Path, pupil: Pupil) -> tuple[State | None, list[float]]:
    """Return the state of a member, and its losses."""
    path = _path(work, pupil)
    if not path.is_file():
        return None, []
    bundle = read_bundle(path)
    weights, moments = ({k[2:]: v for k, v in bundle.arrays.items() if k.startswith(p)} for p in ("w.", "m."))
    state = State(pupil.member, 0, bundle.values["step"], weights, moments)
    return state, [float(v) for v in bundle.arrays["losses"]]


def kept(out: Path, kind: Kind, queue: tuple[Pupil, ...]) -> dict[int, tuple[Member, dict[str, Any]]]:
    """Return the members that the file of a kind holds with the training of the queue, with their records."""
    path = out / f"{kind.name}.safetensors"
    if not path.is_file():
        return {}
    prior = load_prior(path)
    wanted = {p.member: p.train.to_dict() for p in queue if p.kind == kind}
    pairs = zip(prior.members, prior.record["members"], strict=True)
    # settings that are newer than the file had their defaults
    return {
        m.number: (m, record)
        for m, record in pairs
        if TrainSettings.from_dict(record["train"]).to_dict() == wanted.get(m.number)
    }


def write(out: Path, work: Path, kind: Kind, queue: tuple[Pupil, ...]) -> None:
    """Write the file of a kind with all members that are done, up to the first that is not."""
    pupils = sorted((p for p in queue if p.kind == kind), key=lambda p: p.member)
    members, record = [], []
    before = kept(out, kind, queue)
    for pupil in pupils:
        if pupil.member in before:
            members.append(before[pupil.member][0])
            record.append(before[pupil.member][1])
            continue
        state, losses = _stored(work, pupil)
        if state is None or state.step < pupil.steps:
            break
        members.append(Member(pupil.member, 0, state.weights))
        record.append({"train": pupil.train.to_dict(), "first_losses": [round(v, 6) for v in losses[:20]]})
    if not members:
        return
    corpus = {"channels": kind.channels, "ndim": kind.ndim, "grain": kind.grain, "seed": SEED}
    about = {"napari_btn": __version__, "corpus": corpus, "members": record}
    save_prior(Prior(kind.name, kind.blueprint, tuple(members), about), out / f"{kind.name}.safetensors")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--work", type=Path, required=True, help="folder of the states of members")
    parser.add_argument("--workers", type=int, default=2, help="members trained at the same time")
    asked = parser.parse_args()
    run(asked.out, asked.work, asked.workers)


if __name__ == "__main__":
    main()
