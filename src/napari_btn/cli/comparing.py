"""The command that compares classical filters with an ensemble."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from napari_btn.cli.files import Model, PairFiles
from napari_btn.cli.options import axes_option, channels_option, coverage_options, device_option, json_option
from napari_btn.cli.terminal import drain

if TYPE_CHECKING:
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.evaluation.comparison import Comparison
    from napari_btn.denoiser import Denoiser

__all__ = ["compare"]


@click.command()
@click.argument("noisy")
@click.argument("clean", required=False)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Trained networks (MODEL.btn) to compare with."
)
@axes_option
@channels_option
@click.option(
    "--noise",
    type=click.Path(path_type=Path),
    help="Noise model, with which filters work on values of equal noise variance.",
)
@coverage_options(None)
@device_option
@json_option
def compare(
    noisy: str,
    clean: str | None,
    model: Path | None,
    axes: str | None,
    channels: tuple[str, ...] | None,
    noise: Path | None,
    alpha: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare classical filters, and a bundle, on NOISY, with CLEAN where there is one.

    With CLEAN, filters are tuned on a training part, and all are judged on a held-out part. Without, by the error at
    pixels that they don't see.
    """
    denoiser = None if model is None else Model(model, device).load()
    pair = PairFiles(noisy, clean, axes, channels).open(denoiser)
    result = _compared(pair, denoiser, noise, alpha)
    click.echo(json.dumps(result.to_dict()) if as_json else result.text())


def _compared(pair: Pair, denoiser: Denoiser | None, noise: Path | None, alpha: float | None) -> Comparison:
    """Open the noise model and compare."""
    from napari_btn.core.compute.pool import compute_for
    from napari_btn.workflow.compare import compare_steps

    known = None
    if noise is not None:
        from napari_btn.io.noise import NoiseModel

        known = NoiseModel.load(noise)
    return drain(
        compare_steps(
            pair,
            compute_for("cpu" if denoiser is None else denoiser.device, 1),
            model=None if denoiser is None else denoiser.model,
            noise=known,
            alpha=alpha,
        )
    )
