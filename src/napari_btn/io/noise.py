"""Files of noise models."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from napari_btn.core.data import noise_models
from napari_btn.core.data.recorded_noise import histogram_of_array, mixture_of_polynomials
from napari_btn.io.atomic import MissingInputError, path_of, written_whole
from napari_btn.io.damage import reading

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_btn.core.data.recorded_noise import Recorded

__all__ = ["NoiseModel"]

_VERSION = 1
_DAMAGED = "{file} is not a whole noise model of napari-btn: {why}. Save it again."
_KIND = "napari-btn noise model"


class NoiseModel(noise_models.NoiseModel):
    """Noise of each channel, with its file: counting, read-out, gain, offset, digitisation and correlation."""

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model to a JSON file; it appears under its name only when it is whole.

        Parameters
        ----------
        path : str or Path
            File to be written, e.g. "camera.json".
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        ValueError
            If the file exists and may not be replaced.
        OSError
            If it can't be written.
        """
        values = {"kind": _KIND, "version": _VERSION, **self.to_dict()}
        with written_whole(path, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a noise model: a file of `save`, or a recorded model of PN2V, n2v or CAREamics.

        Those are ``.npz`` with ``trained_weight``, ``min_signal``, ``max_signal`` and ``min_sigma`` (a mixture), and
        ``.npy`` or ``.npz`` with one array (3, bins, bins) (a histogram). They have one channel.

        Parameters
        ----------
        path : str or Path
            File to be read.

        Raises
        ------
        ValueError
            If the file is missing, damaged, newer, or of another kind.
        """
        path = path_of(path)
        if not path.is_file():
            raise MissingInputError(f"There is no noise model {path}; check the name.")
        if path.suffix.lower() in (".npz", ".npy"):
            return cls.from_recorded(_recorded(path))
        with reading(path, _DAMAGED):
            values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.pop("kind", None) != _KIND:
            raise ValueError(f"{path.name} is not a noise model of napari-btn; choose a file that it saved.")
        if (version := values.pop("version", 0)) != _VERSION:
            raise ValueError(
                f"{path.name} has version {version}; this napari-btn reads version {_VERSION}. Update napari-btn."
            )
        with reading(path, _DAMAGED):
            return cls.from_dict(values)


_MIXTURE = ("trained_weight", "min_signal", "max_signal", "min_sigma")
_MOST_BYTES = 2**30


def _recorded(path: Path) -> Recorded:
    """Return the recorded noise of an ``.npz`` or ``.npy`` file of another program."""
    with reading(path, "{file} is not a noise model that can be read: {why}"):
        arrays = _arrays(path)
        if set(_MIXTURE) <= set(arrays):
            numbers = [float(np.asarray(arrays[name], np.float64).reshape(())) for name in _MIXTURE[1:]]
            return mixture_of_polynomials(arrays["trained_weight"], *numbers)
        if len(arrays) == 1:
            return histogram_of_array(next(iter(arrays.values())))
    raise ValueError(
        f"{path.name} holds {', '.join(sorted(arrays)) or 'nothing'}; a mixture has {', '.join(_MIXTURE)}, a histogram "
        "one array (3, bins, bins)."
    )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file, without unpickling anything; raise ``ValueError`` if they are too large."""
    if path.suffix.lower() == ".npy":
        return {"array": np.load(path, allow_pickle=False, mmap_mode="r")}
    with zipfile.ZipFile(path) as packed:
        # a small file may unpack to more than the memory
        if sum(item.file_size for item in packed.infolist()) > _MOST_BYTES:
            raise ValueError("its arrays are larger than 1 GB.")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
