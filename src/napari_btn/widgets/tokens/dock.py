"""The Tokens dock: clusters of pixels as labels that can be picked, merged, named and painted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.progress import Progress
from napari_btn.core.settings import TokenSettings
from napari_btn.core.tokens.naming import VIEWPOINTS
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.worker import load_ahead, sentence_of
from napari_btn.widgets.tokens.editor import BY_TOKEN, TokenEditor, channels_of
from napari_btn.widgets.tokens.table import poorly_covered
from napari_btn.widgets.tokens.view import TokensView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_btn.core.progress import Step
    from napari_btn.core.tokens.tokens import Tokens
    from napari_btn.model import Model

__all__ = ["TokensWidget"]

_LABELS = "OME-TIFF (*.ome.tif);;OME-Zarr (*.ome.zarr);;GeoJSON polygons, for QuPath (*.geojson)"
_NOTHING_YET = (
    "Nothing is denoised yet. Train in the Denoise dock, or apply loaded networks to a layer there."
)
_HELPS = 0.05  # a gain of coverage that is worth another calibration
_GONE = "The layer with the tokens was removed. Click Find tokens to make it again."


class TokensWidget(Dock):
    """Dock that paints an image's tokens as labels.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "napari_btn_tokens")
        self.view = TokensView(self.theme)
        self.show_view(self.view, scrolls=True)
        self.editor = TokenEditor(self.viewer, self.view, self.session, self.lifetime, self._show_state)
        self._apart: tuple[Tokens, int, Any] | None = None  # tokens, number, and its coverage if apart
        self._connect()
        self._on_session_tokens()

    def _connect(self) -> None:
        """Connect signals and handlers."""
        view = self.view
        view.find.clicked.connect(self._on_user_find)
        view.stop.clicked.connect(self._on_user_stop)
        view.slider.valueChanged.connect(view.n_tokens.setValue)
        view.n_tokens.valueChanged.connect(view.slider.setValue)
        view.n_tokens.valueChanged.connect(self._on_user_cut)
        view.suggest.clicked.connect(self._on_user_suggest)
        view.export.clicked.connect(self._on_user_export)
        self.lifetime.hear(self._on_viewer_layers, self.viewer.layers.events.removed)
        self.lifetime.hear(self._on_session_changed, self.session.changed)

    @property
    def busy(self) -> bool:
        """True while the dock searches or exports."""
        return bool(self.lifetime.runs)

    def _on_session_changed(self, slot: str) -> None:
        """Show the session's state."""
        if self.lifetime.ended or slot not in ("model", "source", "prediction", "tokens"):
            return
        if self.editor.shown is not None and self.session.tokens is self.editor.shown.tokens:
            return
        # a running search would return tokens of the last image or networks
        if slot != "tokens" and self.lifetime.drop("find"):
            self.view.progress.finish("The search was stopped: the image or the networks have changed.")
        self._on_session_tokens()

    def _on_session_tokens(self) -> None:
        """Show the session's tokens, or say that there are none."""
        tokens, source = self.session.tokens, self.session.source
        known = tokens is not None and source is not None
        self.editor.show(tokens if known else None, "" if source is None else source.name)
        if tokens is not None and known:
            self._offer(tokens)
            self.view.table.pick([])
        elif source is not None:
            self.view.progress.forget(f"{source.name} tokens")
        self.editor.describe()

    def _offer(self, tokens: Tokens) -> None:
        """Offer the possible numbers of tokens, and the channels."""
        for part in (self.view.slider, self.view.n_tokens):
            part.blockSignals(True)
            part.setRange(2, max(tokens.palette.size, 2))
            part.setValue(tokens.k)
            part.blockSignals(False)
        names = channels_of(tokens)
        self.editor.offer_groups()
        by = [BY_TOKEN, *VIEWPOINTS, *names]
        for combo, entries in ((self.view.colour_by, by), (self.view.channel, names)):
            if entries != [combo.itemText(i) for i in range(combo.count())]:
                combo.blockSignals(True)
                combo.clear()
                combo.addItems(entries)
                combo.blockSignals(False)

    def _show_state(self) -> None:
        """Enable the possible actions, and explain the others."""
        known = self.session.model is not None and self.session.source is not None
        there = self.editor.shown is not None and self.editor.shown.layer is not None
        gone = self.editor.shown is not None and not there
        self.view.hint.say(("info", _NOTHING_YET if not known else _GONE if gone else ""))
        self.view.find.setEnabled(known and not self.busy)
        self.view.stop.setEnabled("find" in self.lifetime.runs)
        for part in (self.view.refit, self.view.method):
            part.setEnabled(known and not self.busy)
        picked = self.view.table.picked()
        for part in (self.view.slider, self.view.n_tokens):
            part.setEnabled(not self.busy and (there or (known and self.editor.shown is None)))
        for part in (self.view.table, self.view.colour_by, self.view.channel, self.view.alone):
            part.setEnabled(there)
        self.view.export.setEnabled(there and not self.busy)
        self.view.merge.setEnabled(there and len(picked) > 1)
        self.view.rename.setEnabled(there and len(picked) == 1)
        for part in (self.view.viewpoint, self.view.group_name):
            part.setEnabled(there)
        self.view.assign.setEnabled(there and bool(picked))
        what = "" if self.editor.shown is None else self.editor.shown.undoable
        self.view.undo.setEnabled(there and bool(what))
        self.view.undo.setToolTip(f"Undo {what}." if what else "There is nothing to undo yet.")
        self._show_stability()

    def _show_stability(self) -> None:
        """Show how stable the tokens are."""
        tokens = None if self.editor.shown is None else self.editor.shown.tokens
        if tokens is None or self.editor.shown is None or self.editor.shown.layer is None:
            self.view.stability.say()
            self.view.suggest.hide()
            return
        best, value = tokens.suggested, tokens.stability
        self.view.suggest.setText(f"Use {best}")
        self.view.suggest.setAccessibleName(f"Use {best} tokens, the suggested number")
        self.view.suggest.setVisible(True)
        self.view.suggest.setEnabled(tokens.k != best and not self.busy)
        unlike = () if tokens.unlike is None else ((tokens.unlike.level, tokens.unlike.text),)
        if not np.isfinite(value):
            text = "It is unknown how well repeated clustering agrees on these tokens."
            self.view.stability.say(*unlike, ("info", text), *self._badly_covered())
            return
        text = f"Repeated clustering agrees to {value:.2f} on {tokens.k} tokens (1 is best). "
        if value >= 0.8:
            more = "That is stable." if tokens.k >= best else f"Stable up to {best}."
        else:
            more = (
                f"Use them as colours rather than as classes; stable up to {best}."
                if tokens.k > best
                else f"Suggested: {best}."
            )
        stable = ("amber" if value < 0.8 else "info", text + more)
        self.view.stability.say(*unlike, stable, *self._badly_covered())

    def _badly_covered(self) -> tuple[tuple[str, str], ...]:
        """Return a note on the token that is covered far less than asked for, and what helps."""
        model, shown = self.session.model, self.editor.shown
        if model is None or shown is None or model.settings.calibration.groups:
            return ()
        table, aim = shown.view.table, 1 - model.settings.alpha
        found = poorly_covered(table, aim)
        if not found:
            return ()
        value, number, channel = found[0]
        where = f" of {channel}" if len(channels_of(shown.view)) > 1 else ""
        others = len({number for _, number, _ in found}) - 1
        more = f" ({others} more {'is' if others == 1 else 'are'} marked ⚠ in the table)" if others else ""
        text = (
            f"In token {number}, {100 * value:.0f} % of the held-out pixels{where} lie inside their "
            f"intervals, not {100 * aim:.4g} %{more}. {self._what_helps(number, value, channel)}"
        )
        return (("amber", text),)

    def _what_helps(self, number: int, value: float, channel: str) -> str:
        """Return what is expected to help a token that is badly covered."""
        assert self.editor.shown is not None
        rest = "hold out more of this token, or train longer with more of it."
        found = self._covered_apart(number)
        if found is None:
            return f"It is worth too few held-out blocks to be calibrated on its own: {rest}"
        apart = float(found[channels_of(self.editor.shown.view).index(channel)])
        if apart - value < _HELPS:
            return (
                f"With a calibration of its own it would be {100 * apart:.0f} %, which hardly helps: {rest}"
            )
        return (
            "Calibrate tokens separately in the Denoise dock, then Recalibrate: about "
            f"{100 * apart:.0f} % are expected then."
        )

    def _covered_apart(self, number: int) -> Any:
        """Return the coverage (C,) of a token if it were calibrated separately; None if that is not possible."""
        model, source, shown = self.session.model, self.session.source, self.editor.shown
        assert model is not None
        assert source is not None
        assert shown is not None
        view, known = shown.view, self._apart
        if known is None or known[0] is not view or known[1] != number:
            try:
                image = engine.image_for(model, source.data, source.axes)
                found = engine.coverage_apart_of(model, image, view.labels, view.axes, number)
            except ValueError:  # a truth of another image than that of the calibration
                found = None
            self._apart = known = view, number, found
        return known[2]

    def _on_user_find(self) -> None:
        """Find the tokens of the session's source."""
        model, source, device = self.session.model, self.session.source, self.session.device
        if model is None or source is None or self.busy:
            return
        prediction, refit = self.session.prediction, self.view.refit.isChecked()
        wanted = TokenSettings(self.view.n_tokens.value(), method=self.view.method.currentData())
        axes = source.axes if prediction is None else prediction.axes

        def step() -> Step[tuple[Model, Tokens]]:
            """Find the tokens, and compute their table in the thread; a step."""
            load_ahead()
            made, found = yield from engine.tokens_steps(
                model,
                engine.image_for(model, source.data, axes),
                engine.compute_on(device, model.settings),
                wanted,
                refit=refit,
                valid="finite",
                prediction=prediction,
            )
            yield Progress(1, 1, "Computing the table")
            _ = found.table
            return made, found

        def done(result: tuple[Model, Tokens]) -> None:
            """Show the result."""
            self.view.progress.finish(
                f"Done: '{source.name} tokens' is a layer now. Pick rows, or click the image.",
                [f"{source.name} tokens"],
            )
            made, tokens = result
            self.session.amend(made, tokens=tokens)

        if self.editor.layer is None:
            self.editor.shown = None
        self._launch("find", "Finding tokens", step, done)

    def _launch(
        self, name: str, title: str, step: Callable[[], Step[Any]], done: Callable[[Any], None]
    ) -> None:
        """Run a step with its progress and errors shown."""
        self.view.status.say()
        self.view.progress.start(title)

        def finished(result: Any) -> None:
            """Pass the result on."""
            done(result)
            self._show_state()

        def failed(error: Exception) -> None:
            """Show the error."""
            self.view.progress.hide()
            self.view.status.say(("red", f"{title} failed. {sentence_of(error)}"))
            self._show_state()

        def stopped() -> None:
            """Show that the work was stopped."""
            self.view.progress.finish(f"{title} was stopped.")
            self._show_state()

        self.lifetime.start(
            name, step, finished, failed, title=title, on_progress=self.view.progress.tell, on_stopped=stopped
        )
        self._show_state()

    def _on_user_stop(self) -> None:
        """Stop the search."""
        if "find" in self.lifetime.runs:
            self.lifetime.runs["find"].stop()
            self.view.stop.setEnabled(False)
            self.view.progress.line.setText("Stopping…")

    def _on_user_cut(self, k: int) -> None:
        """Cut into another number of tokens: the image follows at once, the table when the slider rests."""
        self.editor.cut(k)

    def _on_user_suggest(self) -> None:
        """Use the suggested number of tokens."""
        if self.editor.shown is not None:
            self.view.n_tokens.setValue(self.editor.shown.tokens.suggested)

    def _on_user_export(self) -> None:
        """Ask where to write."""
        if self.editor.shown is None:
            return
        suggested = f"{self.editor.shown.source} tokens.ome.tif"
        path, _ = QFileDialog.getSaveFileName(self, "Export tokens", suggested, _LABELS)
        if path:
            # the dialog has already asked
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
        if self.editor.shown is None or self.busy:
            return
        self.editor.look()
        shown, tokens = self.editor.shown, self.editor.shown.tokens
        labels, table, names = shown.labels.copy(), shown.describe(), dict(shown.names)
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
            """Write the files; a step."""
            from napari_btn.io.labels import write_labels, write_outlines
            from napari_btn.workflow.tokens import edited_steps

            yield Progress(0, 1, "Writing")
            if str(path).lower().endswith(".geojson"):
                return (write_outlines(labels, table, path, overwrite=overwrite),)
            edited = yield from edited_steps(tokens, labels, names)
            recipe = {k: v for k, v in edited.provenance.items() if k == "recipe"}
            return write_labels(
                labels, table, path, axes=tokens.axes, pixel_size=size, unit=unit,
                provenance={**provenance, **recipe}, overwrite=overwrite,
            )  # fmt: skip

        def done(written: tuple[Path, ...]) -> None:
            """Show the written files."""
            self.view.progress.hide()
            image, *others = written
            beside = " and ".join(file.name for file in others)
            self.view.status.say(("info", f"Written: {image}{f', with {beside} beside it' * bool(others)}."))

        self._launch("export", "Exporting", step, done)

    def _on_viewer_layers(self, event: Any) -> None:
        """Show that the layer with the tokens was removed."""
        if self.lifetime.ended:
            return
        self.view.progress.forget(event.value.name)
        if self.editor.watches(event.value):
            self.editor.describe()
