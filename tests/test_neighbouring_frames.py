"""Members that see neighbouring frames or slices, through the user's object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import napari_btn as btn
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.image import Image
from napari_btn.core.training import processes as training
from napari_btn.workflow.inputs import seen_by

NETWORK = btn.NetworkSettings(depth=2, channels=2, inputs=2, head_units=8, max_dilation=2)
TRAIN = btn.TrainSettings(steps=6, batch_size=2, patch_px=16)
BLOCKS = btn.CalibrationSettings(block_px=8)
WAYS = ("pair", "noise2noise", "noise2void", "thinning", "simulation")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


def movie(seed=0, frames=5):
    """Counts, their repeat and their rates, of a still field with two channels."""
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(3.0, 3.0, (1, 2, 5, 11))
    rate = np.broadcast_to(np.kron(coarse, np.ones((1, 1, 8, 8))), (frames, 2, 40, 88)).astype(np.float32)
    return rng.poisson(rate).astype(np.float32), rng.poisson(rate).astype(np.float32), np.array(rate)


def images(way, seed=0):
    noisy, again, rate = movie(seed)
    if way == "simulation":
        return (None, rate), {"noise_model": btn.NoiseModel(gain=[1.0, 1.0])}
    return {"pair": (noisy, rate), "noise2noise": (noisy, again)}.get(way, (noisy,)), {}


def tiny(way, frames=3, along="t", **options):
    how = btn.SupervisionSettings(masked_pixel_percentage=25, thinnings=2, frames=frames, frames_along=along)
    known = {"calibration": BLOCKS, "train": TRAIN, **options}
    return btn.Denoiser(
        members=1, seed=1, network=NETWORK, supervision=way, supervision_settings=how, **known
    )


def assert_same(a, b, slack=0.0):
    for name in ("lower", "median", "upper", "mean"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=slack)


@pytest.mark.parametrize("way", WAYS)
def test_every_supervision_goes_from_fit_to_bundle_and_tiles(way, tmp_path):
    given, more = images(way)
    denoiser = tiny(way).fit(*given, axes="TCYX", executor=Inline(), **more)
    assert (denoiser.model.blueprint.n_in, denoiser.model.blueprint.n_out) == (6, 2)
    noisy = movie(3)[0]
    prediction = denoiser.predict(noisy, "TCYX")
    assert prediction.median.shape == noisy.shape
    denoiser.save(tmp_path / "a.btn")
    again = btn.load(tmp_path / "a.btn")
    assert again.supervision_settings.frames == 3
    assert_same(prediction, again.predict(noisy, "TCYX"))
    tiles = replace(denoiser.model.settings, tiles=btn.TileSettings(tile_px=24))
    cut = btn.Denoiser.of(replace(denoiser.model, settings=tiles)).predict(noisy, "TCYX")
    assert_same(prediction, cut, 1e-5 * float(np.ptp(noisy)))


def test_neighbours_change_a_prediction_and_far_frames_do_not():
    noisy = movie()[0]
    denoiser = tiny("noise2void").fit(noisy, axes="TCYX", executor=Inline())
    before = denoiser.predict(noisy, "TCYX").median
    other = noisy.copy()
    other[3] += np.random.default_rng(0).poisson(3.0, other[3].shape)
    after = denoiser.predict(other, "TCYX").median
    np.testing.assert_array_equal(after[:2], before[:2])
    assert all((after[f] != before[f]).any() for f in (2, 3, 4))


def test_a_blind_spot_is_blind_in_its_own_frame_alone():
    noisy = movie()[0]
    denoiser = tiny("noise2void").fit(noisy, axes="TCYX", executor=Inline())
    before = denoiser.predict(noisy, "TCYX").median
    other = noisy.copy()
    other[2, :, 20, 40] += 50
    after = denoiser.predict(other, "TCYX").median
    np.testing.assert_array_equal(after[2, :, 20, 40], before[2, :, 20, 40])
    assert (after[1, :, 20, 40] != before[1, :, 20, 40]).any()


def test_one_scene_after_another_is_predicted_as_each_alone():
    from tests.core.data.test_neighbours import shots

    noisy = shots(7, 5, 9)[:, :64]
    denoiser = tiny("noise2void", 5).fit(noisy, axes="TYX", executor=Inline())
    assert any("changes with frame 7, 12" in note.text for note in denoiser.notes)
    both = denoiser.predict(noisy, "TYX").median
    alone = np.concatenate(
        [denoiser.predict(noisy[a:b], "TYX").median for a, b in ((0, 7), (7, 12), (12, 21))]
    )
    np.testing.assert_allclose(both, alone, atol=1e-5)


def test_in_time_both_parts_share_no_frame():
    noisy = np.concatenate([movie(frames=9)[0], movie(1, frames=9)[0]])
    denoiser = tiny("noise2void", 5, calibration=btn.CalibrationSettings(split="time"))
    parts = denoiser.check(noisy, axes="TCYX").split
    scenes = scenes_for_of(denoiser, noisy)
    seen = [
        {n for b in boxes for n in (b.scene, *scenes.noisy.series.neighbours(b.scene))}
        for boxes in (parts.train, parts.held_out)
    ]
    assert not seen[0] & seen[1]


def scenes_for_of(denoiser, noisy):
    from napari_btn.core.settings import EnsembleSettings
    from napari_btn.workflow.inputs import pair_of, scenes_of

    return scenes_of(pair_of(noisy, None, "TCYX"), EnsembleSettings.from_dict(denoiser.settings()))


def test_slices_of_a_stack_are_seen_by_networks_in_2d(tmp_path):
    stack = movie()[0].swapaxes(0, 1)
    denoiser = tiny("noise2void", along="z").fit(
        stack, axes="CZYX", pixel_size=(2.0, 0.5, 0.5), unit="um", executor=Inline()
    )
    assert (denoiser.model.blueprint.ndim, denoiser.model.blueprint.n_in, denoiser.axes) == (2, 6, "CZYX")
    prediction = denoiser.predict(stack)
    assert (prediction.axes, prediction.pixel_size) == ("CZYX", (2.0, 0.5, 0.5))
    as_time = tiny("noise2void").fit(stack, axes="CTYX", executor=Inline()).predict(stack, "CTYX")
    assert_same(prediction, as_time)
    denoiser.save(tmp_path / "a.btn")
    assert_same(prediction, btn.load(tmp_path / "a.btn").predict(stack, "CZYX"))
    on_disk = denoiser.predict(stack, "CZYX", out=tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(np.asarray(on_disk.median[...]), prediction.median)
    assert denoiser.tokens(stack, 3, "CZYX").labels.shape == (5, 40, 88)


def test_tokens_filters_calibration_and_refinement_work():
    noisy = movie()[0]
    denoiser = tiny("noise2void").fit(noisy, axes="TCYX", executor=Inline())
    assert denoiser.tokens(noisy, 3, "TCYX").labels.shape == (5, 40, 88)
    found = denoiser.equivalent_filter(noisy, (20, 40), "TCYX", channel=0, scene=2)
    assert found.crop.shape[0] == 6
    weights = np.asarray(found.weights)
    assert weights.shape == noisy.shape
    assert weights[[1, 2, 3]].any((1, 2, 3)).all()
    assert not weights[[0, 4]].any()
    image = Image(noisy, "TCYX")
    look = seen_by(denoiser.model, image).looks[0].view
    assert look.n_channels == 6
    other = denoiser.calibrate(movie(5)[0], axes="TCYX").predict(noisy, "TCYX")
    assert (other.lower <= other.upper).all()
    done = denoiser.refine(noisy, None, axes="TCYX", train=TRAIN, executor=Inline())
    assert done.after.covers == "masked pixel"


def test_filters_follow_a_known_motion():
    shift, frames, side = np.array([1, -2]), 12, (64, 128)

    def moving(seed, frames):
        """Fine texture that moves by the shift from frame to frame, and the same with noise of its own size."""
        rng = np.random.default_rng(seed)
        reach = np.abs(shift) * frames
        field = gaussian_filter(rng.standard_normal(side + 2 * reach), 0.5)
        starts = [reach - k * shift for k in range(frames)]
        clean = np.stack([field[y:, x:][: side[0], : side[1]] for y, x in starts]) / field.std()
        return clean, clean + rng.standard_normal(clean.shape)

    clean, noisy = moving(0, frames)
    denoiser = btn.Denoiser(
        members=1,
        seed=0,
        device="cpu",
        network=btn.NetworkSettings(family="dncnn", depth=3),
        # flips would turn the motion, too
        train=btn.TrainSettings(steps=150, batch_size=8, patch_px=32, augment=False),
        supervision_settings=btn.SupervisionSettings(frames=3),
        calibration=btn.CalibrationSettings(block_px=16),
    )
    denoiser.fit(noisy, clean, axes="TYX", executor=Inline())
    fresh = moving(5, 5)[1]
    found = [
        denoiser.equivalent_filter(fresh, at, "TYX", scene=2).displacements
        for at in ((20, 20), (32, 32), (44, 25), (30, 90))
    ]
    before, after = (np.mean([one[frame] for one in found], axis=0) for frame in (1, 3))
    # measured: 0.86 and -1.71 px, with standard deviations of 0.05 and 0.10 over pixels
    np.testing.assert_allclose(after, shift, atol=0.5)
    np.testing.assert_allclose(before, -shift, atol=0.5)


def test_windows_are_refused():
    noisy, _, rate = movie()
    denoiser = tiny("pair").fit(noisy, rate, axes="TCYX", executor=Inline())
    with pytest.raises(ValueError, match="a window lacks"):
        denoiser.refine(noisy, rate, axes="TCYX", windows=[((0, 0), np.ones((2, 8, 8), np.float32))])


def test_what_has_no_neighbours_is_refused_with_the_alternative():
    noisy = movie()[0]
    with pytest.raises(ValueError, match=r"need the axis T.*frames=1"):
        tiny("noise2void").fit(noisy[0], axes="CYX")
    with pytest.raises(ValueError, match="one frame along T"):
        tiny("noise2void").fit(noisy[:1], axes="TCYX")
    with pytest.raises(ValueError, match=r'would see their targets\. Use "noise2void"'):
        tiny("noise2noise").fit(noisy, axes="TCYX")
    with pytest.raises(ValueError, match="frames is 4; it must be 1, 3, 5 or 7"):
        btn.SupervisionSettings(frames=4)
    denoiser = tiny("noise2void").fit(noisy, axes="TCYX", executor=Inline())
    with pytest.raises(ValueError, match="Give the whole series"):
        denoiser.predict(noisy[0], "CYX")
