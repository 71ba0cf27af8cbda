"""Parts of one field: a held-out part unlike the training part, and copies of training pixels.

A note on unlike parts should come with a dose that rises fourfold across the field, and stay away without.
Crops, flips and turns of the training part should be recognised, and other parts and fields should not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import spent
from benchmarks.table import Bar, Result, main
from napari_btn import samples
from napari_btn.core.calibration.drift import parts_notes
from napari_btn.core.data.copies import copied_steps, patches_steps
from napari_btn.core.data.image import Box, View
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.splits import split
from napari_btn.core.progress import drain
from napari_btn.core.settings import CalibrationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIRST = 100  # other seeds than those that the limits of the check were chosen on
DOSE = np.array([2, 2, 0.33])[:, None, None]  # of the sample


def unlike(size: tuple[int, int], reach: int, seeds: int) -> Result:
    """Count the notes with and without a gradient of the dose."""
    result = Result(f"Notes on unlike parts, element maps of {size[0]} x {size[1]} px, {seeds} seeds")
    counts = dict.fromkeys(
        ("no gradient", "counts times 1 to 4", "dose 1 to 4", "dose 1 to 4, divided out"), 0
    )
    for seed in range(seeds):
        pair, rng = samples.edx(seed=FIRST + seed, size=size), np.random.default_rng(seed)
        rates, dose = pair.clean * DOSE, np.linspace(1, 4, size[1])
        images = (pair.noisy, pair.noisy * dose, made := rng.poisson(rates * dose), made / dose)
        for name, image in zip(counts, images, strict=True):
            scenes = Pair(np.asarray(image, np.float32), pair.clean, "CYX").views
            parts = split(scenes, reach, CalibrationSettings(), seed=0)
            counts[name] += bool(parts_notes(scenes, parts, "auto"))
    for name, n in counts.items():
        result.add({"dose": name, "notes": n, "of": seeds})
        if name == "no gradient":
            result.bars.append(Bar(f"{size}, share of notes without a gradient", n / seeds, 0.1, above=False))
        else:
            result.bars.append(Bar(f"{size}, share of notes, {name}", n / seeds, 0.9))
    return result


def copies(size: tuple[int, int], seeds: int) -> Result:
    """Look for copies of the training part, and for patches in other images."""
    result = Result(
        f"Patches of the training part found, of 256, {seeds} seeds, element maps of {size[0]} x {size[1]} px"
    )
    train = size[1] * 6 // 10

    def found(image: NDArray[np.float32], known: dict[str, object]) -> int:
        return drain(copied_steps(View(np.ascontiguousarray(image), "CYX"), known))[0]

    for seed in range(seeds):
        noisy = samples.edx(seed=seed, size=size).noisy
        box = Box(0, (slice(0, size[0]), slice(0, train)))
        known = drain(patches_steps(View(noisy, "CYX"), [box]))
        part = noisy[:, 5 : size[0] // 2, 9 : train // 2]
        row = {
            "seed": seed,
            "crop of a quarter": found(part, known),
            "flipped": found(part[:, ::-1], known),
            "turned": found(np.rot90(part, 1, (1, 2)), known),
            "held-out part": found(noisy[:, :, train:], known),
            "other fields": sum(
                found(samples.edx(seed=500 + 3 * seed + k, size=size).noisy, known) for k in range(3)
            ),
        }
        result.add(row)
    rows = result.rows
    least = min(row[k] for row in rows for k in ("crop of a quarter", "flipped", "turned"))
    wrong = sum(row["held-out part"] + row["other fields"] for row in rows)
    result.bars += [
        Bar("fewest patches found in a copy", float(least), 10.0),
        Bar("patches found where there is no copy", float(wrong), 0.0, above=False),
    ]
    return result


def cost(side: int) -> Result:
    """Measure remembering and looking up in a large image of one channel."""
    result = Result(f"CPU-seconds of patches in an image of {side} x {side} px")
    image = View(np.random.default_rng(0).normal(size=(side, side)).astype(np.float32), "YX")
    with spent() as first:
        known = drain(patches_steps(image, [Box(0, (slice(0, side), slice(0, side // 2)))]))
    with spent() as second:
        drain(copied_steps(image, known))
    result.add({"remembered": first.cpu, "looked up": second.cpu})
    return result


def run(tiny: bool) -> list[Result]:
    """Look at parts and copies over several seeds."""
    if tiny:
        return [unlike((96, 192), 12, 2), copies((96, 192), 1), cost(256)]
    return [unlike((256, 512), 39, 20), unlike((128, 256), 30, 20), copies((256, 512), 5), cost(4096)]


if __name__ == "__main__":
    main("parts", run)
