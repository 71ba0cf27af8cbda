"""From pretrained members beside from scratch, at the steps of the presets and at equal steps.

The data are none that the corpus of the pretrained members contains: the samples, photographs with noise,
real element maps split three ways, and real fluorescence without its clean images. NAPARI_BTN_DATA names the
folder of real data; without it those parts are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

import napari_btn as btn
from benchmarks import peers
from benchmarks.measure import close_pool, spent
from benchmarks.real import PEAK, data_folder, photographs, with_noise
from benchmarks.table import OUT, Bar, Result, write
from napari_btn.core.compute.pool import Compute
from napari_btn.core.data.image import Image
from napari_btn.core.progress import drain
from napari_btn.core.settings import PRESETS, TrainSettings
from napari_btn.workflow.now import first_look_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A training pair, and a test pair that no training saw.

    Parameters
    ----------
    name : str
    noisy, clean, test_noisy, test_clean : ndarray
    axes : str
    data_range : float
        For the PSNR; 0 to judge by the correlation of each channel.
    names : tuple of str
        Channels.
    """

    name: str
    noisy: Array
    clean: Array
    test_noisy: Array
    test_clean: Array
    axes: str
    data_range: float = 0.0
    names: tuple[str, ...] = ("",)

    def judged(self, denoiser: btn.Denoiser) -> dict[str, float]:
        """Return PSNR or correlation, Winkler score and coverage on the test pair."""
        prediction = denoiser.predict(self.test_noisy, axes=self.axes)
        low, middle, high = (np.asarray(getattr(prediction, n)) for n in ("lower", "median", "upper"))
        inside = float(((low <= self.test_clean) & (self.test_clean <= high)).mean())
        if self.data_range:
            scores = peers.scores(self.test_clean, middle, low, high, data_range=self.data_range)
            return {"PSNR": scores["PSNR"], "Winkler": scores["Winkler"], "coverage": inside}
        rows = (
            zip(self.names, middle, self.test_clean, strict=True)
            if "C" in self.axes
            else [("", middle, self.test_clean)]
        )
        made = {f"r {name}".strip(): float(np.corrcoef(m.ravel(), t.ravel())[0, 1]) for name, m, t in rows}
        return {**made, "coverage": inside}


def cases(seed: int, tiny: bool) -> Iterator[Case]:
    """Yield the data, drawn or split by the seed."""
    n, side = (14, 96) if tiny else (150, None)
    pair, test = btn.samples.blobs(seed=seed, n=n), btn.samples.blobs(seed=1000 + seed, n=4 if tiny else 100)
    yield Case("blobs", pair.noisy, pair.clean, test.noisy, test.clean, "SYX", 4.0)
    for number, (name, clean) in enumerate(photographs(side and 256).items()):
        noisy = with_noise(clean, 10 * seed + number)
        cut = clean.shape[1] * 2 // 3
        parts = [a[:, part] for part in (slice(cut), slice(cut, None)) for a in (noisy, clean)]
        yield Case(name, *parts, "YX", PEAK)
    size = (64, 160) if tiny else (256, 512)
    pair, test = (btn.samples.edx(seed=s, size=size) for s in (seed, 1000 + seed))
    yield Case("edx", pair.noisy, pair.clean, test.noisy, test.clean, "CYX", names=("Si", "Al", "Fe"))
    pair, test = (btn.samples.lattice(seed=s, size=size) for s in (seed, 1000 + seed))
    yield Case("lattice", pair.noisy, pair.clean, test.noisy, test.clean, "YX")
    if tiny:
        return
    pair, test = (btn.samples.xct(seed=s, size=(32, 96, 96)) for s in (seed, 1000 + seed))
    yield Case("xct", pair.noisy, pair.clean, test.noisy, test.clean, "ZYX")
    folder = data_folder()
    if folder is not None:
        with np.load(folder / "edx_top" / "edx_top.npz") as arrays:
            noisy, clean = arrays["noisy"], arrays["clean"]
        third = noisy.shape[-1] // 3
        # left to right, right to left, middle out: the test third is that of the seed
        place = {0: slice(2 * third, None), 1: slice(0, third), 2: slice(third, 2 * third)}[seed % 3]
        rest = np.ones(noisy.shape[-1], bool)
        rest[place] = False
        if seed % 3 == 2:
            # the halves on both sides don't touch: the larger one trains
            rest[:third] = False
        parts = [np.ascontiguousarray(a[..., p]) for p in (rest, place) for a in (noisy, clean)]
        yield Case("real EDX", *parts, "CYX", names=("Si", "Al", "Fe"))


def trained(
    case: Case, preset: str, train: TrainSettings, members: int, seed: int
) -> tuple[btn.Denoiser, Any]:
    """Return a denoiser, and the cost of its whole training."""
    close_pool()
    with spent() as cost:
        denoiser = btn.Denoiser(preset, members=members, seed=seed, train=train, device="cpu")
        denoiser.fit(case.noisy, case.clean, axes=case.axes)
    return denoiser, cost


def beside(
    seeds: Sequence[int],
    members: int,
    presets: Sequence[str],
    wanted: Sequence[str],
    tiny: bool,
    equal_only: bool = False,
) -> Result:
    """Compare the two starts at the steps of a preset's warm start and at those of its training from scratch."""
    result = Result(
        f"From pretrained members (warm) and from scratch; {members} members, seeds {list(seeds)}"
    )
    for seed in seeds:
        for case in cases(seed, tiny):
            if wanted and case.name not in wanted:
                continue
            for preset in presets:
                settings = replace(PRESETS[preset], steps=6) if tiny else PRESETS[preset]
                steps = max(round(settings.warm_share * settings.steps), 1)
                ways = {"warm": settings}
                if settings.warm_share:
                    ways["scratch, equal steps"] = replace(settings, steps=steps, start="scratch")
                    if not equal_only:
                        ways["scratch"] = replace(settings, start="scratch")
                for way, train in ways.items():
                    denoiser, cost = trained(case, preset, train, members, seed)
                    row = {
                        "data": case.name,
                        "seed": seed,
                        "preset": preset,
                        "start": way,
                        **case.judged(denoiser),
                    }
                    result.add({**row, "CPU-s a member": cost.cpu / denoiser.members})
    result.rows += _means(result.rows)
    result.bars += _bars(result.rows)
    close_pool()
    return result


def _means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds of each kind of row."""
    keys = dict.fromkeys((r["data"], r["preset"], r["start"]) for r in rows)
    made = []
    for data, preset, start in keys:
        alike = [r for r in rows if (r["data"], r["preset"], r["start"]) == (data, preset, start)]
        numbers = [k for k in alike[0] if k not in ("data", "seed", "preset", "start")]
        means = {k: float(np.mean([r[k] for r in alike])) for k in numbers}
        made.append({"data": data, "seed": "mean", "preset": preset, "start": start, **means})
    return made


def _bars(rows: Sequence[dict[str, Any]]) -> list[Bar]:
    """Return the bars of the means."""
    means = {(r["data"], r["preset"], r["start"]): r for r in rows if r["seed"] == "mean"}
    bars = []
    for (data, preset, start), row in means.items():
        if start != "warm" or (data, preset, "scratch, equal steps") not in means:
            continue
        other = means[data, preset, "scratch, equal steps"]
        for key in (k for k in row if k in ("PSNR", "r") or k.startswith("r ")):
            name = f"{data}, {preset}, {key}, warm above scratch at equal steps"
            bars.append(Bar(name, row[key] - other[key], -0.05 if key == "PSNR" else -0.003))
    wanted = {"instant": (29.4, 0.57, 5.0), "quick": (30.4, 0.436, 6.0), "standard": (31.9, 0.355, 50.0)}
    for preset, (psnr, winkler, cpu) in wanted.items():
        if (row := means.get(("blobs", preset, "warm"))) is not None:
            bars.append(Bar(f"blobs, {preset}, PSNR", row["PSNR"], psnr))
            bars.append(Bar(f"blobs, {preset}, Winkler", row["Winkler"], winkler, above=False))
            if preset != "instant":
                bars.append(Bar(f"blobs, {preset}, CPU-s a member", row["CPU-s a member"], cpu, above=False))
    return bars


def _psnr(made: Array, truth: Array) -> float:
    """Return the PSNR of 8-bit images."""
    return float(10 * np.log10(255**2 / np.mean((made - truth) ** 2)))


def fluorescence(tiny: bool) -> Result:
    """Compare the first look without a clean image with Gaussian filters tuned on the truth."""
    result = Result("Real fluorescence, image 1 of each kind, no clean image used: PSNR, range 255")
    folder = data_folder()
    if folder is None or not (folder / "fmd").is_dir():
        result.notes.append("There is no folder of real data.")
        return result
    from PIL import Image as Picture

    side = 96 if tiny else None
    for path in sorted((folder / "fmd" / "raw").glob("*_1.webp"))[: 2 if tiny else None]:
        noisy, clean = (
            np.asarray(Picture.open(p).convert("L"), np.float32)[:side, :side]
            for p in (path, folder / "fmd" / "gt" / path.name)
        )
        look = drain(first_look_steps(Image(noisy, "YX"), Compute()))
        tuned = max(_psnr(gaussian_filter(noisy, s), clean) for s in np.arange(0.3, 4, 0.1))
        row = {
            "kind": path.stem[:-2],
            "raw": _psnr(noisy, clean),
            "Gaussian": tuned,
            "ours": _psnr(look.median, clean),
        }
        result.add({**row, "members": ", ".join(look.provenance["start"]["from"])})
    gains = [row["ours"] - row["Gaussian"] for row in result.rows]
    means = {k: float(np.mean([r[k] for r in result.rows])) for k in ("raw", "Gaussian", "ours")}
    result.add({"kind": "mean", **means})
    result.bars.append(Bar("first look, mean dB above the tuned Gaussian", float(np.mean(gains)), 0.7))
    result.bars.append(Bar("first look, worst kind, dB above the tuned Gaussian", min(gains), -0.3))
    return result


def run(tiny: bool) -> list[Result]:
    """Compare trainings from pretrained members and from scratch."""
    seeds, members = ((0,), 1) if tiny else ((0, 1, 2), 5)
    presets = ("instant", "quick") if tiny else ("instant", "quick", "standard")
    return [beside(seeds, members, presets, (), tiny), fluorescence(tiny)]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="a minute: to see that it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--presets", nargs="+", default=("instant", "quick", "standard"))
    parser.add_argument("--data", nargs="+", default=(), help="names of data; by default all")
    parser.add_argument("--part", choices=("beside", "fluorescence"))
    parser.add_argument(
        "--equal-only", action="store_true", help="from scratch only for as many steps as warm"
    )
    asked = parser.parse_args()
    results = []
    if asked.part != "fluorescence":
        results.append(
            beside(asked.seeds, asked.members, asked.presets, asked.data, asked.tiny, asked.equal_only)
        )
    if asked.part != "beside":
        results.append(fluorescence(asked.tiny))
    for result in results:
        result.show()
    write(results, "warm", tiny=asked.tiny, out=OUT)


if __name__ == "__main__":
    main()
