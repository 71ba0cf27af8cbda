"""Settings are checked, and say what they are in a volume."""

from __future__ import annotations

from napari_btn.core.config import TrainSettings


def test_steps_on_volumes_stay_affordable():
    settings = TrainSettings(batch_size=8, patch_px=64)
    assert settings.in_space(2) == settings
    assert (settings.in_space(3).batch_size, settings.in_space(3).patch_px) == (2, 32)
    assert TrainSettings(patch_px=16).in_space(3).patch_px == 16
