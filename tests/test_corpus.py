"""The corpus of pretrained members: made from seeds, endless, and of all the kinds that it promises."""

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.samples.corpus import Corpus, _Exposure
from napari_btn.samples.scenes import draw_scene


@pytest.mark.parametrize(("channels", "ndim"), [(1, 2), (3, 2), (1, 3)])
def test_a_batch_depends_on_the_seed_and_its_number_alone(channels, ndim):
    corpus = Corpus(channels, ndim, "mixed", seed=4)
    x, y = corpus.batch(7)
    again = Corpus(channels, ndim, "mixed", seed=4)
    again.batch(2)
    np.testing.assert_array_equal(again.batch(7)[0], x)
    np.testing.assert_array_equal(again.batch(7)[1], y)
    assert x.shape == y.shape
    assert x.shape[1] == channels
    assert x.ndim == ndim + 2
    assert x.dtype == y.dtype == np.float32
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()
    assert not np.array_equal(Corpus(channels, ndim, "mixed", seed=5).batch(7)[0], x)


def test_scenes_have_a_mean_of_one_and_are_not_negative():
    rng = np.random.default_rng(0)
    for _ in range(12):
        scene = draw_scene(rng, (61, 70), 2)
        assert scene.shape == (2, 61, 70)
        assert scene.min() >= 0
        np.testing.assert_allclose(scene.mean((1, 2)), 1, rtol=1e-3)


def test_counts_span_what_a_microscope_gives():
    rng = np.random.default_rng(0)
    scene = np.ones((1, 8, 8), np.float32)
    scene[:, 4:] = 2
    doses = np.array([float(_Exposure.draw(scene, rng, grainy=False).dose.item()) for _ in range(400)])
    assert doses.min() >= 0.003
    assert doses.max() <= 1000
    # log-uniform: a third of them in each third of the decades, SD sqrt(.22 / 400) = .024
    thirds = np.histogram(np.log10(doses), np.linspace(np.log10(0.003), 3, 4))[0] / 400
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.1)


def _lag_one(noise):
    noise = noise - noise.mean()
    return float((noise[:, 1:] * noise[:, :-1]).mean() / noise.var())


@pytest.mark.parametrize("grainy", [False, True])
def test_noise_is_correlated_only_where_asked(grainy):
    rng = np.random.default_rng(1)
    scene = np.ones((1, 120, 120), np.float32)
    scene[:, :60] = 1.5
    lags = []
    for _ in range(8):
        noisy, clean = _Exposure.draw(scene, rng, grainy=grainy).noisy(scene, rng)
        lags.append(_lag_one((noisy - clean)[0]))
    # the SD of one lag of white noise is 1 / 120
    assert min(lags) > 0.05 if grainy else max(map(abs, lags)) < 0.05


def test_channels_share_structure():
    rng = np.random.default_rng(2)
    alike = []
    for _ in range(12):
        scene = draw_scene(rng, (80, 80), 2)
        alike.append(abs(np.corrcoef(scene.reshape(2, -1))[0, 1]))
    # independent scenes correlate by about .1
    assert np.mean(alike) > 0.3


def test_clean_images_take_the_place_of_scenes():
    image = np.zeros((1, 90, 100), np.float32)
    image[:, 20:40, 30:70] = 5
    corpus = Corpus(1, 2, "white", 0, (image,))
    scene = corpus.scene(0)
    assert scene.shape == (1, 90, 100)
    np.testing.assert_allclose(scene.mean(), 1, rtol=1e-5)
    assert set(np.unique(scene > 0)) == {False, True}
    assert corpus.batch(0)[0].shape == (8, 1, 56, 56)


def test_nothing_of_the_samples_is_in_it():
    """No scene correlates with a sample as a copy of it would."""
    corpus = Corpus(1, 2, "mixed", 2026)
    shown = samples.blobs(seed=0, n=4, size=64).clean
    for i in range(12):
        scene = corpus.scene(i)[0][:64, :64]
        for blob in shown:
            assert abs(np.corrcoef(scene.ravel(), blob.ravel())[0, 1]) < 0.9


def test_what_can_not_be_is_refused():
    with pytest.raises(ValueError, match="grain is 'pink'; it must be"):
        Corpus(grain="pink")
    with pytest.raises(ValueError, match="ndim is 4; it must be 2 or 3"):
        Corpus(ndim=4)
