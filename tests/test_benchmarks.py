"""The benchmarks still run: their smallest settings, and nothing of their speed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from napari_btn.core.remeasure.regions import Region

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "benchmarks").is_dir():
    pytest.skip("benchmarks are in the repository only", allow_module_level=True)
pytest.importorskip("psutil", reason="benchmarks watch processes")


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_every_benchmark_that_is_named_can_be_run():
    for name in importlib.import_module("benchmarks.__main__").NAMES:
        assert callable(importlib.import_module(f"benchmarks.{name}").run), name


@pytest.mark.parametrize(("ndim", "shape"), [(2, (2, 3, 16, 16)), (3, (1, 3, 8, 8, 8))])
def test_the_reference_has_as_many_weights_as_ours(ndim, shape):
    result = importlib.import_module("benchmarks.reference").compare(ndim, shape, 1)
    weights = {row["execution"]: row["weights"] for row in result.rows}
    assert all(0.95 < n / weights["ours"] < 1.05 for n in weights.values()), weights


def test_results_are_written_with_the_machine_and_which_bars_are_met(tmp_path):
    table = importlib.import_module("benchmarks.table")
    result = table.Result(
        "Speed", bars=[table.Bar("fast", 2.0, 3.0), table.Bar("small", 2.0, 3.0, above=False)]
    )
    result.add({"what": "a", "s": 0.12345})
    read = json.loads(table.write([result], "speed", tiny=True, out=tmp_path).read_text(encoding="utf-8"))
    assert [bar["met"] for bar in read["results"][0]["bars"]] == [False, True]
    assert read["machine"]["cores"] >= 1
    assert read["machine"]["versions"]["torch"]
    assert "| a | 0.1235 |" in result.markdown()


@pytest.mark.parametrize(("asked", "count"), [((), 40), (("--trainings", "3"), 3)])
def test_the_number_of_trainings_is_an_option_of_a_benchmark(tmp_path, monkeypatch, asked, count):
    table, seen = importlib.import_module("benchmarks.table"), []
    monkeypatch.setattr("sys.argv", ["claims", "--out", str(tmp_path), *asked])
    table.main("claims", lambda tiny, trainings: seen.append((tiny, trainings)) or [], trainings=40)
    assert seen == [(False, count)]


def test_the_error_of_an_area_is_that_of_trainings_not_of_fields():
    claims, rng = importlib.import_module("benchmarks.claims"), np.random.default_rng(0)
    areas = rng.uniform(50, 150, 600 * claims.FIELDS)
    sums = areas * np.repeat(rng.normal(1, 0.2, 600), claims.FIELDS)  # fields of a training are wrong alike
    sums[: claims.FIELDS] = np.nan  # no map in the first one
    ratio, error = claims._ratio(sums, areas)
    assert abs(ratio - 1) < 3 * error
    # 599 trainings fix a standard deviation within 3 %, three times; areas differ by a few percent more
    assert error == pytest.approx(0.2 / np.sqrt(599), rel=0.12)


def test_the_peers_choose_what_is_best_on_the_training_images():
    peers = importlib.import_module("benchmarks.peers")
    samples = importlib.import_module("napari_btn.samples")
    pair = samples.blobs(seed=0, n=3)
    sigma, made = peers.best(peers.gaussian, (0.5, 2.0, 6.0), pair.noisy, pair.clean)
    assert 1.5 < sigma < 3.0
    assert peers.scores(pair.clean, made, data_range=4.0)["PSNR"] > 25


def test_two_materials_differ_in_texture_alone():
    materials = importlib.import_module("benchmarks.materials")
    pair, material = materials.textured(seed=0, side=256)
    again, _ = materials.textured(seed=0, side=256)
    np.testing.assert_array_equal(pair.noisy, again.noisy)
    fine, coarse = material == 1, material == 2
    assert abs(pair.clean[fine].mean() - pair.clean[coarse].mean()) < 0.02
    assert 0.9 < pair.clean[fine].std() / pair.clean[coarse].std() < 1.1
    rough = np.abs(ndimage.laplace(pair.clean))
    assert rough[fine].mean() > 3 * rough[coarse].mean()
    assert abs(pair.noisy[fine].mean() - pair.clean[fine].mean()) < 0.02
    bank = materials.filter_bank(pair.noisy)
    assert bank.shape == (7, 256, 256)
    assert np.isfinite(bank).all()


def test_windows_are_judged_by_the_wrong_area_of_the_whole_field_once_they_are_replaced():
    loop, rng = importlib.import_module("benchmarks.loop"), np.random.default_rng(0)
    before, again = rng.random((2, 60, 90)) < [[[0.3]], [[0.1]]]
    windows = [Region(0, 0, 20, 30), Region(30, 50, 20, 30)]
    after = before.copy()
    for window in windows:
        after[window.slices] = again[window.slices]
    gain = before.astype(float) - again
    share = loop.removed(gain, windows, float(before.sum()))
    assert share == pytest.approx(1 - after.sum() / before.sum())
    # of windows at random, the mean
    sizes = loop.Sizes((60, 90), 20, 15, 1, None)
    even = np.full((60, 90), 1 / 4200)
    assert loop.layouts(even, sizes, 1.0, 0) == pytest.approx(loop.COUNT * 15**2 / 4200)


def test_the_energy_score_of_draws_is_that_of_scoringrules():
    scoringrules = pytest.importorskip("scoringrules")
    draws = importlib.import_module("benchmarks.draws")
    rng = np.random.default_rng(0)
    made, truth = rng.normal(0, 1, (7, 4, 5, 6)), rng.normal(0, 1, (4, 5, 6))
    flat = made.reshape(7, 4, -1).transpose(1, 0, 2)
    want = scoringrules.es_ensemble(truth.reshape(4, -1), flat, estimator="fair").mean()
    np.testing.assert_allclose(draws.energy_score(made, truth), want, rtol=1e-10)


def test_windows_hold_the_pixels_that_lie_together():
    draws = importlib.import_module("benchmarks.draws")
    images = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    cut = draws.in_windows(images, 2)
    assert cut.shape == (2, 3 * 2 * 3, 2, 2)
    np.testing.assert_array_equal(cut[1, 6 + 3 + 1], images[1, 1, 2:4, 2:4])
