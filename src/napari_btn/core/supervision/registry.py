"""The seam for ways of learning: what members see, what they learn from it, and what intervals then cover.

A new way is a file in this package with a class that has the methods of `Supervision`, and its
line in `SUPERVISIONS`; other packages bring theirs by entry point. Command line, settings and dock
take their choices from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from napari_btn.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Note, Step
    from napari_btn.core.settings import CalibrationSettings, TrainSettings
    from napari_btn.core.supervision.patches import Lesson

__all__ = ["SUPERVISIONS", "Supervision", "supervision_of"]


class Supervision(Protocol):
    """A way of learning."""

    @property
    def name(self) -> str:
        """Name in settings, on the command line and in bundles."""

    @property
    def title(self) -> str:
        """Name in the dock."""

    @property
    def help(self) -> str:
        """One sentence on the data that it needs, for tooltip and command line."""

    def scenes(self, pair: Pair) -> Scenes:
        """Return inputs and targets of the user's images; read lazily, not yet checked for values.

        Raises
        ------
        ValueError
            If the data does not permit it: what came, what is needed, and what to do instead.
        """

    def split(
        self,
        scenes: Scenes,
        rf_px: int,
        settings: CalibrationSettings,
        *,
        seed: int,
        regions: NDArray[Any] | None = None,
    ) -> Split:
        """Return what trains and what is held out, at least ``rf_px`` apart."""

    def lesson_steps(
        self, scenes: Scenes, boxes: Sequence[Box], train: TrainSettings, validation: Sequence[Box] = ()
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return where patches come from, and the settings adapted to the data; a step."""

    def covers(
        self, noise: NDArray[np.floating[Any]] | None, channel_names: Sequence[str]
    ) -> tuple[str, tuple[Note, ...]]:
        """Return what a calibrated interval covers, and notes on it.

        Parameters
        ----------
        noise : ndarray of float, (C,), optional
            Share of the residual variance that is the target's own noise; None if unknown.
        channel_names : sequence of str
        """


SUPERVISIONS: Registry[Supervision] = Registry(
    "napari_btn.supervisions", {"pair": "napari_btn.core.supervision.pair:PAIR"}
)
"""Every way of learning by its name."""


def supervision_of(name: str) -> Supervision:
    """Return a way of learning by its name.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in SUPERVISIONS:
        known = ", ".join(f'"{known}"' for known in SUPERVISIONS)
        raise ValueError(f"supervision is {name!r}; it must be {known}.")
    return SUPERVISIONS[name]
