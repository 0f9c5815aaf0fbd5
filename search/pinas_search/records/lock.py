"""One process at a time owns a run directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ['own']


@contextmanager
def own(run_dir: Path, timeout: float = 0.0) -> Iterator[None]:
    """Own a run directory inside the block. The system takes the lock back from a process that dies.

    Args:
        run_dir: The directory.
        timeout: Seconds to wait for another owner to end.

    Raises:
        ValueError: If another process owns it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / '.lock', timeout=timeout)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(
            f'{run_dir} is in use by another process (it holds {lock.lock_file}): wait for it, or choose another --out'
        ) from error
    try:
        yield
    finally:
        lock.release()
