"""Baselines without a network: tuned Gaussian filter and total variation, with intervals.

Their parameters are the best on the training images. Their intervals have a constant width: quantiles of
the residuals on the training images, calibrated on the calibration images by the same conformal rule as
ours (Romano et al., arXiv 1905.03222).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from napari_btn.core.calibration.rules import conformal_quantile
from napari_btn.core.evaluation import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Filter = Callable[[Image, float], Image]

SIGMAS = (0.5, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)


def gaussian(image: Image, sigma: float) -> Image:
    """Apply a Gaussian filter; ``sigma`` in pixels."""
    return gaussian_filter(image, sigma)


def total_variation(image: Image, weight: float) -> Image:
    """Denoise by total variation (Chambolle); ``weight`` in the unit of the image."""
    return np.asarray(denoise_tv_chambolle(image, weight=weight, max_num_iter=200), np.float32)


def best(
    method: Filter, grid: Sequence[float], noisy: Sequence[Image], clean: Sequence[Image]
) -> tuple[float, list[Image]]:
    """Return the parameter of least squared error on the training images, and their estimates."""

    def error(parameter: float) -> tuple[float, list[Image]]:
        made = [method(image, parameter) for image in noisy]
        return float(np.mean([np.mean((m - c) ** 2) for m, c in zip(made, clean, strict=True)])), made

    tried = {parameter: error(parameter) for parameter in grid}
    coarse = min(tried, key=lambda p: tried[p][0])
    for factor in (0.8, 0.9, 1.1, 1.2):
        tried[coarse * factor] = error(coarse * factor)
    chosen = min(tried, key=lambda p: tried[p][0])
    return chosen, tried[chosen][1]


def constant_width(
    residuals: Image, held_out: Image, alpha: float, block: NDArray[np.int64] | None = None
) -> tuple[float, float]:
    """Return the offsets from an estimate to the lower and upper bound of its interval.

    Parameters
    ----------
    residuals, held_out : ndarray
        Truth minus estimate, on training and on calibration pixels.
    alpha : float
        Miscoverage.
    block : ndarray of int, optional
        Block of each held-out pixel, for the block-weighted rule.
    """
    low, high = np.quantile(residuals, [alpha / 2, 1 - alpha / 2])
    flat = held_out.ravel()
    offset = conformal_quantile(np.maximum(low - flat, flat - high), alpha, block)
    return float(low - offset), float(high + offset)


def scores(
    clean: Sequence[Image],
    estimate: Sequence[Image],
    lower: Sequence[Image] | None = None,
    upper: Sequence[Image] | None = None,
    *,
    data_range: float,
    alpha: float = 0.1,
) -> dict[str, Any]:
    """Return the row of a table: quality of the estimate and of its interval, over all pixels."""
    truth, made = np.stack(clean), np.stack(estimate)
    row: dict[str, Any] = {
        "PSNR": float(metrics.psnr(truth, made, data_range=data_range)),
        "SSIM": float(
            np.mean([metrics.ssim(t, m, data_range=data_range) for t, m in zip(truth, made, strict=True)])
        ),
        "correlation": float(metrics.correlation(truth, made)),
    }
    if lower is not None and upper is not None:
        low, high = np.stack(lower), np.stack(upper)
        row["coverage"] = float(metrics.coverage(truth, low, high))
        row["width"] = float(np.mean(high - low))
        row["Winkler"] = float(metrics.interval_score(truth, low, high, alpha))
    return row
