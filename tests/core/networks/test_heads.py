"""All members in one module: each as alone, no pixel aware of its batch, quantiles that never cross."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.core.networks import heads as ensemble
from napari_btn.core.networks.family import Blueprint, build, graph_of, member_rng
from napari_btn.core.networks.pinball import quantiles_from_raw
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.settings import NetworkSettings


def noise(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def loaded(blueprint, members):
    """One module that holds all these members."""
    module = build(blueprint, [(m.number, m.attempt) for m in members])
    first = members[0].weights
    shared = {k: torch.from_numpy(first[k]) for k in ("x_loc", "x_scale", "y_loc", "y_scale")}
    stacked = {
        k: torch.cat([torch.from_numpy(m.weights[k]) for m in members]) for k in first if k not in shared
    }
    module.load_state_dict(stacked | shared)
    return module


def scalings_alike(members):
    """The same members, all with the scaling of the first: an ensemble has one."""
    first = members[0].weights
    for m in members[1:]:
        m.weights.update({k: first[k] for k in ("x_loc", "x_scale", "y_loc", "y_scale")})
    return members


def inputs_of(ndim, channels):
    shape = (23, 17) if ndim == 2 else (9, 11, 7)
    return noise(5, 3, channels, *shape)


# one channel (padded to a chunk), as many as a chunk, more than a chunk, and nodes that read one chunk
SHAPES = [
    (2, 1, {}),
    (2, 2, {}),
    (2, 5, {}),
    (3, 1, {}),
    (3, 3, {}),
    (2, 3, {"inputs": 1}),
    (2, 1, {"depth": 1}),
]


@pytest.mark.parametrize(("ndim", "channels", "network"), SHAPES)
@torch.inference_mode()
def test_members_in_one_module_are_as_each_alone(random_members, ndim, channels, network):
    blueprint, members = random_members(4, ndim=ndim, channels=channels, **network)
    members = scalings_alike(members)
    x = inputs_of(ndim, channels)
    together = loaded(blueprint, members)(x)
    assert together.shape == (3, 4, channels, 3, *x.shape[2:])
    scale = float(together.abs().max())
    for k, member in enumerate(members):
        alone = loaded(blueprint, [member])(x)[:, 0]
        np.testing.assert_allclose(together[:, k], alone, atol=1e-5 * scale)
    assert float((together[:, 0] - together[:, 1]).abs().max()) > 0.01 * scale


@pytest.mark.parametrize(("ndim", "channels", "network"), SHAPES)
@torch.inference_mode()
def test_no_pixel_depends_on_its_batch(random_members, ndim, channels, network):
    blueprint, members = random_members(1, ndim=ndim, channels=channels, **network)
    module, x = loaded(blueprint, members), inputs_of(ndim, channels)
    alone = module(x[1:2])
    x[0], x[2] = 1e3 * x[0], 50.0  # bright neighbours in the batch
    np.testing.assert_allclose(module(x)[1:2], alone, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize(("ndim", "channels"), [(2, 1), (2, 3), (3, 2)])
@torch.inference_mode()
def test_a_pixel_depends_on_its_receptive_field_alone(random_members, ndim, channels):
    blueprint, members = random_members(1, ndim=ndim, channels=channels, dilations=(1, 2, 1, 2))
    module, reach = loaded(blueprint, members), blueprint.receptive_field
    assert reach == 6
    side = 2 * reach + 5
    x = noise(0, 1, channels, *(side,) * ndim)
    before = module(x)
    centre = (..., *(side // 2,) * ndim)
    seen = torch.zeros((side,) * ndim, dtype=torch.bool)
    seen[tuple(slice(side // 2 - reach, side // 2 + reach + 1) for _ in range(ndim))] = True
    outside = torch.where(seen, x, x + 100)
    assert torch.equal(module(outside)[centre], before[centre])
    inside = torch.where(seen, x + 1, x)
    assert not torch.equal(module(inside)[centre], before[centre])


@torch.inference_mode()
def test_kernels_of_one_plane_see_their_own_plane(random_members):
    flat = (False, True, True, False)
    blueprint, members = random_members(2, ndim=3, dilations=(1, 2, 2, 1), flat=flat)
    assert blueprint.reach == (2, 6, 6)
    x = noise(3, 1, 1, 9, 17, 15)
    changed = x.clone()
    changed[:, :, :2] += 5
    changed[:, :, 7:] += 5
    for member in members:
        module = loaded(blueprint, [member])
        whole = module(x)
        assert torch.equal(whole[..., 4, :, :], module(changed)[..., 4, :, :])
        assert not torch.equal(whole[..., 3, :, :], module(changed)[..., 3, :, :])
        keep = (slice(3, 6), slice(7, 9), slice(0, 4))
        scale = float(whole.abs().max())
        np.testing.assert_allclose(module(x, keep), whole[(..., *keep)], atol=1e-5 * scale)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("ndim", "channels", "network"), SHAPES)
@torch.inference_mode()
def test_a_kept_part_is_cut_from_the_whole(random_members, members, ndim, channels, network):
    blueprint, made = random_members(members, ndim=ndim, channels=channels, **network)
    module, x = loaded(blueprint, scalings_alike(made)), inputs_of(ndim, channels)
    whole = module(x)
    features = list(module.latents(x))
    # in the middle, at a border, and all of it
    for keep in ((5, 8), (0, 3), (0, None)):
        part = tuple(slice(keep[0], keep[1] or n) for n in x.shape[2:])
        cut = (..., *part)
        scale = float(whole.abs().max())
        np.testing.assert_allclose(module(x, part), whole[cut], atol=1e-5 * scale)
        for kept, feature in zip(module.latents(x, part), features, strict=True):
            np.testing.assert_allclose(kept, feature[cut], atol=1e-5 * float(feature.abs().max()))


@given(
    st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    st.integers(0, 2**31),
    st.sampled_from([1e-6, 1.0, 30.0, 1e6]),
)
def test_quantiles_never_cross(levels, seed, size):
    n, middle = levels
    raw = noise(seed, 2, 3, n, 4, 5) * size
    made = quantiles_from_raw(raw, middle)
    assert made.shape == raw.shape
    assert torch.equal(made[:, :, middle], raw[:, :, middle])
    assert (made.diff(dim=2) >= 0).all()


@given(st.integers(0, 2**31), st.sampled_from([0.1, 1.0, 30.0]))
def test_no_weights_make_quantiles_cross(random_members, seed, size):
    blueprint, _ = random_members(0, channels=2, levels=(0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95))
    module = build(blueprint, [(0, 0), (1, 0)])
    rng = np.random.default_rng(seed)
    with torch.inference_mode():
        for name, p in module.named_parameters():
            p.copy_(torch.from_numpy(size * rng.normal(size=p.shape).astype(np.float32)))
            assert name
        module.y_scale.copy_(torch.tensor([1e-3, 1e3]))
        made = module(noise(seed, 2, 2, 9, 7))
    assert torch.isfinite(made).all()
    assert (made.diff(dim=3) >= 0).all()
    assert (made.mean(1).diff(dim=2) >= 0).all()


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("levels", [(0.5,), (0.1, 0.5), (0.5, 0.75, 0.9), (0.05, 0.1, 0.5, 0.9)])
def test_predictions_are_what_training_sees_in_parts_of_any_size(
    random_members, monkeypatch, members, levels
):
    blueprint, made = random_members(members, channels=2, levels=levels)
    module, x = loaded(blueprint, scalings_alike(made)), inputs_of(2, 2)
    expected = module(x).detach()
    scale = float(expected.abs().max())
    for pixels in (1, 50, 10_000):
        monkeypatch.setattr(ensemble, "_HEAD_PIXELS", pixels)
        with torch.inference_mode():
            np.testing.assert_allclose(module(x), expected, atol=2e-6 * scale)


def test_initial_quantiles_are_those_of_the_targets():
    levels = (0.05, 0.25, 0.5, 0.75, 0.95)
    blueprint = Blueprint(NetworkSettings(depth=4), Schedule((1, 2, 1, 2)), 2, 2, 2, levels, 0)
    module = build(blueprint, [(0, 0)])
    x, y = noise(1, 8, 2, 24, 24), 3 * noise(2, 8, 2, 24, 24)
    y[:, 1] = y[:, 1].abs()
    y[0, 0, :5] = torch.nan
    module.initialise(x, y, rng=member_rng(0, 0, use=2))
    with torch.inference_mode():
        made = module.forward_scaled(x)[:, 0].mean(dim=(0, 3, 4))
    wanted = np.nanquantile(y.transpose(0, 1).flatten(1).numpy(), blueprint.levels, axis=1).T
    np.testing.assert_allclose(made, wanted, atol=0.6)
    assert not module.skip_weight.detach().any()


def test_initialisation_gives_every_layer_unit_variance():
    blueprint = Blueprint(NetworkSettings(), Schedule((1, 2) * 5), 1, 1, 2, (0.1, 0.5, 0.9), 0)
    module = build(blueprint, [(0, 0)])
    x = noise(1, 8, 1, 32, 32)
    module.initialise(x, noise(2, 8, 1, 32, 32), rng=member_rng(0, 0, use=2))
    with torch.inference_mode():
        for feature in module.trunk(x):
            assert float(2 * feature.square().mean()) == pytest.approx(1, rel=1e-3)


def test_initialisation_comes_from_the_generator_alone():
    blueprint = Blueprint(NetworkSettings(depth=3), Schedule((1, 2, 1)), 1, 1, 2, (0.1, 0.5, 0.9), 0)

    def weights(seed):
        module = build(blueprint, [(0, 0)])
        module.initialise(noise(1, 4, 1, 16, 16), noise(2, 4, 1, 16, 16), rng=np.random.default_rng(seed))
        return module.state_dict()

    torch.rand(7)  # nobody's business
    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["out_weight"], other["out_weight"])


def test_several_members_are_not_initialised_at_once():
    blueprint = Blueprint(NetworkSettings(depth=2), Schedule((1, 2)), 1, 1, 2, (0.5,), 0)
    module, x = build(blueprint, [(0, 0), (1, 0)]), noise(1, 2, 1, 8, 8)
    with pytest.raises(ValueError, match="one by one"):
        module.initialise(x, x, rng=np.random.default_rng(0))


@torch.inference_mode()
def test_latents_are_the_features_that_the_heads_read(random_members):
    blueprint, members = random_members(2, channels=3)
    module, x = loaded(blueprint, scalings_alike(members)), inputs_of(2, 3)
    latents = list(module.latents(x))
    width = blueprint.settings.channels * blueprint.settings.inputs
    assert [tuple(f.shape) for f in latents] == [(3, 2, width, 23, 17)] * blueprint.settings.depth
    alone = list(loaded(blueprint, members[1:]).latents(x))
    for both, one in zip(latents, alone, strict=True):
        np.testing.assert_allclose(both[:, 1], one[:, 0], atol=1e-4)


def test_features_are_freed_and_the_sum_is_as_with_all_kept(random_members):
    blueprint, members = random_members(1, channels=3)
    module, x = loaded(blueprint, members), inputs_of(2, 3)
    with torch.inference_mode():
        lean = module(x)
    full = module(x).detach()  # with gradients every feature is kept
    np.testing.assert_allclose(lean, full, atol=1e-5 * float(full.abs().max()))


def test_a_member_trained_again_has_another_graph():
    blueprint = Blueprint(NetworkSettings(), Schedule((1, 2) * 5), 1, 1, 2, (0.5,), 0)
    assert graph_of(blueprint, 3, 0) != graph_of(blueprint, 3, 1)
    assert build(blueprint, [(3, 1)]).trunk.graphs == (graph_of(blueprint, 3, 1),)
