"""A denoiser that learns nothing in no time, and a viewer without a window."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_btn.core.progress import Note, Progress
from napari_btn.core.settings import CalibrationSettings, NetworkSettings, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.widgets.denoise.dock import DenoiseWidget


class FakeReport(SimpleNamespace):
    """A report by its attributes alone."""


def fake_report(alpha: float, names: tuple[str, ...]) -> FakeReport:
    n = len(names)
    ones = np.ones(n)
    return FakeReport(
        channel_names=names,
        alpha=alpha,
        covers="clean",
        coverage=(1 - alpha) * ones,
        coverage_low=(1 - alpha - 0.02) * ones,
        coverage_high=np.full(n, np.nan),
        width=0.25 * ones,
        correlation=0.9 * ones,
        n_blocks=np.full(n, 24),
        block_px=16,
        blocks="blocks of 16 px",
        scope="this field",
        field_coverage=np.empty((n, 0)),
        group_coverage=np.empty((n, 0)),
        warnings=(Note("amber", "Few blocks."), Note("red", "Overlap <here>.")),
    )


class FakeDenoiser:
    """The interface of a Denoiser; "training" sleeps."""

    pause_s = 0.01
    updates = 20
    preview_every = 5
    fail: Exception | None = None
    notes_of_check: tuple[Note, ...] = ()
    shift: tuple[float, ...] | None = (0.0, 0.0)
    resumed: Any = None
    prepared = 0
    updated = 0
    before_update: Any = None
    given: Any = None
    calibrated: Any = None

    def __init__(
        self,
        preset: str = "standard",
        *,
        members: int = 10,
        alpha: float = 0.1,
        supervision: str = "pair",
        seed: int = 0,
        device: str = "auto",
        network: NetworkSettings | None = None,
        train: TrainSettings | None = None,
        calibration: CalibrationSettings | None = None,
    ) -> None:
        self.preset, self.members, self.alpha, self.seed = preset, members, alpha, seed
        self.network, self.train = network or NetworkSettings(), train or TrainSettings()
        self.calibration_settings = calibration or CalibrationSettings()
        self.channel_names: tuple[str, ...] = ()
        self.pixel_size: tuple[float, ...] | None = None
        self.unit = "px"
        self.report: FakeReport | None = None
        self.losses: dict[int, tuple[float, ...]] = {}

    def check(self, noisy: Any, clean: Any, **given: Any) -> SimpleNamespace:
        if min(noisy.shape[-2:]) < 16:
            raise ValueError("The image is too small for the split. Give a larger one.")
        return SimpleNamespace(notes=self.notes_of_check, shift=self.shift, receptive_field=5)

    def prepare(self) -> None:
        type(self).prepared += 1

    def estimate(self, shape: tuple[int, ...], axes: str) -> SimpleNamespace:
        return SimpleNamespace(seconds=1.0, bytes=10, note=f"About 1 s for {axes}")

    def fit_steps(
        self,
        noisy: Any,
        clean: Any,
        *,
        axes: str,
        channel_names: tuple[str, ...] | None,
        pixel_size: tuple[float, ...] | None,
        unit: str,
        resume: Any = (),
        preview_every: float = 0.0,
        **given: Any,
    ) -> Generator[Progress, None, FakeDenoiser]:
        type(self).resumed, type(self).given = resume, given
        clean_array = np.asarray(clean, np.float32)
        for step in range(self.updates):
            if self.before_update is not None:
                self.before_update()
            type(self).updated += 1
            time.sleep(self.pause_s)
            losses = tuple((m, step, 1.0 / (step + 1)) for m in range(self.members))
            yield Progress(
                step,
                self.updates,
                f"Member 1 of {self.members}",
                preview=clean_array if step % self.preview_every == self.preview_every - 1 else None,
                losses=losses,
                checkpoint=("member 0",) if step > 10 else None,
            )
            if self.fail is not None and step == 3:
                raise self.fail
        n = clean_array.shape[axes.index("C")] if "C" in axes else 1
        self.channel_names = tuple(channel_names or (str(i) for i in range(n)))
        self.pixel_size, self.unit = pixel_size, unit
        self.report = fake_report(self.alpha, self.channel_names)
        self.losses = {0: tuple(1.0 / (s + 1) for s in range(self.updates))}
        return self

    def calibrate_steps(
        self,
        noisy: Any = None,
        clean: Any = None,
        *,
        alpha: float,
        settings: CalibrationSettings,
        axes: str | None = None,
        **given: Any,
    ) -> Generator[Progress, None, FakeDenoiser]:
        yield Progress(0, 1)
        type(self).calibrated = {"noisy": noisy, "clean": clean, "axes": axes, **given}
        self.alpha, self.calibration_settings = alpha, settings
        self.report = fake_report(alpha, self.channel_names)
        return self

    def predict_steps(
        self, noisy: Any, axes: str | None = None, valid: Any = None
    ) -> Generator[Progress, None, SimpleNamespace]:
        yield Progress(0, 1, "Tile 1 of 1")
        array = np.asarray(noisy, np.float32)
        return SimpleNamespace(
            lower=array - 0.5,
            median=array,
            upper=array + 0.5,
            width=np.ones_like(array),
            axes=axes or "CYX"[-array.ndim :],
            channel_names=self.channel_names,
            covers="clean",
            alpha=self.alpha,
            provenance={"alpha": self.alpha, "seed": self.seed},
        )

    def save(self, path: Path) -> None:
        path.write_text("trained")


@pytest.fixture(autouse=True)
def _long_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dock that leaves waits for its runs as long as a busy machine may need to end them."""
    monkeypatch.setattr("napari_btn.widgets.shared.dock._CLOSE_WAIT", 60.0)


@pytest.fixture
def denoiser_class(monkeypatch: pytest.MonkeyPatch) -> type[FakeDenoiser]:
    """The fake, in the place of the real denoiser, as a class of its own."""
    fake = type("Denoiser", (FakeDenoiser,), {})

    def load(path: object) -> FakeDenoiser:
        if "damaged" in str(path):
            raise ValueError(f"{path} is damaged. Save it again.")
        denoiser = fake("quick", members=3, alpha=0.2)
        denoiser.channel_names = ("Si", "Al", "Fe")
        denoiser.report = fake_report(0.2, denoiser.channel_names)
        return denoiser

    module = SimpleNamespace(Denoiser=fake, load=load)
    monkeypatch.setattr("napari_btn.widgets.denoise.dock.engine", lambda: module)
    return fake


@pytest.fixture
def viewer(qapp: object) -> ViewerModel:
    """A viewer without a window."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def dock(viewer: ViewerModel, denoiser_class: type[FakeDenoiser], qtbot: QtBot) -> Iterator[DenoiseWidget]:
    """A Denoise dock on an empty viewer with the fake denoiser."""
    from napari_btn.widgets.denoise.dock import DenoiseWidget

    widget = DenoiseWidget(viewer)
    qtbot.addWidget(widget)
    yield widget
    widget.leave()


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean, three channels."""
    rng = np.random.default_rng(0)
    clean = rng.random((3, 40, 50), np.float32)
    return clean + rng.normal(size=clean.shape).astype(np.float32), clean
