"""The noise inspector of the Denoise dock: the measured noise, and the training that it permits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QWidget

from napari_btn.widgets.denoise.charts import CorrelationChart, TransferChart
from napari_btn.widgets.denoise.noise_source import simulating_way
from napari_btn.widgets.shared import engine
from napari_btn.widgets.shared.layers import KEY
from napari_btn.widgets.shared.notes import NoteLabel
from napari_btn.widgets.shared.overlays import our_layer
from napari_btn.widgets.shared.panels import lay_out, push_button

if TYPE_CHECKING:
    from napari_btn.core.data.noise_findings import NoiseFindings
    from napari_btn.widgets.denoise.view import DenoiseView
    from napari_btn.widgets.denoise.work import Work
    from napari_btn.widgets.shared.layers import LayerImage
    from napari_btn.widgets.shared.notes import Theme

__all__ = ["NoiseInspector", "NoisePanel"]

_HELP = (
    "Measure the noise of the noisy image: from repeats, from consecutive frames, or from flat patches of one image. "
    "Takes seconds and trains nothing."
)
_DEFECT_HELP = "Add a layer that marks the dead (1), hot (2) and saturated (3) pixels."
_USE_HELP = "Learn from clean images, or simulations, of similar samples, with this noise added to them."
_PICK_CLEAN = (
    "The noise model is ready. Under Clean, pick clean images, or simulations, of similar samples. The "
    "networks learn from them with this noise added, and can then denoise the noisy image."
)
_NAMES = {"noise2noise": "Noise2Noise", "thinning": "Thinning", "noise2void": "Noise2Void"}
_COLOURS = {None: "transparent", 0: "transparent", 1: "#0072b2", 2: "#d55e00", 3: "#f0e442"}


class NoisePanel(QWidget):
    """A button that measures the noise, and its findings.

    Parameters
    ----------
    theme : Theme
        Colours of the viewer.
    """

    asked = Signal()
    """Emitted when the user asks to measure the noise."""
    defects_wanted = Signal()
    """Emitted when the user asks for the layer of defects."""
    simulation_wanted = Signal()
    """Emitted when the user asks to draw the measured noise on clean images."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.findings: NoiseFindings[Any] | None = None
        self.source: LayerImage | None = None
        self.inspect = push_button("noise_inspect", "Inspect noise", _HELP)
        self.defects = push_button("noise_defects", "Show defects", _DEFECT_HELP)
        self.use = push_button("noise_use", "Use for simulation", _USE_HELP)
        self.channel = QComboBox()
        self.channel.setObjectName("noise_channel")
        self.channel.setAccessibleName("Channel whose noise is shown")
        self.channel.setToolTip("Channel whose noise the charts show.")
        self.sentence = NoteLabel(theme, "noise_sentence")
        self.numbers = QLabel()
        self.numbers.setObjectName("noise_numbers")
        self.numbers.setWordWrap(True)
        self.numbers.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.numbers.setToolTip(
            "Fit of the noise variance against the mean. Gain: value per count. Offset: value without light. "
            "Read-out noise: standard deviation without light. Fano factor: variance divided by mean, in "
            "counts; 1 for plain counts."
        )
        self.transfer = TransferChart(theme.colours())
        self.correlation = CorrelationChart(theme.colours())
        self.notes = NoteLabel(theme, "noise_notes")
        row = QHBoxLayout()
        row.addWidget(self.inspect, 1)
        row.addWidget(self.channel)
        row.addWidget(self.defects)
        charts = (self.transfer, self.correlation)
        self._layout = lay_out(
            self, row, self.sentence, self.numbers, *charts, self.notes, self.use, above_px=4
        )
        self.inspect.clicked.connect(self.asked.emit)
        self.defects.clicked.connect(self.defects_wanted.emit)
        self.use.clicked.connect(self.simulation_wanted.emit)
        self.channel.currentIndexChanged.connect(self._show_channel)
        self.clear()

    def add_repair(
        self, repair: QWidget, dark: QWidget, flat: QWidget, defects: QWidget, saturation: QWidget
    ) -> None:
        """Add the controls that say what the detector does to a training, below the findings.

        Parameters
        ----------
        repair, dark, flat : QWidget
            Repair or not, and the frames that are divided out.
        defects : QWidget
            Mask of broken pixels.
        saturation : QWidget
            Largest value of the detector.
        """
        row = QHBoxLayout()
        for part, stretch in ((repair, 0), (dark, 1), (flat, 1)):
            row.addWidget(part, stretch)
        self._layout.addLayout(row)
        for label, part in (("Broken pixels", defects), ("Targets saturate at", saturation)):
            below = QHBoxLayout()
            below.addWidget(QLabel(label))
            below.addWidget(part, 1)
            self._layout.addLayout(below)

    def clear(self) -> None:
        """Forget the findings."""
        self.findings = self.source = None
        self.sentence.say()
        self.notes.say()
        for part in (
            self.numbers,
            self.transfer,
            self.correlation,
            self.channel,
            self.defects,
            self.use,
        ):
            part.hide()

    def set_busy(self, reason: str) -> None:
        """Allow a measurement, or show why it is impossible.

        Parameters
        ----------
        reason : str
            Empty where it is possible.
        """
        self.inspect.setEnabled(not reason)
        self.inspect.setToolTip(reason or _HELP)

    def show_findings(self, findings: NoiseFindings[Any], source: LayerImage) -> None:
        """Show findings.

        Parameters
        ----------
        findings : NoiseFindings
        source : LayerImage
            Image that they are of.
        """
        self.findings, self.source = findings, source
        sentence = findings.sentence
        self.sentence.say(("info", f"{sentence[0].upper()}{sentence[1:]}."))
        names = findings.channel_names
        self.channel.blockSignals(True)  # filled, not picked
        self.channel.clear()
        self.channel.addItems(list(names))
        self.channel.blockSignals(False)
        self.channel.setVisible(len(names) > 1)
        refused = [
            ("amber", f"{_NAMES[name]} is not allowed: {one.reason}")
            for name, one in findings.permits.items()
            if not one.allowed
        ]
        self.notes.say(*(("info", note) for note in findings.notes), *refused)
        for part in (self.numbers, self.transfer, self.correlation, self.use):
            part.show()
        self.defects.setVisible(bool(findings.defects.kinds.any()))
        self._show_channel()

    def _show_channel(self) -> None:
        """Show the numbers and charts of the picked channel."""
        if self.findings is None:
            return
        model, c = self.findings.model, max(self.channel.currentIndex(), 0)
        parts = [
            f"gain {model.gain[c]:.3g} ± {model.gain_se[c]:.1g}",
            f"offset {model.offset[c]:.3g}",
            f"read-out noise {model.read_sd[c]:.3g}",
            f"Fano factor {model.fano[c]:.3g} ± {model.fano_se[c]:.1g}",
        ]
        self.numbers.setText(", ".join(parts))
        mean, variance = model.curve[c]
        line = np.linspace(0 if mean.min() >= 0 else mean.min(), mean.max(), 60)
        self.transfer.show_curve(mean, variance, line, model.variance(line, c))
        self.correlation.show_correlation(self.findings.frames.space_axes, model.correlation[c])

    def redraw(self) -> None:
        """Draw in the colours of the theme as they are now."""
        self.sentence.redraw()
        self.notes.redraw()
        for chart in (self.transfer, self.correlation):
            chart.set_colours(self._theme.colours())


class NoiseInspector:
    """Measures the noise of the picked noisy image, and shows the findings.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layer of defects.
    view : DenoiseView
        Form with the panel and the picked image.
    work : Work
        Runs the measurement.
    """

    def __init__(self, viewer: Any, view: DenoiseView, work: Work) -> None:
        self._viewer, self._view, self._work = viewer, view, work
        view.noise.asked.connect(self._on_user_inspects)
        view.noise.defects_wanted.connect(self._on_user_wants_defects)
        view.noise.simulation_wanted.connect(self._on_user_wants_simulation)

    def _on_user_inspects(self) -> None:
        """Measure the noise of the picked noisy image."""
        source = self._view.pair.noisy_image()
        if source is None or self._work.run is not None:
            return
        names = source.channel_names or ()
        self._work.launch(
            "Measuring noise",
            lambda: engine.find_noise_steps(source.data, source.axes, channel_names=names),
            partial(self._show, source),
        )

    def _show(self, source: LayerImage, findings: NoiseFindings[Any]) -> None:
        """Show the findings about the noise."""
        self._view.noise.show_findings(findings, source)
        self._view.progress.finish(f"Measured the noise of '{source.name}'.")

    def _on_user_wants_defects(self) -> None:
        """Add the layer of defects."""
        panel = self._view.noise
        if panel.findings is not None and panel.source is not None:
            _show_defects(self._viewer, panel.findings, panel.source)

    def _on_user_wants_simulation(self) -> None:
        """Draw the measured noise on clean images, as soon as some are picked."""
        panel, pair = self._view.noise, self._view.pair
        if panel.findings is None or panel.source is None:
            return
        self._view.form.choose_way(simulating_way())
        pair.noise_model.offer(f"measured on {panel.source.name}", panel.findings.model)
        if not pair.clean.layers:
            self._view.message.say(("info", _PICK_CLEAN))


def _show_defects(viewer: Any, findings: NoiseFindings[Any], source: LayerImage) -> Any:
    """Show broken and saturated pixels as a Labels layer: 1 dead, 2 hot, 3 saturated."""
    from napari.utils.colormaps import DirectLabelColormap

    seen = findings.frames
    axes = "".join(a for a in source.axes if a in seen.space_axes)
    kinds = seen.defects.kinds.max(0).transpose([seen.space_axes.index(a) for a in axes])
    start = [seen.part[seen.space_axes.index(a)].start or 0 for a in axes]
    place = source.placement.onto(axes).cropped(start).to_layer()
    name = f"{source.name} defects"
    record = {"map": "defects", "axes": axes, "source": source.name}
    old = our_layer(viewer, name, "defects")
    if old is not None and old.ndim == kinds.ndim:
        old.data = kinds
        return old
    colours = DirectLabelColormap(color_dict=_COLOURS)
    return viewer.add_labels(kinds, name=name, colormap=colours, metadata={KEY: record}, **place)
