"""Run timm's own tests on our models, with the installed timm and, if that is another, the oldest that we allow.

The tests are fetched with pip once per version. The plugin ``retarget`` says what is run and how.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from fetch import fetch_tests, fetch_timm
from packaging.requirements import Requirement

HERE = Path(__file__).parent
CACHE = Path(sys.prefix) / 'timm-suite'  # in the environment: git ignores it and `make clean` removes it
FILES = (
    'test_models.py',
    'test_checkpoint_loading.py',
    'test_factory.py',
    'test_hub.py',
    'test_input_conv.py',
    'test_model_input.py',
)
# Random weights for the tags whose weights are on the Hub, in the layout of its cache: the tests take no network.
SEED = """
import sys
from pathlib import Path
import timm, pinas_models
from timm.models import save_for_hf
for name in timm.list_models(module='pinas', pretrained=True):
    if repository := timm.get_pretrained_cfg(name).hf_hub_id:
        folder = Path(sys.argv[1], 'models--' + repository.replace('/', '--'))
        (folder / 'refs').mkdir(parents=True)
        (folder / 'refs/main').write_text('0' * 40)
        save_for_hf(timm.create_model(name), folder / 'snapshots' / ('0' * 40), safe_serialization=True)
"""


def oldest_allowed() -> str:
    """The lower bound of timm in our requirements."""
    requirements = [Requirement(text) for text in metadata.requires('pinas-models') or ()]
    (bound,) = (s.version for r in requirements if r.name == 'timm' for s in r.specifier if s.operator == '>=')
    return bound


def main() -> None:
    """Run the tests of each version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--timm', action='append', metavar='VERSION', help='these versions instead')
    parser.epilog = 'All other options go to pytest, for example -n 2 -k pinas_mini.'
    args, pytest_args = parser.parse_known_args()
    installed = metadata.version('timm')
    versions = args.timm or sorted({installed, oldest_allowed()})
    failed = [version for version in versions if run(version, installed, pytest_args)]
    if failed:
        raise SystemExit(f"timm's own tests of {', '.join(failed)} fail")


def run(version: str, installed: str, pytest_args: list[str]) -> int:
    """Run the tests of one version; returns the exit code of pytest."""
    tests = fetch_tests(version, CACHE)
    path = [str(HERE)] if version == installed else [str(fetch_timm(version, CACHE)), str(HERE)]
    with tempfile.TemporaryDirectory() as hub:
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(path), 'HF_HUB_CACHE': hub, 'HF_HUB_OFFLINE': '1'}
        env.pop('GITHUB_ACTIONS', None)  # timm leaves out tests there
        subprocess.run([sys.executable, '-c', SEED, hub], env=env, check=True)
        files = [str(tests / name) for name in FILES if (tests / name).exists()]
        options = ['-p', 'retarget', '-c', str(HERE / 'pytest.ini'), '--rootdir', str(tests)]
        command = [sys.executable, '-m', 'pytest', *options, *files, *pytest_args]
        return subprocess.run(command, env=env, check=False).returncode


if __name__ == '__main__':
    main()
