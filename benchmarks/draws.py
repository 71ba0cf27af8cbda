"""Whole plausible images: coverage of their marginals, their variogram, and intervals of an area above a threshold.

Members train on blobs, 100 scenes of 64 x 64, and draw 50 fresh scenes; each is cut into four windows. Beside the
draws stands what per-pixel independence would say: the same calibrated values in each pixel, without correlation.
The same areas on the built-in element maps, trained on one field, show where draws fall short. Draws of a variational
model of the noisy images alone stand beside those of members that knew clean ones (`--part sources`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_btn as btn
from benchmarks.table import Bar, Result, main
from napari_btn.core.calibration.drawn import MatchedArea
from napari_btn.core.calibration.draws import Field, sampler_steps
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data import noise
from napari_btn.core.data.image import Box
from napari_btn.core.progress import drain

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAGS = (1, 2, 3, 5, 8, 12, 16, 20)
SHARES = (0.5, 0.2, 0.05)
SIDE = 32


def variogram(error: NDArray[np.float32], lag: int) -> float:
    """Return half the mean squared difference of pixels so far apart, along both axes."""
    rows, columns = error[..., lag:, :] - error[..., :-lag, :], error[..., lag:] - error[..., :-lag]
    return float((np.mean(np.square(rows)) + np.mean(np.square(columns))) / 4)


def covered(
    drawn: NDArray[np.float32], clean: NDArray[np.float32], threshold: float, side: int = SIDE
) -> NDArray[np.bool_]:
    """Return True for each window whose true area above a threshold lies in the 90 % interval of the draws'."""

    def areas(images: NDArray[np.float32]) -> NDArray[np.int64]:
        above = (images > threshold).reshape(*images.shape[:-2], -1, side, images.shape[-1] // side, side)
        return above.sum((-3, -1))

    values, true = np.sort(areas(drawn), 0), areas(clean)
    rank = int((len(drawn) + 1) * 0.05)
    return ((true >= values[rank - 1]) & (true <= values[-rank])).ravel()


def moved(images: NDArray[np.float32], sampler: Any, channel: int, threshold: float) -> NDArray[np.float32]:
    """Return draws (n, ...) moved as `Prediction.statistic` does: their areas are right in the held-out blocks."""
    matched = MatchedArea.of(sampler, channel, threshold)
    return np.stack(
        [one + threshold - matched.threshold(sampler.weight(k)) for k, one in enumerate(images)]
    ).astype(np.float32)


def drawn(sampler: Any, draws: int, scenes: int, side: int) -> NDArray[np.float32]:
    """Return draws (n, S, Y, X)."""
    box = (slice(0, side), slice(0, side))
    return np.stack([np.stack([sampler.box(k, Box(s, box))[0] for s in range(scenes)]) for k in range(draws)])


def element_maps(tiny: bool) -> Result:
    """Measure areas on element maps: members of one field, draws of fresh fields."""
    fields, (rows, columns), draws = (1, (96, 192), 19) if tiny else (2, (192, 480), 99)
    window = 48
    train = btn.TrainSettings(steps=20) if tiny else None
    pair = btn.samples.edx(seed=0, size=(128, 256) if tiny else (256, 512))
    denoiser = btn.Denoiser("quick", members=1 if tiny else 2, seed=0, device="cpu", train=train)
    denoiser.fit(pair.noisy, pair.clean, axes="CYX", channel_names=pair.channel_names)
    hits: dict[tuple[str, float], list[list[NDArray[np.bool_]]]] = {}
    for field in range(fields):
        fresh = btn.samples.edx(seed=100 + field, size=(rows, columns))
        clean = np.asarray(fresh.clean)
        sampler = drain(sampler_steps(denoiser.predict(fresh.noisy, axes="CYX"), seed=0))
        n = len(clean)
        # channels keep their calibrated values and lose all correlation
        alone = replace(sampler, field=Field(np.eye(n, dtype=np.float32).reshape(n, n, 1, 1)))
        box = Box(0, (slice(0, rows), slice(0, columns)))
        images = [np.stack([one.box(k, box) for k in range(draws)]) for one in (sampler, alone)]
        for c, name in enumerate(pair.channel_names):
            for share in SHARES:
                threshold = float(np.quantile(clean[c], 1 - share))
                both = hits.setdefault((name, share), [[], []])
                for found, one, drawn_ in zip(both, (sampler, alone), images, strict=True):
                    found.append(covered(moved(drawn_[:, c], one, c, threshold), clean[c], threshold, window))
    result = Result("Areas on element maps: share of 90 % intervals that hold the true area")
    for (name, share), both in hits.items():
        together, apart = (float(np.concatenate(found).mean()) for found in both)
        result.add({"element": name, "area": f"{share:.0%}", "draws": together, "independent pixels": apart})
    windows = fields * (rows // window) * (columns // window)
    result.notes.append(f"{windows} windows of {window} px; trained on one field; {draws} draws")
    return result


def energy_score(draws: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the energy score of draws (n, cases, ...) of each case (cases, ...), averaged over cases.

    References
    ----------
    Gneiting and Raftery, J. Am. Stat. Assoc. 102 (2007) 359, section 4.3; pairs of one draw with itself are left out.
    """
    flat = draws.reshape(*draws.shape[:2], -1).astype(np.float64)
    n = len(flat)
    own = np.linalg.norm(flat - truth.reshape(len(truth), -1), axis=-1).mean(0)
    apart = sum(np.linalg.norm(flat[k + 1 :] - flat[k], axis=-1).sum(0) for k in range(n - 1))
    return float((own - apart / (n * (n - 1))).mean())


def in_windows(images: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return images (..., S, Y, X) as windows (..., windows, side, side)."""
    *lead, scenes, rows, columns = images.shape
    cut = images.reshape(*lead, scenes, rows // side, side, columns // side, side)
    return np.moveaxis(cut, -2, -3).reshape(*lead, -1, side, side)


def judged(
    sample: str, source: str, seconds: float, draws: NDArray[np.float32], clean: NDArray[np.float32]
) -> dict[str, Any]:
    """Return a row on draws (n, S, Y, X) of clean images (S, Y, X)."""
    rank = int((len(draws) + 1) * 0.05)
    ordered, mean = np.sort(draws, 0), draws.mean(0)
    lower, upper = ordered[rank - 1], ordered[-rank]
    inside = (clean >= lower) & (clean <= upper)
    bright = clean > 0.1 * clean.max()
    ratios = [variogram(draws[:20] - mean, lag) / variogram(clean - mean, lag) for lag in (1, 3, 8, 20)]
    return {
        "sample": sample,
        "draws of": source,
        "CPU-s": seconds,
        "RMSE of the mean": float(np.sqrt(np.mean(np.square(mean - clean)))),
        "coverage at 90 %": float(inside.mean()),
        "of brighter pixels": float(inside[bright].mean()),
        "mean width": float((upper - lower).mean()),
        "energy score": energy_score(in_windows(draws, SIDE), in_windows(clean, SIDE)),
        **{f"variogram, lag {lag} px": ratio for lag, ratio in zip((1, 3, 8, 20), ratios, strict=True)},
    }


def sources(tiny: bool) -> Result:
    """Compare draws of calibrated members, which knew clean images, with those of a model that did not."""
    draws, fresh, scenes = (19, 2, 12) if tiny else (59, 20, 100)
    size, field = ((64, 96), (64, 96)) if tiny else ((256, 512), (192, 256))
    settings = btn.VariationalSettings(steps=20) if tiny else btn.VariationalSettings(steps=1600)
    train = btn.TrainSettings(steps=20) if tiny else None
    blobs, test = btn.samples.blobs(seed=0, n=scenes), btn.samples.blobs(seed=1000, n=fresh)
    static = btn.samples.blobs(seed=500, n=1, size=128).clean[0]
    frames = np.stack([noise.skewed(static, rng=np.random.default_rng(k)) for k in range(100)])
    skewed = btn.NoiseModel.fit(frames, axes="TYX", kind="mixture")
    maps, other = btn.samples.edx(seed=0, size=size), btn.samples.edx(seed=100, size=field)
    # counts of silicon; two of them are a rate of one
    silicon = (np.asarray(maps.noisy)[0], np.asarray(maps.clean)[0] * 2)
    fresh_silicon = (np.asarray(other.noisy)[0], np.asarray(other.clean)[0] * 2)
    counts = btn.NoiseModel(gain=1.0)
    cases = (
        (
            "blobs",
            (blobs.noisy, blobs.clean),
            (np.asarray(test.noisy), np.asarray(test.clean)),
            "SYX",
            skewed,
        ),
        ("edx, Si", silicon, fresh_silicon, "YX", counts),
    )
    result = Result(
        "Draws of calibrated members (trained on pairs) and of a variational model (of noisy images)"
    )
    for name, (noisy, clean), (seen, truth), axes, noise_model in cases:
        shape = (-1, *truth.shape[-2:])
        began = time.process_time()
        denoiser = btn.Denoiser("quick", members=2, seed=0, device="cpu", train=train)
        denoiser.fit(noisy, clean, axes=axes, executor=Inline())
        prediction = denoiser.predict(seen, axes=axes, executor=Inline())
        made = prediction.draws(draws, seed=0)
        seconds = time.process_time() - began
        result.add(
            judged(
                name,
                "members",
                seconds,
                made.reshape(draws, *truth.reshape(shape).shape),
                truth.reshape(shape),
            )
        )
        began = time.process_time()
        model = btn.Variational.fit(noisy, axes, noise_model=noise_model, settings=settings, device="cpu")
        made = model.draws(seen, draws, device="cpu")
        seconds = time.process_time() - began
        result.add(
            judged(
                name, "vae", seconds, made.reshape(draws, *truth.reshape(shape).shape), truth.reshape(shape)
            )
        )
    result.notes.append(
        f"{draws} draws; members: 2, quick; vae: {settings.steps} steps; one thread; energy score of windows of {SIDE} "
        "px; variogram of draws minus their mean, relative to that of the errors of the mean"
    )
    return result


def run(tiny: bool) -> list[Result]:
    """Measure draws on blobs."""
    scenes, fresh, draws = (20, 6, 19) if tiny else (100, 50, 199)
    pair = btn.samples.blobs(seed=0, n=scenes)
    preset, members = ("quick", 1) if tiny else ("quick", 4)
    train = btn.TrainSettings(steps=40) if tiny else None
    denoiser = btn.Denoiser(preset, members=members, seed=0, device="cpu", train=train)
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes)
    test = btn.samples.blobs(seed=1000, n=fresh)
    clean = np.asarray(test.clean)
    prediction = denoiser.predict(test.noisy, axes=test.axes)
    sampler = drain(sampler_steps(prediction, seed=0))
    apart = replace(sampler, field=Field(np.ones((1, 1, 1, 1), np.float32)))
    together = drawn(sampler, draws, fresh, clean.shape[-1])
    alone = drawn(apart, draws, fresh, clean.shape[-1])

    areas = Result("Area above a threshold in windows: share of 90 % intervals that hold the true area")
    shares = {}
    for share in SHARES:
        threshold = float(np.quantile(clean, 1 - share))
        both = ((together, sampler), (alone, apart))
        shares[share] = [float(covered(moved(a, s, 0, threshold), clean, threshold).mean()) for a, s in both]
        areas.add(
            {
                "area": f"{share:.0%}",
                "threshold": threshold,
                "draws": shares[share][0],
                "independent pixels": shares[share][1],
            }
        )
    windows = fresh * (clean.shape[-1] // SIDE) ** 2
    areas.notes.append(f"{windows} windows of {SIDE} px; {members} members, {preset}; {draws} draws")
    rank = int((draws + 1) * 0.05)
    ordered = np.sort(together, 0)
    marginal = float(np.mean((clean >= ordered[rank - 1]) & (clean <= ordered[-rank])))
    inside = [both[0] for both in shares.values()]
    areas.bars += [
        Bar("marginal coverage of draws at 90 %", marginal, 0.88),
        Bar("marginal coverage of draws at 90 %", marginal, 0.92, above=False),
        Bar("least coverage of an area", min(inside), 0.85),
        Bar("largest coverage of an area", max(inside), 0.95, above=False),
        Bar(
            "largest coverage from independent pixels",
            max(both[1] for both in shares.values()),
            0.7,
            above=False,
        ),
    ]

    own, errors = clean - prediction.median, together[:20] - prediction.median
    ratios = Result("Variogram of draws minus median, relative to that of the errors")
    for lag in LAGS:
        ratios.add({"lag / px": lag, "draws / errors": variogram(errors, lag) / variogram(own, lag)})
    worst = max(abs(row["draws / errors"] - 1) for row in ratios.rows)
    ratios.bars.append(Bar("largest deviation of the variogram", worst, 0.15, above=False))
    return [areas, ratios, element_maps(tiny), sources(tiny)]


if __name__ == "__main__":
    main("draws", run, {"sources": sources})
