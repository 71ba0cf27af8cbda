"""The whole workflow on simulated data: train, calibrate, predict, evaluate, and show or write the result."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click
import numpy as np

from napari_btn import samples
from napari_btn.cli.terminal import drain, say, table, write_json
from napari_btn.core.evaluation.metrics import correlation
from napari_btn.core.evaluation.report import evaluate
from napari_btn.denoiser import Denoiser
from napari_btn.io.images import write_images, write_prediction

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.evaluation.report import Report

__all__ = ["no_window", "run_demo", "show_demo", "write_demo"]

_SIZE = (256, 512)  # height and width of the simulated fields, in pixels


@dataclass(frozen=True, eq=False)
class _Demo:
    """The results of a run of the demo.

    Parameters
    ----------
    pair : Pair
        The simulated field of the training.
    denoiser : Denoiser
        The denoiser, trained and calibrated on it.
    prediction : Prediction
        The prediction of its noisy image.
    report : Report
        Measured on a second field that was used neither for training nor for calibration.
    noisy_correlation : (C,) ndarray
        Correlation of the second field's noisy image with its truth.
    losses : tuple of (member, step, loss)
        Training losses.
    """

    pair: Pair
    denoiser: Denoiser
    prediction: Prediction
    report: Report
    noisy_correlation: NDArray[np.float64]
    losses: tuple[tuple[int, int, float], ...]


def run_demo(members: int, seed: int) -> _Demo:
    """Run the demo, with progress on stderr and numbers on stdout.

    Parameters
    ----------
    members : int
        Networks to train.
    seed : int
        Seed of the data and of the training.

    Returns
    -------
    _Demo
        All results.
    """
    pair = samples.edx(seed=seed, size=_SIZE)
    names = pair.channel_names or ()
    say(
        f"Simulated maps of {', '.join(names)}, {_SIZE[0]} x {_SIZE[1]} px: counts of a 7 s scan, and the truth."
    )
    denoiser = Denoiser(preset="quick", members=members, seed=seed)
    losses: list[tuple[int, int, float]] = []
    step = denoiser.fit_steps(
        pair.noisy,
        pair.clean,
        axes=pair.axes,
        channel_names=names,
        pixel_size=pair.pixel_size,
        unit=pair.unit,
    )
    drain(step, losses)
    call = f"samples.edx(seed={seed}, size={_SIZE})"
    denoiser.name_inputs(noisy=f"{call}.noisy", clean=f"{call}.clean")
    denoiser.run = drain
    prediction = denoiser.predict(pair.noisy, axes=pair.axes)

    fresh = samples.edx(seed=seed + 1, size=_SIZE)
    report = evaluate(denoiser.predict(fresh.noisy, axes=fresh.axes), fresh.clean)
    flat = (len(names), -1)
    before = correlation(fresh.clean.reshape(flat), fresh.noisy.reshape(flat), axis=-1)
    if denoiser.report is not None:
        click.echo(f"On held-out blocks of the field that was trained on:\n{table(denoiser.report)}\n")
    click.echo(f"On a second field, never seen:\n{table(report)}\n")
    click.echo("Correlation with the truth of the second field, noisy -> median:")
    for name, noisy, median in zip(names, before, report.correlation, strict=True):
        click.echo(f"  {name}  {noisy:.3f} -> {median:.3f}")
    return _Demo(pair, denoiser, prediction, report, before, tuple(losses))


def write_demo(demo: _Demo, folder: Path) -> None:
    """Write layers, bundle, report and pictures; replace those of an earlier demo.

    Parameters
    ----------
    demo : _Demo
        The results.
    folder : Path
        An existing folder.
    """
    pair = demo.pair
    write_images(
        {"noisy": pair.noisy, "clean": pair.clean},
        folder / "edx_pair.ome.tif",
        axes=pair.axes,
        channel_names=pair.channel_names,
        pixel_size=pair.pixel_size,
        unit=pair.unit,
        provenance={"sample": "edx"},
        overwrite=True,
    )
    write_prediction(demo.prediction, folder / "edx_prediction.ome.tif", overwrite=True)
    demo.denoiser.save(folder / "edx.btn")
    held_out = demo.denoiser.report
    numbers = {
        "held_out": held_out.to_dict() if held_out else None,
        "second_field": demo.report.to_dict(),
        "second_field_noisy_correlation": demo.noisy_correlation.tolist(),
    }
    write_json(numbers, folder / "report.json")
    if find_spec("matplotlib") is None:
        say("Note: no pictures, because matplotlib isn't installed: pip install 'napari-btn[all]'.")
    else:
        _write_pictures(demo, folder)


def show_demo(demo: _Demo) -> None:
    """Open napari with the pair, its maps and the Denoise dock, until the window is closed.

    Parameters
    ----------
    demo : _Demo
        The results.
    """
    from napari_btn.widgets.viewer import open_result

    open_result(demo.pair, demo.denoiser.model, demo.prediction)


def no_window() -> str:
    """Return the reason why napari can't be opened here; empty if it can.

    Returns
    -------
    str
        The reason.
    """
    if sys.platform.startswith("linux") and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return "there is no display"
    if find_spec("napari") is None:
        return "napari isn't installed: pip install 'napari-btn[all]'"
    return ""


def _write_pictures(demo: _Demo, folder: Path) -> None:
    """Write the pictures as PNG."""
    from napari_btn import plots

    pair, prediction = demo.pair, demo.prediction
    plots.losses(demo.losses).savefig(folder / "losses.png", dpi=100)
    plots.coverage(demo.report).savefig(folder / "coverage.png", dpi=100)
    maps = {
        "noisy": pair.noisy,
        "clean": pair.clean,
        "width": prediction.width,
        "lower": prediction.lower,
        "median": prediction.median,
        "upper": prediction.upper,
    }
    row = pair.noisy.shape[1] // 2
    for i, name in enumerate(pair.channel_names or ()):
        of_channel = {key: values[i] for key, values in maps.items()}
        figure = plots.maps(of_channel, title=name, pixel_size=pair.pixel_size, unit=pair.unit)
        figure.savefig(folder / f"{name}.png", dpi=100)
        cut = {key: values[row] for key, values in of_channel.items()}
        figure = plots.line_cut(
            cut["median"],
            cut["lower"],
            cut["upper"],
            observed=cut["noisy"],
            truth=cut["clean"],
            position=np.arange(pair.noisy.shape[2]) * (pair.pixel_size or (1.0, 1.0))[1],
            unit=pair.unit,
            title=f"{name}, row {row}",
            covers=prediction.covers,
            alpha=prediction.alpha,
        )
        figure.savefig(folder / f"{name}_line_cut.png", dpi=100)
