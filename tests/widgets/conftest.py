"""A really trained tiny model, steps with controlled timing and results, and a viewer without a window."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_btn.core.calibration.forecast import Forecast
from napari_btn.core.calibration.prediction import Prediction
from napari_btn.core.progress import Note, Progress, drain
from napari_btn.core.settings import EnsembleSettings, NetworkSettings, TrainSettings
from napari_btn.workflow.start import Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from napari.components import ViewerModel
    from pytestqt.qtbot import QtBot

    from napari_btn.core.compute.pool import Compute
    from napari_btn.core.data.image import Image
    from napari_btn.core.data.pairs import Pair
    from napari_btn.model import Model
    from napari_btn.widgets.denoise.dock import DenoiseWidget


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    """A model that was trained for a second on three channels, Si, Al and Fe, in 2D."""
    from napari_btn import samples
    from napari_btn.core.compute.pool import Compute, Inline
    from napari_btn.workflow.fit import fit_steps

    settings = EnsembleSettings(
        "quick",
        members=1,
        network=NetworkSettings(depth=2, channels=2, inputs=2, dilations=(1, 2)),
        train=TrainSettings(steps=4, patch_px=16),
    )
    return drain(fit_steps(samples.edx(seed=0, size=(64, 160)), settings, Compute(executor=Inline())))


def with_report(model: Model, **changes: Any) -> Model:
    """Return a model with round numbers in its report."""
    names, alpha = model.channel_names, model.settings.alpha
    ones = np.ones(len(names))
    report = replace(
        model.calibrated.report,
        channel_names=names,
        alpha=alpha,
        coverage=(1 - alpha) * ones,
        coverage_low=(1 - alpha - 0.02) * ones,
        coverage_high=np.full(len(names), np.nan),
        width=0.25 * ones,
        correlation=0.9 * ones,
        n_blocks=np.full(len(names), 24),
        block_px=16,
        blocks="blocks of 16 px",
        field_coverage=np.empty((len(names), 0)),
        warnings=(Note("amber", "Few blocks."), Note("red", "Overlap <here>.")),
    )
    return replace(model, calibrated=replace(model.calibrated, report=replace(report, **changes)))


@pytest.fixture
def make_model(tiny_model: Model) -> Callable[..., Model]:
    """Make the tiny model with round numbers in its report."""
    return partial(with_report, tiny_model)


class FakeEngine:
    """Steps that compute nothing, return real models, and record their arguments; "training" sleeps."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.pause_s, self.updates, self.preview_every = 0.01, 20, 5
        self.fail: Exception | None = None
        self.before_update: Callable[[], None] | None = None
        self.notes: tuple[Note, ...] = ()
        self.forecast = Forecast(60, 32, "blocks of 32 px")
        self.shift: tuple[float, ...] | None = (0.0, 0.0)
        self.prepared = self.updated = 0
        self.resumed: Any = None
        self.pair: Pair | None = None
        self.regions: Any = None
        self.calibrated_on: Pair | None = None

    def plan_of(self, pair: Pair, settings: EnsembleSettings, regions: Any = None) -> SimpleNamespace:
        if min(pair.noisy.shape[-2:]) < 16:
            raise ValueError("The image is too small for the split. Give a larger one.")
        origin = Origin((), "pretrained members")
        return SimpleNamespace(notes=self.notes, shift=self.shift, origin=origin, forecast=self.forecast)

    def prepare(self, compute: Compute) -> None:
        self.prepared += 1

    def fit_steps(
        self,
        pair: Pair,
        settings: EnsembleSettings,
        compute: Compute,
        *,
        regions: Any = None,
        resume: Any = (),
        preview_every: float = 0.0,
    ) -> Generator[Progress, None, Model]:
        self.pair, self.regions, self.resumed = pair, regions, resume
        clean = np.asarray(pair.clean, np.float32)
        for step in range(self.updates):
            if self.before_update is not None:
                self.before_update()
            self.updated += 1
            time.sleep(self.pause_s)
            yield Progress(
                step,
                self.updates,
                f"Member 1 of {settings.members}",
                preview=clean if step % self.preview_every == self.preview_every - 1 else None,
                losses=tuple((m, step, 1.0 / (step + 1)) for m in range(settings.members)),
                checkpoint=("member 0",) if step > 10 else None,  # type: ignore[arg-type]
            )
            if self.fail is not None and step == 3:
                raise self.fail
        networks = self.model.learned.networks
        members = tuple(replace(networks.members[0], number=k) for k in range(settings.members))
        learned = replace(
            self.model.learned,
            networks=replace(networks, members=members),
            channel_names=pair.views.channel_names,
            pixel_size=pair.pixel_size,
            unit=pair.unit,
            losses={0: tuple(1.0 / (s + 1) for s in range(self.updates))},
        )
        # the networks of the model, which a bundle compares with the settings
        settings = replace(settings, network=self.model.settings.network)
        return with_report(replace(self.model, settings=settings, learned=learned))

    def calibrate_steps(
        self, model: Model, compute: Compute, settings: EnsembleSettings, *, pair: Pair | None = None
    ) -> Generator[Progress, None, Model]:
        yield Progress(0, 1)
        self.calibrated_on = pair
        return with_report(replace(model, settings=settings))

    def predict_steps(
        self, model: Model, image: Image, compute: Compute, *, valid: Any = None
    ) -> Generator[Progress, None, Prediction]:
        yield Progress(0, 1, "Tile 1 of 1")
        array, alpha = np.asarray(image.data, np.float32), model.settings.alpha
        return Prediction(
            array - 0.5,
            array,
            array + 0.5,
            np.zeros_like(array),
            None,
            model.settings.levels,
            image.view.axes,
            model.channel_names,
            image.pixel_size,
            image.unit or "px",
            alpha,
            "clean",
            provenance={"alpha": alpha, "seed": model.settings.seed},
        )


@pytest.fixture(autouse=True)
def _own_pace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the pace of trainings out of the user's cache folder."""
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)


@pytest.fixture(autouse=True)
def _long_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dock that leaves waits for its runs as long as a busy machine may need to end them."""
    monkeypatch.setattr("napari_btn.widgets.shared.lifetime._CLOSE_WAIT", 60.0)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, tiny_model: Model) -> FakeEngine:
    """The fake, in the place of the steps that a Denoise dock runs."""
    from napari_btn.widgets.shared import engine

    fake = FakeEngine(tiny_model)
    for name in ("plan_of", "prepare", "fit_steps", "calibrate_steps", "predict_steps"):
        monkeypatch.setattr(engine, name, getattr(fake, name))
    return fake


@pytest.fixture
def viewer(qapp: object) -> ViewerModel:
    """A viewer without a window."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def dock(viewer: ViewerModel, steps: FakeEngine, qtbot: QtBot) -> Iterator[DenoiseWidget]:
    """A Denoise dock on an empty viewer with fake steps."""
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
