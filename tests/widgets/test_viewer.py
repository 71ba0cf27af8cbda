"""The window that the demo opens."""

from __future__ import annotations

import numpy as np

from napari_btn import samples
from napari_btn.session import session_of


def test_open_result_shows_the_pair_its_maps_and_a_dock_that_knows_the_denoiser(
    denoiser_class, qtbot, monkeypatch
):
    from qtpy.QtWidgets import QAbstractButton

    from napari_btn.widgets.viewer import open_result

    pair = samples.edx(seed=0, size=(40, 52))
    denoiser = denoiser_class("quick", members=1)
    for _ in denoiser.fit_steps(
        pair.noisy,
        pair.clean,
        axes="CYX",
        channel_names=pair.channel_names,
        pixel_size=pair.pixel_size,
        unit=pair.unit,
    ):
        pass
    step = denoiser.predict_steps(pair.noisy, axes="CYX")
    try:
        while True:
            next(step)
    except StopIteration as end:
        prediction = end.value

    viewer = open_result(pair, denoiser, prediction, wait=False)
    try:
        names = [layer.name for layer in viewer.layers]
        assert {"edx noisy", "edx clean", "edx noisy median", "edx noisy width"} <= set(names)
        np.testing.assert_array_equal(viewer.layers["edx noisy median"].data, prediction.median)
        assert viewer.layers["edx noisy median"].scale[-1] == 0.5
        assert session_of(viewer).denoiser is denoiser
        (dock,) = viewer.window.dock_widgets.values()
        assert dock.findChild(QAbstractButton, "save").isEnabled()
    finally:
        viewer.close()
