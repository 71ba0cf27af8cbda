"""Execution on the workers of a dask scheduler, with the same results as on one machine."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

__all__ = ["connected"]

_PATIENCE_S = 10  # longest wait for an answer of the scheduler
_LARGE = "64MiB"  # size of a tile of a volume or a few batches; dask warns from 10 MiB on by default
_START = "start one with `dask scheduler`, and `dask worker ADDRESS` on each machine"


@contextmanager
def connected(address: str) -> Iterator[Executor]:
    """Connect to a dask scheduler; yield an executor that runs tasks on its workers.

    Pass it to `Denoiser.fit`, `Denoiser.predict` and their steps as ``executor``. Members and pixels are the
    same as with local processes, for any number of workers.

    Parameters
    ----------
    address : str
        Address of the scheduler, e.g. "tcp://10.0.0.1:8786"; the scheme may be left out.

    Raises
    ------
    ValueError
        If dask is not installed, no scheduler answers, it has no workers, or a worker has no napari-btn or
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
    """Raise ``ValueError`` if there are no workers, or a worker has another version of the code."""
    from napari_btn import __version__

    def version_there() -> str:
        """Return the version on a worker; a local function also runs on a worker without napari-btn."""
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
