"""`Denoiser`, the user's object: trains on any axes, gives the same bits again, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import zarr

import napari_btn as btn
from napari_btn import samples
from napari_btn.core.calibration.exceedance import lock_threshold
from napari_btn.core.compute.pool import Inline
from napari_btn.core.training import processes as training
from napari_btn.denoiser import load_partial

NETWORK = btn.NetworkSettings(depth=3, channels=2, inputs=2, head_units=8)
TRAIN = btn.TrainSettings(steps=6, batch_size=2, patch_px=16)
BLOCKS = btn.CalibrationSettings(block_px=12)
MAPS = ("lower", "median", "upper", "spread", "mean", "quantiles")
PAIR = samples.edx(seed=0, size=(48, 120))
NAMES = ("Si", "Al", "Fe")


def tiny(members=2, **options):
    return btn.Denoiser(
        members=members, **{"seed": 1, "network": NETWORK, "train": TRAIN, "calibration": BLOCKS} | options
    )


def fitted(denoiser=None, noisy=PAIR.noisy, clean=PAIR.clean, axes="CYX", executor=None, **options):
    return (denoiser or tiny()).fit(noisy, clean, axes=axes, executor=executor or Inline(), **options)


def drain(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def assert_same_maps(a, b):
    for name in MAPS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def saved(denoiser, folder, name="a.btn"):
    denoiser.save(folder / name)
    return (folder / name).read_bytes()


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


@pytest.fixture(scope="module")
def denoiser():
    """One trained with names and sizes; tests change copies of it alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))
        return fitted(channel_names=NAMES, pixel_size=(0.5, 0.25), unit="um")


@pytest.fixture
def copy(denoiser, tmp_path):
    """A loaded copy that a test may change."""
    denoiser.save(tmp_path / "copy.btn")
    return btn.load(tmp_path / "copy.btn")


# ---------------------------------------------------------------- what it knows


def test_it_knows_what_it_was_trained_on(denoiser):
    assert denoiser.trained
    assert denoiser.channel_names == NAMES
    assert denoiser.pixel_size == (0.5, 0.25)
    assert denoiser.unit == "um"
    assert denoiser.axes == "CYX"
    assert denoiser.receptive_field == 6
    assert sorted(denoiser.losses) == [0, 1]
    assert all(len(v) == 6 for v in denoiser.losses.values())
    report = denoiser.report
    assert report.channel_names == NAMES
    for name in ("coverage", "width", "n_blocks"):
        assert getattr(report, name).shape == (3,)
    assert report.to_dict()["coverage"]
    assert denoiser.notes == report.warnings


def test_it_predicts_maps_of_the_image(denoiser):
    made = denoiser.predict(PAIR.noisy, axes="CYX")
    for name in ("lower", "median", "upper", "width", "spread"):
        assert getattr(made, name).shape == PAIR.noisy.shape
        assert getattr(made, name).dtype == np.float32
    assert made.quantiles.shape == (7, *PAIR.noisy.shape)
    assert (made.lower <= made.median).all()
    assert (made.median <= made.upper).all()
    assert (np.diff(made.quantiles, axis=0) >= 0).all()
    assert (made.axes, made.unit, made.pixel_size, made.alpha) == ("CYX", "um", (0.5, 0.25), 0.1)
    assert made.levels == denoiser.levels
    assert made.covers in ("clean", "long exposure")
    assert made.provenance["settings"]["seed"] == 1
    assert made.provenance["images"]


def test_an_untrained_one_says_so(tmp_path):
    fresh = tiny()
    assert not fresh.trained
    assert fresh.report is None
    assert fresh.notes == ()
    assert fresh.channel_names == ()
    for call in (
        lambda: fresh.predict(PAIR.noisy),
        lambda: fresh.calibrate(alpha=0.2),
        lambda: fresh.save(tmp_path / "a.btn"),
    ):
        with pytest.raises(ValueError, match=r"not trained yet; call fit"):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "best"}, "preset is 'best'"),
        ({"members": 0}, "members is 0"),
        ({"members": 2.5}, "members is 2.5"),
        ({"alpha": 0}, "alpha is 0"),
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"levels": (0.1, 0.9)}, "0.5 among them"),
        ({"levels": (0.9, 0.5, 0.1)}, "rising"),
        ({"levels": (0.0, 0.5)}, "between 0 and 1"),
        ({"levels": ()}, "levels is"),
        ({"supervision": "magic"}, "supervision is 'magic'"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "tpu"}, "device is .tpu.; it must be"),
    ],
)
def test_settings_that_make_no_sense(options, words):
    with pytest.raises(ValueError, match=words):
        btn.Denoiser(**options)


def test_settings_survive_json():
    import json

    one = tiny(alpha=0.2, calibration=btn.CalibrationSettings(unit="pixel", minimum=0.0))
    again = btn.Denoiser.from_settings(json.loads(json.dumps(one.settings())))
    assert again.settings() == one.settings()
    assert again.network == one.network


# ---------------------------------------------------------------- the same bits


def test_the_same_seed_gives_the_same_file_and_pixels_in_any_pool(denoiser, tmp_path):
    reference, expected = saved(denoiser, tmp_path), denoiser.predict(PAIR.noisy, executor=Inline())
    options = {"channel_names": NAMES, "pixel_size": (0.5, 0.25), "unit": "um"}
    with ThreadPoolExecutor(3) as threads:
        again = fitted(executor=threads, **options)
        assert saved(again, tmp_path, "threads.btn") == reference
        assert_same_maps(again.predict(PAIR.noisy, executor=threads), expected)
    local = tiny().fit(PAIR.noisy, PAIR.clean, axes="CYX", **options)
    assert saved(local, tmp_path, "processes.btn") == reference
    assert_same_maps(local.predict(PAIR.noisy), expected)
    other = fitted(tiny(seed=2), **options)
    assert np.abs(other.predict(PAIR.noisy).median - expected.median).max() > 0


def test_more_members_contain_the_fewer(denoiser):
    more = fitted(tiny(4))
    for a, b in zip(denoiser.model.networks.members, more.model.networks.members, strict=False):
        assert a.number == b.number
        assert all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)
    assert len(more.model.networks.members) == 4


@pytest.mark.parametrize("channel", ["Al", 2])
def test_the_equivalent_filter_makes_the_median(denoiser, channel):
    image = PAIR.noisy[:, :30, :41]
    made = denoiser.equivalent_filter(image, at=(12, 20), channel=channel)
    weights = np.asarray(made)
    assert weights.shape == image.shape
    number = made.channel
    median = denoiser.predict(image, executor=Inline()).median[number, 12, 20]
    np.testing.assert_allclose((weights * image).sum() + made.net_bias, median, rtol=1e-4)
    with pytest.raises(ValueError, match="there are Si, Al, Fe"):
        denoiser.equivalent_filter(image, at=(12, 20), channel="Mg")


def test_another_repeat_of_the_field_that_trained_calibrates_nothing(denoiser):
    repeat = PAIR.noisy + np.float32(1)
    with pytest.raises(ValueError, match="members were trained on these images"):
        denoiser.calibrate(repeat, PAIR.clean, executor=Inline())


def test_save_and_load_predict_the_same(denoiser, tmp_path):
    before = saved(denoiser, tmp_path)
    again = btn.load(tmp_path / "a.btn")
    assert_same_maps(again.predict(PAIR.noisy), denoiser.predict(PAIR.noisy))
    for name in (
        "channel_names",
        "pixel_size",
        "unit",
        "axes",
        "members",
        "alpha",
        "levels",
        "seed",
        "notes",
    ):
        assert getattr(again, name) == getattr(denoiser, name)
    assert again.settings() == denoiser.settings()
    assert again.report.to_dict() == denoiser.report.to_dict()
    assert again.predict(PAIR.noisy).provenance == denoiser.predict(PAIR.noisy).provenance
    assert saved(again, tmp_path, "b.btn") == before
    again.calibrate(alpha=0.3)
    denoiser_low = again.predict(PAIR.noisy)
    assert denoiser_low.alpha == 0.3
    again.save(tmp_path / "c.btn")
    assert btn.load(tmp_path / "c.btn").alpha == 0.3


def test_a_stopped_run_goes_on_from_its_file_to_the_same_bits(denoiser, tmp_path):
    whole = fitted(tiny(3))
    one = tiny(3)
    steps = one.fit_steps(PAIR.noisy, PAIR.clean, axes="CYX", executor=Inline())
    checkpoint = next(p.checkpoint for p in steps if p.checkpoint)
    steps.close()
    assert not one.trained
    one.save_partial(tmp_path / "half.btn", checkpoint, {"noisy": ["a"]})
    again, members, data = load_partial(tmp_path / "half.btn")
    assert data == {"noisy": ["a"]}
    assert again.settings() == one.settings()
    drain(again.fit_steps(PAIR.noisy, PAIR.clean, axes="CYX", executor=Inline(), resume=members))
    assert_same_maps(again.predict(PAIR.noisy), whole.predict(PAIR.noisy))
    assert again.report.to_dict() == whole.report.to_dict()


def test_files_are_not_taken_for_each_other(copy, tmp_path):
    copy.save_partial(tmp_path / "half.btn", (), {})
    with pytest.raises(ValueError, match="interrupted training"):
        btn.load(tmp_path / "half.btn")
    with pytest.raises(ValueError, match="not an interrupted training"):
        load_partial(tmp_path / "copy.btn")


def test_a_bundle_that_lacks_a_part_is_damaged(copy, tmp_path):
    from napari_btn.io.bundle import Bundle, read_bundle, write_bundle

    whole = read_bundle(tmp_path / "copy.btn")
    for name in ("settings", "members", "calibration", "report", "axes"):
        write_bundle(
            Bundle({k: v for k, v in whole.values.items() if k != name}, whole.arrays), tmp_path / "b.btn"
        )
        with pytest.raises(ValueError, match="lacks a part of a bundle"):
            btn.load(tmp_path / "b.btn")
    for name in ("held_out.target", "member.0.out_bias"):
        write_bundle(
            Bundle(whole.values, {k: v for k, v in whole.arrays.items() if k != name}), tmp_path / "b.btn"
        )
        with pytest.raises(ValueError, match="lacks a part of a bundle"):
            btn.load(tmp_path / "b.btn")
    for changed in ({"dilations": [1]}, {"n_out": 5}, {"members": [[0, 0], [0, 0]]}, {"axes": "ZYX"}):
        write_bundle(Bundle({**whole.values, **changed}, whole.arrays), tmp_path / "b.btn")
        with pytest.raises(ValueError, match="lacks a part of a bundle, or has a wrong one"):
            btn.load(tmp_path / "b.btn")
    write_bundle(Bundle({"kind": "partial"}, {}), tmp_path / "b.btn")
    with pytest.raises(ValueError, match="lacks a part of a bundle"):
        load_partial(tmp_path / "b.btn")


def test_weights_of_another_network_are_refused(copy, tmp_path):
    from napari_btn.io.bundle import Bundle, read_bundle, write_bundle

    whole = read_bundle(tmp_path / "copy.btn")
    settings = whole.values["settings"]
    wider = {**settings, "network": {**settings["network"], "head_units": 5}}
    write_bundle(Bundle({**whole.values, "settings": wider}, whole.arrays), tmp_path / "b.btn")
    model = btn.load(tmp_path / "b.btn")
    channels = len(model.channel_names)
    with pytest.raises(ValueError, match="weights of member 1 don't fit its network"):
        model.predict(np.zeros((channels, 16, 16), np.float32), axes="CYX")


# ---------------------------------------------------------------- stopping


def test_a_stop_changes_nothing_wherever_it_comes(copy):
    before = copy.model
    steps = copy.fit_steps(PAIR.noisy[:2], PAIR.clean[:2], axes="CYX", executor=Inline())
    count = sum(1 for _ in steps)
    assert copy.model is not before
    copy = btn.Denoiser.of(before)
    for stop in (1, 2, count // 2, count - 2, count):
        steps = copy.fit_steps(PAIR.noisy[:2], PAIR.clean[:2], axes="CYX", executor=Inline())
        for _ in range(stop):
            next(steps)
        steps.close()
        assert copy.model is before
        assert copy.channel_names == NAMES


def test_a_stopped_calibration_changes_nothing(copy):
    other = samples.edx(seed=9, size=(48, 64))
    before = copy.model

    def stopped(steps):
        for _ in range(3):
            next(steps)
        steps.close()
        raise KeyboardInterrupt

    copy.run = stopped
    with pytest.raises(KeyboardInterrupt):
        copy.calibrate(other.noisy, other.clean, alpha=0.2, executor=Inline())
    assert copy.model is before
    assert copy.alpha == 0.1


def test_a_failure_changes_nothing(copy):
    before = copy.model
    with pytest.raises(ValueError, match="constant"):
        fitted(copy, clean=np.zeros_like(PAIR.clean))
    assert copy.model is before


def test_previews_have_the_axes_of_the_image_without_scenes():
    steps = tiny().fit_steps(PAIR.noisy, PAIR.clean, axes="CYX", executor=Inline(), preview_every=1e-9)
    shown = [p.preview for p in steps if p.preview is not None]
    assert shown
    assert {p.shape for p in shown} == {PAIR.noisy.shape}


# ---------------------------------------------------------------- calibration


def test_another_level_needs_no_training(copy, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it trained")

    monkeypatch.setattr(training, "train_steps", never)
    monkeypatch.setattr("napari_btn.core.inference.run.tile_quantiles", never)
    low = copy.calibrate(alpha=0.4).report
    weights = copy.model.networks.members
    high = copy.calibrate(alpha=0.05).report
    assert copy.alpha == 0.05
    assert copy.model.networks.members is weights
    assert (high.width > low.width).all()
    assert (high.coverage > low.coverage).all()
    assert (low.alpha, high.alpha) == (0.4, 0.05)
    for wrong in (0, 1, -0.1, 2):
        with pytest.raises(ValueError, match="alpha is"):
            copy.calibrate(alpha=wrong)
    assert copy.alpha == 0.05


def test_calibration_on_other_images(copy):
    other = samples.edx(seed=9, size=(48, 64))
    weights = copy.model.networks.members
    assert copy.calibrate(other.noisy, other.clean, axes="CYX", alpha=0.2, executor=Inline()) is copy
    assert copy.model.networks.members is weights
    assert copy.calibration.n_pixels == 48 * 64
    made = copy.predict(other.noisy)
    inside = (made.lower <= other.clean) & (other.clean <= made.upper)
    assert (inside.mean((1, 2)) >= 0.79).all()


def test_calibration_on_the_training_images_is_refused(copy):
    for noisy, clean, axes in (
        (PAIR.noisy, PAIR.clean, "CYX"),
        (PAIR.noisy.transpose(1, 2, 0).astype(np.float64), PAIR.clean.transpose(1, 2, 0), "YXC"),
        (da.from_array(PAIR.noisy), PAIR.clean, "CYX"),
    ):
        with pytest.raises(ValueError, match="members were trained on these images"):
            copy.calibrate(noisy, clean, axes=axes)
    with pytest.raises(ValueError, match="own target"):
        copy.calibrate(PAIR.noisy, PAIR.noisy.copy(), axes="CYX")


def test_the_interval_holds_what_it_was_calibrated_on():
    made = fitted(tiny(calibration=btn.CalibrationSettings(unit="pixel")))
    held = made.held_out
    lower, _, upper = made.calibration.interval(held.quantiles)
    inside = ((lower <= held.target) & (held.target <= upper)).mean(1)
    np.testing.assert_allclose(inside, 0.9, atol=0.01)


def test_held_out_pixels_never_trained(denoiser):
    # with rf 6 the gap is 12; 60 % of the rest trains
    position = denoiser.held_out.position
    assert position[:, 2].min() == int((120 - 12) * 0.6) + 12
    assert len(np.unique(position, axis=0)) == 48 * (120 - position[:, 2].min())
    held = denoiser.held_out
    np.testing.assert_array_equal(held.target, PAIR.clean[:, position[:, 1], position[:, 2]])
    np.testing.assert_array_equal(held.observed, PAIR.noisy[:, position[:, 1], position[:, 2]])
    clean = PAIR.clean.copy()
    noisy = PAIR.noisy.copy()
    noisy[:, :, 64 + 6 :] = noisy[:, :, :-71:-1][:, :, : 120 - 70]
    clean[:, :, 64:] = 0.123
    made = fitted(noisy=noisy, clean=clean)
    for a, b in zip(denoiser.model.networks.members, made.model.networks.members, strict=True):
        assert all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)


# ---------------------------------------------------------------- axes, scenes, repeats, volumes


@pytest.mark.parametrize("axes", ["YXC", "xcy", "YCX"])
def test_the_order_of_axes_changes_no_pixel(denoiser, axes):
    order = ["CYX".index(a) for a in axes.upper()]
    noisy, clean = PAIR.noisy.transpose(order), PAIR.clean.transpose(order)
    sizes = {"Y": 0.5, "X": 0.25}
    made = fitted(
        noisy=noisy, clean=clean, axes=axes, pixel_size=[sizes[a] for a in axes.upper() if a != "C"]
    )
    expected = denoiser.predict(PAIR.noisy)
    for name in ("lower", "median", "upper", "spread"):
        np.testing.assert_array_equal(
            getattr(made.predict(noisy), name), getattr(expected, name).transpose(order)
        )
    turned = denoiser.predict(noisy, axes=axes)
    np.testing.assert_array_equal(turned.upper, expected.upper.transpose(order))
    assert turned.axes == axes.upper()
    assert turned.pixel_size == tuple(sizes[a] for a in axes.upper() if a != "C")


def test_repeats_of_one_field():
    rng = np.random.default_rng(0)
    noisy = rng.poisson(3 * PAIR.clean[None], (3, *PAIR.clean.shape)).astype(np.uint16)
    made = fitted(noisy=noisy, clean=PAIR.clean, axes="SCYX")
    start = made.held_out.position[:, 2].min()
    # one scan, and all of them, may be given later; a block holds the same pixels of all repeats
    assert made.predict(noisy).median.shape == noisy.shape
    one = made.predict(noisy[1])
    assert one.axes == "CYX"
    np.testing.assert_array_equal(one.upper, made.predict(noisy).upper[1])
    held = made.held_out
    assert set(held.position[:, 0]) == {0, 1, 2}
    assert (
        (held.position[:, 3] >= int((120 - 12) * 0.6) + 12).all() if held.position.shape[1] > 3 else start > 0
    )
    first, second = (held.block[held.position[:, 0] == s] for s in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_scenes_with_their_own_targets_are_the_blocks():
    pair = samples.blobs(n=10, size=24)
    made = fitted(noisy=pair.noisy, clean=pair.clean, axes="SYX")
    held = made.held_out
    assert made.report.n_blocks.tolist() == [4]
    for scene in set(held.position[:, 0]):
        assert len(set(held.block[held.position[:, 0] == scene])) == 1
    assert made.predict(pair.noisy[0]).median.shape == (24, 24)
    assert made.predict(pair.noisy, axes="TYX").median.shape == pair.noisy.shape


@pytest.mark.parametrize("axes", ["ZYX", "CZYX"])
def test_volumes(axes):
    pair = samples.xct(seed=0, size=(16, 32, 40))
    noisy, clean = (np.stack([v, v[:, ::-1]]) if "C" in axes else v for v in (pair.noisy, pair.clean))
    train = btn.TrainSettings(steps=3, batch_size=1, patch_px=12)
    made = fitted(tiny(1, train=train), noisy=noisy, clean=clean, axes=axes)
    assert made.model.blueprint.ndim == 3
    maps = made.predict(noisy)
    assert maps.upper.shape == noisy.shape
    settings = replace(made.model.settings, tiles=btn.TileSettings(tile_px=17))
    small = btn.Denoiser.of(replace(made.model, settings=settings))
    tiled = small.predict(noisy)
    np.testing.assert_allclose(tiled.median, maps.median, atol=1e-5 * np.ptp(maps.median))
    with pytest.raises(ValueError, match="trained in 3D"):
        made.predict(noisy[..., 0], axes=axes.replace("X", "").replace("Z", "X"))


def test_the_default_network_trains_on_192_by_256():
    pair = samples.edx(seed=1, size=(192, 256))
    train = btn.TrainSettings(steps=2, batch_size=1)
    made = fitted(btn.Denoiser(members=1, train=train), noisy=pair.noisy, clean=pair.clean)
    assert made.receptive_field == 39
    assert made.provenance["gap_px"] == 78


def test_small_images_get_smaller_networks_and_a_note():
    pair = samples.edx(seed=1, size=(64, 96))
    train = btn.TrainSettings(steps=2, batch_size=1)
    made = fitted(btn.Denoiser(members=1, train=train), noisy=pair.noisy, clean=pair.clean)
    assert made.receptive_field <= 24
    assert any("The image is small (64 x 96 px)" in n.text for n in made.notes)


# ---------------------------------------------------------------- input as it comes


def test_masked_values_change_nothing():
    valid = np.ones((48, 120), bool)
    valid[10:20, 20:50] = valid[30:40, 90:110] = False
    made = []
    for noise, target in ((0.0, np.nan), (0.0, 1e9)):
        noisy = np.where(valid, PAIR.noisy, noise)
        clean = np.where(valid, PAIR.clean, target)
        made.append(fitted(noisy=noisy, clean=clean, valid=valid))
    held = made[0].held_out
    assert valid[held.position[:, 1], held.position[:, 2]].all()
    np.testing.assert_array_equal(made[0].calibration.offset_upper, made[1].calibration.offset_upper)
    assert_same_maps(*(m.predict(PAIR.noisy) for m in made))
    noisy = np.where(valid, PAIR.noisy, np.nan)
    holes = [
        m.predict(noisy, valid="finite")
        for m in (fitted(noisy=noisy, clean=PAIR.clean, valid=valid), made[0])
    ]
    assert_same_maps(*holes)


def test_a_mask_of_numpy_says_which_pixels_count(denoiser):
    mask = np.zeros((3, 48, 120), bool)
    mask[:, 10:20, 20:50] = mask[1, 30:40, 90:110] = True
    bright = np.where(mask, 1e6, PAIR.noisy)
    noisy = np.ma.masked_array(bright, mask)
    clean = np.ma.masked_array(PAIR.clean, mask)
    valid = ~mask.any(0)
    one = fitted(noisy=noisy, clean=clean)
    other = fitted(noisy=np.where(mask, np.nan, PAIR.noisy), clean=PAIR.clean, valid="finite")
    assert_same_maps(one.predict(PAIR.noisy), other.predict(PAIR.noisy))
    made = denoiser.predict(noisy)
    assert np.isnan(made.median[:, ~valid]).all()
    assert np.nanmax(made.median) < 10
    assert_same_maps(made, denoiser.predict(np.where(mask, np.nan, bright), valid="finite"))
    with pytest.raises(ValueError, match="masked array, and valid came too"):
        denoiser.predict(noisy, valid=valid)
    with pytest.raises(ValueError, match="Image is a masked array, whose mask would be lost"):
        denoiser.tokens(noisy)
    whole = np.ma.masked_array(PAIR.noisy, np.zeros_like(mask))
    assert_same_maps(denoiser.predict(whole), denoiser.predict(PAIR.noisy))


@pytest.mark.parametrize("size", [(0, 1), (np.nan, 1), (-1, 1), ("a", 1), (np.inf, 1)])
def test_a_pixel_size_is_above_zero(denoiser, size):
    with pytest.raises(ValueError, match=r"^pixel_size is .*; each value must be a finite number above 0"):
        tiny().check(PAIR.noisy, PAIR.clean, axes="CYX", pixel_size=size)
    with pytest.raises(ValueError, match=r"^pixel_size is .*; each value must be a finite number above 0"):
        denoiser.predict(PAIR.noisy, pixel_size=size)


def test_a_device_that_is_no_name_is_one_sentence():
    with pytest.raises(ValueError, match="device is None; it must be"):
        btn.Denoiser(device=None)


def test_pixels_that_are_nan_get_no_numbers(denoiser):
    image = PAIR.noisy[:, :30, :50].copy()
    image[1, 10:14, 20:25] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values, such as at YX \(10, 20\)"):
        denoiser.predict(image, executor=Inline())
    made = denoiser.predict(image, valid="finite", executor=Inline())
    hole = np.isnan(image).any(0)
    for name in (*MAPS, "width"):
        np.testing.assert_array_equal(
            np.isnan(getattr(made, name)), np.broadcast_to(hole, getattr(made, name).shape)
        )
    assert "20 pixels don't count" in made.notes[-1].text
    np.testing.assert_array_equal(np.isnan(made.exceedance(0.2, channel="Fe")), hole)
    filled = np.where(hole, 0, image)
    mask = denoiser.predict(filled, valid=~hole, executor=Inline())
    far = np.s_[:, 25:, 40:]
    np.testing.assert_array_equal(mask.median[far], made.median[far])
    assert np.isnan(mask.median[:, hole]).all()
    tokens = denoiser.tokens(image, n_tokens=3, valid="finite", executor=Inline())
    np.testing.assert_array_equal(tokens.labels == 0, hole)
    with pytest.raises(ValueError, match="threshold is nan"):
        made.exceedance(float("nan"), channel="Fe")


def test_a_threshold_belongs_to_one_channel(denoiser):
    made = denoiser.predict(PAIR.noisy, executor=Inline())
    for ask in (
        lambda: made.exceedance(0.2),
        lambda: made.lower_bound(0.75),
        lambda: made.select(0.2),
        lambda: denoiser.equivalent_filter(PAIR.noisy, at=(12, 20)),
    ):
        with pytest.raises(
            ValueError, match="3 channels and none is named; give channel=, one of Si, Al, Fe"
        ):
            ask()


def middle(denoiser, channel):
    """A threshold with held-out targets of many blocks on both sides."""
    target, block = denoiser.held_out.target[channel], denoiser.held_out.block
    return float(np.median([np.median(target[block == b]) for b in np.unique(block)]))


def test_a_locked_map_comes_from_the_held_out_scores(denoiser):
    made = denoiser.predict(PAIR.noisy, executor=Inline())
    t = middle(denoiser, 2)
    wanted = lock_threshold(made.distribution, denoiser.held_out, t, channel=2)
    locked = made.exceedance(t, "Fe", locked=True)
    np.testing.assert_array_equal(locked, wanted.probability(made.planes({"C": 2})))
    assert not np.array_equal(locked, made.exceedance(t, "Fe"))
    with pytest.raises(ValueError, match="without held-out scores; a locked threshold needs them"):
        replace(made, held_out=None).exceedance(t, "Fe", locked=True)
    with pytest.raises(ValueError, match="makes a map, not claims"):
        made.exceedance(t, "Fe", side="conservative", locked=True)
    with pytest.raises(ValueError, match="threshold is nan"):
        made.exceedance(float("nan"), "Fe", locked=True)


def test_locks_are_kept_by_bundle_calibration_and_prediction(copy, tmp_path):
    before = copy.model
    iron, aluminium = middle(copy, 2), middle(copy, 1)
    assert copy.lock(iron, "Fe").lock(aluminium, 1) is copy
    locks = {"Fe": iron, "Al": aluminium}
    assert before.calibrated.locks == {}
    assert copy.model.learned is before.learned
    assert copy.predict(PAIR.noisy, executor=Inline()).locks == locks
    copy.save(tmp_path / "locked.btn")
    again = btn.load(tmp_path / "locked.btn")
    assert again.calibrate(alpha=0.2).model.calibrated.locks == locks
    other = samples.edx(seed=9, size=(48, 64))
    again.calibrate(other.noisy, other.clean, axes="CYX", executor=Inline())
    assert again.model.calibrated.locks == locks
    assert again.unlock("Fe").model.calibrated.locks == {"Al": aluminium}
    assert again.unlock().model.calibrated.locks == {}
    for wrong, words in (
        (lambda: copy.lock(0.2), "3 channels and none is named"),
        (lambda: copy.lock(float("inf"), "Fe"), "give a finite number"),
        (lambda: copy.lock(1e6, "Fe"), "Only 0 held-out blocks have targets above 1e"),
        (lambda: copy.unlock("Mg"), "there are Si, Al, Fe"),
        (lambda: copy.model.with_locks({"Mg": 0.1}), "no channel Mg to lock"),
        (lambda: tiny().lock(0.2), "not trained yet"),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    assert copy.model.calibrated.locks == locks


def test_a_lock_of_an_older_bundle_that_cannot_be_used_is_noted(copy, tmp_path):
    from napari_btn.io.bundle import Bundle, read_bundle, write_bundle

    whole, locks = read_bundle(tmp_path / "copy.btn"), {"Fe": 1e6, "Al": middle(copy, 1)}
    write_bundle(Bundle({**whole.values, "locks": locks}, whole.arrays), tmp_path / "old.btn")
    made = btn.load(tmp_path / "old.btn").predict(PAIR.noisy, executor=Inline())
    (note,) = [n for n in made.notes if "locked threshold" in n.text]
    assert note.text.startswith(
        "The locked threshold Fe > 1e+06 is not used: only 0 held-out blocks have targets above"
    )
    assert made.locks == locks
    assert note.text in [w["text"] for w in made.provenance["warnings"]]


def test_an_older_bundle_has_no_locks(copy, tmp_path):
    from napari_btn.io.bundle import Bundle, read_bundle, write_bundle

    whole = read_bundle(tmp_path / "copy.btn")
    values = {k: v for k, v in whole.values.items() if k != "locks"}
    write_bundle(Bundle(values, whole.arrays), tmp_path / "old.btn")
    assert btn.load(tmp_path / "old.btn").model.calibrated.locks == {}


def test_a_prediction_has_the_pixels_of_its_image(denoiser, tmp_path):
    image = PAIR.noisy[:, :30, :50]
    made = denoiser.predict(image, pixel_size=(2.0, 3.0), unit="nm", executor=Inline())
    assert (made.pixel_size, made.unit) == ((2.0, 3.0), "nm")
    assert denoiser.predict(image, executor=Inline()).pixel_size == denoiser.pixel_size


def test_names_that_come_twice_are_refused():
    with pytest.raises(ValueError, match="each may come once"):
        fitted(channel_names=("a", "a", "b"))


class Lazy:
    """An array on disk: it may be sliced, never read whole."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, index):
        piece = self.array[index]
        self.largest = max(self.largest, int(np.prod(piece.shape)))
        return piece

    def __array__(self, *_args, **_kwargs):
        raise AssertionError("the whole array was read")


@pytest.mark.parametrize("kind", ["dask", "zarr"])
def test_arrays_on_disk_give_the_same_and_are_never_read_whole(kind):
    rng = np.random.default_rng(0)
    noisy = rng.poisson(3 * PAIR.clean[None], (4, *PAIR.clean.shape)).astype(np.float32)
    expected = fitted(noisy=noisy, clean=PAIR.clean, axes="SCYX")
    if kind == "dask":
        array = da.from_array(noisy, chunks=(1, 1, 32, 32))
    else:
        array = zarr.create_array(store={}, shape=noisy.shape, chunks=(1, 1, 32, 32), dtype="f4")
        array[:] = noisy
    lazy = Lazy(array)
    made = fitted(noisy=lazy, clean=PAIR.clean, axes="SCYX")
    assert lazy.largest <= PAIR.clean.size
    assert_same_maps(made.predict(lazy), expected.predict(noisy))
    assert lazy.largest <= PAIR.clean.size


def test_integers_and_lists_are_images(denoiser):
    counts = PAIR.noisy.astype(np.uint8)
    assert_same_maps(denoiser.predict(counts), denoiser.predict(PAIR.noisy))
    assert_same_maps(denoiser.predict(counts.tolist()), denoiser.predict(PAIR.noisy))
    made = fitted(noisy=counts.tolist(), clean=PAIR.clean.tolist())
    np.testing.assert_array_equal(made.predict(counts).median, denoiser.predict(counts).median)


def test_results_are_in_the_units_of_clean(denoiser):
    """Scaling inside is nobody's business: other units, the same image."""
    made = fitted(noisy=PAIR.noisy * 1000 + 50, clean=PAIR.clean * 1e-3)
    a, b = made.predict(PAIR.noisy * 1000 + 50), denoiser.predict(PAIR.noisy)
    for name in ("lower", "median", "upper"):
        np.testing.assert_allclose(getattr(a, name) * 1e3, getattr(b, name), atol=2e-3 * np.ptp(b.upper))


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_values_of_a_million_millionth_or_a_million_million_make_the_same_maps(denoiser, factor):
    made = fitted(noisy=PAIR.noisy * factor, clean=PAIR.clean * factor)
    a, b = made.predict(PAIR.noisy * factor), denoiser.predict(PAIR.noisy)
    for name in ("lower", "median", "upper"):
        np.testing.assert_allclose(getattr(a, name) / factor, getattr(b, name), atol=2e-3 * np.ptp(b.upper))


@pytest.mark.parametrize(
    "stored",
    [
        lambda a: a.astype(">f4"),
        lambda a: a.astype("<f8"),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
        lambda a: a[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
        lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    ],
    ids=["big-endian", "double", "columns first", "strides", "reversed", "read-only"],
)
def test_how_an_array_is_stored_changes_no_bit(denoiser, stored):
    noisy, clean = stored(PAIR.noisy), stored(PAIR.clean)
    assert_same_maps(denoiser.predict(noisy), denoiser.predict(PAIR.noisy))
    assert_same_maps(fitted(noisy=noisy, clean=clean).predict(noisy), denoiser.predict(PAIR.noisy))
    np.testing.assert_array_equal(noisy, PAIR.noisy)


def test_one_constant_channel_trains():
    noisy, clean = PAIR.noisy.copy(), PAIR.clean.copy()
    noisy[2], clean[2] = 0, 0
    made = fitted(noisy=noisy, clean=clean)
    assert np.isfinite(made.predict(noisy).median).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clean": PAIR.clean[:, :-2]}, r"Noisy has axes CYX \(3, 48, 120\), clean has CYX \(3, 46, 120\)"),
        ({"clean": PAIR.noisy}, "same image"),
        ({"clean": PAIR.noisy.copy()}, "own target"),
        ({"clean": None}, "Clean is missing"),
        ({"clean": np.ones_like(PAIR.clean)}, "Clean is constant"),
        ({"noisy": np.full_like(PAIR.noisy, np.nan)}, "NaN or infinite"),
        ({"axes": "YX"}, "name 2 dimensions, noisy has 3"),
        ({"axes": "CQX"}, "unknown letter Q"),
        ({"channel_names": ("a",)}, "1 channel name came"),
        ({"pixel_size": (1.0,)}, "Pixel size has 1 values"),
        ({"valid": np.zeros((48, 120), bool)}, "no valid pixel"),
        ({"noisy": PAIR.noisy[:, :10, :20], "clean": PAIR.clean[:, :10, :20]}, "Use a larger image"),
    ],
)
def test_bad_input_is_one_sentence_before_any_training(change, words, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it trained")

    monkeypatch.setattr(training, "train_steps", never)
    arguments = {"noisy": PAIR.noisy, "clean": PAIR.clean, "axes": "CYX"} | change
    noisy, clean = arguments.pop("noisy"), arguments.pop("clean")
    for call in (tiny().fit, tiny().check):
        with pytest.raises(ValueError, match=words):
            call(noisy, clean, **arguments)


def test_images_that_do_not_fit_the_networks(denoiser):
    with pytest.raises(ValueError, match=r"2 channels .* trained on 3: Si, Al, Fe"):
        denoiser.predict(PAIR.noisy[:2])
    with pytest.raises(ValueError, match=r"has 1 channel \("):
        denoiser.predict(PAIR.noisy[0], axes="YX")
    with pytest.raises(ValueError, match="name 3 dimensions, image has 4"):
        denoiser.predict(PAIR.noisy[None])
    with pytest.raises(ValueError, match="trained in 2D"):
        denoiser.predict(PAIR.noisy[:, None], axes="CZYX")


# ---------------------------------------------------------------- checks and estimates


def test_a_check_says_what_a_fit_would():
    found = tiny().check(PAIR.noisy, PAIR.clean, axes="CYX")
    assert found.receptive_field == 6
    assert found.shift in (None, (0.0, 0.0))
    pair = samples.edx(seed=5, size=(96, 256))
    found = tiny().check(np.roll(pair.noisy, 4, 2), pair.clean, axes="CYX")
    assert found.shift == pytest.approx((0, 4), abs=0.5)
    assert any("Clean must be moved by Y" in n.text and "Align" in n.text for n in found.notes)


def test_checking_and_estimating_load_no_torch():
    code = """
import sys
import numpy as np
import napari_btn as btn
assert not {"torch", "napari", "qtpy"} & set(sys.modules)
rng = np.random.default_rng(0)
btn.Denoiser().check(rng.normal(size=(192, 256)), rng.normal(size=(192, 256)))
btn.Denoiser().estimate((192, 256), "YX")
assert not {"torch", "napari", "qtpy"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_estimate_grows_with_the_work():
    def seconds(members, preset, shape=(4096, 4096)):
        return btn.Denoiser(preset, members=members).estimate(shape).seconds

    assert seconds(1, "quick") < seconds(1, "standard") < seconds(20, "standard") < seconds(20, "thorough")
    made = btn.Denoiser().estimate((3, 512, 512), "CYX")
    assert made.bytes > 1e8
    assert "CPU core" in made.note
    with pytest.raises(ValueError, match="dimensions"):
        btn.Denoiser().estimate((3, 4), "CYX")


def test_ten_lines_without_a_main_guard_train(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import napari_btn as btn\n"
        "pair = btn.samples.edx(seed=0, size=(48, 120))\n"
        "denoiser = btn.Denoiser(members=2, network=btn.NetworkSettings(depth=3),\n"
        "    train=btn.TrainSettings(steps=4, batch_size=2, patch_px=16))\n"
        "denoiser.fit(pair.noisy, pair.clean, axes='CYX')\n"
        "prediction = denoiser.predict(pair.noisy, axes='CYX')\n"
        "denoiser.save('soil.btn')\n"
        "again = btn.load('soil.btn')\n"
        "assert (again.predict(pair.noisy).upper == prediction.upper).all()\n"
        "print('ran', denoiser.report.coverage.shape)\n"
    )
    run = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert run.stdout.splitlines() == ["ran (3,)"], run.stderr


# ---------------------------------------------------------------- evaluation


def test_evaluation_agrees_with_direct_computation(denoiser):
    other = samples.edx(seed=4, size=(48, 96))
    made = denoiser.predict(other.noisy)
    report = btn.evaluate(made, other.clean)
    inside = (made.lower <= other.clean) & (other.clean <= made.upper)
    np.testing.assert_allclose(report.coverage, inside.mean((1, 2)))
    np.testing.assert_allclose(report.below, (other.clean < made.lower).mean((1, 2)))
    np.testing.assert_allclose(report.width, made.width.mean((1, 2)), rtol=1e-5)
    direct = [np.corrcoef(m.ravel(), t.ravel())[0, 1] for m, t in zip(made.median, other.clean, strict=True)]
    np.testing.assert_allclose(report.correlation, direct, atol=1e-5)
    miss = np.maximum(made.lower - other.clean, 0) + np.maximum(other.clean - made.upper, 0)
    np.testing.assert_allclose(report.winkler, (made.width + miss * 20).mean((1, 2)), rtol=1e-5)
    assert report.channel_names == NAMES
    assert report.alpha == 0.1


def test_evaluation_counts_what_is_valid(denoiser):
    other = samples.edx(seed=4, size=(48, 96))
    made = denoiser.predict(other.noisy)
    valid = np.zeros((48, 96), bool)
    valid[10:40, 30:70] = True
    clean = np.where(valid, other.clean, np.nan)
    report = btn.evaluate(made, clean, valid=valid)
    inside = (made.lower <= other.clean) & (other.clean <= made.upper)
    np.testing.assert_allclose(report.coverage, inside[:, valid].mean(1))
    assert report.n_pixels == valid.sum()


def test_a_perfect_or_constant_prediction_is_evaluated(denoiser):
    from dataclasses import replace

    made = denoiser.predict(PAIR.noisy)
    perfect = replace(made, lower=PAIR.clean, median=PAIR.clean, upper=PAIR.clean)
    report = btn.evaluate(perfect, PAIR.clean)
    assert (report.coverage == 1).all()
    np.testing.assert_allclose(report.correlation, 1)
    flat = replace(made, median=np.full_like(made.median, 0.5))
    assert np.isfinite(btn.evaluate(flat, PAIR.clean).coverage).all()


def test_evaluation_of_repeats_and_of_what_does_not_match(denoiser):
    noisy = np.stack([PAIR.noisy, PAIR.noisy[:, ::-1]])
    made = denoiser.predict(noisy, axes="SCYX")
    report = btn.evaluate(made, PAIR.clean)
    inside = (made.lower <= PAIR.clean) & (PAIR.clean <= made.upper)
    np.testing.assert_allclose(report.coverage, inside.mean((0, 2, 3)))
    with pytest.raises(ValueError, match="must match"):
        btn.evaluate(made, PAIR.clean[:, 1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        btn.evaluate(made, np.full_like(PAIR.clean, np.nan))


# ---------------------------------------------------------------- real data


@pytest.mark.slow
def test_real_maps_are_covered_and_denoised(data_dir, monkeypatch):
    monkeypatch.undo()  # real judgement of collapsed members
    with np.load(data_dir / "edx_top" / "edx_top.npz") as file:
        noisy, clean = file["noisy"], file["clean"]
    cut = 2 * noisy.shape[2] // 3
    denoiser = btn.Denoiser(members=1, train=btn.TrainSettings(steps=80), seed=0)
    denoiser.fit(noisy[:, :, :cut], clean[:, :, :cut], axes="CYX", channel_names=NAMES)
    # what the block rule covers on average
    expected = 0.9 * (1 + 1 / denoiser.report.n_blocks)
    assert denoiser.report.coverage == pytest.approx(expected, abs=0.02)
    noisy, clean = noisy[:, :, cut:], clean[:, :, cut:]
    report = btn.evaluate(denoiser.predict(noisy), clean)
    # far from what the presets reach, which is measured elsewhere; but honest already
    assert report.coverage == pytest.approx([0.9] * 3, abs=0.05)
    assert (report.correlation > [0.85, 0.6, 0.25]).all()
    raw = [np.corrcoef(n.ravel(), c.ravel())[0, 1] for n, c in zip(noisy, clean, strict=True)]
    assert (report.correlation > np.asarray(raw) + 0.05).all()


# ---------------------------------------------------------------- where it computes


def test_a_card_trains_members_together(monkeypatch):
    asked = []

    def together(*given, compute, **options):
        asked.append((compute.device, options["members"]))
        raise ArithmeticError("that is far enough")
        yield

    for name in ("napari_btn.denoiser", "napari_btn.core.compute.pool"):
        monkeypatch.setattr(f"{name}.device_for", lambda wanted: "cuda:1")
    monkeypatch.setattr("napari_btn.core.compute.pool.works", lambda device: True)
    monkeypatch.setattr("napari_btn.core.training.card.train_together_steps", together)
    denoiser = btn.Denoiser("quick", members=3, device="cuda:1")
    assert denoiser.estimate(PAIR.noisy.shape, PAIR.axes).note.endswith("GB on cuda:1")
    with pytest.raises(ArithmeticError, match="far enough"):
        denoiser.fit(PAIR.noisy, PAIR.clean, axes=PAIR.axes)
    assert asked == [("cuda:1", 3)]
