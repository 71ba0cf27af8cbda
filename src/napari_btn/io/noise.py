"""Files of noise models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from napari_btn.core.data import noise_models
from napari_btn.io.atomic import MissingInputError, written_whole

__all__ = ["NoiseModel"]

_VERSION = 1
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
        with written_whole(Path(path), overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a noise model.

        Raises
        ------
        ValueError
            If the file is missing, damaged, newer, or of another kind.
        """
        path = Path(path)
        if not path.is_file():
            raise MissingInputError(f"There is no noise model {path}; check the name.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{path.name} is not a whole noise model of napari-btn: {error}. Save it again."
            ) from error
        if not isinstance(values, dict) or values.pop("kind", None) != _KIND:
            raise ValueError(f"{path.name} is not a noise model of napari-btn; choose a file that it saved.")
        if (version := values.pop("version", 0)) != _VERSION:
            raise ValueError(
                f"{path.name} has version {version}; this napari-btn reads version {_VERSION}. Update napari-btn."
            )
        return cls.from_dict(values)
