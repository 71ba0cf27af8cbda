"""The position of the image on the microscope's stage, fitted to places that are known on both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.remeasure.stage import StageAffine
from napari_btn.session import StagePlaces

if TYPE_CHECKING:
    from napari_btn.session import Session
    from napari_btn.widgets.remeasure.field import Field
    from napari_btn.widgets.remeasure.stage_panel import StagePanel
    from napari_btn.widgets.shared.lifetime import Lifetime

__all__ = ["StageFit"]


class StageFit:
    """The fit of the stage to the places in the panel.

    Parameters
    ----------
    viewer : napari.Viewer
        Viewer with the Points layers.
    panel : StagePanel
        Table of places.
    session : Session
        Keeps the places.
    lifetime : Lifetime
        Of the dock.
    """

    def __init__(self, viewer: Any, panel: StagePanel, session: Session, lifetime: Lifetime) -> None:
        self._viewer, self._panel, self._session, self._lifetime = viewer, panel, session, lifetime
        self._field: Field | None = None
        self.affine: StageAffine | None = None
        """From pixels to the stage; None while fewer than three places are known."""
        panel.changed.connect(self._on_user_stage)
        panel.points_wanted.connect(self._on_user_points)

    def show(self, field: Field | None) -> None:
        """Show the places of another image that are known on the stage.

        Parameters
        ----------
        field : Field, optional
            The image; None for no image.
        """
        self._field = field
        known = self._session.stage
        ours = known is not None and field is not None and known.source == field.source.name
        self._panel.show_pairs(known.places if known is not None and ours else ())
        self._panel.setEnabled(field is not None)
        self._fit()

    def _fit(self) -> None:
        """Fit the places, and show how well they agree."""
        self.affine, count, problem = None, 0, ""
        try:
            places = self._panel.pairs()
            count = len(places)
            if self._field is not None and count >= 3:
                values = np.asarray(places)
                size = self._field.frame.pixel_size[-2:]
                self.affine = StageAffine.from_pixels(values[:, :2], values[:, 2:], size)
        except ValueError as error:
            problem = str(error)
        self._panel.say_fit(self.affine, count, problem)

    def _on_user_stage(self) -> None:
        """Fit the typed places, and keep them in the session if they fit."""
        self._fit()
        if self._field is not None and not self._lifetime.ended:
            places = tuple(self._panel.pairs()) if self.affine is not None else ()
            known = StagePlaces(self._field.source.name, places) if places else None
            if known != self._session.stage:
                self._session.stage = known

    def _on_user_points(self) -> None:
        """Take positions from a Points layer."""
        from napari.layers import Points

        layers = [layer for layer in self._viewer.layers if isinstance(layer, Points) and len(layer.data)]
        active = self._viewer.layers.selection.active
        if not layers:
            self._panel.say_fit(
                None, 0, "There is no Points layer. Add one, and click three places of the image in it."
            )
            return
        anchor = None if self._field is None else self._field.anchor()
        if anchor is None or self._field is None:
            self._panel.say_fit(None, 0, "The image's layers were removed; denoise it again to place points.")
            return
        layer = active if active in layers else layers[-1]
        frame = self._field.frame
        axes = [frame.axes.index(a) - len(frame.axes) for a in "YX"]
        before = tuple(self._viewer.dims.point)[: max(anchor.ndim - layer.ndim, 0)]
        inside = [anchor.world_to_data((*before, *layer.data_to_world(p))) for p in layer.data]
        self._panel.show_positions([[float(f"{place[a]:.2f}") for a in axes] for place in inside])
