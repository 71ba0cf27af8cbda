"""The denoiser on volumes and on images larger than memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.evaluation.report import evaluate
from napari_btn.core.settings import NetworkSettings, TileSettings, TrainSettings
from napari_btn.denoiser import Denoiser, load
from napari_btn.workflow.inputs import image_for
from napari_btn.workflow.predict import Folder, predict_steps

MAPS = ("lower", "median", "upper", "width", "spread", "mean", "quantiles")
QUICK = TrainSettings(steps=4, batch_size=2, patch_px=16)
SMALL = NetworkSettings(depth=3, channels=2, inputs=2, max_dilation=2, head_units=8)


class Counting:
    """An array that can only be read part by part, and remembers the largest part."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.largest = self.reads = 0

    def __getitem__(self, index):
        part = self.values[index]
        self.largest, self.reads = max(self.largest, part.size), self.reads + 1
        return part

    def __array__(self, dtype=None, copy=None):
        pytest.fail("the whole image was read")


def quick(**settings):
    return Denoiser("quick", members=2, network=SMALL, train=QUICK, device="cpu", **settings)


@pytest.fixture(scope="module")
def volume():
    """A volume, and a denoiser trained on it."""
    pair = samples.xct(seed=0, size=(21, 31, 58))
    denoiser = quick(tiles=TileSettings(tile_px=20))
    return pair, denoiser.fit(
        pair.noisy, pair.clean, axes="ZYX", pixel_size=(4, 2, 2), unit="um", executor=Inline()
    )


def test_maps_on_disk_are_those_in_memory(volume, tmp_path):
    pytest.importorskip("zarr")
    pair, denoiser = volume
    memory = denoiser.predict(pair.noisy, "ZYX", executor=Inline())
    disk = denoiser.predict(pair.noisy, "ZYX", out=tmp_path / "p.ome.zarr", executor=Inline())
    for name in MAPS:
        value = getattr(disk, name)
        assert not isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value[...], getattr(memory, name))
    assert [p.name for p in tmp_path.iterdir()] == ["p.ome.zarr"]
    np.testing.assert_array_equal(disk.exceedance(0.5), memory.exceedance(0.5))
    assert evaluate(disk, pair.clean).coverage == pytest.approx(evaluate(memory, pair.clean).coverage)


def test_an_image_is_read_and_its_maps_are_written_by_the_tile(volume, tmp_path):
    pytest.importorskip("zarr")
    pair, denoiser = volume
    source = Counting(pair.noisy)
    seen = set()
    image, compute = image_for(denoiser.model, source, "ZYX"), Compute(denoiser.tiles, Inline())
    folder = Folder(tmp_path / "p.zarr")
    for _ in predict_steps(denoiser.model, image, compute, out=folder, quantiles=False):
        seen.add((tmp_path / "p.zarr").exists())
    assert source.reads > 10
    assert source.largest <= 20**3
    assert seen == {False}
    assert (tmp_path / "p.zarr").is_dir()
    assert not (tmp_path / "p.zarr" / "quantiles").exists()


def test_a_stopped_or_refused_prediction_leaves_nothing(volume, tmp_path):
    pytest.importorskip("zarr")
    pair, denoiser = volume
    image, compute = image_for(denoiser.model, pair.noisy, "ZYX"), Compute(denoiser.tiles, Inline())
    steps = predict_steps(denoiser.model, image, compute, out=Folder(tmp_path / "p.zarr"))
    for _ in range(4):
        next(steps)
    steps.close()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "p.zarr").mkdir()
    with pytest.raises(ValueError, match="exists"):
        denoiser.predict(pair.noisy, "ZYX", out=tmp_path / "p.zarr", executor=Inline())
    with pytest.raises(ValueError, match=r"end it in \.ome\.zarr"):
        denoiser.predict(pair.noisy, "ZYX", out=tmp_path / "p.tif", executor=Inline())


def test_lazy_inputs_give_the_same_maps(volume, tmp_path):
    zarr, dask = pytest.importorskip("zarr"), pytest.importorskip("dask.array")
    pair, denoiser = volume
    wanted = denoiser.predict(pair.noisy, "ZYX", executor=Inline()).median
    stored = zarr.create_array(tmp_path / "in.zarr", data=pair.noisy, chunks=(8, 8, 8))
    for lazy in (stored, dask.from_array(pair.noisy, chunks=9)):
        made = denoiser.predict(lazy, "ZYX", quantiles=False, executor=Inline())
        assert made.quantiles is None
        np.testing.assert_array_equal(made.median, wanted)
    turned = denoiser.predict(
        pair.noisy.T, "XYZ", out=tmp_path / "t.ome.zarr", quantiles=False, executor=Inline()
    )
    np.testing.assert_array_equal(np.asarray(turned.median), wanted.T)


def test_a_volume_in_tiles_is_the_whole_and_survives_a_bundle(volume, tmp_path):
    pair, denoiser = volume
    tiled = denoiser.predict(pair.noisy, "ZYX", executor=Inline())
    denoiser.save(tmp_path / "xct.btn")
    again = load(tmp_path / "xct.btn")
    assert (again.axes, again.pixel_size, again.unit) == ("ZYX", (4, 2, 2), "um")
    # planes lie two pixels apart
    blueprint = again.model.blueprint
    assert blueprint.plan.flat == (False, True, False)
    assert blueprint.reach == (2, 4, 4)
    settings = replace(again.model.settings, tiles=TileSettings(tile_px=200))
    again = Denoiser.of(replace(again.model, settings=settings))
    whole = again.predict(pair.noisy, executor=Inline())
    scale = float(np.ptp(whole.median))
    for name in MAPS:
        np.testing.assert_allclose(getattr(tiled, name), getattr(whole, name), atol=1e-5 * scale)
    assert (tiled.lower <= tiled.median).all()
    assert (tiled.median <= tiled.upper).all()


def test_a_volume_of_channels(tmp_path):
    pair = samples.xct(seed=0, size=(12, 20, 56))
    noisy, clean = (np.stack([a, 2 - a]) for a in (pair.noisy, pair.clean))
    denoiser = quick().fit(noisy, clean, axes="CZYX", channel_names=("a", "b"), executor=Inline())
    assert denoiser.report.coverage.shape == (2,)
    made = denoiser.predict(noisy, executor=Inline())
    assert made.axes == "CZYX"
    assert made.exceedance(0.5, "b").shape == pair.noisy.shape
    series = denoiser.predict(np.stack([noisy, noisy]), "SCZYX", executor=Inline())
    np.testing.assert_array_equal(series.median[1], made.median)
    other = samples.xct(seed=1, size=(12, 20, 56))
    noisy, clean = (np.stack([a, 2 - a]) for a in (other.noisy, other.clean))
    denoiser.calibrate(noisy, clean, axes="CZYX", alpha=0.2, executor=Inline())
    assert denoiser.alpha == 0.2
    flat = replace(samples.edx(seed=0, size=(32, 40)), name="")
    with pytest.raises(ValueError, match="Give a 3D image"):
        denoiser.predict(flat.noisy[:2], "CYX")


def test_what_more_members_bring_and_how_they_are_connected(volume):
    pair, denoiser = volume
    other = samples.xct(seed=1, size=(20, 32, 40))
    gain = denoiser.ensemble_gain(other.noisy, other.clean, executor=Inline())
    assert gain.sizes == (1, 2)
    assert np.isfinite(gain.width).all()
    with pytest.raises(ValueError, match="members were trained on these images"):
        denoiser.ensemble_gain(pair.noisy, pair.clean, executor=Inline())
    assert denoiser.graph(1).dilations == (1, 2, 1)
    assert denoiser.graph(1) != denoiser.graph(0)
    with pytest.raises(ValueError, match="0 to 1"):
        denoiser.graph(2)
