"""Draw a member's random connections, and the dilation schedule that all members share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.settings import NetworkSettings

__all__ = ["Graph", "draw_dilations", "draw_graph", "flat_nodes", "receptive_field"]


@dataclass(frozen=True)
class Graph:
    """A random sparse mixed-scale network, as data.

    Chunk 0 is the input; node ``t`` makes chunks ``1 + t * inputs`` to ``(t + 1) * inputs``.

    Parameters
    ----------
    sources : tuple of tuple of int
        For each node, the earlier chunks that it reads, rising.
    dilations : tuple of int
        For each node, the dilation of its convolution.
    """

    sources: tuple[tuple[int, ...], ...]
    dilations: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as a JSON-ready dict."""
        return {"sources": [list(s) for s in self.sources], "dilations": list(self.dilations)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Graph:
        """Return the graph of a dict from `to_dict`."""
        return cls(tuple(tuple(int(i) for i in s) for s in values["sources"]), tuple(values["dilations"]))


def receptive_field(dilations: Sequence[int]) -> int:
    """Return the half-width of the receptive field in pixels, in the worst case over every wiring.

    A 3-wide kernel of dilation ``d`` reaches ``d`` pixels to each side, and no path passes a
    node twice, so the sum bounds every member that shares the schedule.
    """
    return int(sum(dilations))


def draw_dilations(
    settings: NetworkSettings, *, ndim: int, limit_px: int | None = None, field_px: int | None = None
) -> tuple[int, ...]:
    """Return the dilation of each node, one schedule for the whole ensemble.

    Dilations cycle through 1 to the largest, as in mixed-scale dense networks, so their sum,
    and with it receptive field, halo and split gap, is fixed by the settings and the image.

    Parameters
    ----------
    settings : NetworkSettings
        ``depth``, ``max_dilation``, and ``dilations``, which are returned as they are if given.
    ndim : int
        Number of spatial dimensions; 3D dilations stop at 4.
    limit_px : int, optional
        Largest receptive field that the image allows; the cycle is shortened to respect it.
    field_px : int, optional
        Receptive field that is wanted, instead of the one that follows from ``max_dilation``: the cycle
        gets as long as it needs, and steps wider where the nodes don't suffice.

    References
    ----------
    Pelt & Sethian, PNAS 115 (2018) 254; Roberts et al., arXiv 2308.02559, section 2.
    """
    if settings.dilations is not None:
        return settings.dilations
    top = min(settings.max_dilation, 4 if ndim == 3 else settings.max_dilation)
    if field_px is None:
        top = min(top, settings.depth)
    else:
        top = 1
        while receptive_field(_cycle(settings.depth, top)) < field_px and top < 64:
            top += 1
    while True:
        schedule = _cycle(settings.depth, top)
        if top == 1 or limit_px is None or receptive_field(schedule) <= limit_px:
            return schedule
        top -= 1


def _cycle(depth: int, top: int) -> tuple[int, ...]:
    """Return dilations from 1 to ``top`` in turn; in equal steps where there are fewer nodes than that."""
    if top <= depth:
        return tuple(1 + t % top for t in range(depth))
    return tuple(int(d) for d in np.linspace(1, top, depth).round())


def flat_nodes(dilations: Sequence[int], z_step: float) -> tuple[bool, ...]:
    """Return which nodes of a volume's networks don't look along Z; empty where all do.

    Where planes lie far apart, the nodes of the largest dilations get kernels of one plane, until the
    receptive field is no longer along Z than across, in units of length.

    Parameters
    ----------
    dilations : sequence of int
        The ensemble's schedule.
    z_step : float
        Distance of two planes, in pixels of Y and X; under two nothing is flat.
    """
    if z_step < 2:
        return ()
    wanted = max(sum(dilations) / z_step, 1)
    flat = [False] * len(dilations)
    for node in sorted(range(len(dilations)), key=lambda t: -dilations[t]):
        if sum(d for d, f in zip(dilations, flat, strict=True) if not f) <= wanted:
            break
        flat[node] = True
    return tuple(flat)


def draw_graph(rng: np.random.Generator, settings: NetworkSettings, dilations: tuple[int, ...]) -> Graph:
    """Draw one member's graph: each node reads a few earlier chunks, near ones more often.

    Parameters
    ----------
    rng : numpy.random.Generator
        The member's own generator.
    settings : NetworkSettings
        ``inputs`` chunks are read by each node, with odds ``distance ** -skip_power``.
    dilations : tuple of int
        The ensemble's schedule.

    References
    ----------
    Roberts et al., DLSIA, arXiv 2308.02559 (sparse mixed-scale networks).
    """
    sources: list[tuple[int, ...]] = []
    for node in range(settings.depth):
        n_chunks = 1 + node * settings.inputs
        owner = np.concatenate([[-1], np.repeat(np.arange(node), settings.inputs)])
        odds = (node - owner).astype(float) ** -settings.skip_power
        n_read = min(settings.inputs, n_chunks)
        drawn = rng.choice(n_chunks, size=n_read, replace=False, p=odds / odds.sum())
        sources.append(tuple(int(i) for i in np.sort(drawn)))
    return Graph(tuple(sources), dilations)
