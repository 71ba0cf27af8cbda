"""One tab bar for all docks, in the real window, at the size of a small laptop."""

from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtWidgets import QAbstractButton, QDockWidget, QScrollArea, QTabBar, QWidget
from superqt import QCollapsible

from napari_btn.widgets.shared.notes import _BEFORE, _CONTROLS, _DOCKS, _show_control
from napari_btn.widgets.shared.sight import bring_into_sight, parents_of
from napari_btn.widgets.shared.tabs import DOCKS, open_dock

HEIGHT = 768


@pytest.fixture
def window(make_napari_viewer: Any) -> Any:
    """Return a viewer with an empty image, as large as a small laptop."""
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1366, HEIGHT)
    return viewer


def titles(viewer: Any) -> list[str]:
    """Return the titles of the tab bar with our docks."""
    dock = next(iter(viewer.window.dock_widgets.values()))
    for bar in dock.window().findChildren(QTabBar):
        shown = [bar.tabText(i) for i in range(bar.count())]
        if set(shown) & set(DOCKS.values()):
            return shown
    return []


def in_sight(widget: QWidget) -> bool:
    """Return True unless the widget lies behind another tab."""
    return widget.isVisible() and not widget.visibleRegion().isEmpty()


def whole(widget: QWidget) -> bool:
    """Return True if all of the widget is in sight."""
    return bool(widget.visibleRegion().boundingRect() == widget.rect())


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_docks_opened_in_any_order_share_one_tab_bar_and_fit(window: Any, qtbot: Any, theme: str) -> None:
    window.theme = theme
    opened: list[str] = []
    for title in ("Tokens", "Denoise", "Re-measure", "Uncertainty"):
        open_dock(window, title)
        opened.append(title)
        qtbot.wait(200)
        main = next(iter(window.window.dock_widgets.values())).window()
        assert main.height() <= HEIGHT
        assert main.minimumSizeHint().height() <= HEIGHT
    assert titles(window) == list(DOCKS.values())
    denoise = next(d for d in window.window.dock_widgets.values() if d.objectName() == "napari_btn_denoise")
    open_dock(window, "Denoise")
    qtbot.wait(200)
    denoise.view.message.say(
        *[("amber", "A note that takes more than one line in a dock of this width. " * 3)] * 6
    )
    qtbot.wait(200)
    bottom = denoise.mapToGlobal(denoise.rect().bottomLeft()).y()
    for name in ("train", "apply", "save", "load"):
        button = denoise.findChild(QAbstractButton, name)
        assert button.isVisible()
        assert button.mapToGlobal(button.rect().bottomLeft()).y() <= bottom
    assert denoise.window().height() <= HEIGHT


def test_open_all_opens_all_and_goes(window: Any, qtbot: Any) -> None:
    window.window.add_plugin_dock_widget("napari-btn", "Open all")
    qtbot.waitUntil(lambda: titles(window) == list(DOCKS.values()))
    names = [d.objectName() for d in window.window.dock_widgets.values()]
    assert sorted(names) == sorted(DOCKS)
    frames = [d.parent() for d in window.window.dock_widgets.values()]
    assert all(isinstance(f, QDockWidget) or f is not None for f in frames)
    qtbot.wait(300)
    in_front = [d.objectName() for d in window.window.dock_widgets.values() if in_sight(d)]
    assert in_front == [next(iter(DOCKS))]


@pytest.mark.parametrize("first", ["menu", "link"])
def test_a_dock_of_the_plugins_menu_and_of_a_link_is_the_same(window: Any, qtbot: Any, first: str) -> None:
    def by_menu() -> None:
        """Click the entry of the menu."""
        actions = window.window.plugins_menu.actions()
        own = next(a.menu() for a in actions if a.text() == "Behind the Noise")
        own.aboutToShow.emit()
        next(a for a in own.actions() if a.text() == "Tokens" or a.text().startswith("Tokens (")).trigger()

    def by_link() -> None:
        """Follow a link to the dock."""
        open_dock(window, "Tokens")

    for open_it in (by_menu, by_link) if first == "menu" else (by_link, by_menu):
        open_it()
        qtbot.wait(300)
    assert [d.objectName() for d in window.window.dock_widgets.values()] == ["napari_btn_tokens"]


def test_a_link_of_another_dock_brings_its_control_to_the_front(window: Any, qtbot: Any) -> None:
    for title in ("Denoise", "Tokens"):
        open_dock(window, title)
        qtbot.wait(200)
    docks = {d.objectName(): d for d in window.window.dock_widgets.values()}
    denoise, tokens = docks["napari_btn_denoise"], docks["napari_btn_tokens"]
    assert not in_sight(denoise)
    _show_control(tokens.window(), "groups")
    qtbot.waitUntil(lambda: in_sight(denoise.findChild(QWidget, "groups")))


@pytest.mark.parametrize("height", [HEIGHT, 560])
def test_each_link_brings_all_of_its_control_into_sight(window: Any, qtbot: Any, height: int) -> None:
    window.window.resize(1366, height)
    open_dock(window, "Denoise")
    qtbot.wait(300)
    (dock,) = window.window.dock_widgets.values()
    main, missed = dock.window(), []
    for name in sorted(set(_CONTROLS.values()) - set(_DOCKS)):
        for folded in main.findChildren(QCollapsible):
            folded.collapse(animate=False)
        qtbot.wait(100)
        for area in main.findChildren(QScrollArea):
            area.verticalScrollBar().setValue(0)
        _show_control(main, name)
        control = main.findChild(QWidget, name)
        if control.isHidden():  # until there are images; the link leads to what makes it appear
            control = main.findChild(QWidget, _BEFORE.get(name, name))
        if control.isHidden():
            continue
        try:
            qtbot.waitUntil(lambda part=control: whole(part), timeout=10_000)
        except qtbot.TimeoutError:
            missed.append(name)
        qtbot.wait(100)  # unfolding scrolls, too, and must not scroll away
        if not whole(control):
            missed.append(name)
    assert not missed


def test_what_is_brought_into_sight_stays_there_while_the_dock_grows_unless_the_user_scrolls(
    window: Any, qtbot: Any
) -> None:
    window.window.resize(1366, 560)
    open_dock(window, "Denoise")
    qtbot.wait(300)
    (dock,) = window.window.dock_widgets.values()
    control = dock.findChild(QWidget, "compare_fold")
    area = next(p for p in parents_of(control) if isinstance(p, QScrollArea))
    bring_into_sight(control)
    dock.view.pair.check.note.say(*[("info", "A note that takes more than one line of the dock. " * 3)] * 3)
    qtbot.waitUntil(lambda: whole(control))
    qtbot.wait(100)
    assert whole(control)
    bring_into_sight(control)
    qtbot.wait(50)
    area.verticalScrollBar().setValue(0)
    qtbot.wait(300)
    assert area.verticalScrollBar().value() == 0


def test_a_short_message_is_not_cut_and_none_takes_no_room(window: Any, qtbot: Any) -> None:
    open_dock(window, "Denoise")
    qtbot.wait(300)
    dock = next(d for d in window.window.dock_widgets.values() if d.objectName() == "napari_btn_denoise")
    message = dock.view.message
    area = message.parentWidget().parentWidget()
    assert not area.isVisible()

    def whole() -> bool:
        """Return True if all of the message is seen."""
        view = area.viewport()
        needed = max(message.heightForWidth(view.width()), message.height())
        return area.isVisible() and not area.verticalScrollBar().isVisible() and needed <= view.height()

    message.say(("info", "Saved as soil.btn."))
    qtbot.waitUntil(whole)
    for theme in ("light", "dark"):
        window.theme = theme
        qtbot.wait(100)
        qtbot.waitUntil(whole)
    for sentences in (1, 30, 2, 1):
        message.say(("amber", "A sentence of some length, which takes a line of the dock. " * sentences))
        # Qt lays the dock out later, on a busy machine after some events more
        qtbot.waitUntil(lambda n=sentences: area.verticalScrollBar().isVisible() == (n == 30))


def test_a_part_that_is_unfolded_is_brought_into_sight(window: Any, qtbot: Any) -> None:
    open_dock(window, "Re-measure")
    qtbot.wait(200)
    dock = next(iter(window.window.dock_widgets.values()))
    window.window.resize(1000, 560)
    qtbot.wait(200)
    dock.view.loop.folded.expand(animate=False)
    inside = dock.findChild(QWidget, "put")
    qtbot.waitUntil(lambda: in_sight(inside))
    pick = dock.findChild(QAbstractButton, "measured_open")
    assert pick.width() >= pick.fontMetrics().horizontalAdvance(pick.text()) + 20
