"""The command that repeats, explains and exports recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from napari_btn.cli.files import Target
from napari_btn.cli.options import force_option, json_option
from napari_btn.cli.terminal import drain, say

if TYPE_CHECKING:
    from napari_btn.workflow.recipe import Recipe
    from napari_btn.workflow.repeat import Repeated

__all__ = ["run"]


def _places(_ctx: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return files by name of ``noisy=file.tif``."""
    found = dict(value.split("=", 1) for value in values if "=" in value)
    if len(found) < len(values):
        raise click.BadParameter(
            f"{', '.join(values)} must be NAME=FILE, each name once, such as noisy=fast.tif."
        )
    return found


@click.command("run")
@click.argument("recipe", metavar="RECIPE.json", type=click.Path(path_type=Path))
@click.option("--input", "given", multiple=True, metavar="NAME=FILE", callback=_places,
              help="Where an input is now, such as noisy=fast.tif; default: where it was.")  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File for the result: .btn, an image, or regions."
)
@click.option("--explain", is_flag=True, help="Print a paragraph for a methods section instead of running.")
@click.option(
    "--export",
    type=click.Path(path_type=Path),
    help="JSON file for the recipe, which is written instead of running it.",
)
@json_option
@force_option
def run(
    recipe: Path,
    given: dict[str, str],
    output: Path | None,
    explain: bool,
    export: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Repeat a recorded analysis on the CPU, and compare each result with the record, bit by bit.

    RECIPE.json may also be a bundle, an image that predict wrote, or regions (.geojson): each holds its recipe.
    """
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.io.damage import reading
    from napari_btn.workflow.recipe_files import RecipeFiles, read_recipe, save_recipe
    from napari_btn.workflow.repeat import HASHED, run_recipe_steps

    found = read_recipe(recipe)
    if export is not None:
        Target(export, force).ready(recipe)
        save_recipe(found, export)
        click.echo(str(export))
    if explain:
        with reading(recipe, "{file} holds a recipe that can't be explained: {why}."):
            click.echo(found.explain())
    if explain or export is not None:
        return
    if output is not None:
        _need_fit(output, found, Target(output, force), recipe)
    inputs = RecipeFiles(recipe.resolve().parent, given)
    members = found.steps[0].get("settings", {}).get("members", 1)
    made = drain(run_recipe_steps(found, inputs, compute_for("cpu", int(members))))
    if output is not None:
        _write(made, output, force)
    for sentence in made.differences:
        say(f"Warning: {sentence}")
    if as_json:
        hashes = {k: made.last[k] for k in HASHED if k in made.last}
        same = not made.differences
        click.echo(
            json.dumps({"same": same, "compared": made.compared, "differences": made.differences, **hashes})
        )
    elif made.differences:
        click.echo("The result differs from the record.")
    else:
        click.echo(f"The result equals the record bit by bit (checksums compared: {made.compared}).")


def _need_fit(output: Path, found: Recipe, target: Target, recipe: Path) -> None:
    """Raise unless the last result of a recipe may be written to a file."""
    from napari_btn.io.images import output_format
    from napari_btn.io.regions import REGION_ENDINGS

    last, ending = found.steps[-1]["do"], output.suffix.lower()
    if last in ("predict", "fuse") and ending != ".btn":
        output_format(output)
    elif last == "regions" and ending not in (".btn", *REGION_ENDINGS):
        raise ValueError(
            f"The recipe makes regions, and {output.name} is not a file of them; end its name in one of "
            f"{', '.join(REGION_ENDINGS)}."
        )
    elif last != "regions" and ending != ".btn":
        raise ValueError(f"The recipe makes a bundle, and {output.name} is not one; end its name in .btn.")
    target.ready(recipe)


def _write(made: Repeated, output: Path, force: bool) -> None:
    """Write the result of a recipe."""
    from napari_btn.io.images import write_prediction
    from napari_btn.io.regions import write_regions
    from napari_btn.model import save_model

    if output.suffix.lower() == ".btn" or made.prediction is None:
        save_model(made.model, output)
    elif made.regions is not None and made.last["do"] == "regions":
        known = made.prediction.provenance
        write_regions(made.regions, output, provenance=known, overwrite=force)
    else:
        write_prediction(made.prediction, output, overwrite=force)
