"""Build the sdist and a wheel from it, install the wheel in a folder, and check that napari finds the manifest."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FIND = """
import sys
from pathlib import Path
import napari_btn
from npe2 import PluginManifest
where = Path(sys.argv[1]).resolve()
assert Path(napari_btn.__file__).resolve().is_relative_to(where), napari_btn.__file__
found = [r for r in PluginManifest.discover() if r.manifest and r.manifest.name == "napari-btn"]
assert found, "the wheel's manifest was not discovered"
assert Path(found[0].distribution.locate_file("")).resolve() == where, found[0].distribution.locate_file("")
assert found[0].manifest.contributions.widgets, "the manifest has no widgets"
assert (where / "napari_btn" / "py.typed").is_file(), "py.typed is missing"
weights = sorted((where / "napari_btn" / "pretrained").glob("*.safetensors"))
assert weights, "the pretrained members are missing"
size = sum(path.stat().st_size for path in weights)
assert size <= 8e6, f"the pretrained members take {size / 1e6:.1f} MB; 8 are allowed"
print("wheel: manifest of", found[0].manifest.name, napari_btn.__version__, "discovered")
"""


def main() -> None:
    """Build, install and discover the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        dist, site = Path(folder, "dist"), Path(folder, "site")
        # hatchling is a test dependency, so the build needs no network
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, ROOT]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = dist.glob("*.whl")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
        subprocess.run(pip, check=True)
        # ahead of site-packages, where the editable install would be found
        env = os.environ | {"PYTHONPATH": str(site)}
        subprocess.run([sys.executable, "-c", FIND, site], check=True, cwd=folder, env=env)


if __name__ == "__main__":
    main()
