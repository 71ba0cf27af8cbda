"""Laws of the session: nothing stale stays, one event per change, one session per viewer."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.session import Session, session_of


class Viewer:
    pass


def filled() -> Session:
    session: Any = Session()
    session.denoiser = object()
    session.source = object()
    session.prediction = object()
    return session


def test_a_new_denoiser_clears_the_prediction_but_not_the_source() -> None:
    session: Any = filled()
    source = session.source
    session.denoiser = object()
    assert session.prediction is None
    assert session.source is source


def test_a_new_source_clears_the_prediction_but_not_the_denoiser() -> None:
    session: Any = filled()
    denoiser = session.denoiser
    session.source = object()
    assert session.prediction is None
    assert session.denoiser is denoiser


def test_a_setter_emits_one_event_after_clearing() -> None:
    session: Any = filled()
    seen: list[tuple[str, object]] = []

    def record(slot: str) -> None:
        seen.append((slot, session.prediction))

    session.changed.connect(record)
    session.denoiser = object()
    assert seen == [("denoiser", None)]


def test_a_prediction_without_its_origin_is_refused() -> None:
    session: Any = Session()
    with pytest.raises(ValueError, match="needs both"):
        session.prediction = object()


@given(st.lists(st.sampled_from(["denoiser", "source", "prediction", "tokens"]), max_size=12))
def test_after_any_order_of_steps_nothing_stale_is_visible(order: list[str]) -> None:
    session: Any = Session()
    age = {"denoiser": -1, "source": -1, "prediction": -1, "tokens": -1}
    for now, slot in enumerate(order):
        if slot not in ("prediction", "tokens") or (session.denoiser and session.source):
            setattr(session, slot, object())
            age[slot] = now
        if session.prediction is not None:
            assert age["prediction"] > max(age["denoiser"], age["source"])
        if session.tokens is not None:
            assert age["tokens"] > max(age["denoiser"], age["source"], age["prediction"])


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
