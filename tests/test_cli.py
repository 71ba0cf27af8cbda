"""The command line: its output, its errors, and what it keeps when it is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from napari_btn import samples
from napari_btn.cli import main
from napari_btn.core.settings import TrainSettings
from napari_btn.denoiser import load

TINY = ("--preset", "quick", "--steps", "6", "--depth", "3", "--members", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a pair of three channels as files."""
    folder = tmp_path_factory.mktemp("cli")
    pair = samples.edx(seed=1, size=(48, 176))
    np.save(folder / "noisy.npy", pair.noisy)
    np.save(folder / "clean.npy", pair.clean)
    other = samples.edx(seed=2, size=(48, 96))
    np.savez(folder / "both.npz", noisy=other.noisy, clean=other.clean)
    np.save(folder / "flat.npy", np.ones_like(pair.clean))
    np.save(folder / "small.npy", pair.clean[:, :40])
    return folder


@pytest.fixture(scope="module")
def bundle(folder):
    """A bundle trained by the command line, and its report."""
    out = folder / "edx.btn"
    result = call("train", folder / "noisy.npy", folder / "clean.npy", "-o", out, "--axes", "CYX",
                  "--channels", "Si,Al,Fe", "--report", folder / "report.json", *TINY)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Si" in result.stdout
    assert "edx.btn: 2 members" in result.stdout
    assert "100%" in result.stderr
    return out


def call(*args):
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


def refused(result):
    """The one line that says why, of a run that was refused."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert [line for line in lines if "Error" in line] == lines[-1:], result.stderr
    assert "Traceback" not in result.output
    return lines[-1]


def test_a_mixed_ensemble_from_the_command_line(folder, tmp_path):
    given = ("train", folder / "noisy.npy", folder / "clean.npy", "-o", tmp_path / "m.btn", "--axes", "CYX")
    result = call(*given, *TINY, "--family", "sms+dncnn")
    assert result.exit_code == 0, result.output
    info = json.loads(call("info", tmp_path / "m.btn", "--json").stdout)
    assert (info["family"], info["members"]) == ("sms+dncnn", 2)
    says = refused(call(*given, "--force", *TINY, "--family", "sms+other"))
    assert "family is 'sms+other'; it must be" in says


def test_help_is_fast_because_nothing_heavy_is_imported():
    heavy = "{'torch', 'napari', 'matplotlib', 'skimage', 'scipy', 'numpy', 'tqdm', 'qtpy'}"
    code = f"import sys, napari_btn.cli; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_command_has_help():
    for name, command in main.commands.items():
        result = call(name, "--help")
        assert result.exit_code == 0
        assert command.help
        assert all(p.help for p in command.params if p.param_type_name == "option")


def test_version():
    import napari_btn

    assert napari_btn.__version__ in call("--version").output


def test_train_writes_the_report_and_leaves_no_partial(folder, bundle):
    report = json.loads((folder / "report.json").read_text())
    assert report["channel_names"] == ["Si", "Al", "Fe"]
    assert len(report["coverage"]) == 3
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith((".", "edx"))) == ["edx.btn"]


def test_predict_and_evaluate_print_the_results_of_the_python_calls(folder, bundle, tmp_path):
    import napari_btn as btn

    out = tmp_path / "out.npz"
    result = call("predict", bundle, folder / "noisy.npy", "--axes", "CYX", "-o", out)
    assert result.exit_code == 0, result.output
    noisy, clean = np.load(folder / "noisy.npy"), np.load(folder / "clean.npy")
    expected = btn.load(bundle).predict(noisy, axes="CYX")
    assert result.stdout.splitlines()[-1] == f"{out}: intervals that aim at 90 % of the clean signal"
    with np.load(out) as maps:
        for name in ("lower", "median", "upper", "width"):
            np.testing.assert_array_equal(maps[name], getattr(expected, name))

    result = call("evaluate", bundle, folder / "noisy.npy", folder / "clean.npy", "--axes", "CYX", "--json")
    assert result.exit_code == 0, result.output
    assert "the networks were trained on a part" in result.stderr
    report = json.loads(result.stdout)
    np.testing.assert_allclose(report["coverage"], btn.evaluate(expected, clean).coverage)
    text = call("evaluate", bundle, folder / "noisy.npy", folder / "clean.npy", "--axes", "CYX").stdout
    assert f"{report['coverage'][2]:.3f}" in text.splitlines()[3]


@pytest.mark.parametrize("suffix", [".npz", ".ome.tif", ".ome.zarr"])
def test_draws_of_the_command_line_are_those_of_the_python_call(folder, bundle, tmp_path, suffix):
    pytest.importorskip("zarr")
    import napari_btn as btn
    from napari_btn.io.images import array_names, read_image, read_provenance

    out = tmp_path / f"maps{suffix}"
    asked = ("predict", bundle, f"{folder / 'both.npz'}:noisy", "--axes", "CYX", "-o", out, "--draws", 2)
    result = call(*asked, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].endswith("of the clean signal, and 2 plausible images of it")
    prediction = btn.load(bundle).predict(np.load(folder / "both.npz")["noisy"], "CYX")
    for name, expected in zip(("draw_1", "draw_2"), prediction.draws(2, seed=3), strict=True):
        image = read_image(f"{out}:{name}")
        assert (image.axes, image.channel_names) == ("CYX", ("Si", "Al", "Fe"))
        np.testing.assert_array_equal(image.data[...], expected)
    np.testing.assert_array_equal(read_image(f"{out}:upper").data[...], prediction.upper)
    assert "draw_3" not in array_names(out)
    assert read_provenance(out)["draws_seed"] == 3
    assert [p.name for p in tmp_path.iterdir()] == [out.name], "nothing temporary is left"
    assert "--force" in refused(call(*asked))
    assert call(*asked, "--force").exit_code == 0


def test_draws_go_with_one_image(folder, bundle, tmp_path):
    two = (folder / "noisy.npy", f"{folder / 'both.npz'}:noisy")
    assert "--draws work with one image only" in refused(
        call("predict", bundle, *two, "-o", tmp_path / "m", "--draws", 2)
    )


def test_predict_says_where_an_image_differs_from_the_calibrated_one(folder, bundle, tmp_path):
    np.save(tmp_path / "brighter.npy", 4 * np.load(folder / "noisy.npy"))
    result = call("predict", bundle, tmp_path / "brighter.npy", "--axes", "CYX", "-o", tmp_path / "out.npz")
    assert result.exit_code == 0, result.output
    assert "The coverage may not hold" in result.stderr


def test_evaluate_writes_a_page_once(folder, bundle, tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "report.html"
    given = ("evaluate", bundle, folder / "noisy.npy", folder / "clean.npy", "--axes", "CYX", "--html", page)
    result = call(*given)
    assert result.exit_code == 0, result.output
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert call(*given).exit_code == 2
    assert call(*given, "--force").exit_code == 0


def test_maps_in_a_zarr_are_written_tile_by_tile_and_kept(folder, bundle, tmp_path):
    pytest.importorskip("zarr")
    import napari_btn as btn
    from napari_btn.io.images import read_image

    out = tmp_path / "out.ome.zarr"
    args = ("predict", bundle, f"{folder / 'both.npz'}:noisy", "--axes", "CYX", "-o", out)
    result = call(*args)
    assert result.exit_code == 0, result.output
    expected = btn.load(bundle).predict(np.load(folder / "both.npz")["noisy"], "CYX")
    for name in ("lower", "median", "upper", "width", "spread", "mean"):
        image = read_image(f"{out}:{name}")
        assert (image.axes, image.channel_names) == ("CYX", ("Si", "Al", "Fe"))
        np.testing.assert_array_equal(image.data[...], getattr(expected, name))
    assert "--force" in refused(call(*args))
    assert call(*args, "--force").exit_code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.ome.zarr"]


def test_a_volume_from_training_to_maps(tmp_path):
    pytest.importorskip("zarr")
    from napari_btn.io.images import read_image, write_images

    pair = samples.xct(seed=0, size=(16, 24, 48))
    for name in ("noisy", "clean"):
        write_images({name: getattr(pair, name)}, tmp_path / f"{name}.ome.zarr", axes="ZYX",
                     pixel_size=pair.pixel_size, unit=pair.unit)  # fmt: skip
    model, out = tmp_path / "xct.btn", tmp_path / "maps.ome.zarr"
    result = call("train", tmp_path / "noisy.ome.zarr", tmp_path / "clean.ome.zarr", "-o", model, *TINY)
    assert result.exit_code == 0, result.output
    result = call("predict", model, tmp_path / "noisy.ome.zarr", "-o", out)
    assert result.exit_code == 0, result.output
    image = read_image(f"{out}:median")
    assert (image.axes, image.data.shape, image.pixel_size, image.unit) == (
        "ZYX",
        (16, 24, 48),
        (2, 2, 2),
        "um",
    )
    assert call("evaluate", model, tmp_path / "noisy.ome.zarr", tmp_path / "clean.ome.zarr").exit_code == 0


def test_info_describes_the_bundle(bundle):
    text = call("info", bundle)
    assert text.exit_code == 0
    assert "Si, Al, Fe" in text.stdout
    values = json.loads(call("info", bundle, "--json").stdout)
    assert values["members"] == 2
    assert values["channels"] == ["Si", "Al", "Fe"]
    assert values["report"]["alpha"] == 0.1


@pytest.mark.parametrize("coverage", ["80", "80%", "0.8"])
def test_a_coverage_is_one_minus_alpha(bundle, tmp_path, coverage):
    result = call("calibrate", bundle, "-o", tmp_path / "other.btn", "--coverage", coverage)
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "other.btn").alpha == 0.2
    for wrong, words in ((("--alpha", "0.2"), "Give one"), ((), "not a share"), ((), "between 0 and 1")):
        given = {"Give one": coverage, "not a share": "much", "between 0 and 1": "0"}[words]
        refused = call("calibrate", bundle, "-o", tmp_path / "x.btn", "--coverage", given, *wrong)
        assert refused.exit_code == 2
        assert words in refused.stderr


def test_calibrate_changes_the_level_and_nothing_else(folder, bundle, tmp_path):
    import napari_btn as btn

    result = call("calibrate", bundle, "-o", tmp_path / "wide.btn", "--alpha", "0.5")
    assert result.exit_code == 0, result.output
    noisy = np.load(folder / "noisy.npy")
    one, other = btn.load(bundle).predict(noisy), btn.load(tmp_path / "wide.btn").predict(noisy)
    assert other.alpha == 0.5
    assert other.width.mean() < one.width.mean()
    np.testing.assert_array_equal(one.quantiles, other.quantiles)


def test_calibrate_on_another_pair(folder, bundle, tmp_path):
    pair = (f"{folder}/both.npz:noisy", f"{folder}/both.npz:clean")
    result = call("calibrate", bundle, *pair, "--axes", "CYX", "-o", tmp_path / "other.btn")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "other.btn").exists()
    line = refused(
        call("calibrate", bundle, folder / "noisy.npy", "-o", tmp_path / "half.btn", "--axes", "CYX")
    )
    assert "Clean is missing" in line


@pytest.mark.parametrize(
    ("noisy", "clean", "more", "says"),
    [
        ("noisy.npy", "absent.npy", (), "absent.npy"),
        ("noisy.npy", "noisy.npy", (), "both"),
        ("both.npz:noisy", "both.npz:noisy", (), "both"),
        ("noisy.npy", "small.npy", (), "must match"),
        ("noisy.npy", "flat.npy", (), "constant"),
        ("noisy.npy", "clean.npy", ("--axes", "QYX"), "Q"),
        ("noisy.npy", "clean.npy", ("--channels", "Si,Al"), "channel names"),
        ("noisy.npy", "clean.npy", ("--channels", "Si,,Al"), "Si,Al,Fe"),
        ("noisy.npy", "clean.npy", ("--alpha", "1.5"), "alpha"),
        ("noisy.npy", "clean.npy", ("--bogus",), "bogus"),
        ("noisy.npy", "clean.npy", ("-o", "absent/model.btn"), "doesn't exist"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_writes_nothing(folder, tmp_path, noisy, clean, more, says):
    out = tmp_path / "model.btn"
    result = call("train", folder / noisy, folder / clean, "-o", out, "--axes", "CYX", *TINY, *more)
    assert says in refused(result)
    assert not list(tmp_path.iterdir())


def test_wrong_calls_are_refused_in_one_line(bundle, folder, tmp_path):
    assert "--help" in refused(call("train"))
    assert "No such command" in refused(call("trian"))
    assert "bogus" in refused(call("--bogus", "info", bundle))
    assert ".ome.tif" in refused(call("predict", bundle, folder / "noisy.npy", "-o", tmp_path / "out.jpg"))


def test_damaged_and_other_files_are_refused_as_bundles(bundle, folder, tmp_path):
    damaged = tmp_path / "damaged.btn"
    damaged.write_bytes(bundle.read_bytes()[:-100])
    for path in (damaged, folder / "noisy.npy", tmp_path / "absent.btn"):
        assert path.name in refused(call("info", path))


def test_traceback_is_shown_when_asked_for(tmp_path):
    assert isinstance(call("--traceback", "info", tmp_path / "absent.btn").exception, OSError | ValueError)


def test_existing_files_are_replaced_only_with_force(folder, bundle, tmp_path):
    out = tmp_path / "out.npz"
    out.write_bytes(b"mine")
    assert "--force" in refused(call("predict", bundle, folder / "noisy.npy", "--axes", "CYX", "-o", out))
    assert out.read_bytes() == b"mine"
    assert call("predict", bundle, folder / "noisy.npy", "--axes", "CYX", "-o", out, "--force").exit_code == 0
    assert out.read_bytes() != b"mine"
    assert "--force" in refused(call("calibrate", bundle, "-o", bundle))


def test_a_result_never_replaces_an_input(folder, bundle, tmp_path):
    image = tmp_path / "field.npz"
    np.savez(image, noisy=np.load(folder / "noisy.npy"))
    before = image.read_bytes()
    said = refused(call("predict", bundle, f"{image}:noisy", "--axes", "CYX", "-o", image, "--force"))
    assert "is what the command reads" in said
    assert "is what the command reads" in refused(
        call("tokens", bundle, image, "--axes", "CYX", "-o", image, "--force")
    )
    assert image.read_bytes() == before
    assert "names no format" in refused(call("predict", bundle, f"{image}:noisy", "-o", tmp_path / ".npz"))


def test_a_pair_whose_channels_have_other_names_is_refused(folder, bundle, tmp_path):
    from napari_btn.io.images import write_images

    noisy, clean = (np.load(folder / f"{name}.npy") for name in ("noisy", "clean"))
    files = [tmp_path / "fast.ome.tif", tmp_path / "slow.ome.tif"]
    for data, path, names in (
        (noisy, files[0], ("Si", "Al", "Fe")),
        (clean[::-1], files[1], ("Fe", "Al", "Si")),
    ):
        write_images({"image": np.ascontiguousarray(data)}, path, axes="CYX", channel_names=names)
    for command in (("train", *files, "-o", tmp_path / "a.btn", *TINY), ("evaluate", bundle, *files)):
        assert "clean has Fe, Al, Si" in refused(call(*command))
    assert not (tmp_path / "a.btn").exists()


def test_maps_have_the_pixels_of_their_image(folder, bundle, tmp_path):
    from napari_btn.io.images import read_image, write_images

    image, out = tmp_path / "field.ome.tif", tmp_path / "maps.ome.tif"
    write_images(
        {"image": np.load(folder / "noisy.npy")}, image, axes="CYX", pixel_size=(0.125, 0.125), unit="um"
    )
    assert call("predict", bundle, image, "-o", out).exit_code == 0
    assert read_image(f"{out}:median").pixel_size == (0.125, 0.125)


def test_nan_pixels_are_refused_or_left_out(folder, bundle, tmp_path):
    data = np.load(folder / "noisy.npy").astype(np.float32)
    data[0, 3:6, 4:9] = np.nan
    np.save(tmp_path / "holes.npy", data)
    asked = ("predict", bundle, tmp_path / "holes.npy", "--axes", "CYX", "-o", tmp_path / "maps.npz")
    line = refused(call(*asked))
    assert "NaN or infinite" in line
    assert '--valid as "finite"' in line
    assert not (tmp_path / "maps.npz").exists()
    result = call(*asked, "--valid", "finite")
    assert result.exit_code == 0
    assert "15 pixels don't count" in result.stderr
    with np.load(tmp_path / "maps.npz") as maps:
        assert np.isnan(maps["median"]).any(0).sum() == 15
    judged = ("evaluate", bundle, tmp_path / "holes.npy", folder / "clean.npy", "--axes", "CYX", "--json")
    assert '--valid as "finite"' in refused(call(*judged))
    result = call(*judged, "--valid", "finite")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_pixels"] == data[0].size - 15


def test_axes_come_from_the_file_and_a_guess_is_announced(folder, bundle, tmp_path):
    from napari_btn.io.images import write_images

    result = call("predict", bundle, folder / "noisy.npy", "-o", tmp_path / "out.npz")
    assert result.exit_code == 0, result.output
    assert "guessed as CYX" in result.stderr

    noisy, clean = np.load(folder / "noisy.npy"), np.load(folder / "clean.npy")
    write_images({"noisy": noisy}, tmp_path / "noisy.ome.tif", axes="CYX")
    write_images({"clean": np.moveaxis(clean, 0, 2)}, tmp_path / "clean.npz", axes="YXC")
    result = call("evaluate", bundle, tmp_path / "noisy.ome.tif", f"{tmp_path}/clean.npz:clean", "--json")
    assert result.exit_code == 0, result.output
    assert "guessed" not in result.stderr
    same = call("evaluate", bundle, folder / "noisy.npy", folder / "clean.npy", "--axes", "CYX", "--json")
    assert json.loads(result.stdout)["coverage"] == json.loads(same.stdout)["coverage"]


def test_other_channel_names_and_pixel_sizes_are_a_warning(folder, bundle, tmp_path):
    from napari_btn.io.images import write_images

    image = tmp_path / "other.ome.tif"
    names = ("Fe", "Al", "Si")
    write_images({"noisy": np.load(folder / "noisy.npy")}, image, axes="CYX", channel_names=names)
    result = call("predict", bundle, image, "-o", tmp_path / "out.npz")
    assert result.exit_code == 0, result.output
    assert "Warning: the image's channels are Fe, Al, Si" in result.stderr


class Stopped:
    """fit_steps that is interrupted once a number of members are finished."""

    def __init__(self, monkeypatch, members):
        from napari_btn.denoiser import Denoiser

        whole = Denoiser.fit_steps

        def stopped(self, *args, **kwargs):
            step = whole(self, *args, **kwargs)
            for progress in step:
                yield progress
                if len(progress.checkpoint or ()) >= members:
                    step.close()
                    raise KeyboardInterrupt

        monkeypatch.setattr(Denoiser, "fit_steps", stopped)


def test_interrupted_training_keeps_members_and_resume_gives_the_same_bundle(folder, bundle, tmp_path):
    import napari_btn as btn

    out = tmp_path / "edx.btn"
    args = (
        "train",
        folder / "noisy.npy",
        folder / "clean.npy",
        "-o",
        out,
        "--axes",
        "CYX",
        "--channels",
        "Si,Al,Fe",
    )
    with pytest.MonkeyPatch.context() as patch:
        Stopped(patch, 1)
        result = call(*args, *TINY)
    assert result.exit_code == 130, result.output
    assert "--resume" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["edx.btn.partial"]

    assert "--resume" in refused(call(*args, *TINY))
    assert "seed" in refused(call(*args, *TINY, "--seed", "5", "--resume"))
    assert "another split" in refused(call(*args, *TINY, "--split", "y", "--resume"))
    other = ("train", folder / "noisy.npy", tmp_path.parent / "other.npy", *args[3:])
    np.save(tmp_path.parent / "other.npy", np.load(folder / "clean.npy") * 1.5)
    assert "another clean" in refused(call(*other, *TINY, "--resume"))

    result = call(*args, *TINY, "--resume")
    assert result.exit_code == 0, result.output
    assert [p.name for p in tmp_path.iterdir()] == ["edx.btn"]
    noisy = np.load(folder / "noisy.npy")
    np.testing.assert_array_equal(btn.load(out).predict(noisy).median, btn.load(bundle).predict(noisy).median)


def test_interrupted_before_a_member_is_finished(folder, tmp_path, monkeypatch):
    Stopped(monkeypatch, 0)
    result = call(
        "train",
        folder / "noisy.npy",
        folder / "clean.npy",
        "-o",
        tmp_path / "edx.btn",
        "--axes",
        "CYX",
        *TINY,
    )
    assert result.exit_code == 130
    assert "nothing was kept" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_real_interrupt_ends_the_process_with_130(folder, tmp_path):
    out = tmp_path / "edx.btn"
    pair = [str(folder / "noisy.npy"), str(folder / "clean.npy")]
    code = f"""
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
from napari_btn.cli import main
from napari_btn.denoiser import Denoiser
whole = Denoiser.fit_steps
def watched(self, *args, **kwargs):
    for progress in whole(self, *args, **kwargs):
        yield progress
        if progress.checkpoint:
            os.kill(os.getpid(), signal.SIGINT)
Denoiser.fit_steps = watched
main({["train", *pair, "-o", str(out), "--axes", "CYX", *TINY, "--members", "1"]})
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 130, run.stderr
    assert "Traceback" not in run.stderr
    assert (tmp_path / "edx.btn.partial").exists()


def test_a_bundle_that_cannot_be_written_is_kept_elsewhere(folder, tmp_path, monkeypatch):
    import napari_btn as btn
    from napari_btn.denoiser import Denoiser

    out = tmp_path / "edx.btn"
    save = Denoiser.save

    def full(self, path):
        if path == out:
            raise OSError(28, "No space left on device", str(path))
        save(self, path)

    monkeypatch.setattr(Denoiser, "save", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = call("train", folder / "noisy.npy", folder / "clean.npy", "-o", out, "--axes", "CYX", *TINY)
    line = refused(result)
    assert "No space left" in line
    assert btn.load(line.split()[-1].rstrip(".")).members == 2


def test_demo_without_a_window_writes_layers_and_pictures(tmp_path, monkeypatch):
    from functools import partial

    from napari_btn.cli import demo
    from napari_btn.core.settings import NetworkSettings

    quick = partial(demo.Denoiser, train=TrainSettings(steps=4), network=NetworkSettings(depth=3))
    monkeypatch.setattr(demo, "Denoiser", quick)
    monkeypatch.setattr(demo, "_SIZE", (48, 176))
    for _ in range(2):  # a second demo replaces the first
        result = call("demo", "--headless", "--out", tmp_path / "demo", "--members", "1")
        assert result.exit_code == 0, result.output
    assert "never seen" in result.stdout
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"edx.btn", "edx_pair.ome.tif", "edx_prediction.ome.tif", "report.json"} <= names
    assert {"Si.png", "Al_line_cut.png", "losses.png", "coverage.png"} <= names
    assert not [n for n in names if n.startswith(".")]
    # on any machine, without a file: the recipe names the sample
    result = call("run", tmp_path / "demo" / "edx.btn")
    assert result.exit_code == 0, result.output
    assert result.stdout == "The result equals the record bit by bit (checksums compared: 1).\n"


def test_demo_leaves_a_folder_of_other_files_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert "--force" in refused(call("demo", "--headless", "--out", tmp_path))


def test_a_progress_bar_names_no_time_left_before_it_knows_it(capsys):
    from napari_btn.cli.terminal import drain
    from napari_btn.core.progress import Progress

    def step():
        for done in range(3):
            yield Progress(done, 3, "Working")
        return "made"

    assert drain(step()) == "made"
    said = capsys.readouterr().err
    assert "so far" in said
    assert "?" not in said
