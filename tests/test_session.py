"""Laws of the session: nothing stale stays, one event per change, one session per viewer."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.session import Session, session_of

SLOTS = {
    "model": {"prediction", "tokens", "regions"},
    "source": {"prediction", "tokens", "regions"},
    "prediction": {"tokens", "regions"},
    **{slot: set() for slot in ("device", "training", "tokens", "threshold", "regions", "stage")},
}
"""Slots that each setter clears."""


class Viewer:
    pass


@dataclass(frozen=True, eq=False)
class Calibrated:
    calibration: object = field(default_factory=object)
    report: object = field(default_factory=object)
    locks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """A stand-in for a model, whose parts are compared by identity."""

    settings: object = field(default_factory=object)
    learned: object = field(default_factory=object)
    scores: object = field(default_factory=object)
    calibrated: Calibrated = field(default_factory=Calibrated)
    tokens: object = None


@dataclass(frozen=True, eq=False)
class Prediction:
    median: object = field(default_factory=object)
    locks: dict[str, float] = field(default_factory=dict)


def new(slot: str) -> Any:
    return {"model": Model, "prediction": Prediction}.get(slot, object)()


def filled() -> Any:
    session: Any = Session()
    for slot in SLOTS:
        setattr(session, slot, new(slot))
    return session


def locked(model: Any, value: float) -> Any:
    return replace(model, calibrated=replace(model.calibrated, locks={"Fe": value}))


def state(session: Session) -> dict[str, object]:
    return {slot: getattr(session, slot) for slot in SLOTS}


@pytest.mark.parametrize("slot", SLOTS)
def test_a_setter_clears_what_depends_on_it_and_emits_one_event(slot: str) -> None:
    session, value = filled(), object()
    wanted = {**state(session), slot: value, **dict.fromkeys(SLOTS[slot])}
    seen: list[tuple[str, dict[str, object]]] = []
    session.changed.connect(lambda name: seen.append((name, state(session))))
    setattr(session, slot, value)
    assert state(session) == wanted
    assert seen == [(slot, wanted)]


def test_all_attributes_are_covered() -> None:
    own = {name for name, value in vars(Session).items() if isinstance(value, property)}
    assert own == set(SLOTS)


def test_tokens_come_with_the_model_that_holds_their_palette() -> None:
    session, tokens = filled(), object()
    model = replace(session.model, tokens=object())
    # locked while the tokens were found
    session.amend(locked(session.model, 0.25))
    wanted = {**state(session), "tokens": tokens}
    seen: list[str] = []
    session.changed.connect(seen.append)
    session.amend(model, tokens=tokens)
    assert state(session) == {**wanted, "model": session.model}
    assert session.model.tokens is model.tokens
    assert session.model.calibrated.locks == {"Fe": 0.25}
    assert seen == ["tokens"]


def test_a_lock_makes_nothing_stale_and_reaches_the_prediction() -> None:
    session, seen = filled(), []
    before = state(session)
    session.changed.connect(seen.append)
    session.amend(locked(session.model, 0.25))
    assert seen == ["locks"]
    assert session.model.calibrated.locks == session.prediction.locks == {"Fe": 0.25}
    assert session.prediction.median is before["prediction"].median
    assert session.model.learned is before["model"].learned
    changed = {"model": session.model, "prediction": session.prediction}
    assert state(session) == before | changed
    session.amend(replace(session.model, calibrated=replace(session.model.calibrated, locks={})))
    assert session.prediction.locks == {}


@pytest.mark.parametrize("part", ["settings", "learned", "scores", "calibration", "report"])
def test_parts_of_another_model_are_refused(part: str) -> None:
    session = filled()
    before, model = state(session), session.model
    if part in vars(model):
        other: Any = replace(model, **{part: object()})
    else:
        other = replace(model, calibrated=replace(model.calibrated, **{part: object()}))
    for tokens in (None, object()):
        with pytest.raises(ValueError, match="other networks"):
            session.amend(other, tokens=tokens)
    assert state(session) == before


@pytest.mark.parametrize("slot", ["prediction", "tokens"])
def test_results_without_their_origin_are_refused(slot: str) -> None:
    session: Any = Session()
    with pytest.raises(ValueError, match="Set those first"):
        setattr(session, slot, object())
    with pytest.raises(ValueError, match="other networks"):
        session.amend(Model(), tokens=object())
    session.model = Model()
    with pytest.raises(ValueError, match="without their source"):
        session.amend(session.model, tokens=object())


@given(st.lists(st.sampled_from(["model", "source", "prediction", "tokens", "take", "lock"]), max_size=12))
def test_after_any_order_of_steps_nothing_stale_is_visible(order: list[str]) -> None:
    session: Any = Session()
    age = {"model": -1, "source": -1, "prediction": -1, "tokens": -1}
    for now, slot in enumerate(order):
        known = session.model is not None and session.source is not None
        if slot == "take" and known:
            session.amend(replace(session.model, tokens=now), tokens=object())
            age["tokens"] = now
        elif slot == "lock" and session.model is not None:
            session.amend(locked(session.model, now))
            assert session.prediction is None or session.prediction.locks == {"Fe": now}
        elif slot in ("model", "source") or (slot in age and known):
            setattr(session, slot, new(slot))
            age[slot] = now
        if session.prediction is not None:
            assert age["prediction"] > max(age["model"], age["source"])
        if session.tokens is not None:
            assert age["tokens"] > max(age["model"], age["source"], age["prediction"])


def test_a_viewer_has_one_session_that_goes_with_it() -> None:
    viewer, other = Viewer(), Viewer()
    session = session_of(viewer)
    assert session_of(viewer) is session
    assert session_of(other) is not session
    gone = weakref.ref(session)
    del session, viewer
    gc.collect()
    assert gone() is None


def test_the_proxy_of_a_viewer_counts_as_the_viewer() -> None:
    class Proxy:
        def __init__(self, wrapped: object) -> None:
            self.__wrapped__ = wrapped

    viewer = Viewer()
    assert session_of(Proxy(viewer)) is session_of(viewer)
