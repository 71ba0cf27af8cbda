"""`Variational`: its refusals, its draws, and its file."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import napari_btn as btn
from napari_btn.cli import main
from napari_btn.io.bundle import Bundle, read_bundle, write_bundle

TINY = btn.VariationalSettings(steps=8, levels=2, width=6, latent=2, batch_size=2, patch_px=16)
COUNTS = btn.NoiseModel(gain=1.0)


def image(shape=(40, 52), seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(4 + 3 * np.sin(np.indices(shape)[-1] / 5)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return btn.Variational.fit(image((3, 40, 52)), "SYX", noise_model=COUNTS, settings=TINY)


def test_draws_and_mean_have_the_axes_of_the_image(model):
    noisy = image((40, 52), seed=1)
    draws = model.draws(noisy, 3, seed=2)
    assert draws.shape == (3, 40, 52)
    assert draws.dtype == np.float32
    np.testing.assert_allclose(model.mean(noisy, 3, seed=2), draws.mean(0), atol=1e-5)
    out = np.zeros_like(draws)
    assert model.draws(noisy, 3, seed=2, out=out) is out
    np.testing.assert_array_equal(out, draws)
    assert "not calibrated" in model.covers


def test_noise_is_measured_where_it_is_not_given():
    rng = np.random.default_rng(0)
    frames = (4 + 3 * np.sin(np.indices((64, 64))[1] / 5)) + rng.normal(0, 0.5, (8, 64, 64))
    made = btn.Variational.fit(frames.astype(np.float32), "TYX", settings=TINY)
    assert made.noise_model.source in ("frames", "repeats")
    np.testing.assert_allclose(np.sqrt(made.noise_model.variance(5.0)), 0.5, rtol=0.2)


def test_a_model_of_one_image_says_where_its_noise_comes_from():
    rng = np.random.default_rng(0)
    field = 20 * (np.indices((96, 96))[0] // 32)
    made = btn.Variational.fit((field + rng.normal(0, 1, field.shape)).astype(np.float32), settings=TINY)
    assert any("measured on the image itself" in note.text for note in made.notes)


def test_latent_variables_that_say_nothing_get_a_note():
    # noise without structure
    noise = np.random.default_rng(0).normal(0, 1, (48, 48)).astype(np.float32)
    settings = replace(TINY, steps=150, learning_rate=0.01, warm_up=0.0)
    made = btn.Variational.fit(noise, noise_model=btn.NoiseModel(gain=0, read_sd=1.0), settings=settings)
    assert sum(made.kl) < 1e-3
    assert any("nearly alike" in note.text for note in made.notes)


def correlated():
    correlation = np.zeros((1, 2, 4))
    correlation[..., :3] = [1, 0.6, 0.3]
    return btn.NoiseModel(gain=1.0, correlation=correlation)


@pytest.mark.parametrize(
    ("noisy", "axes", "noise_model", "said"),
    [
        (image(), "YX", correlated(), "correlated over 2 px"),
        (image(), "YX", btn.NoiseModel(gain=[1.0, 1.0]), "2 channels"),
        (image(), "YX", btn.NoiseModel(gain=0.0), "without noise"),
        (np.where(np.indices((40, 52))[0] == 3, np.nan, image()), "YX", COUNTS, "NaN"),
        (np.ones((40, 40), np.float32), "YX", COUNTS, "constant"),
        (image((12, 52)), "YX", COUNTS, "16 px"),
        (image(), "YC", COUNTS, "lack"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_a_sentence(noisy, axes, noise_model, said):
    with pytest.raises(ValueError, match=said) as refused:
        btn.Variational.fit(noisy, axes, noise_model=noise_model, settings=TINY)
    assert "\n" not in str(refused.value)


def test_an_image_of_another_kind_is_refused(model):
    with pytest.raises(ValueError, match="2 channels"):
        model.draws(image((2, 40, 52)), 1, axes="CYX")
    with pytest.raises(ValueError, match="2D"):
        model.draws(image((2, 40, 52)), 1, axes="ZYX")
    with pytest.raises(ValueError, match="at least one draw"):
        model.draws(image(), 0)
    with pytest.raises(ValueError, match="must be an array of shape"):
        model.draws(image(), 2, out=np.zeros((2, 3, 3), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        model.mean(np.full((40, 52), np.nan), 1)


def test_a_loaded_model_draws_the_same_pixels(model, tmp_path):
    path = tmp_path / "model.vae"
    model.save(path)
    loaded = btn.Variational.load(path)
    np.testing.assert_array_equal(loaded.draws(image(), 2), model.draws(image(), 2))
    for name in ("settings", "seed", "bound", "kl", "axes", "channel_names", "notes", "provenance"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.noise_model.to_dict() == model.noise_model.to_dict()


def test_a_damaged_file_gives_one_sentence(model, tmp_path):
    path = tmp_path / "model.vae"
    model.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-40], whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="Copy it again") as refused:
            btn.Variational.load(path)
        assert "\n" not in str(refused.value)


def test_a_file_with_other_weights_or_without_a_part_is_damaged(model, tmp_path):
    path = tmp_path / "model.vae"
    model.save(path)
    bundle = read_bundle(path)
    cut = {k: v[:1] for k, v in bundle.arrays.items()}
    less = {k: v for k, v in bundle.values.items() if k != "noise_model"}
    for wrong in (Bundle(bundle.values, cut), Bundle(less, bundle.arrays)):
        write_bundle(wrong, path)
        with pytest.raises(ValueError, match="it is damaged"):
            btn.Variational.load(path)


def test_other_bundles_are_told_from_a_variational_model(model, tmp_path):
    path = tmp_path / "model.vae"
    model.save(path)
    with pytest.raises(ValueError, match=r"Variational\.load"):
        btn.load(path)
    write_bundle(Bundle({"kind": "prior"}, {}), path)
    with pytest.raises(ValueError, match="no variational model"):
        btn.Variational.load(path)


def test_the_estimate_grows_with_the_work():
    short = btn.Variational.estimate((64, 64), "YX", TINY)
    long = btn.Variational.estimate((64, 64), "YX", replace(TINY, steps=80000))
    assert 0 < short.seconds < long.seconds
    assert "CPU core" in short.note


def test_the_command_writes_draws_and_a_model_that_draws_the_same(tmp_path):
    np.save(tmp_path / "noisy.npy", image())
    COUNTS.save(tmp_path / "noise.json")
    base = [str(tmp_path / "noisy.npy"), "--axes", "YX", "-n", "2", "--device", "cpu"]
    kept = str(tmp_path / "model.vae")

    def run(*arguments):
        return CliRunner().invoke(main, ["plausible", *base, *arguments])

    trained = run(
        "-o", str(tmp_path / "a.npz"), "--noise", str(tmp_path / "noise.json"), "--steps", "3", "--keep", kept
    )
    assert trained.exit_code == 0, trained.output
    assert "not calibrated" in trained.stdout
    again = run("-o", str(tmp_path / "b.npz"), "--model", kept)
    assert again.exit_code == 0, again.output
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert {"mean", "draw_1", "draw_2"} <= set(a.files)
        for name in ("mean", "draw_1", "draw_2"):
            np.testing.assert_array_equal(a[name], b[name])
    refused = run("-o", str(tmp_path / "c.npz"), "--model", kept, "--steps", "3")
    assert refused.exit_code == 2
    assert "--model" in refused.stderr
