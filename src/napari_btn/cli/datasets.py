"""Commands and values for many images: data sets by description, several pairs, batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from napari_btn.cli.files import ready
from napari_btn.cli.options import axes_option, channels_option, force_option
from napari_btn.cli.terminal import drain, say

if TYPE_CHECKING:
    from napari_btn.cli.files import Model
    from napari_btn.core.data.pairs import Pair

__all__ = ["Batch", "dataset", "described_pair"]


def described_pair(
    path: str, axes: str | None, channels: tuple[str, ...] | None, others: tuple[tuple[str, str], ...] = ()
) -> Pair:
    """Return the pair of a description, or of several pairs of files; say which belong together."""
    from napari_btn.io.datasets import read_dataset
    from napari_btn.io.proposals import of_files

    if others:
        made = of_files([noisy for noisy, _ in others], [clean for _, clean in others], name=Path(path).stem)
    else:
        made = read_dataset(path)
    made = replace(made, axes=axes or made.axes, channels=channels or made.channels)
    say(made.table())
    return made.pair()


@click.command()
@click.argument("source", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File for the description: .yaml or .json."
)
@axes_option
@channels_option
@click.option(
    "--pixel-size",
    type=float,
    multiple=True,
    help="Size of a pixel, once for each space axis: --pixel-size 0.5 --pixel-size 0.5.",
)
@click.option("--unit", help="Unit of the pixel size, such as um.")
@force_option
def dataset(
    source: Path,
    output: Path | None,
    axes: str | None,
    channels: tuple[str, ...] | None,
    pixel_size: tuple[float, ...],
    unit: str | None,
    force: bool,
) -> None:
    """Show which images of FOLDER (or of a file with several arrays) are noisy and clean, and describe them.

    Look at what was matched before training: `napari-btn train soil.yaml -o soil.btn`.
    """
    from napari_btn.io.datasets import write_dataset
    from napari_btn.io.proposals import propose

    made = propose(source)
    made = replace(
        made,
        axes=None if axes is None else axes.upper(),
        channels=channels,
        pixel_size=pixel_size or None,
        unit=unit,
    )
    click.echo(made.table())
    noisy, clean = made.matched()
    files = f", as {made.files}" if made.files else ""
    say(
        f"{len(noisy)} noisy and {len(clean)} clean {'image' if len(clean) == 1 else 'images'}{files}. "
        "Nothing is trained yet."
    )
    if output is None:
        return
    ready(output, force)
    write_dataset(made, output, overwrite=force)
    click.echo(f"{output}: check it, then train with it.")


@dataclass(frozen=True)
class Batch:
    """Images of a call of `predict`, and the folder for their maps."""

    images: tuple[str, ...]
    output: Path
    axes: str | None
    force: bool

    @property
    def many(self) -> bool:
        """True if maps of several files go to a folder."""
        from napari_btn.io.datasets import is_description
        from napari_btn.io.images import SUFFIXES

        first = Path(self.images[0])
        return (
            len(self.images) > 1
            or (self.output.is_dir() and not self.output.suffix)
            or (first.is_dir() and first.suffix.lower() not in SUFFIXES)
            or is_description(first)
        )

    def run(self, model: Model) -> None:
        """Write the maps of all files, and a table; raise if one failed."""
        from napari_btn.core.compute.pool import compute_for
        from napari_btn.io.images import split_suffix
        from napari_btn.workflow.batch import TABLE, batch_files, batch_steps

        if split_suffix(self.output.name)[1]:
            raise ValueError(
                f"Maps of several images can't go to one file, {self.output.name}; give a folder: -o FOLDER."
            )
        if not self.output.parent.is_dir():
            raise ValueError(f"The folder {self.output.parent} doesn't exist; create it first.")
        files = batch_files(self.images, self.output)
        listed = self.output / TABLE
        if listed.exists() and not self.force:
            raise ValueError(f"{listed} exists; give --force to replace it, or another folder.")
        denoiser = model.load()
        compute = compute_for(denoiser.device, denoiser.members)
        step = batch_steps(denoiser.model, files, compute, axes=self.axes, table=listed, overwrite=self.force)
        rows = drain(step)
        for row in rows:
            came = row.error or row.file.output.name
            covered = (
                ""
                if row.coverage is None
                else f", coverage {', '.join(f'{100 * v:.1f} %' for v in row.coverage)}"
            )
            click.echo(f"{row.file.image}: {came}{covered}")
            for note in row.notes:
                say(f"  {note}")
        failed = sum(bool(row.error) for row in rows)
        click.echo(f"{listed}: {len(rows) - failed} of {len(rows)} files were denoised")
        if failed:
            raise ValueError(f"{failed} of {len(rows)} files have no maps; {listed.name} says why.")
