"""Members and tiles on the workers of a dask scheduler: several machines, the same steps, the same pixels."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

__all__ = ["connected"]

_PATIENCE_S = 10  # for a scheduler to answer
_LARGE = "64MiB"  # a tile of a volume or a few batches; dask warns from ten on
_START = "start one with `dask scheduler`, and `dask worker ADDRESS` on each machine"


@contextmanager
def connected(address: str) -> Iterator[Executor]:
    """Executor that runs tasks on the workers of a dask scheduler, until the context ends.

    Give it to `Denoiser.fit`, `Denoiser.predict` and their steps as ``executor``. Members and pixels are
    those of the local processes, whatever the workers' number and speed.

    Parameters
    ----------
    address : str
        Of the scheduler: "tcp://10.0.0.1:8786", or without its scheme.

    Raises
    ------
    ValueError
        If dask is not installed, no scheduler answers, it has no workers, or a worker lacks napari-btn or has
        another version of it.
    """
    try:
        import dask
        from distributed import Client
    except ImportError as error:
        raise ValueError('A scheduler needs dask; pip install "napari-btn[all]" brings it.') from error
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": _LARGE}):
        try:
            client: Any = Client(address, timeout=_PATIENCE_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(
                f"No dask scheduler answers at {address!r} within {_PATIENCE_S} s; {_START}."
            ) from error
        with client:
            _need_workers(client, address)
            executor: Executor = client.get_executor()
            yield executor


def _need_workers(client: Any, address: str) -> None:
    """Raise where there is nobody to work, or somebody who would work with other code."""
    from napari_btn import __version__

    def version_there() -> str:
        """What a worker has; a local function is sent whole, so that one without napari-btn can say so."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("napari-btn")
        except PackageNotFoundError:
            return "none"

    found = client.run(version_there)
    if not found:
        raise ValueError(f"The dask scheduler at {address!r} has no workers; {_START}.")
    wrong = sorted({f"{worker} has {what}" for worker, what in found.items() if what != __version__})
    if wrong:
        raise ValueError(
            f"Workers must have napari-btn {__version__}, as here: {'; '.join(wrong)}. Install it in their "
            "environments."
        )
