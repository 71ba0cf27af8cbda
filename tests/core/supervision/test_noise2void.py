"""Masked pixels: each is predicted once, without its own noise, and the same in any tile."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from napari_btn.core.data.image import View
from napari_btn.core.data.noise import correlated
from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import drain
from napari_btn.core.settings import SupervisionSettings, TrainSettings
from napari_btn.core.supervision.noise2void import NOISE2VOID, Mask, fitting_mask

WAYS = [
    SupervisionSettings(),
    SupervisionSettings(strategy="uniform", masked_pixel_percentage=20),
    SupervisionSettings(struct_n2v_axes="horizontal", struct_n2v_span=5),
    SupervisionSettings(struct_n2v_axes="cross", struct_n2v_span=3, strategy="uniform"),
    SupervisionSettings(struct_n2v_axes="square", struct_n2v_span=3),
]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("shape", [(23, 31), (7, 13, 18)])
def test_each_pixel_has_the_weight_one_in_one_look(settings, shape):
    blind = NOISE2VOID.seen(View(noise(*shape), "ZYX"[-len(shape) :]), settings)
    box = tuple(slice(2, n - 1) for n in shape)
    weights = np.stack([look.weight(0, box) for look in blind.looks])
    np.testing.assert_array_equal(weights.sum(0), 1)
    assert set(np.unique(weights)) == {0, 1}


@pytest.mark.parametrize("settings", WAYS)
@pytest.mark.parametrize("shape", [(2, 23, 31), (1, 7, 13, 18)])
def test_what_is_predicted_never_depends_on_the_pixel_and_its_mask(settings, shape):
    values = noise(*shape)
    other = values + 0
    at = tuple(n // 2 for n in shape[1:])
    half = settings.struct_n2v_span // 2
    hidden = {
        "none": [(0, 0)],
        "horizontal": [(0, s) for s in range(-half, half + 1)],
        "cross": [(0, s) for s in range(-half, half + 1)] + [(s, 0) for s in range(-half, half + 1)],
        "square": list(itertools.product(range(-half, half + 1), repeat=2)),
    }[settings.struct_n2v_axes]
    for y, x in hidden:
        other[(slice(None), *at[:-2], at[-2] + y, at[-1] + x)] += 100
    axes = "C" + "ZYX"[-len(at) :]
    here = tuple(slice(i, i + 1) for i in at)
    for first, second in zip(
        NOISE2VOID.seen(View(values, axes), settings).looks,
        NOISE2VOID.seen(View(other, axes), settings).looks,
        strict=True,
    ):
        if first.weight(0, here).item():
            np.testing.assert_array_equal(first.view.read(0), second.view.read(0))


@pytest.mark.parametrize("settings", WAYS)
def test_a_tile_sees_what_the_whole_image_sees(settings):
    blind = NOISE2VOID.seen(View(noise(2, 29, 37), "CYX"), settings, seed=3)
    for look in blind.looks[::3]:
        whole = look.view.read(0)
        for box in ((slice(0, 11), slice(5, 37)), (slice(8, 20), slice(9, 22))):
            np.testing.assert_array_equal(look.view.read(0, box), whole[(slice(None), *box)])


@pytest.mark.parametrize("settings", WAYS)
def test_only_masked_pixels_are_targets_and_their_inputs_come_from_beside(settings):
    noisy = noise(40, 48)
    scenes = NOISE2VOID.scenes(Pair(noisy), settings)
    train = TrainSettings(steps=50, batch_size=2, patch_px=24)
    train, lesson = drain(NOISE2VOID.lesson_steps(scenes, scenes.whole(), train, (), settings))
    assert train.augment == (settings.struct_n2v_axes == "none")
    x, y = lesson.draw(3, 24, np.random.default_rng(0))
    mask = Mask.of(settings, 2)
    known = np.isfinite(y)
    assert known.mean() == pytest.approx(1 / mask.phases, abs=0.04)
    assert len(mask.hidden) / mask.phases <= 0.34
    assert (x[known] != y[known]).all()
    assert np.isin(y[known], noisy).all()
    draws = [lesson.draw(1, 24, np.random.default_rng(s))[1] for s in range(4)]
    assert len({np.isfinite(d).tobytes() for d in draws}) > 1, "each draw has a mask of its own"


def test_the_median_is_that_of_the_unmasked_neighbourhood():
    values = noise(21, 25)
    blind = NOISE2VOID.seen(View(values, "YX"), SupervisionSettings())
    at = (10, 12)
    here = tuple(slice(i, i + 1) for i in at)
    (look,) = [one for one in blind.looks if one.weight(0, here).item()]
    masked = look.weight(0, (slice(0, 21), slice(0, 25)))[8:13, 10:15] > 0
    around = values[8:13, 10:15][~masked]
    assert look.view.read(0, here).item() == pytest.approx(np.median(around))


def test_unknown_pixels_neither_fill_nor_teach():
    noisy = noise(32, 36)
    noisy[10:14, 10:14] = np.nan
    scenes = NOISE2VOID.scenes(Pair(noisy, valid="finite"))
    _, lesson = drain(
        NOISE2VOID.lesson_steps(scenes, scenes.whole(), TrainSettings(batch_size=1, patch_px=24))
    )
    x, _ = lesson.draw(8, 24, np.random.default_rng(0))
    assert np.isfinite(x).all()
    assert all(np.isfinite(look.view.read(0)[0, :8]).all() for look in scenes.noisy.looks)


def test_a_clean_image_is_refused():
    with pytest.raises(ValueError, match='use supervision="pair"'):
        NOISE2VOID.scenes(Pair(noise(20, 20), noise(20, 20, seed=1)))


def test_correlated_noise_is_noted_with_its_length_and_the_mask_that_fits():
    rng = np.random.default_rng(0)
    flat = np.full((128, 144), 10.0)
    alone = NOISE2VOID.scenes(Pair(rng.normal(flat, 1).astype(np.float32)))
    assert not drain(NOISE2VOID.check_steps(alone))
    rows = correlated(flat, rng=rng, sd=1.0, length_px=(0, 1.5))
    (note,) = drain(NOISE2VOID.check_steps(NOISE2VOID.scenes(Pair(rows))))
    assert note.level == "amber"
    assert "px along X" in note.text
    assert 'struct_n2v_axes="horizontal"' in note.text
    from napari_btn import NoiseModel

    wanted = fitting_mask(NoiseModel.fit(rows, "YX"), SupervisionSettings())
    # at a Gaussian of 1.5 px the correlation falls under 0.1 after 4 px
    assert wanted.struct_n2v_axes == "horizontal"
    assert 7 <= wanted.struct_n2v_span <= 11
    masked = NOISE2VOID.scenes(Pair(rows), wanted)
    assert not drain(NOISE2VOID.check_steps(masked, wanted))


def test_intervals_cover_a_masked_pixel():
    covers, (note,) = NOISE2VOID.covers(None, ("0",))
    assert covers == "masked pixel"
    assert "did not see" in note.text
    assert "a repeat lies inside less often than reported here" in note.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"masked_pixel_percentage": 0.2},
        {"roi_size": 4},
        {"struct_n2v_span": 2},
        {"struct_n2v_axes": "diagonal"},
        {"strategy": "mean"},
        {"thinnings": 0},
        {"repeats": "c"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SupervisionSettings(**wrong)
