"""Tokens of a trained ensemble: same bits, any tiles, any axes, kept in the bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import napari_btn as btn
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Box, View
from napari_btn.core.inference.latents import EnsembleLatents
from napari_btn.core.networks.family import build
from napari_btn.core.progress import drain
from napari_btn.core.settings import TokenSettings
from napari_btn.core.tokens.clustering import adjusted_rand, fit_palette_steps
from napari_btn.core.tokens.tokens import Tokens
from napari_btn.workflow.calibrate import held_out_intervals
from napari_btn.workflow.inputs import image_for
from napari_btn.workflow.recipe import Recipe
from napari_btn.workflow.tokens import edited_again_steps, edited_steps, tokens_steps

if TYPE_CHECKING:
    from napari_btn.denoiser import Denoiser

PAIR = btn.samples.edx(seed=0, size=(96, 192))


@pytest.fixture(scope="module", autouse=True)
def _few_pixels():
    """Sample fewer pixels than is right for real images, so that tests take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 2500)
        patch.setattr("napari_btn.core.tokens.shares._STARTS", 1)
        patch.setattr("napari_btn.core.tokens.shares._ROUNDS", 1)
        patch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 2)
        yield


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    denoiser = btn.Denoiser(
        members=2,
        network=btn.NetworkSettings(depth=4),
        train=btn.TrainSettings(steps=20, patch_px=32),
        device="cpu",
    )
    return denoiser.fit(
        PAIR.noisy, PAIR.clean, axes="CYX", channel_names=PAIR.channel_names, pixel_size=(0.5, 0.5), unit="um",
        executor=Inline(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def tokens(denoiser):
    return denoiser.tokens(PAIR.noisy, n_tokens=12, axes="CYX")


def test_tokens_are_labels_from_one(tokens):
    assert tokens.labels.shape == (96, 192)
    assert np.array_equal(np.unique(tokens.labels), np.arange(1, 13))
    assert tokens.channel_names == ("Si", "Al", "Fe")
    assert tokens.pixel_size == (0.5, 0.5)
    assert tokens.unit == "um"
    assert tokens.provenance["tokens"]["n_tokens"] == 12
    assert list(tokens.table)[:3] == ["index", "pixels", "share"]
    assert (np.diff(tokens.ordered(0).table["Si median"]) > -0.05).all()
    assert tokens.cut(5).labels.max() == 5


def test_coverage_is_counted_where_held_out_pixels_lie(denoiser, tokens):
    lower, _, upper = held_out_intervals(
        denoiser.model.scores, denoiser.calibration, denoiser.calibration_settings, denoiser.seed
    )
    held_out = denoiser.held_out
    inside = (lower <= held_out.target) & (held_out.target <= upper)
    number = tokens.labels[tuple(held_out.position[:, 1:].T)]
    table = tokens.table
    assert table["known pixels"].sum() == number.size
    for k in range(1, 13):
        here = inside[2, number == k]
        known = here.mean() if here.size else np.nan
        np.testing.assert_allclose(table["Fe coverage"][k - 1], known, rtol=1e-6)
    whole = np.average(np.nan_to_num(table["Fe coverage"]), weights=table["known pixels"])
    np.testing.assert_allclose(whole, denoiser.report.coverage[2], atol=0.02)


def test_coverage_is_unknown_in_an_image_not_calibrated_on(denoiser, tokens):
    other = denoiser.tokens(PAIR.noisy + 0.5, n_tokens=12, axes="CYX")
    assert other.inside is None
    assert not any("coverage" in name for name in other.table)
    truth = PAIR.clean.copy()
    truth[:, :, :20] = np.nan
    judged = other.judged(truth - 1, truth + 1, truth)
    assert (judged.table["Si coverage"][judged.table["known pixels"] > 0] == 1).all()
    assert judged.table["known pixels"].sum() == 96 * 172
    with pytest.raises(ValueError, match="must be"):
        other.judged(truth[:, 1:], truth, truth)


def test_painted_labels_are_described_like_tokens(tokens):
    labels = tokens.labels.copy()
    labels[:10] = 15
    painted = tokens.painted(labels)
    assert len(painted.table["index"]) == 15
    assert painted.table["pixels"][14] == 10 * 192
    np.testing.assert_allclose(
        painted.table["Si median"][14], np.median(tokens.median[0][:10]), atol=0.02 * np.ptp(tokens.median[0])
    )
    np.testing.assert_array_equal(painted.colours[:13], tokens.colours)
    np.testing.assert_array_equal(painted.cut(5).labels, tokens.cut(5).labels)
    with pytest.raises(ValueError, match="needed"):
        tokens.painted(labels[1:])
    kept = dict(zip(tokens.identities, range(1, 13), strict=True))
    assert len(set(kept) & set(tokens.cut(11).identities)) == 10


def test_the_first_call_learns_and_later_ones_assign(denoiser, tokens):
    same = denoiser.tokens(PAIR.noisy, n_tokens=12)
    np.testing.assert_array_equal(same.labels, tokens.labels)
    fewer = denoiser.tokens(PAIR.noisy, n_tokens=4)
    np.testing.assert_array_equal(fewer.labels, tokens.cut(4).labels)
    crop = denoiser.tokens(PAIR.noisy[:, :, 70:], n_tokens=12)
    halo = denoiser.receptive_field + 6
    np.testing.assert_array_equal(crop.labels[:, halo:], tokens.labels[:, 70 + halo :])
    again = denoiser.tokens(PAIR.noisy, n_tokens=12, refit=True)
    np.testing.assert_array_equal(again.labels, tokens.labels)


def test_the_bundle_keeps_the_palette(denoiser, tokens, tmp_path):
    denoiser.save(tmp_path / "a.btn")
    back = btn.load(tmp_path / "a.btn").tokens(PAIR.noisy, n_tokens=12)
    np.testing.assert_array_equal(back.labels, tokens.labels)
    np.testing.assert_array_equal(back.colours, tokens.colours)
    assert back.stability == tokens.stability


def test_a_prediction_at_hand_is_used(denoiser, tokens, monkeypatch):
    prediction = denoiser.predict(PAIR.noisy)
    monkeypatch.setattr("napari_btn.workflow.tokens.predict_steps", None)
    again = denoiser.tokens(PAIR.noisy, n_tokens=12, prediction=prediction)
    for name, column in tokens.table.items():
        np.testing.assert_array_equal(again.table[name], column)
    with pytest.raises(ValueError, match="they must match"):
        denoiser.tokens(PAIR.noisy[:, 1:], prediction=prediction)


def test_axes_and_scenes(denoiser, tokens):
    turned = denoiser.tokens(PAIR.noisy.transpose(2, 0, 1), 12, "XCY")
    assert turned.axes == "XY"
    assert np.mean(tokens.labels == turned.labels.T) > 0.999
    scenes = denoiser.tokens(np.stack([PAIR.noisy, PAIR.noisy[:, ::-1]]), 12, "SCYX")
    assert scenes.labels.shape == (2, 96, 192)
    np.testing.assert_array_equal(scenes.labels[0], tokens.labels)


def test_tiles_and_pools_give_the_same_tokens(denoiser, tokens):
    settings = replace(denoiser.model.settings, tiles=btn.TileSettings(tile_px=57))
    tiled = btn.Denoiser.of(replace(denoiser.model, settings=settings))
    again = tiled.tokens(PAIR.noisy, 12, executor=Inline())
    assert np.mean(again.labels == tokens.labels) > 0.999


def test_latents_read_at_pixels_are_those_of_the_whole_image(denoiser):
    networks = denoiser.model.networks
    source = EnsembleLatents(View(PAIR.noisy, "CYX"), networks, Compute(btn.TileSettings(tile_px=50)))
    rng = np.random.default_rng(0)
    positions = np.column_stack([np.zeros(200, int), rng.integers(0, 96, 200), rng.integers(0, 192, 200)])
    found = np.full((2, 200, source.features), np.nan, np.float32)
    for _, part in source.sample(positions):
        if part is not None:
            found[part[0], part[1]] = part[2]
    for k, member in enumerate(networks.members):
        module = build(networks.blueprint, [(member.number, member.attempt)])
        module.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in member.weights.items()})
        with torch.inference_mode():
            whole = torch.cat([f[0, 0] for f in module.latents(torch.from_numpy(PAIR.noisy[None]))]).numpy()
        np.testing.assert_allclose(
            found[k], whole[:, positions[:, 1], positions[:, 2]].T, atol=1e-4 * whole.max()
        )


def test_projections_are_the_sum_over_members(denoiser):
    networks = denoiser.model.networks
    source = EnsembleLatents(View(PAIR.noisy, "CYX"), networks, Compute())
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(source.features, 3)).astype(np.float32) for _ in networks.members]
    box = Box(0, (slice(10, 40), slice(20, 90)))
    made = [t for _, t in source.project(weights, [box], 4) if t is not None]
    positions = np.column_stack([np.zeros(50, int), rng.integers(10, 40, 50), rng.integers(20, 90, 50)])
    expected = np.zeros((50, 3), np.float32)
    for _, part in source.sample(positions):
        if part is not None:
            expected[part[1]] += part[2] @ weights[part[0]]
    (tile,) = made
    assert tile.values.shape == (3, 38, 78)
    kept = tile.values[(slice(None), *tile.keep)]
    np.testing.assert_allclose(
        kept[:, positions[:, 1] - 10, positions[:, 2] - 20].T, expected, atol=1e-4 * np.abs(expected).max()
    )


def test_left_out_pixels_have_no_token(denoiser):
    valid = np.ones((96, 192), bool)
    valid[:, :40] = False
    tokens = denoiser.tokens(PAIR.noisy, 5, valid=valid)
    assert (tokens.labels[:, :40] == 0).all()
    assert (tokens.labels[:, 40:] > 0).all()


def test_seeds_agree_on_five_tokens(denoiser, monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 10_000)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 10)
    made = []
    prediction = denoiser.predict(PAIR.noisy)
    for seed in range(3):
        settings = replace(denoiser.model.settings, seed=seed)
        other = btn.Denoiser.of(replace(denoiser.model, settings=settings, tokens=None))
        made.append(other.tokens(PAIR.noisy, 5, prediction=prediction).labels)
    assert np.median([adjusted_rand(made[a], made[b]) for a, b in ((0, 1), (0, 2), (1, 2))]) >= 0.8


@pytest.mark.parametrize("method", ["mixture", "hdbscan"])
def test_other_ways_of_clustering_are_kept_in_the_bundle(denoiser, tmp_path, method):
    other = btn.Denoiser.of(denoiser.model)
    tokens = other.tokens(PAIR.noisy, 6, method=method)
    assert tokens.provenance["tokens"]["method"] == method
    unseen = btn.samples.edx(seed=3, size=(70, 90)).noisy
    expected = other.tokens(unseen, tokens.k)
    other.save(tmp_path / "a.btn")
    back = btn.load(tmp_path / "a.btn")
    np.testing.assert_array_equal(back.tokens(PAIR.noisy, tokens.k).labels, tokens.labels)
    np.testing.assert_array_equal(back.tokens(unseen, tokens.k).labels, expected.labels)
    assert expected.labels.shape == (70, 90)


def test_wrong_calls_are_refused(denoiser):
    with pytest.raises(ValueError, match="'kmeans', 'mixture', 'hdbscan'"):
        denoiser.tokens(PAIR.noisy, method="ward")
    with pytest.raises(ValueError, match="order_by"):
        denoiser.tokens(PAIR.noisy, order_by="Zn")
    with pytest.raises(ValueError, match="0 tokens wanted"):
        denoiser.tokens(PAIR.noisy, 0)
    with pytest.raises(ValueError, match="channels"):
        denoiser.tokens(PAIR.noisy[:2])
    with pytest.raises(ValueError, match="same shape"):
        denoiser.tokens(PAIR.noisy, valid=np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="not trained"):
        btn.Denoiser().tokens(PAIR.noisy)


def test_the_step_leaves_the_model_alone_and_returns_one_with_the_palette(denoiser, unchanged):
    model, compute = replace(denoiser.model, tokens=None), Compute(executor=Inline())
    image = image_for(model, PAIR.noisy)
    step = tokens_steps(model, image, compute, TokenSettings(n_tokens=6))
    made, tokens = unchanged(model, step)
    assert model.tokens is None
    assert made.tokens is not None
    for part in ("settings", "learned", "scores", "calibrated"):
        assert getattr(made, part) is getattr(model, part)
    again, same = unchanged(made, tokens_steps(made, image, compute, TokenSettings(n_tokens=6)))
    assert again.tokens is made.tokens
    np.testing.assert_array_equal(same.labels, tokens.labels)


def test_a_denoiser_is_unchanged_until_the_step_ends(denoiser, watched):
    other = btn.Denoiser.of(replace(denoiser.model, tokens=None))
    before = watched(other)
    other.tokens(PAIR.noisy, 4, executor=Inline())
    assert before.tokens is None
    assert other.model.tokens is not None


@cache
def small_tokens():
    """Tokens of a random image, (2, 6, 7), with a record of how they were found."""
    points = np.random.default_rng(0).normal(size=(84, 2)).astype(np.float32)
    palette = drain(fit_palette_steps(points, points.T, count=6, replicates=1))
    nodes = palette.assign(points).reshape(-1, 2, 6, 7)
    return Tokens(palette, nodes, k=3, base=3, axes="ZYX", provenance={"recipe": [{"do": "tokens"}]})


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.int32, (2, 6, 7), elements=st.integers(0, 12)))
def test_any_edit_is_repeated(after):
    found = small_tokens()
    made = drain(edited_steps(found.cut(5), after, {2: "clay"}))
    step = json.loads(json.dumps(made.provenance["recipe"][-1]))
    again = drain(edited_again_steps(found, step))
    np.testing.assert_array_equal(made.labels, after)
    np.testing.assert_array_equal(again.labels, after)
    assert again.provenance["recipe"][-1] == step


def test_merged_tokens_are_recorded_by_their_numbers():
    found = small_tokens()
    labels = np.where(found.labels == 3, 1, found.labels)
    step = drain(edited_steps(found, labels, {})).provenance["recipe"][-1]
    assert (step["merged"], step["painted"], step["names"]) == ({"3": 1}, {}, {})
    with pytest.raises(ValueError, match=r"the largest label .*65,535 or less"):
        drain(edited_steps(found, labels + 70_000, {}))


@pytest.mark.parametrize(
    "change",
    [{"merged": {"1": -1}}, {"merged": {"x": 1}}, {"painted": {"1": 2}}, {"n_tokens": 2**40}, {"names": 3}],
)
def test_a_damaged_record_of_edits_is_refused(change):
    found = small_tokens()
    step = drain(edited_steps(found, found.labels + 1, {})).provenance["recipe"][-1]
    values = {"napari_btn_recipe": 1, "steps": [step]}
    assert Recipe.from_dict(values).steps == (step,)
    with pytest.raises((ValueError, TypeError)):
        Recipe.from_dict({**values, "steps": [{**step, **change}]})
