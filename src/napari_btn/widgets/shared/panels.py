"""Parts that docks share: notes, progress and controls of forms."""

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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_btn.core.progress import Progress
    from napari_btn.widgets.shared.worker import Timing

__all__ = [
    "LowScroll",
    "NoteLabel",
    "PercentBox",
    "ProgressPanel",
    "ScrollColumn",
    "Theme",
    "combo_box",
    "field_help",
    "fold",
    "notes_html",
    "push_button",
    "short_unit",
    "show_control",
]

_UNITS = {"um": "µm", "pixel": "px"}
_CONTROLS = {
    "checkerboard": "split",
    "painted parts": "regions",
    "painted areas": "regions",
    "align them": "align",
    "add scenes": "noisy_stack",
    "lower the coverage": "coverage",
    "name its axes": "axes",
    "`valid`": "valid",
    "valid": "valid",
    "recalibrate": "recalibrate",
    "calibrate tokens apart": "groups",
    "calibrate on images like this one": "calibrate_on",
}
"""Object names of the controls that remove what a note complains of, by the words that name them."""
_WORDS = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, _CONTROLS), key=len, reverse=True))})\b", re.IGNORECASE
)
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
        """Return the present colours: text, background, accent, red, amber."""
        from napari.utils.theme import get_theme

        theme = get_theme(self._viewer.theme)
        text, background = QColor(theme.text.as_hex()), QColor(theme.background.as_hex())
        return {
            "text": text,
            "background": background,
            "accent": _mixed(QColor(theme.current.as_hex()), text, 0.35),
            # The theme's colours are for backgrounds of buttons; text needs more contrast.
            "red": _mixed(QColor(theme.error.as_hex()), text, 0.35),
            "amber": _mixed(QColor(theme.warning.as_hex()), text, 0.15),
        }


def _mixed(colour: QColor, other: QColor, share: float) -> QColor:
    """Return a colour mixed with a share of another."""
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
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.linkActivated.connect(lambda name: show_control(self.window(), name))
        self.hide()

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """The sentences shown, as (level, sentence)."""
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
        self.setText(notes_html(self._notes, self._theme))
        self.setAccessibleName(" ".join(text for _, text in self._notes))
        self.setVisible(bool(self._notes))


def notes_html(notes: Iterable[tuple[str, str]], theme: Theme) -> str:
    """Return sentences with their signs, one per line.

    Parameters
    ----------
    notes : iterable of (str, str)
        Level ("red", "amber" or "info") and sentence.
    theme : Theme
        Gives the colours.

    Returns
    -------
    str
        For a rich text.
    """
    colours = theme.colours()
    link = colours["accent"].name()
    lines = []
    for level, text in notes:
        colour = colours.get(level, colours["text"]).name()
        sign = f"<span style='color:{colour}'><b>{_SIGN[level]}</b></span> " if _SIGN[level] else ""
        linked = _WORDS.sub(
            lambda word: f"<a href='{_CONTROLS[word[0].lower()]}' style='color:{link}'>{word[0]}</a>",
            escape(text),
        )
        lines.append(f"<div>{sign}{linked}</div>")
    return "".join(lines)


def show_control(window: QWidget, name: str) -> None:
    """Bring the control that a note names into sight, unfolded and with the focus.

    Parameters
    ----------
    window : QWidget
        Window with the docks.
    name : str
        Object name of the control.
    """
    control = window.findChild(QWidget, name)
    parent = control.parentWidget() if control is not None else None
    while control is not None and parent is not None:
        if isinstance(parent, QCollapsible) and not parent.isExpanded():
            parent.expand(animate=False)
        if isinstance(parent, QScrollArea):
            parent.ensureWidgetVisible(control)
        parent = parent.parentWidget()
    if control is not None:
        control.setFocus(Qt.FocusReason.OtherFocusReason)


def short_unit(unit: str) -> str:
    """Return the unit as the window shows it.

    Parameters
    ----------
    unit : str
        Of a pixel size.

    Returns
    -------
    str
        "µm" for "um"; others as they are.
    """
    return _UNITS.get(unit, unit)


def push_button(name: str, text: str, help_text: str) -> QPushButton:
    """Return a push button with its names.

    Parameters
    ----------
    name : str
        Object name, which a script may drive it by.
    text : str
        Text on it; read aloud without dots at its end.
    help_text : str
        Tooltip.
    """
    made = QPushButton(text)
    made.setObjectName(name)
    made.setToolTip(help_text)
    made.setAccessibleName(text.rstrip("…"))
    return made


def combo_box(name: str, help_text: str) -> QComboBox:
    """Return a combo box with its names, no wider than needed.

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
    """Return a part of a dock that stays closed until its title is clicked.

    Parameters
    ----------
    name : str
        Qt object name.
    title : str
        Text on its head.
    help_text : str
        Tooltip of its head.
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
        The content.
    """

    def __init__(self, content: QWidget) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:  # Qt's name
        """Return the width of the content with the scroll bar, and little height."""
        content, bar = self.widget(), self.verticalScrollBar()
        width = max(content.minimumSizeHint().width(), content.minimumWidth()) if content is not None else 0
        return QSize(width + (bar.sizeHint().width() if bar is not None else 0), 120)

    def sizeHint(self) -> QSize:  # Qt's name
        """Return the needed width, and a height that leaves room for other parts; it grows where there is more."""
        return QSize(self.minimumSizeHint().width(), 240)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Update the layout around when the content needs another width."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


class LowScroll(QScrollArea):
    """Scroll area for sentences: as high as they are, up to a limit, and gone with them.

    Parameters
    ----------
    label : NoteLabel
        The sentences.
    most_px : int
        Largest height.
    """

    def __init__(self, label: NoteLabel, most_px: int = 110) -> None:
        super().__init__()
        self._label, self._most = label, most_px
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(label)
        label.installEventFilter(self)
        self.setVisible(not label.isHidden())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # Qt's name
        """Follow the sentences as they come, go and grow."""
        kinds = (QEvent.Type.Hide, QEvent.Type.Show, QEvent.Type.ShowToParent, QEvent.Type.HideToParent)
        if event is not None and event.type() in (*kinds, QEvent.Type.LayoutRequest, QEvent.Type.Resize):
            self.setVisible(not self._label.isHidden())
            self._fit()
        return bool(super().eventFilter(watched, event))

    def resizeEvent(self, event: object) -> None:  # Qt's name
        """Fit the height to the new width."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """Be as high as the sentences, up to the limit."""
        wanted = self._label.heightForWidth(max(self.viewport().width(), 200))
        self.setFixedHeight(min(max(wanted, 16), self._most))


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
        """Return a percentage without needless digits."""
        return f"{100 * value:.6g} %"

    def valueFromText(self, text: str | None) -> float:  # Qt's name
        """Return the fraction of a typed percentage."""
        found = re.search(r"\d+(?:[.,]\d*)?", text or "")
        value = float(found.group().replace(",", ".")) if found else 0.0
        return value / 100 if value > 1 else value

    def validate(self, text: str | None, position: int) -> Any:
        """Accept any text that holds a number."""
        from qtpy.QtGui import QValidator

        ok = re.fullmatch(r"\s*\d+(?:[.,]\d*)?\s*%?\s*", text or "")
        state = QValidator.State.Acceptable if ok else QValidator.State.Intermediate
        return state, text, position


class ProgressPanel(QWidget):
    """A progress bar, and a line with the present work and its time.

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
        """Show a run without progress yet."""
        self.bar.setRange(0, 0)
        self.bar.setVisible(True)
        self.line.setText(f"{title}: starting")
        self.show()

    def tell(self, progress: Progress, timing: Timing) -> None:
        """Show the progress of a run.

        Parameters
        ----------
        progress : Progress
            Latest progress of the step.
        timing : Timing
            Elapsed and remaining time.
        """
        self.bar.setRange(0, max(progress.total, 1))
        self.bar.setValue(progress.done)
        parts = [progress.note] if progress.note else []
        parts.append(f"{_duration(timing.elapsed)} so far")
        if timing.remaining is not None and progress.done < progress.total:
            parts.append(f"about {_duration(timing.remaining)} left")
        self.line.setText(" · ".join(parts))

    def finish(self, sentence: str) -> None:
        """Show the end of a run."""
        self.show()
        self.bar.setVisible(False)
        self.line.setText(sentence)


def _duration(seconds: float) -> str:
    """Return a time as text."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def field_help(settings: type) -> dict[str, str]:
    """Return the sentence of each field of a settings class, from its docstring.

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
