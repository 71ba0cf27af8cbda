"""Steps: long actions that say how far they are, may be stopped between two yields, and leave notes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Note", "Progress", "Step", "drain", "with_progress"]

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a step is.

    Parameters
    ----------
    done, total : int
        Work done and work in all, in the step's own unit (training steps, tiles).
    note : str
        What is being done now, for a person.
    preview : ndarray, optional
        The median so far, float32, in the axes of the input without ``S`` and ``T``.
    losses : tuple of (member, step, loss), optional
        Training losses new since the last progress, for a live curve.
    checkpoint : object, optional
        What ``fit_steps(resume=...)`` needs to go on from here; opaque to the receiver.
    preview_offset : tuple of int
        Where the preview begins in the image, in pixels along its space axes; empty for the origin.
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
    """Run a step to its end, and return its result."""
    while True:
        try:
            next(step)
        except StopIteration as end:
            result: T = end.value
            return result


def with_progress(step: Step[T], change: Callable[[Progress], Progress]) -> Step[T]:
    """Return the same step with its progress changed on the way, as a part of a larger one.

    Parameters
    ----------
    step : Step
    change : callable
        From the step's progress to that of the whole.
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


@dataclass(frozen=True)
class Note:
    """Something the user should know about a result.

    Parameters
    ----------
    level : str
        "red" (don't trust the coverage) or "amber" (read before relying on it).
    text : str
        What came, what is needed, and what to do.
    """

    level: Literal["red", "amber"]
    text: str

    def to_dict(self) -> dict[str, str]:
        """Note as a JSON-ready dict."""
        return {"level": self.level, "text": self.text}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Note from `to_dict`."""
        return cls(level=values["level"], text=str(values["text"]))
