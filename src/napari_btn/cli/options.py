"""Options and arguments that several commands share, and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from napari_btn.core.settings import CalibrationSettings, Score, Unit

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = [
    "ALPHA",
    "SPLITS",
    "axes_option",
    "bundle_argument",
    "channels_option",
    "device_option",
    "executor_at",
    "force_option",
    "groups_option",
    "json_option",
    "mask_option",
    "members_text",
    "promise",
    "promised",
    "scheduler_option",
    "to_file",
    "token_count",
    "valid_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def members_text(number: int) -> str:
    """Members, counted."""
    return f"{number} member{'' if number == 1 else 's'}"


def _split_names(_ctx: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Channel names from ``Si,Al,Fe``."""
    if value is None:
        return None
    names = tuple(name.strip() for name in value.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise click.BadParameter(f"{value!r} must be different names with commas between, such as Si,Al,Fe.")
    return names


def to_file(command: Command) -> Command:
    """Option -o of a command."""
    kind = click.Path(path_type=Path)
    return click.option("-o", "--output", required=True, type=kind, help="File to write.")(command)


axes_option = click.option(
    "--axes", help="Axes of the image: letters of S T C Z Y X; default: what the file says."
)
channels_option = click.option("--channels", callback=_split_names, help="Names of the channels: Si,Al,Fe.")
ALPHA = click.FloatRange(0, 1, min_open=True, max_open=True)
force_option = click.option("--force", is_flag=True, help="Replace existing files.")
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps."
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler whose workers compute, such as tcp://10.0.0.1:8786.",
)
groups_option = click.option(
    "--groups",
    type=click.IntRange(0, 40),
    help="Tokens that are calibrated apart, for rare phases; 0 for none.",
)
SPLITS = ("longest", "y", "x", "z", "checkerboard")


def promise(command: Command) -> Command:
    """Options of what the coverage promises."""
    for option in (
        click.option("--delta", type=ALPHA, help="What --unit image or risk leaves out; default: 0.1."),
        click.option("--score", type=click.Choice(get_args(Score)), help="One offset, two, or by the width."),
        click.option(
            "--unit",
            type=click.Choice(get_args(Unit)),
            help="Whose coverage: all pixels', by block or pooled; of most new images (image); for certain (risk).",
        ),
    ):
        command = option(command)
    return command


def promised(known: CalibrationSettings, **asked: Any) -> CalibrationSettings:
    """The settings with what was asked for."""
    return replace(known, **{name: value for name, value in asked.items() if value is not None})


valid_option = click.option("--valid", help="Image that is not zero where a pixel counts; or: finite.")
mask_option = click.option(
    "--mask", help="Image of groups calibrated apart, painted from 1; 0 belongs to none."
)
bundle_argument = click.argument("bundle", metavar="MODEL.btn", type=click.Path(path_type=Path))


@contextmanager
def executor_at(scheduler: str | None) -> Iterator[Executor | None]:
    """Executor of a scheduler's workers; None for the local processes."""
    if scheduler is None:
        yield None
        return
    from napari_btn.cluster import connected

    with connected(scheduler) as executor:
        yield executor


def token_count(groups: int | None) -> int:
    """Number of tokens, none where it isn't given."""
    if groups == 1:
        raise ValueError("--groups is 1; give 2 or more to calibrate tokens apart, or 0 for none.")
    return groups or 0
