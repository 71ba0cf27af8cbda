"""Claims about thresholds on fresh fields: area, Brier score, and wrong claims of selected sets.

Each training predicts fresh fields with a known truth. The sum of the exceedance map is compared with the
true area, its squared error with that of the uncalibrated distribution, and the claims of `select` with the
truth, also with a part of the pixels masked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import spent
from benchmarks.table import Bar, Result, main
from napari_btn import Denoiser, samples
from napari_btn.core.calibration.distribution import cdf
from napari_btn.core.calibration.exceedance import can_lock
from napari_btn.core.compute.pool import Inline
from napari_btn.core.settings import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_btn import Prediction
    from napari_btn.core.calibration.cases import HeldOut
    from napari_btn.core.data.pairs import Pair

TRAININGS, FIELDS, MEMBERS = 40, 3, 2
FEWER = {"edx": 1, "blobs": 4}  # one in so many trainings: ten say nothing of locked maps of edx
LEVEL, MASKED = 0.1, 0.3
FIRST, FRESH = 100, 5000  # seeds of training pairs and of fresh fields begin here
LEAST, MOST = 0.9, 1.1
NEAR, CONFIDENCE, CLOSE = 0.7, 0.75, 0.2  # probability and confidence looked at; distance from the threshold
COMPARED = (("map", "raw"), ("locked", "map"))  # the first should not have the higher Brier score
THRESHOLDS = {
    "edx": (("Fe", 0.25), ("Fe", 0.5), ("Al", 0.3), ("Si", 0.6)),
    "blobs": (("signal", 1.0), ("signal", 2.0), ("signal", 3.0)),
}


def _pairs(*, tiny: bool) -> dict[str, tuple[Callable[[int], Pair], Callable[[int], Pair]]]:
    """Return the training pair and the fresh field of a seed, by name of the sample."""
    if tiny:
        return {
            "edx": (
                lambda s: samples.edx(seed=s, size=(64, 192)),
                lambda s: samples.edx(seed=s, size=(64, 96)),
            ),
            "blobs": (lambda s: samples.blobs(seed=s, n=30), lambda s: samples.blobs(seed=s, n=4)),
        }
    return {
        "edx": (lambda s: samples.edx(seed=s), lambda s: samples.edx(seed=s)),
        "blobs": (lambda s: samples.blobs(seed=s, n=100), lambda s: samples.blobs(seed=s, n=20)),
    }


def wrong_share(mask: NDArray[np.bool_], above: NDArray[np.bool_]) -> float:
    """Return the share of claims that are wrong; 0 where nothing is claimed."""
    return float(np.mean(~above[mask])) if mask.any() else 0.0


def judged(
    prediction: Prediction, held_out: HeldOut, target: NDArray[Any], channel: int, threshold: float
) -> dict[str, float]:
    """Return what one field says about one threshold; NaN for the locked map where it can't be locked."""
    above = target > threshold
    planes = prediction.planes({"C": channel})
    lockable = can_lock(held_out, threshold, channel=channel)
    maps = {
        "raw": 1 - cdf(planes, prediction.levels, threshold),
        "map": prediction.exceedance(threshold, channel),
        "locked": prediction.exceedance(threshold, channel, locked=True)
        if lockable
        else np.full(above.shape, np.nan),
    }
    hidden = np.random.default_rng(0).random(above.shape) < MASKED
    at = tuple(channel if a == "C" else slice(None) for a in prediction.axes)
    quantiles = prediction.quantiles.copy()
    quantiles[(slice(None), *at)][:, hidden] = np.nan
    claims = prediction.select(threshold, channel, level=LEVEL).mask
    masked = replace(prediction, quantiles=quantiles).select(threshold, channel, level=LEVEL).mask
    near = np.abs(maps["map"] - NEAR) <= 0.05
    near_locked = np.abs(maps["locked"] - NEAR) <= 0.05
    flagged = prediction.lower_bound(CONFIDENCE, channel) > threshold
    close = flagged & (np.abs(target / threshold - 1) < CLOSE)
    return {
        "area": float(above.sum()),
        **{
            name: float(np.mean(above[where])) if where.any() else float("nan")
            for name, where in (
                ("above at 0.7", near),
                ("above at 0.7, locked", near_locked),
                ("right of flagged", flagged),
                ("right of flagged, close", close),
            )
        },
        "pixels": above.size,
        **{f"sum {name}": float(p.sum(dtype=np.float64)) for name, p in maps.items()},
        **{f"Brier {name}": float(np.mean((p - above) ** 2)) for name, p in maps.items()},
        "wrong": wrong_share(claims, above),
        "wrong, masked": wrong_share(masked, above),
        "power": float(np.mean(claims[above])) if above.any() else float("nan"),
        "no claim": float(not claims.any()),
    }


def _over_trainings(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean over trainings that have a value, and its standard error."""
    by_training = values.reshape(-1, FIELDS).mean(axis=1)
    by_training = by_training[np.isfinite(by_training)]
    return float(by_training.mean()), float(by_training.std(ddof=1) / np.sqrt(len(by_training)))


def _ratio(sums: NDArray[np.float64], areas: NDArray[np.float64]) -> tuple[float, float]:
    """Return the sum of all maps over the true area, and its standard error by leaving out each training in turn."""
    maps, true = (v.reshape(-1, FIELDS).sum(axis=1) for v in (sums, areas))
    maps, true = maps[np.isfinite(maps)], true[np.isfinite(maps)]
    left = (maps.sum() - maps) / (true.sum() - true)
    return float(maps.sum() / true.sum()), float(np.sqrt((len(left) - 1) * left.var()))


def _row(name: str, found: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the row of a threshold from all fields, in the order of trainings."""
    all_of = {key: np.array([one[key] for one in found]) for key in found[0]}
    area = all_of["area"].sum()
    claiming = all_of["no claim"] == 0
    row: dict[str, Any] = {"claim": name, "area": float(area / all_of["pixels"].sum())}
    for kind in ("map", "locked"):
        known = np.isfinite(all_of[f"sum {kind}"])
        sums, areas = all_of[f"sum {kind}"][known], all_of["area"][known]
        ratio, error = _ratio(all_of[f"sum {kind}"], all_of["area"])
        row[f"sum of {kind} / area"], row[f"{kind}: SE"] = ratio, error
        single = sums / np.maximum(areas, 1)
        ends = (float(single.min()), float(single.max())) if single.size else (float("nan"), float("nan"))
        row[f"{kind}: least"], row[f"{kind}: most"] = ends
    for kind in ("raw", "map", "locked"):
        row[f"Brier {kind}"] = float(np.nanmean(all_of[f"Brier {kind}"]))
    row["locked in"] = f"{int(np.isfinite(all_of['Brier locked']).sum())} of {len(found)}"
    for kind, other in COMPARED:
        gap = all_of[f"Brier {kind}"] - all_of[f"Brier {other}"]
        row[f"{kind} - {other}"], row[f"{kind} - {other}: SE"] = _over_trainings(gap)
    for kind in ("wrong", "wrong, masked"):
        row[kind], row[f"{kind}: SE"] = _over_trainings(all_of[kind])
    for kind in ("above at 0.7", "above at 0.7, locked", "right of flagged", "right of flagged, close"):
        values = all_of[kind][np.isfinite(all_of[kind])]
        row[kind] = float(values.mean()) if values.size else float("nan")
    row["wrong where claimed"] = float(all_of["wrong"][claiming].mean()) if claiming.any() else float("nan")
    row["power"] = float(np.nanmean(all_of["power"]))
    row["no claim"] = f"{int(all_of['no claim'].sum())} of {len(found)}"
    return row


def _bars(row: dict[str, Any]) -> list[Bar]:
    """Return the bars of a row."""
    name, bars = row["claim"], []
    for kind in ("map", "locked"):
        share = row[f"sum of {kind} / area"]
        bars.append(Bar(f"{name}, sum of the {kind} over the area", share, LEAST))
        bars.append(Bar(f"{name}, sum of the {kind} over the area", share, MOST, above=False))
    for kind, other in COMPARED:
        worse = row[f"{kind} - {other}"]
        bars.append(Bar(f"{name}, Brier {kind} - {other}", worse, 0.0, above=False))
        least = worse - 2 * row[f"{kind} - {other}: SE"]
        bars.append(Bar(f"{name}, Brier {kind} - {other}, - 2 SE", least, 0.0, above=False))
    for kind in ("wrong", "wrong, masked"):
        least = row[kind] - 2 * row[f"{kind}: SE"]
        bars.append(Bar(f"{name}, share {kind}, - 2 SE", least, LEVEL, above=False))
    return bars


def run(tiny: bool, trainings: int = TRAININGS) -> list[Result]:
    """Train, and compare areas and claims of fresh fields with the truth."""
    settings = replace(PRESETS["quick"], steps=6) if tiny else PRESETS["quick"]
    results = []
    for sample, (train, fresh) in _pairs(tiny=tiny).items():
        found: dict[str, list[dict[str, float]]] = {}
        some = 2 if tiny else max(trainings // FEWER[sample], 2)
        title = f"{some} trainings of {MEMBERS} members, quick, {FIELDS} fresh fields each"
        result = Result(f"Claims on {sample}: {title}, at most {LEVEL:.0%} wrong asked for")
        with spent() as cost:
            for seed in range(some):
                pair = train(FIRST + seed)
                denoiser = Denoiser("quick", members=MEMBERS, seed=seed, device="cpu", train=settings)
                names = pair.channel_names
                denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, channel_names=names, executor=Inline())
                for k in range(FIELDS):
                    field = fresh(FRESH + 10 * seed + k)
                    made = denoiser.predict(field.noisy, axes=field.axes, executor=Inline())
                    clean = np.asarray(field.clean)
                    for name, threshold in THRESHOLDS[sample]:
                        c = list(names).index(name) if names and name in names else 0
                        at = tuple(c if a == "C" else slice(None) for a in field.axes)
                        one = judged(made, denoiser.model.scores.held_out, clean[at], c, threshold)
                        found.setdefault(f"{name} > {threshold:g}", []).append(one)
                print(f"    {sample}, training {seed + 1} of {some}", flush=True)
        for name, values in found.items():
            row = _row(name, values)
            result.add(row)
            result.bars += _bars(row)
        result.notes.append(f"{cost.cpu:.0f} CPU-s")
        results.append(result)
    return results


if __name__ == "__main__":
    main("claims", run, trainings=TRAININGS)
