"""Tokens from latents that never stand in memory, on latents made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage

from napari_btn.core.data.image import View
from napari_btn.core.inference.latents import Projected
from napari_btn.core.inference.tiles import plan_tiles
from napari_btn.core.progress import Progress
from napari_btn.core.settings import TokenSettings
from napari_btn.core.tokens.clustering import adjusted_rand
from napari_btn.core.tokens.learn import TokenModel, assign_steps, fit_steps, tokens_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.image import Box
    from napari_btn.core.tokens.tokens import Tokens


class Made:
    """Latents of a few members in memory, (M, F, S, *space), served tile by tile."""

    def __init__(self, latents: NDArray[np.float32], tile: int = 37) -> None:
        self.latents, self.tile = latents, tile
        self.members, self.features, self.scenes = latents.shape[:3]
        self.space = latents.shape[3:]

    def sample(self, positions: NDArray[np.intp]) -> Iterator[Any]:
        rows = np.arange(len(positions))
        for k in range(self.members):
            yield Progress(k, self.members), None
            for part in np.array_split(rows, 3):
                yield (
                    Progress(k, self.members),
                    (k, part, self.latents[k][(slice(None), *positions[part].T)].T),
                )

    def project(
        self, weights: Sequence[NDArray[np.float32]], boxes: Sequence[Box], margin: int
    ) -> Iterator[tuple[Progress, Projected | None]]:
        for box in boxes:
            for t in plan_tiles(self.space, self.tile, margin, box.slices):
                yield Progress(0, 1), None
                low = [max(w.start - margin, 0) for w in t.write]
                outer = tuple(
                    slice(a, min(w.stop + margin, n))
                    for a, w, n in zip(low, t.write, self.space, strict=True)
                )
                keep = tuple(slice(w.start - a, w.stop - a) for a, w in zip(low, t.write, strict=True))
                crop = self.latents[(slice(None), slice(None), box.scene, *outer)]
                total = sum(np.tensordot(w.T, one, 1) for w, one in zip(weights, crop, strict=True))
                yield Progress(1, 1), Projected(box.scene, t.write, keep, np.asarray(total, np.float32))


def phases(shape: tuple[int, ...], count: int = 5, seed: int = 0) -> NDArray[np.intp]:
    """A map of patches."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 4) for _ in range(count)]
    return np.argmax(fields, axis=0)


def source_of(
    phase: NDArray[np.intp], *, members: int = 3, features: int = 12, noise: float = 1.0, seed: int = 0
) -> Made:
    """Latents whose mean is the phase's, each member in a basis and at a scale of its own."""
    rng = np.random.default_rng(seed)
    latents = []
    for _ in range(members):
        centres = rng.normal(0, 2, (phase.max() + 1, features))
        one = centres[phase] + rng.normal(0, noise, (*phase.shape, features))
        latents.append(np.moveaxis(one, -1, 0) * rng.choice([0.01, 1, 100]))
    return Made(np.stack(latents).astype(np.float32))


def drain(steps: Any) -> Any:
    """Result of a step."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module", autouse=True)
def _few_pixels() -> Iterator[None]:
    """Sample fewer pixels than is right for real images, so that tests take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 2500)
        patch.setattr("napari_btn.core.tokens.shares._STARTS", 1)
        patch.setattr("napari_btn.core.tokens.shares._ROUNDS", 1)
        patch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
        patch.setattr("napari_btn.core.tokens.clustering._LLOYD_STEPS", 4)
        yield


PHASE = phases((1, 90, 110))
MEDIAN = np.stack([PHASE[0] * 1.0, -PHASE[0] * 2.0 + 9]).astype(np.float32)
MEDIAN += np.random.default_rng(0).normal(0, 0.05, MEDIAN.shape).astype(np.float32)


@pytest.fixture(scope="module")
def source() -> Made:
    return source_of(PHASE)


@pytest.fixture(scope="module")
def fitted(source: Made) -> tuple[TokenModel, Tokens]:
    width = np.ones_like(MEDIAN) * (1 + PHASE)
    model, tokens = drain(
        tokens_steps(
            source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=1.0), width=width
        )
    )
    return model, replace(tokens, channel_names=("Si", "Al"))


def test_tokens_find_the_phases_and_are_ordered(fitted: tuple[TokenModel, Tokens]) -> None:
    _, tokens = fitted
    assert tokens.labels.shape == (90, 110)
    assert tokens.axes == "YX"
    assert np.array_equal(np.unique(tokens.labels), np.arange(1, 6))
    assert adjusted_rand(tokens.labels, PHASE[0]) > 0.9
    assert np.mean(tokens.labels == PHASE[0] + 1) > 0.95
    assert tokens.stability > 0.9
    by_al = tokens.ordered(1)
    assert np.mean(by_al.labels == 5 - PHASE[0]) > 0.95


def test_the_same_seed_gives_the_same_labels(source: Made, fitted: tuple[TokenModel, Tokens]) -> None:
    _, tokens = drain(
        tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=1.0))
    )
    np.testing.assert_array_equal(tokens.nodes, fitted[1].nodes)
    np.testing.assert_array_equal(tokens.labels, fitted[1].labels)


def test_neither_tiles_nor_member_scales_change_labels(
    source: Made, fitted: tuple[TokenModel, Tokens]
) -> None:
    model, tokens = fitted
    tiled = Made(source.latents, tile=23)
    _, again = drain(
        tokens_steps(tiled, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0), model=model)
    )
    assert np.mean(again.nodes == tokens.nodes) > 0.9999
    louder = Made(source.latents * np.array([7, 1, 0.1], np.float32)[:, None, None, None, None])
    _, scaled = drain(
        tokens_steps(louder, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=1.0))
    )
    assert adjusted_rand(scaled.labels, tokens.labels) > 0.99


def test_members_that_all_say_the_same_share_one_projection() -> None:
    source = source_of(PHASE, members=1, noise=0)
    twice = Made(np.concatenate([source.latents, source.latents]))
    _, one = drain(
        tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=0))
    )
    _, two = drain(
        tokens_steps(twice, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=0))
    )
    np.testing.assert_array_equal(one.labels, two.labels)


def test_smoothing_helps_under_noise() -> None:
    source = source_of(PHASE, noise=12)
    rough = drain(
        tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=0))
    )[1]
    smooth = drain(
        tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=1.5))
    )[1]
    assert adjusted_rand(smooth.labels, PHASE[0]) > adjusted_rand(rough.labels, PHASE[0]) + 0.1


def test_seeds_agree_on_five_direct_and_through_the_tree(
    source: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 10)
    cuts: dict[int, list[NDArray[np.uint8]]] = {40: [], 5: []}
    for seed in range(3):
        for count in cuts:
            # with so many clusters in the palette
            monkeypatch.setattr("napari_btn.core.tokens.learn._PALETTE", count)
            settings = TokenSettings(n_tokens=5, order_by=0)
            model = drain(fit_steps(source, lambda p: MEDIAN[:, p[:, 1], p[:, 2]], settings, seed=seed))
            found = np.empty(PHASE.shape, np.uint8)

            def keep(s: int, w: tuple[slice, ...], n: NDArray[np.uint8], found: Any = found) -> None:
                found[(s, *w)] = n[3]

            drain(assign_steps(source, model, keep))
            cuts[count].append(found)
    for found, least in ((cuts[5], 0.8), (cuts[40], 0.75)):
        assert np.median([adjusted_rand(found[a], found[b]) for a, b in ((0, 1), (0, 2), (1, 2))]) >= least


def test_models_come_apart_together_and_assign_other_images(fitted: tuple[TokenModel, Tokens]) -> None:
    model, _ = fitted
    again = TokenModel.from_arrays(model.to_arrays())
    assert again.base == 1
    other = phases((1, 61, 47), seed=9)
    rng = np.random.default_rng(0)
    source = source_of(PHASE)
    # the same members see another image
    latents = np.stack([np.stack([one[:, p == PHASE].mean(1) for p in range(5)]) for one in source.latents])
    noise = (
        rng.normal(0, 0.3, (3, *other.shape, 12)) * np.abs(latents).mean((1, 2))[:, None, None, None, None]
    )
    seen = Made(np.moveaxis(latents[:, other] + noise, -1, 1).astype(np.float32))
    median = np.zeros((2, 61, 47), np.float32)
    tokens = [
        drain(tokens_steps(seen, View(median, "CYX"), TokenSettings(n_tokens=5, order_by=0), model=m))[1]
        for m in (model, again)
    ]
    np.testing.assert_array_equal(tokens[0].labels, tokens[1].labels)
    inside = ndimage.generic_filter(other[0], np.ptp, 5) == 0
    assert np.mean(tokens[0].labels[inside] == other[0][inside] + 1) > 0.95


def test_pixels_unlike_those_that_tokens_were_learned_from_are_noted(
    fitted: tuple[TokenModel, Tokens],
) -> None:
    model, _ = fitted
    source = source_of(PHASE)

    def share(latents: NDArray[np.float32], **options: Any) -> Tokens:
        return drain(
            tokens_steps(
                Made(latents), View(MEDIAN, "CYX"), TokenSettings(n_tokens=5), model=model, **options
            )
        )[1]

    alike = share(source.latents)
    assert alike.beyond == pytest.approx(0.01, abs=0.005)  # by construction, of those that were learned from
    assert alike.unlike is None
    other = source.latents.copy()
    other[..., :30, :] *= 4
    expected = 30 / PHASE.shape[1]
    beyond = share(other)
    assert beyond.beyond == pytest.approx(expected, rel=0.25)
    assert beyond.unlike is not None
    assert beyond.cut(3).unlike == beyond.unlike
    valid = np.ones(PHASE.shape, bool)
    valid[:, :33] = False
    assert share(other, valid=valid).unlike is None
    assert TokenModel.from_arrays(model.to_arrays()).reach == model.reach
    arrays = model.to_arrays()
    arrays["numbers"] = arrays["numbers"][:2]  # as bundles were written before
    assert np.isnan(TokenModel.from_arrays(arrays).reach)


def test_other_members_are_refused(fitted: tuple[TokenModel, Tokens]) -> None:
    with pytest.raises(ValueError, match="refit"):
        drain(
            tokens_steps(source_of(PHASE, members=2), View(MEDIAN, "CYX"), TokenSettings(), model=fitted[0])
        )


def test_dead_members_are_refused() -> None:
    with pytest.raises(ValueError, match="dead"):
        drain(
            tokens_steps(Made(np.zeros((2, 4, 1, 90, 110), np.float32)), View(MEDIAN, "CYX"), TokenSettings())
        )


def test_left_out_pixels_have_no_token(source: Made) -> None:
    valid = np.ones((1, 90, 110), bool)
    valid[0, :30] = False
    _, tokens = drain(
        tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=4, order_by=0), valid=valid)
    )
    assert (tokens.labels[:30] == 0).all()
    assert (tokens.labels[30:] > 0).all()
    assert tokens.table["pixels"].sum() == 60 * 110
    with pytest.raises(ValueError, match="at least 50"):
        drain(tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(), valid=np.zeros_like(valid)))


@pytest.mark.parametrize("axes", ["SCYX", "YXCS", "CSXY"])
def test_scenes_and_axes_in_any_order(axes: str) -> None:
    phase = phases((2, 40, 50))
    median = np.moveaxis(np.stack([phase, phase], 1), [0, 1, 2, 3], [axes.index(a) for a in "SCYX"])
    _, tokens = drain(
        tokens_steps(
            source_of(phase),
            View(median.astype(np.float32), axes),
            TokenSettings(n_tokens=5, order_by=0, smooth_px=1.0),
        )
    )
    assert tokens.axes == axes.replace("C", "")
    labels = tokens.labels.transpose([tokens.axes.index(a) for a in "SYX"])
    assert np.mean(labels == phase + 1) > 0.9


def test_volumes() -> None:
    phase = phases((1, 17, 30, 40), count=3)
    _, tokens = drain(
        tokens_steps(
            source_of(phase),
            View(phase[0].astype(np.float32), "ZYX"),
            TokenSettings(n_tokens=3, order_by=0, smooth_px=0.7),
        )
    )
    assert tokens.labels.shape == (17, 30, 40)
    assert np.mean(tokens.labels == phase[0] + 1) > 0.95


@pytest.mark.parametrize("method", ["mixture", "hdbscan"])
@pytest.mark.parametrize("shape", [(1, 90, 110), (1, 17, 30, 40)])
def test_other_ways_of_clustering_in_the_plane_and_in_space(method: Any, shape: tuple[int, ...]) -> None:
    phase = phases(shape, count=3)
    source, axes, median = source_of(phase), "ZYX"[4 - len(shape) :], phase[0].astype(np.float32)
    model, tokens = drain(
        tokens_steps(
            source, View(median, axes), TokenSettings(n_tokens=3, order_by=0, smooth_px=0.7, method=method)
        )
    )
    assert model.palette.method == method
    assert np.mean(tokens.labels == phase[0] + 1) > 0.9
    again = TokenModel.from_arrays(model.to_arrays())
    tiled = Made(source.latents, tile=19)
    # what the palette was learned by is kept, and neither tiles nor a reload change labels
    same = drain(tokens_steps(tiled, View(median, axes), TokenSettings(n_tokens=3, order_by=0), model=again))[
        1
    ]
    assert np.mean(same.nodes == tokens.nodes) > 0.9999
    other, _ = drain(
        tokens_steps(
            source, View(median, axes), TokenSettings(n_tokens=3, order_by=0, method="kmeans"), model=again
        )
    )
    assert other.palette.method == "kmeans"


def test_hdbscan_gives_no_more_tokens_than_it_finds(source: Made) -> None:
    model, tokens = drain(
        tokens_steps(
            source,
            View(MEDIAN, "CYX"),
            TokenSettings(n_tokens=20, order_by=0, smooth_px=1.0, method="hdbscan"),
        )
    )
    assert 2 <= model.palette.size < 20
    assert tokens.k == model.palette.size == tokens.labels.max()
    assert [tokens.cut(k).labels.max() for k in range(2, tokens.k + 1)] == list(range(2, tokens.k + 1))


def test_large_images_are_learned_from_crops(monkeypatch: pytest.MonkeyPatch, source: Made) -> None:
    monkeypatch.setattr("napari_btn.core.tokens.learn._FIT_PIXELS", 5000)
    read = 0
    plain = Made.project

    def counted(self: Made, weights: Any, boxes: Any, margin: int) -> Any:
        nonlocal read
        read += sum(b.size for b in boxes)
        return plain(self, weights, boxes, margin)

    monkeypatch.setattr(Made, "project", counted)
    wide = Made(np.tile(source.latents, (1, 1, 1, 2, 3)))
    drain(fit_steps(wide, lambda p: np.zeros((1, len(p)), np.float32), TokenSettings()))
    assert read < wide.latents[0, 0].size / 2


def test_the_table_says_what_each_token_holds(fitted: tuple[TokenModel, Tokens]) -> None:
    tokens = fitted[1]
    table = tokens.table
    assert list(table["index"]) == [1, 2, 3, 4, 5]
    assert table["pixels"].sum() == 90 * 110
    assert table["share"].sum() == pytest.approx(1)
    for c, name in enumerate(("Si", "Al")):
        for key, level in (("median", 0.5), ("q05", 0.05), ("q95", 0.95)):
            exact = [np.quantile(MEDIAN[c][tokens.labels == k], level) for k in range(1, 6)]
            np.testing.assert_allclose(table[f"{name} {key}"], exact, atol=0.05)
    np.testing.assert_allclose(table["Si width"], table["index"], atol=0.2)
    assert len(set(table["colour"])) == 5
    assert tokens.colours.shape == (6, 4)
    inside = tokens.mean(MEDIAN > 2.5)
    assert inside.shape == (5, 2)
    assert inside[0, 0] < 0.1
    edges, counts = tokens.histogram(0, bins=30)
    assert len(edges) == 31
    np.testing.assert_array_equal(counts.sum(1), table["pixels"])


def test_cuts_share_what_was_counted(fitted: tuple[TokenModel, Tokens]) -> None:
    tokens = fitted[1]
    assert tokens.table["index"].size == 5
    for k in (1, 2, 3, 17, 40):
        cut = tokens.cut(k)
        assert cut._binned is tokens._binned  # sorting the values again would make the slider slow
        assert cut.labels.min() >= 1
        assert cut.labels.max() <= k
        assert len(cut.table["index"]) == k
        assert cut.nodes is tokens.nodes
    back = tokens.cut(17).cut(5)
    np.testing.assert_array_equal(back.labels, tokens.labels)
    with pytest.raises(ValueError, match="can be cut"):
        tokens.cut(41)


def test_without_room_for_all_cuts_the_tree_merges(source: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_btn.core.tokens.learn._MAP_BYTES", 1000)
    model, tokens = drain(
        tokens_steps(source, View(MEDIAN, "CYX"), TokenSettings(n_tokens=5, order_by=0, smooth_px=1.0))
    )
    assert tokens.nodes.shape[0] == 1
    assert np.mean(tokens.labels == PHASE[0] + 1) > 0.95
    assert tokens.cut(40).labels.max() == model.palette.size
