"""The documents: their code runs, their links lead somewhere, their words are the code's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from napari_btn.core import settings as config

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Presets so short that a guide's training takes a second; nothing is said of its quality, nor of its areas'."""
    monkeypatch.setitem(config.PRESETS, "quick", config.TrainSettings(steps=4))
    monkeypatch.setattr("napari_btn.core.calibration.areas.AREA_PIXELS", 1000)


def blocks(page, *languages):
    """(language, text) of the code blocks of a page, in order."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [(language, text) for language, text in found if language in languages]


def run_commands(text):
    """Run the lines of a shell block that call the command line."""
    from napari_btn.cli import main

    for line in text.splitlines():
        name, *arguments = shlex.split(line, comments=True) or ["#"]
        if name == "napari-btn":
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, f"{line}\n{result.output}"


def run_guide(name):
    """Run a guide's code from top to bottom."""
    names = {}
    for language, text in blocks(ROOT / "docs" / name, "python", "sh"):
        if language == "sh":
            run_commands(text)
        else:
            exec(compile(text, name, "exec"), names)


def test_the_guide_of_calibration_runs(tmp_path, monkeypatch, capsys, in_a_hurry):
    pytest.importorskip("matplotlib", reason="the guide draws figures")
    monkeypatch.chdir(tmp_path)
    run_guide("guide_calibration.md")
    # networks of four steps may be too poor for any claim
    assert re.search(r"(\d+ pixels|No pixel is) claimed to exceed 0\.25", capsys.readouterr().out)
    assert (tmp_path / "report.html").stat().st_size > 100_000


# Said once, and more than measurements hold; each with what was measured instead.
TOO_MUCH = (
    r"the slow scan itself is the (answer|result)",  # a scan of ten dwells decides worse than the prediction
    r"with 95 % certainty",  # of fresh fields, the interval of one field holds a fifth
    r"only sure answer",
    r"in all (of them|draws) is there",  # areas over draws hold 39 to 88 % on element maps
    r"neither invented",
    r"intervals honest",
    r"cover the clean signal nearly always",
    r"differ from the predicted ones by a factor of two",  # a wrong dose is found by a test
    r"tokens? (mends?|fix(es)?|restores?)",  # rare phases gain one to five points
    r"at most \S+ (%|per cent) of (the )?claims are wrong",
    r"at most (a tenth of them|\S+ % wrong claims|(f )?\S+ of the claimed pixels)",  # of single fields, often more
    r"holds on average within each token",  # rare phases gain one to five points
    r"guarantees? that",
    r"counted conservatively",
    r"with certainty",  # a probability over calibrations, for independent blocks
    r"for certain",
    r"will hold on average",
    r"which often makes it sharper",  # locked: better in 5 of 7 rows, by at most 2 %
    r"to bound the share of wrong claims",  # the bound is not one after the choice of the cut
    r"the signal exceeds with the stated confidence",  # an average over pixels; of single fields off by points
    r"has the distribution that it has over draws",  # ranges of areas hold 42 to 100 % where 90 % are drawn
    r"is about right on average",
    r"variance of the noise is taken for too small",  # own pixels: too large is worse where their weight is small
    r"each is covered on average",  # tokens with few blocks are not
    r"whatever they see",  # which constants add up to a net bias depends on the image
    r"errors (go together|(as |are )?correlated) (about )?as (they do )?on held-out",  # draws are too smooth
    r"coverage doesn't depend on it",  # that of a rare phase did
    r"only test without assumptions",  # one field says little of others
    r"check it on a repeat of a real",  # intervals of the clean signal hold fewer noisy values, though they are right
    r"picks the best one",  # the first in the table
    r"intervals hold the signal with coverage",  # they aim at it
    r"make the intervals (hold|cover)",
    r"it decides as much as possible",  # dwell is shared out step by step
    r"intervals cover (another|twice|the noisy value|the image)",  # of few counts they hold 67 to 98 %
    r"P\(> t\) is the probability",  # of pixels at 0.7, 53 to 66 % exceed
    r"in a single field less exactly",  # areas of rare phases are 0.3 to 2.2 times the true ones
    r"which helps tokens",  # rare phases gain one to five points
    r"noise is independent between pixels\.",  # on one image, a correlation under 0.25 is not found
    r"whose clean value should lie",  # of repeats, counts and masked pixels it is a noisy value
    r"got measurably better on this image",  # the loss fell, which once cost 0.4 dB
    r"bit by bit, if it gets",  # on other CPUs, last digits differ
    r"to count phases",  # a number of tokens that repeats itself is no number of phases
    r"close to the threshold about half are right",  # 15 to 46 % of those within a fifth of it
    r"same token to the same structure|a token means the same",  # other noise moves a third of eight tokens' pixels
    r"warn of a shift of more than half a pixel",  # one pixel is noted in 25 of 40 pairs
    r"settings give the same (pixels|model) on the CPU",  # on other kinds of CPU, last digits differ
    r"Same seed, same (result|networks)\.",
    r"within a factor of two\.",  # the estimate of the time assumes one speed of a core
    r"which also work at other noise levels",  # worse than pretrained members on photographs after 250 steps
    r"will be too wide everywhere else",
    r"figures are better than on a new",
    r"worth only 75 independent|worth a hundred independent",  # 700 to 1,700 of 44,544
    r"and thinning is refused with the measured",  # from 1.2 on, of enough pixels
    r"only roughly right at sharp edges",  # variograms of draws are 0.5 to 0.75 times those of errors
    r"averages? over more pixels",  # with twice the noise, filters were wider in half of the pixels
    r"intervals would not cover the clean signal",  # those of noisy targets hold nearly all of it
    r"usually (covers?|lies?|lie|wider|the clean)|are usually (covered|wider)",  # with what was measured instead
    r"unbiased if the noise of the training targets",  # from seven quantiles, up to 4 % of an SD off
    r"share `?confidence`? of (signals|targets) lies above",  # where many are 0, bounds reach them
    r"about 98 % of it lies",  # 97 to 98 % on simulated fields, 92 to 98 % on real sweeps
    r"in (windows that were proposed|proposed windows),? this was not measured",
    r"does not bias\)",  # the mean of the predicted distribution
)


def test_no_page_or_dock_says_more_than_was_measured():
    sources = sorted((ROOT / "src" / "napari_btn").rglob("*.py"))
    for page in (*PAGES, *sources):
        if page.name in ("CHANGELOG.md", "performance.md"):
            continue
        text = re.sub(r"[\s\"*]+", " ", page.read_text(encoding="utf-8"))
        for words in TOO_MUCH:
            assert not re.search(words, text, re.IGNORECASE), f"{page.name}: {words}"


def test_object_names_in_the_guide_of_calibration_are_the_docks(qtbot):
    from napari.components import ViewerModel
    from qtpy.QtWidgets import QWidget

    from napari_btn.widgets.uncertainty.dock import UncertaintyWidget

    dock = UncertaintyWidget(ViewerModel())
    qtbot.addWidget(dock)
    text = (ROOT / "docs" / "guide_calibration.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| control \|.*?(?=^$)", text, flags=re.M | re.S)
    for name in re.findall(r"`(\w+)`", table.partition("|---|---|")[2]):
        assert dock.findChild(QWidget, name) is not None, name
    dock.leave()


@pytest.mark.parametrize("name", ["guide_tokens.md", "guide_remeasure.md"])
def test_the_guides_of_tokens_and_of_measuring_again_run(name, tmp_path, monkeypatch, capsys, in_a_hurry):
    monkeypatch.setattr("napari_btn.core.tokens.learn._CLUSTER_PIXELS", 1500)
    monkeypatch.setattr("napari_btn.core.tokens.clustering._RESTARTS", 1)
    monkeypatch.chdir(tmp_path)
    run_guide(name)
    said = {"guide_tokens.md": "suggested:", "guide_remeasure.md": "mean width"}
    assert said[name] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "module", "widget"),
    [("guide_tokens.md", "tokens", "TokensWidget"), ("guide_remeasure.md", "remeasure", "RemeasureWidget")],
)
def test_object_names_in_the_guides_are_the_docks(name, module, widget, qtbot):
    from importlib import import_module

    from napari.components import ViewerModel
    from qtpy.QtWidgets import QWidget

    dock = getattr(import_module(f"napari_btn.widgets.{module}.dock"), widget)(ViewerModel())
    qtbot.addWidget(dock)
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| control \|.*?(?=^$|\Z)", text, flags=re.M | re.S)
    names = re.findall(r"`(\w+)`", table.partition("|---|---|")[2])
    assert len(names) > 10
    for name_of_one in names:
        assert dock.findChild(QWidget, name_of_one) is not None, name_of_one
    dock.leave()


def test_the_guide_of_trust_runs(tmp_path, monkeypatch, capsys, in_a_hurry):
    monkeypatch.chdir(tmp_path)
    run_guide("guide_trust.md")
    said = capsys.readouterr().out
    assert "area_above" in said
    assert "nothing" in said


def test_the_guide_of_pretrained_networks_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_guide("guide_pretrained.md")
    assert "'from': '2d-1c-white'" in capsys.readouterr().out
    assert (tmp_path / "look.ome.tif").exists()


def test_the_guide_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys, in_a_hurry):
    pytest.importorskip("matplotlib", reason="the guide draws a figure")
    monkeypatch.chdir(tmp_path)
    run_guide("guide_first_pair.md")
    assert "Si: " in capsys.readouterr().out
    assert (tmp_path / "line_cut.png").stat().st_size > 5000


def test_the_ten_lines_of_the_readme_run_and_are_ten(tmp_path, monkeypatch, in_a_hurry):
    monkeypatch.chdir(tmp_path)
    (text,) = [text for _, text in blocks(ROOT / "README.md", "python")]
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    exec(compile(text, "README.md", "exec"), {})
    assert (tmp_path / "soil.btn").exists()


def test_the_guide_without_clean_images_runs(tmp_path, monkeypatch, capsys, in_a_hurry):
    monkeypatch.chdir(tmp_path)
    run_guide("guide_no_clean_data.md")
    said = capsys.readouterr().out
    for covers in ("replicate", "thinned counts", "masked pixel"):
        assert covers in said
    assert (tmp_path / "denoised.npz").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which isn't there"


def test_commands_in_shell_blocks_exist():
    from napari_btn.cli import main

    for page in PAGES:
        for _, text in blocks(page, "sh"):
            for name in re.findall(r"^napari-btn (\w+)", text, flags=re.M):
                assert name in main.commands, f"{page.name} calls napari-btn {name}"


def test_the_tree_names_all_files_and_no_others():
    text = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```\nsrc/napari_btn/\n(.*?)^```", text, flags=re.M | re.S)
    package = ROOT / "src" / "napari_btn"
    shown, path = {}, []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        first, _, rest = line.strip().partition(" ")
        if depth <= 2:
            path = [*path[:depth], first.rstrip("/")]
            there = package.joinpath(*path)
            assert (
                there.is_dir() if first.endswith("/") else there.with_suffix(there.suffix or ".py").exists()
            ), first
        here = path if depth > 2 or first.endswith("/") else path[:-1]
        words = rest if first.endswith("/") else first if depth <= 2 else line
        shown.setdefault("/".join(here), set()).update(re.findall(r"\w+", words))
    for file in package.rglob("*.py"):
        folder = file.parent.relative_to(package).as_posix()
        if file.stem != "__init__":
            assert file.stem in shown["" if folder == "." else folder], (
                f"{folder}/{file.stem} is not in the tree"
            )
