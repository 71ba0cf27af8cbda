"""Recorded noise: the distribution of values at each signal, from about a hundred frames of a static scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy import special

from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = [
    "HistogramNoise",
    "MixtureNoise",
    "Recorded",
    "histogram_of_array",
    "mixture_of_polynomials",
    "recorded_of",
]

_BINS = 128  # of signal and of value, in a histogram
_KNOTS = 16  # signals at which a mixture is fitted
_COMPONENTS = 3
_PASSES = 40
_LEAST_PER_KNOT = 400
_FLOOR = 1e-10  # probability density of a value that was never seen, relative to the width of its bin
_LARGEST = 4096  # bins of a histogram that is read
_EVALUATED = 64  # signals at which polynomials are evaluated


@dataclass(frozen=True, eq=False)
class HistogramNoise:
    """Recorded noise as a histogram: the probability of each bin of values, for each bin of signals.

    Attributes
    ----------
    signal_edges : ndarray of float, (S + 1,)
        Edges of the bins of the signal, rising.
    value_edges : ndarray of float, (V + 1,)
        Edges of the bins of the values, rising.
    probability : ndarray of float, (S, V)
        Rows add up to 1.
    """

    kind: ClassVar[str] = "histogram"

    signal_edges: NDArray[np.float64]
    value_edges: NDArray[np.float64]
    probability: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("signal_edges", "value_edges"):
            edges = np.asarray(getattr(self, name), np.float64)
            rising = (
                edges.ndim == 1 and len(edges) > 1 and np.isfinite(edges).all() and (np.diff(edges) > 0).all()
            )
            need(bool(rising), name, np.shape(edges), "one row of finite, rising edges")
            object.__setattr__(self, name, edges)
        table = np.asarray(self.probability, np.float64)
        shape = (len(self.signal_edges) - 1, len(self.value_edges) - 1)
        need(table.shape == shape, "probability's shape", table.shape, f"{shape}")
        ok = np.isfinite(table).all() and (table >= 0).all() and bool((table.sum(1) > 0).all())
        need(bool(ok), "probability", "not a distribution", "zero or more, with some in every row")
        object.__setattr__(self, "probability", table / table.sum(1, keepdims=True))

    @classmethod
    def fit(cls, signal: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> HistogramNoise:
        """Return the histogram of values (n, pixels) of pixels whose signals (pixels,) are known.

        Bins of signals that hold few pixels take those of the nearest that hold enough.
        """
        signal_edges = _edges(signal)
        value_edges = _edges(values)
        row = np.broadcast_to(np.searchsorted(signal_edges[1:-1], signal, side="right"), values.shape)
        column = np.searchsorted(value_edges[1:-1], values, side="right")
        shape = (len(signal_edges) - 1, len(value_edges) - 1)
        flat = np.bincount(row.ravel() * shape[1] + column.ravel(), minlength=shape[0] * shape[1])
        table = flat.reshape(shape).astype(np.float64)
        full = np.flatnonzero(table.sum(1) >= min(_LEAST_PER_KNOT, table.sum(1).max()))
        nearest = full[np.abs(np.arange(shape[0])[:, None] - full).argmin(1)]
        centre = (signal_edges[1:] + signal_edges[:-1]) / 2
        width = value_edges[1] - value_edges[0]
        for r in np.flatnonzero(nearest != np.arange(shape[0])):
            # moved by the difference of the signals
            by = int(np.round((centre[r] - centre[nearest[r]]) / width))
            moved = np.clip(np.arange(shape[1]) + by, 0, shape[1] - 1)
            table[r] = np.bincount(moved, table[nearest[r]], minlength=shape[1])
        return cls(signal_edges, value_edges, table)

    def _row(self, signal: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the row of each signal."""
        return np.asarray(np.searchsorted(self.signal_edges[1:-1], signal, side="right"))

    def variance(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance at each signal."""
        centre = (self.value_edges[1:] + self.value_edges[:-1]) / 2
        mean = self.probability @ centre
        spread = self.probability @ centre**2 - mean**2
        return np.asarray(np.maximum(spread, 0)[self._row(signal)])

    def sample(self, signal: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw a value at each signal; bins are filled evenly, and rows are centred on the signal."""
        row = self._row(signal)
        rising = np.cumsum(self.probability, 1)
        chance = rng.random(signal.shape)
        column = np.empty(signal.shape, np.int64)
        for r in np.unique(row):
            here = row == r
            column[here] = np.minimum(
                np.searchsorted(rising[r], chance[here], side="right"), rising.shape[1] - 1
            )
        width = np.diff(self.value_edges)
        drawn = self.value_edges[column] + width[column] * rng.random(signal.shape)
        centre = (self.value_edges[1:] + self.value_edges[:-1]) / 2
        return np.asarray(drawn + signal - (self.probability @ centre)[row])

    def log_likelihood(
        self, observed: NDArray[np.float64], signal: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the log probability density of values; that of unseen ones is small, but not zero."""
        row = self._row(signal)
        column = np.searchsorted(self.value_edges[1:-1], observed, side="right")
        inside = (observed >= self.value_edges[0]) & (observed <= self.value_edges[-1])
        mass = np.where(inside, self.probability[row, column], 0.0)
        return np.asarray(np.log((mass + _FLOOR) / np.diff(self.value_edges)[column]))

    def to_dict(self) -> dict[str, Any]:
        """Return the model as a JSON-ready dict."""
        names = ("signal_edges", "value_edges", "probability")
        return {"kind": self.kind, **{n: getattr(self, n).tolist() for n in names}}


@dataclass(frozen=True, eq=False)
class MixtureNoise:
    """Recorded noise as a mixture of normal distributions whose parameters depend on the signal.

    Between knots parameters are interpolated; beyond them the last ones hold.

    Attributes
    ----------
    knots : ndarray of float, (S,)
        Signals, rising.
    weights, shifts, sds : ndarray of float, (S, K)
        Weight, mean less the signal, and standard deviation of each component.

    References
    ----------
    Prakash, Lalit, Tomancak, Krull, Jug, "Fully unsupervised probabilistic Noise2Void", ISBI (2020).
    """

    kind: ClassVar[str] = "mixture"

    knots: NDArray[np.float64]
    weights: NDArray[np.float64]
    shifts: NDArray[np.float64]
    sds: NDArray[np.float64]

    def __post_init__(self) -> None:
        knots = np.asarray(self.knots, np.float64)
        rising = (
            knots.ndim == 1 and len(knots) > 0 and np.isfinite(knots).all() and (np.diff(knots) > 0).all()
        )
        need(bool(rising), "knots", knots.shape, "one row of finite, rising signals")
        object.__setattr__(self, "knots", knots)
        for name in ("weights", "shifts", "sds"):
            value = np.asarray(getattr(self, name), np.float64)
            ok = value.ndim == 2 and value.shape[0] == len(knots) and value.shape[1] > 0
            need(
                ok and bool(np.isfinite(value).all()),
                name,
                value.shape,
                f"finite, of shape ({len(knots)}, K)",
            )
            object.__setattr__(self, name, value)
        same = self.weights.shape == self.shifts.shape == self.sds.shape
        need(same, "weights, shifts and sds", self.weights.shape, "of one shape")
        need(bool((self.sds > 0).all()), "sds", float(self.sds.min()), "above 0")
        total = self.weights.sum(1, keepdims=True)
        need(bool((self.weights >= 0).all() and (total > 0).all()), "weights", "negative", "0 or more")
        object.__setattr__(self, "weights", self.weights / total)

    @classmethod
    def fit(cls, signal: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> MixtureNoise:
        """Fit values (n, pixels) of pixels whose signals (pixels,) are known, by expectation maximisation."""
        signal = signal.astype(np.float64)
        count = int(np.clip(values.size // _LEAST_PER_KNOT, 1, _KNOTS))
        edges = np.unique(np.quantile(signal, np.linspace(0, 1, count + 1)[1:-1]))
        group = np.searchsorted(edges, signal, side="right")
        rest = values.astype(np.float64) - signal
        start = _expectation(rest.ravel(), None)
        knots, found = [], []
        for g in np.unique(group):
            here = group == g
            own = rest[:, here].ravel()
            # the same start for all keeps the components in one order
            scaled = (start[0], start[1] * own.std() / rest.std(), start[2] * own.std() / rest.std())
            knots.append(float(signal[here].mean()))
            found.append(_expectation(own, scaled))
        order = np.argsort(knots)
        weights, shifts, sds = (np.stack([f[i] for f in found])[order] for i in range(3))
        rising, first = np.unique(np.asarray(knots)[order], return_index=True)
        return cls(rising, weights[first], shifts[first], sds[first])

    def _at(
        self, signal: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return weights, shifts and standard deviations (K, ...) at each signal."""
        parts = (self.weights, self.shifts, self.sds)
        made = [np.stack([np.interp(signal, self.knots, p[:, k]) for k in range(p.shape[1])]) for p in parts]
        return made[0], made[1], made[2]

    def variance(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance at each signal."""
        weights, shifts, sds = self._at(signal)
        mean = (weights * shifts).sum(0)
        return np.asarray((weights * (sds**2 + shifts**2)).sum(0) - mean**2)

    def sample(self, signal: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw a value at each signal."""
        weights, shifts, sds = self._at(signal)
        component = (rng.random(signal.shape) > np.cumsum(weights, 0)[:-1]).sum(0)[None]
        shift, sd = (np.take_along_axis(p, component, 0)[0] for p in (shifts, sds))
        return np.asarray(signal + shift + sd * rng.standard_normal(signal.shape))

    def log_likelihood(
        self, observed: NDArray[np.float64], signal: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the log probability density of values."""
        weights, shifts, sds = self._at(signal)
        z = (observed - signal - shifts) / sds
        parts = np.log(np.maximum(weights, 1e-300)) - 0.5 * z**2 - np.log(sds * np.sqrt(2 * np.pi))
        return np.asarray(special.logsumexp(parts, axis=0))

    def to_dict(self) -> dict[str, Any]:
        """Return the model as a JSON-ready dict."""
        names = ("knots", "weights", "shifts", "sds")
        return {"kind": self.kind, **{n: getattr(self, n).tolist() for n in names}}


Recorded = HistogramNoise | MixtureNoise


def recorded_of(values: Mapping[str, Any]) -> Recorded:
    """Return the recorded noise of a dict of `to_dict`; raise ``ValueError`` if it is none.

    Parameters
    ----------
    values : mapping
    """
    kinds: dict[str, type[Recorded]] = {k.kind: k for k in (HistogramNoise, MixtureNoise)}
    given = dict(values)
    kind = kinds.get(str(given.pop("kind", None)))
    if kind is None:
        raise ValueError(f"The recorded noise is of no known kind; it must be one of {', '.join(kinds)}.")
    try:
        return kind(**{k: np.asarray(v, np.float64) for k, v in given.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"The recorded noise ({kind.kind}) is damaged: {error}") from error


def mixture_of_polynomials(
    weight: NDArray[np.floating[Any]], min_signal: float, max_signal: float, min_sigma: float
) -> MixtureNoise:
    """Return the mixture that PN2V, n2v and CAREamics store as polynomials of the scaled signal.

    Of the ``3 * K`` rows of ``weight`` the first ``K`` are coefficients of the means, the next the logarithms of
    those of the variances, the last those of the logarithms of the weights, as their code evaluates them. The
    weighted mean is then moved onto the signal.

    Parameters
    ----------
    weight : ndarray of float, (3 * K, coefficients)
    min_signal, max_signal : float
        Signals that are scaled to 0 and 1.
    min_sigma : float
        Smallest variance, despite its name.

    Raises
    ------
    ValueError
        If the sizes or the range are wrong, or values are not finite.
    """
    table = np.asarray(weight, np.float64)
    ok = (
        table.ndim == 2
        and table.shape[0] % 3 == 0
        and 3 <= table.shape[0] <= 96
        and 1 <= table.shape[1] <= 16
    )
    need(ok, "trained_weight's shape", np.shape(weight), "(3 x components, coefficients)")
    ordered = np.isfinite([min_signal, max_signal]).all() and max_signal > min_signal
    need(bool(ordered), "min_signal and max_signal", (min_signal, max_signal), "finite and rising")
    need(bool(np.isfinite(table).all()), "trained_weight", "not finite", "finite")
    powers = np.linspace(0, 1, _EVALUATED)[:, None] ** np.arange(table.shape[1])
    means, spreads, shares = np.split(table, 3)
    mean = powers @ means.T
    variance = np.maximum(powers @ np.exp(spreads).T, max(min_sigma, 1e-12))
    share = powers @ shares.T
    share = np.exp(share - share.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    shift = mean - (share * mean).sum(1, keepdims=True)
    return MixtureNoise(np.linspace(min_signal, max_signal, _EVALUATED), share, shift, np.sqrt(variance))


def histogram_of_array(array: NDArray[np.floating[Any]]) -> HistogramNoise:
    """Return the histogram that PN2V and n2v store as an array (3, bins, bins): probability, lower and upper edges.

    Parameters
    ----------
    array : ndarray of float, (3, bins, bins)
        Rows are signals, columns observed values; both have the same bins.

    Raises
    ------
    ValueError
        If the shape is another, or the edges don't rise.
    """
    table = np.asarray(array, np.float64)
    square = table.ndim == 3 and table.shape[0] == 3 and table.shape[1] == table.shape[2]
    need(square and 2 <= table.shape[1] <= _LARGEST, "histogram's shape", np.shape(array), "(3, bins, bins)")
    # the edges run along the rows or along the columns
    lower, upper = table[1:] if table[1, 0, 0] == table[1, -1, 0] else table[1:].transpose(0, 2, 1)
    edges = np.append(lower[0], upper[0, -1])
    return HistogramNoise(edges, edges, np.maximum(table[0], 0) + 1e-12)


def _edges(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return even edges over the range of values, whole numbers apart where these are few."""
    low, high = float(values.min()), float(values.max())
    whole = high - low + 1
    if np.array_equal(values, np.round(values)) and whole <= 2 * _BINS:
        return np.arange(low - 0.5, high + 1)
    return np.linspace(low, max(high, low + 1e-6 * max(abs(low), 1)), _BINS + 1)


def _expectation(
    rest: NDArray[np.float64],
    start: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return weights, means and standard deviations of a mixture, by expectation maximisation."""
    some = rest[:: max(rest.size // 20_000, 1)]
    sd = max(float(some.std()), 1e-12)
    if start is None:
        quantiles = np.quantile(some, (np.arange(_COMPONENTS) + 0.5) / _COMPONENTS)
        weights, means, sds = np.full(_COMPONENTS, 1 / _COMPONENTS), quantiles, np.full(_COMPONENTS, sd)
    else:
        weights, means, sds = start
    least = 0.05 * sd
    for _ in range(_PASSES):
        z = (some[:, None] - means) / np.maximum(sds, least)
        log = np.log(np.maximum(weights, 1e-12)) - 0.5 * z**2 - np.log(np.maximum(sds, least))
        share = np.exp(log - special.logsumexp(log, axis=1, keepdims=True))
        total = share.sum(0) + 1e-9
        weights, means = total / total.sum(), share.T @ some / total
        sds = np.sqrt((share * (some[:, None] - means) ** 2).sum(0) / total + least**2 * 1e-3)
    # the mean of the noise is zero by definition of the signal
    return weights, means - (weights * means).sum(), np.maximum(sds, least)
