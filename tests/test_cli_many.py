"""Many images on the command line: descriptions, several pairs, batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from napari_btn import samples
from napari_btn.cli import main
from napari_btn.io.images import read_image
from napari_btn.io.tables import read_table

TINY = (
    "--preset",
    "quick",
    "--steps",
    "4",
    "--depth",
    "3",
    "--members",
    "1",
    "--device",
    "cpu",
    "--start",
    "scratch",
)


def call(*args):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with pairs of four fields, described, and a bundle trained on three of them."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(4):
        pair = samples.edx(seed=i, size=(40, 56))
        np.save(folder / f"field{i}_noisy.npy", pair.noisy)
        np.save(folder / f"field{i}_clean.npy", pair.clean)
    keys = {
        "noisy": "field[0-2]_noisy.npy",
        "clean": "field[0-2]_clean.npy",
        "files": "fields",
        "axes": "CYX",
    }
    (folder / "soil.json").write_text(json.dumps({**keys, "channels": ["Si", "Al", "Fe"]}))
    result = call("train", folder / "soil.json", "-o", folder / "soil.btn", *TINY)
    assert result.exit_code == 0, result.output
    assert "field1_noisy.npy  ->  field1_clean.npy" in result.stderr
    return folder


def test_a_description_trains_on_its_fields(folder):
    info = json.loads(call("info", folder / "soil.btn", "--json").stdout)
    assert info["axes"] == "SCYX"
    assert info["channels"] == ["Si", "Al", "Fe"]


def test_several_pairs_train_as_the_description_does(folder, tmp_path):
    given = [f"field{i}_{side}.npy" for i in range(3) for side in ("noisy", "clean")]
    noisy, clean, *others = (folder / name for name in given)
    more = [part for i in (0, 2) for part in ("--pair", others[i], others[i + 1])]
    result = call(
        "train",
        noisy,
        clean,
        *more,
        "-o",
        tmp_path / "p.btn",
        "--axes",
        "CYX",
        "--channels",
        "Si,Al,Fe",
        *TINY,
    )
    assert result.exit_code == 0, result.output
    one, two = (
        json.loads(call("info", bundle, "--json").stdout)["report"]["coverage"]
        for bundle in (folder / "soil.btn", tmp_path / "p.btn")
    )
    assert one == two


def test_a_folder_of_images_gets_maps_and_a_table(folder, tmp_path):
    out = tmp_path / "maps"
    images = [folder / f"field{i}_noisy.npy" for i in range(2)]
    result = call("predict", folder / "soil.btn", *images, "-o", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    alone = call("predict", folder / "soil.btn", images[1], "-o", tmp_path / "one.ome.tif", "--device", "cpu")
    assert alone.exit_code == 0, alone.output
    many, one = (
        read_image(f"{p}:median").data for p in (out / "field1_noisy.ome.tif", tmp_path / "one.ome.tif")
    )
    np.testing.assert_array_equal(np.asarray(many), np.asarray(one))
    table = read_table(out / "table.csv")
    assert list(table["maps"]) == ["field0_noisy.ome.tif", "field1_noisy.ome.tif"]
    assert all(w > 0 for w in table["Fe width"])
    again = call("predict", folder / "soil.btn", *images, "-o", out, "--device", "cpu")
    assert again.exit_code == 2
    assert "exists" in again.stderr


def test_a_description_with_clean_images_gives_coverage(folder, tmp_path):
    result = call(
        "predict", folder / "soil.btn", folder / "soil.json", "-o", tmp_path / "maps", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    table = read_table(tmp_path / "maps" / "table.csv")
    assert len(table["Si coverage"]) == 3
    assert all(0 <= v <= 1 for v in table["Si coverage"])


def test_a_folder_is_a_batch_too_with_the_clean_images_that_its_names_tell(folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for side in ("noisy", "clean"):
        np.save(images / f"a_{side}.npy", np.load(folder / f"field1_{side}.npy"))
    result = call("predict", folder / "soil.btn", images, "-o", tmp_path / "maps", "--device", "cpu")
    assert result.exit_code == 0, result.output
    table = read_table(tmp_path / "maps" / "table.csv")
    assert list(table["maps"]) == ["a_noisy.ome.tif"]
    assert 0 <= table["Fe coverage"][0] <= 1


def test_a_file_that_fails_leaves_the_others_their_maps(folder, tmp_path):
    np.save(tmp_path / "two.npy", np.zeros((2, 40, 56), np.float32))
    bright = np.load(folder / "field3_noisy.npy") * 40
    np.save(tmp_path / "bright.npy", bright)
    result = call(
        "predict",
        folder / "soil.btn",
        tmp_path / "two.npy",
        tmp_path / "bright.npy",
        "-o",
        tmp_path / "maps",
        "--device",
        "cpu",
    )
    assert result.exit_code == 2
    assert "1 of 2 files have no maps" in result.stderr
    table = read_table(tmp_path / "maps" / "table.csv")
    assert "2 channels" in table["error"][0]
    assert table["maps"][1] == "bright.ome.tif"
    assert "outside the range" in table["notes"][1]


def test_many_images_need_a_folder(folder, tmp_path):
    images = [folder / f"field{i}_noisy.npy" for i in range(2)]
    result = call("predict", folder / "soil.btn", *images, "-o", tmp_path / "a.ome.tif")
    assert result.exit_code == 2
    assert "give a folder" in result.stderr


def test_a_folder_is_described_and_the_description_trains(folder, tmp_path):
    result = call("dataset", folder, "-o", folder / "all.yaml", "--axes", "CYX")
    assert result.exit_code == 0, result.output
    assert "field3_noisy.npy  ->  field3_clean.npy" in result.stdout
    elsewhere = call("dataset", folder, "-o", tmp_path / "all.json", "--axes", "CYX")
    assert elsewhere.exit_code == 0, elsewhere.output
    for described in (folder / "all.yaml", tmp_path / "all.json"):
        trained = call("train", described, "-o", tmp_path / f"{described.suffix[1:]}.btn", *TINY)
        assert trained.exit_code == 0, trained.output


def test_a_noisy_image_alone_is_refused_in_one_sentence(folder, tmp_path):
    result = call("train", folder / "field0_noisy.npy", "-o", tmp_path / "x.btn", "--axes", "CYX")
    assert result.exit_code == 2
    assert "Traceback" not in result.output
