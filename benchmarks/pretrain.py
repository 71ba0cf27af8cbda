"""Make the weights that the package ships: members pretrained on the made-up corpus.

    python -m benchmarks.pretrain --out src/napari_btn/pretrained --work /tmp/pretrained

The folder ``--work`` holds the state of each member, so that the command goes on where it was stopped, and
the files in ``--out`` are written anew whenever a member is done. Members stand in the order of their use:
wherever the command is stopped, all shapes have had their turn.
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
from napari_btn.core.networks.family import Blueprint, Extent, Member
from napari_btn.core.networks.prior import Prior
from napari_btn.core.registry import FAMILIES
from napari_btn.core.settings import LEVELS, NetworkSettings, TrainSettings
from napari_btn.core.training.prior import begin_prior, go_on_prior
from napari_btn.core.training.tasks import State
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle
from napari_btn.io.priors import save_prior
from napari_btn.samples.corpus import Corpus, Grain

SEED, RATE = 2026, 2e-2
_CHUNK = 40  # steps of a task


@dataclass(frozen=True)
class Kind:
    """One file of the package: networks of one shape, for one kind of noise."""

    channels: int
    ndim: int
    grain: Grain
    steps: int

    @property
    def name(self) -> str:
        """Name of the file, without its ending."""
        return f"{self.ndim}d-{self.channels}c-{self.grain}"

    @property
    def blueprint(self) -> Blueprint:
        """Networks of the default settings."""
        network = NetworkSettings()
        plan = FAMILIES[network.family].plan(network, Extent(self.ndim))
        return Blueprint(network, plan, self.channels, self.channels, self.ndim, LEVELS, SEED)

    def corpus(self, member: int) -> Corpus:
        """Return the scenes of a member; each member has its own."""
        return Corpus(self.channels, self.ndim, self.grain, SEED + member)

    @property
    def train(self) -> TrainSettings:
        """Length and rate of the training."""
        return TrainSettings(steps=self.steps, learning_rate=RATE)


WHITE = Kind(1, 2, "white", 1600)
CORRELATED = Kind(1, 2, "correlated", 1200)
THREE, TWO, FOUR = (Kind(c, 2, "mixed", n) for c, n in ((3, 1200), (2, 700), (4, 700)))
VOLUME = Kind(1, 3, "mixed", 400)

# the order of the work
QUEUE: tuple[tuple[Kind, int], ...] = (
    (WHITE, 0), (CORRELATED, 0), (THREE, 0), (VOLUME, 0), (WHITE, 1), (CORRELATED, 1), (THREE, 1), (TWO, 0),
    (FOUR, 0), (WHITE, 2), (CORRELATED, 2), (THREE, 2), (WHITE, 3), (CORRELATED, 3), (THREE, 3), (WHITE, 4),
    (CORRELATED, 4), (THREE, 4), (VOLUME, 1), (TWO, 1), (FOUR, 1), (VOLUME, 2), (TWO, 2), (FOUR, 2),
    (VOLUME, 3), (TWO, 3), (FOUR, 3), (VOLUME, 4), (TWO, 4), (FOUR, 4),
)  # fmt: skip


def run(out: Path, work: Path, workers: int, queue: tuple[tuple[Kind, int], ...] = QUEUE) -> None:
    """Train what is not trained yet, and write the files."""
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    waiting = list(queue)
    running: dict[Future[Any], tuple[Kind, int, list[float]]] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            while waiting and len(running) < workers:
                kind, member = waiting.pop(0)
                state, losses = _stored(work, kind, member)
                if state is not None and state.step >= kind.steps:
                    continue
                running[_next(pool, kind, member, state)] = (kind, member, losses)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for task in done:
                kind, member, losses = running.pop(task)
                made = task.result()
                state, fresh = made if isinstance(made, tuple) else (made, [])
                losses = [*losses, *fresh]
                _store(work, kind, state, losses)
                if state.step and (state.step % (5 * _CHUNK) == 0 or state.step == kind.steps):
                    mean = float(np.mean(losses[-5 * _CHUNK :]))
                    print(f"{time.strftime('%H:%M:%S')} {kind.name} member {member} step {state.step} of {kind.steps}"
                          f" loss {mean:.4f}", flush=True)  # fmt: skip
                if state.step < kind.steps:
                    running[_next(pool, kind, member, state)] = (kind, member, losses)
                else:
                    write(out, work, kind)
    for kind in dict.fromkeys(kind for kind, _ in queue):
        write(out, work, kind)


def _next(pool: ProcessPoolExecutor, kind: Kind, member: int, state: State | None) -> Future[Any]:
    """Submit the next task of a member."""
    batches = kind.corpus(member).batch
    if state is None:
        return pool.submit(begin_prior, kind.blueprint, member, batches)
    return pool.submit(go_on_prior, kind.blueprint, kind.train, state, batches, _CHUNK)


def _path(work: Path, kind: Kind, member: int) -> Path:
    return work / f"{kind.name}-{kind.steps}-{member}.state"


def _store(work: Path, kind: Kind, state: State, losses: list[float]) -> None:
    """Keep the state of a member."""
    arrays = {f"w.{k}": v for k, v in state.weights.items()} | {f"m.{k}": v for k, v in state.moments.items()}
    arrays["losses"] = np.asarray(losses)
    values = {"kind": "prior state", "step": state.step, "member": state.member}
    write_bundle(Bundle(values, arrays), _path(work, kind, state.member))


def _stored(work: Path, kind: Kind, member: int) -> tuple[State | None, list[float]]:
    """Return the state of a member, and its losses."""
    path = _path(work, kind, member)
    if not path.is_file():
        return None, []
    bundle = read_bundle(path)
    weights, moments = ({k[2:]: v for k, v in bundle.arrays.items() if k.startswith(p)} for p in ("w.", "m."))
    state = State(member, 0, bundle.values["step"], weights, moments)
    return state, [float(v) for v in bundle.arrays["losses"]]


def write(out: Path, work: Path, kind: Kind) -> None:
    """Write the file of a kind with all members that are done, up to the first that is not."""
    members, first = [], []
    while (found := _stored(work, kind, len(members)))[0] is not None and found[0].step >= kind.steps:
        members.append(Member(len(members), 0, found[0].weights))
        first.append([round(v, 6) for v in found[1][:20]])
    if not members:
        return
    record = {
        "napari_btn": __version__,
        "corpus": {"channels": kind.channels, "ndim": kind.ndim, "grain": kind.grain, "seed": SEED},
        "train": kind.train.to_dict(),
        "first_losses": first,
    }
    save_prior(Prior(kind.name, kind.blueprint, tuple(members), record), out / f"{kind.name}.btn")


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
