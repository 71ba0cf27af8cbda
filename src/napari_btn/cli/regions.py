"""The command that proposes where to measure again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from napari_btn.cli.applying import channel_of, predicted, scale_of
from napari_btn.cli.files import (
    ImageFile,
    Model,
    Target,
    values_of,
)
from napari_btn.cli.options import (
    axes_option,
    bundle_argument,
    device_option,
    force_option,
    gathered,
    json_option,
    to_file,
)
from napari_btn.cli.terminal import drain, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.denoiser import Denoiser
    from napari_btn.workflow.search import Choice, Search

__all__ = ["regions"]


@dataclass(frozen=True)
class _Measure:
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
            channel_number(channel_of(self.channel), denoiser.channel_names)
        if self.dwell is not None and not self.dwell > 0:
            raise ValueError(f"--dwell is {self.dwell:g}; give a multiple of the image's dwell, above 0.")
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
        from napari_btn.workflow.search import Choice

        number = None if self.channel is None else prediction.channel_number(channel_of(self.channel))
        channels = tuple(range(len(prediction.channel_names))) if number is None else (number,)
        kind = {None: "width", "plain": "spread", "relative": "relative spread"}[self.spread]
        if self.relative:
            kind = "relative width"
        if self.threshold is None:
            return Choice(kind, channels, scene=self.scene or 0)
        return Choice("ambiguity", channels, (self.threshold,) * len(channels), self.scene or 0)


@dataclass(frozen=True)
class _Windows:
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

    def search(self, prediction: Prediction, until: float | None, measure: _Measure) -> Search:
        """Return what to look for; ``until`` is in pixels."""
        from napari_btn.core.calibration.dose import dose_of
        from napari_btn.workflow.propose import sizes_of
        from napari_btn.workflow.search import Search

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
@click.option(
    "--threshold", type=float, help="Measure where it is undecided whether the channel exceeds this value."
)
@click.option(
    "--dwell",
    type=float,
    help="Mean dwell time per pixel of the windows, as a multiple of that of IMAGE; default: windows count as "
    "decided without error.",
)
@click.option(
    "--until",
    type=float,
    help="Stop when the expected wrongly decided area is at most this, in the image's unit (else in pixels).",
)
@click.option(
    "--spread",
    type=click.Choice(["plain", "relative"]),
    help="Measure where the members disagree, plainly or as a share of the interval's width.",
)
@click.option("--relative", is_flag=True, help="Measure where the interval is wide relative to the signal.")
@click.option(
    "--window",
    type=click.IntRange(1),
    nargs=2,
    default=(64, 64),
    show_default=True,
    help="Size of a window in pixels: rows, columns.",
)
@click.option("--planes", type=click.IntRange(1), help="Planes of the window in a volume; default: all.")
@click.option(
    "--count", type=click.IntRange(1), default=5, show_default=True, help="Largest number of windows."
)
@click.option(
    "--margin",
    type=click.IntRange(0),
    default=0,
    help="Pixels kept free along the border, and between windows.",
)
@click.option(
    "--within",
    metavar="AREA",
    help="Area where windows are proposed: an image that is not zero inside, or regions (.csv, .geojson, "
    ".zip). Default: all.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="Regions that were measured already (.csv, .geojson, .zip); their pixels don't count.",
)
@click.option(
    "--scene", type=click.IntRange(0), help="Number of the scene, from 0, if the image has several."
)
@click.option(
    "--stage",
    type=click.Path(path_type=Path),
    help="CSV of three places or more, row,column,stage_1,stage_2: adds the stage's coordinates.",
)
@json_option
@device_option
@force_option
@gathered(model=Model, source=ImageFile, target=Target, measure=_Measure, windows=_Windows)
def regions(
    model: Model,
    source: ImageFile,
    target: Target,
    measure: _Measure,
    windows: _Windows,
    stage: Path | None,
    as_json: bool,
) -> None:
    """Write fields of view of IMAGE to measure again, best first.

    OUT ends with .csv, .geojson (QuPath; holds the recipe, too) or .zip (ImageJ). Without --threshold, --spread and
    --relative, where the interval is wide. With --threshold, the expected wrongly decided area is printed: now, and
    after the windows (as if decided without error, unless --dwell is given).
    """
    from napari_btn.io.regions import REGION_ENDINGS, STAGE_ENDINGS, read_stage, write_regions
    from napari_btn.workflow.propose import dwell_sentence, pixel_size_of, propose_steps, sizes_of
    from napari_btn.workflow.recipe import with_files

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
    prediction = predicted(denoiser, opened, quantiles=measure.threshold is not None)
    known, unit = scale_of(opened, prediction)
    caption = with_files(prediction.provenance, source.named)
    prediction = replace(prediction, pixel_size=known, unit=unit, provenance=caption)
    size, unit = pixel_size_of(prediction)
    registered = None if stage is None else read_stage(stage, size[-2:])
    until = None if measure.until is None else measure.until / math.prod(size)
    search = windows.search(prediction, until, measure)
    made = drain(propose_steps(prediction, measure.choice(prediction), search))
    found, expected = list(made.regions), made.expected
    write_regions(found, output, stage=registered, provenance=made.provenance, overwrite=target.force)
    if registered is not None and registered.residual:
        say(f"The places agree on the stage to {registered.residual:.3g} of its unit (root mean square).")
    if not found and not (expected and expected.more == 0):
        say("Note: no pixel has a score, so by this measure there is nothing to measure again.")
    if as_json:
        keys = ("y", "x", "height", "width", "z", "depth", "score", "centre", "unit", "dwell")
        click.echo(json.dumps([{k: getattr(r, k) for k in keys} for r in found]))
    for k, r in enumerate(found if not as_json else (), start=1):
        at = ", ".join(f"{v:.6g}" for v in r.centre)
        dwell = "" if r.dwell is None else f", dwell x {r.dwell:g}"
        centre = f"centre {at} {r.unit}".rstrip()
        click.echo(
            f"{k}: rows {r.y}-{r.y + r.height - 1}, columns {r.x}-{r.x + r.width - 1}, {centre}{dwell}"
        )
    if expected is not None:
        sizes = sizes_of(prediction)
        shared = dwell_sentence(found, [sizes[a] for a in "ZYX" if a in sizes])
        click.echo(f"{expected.sentence(size, unit, until)} {shared}".rstrip(), err=as_json)
    if as_json:
        return
    click.echo(str(output))
