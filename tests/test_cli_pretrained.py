"""The commands of pretrained networks."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from napari_btn import samples
from napari_btn.cli import main
from napari_btn.io.priors import load_prior


def call(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.fixture
def files(tmp_path):
    pair = samples.lattice(seed=0, size=(160, 160))
    np.save(tmp_path / "noisy.npy", pair.noisy)
    np.save(tmp_path / "clean.npy", pair.clean)
    return tmp_path


def test_a_first_look_is_written_and_says_what_it_is(files):
    out = files / "look.npz"
    result = call("now", files / "noisy.npy", "-o", out, "--axes", "YX")
    assert result.exit_code == 0, result.output
    assert "no interval is promised" in result.stderr
    with np.load(out) as maps:
        assert maps["median"].shape == (160, 160)
    again = call("now", files / "noisy.npy", "-o", out, "--axes", "YX")
    assert again.exit_code == 2
    assert "give --force to replace it" in again.stderr


def test_own_members_are_pretrained_and_started_from(files):
    out, model = files / "prior.btn", files / "model.btn"
    result = call("pretrain", files / "clean.npy", "-o", out, "--axes", "YX", "--members", 1, "--steps", 10)
    assert result.exit_code == 0, result.output
    prior = load_prior(out)
    assert len(prior.members) == 1
    assert prior.record["corpus"]["images"] == 1
    train = ("train", files / "noisy.npy", files / "clean.npy", "-o", model, "--axes", "YX", "--members", 1)
    result = call(*train, "--steps", 2, "--start", out, "--device", "cpu")
    assert result.exit_code == 0, result.output
    info = call("info", model)
    assert info.exit_code == 0
    # a prior of ten steps may fit or not; it was tried
    assert "start:       prior" in info.stdout
    result = call(*train, "--steps", 2, "--start", files / "nothing.btn", "--force")
    assert result.exit_code == 2
    assert "There is no" in result.stderr


def test_images_that_do_not_fit_are_refused(files):
    np.save(files / "flat.npy", np.ones((40, 40), np.float32))
    result = call("pretrain", files / "flat.npy", "-o", files / "p.btn", "--axes", "YX")
    assert result.exit_code == 2
    assert "constant" in result.stderr.splitlines()[-1]
