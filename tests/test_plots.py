"""Figures draw the values that they are given, and a figure file is never blank."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib, an extra")

from napari_btn import plots


@dataclass
class FakeReport:
    """The fields of a report that plots.coverage reads."""

    channel_names: tuple[str, ...] = ("Si", "Al", "Fe")
    alpha: float = 0.1
    covers: str = "clean"
    coverage: np.ndarray = field(default_factory=lambda: np.array([0.91, 0.88, 0.90]))
    coverage_low: np.ndarray = field(default_factory=lambda: np.array([0.89, 0.80, 0.85]))
    coverage_high: np.ndarray = field(default_factory=lambda: np.array([0.93, 0.93, 0.95]))
    scope: str = "this field"
    levels: tuple[float, ...] = (0.05, 0.5, 0.95)
    reliability: np.ndarray = field(default_factory=lambda: np.tile([0.06, 0.48, 0.94], (3, 1)))


def picture(figure):
    """The figure as it is written: (height, width, 4) of 0..1."""
    from matplotlib.image import imread

    stream = io.BytesIO()
    figure.savefig(stream, dpi=60)
    stream.seek(0)
    return imread(stream)


def test_losses_draws_a_curve_per_member_and_their_mean():
    figure = plots.losses([(m, s, 1.0 / (s + m + 1)) for m in range(3) for s in range(10)])
    lines = figure.axes[0].lines
    assert len(lines) == 4
    np.testing.assert_allclose(lines[-1].get_ydata()[0], (1 + 1 / 2 + 1 / 3) / 3)
    assert picture(figure).std() > 0.01


def test_losses_mean_stops_where_members_end():
    figure = plots.losses([(0, s, 1.0) for s in range(10)] + [(1, s, 3.0) for s in range(4)])
    mean = figure.axes[0].lines[-1]
    assert len(mean.get_xdata()) == 4
    assert set(mean.get_ydata()) == {2.0}


def test_losses_of_nothing_says_what_to_do():
    with pytest.raises(ValueError, match="collect Progress"):
        plots.losses([])


@pytest.mark.parametrize("levels", [(), (0.05, 0.5, 0.95)])
def test_coverage_draws_one_point_per_channel_and_reliability_where_levels_are_known(levels):
    figure = plots.coverage(FakeReport(levels=levels))
    assert len(figure.axes) == (2 if levels else 1)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["Si", "Al", "Fe"]
    assert "clean signal" in figure.axes[0].get_title()
    if levels:
        assert len(figure.axes[1].lines) == 4
    assert picture(figure).std() > 0.01


def test_coverage_bars_are_never_negative():
    report = FakeReport(coverage_low=np.array([0.92, 0.8, 0.8]), coverage_high=np.array([0.93, 0.93, 0.89]))
    plots.coverage(report)


def test_line_cut_scales_the_observation_to_the_prediction():
    x = np.linspace(0, 6, 101)
    truth = 5 + np.sin(x)
    figure = plots.line_cut(truth, truth - 1, truth + 1, observed=0.01 * truth + 3, truth=truth, title="Fe",
                            position=x, unit="µm", alpha=0.1)  # fmt: skip
    observed = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(observed, truth, atol=1e-9)
    assert "90 % interval of the clean signal" in [t.get_text() for t in figure.legends[0].get_texts()]
    assert figure.axes[0].get_xlabel() == "distance (µm)"


def test_line_cut_takes_a_constant_observation():
    values = np.arange(5.0)
    observed = plots.line_cut(values, values, values, observed=np.zeros(5)).axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(observed, 2.0)


def test_line_cut_refuses_curves_of_other_lengths():
    with pytest.raises(ValueError, match="cut all along one line"):
        plots.line_cut(np.zeros(5), np.zeros(5), np.zeros(4))


def test_maps_link_the_range_of_clean_and_prediction_but_not_of_noisy_or_width():
    rng = np.random.default_rng(0)
    image = rng.random((17, 31))
    named = {
        "noisy": 0.01 * image,
        "lower": image - 1,
        "median": image,
        "upper": image + 1,
        "width": 0.1 + image,
    }
    figure = plots.maps(named, title="Fe", pixel_size=(0.5, 0.25), unit="µm")
    limits = {axes.get_title(): axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert limits["lower"] == limits["median"] == limits["upper"]
    assert limits["noisy"][1] < 0.02
    assert limits["width"][0] == 0
    assert tuple(figure.axes[0].images[0].get_extent()) == (0, 31 * 0.25, 17 * 0.5, 0)
    assert picture(figure).std() > 0.01


def test_maps_take_a_constant_image_and_missing_values():
    image = np.full((5, 7), np.nan)
    plots.maps({"noisy": image, "median": np.zeros((5, 7))})


@pytest.mark.parametrize("images", [{}, {"median": np.zeros((3, 5, 7))}])
def test_maps_refuse_other_than_images(images):
    with pytest.raises(ValueError, match="take one channel and one slice"):
        plots.maps(images)


def test_ensemble_gain_has_a_panel_for_each_figure():
    from napari_btn.core.evaluation.gain import EnsembleGain

    table = np.linspace(0.5, 1, 6).reshape(3, 2)
    figure = plots.ensemble_gain(EnsembleGain((1, 2, 5), table, table, table, 0.1, ("Si", "Fe")))
    assert [axes.get_title() for axes in figure.axes] == ["correlation", "coverage", "width"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "2", "5"]
    assert picture(figure).std() > 0.01
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low < table.min()
        assert table.max() < high
    assert figure.axes[2].get_legend() is not None


def test_ensemble_gain_of_one_channel_has_no_legend_and_accepts_infinite_widths():
    from napari_btn.core.evaluation.gain import EnsembleGain

    table, width = np.full((3, 1), 0.9), np.array([[np.inf], [2.0], [1.0]])
    figure = plots.ensemble_gain(EnsembleGain((1, 2, 5), table, table, width, 0.1, ("0",)))
    assert figure.axes[2].get_legend() is None
    assert figure.axes[2].get_ylim() == pytest.approx((0, 2.2))
    assert figure.axes[1].get_ylim() == pytest.approx((0.85, 0.95))


def test_a_graph_is_drawn_with_an_arc_for_each_node_read():
    from napari_btn.core.networks.sms.graph import Graph

    graph = Graph(((0,), (0, 1, 2), (1, 4, 5), (0, 6, 9)), (1, 2, 4, 1))
    figure = plots.graph_figure(graph, flat=(False, False, True, False))
    (axes,) = figure.axes
    # nodes read: the input; the input and node 1; nodes 1 and 2; the input, node 2 and node 3
    assert len(axes.patches) == 1 + 2 + 2 + 3
    assert [text.get_text() for text in axes.texts] == ["input", "1", "2", "4", "1"]
    assert picture(figure).std() > 0.01
