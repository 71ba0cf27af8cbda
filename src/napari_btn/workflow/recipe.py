"""Recipes: every step behind a result, as JSON, and as a methods paragraph.

A step is a dict: what was done ("do"), its settings, its inputs as shapes and hashes, the versions of the
software, and hashes of what it made. The steps of a model lie in its provenance, and a result adds its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import NOT_CALIBRATED, covered
from napari_btn.core.calibration.dose import Dose
from napari_btn.core.settings import (
    AdaptSettings,
    CalibrationSettings,
    EnsembleSettings,
    TokenSettings,
    TrainSettings,
)
from napari_btn.workflow.search import Choice, Search

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_btn.model import Model

__all__ = ["MOST_TOKEN", "Recipe", "model_digest", "recorded", "with_files"]

RECIPE_VERSION = 1
# Facts of a provenance that a methods paragraph states.
_ABOUT = (
    "alpha", "covers", "rule", "grouped_by", "n_blocks", "channel_names", "coverage", "coverage_low", "coverage_high",
    "scope", "start", "receptive_field_px",
)  # fmt: skip
_MARK = "napari_btn_recipe"
MOST_TOKEN = 2**16 - 1
"""Largest number of a token that a recipe records."""


@dataclass(frozen=True)
class Recipe:
    """The steps behind a result.

    Parameters
    ----------
    steps : tuple of dict
        Each with "do" and its settings, inputs and hashes, JSON-ready.
    about : dict
        Facts of the result that a methods paragraph states, such as its coverage; JSON-ready.
    """

    steps: tuple[dict[str, Any], ...]
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Recipe:
        """Return the recipe in the provenance of a model, a prediction or tokens.

        Parameters
        ----------
        provenance : mapping

        Raises
        ------
        ValueError
            If there is none.
        """
        steps = provenance.get("recipe")
        if not steps:
            raise ValueError(
                "This result has no recipe: it was made by napari-btn before recipes, or by another program. Make it "
                "again for one."
            )
        return cls(tuple(steps), {k: provenance[k] for k in _ABOUT if k in provenance})

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """Return the recipe of a dict that `to_dict` made.

        Parameters
        ----------
        values : dict

        Raises
        ------
        ValueError
            If it is no recipe, or one of a later version.
        """
        if not isinstance(values, dict) or type(values.get(_MARK)) is not int:
            raise ValueError("it is no recipe of napari-btn")
        if values[_MARK] > RECIPE_VERSION:
            raise ValueError(f"it has recipe version {values[_MARK]}; update napari-btn")
        steps = values.get("steps")
        if (
            not isinstance(steps, list)
            or not steps
            or not all(isinstance(s, dict) and "do" in s for s in steps)
        ):
            raise ValueError("it has no list of steps")
        for step in steps:
            _need_whole(step)
        about = values.get("about", {})
        return cls(tuple(steps), about if isinstance(about, dict) else {})

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as a JSON-ready dict."""
        return {_MARK: RECIPE_VERSION, "steps": list(self.steps), "about": self.about}

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Shape, type, hash and, where known, file of each array that the steps need, by name.

        Names are those of the arguments ("noisy", "clean"); a second array of that name is "noisy2".
        """
        found: dict[str, dict[str, Any]] = {}
        for step in self.steps:
            for name, known in step.get("inputs", {}).items():
                if any(known["sha256"] == other["sha256"] for other in found.values()):
                    continue
                own, k = name, 1
                while own in found:
                    k += 1
                    own = f"{name}{k}"
                found[own] = known
        return found

    def explain(self) -> str:
        """Return the recipe as a methods paragraph for a paper."""
        # a later calibration replaces the earlier ones: the facts are those of the last
        last = max((i for i, step in enumerate(self.steps) if step["do"] in _CALIBRATES), default=-1)
        made = [
            sentence
            for i, step in enumerate(self.steps)
            for sentence in _sentences(step, self.about, calibrates=i == last)
        ]
        if self.about.get("covers") == NOT_CALIBRATED:
            made.append(
                "The tuned networks were not calibrated, so their intervals are infinite and promise nothing."
            )
        return " ".join(made)


def _need_whole(step: Mapping[str, Any]) -> None:
    """Raise if a step lacks what it needs to be repeated or explained."""
    for known in step.get("inputs", {}).values():
        if not isinstance(known["sha256"], str) or not isinstance(known["dtype"], str):
            raise TypeError("the record of an input is wrong")
        [int(n) for n in known["shape"]]
        [(int(first), int(stop)) for first, stop in known.get("window", ())]
    if step["do"] == "fit":
        EnsembleSettings.from_dict(step["settings"])
    elif step["do"] == "calibrate":
        CalibrationSettings.from_dict(step["calibration"])
        float(step["alpha"])
    elif step["do"] == "tokens":
        TokenSettings.from_dict(step["tokens"])
    elif step["do"] == "edit":
        _need_edit(step)
    elif step["do"] == "adapt":
        AdaptSettings.from_dict(step["settings"])
    elif step["do"] == "refine":
        TrainSettings.from_dict(step["train"])
        [int(n) for place in step.get("windows", ()) for n in place]
    elif step["do"] == "regions":
        Choice.from_dict(step["choice"])
        Search.from_dict({**step["search"], "area": None}, ())
    elif step["do"] == "fuse":
        Dose.from_dict(step)
        int(step["scene"])
        len(step["inputs"]["counts"]["window"])
    if step["do"] in ("fit", "refine", "adapt", "predict", "tokens") and not isinstance(step["axes"], str):
        raise TypeError("axes are wrong")


def _need_edit(step: Mapping[str, Any]) -> None:
    """Raise if a number in the record of edits is no token's, or a name or an area is no text."""
    numbers = [int(n) for known in ("merged", "painted", "names") for n in step[known]]
    if not all(0 <= n <= MOST_TOKEN for n in (*numbers, *step["merged"].values(), step["n_tokens"])):
        raise ValueError(f"numbers of tokens must be from 0 to {MOST_TOKEN:,}")
    if not all(isinstance(text, str) for known in ("painted", "names") for text in step[known].values()):
        raise TypeError("the record of an edit is wrong")


# ---------------------------------------------------------------- what steps record


def recorded(model: Model, step: Mapping[str, Any]) -> Model:
    """Return a model whose recipe has one more step, with the hash of the model that it made.

    Parameters
    ----------
    model : Model
    step : mapping
        Result of `recipe_step`.
    """
    learned = model.learned
    steps = [*learned.provenance.get("recipe", ()), {**step, "makes": model_digest(model)}]
    return replace(model, learned=replace(learned, provenance={**learned.provenance, "recipe": steps}))


def with_files(provenance: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """Return a provenance whose recipe says where the inputs of its last step lie.

    Parameters
    ----------
    provenance : mapping
    files : mapping of str to str
        By the name of the input, a file, or a sample such as "samples.edx(seed=0, size=(256, 512)).noisy".
    """
    *before, last = provenance["recipe"]
    inputs = {k: {**v, "file": files[k]} if k in files else v for k, v in last["inputs"].items()}
    return {**provenance, "recipe": [*before, {**last, "inputs": inputs}]}


def model_digest(model: Model) -> str:
    """Return the SHA-256 of weights and offsets.

    Parameters
    ----------
    model : Model
    """
    digest = hashlib.sha256()
    for member in model.networks.members:
        digest.update(f"{member.number} {member.attempt}".encode())
        for name in sorted(member.weights):
            digest.update(name.encode() + np.ascontiguousarray(member.weights[name]).tobytes())
    known = model.calibrated.calibration.to_dict()
    groups = None if model.calibrated.groups is None else model.calibrated.groups.to_dict()
    kept = {k: known[k] for k in ("alpha", "rule", "score", "offset_lower", "offset_upper")}
    digest.update(json.dumps([kept, groups], sort_keys=True).encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- a methods paragraph


# What rules of calibration lack, for a reader who takes the word conformal for a guarantee.
_RULES = {
    "pixel": ", pixels pooled without a finite-sample guarantee",
    "image": ", for each of most images or blocks",
}
# Steps that end in a calibration.
_CALIBRATES = ("fit", "calibrate", "refine")


def _sentences(step: Mapping[str, Any], about: Mapping[str, Any], *, calibrates: bool) -> list[str]:
    """Return the sentences of a methods section on a step."""
    inputs = ", ".join(
        f"{name} ({' x '.join(map(str, known['shape']))}, SHA-256 {known['sha256'][:12]})"
        for name, known in step.get("inputs", {}).items()
    )
    calibration = _of_the_calibration(step, inputs, about) if calibrates else []
    if step["do"] == "fit":
        return [*_of_the_training(step, inputs, about), *calibration]
    if step["do"] == "calibrate":
        return calibration
    if step["do"] == "tokens":
        wanted = step["tokens"]
        return [
            f"Pixels of {inputs} were clustered into {wanted['n_tokens']} tokens by the features of the networks "
            f"({wanted.get('method') or 'kmeans'})."
        ]
    if step["do"] == "edit":
        return [_of_the_edits(step)]
    if step["do"] == "predict":
        return [f"The intervals of {inputs} were predicted with this ensemble.", *_of_the_detector(step)]
    if step["do"] == "regions":
        return [_of_the_windows(step, about)]
    if step["do"] == "fuse":
        return [_of_the_fusion(step, inputs)]
    others = {"refine": "The networks were trained further", "adapt": "The gains of the networks were tuned"}
    return [
        others.get(step["do"], f"The step {step['do']} followed") + (f", on {inputs}." if inputs else "."),
        *calibration,
    ]


def _of_the_edits(step: Mapping[str, Any]) -> str:
    """Return the sentence on tokens that were merged, painted or named by hand."""
    into: dict[int, list[str]] = {}
    for old, new in step["merged"].items():
        into.setdefault(new, []).append(old)
    made = [f"{', '.join(old)} became {new}" for new, old in into.items()]
    if step["painted"]:
        made.append(f"pixels were painted as {', '.join(step['painted'])}")
    made += [f"{number} is called {name}" for number, name in step["names"].items()]
    return f"By hand, of {step['n_tokens']} tokens{' ' * bool(made)}{'; '.join(made)}."


def _of_the_windows(step: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return the sentence on windows that were proposed."""
    choice, search = Choice.from_dict(step["choice"]), step["search"]
    names = dict(enumerate(about.get("channel_names", ())))
    channels = [str(names.get(c, f"channel {c}")) for c in choice.channels]
    if choice.decisions:
        asked = zip(channels, choice.thresholds, strict=True)
        score = f"how undecided it is whether {', '.join(f'{name} > {t:g}' for name, t in asked)}"
    else:
        score = (
            f"the {choice.kind}{' of the interval' * choice.kind.endswith('width')} ({', '.join(channels)})"
        )
    more = ", inside an area" if search["area"] is not None else ""
    if search["dose"] is not None:
        more += f", for a mean dwell of {search['dwell']:g} x that of the image"
    if search["until"] is not None:
        more += f", until {search['until']:g} pixels were expected to be decided wrongly"
    size = " x ".join(str(n) for n in search["window"])
    return f"At most {search['count']} windows of {size} pixels were proposed to be measured again, by {score}{more}."


def _of_the_fusion(step: Mapping[str, Any], inputs: str) -> str:
    """Return the sentence on a window that was fused with its new measurement."""
    sides = step["inputs"]["counts"]["window"]
    named = zip(("planes", "rows", "columns")[-len(sides) :], sides, strict=True)
    place = ", ".join(f"{name} {first} to {stop - 1}" for name, (first, stop) in named)
    dose, gain = (", ".join(f"{v:.4g}" for v in step[k]) for k in ("dose", "gain"))
    noise = "Poisson noise" if step.get("sd") is None else "normal noise"
    return (
        f"The prediction in {place} was fused with a new measurement ({inputs}; {noise}, dose {dose}, gain {gain}) by "
        "Bayes' rule, and calibrated again on simulated measurements of the held-out pixels."
    )


def _of_the_detector(step: Mapping[str, Any]) -> list[str]:
    """Return the sentence on what was repaired in the noisy image; none without a detector."""
    if step.get("detector") is None:
        return []
    given = step.get("inputs", {})
    frames = " and ".join(f"the {name} frame" for name in ("dark", "flat") if name in given)
    known = "given as a mask" if "defects" in given else "looked for in the image"
    return [
        f"Before, {f'the noisy image was corrected by {frames}, and ' if frames else ''}its broken pixels ({known}) "
        "were filled with the median of their neighbours; the calibration does not speak of these pixels."
    ]


def _of_the_training(step: Mapping[str, Any], inputs: str, about: Mapping[str, Any]) -> list[str]:
    """Return the sentences on training and calibration."""
    settings, versions = step["settings"], step.get("versions", {})
    network, train = settings["network"], settings["train"]
    made = [
        f"Images ({inputs}; axes {step['axes']}) were denoised with an ensemble of {settings['members']} random "
        f"networks of the family {network['family']} (depth {network['depth']}, seed {settings['seed']}), "
        f"{_start(about)}trained for up to {train['steps']} steps each with the pinball loss at the quantile levels "
        f"{', '.join(f'{v:g}' for v in settings['levels'])} (supervision: {settings['supervision']}) in napari-btn "
        f"{versions.get('napari-btn', '?')} with PyTorch {versions.get('torch', '?')}."
    ]
    return [*made, *_of_the_detector(step)]


def _start(about: Mapping[str, Any]) -> str:
    """Return how many networks were pretrained, if any were."""
    start = about.get("start")
    if not isinstance(start, dict) or not start.get("members"):
        return ""
    return f"{len(start['members'])} of them pretrained on other images ({start.get('from')}), "


def _of_the_calibration(step: Mapping[str, Any], inputs: str, about: Mapping[str, Any]) -> list[str]:
    """Return the sentences on the calibration in use; none if there is none."""
    covers = about.get("covers")
    if covers == NOT_CALIBRATED:
        return []
    given, blocks = step.get("inputs", {}), about.get("n_blocks")
    own = "noisy" in given and step.get("groups") is None and "groups" not in given
    other = step["do"] == "calibrate" and ("clean" in given or own)
    of = f" of {covered(covers)}" if isinstance(covers, str) else ""
    rule = f" (rule: {about['rule']}{_RULES.get(about['rule'], '')})" if "rule" in about else ""
    apart = f", each {about['grouped_by']} apart," if about.get("grouped_by") else ""
    made = [
        f"Intervals{of} were calibrated to a miscoverage of {about.get('alpha', step.get('alpha', 0.1)):g} by split "
        f"conformal prediction{rule}{apart} on {'the' if blocks is None else blocks} "
        f"{f'blocks of other images ({inputs})' if other else 'held-out blocks'}, which no network was trained on; "
        "this says nothing of single pixels."
    ]
    names, shares = about.get("channel_names", ()), about.get("coverage", ())
    if shares and len(shares) == len(names) and all(isinstance(c, float) and c == c for c in shares):
        limits = list(zip(about.get("coverage_low", ()), about.get("coverage_high", ()), strict=False))
        known = len(limits) == len(names) and all(isinstance(v, float) for pair in limits for v in pair)
        texts = [
            f"{name} {share:.3f}" + (f" ({limits[c][0]:.3f} to {limits[c][1]:.3f})" if known else "")
            for c, (name, share) in enumerate(zip(names, shares, strict=True))
        ]
        scope = f" (95 % interval of {about['scope']})" if known and "scope" in about else ""
        made.append(f"The coverage, measured with offsets from other blocks, was {', '.join(texts)}{scope}.")
    return made
