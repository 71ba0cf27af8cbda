"""The window that the demo opens."""

from __future__ import annotations

import numpy as np

from napari_btn import samples
from napari_btn.core.compute.pool import Compute
from napari_btn.core.progress import drain
from napari_btn.session import session_of
from napari_btn.workflow.inputs import image_for


def test_open_result_shows_the_pair_its_maps_and_a_dock_that_knows_the_model(steps, make_model, qtbot):
    from qtpy.QtWidgets import QAbstractButton

    from napari_btn.widgets.viewer import open_result

    pair = samples.edx(seed=0, size=(40, 52))
    model = make_model()
    prediction = drain(steps.predict_steps(model, image_for(model, pair.noisy, "CYX"), Compute()))
    viewer = open_result(pair, model, prediction, wait=False)
    try:
        names = [layer.name for layer in viewer.layers]
        assert {"edx noisy", "edx clean", "edx noisy median", "edx noisy width"} <= set(names)
        np.testing.assert_array_equal(viewer.layers["edx noisy median"].data, prediction.median)
        assert viewer.layers["edx noisy median"].scale[-1] == 0.5
        assert session_of(viewer).model is model
        (dock,) = viewer.window.dock_widgets.values()
        assert dock.findChild(QAbstractButton, "save").isEnabled()
    finally:
        viewer.close()
