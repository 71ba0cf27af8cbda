"""Gain of more members: correlation, coverage and width of ensembles of several sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.calibration.held_out import block_numbers
from napari_btn.core.evaluation.metrics import correlation, coverage
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.networks.family import Networks
from napari_btn.core.progress import Progress, counted
from napari_btn.core.settings import CalibrationSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.progress import Step

__all__ = ["EnsembleGain", "ensemble_gain", "gain_steps"]

SIZES = (1, 2, 5, 10, 25)
_DRAWS = 5  # random choices of so many members, over which each figure is averaged
_MOST_PIXELS = 50_000  # more pixels change no digit that is shown


@dataclass(frozen=True, eq=False)
class EnsembleGain:
    """Quality by the number of members, each the mean over draws of that many.

    Parameters
    ----------
    sizes : tuple of int
        Numbers of members, rising; K of them.
    correlation, coverage, width : ndarray of float64, (K, C)
        Of the median with the truth; share of pixels inside the calibrated interval, cross-fitted; mean
        width of the interval in the units of the truth.
    alpha : float
        Miscoverage asked for.
    channel_names : tuple of str
    """

    sizes: tuple[int, ...]
    correlation: NDArray[np.float64]
    coverage: NDArray[np.float64]
    width: NDArray[np.float64]
    alpha: float
    channel_names: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table as JSON-ready rows, one per size and channel."""
        return [
            {
                "members": size,
                "channel": name,
                "correlation": float(self.correlation[k, c]),
                "coverage": float(self.coverage[k, c]),
                "width": float(self.width[k, c]),
            }
            for k, size in enumerate(self.sizes)
            for c, name in enumerate(self.channel_names)
        ]


def ensemble_gain(
    quantiles: NDArray[np.float32],
    held_out: HeldOut,
    *,
    alpha: float = 0.1,
    sizes: Sequence[int] = SIZES,
    settings: CalibrationSettings | None = None,
    channel_names: Sequence[str] | None = None,
    seed: int = 0,
) -> EnsembleGain:
    """Measure ensembles of 1, 2, 5, ... of the members, each calibrated as one of its size.

    Parameters
    ----------
    quantiles : ndarray of float32, (M, L, C, n)
        Each member's quantiles of pixels that no member trained on.
    held_out : HeldOut
        Quantiles of all members together, and the truth; the offset in a block comes from the other blocks.
    alpha : float
        Miscoverage, in (0, 1).
    sizes : sequence of int
        Numbers of members; those above M are left out.
    settings : CalibrationSettings, optional
        How intervals are calibrated.
    channel_names : sequence of str, optional
        One per channel.
    seed : int
        Draws the choices.

    Raises
    ------
    ValueError
        If shapes don't fit, or no size is within the number of members.

    References
    ----------
    Zwart et al., "Behind the Noise", arXiv 2505.08176, figure on the ensemble's size.
    """
    if quantiles.shape[1:] != held_out.quantiles.shape:
        raise ValueError(
            f"The members' quantiles have shape {quantiles.shape}, those of all together {held_out.quantiles.shape}; "
            "they must be (M, L, C, n) and (L, C, n). Give both of the same pixels."
        )
    settings = settings or CalibrationSettings()
    members = len(quantiles)
    kept = tuple(sorted({int(m) for m in sizes if 1 <= m <= members}))
    if not kept:
        raise ValueError(
            f"Sizes are {tuple(sizes)} for {counted(members, 'member')}; give at least one from 1 to {members}."
        )
    rng = np.random.default_rng(seed)
    rows = []
    for size in kept:
        choices = [rng.permutation(members)[:size] for _ in range(_DRAWS if size < members else 1)]
        made = [
            _scores(
                replace(held_out, quantiles=quantiles[np.sort(c)].mean(0, dtype=np.float32)),
                alpha,
                settings,
                seed,
            )
            for c in choices
        ]
        rows.append(np.mean(made, axis=0))
    table = np.stack(rows)
    names = tuple(channel_names) if channel_names else tuple(str(c) for c in range(len(held_out.target)))
    return EnsembleGain(kept, table[:, 0], table[:, 1], table[:, 2], alpha, names)


def _scores(held_out: HeldOut, alpha: float, settings: CalibrationSettings, seed: int) -> NDArray[np.float64]:
    """Return correlation, coverage and width (3, C) of one choice of members."""
    truth = held_out.target
    calibration = calibrate(held_out, alpha=alpha, settings=settings)
    lower, median, upper = cross_fitted(held_out, calibration, folds=settings.folds, seed=seed)
    width = np.mean(upper - lower, axis=1, dtype=np.float64)
    # A single block has no cross-fitted interval, so its coverage is unknown, not zero.
    covered = np.where(np.isnan(width), np.nan, coverage(truth, lower, upper, axis=1))
    return np.stack([correlation(truth, median, axis=1), covered, width])


def gain_steps(
    scenes: Scenes,
    networks: Networks,
    compute: Compute,
    *,
    alpha: float = 0.1,
    sizes: Sequence[int] = SIZES,
    settings: CalibrationSettings | None = None,
    seed: int = 0,
) -> Step[EnsembleGain]:
    """Measure `ensemble_gain` of trained members on images with a truth; a step.

    Parameters
    ----------
    scenes : Scenes
        Images that no member trained on.
    networks : Networks
        Trained members.
    compute : Compute
        Where tasks run.
    alpha : float
        Miscoverage.
    sizes : sequence of int
        Numbers of members.
    settings : CalibrationSettings, optional
        How intervals are calibrated.
    seed : int
        Draws members and pixels.

    Returns
    -------
    EnsembleGain
        Over at most 50,000 pixels.
    """
    members, blueprint = networks.members, networks.blueprint
    truth = np.stack([scenes.read_clean(s) for s in range(scenes.noisy.n_scenes)], 1)
    chosen = _choose(np.asarray(np.isfinite(truth).all(0)), seed)
    outer = np.zeros((2, *truth.shape), np.float32)
    picked = np.empty((len(members), len(blueprint.levels), len(truth), len(chosen)), np.float32)
    for k, member in enumerate(members):
        whole = np.empty((len(blueprint.levels), *truth.shape), np.float32)
        results = tile_quantiles(scenes.noisy, scenes.whole(), Networks(blueprint, (member,)), compute)
        for progress, tile in results:
            if tile is not None:
                whole[:, :, tile.scene][(slice(None), slice(None), *tile.write)] = tile.quantiles
            done = k * progress.total + progress.done
            yield Progress(done, len(members) * progress.total, f"Member {k + 1} of {len(members)}")
        outer += whole[[0, -1]] / len(members)
        picked[k] = whole.reshape(*whole.shape[:2], -1)[:, :, chosen]
    apart, lower, upper = ([image[:, s] for s in range(image.shape[1])] for image in (truth, *outer))
    settings = settings or CalibrationSettings()
    _, numbers = block_numbers(apart, lower, upper, scenes, settings.block_px)
    together = HeldOut(
        picked.mean(0, dtype=np.float32),
        truth.reshape(len(truth), -1)[:, chosen],
        numbers.reshape(-1)[chosen],
        blueprint.levels,
    )
    return ensemble_gain(
        picked,
        together,
        alpha=alpha,
        sizes=sizes,
        settings=settings,
        channel_names=scenes.channel_names,
        seed=seed,
    )


def _choose(known: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """Return flat indices of some known pixels, ascending."""
    found = np.flatnonzero(known)
    if len(found) > _MOST_PIXELS:
        found = np.random.default_rng(seed).choice(found, _MOST_PIXELS, replace=False)
    return np.sort(found)
