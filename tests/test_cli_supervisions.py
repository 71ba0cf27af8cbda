"""The command line without clean images: each way to learn, and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from napari_btn import NoiseModel
from napari_btn.cli import main

TINY = (
    "--preset",
    "quick",
    "--steps",
    "6",
    "--depth",
    "2",
    "--members",
    "1",
    "--device",
    "cpu",
    "--start",
    "scratch",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with counts, repeats of them, a clean image and a noise model."""
    folder = tmp_path_factory.mktemp("alone")
    rng = np.random.default_rng(0)
    field = np.kron(rng.gamma(3.0, 3.0, (7, 18)), np.ones((8, 8)))
    np.save(folder / "counts.npy", rng.poisson(field).astype(np.float32))
    np.save(folder / "repeats.npy", rng.poisson(np.stack([field] * 3)).astype(np.float32))
    np.save(folder / "clean.npy", field.astype(np.float32))
    NoiseModel(gain=1.0).save(folder / "camera.json")
    return folder


def call(*args):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


def refused(result):
    """The one line that says why."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("way", "image", "axes", "covers", "more"),
    [
        ("noise2noise", "repeats.npy", "TYX", "replicate", ()),
        ("noise2void", "counts.npy", "YX", "masked pixel", ("--masked-pixel-percentage", "25")),
        ("thinning", "counts.npy", "YX", "thinned counts", ("--thinnings", "2")),
        ("simulation", "clean.npy", "YX", "simulation", ("--noise-model", "camera.json")),
    ],
)
def test_each_way_trains_predicts_and_says_what_it_covers(folder, tmp_path, way, image, axes, covers, more):
    more = [folder / m if str(m).endswith(".json") else m for m in more]
    out = tmp_path / "m.btn"
    result = call("train", folder / image, "-o", out, "--axes", axes, "--supervision", way, *TINY, *more)
    assert result.exit_code == 0, result.output
    info = json.loads(call("info", out, "--json").stdout)
    assert (info["supervision"], info["covers"]) == (way, covers)
    made = call("predict", out, folder / "counts.npy", "--axes", "YX", "-o", tmp_path / "p.npz")
    assert made.exit_code == 0, made.output
    with np.load(tmp_path / "p.npz", allow_pickle=False) as maps:
        assert {"lower", "median", "upper", "width", "mean"} <= set(maps)
    judged = call("evaluate", out, folder / "counts.npy", folder / "clean.npy", "--axes", "YX", "--json")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["covers"] == covers


@pytest.mark.parametrize(
    ("way", "image", "more", "needed"),
    [
        ("pair", "counts.npy", (), "Clean is missing"),
        ("noise2noise", "counts.npy", (), "hold no repeats"),
        ("thinning", "clean.npy", (), "thinning needs counts"),
        ("simulation", "clean.npy", (), "--noise-model"),
        ("noise2void", "counts.npy", ("--roi-size", "4"), "roi_size is 4"),
        ("noise2void", "counts.npy", ("clean.npy",), "A clean image came"),
    ],
)
def test_what_the_files_do_not_permit_is_refused_in_one_line(folder, tmp_path, way, image, more, needed):
    more = [folder / m if str(m).endswith(".npy") else m for m in more]
    given = (
        "train",
        folder / image,
        *more,
        "-o",
        tmp_path / "m.btn",
        "--axes",
        "YX",
        "--supervision",
        way,
        *TINY,
    )
    assert needed in refused(call(*given))
    assert not list(tmp_path.iterdir())


def test_calibration_needs_no_clean_image_either(folder, tmp_path):
    out = tmp_path / "m.btn"
    rng = np.random.default_rng(5)
    np.save(tmp_path / "other.npy", rng.poisson(np.load(folder / "clean.npy")[::-1]).astype(np.float32))
    given = ("train", folder / "counts.npy", "-o", out, "--axes", "YX", "--supervision", "noise2void", *TINY)
    assert call(*given).exit_code == 0
    done = call("calibrate", out, tmp_path / "other.npy", "--axes", "YX", "-o", tmp_path / "n.btn")
    assert done.exit_code == 0, done.output


def test_frames_of_the_detector_are_kept_for_predictions_and_repeated_by_the_recipe(folder, tmp_path):
    counts = np.load(folder / "counts.npy")
    np.save(tmp_path / "seen.npy", 2 * counts + 100)
    np.save(tmp_path / "dark.npy", np.full(counts.shape, 100.0))
    np.save(tmp_path / "flat.npy", np.full(counts.shape, 300.0))
    frames = ("--dark", tmp_path / "dark.npy", "--flat", tmp_path / "flat.npy")
    bundle, out = tmp_path / "a.btn", tmp_path / "out.npz"
    image = (tmp_path / "seen.npy", "--axes", "YX")
    made = call("train", *image, "-o", bundle, "--supervision", "noise2void", *frames, *TINY)
    assert made.exit_code == 0, made.output
    assert call("predict", bundle, *image, "-o", out).exit_code == 0
    again = tmp_path / "again.npz"
    assert call("predict", bundle, *image, "-o", again, *frames).exit_code == 0
    np.testing.assert_array_equal(np.load(out)["median"], np.load(again)["median"])
    assert np.load(out)["median"].mean() < 100
    repeated = call("run", again)
    assert repeated.exit_code == 0, repeated.output
    assert "equals the record bit by bit" in repeated.stdout
