"""The command line: train, calibrate, predict, evaluate, tokens, regions, info, demo.

Results go to stdout, progress and notes to stderr. Exit code 0: done. 2: the input or the call
is wrong, in one line. 130: interrupted; finished members are kept and ``--resume`` goes on.
Heavy packages are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from napari_btn.core.config import PRESETS, CalibrationSettings, NetworkSettings, Score, Unit
from napari_btn.terminal import (
    Commands,
    Interrupted,
    drain,
    say,
    say_notes,
    sentence,
    table,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from napari_btn.core.pairs import Pair
    from napari_btn.core.predict import Member, Prediction
    from napari_btn.core.report import Report
    from napari_btn.denoiser import Denoiser
    from napari_btn.io.images import Image

__all__ = ["main"]

Command = TypeVar("Command", bound=Callable[..., Any])
OUTPUTS = (".tif", ".tiff", ".zarr", ".npz")


# --- files -----------------------------------------------------------------------------------


def _ready(path: Path, force: bool) -> Path:
    """The path, if a result may be written there."""
    if path.exists() and not force:
        raise ValueError(f"{path} exists; give --force to replace it, or another name.")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"The folder {folder} of {path.name} doesn't exist; make it first.")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"The folder {folder} can't be written to; choose another for {path.name}.")
    return path


def _open(path: str, axes: str | None, role: str) -> tuple[Image, str]:
    """Image and its axes: those given, else those of the file, a guess announced."""
    from napari_btn.io.images import read_image

    image = read_image(path)
    if axes:
        return image, axes
    if image.axes is None:
        shape = tuple(image.data.shape)
        raise ValueError(f"{path} doesn't say its axes (shape {shape}); give --axes, such as --axes CYX.")
    if image.axes_guessed:
        say(f"Note: axes of {role} guessed as {image.axes} {tuple(image.data.shape)}; --axes says otherwise.")
    return image, image.axes


def _open_pair(
    noisy: str, clean: str, axes: str | None, channels: tuple[str, ...] | None, valid: str | None = None
) -> Pair:
    """Pair from files."""
    from napari_btn.core.pairs import Pair
    from napari_btn.io.images import read_image

    first, noisy_axes = _open(noisy, axes, "noisy")
    if os.path.realpath(noisy) == os.path.realpath(clean):
        raise ValueError(
            f"Noisy and clean are both {noisy}; clean is the slow acquisition of the same scene."
        )
    second = read_image(clean)
    target = second.data
    if not axes and second.axes and not second.axes_guessed:
        target = _in_order(target, second.axes.upper(), noisy_axes.upper())
    return Pair(
        noisy=first.data,
        clean=target,
        axes=noisy_axes,
        channel_names=channels or first.channel_names or second.channel_names,
        pixel_size=first.pixel_size or second.pixel_size,
        unit=(first.unit if first.pixel_size else second.unit) or "px",
        valid=valid if valid in (None, "finite") else read_image(valid).data,
        name=first.name,
    )


def _in_order(data: Any, axes: str, wanted: str) -> Any:
    """Clean with its axes in the order of noisy."""
    order = [axes.index(a) for a in wanted if a in axes]
    if order == list(range(len(axes))) or len(order) != len(axes):
        return data
    import numpy as np

    return np.asarray(data).transpose(order)


# --- words -----------------------------------------------------------------------------------


def _members(number: int) -> str:
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


def _to_file(command: Command) -> Command:
    """Option -o of a command."""
    kind = click.Path(path_type=Path)
    return click.option("-o", "--output", required=True, type=kind, help="File to write.")(command)


_axes = click.option("--axes", help="Axes of the image: letters of S T C Z Y X; default: what the file says.")
_channels = click.option("--channels", callback=_split_names, help="Names of the channels: Si,Al,Fe.")
_alpha = click.FloatRange(0, 1, min_open=True, max_open=True)
_force = click.option("--force", is_flag=True, help="Replace existing files.")
_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 or mps.")
_groups = click.option(
    "--groups",
    type=click.IntRange(0, 40),
    help="Tokens that are calibrated apart, for rare phases; 0 for none.",
)
_SPLITS = ("longest", "y", "x", "z", "checkerboard")


def _promise(command: Command) -> Command:
    """Options of what the coverage promises."""
    for option in (
        click.option("--delta", type=_alpha, help="What --unit image or risk leaves out; default: 0.1."),
        click.option("--score", type=click.Choice(get_args(Score)), help="One offset, two, or by the width."),
        click.option(
            "--unit",
            type=click.Choice(get_args(Unit)),
            help="Whose coverage: all pixels', by block or pooled; of most new images (image); for certain (risk).",
        ),
    ):
        command = option(command)
    return command


def _promised(known: CalibrationSettings, **asked: Any) -> CalibrationSettings:
    """The settings with what was asked for."""
    return replace(known, **{name: value for name, value in asked.items() if value is not None})


_mask = click.option("--mask", help="Image of groups calibrated apart, painted from 1; 0 belongs to none.")
_bundle = click.argument("bundle", metavar="MODEL.btn", type=click.Path(path_type=Path))


# --- commands --------------------------------------------------------------------------------


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="napari-btn")
@click.option("--traceback", is_flag=True, help="Show where an error arose, for a bug report.")
def main(traceback: bool) -> None:
    """Denoise images with intervals that hold a stated coverage.

    Images: .tif, .ome.tif, .zarr, .ome.zarr, .npy, file.npz:key.
    """


@main.command()
@click.argument("noisy")
@click.argument("clean")
@_to_file
@_axes
@_channels
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="standard", show_default=True, help="How long."
)
@click.option("--members", type=click.IntRange(1), default=10, show_default=True, help="Networks to train.")
@click.option(
    "--alpha", type=_alpha, default=0.1, show_default=True, help="Miscoverage; 0.1 is 90 % coverage."
)
@click.option(
    "--supervision", type=click.Choice(["pair"]), default="pair", help="What the networks learn from."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same result.")
@_device
@click.option("--depth", type=click.IntRange(1), help="Nodes per network.")
@click.option("--steps", type=click.IntRange(1), help="Training steps per member; default: the preset's.")
@click.option(
    "--split", type=click.Choice(_SPLITS), help="How one field is split; default: its longest axis."
)
@click.option(
    "--regions", help="Image painted 1 where to train, 2 calibrate, 3 report, instead of the split."
)
@_promise
@_groups
@click.option("--valid", help="Image that is not zero where a pixel counts; or: finite.")
@click.option("--report", type=click.Path(path_type=Path), help="JSON file for the coverage report.")
@click.option("--resume", is_flag=True, help="Go on from the members that an interrupted run kept.")
@_force
def train(
    noisy: str,
    clean: str,
    output: Path,
    axes: str | None,
    channels: tuple[str, ...] | None,
    preset: str,
    members: int,
    alpha: float,
    supervision: str,
    seed: int,
    device: str,
    depth: int | None,
    steps: int | None,
    split: str | None,
    regions: str | None,
    unit: str | None,
    score: str | None,
    delta: float | None,
    groups: int | None,
    valid: str | None,
    report: Path | None,
    resume: bool,
    force: bool,
) -> None:
    """Train on NOISY and CLEAN, calibrate, and write MODEL.btn.

    Ctrl-C keeps the finished members in MODEL.btn.partial; the same call with --resume goes on.
    """
    from napari_btn.denoiser import Denoiser

    _ready(output, force)
    if report:
        _ready(report, force)
    pair = _open_pair(noisy, clean, axes, channels, valid)
    denoiser = Denoiser(
        preset=preset,
        members=members,
        alpha=alpha,
        supervision=supervision,
        seed=seed,
        device=device,
        network=NetworkSettings(depth=depth) if depth else None,
        train=replace(PRESETS[preset], steps=steps) if steps else None,
        calibration=_promised(
            CalibrationSettings(groups=_tokens(groups)),
            unit=unit,
            score=score,
            delta=delta,
            split="checkerboard" if split == "checkerboard" else None,
            split_axis=None if split == "checkerboard" else split,
        ),
    )
    painted = _masked(regions)
    measured = _fit(denoiser, pair, output, regions=painted, resume=resume, force=force)
    if report:
        write_json(measured.to_dict(), report)
    click.echo(table(measured))
    click.echo(f"{output}: {_members(denoiser.members)}")


def _fit(denoiser: Denoiser, pair: Pair, output: Path, *, regions: Any, resume: bool, force: bool) -> Report:
    """Report of a fit that is saved; on Ctrl-C the finished members are."""
    partial = output.with_name(output.name + ".partial")
    checkpoint = _checkpoint(partial, denoiser, resume=resume, force=force)
    check = denoiser.check(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names,
                           pixel_size=pair.pixel_size, unit=pair.unit, valid=pair.valid,
                           regions=regions)  # fmt: skip
    say_notes(check.notes)
    say(f"{denoiser.estimate(pair.noisy.shape, pair.axes).note}.")
    step = denoiser.fit_steps(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names,
                              pixel_size=pair.pixel_size, unit=pair.unit, valid=pair.valid,
                              regions=regions, resume=checkpoint)  # fmt: skip
    try:
        report = drain(step).report
    except Interrupted as stop:
        kept = stop.checkpoint or checkpoint
        if not kept:
            raise Interrupted("Interrupted before the first member was finished; nothing was kept.") from None
        denoiser.save_partial(partial, kept)
        raise Interrupted(
            f"Interrupted; {_members(len(kept))} of {denoiser.members} kept in {partial}. "
            "The same call with --resume goes on from there."
        ) from None
    _save(denoiser, output)
    partial.unlink(missing_ok=True)
    assert report is not None, "a fitted denoiser has a report"
    say_notes(note for note in report.warnings if note not in check.notes)
    return report


def _checkpoint(partial: Path, denoiser: Denoiser, *, resume: bool, force: bool) -> tuple[Member, ...]:
    """Members that an interrupted run of the same settings kept."""
    from napari_btn.denoiser import load_partial

    if not partial.exists():
        if resume:
            say(f"Note: there is no {partial.name} to resume; training starts with the first member.")
        return ()
    if not resume:
        if force:
            return ()
        raise ValueError(
            f"{partial} holds an interrupted run; give --resume to go on, or --force to start anew."
        )
    earlier, checkpoint = load_partial(partial)
    for name in ("seed", "preset", "supervision", "levels", "network", "train"):
        was, now = getattr(earlier, name), getattr(denoiser, name)
        if was != now:
            raise ValueError(
                f"{partial} was trained with {name} {was}, now it is {now}; give the same to resume."
            )
    return checkpoint


def _save(denoiser: Denoiser, output: Path) -> None:
    """Save the bundle; where that fails, save it elsewhere rather than lose the training."""
    try:
        denoiser.save(output)
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="napari-btn-")) / output.name
        denoiser.save(elsewhere)
        raise ValueError(
            f"{output} can't be written ({sentence(error)}) The model is kept as {elsewhere}."
        ) from None


@main.command()
@_bundle
@click.argument("noisy", required=False)
@click.argument("clean", required=False)
@_to_file
@_axes
@click.option("--alpha", type=_alpha, help="Miscoverage; default: that of the bundle.")
@_promise
@_groups
@_mask
@_device
@_force
def calibrate(
    bundle: Path,
    noisy: str | None,
    clean: str | None,
    output: Path,
    axes: str | None,
    alpha: float | None,
    unit: str | None,
    score: str | None,
    delta: float | None,
    groups: int | None,
    mask: str | None,
    device: str,
    force: bool,
) -> None:
    """Calibrate MODEL.btn to another miscoverage, or on the pair NOISY CLEAN; nothing is trained.

    With --groups, NOISY alone is the image that MODEL.btn was trained on: its tokens are calibrated apart.
    """
    from napari_btn.denoiser import load

    _ready(output, force)
    if groups is not None and mask is not None:
        raise ValueError("--groups and --mask came; pixels belong to tokens or to a mask's groups. Give one.")
    denoiser = load(bundle, device=device)
    asked: dict[str, Any] = {
        "alpha": denoiser.alpha if alpha is None else alpha,
        "groups": _tokens(groups) if groups is not None else _masked(mask),
        "settings": _promised(denoiser.calibration_settings, unit=unit, score=score, delta=delta),
    }
    if noisy is None:
        drain(denoiser.calibrate_steps(**asked))
    elif clean is None:
        if groups is None:
            raise ValueError("NOISY came without CLEAN; give both to calibrate on them, or neither.")
        image, letters = _open(noisy, axes, "the image")
        drain(denoiser.calibrate_steps(image.data, axes=letters, **asked))
    else:
        pair = _open_pair(noisy, clean, axes, denoiser.channel_names)
        drain(denoiser.calibrate_steps(pair.noisy, pair.clean, axes=pair.axes, **asked))
    _save(denoiser, output)
    if denoiser.report is not None:
        say_notes(denoiser.report.warnings)
        click.echo(table(denoiser.report))
    click.echo(str(output))


def _tokens(groups: int | None) -> int:
    """Number of tokens, none where it isn't given."""
    if groups == 1:
        raise ValueError("--groups is 1; give 2 or more to calibrate tokens apart, or 0 for none.")
    return groups or 0


def _masked(mask: str | None) -> Any:
    """Groups of a file."""
    from napari_btn.io.images import read_image

    return None if mask is None else read_image(mask).data


@main.command()
@_bundle
@click.argument("image")
@_to_file
@_axes
@_mask
@_device
@_force
def predict(
    bundle: Path, image: str, output: Path, axes: str | None, mask: str | None, device: str, force: bool
) -> None:
    """Write lower, median, upper, width and spread of IMAGE.

    OUT ends with .ome.tif (one image per map), .ome.zarr (one group per map) or .npz (one key per map).
    """
    from napari_btn.denoiser import load
    from napari_btn.io.images import write_prediction

    _ready_image(output, force)
    denoiser = load(bundle, device=device)
    tiled = output.suffix.lower() == ".zarr"
    prediction = _predict(
        denoiser,
        *_open(image, axes, "the image"),
        out=output if tiled else None,
        overwrite=force,
        groups=_masked(mask),
    )
    if not tiled:
        write_prediction(prediction, output, overwrite=force)
    click.echo(f"{output}: {100 * (1 - prediction.alpha):g}% intervals of the {prediction.covers}")


def _predict(
    denoiser: Denoiser,
    image: Image,
    axes: str,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    quantiles: bool = False,
    groups: Any = None,
) -> Prediction:
    """Prediction of an image, after saying where it differs from what the bundle was trained on."""
    names, size = image.channel_names, image.pixel_size
    if names and denoiser.channel_names and tuple(names) != tuple(denoiser.channel_names):
        trained = ", ".join(denoiser.channel_names)
        say(f"Warning: the image's channels are {', '.join(names)}; the bundle was trained on {trained}.")
    known = denoiser.pixel_size
    if size and known and any(abs(a / b - 1) > 0.01 for a, b in zip(size, known, strict=False)):
        say(f"Warning: the image's pixel size is {size} {image.unit}; trained on {known} {denoiser.unit}.")
    step = denoiser.predict_steps(
        image.data, axes=axes, out=out, overwrite=overwrite, quantiles=quantiles, groups=groups
    )
    prediction = drain(step)
    say_notes(note for note in prediction.notes if note not in denoiser.notes)
    return prediction


@main.command()
@_bundle
@click.argument("noisy")
@click.argument("clean")
@_axes
@_json
@click.option("--html", type=click.Path(path_type=Path), help="HTML file: one page with figures.")
@_mask
@_device
@_force
def evaluate(
    bundle: Path,
    noisy: str,
    clean: str,
    axes: str | None,
    as_json: bool,
    html: Path | None,
    mask: str | None,
    device: str,
    force: bool,
) -> None:
    """Print how well MODEL.btn's intervals on NOISY hold CLEAN."""
    from napari_btn.core.held_out import fingerprints
    from napari_btn.denoiser import evaluate as measure
    from napari_btn.denoiser import load

    if html is not None:
        _ready(html, force)
    denoiser = load(bundle, device=device)
    pair = _open_pair(noisy, clean, axes, denoiser.channel_names)
    prediction = drain(denoiser.predict_steps(pair.noisy, axes=pair.axes, groups=_masked(mask)))
    report = measure(prediction, pair.clean)
    drift = tuple(note for note in prediction.notes if note not in denoiser.notes)
    report = replace(report, warnings=(*report.warnings, *drift))
    if set(fingerprints(pair.scenes).values()) & set(denoiser.provenance["images"].values()):
        say(
            "Note: a part of this image trained the networks, which flatters them; see info for held-out blocks."
        )
    say_notes(report.warnings)
    click.echo(json.dumps(report.to_dict()) if as_json else table(report))
    if html is not None:
        from napari_btn.page import report_page

        about = {"noisy": noisy, "clean": clean, "networks": str(bundle)}
        title = f"Coverage of {bundle.name} on {Path(noisy).name}"
        write_text(
            report_page(report, title=title, prediction=prediction, clean=pair.clean, about=about), html
        )


@main.command()
@_bundle
@click.argument("image")
@_to_file
@_axes
@click.option(
    "-n", "--n-tokens", type=click.IntRange(1, 120), default=20, show_default=True, help="How many."
)
@click.option("--table", "rows", type=click.Path(path_type=Path), help="CSV file: one row per token.")
@click.option("--order-by", help="Channel whose median numbers the tokens; default: the first.")
@click.option("--refit", is_flag=True, help="Learn the palette anew from this image.")
@click.option("--keep", is_flag=True, help="Store a palette that was learned in MODEL.btn.")
@_device
@_force
def tokens(
    bundle: Path,
    image: str,
    output: Path,
    axes: str | None,
    n_tokens: int,
    rows: Path | None,
    order_by: str | None,
    refit: bool,
    keep: bool,
    device: str,
    force: bool,
) -> None:
    """Write IMAGE as tokens: labels of what the networks see in each pixel, none of them drawn by hand.

    A bundle that holds a palette gives the same token the same number in every image.
    """
    from napari_btn.denoiser import load
    from napari_btn.io.images import write_images
    from napari_btn.io.tables import write_table

    _ready_image(output, force)
    if rows:
        _ready(rows, force)
    denoiser = load(bundle, device=device)
    opened, letters = _open(image, axes, "the image")
    prediction = _predict(denoiser, opened, letters)
    step = denoiser.tokens_steps(
        opened.data, n_tokens, letters, refit=refit, order_by=_number(order_by or "0"), prediction=prediction
    )
    found = drain(step)
    size, unit = _scale(opened, prediction)
    write_images({"tokens": found.labels}, output, axes=found.axes, pixel_size=size, unit=unit,
                 provenance=found.provenance, overwrite=force)  # fmt: skip
    if rows:
        write_table(found.table, rows, overwrite=force)
    if keep:
        _save(denoiser, bundle)
    click.echo(
        f"{output}: {n_tokens} tokens; seeds agree on them to {found.stability:.2f}, to 0.8 on up to "
        f"{found.suggested}"
    )


@main.command()
@_bundle
@click.argument("image")
@_to_file
@_axes
@click.option("--channel", help="Channel that is scored; default: all together.")
@click.option("--threshold", type=float, help="Where it is undecided whether the channel exceeds this.")
@click.option("--dwell", type=float, help="Where this many times the dwell would narrow the interval most.")
@click.option(
    "--window", type=click.IntRange(1), nargs=2, default=(64, 64), show_default=True, help="Rows, columns."
)
@click.option("--planes", type=click.IntRange(1), help="Planes of the window in a volume; default: all.")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="How many at most.")
@click.option("--margin", type=click.IntRange(0), default=0, help="Pixels kept free along the border.")
@click.option("--scene", type=click.IntRange(0), help="Which scene, where the image has several.")
@_json
@_device
@_force
def regions(
    bundle: Path,
    image: str,
    output: Path,
    axes: str | None,
    channel: str | None,
    threshold: float | None,
    dwell: float | None,
    window: tuple[int, int],
    planes: int | None,
    count: int,
    margin: int,
    scene: int | None,
    as_json: bool,
    device: str,
    force: bool,
) -> None:
    """Write fields of view of IMAGE to measure again, best first.

    OUT ends with .csv, .geojson (QuPath) or .zip (ImageJ). Without --threshold and --dwell, where the
    interval is wide for the signal.
    """
    from napari_btn.core.regions import propose_regions
    from napari_btn.core.remeasure import score_map
    from napari_btn.denoiser import load
    from napari_btn.io.regions import REGION_ENDINGS, write_regions

    if output.suffix.lower() not in REGION_ENDINGS:
        raise ValueError(
            f"{output.name} has no ending for regions; choose one of {', '.join(REGION_ENDINGS)}."
        )
    _ready(output, force)
    denoiser = load(bundle, device=device)
    if threshold is not None and channel is None and len(denoiser.channel_names) > 1:
        names = ", ".join(denoiser.channel_names)
        raise ValueError(f"A threshold belongs to one channel; give --channel, one of {names}.")
    opened, letters = _open(image, axes, "the image")
    prediction = _predict(denoiser, opened, letters, quantiles=threshold is not None)
    score = score_map(
        prediction, channel=_number(channel), threshold=threshold, dwell_ratio=dwell, scene=scene
    )
    size, unit = _scale(opened, prediction)
    if size is not None:
        space = [a for a in prediction.axes if a in "ZYX"]
        size = tuple(size[space.index(a)] for a in "ZYX" if a in space)
    shown = window if score.ndim == 2 else (planes or score.shape[0], *window)
    found = propose_regions(score, shown, count, size, unit, margin=margin)
    write_regions(found, output, provenance=prediction.provenance, overwrite=force)
    if not found:
        say("Note: no pixel has a score; there is nothing to measure again by this measure.")
    if as_json:
        keys = ("y", "x", "height", "width", "z", "depth", "score", "centre", "unit")
        click.echo(json.dumps([{k: getattr(r, k) for k in keys} for r in found]))
        return
    for k, r in enumerate(found, start=1):
        at = ", ".join(f"{v:.6g}" for v in r.centre)
        click.echo(
            f"{k}: rows {r.y}-{r.y + r.height - 1}, columns {r.x}-{r.x + r.width - 1}, centre {at} {unit}"
        )
    click.echo(str(output))


def _number(channel: str | None) -> Any:
    """A channel by name, or by number where it is one."""
    return int(channel) if channel is not None and channel.isdigit() else channel


def _scale(image: Image, prediction: Prediction) -> tuple[tuple[float, ...] | None, str]:
    """Pixel size and unit of the image, else those that the bundle was trained at."""
    if image.pixel_size:
        return image.pixel_size, image.unit or "px"
    return prediction.pixel_size, prediction.unit


def _ready_image(output: Path, force: bool) -> Path:
    """The path, if an image may be written there."""
    if not output.name.lower().endswith(OUTPUTS):
        raise ValueError(
            f"{output.name} names no format that can be written; end it with .ome.tif, .ome.zarr or .npz."
        )
    return _ready(output, force)


@main.command()
@_bundle
@_json
def info(bundle: Path, as_json: bool) -> None:
    """Print what MODEL.btn was trained on and how well its intervals hold."""
    from napari_btn.denoiser import load

    denoiser = load(bundle)
    report = denoiser.report
    about: dict[str, Any] = {
        "channels": list(denoiser.channel_names or ()),
        "axes": denoiser.axes,
        "pixel size": list(denoiser.pixel_size or ()),
        "unit": denoiser.unit,
        "members": denoiser.members,
        "preset": denoiser.preset,
        "supervision": denoiser.supervision,
        "coverage": 1 - denoiser.alpha,
        "levels": list(denoiser.levels),
        "seed": denoiser.seed,
    }
    if as_json:
        click.echo(json.dumps({**about, "report": report.to_dict() if report else None}))
        return
    for name, value in about.items():
        click.echo(f"{name + ':':<13}{', '.join(map(str, value)) if isinstance(value, list) else value}")
    if report is not None:
        click.echo(f"\n{table(report)}")
        say_notes(report.warnings)


def _numbers(_ctx: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers from ``5,10,20``."""
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(
            f"{value!r} must be whole numbers above 0 with commas between, such as 5,10,20."
        )
    return numbers


@main.command()
@click.argument("noisy")
@click.argument("clean")
@_axes
@_channels
@click.option("--depths", default="5,10,20", show_default=True, callback=_numbers, help="Nodes per network.")
@click.option("--widths", default="4", show_default=True, callback=_numbers, help="Channels of a chunk.")
@click.option("--dilations", default="4,8", show_default=True, callback=_numbers, help="Largest dilations.")
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="quick", show_default=True, help="How long."
)
@click.option("--steps", type=click.IntRange(1), help="Training steps per member; default: the preset's.")
@click.option(
    "--members", type=click.IntRange(1), default=1, show_default=True, help="Networks of each kind."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same result.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Picture of score against size: .png, .svg, .pdf."
)
@_device
@_json
@_force
def scan(
    noisy: str,
    clean: str,
    axes: str | None,
    channels: tuple[str, ...] | None,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    dilations: tuple[int, ...],
    preset: str,
    steps: int | None,
    members: int,
    seed: int,
    device: str,
    plot: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Compare depths, channels and dilations on NOISY and CLEAN: train one network of each kind."""
    from napari_btn.scan import scan_steps

    if plot:
        _ready(plot, force)
    pair = _open_pair(noisy, clean, axes, channels)
    result = drain(scan_steps(pair, depths=depths, channels=widths, dilations=dilations, preset=preset,
                              members=members, steps=steps, seed=seed, device=device))  # fmt: skip
    if plot:
        from napari_btn import plots
        from napari_btn.io.atomic import written_whole

        with written_whole(plot, overwrite=force) as rough:
            plots.scan(result.rows).savefig(rough)
    click.echo(json.dumps(result.to_dict()) if as_json else result.table())


@main.command()
@click.option("--headless", is_flag=True, envvar="HEADLESS", help="Write files instead of opening napari.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for files; default: demo, without a window."
)
@click.option("--members", type=click.IntRange(1), default=4, show_default=True, help="Networks to train.")
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same result.")
@_force
def demo(headless: bool, out: Path | None, members: int, seed: int, force: bool) -> None:
    """Train, calibrate and predict on made-up maps of Si, Al and Fe; show the result.

    Opens napari where there is a display; otherwise writes layers and pictures to a folder.
    """
    from napari_btn.demo import no_window, run_demo, show_demo, write_demo

    reason = "--headless" if headless else no_window()
    folder = out or (Path("demo") if reason else None)
    if folder:
        _demo_folder(folder, force)
    result = run_demo(members, seed)
    if folder:
        write_demo(result, folder)
        click.echo(f"Layers and pictures are in {folder}{os.sep}" + (f" ({reason})." if reason else "."))
    if not reason:
        show_demo(result)


def _demo_folder(folder: Path, force: bool) -> None:
    """Make the folder; one that holds anything but an earlier demo is left alone."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "edx.btn").exists() and not force:
        raise ValueError(f"{folder} holds other files; give --force to write there, or another --out.")
    folder.mkdir(parents=True, exist_ok=True)
