"""The interface of a supervision, and the supervisions by name.

A supervision decides what members see, what they learn from it, and what intervals then cover. To add
one, write a class with the methods of `Supervision` in this package, and list it in `SUPERVISIONS`;
other packages bring theirs by entry point. The
command line, the settings and the dock offer what is listed there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from napari_btn.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box, View
    from napari_btn.core.data.pairs import Pair, Scenes
    from napari_btn.core.data.splits import Split
    from napari_btn.core.progress import Note, Step
    from napari_btn.core.settings import CalibrationSettings, SupervisionSettings, TrainSettings
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

    @property
    def shown(self) -> Literal["median", "mean"]:
        """Map that is shown first: the mean where targets are noisy, since skewed noise moves the median."""

    @property
    def because(self) -> str:
        """One sentence on why it fits images that permit it, for the dock."""

    @property
    def rank(self) -> int:
        """Place among the ways that images permit: the lowest is offered first."""

    @property
    def alone(self) -> bool:
        """True if noisy images alone may do."""

    @property
    def simulated(self) -> bool:
        """True if noisy images are drawn from a noise model on clean ones, so that none is given."""

    @property
    def blind(self) -> bool:
        """True if the prediction of a pixel never depends on its own noisy value."""

    @property
    def windows(self) -> bool:
        """True if windows that were measured again can train together with the images."""

    def scenes(self, pair: Pair, settings: SupervisionSettings, *, seed: int) -> Scenes:
        """Return inputs and targets of the images, read on demand; values are not yet checked.

        Parameters
        ----------
        pair : Pair
            What the user gave; ``noisy`` or ``clean`` may be None.
        settings : SupervisionSettings
        seed : int
            Seed of noise that is drawn once.

        Raises
        ------
        ValueError
            If the data don't permit this supervision; the message says what to do instead.
        """

    def check_steps(self, scenes: Scenes, settings: SupervisionSettings) -> Step[tuple[Note, ...]]:
        """Check the values against what this supervision assumes, and return notes on doubts; a step.

        Raises
        ------
        ValueError
            If the values don't permit this supervision; the message says what to do instead.
        """

    def fitting(self, scenes: Scenes, settings: SupervisionSettings) -> SupervisionSettings:
        """Return settings that fit the measured noise; unchanged if the given ones do."""

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
        self,
        scenes: Scenes,
        boxes: Sequence[Box],
        train: TrainSettings,
        validation: Sequence[Box],
        settings: SupervisionSettings,
    ) -> Step[tuple[TrainSettings, Lesson]]:
        """Return the settings adapted to the data, and the source of patches; a step."""

    def seen(self, image: View, settings: SupervisionSettings, *, seed: int) -> View:
        """Return an image as the networks see it for a prediction, with its `View.looks`."""

    def noise_variance(
        self, observed: NDArray[np.floating[Any]], target: NDArray[np.floating[Any]]
    ) -> NDArray[np.floating[Any]] | None:
        """Return the variance of the target's own noise, (C,), from held-out values (C, n); None if unknown."""

    def covers(
        self,
        noise: NDArray[np.floating[Any]] | None,
        channel_names: Sequence[str],
        scenes: Scenes | None = None,
    ) -> tuple[str, tuple[Note, ...]]:
        """Return what a calibrated interval covers, and notes on it.

        Parameters
        ----------
        noise : ndarray of float, (C,), optional
            Noise of the target as a share of the residual variance; None if unknown.
        channel_names : sequence of str
        scenes : Scenes, optional
            Images that were calibrated on, where their kind may differ from that of the training.
        """


SUPERVISIONS: Registry[Supervision] = Registry(
    "napari_btn.supervisions",
    {
        "pair": "napari_btn.core.supervision.pair:PAIR",
        "noise2noise": "napari_btn.core.supervision.noise2noise:NOISE2NOISE",
        "noise2void": "napari_btn.core.supervision.noise2void:NOISE2VOID",
        "thinning": "napari_btn.core.supervision.thinning:THINNING",
        "simulation": "napari_btn.core.supervision.simulation:SIMULATION",
    },
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
