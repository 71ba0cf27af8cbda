"""Figures of trainings, of the networks, and of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.conformal import covered
from napari_btn.core.data.image import shown_names
from napari_btn.core.evaluation.line import to_scale
from napari_btn.core.progress import counted
from napari_btn.plots._style import COLOURS, empty_figure, look

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.evaluation.gain import EnsembleGain
    from napari_btn.core.networks.sms.graph import Graph

__all__ = ["ensemble_gain", "graph_figure", "line_cut", "losses", "maps", "scan"]

_LINKED = ("clean", "lower", "median", "upper")  # maps that share one contrast range


def losses(history: Iterable[tuple[int, int, float]]) -> Figure:
    """Draw training losses: each member faint, their mean strong.

    Parameters
    ----------
    history : iterable of (member, step, loss)
        From ``Progress.losses``, collected over the training, in any order.

    Returns
    -------
    matplotlib.figure.Figure
        One panel; the loss axis is logarithmic if all losses are positive.

    Raises
    ------
    ValueError
        If there is no loss to draw.
    """
    table = np.array(sorted(history), dtype=float).reshape(-1, 3)
    if not len(table):
        raise ValueError("There is no loss to draw; collect Progress.losses while training.")
    figure = empty_figure(6.4, 4.0)
    axes = figure.subplots()
    members = np.unique(table[:, 0])
    for member in members:
        _, step, loss = table[table[:, 0] == member].T
        axes.plot(step, loss, color=COLOURS[0], alpha=0.3, linewidth=1)
    if len(members) > 1:
        steps, index = np.unique(table[:, 1], return_inverse=True)
        counts = np.bincount(index)
        mean = np.bincount(index, weights=table[:, 2]) / counts
        # only steps that every member reached: a mean over fewer would jump as members end
        whole = counts == len(members)
        if whole.any():
            axes.plot(steps[whole], mean[whole], color=COLOURS[0], linewidth=2, label="mean of members")
            axes.legend(frameon=False)
    if (table[:, 2] > 0).all():
        axes.set_yscale("log")
    axes.set(xlabel="training step", ylabel="pinball loss", title=counted(len(members), "member"))
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
    """Draw values along a line: the observation, the median, its interval, and the truth.

    Parameters
    ----------
    median, lower, upper : (n,) array_like
        The prediction along the line.
    observed : (n,) array_like, optional
        The noisy values; they are scaled to the median, because noisy and clean may have
        different scales.
    truth : (n,) array_like, optional
        The clean values.
    position : (n,) array_like, optional
        Distance along the line in `unit`; pixels from 0 by default.
    unit : str
        Unit of `position`.
    title : str
        Title, usually the name of the channel.
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
    figure = empty_figure(8.0, 3.6)
    axes = figure.subplots()
    share = "" if alpha is None else f"{100 * (1 - alpha):g} % "
    band = f"{share}interval of {covered(covers)}"
    if "observed" in curves:
        gain, offset = to_scale(curves["observed"], curves["median"])
        scaled = gain * curves["observed"] + offset
        axes.plot(at, scaled, ".", color="0.6", markersize=3, label="noisy (scaled)")
    axes.fill_between(
        at, curves["lower"], curves["upper"], color=COLOURS[0], alpha=0.25, linewidth=0, label=band
    )
    axes.plot(at, curves["median"], color=COLOURS[0], label="median")
    if "truth" in curves:
        axes.plot(
            at,
            curves["truth"],
            color=COLOURS[1],
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
    pixel_size: tuple[float, ...] | None = None,
    unit: str = "px",
) -> Figure:
    """Draw named maps of one channel in a grid.

    Clean, lower, median and upper share one contrast range; the others have their own.

    Parameters
    ----------
    images : mapping of str to (Y, X) ndarray
        The maps in the order in which they are drawn; ``"width"`` has a warm colour map from zero
        to its 99.5th percentile.
    title : str
        Title, usually the name of the channel.
    pixel_size : tuple of float, optional
        Pixel size along Y and X in `unit`.
    unit : str
        Unit of length of the axes.

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
    columns = 3
    rows = -(-len(images) // columns)
    dy, dx = pixel_size or (1.0, 1.0)
    height, width = next(iter(images.values())).shape
    figure = empty_figure(3.6 * columns, rows * (3.6 * 0.8 * height * dy / (width * dx) + 0.7))
    shared = _limits([image for name, image in images.items() if name in _LINKED])
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    for axes, (name, image) in zip(grid, images.items(), strict=False):
        low, high = shared if name in _LINKED else _limits([image])
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


def ensemble_gain(gain: EnsembleGain) -> Figure:
    """Draw the gain of more members.

    Parameters
    ----------
    gain : EnsembleGain
        From `napari_btn.core.evaluation.gain`.

    Returns
    -------
    matplotlib.figure.Figure
        Three panels over the number of members: correlation with the truth, coverage, mean width.
    """
    figure = empty_figure(10.0, 3.4)
    names = ("correlation", "coverage", "width")
    at = np.arange(len(gain.sizes))
    for axes, name in zip(figure.subplots(1, 3), names, strict=True):
        for c, channel in enumerate(shown_names(gain.channel_names)):
            axes.plot(at, getattr(gain, name)[:, c], label=channel, **look(c))
        axes.set_xticks(at, [str(size) for size in gain.sizes])
        axes.set(xlabel="members", title=name)
        values = getattr(gain, name)
        if name == "coverage":
            # so wide that an unimportant difference looks small
            off = max(1.2 * float(np.nanmax(abs(values - (1 - gain.alpha)))), 0.05)
            axes.axhline(1 - gain.alpha, color="0.4", linestyle="--", linewidth=1)
            axes.set_ylim(1 - gain.alpha - off, 1 - gain.alpha + off)
        if name == "width":
            axes.set_ylim(0, 1.1 * float(np.max(values, initial=1e-9, where=np.isfinite(values))))
            if len(gain.channel_names) > 1:
                axes.legend(frameon=False)
    return figure


def graph_figure(graph: Graph, *, flat: Sequence[bool] = ()) -> Figure:
    """Draw the random connections of a member: an arc for each node that a node reads.

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
    figure = empty_figure(max(4.0, 0.8 * (depth + 1)), 0.6 + 0.24 * (depth + 2))
    axes = figure.subplots()
    inputs = max(len(source) for source in graph.sources)
    shades = {d: COLOURS[i % len(COLOURS)] for i, d in enumerate(sorted(set(graph.dilations)))}
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
    """Draw a scan: score against the number of weights.

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
    figure = empty_figure(6.4, 4.4)
    axes = figure.subplots()
    kinds = sorted({(row.max_dilation, row.channels) for row in rows})
    for k, kind in enumerate(kinds):
        mine = sorted(
            (row for row in rows if (row.max_dilation, row.channels) == kind), key=lambda row: row.parameters
        )
        x, y = [row.parameters for row in mine], [row.crps for row in mine]
        axes.plot(x, y, label=f"largest dilation {kind[0]}, {counted(kind[1], 'channel')}", **look(k))
        for row in mine:
            axes.annotate(
                str(row.depth), (row.parameters, row.crps), xytext=(4, 4), textcoords="offset points"
            )
    axes.set_xscale("log")
    axes.set(xlabel="weights per member", ylabel="CRPS / SD of the target", title="Numbers are depths")
    axes.legend(frameon=False)
    return figure


def _limits(images: Sequence[NDArray[np.floating]]) -> tuple[float, float]:
    """Return shared contrast limits of images: their 0.5th and 99.5th percentiles, never equal."""
    finite = [image[np.isfinite(image)] for image in images]
    values = np.concatenate(finite) if finite else np.zeros(0)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    return low, high if high > low else low + 1
