"""Data sets by description: every kind of file, what is matched, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from napari_btn.io.datasets import DataSet, read_dataset, write_dataset
from napari_btn.io.images import read_image, write_images
from napari_btn.io.proposals import propose

RNG = np.random.default_rng(0)
NOISY = RNG.normal(size=(3, 5, 33, 47)).astype(np.float32)  # fields, channels, space
CLEAN = RNG.normal(size=(3, 5, 33, 47)).astype(np.float32)


def folders(folder):
    """Write a TIFF of each field into two folders."""
    for side, values in (("noisy", NOISY), ("clean", CLEAN)):
        (folder / side).mkdir()
        for i, one in zip((1, 2, 10), values, strict=True):
            write_images(
                {"image": one},
                folder / side / f"scan{i}.ome.tif",
                axes="CYX",
                pixel_size=(0.5, 0.5),
                unit="um",
            )
    return {"noisy": "noisy", "clean": "clean", "files": "fields"}


def npz(folder):
    np.savez(folder / "pairs.npz", noisy=NOISY, clean=CLEAN)
    return {"noisy": "pairs.npz:noisy", "clean": "pairs.npz:clean", "axes": "SCYX"}


def npy(folder):
    for i, (one, other) in enumerate(zip(NOISY, CLEAN, strict=True)):
        np.save(folder / f"field{i}_low.npy", one)
        np.save(folder / f"field{i}_high.npy", other)
    return {"noisy": "field*_low.npy", "clean": "field*_high.npy", "files": "fields", "axes": "CYX"}


def tensors(folder):
    import torch

    torch.save({"noisy": torch.tensor(NOISY), "clean": torch.tensor(CLEAN)}, folder / "data.pt")
    return {"noisy": "data.pt:noisy", "clean": "data.pt:clean", "axes": "scyx"}


def zarr_store(folder):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(folder / "data.zarr", mode="w")
    for name, values in (("noisy", NOISY), ("clean", CLEAN)):
        group.create_array(name, data=values)
    return {"noisy": "data.zarr:noisy", "clean": "data.zarr:clean", "axes": "SCYX"}


def hdf5(folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "data.h5", "w") as file:
        for name, values in (("train/noisy", NOISY), ("train/clean", CLEAN)):
            file[name] = values
    return {"noisy": "data.h5:train/noisy", "clean": "data.h5:train/clean", "axes": "SCYX"}


KINDS = [folders, npz, npy, tensors, zarr_store, hdf5]


def described(folder, keys, name="soil.json"):
    (folder / name).write_text(json.dumps(keys))
    return read_dataset(folder / name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_pair(tmp_path, kind):
    made = described(tmp_path, {**kind(tmp_path), "channels": list("abcde")})
    pair = made.pair()
    assert pair.axes == "SCYX"
    assert pair.channel_names == tuple("abcde")
    views = pair.views
    for s in range(3):
        np.testing.assert_array_equal(views.noisy.read(s), NOISY[s])
        np.testing.assert_array_equal(views.clean.read(s), CLEAN[s])
        np.testing.assert_array_equal(
            views.noisy.read(s, (slice(3, 9), slice(2, 30))), NOISY[s, :, 3:9, 2:30]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_or_file_is_described_as_it_was_written(tmp_path, kind):
    wanted = described(tmp_path, kind(tmp_path))
    (tmp_path / "soil.json").unlink()
    source = next((p for p in tmp_path.iterdir() if p.suffix in (".npz", ".pt", ".zarr", ".h5")), tmp_path)
    found = propose(source)
    assert found.matched() == wanted.matched()
    assert found.files == wanted.files
    # what was written is read again
    for name in ("again.yaml", "again.json"):
        write_dataset(found, tmp_path / name)
        assert read_dataset(tmp_path / name).matched() == wanted.matched()
    with pytest.raises(ValueError, match="exist"):
        write_dataset(found, tmp_path / "again.json")


def test_a_description_in_another_folder_has_whole_paths(tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    np.save(here / "mask.npy", np.ones((33, 47), bool))
    found = described(here, {**npz(here), "valid": "mask.npy"})
    write_dataset(found, tmp_path / "far.json")
    far = read_dataset(tmp_path / "far.json")
    assert far.noisy == (str(here / "pairs.npz:noisy"),)
    assert far.valid == str(here / "mask.npy")
    assert far.matched() == found.matched()


def test_files_keep_pixel_size_and_natural_order(tmp_path):
    made = described(tmp_path, folders(tmp_path))
    noisy, clean = made.images()
    assert (noisy.axes, noisy.pixel_size, noisy.unit) == ("SCYX", (0.5, 0.5), "um")
    assert clean.axes == "SCYX"
    assert made.table().splitlines()[2] == "noisy/scan10.ome.tif  ->  clean/scan10.ome.tif"
    other = described(tmp_path, {**folders_only(), "pixel_size": [2.0, 2.0], "unit": "nm", "files": "times"})
    assert (other.images()[0].axes, other.images()[0].pixel_size) == ("TCYX", (2.0, 2.0))


def folders_only():
    return {"noisy": "noisy", "clean": "clean"}


def test_repeats_have_one_clean_image(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "gt").mkdir()
    for i in range(4):
        np.save(tmp_path / "raw" / f"frame{i}.npy", NOISY[0, i])
    np.save(tmp_path / "gt" / "mean.npy", CLEAN[0, 0])
    made = propose(tmp_path)
    assert made.files == "repeats"
    pair = described(
        tmp_path, {"noisy": list(made.noisy), "clean": list(made.clean), "files": "repeats", "axes": "YX"}
    ).pair()
    assert pair.views.repeats
    assert pair.views.noisy.n_scenes == 4


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"noisy": "f*_low.npy", "clean": "f*_high.npy", "axes": "CYX"}, "say what they are with `files:`"),
        ({"noisy": "f*_low.npy", "clean": "field0_high.npy", "files": "fields", "axes": "CYX"}, "3 noisy files came"),
        ({"noisy": "f*_low.npy", "clean": "f*_high.npy", "files": "fields"}, "give `axes:`"),
        ({"noisy": "f*_low.npy", "clean": "f*_high.npy", "files": "channels", "axes": "CYX"}, "hold C already"),
        ({"noisy": "nothing*.npy"}, "There is no image"),
        ({"noisy": "f*_low.npy", "claen": "x"}, "unknown key claen"),
        ({"noisy": "f*_low.npy", "files": "scenes"}, "files: scenes"),
        ({"noisy": "f*_low.npy", "pixel_size": [0, 1]}, "above zero"),
        ({"noisy": 3}, "a text of one line"),
        ({"clean": "x"}, "it needs `noisy:`"),
    ],
)  # fmt: skip
def test_bad_descriptions_are_refused(tmp_path, keys, words):
    npy(tmp_path)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        described(tmp_path, keys).pair()
    assert words in str(refused.value)


def test_damaged_descriptions_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.yaml").write_text("noisy: [")
    (tmp_path / "d.yaml").write_text("noisy:\n")
    (tmp_path / "e.json").write_text("[" * 100_000)
    (tmp_path / "f.json").write_bytes(b"\xff\xfe\xfd")
    (tmp_path / "g.json").write_text('{"noisy": "a.npy", "pixel_size": 1' + "0" * 400 + "}")
    for name, words in (
        ("a.json", "no JSON"), ("b.yaml", "no YAML"), ("c.yaml", "There is no"), ("d.yaml", "it needs `noisy:`"),
        ("e.json", "no JSON that describes"), ("f.json", "no JSON that describes"), ("g.json", "no JSON that"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read_dataset(tmp_path / name)


def test_a_few_lines_that_stand_for_gigabytes_are_refused_in_a_short_sentence(tmp_path):
    # six steps stand for a megabyte, each further one for nine times as much
    lines = ["- &a0 [x, x]", *(f"- &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 6))]
    (tmp_path / "a.yaml").write_text("\n".join(["noisy:", *lines]))
    with pytest.raises(ValueError, match=r"^a\.yaml has noisy: [^\n]{20,200}$"):
        read_dataset(tmp_path / "a.yaml")


def test_names_with_line_breaks_are_refused_in_one_sentence(tmp_path):
    described = {"noisy": "scan_*\nnpy", "files": "fields"}
    (tmp_path / "a.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"^a\.json has noisy: scan_\* npy; [^\n]*one line[^\n]*$"):
        read_dataset(tmp_path / "a.json")


def test_a_pattern_may_lie_elsewhere(tmp_path):
    (tmp_path / "here").mkdir()
    for k in (1, 2, 10):
        np.save(tmp_path / f"n{k}.npy", NOISY[0])
    for pattern in (str(tmp_path / "n*.npy"), "../n*.npy"):
        found = DataSet(noisy=(pattern,), files="fields", folder=tmp_path / "here").matched()[0]
        assert [Path(p).name for p in found] == ["n1.npy", "n2.npy", "n10.npy"]
    with pytest.raises(ValueError, match="`valid:` names 3 files"):
        DataSet(noisy=("n1.npy",), axes="YX", valid="n*.npy", folder=tmp_path).pair()


def test_nothing_is_guessed_where_names_do_not_match(tmp_path):
    np.save(tmp_path / "one.npy", NOISY[0])
    np.save(tmp_path / "two.npy", CLEAN[0])
    with pytest.raises(ValueError, match="no names of noisy and clean"):
        propose(tmp_path)
    np.savez(tmp_path / "x.npz", a=NOISY, b=CLEAN)
    with pytest.raises(ValueError, match="which are noisy and clean is not clear"):
        propose(tmp_path / "x.npz")
    (tmp_path / "noisy").mkdir()
    (tmp_path / "clean").mkdir()
    np.save(tmp_path / "noisy" / "a.npy", NOISY[0])
    np.save(tmp_path / "clean" / "b.npy", CLEAN[0])
    with pytest.raises(ValueError, match="have no partner"):
        propose(tmp_path)


class Evil:
    """Something that runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("code ran",))


def test_tensors_are_read_without_running_code(tmp_path, capsys):
    import torch

    with (tmp_path / "evil.pt").open("wb") as file:
        pickle.dump({"noisy": Evil()}, file, protocol=2)  # torch warns of others
    torch.save({"noisy": Evil()}, tmp_path / "evil2.pt")
    for name in ("evil.pt", "evil2.pt"):
        with pytest.raises(ValueError, match="could run code"):
            read_image(tmp_path / f"{name}:noisy")
    assert "code ran" not in capsys.readouterr().out
    torch.save(torch.zeros(4, 5, dtype=torch.bfloat16), tmp_path / "plain.pt")
    assert read_image(tmp_path / "plain.pt").data.dtype == np.float32
    with pytest.raises(ValueError, match="without a name"):
        read_image(tmp_path / "plain.pt:x")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "soil.yaml").write_text("noisy: a.npy")
    with pytest.raises(ImportError, match="needs the package yaml"):
        read_dataset(tmp_path / "soil.yaml")
