"""Which warnings fail a test: those about a line of ours, and no others."""

from __future__ import annotations

import warnings
from typing import Any

import pytest


def module(name: str, code: str) -> dict[str, Any]:
    """Names that a module of this name defines."""
    names: dict[str, Any] = {"__name__": name, "warnings": warnings}
    exec(code, names)
    return names


WARN = "def warn(stacklevel=1): warnings.warn('this will change', FutureWarning, stacklevel=stacklevel)"
CALL = "def call(warn): warn(stacklevel=2)"


@pytest.mark.parametrize("name", ["napari_btn", "napari_btn.core.evaluation.metrics"])
def test_a_warning_of_our_modules_is_an_error(name: str) -> None:
    with pytest.raises(FutureWarning):
        module(name, WARN)["warn"]()


@pytest.mark.parametrize("name", ["skimage.metrics", "torch", "napari.layers", "tests.test_warnings"])
def test_a_warning_of_another_module_is_none(name: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        module(name, WARN)["warn"]()
    assert [w.category for w in said] == [FutureWarning]


def test_a_warning_belongs_to_the_module_that_it_is_attributed_to() -> None:
    library, ours = module("skimage.metrics", WARN), module("napari_btn.core.evaluation.metrics", CALL)
    with pytest.raises(FutureWarning):
        ours["call"](library["warn"])
    with warnings.catch_warnings(record=True) as said:
        module("another_plugin", CALL)["call"](module("napari_btn.session", WARN)["warn"])
    assert len(said) == 1
