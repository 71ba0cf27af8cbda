"""Steps: long actions that report progress and can be stopped between two yields; and notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Note", "Progress", "Step", "counted", "drain", "with_progress"]

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """The progress of a step.

    Parameters
    ----------
    done, total : int
        Work done and total work, in units of the step (training steps, tiles).
    note : str
        Current activity, shown to the user.
    preview : ndarray, optional
        The median so far, float32, in the axes of the input without ``S`` and ``T``.
    losses : tuple of (member, step, loss), optional
        Training losses since the last progress, for a live curve.
    checkpoint : object, optional
        State for ``fit_steps(resume=...)``, opaque to the receiver.
    preview_offset : tuple of int
        First pixel of the preview along the space axes of the image; empty for the origin.
    """

    done: int
    total: int
    note: str = ""
    preview: NDArray[np.float32] | None = None
    losses: tuple[tuple[int, int, float], ...] = ()
    checkpoint: Any = None
    preview_offset: tuple[int, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the work done, 0 to 1."""
        return self.done / self.total if self.total else 0.0


if TYPE_CHECKING:
    Step = Generator[Progress, None, T]
    """A long action: a generator that yields Progress and returns its result."""
else:
    Step = "Generator[Progress, None, T]"


def drain(step: Step[T]) -> T:
    """Run a step to its end and return its result.

    Parameters
    ----------
    step : Step
    """
    while True:
        try:
            next(step)
        except StopIteration as end:
            result: T = end.value
            return result


def with_progress(step: Step[T], change: Callable[[Progress], Progress]) -> Step[T]:
    """Return the step with its progress changed, as a part of a larger step.

    Parameters
    ----------
    step : Step
    change : callable
        Takes the progress of the step and returns that of the larger one.
    """
    try:
        while True:
            try:
                progress = next(step)
            except StopIteration as end:
                result: T = end.value
                return result
            yield change(progress)
    finally:
        step.close()


def counted(number: int, what: str) -> str:
    """Return a number of things in words, such as ``1 member`` and ``2 members``.

    Parameters
    ----------
    number : int
        Any.
    what : str
        One of them, in a word that takes an s.
    """
    return f"{number} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Note:
    """A note to the user about a result.

    Parameters
    ----------
    level : str
        "red" (don't trust the coverage) or "amber" (read before relying on it).
    text : str
        Text that says what came, what is needed and what to do.
    """

    level: Literal["red", "amber"]
    text: str

    def to_dict(self) -> dict[str, str]:
        """Return the note as a JSON-ready dict."""
        return {"level": self.level, "text": self.text}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the note of a dict that `to_dict` made."""
        return cls(level=values["level"], text=str(values["text"]))
