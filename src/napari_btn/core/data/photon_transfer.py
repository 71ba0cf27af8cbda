"""The photon-transfer curve: variance of the noise against the mean, its fit, and the noise's autocorrelation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_btn.core.data.defects import fill_defects

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LAGS", "Transfer", "fit_line", "transfer_of_frames", "transfer_of_image"]

LAGS = 8
"""Largest lag of the noise's autocorrelation, in pixels."""

_BINS = 24
_LEAST_PER_BIN = 40
_SIGNIFICANT = 3.0  # standard errors that a coefficient must reach to be kept
_FLAT_SHARE = 0.08  # share of blocks with the least structure, for one image
_MOVED = 0.02  # more variance at edges than elsewhere, above which frames moved
_BLOCK = 8
_COARSE = 15.0  # coarser Haar details of a block
_PASSES = 5
_LEAST_BLOCKS = 3
_NUGGET = 3.0
_PREFERRED = 4.0  # twice the log likelihood that counts may fit worse
_CORRELATED = 0.25  # texture alone gives less


@dataclass(frozen=True, eq=False)
class Transfer:
    """Measured points of a photon-transfer curve, and the autocorrelation of the noise.

    Attributes
    ----------
    mean : ndarray of float, (n,)
        Mean of each bin of intensity, in the unit of the image.
    variance : ndarray of float, (n,)
        Variance of the noise in each bin.
    count : ndarray of float, (n,)
        Independent differences in each bin.
    correlation : ndarray of float, (ndim, LAGS + 1)
        Autocorrelation of the noise along each space axis at lags 0, 1, ... px; NaN beyond the image.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    count: NDArray[np.float64]
    correlation: NDArray[np.float64]


@dataclass(frozen=True)
class _Line:
    """Fitted law: ``variance = intercept + slope * mean + curvature * mean**2``, with standard errors.

    Attributes
    ----------
    intercept : float
        Variance at a mean of zero.
    slope : float
        Growth of the variance per unit of mean.
    curvature : float
        Quadratic term: noise in proportion to the signal.
    slope_se : float
        Standard error of the slope.
    ratio : float
        Variance over mean, pooled: the Fano factor of the values as they are.
    ratio_se : float
        Standard error of the ratio.
    """

    intercept: float
    slope: float
    curvature: float
    slope_se: float
    ratio: float
    ratio_se: float

    def variance(self, mean: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
        """Return the fitted variance at each mean, never below zero."""
        m = np.asarray(mean, np.float64)
        return np.maximum(self.intercept + self.slope * m + self.curvature * m**2, 0.0)


def transfer_of_frames(
    frames: NDArray[np.float32], known: NDArray[np.bool_], *, moving: bool = False
) -> Transfer:
    """Measure the noise of frames of one field from differences of consecutive frames.

    Pixels are sorted into bins by their neighbours' mean, whose noise is independent of theirs; the bin
    then holds an unbiased mean and variance, whatever the law of the noise.

    Parameters
    ----------
    frames : ndarray of float32, (T, *space)
        At least two frames, aligned.
    known : ndarray of bool, (*space)
        False where a pixel is defect, saturated or unknown in any frame.
    moving : bool
        True leaves out the steeper half of each bin if motion adds to the variance there.

    References
    ----------
    Janesick, Photon Transfer (SPIE Press, 2007), chapter 5.
    """
    frames = np.asarray(frames, np.float64)
    steps = np.diff(frames, axis=0)
    steps -= np.median(steps, axis=tuple(range(1, steps.ndim)), keepdims=True)
    mean = frames.mean(0)
    neighbours = _neighbours(mean, known)
    keep = known & np.isfinite(neighbours)
    bins = _bins(neighbours, keep)
    squares = (steps**2).mean(0) / 2
    # consecutive differences share a frame, which costs a third of their number
    independent = max((len(frames) - 1) * 2 / 3, 1.0)
    m, v, n = _points(bins, mean, squares, independent)
    law = fit_line(m, v, n)
    if moving:
        flat = _flat_half(bins, mean)
        points = _points(flat, mean, squares, independent)
        calm = fit_line(*points)
        # what moves adds to the variance at edges only
        excess = float(np.average(v / np.maximum(calm.variance(m), 1e-30), weights=n)) - 1
        if excess > max(_MOVED, _SIGNIFICANT * np.sqrt(4 / n.sum())):
            bins, (m, v, n), law = flat, points, calm
    inside = bins >= 0
    level = law.variance(np.where(keep, neighbours, m.mean()))
    scale = np.sqrt(np.maximum(2 * level, 1e-12 * max(float(v.max()), 1e-30)))
    z = np.where(inside, steps / scale, 0.0)
    return Transfer(m, v, n, _autocorrelation(z, inside))


def transfer_of_image(image: NDArray[np.float32], known: NDArray[np.bool_]) -> Transfer:
    """Measure the noise of one image from flat patches of equal mean.

    The variance comes from the finest diagonal Haar details of blocks of 8 px. Blocks are chosen by
    their coarser details, which are uncorrelated with the finest ones under independent noise, so the
    choice does not bias the variance. Fine texture that fills the whole image counts as noise.

    Parameters
    ----------
    image : ndarray of float32, (*space)
        Two or three dimensions; slices are analysed together.
    known : ndarray of bool, (*space)
        False where a pixel is defect, saturated or unknown.

    References
    ----------
    Foi, Trimeche, Katkovnik, Egiazarian, IEEE Trans. Image Process. 17 (2008) 1737.
    """
    # a broken pixel would make its block look structured
    values = fill_defects(np.asarray(image, np.float32), ~known).astype(np.float64)
    correlation = _correlation_of_flat(values, known)
    slices = values.reshape(-1, *values.shape[-2:])
    mask = known.reshape(slices.shape)
    h, w = (n // _BLOCK * _BLOCK for n in slices.shape[1:])
    slices, mask = slices[:, :h, :w], mask[:, :h, :w]
    average, fine = _haar(slices)
    whole = _blocks((_haar(mask.astype(np.float64))[0] > 0.999).astype(np.float64), 4)
    energy = np.zeros((len(slices), h // _BLOCK, w // _BLOCK))
    level = average
    # of pure noise of variance 1 the sum follows chi squared with _COARSE degrees of freedom
    for side, scale in ((2, 1.0), (1, 4.0)):
        energy += sum(_blocks(detail**2, side).sum(-1) for detail in _details(level)) * scale
        level = _haar(level)[0]
    n_whole = whole.sum(-1)
    share = np.maximum(n_whole, 1)
    block_mean = (_blocks(average, 4) * whole).sum(-1) / share
    block_variance = (_blocks(fine**2, 4) * whole).sum(-1) / share
    bins = _bins(block_mean, n_whole >= 8, least=6)
    limit = _flat_limit(bins, energy)
    flat = np.where(energy <= limit, bins, -1)
    for _ in range(_PASSES):
        m, v, n = _points(flat, block_mean, block_variance, 16.0, least=_LEAST_BLOCKS)
        expected = fit_line(m, v, n).variance(block_mean)
        flat = np.where(energy <= np.maximum(limit, _COARSE * expected), bins, -1)
    m, v, n = _points(flat, block_mean, block_variance, 16.0, least=_LEAST_BLOCKS)
    # along an axis with correlated noise neighbours differ less
    first = correlation[-2:, 1]
    shrink = np.prod([1 - r for r in first if r > _CORRELATED])
    return Transfer(m, v / max(float(shrink), 0.02), n, correlation)


def fit_line(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    count: NDArray[np.float64],
    *,
    offset: float | None = None,
    curved: float = _SIGNIFICANT,
    counts: bool = False,
) -> _Line:
    """Fit the photon-transfer line with as few terms as the points need.

    Weighted least squares with weights from the fitted variance, repeated; bins far from the line (of
    structure or clipping) weigh less. A term under three standard errors (five for the quadratic one) is left out.

    Parameters
    ----------
    mean, variance, count : ndarray of float, (n,)
        Points of a `Transfer`.
    offset : float, optional
        Value without light, if known: ratios are then taken above it.
    curved : float
        Standard errors that the quadratic term must exceed; more for one image, where structure imitates it.
    counts : bool
        Values may be counts: variance in proportion to the mean is preferred where points can't decide.
    """
    origin = offset or 0.0
    total = float((count * (mean - origin)).sum())
    ratio = float((count * variance).sum()) / total if total > 0 else np.nan
    spread = 2 * variance**2 + 0.5 * abs(ratio if np.isfinite(ratio) else 0.0) ** 2 * variance
    ratio_se = float(np.sqrt((count * spread).sum())) / total if total > 0 else np.nan
    above = mean - origin
    candidates: list[tuple[int, ...]] = [(0,)]
    proportional = above.min() >= 0
    if counts and proportional:
        candidates.append((1,))
    if len(mean) >= 3 and np.ptp(mean) > 1e-3 * max(float(np.abs(mean).max()), 1e-30):
        candidates.append((0, 1))
        if proportional and not counts:
            candidates.append((1,))
    if (0, 1) in candidates and len(mean) >= 6:
        candidates.append((0, 1, 2))
    fits = {terms: _weighted_fit(above, variance, count, terms) for terms in candidates}
    chosen = _fewest_terms(fits, curved, counts)
    if offset is not None and (1,) in fits and chosen == (0, 1) and fits[chosen][0][0] < 0:
        # no variance is negative at a known offset
        chosen = (1,)
    coefficients, errors, _ = fits[chosen]
    value = dict(zip(chosen, coefficients, strict=True))
    error = dict(zip(chosen, errors, strict=True))
    c, b, a = (float(value.get(k, 0.0)) for k in range(3))
    # back from values above the offset to the values themselves
    terms = (c - b * origin + a * origin**2, b - 2 * a * origin, a)
    return _Line(*terms, slope_se=float(error.get(1, 0.0)), ratio=ratio, ratio_se=ratio_se)


def _fewest_terms(
    fits: dict[tuple[int, ...], tuple[NDArray[np.float64], NDArray[np.float64], float]],
    curved: float,
    counts: bool,
) -> tuple[int, ...]:
    """Return the fewest terms that the points need."""
    if (0, 1, 2) in fits:
        value, error, _ = fits[0, 1, 2]
        if value[2] > curved * error[2]:
            return 0, 1, 2
    if (0, 1) not in fits:
        return (1,) if (1,) in fits else (0,)
    value, error, _ = fits[0, 1]
    grows = value[1] > _SIGNIFICANT * error[1]
    starts = abs(value[0]) > _SIGNIFICANT * error[0]
    undecided = not grows and (1,) in fits and fits[1,][2] < fits[0,][2] + (_PREFERRED if counts else 0)
    if (1,) in fits and (undecided or (grows and not starts)):
        return (1,)
    return (0, 1) if grows else (0,)


def _weighted_fit(
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    count: NDArray[np.float64],
    terms: tuple[int, ...],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return coefficients, standard errors and misfit of robust, iteratively reweighted least squares."""
    design = np.stack([mean**k for k in terms], 1)
    least = 1e-6 * max(float(variance.max()), 1e-30)
    model = np.maximum(np.full_like(variance, np.average(variance, weights=count)), least)
    robust = np.ones_like(variance)
    step = variance.sum() / max(float(np.abs(mean).sum()), 1e-30)
    for _ in range(12):
        # the variance of half a squared difference of Poisson counts: 2 V^2 + V / 2
        sd = np.sqrt((2 * model**2 + 0.5 * step**2 * model) / count)
        weight = robust / sd
        solved, *_rest = np.linalg.lstsq(design * weight[:, None], variance * weight, rcond=None)
        model = np.maximum(design @ solved, least)
        away = (variance - design @ solved) / sd
        scale = max(1.0, float(np.median(np.abs(away))) / 0.6745)
        # Huber's weights
        robust = np.sqrt(np.minimum(1.0, 1.5 * scale / np.maximum(np.abs(away), 1e-12)))
    freedom = max(len(mean) - len(terms), 1)
    inflation = max(1.0, float(((away * robust) ** 2).sum()) / freedom)
    scaled = design * weight[:, None]
    covariance = np.linalg.pinv(scaled.T @ scaled) * inflation
    misfit = float(np.minimum(away**2, 1.5 * np.abs(away)).sum() + 2 * np.log(sd).sum())
    return solved, np.sqrt(np.maximum(np.diag(covariance), 0.0)), misfit


def _bins(
    level: NDArray[np.float64], keep: NDArray[np.bool_], least: int = _LEAST_PER_BIN
) -> NDArray[np.int64]:
    """Return the number of the bin of each pixel: edges at quantiles and at even steps; -1 outside."""
    bins = np.full(level.shape, -1)
    values = level[keep]
    if values.size == 0:
        return bins
    count = int(np.clip(values.size // (4 * least), 1, _BINS))
    low, high = np.quantile(values, (0.001, 0.999))
    edges = np.unique(
        np.concatenate(
            [np.quantile(values, np.linspace(0, 1, count + 1)[1:-1]), np.linspace(low, high, count + 1)[1:-1]]
        )
    )
    bins[keep] = np.searchsorted(edges, values, side="right")
    return bins


def _points(
    bins: NDArray[np.int64],
    mean: NDArray[np.float64],
    squares: NDArray[np.float64],
    each: float,
    least: int = _LEAST_PER_BIN,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, variance and number of differences of each bin that holds enough."""
    inside = bins >= 0
    number = bins[inside]
    count = np.bincount(number, minlength=1)
    full = count >= min(least, count.max())
    if not count.any():
        raise ValueError("No pixel is left to measure noise in; give a larger image, or mask fewer pixels.")
    m = np.bincount(number, mean[inside])[full] / count[full]
    v = np.bincount(number, squares[inside])[full] / count[full]
    return m, v, count[full] * each


def _neighbours(mean: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of the 24 pixels around each in its slice; NaN where fewer than 6 are known."""
    size = (1,) * (mean.ndim - 2) + (5, 5)
    filled = np.where(known, mean, 0.0)
    weight = ndimage.uniform_filter(known.astype(np.float64), size, mode="constant") * 25 - known
    total = ndimage.uniform_filter(filled, size, mode="constant") * 25 - filled
    return np.where(weight > 5.5, total / np.maximum(weight, 1.0), np.nan)


def _flat_half(bins: NDArray[np.int64], mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bins without the steeper half of the pixels of each."""
    smooth = ndimage.gaussian_filter(mean, (0.0,) * (mean.ndim - 2) + (2.0, 2.0))
    slope, flat = np.hypot(*(np.gradient(smooth, axis=axis) for axis in (-2, -1))), bins.copy()
    for b in range(int(bins.max(initial=-1)) + 1):
        inside = bins == b
        if inside.any():
            flat[inside & (slope > np.median(slope[inside]))] = -1
    return flat


def _haar(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the average of each 2 x 2 pixels, and their diagonal detail of unit noise gain."""
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    return (a + b + c + d) / 4, (a - b - c + d) / 2


def _details(image: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return the horizontal, vertical and diagonal differences of each 2 x 2 pixels."""
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    return [a - b + c - d, a + b - c - d, a - b - c + d]


def _flat_limit(bins: NDArray[np.int64], energy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the energy under which each block is among the flattest of its bin."""
    limit = np.zeros(energy.shape)
    for b in range(int(bins.max(initial=-1)) + 1):
        here = bins == b
        if here.any():
            limit[here] = np.quantile(energy[here], _FLAT_SHARE)
    return limit


def _blocks(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return the values of blocks of ``side`` pixels along a last axis."""
    n, h, w = values.shape
    cut = values.reshape(n, h // side, side, w // side, side)
    return cut.transpose(0, 1, 3, 2, 4).reshape(n, h // side, w // side, side * side)


def _correlation_of_flat(image: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the autocorrelation of what is left of the flattest blocks without their plane."""
    side = 2 * _BLOCK if min(image.shape[-2:]) >= 4 * _BLOCK else _BLOCK
    slices = image.reshape(-1, *image.shape[-2:])
    h, w = (n // side * side for n in slices.shape[1:])
    cut = _blocks(slices[:, :h, :w], side)
    mask = _blocks(known.reshape(slices.shape)[:, :h, :w].astype(np.float64), side) > 0.5
    ramp = np.linspace(-1, 1, side)
    basis = np.stack([np.ones((side, side)), *np.meshgrid(ramp, ramp, indexing="ij")]).reshape(3, -1)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    count = np.maximum(mask.sum(-1, keepdims=True), 1)
    middle = (cut * mask).sum(-1, keepdims=True) / count
    rest = np.where(mask, cut - middle, 0.0)
    rest -= (rest @ basis.T) @ basis
    rest *= mask
    power = (rest**2).sum(-1) / count[..., 0]
    good = mask.mean(-1) > 0.7
    bins = _bins(middle[..., 0], good, least=12)
    z = np.zeros_like(rest)
    inside = (bins >= 0) & (power <= _flat_limit(bins, power))
    for b in np.unique(bins[inside]):
        here = inside & (bins == b)
        z[here] = rest[here] / np.sqrt(max(float(power[here].mean()), 1e-30))

    def whole(blocks: NDArray[Any]) -> NDArray[Any]:
        n, rows, columns = blocks.shape[:3]
        grid = blocks.reshape(n, rows, columns, side, side).transpose(0, 1, 3, 2, 4)
        return grid.reshape(*image.shape[:-2], rows * side, columns * side)

    return _without_texture(_autocorrelation(whole(z)[None], whole(mask & inside[..., None])))


def _without_texture(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the autocorrelation without that of texture, which lies alike along Y and X under independent noise."""
    plane = correlation[-2:, 1:3]
    if not np.isfinite(plane).all() or plane[:, 0].min() < 0.5 * plane[:, 0].max():
        return correlation
    # independent noise makes the fall from lag 0 to 1 steep beside the next one
    falls = (1 - plane[:, 0]) > _NUGGET * np.maximum(plane[:, 0] - plane[:, 1], 0)
    if falls.all() and (plane[:, 0] > _CORRELATED / 2).all():
        correlation = correlation.copy()
        correlation[:, 1:] = np.where(np.isnan(correlation[:, 1:]), np.nan, 0.0)
    return correlation


def _autocorrelation(z: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the autocorrelation of fields (n, *space) along each axis, over pairs of pixels both inside."""
    ndim = inside.ndim
    weight = inside.astype(np.float64)
    variance = float((z**2).sum()) / max(len(z) * float(weight.sum()), 1.0)
    out = np.full((ndim, LAGS + 1), np.nan)
    for axis in range(ndim):
        n = inside.shape[axis]
        for lag in range(min(LAGS, n - 1) + 1):
            before = [slice(None)] * ndim
            after = [slice(None)] * ndim
            before[axis], after[axis] = slice(0, n - lag), slice(lag, n)
            pairs = float((weight[tuple(before)] * weight[tuple(after)]).sum()) * len(z)
            if pairs < _LEAST_PER_BIN:
                continue
            product = float((z[(slice(None), *before)] * z[(slice(None), *after)]).sum())
            out[axis, lag] = product / pairs / max(variance, 1e-30)
    return out
