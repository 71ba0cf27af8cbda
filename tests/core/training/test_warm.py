"""Pretrained members: their training, and how they come to speak in the units of a user's images."""

import numpy as np
import pytest

from napari_btn.core.networks.family import Blueprint, Member, build, graph_of
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.settings import NetworkSettings, TrainSettings
from napari_btn.core.training.collapse import pinball_per_channel
from napari_btn.core.training.prior import begin_prior, go_on_prior
from napari_btn.core.training.tasks import Scaling
from napari_btn.core.training.warm import settle_member

LEVELS = (0.1, 0.5, 0.9)
BLUEPRINT = Blueprint(NetworkSettings(depth=3, channels=2), Schedule((1, 2, 1)), 2, 2, 2, LEVELS, 5)
TRAIN = TrainSettings(steps=40)


def batches(step):
    """Return smooth waves and white noise, scaled as the corpus is."""
    rng = np.random.default_rng((9, step))
    at = np.arange(20, dtype=np.float32)
    waves = [np.sin(at[:, None] / 3 + p) * np.cos(at / 4 + q) for p, q in rng.uniform(0, 6, (6, 2))]
    y = np.float32(waves).reshape(3, 2, 20, 20)
    return y + rng.normal(0, 0.7, y.shape).astype(np.float32), y


@pytest.fixture(autouse=True)
def _few_pixels_are_enough(monkeypatch):
    monkeypatch.setattr("napari_btn.core.training.warm._ENOUGH", 500)


@pytest.fixture(scope="module")
def member():
    state = begin_prior(BLUEPRINT, 1, batches)
    state, losses = go_on_prior(BLUEPRINT, TRAIN, state, batches, 100)
    assert state.step == len(losses) == 40
    assert np.mean(losses[-8:]) < np.mean(losses[:4]) - 0.3
    return Member(1, 0, state.weights)


def test_a_training_that_stops_goes_on_the_same():
    state = begin_prior(BLUEPRINT, 0, batches)
    whole, losses = go_on_prior(BLUEPRINT, TRAIN, state, batches, 7)
    first, early = go_on_prior(BLUEPRINT, TRAIN, state, batches, 4)
    parts, late = go_on_prior(BLUEPRINT, TRAIN, first, batches, 3)
    assert [*early, *late] == losses
    for name, value in whole.weights.items():
        np.testing.assert_array_equal(parts.weights[name], value)


def _scaled(x, y):
    """Return images in other units for each channel, and their scaling."""
    x, y = (
        x * np.float32(40) + np.float32(7),
        y * np.float32([[[3]], [[0.02]]]) + np.float32([[[900]], [[-1]]]),
    )
    axes = (0, 2, 3)
    return x, y, Scaling(*(np.float32(v) for v in (x.mean(axes), x.std(axes), y.mean(axes), y.std(axes))))


def test_a_settled_member_speaks_in_the_units_of_the_images(member):
    x, y, scaling = _scaled(*batches(77))
    settled = settle_member(BLUEPRINT, member, scaling, x, y)
    assert settled.fits
    assert settled.loss < 0.75
    import torch

    with torch.no_grad():
        module = build(BLUEPRINT, [(1, 0)])
        module.load_state_dict({k: torch.from_numpy(v) for k, v in settled.member.weights.items()})
        made = module(torch.from_numpy(x))[:, 0].numpy()
        module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in member.weights.items()})
        plain = module(
            (torch.from_numpy(x) - torch.from_numpy(scaling.x_loc)[:, None, None])
            / torch.from_numpy(scaling.x_scale)[:, None, None]
        )[:, 0].numpy()
    for c in range(2):
        slope, offset = np.polyfit(plain[:, c, 1].ravel().astype(float), y[:, c].ravel().astype(float), 1)
        affine = (slope * plain[:, c] + offset)[:, None]
        # solved for on the target, it is at least as good as an affine function of what it was
        errors = [np.square(q - y[:, c]).mean() for q in (made[:, c, 1], affine[:, 0, 1])]
        assert errors[0] <= 1.001 * errors[1]
        losses = [pinball_per_channel(q, y[:, c : c + 1], LEVELS)[0] for q in (made[:, c : c + 1], affine)]
        assert losses[0] <= 1.001 * losses[1]
        # a level is reached as often as it says, on the pixels on which steps were scaled
        for level, reached in zip(LEVELS, made[:, c].swapaxes(0, 1), strict=True):
            assert abs((y[:, c] <= reached).mean() - level) < 0.06
        widths = made[:, c, 2] - made[:, c, 0], affine[:, 0, 2] - affine[:, 0, 0]
        assert np.corrcoef(widths[0].ravel(), widths[1].ravel())[0, 1] > 0.8


def test_targets_that_do_not_count_change_nothing(member):
    x, y, scaling = _scaled(*batches(78))
    y[0, :, :5] = np.nan
    hidden = settle_member(BLUEPRINT, member, scaling, x, y)
    assert np.isfinite(hidden.loss)
    assert hidden.fits
    y[0] = np.nan
    alone = settle_member(BLUEPRINT, member, scaling, x, y)
    rest = settle_member(BLUEPRINT, member, scaling, x[1:], y[1:])
    np.testing.assert_allclose(
        alone.member.weights["out_weight"][0, 1],
        rest.member.weights["out_weight"][0, 1],
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_member_that_knows_nothing_of_the_target_does_not_fit(member):
    x, y, scaling = _scaled(*batches(79))
    unlike = np.ascontiguousarray(-y)
    assert not settle_member(BLUEPRINT, member, scaling, x, unlike).fits
    y[:, 1] = 4.0
    # a constant channel is no reason to begin from random weights
    constant = Scaling(scaling.x_loc, scaling.x_scale, y.mean((0, 2, 3)), np.float32([scaling.y_scale[0], 1]))
    assert np.isfinite(settle_member(BLUEPRINT, member, constant, x, y).loss)


def test_the_wiring_has_a_seed_of_its_own():
    import dataclasses

    wired = dataclasses.replace(BLUEPRINT, seed=8, wiring=5)
    assert graph_of(wired, 2) == graph_of(BLUEPRINT, 2)
    assert graph_of(dataclasses.replace(BLUEPRINT, seed=8), 2) != graph_of(BLUEPRINT, 2)
