"""Run timm's own tests on our models: with the installed timm, and with the oldest that we allow if that is another."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from fetch import fetch_tests, fetch_timm

HERE = Path(__file__).parent
FILES = (
    'test_models.py',
    'test_checkpoint_loading.py',
    'test_factory.py',
    'test_hub.py',
    'test_input_conv.py',
    'test_model_input.py',
)
# In a folder that git ignores and `make clean` removes.
CACHE = Path(sys.prefix) / 'timm-suite'
# Weights for the tags that live on the Hub, in the layout of its cache, so that the tests need no network.
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
    (bound,) = {m[1] for r in metadata.requires('pinas-models') or () if (m := re.match(r'timm\b.*>=([\d.]+)', r))}
    return bound


def main() -> None:
    """Run the tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Other options go to pytest, for example -n 2 -k mini.'
    )
    parser.add_argument('--timm', action='append', metavar='VERSION', help='another version; may be given repeatedly')
    args, pytest_args = parser.parse_known_args()
    installed = metadata.version('timm')
    failed = [v for v in args.timm or sorted({installed, oldest_allowed()}) if run(v, installed, pytest_args)]
    if failed:
        raise SystemExit(f"timm's own tests fail on our models: {', '.join(failed)}")


def run(version: str, installed: str, pytest_args: list[str]) -> int:
    """Run the tests of one version; returns pytest's exit code."""
    tests = fetch_tests(version, CACHE)
    path = [str(HERE)] if version == installed else [str(fetch_timm(version, CACHE)), str(HERE)]
    with tempfile.TemporaryDirectory() as hub:
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join(path), 'HF_HUB_CACHE': hub, 'HF_HUB_OFFLINE': '1'}
        env.pop('GITHUB_ACTIONS', None)  # there, timm leaves out tests
        subprocess.run([sys.executable, '-c', SEED, hub], env=env, check=True)
        files = [str(tests / name) for name in FILES if (tests / name).exists()]
        command = ['-m', 'pytest', '-p', 'retarget', '-c', str(HERE / 'pytest.ini'), '--rootdir', str(tests), *files]
        return subprocess.run([sys.executable, *command, *pytest_args], env=env, check=False).returncode


if __name__ == '__main__':
    main()
