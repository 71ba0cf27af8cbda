"""The toggles of the Uncertainty dock: which maps there are, and which are in sight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_btn.widgets.shared.overlays import KINDS
from napari_btn.widgets.shared.results import show_map
from napari_btn.widgets.shared.side_by_side import as_before, side_by_side, stands_side_by_side
from napari_btn.widgets.uncertainty.live_maps import LIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.widgets.shared.lifetime import Lifetime
    from napari_btn.widgets.uncertainty.focus import Focus
    from napari_btn.widgets.uncertainty.view import UncertaintyView

__all__ = ["MapToggles"]


class MapToggles:
    """Toggles that show, hide and add the maps of a prediction, and the view side by side.

    Parameters
    ----------
    view : UncertaintyView
        Form with the toggles.
    focus : Focus
        Prediction that is looked at.
    lifetime : Lifetime
        Of the dock.
    show_live : callable
        Shows the map of this name that follows the threshold.
    changed : callable
        Called when a map that follows the threshold was shown or hidden.
    """

    def __init__(
        self,
        view: UncertaintyView,
        focus: Focus,
        lifetime: Lifetime,
        show_live: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._view, self._focus, self._lifetime = view, focus, lifetime
        self._show_live, self._changed = show_live, changed
        for kind, toggle in view.toggles.items():
            # PySide6 calls a partial without the argument of the signal
            toggle.clicked.connect(lambda shown, kind=kind: self._on_user_toggle(kind, shown))
        view.grid.clicked.connect(self._on_user_grid)
        lifetime.at_end(self._leave_layers)

    def watch(self, layer: Any) -> None:
        """Follow the visibility of a layer.

        Parameters
        ----------
        layer : napari.layers.Layer
            Any layer of the viewer.
        """
        layer.events.visible.disconnect(self._on_viewer_visible)
        layer.events.visible.connect(self._on_viewer_visible)

    def _leave_layers(self) -> None:
        """Follow no layer any more."""
        for layer in self._focus.viewer.layers:
            layer.events.visible.disconnect(self._on_viewer_visible)

    def _on_viewer_visible(self, event: Any = None) -> None:
        """Follow a layer that was shown or hidden."""
        del event
        if not self._lifetime.ended:
            self.show()

    def show(self) -> None:
        """Show which maps are in sight, and which there are."""
        for kind, toggle in self._view.toggles.items():
            layer = self._focus.layer(kind)
            if kind in LIVE:
                possible = self._focus.live is not None
                layer = layer if possible else None
            else:
                requested = KINDS[kind].added == "request" and self._focus.prediction is not None
                possible = layer is not None or requested
            toggle.setEnabled(possible)
            toggle.setChecked(layer is not None and bool(layer.visible))
        self._view.grid.setChecked(stands_side_by_side(self._focus.viewer))

    def _on_user_toggle(self, kind: str, shown: bool) -> None:
        """Show or hide a map."""
        layer, prediction = self._focus.layer(kind), self._focus.prediction
        if kind in LIVE:
            if shown:
                self._show_live(kind)
            elif layer is not None:
                layer.visible = False
            self._changed()
            return
        if layer is None and shown and KINDS[kind].added == "request" and prediction is not None:
            # maps without quantiles have no mean
            layer = show_map(self._focus.viewer, kind, prediction, self._focus.name)
        if layer is not None:
            layer.visible = shown

    def _on_user_grid(self, shown: bool) -> None:
        """Show raw, median and width side by side, or as before."""
        viewer, name = self._focus.viewer, self._focus.name
        row = [viewer.layers[name]] if name in viewer.layers else []
        prediction = self._focus.prediction
        first = "median" if prediction is None or self._focus.layer("mean") is None else prediction.shown
        row += [layer for kind in (first, "width") if (layer := self._focus.layer(kind)) is not None]
        if shown and row:
            side_by_side(viewer, row)
        elif stands_side_by_side(viewer):
            as_before(viewer)
        self._view.grid.setChecked(stands_side_by_side(viewer))
