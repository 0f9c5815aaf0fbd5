"""Numeric references: what the authors' code computes with weights that are a function of a parameter's name.

A fixture ``fixtures/<name>.json`` + ``.npz`` holds the outputs of the authors' code. Its weights are not stored:
``fill`` makes them from the authors' parameter name and the shape, so a test fills its own network in the same way and
compares.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

FIXTURES = Path(__file__).parent / 'fixtures'

# Multipliers that keep the features of a randomly filled network in a sane range and its attention unsaturated.
SCALES = (
    ('bn3.weight', 0.25),
    ('fc2.weight', 0.25),
    ('fc.weight', 0.25),
    ('head.block.4.weight', 0.25),
    ('auxlayer.conv5.4.weight', 0.25),
)

# Noise of one float32 run against another is 4e-6 of an array's maximum, the smallest mutation moves logits by 0.06.
RTOL, ATOL = 1e-4, 2e-4


def fill(name, shape):
    """The value of the parameter or buffer ``name``: float32, int64 for counters."""
    leaf = name.rsplit('.', 1)[-1]
    if leaf in ('num_batches_tracked', 'queue_ptr'):
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng(zlib.crc32(name.encode('utf-8')))
    if leaf == 'running_var':
        value = 0.5 + rng.random(shape)
    elif leaf in ('running_mean', 'bias'):
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == 'queue':
        value = rng.standard_normal(shape)
        value = value / np.sqrt((value * value).sum(0, keepdims=True))
    elif len(shape) == 1:  # the weight of a BN
        value = 0.5 + rng.random(shape)
    else:  # the weight of a convolution or linear layer
        value = rng.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    if leaf == 'weight':
        for suffix, scale in SCALES:
            if name.endswith(suffix):
                value = scale * value
    return value.astype(np.float32)


def make_input(seed, shape, dtype=torch.float32):
    """The input that a fixture names by seed and shape; the same float32 numbers whatever ``dtype``."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32)).to(dtype)


@dataclass(frozen=True)
class Fixture:
    """One reference.

    Attributes:
        name: File name without suffix.
        meta: The JSON without ``state_dict`` and ``aliases``: seed, paths, block tables, meaning of the arrays.
        state_dict: Names and shapes in the authors' order.
        aliases: Name -> the first name of the same tensor, for tensors with several names.
    """

    name: str
    meta: dict[str, Any]
    state_dict: dict[str, tuple[int, ...]]
    aliases: dict[str, str]

    @cached_property
    def arrays(self):
        """Outputs of the float32 run."""
        return _load_arrays(self.name)

    @cached_property
    def arrays_f64(self):
        """Outputs of the float64 run of the same float32 weights and inputs, stored as float32."""
        return _load_arrays(f'{self.name}_f64')

    def input(self, dtype=torch.float32):
        """The input of a fixture that has exactly one."""
        return make_input(self.meta['seed'], self.meta['input_shape'], dtype)


def _load_arrays(name):
    with np.load(FIXTURES / f'{name}.npz') as file:
        return dict(file)


def load_fixture(name):
    """Read a fixture. An entry of ``state_dict`` that names another fixture stands for all entries of that one."""
    meta = json.loads((FIXTURES / f'{name}.json').read_text(encoding='utf-8'))
    shapes = {}
    aliases = dict(meta.pop('aliases', {}))
    for entry in meta.pop('state_dict', []):
        if isinstance(entry, dict):
            other, prefix = load_fixture(entry['fixture']), entry['prefix']
            for key, shape in other.state_dict.items():
                shapes[prefix + key] = shape
                first = entry.get('alias_of', prefix) + other.aliases.get(key, key)
                if first != prefix + key:
                    aliases[prefix + key] = first
        else:
            shapes[entry[0]] = tuple(entry[1])
    return Fixture(name, meta, shapes, aliases)


def filled_state_dict(fixture, prefix='', dtype=torch.float32):
    """The filled tensors whose authors' name begins with ``prefix``, under the rest of that name.

    Names that are aliases of each other share one tensor. Floating tensors are float32 numbers in ``dtype``.
    """
    tensors = {}
    filled = {}
    for name, shape in fixture.state_dict.items():
        if name.startswith(prefix):
            first = fixture.aliases.get(name, name)
            if first not in filled:
                tensor = torch.from_numpy(fill(first, shape))
                filled[first] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            tensors[name.removeprefix(prefix)] = filled[first]
    return tensors


def randomize(model, seed=0):
    """Give every vector of a network, statistics included, values that their neighbours do not have."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith('running_var'):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.empty_like(tensor).normal_(0, 0.1, generator=generator))
    return model


class OperatorLog(TorchDispatchMode):
    """The names of the operators that ran, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def assert_close(actual, expected, label='', rtol=RTOL, atol=ATOL):
    """Compare a tensor or array with a reference; the message names the largest difference."""
    actual = actual.detach().cpu().double().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    assert actual.shape == expected.shape, f'{label}: shape {actual.shape}, expected {expected.shape}'
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=label)


def assert_features(feature, fixture, label, k=4, rtol=RTOL, atol=ATOL):
    """Compare a feature map with a fixture's ``<label>_stats``, ``<label>_slice`` and ``<label>_gap``."""
    expected = fixture.arrays
    stats = torch.stack([feature.mean(), feature.std(correction=0)])
    assert_close(stats, expected[f'{label}_stats'], f'{label}_stats', rtol, atol)
    assert_close(feature[0, :8, :k, :k], expected[f'{label}_slice'], f'{label}_slice', rtol, atol)
    assert_close(feature[0].mean((1, 2)), expected[f'{label}_gap'], f'{label}_gap', rtol, atol)
