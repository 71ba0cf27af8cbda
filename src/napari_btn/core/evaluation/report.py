"""Report on intervals: coverage, width and scores, with the uncertainty of the coverage.

Long because a report has many figures, each documented where it is stored.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core.calibration.cases import FIELDS, HeldOut, name_of_blocks
from napari_btn.core.calibration.conformal import NOISY_TARGETS, covered
from napari_btn.core.calibration.held_out import block_numbers
from napari_btn.core.data.image import View, shown_names
from napari_btn.core.data.pairs import Pair
from napari_btn.core.evaluation import metrics
from napari_btn.core.evaluation.bootstrap import coverage_interval, group_intervals
from napari_btn.core.evaluation.by_value import ByValue, note_on_values
from napari_btn.core.evaluation.diagnostics import (
    by_group,
    by_width,
    independent_pixels,
    observations_width,
    places,
    reliability,
)
from napari_btn.core.progress import Note, counted, drain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction

__all__ = ["FULL_DOSE", "Report", "evaluate", "report_on"]

FULL_DOSE = (
    "A frame at the full dose has half the variance of twice a count at half the dose: on simulated fields, 97 to 98 % "
    "of it lay inside intervals that aim at 90 %. To check them, give twice a binomial half of its counts."
)
"""Note on the coverage of a frame at the full dose by intervals of thinned counts."""

# Half of the 95 % interval of the coverage above which a note asks for more: 225 independent pixels at 90 %.
KNOWN_TO = 0.04
# From this many fields on, the interval of coverage is one of fields like them: METHOD.md, 1.3.
FIELDS_FOR_INTERVAL = 9
_ARRAYS = (
    *("coverage", "coverage_low", "coverage_high", "below", "above", "width", "width_median", "width_ratio"),
    *("winkler", "correlation", "psnr", "ssim", "pinball", "crps", "reliability", "n_eff"),
    *("bin_width", "bin_coverage", "pit", "group_coverage", "group_low", "group_high", "group_share"),
    "field_coverage",
)
_BY_VALUE = ("by_predicted", "by_true")


def _none() -> NDArray[np.float64]:
    """Return an empty array of channels, for what is unknown."""
    return np.empty((0, 0))


@dataclass(frozen=True, eq=False)
class Report:
    """Coverage, width and scores per channel; every array is in channel order.

    Parameters
    ----------
    channel_names : tuple of str
        The C channels.
    alpha : float
        Miscoverage aimed at.
    rule : str
        "block" or "pixel": the rule behind the intervals; "" where they are simply given.
    covers : str
        What the intervals aim to cover, as `Prediction.covers`; the targets are such, but in `evaluate`, which takes
        what it is given.
    coverage, coverage_low, coverage_high : ndarray of float64, shape (C,)
        Fraction inside, and its 95 % interval from a block bootstrap; `scope` says of which fields.
    below, above : ndarray of float64, shape (C,)
        Fraction of the target under the lower bound, and over the upper one.
    width, width_median : ndarray of float64, shape (C,)
        Mean and median width, in the target's unit.
    width_ratio : ndarray of float64, shape (C,)
        Mean width over the width of the observations' own interval at the same coverage; 0.2 is
        five times narrower. NaN where the observations are unknown, or targets are as noisy as they are.
    winkler : ndarray of float64, shape (C,)
        Mean interval score at `alpha`, in the target's unit.
    correlation, psnr, ssim : ndarray of float64, shape (C,)
        Of the median with the target; dB for `psnr`; NaN where unknown.
    levels : tuple of float
        The L quantile levels; empty where the quantiles are unknown.
    pinball : ndarray of float64, shape (C, L)
        Mean pinball loss of each level before calibration.
    crps : ndarray of float64, shape (C,)
        Twice the mean pinball loss.
    reliability : ndarray of float64, shape (C, L)
        Fraction of the target at or under each quantile before calibration; ideally the level.
    n_blocks : ndarray of int64, shape (C,)
        Held-out blocks.
    block_px : int
        Side of a block in pixels; 0 where blocks are fields, runs of frames or unknown.
    n_pixels : int
        Pixels per channel.
    n_eff : ndarray of float64, shape (C,)
        Number of independent pixels that would give the coverage with the same standard error.
    warnings : tuple of Note
        What to know before relying on it.
    bin_width, bin_coverage : ndarray of float64, shape (C, K)
        Mean width and coverage of the pixels of each tenth, from the narrowest to the widest.
    pit : ndarray of float64, shape (C, 20)
        Share of targets by their place in the predicted distribution before calibration; ideally flat.
    group_coverage : ndarray of float64, shape (C, G)
        Coverage of each token or group; empty where there are none.
    group_low, group_high : ndarray of float64, shape (C, G)
        95 % interval of `group_coverage`, from a block bootstrap.
    group_share : ndarray of float64, shape (G,)
        Share of the pixels in each token.
    group_name : str
        Word for a group: "token" or "group".
    blocks : str
        Blocks in words: "blocks of 24 px", "fields" or "runs of 3 frames".
    field_coverage : ndarray of float64, shape (C, F)
        Coverage of each field with a target of its own; empty where there is only one field.
    by_predicted, by_true : ByValue
        Coverage by predicted and by true value; the latter describes, and promises nothing. It is empty where targets
        are as noisy as the inputs.
    """

    channel_names: tuple[str, ...]
    alpha: float
    rule: str
    covers: str
    coverage: NDArray[np.float64]
    coverage_low: NDArray[np.float64]
    coverage_high: NDArray[np.float64]
    below: NDArray[np.float64]
    above: NDArray[np.float64]
    width: NDArray[np.float64]
    width_median: NDArray[np.float64]
    width_ratio: NDArray[np.float64]
    winkler: NDArray[np.float64]
    correlation: NDArray[np.float64]
    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    levels: tuple[float, ...]
    pinball: NDArray[np.float64]
    crps: NDArray[np.float64]
    reliability: NDArray[np.float64]
    n_blocks: NDArray[np.int64]
    block_px: int
    n_pixels: int
    n_eff: NDArray[np.float64]
    warnings: tuple[Note, ...] = ()
    bin_width: NDArray[np.float64] = field(default_factory=_none)
    bin_coverage: NDArray[np.float64] = field(default_factory=_none)
    pit: NDArray[np.float64] = field(default_factory=_none)
    group_coverage: NDArray[np.float64] = field(default_factory=_none)
    group_low: NDArray[np.float64] = field(default_factory=_none)
    group_high: NDArray[np.float64] = field(default_factory=_none)
    group_share: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    group_name: str = "token"
    blocks: str = "blocks"
    field_coverage: NDArray[np.float64] = field(default_factory=_none)

    @property
    def scope(self) -> str:
        """Fields that the interval of coverage speaks of, in words."""
        n_fields = self.field_coverage.shape[1]
        if n_fields >= FIELDS_FOR_INTERVAL:
            return "fields like these"
        if n_fields > 1:
            return "these fields"
        return "this series" if self.blocks.startswith("run") else "this field"

    @property
    def beyond(self) -> str:
        """End of a sentence on `scope`: what the interval says nothing of; empty for many fields."""
        if self.field_coverage.shape[1] >= FIELDS_FOR_INTERVAL:
            return ""
        return (
            f"; of others it says nothing (that takes {FIELDS_FOR_INTERVAL} fields with targets of their own)"
        )

    @property
    def between_fields(self) -> NDArray[np.float64]:
        """SD, lowest and highest coverage of the fields, shape (C, 3); NaN where there is only one field."""
        share = self.field_coverage
        if share.shape[1] < 2:
            return np.full((len(self.channel_names), 3), np.nan)
        return np.stack([share.std(axis=1, ddof=1), share.min(axis=1), share.max(axis=1)], axis=1)

    by_predicted: ByValue = field(default_factory=ByValue)
    by_true: ByValue = field(default_factory=ByValue)

    @property
    def worst(self) -> tuple[str, ...]:
        """The part of each channel that is covered least, in words."""
        return tuple(
            _worst(
                self.bin_coverage[c],
                self.group_coverage[c] if self.group_coverage.size else (),
                self.group_name,
            )
            for c in range(len(self.bin_coverage))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON-ready dict; NaN becomes None, infinity the string "inf"."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["warnings"] = [asdict(note) for note in self.warnings]
        values |= {name: getattr(self, name).to_dict() for name in _BY_VALUE}
        return {name: _to_json(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the report that `to_dict` stored."""
        fields = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        for name in fields.keys() & set(_ARRAYS):
            fields[name] = np.asarray(_numbers(values[name]), dtype=np.float64)
        if "blocks" not in fields:
            side = int(values["block_px"])
            fields["blocks"] = name_of_blocks(side, "block" if side else "field")
        for name in fields.keys() & set(_BY_VALUE):
            fields[name] = ByValue.from_dict(_numbers(values[name]))
        fields["channel_names"] = tuple(values["channel_names"])
        fields["levels"] = tuple(values["levels"])
        fields["n_blocks"] = np.asarray(values["n_blocks"], dtype=np.int64)
        fields["warnings"] = tuple(Note.from_dict(note) for note in values["warnings"])
        return cls(**fields)


@dataclass(frozen=True, eq=False)
class Judged:
    """Intervals at pixels whose target is known.

    Parameters
    ----------
    held_out : HeldOut
        Target and blocks; quantiles of shape (0, C, n) and no levels where they are unknown.
    lower, median, upper : ndarray of float32, shape (C, n)
        Intervals at the same pixels.
    block_px : int
        Side of a block in pixels; 0 where blocks are fields or runs of frames.
    group : ndarray of int64, shape (n,), optional
        Token (or mask) of each pixel, from 0; -1 for none.
    group_name : str
        Word for a group: "token" or "group".
    ssim : ndarray of float64, shape (C,), optional
        Structural similarity of the median, which needs the whole image.
    """

    held_out: HeldOut
    lower: NDArray[np.float32]
    median: NDArray[np.float32]
    upper: NDArray[np.float32]
    block_px: int = 0
    group: NDArray[np.integer[Any]] | None = None
    group_name: str = "token"
    ssim: NDArray[np.float64] | None = None


def report_on(
    judged: Judged,
    *,
    alpha: float,
    rule: str = "",
    channel_names: Sequence[str] | None = None,
    covers: str = "clean",
    seed: int = 0,
    notes: Sequence[Note] = (),
) -> Report:
    """Return the report on given intervals at pixels with a known target.

    Parameters
    ----------
    judged : Judged
        The intervals.
    alpha : float
        Miscoverage that the intervals aim at.
    rule : str
        Rule behind the intervals, as `Calibration.rule`.
    channel_names : sequence of str, optional
        The C channels; "0", "1", ... if left out.
    covers : str
        What the target is, as `Prediction.covers`.
    seed : int
        Seed of the bootstrap.
    notes : sequence of Note
        Notes to put first among the warnings.

    Returns
    -------
    Report
        The same seed gives the same report.

    Raises
    ------
    ValueError
        If the names don't fit the channels.
    """
    held_out, lower, median, upper = judged.held_out, judged.lower, judged.median, judged.upper
    block_px, group, group_name, ssim = judged.block_px, judged.group, judged.group_name, judged.ssim
    n_channels, n_pixels = held_out.target.shape
    names = tuple(str(i) for i in range(n_channels)) if channel_names is None else tuple(channel_names)
    if len(names) != n_channels:
        raise ValueError(
            f"{counted(len(names), 'channel name')} came for {counted(n_channels, 'channel')}; give one each."
        )
    target = held_out.target
    # With one block nothing is cross-fitted, so its own coverage must not be shown: adding NaN hides it.
    known = not np.isnan(lower).any()
    blank = np.full(n_channels, 0.0 if known else np.nan)
    below, above = (np.mean(side, axis=-1) + blank for side in (target < lower, target > upper))
    miss = (target < lower) | (target > upper)
    low, high, error = coverage_interval(
        miss, held_out.block, held_out.position, block_px=block_px, seed=seed
    )
    n_eff = independent_pixels(error, alpha, held_out) + blank
    width = upper.astype(np.float64) - lower
    bin_width, bin_coverage = by_width(width, miss)
    group_coverage, group_share = by_group(miss, group)
    group_low, group_high = group_intervals(
        miss, group, held_out.block, held_out.position, block_px=block_px, seed=seed
    )
    by_predicted = ByValue.of(median, miss, held_out.block) if known else ByValue()
    # A noisy target is high where its own noise is high, so its bins say nothing of the signal.
    noisy = covers in NOISY_TARGETS
    true = known and not noisy
    by_true = ByValue.of(target, miss, held_out.block) if true else ByValue()
    losses = metrics.pinball(target, held_out.quantiles, held_out.levels, axis=-1).reshape(-1, n_channels)
    return Report(
        channel_names=names,
        alpha=float(alpha),
        rule=rule,
        covers=covers,
        coverage=1 - below - above,
        coverage_low=low + blank,
        coverage_high=high + blank,
        below=below,
        above=above,
        width=width.mean(axis=-1),
        width_median=np.median(width, axis=-1),
        width_ratio=blank * np.nan if noisy else width.mean(axis=-1) / observations_width(held_out, alpha),
        winkler=metrics.interval_score(target, lower, upper, alpha, axis=-1),
        correlation=metrics.correlation(target, median, axis=-1),
        psnr=metrics.psnr(target, median, axis=-1),
        ssim=np.full(n_channels, np.nan) if ssim is None else np.asarray(ssim, dtype=np.float64),
        levels=tuple(float(level) for level in held_out.levels),
        pinball=losses.T,
        crps=2 * losses.mean(axis=0) if len(losses) else np.full(n_channels, np.nan),
        reliability=reliability(held_out),
        n_blocks=np.full(n_channels, held_out.n_blocks, dtype=np.int64),
        block_px=block_px,
        n_pixels=n_pixels,
        n_eff=n_eff,
        warnings=(
            *notes,
            *_warn_few(names, n_eff, alpha, notes),
            *note_on_values(by_predicted, by_true, names, alpha),
        ),
        bin_width=bin_width + blank[:, None],
        bin_coverage=bin_coverage + blank[:, None],
        pit=places(held_out),
        group_coverage=group_coverage + blank[:, None],
        group_low=group_low + blank[:, None],
        group_high=group_high + blank[:, None],
        group_share=group_share,
        group_name=group_name,
        blocks=held_out.blocks,
        field_coverage=_by_field(miss, held_out) + blank[:, None],
        by_predicted=by_predicted,
        by_true=by_true,
    )


def _worst(bins: NDArray[np.float64], groups: Sequence[float] | NDArray[np.float64], name: str) -> str:
    """Return the least covered tenth by width, or token, in words."""
    parts = [(float(v), f"the {_nth(i, len(bins))} of the intervals") for i, v in enumerate(bins)]
    parts += [(float(v), f"{name} {i + 1}") for i, v in enumerate(groups)]
    known = [part for part in parts if not math.isnan(part[0])]
    if not known:
        return "unknown"
    value, name = min(known)
    return f"{name}, {100 * value:.1f} %"


def _nth(i: int, n: int) -> str:
    """Return a tenth of the pixels by the width of their intervals, in words."""
    if i in (0, n - 1):
        return "narrowest tenth" if i == 0 else "widest tenth"
    return f"tenth {i + 1} of {n}, from narrow to wide,"


def _by_field(miss: NDArray[np.bool_], held_out: HeldOut) -> NDArray[np.float64]:
    """Return the coverage of each field, shape (C, F); empty where there is only one."""
    if held_out.blocks != FIELDS or held_out.n_blocks < 2:
        return np.empty((len(miss), 0))
    return by_group(miss, np.unique(held_out.block, return_inverse=True)[1].reshape(-1))[0]


def _warn_few(
    names: Sequence[str], n_eff: NDArray[np.float64], alpha: float, known: Sequence[Note]
) -> tuple[Note, ...]:
    """Return a note on channels whose coverage is poorly known, unless a red one of the rule says so."""
    if np.isnan(n_eff).any():
        if any(note.level == "red" and "held-out block" in note.text for note in known):
            return ()
        text = "Only one held-out block, so coverage can't be checked. Hold out more, or use smaller blocks."
        return (Note("red", text),)
    needed = round(alpha * (1 - alpha) / (KNOWN_TO / 2) ** 2)
    few = [f"{name} ({n:.0f})" for name, n in zip(shown_names(names), n_eff, strict=True) if n < needed]
    if not few:
        return ()
    return (
        Note(
            "amber",
            f"The held-out pixels are worth few independent ones: {', '.join(few)}; {needed} are "
            f"wanted for a coverage known to ± {KNOWN_TO}. Hold out more of the field, or add scenes.",
        ),
    )


def _to_json(value: Any) -> Any:
    """Return the value with arrays and tuples as lists, NaN as None and infinity as a string."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, dict):
        return {name: _to_json(v) for name, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _numbers(value: Any) -> Any:
    """Return nested lists with None as NaN and strings as floats."""
    if isinstance(value, dict):
        return {name: _numbers(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if value is None:
        return math.nan
    return float(value)


def evaluate(prediction: Prediction, clean: Any, *, valid: Any = None, seed: int = 0) -> Report:
    """Return the report of a prediction against a truth, or against a second noisy frame.

    The coverage that intervals aim at is that of images of the kind that they cover (``prediction.covers``). After
    learning from noisy targets, that is a noisy frame, and a note says what else is covered how often.

    Parameters
    ----------
    prediction : Prediction
    clean : array
        Truth, or frame to judge by, in the axes of the prediction, with or without S and T. For "thinned counts",
        twice a binomial half of the counts of another frame.
    valid : array of bool, optional
        True where a pixel counts.

    Raises
    ------
    ValueError
        If ``prediction`` is none, or the images don't fit each other.
    """
    if not hasattr(prediction, "median"):
        raise ValueError(
            f"A {type(prediction).__name__} came for the prediction; give the result of Denoiser.predict."
        )
    pair = Pair(
        prediction.median,
        clean if hasattr(clean, "shape") else np.asarray(clean),
        prediction.axes,
        prediction.channel_names,
        valid=valid,
    )
    scenes = pair.views
    drain(scenes.limits_steps())
    lower, upper = View(prediction.lower, prediction.axes), View(prediction.upper, prediction.axes)
    quantiles = prediction.quantiles
    levels = prediction.levels if quantiles is not None else ()
    stack = [View(quantiles, prediction.axes, first=(i,)) for i in range(len(levels))]
    truth = [scenes.read_clean(s) for s in range(lower.n_scenes)]
    low = [lower.read(s) for s in range(lower.n_scenes)]
    high = [upper.read(s) for s in range(lower.n_scenes)]
    median = [scenes.noisy.read(s) for s in range(lower.n_scenes)]
    side, block = block_numbers(truth, low, high, scenes, None)
    known = block >= 0

    def flat(parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.stack(parts, 1)[:, known]

    predicted = [flat([v.read(s) for s in range(v.n_scenes)]) for v in stack]
    held_out = HeldOut(
        np.stack(predicted) if predicted else np.zeros((0, *flat(truth).shape), np.float32),
        flat(truth),
        block[known],
        levels,
        position=np.argwhere(known),
        blocks=name_of_blocks(side, "block" if scenes.one_field else "field"),
    )
    group = None
    if prediction.groups is not None:
        left = View(prediction.groups, prediction.axes.replace("C", ""), "groups")
        group = np.stack([left.read(s)[0] for s in range(lower.n_scenes)])[known].astype(np.int64) - 1
    judged = Judged(
        held_out,
        flat(low),
        flat(median),
        flat(high),
        block_px=side,
        group=group,
        group_name=str(prediction.provenance.get("grouped_by", "token")),
        ssim=_ssim(truth, median, known),
    )
    return report_on(
        judged,
        alpha=prediction.alpha,
        rule=str(prediction.provenance.get("rule", "")),
        channel_names=prediction.channel_names,
        covers=prediction.covers,
        seed=seed,
        notes=_kind_notes(prediction.covers),
    )


def _kind_notes(covers: str) -> tuple[Note, ...]:
    """Return a note on which images check intervals of noisy values."""
    if covers not in NOISY_TARGETS:
        return ()
    more = {
        "thinned counts": f" {FULL_DOSE}",
        "masked pixel": " A repeat lies inside less often if noise is correlated between neighbours.",
    }
    text = (
        f"The intervals aim to cover {covered(covers)}; on simulated fields, clean images lay inside more often, but "
        "not where noise was correlated. Correlation, PSNR and errors are against the image that was given, with its "
        "noise if it has some."
    )
    return (Note("amber", f"{text}{more.get(covers, '')}"),)


def _ssim(
    truth: list[NDArray[np.float32]], median: list[NDArray[np.float32]], known: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Return the SSIM per channel, averaged over scenes; None if pixels are left out or the image is tiny."""
    if not known.all() or min(truth[0].shape[1:]) < 7:
        return None
    span = [
        max(float(t[c].max()) for t in truth) - min(float(t[c].min()) for t in truth)
        for c in range(len(truth[0]))
    ]
    per_scene = [
        [metrics.ssim(t[c], m[c], data_range=span[c]) for c in range(len(t))]
        for t, m in zip(truth, median, strict=True)
    ]
    return np.asarray(np.mean(per_scene, 0))
