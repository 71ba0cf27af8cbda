"""Select pixels that are claimed to exceed a threshold, aiming at a share of wrong claims."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import covered, noisy_sentence
from napari_btn.core.calibration.distribution import cdf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

__all__ = ["Selection", "select"]

# Cuts of the predicted exceedance that a selection tests.
CLAIM_STEPS = 256
# Held-out blocks with claims: fewer say nothing about other fields.
CLAIMED_BLOCKS = 5


@dataclass(frozen=True, eq=False)
class Selection:
    """Pixels claimed to exceed a threshold, with the share of wrong claims among the held-out blocks.

    Parameters
    ----------
    mask : ndarray of bool, shape (*space)
        True where the claim is made; False where nothing is known.
    threshold : float
        Threshold in the quantiles' unit.
    level : float
        Share of wrong claims that was asked for.
    cut : float
        Predicted exceedance from which on the claim is made; infinite where it is made nowhere.
    share, upper : float
        Share of the claims in the held-out blocks that are wrong, and the bound that the test of each cut
        uses, not a bound after the choice of the cut; NaN where nothing is claimed.
    n_blocks, claimed_blocks : int
        Held-out blocks, and those of them in which the cut claims a pixel.
    caption : str
        Statement about the set.
    """

    mask: NDArray[np.bool_]
    threshold: float
    level: float
    cut: float
    share: float
    upper: float
    n_blocks: int
    claimed_blocks: int
    caption: str


def select(
    held_out: HeldOut,
    quantiles: NDArray[np.floating[Any]],
    threshold: float,
    *,
    level: float = 0.1,
    channel: int = 0,
    covers: str = "clean",
) -> Selection:
    """Select pixels that are claimed to exceed a threshold, aiming at a share of wrong claims.

    Cuts of the predicted exceedance are tested from the highest down, with blocks as cases: a cut passes
    while the upper 95 % bound of its share of wrong claims in the held-out blocks is at most `level`. The
    share is a ratio of sums over blocks; its bound is Student's, from the linearised ratio. It is the bound
    that the test of each cut uses, not a bound after the choice of the cut: the share is meant to be at most
    `level` on average over calibrations. With few blocks that hold claims, single calibrations often exceed it.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    quantiles : ndarray of float, shape (L, *space)
        Quantiles of one channel of the image. Pixels that are not finite are never claimed.
    threshold : float
        Threshold in the target's unit.
    level : float
        Share of wrong claims to aim at, between 0 and 1.
    channel : int
        Index of the channel.
    covers : str
        What the targets are, as `Prediction.covers`: a claim is wrong if the target is not above the threshold, so
        with noisy targets it is one on noisy values.

    Returns
    -------
    Selection
        The set and its caption. Nothing is claimed where fewer than five held-out blocks hold claims, or
        no cut passes.

    Raises
    ------
    ValueError
        If `level` isn't between 0 and 1, or there are fewer than two levels.

    References
    ----------
    Angelopoulos et al., "Learn then test", arXiv 2110.01052 (2021), fixed sequence testing; Cochran,
    "Sampling Techniques" (1977), chapter 6, on the variance of a ratio.
    """
    if not 0 < level < 1:
        raise ValueError(f"The share of wrong claims is {level!r}; it must be between 0 and 1, such as 0.1.")
    score = 1 - cdf(held_out.quantiles[:, channel], held_out.levels, threshold)
    wrong = held_out.target[channel] <= threshold
    last = int(held_out.block.max())
    claimed, false = (_claims(score[kept], held_out.block[kept], last) for kept in (slice(None), wrong))
    n = held_out.n_blocks
    holding = (claimed > 0).sum(0)
    total = np.maximum(claimed.sum(0), 1)
    share = false.sum(0) / total
    rest = false - share * claimed
    error = np.sqrt(n / max(n - 1, 1) * np.square(rest).sum(0)) / total
    upper = share + _student_bound(n) * error if n > 1 else np.ones_like(share)
    passes = upper <= level
    # the first cut to be tested is chosen by the claims alone, whatever they say
    first = int(np.flatnonzero(holding >= CLAIMED_BLOCKS)[-1]) if holding.max() >= CLAIMED_BLOCKS else -1
    failed = np.flatnonzero(~passes[: first + 1])
    cut = int(failed[-1]) + 1 if failed.size else 0
    found = first >= cut
    values = np.asarray(quantiles)
    known = np.isfinite(values).all(axis=0)
    wanted = 1 - cdf(np.where(known, values, 0), held_out.levels, threshold)
    at = cut / CLAIM_STEPS if found else float("inf")
    mask = known & (wanted >= at)
    measured = (float(share[cut]), float(upper[cut])) if found else (float("nan"), float("nan"))
    blocks = int(holding[cut] if found else holding.max())
    caption = _claim_caption(int(mask.sum()), threshold, level, measured[0], (blocks, n), covers)
    return Selection(mask, float(threshold), level, at, *measured, n, blocks, caption)


def _claims(score: NDArray[np.floating[Any]], block: NDArray[np.int64], last: int) -> NDArray[np.float64]:
    """Count the pixels of each block, up to the last one, that score at least each cut, (B, K)."""
    cell = np.minimum((score * CLAIM_STEPS).astype(np.int64), CLAIM_STEPS - 1)
    counts = np.bincount(block * CLAIM_STEPS + cell, minlength=(last + 1) * CLAIM_STEPS)
    return np.asarray(counts.reshape(-1, CLAIM_STEPS)[:, ::-1].cumsum(1)[:, ::-1], dtype=np.float64)


def _student_bound(n: int) -> float:
    """Return Student's 95 % quantile for n blocks, at least two."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.95))


def _claim_caption(
    pixels: int, threshold: float, level: float, share: float, blocks: tuple[int, int], covers: str
) -> str:
    """Return the caption of a set of claims."""
    of = "" if covers == "clean" else f" in {covered(covers)}"
    if np.isnan(share):
        few = blocks[0] < CLAIMED_BLOCKS
        reason = (
            f"only {blocks[0]} of {blocks[1]} held-out blocks hold such pixels, and {CLAIMED_BLOCKS} are needed"
            if few
            else f"in the {blocks[1]} held-out blocks more of the surest pixels are wrong, or too few are known"
        )
        return (
            f"No pixel is claimed to exceed {threshold:.4g}{of} with about {100 * level:.3g} % of wrong claims: "
            f"{reason}. Hold out more of the field, add scenes, or allow more wrong claims."
        )
    return (
        f"{pixels} {'pixel is' if pixels == 1 else 'pixels are'} claimed to exceed {threshold:.4g}{of}. In the "
        f"held-out blocks {100 * share:.1f} % of such claims are wrong ({100 * level:.3g} % asked for; "
        f"{blocks[0]} of {blocks[1]} blocks have claims). The set was chosen by these blocks: in other fields "
        f"more may be wrong, and with few such blocks often more than asked for.{noisy_sentence(covers)}"
    )
