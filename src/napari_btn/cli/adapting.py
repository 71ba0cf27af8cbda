"""The command that adapts a bundle to one noisy image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from napari_btn.cli.files import ImageFile, Model, Target, save_bundle, say_differences
from napari_btn.cli.options import (
    axes_option,
    bundle_argument,
    device_option,
    force_option,
    gathered,
    to_file,
)
from napari_btn.cli.terminal import say_notes
from napari_btn.core.settings import AdaptLoss, AdaptSettings

if TYPE_CHECKING:
    from napari_btn.io.noise import NoiseModel

__all__ = ["adapt"]


@click.command()
@bundle_argument
@click.argument("image")
@to_file
@axes_option
@click.option(
    "--loss",
    type=click.Choice(get_args(AdaptLoss)),
    default="blind_spot",
    show_default=True,
    help="What the networks are tuned by: blind_spot needs noise that is independent from pixel to pixel; "
    "sure and resample need --noise.",
)
@click.option(
    "--noise", type=click.Path(path_type=Path), help="Noise model of IMAGE, for the losses sure and resample."
)
@click.option("--steps", type=click.IntRange(1), help="Training steps of each member; default: 100.")
@device_option
@force_option
@gathered(model=Model, source=ImageFile, target=Target)
def adapt(
    model: Model, source: ImageFile, target: Target, loss: AdaptLoss, noise: Path | None, steps: int | None
) -> None:
    """Adapt MODEL.btn to IMAGE without a clean image; the new bundle is uncalibrated.

    One gain per channel and layer is tuned, all else stays. Calibrate the new bundle on a pair before relying on its
    intervals.
    """
    target.ready(model.bundle, *source.inputs)
    settings = AdaptSettings(loss)
    settings = settings if steps is None else replace(settings, steps=steps)
    noise_model = None if noise is None else _noise_model(noise)
    denoiser = model.load()
    opened = source.open()
    say_differences(opened.image, denoiser)
    adapted = denoiser.adapt(opened.image.data, opened.axes, settings=settings, noise_model=noise_model)
    save_bundle(adapted, target.output)
    say_notes(adapted.notes)
    click.echo(str(target.output))


def _noise_model(path: Path) -> NoiseModel:
    """Return the noise model of a file."""
    from napari_btn.io.noise import NoiseModel

    return NoiseModel.load(path)
