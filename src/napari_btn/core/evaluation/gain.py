"""What more members bring: correlation, coverage and width of ensembles of several sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate, cross_fitted
from napari_btn.core.calibration.held_out import block_numbers
from napari_btn.core.evaluation.metrics import correlation, coverage
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.progress import Progress
from napari_btn.core.settings import CalibrationSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.networks.family import Blueprint, Member
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TileSettings

__all__ = ["EnsembleGain", "ensemble_gain", "gain_steps"]

SIZES = (1, 2, 5, 10, 25)
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
        """Table as JSON-ready rows, one per size and channel."""
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
    truth: NDArray[np.float32],
    block: NDArray[np.int64],
    *,
    levels: Sequence[float],
    alpha: float = 0.1,
    sizes: Sequence[int] = SIZES,
    draws: int = 5,
    settings: CalibrationSettings | None = None,
    channel_names: Sequence[str] | None = None,
    seed: int = 0,
) -> EnsembleGain:
    """What 1, 2, 5, ... of the members would have reached, calibrated as an ensemble of that size is.

    Parameters
    ----------
    quantiles : ndarray of float32, (M, L, C, n)
        Each member's quantiles of pixels that no member trained on.
    truth : ndarray of float32, (C, n)
        Their true values.
    block : ndarray of int64, (n,)
        Block or scene of each pixel, from 0; the offset used in a block comes from the others.
    levels : sequence of float
        Levels of the quantiles.
    alpha : float
        Miscoverage, in (0, 1).
    sizes : sequence of int
        Numbers of members; those above M are left out.
    draws : int
        Random choices of so many members, over which each figure is averaged.
    settings : CalibrationSettings, optional
        How intervals are calibrated.
    channel_names : sequence of str, optional
        One per channel.
    seed : int
        Draws the choices.

    Raises
    ------
    ValueError
        If shapes don't fit or no size is within the number of members.

    References
    ----------
    Zwart et al., "Behind the Noise", arXiv 2505.08176, figure on the ensemble's size.
    """
    wanted = (len(levels), *truth.shape)
    if quantiles.shape[1:] != wanted or block.shape != truth.shape[1:]:
        raise ValueError(
            f"Quantiles have shape {quantiles.shape}, truth {truth.shape}, blocks {block.shape}; for {len(levels)} "
            "levels they must be (M, L, C, n), (C, n) and (n,). Give all of the same pixels."
        )
    members = len(quantiles)
    kept = tuple(sorted({int(m) for m in sizes if 1 <= m <= members}))
    if not kept:
        raise ValueError(
            f"Sizes are {tuple(sizes)} for {members} members; give at least one from 1 to {members}."
        )
    rng = np.random.default_rng(seed)
    rows = []
    for size in kept:
        choices = [rng.permutation(members)[:size] for _ in range(draws if size < members else 1)]
        made = [
            _scores(quantiles[np.sort(c)], truth, block, tuple(levels), alpha, settings, seed)
            for c in choices
        ]
        rows.append(np.mean(made, axis=0))
    table = np.stack(rows)
    names = tuple(channel_names) if channel_names else tuple(str(c) for c in range(len(truth)))
    return EnsembleGain(kept, table[:, 0], table[:, 1], table[:, 2], alpha, names)


def _scores(
    quantiles: NDArray[np.float32],
    truth: NDArray[np.float32],
    block: NDArray[np.int64],
    levels: tuple[float, ...],
    alpha: float,
    settings: CalibrationSettings | None,
    seed: int,
) -> NDArray[np.float64]:
    """Correlation, coverage and width (3, C) of one choice of members."""
    settings = settings or CalibrationSettings()
    held_out = HeldOut(quantiles.mean(0, dtype=np.float32), truth, block, levels)
    calibration = calibrate(held_out, alpha=alpha, settings=settings)
    lower, median, upper = cross_fitted(held_out, calibration, folds=settings.folds, seed=seed)
    width = np.mean(upper - lower, axis=1, dtype=np.float64)
    # of a single block there is no interval that another one made, and nothing inside it
    covered = np.where(np.isnan(width), np.nan, coverage(truth, lower, upper, axis=1))
    return np.stack([correlation(truth, median, axis=1), covered, width])


def gain_steps(
    scenes: Scenes,
    members: Sequence[Member],
    blueprint: Blueprint,
    *,
    alpha: float = 0.1,
    sizes: Sequence[int] = SIZES,
    settings: CalibrationSettings | None = None,
    tiles: TileSettings | None = None,
    executor: Executor | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Step[EnsembleGain]:
    """`ensemble_gain` of trained members on images with a truth; a step.

    Parameters
    ----------
    scenes : Scenes
        Images that no member trained on.
    members : sequence of Member
        Trained members.
    blueprint : Blueprint
        What they are made from.
    alpha : float
        Miscoverage.
    sizes : sequence of int
        Numbers of members.
    settings : CalibrationSettings, optional
        How intervals are calibrated.
    tiles : TileSettings, optional
        How images are cut.
    executor : concurrent.futures.Executor, optional
        Where tasks run.
    device : str
        Torch's name of the device.
    seed : int
        Draws members and pixels.

    Returns
    -------
    EnsembleGain
        Over at most 50,000 pixels.
    """
    truth = np.stack([scenes.read_clean(s) for s in range(scenes.noisy.n_scenes)], 1)
    chosen = _choose(np.asarray(np.isfinite(truth).all(0)), seed)
    outer = np.zeros((2, *truth.shape), np.float32)
    picked = np.empty((len(members), len(blueprint.levels), len(truth), len(chosen)), np.float32)
    for k, member in enumerate(members):
        whole = np.empty((len(blueprint.levels), *truth.shape), np.float32)
        results = tile_quantiles(
            scenes.noisy, scenes.whole(), [member], blueprint, tiles=tiles, executor=executor, device=device
        )
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
    return ensemble_gain(
        picked,
        truth.reshape(len(truth), -1)[:, chosen],
        numbers.reshape(-1)[chosen],
        levels=blueprint.levels,
        alpha=alpha,
        sizes=sizes,
        settings=settings,
        channel_names=scenes.channel_names,
        seed=seed,
    )


def _choose(known: NDArray[np.bool_], seed: int) -> NDArray[np.intp]:
    """Flat indices of some known pixels, rising."""
    found = np.flatnonzero(known)
    if len(found) > _MOST_PIXELS:
        found = np.random.default_rng(seed).choice(found, _MOST_PIXELS, replace=False)
    return np.sort(found)
