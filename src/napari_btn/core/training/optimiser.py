"""Optimisers of members: Muon for the kernels of the trunk, Adam elsewhere, and the one-cycle schedule."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from napari_btn.core.settings import TrainSettings, VariationalSettings

__all__ = ["GroupOptimiser", "Optimiser", "bias_correction", "one_cycle"]

_DECAY = 0.1  # decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101)


def one_cycle(step: int, settings: TrainSettings | VariationalSettings) -> float:
    """Return the learning rate: a cosine rise over the first 15 % of the steps, a cosine fall over the rest.

    Parameters
    ----------
    step : int
        Step, counted from 0.
    settings : TrainSettings or VariationalSettings

    References
    ----------
    Smith & Topin, arXiv 1708.07120.
    """
    at, rise = (step + 0.5) / settings.steps, 0.15
    if at < rise:
        return settings.learning_rate * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * at / rise)))
    fall = (at - rise) / (1 - rise)
    return settings.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * fall)))


def bias_correction(step: int) -> float:
    """Return the factor that corrects the bias of the moments of Adam.

    Parameters
    ----------
    step : int
        Step, counted from 0.

    References
    ----------
    Kingma & Ba, arXiv 1412.6980, section 3.
    """
    return math.sqrt(1 - 0.99 ** (step + 1)) / (1 - 0.9 ** (step + 1))


class Optimiser:
    """An optimiser: Muon for the kernels of the trunk, Adam for everything else.

    Parameters
    ----------
    module : torch.nn.Module
        A member.
    moments : mapping of str to ndarray
        State of an earlier optimiser; empty at the start.

    References
    ----------
    Jordan et al., "Muon" (2024), https://kellerjordan.github.io/posts/muon/; Kingma & Ba, arXiv 1412.6980.
    """

    def __init__(self, module: torch.nn.Module, moments: Mapping[str, Any]) -> None:
        self.named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.moments: dict[str, torch.Tensor] = {k: torch.from_numpy(v.copy()) for k, v in moments.items()}

    @torch.no_grad()
    def step(self, rate: float, step: int) -> None:
        """Move every parameter along its gradient, and clear the gradients.

        Parameters
        ----------
        rate : float
            Learning rate.
        step : int
            Step, counted from 0.
        """
        for name, p in self.named:
            if p.grad is None:
                continue
            g = p.grad
            if not name.endswith("_bias"):
                p.mul_(1 - rate * _DECAY)
            if name.startswith("trunk.") and name.endswith("_weight"):
                m = self.moments.setdefault(f"{name}/m", torch.zeros_like(p))
                m.mul_(0.95).add_(g)
                update = _orthogonalised((g + 0.95 * m).flatten(2))
                p.add_(update.reshape(p.shape), alpha=-rate)
            else:
                m = self.moments.setdefault(f"{name}/m", torch.zeros_like(p))
                v = self.moments.setdefault(f"{name}/v", torch.zeros_like(p))
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.01)
                p.addcdiv_(m, v.sqrt().add_(1e-8), value=-rate * bias_correction(step))
            p.grad = None


class GroupOptimiser:
    """An `Optimiser` of all members of a group, in a dozen kernels that never wait for the device.

    Parameters with the same update rule are stored side by side in memory, with their gradients and
    moments, so that one operation moves them all. The parameters of the module become views of them.

    Parameters
    ----------
    module : torch.nn.Module
        Members of the group, on their device.
    moments : mapping of str to Tensor
        State of an earlier optimiser, stacked along the members; empty at the start.
    """

    def __init__(self, module: torch.nn.Module, moments: Mapping[str, torch.Tensor]) -> None:
        trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        named = sorted(trained, key=lambda item: _treatment(item[0], item[1].shape))
        kernels = [(n, p) for n, p in named if _treatment(n, p.shape)[0] == 0]
        others = [(n, p) for n, p in named if _treatment(n, p.shape)[0] > 0]
        self._kernels, self._others = _side_by_side(kernels), _side_by_side(others)
        self._decayed = sum(p.numel() for n, p in others if _treatment(n, p.shape)[0] == 1)
        self._momentum = torch.zeros_like(self._kernels[0])
        self._first, self._second = (torch.zeros_like(self._others[0]) for _ in range(2))
        self.moments = _views(kernels, self._momentum, "m")
        self.moments |= _views(others, self._first, "m") | _views(others, self._second, "v")
        for name, value in moments.items():
            self.moments[name].copy_(value)
        self._alike: list[tuple[slice, torch.Size]] = []
        start = 0
        for shape in dict.fromkeys(p.shape for _, p in kernels):
            stop = start + sum(p.numel() for _, p in kernels if p.shape == shape)
            self._alike.append((slice(start, stop), shape))
            start = stop

    @torch.no_grad()
    def step(self, rate: torch.Tensor, correction: torch.Tensor) -> None:
        """Move every parameter along its gradient, and clear the gradients.

        Parameters
        ----------
        rate, correction : Tensor, ()
            Learning rate, and `bias_correction` of the step.
        """
        decay = 1 - rate * _DECAY
        values, gradient = self._kernels
        values.mul_(decay)
        self._momentum.mul_(0.95).add_(gradient)
        gradient.add_(self._momentum, alpha=0.95)
        for part, shape in self._alike:
            matrices = gradient[part].view(-1, shape[1], shape[2:].numel())
            values[part].sub_((_orthogonalised(matrices) * rate).reshape(-1))
        gradient.zero_()
        values, gradient = self._others
        values[: self._decayed].mul_(decay)
        self._first.lerp_(gradient, 0.1)
        self._second.lerp_(gradient * gradient, 0.01)
        values.sub_(self._first / self._second.sqrt().add_(1e-8) * (rate * correction))
        gradient.zero_()


def _treatment(name: str, shape: torch.Size) -> tuple[int, tuple[int, ...]]:
    """Return 0 for kernels of Muon, 1 for other weights, 2 for biases, which don't decay; and the shape."""
    if name.endswith("_bias"):
        return 2, ()
    return (0, tuple(shape)) if name.startswith("trunk.") and name.endswith("_weight") else (1, ())


def _side_by_side(named: list[tuple[str, torch.nn.Parameter]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Store values and gradients of parameters in one long tensor each, and make the parameters views."""
    values = torch.cat([p.detach().flatten() for _, p in named])
    gradients = torch.zeros_like(values)
    for (_, p), value, gradient in zip(
        named, _views(named, values, "").values(), _views(named, gradients, "").values(), strict=True
    ):
        p.data, p.grad = value, gradient
    return values, gradients


def _views(
    named: list[tuple[str, torch.nn.Parameter]], flat: torch.Tensor, moment: str
) -> dict[str, torch.Tensor]:
    """Return the parts of a long tensor in the shapes of parameters, by name and moment."""
    parts = flat.split([p.numel() for _, p in named])
    return {f"{n}/{moment}": part.view(p.shape) for (n, p), part in zip(named, parts, strict=True)}


def _orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrices, by five Newton-Schulz iterations."""
    # Jordan et al., "Muon" (2024), https://kellerjordan.github.io/posts/muon/
    x = matrix / matrix.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.mT
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    nearest: torch.Tensor = x if wide else x.mT
    return nearest
