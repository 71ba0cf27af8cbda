"""The closed loop: what five proposed windows are worth, what a window is worth itself, and what fused intervals cover.

The left of a field has a slow scan and is for training. Windows of the rest are measured again and replaced
by what is known then. The objective is the wrongly decided area (or the squared error) of the whole rest,
not of what lies outside of the windows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import napari_btn as btn
from benchmarks.measure import spent
from benchmarks.table import Bar, Result, main
from napari_btn.core.calibration.dose import Dose
from napari_btn.core.calibration.neighbours import Errors
from napari_btn.core.compute.pool import Inline
from napari_btn.core.progress import drain
from napari_btn.core.remeasure.expected import Decision, decided, wrong_now
from napari_btn.core.remeasure.regions import label_image
from napari_btn.core.remeasure.scores import combine_channels, score_map
from napari_btn.core.settings import TrainSettings
from napari_btn.workflow.propose import expected_wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_btn.core.remeasure.regions import Region

    Map = NDArray[np.floating[Any]]

SEEDS, LAYOUTS, COUNT = 8, 200, 5
SIZE, KNOWN, SIDE = (256, 544), 256, 48
DOSE = (2.0, 2.0, 0.33)  # counts of the fast scan at a rate of one, of Si, Al, Fe
DWELLS = (10.0, 100.0)
QUESTIONS = (("Fe > .25", 2, 0.25), ("Fe > .5", 2, 0.5), ("Al > .3", 1, 0.3), ("Si > .6", 0, 0.6))
ERROR = "squared error"
RATIO, WITHIN, FUSED = 1.7, 0.2, 0.75
TRAININGS, FIRST, COVERED = 6, 991_000, 0.88  # fused intervals: seeds from here on are used for nothing else


class Sizes(NamedTuple):
    """Sizes of a run."""

    size: tuple[int, int]
    known: int
    side: int
    seeds: int
    train: TrainSettings | None


def trained(seed: int, sizes: Sizes) -> tuple[btn.Prediction, NDArray[np.float32]]:
    """Return the prediction of a field whose left was trained on, and the truth."""
    pair = btn.samples.edx(seed=seed, size=sizes.size)
    noisy, clean = pair.noisy, np.asarray(pair.clean)
    left = (slice(None), slice(None), slice(0, sizes.known))
    denoiser = btn.Denoiser("quick", members=2, seed=seed, train=sizes.train)
    denoiser.fit(noisy[left], clean[left], axes="CYX", channel_names=pair.channel_names, executor=Inline())
    return denoiser.predict(noisy, axes="CYX"), clean


def removed(gain: Map, regions: Sequence[Region], total: float) -> float:
    """Return the share of a loss that the windows remove, given what each pixel removes."""
    return float(sum(gain[r.slices].sum() for r in regions)) / total


def layouts(gain: Map, sizes: Sizes, total: float, seed: int) -> float:
    """Return the mean share that random layouts of disjoint windows remove."""
    rng, side = np.random.default_rng(seed), sizes.side
    shares = []
    for _ in range(LAYOUTS):
        made: list[tuple[int, int]] = []
        while len(made) < COUNT:
            y = int(rng.integers(0, sizes.size[0] - side + 1))
            x = int(rng.integers(sizes.known, sizes.size[1] - side + 1))
            if all(abs(y - b) >= side or abs(x - a) >= side for b, a in made):
                made.append((y, x))
        shares.append(sum(gain[y : y + side, x : x + side].sum() for y, x in made) / total)
    return float(np.mean(shares))


def raster(gain: Map, sizes: Sizes, total: float) -> float:
    """Return the share that a strip of the same area removes, scanned row by row from the top."""
    width = sizes.size[1] - sizes.known
    return float(gain[:, sizes.known :].ravel()[: COUNT * sizes.side**2 // width * width].sum()) / total


def one_row(
    scores: dict[str, Map], gain: Map, loss: Map, sizes: Sizes, seed: int
) -> tuple[dict[str, float], list[Region]]:
    """Return the share removed by each layout, and the windows of the last score."""
    free = np.zeros(sizes.size, bool)
    free[:, sizes.known :] = True
    total = float(loss[free].sum())
    row = {"random": layouts(gain, sizes, total, seed), "raster": raster(gain, sizes, total)}
    regions: list[Region] = []
    for name, score in (*scores.items(), ("oracle", np.maximum(loss, 0))):
        found = btn.propose_regions(score, (sizes.side,) * 2, COUNT, mask=free)
        row[name] = removed(gain, found, total)
        regions = found if name != "oracle" else regions
    return row, regions


def one_seed(
    seed: int, sizes: Sizes
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of one field: shares removed, expected areas, and decisions in windows."""
    before, clean = trained(seed, sizes)
    rng = np.random.default_rng(1000 + seed)
    once = Dose(DOSE, (1.0,) * 3)
    assert before.held_out is not None
    errors = drain(Errors.of_steps(before.held_out))
    whole = (slice(0, sizes.size[0]), slice(sizes.known, sizes.size[1]))
    scan, fused = {}, {}
    for dwell in DWELLS:
        dose = np.asarray(DOSE) * dwell
        counts = rng.poisson(clean * dose[:, None, None])
        scan[dwell] = counts / dose[:, None, None]
        fused[dwell] = before.fuse(whole, counts[(slice(None), *whole)], dose=dose)
    general: dict[str, dict[str, Any]] = {
        "width": {"width": "plain"}, "relative width": {"width": "relative"}, "spread": {"spread": "plain"},
    }  # fmt: skip
    shares, areas, windows = [], [], []
    for name, c, threshold in QUESTIONS:
        truth = clean[c] > threshold
        wrong = {"denoised": (before.exceedance(threshold, c) > 0.5) != truth}
        for dwell in DWELLS:
            wrong[f"scan {dwell:g}"] = (scan[dwell][c] > threshold) != truth
            wrong[f"fused {dwell:g}"] = (fused[dwell].exceedance(threshold, c) > 0.5) != truth
        old = wrong["denoised"].astype(float)
        scores = {k: score_map(before, channel=c, **how) for k, how in general.items()}
        scores["4p(1-p)"] = score_map(before, channel=c, threshold=threshold)
        for kind, new in (("truth", 0 * old), *((f"{d:g}", wrong[f"fused {d:g}"]) for d in DWELLS)):
            row, regions = one_row(scores, old - new, old, sizes, seed)
            shares.append({"seed": seed, "measured": kind, "row": name, **row})
        inside = np.zeros(sizes.size, bool)
        for region in regions:
            inside[region.slices] = True
        windows.append({"row": name, **{k: float(w[inside].mean()) for k, w in wrong.items()}})
        decision = [Decision(c, threshold)]
        locked = (decided(before, decision[0]) > 0.5) != truth
        known = float(wrong_now(before, decision[0])[:, : sizes.known].sum())
        for dwell in (*DWELLS, np.inf):
            dose = once if np.isfinite(dwell) else None
            expected = expected_wrong(before, decision, regions, dose=dose, dwell=dwell, errors=errors)
            even = np.where(inside, wrong.get(f"fused {dwell:g}", False), locked)[:, sizes.known :]
            areas.append({"row": name, "dwell": dwell, "expected now": expected.now - known,
                          "true now": float(locked[:, sizes.known :].sum()),
                          "expected after": expected.after - known, "true after": float(even.sum())})  # fmt: skip
    squared = np.square(before.median - clean)
    loss = (squared / squared[:, :, sizes.known :].mean((1, 2), keepdims=True)).sum(0)
    scores = {k: score_map(before, **how) for k, how in general.items()}
    scores["width by rank"] = combine_channels(before.width)
    for kind, after in (("truth", clean), *((f"{d:g}", fused[d].median) for d in DWELLS)):
        new = (np.square(after - clean) / squared[:, :, sizes.known :].mean((1, 2), keepdims=True)).sum(0)
        row, _ = one_row(scores, loss - new, loss, sizes, seed)
        shares.append({"seed": seed, "measured": kind, "row": ERROR, **row})
    return shares, areas, windows


def mean_rows(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mean of each figure over all rows that agree in these keys, in order of appearance."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[k] for k in keys), []).append(row)
    made = []
    for key, members in groups.items():
        figures = [k for k in members[0] if k not in (*keys, "seed")]
        made.append(
            dict(zip(keys, key, strict=True)) | {k: float(np.mean([m[k] for m in members])) for k in figures}
        )
    return made


def inside_shares(maps: btn.Prediction, clean: NDArray[np.floating[Any]], where: NDArray[np.bool_]) -> Map:
    """Return the share of the truth inside the intervals of each channel, (C,), over some pixels."""
    inside = (maps.lower <= clean) & (clean <= maps.upper)
    return np.asarray(inside[:, where].mean(1))


def coverage(tiny: bool) -> Result:
    """Count what intervals cover in fresh fields: measured again as a whole, and in windows that were proposed."""
    train = TrainSettings(steps=6, batch_size=2, patch_px=32) if tiny else None
    sizes = ((96, 256), (64, 64)) if tiny else ((256, 512), (256, 320))
    trainings = 1 if tiny else TRAININGS
    result = Result(f"Coverage of fresh fields at 90 %, {trainings} trainings, quick, 2 members, right doses")
    found: dict[str, list[NDArray[np.float64]]] = {}
    with spent() as cost:
        for seed in range(FIRST, FIRST + trainings):
            pair, field = btn.samples.edx(seed, sizes[0]), btn.samples.edx(seed + trainings, sizes[1])
            denoiser = btn.Denoiser("quick", members=2, seed=seed, train=train)
            names, clean = pair.channel_names, np.asarray(field.clean)
            denoiser.fit(pair.noisy, pair.clean, axes="CYX", channel_names=names, executor=Inline())
            before = denoiser.predict(field.noisy, axes="CYX", executor=Inline())
            rng = np.random.default_rng(seed)
            windows = {"": np.ones(clean.shape[1:], bool)}
            for name, score in (
                ("width", score_map(before)),
                ("Fe > .25", score_map(before, channel="Fe", threshold=0.25)),
            ):
                proposed = btn.propose_regions(score, 24 if tiny else SIDE, 2 if tiny else COUNT)
                windows[f", in windows by {name}"] = label_image(proposed, clean.shape[1:]) > 0
            made = [(f"prediction{at}", before, where) for at, where in windows.items()]
            for dwell in DWELLS:
                dose = np.asarray(DOSE) * dwell
                counts = rng.poisson(clean * dose[:, None, None]).astype(float)
                for at, where in windows.items():
                    # windows are fused together; no evidence outside
                    fused = before.fuse((slice(None),) * 2, np.where(where, counts, np.nan), dose=dose)
                    made.append((f"fused, {dwell:g} dwells{at}", fused, where))
            for name, one, where in made:
                found.setdefault(name, []).append(inside_shares(one, clean, where))
                print(f"    {seed}, {name}: {found[name][-1].round(3)}", flush=True)
    for name, values in found.items():
        for c, channel in enumerate(names):
            each = np.array([v[c] for v in values])
            error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
            row = {"maps": name, "channel": channel, "coverage": float(each.mean()), "SE": error}
            result.add({**row, "least": float(each.min()), "most": float(each.max())})
            if "windows" not in name:  # chosen because they are hard: no coverage is aimed at there
                result.bars.append(
                    Bar(f"{name}, {channel}: coverage", row["coverage"], 0 if tiny else COVERED)
                )
    result.notes.append(f"{cost.cpu:.0f} CPU-s")
    return result


def run(tiny: bool) -> list[Result]:
    """Compare windows by several scores with random ones, and fused windows with what each source says alone."""
    train = TrainSettings(steps=6, batch_size=2, patch_px=32) if tiny else None
    sizes = Sizes((96, 352), 192, 24, 1, train) if tiny else Sizes(SIZE, KNOWN, SIDE, SEEDS, None)
    what = f"{COUNT} windows of {sizes.side} px, {sizes.seeds} fields"
    loop = Result(f"Share of the wrongly decided area (or squared error) of the free part removed; {what}")
    area = Result(f"Wrongly decided area in px, expected and true; {what}")
    inside = Result(f"Share of pixels decided wrongly inside the windows by 4p(1-p); {what}")
    shares: list[dict[str, Any]] = []
    areas: list[dict[str, Any]] = []
    windows: list[dict[str, Any]] = []
    with spent() as cost:
        for seed in range(sizes.seeds):
            for all_rows, new in zip((shares, areas, windows), one_seed(seed, sizes), strict=True):
                all_rows += new
            print(f"    field {seed}", flush=True)
    for row in mean_rows(shares, ("measured", "row")):
        loop.add(row)
        if row["row"] == ERROR or row["measured"] != "truth":
            continue
        own = [s for s in shares if s["measured"] == "truth" and s["row"] == row["row"]]
        best = f"{row['row']}: 4p(1-p)"
        loop.bars.append(Bar(f"{best} over random", row["4p(1-p)"] / row["random"], 0 if tiny else RATIO))
        won = sum(s["4p(1-p)"] > s["random"] for s in own)
        loop.bars.append(Bar(f"{best}, fields in which it beats random", won, 0 if tiny else len(own)))
    for row in mean_rows(areas, ("row", "dwell")):
        area.add(row)
        off = abs(row["expected after"] / max(row["true after"], 1e-9) - 1)
        name = f"{row['row']} at {row['dwell']:g} dwells: expected after, off the true area by"
        area.bars.append(Bar(name, off, 1e9 if tiny else WITHIN, above=False))
    ratios = [r["expected now"] / max(r["true now"], 1e-9) for r in areas]
    area.notes.append(
        f"In a single field: expected now {min(ratios):.2f} to {max(ratios):.2f} times the true area."
    )
    for row in mean_rows(windows, ("row",)):
        inside.add(row)
        for other in ("denoised", "scan 10"):
            name = f"{row['row']}: fused at 10 dwells over {other}"
            inside.bars.append(
                Bar(name, row["fused 10"] / max(row[other], 1e-9), 1e9 if tiny else FUSED, above=False)
            )
    loop.notes.append(f"{cost.cpu:.0f} CPU-s in all.")
    return [loop, area, inside, coverage(tiny)]


if __name__ == "__main__":
    main("loop", run, {"coverage": coverage})
