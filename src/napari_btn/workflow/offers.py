"""The ways to learn that images permit, from the best to the least."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_btn.core.supervision.registry import SUPERVISIONS
from napari_btn.workflow.inputs import scenes_of, sound_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_btn.core.data.pairs import Pair
    from napari_btn.core.progress import Step
    from napari_btn.core.settings import EnsembleSettings, SupervisionSettings

__all__ = ["Offer", "offers_steps", "simulation_offers"]

_NEEDS_NOISY = "It learns from a noisy image. Pick one."


@dataclass(frozen=True)
class Offer:
    """One way to learn, and whether the images permit it.

    Parameters
    ----------
    name, title : str
        Names in settings and in the dock.
    because : str
        Why it fits the images, in one sentence.
    refused : str
        Why the images don't permit it; empty if they do.
    doubts : tuple of str
        What to know before it is used.
    settings : SupervisionSettings
        Settings that fit the measured noise.
    """

    name: str
    title: str
    because: str
    refused: str
    doubts: tuple[str, ...]
    settings: SupervisionSettings


def offers_steps(pair: Pair, settings: EnsembleSettings, *, values: bool = True) -> Step[tuple[Offer, ...]]:
    """Return all ways to learn, those that the images permit first; a step.

    Parameters
    ----------
    pair : Pair
        Images of the user; ``clean`` may be None.
    settings : EnsembleSettings
    values : bool
        True to read values; False looks at axes and shapes alone.
    """
    pair, _ = sound_pair(pair)
    found = []
    known = settings.supervision_settings
    for way in sorted(SUPERVISIONS.values(), key=lambda w: w.rank):
        refused, wanted = "", known
        doubts: tuple[str, ...] = ()
        try:
            scenes = scenes_of(pair, replace(settings, supervision=way.name))
            if values:
                notes = yield from way.check_steps(scenes, known)
                doubts = tuple(note.text for note in notes)
                wanted = way.fitting(scenes, known)
        except ValueError as error:
            refused = str(error)
        found.append(Offer(way.name, way.title, way.because, refused, doubts, wanted))
    return tuple(sorted(found, key=lambda offer: bool(offer.refused)))


def simulation_offers(
    settings: SupervisionSettings, offers: Sequence[Offer] | None, *, permitted: bool
) -> tuple[Offer, ...]:
    """Return the ways to learn, those that simulate noise among them where clean images are there.

    Parameters
    ----------
    settings : SupervisionSettings
    offers : sequence of Offer, optional
        Those of a noisy and a clean image, or None if there is no noisy one.
    permitted : bool
        True if noise may be simulated: there are clean images and a noise model, or clean images alone.
    """
    ways = sorted(SUPERVISIONS.values(), key=lambda w: w.rank)
    if offers is None:
        offers = [Offer(way.name, way.title, way.because, _NEEDS_NOISY, (), settings) for way in ways]
    simulated = {way.name for way in ways if way.simulated}
    found = [
        replace(offer, refused="") if permitted and offer.name in simulated else offer for offer in offers
    ]
    return tuple(sorted(found, key=lambda offer: bool(offer.refused)))
