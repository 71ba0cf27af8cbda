"""Families of members at equal CPU-seconds, beside total variation; U-Nets of two fields of view on a lattice.

The steps of each family follow from the time of a few steps, so that a member of any family trains for about
as many CPU-seconds. Members start from random weights. Total variation is tuned on the training part.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.real import Case, data_folder, photographs, with_noise
from benchmarks.table import Bar, Result, main
from napari_btn import Denoiser, NetworkSettings, samples
from napari_btn.core.compute.pool import Inline
from napari_btn.core.data.pairs import Pair
from napari_btn.core.evaluation import metrics
from napari_btn.core.evaluation.classical import filter_steps
from napari_btn.core.progress import drain
from napari_btn.core.settings import CalibrationSettings, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

FAMILIES = ("sms", "unet", "dncnn", "cdae")
SPLITS = "real EDX"  # first words of the sets that are splits of the same maps
PROBE = 8  # steps that tell how long one takes; of fewer, the start of a run takes more time than they do


@dataclass(frozen=True)
class Trial:
    """Training images and test images of one set, in the same axes."""

    name: str
    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    test_noisy: NDArray[np.float32]
    test_clean: NDArray[np.float32]
    axes: str

    def scores(self, made: NDArray[np.float32]) -> tuple[float, float]:
        """Return PSNR and correlation, means over channels."""
        made, truth = np.asarray(made), np.asarray(self.test_clean)
        if "C" not in self.axes:
            return float(metrics.psnr(truth, made)), float(metrics.correlation(truth, made))
        rows = [(metrics.psnr(t, m), metrics.correlation(t, m)) for t, m in zip(truth, made, strict=True)]
        psnr, r = np.mean(rows, axis=0)
        return float(psnr), float(r)


def trials(tiny: bool) -> Iterator[Trial]:
    """Yield the sets: blobs, two photographs, the edx sample, a lattice, and real element maps in three splits."""
    n, test = (9, 3) if tiny else (75, 60)
    blobs, other = samples.blobs(seed=0, n=n), samples.blobs(seed=1000, n=test)
    yield Trial("blobs", blobs.noisy, blobs.clean, other.noisy, other.clean, "SYX")
    if tiny:
        return
    for number, (name, clean) in enumerate(photographs(256).items()):
        case = Case.of(with_noise(clean, number), clean, (name,))
        yield Trial(name, case.noisy, case.clean, case.test_noisy, case.test_clean, "YX")
    edx, fresh = samples.edx(seed=0), samples.edx(seed=5)
    yield Trial("edx sample", edx.noisy, edx.clean, fresh.noisy, fresh.clean, "CYX")
    size = (256, 512)
    crystal, second = (samples.lattice(seed=s, size=size, period_px=20.0) for s in (0, 100))
    yield Trial("lattice, 20 px", crystal.noisy, crystal.clean, second.noisy, second.clean, "YX")
    folder = data_folder()
    if folder is None:
        return
    with np.load(folder / "edx_top" / "edx_top.npz") as arrays:
        noisy, clean = arrays["noisy"], arrays["clean"]
    third = noisy.shape[2] // 3
    for k in range(3):
        # a third is for the test, the rest in one piece for training
        rolled = [np.roll(a, -k * third, axis=2) for a in (noisy, clean)]
        cut = [
            np.ascontiguousarray(a[:, :, part]) for part in (slice(third, None), slice(third)) for a in rolled
        ]
        yield Trial(f"{SPLITS}, split {k + 1}", *cut, "CYX")


def total_variation(trial: Trial) -> NDArray[np.float32]:
    """Return the test images after total variation tuned on the training images."""
    pair = Pair(trial.noisy, trial.clean, trial.axes)
    (found,) = drain(
        filter_steps(
            pair.scenes.noisy, names=("total variation",), scenes=pair.scenes, train=pair.scenes.whole()
        )
    )
    test = trial.test_noisy if "C" in trial.axes else trial.test_noisy[None]
    if "S" in trial.axes:
        return np.stack([found.apply(image[None])[0] for image in trial.test_noisy])
    made = found.apply(test)
    return made if "C" in trial.axes else made[0]


def trained(trial: Trial, network: NetworkSettings, train: TrainSettings) -> tuple[Denoiser, float]:
    """Return a denoiser of one member, and the CPU-seconds of its training and calibration."""
    split = CalibrationSettings(train_fraction=0.67)
    denoiser = Denoiser(members=1, network=network, train=train, calibration=split, device="cpu")
    began = time.process_time()
    denoiser.fit(trial.noisy, trial.clean, axes=trial.axes, executor=Inline())
    return denoiser, time.process_time() - began


def steps_for(trial: Trial, network: NetworkSettings, train: TrainSettings, seconds: float) -> int:
    """Return the steps that a member trains in some CPU-seconds, from two short runs after a first one."""
    # the first run of a family loads and plans what later ones find ready
    _, few, more = (trained(trial, network, replace(train, steps=n))[1] for n in (PROBE, PROBE, 8 * PROBE))
    return int(np.clip(seconds / max((more - few) / (7 * PROBE), 1e-4), 2 * PROBE, 3000))


def table(tiny: bool) -> Result:
    """Compare the families on all sets at equal CPU-seconds."""
    seconds = 0.5 if tiny else 8.0
    train = TrainSettings(start="scratch", passes=1e9)
    result = Result(f"Families, one member, {seconds:g} CPU-seconds of training; from random weights, seed 0")
    for trial in trials(tiny):
        floor = trial.scores(total_variation(trial))
        result.add(
            {"set": trial.name, "family": "total variation", "PSNR": floor[0], "correlation": floor[1]}
        )
        for family in FAMILIES:
            network = NetworkSettings(family=family)
            steps = steps_for(trial, network, train, seconds)
            denoiser, spent = trained(trial, network, replace(train, steps=steps))
            made = denoiser.predict(trial.test_noisy, axes=trial.axes, executor=Inline()).median
            psnr, r = trial.scores(made)
            row: dict[str, Any] = {"set": trial.name, "family": family, "PSNR": psnr, "correlation": r}
            result.add({**row, "steps": steps, "CPU-s": spent, "weights": denoiser.parameters})
            if not trial.name.startswith(SPLITS):
                result.bars.append(
                    Bar(f"{trial.name}, {family}, dB above total variation", psnr - floor[0], 0.0)
                )
    means = mean_of_splits(result.rows)
    for row in means:
        result.add(row)
        if row["family"] != "total variation":
            gain = row["PSNR"] - means[0]["PSNR"]
            result.bars.append(Bar(f"{row['set']}, {row['family']}, dB above total variation", gain, 0.0))
    return result


def mean_of_splits(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row with the means over the splits of the real maps, of total variation first, then of each family."""
    made = []
    for family in ("total variation", *FAMILIES):
        own = [row for row in rows if row["set"].startswith(SPLITS) and row["family"] == family]
        if own:
            means = {key: float(np.mean([row[key] for row in own])) for key in ("PSNR", "correlation")}
            made.append({"set": f"{SPLITS}, mean of {len(own)} splits", "family": family, **means})
    return made


def fields(tiny: bool) -> Result:
    """Compare U-Nets that see 47 and 215 px on a lattice of 20 px."""
    size, steps, seeds = ((128, 256), 4, (0,)) if tiny else ((288, 1024), 120, (0,))
    train = TrainSettings(steps=steps, batch_size=1, patch_px=192, start="scratch", passes=1e9)
    result = Result(f"U-Nets on a lattice of 20 px, {steps} steps of one patch of 192 px; {len(seeds)} seeds")
    for depth in (10, 18):
        found, cost, sees = [], 0.0, 0
        for seed in seeds:
            pair = samples.lattice(seed=seed, size=size, period_px=20.0)
            other = samples.lattice(seed=100 + seed, size=(192, 256), period_px=20.0)
            trial = Trial("lattice", pair.noisy, pair.clean, other.noisy, other.clean, "YX")
            denoiser, spent = trained(trial, NetworkSettings(family="unet", depth=depth), train)
            made = denoiser.predict(other.noisy, axes="YX", executor=Inline()).median
            found.append(trial.scores(made)[0])
            cost, sees = cost + spent / len(seeds), 2 * denoiser.receptive_field + 1
        spread = float(np.ptp(found))
        row = {
            "depth": depth,
            "field of view px": sees,
            "PSNR": float(np.mean(found)),
            "range of seeds": spread,
        }
        result.add({**row, "CPU-s": cost})
    near, far = result.rows
    result.bars.append(Bar("dB of the wider field above the narrower", far["PSNR"] - near["PSNR"], 0.0))
    return result


PARTS = {"table": table, "fields": fields}


def run(tiny: bool) -> list[Result]:
    """Compare families of members."""
    return [part(tiny) for part in PARTS.values()]


if __name__ == "__main__":
    main("families", run, PARTS)
