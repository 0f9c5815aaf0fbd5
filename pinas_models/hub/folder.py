"""What lies in a published model folder, and the checksums of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..checkpoints.writer import sha256

__all__ = [
    'CARD',
    'CHECKSUMS',
    'CONFIG',
    'GOLDEN',
    'LICENSE',
    'PUBLISHED',
    'WEIGHTS',
    'FolderFile',
    'list_files',
    'write_checksums',
    'wrong_checksums',
]

CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
CARD = 'README.md'
LICENSE = 'LICENSE'
GOLDEN = 'test/rand_tensors.safetensors'  # the name in timm's own repositories
CHECKSUMS = 'test/SHA256SUMS'
PUBLISHED = (CONFIG, WEIGHTS, CARD, LICENSE, GOLDEN, CHECKSUMS)

# The card is not among them: it may be improved on the Hub's web page, and what it says is checked for itself.
_SUMMED = (CONFIG, WEIGHTS, GOLDEN)
_LINE = re.compile(r'([0-9a-f]{64}) [ *](.+)')


@dataclass(frozen=True)
class FolderFile:
    """A file of a model folder.

    Attributes:
        name: Path inside the folder, with slashes.
        size: Bytes.
        sha256: Hexadecimal digest.
    """

    name: str
    size: int
    sha256: str


def list_files(folder: Path) -> list[FolderFile]:
    """List all files of a folder in the order of their names."""
    paths = sorted(path for path in folder.rglob('*') if path.is_file())
    return [FolderFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)) for path in paths]


def write_checksums(folder: Path) -> None:
    """Write ``test/SHA256SUMS``; ``sha256sum -c test/SHA256SUMS`` in the folder reads it as well."""
    lines = [f'{sha256(folder / name)}  {name}\n' for name in _SUMMED]
    (folder / CHECKSUMS).write_text(''.join(lines), encoding='utf-8', newline='\n')


def wrong_checksums(folder: Path) -> list[str]:
    """Compare the files with ``test/SHA256SUMS``.

    Returns:
        A sentence per file that is missing or differs, or per line that cannot be used; empty if all is well.

    Raises:
        OSError: If a file cannot be read.
    """
    if not (folder / CHECKSUMS).is_file():
        return [f'there is no {CHECKSUMS}']
    expected: dict[str, str] = {}
    problems: list[str] = []
    text = (folder / CHECKSUMS).read_text(encoding='utf-8', errors='replace')
    for number, line in enumerate(text.splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None or not _is_inside(found[2]):
            problems.append(f'line {number} of {CHECKSUMS} is not a checksum and a file of the folder')
        else:
            expected[found[2]] = found[1]
    problems += [f'{CHECKSUMS} has no checksum of {name}' for name in _SUMMED if name not in expected]
    for name, digest in expected.items():
        if not (folder / name).is_file():
            problems.append(f'{name} is missing')
        elif (actual := sha256(folder / name)) != digest:
            problems.append(f'{name} has sha256 {actual[:16]}..., {CHECKSUMS} says {digest[:16]}...')
    return problems


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and '..' not in path.parts and '\\' not in name and '\0' not in name
