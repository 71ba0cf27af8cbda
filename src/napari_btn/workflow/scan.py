"""Comparison of networks on an image, over a grid of families, depths, channels and dilations."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.evaluation.metrics import correlation, crps_from_quantiles
from napari_btn.core.networks.family import family_of
from napari_btn.core.progress import Progress, with_progress
from napari_btn.core.settings import NetworkSettings
from napari_btn.workflow.fit import fit_steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.model import Model

__all__ = ["Scan", "ScanRow", "grid_of", "scan_steps"]


@dataclass(frozen=True)
class ScanRow:
    """The results of one kind of network.

    Parameters
    ----------
    depth, channels, max_dilation : int
        Settings; on a small image, dilations may be smaller.
    receptive_field : int
        Half-width of the receptive field in pixels.
    parameters : int
        Number of weights of a member.
    seconds : float
        Wall time of training and calibration.
    crps : float
        Continuous ranked probability score on held-out pixels common to all kinds, divided by the standard
        deviation of the target; mean over channels, lower is better.
    correlation : float
        Correlation of the median with the target on the same pixels; mean over channels.
    coverage, width : float
        Cross-fitted coverage, and mean width divided by the standard deviation of the target.
    family : str
        Kind of member.
    """

    depth: int
    channels: int
    max_dilation: int
    receptive_field: int
    parameters: int
    seconds: float
    crps: float
    correlation: float
    coverage: float
    width: float
    family: str = "sms"


@dataclass(frozen=True)
class Scan:
    """The rows of a scan, in the order of the grid.

    Parameters
    ----------
    rows : tuple of ScanRow
    """

    rows: tuple[ScanRow, ...]

    @property
    def chosen_on(self) -> str:
        """Sentence on what the choice of the best does to its calibration; empty for one kind."""
        if len(self.rows) < 2:
            return ""
        return (
            "The best was chosen on held-out blocks that calibrate it, too, if it is trained on these images: other "
            "fields may be covered less than the report says. Check it on another field."
        )

    @property
    def best(self) -> ScanRow:
        """Row with the lowest score."""
        return min(self.rows, key=lambda row: row.crps)

    def table(self) -> str:
        """Return the rows as lines of text, the best marked."""
        names = ["family", *(field.name for field in fields(ScanRow) if field.name != "family")]
        cells = [[name.replace("_", " ") for name in names]]
        cells += [[_text(getattr(row, name)) for name in names] for row in self.rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
        marks = ["", *("  best" if row is self.best else "" for row in self.rows)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + mark
            for line, mark in zip(cells, marks, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the scan as a JSON-ready dict."""
        return {"rows": [asdict(row) for row in self.rows], "best": asdict(self.best)}


def scan_steps(
    pair: Pair,
    grid: Sequence[NetworkSettings],
    settings: EnsembleSettings,
    compute: Compute,
) -> Step[Scan]:
    """Train every kind of network of a grid and compare them; a step.

    Parameters
    ----------
    pair : Pair
        Noisy and clean images.
    grid : sequence of NetworkSettings
        Kinds of networks, e.g. from `grid_of`.
    settings : EnsembleSettings
        All other settings, the same for all kinds.
    compute : Compute

    Returns
    -------
    Scan
        One row for each kind.

    Raises
    ------
    ValueError
        If the images can't be trained on, or the grid is empty.

    References
    ----------
    Zwart et al., "Behind the Noise", arXiv 2505.08176, figure 1-B.
    """
    if not grid:
        raise ValueError(
            "There is nothing to scan; give at least one depth, number of channels and dilation."
        )
    # only some of the kinds have pretrained members, which would win by their start
    settings = replace(settings, train=replace(settings.train, start="scratch"))
    made: list[tuple[Model, float]] = []
    reached = 0.0
    for k, network in enumerate(grid):
        began = time.perf_counter()

        def place(progress: Progress, k: int = k) -> Progress:
            """Return the progress of the whole scan."""
            nonlocal reached
            reached = max(k + progress.fraction, reached)
            note = f"Kind {k + 1} of {len(grid)}: {progress.note}"
            return Progress(round(1000 * reached), 1000 * len(grid), note)

        model = yield from with_progress(fit_steps(pair, replace(settings, network=network), compute), place)
        made.append((model, time.perf_counter() - began))
    shared = _shared([model.scores.held_out for model, _ in made])
    return Scan(tuple(_row(*one, part) for one, part in zip(made, shared, strict=True)))


def grid_of(
    depths: Sequence[int] = (5, 10, 20),
    channels: Sequence[int] = (4,),
    dilations: Sequence[int] = (4, 8),
    families: Sequence[str] = ("sms",),
) -> list[NetworkSettings]:
    """Return every combination of families, depths, channels per chunk, and largest dilations.

    Parameters
    ----------
    depths, channels, dilations : sequence of int
        Families without dilations have one kind for all of ``dilations``.
    families : sequence of str
    """
    made = []
    for name, depth, chunk in product(families, depths, channels):
        kind = NetworkSettings(family=name, depth=depth, channels=chunk)
        dilates = family_of(name).dilates
        made += [replace(kind, max_dilation=r) for r in dilations] if dilates else [kind]
    return made


def _row(model: Model, seconds: float, held_out: HeldOut) -> ScanRow:
    """Return the results of one model on held-out pixels."""
    report, network = model.calibrated.report, model.settings.network
    spread = held_out.target.std(1)
    score = crps_from_quantiles(held_out.target, held_out.quantiles, held_out.levels, axis=1)
    median = held_out.quantiles[held_out.levels.index(0.5)]
    return ScanRow(
        network.depth,
        network.channels,
        network.max_dilation,
        model.blueprint.receptive_field,
        model.networks.parameters,
        seconds,
        float(np.mean(score / spread)),
        float(np.mean(correlation(held_out.target, median, axis=1))),
        float(np.mean(report.coverage)),
        float(np.mean(report.width / spread)),
        network.family,
    )


def _shared(parts: Sequence[HeldOut]) -> list[HeldOut]:
    """Return the held-out pixels common to all models; a wider field of view leaves fewer."""
    places = [part.position for part in parts]
    if any(place is None for place in places):
        return list(parts)
    known: list[NDArray[Any]] = [np.asarray(place) for place in places]
    low = np.max([place.min(0) for place in known], axis=0)
    high = np.min([place.max(0) for place in known], axis=0)
    inside = [((place >= low) & (place <= high)).all(1) for place in known]
    if min(int(i.sum()) for i in inside) < 100:
        return list(parts)
    return [part.take(i) for part, i in zip(parts, inside, strict=True)]


def _text(value: float | str) -> str:
    """Return a number as text for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
