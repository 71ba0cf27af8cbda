"""The thresholds that docks begin with, where nobody has set any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_btn.session import Threshold

if TYPE_CHECKING:
    from napari_btn.core.predict import Prediction

__all__ = ["first_threshold"]


def first_threshold(prediction: Prediction, known: Threshold | None) -> Threshold:
    """Thresholds of the session where they fit, else the 90th percentile of each channel's median.

    Parameters
    ----------
    prediction : Prediction
        Maps that are looked at.
    known : Threshold, optional
        What the session holds.

    Returns
    -------
    Threshold
        One value per channel.
    """
    n = len(prediction.channel_names) or 1
    if known is not None and len(known.values) == n:
        return known
    values = []
    for c in range(n):
        index = tuple(c if a == "C" else slice(None, None, 4) for a in prediction.axes)
        plane = np.asarray(prediction.median[index], dtype=np.float32)
        values.append(float(f"{np.nanpercentile(plane, 90):.2g}"))
    return Threshold(tuple(values))
