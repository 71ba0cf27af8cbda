"""Ways of learning: found by name, and all of them, and no others, can be chosen."""

from __future__ import annotations

import pytest

from napari_btn.core.supervision.pair import PairSupervision
from napari_btn.core.supervision.registry import SUPERVISIONS, supervision_of


def test_a_way_is_found_by_its_name():
    assert isinstance(supervision_of("pair"), PairSupervision)
    for name, way in SUPERVISIONS.items():
        assert supervision_of(name) is way
        assert way.name == name
        assert way.title
        assert way.help.endswith(".")


def test_an_unknown_way_is_refused_with_those_that_there_are():
    with pytest.raises(
        ValueError, match=r"^supervision is 'magic'; it must be \"noise2noise\", .*\"thinning\"\.$"
    ):
        supervision_of("magic")


def test_the_command_line_offers_all_ways():
    from napari_btn.cli.training import train

    (option,) = [p for p in train.params if p.name == "supervision"]
    assert list(option.type.choices) == list(SUPERVISIONS)
    assert option.default in SUPERVISIONS
