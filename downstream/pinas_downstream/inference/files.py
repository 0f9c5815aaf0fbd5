"""Files that commands write, named after images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ['output_names']


def output_names(images: Sequence[Path]) -> dict[Path, str]:
    """Give each image a name of its own for what is made of it.

    Args:
        images: Different files.

    Returns:
        Image -> the part of its path below the folder that they share, without suffix, unless two differ in the
        suffix alone.
    """
    if not images:
        return {}
    root = Path(os.path.commonpath([path.absolute().parent for path in images]))
    relative = {path: path.absolute().relative_to(root) for path in images}
    bare = {path: str(name.with_suffix('')) for path, name in relative.items()}
    return bare if len(set(bare.values())) == len(bare) else {path: str(name) for path, name in relative.items()}
