"""A U-Net ensemble on blobs, with our heads, loss, calibration and CPU budget.

The U-Net has three resolutions with two 3 x 3 convolutions each, no normalisation, and is trained by Adam
with one cycle. Its learning rate is chosen from three by short runs on validation scenes. Each member
is trained for as many CPU-seconds as a member of the preset; the choice of the rate is not counted.
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import peers
from benchmarks.blobs import ALPHA, RANGE, TEST_SEED
from benchmarks.table import OUT, Result, main
from napari_btn import samples
from napari_btn.core.calibration.cases import HeldOut
from napari_btn.core.calibration.conformal import calibrate
from napari_btn.core.networks.pinball import noncrossing_pinball, quantiles_from_raw
from napari_btn.core.settings import CalibrationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MIDDLE = LEVELS.index(0.5)
RATES = (1e-3, 3e-3, 1e-2)
BUDGETS = {"quick": 15.0, "standard": 60.0}  # CPU-seconds per member, if ours haven't been measured


def _pair(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.Conv2d(n_out, n_out, 3, padding=1), nn.ReLU()
    )


class UNet(nn.Module):
    """A U-Net from one channel (B, 1, Y, X) to raw outputs (B, L, Y, X); sides must be divisible by four."""

    def __init__(self, seed: int = 0, width: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        a, b, c = width, 2 * width, 4 * width
        self.down = nn.ModuleList([_pair(1, a), _pair(a, b), _pair(b, c)])
        self.up = nn.ModuleList([_pair(b + c, b), _pair(a + b, a)])
        self.hidden, self.out = nn.Conv2d(a, 32, 1), nn.Conv2d(32, len(LEVELS), 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.out.weight.mul_(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return raw outputs."""
        fine = self.down[0](x.contiguous(memory_format=torch.channels_last))
        middle = self.down[1](F.max_pool2d(fine, 2))
        coarse = self.down[2](F.max_pool2d(middle, 2))
        x = self.up[0](torch.cat([middle, F.interpolate(coarse, scale_factor=2)], 1))
        x = self.up[1](torch.cat([fine, F.interpolate(x, scale_factor=2)], 1))
        return self.out(F.relu(self.hidden(x)))


class Trainer:
    """A trainer of U-Nets on scenes (n, Y, X)."""

    def __init__(self, noisy: NDArray[np.float32], clean: NDArray[np.float32]) -> None:
        self.noisy, self.clean = noisy, clean
        self.loc, self.scale = float(noisy.mean()), float(noisy.std())
        self.y_loc, self.y_scale = float(clean.mean()), float(clean.std())

    def batch(self, rng: np.random.Generator, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw scenes, flipped and turned."""
        chosen = rng.integers(len(self.noisy), size=size)
        turns, flips = rng.integers(4, size=size), rng.integers(2, size=size)
        made = []
        for images in (self.noisy, self.clean):
            turned = [np.rot90(images[i], t) for i, t in zip(chosen, turns, strict=True)]
            made.append(np.stack([t[:, ::-1] if f else t for t, f in zip(turned, flips, strict=True)]))
        x = torch.from_numpy((made[0] - self.loc) / self.scale)
        return x[:, None].float(), torch.from_numpy((made[1] - self.y_loc) / self.y_scale).float()

    def loss(self, net: UNet, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean pinball loss."""
        raw = net(x).movedim(1, 0).flatten(1)
        return noncrossing_pinball(raw[None], y.flatten()[None], LEVELS, MIDDLE)

    def train(self, seed: int, rate: float, seconds: float) -> tuple[UNet, float]:
        """Train for some CPU-seconds; return the network and the seconds used."""
        net = UNet(seed)
        adam = torch.optim.Adam(net.parameters(), lr=rate)
        rng = np.random.default_rng(seed)
        began = time.process_time()
        while (share := (time.process_time() - began) / seconds) < 1:
            up = 0.5 - 0.5 * math.cos(math.pi * min(share / 0.15, 1))
            down = 0.5 + 0.5 * math.cos(math.pi * max(share - 0.15, 0) / 0.85)
            for group in adam.param_groups:
                group["lr"] = rate * max(up * down, 1e-3)
            adam.zero_grad()
            self.loss(net, *self.batch(rng)).backward()
            adam.step()
        return net, time.process_time() - began

    def choose_rate(self, seconds: float) -> float:
        """Return the learning rate whose short run is best on a fifth of the scenes."""
        cut = len(self.noisy) * 4 // 5
        part, rest = Trainer(self.noisy[:cut], self.clean[:cut]), Trainer(self.noisy[cut:], self.clean[cut:])
        for name in ("loc", "scale", "y_loc", "y_scale"):
            setattr(rest, name, getattr(part, name))
        x, y = rest.batch(np.random.default_rng(0), 64)
        found = {}
        for rate in RATES:
            net, _ = part.train(99, rate, seconds)
            with torch.inference_mode():
                found[rate] = float(rest.loss(net, x, y))
        return min(found, key=lambda r: found[r])

    def quantiles(self, nets: list[UNet], image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the quantiles (L, Y, X) of the ensemble for one image."""
        x = torch.from_numpy((image - self.loc) / self.scale).float()[None, None]
        with torch.inference_mode():
            made = [quantiles_from_raw(net(x)[:, None], MIDDLE)[0, 0].numpy() for net in nets]
        return np.mean(made, 0) * self.y_scale + self.y_loc


def _budget(preset: str) -> float:
    """Return the CPU-seconds of a member of ours, from the last run of the blobs benchmark."""
    path = OUT / "blobs.json"
    if path.exists():
        for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
            for row in result["rows"]:
                if row["method"] == f"ours, {preset}":
                    return float(row["CPU-s a member"])
    return BUDGETS[preset]


def run(tiny: bool) -> list[Result]:
    """Train U-Net ensembles with the budgets of our presets."""
    torch.set_num_threads(1)
    n_train, n_held_out, n_test, members = (8, 12, 4, 1) if tiny else (100, 50, 200, 5)
    pair = samples.blobs(seed=0, n=n_train + n_held_out)
    test = samples.blobs(seed=TEST_SEED, n=n_test)
    trainer = Trainer(pair.noisy[:n_train], pair.clean[:n_train])
    weights = sum(p.numel() for p in UNet().parameters())
    result = Result(
        f"Blobs: an ensemble of {members} U-Nets of {weights} weights, with our heads, loss and rule"
    )
    for preset in ("quick",) if tiny else ("quick", "standard"):
        budget = 0.5 if tiny else _budget(preset)
        rate = trainer.choose_rate(0.2 if tiny else min(budget, 15))
        trained = [trainer.train(seed, rate, budget) for seed in range(members)]
        nets = [net for net, _ in trained]
        held = np.stack([trainer.quantiles(nets, image) for image in pair.noisy[n_train:]], 1)
        block = np.repeat(np.arange(n_held_out), held[0, 0].size)
        scores = HeldOut(
            held.reshape(len(LEVELS), 1, -1).astype(np.float32),
            pair.clean[n_train:].reshape(1, -1),
            block,
            LEVELS,
        )
        rule = calibrate(scores, alpha=ALPHA, settings=CalibrationSettings())
        made = [rule.interval(trainer.quantiles(nets, image)[:, None]) for image in test.noisy]
        lower, median, upper = ([m[i][0] for m in made] for i in range(3))
        row = peers.scores(test.clean, median, lower, upper, data_range=RANGE, alpha=ALPHA)
        cost = sum(seconds for _, seconds in trained) / members
        result.add({"method": f"U-Net, budget of {preset}", **row, "CPU-s a member": cost, "rate": rate})
    return [result]


if __name__ == "__main__":
    main("unet", run)
