"""U-Nets, plain stacks, autoencoders, and mixed ensembles: what they see, tile, train, store and show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import napari_btn as btn
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Box, View
from napari_btn.core.data.pairs import Pair
from napari_btn.core.inference.jacobian import filter_steps
from napari_btn.core.inference.latents import EnsembleLatents
from napari_btn.core.inference.run import tile_quantiles
from napari_btn.core.networks.convolutional.family import _Stages
from napari_btn.core.networks.family import (
    Blueprint,
    Extent,
    Member,
    Networks,
    build,
    family_of,
    graph_of,
    member_rng,
)
from napari_btn.core.progress import drain
from napari_btn.core.settings import NetworkSettings, TileSettings, TrainSettings
from napari_btn.core.supervision.patches import Lesson
from napari_btn.core.training.card import train_together_steps
from napari_btn.core.training.plan import estimate_training
from napari_btn.core.training.processes import Collapse, Start, train_steps

LEVELS = (0.05, 0.5, 0.95)
FAMILIES = ("unet", "dncnn", "cdae")
QUICK = TrainSettings(steps=4, batch_size=2, patch_px=16)


@pytest.fixture(autouse=True)
def no_collapse(monkeypatch):
    """Keep members that were trained for a few steps only."""
    monkeypatch.setattr(Collapse, "channels", lambda *_, **__: np.array([], int))


def settings_of(family, **more):
    return NetworkSettings(family=family, **{"depth": 6, "channels": 2, "inputs": 2, "head_units": 8} | more)


def blueprint_of(settings, ndim=2, channels=1, **extent):
    plan = family_of(settings.family).plan(settings, Extent(ndim, **extent))
    return Blueprint(settings, plan, channels, channels, ndim, LEVELS, 0)


def members_of(blueprint, count=2):
    """Members with random weights."""
    rng = np.random.default_rng(1)
    batch = torch.from_numpy(
        rng.normal(size=(2, blueprint.n_in, *(12,) * blueprint.ndim)).astype(np.float32) + 1
    )
    made = []
    for k in range(count):
        module = build(blueprint, [(k, 0)])
        module.initialise(batch, batch, rng=member_rng(0, k, use=2))
        made.append(Member(k, 0, {n: v.numpy() for n, v in module.state_dict().items()}))
    return tuple(made)


def loaded(blueprint, member):
    module = build(blueprint, [(member.number, 0)])
    module.load_state_dict({n: torch.from_numpy(v) for n, v in member.weights.items()})
    return module


def stitched(source, blueprint, members, tile):
    made = np.full((len(LEVELS), source.n_channels, *source.space), np.nan, np.float32)
    whole = Box(0, tuple(slice(0, n) for n in source.space))
    compute = Compute(TileSettings(tile_px=tile), executor=Inline())
    for _, part in tile_quantiles(source, [whole], Networks(blueprint, members), compute):
        if part is not None:
            made[(slice(None), slice(None), *part.write)] = part.quantiles
    return made


# ---------------------------------------------------------------- what they see


@pytest.mark.parametrize(
    ("depth", "stages", "side"),
    [(10, _Stages((2,) * 2, 2), 47), (18, _Stages((2,) * 4, 2), 215), (26, _Stages((2,) * 6, 2), 887)],
)
def test_depth_gives_a_unet_its_field_of_view(depth, stages, side):
    blueprint = blueprint_of(NetworkSettings(family="unet", depth=depth))
    assert blueprint.plan == stages
    assert 2 * blueprint.receptive_field + 1 == side
    assert len(list(build(blueprint, [(0, 0)]).trunk.weights())) == depth


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6, 8, 10, 11])
def test_a_pixel_depends_on_the_stated_field_and_no_less(family, depth):
    blueprint = blueprint_of(settings_of(family, depth=depth, bias_free=True))
    trunk = build(blueprint, [(0, 0)]).trunk
    with torch.no_grad():
        for weight, _ in trunk.weights():
            # all positive, so that every path counts
            weight.fill_(0.1)
    assert len(list(trunk.weights())) == depth
    farthest, n = 0, 2 * blueprint.receptive_field + 20
    for at in range(n // 2, n // 2 + blueprint.alignment_px):
        x = torch.ones(1, 1, n, n, requires_grad=True)
        *_, feature = trunk(x)
        (gradient,) = torch.autograd.grad(feature[0, :, at, at].sum(), x)
        rows = gradient[0, 0].sum(1).nonzero().flatten()
        farthest = max(farthest, at - int(rows.min()), int(rows.max()) - at)
    assert farthest == blueprint.receptive_field


@pytest.mark.parametrize(
    ("family", "depth", "count"), [("unet", 10, 1), ("dncnn", 5, 5), ("cdae", 10, 5), ("cdae", 2, 2)]
)
def test_features_are_those_that_the_family_states(family, depth, count):
    blueprint = blueprint_of(settings_of(family, depth=depth))
    made = list(build(blueprint, [(0, 0), (1, 0)]).trunk(torch.zeros(1, 2, 9, 7)))
    assert tuple(f.shape[1] // 2 for f in made) == blueprint.widths
    assert {f.shape[2:] for f in made} == {(9, 7)}
    # heads read nothing that did not pass the bottleneck
    assert len(made) == count


def test_a_stop_is_looked_for_before_each_layer():
    blueprint = blueprint_of(settings_of("unet", depth=10))
    module = loaded(blueprint, members_of(blueprint, 1)[0])
    calls = []
    module.between = lambda: calls.append(1)
    with torch.inference_mode():
        module(torch.zeros(1, 1, 16, 16))
    assert len(calls) >= 10


def test_small_images_take_poolings_or_layers_away():
    for family, depth in (("unet", 18), ("cdae", 18), ("dncnn", 30)):
        settings = settings_of(family, depth=depth)
        wanted = blueprint_of(settings).receptive_field
        for limit in (25, 12, 3):
            assert blueprint_of(settings, limit_px=limit).receptive_field <= limit < wanted


def test_a_wanted_field_takes_as_many_poolings_as_it_needs():
    for field, least in ((2, 0), (20, 2), (50, 3), (100, 4), (10_000, 6)):
        blueprint = blueprint_of(settings_of("unet", depth=6), field_px=field)
        assert blueprint.plan.poolings == least
        assert blueprint.receptive_field >= min(field, 443)


# ---------------------------------------------------------------- laws of every family


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("ndim", "shape"), [(2, (41, 30)), (3, (9, 14, 11))])
def test_bias_free_members_are_homogeneous_of_degree_one(family, ndim, shape):
    x = torch.from_numpy(np.random.default_rng(0).gamma(2, size=(1, 2, *shape)).astype(np.float32))
    for bias_free in (True, False):
        blueprint = blueprint_of(settings_of(family, bias_free=bias_free), ndim, 2)
        (member,) = members_of(blueprint, 1)
        module = loaded(blueprint, member)
        with torch.inference_mode():
            once, twice = module(x).numpy(), module(2 * x).numpy()
        if bias_free:
            np.testing.assert_allclose(twice, 2 * once, atol=1e-5 * np.abs(twice).max())
        else:
            # output biases stand at the quantiles of the targets, so that this law can fail
            assert np.abs(twice - 2 * once).max() > 1e-2 * np.abs(twice).max()


@pytest.mark.parametrize("family", [*FAMILIES, "sms+unet"])
@pytest.mark.parametrize("shape", [(61, 37), (15, 19, 22)])
def test_tiles_are_the_whole_image(family, shape):
    ndim = len(shape)
    blueprint = blueprint_of(settings_of(family, depth=10 if ndim == 2 else 6, max_dilation=2), ndim)
    members = members_of(blueprint)
    source = View(np.random.default_rng(0).normal(size=shape).astype(np.float32), "ZYX"[-ndim:])
    whole = stitched(source, blueprint, members, 300)
    for tile in (15, 22):
        tiled = stitched(source, blueprint, members, tile)
        np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.ptp(whole))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_does_not_depend_on_its_batch(family):
    blueprint = blueprint_of(settings_of(family))
    module = loaded(blueprint, members_of(blueprint, 1)[0])
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 1, 21, 18)).astype(np.float32))
    x[1] *= 100
    with torch.inference_mode():
        together = module(x).numpy()
        for one, image in zip(together, x, strict=True):
            np.testing.assert_allclose(module(image[None]).numpy()[0], one, atol=1e-5 * np.ptp(one))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("ndim", "bias_free"), [(2, False), (2, True), (3, False)])
def test_groups_train_the_members_that_processes_train(family, ndim, bias_free):
    given = lesson_of(settings_of(family, bias_free=bias_free), ndim)
    alone = drain(train_steps(*given, members=2, compute=Compute(executor=Inline())))
    together = drain(train_together_steps(*given, members=2, compute=Compute()))
    assert_alike(alone.members, together.members, 1e-3)
    assert not bias_free or not any(
        value.any() for name, value in alone.members[0].weights.items() if name.endswith("_bias")
    )


def lesson_of(settings, ndim=2):
    rng = np.random.default_rng(0)
    shape = (30, 26) if ndim == 2 else (9, 14, 12)
    clean = rng.normal(size=(2, *shape)).cumsum(-1).astype(np.float32)
    noisy = clean + rng.normal(size=clean.shape).astype(np.float32)
    scenes = Pair(noisy, clean, "CYX" if ndim == 2 else "CZYX").scenes
    lesson = Lesson(scenes, tuple(scenes.whole()))
    return lesson, blueprint_of(settings, ndim, 2), replace(QUICK, patch_px=9)


def assert_alike(members, others, tolerance):
    assert [m.number for m in members] == [m.number for m in others]
    for one, other in zip(members, others, strict=True):
        assert one.weights.keys() == other.weights.keys()
        for name, expected in one.weights.items():
            scale = tolerance * max(np.abs(expected).max(), 1e-2)
            np.testing.assert_allclose(other.weights[name], expected, atol=scale, err_msg=name)


@pytest.mark.parametrize("family", [*FAMILIES, "sms+unet"])
def test_filters_are_finite_differences(family):
    blueprint = blueprint_of(settings_of(family), 2, 2)
    networks = Networks(blueprint, members_of(blueprint))
    image = np.random.default_rng(0).normal(size=(2, 31, 26)).astype(np.float32)
    at, step = (14, 11), 1e-2
    made = drain(filter_steps(View(image, "CYX"), networks, at, channel=1))
    assert made.value == pytest.approx(float((made.weights * image).sum() + made.net_bias), abs=1e-4)
    scale = float(np.abs(made.weights).max())
    for channel, y, x in ((0, 14, 11), (1, 13, 12), (1, 15, 9)):
        median = []
        for sign in (1, -1):
            moved = image.copy()
            moved[channel, y, x] += sign * step
            source = View(moved, "CYX")
            median.append(float(stitched(source, blueprint, networks.members, 300)[(1, 1, *at)]))
        slope = (median[0] - median[1]) / (2 * step)
        # few ReLUs switch within the step
        assert slope == pytest.approx(float(made.weights[channel, y, x]), abs=0.05 * scale)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cost_is_that_of_the_layers(family):
    blueprint = blueprint_of(settings_of(family, depth=10), 2, 3)
    kernels = [weight.numel() for weight, _ in build(blueprint, [(0, 0)]).trunk.weights()]
    levels = [layer.level for layer in blueprint.family.layers(blueprint)]
    wanted = sum(n / 4**level for n, level in zip(kernels, levels, strict=True))
    assert blueprint.family.multiplications(blueprint) == pytest.approx(wanted, abs=1)
    shallow, deep = (
        estimate_training((64, 64), "YX", settings_of(family, depth=depth), QUICK, 2) for depth in (6, 60)
    )
    assert shallow.seconds < deep.seconds


# ---------------------------------------------------------------- from the user's object


@pytest.mark.parametrize(
    ("family", "axes", "shape", "more"),
    [
        ("unet", "CYX", (2, 51, 96), {}),
        ("dncnn", "YX", (51, 96), {"bias_free": True}),
        ("cdae", "ZYX", (13, 22, 70), {}),
        ("sms+unet", "CYX", (2, 51, 96), {"max_dilation": 2}),
    ],
)
def test_a_bundle_predicts_the_same_pixels(tmp_path, family, axes, shape, more):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=shape).cumsum(-1).astype(np.float32)
    noisy = clean + rng.normal(size=shape).astype(np.float32)
    denoiser = btn.Denoiser(members=3, network=settings_of(family, **more), train=QUICK, device="cpu")
    denoiser.fit(noisy, clean, axes=axes, executor=Inline())
    whole = denoiser.predict(noisy, axes, executor=Inline())
    assert np.isfinite(whole.quantiles).all()
    denoiser.save(tmp_path / "model.btn")
    again = btn.load(tmp_path / "model.btn", device="cpu")
    assert again.network == denoiser.network
    assert again.model.blueprint == denoiser.model.blueprint
    np.testing.assert_array_equal(again.predict(noisy, axes, executor=Inline()).quantiles, whole.quantiles)


def test_a_mixed_ensemble_has_tokens_and_shows_the_graphs_that_there_are(monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    pair = btn.samples.edx(seed=1, size=(48, 176))
    network = settings_of("sms+unet", max_dilation=2)
    denoiser = btn.Denoiser(members=2, network=network, train=QUICK, device="cpu")
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, executor=Inline())
    tokens = denoiser.tokens(pair.noisy, axes=pair.axes, executor=Inline())
    assert tokens.labels.shape == pair.noisy.shape[1:]
    assert len(denoiser.graph(0).sources) == network.depth
    with pytest.raises(ValueError, match="family is 'unet', whose members have no random connections"):
        denoiser.graph(1)


# ---------------------------------------------------------------- mixed ensembles


def test_members_take_turns_and_are_those_of_their_own_families():
    mixed = lesson_of(settings_of("sms+unet"))
    trained = drain(train_steps(*mixed, members=3, compute=Compute(executor=Inline()))).members
    for family, numbers in (("sms", (0, 2)), ("unet", (1,))):
        own = drain(
            train_steps(*lesson_of(settings_of(family)), members=3, compute=Compute(executor=Inline()))
        )
        assert_alike([trained[k] for k in numbers], [own.members[k] for k in numbers], 0)
    together = drain(train_together_steps(*mixed, members=3, compute=Compute()))
    assert_alike(trained, together.members, 1e-3)
    start = Start(members=trained, first_draw=100)
    again = drain(train_steps(*mixed, members=3, compute=Compute(executor=Inline()), start=start))
    assert len(again.members) == 3
    with pytest.raises(ValueError, match="Member 1 of the checkpoint does not fit"):
        drain(
            train_steps(
                *lesson_of(settings_of("unet+sms")),
                members=3,
                compute=Compute(executor=Inline()),
                start=start,
            )
        )


def test_a_mixed_ensemble_sees_as_far_as_the_farthest_and_aligns_to_all():
    mixed = blueprint_of(settings_of("sms+unet+dncnn", depth=10))
    parts = [blueprint_of(settings_of(name, depth=10)) for name in ("sms", "unet", "dncnn")]
    assert mixed.receptive_field == max(part.receptive_field for part in parts)
    assert mixed.alignment_px == 4
    assert [mixed.of(k) for k in range(4)] == [*parts, parts[0]]
    assert mixed.family.from_dict(mixed.family.to_dict(mixed.plan)) == mixed.plan
    assert graph_of(mixed, 3) == graph_of(parts[0], 3)
    with pytest.raises(
        ValueError, match=r"Members 1, 2 of the family 'sms\+unet\+dncnn' can't run as groups"
    ):
        build(mixed, [(0, 0), (1, 0)])


def test_latents_of_members_with_fewer_features_are_filled_with_zeros():
    blueprint = blueprint_of(settings_of("sms+unet", max_dilation=2))
    members = members_of(blueprint)
    source = View(np.random.default_rng(0).normal(size=(41, 30)).astype(np.float32), "YX")
    latents = EnsembleLatents(source, Networks(blueprint, members), Compute(executor=Inline()))
    assert latents.features == 6 * 4
    positions = np.array([[0, 3, 4], [0, 30, 12]])
    found = {k: values for _, part in latents.sample(positions) if part for k, _, values in [part]}
    assert found[0].shape == found[1].shape == (2, 24)
    assert not found[1][:, 4:].any()
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=(24, 2)).astype(np.float32) for _ in members]
    whole = [Box(0, (slice(0, 41), slice(0, 30)))]
    (made,) = [part for _, part in latents.project(weights, whole, 0) if part is not None]
    wanted = sum(found[k] @ weights[k] for k in (0, 1))
    np.testing.assert_allclose(made.values[:, positions[:, 1], positions[:, 2]].T, wanted, atol=1e-4)


def test_a_mixture_with_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"family is 'sms\+other'; it must be .*several with \+ between"):
        NetworkSettings(family="sms+other")
