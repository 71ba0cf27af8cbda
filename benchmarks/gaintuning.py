"""GainTuning out of distribution: Gaussian noise on Set12, stronger than any of the training.

Members of the family "dncnn", which the published figures are of, train from random weights on crops of photographs
that come with scikit-image, none of them in Set12, with noise of standard deviation 0 to 55 (of 255), drawn for each
crop. Plain, bias-free and gain-tuned members are compared at 30 and 80 on the middle 128 x 128 pixels of every other
image; mean PSNR. Published, on whole images with a DnCNN of 670,000 weights trained on 400 photographs (Mohan et al.,
arXiv 2107.12815): at 70 and 80, DnCNN 22.45 and 18.48 dB, GainTuning 25.54 and 24.57, bias-free 25.59 and 24.94.

NAPARI_BTN_DATA names the folder of real data.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

import napari_btn as btn
from benchmarks.real import data_folder
from benchmarks.table import Bar, Result, main
from napari_btn.core.compute.pool import Inline
from napari_btn.core.settings import AdaptSettings, NetworkSettings, TrainSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAINED_UP_TO, INSIDE, OUTSIDE = 55.0, 30.0, 80.0
CROP, PEAK = 128, 255.0
CROPS, STEPS = 300, 2500
PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "chelsea",
    "page",
    "rocket",
    "moon",
)


def photographs() -> list[NDArray[np.float32]]:
    """Return the grey photographs of scikit-image that need no download, 0 to 255."""
    from skimage import data

    made = []
    for name in PHOTOGRAPHS:
        try:
            image = np.asarray(getattr(data, name)(), np.float32)
        except (OSError, ValueError, ModuleNotFoundError):
            continue
        made.append(image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114], np.float32))
    return made


def crops(n: int, seed: int) -> NDArray[np.float32]:
    """Draw crops of the photographs, (n, CROP, CROP), halved in size at random as Set12 has both."""
    rng, images = np.random.default_rng(seed), photographs()
    made = []
    while len(made) < n:
        image = images[len(made) % len(images)]
        if rng.random() < 0.5 and min(image.shape) >= 2 * CROP:
            image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            image = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
        if min(image.shape) < CROP:
            continue
        y, x = (int(rng.integers(s - CROP + 1)) for s in image.shape)
        made.append(image[y : y + CROP, x : x + CROP])
    return np.stack(made).astype(np.float32)


def set12() -> NDArray[np.float32] | None:
    """Return the middle of each image of Set12, 0 to 255; None where the folder is absent."""
    from skimage.io import imread

    folder = data_folder()
    if folder is None or not (folder / "set12").is_dir():
        return None
    images = [np.asarray(imread(path), np.float32) for path in sorted((folder / "set12").glob("*.png"))]
    middle = [[(n - CROP) // 2 for n in image.shape] for image in images]
    return np.stack([i[y : y + CROP, x : x + CROP] for i, (y, x) in zip(images, middle, strict=True)])


def with_noise(clean: NDArray[np.float32], sd: Any, seed: int) -> NDArray[np.float32]:
    """Add normal noise."""
    return (clean + np.random.default_rng(seed).normal(0, 1, clean.shape) * sd).astype(np.float32)


def psnr(image: NDArray[np.float32], clean: NDArray[np.float32]) -> float:
    """Return the PSNR in dB at a range of 255."""
    return float(10 * np.log10(PEAK**2 / np.mean(np.square(np.clip(image, 0, PEAK) - clean))))


def run(tiny: bool) -> list[Result]:
    """Compare plain, bias-free and gain-tuned members on Set12."""
    clean = set12()
    result = Result("Set12, PSNR in dB; trained on noise of standard deviation 0 to 55")
    if clean is None:
        result.notes.append("skipped: no folder set12 among the real data; name one in NAPARI_BTN_DATA")
        return [result]
    clean = clean[:2] if tiny else clean[::2]
    taught = crops(10 if tiny else CROPS, seed=0)
    sds = np.random.default_rng(1).uniform(0, TRAINED_UP_TO, (len(taught), 1, 1))
    noisy = with_noise(taught, sds, 2)
    train = TrainSettings(steps=20 if tiny else STEPS, start="scratch")
    steps = 8 if tiny else 40
    made, seconds = {}, {}
    for name, bias_free in (("plain", False), ("bias-free", True)):
        began = time.process_time()
        network = NetworkSettings(family="dncnn", bias_free=bias_free)
        denoiser = btn.Denoiser("quick", members=1, device="cpu", network=network, train=train)
        made[name] = denoiser.fit(noisy, taught, axes="SYX", executor=Inline())
        seconds[name] = time.process_time() - began
    table: dict[float, dict[str, float]] = {}
    for sd in (OUTSIDE, INSIDE):
        given = with_noise(clean, sd, int(sd))
        scores: dict[str, list[float]] = {"noisy": [psnr(a, b) for a, b in zip(given, clean, strict=True)]}
        for name, denoiser in made.items():
            found = denoiser.predict(given, axes="SYX").median
            scores[name] = [psnr(a, b) for a, b in zip(found, clean, strict=True)]
        noise = btn.NoiseModel(gain=np.zeros(1), read_sd=np.array([sd]))
        for loss in ("blind_spot", "sure"):
            adapted = []
            for image in given:
                how = AdaptSettings(loss, steps=steps)
                tuned = made["plain"].adapt(image, "YX", settings=how, noise_model=noise)
                adapted.append(tuned.predict(image, axes="YX").median)
            scores[f"tuned, {loss}"] = [psnr(a, b) for a, b in zip(adapted, clean, strict=True)]
        table[sd] = {name: float(np.mean(values)) for name, values in scores.items()}
        result.add({"SD": sd, **table[sd]})
    top, low = table[OUTSIDE], table[INSIDE]
    for name in ("tuned, sure", "tuned, blind_spot", "bias-free"):
        result.bars.append(Bar(f"{name} above plain at {OUTSIDE:g}, dB", top[name] - top["plain"], 2.0))
        allowed = -0.3 if name == "bias-free" else -0.1
        result.bars.append(Bar(f"{name} above plain at {INSIDE:g}, dB", low[name] - low["plain"], allowed))
    result.notes.append(
        f"{len(clean)} images; {len(taught)} crops of {CROP} px, {train.steps} steps of one member with "
        f"{made['plain'].parameters} weights ({sum(seconds.values()):.0f} CPU-s for both); tuning takes {steps} steps "
        "per image"
    )
    return [result]


if __name__ == "__main__":
    main("gaintuning", run)
