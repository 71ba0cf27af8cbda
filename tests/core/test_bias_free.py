"""Bias-free members: twice the image, twice the maps, whatever the weights; and they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import napari_btn as btn
from napari_btn import samples
from napari_btn.core.compute.pool import Inline
from napari_btn.core.inference.run import loaded
from napari_btn.core.networks.pinball import ABSOLUTE, noncrossing_pinball, quantiles_from_raw
from napari_btn.core.training import processes as training
from napari_btn.core.training.tasks import pinball

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SCALES = ("x_loc", "y_loc")


def free(random_members, **options):
    """(blueprint, modules) with random weights, but no constants."""
    blueprint, members = random_members(2, bias_free=True, **options)
    for member in members:
        for name, value in member.weights.items():
            if name.endswith("_bias") or name in SCALES:
                value[...] = 0
    return blueprint, [loaded(blueprint, member) for member in members]


@pytest.mark.parametrize(
    ("channels", "ndim", "space"), [(1, 2, (21, 34)), (3, 2, (17, 19)), (2, 3, (9, 14, 11))]
)
@pytest.mark.parametrize("factor", [0.01, 3.0, 250.0])
def test_twice_the_image_makes_twice_the_maps(random_members, channels, ndim, space, factor):
    _, modules = free(random_members, channels=channels, ndim=ndim, levels=LEVELS)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, channels, *space)).astype(np.float32))
    for module in modules:
        with torch.inference_mode():
            one, many = module(x), module(factor * x)
        np.testing.assert_allclose(many / factor, one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))
        assert (np.diff(one.numpy(), axis=3) >= 0).all()
        assert one.abs().max() > 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_its_loss_and_gradients_are_autograds(seed, middle):
    rng = np.random.default_rng(seed)
    raw = torch.from_numpy(rng.normal(size=(2, 5, 40))).requires_grad_()
    target = torch.from_numpy(np.where(rng.random((2, 40)) < 0.1, np.nan, rng.normal(size=(2, 40))))
    quantiles = quantiles_from_raw(raw[None], middle, ABSOLUTE)[:, None]
    expected = pinball(quantiles, target[None], LEVELS).sum()
    made = noncrossing_pinball(raw, target, LEVELS, middle, ABSOLUTE)
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        *(torch.autograd.grad(v, raw)[0] for v in (made, expected)), rtol=1e-6, atol=1e-9
    )


@pytest.fixture(scope="module")
def trained():
    pair = samples.blobs(seed=0, n=24)
    denoiser = btn.Denoiser(
        members=1,
        network=btn.NetworkSettings(depth=5, bias_free=True),
        train=btn.TrainSettings(steps=60, batch_size=8, patch_px=32),
        calibration=btn.CalibrationSettings(train_fraction=0.5),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))
        return pair, denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, executor=Inline())


def test_training_adds_no_constant(trained):
    _, denoiser = trained
    (member,) = denoiser.model.networks.members
    for name, value in member.weights.items():
        if name.endswith("_bias") or name in SCALES:
            assert not value.any(), name
    losses = denoiser.losses[0]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_a_brighter_image_is_denoised_alike(trained):
    pair, denoiser = trained
    image = pair.noisy[20]
    one, ten = (denoiser.predict(k * image, axes="YX", executor=Inline()) for k in (1, 10))
    np.testing.assert_allclose(ten.quantiles / 10, one.quantiles, atol=1e-4 * float(np.ptp(one.median)))
    made = denoiser.equivalent_filter(image, at=(30, 31), axes="YX")
    assert abs(made.net_bias) < 1e-4 * float(np.ptp(one.median))
    assert made.value == pytest.approx(float(one.median[30, 31]), rel=1e-4, abs=1e-4)


def test_a_bundle_keeps_it_so(trained, tmp_path):
    pair, denoiser = trained
    denoiser.save(tmp_path / "free.btn")
    again = btn.load(tmp_path / "free.btn")
    assert again.network.bias_free
    image = pair.noisy[21]
    np.testing.assert_array_equal(
        again.predict(image, axes="YX", executor=Inline()).median,
        denoiser.predict(image, axes="YX", executor=Inline()).median,
    )
