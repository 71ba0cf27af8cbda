"""The panel with the coverage report."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel, QSizePolicy

from napari_btn.core.calibration.conformal import NOT_CALIBRATED, covered
from napari_btn.core.calibration.rules import aim_of
from napari_btn.core.data.image import shown_names
from napari_btn.widgets.shared.notes import notes_html

if TYPE_CHECKING:
    from napari_btn.core.evaluation.report import Report
    from napari_btn.widgets.shared.notes import Theme

__all__ = ["ReportPanel"]


class ReportPanel(QLabel):
    """Coverage per channel as measured, with its notes.

    Parameters
    ----------
    theme : Theme
        Gives the colours.
    """

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self._report: Report | None = None
        self._name = ""
        self.setObjectName("coverage_report")
        self.setToolTip(
            "Of each channel, on blocks that no network was trained on: share of pixels inside the interval, "
            "mean width of the interval, and correlation of the median with the target."
        )
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.hide()

    def show_report(self, report: Report | None, name: str = "") -> None:
        """Show a report, or nothing.

        Parameters
        ----------
        report : Report, optional
            As measured on the held-out blocks.
        name : str
            Image or file that it was measured on; empty if unknown.
        """
        self._report, self._name = report, name
        self.redraw()

    def redraw(self) -> None:
        """Draw again, in the colours of the theme as they are now."""
        report = self._report
        self.setVisible(report is not None)
        if report is None:
            self.clear()
            self.setMinimumHeight(0)
            return
        notes = [(note.level, note.text) for note in report.warnings]
        self.setText(
            _report_html(report, self._name) + notes_html(notes, self._theme) + _caption_html(report)
        )


def _known(value: float, form: str, unit: str = "") -> str:
    """Return a number with its unit, or a dash where it is not known."""
    return f"{value:{form}}{unit}" if value == value else "&ndash;"


def _report_html(report: Report, name: str) -> str:
    """Return the table of the channels."""
    aim = f"{100 * (1 - report.alpha):.4g} %"
    blocks = int(max(report.n_blocks, default=0))
    title = f"<b>Coverage of {escape(covered(report.covers))}</b>"
    of = f" of '{escape(name)}'" if name else ""
    counted = report.blocks if blocks != 1 else report.blocks.replace("s", "", 1)
    head = f"<div>{title}, aimed at {aim}, on {blocks} held-out {escape(counted)}{of}:</div>"
    rows = "".join(
        f"<tr><td>{escape(name)}&nbsp;&nbsp;</td>"
        f"<td align='right'><b>{_known(100 * covered, '.1f', ' %')}</b>&nbsp;</td>"
        f"<td>({_range(low, high)})&nbsp;&nbsp;</td>"
        f"<td align='right'>{_known(width, '.3g')}&nbsp;&nbsp;</td>"
        f"<td align='right'>{r:.3f}</td></tr>"
        for name, covered, low, high, width, r in zip(
            shown_names(report.channel_names),
            report.coverage,
            report.coverage_low,
            report.coverage_high,
            report.width,
            report.correlation,
            strict=True,
        )
    )
    titles = "".join(
        f"<td{span} style='white-space: nowrap'>{title}&nbsp;&nbsp;</td>"
        for title, span in (
            ("channel", ""),
            ("inside (95&nbsp;%&nbsp;interval)", " colspan='2'"),
            ("width", ""),
            ("corr.", ""),
        )
    )
    table = f"<table cellspacing='2'><tr>{titles}</tr>{rows}</table>"
    return f"{head}{table}{_fields_html(report)}{_groups_html(report)}"


def _fields_html(report: Report) -> str:
    """Return a line on the coverage of single fields, where there are several."""
    if report.field_coverage.shape[1] < 2:
        return ""
    parts = (
        f"{escape(name)} {100 * low:.1f} to {100 * high:.1f} % (SD {100 * sd:.1f})"
        for name, (sd, low, high) in zip(
            shown_names(report.channel_names), report.between_fields, strict=True
        )
    )
    return f"<div>Field by field: {'; '.join(parts)}</div>"


def _groups_html(report: Report) -> str:
    """Return the table of the groups that are calibrated separately."""
    if not report.group_coverage.size:
        return ""
    titles = (
        f"{report.group_name}&nbsp;",
        "share&nbsp;",
        *(escape(n) for n in shown_names(report.channel_names)),
    )
    head = "".join(f"<td>{title}&nbsp;</td>" for title in titles)
    rows = "".join(
        f"<tr><td>{g + 1}</td><td align='right'>{100 * share:.1f} %&nbsp;&nbsp;</td>"
        + "".join(
            f"<td align='right'><b>{100 * v:.1f} %</b>&nbsp;</td>" if v == v else "<td>&ndash;</td>"
            for v in report.group_coverage[:, g]
        )
        + "</tr>"
        for g, share in enumerate(report.group_share)
    )
    return f"<div>Inside, by {report.group_name}:</div><table cellspacing='2'><tr>{head}</tr>{rows}</table>"


def _range(low: float, high: float) -> str:
    """Return the interval of a coverage as text, or what is missing for one."""
    if not (low == low and high == high):
        return "few&nbsp;blocks"
    return f"{100 * low:.1f}&nbsp;to&nbsp;{100 * high:.1f}"


def _caption_html(report: Report) -> str:
    """Return a sentence on the meaning of the coverage."""
    if report.covers == NOT_CALIBRATED:
        return ""
    aim = aim_of(report.rule, report.alpha, covered(report.covers))
    known = any(end == end for end in report.coverage_high)
    interval = f" The 95&nbsp;% interval is that of {escape(report.scope)}." if known else ""
    return f"<div><i>Aimed at: {escape(aim)}; not per pixel.{interval}</i></div>"
