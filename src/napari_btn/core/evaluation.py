"""A prediction against a truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.config import drain
from napari_btn.core.conformal import HeldOut
from napari_btn.core.held_out import block_numbers
from napari_btn.core.metrics import ssim
from napari_btn.core.pairs import Pair, View
from napari_btn.core.report import Report, report_on

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.prediction import Prediction

__all__ = ["evaluate"]


def evaluate(prediction: Prediction, clean: Any, *, valid: Any = None, seed: int = 0) -> Report:
    """Return the report of a prediction against a truth.

    Parameters
    ----------
    prediction : Prediction
    clean : array
        The axes of the prediction, or the same without S and T.
    valid : array of bool, optional
        True where a pixel counts.
    """
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
    )
    group = None
    if prediction.groups is not None:
        left = View(prediction.groups, prediction.axes.replace("C", ""), "groups")
        group = np.stack([left.read(s)[0] for s in range(lower.n_scenes)])[known].astype(np.int64) - 1
    return report_on(
        held_out,
        flat(low),
        flat(median),
        flat(high),
        alpha=prediction.alpha,
        rule=str(prediction.provenance.get("rule", "")),
        channel_names=prediction.channel_names,
        covers=prediction.covers,
        block_px=side,
        group=group,
        group_name=str(prediction.provenance.get("grouped_by", "token")),
        seed=seed,
        ssim=_ssim(truth, median, known),
    )


def _ssim(
    truth: list[NDArray[np.float32]], median: list[NDArray[np.float32]], known: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """SSIM per channel, averaged over scenes; None where pixels are left out or the image is tiny."""
    if not known.all() or min(truth[0].shape[1:]) < 7:
        return None
    span = [
        max(float(t[c].max()) for t in truth) - min(float(t[c].min()) for t in truth)
        for c in range(len(truth[0]))
    ]
    per_scene = [
        [ssim(t[c], m[c], data_range=span[c]) for c in range(len(t))]
        for t, m in zip(truth, median, strict=True)
    ]
    return np.asarray(np.mean(per_scene, 0))
