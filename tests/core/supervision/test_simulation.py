"""Clean images with simulated noise: new in each draw, of the model's law."""

from __future__ import annotations

import numpy as np
import pytest

from napari_btn import NoiseModel
from napari_btn.core.data.pairs import Pair
from napari_btn.core.progress import drain
from napari_btn.core.settings import TrainSettings
from napari_btn.core.supervision.simulation import SIMULATION

CLEAN = np.kron(np.random.default_rng(0).gamma(3.0, 20.0, (2, 6, 7)), np.ones((1, 8, 8))).astype(np.float32)
CAMERA = NoiseModel(gain=2.0, offset=0.0, read_sd=3.0)


@pytest.mark.parametrize("axes", ["SYX", "TYX"])
def test_noise_has_the_law_of_the_model_and_is_drawn_again(axes):
    scenes = SIMULATION.scenes(Pair(None, CLEAN, axes=axes, noise_model=CAMERA))
    drain(scenes.check_steps())
    again = SIMULATION.scenes(Pair(None, CLEAN, axes=axes, noise_model=CAMERA))
    np.testing.assert_array_equal(scenes.read_noisy(1), again.read_noisy(1))
    other = SIMULATION.scenes(Pair(None, CLEAN, axes=axes, noise_model=CAMERA), seed=1)
    assert not np.array_equal(scenes.read_noisy(1), other.read_noisy(1))
    z = (scenes.read_noisy(0) - CLEAN[0]) / np.sqrt(CAMERA.variance(CLEAN[0]))
    # 2688 pixels: the standard error of the variance is 0.027
    assert z.var() == pytest.approx(1, abs=0.12)
    _, lesson = drain(
        SIMULATION.lesson_steps(scenes, scenes.whole(), TrainSettings(batch_size=1, patch_px=16))
    )
    box, rng = (slice(0, 16), slice(0, 16)), np.random.default_rng(0)
    given = (scenes.read_noisy(0, box), scenes.read_clean(0, box))
    drawn = [lesson.example(0, box, given, rng) for _ in range(2)]
    assert not np.array_equal(drawn[0][0], drawn[1][0])
    np.testing.assert_array_equal(drawn[0][1], given[1])


@pytest.mark.parametrize(
    ("pair", "came"),
    [
        (Pair(None, CLEAN, axes="SYX"), "no noise_model"),
        (Pair(None, None, axes="SYX", noise_model=CAMERA), "no clean image"),
        (Pair(CLEAN + 1, CLEAN, axes="SYX", noise_model=CAMERA), "noisy"),
    ],
)
def test_what_is_missing_is_said(pair, came):
    with pytest.raises(ValueError, match=f"and {came} came: call fit"):
        SIMULATION.scenes(pair)


def test_a_model_of_other_channels_is_refused():
    with pytest.raises(ValueError, match="1 channel, clean has 2"):
        SIMULATION.scenes(Pair(None, CLEAN, axes="CYX", noise_model=CAMERA))


def test_intervals_cover_the_simulated_population():
    covers, (note,) = SIMULATION.covers(None, ("0",))
    assert covers == "simulation"
    assert "slow scan of a real field" in note.text
