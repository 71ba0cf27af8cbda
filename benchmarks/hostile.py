"""Damaged files for every reader: whole ones, changes of their bytes, and what a reader may do with them."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KINDS", "READERS", "Change", "Reader", "Tally", "attempt", "changed", "memory_mb", "peak_mb"]

_MOST_ADDRESS = 4 * 2**30
_STATUS = Path("/proc/self/status")
PIXELS = (np.arange(3 * 24 * 20, dtype=np.float32).reshape(3, 24, 20) % 37) / 37

KINDS = ("flip", "set", "cut", "drop", "insert", "repeat")
Change = tuple[str, float, int]
"""An operation ("flip", "set", "cut", "drop", "insert", "repeat"), its place from 0 to 1, and a number."""


def changed(data: bytes, changes: list[Change]) -> bytes:
    """Return bytes with changes applied in turn."""
    for kind, place, number in changes:
        at = int(place * max(len(data) - 1, 0))
        if kind == "flip":
            data = data[:at] + bytes([data[at] ^ 1 << number % 8]) + data[at + 1 :] if data else data
        elif kind == "set":
            data = data[:at] + bytes([number % 256]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "drop":
            data = data[:at] + data[at + 1 + number % 40 :]
        elif kind == "insert":
            data = data[:at] + bytes([number % 256]) * (1 + number % 9) + data[at:]
        else:
            data = data[:at] + data[at : at + 60] * 2 + data[at + 60 :]
    return data


@dataclass(frozen=True)
class Reader:
    """A reader, and a maker of whole files for it."""

    name: str
    write: Callable[[Path], Path]
    """Writes a file (or folder) into a folder and returns the one that is read."""
    read: Callable[[Path], Any]

    def uses(self, file: Path, path: Path) -> bool:
        """Return True if a file beside or in the one that is read is read too."""
        return file == path or path in file.parents or self.name == "labels"


def _image(path: Path) -> None:
    """Read an image with all of its pixels, its metadata and its provenance."""
    from napari_btn.io.images import read_image, read_provenance

    image = read_image(path)
    if image.nbytes <= 2**26:  # larger ones are opened, and read in parts
        np.asarray(image.data)
    else:
        np.asarray(image.data[tuple(slice(0, 4) for _ in image.data.shape)])
    read_provenance(path)


def _tiff(compression: str | None, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import tifffile

        path = folder / f"{name}.ome.tif"
        tifffile.imwrite(
            path, PIXELS, compression=compression, photometric="minisblack", metadata={"axes": "CYX"}
        )
        return path

    return write


def _ours(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from napari_btn.io.images import write_images

        path = folder / f"a{suffix}"
        write_images({"median": PIXELS}, path, axes="CYX", channel_names=("Si", "Al", "Fe"),
                     pixel_size=(0.5, 0.5), unit="um", provenance={"seed": 1})  # fmt: skip
        return path

    return write


def _imagej(folder: Path) -> Path:
    import tifffile

    path = folder / "a.tif"
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(2.0, 2.0), metadata={"axes": "CYX", "unit": "um"})
    return path


def _npy(folder: Path) -> Path:
    np.save(folder / "a.npy", PIXELS)
    return folder / "a.npy"


def _picture(folder: Path) -> Path:
    from PIL import Image

    Image.fromarray((PIXELS[0] * 255).astype(np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def _tensor(folder: Path) -> Path:
    import torch

    torch.save({"noisy": torch.from_numpy(PIXELS)}, folder / "a.pt")
    return folder / "a.pt"


def _labels(folder: Path) -> Path:
    from napari_btn.io.labels import write_labels

    numbers = np.arange(24 * 20).reshape(24, 20) % 5
    table = {"index": [1, 2, 3, 4], "name": list("abcd"), "colour": ["#ff0000"] * 4, "area": [1.5, 2, 3, 4]}
    return write_labels(numbers, table, folder / "t.ome.tif", axes="YX", provenance={"seed": 1})[0]


def _read_labels(path: Path) -> None:
    from napari_btn.io.labels import read_labels

    read_labels(path)


def _regions(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from napari_btn.core.remeasure.regions import Region
        from napari_btn.io.regions import write_regions

        mask = np.hypot(*np.mgrid[-5:6, -6:7]) < 5
        found = [
            Region(3, 4, 5, 6, 0.5, (0.5, 0.5), "um"),
            Region(2, 8, 11, 13, 0.1, (0.5, 0.5), "um", mask=mask),
        ]
        path = folder / f"r{suffix}"
        write_regions(found[: 1 if suffix == ".roi" else 2], path)
        return path

    return write


def _read_regions(path: Path) -> None:
    from napari_btn.io.regions import read_regions

    read_regions(path)


def _bundle(folder: Path) -> Path:
    path = folder / "version_1.btn"
    shutil.copy(Path(__file__).parents[1] / "tests" / "bundles" / "version_1.btn", path)
    return path


def _bundle_now(folder: Path) -> Path:
    from napari_btn.model import load_model, save_model

    save_model(load_model(_bundle(folder)), folder / "now.btn")
    return folder / "now.btn"


def _read_bundle(path: Path) -> None:
    from napari_btn.model import load_model

    load_model(path)


def _recipe(folder: Path) -> Path:
    """Write a recipe with each step that a recipe can have, and each part of a step."""
    from napari_btn.core.calibration.dose import Dose
    from napari_btn.core.data.record import packed, recipe_step
    from napari_btn.core.settings import (
        AdaptSettings,
        CalibrationSettings,
        EnsembleSettings,
        TokenSettings,
        TrainSettings,
    )
    from napari_btn.workflow.search import Choice, Search

    def known(*names: str, **more: Any) -> dict[str, Any]:
        one = {"shape": [3, 24, 20], "dtype": "float32", **more}
        return {name: {**one, "sha256": f"{len(name):064x}", "file": f"{name}.npy"} for name in names}

    noise, inside = _noise_model().to_dict(), np.tri(8, 9, dtype=bool)
    search = Search(
        (4, 5), 2, 1, spacing=2, area=np.tri(24, 20, dtype=bool), until=4.0, dose=Dose((9.0,), (1.0,))
    )
    about = {
        "alpha": 0.2,
        "coverage": [0.8],
        "channel_names": ["Si"],
        "n_blocks": 9,
        "rule": "pixel",
        "covers": "x",
    }
    of_image = {"axes": "CYX", "pixel_size": [0.5, 0.5], "unit": "um", "valid": "finite", "detector": "YX"}
    steps = [
        recipe_step("fit", known("noisy", "clean", "dark"), settings=EnsembleSettings().to_dict(), **of_image,
                    channel_names=["Si", "Al", "Fe"], noise_model=noise, makes="0" * 64),
        recipe_step("refine", known("noisy", "clean", "window1", "image"), train=TrainSettings().to_dict(),
                    axes="CYX", windows=[[0, 2, 3]], image_axes="CYX"),
        recipe_step("adapt", known("image"), settings=AdaptSettings().to_dict(), axes="CYX", noise_model=noise),
        recipe_step("calibrate", known("noisy", "clean"), alpha=0.2, calibration=CalibrationSettings().to_dict(),
                    groups=2, axes="CYX", noise_model=noise),
        recipe_step("tokens", known("image"), tokens=TokenSettings().to_dict(), refit=True, axes="CYX",
                    labels="0" * 64),
        recipe_step("edit", {}, n_tokens=8, merged={"3": 2}, painted={"9": packed(inside)}, names={"2": "clay"}),
        recipe_step("predict", known("image"), **of_image, maps="0" * 64),
        recipe_step("regions", {}, choice=Choice("ambiguity", (0,), (0.5,)).to_dict(), search=search.to_dict(),
                    regions="0" * 64),
        recipe_step("fuse", known("counts", window=[[2, 10], [3, 12]]), scene=0, mask=packed(inside),
                    **Dose((9.0, 9.0, 9.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)).to_dict()),
    ]  # fmt: skip
    values = {"napari_btn_recipe": 1, "steps": steps, "about": about}
    (folder / "r.json").write_text(json.dumps(values))
    return folder / "r.json"


def _read_recipe(path: Path) -> None:
    """Read a recipe, explain it, and look for what its steps need."""
    from napari_btn.io.damage import reading
    from napari_btn.workflow.recipe_files import RecipeFiles, read_recipe

    recipe = read_recipe(path)
    with reading(path):  # as the command line does
        recipe.explain()
    opened = RecipeFiles(path.parent, {})
    for name, known in recipe.inputs.items():
        with suppress(ValueError):  # none of the files exists
            opened(name, known)


def _data_set(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        from napari_btn.io.datasets import DataSet, write_dataset

        for name in ("scan_1.npy", "scan_2.npy", "clean.npy", "valid.npy"):
            np.save(folder / name, PIXELS)
        described = DataSet(
            noisy=("scan_*.npy",), clean=("clean.npy",), files="repeats", axes="CYX",
            channels=("Si", "Al", "Fe"), pixel_size=(0.5, 0.5), unit="um", valid="valid.npy", name="soil",
            folder=folder,
        )  # fmt: skip
        write_dataset(described, folder / f"d{suffix}")
        return folder / f"d{suffix}"

    return write


def _read_data_set(path: Path) -> None:
    from napari_btn.io.datasets import read_dataset

    described = read_dataset(path)
    described.table()
    described.pair()


def _noise_model() -> Any:
    from napari_btn import NoiseModel

    counts = np.random.default_rng(0).poisson(np.linspace(5, 90, 24)[:, None] * np.ones(20), (30, 24, 20))
    return NoiseModel.fit(counts.astype(np.float32), axes="TYX")


def _noise(folder: Path) -> Path:
    _noise_model().save(folder / "n.json")
    return folder / "n.json"


def _read_noise(path: Path) -> None:
    from napari_btn import NoiseModel

    NoiseModel.load(path)


def _prior(folder: Path) -> Path:
    from importlib.resources import files

    shutil.copy(str(files("napari_btn") / "pretrained" / "2d-1c-white.safetensors"), folder / "p.safetensors")
    return folder / "p.safetensors"


def _read_prior(path: Path) -> None:
    from napari_btn.io.priors import load_prior

    load_prior(path)


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("bundle", _bundle_now, _read_bundle),
        Reader("bundle, version 1", _bundle, _read_bundle),
        Reader("TIFF, OME", _ours(".ome.tif"), _image),
        Reader("TIFF, zlib", _tiff("zlib", "z"), _image),
        Reader("TIFF, LZW", _tiff("lzw", "l"), _image),
        Reader("TIFF, ImageJ", _imagej, _image),
        Reader("zarr", _ours(".ome.zarr"), _image),
        Reader("npy", _npy, _image),
        Reader("npz", _ours(".npz"), _image),
        Reader("tensors", _tensor, _image),
        Reader("PNG", _picture, _image),
        Reader("labels", _labels, _read_labels),
        Reader("regions, CSV", _regions(".csv"), _read_regions),
        Reader("regions, GeoJSON", _regions(".geojson"), _read_regions),
        Reader("regions, ROI", _regions(".roi"), _read_regions),
        Reader("regions, ROI zip", _regions(".zip"), _read_regions),
        Reader("recipe", _recipe, _read_recipe),
        Reader("data set, JSON", _data_set(".json"), _read_data_set),
        Reader("data set, YAML", _data_set(".yaml"), _read_data_set),
        Reader("noise model", _noise, _read_noise),
        Reader("pretrained members", _prior, _read_prior),
    )
}


def memory_mb(*, forget: bool = False) -> float:
    """Return the memory of this process in MB; forget its peak on request."""
    if not _STATUS.exists():
        return peak_mb()
    if forget:
        _STATUS.with_name("clear_refs").write_text("5", encoding="ascii")
    return _field("VmRSS:")


def peak_mb() -> float:
    """Return the largest memory of this process in MB since it was forgotten."""
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    return _field("VmHWM:")


def _field(name: str) -> float:
    """Return a field of the state of this process in MB."""
    _, _, rest = _STATUS.read_text(encoding="utf-8").partition(name)
    return int(rest.split()[0]) / 1024


def attempt(reader: Reader, path: Path) -> str:
    """Read a file; return "read" or "refused", or raise what no user should see."""
    try:
        reader.read(path)
    except (ValueError, OSError) as error:
        text = str(error)
        if "\n" in text or not text:
            raise AssertionError(f"not one sentence: {text!r}") from error
        return "refused"
    return "read"


class Tally:
    """Results of damaged files: how many were read and refused, what else was raised, time and memory.

    Memory is that of the worst file, and what all of them left behind; on systems other than Linux the first is the
    growth of the peak.

    Parameters
    ----------
    reader : Reader
    folder : Path
        Gets a whole file, whose parts are damaged one at a time.
    """

    def __init__(self, reader: Reader, folder: Path) -> None:
        # a bomb becomes a MemoryError here, and not the end of another program
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESS, _MOST_ADDRESS))
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        self.reader, self.path = reader, reader.write(folder)
        assert attempt(reader, self.path) == "read", f"{reader.name}: the whole file is refused"
        found = [f for f in sorted(folder.rglob("*")) if f.is_file() and reader.uses(f, self.path)]
        self.whole = {f: f.read_bytes() for f in found}
        self.counts: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self.slowest = self.largest = 0.0
        self._before = memory_mb()

    def take(self, file: Path, damaged: bytes) -> None:
        """Read with damaged bytes in one file, which is whole again afterwards."""
        file.write_bytes(damaged)
        before = memory_mb(forget=True)
        began = time.process_time()
        try:
            self.counts[attempt(self.reader, self.path)] += 1
        except BaseException as error:  # noqa: BLE001  (what is counted here must not exist)
            self.odd[f"{type(error).__name__}: {error}"[:120]] += 1
        self.slowest = max(self.slowest, time.process_time() - began)
        self.largest = max(self.largest, peak_mb() - before)
        file.write_bytes(self.whole[file])

    def to_dict(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "cases": self.counts.total() + self.odd.total(), **self.counts, "odd": dict(self.odd),
            "slowest_s": self.slowest, "largest_mb": self.largest, "kept_mb": memory_mb() - self._before,
        }  # fmt: skip
