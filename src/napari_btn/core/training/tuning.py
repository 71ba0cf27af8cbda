"""GainTuning: adapt trained members to one noisy image by one gain per channel and layer.

A gain multiplies the weights and constants that make a channel, so a tuned member is a member like any other: it
predicts by the same passes and is stored in the same form.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage

from napari_btn.core.compute.pool import one_thread
from napari_btn.core.data.image import Box
from napari_btn.core.data.noise_models import need_noise_model
from napari_btn.core.networks.family import build_trained, member_rng
from napari_btn.core.progress import Note, Progress
from napari_btn.core.settings import need

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_btn.core.data.image import View
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.networks.family import Member, Networks
    from napari_btn.core.networks.heads import Ensemble
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import AdaptSettings

__all__ = ["Signal", "tune_steps"]

_YIELD_S = 0.3
_SEED_USE = 7  # use of a member's seed, see `member_rng`
_CHECKED = 6  # batches that decide which gains are kept
_CHECKS = 8  # how often they are looked at
_LEAST = 0.003  # least relative gain of the loss for which gains are kept
_PROBE = 0.02  # step of a divergence, in standard deviations of the noise
_PATCH = {2: 96, 3: 32}
_BATCH = {2: 2, 3: 1}


@dataclass(frozen=True, eq=False)
class Signal:
    """The comparison of the networks' mean with the noisy image, on the scale of that image.

    Parameters
    ----------
    weights : ndarray of float64, shape (L,)
        Weight of each quantile in the mean of the predicted distribution.
    slope, intercept : ndarray of float64, shape (C,)
        Expected noisy value is ``slope * signal + intercept``.
    """

    weights: NDArray[np.float64]
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Tuned:
    """Members adapted to an image.

    Parameters
    ----------
    members : tuple of Member
        With the gains folded into their weights.
    losses : dict
        Loss of each step, by member number.
    gains : dict
        Gains of each member by name of the weights, float32 (channels,).
    notes : tuple of Note
        Members that the image didn't improve, and so stayed as they were.
    """

    members: tuple[Member, ...]
    losses: dict[int, tuple[float, ...]]
    gains: dict[int, dict[str, NDArray[np.float32]]]
    notes: tuple[Note, ...] = ()


def tune_steps(
    networks: Networks,
    view: View,
    settings: AdaptSettings,
    signal: Signal,
    *,
    noise_model: NoiseModel | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Step[_Tuned]:
    """Tune the gains of each member on a noisy image; a step.

    All else stays as it was trained. Some patches are only looked at: a member keeps the gains that are best there,
    and its own weights where none are better by more than a standard error and 0.3 %.

    Parameters
    ----------
    networks : Networks
    view : View
        Noisy image; all scenes.
    settings : AdaptSettings
    signal : Signal
    noise_model : NoiseModel, optional
        For the losses "sure" and "resample".
    device : str
        Name of the device in torch.
    seed : int

    Raises
    ------
    ValueError
        If the loss needs a noise model of so many channels or independent noise, or the networks make other
        channels than they read.

    References
    ----------
    Mohan, Vincent, Manzorro, Crozier, Fernandez-Granda and Simoncelli, "Adaptive denoising via GainTuning",
    arXiv 2107.12815 (2021), sections 3 and 4; Stein, Annals of Statistics 9 (1981) 1135, and Ramani, Blu and
    Unser, IEEE TIP 17 (2008) 1540, on the loss "sure".
    """
    blueprint = networks.blueprint
    channels = f"{blueprint.n_in} noisy and {blueprint.n_out} clean"
    need(blueprint.n_in == blueprint.n_out, "channels", channels, "as many clean as noisy ones to adapt by")
    _need_noise_model(settings.loss, noise_model, blueprint.n_in)
    members: list[Member] = []
    losses: dict[int, tuple[float, ...]] = {}
    gains: dict[int, dict[str, NDArray[np.float32]]] = {}
    unchanged: list[int] = []
    total = len(networks.members) * settings.steps
    for k, member in enumerate(networks.members):
        module = build_trained(blueprint, member.number, member.attempt, member.weights).to(device)
        rng = member_rng(seed, member.number, attempt=member.attempt, use=_SEED_USE)
        tuner = _Tuner(module, view, settings, signal, noise_model, rng)
        began = time.perf_counter()
        for step in tuner.steps():
            if time.perf_counter() - began > _YIELD_S:
                began = time.perf_counter()
                note = f"Adapting member {k + 1} of {len(networks.members)}"
                yield Progress(k * settings.steps + step, total, note)
        losses[member.number] = tuple(tuner.losses)
        gains[member.number] = tuner.best_gains()
        if not tuner.improved:
            unchanged.append(member.number + 1)
        members.append(replace(member, weights=tuner.folded(member)))
    kept = (_unchanged(unchanged, len(members)),) if unchanged else ()
    yield Progress(total, total, "Adapted")
    return _Tuned(tuple(members), losses, gains, kept)


def _unchanged(numbers: list[int], members: int) -> Note:
    """Return a note on members that the image didn't improve."""
    which = "No member" if len(numbers) == members else f"{members - len(numbers)} of {members} members"
    return Note(
        "amber",
        f"{which} lowered the loss on this image; the others stayed as they were trained. The image may be like "
        "those of the training, or too small to tell.",
    )


def _need_noise_model(loss: str, noise_model: NoiseModel | None, channels: int) -> None:
    """Raise ``ValueError`` if a loss lacks its noise model."""
    if loss == "blind_spot":
        return
    need(noise_model is not None, "noise_model", None, f"a NoiseModel, which the loss {loss!r} needs")
    assert noise_model is not None, "checked above"
    need_noise_model(noise_model, channels)
    if loss == "sure":
        reach = int(noise_model.correlation_px.max())
        text = f"noise correlated over {reach} px"
        need(reach == 0, "noise_model", text, 'independent noise for the loss "sure"; take "resample"')


class _Tuner:
    """A member, its gains, and the loss that they are tuned by."""

    def __init__(
        self,
        module: Ensemble,
        view: View,
        settings: AdaptSettings,
        signal: Signal,
        noise_model: NoiseModel | None,
        rng: np.random.Generator,
    ) -> None:
        self.module, self.view, self.settings, self.rng = module, view, settings, rng
        self.noise_model, self.levels = noise_model, torch.as_tensor(signal.weights, dtype=torch.float32)
        self.device = next(module.parameters()).device
        self.slope, self.intercept = (self._column(values) for values in (signal.slope, signal.intercept))
        self.layers = _layers(module)
        self.base = {name: p.detach().clone() for name, p in module.named_parameters()}
        for name, parameter in module.named_parameters():
            tuned = any(name in names for names in self.layers.values())
            parameter.requires_grad_(tuned and parameter.requires_grad)
        self.gains = {
            layer: torch.ones(self.base[names[0]].shape[:2], device=self.device, requires_grad=True)
            for layer, names in self.layers.items()
        }
        self.optimiser = torch.optim.Adam(list(self.gains.values()), settings.learning_rate)
        self.losses: list[float] = []
        self.best = {layer: gain.detach().clone() for layer, gain in self.gains.items()}
        self.improved = False
        sample = np.concatenate([self._patch().reshape(module.n_in, -1) for _ in range(4)], 1)
        spread = np.nanvar(np.where(np.isfinite(sample), sample, np.nan), axis=1)
        self.scale = self._column(np.where(spread > 0, spread, 1.0))

    def steps(self) -> Iterator[int]:
        """Tune; yield the number of steps done, also between the checks."""
        with one_thread():
            held = [self._batch() for _ in range(_CHECKED)]
            with torch.no_grad():
                first = []
                for batch in held:
                    first.append(self._loss(*batch).mean().item())
                    yield 0
        best = 0.0
        every = max(self.settings.steps // _CHECKS, 1)
        for step in range(self.settings.steps):
            with one_thread():
                self._step(*self._batch())
            yield step
            if (step + 1) % every == 0:
                now = []
                for batch in held:
                    with one_thread(), torch.no_grad():
                        now.append(self._loss(*batch).mean().item())
                    yield step
                change = np.asarray(now) - first
                error = change.std(ddof=1) / np.sqrt(len(change))
                # masked pixels favour networks that trust the pixel itself less than they should
                least = max(float(error), _LEAST * abs(float(np.mean(first))))
                if change.mean() < min(best, -least):
                    best, self.improved = float(change.mean()), True
                    self.best = {layer: gain.detach().clone() for layer, gain in self.gains.items()}

    def folded(self, member: Member) -> dict[str, NDArray[np.float32]]:
        """Return the member's weights, times the best gains."""
        made = dict(member.weights)
        for layer, names in self.layers.items():
            for name in names:
                scaled = self.base[name] * _spread(self.best[layer], self.base[name])
                made[name] = scaled.cpu().numpy().astype(np.float32)
        return made

    def best_gains(self) -> dict[str, NDArray[np.float32]]:
        """Return the gains that are kept."""
        return {layer: gain[0].cpu().numpy() for layer, gain in self.best.items()}

    def _step(self, *batch: Any) -> None:
        """Take one step of the optimiser."""
        self.optimiser.zero_grad()
        loss = self._loss(*batch).mean()
        loss.backward()
        parameters = dict(self.module.named_parameters())
        for layer, names in self.layers.items():
            grad = torch.zeros_like(self.gains[layer])
            for name in names:
                # a gain multiplies all weights of its channel
                if (own := parameters[name].grad) is not None:
                    grad += (
                        (own * self.base[name]).flatten(2).sum(2) if own.ndim > 2 else own * self.base[name]
                    )
                    parameters[name].grad = None
            self.gains[layer].grad = grad
        self.optimiser.step()
        with torch.no_grad():
            for layer, names in self.layers.items():
                for name in names:
                    parameters[name].copy_(self.base[name] * _spread(self.gains[layer], self.base[name]))
        self.losses.append(loss.item())

    def _batch(self) -> tuple[torch.Tensor, ...]:
        """Draw a batch for a loss: noisy patches, the inputs of the networks, and weights or targets."""
        patches = np.stack([self._patch() for _ in range(_BATCH[self.view.ndim])])
        known = np.isfinite(patches)
        noisy = np.where(known, patches, 0).astype(np.float32)
        if self.settings.loss == "blind_spot":
            filled, masked = _filled(noisy, self.settings.mask_share, self.rng)
            with torch.no_grad():
                (given,) = self._tensors(filled)
                guess = self._first(given).cpu().numpy()
            return self._tensors(noisy, _measured_again(noisy, guess, masked, self.rng), masked & known)
        if self.settings.loss == "sure":
            return self._tensors(noisy, self.rng.standard_normal(noisy.shape), known)
        assert self.noise_model is not None, "checked by tune_steps"
        with torch.no_grad():
            (given,) = self._tensors(noisy)
            clean = self._first(given).cpu().numpy()
        drawn = np.stack([self.noise_model.sample(one, self.rng) for one in clean])
        return self._tensors(clean, drawn, known)

    def _loss(self, noisy: torch.Tensor, other: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        """Return the loss of each value that counts, in variances of the noisy image."""
        if self.settings.loss != "sure":
            # blind spot: masked pixels are predicted from others; resampling: the former result is found again
            error = (self._mean(other) - noisy).square() / self.scale
            kept: torch.Tensor = error[counted > 0]
            return kept
        made = self._mean(noisy)
        variance = self._variance(made)
        probe = _PROBE * variance.sqrt()
        moved = self._mean(noisy + probe * other)
        # E[(s b)' J (s b)] is the sum of variance times derivative
        divergence = variance.sqrt() * other * (moved - made) / _PROBE
        risk = (made - noisy).square() - variance + 2 * divergence
        known: torch.Tensor = (risk / self.scale)[counted > 0]
        return known

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of the predicted distribution in units of the noisy image, (B, C, *space)."""
        quantiles = self.module(x)[:, 0]
        weights = self.levels.to(x.device).reshape(1, 1, -1, *(1,) * (x.ndim - 2))
        made: torch.Tensor = (quantiles * weights).sum(2) * self.slope + self.intercept
        return made

    def _first(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean by the weights of the training."""
        parameters = dict(self.module.named_parameters())
        names = [name for layer in self.layers.values() for name in layer]
        for name in names:
            parameters[name].copy_(self.base[name])
        made = self._mean(x)
        for layer, own in self.layers.items():
            for name in own:
                parameters[name].copy_(self.base[name] * _spread(self.gains[layer], self.base[name]))
        return made

    def _variance(self, signal: torch.Tensor) -> torch.Tensor:
        """Return the noise's variance at a result, (B, C, *space)."""
        assert self.noise_model is not None, "checked by tune_steps"
        values = signal.detach().cpu().numpy()
        found = [self.noise_model.variance(values[:, c], c) for c in range(values.shape[1])]
        return torch.as_tensor(np.stack(found, 1), dtype=torch.float32, device=self.device)

    def _patch(self) -> NDArray[np.float32]:
        """Draw a patch of the image, (C, *space)."""
        scene = int(self.rng.integers(self.view.n_scenes))
        whole = Box(scene, tuple(slice(0, n) for n in self.view.space))
        # all patches have one size, that of the smallest axis where an image is small
        side = [min(_PATCH[self.view.ndim], n) for n in self.view.space]
        return self.view.read(scene, whole.crop(side, self.rng))

    def _tensors(self, *arrays: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.as_tensor(np.asarray(a), dtype=torch.float32, device=self.device) for a in arrays)

    def _column(self, values: NDArray[np.float64]) -> torch.Tensor:
        made = torch.as_tensor(values, dtype=torch.float32, device=self.device)
        return made.reshape(1, -1, *(1,) * self.view.ndim)


def _layers(module: Ensemble) -> dict[str, list[str]]:
    """Return the names of weights and constants that make the channels of each layer.

    The last layer has none: gains there would scale single quantiles.
    """
    names = [name for name, _ in module.named_parameters()]
    found: dict[str, list[str]] = {}
    for name in names:
        if name.startswith("trunk.") and name.endswith("_weight"):
            bias = name.removesuffix("_weight") + "_bias"
            found[name] = [name, *([bias] if bias in names else [])]
    heads = [n for n in names if n.startswith("head") and n.endswith("_weight")]
    return {**found, "hidden": [*heads, "hidden_bias"]}


def _spread(gain: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return gains (M, out) in the shape of weights (M, out, ...)."""
    return gain.reshape(*gain.shape, *(1,) * (weight.ndim - 2))


def _measured_again(
    noisy: NDArray[np.float32],
    guess: NDArray[np.float32],
    masked: NDArray[np.bool_],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return patches (B, C, *space) whose masked values look like a second measurement of the same pixels.

    A masked value is the guess from the other pixels plus the noise of a masked pixel of a similar guess. Were it that
    of a neighbour, networks would learn to trust a pixel less than they should, where its neighbours differ.
    """
    made = noisy.copy()
    for b, c in np.ndindex(noisy.shape[:2]):
        at = np.flatnonzero(masked[b, c])
        if at.size == 0:
            continue
        values, own = guess[b, c].ravel()[at], noisy[b, c].ravel()[at]
        order = np.argsort(values)
        noise = np.empty_like(own)
        # the next in rank, or the one after: never the pixel itself, unless it is alone
        noise[order] = np.roll((own - values)[order], int(rng.integers(1, 3)))
        noise *= _share_of_noise(noisy[b, c], float(np.mean(np.square(own - values))))
        made[b, c].flat[at] = values + noise
    return made


def _share_of_noise(image: NDArray[np.float32], found: float) -> float:
    """Return what noise is multiplied by so that it and the error of the guess together are the image's noise.

    Parameters
    ----------
    image : ndarray of float32, (*space)
        A patch of one channel.
    found : float
        Mean squared difference of values and guesses: variance of the noise plus that of the guesses' error.

    References
    ----------
    Immerkaer, Computer Vision and Image Understanding 64 (1996) 300, on the second differences.
    """
    second = image.astype(np.float64)
    for axis in (-2, -1):
        second = np.diff(second, n=2, axis=axis)
    # 36: the sum of the squared weights; half of normal values lie within 0.6745 standard deviations
    variance = float(np.median(np.abs(second)) / 0.6745) ** 2 / 36 if second.size else 0.0
    if variance == 0 or found == 0:
        return 1.0
    return float(np.sqrt(np.clip((2 * variance - found) / found, 0.0, 1.0)))


def _filled(
    noisy: NDArray[np.float32], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return patches (B, C, *space) with some values replaced by the mean of their neighbours, and which."""
    masked = rng.random(noisy.shape) < share
    masked.flat[rng.integers(masked.size)] = True  # at least one value
    kernel = np.ones((1, 1, *(3,) * (noisy.ndim - 2)))
    known = (~masked).astype(np.float32)
    # at the border, what lies beyond is a reflection
    total = ndimage.correlate(noisy * known, kernel, mode="reflect")
    count = ndimage.correlate(known, kernel, mode="reflect")
    return np.where(masked & (count > 0), total / np.maximum(count, 1), noisy).astype(np.float32), masked
