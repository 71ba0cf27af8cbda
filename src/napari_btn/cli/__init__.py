"""The command line: its commands and the group that holds them.

Results go to stdout, progress and notes to stderr. Exit code 0: done. 2: the input or the call
is wrong, or the machine lacks memory or disk, explained in one line. 130, 143, 129: interrupted by Ctrl-C,
SIGTERM or SIGHUP; finished members are kept for ``--resume``.
Heavy packages are imported when a command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from napari_btn.cli.adapting import adapt
from napari_btn.cli.applying import evaluate, predict, tokens
from napari_btn.cli.comparing import compare
from napari_btn.cli.datasets import dataset
from napari_btn.cli.noise import noise, repair
from napari_btn.cli.options import bundle_argument, force_option, json_option, seed_option
from napari_btn.cli.plausible import plausible
from napari_btn.cli.pretrained import now, pretrain
from napari_btn.cli.recipes import run
from napari_btn.cli.regions import regions
from napari_btn.cli.scanning import scan
from napari_btn.cli.terminal import Commands, say_notes, table
from napari_btn.cli.training import calibrate, train

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="napari-btn")
@click.option("--traceback", is_flag=True, help="Show where an error arose, for a bug report.")
def main(traceback: bool) -> None:
    """Denoise images with intervals calibrated to a stated coverage.

    Images: .tif, .ome.tif, .zarr, .ome.zarr, .npy, file.npz:key, file.h5:dataset, file.pt:name, .png, .webp.
    """


@click.command()
@bundle_argument
@json_option
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
        "family": denoiser.network.family,
        "members": denoiser.members,
        "preset": denoiser.preset,
        "start": denoiser.provenance.get("start", {}).get("from", "scratch"),
        "supervision": denoiser.supervision,
        "covers": report.covers if report else "",
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


@click.command("demo")
@click.option("--headless", is_flag=True, envvar="HEADLESS", help="Write files instead of opening napari.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the files; default: the folder demo, if no window is opened.",
)
@click.option("--members", type=click.IntRange(1), default=4, show_default=True, help="Networks to train.")
@seed_option
@force_option
def demo_command(headless: bool, out: Path | None, members: int, seed: int, force: bool) -> None:
    """Train, calibrate and predict on simulated maps of Si, Al and Fe; show the result.

    Opens napari where there is a display; otherwise writes layers and pictures to a folder.
    """
    from napari_btn.cli.demo import no_window, run_demo, show_demo, write_demo

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
    """Create the folder; raise if it holds anything but an earlier demo."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "edx.btn").exists() and not force:
        raise ValueError(f"{folder} holds other files; give --force to write there, or another --out.")
    folder.mkdir(parents=True, exist_ok=True)


for command in (
    train,
    dataset,
    calibrate,
    adapt,
    predict,
    evaluate,
    compare,
    plausible,
    tokens,
    regions,
    noise,
    repair,
    info,
    scan,
    now,
    pretrain,
    run,
    demo_command,
):
    main.add_command(command)
