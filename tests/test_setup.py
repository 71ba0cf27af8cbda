"""The set-up script on machines that this one is not: package managers and Python are played by stubs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script; Windows uses two pip lines")


class Machine:
    """A folder with a copy of the project's set-up, and a PATH of stubs before the real one."""

    def __init__(self, folder: Path, torch: str = "2.13.0+cpu") -> None:
        self.project, self.stubs, self.log = folder / "project", folder / "stubs", folder / "log"
        (self.project / "tools").mkdir(parents=True)
        self.stubs.mkdir()
        for name in ("tools/setup.sh", "tools/locked.txt", "tools/locked-cuda.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, self.project / name)
        self.command("apt-get", f'echo "apt $*" >> "{self.log}"')
        self.command("dpkg-query", "printf '%s installed\\n' xvfb libegl1")
        self.command("id", "echo 0")
        python = f"""echo "py $*" >> "{self.log}"
case "$*" in
    *"show torch"*) echo "Version: {torch}";;
    *venv*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
esac"""
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            self.command(name, python)

    def command(self, name: str, script: str) -> None:
        """Put a stub on the PATH."""
        (self.stubs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.stubs / name).chmod(0o755)

    def set_up(self) -> tuple[int, str, str]:
        """Exit code, what was called, and what was said."""
        self.log.write_text("", encoding="utf-8")
        env = {"PATH": f"{self.stubs}{os.pathsep}{os.environ['PATH']}"}
        command = ["/bin/sh", str(self.project / "tools" / "setup.sh")]
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        return done.returncode, self.log.read_text(encoding="utf-8"), done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_only_missing_libraries_are_installed_and_the_project_with_its_pins(machine: Machine) -> None:
    code, called, _ = machine.set_up()
    assert code == 0
    install = next(line for line in called.splitlines() if line.startswith("apt install"))
    assert "libxcb-icccm4" in install
    assert "xvfb" not in install
    installs = [line.split(" --quiet --no-deps ")[1] for line in called.splitlines() if "--no-deps" in line]
    assert installs == [
        "--no-index --require-hashes -r .venv/torch.txt",
        "--require-hashes --only-binary :all: -r tools/locked.txt",
        "--no-build-isolation -e .",
    ]
    torch = (machine.project / ".venv" / "torch.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split("==")[0] for line in torch if not line.startswith(" ")] == ["torch"]
    assert called.splitlines()[-1].endswith("pip --disable-pip-version-check check")


@pytest.mark.skipif(sys.platform != "linux", reason="torch needs no other packages elsewhere")
def test_a_cuda_build_of_torch_gets_its_packages(tmp_path: Path) -> None:
    assert "-r tools/locked-cuda.txt" in Machine(tmp_path, torch="2.13.0").set_up()[1]


def test_a_package_that_the_list_lacks_ends_the_set_up(machine: Machine) -> None:
    assert machine.set_up()[0] == 0
    python = machine.project / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *" check") exit 1;; esac\n', encoding="utf-8")
    stamp = machine.project / ".venv" / ".napari-btn-stamp"
    os.utime(stamp, (0, 0))
    code, _, said = machine.set_up()
    assert code == 1
    assert "remove .venv and try again" in said
    assert stamp.stat().st_mtime == 0


def test_every_pin_has_hashes_and_is_a_constraint() -> None:
    locked = [
        line
        for name in ("locked.txt", "locked-cuda.txt")
        for line in (ROOT / "tools" / name).read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    pins = {line.removesuffix(" \\") for line in locked if not line.startswith(" ")}
    hashed = {before for before, line in pairwise(locked) if line.startswith("    --hash=sha256:")}
    assert pins <= {before.removesuffix(" \\") for before in hashed}
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert pins == {line for line in constraints if not line.startswith("#")}
    names = {pin.split("==")[0] for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = (*project["dependencies"], *extras["all"], *extras["test"])
    assert {re.split(r"[\[><=]", text)[0] for text in needed} <= names


def test_a_second_time_does_nothing_until_the_pins_change(machine: Machine) -> None:
    machine.command("dpkg-query", 'for name; do echo "$name installed"; done')
    assert "--require-hashes" in machine.set_up()[1]
    assert "--require-hashes" not in machine.set_up()[1]
    stamp = machine.project / ".venv" / ".napari-btn-stamp"
    os.utime(stamp, (0, 0))
    assert "--require-hashes" in machine.set_up()[1]


def test_without_rights_it_says_what_to_install_and_goes_on(machine: Machine) -> None:
    machine.command("id", "echo 1000")
    machine.command("sudo", "exit 1")
    code, called, said = machine.set_up()
    assert code == 0
    assert "apt-get install --no-install-recommends libxcb-icccm4" in said
    assert "apt " not in called
    assert "--require-hashes" in called


def test_an_old_python_is_refused_with_what_to_do(machine: Machine) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13"):
        machine.command(name, "exit 1")
    code, _, said = machine.set_up()
    assert code != 0
    assert "Python 3.11 or newer is needed" in said
