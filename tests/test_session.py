"""Laws of the session: nothing stale stays, one event per change, one session per viewer."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
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
"""What each setter clears."""


class Viewer:
    pass


def model_with(tokens: object = None) -> Any:
    """A stand-in for a model, whose parts are compared by identity."""
    return SimpleNamespace(
        settings=object(), learned=object(), scores=object(), calibrated=object(), tokens=tokens
    )


def filled() -> Any:
    session: Any = Session()
    for slot in SLOTS:
        setattr(session, slot, model_with() if slot == "model" else object())
    return session


def state(session: Session) -> dict[str, object]:
    return {slot: getattr(session, slot) for slot in SLOTS}


@pytest.mark.parametrize("slot", SLOTS)
def test_a_setter_clears_what_depends_on_it_and_emits_one_event(slot: str) -> None:
    session, new = filled(), object()
    wanted = {**state(session), slot: new, **dict.fromkeys(SLOTS[slot])}
    seen: list[tuple[str, dict[str, object]]] = []
    session.changed.connect(lambda name: seen.append((name, state(session))))
    setattr(session, slot, new)
    assert state(session) == wanted
    assert seen == [(slot, wanted)]


def test_all_attributes_are_covered() -> None:
    own = {name for name, value in vars(Session).items() if isinstance(value, property)}
    assert own == set(SLOTS)


def test_tokens_come_with_the_model_that_holds_their_palette() -> None:
    session, tokens = filled(), object()
    model = SimpleNamespace(**{**vars(session.model), "tokens": object()})
    wanted = {**state(session), "model": model, "tokens": tokens}
    seen: list[str] = []
    session.changed.connect(seen.append)
    session.take_tokens(model, tokens)
    assert state(session) == wanted
    assert seen == ["tokens"]


@pytest.mark.parametrize("part", ["settings", "learned", "scores", "calibrated"])
def test_tokens_of_another_model_are_refused(part: str) -> None:
    session = filled()
    before = state(session)
    other: Any = SimpleNamespace(**{**vars(session.model), part: object()})
    with pytest.raises(ValueError, match="other networks"):
        session.take_tokens(other, object())
    assert state(session) == before


@pytest.mark.parametrize("slot", ["prediction", "tokens"])
def test_results_without_their_origin_are_refused(slot: str) -> None:
    session: Any = Session()
    with pytest.raises(ValueError, match="Set those first"):
        setattr(session, slot, object())
    with pytest.raises(ValueError, match="other networks"):
        session.take_tokens(model_with(), object())
    session.model = model_with()
    with pytest.raises(ValueError, match="without their source"):
        session.take_tokens(session.model, object())


@given(st.lists(st.sampled_from(["model", "source", "prediction", "tokens", "take"]), max_size=12))
def test_after_any_order_of_steps_nothing_stale_is_visible(order: list[str]) -> None:
    session: Any = Session()
    age = {"model": -1, "source": -1, "prediction": -1, "tokens": -1}
    for now, slot in enumerate(order):
        known = session.model is not None and session.source is not None
        if slot == "take" and known:
            session.take_tokens(SimpleNamespace(**{**vars(session.model), "tokens": now}), object())
            age["tokens"] = now
        elif slot in ("model", "source") or (slot != "take" and known):
            setattr(session, slot, model_with() if slot == "model" else object())
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
