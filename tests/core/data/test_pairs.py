"""Pairs: axes in any order, what is refused and why, what trains and what is held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from napari_btn.core.data.image import View, canonical_axes, names_in_text, shown_amount, shown_names
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import split
from napari_btn.core.settings import CalibrationSettings

SIZES = {"S": 3, "T": 2, "C": 4, "Z": 5, "Y": 7, "X": 6}


def image(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@st.composite
def axes_of(draw):
    letters = draw(st.sets(st.sampled_from("STCZ"))) | {"Y", "X"}
    order = draw(st.permutations(sorted(letters)))
    return "".join(a.lower() if draw(st.booleans()) else a for a in order)


class Counted:
    """An array that remembers the largest piece it was asked for."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.largest = array, array.shape, array.dtype, 0

    def __getitem__(self, index):
        piece = self.array[index]
        self.largest = max(self.largest, piece.size)
        return piece


# ---------------------------------------------------------------- axes and views


@given(axes_of())
def test_any_order_and_case_of_axes_reads_the_same(axes):
    full = "STCZYX"
    values = np.arange(np.prod([SIZES[a] for a in full])).reshape([SIZES[a] for a in full])
    upper = axes.upper()
    # the letters that are missing are fixed at 0
    index = tuple(slice(None) if a in upper else 0 for a in full)
    left = [a for a in full if a in upper]
    array = values[index].transpose([left.index(a) for a in upper])
    view = View(array, axes)
    frames = SIZES["T"] if "T" in upper else 1
    for scene in range(view.n_scenes):
        expected = values[scene // frames, scene % frames]
        expected = expected if "C" in upper else expected[:1]
        expected = expected if "Z" in upper else expected[:, 0]
        np.testing.assert_array_equal(view.read(scene), expected)


@given(axes_of(), st.data())
def test_writing_a_box_and_reading_it_again(axes, data):
    shape = tuple(SIZES[a] for a in axes.upper())
    view = View(np.zeros(shape, np.float32), axes)
    box = []
    for n in view.space:
        start = data.draw(st.integers(0, n - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, n))))
    scene = data.draw(st.integers(0, view.n_scenes - 1))
    values = image(0, view.n_channels, *(s.stop - s.start for s in box))
    view.write(scene, box, values)
    np.testing.assert_array_equal(view.read(scene, box), values)
    assert np.count_nonzero(view.array) == values.size


@pytest.mark.parametrize(
    ("axes", "ndim", "words"),
    [
        ("QYX", 3, "unknown letter Q"),
        ("YYX", 3, "twice"),
        ("CYX", 2, "name 3 dimensions, it has 2"),
        ("CX", 2, "lack Y or X"),
        ("", 0, "lack Y or X"),
    ],
)
def test_wrong_axes_are_refused(axes, ndim, words):
    with pytest.raises(ValueError, match=words):
        canonical_axes(axes, ndim, "it")


def test_rows_named_channels_are_refused_with_the_axes_to_give():
    with pytest.raises(ValueError, match=r'160 channels of 3 x 96 px of noisy .* such as axes "CYX"'):
        View(image(0, 3, 96, 160), "YXC", "noisy")
    with pytest.raises(ValueError, match='such as axes "CZYX"'):
        View(image(0, 2, 30, 40, 50), "ZYXC", "noisy")
    assert View(image(0, 40, 50, 2), "YXC").n_channels == 2
    assert View(image(0, 20, 20, 30), "CYX").n_channels == 20
    assert View(image(0, 3, 40, 1), "CYX").space == (40, 1)


@pytest.mark.parametrize("values", [np.ones((4, 4), complex), np.full((4, 4), "a"), np.empty((0, 4))])
def test_only_real_numbers_are_images(values):
    with pytest.raises(ValueError, match="must hold real numbers"):
        View(values, "YX", "noisy")


# ---------------------------------------------------------------- what is refused


def refuse(words, noisy, clean, axes="YX", **options):
    with pytest.raises(ValueError, match=words) as caught:
        Pair(noisy, clean, axes, **options).scenes  # noqa: B018  (a property that checks)
    text = str(caught.value)
    assert not text[0].islower()
    assert text.endswith(".")
    return text


def test_shapes_that_do_not_match():
    text = refuse("must match", image(0, 3, 238, 60), image(1, 3, 240, 60), "CYX")
    assert text == (
        "Noisy has axes CYX (3, 238, 60), clean has CYX (3, 240, 60); they must match. "
        "Crop one, or align them first."
    )
    refuse("each channel of noisy", image(0, 3, 20, 20), image(1, 2, 20, 20), "CYX")
    refuse("must match", image(0, 3, 20, 20), image(1, 2, 20, 20), "SYX")
    refuse("same without S and T", image(0, 3, 20, 20), image(1, 20, 20), "CYX")
    refuse("Clean is missing", image(0, 20, 20), None)


def test_values_that_are_not_finite():
    for bad in (np.nan, np.inf, -np.inf):
        for which in (0, 1):
            pair = [image(0, 20, 20), image(1, 20, 20)]
            pair[which][3, 4] = bad
            text = refuse("1 NaN or infinite values; give `valid`", *pair)
            assert text.startswith(("Noisy", "Clean")[which])
    both = image(0, 20, 20)
    both[0, :2] = np.inf, -np.inf
    refuse("2 NaN or infinite", both, image(1, 20, 20))


def test_a_number_too_large_for_float32_is_infinite():
    large = image(0, 20, 20).astype(np.float64)
    large[0, 0] = 1e300
    refuse(r"1 NaN or infinite values \(or beyond 3.4e38", large, image(1, 20, 20))


@pytest.mark.parametrize(("factor", "advice"), [(1e17, "Divide it by"), (1e-20, "Multiply it by")])
def test_numbers_whose_squares_do_not_fit_are_refused_with_advice(factor, advice):
    for dtype in (np.float32, np.float64):
        assert refuse(advice, (image(0, 20, 20) * factor).astype(dtype), image(1, 20, 20)).startswith("Noisy")
        assert refuse(advice, image(0, 20, 20), (image(1, 20, 20) * factor).astype(dtype)).startswith("Clean")
    assert np.isfinite(Pair(image(0, 20, 20) * 1e14, image(1, 20, 20) * 1e-17).scenes.read_noisy(0)).all()


def test_values_that_are_not_finite_may_be_left_out_but_not_others():
    noisy, clean, valid = image(0, 20, 20), image(1, 20, 20), np.ones((20, 20), bool)
    noisy[3, 4] = clean[5, 6] = np.nan
    valid[3, 4] = valid[5, 6] = False
    scenes = Pair(noisy, clean, valid=valid).scenes
    assert np.isnan(scenes.read_clean(0)).sum() == 2
    assert np.isfinite(scenes.read_noisy(0)).all()
    for name, array in (("Noisy", noisy), ("Clean", clean)):
        array[0, 0] = np.nan
        assert refuse("1 NaN or infinite", noisy, clean, valid=valid).startswith(name)
        array[0, 0] = 1


def test_constant_images():
    assert refuse("constant", np.full((20, 20), 7), image(1, 20, 20)).startswith("Noisy is constant (7 every")
    assert refuse("constant", image(0, 20, 20), np.zeros((20, 20))).startswith("Clean is constant")
    mostly = np.zeros((20, 20))
    mostly[0, 0] = 1
    valid = mostly == 0
    refuse("Clean is constant", image(0, 20, 20), mostly, valid=valid)
    refuse("no valid pixel", image(0, 20, 20), image(1, 20, 20), valid=np.zeros((20, 20), bool))


def test_one_constant_channel_is_allowed():
    noisy, clean = image(0, 2, 20, 20), image(1, 2, 20, 20)
    noisy[1], clean[1] = 0, 3
    assert Pair(noisy, clean, "CYX").scenes.noisy.n_channels == 2


def test_an_image_is_not_its_own_target():
    noisy = image(0, 3, 20, 20)
    refuse("the same image", noisy, noisy, "CYX")
    refuse("same values", noisy, noisy.copy(), "CYX")
    refuse("same values", noisy, noisy.astype(np.float64), "CYX")
    almost = noisy.copy()
    almost[0, 0, 0] += 1
    assert Pair(noisy, almost, "CYX").scenes


def test_names_pixel_sizes_and_masks_that_do_not_fit():
    noisy, clean = image(0, 3, 20, 24), image(1, 3, 20, 24)
    refuse("2 channel names came", noisy, clean, "CYX", channel_names=("a", "b"))
    refuse("Pixel size has 3 values", noisy, clean, "CYX", pixel_size=(1.0, 1.0, 1.0))
    refuse("Valid has axes YX", noisy, clean, "CYX", valid=np.ones((24, 20), bool))
    refuse("Valid has axes CYX", noisy, clean, "CYX", valid=np.ones((2, 20, 24), bool))
    refuse("Valid has axes SYX", noisy, clean, "SYX", valid=np.ones((2, 20, 24), bool))


def test_names_default_to_numbers():
    assert Pair(image(0, 3, 9, 9), image(1, 3, 9, 9), "CYX").scenes.channel_names == ("0", "1", "2")


def test_integers_of_all_widths_are_images():
    clean = np.arange(400).reshape(20, 20)
    for dtype in (bool, np.uint8, np.int16, np.uint32, np.int64, np.float16):
        noisy = (np.arange(400)[::-1].reshape(20, 20) % 100 > 50).astype(dtype) * dtype(1)
        scenes = Pair(noisy, clean.astype(np.int64)).scenes
        assert scenes.read_noisy(0).dtype == np.float32


# ---------------------------------------------------------------- repeats, scenes, masks


def test_scenes_with_one_target_are_repeats():
    noisy, clean = image(0, 4, 2, 40, 50), image(1, 2, 40, 50)
    pair = Pair(noisy, clean, "scyx")
    assert pair.clean_axes == "CYX"
    scenes = pair.scenes
    assert scenes.repeats
    for scene in range(4):
        np.testing.assert_array_equal(scenes.read_noisy(scene), noisy[scene])
        np.testing.assert_array_equal(scenes.read_clean(scene), clean)
    assert Pair(image(0, 5, 40, 50), image(1, 40, 50), "TYX").scenes.repeats
    assert not Pair(image(0, 5, 40, 50), image(1, 5, 40, 50), "TYX").scenes.repeats


def test_a_mask_may_have_the_space_axes_or_those_of_clean():
    noisy, clean = image(0, 3, 2, 20, 24), image(1, 3, 2, 20, 24)
    flat = np.random.default_rng(2).random((20, 24)) > 0.5
    full = np.random.default_rng(3).random(clean.shape) > 0.5
    scenes = Pair(noisy, clean, "SCYX", valid=flat).scenes
    assert (np.isnan(scenes.read_clean(2)) == ~flat).all()
    scenes = Pair(noisy, clean, "SCYX", valid=full).scenes
    assert (np.isnan(scenes.read_clean(2)) == ~full[2]).all()


def test_statistics_leave_out_what_does_not_count():
    noisy, clean = image(0, 2, 30, 40), image(1, 2, 30, 40)
    valid = np.ones((30, 40), bool)
    valid[:, 10:] = False
    noisy[:, ~valid] = clean[:, ~valid] = 1e6
    scenes = Pair(noisy, clean, "CYX", valid=valid).scenes
    for values, source in zip(
        scenes.sample(scenes.whole(), np.random.default_rng(0)), (noisy, clean), strict=True
    ):
        kept = values[:, np.isfinite(values).all(0)]
        np.testing.assert_allclose(kept.mean(1), source[:, valid].mean(1), rtol=1e-5)


def test_statistics_of_a_large_image_come_from_pieces():
    noisy, clean = Counted(image(0, 1500, 1600)), image(1, 1500, 1600)
    scenes = Pair(noisy, clean).scenes
    noisy.largest = 0
    x, y = scenes.sample(scenes.whole(), np.random.default_rng(0))
    assert x.shape == y.shape
    assert 1_500_000 < x.size <= 2_000_000
    assert noisy.largest <= 125_000
    assert x.std() == pytest.approx(1, abs=0.01)


# ---------------------------------------------------------------- the split


def pixels(boxes, scenes):
    mask = np.zeros((scenes.noisy.n_scenes, *scenes.noisy.space), bool)
    for box in boxes:
        mask[box.scene][box.slices] = True
    return mask


@given(
    st.lists(st.integers(12, 90), min_size=2, max_size=3),
    st.integers(1, 3),
    st.integers(1, 14),
    st.sampled_from(["longest", "y", "x", "z"]),
    st.floats(0.2, 0.8),
)
def test_held_out_pixels_are_never_nearer_than_the_gap(space, repeats, rf, axis, fraction):
    assume(axis != "z" or len(space) == 3)
    axes = "S" + "ZYX"[-len(space) :]
    clean = np.zeros(space)
    clean.flat[0] = 1
    noisy = np.zeros((repeats, *space))
    noisy[:, -1] = 1
    scenes = Pair(noisy, clean, axes).scenes
    settings = CalibrationSettings(split_axis=axis, train_fraction=fraction)
    try:
        parts = split(scenes, rf, settings, seed=0)
    except ValueError as error:
        assert "at least" in str(error)  # noqa: PT017  (too small is one of two right answers)
        return
    train, held = pixels(parts.train, scenes), pixels(parts.held_out, scenes)
    # repeats show one field: what one trains on, none may hold out
    along = {"longest": int(np.argmax(space)), "y": len(space) - 2, "x": len(space) - 1, "z": 0}[axis]
    others = tuple(a for a in range(len(space) + 1) if a != along + 1)
    at = [np.flatnonzero(mask.any(axis=others)) for mask in (train, held)]
    assert at[1].min() - at[0].max() - 1 == parts.gap_px
    assert parts.gap_px in (rf, 2 * rf)
    assert any("one receptive field" in n.text for n in parts.notes) == (parts.gap_px == rf)
    if parts.gap_px == 2 * rf:
        assert at[0].size >= min(0.4, fraction * 2 / 3) * space[along]
    assert min(at[0].size, at[1].size) >= 8
    assert not parts.by_scene


def test_the_default_network_leaves_40_percent_of_192_by_256_for_training():
    scenes = Pair(image(0, 192, 256), image(1, 192, 256)).scenes
    parts = split(scenes, 39, CalibrationSettings(), seed=0)
    assert parts.gap_px == 78
    assert parts.train[0].shape == (192, 106)
    assert parts.held_out[0].shape == (192, 72)
    assert parts.notes == ()


def test_a_field_too_small_for_the_split():
    scenes = Pair(image(0, 40, 50), image(1, 40, 50)).scenes
    with pytest.raises(ValueError, match="50 px along X; training, a gap of 39 px and a held-out part need"):
        split(scenes, 39, CalibrationSettings(), seed=0)
    with pytest.raises(ValueError, match="the image has the axes YX"):
        split(scenes, 5, CalibrationSettings(split_axis="z"), seed=0)


@given(st.integers(2, 30), st.floats(0.1, 0.9), st.integers(0, 99))
def test_scenes_with_targets_of_their_own_are_split_by_scene(n, fraction, seed):
    scenes = Pair(image(0, n, 9, 11), image(1, n, 9, 11), "SYX").scenes
    settings = CalibrationSettings(train_fraction=fraction)
    parts = split(scenes, 4, settings, seed=seed)
    train, held = [b.scene for b in parts.train], [b.scene for b in parts.held_out]
    assert sorted(train + held) == list(range(n))
    assert abs(len(train) - n * fraction) <= 1
    assert train
    assert held
    assert parts.by_scene
    assert {b.shape for b in parts.train + parts.held_out} == {(9, 11)}
    assert split(scenes, 4, settings, seed=seed) == parts


def test_a_part_without_a_counted_pixel_is_refused():
    noisy, clean = image(0, 20, 60), image(1, 20, 60)
    for half, what in ((slice(0, 35), "training"), (slice(30, 60), "held-out")):
        valid = np.ones((20, 60), bool)
        valid[:, half] = False
        with pytest.raises(ValueError, match=f"No pixel of the {what} part counts"):
            split(Pair(noisy, clean, valid=valid).scenes, 4, CalibrationSettings(), seed=0)


@pytest.mark.parametrize("axes", ["CYX", "SYX", "SCYX"])
def test_finite_leaves_out_what_is_not(axes):
    shape = {"CYX": (2, 6, 7), "SYX": (3, 6, 7), "SCYX": (3, 2, 6, 7)}[axes]
    rng = np.random.default_rng(0)
    noisy, clean = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    noisy[..., 1, 2], clean[..., 3, 4] = np.nan, np.inf
    with pytest.raises(ValueError, match='"finite"'):
        _ = Pair(noisy, clean, axes).scenes
    scenes = Pair(noisy, clean, axes, valid="finite").scenes
    counted = scenes.read_valid(0)[0]
    assert counted.shape == (6, 7)
    assert set(zip(*np.nonzero(~counted), strict=True)) == {(1, 2), (3, 4)}
    if axes == "SYX":
        # Repeats of one field: a pixel counts where every repeat has a value.
        repeats = Pair(noisy, rng.normal(size=(6, 7)).astype(np.float32), axes, valid="finite").scenes
        assert (~repeats.read_valid(2)[0]).sum() == 1
    with pytest.raises(ValueError, match="valid is 'infinite'"):
        _ = Pair(noisy, clean, axes, valid="infinite").scenes


def test_a_large_pair_is_checked_in_pieces():
    rng = np.random.default_rng(0)
    noisy = rng.normal(size=(2300, 2003)).astype(np.float32)
    clean = noisy + 1
    said = list(Pair(noisy, clean).views.check_steps())
    assert len(said) > 1
    assert [p.done for p in said] == list(range(said[0].total))
    clean[-1, -1] = np.nan
    with pytest.raises(ValueError, match="1 NaN"):
        list(Pair(noisy, clean).views.check_steps())


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ((), ("image",)),
        (("0",), ("image",)),
        (("0", "1"), ("channel 0", "channel 1")),
        (("Si", "1"), ("Si", "channel 1")),
        (("1", "0"), ("1", "0")),
    ],
)
def test_channels_without_a_name_are_called_channels(names: tuple[str, ...], shown: tuple[str, ...]) -> None:
    assert shown_names(names) == shown


def test_a_sentence_calls_the_only_channel_the_image():
    assert names_in_text(("0",), [0]) == "the image"
    assert names_in_text(("Si",), [0]) == "Si"
    assert names_in_text(("0", "Fe", "Al"), [0, 2]) == "channel 0, Al"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(27264.3, "27,264"), (999.94, "999.9"), (999.96, "1,000"), (1234567, "1,234,567"), (0.01234, "0.01234")],
)
def test_amounts_are_shown_without_exponents(value: float, shown: str) -> None:
    assert shown_amount(value) == shown


def test_a_missing_channel_is_called_a_channel() -> None:
    with pytest.raises(ValueError, match="Noisy has 3 channels, clean has 2; each channel of noisy"):
        _ = Pair(image(0, 3, 9, 9), image(1, 2, 9, 9), "CYX").scenes
