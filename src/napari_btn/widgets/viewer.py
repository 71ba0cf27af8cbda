"""A napari window with a finished analysis in it, for the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_btn.session import Training, session_of
from napari_btn.widgets.shared.layers import pair_layers, read_layer
from napari_btn.widgets.shared.results import show_prediction
from napari_btn.widgets.shared.tabs import open_dock

if TYPE_CHECKING:
    import napari

    from napari_btn.core.calibration.prediction import Prediction
    from napari_btn.core.data.pairs import Pair
    from napari_btn.model import Model

__all__ = ["open_result"]


def open_result(pair: Pair, model: Model, prediction: Prediction, *, wait: bool = True) -> napari.Viewer:
    """Open napari with a pair, the maps made from it, and the Denoise dock that knows the model.

    Parameters
    ----------
    pair : Pair
        Noisy and clean image.
    model : Model
        Trained on it.
    prediction : Prediction
        Of its noisy image.
    wait : bool
        Return only when the window is closed.

    Returns
    -------
    napari.Viewer
        The viewer.
    """
    import napari
    from napari.layers import Layer

    viewer = napari.Viewer(title="napari-btn")
    noisy, clean = (viewer.add_layer(Layer.create(*layer)) for layer in pair_layers(pair))
    session = session_of(viewer)
    session.model, session.training = model, Training(pair)
    open_dock(viewer, "Denoise")
    show_prediction(viewer, prediction, read_layer(noisy), clean=clean)
    viewer.dims.set_current_step(0, 0)
    viewer.reset_view()
    if wait:
        napari.run()
    return viewer
