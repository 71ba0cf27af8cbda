"""Coverage after learning from noisy targets: of a repeat, of a whole frame, and of the clean signal.

Fields are silicon or iron of `edx` as Poisson counts, so that the truth is known. Coverage is counted on a fresh
field. Noise2Void is also trained under correlated noise, and Noise2Noise with a clean image as its second one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import convolve1d

import napari_btn as btn
from benchmarks.no_clean import inside
from benchmarks.table import Result, main

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

SHAPE, SEEDS = (192, 256), (0, 1)
FIELDS = (("Si", 12.0), ("Si", 1.2), ("Fe", 4.0))  # channel, and counts a pixel on average
TAPS = {
    0.0: 0.0,
    0.17: 0.0865,
    0.58: 0.369,
}  # correlation of neighbours by the side taps of a kernel of three


def denoiser(way: str, *, tiny: bool, **options: Any) -> btn.Denoiser:
    """Return two members of the preset `quick`."""
    if tiny:
        options["train"] = btn.TrainSettings(steps=4)
    return btn.Denoiser("quick", members=1 if tiny else 2, supervision=way, **options)


def rates(channel: str, counts: float, seed: int, *, tiny: bool) -> Image:
    """Return the expected counts of a field; the mean of field 0 is ``counts``."""
    size = (96, 128) if tiny else SHAPE
    at = ("Si", "Al", "Fe").index(channel)
    scale = counts / float(btn.samples.edx(0, SHAPE).clean[at].mean())
    return np.asarray(scale * btn.samples.edx(seed, size).clean[at], np.float32)


def drawn(rng: np.random.Generator, rate: Image, dose: float = 1.0) -> Image:
    """Return counts of a longer scan, in the unit of the short one."""
    return (rng.poisson(dose * rate) / dose).astype(np.float32)


def ways(tiny: bool) -> Result:
    """Count what intervals hold on a fresh field, by the way to learn."""
    result = Result(
        "Share inside intervals at a stated 90 %, on a fresh field, mean of the trainings (least to most)"
    )
    for channel, counts in FIELDS[:1] if tiny else FIELDS:
        found: dict[str, list[dict[str, float]]] = {}
        for seed in SEEDS[:1] if tiny else SEEDS:
            rng = np.random.default_rng(100 + seed)
            field, fresh = (rates(channel, counts, n, tiny=tiny) for n in (seed, 5000 + seed))
            noisy, other = drawn(rng, field), drawn(rng, fresh)
            for name, way, images in (
                ("noise2noise", "noise2noise", (np.stack([noisy, drawn(rng, field), drawn(rng, field)]),)),
                ("thinning", "thinning", (noisy,)),
                ("noise2void", "noise2void", (noisy,)),
                ("pair, 10 x", "pair", (noisy, drawn(rng, field, 10))),
                ("pair, 100 x", "pair", (noisy, drawn(rng, field, 100))),
            ):
                model = denoiser(way, tiny=tiny)
                model.fit(*images, axes="SYX" if way == "noise2noise" else "YX")
                made = model.predict(other, axes="YX")
                frame = drawn(rng, fresh)
                aim = {
                    "thinned counts": (2 * rng.binomial(frame.astype(int), 0.5)).astype(np.float32),
                    "long exposure": drawn(rng, fresh, 100 if "100" in name else 10),
                    "clean": fresh,
                }.get(made.covers, frame)
                bright = fresh >= np.quantile(fresh, 0.95)
                one = {
                    "what they aim at": inside(made, aim),
                    "a whole frame": inside(made, frame),
                    "the clean signal": inside(made, fresh),
                    "of its brightest 5 %": float(
                        ((made.lower <= fresh) & (fresh <= made.upper))[bright].mean()
                    ),
                }
                if way in ("noise2noise", "thinning"):
                    signal = made.signal_interval()
                    held = (signal.lower <= fresh) & (fresh <= signal.upper)
                    one["clean in signal_interval"] = float(held.mean())
                if way == "noise2noise":
                    t = float(np.quantile(fresh, 0.95))
                    one["area above t, clean"] = float((fresh > t).mean())
                    one["of a repeat"] = float((frame > t).mean())
                    one["sum of the map"] = float(made.exceedance(t).mean())
                found.setdefault(f"{name} ({made.covers})", []).append(one)
        for name, ones in found.items():
            columns = dict.fromkeys(k for one in ones for k in one)
            row = {k: _spread([one[k] for one in ones if k in one]) for k in columns}
            result.add({"field": f"{channel}, {counts:g} counts", "learned from (covers)": name, **row})
    return result


def blind(tiny: bool) -> Result:
    """Count masked pixels and a repeat under noise that is correlated between neighbours."""
    result = Result("Noise2Void under correlated normal noise: share inside intervals at a stated 90 %")
    for correlation, tap in list(TAPS.items())[: 1 if tiny else None]:
        shares: dict[str, list[float]] = {"measured on masked pixels": [], "a repeat": [], "clean": []}
        noted = 0
        for seed in SEEDS[:1] if tiny else SEEDS:
            field = rates("Si", 12, seed, tiny=tiny)
            rng = np.random.default_rng(200 + seed)
            first, repeat = (field + float(field.std()) * _noise(rng, field.shape, tap) for _ in range(2))
            model = denoiser("noise2void", tiny=tiny)
            model.fit(first, axes="YX")
            made, report = model.predict(first, axes="YX"), model.report
            assert report is not None
            noted += any("noise is correlated over" in note.text for note in report.warnings)
            for name, share in zip(
                shares, (float(report.coverage[0]), inside(made, repeat), inside(made, field)), strict=True
            ):
                shares[name].append(share)
        row = {name: _spread(values) for name, values in shares.items()}
        result.add({"correlation": correlation, **row, "trainings with a note": noted})
    return result


def clean(tiny: bool) -> Result:
    """Count what intervals of Noise2Noise hold where a clean image came as the second one."""
    result = Result("Noise2Noise with a clean image as the second one: share inside at a stated 90 %")
    for channel, counts in FIELDS[:1] if tiny else FIELDS:
        signal, repeat, covers = [], [], ""
        for seed in SEEDS[:1] if tiny else SEEDS:
            rng = np.random.default_rng(300 + seed)
            field, fresh = (rates(channel, counts, n, tiny=tiny) for n in (seed, 5000 + seed))
            model = denoiser("noise2noise", tiny=tiny)
            model.fit(drawn(rng, field), field, axes="YX")
            made = model.predict(drawn(rng, fresh), axes="YX")
            signal.append(inside(made, fresh))
            repeat.append(inside(made, drawn(rng, fresh)))
            covers = made.covers
        result.add(
            {
                "field": f"{channel}, {counts:g} counts",
                "covers": covers,
                "the clean signal": _spread(signal),
                "a repeat": _spread(repeat),
            }
        )
    return result


def _noise(rng: np.random.Generator, shape: tuple[int, ...], tap: float) -> Image:
    """Return normal noise of unit variance, correlated between neighbours along both axes."""
    made = rng.standard_normal(shape)
    for axis in (0, 1):
        made = convolve1d(made, [tap, 1, tap], axis=axis, mode="wrap")
    return np.asarray(made / (1 + 2 * tap**2), np.float32)


def _spread(values: list[float]) -> str:
    """Return the mean of several shares, and their range."""
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def run(tiny: bool) -> list[Result]:
    """Run all parts."""
    return [part(tiny) for part in PARTS.values()]


PARTS = {"ways": ways, "blind": blind, "clean": clean}

if __name__ == "__main__":
    main("noisy_targets", run, PARTS)
