"""Groups of held-out pixels: the tokens that the whole image has there, a tree that `calibrate_groups` climbs."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.grouping import (
    Grouping,
    leaf_map_steps,
    leaves_at_steps,
    mask_grouping,
    model_steps,
)
from napari_btn.core.calibration.groups import calibrate_groups
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import View
from napari_btn.core.inference.latents import EnsembleLatents
from napari_btn.core.networks.family import Networks
from napari_btn.core.progress import Progress
from napari_btn.core.settings import TileSettings
from napari_btn.core.tokens.clustering import fit_palette_steps
from napari_btn.core.tokens.learn import TokenModel


def drain(step):
    while True:
        try:
            assert isinstance(next(step), Progress)
        except StopIteration as end:
            return end.value


def field(seed=0, shape=(60, 90)):
    """Two flat phases under noise."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(shape, np.float32)
    signal[20:40, 30:60] = 3
    return (signal + 0.3 * rng.normal(size=shape)).astype(np.float32)[None]


def latents(image, members, blueprint, **tiles):
    view = View(image, "CYX")
    compute = Compute(TileSettings(**tiles), Inline())
    return EnsembleLatents(view, Networks(blueprint, members), compute), view


def test_held_out_pixels_have_the_leaf_that_the_whole_image_has_there(random_members):
    blueprint, members = random_members()
    source, view = latents(field(), members, blueprint)
    model = drain(model_steps(source, view, 4, seed=1))
    rng = np.random.default_rng(2)
    at = rng.permutation(np.argwhere(rng.uniform(size=(1, 60, 90)) < 0.2))
    pieces, _ = latents(field(), members, blueprint, tile_px=30)
    whole = drain(leaf_map_steps(source, model))
    np.testing.assert_array_equal(drain(leaves_at_steps(pieces, model, at)), whole[tuple(at.T)])
    np.testing.assert_array_equal(drain(leaf_map_steps(pieces, model)), whole)
    assert len(np.unique(whole)) > 4


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(c, 0.3, (400, 3)) for c in range(12)]).astype(np.float32)
    palette = drain(fit_palette_steps(points, points.T[:1], count=12, replicates=0))
    return TokenModel(None, palette, 4)


def test_the_finest_cut_alone_gives_the_same_leaves(model):
    points = np.random.default_rng(1).normal(5, 4, (3000, 3)).astype(np.float32)
    np.testing.assert_array_equal(model.palette.finest(points), model.palette.assign(points)[-1])


@pytest.mark.parametrize("count", [2, 5, 12])
def test_groups_are_the_tokens_of_the_cut_and_climb_along_the_palettes_tree(model, count):
    leaves = np.repeat(np.arange(12), 30)
    grouping = Grouping(count, leaves, model)
    group, parents = grouping.groups(leaves), grouping.parents
    assert sorted(set(group)) == list(range(count))
    assert (grouping.groups(np.array([255])) == -1).all()
    assert len(parents) == 2 * count - 1
    assert parents.count(-1) == 1
    assert all(p > g for g, p in enumerate(parents) if p != -1)
    # What is under a node of the tree is what is under some node of the palette.
    known = {frozenset(np.flatnonzero(row)) for row in model.palette.leaves}
    for node in range(2 * count - 1):
        under = [g for g in range(count) if node in _up(g, parents)]
        assert frozenset(leaves[np.isin(group, under)]) in known


def _up(node, parents):
    out = []
    while node != -1:
        out.append(node)
        node = parents[node]
    return out


def test_a_rare_token_climbs_to_its_neighbour(model):
    leaves = np.repeat(np.arange(12), 200)
    n = leaves.size
    rng = np.random.default_rng(0)
    block = rng.integers(0, 60, n)
    block[leaves == 0] = 0
    data = HeldOut(np.zeros((1, 1, n), np.float32), rng.normal(size=(1, n)).astype(np.float32), block, (0.5,))
    grouping = Grouping(12, leaves, model)
    group = grouping.groups(leaves)
    made = calibrate_groups(data, group, parents=grouping.parents)
    rare = int(group[0])
    assert made.fallback == (rare,)
    assert made.node[rare] == grouping.parents[rare]
    assert f"Token {rare + 1}: worth fewer than 19" in made.notes[-1].text
    assert "neighbours in the tree" in made.notes[-1].text


def test_a_mask_gives_each_pixel_its_number():
    mask = np.zeros((20, 30), np.int32)
    mask[:, 10:] = 2
    at = np.array([[0, 3, 3], [1, 3, 12], [4, 19, 29]])
    grouping = mask_grouping(View(mask, "YX"), at)
    assert grouping.groups(grouping.held_out).tolist() == [-1, 1, 1]
    assert (grouping.count, grouping.name, grouping.parents) == (2, "group", None)
    with pytest.raises(ValueError, match="over the field that was calibrated on"):
        mask_grouping(View(mask[:15], "YX"), at)
    with pytest.raises(ValueError, match="No held-out pixel lies in a group"):
        mask_grouping(View(0 * mask, "YX"), at)
