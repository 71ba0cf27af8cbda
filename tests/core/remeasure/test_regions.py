"""Laws of proposed fields of view: disjoint, inside, no worse than a grid, the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_btn.core.remeasure import _search as module
from napari_btn.core.remeasure.regions import Region, label_image, propose_regions, rescore
from napari_btn.io.regions import read_regions, write_regions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def smooth_field(shape: tuple[int, ...], seed: int, power: float = 2.0) -> NDArray[np.float64]:
    """Smooth positive noise with long-range structure."""
    rng = np.random.default_rng(seed)
    k = np.sqrt(sum(f**2 for f in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")))
    k[(0,) * len(shape)] = 1
    field = np.fft.ifftn(np.fft.fftn(rng.normal(size=shape)) / k**power).real
    return (field - field.min()) / (field.max() - field.min())


def best_grid(score: NDArray[Any], window: tuple[int, ...], count: int) -> float:
    """Score collected by the best tiles of the regular grid."""
    cut = score[tuple(slice(0, n - n % w) for n, w in zip(score.shape, window, strict=True))]
    split = [m for n, w in zip(cut.shape, window, strict=True) for m in (n // w, w)]
    tiles = cut.reshape(split).sum(tuple(range(1, 2 * cut.ndim, 2)))
    return float(np.sort(tiles.ravel())[::-1][:count].sum())


def disjoint(a: Region, b: Region, spacing: int = 0) -> bool:
    """Whether two windows keep their distance along at least one axis."""
    return any(
        x + n + spacing <= y or y + m + spacing <= x
        for x, n, y, m in zip(a.start, a.size, b.start, b.size, strict=True)
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float64], tuple[int, ...], int, int, int]:
    ndim = draw(st.integers(2, 3))
    top = 41 if ndim == 2 else 13
    shape = tuple(draw(st.integers(5, top)) for _ in range(ndim))
    margin = draw(st.integers(0, 2))
    window = tuple(draw(st.integers(1, max(1, min(n - 2 * margin, 12)))) for n in shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["uniform", "ties", "smooth", "signed", "constant"]))
    score = {
        "uniform": lambda: rng.random(shape),
        "ties": lambda: rng.integers(0, 3, shape).astype(float),
        "smooth": lambda: smooth_field(shape, int(rng.integers(1 << 30))),
        "signed": lambda: rng.normal(size=shape),
        "constant": lambda: np.ones(shape),
    }[kind]()
    return score, window, draw(st.integers(1, 12)), margin, draw(st.integers(0, 2))


@given(cases(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_windows_are_disjoint_inside_and_no_worse_than_the_grid(case: Any, coarse: bool) -> None:
    score, window, count, margin, spacing = case
    with pytest.MonkeyPatch.context() as patch:
        if coarse:
            patch.setattr(module, "_PLACEMENTS", 30)
        found = propose_regions(score, window, count, margin=margin, spacing=spacing)
        again = propose_regions(score.copy(), window, count, margin=margin, spacing=spacing)
    assert found == again
    assert len(found) <= count
    for i, r in enumerate(found):
        assert r.size == window
        assert all(
            a >= margin and a + n <= m - margin for a, n, m in zip(r.start, r.size, score.shape, strict=True)
        )
        assert r.score == pytest.approx(score[r.slices].sum(), abs=1e-9)
        assert r.score > 0
        assert all(disjoint(r, other, spacing) for other in found[:i])
    scores = [r.score for r in found]
    assert scores == sorted(scores, reverse=True)
    if margin == spacing == 0:
        assert sum(scores) >= best_grid(score, window, count) * (1 - 1e-9) - 1e-9


def test_one_window_is_the_best_there_is() -> None:
    score = smooth_field((47, 61), 3)
    sums = np.lib.stride_tricks.sliding_window_view(score, (9, 14)).sum((-1, -2))
    (best,) = propose_regions(score, (9, 14), 1)
    assert best.start == np.unravel_index(np.argmax(sums), sums.shape)
    assert best.score == pytest.approx(sums.max())


def test_a_bump_between_four_tiles_does_not_block_them_all() -> None:
    score = np.ones((128, 128))
    score[63:65, 63:65] = 1.01
    found = propose_regions(score, (64, 64), 4)
    assert propose_regions(score, 64, 4) == propose_regions(score, np.int64(64), 4) == found
    assert len(found) == 4
    assert sum(r.score for r in found) == pytest.approx(score.sum())


@pytest.mark.parametrize("shape", [(1024, 1500), (2048, 2048)])
def test_large_images_beat_the_grid_and_stay_near_the_exhaustive_search(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = smooth_field(shape, 1, 1.3) ** 4
    found = propose_regions(score, (64, 96), 8)
    total = sum(r.score for r in found)
    assert total > best_grid(score, (64, 96), 8)
    monkeypatch.setattr(module, "_PLACEMENTS", 1 << 40)
    exhaustive = propose_regions(score, (64, 96), 8)
    assert total >= 0.99 * sum(r.score for r in exhaustive)


def test_the_mask_keeps_windows_away() -> None:
    score = np.ones((60, 60))
    score[:20] = np.nan
    mask = np.ones(score.shape, bool)
    mask[:20] = False
    weight = mask * np.linspace(0, 1, 60)
    found = propose_regions(score, (15, 15), 30, mask=mask)
    assert sum(r.score for r in found) == pytest.approx(sum(mask[r.slices].sum() for r in found))
    assert propose_regions(score, (10, 10), 1, mask=weight)[0].x == 50
    assert propose_regions(score, (10, 10), 3, mask=np.zeros_like(mask)) == []


def test_nothing_to_measure_again_gives_no_window() -> None:
    assert propose_regions(np.zeros((80, 80)), (16, 16), 5) == []


@pytest.mark.parametrize(
    ("known", "unit"),
    [
        ({}, "px"),
        ({"pixel_size": 1}, "px"),
        ({"pixel_size": (0.5, 2.0)}, ""),
        ({"pixel_size": (0.5, 2.0), "unit": "px"}, ""),
        ({"pixel_size": (0.5, 2.0), "unit": "nm"}, "nm"),
    ],
)
def test_centres_are_called_pixels_only_where_they_are(
    known: dict[str, Any], unit: str, tmp_path: Path
) -> None:
    (r,) = propose_regions(np.ones((30, 40)), (30, 40), 1, **known)
    assert r.unit == unit
    assert (r.centre == (15, 20)) == (unit == "px")
    for name in ("r.csv", "r.geojson"):
        write_regions([r], tmp_path / name)
        assert read_regions(tmp_path / name)[0].unit == unit


def test_centres_are_in_physical_units() -> None:
    score = np.zeros((30, 40))
    score[10:20, 20:24] = 1
    (r,) = propose_regions(score, (10, 4), 1, pixel_size=(0.5, 2.0), unit="um")
    assert (r.y, r.x, r.height, r.width, r.unit) == (10, 20, 10, 4, "um")
    assert r.centre == (7.5, 44.0)
    assert r.mean_score == 1.0
    assert propose_regions(score, (10, 4), 1, 0.5)[0].centre == (7.5, 11.0)


def test_volumes_give_boxes() -> None:
    score = smooth_field((17, 31, 23), 5)
    found = propose_regions(score, (5, 8, 7), 4, pixel_size=(2, 1, 1), unit="um")
    assert len(found) == 4
    assert found[0].z is not None
    assert found[0].depth == 5
    assert len(found[0].centre) == 3
    assert sum(r.score for r in found) >= best_grid(score, (5, 8, 7), 4)


def test_a_region_with_a_mask_counts_its_own_pixels_only() -> None:
    score = np.zeros((40, 50))
    score[5:15, 5:15] = 2
    score[5:8, 5:8] = 0
    big = Region(5, 5, 10, 10, mask=score[5:15, 5:15] > 0)
    assert big.area_px == 91
    assert rescore(big, score + 1).score == 91 * 3
    assert np.array_equal(label_image([big], score.shape) == 1, score == 2)


def test_rescore_follows_moved_regions() -> None:
    score = np.arange(100.0).reshape(10, 10)
    moved = Region(1, 2, 3, 4, score=-1)
    assert rescore(moved, score).score == score[1:4, 2:6].sum()
    with pytest.raises(ValueError, match="Move it inside"):
        rescore(Region(8, 0, 3, 3), score)
    with pytest.raises(ValueError, match="Move it inside"):
        label_image([Region(-1, 0, 3, 3)], (10, 10))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"window": (41, 4)}, "smaller window or margin"),
        ({"window": (4,)}, "one size is needed per axis"),
        ({"window": (0, 4)}, "one size is needed per axis"),
        ({"margin": 19}, "smaller window or margin"),
        ({"margin": -1}, "margin is -1"),
        ({"count": 0}, "count is 0"),
        ({"spacing": -2}, "spacing is -2"),
        ({"mask": np.ones((3, 3), bool)}, "they must match"),
        ({"pixel_size": (1, 0)}, "positive number"),
        ({"pixel_size": (1, 1, 1)}, "positive number"),
    ],
)
def test_bad_calls_are_refused(change: dict[str, Any], sentence: str) -> None:
    call = {"window": (4, 4), "count": 2} | change
    with pytest.raises(ValueError, match=sentence):
        propose_regions(np.ones((40, 40)), **call)


@pytest.mark.parametrize(
    "bad", [np.ones(5), np.ones((2, 2, 2, 2)), np.full((9, 9), np.nan), np.ones((4, 4)) * 1j]
)
def test_bad_scores_are_refused(bad: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"score has|values are NaN"):
        propose_regions(bad, (2, 2), 1)
