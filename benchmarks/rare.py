"""Coverage of rare phases on fresh fields, and of what may lift it, at a stated 90 %.

Each seed has its own field, networks and calibration (`quick`), and two fresh fields. All ways of calibrating share the
networks of a seed; more training steps and another split have networks of their own, compared with `quick` on the
same seeds. Real element maps are added if there are some (see `benchmarks.real`): trained on the left two thirds,
counted on the right third.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import spent
from benchmarks.real import data_folder
from benchmarks.table import Result, main
from napari_btn import CalibrationSettings, Denoiser, samples
from napari_btn.core.calibration.blocks import effective_blocks
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.calibration.rules import needed_blocks
from napari_btn.core.compute.pool import Inline
from napari_btn.core.evaluation.by_value import ByValue
from napari_btn.core.evaluation.diagnostics import by_width
from napari_btn.core.settings import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_btn.core.calibration.cases import HeldOut

ALPHA = 0.1
SEEDS = {"edx": 8, "real SEM-EDX": 2}
# networks of their own: preset, calibration and number of seeds of each sample
MORE = {
    "split in a checkerboard": ("quick", CalibrationSettings(split="checkerboard"), {"edx": 4}),
    "standard instead of quick": ("standard", CalibrationSettings(), {"edx": 2, "real SEM-EDX": 1}),
}
MEMBERS = 2
TOKENS = 8
FRESH = 1000  # seeds of fresh fields begin here
SHARES = {
    "width": np.linspace(0.1, 0.9, 9),
    "value": np.array([0.2, 0.4, 0.6, 0.8, 0.95, 0.99]),
}


@dataclass(frozen=True)
class Field:
    """A field with its truth (C, Y, X), and the pixels of two rare phases."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    iron: NDArray[np.bool_]
    aluminous: NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """Training images and fresh fields of a sample, by seed."""

    name: str
    train: Callable[[int], Field]
    fresh: Callable[[int], list[Field]]


def simulated(size: tuple[int, int]) -> Case:
    """Return the built-in element maps; the phases are those of the simulation."""

    def field(number: int) -> Field:
        pair, phase = samples.edx(seed=number, size=size), samples.edx_phases(seed=number, size=size)
        iron, aluminous = (phase == samples.EDX_PHASES.index(n) for n in ("iron oxide", "aluminous"))
        return Field(np.asarray(pair.noisy), np.asarray(pair.clean), iron, aluminous)

    def fresh(seed: int) -> list[Field]:
        return [field(FRESH + 2 * seed + i) for i in range(2)]

    return Case("edx", field, fresh)


def real() -> Case | None:
    """Return real element maps of one field, with phases by a rule on the long exposure; None if there are none."""
    folder = data_folder()
    if folder is None:
        return None
    with np.load(folder / "edx_top" / "edx_top.npz") as arrays:
        noisy, clean, phase = (arrays[k] for k in ("noisy", "clean", "phase"))
    at = noisy.shape[-1] * 2 // 3
    left, right = (
        Field(*(np.ascontiguousarray(a[..., s]) for a in (noisy, clean, phase == 3, phase == 5)))
        for s in (slice(at), slice(at, None))
    )
    return Case("real SEM-EDX", lambda _seed: left, lambda _seed: [right])


def trained(
    case: Case, seed: int, *, tiny: bool, preset: str = "quick", how: CalibrationSettings | None = None
) -> Denoiser:
    """Return networks of a seed."""
    field = case.train(seed)
    settings = replace(PRESETS["quick"], steps=6) if tiny else PRESETS[preset]
    denoiser = Denoiser(
        preset,
        members=1 if tiny else MEMBERS,
        seed=seed,
        alpha=ALPHA,
        device="cpu",
        train=settings,
        calibration=how or CalibrationSettings(),
    )
    return denoiser.fit(
        field.noisy, field.clean, axes="CYX", channel_names=("Si", "Al", "Fe"), executor=Inline()
    )


# ---------------------------------------------------------------- ways to calibrate


def ways(
    denoiser: Denoiser, case: Case, seed: int, fields: list[Field], quantiles: list[NDArray[np.float32]]
) -> Iterator[tuple[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]]]:
    """Return the bounds of each fresh field, by name of the way to calibrate; the first is the default."""
    yield "one offset (default)", _bounds(denoiser, quantiles, alpha=ALPHA)
    for score in ("asymmetric", "scaled"):
        how = CalibrationSettings(score=score)
        yield f'score="{score}"', _bounds(denoiser, quantiles, alpha=ALPHA, settings=how)
    denoiser.calibrate(alpha=ALPHA, settings=CalibrationSettings())
    for kind, shares in SHARES.items():
        for least in (0, needed_blocks(ALPHA, "asymmetric")):
            what = f"at least {least} blocks" if least else f"{len(shares) + 1} groups"
            tables = _bins(denoiser, kind, least)
            bounds = [_bounds_in_bins(denoiser, kind, tables, q) for q in quantiles]
            yield f"by predicted {kind}, {what}", bounds
    for alpha in (0.05, 0.02):
        yield f"one offset, {100 * (1 - alpha):g} % asked for", _bounds(denoiser, quantiles, alpha=alpha)
    denoiser.calibrate(case.train(seed).noisy, axes="CYX", alpha=ALPHA, groups=TOKENS, executor=Inline())
    groups = denoiser.model.calibrated.groups
    assert groups is not None
    print(
        f"    seed {seed}: {len(groups.fallback)} of {TOKENS} tokens are calibrated with others", flush=True
    )
    made = [denoiser.predict(f.noisy, axes="CYX", executor=Inline()) for f in fields]
    yield f"groups={TOKENS} tokens", [(p.lower, p.upper) for p in made]


def _bounds(
    denoiser: Denoiser, quantiles: list[NDArray[np.float32]], **how: Any
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return lower and upper bound of each field, after calibration from the stored scores."""
    calibration = denoiser.calibrate(**how).calibration
    assert calibration is not None
    return [(made[0], made[2]) for made in map(calibration.interval, quantiles)]


def _key(denoiser: Denoiser, kind: str, quantiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the predicted width or value (C, *space) that pixels are grouped by."""
    assert denoiser.calibration is not None
    lower, median, upper = denoiser.calibration.interval(quantiles)
    return np.asarray(median if kind == "value" else upper - lower, dtype=np.float64)


def _channel(held_out: HeldOut, channel: int) -> HeldOut:
    """Return the held-out pixels of one channel."""
    return replace(
        held_out,
        quantiles=held_out.quantiles[:, channel, None],
        target=held_out.target[channel, None],
        observed=None,
    )


def _bins(denoiser: Denoiser, kind: str, least: int) -> list[tuple[NDArray[np.float64], list[Any]]]:
    """Return the edges of the groups of each channel, and a calibration for each group.

    A group that is worth fewer than ``least`` blocks joins its smaller neighbour.
    """
    held_out = denoiser.model.scores.held_out
    key = _key(denoiser, kind, held_out.quantiles)
    made = []
    for c, row in enumerate(key):
        edges = np.unique(np.quantile(row, SHARES[kind]))
        while len(edges):
            at = np.searchsorted(edges, row, side="left")
            worth = np.array([effective_blocks(held_out.block[at == g]) for g in range(len(edges) + 1)])
            if worth.min() >= max(least, 1):
                break
            weak = int(worth.argmin())
            sides = [g for g in (weak - 1, weak + 1) if 0 <= g < len(worth)]
            edges = np.delete(edges, min(weak, min(sides, key=lambda g, w=worth: w[g])))
        at = np.searchsorted(edges, row, side="left")
        one = _channel(held_out, c)
        made.append((edges, [calibrate(one.take(at == g), alpha=ALPHA) for g in range(len(edges) + 1)]))
    return made


def _bounds_in_bins(
    denoiser: Denoiser,
    kind: str,
    tables: list[tuple[NDArray[np.float64], list[Any]]],
    quantiles: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the bounds of a field whose pixels are grouped by predicted width or value."""
    key = _key(denoiser, kind, quantiles)
    lower, upper = np.empty_like(quantiles[0]), np.empty_like(quantiles[0])
    for c, (edges, calibrations) in enumerate(tables):
        at = np.searchsorted(edges, key[c], side="left")
        for g, calibration in enumerate(calibrations):
            inside = at == g
            low, _, high = calibration.interval(quantiles[:, c, None][..., inside])
            lower[c][inside], upper[c][inside] = low[0], high[0]
    return lower, upper


# ---------------------------------------------------------------- what is counted


def counted(
    fields: list[Field],
    medians: list[NDArray[np.float32]],
    bounds: list[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> dict[str, float]:
    """Return coverages on fresh fields, and the mean width of each channel."""
    clean, median, lower, upper = (
        np.concatenate([np.asarray(a).reshape(3, -1) for a in arrays], axis=1)
        for arrays in ([f.clean for f in fields], medians, *zip(*bounds, strict=True))
    )
    miss = (clean < lower) | (clean > upper)
    width = (upper - lower).astype(np.float64)
    iron, aluminous = (
        np.concatenate([a.ravel() for a in arrays])
        for arrays in ([f.iron for f in fields], [f.aluminous for f in fields])
    )
    block = np.zeros(miss.shape[1], dtype=np.int64)
    by_true, by_predicted = ByValue.of(clean, miss, block), ByValue.of(median, miss, block)
    made = {
        "all pixels": 1 - float(miss.mean()),
        "iron oxide, Fe": 1 - float(miss[2, iron].mean()),
        "aluminous, Al": 1 - float(miss[1, aluminous].mean()),
    }
    for c, name in ((2, "Fe"), (1, "Al")):
        made[f"brightest 5 % of {name}"] = float(by_true.coverage[c, 5])
        made[f"predicted brightest 5 % of {name}"] = float(by_predicted.coverage[c, 5])
    made["least tenth by width"] = float(by_width(width, miss)[1].min(axis=1).mean())
    return made | {f"width {c}": float(w) for c, w in enumerate(width.mean(axis=1))}


def evaluated(case: Case, seed: int, denoiser: Denoiser, *, every: bool) -> dict[str, dict[str, float]]:
    """Return what is counted on the fresh fields of a seed, by way; the default alone if not every one."""
    fields = case.fresh(seed)
    predictions = [denoiser.predict(f.noisy, axes="CYX", executor=Inline()) for f in fields]
    quantiles = [np.asarray(p.quantiles) for p in predictions]
    medians = [p.median for p in predictions]
    made = {}
    for name, bounds in ways(denoiser, case, seed, fields, quantiles):
        made[name] = counted(fields, medians, bounds)
        if not every:
            break
    return made


def tables(case: Case, *, tiny: bool) -> list[Result]:
    """Return the table of a sample, and how much of each phase the training part of each seed held."""
    seeds = 2 if tiny else SEEDS[case.name]
    result = Result(
        f"Rare phases: {case.name}, {seeds} seeds, {1 if tiny else MEMBERS} members, "
        f"{100 * (1 - ALPHA):g} % asked for"
    )
    default = "one offset (default)"
    held = Result(f"Rare phases in the training part: {case.name}, default, fresh fields of each seed")
    found: dict[str, list[dict[str, float]]] = {}
    with spent() as cost:
        for seed in range(seeds):
            quick = trained(case, seed, tiny=tiny)
            for name, row in evaluated(case, seed, quick, every=True).items():
                found.setdefault(name, []).append(row)
            for name, (preset, how, most) in MORE.items():
                if seed < min(most.get(case.name, 0), 1 if tiny else seeds):
                    other = trained(case, seed, tiny=tiny, preset=preset, how=how)
                    found.setdefault(name, []).extend(evaluated(case, seed, other, every=False).values())
            held.add({"seed": seed, **_held(case.train(seed), quick, found[default][-1])})
    for name, rows in found.items():
        result.add(_row(name, rows, found[default][: len(rows)]))
    result.notes.append(
        "Width is relative to the default on the same seeds; a gain is the mean over seeds of the difference "
        f"from the default, with its standard error. {cost.cpu:.0f} CPU-s."
    )
    return [result, held]


def _held(field: Field, denoiser: Denoiser, row: dict[str, float]) -> dict[str, Any]:
    """Return the pixels of each phase in the training part, and the coverage on fresh fields."""
    (split,) = denoiser.model.learned.provenance["splits"]
    trained_on = np.zeros(field.iron.shape, dtype=bool)
    for _, box in split["train"]:
        trained_on[tuple(slice(*ends) for ends in box)] = True
    made: dict[str, Any] = {}
    for name, inside in (("iron oxide, Fe", field.iron), ("aluminous, Al", field.aluminous)):
        made[f"{name[:-4]} px"] = int(inside[trained_on].sum())
        made[f"{name[:-4]} share"] = f"{inside[trained_on].mean():.2%}"
        made[f"covered {name[-2:]}"] = f"{row[name]:.3f}"
    return made


def _row(name: str, rows: list[dict[str, float]], default: list[dict[str, float]]) -> dict[str, Any]:
    """Return a row of the table: means over seeds, and gains of the rare phases."""
    keys = [k for k in rows[0] if not k.startswith("width")]
    made: dict[str, Any] = {"way": name, "seeds": len(rows)}
    for key in keys:
        made[key] = f"{np.mean([r[key] for r in rows]):.3f}"
        if key in ("iron oxide, Fe", "aluminous, Al"):
            gain = np.array([r[key] - d[key] for r, d in zip(rows, default, strict=True)])
            error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.nan
            made[f"gain {key[-2:]}"] = f"{gain.mean():+.3f} ({error:.3f})"
    ratio = [r[f"width {c}"] / d[f"width {c}"] for r, d in zip(rows, default, strict=True) for c in range(3)]
    made["width"] = f"{np.mean(ratio):.2f}"
    return made


def run(tiny: bool) -> list[Result]:
    """Train, calibrate in each way and count the rare phases of fresh fields."""
    cases = [simulated((112, 160) if tiny else (256, 512))]
    measured = None if tiny else real()
    if measured is not None:
        cases.append(measured)
    return [result for case in cases for result in tables(case, tiny=tiny)]


if __name__ == "__main__":
    main("rare", run)
