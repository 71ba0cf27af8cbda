"""Requests for windows to measure again: the score of a pixel, and the number, size and place of windows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.dose import Dose
from napari_btn.core.data.record import packed, unpacked
from napari_btn.core.remeasure.expected import Decision
from napari_btn.core.remeasure.stage import StageAffine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Choice", "Search"]


@dataclass(frozen=True)
class Choice:
    """The score that makes a pixel worth another measurement.

    Parameters
    ----------
    kind : str
        "ambiguity", "width", "relative width", "spread" or "relative spread".
    channels : tuple of int
        From 0; several are combined by their ranks, widths and spreads in units of their mean.
    thresholds : tuple of float
        One per channel of `channels`, for the ambiguity.
    scene : int
        Which of the scenes.
    """

    kind: str
    channels: tuple[int, ...]
    thresholds: tuple[float, ...] = ()
    scene: int = 0

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Questions that the windows shall settle; none without thresholds."""
        if self.kind != "ambiguity":
            return ()
        pairs = zip(self.channels, self.thresholds, strict=True)
        return tuple(Decision(channel, threshold, self.scene) for channel, threshold in pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as a JSON-ready dict."""
        channels, thresholds = list(self.channels), [float(t) for t in self.thresholds]
        return {"kind": self.kind, "channels": channels, "thresholds": thresholds, "scene": int(self.scene)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Choice:
        """Return the choice of a dict that `to_dict` made.

        Parameters
        ----------
        values : mapping
        """
        channels = tuple(int(c) for c in values["channels"])
        return cls(
            str(values["kind"]), channels, tuple(map(float, values["thresholds"])), int(values["scene"])
        )


@dataclass(frozen=True)
class Search:
    """Windows to look for.

    Parameters
    ----------
    window : tuple of int
        Size in pixels along (Z,) Y, X.
    count : int
        How many windows at most.
    margin : int
        Pixels kept free along the border, and between windows unless ``spacing`` is given.
    spacing : int, optional
        Pixels kept free between windows.
    area : ndarray of bool, optional
        (Y, X) or (Z, Y, X); only the score where it is True counts. A window may reach over its edge.
    travel : bool
        True for an order of short travel, from the best window on.
    stage : StageAffine, optional
        Measures the travel on the stage.
    until : float, optional
        Expected wrong area in pixels at which fewer windows are enough; only with thresholds.
    dose : Dose, optional
        Dose of the noisy image. Without it, a window counts as decided once it is measured.
    dwell : float
        Mean dwell of the windows, in dwells of the noisy image; it is shared out where it decides most.
    """

    window: tuple[int, ...]
    count: int
    margin: int = 0
    spacing: int | None = field(default=None, kw_only=True)
    area: NDArray[np.bool_] | None = field(default=None, kw_only=True, compare=False, repr=False)
    travel: bool = field(default=False, kw_only=True)
    stage: StageAffine | None = field(default=None, kw_only=True)
    until: float | None = field(default=None, kw_only=True)
    dose: Dose | None = field(default=None, kw_only=True)
    dwell: float = field(default=1.0, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the search as a JSON-ready dict; the area, which is in no file, as text."""
        return {
            "window": [int(n) for n in self.window],
            "count": int(self.count),
            "margin": int(self.margin),
            "spacing": None if self.spacing is None else int(self.spacing),
            "area": None if self.area is None else packed(self.area),
            "travel": self.travel,
            "stage": None if self.stage is None else self.stage.matrix.tolist(),
            "until": None if self.until is None else float(self.until),
            "dose": None if self.dose is None else self.dose.to_dict(),
            "dwell": float(self.dwell),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], shape: Sequence[int]) -> Search:
        """Return the search of a dict that `to_dict` made.

        Parameters
        ----------
        values : mapping
        shape : sequence of int
            Of the image, along (Z,) Y, X.

        Raises
        ------
        ValueError
            If the area is of another image.
        """
        area, stage, until, dose, spacing = (values[k] for k in ("area", "stage", "until", "dose", "spacing"))
        return cls(
            tuple(int(n) for n in values["window"]),
            int(values["count"]),
            int(values["margin"]),
            spacing=None if spacing is None else int(spacing),
            area=None if area is None else unpacked(area, shape),
            travel=bool(values["travel"]),
            stage=None if stage is None else StageAffine(np.asarray(stage, float).reshape(2, 3)),
            until=None if until is None else float(until),
            dose=None if dose is None else Dose.from_dict(dose),
            dwell=float(values["dwell"]),
        )
