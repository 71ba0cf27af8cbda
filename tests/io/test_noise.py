"""Files of noise models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_btn as btn

if TYPE_CHECKING:
    from pathlib import Path


def test_a_model_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = btn.NoiseModel.fit(rng.poisson(5.0, (3, 2, 40, 50)), axes="TCYX")
    model.save(tmp_path / "camera.json")
    again = btn.NoiseModel.load(tmp_path / "camera.json")
    for name in ("gain", "offset", "read_sd", "fano", "correlation", "saturation", "gain_se", "step"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    assert again.source == "frames"
    np.testing.assert_array_equal(again.curve[1], model.curve[1])
    with pytest.raises(ValueError, match="exists"):
        model.save(tmp_path / "camera.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a whole noise model"),
        ("[1]", "choose a file that it saved"),
        ('{"kind": "napari-btn noise model", "version": 9, "gain": [1]}', "Update"),
        ('{"kind": "napari-btn noise model", "version": 1}', "no gain"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "camera.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        btn.NoiseModel.load(path)
    with pytest.raises(ValueError, match="no noise model"):
        btn.NoiseModel.load(tmp_path / "none.json")
