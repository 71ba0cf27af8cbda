"""The first thresholds of a prediction, and the values that they range over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.session import Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction

__all__ = ["few_values", "first_threshold", "has_levels"]

_PLANES = 8


def first_threshold(prediction: Prediction, known: Threshold | None) -> Threshold:
    """Return the session's thresholds if they fit, else the 90th percentile of each channel's median.

    Locked thresholds come first.

    Parameters
    ----------
    prediction : Prediction
        Maps that are looked at.
    known : Threshold, optional
        Thresholds of the session.

    Returns
    -------
    Threshold
        One value per channel.
    """
    names = prediction.channel_names or ("0",)
    if known is None or len(known.values) != len(names):
        medians = (few_values(prediction.median, prediction.axes, c, 4) for c in range(len(names)))
        known = Threshold(tuple(float(f"{np.nanpercentile(values, 90):.2g}") for values in medians))
    values = tuple(prediction.locks.get(name, v) for name, v in zip(names, known.values, strict=True))
    return replace(known, values=values)


def has_levels(prediction: Prediction) -> bool:
    """Return True if probabilities are known: the prediction has calibrated quantiles.

    Parameters
    ----------
    prediction : Prediction
        Any.

    Returns
    -------
    bool
        False for maps alone.
    """
    return getattr(prediction, "distribution", None) is not None and prediction.quantiles is not None


def few_values(array: Any, axes: str, channel: int, step: int = 2) -> NDArray[np.float32]:
    """Return enough values of a channel for percentiles: some pixels of at most eight planes.

    Parameters
    ----------
    array : array-like
        Numpy, dask or zarr; of a volume on disk, only these planes are read.
    axes : str
        Its axes.
    channel : int
        Number of the channel; all of them count where there is no axis C.
    step : int
        Every so many-th row and column.

    Returns
    -------
    ndarray of float32, (n,)
        In the unit of the array.
    """
    index: list[tuple[Any, ...]] = [()]
    for a, size in zip(axes, array.shape, strict=True):
        if a == "C":
            chosen: list[Any] = [channel]
        elif a in "YX":
            chosen = [slice(None)]
        else:
            chosen = np.unique(np.linspace(0, size - 1, min(size, _PLANES)).round().astype(int)).tolist()
        index = [(*before, one) for before in index for one in chosen]
    picked = [index[k] for k in np.linspace(0, len(index) - 1, min(len(index), _PLANES)).round().astype(int)]
    return np.concatenate([np.asarray(array[at], np.float32)[::step, ::step].ravel() for at in picked])
