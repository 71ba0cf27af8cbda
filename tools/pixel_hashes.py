"""Print hashes of weights, offsets and maps of small trainings with fixed seeds.

Use it to check a change of code that must not change any pixel:

    python tools/pixel_hashes.py --out before.json       # on the old code
    python tools/pixel_hashes.py --against before.json   # on the new code: exit 1 if a hash differs

Only public names are used, so that the same script runs before and after a move. Hashes depend on the
machine and its torch; compare hashes of one machine only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

import napari_btn as btn

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 24


def digest(value: Any) -> str:
    """Return the hash of an array's bytes and shape, or of a JSON-ready value."""
    if hasattr(value, "shape"):
        array = np.ascontiguousarray(value)
        head = f"{array.dtype.str}{array.shape}".encode()
        return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def bundle(denoiser: btn.Denoiser) -> dict[str, str]:
    """Return the hash of every array of a denoiser's bundle, and of its offsets and coverage."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.btn"
        denoiser.save(path)
        with safe_open(path, "np") as file:
            made = {name: digest(file.get_tensor(name)) for name in sorted(file.keys())}
        again = btn.load(path, device="cpu")
    assert denoiser.calibration is not None
    assert denoiser.report is not None
    made["calibration"] = digest(denoiser.calibration.to_dict())
    report = denoiser.report.to_dict()
    report["warnings"] = len(report["warnings"])  # the text of notes may change
    made["report"] = digest(report)
    assert again.calibration is not None
    made["loaded calibration"] = digest(again.calibration.to_dict())
    return made


def maps(prediction: btn.Prediction) -> dict[str, str]:
    """Return the hash of each map."""
    names = ("lower", "median", "upper", "width", "spread", "quantiles")
    return {name: digest(np.asarray(getattr(prediction, name))) for name in names}


def denoiser_of(**more: Any) -> btn.Denoiser:
    """Return an untrained denoiser of two small members."""
    options = {
        "members": 2,
        "seed": 3,
        "device": "cpu",
        "network": btn.NetworkSettings(depth=5, max_dilation=4),
        "train": btn.TrainSettings(steps=STEPS),
    }
    return btn.Denoiser("quick", **{**options, **more})


def scenes() -> dict[str, str]:
    """Hash scenes with their own targets: one channel, split by scene."""
    pair = btn.samples.blobs(seed=1, n=14, size=40)
    denoiser = denoiser_of(calibration=btn.CalibrationSettings(score="asymmetric"))
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes)
    prediction = denoiser.predict(pair.noisy[:3], axes=pair.axes)
    made = {**bundle(denoiser), **maps(prediction)}
    gain = denoiser.ensemble_gain(
        *((x := btn.samples.blobs(seed=9, n=12, size=40)).noisy, x.clean), axes=x.axes
    )
    made["gain"] = digest(np.asarray(gain.correlation))
    return made


def channels() -> dict[str, str]:
    """Hash three channels of one field: groups, tokens, exceedance, filter, regions, another level, refinement."""
    pair = btn.samples.edx(seed=2, size=(112, 221))
    denoiser = denoiser_of(calibration=btn.CalibrationSettings(groups=3), train=btn.TrainSettings(steps=40))
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, channel_names=pair.channel_names)
    made = bundle(denoiser)
    prediction = denoiser.predict(pair.noisy, axes=pair.axes)
    made |= maps(prediction)
    made["exceedance"] = digest(prediction.exceedance(0.25, channel="Fe"))
    tokens = denoiser.tokens(pair.noisy, n_tokens=7, axes=pair.axes, prediction=prediction)
    made["tokens"] = digest(tokens.labels)
    made["tokens cut"] = digest(tokens.cut(4).labels)
    row = denoiser.equivalent_filter(pair.noisy, at=(31, 150), channel="Al")
    made["filter"] = digest(np.asarray(row.weights))
    regions = btn.propose_regions(np.asarray(prediction.width[2]), window=(24, 30), count=3)
    made["regions"] = digest([(r.y, r.x, r.height, r.width, float(r.score)) for r in regions])
    made["miscoverage"] = digest(denoiser.miscoverage((112, 221)))
    made["curve"] = digest(denoiser.coverage_curve())
    denoiser.calibrate(alpha=0.2, groups=0)
    made |= {f"other level: {k}": v for k, v in maps(denoiser.predict(pair.noisy, axes=pair.axes)).items()}
    denoiser.refine(
        pair.noisy, pair.clean, axes=pair.axes, train=btn.TrainSettings(steps=8, learning_rate=1e-2)
    )
    made |= {f"refined: {k}": v for k, v in bundle(denoiser).items()}
    return made


def volume() -> dict[str, str]:
    """Hash a small volume, trained in 3D and predicted in tiles."""
    pair = btn.samples.xct(seed=0, size=(18, 61, 96))
    denoiser = denoiser_of(
        network=btn.NetworkSettings(depth=3, max_dilation=2), tiles=btn.TileSettings(tile_px=40)
    )
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes)
    made = {**bundle(denoiser), **maps(denoiser.predict(pair.noisy, axes=pair.axes))}
    made["tokens"] = digest(denoiser.tokens(pair.noisy, n_tokens=5, axes=pair.axes).labels)
    return made


def choices() -> dict[str, str]:
    """Hash bias-free members, early stopping, a checkerboard, painted areas and a mask of pixels that count."""
    pair = btn.samples.edx(seed=5, size=(131, 180))
    valid = np.ones((131, 180), bool)
    valid[60:70, 80:90] = False
    made = {}
    denoiser = denoiser_of(
        network=btn.NetworkSettings(depth=4, max_dilation=3, bias_free=True),
        calibration=btn.CalibrationSettings(score="scaled", split="checkerboard"),
        train=btn.TrainSettings(steps=STEPS, early_stopping=True),
    )
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, valid=valid)
    prediction = denoiser.predict(pair.noisy, axes=pair.axes, valid=valid)
    made |= {f"bias-free: {k}": v for k, v in {**bundle(denoiser), **maps(prediction)}.items()}
    painted = np.zeros((131, 180), int)
    painted[:, :100], painted[:, 124:] = 1, 2
    denoiser = denoiser_of(network=btn.NetworkSettings(depth=4, dilations=(1, 2, 3, 1)))
    denoiser.fit(pair.noisy, pair.clean, axes=pair.axes, regions=painted)
    prediction = denoiser.predict(pair.noisy, axes=pair.axes)
    return made | {f"painted: {k}": v for k, v in {**bundle(denoiser), **maps(prediction)}.items()}


CASES: dict[str, Callable[[], dict[str, str]]] = {
    "scenes": scenes, "channels": channels, "volume": volume, "choices": choices,
}  # fmt: skip


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the hashes to this JSON file")
    parser.add_argument("--against", type=Path, help="compare with this JSON file")
    chosen = parser.parse_args()
    made = {case: run() for case, run in CASES.items()}
    if chosen.out:
        chosen.out.write_text(json.dumps(made, indent=1, sort_keys=True), encoding="utf-8")
    for case, hashes in made.items():
        print(f"{case}: {len(hashes)} values, {digest(hashes)}")
    if chosen.against is None:
        return 0
    known = json.loads(chosen.against.read_text(encoding="utf-8"))
    wrong = [
        f"{case} / {name}"
        for case, hashes in known.items()
        for name, value in hashes.items()
        if made[case].get(name) != value
    ]
    print(f"{len(wrong)} of {sum(map(len, known.values()))} values differ from {chosen.against}")
    for name in wrong:
        print(f"  {name}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
