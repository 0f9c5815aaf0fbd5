"""timm's tests and other versions of timm, fetched with pip into an ignored folder."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

__all__ = ['fetch_tests', 'fetch_timm']


def fetch_tests(version: str, cache: Path) -> Path:
    """Take timm's tests out of its source distribution; nothing is done if they are there.

    Args:
        version: Version of timm.
        cache: Folder for what is fetched.

    Returns:
        Folder of the tests. There is no ``timm`` beside it: pytest would import that one instead of the installed.

    Raises:
        SystemExit: If pip cannot get it; pip has said why.
    """
    tests = cache / version / 'tests'
    if tests.is_dir():
        return tests
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _pip('download', '--no-deps', '--no-binary', 'timm', '--dest', folder, f'timm=={version}')
        (archive,) = Path(folder).glob('timm-*.tar.gz')
        prefix = archive.name.removesuffix('.tar.gz')
        with tarfile.open(archive) as file:
            members = [member for member in file.getmembers() if member.name.startswith(f'{prefix}/tests/')]
            file.extractall(folder, members, filter='data')
        tests.parent.mkdir(exist_ok=True)
        (Path(folder) / prefix / 'tests').rename(tests)
    return tests


def fetch_timm(version: str, cache: Path) -> Path:
    """Install a version of timm, without what it depends on, into a folder to put on the import path.

    Args:
        version: Version of timm.
        cache: Folder for what is fetched.

    Raises:
        SystemExit: If pip cannot get it; pip has said why.
    """
    site = cache / version / 'site'
    if not site.is_dir():
        site.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _pip('install', '--no-deps', '--target', f'{folder}/site', f'timm=={version}')
            (Path(folder) / 'site').rename(site)
    return site


def _pip(*arguments: str) -> None:
    if subprocess.run([sys.executable, '-m', 'pip', '--quiet', *arguments], check=False).returncode:
        raise SystemExit(f"cannot fetch {arguments[-1]}: timm's own tests need it once, see above")
