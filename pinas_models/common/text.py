"""Words of messages: texts of errors in one line, and the name that a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ['first_line', 'first_names', 'nearest', 'one_line']


def one_line(error: object, longest: int | None = None) -> str:
    """Put the text of an error, or any other, on one line; an error without a text gives the name of its type.

    Args:
        error: An exception or a text.
        longest: Number of characters to keep; None for all.
    """
    return (' '.join(str(error).split()) or _name(error))[:longest]


def first_line(error: object) -> str:
    """The first line of an error's text that says something; the name of its type if none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), _name(error))


def first_names(names: Iterable[object], most: int = 3, longest: int = 120) -> str:
    """The first few of many names, shortened, as a list that says whether there are more."""
    found = list(names)
    return ', '.join(str(name)[:longest] for name in found[:most]) + (', ...' if len(found) > most else '')


def nearest(name: str, known: Iterable[str], likeness: float = 0.6, most: int = 1) -> str:
    """Guess which name was meant.

    Args:
        name: What a user has written.
        known: What would have been right.
        likeness: How alike they must be, 0..1, in the measure of ``difflib``.
        most: Number of names to give.

    Returns:
        ``, did you mean NAME?`` to set behind a message, or nothing if no name is alike.
    """
    names = difflib.get_close_matches(name, list(known), n=most, cutoff=likeness)
    return f', did you mean {" or ".join(names)}?' if names else ''


def _name(error: object) -> str:
    return type(error).__name__ if isinstance(error, BaseException) else ''
