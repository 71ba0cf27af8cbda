"""Commands that apply a bundle: predict, evaluate, tokens, regions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from napari_btn.cli.files import (
    groups_of,
    open_image,
    open_pair,
    ready,
    ready_image,
    save_bundle,
    say_differences,
    valid_of,
)
from napari_btn.cli.options import (
    axes_option,
    bundle_argument,
    device_option,
    executor_at,
    force_option,
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

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.image import Image
    from napari_btn.core.settings import TokenMethod
    from napari_btn.denoiser import Denoiser

__all__ = ["evaluate", "predict", "regions", "tokens"]


@click.command()
@bundle_argument
@click.argument("image")
@to_file
@axes_option
@mask_option
@valid_option
@device_option
@scheduler_option
@force_option
def predict(
    bundle: Path,
    image: str,
    output: Path,
    axes: str | None,
    mask: str | None,
    valid: str | None,
    device: str,
    scheduler: str | None,
    force: bool,
) -> None:
    """Write lower, median, upper, width and spread of IMAGE.

    OUT ends with .ome.tif (one image per map), .ome.zarr (one group per map) or .npz (one key per map).
    """
    from napari_btn.core.calibration.conformal import covered
    from napari_btn.denoiser import load
    from napari_btn.io.images import write_prediction

    ready_image(output, force, image, bundle, mask)
    denoiser = load(bundle, device=device)
    tiled = output.suffix.lower() == ".zarr"
    with executor_at(scheduler) as executor:
        prediction = _predict(
            denoiser,
            *open_image(image, axes, "the image"),
            out=output if tiled else None,
            overwrite=force,
            groups=groups_of(mask),
            valid=valid_of(valid),
            executor=executor,
        )
    if not tiled:
        write_prediction(prediction, output, overwrite=force)
    click.echo(f"{output}: {100 * (1 - prediction.alpha):g} % intervals of {covered(prediction.covers)}")


def _predict(
    denoiser: Denoiser,
    image: Image,
    axes: str,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    quantiles: bool = False,
    groups: Any = None,
    valid: Any = None,
    executor: Executor | None = None,
) -> Prediction:
    """Prediction of an image, after saying where it differs from what the bundle was trained on."""
    say_differences(image, denoiser)
    step = denoiser.predict_steps(
        image.data,
        axes=axes,
        out=out,
        overwrite=overwrite,
        quantiles=quantiles,
        groups=groups,
        valid=valid,
        pixel_size=_size_of(image, axes),
        unit=image.unit,
        executor=executor,
    )
    prediction = drain(step)
    say_notes(note for note in prediction.notes if note not in denoiser.notes)
    return prediction


@click.command()
@bundle_argument
@click.argument("noisy")
@click.argument("clean")
@axes_option
@json_option
@click.option("--html", type=click.Path(path_type=Path), help="HTML file: one page with figures.")
@mask_option
@valid_option
@device_option
@force_option
def evaluate(
    bundle: Path,
    noisy: str,
    clean: str,
    axes: str | None,
    as_json: bool,
    html: Path | None,
    mask: str | None,
    valid: str | None,
    device: str,
    force: bool,
) -> None:
    """Print how well MODEL.btn's intervals on NOISY hold CLEAN."""
    from napari_btn.core.data.fingerprint import fingerprint_steps
    from napari_btn.core.evaluation.report import evaluate as measure
    from napari_btn.denoiser import load

    if html is not None:
        ready(html, force, noisy, clean, bundle, mask)
    denoiser = load(bundle, device=device)
    pair = open_pair(noisy, clean, axes, None, valid, denoiser)
    prediction = drain(
        denoiser.predict_steps(pair.noisy, axes=pair.axes, groups=groups_of(mask), valid=pair.valid)
    )
    report = measure(prediction, pair.clean, valid=pair.valid)
    drift = tuple(note for note in prediction.notes if note not in denoiser.notes)
    report = replace(report, warnings=(*report.warnings, *drift))
    if set(drain(fingerprint_steps(pair.views.noisy)).values()) & set(denoiser.provenance["images"].values()):
        say(
            "Note: a part of this image trained the networks, which flatters them; see info for held-out blocks."
        )
    say_notes(report.warnings)
    click.echo(json.dumps(report.to_dict()) if as_json else table(report))
    if html is not None:
        from napari_btn.plots.page import report_page

        about = {"noisy": noisy, "clean": clean, "networks": str(bundle)}
        title = f"Coverage of {bundle.name} on {Path(noisy).name}"
        write_text(
            report_page(report, title=title, prediction=prediction, clean=pair.clean, about=about), html
        )


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
    help="How latents are clustered; default: as the palette in MODEL.btn was, or kmeans. Another learns anew.",
)
@click.option("--refit", is_flag=True, help="Learn the palette anew from this image.")
@click.option("--keep", is_flag=True, help="Store a palette that was learned in MODEL.btn.")
@valid_option
@device_option
@force_option
def tokens(
    bundle: Path,
    image: str,
    output: Path,
    axes: str | None,
    n_tokens: int,
    rows: Path | None,
    order_by: str | None,
    method: TokenMethod | None,
    refit: bool,
    keep: bool,
    valid: str | None,
    device: str,
    force: bool,
) -> None:
    """Write IMAGE as tokens: labels of what the networks see in each pixel, none of them drawn by hand.

    A bundle that holds a palette gives the same token the same number in every image.
    """
    from napari_btn.core.data.image import channel_number
    from napari_btn.denoiser import load
    from napari_btn.io.images import write_images
    from napari_btn.io.tables import write_table

    if rows and rows.suffix.lower() != ".csv":
        raise ValueError(f"{rows.name} names no format that can be written; end it with .csv.")

    ready_image(output, force, image, bundle)
    if rows:
        ready(rows, force, image, bundle)
    denoiser = load(bundle, device=device)
    if order_by is not None:
        channel_number(_number(order_by), denoiser.channel_names)
    opened, letters = open_image(image, axes, "the image")
    counted = valid_of(valid)
    prediction = _predict(denoiser, opened, letters, valid=counted)
    step = denoiser.tokens_steps(
        opened.data, n_tokens, letters, refit=refit, order_by=_number(order_by or "0"), method=method,
        prediction=prediction, valid=counted,
    )  # fmt: skip
    found = drain(step)
    size, unit = _scale(opened, prediction)
    write_images({"tokens": found.labels}, output, axes=found.axes, pixel_size=size, unit=unit,
                 provenance=found.provenance, overwrite=force)  # fmt: skip
    if rows:
        write_table(found.table, rows, overwrite=force)
    if keep:
        save_bundle(denoiser, bundle)
    agreed = f"seeds agree on them to {found.stability:.2f}"
    if math.isnan(found.stability):
        agreed = "other seeds find fewer"
    click.echo(f"{output}: {found.k} tokens; {agreed}, to 0.8 on up to {found.suggested}")


@click.command()
@bundle_argument
@click.argument("image")
@to_file
@axes_option
@click.option("--channel", help="Channel that is scored; default: all together.")
@click.option("--threshold", type=float, help="Where it is undecided whether the channel exceeds this.")
@click.option("--dwell", type=float, help="Where this many times the dwell would narrow the interval most.")
@click.option(
    "--spread",
    type=click.Choice(["plain", "relative"]),
    help="Where the members disagree, plainly or as a share of the interval's width.",
)
@click.option(
    "--window", type=click.IntRange(1), nargs=2, default=(64, 64), show_default=True, help="Rows, columns."
)
@click.option("--planes", type=click.IntRange(1), help="Planes of the window in a volume; default: all.")
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="How many at most.")
@click.option("--margin", type=click.IntRange(0), default=0, help="Pixels kept free along the border.")
@click.option("--scene", type=click.IntRange(0), help="Which scene, where the image has several.")
@click.option(
    "--stage",
    type=click.Path(path_type=Path),
    help="CSV of three places or more, row,column,stage_1,stage_2: adds the stage's coordinates.",
)
@json_option
@device_option
@force_option
def regions(
    bundle: Path,
    image: str,
    output: Path,
    axes: str | None,
    channel: str | None,
    threshold: float | None,
    dwell: float | None,
    spread: Literal["plain", "relative"] | None,
    window: tuple[int, int],
    planes: int | None,
    count: int,
    margin: int,
    scene: int | None,
    stage: Path | None,
    as_json: bool,
    device: str,
    force: bool,
) -> None:
    """Write fields of view of IMAGE to measure again, best first.

    OUT ends with .csv, .geojson (QuPath) or .zip (ImageJ). Without --threshold, --dwell and --spread,
    where the interval is wide for the signal.
    """
    from napari_btn.core.data.image import channel_number
    from napari_btn.core.remeasure.regions import propose_regions
    from napari_btn.core.remeasure.scores import score_map
    from napari_btn.denoiser import load
    from napari_btn.io.regions import REGION_ENDINGS, STAGE_ENDINGS, read_stage, write_regions

    if output.suffix.lower() not in REGION_ENDINGS:
        raise ValueError(
            f"{output.name} has no ending for regions; choose one of {', '.join(REGION_ENDINGS)}."
        )
    if stage is not None and output.suffix.lower() not in STAGE_ENDINGS:
        raise ValueError(
            f"{output.name} can't hold stage coordinates; choose {' or '.join(STAGE_ENDINGS)}, or leave --stage out."
        )
    ready(output, force, image, bundle, stage)
    if stage is not None:
        read_stage(stage)  # refused now rather than after the prediction
    denoiser = load(bundle, device=device)
    if threshold is not None and channel is None and len(denoiser.channel_names) > 1:
        names = ", ".join(denoiser.channel_names)
        raise ValueError(f"A threshold belongs to one channel; give --channel, one of {names}.")
    if channel is not None:
        channel_number(_number(channel), denoiser.channel_names)
    if dwell is not None and not dwell > 0:
        raise ValueError(f"--dwell is {dwell:g}; give how many times the dwell, above 0.")
    opened, letters = open_image(image, axes, "the image")
    prediction = _predict(denoiser, opened, letters, quantiles=threshold is not None)
    score = score_map(
        prediction,
        channel=_number(channel),
        threshold=threshold,
        dwell_ratio=dwell,
        spread=spread,
        scene=scene,
    )
    size, unit = _scale(opened, prediction)
    if size is not None:
        space = [a for a in prediction.axes if a in "ZYX"]
        size = tuple(size[space.index(a)] for a in "ZYX" if a in space)
    shown = window if score.ndim == 2 else (planes or score.shape[0], *window)
    registered = None if stage is None else read_stage(stage, (size or (1.0, 1.0))[-2:])
    found = propose_regions(score, shown, count, size, unit, margin=margin)
    write_regions(found, output, stage=registered, provenance=prediction.provenance, overwrite=force)
    if registered is not None and registered.residual:
        say(f"The places agree on the stage to {registered.residual:.3g} of its unit (root mean square).")
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


def _size_of(image: Image, axes: str) -> tuple[float, ...] | None:
    """Pixel size of an image along its space axes; None where its file doesn't say."""
    n = sum(a in "ZYX" for a in axes.upper())
    return image.pixel_size if image.pixel_size and len(image.pixel_size) == n else None


def _number(channel: str | None) -> Any:
    """A channel by name, or by number where it is one."""
    return int(channel) if channel is not None and channel.isdigit() else channel


def _scale(image: Image, prediction: Prediction) -> tuple[tuple[float, ...] | None, str]:
    """Pixel size and unit of the image, else those that the bundle was trained at."""
    if image.pixel_size:
        return image.pixel_size, image.unit or "px"
    return prediction.pixel_size, prediction.unit
