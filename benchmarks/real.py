"""Bar 2 on real images: element maps, and photographs of cells and galaxies with simulated noise.

All methods are trained and tuned on the left two thirds and evaluated on the right third, which is cut
off first. NAPARI_BTN_DATA names the folder of real data; without it the element maps are those of the
built-in sample, and the photographs come with scikit-image.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

import napari_btn as btn
from benchmarks import peers
from benchmarks.measure import close_pool, spent
from benchmarks.table import Bar, Result, main
from napari_btn.core.data import noise
from napari_btn.core.evaluation import metrics
from napari_btn.core.settings import PRESETS, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MARGINS = {"Si": 0.015, "Al": 0.01, "Fe": 0.01}
PEAK, READ_SD = 10.0, 1.0


@dataclass(frozen=True)
class Case:
    """The left two thirds and the right third of a pair, (C, Y, X)."""

    noisy: NDArray[np.float32]
    clean: NDArray[np.float32]
    test_noisy: NDArray[np.float32]
    test_clean: NDArray[np.float32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, noisy: Any, clean: Any, names: Sequence[str]) -> Case:
        """Cut a pair."""
        at = noisy.shape[-1] * 2 // 3
        parts = [
            np.ascontiguousarray(a[..., s]) for s in (slice(at), slice(at, None)) for a in (noisy, clean)
        ]
        return cls(*parts, tuple(names))


def data_folder() -> Path | None:
    """Return the folder of real data, or None."""
    named = os.environ.get("NAPARI_BTN_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def element_maps() -> tuple[Case, str]:
    """Return maps of Si, Al and Fe: 7 s against 7200 s if there are real data, else the built-in sample."""
    names = ("Si", "Al", "Fe")
    folder = data_folder()
    if folder is None:
        pair = btn.samples.edx(seed=0)
        return Case.of(pair.noisy, pair.clean, names), "built-in edx sample (no folder of real data)"
    with np.load(folder / "edx_top" / "edx_top.npz") as arrays:
        return Case.of(arrays["noisy"], arrays["clean"], names), "real SEM-EDX, 7 s against 7200 s"


def photographs(side: int | None = None) -> dict[str, NDArray[np.float32]]:
    """Return grey images scaled to a peak of ten counts."""
    from skimage import data

    # turned so that the cell lies in the training part: no method can learn an unknown brightness
    cell = data.cell().T[:, ::-1]
    hubble = data.hubble_deep_field()[180:692, 200:712].mean(-1)
    scaled = {"cell": cell / cell.max() * PEAK, "hubble": hubble / hubble.max() * PEAK}
    return {name: image[:side, :side].astype(np.float32) for name, image in scaled.items()}


def with_noise(clean: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Draw Poisson counts and add normal read-out noise."""
    rng = np.random.default_rng(seed)
    counts = noise.poisson(clean, rng=rng)
    return (counts + rng.normal(0, READ_SD, clean.shape)).astype(np.float32)


def mixed(case: Case, sigmas: Sequence[float]) -> NDArray[np.float32]:
    """Return a Gaussian filter of each channel, then the best linear mix, tuned on the training part."""
    n = len(case.names)
    smooth = {
        (c, s): (gaussian_filter(case.noisy[c], s), gaussian_filter(case.test_noisy[c], s))
        for c in range(n)
        for s in sigmas
    }

    def columns(chosen: Sequence[float], part: int) -> NDArray[np.float32]:
        made = [smooth[c, s][part].ravel() for c, s in enumerate(chosen)]
        return np.stack([*made, np.ones_like(made[0])], 1)

    estimates = []
    for c in range(n):
        target = case.clean[c].ravel()

        def fit(chosen: Sequence[float], target: Any = target) -> tuple[float, Any]:
            x = columns(chosen, 0)
            weights = np.linalg.solve(x.T @ x, x.T @ target)
            return float(np.mean((x @ weights - target) ** 2)), weights

        chosen = min(itertools.product(sigmas, repeat=n), key=lambda s: fit(s)[0])
        estimates.append((columns(chosen, 1) @ fit(chosen)[1]).reshape(case.test_clean[c].shape))
    return np.stack(estimates).astype(np.float32)


def maps(tiny: bool, presets: Sequence[str], members: int) -> Result:
    """Compare element maps with Gaussian filters and a linear mix."""
    case, what = element_maps()
    result = Result(
        f"Element maps ({what}): trained on the left two thirds, judged on the right; {members} members"
    )
    peer = mixed(case, (1.5, 3.0) if tiny else (0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))
    floor = metrics.correlation(case.test_clean, peer, axis=(1, 2))
    result.add({"method": "Gaussian and mix", **_per_channel(case.names, "r", floor)})
    for preset in presets:
        denoiser, cost = _trained(case, preset, members, tiny)
        prediction = denoiser.predict(case.test_noisy, axes="CYX")
        report = btn.evaluate(prediction, case.test_clean)
        found = metrics.correlation(case.test_clean, prediction.median, axis=(1, 2))
        result.add(
            {
                "method": f"ours, {preset}",
                **_per_channel(case.names, "r", found),
                **{
                    f"coverage {name}": f"{c:.3f} [{low:.3f}, {high:.3f}]"
                    for name, c, low, high in zip(
                        case.names, report.coverage, report.coverage_low, report.coverage_high, strict=True
                    )
                },
                "CPU-s": cost.cpu,
                "wall s": cost.wall,
            }
        )
        for c, name in enumerate(case.names):
            gain = float(found[c] - floor[c])
            result.bars.append(Bar(f"2: {preset}, {name}, correlation gained", gain, MARGINS[name]))
            result.bars.append(
                Bar(f"2: {preset}, {name}, coverage at least", float(report.coverage[c]), 0.85)
            )
            result.bars.append(
                Bar(f"2: {preset}, {name}, coverage at most", float(report.coverage[c]), 0.95, above=False)
            )
        if preset == "standard":
            result.bars.append(Bar("2: standard, CPU-seconds in all", cost.cpu, 600, above=False))
        result.notes += [note.text for note in denoiser.notes]
    return result


def _per_channel(names: Sequence[str], what: str, values: Sequence[float]) -> dict[str, float]:
    return {f"{what} {name}": float(v) for name, v in zip(names, values, strict=True)}


def _trained(case: Case, preset: str, members: int, tiny: bool) -> tuple[btn.Denoiser, Any]:
    small = TrainSettings(steps=6, batch_size=2, patch_px=32)
    close_pool()
    with spent() as cost:
        denoiser = btn.Denoiser(preset, members=members, train=small if tiny else replace(PRESETS[preset]))
        denoiser.fit(case.noisy, case.clean, axes="CYX", channel_names=case.names)
    return denoiser, cost


def noisy_photographs(tiny: bool, presets: Sequence[str], members: int) -> Result:
    """Compare images with Poisson and normal noise with total variation."""
    result = Result(
        f"Real images, Poisson noise at a peak of {PEAK:g} and normal noise of SD {READ_SD:g}; {members} members"
    )
    for number, (name, clean) in enumerate(photographs(256 if tiny else None).items()):
        case = Case.of(with_noise(clean, number)[None], clean[None], (name,))
        grid = (0.5, 2.0) if tiny else peers.WEIGHTS
        with spent() as cost:
            weight, made = peers.best(peers.total_variation, grid, list(case.noisy), list(case.clean))
        residuals = case.clean[0] - made[0]
        low, high = peers.constant_width(residuals, residuals, 0.1)
        estimate = [peers.total_variation(case.test_noisy[0], weight)]
        bounds = [estimate[0] + low], [estimate[0] + high]
        peer = peers.scores(case.test_clean, estimate, *bounds, data_range=PEAK)
        result.add({"image": name, "method": f"total variation ({weight:.3g})", **peer, "CPU-s": cost.cpu})
        for preset in presets:
            denoiser, cost = _trained(case, preset, members, tiny)
            p = denoiser.predict(case.test_noisy, axes="CYX")
            row = peers.scores(case.test_clean, p.median, p.lower, p.upper, data_range=PEAK)
            result.add({"image": name, "method": f"ours, {preset}", **row, "CPU-s": cost.cpu})
            gain = row["PSNR"] - peer["PSNR"]
            result.bars.append(Bar(f"2: {preset}, {name}, dB above total variation", gain, 0.4))
    return result


def run(tiny: bool) -> list[Result]:
    """Train on real images and compare with tuned filters."""
    presets, members = (("quick",), 1) if tiny else (("quick", "standard"), 5)
    results = [maps(tiny, presets, members), noisy_photographs(tiny, presets, min(members, 3))]
    close_pool()
    return results


if __name__ == "__main__":
    main("real", run)
