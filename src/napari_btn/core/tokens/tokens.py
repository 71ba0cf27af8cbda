"""Tokens of one image: label maps for any number of tokens, and a table of their contents."""

from __future__ import annotations

from colorsys import hsv_to_rgb
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.core.data.image import shown_names
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.tokens.palette import Palette

__all__ = ["NO_TOKEN", "Tokens"]

NO_TOKEN: Final = 255
"""Node number of a pixel that was left out."""

_BINS: Final = 512
_LEVELS: Final = (0.05, 0.25, 0.75, 0.95)
# Of other fields of the same kind up to 4 % are beyond, of images that are half as bright again a third and more.
_BEYOND_AMBER: Final = 0.06
_BEYOND_RED: Final = 0.2


@dataclass(frozen=True, eq=False)
class Tokens:
    """Label maps of one image, cut from a palette, and a table of the tokens.

    Parameters
    ----------
    palette : Palette
        The clusters and their tree.
    nodes : ndarray of uint8, (n - 1, *image) or (1, *image)
        Row k - 2 holds each pixel's node in the cut into k tokens; 255 where it was left out.
        A single row holds the finest cut alone, for images whose maps would not fit in memory.
    k : int
        Tokens in this cut.
    base : int
        The cut whose tokens are ordered by a channel; other cuts are aligned with it. With 1, numbers follow the
        tree alone.
    axes : str
        One letter per dimension of the labels.
    median, width : ndarray of float32, (C, *image), optional
        Calibrated maps that the table summarises.
    channel_names : tuple of str
        One per channel.
    order_by : int
        Channel whose median orders the base cut.
    pixel_size : tuple of float, optional
        One per space axis, in `unit`.
    unit : str
        Unit of `pixel_size`.
    provenance : dict
        JSON-ready record of how these labels were made.
    inside : ndarray of float32, (C, *image), optional
        1 where a truth not used in training lies inside the interval, 0 where it lies outside, NaN where it is
        unknown. Coverage by token is its mean.
    beyond : float
        Share of the pixels that are farther from their token than 99 % of those that the tokens were learned from;
        NaN if unknown.
    """

    palette: Palette
    nodes: NDArray[np.uint8]
    k: int
    base: int
    axes: str
    median: NDArray[np.float32] | None = None
    width: NDArray[np.float32] | None = None
    channel_names: tuple[str, ...] = ()
    order_by: int = 0
    pixel_size: tuple[float, ...] | None = None
    unit: str = "px"
    provenance: dict[str, Any] = field(default_factory=dict)
    inside: NDArray[np.float32] | None = None
    beyond: float = float("nan")

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Token of each pixel, 1 to k; 0 where it was left out."""
        number = np.zeros(256, dtype=np.int32)
        numbers = self.palette.numbers(self.k, self.base, self.order_by)
        row = self.k - 2
        if self.k == 1 or len(self.nodes) < self.palette.size - 1:
            # Without a map of this cut, the finest one is merged along the tree.
            row, nodes = -1, np.flatnonzero(numbers)
            leaf = numbers[nodes] @ self.palette.leaves[nodes]
            numbers = np.concatenate([leaf, np.zeros(len(numbers) - len(leaf), dtype=leaf.dtype)])
        number[: len(numbers)] = numbers
        labels: NDArray[np.int32] = number[self.nodes[row]]
        return labels

    @property
    def stability(self) -> float:
        """Agreement between seeds at this number of tokens: adjusted Rand index, 1 at best."""
        if self.k > self.palette.size:
            return float("nan")
        return float(self.palette.agreement[self.k - 2]) if self.k > 1 else 1.0

    @property
    def unlike(self) -> Note | None:
        """A note where many pixels are unlike any that the tokens were learned from; None elsewhere."""
        if not self.beyond >= _BEYOND_AMBER:
            return None
        return Note(
            "red" if self.beyond >= _BEYOND_RED else "amber",
            f"{100 * self.beyond:.0f} % of the pixels are farther from their token than 99 % of those that the tokens "
            "were learned from. There is something else here, or other noise, and the coverage may not hold there: "
            "calibrate on images like this one, and learn the tokens again.",
        )

    @property
    def suggested(self) -> int:
        """Largest number of tokens on which seeds agree to 0.8."""
        return self.palette.suggested

    @cached_property
    def identities(self) -> NDArray[np.intp]:
        """Node of the palette of each token, (k,): the same node is the same token in any cut."""
        number = self.palette.numbers(self.k, self.base, self.order_by)
        nodes = np.flatnonzero(number)
        out: NDArray[np.intp] = nodes[np.argsort(number[nodes])]
        return out

    @cached_property
    def lineages(self) -> NDArray[np.intp]:
        """Leading leaf of each token, (k,): the same in all cuts, and of a split token it goes with the larger part."""
        out: NDArray[np.intp] = self.palette.leaders[self.identities]
        return out

    @cached_property
    def colours(self) -> NDArray[np.float32]:
        """Colour of each token, (k + 1, 4) RGBA 0 to 1; the first, for label 0, is transparent."""
        out = np.zeros((self.k + 1, 4), dtype=np.float32)
        number = self.palette.numbers(self.k, self.base, self.order_by)
        nodes = np.flatnonzero(number)
        out[number[nodes], :3] = self.palette.colours[nodes]
        out[1:, 3] = 1
        return out

    def cut(self, k: int) -> Tokens:
        """Return the image in a different number of tokens, aligned with the base cut.

        Parameters
        ----------
        k : int
            1 to the palette's size.

        Returns
        -------
        Tokens
            It shares the maps of this one.

        Raises
        ------
        ValueError
            If there cannot be so many tokens.
        """
        self.palette.cut(k)
        made = replace(self, k=int(k))
        # The cached bins are passed on, so that they are made once for all cuts.
        made.__dict__.update({n: self.__dict__[n] for n in ("_binned",) if n in self.__dict__})
        return made

    def painted(self, labels: ArrayLike) -> Tokens:
        """Return the image with labels that were merged or painted by hand; `cut` returns to the palette.

        Parameters
        ----------
        labels : array_like of int, (*image)
            0 for none. Numbers that are not tokens get a colour of their own.

        Returns
        -------
        Tokens
            Its table and histograms have a row for every number up to the largest.

        Raises
        ------
        ValueError
            If the labels do not fit the image.
        """
        drawn = np.asarray(labels)
        if drawn.shape != self.labels.shape or drawn.min(initial=0) < 0:
            raise ValueError(
                f"Labels {drawn.shape} came; labels of the image {self.labels.shape}, none below 0, are needed."
            )
        made = replace(self, k=max(int(drawn.max(initial=0)), 1))
        known = self.colours[: made.k + 1]
        colours = np.ones((made.k + 1, 4), dtype=np.float32)
        for number in range(len(known), made.k + 1):
            # Steps of the golden ratio keep the hues of successive numbers different.
            colours[number, :3] = hsv_to_rgb(number * 0.618034 % 1, 0.55, 0.9)
        colours[: len(known)] = known
        made.__dict__.update(labels=drawn.astype(np.int32), colours=colours, _binned=self._binned)
        return made

    def judged(self, lower: ArrayLike, upper: ArrayLike, truth: ArrayLike) -> Tokens:
        """Return the tokens with their coverage measured against a truth.

        Parameters
        ----------
        lower, upper, truth : array_like, (C, *image) or (*image)
            Intervals and truth, in one unit. Use a truth that the networks were not trained on; NaN does not
            count.

        Returns
        -------
        Tokens
            Its table has a column "<channel> coverage".

        Raises
        ------
        ValueError
            If the maps do not fit the labels.
        """
        maps = [np.asarray(m, dtype=np.float32) for m in (lower, upper, truth)]
        low, high, known = (m[None] if m.shape == self.labels.shape else m for m in maps)
        if not low.shape == high.shape == known.shape or low.shape[1:] != self.labels.shape:
            raise ValueError(
                f"Maps of shapes {low.shape}, {high.shape} and {known.shape} came; all must be "
                f"{('C', *self.labels.shape)}."
            )
        inside = ((low <= known) & (known <= high)).astype(np.float32)
        return replace(self, inside=np.where(np.isfinite(known), inside, np.float32(np.nan)))

    def ordered(self, channel: int) -> Tokens:
        """Return the tokens, numbered by the median of a given channel."""
        if not 0 <= channel < len(self.palette.order):
            raise ValueError(f"channel is {channel}; there are {len(self.palette.order)}, counted from 0.")
        return replace(self, order_by=int(channel), base=self.k)

    @cached_property
    def table(self) -> dict[str, NDArray[Any]]:
        """One row per token: number, pixels, share, medians and quantiles per channel, width, coverage, colour.

        Medians and quantiles come from the histogram of the channel's values (512 bins by rank
        and 512 by value), so they are within a bin of the exact ones.
        """
        counts = np.bincount(self.labels.ravel(), minlength=self.k + 1)[1:]
        table: dict[str, NDArray[Any]] = {
            "index": np.arange(1, self.k + 1),
            "pixels": counts,
            "share": counts / max(int(counts.sum()), 1),
        }
        for c, (edges, codes) in enumerate(self._binned):
            name = self.shown_channels[c]
            levels = (0.5, *_LEVELS)
            found = _quantiles(self._joint(codes, len(edges)), edges, levels)
            table[f"{name} median"] = found[:, 0]
            for level, column in zip(_LEVELS, found.T[1:], strict=True):
                table[f"{name} q{100 * level:02.0f}"] = column
        if self.width is not None:
            for c, mean in enumerate(self.mean(self.width).T):
                table[f"{self.shown_channels[c]} width"] = mean
        if self.inside is not None:
            table["known pixels"] = np.bincount(
                self.labels[np.isfinite(self.inside[0])], minlength=self.k + 1
            )[1:]
            for c, mean in enumerate(self.mean(self.inside).T):
                table[f"{self.shown_channels[c]} coverage"] = mean
        table["colour"] = np.array(
            ["#{:02x}{:02x}{:02x}".format(*(round(255 * v) for v in rgba[:3])) for rgba in self.colours[1:]]
        )
        return table

    def mean(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the mean of maps over each token.

        The mean of a map that is 1 inside the interval is the coverage.

        Parameters
        ----------
        values : array_like, (C, *image) or (*image)
            Maps in the axes of the labels; NaN does not count.

        Returns
        -------
        ndarray of float64, (k, C)
            NaN where a token has no pixel.

        Raises
        ------
        ValueError
            If the maps do not fit the labels.
        """
        maps = np.asarray(values)
        maps = maps[None] if maps.shape == self.labels.shape else maps
        if maps.shape[1:] != self.labels.shape:
            raise ValueError(f"Maps of shape {maps.shape} came; {('C', *self.labels.shape)} is needed.")
        flat = self.labels.ravel()
        out = np.full((self.k, len(maps)), np.nan)
        for c, one in enumerate(maps):
            v = one.ravel()
            known = np.isfinite(v)
            labels, v = (flat, v) if known.all() else (flat[known], v[known])
            count = np.bincount(labels, minlength=self.k + 1)[1:]
            total = np.bincount(labels, weights=v, minlength=self.k + 1)[1:]
            out[:, c] = np.divide(total, count, out=out[:, c], where=count > 0)
        return out

    def histogram(self, channel: int, bins: int = 64) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Return a histogram of the median of a channel for each token, in common bins.

        Parameters
        ----------
        channel : int
            Number of the channel.
        bins : int
            Bins between the 0.1th and the 99.9th percentile; values beyond are in the outer ones.

        Returns
        -------
        edges : ndarray of float64, (bins + 1,)
            Edges of the bins, in the channel's unit.
        counts : ndarray of int, (k, bins)
            Pixels of each token in each bin.

        Raises
        ------
        ValueError
            If these tokens have no maps.
        """
        if self.median is None:
            raise ValueError("These tokens have no maps of the channels; make them from a prediction.")
        values = self.median[channel].ravel()
        low, high = np.nanquantile(values[:: max(values.size // 200_000, 1)], (0.001, 0.999))
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
        # The bins are even: searching the edges instead would take ten times as long.
        place = (values - np.float32(edges[0])) * np.float32(bins / (edges[-1] - edges[0]))
        code = np.clip(np.nan_to_num(place, copy=False), 0, bins - 1).astype(np.intp)
        joint = np.bincount(self.labels.ravel() * bins + code, minlength=(self.k + 1) * bins)
        return edges, joint.reshape(self.k + 1, bins)[1:]

    @cached_property
    def _binned(self) -> tuple[tuple[NDArray[np.float64], NDArray[np.uint16]], ...]:
        """Edges and bin number of every pixel, per channel; made once, so that a cut only counts."""
        made = []
        for values in self.median if self.median is not None else ():
            flat = np.nan_to_num(values.ravel())
            sample = np.sort(flat[:: max(flat.size // 400_000, 1)]).astype(np.float64)
            ranks = sample[np.linspace(0, len(sample) - 1, _BINS).astype(int)]
            edges = np.unique(np.concatenate([ranks, np.linspace(flat.min(), flat.max(), _BINS)]))
            codes = np.searchsorted(edges[1:-1], flat, side="right").astype(np.uint16)
            made.append((edges, codes))
        return tuple(made)

    def _joint(self, codes: NDArray[np.uint16], bins: int) -> NDArray[np.intp]:
        """Return the histogram of each token, (k, bins)."""
        joint = np.bincount(self.labels.ravel() * bins + codes, minlength=(self.k + 1) * bins)
        return joint.reshape(self.k + 1, bins)[1:]

    @property
    def shown_channels(self) -> tuple[str, ...]:
        """Names of the channels as people read them, which columns of the table begin with."""
        maps = [m for m in (self.median, self.width, self.inside) if m is not None]
        n = max((len(m) for m in maps), default=len(self.channel_names))
        known = self.channel_names
        return shown_names([known[c] if c < len(known) else str(c) for c in range(n)])


def _quantiles(
    counts: NDArray[np.intp], edges: NDArray[np.float64], levels: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return quantiles (k, L) from histograms (k, bins), linear within a bin; NaN for an empty one."""
    out = np.full((len(counts), len(levels)), np.nan)
    for row, count in zip(out, counts, strict=True):
        total = np.concatenate([[0], np.cumsum(count[: len(edges) - 1])])
        if total[-1]:
            # Interpolation needs a strictly rising sum, so empty bins are skipped.
            rising = np.concatenate([[True], np.diff(total) > 0]) | np.concatenate(
                [np.diff(total) > 0, [True]]
            )
            row[:] = np.interp(np.array(levels) * total[-1], total[rising], edges[rising])
    return out
