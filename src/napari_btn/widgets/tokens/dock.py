"""The Tokens dock: what the networks tell apart, as labels that can be picked, merged, named and painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import Progress
from napari_btn.core.tokens.naming import VIEWPOINTS
from napari_btn.widgets.shared.worker import load_ahead, run_step, sentence_of
from napari_btn.widgets.tokens.editor import BY_TOKEN, TokenEditor, channels_of
from napari_btn.widgets.tokens.layer import TokenLayer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_btn.core.progress import Step
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.widgets.shared.worker import Timing

__all__ = ["TokensWidget"]

_LABELS = "OME-TIFF (*.ome.tif);;OME-Zarr (*.ome.zarr);;GeoJSON polygons, for QuPath (*.geojson)"
_NOTHING_YET = (
    "Nothing is denoised yet. Train in the Denoise dock, or apply loaded networks to a layer there."
)
_GONE = "The layer with the tokens was removed; Find tokens makes it again."


class TokensWidget(TokenEditor):
    """Dock that paints an image's tokens as labels.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._connect()
        self._on_tokens()

    def _connect(self) -> None:
        """Join signals and handlers."""
        self.find.clicked.connect(self._on_user_find)
        self.stop.clicked.connect(self._on_user_stop)
        self.slider.valueChanged.connect(self.n_tokens.setValue)
        self.n_tokens.valueChanged.connect(self.slider.setValue)
        self.n_tokens.valueChanged.connect(self._on_user_cut)
        self.suggest.clicked.connect(self._on_user_suggest)
        self.table.itemSelectionChanged.connect(self._on_user_pick)
        self.table.itemChanged.connect(self._on_user_name)
        self.merge.clicked.connect(self._on_user_merge)
        self.rename.clicked.connect(self._on_user_rename)
        self.assign.clicked.connect(self._on_user_group)
        self.viewpoint.currentIndexChanged.connect(self._offer_groups)
        self.undo.clicked.connect(self._on_user_undo)
        self.export.clicked.connect(self._on_user_export)
        self.alone.toggled.connect(self._recolour)
        self.colour_by.currentIndexChanged.connect(self._on_user_colours)
        self.channel.currentIndexChanged.connect(self._draw_chart)
        self._describe_later.timeout.connect(self._describe)
        self._look_later.timeout.connect(self._look)
        self._hear(self._on_layers_changed, self.viewer.layers.events.removed)
        self.viewer.mouse_drag_callbacks.append(self._on_mouse)
        self._hear(self._on_session_changed, self.session.changed)

    # ---------------------------------------------------------------- the session

    @property
    def busy(self) -> bool:
        """Whether the dock searches or exports."""
        return bool(self._runs)

    def _on_session_changed(self, slot: str) -> None:
        """Show what the session knows now."""
        if self._left or slot not in ("denoiser", "source", "prediction", "tokens"):
            return
        if self.shown is not None and self.session.tokens is self.shown.tokens:
            return
        # what is being found belongs to an image or networks that are no longer looked at
        if slot != "tokens" and self._drop("find"):
            self.progress.finish("The search was stopped: the image or the networks are others now.")
        self._on_tokens()

    def _on_tokens(self) -> None:
        """Start anew with the session's tokens, or without any."""
        tokens, source = self.session.tokens, self.session.source
        self._watch(None)
        self.shown = None
        if tokens is not None and source is not None:
            with self._quiet():
                self.shown = TokenLayer(self.viewer, tokens, source.name)
            self._watch(self.shown.layer)
            self._offer(tokens)
            self.table.pick([])
        else:
            self.table.clear_table()
            self.chart.hide()
        self._describe()

    def _offer(self, tokens: Tokens) -> None:
        """Offer the numbers of tokens and the channels that there are."""
        for part in (self.slider, self.n_tokens):
            part.blockSignals(True)
            part.setRange(2, max(tokens.palette.size, 2))
            part.setValue(tokens.k)
            part.blockSignals(False)
        names = channels_of(tokens)
        self._offer_groups()
        by = [BY_TOKEN, *VIEWPOINTS, *names]
        for combo, entries in ((self.colour_by, by), (self.channel, names)):
            if entries != [combo.itemText(i) for i in range(combo.count())]:
                combo.blockSignals(True)
                combo.clear()
                combo.addItems(entries)
                combo.blockSignals(False)

    def _show_state(self) -> None:
        """Enable what can be done now, and say what can't and why."""
        known = self.session.denoiser is not None and self.session.source is not None
        there = self.shown is not None and self.shown.layer is not None
        gone = self.shown is not None and not there
        self.hint.say(("info", _NOTHING_YET if not known else _GONE if gone else ""))
        self.find.setEnabled(known and not self.busy)
        self.stop.setEnabled("find" in self._runs)
        for part in (self.refit, self.method):
            part.setEnabled(known and not self.busy)
        picked = self.table.picked()
        for part in (self.slider, self.n_tokens):
            part.setEnabled(not self.busy and (there or (known and self.shown is None)))
        for part in (self.table, self.colour_by, self.channel, self.alone):
            part.setEnabled(there)
        self.export.setEnabled(there and not self.busy)
        self.merge.setEnabled(there and len(picked) > 1)
        self.rename.setEnabled(there and len(picked) == 1)
        for part in (self.viewpoint, self.group_name):
            part.setEnabled(there)
        self.assign.setEnabled(there and bool(picked))
        what = "" if self.shown is None else self.shown.undoable
        self.undo.setEnabled(there and bool(what))
        self.undo.setToolTip(f"Take back {what}." if what else "Nothing to take back yet.")
        self._show_stability()

    def _show_stability(self) -> None:
        """Say how far the tokens can be trusted."""
        tokens = None if self.shown is None else self.shown.tokens
        if tokens is None or self.shown is None or self.shown.layer is None:
            self.stability.say()
            self.suggest.hide()
            return
        best, value = tokens.suggested, tokens.stability
        self.suggest.setText(f"Use {best}")
        self.suggest.setAccessibleName(f"Use {best} tokens, the suggested number")
        self.suggest.setVisible(True)
        self.suggest.setEnabled(tokens.k != best and not self.busy)
        if not np.isfinite(value):
            self.stability.say(("info", "How well seeds agree is unknown for this palette."))
            return
        text = f"Seeds agree to {value:.2f} on {tokens.k} tokens (1 is best). "
        if value >= 0.8:
            more = "That is stable." if tokens.k >= best else f"Stable up to {best}."
        else:
            more = (
                f"More a palette than classes; stable up to {best}."
                if tokens.k > best
                else f"Suggested: {best}."
            )
        self.stability.say(("amber" if value < 0.8 else "info", text + more))

    # ---------------------------------------------------------------- finding

    def _on_user_find(self) -> None:
        """Find the tokens of the session's source."""
        denoiser, source = self.session.denoiser, self.session.source
        if denoiser is None or source is None or self.busy:
            return
        prediction, k, refit = self.session.prediction, self.n_tokens.value(), self.refit.isChecked()
        method = self.method.currentData()
        axes = source.axes if prediction is None else prediction.axes

        def step() -> Step[Tokens]:
            """Find them, and sum them up while the window lives."""
            load_ahead()
            found = yield from denoiser.tokens_steps(
                source.data, k, axes, refit=refit, method=method, prediction=prediction, valid="finite"
            )
            yield Progress(1, 1, "Summing up")
            _ = found.table
            return found

        def done(tokens: Tokens) -> None:
            """Show them."""
            self._runs.pop("find", None)
            self.progress.finish(
                f"Done: '{source.name} tokens' is a layer now. Pick rows, or click the image."
            )
            self.session.tokens = tokens

        self.shown = None if self.shown is None or self.shown.layer is None else self.shown
        self._launch("find", "Finding tokens", step, done)

    def _launch(
        self, name: str, title: str, step: Callable[[], Step[Any]], done: Callable[[Any], None]
    ) -> None:
        """Run a step with its progress shown; what goes wrong is said in the dock."""
        self.status.say()
        self.progress.start(title)

        def tell(progress: Progress, timing: Timing) -> None:
            """Show progress."""
            self.progress.tell(progress, timing)

        def failed(error: Exception) -> None:
            """Say what went wrong."""
            self._runs.pop(name, None)
            self.progress.hide()
            self.status.say(("red", f"{title} failed. {sentence_of(error)}"))

        def stopped() -> None:
            """Say that it was stopped."""
            self._runs.pop(name, None)
            self.progress.finish(f"{title} was stopped.")

        self._runs[name] = run_step(
            step, title=f"napari-btn: {title}", on_progress=tell, on_result=done, on_error=failed,
            on_stopped=stopped, on_finished=self._show_state,
        )  # fmt: skip
        self._show_state()

    def _on_user_stop(self) -> None:
        """End the search."""
        if "find" in self._runs:
            self._runs["find"].stop()
            self.stop.setEnabled(False)
            self.progress.line.setText("Stopping…")

    # ---------------------------------------------------------------- the cut

    def _on_user_cut(self, k: int) -> None:
        """Another number of tokens: the image follows at once, the table when the slider rests."""
        shown = self.shown
        if shown is None or shown.layer is None:
            return
        self._look()
        edited = shown.edited
        with self._quiet():
            shown.cut(k)
        self.session.tokens = shown.tokens
        # a token that was picked may not be there in another cut
        self.table.pick([])
        if edited:
            self.status.say(("info", "The palette was cut anew. Undo brings merged and painted labels back."))
        self._describe_later.start()

    def _on_user_suggest(self) -> None:
        """Take the suggested number."""
        if self.shown is not None:
            self.n_tokens.setValue(self.shown.tokens.suggested)

    # ---------------------------------------------------------------- export

    def _on_user_export(self) -> None:
        """Ask where to write."""
        if self.shown is None:
            return
        suggested = f"{self.shown.source} tokens.ome.tif"
        path, _ = QFileDialog.getSaveFileName(self, "Export tokens", suggested, _LABELS)
        if path:
            # the dialog has asked already
            self.export_to(path, overwrite=True)

    def export_to(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write labels, table and provenance, in a thread.

        Parameters
        ----------
        path : str or Path
            Ends in .ome.tif or .ome.zarr; .csv and .json take its name. Or in .geojson, for polygons.
        overwrite : bool
            Replace what is there.
        """
        if self.shown is None or self.busy:
            return
        self._look()
        shown, tokens = self.shown, self.shown.tokens
        labels, table = shown.labels.copy(), shown.describe()
        source = self.session.source
        size = tokens.pixel_size if source is None or source.pixel_size is None else source.pixel_size
        unit = tokens.unit if source is None or source.pixel_size is None else source.unit
        provenance = {
            **tokens.provenance,
            "tokens": {
                **tokens.provenance.get("tokens", {}),
                "n_tokens": tokens.k,
                "stability": tokens.stability,
                "edited": shown.edited,
                "names": {str(n): name for n, name in shown.names.items()},
                "groups": {v: {str(n): g for n, g in known.items()} for v, known in shown.groups.items()},
            },
        }

        def step() -> Step[tuple[Path, ...]]:
            """Write, as a step."""
            from napari_btn.io.labels import write_labels, write_outlines

            yield Progress(0, 1, "Writing")
            if str(path).lower().endswith(".geojson"):
                return (write_outlines(labels, table, path, overwrite=overwrite),)
            return write_labels(
                labels, table, path, axes=tokens.axes, pixel_size=size, unit=unit, provenance=provenance,
                overwrite=overwrite,
            )  # fmt: skip

        def done(written: tuple[Path, ...]) -> None:
            """Say where."""
            self._runs.pop("export", None)
            self.progress.hide()
            image, *others = written
            beside = " and ".join(file.name for file in others)
            self.status.say(("info", f"Written: {image}{f', with {beside} beside it' * bool(others)}."))

        self._launch("export", "Exporting", step, done)

    # ---------------------------------------------------------------- what happens around the dock

    def _on_layers_changed(self, event: Any = None) -> None:
        """A layer went."""
        if not self._left and self.shown is not None and getattr(event, "value", None) is self._watched:
            self._describe()

    def _let_go(self) -> None:
        """Let go of the layer, and of the mouse."""
        self._watch(None)
        if self._on_mouse in self.viewer.mouse_drag_callbacks:
            self.viewer.mouse_drag_callbacks.remove(self._on_mouse)
