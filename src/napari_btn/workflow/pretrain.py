"""Pretraining: one's own members to start from, made from clean images and simulated noise."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn import __version__
from napari_btn.core.networks.family import Blueprint, Extent, Member, family_of
from napari_btn.core.networks.prior import Prior
from napari_btn.core.progress import Progress
from napari_btn.core.settings import LEVELS, NetworkSettings, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.progress import Step
    from napari_btn.core.training.tasks import State
    from napari_btn.samples.corpus import Corpus

__all__ = ["corpus_of", "pretrain_steps", "prior_of"]

_CHUNK = 4  # steps of a task: about half a second


def corpus_of(images: Sequence[NDArray[Any]], grain: str, seed: int, noise: Any = None) -> Corpus:
    """Return a corpus of clean images instead of made-up scenes.

    Parameters
    ----------
    images : sequence of ndarray, (C, *space)
        Clean images of the same channels and axes; scale and size may differ.
    grain : str
        "white", "correlated" or "mixed": correlation of the noise that is drawn.
    seed : int
        Seed of crops and noise.
    noise : NoiseModel, optional
        Noise of a detector in the units of the images, instead of noise of all levels.

    Raises
    ------
    ValueError
        If there is no image, they differ in channels or axes, are too small, or not finite.
    """
    from napari_btn.samples.corpus import Corpus

    if not images:
        raise ValueError("No clean image came; give one or more to pretrain on.")
    first = images[0]
    for number, image in enumerate(images, 1):
        if image.ndim != first.ndim or len(image) != len(first):
            raise ValueError(
                f"Image {number} has shape {image.shape} (channels first), the first has {first.shape}; all need "
                "the same channels and axes. Give those that fit."
            )
        if min(image.shape[1:]) < 16:
            raise ValueError(f"Image {number} is {image.shape[1:]} px; give images of at least 16 px a side.")
        if not np.isfinite(image).all() or image.min() == image.max():
            raise ValueError(f"Image {number} is constant, or not finite everywhere; leave it out.")
    known = tuple(np.asarray(image, np.float32) for image in images)
    return Corpus(len(first), first.ndim - 1, grain, seed, known, noise)  # type: ignore[arg-type]


def pretrain_steps(
    corpus: Corpus,
    compute: Compute,
    *,
    name: str,
    members: int = 5,
    train: TrainSettings | None = None,
    network: NetworkSettings | None = None,
    resume: Prior | None = None,
) -> Step[Prior]:
    """Train members on a corpus, to start from; a step.

    Parameters
    ----------
    corpus : Corpus
    compute : Compute
        Its executor, or the local processes, run the members; a graphics card is not used.
    name : str
        Name of the prior, for notes.
    members : int
        Number of members.
    train : TrainSettings, optional
        Steps and peak rate; 1,500 at 0.02 by default.
    network : NetworkSettings, optional
        Networks; those of default trainings by default.
    resume : Prior, optional
        Result of an interrupted run with fewer members.
    """
    from napari_btn.core.compute.pool import process_pool
    from napari_btn.core.training.prior import begin_prior, go_on_prior

    settings = train or TrainSettings(steps=1500)
    empty = prior_of(corpus, (), name=name, train=settings, network=network)
    blueprint = empty.blueprint
    finished = {m.number: m for m in ([] if resume is None else resume.members)}
    waiting = [k for k in range(members) if k not in finished]
    running: dict[Future[Any], int] = {}
    steps: dict[int, int] = {}
    executor = compute.executor or process_pool()

    def go_on(member: int, state: State | None) -> None:
        """Submit the next task of a member."""
        batches = corpus.of_member(member).batch
        if state is None:
            running[executor.submit(begin_prior, blueprint, member, batches)] = member
        else:
            running[executor.submit(go_on_prior, blueprint, settings, state, batches, _CHUNK)] = member

    try:
        while waiting or running:
            while waiting and len(running) < compute.workers:
                go_on(waiting.pop(0), None)
            done, _ = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
            for task in done:
                member, made = running.pop(task), task.result()
                state: State = made[0] if isinstance(made, tuple) else made
                steps[member] = state.step
                if state.step < settings.steps:
                    go_on(member, state)
                else:
                    finished[member] = Member(member, 0, state.weights)
            now = ", ".join(f"{k + 1} (step {steps.get(k, 0)} of {settings.steps})" for k in running.values())
            yield Progress(
                sum(steps.values()) + settings.steps * (len(finished) - sum(k in steps for k in finished)),
                settings.steps * members,
                f"Pretraining member {now}" if now else "Pretrained",
                checkpoint=tuple(finished[k] for k in sorted(finished)),
            )
    finally:
        for task in running:
            task.cancel()
    return replace(empty, members=tuple(finished[k] for k in sorted(finished)))


def prior_of(
    corpus: Corpus,
    members: Sequence[Member],
    *,
    name: str,
    train: TrainSettings,
    network: NetworkSettings | None = None,
) -> Prior:
    """Return members that were trained on a corpus, with the record of their training.

    Parameters
    ----------
    corpus : Corpus
    members : sequence of Member
    name : str
        Name of the prior, for notes.
    train : TrainSettings
        Steps and peak rate.
    network : NetworkSettings, optional
        Networks; those of default trainings by default.
    """
    kind = network or NetworkSettings()
    plan = family_of(kind.family).plan(kind, Extent(corpus.ndim))
    blueprint = Blueprint(kind, plan, corpus.channels, corpus.channels, corpus.ndim, LEVELS, corpus.seed)
    record = {
        "napari_btn": __version__,
        "corpus": {
            "images": len(corpus.images),
            "grain": corpus.grain,
            "seed": corpus.seed,
            "channels": corpus.channels,
            "ndim": corpus.ndim,
        },
        "members": [{"train": train.to_dict()} for _ in members],
    }
    return Prior(name, blueprint, tuple(members), record)
