"""The equivalent filter is the row of the Jacobian: it makes the median, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Box, View
from napari_btn.core.data.noise import noise_sd
from napari_btn.core.inference.jacobian import EquivalentFilter, filter_steps
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.networks.family import Networks
from napari_btn.core.progress import drain

SHAPES = [((1, 41, 37), "CYX"), ((3, 33, 52), "CYX"), ((2, 12, 25, 19), "CZYX")]


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def median_at(image, axes, members, blueprint, at, channel, scene=0):
    view = View(image, axes)
    box = Box(scene, tuple(slice(p, p + 1) for p in at))
    tiles = tile_quantiles(view, [box], Networks(blueprint, members), Compute(executor=Inline()))
    (made,) = [result for _, result in tiles if result is not None]
    return float(made.quantiles[blueprint.levels.index(0.5), channel].squeeze())


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
@pytest.mark.parametrize("place", ["middle", "corner"])
def test_weights_and_net_bias_make_the_median(random_members, shape, axes, place):
    blueprint, members = random_members(2, channels=shape[0], ndim=len(shape) - 1)
    image = noise(0, *shape)
    at = tuple(n // 2 for n in shape[1:]) if place == "middle" else (0,) * (len(shape) - 1)
    channel = shape[0] - 1
    made = drain(filter_steps(View(image, axes), Networks(blueprint, members), at, channel=channel))
    assert np.asarray(made).shape == image.shape
    expected = median_at(image, axes, members, blueprint, at, channel)
    np.testing.assert_allclose(made.value, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose((made.weights * image).sum() + made.net_bias, expected, rtol=1e-4, atol=1e-4)


def test_each_weight_is_what_a_little_more_there_adds(random_members):
    blueprint, members = random_members(2, channels=2)
    image = noise(1, 2, 30, 31).astype(np.float32)
    made = drain(filter_steps(View(image, "CYX"), Networks(blueprint, members), (14, 9), channel=1))
    for where in [(0, 14, 9), (1, 14, 9), (1, 12, 11), (0, 20, 3)]:
        more, less = image.copy(), image.copy()
        # so small a step switches no ReLU
        more[where] += 2e-3
        less[where] -= 2e-3
        step = [median_at(v, "CYX", members, blueprint, (14, 9), 1) for v in (more, less)]
        np.testing.assert_allclose((step[0] - step[1]) / 4e-3, made.weights[where], atol=1e-3)


def test_bias_free_members_have_no_net_bias(random_members):
    blueprint, members = random_members(2, channels=2, bias_free=True)
    members = tuple(
        replace(m, weights={k: v * 0 if k.endswith(("bias", "_loc")) else v for k, v in m.weights.items()})
        for m in members
    )
    made = drain(filter_steps(View(10 * noise(1, 2, 40, 41), "CYX"), Networks(blueprint, members), (20, 19)))
    assert abs(made.net_bias) < 1e-4 * abs(made.value)


def test_displacements_of_neighbouring_frames_are_those_of_their_weights():
    crop = np.zeros((6, 21, 23), np.float32)
    crop[0, 10, 11], crop[3, 12, 8], crop[4, 7, 11] = 0.5, 0.3, -0.2
    made = EquivalentFilter(
        crop, Box(4, (slice(2, 23), slice(0, 23))), (9, 2, 40, 40), "TCYX", (12, 11), 0, 1.0, 0.0, (3, 5)
    )
    assert made.displacements == {3: (2.0, -3.0), 5: (-3.0, 0.0)}
    assert list(made.frames) == [4, 3, 5]
    # at an end of the series one frame stands for both neighbours
    ended = replace(made, neighbours=(3, 3))
    np.testing.assert_array_equal(ended.frames[3], crop[2:4] + crop[4:6])
    np.testing.assert_array_equal(np.asarray(ended)[3, :, 2:23, :23], crop[2:4] + crop[4:6])


def test_more_noise_is_added_in_proportion_to_the_noise(random_members):
    blueprint, members = random_members(2, channels=2)
    image = noise(1, 2, 90, 91) * np.array([1.0, 5.0], np.float32)[:, None, None]
    view, networks = View(image, "CYX"), Networks(blueprint, members)
    made = drain(filter_steps(view, networks, (44, 39), channel=1, noise_factor=2.0))
    around = view.read(0, made.box.slices)
    np.testing.assert_allclose(made.added_sd, [np.sqrt(3) * noise_sd([channel]) for channel in around])
    np.testing.assert_allclose([noise_sd([channel]) for channel in image], [1.0, 5.0], rtol=0.05)
    own = drain(filter_steps(view, networks, (44, 39), channel=1))
    assert own.added_sd == ()
    assert made.value != own.value
    with pytest.raises(ValueError, match="noise can only be added"):
        drain(filter_steps(view, networks, (44, 39), noise_factor=0.5))


def test_width_and_centre_of_known_filters():
    y, x = np.meshgrid(np.arange(31) - 15, np.arange(31) - 15, indexing="ij")
    disc = (y**2 + x**2 <= 36).astype(np.float32)
    box = Box(0, (slice(5, 36), slice(0, 31)))

    def made(crop, at=(20, 15)):
        return EquivalentFilter(crop[None], box, (40, 40), "YX", at, 0, 1.0, 0.0)

    # a disc of radius 6 has the diameter of its 113 pixels; noise is averaged in the same way by any factor
    assert made(disc).effective_width == pytest.approx(2 * np.sqrt(disc.sum() / np.pi))
    assert made(3 * disc).effective_width == made(disc).effective_width
    assert made((y == 0) * (x == 0) * np.float32(0.7)).effective_width == pytest.approx(2 / np.sqrt(np.pi))
    assert made(disc).centre == pytest.approx((0, 0), abs=1e-9)
    assert made(disc, (18, 16)).centre == pytest.approx((2, -1))


def test_nothing_beyond_the_receptive_field_has_a_weight(random_members):
    blueprint, members = random_members(1, depth=3, dilations=(1, 2, 1))
    reach = blueprint.receptive_field
    made = drain(filter_steps(View(noise(2, 40, 45), "YX"), Networks(blueprint, members), (20, 22)))
    weights = made.weights
    assert weights.shape == (40, 45)
    far = np.ones_like(weights, bool)
    far[20 - reach : 21 + reach, 22 - reach : 23 + reach] = False
    assert not weights[far].any()
    assert weights[~far].any()


def test_axes_and_scenes_are_those_of_the_image(random_members):
    blueprint, members = random_members(1, channels=2)
    image = noise(3, 3, 2, 26, 21)
    turned = np.ascontiguousarray(image.transpose(2, 0, 3, 1))
    one = drain(filter_steps(View(image, "SCYX"), Networks(blueprint, members), (5, 6), scene=2))
    other = drain(filter_steps(View(turned, "YSXC"), Networks(blueprint, members), (5, 6), scene=2))
    np.testing.assert_allclose(one.weights.transpose(2, 0, 3, 1), other.weights, atol=1e-6)
    assert not one.weights[:2].any()
    assert one.total == pytest.approx(float(one.weights.sum()), abs=1e-4)


@pytest.mark.parametrize("at", [(30, 3), (-1, 3), (3,), (1, 2, 3)])
def test_a_pixel_outside_is_refused(random_members, at):
    blueprint, members = random_members(1)
    with pytest.raises(ValueError, match="Give one index per space axis"):
        drain(filter_steps(View(noise(0, 30, 31), "YX"), Networks(blueprint, members), at))
