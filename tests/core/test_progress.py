"""Steps: run to their end, and as a part of a larger one."""

from __future__ import annotations

import pytest

from napari_btn.core.progress import Note, Progress, drain, with_progress


class Said:
    """A step of three yields that remembers whether it was closed."""

    def __init__(self, *, fails=False):
        self.closed, self.fails = False, fails

    def __call__(self):
        try:
            for k in range(3):
                yield Progress(k, 3, f"part {k}")
            if self.fails:
                raise ArithmeticError("no more")
            return "made"
        finally:
            self.closed = True


def shifted(progress):
    return Progress(10 + progress.done, 20, f"whole: {progress.note}")


def test_a_drained_step_gives_its_result():
    assert drain(Said()()) == "made"


def test_a_part_says_what_the_whole_does_and_returns_its_own_result():
    inner, seen = Said(), []

    def whole():
        result = yield from with_progress(inner(), shifted)
        return result, inner.closed

    step = whole()
    while True:
        try:
            seen.append(next(step))
        except StopIteration as end:
            result = end.value
            break
    assert result == ("made", True)
    assert seen == [Progress(10 + k, 20, f"whole: part {k}") for k in range(3)]


def test_a_stop_of_the_whole_closes_the_part():
    inner = Said()
    step = with_progress(inner(), shifted)
    next(step)
    assert not inner.closed
    step.close()
    assert inner.closed


def test_an_error_of_the_part_or_of_the_change_arrives_and_closes_the_part():
    inner = Said(fails=True)
    with pytest.raises(ArithmeticError, match="no more"):
        drain(with_progress(inner(), shifted))
    assert inner.closed

    def wrong(progress):
        raise KeyError("change")

    inner = Said()
    with pytest.raises(KeyError, match="change"):
        drain(with_progress(inner(), wrong))
    assert inner.closed


def test_the_fraction_of_nothing_is_zero():
    assert Progress(0, 0).fraction == 0
    assert Progress(3, 4).fraction == 0.75


def test_notes_come_apart_and_together():
    note = Note("amber", "Clean must move.")
    assert Note.from_dict(note.to_dict()) == note
