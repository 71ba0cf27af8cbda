"""Figures of a coverage report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.calibration.conformal import covered
from napari_btn.core.data.image import shown_names
from napari_btn.plots._style import COLOURS, empty_figure, look, panel_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.evaluation.report import Report

__all__ = ["coverage", "coverage_by_width", "missed_blocks", "places", "width_and_spread"]


def coverage(report: Report) -> Figure:
    """Draw a coverage report: measured coverage, and reliability at every level.

    Parameters
    ----------
    report : Report
        Cross-fitted on held-out blocks, or measured on an image with a truth.

    Returns
    -------
    matplotlib.figure.Figure
        Left: coverage of each channel with its 95 % interval and the requested coverage.
        Right, if the report has levels: share of pixels under each quantile against its level.
    """
    names = shown_names(report.channel_names)
    aim = 1 - report.alpha
    levels = report.levels
    figure = empty_figure(9.0 if levels else 5.0, 4.0)
    panels = figure.subplots(1, 2 if levels else 1, squeeze=False)[0]
    left: Axes = panels[0]
    at = np.arange(len(names))
    middle = np.asarray(report.coverage)
    # rounding can put the value just outside its bootstrap interval; a bar is never negative
    low = np.clip(middle - np.asarray(report.coverage_low), 0, None)
    high = np.clip(np.asarray(report.coverage_high) - middle, 0, None)
    left.axhline(aim, color="0.4", linestyle="--", linewidth=1, label=f"asked for: {aim:g}")
    left.errorbar(at, middle, yerr=np.stack([low, high]), fmt="o", color=COLOURS[0], capsize=5,
                  label=f"measured, 95 % interval\nof {report.scope}")  # fmt: skip
    for x, y in zip(at, middle, strict=True):
        left.annotate(
            f"{y:.3f}", (float(x), float(y)), xytext=(8, 0), textcoords="offset points", va="center"
        )
    left.set_xticks(at, list(names))
    left.set(xlim=(-0.6, len(names) - 0.3), ylim=_coverage_limits(report), xlabel="channel")
    left.set_ylabel("share of pixels inside the interval")
    left.set_title(f"Coverage by intervals of {covered(report.covers)}")
    left.legend(frameon=False, loc="lower left")
    if levels:
        _reliability(panels[1], levels, np.asarray(report.reliability), names)
    return figure


def coverage_by_width(report: Report) -> Figure:
    """Draw the coverage of narrow and of wide intervals.

    Parameters
    ----------
    report : Report
        One measured on images with a truth.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel: coverage of each tenth of the pixels against its mean width.

    Raises
    ------
    ValueError
        If the report has no widths.
    """
    if not report.bin_coverage.size:
        raise ValueError("The report has no coverage by width; measure it on images with a truth.")
    figure, panels = panel_row(len(report.channel_names))
    for axes, name, width, share in zip(
        panels, shown_names(report.channel_names), report.bin_width, report.bin_coverage, strict=True
    ):
        axes.axhline(1 - report.alpha, color="0.4", linestyle="--", linewidth=1, label="asked for")
        axes.plot(width, share, color=COLOURS[0], marker="o", label="measured")
        axes.set(title=name, xlabel="width of the interval", ylim=(min(0.5, float(np.nanmin(share))), 1.01))
    panels[0].set_ylabel("share of pixels inside")
    panels[0].legend(frameon=False, loc="lower left")
    return figure


def places(report: Report) -> Figure:
    """Draw where the truth falls in the predicted distributions, before calibration; flat is right.

    Parameters
    ----------
    report : Report
        One that has quantiles.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel.

    Raises
    ------
    ValueError
        If the report has no quantiles.
    """
    share = np.asarray(report.pit)
    if not share.size or np.isnan(share).all():
        raise ValueError("The report has no quantiles; predict with quantiles to see where the truth falls.")
    figure, panels = panel_row(len(report.channel_names))
    bins = share.shape[1]
    at = (np.arange(bins) + 0.5) / bins
    for axes, name, row in zip(panels, shown_names(report.channel_names), share, strict=True):
        axes.bar(
            at, row * bins, width=1 / bins, color=COLOURS[0], alpha=0.6, edgecolor="white", label="measured"
        )
        axes.axhline(1, color="0.4", linestyle="--", linewidth=1, label="ideal")
        axes.set(title=name, xlabel="place in the predicted distribution", xlim=(0, 1))
    panels[0].set_ylabel("density")
    panels[0].legend(frameon=False, loc="lower center")
    return figure


def missed_blocks(shares: Mapping[str, NDArray[np.floating]], *, alpha: float, block_px: int) -> Figure:
    """Draw the share of missed pixels of each block.

    Parameters
    ----------
    shares : mapping of str to (Y, X) ndarray
        By channel name; NaN where there is no truth.
    alpha : float
        Requested miscoverage.
    block_px : int
        Side of a block in pixels.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel, white at the requested share.
    """
    figure, panels = panel_row(len(shares))
    top = max(3 * alpha, 0.05)
    for axes, (name, image) in zip(panels, shares.items(), strict=True):
        extent = (0, image.shape[1] * block_px, image.shape[0] * block_px, 0)
        # two slopes, so that white is the requested share
        scaled = np.where(image <= alpha, image / alpha - 1, (image - alpha) / (top - alpha))
        drawn = axes.imshow(scaled, vmin=-1, vmax=1, cmap="RdBu_r", extent=extent, interpolation="nearest")
        axes.set(title=name, xlabel="px")
    bar = figure.colorbar(drawn, ax=list(panels), shrink=0.8)
    bar.set_ticks([-1, 0, 1], labels=["0", f"{alpha:g}", f"{top:g} or more"])
    bar.set_label("share missed")
    return figure


def width_and_spread(width: Mapping[str, ArrayLike], spread: Mapping[str, ArrayLike]) -> Figure:
    """Draw the width of the interval against the spread of the members.

    Parameters
    ----------
    width, spread : mapping of str to array_like
        By channel name, values of the same pixels.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel, shaded by the number of pixels. The spread is large where networks
        disagree, the width where the target is uncertain; they can differ.
    """
    figure, panels = panel_row(len(width))
    for axes, name in zip(panels, width, strict=True):
        x, y = (np.asarray(v[name], dtype=float).ravel() for v in (spread, width))
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        reach = [(0.0, float(np.percentile(v, 99.5)) or 1.0) if v.size else (0.0, 1.0) for v in (x, y)]
        counts, x_edges, y_edges = np.histogram2d(x, y, bins=60, range=reach)
        axes.pcolormesh(x_edges, y_edges, np.log1p(counts.T), cmap="Blues")
        axes.set(title=name, xlabel="spread of the members")
    panels[0].set_ylabel("width of the interval")
    return figure


def _reliability(
    axes: Axes, levels: Sequence[float], share: NDArray[np.floating], names: Sequence[str]
) -> None:
    """Draw the share of pixels under each quantile of each channel."""
    axes.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1, label="ideal")
    for i, (name, row) in enumerate(zip(names, share, strict=True)):
        axes.plot(levels, row, label=name, **look(i))
    axes.set(xlabel="quantile level", ylabel="share of pixels under it", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Reliability before calibration")
    axes.legend(frameon=False, loc="upper left")


def _coverage_limits(report: Report) -> tuple[float, float]:
    """Return limits of the coverage axis that hold the requested and the measured coverage."""
    lowest = float(np.nanmin(np.minimum(report.coverage_low, report.coverage)))
    return max(0.0, min(1 - 2 * report.alpha, lowest) - 0.1), 1.01
