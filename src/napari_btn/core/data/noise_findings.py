"""Findings about the noise of an image, and the training without a clean image that it permits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from napari_btn.core.data.defects import SATURATED, Defects
from napari_btn.core.data.noise import DEAD, HOT
from napari_btn.core.data.noise_frames import NoiseFrames, read_noise_frames_steps
from napari_btn.core.data.noise_models import NoiseModel
from napari_btn.core.progress import Step, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["NoiseFindings", "find_noise_steps"]

_FANO = 0.05  # a Fano factor may differ so much from 1; halves thinned at 1.1 correlate by 0.2
_FANO_IMAGE = 0.12  # the same for one image, where texture adds to the variance
_ERRORS = 2.0  # and so many standard errors beyond

Model = TypeVar("Model", bound=NoiseModel)


@dataclass(frozen=True)
class _Permit:
    """A verdict on one supervision.

    Attributes
    ----------
    allowed : bool
        True if the noise meets what the supervision assumes.
    reason : str
        Sentence that says why, and what to do where it is not allowed.
    """

    allowed: bool
    reason: str


@dataclass(frozen=True, eq=False)
class NoiseFindings(Generic[Model]):
    """Findings about the noise of an image.

    Attributes
    ----------
    model : NoiseModel
        Fitted model.
    frames : NoiseFrames
        Frames that it was measured on; ``frames.drift`` is their drift, ``frames.defects`` what is broken.
    channel_names : tuple of str
        One per channel.
    """

    model: Model
    frames: NoiseFrames
    channel_names: tuple[str, ...]

    @property
    def defects(self) -> Defects:
        """Broken and saturated pixels, in the part of the field that was read (``frames.part``)."""
        return self.frames.defects

    @property
    def mask_spans(self) -> dict[str, int]:
        """Axes along which noise is correlated, and the span in pixels that a structured mask needs there."""
        longest = self.model.correlation_px.max(0)
        return {a: 2 * int(n) + 1 for a, n in zip(self.frames.space_axes, longest, strict=True) if n}

    def _thinning(self) -> _Permit:
        """Return the verdict on thinning: counts that follow the Poisson law, at a gain of one, without offset."""
        for c in range(self.model.n_channels):
            if why := self._no_counts(c):
                return _Permit(False, f"{self._where(c)}{why}")
        if self.mask_spans:
            return _Permit(
                False,
                f"The noise is correlated {self._along()}; thinned counts would share it. "
                "Use repeats, or Noise2Void with a mask.",
            )
        fano = ", ".join(f"{f:.2f}" for f in self.model.fano)
        return _Permit(True, f"The values are whole counts with a Fano factor of {fano}.")

    def _noise2void(self) -> _Permit:
        """Return the verdict on Noise2Void with a plain mask: noise that is independent between pixels."""
        if spans := self.mask_spans:
            axes = _listed([a.lower() for a in spans])
            return _Permit(
                False,
                f"The noise is correlated {self._along()}, so neighbours reveal the masked pixel; mask along "
                f"{axes} as well ({_pixels(max(spans.values()))}).",
            )
        return _Permit(True, "No correlation of the noise between pixels was found.")

    def _noise2noise(self) -> _Permit:
        """Return the verdict on Noise2Noise: two or more frames of one field."""
        if self.frames.source == "image":
            return _Permit(
                False,
                "Noise2Noise needs two frames of one field or more; take a second frame, or use Noise2Void"
                + (" or thinning." if self._thinning().allowed else "."),
            )
        moved = max(self.frames.drift)
        if moved:
            return _Permit(True, f"There are repeats; they drift by {_pixels(moved)}, so align them first.")
        return _Permit(True, "There are repeats of one field.")

    @property
    def permits(self) -> dict[str, _Permit]:
        """Verdicts by the name of the supervision."""
        return {
            "noise2noise": self._noise2noise(),
            "thinning": self._thinning(),
            "noise2void": self._noise2void(),
        }

    @property
    def _law(self) -> str:
        """The noise in a few words, of the channel that is farthest from plain counts."""
        fano = np.abs(np.nan_to_num(self.model.fano, nan=np.inf) - 1)
        return _law_of(self.model, int(np.argmax(fano)))

    @property
    def sentence(self) -> str:
        """One sentence: what the noise is, and what it permits."""
        names = {"thinning": "thinning", "noise2void": "Noise2Void", "noise2noise": "Noise2Noise"}
        allowed = [names[k] for k in names if self.permits[k].allowed]
        noise = f"correlated {self._along()}" if self.mask_spans else "no correlation found"
        if self.mask_spans:
            allowed.append("Noise2Void with a mask along " + _listed([a.lower() for a in self.mask_spans]))
        verb = "is" if len(allowed) == 1 else "are"
        return f"{noise}, {self._law}: {_listed(allowed)} {verb} allowed"

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about defects, drift, and what could not be known."""
        notes = []
        if self.defects.kinds.any():
            notes.append(f"{str(self.defects).capitalize()} in the part that was read.")
        if any(self.frames.drift):
            way = ", ".join(
                f"{n} px along {a}"
                for n, a in zip(self.frames.drift, self.frames.space_axes, strict=True)
                if n
            )
            notes.append(f"The frames drift by {way}; they were aligned by whole pixels for this.")
        if self.frames.source == "image":
            notes.append(
                "Measured on single images, where fine texture is taken for noise, and weak correlation is not "
                "found; two frames of the field give a better measurement."
            )
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as a JSON-ready dict."""
        found = self.model.to_dict()
        curve = found.pop("curve")
        return {
            "sentence": self.sentence,
            "permits": {k: {"allowed": v.allowed, "reason": v.reason} for k, v in self.permits.items()},
            "notes": list(self.notes),
            "channel_names": list(self.channel_names),
            **found,
            "correlation_px": self.model.correlation_px.tolist(),
            "curve": [{"mean": m, "variance": v} for m, v in curve],
            "space_axes": self.frames.space_axes,
            "drift_px": list(self.frames.drift),
            "defects": {
                name: [int((kinds == kind).sum()) for kinds in self.defects.kinds]
                for name, kind in (("dead", DEAD), ("hot", HOT), ("saturated", SATURATED))
            },
        }

    def _no_counts(self, c: int) -> str:
        """Return why a channel holds no plain counts; empty if it does."""
        model, fano = self.model, float(self.model.fano[c])
        step = float(model.step[c])
        if step == 0:
            return "The values are not whole counts; thinning needs counts. Use Noise2Void, or repeats."
        if model.offset[c] > 0 or model.read_sd[c] > 0.5 * max(step, 1):
            return (
                f"The offset is {model.offset[c]:.3g}, the gain {model.gain[c]:.3g} (Fano factor {fano:.3g}) and the "
                f"read-out noise {model.read_sd[c]:.3g}; plain counts have 0, 1 and 0. Use Noise2Void, or repeats."
            )
        tolerance = (_FANO_IMAGE if self.frames.source == "image" else _FANO) + _ERRORS * float(
            np.nan_to_num(model.fano_se[c])
        )
        if step != 1 and abs(fano / step - 1) <= tolerance:
            return (
                f"The values are counts times {step:.3g} (Fano factor {fano:.3g}, plain counts have 1); "
                f"divide by {step:.3g}, then thinning is allowed."
            )
        if step % 1 or not np.isfinite(fano) or abs(fano - 1) > tolerance:
            return (
                f"The Fano factor is {fano:.3g}, plain counts have 1, so thinned halves would share noise; "
                "use Noise2Void, or repeats."
            )
        return ""

    def _where(self, c: int) -> str:
        """Return the channel's name as the start of a sentence, where there are several."""
        return f"Channel {self.channel_names[c]}. " if self.model.n_channels > 1 else ""

    def _along(self) -> str:
        """Return along which axes noise is correlated, and how far."""
        longest = self.model.correlation_px.max(0)
        return _listed(
            [
                f"over {_pixels(int(n))} along {a.lower()}"
                for a, n in zip(self.frames.space_axes, longest, strict=True)
                if n
            ]
        )


def find_noise_steps(
    frames: ArrayLike,
    axes: str = "TYX",
    *,
    offset: float | Sequence[float] | None = None,
    valid: NDArray[np.bool_] | None = None,
    channel_names: Sequence[str] = (),
    kind: type[Model] = NoiseModel,  # type: ignore[assignment]
) -> Step[NoiseFindings[Model]]:
    """Measure the noise of an image and judge what it permits; a step.

    Parameters
    ----------
    frames : array_like
        Image in the axes ``axes``; numpy, dask or zarr.
    axes : str
        One letter per dimension, of S, T, C, Z, Y, X.
    offset : float or sequence of float, optional
        Value without light, one for all channels or one each.
    valid : ndarray of bool, optional
        True where a pixel counts; the shape of the space axes in the order Z, Y, X.
    channel_names : sequence of str
        One per channel; numbers by default.
    kind : type
        Class of the model.

    Raises
    ------
    ValueError
        As `NoiseModel.fit`.
    """
    seen = yield from read_noise_frames_steps(frames, axes, valid=valid)
    model = yield from kind.fit_steps(seen, offset=offset)
    names = tuple(channel_names) or tuple(str(c) for c in range(model.n_channels))
    if len(names) != model.n_channels:
        raise ValueError(
            f"{counted(len(names), 'channel name')} came, the image has {counted(model.n_channels, 'channel')}; "
            "give one name each."
        )
    return NoiseFindings(model, seen, names)


def _law_of(model: NoiseModel, c: int) -> str:
    """Return the law of a channel's noise in a few words."""
    gain, read = float(model.gain[c]), float(model.read_sd[c])
    counting = model.step[c] > 0 and read <= 0.5 * gain
    if model.multiplicative[c] > 0 or (gain > 0 and model.step[c] == 0):
        return f"growing with the signal (variance {read**2:.3g} without light)"
    if gain == 0:
        return f"of one size (SD {read:.3g})"
    if counting and model.offset[c] == 0:
        # the standard error says how many digits mean something
        return f"Poisson with gain {gain:.2f}".rstrip("0").rstrip(".")
    offset = f", offset {model.offset[c]:.3g}" if model.offset[c] > 0 else ""
    read_out = f" and read-out noise {read:.3g}" if read > 0 else ""
    return f"Poisson with gain {gain:.3g}{read_out}{offset}"


def _pixels(number: int) -> str:
    """Return a number of pixels."""
    return f"{number} px"


def _listed(names: Sequence[str]) -> str:
    """Return names in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
