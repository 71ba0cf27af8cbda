"""Prediction: tiles, batches, pools and orders of axes give the same pixels, and large images stay where they are."""

from __future__ import annotations

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import dask.array as da
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_btn.core.calibration.conformal import Calibration
from napari_btn.core.calibration.distribution import mean as mean_of
from napari_btn.core.calibration.maps import write_maps_steps
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.compute import device as compute
from napari_btn.core.compute.device import devices
from napari_btn.core.compute.pool import Compute, Inline, process_pool
from napari_btn.core.data.image import Box, View
from napari_btn.core.inference import run as predict
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.networks.family import Networks, build
from napari_btn.core.networks.sms import bands
from napari_btn.core.settings import TileSettings


def image(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def calibration_of(blueprint, lower=0.25, upper=0.5):
    offset, last = np.ones(blueprint.n_out), len(blueprint.levels) - 1
    return Calibration(
        0.1, "pixel", "symmetric", blueprint.levels, 0, last, lower * offset, upper * offset, 1, 1
    )


@torch.inference_mode()
def whole(blueprint, members, x):
    """Quantiles of every member, (M, L, C, *space), of a whole image at once, without any tile."""
    made = []
    for m in members:
        module = build(blueprint, [(m.number, m.attempt)])
        module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in m.weights.items()})
        made.append(module(torch.from_numpy(x[None].copy()))[0, 0].transpose(0, 1).numpy())
    return np.stack(made)


def stitched(blueprint, members, source, *, regions=None, notes=None, **where):
    """(quantiles, spread) of scene 0 from tiles, NaN where none came."""
    networks, compute = Networks(blueprint, tuple(members)), Compute(**where)
    regions = regions or [Box(0, tuple(slice(0, n) for n in source.space))]
    quantiles = np.full((len(blueprint.levels), blueprint.n_out, *source.space), np.nan, np.float32)
    spread = np.full(quantiles.shape[1:], np.nan, np.float32)
    for _, tile in tile_quantiles(source, regions, networks, compute, notes=notes):
        if tile is not None:
            assert np.isnan(quantiles[(slice(None), slice(None), *tile.write)]).all()  # no pixel comes twice
            quantiles[(slice(None), slice(None), *tile.write)] = tile.quantiles
            spread[(slice(None), *tile.write)] = tile.spread
    return quantiles, spread


CASES = [
    ("CYX", (1, 41, 29), 13),
    ("CYX", (3, 53, 67), 31),
    ("CZYX", (2, 19, 23, 17), 15),
    ("YX", (7, 101), 24),
]


@pytest.mark.parametrize(("axes", "shape", "tile"), CASES)
@pytest.mark.parametrize("extra", [0, 3])
def test_tiles_give_the_whole_image(random_members, axes, shape, tile, extra):
    channels = shape[0] if "C" in axes else 1
    blueprint, members = random_members(
        2, channels=channels, ndim=len(shape) - ("C" in axes), dilations=(1, 2, 1, 1)
    )
    source = View(image(0, *shape), axes)
    options = TileSettings(tile_px=tile, halo_px=blueprint.receptive_field + extra)
    made, _ = stitched(blueprint, members, source, tiles=options)
    expected = whole(blueprint, members, source.read(0)).mean(0)
    np.testing.assert_allclose(made, expected, atol=1e-5 * np.ptp(expected))


@settings(max_examples=10)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(8, 40))
def test_tiles_give_the_whole_image_for_any_shape(random_members, height, width, tile):
    blueprint, members = random_members(1, channels=2, depth=3, dilations=(1, 2, 1))
    source = View(image(1, 2, height, width), "CYX")
    made, _ = stitched(blueprint, members, source, tiles=TileSettings(tile_px=tile))
    expected = whole(blueprint, members, source.read(0)).mean(0)
    np.testing.assert_allclose(made, expected, atol=1e-5 * max(np.ptp(expected), 1))


def test_too_small_a_halo_shows_that_the_test_can_fail(random_members):
    blueprint, members = random_members(1, dilations=(1, 2, 1, 1))
    source = View(image(0, 41, 29), "YX")
    made, _ = stitched(blueprint, members, source, tiles=TileSettings(tile_px=13, halo_px=0))
    expected = whole(blueprint, members, source.read(0)).mean(0)
    assert np.abs(made - expected).max() > 1e-3 * np.ptp(expected)


def test_small_tiles_grow_to_a_sensible_size(random_members):
    blueprint, members = random_members(1, dilations=(8, 8, 8, 8))
    source = View(image(0, 200, 200), "YX")
    region = [Box(0, (slice(0, 200), slice(0, 200)))]
    compute = Compute(TileSettings(tile_px=8))
    parts = [t for _, t in tile_quantiles(source, region, Networks(blueprint, members), compute) if t]
    assert len(parts) <= 49  # a tile keeps at least a third of its side


def test_a_region_reads_its_halo_from_the_image(random_members):
    blueprint, members = random_members(2, channels=2, dilations=(1, 2, 1, 1))
    source = View(image(0, 2, 60, 50), "CYX")
    region = [Box(0, (slice(13, 40), slice(20, 33)))]
    made, _ = stitched(blueprint, members, source, regions=region, tiles=TileSettings(tile_px=17))
    expected = whole(blueprint, members, source.read(0)).mean(0)
    inside = (slice(None), slice(None), slice(13, 40), slice(20, 33))
    np.testing.assert_allclose(made[inside], expected[inside], atol=1e-5 * np.ptp(expected))
    made[inside] = np.nan
    assert np.isnan(made).all()


def test_the_mean_and_the_spread_are_those_of_the_members(random_members):
    blueprint, members = random_members(5, channels=2)
    source = View(image(0, 2, 30, 21), "CYX")
    made, spread = stitched(blueprint, members, source)
    each = whole(blueprint, members, source.read(0)).astype(np.float64)
    np.testing.assert_allclose(made, each.mean(0), atol=1e-5 * np.ptp(each))
    np.testing.assert_allclose(spread, each[:, 1].std(0, ddof=1), atol=1e-4 * np.ptp(each))
    assert (stitched(blueprint, members[:1], source)[1] == 0).all()


def test_pools_change_no_bit(random_members):
    blueprint, members = random_members(3, channels=2)
    source = View(image(0, 2, 61, 47), "CYX")
    options = {"tiles": TileSettings(tile_px=32)}
    reference = stitched(blueprint, members, source, executor=Inline(), **options)
    with ThreadPoolExecutor(3) as threads:
        for pool in (threads, process_pool()):
            for a, b in zip(
                reference, stitched(blueprint, members, source, executor=pool, **options), strict=True
            ):
                np.testing.assert_array_equal(a, b)


def test_large_work_goes_to_processes_of_itself(random_members, monkeypatch):
    asked = []
    monkeypatch.setattr(predict, "process_pool", lambda: asked.append(1) or Inline())
    blueprint, members = random_members(2)
    source = View(image(0, 30, 30), "YX")
    stitched(blueprint, members, source)
    assert not asked
    monkeypatch.setitem(predict.INLINE_WORK, 2, 1000)
    stitched(blueprint, members, source)
    assert asked


class Counted:
    """An array that remembers the largest piece it was asked for, and can't be read whole."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, index):
        piece = self.array[index]
        self.largest = max(self.largest, int(np.prod(piece.shape)))
        return piece

    def __array__(self, *_args, **_kwargs):
        raise AssertionError("the whole array was read")


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr"])
def test_images_on_disk_are_read_and_written_tile_by_tile(random_members, kind):
    blueprint, members = random_members(2, channels=2, dilations=(1, 2, 1, 1))
    values = image(0, 2, 90, 70)
    array = {"numpy": values, "dask": da.from_array(values, chunks=(1, 32, 32))}.get(kind)
    if array is None:
        array = zarr.create_array(store={}, shape=values.shape, chunks=(1, 32, 32), dtype="f4")
        array[:] = values
    source = Counted(array)
    out = zarr.create_array(store={}, shape=values.shape, chunks=(2, 32, 32), dtype="f4")
    maps = {"median": out, "upper": np.empty(values.shape, np.float32)}
    networks, compute = Networks(blueprint, members), Compute(TileSettings(tile_px=40))
    for _ in write_maps_steps(View(source, "CYX"), networks, calibration_of(blueprint), maps, compute):
        pass
    assert source.largest <= 2 * 40 * 40
    expected = whole(blueprint, members, values).mean(0)
    np.testing.assert_allclose(out[:], expected[1], atol=1e-5 * np.ptp(expected))
    np.testing.assert_allclose(maps["upper"], expected[-1] + 0.5, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("axes", ["SCYX", "xysc", "YXTCS", "CYX", "YCX", "tyxc"])
def test_maps_have_the_axes_of_the_image(random_members, axes):
    blueprint, members = random_members(2, channels=2)
    size = {"S": 2, "T": 3, "C": 2, "Y": 19, "X": 14}
    values = image(0, *(size[a] for a in axes.upper()))
    view = View(values, axes)
    names = ("lower", "median", "upper", "width", "spread", "mean")
    maps = {k: np.full(values.shape, np.nan, np.float32) for k in names}
    maps["quantiles"] = np.full((3, *values.shape), np.nan, np.float32)
    networks = Networks(blueprint, members)
    for _ in write_maps_steps(view, networks, calibration_of(blueprint), maps, Compute()):
        pass
    for name in names:
        made = View(maps[name], axes)
        for scene in range(view.n_scenes):
            expected = whole(blueprint, members, view.read(scene))
            mean = expected.mean(0)
            wanted = {
                "lower": mean[0] - 0.25,
                "median": mean[1],
                "upper": mean[2] + 0.5,
                "width": mean[2] - mean[0] + 0.75,
                "spread": expected[:, 1].std(0, ddof=1),
                "mean": mean_of(mean, blueprint.levels),
            }[name]
            np.testing.assert_allclose(made.read(scene), wanted, atol=2e-5 * np.ptp(expected))
    assert np.isfinite(maps["quantiles"]).all()
    assert (np.diff(maps["quantiles"], axis=0) >= 0).all()
    np.testing.assert_array_equal(maps["quantiles"][1], maps["median"])
    assert (maps["lower"] <= maps["median"]).all()
    assert (maps["median"] <= maps["upper"]).all()


def test_values_that_are_not_finite_are_read_as_zero(random_members):
    blueprint, members = random_members(1)
    values = image(0, 25, 25)
    values[3, 4], values[10, 11] = 0, 0
    filled, _ = stitched(blueprint, members, View(values.copy(), "YX"))
    values[3, 4], values[10, 11] = np.nan, np.inf
    made, _ = stitched(blueprint, members, View(values, "YX"))
    np.testing.assert_array_equal(made, filled)


def test_progress_counts_members_and_tiles(random_members):
    blueprint, members = random_members(3)
    source = View(image(0, 60, 60), "YX")
    region = [Box(0, (slice(0, 60), slice(0, 60)))]
    compute = Compute(TileSettings(tile_px=36))
    seen = [p for p, _ in tile_quantiles(source, region, Networks(blueprint, members), compute)]
    done = [p.done for p in seen]
    assert done == sorted(done)
    assert seen[-1].done == seen[-1].total
    assert seen[-1].total % 3 == 0
    assert len(seen) >= seen[-1].total
    count = seen[-1].total // 3
    assert seen[-1].note == f"Predicting tile {count} of {count}"


def test_a_stop_waits_for_one_member_at_most(random_members):
    blueprint, members = random_members(50)
    calls = []

    class Slow(Inline):
        def submit(self, fn, /, *args, **kwargs):
            calls.append(1)
            return super().submit(fn, *args, **kwargs)

    source = View(image(0, 30, 30), "YX")
    region, compute = [Box(0, (slice(0, 30), slice(0, 30)))], Compute(executor=Slow())
    steps = tile_quantiles(source, region, Networks(blueprint, members), compute)
    next(steps)
    steps.close()
    assert len(calls) <= 1


def test_a_stop_cancels_what_waits_in_a_pool(random_members, monkeypatch):
    ran, go = [], threading.Event()
    monkeypatch.setattr(predict, "_member_quantiles", lambda *_: ran.append(1))
    blueprint, members = random_members(30)
    source = View(image(0, 30, 30), "YX")
    with ThreadPoolExecutor(1) as pool:
        block = pool.submit(go.wait, 60)
        region, compute = [Box(0, (slice(0, 30), slice(0, 30)))], Compute(executor=pool)
        steps = tile_quantiles(source, region, Networks(blueprint, members), compute)
        next(steps)
        steps.close()
        assert not block.done()  # neither the stop nor what follows it waits for what runs in the pool
        go.set()
    assert len(ran) <= 1  # the one that was waited for


def test_a_stop_ends_a_tile_between_two_layers(random_members, monkeypatch):
    """What a worker has begun ends there, so that the pool is free for what comes next."""
    blueprint, members = random_members(1, ndim=3, depth=6)
    begun, go, layers = threading.Event(), threading.Event(), []
    real = bands.convolve

    def convolve_slowly(*given, **options):
        layers.append(1)
        begun.set()
        go.wait(10)
        return real(*given, **options)

    monkeypatch.setattr(bands, "convolve", convolve_slowly)
    source = View(image(0, 12, 13, 14), "ZYX")
    with ThreadPoolExecutor(1) as pool:
        region, compute = [Box(0, tuple(slice(0, n) for n in source.space))], Compute(executor=pool)
        steps = tile_quantiles(source, region, Networks(blueprint, members), compute)
        next(steps)
        assert begun.wait(10)
        steps.close()
        go.set()
    assert len(layers) == 1


def test_an_error_in_a_task_arrives(random_members):
    blueprint, members = random_members(1)
    broken = predict.Member(0, 0, {k: v for k, v in members[0].weights.items() if k != "out_bias"})
    with pytest.raises(ValueError, match="out_bias"):
        stitched(blueprint, [broken], View(image(0, 20, 20), "YX"))


class Deadly(Executor):
    """A pool whose worker dies at the given submission; then it is broken, as a real one."""

    def __init__(self, death):
        self.death, self.count = death, 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        if self.count > self.death:
            raise BrokenProcessPool("it is broken")
        if self.count < self.death:
            return Inline().submit(fn, *args, **kwargs)
        future = Future()
        future.set_exception(BrokenProcessPool("a process died"))
        return future


@pytest.mark.parametrize("death", [1, 2, 3, 5, 6, 11])
def test_a_dead_worker_changes_no_bit(random_members, monkeypatch, death):
    blueprint, members = random_members(3)
    source = View(image(0, 61, 47), "YX")
    options = {"tiles": TileSettings(tile_px=36)}
    reference = stitched(blueprint, members, source, executor=Inline(), **options)
    monkeypatch.setitem(predict.INLINE_WORK, 2, 0)
    pool = Deadly(death)
    monkeypatch.setattr(predict, "process_pool", lambda: pool)
    for a, b in zip(reference, stitched(blueprint, members, source, **options), strict=True):
        np.testing.assert_array_equal(a, b)
    assert pool.count >= death
    with pytest.raises(RuntimeError, match="died while predicting, most likely for lack of memory"):
        stitched(blueprint, members, source, executor=Deadly(death), **options)


def test_a_prediction_knows_its_width_and_channels():
    maps = [np.full((2, 4, 5), v, np.float32) for v in (1, 2, 4)]
    made = Prediction(*maps, None, None, (0.5,), "CYX", ("Si", "Fe"), None, "px", 0.1, "clean")
    assert (made.width == 3).all()
    assert made.channel_number("Fe") == made.channel_number(1) == 1
    for wrong in ("Al", 2, -1):
        with pytest.raises(ValueError, match="Si, Fe"):
            made.channel_number(wrong)


# ---------------------------------------------------------------- on a graphics card


def on_a_card(monkeypatch, room=2**62):
    """Let the name of a card stand for the CPU, with so many pixels of memory."""
    real = predict._quantiles_of
    asked = []

    def quantiles_of(module, x, keep, device):
        asked.append((device, x[0].size))
        if device != "cpu" and x[0].size > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(module, x, keep, "cpu")

    monkeypatch.setattr(predict, "_quantiles_of", quantiles_of)
    for module in (predict, compute):
        monkeypatch.setattr(module, "release", lambda device: asked.append(("released", device)))
    monkeypatch.setattr(predict, "loaded", lambda b, m, device="cpu", real=predict.loaded: real(b, m))
    return asked


@pytest.mark.parametrize("room", [2**62, 400, 1])
def test_a_card_gives_what_the_cpu_gives_with_any_memory(random_members, monkeypatch, room):
    blueprint, members = random_members(2, channels=2, dilations=(1, 2, 1, 1))
    source = View(image(0, 2, 41, 29), "CYX")
    expected, spread = stitched(blueprint, members, source)
    asked, notes = on_a_card(monkeypatch, room), []
    made, other = stitched(blueprint, members, source, device="cuda", notes=notes)
    np.testing.assert_allclose(made, expected, atol=1e-5 * np.ptp(expected))
    np.testing.assert_allclose(other, spread, atol=1e-4 * np.ptp(expected))
    assert len(notes) == (room < 2**62)
    assert ("cpu" in [a for a, _ in asked]) == (room == 1)
    assert asked[-1] == ("released", "cuda")


def test_a_real_card_gives_what_the_cpu_gives(random_members):
    if "cuda" not in devices().names:
        pytest.skip(f"there is no CUDA card here: {devices().reason}")
    blueprint, members = random_members(2, channels=3, depth=6)
    source = View(image(0, 3, 90, 70), "CYX")
    expected, _ = stitched(blueprint, members, source)
    made, _ = stitched(blueprint, members, source, device="cuda")
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.ptp(expected))


def test_a_closed_step_frees_the_card(random_members, monkeypatch):
    asked = on_a_card(monkeypatch)
    blueprint, members = random_members(3)
    region, compute = [Box(0, (slice(0, 30),) * 2)], Compute(device="cuda")
    steps = tile_quantiles(View(image(0, 30, 30), "YX"), region, Networks(blueprint, members), compute)
    next(steps)
    next(steps)
    steps.close()
    assert asked[-1] == ("released", "cuda")
