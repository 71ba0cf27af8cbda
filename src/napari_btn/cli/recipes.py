"""The command that repeats, explains and exports recipes."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_btn.cli.files import Target
from napari_btn.cli.options import force_option, json_option
from napari_btn.cli.terminal import drain, say, write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_btn.workflow.recipe import Recipe
    from napari_btn.workflow.repeat import Repeated

__all__ = ["read_recipe", "run"]

_SAMPLE = re.compile(r"samples\.(edx|blobs|xct)\((.*)\)\.(noisy|clean)")
_MOST_PIXELS = 2**26  # of a sample that a recipe asks for


@dataclass(frozen=True)
class Inputs:
    """Places of the inputs of a recipe.

    Parameters
    ----------
    folder : Path
        Folder of the recipe, which files are looked for in.
    given : mapping of str to str
        Files by the name of the input.
    """

    folder: Path
    given: Mapping[str, str]

    def __call__(self, name: str, known: Mapping[str, Any], /) -> Any:
        """Return the array of an input."""
        from napari_btn.io.images import read_image, split_key

        source = self.given.get(name, known.get("file"))
        if isinstance(source, str) and (match := _SAMPLE.fullmatch(source)):
            return _sample(*match.groups())
        places = [] if not isinstance(source, str) else [Path(source), self.folder / source]
        for place in places:
            if split_key(place)[0].exists():
                return read_image(place).data
        shape = " x ".join(str(n) for n in known["shape"])
        where = f"it is not at {source}" if source else "its file is not recorded"
        raise ValueError(
            f"The recipe needs {name} ({shape} {known['dtype']}), and {where}; give --input {name}=FILE."
        )


def _sample(name: str, call: str, part: str) -> Any:
    """Return an image of a sample, whose call a recipe has."""
    from napari_btn import samples

    try:
        parsed = ast.parse(f"f({call})", mode="eval").body
        assert isinstance(parsed, ast.Call)
        options = {str(k.arg): ast.literal_eval(k.value) for k in parsed.keywords}
        sizes = {k: v if isinstance(v, tuple) else (v,) for k, v in options.items()}
        whole = all(type(n) is int and n >= 0 for numbers in sizes.values() for n in numbers)
        pixels = math.prod(n for k, numbers in sizes.items() if k != "seed" for n in numbers)
        if whole and pixels <= _MOST_PIXELS and not parsed.args:
            return getattr(getattr(samples, name)(**options), part)
        why = f"whole numbers by name, and at most {_MOST_PIXELS:,} pixels, are needed"
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        why = str(error).rstrip(".")
    raise ValueError(f"The recipe has the sample {name}({call[:80]}), which can't be made: {why}.")


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
              help="Where an input lies now, such as noisy=fast.tif; default: where it was.")  # fmt: skip
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File for the result: .btn, or an image."
)
@click.option("--explain", is_flag=True, help="Print a methods paragraph instead of running.")
@click.option(
    "--export", type=click.Path(path_type=Path), help="JSON file: write the recipe instead of running."
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

    RECIPE.json may also be a bundle, or an image that predict wrote: each holds its recipe.
    """
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.io.damage import reading
    from napari_btn.workflow.repeat import run_recipe_steps

    found = read_recipe(recipe)
    if export is not None:
        Target(export, force).ready(recipe)
        write_text(json.dumps(found.to_dict(), indent=1) + "\n", export)
        click.echo(str(export))
    if explain:
        with reading(recipe, "{file} holds a recipe that can't be explained: {why}."):
            click.echo(found.explain())
    if explain or export is not None:
        return
    if output is not None:
        _need_fit(output, found, Target(output, force), recipe)
    inputs = Inputs(recipe.resolve().parent, given)
    members = found.steps[0].get("settings", {}).get("members", 1)
    made = drain(run_recipe_steps(found, inputs, compute_for("cpu", int(members))))
    if output is not None:
        _write(made, output, force)
    for sentence in made.differences:
        say(f"Warning: {sentence}")
    if as_json:
        hashes = {k: made.last[k] for k in ("makes", "maps", "labels") if k in made.last}
        same = not made.differences
        click.echo(
            json.dumps({"same": same, "compared": made.compared, "differences": made.differences, **hashes})
        )
    elif made.differences:
        click.echo("The result differs from the record.")
    else:
        click.echo(f"Recorded hashes: {made.compared}; all are the same.")


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a JSON file, a bundle or an image.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If the file is missing or damaged, or has no recipe.
    """
    from napari_btn.io.atomic import MissingInputError
    from napari_btn.io.bundle import read_bundle
    from napari_btn.io.damage import reading
    from napari_btn.io.images import SUFFIXES, read_provenance
    from napari_btn.workflow.recipe import Recipe

    if not path.exists():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    if path.suffix.lower() == ".json":
        with reading(path, "{file} is no recipe that can be run: {why}."):
            return Recipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix.lower() in SUFFIXES:
        return Recipe.of(read_provenance(path))
    values = read_bundle(path).values
    known = {k: values.get(k) for k in ("covers", "channel_names")} | values.get("calibration", {})
    known |= {"coverage": values.get("report", {}).get("coverage", [])}
    return Recipe.of({**known, **values.get("provenance", {})})


def _need_fit(output: Path, found: Recipe, target: Target, recipe: Path) -> None:
    """Raise unless the last result of a recipe may be written to a file."""
    from napari_btn.io.images import output_format

    if found.steps[-1]["do"] == "predict" and output.suffix.lower() != ".btn":
        output_format(output)
    elif output.suffix.lower() != ".btn":
        raise ValueError(f"The recipe makes a bundle, and {output.name} is none; end it in .btn.")
    target.ready(recipe)


def _write(made: Repeated, output: Path, force: bool) -> None:
    """Write the result of a recipe."""
    from napari_btn.io.images import write_prediction
    from napari_btn.model import save_model

    if output.suffix.lower() == ".btn" or made.prediction is None:
        save_model(made.model, output)
    else:
        write_prediction(made.prediction, output, overwrite=force)
