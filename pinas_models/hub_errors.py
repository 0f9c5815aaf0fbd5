"""The Hub's errors in words, for all that talks to it."""

from __future__ import annotations

from huggingface_hub import constants
from huggingface_hub.utils import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

__all__ = ['HTTP_ERROR', 'http_status', 'reason']

# The base of errors of the HTTP library that huggingface_hub uses: it has changed with the versions.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]


def reason(error: BaseException) -> str:
    """Say in a few words why a request to the Hub failed."""
    if isinstance(error, GatedRepoError):
        return 'access is restricted: accept its conditions there and log in'
    if isinstance(error, RepositoryNotFoundError):
        return 'it does not exist, or is private and you are not logged in'
    if isinstance(error, RevisionNotFoundError):
        return 'it has no such revision'
    if isinstance(error, LocalEntryNotFoundError):
        cause = 'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else 'there is no connection'
        return f'it is not in the cache, and {cause}'
    if isinstance(error, EntryNotFoundError):
        return 'it holds no weights'
    if constants.HF_HUB_OFFLINE and isinstance(error, ConnectionError):
        return 'HF_HUB_OFFLINE is set'
    if (status := http_status(error)) is not None:
        message = ' '.join(str(getattr(error, 'server_message', None) or '').split())
        # The storage behind the Hub answers in XML, which says no more than the status.
        return f'HTTP {status}, {message}' if message and not message.startswith('<') else f'HTTP {status}'
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def http_status(error: BaseException) -> int | None:
    """Status code of an answer that was an error; None if there was no answer."""
    return getattr(getattr(error, 'response', None), 'status_code', None)
