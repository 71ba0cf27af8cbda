"""The pace of this machine: how long trainings took beside their estimates, remembered between sessions."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from napari_btn.core.training.plan import Estimate
    from napari_btn.widgets.shared.worker import Run

__all__ = ["Pace", "busy_note"]

_BUSY = 1.5  # programs that want to run, for each core
_LEAST, _MOST = 0.1, 30.0  # factors beyond these come from a sleeping laptop or a broken clock


def busy_note(device: str) -> str:
    """Return a sentence if the processor is busy, which an estimate doesn't know; empty if not.

    Parameters
    ----------
    device : str
        Name of the device in torch.
    """
    known = getattr(os, "getloadavg", None)  # not on Windows
    if device != "cpu" or known is None or known()[0] < _BUSY * (os.cpu_count() or 1):
        return ""
    return "The processor is busy now, so it may take several times as long"


class Pace:
    """Factor between the time that trainings take and their estimates.

    Parameters
    ----------
    path : Path, optional
        File that keeps it; one in the user's cache folder by default.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._factors: dict[str, float] | None = None

    @property
    def path(self) -> Path:
        """File that keeps the factors."""
        if self._path is None:
            from platformdirs import user_cache_path

            self._path = user_cache_path("napari-btn") / "pace.json"
        return self._path

    def _known(self) -> dict[str, float]:
        """Return the factors by device, read once."""
        if self._factors is None:
            try:
                found = json.loads(self.path.read_text(encoding="utf-8"))
                self._factors = {str(k): float(v) for k, v in found.items()}
            except (OSError, ValueError, AttributeError, TypeError):
                self._factors = {}
        return self._factors

    def corrected(self, estimate: Estimate, device: str) -> Estimate:
        """Return an estimate in the light of earlier trainings on a device.

        Parameters
        ----------
        estimate : Estimate
        device : str
            Name of the device in torch.
        """
        factor = self._known().get(device)
        if factor is None:
            return estimate
        seconds = factor * estimate.seconds
        minutes = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
        rest = estimate.note.partition(" and ")[2]
        note = (
            f"About {minutes}, judging by earlier trainings on this machine{f', and {rest}' if rest else ''}"
        )
        return replace(estimate, seconds=seconds, note=note)

    def learn_from(self, run: Run[Any], estimated_s: float, device: str) -> None:
        """Take a training into account that ended, in a dock or without one, or was stopped after its first steps.

        Parameters
        ----------
        run : Run
        estimated_s : float
            Seconds, estimated without earlier trainings; 0 if unknown.
        device : str
        """
        took_s = run.expected_s
        if took_s is not None:
            self.learn(estimated_s, took_s, device)

    def learn(self, estimated_s: float, took_s: float, device: str) -> None:
        """Take a training that ended into account: half of the factor is the last one.

        Parameters
        ----------
        estimated_s, took_s : float
            Seconds, estimated without earlier trainings and measured.
        device : str
        """
        if estimated_s <= 0 or not _LEAST <= took_s / estimated_s <= _MOST:
            return
        known, factor = self._known(), took_s / estimated_s
        known[device] = (known[device] * factor) ** 0.5 if device in known else factor
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(known), encoding="utf-8")
        except OSError:
            # without a cache folder it is known until napari closes
            return
