"""Fusion of windows that come back from the microscope with the prediction that they were chosen from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.dose import Dose, dose_of
from napari_btn.core.calibration.fusion import fuse_steps as one_steps
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.progress import Step
    from napari_btn.core.remeasure.regions import Region

__all__ = ["fuse_steps"]


def fuse_steps(
    prediction: Prediction, windows: Sequence[tuple[Region, Any]], dwell: float | None = None, scene: int = 0
) -> Step[Prediction]:
    """Fuse windows with what was measured in them, in the units of the maps; a step.

    The counts behind the values follow from the dwell: `dose_of` finds the counts of the noisy image per unit of
    signal.

    Parameters
    ----------
    prediction : Prediction
        With quantiles, held-out scores and calibration.
    windows : sequence of (Region, array (C, *size))
        Measured values, in the units of the maps.
    dwell : float, optional
        Dwell of all windows, in dwells of the noisy image; None for the planned dwell of each.
    scene : int
        Number of the scene, where the maps have several.

    Raises
    ------
    ValueError
        If the noisy image doesn't look like counts, the prediction or the values don't fit, or a window has no
        planned dwell.
    """
    yield Progress(0, len(windows), "Fusing windows")
    if prediction.held_out is None:
        raise ValueError("These maps come without held-out scores. Predict the image again.")
    dwells = [region.dwell if dwell is None else dwell for region, _ in windows]
    if missing := [str(k + 1) for k, d in enumerate(dwells) if d is None]:
        raise ValueError(
            f"Measured window {', '.join(missing)} has no planned dwell. Give the dwell of the measurement."
        )
    once = dose_of(prediction.held_out)
    left = [a for a in prediction.axes if a not in "ST"]
    order = [a for a in "CZYX" if a in left]
    for done, ((region, values), planned) in enumerate(zip(windows, dwells, strict=True)):
        counts = once.times(planned or 0.0).dose
        # values in the units of the maps are counts over the dose
        dose = Dose(counts, tuple(1 / d for d in counts))
        came = np.asarray(values)
        came = came if "C" in left else came[0]
        placed = came.transpose([order.index(a) for a in left])
        prediction = yield from one_steps(prediction, region, placed, dose, scene=scene)
        yield Progress(done + 1, len(windows), "Fusing windows")
    return prediction
