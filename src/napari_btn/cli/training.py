"""Commands that make a bundle: train, calibrate, scan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_btn.cli.files import groups_of, open_image, open_pair, ready, save_bundle
from napari_btn.cli.options import (
    ALPHA,
    SPLITS,
    axes_option,
    bundle_argument,
    channels_option,
    device_option,
    executor_at,
    force_option,
    groups_option,
    json_option,
    mask_option,
    members_text,
    promise,
    promised,
    scheduler_option,
    to_file,
    token_count,
    valid_option,
)
from napari_btn.cli.terminal import Interrupted, drain, say, say_notes, table, write_json
from napari_btn.core.settings import PRESETS, CalibrationSettings, NetworkSettings

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.networks.family import Member
    from napari_btn.denoiser import Denoiser

__all__ = ["calibrate", "scan", "train"]


@click.command()
@click.argument("noisy")
@click.argument("clean")
@to_file
@axes_option
@channels_option
@click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="standard", show_default=True, help="How long."
)
@click.option("--members", type=click.IntRange(1), default=10, show_default=True, help="Networks to train.")
@click.option(
    "--alpha", type=ALPHA, default=0.1, show_default=True, help="Miscoverage; 0.1 is 90 % coverage."
)
@click.option(
    "--supervision", type=click.Choice(["pair"]), default="pair", help="What the networks learn from."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same result.")
@device_option
@click.option("--depth", type=click.IntRange(1), help="Nodes per network.")
@click.option("--bias-free", is_flag=True, help="Networks without constants: for other noise levels too.")
@click.option("--steps", type=click.IntRange(1), help="Training steps per member; default: the preset's.")
@click.option("--split", type=click.Choice(SPLITS), help="How one field is split; default: its longest axis.")
@click.option(
    "--regions", help="Image painted 1 where to train, 2 calibrate, 3 report, instead of the split."
)
@promise
@groups_option
@valid_option
@click.option("--report", type=click.Path(path_type=Path), help="JSON file for the coverage report.")
@click.option("--resume", is_flag=True, help="Go on from the members that an interrupted run kept.")
@scheduler_option
@force_option
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
    bias_free: bool,
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
    scheduler: str | None,
    force: bool,
) -> None:
    """Train on NOISY and CLEAN, calibrate, and write MODEL.btn.

    Ctrl-C keeps the finished members in MODEL.btn.partial; the same call with --resume goes on.
    """
    from napari_btn.denoiser import Denoiser

    ready(output, force, noisy, clean, regions, valid)
    if report:
        ready(report, force, noisy, clean, regions, valid)
    pair = open_pair(noisy, clean, axes, channels, valid)
    denoiser = Denoiser(
        preset=preset,
        members=members,
        alpha=alpha,
        supervision=supervision,
        seed=seed,
        device=device,
        network=NetworkSettings(depth=depth or NetworkSettings().depth, bias_free=bias_free),
        train=replace(PRESETS[preset], steps=steps) if steps else None,
        calibration=promised(
            CalibrationSettings(groups=token_count(groups)),
            unit=unit,
            score=score,
            delta=delta,
            split="checkerboard" if split == "checkerboard" else None,
            split_axis=None if split == "checkerboard" else split,
        ),
    )
    painted = groups_of(regions)
    with executor_at(scheduler) as executor:
        measured = _fit(
            denoiser, pair, output, regions=painted, resume=resume, force=force, executor=executor
        )
    if report:
        write_json(measured.to_dict(), report)
    click.echo(table(measured))
    click.echo(f"{output}: {members_text(denoiser.members)}")


def _fit(
    denoiser: Denoiser,
    pair: Pair,
    output: Path,
    *,
    regions: Any,
    resume: bool,
    force: bool,
    executor: Executor | None = None,
) -> Report:
    """Report of a fit that is saved; on Ctrl-C the finished members are."""
    partial = output.with_name(output.name + ".partial")
    data = _record(denoiser, pair, regions)
    checkpoint = _checkpoint(partial, denoiser, data, resume=resume, force=force)
    check = denoiser.check(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names,
                           pixel_size=pair.pixel_size, unit=pair.unit, valid=pair.valid,
                           regions=regions)  # fmt: skip
    say_notes(check.notes)
    say(f"{denoiser.estimate(pair.noisy.shape, pair.axes).note}.")
    step = denoiser.fit_steps(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names,
                              pixel_size=pair.pixel_size, unit=pair.unit, valid=pair.valid,
                              regions=regions, resume=checkpoint, executor=executor)  # fmt: skip
    try:
        report = drain(step).report
    except Interrupted as stop:
        kept = stop.checkpoint or checkpoint
        if not kept:
            raise Interrupted("Interrupted before the first member was finished; nothing was kept.") from None
        denoiser.save_partial(partial, kept, data)
        raise Interrupted(
            f"Interrupted; {members_text(len(kept))} of {denoiser.members} kept in {partial}. "
            "The same call with --resume goes on from there."
        ) from None
    save_bundle(denoiser, output)
    partial.unlink(missing_ok=True)
    assert report is not None, "a fitted denoiser has a report"
    say_notes(note for note in report.warnings if note not in check.notes)
    return report


def _record(denoiser: Denoiser, pair: Pair, regions: Any) -> dict[str, Any]:
    """What members learn from: images, what counts in them, and how they are split."""
    from napari_btn.core.calibration.held_out import fingerprint_steps
    from napari_btn.core.data.image import View

    views, known = pair.views, denoiser.calibration_settings
    made: dict[str, Any] = {
        name: sorted(drain(fingerprint_steps(image)).values())
        for name, image in (("noisy", views.noisy), ("clean", views.clean), ("valid", views.valid))
        if image is not None
    }
    if regions is not None:
        painted = View(regions, views.noisy.space_axes, "regions")
        made["regions"] = sorted(drain(fingerprint_steps(painted)).values())
    return {**made, "split": [known.split, known.split_axis, known.train_fraction]}


def _checkpoint(
    partial: Path, denoiser: Denoiser, data: dict[str, Any], *, resume: bool, force: bool
) -> tuple[Member, ...]:
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
    earlier, checkpoint, learned = load_partial(partial)
    for name in ("seed", "preset", "supervision", "levels", "network", "train"):
        was, now = getattr(earlier, name), getattr(denoiser, name)
        if was != now:
            raise ValueError(
                f"{partial} was trained with {name} {was}, now it is {now}; give the same to resume."
            )
    for name in sorted({*learned, *data}):
        if learned.get(name) != data.get(name):
            raise ValueError(
                f"{partial} was trained with another {name}; its members may have seen what would calibrate now. Give "
                "the same images and split to resume, or --force without --resume to start anew."
            )
    return checkpoint


@click.command()
@bundle_argument
@click.argument("noisy", required=False)
@click.argument("clean", required=False)
@to_file
@axes_option
@click.option("--alpha", type=ALPHA, help="Miscoverage; default: that of the bundle.")
@promise
@groups_option
@mask_option
@device_option
@force_option
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

    ready(output, force)
    if groups is not None and mask is not None:
        raise ValueError("--groups and --mask came; pixels belong to tokens or to a mask's groups. Give one.")
    denoiser = load(bundle, device=device)
    asked: dict[str, Any] = {
        "alpha": denoiser.alpha if alpha is None else alpha,
        "groups": token_count(groups) if groups is not None else groups_of(mask),
        "settings": promised(denoiser.calibration_settings, unit=unit, score=score, delta=delta),
    }
    if noisy is None:
        drain(denoiser.calibrate_steps(**asked))
    elif clean is None:
        if groups is None:
            raise ValueError("NOISY came without CLEAN; give both to calibrate on them, or neither.")
        image, letters = open_image(noisy, axes, "the image")
        drain(denoiser.calibrate_steps(image.data, axes=letters, **asked))
    else:
        pair = open_pair(noisy, clean, axes, None, denoiser=denoiser)
        drain(denoiser.calibrate_steps(pair.noisy, pair.clean, axes=pair.axes, **asked))
    save_bundle(denoiser, output)
    if denoiser.report is not None:
        say_notes(denoiser.report.warnings)
        click.echo(table(denoiser.report))
    click.echo(str(output))


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


@click.command()
@click.argument("noisy")
@click.argument("clean")
@axes_option
@channels_option
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
@device_option
@json_option
@force_option
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
    from napari_btn.workflow.scan import scan_steps

    if plot:
        ready(plot, force)
    pair = open_pair(noisy, clean, axes, channels)
    result = drain(scan_steps(pair, depths=depths, channels=widths, dilations=dilations, preset=preset,
                              members=members, steps=steps, seed=seed, device=device))  # fmt: skip
    if plot:
        from napari_btn.io.atomic import written_whole
        from napari_btn import plots

        with written_whole(plot, overwrite=force) as rough:
            plots.scan(result.rows).savefig(rough)
    click.echo(json.dumps(result.to_dict()) if as_json else result.table())
