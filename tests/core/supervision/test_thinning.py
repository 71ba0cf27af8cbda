"""Halves of counts: independent for Poisson counts, the same in any tile, and refused for anything else."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core.data.image import View
from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import drain
from napari_btn.core.settings import SupervisionSettings, TrainSettings
from napari_btn.core.supervision.thinning import THINNING, Half


def counts(*shape, rate=4.0, seed=0):
    return np.random.default_rng(seed).poisson(rate, shape).astype(np.float32)


def halves(values, draw=0):
    return tuple(Half(View(values, "YX"), draw, rest=rest).read(0)[0] / 2 for rest in (False, True))


@pytest.mark.parametrize("rate", [0.3, 8.0, 150.0, 4000.0])
def test_halves_add_up_and_are_independent_poisson(rate):
    values = counts(300, 400, rate=rate)
    half, rest = halves(values)
    np.testing.assert_array_equal(half + rest, values)
    n = values.size
    # METHOD 13: the standard error of a correlation is 0.0029 here
    assert abs(np.corrcoef(half.ravel(), rest.ravel())[0, 1]) < 0.01
    for part in (half, rest):
        assert part.mean() == pytest.approx(rate / 2, abs=4 * np.sqrt(rate / 2 / n))
        assert part.var() / part.mean() == pytest.approx(1, abs=5 * np.sqrt(2 / n) + 0.004)


def test_halves_of_a_gain_are_correlated():
    half, rest = halves(np.round(2.5 * counts(300, 400)))
    assert np.corrcoef(half.ravel(), rest.ravel())[0, 1] > 0.3


def test_draws_differ_and_pixels_are_independent_of_each_other():
    values = counts(200, 300, rate=6.0)
    left = halves(values)[0] - values / 2
    again = halves(values, draw=1)[0] - values / 2
    bound = 5 / np.sqrt(values.size)
    assert abs(np.corrcoef(left.ravel(), again.ravel())[0, 1]) < bound
    for axis in (0, 1):
        moved = np.roll(left, 1, axis)
        assert abs(np.corrcoef(left.ravel(), moved.ravel())[0, 1]) < bound


def test_a_tile_is_thinned_as_the_whole_image():
    view = View(counts(2, 2, 30, 41), "SCYX")
    for scene in range(2):
        whole = Half(view).read(scene)
        box = (slice(7, 19), slice(3, 40))
        np.testing.assert_array_equal(Half(view).read(scene, box), whole[(slice(None), *box)])
    assert not np.array_equal(Half(view).read(0), Half(view).read(1))


def test_patches_are_thinned_again_in_each_draw():
    noisy = counts(40, 50)
    noisy[3:6, 3:6] = np.nan
    scenes = THINNING.scenes(Pair(noisy, valid="finite"))
    drain(scenes.check_steps())
    _, lesson = drain(THINNING.lesson_steps(scenes, scenes.whole(), TrainSettings(batch_size=1, patch_px=24)))
    box = (slice(0, 24), slice(0, 24))
    rng, given = np.random.default_rng(0), (scenes.read_noisy(0, box), scenes.read_clean(0, box))
    drawn = [lesson.example(0, box, given, rng) for _ in range(2)]
    for x, y in drawn:
        known = np.isfinite(y)
        np.testing.assert_array_equal(known[0], np.isfinite(noisy[box]))
        # targets are dithered by less than one of their steps, which are 2
        np.testing.assert_array_equal(np.round(((x + y) / 2)[known]), noisy[box][known[0]])
    assert not np.array_equal(drawn[0][0], drawn[1][0])


def test_a_prediction_averages_the_thinnings():
    looks = THINNING.seen(View(counts(20, 24), "YX"), SupervisionSettings(thinnings=5)).looks
    box = (slice(0, 4), slice(0, 6))
    assert len(looks) == 5
    np.testing.assert_allclose(sum(look.weight(0, box) for look in looks), 1, rtol=1e-6)
    assert len({look.view.read(0).tobytes() for look in looks}) == 5


def check(values, **pair):
    return drain(THINNING.check_steps(THINNING.scenes(Pair(values, **pair))))


def test_plain_counts_are_allowed():
    rng = np.random.default_rng(1)
    field = np.kron(rng.gamma(3.0, 3.0, (16, 18)), np.ones((8, 8)))
    assert not check(rng.poisson(field).astype(np.float32))


def test_what_is_no_count_or_has_a_gain_is_refused_with_the_measured_factor():
    rng = np.random.default_rng(1)
    field = np.kron(rng.gamma(3.0, 3.0, (16, 18)), np.ones((8, 8)))
    with pytest.raises(ValueError, match=r"counts: whole numbers.*\"noise2void\""):
        check(rng.normal(field, 1).astype(np.float32))
    with pytest.raises(ValueError, match="multiples of 3, a gain"):
        check(3 * rng.poisson(field).astype(np.float32))
    with pytest.raises(ValueError, match=r"is 2\.\d+ times its mean \(the Fano factor\)"):
        check(np.round(2.5 * rng.poisson(field)).astype(np.float32))
    with pytest.raises(ValueError, match='use supervision="pair"'):
        THINNING.scenes(Pair(counts(20, 20), counts(20, 20, seed=1)))


@pytest.mark.parametrize(("fano", "hold"), [(0.86, "more"), (1.15, "fewer")])
def test_halves_of_other_counts_are_noted_with_what_intervals_then_hold(fano, hold):
    rng, rate = np.random.default_rng(2), 20.0
    # binomial counts vary less than Poisson's, negative binomial ones more
    size = rate / abs(fano - 1)

    def draw(scale, shape):
        if fano < 1:
            return rng.binomial(round(size * scale), 1 - fano, shape)
        return rng.negative_binomial(size * scale, 1 / fano, shape)

    (note,) = check(draw(1, (400, 400)).astype(np.float32))
    assert f"hold {hold} counts of a repeat than stated" in note.text
    half = rng.binomial(counts := draw(1, 400_000), 0.5)
    slope, centre = np.polyfit(half, 2 * (counts - half), 1)
    width = 1.645 * np.std(2 * (counts - half) - slope * half - centre)
    held = np.abs(2 * draw(0.5, half.size) - slope * half - centre) <= width
    aimed = np.abs(2 * (counts - half) - slope * half - centre) <= width
    assert (held.mean() > aimed.mean()) == (hold == "more")


@pytest.mark.parametrize("change", [lambda n: n / 2, lambda n: n - 3, lambda n: n / 100])
def test_an_image_to_denoise_that_holds_no_counts_is_refused(change):
    # it was rounded down without a word, and its intervals were said to cover counts
    seen = THINNING.seen(View(change(counts(40, 56)), "YX"))
    with pytest.raises(ValueError, match="are not counts"):
        seen.looks[0].view.read(0)
    few = counts(40, 56)
    few[3, ::9] += 0.5  # as filled broken pixels have
    assert np.isfinite(THINNING.seen(View(few, "YX")).looks[0].view.read(0)).all()


def test_counts_of_late_scenes_are_checked_as_well():
    with pytest.raises(ValueError, match="counts: whole numbers"):
        check(np.stack([*[counts(40, 56)] * 19, counts(40, 56) + 0.5]), axes="SYX")


def test_intervals_cover_thinned_counts_whose_noise_is_twice_their_mean():
    covers, (note,) = THINNING.covers(None, ("0",))
    assert covers == "thinned counts"
    assert "half the dose" in note.text
    target = 2 * counts(1, 100_000, rate=3.0)
    # the standard error of this variance is 0.6 %
    assert THINNING.noise_variance(target, target)[0] == pytest.approx(float(target.var()), rel=0.03)
