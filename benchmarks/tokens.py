"""Tokens: texture besides mean, real minerals, memory and slider of a large image, agreement of seeds."""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from scipy.ndimage import gaussian_filter

import napari_btn as btn
from benchmarks.materials import filter_bank, textured
from benchmarks.measure import close_pool, peak_memory, spent
from benchmarks.memory import GB
from benchmarks.real import data_folder, photographs, with_noise
from benchmarks.table import Bar, Result, main
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import View, values_at
from napari_btn.core.inference.latents import EnsembleLatents
from napari_btn.core.progress import drain
from napari_btn.core.settings import TokenSettings, TrainSettings
from napari_btn.core.tokens import learn
from napari_btn.core.tokens.clustering import adjusted_rand, fit_palette_steps
from napari_btn.core.tokens.learn import assign_steps, fit_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_btn.core.inference.latents import LatentSource

SMALL = TrainSettings(steps=6, batch_size=2, patch_px=32)
DOSE = (2.0, 2.0, 0.33)  # counts of `edx` at a rate of one, of Si, Al, Fe
SAMPLE = 20_000
WIDTHS = {
    "denoised median": (0.0, 1.5, 3.0),
    "pixels": (1.0, 1.5, 2.0, 3.0),
    "seven filters": (0.0, 1.5, 3.0),
}


def clustered(maps: NDArray[np.float32], cuts: Sequence[int], *, seed: int, count: int = 40) -> list[Any]:
    """Cluster maps (C, *image), scaled to a variance of one, as tokens are, and cut the tree."""
    points = maps.reshape(len(maps), -1).T.astype(np.float32)
    points = (points - points.mean(0)) / np.maximum(points.std(0), 1e-12)
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(points), min(SAMPLE, len(points)), replace=False))
    palette = drain(fit_palette_steps(points[some], points[some, :1].T, count=count, seed=seed))
    assigned = palette.assign(points)
    return [assigned[min(k, palette.size) - 2].reshape(maps.shape[1:]) for k in cuts]


def texture(tiny: bool) -> Result:
    """Cluster four materials, two of which differ only in texture, on an unseen image."""
    seeds, side = (range(2), 96) if tiny else (range(5), 256)
    scores: dict[str, dict[float, list[float]]] = {}
    for seed in seeds:
        pair, _ = textured(seed, side)
        unseen, material = textured(100 + seed, side)
        denoiser = btn.Denoiser("quick", members=3, seed=seed, **({"train": SMALL} if tiny else {}))
        denoiser.fit(pair.noisy, pair.clean, axes="YX")
        prediction = denoiser.predict(unseen.noisy, axes="YX")
        tokens = denoiser.tokens(unseen.noisy, 20, "YX", prediction=prediction).cut(4)
        found = adjusted_rand(tokens.labels, material)
        scores.setdefault("tokens", {}).setdefault(1.5, []).append(found)
        others = {
            "denoised median": prediction.median[None],
            "pixels": unseen.noisy[None],
            "seven filters": filter_bank(unseen.noisy),
        }
        for name, maps in others.items():
            for width in (1.5,) if tiny else WIDTHS[name]:
                smooth = gaussian_filter(maps, (0, width, width)) if width else maps
                [labels] = clustered(smooth, [4], seed=seed)
                scores.setdefault(name, {}).setdefault(width, []).append(adjusted_rand(labels, material))
        print(
            "   ",
            seed,
            {name: round(max(v[-1] for v in by.values()), 3) for name, by in scores.items()},
            flush=True,
        )
    result = Result(
        f"Four materials, two alike but for texture: adjusted Rand index at 4 clusters, {len(seeds)} seeds, `quick`"
    )
    best = {}
    for name, by in scores.items():
        width = max(by, key=lambda w, by=by: float(np.mean(by[w])))
        best[name] = by[width]
        result.add(
            {
                "clustered": name,
                "Gaussian px": width,
                "mean": float(np.mean(by[width])),
                "least": min(by[width]),
                "most": max(by[width]),
            }
        )
    result.notes.append(
        "Others take the Gaussian with the highest mean; tokens keep the one that they come with."
    )
    for name in ("denoised median", "pixels"):
        gain = float(np.mean(np.subtract(best["tokens"], best[name])))
        result.bars.append(Bar(f"tokens: adjusted Rand above {name}", gain, 0.0))
    return result


def nmi(truth: NDArray[Any], labels: NDArray[Any], known: NDArray[np.bool_]) -> float:
    """Return the normalised mutual information where the truth is known."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(truth[known], labels[known]))


def minerals(tiny: bool) -> Result:
    """Compare tokens of real element maps with phases by rule, outside the training part."""
    folder = data_folder()
    if folder is None:
        pair = btn.samples.edx(seed=0)
        noisy, clean, phase, paper = pair.noisy, pair.clean, btn.samples.edx_phases(seed=0), None
        what = "built-in edx sample (no folder of real data)"
    else:
        with np.load(folder / "edx_top" / "edx_top.npz") as arrays:
            noisy, clean, phase, paper = (arrays[n] for n in ("noisy", "clean", "phase", "tokens"))
        what = "real SEM-EDX, 7 s against 7200 s"
    result = Result(
        f"Minerals ({what}): normalised mutual information with phases by rule, 3 members, `quick`"
    )
    third = noisy.shape[-1] // 3
    cases = {
        "right third": (np.s_[..., :-third], np.s_[..., -third:]),
        "left third": (np.s_[..., third:], np.s_[..., :third]),
    }
    six = []
    for name, (train, test) in cases.items():
        denoiser = btn.Denoiser("quick", members=2 if tiny else 3, **({"train": SMALL} if tiny else {}))
        denoiser.fit(np.ascontiguousarray(noisy[train]), np.ascontiguousarray(clean[train]), axes="CYX")
        image, truth = np.ascontiguousarray(noisy[test]), phase[test]
        tokens = denoiser.tokens(image, 20, "CYX")
        known = truth != 255
        assert tokens.median is not None, "tokens come with the median that they were described by"
        smooth = {w: gaussian_filter(image, (0, w, w)) for w in ((2.0,) if tiny else (2.0, 3.0, 4.0))}
        plain = [clustered(maps, (20, 6), seed=0) for maps in smooth.values()]
        median = clustered(tokens.median, (20, 6), seed=0)
        for i, k in enumerate((20, 6)):
            found = nmi(truth, tokens.cut(k).labels, known)
            row = {
                "judged on": name,
                "clusters": k,
                "tokens": found,
                "denoised median": nmi(truth, median[i], known),
                "smoothed channels, best width": max(nmi(truth, one[i], known) for one in plain),
            }
            if paper is not None and k == 20:
                both = known & (paper[test] != 255)
                row["tokens where the paper's are known"] = nmi(truth, tokens.labels, both)
                row["the paper's"] = nmi(truth, paper[test], both)
            result.add(row)
            if k == 6:
                six.append(found)
        close_pool()
    result.bars.append(Bar("tokens: NMI of 6 where nothing was trained, mean", float(np.mean(six)), 0.30))
    return result


def slider(tokens: Any) -> float:
    """Return the median CPU-seconds of a step of the slider: labels and table of another cut."""
    _ = tokens.table
    took = []
    for k in range(tokens.palette.size, 1, -1):
        began = time.process_time()
        cut = tokens.cut(k)
        assert cut.labels is not None
        assert cut.table is not None
        took.append(time.process_time() - began)
    return float(np.median(took))


def _large(bundle: Path, side: int) -> dict[str, float]:
    """Compute tokens of noise with three channels; runs in its own process."""
    import psutil

    denoiser = btn.load(bundle)
    tile = btn.samples.edx(seed=1, size=(256, 256)).noisy
    image = np.tile(tile, (1, side // 256, side // 256))
    before = psutil.Process().memory_info().rss
    with peak_memory() as peak, spent() as cost:
        tokens = denoiser.tokens(image, 40, "CYX")
    maps = [tokens.median, tokens.width]
    arrays = image.nbytes + tokens.nodes.nbytes + sum(m.nbytes for m in maps if m is not None)
    # lower, upper and spread are computed, too
    arrays += 3 * image.nbytes
    return {
        "arrays": arrays,
        "before": before,
        "together": peak.together,
        "own": peak.own,
        "cpu": cost.cpu,
        "slider": slider(tokens),
    }


def size(tiny: bool) -> Result:
    """Measure the memory of 40 tokens of a large image with ten members, and the slider at two sizes."""
    result = Result("A large image with three channels: 40 tokens, 10 members that learned for two steps")
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "model.btn"
        pair = btn.samples.edx(seed=0, size=(128, 256))
        train = TrainSettings(steps=2, batch_size=2, patch_px=16)
        btn.Denoiser("quick", members=10, train=train).fit(pair.noisy, pair.clean, axes="CYX").save(bundle)
        close_pool()
        for side in (256,) if tiny else (256, 2048):
            call = [sys.executable, "-m", "benchmarks.tokens", "--child", str(bundle), str(side)]
            done = subprocess.run(call, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found = json.loads(done.stdout.splitlines()[-1])
            above = (found["together"] - found["arrays"]) / GB
            result.add(
                {
                    "image": f"{side} x {side} x 3",
                    "arrays GB": found["arrays"] / GB,
                    "peak GB, workers too": found["together"] / GB,
                    "main process GB": found["own"] / GB,
                    "above the arrays GB": above,
                    "CPU-s": found["cpu"],
                    "slider CPU-s a step": found["slider"],
                }
            )
            large = side == 2048
            if large:
                result.bars.append(Bar("tokens: GB above the arrays, 2048 x 2048", above, 2.0, above=False))
            limit = 0.5 if large else 0.2
            result.bars.append(Bar(f"tokens: slider, {side} x {side}", found["slider"], limit, above=False))
    return result


def cut_to_five(source: LatentSource, view: View, count: int, seed: int) -> NDArray[np.uint8]:
    """Return the labels of an image in five tokens, from a tree of ``count`` clusters."""
    # the size of the palette is no setting
    with patch.object(learn, "_PALETTE", count):
        settings = TokenSettings(n_tokens=5)
        model = drain(fit_steps(source, lambda at: values_at(view, at), settings, seed=seed))
    nodes = np.empty(view.space, dtype=np.uint8)

    def keep(scene: int, where: tuple[slice, ...], found: NDArray[np.uint8]) -> None:
        del scene
        nodes[where] = found[3]

    drain(assign_steps(source, model, keep))
    return nodes


def seeds_agree(tiny: bool) -> Result:
    """Measure the adjusted Rand index of five tokens between seeds, direct and through the tree."""
    seeds, shape = (3, (64, 128)) if tiny else (5, (256, 512))
    pair = btn.samples.edx(seed=0, size=shape)
    denoiser = btn.Denoiser("quick", members=3, **({"train": SMALL} if tiny else {}))
    denoiser.fit(pair.noisy, pair.clean, axes="CYX")
    view = View(pair.noisy, "CYX")
    source = EnsembleLatents(view, denoiser.model.networks, Compute())
    result = Result(
        "Five tokens of the edx sample: adjusted Rand index between pairs of seeds, `quick`, 3 members"
    )
    for how, count, needed in (("direct", 5, 0.8), ("through the tree of 40", 40, 0.75)):
        made = [cut_to_five(source, view, count, seed) for seed in range(seeds)]
        pairs = [adjusted_rand(a, b) for a, b in itertools.combinations(made, 2)]
        row = {"clustered": how, "pairs": len(pairs), "median": float(np.median(pairs)), "least": min(pairs)}
        result.add(row)
        result.bars.append(Bar(f"tokens: seeds agree on five, {how}", row["median"], needed))
    return result


def numbers(tiny: bool) -> Result:
    """Measure the share of pixels that keep number and colour from each cut to the next, and the ideal."""
    result = Result("Pixels that keep number and colour from k to k + 1 tokens, `quick`, 3 members")
    folder = data_folder()
    sample = btn.samples.edx(seed=0, size=(96, 128) if tiny else (192, 256))
    cell = photographs(96 if tiny else 320)["cell"]
    images = {
        "edx sample": (sample.noisy, sample.clean, "CYX"),
        "photograph": (with_noise(cell, 0), cell, "YX"),
    }
    if folder is None:
        other = btn.samples.lattice(seed=0)
        images["lattice sample"] = (other.noisy, other.clean, "YX")
    else:
        with np.load(folder / "edx_top" / "edx_top.npz") as arrays:
            images["real element maps"] = (arrays["noisy"], arrays["clean"], "CYX")
    for name, (noisy, clean, axes) in images.items():
        denoiser = btn.Denoiser("quick", members=3, **({"train": SMALL} if tiny else {}))
        denoiser.fit(noisy, clean, axes=axes)
        tokens = denoiser.tokens(noisy, 20, axes)
        kept, ideal = [], []
        for k in range(2, tokens.palette.size):
            coarse, fine = tokens.cut(k), tokens.cut(k + 1)
            shown = [cut.colours[cut.labels] for cut in (coarse, fine)]
            kept.append(float(((coarse.labels == fine.labels) & (shown[0] == shown[1]).all(-1)).mean()))
            joint = np.bincount(((k + 2) * coarse.labels + fine.labels).ravel(), minlength=(k + 1) * (k + 2))
            ideal.append(joint.reshape(k + 1, k + 2).max(1).sum() / joint.sum())
        result.add(
            {
                "image": name,
                "kept, mean": float(np.mean(kept)),
                "least": min(kept),
                "at k": int(np.argmin(kept)) + 2,
                "ideal, mean": float(np.mean(ideal)),
                "ideal, least": float(np.min(ideal)),
                "cuts of 90 % or more": f"{sum(v >= 0.9 for v in kept)} of {len(kept)}",
            }
        )
        result.bars.append(Bar(f"tokens: keep number and colour, {name}", float(np.mean(kept)), 0.9))
        result.bars.append(
            Bar(
                f"tokens: below the ideal, {name}", float(np.max(np.subtract(ideal, kept))), 0.01, above=False
            )
        )
        close_pool()
    return result


def other_images(tiny: bool) -> Result:
    """Apply palettes to other fields: pixels beyond all tokens, and pixels that keep theirs under other noise."""
    trainings, shape = (1, (64, 96)) if tiny else (2, (192, 256))
    result = Result("Palettes of `edx` on another field, `quick`, 2 members: the share of pixels, by dose")
    for seed in range(trainings):
        pair, field = btn.samples.edx(seed, shape), btn.samples.edx(7000 + seed, shape)
        denoiser = btn.Denoiser("quick", members=2, seed=seed, **({"train": SMALL} if tiny else {}))
        denoiser.fit(pair.noisy, pair.clean, axes="CYX", executor=Inline())
        rng, rate = np.random.default_rng(seed), np.asarray(field.clean) * np.reshape(DOSE, (-1, 1, 1))
        for method in ("kmeans", "mixture", "hdbscan"):
            try:
                denoiser.tokens(pair.noisy, 40, axes="CYX", method=method, refit=True, executor=Inline())
            except ValueError as error:  # no dense groups
                result.notes.append(f"{method}, training {seed}: {error}")
                continue
            first = denoiser.tokens(field.noisy, 40, axes="CYX", executor=Inline())
            for times in (1.0, 1.5, 2.0):
                counts = rng.poisson(times * rate).astype(np.float32)
                found = denoiser.tokens(counts, 40, axes="CYX", executor=Inline())
                row = {"training": seed, "method": method, "counts": times, "beyond": found.beyond}
                if method == "kmeans" and times == 1:
                    same = {
                        k: np.mean(first.cut(k).labels == found.cut(k).labels) for k in (40, 20, 12, 8, 5)
                    }
                    row |= {f"same of {k}": float(v) for k, v in same.items()}
                result.add(row)
            print(f"    training {seed}, {method}", flush=True)
    return result


PARTS = {
    "numbers": numbers,
    "texture": texture,
    "minerals": minerals,
    "size": size,
    "seeds": seeds_agree,
    "other": other_images,
}


def run(tiny: bool) -> list[Result]:
    """Run all parts."""
    return list(_each(tiny))


def _each(tiny: bool) -> Iterator[Result]:
    for part in PARTS.values():
        yield part(tiny)
        close_pool()


if __name__ == "__main__":
    if "--child" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--child", nargs=2)
        bundle, side = parser.parse_args().child
        print(json.dumps(_large(Path(bundle), int(side))))
    else:
        main("tokens", run, PARTS)
