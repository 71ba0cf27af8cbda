"""The command line after training: tokens and regions as files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn.cli import main
from napari_btn.cli.regions import _Measure
from napari_btn.core.remeasure.expected import Decision, wrong_now
from napari_btn.io.images import read_image, write_images
from napari_btn.io.regions import read_regions
from napari_btn.io.tables import read_table
from napari_btn.workflow.search import Choice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a bundle and images."""
    folder = tmp_path_factory.mktemp("analysis")
    pair = btn.samples.edx(seed=1, size=(48, 176))
    denoiser = btn.Denoiser(
        members=2, network=btn.NetworkSettings(depth=3), train=btn.TrainSettings(steps=6), device="cpu"
    )
    denoiser.fit(
        pair.noisy, pair.clean, axes="CYX", channel_names=("Si", "Al", "Fe"), pixel_size=(0.5, 0.5), unit="um"
    )
    denoiser.save(folder / "edx.btn")
    write_images(
        {"noisy": pair.noisy}, folder / "noisy.ome.tif", axes="CYX", pixel_size=(0.25, 0.25), unit="um"
    )
    np.save(folder / "other.npy", btn.samples.edx(seed=2, size=(40, 60)).noisy)
    return folder


def call(*args):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


def test_tokens_are_labels_with_a_table(folder):
    out, rows = folder / "tokens.ome.tif", folder / "tokens.csv"
    result = call("tokens", folder / "edx.btn", folder / "noisy.ome.tif", "-n", 6, "-o", out, "--table", rows,
                  "--order-by", "Fe", "--keep")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "6 tokens" in result.stdout
    image = read_image(out)
    assert image.axes == "YX"
    assert image.pixel_size == pytest.approx((0.25, 0.25))
    labels = np.asarray(image.data)
    assert set(np.unique(labels)) == set(range(1, 7))
    table = read_table(rows)
    assert table["pixels"] == [int((labels == k).sum()) for k in range(1, 7)]
    assert table["Fe median"] == sorted(table["Fe median"])
    # the palette was kept, and gives the same labels from a script
    denoiser = btn.load(folder / "edx.btn")
    tokens = denoiser.tokens(np.asarray(read_image(folder / "noisy.ome.tif").data), 6, order_by="Fe")
    np.testing.assert_array_equal(tokens.labels, labels)
    again = call(
        "tokens", folder / "edx.btn", folder / "other.npy", "--axes", "CYX", "-n", 4, "-o", folder / "o.npz"
    )
    assert again.exit_code == 0, again.output
    assert np.load(folder / "o.npz")["tokens"].shape == (40, 60)


def test_regions_take_the_stage_from_a_table_of_places(folder):
    places, out = folder / "places.csv", folder / "on_stage.csv"
    # a stage that is turned by a right angle and runs in micrometres: 0.25 um a pixel
    rows = [(0, 0), (20, 4), (7, 30), (31, 11)]
    lines = [f"{y},{x},{100 - 0.25 * (x + 0.5)},{50 + 0.25 * (y + 0.5)}" for y, x in rows]
    places.write_text("\n".join(["row,column,stage_1,stage_2", *lines]))
    result = call("regions", folder / "edx.btn", folder / "noisy.ome.tif", "--channel", "Fe", "--window", 16, 24,
                  "--count", 3, "-o", out, "--stage", places)  # fmt: skip
    assert result.exit_code == 0, result.output
    table, found = read_table(out), read_regions(out)
    np.testing.assert_allclose(table["stage_1"], [100 - r.centre[1] for r in found], atol=1e-6)
    np.testing.assert_allclose(table["stage_2"], [50 + r.centre[0] for r in found], atol=1e-6)
    for text, words in (
        ("row,column,stage_1\n1,2,3", "lacks stage_2"),
        ("row,column,stage_1,stage_2\n1,2,x,4", "no number"),
        ("row,column,stage_1,stage_2\n1,2,3,4", "three points"),
    ):
        places.write_text(text)
        refused = call(
            "regions", folder / "edx.btn", folder / "noisy.ome.tif", "-o", out, "--force", "--stage", places
        )
        assert refused.exit_code == 2
        assert words in refused.stderr.splitlines()[-1]
    assert read_regions(out) == found


def test_another_clustering_method_learns_the_palette_again(folder, monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    for name in ("_STARTS", "_ROUNDS"):
        monkeypatch.setattr(f"napari_btn.core.tokens.shares.{name}", 1)
    out = folder / "mixture.npz"
    result = call(
        "tokens", folder / "edx.btn", folder / "noisy.ome.tif", "-n", 5, "--method", "mixture", "-o", out
    )
    assert result.exit_code == 0, result.output
    tokens = btn.load(folder / "edx.btn").tokens(
        np.asarray(read_image(folder / "noisy.ome.tif").data), 5, method="mixture"
    )
    assert tokens.provenance["tokens"]["method"] == "mixture"
    np.testing.assert_array_equal(np.load(out)["tokens"], tokens.labels)


@pytest.mark.parametrize("ending", ["csv", "geojson", "zip"])
def test_regions_are_files_in_physical_units(folder, ending):
    out = folder / f"regions.{ending}"
    result = call("regions", folder / "edx.btn", folder / "noisy.ome.tif", "--channel", "Fe", "--window", 16, 24,
                  "--count", 3, "-o", out, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = read_regions(out)
    printed = json.loads(result.stdout)
    assert [(r.y, r.x, r.height, r.width) for r in found] == [
        (t["y"], t["x"], t["height"], t["width"]) for t in printed
    ]
    assert len(found) == 3
    assert found[0].unit == "um"
    assert found[0].pixel_size == pytest.approx((0.25, 0.25))


def test_regions_by_threshold_by_dwell_and_of_all_channels(folder):
    base = ("regions", folder / "edx.btn", folder / "noisy.ome.tif", "--window", 16, 16, "--force")
    out = ("-o", folder / "r.csv")
    for more in (
        (),
        ("--dwell", 10),
        ("--relative",),
        ("--spread", "plain"),
        ("--spread", "relative", "--channel", "Fe"),
        ("--channel", "Si", "--threshold", 0.3),
        ("--channel", 1, "--margin", 4),
    ):
        result = call(*base, *out, *more)
        assert result.exit_code == 0, result.output
        assert "r.csv" in result.stdout
    image = np.asarray(read_image(folder / "noisy.ome.tif").data)
    prediction = btn.load(folder / "edx.btn").predict(image)
    p = prediction.exceedance(0.3, channel="Si")
    call(*base, *out, "--channel", "Si", "--threshold", 0.3)
    best = read_regions(folder / "r.csv")
    from_script = btn.propose_regions(4 * p * (1 - p), window=(16, 16), count=5)
    assert [(r.y, r.x) for r in best] == [(r.y, r.x) for r in from_script]


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({}, "width"),
        ({"threshold": 0.3}, "ambiguity"),
        ({"relative": True}, "relative width"),
        ({"spread": "plain"}, "spread"),
    ],
)
def test_windows_lie_where_the_threshold_is_undecided_else_where_intervals_are_wide(folder, asked, kind):
    nothing = dict.fromkeys(("channel", "threshold", "dwell", "spread", "until", "scene"))
    measure = _Measure(**{**nothing, "channel": "Fe", "relative": False, **asked})
    prediction = btn.load(folder / "edx.btn").predict(np.load(folder / "other.npy"))
    assert measure.choice(prediction) == Choice(kind, (2,), (0.3,) if kind == "ambiguity" else ())


def test_regions_stay_inside_an_area_and_leave_out_what_was_measured(folder):
    base = ("regions", folder / "edx.btn", folder / "noisy.ome.tif", "--window", 16, 16, "--force")
    shape = np.asarray(read_image(folder / "noisy.ome.tif").data).shape[-2:]
    inside = np.zeros(shape, np.uint8)
    inside[:, : shape[1] // 2] = 1
    np.save(folder / "inside.npy", inside)
    first = call(*base, "--count", 2, "-o", folder / "first.csv", "--within", folder / "inside.npy")
    assert first.exit_code == 0, first.output
    one = read_regions(folder / "first.csv")
    assert all(inside[r.slices].any() for r in one)
    # again in the windows themselves, and again without them
    again = call(*base, "--count", 2, "-o", folder / "again.csv", "--within", folder / "first.csv")
    assert again.exit_code == 0, again.output
    assert {(r.y, r.x) for r in read_regions(folder / "again.csv")} == {(r.y, r.x) for r in one}
    rest = call(*base, "--count", 2, "-o", folder / "rest.csv", "--within", folder / "inside.npy",
                "--measured", folder / "first.csv")  # fmt: skip
    assert rest.exit_code == 0, rest.output
    assert not {(r.y, r.x) for r in read_regions(folder / "rest.csv")} & {(r.y, r.x) for r in one}
    np.save(folder / "small.npy", inside[:9])
    assert "must be the same" in call(*base, "-o", folder / "x.csv", "--within", folder / "small.npy").output
    np.save(folder / "none.npy", 0 * inside)
    assert "No pixel is inside" in call(*base, "-o", folder / "x.csv", "--within", folder / "none.npy").output


def test_regions_say_what_they_are_expected_to_decide(folder):
    base = ("regions", folder / "edx.btn", folder / "noisy.ome.tif", "--window", 16, 16, "--force",
            "-o", folder / "r.csv", "--channel", "Si", "--threshold", 0.3)  # fmt: skip
    image = np.asarray(read_image(folder / "noisy.ome.tif").data)
    prediction = btn.load(folder / "edx.btn").predict(image)
    now = float(wrong_now(prediction, Decision(0, 0.3)).sum(dtype=float)) * 0.25**2
    result = call(*base)
    assert f"on average over fields like the calibration data: now {now:.4g} µm²" in result.stdout
    more = call(*base, "--until", 0.5 * now, "--count", 1)
    assert more.exit_code == 0, more.output
    assert "more" in more.stdout
    assert len(read_regions(folder / "r.csv")) == 1
    dwell = call(*base, "--dwell", 10)
    assert dwell.exit_code == 0, dwell.output
    assert dwell.stdout.count("dwell x") == 5
    planned = [r.dwell for r in read_regions(folder / "r.csv")]
    assert sum(planned) <= 50 + 1e-6
    assert f"dwell of {min(planned):.3g}" in dwell.stdout
    assert "times its beam time" in dwell.stdout
    told = call(*base, "--json")
    assert len(json.loads(told.stdout)) == 5
    assert "Expected wrongly decided area" in told.stderr


@pytest.mark.parametrize(
    ("command", "more", "words"),
    [
        ("tokens", ("-o", "t.xyz"), "names no format"),
        ("tokens", ("-o", "t.npz", "--order-by", "Zn"), "Channel is 'Zn'"),
        ("regions", ("-o", "r.csv", "--window", "400", "4"), "smaller window"),
        ("regions", ("-o", "r.csv", "--channel", "Zn"), "Si, Al, Fe"),
        ("regions", ("-o", "r.csv", "--threshold", "1"), "--channel"),
        (
            "regions",
            (
                "-o",
                "r.xyz",
            ),
            "ending",
        ),
        (
            "regions",
            ("-o", "r.csv", "--channel", "Fe", "--threshold", "1", "--spread", "plain"),
            "Leave one out",
        ),
        ("regions", ("-o", "r.csv", "--until", "5"), "give --threshold"),
        ("regions", ("-o", "r.csv", "--channel", "Fe", "--threshold", "1", "--until", "-5"), "0 or more"),
        ("regions", ("-o", "r.zip", "--stage", "places.csv"), "can't hold stage coordinates"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(folder, tmp_path, monkeypatch, command, more, words):
    monkeypatch.chdir(tmp_path)
    result = call(command, folder / "edx.btn", folder / "noisy.ome.tif", *more)
    assert result.exit_code == 2, result.output
    assert words in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
