"""Edits of tokens: shown in table and chart, picked, merged, named, grouped, painted, undone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.tokens.naming import VIEWPOINTS
from napari_btn.widgets.shared.dock import may_click
from napari_btn.widgets.shared.layers import limits_of
from napari_btn.widgets.tokens.layer import TokenLayer
from napari_btn.widgets.tokens.table import NAME_COLUMN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from qtpy.QtWidgets import QTableWidgetItem

    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.session import Session
    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.tokens.view import TokensView

__all__ = ["BY_TOKEN", "TokenEditor", "channels_of"]

BY_TOKEN = "token"
_DESCRIBE_AFTER_MS = 80
_LOOK_AFTER_MS = 250
_LOOKED_AT = 30_000_000
_PICKED = "Picked:"
_NO_GROUP = (0.5, 0.5, 0.5, 1.0)
# Okabe and Ito's colours, distinct for most colour-blind people; the table names the groups as well.
_GROUP_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


class TokenEditor:
    """Table, chart, picks and edits of the tokens in a layer.

    Parameters
    ----------
    viewer : napari.Viewer
        Viewer with the layer.
    view : TokensView
        Form with the controls.
    session : Session
        Gets the tokens of another cut.
    lifetime : Lifetime
        Of the dock.
    changed : callable
        Called when the tokens or the picks changed.
    """

    def __init__(
        self, viewer: Any, view: TokensView, session: Session, lifetime: Lifetime, changed: Callable[[], None]
    ) -> None:
        self._viewer, self._view, self._session = viewer, view, session
        self._lifetime, self._changed = lifetime, changed
        self.shown: TokenLayer | None = None
        """The layer with the session's tokens, and its edits."""
        self._watched: Any = None
        self._own = False
        self._describe_later = lifetime.timer(_DESCRIBE_AFTER_MS, self.describe)
        self._look_later = lifetime.timer(_LOOK_AFTER_MS, self.look)
        view.table.itemSelectionChanged.connect(self._on_user_pick)
        view.table.itemChanged.connect(self._on_user_name)
        view.merge.clicked.connect(self._on_user_merge)
        view.rename.clicked.connect(self._on_user_rename)
        view.assign.clicked.connect(self._on_user_group)
        view.viewpoint.currentIndexChanged.connect(self._on_user_viewpoint)
        view.undo.clicked.connect(self._on_user_undo)
        view.alone.toggled.connect(self._on_user_alone)
        view.colour_by.currentIndexChanged.connect(self._on_user_colours)
        view.channel.currentIndexChanged.connect(self._on_user_channel)
        lifetime.at_end(self._leave_layer)
        lifetime.hear_clicks(viewer, self._on_user_click)

    def describe(self) -> None:
        """Update table, chart, features and colours from the layer."""
        if self._lifetime.ended:
            return
        shown = self.shown
        if shown is not None and shown.layer is not None:
            table = shown.describe()
            model = self._session.model
            aim = None if model is None else 1 - model.settings.alpha
            self._view.table.show_table(table, channels_of(shown.view), self._colours(), aim)
            with self._quiet():
                shown.set_features(table)
        elif shown is not None:
            self._view.table.clear_table()
        self._recolour()
        self._draw_chart()
        self._changed()

    def _colours(self) -> NDArray[np.float32]:
        """Return the colour of each number: its own, its group's, or that of a channel's median."""
        from napari.utils.colormaps import ensure_colormap
        from napari.utils.colormaps.standardize_color import transform_color

        assert self.shown is not None
        view = self.shown.view
        colours, by = view.colours, self._view.colour_by.currentText()
        if by in VIEWPOINTS:
            groups = self.shown.groups[by]
            order = sorted(set(groups.values()))
            palette = transform_color(list(_GROUP_COLOURS))
            grouped = np.tile(np.array(_NO_GROUP, dtype=np.float32), (len(colours), 1))
            for number, group in groups.items():
                if number < len(grouped):
                    grouped[number] = palette[order.index(group) % len(palette)]
            grouped[0] = colours[0]
            return grouped
        if by in ("", BY_TOKEN) or f"{by} median" not in view.table:
            return colours
        values = view.table[f"{by} median"]
        low, high = limits_of(values[np.isfinite(values)], 100.0)
        share = np.nan_to_num(np.clip((values - low) / max(high - low, 1e-12), 0, 1))
        mapped = np.asarray(ensure_colormap("viridis").map(share), dtype=np.float32)
        return np.concatenate([colours[:1], mapped])

    def _recolour(self) -> None:
        """Colour the layer; picked tokens stand out."""
        if self.shown is not None and self.layer is not None:
            with self._quiet():
                self.shown.colour(
                    self._colours(), self._view.table.picked(), alone=self._view.alone.isChecked()
                )

    def _on_user_colours(self, index: int) -> None:
        """Colour by something else."""
        del index
        self.describe()

    def _draw_chart(self) -> None:
        """Draw the values of a channel for each token."""
        shown, c = self.shown, self._view.channel.currentIndex()
        drawn = shown is not None and shown.layer is not None and shown.tokens.median is not None and c >= 0
        self._view.chart.setVisible(drawn)
        if not drawn or shown is None:
            return
        name = self._view.channel.currentText()
        edges, counts = shown.view.histogram(c, 48)
        medians = np.asarray(shown.view.table[f"{name} median"])
        self._view.chart.show_tokens(edges, counts, medians, self._colours()[1:], name)
        self._view.chart.show_picked(self._view.table.picked())

    def _on_user_alone(self, alone: bool) -> None:
        """Hide the tokens that aren't picked, or show them faintly."""
        del alone
        self._recolour()

    def _on_user_channel(self, index: int) -> None:
        """Draw the values of another channel."""
        del index
        self._draw_chart()

    def _on_user_viewpoint(self, index: int) -> None:
        """Offer the groups of another point of view."""
        del index
        self.offer_groups()

    def _on_user_pick(self) -> None:
        """Highlight the tokens of the picked rows in the image."""
        if self._lifetime.ended:
            return
        picked = self._view.table.picked()
        self._recolour()
        self._view.chart.show_picked(picked)
        if self.shown is not None and (layer := self.shown.layer) is not None and len(picked) == 1:
            with self._quiet():
                layer.selected_label = picked[0]
        self._changed()
        if picked or (self._view.status.notes[:1] and self._view.status.notes[0][1].startswith(_PICKED)):
            self._view.status.say(("info", self._sentence_of(picked)))

    def _sentence_of(self, picked: list[int]) -> str:
        """Return a sentence about the picked tokens."""
        if self.shown is None or not picked:
            return ""
        table, names = self.shown.view.table, self.shown.names
        known = [n for n in picked if n <= len(table["share"])]
        share = 100 * sum(float(table["share"][n - 1]) for n in known)
        called = ", ".join(f"{n} ({names[n]})" if n in names else str(n) for n in known)
        return f"{_PICKED} {called}; {share:.1f} % of the pixels."

    def _on_user_click(self, event: Any) -> None:
        """Pick the token that was clicked."""
        from napari.layers import Image, Labels

        layer = None if self.shown is None else self.shown.layer
        if layer is None or not layer.visible or not may_click(self._viewer, (Image, Labels)):
            return
        value = layer.get_value(event.position, world=True)
        # keys of vispy equal their names, but their text is another
        more = any(key in tuple(getattr(event, "modifiers", ())) for key in ("Shift", "Control"))
        self.pick(int(value or 0), more=more)

    def pick(self, number: int, *, more: bool = False) -> None:
        """Pick a token, as a click on it does.

        Parameters
        ----------
        number : int
            Its number; 0 for none.
        more : bool
            Beside those that are picked, or no longer where it is.
        """
        before = self._view.table.picked() if more else []
        self._view.table.pick([n for n in before if n != number] + ([number] if number not in before else []))

    def _on_viewer_pick(self, event: Any = None) -> None:
        """Pick the label that napari's own picker took."""
        del event
        layer = None if self.shown is None else self.shown.layer
        if not self._own and layer is not None and str(layer.mode) in ("pick", "Mode.PICK"):
            self.pick(int(layer.selected_label))

    def _on_user_merge(self) -> None:
        """Merge the picked tokens."""
        if self.shown is None:
            return
        self.look()
        try:
            with self._quiet():
                target = self.shown.merge(self._view.table.picked())
        except ValueError as error:
            self._view.status.say(("amber", str(error)))
            return
        self.describe()
        self._view.table.pick([target])

    def _on_user_rename(self) -> None:
        """Let the name of the picked token be typed."""
        picked = self._view.table.picked()
        if picked:
            self._view.table.editItem(self._view.table.item(self._view.table.row_of(picked[0]), NAME_COLUMN))

    def _on_user_name(self, item: QTableWidgetItem) -> None:
        """Rename the token whose name was typed."""
        if self.shown is None or item.column() != NAME_COLUMN:
            return
        self.shown.rename(self._view.table.number_at(item.row()), item.text().strip())
        # the cell's editor is still open here
        self._describe_later.start()

    def _on_user_group(self) -> None:
        """Put the picked tokens into a group."""
        picked, viewpoint = self._view.table.picked(), self._view.viewpoint.currentText()
        if self.shown is None or not picked:
            return
        self.look()
        name = self._view.group_name.currentText().strip()
        self.shown.group(viewpoint, picked, name)
        self.describe()
        self.offer_groups()
        numbers = ", ".join(map(str, picked))
        self._view.status.say(
            (
                "info",
                f"By {viewpoint}, the group of {numbers} is '{name}'."
                if name
                else f"By {viewpoint}, the group of {numbers} was removed.",
            )
        )

    def offer_groups(self) -> None:
        """Offer the groups of this point of view; typed text stays."""
        groups = {} if self.shown is None else self.shown.groups[self._view.viewpoint.currentText()]
        typed = self._view.group_name.currentText()
        self._view.group_name.blockSignals(True)
        self._view.group_name.clear()
        self._view.group_name.addItems(sorted(set(groups.values())))
        self._view.group_name.setCurrentText(typed)
        self._view.group_name.blockSignals(False)

    def _on_user_undo(self) -> None:
        """Undo the last edit."""
        if self.shown is None:
            return
        with self._quiet():
            what = self.shown.undo()
        for part in (self._view.slider, self._view.n_tokens):
            part.blockSignals(True)
            part.setValue(self.shown.tokens.k)
            part.blockSignals(False)
        self._session.tokens = self.shown.tokens
        self.describe()
        self.offer_groups()
        self._view.status.say(("info", f"Undone: {what}." if what else ""))

    def show(self, tokens: Tokens | None, source: str) -> None:
        """Show other tokens, or none.

        Parameters
        ----------
        tokens : Tokens, optional
            Of the source.
        source : str
            Name of the image.
        """
        self._watch(None)
        self.shown = None
        if tokens is None:
            self._view.table.clear_table()
            self._view.chart.hide()
            return
        with self._quiet():
            self.shown = TokenLayer(self._viewer, tokens, source)
        self._watch(self.shown.layer)

    @property
    def layer(self) -> Any:
        """The layer with the tokens; None without one."""
        return None if self.shown is None else self.shown.layer

    def watches(self, layer: Any) -> bool:
        """Return True if the tokens are, or were, in this layer.

        Parameters
        ----------
        layer : object
            Any layer, or None.
        """
        return self.shown is not None and layer is self._watched

    def _leave_layer(self) -> None:
        """Disconnect from the layer."""
        self._watch(None)

    def cut(self, k: int) -> None:
        """Cut the palette into another number of tokens; table and chart follow later.

        Parameters
        ----------
        k : int
            How many.
        """
        shown = self.shown
        if shown is None or shown.layer is None or k == shown.tokens.k:
            # Return in the field for the number says the same number once more
            return
        self.look()
        edited = shown.edited
        with self._quiet():
            shown.cut(k)
        self._session.tokens = shown.tokens
        # numbers stay with their tokens; a token that isn't there any more has no row
        self._view.table.pick([n for n in self._view.table.picked() if n <= k])
        if edited:
            text = "The number of tokens was changed. Undo restores merged and painted labels."
            self._view.status.say(("info", text))
        self._describe_later.start()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Ignore the layer's events while we change it ourselves."""
        before, self._own = self._own, True
        try:
            yield
        finally:
            self._own = before

    def _watch(self, layer: Any) -> None:
        """Follow painting and picking in this layer, and in no other."""
        if self._watched is not None:
            events = self._watched.events
            for event in (events.paint, events.labels_update, events.set_data, events.data):
                event.disconnect(self._on_viewer_paint)
            events.selected_label.disconnect(self._on_viewer_pick)
        self._watched = layer
        if layer is not None:
            # napari's own undo emits set_data only.
            for event in (
                layer.events.paint,
                layer.events.labels_update,
                layer.events.set_data,
                layer.events.data,
            ):
                event.connect(self._on_viewer_paint)
            layer.events.selected_label.connect(self._on_viewer_pick)

    def _on_viewer_paint(self, event: Any = None) -> None:
        """Read the labels soon after painting, once for a whole stroke."""
        if self._lifetime.ended or self._own or self.shown is None:
            return
        redrawn = getattr(event, "type", "") == "set_data"
        if not redrawn or self.shown.tokens.labels.size <= _LOOKED_AT:
            self._look_later.start()

    def look(self) -> None:
        """Read what was painted."""
        if not self._lifetime.ended and self.shown is not None and self.shown.look():
            self.describe()


def channels_of(tokens: Tokens) -> list[str]:
    """Return the names of the channels that tokens have values of.

    Parameters
    ----------
    tokens : Tokens
        Of any image.

    Returns
    -------
    list of str
        In the order of the maps; none where the tokens have no maps.
    """
    return [] if tokens.median is None else list(tokens.shown_channels[: len(tokens.median)])
