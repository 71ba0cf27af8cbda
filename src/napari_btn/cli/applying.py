"""Commands that apply a bundle: predict, evaluate, tokens."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from napari_btn.cli.datasets import Batch
from napari_btn.cli.files import (
    ImageFile,
    Model,
    OpenImage,
    PairFiles,
    Target,
    ready,
    save_bundle,
    say_differences,
)
from napari_btn.cli.options import (
    axes_option,
    bundle_argument,
    detector_options,
    device_option,
    executor_at,
    force_option,
    gathered,
    json_option,
    mask_option,
    scheduler_option,
    to_file,
    valid_option,
)
from napari_btn.cli.terminal import drain, say, say_notes, table, write_text
from napari_btn.core.settings import TOKEN_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

    import numpy as np
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.settings import TokenMethod
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.denoiser import Denoiser

__all__ = ["evaluate", "predict", "tokens"]


@dataclass(frozen=True)
class _OneImage:
    """Options of a prediction that go with one image."""

    mask: str | None
    valid: str | None
    dark: str | None
    flat: str | None
    defects: str | None
    scheduler: str | None
    draws: int
    seed: int

    @property
    def given(self) -> bool:
        """True if there is any of them."""
        files = (self.mask, self.valid, self.dark, self.flat, self.defects)
        return any(files) or bool(self.scheduler or self.draws)


@click.command()
@bundle_argument
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@to_file
@axes_option
@mask_option
@valid_option
@detector_options
@click.option(
    "--draws",
    type=click.IntRange(0),
    default=0,
    help="Number of plausible images to write beside the maps, as draw_1, draw_2 and so on.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
@device_option
@scheduler_option
@force_option
@gathered(model=Model, batch=Batch, one=_OneImage)
def predict(model: Model, batch: Batch, one: _OneImage) -> None:
    """Write lower, median, upper, width, spread and mean of IMAGE, and whole plausible images with --draws.

    OUT ends with .ome.tif (one image per map), .ome.zarr (one group per map) or .npz (one key per map). Of several
    images, of a folder of images, or of a data set by description (.yaml, .json), OUT is a folder, which gets one
    .ome.tif of each and table.csv with widths, coverage where there is a clean image, and notes.
    """
    from napari_btn.core.calibration.conformal import covered
    from napari_btn.io.images import output_format, write_prediction
    from napari_btn.workflow.recipe import with_files

    if batch.many:
        if one.given:
            raise ValueError(
                "--mask, --valid, --dark, --flat, --defects, --scheduler and --draws work with one image "
                "only; predict each image alone."
            )
        batch.run(model)
        return
    source = ImageFile(batch.images[0], batch.axes, one.mask, one.valid, one.dark, one.flat, one.defects)
    target = Target(batch.output, batch.force)
    target.ready_image(model.bundle, *source.inputs)
    tiled = output_format(target.output).is_folder
    denoiser = model.load()
    with executor_at(one.scheduler) as executor, _room(target, one.draws) as room:
        # with draws, the output appears when the last of them is there
        maps = target if room is None else Target(room / target.output.name, force=False)
        prediction = predicted(
            denoiser,
            source.open(),
            tiled=maps if tiled else None,
            quantiles=bool(one.draws),
            executor=executor,
        )
        draws = None if room is None else _drawn(prediction, one, room / "draws.npy")
        if not tiled or draws is not None:
            known = with_files(prediction.provenance, source.named)
            if draws is not None:
                known |= {"draws": one.draws, "draws_seed": one.seed}
            write_prediction(
                replace(prediction, provenance=known), target.output, draws=draws, overwrite=target.force
            )
        # some systems remove no file that is mapped into memory
        del draws
    aim = f"{100 * (1 - prediction.alpha):g} % of {covered(prediction.covers)}"
    plausible = f", and {one.draws} plausible images of it" if one.draws else ""
    click.echo(f"{target.output}: intervals that aim at {aim}{plausible}")


@contextmanager
def _room(target: Target, draws: int) -> Iterator[Path | None]:
    """Yield a temporary folder beside the output if there are draws."""
    from napari_btn.io.atomic import room_beside

    with room_beside(target.output) if draws else nullcontext() as room:
        yield room


def _drawn(prediction: Prediction, one: _OneImage, file: Path) -> NDArray[np.float32]:
    """Return draws that lie in a file, since all of them need not fit in memory."""
    from numpy.lib.format import open_memmap

    from napari_btn.core.calibration.draws import draws_steps

    shape = (one.draws, *(int(n) for n in prediction.median.shape))
    made = open_memmap(file, mode="w+", dtype="float32", shape=shape)
    return drain(draws_steps(prediction, one.draws, seed=one.seed, out=made))


def predicted(
    denoiser: Denoiser,
    opened: OpenImage,
    *,
    tiled: Target | None = None,
    quantiles: bool = False,
    executor: Executor | None = None,
) -> Prediction:
    """Predict an image, after saying where it differs from those that the bundle was trained on.

    Parameters
    ----------
    denoiser : Denoiser
    opened : OpenImage
    tiled : Target, optional
        Zarr folder to write the maps to while they are predicted.
    quantiles : bool
        Keep the quantiles of all levels.
    executor : Executor, optional
        Runs the members.
    """
    # the prediction says where pixels have another size
    say_differences(opened.image, denoiser, sized=opened.pixel_size is None)
    prediction = denoiser.predict(
        opened.image.data,
        axes=opened.axes,
        out=None if tiled is None else tiled.output,
        overwrite=tiled is not None and tiled.force,
        quantiles=quantiles,
        groups=opened.groups,
        valid=opened.valid,
        detector=opened.detector,
        pixel_size=opened.pixel_size,
        unit=opened.image.unit,
        executor=executor,
    )
    say_notes(note for note in prediction.notes if note not in denoiser.notes)
    return prediction


@click.command()
@bundle_argument
@click.argument("noisy")
@click.argument("clean", required=False)
@axes_option
@json_option
@click.option(
    "--html", type=click.Path(path_type=Path), help="HTML file for the report: one page with figures."
)
@mask_option
@valid_option
@device_option
@force_option
@gathered(model=Model, files=PairFiles)
def evaluate(model: Model, files: PairFiles, as_json: bool, html: Path | None, force: bool) -> None:
    """Print how often CLEAN lies in MODEL.btn's intervals on NOISY.

    After learning from noisy images alone, another noisy frame of the field checks them, given as CLEAN.
    """
    from napari_btn.core.evaluation.report import evaluate as measure
    from napari_btn.workflow.inputs import sound_view
    from napari_btn.workflow.unseen import copies_in_steps, was_trained_on_steps

    if html is not None:
        ready(html, force, model.bundle, *files.inputs)
    denoiser = model.load()
    pair = files.open(denoiser)
    if pair.clean is None:
        raise ValueError(
            f"{files.noisy} came without CLEAN; give the clean image too, or the description of a data set."
        )
    prediction = denoiser.predict(pair.noisy, axes=pair.axes, groups=files.groups, valid=pair.valid)
    report = measure(prediction, pair.clean, valid=pair.valid)
    drift = tuple(note for note in prediction.notes if note not in denoiser.notes)
    report = replace(report, warnings=(*report.warnings, *drift))
    detector = denoiser.model.learned.detector
    repaired = None if detector is None else sound_view(denoiser.model, pair.views.noisy)
    if drain(was_trained_on_steps(denoiser.model, pair.views, repaired)):
        say(
            "Note: the networks were trained on a part of this image, so the figures may be better than on a "
            "new image; see napari-btn info."
        )
    elif copies := drain(copies_in_steps(denoiser.model, pair.views, also=repaired)):
        say(f"Note: {copies} So the figures may be better than on a new image.")
    say_notes(report.warnings)
    click.echo(json.dumps(report.to_dict()) if as_json else table(report))
    if html is not None:
        from napari_btn.plots.page import report_page

        about = {"noisy": files.noisy, "clean": files.clean or files.noisy, "networks": str(model.bundle)}
        title = f"Coverage of {model.bundle.name} on {Path(files.noisy).name}"
        write_text(
            report_page(report, title=title, prediction=prediction, clean=pair.clean, about=about), html
        )


@dataclass(frozen=True)
class _Clustering:
    """Clustering of latents into tokens."""

    n_tokens: int
    order_by: str | None
    method: TokenMethod | None
    refit: bool

    def check(self, denoiser: Denoiser) -> None:
        """Raise unless the channel that orders the tokens exists."""
        from napari_btn.core.data.image import channel_number

        if self.order_by is not None:
            channel_number(channel_of(self.order_by), denoiser.channel_names)

    def tokens(self, denoiser: Denoiser, opened: OpenImage, prediction: Prediction) -> Tokens:
        """Return the tokens of an image."""
        return denoiser.tokens(
            opened.image.data, self.n_tokens, opened.axes, refit=self.refit, method=self.method,
            order_by=None if self.order_by is None else channel_of(self.order_by), prediction=prediction,
            valid=opened.valid,
        )  # fmt: skip


@click.command()
@bundle_argument
@click.argument("image")
@to_file
@axes_option
@click.option(
    "-n", "--n-tokens", type=click.IntRange(1, 120), default=20, show_default=True, help="Number of tokens."
)
@click.option(
    "--table", "rows", type=click.Path(path_type=Path), help="CSV file with one row for each token."
)
@click.option(
    "--order-by",
    help="Channel by whose median the tokens are numbered; default: numbers that tokens keep when -n changes.",
)
@click.option(
    "--method",
    type=click.Choice(TOKEN_METHODS),
    help="How pixels are clustered; default: as for the tokens stored in MODEL.btn, else kmeans. Another "
    "method learns new tokens.",
)
@click.option("--refit", is_flag=True, help="Learn new tokens from this image, even if MODEL.btn holds some.")
@click.option("--keep", is_flag=True, help="Store newly learned tokens (their palette) in MODEL.btn.")
@valid_option
@device_option
@force_option
@gathered(model=Model, source=ImageFile, target=Target, how=_Clustering)
def tokens(
    model: Model, source: ImageFile, target: Target, how: _Clustering, rows: Path | None, keep: bool
) -> None:
    """Write IMAGE as tokens: clusters of pixels that look alike to the networks, found without annotation.

    A bundle that holds tokens gives the same token the same number in every image.
    """
    from napari_btn.io.images import write_images
    from napari_btn.io.tables import write_table

    if rows and rows.suffix.lower() != ".csv":
        raise ValueError(f"{rows.name} names no format that can be written; end it with .csv.")
    target.ready_image(model.bundle, *source.inputs)
    if rows:
        ready(rows, target.force, model.bundle, *source.inputs)
    denoiser = model.load()
    how.check(denoiser)
    opened = source.open()
    prediction = predicted(denoiser, opened)
    found = how.tokens(denoiser, opened, prediction)
    size, unit = scale_of(opened, prediction)
    write_images({"tokens": found.labels}, target.output, axes=found.axes, pixel_size=size, unit=unit,
                 provenance=found.provenance, overwrite=target.force)  # fmt: skip
    if rows:
        write_table(found.table, rows, overwrite=target.force)
    if keep:
        save_bundle(denoiser, model.bundle)
    if found.unlike is not None:
        say(f"Warning: {found.unlike.text}")
    agreed = f"repeated clustering agrees on them to {found.stability:.2f}"
    if math.isnan(found.stability):
        agreed = "repeated clustering finds fewer"
    click.echo(
        f"{target.output}: {found.k} {'token' if found.k == 1 else 'tokens'}; {agreed}, and to 0.8 on up "
        f"to {found.suggested} (1 is best)"
    )


def channel_of(channel: str | None) -> Any:
    """Return a channel's number if it is one, else its name.

    Parameters
    ----------
    channel : str, optional
        As given on the command line.
    """
    return int(channel) if channel is not None and channel.isdigit() else channel


def scale_of(opened: OpenImage, prediction: Prediction) -> tuple[tuple[float, ...] | None, str]:
    """Return pixel size and unit of the image, or those of the training if it has none.

    Parameters
    ----------
    opened : OpenImage
    prediction : Prediction
    """
    if opened.image.pixel_size:
        return opened.image.pixel_size, opened.image.unit or "px"
    return prediction.pixel_size, prediction.unit
