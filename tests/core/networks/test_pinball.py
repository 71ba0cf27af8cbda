"""Saturated targets in the pinball loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_btn.core.networks.pinball import grouped_pinball, noncrossing_pinball, quantiles_from_raw

LEVELS, MIDDLE = (0.1, 0.5, 0.9), 1


def _fitted(target: torch.Tensor, top: torch.Tensor | None) -> np.ndarray:
    """Return the constant quantiles that minimise the loss."""
    raw = torch.zeros(1, 3, 1, requires_grad=True)
    optimiser = torch.optim.Adam([raw], lr=0.03)
    for _ in range(600):
        optimiser.zero_grad()
        loss = noncrossing_pinball(raw.expand(1, 3, target.shape[1]), target, LEVELS, MIDDLE, top=top)
        loss.backward()
        optimiser.step()
    return quantiles_from_raw(raw.detach()[None], MIDDLE)[0, 0, :, 0].numpy()


def test_quantiles_below_the_saturation_are_those_of_the_whole_values() -> None:
    values = np.random.default_rng(0).normal(0, 1, 4000).astype(np.float32)
    # 30 % of the values are saturated: two levels lie below, the third above
    top = float(np.quantile(values, 0.7))
    target = torch.from_numpy(np.minimum(values, top))[None]
    made = _fitted(target, torch.tensor([[top]]))
    np.testing.assert_allclose(made[:2], np.quantile(values, LEVELS[:2]), atol=0.05)
    assert made[2] >= top - 0.02


def test_nothing_pushes_a_quantile_above_the_saturation() -> None:
    raw = torch.full((1, 3, 2), 3.0, requires_grad=True)
    target = torch.tensor([[1.0, 0.2]])
    noncrossing_pinball(raw, target, LEVELS, MIDDLE, top=torch.tensor([[-5.0]])).backward()
    assert raw.grad is not None
    assert (raw.grad == 0).all()


@pytest.mark.parametrize("top", [0.3, 100.0])
def test_the_gradient_is_that_of_autograd_through_the_grouped_loss(top: float) -> None:
    rng = torch.Generator().manual_seed(1)
    raw = torch.randn(2, 3, 40, generator=rng, requires_grad=True)
    target = torch.minimum(torch.randn(2, 40, generator=rng), torch.tensor(top))
    tops = torch.full((2, 1), top)
    noncrossing_pinball(raw, target, LEVELS, MIDDLE, top=tops).backward()
    own = raw.grad.clone()
    raw.grad = None
    quantiles = quantiles_from_raw(raw[None], MIDDLE)[:, None]
    known = torch.ones(1, 1, 2, 40)
    loss = grouped_pinball(quantiles, target[None, None], torch.tensor(LEVELS), known, top=tops)
    loss.sum().backward()
    torch.testing.assert_close(own, raw.grad)
    if top > 50:
        raw.grad = None
        noncrossing_pinball(raw, target, LEVELS, MIDDLE).backward()
        torch.testing.assert_close(own, raw.grad)
