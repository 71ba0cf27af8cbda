"""Outputs of processes that are killed: whole under their name, or found again."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from napari_btn.io.atomic import OutputExistsError, written_whole
from napari_btn.io.images import read_image, write_images

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows doesn't say which processes live")

KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from napari_btn.io.images import write_images
renames, moment = [], int(sys.argv[2])
rename = Path.replace
def replace(self, target):
    if Path(target).parent == Path(sys.argv[1]).parent:  # zarr renames inside its folder
        renames.append(self)
    if len(renames) > moment:
        os._exit(9)
    return rename(self, target)
Path.replace = replace
write_images({"median": np.full((8, 9), 2.0, np.float32)}, sys.argv[1], axes="YX", overwrite=True)
"""


def killed(path, moment):
    """Write a file in a process that dies before its rename of this number."""
    run = subprocess.run([sys.executable, "-c", KILLED, str(path), str(moment)], check=False)
    assert run.returncode == 9


@pytest.mark.parametrize("moment", [0, 1])
def test_a_zarr_whose_replacement_was_killed_is_found_again(tmp_path, moment):
    pytest.importorskip("zarr")
    path = tmp_path / "a.ome.zarr"
    write_images({"median": np.ones((8, 9), np.float32)}, path, axes="YX")
    killed(path, moment)
    aside = tmp_path / "replaced-a.ome.zarr"
    assert aside.exists() == (moment == 1)
    if moment:  # between its two renames: the old one is in plain sight
        np.testing.assert_array_equal(read_image(aside).data[...], 1)
    want = 2 if moment else 1
    np.testing.assert_array_equal(read_image(path).data[...], want)
    write_images({"median": np.full((8, 9), 3, np.float32)}, path, axes="YX", overwrite=True)
    np.testing.assert_array_equal(read_image(path).data[...], 3)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_was_writing_is_removed_by_the_next(tmp_path):
    killed(tmp_path / "a.npz", 0)
    assert [p.name.split("-")[0] for p in tmp_path.iterdir()] == [".writing"]
    with written_whole(tmp_path / "b.txt") as mine:
        mine.write_text("b")
        with written_whole(tmp_path / "c.txt") as other:  # which leaves the folder of the first alone
            other.write_text("c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.txt", "c.txt"]


def test_a_folder_with_the_name_of_the_moved_one_is_left_alone(tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "a.ome.zarr"
    write_images({"median": np.ones((8, 9), np.float32)}, path, axes="YX")
    (tmp_path / "replaced-a.ome.zarr").mkdir()
    with pytest.raises(OutputExistsError, match="rename or remove it first"):
        write_images({"median": np.zeros((8, 9), np.float32)}, path, axes="YX", overwrite=True)
    np.testing.assert_array_equal(read_image(path).data[...], 1)


def test_a_disk_that_takes_a_part_only_is_full(tmp_path):
    with (
        pytest.raises(OSError, match="could not be written: the disk is full"),
        written_whole(tmp_path / "a.ome.tif"),
    ):
        raise OSError("24576 requested and 16224 written")
