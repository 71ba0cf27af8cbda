"""A Denoise dock with a pair picked, and its training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget

PLACED = {"axis_labels": ("c", "y", "x"), "scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um")}


@pytest.fixture
def ready(dock: DenoiseWidget, viewer: ViewerModel, pair: tuple[np.ndarray, np.ndarray]) -> DenoiseWidget:
    """A dock with a good pair picked."""
    names = {"channel_names": ["Si", "Al", "Fe"]}
    viewer.add_image(pair[0], name="soil noisy", metadata=names, **PLACED)
    viewer.add_image(pair[1], name="soil clean", metadata=names, **PLACED)
    return dock


@pytest.fixture
def train(qtbot: QtBot) -> Callable[[DenoiseWidget], None]:
    """Train with a dock, and wait until its results are layers."""

    def run(dock: DenoiseWidget) -> None:
        dock.view.train.click()
        assert dock.busy
        qtbot.waitUntil(lambda: not dock.busy)

    return run
