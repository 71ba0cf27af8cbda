"""A test if new counts fit the prediction at the stated dose, with held-out blocks as cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_btn.core.calibration.distribution import ppf
from napari_btn.core.progress import Note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.calibration.dose import Dose

__all__ = ["DOSE_LEVEL", "dose_notes"]

DOSE_LEVEL = 0.01
"""Share of windows like the held-out blocks that may get a note though dose and gain are right, for normal figures."""

_FEWEST_COUNTS = 50.0  # fewer are not normal, and can't move much
_HALF = 0.5  # counts that are added, so that none has a finite logarithm
_MEAN_STEPS = 20


@dataclass(frozen=True)
class _Sums:
    """Sums over the pixels of each case (B,), in counts, and True where noise is that of counting.

    ``spread`` is the sum of the predicted standard deviations: the error of the sum, if all pixels err alike.
    """

    counting: bool
    pixels: NDArray[np.float64]
    came: NDArray[np.float64]
    wanted: NDArray[np.float64]
    spread: NDArray[np.float64]
    noise: NDArray[np.float64]
    came_squared: NDArray[np.float64]
    product: NDArray[np.float64]
    wanted_squared: NDArray[np.float64]
    variance: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        quantiles: NDArray[np.float32],
        levels: Sequence[float],
        values: NDArray[np.float64],
        dose: Dose,
        channel: int,
        case: NDArray[np.int64],
    ) -> _Sums:
        """Return the sums of values (n,) with predicted quantiles (L, n)."""
        steps = [ppf(quantiles, levels, (i + 0.5) / _MEAN_STEPS) for i in range(_MEAN_STEPS)]
        scale = dose.dose[channel]
        wanted, spread = (scale * np.asarray(f(steps, axis=0), np.float64) for f in (np.mean, np.std))
        came = values / dose.gain[channel]
        if dose.sd is None:
            noise = np.maximum(wanted, 0)
        else:
            noise = np.full(came.shape, (dose.sd[channel] / dose.gain[channel]) ** 2)
        of_pixels = (
            np.ones_like(came), came, wanted, spread, noise,
            np.square(came), came * wanted, np.square(wanted), np.square(spread),
        )  # fmt: skip
        parts = [np.bincount(case, part).astype(np.float64) for part in of_pixels]
        return cls(dose.sd is None, *parts)

    def off(self) -> NDArray[np.float64]:
        """Return the log of counts over wanted counts, in units of `error`."""
        return np.asarray(np.log(self.ratio()) / self.error())

    def ratio(self) -> NDArray[np.float64]:
        """Return counts over wanted counts."""
        return (np.maximum(self.came, 0) + _HALF) / (np.maximum(self.wanted, 0) + _HALF)

    def error(self) -> NDArray[np.float64]:
        """Return the relative error of the wanted counts, if the errors of all pixels went together."""
        return np.asarray(np.sqrt(np.square(self.spread) + self.noise) / (np.maximum(self.wanted, 0) + _HALF))

    def rough(self) -> NDArray[np.float64]:
        """Return the log of the scatter about the prediction, relative to what is to be expected.

        The prediction is scaled to the counts first, so that a common error of its pixels doesn't count again.
        """
        r = self.ratio()
        scatter = self.came_squared - 2 * r * self.product + np.square(r) * self.wanted_squared
        noise = self.noise * r if self.counting else self.noise
        return np.asarray(np.log(np.maximum(scatter, 1e-30) / (noise + np.square(r) * self.variance + 1e-30)))


def dose_notes(
    held_out: HeldOut,
    dose: Dose,
    predicted: NDArray[np.float32],
    values: NDArray[np.float64],
    names: Sequence[str],
    *,
    clean: bool = True,
) -> tuple[Note, ...]:
    """Return notes on channels whose values in a window don't fit the prediction at this dose.

    Two figures of the window are compared with those of the held-out blocks, whose measurements are simulated at
    the dose: the sum of the counts, which a wrong dose or gain moves, and their scatter about the prediction, which
    a wrong dwell of values in the units of the maps changes. Blocks show how far predictions of neighbouring pixels
    are off together. A figure is noted where it is beyond Student's prediction interval and beyond all blocks; all
    figures of a window share the level `DOSE_LEVEL`.

    Parameters
    ----------
    held_out : HeldOut
        Predictions and targets on blocks that never trained.
    dose : Dose
        Of the measurement, as stated.
    predicted : ndarray of float32, shape (L, C, *space)
        Quantiles of the window before the fusion.
    values : ndarray of float64, shape (C, *space)
        Measured values; NaN where there is none.
    names : sequence of str
        Of the channels.
    clean : bool
        True if targets are clean; where they are noisy, the scatter says nothing.
    """
    figures = ("off", "rough") if clean else ("off",)
    level = DOSE_LEVEL / (len(figures) * len(values))
    simulated = dose.simulated(held_out.target)
    notes = []
    for c, value in enumerate(values):
        known = np.isfinite(value) & np.isfinite(predicted[:, c]).all(0)
        if dose.dose[c] == 0 or not known.any():
            continue
        one = np.zeros(int(known.sum()), np.int64)
        window = _Sums.of(predicted[:, c][:, known], held_out.levels, value[known], dose, c, one)
        blocks = _Sums.of(
            held_out.quantiles[:, c], held_out.levels, simulated[c], dose, c,
            np.unique(held_out.block, return_inverse=True)[1],
        )  # fmt: skip
        if max(window.came[0], window.wanted[0]) <= _FEWEST_COUNTS:
            continue
        for name in figures:
            limits = _limits(blocks, getattr(blocks, name)(), window, level)
            found = float(getattr(window, name)()[0])
            if not limits[0] <= found <= limits[1]:
                notes.append(_note(name, names[c], window, limits, found))
                break
    return tuple(notes)


def _limits(blocks: _Sums, figures: NDArray[np.float64], window: _Sums, level: float) -> tuple[float, float]:
    """Return the range of the figure of a window that is right, but for a share `level`."""
    from scipy.special import stdtrit

    kept = figures[np.isfinite(figures)]
    n = kept.size
    if n < 2:
        return -np.inf, np.inf
    # a figure of fewer pixels varies more, at most as if they were independent
    smaller = np.sqrt(max(float(np.median(blocks.pixels)) / float(window.pixels[0]), 1))
    centre, sd = float(kept.mean()), float(kept.std(ddof=1))
    reach = max(
        float(stdtrit(n - 1, 1 - level / 2)) * sd * np.sqrt(1 + 1 / n), float(np.abs(kept - centre).max())
    )
    return centre - smaller * reach, centre + smaller * reach


def _note(figure: str, name: str, window: _Sums, limits: tuple[float, float], found: float) -> Note:
    """Return the note on a figure beyond its limits."""
    sure = f"about {100 * (1 - DOSE_LEVEL):g} of 100 windows like the held-out blocks should"
    if figure == "off":
        wanted, error = max(float(window.wanted[0]), 0), float(window.error()[0])
        low, high = (max((wanted + _HALF) * float(np.exp(limit * error)) - _HALF, 0) for limit in limits)
        text = (
            f"{name} has {window.came[0]:.4g} counts in the window; at this dose {sure} have {low:.4g} to "
            f"{high:.4g} where the same is predicted. Check dose and gain: a wrong one shifts the whole "
            "window. If they are right, the prediction is probably wrong here."
        )
        return Note("amber", text)
    more = "more" if found > limits[1] else "less"
    ratio = float(np.exp(found))
    text = (
        f"{name} scatters {more} about the prediction than its dose lets expect: {ratio:.3g} times the variance, where "
        f"{sure} have {np.exp(limits[0]):.3g} to {np.exp(limits[1]):.3g}. Check dwell, dose and gain: a wrong one "
        "makes the intervals in the window too narrow or too wide. If they are right, the prediction is probably wrong "
        "here."
    )
    return Note("amber", text)
