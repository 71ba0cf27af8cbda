"""Classical filters: what they find with and without clean data, in which units, and where values are missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_btn.core.data.image import Box, View
from napari_btn.core.data.noise_models import NoiseModel
from napari_btn.core.data.pairs import Pair
from napari_btn.core.evaluation.classical import (
    _filter_names,
    filled,
    filter_steps,
    hidden_loss,
    hide,
    straight_line,
)
from napari_btn.core.progress import drain


def scene(shape, smooth=4.0, seed=0):
    """A smooth image of unit variance."""
    x = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return (x / x.std()).astype(np.float32)


def noisy_of(clean, sd=0.7, seed=1):
    return (clean + np.random.default_rng(seed).normal(0, sd, clean.shape)).astype(np.float32)


def error(made, clean):
    return float(np.mean((made - clean) ** 2))


def filtered(noisy, axes, names, **more):
    return {f.name: f for f in drain(filter_steps(View(noisy, axes), names=names, **more))}


@pytest.mark.parametrize(("axes", "shape"), [("YX", (71, 90)), ("ZYX", (14, 27, 30))])
def test_every_filter_removes_most_of_the_noise_without_clean_data(axes, shape):
    clean = scene(shape, 4.0 if len(shape) == 2 else 3.0)
    noisy = noisy_of(clean)
    made = filtered(noisy, axes, None)
    assert tuple(made) == _filter_names(len(shape))
    for name, f in made.items():
        assert f.image.shape == (1, 1, *shape)
        assert error(f.image[0, 0], clean) < 0.6 * error(noisy, clean), name
    assert made["total variation"].parameters[0].keys() == {"weight"}


def test_bm3d_beats_the_gaussian_on_edges_and_repeats_itself():
    pytest.importorskip("bm3d", reason="its licence forbids commercial use, so that the user installs it")
    clean = np.kron((np.indices((6, 7)).sum(0) % 2).astype(np.float32), np.ones((16, 16), np.float32))
    noisy = noisy_of(clean, 0.3)
    made = filtered(noisy, "YX", ("gaussian", "bm3d"))
    assert error(made["bm3d"].image[0, 0], clean) < 0.25 * error(made["gaussian"].image[0, 0], clean)
    np.testing.assert_array_equal(filtered(noisy, "YX", ("bm3d",))["bm3d"].image, made["bm3d"].image)


def test_parameters_without_clean_data_are_nearly_those_with_it():
    clean = scene((96, 110))
    noisy = noisy_of(clean)
    names = ("gaussian", "total variation", "wavelet")
    scenes = Pair(noisy, clean, "YX").scenes
    own = filtered(noisy, "YX", names)
    told = filtered(noisy, "YX", names, scenes=scenes, train=scenes.whole())
    for name in names:
        best = error(told[name].image[0, 0], clean)
        # some 600 hidden pixels choose among neighbours in the grid
        assert error(own[name].image[0, 0], clean) < 1.35 * best, name


def test_the_optimal_stationary_filter_beats_the_best_gaussian():
    clean = scene((96, 110)) + 0.5 * np.sin(np.arange(110) * 2 * np.pi / 6).astype(np.float32)
    noisy = noisy_of(clean, 1.0)
    scenes = Pair(noisy, clean, "YX").scenes
    made = filtered(noisy, "YX", ("gaussian", "wiener"), scenes=scenes, train=scenes.whole())
    assert error(made["wiener"].image[0, 0], clean) < 0.7 * error(made["gaussian"].image[0, 0], clean)


def test_results_are_in_the_unit_of_clean_and_of_noisy_without_it():
    clean = scene((60, 71)) + 2
    noisy = 100 * noisy_of(clean) + 500
    scenes = Pair(noisy, clean, "YX").scenes
    told = filtered(noisy, "YX", ("gaussian",), scenes=scenes, train=scenes.whole())["gaussian"].image
    assert straight_line(told[0, 0], clean) == pytest.approx((1, 0), abs=1e-3)
    own = filtered(noisy, "YX", ("gaussian",))["gaussian"].image
    assert np.mean(own) == pytest.approx(np.mean(noisy), rel=1e-3)


def test_a_noise_model_helps_where_noise_grows_with_the_signal():
    rng = np.random.default_rng(0)
    rate = np.exp(1.3 * scene((96, 96), 3.0)) * 3
    counts = rng.poisson(rate).astype(np.float32)
    noise = NoiseModel(*(np.array([v]) for v in (1.0, 0.0, 0.0, 1.0)))
    plain, stable = (
        error(filtered(counts, "YX", ("total variation",), **more)["total variation"].image[0, 0], rate)
        for more in ({}, {"noise": noise})
    )
    assert stable < 0.95 * plain


def test_tiles_join_and_missing_values_stay_missing_alone():
    clean = scene((300, 290), 3.0)
    noisy = noisy_of(clean)
    noisy[40:44, 50:60] = np.nan
    noisy[200, 270] = np.inf
    names = ("gaussian", "median", "wiener", "adaptive wiener")
    made = filtered(noisy, "YX", names)
    for name, f in made.items():
        np.testing.assert_array_equal(np.isfinite(f.image[0, 0]), np.isfinite(noisy))
        known = np.isfinite(noisy)
        assert error(f.image[0, 0][known], clean[known]) < 0.3, name
        whole = f.apply(filled(noisy[None]))[0]
        # in one piece; beside what is missing, tiles may see other neighbours
        far = ndimage.binary_erosion(known, iterations=30, border_value=1)
        np.testing.assert_allclose(f.image[0, 0][far], whole[far], atol=1e-3)


def test_channels_and_scenes_are_filtered_apart():
    clean = np.stack([scene((48, 50), 4.0), 10 * scene((48, 50), 1.5, 3)])
    noisy = np.stack([noisy_of(clean), noisy_of(clean, seed=5)])
    made = filtered(noisy, "SCYX", ("gaussian",))["gaussian"]
    assert made.image.shape == (2, 2, 48, 50)
    assert made.parameters[0]["sigma"] > made.parameters[1]["sigma"]
    alone = filtered(noisy[0], "CYX", ("gaussian",))["gaussian"].image
    np.testing.assert_allclose(made.image[0], alone[0], atol=1e-6)


def test_the_loss_at_hidden_pixels_is_the_error_plus_the_noise():
    clean = scene((200, 200))
    noisy = noisy_of(clean, 0.5)
    hidden, where = hide(noisy[None])
    assert (hidden[0] != noisy).sum() == np.prod(noisy[where].shape)
    loss = float(hidden_loss(noisy[None], 7 * clean[None] - 2, where)[0])
    # 2500 hidden pixels: the variance is known to 3 %
    assert loss == pytest.approx(0.25, rel=0.1)


def test_wrong_calls_are_refused():
    noisy = noisy_of(scene((20, 20)))
    with pytest.raises(ValueError, match="Filters are nonsense; for 2D images there are gaussian"):
        filtered(noisy, "YX", ("nonsense",))
    with pytest.raises(ValueError, match="no finite value"):
        filtered(np.full((20, 20), np.nan, np.float32), "YX", ("gaussian",))


def test_it_reports_progress_and_parts_of_the_image_train():
    clean = scene((40, 90))
    noisy = noisy_of(clean)
    scenes = Pair(noisy, clean, "YX").scenes
    train = [Box(0, (slice(0, 40), slice(0, 45)))]
    steps = filter_steps(scenes.noisy, names=("gaussian", "median"), scenes=scenes, train=train)
    seen = list(steps)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert {p.note for p in seen} == {
        "Tuning gaussian", "Filtering: gaussian", "Tuning median", "Filtering: median"
    }  # fmt: skip
