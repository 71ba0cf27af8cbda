"""The closed loop: five proposed windows against five random ones, on simulated element maps.

The left of a field has a slow scan and is for training. Five windows of the rest are measured again, all
for the same time, and training continues. The rest outside all windows is evaluated against the truth.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_btn as btn
from benchmarks.measure import spent
from benchmarks.table import Bar, Result, main
from napari_btn.core.compute.pool import Inline
from napari_btn.core.remeasure.regions import Region
from napari_btn.core.remeasure.scores import score_map
from napari_btn.core.settings import TrainSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SEEDS, NEEDED = 20, 16
HEIGHT, WIDTH, KNOWN, SIDE, COUNT = 192, 512, 192, 48, 5
MEMBERS = 2  # one member has no spread
CHOICES: dict[str, dict[str, Any]] = {
    "width": {"dwell_ratio": 1.0},
    "relative width": {},
    "spread": {"spread": "plain"},
    "spread / width": {"spread": "relative"},
}


def random_windows(seed: int, size: tuple[int, int], side: int) -> list[Region]:
    """Return random disjoint windows in the part without a slow scan."""
    rng = np.random.default_rng(seed)
    made: list[Region] = []
    while len(made) < COUNT:
        y, x = int(rng.integers(0, size[0] - side + 1)), int(rng.integers(KNOWN, size[1] - side + 1))
        if all(abs(y - r.y) >= side or abs(x - r.x) >= side for r in made):
            made.append(Region(y, x, side, side))
    return made


def judged(
    prediction: btn.Prediction, clean: Any, where: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Return mean width, error and coverage of each channel outside the windows."""
    width, error = prediction.width[:, where], (prediction.median - clean)[:, where]
    inside = (prediction.lower <= clean) & (clean <= prediction.upper)
    return {
        "width": width.mean(1, dtype=np.float64),
        "error": np.sqrt(np.square(error).mean(1, dtype=np.float64)),
        "coverage": inside[:, where].mean(1),
    }


def one_seed(seed: int, size: tuple[int, int], side: int, train: TrainSettings | None) -> dict[str, Any]:
    """Return the relative change of width and error for each choice, mean over channels."""
    pair = btn.samples.edx(seed=seed, size=size)
    known = (slice(None), slice(None), slice(0, KNOWN))
    noisy, clean = pair.noisy, np.asarray(pair.clean)
    denoiser = btn.Denoiser("quick", members=MEMBERS, seed=seed, train=train)
    denoiser.fit(noisy[known], clean[known], axes="CYX", channel_names=pair.channel_names, executor=Inline())
    before = denoiser.predict(noisy, axes="CYX")
    free = np.zeros(size, bool)
    free[:, KNOWN:] = True
    choices: dict[str, Sequence[Region]] = {
        name: btn.propose_regions(score_map(before, **how), (side, side), COUNT, mask=free)
        for name, how in CHOICES.items()
    }
    choices["random"] = random_windows(seed, size, side)
    outside = free.copy()
    for regions in choices.values():
        for region in regions:
            outside[region.slices] = False
    old, row = judged(before, clean, outside), {"seed": seed}
    for name, regions in choices.items():
        other = copy(denoiser)
        windows = [(r, clean[(slice(None), *r.slices)]) for r in regions]
        other.refine(noisy[known], clean[known], windows=windows, image=noisy, axes="CYX", executor=Inline())
        new = judged(other.predict(noisy, axes="CYX"), clean, outside)
        for what in ("width", "error"):
            row[f"{what}, {name}"] = float(np.mean(new[what] / old[what] - 1))
        row[f"coverage, {name}"] = float(np.mean(new["coverage"]))
    return row


def wins(rows: Sequence[Mapping[str, Any]], name: str, what: Sequence[str]) -> int:
    """Return the number of seeds in which a choice lowers all these figures more than random windows."""
    return sum(all(row[f"{w}, {name}"] < row[f"{w}, random"] for w in what) for row in rows)


def run(tiny: bool) -> list[Result]:
    """Compare windows proposed by several scores with random ones."""
    size, side = ((96, KNOWN + 160), 24) if tiny else ((HEIGHT, WIDTH), SIDE)
    train = TrainSettings(steps=6, batch_size=2, patch_px=32) if tiny else None
    title = (
        f"Closing the loop: {COUNT} windows of {side} x {side} px measured again, quick, {MEMBERS} members"
    )
    result = Result(f"{title}; change of mean width and error outside of all windows")
    with spent() as cost:
        for seed in range(1 if tiny else SEEDS):
            result.add(one_seed(seed, size, side, train))
    for name in CHOICES:
        for what in (("width",), ("error",), ("width", "error")):
            label = f"seeds in which {name} lowers {' and '.join(what)} more than random windows"
            result.bars.append(Bar(label, wins(result.rows, name, what), NEEDED if not tiny else 0))
    means = {k: float(np.mean([row[k] for row in result.rows])) for k in result.rows[0] if k != "seed"}
    result.add({"seed": "mean", **means})
    result.notes.append(f"{cost.cpu:.0f} CPU-s in all.")
    return [result]


if __name__ == "__main__":
    main("loop", run)
