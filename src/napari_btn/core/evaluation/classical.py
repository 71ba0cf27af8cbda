"""Classical filters, with parameters found with or without clean data.

A filter works on one channel in units of its noise: values are divided by the noise's standard deviation,
after a variance-stabilising transform where a noise model is known. So one grid of parameters suits all images.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_btn.core.data.image import Box, View, middle_of_space
from napari_btn.core.data.noise import noise_sd
from napari_btn.core.evaluation._filters import FILTERS, Array, wiener_kernel
from napari_btn.core.inference.tiles import plan_tiles
from napari_btn.core.progress import Progress
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.data.pairs import Scenes
    from napari_btn.core.progress import Step

__all__ = ["Filtered", "filled", "filter_steps", "hidden_loss", "hide", "straight_line"]

_TUNE_SIDE = {2: 192, 3: 40}  # side in pixels of the parts that parameters are tuned on
_TUNE_PARTS = 8
_TILE = {2: 256, 3: 64}  # a tile takes a fraction of a second, so that the work can be stopped
_STRIDE = 4  # every fourth pixel along each axis is hidden


@dataclass(frozen=True, eq=False)
class Filtered:
    """An image after one classical filter.

    Parameters
    ----------
    name : str
        Name of the filter, one of `_filter_names`.
    image : ndarray of float32, (S, C, *space)
        NaN where the noisy image has no finite value.
    parameters : tuple of dict
        Parameters of each channel; lengths in pixels, heights in standard deviations of the noise.
    tuning_seconds, seconds : float
        CPU-seconds to find the parameters, and to filter the image.
    apply : callable
        Filters an array (C, *space) of the same image; not finite where that is not.
    """

    name: str
    image: Array
    parameters: tuple[dict[str, float], ...]
    tuning_seconds: float
    seconds: float
    apply: Callable[[Array], Array] = field(repr=False)


def _filter_names(ndim: int) -> tuple[str, ...]:
    """Return the filters for images of ``ndim`` space axes whose packages are installed."""
    return tuple(
        name
        for name, known in FILTERS.items()
        if ndim in known.ndims and (not known.module or importlib.util.find_spec(known.module) is not None)
    )


def filter_steps(
    noisy: View,
    *,
    names: Sequence[str] | None = None,
    scenes: Scenes | None = None,
    train: Sequence[Box] = (),
    noise: NoiseModel | None = None,
) -> Step[tuple[Filtered, ...]]:
    """Tune classical filters on an image and apply them; a step.

    Parameters
    ----------
    noisy : View
        Noisy image.
    names : sequence of str, optional
        Filters; all by default.
    scenes : Scenes, optional
        Noisy and clean. Parameters are then those of least squared error on ``train``; without clean data, those
        of least self-supervised loss.
    train : sequence of Box
        Part of the pair to tune on.
    noise : NoiseModel, optional
        Noise of each channel: filters then work on variance-stabilised values.

    Returns
    -------
    tuple of Filtered
        In the order of ``names``.

    Raises
    ------
    ValueError
        If a filter is unknown, or no pixel of the image is finite.

    References
    ----------
    Batson & Royer, Noise2Self, ICML 2019: parameters from the error at hidden pixels.
    """
    known = _filter_names(noisy.ndim)
    chosen = known if names is None else (names,) if isinstance(names, str) else names
    texts = np.iterable(chosen) and all(isinstance(name, str) for name in chosen)
    need(texts, "filters", names, f"some of {', '.join(known)}")
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(
            f"Filters are {', '.join(unknown)}; for {noisy.ndim}D images there are {', '.join(known)}. "
            "Choose among those."
        )
    boxes = _parts(noisy, train)
    crops = [filled(noisy.read(b.scene, b.slices)) for b in boxes]
    cleans = None if scenes is None else [filled(scenes.read_clean(b.scene, b.slices)) for b in boxes]
    domains = [_Domain.of([crop[c] for crop in crops], noise, c) for c in range(noisy.n_channels)]
    made = []
    for k, name in enumerate(chosen):

        def placed(note: str, k: int = k) -> Progress:
            """Return the progress at a filter."""
            return Progress(k, len(chosen), note)

        began, tuned = _Clock(), []
        for c, domain in enumerate(domains):
            yield placed(f"Tuning {name}")
            values = [domain.forward(crop[c]) for crop in crops]
            targets = None if cleans is None else [crop[c] for crop in cleans]
            best: tuple[float, Callable[[Array], Array], dict[str, float]] | None = None
            for parameters in _candidates(name, values, targets, noisy.ndim):
                with began:
                    loss, one, shown = _tried(name, parameters, values, targets, domain)
                if best is None or loss < best[0]:
                    best = loss, one, shown
                yield placed(f"Tuning {name}")
            assert best is not None, "every filter has a setting"
            tuned.append(best)
        image, spent = np.empty((noisy.n_scenes, noisy.n_channels, *noisy.space), np.float32), _Clock()
        halo = FILTERS[name].halo
        for scene in range(noisy.n_scenes):
            for tile in plan_tiles(noisy.space, _TILE[noisy.ndim] + 2 * halo, halo):
                yield placed(f"Filtering: {name}")
                x = noisy.read(scene, tile.read)
                for c, (domain, (_, one, _)) in enumerate(zip(domains, tuned, strict=True)):
                    with spent:
                        kept = _through(x[c], domain, one)[tile.keep]
                    at: Any = (scene, c, *tile.write)
                    image[at] = kept
        steps = tuple((domain, one) for domain, (_, one, _) in zip(domains, tuned, strict=True))

        def apply(x: Array, steps: Sequence[Any] = steps) -> Array:
            """Filter an array (C, *space)."""
            return np.stack([_through(row, *step) for row, step in zip(x, steps, strict=True)])

        found = tuple(parameters for _, _, parameters in tuned)
        made.append(Filtered(name, image, found, began.seconds, spent.seconds, apply))
    return tuple(made)


class _Clock:
    """CPU-seconds of this thread inside of its contexts."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.thread_time() - self._began


@dataclass(frozen=True)
class _Domain:
    """The map of a channel's values to units of its noise, and back."""

    location: float
    scale: float
    noise: NoiseModel | None
    channel: int

    @classmethod
    def of(cls, parts: Sequence[Array], noise: NoiseModel | None, channel: int) -> _Domain:
        """Return the domain of a channel, from parts of it."""
        if noise is not None:
            parts = [np.asarray(noise.anscombe(part, channel), np.float32) for part in parts]
        values = np.concatenate([part.ravel() for part in parts])
        scale = 1.0 if noise is not None else max(noise_sd(parts), 1e-6 * float(np.ptp(values)), 1e-30)
        return cls(float(np.median(values)), float(scale), noise, channel)

    def forward(self, x: Array) -> Array:
        """Return values in units of the noise."""
        z = x if self.noise is None else self.noise.anscombe(x, self.channel)
        return np.asarray((z - self.location) / self.scale, np.float32)

    def backward(self, z: Array) -> Array:
        """Return values in the noisy image's unit."""
        x = np.asarray(z, np.float64) * self.scale + self.location
        return np.asarray(
            x if self.noise is None else self.noise.inverse_anscombe(x, self.channel), np.float32
        )


def _through(x: Array, domain: _Domain, one: Callable[[Array], Array]) -> Array:
    """Return a channel after a filter; NaN where it was not finite."""
    known = np.isfinite(x)
    made = one(domain.forward(filled(x[None])[0]))
    return np.where(known, made, np.nan).astype(np.float32)


def filled(x: Array) -> Array:
    """Return values (C, *space) with those that aren't finite replaced by the nearest finite one.

    Parameters
    ----------
    x : ndarray of float32, (C, *space)

    Raises
    ------
    ValueError
        If a channel has no finite value.
    """
    known = np.isfinite(x)
    if known.all():
        return x
    if not known.reshape(len(x), -1).any(1).all():
        raise ValueError(
            "A channel has no finite value in this part of the image; crop the image to where it has."
        )
    from scipy.ndimage import distance_transform_edt

    made = x.copy()
    for row, finite in zip(made, known, strict=True):
        nearest = distance_transform_edt(~finite, return_distances=False, return_indices=True)
        row[...] = row[tuple(nearest)]
    return made


def _parts(noisy: View, train: Sequence[Box]) -> list[Box]:
    """Return the parts of the image to tune on: the middles of a few boxes."""
    side = _TUNE_SIDE[noisy.ndim]
    boxes = list(train) or [Box(0, middle_of_space(noisy.space))]
    step = max(len(boxes) // _TUNE_PARTS, 1)
    made = []
    for box in boxes[::step][:_TUNE_PARTS]:
        cut = []
        for part in box.slices:
            length = min(part.stop - part.start, side)
            first = (part.start + part.stop - length) // 2
            cut.append(slice(first, first + length))
        made.append(Box(box.scene, tuple(cut)))
    return made


# ---------------------------------------------------------------- parameters


def _candidates(
    name: str, values: Sequence[Array], targets: Sequence[Array] | None, ndim: int
) -> Iterator[dict[str, Any]]:
    """Yield the settings of a filter to try; the optimal stationary filter has one kernel, from spectra."""
    if name == "wiener":
        yield {"kernel": wiener_kernel(values, targets, ndim)}
    else:
        yield from FILTERS[name].settings()


def _tried(
    name: str,
    parameters: dict[str, Any],
    values: Sequence[Array],
    targets: Sequence[Array] | None,
    domain: _Domain,
) -> tuple[float, Callable[[Array], Array], dict[str, float]]:
    """Return loss, filter and parameters to show, of one setting.

    The filter takes values in units of the noise, and returns those of the image; of clean, where there is one:
    the two may have other units, so the best straight line between them is part of the filter.
    """
    from skimage.restoration import calibrate_denoiser

    function = FILTERS[name].function

    def one(z: Array) -> Array:
        """Filter values in units of their noise."""
        return np.asarray(function(z, **parameters), np.float32)

    shown = {key: float(value) for key, value in parameters.items() if key != "kernel"}
    if targets is None:
        errors = [calibrate_denoiser(z, one, {}, stride=_STRIDE, extra_output=True)[1][1][0] for z in values]
        return float(np.mean(errors)), lambda z: domain.backward(one(z)), shown
    made = np.concatenate([domain.backward(one(z)).ravel() for z in values])
    wanted = np.concatenate([y.ravel() for y in targets])
    slope, shift = straight_line(made, wanted)
    loss = float(np.mean((slope * made + shift - wanted) ** 2))
    return loss, lambda z: slope * domain.backward(one(z)) + shift, shown


def hide(image: Array) -> tuple[Array, tuple[slice, ...]]:
    """Return an image with every fourth pixel along each axis replaced by the mean of its neighbours.

    Parameters
    ----------
    image : ndarray of float32, (C, *space)

    Returns
    -------
    hidden : ndarray of float32, (C, *space)
    where : tuple of slice
        The hidden pixels, over the space axes.
    """
    from scipy.ndimage import convolve, generate_binary_structure

    ndim = image.ndim - 1
    kernel = generate_binary_structure(ndim, 1).astype(np.float32)
    kernel[(1,) * ndim] = 0
    where = (slice(_STRIDE // 2, None, _STRIDE),) * ndim
    hidden = image.copy()
    for row, source in zip(hidden, image, strict=True):
        row[where] = convolve(source, kernel / kernel.sum(), mode="mirror")[where]
    return hidden, where


def hidden_loss(image: Array, made: Array, where: Sequence[slice]) -> NDArray[np.float64]:
    """Return the mean squared difference to the noisy image at the hidden pixels, (C,).

    For noise that is independent from pixel to pixel, it is the squared error plus the variance of the noise. A
    result may have another unit than the noisy image, so the best straight line between them is taken first.

    Parameters
    ----------
    image : ndarray, (C, *space)
        Noisy image.
    made : ndarray, (C, *space)
        Result of a filter of the image with hidden pixels, from `hide`.
    where : sequence of slice
        The hidden pixels, over the space axes.
    """
    at = (slice(None), *where)
    losses = []
    for y, x in zip(image[at], made[at], strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        slope, shift = straight_line(x[known], y[known])
        losses.append(float(np.mean(np.square(slope * x[known].astype(np.float64) + shift - y[known]))))
    return np.asarray(losses)


def straight_line(x: Array, y: Array) -> tuple[float, float]:
    """Return slope and shift of the best straight line from ``x`` to ``y``; slope 0 for a constant ``x``.

    Parameters
    ----------
    x, y : ndarray of one shape
        Finite values.
    """
    given, wanted = np.asarray(x, np.float64), np.asarray(y, np.float64)
    spread = float(given.var())
    slope = float(np.mean((given - given.mean()) * (wanted - wanted.mean()))) / spread if spread > 0 else 0.0
    return slope, float(wanted.mean() - slope * given.mean())
