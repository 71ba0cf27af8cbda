"""Accuracy of measured noise, of defects, and of training on what detectors spoil.

Photon transfer on simulated cameras over photographs, and on real data, where NAPARI_BTN_DATA names their folder;
broken and saturated pixels found; training with 1 % of hot pixels and with 2 % of the pixels saturated, each beside
the run on sound data. ``--part curves`` leaves the training out, ``--part training`` the rest.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import napari_btn as btn
from benchmarks.real import data_folder
from benchmarks.table import Bar, Result, write
from napari_btn.core.data import noise
from napari_btn.core.data.defects import find_defects, repair
from napari_btn.core.data.noise_models import NoiseModel
from napari_btn.core.data.photon_transfer import fit_line

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_CAMERAS = ((1.0, 0.0, 0.0), (2.2, 100.0, 6.0), (1.0, 0.0, 4.0))
_WINDOWS = ((6.25, 6.55), (2.2, 2.45), (0.2, 0.36))


def run(tiny: bool = False) -> list[Result]:
    """Return the tables of this benchmark."""
    return [simulated(tiny), *real(tiny), broken(tiny), training(tiny)]


def simulated(tiny: bool) -> Result:
    """Measure cameras of known gain on photographs of 2 to 202 counts."""
    result = Result("Photon transfer on simulated cameras (gain error in per cent)")
    pictures = _pictures(tiny)
    errors: dict[str, list[float]] = {"image": [], "eight frames": []}
    plain = []
    for gain, offset, read in _CAMERAS:
        row = {"gain": gain, "offset": offset, "read-out": read}
        for kind, count in (("image", 1), ("eight frames", 8)):
            found = []
            for k, rate in enumerate(pictures):
                rng = np.random.default_rng(k)
                frames = np.round(
                    gain * rng.poisson(rate, (count, *rate.shape))
                    + offset
                    + read * rng.standard_normal((count, *rate.shape))
                )
                axes, data = ("YX", frames[0]) if count == 1 else ("TYX", frames)
                model = NoiseModel.fit(data, axes, offset=offset or None)
                found.append(100 * abs(float(model.gain[0]) / gain - 1))
            errors[kind] += found
            plain += found if kind == "image" and read == 0 else []
            row |= {f"{kind} median": float(np.median(found)), f"{kind} worst": max(found)}
        result.add(row)
    result.notes.append(f"{len(pictures)} photographs for each camera, one seed each.")
    result.bars.append(
        Bar("gain of eight frames, worst error, per cent", max(errors["eight frames"]), 3, above=False)
    )
    result.bars.append(
        Bar(
            "gain of plain counts from one image, median error, per cent",
            float(np.median(plain)),
            10,
            above=False,
        )
    )
    result.bars.append(
        Bar(
            "gain from one image, median error of all cameras, per cent",
            float(np.median(errors["image"])),
            10,
            above=False,
        )
    )
    return result


def real(tiny: bool) -> list[Result]:
    """Measure real data, where they are."""
    folder = data_folder()
    if folder is None or not (folder / "fmd").is_dir():
        return [
            Result(
                "Photon transfer on real data", notes=["Skipped: NAPARI_BTN_DATA names no folder with fmd."]
            )
        ]
    return [_fluorescence(folder, tiny), _others(folder)]


def _fluorescence(folder: Path, tiny: bool) -> Result:
    """Compare the gain of one frame with that of its residual from the mean of 50."""
    result = Result("Gain of one fluorescence frame against that of frame and mean of 50 (fmd)")
    errors = []
    for path in sorted((folder / "fmd" / "raw").glob("*.webp"))[:: 12 if tiny else 2]:
        seen, truth = (
            np.asarray(Image.open(p).convert("L"), np.float64)
            for p in (path, folder / "fmd" / "gt" / path.name)
        )
        level = np.unique(truth)
        groups = [seen[truth == v] - v for v in level]
        kept = [
            (v, g)
            for v, g in zip(level, groups, strict=True)
            if g.size > 200 and (seen[truth == v] < 255).all()
        ]
        # the mean of 50 holds the frame itself, which takes a fiftieth of its noise away
        known = fit_line(
            np.array([v for v, _ in kept]),
            np.array([np.mean(g**2) * 50 / 49 for _, g in kept]),
            np.array([float(g.size) for _, g in kept]),
        )
        model = NoiseModel.fit(seen, "YX")
        at = float(np.average([v for v, _ in kept], weights=[g.size for _, g in kept]))
        ratio = float(model.variance(at)[()]) / float(known.variance(at))
        errors.append(100 * abs(ratio - 1))
        result.add(
            {
                "frame": path.stem,
                "gain": float(model.gain[0]),
                "known": float(known.slope),
                "variance / known": ratio,
            }
        )
    result.notes.append("Variance / known: at the mean brightness of the frame.")
    result.bars.append(
        Bar(
            "variance of one fluorescence frame, median error, per cent",
            float(np.median(errors)),
            10,
            above=False,
        )
    )
    return result


def _others(folder: Path) -> Result:
    """Measure counts and a movie."""
    result = Result("Noise of real counts and of a movie")
    events = np.load(folder / "jeol_sweeps" / "events.npz")
    energy = events["energy_offset_keV"] + events["energy_scale_keV"] * events["channel"]
    sweeps = np.zeros((14, 3, 512, 512), np.float32)
    for c, (low, high) in enumerate(_WINDOWS):
        here = (energy >= low) & (energy < high)
        place = (events["frame"][here], c, events["y"][here], events["x"][here])
        np.add.at(sweeps, place, events["count"][here])
    mass = np.load(folder / "nanosims" / "image_sun_species_frame_yx_uint16.npz")
    import tifffile

    movie = tifffile.imread(folder / "movie_2p" / "sima_example_TYX_uint16.tif")
    for name, data, axes in (
        ("jeol, 14 sweeps", sweeps, "SCYX"),
        ("jeol, one sweep", sweeps[0], "CYX"),
        ("nanosims, two frames", mass[mass.files[0]], "CTYX"),
        ("movie_2p", movie, "TYX"),
    ):
        model = NoiseModel.fit(data, axes)
        shown = {"data": name, "source": model.source}
        for field in ("gain", "fano", "read_sd"):
            shown[field] = " ".join(f"{v:.3g}" for v in getattr(model, field))
        shown["correlated px"] = " ".join("x".join(map(str, lengths)) for lengths in model.correlation_px)
        result.add(shown)
    return result


def broken(tiny: bool) -> Result:
    """Find 1 % of hot, 0.3 % of dead and 2 % of saturated pixels in photographs."""
    result = Result("Defects found in photographs of 2 to 202 counts")
    shares: dict[str, list[float]] = {"hot": [], "dead": [], "false": [], "saturated": []}
    for k, rate in enumerate(_pictures(tiny)):
        rng = np.random.default_rng(k)
        kinds = noise.defect_map(rate.shape, rng=rng, dead=0.003, hot=0.01)
        seen = noise.defects(noise.poisson(rate, rng=rng), broken=kinds, saturation=1023)
        found = find_defects(seen[None, None]).kinds[0]
        shares["hot"].append(float((found[kinds == noise.HOT] == noise.HOT).mean()))
        # near black, a dead pixel can't be told from a dark one, and does no harm
        bright = (kinds == noise.DEAD) & (rate > 100)
        if bright.any():
            shares["dead"].append(float((found[bright] == noise.DEAD).mean()))
        shares["false"].append(float((found[kinds == 0] != 0).mean()))
        counts = noise.poisson(rate, rng=rng)
        top = float(np.quantile(counts, 0.98))
        full = find_defects(np.minimum(counts, top)[None, None])
        shares["saturated"].append(float(full.saturation[0] == top))
    for name, values in shares.items():
        result.add(
            {
                "pixels": name,
                "mean": float(np.mean(values)),
                "worst": (max if name == "false" else min)(values),
            }
        )
    result.bars.append(Bar("share of hot pixels found", float(np.mean(shares["hot"])), 0.95))
    return result


def training(tiny: bool) -> Result:
    """Train on spoilt data and on sound ones, and compare with the truth."""
    result = Result("Training on spoilt data (blobs, normal noise of SD 0.5, two noisy copies)")
    members, steps, count = (1, 6, 12) if tiny else (2, 400, 80)
    clean = btn.samples.blobs(seed=0, n=count).clean
    fresh = btn.samples.blobs(seed=1, n=count // 2).clean
    rng = np.random.default_rng(0)
    first, second, test = (noise.readout(c, rng=rng, sd=0.5) for c in (clean, clean, fresh))

    def fitted(
        x: NDArray, y: NDArray, t: NDArray, *, valid: NDArray | None = None, top: float | None = None
    ) -> NDArray:
        """Return the median on fresh images of members trained on two noisy copies."""
        train = btn.TrainSettings(steps=steps, start="scratch", saturation=top)
        denoiser = btn.Denoiser(members=members, supervision="noise2noise", seed=0, train=train, device="cpu")
        denoiser.fit(x, y, axes="SYX", valid=valid)
        return np.asarray(denoiser.predict(t, axes="SYX").median)

    def db(made: NDArray) -> float:
        """Return the PSNR over a range of 4."""
        return float(10 * np.log10(16 / np.mean((made - fresh) ** 2)))

    sound = db(fitted(first, second, test))
    kinds = noise.defect_map(clean.shape[1:], rng=rng, dead=0.0, hot=0.01)
    spoilt = [noise.defects(x, broken=kinds, saturation=12.0) for x in (first, second, test)]
    naive = db(fitted(*spoilt))
    made = [repair(x, "SYX") for x in spoilt]
    repaired = db(fitted(*(m.image for m in made), valid=made[0].valid & made[1].valid))
    result.add({"run": "sound", "PSNR": sound})
    result.add({"run": "1 % hot, as they are", "PSNR": naive})
    result.add({"run": "1 % hot, repaired", "PSNR": repaired})
    result.bars.append(Bar("1 % hot pixels, repaired: dB below sound", sound - repaired, 0.3, above=False))
    top = float(np.quantile(first, 0.98))
    clipped = [np.minimum(x, top) for x in (first, second, test)]
    bright = fresh >= np.quantile(fresh, 0.98)
    biases = []
    for name, value in (("2 % saturated, as they are", None), ("2 % saturated, censored", top)):
        bias = float((fitted(*clipped, top=value) - fresh)[bright].mean())
        biases.append(bias)
        result.add({"run": name, "bias of the brightest 2 %": bias})
    result.bars.append(
        Bar(
            "saturation: bias of the brightest 2 % over the naive one",
            abs(biases[1] / biases[0]),
            0.25,
            above=False,
        )
    )
    result.notes.append(
        f"{members} members, {steps} steps from random weights, {count} scenes of 64 px, seed 0."
    )
    return result


def _pictures(tiny: bool) -> list[NDArray[np.float64]]:
    """Return photographs as rates of 2 to 202 counts: three of scikit-image, and Set12 where it is."""
    from skimage import data

    made = [np.asarray(read(), np.float64)[:256, :256] for read in (data.camera, data.coins, data.moon)]
    folder = data_folder()
    more = sorted((folder / "set12").glob("*.png")) if folder is not None else []
    made += [np.asarray(Image.open(path).convert("L"), np.float64) for path in more]
    rates = [2 + 200 * (p - p.min()) / max(float(np.ptp(p)), 1e-9) for p in made]
    return rates[:2] if tiny else rates


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("all", "curves", "training"), default="all")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    tiny = chosen.tiny
    made = [] if chosen.part == "training" else [simulated(tiny), *real(tiny), broken(tiny)]
    made += [] if chosen.part == "curves" else [training(tiny)]
    for result in made:
        result.show()
    write(made, "noise", tiny=tiny)


if __name__ == "__main__":
    main()
