"""The ladder of latent variables: its divergence, its field of view, and its independence of batches."""

import numpy as np
import pytest
import torch

from napari_btn.core.networks.vae import Ladder
from napari_btn.core.settings import VariationalSettings


def ladder(channels=1, ndim=2, *, grows=False, seed=0, **settings):
    made = Ladder(channels, ndim, VariationalSettings(**{"width": 6, "latent": 2} | settings))
    pixels = np.random.default_rng(seed).normal(3, 2, (channels, 500)).astype(np.float32)
    floor = np.full(channels, 1.0)
    made.start(pixels, floor, np.full(channels, grows), torch.Generator().manual_seed(seed))
    return made


def white(made, space, n=1, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn((n, made.latent, *size), generator=rng) for size in made.sizes(space)]


@pytest.mark.parametrize("seed", range(4))
def test_a_divergence_is_never_negative(seed):
    made = ladder(seed=seed, levels=3)
    for head in made.posterior:
        # means that hardly differ and standard deviations that do, where a wrong sign would show
        head.weight.data[: made.latent].mul_(0.01)
        head.weight.data[made.latent :].mul_(5)
    x = 2 * torch.randn((2, 1, 24, 40), generator=torch.Generator().manual_seed(seed)) + 3
    kl = made(x, white(made, (24, 40), 2)).kl
    assert len(kl) == 3
    assert all((one > 0).all() for one in kl)


def test_a_posterior_that_is_the_prior_has_no_divergence():
    made = ladder()
    for head in (*made.posterior, *made.prior):
        head.weight.data.zero_()
    # softplus(log(e - 1)) is one, but for the least standard deviation
    kl = made(torch.rand(1, 1, 16, 16), white(made, (16, 16))).kl
    np.testing.assert_allclose([one.item() for one in kl], 0, atol=1e-2)


def test_a_divergence_is_that_of_the_drawn_values():
    """The mean of log posterior minus log prior over draws is the divergence, here of a lone level."""
    made = ladder(levels=1)
    x = torch.randn((1, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    mean, raw = made.posterior[0](made.encode(x)[0]).chunk(2, 1)
    sd = torch.nn.functional.softplus(raw + 0.5413) + 1e-3
    posterior, prior = torch.distributions.Normal(mean, sd), torch.distributions.Normal(0.0, 1.0)
    want = torch.distributions.kl_divergence(posterior, prior).sum()
    np.testing.assert_allclose(made(x, white(made, (16, 16))).kl[0].item(), want.item(), rtol=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_pixel_depends_on_its_field_of_view_alone(levels):
    made = ladder(levels=levels)
    size = 2 * made.reach + 40
    x = torch.randn((1, 1, size, size), generator=torch.Generator().manual_seed(0), requires_grad=True)
    noise = white(made, (size, size))
    farthest = 0
    for at in range(made.reach + 8, made.reach + 8 + made.alignment):
        (gradient,) = torch.autograd.grad(made(x, noise).signal[0, 0, at, at], x)
        farthest = max(farthest, int((np.argwhere(gradient[0, 0].numpy() != 0) - at).__abs__().max()))
    assert 0.8 * made.reach <= farthest <= made.reach


@pytest.mark.parametrize(("ndim", "space"), [(2, (21, 34)), (3, (5, 18, 23))])
def test_an_image_is_the_same_in_any_batch(ndim, space):
    made = ladder(2, ndim)
    x = torch.randn((3, 2, *space), generator=torch.Generator().manual_seed(0))
    noise = white(made, space, 3)
    with torch.no_grad():
        together = made(x, noise)
        alone = [made(x[k : k + 1], [z[k : k + 1] for z in noise]) for k in range(3)]
    assert together.signal.shape == x.shape
    for k, one in enumerate(alone):
        torch.testing.assert_close(together.signal[k : k + 1], one.signal, rtol=1e-5, atol=1e-5)
        for a, b in zip(together.kl, one.kl, strict=True):
            torch.testing.assert_close(a[k : k + 1], b, rtol=1e-4, atol=1e-4)


def test_the_decoder_sees_the_image_through_the_latent_variables_alone():
    made = ladder()
    noise, images = (
        white(made, (24, 24)),
        torch.randn((2, 1, 1, 24, 24), generator=torch.Generator().manual_seed(0)),
    )
    one, other = (made(x, noise).signal for x in images)
    assert (one - other).abs().max() > 0.01
    for head in made.posterior:
        head.weight.data.zero_()
    one, other = (made(x, noise).signal for x in images)
    assert torch.equal(one, other)


@pytest.mark.parametrize("seed", range(3))
def test_draws_show_little_of_the_grid_of_cells(seed):
    made = ladder(levels=1, width=16, latent=6, seed=seed)
    x = torch.full((1, 1, 256, 256), 3.0)
    drawn = made(x, white(made, (256, 256), seed=seed)).signal[0, 0].detach().numpy()
    # differences of pixels of one cell, and of neighbouring cells; repeated cells would give about 6
    steps = np.square(np.diff(drawn, axis=0)).mean(1)
    assert steps[1::2].mean() < 4 * steps[::2].mean()


def test_light_is_never_negative_where_noise_grows_with_it():
    x = torch.full((1, 1, 16, 16), -50.0)
    assert ladder(grows=True)(x, white(ladder(), (16, 16))).signal.min() >= 1.0
    assert ladder(grows=False)(x, white(ladder(), (16, 16))).signal.min() < 1.0


def test_the_signal_begins_near_the_mean_of_the_image():
    for grows in (False, True):
        made = ladder(grows=grows)
        x = torch.full((1, 1, 32, 32), 3.0)
        assert abs(made(x, white(made, (32, 32))).signal.mean().item() - 3) < 1.0


def test_making_a_ladder_leaves_the_global_state_alone():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    ladder()
    assert torch.equal(torch.rand(3), want)
