"""Files that commands open and write, refused in one sentence before any work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_btn.cli.terminal import say, sentence

if TYPE_CHECKING:
    from napari_btn.core.data.image import Image
    from napari_btn.core.data.pairs import Pair
    from napari_btn.denoiser import Denoiser

__all__ = [
    "groups_of",
    "open_image",
    "open_pair",
    "ready",
    "ready_image",
    "save_bundle",
    "say_differences",
    "valid_of",
]

OUTPUTS = (".tif", ".tiff", ".zarr", ".npz")


def ready(path: Path, force: bool, *inputs: str | Path | None) -> Path:
    """The path, if a result may be written there, which is none of the inputs."""
    for given in inputs:
        if given is not None and os.path.realpath(_file_of(str(given))) == os.path.realpath(path):
            raise ValueError(f"{path} is what the command reads; give the result another name.")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; give --force to replace it, or another name.")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} of {path.name} doesn't exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"The folder {folder} can't be written to; choose another for {path.name}.")
    return path


def _file_of(name: str) -> str:
    """File of a name that may go on with a key, as pair.npz:noisy."""
    if os.path.exists(name) or ":" not in name:  # noqa: PTH110  (a name, which needn't be a path)
        return name
    return name.rpartition(":")[0]


def ready_image(output: Path, force: bool, *inputs: str | Path | None) -> Path:
    """The path, if an image may be written there, which is none of the inputs."""
    name = output.name.lower()
    if not name.endswith(OUTPUTS) or name in OUTPUTS:
        raise ValueError(
            f"{output.name} names no format that can be written; end it with .ome.tif, .ome.zarr or .npz."
        )
    return ready(output, force, *inputs)


def open_image(path: str, axes: str | None, role: str) -> tuple[Image, str]:
    """Image and its axes: those given, else those of the file, a guess announced."""
    from napari_btn.io.images import read_image

    image = read_image(path)
    if axes:
        return image, axes
    if image.axes is None:
        shape = tuple(image.data.shape)
        raise ValueError(f"{path} doesn't say its axes (shape {shape}); give --axes, such as --axes CYX.")
    if image.axes_guessed:
        say(f"Note: axes of {role} guessed as {image.axes} {tuple(image.data.shape)}; --axes says otherwise.")
    return image, image.axes


def open_pair(
    noisy: str,
    clean: str,
    axes: str | None,
    channels: tuple[str, ...] | None,
    valid: str | None = None,
    denoiser: Denoiser | None = None,
) -> Pair:
    """Pair from files; where it differs from what a denoiser was trained on, that is said."""
    from napari_btn.core.data.pairs import Pair
    from napari_btn.io.images import read_image

    first, noisy_axes = open_image(noisy, axes, "noisy")
    if os.path.realpath(noisy) == os.path.realpath(clean):
        raise ValueError(
            f"Noisy and clean are both {noisy}; clean is the slow acquisition of the same scene."
        )
    second = read_image(clean)
    one, other = first.channel_names, second.channel_names
    if one and other and tuple(one) != tuple(other) and not channels:
        raise ValueError(
            f"Noisy has the channels {', '.join(one)}, clean has {', '.join(other)}; they must be the same in the same "
            "order. Reorder one, or name them with --channels if they are."
        )
    if first.pixel_size and second.pixel_size and first.unit == second.unit:
        ratio = [a / b for a, b in zip(first.pixel_size, second.pixel_size, strict=False)]
        if any(abs(r - 1) > 0.01 for r in ratio):
            say(
                f"Warning: noisy has pixels of {first.pixel_size} {first.unit}, clean of {second.pixel_size}: another "
                "field, or one was resampled?"
            )
    if denoiser is not None:
        say_differences(first, denoiser)
        channels = denoiser.channel_names
    target = second.data
    if not axes and second.axes and not second.axes_guessed:
        target = _in_order(target, second.axes.upper(), noisy_axes.upper())
    return Pair(
        noisy=first.data,
        clean=target,
        axes=noisy_axes,
        channel_names=channels or first.channel_names or second.channel_names,
        pixel_size=first.pixel_size or second.pixel_size,
        unit=(first.unit if first.pixel_size else second.unit) or "px",
        valid=valid_of(valid),
        name=first.name,
    )


def say_differences(image: Image, denoiser: Denoiser) -> None:
    """Say where an image has other channels or pixels than those that trained."""
    names, size = image.channel_names, image.pixel_size
    if names and denoiser.channel_names and tuple(names) != tuple(denoiser.channel_names):
        trained = ", ".join(denoiser.channel_names)
        say(f"Warning: the image's channels are {', '.join(names)}; the bundle was trained on {trained}.")
    known = denoiser.pixel_size
    if size and known and any(abs(a / b - 1) > 0.01 for a, b in zip(size, known, strict=False)):
        say(f"Warning: the image's pixel size is {size} {image.unit}; trained on {known} {denoiser.unit}.")


def _in_order(data: Any, axes: str, wanted: str) -> Any:
    """Clean with its axes in the order of noisy."""
    order = [axes.index(a) for a in wanted if a in axes]
    if order == list(range(len(axes))) or len(order) != len(axes):
        return data
    import numpy as np

    return np.asarray(data).transpose(order)


def groups_of(mask: str | None) -> Any:
    """Groups of a file."""
    from napari_btn.io.images import read_image

    return None if mask is None else read_image(mask).data


def valid_of(valid: str | None) -> Any:
    """What --valid says: a mask from a file, "finite", or nothing."""
    from napari_btn.io.images import read_image

    return valid if valid in (None, "finite") else read_image(valid).data


def save_bundle(denoiser: Denoiser, output: Path) -> None:
    """Save the bundle; where that fails, save it elsewhere rather than lose the training."""
    try:
        denoiser.save(output)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="napari-btn-")) / output.name
        denoiser.save(elsewhere)
        raise ValueError(
            f"{output} can't be written ({sentence(error)}) The model is kept as {elsewhere}."
        ) from None
