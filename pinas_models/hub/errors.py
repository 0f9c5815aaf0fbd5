"""The Hub's errors in one sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.utils import EntryNotFoundError, HFValidationError

from ..hub_errors import HTTP_ERROR, http_status, reason

__all__ = ['LOG_IN', 'explain_download', 'explain_upload']

LOG_IN = 'log in with "hf auth login", or set HF_TOKEN to a token that may write'


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
    except (HTTP_ERROR, EntryNotFoundError, HFValidationError, OSError, RuntimeError) as error:
        raise FileNotFoundError(f'cannot get {repo_id} from {constants.ENDPOINT}: {reason(error)}{hint}') from error


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
        cause = reason(error.__cause__ or error)
        raise ConnectionError(
            f'the upload to {repo_id} broke off ({cause}) and nothing was published; run the command again: files '
            'that have arrived are not sent again'
        ) from error
    except json.JSONDecodeError as error:
        raise ConnectionError(f'{constants.ENDPOINT} does not answer as a Hub does; is HF_ENDPOINT right?') from error
    except (HTTP_ERROR, OSError) as error:
        status = http_status(error)
        if status == 401:
            raise PermissionError(f'the Hub does not accept your token: {LOG_IN}') from error
        if status == 403:
            namespace = repo_id.partition('/')[0]
            raise PermissionError(
                f'you have no right to write to {repo_id}: ask {namespace} for it, or use a token that may write there'
            ) from error
        if status is not None and 400 <= status < 500:
            raise ValueError(f'the Hub refuses {repo_id}: {reason(error)}') from error
        raise ConnectionError(
            f'cannot upload to {repo_id} at {constants.ENDPOINT}: {reason(error)}; run the command again later'
        ) from error
