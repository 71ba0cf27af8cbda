"""The package itself: what it loads, what it offers, and its manifest."""

from __future__ import annotations

import ast
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import napari_btn

if TYPE_CHECKING:
    from collections.abc import Set

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(napari_btn.__file__).parent
BINDINGS = {"PyQt5", "PyQt6", "PySide2", "PySide6"}
WINDOW = BINDINGS | {"napari", "vispy", "qtpy", "superqt", "magicgui", "pyqtgraph"}
# The modules where numbers are torch tensors, or that run members; all others import without torch.
TORCH = {
    "core.evaluation.gain",
    "core.inference.jacobian",
    "core.inference.latents",
    "core.inference.run",
    "core.inference.vae",
    "core.networks.convolutional.trunk",
    "core.networks.heads",
    "core.networks.pinball",
    "core.networks.sms.bands",
    "core.networks.sms.many_members",
    "core.networks.sms.one_member",
    "core.networks.sms.trunk",
    "core.networks.trunk",
    "core.networks.vae",
    "core.training.card",
    "core.training.optimiser",
    "core.training.preview",
    "core.training.prior",
    "core.training.processes",
    "core.training.tasks",
    "core.training.warm",
    "core.training.tuning",
    "core.training.vae",
}

BLOCK = """
import importlib, json, sys
sys.dont_write_bytecode = True

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is not installed (blocked by the test)")

blocked = set(json.loads(sys.argv[1]))
sys.meta_path.insert(0, Block())
"""

LOADED = """
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""

PREPARE_JOB = """
from napari_btn.core.compute.device import works
from napari_btn.core.compute.pool import process_pool
assert works("cpu")
assert process_pool()._processes
"""

MAIN_JOB = """
import napari_btn as btn
pair = btn.samples.edx(seed=0, size=(128, 192))
settings = btn.TrainSettings(steps=3, batch_size=2, patch_px=16)
network = btn.NetworkSettings(depth=2, max_dilation=1)
denoiser = btn.Denoiser(preset="quick", members=1, train=settings, network=network, device="cpu")
denoiser.fit(pair.noisy, pair.clean, axes=pair.axes)
prediction = denoiser.predict(pair.noisy, axes=pair.axes)
denoiser.save(sys.argv[2])
assert (btn.load(sys.argv[2]).predict(pair.noisy, axes=pair.axes).median == prediction.median).all()
"""


def modules(*, torch: bool) -> list[str]:
    """All modules outside widgets, with or without those that may load torch at import."""
    found = ["napari_btn"]
    for info in pkgutil.walk_packages([str(PACKAGE)], "napari_btn."):
        if "widgets" not in info.name and (torch or info.name.removeprefix("napari_btn.") not in TORCH):
            found.append(info.name)
    return found


def loaded_by(names: list[str], *, blocked: Set[str] = frozenset()) -> set[str]:
    """Top-level packages loaded by importing ``names`` afresh, where ``blocked`` are not installed."""
    return set(json.loads(run_apart(BLOCK + LOADED, json.dumps(names), blocked=blocked)))


def run_apart(script: str, argument: str, *, blocked: Set[str]) -> str:
    """Output of ``script`` in a fresh interpreter."""
    command = [sys.executable, "-c", script, json.dumps(sorted(blocked)), argument]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_of_the_package_loads_nothing_heavy() -> None:
    heavy = WINDOW | {"torch", "sklearn", "skimage", "matplotlib", "scipy", "numpy"}
    assert not loaded_by(["napari_btn"]) & heavy


def test_only_the_tensor_rooms_load_torch() -> None:
    assert "torch" not in loaded_by(modules(torch=False))


def test_workers_start_before_torch_is_loaded() -> None:
    run_apart(BLOCK + PREPARE_JOB, "", blocked={"torch"})


def test_everything_but_the_widgets_works_without_a_window_system() -> None:
    assert not loaded_by(modules(torch=True), blocked=WINDOW) & WINDOW


def test_the_main_job_runs_without_a_window_system(tmp_path: Path) -> None:
    run_apart(BLOCK + MAIN_JOB, str(tmp_path / "edx.btn"), blocked=WINDOW)


def test_opening_a_dock_does_not_load_torch() -> None:
    found = [i.name for i in pkgutil.walk_packages([str(PACKAGE / "widgets")], "napari_btn.widgets.")]
    assert not loaded_by(found) & {"torch", "sklearn"}


def test_long_files_say_why() -> None:
    texts = {path.relative_to(PACKAGE): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    long = {name: text for name, text in texts.items() if len(text.splitlines()) > 450}
    assert long
    missing = [
        str(name)
        for name, text in long.items()
        if "Long because" not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert not missing, f"more than 450 lines: {missing}; split the file, or say why in its docstring"


def test_public_names_are_all_there() -> None:
    assert set(napari_btn.__all__) <= set(dir(napari_btn))
    for name in napari_btn.__all__:
        assert getattr(napari_btn, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        napari_btn.nonsense  # noqa: B018


def test_the_root_manifest_is_the_packages() -> None:
    assert (ROOT / "napari.yaml").read_bytes() == (PACKAGE / "napari.yaml").read_bytes()


def test_the_manifest_is_valid_and_discovered() -> None:
    from npe2 import PluginManifest

    PluginManifest.from_file(PACKAGE / "napari.yaml").validate_imports()
    assert "napari-btn" in {found.manifest.name for found in PluginManifest.discover() if found.manifest}


def test_manifest_commands_are_all_used() -> None:
    from npe2 import PluginManifest

    said = PluginManifest.from_file(PACKAGE / "napari.yaml").contributions
    used = {w.command for w in said.widgets or ()} | {s.command for s in said.sample_data or ()}
    assert {c.id for c in said.commands or ()} == used


def test_versions_agree() -> None:
    from importlib.metadata import version

    assert version("napari-btn") == napari_btn.__version__
    assert f"version: {napari_btn.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_constraints_pin_torch_for_every_machine() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.match(r"[a-z0-9-]+==[^+;= ]+( ;|$)", line) for line in pins)
    assert any(line.startswith("torch==") for line in pins)
