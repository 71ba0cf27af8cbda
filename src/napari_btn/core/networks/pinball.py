"""Quantiles that never cross, made of unconstrained outputs, and their pinball loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ABSOLUTE",
    "SOFTPLUS",
    "grouped_pinball",
    "noncrossing_pinball",
    "quantiles_from_raw",
    "step_from_middle",
]


class _Steps(NamedTuple):
    """Map of unconstrained outputs to the steps between quantiles, which are never negative, and its slope."""

    made: Callable[[torch.Tensor], torch.Tensor]
    slope: Callable[[torch.Tensor], torch.Tensor]


SOFTPLUS = _Steps(F.softplus, torch.sigmoid)
# twice the output makes twice the step, as bias-free members need; a ReLU would, but learns no more once it is off
ABSOLUTE = _Steps(torch.abs, torch.sign)


def quantiles_from_raw(raw: torch.Tensor, middle: int, steps: _Steps = SOFTPLUS) -> torch.Tensor:
    """Return quantiles that never cross, along axis 2: the middle one plus cumulative steps.

    Parameters
    ----------
    raw : Tensor, (B, M * C, L, *space)
        Unconstrained outputs.
    middle : int
        Index of the median among the L levels.
    steps : Steps
        Map of outputs to steps.
    """
    centre = raw[:, :, middle : middle + 1]
    parts = [centre]
    if middle:
        below = steps.made(raw[:, :, :middle]).flip(2).cumsum(2).flip(2)
        parts.insert(0, centre - below)
    if middle + 1 < raw.shape[2]:
        parts.append(centre + steps.made(raw[:, :, middle + 1 :]).cumsum(2))
    return torch.cat(parts, 2)


def step_from_middle(raw: torch.Tensor, out: torch.Tensor, middle: int, steps: _Steps) -> None:
    """Write the quantiles of raw outputs as `quantiles_from_raw` does, without a gradient.

    Parameters
    ----------
    raw : Tensor, (L, ...)
        Unconstrained outputs.
    out : Tensor, (L, ...)
        Takes the quantiles.
    middle : int
        Index of the median.
    steps : Steps
        Map of outputs to steps.
    """
    out[middle] = raw[middle]
    below, above = steps.made(raw[:middle]), steps.made(raw[middle + 1 :])
    for level in range(middle - 1, -1, -1):
        torch.sub(out[level + 1], below[level], out=out[level])
    for level in range(middle + 1, len(raw)):
        torch.add(out[level - 1], above[level - middle - 1], out=out[level])


class _NoncrossingPinball(torch.autograd.Function):
    """Pinball loss of non-crossing quantiles; the forward pass computes the gradient as well."""

    @staticmethod
    def forward(
        ctx: Any,
        raw: torch.Tensor,
        target: torch.Tensor,
        levels: tuple[float, ...],
        middle: int,
        how: _Steps,
        top: torch.Tensor | None,
    ) -> torch.Tensor:
        known = torch.isfinite(target)
        every = bool(known.all())
        if not every:
            target = torch.where(known, target, 0.0)
        steps = how.made(raw)
        grad = torch.empty_like(raw)
        total = raw.new_zeros(())
        order = [middle, *range(middle - 1, -1, -1), *range(middle + 1, len(levels))]
        for level in order:
            if level in (middle, middle + 1):
                residual = target - raw[:, middle]
            if level != middle:
                residual.add_(steps[:, level], alpha=1.0 if level < middle else -1.0)
            slope = (residual < 0).to(raw.dtype).sub_(levels[level])
            if not every:
                slope.mul_(known)
            if top is not None:
                # a quantile at or above the saturation explains every value: Powell's min(quantile, top)
                slope.mul_(residual > target - top)
            total -= torch.dot(slope.flatten(), residual.flatten())
            grad[:, level] = slope
        _through_steps(grad, how.slope(raw), middle)
        count = float(known.sum()) * len(levels)
        ctx.save_for_backward(grad.div_(max(count, 1.0)))
        return total / max(count, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0], None, None, None, None, None


def _through_steps(grad: torch.Tensor, slope: torch.Tensor, middle: int) -> None:
    """Turn gradients by the quantiles (C, L, N) into gradients by the raw outputs, in place; steps have this slope."""
    for level in range(1, middle):
        grad[:, level] += grad[:, level - 1]
    for level in range(grad.shape[1] - 2, middle, -1):
        grad[:, level] += grad[:, level + 1]
    # the median moves every quantile; a step moves those beyond it
    if middle:
        grad[:, middle] += grad[:, middle - 1]
    if middle + 1 < grad.shape[1]:
        grad[:, middle] += grad[:, middle + 1]
    grad[:, :middle].mul_(slope[:, :middle]).neg_()
    grad[:, middle + 1 :].mul_(slope[:, middle + 1 :])


def noncrossing_pinball(
    raw: torch.Tensor,
    target: torch.Tensor,
    levels: tuple[float, ...],
    middle: int,
    steps: _Steps = SOFTPLUS,
    top: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean pinball loss of one member, of unconstrained outputs whose quantiles can't cross.

    Parameters
    ----------
    raw : Tensor, (C, L, N), float32
        The median at ``middle``; elsewhere the outputs of the steps away from it.
    target : Tensor, (C, N), float32
        NaN targets don't count.
    levels : tuple of float
        Quantile levels, rising.
    middle : int
        Index of the median.
    steps : Steps
        Map of outputs to steps.
    top : Tensor, (C, 1), optional
        Saturation: targets there are lower bounds, and quantiles above it are neither right nor wrong.

    References
    ----------
    Koenker & Bassett, Econometrica 46 (1978) 33; Powell, Journal of Econometrics 32 (1986) 143, for ``top``.
    """
    made: torch.Tensor = _NoncrossingPinball.apply(raw, target, levels, middle, steps, top)  # type: ignore[no-untyped-call]
    return made


def grouped_pinball(
    quantiles: torch.Tensor,
    target: torch.Tensor,
    levels: torch.Tensor,
    known: torch.Tensor,
    top: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean pinball loss (M,) of each member on its own targets.

    Parameters
    ----------
    quantiles : Tensor, (B, M, C, L, N), float32
    target : Tensor, (B, M, C, N), float32
        Any finite value where it doesn't count.
    levels : Tensor, (L,), float32
    known : Tensor, (B, M, C, N), float32
        1 where a target counts, else 0.
    top : Tensor, (C, 1), optional
        Saturation: targets there are lower bounds, and quantiles above it are neither right nor wrong.

    References
    ----------
    Koenker & Bassett, Econometrica 46 (1978) 33; Powell, Journal of Econometrics 32 (1986) 143, for ``top``.
    """
    residual = target[:, :, :, None] - quantiles
    # one multiplication a value: its slope is the level above the quantile and level - 1 below
    slope = (levels[:, None] - (residual < 0).to(residual.dtype)).detach() * known[:, :, :, None]
    if top is not None:
        slope = slope * (quantiles < top[:, None]).to(slope.dtype)
    count = known.sum((0, 2, 3)) * len(levels)
    return (slope * residual).sum((0, 2, 3, 4)) / count.clamp_min(1)
