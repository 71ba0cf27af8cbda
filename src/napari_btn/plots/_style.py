"""Shared style of the figures: colours, markers, and the empty figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "empty_figure", "look", "panel_row"]

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind readers can distinguish."""

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")


def look(k: int) -> dict[str, Any]:
    """Return colour and marker of curve number ``k``; no curve differs by its colour alone."""
    return {"color": COLOURS[k % len(COLOURS)], "marker": _MARKERS[k % len(_MARKERS)]}


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, with automatic layout.

    Raises
    ------
    ImportError
        If matplotlib isn't installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which isn't installed; run: pip install 'napari-btn[all]'."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def panel_row(n: int) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with ``n`` panels in a row."""
    figure = empty_figure(3.2 * n + 0.6, 2.9)
    return figure, list(figure.subplots(1, n, squeeze=False)[0])
