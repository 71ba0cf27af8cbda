"""A first look: the median of pretrained members, in the image's own axes and units, and no interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Image
from napari_btn.core.progress import drain
from napari_btn.workflow.now import first_look_steps

INLINE = Compute(executor=Inline())


def look(data, axes):
    return drain(first_look_steps(Image(data, axes), INLINE))


def discs(shape=(70, 91), seed=0):
    """Discs on a background, 0 to 100."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    made = np.full(shape, 20.0)
    for r, cy, cx in zip(
        rng.uniform(5, 14, 9), rng.uniform(0, shape[0], 9), rng.uniform(0, shape[1], 9), strict=True
    ):
        made[np.hypot(y - cy, x - cx) < r] = rng.uniform(30, 100)
    return made.astype(np.float32)


def test_it_denoises_in_the_units_of_the_image():
    clean = discs()
    noisy = (clean + np.random.default_rng(1).normal(0, 20, clean.shape)).astype(np.float32)
    made = look(noisy, "YX")
    assert made.median.shape == clean.shape
    assert made.median.dtype == np.float32
    before, after = (np.sqrt(np.mean((v - clean) ** 2)) for v in (noisy, made.median))
    assert after < 0.45 * before
    # units: an affine change of the image is one of the result
    other = look(3 * noisy + 500, "YX")
    np.testing.assert_allclose(other.median, 3 * made.median + 500, atol=0.02)
    assert "no interval is promised" in made.caption
    assert made.provenance["covers"] == "nothing"


def test_channels_without_members_for_so_many_go_one_by_one():
    noisy = np.stack([discs(seed=s) + np.random.default_rng(s).normal(0, 15, (70, 91)) for s in range(5)])
    noisy = noisy.astype(np.float32)
    made = look(noisy.transpose(1, 0, 2), "YCX")
    assert made.axes == "YCX"
    alone = look(noisy[3], "YX")
    np.testing.assert_allclose(made.median[:, 3], alone.median, atol=1e-3)


def test_the_correlation_of_the_noise_decides():
    clean = discs((128, 140))
    rng = np.random.default_rng(2)
    white = rng.normal(0, 12, clean.shape)
    grain = gaussian_filter(rng.normal(0, 1, clean.shape), 0.8)
    for noise, wanted in ((white, "white"), (12 * grain / grain.std(), "correlated")):
        made = look((clean + noise).astype(np.float32), "YX")
        assert made.provenance["start"]["from"] == [f"2d-1c-{wanted}"]


def test_scenes_keep_their_axes():
    rng = np.random.default_rng(3)
    stack = rng.normal(5, 1, (3, 40, 50)).astype(np.float32)
    made = look(stack, "TYX")
    assert made.median.shape == stack.shape


def test_volumes_are_denoised():
    z, y, x = np.ogrid[:26, :30, :34]
    clean = np.where(np.sqrt((z - 12) ** 2 + (y - 14) ** 2 + (x - 16) ** 2) < 8, 60.0, 20.0)
    noisy = (clean + np.random.default_rng(4).normal(0, 20, clean.shape)).astype(np.float32)
    made = look(noisy.transpose(1, 0, 2), "YZX")
    assert made.median.shape == (30, 26, 34)
    before, after = (np.sqrt(np.mean((v - clean) ** 2)) for v in (noisy, made.median.transpose(1, 0, 2)))
    assert after < 0.6 * before


def test_what_can_not_be_denoised_is_one_sentence():
    with pytest.raises(ValueError, match="real numbers"):
        look(np.zeros((20, 20), complex), "YX")
