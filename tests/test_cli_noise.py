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
