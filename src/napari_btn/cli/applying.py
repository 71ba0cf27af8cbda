"""Commands that apply a bundle: predict, evaluate, tokens, regions."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    values_of,
)
from napari_btn.cli.options import (
    axes_option,
    bundle_argument,
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
    from concurrent.futures import Executor

    import numpy as np
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.settings import TokenMethod
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.denoiser import Denoiser
    from napari_btn.workflow.propose import Choice, Search

__all__ = ["evaluate", "predict", "regions", "tokens"]


@click.command()
@bundle_argument
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@to_file
@axes_option
@mask_option
@valid_option
@device_option
@scheduler_option
@force_option
@gathered(model=Model)
def predict(
    model: Model, images: tuple[str, ...], output: Path, axes: str | None, mask: str | None, valid: str | None,
    scheduler: str | None, force: bool,
) -> None:  # fmt: skip
    """Write lower, median, upper, width, spread and mean of IMAGE.

    OUT ends with .ome.tif (one image per map), .ome.zarr (one group per map) or .npz (one key per map). Of several
    images, of a folder of images, or of a data set by description (.yaml, .json), OUT is a folder, which gets one
    .ome.tif of each and table.csv with widths, coverage where there is a clean image, and notes.
    """
    from napari_btn.core.calibration.conformal import covered
    from napari_btn.io.images import output_format, write_prediction
    from napari_btn.workflow.recipe import with_files

    batch = Batch(images, output, axes, force)
    if batch.many:
        if mask or valid or scheduler:
            raise ValueError("--mask, --valid and --scheduler go with one image; predict each image alone.")
        batch.run(model)
        return
    source, target = ImageFile(images[0], axes, mask, valid), Target(output, force)
    target.ready_image(model.bundle, *source.inputs)
    tiled = output_format(target.output).is_folder
    denoiser = model.load()
    with executor_at(scheduler) as executor:
        prediction = _predict(denoiser, source.open(), tiled=target if tiled else None, executor=executor)
    if not tiled:
        known = with_files(prediction.provenance, {"image": source.image})
        write_prediction(replace(prediction, provenance=known), target.output, overwrite=target.force)
    share = f"{100 * (1 - prediction.alpha):g} %"
    click.echo(f"{target.output}: {share} intervals of {covered(prediction.covers)}")


def _predict(
    denoiser: Denoiser,
    opened: OpenImage,
    *,
    tiled: Target | None = None,
    quantiles: bool = False,
    executor: Executor | None = None,
) -> Prediction:
    """Predict an image, after saying where it differs from those that the bundle was trained on."""
    say_differences(opened.image, denoiser)
    prediction = denoiser.predict(
        opened.image.data,
        axes=opened.axes,
        out=None if tiled is None else tiled.output,
        overwrite=tiled is not None and tiled.force,
        quantiles=quantiles,
        groups=opened.groups,
        valid=opened.valid,
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
@click.option("--html", type=click.Path(path_type=Path), help="HTML file: one page with figures.")
@mask_option
@valid_option
@device_option
@force_option
@gathered(model=Model, files=PairFiles)
def evaluate(model: Model, files: PairFiles, as_json: bool, html: Path | None, force: bool) -> None:
    """Print how well MODEL.btn's intervals on NOISY hold CLEAN."""
    from napari_btn.core.data.fingerprint import fingerprint_steps
    from napari_btn.core.evaluation.report import evaluate as measure
    from napari_btn.workflow.calibrate import copies_in_steps

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
    if set(drain(fingerprint_steps(pair.views.noisy)).values()) & set(denoiser.provenance["images"].values()):
        say("Note: the networks were trained on a part of this image, which flatters them; see info.")
    elif copies := drain(copies_in_steps(denoiser.model, pair.views)):
        say(f"Note: {copies} That flatters them.")
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
class Clustering:
    """Clustering of latents into tokens."""

    n_tokens: int
    order_by: str | None
    method: TokenMethod | None
    refit: bool

    def check(self, denoiser: Denoiser) -> None:
        """Raise unless the channel that orders the tokens exists."""
        from napari_btn.core.data.image import channel_number

        if self.order_by is not None:
            channel_number(_number(self.order_by), denoiser.channel_names)

    def tokens(self, denoiser: Denoiser, opened: OpenImage, prediction: Prediction) -> Tokens:
        """Return the tokens of an image."""
        return denoiser.tokens(
            opened.image.data, self.n_tokens, opened.axes, refit=self.refit, method=self.method,
            order_by=None if self.order_by is None else _number(self.order_by), prediction=prediction,
            valid=opened.valid,
        )  # fmt: skip


@click.command()
@bundle_argument
@click.argument("image")
@to_file
@axes_option
@click.option(
    "-n", "--n-tokens", type=click.IntRange(1, 120), default=20, show_default=True, help="How many."
)
@click.option("--table", "rows", type=click.Path(path_type=Path), help="CSV file: one row per token.")
@click.option("--order-by", help="Channel whose median numbers the tokens; default: the first.")
@click.option(
    "--method",
    type=click.Choice(TOKEN_METHODS),
    help="How latents are clustered; default: as the palette in MODEL.btn was, or kmeans. Another is learned again.",
)
@click.option("--refit", is_flag=True, help="Learn the palette again from this image.")
@click.option("--keep", is_flag=True, help="Store a palette that was learned in MODEL.btn.")
@valid_option
@device_option
@force_option
@gathered(model=Model, source=ImageFile, target=Target, how=Clustering)
def tokens(
    model: Model, source: ImageFile, target: Target, how: Clustering, rows: Path | None, keep: bool
) -> None:
    """Write IMAGE as tokens: labels of what the networks see in each pixel, none of them drawn by hand.

    A bundle that holds a palette gives the same token the same number in every image.
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
    prediction = _predict(denoiser, opened)
    found = how.tokens(denoiser, opened, prediction)
    size, unit = _scale(opened, prediction)
    write_images({"tokens": found.labels}, target.output, axes=found.axes, pixel_size=size, unit=unit,
                 provenance=found.provenance, overwrite=target.force)  # fmt: skip
    if rows:
        write_table(found.table, rows, overwrite=target.force)
    if keep:
        save_bundle(denoiser, model.bundle)
    agreed = f"seeds agree on them to {found.stability:.2f}"
    if math.isnan(found.stability):
        agreed = "other seeds find fewer"
    click.echo(f"{target.output}: {found.k} tokens; {agreed}, to 0.8 on up to {found.suggested}")


@dataclass(frozen=True)
class Measure:
    """Reasons to measure a pixel again."""

    channel: str | None
    threshold: float | None
    dwell: float | None
    spread: Literal["plain", "relative"] | None
    relative: bool
    until: float | None
    scene: int | None

    def check(self, denoiser: Denoiser) -> None:
        """Raise unless the channel and the numbers make sense."""
        from napari_btn.core.data.image import channel_number

        if self.threshold is not None and self.channel is None and len(denoiser.channel_names) > 1:
            names = ", ".join(denoiser.channel_names)
            raise ValueError(f"A threshold belongs to one channel; give --channel, one of {names}.")
        if self.channel is not None:
            channel_number(_number(self.channel), denoiser.channel_names)
        if self.dwell is not None and not self.dwell > 0:
            raise ValueError(f"--dwell is {self.dwell:g}; give how many times the dwell, above 0.")
        if self.until is not None and not self.until >= 0:
            raise ValueError(f"--until is {self.until:g}; give an area, 0 or more.")
        scores = {"--threshold": self.threshold, "--spread": self.spread, "--relative": self.relative or None}
        if len(came := [name for name, value in scores.items() if value is not None]) > 1:
            raise ValueError(
                f"{' and '.join(came)} came together; the score is made from one. Leave one out."
            )
        if self.until is not None and self.threshold is None:
            raise ValueError("--until is about decisions at a threshold; give --threshold, or leave it out.")

    def choice(self, prediction: Prediction) -> Choice:
        """Return the score of each pixel: undecided at the threshold where there is one, else by width."""
        from napari_btn.workflow.propose import Choice

        number = None if self.channel is None else prediction.channel_number(_number(self.channel))
        channels = tuple(range(len(prediction.channel_names))) if number is None else (number,)
        kind = {None: "width", "plain": "spread", "relative": "relative spread"}[self.spread]
        if self.relative:
            kind = "relative width"
        if self.threshold is None:
            return Choice(kind, channels, scene=self.scene or 0)
        return Choice("ambiguity", channels, (self.threshold,) * len(channels), self.scene or 0)


@dataclass(frozen=True)
class Windows:
    """Size, number and margin of the fields of view, and where they are proposed."""

    window: tuple[int, int]
    planes: int | None
    count: int
    margin: int
    within: str | None = None
    measured: Path | None = None

    def area(self, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Return the pixels whose score counts; None for all."""
        import numpy as np

        from napari_btn.core.remeasure.regions import label_image
        from napari_btn.io.regions import REGION_ENDINGS, read_regions

        if self.within is None and self.measured is None:
            return None
        area = np.ones(shape, dtype=bool)
        if self.within is not None and self.within.lower().endswith(REGION_ENDINGS):
            area = label_image(read_regions(self.within), shape) > 0
        elif self.within is not None:
            area = np.asarray(values_of(self.within)) != 0
            if area.shape != shape:
                raise ValueError(
                    f"--within {self.within} has shape {area.shape}, the image has {shape} along its space axes; they "
                    "must be the same. Give an area of the whole image."
                )
        if self.measured is not None:
            area &= label_image(read_regions(self.measured), shape) == 0
        if not area.any():
            raise ValueError("No pixel is inside the area; give another --within or --measured.")
        return area

    def search(self, prediction: Prediction, until: float | None, measure: Measure) -> Search:
        """Return what to look for; ``until`` is in pixels."""
        from napari_btn.core.calibration.dose import dose_of
        from napari_btn.workflow.propose import Search, sizes_of

        sizes = sizes_of(prediction)
        depth = sizes.get("Z")
        size = self.window if depth is None else (self.planes or depth, *self.window)
        dose = None
        if measure.dwell is not None and measure.threshold is not None and prediction.held_out is not None:
            dose = dose_of(prediction.held_out)
        return Search(
            size,
            self.count,
            self.margin,
            spacing=0,
            until=until,
            dose=dose,
            dwell=1.0 if measure.dwell is None else measure.dwell,
            area=self.area(tuple(sizes[a] for a in "ZYX" if a in sizes)),
        )


@click.command()
@bundle_argument
@click.argument("image")
@to_file
@axes_option
@click.option("--channel", help="Channel that is scored; default: all together.")
@click.option("--threshold", type=float, help="Where it is undecided whether the channel exceeds this.")
@click.option(
    "--dwell",
    type=float,
    help="Mean dwell of the windows, in dwells of IMAGE, whose counts decide; default: windows decide everything.",
)
@click.option(
    "--until",
    type=float,
    help="Expected wrongly decided area that is small enough, in the image's unit (else pixels): stops there.",
)
@click.option(
    "--spread",
    type=click.Choice(["plain", "relative"]),
    help="Where the members disagree, plainly or as a share of the interval's width.",
)
@click.option("--relative", is_flag=True, help="Where the interval is wide for the signal.")
@click.option(
    "--window", type=click.IntRange(1), nargs=2, default=(64, 64), show_default=True, help="Rows, columns."
)
@click.option("--planes", type=click.IntRange(1), help="Planes of the window in a volume; default: all.")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="How many at most.")
@click.option("--margin", type=click.IntRange(0), default=0, help="Pixels kept free along the border.")
@click.option(
    "--within",
    metavar="AREA",
    help="Where windows are proposed: an image, not zero inside, or regions (.csv, .geojson, .zip). Default: all.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="Regions that were measured already (.csv, .geojson, .zip); their pixels don't count.",
)
@click.option("--scene", type=click.IntRange(0), help="Which scene, where the image has several.")
@click.option(
    "--stage",
    type=click.Path(path_type=Path),
    help="CSV of three places or more, row,column,stage_1,stage_2: adds the stage's coordinates.",
)
@json_option
@device_option
@force_option
@gathered(model=Model, source=ImageFile, target=Target, measure=Measure, windows=Windows)
def regions(
    model: Model,
    source: ImageFile,
    target: Target,
    measure: Measure,
    windows: Windows,
    stage: Path | None,
    as_json: bool,
) -> None:
    """Write fields of view of IMAGE to measure again, best first.

    OUT ends with .csv, .geojson (QuPath) or .zip (ImageJ). Without --threshold, --spread and --relative,
    where the interval is wide. With --threshold, the expected wrongly decided area is printed: now, and after
    the windows (as if decided without error, unless --dwell is given).
    """
    from napari_btn.io.regions import REGION_ENDINGS, STAGE_ENDINGS, read_stage, write_regions
    from napari_btn.workflow.propose import dwell_sentence, pixel_size_of, propose_steps, sizes_of

    output = target.output
    if output.suffix.lower() not in REGION_ENDINGS:
        raise ValueError(
            f"{output.name} has no ending for regions; choose one of {', '.join(REGION_ENDINGS)}."
        )
    if stage is not None and output.suffix.lower() not in STAGE_ENDINGS:
        raise ValueError(
            f"{output.name} can't hold stage coordinates; choose {' or '.join(STAGE_ENDINGS)}, or leave --stage out."
        )
    target.ready(model.bundle, *source.inputs, stage, windows.within, windows.measured)
    if stage is not None:
        read_stage(stage)  # refused now rather than after the prediction
    denoiser = model.load()
    measure.check(denoiser)
    opened = source.open()
    prediction = _predict(denoiser, opened, quantiles=measure.threshold is not None)
    known, unit = _scale(opened, prediction)
    prediction = replace(prediction, pixel_size=known, unit=unit)
    size, unit = pixel_size_of(prediction)
    registered = None if stage is None else read_stage(stage, size[-2:])
    until = None if measure.until is None else measure.until / math.prod(size)
    search = windows.search(prediction, until, measure)
    made = drain(propose_steps(prediction, measure.choice(prediction), search))
    found, expected = list(made.regions), made.expected
    write_regions(found, output, stage=registered, provenance=prediction.provenance, overwrite=target.force)
    if registered is not None and registered.residual:
        say(f"The places agree on the stage to {registered.residual:.3g} of its unit (root mean square).")
    if not found and not (expected and expected.more == 0):
        say("Note: no pixel has a score; there is nothing to measure again by this measure.")
    if as_json:
        keys = ("y", "x", "height", "width", "z", "depth", "score", "centre", "unit", "dwell")
        click.echo(json.dumps([{k: getattr(r, k) for k in keys} for r in found]))
    for k, r in enumerate(found if not as_json else (), start=1):
        at = ", ".join(f"{v:.6g}" for v in r.centre)
        dwell = "" if r.dwell is None else f", dwell x {r.dwell:g}"
        click.echo(
            f"{k}: rows {r.y}-{r.y + r.height - 1}, columns {r.x}-{r.x + r.width - 1}, centre {at} {unit}{dwell}"
        )
    if expected is not None:
        sizes = sizes_of(prediction)
        shared = dwell_sentence(found, [sizes[a] for a in "ZYX" if a in sizes])
        click.echo(f"{expected.sentence(size, unit, until)} {shared}".rstrip(), err=as_json)
    if as_json:
        return
    click.echo(str(output))


def _number(channel: str | None) -> Any:
    """Return a channel's number if it is one, else its name."""
    return int(channel) if channel is not None and channel.isdigit() else channel


def _scale(opened: OpenImage, prediction: Prediction) -> tuple[tuple[float, ...] | None, str]:
    """Return pixel size and unit of the image, or those of the training if it has none."""
    if opened.image.pixel_size:
        return opened.image.pixel_size, opened.image.unit or "px"
    return prediction.pixel_size, prediction.unit
