"""Which checkpoint a training goes on from."""

from __future__ import annotations

import zipfile
from pathlib import Path

__all__ = ['find_checkpoint', 'make_room', 'seed_of']


def find_checkpoint(work_dir: Path) -> Path | None:
    """Find the last checkpoint of a training, whenever it was stopped.

    mmengine writes the checkpoint, then its name into ``last_checkpoint``, and deletes older ones before: a kill in
    between leaves a name without a file, or none. Then it is the file with the highest number.

    Args:
        work_dir: Where the training writes.

    Returns:
        The checkpoint; None if the training has made none.

    Raises:
        FileNotFoundError: If the one that is named is gone and there is no other.
        ValueError: If it is not whole.
    """
    pointer = work_dir / 'last_checkpoint'
    named = pointer.read_text(encoding='utf-8').strip() if pointer.is_file() else ''
    saved = _saved(work_dir)
    # The name may be of before the folder was moved.
    found = [path for path in (Path(named), work_dir / Path(named).name) if named and path.is_file()] or saved
    if not found:
        if not named:
            return None
        best = ', '.join(sorted(path.name for path in work_dir.glob('best_*.pth')))
        hint = f'; it has {best}, which --load-from FILE --resume goes on from' if best else ''
        raise FileNotFoundError(f'{named}, the last checkpoint of {work_dir}, is gone, and there is no other{hint}')
    if not zipfile.is_zipfile(found[0]):
        others = ', '.join(path.name for path in saved if path.name != found[0].name)
        hint = f'; {work_dir} has {others} as well: --load-from FILE --resume goes on from it' if others else ''
        raise ValueError(f'{found[0]}: is not a whole checkpoint, its end is missing{hint}')
    return found[0]


def make_room(work_dir: Path, force: bool) -> None:
    """Refuse to train where an earlier training has left checkpoints, or delete them.

    Args:
        work_dir: Where the new training will write.
        force: Delete them.

    Raises:
        FileExistsError: If there are some.
    """
    earlier = [*_saved(work_dir), *sorted(work_dir.glob('best_*.pth'))]
    if earlier and not force:
        raise FileExistsError(
            f'{work_dir} has checkpoints of an earlier training ({", ".join(path.name for path in earlier[:3])}): '
            '--resume goes on from the last one, --work-dir DIR starts elsewhere, --force deletes them'
        )
    (work_dir / 'last_checkpoint').unlink(missing_ok=True)
    for path in earlier:
        path.unlink()


def seed_of(checkpoint: str) -> int | None:
    """The seed of the training that a checkpoint is of.

    Raises:
        OSError: If there is no such file.
        ValueError: If it cannot be read.
    """
    from ..patches.checkpoints import read

    content = read(checkpoint, map_location='cpu')
    return content.get('meta', {}).get('seed') if isinstance(content, dict) else None


def _saved(work_dir: Path) -> list[Path]:
    """Numbered checkpoints, the last one first."""
    numbered = [path for kind in ('epoch', 'iter') for path in work_dir.glob(f'{kind}_*.pth')]
    numbered = [path for path in numbered if path.stem.split('_')[1].isdigit()]
    return sorted(numbered, key=lambda path: int(path.stem.split('_')[1]), reverse=True)
