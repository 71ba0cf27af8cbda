"""Training of the variational model: its likelihood, its bound, and what it learns of a toy."""

import numpy as np
import pytest
import torch

from napari_btn import NoiseModel
from napari_btn.core.data.image import View
from napari_btn.core.data.recorded_noise import MixtureNoise
from napari_btn.core.networks.vae import Ladder
from napari_btn.core.progress import drain
from napari_btn.core.settings import VariationalSettings
from napari_btn.core.training.vae import log_likelihood, train_ladder_steps

TINY = VariationalSettings(steps=12, levels=2, width=6, latent=2, batch_size=2, patch_px=16)


def image(seed=0, space=(40, 52)):
    rng = np.random.default_rng(seed)
    return rng.poisson(4 + 3 * np.sin(np.indices(space)[0] / 5)).astype(np.float32)


MIXTURE = MixtureNoise(
    [0.0, 8.0], [[0.7, 0.3], [0.5, 0.5]], [[-0.3, 0.7], [-1.0, 1.0]], [[0.5, 1.0], [1.0, 1.5]]
)
MODELS = {
    "normal": NoiseModel(gain=0, read_sd=1.3),
    "camera": NoiseModel(gain=0.5, read_sd=2.0, multiplicative=0.01),
    "counts": NoiseModel(gain=1.0),
    "counts and read-out": NoiseModel(gain=1.0, read_sd=0.5),
    "mixture": NoiseModel.from_recorded(MIXTURE),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_likelihood_is_that_of_the_noise_model_with_its_slope(name):
    model = MODELS[name]
    rng = np.random.default_rng(0)
    signal = rng.uniform(0.3, 12, (2, 1, 5, 7))
    seen = (
        np.round(signal + rng.normal(0, 1, signal.shape))
        if "counts" in name
        else signal + rng.normal(0, 1, signal.shape)
    )
    seen = np.maximum(seen, 0)
    at = torch.tensor(signal, requires_grad=True)
    found = log_likelihood(at, torch.tensor(seen), model)
    found.sum().backward()
    np.testing.assert_allclose(
        found.detach().numpy()[:, 0], model.log_likelihood(seen[:, 0], signal[:, 0]), atol=2e-3
    )
    h = 1e-4
    above, below = (model.log_likelihood(seen[:, 0], signal[:, 0] + s * h) for s in (1, -1))
    np.testing.assert_allclose(at.grad.numpy()[:, 0], (above - below) / (2 * h), rtol=0.02, atol=0.02)


def test_a_likelihood_of_no_light_pulls_towards_light():
    signal = torch.tensor([[[[1e-4, 1e-6]]]], dtype=torch.float64, requires_grad=True)
    log_likelihood(signal, torch.full((1, 1, 1, 2), 2.0), NoiseModel(gain=1.0)).sum().backward()
    # 2 / s - 1, to the size of the step
    assert torch.isfinite(signal.grad).all()
    assert (signal.grad > 1e3).all()


def test_the_same_seed_gives_the_same_bits():
    view, model = View(image(), "YX"), NoiseModel(gain=1.0)
    one, same, other = (drain(train_ladder_steps(view, model, TINY, seed=s)) for s in (0, 0, 1))
    assert one.bound == same.bound != other.bound
    for name, value in one.weights.items():
        np.testing.assert_array_equal(value, same.weights[name])


def test_the_number_of_threads_does_not_matter():
    settings = VariationalSettings(steps=3, levels=2, width=16, latent=2, batch_size=8, patch_px=32)
    view, model, before = View(image(), "YX"), NoiseModel(gain=1.0), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(drain(train_ladder_steps(view, model, settings)).weights)
    finally:
        torch.set_num_threads(before)
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])


def test_training_can_be_stopped_and_says_how_far_it_is():
    step = train_ladder_steps(View(image(), "YX"), NoiseModel(gain=1.0), TINY)
    first = next(step)
    assert (first.done, first.total) == (0, 12)
    step.close()
    seen = [first]
    step = train_ladder_steps(View(image(), "YX"), NoiseModel(gain=1.0), TINY)
    seen = list(step)
    told = [at for progress in seen for _, at, _ in progress.losses]
    assert told == list(range(12))
    assert seen[-1].fraction == 1


def test_training_leaves_threads_and_the_global_state_alone():
    torch.manual_seed(3)
    want, threads = torch.rand(2), torch.get_num_threads()
    torch.manual_seed(3)
    drain(train_ladder_steps(View(image(), "YX"), NoiseModel(gain=1.0), TINY))
    assert torch.equal(torch.rand(2), want)
    assert torch.get_num_threads() == threads


SIDE, CELL, SD, FLAG_SD = 16, 8, 4.0, 1.0


def cells_of(images):
    """Return the means of the cells of images (..., SIDE, SIDE)."""
    return images.reshape(*images.shape[:-2], SIDE // CELL, CELL, SIDE // CELL, CELL).mean((-3, -1))


def toy_images(n, seed):
    """Return noisy images (n, 2, SIDE, SIDE) of cells, and their flags.

    The first channel of a flagged cell is normal with unit variance, that of others is zero; the second channel is the
    flag. The mean of the 64 noisy pixels of a flagged cell has a variance of a quarter beside that of the signal.
    """
    rng = np.random.default_rng(seed)
    flags = rng.integers(0, 2, (n, SIDE // CELL, SIDE // CELL))
    cells = np.stack([flags * rng.standard_normal(flags.shape), flags], 1)
    clean = cells.repeat(CELL, 2).repeat(CELL, 3)
    sd = np.array([SD, FLAG_SD])[:, None, None]
    return (clean + sd * rng.standard_normal(clean.shape)).astype(np.float32), flags == 1


@pytest.fixture(scope="module")
def toy():
    """Return a training on the toy, and draws of the first channel of fresh images with their cells and flags."""
    settings = VariationalSettings(
        steps=700, width=12, latent=3, batch_size=32, patch_px=16, learning_rate=0.01
    )
    noise_model = NoiseModel(gain=[0, 0], read_sd=[SD, FLAG_SD])
    trained = drain(train_ladder_steps(View(toy_images(2000, 0)[0], "SCYX"), noise_model, settings))
    made = Ladder(2, 2, settings)
    made.load_state_dict({k: torch.as_tensor(v) for k, v in trained.weights.items()})
    fresh, flags = toy_images(100, 1)
    rng = torch.Generator().manual_seed(0)
    x = torch.as_tensor(fresh)
    with torch.no_grad():
        draws = [
            made(
                x, [torch.randn((len(x), made.latent, *s), generator=rng) for s in made.sizes((SIDE, SIDE))]
            ).signal
            for _ in range(60)
        ]
    return trained, cells_of(torch.stack(draws)[:, :, 0].numpy()), cells_of(fresh[:, 0]), flags


def evidence(images):
    """Return the exact log evidence of images of the toy, in nats per value."""
    sd = np.array([SD, FLAG_SD])[:, None, None]
    zero = (-0.5 * (images / sd) ** 2 - np.log(sd * np.sqrt(2 * np.pi))).sum()
    signal, flag = np.moveaxis(cells_of(images), 1, 0)
    one, other = SD**2 / CELL**2, FLAG_SD**2 / CELL**2
    # of a flagged cell relative to one of zeros
    more = 0.5 * signal**2 * (1 / one - 1 / (1 + one)) - 0.5 * np.log(1 + 1 / one) + (flag - 0.5) / other
    return (zero + (np.logaddexp(0, more) - np.log(2)).sum()) / images.size


def test_the_bound_rises_and_stays_under_the_evidence(toy):
    bound = np.array(toy[0].bound)
    assert bound[-40:].mean() > bound[:10].mean() + 0.1
    exact = evidence(toy_images(2000, 0)[0].astype(np.float64))
    # the mean over 40 steps of 16384 values has an error of 0.001
    assert exact - 0.03 < bound[-40:].mean() < exact + 0.002


def test_the_mean_of_draws_is_near_the_known_posterior_mean(toy):
    _, draws, cells, flags = toy
    known, found = np.where(flags, cells / (1 + SD**2 / CELL**2), 0), draws.mean(0)
    assert np.corrcoef(found[flags], known[flags])[0, 1] > 0.95
    # nearer than the mean of the cell is
    assert np.mean((found - known) ** 2) < 0.4 * np.mean((cells - known) ** 2)


def test_draws_differ_where_data_are_ambiguous_and_agree_where_not(toy):
    _, draws, _, flags = toy
    apart = draws.std(0)
    known = 1 / np.sqrt(1 + CELL**2 / SD**2)
    assert 0.75 * known < apart[flags].mean() < 1.25 * known
    assert apart[~flags].mean() < 0.75 * apart[flags].mean()
