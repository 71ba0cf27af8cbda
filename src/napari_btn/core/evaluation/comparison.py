"""The figures and images of several methods on one image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["ENSEMBLE", "NOISY", "CompareRow", "Comparison"]

ENSEMBLE, NOISY = "ensemble", "noisy"
"""Names of the ensemble's median and of the image itself among the methods."""


@dataclass(frozen=True)
class CompareRow:
    """The figures of one method in one channel; NaN where there is none.

    Parameters
    ----------
    method, channel : str
    psnr, ssim, correlation : float
        Against clean, on pixels that nothing was tuned or trained on; PSNR in dB, of clean's own range.
    loss : float
        Without clean: mean squared difference to the noisy image at pixels that were hidden, in its unit squared
        and after the best straight line.
    coverage, width : float
        Of a split-conformal interval, calibrated on the same pixels as PSNR: there, all methods have the coverage
        that was asked for by construction, and the narrower interval is better. Without clean, the ensemble's own mean
        width.
    seconds, tuning_seconds : float
        CPU-seconds for the whole image, and to find the parameters. The ensemble's training is not in them.
    parameters : dict
        Parameters of the filter: lengths in pixels, heights in standard deviations of the noise.
    """

    method: str
    channel: str
    psnr: float
    ssim: float
    correlation: float
    loss: float
    coverage: float
    width: float
    seconds: float
    tuning_seconds: float
    parameters: dict[str, float]


_COLUMNS = {
    "psnr": "PSNR",
    "ssim": "SSIM",
    "correlation": "correlation",
    "loss": "loss",
    "coverage": "coverage",
    "width": "width",
    "seconds": "CPU-s",
    "tuning_seconds": "CPU-s to tune",
}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Images of several methods, and their figures.

    Parameters
    ----------
    rows : tuple of CompareRow
        By method, then channel.
    images : dict of str to ndarray of float32
        Result of each method, in the axes of the noisy image.
    axes : str
    alpha : float
        Miscoverage of the intervals.
    """

    rows: tuple[CompareRow, ...]
    images: dict[str, NDArray[np.float32]]
    axes: str
    alpha: float

    @property
    def table(self) -> dict[str, NDArray[Any]]:
        """Columns by name, one value per method and channel; columns without any figure are left out."""
        made: dict[str, NDArray[Any]] = {
            name: np.array([getattr(row, name) for row in self.rows]) for name in ("method", "channel")
        }
        for name, title in _COLUMNS.items():
            values = np.array([getattr(row, name) for row in self.rows], float)
            if np.isfinite(values).any():
                made[title] = values
        return made

    def text(self) -> str:
        """Return the table as lines of text."""
        columns = [
            [name, *("" if v != v else v if isinstance(v, str) else f"{v:.4g}" for v in values.tolist())]
            for name, values in self.table.items()
        ]
        wide = [max(len(cell) for cell in column) for column in columns]
        lines = zip(*columns, strict=True)
        return "\n".join(
            "  ".join(
                cell.ljust(w) if k < 2 else cell.rjust(w)
                for k, (cell, w) in enumerate(zip(line, wide, strict=True))
            ).rstrip()
            for line in lines
        )

    def to_dict(self) -> dict[str, Any]:
        """Return alpha and the rows as a JSON-ready dict, None where there is no figure."""
        rows = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in asdict(row).items()}
            for row in self.rows
        ]
        return {"alpha": self.alpha, "rows": rows}
