"""How members move along their gradients: Muon on the trunk's kernels, Adam elsewhere, one cycle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from napari_btn.core.config import TrainSettings

__all__ = ["Optimiser", "one_cycle"]

_DECAY = 0.1  # decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101)


def one_cycle(step: int, settings: TrainSettings) -> float:
    """Learning rate: a cosine rise over the first 15 %, a cosine fall over the rest.

    References
    ----------
    Smith & Topin, arXiv 1708.07120.
    """
    at, rise = (step + 0.5) / settings.steps, 0.15
    if at < rise:
        return settings.learning_rate * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * at / rise)))
    fall = (at - rise) / (1 - rise)
    return settings.learning_rate * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * fall)))


class Optimiser:
    """Muon on the trunk's kernels, Adam on everything else; its state is a dict of tensors.

    References
    ----------
    Jordan et al., "Muon" (2024), https://kellerjordan.github.io/posts/muon/; Kingma & Ba, arXiv 1412.6980.
    """

    def __init__(self, module: torch.nn.Module, moments: Mapping[str, Any]) -> None:
        self.named = [(n, p) for n, p in module.named_parameters()]
        self.moments: dict[str, torch.Tensor] = {k: torch.from_numpy(v.copy()) for k, v in moments.items()}

    @torch.no_grad()
    def step(self, rate: float, step: int) -> None:
        """Move every parameter along its gradient and clear that; ``step`` counts from 0."""
        for name, p in self.named:
            if p.grad is None:
                continue
            g = p.grad
            if not name.endswith("_bias"):
                p.mul_(1 - rate * _DECAY)
            if name.startswith("trunk.") and name.endswith("_weight"):
                m = self.moments.setdefault(f"{name}/m", torch.zeros_like(p))
                m.mul_(0.95).add_(g)
                update = orthogonalised((g + 0.95 * m).flatten(2))
                p.add_(update.reshape(p.shape), alpha=-rate)
            else:
                m = self.moments.setdefault(f"{name}/m", torch.zeros_like(p))
                v = self.moments.setdefault(f"{name}/v", torch.zeros_like(p))
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.01)
                scale = math.sqrt(1 - 0.99 ** (step + 1)) / (1 - 0.9 ** (step + 1))
                p.addcdiv_(m, v.sqrt().add_(1e-8), value=-rate * scale)
            p.grad = None


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of (M, rows, columns), by five Newton-Schulz iterations."""
    x = matrix / matrix.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.mT
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    nearest: torch.Tensor = x if wide else x.mT
    return nearest
