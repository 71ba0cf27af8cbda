"""Shared by tests of steps: all that a model holds, to check that a step leaves it alone."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from napari_btn.core.progress import drain


def _contents(value):
    """All that a value holds, as bytes and plain values."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if is_dataclass(value):
        return type(value).__name__, [(f.name, _contents(getattr(value, f.name))) for f in fields(value)]
    if isinstance(value, dict):
        return [(k, _contents(v)) for k, v in value.items()]
    if isinstance(value, tuple | list):
        return [_contents(v) for v in value]
    return value


@pytest.fixture
def unchanged():
    """Run a step, and see that it left a model as it was, down to the last weight."""

    def run(model, step):
        before = _contents(model)
        result = drain(step)
        assert _contents(model) == before
        return result

    return run


@pytest.fixture
def watched():
    """Let a denoiser's steps run only as long as it is the same at every yield; return the model that it held."""

    def watch(denoiser):
        before, settings = denoiser.model, denoiser.settings()

        def run(step):
            yields = 0
            while True:
                try:
                    next(step)
                except StopIteration as end:
                    assert yields
                    return end.value
                yields += 1
                assert denoiser.model is before
                assert denoiser.settings() == settings

        denoiser.run = run
        return before

    return watch
