"""The steps of the docks: found on first use, and run in a thread without changing session or model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_btn import samples
from napari_btn.core.compute.pool import Compute, Inline
from napari_btn.core.data.image import Image
from napari_btn.core.progress import Progress, drain
from napari_btn.core.settings import TokenSettings, TrainSettings
from napari_btn.model import Model
from napari_btn.session import Session, Training
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.worker import run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from pytestqt.qtbot import QtBot

    from napari_btn.core.data.pairs import Pair


def seen_by(model: Model, pair: Pair) -> Image:
    return engine.image_for(model, pair.noisy, pair.axes)


def answered(answer: Callable[[], Any]) -> Generator[Progress, None, Any]:
    yield Progress(0, 1)
    return answer()


STEPS: dict[str, Any] = {
    "fit": lambda model, pair, compute: engine.fit_steps(pair, model.settings, compute),
    "predict": lambda model, pair, compute: engine.predict_steps(
        model, seen_by(model, pair), compute, valid="finite"
    ),
    "tokens": lambda model, pair, compute: engine.tokens_steps(
        model, seen_by(model, pair), compute, TokenSettings(3)
    ),
    "calibrate": lambda model, pair, compute: engine.calibrate_steps(
        model, compute, replace(model.settings, alpha=0.3)
    ),
    "calibrate on another pair": lambda model, pair, compute: engine.calibrate_steps(
        model, compute, model.settings, pair=samples.edx(seed=1, size=(64, 96))
    ),
    "refine": lambda model, pair, compute: engine.refine_steps(
        model, pair, compute, train=TrainSettings(steps=2, patch_px=16)
    ),
    "filter": lambda model, pair, compute: engine.equivalent_filter_steps(
        model, seen_by(model, pair), (20, 30), compute, channel=0
    ),
    "coverage": lambda model, pair, compute: answered(lambda: engine.coverage_by_level(model, (0.5, 0.1))),
    "apart": lambda model, pair, compute: answered(
        lambda: engine.coverage_apart_of(
            model, seen_by(model, pair), np.ones(pair.noisy.shape[1:], int), "YX", 1
        )
    ),
    "missed": lambda model, pair, compute: answered(
        lambda: engine.missed_share(model, pair.noisy.shape[1:], pair.axes, seen_by(model, pair))
    ),
}


@pytest.fixture(scope="module")
def pair() -> Pair:
    """The pair that the tiny model was trained on."""
    return samples.edx(seed=0, size=(64, 160))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_in_a_thread_changes_neither_the_session_nor_its_model(
    tiny_model: Model, pair: Pair, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    session = Session()
    session.model, session.training = tiny_model, Training(pair)
    session.source = Image(pair.noisy, "CYX", pair.channel_names)
    before, events, results, errors = dict(vars(session)), [], [], []
    session.changed.connect(events.append)
    engine.save_model(tiny_model, tmp_path / "before.btn")
    noisy = np.array(pair.noisy)
    run_step(
        lambda: STEPS[name](tiny_model, pair, Compute(executor=Inline())),
        on_result=results.append,
        on_error=errors.append,
    )
    qtbot.waitUntil(lambda: bool(results or errors))
    assert not errors
    assert vars(session) == before
    assert not events
    engine.save_model(tiny_model, tmp_path / "after.btn")
    assert (tmp_path / "after.btn").read_bytes() == (tmp_path / "before.btn").read_bytes()
    np.testing.assert_array_equal(pair.noisy, noisy)
    made = results[0][0] if isinstance(results[0], tuple) else results[0]
    if isinstance(made, Model):
        assert made is not tiny_model


def test_a_model_with_another_palette_shares_all_other_parts(
    tiny_model: Model, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    session = Session()
    session.model, session.source = tiny_model, seen_by(tiny_model, pair)
    made, tokens = drain(STEPS["tokens"](tiny_model, pair, Compute(executor=Inline())))
    assert tiny_model.tokens is None
    assert made.tokens is not None
    session.amend(made, tokens=tokens)
    assert vars(session.model) == vars(made)
    assert session.tokens is tokens


def test_all_names_are_found() -> None:
    for name in engine.__all__:
        assert callable(getattr(engine, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = engine.nothing


def test_another_device_than_those_of_this_machine_is_refused(tiny_model: Model) -> None:
    with pytest.raises(ValueError, match="this machine offers"):
        engine.compute_on("cuda:99", tiny_model.settings)
