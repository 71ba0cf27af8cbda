"""Which networks suit an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from napari_btn import samples
from napari_btn.cli import main
from napari_btn.core.compute.pool import Compute, Inline, compute_for
from napari_btn.core.settings import PRESETS, EnsembleSettings
from napari_btn.workflow.scan import Scan, ScanRow, grid_of, scan_steps


def drain(steps):
    seen = []
    while True:
        try:
            seen.append(next(steps).fraction)
        except StopIteration as end:
            return end.value, seen


def test_every_kind_of_the_grid_gets_a_row():
    pair = samples.edx(seed=0, size=(48, 160))
    settings = EnsembleSettings("quick", members=1, train=replace(PRESETS["quick"], steps=4))
    compute = compute_for("auto", 1, executor=Inline())
    made, seen = drain(scan_steps(pair, grid_of((2, 4), (2,), (1, 3)), settings, compute))
    kinds = [(row.depth, row.channels, row.max_dilation, row.receptive_field) for row in made.rows]
    assert kinds == [(2, 2, 1, 2), (2, 2, 3, 3), (4, 2, 1, 4), (4, 2, 3, 7)]
    assert made.rows[2].parameters > made.rows[0].parameters
    assert all(np.isfinite(row.crps) and row.seconds > 0 for row in made.rows)
    assert seen == sorted(seen)
    assert seen[-1] <= 1
    assert made.best.crps == min(row.crps for row in made.rows)
    assert made.to_dict()["best"]["crps"] == made.best.crps
    lines = made.table().splitlines()
    assert len(lines) == 5
    assert sum(line.endswith("best") for line in lines) == 1


def test_a_grid_of_families_has_dilations_where_they_matter():
    kinds = grid_of((6, 10), (4,), (4, 8), ("sms", "unet"))
    assert [(k.family, k.depth, k.max_dilation) for k in kinds] == [
        ("sms", 6, 4), ("sms", 6, 8), ("sms", 10, 4), ("sms", 10, 8), ("unet", 6, 8), ("unet", 10, 8),
    ]  # fmt: skip


def test_a_choice_on_the_blocks_that_calibrate_is_said_to_cost_coverage():
    def row(depth, crps):
        return ScanRow(depth, 2, 1, 2, 10, 1.0, crps, 0.9, 0.9, 1.0)

    assert not Scan((row(2, 0.1),)).chosen_on
    assert "may be covered less" in Scan((row(2, 0.1), row(4, 0.2))).chosen_on
    # twelve kinds with errors of their own on 20 blocks of 30 pixels: the best on them, and the first, on fresh pixels
    rng, covered = np.random.default_rng(3), []
    for _ in range(400):
        errors = np.abs(rng.normal(size=(12, 20, 30)) * np.exp(rng.normal(0, 0.2, (12, 20, 1)))).reshape(
            12, -1
        )
        fresh = np.abs(rng.normal(size=2000) * np.exp(rng.normal(0, 0.2, 2000)))
        offset = np.quantile(errors, 0.9, axis=1, method="higher")
        covered.append([np.mean(fresh <= offset[k]) for k in (0, errors.mean(1).argmin())])
    any_one, best = np.mean(covered, axis=0)
    assert abs(any_one - 0.9) < 0.005
    assert best < 0.885


def test_an_empty_grid_is_refused():
    with pytest.raises(ValueError, match="nothing to scan"):
        next(scan_steps(samples.edx(size=(48, 96)), grid_of(depths=()), EnsembleSettings(), Compute()))


def test_the_command_prints_a_table_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    pair = samples.edx(seed=0, size=(48, 120))
    np.savez(tmp_path / "p.npz", noisy=pair.noisy, clean=pair.clean)
    arguments = [
        "scan", f"{tmp_path / 'p.npz'}:noisy", f"{tmp_path / 'p.npz'}:clean", "--axes", "CYX", "--depths", "2,3",
        "--families", "sms,unet", "--widths", "2", "--dilations", "2", "--steps", "3",
        "--plot", str(tmp_path / "scan.png"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "receptive field" in lines[0]
    assert [line.split()[0] for line in lines] == ["family", "sms", "sms", "unet", "unet"]
    assert (tmp_path / "scan.png").stat().st_size > 1000
    result = CliRunner().invoke(main, [*arguments[:-2], "--depths", "none"])
    assert result.exit_code == 2
    assert "such as 5, 10, 20" in result.stderr


def test_a_scan_is_drawn_with_a_curve_for_each_kind():
    pytest.importorskip("matplotlib")
    from napari_btn.plots import figures as plots

    rows = [ScanRow(d, 4, r, d * r, 100 * d, 1.0, 1 / d, 0.9, 0.9, 0.5) for d in (2, 4, 8) for r in (4, 8)]
    figure = plots.scan(Scan(tuple(rows)).rows)
    assert len(figure.axes[0].lines) == 2
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["2", "2", "4", "4", "8", "8"]
