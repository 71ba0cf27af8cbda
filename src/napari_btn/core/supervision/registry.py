"""The interface of a supervision, and the supervisions by name.

A supervision decides what members see, what they learn from it, and what intervals then cover. To add
one, write a class with the methods of `Supervision` in this package, and list it in `SUPERVISIONS`;
other packages bring theirs by entry point. The
command line, the settings and the dock offer what is listed there.
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
    """A way to learn from the images of the user."""

    @property
    def name(self) -> str:
        """Name in settings, on the command line and in bundles."""

    @property
    def title(self) -> str:
        """Name in the dock."""

    @property
    def help(self) -> str:
        """One sentence on the data that are needed, for tooltip and command line."""

    def scenes(self, pair: Pair) -> Scenes:
        """Return inputs and targets of the images, read on demand; values are not yet checked.

        Raises
        ------
        ValueError
            If the data don't permit this supervision; the message says what to do instead.
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
        """Return the training and held-out parts, at least ``rf_px`` apart."""

    def lesson_steps(
        self, scenes: Scenes, boxes: Sequence[Box], train: TrainSettings, validation: Sequence[Box] = ()
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return the settings adapted to the data, and the source of patches; a step."""

    def covers(
        self, noise: NDArray[np.floating[Any]] | None, channel_names: Sequence[str]
    ) -> tuple[str, tuple[Note, ...]]:
        """Return what a calibrated interval covers, and notes on it.

        Parameters
        ----------
        noise : ndarray of float, (C,), optional
            Noise of the target as a share of the residual variance; None if unknown.
        channel_names : sequence of str
        """


SUPERVISIONS: Registry[Supervision] = Registry(
    "napari_btn.supervisions", {"pair": "napari_btn.core.supervision.pair:PAIR"}
)
"""Supervisions by name."""


def supervision_of(name: str) -> Supervision:
    """Return a supervision by its name.

    Raises
    ------
    ValueError
        If there is no supervision of that name.
    """
    if name not in SUPERVISIONS:
        known = ", ".join(f'"{known}"' for known in SUPERVISIONS)
        raise ValueError(f"supervision is {name!r}; it must be {known}.")
    return SUPERVISIONS[name]
