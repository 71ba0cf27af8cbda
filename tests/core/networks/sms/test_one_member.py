import numpy as np
import pytest
import torch
from torch.nn import functional as F

from napari_btn.core.networks.family import Blueprint, build
from napari_btn.core.networks.heads import Ensemble
from napari_btn.core.networks.pinball import noncrossing_pinball, quantiles_from_raw
from napari_btn.core.networks.sms.family import Schedule
from napari_btn.core.networks.sms.graph import Graph
from napari_btn.core.networks.sms.one_member import Layers, _weight_gradient, sparse_hidden
from napari_btn.core.settings import NetworkSettings
from napari_btn.core.training.tasks import pinball

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def member(ndim: int, n_in: int, dilations: tuple[int, ...], flat: tuple[bool, ...] = ()) -> Ensemble:
    settings = NetworkSettings(depth=len(dilations), dilations=dilations)
    blueprint = Blueprint(settings, Schedule(dilations, flat), n_in, 2, ndim, LEVELS, seed=3)
    module = build(blueprint, [(0, 0)])
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(0.2 * rng.standard_normal(parameter.shape)))
    return module


def batch(ndim: int, n_in: int, side: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    shape = (count, n_in, *(side,) * ndim)
    return tuple(
        torch.from_numpy(rng.standard_normal((shape[0], c, *shape[2:])).astype(np.float32)) for c in (n_in, 2)
    )


def gradients(module: Ensemble, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


def autograd_loss(module: Ensemble, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # an input that wants its gradient takes the way that autograd differentiates
    q = module.forward_scaled(x.clone().requires_grad_())
    return pinball(q, y, LEVELS).sum()


@pytest.mark.parametrize(
    ("ndim", "n_in", "side", "count", "dilations"),
    [
        (2, 3, 64, 9, (1, 2, 3, 8, 1)),
        (2, 1, 21, 2, (1, 4, 8)),
        (2, 7, 20, 2, (1, 2, 3, 1)),
        (2, 3, 5, 2, (1, 8, 3)),
        (3, 1, 12, 2, (1, 2, 4)),
        (3, 2, 9, 1, (2, 1, 3, 1)),
    ],
)
def test_hand_written_gradients_equal_autograds(ndim, n_in, side, count, dilations) -> None:
    module = member(ndim, n_in, dilations)
    x, y = batch(ndim, n_in, side, count)
    expected_loss = autograd_loss(module, x, y)
    expected = gradients(module, expected_loss)
    loss = module.loss(x, y)
    got = gradients(module, loss)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-8)
        assert ((got[name] - gradient).abs().max() / scale).item() < 1e-4, name


def test_gradients_of_kernels_of_one_plane_equal_autograds() -> None:
    module = member(3, 2, (1, 3, 2), (False, True, True))
    x, y = batch(3, 2, 11, 2)
    expected = gradients(module, autograd_loss(module, x, y))
    got = gradients(module, module.loss(x, y))
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp_min(1e-8)
        assert ((got[name] - gradient).abs().max() / scale).item() < 1e-4, name


def test_several_members_loss_is_the_sum_of_theirs() -> None:
    dilations = (1, 2, 3)
    settings = NetworkSettings(depth=3, dilations=dilations)
    blueprint = Blueprint(settings, Schedule(dilations), 3, 2, 2, LEVELS, seed=3)
    both = build(blueprint, [(0, 0), (1, 0)])
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for parameter in both.parameters():
            parameter.copy_(torch.from_numpy(0.2 * rng.standard_normal(parameter.shape)))
    x, y = batch(2, 3, 16, 2)
    each = pinball(both.forward_scaled(x), y, LEVELS)
    assert both.loss(x, y).item() == pytest.approx(each.sum().item(), rel=1e-5)


def test_unknown_targets_count_neither_in_the_loss_nor_in_its_gradients() -> None:
    module = member(2, 3, (1, 2))
    x, y = batch(2, 3, 16, 2)
    y[0, 0, :5] = float("nan")
    expected_loss = autograd_loss(module, x, y)
    expected = gradients(module, expected_loss)
    got_loss = module.loss(x, y)
    got = gradients(module, got_loss)
    assert got_loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, atol=1e-6, rtol=1e-4), name


@pytest.mark.parametrize("levels", [(0.5,), (0.05, 0.5), (0.5, 0.9, 0.95), (0.05, 0.5, 0.95), LEVELS])
def test_noncrossing_pinball_at_any_levels(levels: tuple[float, ...]) -> None:
    rng = np.random.default_rng(2)
    raw = torch.from_numpy(rng.standard_normal((2, len(levels), 50)).astype(np.float32)).requires_grad_()
    target = torch.from_numpy(rng.standard_normal((2, 50)).astype(np.float32))
    middle = levels.index(0.5)
    expected = pinball(quantiles_from_raw(raw[None], middle)[:, None], target[None], levels).sum()
    (expected_gradient,) = torch.autograd.grad(expected, raw)
    got = noncrossing_pinball(raw, target, levels, middle)
    (gradient,) = torch.autograd.grad(got, raw)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-7)


@pytest.mark.parametrize("kernel", [(3,), (3, 3), (1, 3, 3), (3, 3, 1), (5, 3)])
def test_weight_gradient_of_any_odd_kernel(kernel: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    space = (11, 9, 10)[: len(kernel)]
    x = torch.from_numpy(rng.standard_normal((2, 3, *space)).astype(np.float32))
    weight = torch.zeros((4, 3, *kernel), requires_grad=True)
    conv = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 1]
    out = conv(x, weight, None, 1, tuple(2 * (k // 2) for k in kernel), 2)
    grad = torch.from_numpy(rng.standard_normal(out.shape).astype(np.float32))
    (expected,) = torch.autograd.grad(out, weight, grad)
    rows = (v.movedim(1, -1).contiguous() for v in (grad, x))
    assert torch.allclose(_weight_gradient(*rows, kernel, 2), expected, atol=1e-3, rtol=1e-4)


def test_one_dimensional_signals_too() -> None:
    module = member(1, 2, (1, 2, 4))
    x, y = batch(1, 2, 30, 2)
    expected = gradients(module, autograd_loss(module, x, y))
    got = gradients(module, module.loss(x, y))
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, atol=1e-5, rtol=1e-3), name


def test_hidden_layer_needs_no_gradient_of_its_input() -> None:
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((1, 8, 8, 4)).astype(np.float32))
    kernel = torch.from_numpy(rng.standard_normal((16, 4, 3, 3)).astype(np.float32)).requires_grad_()
    bias, head = torch.zeros(16), torch.ones(2, 16)
    made = sparse_hidden(x, Graph(((0,),), (1,)), 4, Layers([kernel], [bias], [head], torch.zeros(2)))
    made.sum().backward()
    assert kernel.grad is not None
