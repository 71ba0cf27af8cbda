"""Wrong pairs that are noticed before training, and right pairs that are left alone.

Four wrong pairs are made of 20 fields: swapped images, another frame or noise alone as clean, the mean of repeats
that contains the noisy one, and the clean image of another field. Each is checked as it is and with clean moved
by three pixels; notes on a shift alone are counted beside. NAPARI_BTN_DATA names the folder of real data, from which
more of the right pairs come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import napari_btn as btn
from benchmarks.real import data_folder, element_maps, photographs
from benchmarks.table import Bar, Result, main
from napari_btn.core.data import noise
from napari_btn.core.data.mismatch import mismatch_notes
from napari_btn.core.data.pairs import Pair
from napari_btn.core.data.registration import shift_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_REPEATS = 8


def fields(count: int) -> Iterator[tuple[str, Any, Any, str]]:
    """Yield fields: name, function that draws a noisy frame of a seed, clean image, axes."""
    pictures = list(_pictures().items())
    for i in range(count):
        kind, seed = i % 4, i // 4
        if kind == 0:
            pair = btn.samples.blobs(seed=seed, n=16)
            yield f"blobs {seed}", _skewed(pair.clean), pair.clean, "SYX"
        elif kind == 1:
            pair = btn.samples.edx(seed=seed, size=(192, 256))
            yield (
                f"edx {seed}",
                _counts(pair.clean, np.array([2.0, 2.0, 0.33])[:, None, None]),
                pair.clean,
                "CYX",
            )
        elif kind == 2:
            pair = btn.samples.xct(seed=seed, size=(32, 96, 96))
            sd = float(np.std(pair.noisy - pair.clean))
            yield f"xct {seed}", _normal(pair.clean, sd), pair.clean, "ZYX"
        else:
            name, picture = pictures[seed % len(pictures)]
            yield f"{name} {seed}", _counted(picture), picture, "YX"


def right(count: int) -> Iterator[tuple[str, Pair]]:
    """Yield right pairs: samples, photographs with noise, and real pairs if there are some."""
    real = list(_real())
    for name, picture in _pictures().items():
        yield f"photograph {name}", Pair(_counted(picture)(7), picture)
    yield from real
    for seed in range(max(count - len(real) - len(_pictures()), 12) // 4):
        yield f"blobs {seed}", btn.samples.blobs(seed=100 + seed, n=12)
        yield f"edx {seed}", btn.samples.edx(seed=100 + seed, size=(160, 224))
        yield f"xct {seed}", btn.samples.xct(seed=100 + seed, size=(24, 96, 112))
        yield f"lattice {seed}", btn.samples.lattice(seed=100 + seed)


def wrong(name: str, draw: Any, clean: NDArray[Any], other: NDArray[Any], seed: int) -> Any:
    """Return noisy and clean of a wrong pair."""
    noisy = draw(seed)
    if name == "swapped":
        return clean, noisy
    if name == "another frame":
        return noisy, draw(seed + 500)
    if name == "noise alone":
        rng = np.random.default_rng(seed)
        return noisy, rng.normal(1, 0.3, clean.shape).astype(np.float32)
    if name == "mean with it":
        return noisy, np.mean([noisy, *(draw(seed + 500 + i) for i in range(_REPEATS - 1))], axis=0)
    return noisy, other


WRONG = ("swapped", "another frame", "noise alone", "mean with it", "another field")


def run(tiny: bool = False) -> list[Result]:
    """Check wrong and right pairs."""
    count = 4 if tiny else 20
    made = list(fields(count))
    result = Result("Wrong pairs noticed before training")
    for name in WRONG:
        for moved in (0, 3):
            caught, missed = 0, []
            for i, (field, draw, clean, axes) in enumerate(made):
                other = made[(i + 4) % count][2] if count > 4 else np.rot90(clean, 2, (-2, -1))
                if other.shape != clean.shape:
                    other = np.rot90(clean, 2, (-2, -1))
                x, y = wrong(name, draw, clean, other, i)
                pair = Pair(x, np.roll(y, moved, -1) if moved else y, axes)
                found = bool(mismatch_notes(pair.views))
                caught += found
                missed += [] if found else [field]
            shown = f"{name}, moved by {moved} px" if moved else name
            result.add({"pairs": shown, "noted": f"{caught} of {count}", "not": ", ".join(missed)})
            result.bars.append(Bar(f"noticed: {shown}", caught / count, 1.0))
    sweeps = [pair for bins in (4, 2, 1) for pair in _with_it(bins)]
    if sweeps:
        caught = sum(bool(mismatch_notes(pair.views)) for pair in sweeps)
        result.add({"pairs": "real sweep in the mean of 2 to 14", "noted": f"{caught} of {len(sweeps)}"})
        result.bars.append(Bar("noticed: real sweep in its mean", caught / len(sweeps), 1.0))
    alarms, total = [], 0
    for name, pair in right(8 if tiny else 40):
        total += 1
        alarms += [f"{name}: {note.text}" for note in mismatch_notes(pair.views)]
    result.add(
        {"pairs": "right pairs", "noted": f"{len(alarms)} of {total}", "noted pairs": "; ".join(alarms)}
    )
    result.bars.append(Bar("false alarms", len(alarms), 0, above=False))
    return [result, shifts(tiny)]


def shifts(tiny: bool = False) -> Result:
    """Count the notes on a shift, of pairs whose clean image is moved along X."""
    result = Result("Pairs with a note that clean lies more than half a pixel off")
    cases: dict[str, list[tuple[Any, Any, str]]] = {}
    for name, draw, clean, axes in fields(8 if tiny else 40):
        kind = name.split()[0] if name.split()[0] in ("blobs", "edx", "xct") else "photographs"
        cases.setdefault(f"{kind}, {' x '.join(map(str, clean.shape))}", []).append((draw, clean, axes))
    for kind, found in cases.items():
        row = {"pairs": kind}
        for moved in (0, 1, 2, 4):
            noted = 0
            for i, (draw, clean, axes) in enumerate(found):
                # what enters on the other side of the image is cut off
                pair = Pair(draw(i)[..., 4:-4], np.roll(clean, moved, -1)[..., 4:-4], axes)
                shift = shift_of(pair.views)
                noted += shift is not None and max(abs(s) for s in shift) > 0.5
            row[f"moved by {moved} px"] = f"{noted} of {len(found)}"
        result.add(row)
    return result


def _skewed(clean: NDArray[Any]) -> Any:
    return lambda seed: noise.skewed(clean, rng=np.random.default_rng(seed))


def _counts(clean: NDArray[Any], dose: Any) -> Any:
    return lambda seed: noise.poisson(clean, rng=np.random.default_rng(seed), dose=dose)


def _normal(clean: NDArray[Any], sd: float) -> Any:
    return lambda seed: noise.readout(clean, rng=np.random.default_rng(seed), sd=sd)


def _counted(picture: NDArray[Any]) -> Any:
    """Return a function that draws counts of at most ten, with read-out noise."""
    return lambda seed: noise.readout(
        noise.poisson(picture, rng=np.random.default_rng(seed)), rng=np.random.default_rng(seed + 1), sd=1.0
    )


def _pictures() -> dict[str, NDArray[np.float32]]:
    """Return photographs of a peak of ten counts."""
    made = dict(photographs(384))
    folder = data_folder()
    if folder is not None and (folder / "set12").is_dir():
        from PIL import Image

        for path in sorted((folder / "set12").glob("*.png"))[:8]:
            image = np.asarray(Image.open(path), np.float32)
            made[path.stem] = image / image.max() * 10
    return made


def _real() -> Iterator[tuple[str, Pair]]:
    """Yield real pairs from the folder of real data."""
    folder = data_folder()
    if folder is None:
        return
    case, _ = element_maps()
    yield "element maps", Pair(case.noisy, case.clean, "CYX", channel_names=case.names)
    if (folder / "fmd").is_dir():
        from PIL import Image

        for path in sorted((folder / "fmd" / "raw").glob("*.webp")):
            raw, mean = (
                np.asarray(Image.open(p).convert("L"), np.float32)
                for p in (path, folder / "fmd" / "gt" / path.name)
            )
            yield path.stem, Pair(raw, mean)
    for bins in (4, 2, 1):
        sweeps = _sweeps(bins)
        if sweeps is not None:
            yield f"sweeps, pixels of {bins}", Pair(sweeps[0], sweeps[1:].mean(0))


def _sweeps(bins: int) -> NDArray[np.float32] | None:
    """Return 14 real sweeps of counts, with pixels of ``bins`` times ``bins``; None without the data."""
    folder = data_folder()
    if folder is None or not (folder / "jeol_sweeps").is_dir():
        return None
    with np.load(folder / "jeol_sweeps" / "events.npz") as events:
        energy = events["energy_offset_keV"] + events["channel"] * events["energy_scale_keV"]
        chosen = (energy > 6.25) & (energy < 6.55)
        counts = np.zeros((14, 512, 512), np.float32)
        np.add.at(counts, tuple(events[n][chosen] for n in ("frame", "y", "x")), events["count"][chosen])
    side = 512 // bins
    return counts.reshape(14, side, bins, side, bins).sum((2, 4))


def _with_it(bins: int) -> Iterator[Pair]:
    """Yield real sweeps with means that contain them."""
    sweeps = _sweeps(bins)
    if sweeps is not None:
        for count in (2, 4, 8, 14):
            yield Pair(sweeps[0], sweeps[:count].mean(0))


if __name__ == "__main__":
    main("mismatch", run)
