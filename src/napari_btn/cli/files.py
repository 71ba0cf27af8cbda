"""Files that commands open and write, refused in one sentence before any work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_btn.terminal import say, sentence

if TYPE_CHECKING:
    from napari_btn.core.pairs import Pair
    from napari_btn.denoiser import Denoiser
    from napari_btn.io.images import Image

__all__ = [
    "groups_of",
    "open_image",
    "open_pair",
    "ready",
    "ready_image",
    "save_bundle",
]

OUTPUTS = (".tif", ".tiff", ".zarr", ".npz")


def ready(path: Path, force: bool) -> Path:
    """The path, if a result may be written there."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists; give --force to replace it, or another name.")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} of {path.name} doesn't exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"The folder {folder} can't be written to; choose another for {path.name}.")
    return path


def ready_image(output: Path, force: bool) -> Path:
    """The path, if an image may be written there."""
    if not output.name.lower().endswith(OUTPUTS):
        raise ValueError(
            f"{output.name} names no format that can be written; end it with .ome.tif, .ome.zarr or .npz."
        )
    return ready(output, force)


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
    noisy: str, clean: str, axes: str | None, channels: tuple[str, ...] | None, valid: str | None = None
) -> Pair:
    """Pair from files."""
    from napari_btn.core.pairs import Pair
    from napari_btn.io.images import read_image

    first, noisy_axes = open_image(noisy, axes, "noisy")
    if os.path.realpath(noisy) == os.path.realpath(clean):
        raise ValueError(
            f"Noisy and clean are both {noisy}; clean is the slow acquisition of the same scene."
        )
    second = read_image(clean)
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
        valid=valid if valid in (None, "finite") else read_image(valid).data,
        name=first.name,
    )


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
