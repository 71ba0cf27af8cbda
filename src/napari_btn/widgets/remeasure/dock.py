"""The Re-measure dock: proposes where to measure again, as rectangles that can be edited."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QFileDialog

from napari_btn.core.data.image import shown_unit
from napari_btn.core.progress import drain
from napari_btn.io.regions import STAGE_ENDINGS, write_regions
from napari_btn.widgets.remeasure.editor import RegionEditor
from napari_btn.widgets.remeasure.field import Field
from napari_btn.widgets.remeasure.loop import RegionLoop
from napari_btn.widgets.remeasure.measured import MeasuredPanel
from napari_btn.widgets.remeasure.request import NOTHING_YET, Request
from napari_btn.widgets.remeasure.stage_fit import StageFit
from napari_btn.widgets.remeasure.view import EXPORT_HELP, PROPOSE_HELP, UNMEASURED_HELP, RemeasureView
from napari_btn.widgets.shared.dock import Dock
from napari_btn.widgets.shared.worker import sentence_of
from napari_btn.workflow.propose import propose_steps
from napari_btn.workflow.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_btn.core.progress import Step
    from napari_btn.widgets.remeasure.rectangles import Measured
    from napari_btn.workflow.propose import Proposal

__all__ = ["RemeasureWidget"]

_AT_ONCE = 400_000
_SCORE_AFTER_MS = 250
_FILES = {
    "CSV table (*.csv)": ".csv",
    "GeoJSON, for QuPath (*.geojson)": ".geojson",
    "ImageJ ROIs (*.zip)": ".zip",
}


class RemeasureWidget(Dock):
    """Dock that proposes where to measure again.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Viewer to work in.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer, "napari_btn_remeasure")
        panel = MeasuredPanel(self.session, self.theme, self.viewer, self.lifetime)
        self.view = RemeasureView(self.theme, panel)
        self.show_view(self.view)
        self._field: Field | None = None
        self._score_later = self.lifetime.timer(_SCORE_AFTER_MS, self._rescore)
        self._measured: Measured = {}
        self._measured_of: tuple[str, tuple[int, ...]] | None = None
        measured = self._measured
        self.request = Request(self.view, self.session, self._show_state, self._take_choice)
        self.stage = StageFit(self.viewer, self.view.stage, self.session, self.lifetime)
        self.editor = RegionEditor(self, self.view, self.request, measured, self._score_later.start)
        self.loop = RegionLoop(self, self.view, self.editor, measured, self._show_state)
        self._connect()
        self.lifetime.at_end(self.view.area.leave)
        self._offer_layers()
        self._on_session_prediction()

    def _connect(self) -> None:
        """Connect signals and handlers."""
        self.view.propose.clicked.connect(self._on_user_propose)
        self.view.stop.clicked.connect(self._on_user_stop)
        self.view.export.clicked.connect(self._on_user_export)
        events = self.viewer.layers.events
        self.lifetime.hear(self._on_viewer_layers, events.inserted, events.removed)
        self.lifetime.hear(self._on_session_changed, self.session.changed)

    def _on_session_changed(self, slot: str) -> None:
        """Show the session's state."""
        if self.lifetime.ended:
            return
        if slot in ("model", "source", "prediction"):
            self._on_session_prediction()
        elif slot == "training":
            self.loop.show_state()
        elif slot == "threshold":
            self.request.take_threshold(self.session.threshold)
        elif slot == "regions" and not self.editor.own and self.session.regions is not None:
            self.editor.show_regions(self.session.regions)

    def _on_session_prediction(self) -> None:
        """Show the session's prediction, or say that there is none."""
        self._stop_runs()
        prediction, source = self.session.prediction, self.session.source
        self._field = None
        if prediction is not None and source is not None:
            self._field = Field(self.viewer, prediction, source)
            if (source.name, self._field.frame.shape) != self._measured_of:
                self._measured.clear()
                self._measured_of = (source.name, self._field.frame.shape)
        self.view.message.say()
        for part in (self.stage, self.editor, self.loop, self.request):
            part.show(self._field)
        self.view.hint.say(("info", "" if self._field is not None else NOTHING_YET))
        self._show_state()
        if self._field is None:
            self.editor.show_table((), ())
        elif self.editor.adopt():
            self._rescore()

    def _show_state(self) -> None:
        """Enable the possible actions, and explain the others."""
        known, busy, view = self._field is not None, self.loop.busy, self.view
        problem, regions = self.request.problem(), self.editor.regions
        view.problem.say(*((("red", problem),) if known and problem else ()))
        view.propose.setEnabled(not problem and not busy)
        view.propose.setToolTip(problem or ("The search is running." if busy else PROPOSE_HELP))
        view.stop.setVisible(busy)
        view.export.setEnabled(bool(regions))
        view.export.setToolTip(EXPORT_HELP if regions else "There are no regions yet; propose some first.")
        view.unmeasured.setEnabled(bool(self._measured))
        view.unmeasured.setToolTip(
            UNMEASURED_HELP if self._measured else "Nothing is measured again yet, so nothing is left out."
        )
        self.loop.show_state()
        self.request.show_state()

    def _take_choice(self) -> None:
        """Take the scores out of the table until they are made again."""
        self.editor.read()
        self._score_later.start()

    def _on_user_propose(self) -> None:
        """Search windows, and show them."""
        field = self._field
        if field is None or self.request.problem() or "propose" in self.lifetime.runs:
            return
        choice = self.request.choice(field.scene_in_sight())
        window, count = self.request.window(), self.view.count.value()
        known = self.editor.scored
        score = known.score if known is not None and known.choice == choice else None
        try:
            dose = self.request.dose()
            area = field.area(
                self.view.area.layer, self._measured if self.view.unmeasured.isChecked() else ()
            )
        except (ValueError, MemoryError) as error:
            self.view.message.say(("red", sentence_of(error)))
            return
        if choice.kind == "ambiguity" and self.session.threshold != self.request.asked:
            self.session.threshold = self.request.asked

        def done(proposal: Proposal) -> None:
            """Show the windows."""
            self.editor.keep_score(choice, proposal.score, area)
            self.editor.show_regions(proposal.regions, proposal.provenance)
            self.view.loop.plan(dwell=any(r.dwell is not None for r in proposal.regions))
            self._say_found(proposal, search)

        self.view.message.say()
        self._score_later.stop()
        search = Search(
            window,
            count,
            self.view.margin.value(),
            travel=self.view.travel.isChecked(),
            stage=self.stage.affine,
            until=self.request.until(),
            dose=dose,
            dwell=self.request.dwell() or 1.0,
            area=area,
        )
        self._start("propose", lambda: propose_steps(field.prediction, choice, search, score), done)

    def _say_found(self, proposal: Proposal, search: Search) -> None:
        """Report the expected wrong area, and if fewer windows were found than wanted."""
        assert self._field is not None
        found, expected = len(proposal.regions), proposal.expected
        notes: list[tuple[str, str]] = []
        if expected is not None:
            frame = self._field.frame
            text = expected.sentence(frame.pixel_size, shown_unit(frame.unit), search.until)
            notes.append(("info", text))
        enough = expected is not None and expected.more == 0
        if found == 0 and not enough:
            where = "No pixel" if search.area is None else "No pixel inside the area"
            text = f"{where} has a score, so nothing is worth measuring again. Choose another threshold or score."
            notes = [("amber", text)]
        elif found < search.count and not enough:
            rest = "image" if search.area is None else "area"
            text = f"{found} of {search.count} windows were found: no more fit, or the rest of the {rest} has no score."
            notes.append(("info", text))
        self.view.message.say(*notes)

    def _rescore(self) -> None:
        """Compute the score of the rectangles, unless it is known."""
        field, layer = self._field, self.editor.layer
        if self.lifetime.ended or field is None or layer is None or not layer.nshapes:
            return
        if not self.request.possible:
            return
        choice = self.request.choice(field.frame.scene_of(np.asarray(layer.data[0])))
        known = self.editor.scored
        if known is not None and known.choice == choice:
            return

        def done(proposal: Proposal) -> None:
            """Show the scores."""
            self.editor.keep_score(choice, proposal.score, None if known is None else known.area)
            self.editor.read()

        self._start("score", lambda: propose_steps(field.prediction, choice), done)

    def _start(self, name: str, step: Callable[[], Step[Proposal]], done: Callable[[Proposal], None]) -> None:
        """Run a step: at once if that is quick, otherwise in a thread."""
        assert self._field is not None
        self.lifetime.drop(name)
        searches = name == "propose"

        def failed(error: Exception) -> None:
            """Show the error."""
            self.view.message.say(("red", sentence_of(error)))
            over()

        def finished(proposal: Proposal) -> None:
            """Pass the result on."""
            done(proposal)
            over()

        def over() -> None:
            """Show that nothing runs."""
            if searches:
                self.view.progress.hide()
            self._show_state()

        if int(np.prod(self._field.prediction.median.shape)) <= _AT_ONCE:
            try:
                proposal = drain(step())
            except (ValueError, MemoryError) as error:
                failed(error)
                return
            finished(proposal)
            return
        if searches:
            self.view.progress.start("Proposing")
        self.lifetime.start(
            name,
            step,
            finished,
            failed,
            title="Proposing",
            on_progress=self.view.progress.tell if searches else None,
            on_stopped=over,
        )
        self._show_state()

    def _on_user_stop(self) -> None:
        """Stop the search, or the training."""
        for name in ("propose", "continue", "fuse"):
            if name in self.lifetime.runs:
                self.lifetime.runs[name].stop()

    def _stop_runs(self) -> None:
        """Stop all runs, whose results would be of another image."""
        for name in list(self.lifetime.runs):
            self.lifetime.drop(name)
        self._score_later.stop()
        self.editor.stop_reading()
        self.view.progress.hide()

    def _offer_layers(self) -> None:
        """Offer the layers that there are."""
        self.loop.offer_layers()
        self.view.area.refresh(list(self.viewer.layers))

    def _on_viewer_layers(self, event: Any) -> None:
        """Offer the layers that there are, and follow the one with the rectangles."""
        if self.lifetime.ended:
            return
        self._offer_layers()
        if self.editor.own or self._field is None:
            return
        if event.type == "removed" and event.value is self.editor.layer:
            self.editor.watch(None)
            self.editor.read()
            self._show_state()
        elif event.type == "inserted" and self.editor.layer is None and self.editor.adopt():
            self._rescore()

    def _on_user_export(self) -> None:
        """Ask where to."""
        name = "regions" if self._field is None else f"{self._field.source.name} regions"
        path, kind = QFileDialog.getSaveFileName(self, "Export regions", f"{name}.csv", ";;".join(_FILES))
        if path:
            target = Path(path)
            self.export_to(target if target.suffix else target.with_suffix(_FILES.get(kind, ".csv")))

    def export_to(self, path: str | Path) -> None:
        """Write the regions as they are now; a file that is there is replaced.

        Parameters
        ----------
        path : str or Path
            ``.csv``, ``.geojson``, or ``.zip`` or ``.roi`` for ImageJ; ``.csv`` is added where a suffix is missing.
            GeoJSON holds the recipe, which ``napari-btn run`` repeats.
        """
        self.editor.read()
        if not self.editor.regions:
            return
        target = Path(path) if Path(path).suffix else Path(path).with_suffix(".csv")
        record = self.editor.record(self.editor.regions)
        try:
            write_regions(
                self.editor.regions,
                target,
                stage=self.stage.affine,
                provenance={**record.pop("provenance"), **record},
                overwrite=True,
            )
        except (OSError, ValueError) as error:
            self.view.message.say(("red", f"Nothing was written. {sentence_of(error)}"))
            return
        n = len(self.editor.regions)
        kept = self.stage.affine is not None and target.suffix in STAGE_ENDINGS
        place = ", with stage coordinates" if kept else ""
        self.view.message.say(
            ("info", f"{n} {'region' if n == 1 else 'regions'} written to {target}{place}.")
        )
