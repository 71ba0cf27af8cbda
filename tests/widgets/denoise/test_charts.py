"""The loss chart draws what came, however much it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from qtpy.QtGui import QColor

from napari_btn.widgets.denoise.charts import LossChart

if TYPE_CHECKING:
    from pytestqt.qtbot import QtBot

COLOURS = {"text": QColor("white"), "background": QColor("black"), "accent": QColor("blue")}


@pytest.fixture
def chart(qtbot: QtBot) -> LossChart:
    made = LossChart(COLOURS)
    qtbot.addWidget(made)
    return made


def test_members_are_faint_and_their_mean_goes_through_the_middle(chart: LossChart) -> None:
    chart.add((m, step, (1.0, 4.0)[m]) for step in range(50) for m in (0, 1))
    chart._draw()
    x, y = chart._mean.getData()
    assert x[0] == 0
    assert x[-1] == 49
    np.testing.assert_allclose(y, 2.0)
    assert np.isnan(chart._faint.getData()[1]).sum() == 2


def test_a_member_that_starts_later_joins_the_mean_where_it_is(chart: LossChart) -> None:
    chart.add((0, step, 1.0) for step in range(30))
    chart.add((1, step, 4.0) for step in range(10))
    chart._draw()
    _, y = chart._mean.getData()
    assert y[0] == pytest.approx(2.0)
    assert y[-1] == pytest.approx(1.0)


def test_long_curves_are_thinned_to_their_ends(chart: LossChart) -> None:
    chart.add((0, step, 1.0 + step) for step in range(5000))
    chart._draw()
    x, _ = chart._faint.getData()
    assert len(x) < 500
    assert np.nanmax(x) == 4999
    assert len(chart.losses) == 5000


def test_nothing_and_zero_are_drawn(chart: LossChart) -> None:
    chart.add([])
    chart._draw()
    chart.add([(0, 0, 0.0), (0, 1, -1.0)])
    chart._draw()
    chart.clear()
    assert chart.losses == ()
    assert len(chart._mean.getData()[0] if chart._mean.getData()[0] is not None else []) == 0
