"""Rules of calibration, by pixel, block, image or risk: the quantile of the scores, and what it promises."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.settings import CalibrationSettings

__all__ = [
    "Rule",
    "aim_of",
    "choose_rule",
    "conformal_quantile",
    "need_alpha",
    "needed_blocks",
    "promise_of",
    "rule_quantile",
]

Rule = Literal["block", "pixel", "image", "risk"]

# For ranks and masses: a whole number (n + 1)(1 - alpha) must not be rounded up to the next one.
SLACK = 1e-9
# The block rule covers (1 - alpha)(1 + 1/B) on average: from this many times 1/alpha on, that costs little.
BLOCKS_PER_ALPHA = 5


def conformal_quantile(
    scores: ArrayLike, alpha: float, block: ArrayLike | None = None, *, kept: float = 1.0
) -> float:
    """Return the smallest score that covers ``1 - alpha`` of new cases, with the finite-sample correction.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        Conformal scores.
    alpha : float
        Miscoverage, between 0 and 1.
    block : array_like of int, shape (n,), optional
        Block of each score, from 0: every block then weighs the same, and the correction counts
        blocks. Without it every score is a case of its own.
    kept : float
        Share of all blocks that these are, if others are left out to check them; the correction counts all.

    Returns
    -------
    float
        The quantile; infinite where there are too few cases for a guarantee.

    Raises
    ------
    ValueError
        If `alpha` isn't between 0 and 1, there is no score, or the lengths differ.

    References
    ----------
    Romano et al., arXiv 1905.03222 (2019), equation 8; Lee, Barber and Willett, arXiv 2306.06342
    (2023), equation 6, which equals conformal risk control, arXiv 2208.02814 (2022), equation 4, on
    the miscoverage of blocks.
    """
    need_alpha(alpha)
    s = np.asarray(scores, dtype=np.float64).ravel()
    if s.size == 0:
        raise ValueError("There are no scores; at least one is needed. Hold out more of the field.")
    if block is None:
        # The k-th smallest itself: np.quantile(..., "higher") lands one rank too high.
        k = max(1, math.ceil((s.size + 1) * (1 - alpha) - SLACK))
        return math.inf if k > s.size else float(np.partition(s, k - 1)[k - 1])
    b = np.asarray(block).ravel()
    if b.size != s.size:
        raise ValueError(f"There are {s.size} scores and {b.size} block numbers; each score needs one.")
    own = len(np.unique(b))
    if (1 - alpha) * (1 + 1 / own) - SLACK > 1:
        return math.inf
    return _block_quantile(s, b, (1 - alpha) * (1 + kept / own))


def _image_quantile(scores: ArrayLike, alpha: float, delta: float, image: ArrayLike) -> float:
    """Return the smallest score that covers at least ``1 - alpha`` of each of most new images.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        Conformal scores.
    alpha : float
        Miscoverage within an image, between 0 and 1.
    delta : float
        Share of new images that may be covered less, between 0 and 1.
    image : array_like of int, shape (n,)
        Image (or block) of each score, from 0.

    Returns
    -------
    float
        The ``ceil((B + 1)(1 - delta))``-th smallest of the images' own thresholds; infinite where
        that is more than their number B.

    References
    ----------
    Lee, Barber and Willett, arXiv 2306.06342 (2023), section 4, on repeated measurements.
    """
    need_alpha(alpha)
    s, b = np.asarray(scores, dtype=np.float64).ravel(), np.asarray(image).ravel()
    _, index, counts = np.unique(b, return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    rank = np.maximum(np.ceil(counts * (1 - alpha) - SLACK).astype(int), 1)
    thresholds = s[np.lexsort((s, index))][first + rank - 1]
    return conformal_quantile(thresholds, delta)


def _risk_quantile(scores: ArrayLike, alpha: float, delta: float, block: ArrayLike) -> float:
    """Return the smallest score that covers ``1 - alpha`` of new blocks with probability ``1 - delta``.

    This takes blocks that are drawn independently, which those of one field are not quite.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        Conformal scores.
    alpha : float
        Miscoverage, between 0 and 1.
    delta : float
        Chance, over calibration sets, that the coverage is less.
    block : array_like of int, shape (n,)
        Block (or image) of each score, from 0.

    Returns
    -------
    float
        The quantile; infinite under 22 blocks at 0.1 and 0.1.

    References
    ----------
    Bates et al., arXiv 2101.02703 (2021), theorem 1 with the Hoeffding-Bentkus bound of section 3.1.
    """
    need_alpha(alpha)
    s, b = np.asarray(scores, dtype=np.float64).ravel(), np.asarray(block).ravel()
    risk = _largest_risk(len(np.unique(b)), alpha, delta)
    return math.inf if risk is None else _block_quantile(s, b, 1 - risk)


def rule_quantile(
    rule: Rule, scores: ArrayLike, alpha: float, delta: float, block: ArrayLike, *, kept: float = 1.0
) -> float:
    """Return the offset of a rule: the quantile of the scores that keeps its promise.

    Parameters
    ----------
    rule : Rule
    scores : array_like of float, shape (n,)
        Conformal scores.
    alpha, delta : float
        Miscoverage, and what the rules "image" and "risk" leave out; each between 0 and 1.
    block : array_like of int, shape (n,)
        Block (or image) of each score, from 0.
    kept : float
        Share of all blocks that these are, if others are left out to check them.
    """
    if rule == "image":
        return _image_quantile(scores, alpha, delta, block)
    if rule == "risk":
        return _risk_quantile(scores, alpha, delta, block)
    return conformal_quantile(scores, alpha, block if rule == "block" else None, kept=kept)


def promise_of(rule: Rule, alpha: float, delta: float, blocks: str) -> str:
    """Return what a rule promises, for a caption.

    Parameters
    ----------
    rule : Rule
    alpha, delta : float
        Miscoverage, and what the rules "image" and "risk" leave out.
    blocks : str
        Name of the blocks of one field; empty where the cases are whole fields.
    """
    share, most = f"{100 * (1 - alpha):.4g} %", f"{100 * (1 - delta):.4g} %"
    alike = "images like the calibration data"
    # one field shows how its own blocks differ, and nothing of other fields
    cases, over = (f"new {blocks} of this field", "this field") if blocks else (f"new {alike}", alike)
    measured = "; measured on blocks of one field" if blocks else ""
    independent = ", if its blocks were independent" if blocks else ""
    return {
        "block": f"{share} of pixels on average over {alike}{measured}",
        "pixel": f"{share} of pixels on average over {alike}, without a guarantee{measured}",
        "image": f"at least {share} of the pixels of {most} of {cases}",
        "risk": f"{share} of pixels on average over {over}, with a probability of {most}{independent}",
    }[rule]


def aim_of(rule: str, alpha: float, covers: str) -> str:
    """Return what intervals of a rule aim at, for the sentence below a measured coverage.

    Parameters
    ----------
    rule : str
        A `Rule`; "" where the intervals are simply given.
    alpha : float
        Miscoverage.
    covers : str
        What is covered, in words.
    """
    share, alike = f"{100 * (1 - alpha):.4g} % of the pixels", "images like the calibration data"
    if rule == "image":
        most = f"each of most {alike} (each of most blocks, if that was one field)"
        return f"{covers} inside the interval in at least {share}, in {most}"
    average = f"{covers} inside the interval in {share} on average over {alike}"
    return average + {
        "risk": " (over blocks, if that was one field), with a stated probability",
        "pixel": ", without a guarantee",
    }.get(rule, "")


def needed_blocks(alpha: float, score: str = "symmetric", rule: str = "block", delta: float = 0.1) -> int:
    """Return the fewest blocks with a finite offset: 9 at 90 % (19 asymmetric), 22 by the rule "risk"."""
    sides = 2 if score == "asymmetric" else 1
    if rule == "risk":
        return math.ceil(math.log(delta / sides) / math.log(1 - alpha / sides) - SLACK)
    return max(1, math.ceil(sides / (delta if rule == "image" else alpha) - 1 - SLACK))


def choose_rule(n_blocks: int, alpha: float, settings: CalibrationSettings) -> tuple[Rule, tuple[Note, ...]]:
    """Return the rule that the settings ask for, and notes on its promise.

    Parameters
    ----------
    n_blocks : int
        Held-out blocks.
    alpha : float
        Miscoverage, between 0 and 1.
    settings : CalibrationSettings
        The unit "auto" takes blocks where there are enough, and else pools pixels.
    """
    enough = math.ceil(BLOCKS_PER_ALPHA / alpha - SLACK)
    notes: list[Note] = []
    rule: Rule = "block" if settings.unit == "auto" else settings.unit
    if settings.unit == "auto" and n_blocks < enough:
        rule = "pixel"
    only = f"Only {n_blocks} held-out block{'' if n_blocks == 1 else 's'}"
    least = needed_blocks(alpha, settings.score, rule, settings.delta)
    if n_blocks < least:
        what = "the coverage is not backed by the data" if rule == "pixel" else "the interval is infinite"
        unchecked = ", nor can it be checked" if n_blocks == 1 and rule == "pixel" else ""
        notes.append(
            Note(
                "red",
                f"{only}; coverage {100 * (1 - alpha):.4g} % needs at least {least}, so that {what}{unchecked}. "
                "Hold out more of the field, add scenes, or ask for a lower coverage.",
            )
        )
    elif settings.unit == "auto" and n_blocks < enough:
        notes.append(
            Note(
                "amber",
                f"{only}: coverage {100 * (1 - alpha):.4g} % is aimed at on average over images like the "
                f"calibration data, without a guarantee; a guarantee, even only for blocks like these, needs {enough}. "
                "Hold out more, or add scenes.",
            )
        )
    elif n_blocks == least > 1 and rule != "pixel":
        text = (
            f"There are {n_blocks} held-out blocks, exactly as many as coverage {100 * (1 - alpha):.4g} % "
            "needs. The check leaves one out and then has too few, so it reports a coverage of 100 % and "
            "infinite widths. Hold out more to have the coverage checked."
        )
        notes.append(Note("amber", text))
    return rule, tuple(notes)


def need_alpha(alpha: float) -> None:
    """Raise ``ValueError`` unless alpha is a miscoverage."""
    if not isinstance(alpha, Real) or not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must be between 0 and 1, such as 0.1 for 90 % coverage.")


def _block_quantile(scores: NDArray[np.float64], block: NDArray[np.integer[Any]], share: float) -> float:
    """Return the smallest score with a share of the mass at or under it, where every block weighs the same."""
    counts = np.bincount(block)
    order = np.argsort(scores)
    mass = np.cumsum(1 / counts[block[order]]) / np.count_nonzero(counts)
    return float(scores[order[min(int(np.searchsorted(mass, share - SLACK)), scores.size - 1)]])


def _largest_risk(n_blocks: int, alpha: float, delta: float) -> float | None:
    """Return the largest mean block miscoverage that rules out a risk over alpha; None if not even 0 does."""
    if _risk_p_value(0.0, n_blocks, alpha) > delta:
        return None
    low, high = 0.0, alpha
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _risk_p_value(middle, n_blocks, alpha) <= delta else (low, middle)
    return low


def _risk_p_value(risk: float, n: int, alpha: float) -> float:
    """Return the Hoeffding-Bentkus p-value of the hypothesis that the risk exceeds alpha."""
    hit = 0.0 if risk == 0 else risk * math.log(risk / alpha)
    hoeffding = math.exp(-n * (hit + (1 - risk) * math.log((1 - risk) / (1 - alpha))))
    k = np.arange(math.ceil(n * risk - SLACK) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    bentkus = math.e * float(np.exp(log_choose + k * math.log(alpha) + (n - k) * math.log1p(-alpha)).sum())
    return min(hoeffding, bentkus)
