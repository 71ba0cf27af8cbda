"""Calibrated maps of an image, with the probabilities, claims and draws that follow from them.

Long because it is the object that users hold: more than half are docstrings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from napari_btn.core.calibration.claims import select
from napari_btn.core.calibration.conformal import NOISY_TARGETS, NOT_CALIBRATED, covered
from napari_btn.core.calibration.distribution import mean
from napari_btn.core.calibration.exceedance import lock_threshold
from napari_btn.core.data.image import channel_number
from napari_btn.core.progress import drain
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Literal

    from numpy.typing import ArrayLike, NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.claims import Selection
    from napari_btn.core.calibration.conformal import Calibration
    from napari_btn.core.calibration.drawn import DrawnStatistic, Statistic
    from napari_btn.core.calibration.exceedance import Exceedance, LockedExceedance
    from napari_btn.core.calibration.fusion import Fused, Place
    from napari_btn.core.progress import Note

__all__ = ["Prediction", "SignalInterval"]


@dataclass(frozen=True, eq=False)
class SignalInterval:
    """An interval of the clean signal that is not calibrated on clean pixels.

    Parameters
    ----------
    lower, upper : ndarray of float32
        In the axes of the maps.
    caption : str
        What it rests on, to be shown with it.
    """

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    caption: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """Calibrated maps of one image, each in the axes of the input.

    Parameters
    ----------
    lower, median, upper : array of float32
        Interval and median, in the units of the target.
    spread : array of float32
        Standard deviation of the members' medians, before calibration.
    quantiles : array of float32, (L, *axes), optional
        The ensemble's quantiles before calibration.
    levels : tuple of float
        Levels of ``quantiles``.
    axes : str
        One letter per dimension of the maps.
    channel_names : tuple of str
    pixel_size : tuple of float, optional
        One per space axis, in ``unit``.
    unit : str
    alpha : float
        Miscoverage: the interval aims to cover ``1 - alpha`` on average.
    covers : str
        What is covered: "clean", "long exposure", "replicate", "masked pixel", "thinned counts" or "simulation".
    provenance : dict
        JSON-ready: what made these maps.
    notes : tuple of Note
        What to know before relying on these maps, from the calibration and from the drift of this image.
    distribution : Exceedance, optional
        Recalibration of ``quantiles`` into probabilities; None where there are fewer than two levels.
    held_out : HeldOut, optional
        Data that the calibration comes from, for `select`, `fuse` and locked thresholds.
    stored_width : array of float32, optional
        The width, where it is stored on disk to be read part by part.
    signal_sd : array of float32, optional
        Standard deviation of the clean signal about the mean, where the mean uses each pixel's own value.
    stored_mean : array of float32, optional
        The mean, where it is stored on disk, or made without keeping the quantiles.
    groups : ndarray of int, optional
        Group of each pixel, in the axes of the maps without C, where groups are calibrated apart: tokens, or
        numbers of a mask, from 1; 0 for none.
    locks : mapping of str to float
        Locked threshold by channel name.
    calibration : Calibration, optional
        Offsets of the intervals, for `fuse`.
    fused : tuple of Fused
        Windows that were fused with a new measurement.
    """

    lower: Any
    median: Any
    upper: Any
    spread: Any
    quantiles: Any
    levels: tuple[float, ...]
    axes: str
    channel_names: tuple[str, ...]
    pixel_size: tuple[float, ...] | None
    unit: str
    alpha: float
    covers: str
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    distribution: Exceedance | None = None
    held_out: HeldOut | None = None
    stored_width: Any = None
    stored_mean: Any = None
    groups: NDArray[np.integer[Any]] | None = None
    locks: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    fused: tuple[Fused, ...] = ()
    signal_sd: Any = None

    def __repr__(self) -> str:
        shape, names = tuple(self.median.shape), ", ".join(self.channel_names)
        share = f"{100 * (1 - self.alpha):.4g} % intervals"
        return f"<Prediction {self.axes} {shape} of channels {names}, {share}, covers={self.covers!r}>"

    @property
    def width(self) -> Any:
        """Width of the interval, ``upper - lower``, float32."""
        if self.stored_width is not None:
            return self.stored_width
        return np.asarray(self.upper[...] - self.lower[...], np.float32)

    @property
    def shown(self) -> str:
        """Map to look at first: "median", or "mean" where the networks learned from noisy targets."""
        return str(self.provenance.get("shown", "median"))

    @property
    def mean(self) -> Any:
        """Mean of the predicted distribution, float32: its quantile function integrated over all levels.

        Where targets are noisy, it is the map to look at first: skewed noise moves the median. None if the
        maps come without quantiles.
        """
        if self.stored_mean is not None:
            return self.stored_mean
        if self.quantiles is None:
            return None
        minimum = None if self.calibration is None else self.calibration.minimum
        return mean(self.quantiles, self.levels, minimum=minimum)

    def signal_interval(self) -> SignalInterval:
        """Return an interval of the clean signal, without the noise of the targets; model-assisted, not calibrated.

        The intervals of networks that learned from noisy targets aim at another noisy value. Their half-widths about
        the mean are multiplied by ``sqrt(1 - noise variance / residual variance)`` of each channel, both measured on
        the held-out pixels. This assumes that errors and noise have the same shape everywhere: no calibration on
        clean pixels checks it. Aiming at 90 %, it held 88 to 98 % of simulated fields with 4 and 12 counts a pixel, and
        54 to 87 % with 1.2. In fused windows the interval is the fused one. Where the mean uses each
        pixel's own value, the interval is normal, with the standard deviation ``signal_sd``; a wrong variance of the
        noise, too large or too small, can make it too narrow.

        Raises
        ------
        ValueError
            If the targets are clean, the variance of their noise is unknown, or members were adapted and not
            calibrated since.
        """
        self._need_calibrated()
        if self.signal_sd is not None:
            centre, deviation = np.asarray(self.mean, np.float32), np.asarray(self.signal_sd[...], np.float32)
            half = np.float32(ndtri(1 - self.alpha / 2)) * deviation
            text = (
                f"Model-assisted: a normal interval by the noise model, aims at {100 * (1 - self.alpha):.4g} % of the "
                "clean signal; not calibrated on clean pixels."
            )
            return self._with_fused(centre - half, centre + half, text)
        shares = self.provenance.get("target_noise")
        if self.covers not in NOISY_TARGETS or shares is None or self.mean is None:
            why = "no part of them" if self.covers in ("clean", "simulation") else "unknown"
            raise ValueError(
                f"These intervals aim to cover {covered(self.covers)}, and the noise of the targets is {why}; an "
                'interval without it needs members that learned by "noise2noise" or "thinning".'
            )
        shrink = np.sqrt(np.maximum(1 - np.asarray(shares, np.float32), 0))
        shape = [len(shares) if a == "C" else 1 for a in self.axes]
        factor = shrink.reshape(shape if "C" in self.axes else ())
        centre = np.asarray(self.mean, np.float32)
        lower = centre - factor * np.maximum(centre - np.asarray(self.lower[...]), 0)
        upper = centre + factor * np.maximum(np.asarray(self.upper[...]) - centre, 0)
        text = (
            f"Model-assisted: intervals of {covered(self.covers)}, shrunk by the noise of the targets, aim at "
            f"{100 * (1 - self.alpha):.4g} % of the clean signal; not calibrated on clean pixels."
        )
        return self._with_fused(lower.astype(np.float32), upper.astype(np.float32), text)

    def _with_fused(
        self, lower: NDArray[np.float32], upper: NDArray[np.float32], caption: str
    ) -> SignalInterval:
        """Return an interval of the clean signal, in fused windows the fused one, which is of that already."""
        for one in self.fused:
            place = tuple(one.place.values())
            lower[place] = np.where(one.known, self.lower[place], lower[place])
            upper[place] = np.where(one.known, self.upper[place], upper[place])
        return SignalInterval(lower, upper, caption)

    def channel_number(self, channel: str | int | None = None) -> int:
        """Return the number of a channel, from 0.

        Parameters
        ----------
        channel : str or int, optional
            Name or number; may be left out where there is only one.

        Raises
        ------
        ValueError
            If there is no such channel, or several and none is named.
        """
        return channel_number(channel, self.channel_names)

    def exceedance(
        self,
        threshold: float,
        channel: str | int | None = None,
        *,
        side: Literal["middle", "conservative"] = "middle",
        locked: bool = False,
    ) -> NDArray[np.float32]:
        """Return the calibrated P(signal > threshold) of each pixel; the sum of the map estimates the area.

        After learning from noisy targets it is P(noisy value > threshold), and the sum is the area of noisy values:
        see ``covers``. Noise alone puts values above a threshold or below it.

        Parameters
        ----------
        threshold : float
            In the units of the maps.
        channel : str or int, optional
            Name or number; may be left out where there is only one.
        side : str
            "middle" for a map, "conservative" for a claim.
        locked : bool
            Recalibrate at this threshold alone, for a threshold that stays; only for "middle".

        Returns
        -------
        ndarray of float32
            0 to 1, in the axes of the maps without C. The sum is matched to the area in the held-out blocks, unless
            that raises the error there, and in fused windows only where that clearly lowers it; in a single field it
            is less exact, above all for a rare phase. A probability is not right for each pixel.

        Raises
        ------
        ValueError
            If the channel or the quantiles are missing, or held-out scores for a locked threshold; or if a
            locked threshold is asked for its conservative side.
        """
        number = self.channel_number(channel)
        need(side in ("middle", "conservative"), "side", side, '"middle" or "conservative"')
        if locked and side != "middle":
            raise ValueError(
                f"side is {side!r}, and locked is True; a locked threshold makes a map, not claims. Leave one out."
            )
        _need_number(threshold)
        recalibrated = self.recalibrated(threshold, number) if locked else None
        return self.probability({"C": number}, threshold, side=side, locked=recalibrated)

    def recalibrated(self, threshold: float, channel: str | int | None = None) -> LockedExceedance:
        """Return the exceedance of a channel, recalibrated at one threshold from the held-out scores.

        Parameters
        ----------
        threshold : float
            In the units of the maps.
        channel : str or int, optional
            Name or number; may be left out where there is only one.

        Returns
        -------
        LockedExceedance
            For any number of maps at this threshold.

        Raises
        ------
        ValueError
            If the channel, the quantiles or the held-out scores are missing, or too few held-out blocks have
            targets on a side of the threshold.
        """
        number = self.channel_number(channel)
        _need_number(threshold)
        scores = self.scores_for("a locked threshold")
        return lock_threshold(self._known(), scores, threshold, channel=number)

    def lower_bound(self, confidence: float, channel: str | int | None = None) -> NDArray[np.float32]:
        """Return a one-sided bound: on average over all pixels, a share `confidence` of signals is at least that.

        After learning from noisy targets, of noisy values: see ``covers``.
        This is an average over images like the calibration data, not over pixels whose bound lies above a
        threshold: of those near it, fewer are right. In single images it was off by several points.

        Parameters
        ----------
        confidence : float
            Between 0 and 1.
        channel : str or int, optional
            Name or number; may be left out where there is only one.

        Returns
        -------
        ndarray of float32
            In the axes of the maps without C; minus infinity where there are too few blocks.

        Raises
        ------
        ValueError
            If the channel or the quantiles are missing, or the confidence isn't between 0 and 1.
        """
        number = self.channel_number(channel)
        return self.bound({"C": number}, confidence)

    def probability(
        self,
        at: Mapping[str, int],
        threshold: float,
        *,
        side: Literal["middle", "conservative"] = "middle",
        locked: LockedExceedance | None = None,
        planes: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Return `exceedance` with some axes fixed, for a slider of thresholds.

        Parameters
        ----------
        at : mapping of str to int
            Index by axis letter, with that of the channel.
        threshold : float
            In the units of the maps.
        side : str
            "middle" for a map, "conservative" for a claim.
        locked : LockedExceedance, optional
            Recalibration at this threshold, for the pixels that aren't in fused windows.
        planes : ndarray of float32, optional
            The result of `planes` for these axes, if it is known already.
        """

        def of(distribution: Exceedance, quantiles: NDArray[np.float32]) -> NDArray[np.float32]:
            return distribution.probability(quantiles, threshold, channel=at.get("C", 0), side=side)

        known = self._known()
        came = self.planes(at) if planes is None else planes
        made = of(known, came) if locked is None else locked.probability(came)
        return self._with_windows(made, of, at)

    def bound(
        self, at: Mapping[str, int], confidence: float, *, planes: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return `lower_bound` with some axes fixed; arguments as in `probability`."""

        def of(distribution: Exceedance, quantiles: NDArray[np.float32]) -> NDArray[np.float32]:
            return distribution.lower_bound(quantiles, confidence, channel=at.get("C", 0))

        made = of(self._known(), self.planes(at) if planes is None else planes)
        return self._with_windows(made, of, at)

    def _with_windows(
        self,
        made: NDArray[np.float32],
        of: Callable[[Exceedance, NDArray[np.float32]], NDArray[np.float32]],
        at: Mapping[str, int],
    ) -> NDArray[np.float32]:
        """Return a map whose fused windows have their own recalibration."""
        for one in self.fused:
            made = one.drawn(made, at, self.quantiles, of)
        return made

    def select(self, threshold: float, channel: str | int | None = None, *, level: float = 0.1) -> Selection:
        """Select pixels, aiming at a share ``level`` of wrong claims in fields like the calibration data.

        The pixels are claimed to lie above the threshold. The set is chosen by the held-out blocks, with blocks
        as cases: in other fields more may be wrong, and with few blocks that hold claims often more than asked
        for. After learning from noisy targets, claims are on noisy values: see ``covers``.

        Parameters
        ----------
        threshold : float
            In the units of the maps.
        channel : str or int, optional
            Name or number; may be left out where there is only one.
        level : float
            Share of wrong claims to aim at, between 0 and 1.

        Returns
        -------
        Selection
            The set, in the axes of the maps without C, and its caption. Empty where too few held-out blocks
            hold claims.

        Raises
        ------
        ValueError
            If the channel, the quantiles or the held-out scores are missing.
        """
        number = self.channel_number(channel)
        _need_number(threshold)
        need(isinstance(level, Real) and 0 < level < 1, "level", level, "between 0 and 1, such as 0.1")
        scores = self.scores_for("a selection")
        chosen = select(
            scores, self.planes({"C": number}), threshold, level=level, channel=number, covers=self.covers
        )
        if not self.fused:
            return chosen
        text = "Pixels of fused windows are judged by the scores of unfused ones; this share is not theirs."
        return replace(chosen, caption=f"{chosen.caption} {text}")

    def draws(self, n: int = 20, *, seed: int = 0, out: Any = None) -> Any:
        """Return whole plausible images: calibrated distributions, errors correlated as estimated, roughly.

        They show how a statistic of a region, such as an area above a threshold, may vary; see `statistic` for what
        its range is worth. Errors of whole grains go together less than on held-out pixels. Scenes and frames are
        drawn independently of each other. In a fused window, draws have the fused distributions, calibrated as these
        are. Their errors go together as everywhere else: a measurement that leaves shorter patches doesn't show.
        After learning from noisy targets, draws are noisy images.

        Parameters
        ----------
        n : int
            Number of draws, at least 1.
        seed : int
            The same seed gives the same draws; more draws keep the earlier ones.
        out : array of float32, (n, *axes), optional
            Where to write them tile by tile, such as a memory map or a zarr array; a new array by default.

        Returns
        -------
        array of float32, (n, *axes)
            In the units of the maps; NaN where they are. `out`, if it was given.

        Raises
        ------
        ValueError
            If `out` has another shape, or the quantiles, the held-out scores or their positions are missing.
        """
        from napari_btn.core.calibration.draws import draws_steps

        return drain(draws_steps(self, n, seed=seed, out=out))

    def statistic(
        self,
        statistic: Statistic | Callable[[NDArray[np.float32], NDArray[np.bool_]], float],
        channel: str | int | None = None,
        *,
        threshold: float | None = None,
        region: Place | tuple[slice, ...] | NDArray[Any] | None = None,
        scene: int = 0,
        n: int = 100,
        seed: int = 0,
        alpha: float | None = None,
        smallest_px: int = 1,
    ) -> DrawnStatistic:
        """Return a statistic of a region with its range over draws.

        For areas and grains, the threshold of each draw is moved so that draws of the held-out blocks would have
        the true area there. The range has no stated coverage: where whole grains are wrong together, fewer true
        values lie inside than draws (on the built-in element maps 49 to 80 % of true areas of windows, and 50 to 83 %
        of numbers of grains of whole fields, where 90 % of the draws did). After learning from noisy targets, draws
        are noisy: areas and grains are those of noisy values.

        Parameters
        ----------
        statistic : str or callable
            "area_above", "grains" or "mean"; or a function of the values and the mask of the region.
        channel : str or int, optional
            Name or number; may be left out where there is only one.
        threshold : float, optional
            In the units of the maps; needed for areas and grains.
        region : Region, tuple of slice, or array over the space axes, optional
            Where; of an array, the pixels that aren't zero. All of the scene by default.
        scene : int
            Number of the scene, where the maps have several.
        n : int
            Number of draws; 19 or more for a range of 90 % of them.
        seed : int
            As in `draws`: the statistic is that of the same draws, but for the moved threshold.
        alpha : float, optional
            Share of the draws outside the range; the miscoverage of the maps by default.
        smallest_px : int
            Grains of fewer pixels don't count.

        Returns
        -------
        DrawnStatistic
            ``lower``, ``median``, ``upper``, and the ``values`` of the draws.

        Raises
        ------
        ValueError
            If the statistic is unknown, a threshold is missing, the region is empty or doesn't fit, draws are too
            few, or the maps lack what draws need.
        """
        from napari_btn.core.calibration.drawn import statistic_steps

        steps = statistic_steps(
            self,
            statistic,
            channel=channel,
            threshold=threshold,
            region=region,
            scene=scene,
            n=n,
            seed=seed,
            alpha=alpha,
            smallest_px=smallest_px,
        )
        return drain(steps)

    def fuse(
        self,
        region: Place | tuple[slice, ...],
        counts: ArrayLike,
        gain: float | Sequence[float] = 1.0,
        *,
        dose: float | Sequence[float] = 1.0,
        sd: float | Sequence[float] | None = None,
        scene: int = 0,
    ) -> Prediction:
        """Return the prediction with a window that was measured again: its evidence times the prediction.

        Measured values are taken as ``gain * Poisson(dose * signal)``, or with ``sd`` as ``Normal(gain * dose *
        signal, sd)``, with the signal in the units of the maps. Values of neighbours and of other channels
        count as far as errors of held-out pixels go together. The posterior of each pixel is calibrated again
        with measurements that are simulated for the held-out pixels. Sum up all measurements of a place and
        fuse once: a second fusion is not calibrated, and gets a note. `select` still judges fused pixels by the
        scores of unfused ones. At a stated 90 %, fused intervals held 89 to 95 % in fresh fields of `samples.edx`
        that were fused as a whole, and 88 to 95 % in windows proposed on them, if dose and gain were right. After
        learning from noisy targets, the predicted distributions are those of noisy values, and a short measurement
        can make the result worse.

        Parameters
        ----------
        region : Region, or tuple of slice
            Place of the window along (Z,) Y, X; of a region with a mask, its pixels alone.
        counts : array_like
            Measured values in the axes of the maps without S and T; NaN where there is none. They must not
            include the scan that was predicted from. Without ``sd`` they are 0 or more.
        gain : float or sequence of float
            Measured value per count, as photon transfer finds it; one for all channels, or one for each.
        dose : float or sequence of float
            Expected counts at a signal of one, over the dwell of the new measurement. 1 if the maps are in
            counts of that dwell, 0.1 if they are in counts of a scan of ten times that dwell; if they are
            rates, the counts at a rate of one. `dose.dose_of` estimates that of the noisy image.
        sd : float or sequence of float, optional
            Standard deviation of normal noise, in the unit of the measured values, for data that aren't counts.
        scene : int
            Number of the scene, where the maps have several.

        Returns
        -------
        Prediction
            Of the whole image; outside the window it is unchanged. ``provenance["fused"]`` lists the windows,
            and the recipe gets one more step. A note says if the counts are far outside of simulated ones;
            without a note, the dose may still be wrong.

        Raises
        ------
        ValueError
            If the prediction lacks quantiles, held-out scores or calibration, or the values don't fit, or are
            negative without ``sd``.
        """
        from napari_btn.core.calibration.dose import Dose
        from napari_btn.core.calibration.fusion import fuse_steps

        many = max(len(self.channel_names), 1)
        steps = fuse_steps(self, region, counts, Dose.of(many, dose=dose, gain=gain, sd=sd), scene=scene)
        return drain(steps)

    def _known(self) -> Exceedance:
        """Return the calibrated distribution, or raise if there is none."""
        self._need_calibrated()
        if self.distribution is None or self.quantiles is None:
            raise ValueError(
                "These maps come without calibrated quantiles; a probability needs at least two levels. "
                "Train with more levels, and predict the image again."
            )
        return self.distribution

    def _need_calibrated(self) -> None:
        """Raise ``ValueError`` if the members were changed since they were calibrated."""
        if self.covers == NOT_CALIBRATED:
            raise ValueError(
                "The members were adapted to an image and not calibrated since, so these maps promise nothing. "
                "Calibrate the denoiser on images with a target, and predict again."
            )

    def scores_for(self, purpose: str) -> HeldOut:
        """Return the held-out scores of calibrated quantiles.

        Parameters
        ----------
        purpose : str
            What needs them, as "a draw".

        Raises
        ------
        ValueError
            If scores or quantiles are missing, or the members were changed since they were calibrated.
        """
        self._known()
        if self.held_out is None:
            raise ValueError(
                f"These maps come without held-out scores; {purpose} needs them. Predict the image again."
            )
        return self.held_out

    def planes(self, at: Mapping[str, int]) -> NDArray[np.float32]:
        """Return the quantiles with some axes fixed, for a slider of thresholds.

        Parameters
        ----------
        at : mapping of str to int
            Index by axis letter, as ``{"C": 2, "Z": 10}``; letters that the maps lack are ignored.

        Returns
        -------
        ndarray of float32, (L, *the other axes)
            Before calibration.

        Raises
        ------
        ValueError
            If the quantiles are missing.
        """
        self._known()
        index = tuple(at.get(a, slice(None)) for a in self.axes)
        return np.ascontiguousarray(self.quantiles[(slice(None), *index)], np.float32)


def _need_number(threshold: float) -> None:
    """Raise ``ValueError`` unless a threshold is one number."""
    if not isinstance(threshold, Real) or threshold != threshold:
        raise ValueError(f"The threshold is {threshold!r}; give a number in the unit of the maps.")
