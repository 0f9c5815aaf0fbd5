"""Put a model folder on the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token

from ..cards import LOCAL_FOLDER, folder_card
from ..common.hub import LOG_IN, explain_upload
from ..loading import open_model
from .folder import CARD, CHECKSUMS, GOLDEN, PUBLISHED, WEIGHTS, write_checksums
from .golden import make_golden, save_tensors

__all__ = ['names_license', 'require_token', 'stage_folder', 'upload_folder']


def stage_folder(source: Path, target: Path, repo_id: str) -> list[str]:
    """Write a model folder as it is published; the source stays as it is.

    ``config.json``, ``model.safetensors``, ``README.md``, ``LICENSE`` and ``test/`` are copied. What is missing is
    made: safetensors from other weights, a card with what the code knows, golden tensors and checksums. In a card the
    folder's name is replaced by the repository's. Existing golden tensors and checksums are kept: whether the model
    still agrees with them is for ``verify_folder`` to say.

    Args:
        source: A folder that ``timm.create_model('local-dir:...')`` opens.
        target: Folder to write, empty or new.
        repo_id: ``ORG/name``.

    Returns:
        Sentences for the user: what was made and left out.

    Raises:
        OSError: If the source is missing, or the target has files or cannot be written.
        ValueError: If the source holds no model that loads.
    """
    model = open_model(source)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f'{target} is not empty: name another folder')
    (target / GOLDEN).parent.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    notes = []
    if not (target / WEIGHTS).exists():
        save_tensors(model.state_dict(), target / WEIGHTS)
        notes.append(f'{WEIGHTS} was made from the other weights in the folder')
    card = target / CARD
    if card.exists():  # as bytes, so that nothing else changes
        card.write_bytes(card.read_bytes().replace(LOCAL_FOLDER.encode(), f'hf-hub:{repo_id}'.encode()))
    else:
        card.write_text(folder_card(model, repo_id), encoding='utf-8', newline='\n')
        notes.append(f'{CARD} was made: it says what the code knows; add data, accuracy and limits on the Hub')
    if not (target / GOLDEN).exists():
        save_tensors(make_golden(model), target / GOLDEN)
        notes.append(f'{GOLDEN} was made')
    if not (target / CHECKSUMS).exists():
        write_checksums(target)
        notes.append(f'{CHECKSUMS} was made')
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob('*') if path.is_file())
    if left_out := [name for name in names if name not in PUBLISHED]:
        more = f' and {len(left_out) - 5} more' if len(left_out) > 5 else ''
        notes.append(f'left out: {", ".join(left_out[:5])}{more}')
    return notes


def names_license(folder: Path) -> bool:
    """Whether the card of a folder has a licence in its front matter."""
    return bool(ModelCard.load(folder / CARD).data.get('license'))


def require_token() -> None:
    """Check that the user is logged in to the Hub.

    Raises:
        PermissionError: If there is no token.
    """
    if get_token() is None:
        raise PermissionError(f'you are not logged in to the Hub: {LOG_IN} (huggingface.co/settings/tokens)')


def upload_folder(
    folder: Path, repo_id: str, *, private: bool = False, revision: str | None = None, message: str | None = None
) -> str:
    """Upload a folder, in one commit; the repository and the branch are made if they do not exist.

    Args:
        folder: A staged folder.
        repo_id: ``ORG/name``.
        private: Make a new repository private, and refuse an existing one that is public.
        revision: Branch to write to; None: the main one.
        message: Title of the commit.

    Returns:
        Address of the commit.

    Raises:
        ConnectionError: If the Hub cannot be reached or the upload broke off.
        PermissionError: If the user has no right to write there.
        ValueError: If the Hub refuses the folder.
    """
    api = HfApi(library_name='pinas-models')
    with explain_upload(repo_id):
        api.create_repo(repo_id, private=True if private else None, exist_ok=True)
        # The Hub leaves the visibility of an existing repository as it is.
        if private and not api.model_info(repo_id).private:
            raise ValueError(f'{repo_id} exists and is public: make it private on the Hub, or leave out --private')
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=message or 'Publish with pinas-models',
        )
    return commit.commit_url
