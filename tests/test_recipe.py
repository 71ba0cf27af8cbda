"""Recipes: every step is recorded, and the same steps give the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn import samples
from napari_btn.cli import main
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.record import packed, recipe_step
from napari_btn.core.progress import drain
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.settings import AdaptSettings
from napari_btn.io.bundle import read_bundle, write_bundle
from napari_btn.io.images import write_prediction
from napari_btn.io.regions import read_regions
from napari_btn.workflow.recipe import Recipe
from napari_btn.workflow.recipe_files import read_recipe
from napari_btn.workflow.tokens import edited_steps

PAIR = samples.edx(seed=3, size=(40, 150))
CALL = "samples.edx(seed=3, size=(40, 150))"


def call(*args):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture(scope="module")
def denoiser():
    """A denoiser trained on a sample, calibrated again, with its inputs named."""
    made = btn.Denoiser(
        preset="quick",
        members=2,
        seed=3,
        device="cpu",
        network=btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8),
        train=btn.TrainSettings(steps=4, start="scratch"),
    )
    made.fit(PAIR.noisy, PAIR.clean, axes="CYX", channel_names=("Si", "Al", "Fe"), executor=Inline())
    made.name_inputs(noisy=f"{CALL}.noisy", clean=f"{CALL}.clean")
    return made.calibrate(alpha=0.2)


def test_every_step_is_in_the_recipe(denoiser):
    fitted, calibrated = denoiser.recipe["steps"]
    assert (fitted["do"], calibrated["do"], calibrated["alpha"]) == ("fit", "calibrate", 0.2)
    assert fitted["settings"]["seed"] == 3
    assert fitted["inputs"]["noisy"]["shape"] == [3, 40, 150]
    assert fitted["inputs"]["noisy"]["file"] == f"{CALL}.noisy"
    assert fitted["inputs"]["noisy"]["sha256"] != fitted["inputs"]["clean"]["sha256"]
    assert fitted["makes"] != calibrated["makes"]
    assert set(fitted["versions"]) == {"napari-btn", "torch", "numpy", "python", "cpu"}
    json.dumps(denoiser.recipe)
    prediction = denoiser.predict(PAIR.noisy)
    last = prediction.provenance["recipe"][-1]
    assert last["do"] == "predict"
    assert last["makes"] == calibrated["makes"]
    again = denoiser.predict(np.asfortranarray(PAIR.noisy.astype(">f4"))).provenance["recipe"][-1]
    assert (again["maps"], again["inputs"]["image"]["sha256"]) == (
        last["maps"],
        last["inputs"]["image"]["sha256"],
    )
    other = denoiser.predict(PAIR.noisy * 2).provenance["recipe"][-1]
    assert other["maps"] != last["maps"]


def test_a_bundle_keeps_its_recipe_and_run_repeats_it_bit_by_bit(denoiser, tmp_path):
    denoiser.save(tmp_path / "a.btn")
    assert btn.load(tmp_path / "a.btn").recipe == denoiser.recipe
    result = call("run", tmp_path / "a.btn", "--export", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    result = call("run", tmp_path / "r.json", "-o", tmp_path / "b.btn", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["same"], told["compared"]) == (True, 2)
    assert told["makes"] == denoiser.recipe["steps"][-1]["makes"]
    made, want = btn.load(tmp_path / "b.btn").predict(PAIR.noisy), denoiser.predict(PAIR.noisy)
    for name in ("lower", "median", "upper"):
        np.testing.assert_array_equal(getattr(made, name), getattr(want, name))


def test_files_of_the_command_line_are_found_again(tmp_path):
    np.save(tmp_path / "noisy.npy", PAIR.noisy)
    np.save(tmp_path / "clean.npy", PAIR.clean)
    bundle, maps = tmp_path / "a.btn", tmp_path / "maps.npz"
    files = (tmp_path / "noisy.npy", tmp_path / "clean.npy")
    tiny = ("--steps", "4", "--depth", "2", "--members", "1", "--device", "cpu", "--start", "scratch")
    assert call("train", *files, "-o", bundle, "--axes", "CYX", "--preset", "quick", *tiny).exit_code == 0
    assert call("predict", bundle, files[0], "--axes", "CYX", "-o", maps).exit_code == 0
    result = call("run", maps, "-o", tmp_path / "again.npz")
    assert result.exit_code == 0, result.output
    assert result.stdout == "The result equals the record bit by bit (checksums compared: 3).\n"
    with np.load(maps) as one, np.load(tmp_path / "again.npz") as other:
        for name in ("lower", "median", "upper", "width", "spread"):
            np.testing.assert_array_equal(one[name], other[name])
    assert read_recipe(tmp_path / "again.npz").inputs == read_recipe(maps).inputs  # and where they lie

    files[0].rename(tmp_path / "moved.npy")
    result = call("run", maps)
    assert result.exit_code == 2
    assert "give --input noisy=FILE" in result.stderr.splitlines()[-1]
    result = call("run", maps, "--input", f"noisy={tmp_path / 'moved.npy'}")
    assert result.exit_code == 0, result.output
    result = call("run", maps, "--input", f"noisy={files[1]}")
    assert result.exit_code == 2
    assert "Give the same image." in result.stderr.splitlines()[-1]


def test_a_changed_setting_is_a_difference(denoiser, tmp_path):
    values = denoiser.recipe
    values["steps"] = json.loads(json.dumps(values["steps"]))
    values["steps"][0]["settings"]["seed"] = 4
    (tmp_path / "r.json").write_text(json.dumps(values))
    result = call("run", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert result.stdout == "The result differs from the record.\n"
    assert "Warning: Step 1 (fit) gives other weights and offsets than recorded" in result.stderr


RECIPES = Path(__file__).parent / "recipes"


def made_with(recipe):
    """The versions that a result depends on, and the kind of CPU."""
    versions = json.loads(recipe.read_text())["steps"][0]["versions"]
    return {name: version for name, version in versions.items() if name != "napari-btn"}


def test_the_recipe_of_the_guide_gives_its_result_again_bit_by_bit():
    here = recipe_step("fit", {})["versions"]
    known = [r for r in RECIPES.glob("guide*.json") if made_with(r).items() <= here.items()]
    if not known:
        pytest.skip(f"the guide's recipe was not recorded with {here}")
    for recipe in known:
        result = call("run", recipe, "--json")
        assert result.exit_code == 0, result.output
        told, last = json.loads(result.stdout), json.loads(recipe.read_text())["steps"][-1]
        assert (told["same"], told["compared"]) == (True, 3), told["differences"]
        assert told["maps"] == last["maps"]


def test_the_recipe_of_the_guide_is_recorded_with_the_pinned_versions():
    pinned = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
    recipes = list(RECIPES.glob("guide*.json"))
    assert recipes
    for recipe in recipes:
        made = made_with(recipe)
        wanted = {f"torch=={made['torch'].partition('+')[0]}", f"numpy=={made['numpy']}"}
        assert wanted <= set(pinned), f"record {recipe.name} again, or delete it"


def test_a_recipe_of_another_machine_gives_almost_the_same(tmp_path):
    result = call("run", RECIPES / "small.json", "-o", tmp_path / "a.npz", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["compared"] == 3
    assert told["same"] or "now napari-btn" in told["differences"][0]
    with np.load(tmp_path / "a.npz") as made:
        np.testing.assert_allclose(made["median"][:, 20, 75], [0.44467467, 0.0897531, 0.05772796], rtol=1e-3)
        np.testing.assert_allclose(made["width"][:, 20, 75], [0.66844857, 0.19975924, 0.11029118], rtol=1e-3)


def test_explain_prints_a_methods_paragraph(denoiser, tmp_path):
    denoiser.save(tmp_path / "a.btn")
    text = call("run", tmp_path / "a.btn", "--explain").stdout
    assert "ensemble of 2 random networks of the family sms (depth 2, seed 3)" in text
    assert "Intervals of the clean signal were calibrated to a miscoverage of 0.2 by split" in text
    report = denoiser.report
    share, low, high = report.coverage[0], report.coverage_low[0], report.coverage_high[0]
    assert f"Si {share:.3f} ({low:.3f} to {high:.3f})" in text
    assert "(95 % interval of this field)" in text
    assert text.count("miscoverage") == text.count("coverage, measured") == 1
    assert ("without a finite-sample guarantee" in text) == (denoiser.calibration.rule == "pixel")
    assert "pretrained" not in text
    assert denoiser.recipe["steps"][0]["inputs"]["noisy"]["sha256"][:12] in text
    assert text.count("\n") == 1


def test_the_paragraph_names_the_images_and_groups_of_the_last_calibration(denoiser, tmp_path):
    other = btn.samples.edx(seed=9, size=(40, 150))
    made = btn.load(saved(denoiser, tmp_path)).calibrate(
        other.noisy, other.clean, axes="CYX", groups=np.ones((40, 150), int), executor=Inline()
    )
    first, last = (
        step["inputs"]["noisy"]["sha256"][:12] for step in (made.recipe["steps"][0], made.recipe["steps"][-1])
    )
    prediction = made.predict(PAIR.noisy, groups=np.ones((40, 150), int))
    for text in (
        call("run", saved(made, tmp_path), "--explain").stdout,
        Recipe.of(prediction.provenance).explain(),
    ):
        (calibrated,) = [s for s in text.split(". ") if "split conformal" in s]
        # it was said to be on the held-out blocks of the images that trained
        assert f"{made.calibration.n_blocks} blocks of other images" in calibrated
        assert last in calibrated
        assert first not in calibrated
        assert "each group apart" in calibrated


@pytest.mark.parametrize("report", [None, 3, {"coverage_low": [0.1]}, {"coverage": 1, "coverage_low": "x"}])
def test_a_bundle_with_a_damaged_report_is_refused_in_one_sentence(denoiser, tmp_path, report):
    bundle = read_bundle(saved(denoiser, tmp_path))
    write_bundle(replace(bundle, values=bundle.values | {"report": report}), tmp_path / "damaged.btn")
    result = call("run", tmp_path / "damaged.btn", "--explain")
    assert result.exit_code == 2, result.output
    assert "has a damaged report" in result.stderr


def test_the_paragraph_says_that_networks_were_pretrained(denoiser):
    about = denoiser.recipe["about"] | {"start": {"from": "2d-3c-mixed", "members": [0]}}
    text = Recipe.from_dict(denoiser.recipe | {"about": about}).explain()
    assert "1 of them pretrained on other images (2d-3c-mixed)" in text


@pytest.mark.parametrize(
    "values",
    [
        "[]",
        "{}",
        "[" * 100_000,
        '{"napari_btn_recipe": 99, "steps": []}',
        '{"napari_btn_recipe": 1, "steps": []}',
        '{"napari_btn_recipe": 1, "steps": [3]}',
        '{"napari_btn_recipe": 1, "steps": [{"do": "adapt"}]}',
        '{"napari_btn_recipe": 1, "steps": [{"do": "fit"}]}',
        '{"napari_btn_recipe": 1, "steps": [{"do": "fit", "settings": 4, "inputs": {"noisy": 3}}]}',
        '{"napari_btn_recipe": 1, "steps": [{"do": "regions", "choice": {"kind": 4}, "search": []}]}',
        '{"napari_btn_recipe": 1, "steps": [{"do": "fuse", "dose": [1], "gain": [0], "inputs": {}}]}',
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(tmp_path, values):
    (tmp_path / "r.json").write_text(values)
    result = call("run", tmp_path / "r.json")
    assert result.exit_code == 2, result.output
    assert len([line for line in result.stderr.splitlines() if line]) == 1


@pytest.mark.parametrize(
    "source",
    ["samples.edx(seed=__import__('os').getpid()).noisy", "samples.edx(size=(100000, 100000)).noisy",
     "samples.edx(size=(32, 'a')).noisy", "samples.__doc__().noisy", "/nowhere.npy"],
)  # fmt: skip
def test_a_recipe_runs_no_code_and_makes_no_bomb(denoiser, tmp_path, source):
    values = json.loads(json.dumps(denoiser.recipe))
    values["steps"][0]["inputs"]["noisy"]["file"] = source
    (tmp_path / "r.json").write_text(json.dumps(values))
    result = call("run", tmp_path / "r.json")
    assert result.exit_code == 2, result.output
    assert "give --input noisy=FILE" in result.stderr or "can't be made" in result.stderr


def repeated(recipe, folder, **files):
    """Run a recipe on the command line, and return what it says as JSON."""
    for name, array in files.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "r.json").write_text(json.dumps(recipe))
    given = [text for name in files for text in ("--input", f"{name}={folder / name}.npy")]
    result = call("run", folder / "r.json", *given, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_adaptation_is_repeated_bit_by_bit(denoiser, tmp_path):
    made = btn.load(saved(denoiser, tmp_path)).adapt(PAIR.noisy, settings=AdaptSettings(steps=3))
    step = made.recipe["steps"][-1]
    assert step["do"] == "adapt"
    assert step["inputs"]["image"]["sha256"] == denoiser.recipe["steps"][0]["inputs"]["noisy"]["sha256"]
    told = repeated(made.recipe, tmp_path)
    assert (told["same"], told["compared"], told["makes"]) == (True, 3, step["makes"])
    assert told["makes"] != denoiser.recipe["steps"][-1]["makes"]
    made.save(tmp_path / "adapted.btn")
    text = call("run", tmp_path / "adapted.btn", "--explain").stdout
    assert "were tuned, on image (3 x 40 x 150" in text
    assert text.endswith(
        "The tuned networks were not calibrated, so their intervals are infinite and promise nothing.\n"
    )


@pytest.mark.parametrize("own_image", [False, True])
def test_a_refinement_with_windows_is_repeated_bit_by_bit(denoiser, tmp_path, own_image):
    made = btn.load(saved(denoiser, tmp_path))
    place, window = (4, 6), PAIR.clean[:, 4:28, 6:30]
    image = PAIR.noisy[:, :, :60] if own_image else None
    made.refine(PAIR.noisy, PAIR.clean, windows=[(place, window)], image=image)
    step = made.recipe["steps"][-1]
    assert (step["do"], step["windows"]) == ("refine", [list(place)])
    # the file may hold the window, or the whole field that it is cut from
    files = {"window1": window, "image": image} if own_image else {"window1": PAIR.clean}
    told = repeated(made.recipe, tmp_path, **files)
    assert (told["same"], told["compared"], told["makes"]) == (True, 3, step["makes"])


def test_tokens_are_repeated_bit_by_bit(denoiser, tmp_path):
    tokens = btn.load(saved(denoiser, tmp_path)).tokens(PAIR.noisy, 3)
    recipe = Recipe.of(tokens.provenance).to_dict()
    told = repeated(recipe, tmp_path)
    assert (told["same"], told["compared"]) == (True, 3)
    assert told["labels"] == recipe["steps"][-1]["labels"]
    recipe["steps"][-1]["tokens"]["n_tokens"] = 4
    assert not repeated(recipe, tmp_path)["same"]


def test_merged_painted_and_named_tokens_are_repeated_bit_by_bit(denoiser, tmp_path):
    found = btn.load(saved(denoiser, tmp_path)).tokens(PAIR.noisy, 3).cut(4)
    labels = np.where(found.labels == 3, 1, found.labels)
    labels[10:20, 30:60] = 9
    labels[:3] = 0
    made = drain(edited_steps(found, labels, {1: "clay", 9: "crack"}))
    np.testing.assert_array_equal(made.labels, labels)
    recipe = Recipe.of(made.provenance).to_dict()
    told = repeated(recipe, tmp_path)
    assert (told["same"], told["compared"]) == (True, 4)
    assert told["labels"] == recipe["steps"][-1]["labels"] != recipe["steps"][-2]["labels"]
    text = call("run", tmp_path / "r.json", "--explain").stdout
    assert (
        "By hand, of 4 tokens 3 became 1; pixels were painted as 0, 9; 1 is called clay; 9 is called crack."
        in text
    )

    step = recipe["steps"][-1]
    step["merged"] = {}
    assert not repeated(recipe, tmp_path)["same"]
    step["painted"]["9"] = packed(np.ones((3, 3), bool))
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    assert "damaged or of another image" in call("run", tmp_path / "r.json").stderr.splitlines()[-1]
    del recipe["steps"][-2]
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    assert "has edit without tokens before it" in call("run", tmp_path / "r.json").stderr.splitlines()[-1]


def test_tokens_that_nobody_edited_have_no_step_of_edits(denoiser, tmp_path):
    found = btn.load(saved(denoiser, tmp_path)).tokens(PAIR.noisy, 3)
    steps = found.provenance["recipe"]
    assert drain(edited_steps(found, found.labels, {})).provenance["recipe"] == steps
    assert [s["do"] for s in drain(edited_steps(found.cut(2), found.cut(2).labels, {})).provenance["recipe"]] == [
        *(s["do"] for s in steps), "edit",
    ]  # fmt: skip


def test_a_training_on_simulated_noise_is_repeated_bit_by_bit(tmp_path):
    made = btn.Denoiser(
        preset="quick", members=1, device="cpu", supervision="simulation", seed=3,
        network=btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8),
        train=btn.TrainSettings(steps=4, start="scratch"),
    )  # fmt: skip
    noise = btn.NoiseModel(gain=np.full(3, 0.5))
    made.fit(None, PAIR.clean, axes="CYX", noise_model=noise, executor=Inline())
    told = repeated(made.recipe, tmp_path, clean=PAIR.clean)
    assert (told["same"], told["compared"]) == (True, 1)


@pytest.fixture(scope="module")
def regions_file(denoiser, tmp_path_factory):
    """Windows that the command line proposed inside an area, with the image beside them."""
    folder = tmp_path_factory.mktemp("regions")
    np.save(folder / "noisy.npy", PAIR.noisy)
    area = np.zeros((40, 150), np.uint8)
    area[5:, 20:130] = 1
    np.save(folder / "area.npy", area)
    result = call("regions", saved(denoiser, folder), folder / "noisy.npy", "--axes", "CYX", "--channel", "Fe",
                  "--threshold", 0.2, "--window", 10, 12, "--count", 3, "--within", folder / "area.npy",
                  "-o", folder / "r.geojson", "--device", "cpu")  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder / "r.geojson"


def test_proposed_regions_are_repeated_from_their_file_bit_by_bit(regions_file, tmp_path):
    # the area is in the recipe itself
    (regions_file.parent / "area.npy").unlink()
    result = call("run", regions_file, "--json", "-o", tmp_path / "again.geojson")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["same"], told["compared"]) == (True, 5)
    found = read_regions(regions_file)
    assert len(found) == 3
    assert read_regions(tmp_path / "again.geojson") == found
    recipe = read_recipe(regions_file).to_dict()
    assert read_recipe(tmp_path / "again.geojson").steps[-1] == recipe["steps"][-1]
    recipe["steps"][-1]["search"]["count"] = 2
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    result = call("run", tmp_path / "r.json")
    assert "Step 4 (regions) gives other regions than recorded" in result.stderr
    recipe["steps"][-1]["search"]["area"] = packed(np.ones((3, 3), bool))
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    result = call("run", tmp_path / "r.json")
    assert result.exit_code == 2
    assert "a mask that is damaged or of another image" in result.stderr.splitlines()[-1]
    refused = call("run", regions_file, "-o", tmp_path / "a.ome.tif")
    assert "The recipe makes regions" in refused.stderr.splitlines()[-1]


def test_explain_says_how_windows_were_chosen_and_fused(regions_file, denoiser, tmp_path):
    text = call("run", regions_file, "--explain").stdout
    assert (
        "At most 3 windows of 10 x 12 pixels were proposed to be measured again, by how undecided it is whether "
        "Fe > 0.2, inside an area." in text
    )
    write_prediction(fused(denoiser), tmp_path / "f.npz")
    text = call("run", tmp_path / "f.npz", "--explain").stdout
    assert "The prediction in rows 3 to 12, columns 30 to 41 was fused with a new measurement" in text
    assert "(counts (3 x 10 x 12, SHA-256 " in text
    assert "Poisson noise, dose 5, 5, 5, gain 1, 1, 1) by Bayes' rule" in text


PLACE = np.s_[:, 3:13, 30:42]
COUNTS = np.random.default_rng(0).poisson(5 * PAIR.clean).astype(np.int32)


def fused(denoiser):
    """A prediction that was fused with a part of a window, then with all of another."""
    mask = np.ones((10, 12), bool)
    mask[:4] = False
    part = Region(3, 30, 10, 12, mask=mask)
    once = denoiser.predict(PAIR.noisy).fuse(part, COUNTS[PLACE], dose=5.0)
    return once.fuse(np.s_[20:30, 60:90], COUNTS[:, 20:30, 60:90] / 5, 0.2, dose=5.0)


def test_a_fusion_is_repeated_bit_by_bit(denoiser, tmp_path):
    made = fused(denoiser)
    recipe = Recipe.of(made.provenance).to_dict()
    assert [s["do"] for s in recipe["steps"]] == ["fit", "calibrate", "predict", "fuse", "fuse"]
    files = {"counts": COUNTS[PLACE], "counts2": COUNTS / 5}
    told = repeated(recipe, tmp_path, **files)
    assert (told["same"], told["compared"]) == (True, 6)
    assert told["maps"] == recipe["steps"][-1]["maps"] != recipe["steps"][2]["maps"]
    given = [text for name in files for text in ("--input", f"{name}={tmp_path / name}.npy")]
    result = call("run", tmp_path / "r.json", *given, "-o", tmp_path / "again.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "again.npz") as again:
        for name in ("lower", "median", "upper"):
            np.testing.assert_array_equal(again[name], getattr(made, name))


def test_a_fusion_with_other_counts_is_refused_in_one_sentence(denoiser, tmp_path):
    recipe = tmp_path / "r.json"
    recipe.write_text(json.dumps(Recipe.of(fused(denoiser).provenance).to_dict()))
    result = call("run", recipe)
    assert result.exit_code == 2
    assert (
        "needs counts (3 x 10 x 12 int32), and its file is not recorded; give --input counts=FILE."
        in (result.stderr.splitlines()[-1])
    )
    np.save(tmp_path / "other.npy", COUNTS[PLACE] + 1)
    result = call("run", recipe, "--input", f"counts={tmp_path / 'other.npy'}")
    assert result.exit_code == 2
    assert "The input counts has shape (3, 10, 12), type int32" in result.stderr.splitlines()[-1]
    assert "Give the same image." in result.stderr.splitlines()[-1]


def test_a_fusion_without_a_prediction_is_refused(denoiser, tmp_path):
    values = Recipe.of(fused(denoiser).provenance).to_dict()
    del values["steps"][2:4]
    np.save(tmp_path / "counts.npy", COUNTS / 5)
    (tmp_path / "r.json").write_text(json.dumps(values))
    result = call("run", tmp_path / "r.json", "--input", f"counts={tmp_path / 'counts.npy'}")
    assert result.exit_code == 2
    assert "has fuse without a prediction before it" in result.stderr.splitlines()[-1]


def test_what_can_not_be_repeated_is_refused(denoiser, tmp_path):
    values = json.loads(json.dumps(denoiser.recipe))
    values["steps"].append({"do": "sharpen", "inputs": {}})
    (tmp_path / "r.json").write_text(json.dumps(values))
    result = call("run", tmp_path / "r.json")
    assert result.exit_code == 2
    assert "has the steps fit, calibrate, sharpen" in result.stderr.splitlines()[-1]


def saved(denoiser, folder):
    """Save a denoiser and return its file."""
    denoiser.save(folder / "a.btn")
    return folder / "a.btn"
