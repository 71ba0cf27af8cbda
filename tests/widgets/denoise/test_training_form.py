"""The form of the training settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from napari_btn.core.settings import CalibrationSettings, EnsembleSettings, TrainSettings
from napari_btn.core.supervision.registry import SUPERVISIONS

if TYPE_CHECKING:
    from napari_btn.widgets.denoise.dock import DenoiseWidget


def test_devices_are_offered_with_the_reason_for_no_gpu(dock: DenoiseWidget) -> None:
    from napari_btn.core.compute.device import devices

    shown = [dock.view.form.device.itemText(i) for i in range(dock.view.form.device.count())]
    assert [text.split(":")[0] for text in shown] == ["auto", *(n.split(":")[0] for n in devices().names)]
    assert dock.session.device == "auto"
    dock.view.form.device.setCurrentIndex(dock.view.form.device.count() - 1)
    assert dock.session.device == devices().names[-1]
    assert devices().reason in dock.view.form.device_reason.text()


def test_coverage_is_set_as_a_fraction_or_a_percentage(dock: DenoiseWidget) -> None:
    coverage = dock.view.form.coverage
    coverage.setValue(95)
    assert coverage.value() == pytest.approx(0.95)
    coverage.setValue(0.8)
    assert coverage.value() == pytest.approx(0.8)
    assert coverage.text() == "80 %"
    coverage.lineEdit().setText("92.5 %")
    coverage.interpretText()
    assert coverage.value() == pytest.approx(0.925)


@pytest.mark.parametrize(
    ("shown", "split", "axis"),
    [
        ("along the longest axis", "auto", "longest"),
        ("along Y", "auto", "y"),
        ("checkerboard", "checkerboard", "longest"),
    ],
)
def test_the_split_is_chosen(ready: DenoiseWidget, shown: str, split: str, axis: str) -> None:
    ready.view.form.split.setCurrentText(shown)
    calibration = ready.view.form.settings().calibration
    assert (calibration.split, calibration.split_axis) == (split, axis)


def test_the_promise_of_a_bundle_is_shown(ready: DenoiseWidget) -> None:
    calibration = CalibrationSettings(
        unit="image", score="asymmetric", split="checkerboard", delta=0.2, groups=5
    )
    ready.view.form.show_settings(EnsembleSettings(calibration=calibration))
    assert ready.view.form.calibration() == calibration


def test_bias_free_networks_are_asked_for_and_shown(ready: DenoiseWidget) -> None:
    assert not ready.view.form.settings().network.bias_free
    ready.view.form.bias_free.setChecked(True)
    made = ready.view.form.settings()
    assert made.network.bias_free
    ready.view.form.bias_free.setChecked(False)
    ready.view.form.show_settings(made)
    assert ready.view.form.bias_free.isChecked()


def test_early_stopping_is_asked_for(ready: DenoiseWidget) -> None:
    assert not ready.view.form.settings().train.early_stopping
    ready.view.form.early_stopping.setChecked(True)
    assert ready.view.form.settings().train.early_stopping


def test_the_image_decides_on_patches_until_a_size_is_asked_for(ready: DenoiseWidget) -> None:
    assert ready.view.form.patch.text() == "from the image"
    for side in (None, 96, None):
        ready.view.form.show_settings(EnsembleSettings(train=TrainSettings(patch_px=side)))
        assert ready.view.form.settings().train.patch_px == side


def test_all_ways_of_learning_are_offered(dock: DenoiseWidget) -> None:
    form = dock.view.form
    chosen = []
    for index in range(form.supervision.count()):
        form.supervision.setCurrentIndex(index)
        chosen.append(form.settings().supervision)
    assert sorted(chosen) == list(SUPERVISIONS)
    assert chosen[0] == "pair"


def test_a_family_is_picked_or_typed_and_shown(ready: DenoiseWidget) -> None:
    form = ready.view.form
    assert form.settings().network.family == "sms"
    for name in ("unet", "dncnn", "cdae", "sms+unet", "unet+cdae"):
        form.family.setCurrentText(name)
        made = form.settings()
        assert made.network.family == name
        form.family.setCurrentText("sms")
        form.show_settings(made)
        assert form.settings().network == made.network
    form.family.setCurrentText("other")
    assert not ready.view.train.isEnabled()
    assert "family is 'other'" in ready.view.train.toolTip()
    form.family.setCurrentText("unet")
    assert ready.view.train.isEnabled()
