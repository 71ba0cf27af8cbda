"""Where members start: from pretrained ones where they fit, else from random weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import napari_btn as btn
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import View
from napari_btn.core.networks.family import Blueprint, Extent, Member, graph_of
from napari_btn.core.networks.prior import Prior
from napari_btn.core.networks.sms.family import FAMILY
from napari_btn.core.progress import drain
from napari_btn.core.settings import LEVELS, PRESETS, EnsembleSettings, NetworkSettings, TrainSettings
from napari_btn.core.training.prior import begin_prior, go_on_prior
from napari_btn.io.priors import load_prior, save_prior, shipped_priors
from napari_btn.samples.corpus import Corpus
from napari_btn.workflow.fit import fit_steps
from napari_btn.workflow.start import origin_of

PAIR = btn.samples.blobs(seed=3, n=20, size=64)
SHORT = TrainSettings(steps=6, batch_size=2, patch_px=64)

IMAGE = View(np.zeros((32, 32), np.float32), "YX")


def blueprint(channels=1, ndim=2, **network):
    settings = NetworkSettings(**network)
    return Blueprint(settings, FAMILY.plan(settings, Extent(ndim)), channels, channels, ndim, LEVELS, 0)


def fitted(train=SHORT, pair=PAIR, **more):
    settings = EnsembleSettings(**{"members": 1, "train": train, **more})
    return drain(fit_steps(pair, settings, Compute(executor=Inline())))


def error(model):
    """Mean squared error of the median on held-out pixels."""
    held_out = model.scores.held_out
    return float(np.mean((held_out.quantiles[LEVELS.index(0.5)] - held_out.target) ** 2))


@pytest.fixture(scope="module")
def warm():
    return fitted()


@pytest.fixture(scope="module")
def scratch():
    return fitted(replace(SHORT, start="scratch"))


def test_the_package_has_members_for_the_default_networks():
    for channels, ndim in ((1, 2), (2, 2), (3, 2), (4, 2), (1, 3)):
        priors = shipped_priors(blueprint(channels, ndim))
        assert priors, (channels, ndim)
        for prior in priors:
            assert [m.number for m in prior.members] == list(range(5))
    assert not shipped_priors(blueprint(5, 2))
    assert not shipped_priors(blueprint(1, 2, depth=9))


def test_a_warm_start_is_better_than_random_weights_after_as_many_steps(warm, scratch):
    assert warm.learned.provenance["start"]["from"].startswith("2d-1c-")
    assert scratch.learned.provenance["start"]["from"] == "scratch"
    assert error(warm) < 0.8 * error(scratch)


def test_scratch_is_what_it_was_before_there_were_pretrained_members(scratch, monkeypatch):
    monkeypatch.setattr("napari_btn.workflow.start.shipped_priors", lambda blueprint: ())
    before = fitted()
    assert before.blueprint == scratch.blueprint
    for name, value in before.networks.members[0].weights.items():
        np.testing.assert_array_equal(scratch.networks.members[0].weights[name], value)
    assert before.calibrated.calibration.to_dict() == scratch.calibrated.calibration.to_dict()


def test_the_instant_preset_takes_no_step_and_is_calibrated(tmp_path):
    model = fitted(PRESETS["instant"], preset="instant", members=10)
    shipped = len(load_prior_of(model).members)
    assert len(model.networks.members) == model.settings.members <= shipped
    assert all(not losses for losses in model.learned.losses.values())
    assert 0.8 < float(model.calibrated.report.coverage[0]) < 0.97
    denoiser = btn.Denoiser.of(model, device="cpu")
    denoiser.save(tmp_path / "now.btn")
    again = btn.load(tmp_path / "now.btn", device="cpu")
    # the wiring is that of the pretrained members, not of the seed
    assert again.graph(0) == denoiser.graph(0)
    made = [d.predict(PAIR.noisy[:2], axes="SYX", executor=Inline()).median for d in (denoiser, again)]
    np.testing.assert_array_equal(*made)


def load_prior_of(model):
    """The prior that a model started from."""
    name = model.learned.provenance["start"]["from"]
    return next(p for p in shipped_priors(blueprint()) if p.name == name)


def test_the_first_preview_is_the_instant_result():
    settings = EnsembleSettings(members=1, train=SHORT)
    steps = fit_steps(PAIR, settings, Compute(executor=Inline()), preview_every=1e-9)
    first = next(p.preview for p in steps if p.preview is not None)
    instant = fitted(PRESETS["instant"], preset="instant")
    made = btn.Denoiser.of(instant, device="cpu").predict(PAIR.noisy[:1], axes="SYX", executor=Inline())
    # both are matched to patches of the same image, drawn of the same sizes
    assert np.corrcoef(first.ravel(), made.median.ravel())[0, 1] > 0.99


def test_other_networks_and_channels_start_from_random_weights():
    settings = EnsembleSettings(members=1, train=SHORT, network=NetworkSettings(depth=3, max_dilation=2))
    model = drain(fit_steps(PAIR, settings, Compute(executor=Inline())))
    assert model.blueprint.wiring is None
    assert "no pretrained members for these networks" in model.learned.provenance["start"]["why"]


def test_the_plan_says_what_members_start_from():
    said = btn.Denoiser(members=1).check(PAIR.noisy, PAIR.clean, axes="SYX").origin.sentence(1)
    assert said == "Members start from pretrained members."
    many = btn.Denoiser(members=60).check(PAIR.noisy, PAIR.clean, axes="SYX").origin.sentence(60)
    assert many.endswith("of 60 start from random weights.")
    other = btn.Denoiser(network=NetworkSettings(depth=4)).check(PAIR.noisy, PAIR.clean, axes="SYX").origin
    assert "no pretrained members for these networks and 1 channel in 2D" in other.sentence(1)


def test_members_beyond_those_of_the_package_have_its_wiring_and_random_weights(monkeypatch):
    one = [replace(p, members=p.members[:1]) for p in shipped_priors(blueprint())]
    monkeypatch.setattr("napari_btn.workflow.start.shipped_priors", lambda blueprint: tuple(one))
    train = replace(SHORT, steps=4, warm_share=0.5)
    model = fitted(train, members=2)
    assert model.learned.provenance["start"]["members"] == [0]
    (note,) = (n for n in model.learned.notes if "random weights" in n.text)
    assert note.text.startswith(
        "1 of 2 members took all steps from random weights, because only 1 pretrained one is available"
    )
    assert "ask for 1 member." in note.text
    assert {k: len(v) for k, v in model.learned.losses.items()} == {0: 2, 1: 4}
    assert model.blueprint.wiring == one[0].blueprint.seed
    assert graph_of(model.blueprint, 1) == graph_of(replace(model.blueprint, seed=7), 1)
    assert graph_of(model.blueprint, 1) != graph_of(model.blueprint, 0)


def test_a_member_that_does_not_fit_starts_from_random_weights():
    opposite = replace(PAIR, clean=-PAIR.clean)
    model = fitted(pair=opposite)
    assert model.learned.provenance["start"]["members"] == []
    assert len(model.learned.losses[0]) == 6
    (note,) = (n for n in model.learned.notes if "random weights" in n.text)
    assert "1 of 1 pretrained is no better than a constant on these images" in note.text
    assert "ask for" not in note.text
    instant = fitted(replace(PRESETS["instant"], steps=3), pair=opposite, preset="instant")
    assert any("result without training is not possible" in n.text for n in instant.learned.notes)
    assert len(instant.learned.losses[0]) == 3


def test_an_interrupted_warm_training_goes_on_to_the_same_members():
    settings = EnsembleSettings(members=2, train=replace(SHORT, steps=3))
    whole = drain(fit_steps(PAIR, settings, Compute(executor=Inline())))
    steps = fit_steps(PAIR, settings, Compute(executor=Inline()))
    kept = next(p.checkpoint for p in steps if p.checkpoint)
    steps.close()
    again = drain(fit_steps(PAIR, settings, Compute(executor=Inline()), resume=kept))
    for one, other in zip(whole.networks.members, again.networks.members, strict=True):
        for name, value in one.weights.items():
            np.testing.assert_array_equal(other.weights[name], value)


def test_members_of_a_file_start_on_a_small_image_that_needs_other_dilations(tmp_path):
    usual = blueprint()
    state = begin_prior(usual, 0, Corpus(1, 2, "white", 1).batch)
    path = tmp_path / "own.btn"
    save_prior(Prior("own", usual, (Member(0, 0, state.weights),)), path)
    field = btn.samples.edx(seed=0, size=(70, 141))
    pair = replace(field, noisy=field.noisy[0], clean=field.clean[0], axes="YX", channel_names=None)
    model = fitted(replace(SHORT, steps=2, patch_px=32, start=str(path)), pair)
    assert model.blueprint.receptive_field < usual.receptive_field
    assert model.blueprint.wiring == usual.seed
    assert model.learned.provenance["start"]["from"] == "own"


def test_members_whose_weights_have_other_shapes_are_refused(tmp_path):
    volume = blueprint(1, 3, depth=3, max_dilation=2)
    state = begin_prior(volume, 0, Corpus(1, 3, "white", 1).batch)
    path = tmp_path / "own.btn"
    save_prior(Prior("own", volume, (Member(0, 0, state.weights),)), path)
    flat = replace(volume, plan=replace(volume.plan, flat=(False, True, False)))
    image = View(np.zeros((16, 16, 16), np.float32), "ZYX")
    with pytest.raises(ValueError, match="have other dilations than these networks"):
        origin_of(TrainSettings(start=str(path)), flat, image)


def test_members_of_a_file_are_taken_or_refused(tmp_path):
    small = blueprint(1, 2, depth=3, max_dilation=2)
    corpus = Corpus(1, 2, "white", 1)
    train = TrainSettings(steps=3)
    state = begin_prior(small, 0, corpus.batch)
    state, _ = go_on_prior(small, train, state, corpus.batch, 3)
    path = tmp_path / "own.btn"
    save_prior(Prior("own", small, (Member(0, 0, state.weights),), {"train": train.to_dict()}), path)
    loaded = load_prior(path)
    assert loaded.blueprint == small
    for name, value in state.weights.items():
        # stored in half precision, which has eleven bits
        np.testing.assert_allclose(loaded.members[0].weights[name], value, rtol=2**-10, atol=1e-6)
    assert origin_of(TrainSettings(start=str(path)), small, IMAGE).priors[0].name == "own"
    with pytest.raises(ValueError, match="have other network settings than these networks"):
        origin_of(TrainSettings(start=str(path)), blueprint(), IMAGE)
    with pytest.raises(ValueError, match="have other channels"):
        origin_of(TrainSettings(start=str(path)), replace(small, n_in=2, n_out=2), IMAGE)
    other = replace(small, settings=replace(small.settings, family="dncnn"))
    with pytest.raises(ValueError, match="have other network settings"):
        origin_of(TrainSettings(start=str(path)), other, IMAGE)
    bundle = tmp_path / "trained.btn"
    btn.Denoiser.of(fitted(replace(SHORT, steps=1)), device="cpu").save(bundle)
    with pytest.raises(ValueError, match="holds no members to start from"):
        origin_of(TrainSettings(start=str(bundle)), blueprint(), IMAGE)


@pytest.mark.parametrize(("channels", "ndim"), [(1, 2), (3, 2)])
def test_the_stored_members_are_what_the_command_makes(channels, ndim):
    """The losses of the first steps; a change of corpus, seeds, networks or optimiser changes them."""
    for prior in shipped_priors(blueprint(channels, ndim)):
        record = prior.record
        corpus = Corpus(**record["corpus"])
        made = record["members"][0]
        train = TrainSettings.from_dict(made["train"])
        state = begin_prior(prior.blueprint, 0, corpus.of_member(0).batch)
        _, losses = go_on_prior(prior.blueprint, train, state, corpus.of_member(0).batch, 8)
        # processors round differently, and steps multiply the differences
        np.testing.assert_allclose(losses, made["first_losses"][:8], atol=0.02)


def test_a_lattice_starts_from_random_weights_and_says_why():
    train = replace(PRESETS["quick"], steps=4)
    origins = []
    for pair in (btn.samples.lattice(seed=4, size=(130, 190)), btn.samples.blobs(seed=4, n=8)):
        denoiser = btn.Denoiser("quick", members=1, train=train, device="cpu")
        denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, executor=Inline())
        origins.append(denoiser.provenance["start"])
    lattice, blobs = origins
    assert lattice["from"] == "scratch"
    assert "the image repeats itself every" in lattice["why"]
    assert blobs["from"].startswith("2d-1c-")
