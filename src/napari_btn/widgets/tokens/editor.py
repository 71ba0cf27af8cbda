"""What is done with found tokens: shown in table and chart, picked, merged, named, painted, taken back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.tokens.naming import VIEWPOINTS
from napari_btn.widgets.shared.layers import limits_of
from napari_btn.widgets.tokens.view import NAME_COLUMN, TokensView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from qtpy.QtWidgets import QTableWidgetItem

    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.widgets.tokens.layer import TokenLayer

__all__ = ["BY_TOKEN", "TokenEditor", "channels_of"]

BY_TOKEN = "token"
_DESCRIBE_AFTER_MS = 80
_LOOK_AFTER_MS = 250
_LOOKED_AT = 30_000_000
_PICKED = "Picked:"
_NO_GROUP = (0.5, 0.5, 0.5, 1.0)
# Okabe and Ito's: told apart by most who see few colours, and named in the table beside them.
_GROUP_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


class TokenEditor(TokensView):
    """Table, chart, picks and edits of the Tokens dock at work.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.shown: TokenLayer | None = None
        """The layer with the session's tokens, and its edits."""
        self._watched: Any = None
        self._own = False
        self._describe_later = self._timer(_DESCRIBE_AFTER_MS)
        self._look_later = self._timer(_LOOK_AFTER_MS)

    def _show_state(self) -> None:
        """Enable what can be done now."""
        raise NotImplementedError

    # ---------------------------------------------------------------- table, chart and colours

    def _describe(self) -> None:
        """Bring table, chart, features and colours up to date with the layer."""
        if self._left:
            return
        shown = self.shown
        if shown is not None and shown.layer is not None:
            table = shown.describe()
            self.table.show_table(table, channels_of(shown.view), self._colours())
            with self._quiet():
                shown.set_features(table)
        elif shown is not None:
            self.table.clear_table()
        self._recolour()
        self._draw_chart()
        self._show_state()

    def _colours(self) -> NDArray[np.float32]:
        """Colour of each number: its own, its group's, or of a channel's median."""
        from napari.utils.colormaps import ensure_colormap
        from napari.utils.colormaps.standardize_color import transform_color

        assert self.shown is not None
        view = self.shown.view
        colours, by = view.colours, self.colour_by.currentText()
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

    def _recolour(self, value: object = None) -> None:
        """Colour the layer; what is picked stands out."""
        del value
        if self.shown is not None and self.shown.layer is not None:
            with self._quiet():
                self.shown.colour(self._colours(), self.table.picked(), alone=self.alone.isChecked())

    def _on_user_colours(self, index: int) -> None:
        """Colour by something else."""
        del index
        self._describe()

    def _draw_chart(self, value: object = None) -> None:
        """Draw the values of a channel, token by token."""
        del value
        shown, c = self.shown, self.channel.currentIndex()
        drawn = shown is not None and shown.layer is not None and shown.tokens.median is not None and c >= 0
        self.chart.setVisible(drawn)
        if not drawn or shown is None:
            return
        name = self.channel.currentText()
        edges, counts = shown.view.histogram(c, 48)
        medians = np.asarray(shown.view.table[f"{name} median"])
        self.chart.show_tokens(edges, counts, medians, self._colours()[1:], name)
        self.chart.show_picked(self.table.picked())

    # ---------------------------------------------------------------- picking

    def _on_user_pick(self) -> None:
        """Other rows are picked: they stand out in the image."""
        if self._left:
            return
        picked = self.table.picked()
        self._recolour()
        self.chart.show_picked(picked)
        if self.shown is not None and (layer := self.shown.layer) is not None and len(picked) == 1:
            with self._quiet():
                layer.selected_label = picked[0]
        self._show_state()
        if picked or (self.status.notes[:1] and self.status.notes[0][1].startswith(_PICKED)):
            self.status.say(("info", self._told(picked)))

    def _told(self, picked: list[int]) -> str:
        """What is picked, in words."""
        if self.shown is None or not picked:
            return ""
        table, names = self.shown.view.table, self.shown.names
        known = [n for n in picked if n <= len(table["share"])]
        share = 100 * sum(float(table["share"][n - 1]) for n in known)
        called = ", ".join(f"{n} ({names[n]})" if n in names else str(n) for n in known)
        return f"{_PICKED} {called}; {share:.1f} % of the pixels."

    def _on_mouse(self, viewer: Any, event: Any) -> Iterator[None]:
        """Pick the token that was clicked, unless the mouse was dragged or draws."""
        from napari.layers import Image, Labels

        del viewer
        start = tuple(event.pos) if getattr(event, "pos", None) is not None else None
        yield
        while event.type == "mouse_move":
            if start is not None and np.hypot(*(np.asarray(event.pos) - start)) > 3:
                return
            yield
        layer = None if self.shown is None else self.shown.layer
        active = self.viewer.layers.selection.active
        free = isinstance(active, Image | Labels) and str(active.mode) in ("pan_zoom", "Mode.PAN_ZOOM")
        if self._left or layer is None or not layer.visible or not (active is None or free):
            return
        value = layer.get_value(event.position, world=True)
        more = {str(m) for m in getattr(event, "modifiers", ())} & {"Shift", "Control"}
        self.pick(int(value or 0), more=bool(more))

    def pick(self, number: int, *, more: bool = False) -> None:
        """Pick a token, as a click on it does.

        Parameters
        ----------
        number : int
            Its number; 0 for none.
        more : bool
            Beside those that are picked, or no longer where it is.
        """
        before = self.table.picked() if more else []
        self.table.pick([n for n in before if n != number] + ([number] if number not in before else []))

    def _on_layer_picked(self, event: Any = None) -> None:
        """Napari's own picker took a label: it is picked here too."""
        del event
        layer = None if self.shown is None else self.shown.layer
        if not self._own and layer is not None and str(layer.mode) in ("pick", "Mode.PICK"):
            self.pick(int(layer.selected_label))

    # ---------------------------------------------------------------- edits

    def _on_user_merge(self) -> None:
        """Make the picked tokens one."""
        if self.shown is None:
            return
        self._look()
        try:
            with self._quiet():
                target = self.shown.merge(self.table.picked())
        except ValueError as error:
            self.status.say(("amber", str(error)))
            return
        self._describe()
        self.table.pick([target])

    def _on_user_rename(self) -> None:
        """Let the name of the picked token be typed."""
        picked = self.table.picked()
        if picked:
            self.table.editItem(self.table.item(self.table.row_of(picked[0]), NAME_COLUMN))

    def _on_user_name(self, item: QTableWidgetItem) -> None:
        """A name was typed."""
        if self.shown is None or item.column() != NAME_COLUMN:
            return
        self.shown.rename(self.table.number_at(item.row()), item.text().strip())
        # the cell's editor is still open here
        self._describe_later.start()

    def _on_user_group(self) -> None:
        """Put the picked tokens into a group."""
        picked, viewpoint = self.table.picked(), self.viewpoint.currentText()
        if self.shown is None or not picked:
            return
        self._look()
        name = self.group_name.currentText().strip()
        self.shown.group(viewpoint, picked, name)
        self._describe()
        self._offer_groups()
        numbers = ", ".join(map(str, picked))
        self.status.say(
            (
                "info",
                f"By {viewpoint}, {numbers}: {name}." if name else f"By {viewpoint}, {numbers}: no group.",
            )
        )

    def _offer_groups(self, value: object = None) -> None:
        """Offer the groups that there are from this point of view; what is typed stays."""
        del value
        groups = {} if self.shown is None else self.shown.groups[self.viewpoint.currentText()]
        typed = self.group_name.currentText()
        self.group_name.blockSignals(True)
        self.group_name.clear()
        self.group_name.addItems(sorted(set(groups.values())))
        self.group_name.setCurrentText(typed)
        self.group_name.blockSignals(False)

    def _on_user_undo(self) -> None:
        """Take the last edit back."""
        if self.shown is None:
            return
        with self._quiet():
            what = self.shown.undo()
        for part in (self.slider, self.n_tokens):
            part.blockSignals(True)
            part.setValue(self.shown.tokens.k)
            part.blockSignals(False)
        self.session.tokens = self.shown.tokens
        self._describe()
        self._offer_groups()
        self.status.say(("info", f"Took back {what}." if what else ""))

    # ---------------------------------------------------------------- what the layer says

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Take what the layer says meanwhile for our own doing."""
        before, self._own = self._own, True
        try:
            yield
        finally:
            self._own = before

    def _watch(self, layer: Any) -> None:
        """Hear of strokes and picks in a layer, and of no other's."""
        if self._watched is not None:
            events = self._watched.events
            for event in (events.paint, events.labels_update, events.set_data, events.data):
                event.disconnect(self._on_painted)
            events.selected_label.disconnect(self._on_layer_picked)
        self._watched = layer
        if layer is not None:
            # Napari's own undo says no more than that it drew anew.
            for event in (
                layer.events.paint,
                layer.events.labels_update,
                layer.events.set_data,
                layer.events.data,
            ):
                event.connect(self._on_painted)
            layer.events.selected_label.connect(self._on_layer_picked)

    def _on_painted(self, event: Any = None) -> None:
        """The layer was painted, or drawn anew: look soon, once for a whole stroke."""
        if self._left or self._own or self.shown is None:
            return
        drawn_anew = getattr(event, "type", "") == "set_data"
        if not drawn_anew or self.shown.tokens.labels.size <= _LOOKED_AT:
            self._look_later.start()

    def _look(self) -> None:
        """Take over what was painted."""
        if not self._left and self.shown is not None and self.shown.look():
            self._describe()


def channels_of(tokens: Tokens) -> list[str]:
    """Names of the channels that tokens have values of.

    Parameters
    ----------
    tokens : Tokens
        Of any image.

    Returns
    -------
    list of str
        In the order of the maps; none where the tokens have no maps.
    """
    n = 0 if tokens.median is None else len(tokens.median)
    names = tokens.channel_names
    return [names[c] if c < len(names) else str(c) for c in range(n)]
