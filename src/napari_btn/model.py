"""The model, one frozen value with all results of training and calibration, and its bundle.

Long because parts and bundle stand together: a new part is seen where it is saved and loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.cases import HeldOut, name_of_blocks
from napari_btn.core.calibration.conformal import NOT_CALIBRATED, Calibration
from napari_btn.core.calibration.drift import Profile
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.groups import GroupCalibration
from napari_btn.core.data.detector import Detector
from napari_btn.core.data.series import series_axes
from napari_btn.core.evaluation.report import Report
from napari_btn.core.networks.family import Blueprint, Member, Networks, family_of
from napari_btn.core.progress import Note
from napari_btn.core.settings import EnsembleSettings
from napari_btn.core.supervision.registry import supervision_of
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle
from napari_btn.io.damage import reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.exceedance import Exceedance
    from napari_btn.core.calibration.grouping import Grouping
    from napari_btn.core.tokens.learn import TokenModel

__all__ = [
    "NOT_CALIBRATED",
    "Calibrated",
    "Learned",
    "Model",
    "Scores",
    "distribution_of",
    "load_model",
    "load_partial",
    "save_model",
    "save_partial",
]

_LACKS = "{{file}} lacks a part of a bundle, or has a wrong one ({{why}}); it is damaged. {advice}"
_HELD_OUT = tuple(f.name for f in fields(HeldOut) if f.name not in ("levels", "blocks"))


@dataclass(frozen=True, eq=False, kw_only=True)
class Learned:
    """Trained members, and a description of their training images.

    Parameters
    ----------
    networks : Networks
    losses : dict
        Training loss of each step, by member number.
    notes : tuple of Note
        Notes of the plan and the training.
    axes : str
        Axes of the noisy image.
    channel_names : tuple of str
    pixel_size : tuple of float, optional
        One per space axis, in ``unit``.
    unit : str
    provenance : dict
        Version, settings, seed and fingerprints of the images, JSON-ready.
    profile : Profile, optional
        Noise and brightness of the calibration images; None if they are too small.
    detector : Detector, optional
        Dark and flat frames and broken pixels, by which noisy images are repaired first.
    """

    networks: Networks
    losses: dict[int, tuple[float, ...]]
    notes: tuple[Note, ...]
    axes: str
    channel_names: tuple[str, ...]
    pixel_size: tuple[float, ...] | None
    unit: str
    provenance: dict[str, Any]
    profile: Profile | None = None
    detector: Detector | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Scores:
    """Predictions and targets of held-out pixels.

    Parameters
    ----------
    held_out : HeldOut
        Pixels that offsets are calibrated on.
    block_px : int
        Side of a block in pixels; 0 if scenes are the blocks.
    covers : str
        Quantity that an interval covers, from the supervision.
    notes : tuple of Note
        Notes on the target.
    reported : HeldOut, optional
        Pixels for the report alone.
    grouping : Grouping, optional
        Group of each pixel, if groups are calibrated separately.
    noise : ndarray of float, (C,), optional
        Noise of the target as a share of the variance about the predicted mean, where it is known.
    """

    held_out: HeldOut
    block_px: int
    covers: str
    notes: tuple[Note, ...] = ()
    reported: HeldOut | None = None
    grouping: Grouping | None = None
    noise: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibrated:
    """Offsets at one miscoverage level, and their measured coverage.

    Parameters
    ----------
    calibration : Calibration
    report : Report
    distribution : Exceedance, optional
        Recalibration into probabilities; None if there is only one quantile level.
    groups : GroupCalibration, optional
    locks : mapping of str to float
        Locked threshold by channel name; a calibration at another level or on other data keeps them.
    invalid : str
        Reason why neither offsets nor stored scores hold for these members; empty if they do.
    """

    calibration: Calibration
    report: Report
    distribution: Exceedance | None = None
    groups: GroupCalibration | None = None
    locks: Mapping[str, float] = field(default_factory=dict)
    invalid: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """All results of training and calibration; replaced as a whole, never changed.

    Parameters
    ----------
    settings : EnsembleSettings
        Settings of the training, with the calibration in use.
    learned : Learned
    scores : Scores
    calibrated : Calibrated
    tokens : TokenModel, optional
        Palette, if one was learned.
    """

    settings: EnsembleSettings
    learned: Learned
    scores: Scores
    calibrated: Calibrated
    tokens: TokenModel | None = field(default=None)

    @property
    def networks(self) -> Networks:
        """Trained members and their blueprint."""
        return self.learned.networks

    @property
    def blueprint(self) -> Blueprint:
        """Blueprint of the members."""
        return self.learned.networks.blueprint

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the training channels."""
        return self.learned.channel_names

    def need_calibrated(self) -> None:
        """Raise ``ValueError`` if the members were adapted, and not calibrated since."""
        if self.calibrated.invalid:
            raise ValueError(self.calibrated.invalid)

    def with_locks(self, locks: Mapping[str, float]) -> Model:
        """Return the model with other locked thresholds, which no other part depends on.

        Parameters
        ----------
        locks : mapping of str to float
            Threshold by channel name, in the unit of the target.

        Raises
        ------
        ValueError
            If there is no such channel, a threshold is not finite, or there is only one quantile level.
        """
        self.need_calibrated()
        if locks and self.calibrated.distribution is None:
            raise ValueError(
                "The networks have one quantile level, and a threshold needs two or more to be locked. Train with "
                "more levels."
            )
        if unknown := sorted(set(locks) - set(self.channel_names)):
            raise ValueError(
                f"There is no channel {', '.join(unknown)} to lock; there are {', '.join(self.channel_names)}."
            )
        for name, threshold in locks.items():
            if not np.isfinite(threshold):
                raise ValueError(f"The threshold of {name} is {threshold}; give a finite number to lock.")
        return replace(self, calibrated=replace(self.calibrated, locks=dict(locks)))

    @property
    def shown(self) -> str:
        """Map that is shown first: "median", or "mean" where targets are noisy."""
        return supervision_of(self.settings.supervision).shown

    @property
    def caption(self) -> dict[str, Any]:
        """Metadata that every map carries, JSON-ready."""
        calibration, report = self.calibrated.calibration, self.calibrated.report
        grouping = self.scores.grouping
        # hashes of patches are long, and are needed only where images come in to calibrate
        provenance = {k: v for k, v in self.learned.provenance.items() if k != "remembered"}
        return {
            **provenance,
            "alpha": calibration.alpha,
            "covers": self.scores.covers,
            # for the model-assisted interval of the clean signal
            **({} if self.scores.noise is None else {"target_noise": [float(v) for v in self.scores.noise]}),
            # the median, unless a supervision says otherwise
            **({} if self.shown == "median" else {"shown": self.shown}),
            "rule": calibration.rule,
            **({} if grouping is None else {"grouped_by": grouping.name}),
            "n_blocks": calibration.n_blocks,
            "channel_names": list(self.channel_names),
            **{
                k: v
                for k, v in report.to_dict().items()
                if k in ("coverage", "coverage_low", "coverage_high")
            },
            "scope": report.scope,
            "warnings": [n.to_dict() for n in report.warnings],
        }


def distribution_of(held_out: HeldOut, calibration: Calibration) -> Exceedance | None:
    """Return the recalibration into probabilities; None if there is only one quantile level.

    Parameters
    ----------
    held_out : HeldOut
        Pixels that the calibration comes from.
    calibration : Calibration
        Its rule decides between pixels and blocks as units.
    """
    return exceedance_from(held_out, calibration.rule) if len(held_out.levels) > 1 else None


# ---------------------------------------------------------------- bundles


def save_model(model: Model, path: str | Path) -> None:
    """Save a model as a bundle; the file appears only when it is complete.

    Parameters
    ----------
    model : Model
    path : str or Path
        Path of the bundle.
    """
    write_bundle(_to_bundle(model), path)


def load_model(path: str | Path) -> Model:
    """Return the model of a bundle.

    Parameters
    ----------
    path : str or Path
        Path of the bundle.

    Raises
    ------
    ValueError
        If the file is damaged, newer, not a bundle, or of an interrupted training.
    """
    bundle = read_bundle(path)
    if bundle.values.get("kind") == "variational":
        raise ValueError(
            f"{path} holds a variational model; open it with "
            "napari_btn.Variational.load, or draw from it by napari-btn plausible --model."
        )
    if bundle.values.get("kind") != "trained":
        raise ValueError(f"{path} is an interrupted training; go on with it (--resume) before using it.")
    with reading(Path(path), _LACKS.format(advice="Save it again.")):
        return _from_bundle(bundle)


def save_partial(
    settings: EnsembleSettings, checkpoint: Sequence[Member], data: dict[str, Any], path: str | Path
) -> None:
    """Save the finished members of an interrupted training, for `load_partial`.

    Parameters
    ----------
    settings : EnsembleSettings
    checkpoint : sequence of Member
        A `Progress.checkpoint`.
    data : dict
        Description of the training data, JSON-ready.
    path : str or Path
        Path of the bundle.
    """
    values = {
        "kind": "partial",
        "settings": settings.to_dict(),
        "data": data,
        "members": [[m.number, m.attempt] for m in checkpoint],
        "member_notes": [[n.to_dict() for n in m.notes] for m in checkpoint],
    }
    losses = {f"loss.{m.number}": np.asarray(m.losses, np.float32) for m in checkpoint}
    write_bundle(Bundle(values, {**_member_arrays(checkpoint), **losses}), path)


def load_partial(path: str | Path) -> tuple[EnsembleSettings, tuple[Member, ...], dict[str, Any]]:
    """Return settings, finished members and data of an interrupted training.

    Parameters
    ----------
    path : str or Path
        Path of the bundle.

    Raises
    ------
    ValueError
        If the file is damaged, newer, or of a finished training.
    """
    bundle = read_bundle(path)
    if bundle.values.get("kind") != "partial":
        raise ValueError(f"{path} is not an interrupted training; load it as a bundle instead.")
    with reading(Path(path), _LACKS.format(advice="Start the training again.")):
        settings = EnsembleSettings.from_dict(bundle.values["settings"])
        losses = _losses_of(bundle)
        members = _members_of(bundle)
        notes = bundle.values.get("member_notes", [()] * len(members))
        members = tuple(
            replace(m, losses=losses[m.number], notes=tuple(map(Note.from_dict, said)))
            for m, said in zip(members, notes, strict=True)
        )
        return settings, members, dict(bundle.values.get("data", {}))


def _to_bundle(model: Model) -> Bundle:
    """Return the bundle of a model."""
    learned, scores, calibrated = model.learned, model.scores, model.calibrated
    blueprint, members = learned.networks.blueprint, learned.networks.members
    arrays = _member_arrays(members)
    for k, loss in learned.losses.items():
        arrays[f"loss.{k}"] = np.asarray(loss, np.float32)
    for part in ("held_out", "reported"):
        for name in _HELD_OUT:
            value = getattr(getattr(scores, part), name, None)
            if value is not None:
                arrays[f"{part}.{name}"] = value
    if model.tokens is not None:
        arrays |= {f"tokens.{name}": value for name, value in model.tokens.to_arrays().items()}
    if learned.detector is not None:
        arrays |= {f"detector.{name}": value for name, value in learned.detector.to_arrays().items()}
    if scores.grouping is not None:
        arrays |= _grouping_arrays(scores.grouping)
    values = {
        "kind": "trained",
        "settings": model.settings.to_dict(),
        **blueprint.family.to_dict(blueprint.plan),
        "n_in": blueprint.n_in,
        "n_out": blueprint.n_out,
        "ndim": blueprint.ndim,
        "wiring": blueprint.wiring,
        "members": [[m.number, m.attempt] for m in members],
        "block_px": scores.block_px,
        "blocks": scores.held_out.blocks,
        "calibration": calibrated.calibration.to_dict(),
        "groups": None if calibrated.groups is None else calibrated.groups.to_dict(),
        "locks": dict(calibrated.locks),
        "invalid": calibrated.invalid,
        "report": calibrated.report.to_dict(),
        "notes": [n.to_dict() for n in (*learned.notes, *scores.notes)],
        "axes": learned.axes,
        "channel_names": list(learned.channel_names),
        "pixel_size": None if learned.pixel_size is None else list(learned.pixel_size),
        "unit": learned.unit,
        "covers": scores.covers,
        "target_noise": None if scores.noise is None else [float(v) for v in scores.noise],
        "provenance": learned.provenance,
        "detector": None if learned.detector is None else learned.detector.axes,
        "profile": None if learned.profile is None else learned.profile.to_dict(),
    }
    return Bundle(values, arrays)


def _from_bundle(bundle: Bundle) -> Model:
    """Return the model of a bundle; raise ``KeyError`` or ``TypeError`` if a part is missing."""
    values, arrays = bundle.values, bundle.arrays
    settings = EnsembleSettings.from_dict(values["settings"])
    blueprint = Blueprint(
        settings.network,
        family_of(settings.network.family).from_dict(values),
        values["n_in"],
        values["n_out"],
        values["ndim"],
        settings.levels,
        settings.seed,
        values.get("wiring"),
    )
    members = _members_of(bundle)
    known, groups = values.get("profile"), values.get("groups")
    learned = Learned(
        networks=Networks(blueprint, members),
        losses=_losses_of(bundle),
        notes=tuple(Note.from_dict(n) for n in values["notes"]),
        axes=values["axes"],
        channel_names=tuple(values["channel_names"]),
        pixel_size=None if values["pixel_size"] is None else tuple(values["pixel_size"]),
        unit=values["unit"],
        provenance=values["provenance"],
        profile=None if known is None else Profile.from_dict(known),
        detector=_detector_from(bundle),
    )
    scores = Scores(
        held_out=_held_out_from("held_out", bundle, settings.levels),
        block_px=values["block_px"],
        covers=values["covers"],
        reported=_held_out_from("reported", bundle, settings.levels) if "reported.target" in arrays else None,
        grouping=_grouping_from(bundle),
        noise=None if values.get("target_noise") is None else np.asarray(values["target_noise"], float),
    )
    calibration = Calibration.from_dict(values["calibration"])
    calibrated = Calibrated(
        calibration=calibration,
        report=Report.from_dict(values["report"]),
        distribution=None if values.get("invalid") else distribution_of(scores.held_out, calibration),
        groups=None if groups is None else GroupCalibration.from_dict(groups),
        locks={name: float(t) for name, t in values.get("locks", {}).items()},
        invalid=values.get("invalid", ""),
    )
    model = Model(
        settings=settings,
        learned=learned,
        scores=scores,
        calibrated=calibrated,
        tokens=_tokens_from("tokens", bundle),
    )
    _need_agreement(model)
    return model


def _need_agreement(model: Model) -> None:
    """Raise ``ValueError`` if parts of a model disagree on members, channels or levels."""
    blueprint, calibration = model.blueprint, model.calibrated.calibration
    n_in, n_out, how = blueprint.n_in, blueprint.n_out, model.settings.supervision_settings
    axes = model.learned.axes if how.frames == 1 else series_axes(model.learned.axes, how.frames_along)
    counts = {
        "members": (len(model.networks.members), model.settings.members),
        "numbers of members": (len({m.number for m in model.networks.members}), model.settings.members),
        "channel names": (len(model.channel_names), n_out),
        "channels seen": (n_out * how.frames, n_in),
        "channels held out": (model.scores.held_out.target.shape[0], n_out),
        "lower offsets": (len(calibration.offset_lower), n_out),
        "upper offsets": (len(calibration.offset_upper), n_out),
        "levels of the calibration": (len(calibration.levels), len(blueprint.levels)),
        "axes of space": (sum(a in "ZYX" for a in axes), blueprint.ndim),
    }
    for name, (came, needed) in counts.items():
        if came != needed:
            raise ValueError(f"{name}: {came} instead of {needed}")
    if tuple(calibration.levels) != tuple(blueprint.levels):
        raise ValueError("the calibration has other levels than the networks")


def _held_out_from(part: str, bundle: Bundle, levels: tuple[float, ...]) -> HeldOut:
    """Return the held-out scores in a part of a bundle."""
    arrays, side = bundle.arrays, bundle.values["block_px"]
    return HeldOut(
        arrays[f"{part}.quantiles"],
        arrays[f"{part}.target"],
        arrays[f"{part}.block"],
        levels,
        arrays.get(f"{part}.observed"),
        arrays.get(f"{part}.position"),
        # bundles of version 0.1 don't name their blocks
        bundle.values.get("blocks") or name_of_blocks(side, "block" if side else "field"),
    )


def _member_arrays(members: Sequence[Member]) -> dict[str, NDArray[Any]]:
    """Return the weights of members as arrays of a bundle."""
    return {f"member.{m.number}.{name}": value for m in members for name, value in m.weights.items()}


def _members_of(bundle: Bundle) -> tuple[Member, ...]:
    """Return the members of a bundle."""
    weights: dict[int, dict[str, NDArray[Any]]] = {}
    for key in sorted(k for k in bundle.arrays if k.startswith("member.")):
        _, number, name = key.split(".", 2)
        weights.setdefault(int(number), {})[name] = bundle.arrays[key]
    # members of one family have weights of the same names; families of a mixed ensemble take turns
    turns = str(bundle.values["settings"]["network"]["family"]).count("+") + 1
    wanted: dict[int, set[str]] = {}
    for k, found in weights.items():
        wanted.setdefault(k % turns, set()).update(found)
    if missing := [
        f"member.{k}.{n}" for k, found in weights.items() for n in wanted[k % turns] - found.keys()
    ]:
        raise KeyError(min(missing))
    return tuple(Member(number, attempt, weights[number]) for number, attempt in bundle.values["members"])


def _losses_of(bundle: Bundle) -> dict[int, tuple[float, ...]]:
    """Return the training losses in a bundle, by number of the member; empty for members without."""
    return {
        int(number): tuple(float(v) for v in bundle.arrays.get(f"loss.{number}", ()))
        for number, _ in bundle.values["members"]
    }


def _tokens_from(part: str, bundle: Bundle) -> TokenModel | None:
    """Return the palette in a part of a bundle."""
    from napari_btn.core.tokens.learn import TokenModel

    found = {k.removeprefix(f"{part}."): v for k, v in bundle.arrays.items() if k.startswith(f"{part}.")}
    return TokenModel.from_arrays(found) if found else None


def _detector_from(bundle: Bundle) -> Detector | None:
    """Return the detector in a bundle."""
    axes = bundle.values.get("detector")
    found = {k.removeprefix("detector."): v for k, v in bundle.arrays.items() if k.startswith("detector.")}
    return None if axes is None else Detector.from_arrays(found, axes)


def _grouping_arrays(grouping: Grouping) -> dict[str, NDArray[Any]]:
    """Return the groups of held-out pixels, and their palette, which may differ from that of the bundle."""
    arrays = {"grouping.count": np.array([grouping.count]), "grouping.held_out": grouping.held_out}
    if grouping.reported is not None:
        arrays["grouping.reported"] = grouping.reported
    if grouping.model is not None:
        arrays |= {f"grouped_by.{name}": value for name, value in grouping.model.to_arrays().items()}
    return arrays


def _grouping_from(bundle: Bundle) -> Grouping | None:
    """Return the groups of the held-out pixels of a bundle."""
    from napari_btn.core.calibration.grouping import Grouping

    if "grouping.count" not in bundle.arrays:
        return None
    return Grouping(
        int(bundle.arrays["grouping.count"][0]),
        bundle.arrays["grouping.held_out"],
        _tokens_from("grouped_by", bundle),
        bundle.arrays.get("grouping.reported"),
    )
