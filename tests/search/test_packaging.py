"""What an installed wheel holds, and what an import costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_finds_its_configurations_by_name(tmp_path):
    build = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run([*build, '--wheel-dir', str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob('*.whl')
    site = tmp_path / 'site'
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = 'from pinas_search.config import *; print(*builtin_configs()); print(parse_config(["digits"], []).space)'
    code = f'import pinas_search; assert pinas_search.__file__.startswith({str(site)!r}); {code}'
    result = subprocess.run(
        [sys.executable, '-c', code], env={'PYTHONPATH': str(site)}, capture_output=True, text=True, check=True
    )
    names, space = result.stdout.splitlines()
    assert {path.stem for path in (ROOT / 'search' / 'configs').glob('*.yaml')} == set(names.split())
    assert space == 'mini'
    studies = {path.name for path in (ROOT / 'search' / 'configs' / 'studies').iterdir()}
    assert studies == {path.name for path in (site / 'pinas_search' / 'configs' / 'studies').iterdir()}
    downstream = ROOT / 'downstream' / 'configs'
    packaged = site / 'pinas_downstream' / 'configs'
    configs = {path.relative_to(downstream): path.read_text() for path in downstream.rglob('*.py')}
    assert {path.relative_to(packaged): path.read_text() for path in packaged.rglob('*.py')} == configs
    # Each is found by its name and finds what it inherits from, also from another folder.
    code = (
        'from pinas_downstream.config import *; names = list(builtin_configs()); '
        f'assert all(str(find_config(name)).startswith({str(site)!r}) for name in names); '
        'print(*names, *{load_config(name).model.type for name in names})'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        env={'PYTHONPATH': str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {path.stem for path in downstream.glob('mm*/*.py')}
    assert names | {'MaskRCNN', 'EncoderDecoder', 'MultiEvalEncoderDecoder'} == set(result.stdout.split())
    assert (site / 'pinas_models' / 'weights' / 'pinas_mini.cifar10.safetensors').stat().st_size > 1_000_000
    packages = {path.name for path in site.iterdir()}
    assert {'pinas_models', 'pinas_search', 'pinas_downstream'} <= packages
    assert not packages & {'tests', 'benchmarks', 'search'}


def test_imports_are_cheap():
    """What only a search or a report needs is imported by them."""
    heavy = 'print([m for m in ("optuna", "matplotlib", "jinja2", "scipy") if m in sys.modules])'
    code = 'import sys' + ''.join(
        f'; import pinas_search.{name}; {heavy}' for name in ('spaces', 'report', 'strategies')
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    spaces, report, strategies = done.stdout.splitlines()
    assert report == spaces
    assert 'optuna' not in strategies
    assert 'matplotlib' not in strategies
