"""Where members start: from pretrained ones that fit networks and images, or from random weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import middle_of_space
from napari_btn.core.data.repetition import repetition_of
from napari_btn.core.progress import Progress
from napari_btn.io.priors import load_prior, shipped_priors

if TYPE_CHECKING:
    from napari_btn.core.data.image import View
    from napari_btn.core.networks.family import Blueprint, Member
    from napari_btn.core.networks.prior import Prior
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TrainSettings
    from napari_btn.core.supervision.patches import Lesson

__all__ = ["Origin", "origin_of", "warm_steps"]

_PIXELS = 32_768  # of the training part, on which pretrained members are matched
_PERIOD_PX, _REPEATS = 40, 3  # longest period of a texture, and how often it must be seen


@dataclass(frozen=True)
class Origin:
    """The pretrained members that a training may start from.

    Parameters
    ----------
    priors : tuple of Prior
        Pretrained members that fit the networks, one set for each kind of noise; empty for none.
    why : str
        What members start from, or why not from pretrained members; part of a sentence.
    """

    priors: tuple[Prior, ...]
    why: str

    @property
    def members(self) -> int:
        """Number of members that each of the priors holds."""
        return min((len(p.members) for p in self.priors), default=0)

    def sentence(self, members: int) -> str:
        """Return where members start, as a sentence.

        Parameters
        ----------
        members : int
            Number of members of the ensemble.
        """
        if not self.priors:
            return f"Members start from {self.why}."
        known = min(self.members, members)
        rest = f"; {members - known} of {members} start from random weights" if known < members else ""
        return f"Members start from {self.why}{rest}."

    def wired(self, blueprint: Blueprint) -> Blueprint:
        """Return the blueprint with the wiring of the pretrained members."""
        return replace(blueprint, wiring=self.priors[0].blueprint.seed) if self.priors else blueprint


@dataclass(frozen=True)
class _Warmth:
    """The outcome of a look for pretrained members.

    Parameters
    ----------
    members : tuple of Member
        Members that fit the images, in their units.
    record : dict
        Where members start, for the provenance; JSON-ready.
    """

    members: tuple[Member, ...]
    record: dict[str, Any]


def origin_of(train: TrainSettings, blueprint: Blueprint, noisy: View) -> Origin:
    """Return what members may start from, by settings, networks and image; weights are read only where they fit.

    Images that repeat themselves every few pixels, such as a crystal lattice, are learned sooner from random weights.
    Members of a file may have other dilations, such as a small image needs, if their weights have the same shapes.

    Parameters
    ----------
    train : TrainSettings
    blueprint : Blueprint
    noisy : View
        The noisy image.

    Raises
    ------
    ValueError
        If ``train.start`` names a file whose members don't fit, or that is none.
    """
    if train.start == "scratch":
        return Origin((), "random weights, as asked")
    if train.start != "pretrained":
        prior = load_prior(train.start)
        wrong = prior.mismatch(blueprint)
        sees = f", which saw {prior.blueprint.receptive_field} px to each side" if wrong else ""
        if wrong and not (wrong == "dilations" and _same_weights(prior, blueprint)):
            raise ValueError(
                f"The members of {train.start} have other {wrong} than these networks and images need. Pretrain some "
                'that fit, or start from "pretrained" or "scratch".'
            )
        return Origin((prior,), f"pretrained members of {train.start}{sees}")
    priors = shipped_priors(blueprint)
    if priors:
        if period := _period_of(noisy):
            return Origin(
                (), f"random weights: the image repeats itself every {period} px, which they learn faster"
            )
        wired = tuple(p for p in priors if p.blueprint.seed == priors[0].blueprint.seed)
        return Origin(wired, "pretrained members")
    channels = "1 channel" if blueprint.n_in == 1 else f"{blueprint.n_in} channels"
    return Origin(
        (), f"random weights: no pretrained members for these networks and {channels} in {blueprint.ndim}D"
    )


def _same_weights(prior: Prior, blueprint: Blueprint) -> bool:
    """Return True if weights of pretrained members have the shapes that networks of a blueprint need."""
    from napari_btn.core.training.processes import fitting

    try:
        fitting(prior.members, blueprint)
    except ValueError:
        return False
    return True


def _period_of(noisy: View) -> int:
    """Return the period of a texture in pixels, if it has many repeats; else 0."""
    found = repetition_of(noisy.read(0, middle_of_space(noisy.space)))
    if found is None or found.period_px > _PERIOD_PX or found.reach_px < _REPEATS * found.period_px:
        return 0
    return found.period_px


def warm_steps(
    origin: Origin, lesson: Lesson, blueprint: Blueprint, train: TrainSettings, members: int
) -> Step[_Warmth]:
    """Return pretrained members in the units of the training part, those that fit it; a step.

    Of several priors, that whose first member has the least loss on the training part is taken. A member that is
    no better than constant quantiles in some channel is left out.

    Parameters
    ----------
    origin : Origin
    lesson : Lesson
        Training data.
    blueprint : Blueprint
        With the wiring of the priors.
    train : TrainSettings
        Settings with patch size and number chosen.
    members : int
        Number of members of the ensemble.
    """
    if not origin.priors:
        return _Warmth((), {"from": "scratch", "why": origin.why})
    from napari_btn.core.training.tasks import scaling_of
    from napari_btn.core.training.warm import settle_member

    yield Progress(0, 1, "Matching pretrained members to the images")
    scaling = scaling_of(lesson.scenes, lesson.boxes, blueprint.levels, seed=blueprint.seed)
    if blueprint.settings.bias_free:
        scaling = scaling.through_origin()
    rng = np.random.default_rng(np.random.SeedSequence(blueprint.seed, spawn_key=(2**31, 4)))
    side = train.patches[1]
    x, y = lesson.draw(max(_PIXELS // side**blueprint.ndim, 2), side, rng)
    firsts = []
    for prior in origin.priors:
        firsts.append(settle_member(blueprint, prior.members[0], scaling, x, y))
        yield Progress(0, 1, f"Matching pretrained members ({prior.name}) to the images")
    best = min(range(len(firsts)), key=lambda i: (not firsts[i].fits, firsts[i].loss))
    prior, settled = origin.priors[best], [firsts[best]]
    for member in prior.members[1:members]:
        settled.append(settle_member(blueprint, member, scaling, x, y))
        yield Progress(0, 1, f"Matching pretrained members ({prior.name}) to the images")
    fit = tuple(s.member for s in settled if s.fits)
    record = {
        "from": prior.name,
        "corpus": prior.record.get("corpus", {}),
        "members": [m.number for m in fit],
        "loss": [round(s.loss, 4) for s in settled],
        "other": {p.name: round(f.loss, 4) for p, f in zip(origin.priors, firsts, strict=True)},
    }
    return _Warmth(fit, record)
