"""Is a model folder what was published?"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..cards import check_card
from ..common.text import one_line
from ..loading import open_model
from .folder import CARD, GOLDEN, wrong_checksums
from .golden import TOLERANCE, check_golden

__all__ = ['Check', 'verify_folder', 'verify_in_fresh_process']


@dataclass(frozen=True)
class Check:
    """One check of a folder.

    Attributes:
        name: ``checksums``, ``weights``, ``golden`` or ``card``.
        passed: Whether it passed.
        detail: What was found, in a sentence.
    """

    name: str
    passed: bool
    detail: str


def verify_folder(folder: Path, tolerance: float = TOLERANCE) -> list[Check]:
    """Check a model folder: checksums, loading, golden tensors, card.

    The checksums find any flipped bit of the configuration, the weights and the golden tensors. The golden tensors find
    a machine or a version of a library that computes something else, and weights that do not belong to them. They are
    no substitute for the checksums: of 960 single bits flipped in the weights of a ``pinas_mini`` they found half of
    those in signs and exponents, a fifth of those in the upper seven bits of mantissas and next to none below.

    Args:
        folder: The folder.
        tolerance: See ``check_golden``.

    Returns:
        A check per name; several for checksums that are wrong. Golden tensors and card are left out if the model does
        not load.
    """
    try:
        problems = wrong_checksums(folder)
    except OSError as error:
        problems = [one_line(error)]
    checks = [Check('checksums', False, problem) for problem in problems]
    if not checks:
        checks.append(Check('checksums', True, 'every file has its sha256'))
    try:
        model = open_model(folder)
    except (OSError, ValueError) as error:
        return [*checks, Check('weights', False, one_line(error))]
    params = sum(parameter.numel() for parameter in model.parameters())
    checks.append(Check('weights', True, f'{type(model).__name__} of {params:,} parameters'))
    try:
        difference = check_golden(model, folder / GOLDEN, tolerance)
        found = f'differs by {difference:.1e} of the largest value' if difference else 'equal bit by bit'
        checks.append(Check('golden', True, f'{found} ({tolerance:g} allowed)'))
    except FileNotFoundError:
        checks.append(Check('golden', False, f'there is no {GOLDEN}'))
    except (OSError, ValueError) as error:
        checks.append(Check('golden', False, one_line(error)))
    try:
        check_card(folder / CARD, model)
        checks.append(Check('card', True, 'readable, and its numbers are those of the model'))
    except FileNotFoundError:
        checks.append(Check('card', False, f'there is no {CARD}'))
    except (OSError, ValueError) as error:
        checks.append(Check('card', False, one_line(error)))
    return checks


def verify_in_fresh_process(folder: Path) -> tuple[bool, str]:
    """Verify a folder with a Python process of its own: nothing that is alive in this one can help the model.

    Args:
        folder: The folder.

    Returns:
        Whether all checks passed, and what ``pinas-models verify`` printed.

    Raises:
        ValueError: If the process did not get so far.
    """
    command = [sys.executable, '-m', 'pinas_models.cli', 'verify', f'local-dir:{folder}']
    done = subprocess.run(command, capture_output=True, text=True, encoding='utf-8', check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        lines = done.stderr.strip().splitlines() or [f'exit code {done.returncode}']
        raise ValueError(f'{folder} could not be verified in a process of its own: {lines[-1]}')
    return done.returncode == 0, done.stdout
