"""Bar 1: a training step against per-edge execution of a network with as many weights.

The reference runs each connection of the sparse graph as a small convolution of its own, with a bias,
batch normalisation and a ReLU, as the published code of sparse mixed-scale networks does (Roberts et
al., arXiv 2308.02559). It has the same connections, heads, levels and number of weights as ours. There
are two forms: a node adds the outputs of its edges (4 to 4 channels each), or concatenates them (16 to 4
channels each, a quarter as many edges).
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from benchmarks.table import Bar, Result, main
from napari_btn.core.networks.family import Blueprint, Extent, build, graph_of
from napari_btn.core.networks.pinball import quantiles_from_raw
from napari_btn.core.networks.sms.family import FAMILY
from napari_btn.core.settings import NetworkSettings
from napari_btn.core.training.optimiser import Optimiser

if TYPE_CHECKING:
    from napari_btn.core.networks.sms.graph import Graph

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def _edge(n_in: int, n_out: int, dilation: int, ndim: int) -> nn.Module:
    conv = (nn.Conv2d, nn.Conv3d)[ndim - 2]
    norm = (nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 2]
    return nn.Sequential(
        conv(n_in, n_out, 3, padding=dilation, dilation=dilation),
        norm(n_out, track_running_stats=False),
        nn.ReLU(),
    )


class PerEdge(nn.Module):
    """A network that runs its graph edge by edge."""

    def __init__(self, graph: Graph, n_in: int, n_out: int, ndim: int, *, added: bool) -> None:
        super().__init__()
        self.graph, self.added, self.n_out = graph, added, n_out
        chunk = inputs = 4
        edges = []
        for t, source in enumerate(graph.sources):
            for k in range(inputs):
                dilation = 1 + (graph.dilations[t] + k) % max(graph.dilations)
                if added:
                    reads = [n_in if s == 0 else chunk for s in source]
                else:
                    reads = [sum(n_in if s == 0 else chunk for s in source)]
                edges += [_edge(n, chunk, dilation, ndim) for n in reads]
        self.edges = nn.ModuleList(edges)
        point = (nn.Conv2d, nn.Conv3d)[ndim - 2]
        self.hidden = point(len(graph.sources) * inputs * chunk, 32, 1)
        self.out = point(32, n_out * len(LEVELS), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return quantiles (B, C, L, *space)."""
        chunks = [x]
        edges = iter(self.edges)
        for source in self.graph.sources:
            made = []
            for _ in range(4):
                if self.added:
                    parts = [next(edges)(chunks[s]) for s in source]
                    made.append(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0])
                else:
                    made.append(next(edges)(torch.cat([chunks[s] for s in source], 1)))
            chunks += made
        raw = self.out(torch.relu(self.hidden(torch.cat(chunks[1:], 1))))
        return quantiles_from_raw(raw.unflatten(1, (self.n_out, len(LEVELS))), LEVELS.index(0.5))


def pinball(quantiles: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean pinball loss, in its plain form."""
    levels = torch.tensor(LEVELS).reshape(1, 1, -1, *(1,) * (quantiles.ndim - 3))
    diff = target[:, :, None] - quantiles
    return torch.maximum(levels * diff, (levels - 1) * diff).mean()


def _ours(blueprint: Blueprint, x: torch.Tensor, y: torch.Tensor) -> tuple[Any, int]:
    module = build(blueprint, [(0, 0)])
    module.initialise(x, y, rng=np.random.default_rng(0))
    optimiser = Optimiser(module, {})
    state = {"step": 0}

    def step() -> None:
        module.loss(x, y).backward()
        optimiser.step(1e-3, state["step"])
        state["step"] += 1

    return step, sum(p.numel() for p in module.parameters())


def _theirs(graph: Graph, ndim: int, x: torch.Tensor, y: torch.Tensor, *, added: bool) -> tuple[Any, int]:
    module = PerEdge(graph, x.shape[1], y.shape[1], ndim, added=added)
    adam = torch.optim.Adam(module.parameters(), lr=1e-3)

    def step() -> None:
        adam.zero_grad()
        pinball(module(x), y).backward()
        adam.step()

    return step, sum(p.numel() for p in module.parameters())


def compare(ndim: int, shape: tuple[int, ...], repeats: int) -> Result:
    """Measure the three in turns, so that all run under the same load."""
    settings = NetworkSettings()
    blueprint = Blueprint(settings, FAMILY.plan(settings, Extent(ndim)), 3, 3, ndim, LEVELS, 0)
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for _ in range(2))
    graph = graph_of(blueprint, 0)
    candidates = {
        "per edge, added": _theirs(graph, ndim, x, y, added=True),
        "per edge, side by side": _theirs(graph, ndim, x, y, added=False),
        "ours": _ours(blueprint, x, y),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, (step, _) in candidates.items():
            began = time.process_time()
            step()
            if turn:
                times[name].append(time.process_time() - began)
    middle = {name: statistics.median(t) for name, t in times.items()}
    result = Result(f"Training step of one member, {ndim}D, batch {' x '.join(map(str, shape))}, one thread")
    for name, (_, weights) in candidates.items():
        result.add(
            {
                "execution": name,
                "weights": weights,
                "CPU-ms": middle[name] * 1e3,
                "least": min(times[name]) * 1e3,
                "times ours": middle[name] / middle["ours"],
            }
        )
    ratio = middle["per edge, added"] / middle["ours"]
    result.bars.append(Bar(f"1: {ndim}D step, per edge / ours", ratio, 5))
    return result


def run(tiny: bool) -> list[Result]:
    """Compare training steps in 2D and 3D."""
    torch.set_num_threads(1)
    if tiny:
        return [compare(2, (2, 3, 32, 32), 2), compare(3, (1, 3, 16, 16, 16), 1)]
    return [compare(2, (8, 3, 64, 64), 9), compare(3, (2, 3, 32, 32, 32), 5)]


if __name__ == "__main__":
    main("reference", run)
