"""Files that commands read and write, checked before any work: a refusal is one sentence."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_btn.cli.terminal import say, sentence

if TYPE_CHECKING:
    from napari_btn.core.data.detector import Detector
    from napari_btn.core.data.image import Image
    from napari_btn.core.data.pairs import Pair
    from napari_btn.denoiser import Denoiser

__all__ = [
    "ImageFile",
    "Model",
    "OpenImage",
    "PairFiles",
    "Target",
    "ready",
    "save_bundle",
    "say_differences",
    "values_of",
]


@dataclass(frozen=True)
class Model:
    """A bundle, and the device on which it computes."""

    bundle: Path
    device: str

    def load(self) -> Denoiser:
        """Return the denoiser of the bundle."""
        from napari_btn.cli.terminal import drain
        from napari_btn.denoiser import load

        denoiser = load(self.bundle, device=self.device)
        denoiser.run = drain
        return denoiser


@dataclass(frozen=True)
class Target:
    """The file for the result of a command."""

    output: Path
    force: bool

    def ready(self, *inputs: str | Path | None) -> None:
        """Raise unless the result may be written; see `ready`."""
        ready(self.output, self.force, *inputs)

    def ready_image(self, *inputs: str | Path | None) -> None:
        """Raise unless the result may be written as an image."""
        from napari_btn.io.images import output_format

        output_format(self.output)
        self.ready(*inputs)


def ready(path: Path, force: bool, *inputs: str | Path | None) -> None:
    """Raise unless a result may be written to the path, which must be none of the inputs."""
    from napari_btn.io.images import split_key

    for given in inputs:
        if given is not None and os.path.realpath(split_key(given)[0]) == os.path.realpath(path):
            raise ValueError(f"{path} is what the command reads; give the result another name.")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; give --force to replace it, or another name.")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} of {path.name} doesn't exist; create it first.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"The folder {folder} can't be written to; choose another for {path.name}.")


@dataclass(frozen=True, eq=False)
class OpenImage:
    """An image with its axes, the groups of its pixels, the pixels that count, and its detector."""

    image: Image
    axes: str
    groups: Any = None
    valid: Any = None
    detector: Detector | None = None

    @property
    def pixel_size(self) -> tuple[float, ...] | None:
        """Pixel size along the space axes; None if the file doesn't have it."""
        size = self.image.pixel_size
        return size if size and len(size) == sum(a in "ZYX" for a in self.axes.upper()) else None


@dataclass(frozen=True)
class ImageFile:
    """An image file, its axes, and files of groups and of pixels that count."""

    image: str = ""
    axes: str | None = None
    mask: str | None = None
    valid: str | None = None
    dark: str | None = None
    flat: str | None = None
    defects: str | None = None

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """Files that are read."""
        return self.image, self.mask, self.valid, self.dark, self.flat, self.defects

    @property
    def named(self) -> dict[str, str]:
        """Files by the name of the argument that they are given as, for a recipe."""
        files = {name: getattr(self, name) for name in ("image", "dark", "flat", "defects")}
        return {name: file for name, file in files.items() if file is not None}

    def open(self) -> OpenImage:
        """Open the files."""
        image, axes = _open(self.image, self.axes, "the image")
        detector = _detector_of(self.dark, self.flat, self.defects)
        return OpenImage(image, axes, values_of(self.mask), _valid(self.valid), detector)


@dataclass(frozen=True)
class PairFiles:
    """Files of noisy and clean, the axes of noisy, and files of what their pixels are used for."""

    noisy: str
    clean: str | None = None
    axes: str | None = None
    channels: tuple[str, ...] | None = None
    valid: str | None = None
    mask: str | None = None
    regions: str | None = None
    pair: tuple[tuple[str, str], ...] = ()
    noise_model: str | None = None
    dark: str | None = None
    flat: str | None = None
    defects: str | None = None

    @property
    def inputs(self) -> tuple[str | None, ...]:
        """Files that are read."""
        others = (name for names in self.pair for name in names)
        return (
            self.noisy,
            self.clean,
            self.valid,
            self.mask,
            self.regions,
            self.noise_model,
            self.dark,
            self.flat,
            self.defects,
            *others,
        )

    @property
    def named(self) -> dict[str, str]:
        """Files by the name of the argument that they are given as, for a recipe."""
        names = ("noisy", "clean", "valid", "regions", "dark", "flat", "defects")
        files = {name: getattr(self, name) for name in names}
        return {name: file for name, file in files.items() if file is not None}

    @property
    def groups(self) -> Any:
        """Groups of pixels, from the mask."""
        return values_of(self.mask)

    @property
    def painted(self) -> Any:
        """Parts of the image painted for training, calibration and report."""
        return values_of(self.regions)

    def open(self, denoiser: Denoiser | None = None) -> Pair:
        """Open the pair, and say where it differs from the images that a denoiser was trained on."""
        return replace(self._opened(denoiser), detector=_detector_of(self.dark, self.flat, self.defects))

    def _opened(self, denoiser: Denoiser | None) -> Pair:
        """Open the pair without the frames of its detector."""
        from napari_btn.cli.datasets import described_pair
        from napari_btn.core.data.pairs import Pair
        from napari_btn.io.datasets import is_description
        from napari_btn.io.images import read_image

        if is_description(self.noisy):
            made = described_pair(self.noisy, self.axes, self.channels)
            return made if self.valid is None else replace(made, valid=_valid(self.valid))
        if self.pair and self.clean is not None:
            pairs = ((self.noisy, self.clean), *self.pair)
            return replace(
                described_pair(self.noisy, self.axes, self.channels, pairs), valid=_valid(self.valid)
            )
        first, axes = _open(self.noisy, self.axes, "noisy")
        if self.clean is None:
            return self._alone(first, axes, denoiser)
        if os.path.realpath(self.noisy) == os.path.realpath(self.clean):
            raise ValueError(
                f"Noisy and clean are both {self.noisy}; clean is the slow acquisition of the same scene."
            )
        second = read_image(self.clean)
        _compare(first, second, self.channels)
        channels = self.channels
        if denoiser is not None:
            say_differences(first, denoiser)
            channels = denoiser.channel_names
        target = second.data
        if not self.axes and second.axes and not second.axes_guessed:
            target = _in_order(target, second.axes.upper(), axes.upper())
        return Pair(
            noisy=first.data,
            clean=target,
            axes=axes,
            channel_names=channels or first.channel_names or second.channel_names,
            pixel_size=first.pixel_size or second.pixel_size,
            unit=(first.unit if first.pixel_size else second.unit) or "px",
            valid=_valid(self.valid),
            name=first.name,
        )

    def _alone(self, image: Image, axes: str, denoiser: Denoiser | None) -> Pair:
        """Return a pair of one image: noisy, or clean if a noise model makes the noisy one."""
        from napari_btn.core.data.pairs import Pair

        if denoiser is not None:
            say_differences(image, denoiser)
        model = None
        if self.noise_model is not None:
            from napari_btn import NoiseModel

            model = NoiseModel.load(self.noise_model)
        return Pair(
            noisy=image.data if model is None else None,
            clean=None if model is None else image.data,
            axes=axes,
            channel_names=(denoiser.channel_names if denoiser else self.channels) or image.channel_names,
            pixel_size=image.pixel_size,
            unit=image.unit or "px",
            valid=_valid(self.valid),
            name=image.name,
            noise_model=model,
        )


def say_differences(image: Image, denoiser: Denoiser, *, sized: bool = True) -> None:
    """Say where an image has other channels, and if ``sized`` other pixels, than the images of the training."""
    from napari_btn.cli.terminal import say_notes
    from napari_btn.workflow.inputs import size_note

    names = image.channel_names
    if names and denoiser.channel_names and tuple(names) != tuple(denoiser.channel_names):
        trained = ", ".join(denoiser.channel_names)
        say(f"Warning: the image's channels are {', '.join(names)}; the bundle was trained on {trained}.")
    if sized:
        axes = image.axes or denoiser.axes
        note = size_note(denoiser.model, axes, image.pixel_size, image.unit)
        say_notes(() if note is None else (note,))


def save_bundle(denoiser: Denoiser, output: Path) -> None:
    """Save the bundle; if that fails, save it elsewhere, so that the training isn't lost."""
    try:
        denoiser.save(output)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="napari-btn-")) / output.name
        denoiser.save(elsewhere)
        raise ValueError(
            f"{output} can't be written ({sentence(error)}) The model is kept as {elsewhere}."
        ) from None


def _open(path: str, axes: str | None, role: str) -> tuple[Image, str]:
    """Return an image and its axes: those given, or else those of the file; say if they are guessed."""
    from napari_btn.io.images import read_image

    image = read_image(path)
    if axes:
        return image, axes
    if image.axes is None:
        shape = tuple(image.data.shape)
        raise ValueError(f"{path} doesn't say its axes (shape {shape}); give --axes, such as --axes CYX.")
    if image.axes_guessed:
        shape = tuple(image.data.shape)
        say(f"Note: axes of {role} guessed as {image.axes} {shape}; if that is wrong, name them with --axes.")
    return image, image.axes


def values_of(path: str | None) -> Any:
    """Return the pixels of an image file; None for none."""
    from napari_btn.io.images import read_image

    return None if path is None else read_image(path).data


def _detector_of(dark: str | None, flat: str | None, defects: str | None) -> Detector | None:
    """Return the detector of files; None for none."""
    if dark is flat is defects is None:
        return None
    import numpy as np

    from napari_btn.core.data.detector import Detector

    frames = [None if path is None else np.asarray(values_of(path)) for path in (dark, flat, defects)]
    return Detector(frames[0], frames[1], None if frames[2] is None else frames[2] != 0)


def _valid(path: str | None) -> Any:
    """Return the pixels that count, of an image file; "finite" is returned as it is."""
    return path if path == "finite" else values_of(path)


def _compare(noisy: Image, clean: Image, channels: tuple[str, ...] | None) -> None:
    """Raise if noisy and clean have other channel names; say if they have other pixel sizes."""
    from napari_btn.core.data.image import shown_unit

    one, other = noisy.channel_names, clean.channel_names
    if one and other and tuple(one) != tuple(other) and not channels:
        raise ValueError(
            f"Noisy has the channels {', '.join(one)}, clean has {', '.join(other)}; they must be the same in the same "
            "order. Reorder one, or name them with --channels if they are."
        )
    if noisy.pixel_size and clean.pixel_size and noisy.unit == clean.unit:
        ratio = [a / b for a, b in zip(noisy.pixel_size, clean.pixel_size, strict=False)]
        if any(abs(r - 1) > 0.01 for r in ratio):
            say(
                f"Warning: noisy has pixels of {noisy.pixel_size} {shown_unit(noisy.unit or 'px')}, clean of "
                f"{clean.pixel_size}. Is it another field, or was one resampled?"
            )


def _in_order(data: Any, axes: str, wanted: str) -> Any:
    """Return clean with its axes in the order of noisy."""
    order = [axes.index(a) for a in wanted if a in axes]
    if order == list(range(len(axes))) or len(order) != len(axes):
        return data
    import numpy as np

    return np.asarray(data).transpose(order)
