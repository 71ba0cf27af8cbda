"""Fingerprints: a bundle knows an image again in any order of axes, and no other image."""

from __future__ import annotations

import numpy as np

from napari_btn.core.data.fingerprint import fingerprint_steps
from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import drain


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def prints(scenes):
    return drain(fingerprint_steps(scenes.noisy))


def test_a_fingerprint_knows_an_image_in_any_dress():
    values = noise(0, 2, 3, 20, 25)
    scenes = Pair(values, values + 1, "SCYX").scenes
    known = prints(scenes)
    assert len(set(known.values())) == 2
    turned = values.transpose(3, 1, 0, 2).astype(np.float64)
    assert prints(Pair(turned, turned + 1, "XCSY").scenes) == known
    alone = Pair(values[1], values[1] + 1, "CYX").scenes
    assert prints(alone)["0"] == known["1"]
    values[0, 2, 19, 24] += 1e-3
    changed = prints(Pair(values, values + 1, "SCYX").scenes)
    assert changed["0"] != known["0"]
    assert changed["1"] == known["1"]
