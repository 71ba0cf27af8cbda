"""Files of tensors that torch.save wrote, read without running pickled code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from napari_btn.io._format import ExplainedError, Format, choose, package
from napari_btn.io.metadata import Meta

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TENSORS"]


def _read(file: Path, key: str | None) -> tuple[Any, Meta]:
    """Read one tensor: the only one, or one of a dict or list."""
    torch = package("torch", file)
    found = _loaded(file)
    if isinstance(found, torch.Tensor):
        if key is not None:
            raise ExplainedError(f"{file.name} holds one tensor without a name; leave :{key} out.")
        return _array(found, torch), Meta()
    tensors = _tensors(found, torch.Tensor)
    return _array(tensors[choose(list(tensors), key, file)], torch), Meta(name=key or "")


def _loaded(file: Path) -> Any:
    """Return the content of a file that holds tensors only."""
    try:
        return package("torch", file).load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise ExplainedError(
            f"{file.name} holds more than tensors, and reading that could run code; save the tensors alone, "
            'such as torch.save({"noisy": noisy, "clean": clean}, "pair.pt").'
        ) from error


def _names(file: Path) -> list[str]:
    """Return the names of the tensors in a file."""
    return list(_tensors(_loaded(file), package("torch", file).Tensor))


def _tensors(found: Any, kind: Any) -> dict[str, Any]:
    """Return the tensors of a dict by name, or those of a list by number."""
    items = (
        found.items()
        if isinstance(found, dict)
        else enumerate(found)
        if isinstance(found, list | tuple)
        else ()
    )
    return {str(name): value for name, value in items if isinstance(value, kind) and value.ndim > 1}


def _array(tensor: Any, torch: Any) -> Any:
    """Return a tensor as an array; numpy has no bfloat16."""
    plain = tensor.detach()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


TENSORS: Final = Format(suffixes=(".pt", ".pth"), shown="file.pt:name", read=_read, names=_names)
