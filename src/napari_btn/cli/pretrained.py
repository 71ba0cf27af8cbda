"""Commands of pretrained networks: a first look without training, and pretraining of one's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from napari_btn.cli.files import ImageFile, Target, ready
from napari_btn.cli.options import (
    axes_option,
    device_option,
    force_option,
    gathered,
    members_text,
    to_file,
)
from napari_btn.cli.terminal import Interrupted, drain, say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.networks.prior import Prior

__all__ = ["now", "pretrain"]


@click.command()
@click.argument("image")
@to_file
@axes_option
@device_option
@force_option
@gathered(source=ImageFile, target=Target)
def now(source: ImageFile, target: Target, device: str) -> None:
    """Write the median of pretrained networks for IMAGE: no clean image, no training, no interval promised.

    OUT ends with .ome.tif, .ome.zarr or .npz, and holds one map, "median".
    """
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.io.images import write_images
    from napari_btn.workflow.now import first_look_steps

    target.ready_image(*source.inputs)
    opened = source.open()
    image = replace(opened.image, axes=opened.axes, pixel_size=opened.pixel_size)
    look = drain(first_look_steps(image, compute_for(device, 5)))
    write_images(
        {"median": look.median},
        target.output,
        axes=look.axes,
        channel_names=look.channel_names or None,
        pixel_size=look.pixel_size,
        unit=look.unit,
        provenance=look.provenance,
        overwrite=target.force,
    )
    say(f"Note: {look.caption}")
    click.echo(f"{target.output}: median of {', '.join(look.provenance['start']['from'])}")


@dataclass(frozen=True)
class _Pretraining:
    """Networks to pretrain, and the noise that they learn."""

    members: int
    steps: int
    seed: int
    noise: str
    axes: str | None = None

    def images(self, paths: tuple[str, ...]) -> list[NDArray[Any]]:
        """Return clean images with their channels first, scene by scene."""
        made = []
        for path in paths:
            opened = ImageFile(path, self.axes).open()
            view = replace(opened.image, axes=opened.axes).view
            made += [view.read(scene) for scene in range(view.n_scenes)]
        return made


@click.command()
@click.argument("clean", nargs=-1, required=True)
@to_file
@axes_option
@click.option("--members", type=click.IntRange(1), default=5, show_default=True, help="Networks to pretrain.")
@click.option(
    "--steps", type=click.IntRange(10), default=1500, show_default=True, help="Training steps per member."
)
@click.option(
    "--noise",
    default="mixed",
    show_default=True,
    help="white, correlated or mixed: noise of all levels; or a file of `napari-btn noise`, in the units of CLEAN.",
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Same seed, same networks on the same kind of CPU."
)
@click.option("--resume", is_flag=True, help="Continue from the members that an interrupted run kept.")
@force_option
@gathered(target=Target, chosen=_Pretraining)
def pretrain(clean: tuple[str, ...], target: Target, chosen: _Pretraining, resume: bool) -> None:
    """Pretrain networks on CLEAN images with simulated noise, for `napari-btn train --start PRIOR.btn`.

    Ctrl-C keeps the finished members in PRIOR.btn.partial; the same call with --resume goes on.
    """
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.core.settings import TrainSettings
    from napari_btn.io.noise import NoiseModel
    from napari_btn.io.priors import load_prior, save_prior
    from napari_btn.workflow.pretrain import corpus_of, pretrain_steps, prior_of

    target.ready(*clean)
    known = chosen.noise in ("white", "correlated", "mixed")
    noise = None if known else NoiseModel.load(chosen.noise)
    corpus = corpus_of(chosen.images(clean), chosen.noise if known else "mixed", chosen.seed, noise)
    partial = target.output.with_name(target.output.name + ".partial")
    earlier: Prior | None = None
    if resume:
        if not partial.exists():
            say(f"Note: there is no {partial.name} to resume; pretraining starts with the first member.")
        else:
            earlier = load_prior(partial)
    else:
        ready(partial, target.force, *clean)
    how: dict[str, Any] = {"name": target.output.stem, "train": TrainSettings(steps=chosen.steps)}
    compute = compute_for("cpu", chosen.members)
    try:
        prior = drain(pretrain_steps(corpus, compute, members=chosen.members, resume=earlier, **how))
    except Interrupted as error:
        if not error.checkpoint:
            raise
        save_prior(prior_of(corpus, error.checkpoint, **how), partial)
        kept = (
            f"Interrupted; {members_text(len(error.checkpoint))} kept in {partial}. Give --resume to go on."
        )
        raise Interrupted(kept) from None
    save_prior(prior, target.output)
    partial.unlink(missing_ok=True)
    click.echo(
        f"{target.output}: {members_text(len(prior.members))}, channels: {corpus.channels}, in {corpus.ndim}D"
    )
