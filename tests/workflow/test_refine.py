"""Refinement: calibration pixels were never trained on, and the gain is reported."""

from __future__ import annotations

import numpy as np
import pytest

import napari_btn as btn
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.training import processes as training
from napari_btn.workflow.inputs import image_for, pair_for
from napari_btn.workflow.refine import _gentler, refine_steps

NETWORK = btn.NetworkSettings(depth=3, channels=2, inputs=2, head_units=8, dilations=(1, 2, 3))
TRAIN = btn.TrainSettings(steps=6, batch_size=2, patch_px=16)
PAIR = btn.samples.edx(seed=0, size=(48, 200))
NAMES = ("Si", "Al", "Fe")
KNOWN = np.s_[:, :, :120]
PLACES = (Region(4, 130, 12, 12), Region(30, 160, 12, 16))


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Bundle of one that knows the left part of the field."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))
        blocks = btn.CalibrationSettings(block_px=12)
        made = btn.Denoiser(members=2, seed=1, network=NETWORK, train=TRAIN, calibration=blocks)
        made.fit(PAIR.noisy[KNOWN], PAIR.clean[KNOWN], axes="CYX", channel_names=NAMES, executor=Inline())
    path = tmp_path_factory.mktemp("refine") / "a.btn"
    made.save(path)
    return path


def measured(places=PLACES, truth=PAIR.clean):
    return [(place, truth[(slice(None), *place.slices)]) for place in places]


def refined(bundle, noisy=PAIR.noisy[KNOWN], clean=PAIR.clean[KNOWN], **options):
    """(denoiser, what was gained)."""
    denoiser = btn.load(bundle) if not isinstance(bundle, btn.Denoiser) else bundle
    options = {"windows": measured(), "image": PAIR.noisy, "executor": Inline()} | options
    return denoiser, denoiser.refine(noisy, clean, **options)


def weights(denoiser):
    return [m.weights[name] for m in denoiser.model.networks.members for name in sorted(m.weights)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_windows_are_trained_on_and_the_gain_is_reported(bundle):
    before = btn.load(bundle)
    denoiser, gain = refined(bundle)
    assert not same(denoiser, before)
    assert gain.windows == 2
    assert gain.after is denoiser.report
    assert gain.before.n_pixels == gain.after.n_pixels
    assert gain.before.n_blocks.tolist() == gain.after.n_blocks.tolist()
    said = gain.to_dict()
    assert said["channel_names"] == list(NAMES)
    assert len(said["width before"]) == len(said["coverage after"]) == 3
    assert str(gain).count("mean width") == 3
    assert [len(v) for v in denoiser.losses.values()] == [9, 9]


def test_the_windows_are_what_makes_the_difference(bundle):
    with_them, _ = refined(bundle)
    without, _ = refined(bundle, windows=())
    other, _ = refined(bundle, windows=measured(truth=PAIR.clean * 1.5))
    assert not same(with_them, without)
    assert not same(with_them, other)


def test_the_same_call_gives_the_same_bits_also_from_memory(bundle, tmp_path):
    first, gain = refined(bundle)
    first.save(tmp_path / "b.btn")
    loaded = btn.load(tmp_path / "b.btn")
    assert same(loaded, refined(bundle)[0])
    np.testing.assert_array_equal(loaded.report.width, gain.after.width)
    again, _ = refined(tmp_path / "b.btn")
    assert not same(again, loaded)
    assert len(again.provenance["refined"]) == 2


def calibrating(denoiser):
    """Where the held-out pixels are that calibrate, in the known part."""
    mask = np.zeros((48, 120), bool)
    mask[tuple(denoiser.held_out.position[:, 1:].T)] = True
    return mask


@pytest.mark.parametrize(
    "places", [PLACES, (Region(10, 90, 12, 12),), (Region(0, 105, 10, 20), Region(40, 62, 8, 8))]
)
def test_no_pixel_that_calibrates_is_trained_on_or_seen(bundle, places):
    """Whatever the calibrating pixels hold, noisy or clean, training never notices."""
    reference, _ = refined(bundle, windows=measured(places))
    mask = calibrating(reference)
    assert mask.any()
    noisy, clean = PAIR.noisy.copy(), PAIR.clean.copy()
    rng = np.random.default_rng(0)
    noisy[KNOWN][:, mask] += rng.normal(size=(3, mask.sum())).astype(np.float32)
    clean[KNOWN][:, mask] = rng.normal(size=(3, mask.sum()))
    other = btn.load(bundle)
    refined(other, noisy[KNOWN], clean[KNOWN], windows=measured(places), image=noisy)
    assert same(other, reference)


def test_pixels_near_a_window_calibrate_no_more_in_a_second_round_either(bundle):
    near = (Region(10, 90, 12, 12),)
    denoiser, gain = refined(bundle, windows=measured(near))
    whole = calibrating(btn.load(bundle))
    left = calibrating(denoiser)
    reach = denoiser.receptive_field
    assert not left[10 - reach : 22 + reach, 90 - reach : 102 + reach].any()
    assert left.sum() < whole.sum()
    assert gain.after.n_pixels == left.sum()
    refined(denoiser)
    np.testing.assert_array_equal(calibrating(denoiser), left)


def test_windows_over_all_that_is_held_out_are_refused(bundle):
    denoiser = btn.load(bundle)
    before = weights(denoiser)
    with pytest.raises(ValueError, match="nothing of the held-out part"):
        refined(denoiser, windows=measured((Region(0, 60, 48, 60),)))
    assert all(a is b for a, b in zip(before, weights(denoiser), strict=True))


def test_images_that_trained_must_be_split_as_they_were(bundle):
    painted = np.zeros((48, 120), int)
    painted[:, 70:], painted[:, :40] = 1, 2
    with pytest.raises(ValueError, match="in another split"):
        refined(bundle, regions=painted)


def test_images_of_an_older_bundle_are_refused_for_nobody_knows_their_split(bundle):
    denoiser = btn.load(bundle)
    del denoiser.model.learned.provenance["splits"]
    with pytest.raises(ValueError, match="training pixels are unknown"):
        refined(denoiser)


def test_another_pair_fine_tunes(bundle):
    other = btn.samples.edx(seed=5, size=(40, 100))
    denoiser, gain = refined(bundle, other.noisy, other.clean, windows=(), image=None)
    assert gain.windows == 0
    assert denoiser.held_out.position[:, 2].max() < 100
    assert len(denoiser.provenance["splits"]) == 2
    with pytest.raises(ValueError, match="members were trained on these images"):
        denoiser.calibrate(PAIR.noisy[KNOWN], PAIR.clean[KNOWN])
    with pytest.raises(ValueError, match="members were trained on these images"):
        denoiser.calibrate(other.noisy, other.clean)


def test_copies_of_what_trained_are_not_held_out_in_a_refinement(bundle):
    denoiser, _ = refined(bundle, windows=())  # its own pair has a known split
    assert len(denoiser.provenance["remembered"]) == 1
    turned = (PAIR.noisy[KNOWN][:, :, ::-1], PAIR.clean[KNOWN][:, :, ::-1])
    with pytest.raises(ValueError, match="hold pixels that the members were trained on"):
        refined(bundle, *turned, windows=(), image=None)


def test_locked_thresholds_stay(bundle, tmp_path):
    whole = btn.load(bundle)
    threshold = float(np.median(whole.held_out.target[2]))
    whole.lock(threshold, "Fe").save(tmp_path / "locked.btn")
    denoiser, _ = refined(tmp_path / "locked.btn")
    assert denoiser.model.calibrated.locks == {"Fe": threshold}


def test_the_image_of_the_windows_cannot_calibrate(bundle):
    denoiser, _ = refined(bundle)
    with pytest.raises(ValueError, match="members were trained on these images"):
        denoiser.calibrate(PAIR.noisy, PAIR.clean)


def test_tokens_of_the_old_members_go(bundle, monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    denoiser = btn.load(bundle)
    denoiser.tokens(PAIR.noisy, 3, executor=Inline())
    assert denoiser.model.tokens is not None
    refined(denoiser)
    assert denoiser.model.tokens is None


def test_painted_areas_and_their_report_stay_apart_from_windows(tmp_path):
    painted = np.zeros((48, 200), int)
    painted[:, :50], painted[:, 70:110], painted[:, 130:180] = 1, 2, 3
    denoiser = btn.Denoiser(members=1, network=NETWORK, train=TRAIN)
    denoiser.fit(PAIR.noisy, PAIR.clean, axes="CYX", regions=painted, executor=Inline())
    before = denoiser.report.n_pixels
    place = Region(4, 100, 12, 60)
    _, gain = refined(denoiser, PAIR.noisy, PAIR.clean, windows=measured((place,)), regions=painted)
    reach = denoiser.receptive_field
    gone = (min(180, 160 + reach) - 130) * min(48, 16 + reach)
    assert gain.after.n_pixels == before - gone


def test_gentler_settings_are_shorter_and_slower():
    train = btn.TrainSettings()
    assert _gentler(train).steps == train.steps / 2
    assert _gentler(train).learning_rate < train.learning_rate
    assert _gentler(btn.TrainSettings(steps=1)).steps == 1


def test_an_untrained_one_has_nothing_to_go_on_from():
    with pytest.raises(ValueError, match="not trained yet"):
        btn.Denoiser().refine(PAIR.noisy, PAIR.clean)


def test_tokens_are_calibrated_apart_again_and_a_mask_is_asked_for_again(bundle, monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    denoiser = btn.load(bundle)
    denoiser.calibrate(PAIR.noisy[KNOWN], groups=3, executor=Inline())
    refined(denoiser)
    assert denoiser.model.scores.grouping.count == 3
    denoiser.calibrate(groups=np.ones((48, 120), int), executor=Inline())
    refined(denoiser)
    assert denoiser.model.scores.grouping is None
    assert any("Calibrate with groups again" in note.text for note in denoiser.notes)


def test_the_step_leaves_the_model_alone_and_returns_another(bundle, unchanged):
    model = btn.load(bundle).model
    pair = pair_for(model, PAIR.noisy[KNOWN], PAIR.clean[KNOWN], "CYX")
    image, compute = image_for(model, PAIR.noisy), Compute(executor=Inline(), workers=2)
    made, gain = unchanged(model, refine_steps(model, pair, compute, windows=measured(), image=image))
    assert gain.after is made.calibrated.report
    assert made.settings is model.settings
    for old, new in zip(model.networks.members, made.networks.members, strict=True):
        assert old.number == new.number
        assert any(not np.array_equal(old.weights[k], new.weights[k]) for k in old.weights)
    assert "refined" not in model.learned.provenance
    assert len(made.learned.provenance["refined"]) == 1


def test_a_denoiser_is_unchanged_until_the_step_ends(bundle, watched):
    denoiser = btn.load(bundle)
    before = watched(denoiser)
    refined(denoiser)
    assert denoiser.model is not before
