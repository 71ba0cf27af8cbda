"""Values to figures, for files, notebooks and reports.

Figures are made without pyplot, so no window, no backend and no global state is touched; a
figure is written with its own ``savefig``. matplotlib is imported when a figure is made.
"""

from napari_btn.plots.figures import ensemble_gain, graph_figure, line_cut, losses, maps, scan
from napari_btn.plots.reports import coverage, coverage_by_width, missed_blocks, places, width_and_spread

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
