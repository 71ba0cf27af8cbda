"""Learning without clean images: quality against learning from clean ones, coverage, and real data.

Simulated images have a truth, which no supervision but `pair` sees. Gaussian filter and total variation are
tuned on the truth, which favours them. NAPARI_BTN_DATA names the folder of real data; rows of missing data
are left out.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter

import napari_btn as btn
from benchmarks import peers
from benchmarks.measure import spent
from benchmarks.real import data_folder
from benchmarks.table import Bar, Result, main
from napari_btn.core.data import noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.float32]

STEPS, MEMBERS, TEST = 400, 2, 40
WINDOWS = {"6.25-6.55 keV": (6.25, 6.55), "2.2-2.45 keV": (2.2, 2.45), "0.2-0.36 keV": (0.2, 0.36)}
BIN_PX = 8  # side of the bins of the sparse counts of the sweeps


def denoiser(
    way: str, *, tiny: bool, steps: int = STEPS, seed: int = 0, start: str = "scratch", **options: Any
) -> btn.Denoiser:
    """Return members, from random weights where nothing else is asked for."""
    train = btn.TrainSettings(steps=6 if tiny else steps, start=start)
    members = 1 if tiny else MEMBERS
    return btn.Denoiser("standard", members=members, supervision=way, seed=seed, train=train, **options)


def psnr(truth: Image, made: Image, span: float) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(span**2 / np.mean((made - truth) ** 2)))


def inside(prediction: btn.Prediction, values: Image) -> float:
    """Return the share of values inside the intervals."""
    return float(((prediction.lower <= values) & (values <= prediction.upper)).mean())


def filters(noisy: Image, clean: Image) -> dict[str, float]:
    """Return the mean squared errors of the filters, each tuned on the truth of this image."""
    found = {}
    for name, method, grid in (
        ("Gaussian", peers.gaussian, peers.SIGMAS),
        ("total variation", peers.total_variation, tuple(w * float(noisy.std()) for w in peers.WEIGHTS)),
    ):
        _, (made,) = peers.best(method, grid, [noisy], [clean])
        found[name] = float(np.mean((made - clean) ** 2))
    return found


def blobs(tiny: bool) -> Result:
    """Compare supervisions on blobs at equal steps, and measure the coverage of a replicate."""
    result = Result(
        f"Blobs without clean images: {MEMBERS} members, {STEPS} steps, 100 + 50 scenes, {TEST} for the test"
    )
    n, test_n = (12, 4) if tiny else (150, TEST)
    pair, test = btn.samples.blobs(seed=0, n=n), btn.samples.blobs(seed=1000, n=test_n)

    def again(clean: Image, first: int) -> Image:
        """Return another noisy copy of each scene."""
        return np.stack([noise.skewed(c, rng=np.random.default_rng(first + i)) for i, c in enumerate(clean)])

    second, repeat = again(pair.clean, 10_000), again(test.clean, 20_000)
    how = btn.CalibrationSettings(train_fraction=2 / 3)
    rows = {}
    for way, images in (
        ("pair", (pair.noisy, pair.clean)),
        ("noise2noise", (pair.noisy, second)),
        ("noise2void", (pair.noisy,)),
    ):
        model = denoiser(way, tiny=tiny, calibration=how)
        with spent() as cost:
            model.fit(*images, axes="SYX")
        made = model.predict(test.noisy, "SYX")
        rows[way] = {
            "supervision": way,
            "median dB": psnr(test.clean, made.median, 4.0),
            "mean dB": psnr(test.clean, made.mean, 4.0),
            "bias of the median": float((made.median - test.clean).mean()),
            "bias of the mean": float((made.mean - test.clean).mean()),
            "coverage of a repeat": inside(made, repeat),
            "of the clean signal": inside(made, test.clean),
            "CPU-s": cost.cpu,
        }
        result.add(rows[way])
    n2n, n2v = rows["noise2noise"], rows["noise2void"]
    result.bars += [
        Bar(
            "noise2noise: mean below that of pair, dB",
            rows["pair"]["mean dB"] - n2n["mean dB"],
            0.7,
            above=False,
        ),
        Bar("noise2noise: |bias| of the mean", abs(n2n["bias of the mean"]), 0.01, above=False),
        Bar("noise2noise: coverage of a repeat, least", n2n["coverage of a repeat"], 0.88),
        Bar("noise2noise: coverage of a repeat, most", n2n["coverage of a repeat"], 0.92, above=False),
        Bar("noise2void: mean, dB (CAREamics' Noise2Void 27.5)", n2v["mean dB"], 28.3),
        Bar("noise2void: CPU-seconds (CAREamics 92)", n2v["CPU-s"], 92, above=False),
    ]
    return result


def counts(tiny: bool) -> Result:
    """Compare thinning of one image of counts with filters tuned on its truth."""
    result = Result("Poisson counts of one image: thinning against filters tuned on the truth")
    side = 96 if tiny else 256
    silicon, _, iron = btn.samples.edx(0, (side, side)).clean
    rates = {"edx Si": silicon, "edx Fe": iron}
    folder = data_folder()
    if folder is not None:
        with np.load(folder / "skimage_cell" / "skimage_cell.npz") as stored:
            photo = np.asarray(stored["image"], np.float32)[:side, :side]
        rates["photograph of a cell"] = photo + 1e-3 * float(photo.max())
    for mean in (2.0, 8.0):
        gains: dict[str, list[float]] = {"pretrained": [], "scratch": []}
        for name, rate in rates.items():
            clean = np.asarray(rate / rate.mean() * mean, np.float32)
            noisy = noise.poisson(clean, rng=np.random.default_rng(1))
            known = filters(noisy, clean)
            span = float(clean.max() - clean.min())
            for start in gains:
                model = denoiser("thinning", tiny=tiny, steps=600, start=start)
                model.fit(noisy)
                made = model.predict(noisy)
                error = float(np.mean((made.mean - clean) ** 2))
                gains[start].append(10 * np.log10(min(known.values()) / error))
                result.add(
                    {
                        "counts": mean,
                        "image": name,
                        "start": start,
                        "thinning dB": psnr(clean, made.mean, span),
                        **{f"{k} dB": float(10 * np.log10(span**2 / v)) for k, v in known.items()},
                        "gain dB": float(gains[start][-1]),
                        "bias": float((made.mean - clean).mean()),
                    }
                )
        result.bars += [
            Bar(
                f"thinning, {start}, above the best filter at {mean:g} counts, mean over images, dB",
                float(np.mean(gained)),
                1.0,
            )
            for start, gained in gains.items()
        ]
    return result


def rows(tiny: bool) -> Result:
    """Compare structured masks with plain ones under noise that is correlated along rows."""
    result = Result(
        "Noise correlated along rows (AR(1), 0.7; SD 0.8): plain and structured masks, 100 scenes of blobs"
    )
    n = 12 if tiny else 100
    clean, test = (
        btn.samples.blobs(seed=0, n=n).clean,
        btn.samples.blobs(seed=1000, n=4 if tiny else 30).clean,
    )

    def noisy(images: Image, seed: int) -> Image:
        """Add the noise, of which the first columns are left to settle."""
        white = np.random.default_rng(seed).standard_normal((*images.shape[:-1], images.shape[-1] + 32))
        return np.asarray(
            images + 0.8 * np.sqrt(1 - 0.49) * lfilter([1], [1, -0.7], white)[..., 32:], np.float32
        )

    given, seen = noisy(clean, 1), noisy(test, 2)
    found = {}
    for name, settings in (
        ("plain", btn.SupervisionSettings()),
        ("along x, 13 px", btn.SupervisionSettings(struct_n2v_axes="horizontal", struct_n2v_span=13)),
    ):
        model = denoiser("noise2void", tiny=tiny, supervision_settings=settings)
        with spent() as cost:
            model.fit(given, axes="SYX")
        found[name] = psnr(test, model.predict(seen, "SYX").mean, 4.0)
        result.add({"mask": name, "mean dB": found[name], "CPU-s": cost.cpu})
    result.add({"mask": "none: the noisy image", "mean dB": psnr(test, seen, 4.0)})
    result.bars.append(
        Bar("structured masks above plain ones, dB", found["along x, 13 px"] - found["plain"], 2.0)
    )
    return result


def stripes(tiny: bool) -> Result:
    """Compare a plain mask with one along the stripes of a sinogram whose columns have errors of gain."""
    result = Result("Sinogram with stripes (sample `stripes`): plain and structured masks, one image")
    pair = btn.samples.stripes(size=(64, 96) if tiny else (192, 256))
    noisy, clean = np.asarray(pair.noisy), np.asarray(pair.clean)
    best, found = filters(noisy, clean), {}
    for name, span in (("plain", 0), ("along y, 13 px", 13)):
        how = btn.SupervisionSettings(struct_n2v_axes="vertical", struct_n2v_span=span) if span else None
        model = denoiser("noise2void", tiny=tiny, supervision_settings=how or btn.SupervisionSettings())
        with spent() as cost:
            model.fit(noisy, axes="YX")
        found[name] = psnr(clean, model.predict(noisy, axes="YX").mean, 300.0)
        result.add({"method": name, "dB": found[name], "CPU-s": cost.cpu})
    for name, error in {**best, "the noisy image": float(np.mean((noisy - clean) ** 2))}.items():
        result.add({"method": name, "dB": 10 * np.log10(300.0**2 / error)})
    result.bars.append(
        Bar("mask along y above the plain one, dB", found["along y, 13 px"] - found["plain"], 2.0)
    )
    return result


def sweeps(tiny: bool) -> Result | None:
    """Judge Noise2Noise and thinning on sweeps that they did not see (real STEM-EDS counts)."""
    folder = data_folder()
    if folder is None or not (folder / "jeol_sweeps").is_dir():
        return None
    result = Result(
        f"Real STEM-EDS sweeps, bins of {BIN_PX} px: correlation and error against sweeps that were not used"
    )
    with np.load(folder / "jeol_sweeps" / "events.npz") as events:
        energy = events["channel"] * float(events["energy_scale_keV"]) + float(events["energy_offset_keV"])
        at = [events[k].astype(int) for k in ("frame", "y", "x")]
        times = events["count"].astype(np.float64)
    n_frames, side = int(at[0].max()) + 1, 512 // BIN_PX
    maps = np.zeros((n_frames, len(WINDOWS), side, side), np.float32)
    for c, (low, high) in enumerate(WINDOWS.values()):
        here = (energy >= low) & (energy < high)
        np.add.at(maps, (at[0][here], c, at[1][here] // BIN_PX, at[2][here] // BIN_PX), times[here])
    small = btn.NetworkSettings(depth=6, max_dilation=2)
    made = {}
    for way, images, axes in (("noise2noise", maps[:2], "TCYX"), ("thinning", maps[0], "CYX")):
        model = denoiser(way, tiny=tiny, network=small)
        model.fit(images, axes=axes, channel_names=tuple(WINDOWS))
        made[way] = model.predict(maps[0], "CYX")
    for c, name in enumerate(WINDOWS):
        for way, used in (("noise2noise", 2), ("thinning", 1)):
            truth = maps[used:, c].mean(0)
            error = float(np.mean((made[way].mean[c] - truth) ** 2))
            _, (smooth,) = peers.best(peers.gaussian, peers.SIGMAS, [maps[0, c]], [truth])
            best = float(np.mean((smooth - truth) ** 2))
            result.add(
                {
                    "window": name,
                    "supervision": way,
                    "sweeps judged on": len(maps) - used,
                    "MSE": error,
                    "MSE of the best Gaussian": best,
                    "correlation": float(np.corrcoef(made[way].mean[c].ravel(), truth.ravel())[0, 1]),
                    "of the Gaussian": float(np.corrcoef(smooth.ravel(), truth.ravel())[0, 1]),
                    "coverage of a sweep": float(
                        np.mean([inside_of(made[way], c, m) for m in maps[used:, c]])
                    ),
                }
            )
            result.bars.append(
                Bar(f"{name}, {way}: MSE over that of the best Gaussian", error / best, 1.0, above=False)
            )
    return result


def inside_of(prediction: btn.Prediction, c: int, values: Image) -> float:
    """Return the share of the values of a channel inside the intervals."""
    return float(((prediction.lower[c] <= values) & (values <= prediction.upper[c])).mean())


def both_means(noisy: Image, axes: str, *, tiny: bool, start: str) -> tuple[btn.Prediction, Image, float]:
    """Return a prediction by Noise2Void with own values, its mean without them, and the CPU-seconds of the training."""
    train = btn.TrainSettings(steps=6 if tiny else STEPS, start=start)
    own = btn.SupervisionSettings(own_pixel=True)
    members = 1 if tiny else MEMBERS
    model = btn.Denoiser(
        "standard", members=members, supervision="noise2void", supervision_settings=own, train=train
    )
    with spent() as cost:
        model.fit(noisy, axes=axes)
    made = model.predict(noisy, axes)
    return made, replace(made, stored_mean=None).mean, cost.cpu


def fluorescence(tiny: bool) -> Result | None:
    """Judge Noise2Void of single real fluorescence images on the mean of 50 frames."""
    folder = data_folder()
    if folder is None or not (folder / "fmd").is_dir():
        return None
    from PIL import Image as Picture

    result = Result(
        "Real fluorescence images (fmd), one frame each, 256 x 256 px: Noise2Void from pretrained members against "
        "filters tuned on the mean of 50 frames"
    )
    names = sorted(p.name for p in (folder / "fmd" / "raw").glob("*_1.webp"))[: 1 if tiny else None]
    gains, added = [], []
    for name in names:
        noisy, clean = (
            np.asarray(Picture.open(folder / "fmd" / part / name).convert("L"), np.float32)[:256, :256]
            for part in ("raw", "gt")
        )
        made, blind, cpu = both_means(noisy, "YX", tiny=tiny, start="pretrained")
        known, inside_signal = filters(noisy, clean), float("nan")
        if made.signal_sd is not None:
            signal = made.signal_interval()
            inside_signal = float(((signal.lower <= clean) & (clean <= signal.upper)).mean())
        error = float(np.mean((made.mean - clean) ** 2))
        gains.append(float(10 * np.log10(min(known.values()) / error)))
        added.append(psnr(clean, made.mean, 255.0) - psnr(clean, blind, 255.0))
        result.add(
            {
                "image": name,
                "noisy dB": psnr(clean, noisy, 255.0),
                "Noise2Void dB": psnr(clean, blind, 255.0),
                "with own values dB": psnr(clean, made.mean, 255.0),
                **{f"{k} dB": float(10 * np.log10(255**2 / v)) for k, v in known.items()},
                "clean in signal_interval": inside_signal,
                "CPU-s": cpu,
            }
        )
    result.notes.append(
        f"With own values above the better filter on average: {np.mean(gains):.2f} dB; above Noise2Void without them: "
        f"{np.mean(added):.2f} dB, {min(added):.2f} to {max(added):.2f}"
    )
    return result


def photographs(tiny: bool) -> Result | None:
    """Judge Noise2Void on photographs with normal noise of SD 25 (of 255), in the manner of BSD68."""
    folder = data_folder()
    if folder is None or not (folder / "set12").is_dir():
        return None
    from PIL import Image as Picture

    result = Result(
        "Set12, middle 256 x 256 px of each, normal noise of SD 25 of 255: one training on the 12 noisy images together"
    )
    paths = sorted((folder / "set12").glob("*.png"))[: 2 if tiny else None]
    whole = [np.asarray(Picture.open(p).convert("L"), np.float32) for p in paths]
    corners = [[(n - 256) // 2 for n in image.shape] for image in whole]
    clean = np.stack([i[y : y + 256, x : x + 256] for i, (y, x) in zip(whole, corners, strict=True)])
    noisy = np.asarray(clean + np.random.default_rng(25).normal(0, 25, clean.shape), np.float32)

    def mean_of(images: Image) -> float:
        """Return the mean PSNR of the images."""
        return float(np.mean([psnr(c, m, 255.0) for c, m in zip(clean, images, strict=True)]))

    known = [filters(n, c) for n, c in zip(noisy, clean, strict=True)]
    for name in known[0]:
        tuned = float(np.mean([10 * np.log10(255**2 / k[name]) for k in known]))
        result.add({"method": f"{name}, tuned on the truth", "mean dB": tuned})
    for start in ("scratch", "pretrained"):
        made, blind, cpu = both_means(noisy, "SYX", tiny=tiny, start=start)
        result.add({"method": f"Noise2Void, {start}", "mean dB": mean_of(blind), "CPU-s": cpu})
        result.add({"method": f"with own values, {start}", "mean dB": mean_of(made.mean), "CPU-s": cpu})
    result.notes.append(
        "Published, on BSD68: Noise2Void 27.71 dB, BM3D 28.57 dB, DnCNN with clean targets 29.23 dB."
    )
    return result


def drift_of(first: Image, second: Image) -> tuple[int, int]:
    """Return the shift in whole pixels that makes the second image most like the first, after smoothing."""
    smooth = [gaussian_filter(image, 1.5) for image in (first, second)]
    shifts = list(itertools.product(range(-4, 5), repeat=2))
    unlike = [np.mean((np.roll(smooth[1], s, (0, 1)) - smooth[0])[8:-8, 8:-8] ** 2) for s in shifts]
    return shifts[int(np.argmin(unlike))]


def nanosims(tiny: bool) -> Result | None:
    """Learn from two drifting frames of real ion counts, aligned first."""
    folder = data_folder()
    found = [] if folder is None else sorted((folder / "nanosims").glob("*.npz"))
    if not found:
        return None
    result = Result(
        "Real NanoSIMS counts, two frames that drift: aligned, then Noise2Noise; coverage of the other frame"
    )
    with np.load(found[0]) as stored:
        stack, names = stored["counts"], [str(n) for n in stored["species"]]
    first, second = np.asarray(stack[:, 0], np.float32), np.asarray(stack[:, 1], np.float32)
    # whole pixels keep counts as they are; species are scanned one after another, so each has a drift of its own
    drifts = [drift_of(a, b) for a, b in zip(first, second, strict=True)]
    moved = np.stack([np.roll(b, drift, (0, 1)) for b, drift in zip(second, drifts, strict=True)])
    inner = (slice(None), slice(8, -8), slice(8, -8))
    a, b = first[inner], moved[inner]
    model = denoiser("noise2noise", tiny=tiny)
    model.fit(a, b, axes="CYX")
    made, report = model.predict(a, "CYX"), model.report
    assert report is not None
    for c in range(len(a)):
        result.add(
            {
                "species": names[c],
                "drift px": str(drifts[c]),
                "held-out coverage": float(report.coverage[c]),
                "whole frame": inside_of(made, c, b[c]),
            }
        )
    return result


def movie(tiny: bool) -> Result:
    """Compare five frames with one on a series that moves by 0 to 3 px a frame, without clean images."""
    result = Result(
        f"Series that moves by 0 to 3 px a frame (24 of 128 x 160 px): Noise2Void, {MEMBERS} members, {STEPS} steps"
    )
    gains: dict[int, list[float]] = {3: [], 5: []}
    for seed in range(1 if tiny else 2):
        pair = btn.samples.movie(seed, 6 if tiny else 24, (64, 96) if tiny else (128, 160))
        span = float(pair.clean.max() - pair.clean.min())
        found = {}
        for frames in (1, 3, 5):
            how = btn.SupervisionSettings(frames=frames)
            model = denoiser("noise2void", tiny=tiny, supervision_settings=how)
            with spent() as cost:
                model.fit(pair.noisy, axes="TYX")
            made, report = model.predict(pair.noisy, "TYX"), model.report
            assert report is not None
            found[frames] = psnr(pair.clean, made.mean, span)
            result.add(
                {
                    "seed": seed,
                    "frames seen": frames,
                    "noisy dB": psnr(pair.clean, pair.noisy, span),
                    "mean dB": found[frames],
                    "bias": float((made.mean - pair.clean).mean()),
                    "coverage of masked pixels": float(report.coverage[0]),
                    "CPU-s": cost.cpu,
                }
            )
        for frames, gained in gains.items():
            gained.append(found[frames] - found[1])
    result.bars.append(Bar("five frames above one, mean over seeds, dB", float(np.mean(gains[5])), 0.8))
    result.notes.append(f"Three frames above one: {np.mean(gains[3]):.2f} dB")
    return result


def run(tiny: bool) -> list[Result]:
    """Run all parts for which there are data."""
    return [made for part in PARTS.values() if (made := part(tiny)) is not None]


PARTS = {
    "blobs": blobs,
    "counts": counts,
    "rows": rows,
    "stripes": stripes,
    "sweeps": sweeps,
    "fluorescence": fluorescence,
    "photographs": photographs,
    "nanosims": nanosims,
    "movie": movie,
}

if __name__ == "__main__":
    main("no_clean", run, PARTS)
