"""Exported files compute what the model computes, elsewhere, or they are not written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import timm
import torch
from reference import assert_close, fill, make_input
from timm.models import generate_default_cfgs, register_model
from torch import nn

from pinas_models.cli import main
from pinas_models.deploy.export import ExportError, export

CHOICES = '01233210'


@pytest.fixture(scope='module')
def model():
    model = timm.create_model('pinas_mini', choices=CHOICES).eval()
    model.load_state_dict({n: torch.from_numpy(fill(n, t.shape)) for n, t in model.state_dict().items()})
    return model


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return f'local-dir:{folder}'


def run(*arguments):
    return main(['export', *map(str, arguments)])


def assert_equal(exported, model, *shapes):
    for shape in shapes:
        x = make_input(7, shape)
        with torch.no_grad():
            expected, actual = model(x), torch.as_tensor(exported(x))
        assert expected.std() > 0.01
        assert_close(actual, expected.numpy(), str(shape), rtol=1e-4, atol=1e-4)


def onnx_runner(path):
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda x: session.run(['outputs'], {'images': x.numpy()})[0]


def assert_nothing_left(folder, *names):
    assert sorted(os.listdir(folder)) == sorted(names)


# The three formats


def test_onnx_of_any_size(model, folder, tmp_path, capsys):
    path = tmp_path / 'mini.onnx'
    assert run(folder, path, '--dynamic-size') == 0
    assert_nothing_left(tmp_path, 'mini.onnx')
    out = capsys.readouterr().out
    assert 'images of any size in batches of any size' in out
    assert 'equal to the model on images 1x3x32x32, 3x3x32x32, 2x3x25x40, 1x3x35x33' in out
    assert_equal(onnx_runner(path), model, (1, 3, 32, 32), (7, 3, 32, 32), (2, 3, 64, 47), (1, 3, 19, 97))

    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    (images,) = file.graph.input
    assert [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim] == ['batch', 3, 'height', 'width']
    (text,) = (entry.value for entry in file.metadata_props if entry.key == 'preprocessing')
    preprocessing = json.loads(text)
    assert preprocessing['mean'] == pytest.approx(model.pretrained_cfg['mean'])
    assert preprocessing['input_size'] == [3, 32, 32]
    (text,) = (entry.value for entry in file.metadata_props if entry.key == 'classes')
    assert json.loads(text)['labels'] == list(model.pretrained_cfg['label_names'])


def test_onnx_of_one_size_fused(model, folder, tmp_path):
    path = tmp_path / 'model'  # any name will do when the format is given
    assert run(folder, path, '--format', 'onnx', '--fuse', '--opset', 18, '--size', '24x40') == 0
    runner = onnx_runner(path)
    assert_equal(runner, model, (1, 3, 24, 40), (5, 3, 24, 40))
    with pytest.raises(Exception, match='invalid dimensions'):
        runner(torch.zeros(1, 3, 32, 32))
    file = onnx.load(path)
    assert [entry.version for entry in file.opset_import if entry.domain in ('', 'ai.onnx')] == [18]
    operators = {node.op_type for node in file.graph.node}
    assert 'BatchNormalization' not in operators
    assert 'Where' not in operators  # of the interpolation that only PyTorch has


# Loads files where neither timm nor this package is imported, and says what they compute.
ELSEWHERE = """
import sys, torch
scripted, exported, out = sys.argv[1:]
extra = {'preprocessing': '', 'classes': ''}
models = [torch.jit.load(scripted, _extra_files=extra)]
texts = [(extra['preprocessing'], extra['classes'])]
extra = {'preprocessing': '', 'classes': ''}
models.append(torch.export.load(exported, extra_files=extra).module())
texts.append((extra['preprocessing'], extra['classes']))
assert not {'timm', 'pinas_models'} & set(sys.modules)
x = torch.linspace(-2, 2, 2 * 3 * 45 * 38).sin().view(2, 3, 45, 38)
with torch.no_grad():
    torch.save({'x': x, 'outputs': [model(x) for model in models], 'texts': texts}, out)
"""


def test_torchscript_and_torch_export_run_elsewhere(model, folder, tmp_path):
    scripted, exported, out = (tmp_path / name for name in ('mini.pt', 'mini.pt2', 'out'))
    assert run(folder, scripted, '--dynamic-size') == 0
    assert run(folder, exported, '--dynamic-size', '--fuse') == 0
    subprocess.run([sys.executable, '-W', 'ignore', '-c', ELSEWHERE, scripted, exported, out], check=True, timeout=300)
    result = torch.load(out, weights_only=True)
    with torch.no_grad():
        expected = model(result['x'])
    assert expected.std() > 0.05
    for output in result['outputs']:
        assert_close(output, expected.numpy(), rtol=1e-4, atol=1e-4)
    for preprocessing, classes in result['texts']:
        assert json.loads(preprocessing)['std'] == pytest.approx(model.pretrained_cfg['std'])
        assert json.loads(classes)['labels'] == list(model.pretrained_cfg['label_names'])


@pytest.mark.parametrize('name', ['mini.onnx', 'mini.pt', 'mini.pt2'])
def test_a_full_disk_is_one_line(folder, tmp_path, name):
    """torch's own writer of TorchScript would end the process with a signal."""
    limited = 'import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)); '
    program = limited + 'from pinas_models.cli import main; sys.exit(main(sys.argv[1:]))'
    command = [sys.executable, '-W', 'ignore', '-c', program, 'export', folder, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count('\n')) == (2, 1), done.stderr
    assert 'File too large' in done.stderr
    assert 'make room' in done.stderr
    assert_nothing_left(tmp_path)


def test_torch_export_of_one_size(model, tmp_path):
    report = export(model, tmp_path / 'mini.pt2', size=(32, 48))
    assert report.shapes == ((1, 3, 32, 48), (3, 3, 32, 48))
    assert report.max_difference <= 1e-6 * report.max_output
    program = torch.export.load(tmp_path / 'mini.pt2').module()
    assert_equal(program, model, (1, 3, 32, 48), (6, 3, 32, 48))


@pytest.mark.parametrize('channels', [1, 4])
def test_other_images(channels, tmp_path):
    model = timm.create_model('pinas_mini', choices=CHOICES, in_chans=channels, num_classes=0).eval()
    export(model, tmp_path / 'mini.pt', fused=True)
    extra = {'preprocessing': ''} if channels == 1 else {}
    scripted = torch.jit.load(tmp_path / 'mini.pt', _extra_files=extra)
    assert_equal(scripted, model, (2, channels, 32, 32))
    if extra:
        config = json.loads(extra['preprocessing'])
        assert (len(config['mean']), config['input_size'][0]) == (1, 1)


def test_a_path_without_weights(tmp_path, capsys):
    path = tmp_path / 'mini.pt'
    assert run('pinas_subnet', path, '--choices', '3' * 16) == 2
    assert 'no weights are published for pinas_subnet' in capsys.readouterr().err
    assert run('pinas_mini', path, '--choices', CHOICES, '--untrained', '--fuse') == 0
    assert torch.jit.load(path)(torch.zeros(4, 3, 32, 32)).shape == (4, 10)


def test_checkpoint(model, tmp_path):
    torch.save({'state_dict': {f'module.{n}': t for n, t in model.state_dict().items()}}, tmp_path / 'weights.pth')
    path = tmp_path / 'mini.pt'
    assert run('pinas_mini', path, '--checkpoint', tmp_path / 'weights.pth', '--choices', CHOICES) == 0
    assert_equal(torch.jit.load(path), model, (2, 3, 32, 32))


# Files that would be wrong


class Deceiver(nn.Module):
    """Computes something else in PyTorch than in an exported file."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if torch.jit.is_scripting():  # TorchScript drops the branch only so
            return y * 1.001
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            return y * 1.001
        return y


class WrongShape(Deceiver):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if torch.jit.is_scripting():  # TorchScript drops the branch only so
            return y[:, :3]
        return y


class Fragile(Deceiver):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if torch.jit.is_scripting():  # noqa: SIM102  # TorchScript drops the branch only so
            if x.shape[0] == 3:
                raise ValueError('a batch of three')
        return y


class Vanishing(Deceiver):
    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        if torch.jit.is_scripting():  # TorchScript drops the branch only so
            return y * float('nan')
        return y


default_cfgs = generate_default_cfgs({'export_deceiver.untrained': {'input_size': (3, 16, 16)}})


@register_model
def export_deceiver(pretrained=False, **kwargs):
    return Deceiver()


@pytest.mark.parametrize('name', ['wrong.pt', 'wrong.pt2', 'wrong.onnx'])
def test_a_mismatch_is_not_kept(name, tmp_path, capsys):
    arguments = ('export_deceiver', tmp_path / name, '--untrained', '--size', 16)
    assert run(*arguments) == 1
    assert_nothing_left(tmp_path)
    assert f'{name} was not written: on images 1x3x16x16 the outputs differ by up to' in capsys.readouterr().err
    if name == 'wrong.pt':
        (tmp_path / name).write_text('before')
        assert run(*arguments, '--force') == 1
        assert_nothing_left(tmp_path, name)
        assert (tmp_path / name).read_text() == 'before'


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (WrongShape(), 'on images 1x3x16x16 the outputs have the shape 1x3, not 1x4'),
        (Fragile(), 'the exported model cannot run on images 3x3x16x16'),
        (Vanishing(), 'the outputs differ by up to nan'),
    ],
)
def test_other_mismatches(model, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model.eval(), tmp_path / 'wrong.pt', size=(16, 16))
    assert_nothing_left(tmp_path)


def test_a_size_that_torch_export_takes_for_a_constant(folder, tmp_path, capsys):
    """The last feature map of 16 pixels has one; a mean over one pixel is none."""
    assert run(folder, tmp_path / 'mini.pt2', '--size', 16, '--dynamic-size') == 1
    assert 'the exported model cannot run on images 2x3x13x20' in capsys.readouterr().err
    assert_nothing_left(tmp_path)


def test_damaged_weights(model, tmp_path):
    damaged = timm.create_model('pinas_mini', choices=CHOICES).eval()
    damaged.load_state_dict(model.state_dict())
    damaged.layer3[0].bn1.running_var[0] = float('nan')
    with pytest.raises(ValueError, match='values that are not finite'):
        export(damaged, tmp_path / 'mini.onnx')
    assert_nothing_left(tmp_path)


# A user's mistakes


def test_existing_file(folder, tmp_path, capsys):
    path = tmp_path / 'mini.pt'
    path.write_text('mine')
    assert run(folder, path) == 2
    assert 'exists already' in capsys.readouterr().err
    assert path.read_text() == 'mine'
    assert run(folder, path, '--force') == 0
    assert torch.jit.load(path)(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize('package', ['onnx', 'onnxscript', 'onnxruntime'])
def test_missing_package(package, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say that an import fails
    assert run(folder, tmp_path / 'mini.onnx') == 2
    assert capsys.readouterr().err == (
        f"pinas-models export: error: ONNX needs {package}: pip install 'pinas-models[export]'\n"
    )
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['mini.bin'],
            'does not end with one of .onnx (onnx), .pt (torchscript), .pt2 (torch-export): name the format',
        ),
        (['nowhere/mini.pt'], 'there is no folder'),
        (['folder.pt'], 'is a folder; name a file'),
        (['mini.pt', '--opset', '18'], 'opset is of ONNX, not of torchscript'),
        (['mini.onnx', '--opset', '17'], 'opset is 17; allowed are 18 to'),
        (['mini.onnx', '--opset', '999'], 'opset is 999; allowed are 18 to'),
        (['mini.pt', '--checkpoint', 'missing.pth'], 'missing.pth'),
    ],
)
def test_mistakes(
    arguments,
    message,
    folder,
    tmp_path,
    monkeypatch,
    capsys,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder.pt').mkdir()
    assert run(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith('pinas-models export: error: ')
    assert error.count('\n') == 1
    assert message in error
    assert_nothing_left(tmp_path, 'folder.pt')


@pytest.mark.parametrize('size', ['0', '-3', '8x', 'x8', '8x8x8', 'large'])
def test_sizes_that_are_none(size, capsys):
    with pytest.raises(SystemExit) as caught:
        run('pinas_mini', 'mini.pt', f'--size={size}')
    assert caught.value.code == 2
    assert f"argument --size: invalid size value: '{size}'" in capsys.readouterr().err


def test_models_that_cannot_be_exported(model, tmp_path):
    path = tmp_path / 'mini.pt'
    with pytest.raises(ValueError, match='training mode'):
        export(timm.create_model('pinas_mini'), path)
    with pytest.raises(ValueError, match='must be float32 on the CPU'):
        export(timm.create_model('pinas_mini').eval().bfloat16(), path)
    with pytest.raises(ValueError, match='the model gives a list'):
        export(timm.create_model('pinas_mini', features_only=True).eval(), path)
    with pytest.raises(ValueError, match='there is no format'):
        export(model, path, format='tensorflow')
    with pytest.raises(ValueError, match='the model cannot run on images 1x3x5x5'):
        export(nn.Sequential(nn.Conv2d(3, 4, 7)).eval(), path, size=(5, 5))
    assert_nothing_left(tmp_path)
