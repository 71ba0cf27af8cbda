"""The state of one viewer's analysis: what was set, and what a change makes stale.

A session knows no window. Docks set its slots on the main thread when a step has returned, and
listen to one event; a dock that is closed and opened again is rebuilt from here alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from psygnal import Signal

if TYPE_CHECKING:
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.denoiser import Denoiser

__all__ = ["Session", "StagePlaces", "Threshold", "Training", "session_of"]

_STALE_AFTER: dict[str, tuple[str, ...]] = {
    "denoiser": ("prediction", "tokens", "regions"),
    "source": ("prediction", "tokens", "regions"),
    "prediction": ("tokens", "regions"),
}
"""What each slot clears when it is set, because it was made from it."""


@dataclass(frozen=True)
class Threshold:
    """What the user asks of the signal, and how sure the answer must be.

    Parameters
    ----------
    values : tuple of float
        Threshold of each channel, in the units of the prediction.
    channel : int
        Channel that is looked at, from 0.
    confidence : float
        Between 0 and 1, for claims.
    """

    values: tuple[float, ...]
    channel: int = 0
    confidence: float = 0.75

    @property
    def value(self) -> float:
        """Threshold of the channel that is looked at."""
        return self.values[self.channel]


@dataclass(frozen=True, eq=False)
class Training:
    """What a denoiser was trained on.

    Parameters
    ----------
    pair : Pair
        Noisy and clean images.
    regions : array of int, optional
        Painted areas that trained and calibrated.
    """

    pair: Pair
    regions: Any = None


@dataclass(frozen=True)
class StagePlaces:
    """Places of an image that are known on the stage, too.

    Parameters
    ----------
    source : str
        Name of the image.
    places : tuple of tuple of float
        Row and column in pixels, and the two stage coordinates, of each.
    """

    source: str
    places: tuple[tuple[float, float, float, float], ...]


class Session:
    """What is known about one viewer's analysis.

    Attributes
    ----------
    changed : Signal
        Emitted once per set slot, with its name, after everything that depends on it was cleared.
    """

    changed = Signal(str)

    def __init__(self) -> None:
        self._denoiser: Denoiser | None = None
        self._source: Image | None = None
        self._prediction: Prediction | None = None
        self._tokens: Tokens | None = None
        self._threshold: Threshold | None = None
        self._training: Training | None = None
        self._regions: tuple[Region, ...] | None = None
        self._stage: StagePlaces | None = None

    @property
    def denoiser(self) -> Denoiser | None:
        """Trained or loaded denoiser; setting it clears prediction and tokens."""
        return self._denoiser

    @denoiser.setter
    def denoiser(self, denoiser: Denoiser | None) -> None:
        self._set("denoiser", denoiser)

    @property
    def training(self) -> Training | None:
        """Images that the denoiser was trained on; None where they are not known, as for a loaded one."""
        return self._training

    @training.setter
    def training(self, training: Training | None) -> None:
        self._set("training", training)

    @property
    def source(self) -> Image | None:
        """Image that was last given to the denoiser; setting it clears prediction and tokens."""
        return self._source

    @source.setter
    def source(self, source: Image | None) -> None:
        self._set("source", source)

    @property
    def prediction(self) -> Prediction | None:
        """Quantile maps of the source by the denoiser; setting it clears the tokens that it describes."""
        return self._prediction

    @prediction.setter
    def prediction(self, prediction: Prediction | None) -> None:
        if prediction is not None and (self._denoiser is None or self._source is None):
            raise ValueError(
                "A prediction came without its denoiser and source; it needs both. Set those first."
            )
        self._set("prediction", prediction)

    @property
    def tokens(self) -> Tokens | None:
        """Tokens of the source by the denoiser, in the number that is looked at."""
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: Tokens | None) -> None:
        if tokens is not None and (self._denoiser is None or self._source is None):
            raise ValueError(
                "Tokens came without their denoiser and source; they need both. Set those first."
            )
        self._set("tokens", tokens)

    @property
    def threshold(self) -> Threshold | None:
        """Thresholds of the channels, once a person or a dock has set them; they outlive a prediction."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: Threshold | None) -> None:
        self._set("threshold", threshold)

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """Where to measure the source again, in the order of a visit; a new prediction clears it."""
        return self._regions

    @regions.setter
    def regions(self, regions: tuple[Region, ...] | None) -> None:
        self._set("regions", regions)

    @property
    def stage(self) -> StagePlaces | None:
        """Places known on the stage; they outlive a prediction, and count for the image they name alone."""
        return self._stage

    @stage.setter
    def stage(self, stage: StagePlaces | None) -> None:
        self._set("stage", stage)

    def _set(self, slot: str, value: Any) -> None:
        """Store a value, clear what was made from the old one, tell once."""
        setattr(self, f"_{slot}", value)
        for stale in _STALE_AFTER.get(slot, ()):
            setattr(self, f"_{stale}", None)
        self.changed.emit(slot)


_SESSIONS: WeakKeyDictionary[object, Session] = WeakKeyDictionary()


def session_of(viewer: object) -> Session:
    """Session of a viewer, made on first use and gone with it.

    Parameters
    ----------
    viewer : object
        Any hashable object that can be referred to weakly; napari's proxy of a viewer counts as that viewer.

    Returns
    -------
    Session
        The same object for the same viewer.
    """
    owner = getattr(viewer, "__wrapped__", viewer)
    return _SESSIONS.setdefault(owner, Session())
