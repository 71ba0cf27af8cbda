"""The HTML report is self-contained, correct, and escapes its inputs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import norm

pytest.importorskip("matplotlib", reason="figures need matplotlib, an extra")

from napari_btn import plots
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.evaluation.report import evaluate
from napari_btn.core.progress import Note
from napari_btn.plots import figures
from napari_btn.plots.page import report_page

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
Z = norm.ppf(LEVELS).astype(np.float32)


def measured(shape=(2, 64, 80), axes="CYX"):
    rng = np.random.default_rng(0)
    centre = rng.normal(size=shape).astype(np.float32)
    clean = centre + rng.normal(size=shape).astype(np.float32)
    quantiles = centre + Z.reshape(-1, *([1] * len(shape)))
    names = ("Si", "Fe <b>")[: shape[axes.index("C")]]
    spread = rng.random(shape).astype(np.float32)
    prediction = Prediction(
        quantiles[0], centre, quantiles[-1], spread, quantiles, LEVELS, axes, names, None, "px", 0.1, "clean"
    )
    return prediction, clean, evaluate(prediction, clean)


def test_the_page_has_numbers_notes_and_figures_and_loads_nothing():
    from dataclasses import replace

    prediction, clean, report = measured()
    report = replace(report, warnings=(Note("red", "Overlap of <x>."),))
    page = report_page(report, title="soil & co", prediction=prediction, clean=clean, about={"noisy": "a<b"})
    assert page.startswith("<!doctype html>")
    assert "soil &amp; co" in page
    assert "Fe &lt;b&gt;" in page
    assert "Overlap of &lt;x&gt;." in page
    assert "a&lt;b" in page
    assert f"{report.coverage[0]:.3f}" in page
    assert "this says nothing about a single pixel" in page
    assert "the 95 % interval is that of this field; of others it says nothing" in page
    assert "nan" not in re.sub(r"base64,[^']*", "", page)
    assert len(re.findall(r"<img alt='[^']+' src='data:image/png;base64,", page)) == 7
    assert not re.findall(r"(?:src|href)=['\"](?!data:)", page)


def test_page_and_terminal_say_what_the_rule_aims_at():
    from dataclasses import replace

    from napari_btn.cli.terminal import table

    report = measured()[2]
    for rule, words in (
        (
            "block",
            "the clean signal inside the interval in 90 % of the pixels on average over images",
        ),
        ("pixel", "like the calibration data, without a guarantee"),
        (
            "image",
            "in each of most images like the calibration data (each of most blocks, if that was one field)",
        ),
        ("risk", "(over blocks, if that was one field), with a stated probability"),
    ):
        made = replace(report, rule=rule)
        assert words in report_page(made, title="soil")
        assert words in table(made)


def test_the_only_channel_without_a_name_is_called_the_image():
    from dataclasses import replace

    report = replace(measured((1, 64, 80))[2], channel_names=("0",))
    page = report_page(report, title="soil")
    assert "<td>image</td>" in page
    assert "<td>0</td>" not in page
    assert plots.coverage_by_width(report).axes[0].get_title() == "image"
    for figure in (plots.coverage_by_width(report), plots.places(report)):
        assert figure.axes[0].get_legend() is not None


def test_a_report_alone_makes_a_page():
    page = report_page(measured()[2], title="soil")
    assert page.count("<img") == 3


def test_the_page_and_the_terminal_show_the_coverage_by_value():
    from napari_btn.cli.terminal import table

    _, _, report = measured()
    page = report_page(report, title="soil")
    assert "not a promise" in page
    assert "<th>Si, predicted</th><th>Si, true</th>" in page
    row = page[page.index("<td>brightest 1 %</td>") :].split("</tr>")[0]
    assert f"{report.by_predicted.coverage[0, 6]:.3f} (over {report.by_predicted.edge[0, 6]:.3g};" in row
    at = report.by_true.least()
    text = table(report)
    assert f"Least covered, by true value: {report.by_true.words(report.channel_names, *at)}" in text
    assert text.count("by true value") == 1


@pytest.mark.parametrize(("shape", "axes"), [((3, 2, 40, 48), "SCYX"), ((2, 3, 24, 30), "CZYX")])
def test_scenes_and_volumes(shape, axes):
    prediction, clean, report = measured(shape, axes)
    assert report_page(report, title="x", prediction=prediction, clean=clean).count("<img") == 7


def test_figures_draw_the_values_of_the_report():
    _, _, report = measured()
    figure = plots.coverage_by_width(report)
    np.testing.assert_allclose(figure.axes[0].lines[-1].get_ydata(), report.bin_coverage[0])
    figure = plots.places(report)
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(np.mean(heights), 1)
    shares = {"Si": np.array([[0.0, 0.1], [np.nan, 0.9]])}
    image = plots.missed_blocks(shares, alpha=0.1, block_px=16).axes[0].images[0]
    np.testing.assert_allclose(image.get_array()[0], [-1, 0])


def test_figures_of_missing_values_are_refused():
    from dataclasses import replace

    report = measured()[2]
    with pytest.raises(ValueError, match="has no quantiles"):
        plots.places(replace(report, pit=np.full((2, 20), np.nan)))
    with pytest.raises(ValueError, match="by width"):
        plots.coverage_by_width(replace(report, bin_coverage=np.empty((0, 0))))


def test_variation_between_fields_is_shown_on_the_page_and_in_the_terminal():
    from napari_btn.cli.terminal import table

    for n, words in (
        (10, "that of fields like these"),
        (3, "that of these fields; of others it says nothing"),
    ):
        report = measured((n, 2, 24, 30), "SCYX")[2]
        sd, low, high = report.between_fields[0]
        page = report_page(report, title="soil")
        for text in (page, table(report)):
            assert words in text
            assert f"{n} fields" in text
            assert f"{sd:.3f}" in text
        assert f"{low:.3f} to {high:.3f}" in page
        assert f"{low:.3f}-{high:.3f}" in table(report)


@pytest.mark.parametrize(("covers", "name"), [("clean", "clean"), ("replicate", "target")])
def test_a_noisy_frame_is_not_called_clean_on_the_page(covers, name, monkeypatch):
    from dataclasses import replace

    prediction, second, _ = measured()
    made, named, drawn = replace(prediction, covers=covers), [], figures.maps
    monkeypatch.setattr(
        figures, "maps", lambda images, **how: named.append(set(images)) or drawn(images, **how)
    )
    page = report_page(evaluate(made, second), title="x", prediction=made, clean=second)
    assert [names & {"clean", "target"} for names in named] == [{name}, {name}]
    assert ("against the image that was given" in page) == (covers == "replicate")
