"""Values to figures: loss curves, coverage, line cuts and maps, for files and reports.

Figures are made without pyplot, so no window, no backend and no global state is touched; a
figure is written with its own ``savefig``. Colours are those of Okabe and Ito, which stay
apart for colour-blind readers, and no curve is told by its colour alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import covered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.evaluation.gain import EnsembleGain
    from napari_btn.core.evaluation.report import Report
    from napari_btn.core.networks.sms.graph import Graph

__all__ = [
    "coverage",
    "coverage_by_width",
    "ensemble_gain",
    "graph_figure",
    "line_cut",
    "losses",
    "maps",
    "missed_blocks",
    "places",
    "scan",
    "width_and_spread",
]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def losses(history: Iterable[tuple[int, int, float]]) -> Figure:
    """Figure of training losses: each member faint, their mean strong.

    Parameters
    ----------
    history : iterable of (member, step, loss)
        What ``Progress.losses`` gave, collected over the training, in any order.

    Returns
    -------
    matplotlib.figure.Figure
        One panel; the loss axis is logarithmic where all losses are positive.

    Raises
    ------
    ValueError
        If there is no loss to draw.
    """
    table = np.array(sorted(history), dtype=float).reshape(-1, 3)
    if not len(table):
        raise ValueError("There is no loss to draw; collect Progress.losses while training.")
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    members = np.unique(table[:, 0])
    for member in members:
        _, step, loss = table[table[:, 0] == member].T
        axes.plot(step, loss, color=_COLOURS[0], alpha=0.3, linewidth=1)
    if len(members) > 1:
        steps, index = np.unique(table[:, 1], return_inverse=True)
        counts = np.bincount(index)
        mean = np.bincount(index, weights=table[:, 2]) / counts
        # Only steps that every member reached: a mean over fewer would jump as members end.
        whole = counts == len(members)
        if whole.any():
            axes.plot(steps[whole], mean[whole], color=_COLOURS[0], linewidth=2, label="mean of members")
            axes.legend(frameon=False)
    if (table[:, 2] > 0).all():
        axes.set_yscale("log")
    axes.set(xlabel="training step", ylabel="pinball loss", title=_count(len(members), "member"))
    return figure


def coverage(report: Report) -> Figure:
    """Figure of a coverage report: measured coverage, and reliability at every level.

    Parameters
    ----------
    report : Report
        Coverage cross-fitted on held-out blocks, or measured on an image with a truth.

    Returns
    -------
    matplotlib.figure.Figure
        Left: coverage of each channel with its 95 % interval and the level asked for.
        Right, where the report knows the quantiles: share of pixels under each of them
        against its level.
    """
    names = report.channel_names
    aim = 1 - report.alpha
    levels = report.levels
    figure = _figure(9.0 if levels else 5.0, 4.0)
    panels = figure.subplots(1, 2 if levels else 1, squeeze=False)[0]
    left: Axes = panels[0]
    at = np.arange(len(names))
    middle = np.asarray(report.coverage)
    # The bootstrap interval can lie beside the value itself by rounding; a bar is never negative.
    low = np.clip(middle - np.asarray(report.coverage_low), 0, None)
    high = np.clip(np.asarray(report.coverage_high) - middle, 0, None)
    left.axhline(aim, color="0.4", linestyle="--", linewidth=1, label=f"asked for: {aim:g}")
    left.errorbar(at, middle, yerr=np.stack([low, high]), fmt="o", color=_COLOURS[0], capsize=5,
                  label="measured, 95 % interval")  # fmt: skip
    for x, y in zip(at, middle, strict=True):
        left.annotate(
            f"{y:.3f}", (float(x), float(y)), xytext=(8, 0), textcoords="offset points", va="center"
        )
    left.set_xticks(at, list(names))
    left.set(xlim=(-0.6, len(names) - 0.3), ylim=_coverage_limits(report), xlabel="channel")
    left.set_ylabel("share of pixels inside the interval")
    left.set_title(f"Coverage of {covered(report.covers)}")
    left.legend(frameon=False, loc="lower left")
    if levels:
        _reliability(panels[1], levels, np.asarray(report.reliability), names)
    return figure


def line_cut(
    median: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    observed: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    position: ArrayLike | None = None,
    unit: str = "px",
    title: str = "",
    covers: str = "clean",
    alpha: float | None = None,
) -> Figure:
    """Figure of values along a line: the observation, the median, its band, and the truth.

    Parameters
    ----------
    median, lower, upper : (n,) array_like
        The prediction along the line.
    observed : (n,) array_like, optional
        The noisy values; brought to the median's mean and spread, because noisy and clean may
        be on different scales.
    truth : (n,) array_like, optional
        The clean values.
    position : (n,) array_like, optional
        Distance along the line in `unit`; pixels from 0 when left out.
    unit : str
        Unit of `position`.
    title : str
        Title, usually the channel's name.
    covers : str
        What the interval covers, for the legend.
    alpha : float, optional
        Miscoverage of the band, for the legend.

    Returns
    -------
    matplotlib.figure.Figure
        One panel.

    Raises
    ------
    ValueError
        If the values differ in length.
    """
    given = {"median": median, "lower": lower, "upper": upper, "observed": observed, "truth": truth}
    curves = {name: np.asarray(values, dtype=float) for name, values in given.items() if values is not None}
    at = np.arange(len(curves["median"])) if position is None else np.asarray(position, dtype=float)
    if wrong := {name: values.shape for name, values in curves.items() if values.shape != at.shape}:
        raise ValueError(
            f"A line cut needs {len(at)} values in each curve, got {wrong}; cut all along one line."
        )
    figure = _figure(8.0, 3.6)
    axes = figure.subplots()
    share = "" if alpha is None else f"{100 * (1 - alpha):g} % "
    band = f"{share}interval of {covered(covers)}"
    if "observed" in curves:
        axes.plot(at, _to_scale(curves["observed"], curves["median"]), ".", color="0.6", markersize=3,
                  label="noisy (scaled)")  # fmt: skip
    axes.fill_between(
        at, curves["lower"], curves["upper"], color=_COLOURS[0], alpha=0.25, linewidth=0, label=band
    )
    axes.plot(at, curves["median"], color=_COLOURS[0], label="median")
    if "truth" in curves:
        axes.plot(
            at,
            curves["truth"],
            color=_COLOURS[1],
            linestyle="--",
            linewidth=1,
            label=covered(covers).split(" ", 1)[1],
        )
    axes.set(xlabel=f"distance ({unit})", ylabel="value", title=title)
    axes.margins(x=0)
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return figure


def maps(
    images: Mapping[str, NDArray[np.floating]],
    *,
    title: str = "",
    linked: Sequence[str] = ("clean", "lower", "median", "upper"),
    pixel_size: tuple[float, ...] | None = None,
    unit: str = "px",
    columns: int = 3,
) -> Figure:
    """Figure of named maps of one channel, in a grid.

    Parameters
    ----------
    images : mapping of str to (Y, X) ndarray
        The maps in the order they are drawn; a map called ``"width"`` gets a warm colour map
        from zero to its 99.5th percentile.
    title : str
        Title, usually the channel's name.
    linked : sequence of str
        Maps that share one contrast range; the others get their own.
    pixel_size : tuple of float, optional
        Pixel size along Y and X in `unit`.
    unit : str
        Unit of length of the axes.
    columns : int
        Maps in a row.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per map, each with its scale.

    Raises
    ------
    ValueError
        If there is no map or one isn't two-dimensional.
    """
    if not images or any(image.ndim != 2 for image in images.values()):
        shapes = {name: image.shape for name, image in images.items()}
        raise ValueError(
            f"Maps must be one or more images (Y, X), got {shapes}; take one channel and one slice."
        )
    rows = -(-len(images) // columns)
    dy, dx = pixel_size or (1.0, 1.0)
    height, width = next(iter(images.values())).shape
    figure = _figure(3.6 * columns, rows * (3.6 * 0.8 * height * dy / (width * dx) + 0.7))
    shared = _limits([image for name, image in images.items() if name in linked])
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    for axes, (name, image) in zip(grid, images.items(), strict=False):
        low, high = shared if name in linked else _limits([image])
        warm = name == "width"
        drawn = axes.imshow(
            image,
            vmin=0.0 if warm else low,
            vmax=high,
            cmap="magma" if warm else "gray",
            extent=(0, image.shape[1] * dx, image.shape[0] * dy, 0),
            interpolation="nearest",
        )
        axes.set_title(name)
        axes.tick_params(labelsize=7)
        figure.colorbar(drawn, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    grid[0].set_ylabel(f"({unit})", fontsize=8)
    figure.suptitle(title)
    return figure


def places(report: Report) -> Figure:
    """Figure of where the truth falls in the predicted distributions, before calibration; flat is right.

    Parameters
    ----------
    report : Report
        With the quantiles known.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel.

    Raises
    ------
    ValueError
        If the report knows no quantiles.
    """
    share = np.asarray(report.pit)
    if not share.size or np.isnan(share).all():
        raise ValueError("The report knows no quantiles; predict with them to see where the truth falls.")
    figure, panels = _panels(len(report.channel_names))
    bins = share.shape[1]
    at = (np.arange(bins) + 0.5) / bins
    for axes, name, row in zip(panels, report.channel_names, share, strict=True):
        axes.bar(at, row * bins, width=1 / bins, color=_COLOURS[0], alpha=0.6, edgecolor="white")
        axes.axhline(1, color="0.4", linestyle="--", linewidth=1)
        axes.set(title=name, xlabel="place in the predicted distribution", xlim=(0, 1))
    panels[0].set_ylabel("density")
    return figure


def coverage_by_width(report: Report) -> Figure:
    """Figure of the coverage of narrow and of wide intervals.

    Parameters
    ----------
    report : Report
        As measured.

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
    figure, panels = _panels(len(report.channel_names))
    for axes, name, width, share in zip(
        panels, report.channel_names, report.bin_width, report.bin_coverage, strict=True
    ):
        axes.axhline(1 - report.alpha, color="0.4", linestyle="--", linewidth=1)
        axes.plot(width, share, color=_COLOURS[0], marker="o")
        axes.set(title=name, xlabel="width of the interval", ylim=(min(0.5, float(np.nanmin(share))), 1.01))
    panels[0].set_ylabel("share inside")
    return figure


def missed_blocks(shares: Mapping[str, NDArray[np.floating]], *, alpha: float, block_px: int) -> Figure:
    """Figure of the share of missed pixels of each block.

    Parameters
    ----------
    shares : mapping of str to (Y, X) ndarray
        By channel name; NaN where there is no truth.
    alpha : float
        Miscoverage asked for.
    block_px : int
        Side of a block in pixels.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel, white at the share asked for.
    """
    figure, panels = _panels(len(shares))
    top = max(3 * alpha, 0.05)
    for axes, (name, image) in zip(panels, shares.items(), strict=True):
        extent = (0, image.shape[1] * block_px, image.shape[0] * block_px, 0)
        # Two slopes, so that white is what was asked for.
        scaled = np.where(image <= alpha, image / alpha - 1, (image - alpha) / (top - alpha))
        drawn = axes.imshow(scaled, vmin=-1, vmax=1, cmap="RdBu_r", extent=extent, interpolation="nearest")
        axes.set(title=name, xlabel="px")
    bar = figure.colorbar(drawn, ax=list(panels), shrink=0.8)
    bar.set_ticks([-1, 0, 1], labels=["0", f"{alpha:g}", f"{top:g} or more"])
    bar.set_label("share missed")
    return figure


def width_and_spread(width: Mapping[str, ArrayLike], spread: Mapping[str, ArrayLike]) -> Figure:
    """Figure of the interval's width against the members' spread.

    Parameters
    ----------
    width, spread : mapping of str to array_like
        By channel name, values of the same pixels.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per channel, shaded by the number of pixels. The spread says where networks
        disagree, the width where the target is uncertain; they needn't agree.
    """
    figure, panels = _panels(len(width))
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


def ensemble_gain(gain: EnsembleGain) -> Figure:
    """Figure of what more members bring.

    Parameters
    ----------
    gain : EnsembleGain
        From `napari_btn.core.evaluation.gain`.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels over the number of members: correlation with the truth, coverage, mean width.
    """
    figure = _figure(10.0, 3.4)
    names = ("correlation", "coverage", "width")
    at = np.arange(len(gain.sizes))
    for axes, name in zip(figure.subplots(1, 3), names, strict=True):
        for c, channel in enumerate(gain.channel_names):
            look = {"color": _COLOURS[c % len(_COLOURS)], "marker": _MARKERS[c % len(_MARKERS)]}
            axes.plot(at, getattr(gain, name)[:, c], label=channel, **look)
        axes.set_xticks(at, [str(size) for size in gain.sizes])
        axes.set(xlabel="members", title=name)
        values = getattr(gain, name)
        if name == "coverage":
            # wide enough that a difference of no importance looks like one
            off = max(1.2 * float(np.nanmax(abs(values - (1 - gain.alpha)))), 0.05)
            axes.axhline(1 - gain.alpha, color="0.4", linestyle="--", linewidth=1)
            axes.set_ylim(1 - gain.alpha - off, 1 - gain.alpha + off)
        if name == "width":
            axes.set_ylim(0, 1.1 * float(np.max(values, initial=1e-9, where=np.isfinite(values))))
            if len(gain.channel_names) > 1:
                axes.legend(frameon=False)
    return figure


def graph_figure(graph: Graph, *, flat: Sequence[bool] = ()) -> Figure:
    """Figure of a member's random connections: an arc for each node that a node reads.

    Parameters
    ----------
    graph : Graph
        From `napari_btn.core.networks.family.graph_of`.
    flat : sequence of bool
        Nodes whose kernels are one plane thick, drawn as squares; empty for none.

    Returns
    -------
    matplotlib.figure.Figure
        The input at the left, then the nodes in their order, each with its dilation; the thicker an arc, the
        more chunks are read. Every node feeds the heads as well.

    References
    ----------
    Roberts et al., DLSIA, arXiv 2308.02559 (sparse mixed-scale networks).
    """
    from matplotlib.patches import Arc

    depth = len(graph.dilations)
    figure = _figure(max(4.0, 0.8 * (depth + 1)), 0.6 + 0.24 * (depth + 2))
    axes = figure.subplots()
    inputs = max(len(source) for source in graph.sources)
    shades = {d: _COLOURS[i % len(_COLOURS)] for i, d in enumerate(sorted(set(graph.dilations)))}
    for node, source in enumerate(graph.sources):
        owners = [0 if chunk == 0 else 1 + (chunk - 1) // inputs for chunk in source]
        for owner in sorted(set(owners)):
            span, thick = node + 1 - owner, 0.9 * owners.count(owner)
            middle = ((node + 1 + owner) / 2, 0.0)
            colour = shades[graph.dilations[node]]
            axes.add_patch(
                Arc(middle, span, 0.6 * span, theta2=180, color=colour, linewidth=thick, alpha=0.8)
            )
    axes.text(0, -0.35, "input", ha="center", va="top")
    axes.plot(0, 0, "o", color="0.4", markersize=12)
    for node, dilation in enumerate(graph.dilations):
        mark = "s" if flat and flat[node] else "o"
        axes.plot(node + 1, 0, mark, color=shades[dilation], markersize=14)
        axes.annotate(str(dilation), (node + 1, 0), ha="center", va="center", color="white", fontsize=8)
    axes.set(xlim=(-0.6, depth + 0.6), ylim=(-0.8, 0.3 * depth + 0.4))
    axes.set_title("Connections of one member; numbers are dilations in pixels", fontsize=9)
    axes.set_axis_off()
    return figure


def scan(rows: Sequence[Any]) -> Figure:
    """Figure of a scan: score against the number of weights.

    Parameters
    ----------
    rows : sequence of ScanRow
        From `napari_btn.workflow.scan`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel; a curve for each largest dilation and number of channels, with a point per depth.

    References
    ----------
    Zwart et al., "Behind the Noise", arXiv 2505.08176, figure 1-B.
    """
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    kinds = sorted({(row.max_dilation, row.channels) for row in rows})
    for k, kind in enumerate(kinds):
        mine = sorted(
            (row for row in rows if (row.max_dilation, row.channels) == kind), key=lambda row: row.parameters
        )
        x, y = [row.parameters for row in mine], [row.crps for row in mine]
        axes.plot(
            x,
            y,
            color=_COLOURS[k % len(_COLOURS)],
            marker=_MARKERS[k % len(_MARKERS)],
            label=f"dilation to {kind[0]}, {_count(kind[1], 'channel')}",
        )
        for row in mine:
            axes.annotate(
                str(row.depth), (row.parameters, row.crps), xytext=(4, 4), textcoords="offset points"
            )
    axes.set_xscale("log")
    axes.set(xlabel="weights of a member", ylabel="CRPS / SD of the target", title="Numbers are depths")
    axes.legend(frameon=False)
    return figure


def _panels(n: int) -> tuple[Figure, Sequence[Axes]]:
    """Figure with panels in a row."""
    figure = _figure(3.2 * n + 0.6, 2.9)
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _figure(width: float, height: float) -> Figure:
    """An empty figure (inches) that lays itself out."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which isn't installed; run: pip install 'napari-btn[all]'."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _reliability(
    axes: Axes, levels: Sequence[float], share: NDArray[np.floating], names: Sequence[str]
) -> None:
    """Draw the share of pixels under each quantile of each channel."""
    axes.plot([0, 1], [0, 1], color="0.4", linestyle="--", linewidth=1, label="ideal")
    for i, (name, row) in enumerate(zip(names, share, strict=True)):
        axes.plot(
            levels, row, color=_COLOURS[i % len(_COLOURS)], marker=_MARKERS[i % len(_MARKERS)], label=name
        )
    axes.set(xlabel="quantile level", ylabel="share of pixels under it", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("Reliability before calibration")
    axes.legend(frameon=False, loc="upper left")


def _coverage_limits(report: Report) -> tuple[float, float]:
    """Coverage axis limits: near the level asked for, wide enough for what was measured."""
    lowest = float(np.nanmin(np.minimum(report.coverage_low, report.coverage)))
    return max(0.0, min(1 - 2 * report.alpha, lowest) - 0.1), 1.01


def _limits(images: Sequence[NDArray[np.floating]]) -> tuple[float, float]:
    """Contrast limits of images shown alike: their 0.5th and 99.5th percentiles, never equal."""
    finite = [image[np.isfinite(image)] for image in images]
    values = np.concatenate(finite) if finite else np.zeros(0)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return low, high if high > low else low + 1


def _to_scale(observed: NDArray[np.floating], target: NDArray[np.floating]) -> NDArray[np.floating]:
    """Observed values divided by their gain over the target, and moved to its mean."""
    centred = observed - observed.mean()
    variance = float(np.mean(centred**2))
    if variance == 0:
        return np.full_like(target, target.mean())
    # The slope of observed on target, inverted: least squares the other way round would
    # shrink the noise away and make the observation look better than it is.
    slope = float(np.mean(centred * (target - target.mean()))) / max(float(np.var(target)), 1e-30)
    gain = 1 / slope if slope > 0 else np.sqrt(float(np.var(target)) / variance)
    return np.asarray(centred * gain + target.mean())


def _count(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"
