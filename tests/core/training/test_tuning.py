"""GainTuning: only gains change, they change as the loss says, and a tuned member is a member like any other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_btn.core.data.image import View
from napari_btn.core.data.noise_models import NoiseModel
from napari_btn.core.networks.family import Networks, build_trained
from napari_btn.core.progress import drain
from napari_btn.core.settings import AdaptSettings
from napari_btn.core.training.tuning import Signal, _filled, _measured_again, _Tuner, tune_steps

RNG = np.random.default_rng(0)


def networks_of(random_members, n=1, **settings):
    return Networks(*random_members(n, **settings))


def signal_of(channels=1):
    return Signal(np.array([0.2, 0.6, 0.2]), np.ones(channels), np.zeros(channels))


def image(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("channels", "ndim"), [(1, 2), (2, 2), (1, 3)])
def test_only_one_factor_per_channel_changes(random_members, channels, ndim):
    networks = networks_of(random_members, 2, channels=channels, ndim=ndim)
    view = View(image(channels, *(19, 33, 40)[-ndim:]), "CZYX" if ndim == 3 else "CYX")
    settings = AdaptSettings(steps=8, learning_rate=0.05)
    tuned = drain(tune_steps(networks, view, settings, signal_of(channels)))
    for before, after in zip(networks.members, tuned.members, strict=True):
        assert before.weights.keys() == after.weights.keys()
        changed = 0
        for name, old in before.weights.items():
            new = after.weights[name]
            if name.startswith(("out_", "skip_", "x_", "y_")):
                np.testing.assert_array_equal(new, old)
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = (new / old).reshape(*old.shape[:2], -1)
            spread = np.nanmax(ratio, axis=2) - np.nanmin(ratio, axis=2)
            assert np.nanmax(spread) < 1e-4, name
            changed += np.nanmax(np.abs(ratio - 1)) > 1e-3
        # gains of the best check; a member that didn't improve stays bit for bit
        kept = all(np.all(gain == 1) for gain in tuned.gains[before.number].values())
        assert changed == 0 if kept else changed > 2
    assert len(tuned.losses[0]) == 8


@pytest.mark.parametrize("loss", ["blind_spot", "sure", "resample"])
def test_gains_follow_the_gradient_of_the_loss(random_members, loss):
    networks = networks_of(random_members)
    member = networks.members[0]
    noise = NoiseModel(gain=np.zeros(1), read_sd=np.array([0.3]))

    def tuner():
        module = build_trained(networks.blueprint, 0, 0, member.weights)
        view, rng = View(image_of, "YX"), np.random.default_rng(3)
        return _Tuner(module, view, AdaptSettings(loss, learning_rate=1e-9), signal_of(), noise, rng)

    image_of = image(40, 44)
    one = tuner()
    batch = one._batch()
    one._step(*batch)
    for layer in ("hidden", next(iter(one.layers))):
        channel = int(one.gains[layer].grad[0].abs().argmax())
        losses = []
        for step in (1e-3, -1e-3):
            other = tuner()
            gain = torch.ones_like(other.gains[layer])
            gain[0, channel] += step
            with torch.no_grad():
                parameters = dict(other.module.named_parameters())
                for name in other.layers[layer]:
                    parameters[name].mul_(gain.reshape(*gain.shape, *(1,) * (parameters[name].ndim - 2)))
                losses.append(other._loss(*batch).double().mean().item())
        slope = (losses[0] - losses[1]) / 2e-3
        # float32 losses, and ReLUs that switch between the two
        assert one.gains[layer].grad[0, channel].item() == pytest.approx(slope, rel=0.1, abs=2e-3)


def test_the_risk_of_sure_is_the_error(random_members):
    """Stein's estimate over many pixels is the mean squared error against the clean image."""
    networks = networks_of(random_members)
    clean = np.tile(np.linspace(-1, 1, 96, dtype=np.float32), (96, 1))
    noisy = clean + np.random.default_rng(1).normal(0, 0.5, clean.shape).astype(np.float32)
    noise = NoiseModel(gain=np.zeros(1), read_sd=np.array([0.5]))
    module = build_trained(networks.blueprint, 0, 0, networks.members[0].weights)
    tuner = _Tuner(
        module, View(noisy, "YX"), AdaptSettings("sure"), signal_of(), noise, np.random.default_rng(0)
    )
    with torch.no_grad():
        given = torch.as_tensor(noisy)[None, None]
        error = float((tuner._mean(given) - torch.as_tensor(clean)).square().mean())
        probes = np.random.default_rng(2).standard_normal((8, 1, 1, 96, 96)).astype(np.float32)
        risks = [
            float(
                (tuner._loss(given, torch.as_tensor(p), torch.ones_like(given)) * tuner.scale.item()).mean()
            )
            for p in probes
        ]
    # a variance of 0.25 over 9216 pixels, and the probes' own scatter
    assert np.mean(risks) == pytest.approx(error, abs=0.05)


def test_masked_values_say_nothing_of_themselves():
    noisy = image(2, 1, 30, 31)
    filled, masked = _filled(noisy, 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(filled[~masked], noisy[~masked])
    assert 0.05 < masked.mean() < 0.15
    other = noisy + 100 * masked
    np.testing.assert_allclose(_filled(other, 0.1, np.random.default_rng(0))[0], filled, atol=1e-4)
    flat = np.full((1, 1, 20, 21), 3.0, np.float32)
    np.testing.assert_allclose(_filled(flat, 0.2, np.random.default_rng(1))[0], 3.0, rtol=1e-6)


def test_masked_values_look_like_a_second_measurement():
    rng = np.random.default_rng(0)
    clean = np.tile(np.linspace(0, 60, 128, dtype=np.float32), (1, 1, 128, 1))
    first = (clean + rng.normal(0, 2, clean.shape)).astype(np.float32)
    guess = (clean + rng.normal(0, 1, clean.shape)).astype(np.float32)
    masked = rng.random(clean.shape) < 0.3
    again = _measured_again(first, guess, masked, rng)
    np.testing.assert_array_equal(again[~masked], first[~masked])
    one, other = (first - clean)[masked], (again - clean)[masked]
    # 4900 values: their noise as large as the first one's, and independent of it
    assert np.std(other) == pytest.approx(2, rel=0.08)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_bias_free_members_stay_bias_free(random_members):
    networks = networks_of(random_members, bias_free=True)
    weights = {
        k: np.zeros_like(v) if k.endswith(("bias", "_loc")) else v
        for k, v in networks.members[0].weights.items()
    }
    networks = replace(networks, members=(replace(networks.members[0], weights=weights),))
    tuned = drain(tune_steps(networks, View(image(33, 40), "YX"), AdaptSettings(steps=4), signal_of()))
    assert not any(v.any() for k, v in tuned.members[0].weights.items() if k.endswith("bias"))


def test_what_a_loss_needs_is_said(random_members):
    networks, view = networks_of(random_members), View(image(33, 40), "YX")
    two = NoiseModel(gain=np.ones(2))
    lags = np.broadcast_to([1.0, 0.5, 0.0], (1, 2, 3))
    correlated = NoiseModel(gain=np.ones(1), correlation=lags)
    for match, loss, noise in (
        ("NoiseModel", "sure", None),
        ("has 2 channels, the image 1; fit", "resample", two),
        ("independent noise", "sure", correlated),
    ):
        with pytest.raises(ValueError, match=match):
            drain(tune_steps(networks, view, AdaptSettings(loss), signal_of(), noise_model=noise))
    other = networks_of(random_members, channels=2, n_out=1)
    with pytest.raises(ValueError, match="as many clean as noisy"):
        drain(tune_steps(other, View(image(2, 33, 40), "CYX"), AdaptSettings(), signal_of()))
    for values in ({"loss": "n2v"}, {"steps": 0}, {"learning_rate": 0}, {"mask_share": 0.6}):
        with pytest.raises(ValueError, match=next(iter(values))):
            AdaptSettings(**values)
