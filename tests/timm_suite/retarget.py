"""Pytest plugin: timm's own tests, turned to the models of ``pinas_models``.

Three kinds of tests run.

- Those that timm runs on all its models run on ours: ``list_models`` lists ours while ``test_models.py`` is imported.
- Those that state what holds for any convolutional network, but name the models they try it on, get ours in their place
  (``PARAMETRIZED``, ``NAMED_INSIDE``).
- Those of timm's registry and loading run as they are (``UNCHANGED``): our package is imported and must not disturb.

The run fails if fewer than two models of ours are found, or one of them passes no test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from types import FunctionType
from typing import Any

import pytest
import timm
import timm.models
from packaging.version import Version

import pinas_models  # noqa: F401  # registers the models

MODULE = 'pinas'
# Where the name alone names no network: a path with each choice in every stage.
MODEL_ARGS = {'pinas_subnet': {'choices': '0123120323013120'}}

# The version of timm that the following is about: it and later ones must have all these tests.
TABLES_VERSION = '1.0.31'
# Tests of hand-picked models, with what follows the model in their parameters.
PARAMETRIZED: dict[str, list[tuple[Any, ...]]] = {
    'test_export_tracks_reset_classifier_structure': [({}, None, None), ({}, 'max', None)],
    'test_features_only_feature_cls_class': [()],
    'test_features_only_grad_checkpointing_backward': [()],
    'test_forward_intermediates_stop_early_final_norm': [({},)],
    'test_head_hidden_size': [({},)],
    'test_headless_checkpoint_reload': [({},)],
    'test_model_features_output_stride': [()],
    'test_model_forward_torchscript_with_features_fx': [()],
    'test_prune_intermediate_layers_last_feature': [(True,)],
    'test_prune_intermediate_layers_params_used': [()],
    'test_prune_to_stem_feature': [()],
    'test_reset_classifier_keeps_pool': [()],
    'test_resnetv2_stem_feature_odd_size': [({},)],
}
# Tests that name a model in their code, and that model.
NAMED_INSIDE = {
    'test_conv_model_image_size_is_preprocessing_only': 'resnet18',
    'test_create_model_transfers_multispectral_checkpoint': 'test_resnet',
    'test_export_data_config_test_size_roundtrip': 'test_resnet',
    'test_export_does_not_inherit_training_regularization': 'test_resnet',
    'test_export_tracks_reset_pool_and_omits_in_memory_weight_source': 'test_resnet',
    'test_feature_hook_net_grad_checkpointing_order': 'xception41',
    'test_feature_wrapper_retains_input_contract': 'resnet18',
    'test_resnet_pruned_grad_checkpointing': 'test_resnet',
    'test_script_resolution_defaults_to_multispectral_source': 'resnet18',
}
UNCHANGED = ('test_checkpoint_loading.py', 'test_factory.py', 'test_hub.py', 'test_input_conv.py')
# What our models cannot pass, timm's own ResNeSt neither, and what cannot run here.
LEFT_OUT = {
    'test_feature_getter_stage_ends_torchscript': "the forward_intermediates of timm's ResNet cannot be scripted",
    'test_forward_after_prune_intermediate_layers': 'trains with one image: the attention normalises 1x1 maps',
    'test_train_pretrained_cfg_overlay': "imports timm's train.py, which the source distribution does not have",
}


def our_models() -> list[str]:
    """The registered names of our models."""
    return timm.list_models(module=MODULE)


def base_name(model: object) -> str:
    """A model's name without its tag."""
    return str(model).partition('.')[0]


def _with_path(create_model: Callable[..., Any]) -> Callable[..., Any]:
    def create(model_name: str, *args: Any, **kwargs: Any) -> Any:
        return create_model(model_name, *args, **{**MODEL_ARGS.get(base_name(model_name), {}), **kwargs})

    return create


def pytest_configure(config: pytest.Config) -> None:
    """Check that there is something to test."""
    if len(our_models()) < 2:
        raise pytest.UsageError(f'timm lists fewer than 2 models of the module {MODULE!r}: {our_models()}')
    timm.create_model = timm.models.create_model = _with_path(timm.create_model)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """While ``test_models.py`` is imported, list our models and no others."""
    list_models = timm.list_models

    def list_ours(filter: Any = '', module: Any = '', **kwargs: Any) -> list[str]:
        return list_models(filter, module=MODULE, **kwargs)  # the suite names modules, and ours is none of them

    def list_pretrained(filter: Any = '', exclude_filters: Any = '') -> list[str]:
        return list_ours(filter, pretrained=True, exclude_filters=exclude_filters, include_tags=True)

    with pytest.MonkeyPatch.context() as patch:
        if isinstance(collector, pytest.Module) and collector.path.name == 'test_models.py':
            for module in (timm, timm.models):
                patch.setattr(module, 'list_models', list_ours)
                patch.setattr(module, 'list_pretrained', list_pretrained)
        return (yield)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: Any) -> None:
    """Replace the models that a test is parametrised with."""
    if name not in PARAMETRIZED:
        return
    for index, mark in enumerate(obj.pytestmark):
        if mark.name == 'parametrize' and 'model_name' in mark.args[0]:
            rows = [(model, *rest) for model in our_models() for rest in PARAMETRIZED[name]]
            values = rows if ',' in mark.args[0] else [model for (model,) in rows]
            obj.pytestmark[index] = pytest.mark.parametrize(mark.args[0], values).mark


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that names a model in its code once for each of ours."""
    if metafunc.function.__name__ in NAMED_INSIDE:
        metafunc.fixturenames.append('stand_in')
        metafunc.parametrize('stand_in', our_models())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """Put our model where the code of a test names another."""
    model = _params(pyfuncitem).get('stand_in')
    if model is None:
        return
    # One test names the first convolution of its model as well.
    names = {NAMED_INSIDE[pyfuncitem.originalname]: model, 'conv1': timm.get_pretrained_cfg(model).first_conv}
    function = pyfuncitem.obj
    constants = tuple(names.get(c, c) if isinstance(c, str) else c for c in function.__code__.co_consts)
    assert model in constants, f'{pyfuncitem.originalname} names another model than {NAMED_INSIDE} says'
    code = function.__code__.replace(co_consts=constants)
    pyfuncitem.obj = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other models."""
    ours = set(our_models())
    _check_tables({getattr(item, 'originalname', item.name) for item in items})
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        params = _params(item)
        name = getattr(item, 'originalname', item.name)
        model = base_name(params.get('stand_in', params.get('model_name')))
        if model in ours:
            item.user_properties.append(('model', model))
        other_model = params.get('vit', False)  # a switch between the named model and timm's ViT
        wanted = (model in ours and not other_model) or item.path.name in UNCHANGED
        (kept if wanted and name not in LEFT_OUT else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def _check_tables(tests: set[str]) -> None:
    """Fail if timm has renamed a test that the tables name: it would no longer run, and nobody would notice."""
    gone = {*PARAMETRIZED, *NAMED_INSIDE, *LEFT_OUT} - tests
    whole_suite = {'test_model_forward', 'test_parse_model_name', 'test_adapt_non_rgb_input_conv'} <= tests
    if gone and whole_suite and Version(timm.__version__) >= Version(TABLES_VERSION):
        raise pytest.UsageError(f'timm {timm.__version__} has no {", ".join(sorted(gone))}: change {__file__}')


def _params(item: pytest.Item) -> dict[str, Any]:
    return item.callspec.params if hasattr(item, 'callspec') else {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a model passed no test."""
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    option = session.config.option
    if reporter is None or option.collectonly:  # a worker of xdist has no reporter
        return
    passed = Counter(dict(report.user_properties).get('model') for report in reporter.stats.get('passed', []))
    reporter.write_line('')
    reporter.write_line(f'timm {timm.__version__}: ' + ', '.join(f'{m} passed {passed[m]}' for m in our_models()))
    if not option.keyword and not all(passed[model] for model in our_models()):
        reporter.write_line('a model passed no test', red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
