"""``pinas-models publish``: put a model folder on the Hub."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from ..hub import (
    check_repo_id,
    list_files,
    names_license,
    require_token,
    stage_folder,
    upload_folder,
    verify_in_fresh_process,
)

__all__ = ['EXAMPLES', 'HELP', 'add_arguments', 'run']

HELP = 'check a model folder and upload it to the Hub'
EXAMPLES = """FOLDER is any folder that timm opens by local-dir:, such as a run's retrain/winner/model or one made by
"pinas-models convert --folder"; it is not changed. Published are config.json, model.safetensors, README.md, LICENSE
and test/ (golden tensors, checksums); what is missing of them is made, other files are left out. Nothing is uploaded
before the result has passed "pinas-models verify" in a process of its own.

An upload that was interrupted is taken up by running the command again.

examples:
  pinas-models publish runs/demo/retrain/winner/model ORG/pinas-mini-digits --dry-run
  pinas-models publish runs/demo/retrain/winner/model ORG/pinas-mini-digits --private
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('folder', metavar='FOLDER', help='the model folder')
    parser.add_argument('repository', metavar='ORG/name', help='the repository; it is made if it does not exist')
    parser.add_argument('--dry-run', action='store_true', help='write the folder, check it and upload nothing')
    parser.add_argument(
        '--out', metavar='DIR', help='folder that --dry-run writes (default: a new one among the temporary files)'
    )
    parser.add_argument('--private', action='store_true', help='for members of ORG only; refuses a public repository')
    parser.add_argument('--revision', metavar='BRANCH', help='branch to write to; it is made if it does not exist')
    parser.add_argument('--message', metavar='TEXT', help='title of the commit')


def run(args: argparse.Namespace) -> int:
    """Stage, check, and upload unless it is a dry run.

    Raises:
        OSError: If a file is missing, the Hub cannot be reached or the user has no right to write there.
        ValueError: If the folder holds no model, or an argument is wrong.
    """
    check_repo_id(args.repository)
    if args.out is not None and not args.dry_run:
        raise ValueError('--out is the folder that --dry-run writes; give both or none')
    source = Path(args.folder.removeprefix('local-dir:'))
    if args.dry_run:
        target = Path(args.out or tempfile.mkdtemp(prefix='pinas-models-publish-'))
        if not _prepare(source, target, args.repository):
            return 1
        print(f'dry run: the folder is {target}, nothing was uploaded')
        return 0
    require_token()
    if not sys.stderr.isatty():
        disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix='pinas-models-publish-') as temporary:
        target = Path(temporary)
        if not _prepare(source, target, args.repository):
            return 1
        address = upload_folder(
            target, args.repository, private=args.private, revision=args.revision, message=args.message
        )
    at = '' if args.revision is None else f'@{args.revision}'
    print(f"published: {address}\nopen it with timm.create_model('hf-hub:{args.repository}{at}', pretrained=True)")
    return 0


def _prepare(source: Path, target: Path, repository: str) -> bool:
    """Stage the folder, check it and say what is in it; False if a check failed."""
    for note in stage_folder(source, target, repository):
        print(f'note: {note}')
    passed, report = verify_in_fresh_process(target)
    print(report, end='')
    if not passed:
        print(
            f'pinas-models publish: {source} did not pass; if it was changed on purpose, delete its test/ so that the '
            'golden tensors and checksums are made anew',
            file=sys.stderr,
        )
        return False
    if not names_license(target):
        print('warning: the card names no licence (license: ... on top), so nobody may use the model', file=sys.stderr)
    for file in list_files(target):
        print(f'{file.size:>12,}  {file.sha256}  {file.name}')
    return True
