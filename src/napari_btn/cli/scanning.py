"""The command that compares kinds of networks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from napari_btn.cli.files import PairFiles, ready
from napari_btn.cli.options import (
    axes_option,
    channels_option,
    device_option,
    force_option,
    gathered,
    json_option,
    preset_option,
    seed_option,
    steps_option,
)
from napari_btn.cli.terminal import drain
from napari_btn.cli.training import train_settings
from napari_btn.core.settings import EnsembleSettings, listed, whole_numbers

if TYPE_CHECKING:
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.progress import Step
    from napari_btn.workflow.scan import Scan

__all__ = ["scan"]


def _numbers(_ctx: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """Return the whole numbers of ``5,10,20``."""
    return whole_numbers(option.opts[0], value)


def _names(_ctx: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    """Return the names of ``sms,unet``."""
    return listed(value)


@dataclass(frozen=True)
class _Kinds:
    """Kinds of networks to compare, and how they are trained."""

    families: tuple[str, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    dilations: tuple[int, ...]
    preset: str
    steps: int | None
    members: int
    seed: int
    device: str

    def scan_steps(self, pair: Pair) -> Step[Scan]:
        """Return the step that trains and compares them."""
        from napari_btn.core.compute.pool import compute_for
        from napari_btn.workflow.scan import grid_of, scan_steps

        train = train_settings(self.preset, self.steps)
        settings = EnsembleSettings(preset=self.preset, members=self.members, seed=self.seed, train=train)
        grid = grid_of(self.depths, self.widths, self.dilations, self.families)
        return scan_steps(pair, grid, settings, compute_for(self.device, self.members))


@click.command()
@click.argument("noisy")
@click.argument("clean", required=False)
@axes_option
@channels_option
@click.option(
    "--families",
    default="sms",
    show_default=True,
    callback=_names,
    help="Kinds of networks to compare: sms, unet, dncnn, cdae.",
)
@click.option(
    "--depths",
    default="5,10,20",
    show_default=True,
    callback=_numbers,
    help="Depths to compare: convolutions (nodes) per network.",
)
@click.option(
    "--widths",
    default="4",
    show_default=True,
    callback=_numbers,
    help="Feature channels that each node adds, to compare.",
)
@click.option(
    "--dilations",
    default="4,8",
    show_default=True,
    callback=_numbers,
    help="Largest dilations to compare, in pixels.",
)
@preset_option("quick")
@steps_option
@click.option(
    "--members", type=click.IntRange(1), default=1, show_default=True, help="Number of networks of each kind."
)
@seed_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="File for a picture of error against size: .png, .svg or .pdf.",
)
@device_option
@json_option
@force_option
@gathered(pair=PairFiles, kinds=_Kinds)
def scan(pair: PairFiles, kinds: _Kinds, plot: Path | None, as_json: bool, force: bool) -> None:
    """Compare families, depths, channels and dilations on NOISY and CLEAN: train one network of each kind."""
    if plot:
        ready(plot, force)
    result = drain(kinds.scan_steps(pair.open()))
    if plot:
        from napari_btn import plots
        from napari_btn.io.atomic import written_whole

        with written_whole(plot, overwrite=force) as rough:
            plots.scan(result.rows).savefig(rough)
    click.echo(json.dumps(result.to_dict()) if as_json else result.table())
    if result.chosen_on:
        click.echo(f"Note: {result.chosen_on}", err=True)
