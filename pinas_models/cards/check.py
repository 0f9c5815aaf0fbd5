"""Does a model card say what is true of the model?"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from timm.models import get_model_input_config
from torch import nn

from ..common.text import one_line
from ..inspect.costs import measure_costs

__all__ = ['check_card']

_FRONT_MATTER = re.compile(r'\A\s*---\r?\n.*?\n---\r?(\n|\Z)', re.DOTALL)
_PARAMETERS = re.compile(r'^- Parameters:? (\d[\d,]*)', re.MULTILINE)
_MACS = re.compile(r'[Mm]ultiply-accumulates:? (\d[\d,]*) at (\d+)(?: x (\d+))? px')
# What templates and drafts leave behind. Not among them: a path or name that the reader replaces by his own.
_PLACEHOLDERS = re.compile(r'TODO|FIXME|\bTBD\b|\{\{.*?\}\}|\{%.*?%\}|\[More Information Needed\]')


def check_card(readme: Path, model: nn.Module) -> None:
    """Compare a model card with its model.

    The card must have front matter that the Hub can read and that names timm as the library, must state the number of
    parameters in a line ``- Parameters 1,234``, and must have no placeholder left. Multiply-accumulates are compared
    as well where the card states them (``multiply-accumulates 5,678 at 32 px``).

    Args:
        readme: The card, a ``README.md``.
        model: The model it describes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the card breaks one of these rules; the message names the file, the rule and the remedy.
    """
    text = readme.read_text(encoding='utf-8')
    _check_front_matter(readme, text)
    if found := _PLACEHOLDERS.search(text):
        line = text.count('\n', 0, found.start()) + 1
        raise ValueError(f'{readme}, line {line}: {found[0]!r} is a placeholder; fill it in or delete it')

    params = sum(parameter.numel() for parameter in model.parameters())
    stated = [_number(number) for number in _PARAMETERS.findall(text)]
    if not stated:
        raise ValueError(f'{readme} does not state the number of parameters: add the line "- Parameters {params:,}"')
    if wrong := [number for number in stated if number != params]:
        raise ValueError(f'{readme} states {wrong[0]:,} parameters, the model has {params:,}: is it the same model?')
    for number, height, width in _MACS.findall(text):
        size = (get_model_input_config(model)['input_size'][0], int(height), int(width or height))
        macs = measure_costs(model, size).macs
        if _number(number) != macs:
            raise ValueError(f'{readme} states {number} multiply-accumulates at {size[1]}x{size[2]} px, not {macs:,}')


def _check_front_matter(readme: Path, text: str) -> None:
    if not _FRONT_MATTER.match(text):
        raise ValueError(f'{readme} has no front matter: it must begin with a YAML block between two lines "---"')
    try:
        data = ModelCard(text).data
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f'{readme} has front matter that the Hub cannot read: {one_line(error)}') from error
    if (library := data.get('library_name')) != 'timm':
        raise ValueError(f'{readme} says library_name {library!r}; it must be timm, or the Hub will not know it')


def _number(text: str) -> int:
    return int(text.replace(',', ''))
