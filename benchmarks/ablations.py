"""Ablations: the effect of each part of the training recipe, on three seeds.

Each variant is trained at every learning rate on the same patches. The rate is chosen on a validation
scene; the score is that of a separate test scene.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measure import close_pool, own_cpu, spent
from benchmarks.table import Result, main
from napari_btn import Denoiser, samples
from napari_btn.core.evaluation.metrics import correlation, crps_from_quantiles
from napari_btn.core.networks.family import Blueprint, Extent, build, member_rng
from napari_btn.core.networks.sms.family import FAMILY
from napari_btn.core.networks.sms.trunk import SparseMixedScale
from napari_btn.core.settings import NetworkSettings, TrainSettings
from napari_btn.core.supervision.patches import Lesson
from napari_btn.core.training.optimiser import Optimiser, one_cycle
from napari_btn.core.training.tasks import scaling_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_btn.core.data.pairs import Pair

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
RATES = (1e-2, 2e-2)


@dataclass(frozen=True)
class Variant:
    """A change of the recipe."""

    name: str
    adam: bool = False
    norm: bool = False
    padding: str = "constant"
    scaled_start: bool = True
    clip: float | None = None
    averaged: bool = False


VARIANTS = (
    Variant("the recipe"),
    Variant("Adam instead of Muon", adam=True),
    Variant("layer norm of each pixel's channels", norm=True),
    Variant("reflected borders", padding="reflect"),
    Variant("He's initialisation", scaled_start=False),
    Variant("gradients clipped to 1", clip=1.0),
    Variant("weights averaged over the last quarter", averaged=True),
)


class _Trunk(SparseMixedScale):
    """A trunk with another normalisation or padding."""

    norm = False
    padding = "constant"

    def features(self, x: torch.Tensor, keep: Any = None) -> Iterator[torch.Tensor]:
        assert keep is None
        pad = x.new_zeros(x.shape[0], self.input_pad, *x.shape[2:])
        chunks = [torch.cat([x, pad], 1)]
        graph = self.graphs[0]
        for t, (weight, bias) in enumerate(self.weights()):
            read = torch.cat([chunks[s] for s in graph.sources[t]], 1)
            d = graph.dilations[t]
            kernel = weight[0, :, : read.shape[1]]
            made = F.conv2d(F.pad(read, (d,) * 4, self.padding), kernel, bias[0], 1, 0, d)
            if self.norm:
                made = F.layer_norm(made.movedim(1, -1), made.shape[1:2]).movedim(-1, 1)
            feature = F.relu(made)
            chunks += feature.split(self.chunk, 1)
            yield feature


class _Adam(Optimiser):
    """An optimiser with Adam also for the kernels of the trunk."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module, {})
        # another prefix, by which the optimiser chooses Adam instead of Muon
        self.named = [(name.replace("trunk.", "own.", 1), p) for name, p in self.named]


def _member(
    variant: Variant,
    blueprint: Blueprint,
    member: int,
    scaling: dict[str, NDArray[np.float32]],
    x: torch.Tensor,
    y: torch.Tensor,
) -> Any:
    module = build(blueprint, [(member, 0)])
    for name, value in scaling.items():
        getattr(module, name).copy_(torch.from_numpy(value))
    if variant.norm or variant.padding != "constant":
        module.trunk.__class__ = _Trunk
        module.trunk.norm, module.trunk.padding = variant.norm, variant.padding
    rng = member_rng(blueprint.seed, member, use=2)
    module.initialise(x, y, rng=rng)
    if not variant.scaled_start:
        with torch.no_grad():
            for weight, _ in module.trunk.weights():
                fan = math.prod(weight.shape[2:])
                drawn = rng.standard_normal(tuple(weight.shape)) * math.sqrt(2 / fan)
                weight.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return module


def _trained(
    variant: Variant, blueprint: Blueprint, settings: TrainSettings, pair: Pair, member: int, draw: int
) -> Any:
    """Train a member with the batches of member ``draw``."""
    scenes = pair.scenes
    boxes = scenes.whole()
    lesson = Lesson(scenes, tuple(boxes))

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = member_rng(blueprint.seed, draw, use=16 + step)
        x, y = lesson.draw(*settings.patches, rng, augment=True)
        return torch.from_numpy(x), torch.from_numpy(y)

    scaling = scaling_of(scenes, boxes, LEVELS, seed=blueprint.seed).as_weights()
    module = _member(variant, blueprint, member, scaling, *batch(0))
    optimiser = _Adam(module) if variant.adam else Optimiser(module, {})
    by_autograd = isinstance(module.trunk, _Trunk)
    mean: dict[str, torch.Tensor] = {}
    late = settings.steps - settings.steps // 4
    for step in range(settings.steps):
        x, y = batch(step)
        module.loss(x.requires_grad_(by_autograd), y).backward()
        if variant.clip is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), variant.clip)
        optimiser.step(one_cycle(step, settings), step)
        if variant.averaged and step >= late:
            for name, p in module.named_parameters():
                part = (p.detach() - mean.setdefault(name, torch.zeros_like(p))) / (step - late + 1)
                mean[name] += part
    if mean:
        module.load_state_dict({**module.state_dict(), **mean})
    return module


@torch.inference_mode()
def _quantiles(module: Any, pair: Pair) -> NDArray[np.float32]:
    """Return the quantiles (C, L, pixels) of a whole image."""
    made: NDArray[np.float32] = (
        module(torch.from_numpy(np.asarray(pair.noisy))[None])[0, 0].flatten(2).numpy()
    )
    return made


def _score(quantiles: NDArray[np.float32], pair: Pair) -> tuple[float, float]:
    """Return error (CRPS over the SD of the target) and correlation of the median, means over channels."""
    target = np.asarray(pair.clean).reshape(len(quantiles), -1)
    error = crps_from_quantiles(target, quantiles.swapaxes(0, 1), LEVELS, axis=1)
    median = quantiles[:, LEVELS.index(0.5)]
    return float(np.mean(error / target.std(1))), float(np.mean(correlation(target, median, axis=1)))


def run(tiny: bool) -> list[Result]:
    """Train every variant at every rate with every seed, and members with their own or shared batches."""
    torch.set_num_threads(1)
    steps, seeds, size = (4, (0,), (48, 64)) if tiny else (300, (0, 1, 2), (192, 320))
    network = NetworkSettings()
    parts = Result(f"Parts of the recipe: element maps, {len(seeds)} seeds, {steps} steps, one member")
    for variant in VARIANTS:
        rows = []
        for seed in seeds:
            train, check, test = (samples.edx(seed=seed + k, size=size) for k in (0, 100, 200))
            blueprint = Blueprint(network, FAMILY.plan(network, Extent(2)), 3, 3, 2, LEVELS, seed)
            tuned: list[tuple[float, Any, float, float]] = []
            for rate in RATES:
                settings = TrainSettings(
                    steps=steps, learning_rate=rate, batch_size=4, patch_px=32 if tiny else 64
                )
                made: list[Any] = []
                cost = own_cpu(
                    lambda s=settings, b=blueprint, p=train, v=variant, m=made: m.append(
                        _trained(v, b, s, p, 0, 0)
                    ),
                    1,
                )
                tuned.append((_score(_quantiles(made[0], check), check)[0], made[0], rate, cost))
            _, module, rate, cost = min(tuned, key=lambda t: t[0])
            rows.append((*_score(_quantiles(module, test), test), rate, cost))
        table = np.array(rows)
        parts.add(
            {
                "variant": variant.name,
                "error": float(table[:, 0].mean()),
                "errors": " ".join(f"{v:.4f}" for v in table[:, 0]),
                "correlation": float(table[:, 1].mean()),
                "rates": " ".join(f"{v:g}" for v in table[:, 2]),
                "CPU-s": float(table[:, 3].mean()),
            }
        )
    return [
        parts,
        _diversity(seeds, size, TrainSettings(steps=steps, batch_size=4, patch_px=32 if tiny else 64)),
        _stopping(seeds, 2 * steps, (64, 96) if tiny else (128, 192)),
    ]


def _diversity(seeds: tuple[int, ...], size: tuple[int, int], settings: TrainSettings) -> Result:
    """Measure the correlation of errors of members, and the gain of their mean, with own and shared batches."""
    result = Result(f"How members stay different: three members, {len(seeds)} seeds")
    network = NetworkSettings()
    for name, own in (("own batches", True), ("shared batches", False)):
        rows = []
        for seed in seeds:
            train, test = samples.edx(seed=seed, size=size), samples.edx(seed=seed + 200, size=size)
            blueprint = Blueprint(network, FAMILY.plan(network, Extent(2)), 3, 3, 2, LEVELS, seed)
            members = [
                _quantiles(_trained(VARIANTS[0], blueprint, settings, train, k, k if own else 0), test)
                for k in range(3)
            ]
            target = np.asarray(test.clean).reshape(3, -1)
            errors = np.stack([q[:, LEVELS.index(0.5)] - target for q in members])
            alike = np.mean([np.corrcoef(errors[:, c])[np.triu_indices(3, 1)].mean() for c in range(3)])
            single = np.mean([_score(q, test)[0] for q in members])
            rows.append((alike, single, _score(np.mean(members, 0), test)[0]))
        alike, single, together = np.mean(rows, 0)
        result.add({"members": name, "correlation of errors": float(alike), "error of one": float(single),
                    "error of three": float(together), "gain": float(1 - together / single)})  # fmt: skip
    return result


def _stopping(seeds: tuple[int, ...], steps: int, size: tuple[int, int]) -> Result:
    """Measure the effect of early stopping on small images, with and without the guard against overfitting."""
    result = Result(f"Early stopping: element maps of {size[0]} x {size[1]} px, {steps} steps at most")
    guards = {"guard": TrainSettings().passes, "no guard": 1e6}
    for (name, passes), stopping in itertools.product(guards.items(), (False, True)):
        rows = []
        for seed in seeds:
            train, test = (samples.edx(seed=seed + k, size=size) for k in (0, 200))
            settings = TrainSettings(steps=steps, passes=passes, early_stopping=stopping)
            denoiser = Denoiser("standard", members=1, levels=LEVELS, seed=seed, train=settings)
            with spent() as cost:
                denoiser.fit(train.noisy, train.clean, axes=train.axes)
            made = denoiser.predict(test.noisy, axes=test.axes, quantiles=True).quantiles
            quantiles = np.asarray(made).swapaxes(0, 1).reshape(3, len(LEVELS), -1)
            rows.append((*_score(quantiles, test), len(denoiser.losses[0]), cost.cpu))
        error, alike, taken, cpu = np.mean(rows, 0)
        result.add({"passes": name, "stopped": "early" if stopping else "at the end", "error": float(error),
                    "errors": " ".join(f"{row[0]:.4f}" for row in rows), "correlation": float(alike),
                    "steps": float(taken), "CPU-s": float(cpu)})  # fmt: skip
    close_pool()
    return result


if __name__ == "__main__":
    main("ablations", run)
