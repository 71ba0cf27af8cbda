"""Pictures, PNG and WebP: gray ones are images, also where they are stored in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from napari_btn.io._format import ExplainedError, Format, package
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PICTURES"]


def _read(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Read a picture: one plane where all colours are equal, else three colours at the end."""
    if key is not None:
        raise ExplainedError(f"{file.name} holds one picture without a name; leave :{key} out.")
    package("PIL", file)
    from PIL import Image

    with Image.open(file, formats=("PNG", "WEBP")) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise ExplainedError(f"{file.name} is a movie; save its frames as one TIFF.")
        kept: Image.Image = picture
        if picture.mode in ("1", "LA"):
            kept = picture.convert("L")
        elif picture.mode not in ("L", "RGB") and not picture.mode.startswith(("I", "F")):
            kept = picture.convert("RGB")
        values = np.array(kept)
    if values.ndim == 2:
        return values, Meta(axes="YX")
    if (values == values[..., :1]).all():
        return np.ascontiguousarray(values[..., 0]), Meta(axes="YX")
    return values, Meta(axes="YXC", axes_guessed=True)


PICTURES: Final = Format(suffixes=(".png", ".webp"), shown=".png, .webp", read=_read)
