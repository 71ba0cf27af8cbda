"""How well intervals hold: coverage, width and scores, with honest uncertainty."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core import metrics
from napari_btn.core.config import CalibrationSettings
from napari_btn.core.conformal import HeldOut, Note, calibrate, cross_fitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Report", "report", "report_on"]

# Fewer blocks than this give a standard error that is itself mostly noise.
FEWEST_GROUPS = 8
# Below this many independent pixels the coverage is known to no better than +-0.04 at 90 %.
FEW_INDEPENDENT = 225
DRAWS = 2000
_ARRAYS = (
    *("coverage", "coverage_low", "coverage_high", "below", "above", "width", "width_median", "width_ratio"),
    *("winkler", "correlation", "psnr", "ssim", "pinball", "crps", "reliability", "n_eff"),
)


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
        What the target is: "clean", "long exposure" or "replicate".
    coverage, coverage_low, coverage_high : ndarray of float64, shape (C,)
        Fraction inside, and its 95 % interval from a block bootstrap.
    below, above : ndarray of float64, shape (C,)
        Fraction of the target under the lower bound, and over the upper one.
    width, width_median : ndarray of float64, shape (C,)
        Mean and median width, in the target's unit.
    width_ratio : ndarray of float64, shape (C,)
        Mean width over the width of the observations' own interval at the same coverage; 0.2 is
        five times narrower. NaN where the observations are unknown.
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
        Held-out blocks (or scenes).
    block_px : int
        Side of a block in pixels; 0 where blocks are scenes or unknown.
    n_pixels : int
        Pixels per channel.
    n_eff : ndarray of float64, shape (C,)
        Independent pixels that would give as sure a coverage.
    warnings : tuple of Note
        What to know before relying on it.
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

    def to_dict(self) -> dict[str, Any]:
        """Report as a JSON-ready dict; NaN becomes None, infinity the string "inf"."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["warnings"] = [asdict(note) for note in self.warnings]
        return {name: _to_json(value) for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Report from `to_dict`."""
        fields = {name: values[name] for name in cls.__dataclass_fields__}
        for name in _ARRAYS:
            fields[name] = np.asarray(_numbers(values[name]), dtype=np.float64)
        fields["channel_names"] = tuple(values["channel_names"])
        fields["levels"] = tuple(values["levels"])
        fields["n_blocks"] = np.asarray(values["n_blocks"], dtype=np.int64)
        fields["warnings"] = tuple(Note.from_dict(note) for note in values["warnings"])
        return cls(**fields)


def report(
    held_out: HeldOut,
    calibration_settings: CalibrationSettings | None = None,
    alpha: float = 0.1,
    channel_names: Sequence[str] | None = None,
    covers: str = "clean",
    *,
    block_px: int = 0,
    seed: int = 0,
    notes: Sequence[Note] = (),
) -> Report:
    """Cross-fitted report on the held-out blocks: no block's interval used that block.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    calibration_settings : CalibrationSettings, optional
        Unit, score, folds and minimum; the defaults if left out.
    alpha : float
        Miscoverage, between 0 and 1.
    channel_names : sequence of str, optional
        The C channels; "0", "1", ... if left out.
    covers : str
        What the target is: "clean", "long exposure" or "replicate".
    block_px : int
        Side of a block in pixels; 0 where blocks are scenes.
    seed : int
        Seed of the folds and the bootstrap.
    notes : sequence of Note
        Notes from before the calibration, put first among the warnings.

    Returns
    -------
    Report
        The same seed gives the same report.

    Raises
    ------
    ValueError
        If `alpha` isn't between 0 and 1, or the names don't fit the channels.
    """
    settings = calibration_settings or CalibrationSettings()
    calibration = calibrate(held_out, alpha=alpha, settings=settings)
    intervals = cross_fitted(held_out, calibration, folds=settings.folds, seed=seed)
    return report_on(
        held_out,
        *intervals,
        alpha=alpha,
        rule=calibration.rule,
        channel_names=channel_names,
        covers=covers,
        block_px=block_px,
        seed=seed,
        notes=(*notes, *calibration.notes),
    )


def report_on(
    held_out: HeldOut,
    lower: NDArray[np.float32],
    median: NDArray[np.float32],
    upper: NDArray[np.float32],
    *,
    alpha: float,
    rule: str = "",
    channel_names: Sequence[str] | None = None,
    covers: str = "clean",
    block_px: int = 0,
    ssim: NDArray[np.float64] | None = None,
    seed: int = 0,
    notes: Sequence[Note] = (),
) -> Report:
    """Report on given intervals, for an image with a truth.

    Parameters
    ----------
    held_out : HeldOut
        Target and blocks; quantiles of shape (0, C, n) and no levels where they are unknown.
    lower, median, upper : ndarray of float32, shape (C, n)
        Intervals at the same pixels.
    alpha : float
        Miscoverage that the intervals aim at.
    rule : str
        Rule behind the intervals, as `Calibration.rule`.
    channel_names : sequence of str, optional
        The C channels; "0", "1", ... if left out.
    covers : str
        What the target is: "clean", "long exposure" or "replicate".
    block_px : int
        Side of a block in pixels; 0 where blocks are scenes.
    ssim : ndarray of float64, shape (C,), optional
        Structural similarity of the median, which needs the whole image.
    seed : int
        Seed of the bootstrap.
    notes : sequence of Note
        Put first among the warnings.

    Returns
    -------
    Report
        The same seed gives the same report.

    Raises
    ------
    ValueError
        If the names don't fit the channels.
    """
    n_channels, n_pixels = held_out.target.shape
    names = tuple(str(i) for i in range(n_channels)) if channel_names is None else tuple(channel_names)
    if len(names) != n_channels:
        raise ValueError(f"There are {len(names)} channel names for {n_channels} channels; give one each.")
    target = held_out.target
    # Adding NaN hides what a single block would say of itself.
    known = not np.isnan(lower).any()
    blank = np.full(n_channels, 0.0 if known else np.nan)
    below, above = (np.mean(side, axis=-1) + blank for side in (target < lower, target > upper))
    low, high, error = _coverage_interval(held_out, (target < lower) | (target > upper), block_px, seed)
    n_eff = _independent(error, alpha, held_out) + blank
    width = upper.astype(np.float64) - lower
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
        width_ratio=width.mean(axis=-1) / _observations_width(held_out, alpha),
        winkler=metrics.interval_score(target, lower, upper, alpha, axis=-1),
        correlation=metrics.correlation(target, median, axis=-1),
        psnr=metrics.psnr(target, median, axis=-1),
        ssim=np.full(n_channels, np.nan) if ssim is None else np.asarray(ssim, dtype=np.float64),
        levels=tuple(float(level) for level in held_out.levels),
        pinball=losses.T,
        crps=2 * losses.mean(axis=0) if len(losses) else np.full(n_channels, np.nan),
        reliability=_reliability(held_out),
        n_blocks=np.full(n_channels, held_out.n_blocks, dtype=np.int64),
        block_px=block_px,
        n_pixels=n_pixels,
        n_eff=n_eff,
        warnings=(*notes, *_warn_few(names, n_eff)),
    )


def _independent(error: NDArray[np.float64], alpha: float, held_out: HeldOut) -> NDArray[np.float64]:
    """Independent pixels with the same standard error of coverage, at most all of them."""
    n_pixels = held_out.target.shape[1]
    # Without a single miss there is no variance to learn from: a block is then one case.
    unknown = np.full_like(error, float(held_out.n_blocks))
    n_eff = np.divide(alpha * (1 - alpha), np.square(error), out=unknown, where=error > 0)
    return np.minimum(n_eff, n_pixels)


def _reliability(held_out: HeldOut) -> NDArray[np.float64]:
    """Share of the target at or under each quantile, shape (C, L)."""
    shares = [(held_out.target <= q).mean(axis=-1) for q in held_out.quantiles]
    return np.asarray(shares, dtype=np.float64).reshape(-1, held_out.target.shape[0]).T


def _warn_few(names: Sequence[str], n_eff: NDArray[np.float64]) -> tuple[Note, ...]:
    """Note on channels whose coverage is poorly known."""
    if np.isnan(n_eff).any():
        text = "Only one held-out block, so coverage can't be checked. Hold out more, or use smaller blocks."
        return (Note("red", text),)
    few = [f"{name} ({n:.0f})" for name, n in zip(names, n_eff, strict=True) if n < FEW_INDEPENDENT]
    if not few:
        return ()
    return (
        Note(
            "amber",
            f"The held-out pixels are worth few independent ones: {', '.join(few)}; {FEW_INDEPENDENT} are "
            "wanted for a coverage known to +-0.04. Hold out more of the field, or add scenes.",
        ),
    )


def _observations_width(held_out: HeldOut, alpha: float) -> NDArray[np.float64]:
    """Width of the central interval of the observations' own error, in the target's unit."""
    n_channels = held_out.target.shape[0]
    out = np.full(n_channels, np.nan)
    if held_out.observed is None:
        return out
    for c in range(n_channels):
        target, observed = held_out.target[c].astype(np.float64), held_out.observed[c].astype(np.float64)
        # Regressing the observation on the target, not back: noise in the regressor would shrink the scale.
        spread = target.var()
        scale = np.cov(target, observed, bias=True)[0, 1] / spread if spread > 0 else 0.0
        if scale > 0:
            low, high = np.quantile(observed / scale - target, (alpha / 2, 1 - alpha / 2))
            out[c] = high - low
    return out


def _coverage_interval(
    held_out: HeldOut, miss: NDArray[np.bool_], block_px: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """95 % bounds of coverage, and its standard error, from the block size with the largest one."""
    candidates = [_block_sums(miss, groups) for groups in _groupings(held_out, block_px)]
    errors = np.asarray([_standard_error(*sums) for sums in candidates])
    best = errors.argmax(axis=0)
    low, high = (np.empty(len(miss)) for _ in range(2))
    rng = np.random.default_rng(seed)
    for c, b in enumerate(best):
        missed, counts = candidates[b]
        low[c], high[c] = _bootstrap(missed[c], counts, rng)
    return low, high, errors.max(axis=0)


def _groupings(held_out: HeldOut, block_px: int) -> list[NDArray[np.int64]]:
    """Group of each pixel at three block sizes: the blocks, and unions of about 2 and 4 of them."""
    numbers, block, counts = np.unique(held_out.block, return_inverse=True, return_counts=True)
    groupings = [block]
    position = held_out.position
    if position is None or len(np.unique(position[:, 0])) >= len(numbers):
        return groupings
    ndim = position.shape[1] - 1
    centre = np.stack([np.bincount(block, position[:, 1 + d]) / counts for d in range(ndim)], axis=1)
    side = float(block_px) or float(np.median(counts)) ** (1 / ndim)
    for factor in (1.5, 2.0):
        cell = ((centre - centre.min(axis=0) + side / 2) // (factor * side)).astype(np.int64)
        groups = np.unique(cell, axis=0, return_inverse=True)[1].reshape(-1)
        if groups.max() + 1 >= FEWEST_GROUPS:
            groupings.append(groups[block])
    return groupings


def _block_sums(
    miss: NDArray[np.bool_], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Missed pixels per channel and group, shape (C, G), and pixels per group, shape (G,)."""
    counts = np.bincount(groups).astype(np.float64)
    missed = np.asarray([np.bincount(groups, row) for row in miss], dtype=np.float64)
    return missed, counts


def _standard_error(missed: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard error of the missed share, a ratio of sums over groups."""
    n_groups = len(counts)
    if n_groups < 2:
        return np.full(len(missed), np.inf)
    residual = missed - counts * (missed.sum(axis=1, keepdims=True) / counts.sum())
    variance = np.square(residual).sum(axis=1) * n_groups / (n_groups - 1)
    return np.asarray(np.sqrt(variance) / counts.sum())


def _bootstrap(
    missed: NDArray[np.float64], counts: NDArray[np.float64], rng: np.random.Generator
) -> tuple[float, float]:
    """95 % bounds of the covered share, from groups drawn with replacement."""
    n_groups = len(counts)
    if n_groups < 3:
        return 0.0, 1.0
    draws = int(np.clip(4_000_000 // n_groups, 200, DRAWS))
    chosen = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws).astype(np.float64)
    shares = 1 - (chosen @ missed) / (chosen @ counts)
    centre = 1 - missed.sum() / counts.sum()
    low, high = np.quantile(shares, (0.025, 0.975))
    widen = _student_factor(n_groups)
    return max(0.0, centre - widen * (centre - low)), min(1.0, centre + widen * (high - centre))


def _student_factor(n_groups: int) -> float:
    """How much wider Student's 95 % interval of a mean is than the bootstrap's."""
    freedom = n_groups - 1
    z = 1.959964
    # Cornish-Fisher expansion of Student's quantile, Abramowitz and Stegun 26.7.5.
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t / z * math.sqrt(n_groups / freedom)


def _to_json(value: Any) -> Any:
    """Value with arrays and tuples as lists, NaN as None and infinity as a string."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _numbers(value: Any) -> Any:
    """Nested lists with None as NaN and strings as floats."""
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if value is None:
        return math.nan
    return float(value)
