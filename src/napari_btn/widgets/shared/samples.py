"""The samples of the File menu, as layers: the manifest names these functions."""

from __future__ import annotations

from functools import partial
from typing import Any

from napari_btn import samples
from napari_btn.widgets.shared.layers import TRUTH, pair_layers

__all__ = [
    "sample_blobs",
    "sample_counts",
    "sample_defects",
    "sample_edx",
    "sample_lattice",
    "sample_movie",
    "sample_repeats",
    "sample_stripes",
    "sample_xct",
]


def _layers_of(name: str) -> list[tuple[Any, dict[str, Any], str]]:
    """Return the noisy and clean layers of a sample: data, keyword arguments and kind of each."""
    return pair_layers(getattr(samples, name)(seed=0))


def _alone(name: str) -> list[tuple[Any, dict[str, Any], str]]:
    """Return the layers of a sample without a clean image: its truth is hidden, and no dock picks it by itself."""
    noisy, (data, arguments, kind) = _layers_of(name)
    arguments |= {"name": f"{name} truth", "visible": False, "metadata": {TRUTH: True}}
    return [(data, arguments, kind), noisy]


sample_blobs = partial(_layers_of, "blobs")
sample_counts = partial(_alone, "counts")
sample_defects = partial(_alone, "defects")
sample_edx = partial(_layers_of, "edx")
sample_lattice = partial(_layers_of, "lattice")
sample_movie = partial(_alone, "movie")
sample_repeats = partial(_alone, "repeats")
sample_stripes = partial(_alone, "stripes")
sample_xct = partial(_layers_of, "xct")
