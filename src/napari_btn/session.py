"""The state of the analysis in one viewer, and the dependencies between its parts.

A session knows no window. Docks set its attributes on the main thread when a step has returned, and
listen to one event. A dock that is closed and opened again is rebuilt from the session alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from psygnal import Signal

if TYPE_CHECKING:
    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.remeasure.regions import Region
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.model import Model

__all__ = ["Session", "StagePlaces", "Threshold", "Training", "Unfinished", "session_of"]

_STALE_AFTER: dict[str, tuple[str, ...]] = {
    "model": ("prediction", "tokens", "regions"),
    "source": ("prediction", "tokens", "regions"),
    "prediction": ("tokens", "regions"),
}
"""Attributes that are cleared when an attribute is set, because they depend on it."""

_AMENDED = ("tokens", "locks")
"""Parts of a model, and of its calibration, that no map depends on: the palette and the locked thresholds."""


@dataclass(frozen=True)
class Threshold:
    """A threshold of the signal, and the confidence of claims about it.

    Parameters
    ----------
    values : tuple of float
        Threshold of each channel, in units of the prediction.
    channel : int
        Current channel, from 0.
    confidence : float
        Confidence of claims, between 0 and 1.
    """

    values: tuple[float, ...]
    channel: int = 0
    confidence: float = 0.75

    @property
    def value(self) -> float:
        """Threshold of the current channel."""
        return self.values[self.channel]


@dataclass(frozen=True, eq=False)
class Training:
    """The images that a model was trained on.

    Parameters
    ----------
    pair : Pair
        Noisy and clean images.
    regions : array of int, optional
        Painted areas for training and calibration.
    """

    pair: Pair
    regions: Any = None


@dataclass(frozen=True, eq=False)
class Unfinished:
    """A training that was stopped, also by closing its dock.

    Parameters
    ----------
    key : object
        Identifies images and settings.
    settings : EnsembleSettings
        Settings of the training.
    members : object
        Finished members, opaque; None or empty without any.
    """

    key: Any
    settings: Any
    members: Any = None


@dataclass(frozen=True)
class StagePlaces:
    """Places of an image with known stage coordinates.

    Parameters
    ----------
    source : str
        Name of the image.
    places : tuple of tuple of float
        Row and column in pixels, and the two stage coordinates, of each place.
    """

    source: str
    places: tuple[tuple[float, float, float, float], ...]


class Session:
    """The state of the analysis in one viewer.

    Attributes
    ----------
    changed : Signal
        Emitted with the name of each attribute that was set, after its dependent attributes were cleared;
        with "locks" when thresholds were locked or unlocked.
    """

    changed = Signal(str)

    def __init__(self) -> None:
        self._model: Model | None = None
        self._device = "auto"
        self._source: Image | None = None
        self._prediction: Prediction | None = None
        self._tokens: Tokens | None = None
        self._threshold: Threshold | None = None
        self._training: Training | None = None
        self._regions: tuple[Region, ...] | None = None
        self._stage: StagePlaces | None = None
        self.report_of = ""
        """Name of the image that the model's report was measured on; set before the model."""
        self.unfinished: Unfinished | None = None
        """Training that was stopped; a dock that is opened again goes on from it."""
        self.form: Any = None
        """Settings of a Denoise dock when it was closed, for the next one; None before."""
        self.picked: Any = None
        """Names of the layers that a Denoise dock had picked when it was closed, for the next one; None before."""
        self.background: Any = None
        """Training that goes on while its dock is closed; None without one."""
        self.ended: tuple[str, str] | None = None
        """Level and sentence on how it ended, for the next Denoise dock; None if a dock has shown it."""

    @property
    def model(self) -> Model | None:
        """Trained or loaded model; setting it clears prediction, tokens and regions."""
        return self._model

    @model.setter
    def model(self, model: Model | None) -> None:
        self._set("model", model)

    @property
    def device(self) -> str:
        """Device that steps run on: "auto", "cpu", "cuda", "cuda:1" or "mps"."""
        return self._device

    @device.setter
    def device(self, device: str) -> None:
        self._set("device", device)

    @property
    def training(self) -> Training | None:
        """Training images of the model; None if unknown, e.g. of a loaded one."""
        return self._training

    @training.setter
    def training(self, training: Training | None) -> None:
        self._set("training", training)

    @property
    def source(self) -> Image | None:
        """Image that was last denoised; setting it clears prediction, tokens and regions."""
        return self._source

    @source.setter
    def source(self, source: Image | None) -> None:
        self._set("source", source)

    @property
    def prediction(self) -> Prediction | None:
        """Prediction of the source; setting it clears tokens and regions."""
        return self._prediction

    @prediction.setter
    def prediction(self, prediction: Prediction | None) -> None:
        if prediction is not None and (self._model is None or self._source is None):
            raise ValueError(
                "A prediction came without its model and source; it needs both. Set those first."
            )
        self._set("prediction", prediction)

    @property
    def tokens(self) -> Tokens | None:
        """Tokens of the source, at the current number of tokens."""
        return self._tokens

    @tokens.setter
    def tokens(self, tokens: Tokens | None) -> None:
        if tokens is not None and (self._model is None or self._source is None):
            raise ValueError("Tokens came without their model and source; they need both. Set those first.")
        self._set("tokens", tokens)

    def amend(self, model: Model, *, tokens: Tokens | None = None) -> None:
        """Take other locked thresholds, or tokens with the palette they come from; nothing becomes stale.

        The event is "tokens" with tokens, else "locks".

        Parameters
        ----------
        model : Model
            The session's model but for palette and locked thresholds. With tokens, its palette is taken;
            without, its locked thresholds are, which the prediction gets as well.
        tokens : Tokens, optional
            Tokens of the source.

        Raises
        ------
        ValueError
            If the networks or the calibration are not those of the session, or tokens have no source.
        """
        own = self._model
        if own is None or not (_same(model, own, "calibrated") and _same(model.calibrated, own.calibrated)):
            raise ValueError(
                "The model has other networks or another calibration than that of the session. Compute it again."
            )
        if tokens is not None:
            if self._source is None:
                raise ValueError("Tokens came without their source. Set that first.")
            # a threshold may have been locked since the search of the tokens began
            self._model = replace(own, tokens=model.tokens)
            self._set("tokens", tokens)
            return
        self._model = replace(own, calibrated=model.calibrated)
        if self._prediction is not None:
            self._prediction = replace(self._prediction, locks=model.calibrated.locks)
        self.changed.emit("locks")

    @property
    def threshold(self) -> Threshold | None:
        """Thresholds of the channels, once set; a new prediction keeps them."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: Threshold | None) -> None:
        self._set("threshold", threshold)

    @property
    def regions(self) -> tuple[Region, ...] | None:
        """Regions of the source to measure again, in the order of a visit; a new prediction clears them."""
        return self._regions

    @regions.setter
    def regions(self, regions: tuple[Region, ...] | None) -> None:
        self._set("regions", regions)

    @property
    def stage(self) -> StagePlaces | None:
        """Places with known stage coordinates, valid for the image that they name; a new prediction keeps them."""
        return self._stage

    @stage.setter
    def stage(self, stage: StagePlaces | None) -> None:
        self._set("stage", stage)

    def _set(self, slot: str, value: Any) -> None:
        """Store a value, clear what depends on the old one, and emit one event."""
        setattr(self, f"_{slot}", value)
        for stale in _STALE_AFTER.get(slot, ()):
            setattr(self, f"_{stale}", None)
        self.changed.emit(slot)


def _same(one: object, other: object, *besides: str) -> bool:
    """Return True if two values share all parts but those that may be amended, and those besides."""
    return all(
        value is getattr(other, name, None)
        for name, value in vars(one).items()
        if name not in (*_AMENDED, *besides)
    )


_SESSIONS: WeakKeyDictionary[object, Session] = WeakKeyDictionary()


def session_of(viewer: object) -> Session:
    """Return the session of a viewer; it is created on first use and deleted with the viewer.

    Parameters
    ----------
    viewer : object
        Any hashable object with weak references; a napari proxy of a viewer counts as that viewer.

    Returns
    -------
    Session
        The same object for the same viewer.
    """
    owner = getattr(viewer, "__wrapped__", viewer)
    return _SESSIONS.setdefault(owner, Session())
