"""Draws of the variational model: the same pixels in whatever tiles, and in whatever number."""

import numpy as np
import pytest
import torch

from napari_btn.core.data.image import View
from napari_btn.core.data.white_noise import white_noise
from napari_btn.core.inference.vae import ladder_draws_steps, ladder_mean_steps
from napari_btn.core.networks.vae import Ladder
from napari_btn.core.progress import drain
from napari_btn.core.settings import VariationalSettings


def ladder(channels, ndim, levels=2):
    made = Ladder(channels, ndim, VariationalSettings(width=5, latent=2, levels=levels))
    pixels = np.random.default_rng(0).normal(0, 1, (channels, 500)).astype(np.float32)
    zero = np.zeros(channels)
    made.start(pixels, zero, zero > 0, torch.Generator().manual_seed(0))
    return made


def drawn(made, image, axes, n=2, seed=0, tile_px=None):
    out = np.full((n, *image.shape), np.nan, np.float32)
    return drain(ladder_draws_steps(made, View(image, axes), out, seed=seed, tile_px=tile_px))


@pytest.mark.parametrize(
    ("axes", "shape"), [("SCYX", (2, 2, 71, 60)), ("XY", (57, 62)), ("ZYX", (6, 41, 36))]
)
def test_tiles_do_not_matter(axes, shape):
    image = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    made = ladder(2 if "C" in axes else 1, 3 if "Z" in axes else 2, levels=1)
    whole = drawn(made, image, axes, tile_px=1000)
    parts = drawn(made, image, axes, tile_px=2 * made.reach + 18)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert np.abs(whole[0] - whole[1]).max() > 0.01


def test_more_draws_keep_the_earlier_ones_and_other_seeds_give_others():
    image = np.random.default_rng(1).normal(0, 1, (30, 41)).astype(np.float32)
    made = ladder(1, 2)
    two, five = drawn(made, image, "YX", 2), drawn(made, image, "YX", 5)
    np.testing.assert_array_equal(five[:2], two)
    assert not np.array_equal(drawn(made, image, "YX", 2, seed=1), two)


def test_the_mean_is_that_of_the_draws():
    image = np.random.default_rng(1).normal(0, 1, (2, 30, 61)).astype(np.float32)
    made = ladder(1, 2, levels=1)
    mean = drain(ladder_mean_steps(made, View(image, "SYX"), 4, seed=3, tile_px=2 * made.reach + 18))
    np.testing.assert_allclose(mean, drawn(made, image, "SYX", 4, seed=3).mean(0), atol=1e-5)


@pytest.mark.parametrize("ndim", [2, 3])
def test_white_noise_is_that_of_its_place(ndim):
    wide = [slice(-30, 90)] * ndim
    inner = [slice(-7 + a, 64 + a) for a in range(ndim)]
    noise = white_noise(0, (1, 2), 2, wide)
    part = tuple(slice(s.start + 30, s.stop + 30) for s in inner)
    np.testing.assert_array_equal(white_noise(0, (1, 2), 2, inner), noise[(slice(None), *part)])
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    other = white_noise(0, (1, 3), 2, wide)
    assert abs(np.mean(noise * other)) < 0.02
