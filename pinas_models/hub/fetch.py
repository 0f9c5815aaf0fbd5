"""Find the model folder that a user names: on the disk or on the Hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import validate_repo_id

from ..common.hub import explain_download
from ..loading import resolve_name
from .folder import CHECKSUMS, CONFIG, PUBLISHED, wrong_checksums

__all__ = ['check_repo_id', 'find_folder']


def find_folder(name: str, revision: str | None = None) -> tuple[Path, str]:
    """Find a model folder; one of the Hub is downloaded to the cache, again if its checksums are wrong there.

    Args:
        name: A folder, ``ORG/name`` of the Hub, or one of them with its scheme: ``local-dir:`` or ``hf-hub:``. A folder
            of that name has precedence.
        revision: Branch, tag or commit of the repository; also ``ORG/name@revision``.

    Returns:
        The folder, and what it is in words.

    Raises:
        OSError: If there is no such folder or repository.
        ValueError: If the name can be neither, or a revision is given for a folder.
    """
    scheme, colon, rest = name.partition(':')
    on_hub = bool(colon) and scheme in ('hf-hub', 'hf_hub')
    if not on_hub:
        folder = Path(rest if colon and scheme == 'local-dir' else name)
        if folder.is_dir() or folder != Path(name) or name.count('/') != 1:
            if revision is not None:
                raise ValueError(f'{name} is a folder: it has no revisions, leave --revision out')
            resolve_name(folder)
            return folder, f'the folder {folder}'
        rest = name
    repo_id, _, tagged = rest.partition('@')
    check_repo_id(repo_id)
    with explain_download(repo_id, '' if on_hub else f'; and there is no folder {name}'):
        snapshot = _download(repo_id, revision or tagged or None)
        if (snapshot / CHECKSUMS).is_file() and wrong_checksums(snapshot) and not constants.HF_HUB_OFFLINE:
            # A file that arrived damaged would stay in the cache for good.
            snapshot = _download(repo_id, revision or tagged or None, force_download=True)
    if not (snapshot / CONFIG).is_file():
        raise FileNotFoundError(f'{repo_id} is no model of timm: it has no {CONFIG}')
    return snapshot, f'{repo_id} on the Hub, commit {snapshot.name}'


def _download(repo_id: str, revision: str | None, force_download: bool = False) -> Path:
    patterns = list(PUBLISHED)
    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, force_download=force_download))


def check_repo_id(repo_id: str) -> None:
    """Check the spelling of ``ORG/name``.

    Raises:
        ValueError: If it is no name of a repository.
    """
    if repo_id.count('/') != 1:
        raise ValueError(f'{repo_id!r} is no repository of the Hub: write ORG/name, with your user name as ORG')
    validate_repo_id(repo_id)
