"""Parts that docks share: a note with a level, the progress of a run, the coverage report."""

from __future__ import annotations

import inspect
import re
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFrame,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_btn.core.conformal import covered

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_btn.core.config import Progress
    from napari_btn.core.report import Report
    from napari_btn.widgets.worker import Timing

__all__ = [
    "NoteLabel",
    "PercentBox",
    "ProgressPanel",
    "ReportPanel",
    "ScrollColumn",
    "Theme",
    "combo_box",
    "field_help",
    "fold",
    "push_button",
]

_SIGN = {"red": "✖", "amber": "⚠", "info": ""}


class Theme:
    """Colours of a viewer's theme.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose theme.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer

    def colours(self) -> dict[str, QColor]:
        """Colours as they are now: text, background, accent, red, amber."""
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        text, background = QColor(theme.text.as_hex()), QColor(theme.background.as_hex())
        return {
            "text": text,
            "background": background,
            "accent": _mixed(QColor(theme.current.as_hex()), text, 0.35),
            # The theme's own are made for backgrounds of buttons; as text they need the contrast of text.
            "red": _mixed(QColor(theme.error.as_hex()), text, 0.35),
            "amber": _mixed(QColor(theme.warning.as_hex()), text, 0.15),
        }


def _mixed(colour: QColor, other: QColor, share: float) -> QColor:
    """Colour with a share of another."""
    mixed = [
        a * (1 - share) + b * share for a, b in zip(colour.getRgbF()[:3], other.getRgbF()[:3], strict=True)
    ]
    return QColor.fromRgbF(*(float(v) for v in mixed))


class NoteLabel(QLabel):
    """One or more sentences with a sign and a colour for their level; hidden when there are none.

    Parameters
    ----------
    theme : Theme
        Gives the colours.
    name : str
        Object name.
    parent : QWidget, optional
        Parent.
    """

    def __init__(self, theme: Theme, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._notes: tuple[tuple[str, str], ...] = ()
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.hide()

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """What it says, as (level, sentence)."""
        return self._notes

    def say(self, *notes: tuple[str, str]) -> None:
        """Show these sentences instead of the last.

        Parameters
        ----------
        *notes : tuple of (level, sentence)
            Level is "red", "amber" or "info".
        """
        self._notes = tuple((level, text) for level, text in notes if text)
        self.redraw()

    def redraw(self) -> None:
        """Draw again, in the colours of the theme as they are now."""
        self.setText(_notes_html(self._notes, self._theme))
        self.setAccessibleName(" ".join(text for _, text in self._notes))
        self.setVisible(bool(self._notes))


def _notes_html(notes: Iterable[tuple[str, str]], theme: Theme) -> str:
    """Sentences with their signs, one per line."""
    colours = theme.colours()
    lines = []
    for level, text in notes:
        colour = colours.get(level, colours["text"]).name()
        sign = f"<span style='color:{colour}'><b>{_SIGN[level]}</b></span> " if _SIGN[level] else ""
        lines.append(f"<div>{sign}{escape(text)}</div>")
    return "".join(lines)


def push_button(name: str, text: str, help_text: str) -> QPushButton:
    """Push button with its names.

    Parameters
    ----------
    name : str
        Object name, which a script may drive it by.
    text : str
        What it says; read aloud without dots at its end.
    help_text : str
        Tooltip.
    """
    made = QPushButton(text)
    made.setObjectName(name)
    made.setToolTip(help_text)
    made.setAccessibleName(text.rstrip("…"))
    return made


def combo_box(name: str, help_text: str) -> QComboBox:
    """Combo box with its names, no wider than it needs to be.

    Parameters
    ----------
    name : str
        Object name, which a script may drive it by; read aloud with blanks.
    help_text : str
        Tooltip.
    """
    made = QComboBox()
    made.setObjectName(name)
    made.setToolTip(help_text)
    made.setAccessibleName(name.replace("_", " ").capitalize())
    made.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(6)
    return made


def fold(name: str, title: str, help_text: str, inside: QWidget) -> QCollapsible:
    """Part of a dock that stays closed until its title is clicked.

    Parameters
    ----------
    name : str
        Qt object name.
    title : str
        Text on its head.
    help_text : str
        What is in it.
    inside : QWidget
        The part.

    Returns
    -------
    QCollapsible
        Closed.
    """
    folded = QCollapsible(title, expandedIcon="▾", collapsedIcon="▸")
    folded.setDuration(0)
    folded.setObjectName(name)
    folded.toggleButton().setToolTip(help_text)
    folded.toggleButton().setAccessibleName(title)
    folded.layout().setContentsMargins(0, 0, 0, 0)
    folded.addWidget(inside)
    return folded


class ScrollColumn(QScrollArea):
    """Scroll area that scrolls up and down only, and is never narrower than what it holds.

    Parameters
    ----------
    content : QWidget
        What it holds.
    """

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:  # Qt's name
        """Width of the content with the scroll bar, and little height."""
        content, bar = self.widget(), self.verticalScrollBar()
        width = content.minimumSizeHint().width() if content is not None else 0
        return QSize(width + (bar.sizeHint().width() if bar is not None else 0), 120)

    def sizeHint(self) -> QSize:  # Qt's name
        """As wide as needed, and as tall as there is room."""
        return QSize(self.minimumSizeHint().width(), 600)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Tell the layout around when the content wants another width."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


class PercentBox(QDoubleSpinBox):
    """Fraction, shown and typed as a percentage; ``setValue`` takes 0.9 and 90 alike."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setDecimals(4)
        self.setRange(0.5, 0.999)
        self.setSingleStep(0.01)

    def setValue(self, value: float) -> None:  # Qt's name
        """Set a fraction, or a percentage where it is above one."""
        super().setValue(value / 100 if value > 1 else value)

    def textFromValue(self, value: float) -> str:  # Qt's name
        """Percentage without needless digits."""
        return f"{100 * value:.6g} %"

    def valueFromText(self, text: str | None) -> float:  # Qt's name
        """Fraction of a typed percentage."""
        found = re.search(r"\d+(?:[.,]\d*)?", text or "")
        value = float(found.group().replace(",", ".")) if found else 0.0
        return value / 100 if value > 1 else value

    def validate(self, text: str | None, position: int) -> Any:
        """Anything that holds a number may be typed."""
        from qtpy.QtGui import QValidator

        ok = re.fullmatch(r"\s*\d+(?:[.,]\d*)?\s*%?\s*", text or "")
        state = QValidator.State.Acceptable if ok else QValidator.State.Intermediate
        return state, text, position


class ProgressPanel(QWidget):
    """A bar, a line that says what is being done and how long it takes, and the loss curve.

    Parameters
    ----------
    theme : Theme
        Gives the colours.
    parent : QWidget, optional
        Parent.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.bar = QProgressBar()
        self.bar.setObjectName("progress")
        self.bar.setAccessibleName("Progress")
        self.line = QLabel()
        self.line.setObjectName("progress_text")
        self.line.setWordWrap(True)
        self.line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        layout.addWidget(self.bar)
        layout.addWidget(self.line)
        self.hide()

    def start(self, title: str) -> None:
        """Show a run that has said nothing yet."""
        self.bar.setRange(0, 0)
        self.bar.setVisible(True)
        self.line.setText(f"{title}: starting")
        self.show()

    def tell(self, progress: Progress, timing: Timing) -> None:
        """Show how far a run is.

        Parameters
        ----------
        progress : Progress
            What the step said.
        timing : Timing
            How long it has run, and has to run.
        """
        self.bar.setRange(0, max(progress.total, 1))
        self.bar.setValue(progress.done)
        parts = [progress.note] if progress.note else []
        parts.append(f"{_duration(timing.elapsed)} so far")
        if timing.remaining is not None and progress.done < progress.total:
            parts.append(f"about {_duration(timing.remaining)} left")
        self.line.setText(" · ".join(parts))

    def finish(self, sentence: str) -> None:
        """Show how a run ended."""
        self.show()
        self.bar.setVisible(False)
        self.line.setText(sentence)


def _duration(seconds: float) -> str:
    """Time for a person."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class ReportPanel(QLabel):
    """Coverage per channel as measured, with its notes.

    Parameters
    ----------
    theme : Theme
        Gives the colours.
    parent : QWidget, optional
        Parent.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._report: Report | None = None
        self.setObjectName("coverage_report")
        self.setToolTip(
            "Of each channel, on blocks that no network was trained on: share of pixels inside the interval, "
            "mean width of the interval, and correlation of the median with the clean image."
        )
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.hide()

    def show_report(self, report: Report | None) -> None:
        """Show a report, or nothing.

        Parameters
        ----------
        report : Report, optional
            As measured on the held-out blocks.
        """
        self._report = report
        self.redraw()

    def redraw(self) -> None:
        """Draw again, in the colours of the theme as they are now."""
        report = self._report
        self.setVisible(report is not None)
        if report is None:
            self.clear()
            return
        notes = [(note.level, note.text) for note in report.warnings]
        self.setText(_report_html(report) + _notes_html(notes, self._theme) + _caption_html(report))


def _report_html(report: Report) -> str:
    """Table of the channels."""
    aim = f"{100 * (1 - report.alpha):.4g} %"
    blocks = int(max(report.n_blocks, default=0))
    what = "scenes" if report.block_px == 0 else "blocks"
    title = f"<b>Coverage of {escape(covered(report.covers))}</b>"
    head = f"<div>{title}, aimed at {aim}, on {blocks} held-out {what}:</div>"
    rows = "".join(
        f"<tr><td>{escape(name)}&nbsp;&nbsp;</td>"
        f"<td align='right'><b>{100 * covered:.1f} %</b>&nbsp;</td>"
        f"<td>({_range(low, high)})&nbsp;&nbsp;</td>"
        f"<td align='right'>{width:.3g}&nbsp;&nbsp;</td>"
        f"<td align='right'>{r:.3f}</td></tr>"
        for name, covered, low, high, width, r in zip(
            report.channel_names,
            report.coverage,
            report.coverage_low,
            report.coverage_high,
            report.width,
            report.correlation,
            strict=True,
        )
    )
    titles = "".join(
        f"<td{span}>{title}&nbsp;&nbsp;</td>"
        for title, span in (
            ("channel", ""),
            ("inside (95 % interval)", " colspan='2'"),
            ("width", ""),
            ("corr.", ""),
        )
    )
    return f"{head}<table cellspacing='2'><tr>{titles}</tr>{rows}</table>{_groups_html(report)}"


def _groups_html(report: Report) -> str:
    """Table of the groups that are calibrated apart."""
    if not report.group_coverage.size:
        return ""
    titles = (f"{report.group_name}&nbsp;", "share&nbsp;", *(escape(n) for n in report.channel_names))
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
    """Interval of a coverage, or what is missing for one."""
    if not (low == low and high == high):
        return "few&nbsp;blocks"
    return f"{100 * low:.1f}&nbsp;to&nbsp;{100 * high:.1f}"


def _caption_html(report: Report) -> str:
    """What the number means, and doesn't."""
    share = f"{100 * (1 - report.alpha):.4g} %"
    text = f"{share} of pixels on average over images like the calibration data; not per pixel."
    return f"<div><i>{text}</i></div>"


def field_help(settings: type) -> dict[str, str]:
    """Sentence of each field of a settings class, from its docstring.

    Parameters
    ----------
    settings : type
        Class with a numpydoc ``Attributes`` section.

    Returns
    -------
    dict of str to str
        By field name.
    """
    doc = inspect.cleandoc(settings.__doc__ or "")
    section = doc.partition("Attributes\n----------\n")[2]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            name = line.partition(" :")[0].strip()
        elif line.strip() and name:
            found[name] = f"{found.get(name, '')} {line.strip()}".strip()
    return found


def losses_of(denoiser: Any) -> Sequence[tuple[int, int, float]]:
    """Losses of a trained denoiser as (member, step, loss)."""
    by_member: Mapping[int, Sequence[float]] = getattr(denoiser, "losses", {})
    return [(m, step, value) for m, values in by_member.items() for step, value in enumerate(values)]
