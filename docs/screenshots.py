"""Drive the real window through samples and write the screenshots of the documentation.

Run it with ``make screenshots``, or name parts: ``python docs/screenshots.py no_clean``. Without a display it starts
a virtual one, of the size of a small laptop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1366, 768
LARGEST = 250_000
MEMBERS = 3
FRAMES: list[tuple[str, Any]] = []  # captions and pictures of the walk
WAYS = (
    ("counts", "thinning"),
    ("repeats", "noise2noise"),
    ("movie", "noise2void"),
    ("stripes", "noise2void"),
    ("counts", "simulation"),
)
FRAME_WIDTH, FRAME_MS = 1024, 5000


def start_screen() -> subprocess.Popen[bytes] | None:
    """Start a virtual screen if there is no other."""
    if os.environ.get("DISPLAY") or not sys.platform.startswith("linux"):
        return None
    read, write = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten", "tcp"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    with os.fdopen(read) as number:
        os.environ["DISPLAY"] = f":{number.readline().strip()}"
    return screen


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    """Process events until a condition holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"Not done after {seconds:g} s.")
        QApplication.processEvents()
        time.sleep(0.01)


def pause(seconds: float) -> None:
    """Process events for some seconds."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds + 1)


def settle(viewer: napari.Viewer) -> None:
    """Wait until a row of layers, which comes one by one, stands up to its last one."""
    from napari_btn.widgets.shared.side_by_side import stands_side_by_side

    def stands() -> bool:
        """Return True with the width, which is the last of a row, and its name in the canvas, or without a row."""
        widths = [layer for layer in viewer.layers if layer.name.endswith(" width")]
        shown = any(layer.visible and layer.name_overlay.visible for layer in widths)
        return shown or not widths or not stands_side_by_side(viewer)

    pause(0.5)
    wait_until(stands, 60)
    pause(0.5)


def shoot(viewer: napari.Viewer, name: str) -> None:
    """Write a picture of the whole window, small enough for a repository."""
    from PIL import Image

    settle(viewer)
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    path = IMAGES / f"{name}.png"
    picture = Image.fromarray(pixels).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")


def step(viewer: napari.Viewer, caption: str) -> None:
    """Take a picture of the walk, with what happens in it."""
    from PIL import Image

    settle(viewer)
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    FRAMES.append((f"{len(FRAMES) + 1}  {caption}", Image.fromarray(pixels).convert("RGB")))


def walk() -> None:
    """Write the pictures of the walk as an animation, each with its caption below."""
    from PIL import Image, ImageDraw, ImageFont

    font, drawn = ImageFont.load_default(size=22), []
    for caption, picture in FRAMES:
        height = round(picture.height * FRAME_WIDTH / picture.width)
        frame = Image.new("RGB", (FRAME_WIDTH, height + 44), "white")
        frame.paste(picture.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS))
        ImageDraw.Draw(frame).text((16, height + 8), caption, fill="black", font=font)
        drawn.append(frame.quantize(128, dither=Image.Dither.NONE))
    path = IMAGES / "walk.gif"
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=FRAME_MS, loop=0, optimize=True)
    print(f"{path}: {len(drawn)} pictures, {path.stat().st_size // 1000} kB")


def which_data() -> None:
    """Draw the data that one may have, and what each gives."""
    import numpy as np
    from matplotlib.figure import Figure

    from napari_btn import samples

    pair = samples.edx(seed=0, size=(96, 128))
    rng = np.random.default_rng(0)
    clean = np.asarray(pair.clean)[0]
    counts = [rng.poisson(20 * clean / clean.max()) for _ in range(3)]
    rows = (
        (
            "A noisy image and a slow, clean one",
            "intervals that aim to cover the clean signal",
            [counts[0], clean],
        ),
        ("Noisy repeats of one field", "intervals that aim to cover a repeat", counts),
        ("One noisy image", "an image, without a promise for the clean signal", counts[:1]),
    )
    figure = Figure(figsize=(9.6, 4.8), layout="constrained")
    axes = figure.subplots(3, 4, gridspec_kw={"width_ratios": (1, 1, 1, 2.2)})
    for line, (title, gives, images) in zip(axes, rows, strict=True):
        for cell in line:
            cell.set_axis_off()
        for cell, image in zip(line[:3], images, strict=False):
            cell.imshow(image, cmap="gray", vmax=np.percentile(image, 99.5), interpolation="nearest")
        line[3].text(0, 0.62, title, fontsize=12, weight="bold", transform=line[3].transAxes)
        line[3].text(0, 0.32, f"gives {gives}", fontsize=10.5, transform=line[3].transAxes)
    path = IMAGES / "which_data.png"
    figure.savefig(path, dpi=100, facecolor="white")
    print(f"{path}: {path.stat().st_size // 1000} kB")


def show(viewer: napari.Viewer, *names: str) -> None:
    """Show these layers in a grid."""
    for layer in viewer.layers:
        layer.visible = layer.name in names
    viewer.canvas.grid.shape = (-1, 2)
    viewer.canvas.grid.stride = 1
    viewer.reset_view()


def uncertainty(viewer: napari.Viewer) -> None:
    """Show the result: a threshold, a line cut, a pixel, the coverage."""
    from qtpy.QtWidgets import QWidget

    from napari_btn.widgets.shared.side_by_side import as_before

    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Uncertainty")
    as_before(viewer)

    def part(name: str) -> QWidget:
        """Return a control by its object name."""
        return dock.findChild(QWidget, name)

    part("channel").setCurrentIndex(part("channel").findText("Fe"))
    part("threshold").setValue(0.25)
    part("confidence").setValue(0.6)
    part("line_cut").click()
    viewer.layers["edx noisy line cut"].data = [[[104, 5], [104, 250]]]
    pause(1)
    viewer.reset_view()
    shoot(viewer, "uncertainty")
    step(viewer, "Where is iron above 0.25? Move the threshold, draw a line, click a pixel.")
    part("closer").setCurrentIndex(2)
    pause(2)
    part("side_by_side").click()
    shoot(viewer, "coverage")


def trust(viewer: napari.Viewer, source: str, pixel: tuple[int, int]) -> None:
    """Question one pixel: its interval and filter, plausible images, and an area with its interval."""
    from qtpy.QtWidgets import QWidget

    from napari_btn.widgets.shared.side_by_side import as_before

    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Uncertainty")

    def part(name: str) -> QWidget:
        """Return a control by its object name."""
        return dock.findChild(QWidget, name)

    as_before(viewer)
    part("channel").setCurrentIndex(part("channel").findText("Fe"))
    part("threshold").setValue(0.25)
    part("closer").setCurrentIndex(1)
    pause(1)
    dock.pixel.show_pixel(*pixel)
    part("filter").click()
    wait_until(lambda: f"{source} filter" in viewer.layers, 300)
    for layer in viewer.layers:
        layer.visible = layer.name in (f"{source} median", f"{source} filter")
    pause(0.5)
    viewer.reset_view()
    shoot(viewer, "trust_filter")
    part("closer").setCurrentIndex(3)
    part("draws_count").setValue(8)
    part("draw").click()
    wait_until(lambda: f"{source} draw" in viewer.layers, 300)
    part("measure").click()
    wait_until(lambda: "draws" in part("draws_note").text(), 600)
    show(viewer, f"{source} median", f"{source} draw")
    viewer.canvas.grid.enabled = True
    viewer.reset_view()
    both_themes(viewer, "trust_draws")
    viewer.canvas.grid.enabled = False


def both_themes(viewer: napari.Viewer, name: str) -> None:
    """Write the picture in the dark theme and in the light one."""
    shoot(viewer, name)
    viewer.theme = "light"
    shoot(viewer, f"{name}_light")
    viewer.theme = "dark"
    pause(0.5)


def tokens(viewer: napari.Viewer) -> None:
    """Find tokens, and group some by morphology and by chemistry."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Tokens")
    dock.view.find.click()
    wait_until(lambda: dock.editor.shown is not None and not dock.busy, 1200)
    dock.view.n_tokens.setValue(8)
    dock.view.channel.setCurrentIndex(dock.view.channel.findText("Fe"))
    pause(1)
    iron = dock.editor.shown.tokens.table["Fe median"]
    groups = (
        ("morphology", [1, 2], "pore"),
        ("morphology", [6, 7, 8], "grain"),
        ("chemistry", sorted(range(1, 9), key=lambda n: -iron[n - 1])[:2], "iron-rich"),
    )
    for viewpoint, numbers, name in groups:
        dock.view.viewpoint.setCurrentText(viewpoint)
        dock.view.table.pick(numbers)
        dock.view.group_name.setCurrentText(name)
        dock.view.assign.click()
    for shown in viewer.layers:
        shown.visible = shown.name == "edx noisy tokens"
    viewer.layers["edx noisy tokens"].opacity = 1
    viewer.reset_view()
    step(viewer, "Find tokens: pixels that the networks see alike. Name them, group them, export them.")
    both_themes(viewer, "tokens")


def remeasure(viewer: napari.Viewer) -> None:
    """Denoise a field without a slow scan, propose windows, measure them again and continue training."""
    from napari_btn import samples
    from napari_btn.widgets.shared.side_by_side import as_before

    field = samples.edx(seed=7, size=(160, 320))
    place = {"scale": (1, 0.5, 0.5), "units": ("pixel", "um", "um"), "axis_labels": ("c", "y", "x")}
    layer = viewer.add_image(field.noisy, name="field", **place)
    slow = viewer.add_image(field.clean, name="slow scan", visible=False, **place)
    frame, train = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")
    frame.raise_()
    train.view.apply_to.pick(layer)
    train.view.apply.click()
    wait_until(lambda: "field width" in viewer.layers and not train.busy, 1200)
    as_before(viewer)
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Re-measure")
    dock.view.score.setCurrentIndex(dock.view.score.findData("width"))
    dock.view.window_unit.setCurrentIndex(0)
    for box in (dock.view.window_height, dock.view.window_width):
        box.setValue(40)
    dock.view.propose.click()
    wait_until(lambda: dock.view.table.rowCount() == 5, 60)
    for shown in viewer.layers:
        shown.visible = shown.name in ("field median", "field regions")
    viewer.reset_view()
    step(viewer, "Propose where to measure again, and export the windows to the microscope.")
    stage(viewer, dock, "field")
    dock.view.loop.folded.expand(animate=False)
    dock.view.loop.measured.pick(slow)
    dock.view.table.clearSelection()
    dock.view.loop.put.click()
    dock.view.loop.go.click()
    wait_until(lambda: bool(dock.view.loop.gain.notes), 1200)
    for shown in viewer.layers:
        shown.visible = shown.name in ("field median", "field regions")
    pause(0.5)
    viewer.reset_view()
    both_themes(viewer, "remeasure")


def stage(viewer: napari.Viewer, dock: Any, source: str) -> None:
    """Register the stage with four places."""
    for shown in viewer.layers:
        shown.visible = shown.name in (f"{source} median", f"{source} regions")
    dock.view.stage.folded.expand(animate=False)
    dock.view.stage.show_pairs(
        [
            (12, 15, 12005.9, 8007.4),
            (150, 20, 12075.2, 8010.3),
            (30, 300, 12015.1, 8150.2),
            (140, 280, 12069.8, 8139.9),
        ]
    )
    dock.view.stage.changed.emit()
    pause(0.5)
    viewer.reset_view()
    shoot(viewer, "stage")
    dock.view.stage.folded.collapse(animate=False)


def main() -> None:
    """Go from two layers to a result, as a user does."""
    import napari
    from qtpy.QtWidgets import QComboBox, QWidget

    from napari_btn.widgets.shared.results import present_result
    from napari_btn.widgets.shared.side_by_side import as_before

    viewer = napari.Viewer()
    viewer.window.resize(WIDTH, HEIGHT)
    viewer.open_sample("napari-btn", "edx")
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")

    def part(name: str) -> QWidget:
        """Return a control by its object name."""
        return dock.findChild(QWidget, name)

    def pick(name: str, text: str) -> None:
        """Choose an entry of a combo box by its first letters."""
        box = part(name)
        assert isinstance(box, QComboBox), name
        box.setCurrentIndex(next(i for i in range(box.count()) if box.itemText(i).lower().startswith(text)))

    pick("noisy", "edx noisy")
    pick("clean", "edx clean")
    pick("preset", "quick")
    part("members").setValue(MEMBERS)
    viewer.dims.set_point(0, 0)
    wait_until(part("train").isEnabled, 60)
    wait_until(lambda: bool(dock.view.pair.check.note.notes), 120)
    step(viewer, "Open a noisy and a clean image. The dock checks them, and says what it may promise.")
    viewer.canvas.grid.enabled = True
    part("train").click()
    bar = part("progress")
    wait_until(lambda: bar.value() > 0.6 * bar.maximum() and "edx noisy preview" in viewer.layers, 1200)
    show(viewer, "edx noisy", "edx clean", "edx noisy preview")
    shoot(viewer, "training")
    step(viewer, "Train: a preview of the denoised image grows while you wait.")
    wait_until(lambda: "edx noisy median" in viewer.layers and part("train").isEnabled(), 1200)
    as_before(viewer)
    viewer.canvas.grid.enabled = False
    present_result(viewer, "edx noisy")
    step(viewer, "Noisy, denoised, and how sure: the report says how much the intervals hold.")
    both_themes(viewer, "denoise")
    uncertainty(viewer)
    trust(viewer, "edx noisy", (104, 45))
    tokens(viewer)
    remeasure(viewer)
    viewer.close()
    walk()


def without_clean() -> None:
    """Learn without a clean image, in each way on its sample, and take a picture of each result."""
    for sample, way in WAYS:
        learn(sample, way)


def learn(sample: str, way: str) -> None:
    """Open a sample in a new window, train in one way, and take a picture of the result."""
    import napari
    from qtpy.QtWidgets import QWidget

    viewer = napari.Viewer()
    viewer.window.resize(WIDTH, HEIGHT)
    viewer.open_sample("napari-btn", sample)
    source = f"{sample} noisy"
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")

    def part(name: str) -> QWidget:
        """Return a control by its object name."""
        return dock.findChild(QWidget, name)

    part("preset").setCurrentText("quick")
    part("members").setValue(2)
    if way == "simulation":
        simulate(viewer, dock)
    ways = part("supervision")
    wait_until(lambda: ways.findData(way) >= 0 and part("train").isEnabled(), 120)
    ways.setCurrentIndex(ways.findData(way))
    wait_until(lambda: dock.view.pair.inputs is not None and bool(dock.view.pair.check.note.notes), 120)
    if not part("mask_along").isHidden():
        shoot(viewer, f"no_clean_{sample}_before")
        part("mask_along").click()
        wait_until(lambda: part("mask_along").isHidden() and part("train").isEnabled(), 120)
    if sample == "movie":
        dock.view.form.learning.frames.setValue(5)
        wait_until(part("train").isEnabled, 60)
    part("train").click()
    wait_until(lambda: not dock.busy and f"{source} width" in viewer.layers, 1200)
    pause(1)
    shoot(viewer, f"no_clean_{sample}_{way}")
    viewer.close()


def simulate(viewer: napari.Viewer, dock: Any) -> None:
    """Measure the noise of the noisy image, and draw it on clean images of another field."""
    from napari_btn import samples

    dock.view.noise_fold.expand(animate=False)
    dock.view.noise.inspect.click()
    wait_until(lambda: not dock.busy and not dock.view.noise.use.isHidden(), 120)
    pause(0.5)
    dock.view._settings.ensureWidgetVisible(dock.view.noise.use)
    shoot(viewer, "no_clean_noise")
    dock.view.noise.use.click()
    dock.view.noise_fold.collapse(animate=False)
    place = {"scale": (0.2, 0.2), "units": ("um", "um"), "axis_labels": ("y", "x")}
    viewer.add_image(samples.counts(seed=5).clean, name="simulated clean", visible=False, **place)


PARTS = {"which_data": which_data, "walk": main, "no_clean": without_clean}

if __name__ == "__main__":
    virtual = start_screen()
    try:
        IMAGES.mkdir(exist_ok=True)
        for name in sys.argv[1:] or PARTS:
            PARTS[name]()
    finally:
        if virtual is not None:
            virtual.terminate()
            virtual.wait()
