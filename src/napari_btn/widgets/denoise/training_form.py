"""The form of the training settings: preset, members, coverage, device, and more folded.

Long because each control is made, read and set here, so that a new setting is added in one file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QSpinBox,
    QWidget,
)

from napari_btn.core.registry import FAMILIES
from napari_btn.core.settings import (
    PRESETS,
    UNITS,
    CalibrationSettings,
    EnsembleSettings,
    NetworkSettings,
    TrainSettings,
)
from napari_btn.core.supervision.registry import SUPERVISIONS
from napari_btn.widgets.denoise.learning import LearningFields
from napari_btn.widgets.shared.panels import PercentBox, field_help, fold, lay_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_btn.core.settings import SupervisionSettings
    from napari_btn.workflow.offers import Offer

__all__ = ["TrainingForm"]

_SPLITS = {
    "along the longest axis": ("auto", "longest"),
    "along Y": ("auto", "y"),
    "along X": ("auto", "x"),
    "along Z": ("auto", "z"),
    "checkerboard": ("checkerboard", "longest"),
    "in time": ("time", "longest"),
}
_SCORES = {
    "symmetric": "symmetric",
    "asymmetric": "asymmetric",
    "scaled by the width": "scaled",
}
_MIXED = "sms+unet"  # an example; other mixtures can be typed
_NEVER = 0.0  # targets are not saturated
_OWN_PATCH = 7  # below the smallest patch: the image decides
_PRESET_HELP = {
    "instant": "pretrained networks as they are",
    "quick": "a first look",
    "standard": "the usual choice",
    "thorough": "when the result counts",
}


def _length(train: TrainSettings) -> str:
    """Return how long a preset trains."""
    if train.warm_share == 0:
        return "no training steps"
    if train.warm_share == 1:
        return f"up to {train.steps} steps"
    return (
        f"{round(train.warm_share * train.steps)} steps for pretrained networks, up to {train.steps} for "
        "others"
    )


_STARTS = {"pretrained, if there are any": "pretrained", "random weights": "scratch"}
_HELP = {
    "supervision": "What the networks learn from.",
    "preset": "How long each network (member) trains: "
    + "; ".join(f"{name}: {_PRESET_HELP[name]} ({_length(PRESETS[name])})" for name in _PRESET_HELP)
    + ".",
    "members": "Number of networks (members); their predictions are averaged. More give a steadier result and take "
    "longer.",
    "coverage": "Share of pixels whose clean value (after learning from noisy images: noisy value) should lie in the "
    "interval from lower to upper, on average.",
    "device": "Where the networks train and denoise; auto uses the first NVIDIA card, else the CPU.",
    "start": "Start from networks that were pretrained on made-up images, if there are some for this family and "
    "number of channels; or from random weights. The estimate below says which of them is used.",
    "patch_px": "Side of a training patch in pixels, at most 32 in a volume. The lowest value chooses it from the "
    "image.",
    "network_channels": "Feature channels that each convolution (node) adds. More can represent more, and take longer.",
    "split": "Which part of a field is held out: one end of it along an axis; squares that alternate with those for "
    "training (checkerboard); or the late frames of a series (in time, which says nothing about other "
    "fields).",
    "unit": "What the coverage is aimed at. On average: each held-out block counts once if there are enough blocks, "
    "else all pixels are pooled. Of most new images: each image has the coverage, except for a share of "
    "them. With a stated probability: the average is at least this, except for a share of calibrations. "
    "'Fails in up to' sets these shares. With only one field, its blocks are used as images.",
    "delta": "Share of new images that may be covered less, or probability of a lower coverage.",
    "score": "How intervals are widened to reach the coverage: equally on both sides (symmetric), each side on its "
    "own (asymmetric), or in proportion to the predicted width (scaled).",
    "seed": "The same seed, data and settings give the same pixels on the same kind of CPU.",
}


class TrainingForm(QWidget):
    """Form of the settings of an ensemble, and of the device.

    Parameters
    ----------
    devices : mapping of str to str
        Names of the devices and what to show for each.
    reason : str
        Why the devices are these.
    """

    changed = Signal()
    """Emitted when a setting changes."""

    def __init__(self, devices: Mapping[str, str], reason: str) -> None:
        super().__init__()
        # ends with the form, unlike a single shot
        self._tell_later = QTimer(self)
        self._tell_later.setSingleShot(True)
        self._tell_later.timeout.connect(self.changed)
        self._devices = tuple(devices)
        self.supervision = self._named(QComboBox(), "supervision", _HELP["supervision"])
        self._ways = sorted(SUPERVISIONS.values(), key=lambda way: way.rank)
        self._list_ways([way.name for way in self._ways])
        self._chosen: str | None = None
        self.reason = QLabel()
        self.reason.setObjectName("supervision_reason")
        self.reason.setWordWrap(True)
        self.reason.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.reason.hide()
        self.preset = self._named(QComboBox(), "preset", _HELP["preset"])
        self.preset.addItems(list(PRESETS))
        self.preset.setCurrentText("standard")
        self.members = self._named(QSpinBox(), "members", _HELP["members"])
        self.members.setRange(1, 100)
        self.members.setValue(10)
        self.coverage = self._named(PercentBox(), "coverage", _HELP["coverage"])
        self.coverage.setValue(0.9)
        self.device = self._named(QComboBox(), "device", f"{_HELP['device']} {reason}".strip())
        self.device.addItems(list(devices.values()))
        self.device_reason = QLabel(reason)
        self.device_reason.setObjectName("device_reason")
        self.device_reason.setToolTip(reason)
        self.device_reason.setWordWrap(True)
        self.device_reason.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
        self.form = QFormLayout()
        self.form.setContentsMargins(0, 0, 0, 0)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.only_way = QLabel()
        self.only_way.setObjectName("only_way")
        way = QHBoxLayout()
        way.addWidget(self.supervision)
        way.addWidget(self.only_way)
        self.form.addRow("Learn from", way)
        self._show_way()
        self.form.addRow(self.reason)
        self.form.addRow("Preset", self.preset)
        pair = QHBoxLayout()
        pair.addWidget(self.members, 1)
        pair.addWidget(QLabel("Coverage"))
        pair.addWidget(self.coverage, 1)
        self.form.addRow("Members", pair)
        device = QHBoxLayout()
        device.addWidget(self.device)
        device.addWidget(self.device_reason, 1)
        self.form.addRow("Device", device)
        lay_out(self, self.form, self._advanced())
        self.supervision.currentIndexChanged.connect(self._on_user_way)
        for box in self.findChildren(QComboBox):
            box.currentIndexChanged.connect(lambda _: self.changed.emit())
        for number in (*self.findChildren(QSpinBox), *self.findChildren(QDoubleSpinBox)):
            number.valueChanged.connect(lambda _: self.changed.emit())
        self.family.editTextChanged.connect(lambda _: self.changed.emit())
        self.saturation.valueChanged.connect(lambda _: self.changed.emit())
        for choice in (self.bias_free, self.early_stopping):
            choice.toggled.connect(lambda _: self.changed.emit())
        self.has_minimum.toggled.connect(self._on_user_minimum)

    def _list_ways(self, names: Sequence[str]) -> None:
        """List ways to learn in the picker."""
        self.supervision.clear()
        for way in self._ways:
            if way.name in names:
                self.supervision.addItem(way.title, way.name)
                self.supervision.setItemData(
                    self.supervision.count() - 1, way.help, Qt.ItemDataRole.ToolTipRole
                )

    def show_offers(self, offers: Sequence[Offer]) -> None:
        """List the ways to learn that the images permit, and pick the best one unless the user has picked.

        Parameters
        ----------
        offers : sequence of Offer
            All ways; those that are permitted come first, from the best on.
        """
        before = self.supervision.currentData()
        possible = [offer for offer in offers if not offer.refused]
        names = [offer.name for offer in possible]
        if not names:
            # all stay listed, so that the sentence that refuses one can be read
            names = [offer.name for offer in offers]
        listed = [self.supervision.itemData(i) for i in range(self.supervision.count())]
        wanted = self._chosen if self._chosen in names else names[0]
        blocker = QSignalBlocker(self.supervision)
        if set(listed) != set(names):
            self._list_ways(names)
        self.supervision.setCurrentIndex(self.supervision.findData(wanted))
        del blocker
        self._show_way()
        why = next((offer.because for offer in possible if offer.name == wanted), "")
        self.reason.setText(why)
        self.reason.setVisible(bool(why) and (len(names) > 1 or wanted != "pair"))
        if wanted != before:
            # after the reading that found the offers
            self._tell_later.start()

    def _show_way(self) -> None:
        """Show the picker of ways to learn, or the only way as plain text."""
        several = self.supervision.count() > 1
        self.supervision.setVisible(several)
        self.only_way.setVisible(not several)
        self.only_way.setText(self.supervision.currentText())
        self.only_way.setToolTip(
            f"{self.supervision.currentData(Qt.ItemDataRole.ToolTipRole)} The images permit no other way."
        )

    def choose_way(self, name: str) -> None:
        """Pick a way to learn, as the user does: where images don't permit it yet, once they do.

        Parameters
        ----------
        name : str
            As in `SUPERVISIONS`.
        """
        self._chosen = name
        row = self.supervision.findData(name)
        if row >= 0:
            self.supervision.setCurrentIndex(row)

    def _on_user_way(self, row: int) -> None:
        """Keep the way that the user picked."""
        self._chosen = self.supervision.itemData(row)

    @staticmethod
    def _named(widget: Any, name: str, help_text: str) -> Any:
        """Return the widget with object name, tooltip and accessible name."""
        widget.setObjectName(name)
        widget.setToolTip(help_text)
        widget.setAccessibleName(name.replace("_", " ").capitalize())
        return widget

    def _number(
        self,
        name: str,
        help_text: str,
        least: float,
        most: float,
        *,
        start: float | None = None,
        lowest: str = "",
        decimals: int = 0,
    ) -> Any:
        """Return a box for a number, whole by default; `lowest` is the text of its least value."""
        box = self._named(QDoubleSpinBox() if decimals else QSpinBox(), name, help_text)
        box.setRange(least, most)
        box.setSpecialValueText(lowest)
        if decimals:
            box.setDecimals(decimals)
        if start is not None:
            box.setValue(start)
        return box

    def _choice(self, name: str, help_text: str, offered: Iterable[str]) -> Any:
        """Return a box for one of several texts."""
        box = self._named(QComboBox(), name, help_text)
        box.addItems(list(offered))
        return box

    def _make_training(self) -> None:
        """Make the settings of networks and their training."""
        train, network, first = field_help(TrainSettings), field_help(NetworkSettings), NetworkSettings()
        self.seed = self._number("seed", _HELP["seed"], 0, 2**31 - 1)
        help_text = f"{train['steps']} The lowest value takes the number of the preset."
        self.steps = self._number("steps", help_text, 0, 1_000_000, lowest="from the preset")
        self.start = self._choice("start", _HELP["start"], _STARTS)
        self.patch = self._number("patch_px", _HELP["patch_px"], _OWN_PATCH, 1024, lowest="from the image")
        others = (name for name in FAMILIES if name != first.family)
        self.family = self._choice("family", network["family"], [first.family, *others, _MIXED])
        self.family.setEditable(True)
        self.family.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.depth = self._number("depth", network["depth"], 1, 100, start=first.depth)
        self.channels = self._number(
            "network_channels", _HELP["network_channels"], 1, 64, start=first.channels
        )
        self.max_dilation = self._number(
            "max_dilation", network["max_dilation"], 1, 64, start=first.max_dilation
        )
        self.bias_free = self._named(QCheckBox(), "bias_free", network["bias_free"])
        self.early_stopping = self._named(QCheckBox(), "early_stopping", train["early_stopping"])
        self.saturation = self._number(
            "saturation", train["saturation"], _NEVER, 1e9, start=_NEVER, lowest="never", decimals=4
        )
        self.learning = LearningFields(self._named)

    def _make_calibration(self) -> None:
        """Make the settings of the split and the calibration."""
        calibration = field_help(CalibrationSettings)
        self.train_fraction = self._named(PercentBox(), "train_fraction", calibration["train_fraction"])
        self.train_fraction.setRange(0.1, 0.9)
        self.train_fraction.setSingleStep(0.05)
        self.train_fraction.setValue(CalibrationSettings().train_fraction)
        self.score = self._choice("score", _HELP["score"], _SCORES)
        self.split = self._choice("split", _HELP["split"], _SPLITS)
        self.unit = self._choice("unit", _HELP["unit"], UNITS)
        self.delta = self._named(PercentBox(), "delta", _HELP["delta"])
        self.delta.setRange(0.01, 0.5)
        self.delta.setValue(CalibrationSettings().delta)
        self.groups = self._number("groups", calibration["groups"], 0, 40, lowest="all together")
        self.has_minimum = self._named(QCheckBox(), "has_minimum", calibration["minimum"])
        self.minimum = self._number("minimum", calibration["minimum"], -1e9, 1e9, decimals=4)
        self.minimum.setEnabled(False)

    def _advanced(self) -> QWidget:
        """Return the settings that most people leave alone, folded."""
        self._make_training()
        self._make_calibration()
        inside = QWidget()
        form = QFormLayout(inside)
        form.setContentsMargins(0, 0, 0, 0)
        lowest = QHBoxLayout()
        lowest.addWidget(self.has_minimum)
        lowest.addWidget(self.minimum, 1)
        for label, field in (
            ("Seed", self.seed),
            ("Steps", self.steps),
            ("Start from", self.start),
            ("Patch (px)", self.patch),
            ("Network family", self.family),
            ("Depth", self.depth),
            ("Channels", self.channels),
            ("Largest dilation", self.max_dilation),
            ("Bias-free", self.bias_free),
            ("Early stopping", self.early_stopping),
            ("Training part", self.train_fraction),
            ("Split", self.split),
            ("Coverage holds", self.unit),
            ("Fails in up to", self.delta),
            ("Widen intervals", self.score),
            ("Calibrate tokens", self.groups),
            ("Lowest signal", lowest),
            *self.learning.rows,
        ):
            form.addRow(label, field)
        self._folded = form
        form.setRowVisible(self.delta, False)
        self.unit.currentIndexChanged.connect(self._on_user_unit)
        return fold("advanced", "Advanced", "Settings that most people leave alone.", inside)

    def show_learning(self, known: SupervisionSettings) -> None:
        """Show settings of learning without clean images.

        Parameters
        ----------
        known : SupervisionSettings
            Of a model, or those that fit the noise.
        """
        blocker = QSignalBlocker(self)
        self.learning.show_settings(known)
        del blocker
        self.changed.emit()

    def add_advanced(self, label: str, field: QWidget) -> None:
        """Add a control below the split, among the settings that most people leave alone.

        Parameters
        ----------
        label : str
            What stands before it.
        field : QWidget
            The control.
        """
        row, _ = self._folded.getWidgetPosition(self.unit)
        self._folded.insertRow(row, label, field)

    def add_below(self, part: QWidget) -> None:
        """Add a part below all settings that most people leave alone.

        Parameters
        ----------
        part : QWidget
            As wide as the form.
        """
        self._folded.addRow(part)

    def _on_user_unit(self, row: int) -> None:
        """Show the share of failures only for the promises that need one."""
        del row
        self._folded.setRowVisible(self.delta, UNITS[self.unit.currentText()] in ("image", "risk"))

    @property
    def alpha(self) -> float:
        """Miscoverage."""
        return round(1 - self.coverage.value(), 6)

    def _patch_px(self) -> int | None:
        """Return the side of a patch in pixels; None if the image decides."""
        return self.patch.value() if self.patch.value() > _OWN_PATCH else None

    @property
    def device_name(self) -> str:
        """Name of the device that is picked."""
        return self._devices[self.device.currentIndex()]

    def show_device(self, name: str) -> None:
        """Show a device, if this machine has it.

        Parameters
        ----------
        name : str
            As in `Session.device`.
        """
        if name in self._devices:
            self.device.setCurrentIndex(self._devices.index(name))

    def settings(self) -> EnsembleSettings:
        """Return the settings to train with.

        Raises
        ------
        ValueError
            If one is out of its range.
        """
        preset = self.preset.currentText().lower()
        early = self.early_stopping.isChecked()
        start = _STARTS.get(self.start.currentText(), self.start.currentText())
        top = self.saturation.value() if self.saturation.value() > _NEVER else None
        train = replace(
            PRESETS[preset], patch_px=self._patch_px(), early_stopping=early, start=start, saturation=top
        )
        if self.steps.value():
            train = replace(train, steps=self.steps.value(), warm_share=1.0)
        network = NetworkSettings(
            family=self.family.currentText().strip(),
            depth=self.depth.value(),
            channels=self.channels.value(),
            max_dilation=self.max_dilation.value(),
            bias_free=self.bias_free.isChecked(),
        )
        return EnsembleSettings(
            preset=preset,
            members=self.members.value(),
            alpha=self.alpha,
            supervision=self.supervision.currentData(),
            seed=self.seed.value(),
            network=network,
            train=train,
            calibration=self.calibration(),
            supervision_settings=self.learning.settings(),
        )

    def calibration(self) -> CalibrationSettings:
        """Return the settings of the calibration.

        Raises
        ------
        ValueError
            If a number is out of its range.
        """
        split, axis = _SPLITS[self.split.currentText()]
        return CalibrationSettings.from_dict(
            {
                "unit": UNITS[self.unit.currentText()],
                "score": _SCORES[self.score.currentText()],
                "train_fraction": self.train_fraction.value(),
                "split": split,
                "split_axis": axis,
                "minimum": self.minimum.value() if self.has_minimum.isChecked() else None,
                "delta": round(self.delta.value(), 6),
                "groups": self.groups.value(),
            }
        )

    def show_network(self, network: Any) -> None:
        """Show the settings of a network.

        Parameters
        ----------
        network : NetworkSettings or ScanRow
            With family, depth, channels and largest dilation.
        """
        self.family.setCurrentText(network.family)
        self.depth.setValue(network.depth)
        self.channels.setValue(network.channels)
        self.max_dilation.setValue(network.max_dilation)

    def show_settings(self, settings: EnsembleSettings) -> None:
        """Show the settings of a trained model.

        Parameters
        ----------
        settings : EnsembleSettings
            Of a model that was trained here, or loaded.
        """
        blocker = QSignalBlocker(self)
        self.preset.setCurrentText(settings.preset)
        self.members.setValue(settings.members)
        self.coverage.setValue(1 - settings.alpha)
        self.seed.setValue(settings.seed)
        preset_steps = PRESETS[settings.preset].steps
        self.steps.setValue(0 if settings.train.steps == preset_steps else settings.train.steps)
        named = {meant: shown for shown, meant in _STARTS.items()}
        shown = named.get(settings.train.start, settings.train.start)
        if self.start.findText(shown) < 0:
            # a file of pretrained members, named on the command line
            self.start.addItem(shown)
        self.start.setCurrentText(shown)
        self.patch.setValue(settings.train.patch_px or _OWN_PATCH)
        self.show_network(settings.network)
        self.bias_free.setChecked(settings.network.bias_free)
        self.early_stopping.setChecked(settings.train.early_stopping)
        self.saturation.setValue(_NEVER if settings.train.saturation is None else settings.train.saturation)
        known = settings.calibration
        self.train_fraction.setValue(known.train_fraction)
        for box, names, value in (
            (self.score, _SCORES, known.score),
            (self.unit, UNITS, known.unit),
            (self.split, _SPLITS, (known.split, "longest" if known.split != "auto" else known.split_axis)),
        ):
            box.setCurrentText(next(name for name, meant in names.items() if meant == value))
        self.delta.setValue(known.delta)
        self.groups.setValue(known.groups)
        row = self.supervision.findData(settings.supervision)
        if row >= 0:
            self.supervision.setCurrentIndex(row)
        self.show_learning(settings.supervision_settings)
        minimum = known.minimum
        self.has_minimum.setChecked(minimum is not None)
        self.minimum.setValue(minimum or 0.0)
        del blocker
        self.changed.emit()

    def _on_user_minimum(self, on: bool) -> None:
        """Use the lowest value, or ignore it."""
        self.minimum.setEnabled(on)
        self.changed.emit()
