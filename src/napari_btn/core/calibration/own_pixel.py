"""The noisy value of each pixel, added to a prediction that was made without it.

A blind prediction (Noise2Void) is a distribution of the noisy value, made from the surroundings alone. With the
variance of the noise it says how far the clean signal may lie from the predicted mean, and so how much weight the
pixel's own value deserves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.calibration.distribution import mean, variance
from napari_btn.core.data.image import View, whole_boxes
from napari_btn.core.data.noise_models import need_noise_model
from napari_btn.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.progress import Step

__all__ = ["add_own_pixels_steps"]

_READ = 2**20  # pixels of a channel at a time
_SAMPLE = 2**18  # pixels of a channel that the weights are fitted to
_LEAST = 1e-12  # least variance of the noise, relative to that of the prediction


def add_own_pixels_steps(
    noisy: View, noise: NoiseModel, maps: Mapping[str, Any], levels: Sequence[float]
) -> Step[tuple[float, ...]]:
    """Replace the mean by that of the clean signal, given the surroundings and the pixel's own value; a step.

    With blind mean ``m``, own value ``x`` and variance ``n`` of the noise, ``(x - m)**2 - n`` is an unbiased estimate
    of the squared error of ``m`` if ``n`` is right and ``m`` does not depend on the noise in ``x``: noise independent
    from pixel to pixel, and members that have not learned that of their training part by heart. It is fitted to the
    predicted variance over ``n`` by isotonic regression over the whole image, which gives the variance ``s`` of the
    signal around ``m``. The mean is then ``m + s / (s + n) * (x - m)``, and the variance ``s * n / (s + n)``.

    Parameters
    ----------
    noisy : View
        The image that was predicted.
    noise : NoiseModel
        Of the image, in its units.
    maps : mapping of str to array
        In the axes of the image: "quantiles" (levels first) is read; "mean" and "signal_sd", the standard deviation
        of the clean signal, are written.
    levels : sequence of float
        Levels of the quantiles, at least two.

    Returns
    -------
    tuple of float
        Mean weight of the own values in each channel, 0 to 1.

    Raises
    ------
    ValueError
        If the noise model has another number of channels than the image.

    References
    ----------
    Laine et al., "High-quality self-supervised deep image denoising", NeurIPS 2019, arXiv 1901.10277, equation 5;
    Krull et al., "Probabilistic Noise2Void", Front. Comput. Sci. 2 (2020), arXiv 1906.00651.
    """
    need_noise_model(noise, noisy.n_channels)
    image = _Blind(noisy, noise, maps["quantiles"], tuple(levels))
    parts = [
        (box.scene, slab) for box in whole_boxes(noisy.space, noisy.n_scenes) for slab in box.slabs(_READ)
    ]
    every = max(int(np.prod(noisy.space)) * noisy.n_scenes // _SAMPLE, 1)
    total, samples = 2 * len(parts), []
    for done, part in enumerate(parts):
        yield Progress(done, total, "Weighing each pixel's own value")
        samples.append([_thinned(one, every) for one in image.read(*part)])
    lines = [_Signal.of([part[c] for part in samples]) for c in range(noisy.n_channels)]
    means, deviations = (View(maps[name], noisy.axes, name) for name in ("mean", "signal_sd"))
    weights, counts = np.zeros(noisy.n_channels), np.zeros(noisy.n_channels)
    for done, (scene, slab) in enumerate(parts):
        yield Progress(len(parts) + done, total, "Weighing each pixel's own value")
        made = [one.posterior(line) for one, line in zip(image.read(scene, slab), lines, strict=True)]
        means.write(scene, slab, np.stack([m for m, _, _ in made]))
        deviations.write(scene, slab, np.stack([d for _, d, _ in made]))
        weights += [float(np.nansum(w)) for _, _, w in made]
        counts += [int(np.isfinite(w).sum()) for _, _, w in made]
    return tuple((weights / np.maximum(counts, 1)).tolist())


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels of one channel: own value, blind mean, predicted variance, and variance of the noise."""

    own: NDArray[np.float64]
    mean: NDArray[np.float64]
    predicted: NDArray[np.float64]
    noise: NDArray[np.float64]

    def posterior(
        self, signal: _Signal
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """Return mean and standard deviation of the clean signal, and the weight of the own value."""
        ratio = signal.ratio(self.predicted / self.noise)
        weight = ratio / (ratio + 1)
        middle = self.mean + weight * (self.own - self.mean)
        return middle.astype(np.float32), np.sqrt(weight * self.noise).astype(np.float32), weight


def _thinned(pixels: _Pixels, every: int) -> _Pixels:
    """Return each ``every``-th pixel that is known."""
    known = np.isfinite(pixels.own) & np.isfinite(pixels.mean)
    return _Pixels(
        *(one[known][::every] for one in (pixels.own, pixels.mean, pixels.predicted, pixels.noise))
    )


class _Blind:
    """A noisy image and its blind prediction, read slab by slab."""

    def __init__(self, noisy: View, noise: NoiseModel, quantiles: Any, levels: tuple[float, ...]) -> None:
        self._noisy, self._noise, self._levels = noisy, noise, levels
        self._stack = [View(quantiles, noisy.axes, "quantiles", first=(i,)) for i in range(len(levels))]

    def read(self, scene: int, slab: Sequence[slice]) -> Iterator[_Pixels]:
        """Yield the pixels of each channel, (*slab)."""
        own = self._noisy.read(scene, slab)
        stack = np.stack([view.read(scene, slab) for view in self._stack])
        for c in range(len(own)):
            middle = mean(stack[:, c], self._levels).astype(np.float64)
            predicted = variance(stack[:, c], self._levels)
            least = _LEAST * max(float(np.nanmax(predicted, initial=0.0)), 1e-30)
            noise = np.maximum(self._noise.variance(middle, c), least)
            yield _Pixels(own[c].astype(np.float64), middle, predicted, noise)


@dataclass(frozen=True, eq=False)
class _Signal:
    """Variance of the signal around the blind mean over that of the noise, by predicted variance over that."""

    at: NDArray[np.float64]
    value: NDArray[np.float64]

    @classmethod
    def of(cls, parts: Sequence[_Pixels]) -> _Signal:
        """Fit the pixels of one channel; no weight for own values where there are none."""
        from sklearn.isotonic import IsotonicRegression

        own, middle, predicted, noise = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("own", "mean", "predicted", "noise")
        )
        if not own.size:
            return cls(np.zeros(1), np.zeros(1))
        line = IsotonicRegression(y_min=0.0).fit(predicted / noise, (own - middle) ** 2 / noise - 1)
        return cls(line.X_thresholds_, line.y_thresholds_)

    def ratio(self, predicted: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the variance of the signal over that of the noise."""
        return np.interp(predicted, self.at, self.value)
