"""Coverage of fresh images with a known truth, at three levels, over seeds of data, networks and split.

Each seed has its own networks, calibration and test images. The calibration is made once per level from
the same held-out scores, without training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import close_pool, spent
from benchmarks.table import Bar, Result, main
from napari_btn import Denoiser, samples
from napari_btn.core.settings import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Pair

ALPHAS = (0.5, 0.1, 0.05)
SEEDS = 5
# few members, because coverage hardly depends on their number, and in 3D a member takes minutes
MEMBERS = {"blobs": 2, "edx": 2, "xct": 1}
FRESH = 1000  # seeds of fresh images begin here
# at 90 %; at other levels, tolerance around the expectation of the rule
LOWEST, HIGHEST, NEAR = 0.88, 0.92, 0.03


def _samples(*, tiny: bool) -> dict[str, tuple[Callable[[int], Pair], Callable[[int], list[Pair]]]]:
    """Return the training pair and fresh images of a seed, by name of the sample."""
    blobs, edx, xct = (60, (64, 128), (16, 48, 48)) if tiny else (125, (256, 512), (32, 128, 128))
    return {
        "blobs": (
            lambda s: samples.blobs(seed=s, n=blobs),
            lambda s: [samples.blobs(seed=FRESH + s, n=8 if tiny else 60)],
        ),
        "edx": (
            lambda s: samples.edx(seed=s, size=edx),
            lambda s: [samples.edx(seed=FRESH + 2 * s + i, size=edx) for i in range(2)],
        ),
        "xct": (
            lambda s: samples.xct(seed=s, size=xct),
            lambda s: [samples.xct(seed=FRESH + s, size=xct)],
        ),
    }


def expected(rule: str, alpha: float, blocks: int) -> float:
    """Return the expected coverage of a rule."""
    return min(1.0, (1 - alpha) * (1 + 1 / blocks)) if rule == "block" else 1 - alpha


def covered(denoiser: Denoiser, fresh: list[Pair]) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """Return the share of fresh pixels inside, by level and channel."""
    quantiles = [_channels(denoiser.predict(p.noisy, axes=p.axes).quantiles, p.axes) for p in fresh]
    target = [_channels(np.asarray(p.clean)[None], p.axes)[0] for p in fresh]
    for alpha in ALPHAS:
        calibration = denoiser.calibrate(alpha=alpha).calibration
        assert calibration is not None
        inside = []
        for q, y in zip(quantiles, target, strict=True):
            lower, _, upper = calibration.interval(q)
            inside.append(((lower <= y) & (y <= upper)).reshape(len(y), -1))
        yield alpha, np.concatenate(inside, 1).mean(axis=1)


def _channels(array: NDArray[np.float32], axes: str) -> NDArray[np.float32]:
    """Move levels and channels to the front."""
    return np.moveaxis(array, 1 + axes.index("C"), 1) if "C" in axes else array[:, None]


def _measure(result: Result, name: str, made: list[dict[str, Any]], channels: tuple[str, ...]) -> None:
    """Add the rows and bars of a sample."""
    for alpha in ALPHAS:
        runs = [m for m in made if m["alpha"] == alpha]
        values = np.stack([m["coverage"] for m in runs])
        aim = float(np.mean([expected(m["rule"], alpha, m["blocks"]) for m in runs]))
        for c, channel in enumerate(channels):
            mean = float(values[:, c].mean())
            error = float(values[:, c].std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
            result.add(
                {
                    "sample": name,
                    "channel": channel,
                    "asked": 1 - alpha,
                    "rule": "/".join(sorted({m["rule"] for m in runs})),
                    "blocks": float(np.mean([m["blocks"] for m in runs])),
                    "expected": aim,
                    "covered": mean,
                    "SE": error,
                    "least": float(values[:, c].min()),
                    "most": float(values[:, c].max()),
                    "cross-fitted": float(np.mean([m["reported"][c] for m in runs])),
                }
            )
            what = f"coverage of {name} {channel} at {1 - alpha:g}"
            if alpha == 0.1:
                most = max(HIGHEST, aim + 0.01)
                result.bars.append(Bar(f"{what}, + 2 SE", mean + 2 * error, LOWEST))
                result.bars.append(Bar(f"{what}, - 2 SE", mean - 2 * error, most, above=False))
            else:
                off = max(abs(mean - aim) - 2 * error, 0.0)
                result.bars.append(Bar(f"{what}, off its rule by", off, NEAR, above=False))


def run(tiny: bool) -> list[Result]:
    """Train, calibrate and count on fresh images."""
    seeds = 2 if tiny else SEEDS
    settings = replace(PRESETS["quick"], steps=6) if tiny else PRESETS["quick"]
    results = []
    for name, (train, fresh) in _samples(tiny=tiny).items():
        members = 1 if tiny else MEMBERS[name]
        result = Result(f"Coverage on fresh images: {name}, {seeds} seeds, {members} members, quick")
        made: list[dict[str, Any]] = []
        channels: tuple[str, ...] = ()
        with spent() as cost:
            for seed in range(seeds):
                pair = train(seed)
                denoiser = Denoiser("quick", members=members, seed=seed, train=settings)
                denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names)
                channels = denoiser.channel_names
                for alpha, share in covered(denoiser, fresh(seed)):
                    report, calibration = denoiser.report, denoiser.calibration
                    assert report is not None
                    assert calibration is not None
                    made.append(
                        {
                            "alpha": alpha,
                            "rule": calibration.rule,
                            "blocks": calibration.n_blocks,
                            "coverage": share,
                            "reported": report.coverage,
                        }
                    )
                    print(f"    {name} seed {seed}, {1 - alpha:g}: {np.round(share, 3)}", flush=True)
        _measure(result, name, made, channels)
        result.notes.append(f"{cost.cpu:.0f} CPU-s")
        results.append(result)
        close_pool()
    return results


if __name__ == "__main__":
    main("coverage", run)
