"""Recipes in files, and the places of their inputs."""

from __future__ import annotations

import ast
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn import samples
from napari_btn.core.compute.pool import compute_for
from napari_btn.core.data.fingerprint import array_digest_steps
from napari_btn.core.evaluation.report import Report
from napari_btn.core.progress import drain
from napari_btn.io.atomic import MissingInputError, written_whole
from napari_btn.io.bundle import read_bundle
from napari_btn.io.damage import reading
from napari_btn.io.images import SUFFIXES, read_image, read_provenance, split_key
from napari_btn.workflow.recipe import Recipe
from napari_btn.workflow.repeat import run_recipe_steps

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.progress import Step
    from napari_btn.workflow.repeat import Repeated

__all__ = [
    "RecipeFiles",
    "layers_recipe_steps",
    "read_recipe",
    "save_recipe",
    "save_recipe_of",
]

_SAMPLE = re.compile(r"samples\.(edx|blobs|xct)\((.*)\)\.(noisy|clean)")
_MOST_PIXELS = 2**26  # of a sample that a recipe asks for


@dataclass(frozen=True)
class RecipeFiles:
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
        source = self.given.get(name, known.get("file"))
        if isinstance(source, str) and (match := _SAMPLE.fullmatch(source)):
            return _sample(*match.groups())
        places = [] if not isinstance(source, str) else [Path(source), self.folder / source]
        for place in places:
            if split_key(place)[0].exists():
                return _part(read_image(place).data, known)
        shape = " x ".join(str(n) for n in known["shape"])
        where = f"it is not at {source}" if source else "its file is not recorded"
        raise ValueError(
            f"The recipe needs {name} ({shape} {known['dtype']}), and {where}; give --input {name}=FILE."
        )


def _part(array: Any, known: Mapping[str, Any]) -> Any:
    """Return what was measured in a window, also of an array of the whole field; the array if it is no window."""
    if "window" not in known:
        return array
    sides, size = [slice(int(a), int(b)) for a, b in known["window"]], math.prod(known["shape"])
    if math.prod(array.shape) != size:
        if len(array.shape) < len(sides):
            return array
        array = array[(..., *sides)]
    # docks read images as float32, and a volume may have a window of one plane
    made = np.asarray(array, np.float32 if known["dtype"] == "float32" else None)
    return made.reshape(known["shape"]) if made.size == size else made


def _sample(name: str, call: str, part: str) -> Any:
    """Return an image of a sample, whose call a recipe has."""
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


@dataclass(frozen=True)
class _RecipeLayers:
    """Arrays that are open already, among which inputs of a recipe are found by their hash; then files.

    Parameters
    ----------
    arrays : sequence of array
        Such as the data of layers.
    files : RecipeFiles
        For what is not among them.
    """

    arrays: Sequence[Any]
    files: RecipeFiles

    def __call__(self, name: str, known: Mapping[str, Any], /) -> Any:
        """Return the array of an input."""
        for layer in self.arrays:
            array = _part(layer, known)
            alike = list(array.shape) == list(known["shape"]) and str(array.dtype) == known["dtype"]
            if alike and drain(array_digest_steps(array)) == known["sha256"]:
                return array
        try:
            return self.files(name, known)
        except ValueError as error:
            shape = " x ".join(str(n) for n in known["shape"])
            raise ValueError(
                f"The recipe needs {name} ({shape} {known['dtype']}), and no open layer holds exactly these values, "
                "nor is there a file of them. Open the image that it was made with, and load the recipe again."
            ) from error


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a JSON file, a bundle, an image or regions (``.geojson``).

    Parameters
    ----------
    path : Path

    Raises
    ------
    ValueError
        If the file is missing or damaged, or has no recipe.
    """
    if not path.exists():
        raise MissingInputError(f"There is no {path}; check the name and the folder.")
    if path.suffix.lower() == ".json":
        with reading(path, "{file} is no recipe that can be run: {why}."):
            return Recipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix.lower() == ".geojson":
        with reading(path, "{file} holds no recipe that can be run: {why}."):
            known = json.loads(path.read_text(encoding="utf-8"))["napari_btn"]
            return Recipe.from_dict(Recipe.of(known).to_dict())
    if path.suffix.lower() in SUFFIXES:
        return Recipe.of(read_provenance(path))
    bundle = read_bundle(path)
    values = bundle.values
    known = {k: values.get(k) for k in ("covers", "channel_names")} | values.get("calibration", {})
    if values.get("groups") is not None:
        tokens = any(name.startswith("grouped_by.") for name in bundle.arrays)
        known |= {"grouped_by": "token" if tokens else "group"}
    with reading(path, "{file} has a damaged report: {why}."):
        if "coverage_low" in (report := values.get("report", {})):
            known |= {k: report[k] for k in ("coverage", "coverage_low", "coverage_high")}
            known |= {"scope": Report.from_dict(report).scope}
    return Recipe.of({**known, **values.get("provenance", {})})


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as JSON; an existing file is replaced once the new one is whole.

    Parameters
    ----------
    recipe : Recipe
    path : Path
    """
    with written_whole(path, overwrite=True) as rough:
        rough.write_text(json.dumps(recipe.to_dict(), indent=1) + "\n", encoding="utf-8")


def save_recipe_of(provenance: Mapping[str, Any], path: Path) -> None:
    """Write the recipe in the provenance of a result as JSON; see `save_recipe`.

    Parameters
    ----------
    provenance : mapping
    path : Path

    Raises
    ------
    ValueError
        If there is none.
    """
    save_recipe(Recipe.of(provenance), path)


def layers_recipe_steps(path: Path, arrays: Sequence[Any]) -> Step[Repeated]:
    """Repeat the recipe of a file on the CPU, on arrays that are open or on the recorded files; a step.

    Parameters
    ----------
    path : Path
        JSON, bundle or image with a recipe.
    arrays : sequence of array
        Such as the data of layers.

    Raises
    ------
    ValueError
        If there is no recipe that can be repeated, or an input is missing.
    """
    recipe = read_recipe(path)
    members = recipe.steps[0].get("settings", {}).get("members", 1)
    opener = _RecipeLayers(arrays, RecipeFiles(path.resolve().parent, {}))
    made = yield from run_recipe_steps(recipe, opener, compute_for("cpu", int(members)))
    return made
