"""Calibrated probabilities that the signal exceeds a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from napari_btn.core.calibration.conformal import covered
from napari_btn.core.calibration.distribution import cdf, ppf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

__all__ = [
    "Exceedance",
    "LockedExceedance",
    "Selection",
    "exceedance_from",
    "lock_threshold",
    "select",
]

# Steps of the recalibration: a thousandth is finer than any held-out set can resolve.
STEPS = 1024
LOCKED_STEPS = 256
# Held-out blocks times the false-discovery level: below this, a handful of blocks decide what is claimed.
BLOCKS_PER_LEVEL = 5


@dataclass(frozen=True, eq=False)
class Exceedance:
    """Recalibration of predicted distributions by the places of held-out targets in theirs.

    Parameters
    ----------
    levels : tuple of float
        The L quantile levels, ascending, at least two.
    shares : ndarray of float32, shape (C, K + 1)
        Share of the held-out targets whose place in the predicted distribution is at most k / K.
    n_blocks : int
        Held-out blocks behind them.
    rule : str
        "block" (every block counts once) or "pixel" (pixels pooled).
    """

    levels: tuple[float, ...]
    shares: NDArray[np.float32]
    n_blocks: int
    rule: Literal["block", "pixel"]

    def probability(
        self,
        quantiles: NDArray[np.floating[Any]],
        threshold: float,
        *,
        channel: int = 0,
        side: Literal["middle", "conservative"] = "middle",
    ) -> NDArray[np.float32]:
        """Return P(signal > threshold) of each pixel.

        Parameters
        ----------
        quantiles : ndarray of float, shape (L, *space)
            Quantiles of one channel, averaged over the ensemble.
        threshold : float
            Threshold in the quantiles' unit.
        channel : int
            Index of the channel that the quantiles belong to.
        side : str
            "middle" for a map; "conservative" for a claim: a lower bound that counts the unseen
            block against the claim.

        Returns
        -------
        ndarray of float32, shape (*space)
            Probability, 0 to 1, never growing with the threshold.

        Raises
        ------
        ValueError
            If the number of planes differs from the levels'.

        References
        ----------
        Vovk et al., Machine Learning 108 (2019), on conformal predictive distributions;
        Kuleshov, Fenner and Ermon, arXiv 1807.00263 (2018), on recalibration.
        """
        table = self._table(channel, conservative=side == "conservative")
        return cdf(quantiles, self.levels, threshold, table=table)

    def lower_bound(
        self, quantiles: NDArray[np.floating[Any]], confidence: float, *, channel: int = 0
    ) -> NDArray[np.float32]:
        """Return the value that the signal exceeds with the stated confidence, conservatively.

        Parameters
        ----------
        quantiles : ndarray of float, shape (L, *space)
            Quantiles of one channel, averaged over the ensemble.
        confidence : float
            Confidence, between 0 and 1.
        channel : int
            Index of the channel that the quantiles belong to.

        Returns
        -------
        ndarray of float32, shape (*space)
            One-sided bound in the quantiles' unit; minus infinity where there are too few blocks
            for such a confidence. It lies above a threshold only where `probability` of that threshold,
            conservatively, is at least `confidence`.

        Raises
        ------
        ValueError
            If `confidence` isn't between 0 and 1, or the number of planes differs from the levels'.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"The confidence is {confidence!r}; it must be between 0 and 1, as 0.75.")
        table = self._table(channel, conservative=True)
        enough = np.flatnonzero(table >= np.float32(confidence))
        # Entry k holds for places up to (k + 1) / K, so the bound may lie at k / K.
        return ppf(quantiles, self.levels, enough[-1] / STEPS if enough.size else 0.0)

    def caption(
        self,
        threshold: float,
        *,
        channel_name: str = "signal",
        unit: str = "",
        confidence: float | None = None,
        covers: str = "clean",
    ) -> str:
        """Return a caption that says what the map promises and what it does not.

        Parameters
        ----------
        threshold : float
            Threshold of the map.
        channel_name : str
            Channel of the map.
        unit : str
            Unit of the threshold.
        confidence : float, optional
            Confidence of the flagged pixels, where some are flagged.
        covers : str
            What the target is: "clean", "long exposure" or "replicate".

        Returns
        -------
        str
            Two or three sentences.
        """
        what = "" if covers == "clean" else f" of {covered(covers)}"
        claim = f"{channel_name} > {threshold:.4g} {unit}".rstrip() + what
        parts = [
            f"P({claim}): right on average over images like the calibration data, not per pixel "
            f"({self.n_blocks} held-out blocks)."
        ]
        if confidence is not None:
            parts.append(
                f"Flagged at {confidence:.3g}: a property of the procedure. Pixels barely above the "
                "threshold are right only about half of the time; for a claim about the flagged set, select "
                "with a false-discovery level."
            )
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the recalibration as a compact JSON-ready dict: shares in millionths."""
        millionths = np.round(self.shares.astype(np.float64) * 1e6).astype(int)
        return {
            "levels": list(self.levels),
            "shares": millionths.tolist(),
            "n_blocks": self.n_blocks,
            "rule": self.rule,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the recalibration that `to_dict` stored."""
        return cls(
            levels=tuple(values["levels"]),
            shares=np.asarray(np.asarray(values["shares"]) / 1e6, dtype=np.float32),
            n_blocks=int(values["n_blocks"]),
            rule=values["rule"],
        )

    def _table(self, channel: int, *, conservative: bool) -> NDArray[np.float32]:
        """Return the exceedance by place in the predicted distribution, k / K to (k + 1) / K."""
        share = self.shares[channel].astype(np.float64)
        above = np.append(share[1:], 1.0)
        seen = self.n_blocks / (self.n_blocks + 1)
        # The unseen block may fall on either side; the conservative side counts it against the claim.
        low, high = (above, 1.0) if conservative else ((share + above) / 2, 0.5)
        below = low * seen + high * (1 - seen)
        return np.asarray(1 - below, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class LockedExceedance:
    """Exceedance of one threshold in one channel, recalibrated for that threshold alone.

    Parameters
    ----------
    levels : tuple of float
        The L quantile levels, ascending.
    threshold : float
        The locked threshold, in the quantiles' unit.
    channel : int
        The channel it was locked for.
    table : ndarray of float32, shape (K,)
        Calibrated exceedance by predicted exceedance, never falling.
    n_blocks : int
        Held-out blocks behind it.
    """

    levels: tuple[float, ...]
    threshold: float
    channel: int
    table: NDArray[np.float32]
    n_blocks: int

    def probability(self, quantiles: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return P(signal > threshold) of each pixel (*space), from quantiles (L, *space)."""
        score = 1 - cdf(quantiles, self.levels, self.threshold)
        return self.table.take((score * len(self.table)).astype(np.int32), mode="clip")


@dataclass(frozen=True, eq=False)
class Selection:
    """Pixels claimed to exceed a threshold, with a bound on the share of wrong claims.

    Parameters
    ----------
    mask : ndarray of bool, shape (*space)
        True where the claim is made.
    threshold : float
        Threshold in the quantiles' unit.
    level : float
        False-discovery level asked for.
    cut : float
        Predicted exceedance from which on the claim is made; infinite where it is made nowhere.
    caption : str
        What is true of the set.
    """

    mask: NDArray[np.bool_]
    threshold: float
    level: float
    cut: float
    caption: str


def exceedance_from(held_out: HeldOut, rule: str = "block") -> Exceedance:
    """Recalibrate from the places of held-out targets in their predicted distributions.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    rule : str
        Rule of the calibration: "pixel" pools pixels; with any other, every block counts once.

    Returns
    -------
    Exceedance
        Small enough to be saved with the bundle.

    Raises
    ------
    ValueError
        If there are fewer than two levels.
    """
    weight = _weights(held_out.block, rule)
    shares = []
    for c in range(held_out.target.shape[0]):
        place = cdf(held_out.quantiles[:, c], held_out.levels, held_out.target[c]).astype(np.float64)
        cell = np.minimum(np.ceil(place * STEPS - 1e-6).astype(np.int64), STEPS)
        shares.append(np.minimum(np.cumsum(np.bincount(cell, weight, minlength=STEPS + 1)), 1))
    return Exceedance(
        levels=tuple(float(level) for level in held_out.levels),
        shares=np.asarray(shares, dtype=np.float32),
        n_blocks=held_out.n_blocks,
        rule="pixel" if rule == "pixel" else "block",
    )


def lock_threshold(
    held_out: HeldOut, threshold: float, *, channel: int = 0, rule: Literal["block", "pixel"] = "block"
) -> LockedExceedance:
    """Recalibrate at one fixed threshold, by isotonic regression.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    threshold : float
        Threshold in the target's unit.
    channel : int
        Index of the channel.
    rule : str
        "block" (every block counts once) or "pixel" (pixels pooled).

    Returns
    -------
    LockedExceedance
        Sharper at this threshold than `Exceedance`, and good for no other.

    Raises
    ------
    ValueError
        If there are fewer than two levels.

    References
    ----------
    Zadrozny and Elkan, KDD (2002), on isotonic recalibration.
    """
    from sklearn.isotonic import isotonic_regression

    score = 1 - cdf(held_out.quantiles[:, channel], held_out.levels, threshold)
    above = held_out.target[channel] > threshold
    weight = _weights(held_out.block, rule)
    cell = np.minimum((score * LOCKED_STEPS).astype(np.int64), LOCKED_STEPS - 1)
    mass, hits = (
        np.bincount(cell, w, minlength=LOCKED_STEPS).astype(np.float64) for w in (weight, weight * above)
    )
    filled = np.flatnonzero(mass)
    fitted = isotonic_regression(hits[filled] / mass[filled], sample_weight=mass[filled])
    centre = (np.arange(LOCKED_STEPS) + 0.5) / LOCKED_STEPS
    seen = held_out.n_blocks / (held_out.n_blocks + 1)
    table = np.interp(centre, centre[filled], fitted) * seen + (1 - seen) / 2
    return LockedExceedance(
        levels=tuple(float(level) for level in held_out.levels),
        threshold=float(threshold),
        channel=channel,
        table=np.asarray(table, dtype=np.float32),
        n_blocks=held_out.n_blocks,
    )


def select(
    held_out: HeldOut,
    quantiles: NDArray[np.floating[Any]],
    threshold: float,
    *,
    level: float = 0.1,
    channel: int = 0,
    rule: Literal["block", "pixel"] = "pixel",
) -> Selection:
    """Select pixels above a threshold, with at most a share `level` of false claims on average.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    quantiles : ndarray of float, shape (L, *space)
        Quantiles of one channel of the image.
    threshold : float
        Threshold in the target's unit.
    level : float
        False-discovery level, between 0 and 1.
    channel : int
        Index of the channel.
    rule : str
        "pixel" counts held-out pixels as cases; "block" counts blocks, and claims nothing unless the
        claim holds for a share of the image of about ``1 / (level * B)``.

    Returns
    -------
    Selection
        The set and its caption.

    Raises
    ------
    ValueError
        If `level` isn't between 0 and 1, or there are fewer than two levels.

    References
    ----------
    Jin and Candes, arXiv 2210.01408 (2022), algorithm 1 with the clipped score and deterministic
    p-values.
    """
    if not 0 < level < 1:
        raise ValueError(f"The false-discovery level is {level!r}; it must be between 0 and 1, as 0.1.")
    score = 1 - cdf(held_out.quantiles[:, channel], held_out.levels, threshold)
    null = held_out.target[channel] <= threshold
    weight = _weights(held_out.block, rule)
    n_cases = held_out.n_blocks if rule == "block" else held_out.target.shape[1]
    wanted = 1 - cdf(quantiles, held_out.levels, threshold)
    cut = _selection_cut(score[null], weight[null], wanted.ravel(), n_cases, level)
    mask = wanted >= cut
    few = held_out.n_blocks * level < BLOCKS_PER_LEVEL
    doubt = " With so few blocks, the share in one image may be far off." if few else ""
    caption = (
        f"{int(mask.sum())} pixels claimed > {threshold:.4g}: on average over images like the calibration "
        f"data, at most {level:.3g} of the claimed pixels are not ({held_out.n_blocks} held-out blocks, "
        f"{'blocks' if rule == 'block' else 'pixels'} counted as cases).{doubt}"
    )
    return Selection(mask=mask, threshold=float(threshold), level=level, cut=cut, caption=caption)


def _selection_cut(
    null_score: NDArray[np.float32],
    null_weight: NDArray[np.float64],
    score: NDArray[np.float32],
    n_cases: int,
    level: float,
) -> float:
    """Return the smallest score that the Benjamini-Hochberg procedure claims; infinite if none."""
    order = np.argsort(null_score)
    ascending = null_score[order]
    # Held-out pixels under the threshold that score at least as high would be wrong claims.
    mass = np.append(np.cumsum(null_weight[order][::-1])[::-1], 0.0)
    wanted = np.sort(score)
    p_value = (n_cases * mass[np.searchsorted(ascending, wanted)] + 1) / (n_cases + 1)
    claimed = wanted.size - np.searchsorted(wanted, wanted)
    passed = np.flatnonzero(p_value <= level * claimed / wanted.size)
    return float(wanted[passed[0]]) if passed.size else float("inf")


def _weights(block: NDArray[np.int64], rule: str) -> NDArray[np.float64]:
    """Return the weight of each held-out pixel; the weights sum to one."""
    if rule == "pixel":
        return np.full(block.size, 1 / block.size)
    counts = np.bincount(block)
    return np.asarray(1 / (counts[block] * np.count_nonzero(counts)), dtype=np.float64)
