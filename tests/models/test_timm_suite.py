"""``tests/timm_suite`` runs timm's own tests on our models: it fails when it should, and what it leaves out."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import pinas_models  # noqa: F401  # registers the models

SUITE = Path(__file__).parents[1] / 'timm_suite'
TESTS = """
import pytest
from timm import create_model, list_models

def check(model_name):
    if model_name == {skipped!r}:
        pytest.skip()
    assert create_model(model_name, device='meta').choices

@pytest.mark.parametrize('model_name', list_models(module='resnet'))
def test_on_all_models(model_name):
    check(model_name)

@pytest.mark.parametrize('model_name', ['resnet18'])
def test_prune_to_stem_feature(model_name):
    check(model_name)

def test_resnet_pruned_grad_checkpointing():
    check('test_resnet')

def test_of_another_model():
    raise AssertionError
"""
FORGET_MODELS = 'import pinas_models, timm.models._registry as r; r._module_to_models["pinas"] = {"pinas_cls"}'


def run_plugin(folder, skipped='', before=''):
    """Run a small suite under the plugin; returns the exit code and what it printed."""
    (folder / 'test_models.py').write_text(TESTS.format(skipped=skipped))
    code = (
        f'import sys; sys.path.insert(0, {str(SUITE)!r}); {before}\nimport pytest; sys.exit(pytest.main(sys.argv[1:]))'
    )
    options = ['-p', 'retarget', '-c', SUITE / 'pytest.ini', '--rootdir', folder]
    command = [sys.executable, '-c', code, *options, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_suite_runs_on_our_models_and_fails_if_one_passes_no_test(tmp_path):
    code, text = run_plugin(tmp_path, skipped='pinas_mini')
    models = timm.list_models(module='pinas')
    assert f'{3 * (len(models) - 1)} passed, 3 skipped, 1 deselected' in text
    assert ', '.join(f'{model} passed {0 if model == "pinas_mini" else 3}' for model in models) in text
    assert code == pytest.ExitCode.TESTS_FAILED


def test_suite_fails_if_models_are_not_found(tmp_path):
    code, text = run_plugin(tmp_path, before=FORGET_MODELS)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "fewer than 2 models of the module 'pinas': ['pinas_cls']" in text


# The one test of the suite that a network with attention cannot pass trains with one image, and then the batch
# normalisation of the attention has one value per channel. With two it holds.
@pytest.mark.parametrize('name', ['pinas_mini', 'pinas_subnet'])
def test_forward_after_pruning_with_two_images(name):
    small = dict(layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), stem_width=8, choices='3012')
    model = timm.create_model(name, **small).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for index in range(len(model.feature_info)):
        pruned = copy.deepcopy(model)
        pruned.prune_intermediate_layers([index])
        with torch.inference_mode():
            final, intermediates = pruned.forward_intermediates(x, indices=[index])
            assert torch.equal(pruned.forward_features(x), final)
            assert torch.equal(final, intermediates[0])
            assert pruned(x).shape == final.shape
        pruned.train().forward_features(x).sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters())
