"""``python -m pinas_models.cards FOLDER``: write the cards of the published weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from .published import write_cards


def main() -> None:
    """Write the cards and name the files."""
    parser = argparse.ArgumentParser(prog='python -m pinas_models.cards', description=__doc__)
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='such as model_cards')
    for path in write_cards(parser.parse_args().folder):
        print(path)


if __name__ == '__main__':
    main()
