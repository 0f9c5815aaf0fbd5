"""The Hub's errors in words: what failed and what to do, for all that talks to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .text import first_line, one_line

__all__ = ['LOG_IN', 'explain_download', 'explain_upload', 'explain_weights']

LOG_IN = 'log in with "hf auth login", or set HF_TOKEN to a token that may write'

_NO_HUB = 'the server does not answer as a Hub does; is HF_ENDPOINT right?'

# The base of errors of the HTTP library that huggingface_hub uses: it has changed with the versions.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]


@contextmanager
def explain_weights(repository: str) -> Iterator[None]:
    """Turn the Hub's errors into one sentence that says what was tried and how else to get weights.

    Args:
        repository: The repository that is asked.

    Raises:
        FileNotFoundError: In place of the errors of ``huggingface_hub``.
    """
    try:
        yield
    except (_HTTP_ERROR, EntryNotFoundError, HFValidationError, ConnectionError, TimeoutError) as error:
        raise FileNotFoundError(
            f'cannot get weights from the repository {repository} of the Hub ({_reason(error)}); take them from the '
            "authors' file (pinas-models convert FILE OUT, or pretrained_cfg_overlay=dict(file=FILE)), from a model "
            'folder (local-dir:FOLDER), or from a namespace of your own on the Hub (environment variable '
            'PINAS_HUB_NAMESPACE)'
        ) from None


@contextmanager
def explain_download(repo_id: str, hint: str = '') -> Iterator[None]:
    """Turn errors of a download into one sentence.

    Args:
        repo_id: The repository that is asked.
        hint: What to add.

    Raises:
        FileNotFoundError: In place of the errors of ``huggingface_hub``.
    """
    try:
        yield
    except (_HTTP_ERROR, EntryNotFoundError, HFValidationError, OSError, RuntimeError, json.JSONDecodeError) as error:
        raise FileNotFoundError(f'cannot get {repo_id} from {constants.ENDPOINT}: {_reason(error)}{hint}') from error


@contextmanager
def explain_upload(repo_id: str) -> Iterator[None]:
    """Turn errors of an upload into one sentence.

    Args:
        repo_id: The repository that is written to.

    Raises:
        ConnectionError: If the Hub cannot be reached or the upload broke off.
        PermissionError: If the Hub does not accept the token, or the token has no right to write.
        ValueError: If the Hub refuses what is written; it says why.
    """
    try:
        yield
    except RuntimeError as error:  # how huggingface_hub reports a file that did not arrive
        cause = _reason(error.__cause__ or error)
        raise ConnectionError(
            f'the upload to {repo_id} broke off ({cause}) and nothing was published; run the command again: files '
            'that have arrived are not sent again'
        ) from error
    except json.JSONDecodeError as error:
        raise ConnectionError(f'{constants.ENDPOINT}: {_NO_HUB}') from error
    except (_HTTP_ERROR, OSError) as error:
        status = _http_status(error)
        if status == 401:
            raise PermissionError(f'the Hub does not accept your token: {LOG_IN}') from error
        if status == 403:
            namespace = repo_id.partition('/')[0]
            raise PermissionError(
                f'you have no right to write to {repo_id}: ask {namespace} for it, or use a token that may write there'
            ) from error
        if status is not None and 400 <= status < 500:
            raise ValueError(f'the Hub refuses {repo_id}: {_reason(error)}') from error
        raise ConnectionError(
            f'cannot upload to {repo_id} at {constants.ENDPOINT}: {_reason(error)}; run the command again later'
        ) from error


def _reason(error: BaseException) -> str:
    """Say in a few words why a request to the Hub failed."""
    if isinstance(error, GatedRepoError):
        return 'access is restricted: accept its conditions there and log in'
    if isinstance(error, RepositoryNotFoundError):
        return 'it does not exist, or is private and you are not logged in'
    if isinstance(error, RevisionNotFoundError):
        return 'it has no such revision'
    if isinstance(error, LocalEntryNotFoundError):
        cause = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else 'there is no connection'
        if (status := _http_status(error.__cause__)) is not None:  # it has answered, and then the cache was asked
            cause = f'the answer was HTTP {status}' + (', try again later' if status >= 500 else '')
        return f'it is not in the cache, and {cause}'
    if isinstance(error, json.JSONDecodeError):
        return _NO_HUB
    if isinstance(error, EntryNotFoundError):
        return 'it holds no weights'
    if constants.HF_HUB_OFFLINE and isinstance(error, ConnectionError):
        return 'HF_HUB_OFFLINE is set'
    if (status := _http_status(error)) is not None:
        message = one_line(getattr(error, 'server_message', None) or '')
        # The storage behind the Hub answers in XML, which says no more than the status.
        return f'HTTP {status}, {message}' if message and not message.startswith('<') else f'HTTP {status}'
    return first_line(error)


def _http_status(error: BaseException | None) -> int | None:
    """Status code of an answer that was an error; None if there was no answer."""
    return getattr(getattr(error, 'response', None), 'status_code', None)
