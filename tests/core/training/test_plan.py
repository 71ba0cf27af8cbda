"""What is decided before training, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest

import napari_btn as btn
from napari_btn import samples
from napari_btn.core.data.image import Box
from napari_btn.core.data.pairs import Pair
from napari_btn.core.settings import EnsembleSettings
from napari_btn.core.training.plan import plan_training, validation_part


def plan(shape, axes="YX", **options):
    rng = np.random.default_rng(0)
    clean = rng.normal(size=shape)
    noisy = clean + rng.normal(size=shape)
    scenes = Pair(noisy, clean, axes).scenes
    settings = btn.CalibrationSettings(**options.pop("calibration", {}))
    return plan_training(scenes, EnsembleSettings(calibration=settings, **options))


def said(made, words):
    return any(words in n.text for n in made.notes)


def test_a_field_of_192_by_256_takes_the_default_network_and_both_gaps():
    made = plan((192, 256))
    assert made.blueprint.receptive_field == 39
    assert made.split.gap_px == 78
    assert made.notes == ()


@pytest.mark.parametrize("shape", [(64, 64), (48, 100), (33, 120), (20, 155)])
def test_a_small_field_shortens_the_schedule_until_it_fits(shape):
    made = plan(shape)
    assert made.blueprint.receptive_field <= max(shape) // 4
    assert len(made.blueprint.plan.dilations) == 10
    assert said(made, "instead of 39")
    assert made.split.train
    assert made.split.gap_px >= made.blueprint.receptive_field


def test_the_axis_that_is_split_sets_the_limit():
    made = plan((100, 400), calibration={"split_axis": "y"})
    assert made.blueprint.receptive_field <= 25
    assert made.split.train[0].shape[1] == 400
    with pytest.raises(ValueError, match="the image has the axes YX"):
        plan((100, 400), calibration={"split_axis": "z"})


def test_scenes_need_no_gap_and_no_smaller_network():
    made = plan((8, 32, 32), "SYX")
    assert made.blueprint.receptive_field == 39
    assert made.split.by_scene
    assert made.split.gap_px == 0


def test_a_volume_takes_dilations_to_four():
    made = plan((20, 40, 200), "ZYX")
    assert made.blueprint.ndim == 3
    assert max(made.blueprint.plan.dilations) == 4
    assert made.blueprint.receptive_field == 23


def test_a_given_schedule_is_kept_or_refused():
    network = btn.NetworkSettings(depth=3, dilations=(4, 5, 6))
    assert plan((60, 120), network=network).blueprint.plan.dilations == (4, 5, 6)
    with pytest.raises(ValueError, match="network with smaller dilations"):
        plan((30, 30), network=network)


def test_members_do_not_change_the_plan():
    one, many = plan((96, 130), members=1), plan((96, 130), members=40)
    assert one.blueprint == many.blueprint
    assert one.split == many.split


def test_a_shift_is_said_with_its_size_and_what_to_do():
    pair = samples.edx(seed=0, size=(96, 256))
    assert not said(plan_training(pair.scenes, EnsembleSettings()), "Align")
    made = plan_training(Pair(np.roll(pair.noisy, 5, 1), pair.clean, "CYX").scenes, EnsembleSettings())
    assert said(made, "Clean must be moved by Y +4.9, X")
    assert [n.level for n in made.notes if "Align" in n.text] == ["amber"]


def test_held_out_values_that_training_lacks_are_said_with_a_way_out():
    rng = np.random.default_rng(3)
    clean = rng.uniform(1, 3, (160, 301))
    clean[70:100, 220:290] += 6
    noisy = clean + rng.normal(size=clean.shape)

    def notes(regions=None, **calibration):
        settings = EnsembleSettings(calibration=btn.CalibrationSettings(**calibration))
        return plan_training(Pair(noisy, clean, "YX").scenes, settings, regions)

    assert said(notes(), "outside the range of the training part")
    assert not said(notes(split="checkerboard"), "outside the range of the training part")
    assert not said(notes(split_axis="y"), "outside the range of the training part")
    # the box around what is painted for training holds the bright part, the training itself doesn't
    painted = np.zeros(clean.shape, int)
    painted[:, :120] = painted[:15, 120:] = 1
    painted[60:130, 170:] = 2
    assert said(notes(painted), "outside the range of the training part")


def test_a_channel_without_a_signal_is_named():
    rng = np.random.default_rng(4)
    clean = np.stack([rng.uniform(1, 3, (160, 231)), np.full((160, 231), 2.0)])
    scenes = Pair(clean + rng.normal(size=clean.shape), clean, "CYX", ("Si", "Fe")).scenes
    made = plan_training(scenes, EnsembleSettings())
    assert said(made, "Clean is constant in Fe in the training part")
    assert not said(made, "Si")


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((64, 96, 40), "YXC", "the image of 64 x 96 x 40 has 40 channels"),
        ((33, 128, 96), "CYX", "has 33 channels"),
        ((3, 96, 128), "ZYX", "the image of 3 x 96 x 128 is a volume of 3 planes"),
        ((32, 128, 96), "CYX", None),
        ((3, 96, 128), "SYX", None),
        ((4, 96, 128), "ZYX", None),
    ],
)
def test_axes_that_are_seldom_meant_are_said(shape, axes, words):
    notes = [n.text for n in plan(shape, axes).notes if "name its axes" in n.text]
    assert [words in text for text in notes] == ([] if words is None else [True])


def test_an_estimate_counts_the_pixels_of_a_step():
    network = btn.NetworkSettings()
    small = btn.Denoiser(members=1, network=network, train=btn.TrainSettings(steps=500, patch_px=32))
    large = btn.Denoiser(members=1, network=network, train=btn.TrainSettings(steps=500, patch_px=64))
    # minus what starting the processes and calibrating take
    a, b = (d.estimate((2048, 2048)).seconds for d in (small, large))
    assert b > 2 * a
    assert large.estimate((2048, 2048)).bytes > small.estimate((2048, 2048)).bytes
    volume = btn.Denoiser(members=1, train=btn.TrainSettings(steps=500, patch_px=32))
    assert volume.estimate((256, 256, 256), "ZYX").seconds > 10 * a


@pytest.mark.parametrize(("period", "field"), [(8, 20), (14, 35), (24, 60)])
def test_networks_see_some_repeats_of_a_lattice_where_that_is_asked_for(period, field):
    scenes = samples.lattice(seed=0, size=(256, 384), period_px=period, dose=0.5).scenes
    network = btn.NetworkSettings(field_of_view="repeats")
    made = plan_training(scenes, EnsembleSettings(network=network)).receptive_field
    assert field - 3 <= made <= 1.25 * field + 3
    assert plan_training(scenes, EnsembleSettings()).receptive_field == 39


def test_what_does_not_repeat_itself_is_seen_as_ever():
    network = btn.NetworkSettings(field_of_view="repeats")
    scenes = samples.edx(seed=0).scenes
    made = plan_training(scenes, EnsembleSettings(network=network))
    assert made.blueprint.plan.dilations == (1, 2, 3, 4, 5, 6, 7, 8, 1, 2)


def test_the_validation_part_is_a_tenth_of_what_trains():
    whole = [Box(0, (slice(5, 45), slice(10, 210)))]
    own, validation = validation_part(whole)
    assert validation == (Box(0, (slice(5, 45), slice(10, 30))),)
    assert own == (Box(0, (slice(5, 45), slice(30, 210))),)
    scenes = [Box(k, (slice(0, 8), slice(0, 8))) for k in range(30)]
    own, validation = validation_part(scenes)
    assert [b.scene for b in validation] == [5, 15, 25]
    assert sorted(b.scene for b in (*own, *validation)) == list(range(30))
    few = [Box(0, (slice(0, 8), slice(0, 8))), Box(1, (slice(0, 40), slice(0, 8)))]
    own, validation = validation_part(few)
    assert sum(b.size for b in (*own, *validation)) == sum(b.size for b in few)
    assert validation[0].scene == 1
    assert 0 < validation[0].size <= 48
