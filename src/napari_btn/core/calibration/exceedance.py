"""Calibrated probabilities that the signal exceeds a threshold; after noisy targets, that a noisy value does.

Long because maps, claims and locked thresholds recalibrate the same distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from napari_btn.core.calibration.areas import Area
from napari_btn.core.calibration.conformal import covered, noisy_sentence
from napari_btn.core.calibration.distribution import cdf, ppf
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

    _Curve = Callable[[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]], NDArray[np.float64]]

__all__ = [
    "Exceedance",
    "LockedExceedance",
    "can_lock",
    "exceedance_from",
    "lock_notes",
    "lock_threshold",
    "need_lockable",
]

# Steps of the recalibration: a thousandth is finer than any held-out set can resolve.
STEPS = 1024
LEAST = 1e-5  # least probability of a map whose odds are recalibrated
ODDS = np.linspace(logit(LEAST), logit(1 - LEAST), 512)  # where the curve of a locked threshold is stored
LOCK_FOLDS = 5
PRIOR_SD = 3.0  # of intercept and slope of a locked threshold
LOCK_BLOCKS = 5  # held-out blocks on each side of a threshold that recalibrate it


@dataclass(frozen=True, eq=False)
class Exceedance:
    """Recalibration of predicted distributions by the places of held-out targets in theirs.

    Parameters
    ----------
    levels : tuple of float
        The L quantile levels, ascending, at least two.
    shares : ndarray of float32, shape (C, K + 1)
        Share of the held-out targets whose place in the predicted distribution is at most k / K.
    areas : tuple of Area
        For each channel, the threshold at which the predicted area is the true one, where that makes it no worse.
    n_blocks : int
        Held-out blocks behind them.
    rule : str
        "block" (every block counts once) or "pixel" (pixels pooled).
    """

    levels: tuple[float, ...]
    shares: NDArray[np.float32]
    areas: tuple[Area, ...]
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
        """Return P(signal > threshold) of each pixel; with noisy targets, P(noisy value > threshold).

        Parameters
        ----------
        quantiles : ndarray of float, shape (L, *space)
            Quantiles of one channel, averaged over the ensemble.
        threshold : float
            Threshold in the quantiles' unit.
        channel : int
            Index of the channel that the quantiles belong to.
        side : str
            "middle" for a map, whose sum estimates the area above the threshold; "conservative" for a claim:
            lower, since it counts the unseen block against the claim; no bound for the single pixel.

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
        if side == "conservative":
            return cdf(quantiles, self.levels, threshold, table=self._claim_table(channel))
        area = self.areas[channel]
        return cdf(quantiles, self.levels, area.matched(threshold), table=area.table)

    def lower_bound(
        self, quantiles: NDArray[np.floating[Any]], confidence: float, *, channel: int = 0
    ) -> NDArray[np.float32]:
        """Return a one-sided bound: on average over all pixels, a share `confidence` of targets is at least that.

        This is an average over images like the calibration data, not over pixels whose bound lies above a
        threshold: of those near it, fewer are right. In single images it was off by several points.

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
            raise ValueError(f"The confidence is {confidence!r}; it must be between 0 and 1, such as 0.75.")
        table = self._claim_table(channel)
        enough = np.flatnonzero(table >= np.float32(confidence))
        # Entry k holds for places up to (k + 1) / K, so the bound may lie at k / K.
        return ppf(quantiles, self.levels, enough[-1] / STEPS if enough.size else 0.0)

    def caption(
        self,
        threshold: float,
        *,
        channel_name: str = "signal",
        confidence: float | None = None,
        covers: str = "clean",
        locked: bool = False,
    ) -> str:
        """Return a caption that says what the map promises and what it does not.

        Parameters
        ----------
        threshold : float
            Threshold of the map.
        channel_name : str
            Channel of the map.
        confidence : float, optional
            Confidence of the flagged pixels, where some are flagged.
        covers : str
            What the target is, as `Prediction.covers`.
        locked : bool
            True if the map is that of `lock_threshold`.

        Returns
        -------
        str
            A few sentences.
        """
        what = "" if covers == "clean" else f" of {covered(covers)}"
        claim = f"{channel_name} > {threshold:.4g}{what}"
        parts = [
            f"P({claim}): calibrated for this threshold with {self.n_blocks} held-out blocks. Its sum "
            "estimates the area; in a single field it can be far off, above all for a rare phase. It is not right for "
            "each pixel."
            if locked
            else f"P({claim}): calibrated on {self.n_blocks} held-out blocks, so that its sum is about their area "
            "where that makes the probabilities no worse. In a single field the sum can be far from the area, above "
            "all for a rare phase. It is not right for each pixel, and of pixels with a given probability another "
            "share may exceed the threshold."
        ]
        if confidence is not None:
            parts.append(
                f"Flagged at {100 * confidence:.3g} % confidence: on average over all pixels, not over the "
                "flagged ones. Of those with a signal close to the threshold most can be wrong; to aim at a share of "
                "wrong claims, select a set."
            )
        return f"{' '.join(parts)}{noisy_sentence(covers)}"

    def _claim_table(self, channel: int) -> NDArray[np.float32]:
        """Return the exceedance by place in the predicted distribution, k / K to (k + 1) / K, for a claim."""
        above = np.append(self.shares[channel].astype(np.float64)[1:], 1.0)
        # the unseen block counts against the claim
        return np.asarray((1 - above) * self.n_blocks / (self.n_blocks + 1), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class LockedExceedance:
    """Exceedance of one threshold in one channel, recalibrated for that threshold alone.

    Parameters
    ----------
    distribution : Exceedance
        Of all thresholds.
    threshold : float
        The locked threshold, in the quantiles' unit.
    channel : int
        The channel it was locked for.
    table : ndarray of float64, shape (K,)
        Calibrated exceedance at K evenly spaced log odds of the map, never falling.
    n_blocks : int
        Held-out blocks behind it.
    """

    distribution: Exceedance
    threshold: float
    channel: int
    table: NDArray[np.float64]
    n_blocks: int

    def probability(self, quantiles: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return P(signal > threshold) of each pixel (*space), from quantiles (L, *space)."""
        odds = _log_odds(self.distribution.probability(quantiles, self.threshold, channel=self.channel))
        return np.interp(odds, ODDS, self.table).astype(np.float32)


def _log_odds(probability: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the logarithm of the odds, of probabilities that are kept off 0 and 1."""
    return np.asarray(logit(np.clip(probability.astype(np.float64), LEAST, 1 - LEAST)))


def exceedance_from(held_out: HeldOut, rule: str = "block", *, clearly: float = 0.0) -> Exceedance:
    """Recalibrate from the places of held-out targets in their predicted distributions.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    rule : str
        Rule of the calibration: "pixel" pools pixels; with any other, every block counts once.
    clearly : float
        Standard errors by which the held-out error must fall for a threshold to be moved, as `Area.of` has it.

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
        areas=tuple(Area.of(held_out, c, weight, clearly=clearly) for c in range(len(shares))),
        n_blocks=held_out.n_blocks,
        rule="pixel" if rule == "pixel" else "block",
    )


def lock_threshold(
    distribution: Exceedance, held_out: HeldOut, threshold: float, *, channel: int = 0
) -> LockedExceedance:
    """Recalibrate a map at one fixed threshold.

    The map's probabilities get a new curve, fitted to the held-out targets with blocks as cases where the map has
    them: logistic, close to the map where few blocks speak against it, or isotonic, of any rising shape, where that
    has a clearly lower Brier score in blocks left out (by more than two standard errors over blocks).

    Parameters
    ----------
    distribution : Exceedance
        Recalibration at all thresholds, from the same pixels.
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    threshold : float
        Threshold in the target's unit.
    channel : int
        Index of the channel.

    Returns
    -------
    LockedExceedance
        For this threshold alone.

    Raises
    ------
    ValueError
        If there are fewer than two levels, or too few held-out blocks on a side of the threshold.

    References
    ----------
    Platt, "Probabilistic outputs for support vector machines" (1999); Zadrozny and Elkan, KDD (2002), on isotonic
    recalibration.
    """
    need_lockable(held_out, threshold, channel=channel)
    odds = _log_odds(distribution.probability(held_out.quantiles[:, channel], threshold, channel=channel))
    above = held_out.target[channel] > threshold
    weight = _weights(held_out.block, distribution.rule) * held_out.n_blocks
    fold = held_out.block % LOCK_FOLDS

    def left_out(curve: _Curve) -> NDArray[np.float64]:
        """Return the weighted squared error of each block, by a curve that was not fitted to it."""
        squares = np.empty(odds.size)
        for number in np.unique(fold):
            out = fold == number
            squares[out] = (
                np.interp(odds[out], ODDS, curve(odds[~out], above[~out], weight[~out])) - above[out]
            )
        by_block = np.bincount(held_out.block, weight * squares**2)
        return np.asarray(by_block[np.unique(held_out.block)], np.float64)

    gain = left_out(_logistic) - left_out(_isotonic)
    clear = gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(gain.size)
    return LockedExceedance(
        distribution=distribution,
        threshold=float(threshold),
        channel=channel,
        table=(_isotonic if clear else _logistic)(odds, above, weight),
        n_blocks=held_out.n_blocks,
    )


def _logistic(
    odds: NDArray[np.float64], above: NDArray[np.bool_], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the curve of a logistic regression whose intercept and slope have a prior about 0 and 1."""

    def loss(change: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the log loss with the prior, and its gradient."""
        moved = change[0] + (1 + change[1]) * odds
        value = (
            float(weight @ (np.logaddexp(0, moved) - above * moved))
            + float(change @ change) / 2 / PRIOR_SD**2
        )
        residual = weight * (expit(moved) - above)
        return value, np.array([residual.sum(), residual @ odds]) + change / PRIOR_SD**2

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(None, None), (-1, None)]).x
    return np.asarray(expit(found[0] + (1 + found[1]) * ODDS))


def _isotonic(
    odds: NDArray[np.float64], above: NDArray[np.bool_], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the curve of an isotonic regression."""
    cell = np.rint((odds - ODDS[0]) / (ODDS[1] - ODDS[0])).astype(np.int64)
    mass, hits = (np.bincount(cell, w, minlength=ODDS.size) for w in (weight, weight * above))
    filled = np.flatnonzero(mass)
    fitted = isotonic_regression(hits[filled] / mass[filled], weights=mass[filled]).x
    return np.asarray(np.interp(ODDS, ODDS[filled], fitted))


def can_lock(held_out: HeldOut, threshold: float, *, channel: int = 0) -> bool:
    """Return True if enough held-out blocks have targets on each side of a threshold to recalibrate there.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    threshold : float
        Threshold in the target's unit.
    channel : int
        Index of the channel.
    """
    return _blocks_beside(held_out, threshold, channel) >= LOCK_BLOCKS


def need_lockable(held_out: HeldOut, threshold: float, *, channel: int = 0) -> None:
    """Raise an error if `can_lock` is False; arguments as there.

    Parameters
    ----------
    held_out : HeldOut
    threshold : float
    channel : int

    Raises
    ------
    ValueError
        If too few held-out blocks have targets on a side of the threshold.
    """
    found = _blocks_beside(held_out, threshold, channel)
    if found < LOCK_BLOCKS:
        raise ValueError(
            f"Only {found} held-out blocks have targets above {threshold:.4g} (or below it); {LOCK_BLOCKS} on "
            "each side are needed to recalibrate there. Use the unlocked map."
        )


def lock_notes(
    held_out: HeldOut, locks: Mapping[str, float], channel_names: Sequence[str]
) -> tuple[Note, ...]:
    """Return a note on each locked threshold that can't be used with these held-out blocks.

    Bundles of earlier versions lock any threshold, and another calibration has other blocks.

    Parameters
    ----------
    held_out : HeldOut
    locks : mapping of str to float
        Locked threshold by channel name.
    channel_names : sequence of str
        Of all channels.
    """
    notes = []
    for channel, name in enumerate(channel_names):
        threshold = locks.get(name)
        if threshold is None or can_lock(held_out, threshold, channel=channel):
            continue
        found = _blocks_beside(held_out, threshold, channel)
        text = (
            f"The locked threshold {name} > {threshold:.4g} is not used: only {found} held-out blocks have "
            f"targets above it (or below it), and {LOCK_BLOCKS} on each side are needed. The unlocked map is "
            "shown; unlock the threshold, or lock another one."
        )
        notes.append(Note("amber", text))
    return tuple(notes)


def _blocks_beside(held_out: HeldOut, threshold: float, channel: int) -> int:
    """Return the number of held-out blocks with a target above the threshold, or below it if they are fewer."""
    above = held_out.target[channel] > threshold
    return min(int(np.count_nonzero(np.bincount(held_out.block[side]))) for side in (above, ~above))


def _weights(block: NDArray[np.int64], rule: str) -> NDArray[np.float64]:
    """Return the weight of each held-out pixel; the weights sum to one."""
    if rule == "pixel":
        return np.full(block.size, 1 / block.size)
    counts = np.bincount(block)
    return np.asarray(1 / (counts[block] * np.count_nonzero(counts)), dtype=np.float64)
