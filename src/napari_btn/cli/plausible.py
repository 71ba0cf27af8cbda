"""The command that trains a variational model on one noisy image and writes whole plausible images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from napari_btn.cli.files import ImageFile, OpenImage, Target, ready
from napari_btn.cli.options import (
    axes_option,
    channels_option,
    device_option,
    force_option,
    gathered,
    to_file,
)
from napari_btn.cli.terminal import drain, say, say_notes
from napari_btn.core.settings import VariationalSettings

if TYPE_CHECKING:
    from napari_btn.variational import Variational

__all__ = ["plausible"]


@dataclass(frozen=True)
class _Source:
    """The variational model: one that exists, or how to train one."""

    model: Path | None
    keep: Path | None
    noise: Path | None
    steps: int | None
    channels: tuple[str, ...] | None
    seed: int
    device: str

    def check(self) -> None:
        """Raise if a model is named together with what only a training takes."""
        if self.model is not None and (self.keep or self.noise or self.steps or self.channels):
            raise ValueError(
                "--keep, --noise, --steps and --channels go with a training; leave them out, or leave out --model."
            )

    def made(self, opened: OpenImage) -> Variational:
        """Return the model."""
        from napari_btn.io.noise import NoiseModel
        from napari_btn.variational import Variational

        if self.model is not None:
            return Variational.load(self.model)
        settings = VariationalSettings()
        settings = settings if self.steps is None else replace(settings, steps=self.steps)
        names = self.channels or opened.image.channel_names
        say(Variational.estimate(opened.image.data.shape, opened.axes, settings).note)
        made = drain(
            Variational.fit_steps(
                opened.image.data,
                opened.axes,
                noise_model=None if self.noise is None else NoiseModel.load(self.noise),
                settings=settings,
                channel_names=names,
                seed=self.seed,
                device=self.device,
            )
        )
        if self.keep is not None:
            made.save(self.keep)
        return made


@click.command()
@click.argument("image")
@to_file
@axes_option
@channels_option
@click.option(
    "-n", "--draws", type=click.IntRange(1), default=20, show_default=True, help="Number of images to draw."
)
@click.option("--noise", type=click.Path(path_type=Path), help="Noise model; default: measured on IMAGE.")
@click.option("--steps", type=click.IntRange(1), help="Training steps; default: 2000.")
@click.option("--keep", type=click.Path(path_type=Path), help="File for the trained model.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A model that was saved with --keep, to draw from without training.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of training and draws."
)
@device_option
@force_option
@gathered(source=ImageFile, target=Target, how=_Source)
def plausible(source: ImageFile, target: Target, how: _Source, draws: int) -> None:
    """Write whole plausible images of IMAGE, and their mean, by a variational model of noisy images alone.

    Nothing is calibrated: with a clean image, train members and take predict --draws instead. The noise must be
    independent from pixel to pixel.
    """
    from napari_btn.io.images import write_images

    how.check()
    target.ready_image(*source.inputs, how.model, how.noise)
    if how.keep is not None:
        ready(how.keep, target.force, *source.inputs, target.output)
    opened = source.open()
    made = how.made(opened)
    say_notes(made.notes)
    found = drain(
        made.draws_steps(opened.image.data, draws, axes=opened.axes, seed=how.seed, device=how.device)
    )
    maps = {"mean": found.mean(0, dtype="float32"), **{f"draw_{k + 1}": one for k, one in enumerate(found)}}
    write_images(
        maps,
        target.output,
        axes=opened.axes,
        channel_names=made.channel_names if "C" in opened.axes.upper() else None,
        pixel_size=opened.pixel_size,
        unit=opened.image.unit,
        provenance={**made.provenance, "covers": made.covers, "draws": draws, "draws_seed": how.seed},
        overwrite=target.force,
    )
    click.echo(f"{target.output}: {draws} plausible images; {made.covers}")
