"""Pairs of noisy and clean images: axes, checks and statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import SPACE, Box, View, whole_boxes
from napari_btn.core.progress import Progress, counted, drain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.progress import Step

__all__ = ["Pair", "Scenes"]

_LARGEST, _LEAST_SPAN = 1e15, 1e-18  # limits within which sums of squares over an image fit float32
_READ = 4_000_000  # values read at a time
_SAMPLED = 2_000_000  # values read for statistics; more would not change the digits shown


@dataclass(frozen=True)
class Pair:
    """A noisy and a clean image of one or more scenes.

    Parameters
    ----------
    noisy : array-like
        Any real dtype, in the axes ``axes``.
    clean : array-like, optional
        The same axes, or without ``S`` and ``T`` if the noisy scenes are repeats of one field.
    axes : str
        Letters of S, T, C, Z, Y, X, any order and case.
    channel_names : tuple of str, optional
        One per channel; "0", "1", ... by default.
    pixel_size : tuple of float, optional
        One per space axis in the order of ``axes``, in ``unit``.
    unit : str
        Unit of the pixel size.
    valid : array of bool, or "finite", optional
        True where a pixel counts; has the space axes alone, or the axes of ``clean``. "finite": pixels that
        are finite in all channels of both images.
    name : str
        Name for layers and files.
    noise_model : NoiseModel, optional
        Noise to simulate on ``clean``, if there is no noisy image.
    detector : Detector, optional
        Dark and flat frames and broken pixels, by which the noisy image is repaired first.
    """

    noisy: Any
    clean: Any = None
    axes: str = "YX"
    channel_names: tuple[str, ...] | None = None
    pixel_size: tuple[float, ...] | None = None
    unit: str = "px"
    valid: Any = None
    name: str = ""
    noise_model: Any = None
    detector: Any = None

    @cached_property
    def clean_axes(self) -> str:
        """Axes of ``clean``: those of ``noisy``, without S and T if it has fewer dimensions."""
        axes = self.axes.upper()
        ndim = np.ndim(self.clean) if isinstance(self.clean, list | tuple) else len(self.clean.shape)
        shorter = "".join(a for a in axes if a not in "ST")
        return axes if ndim == len(axes) else shorter

    @cached_property
    def scenes(self) -> Scenes:
        """Views of both images, with shapes and values checked.

        Raises
        ------
        ValueError
            If the images don't go together, or hold values that can't be trained on.
        """
        drain(self.views.check_steps())
        return self.views

    @cached_property
    def views(self) -> Scenes:
        """Views of both images, with shapes checked but not values.

        Raises
        ------
        ValueError
            If axes, shapes, channel names or pixel size don't go together.
        """
        noisy = View(self.noisy, self.axes, "noisy")
        if self.clean is None:
            raise ValueError(
                "Clean is missing; give the slow, clean image of the same scene, or learn without one: supervision "
                '"noise2noise" from repeats, "thinning" from counts, "noise2void" from single images.'
            )
        if len(self.clean.shape) != len(self.clean_axes):
            raise ValueError(
                f"Noisy has axes {noisy.axes} {tuple(self.noisy.shape)}, clean has shape {tuple(self.clean.shape)}; "
                "clean needs the same axes, or the same without S and T."
            )
        clean = View(self.clean, self.clean_axes, "clean")
        if noisy.space == clean.space and noisy.n_channels != clean.n_channels:
            raise ValueError(
                f"Noisy has {noisy.n_channels} channel{'s' * (noisy.n_channels > 1)}, clean has {clean.n_channels}; "
                "each channel of noisy needs its clean one. Leave out the channels that one of them lacks."
            )
        if (noisy.space, noisy.n_channels) != (clean.space, clean.n_channels) or clean.n_scenes not in (
            1,
            noisy.n_scenes,
        ):
            raise ValueError(
                f"Noisy has axes {noisy.axes} {tuple(self.noisy.shape)}, clean has {clean.axes} "
                f"{tuple(self.clean.shape)}; they must match. Crop one, or align them first."
            )
        names = self.channel_names or tuple(str(i) for i in range(noisy.n_channels))
        if len(set(names)) != len(names):
            raise ValueError(
                f"Channel names are {', '.join(names)}; each may come once. Give every channel its own name."
            )
        if len(names) != noisy.n_channels:
            raise ValueError(
                f"{counted(len(names), 'channel name')} came ({', '.join(names)}) for "
                f"{counted(noisy.n_channels, 'channel')}; give one each."
            )
        if self.pixel_size is not None and len(self.pixel_size) != noisy.ndim:
            raise ValueError(
                f"Pixel size has {len(self.pixel_size)} values, the image has the space axes {noisy.space_axes}; "
                "give one value for each."
            )
        return Scenes(noisy, clean, tuple(names), _valid_view(self.valid, noisy, clean), self._z_step(noisy))

    def _z_step(self, noisy: View) -> float:
        """Return the distance of two planes in pixels of Y and X (1 if unknown)."""
        if self.pixel_size is None or noisy.ndim < 3 or min(self.pixel_size) <= 0:
            return 1.0
        size = dict(zip((a for a in noisy.axes if a in SPACE), self.pixel_size, strict=True))
        return float(size["Z"] / max(size["Y"], size["X"]))


class _Finite(View):
    """A mask, over the space axes and the scenes of clean, of pixels that are finite in both images."""

    def __init__(self, noisy: View, clean: View) -> None:
        super().__init__(clean.array, clean.axes, "valid")
        self._noisy, self._clean, self.n_channels = noisy, clean, 1

    def read(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return one scene, or a box of it, as (1, *space): 1 where a pixel counts."""
        finite = np.isfinite(self._clean.read(scene, box)).min(axis=0, keepdims=True)
        for s in (scene,) if self.n_scenes > 1 else range(self._noisy.n_scenes):
            finite = finite & np.isfinite(self._noisy.read(s, box)).min(axis=0, keepdims=True)
        return np.asarray(finite, np.float32)


def _valid_view(valid: Any, noisy: View, clean: View) -> View | None:
    """Return a view of the mask of pixels that count."""
    if valid is None:
        return None
    if isinstance(valid, str):
        if valid != "finite":
            raise ValueError(
                f'valid is {valid!r}; give a mask, or "finite" to leave out NaN and infinite values.'
            )
        return _Finite(noisy, clean)
    ndim = len(valid.shape)
    axes = clean.axes if ndim == len(clean.axes) else "".join(a for a in clean.axes if a in SPACE)
    view = View(valid, axes, "valid")
    fits = view.n_scenes in (1, clean.n_scenes) and view.n_channels in (1, clean.n_channels)
    if view.space != clean.space or not fits:
        raise ValueError(
            f"Valid has axes {axes} {tuple(valid.shape)}, clean has {clean.axes} {tuple(clean.array.shape)}; "
            "they must match. Give True where a pixel counts, for the space axes alone or for all axes of clean."
        )
    return view


@dataclass(frozen=True)
class Scenes:
    """Views of the noisy and clean scenes; one clean scene may belong to all noisy ones.

    ``z_step`` is the distance of two planes of a volume, in pixels of Y and X. ``own_target`` is True if the
    noisy image is its own target, because members see other pixels than those that they are judged on.
    ``shared_field`` is True if all scenes show one field although each has its own target. ``names`` are the
    names of target and input in notes.
    """

    noisy: View
    clean: View
    channel_names: tuple[str, ...]
    valid: View | None = None
    z_step: float = 1.0
    own_target: bool = False
    shared_field: bool = False
    names: tuple[str, str] = ("Clean", "noisy")

    @property
    def repeats(self) -> bool:
        """True if the noisy scenes are repeats of one field, with one target."""
        return bool(self.clean.n_scenes == 1)

    @property
    def n_fields(self) -> int:
        """Number of fields of view: scenes with targets of their own; frames of a series share a field."""
        return 1 if self.repeats or self.shared_field else self.noisy.n_scenes // self.noisy.n_frames

    @property
    def one_field(self) -> bool:
        """True if all scenes show one field: repeats, or the frames of one time series."""
        return self.n_fields == 1

    def field_of(self, scene: int) -> int:
        """Return the number of the field that a scene shows, from 0."""
        return 0 if self.one_field else scene // self.noisy.n_frames

    def read_clean(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return clean values (C, *space), NaN where a pixel doesn't count."""
        target = self.clean.read(0 if self.repeats else scene, box)
        if self.valid is None:
            return target
        return np.where(self.read_valid(scene, box), target, np.nan).astype(np.float32)

    def read_valid(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.bool_]:
        """Return the mask of pixels that count, (C, *space); C may be 1."""
        if self.valid is None:
            return np.ones_like(self.clean.read(0 if self.repeats else scene, box), bool)
        return self.valid.read(0 if self.valid.n_scenes == 1 else scene, box) > 0

    def within(self, regions: NDArray[Any] | None, label: int) -> Scenes:
        """Return the scenes with only the pixels of a painted label counted; unchanged if nothing is painted."""
        if regions is None:
            return self
        mask = regions == label
        if self.valid is not None:
            mask = mask & (self.valid.read(0)[0] > 0)
        return replace(self, valid=View(mask, self.noisy.space_axes, "regions"))

    def read_noisy(self, scene: int, box: Sequence[slice] | None = None) -> NDArray[np.float32]:
        """Return noisy values (C, *space); if there is a mask, values that aren't finite become zero."""
        return self.noisy.read(scene, box) if self.valid is None else self.noisy.read_finite(scene, box)

    def sample(
        self, boxes: Sequence[Box], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw noisy and clean values from boxes, (C, n) each, NaN where a pixel doesn't count.

        At most about two million of each; larger boxes are sampled by random patches.
        """
        channels = max(self.noisy.n_channels, self.clean.n_channels)
        per_box = max(_SAMPLED // (channels * len(boxes)), 1)
        noisy, clean = [], []
        for box in boxes:
            side = max(int((per_box / 16) ** (1 / self.noisy.ndim)), 1)
            crops = [box.slices] if box.size <= per_box else [box.crop(side, rng) for _ in range(16)]
            for crop in crops:
                x, y = self.noisy.read(box.scene, crop), self.read_clean(box.scene, crop)
                x = np.where(self.read_valid(box.scene, crop), x, np.nan)
                noisy.append(x.reshape(len(x), -1))
                clean.append(y.reshape(len(y), -1))
        return np.concatenate(noisy, 1), np.concatenate(clean, 1)

    def whole(self) -> list[Box]:
        """Return one box per noisy scene."""
        return whole_boxes(self.noisy.space, self.noisy.n_scenes)

    def check_steps(self) -> Step[None]:
        """Check all values; a step.

        Raises
        ------
        ValueError
            If an image is constant, not finite or out of range, or both images are the same.
        """
        if self.noisy.array is self.clean.array and not self.own_target:
            raise ValueError(
                "Noisy and clean are the same image; pick the clean (slow) acquisition as clean."
            )
        low, high, equal = yield from self.limits_steps()
        for name in ("noisy", "clean"):
            if not high[name] > low[name]:
                came = (
                    f"is constant ({low[name]:g} everywhere)"
                    if np.isfinite(low[name])
                    else "has no valid pixel"
                )
                raise ValueError(
                    f"{name.capitalize()} {came}; it must hold a signal. Check the layer or the file."
                )
            largest, span = max(abs(low[name]), abs(high[name])), high[name] - low[name]
            if largest > _LARGEST or span < _LEAST_SPAN:
                much = f"values up to {largest:.3g}" if largest > _LARGEST else f"a span of {span:.3g} only"
                raise ValueError(
                    f"{name.capitalize()} has {much}; squares of it don't fit 32-bit numbers. "
                    f"{'Divide' if largest > _LARGEST else 'Multiply'} it by a constant, or take another unit."
                )
        if equal and not self.own_target:
            raise ValueError(
                "Noisy and clean hold the same values; pick the clean (slow) acquisition as clean: "
                "an image can't be its own target."
            )

    def limits_steps(self) -> Step[tuple[dict[str, float], dict[str, float], bool]]:
        """Return minimum and maximum of both images, and True if the images are equal; a step.

        Only pixels that count are read.

        Raises
        ------
        ValueError
            If a value is not finite.
        """
        equal = True
        low = {"noisy": np.inf, "clean": np.inf}
        high = {"noisy": -np.inf, "clean": -np.inf}
        slabs = self.whole()[0].slabs(_READ // self.noisy.n_channels)
        for scene in range(self.noisy.n_scenes):
            for i, box in enumerate(slabs):
                yield Progress(
                    scene * len(slabs) + i, self.noisy.n_scenes * len(slabs), "Checking the images"
                )
                noisy, clean = self.noisy.read(scene, box), self.clean.read(0 if self.repeats else scene, box)
                counts = np.broadcast_to(self.read_valid(scene, box), clean.shape)
                for name, values in (("noisy", noisy), ("clean", clean)):
                    view = self.noisy if name == "noisy" else self.clean
                    _check_finite(name, values, counts, view.array.dtype, self.valid is not None)
                    inside = values[counts]
                    if inside.size:
                        low[name], high[name] = min(low[name], inside.min()), max(high[name], inside.max())
                equal = equal and np.array_equal(noisy[counts], clean[counts])
        return low, high, equal


def _check_finite(
    name: str, values: NDArray[np.float32], counts: NDArray[np.bool_], dtype: Any, masked: bool
) -> None:
    """Raise ``ValueError`` if a value that counts is not finite."""
    with np.errstate(invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    bad = int((~np.isfinite(values) & counts).sum())
    if bad:
        # float64 may hold finite values that are infinite in float32
        wide = " (or beyond 3.4e38, too large for 32-bit numbers)" if np.dtype(dtype).itemsize > 4 else ""
        rest = "outside of `valid`'s exclusions" if masked else ""
        raise ValueError(
            f"{name.capitalize()} has {bad} NaN or infinite values{wide} {rest}".rstrip()
            + '; give `valid` as "finite" or as a mask of the pixels that count, or fill them first.'
        )
