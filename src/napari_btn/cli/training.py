"""Commands that make a bundle: train, calibrate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from napari_btn.cli.files import ImageFile, Model, PairFiles, Target, ready, save_bundle, values_of
from napari_btn.cli.keeping import Keeper
from napari_btn.cli.options import (
    SPLITS,
    axes_option,
    bundle_argument,
    channels_option,
    coverage_options,
    detector_options,
    device_option,
    executor_at,
    force_option,
    gathered,
    groups_option,
    mask_option,
    members_text,
    preset_option,
    promise_options,
    scheduler_option,
    seed_option,
    steps_option,
    supervision_options,
    to_file,
    valid_option,
)
from napari_btn.cli.terminal import drain, say, say_notes, table, write_json
from napari_btn.core.settings import (
    PRESETS,
    CalibrationSettings,
    NetworkSettings,
    Split,
    SplitAxis,
    SupervisionSettings,
)
from napari_btn.core.supervision.registry import SUPERVISIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.networks.family import Member
    from napari_btn.core.settings import Score, TrainSettings, Unit
    from napari_btn.denoiser import Denoiser

__all__ = ["calibrate", "train", "train_settings"]


@dataclass(frozen=True)
class _Promise:
    """Promise of the coverage, and the pixels that are calibrated separately; None keeps a setting."""

    unit: Unit | None
    score: Score | None
    delta: float | None
    groups: int | None
    mask: str | None = None

    def settings(self, known: CalibrationSettings) -> CalibrationSettings:
        """Return the settings with the options that were given."""
        return replace(
            known,
            unit=self.unit or known.unit,
            score=self.score or known.score,
            delta=known.delta if self.delta is None else self.delta,
        )

    @property
    def tokens(self) -> int:
        """Number of tokens that are calibrated apart; 0 for none."""
        if self.groups == 1:
            raise ValueError("--groups is 1; give 2 or more to calibrate tokens separately, or 0 for none.")
        return self.groups or 0


def train_settings(
    preset: str, steps: int | None, start: str = "pretrained", saturation: float | None = None
) -> TrainSettings:
    """Return the settings of a preset, with other steps where they are asked for.

    Parameters
    ----------
    preset : str
        One of `PRESETS`.
    steps : int, optional
        Training steps per member; those of the preset by default.
    start : str
        What members start from.
    saturation : float, optional
        Largest value of the detector.
    """
    chosen = replace(PRESETS[preset], start=start, saturation=saturation)
    return replace(chosen, steps=steps, warm_share=1.0) if steps else chosen


@dataclass(frozen=True)
class Training:
    """Networks and their training."""

    preset: str
    members: int
    alpha: float
    supervision: str
    seed: int
    device: str
    family: str
    depth: int | None
    bias_free: bool
    steps: int | None
    start: str
    saturation: float | None
    split: Split | SplitAxis | None

    def denoiser(self, promise: _Promise, learning: SupervisionSettings) -> Denoiser:
        """Return a denoiser with these settings, not trained yet."""
        from napari_btn.denoiser import Denoiser

        settings = promise.settings(CalibrationSettings(groups=promise.tokens))
        if self.split:
            chosen: dict[str, Any] = {"split" if self.split in get_args(Split) else "split_axis": self.split}
            settings = replace(settings, **chosen)
        return Denoiser(
            preset=self.preset,
            members=self.members,
            alpha=self.alpha,
            supervision=self.supervision,
            seed=self.seed,
            device=self.device,
            network=NetworkSettings(
                family=self.family, depth=self.depth or NetworkSettings().depth, bias_free=self.bias_free
            ),
            train=train_settings(self.preset, self.steps, self.start, self.saturation),
            calibration=settings,
            supervision_settings=learning,
        )


@click.command()
@click.argument("noisy")
@click.argument("clean", required=False)
@to_file
@axes_option
@channels_option
@preset_option("standard")
@click.option(
    "--members", type=click.IntRange(1), default=10, show_default=True, help="Number of networks to train."
)
@coverage_options(0.1)
@click.option(
    "--supervision",
    type=click.Choice(list(SUPERVISIONS)),
    default="pair",
    show_default=True,
    help="What the networks learn from; without CLEAN: noise2noise, noise2void or thinning.",
)
@supervision_options
@click.option(
    "--noise-model",
    help="simulation: noise model (JSON or .npz file) to add to NOISY, which is then a clean image.",
)
@seed_option
@device_option
@click.option(
    "--family",
    default="sms",
    show_default=True,
    help="Kind of networks: sms, unet, dncnn, cdae; sms+unet: in turn.",
)
@click.option("--depth", type=click.IntRange(1), help="Convolutions (nodes) per network.")
@click.option(
    "--bias-free",
    is_flag=True,
    help="Networks without additive constants, for images with other noise levels than the training.",
)
@steps_option
@click.option(
    "--start",
    default="pretrained",
    show_default=True,
    help="What networks start from: pretrained, scratch (random weights), or a file of `napari-btn pretrain`.",
)
@click.option(
    "--saturation",
    type=float,
    help="Largest value that the detector can give; where the target has it, the signal may be higher.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    help="How one field (or series) is split; default: its longest axis.",
)
@click.option(
    "--regions",
    help="Image painted with 1 for training, 2 for calibration and 3 for the report, used instead of the "
    "split.",
)
@promise_options
@groups_option
@detector_options
@valid_option
@click.option(
    "--pair", type=(str, str), multiple=True, metavar="NOISY CLEAN", help="Another pair, of another field."
)
@click.option("--report", type=click.Path(path_type=Path), help="JSON file for the coverage report.")
@click.option("--resume", is_flag=True, help="Continue from the members that an interrupted run kept.")
@scheduler_option
@force_option
@gathered(pair=PairFiles, target=Target, chosen=Training, promise=_Promise, learning=SupervisionSettings)
def train(
    pair: PairFiles,
    target: Target,
    chosen: Training,
    promise: _Promise,
    learning: SupervisionSettings,
    report: Path | None,
    resume: bool,
    scheduler: str | None,
) -> None:
    """Train on NOISY and CLEAN, calibrate, and write MODEL.btn.

    Instead of both, the description of a data set can be given: `napari-btn train soil.yaml -o soil.btn`.
    Without CLEAN, --supervision says how NOISY teaches the networks. With --supervision simulation, NOISY is a clean
    image, and --noise-model makes it noisy.

    Each finished member is kept in MODEL.btn.partial until the end; after Ctrl-C or a crash, the same call with
    --resume goes on.
    """
    target.ready(*pair.inputs)
    if report:
        ready(report, target.force, *pair.inputs)
    opened = pair.open()
    denoiser = chosen.denoiser(promise, learning)
    painted = pair.painted
    with executor_at(scheduler) as executor:
        measured = _fit(
            denoiser, opened, target, pair.named, regions=painted, resume=resume, executor=executor
        )
    if report:
        write_json(measured.to_dict(), report)
    click.echo(table(measured))
    click.echo(f"{target.output}: {members_text(denoiser.members)}")


def _fit(
    denoiser: Denoiser,
    pair: Pair,
    target: Target,
    files: Mapping[str, str],
    *,
    regions: Any,
    resume: bool,
    executor: Executor | None = None,
) -> Report:
    """Fit, save the bundle and return the report; finished members are kept until the bundle is saved."""
    partial = target.output.with_name(target.output.name + ".partial")
    data = _record(denoiser, pair, regions)
    checkpoint = _checkpoint(partial, denoiser, data, resume=resume, force=target.force)
    check = denoiser.check(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names,
                           pixel_size=pair.pixel_size, unit=pair.unit, valid=pair.valid,
                           noise_model=pair.noise_model, detector=pair.detector, regions=regions)  # fmt: skip
    say_notes(check.notes)
    say(
        check.forecast.note(denoiser.alpha)[1]
        .replace("(Add scenes)", "(--pair)")
        .replace("Add scenes for more", "More fields (--pair) give more")
    )
    shape = (pair.clean if pair.noisy is None else pair.noisy).shape
    say(f"{denoiser.estimate(shape, pair.axes).note}.")
    step = denoiser.fit_steps(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names,
                              pixel_size=pair.pixel_size, unit=pair.unit, valid=pair.valid,
                              noise_model=pair.noise_model, detector=pair.detector, regions=regions, resume=checkpoint,
                              executor=executor)  # fmt: skip
    report = Keeper(denoiser, partial, data, checkpoint).train(step, target.output, files).report
    assert report is not None, "a fitted denoiser has a report"
    say_notes(note for note in report.warnings if note not in check.notes)
    return report


def _record(denoiser: Denoiser, pair: Pair, regions: Any) -> dict[str, Any]:
    """Return what members learn from: hashes of the images and valid pixels, and how they are split."""
    from napari_btn.core.data.fingerprint import fingerprint_steps
    from napari_btn.core.data.image import View
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.workflow.inputs import scenes_of, sound_pair

    known = denoiser.calibration_settings
    views = scenes_of(sound_pair(pair)[0], EnsembleSettings.from_dict(denoiser.settings()))
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
    """Return the members that an interrupted run of the same settings kept."""
    from napari_btn.denoiser import load_partial

    if not partial.exists():
        if resume:
            say(f"Note: there is no {partial.name} to resume; training starts with the first member.")
        return ()
    if not resume:
        if force:
            return ()
        raise ValueError(
            f"{partial} holds an interrupted run; give --resume to go on, or --force to start again."
        )
    earlier, checkpoint, learned = load_partial(partial)
    for name in ("seed", "preset", "supervision", "supervision_settings", "levels", "network", "train"):
        was, now = getattr(earlier, name), getattr(denoiser, name)
        if was != now:
            raise ValueError(
                f"{partial} was trained with {name} {was}, now it is {now}; give the same to resume."
            )
    for name in sorted({*learned, *data}):
        if learned.get(name) != data.get(name):
            raise ValueError(
                f"{partial} was trained with another {name}; its members may have seen the pixels that calibrate now. "
                "Give the same images and split to resume, or --force without --resume to start again."
            )
    return checkpoint


@click.command()
@bundle_argument
@click.argument("noisy", required=False)
@click.argument("clean", required=False)
@to_file
@axes_option
@coverage_options(None)
@promise_options
@groups_option
@mask_option
@device_option
@force_option
@gathered(model=Model, target=Target, promise=_Promise)
def calibrate(
    model: Model,
    noisy: str | None,
    clean: str | None,
    target: Target,
    axes: str | None,
    alpha: float | None,
    promise: _Promise,
) -> None:
    """Calibrate MODEL.btn to another coverage, or on the pair NOISY CLEAN; nothing is trained.

    Networks that learned from noisy images alone are calibrated on NOISY alone.
    With --groups, NOISY alone is the image that MODEL.btn was trained on: its tokens are calibrated separately.
    """
    target.ready()
    if promise.groups is not None and promise.mask is not None:
        raise ValueError(
            "--groups and --mask came together; pixels belong either to tokens or to the groups of a mask. "
            "Give one."
        )
    denoiser = model.load()
    asked: dict[str, Any] = {
        "alpha": denoiser.alpha if alpha is None else alpha,
        "groups": values_of(promise.mask) if promise.groups is None else promise.tokens,
        "settings": promise.settings(denoiser.calibration_settings),
    }
    if noisy is None:
        denoiser.calibrate(**asked)
    elif clean is None:
        opened = ImageFile(noisy, axes).open()
        denoiser.calibrate(opened.image.data, axes=opened.axes, **asked).name_inputs(noisy=noisy)
    else:
        files = PairFiles(noisy, clean, axes)
        pair = files.open(denoiser)
        denoiser.calibrate(pair.noisy, pair.clean, axes=pair.axes, **asked).name_inputs(**files.named)
    save_bundle(denoiser, target.output)
    if denoiser.report is not None:
        say_notes(denoiser.report.warnings)
        click.echo(table(denoiser.report))
    click.echo(str(target.output))
