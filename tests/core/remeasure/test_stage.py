"""Stage coordinates and travel order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_btn.core.remeasure.regions import Region
from napari_btn.core.remeasure.stage import StageAffine, travel_order


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_three_points_give_the_affine_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag(rng.uniform(0.5, 2, 2) * rng.choice([-1, 1], 2))
    shift = rng.normal(0, 1000, 2)
    image = np.array([[0, 0], [100, 5], [7, 80]]) + rng.uniform(-2, 2, (3, 2))
    stage = StageAffine.from_points(image, image @ linear.T + shift)
    points = rng.uniform(0, 100, (20, 2))
    np.testing.assert_allclose(stage.to_stage(points), points @ linear.T + shift, atol=1e-6)
    assert stage.residual == 0


def test_pixels_count_from_the_centre_of_the_first() -> None:
    pixels = np.array([[0, 0], [100, 5], [7, 80]])
    region = Region(10, 20, 4, 6, pixel_size=(0.5, 0.25))
    # a stage that counts the pixels' centres, one for one
    stage = StageAffine.from_pixels(pixels, pixels, region.pixel_size)
    middle = np.array([10 + 4 / 2, 20 + 6 / 2]) - 0.5
    np.testing.assert_allclose(stage.to_stage(region.centre)[0], middle, atol=1e-9)


def test_more_points_say_how_well_they_fit() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 100, (50, 2))
    stage = StageAffine.from_points(image, 2 * image + rng.normal(0, 0.5, image.shape))
    assert 0.4 < stage.residual < 1.0


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ([[0, 0], [1, 1]], "at least three"),
        ([[0, 0], [1, 1], [2, 2]], "one line"),
        ([[0, 0], [0, 0], [0, 0]], "one line"),
        ([[0, 0], [1, np.nan], [2, 2]], "finite"),
    ],
)
def test_bad_registrations_are_refused(image: list[list[float]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        StageAffine.from_points(image, np.zeros((len(image), 2)))


def path_length(regions: list[Region]) -> float:
    """Length of the path through the centres."""
    points = np.array([r.centre for r in regions])
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_travel_is_a_permutation_and_short(places: list[tuple[int, int]]) -> None:
    given_order = [Region(y, x, 10, 10, score=k) for k, (y, x) in enumerate(places)]
    order = travel_order(given_order)
    assert sorted(r.score for r in order) == sorted(r.score for r in given_order)
    assert path_length(order) <= path_length(given_order) + 1e-9
    if len(places) <= 6:
        rest = order[1:]
        best = min(path_length([order[0], *p]) for p in itertools.permutations(rest))
        assert path_length(order) <= 1.35 * best + 1e-9


def test_travel_starts_at_the_first_region_and_is_short_on_the_stage() -> None:
    regions = [Region(0, x, 1, 1) for x in (0, 30, 10, 20)]
    assert [r.x for r in travel_order(regions)] == [0, 10, 20, 30]
    assert travel_order([]) == []
    squeezed = StageAffine(np.array([[1.0, 0, 0], [0, 1e-3, 0]]))
    tall = [Region(0, 0, 1, 1), Region(5, 0, 1, 1), Region(0, 400, 1, 1)]
    assert [r.x for r in travel_order(tall)] == [0, 0, 400]
    assert [r.x for r in travel_order(tall, stage=squeezed)] == [0, 400, 0]
