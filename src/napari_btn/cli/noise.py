"""The commands noise and repair: findings about the noise of images, and images without broken pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_btn.cli.files import ImageFile, OpenImage, Target, ready, values_of
from napari_btn.cli.options import (
    axes_option,
    channels_option,
    force_option,
    gathered,
    json_option,
    to_file,
    valid_option,
)
from napari_btn.cli.terminal import drain

if TYPE_CHECKING:
    from napari_btn.core.data.noise_findings import NoiseFindings
    from napari_btn.io.noise import NoiseModel

__all__ = ["noise", "repair"]


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@axes_option
@channels_option
@click.option("--offset", type=float, help="Value without light, from a dark frame; default: fitted.")
@click.option("--together", is_flag=True, help="The images are repeats of one field.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file for the noise model.")
@valid_option
@json_option
@force_option
def noise(
    images: tuple[str, ...],
    axes: str | None,
    channels: tuple[str, ...] | None,
    offset: float | None,
    together: bool,
    output: Path | None,
    valid: str | None,
    as_json: bool,
    force: bool,
) -> None:
    """Print gain, offset and correlation of the noise of IMAGE, and the trainings that it permits."""
    if output is not None:
        if len(images) > 1 and not together:
            raise ValueError(
                "One noise model is written for one image. Give one image, or --together for repeats."
            )
        ready(output, force, *images, valid)
    opened = [ImageFile(path, axes, valid=valid).open() for path in images]
    if together and len(opened) > 1:
        opened, images = [_together(opened, images)], (", ".join(images),)
    found = [_findings(one, channels, offset) for one in opened]
    if output is not None:
        found[0].model.save(output, overwrite=force)
    if as_json:
        values = [{"image": name, **one.to_dict()} for name, one in zip(images, found, strict=True)]
        click.echo(json.dumps(values[0] if len(values) == 1 else values))
        return
    click.echo("\n\n".join(_text(name, one) for name, one in zip(images, found, strict=True)))


def _together(opened: list[OpenImage], names: tuple[str, ...]) -> OpenImage:
    """Return images of one field as its repeats."""
    from dataclasses import replace

    import numpy as np

    shapes = {tuple(one.image.data.shape) for one in opened}
    axes = {one.axes.upper() for one in opened}
    if len(shapes) > 1 or len(axes) > 1:
        came = ", ".join(
            f"{n} has {one.axes} {tuple(one.image.data.shape)}" for n, one in zip(names, opened, strict=True)
        )
        raise ValueError(f"{came}; repeats of one field have one shape. Crop them, or leave out --together.")
    if "T" in (letters := axes.pop()):
        raise ValueError(f"The images have axes {letters}; repeats are single frames. Give one series alone.")
    data = np.stack([np.asarray(one.image.data) for one in opened])
    return replace(opened[0], image=replace(opened[0].image, data=data), axes="T" + letters)


def _findings(
    opened: OpenImage, channels: tuple[str, ...] | None, offset: float | None
) -> NoiseFindings[NoiseModel]:
    """Measure the noise of an image."""
    import numpy as np

    from napari_btn.core.data.noise_findings import find_noise_steps
    from napari_btn.io.noise import NoiseModel

    valid = None if opened.valid is None or isinstance(opened.valid, str) else np.asarray(opened.valid) != 0
    names = channels or opened.image.channel_names or ()
    return drain(
        find_noise_steps(
            opened.image.data,
            opened.axes,
            offset=offset,
            valid=valid,
            channel_names=names,
            kind=NoiseModel,
        )
    )


def _text(name: str, found: NoiseFindings[NoiseModel]) -> str:
    """Return the findings of an image as lines."""
    model = found.model
    sources = {"frames": "consecutive frames", "repeats": "repeats", "image": "single images"}
    lines = [f"{name}: {found.sentence}.", f"Measured on {sources[model.source]}."]
    wide = max(7, *(len(n) for n in found.channel_names)) + 2
    lines.append(
        f"{'channel':<{wide}}{'gain':>16}{'offset':>9}{'read-out':>10}{'Fano factor':>16}  correlated over"
    )
    for c, channel in enumerate(found.channel_names):
        gain = f"{model.gain[c]:.3g} ± {model.gain_se[c]:.1g}"
        fano = f"{model.fano[c]:.3g} ± {model.fano_se[c]:.1g}"
        lengths = zip(found.frames.space_axes, model.correlation_px[c], strict=True)
        far = ", ".join(f"{n} px along {a.lower()}" for a, n in lengths if n) or "0 px"
        lines.append(
            f"{channel:<{wide}}{gain:>16}{model.offset[c]:>9.4g}{model.read_sd[c]:>10.3g}{fano:>16}  {far}"
        )
    lines.append(f"Defects: {found.defects}.")
    lines += [note for note in found.notes if "pixels in the part" not in note]
    names = {"noise2noise": "Noise2Noise", "thinning": "Thinning", "noise2void": "Noise2Void"}
    lines += [
        f"{names[k]}: {'allowed' if v.allowed else 'not allowed'}. {v.reason}"
        for k, v in found.permits.items()
    ]
    return "\n".join(lines)


@click.command()
@click.argument("image")
@to_file
@axes_option
@click.option("--dark", help="Frame without light, which is subtracted first.")
@click.option("--flat", help="Frame of even light, by which the image is divided.")
@click.option("--defects", help="Image that is not zero where a pixel is broken; default: they are found.")
@click.option(
    "--valid-to",
    type=click.Path(path_type=Path),
    help="File for a mask of the pixels that are not broken, to use with --valid.",
)
@force_option
@gathered(source=ImageFile, target=Target)
def repair(source: ImageFile, target: Target, valid_to: Path | None) -> None:
    """Write IMAGE with dark and flat frames divided out, and broken pixels filled from their neighbours."""
    import numpy as np

    from napari_btn.core.data.defects import repair as repaired_of
    from napari_btn.io.images import write_images

    given = source.inputs
    target.ready_image(*given)
    if valid_to is not None:
        ready(valid_to, target.force, *given, target.output)
    opened = source.open()
    mask = values_of(source.defects)
    made = repaired_of(
        np.asarray(opened.image.data),
        opened.axes,
        dark=values_of(source.dark),
        flat=values_of(source.flat),
        defects=None if mask is None else np.asarray(mask) != 0,
    )
    space = "".join(a for a in opened.axes.upper() if a in "ZYX")

    def write(name: str, values: Any, path: Path, axes: str) -> None:
        """Write one image."""
        write_images(
            {name: values},
            path,
            axes=axes,
            pixel_size=opened.pixel_size,
            unit=opened.image.unit or "px",
            overwrite=target.force,
        )

    write("repaired", made.image, target.output, opened.axes.upper())
    if valid_to is not None:
        write("valid", made.valid.astype(np.uint8), valid_to, space)
    click.echo(f"{target.output}: {made.defects}")
