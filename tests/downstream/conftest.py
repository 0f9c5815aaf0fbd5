"""The adapter comes before the OpenMMLab packages that the tests import."""

import pytest
from mmengine.registry import DefaultScope

import pinas_downstream  # noqa: F401


@pytest.fixture
def mmseg_scope():
    """What ``default_scope = 'mmseg'`` in a config makes of unqualified names."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield
