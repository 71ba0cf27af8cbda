"""The command noise on files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result


def call(*args: Any) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """A file of counts of two channels."""
    rng = np.random.default_rng(0)
    path = tmp_path / "counts.npy"
    np.save(path, rng.poisson(np.linspace(1, 9, 80), (2, 70, 80)))
    return path


def test_findings_are_printed_and_the_model_kept(counts: Path, tmp_path: Path) -> None:
    result = call("noise", counts, "--axes", "CYX", "--channels", "Si,Al", "-o", tmp_path / "model.json")
    assert result.exit_code == 0, result.output
    assert "thinning and Noise2Void are allowed" in result.stdout
    assert "\nAl " in result.stdout
    assert "Noise2Noise: not allowed." in result.stdout
    assert btn.NoiseModel.load(tmp_path / "model.json").n_channels == 2
    again = call("noise", counts, "--axes", "CYX", "-o", tmp_path / "model.json")
    assert again.exit_code == 2
    assert "--force" in again.stderr


def test_json_of_one_image_and_of_several(counts: Path, tmp_path: Path) -> None:
    one = json.loads(call("noise", counts, "--axes", "CYX", "--json").stdout)
    assert one["gain"] == pytest.approx([1, 1], rel=0.3)  # of 5,600 pixels
    other = tmp_path / "other.npy"
    np.save(other, np.random.default_rng(1).poisson(np.linspace(1, 9, 80), (2, 70, 80)))
    both = json.loads(call("noise", counts, other, "--axes", "CYX", "--json").stdout)
    assert [v["image"] for v in both] == [str(counts), str(other)]
    together = json.loads(call("noise", counts, other, "--axes", "CYX", "--json", "--together").stdout)
    assert together["source"] == "frames"
    assert together["permits"]["noise2noise"]["allowed"]
    np.save(other, np.ones((2, 5, 5)))
    refused = call("noise", counts, other, "--axes", "CYX", "--together")
    assert refused.exit_code == 2
    assert "one shape" in refused.stderr


def test_bad_calls_exit_with_2(counts: Path, tmp_path: Path) -> None:
    assert call("noise").exit_code == 2
    assert call("noise", tmp_path / "none.npy", "--axes", "YX").exit_code == 2
    assert "no axes" not in call("noise", counts, "--axes", "CZYX").stderr
    assert call("noise", counts, "--axes", "CZYX").exit_code == 2


def test_a_repaired_image_is_written_with_its_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    seen = rng.poisson(50.0, (60, 70)).astype(np.float32) + 100
    seen[20, 30] = 4095
    np.save(tmp_path / "seen.npy", seen)
    np.save(tmp_path / "dark.npy", np.full((60, 70), 100.0))
    out, mask = tmp_path / "out.npz", tmp_path / "mask.npz"
    result = call("repair", tmp_path / "seen.npy", "--axes", "YX", "-o", out, "--dark", tmp_path / "dark.npy",
                  "--valid-to", mask)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 hot pixels" in result.stdout
    made = np.load(out)["repaired"]
    assert made[20, 30] == pytest.approx(50, abs=15)
    assert (np.load(mask)["valid"] == 0).sum() == 1
    assert call("repair", tmp_path / "seen.npy", "--axes", "YX", "-o", out).exit_code == 2
