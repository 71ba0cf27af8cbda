"""Tokens of an ensemble: latents sampled, reduced, clustered, and every pixel assigned.

The latents of all members are never in memory together. Principal components are found on a sample
of pixels; then each member adds its own projection to a tile, and only the sum is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import ndimage

from napari_btn.core.data.image import Box, View, values_at, whole_boxes
from napari_btn.core.progress import counted
from napari_btn.core.tokens.clustering import fit_palette_steps
from napari_btn.core.tokens.palette import Palette
from napari_btn.core.tokens.tokens import NO_TOKEN, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.inference.latents import LatentSource, Projected
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import TokenSettings

__all__ = [
    "Projection",
    "TokenModel",
    "assign_steps",
    "fit_steps",
    "tokens_steps",
]

_PCA_PIXELS: Final = 50_000
_PCA_VALUES: Final = 100_000_000  # latent values in the sample at most, 400 MB
_CLUSTER_PIXELS: Final = 20_000
_FIT_PIXELS: Final = 600_000  # pixels whose latents are computed for the fit; crops of larger images
_TRUNCATE: Final = 4.0
_COMPONENTS: Final = 24
_REACH: Final = 0.99
_PALETTE: Final = 40  # clusters, of which cuts make tokens
_MOST: Final = 120  # since nodes are numbered in eight bits
_MAP_BYTES: Final = 1_500_000_000  # label maps of all cuts at most; above, only the finest cut is kept


@dataclass(frozen=True, eq=False)
class Projection:
    """Projection of the members' latents onto a few components.

    Parameters
    ----------
    weights : ndarray of float32, (M, F, D)
        Factor of the latents of each member, its scale included.
    offset : ndarray of float32, (D,)
        Added once to the sum.
    smooth_px : float
        SD of the Gaussian over the components, in pixels.
    """

    weights: NDArray[np.float32]
    offset: NDArray[np.float32]
    smooth_px: float

    @property
    def margin(self) -> int:
        """Pixels that smoothing reads beyond a tile."""
        return int(_TRUNCATE * self.smooth_px + 0.5)

    def components(self, tile: Projected) -> NDArray[np.float32]:
        """Return smoothed components (D, *tile), without the margin."""
        values = tile.values
        if self.smooth_px > 0:
            axes = tuple(range(1, values.ndim))
            values = ndimage.gaussian_filter(values, self.smooth_px, truncate=_TRUNCATE, axes=axes)
        column = self.offset.reshape(-1, *(1,) * (values.ndim - 1))
        return np.asarray(values[(slice(None), *tile.keep)] + column, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class TokenModel:
    """Projection and palette that turn an image into tokens; saved with the bundle.

    Parameters
    ----------
    projection : Projection
        Latents to components.
    palette : Palette
        Components to tokens.
    base : int
        Cut whose tokens are ordered by a channel; 1, so that numbers follow the tree. In bundles of version 1, the
        number of tokens first requested.
    reach : float
        99th percentile of the distances from the nearest token of the pixels that it was learned from; NaN if
        unknown, as in earlier bundles.
    """

    projection: Projection
    palette: Palette
    base: int
    reach: float = float("nan")

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the model as named arrays, for `from_arrays`."""
        return {
            "weights": self.projection.weights,
            "offset": self.projection.offset,
            "numbers": np.array([self.projection.smooth_px, self.base, self.reach], dtype=np.float64),
            **{f"palette.{name}": value for name, value in self.palette.to_arrays().items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TokenModel:
        """Return the model that `to_arrays` stored; raise `KeyError` if an array is missing."""
        palette = {k.removeprefix("palette."): v for k, v in arrays.items() if k.startswith("palette.")}
        smooth, base, *reach = map(float, arrays["numbers"])
        projection = Projection(np.asarray(arrays["weights"]), np.asarray(arrays["offset"]), smooth)
        return cls(projection, Palette.from_arrays(palette), int(base), *reach)


def fit_steps(
    source: LatentSource,
    values: Callable[[NDArray[np.intp]], NDArray[np.float32]],
    settings: TokenSettings,
    *,
    valid: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Step[TokenModel]:
    """Learn the projection and the palette from an image; a step.

    Parameters
    ----------
    source : LatentSource
        The image's latents.
    values : callable
        Channels (C, n) at pixels (n, 1 + ndim) given as scene and index; they may order the tokens.
    settings : TokenSettings
        The palette has 40 clusters, or one per requested token where those are more.
    valid : ndarray of bool, (S, *space), optional
        True where pixels count.
    seed : int
        Seed of the sample and of the clustering.

    Returns
    -------
    TokenModel
        The same for the same seed and latents.

    Raises
    ------
    ValueError
        If too few pixels count, the latents are all the same, or there are no two clusters.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0x70CE,)))
    boxes = _boxes(source.scenes, source.space, rng)
    per_pixel = source.members * source.features
    positions = _stratified(boxes, min(_PCA_PIXELS, _PCA_VALUES // per_pixel), rng, valid)
    latents = np.empty((len(positions), per_pixel), dtype=np.float32)
    for progress, part in source.sample(positions):
        if part is not None:
            k, rows, one = part
            latents[rows, k * source.features : (k + 1) * source.features] = one
        yield replace(progress, note="Reading latents")
    projection = _principal(latents, source.members, settings.smooth_px, seed)
    del latents
    chosen = _stratified(boxes, _CLUSTER_PIXELS, rng, valid)
    points = np.empty((len(chosen), len(projection.offset)), dtype=np.float32)
    for progress, tile in source.project(list(projection.weights), boxes, projection.margin):
        if tile is not None:
            rows, index = _in_tile(chosen, tile.scene, tile.write)
            points[rows] = projection.components(tile).transpose(*range(1, 1 + len(index)), 0)[index]
        yield replace(progress, note="Reducing latents")
    palette = yield from fit_palette_steps(
        points,
        values(chosen),
        count=max(settings.n_tokens, _PALETTE),
        seed=seed,
        method=settings.method or "kmeans",
    )
    return TokenModel(projection, palette, 1, float(np.quantile(palette.distances(points), _REACH)))


def assign_steps(
    source: LatentSource,
    model: TokenModel,
    nodes: Callable[[int, tuple[slice, ...], NDArray[np.uint8]], None],
    *,
    valid: NDArray[np.bool_] | None = None,
) -> Step[float]:
    """Give every pixel its node in every cut, tile by tile, and return how many lie beyond the tokens; a step.

    Parameters
    ----------
    source : LatentSource
        The image's latents, of the members that the model was fitted with.
    model : TokenModel
        Projection and palette.
    nodes : callable
        Called with scene, place and nodes (n - 1, *tile) of every tile.
    valid : ndarray of bool, (S, *space), optional
        True where pixels count; the others get node 255.

    Returns
    -------
    float
        Share of the pixels that are farther from their token than the reach of the model; NaN if it has none.

    Raises
    ------
    ValueError
        If the members differ from those of the model.
    """
    shape = (source.members, source.features)
    if model.projection.weights.shape[:2] != shape:
        raise ValueError(
            f"These tokens were learned from {model.projection.weights.shape[0]} members with "
            f"{model.projection.weights.shape[1]} features, the ensemble has {shape[0]} with {shape[1]}. "
            "Learn them again (refit)."
        )
    whole, beyond, count = whole_boxes(source.space, source.scenes), 0, 0
    for progress, tile in source.project(list(model.projection.weights), whole, model.projection.margin):
        if tile is not None:
            points = model.projection.components(tile)
            columns = points.reshape(len(points), -1).T
            found = model.palette.assign(columns).reshape(-1, *points.shape[1:])
            far = (model.palette.distances(columns) > model.reach).reshape(points.shape[1:])
            counts = np.True_ if valid is None else valid[tile.scene][tile.write]
            beyond += int(np.count_nonzero(far & counts))
            count += int(np.count_nonzero(np.broadcast_to(counts, far.shape)))
            nodes(tile.scene, tile.write, np.where(counts, found, np.uint8(NO_TOKEN)))
        yield replace(progress, note="Assigning tokens")
    return float("nan") if np.isnan(model.reach) or count == 0 else beyond / count


def tokens_steps(
    source: LatentSource,
    median: View,
    settings: TokenSettings,
    *,
    width: NDArray[np.float32] | None = None,
    model: TokenModel | None = None,
    seed: int = 0,
    valid: NDArray[np.bool_] | None = None,
) -> Step[tuple[TokenModel, Tokens]]:
    """Return the tokens of an image, with a given model or one learned from it; a step.

    Parameters
    ----------
    source : LatentSource
        The image's latents.
    median : View
        Calibrated median of the image, which orders and describes the tokens.
    settings : TokenSettings
        Number of tokens, 1 to 120; HDBSCAN finds its own number, which is the limit. ``order_by`` is a number or
        None.
    width : ndarray of float32, (*axes), optional
        Calibrated width, which describes them too.
    model : TokenModel, optional
        Model learned before; applied as it is, unless the settings name another method.
    seed : int
        Seed of the learning.
    valid : ndarray of bool, (S, *space), optional
        True where pixels count; the others get the label 0.

    Returns
    -------
    tuple of TokenModel, Tokens
        The model, and the image's tokens in its axes without C.

    Raises
    ------
    ValueError
        If there cannot be so many tokens, or the model belongs to other members.
    """
    k, axes, method = settings.n_tokens, median.axes, settings.method
    if not 1 <= k <= _MOST:
        raise ValueError(f"{counted(k, 'token')} wanted; 1 to {_MOST} are possible. Choose a number between.")
    if model is None or method not in (None, model.palette.method):
        model = yield from fit_steps(source, partial(values_at, median), settings, valid=valid, seed=seed)
    if model.palette.method == "hdbscan":
        k = min(k, model.palette.size)
    model.palette.cut(k)
    left = axes.replace("C", "")
    shape = tuple(n for a, n in zip(axes, median.array.shape, strict=True) if a != "C")
    rows = max(model.palette.size - 1, 1)
    if rows * int(np.prod(shape)) > _MAP_BYTES:
        rows = 1
    nodes = np.full((rows, *shape), NO_TOKEN, dtype=np.uint8)
    maps = [View(one, left, "nodes") for one in nodes]

    def keep(scene: int, where: tuple[slice, ...], found: NDArray[np.uint8]) -> None:
        for one, made in zip(maps, found[-rows:], strict=True):
            one.write(scene, where, made[None])

    beyond = yield from assign_steps(source, model, keep, valid=valid)

    def channels_first(maps: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.moveaxis(maps, axes.index("C"), 0) if "C" in axes else maps[None]

    first, second = channels_first(median.array), None if width is None else channels_first(width)
    tokens = Tokens(model.palette, nodes, k, model.base, left, first, second, beyond=beyond)
    return model, tokens if settings.order_by is None else tokens.ordered(int(settings.order_by))


def _principal(latents: NDArray[np.float32], members: int, smooth_px: float, seed: int) -> Projection:
    """Return principal components of a sample (m, M F), which is overwritten; members are scaled to RMS 1."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    blocks = latents.reshape(len(latents), members, -1)
    # One member at a time, since squares of all would be as large as the sample.
    squares = [np.square(blocks[:, k]).mean(dtype=np.float64) for k in range(members)]
    rms = np.sqrt(squares).astype(np.float32)
    if not (np.isfinite(rms).all() and rms.any()):
        raise ValueError("The latents are all zero or not finite: the members are dead. Train again.")
    scale = np.where(rms > 0, 1 / np.where(rms > 0, rms, 1), 0).astype(np.float32)
    blocks *= scale[None, :, None]
    mean = latents.mean(axis=0, dtype=np.float64).astype(np.float32)
    latents -= mean
    kept = min(_COMPONENTS, latents.shape[1], len(latents) - 1)
    with threadpool_limits(limits=1):
        axes = randomized_svd(latents, kept, n_oversamples=16, n_iter=4, flip_sign=False, random_state=seed)[
            2
        ]
    # The sign of an axis is arbitrary: the largest loading is made positive.
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(kept), largest])[:, None]
    weights = axes.T.reshape(members, -1, kept) * scale[:, None, None]
    offset = -(axes @ mean)
    return Projection(weights.astype(np.float32), offset.astype(np.float32), float(smooth_px))


def _boxes(scenes: int, space: tuple[int, ...], rng: np.random.Generator) -> list[Box]:
    """Return the boxes that the fit reads: all of a small image, crops spread evenly over a large one."""
    whole = whole_boxes(space, scenes)
    total = sum(b.size for b in whole)
    if total <= _FIT_PIXELS:
        return whole
    side = {1: 8192, 2: 160, 3: 40}[len(space)]
    cells = [
        Box(b.scene, tuple(slice(a, min(a + side, n)) for a, n in zip(corner, space, strict=True)))
        for b in whole
        for corner in np.ndindex(*(-(-n // side) for n in space))
        for corner in [tuple(i * side for i in corner)]
    ]
    wanted = max(_FIT_PIXELS // side ** len(space), 1)
    # One cell from every run of neighbours spreads them evenly.
    edges = np.linspace(0, len(cells), min(wanted, len(cells)) + 1).astype(int)
    return [cells[int(rng.integers(a, b))] for a, b in pairwise(edges)]


def _stratified(
    boxes: Sequence[Box], count: int, rng: np.random.Generator, valid: NDArray[np.bool_] | None
) -> NDArray[np.intp]:
    """Draw pixels (n, 1 + ndim), equally many from blocks of equal size, in reading order."""
    ndim = len(boxes[0].slices)
    total = sum(b.size for b in boxes)
    side = max(int((total / min(count, 512)) ** (1 / ndim)), 1)
    parts = []
    for box in boxes:
        for corner in np.ndindex(*(-(-n // side) for n in box.shape)):
            low = np.array([s.start + i * side for i, s in zip(corner, box.slices, strict=True)])
            high = np.minimum(low + side, [s.stop for s in box.slices])
            shape = tuple(high - low)
            size = int(np.prod(shape))
            share = count * size / total
            n = min(int(share + rng.random()), size)
            picked = np.sort(rng.choice(size, n, replace=False))
            index = np.stack(np.unravel_index(picked, shape), axis=1) + low
            parts.append(np.column_stack([np.full(n, box.scene), index]))
    positions = np.concatenate(parts).astype(np.intp)
    if valid is not None:
        positions = positions[valid[tuple(positions.T)]]
    if len(positions) < 50:
        raise ValueError(f"Pixels that count: {len(positions)}; tokens need at least 50. Widen valid.")
    return positions


def _in_tile(
    positions: NDArray[np.intp], scene: int, where: tuple[slice, ...]
) -> tuple[NDArray[np.intp], tuple[NDArray[np.intp], ...]]:
    """Return the positions that lie in a tile, and their places in it."""
    low = np.array([s.start for s in where])
    high = np.array([s.stop for s in where])
    inside = (positions[:, 0] == scene) & (positions[:, 1:] >= low).all(1) & (positions[:, 1:] < high).all(1)
    rows = np.flatnonzero(inside)
    return rows, tuple((positions[rows, 1:] - low).T)
