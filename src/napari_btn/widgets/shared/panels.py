"""Parts that docks share: progress and controls of forms."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFrame,
    QLabel,
    QLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_btn.widgets.shared.sight import bring_into_sight

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_btn.core.progress import Progress
    from napari_btn.widgets.shared.worker import Timing

__all__ = [
    "PercentBox",
    "ProgressPanel",
    "ScrollColumn",
    "combo_box",
    "field_help",
    "fold",
    "lay_out",
    "push_button",
]


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


def lay_out(inside: QWidget, *parts: QWidget | QLayout, above_px: int = 0) -> QVBoxLayout:
    """Lay out the parts of a widget below each other, close together and without margins.

    Parameters
    ----------
    inside : QWidget
        Gets the layout.
    parts : QWidget or QLayout
        From above to below.
    above_px : int
        Margin above the first part.
    """
    made = QVBoxLayout(inside)
    made.setContentsMargins(0, above_px, 0, 0)
    made.setSpacing(4)
    for part in parts:
        if isinstance(part, QLayout):
            made.addLayout(part)
        else:
            made.addWidget(part)
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
    folded.toggled.connect(lambda shown: bring_into_sight(folded) if shown else None)
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


class PercentBox(QDoubleSpinBox):
    """Fraction, shown and typed as a percentage; ``setValue`` takes 0.9 and 90 alike."""

    def __init__(self) -> None:
        super().__init__()
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
    """A progress bar, and a line with the present work and its time."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: tuple[str, ...] = ()
        self.bar = QProgressBar()
        self.bar.setObjectName("progress")
        self.bar.setAccessibleName("Progress")
        self.line = QLabel()
        self.line.setObjectName("progress_text")
        self.line.setWordWrap(True)
        self.line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        lay_out(self, self.bar, self.line)
        self.hide()

    def start(self, title: str) -> None:
        """Show a run without progress yet."""
        self._layers = ()
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

    def finish(self, sentence: str, layers: Iterable[str] = ()) -> None:
        """Show the end of a run.

        Parameters
        ----------
        sentence : str
        layers : iterable of str
            Names of the layers that the sentence speaks of.
        """
        self._layers = tuple(layers)
        self.show()
        self.bar.setVisible(False)
        self.line.setText(sentence)

    def forget(self, layer: str) -> None:
        """Hide a sentence that speaks of a layer, which was removed.

        Parameters
        ----------
        layer : str
            Its name.
        """
        if layer in self._layers:
            self._layers = ()
            self.hide()


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
