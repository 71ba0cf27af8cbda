"""Options and arguments that several commands share, and the values that they are gathered in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from napari_btn.core.settings import (
    PRESETS,
    FramesAlong,
    Repeats,
    Score,
    Split,
    SplitAxis,
    StructAxes,
    SupervisionSettings,
    Unit,
    listed,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = [
    "ALPHA",
    "SPLITS",
    "axes_option",
    "bundle_argument",
    "channels_option",
    "coverage_options",
    "detector_options",
    "device_option",
    "executor_at",
    "force_option",
    "gathered",
    "groups_option",
    "json_option",
    "mask_option",
    "members_text",
    "preset_option",
    "promise_options",
    "scheduler_option",
    "seed_option",
    "steps_option",
    "supervision_options",
    "to_file",
    "valid_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


def gathered(**kinds: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gather options of a command into dataclasses, one per keyword, whose fields are named as the options.

    Fields that are no options of the command keep their defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def call(**given: Any) -> None:
            values = {
                name: kind(**{f.name: given.pop(f.name) for f in fields(kind) if f.name in given})
                for name, kind in kinds.items()
            }
            command(**given, **values)

        return call

    return decorate


def members_text(number: int) -> str:
    """Return a number of members in words."""
    return f"{number} member{'' if number == 1 else 's'}"


def _split_names(_ctx: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Return the channel names of ``Si,Al,Fe``."""
    if value is None:
        return None
    names = listed(value)
    if not all(names) or len(set(names)) != len(names):
        raise click.BadParameter(f"{value!r} must be different names, separated by commas, such as Si,Al,Fe.")
    return names


def to_file(command: Command) -> Command:
    """Add the option -o to a command."""
    kind = click.Path(path_type=Path)
    return click.option("-o", "--output", required=True, type=kind, help="File to write.")(command)


axes_option = click.option(
    "--axes", help="Axes of the image: letters of S T C Z Y X; default: what the file says."
)
channels_option = click.option(
    "--channels", callback=_split_names, help="Names of the channels, such as Si,Al,Fe."
)


def _keep_coverage(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    """Keep a coverage of 0.9, 90 or 90% for the miscoverage, which is read later."""
    if value is None:
        return
    try:
        share = float(value.strip().removesuffix("%"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a share; give 0.9, 90 or 90%.") from None
    share = share / 100 if value.strip().endswith("%") or share > 1 else share
    if not 0 < share < 1:
        raise click.BadParameter(f"{value!r} must lie between 0 and 1, or 0 and 100 %.")
    ctx.meta[_COVERAGE] = share


def _or_coverage(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Return the miscoverage, from the coverage where that is given."""
    coverage: float | None = ctx.meta.get(_COVERAGE)
    if coverage is None:
        return value
    if ctx.get_parameter_source(str(option.name)) is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--alpha and --coverage came together; each is one minus the other. Give one.")
    return round(1.0 - coverage, 12)


_COVERAGE = "napari_btn.coverage"


def coverage_options(default: float | None) -> Callable[[Command], Command]:
    """Add --coverage and --alpha, its complement, to a command that takes ``alpha``.

    Parameters
    ----------
    default : float, optional
        Miscoverage; None takes that of the bundle.
    """

    def decorate(command: Command) -> Command:
        known = (
            "default: that of the bundle, or 90 %"
            if default is None
            else f"default: {100 * (1 - default):g} %"
        )
        for option in (
            click.option(
                "--alpha", type=ALPHA, default=default, callback=_or_coverage,
                help="Another way to give it: one minus the coverage, so 0.1 is 90 %.",
            ),
            click.option(
                "--coverage", metavar="SHARE", is_eager=True, expose_value=False, callback=_keep_coverage,
                help=f"Share of pixels that intervals should hold, such as 90 or 0.9; {known}.",
            ),
        ):  # fmt: skip
            command = option(command)
        return command

    return decorate


ALPHA = click.FloatRange(0, 1, min_open=True, max_open=True)
force_option = click.option("--force", is_flag=True, help="Replace existing files.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="Where to compute: auto, cpu, cuda, cuda:1 or mps."
)
steps_option = click.option(
    "--steps", type=click.IntRange(1), help="Training steps per member; default: the preset's."
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Same seed, same result on the same kind of CPU."
)
scheduler_option = click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler whose workers compute, such as tcp://10.0.0.1:8786.",
)
groups_option = click.option(
    "--groups",
    type=click.IntRange(0, 40),
    help="Number of tokens (groups of similar pixels) that are calibrated separately, aiming at the coverage "
    "of each; rare phases gain little; 0 for none.",
)
SPLITS = (*get_args(SplitAxis), *(name for name in get_args(Split) if name != "auto"))


def preset_option(default: str) -> Callable[[Command], Command]:
    """Return the option of how long to train.

    Parameters
    ----------
    default : str
        One of `PRESETS`.

    Returns
    -------
    callable
        Adds ``--preset`` to a command.
    """
    return click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        default=default,
        show_default=True,
        help="How long to train.",
    )


def promise_options(command: Command) -> Command:
    """Add the options of what the coverage promises to a command."""
    for option in (
        click.option(
            "--delta",
            type=ALPHA,
            help="Share of images (--unit image), or probability (risk), that may be covered less; default: 0.1.",
        ),
        click.option(
            "--score",
            type=click.Choice(get_args(Score)),
            help="How intervals are widened: equally on both sides, each side on its own, or in proportion to the "
            "predicted width.",
        ),
        click.option(
            "--unit",
            type=click.Choice(get_args(Unit)),
            help="What the coverage is aimed at: the average (auto, block, pixel); most new images (image); or "
            "the average, with a stated probability (risk). With one field, its blocks are used as images.",
        ),
    ):
        command = option(command)
    return command


def supervision_options(command: Command) -> Command:
    """Add the options of learning without clean images to a command."""
    known = SupervisionSettings()
    helps = (
        ("--masked-pixel-percentage", float, "noise2void: percentage of pixels masked at a time."),
        ("--roi-size", int, "noise2void: side in pixels of the neighbourhood that replaces a masked pixel."),
        (
            "--strategy",
            click.Choice(["median", "uniform"]),
            "noise2void: what replaces a masked pixel, the median of its neighbourhood or a random pixel of "
            "it (uniform).",
        ),
        (
            "--struct-n2v-axes",
            click.Choice(get_args(StructAxes)),
            "noise2void: neighbours that are masked as well.",
        ),
        ("--struct-n2v-span", int, "noise2void: length of that mask in pixels."),
        (
            "--own-pixel/--no-own-pixel",
            bool,
            "noise2void: the mean also uses each pixel's own value, by the noise model.",
        ),
        ("--thinnings", int, "thinning: number of random splits of the counts that a prediction averages."),
        ("--repeats", click.Choice(get_args(Repeats)), "noise2noise: axis of the repeats."),
        ("--frames", int, "Frames of a series that networks see at a time: 1, 3, 5 or 7."),
        ("--frames-along", click.Choice(get_args(FramesAlong)), "Axis of these frames: t, or z for slices."),
    )
    for name, kind, text in reversed(helps):
        default = getattr(known, name.partition("/")[0].removeprefix("--").replace("-", "_"))
        command = click.option(name, type=kind, default=default, show_default=True, help=text)(command)
    return command


def detector_options(command: Command) -> Command:
    """Add the options of the frames by which a noisy image is repaired to a command."""
    for option in (
        click.option(
            "--defects", help="Image that is not zero where a pixel is broken; default: they are found."
        ),
        click.option("--flat", help="Frame of even light, by which the noisy image is divided."),
        click.option("--dark", help="Frame without light, which is subtracted from the noisy image."),
    ):
        command = option(command)
    return command


valid_option = click.option(
    "--valid",
    help="Image that is not zero where a pixel is used; or the word finite, which leaves out NaN and infinite "
    "values.",
)
mask_option = click.option(
    "--mask", help="Image of groups that are calibrated separately, painted from 1; 0 belongs to none."
)
bundle_argument = click.argument("bundle", metavar="MODEL.btn", type=click.Path(path_type=Path))


@contextmanager
def executor_at(scheduler: str | None) -> Iterator[Executor | None]:
    """Yield the executor of a scheduler's workers; None for local processes."""
    if scheduler is None:
        yield None
        return
    from napari_btn.cluster import connected

    with connected(scheduler) as executor:
        yield executor
