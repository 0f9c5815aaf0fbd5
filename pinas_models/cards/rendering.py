"""The templates of the cards and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ['render']


def render(template: str, front_matter: ModelCardData, values: Mapping[str, Any]) -> str:
    """Write a card.

    Args:
        template: File name in ``templates/``.
        front_matter: The Hub's metadata.
        values: What the template refers to; a name that is missing here is an error.
    """
    environment = Environment(
        loader=PackageLoader(__package__),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    environment.filters['thousands'] = '{:,}'.format
    body = environment.get_template(template).render(values)
    return f'---\n{front_matter.to_yaml()}\n---\n{body}'
