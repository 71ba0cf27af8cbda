"""The form of a training's settings."""

from __future__ import annotations

from napari_btn.core.supervision.registry import SUPERVISIONS
from napari_btn.widgets.denoise.training_form import TrainingForm


def test_the_dock_offers_all_ways(qtbot):
    form = TrainingForm({"cpu": "CPU"}, "")
    qtbot.addWidget(form)
    chosen = []
    for index in range(form.supervision.count()):
        form.supervision.setCurrentIndex(index)
        chosen.append(form.settings()["supervision"])
    assert chosen == list(SUPERVISIONS)
