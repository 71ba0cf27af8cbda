"""The whole walk without a window: train, tokens, pick, paint, export, propose, measure again, improved."""

from __future__ import annotations

import numpy as np

import napari_btn as btn
from napari_btn.core.compute.pool import Inline
from napari_btn.core.remeasure.scores import score_map, width_outside
from napari_btn.io.images import read_image
from napari_btn.io.labels import write_labels
from napari_btn.io.regions import read_regions, write_regions
from napari_btn.io.tables import read_table


def test_the_whole_workflow(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    field = btn.samples.edx(seed=3, size=(64, 240))
    noisy, truth = field.noisy, field.clean
    known = np.s_[:, :, :130]
    denoiser = btn.Denoiser(
        members=1,
        network=btn.NetworkSettings(depth=4, channels=2, inputs=2, dilations=(1, 2, 4, 2)),
        train=btn.TrainSettings(steps=30, patch_px=32),
    )
    about = {"axes": "CYX", "channel_names": field.channel_names, "pixel_size": (0.5, 0.5), "unit": "um"}
    denoiser.fit(noisy[known], truth[known], executor=Inline(), **about)
    before = denoiser.predict(noisy, axes="CYX", executor=Inline())

    tokens = denoiser.tokens(noisy, 6, axes="CYX", prediction=before, order_by="Fe", executor=Inline())
    richest = int(np.argmax(tokens.table["Fe median"])) + 1
    painted = tokens.labels.copy()
    painted[:8, :8] = richest
    view = tokens.painted(painted)
    record = {"names": {str(richest): "iron"}}
    image, table, _ = write_labels(
        painted, view.table, tmp_path / "tokens.ome.tif", axes="YX", pixel_size=(0.5, 0.5), unit="um",
        provenance=record,
    )  # fmt: skip
    np.testing.assert_array_equal(read_image(image).data, painted)
    assert sum(int(n) for n in read_table(table)["pixels"]) == painted.size

    # where the iron is, or may be, to the right of what is known
    free = np.zeros(painted.shape)
    free[:, 130:] = 1 + (painted[:, 130:] == richest)
    score = score_map(before)
    regions = btn.propose_regions(score, (24, 24), 3, (0.5, 0.5), "um", mask=free)
    write_regions(regions, tmp_path / "regions.csv")
    regions = read_regions(tmp_path / "regions.csv")
    assert len(regions) == 3
    assert all(r.x >= 130 for r in regions)

    windows = [(r, truth[(slice(None), *r.slices)]) for r in regions]
    more = btn.TrainSettings(steps=60, patch_px=32)
    gain = denoiser.refine(
        noisy[known], truth[known], windows=windows, image=noisy, train=more, executor=Inline()
    )
    denoiser.save(tmp_path / "better.btn")
    after = btn.load(tmp_path / "better.btn").predict(noisy, axes="CYX", executor=Inline())
    assert gain.windows == 3
    assert gain.after.winkler.mean() < gain.before.winkler.mean()
    outside = np.ones(painted.shape, bool)
    outside[:, :130] = False
    for r in regions:
        outside[r.slices] = False
    error = [np.sqrt(np.square((p.median - truth)[:, outside]).mean(1)) for p in (before, after)]
    assert error[1].mean() < error[0].mean()
    assert width_outside(after, regions).mean() < width_outside(before, regions).mean()
