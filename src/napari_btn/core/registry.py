"""Parts that other packages may add, by name: those of this package, and those found by entry point."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cached_property
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["FAMILIES", "Registry"]

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """Parts by name, imported on first use; names alone can be listed without an import.

    Parameters
    ----------
    group : str
        Entry points of this group name the parts of other packages.
    built_in : mapping of str to str
        Where this package's own parts are, as "module:attribute"; they win over entry points.
    """

    def __init__(self, group: str, built_in: Mapping[str, str]) -> None:
        self.group = group
        self._parts: dict[str, T | str] = dict(built_in)

    @cached_property
    def _installed(self) -> dict[str, str]:
        """Names and places of the entry points."""
        # reading the metadata of all packages takes time, which `import napari_btn` should not spend
        from importlib.metadata import entry_points

        return {point.name: point.value for point in entry_points(group=self.group)}

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise KeyError(
                f"{name!r} is not among {', '.join(self)}. Other processes know it only if an installed package "
                f"has it as an entry point of {self.group}."
            )
        part = self._parts[name] if name in self._parts else self._installed[name]
        if isinstance(part, str):
            found: Any = resolve_name(part)
            self._parts[name] = part = found
        return part

    def __setitem__(self, name: str, part: T) -> None:
        self._parts[name] = part

    def __delitem__(self, name: str) -> None:
        del self._parts[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._parts, *self._installed}))

    def __len__(self) -> int:
        return len({*self._parts, *self._installed})


# Any: this module lies below the one that says what a family is
FAMILIES: Registry[Any] = Registry(
    "napari_btn.families",
    {
        "sms": "napari_btn.core.networks.sms.family:FAMILY",
        "unet": "napari_btn.core.networks.convolutional.family:UNET",
        "dncnn": "napari_btn.core.networks.convolutional.family:DNCNN",
        "cdae": "napari_btn.core.networks.convolutional.family:CDAE",
    },
)
"""Every `Family` by the name that `NetworkSettings.family` takes."""
