"""Finished members of a training, kept on disk as they come, so that no interrupt loses them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_btn.cli.files import save_bundle
from napari_btn.cli.options import members_text
from napari_btn.cli.terminal import Interrupted, deferred, drain, say, sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_btn.core.networks.family import Member
    from napari_btn.core.progress import Progress, Step
    from napari_btn.denoiser import Denoiser

__all__ = ["Keeper"]


class Keeper:
    """The file of the finished members of one training.

    Parameters
    ----------
    denoiser : Denoiser
        The one that is trained.
    path : Path
        File for finished members.
    data : dict
        Description of the training data, JSON-ready.
    members : sequence of Member
        Those in the file already.
    """

    def __init__(
        self, denoiser: Denoiser, path: Path, data: dict[str, Any], members: Sequence[Member] = ()
    ) -> None:
        self.denoiser, self.path, self.data = denoiser, path, data
        self.known = self.saved = tuple(members)
        self._warned = False

    def train(self, step: Step[Denoiser], output: Path, files: Mapping[str, str]) -> Denoiser:
        """Run the training and save its bundle; if it ends early, keep the finished members.

        ``files`` are those of the inputs, for the recipe.
        """
        try:
            trained = drain(step, watch=self.watch)
        except Interrupted as stop:
            self.known = stop.checkpoint or self.known
            if not self.known:
                text = "Interrupted before the first member was finished; nothing was kept."
                raise Interrupted(text, cause=stop) from None
            raise Interrupted(f"Interrupted; {self.keep()}", cause=stop) from None
        except Exception:
            if self.known:
                say(f"Note: {self.keep()}")
            raise
        with deferred():
            save_bundle(trained.name_inputs(**files), output)
            self.path.unlink(missing_ok=True)
        return trained

    def watch(self, progress: Progress) -> None:
        """Save the finished members whenever one is added; report a full disk once and go on."""
        members = progress.checkpoint
        if not members or len(members) <= len(self.known):
            return
        self.known = tuple(members)
        try:
            self._save(self.path)
        except OSError as error:
            if not self._warned:
                self._warned = True
                say(f"Warning: finished members can't be stored during the training: {sentence(error)}")

    def keep(self) -> str:
        """Save the members where there is room, and return the sentence on where they are."""
        count = f"{members_text(len(self.known))} of {self.denoiser.members} kept in"
        try:
            if len(self.saved) < len(self.known) or not self.path.exists():
                self._save(self.path)
        except OSError as error:
            elsewhere = Path(tempfile.mkdtemp(prefix="napari-btn-")) / self.path.name
            self._save(elsewhere)
            return (
                f"{self.path} can't be written ({sentence(error)}) {count} {elsewhere}; move it to "
                f"{self.path}, and the same call with --resume goes on from there."
            )
        return f"{count} {self.path}. The same call with --resume goes on from there."

    def _save(self, path: Path) -> None:
        """Save the members; an interrupt waits until they are whole on disk."""
        with deferred():
            self.denoiser.save_partial(path, self.known, self.data)
            self.saved = self.known
