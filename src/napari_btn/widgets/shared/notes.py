"""Notes of a dock: sentences with signs in the colours of the theme, and links to the controls that they name."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QTabWidget,
    QWidget,
)
from superqt import QCollapsible

from napari_btn.widgets.shared.sight import bring_into_sight, parents_of
from napari_btn.widgets.shared.tabs import open_dock

if TYPE_CHECKING:
    from collections.abc import Iterable


__all__ = ["LowScroll", "NoteLabel", "Theme", "notes_html", "on_screen"]

_CONTROLS = {
    "checkerboard": "split",
    "painted parts": "regions",
    "painted areas": "regions",
    "align them": "align",
    "add scenes": "noisy_stack",
    "hold out more": "train_fraction",
    "smaller dilations": "max_dilation",
    "along another axis": "split",
    "ask for a lower coverage": "coverage",
    "lower the coverage": "coverage",
    "name its axes": "axes",
    "pixels that count": "valid",
    "recalibrate": "recalibrate",
    "calibrate tokens separately": "groups",
    "calibrate on images like this one": "calibrate_on",
    "calibrate on a noisy image": "calibrate_on",
    "calibrate again": "calibrate_on",
    "check it on a second frame": "check_second",
    "check it on a slow scan": "check_second",
    "pick two images": "noisy",
    "pick the fast, noisy image": "noisy",
    "give a slower image": "clean",
    "give one as noisy": "clean",
    "leave this repeat out": "clean",
    "several scenes": "noisy_stack",
    "more steps": "steps",
    "train longer": "preset",
    "ask for a shorter training": "members",
    "measure such places again": "propose",
    "look at the mean": "show_mean",
    "mask neighbours": "struct_n2v_axes",
    "single frames": "frames",
    "gain or an offset": "noise_inspect",
    "noise is independent from pixel to pixel": "noise_inspect",
    "such a coverage": "coverage",
    "along an axis": "split",
    "split in time": "split",
    "calibrate fewer": "groups",
    "learn the tokens again": "refit",
    "predict the image again": "apply",
    "reorder them": "channel_names",
}
"""Object names of the controls that remove what a note complains of, by the words that name them."""


_WORDS = re.compile(
    rf"\b({'|'.join(sorted(map(re.escape, _CONTROLS), key=len, reverse=True))})\b", re.IGNORECASE
)


_ON_SCREEN = {
    'give `valid` as "finite" or as a mask of the pixels that count': (
        "set 'Pixels that count' (Advanced) to 'where finite' or to a layer"
    ),
    "`valid`": "'Pixels that count'",
    'split is "time"': "the split is 'in time'",
    'Use split="auto" to split in space': "Choose a split along an axis",
    'with split="auto"': "along an axis",
    'use supervision="pair"': "learn from 'Clean image'",
    'SupervisionSettings(repeats="s") or "t"': "'Repeats along' s or t",
    'give device="cpu"': "choose the device 'cpu'",
    'Use split="checkerboard", which': "Use a checkerboard split, which",
    'Use split="auto" (in space)': "Split along an axis, not in time",
    'The unit is "image", but': "Coverage is to hold in most images, but",
    " (frames=1)": "",
    '"thinning"': "'Counts alone'",
    '"noise2void"': "'Noisy image alone'",
    '"noise2noise"': "'Noisy repeats'",
    "noise2noise needs": "'Noisy repeats' needs",
}
"""Words of the docks instead of those of scripts."""
_MASKED = re.compile(r': struct_n2v_axes="(\w+)", struct_n2v_span=(\d+)')
_DOCKS = {
    "propose": "Re-measure",
    "check_second": "Uncertainty",
    "show_mean": "Uncertainty",
    "refit": "Tokens",
}
"""Docks of controls, to be opened where they are closed; all others are in Denoise."""
_BEFORE = {"calibrate_on": "noisy", "recalibrate": "coverage", "align": "clean"}
"""Controls that must be used before a hidden one appears."""
_CONTRAST = 4.5  # of text and its background, as WCAG 2 asks for
_FRAME_PX = 8  # what a style may draw around a scroll area
_MOST_PX = 110  # largest height of an area of sentences
_SIGN = {"red": "✖", "amber": "⚠", "info": ""}


class Theme:
    """Colours of a viewer's theme.

    Parameters
    ----------
    viewer : napari.Viewer
        Whose theme.
    """

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer

    def colours(self) -> dict[str, QColor]:
        """Return the present colours: text, background, accent, red, amber."""
        from napari.utils.theme import get_theme

        theme = get_theme(self.viewer.theme)
        text, background = QColor(theme.text.as_hex()), QColor(theme.background.as_hex())
        return {
            "text": text,
            "background": background,
            "accent": _readable(QColor(theme.current.as_hex()), text, background, 0.35),
            # The theme's colours are for backgrounds of buttons; text needs more contrast.
            "red": _readable(QColor(theme.error.as_hex()), text, background, 0.35),
            "amber": _readable(QColor(theme.warning.as_hex()), text, background, 0.15),
        }


def _readable(colour: QColor, text: QColor, background: QColor, share: float) -> QColor:
    """Return a colour mixed with at least a share of the text's, and as much as it takes to be read."""
    mixed = _mixed(colour, text, share)
    while share < 1 and _contrast(mixed, background) < _CONTRAST:
        share = min(share + 0.05, 1)
        mixed = _mixed(colour, text, share)
    return mixed


def _contrast(colour: QColor, other: QColor) -> float:
    """Return the ratio of the luminances of two colours, as WCAG 2 defines it."""
    weights = (0.2126, 0.7152, 0.0722)
    low, high = sorted(
        sum(
            w * (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4)
            for w, v in zip(weights, c.getRgbF()[:3], strict=True)
        )
        for c in (colour, other)
    )
    return (high + 0.05) / (low + 0.05)


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
    """

    def __init__(self, theme: Theme, name: str) -> None:
        super().__init__()
        self._theme = theme
        self._notes: tuple[tuple[str, str], ...] = ()
        self.setObjectName(name)
        self.setWordWrap(True)
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextBrowserInteraction)
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.linkActivated.connect(self._on_user_link)
        self.hide()

    def _on_user_link(self, name: str) -> None:
        """Show the control, and open its dock if that is closed."""
        window = self.window()
        if window.findChild(QWidget, name) is None:
            open_dock(self._theme.viewer, _DOCKS.get(name, "Denoise"))
        _show_control(window, name)

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
            escape(on_screen(text)),
        )
        lines.append(f"<div>{sign}{linked}</div>")
    return "".join(lines)


def on_screen(text: str) -> str:
    """Return a sentence with the words of the docks instead of those of scripts.

    Parameters
    ----------
    text : str
        A note, or an error.
    """
    for script, shown in _ON_SCREEN.items():
        text = text.replace(script, shown)
    return _MASKED.sub(r" ('\1', over \2 px)", text)


def _show_control(window: QWidget, name: str) -> None:
    """Bring the control that a note names into sight, unfolded and with the focus."""
    control = window.findChild(QWidget, name)
    if control is not None and control.isHidden() and name in _BEFORE:
        control = window.findChild(QWidget, _BEFORE[name])
    if control is None:
        return
    for parent in parents_of(control):
        if isinstance(parent, QCollapsible) and not parent.isExpanded():
            parent.expand(animate=False)
        if isinstance(parent, QTabWidget):
            for page in range(parent.count()):
                if (shown := parent.widget(page)) is not None and shown.isAncestorOf(control):
                    parent.setCurrentIndex(page)
        if isinstance(parent, QDockWidget):
            parent.show()
            parent.raise_()
    control.setFocus(Qt.FocusReason.OtherFocusReason)
    bring_into_sight(control)


class LowScroll(QScrollArea):
    """Scroll area for sentences, as high as they are up to a limit; hidden if there are none.

    Parameters
    ----------
    label : NoteLabel
        The sentences.
    """

    def __init__(self, label: NoteLabel) -> None:
        super().__init__()
        self._label = label
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        # a label is at least as high as it would be in a narrow column, unless it may shrink
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        label.setSizePolicy(policy)
        label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.setWidget(label)
        label.installEventFilter(self)
        label.setVisible(bool(label.notes))  # which the area has shown
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
        height = min(max(wanted, 16) + min(2 * self.viewport().y(), _FRAME_PX), _MOST_PX)
        if height != self.height() or height != self.minimumHeight():
            self.setFixedHeight(height)
