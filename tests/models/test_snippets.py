"""Every Python snippet in documents, site and cards runs as printed, without network, and prints what it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

import pinas_models  # noqa: F401 - registers the models
from pinas_models.cards import folder_card
from pinas_search.records import Trials
from pinas_search.scoring import Score
from pinas_search.spaces import mini

ROOT = Path(__file__).parents[2]
# The pages of the site include READMEs, whose snippets count where they stand.
PATTERNS = ('*.md', '*/README.md', 'model_cards/*/README.md', 'docs/**/*.md')
DOCUMENTS = sorted({path for pattern in PATTERNS for path in ROOT.glob(pattern)})
TOYS = ROOT / 'tests' / 'search' / 'toys'

# Runs snippets, each in a namespace of its own, in one process: importing torch takes longer than most of them.
RUNNER = """
import contextlib, io, json, sys, traceback

results = []
for name, code in json.load(sys.stdin):
    out, error = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            exec(compile(code, name, 'exec'), {'__name__': '__main__'})
        except BaseException:
            error = traceback.format_exc()
    results.append({'out': out.getvalue(), 'error': error})
json.dump(results, sys.stdout)
"""


@dataclass(frozen=True)
class Snippet:
    """A block of Python.

    Attributes:
        name: Document and line, for messages.
        code: The code.
    """

    name: str
    code: str


def snippets_of(name, text):
    """The Python blocks of a Markdown text; code in an unknown dialect would slip through, so that is an error."""
    blocks = re.finditer(r'^```(\w*)\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    found = []
    for block in blocks:
        assert block[1] in ('', 'python', 'bibtex', 'yaml', 'bash', 'console', 'text'), f'{name}: {block[1]}'
        assert block[1] == 'python' or not re.search(r'^(import|from) \w+', block[2], re.MULTILINE), (
            f'{name}: {block[0]}'
        )
        if block[1] == 'python':
            found.append(Snippet(f'{name}:{text.count(chr(10), 0, block.start()) + 2}', block[2]))
    return found


def folder_card_document():
    model = timm.create_model('pinas_mini', choices='31203121', device='meta')
    return 'folder card', folder_card(model, 'somebody/found')


SNIPPETS = [
    snippet
    for name, text in [
        *((str(path.relative_to(ROOT)), path.read_text(encoding='utf-8')) for path in DOCUMENTS),
        folder_card_document(),
    ]
    for snippet in snippets_of(name, text)
]


def put_on_hub(hub, repository, model):
    """Place a model in an offline cache of the Hub, as if it had been downloaded."""
    revision = '0123456789' * 4
    folder = hub / f'models--{repository.replace("/", "--")}'
    (folder / 'refs').mkdir(parents=True)
    (folder / 'refs' / 'main').write_text(revision)
    save_for_hf(model, str(folder / 'snapshots' / revision), safe_serialization=True)


def make_study(run_dir):
    """The study of a search that has scored one network."""
    (run_dir / 'search').mkdir(parents=True)
    trials, moment = Trials(run_dir / 'search' / 'journal.log', mini()), datetime(2026, 11, 24)
    trials.add((0, 0, 3, 0, 3, 2, 3, 1), Score(0.5), moment, moment)


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """What each snippet printed and raised."""
    hub, home = tmp_path_factory.mktemp('hub'), tmp_path_factory.mktemp('home')
    make_study(home / 'runs' / 'demo')
    torch.manual_seed(0)
    put_on_hub(hub, 'pinas-models/pinas_cls.in1k', timm.create_model('pinas_cls.in1k'))
    trans = timm.create_model('pinas_trans.coco')
    for tag in ('coco', 'ade20k', 'cityscapes'):
        put_on_hub(hub, f'pinas-models/pinas_trans.{tag}', trans)
    put_on_hub(hub, 'somebody/found', timm.create_model('pinas_mini', choices='31203121'))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'PINAS_'))}
    environment |= {'HF_HUB_CACHE': str(hub), 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c', RUNNER],
        input=json.dumps([[snippet.name, snippet.code] for snippet in SNIPPETS]),
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    shutil.rmtree(hub)  # 400 MB
    assert done.returncode == 0, done.stderr
    return {snippet.name: result for snippet, result in zip(SNIPPETS, json.loads(done.stdout), strict=True)}


def test_there_are_snippets():
    documents = [snippet.name.rsplit(':', 1)[0] for snippet in SNIPPETS]
    assert {'README.md', 'search/README.md', 'downstream/README.md', 'CONTRIBUTING.md'} <= set(documents)
    for card in (ROOT / 'model_cards').iterdir():
        assert documents.count(f'model_cards/{card.name}/README.md') == 3


@pytest.mark.parametrize('snippet', SNIPPETS, ids=lambda snippet: snippet.name)
def test_snippet_runs_and_prints_what_it_says(snippet, results):
    result = results[snippet.name]
    assert result['error'] is None, result['error']
    promised = re.findall(r'^# (\(.*\))$', snippet.code, re.MULTILINE)  # a shape in a line of its own
    printed = [line for line in result['out'].splitlines() if line.startswith('(')]
    if promised:
        assert printed == promised
    if 'print(' in snippet.code:
        assert result['out'].strip()


@pytest.mark.parametrize('snippet', SNIPPETS, ids=lambda snippet: snippet.name)
def test_snippet_imports_the_package_that_registers_the_models(snippet):
    assert ('create_model(' in snippet.code) <= ('import pinas_models' in snippet.code)


def test_examples_of_parts_are_those_that_go_through_all_stages():
    printed = [snippet.code for snippet in SNIPPETS if snippet.name.startswith('CONTRIBUTING.md')]
    for toy in ('all_choices.py', 'two_branches.py', 'guess.py'):
        assert (TOYS / toy).read_text(encoding='utf-8') in printed
    method = (TOYS / 'all_choices.py').read_text(encoding='utf-8')
    assert len([line for line in method.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize('path', sorted((ROOT / 'search' / 'configs').glob('*.yaml')), ids=lambda path: path.stem)
def test_a_configuration_begins_with_what_it_is_for_and_what_it_cost(path):
    lines = path.read_text(encoding='utf-8').splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith('#'))]
    said = [line[2:].split(':')[0] for line in head if not line.startswith('#  ')]
    assert said == ['Purpose', 'Command', 'Cost', 'Result']
    assert f'--config {path.stem}' in '\n'.join(head)
