"""All that training and calibration made, and the same as the contents of a bundle."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import Calibration
from napari_btn.core.calibration.drift import Profile
from napari_btn.core.calibration.exceedance import exceedance_from
from napari_btn.core.calibration.groups import GroupCalibration
from napari_btn.core.evaluation.report import Report
from napari_btn.core.networks.family import Blueprint
from napari_btn.core.progress import Note
from napari_btn.core.registry import FAMILIES
from napari_btn.io.bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.exceedance import Exceedance
    from napari_btn.core.calibration.grouping import Grouping
    from napari_btn.core.networks.family import Member
    from napari_btn.core.settings import NetworkSettings
    from napari_btn.core.tokens.learn import TokenModel

__all__ = [
    "Fitted",
    "Measured",
    "Networks",
    "at_stage",
    "distribution_of",
    "from_bundle",
    "member_arrays",
    "members_of",
    "to_bundle",
]

N = TypeVar("N", bound="Networks")


@dataclass(frozen=True, eq=False, kw_only=True)
class Networks:
    """What training made."""

    blueprint: Blueprint
    members: tuple[Member, ...]
    losses: dict[int, tuple[float, ...]]
    notes: tuple[Note, ...]
    axes: str
    channel_names: tuple[str, ...]
    pixel_size: tuple[float, ...] | None
    unit: str
    provenance: dict[str, Any]
    tokens: TokenModel | None = None
    profile: Profile | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Networks):
    """The same with what the networks say of pixels that they never saw."""

    held_out: HeldOut
    block_px: int
    covers: str
    reported: HeldOut | None = None
    grouping: Grouping | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Fitted(Measured):
    """All that training and calibration made; replaced as a whole, never changed."""

    calibration: Calibration
    report: Report
    distribution: Exceedance | None = None
    groups: GroupCalibration | None = None


def at_stage(stage: type[N], known: Networks, **new: Any) -> N:
    """What is known of an ensemble, at another stage of its making.

    Parameters
    ----------
    stage : type
        `Networks`, `Measured` or `Fitted`.
    known : Networks
        At any stage; what the wanted one doesn't have is left out.
    **new : object
        Fields that are new, or replaced.
    """
    kept = {f.name: getattr(known, f.name) for f in fields(stage) if hasattr(known, f.name)}
    return stage(**{**kept, **new})


def to_bundle(fitted: Fitted, settings: dict[str, Any]) -> Bundle:
    """Contents of the bundle that `from_bundle` reads."""
    arrays = member_arrays(fitted.members)
    for k, loss in fitted.losses.items():
        arrays[f"loss.{k}"] = np.asarray(loss, np.float32)
    for part in ("held_out", "reported"):
        for name in ("quantiles", "target", "block", "observed", "position"):
            value = getattr(getattr(fitted, part), name, None)
            if value is not None:
                arrays[f"{part}.{name}"] = value
    if fitted.tokens is not None:
        arrays |= {f"tokens.{name}": value for name, value in fitted.tokens.to_arrays().items()}
    if fitted.grouping is not None:
        arrays |= _grouping_arrays(fitted.grouping)
    values = {
        "kind": "trained",
        "settings": settings,
        **fitted.blueprint.family.to_dict(fitted.blueprint.plan),
        "n_in": fitted.blueprint.n_in,
        "n_out": fitted.blueprint.n_out,
        "ndim": fitted.blueprint.ndim,
        "members": [[m.number, m.attempt] for m in fitted.members],
        "block_px": fitted.block_px,
        "calibration": fitted.calibration.to_dict(),
        "groups": None if fitted.groups is None else fitted.groups.to_dict(),
        "report": fitted.report.to_dict(),
        "notes": [n.to_dict() for n in fitted.notes],
        "axes": fitted.axes,
        "channel_names": list(fitted.channel_names),
        "pixel_size": None if fitted.pixel_size is None else list(fitted.pixel_size),
        "unit": fitted.unit,
        "covers": fitted.covers,
        "provenance": fitted.provenance,
        "profile": None if fitted.profile is None else fitted.profile.to_dict(),
    }
    return Bundle(values, arrays)


def from_bundle(bundle: Bundle, network: NetworkSettings, levels: tuple[float, ...], seed: int) -> Fitted:
    """Return what a bundle holds; ``KeyError`` or ``TypeError`` where it lacks a part."""
    values, arrays = bundle.values, bundle.arrays
    blueprint = Blueprint(
        network,
        FAMILIES[network.family].from_dict(values),
        values["n_in"],
        values["n_out"],
        values["ndim"],
        levels,
        seed,
    )
    held_out = _held_out_from("held_out", arrays, levels)
    members = members_of(values, arrays)
    calibration = Calibration.from_dict(values["calibration"])
    known, groups = values.get("profile"), values.get("groups")
    return Fitted(
        blueprint=blueprint,
        members=members,
        losses={m.number: tuple(float(v) for v in arrays.get(f"loss.{m.number}", ())) for m in members},
        notes=tuple(Note.from_dict(n) for n in values["notes"]),
        axes=values["axes"],
        channel_names=tuple(values["channel_names"]),
        pixel_size=None if values["pixel_size"] is None else tuple(values["pixel_size"]),
        unit=values["unit"],
        provenance=values["provenance"],
        tokens=_tokens_from("tokens", arrays),
        profile=None if known is None else Profile.from_dict(known),
        held_out=held_out,
        block_px=values["block_px"],
        covers=values["covers"],
        reported=_held_out_from("reported", arrays, levels) if "reported.target" in arrays else None,
        grouping=_grouping_from(arrays),
        calibration=calibration,
        report=Report.from_dict(values["report"]),
        distribution=distribution_of(held_out, calibration),
        groups=None if groups is None else GroupCalibration.from_dict(groups),
    )


def _held_out_from(part: str, arrays: dict[str, NDArray[Any]], levels: tuple[float, ...]) -> HeldOut:
    """Held-out scores of a bundle's part."""
    return HeldOut(
        arrays[f"{part}.quantiles"],
        arrays[f"{part}.target"],
        arrays[f"{part}.block"],
        levels,
        arrays.get(f"{part}.observed"),
        arrays.get(f"{part}.position"),
    )


def member_arrays(members: Sequence[Member]) -> dict[str, NDArray[Any]]:
    """Weights as a bundle's arrays."""
    return {f"member.{m.number}.{name}": value for m in members for name, value in m.weights.items()}


def members_of(values: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> tuple[Member, ...]:
    """Members of a bundle."""
    from napari_btn.core.networks.family import Member

    names = sorted({k.split(".", 2)[2] for k in arrays if k.startswith("member.")})
    return tuple(
        Member(number, attempt, {name: arrays[f"member.{number}.{name}"] for name in names})
        for number, attempt in values["members"]
    )


def _tokens_from(part: str, arrays: dict[str, NDArray[Any]]) -> TokenModel | None:
    from napari_btn.core.tokens.learn import TokenModel

    found = {k.removeprefix(f"{part}."): v for k, v in arrays.items() if k.startswith(f"{part}.")}
    return TokenModel.from_arrays(found) if found else None


def _grouping_arrays(grouping: Grouping) -> dict[str, NDArray[Any]]:
    """Groups of the held-out pixels, and the palette that made them: the bundle's own may be learned anew."""
    arrays = {"grouping.count": np.array([grouping.count]), "grouping.held_out": grouping.held_out}
    if grouping.reported is not None:
        arrays["grouping.reported"] = grouping.reported
    if grouping.model is not None:
        arrays |= {f"grouped_by.{name}": value for name, value in grouping.model.to_arrays().items()}
    return arrays


def _grouping_from(arrays: dict[str, NDArray[Any]]) -> Grouping | None:
    from napari_btn.core.calibration.grouping import Grouping

    if "grouping.count" not in arrays:
        return None
    return Grouping(
        int(arrays["grouping.count"][0]),
        arrays["grouping.held_out"],
        _tokens_from("grouped_by", arrays),
        arrays.get("grouping.reported"),
    )


def distribution_of(held_out: HeldOut, calibration: Calibration) -> Exceedance | None:
    """Return the recalibration into probabilities, where the levels make a distribution."""
    return exceedance_from(held_out, calibration.rule) if len(held_out.levels) > 1 else None
