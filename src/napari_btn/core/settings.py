"""Settings, as frozen dataclasses checked on construction.

Each field has an entry in the ``Attributes`` section of its class. The docks show it as tooltip and the
command line as help, so it is written for microscopists. Long because
of these entries and the checks of their ranges.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from math import isfinite
from numbers import Real
from operator import index
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from napari_btn.core.registry import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


__all__ = [
    "LEVELS",
    "PRESETS",
    "TOKEN_METHODS",
    "UNITS",
    "AdaptLoss",
    "AdaptSettings",
    "CalibrationSettings",
    "EnsembleSettings",
    "NetworkSettings",
    "Preset",
    "SupervisionSettings",
    "TileSettings",
    "TokenMethod",
    "TokenSettings",
    "TrainSettings",
    "VariationalSettings",
    "is_whole",
    "listed",
    "need",
    "whole_numbers",
]

Preset = Literal["instant", "quick", "standard", "thorough"]
Unit = Literal["auto", "block", "pixel", "image", "risk"]
UNITS: dict[str, Unit] = {
    "on average": "auto",
    "on average, by block": "block",
    "on average, pixels pooled": "pixel",
    "of most new images or blocks": "image",
    "with a stated probability": "risk",
}
"""Units of calibration by what their coverage holds for, as the dock lists them."""
Score = Literal["symmetric", "asymmetric", "scaled"]
Split = Literal["auto", "checkerboard", "time"]
SplitAxis = Literal["longest", "y", "x", "z"]
StructAxes = Literal["none", "horizontal", "vertical", "cross", "square"]
Repeats = Literal["auto", "s", "t"]
FramesAlong = Literal["t", "z"]
AdaptLoss = Literal["blind_spot", "sure", "resample"]
TokenMethod = Literal["kmeans", "mixture", "hdbscan"]


LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantile levels that are learned by default."""

NEEDED_OF_ALPHA = "between 0 and 1: the share of pixels that the intervals may miss"


class _Settings:
    """A base of all settings, with conversion to and from a dict."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-ready dict."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings of a dict; raise ``ValueError`` for unknown keys."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"{cls.__name__} has no field {', '.join(unknown)}; it knows {', '.join(sorted(known))}."
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def need(ok: bool, name: str, value: object, needed: str) -> None:
    """Raise ``ValueError`` with what came and what is needed, unless ``ok``.

    Parameters
    ----------
    ok : bool
        True if the value is valid.
    name : str
        Name of the argument.
    value : object
        Value that came.
    needed : str
        Valid values, as the end of a sentence.

    Raises
    ------
    ValueError
        If not ``ok``.
    """
    if not ok:
        raise ValueError(f"{name} is {value!r}; it must be {needed}.")


def is_whole(value: object) -> bool:
    """Return True for a whole number, numpy's too; True and False are none.

    Parameters
    ----------
    value : object
    """
    return hasattr(value, "__index__") and not isinstance(value, bool)


def listed(text: str) -> tuple[str, ...]:
    """Return the parts of a list such as "Si, Al, Fe", without the spaces around them.

    Parameters
    ----------
    text : str
        Parts with commas between them.
    """
    return tuple(part.strip() for part in text.split(","))


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as "5, 10, 20".

    Parameters
    ----------
    name : str
        Name of the list, for the message.
    text : str
        Whole numbers above 0, with commas between them.

    Raises
    ------
    ValueError
        If a part is none.
    """
    parts = listed(text)
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(
            f"{name}: {text!r} must be whole numbers above 0, with commas between, such as 5, 10, 20."
        )
    return tuple(map(int, parts))


def _any_of(names: Sequence[str]) -> str:
    """Return names as the end of a sentence: "a", "b" or "c"."""
    *others, last = (f'"{name}"' for name in names)
    return f"{', '.join(others)} or {last}"


def _check_fields(settings: object) -> None:
    """Raise ``ValueError`` if a field of numbers or of true and false holds anything else; numpy's become plain."""
    for one in fields(settings):  # type: ignore[arg-type]
        value, kind = getattr(settings, one.name), str(one.type).removesuffix(" | None")
        if kind not in ("int", "float", "bool") or (value is None and "None" in str(one.type)):
            continue
        whole = is_whole(value)
        if kind == "bool":
            need(value in (True, False), one.name, value, "true or false")
            plain: object = bool(value)
        elif kind == "int":
            need(whole, one.name, value, "a whole number")
            plain = int(value)
        else:
            need(whole or (isinstance(value, Real) and value == value), one.name, value, "a number")
            plain = value if isinstance(value, int | float) else float(value)
        object.__setattr__(settings, one.name, plain)


@dataclass(frozen=True)
class NetworkSettings(_Settings):
    """The architecture of a member.

    Attributes
    ----------
    family : str
        Kind of member: "sms" (random sparse mixed-scale network), "unet" (U-Net), "dncnn" (plain stack of
        convolutions), "cdae" (autoencoder with a bottleneck), or one of an installed package. Members of
        several kinds take turns, such as "sms+unet".
    depth : int
        Convolutions (nodes) per member; the setting to tune first. In "unet" and "cdae" each
        halving of the resolution takes four.
    channels : int
        Feature channels in a chunk; a node outputs ``inputs * channels`` of them (more at lower resolutions).
    inputs : int
        Earlier chunks that a node reads, in "sms"; elsewhere a factor of ``channels``.
    dilations : tuple of int, optional
        Dilation of each node; None draws a schedule from the image size.
    max_dilation : int
        Largest dilation that is drawn for a convolution: the distance in pixels between the pixels that it
        combines (at most 4 in 3D).
    field_of_view : str
        "fixed" (follows from depth and dilations), or "repeats": if the image repeats itself, as a
        lattice does, networks see two and a half repeats ("dncnn" ignores it).
    skip_power : float
        How strongly a node prefers near predecessors: weight ``distance ** -skip_power``.
    head_units : int
        Hidden units of the quantile heads, shared by all levels.
    bias_free : bool
        No additive constants: an image twice as bright and noisy gives a median and quantiles twice as high,
        and so do intervals with the score "scaled". At noise levels that members were not trained on, this
        was better on blobs, and on photographs after 2,500 steps. Zero must mean no signal.
    """

    family: str = "sms"
    depth: int = 10
    channels: int = 4
    inputs: int = 4
    dilations: tuple[int, ...] | None = None
    max_dilation: int = 8
    field_of_view: Literal["fixed", "repeats"] = "fixed"
    skip_power: float = 0.5
    head_units: int = 32
    bias_free: bool = False

    def __post_init__(self) -> None:
        _check_fields(self)
        if not isinstance(self.family, str) or not all(name in FAMILIES for name in self.family.split("+")):
            # named here only: a search through all installed packages takes time
            names = " or ".join(f'"{name}"' for name in FAMILIES)
            need(
                False,
                "family",
                self.family,
                f"{names} (others come with packages that you install), or several with + between",
            )
        need(1 <= self.depth <= 200, "depth", self.depth, "1 to 200")
        need(1 <= self.channels <= 64, "channels", self.channels, "1 to 64")
        need(1 <= self.inputs <= 64, "inputs", self.inputs, "1 to 64")
        need(1 <= self.max_dilation <= 64, "max_dilation", self.max_dilation, "1 to 64")
        known = self.field_of_view in ("fixed", "repeats")
        need(known, "field_of_view", self.field_of_view, '"fixed" or "repeats"')
        need(self.skip_power >= 0, "skip_power", self.skip_power, "0 or more")
        need(1 <= self.head_units <= 1024, "head_units", self.head_units, "1 to 1024")
        if self.dilations is not None:
            wanted = f"{self.depth} whole numbers of at least 1, one per node"
            try:
                dilations = tuple(map(index, self.dilations))
            except TypeError:
                dilations = ()
            ok = len(dilations) == self.depth and all(d >= 1 for d in dilations)
            need(ok, "dilations", self.dilations, wanted)
            object.__setattr__(self, "dilations", dilations)


@dataclass(frozen=True)
class TrainSettings(_Settings):
    """The training of members.

    Attributes
    ----------
    steps : int
        Training steps per member.
    passes : float
        Times that a training pixel may be seen with its own noise. In a small image, noise is drawn again
        from similar pixels, for at most twice as many passes; further steps are cut.
    batch_size : int, optional
        Patches per step (at most 2 in 3D); None chooses from image and network.
    patch_px : int, optional
        Side of a training patch in pixels (at most 32 in 3D, and at most the image); None chooses from
        image and network.
    learning_rate : float
        Peak learning rate of the one-cycle schedule.
    augment : bool
        Flip and turn patches (right angles).
    early_stopping : bool
        Set a tenth of the training part aside, stop a member that gets worse there, and keep its best weights.
    start : str
        "pretrained": members that know made-up images go on learning from yours, if there are some for these
        networks and channels; "scratch": random weights; or the path of a file of `napari-btn pretrain`.
    warm_share : float
        Share of the steps that pretrained members take; 0 for none.
    warm_rate : float
        Peak learning rate of pretrained members.
    saturation : float, optional
        Largest value that the detector can give. Where the target has this value, the signal may be higher, and
        so may predictions. Without one, targets are never saturated.
    """

    steps: int = 1000
    passes: float = 100.0
    batch_size: int | None = None
    patch_px: int | None = None
    learning_rate: float = 2e-2
    augment: bool = True
    early_stopping: bool = False
    start: str = "pretrained"
    warm_share: float = 1.0
    warm_rate: float = 1e-2
    saturation: float | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        need(self.steps >= 1, "steps", self.steps, "1 or more")
        if isinstance(self.start, PathLike):
            object.__setattr__(self, "start", fspath(self.start))
        known = isinstance(self.start, str) and bool(self.start.strip())
        need(known, "start", self.start, '"pretrained", "scratch" or the path of pretrained members')
        need(0 <= self.warm_share <= 1, "warm_share", self.warm_share, "0 to 1")
        need(0 < self.warm_rate < 1, "warm_rate", self.warm_rate, "between 0 and 1")
        finite = self.saturation is None or isfinite(self.saturation)
        need(finite, "saturation", self.saturation, "a finite value, or None")
        need(self.passes > 0, "passes", self.passes, "more than 0")
        for name, value, least in (("batch_size", self.batch_size, 1), ("patch_px", self.patch_px, 4)):
            need(value is None or value >= least, name, value, f"{least} or more, or None")
        need(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "between 0 and 1")

    @property
    def warm(self) -> TrainSettings:
        """Settings of pretrained members, which take at least one step."""
        steps = max(round(self.warm_share * self.steps), 1)
        return replace(self, steps=steps, learning_rate=self.warm_rate, warm_share=1.0)

    @property
    def patches(self) -> tuple[int, int]:
        """Number of patches per step and their side in pixels.

        Raises
        ------
        ValueError
            If one of them is None.
        """
        if self.batch_size is None or self.patch_px is None:
            raise ValueError(
                f"batch_size is {self.batch_size} and patch_px is {self.patch_px}; give both, or let "
                "core.supervision.patches.patches_for choose them from the image."
            )
        return self.batch_size, self.patch_px


@dataclass(frozen=True)
class SupervisionSettings(_Settings):
    """Settings of what members see and learn from, most of them for work without clean images.

    Fields that mean the same as in CAREamics have its names.

    Attributes
    ----------
    masked_pixel_percentage : float
        Noise2Void: percentage of the pixels that are masked at a time. An image is predicted in
        100 / percentage passes, so that each pixel is predicted while it is masked.
    roi_size : int
        Noise2Void: side in pixels of the neighbourhood that replaces a masked pixel, odd.
    strategy : str
        Noise2Void: masked pixels get the "median" of their neighbourhood, or a random pixel of it ("uniform").
    struct_n2v_axes : str
        Noise2Void: neighbours that are masked as well, where noise is correlated: "none", "horizontal" (along X),
        "vertical" (along Y), "cross" or "square".
    struct_n2v_span : int
        Noise2Void: length of that mask in pixels, odd; noise should be independent beyond half of it.
    own_pixel : bool
        Noise2Void: the mean also uses each pixel's own noisy value, as far as the noise permits. The noise model is
        the given one, or is measured on the image; noise must be independent from pixel to pixel.
    thinnings : int
        Thinning: how often the counts are split into random halves. The predictions from them are averaged.
    repeats : str
        Noise2Noise: axis of the repeats, "s" (scenes) or "t" (time); "auto" takes the one that the image has.
    frames : int
        Frames of a series, or slices of a stack, that members see at a time: 1, 3, 5 or 7. The one in the middle
        is denoised; the others help where noise is strong and content moves little.
    frames_along : str
        Axis of these frames: "t" (time), or "z" (slices; members then work in 2D, slice by slice).
    """

    masked_pixel_percentage: float = 10.0
    roi_size: int = 5
    strategy: Literal["median", "uniform"] = "median"
    struct_n2v_axes: StructAxes = "none"
    struct_n2v_span: int = 5
    own_pixel: bool = False
    thinnings: int = 8
    repeats: Repeats = "auto"
    frames: int = 1
    frames_along: FramesAlong = "t"

    def __post_init__(self) -> None:
        _check_fields(self)
        share = self.masked_pixel_percentage
        need(1 <= share <= 25, "masked_pixel_percentage", share, "1 to 25 (percent)")
        for name, value, most in (
            ("roi_size", self.roi_size, 25),
            ("struct_n2v_span", self.struct_n2v_span, 49),
        ):
            need(
                3 <= value <= most and value % 2 == 1,
                name,
                value,
                f"an odd number of pixels from 3 to {most}",
            )
        need(self.strategy in ("median", "uniform"), "strategy", self.strategy, '"median" or "uniform"')
        names = '"none", "horizontal", "vertical", "cross" or "square"'
        known = self.struct_n2v_axes in get_args(StructAxes)
        need(known, "struct_n2v_axes", self.struct_n2v_axes, names)
        need(1 <= self.thinnings <= 100, "thinnings", self.thinnings, "1 to 100")
        need(self.repeats in get_args(Repeats), "repeats", self.repeats, '"auto", "s" or "t"')
        need(self.frames in (1, 3, 5, 7), "frames", self.frames, "1, 3, 5 or 7")
        known = self.frames_along in get_args(FramesAlong)
        need(known, "frames_along", self.frames_along, '"t" or "z"')


@dataclass(frozen=True)
class CalibrationSettings(_Settings):
    """The calibration of intervals.

    Attributes
    ----------
    unit : str
        Unit of one calibration case: "auto", "block", "pixel", "image" (each of most new images is covered;
        each of most blocks, if there is only one field) or "risk" (the average holds with a stated probability over
        calibration data, if its fields or blocks are independent).
    score : str
        "symmetric" (one offset for both sides), "asymmetric", or "scaled" (by the predicted width).
    train_fraction : float
        Share of the field that is used for training, not counting the gap; the rest is held out.
    split : str
        Split of one field: "auto" (in two, along an axis), "checkerboard" (training and held-out
        macro-blocks in turn) or "time" (early and late frames of a series; says nothing of other fields).
    split_axis : str
        Axis along which one field is split: "longest", "y", "x" or "z".
    block_px : int, optional
        Side of a held-out block in pixels; None measures the correlation length of the errors.
    folds : int
        Folds of the cross-fitted coverage check.
    minimum : float, optional
        Lowest possible value of the signal; intervals are clipped there.
    delta : float
        Share of new images that may be covered less ("image"), or probability of a lower coverage ("risk").
    groups : int
        Number of tokens (groups of similar pixels) that are calibrated separately: the coverage is then aimed at
        within each token. A rare phase that is only a part of its tokens is hardly covered better. 0 calibrates all
        pixels together.
    """

    unit: Unit = "auto"
    score: Score = "symmetric"
    train_fraction: float = 0.6
    split: Split = "auto"
    split_axis: SplitAxis = "longest"
    block_px: int | None = None
    folds: int = 5
    minimum: float | None = None
    delta: float = 0.1
    groups: int = 0

    def __post_init__(self) -> None:
        _check_fields(self)
        need(self.unit in get_args(Unit), "unit", self.unit, _any_of(get_args(Unit)))
        need(self.score in get_args(Score), "score", self.score, '"symmetric", "asymmetric" or "scaled"')
        need(0 < self.delta < 1, "delta", self.delta, "between 0 and 1")
        need(0.1 <= self.train_fraction <= 0.9, "train_fraction", self.train_fraction, "0.1 to 0.9")
        need(self.split in get_args(Split), "split", self.split, '"auto", "checkerboard" or "time"')
        axes = '"longest", "y", "x" or "z"'
        need(self.split_axis in get_args(SplitAxis), "split_axis", self.split_axis, axes)
        need(self.block_px is None or self.block_px >= 2, "block_px", self.block_px, "2 or more")
        need(self.folds >= 2, "folds", self.folds, "2 or more")
        need(
            self.groups == 0 or 2 <= self.groups <= 40, "groups", self.groups, "0 for none, or 2 to 40 tokens"
        )


@dataclass(frozen=True)
class TileSettings(_Settings):
    """The tiles of large images for prediction.

    Attributes
    ----------
    tile_px : int, optional
        Side of a tile in pixels, halo included, at least three halos; None chooses by speed and memory.
    halo_px : int, optional
        Discarded margin of a tile in pixels; None is the receptive field.
    """

    tile_px: int | None = None
    halo_px: int | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        need(self.tile_px is None or self.tile_px >= 8, "tile_px", self.tile_px, "8 or more")
        need(self.halo_px is None or self.halo_px >= 0, "halo_px", self.halo_px, "0 or more")


@dataclass(frozen=True)
class AdaptSettings(_Settings):
    """The adaptation of trained members to one noisy image.

    Attributes
    ----------
    loss : str
        "blind_spot" predicts masked pixels from the others and needs noise that is independent from pixel to pixel;
        "sure" estimates the error from a noise model; "resample" finds the present result again under new noise
        of the model.
    steps : int
        Training steps of each member.
    learning_rate : float
        Step size of the gains, which begin at one.
    mask_share : float
        Share of the values that "blind_spot" masks.
    """

    loss: AdaptLoss = "blind_spot"
    steps: int = 100
    learning_rate: float = 0.02
    mask_share: float = 0.05

    def __post_init__(self) -> None:
        _check_fields(self)
        known = get_args(AdaptLoss)
        need(self.loss in known, "loss", self.loss, f"one of {', '.join(known)}")
        need(self.steps >= 1, "steps", self.steps, "1 or more")
        need(self.learning_rate > 0, "learning_rate", self.learning_rate, "over 0")
        need(0 < self.mask_share <= 0.5, "mask_share", self.mask_share, "over 0 and at most 0.5")


@dataclass(frozen=True)
class VariationalSettings(_Settings):
    """A variational model and its training on noisy images alone.

    Attributes
    ----------
    steps : int
        Training steps.
    levels : int
        Resolutions with latent variables: 1/2, 1/4, 1/8 and so on.
    width : int
        Features of each layer.
    latent : int
        Latent variables of each cell of a level.
    learning_rate : float
        Largest step size; it rises at the beginning and falls towards the end.
    batch_size : int
        Patches of each step.
    patch_px : int
        Side of a patch in pixels.
    warm_up : float
        Share of the steps in which the divergence of the latent variables from their prior gains its full weight.
        Without it, a model may stop using them: then all draws are alike.
    """

    steps: int = 2000
    levels: int = 3
    width: int = 24
    latent: int = 6
    learning_rate: float = 0.002
    batch_size: int = 8
    patch_px: int = 64
    warm_up: float = 0.3

    def __post_init__(self) -> None:
        _check_fields(self)
        for name in ("steps", "width", "latent", "batch_size"):
            need(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        need(1 <= self.levels <= 6, "levels", self.levels, "1 to 6")
        need(self.learning_rate > 0, "learning_rate", self.learning_rate, "over 0")
        need(self.patch_px >= 16, "patch_px", self.patch_px, "16 or more")
        need(0 <= self.warm_up < 1, "warm_up", self.warm_up, "at least 0 and under 1")


@dataclass(frozen=True)
class TokenSettings(_Settings):
    """The clustering of an image into tokens.

    Attributes
    ----------
    n_tokens : int
        Number of tokens; any other number is a cut of the same tree.
    order_by : str or int, optional
        Channel whose median orders the tokens, by name or number. By default numbers follow the tree: from cut to
        cut, only the smaller part of a split token gets another number.
    smooth_px : float
        Sigma in pixels of the Gaussian filter of latent components, when the palette is learned.
    method : str, optional
        "kmeans"; "mixture", Gaussians of any shape and size; or "hdbscan", dense groups of any shape and
        number, to which all other pixels are assigned. None keeps the method of the palette ("kmeans" if
        there is none).
    """

    n_tokens: int = 20
    order_by: str | int | None = None
    smooth_px: float = 1.5
    method: TokenMethod | None = None

    def __post_init__(self) -> None:
        _check_fields(self)
        known = ", ".join(map(repr, TOKEN_METHODS))
        need(self.method in (None, *TOKEN_METHODS), "method", self.method, known)


PRESETS: dict[str, TrainSettings] = {
    "instant": TrainSettings(steps=150, warm_share=0.0),
    "quick": TrainSettings(steps=150, warm_share=0.4),
    "standard": TrainSettings(steps=1000, warm_share=0.6, warm_rate=2e-2),
    "thorough": TrainSettings(steps=3000, warm_share=0.6, warm_rate=2e-2),
}
"""Training settings by the name of the preset."""


@dataclass(frozen=True)
class EnsembleSettings:
    """All settings of an ensemble: training, calibration and prediction.

    Attributes
    ----------
    preset : str
        "instant", "quick", "standard" or "thorough": duration of the training.
    members : int
        Number of networks in the ensemble, 1 to 1000.
    alpha : float
        Miscoverage, in (0, 1): intervals aim at the coverage ``1 - alpha``, on average.
    levels : tuple of float
        Quantile levels to learn, increasing, with 0.5 among them.
    supervision : str
        Data that members learn from: "pair" (a noisy and a clean image), "noise2noise" (repeats),
        "noise2void" (single images), "thinning" (counts) or "simulation" (clean images and a noise model).
    seed : int
        The same seed, data and settings give the same pixels on the same kind of CPU.
    network, train, calibration, tiles, supervision_settings : settings
        Settings of the stages.
    """

    preset: str = "standard"
    members: int = 10
    alpha: float = 0.1
    levels: tuple[float, ...] = LEVELS
    supervision: str = "pair"
    seed: int = 0
    network: NetworkSettings = field(default_factory=NetworkSettings)
    train: TrainSettings = field(default_factory=lambda: PRESETS["standard"])
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    tiles: TileSettings = field(default_factory=TileSettings)
    supervision_settings: SupervisionSettings = field(default_factory=SupervisionSettings)

    def __post_init__(self) -> None:
        _check_fields(self)
        known = self.preset in tuple(PRESETS)
        need(known, "preset", self.preset, '"instant", "quick", "standard" or "thorough"')
        need(1 <= self.members <= 1000, "members", self.members, "1 to 1000")
        need(0 < self.alpha < 1, "alpha", self.alpha, NEEDED_OF_ALPHA)
        wanted = "rising numbers between 0 and 1, with 0.5 among them"
        try:
            levels = tuple(float(v) for v in self.levels)
        except (TypeError, ValueError):
            need(False, "levels", self.levels, wanted)
            raise
        rising = all(a < b for a, b in pairwise((0.0, *levels, 1.0)))
        need(rising and 0.5 in levels, "levels", levels, wanted)
        need(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        object.__setattr__(self, "alpha", float(self.alpha))
        object.__setattr__(self, "levels", levels)
        stages: tuple[tuple[str, type[_Settings]], ...] = (
            ("network", NetworkSettings),
            ("train", TrainSettings),
            ("calibration", CalibrationSettings),
            ("tiles", TileSettings),
            ("supervision_settings", SupervisionSettings),
        )
        for name, kind in stages:
            need(isinstance(getattr(self, name), kind), name, getattr(self, name), f"a {kind.__name__}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-ready dict."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        made = {k: v.to_dict() if isinstance(v, _Settings) else v for k, v in values.items()}
        return {**made, "levels": list(self.levels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings of a dict; raise ``KeyError`` or ``TypeError`` if a key is missing or unknown."""
        # before there were pretrained members, all started from random weights
        train = {"start": "scratch", **values["train"]}
        stages = {
            "network": NetworkSettings.from_dict(values["network"]),
            "train": TrainSettings.from_dict(train),
            "calibration": CalibrationSettings.from_dict(values["calibration"]),
            "tiles": TileSettings.from_dict(values["tiles"]),
            # bundles of version 0.1 know pairs alone
            "supervision_settings": SupervisionSettings.from_dict(values.get("supervision_settings", {})),
        }
        return cls(**{**values, **stages})


TOKEN_METHODS: tuple[TokenMethod, ...] = get_args(TokenMethod)
"""Methods that cluster latents into tokens."""
