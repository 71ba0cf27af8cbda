"""Estimate of each pixel from the measurements of its neighbours, where errors of a prediction are correlated.

A prediction is wrong over whole patches rather than pixel by pixel, so the count of a neighbour is evidence, too.
The normal scores of the signal in its predicted distributions are a Gaussian field; expectation propagation gives
the belief about each pixel from all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from scipy import fft
from scipy.special import ndtr

from napari_btn.core.calibration.distribution import mean, ppf, variance
from napari_btn.core.calibration.draws import field_steps
from napari_btn.core.calibration.marginals import ScoredTargets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.calibration.draws import Field
    from napari_btn.core.calibration.marginals import Marginal
    from napari_btn.core.progress import Step

__all__ = ["Belief", "Errors"]

_SCORES = np.linspace(-6, 6, 49)  # normal scores at which the evidence of each pixel is looked at
_ROUNDS = 3  # of expectation propagation
_FAINT = 1e-6  # least root of a precision that counts
_STEPS, _ENOUGH = 60, 1e-3  # most steps of the solver, and the share of the residual that may be left
# Precision that the evidence of one pixel may have for others. What is known of a pixel without its own evidence is a
# difference, which sharper evidence would leave to rounding.
_SHARPEST = 20.0
# Of the mean precision, at which the variance is computed.
_SHARES = np.array([0, 0.1, 0.25, 0.5, 1, 2, 4, 8])
_LAGS = 12  # lags that the variance of a pixel is computed from, in pixels
_NARROWEST = 0.01  # least variance of a belief
_CHUNK = 8192  # pixels at a time, so that the scores of a chunk stay in the cache


@dataclass(frozen=True, eq=False)
class Belief:
    """Mean and variance of each pixel's normal score before its own measurement.

    Parameters
    ----------
    mean, variance : ndarray of float64, shape (C, *space)
        0 and 1 where the neighbours say nothing.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


class _Neighbours:
    """The correlation of normal scores over space and channels, as an operator on images.

    Parameters
    ----------
    field : Field
        Of the errors.
    """

    def __init__(self, field: Field) -> None:
        self._correlation = field.correlation()
        self._axes = tuple(range(2, self._correlation.ndim))
        # variances need few lags; those that are cut off leave negative parts
        middle = [n // 2 for n in self._correlation.shape[2:]]
        inside = tuple(slice(max(m - _LAGS, 0), m + _LAGS + 1) for m in middle)
        near = self._correlation[(slice(None), slice(None), *inside)]
        shape = near.shape[2:]
        lags = np.moveaxis(_waves(near, shape), (0, 1), (-2, -1))
        values, vectors = np.linalg.eigh((lags + np.conj(np.swapaxes(lags, -1, -2))) / 2)
        made = np.einsum("...ik,...k,...jk->...ij", vectors, np.clip(values, 0, None), vectors.conj())
        # a frequency of the half spectrum stands for its mirror image, too
        twice = np.full(shape[-1] // 2 + 1, 2.0)
        twice[0] = 1
        self._weights = np.broadcast_to(twice / np.prod(shape), made.shape[:-2])
        # without the negative parts the field varies more than by one
        size = np.sqrt(self._mean(np.diagonal(made, axis1=-2, axis2=-1).real))
        self._lags = made / (size[:, None] * size)

    def beliefs(
        self,
        quantiles: NDArray[np.float32],
        levels: Sequence[float],
        values: NDArray[np.float64],
        dose: Dose,
    ) -> Belief:
        """Return the belief of each pixel from the measurements of all others, in all channels.

        Parameters
        ----------
        quantiles : ndarray of float32, shape (L, C, *space)
            Calibrated quantiles.
        levels : sequence of float
            The L levels.
        values : ndarray of float64, shape (C, *space)
            Measured values; NaN where there is none.
        dose : Dose
            Of the measurement.

        References
        ----------
        Minka, "Expectation propagation for approximate Bayesian inference" (2001); Rasmussen and Williams,
        "Gaussian processes for machine learning" (2006), 3.6. The variances are those of a field that is measured
        evenly, with the precision that the surroundings of a pixel have.
        """
        evidence = np.stack([_evidence(quantiles[:, c], levels, v, dose, c) for c, v in enumerate(values)])
        precision, pull, centre = np.zeros((3, *values.shape))
        belief = Belief(np.zeros(values.shape), np.ones(values.shape))
        operator = self.on(values.shape[1:])
        for _ in range(_ROUNDS):
            found, spread = _moments(evidence, belief)
            precision = np.maximum(1 / spread - 1 / belief.variance, 0)
            pull = found * (precision + 1 / belief.variance) - belief.mean / belief.variance
            # evidence that is made less sharp stays where it is
            share = _SHARPEST / np.maximum(precision, _SHARPEST)
            # what is less than nothing is left out
            precision, pull = precision * share, np.where(precision > 0, pull * share, 0)
            centre = operator.solved(precision, pull)
            belief = self._without_own(operator, precision, pull, centre)
        return belief

    def gain(
        self, precision: NDArray[np.float64], measured: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """Return how many times as precise a pixel's score is measured by all together as by its own pixel, (C,).

        Parameters
        ----------
        precision : ndarray of float64, shape (C,)
            Of one pixel's own measurement of its normal score.
        measured : ndarray of bool, shape (*space), optional
            Pixels that are measured, whose mean is returned; without it, an endless field.
        """
        known = np.maximum(precision, 1e-12)
        if measured is None:
            around = np.ones((len(known), 1))
        else:
            even = known.reshape(-1, *(1,) * measured.ndim) * measured
            around = self.on(measured.shape).around(even, known)[:, measured]
        return np.asarray(1 + (1 / self._alone(known, around) - 1).mean(1) / known)

    def _without_own(
        self,
        operator: _Operator,
        precision: NDArray[np.float64],
        pull: NDArray[np.float64],
        centre: NDArray[np.float64],
    ) -> Belief:
        """Return the belief of each pixel without its own evidence."""
        measured = np.array([p[p > 0].mean() if (p > 0).any() else 0.0 for p in precision])
        if not measured.any():
            return Belief(np.zeros(precision.shape), np.ones(precision.shape))
        variance = np.maximum(self._alone(measured, operator.around(precision, measured)), _NARROWEST)
        whole = 1 / (1 / variance + precision)
        return Belief(variance * (centre / whole - pull), variance)

    def _alone(self, precision: NDArray[np.float64], around: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of pixels without their own evidence, where the surroundings have shares of (C,)."""
        own = precision * _SHARES[:, None]
        alone = 1 / np.maximum(1 / np.stack([self._variance(t) for t in own]) - own, 1)
        return np.stack([np.interp(a, _SHARES, alone[:, c]) for c, a in enumerate(around)])

    def _variance(self, precision: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of a pixel if all pixels are measured with a precision (C,)."""
        root = np.sqrt(precision)
        scaled = root[:, None] * self._lags
        inner = np.linalg.solve(np.eye(len(root)) + scaled * root, scaled)
        left = self._lags - np.einsum("...ji,...jk->...ik", scaled.conj(), inner)
        own = np.diagonal(left, axis1=-2, axis2=-1).real
        return self._mean(own)

    def _mean(self, spectrum: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean over all frequencies of values (*half spectrum, C)."""
        return np.asarray(np.tensordot(self._weights, spectrum, self._weights.ndim))

    def on(self, space: tuple[int, ...]) -> _Operator:
        """Return the correlation as an operator on images (C, *space)."""
        # lags beyond the image aren't needed
        reach = [min(n // 2, size - 1) for n, size in zip(self._correlation.shape[2:], space, strict=True)]
        inside = tuple(
            slice(n // 2 - r, n // 2 + r + 1) for n, r in zip(self._correlation.shape[2:], reach, strict=True)
        )
        near = self._correlation[(slice(None), slice(None), *inside)]
        shape = [fft.next_fast_len(n + r, real=True) for n, r in zip(space, reach, strict=True)]
        # what others say grows with the square of their correlation, also of those outside of the image
        squares = np.square(near)
        own = [np.square(self._correlation[c, c].max()) for c in range(len(near))]
        total = np.square(self._correlation).sum(self._axes) - np.diag(own)
        for c in range(len(near)):
            squares[(c, c, *reach)] = 0
        return _Operator(space, _waves(near, shape), _waves(squares, shape), total, shape)


@dataclass(frozen=True, eq=False)
class Errors:
    """Calibrated distributions, and how errors of neighbours and channels go together.

    Parameters
    ----------
    marginals : tuple of Marginal
        Of each channel.
    neighbours : Neighbours
    """

    marginals: tuple[Marginal, ...]
    neighbours: _Neighbours

    @classmethod
    def of_steps(cls, held_out: HeldOut) -> Step[Errors | None]:
        """Estimate how errors of held-out pixels go together; None where these have no positions; a step.

        The estimate takes seconds, so it is kept as long as the held-out pixels are.
        """
        if held_out.position is None:
            return None
        if held_out not in _ESTIMATED:
            marginals = tuple(ScoredTargets.of(held_out, c).calibrated() for c in range(len(held_out.target)))
            field = yield from field_steps(held_out, marginals)
            _ESTIMATED[held_out] = cls(marginals, _Neighbours(field))
        return _ESTIMATED[held_out]

    def calibrated(self, quantiles: NDArray[np.float32], levels: Sequence[float]) -> NDArray[np.float32]:
        """Return the calibrated quantiles (L, C, *space) of predicted ones, at the same levels."""
        space = quantiles.shape[2:]
        made = [
            np.stack([m.values(quantiles[:, c], np.full(space, u)) for u in levels])
            for c, m in enumerate(self.marginals)
        ]
        return np.stack(made, 1)

    def gain(
        self,
        quantiles: NDArray[np.float32],
        levels: Sequence[float],
        dose: Dose,
        measured: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Return how many times the dose a pixel's own measurement would need to say as much as all together, (C,).

        Parameters
        ----------
        quantiles : ndarray of float32, shape (L, C, n)
            Predicted quantiles of the pixels that are measured.
        levels : sequence of float
            The L levels.
        dose : Dose
            Of the measurement.
        measured : ndarray of bool, shape (*space), optional
            Where they are; without it, in an endless field.
        """
        precision = []
        for c, one in enumerate(np.moveaxis(self.calibrated(quantiles, levels), 1, 0)):
            known = one[:, np.isfinite(one).all(0)]
            noise = dose.variance(mean(known, levels), c)
            each = np.minimum(variance(known, levels) / noise, _SHARPEST)
            precision.append(float(each.mean()) if known.size else 0.0)
        return self.neighbours.gain(np.asarray(precision), measured)


_ESTIMATED: WeakKeyDictionary[HeldOut, Errors] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class _Operator:
    """Convolution of images (C, *space) with the correlation, and with its squares (sums (C, C)) but at the pixel."""

    space: tuple[int, ...]
    waves: NDArray[np.complex128]
    squares: NDArray[np.complex128]
    total: NDArray[np.float64]
    shape: Sequence[int]

    def correlated(self, image: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the correlation times an image."""
        return self._back(np.einsum("ij...,j...->i...", self.waves, self._forth(image)))

    def around(self, precision: NDArray[np.float64], even: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much more than others of an even precision (C,) those around each pixel say; 0 for nothing."""
        summed = self._back(np.einsum("ij...,j...->i...", self.squares, self._forth(precision)))
        whole = np.maximum(self.total @ even, 1e-12 * even.max())
        return np.asarray(summed / whole.reshape(-1, *(1,) * len(self.space)))

    def solved(self, precision: NDArray[np.float64], pull: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean of the field after evidence of a precision and a pull (precision times place).

        Conjugate gradients solve ``(1 + r K r) x = r place`` with r the root of the precision; the mean is ``K r x``.
        No large values are subtracted, however far errors go together.
        """
        root = np.sqrt(precision)
        left = pull / np.maximum(root, _FAINT)
        found, along, size = np.zeros_like(left), left.copy(), float(np.vdot(left, left))
        enough = _ENOUGH**2 * size
        for _ in range(_STEPS):
            if size <= enough:
                break
            turned = along + root * self.correlated(root * along)
            step = size / float(np.vdot(along, turned))
            found += step * along
            left -= step * turned
            before, size = size, float(np.vdot(left, left))
            along = left + size / before * along
        return self.correlated(root * found)

    def _forth(self, image: NDArray[np.float64]) -> NDArray[np.complex128]:
        axes = tuple(range(1, image.ndim))
        return np.asarray(fft.rfftn(image, self.shape, axes=axes))

    def _back(self, waves: NDArray[np.complex128]) -> NDArray[np.float64]:
        axes = tuple(range(1, waves.ndim))
        whole = fft.irfftn(waves, self.shape, axes=axes)
        return np.asarray(whole[(slice(None), *(slice(0, n) for n in self.space))])


def _waves(kernel: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.complex128]:
    """Return the spectrum of kernels (..., *lags) with lag zero in the middle."""
    lags = kernel.shape[-len(shape) :]
    axes = tuple(range(-len(shape), 0))
    padded = np.pad(
        kernel, [(0, 0)] * (kernel.ndim - len(shape)) + [(0, n - m) for n, m in zip(shape, lags, strict=True)]
    )
    return np.asarray(fft.rfftn(np.roll(padded, [-(m // 2) for m in lags], axis=axes), axes=axes))


def _evidence(
    quantiles: NDArray[np.float32],
    levels: Sequence[float],
    values: NDArray[np.float64],
    dose: Dose,
    channel: int,
) -> NDArray[np.float32]:
    """Return the log likelihood of each value (*space) at each normal score of its pixel, (K, *space)."""
    made = np.zeros((_SCORES.size, values.size), np.float32)
    flat, measured = quantiles.reshape(len(levels), -1), values.ravel()
    for start in range(0, values.size if dose.dose[channel] > 0 else 0, _CHUNK):
        part = slice(start, start + _CHUNK)
        q, value = flat[:, part], measured[part]
        known = np.isfinite(value) & np.isfinite(q).all(0)
        signal = np.stack([ppf(q, levels, float(chance)) for chance in ndtr(_SCORES)]).astype(np.float64)
        found = dose.log_likelihood(np.where(known, signal, 0), np.where(known, value, 0), channel)
        made[:, part] = np.where(known, found - found.max(0), 0)
    return made.reshape(-1, *values.shape)


def _moments(
    evidence: NDArray[np.float32], belief: Belief
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of each pixel's score (C, *space) by its belief and its evidence (C, K, *space)."""
    flat = evidence.reshape(*evidence.shape[:2], -1)
    mean, variance = (m.reshape(len(flat), 1, -1) for m in (belief.mean, belief.variance))
    score = _SCORES[:, None]
    found, spread = np.empty((2, len(flat), flat.shape[2]))
    for start in range(0, flat.shape[2], _CHUNK):
        part = (..., slice(start, start + _CHUNK))
        weight = flat[part] - np.square(score - mean[part]) / (2 * variance[part])
        weight = np.exp(weight - weight.max(1, keepdims=True))
        weight /= weight.sum(1, keepdims=True)
        found[part] = (weight * score).sum(1)
        spread[part] = (weight * np.square(score)).sum(1) - found[part] ** 2
    least = (_SCORES[1] - _SCORES[0]) ** 2 / 12
    return found.reshape(belief.mean.shape), np.maximum(spread, least).reshape(belief.mean.shape)
