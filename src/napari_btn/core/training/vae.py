"""Training of the variational model: the evidence lower bound under a noise model, on noisy images alone."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_btn.core.compute.device import exact_arithmetic
from napari_btn.core.compute.pool import one_thread
from napari_btn.core.data.image import Box
from napari_btn.core.networks.vae import Ladder
from napari_btn.core.progress import Progress
from napari_btn.core.training.optimiser import one_cycle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_btn.core.data.image import View
    from napari_btn.core.data.noise_models import NoiseModel
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import VariationalSettings

__all__ = ["log_likelihood", "train_ladder_steps", "training_cost"]

_YIELD_S = 0.3
_STEP = 0.02  # of a derivative by the signal, in standard deviations of the noise
_LARGEST_NORM = 5.0  # of a gradient
_SCALED_ON = 16  # patches that scaling is measured on


@dataclass(frozen=True, eq=False)
class _TrainedLadder:
    """Result of a training.

    Parameters
    ----------
    weights : dict
        Of the ladder, by name.
    bound : tuple of float
        Lower bound of the log evidence at each step, in nats per value of the image.
    kl : tuple of float
        Mean divergence of the latent variables of each level over the last tenth of the steps, in nats per value.
    """

    weights: dict[str, NDArray[np.float32]]
    bound: tuple[float, ...]
    kl: tuple[float, ...]


class _LogLikelihood(torch.autograd.Function):
    """Log likelihood of observed values under a noise model, with its derivative by the signal."""

    @staticmethod
    def forward(
        ctx: Any, signal: torch.Tensor, observed: torch.Tensor, noise_model: NoiseModel
    ) -> torch.Tensor:
        """Ask the noise model a small step below and above each signal."""
        at, seen = (t.detach().cpu().numpy().astype(np.float64) for t in (signal, observed))
        values, slopes = np.empty_like(at), np.empty_like(at)
        for c in range(at.shape[1]):
            mean, floor = at[:, c], noise_model.offset[c]
            sd = np.sqrt(noise_model.variance(mean, c))
            step = _STEP * np.maximum(sd, 1e-3 * sd.max())
            # no light is negative, and the likelihood of less than none is not defined
            low = np.where(mean > floor, np.maximum(mean - step, (mean + floor) / 2), mean - step)
            high = mean + step
            below, above = (noise_model.log_likelihood(seen[:, c], s, c) for s in (low, high))
            values[:, c], slopes[:, c] = (below + above) / 2, (above - below) / (high - low)
        ctx.save_for_backward(signal.new_tensor(slopes))
        return signal.new_tensor(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient by the signal."""
        (slopes,) = ctx.saved_tensors
        return gradients[0] * slopes, None, None


def log_likelihood(signal: torch.Tensor, observed: torch.Tensor, noise_model: NoiseModel) -> torch.Tensor:
    """Return the log probability density of observed values, differentiable by the signal.

    The noise model is asked as it is, whatever its law: no second form of it can differ from the first.

    Parameters
    ----------
    signal, observed : Tensor, (B, C, *space)
        In the unit of the image.
    noise_model : NoiseModel
    """
    made: torch.Tensor = _LogLikelihood.apply(signal, observed, noise_model)  # type: ignore[no-untyped-call]
    return made


def train_ladder_steps(
    view: View, noise_model: NoiseModel, settings: VariationalSettings, *, seed: int = 0, device: str = "cpu"
) -> Step[_TrainedLadder]:
    """Train a ladder on a noisy image; a step.

    Parameters
    ----------
    view : View
        Noisy image without NaN and infinite values; all scenes.
    noise_model : NoiseModel
        Independent noise of each channel.
    settings : VariationalSettings
    seed : int
    device : str
        Name of the device in torch.

    Raises
    ------
    ArithmeticError
        If the bound is not finite.

    References
    ----------
    Prakash, Krull and Jug, "Fully unsupervised diversity denoising with convolutional variational autoencoders"
    (DivNoising), ICLR 2021, arXiv 2006.06072.
    """
    trainer = _Trainer(view, noise_model, settings, seed, device)
    began = 0.0
    for step in range(settings.steps):
        if time.perf_counter() - began > _YIELD_S:
            began = time.perf_counter()
            yield Progress(step, settings.steps, "Training the variational model", losses=trainer.fresh(step))
        with one_thread(), exact_arithmetic():
            trainer.step(step)
    yield Progress(settings.steps, settings.steps, "Trained", losses=trainer.fresh(settings.steps))
    return trainer.trained()


def training_cost(view: View, settings: VariationalSettings) -> tuple[float, int]:
    """Return seconds and bytes of a training on one core, to a factor of about two.

    Parameters
    ----------
    view : View
        Noisy image, whose values are not read.
    settings : VariationalSettings
    """
    count, sides = _patches(view, settings)
    ladder = Ladder(view.n_channels, view.ndim, settings)
    pixels = count * math.prod(sides)
    # forward and backward; a core does about 3e10 of these a second. A likelihood takes about a microsecond
    seconds = 4 + settings.steps * pixels * (6 * ladder.multiplications / 3e10 + 1e-6 * view.n_channels)
    return seconds, int(350_000_000 + 4 * pixels * 24 * settings.width)


def _patches(view: View, settings: VariationalSettings) -> tuple[int, list[int]]:
    """Return number and sides of the patches of a step; those of volumes have about as many values."""
    if view.ndim == 2:
        return settings.batch_size, [min(settings.patch_px, n) for n in view.space]
    return max(settings.batch_size // 4, 1), [min(settings.patch_px // 2, n) for n in view.space]


class _Trainer:
    """A ladder in training, and the patches that it sees."""

    def __init__(
        self, view: View, noise_model: NoiseModel, settings: VariationalSettings, seed: int, device: str
    ) -> None:
        self.view, self.noise_model, self.settings, self.device = view, noise_model, settings, device
        self.rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        self.count, self.sides = _patches(view, settings)
        self.ladder = Ladder(view.n_channels, view.ndim, settings)
        generator = torch.Generator().manual_seed(int(self.rng.integers(2**31)))
        grows = (noise_model.gain > 0) | (noise_model.multiplicative > 0)
        pixels = np.concatenate([self._patch().reshape(view.n_channels, -1) for _ in range(_SCALED_ON)], 1)
        self.ladder.start(pixels, noise_model.offset, grows, generator)
        self.ladder.to(device)
        self.optimiser = torch.optim.Adamax(self.ladder.parameters(), settings.learning_rate)
        self.bounds: list[float] = []
        self.divergences: list[list[float]] = []
        self._told = 0

    def step(self, step: int) -> None:
        """Take one step of the optimiser."""
        settings = self.settings
        batch = np.stack([self._turned(self._patch()) for _ in range(self.count)])
        x = torch.as_tensor(batch, device=self.device)
        noise = [
            torch.as_tensor(
                self.rng.standard_normal((self.count, self.ladder.latent, *size), np.float32),
                device=self.device,
            )
            for size in self.ladder.sizes(x.shape[2:])
        ]
        passed = self.ladder(x, noise)
        likely = log_likelihood(passed.signal, x, self.noise_model).mean()
        kl = torch.stack([one.sum() for one in passed.kl]) / x.numel()
        ramp = settings.warm_up * settings.steps
        weight = min((step + 1) / ramp, 1.0) if ramp else 1.0
        for group in self.optimiser.param_groups:
            group["lr"] = one_cycle(step, settings)
        self.optimiser.zero_grad()
        (weight * kl.sum() - likely).backward()
        torch.nn.utils.clip_grad_norm_(self.ladder.parameters(), _LARGEST_NORM)
        self.optimiser.step()
        bound = float((likely - kl.sum()).detach())
        if not math.isfinite(bound):
            raise ArithmeticError(f"The bound is {bound} at step {step}; lower the learning rate.")
        self.bounds.append(bound)
        self.divergences.append(kl.detach().tolist())

    def fresh(self, step: int) -> tuple[tuple[int, int, float], ...]:
        """Return the losses (minus bounds) of the steps that were not told yet, as (0, step, loss)."""
        told, self._told = self._told, step
        return tuple((0, k, -self.bounds[k]) for k in range(told, step))

    def trained(self) -> _TrainedLadder:
        """Return weights, bounds and divergences."""
        last = self.divergences[-max(len(self.divergences) // 10, 1) :]
        weights = {
            n: v.detach().cpu().contiguous().numpy().copy() for n, v in self.ladder.state_dict().items()
        }
        return _TrainedLadder(weights, tuple(self.bounds), tuple(np.mean(last, 0).tolist()))

    def _patch(self) -> NDArray[np.float32]:
        """Draw a patch of the image, (C, *space)."""
        scene = int(self.rng.integers(self.view.n_scenes))
        whole = Box(scene, tuple(slice(0, n) for n in self.view.space))
        return self.view.read(scene, whole.crop(self.sides, self.rng))

    def _turned(self, patch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a patch mirrored and, if it is square in Y and X, transposed at random."""
        for axis in range(1, patch.ndim):
            if self.rng.random() < 0.5:
                patch = np.flip(patch, axis)
        if patch.shape[-1] == patch.shape[-2] and self.rng.random() < 0.5:
            patch = patch.swapaxes(-1, -2)
        return patch
