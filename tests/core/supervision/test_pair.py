"""Supervised training on pairs: what an interval covers, and what members learn from."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import drain
from napari_btn.core.settings import TrainSettings
from napari_btn.core.supervision.pair import PairSupervision

PATCHES = {"batch_size": 4, "patch_px": 16}


@pytest.mark.parametrize(
    ("shares", "word", "warned"),
    [
        (None, "clean", False),
        ([0.0, 0.0], "clean", False),
        ([0.001, 0.009], "clean", False),
        ([0.04, 0.01], "long exposure", False),
        ([0.02, 0.36], "long exposure", True),
    ],
)
def test_the_targets_own_noise_says_what_is_covered(shares, word, warned):
    noise = None if shares is None else np.array(shares)
    covers, notes = PairSupervision().covers(noise, ("Si", "Fe"))
    assert covers == word
    assert [note.level for note in notes] == ["amber"] * warned
    if warned:
        assert "in Fe its noise makes 36 % of the residual variance" in notes[0].text


def scenes_of(*shape):
    rng = np.random.default_rng(0)
    clean = np.repeat(rng.gamma(2, 2, shape[1]), shape[0]).reshape(shape[::-1]).T
    return Pair(rng.poisson(clean).astype(np.float32), clean.astype(np.float32)).scenes


@pytest.mark.parametrize(("shape", "redrawn"), [((40, 56), True), ((400, 560), False)])
def test_a_small_image_gets_its_noise_drawn_again_and_fewer_steps(shape, redrawn):
    scenes, train = scenes_of(*shape), TrainSettings(steps=1000, **PATCHES)
    boxes = scenes.whole()
    settings, lesson = drain(PairSupervision().lesson_steps(scenes, boxes, train, boxes[:1]))
    assert (lesson.redraw is not None) == redrawn
    assert (settings.steps < train.steps) == redrawn
    assert (lesson.scenes, lesson.boxes, lesson.validation) == (scenes, tuple(boxes), tuple(boxes[:1]))
    rng = np.random.default_rng(1)
    given, _ = lesson.draw(6, 16, rng)
    assert np.isin(given, scenes.noisy.read(0)).all()


def test_a_pair_without_a_clean_image_is_refused():
    with pytest.raises(ValueError, match="clean"):
        PairSupervision().scenes(Pair(np.ones((8, 9), np.float32), None))
