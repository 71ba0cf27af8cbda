"""Settings of an ensemble: checked when they are made, and the same after a bundle's JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_btn.core.settings import (
    LEVELS,
    PRESETS,
    AdaptSettings,
    CalibrationSettings,
    EnsembleSettings,
    NetworkSettings,
    TileSettings,
    TokenSettings,
    TrainSettings,
)

NETWORKS = st.builds(
    NetworkSettings,
    depth=st.integers(1, 3),
    dilations=st.sampled_from([None]),
    field_of_view=st.sampled_from(["fixed", "repeats"]),
    bias_free=st.booleans(),
) | st.just(NetworkSettings(depth=3, dilations=(1, 2, 4)))
SETTINGS = st.builds(
    EnsembleSettings,
    preset=st.sampled_from(list(PRESETS)),
    members=st.integers(1, 1000),
    alpha=st.floats(0.01, 0.99),
    levels=st.sampled_from([LEVELS, (0.5,), (0.1, 0.5, 0.9)]),
    seed=st.integers(0, 2**40),
    network=NETWORKS,
    train=st.builds(TrainSettings, steps=st.integers(1, 9), patch_px=st.none() | st.integers(4, 64)),
    calibration=st.builds(
        CalibrationSettings,
        unit=st.sampled_from(["auto", "block", "pixel", "image", "risk"]),
        block_px=st.none() | st.integers(2, 90),
        minimum=st.none() | st.floats(-1, 1),
        groups=st.sampled_from([0, 2, 40]),
    ),
    tiles=st.builds(
        TileSettings, tile_px=st.none() | st.integers(8, 99), halo_px=st.none() | st.integers(0, 9)
    ),
)


@given(SETTINGS)
def test_json_keeps_all_settings(settings):
    assert EnsembleSettings.from_dict(json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings


def test_the_dict_has_the_keys_that_bundles_have():
    assert list(EnsembleSettings().to_dict()) == [
        *("preset", "members", "alpha", "levels", "supervision", "seed"),
        *("network", "train", "calibration", "tiles", "supervision_settings"),
    ]


def test_a_dict_that_lacks_or_adds_a_key_is_no_settings():
    known = EnsembleSettings().to_dict()
    with pytest.raises(KeyError, match="network"):
        EnsembleSettings.from_dict({k: v for k, v in known.items() if k != "network"})
    with pytest.raises(TypeError, match="flavour"):
        EnsembleSettings.from_dict({**known, "flavour": "sweet"})
    with pytest.raises(ValueError, match="TileSettings has no field colour"):
        EnsembleSettings.from_dict({**known, "tiles": {"colour": 1}})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preset": "slow"}, 'preset is \'slow\'; it must be "instant", "quick", "standard" or "thorough"'),
        ({"members": 0}, "members is 0; it must be 1 to 1000"),
        ({"members": 1001}, "members is 1001"),
        ({"members": True}, "members is True"),
        ({"members": 2.0}, "members is 2.0"),
        ({"alpha": 0.0}, "alpha is 0.0; it must be between 0 and 1"),
        ({"alpha": 1}, "alpha is 1"),
        ({"levels": (0.1, 0.9)}, "with 0.5 among them"),
        ({"levels": (0.5, 0.1)}, "rising numbers"),
        ({"levels": (0.0, 0.5)}, "rising numbers"),
        ({"levels": (0.5, 1.0)}, "rising numbers"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"seed": 0.5}, "seed is 0.5"),
    ],
)
def test_what_can_not_be_is_one_sentence(change, words):
    with pytest.raises(ValueError, match=words):
        EnsembleSettings(**change)
    with pytest.raises(ValueError, match=words):
        replace(EnsembleSettings(), **change)


def test_numbers_of_numpy_become_plain_ones():
    made = EnsembleSettings(
        members=np.int64(3), alpha=np.float32(0.25), levels=np.array([0.25, 0.5]), seed=np.uint8(7)
    )
    assert made == EnsembleSettings(members=3, alpha=0.25, levels=(0.25, 0.5), seed=7)
    assert [type(v) for v in (made.members, made.alpha, made.seed, *made.levels)] == [
        int,
        float,
        int,
        float,
        float,
    ]


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        EnsembleSettings().alpha = 0.2


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (EnsembleSettings, {"alpha": "0.1"}),
        (EnsembleSettings, {"alpha": None}),
        (EnsembleSettings, {"levels": None}),
        (EnsembleSettings, {"levels": ("a",)}),
        (EnsembleSettings, {"seed": 1.5}),
        (NetworkSettings, {"depth": "3"}),
        (NetworkSettings, {"skip_power": float("nan")}),
        (TrainSettings, {"steps": 2.5}),
        (TrainSettings, {"batch_size": True}),
        (TokenSettings, {"n_tokens": 2.5}),
        (TileSettings, {"halo_px": "4"}),
        (NetworkSettings, {"family": None}),
        (NetworkSettings, {"dilations": 3}),
        (NetworkSettings, {"bias_free": "no"}),
        (TrainSettings, {"augment": "yes"}),
        (AdaptSettings, {"steps": "3"}),
        (EnsembleSettings, {"preset": ["quick"]}),
        (EnsembleSettings, {"network": "unet"}),
        (EnsembleSettings, {"train": NetworkSettings()}),
        (EnsembleSettings, {"calibration": {}}),
        (EnsembleSettings, {"tiles": 64}),
        (EnsembleSettings, {"supervision_settings": None}),
    ],
)
def test_a_value_of_another_type_is_one_sentence(kind, values):
    (name,) = values
    with pytest.raises(ValueError, match=rf"^{name} is .*; it must be .*\.$"):
        kind(**values)
    assert TileSettings(halo_px=np.int64(4)).halo_px == 4
    assert CalibrationSettings(minimum=np.float32(0)).minimum == 0


@pytest.mark.parametrize(
    ("came", "plain"),
    [
        (
            NetworkSettings(depth=np.int64(2), dilations=np.array([1, 2]), bias_free=np.True_),
            NetworkSettings(depth=2, dilations=(1, 2), bias_free=True),
        ),
        (
            TrainSettings(steps=np.int32(5), learning_rate=np.float32(0.25), start=Path("own.btn")),
            TrainSettings(steps=5, learning_rate=0.25, start="own.btn"),
        ),
        (TileSettings(tile_px=np.uint16(64)), TileSettings(tile_px=64)),
    ],
)
def test_numbers_of_numpy_and_paths_can_be_stored(came, plain):
    assert came == plain
    assert json.dumps(came.to_dict()) == json.dumps(plain.to_dict())
