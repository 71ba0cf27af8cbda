"""Other families train, tile, save and load like the built-in one; one is the contributing guide's example."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import napari_btn as btn
from napari_btn.core import registry
from napari_btn.core.compute.device import in_memory
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Box, View
from napari_btn.core.data.pairs import Pair
from napari_btn.core.inference.jacobian import filter_steps
from napari_btn.core.inference.latents import EnsembleLatents
from napari_btn.core.inference.run import loaded, tile_quantiles
from napari_btn.core.networks.family import (
    Blueprint,
    Extent,
    Family,
    Member,
    Networks,
    build,
    graph_of,
    member_rng,
)
from napari_btn.core.networks.trunk import Trunk
from napari_btn.core.registry import FAMILIES
from napari_btn.core.settings import NetworkSettings, TileSettings, TrainSettings
from napari_btn.core.supervision.patches import Lesson
from napari_btn.core.training.card import train_together_steps
from napari_btn.core.training.plan import estimate_training
from napari_btn.core.training.processes import Collapse, train_steps

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "contributing.md"
LEVELS = (0.05, 0.5, 0.95)
QUICK = TrainSettings(steps=6, batch_size=2, patch_px=16)


@pytest.fixture
def stack(monkeypatch):
    """Register the family of the contributing guide under the name that the guide gives it."""
    monkeypatch.setattr(FAMILIES, "_parts", dict(FAMILIES._parts))
    section = GUIDE.read_text(encoding="utf-8").partition("## Add a member family\n")[2].partition("\n## ")[0]
    names = {"__name__": "stack"}
    for text in re.findall(r"^```python\n(.*?)^```", section, flags=re.M | re.S):
        exec(compile(text, GUIDE.name, "exec"), names)
    return FAMILIES["stack"]


@pytest.fixture(autouse=True)
def no_collapse(monkeypatch):
    """Keep members that were trained for a few steps only."""
    monkeypatch.setattr(Collapse, "channels", lambda *_, **__: np.array([], int))


def settings_of(**more):
    return NetworkSettings(**{"family": "stack", "depth": 3, "channels": 2, "head_units": 8} | more)


def drain(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


# ---------------------------------------------------------------- a stack of dilated convolutions


@pytest.mark.parametrize(
    ("axes", "shape", "network"),
    [("YX", (51, 96), {}), ("YX", (51, 96), {"bias_free": True}), ("ZYX", (13, 22, 90), {"max_dilation": 2})],
)
def test_it_trains_and_its_bundle_predicts_the_same_pixels(stack, tmp_path, axes, shape, network):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=shape).cumsum(-1).astype(np.float32)
    noisy = clean + rng.normal(size=shape).astype(np.float32)
    denoiser = btn.Denoiser(members=2, network=settings_of(**network), train=QUICK, device="cpu")
    denoiser.fit(noisy, clean, axes=axes, executor=Inline())
    whole = denoiser.predict(noisy, axes, executor=Inline())
    assert np.isfinite(whole.quantiles).all()

    denoiser.save(tmp_path / "stack.btn")
    again = btn.load(tmp_path / "stack.btn", device="cpu")
    assert again.network.family == "stack"
    assert again.receptive_field == denoiser.receptive_field == (4 if axes == "ZYX" else 6)
    np.testing.assert_array_equal(again.predict(noisy, axes, executor=Inline()).quantiles, whole.quantiles)

    settings = replace(again.model.settings, tiles=TileSettings(tile_px=23))
    tiled = (
        btn.Denoiser.of(replace(again.model, settings=settings))
        .predict(noisy, axes, executor=Inline())
        .quantiles
    )
    np.testing.assert_allclose(tiled, whole.quantiles, atol=1e-5 * np.ptp(whole.quantiles))
    if network.get("bias_free"):
        weights = denoiser.model.networks.members[0].weights
        assert not any(value.any() for name, value in weights.items() if name.endswith("_bias"))


def test_it_has_tokens_but_no_graph_to_show(stack, monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    pair = btn.samples.edx(seed=1, size=(48, 176))
    denoiser = btn.Denoiser(members=1, network=settings_of(), train=QUICK, device="cpu")
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, executor=Inline())
    tokens = denoiser.tokens(pair.noisy, axes=pair.axes, executor=Inline())
    assert tokens.labels.shape == pair.noisy.shape[1:]
    with pytest.raises(ValueError, match=r"family is 'stack', whose members have no random connections"):
        denoiser.graph(0)


def test_small_images_shorten_its_plan(stack):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(40, 60)).astype(np.float32)
    denoiser = btn.Denoiser(network=settings_of(depth=9), device="cpu")
    made = denoiser.check(clean + 1, clean, axes="YX")
    assert made.receptive_field <= 15
    assert any(
        f"networks see {made.receptive_field} px to each side instead of" in n.text for n in made.notes
    )


@pytest.mark.parametrize(("ndim", "bias_free"), [(2, False), (2, True), (3, False)])
def test_groups_train_the_members_that_processes_train(stack, ndim, bias_free):
    rng = np.random.default_rng(0)
    shape = (30, 26) if ndim == 2 else (9, 14, 12)
    clean = rng.normal(size=(2, *shape)).cumsum(-1).astype(np.float32)
    noisy = clean + rng.normal(size=clean.shape).astype(np.float32)
    scenes = Pair(noisy, clean, "CYX" if ndim == 2 else "CZYX").scenes
    settings = settings_of(bias_free=bias_free)
    blueprint = Blueprint(settings, stack.plan(settings, Extent(ndim)), 2, 2, ndim, LEVELS, 3)
    train = replace(QUICK, patch_px=8)
    given = Lesson(scenes, tuple(scenes.whole())), blueprint, train
    alone = drain(train_steps(*given, members=3, compute=Compute(executor=Inline())))
    together = drain(train_together_steps(*given, members=3, compute=Compute()))
    for one, other in zip(alone.members, together.members, strict=True):
        for name, expected in one.weights.items():
            scale = max(np.abs(expected).max(), 1e-2)
            np.testing.assert_allclose(other.weights[name], expected, atol=1e-3 * scale, err_msg=name)


def test_its_cost_is_that_of_its_layers(stack):
    settings = settings_of(channels=4)
    blueprint = Blueprint(settings, stack.plan(settings, Extent(2)), 3, 3, 2, LEVELS, 0)
    weights = sum(weight.numel() for weight, _ in build(blueprint, [(0, 0)]).trunk.weights())
    assert stack.multiplications(blueprint) == weights
    shallow, deep = (
        estimate_training((64, 64), "YX", settings_of(depth=depth), QUICK, 2, device="cuda")
        for depth in (3, 30)
    )
    assert shallow.bytes < deep.bytes


def test_its_features_are_as_wide_as_the_family_says(stack):
    settings = settings_of()
    blueprint = Blueprint(settings, stack.plan(settings, Extent(2)), 1, 1, 2, LEVELS, 0)
    trunk = build(blueprint, [(0, 0), (1, 0)]).trunk
    assert tuple(f.shape[1] // 2 for f in trunk(torch.zeros(1, 2, 9, 7))) == blueprint.widths


# ---------------------------------------------------------------- a trunk that pools


class Pooled(Trunk):
    """A convolution, and another at half the resolution."""

    def __init__(self, members, n_in, ndim, width):
        super().__init__()
        self.ndim = ndim
        for t, read in enumerate((n_in, width)):
            shape = (members, width, read, *(3,) * ndim)
            self.register_parameter(f"layer{t}_weight", nn.Parameter(torch.empty(shape)))
            self.register_parameter(f"layer{t}_bias", nn.Parameter(torch.zeros(members, width)))

    def weights(self):
        for t in range(2):
            yield self.get_parameter(f"layer{t}_weight"), self.get_parameter(f"layer{t}_bias")

    def forward(self, x):
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.ndim - 1]
        pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[self.ndim - 1]
        first, second = (
            (weight.flatten(0, 1), bias.flatten(), 1, 1, 1, len(weight)) for weight, bias in self.weights()
        )
        fine = F.relu(convolve(x, *first))
        yield fine
        coarse = F.relu(convolve(pool(fine, 2, ceil_mode=True, count_include_pad=False), *second))
        spread = F.interpolate(coarse, scale_factor=2, mode="nearest")
        yield spread[(..., *(slice(0, n) for n in x.shape[2:]))]


class PooledFamily(Family):
    """Two layers, the second at half the resolution."""

    alignment_px = 2

    def trunk(self, blueprint, members):
        return Pooled(len(members), blueprint.n_in, blueprint.ndim, 4)

    def reach(self, blueprint):
        # three pooled pixels, of two each, around a pixel that is the first or the last of its two; and one more
        return (4,) * blueprint.ndim

    def widths(self, blueprint):
        return (4, 4)


@pytest.fixture
def pooled(monkeypatch):
    monkeypatch.setitem(FAMILIES._parts, "pooled", PooledFamily())
    return FAMILIES["pooled"]


def pooled_members(ndim, count=2):
    """(blueprint, members) with random weights."""
    blueprint = Blueprint(settings_of(family="pooled"), None, 1, 1, ndim, LEVELS, 0)
    rng = np.random.default_rng(1)
    batch = torch.from_numpy(rng.normal(size=(2, 1, *(12,) * ndim)).astype(np.float32))
    members = []
    for k in range(count):
        module = build(blueprint, [(k, 0)])
        module.initialise(batch, batch, rng=member_rng(0, k, use=2))
        members.append(Member(k, 0, {n: v.numpy() for n, v in module.state_dict().items()}))
    return blueprint, members


def stitched(source, blueprint, members, tiles, region=None):
    box = Box(0, region or tuple(slice(0, n) for n in source.space))
    made = np.full((len(LEVELS), 1, *source.space), np.nan, np.float32)
    for _, tile in tile_quantiles(
        source, [box], Networks(blueprint, tuple(members)), Compute(tiles, executor=Inline())
    ):
        if tile is not None:
            made[(slice(None), slice(None), *tile.write)] = tile.quantiles
    return made


@pytest.mark.parametrize("shape", [(41, 30), (37, 53), (15, 19, 22)])
@pytest.mark.parametrize("tile", [15, 20, 23])
def test_tiles_of_a_trunk_that_pools_are_the_whole_image(pooled, shape, tile):
    blueprint, members = pooled_members(len(shape))
    source = View(np.random.default_rng(0).normal(size=shape).astype(np.float32), "ZYX"[-len(shape) :])
    whole = stitched(source, blueprint, members, TileSettings(tile_px=200))
    tiled = stitched(source, blueprint, members, TileSettings(tile_px=tile))
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.ptp(whole))
    region = tuple(slice(3, n - 2) for n in shape)
    part = stitched(source, blueprint, members, TileSettings(tile_px=tile), region)
    inside = (slice(None), slice(None), *region)
    np.testing.assert_allclose(part[inside], whole[inside], atol=1e-5 * np.ptp(whole))


def test_tiles_that_are_not_aligned_show_that_the_test_can_fail(pooled, monkeypatch):
    blueprint, members = pooled_members(2)
    source = View(np.random.default_rng(0).normal(size=(41, 30)).astype(np.float32), "YX")
    whole = stitched(source, blueprint, members, TileSettings(tile_px=200))
    monkeypatch.setattr(PooledFamily, "alignment_px", 1)
    tiled = stitched(source, blueprint, members, TileSettings(tile_px=15))
    assert np.abs(tiled - whole).max() > 1e-3 * np.ptp(whole)


def test_a_card_without_room_cuts_tiles_at_the_same_multiples(pooled):
    blueprint, (member, _) = pooled_members(2)
    module = loaded(blueprint, member)
    x = np.random.default_rng(0).normal(size=(1, 41, 30)).astype(np.float32)

    def task(x, keep, device):
        if x.size > 500:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        with torch.inference_mode():
            return module(torch.from_numpy(x[None].copy()), keep)[0, 0].numpy()

    with torch.inference_mode():
        whole = module(torch.from_numpy(x[None]))[0, 0].numpy()
    keep = (slice(0, 41), slice(0, 30))
    made, fitted = in_memory(task, x, keep, blueprint.reach, "meta", blueprint.alignment_px)
    assert not fitted
    np.testing.assert_allclose(made, whole, atol=1e-5 * np.ptp(whole))


def test_latents_and_filters_of_a_trunk_that_pools(pooled):
    blueprint, members = pooled_members(2)
    source = View(np.random.default_rng(0).normal(size=(41, 30)).astype(np.float32), "YX")
    rng = np.random.default_rng(2)
    weights = [rng.normal(size=(8, 2)).astype(np.float32) for _ in members]

    def projected(tile):
        compute = Compute(TileSettings(tile_px=tile), executor=Inline())
        latents = EnsembleLatents(source, Networks(blueprint, tuple(members)), compute)
        made = np.zeros((2, 41, 30), np.float32)
        for _, part in latents.project(weights, [Box(0, (slice(0, 41), slice(0, 30)))], 1):
            if part is not None:
                made[(slice(None), *part.write)] = part.values[(slice(None), *part.keep)]
        return made

    np.testing.assert_allclose(projected(19), projected(200), atol=1e-4)
    whole = stitched(source, blueprint, members, TileSettings(tile_px=200))
    for at in ((20, 15), (17, 12)):
        made = drain(filter_steps(source, Networks(blueprint, tuple(members)), at))
        assert made.value == pytest.approx(float(whole[(1, 0, *at)]), abs=1e-5)


def test_training_takes_patches_of_any_size(pooled):
    pair = btn.samples.blobs(seed=0, n=6)
    network = settings_of(family="pooled")
    for side in (15, 16):
        denoiser = btn.Denoiser(
            members=1, network=network, train=replace(QUICK, patch_px=side), device="cpu",
            calibration=btn.CalibrationSettings(train_fraction=0.5),
        )  # fmt: skip
        denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, executor=Inline())
        assert np.isfinite(denoiser.predict(pair.noisy, pair.axes, executor=Inline()).median).all()


# ---------------------------------------------------------------- the registry


def test_an_unknown_family_is_refused_with_those_that_are_known(stack):
    with pytest.raises(ValueError, match=r"family is 'other'; it must be .*\"sms\" or \"stack\" or \"unet\""):
        NetworkSettings(family="other")


def test_a_family_that_this_process_lacks_says_where_families_come_from():
    with pytest.raises(KeyError, match=r"'other' is not among .*sms"):
        registry.Registry("napari_btn.families", {"sms": "a.b:c"})["other"]


def test_installed_packages_bring_families(monkeypatch):
    group = "napari_btn.families"
    points = [EntryPoint("extent", "napari_btn.core.networks.family:Extent", group)]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: points)
    known = registry.Registry(group, {"sms": "napari_btn.core.networks.sms.family:FAMILY"})
    assert list(known) == ["extent", "sms"]
    assert len(known) == 2
    assert known["extent"] is Extent
    assert known["sms"] is FAMILIES["sms"]


def test_graphs_come_from_the_family():
    settings = NetworkSettings(depth=3)
    family = FAMILIES["sms"]
    blueprint = Blueprint(settings, family.plan(settings, Extent(2)), 1, 1, 2, LEVELS, 0)
    assert graph_of(blueprint, 1) == family.graph(blueprint, 1, 0)
