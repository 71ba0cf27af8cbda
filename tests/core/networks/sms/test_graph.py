"""Random connections: drawn from a seed, one dilation schedule for all."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.core.networks.family import Blueprint, graph_of, member_rng
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.networks.sms.graph import Graph, draw_dilations, draw_graph, flat_nodes, receptive_field
from napari_btn.core.settings import NetworkSettings

SETTINGS = st.builds(
    NetworkSettings,
    depth=st.integers(1, 14),
    channels=st.integers(1, 5),
    inputs=st.integers(1, 6),
    max_dilation=st.integers(1, 12),
    skip_power=st.floats(0, 3),
)


@given(SETTINGS, st.integers(0, 2**32))
def test_the_same_seed_draws_the_same_graph(settings, seed):
    dilations = draw_dilations(settings, ndim=2)
    first, again = (draw_graph(np.random.default_rng(seed), settings, dilations) for _ in range(2))
    assert first == again


def test_other_seeds_draw_other_graphs():
    settings = NetworkSettings()
    dilations = draw_dilations(settings, ndim=2)
    graphs = {draw_graph(np.random.default_rng(seed), settings, dilations).sources for seed in range(20)}
    assert len(graphs) == 20


@given(SETTINGS, st.integers(0, 99))
def test_a_node_reads_different_earlier_chunks_only(settings, seed):
    graph = draw_graph(np.random.default_rng(seed), settings, draw_dilations(settings, ndim=2))
    assert len(graph.sources) == len(graph.dilations) == settings.depth
    for node, read in enumerate(graph.sources):
        earlier = 1 + node * settings.inputs
        assert len(read) == min(settings.inputs, earlier)
        assert list(read) == sorted(set(read))
        assert 0 <= read[0] <= read[-1] < earlier


def test_a_strong_preference_reads_near_chunks():
    reach = []
    for power in (0.0, 3.0):
        settings = NetworkSettings(depth=12, skip_power=power)
        dilations = draw_dilations(settings, ndim=2)
        graphs = [draw_graph(np.random.default_rng(s), settings, dilations) for s in range(20)]
        reach.append(np.mean([11 - (i - 1) // 4 for g in graphs for i in g.sources[-1]]))
    assert reach[1] < reach[0] / 2


@given(SETTINGS, st.sampled_from([2, 3]), st.integers(1, 200))
def test_the_schedule_respects_the_limit_or_is_the_smallest(settings, ndim, limit):
    dilations = draw_dilations(settings, ndim=ndim, limit_px=limit)
    assert len(dilations) == settings.depth
    assert max(dilations) <= (min(settings.max_dilation, 4) if ndim == 3 else settings.max_dilation)
    assert receptive_field(dilations) <= limit or set(dilations) == {1}
    free = draw_dilations(settings, ndim=ndim)
    if receptive_field(free) <= limit:
        assert dilations == free


def test_the_default_network_sees_39_px():
    assert receptive_field(draw_dilations(NetworkSettings(), ndim=2)) == 39


def test_a_given_schedule_is_kept():
    settings = NetworkSettings(depth=3, dilations=(5, 1, 9))
    assert draw_dilations(settings, ndim=3, limit_px=2) == (5, 1, 9)


@given(SETTINGS, st.integers(0, 99))
def test_a_graph_survives_json(settings, seed):
    graph = draw_graph(np.random.default_rng(seed), settings, draw_dilations(settings, ndim=2))
    assert Graph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph


def test_members_draw_from_seeds_of_their_own():
    blueprint = Blueprint(NetworkSettings(), Schedule((1, 2) * 5), 1, 1, 2, (0.5,), 7)
    graphs = {(k, a): graph_of(blueprint, k, a) for k in range(6) for a in range(2)}
    assert len({g.sources for g in graphs.values()}) == 12
    assert {g.dilations for g in graphs.values()} == {(1, 2) * 5}
    draws = {
        member_rng(0, k, attempt=a, use=u).integers(2**63)
        for k in range(4)
        for a in range(3)
        for u in range(20)
    }
    assert len(draws) == 4 * 3 * 20


def test_far_planes_are_seen_no_farther_than_pixels():
    dilations = (1, 2, 3, 4, 1, 2, 3, 4, 1, 2)
    assert flat_nodes(dilations, 1.0) == flat_nodes(dilations, 1.9) == ()
    for z_step in (2.0, 3.0, 5.0, 40.0):
        flat = flat_nodes(dilations, z_step)
        deep = [d for d, f in zip(dilations, flat, strict=True) if not f]
        assert deep
        assert sum(deep) <= max(sum(dilations) / z_step, 1)
        assert max(deep) <= min(d for d, f in zip(dilations, flat, strict=True) if f)
        blueprint = Blueprint(NetworkSettings(), Schedule(dilations, flat), 1, 1, 3, (0.5,), 0)
        assert blueprint.reach == (sum(deep), 23, 23)
        assert blueprint.receptive_field == 23


@given(st.integers(1, 30), st.integers(1, 200), st.sampled_from([2, 3]))
def test_a_wanted_field_is_reached_with_the_smallest_dilations(depth, field, ndim):
    settings = NetworkSettings(depth=depth)
    made = draw_dilations(settings, ndim=ndim, field_px=field)
    assert len(made) == depth
    assert receptive_field(made) >= field or max(made) == 64
    if max(made) > 1:
        smaller = draw_dilations(settings, ndim=ndim, field_px=max(field - receptive_field(made), 0))
        assert max(smaller) <= max(made)
    limited = draw_dilations(settings, ndim=ndim, field_px=field, limit_px=depth + 5)
    assert receptive_field(limited) <= depth + 5


def test_nodes_that_do_not_suffice_step_wider():
    assert draw_dilations(NetworkSettings(depth=5), ndim=2, field_px=45) == (1, 5, 9, 13, 17)
    assert draw_dilations(NetworkSettings(), ndim=2, field_px=23) == (1, 2, 3, 4, 1, 2, 3, 4, 1, 2)
