"""An endless corpus of made-up scenes (`scenes`) and noise, from which pretrained members learn.

Everything is drawn from seeds: no image, and none of the other samples, is in it. Scene ``i`` of a corpus
depends on the seed and on ``i`` alone, and the batch of step ``t`` on ``t`` alone, so that a training can
stop and go on anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.ndimage import gaussian_filter

from napari_btn.core.settings import need
from napari_btn.samples.scenes import draw_scene, normal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Rng = np.random.Generator

__all__ = ["Corpus", "Grain"]

Grain = Literal["white", "correlated", "mixed"]

_BANK, _NEW = 48, 4  # scenes that a step chooses from; steps after which one of them is replaced
_SIDES = {2: 224, 3: 52}  # side of a scene: several patches, so that its scale is not that of a patch
_PATCH = {2: (8, 56), 3: (2, 24)}  # patches of a step, and their side
_COUNTS = (0.003, 1000.0)  # mean counts of a pixel
_GRAINY = {"white": 0.0, "correlated": 1.0, "mixed": 0.4}  # share of scenes with correlated noise
_MARGIN = 5  # pixels around a patch that smoothed noise comes from
_LEAST_SHARE = 5e-4  # of the variance that is signal: under it there is nothing to learn


@dataclass(frozen=True)
class Corpus:
    """Scenes and noise from a seed, scaled as images of a user are: by mean and SD of the noisy scene.

    Attributes
    ----------
    channels : int
        Channels of a scene, 1 or more; they share their structure and differ in contrast.
    ndim : int
        2 or 3 space axes.
    grain : str
        "white" (noise of neighbouring pixels is independent), "correlated", or "mixed": both in turn.
    seed : int
        Seed of all scenes and noise.
    images : tuple of ndarray
        Clean images (C, *space) instead of made-up scenes; their noise is drawn all the same.
    noise : NoiseModel, optional
        Noise of the clean images, in their units, instead of noise of all levels.
    """

    channels: int = 1
    ndim: int = 2
    grain: Grain = "mixed"
    seed: int = 0
    images: tuple[Any, ...] = field(default=(), compare=False)
    noise: Any = field(default=None, compare=False)

    def __post_init__(self) -> None:
        need(self.channels >= 1, "channels", self.channels, "1 or more")
        need(self.ndim in (2, 3), "ndim", self.ndim, "2 or 3")
        need(self.grain in get_args(Grain), "grain", self.grain, '"white", "correlated" or "mixed"')

    def of_member(self, member: int) -> Corpus:
        """Return the corpus of one member: other scenes and noise for each.

        Parameters
        ----------
        member : int
            Number of the member, from 0.
        """
        return replace(self, seed=self.seed + member)

    def scene(self, number: int) -> Array:
        """Return a clean scene (C, *space), not negative, with a mean of one in each channel.

        Parameters
        ----------
        number : int
            Number of the scene, from 0.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(0, number)))
        space = (_SIDES[self.ndim],) * self.ndim
        if not self.images:
            return draw_scene(rng, space, self.channels)
        image = self.images[rng.integers(len(self.images))]
        box = [slice(0, None)]
        for n, side in zip(image.shape[1:], space, strict=True):
            start = int(rng.integers(max(n - side, 0) + 1))
            box.append(slice(start, start + side))
        crop = np.asarray(image[tuple(box)], np.float32)
        return crop if self.noise is not None else normal(crop)

    def batch(self, step: int) -> tuple[Array, Array]:
        """Return noisy and clean patches of one step, (B, C, *patch) each, in units of the noisy scene.

        Parameters
        ----------
        step : int
            Number of the step, from 0.
        """
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, step)))
        count, side = _PATCH[self.ndim]
        inputs, targets = [], []
        for number in step // _NEW + rng.choice(_BANK, count, replace=False):
            # crops of images are quick, and a corpus of other images would be taken for the same
            scene = self.scene(int(number)) if self.images else _kept(self, int(number))
            x, y = self._patch(scene, side, rng)
            order = [0, *1 + rng.permutation(self.ndim)]
            flips = tuple(a for a in range(1, x.ndim) if rng.random() < 0.5)
            inputs.append(np.flip(x.transpose(order), flips))
            targets.append(np.flip(y.transpose(order), flips))
        sides = np.min([x.shape[1:] for x in inputs], 0)
        box = (slice(None), *(slice(n) for n in sides))
        return np.stack([x[box] for x in inputs]), np.stack([y[box] for y in targets])

    def _patch(self, scene: Array, side: int, rng: Rng) -> tuple[Array, Array]:
        """Return a noisy patch of a scene and its truth, both in units of the noisy scene."""
        law: _Exposure | _Detector
        if self.noise is None:
            law = _Exposure.draw(scene, rng, grainy=_GRAINY[self.grain] > rng.random())
        else:
            law = _Detector(self.noise)
        # noise is drawn where the patch lies, and on some pixels of the whole scene to know their SD
        sampled = law.noisy(scene[(slice(None), *(slice(None, None, 3),) * self.ndim)], rng)[0]
        axes = tuple(range(1, scene.ndim))
        sd = sampled.std(axes, keepdims=True) * np.float32(np.exp(rng.normal(0, 0.1)))
        mean = sampled.mean(axes, keepdims=True) + sd * np.float32(rng.normal(0, 0.05))
        box, inner = [slice(None)], [slice(None)]
        for n in scene.shape[1:]:
            start = int(rng.integers(max(n - side, 0) + 1))
            first = max(start - _MARGIN, 0)
            box.append(slice(first, start + side + _MARGIN))
            inner.append(slice(start - first, start - first + side))
        noisy, clean = law.noisy(scene[tuple(box)], rng)
        return ((noisy - mean) / sd)[tuple(inner)], ((clean - mean) / sd)[tuple(inner)]


@lru_cache(maxsize=2 * _BANK)
def _kept(corpus: Corpus, number: int) -> Array:
    """Return a scene of a corpus, from memory where it was drawn before."""
    return corpus.scene(number)


# ---------------------------------------------------------------- noise


@dataclass(frozen=True)
class _Exposure:
    """A law of noise: what a detector makes of a scene.

    Mean counts are log-uniform from 0.003 to 1,000 a pixel, alike in all channels to a factor of about three.
    To the counts may come amplification, read-out noise, or skewed noise that grows with the signal.

    Attributes
    ----------
    dose : ndarray of float, (C, ...)
        Mean counts of a pixel.
    amplified : bool
        Each electron makes an exponential number of counts.
    sd : ndarray of float, (C, ...)
        SD of noise that comes to that of the counts.
    grows : float
        Rise of that SD with the signal, relative to its mean.
    skew : float
        Share of that noise's variance that is exponential, 0 to 1.
    widths : tuple of float
        SD of the Gaussian that smooths the noise, in pixels along each space axis; empty for white noise.
    resized : bool
        The signal is as smooth as the noise, as in an image that was resized.
    """

    dose: Any
    amplified: bool
    sd: Any
    grows: float
    skew: float
    widths: tuple[float, ...]
    resized: bool

    @classmethod
    def draw(cls, scene: Array, rng: Rng, *, grainy: bool) -> _Exposure:
        """Return a random law that leaves some signal in the noise.

        Parameters
        ----------
        scene : ndarray of float32, (C, *space)
            A mean of one in each channel.
        rng : numpy.random.Generator
        grainy : bool
            Smooth the noise, so that it is alike in neighbouring pixels.
        """
        ndim = scene.ndim - 1
        shape = (len(scene), *(1,) * ndim)
        low, high = np.log(_COUNTS)
        dose = np.exp(np.clip(rng.uniform(low, high) + rng.normal(0, 0.8, shape), low, high))
        kind, amount = rng.random(), rng.uniform(-1.7, 1.7)
        # what comes to the noise of the counts makes it so many times the variance of the signal
        varies = np.square(dose) * scene.var(tuple(range(1, scene.ndim)), keepdims=True)
        wanted = (varies * 10**amount - dose) * (kind < 0.85)
        most = varies / _LEAST_SHARE - dose
        widths = np.clip(rng.uniform(0.4, 1.4) * np.exp(rng.normal(0, 0.1, ndim)), 0.35, 1.5)
        return cls(
            dose.astype(np.float32),
            bool(rng.random() < 0.1),
            np.sqrt(np.clip(wanted, 0, np.maximum(most, 0))).astype(np.float32),
            float(rng.uniform(0, 0.5)) * (kind < 0.4),
            float(rng.uniform(0, 1)) * (kind < 0.4),
            tuple(float(w) for w in widths) if grainy else (),
            bool(rng.random() < 0.3),
        )

    def noisy(self, scene: Array, rng: Rng) -> tuple[Array, Array]:
        """Return a noisy image of a scene, and the scene in its units, (C, *space) each.

        Parameters
        ----------
        scene : ndarray of float32, (C, *space)
        rng : numpy.random.Generator
        """
        signal = (self.dose * scene).astype(np.float32)
        noise = rng.poisson(signal).astype(np.float32)
        if self.amplified:
            noise = np.where(noise > 0, rng.standard_gamma(np.maximum(noise, 1)), 0).astype(np.float32)
        noise -= signal
        if self.sd.any():
            law = np.sqrt(np.float32(1 - self.skew)) * rng.standard_normal(signal.shape, np.float32)
            if self.skew:
                law += np.sqrt(np.float32(self.skew)) * (
                    rng.standard_exponential(signal.shape, np.float32) - 1
                )
            noise += self.sd * (1 + np.float32(self.grows) * scene) * law
        if self.widths:
            noise = gaussian_filter(noise, (0, *self.widths), mode="reflect")
            if self.resized:
                signal = gaussian_filter(signal, (0, *self.widths), mode="reflect")
        return signal + noise, signal


@dataclass(frozen=True)
class _Detector:
    """Noise of a detector, in the place of an `_Exposure`."""

    model: Any

    def noisy(self, scene: Array, rng: Rng) -> tuple[Array, Array]:
        """Return a noisy image of a scene, and the scene."""
        return np.asarray(self.model.sample(scene, rng), np.float32), scene
