"""Band by band is as all at once: the same values, no pixel computed twice, little kept, and soon stopped."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_btn.core.compute.pool import StoppedError
from napari_btn.core.networks.family import build
from napari_btn.core.networks.sms import bands

# one channel (padded to a chunk), more than a chunk, chunks of four, kernels of one plane
NETWORKS = [
    (2, 1, {}),
    (2, 5, {}),
    (2, 3, {"chunk": 4, "inputs": 4, "depth": 6}),
    (2, 2, {"inputs": 1}),
    (2, 1, {"depth": 1}),
    (2, 2, {"dilations": (9, 1, 30, 2)}),
    (3, 2, {}),
    (3, 1, {"flat": (True, False, False, True)}),
]


def loaded(blueprint, member):
    module = build(blueprint, [(member.number, member.attempt)])
    module.load_state_dict({k: torch.from_numpy(v) for k, v in member.weights.items()})
    return module


def image(ndim, channels, seed=0, rows=23):
    shape = (2, channels, rows, 17) if ndim == 2 else (2, channels, rows // 2, 9, 7)
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.fixture
def made(monkeypatch):
    """Pixels that each turn of a node makes, in their order."""
    pixels = []
    real = bands.convolve

    def convolve(*given, **options):
        band = real(*given, **options)
        pixels.append(band[0, 0].numel())
        return band

    monkeypatch.setattr(bands, "convolve", convolve)
    return pixels


@pytest.mark.parametrize("pixels", [1, 40, 10_000])
@pytest.mark.parametrize(("ndim", "channels", "network"), NETWORKS)
def test_bands_of_any_height_give_what_training_sees(
    random_members, monkeypatch, ndim, channels, network, pixels
):
    blueprint, (member,) = random_members(1, ndim=ndim, channels=channels, **network)
    module, x = loaded(blueprint, member), image(ndim, channels)
    whole = module(x).detach()  # with gradients, everything at once
    scale = float(whole.abs().max())
    monkeypatch.setattr(bands, "_BAND_PIXELS", pixels)
    with torch.inference_mode():
        for low, high in ((0, None), (0, 3), (4, 6), (5, None)):
            keep = tuple(slice(low, high or n) for n in x.shape[2:])
            np.testing.assert_allclose(module(x, keep), whole[(..., *keep)], atol=3e-6 * scale)


@pytest.mark.parametrize("pixels", [1, 60, 10_000])
@pytest.mark.parametrize("ndim", [2, 3])
def test_each_node_makes_what_is_needed_once(random_members, monkeypatch, made, ndim, pixels):
    blueprint, (member,) = random_members(1, ndim=ndim, dilations=(2, 1, 3, 1))
    module, x = loaded(blueprint, member), image(ndim, 1)
    space = x.shape[2:]
    monkeypatch.setattr(bands, "_BAND_PIXELS", pixels)
    for keep in (tuple(slice(0, n) for n in space), tuple(slice(2, n - 2) for n in space)):
        made.clear()
        with torch.inference_mode():
            module(x, keep)
        areas = [bands.grown(keep, (margin,) * ndim, space) for margin in (5, 4, 1, 0)]
        assert sum(made) == sum(math.prod(s.stop - s.start for s in area) for area in areas)
        across = math.prod(n for n in space[1:])
        assert max(made) <= max(pixels, across) * 1.5


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("turn", [1, 2, 7, 30])
def test_a_stop_ends_the_work_within_one_turn(random_members, monkeypatch, made, ndim, turn):
    """What a turn makes is bounded, so that a stop waits a fraction of a second in tiles of any size."""
    blueprint, (member,) = random_members(1, ndim=ndim, dilations=(2, 1, 3, 1))
    module, x = loaded(blueprint, member), image(ndim, 1, rows=60)
    monkeypatch.setattr(bands, "_BAND_PIXELS", 70)
    looks = []
    made.clear()

    def look():
        looks.append(len(made))
        if len(looks) == turn:
            raise StoppedError("stopped")

    module.between = look
    with torch.inference_mode(), pytest.raises(StoppedError):
        module(x)
    # one convolution between any two looks, and none after the last
    assert looks == list(range(turn))
    assert len(made) == turn - 1


def test_what_is_kept_does_not_grow_with_the_rows(random_members, monkeypatch):
    blueprint, (member,) = random_members(1, dilations=(2, 1, 3, 1))
    module, real = loaded(blueprint, member), bands._forget
    monkeypatch.setattr(bands, "_BAND_PIXELS", 40)
    kept = []

    def forget(features, nodes):
        real(features, nodes)
        kept.append(sum(band.numel() for feature in features[1:] for _, band in feature.bands))

    monkeypatch.setattr(bands, "_forget", forget)
    most = []
    for rows in (60, 240):
        kept.clear()
        with torch.inference_mode():
            module(image(2, 1, rows=rows))
        most.append(max(kept))
    assert 0 < most[0] == most[1]
    assert kept[-1] < most[1]
