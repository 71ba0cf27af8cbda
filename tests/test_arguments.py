"""Arguments of the public interface: what can't be meant is one sentence, what is meant alike is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn.cli import main
from napari_btn.cli.files import say_differences
from napari_btn.core.calibration.conformal import NOT_CALIBRATED
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.image import Image
from napari_btn.core.settings import whole_numbers
from napari_btn.widgets.denoise.pairing import differences
from napari_btn.workflow.inputs import size_note

PAIR = btn.samples.edx(seed=0, size=(48, 120))
X, Y = PAIR.noisy, PAIR.clean
WINDOW = (slice(4, 8), slice(10, 14))


def tiny(**options):
    network = btn.NetworkSettings(depth=3, channels=2, inputs=2, head_units=8)
    train = btn.TrainSettings(steps=2, batch_size=2, patch_px=16, start="scratch")
    return btn.Denoiser(members=1, network=network, train=train, device="cpu", **options)


@pytest.fixture(scope="module")
def denoiser():
    return tiny().fit(
        X,
        Y,
        axes="CYX",
        channel_names=("Si", "Al", "Fe"),
        pixel_size=(0.5, 0.25),
        unit="um",
        executor=Inline(),
    )


@pytest.fixture(scope="module")
def prediction(denoiser):
    return denoiser.predict(X, executor=Inline())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p.exceedance("a", channel=0), "threshold is 'a'"),
        (lambda p: p.exceedance(None, channel=0), "threshold is None"),
        (lambda p: p.exceedance(0.2, channel=1.5), "Channel is 1.5"),
        (lambda p: p.exceedance(0.2, channel=True), "Channel is True"),
        (lambda p: p.exceedance(0.2, channel=[1]), r"Channel is \[1\]"),
        (lambda p: p.exceedance(0.2, channel=1, side="left"), "side is 'left'"),
        (lambda p: p.select(float("nan"), channel=0), "threshold is nan"),
        (lambda p: p.select(0.2, channel=0, level="a"), "level is 'a'"),
        (lambda p: p.draws(2.5), "n is 2.5"),
        (lambda p: p.draws(2, seed="a"), "seed is 'a'"),
        (lambda p: p.fuse("here", np.ones((3, 4, 4))), "window is 'here'; give a Region"),
        (lambda p: p.fuse((1, 2), np.ones((3, 4, 4))), r"window is \(1, 2\); give a Region"),
        (
            lambda p: p.fuse(WINDOW, np.full((3, 4, 4), -1.0)),
            r"48 of 48 measured values are negative \(down to -1\)",
        ),
        (lambda p: p.fuse(WINDOW, -np.eye(4)[None].repeat(3, 0)), "12 of 48 .* standard deviation"),
        (lambda _: btn.evaluate(X, Y), "result of Denoiser.predict"),
        (lambda p: p.draws(True), "n is True"),
        (lambda p: p.fuse(WINDOW, np.ones((3, 4, 4)), scene="a"), "scene is 'a'; the maps have 1"),
        (lambda p: btn.propose_regions(p.width[0], 9, count=2.5), "count is 2.5"),
        (lambda p: btn.propose_regions(p.width[0], 9, margin="a"), "margin is 'a'"),
        (lambda p: btn.propose_regions(p.width[0], 9, unit=3), "unit is 3"),
        (lambda p: p.draws(1, out=[1]), r"out is \(\(\), 'list'\)"),
        (lambda p: p.draws(1, out=np.zeros((1, *X.shape), int)), "array of shape .* and of float32"),
        (lambda p: p.statistic("mean", 0, n=20.5), "n is 20.5"),
        (lambda p: p.statistic("mean", 0, seed="a"), "seed is 'a'"),
        (lambda p: p.statistic("mean", 0, alpha="a"), "alpha is 'a'"),
        (lambda p: p.statistic("mean", 0, region="here"), "region is 'here'; it must be a Region"),
        (lambda p: p.statistic("mean", 0, region=(1, 2)), r"region is \(1, 2\); it must be one slice"),
        (lambda p: p.statistic("mean", 0, region=np.full(X.shape[1:], np.nan)), "at least one pixel"),
        (lambda p: p.statistic("area_above", 0, threshold=np.nan), "threshold is nan"),
        (lambda p: p.statistic("grains", 0, threshold="a"), "threshold is 'a'"),
        (lambda p: p.statistic("grains", 0, threshold=0.2, smallest_px="a"), "smallest_px is 'a'"),
    ],
)
def test_wrong_arguments_of_a_prediction_are_one_sentence(prediction, call, words):
    with pytest.raises(ValueError, match=words):
        call(prediction)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: d.predict(X, axes=3), "Axes are 3"),
        (lambda d: d.predict(X, axes=("C", "Y", "X")), "as a text"),
        (lambda d: d.equivalent_filter(X, at=3, channel=0), "at is 3"),
        (lambda d: d.equivalent_filter(X, at=(1.5, 2), channel=0), r"at is \(1.5, 2\)"),
        (lambda d: d.tokens(X, 3).cut(2.5), "whole number"),
        (lambda _: tiny().fit(X, Y, axes=None), "Axes are None"),
        (lambda _: tiny().fit(X, Y, axes="CYX", channel_names=3), "channel_names is 3"),
        (lambda _: tiny().fit(X, Y, axes="CYX", channel_names=(1, 2, 3)), r"channel_names is \(1, 2, 3\)"),
        (lambda _: tiny().fit(X, Y, axes="CYX", unit=3), "unit is 3"),
        (lambda _: tiny(supervision="simulation").fit(None, Y, axes="CYX", noise_model="a.json"), "load"),
        (lambda _: btn.load("nothing.btn"), "There is no bundle"),
        (lambda d: d.predict(None), "Image is None, which is no image"),
        (lambda d: d.predict("a.tif"), "Image is 'a.tif', which is no image"),
        (lambda _: tiny().fit(None, Y, axes="CYX"), "Noisy is None, which is no image"),
        (lambda d: d.equivalent_filter(X, (1, 2), channel=0, noise_factor="a"), "noise_factor is 'a'"),
        (lambda d: d.equivalent_filter(X, (1, 2), channel=0, scene="a"), "scene a; the image has .* 1 scene"),
        (lambda d: d.adapt(X, loss="resample", noise_model="a"), "noise_model is 'a'; give a NoiseModel"),
        (lambda d: d.adapt(X, settings={}), "settings is {}; it must be AdaptSettings"),
        (lambda _: btn.compare(None), "Noisy is None"),
        (lambda _: btn.compare(X[0], filters=3), "filters is 3; it must be some of gaussian"),
        (lambda _: btn.compare(X[0], filters=[3]), r"filters is \[3\]"),
        (lambda _: btn.compare(X[0], denoiser="a.btn"), "denoiser is 'a.btn'; it must be a Denoiser"),
        (lambda _: btn.compare(X[0], noise_model="a"), "noise_model is 'a'; give a NoiseModel"),
        (lambda _: btn.compare(X[0], alpha=2), "alpha is 2"),
        (lambda _: btn.NoiseModel.fit(None), "Frames is None"),
        (lambda _: btn.NoiseModel(gain=[]), r"gain is \[\]; it must be a number for each channel"),
        (lambda _: btn.Variational.fit(X[0], settings={}), "settings is {}"),
        (lambda _: btn.Variational.fit(X[0], seed="a"), "seed is 'a'"),
        (lambda _: btn.Variational.fit(X[0], noise_model="a"), "noise_model is 'a'; give a NoiseModel"),
        (lambda _: btn.load(None), "path is None; give the name of a file"),
        (lambda _: btn.load(3), "path is 3"),
        (lambda _: btn.load(""), "path is ''"),
        (lambda d: d.save(None), "path is None"),
        (lambda d: d.predict(X, out=3), "path is 3"),
        (lambda _: btn.Variational.load(None), "path is None"),
        (lambda _: btn.NoiseModel.load(None), "path is None"),
        (lambda _: btn.NoiseModel(gain=1).save(None), "path is None"),
        (lambda _: tiny().fit(X, Y, axes="CYX", resume=3), "resume is 3; it must be a Progress.checkpoint"),
        (lambda _: tiny().fit(X, Y, axes="CYX", resume=(1, 2)), r"resume is \(1, 2\)"),
    ],
)
def test_wrong_arguments_of_a_denoiser_are_one_sentence(denoiser, call, words):
    with pytest.raises(ValueError, match=words):
        call(denoiser)


def test_an_adapted_prediction_is_not_fused_and_says_why(prediction):
    adapted = replace(prediction, covers=NOT_CALIBRATED, held_out=None, calibration=None)
    with pytest.raises(ValueError, match="adapted to an image and not calibrated since"):
        adapted.fuse(WINDOW, np.ones((3, 4, 4)))


def test_pixels_that_are_nan_lie_outside_a_painted_region(prediction):
    inside = np.zeros(X.shape[1:], bool)
    inside[3:30, 5:50] = True
    painted = np.where(inside, 1.0, np.nan)
    found = [
        prediction.statistic("mean", 0, region=r, n=19).values for r in (inside, painted, painted.tolist())
    ]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_readings_with_normal_noise_may_be_negative_and_counts_may_be_unknown(prediction):
    readings = prediction.fuse(WINDOW, np.full((3, 4, 4), -1.0), sd=1.0)
    assert np.isfinite(readings.median).all()
    unknown = prediction.fuse(WINDOW, np.full((3, 4, 4), np.nan))
    assert np.array_equal(unknown.median, prediction.median)


def test_a_unit_may_be_unknown_and_one_filter_is_a_name():
    assert tiny().check(X, Y, axes="CYX", unit=None) is not None
    one = btn.compare(X[0], filters="gaussian")
    assert "gaussian" in one.images


def test_a_noise_model_that_adds_no_noise_is_named():
    dark = btn.NoiseModel(gain=2.0, offset=100.0)
    with pytest.raises(ValueError, match=r"adds no noise .* offset \(100\)"):
        tiny(supervision="simulation").fit(None, Y[0], axes="YX", noise_model=dark)


@pytest.mark.parametrize(
    ("size", "unit", "said"),
    [
        ((0.5, 0.25), "um", ""),
        ((500, 250), "nm", ""),
        ((0.5, 0.25), "µm", ""),
        ((0.5, 0.25), "px", ""),
        (None, None, ""),
        ((0.2, 0.25), "um", "pixels of 0.2 x 0.25 µm, the networks were trained at 0.5 x 0.25 µm"),
        ((0.5, 0.25), "nm", "pixels of 0.5 x 0.25 nm"),
    ],
)
def test_another_pixel_size_is_noted_wherever_an_image_is_predicted(denoiser, capsys, size, unit, said):
    found = denoiser.predict(X, pixel_size=size, unit=unit, quantiles=False, executor=Inline()).notes
    texts = [note.text for note in found if "pixels of" in note.text]
    assert len(texts) == bool(said)
    assert said in " ".join(texts)
    image = Image(X, "CYX", denoiser.channel_names, size, unit, name="map")
    say_differences(image, denoiser)
    assert (said in capsys.readouterr().err) if said else not capsys.readouterr().err
    assert [text for _, text in differences(image, denoiser.model)] == texts


def test_a_pixel_size_follows_the_axes(denoiser):
    assert size_note(denoiser.model, "XYC", (0.25, 0.5), "um") is None
    assert size_note(denoiser.model, "XYC", (0.5, 0.25), "um") is not None
    unknown = replace(denoiser.model, learned=replace(denoiser.model.learned, pixel_size=None))
    assert size_note(unknown, "CYX", (0.5, 0.25), "um") is None


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("axes", ["ZYX", "YX"])
def test_images_of_one_or_two_slices_or_rows_train(axes, slices):
    place = slice(0, slices) if axes == "ZYX" else (0, slice(0, slices))
    made = tiny().fit(X[place], Y[place], axes=axes, executor=Inline())
    assert made.predict(X[place], executor=Inline()).median.shape == X[place].shape


def test_results_are_shown_on_one_line(denoiser, prediction):
    assert repr(tiny()) == "<Denoiser standard, 1 x sms, pair, alpha=0.1, not trained>"
    assert "trained on Si, Al, Fe" in repr(denoiser)
    assert repr(prediction) == (
        "<Prediction CYX (3, 48, 120) of channels Si, Al, Fe, 90 % intervals, covers='clean'>"
    )


@pytest.mark.parametrize("text", ["", "5,", "5, x", "0", "-1", "2.5", "1_0", "+5", "²", "5; 10"])
def test_a_list_of_numbers_is_read_alike_by_dock_and_command_line(text):
    with pytest.raises(ValueError, match="must be whole numbers above 0, with commas between"):
        whole_numbers("Depths", text)
    result = CliRunner().invoke(main, ["scan", "a.npy", "b.npy", "--depths", text])
    assert result.exit_code == 2
    assert f"--depths: {text!r} must be whole numbers above 0" in result.stderr
    assert whole_numbers("Depths", " 5, 10,20 ") == (5, 10, 20)
