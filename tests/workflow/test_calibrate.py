"""Groups calibrated separately through `Denoiser`: tokens or a mask, saved, applied and reported."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn import samples
from napari_btn.cli import main
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.training import processes as training
from napari_btn.workflow.calibrate import calibrate_steps
from napari_btn.workflow.inputs import pair_for

NETWORK = btn.NetworkSettings(depth=3, channels=2, inputs=2, head_units=8)
TRAIN = btn.TrainSettings(steps=6, batch_size=2, patch_px=16)
PAIR = samples.edx(seed=0, size=(64, 160))
MAPS = ("lower", "median", "upper")


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Six steps teach nothing, so that nobody is called dead."""
    monkeypatch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))


def trained(**settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Collapse, "channels", lambda *_, **__: np.array([], int))
        made = btn.Denoiser(
            members=2,
            seed=1,
            network=NETWORK,
            train=TRAIN,
            calibration=btn.CalibrationSettings(block_px=8, **settings),
        )
        return made.fit(
            PAIR.noisy, PAIR.clean, axes="CYX", channel_names=("Si", "Al", "Fe"), executor=Inline()
        )


@pytest.fixture(scope="module")
def together():
    return trained()


@pytest.fixture(scope="module")
def apart():
    return trained(groups=3)


@pytest.fixture
def bundle(apart, tmp_path):
    apart.save(tmp_path / "apart.btn")
    return tmp_path / "apart.btn"


def test_tokens_get_offsets_of_their_own(apart, together):
    made, plain = apart.predict(PAIR.noisy, axes="CYX"), together.predict(PAIR.noisy, axes="CYX")
    np.testing.assert_array_equal(made.median, plain.median)
    assert made.groups.shape == (64, 160)
    assert sorted(set(made.groups.ravel())) == [1, 2, 3]
    # Within a group all pixels are widened alike, and groups differ.
    grown = (made.upper - plain.upper)[2]
    steps = {round(float(np.median(grown[made.groups == g])), 4) for g in (1, 2, 3)}
    assert len(steps) > 1
    assert (made.lower <= made.median).all()
    assert (made.median <= made.upper).all()


def test_the_report_speaks_of_each_token(apart, together):
    report = apart.report
    assert report.group_coverage.shape == report.group_low.shape == (3, 3)
    np.testing.assert_allclose(report.group_share.sum(), 1)
    np.testing.assert_allclose(report.group_coverage @ report.group_share, report.coverage, atol=1e-9)
    assert ((report.group_low <= report.group_coverage) & (report.group_coverage <= report.group_high)).all()
    assert together.report.group_coverage.size == 0
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["group_name"] == "token"
    assert apart.coverage_curve((0.1,)).shape == (3, 1)
    np.testing.assert_allclose(apart.coverage_curve((0.1,))[:, 0], report.coverage, atol=1e-9)


def test_a_rare_phase_is_covered_when_it_is_calibrated_apart(together):
    # A function of the input alone: the brightest iron.
    mask = 1 + (PAIR.noisy[2] > np.quantile(PAIR.noisy[2], 0.93)).astype(int)
    before = together.held_out
    place = tuple(before.position[:, 1:].T)
    lower, _, upper = together.calibration.interval(before.quantiles)
    rare = mask[place] == 2
    inside = (lower <= before.target) & (before.target <= upper)
    plain = inside[2, rare].mean()
    made = btn.Denoiser.of(together.model)
    made.calibrate(groups=mask)
    assert plain < 0.8
    assert made.report.group_coverage[2, 1] > plain + 0.03
    assert made.report.group_name == "group"
    assert (
        made.predict(PAIR.noisy, axes="CYX")
        .notes[-1]
        .text.startswith("Groups of a mask were calibrated separately")
    )
    prediction = made.predict(PAIR.noisy, axes="CYX", groups=mask)
    np.testing.assert_array_equal(prediction.groups, mask)
    found = btn.evaluate(prediction, PAIR.clean)
    assert found.group_coverage.shape == (3, 2)
    assert found.group_name == "group"
    again = made.calibrate(groups=0).predict(PAIR.noisy, axes="CYX")
    np.testing.assert_array_equal(again.upper, together.predict(PAIR.noisy, axes="CYX").upper)
    assert again.groups is None


def test_bundles_keep_groups_and_any_level_or_number_of_them(bundle, apart):
    loaded = btn.load(bundle)
    for name in MAPS:
        np.testing.assert_array_equal(
            getattr(loaded.predict(PAIR.noisy), name), getattr(apart.predict(PAIR.noisy), name)
        )
    assert loaded.calibrate(alpha=0.2).report.group_coverage.shape == (3, 3)
    assert loaded.calibrate(groups=2).report.group_coverage.shape == (3, 2)
    # Another palette for the Tokens dock leaves the calibrated one alone.
    before = loaded.predict(PAIR.noisy)
    loaded.tokens(PAIR.noisy[:, :, :80], 5, refit=True)
    np.testing.assert_array_equal(loaded.predict(PAIR.noisy).upper, before.upper)


def test_tokens_can_be_asked_for_later_with_the_image_alone(together, apart, tmp_path):
    together.save(tmp_path / "plain.btn")
    later = btn.load(tmp_path / "plain.btn")
    with pytest.raises(ValueError, match="give their image"):
        later.calibrate(groups=3)
    with pytest.raises(ValueError, match="come from another image than this one"):
        later.calibrate(PAIR.noisy + 1, groups=3)
    later.calibrate(PAIR.noisy, groups=3)
    np.testing.assert_array_equal(later.predict(PAIR.noisy).upper, apart.predict(PAIR.noisy).upper)


def test_other_images_bring_their_own_tokens(bundle):
    other = samples.edx(seed=4, size=(64, 96))
    loaded = btn.load(bundle)
    loaded.calibrate(other.noisy, other.clean, axes="CYX")
    assert loaded.report.group_coverage.shape == (3, 3)
    loaded.calibrate(groups=(other.clean[0] > 0).astype(int) + 1)
    with pytest.raises(ValueError, match="give groups of these images as well"):
        loaded.calibrate(other.noisy, other.clean, axes="CYX")


def test_what_does_not_fit_is_refused(apart, together):
    with pytest.raises(ValueError, match="pixels were calibrated all together"):
        together.predict(PAIR.noisy, groups=np.ones((64, 160), int))
    with pytest.raises(ValueError, match="pixels were calibrated by token"):
        apart.predict(PAIR.noisy, groups=np.ones((64, 160), int))
    with pytest.raises(ValueError, match="groups is 41"):
        btn.CalibrationSettings(groups=41)


def test_scenes_and_zarr_have_groups_too(tmp_path):
    pair = samples.blobs(seed=0, n=30, size=24)
    made = btn.Denoiser(
        members=1, network=NETWORK, train=TRAIN, calibration=btn.CalibrationSettings(groups=2)
    )
    made.fit(pair.noisy, pair.clean, axes=pair.axes, executor=Inline())
    prediction = made.predict(pair.noisy, axes=pair.axes, out=tmp_path / "maps.zarr", executor=Inline())
    assert prediction.groups.shape == pair.noisy.shape
    whole = made.predict(pair.noisy[3], axes="YX")
    np.testing.assert_array_equal(whole.groups, prediction.groups[3])
    np.testing.assert_array_equal(whole.upper, prediction.upper[3])


def test_the_command_line_calibrates_and_reports_groups(bundle, tmp_path):
    np.savez(tmp_path / "pair.npz", noisy=PAIR.noisy, clean=PAIR.clean)
    mask = 1 + (PAIR.noisy[0] > np.median(PAIR.noisy[0])).astype(np.uint8)
    np.save(tmp_path / "mask.npy", mask)
    noisy, clean = (f"{tmp_path / 'pair.npz'}:{name}" for name in ("noisy", "clean"))

    def run(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    masked, two = tmp_path / "masked.btn", tmp_path / "two.btn"
    done = run("calibrate", bundle, noisy, "--axes", "CYX", "--groups", "2", "-o", two)
    assert done.exit_code == 0, done.output
    assert "token  share   Si" in done.output
    done = run("calibrate", bundle, "--mask", tmp_path / "mask.npy", "-o", masked)
    assert done.exit_code == 0, done.output
    assert "group  share   Si" in done.output
    options = ("--axes", "CYX", "--mask", tmp_path / "mask.npy")
    done = run("evaluate", masked, noisy, clean, *options, "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.output
    assert "group  share   Si" in done.output
    assert "Inside, by group" in (tmp_path / "page.html").read_text(encoding="utf-8")
    done = run("predict", masked, noisy, *options, "-o", tmp_path / "maps.npz")
    assert done.exit_code == 0, done.output
    done = run("calibrate", bundle, "--groups", "1", "-o", tmp_path / "one.btn")
    assert done.exit_code == 2
    assert "2 or more" in done.output


def test_other_promises_need_no_training(apart, bundle, tmp_path):
    loaded = btn.load(bundle)
    loaded.calibrate(settings=btn.CalibrationSettings(unit="risk", delta=0.2, score="scaled", groups=0))
    assert (loaded.calibration.rule, loaded.calibration.score, loaded.calibration.delta) == (
        "risk",
        "scaled",
        0.2,
    )
    assert loaded.report.group_coverage.size == 0
    out = tmp_path / "most.btn"
    asked = ["--unit", "image", "--delta", "0.2", "--score", "asymmetric"]
    done = CliRunner().invoke(main, ["calibrate", str(bundle), "-o", str(out), *asked])
    assert done.exit_code == 0, done.output
    calibration = btn.load(out).calibration
    assert (calibration.rule, calibration.delta, calibration.score) == ("image", 0.2, "asymmetric")
    # one field holds no images, so its blocks are the cases, and the caption says so
    assert "90 % of the pixels of 80 % of new blocks of 8 px of this field" in calibration.caption()
    assert any("nothing about new images" in note.text for note in calibration.notes)


# ---------------------------------------------------------------- copies of what trained


TURNS = {
    "crop": lambda a: a[:, 3:, :70],
    "flip": lambda a: a[:, ::-1, :80],
    "quarter turn": lambda a: np.rot90(a, 1, (1, 2)),
}


@pytest.mark.parametrize("turn", list(TURNS))
def test_copies_of_what_trained_are_refused_and_held_out_parts_are_not(together, turn, tmp_path):
    made = btn.Denoiser.of(together.model)
    noisy, clean = (TURNS[turn](image) for image in (PAIR.noisy, PAIR.clean))
    with pytest.raises(ValueError, match=r"hold pixels that the members were trained on: \d+ of \d+ patches"):
        made.calibrate(noisy, clean, axes="CYX", executor=Inline())
    # the target alone is enough: another scan of the same place
    other = np.random.default_rng(0).poisson(clean).astype(np.float32)
    with pytest.raises(ValueError, match="patches of the clean training images"):
        made.calibrate(other, clean, axes="CYX", executor=Inline())
    held_out = slice(int(made.held_out.position[:, 2].min()), None)
    made.calibrate(PAIR.noisy[:, :, held_out], PAIR.clean[:, :, held_out], axes="CYX", executor=Inline())


def test_bundles_without_patches_still_work(together, tmp_path):
    together.save(tmp_path / "old.btn")
    old = btn.load(tmp_path / "old.btn")
    assert len(old.model.learned.provenance.pop("remembered")) == 1
    assert "remembered" not in together.predict(PAIR.noisy, axes="CYX").provenance
    old.calibrate(PAIR.noisy[:, :, :70], PAIR.clean[:, :, :70], axes="CYX", executor=Inline())


def test_an_evaluation_on_a_copy_is_said_to_flatter(bundle, tmp_path):
    np.savez(tmp_path / "crop.npz", noisy=PAIR.noisy[:, ::-1, :80], clean=PAIR.clean[:, ::-1, :80])
    files = [f"{tmp_path / 'crop.npz'}:{name}" for name in ("noisy", "clean")]
    done = CliRunner().invoke(main, ["evaluate", str(bundle), *files, "--axes", "CYX"])
    assert done.exit_code == 0, done.output
    assert "So the figures may be better than on a new image" in done.output
    assert "The 95 % interval is that of this field" in done.output


# ---------------------------------------------------------------- splits


def test_a_dose_that_rises_across_the_field_is_noted_before_and_after_training():
    dose = np.linspace(1, 4, PAIR.noisy.shape[2], dtype=np.float32)
    made = btn.Denoiser(members=1, network=NETWORK, train=TRAIN)
    plan = made.check(PAIR.noisy * dose, PAIR.clean, axes="CYX")
    assert any("unlike the training part" in note.text for note in plan.notes)
    made.fit(PAIR.noisy * dose, PAIR.clean, axes="CYX", executor=Inline())
    assert any("unlike the training part" in note.text for note in made.report.warnings)
    assert not any("unlike" in note.text for note in made.check(PAIR.noisy, PAIR.clean, axes="CYX").notes)


def movie(frames=20):
    """Frames of one field, each with counts and a truth of its own."""
    rng = np.random.default_rng(0)
    clean = np.stack([PAIR.clean[0, :, t : t + 120] for t in range(frames)])
    return rng.poisson(2 * clean).astype(np.float32), clean


def test_frames_are_split_in_space_or_in_time_and_the_report_says_which(tmp_path):
    noisy, clean = movie()
    small = btn.NetworkSettings(depth=3, channels=2, inputs=2, head_units=8, dilations=(1, 2, 1))
    asked = {"members": 1, "network": small, "train": TRAIN}
    space = btn.Denoiser(**asked, calibration=btn.CalibrationSettings(block_px=20)).fit(
        noisy, clean, axes="TYX", executor=Inline()
    )
    assert (space.report.blocks, space.report.scope) == ("blocks of 20 px", "this field")
    assert set(space.held_out.position[:, 0]) == set(range(20))
    time = btn.Denoiser(**asked, calibration=btn.CalibrationSettings(split="time")).fit(
        noisy, clean, axes="TYX", executor=Inline()
    )
    assert time.report.scope == "this series"
    assert set(time.held_out.position[:, 0]) == set(range(12, 20))
    assert any("not of other fields" in note.text for note in time.report.warnings)
    time.save(tmp_path / "time.btn")
    again = btn.load(tmp_path / "time.btn")
    assert again.report.blocks == time.report.blocks
    again.calibrate(alpha=0.2)
    assert again.report.blocks == time.report.blocks
    found = btn.evaluate(space.predict(noisy, axes="TYX", executor=Inline()), clean)
    assert found.scope == "this field"


def test_the_command_line_splits_as_asked(tmp_path, monkeypatch):
    pair = samples.edx(seed=0, size=(96, 160))
    np.savez(tmp_path / "pair.npz", noisy=pair.noisy, clean=pair.clean)
    painted = np.zeros((96, 160), np.uint8)
    painted[:, :60], painted[:, 110:] = 1, 2
    np.save(tmp_path / "painted.npy", painted)
    noisy, clean = (f"{tmp_path / 'pair.npz'}:{name}" for name in ("noisy", "clean"))
    small = ["--axes", "CYX", "--members", "1", "--steps", "3", "--depth", "3"]
    for asked, check in (
        (["--split", "y"], lambda place: place[:, 1].min() > 48),
        (["--regions", str(tmp_path / "painted.npy")], lambda place: place[:, 2].min() >= 110),
    ):
        out = tmp_path / f"{asked[0][2:]}.btn"
        done = CliRunner().invoke(main, ["train", noisy, clean, "-o", str(out), *small, *asked])
        assert done.exit_code == 0, done.output
        assert check(btn.load(out).held_out.position)


# ---------------------------------------------------------------- steps and models


@pytest.mark.parametrize("change", ["level", "tokens", "mask", "other images"])
def test_the_step_leaves_the_model_alone_and_returns_another(together, unchanged, change):
    model, compute = together.model, Compute(executor=Inline())
    settings, pair, groups = model.settings, None, None
    if change == "level":
        settings = replace(settings, alpha=0.3)
    elif change == "tokens":
        groups, pair = 3, pair_for(model, PAIR.noisy, None, "CYX")
    elif change == "mask":
        groups = 1 + (PAIR.noisy[2] > np.median(PAIR.noisy[2])).astype(int)
    else:
        other = samples.edx(seed=9, size=(40, 64))
        pair = pair_for(model, other.noisy, other.clean, "CYX")
    made = unchanged(model, calibrate_steps(model, compute, settings, pair=pair, groups=groups))
    assert made is not model
    assert made.networks is model.networks  # it never trains
    assert made.calibrated is not model.calibrated
    assert made.settings.alpha == settings.alpha
    assert (made.scores.grouping is not None) == (change in ("tokens", "mask"))
    assert (made.scores.held_out is model.scores.held_out) == (change != "other images")


def test_a_denoiser_is_unchanged_until_the_step_ends(together, watched):
    made = btn.Denoiser.of(together.model)
    before = watched(made)
    made.calibrate(PAIR.noisy, axes="CYX", alpha=0.3, groups=3, executor=Inline())
    assert made.model is not before
    assert made.alpha == 0.3
    assert made.calibration_settings.groups == 3
