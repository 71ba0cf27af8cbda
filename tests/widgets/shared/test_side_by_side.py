"""Layers side by side fill their places, and the canvas comes back as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from napari_btn.widgets.shared.side_by_side import as_before, side_by_side


@pytest.fixture
def viewer() -> Any:
    """Return a viewer without a window, with a large image and three small ones."""
    from napari.components import ViewerModel

    viewer = ViewerModel()
    for name, size in (("large", 400), ("noisy", 100), ("median", 100), ("width", 100)):
        viewer.add_image(np.zeros((size, size)), name=name)
    return viewer


def test_a_larger_layer_that_is_hidden_does_not_make_a_row_small(viewer: Any) -> None:
    row = [viewer.layers[name] for name in ("noisy", "median", "width")]
    side_by_side(viewer, row)
    if "layers" not in type(viewer).reset_view.__annotations__:
        pytest.skip("this napari fits a view to all layers")
    camera = viewer.scene.camera
    zoom, middle = camera.zoom, camera.center
    np.testing.assert_allclose(middle[-2:], (49.5, 49.5), atol=1)
    as_before(viewer)
    viewer.layers.remove("large")
    side_by_side(viewer, row)
    assert camera.zoom == pytest.approx(zoom)
