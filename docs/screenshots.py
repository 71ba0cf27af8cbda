"""Drive the real window through the edx sample and write the pictures of the documents.

Run by ``make screenshots``. Without a display it starts a virtual one of a small laptop's size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1366, 768
LARGEST = 400_000
MEMBERS = 3


def start_screen() -> subprocess.Popen[bytes] | None:
    """Virtual screen, where there is no other."""
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
    """Let the window live until something is so."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(f"Not done after {seconds:g} s.")
        QApplication.processEvents()
        time.sleep(0.01)


def pause(seconds: float) -> None:
    """Let the window settle."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > end, seconds + 1)


def shoot(viewer: object, name: str) -> None:
    """Write a picture of the whole window, small enough for a repository."""
    from PIL import Image

    pause(0.5)
    pixels = viewer.screenshot(canvas_only=False, flash=False)
    path = IMAGES / f"{name}.png"
    picture = Image.fromarray(pixels).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size // 1000} kB")


def main() -> None:
    """Walk from two layers to a result, as a user does."""
    import napari
    from qtpy.QtWidgets import QComboBox, QWidget

    viewer = napari.Viewer()
    viewer.window.resize(WIDTH, HEIGHT)
    viewer.open_sample("napari-btn", "edx")
    _, dock = viewer.window.add_plugin_dock_widget("napari-btn", "Denoise")

    def part(name: str) -> QWidget:
        """Control by its object name."""
        return dock.findChild(QWidget, name)

    def pick(name: str, text: str) -> None:
        """Choose an entry of a combo box by how it begins."""
        box = part(name)
        assert isinstance(box, QComboBox), name
        box.setCurrentIndex(next(i for i in range(box.count()) if box.itemText(i).lower().startswith(text)))

    pick("noisy", "edx noisy")
    pick("clean", "edx clean")
    pick("preset", "quick")
    part("members").setValue(MEMBERS)
    viewer.reset_view()
    wait_until(part("train").isEnabled, 60)
    shoot(viewer, "pair")
    part("train").click()
    wait_until(lambda: "edx noisy preview" in viewer.layers, 300)
    pause(5)
    shoot(viewer, "training")
    wait_until(lambda: "edx noisy median" in viewer.layers and part("train").isEnabled(), 1200)
    viewer.reset_view()
    shoot(viewer, "denoise")
    viewer.layers["edx noisy width"].visible = True
    viewer.layers.selection.active = viewer.layers["edx noisy width"]
    shoot(viewer, "width")
    viewer.close()


if __name__ == "__main__":
    virtual = start_screen()
    try:
        IMAGES.mkdir(exist_ok=True)
        main()
    finally:
        if virtual is not None:
            virtual.terminate()
