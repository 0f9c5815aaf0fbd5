"""Reading checkpoints: real files of every kind, crafted ones that attack the reader, and damaged ones."""

from __future__ import annotations

import argparse
import builtins
import functools
import io
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.utils import CheckpointSaver
from torch import nn

import pinas_models  # noqa: F401  registers the models
from pinas_models.checkpoints import load_checkpoint
from pinas_models.cli import main
from pinas_models.loading import open_model

BOTH = pytest.mark.parametrize('new', [True, False], ids=['zip', 'legacy'])


def saved(content, new=True):
    """What torch.save writes: the zip format of torch >= 1.6 or the one before."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def repacked(raw, change, compression=zipfile.ZIP_STORED):
    """The same zip with another pickle in it, well-formed again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, 'w', compression) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith('data.pkl') else data)
    return stream.getvalue()


def with_pickle(program):
    """A well-formed zip of torch.save whose pickle is this one."""
    return repacked(saved({'weight': torch.ones(2)}), lambda _: b'\x80\x02' + program + b'.')


def load(folder, data, name='file.pth'):
    (folder / name).write_bytes(data)
    return load_checkpoint(folder / name)


def refusal(folder, data, name='file.pth'):
    """The message that refuses the file, without the file's name."""
    with pytest.raises(ValueError, match=r'^.') as caught:
        load(folder, data, name)
    start = f'{folder / name}: '
    message = str(caught.value)
    assert message.startswith(start)
    assert '\n' not in message
    assert 'Re-running' not in message, "torch's advice to switch the protection off"
    return message.removeprefix(start)


class Calls:
    """Pickles as a call of ``function``, then a state, items of a list and items of a dictionary set on its result."""

    def __init__(self, function, arguments, state=None, appended=(), items=()):
        self.reduced = function, arguments, state, appended, items

    def __reduce__(self):
        *call, appended, items = self.reduced
        return (*call, iter(appended), iter(items))


def authors_checkpoint():
    """A checkpoint as the authors' training scripts write it, NumPy numbers included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6])
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    optimizer.param_groups[0]['lr'] = np.float64(0.05)
    return {
        'epoch': 270,
        'state_dict': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'scheduler': scheduler.state_dict(),
        'best_pred': np.float64(81.25),
        'acc_lst': [np.float32(0.5), np.float16(0.25), 0.125],
        'steps': {1: np.int64(-3), 'done': np.bool_(True), 'unsigned': np.uint8(200)},
        'size': (3, torch.Size([2, 5])),
        'names': ['Π', None, b'\x00\xff'],
        'parameter': nn.Parameter(torch.arange(3.0)),
    }


def assert_same(actual, expected):
    """Equal in value, and of the plain type where NumPy or a subclass stood."""
    if isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype
        assert torch.equal(actual, expected)
    elif isinstance(expected, dict):
        assert type(actual) is dict
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, (list, tuple)):
        assert type(actual) is (list if isinstance(expected, list) else tuple)
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        plain = expected.item() if isinstance(expected, np.generic) else expected
        assert type(actual) is type(plain)
        assert actual == plain


# --- files that must be read ---------------------------------------------------------------------------------------


@BOTH
def test_authors_checkpoint(tmp_path, new):
    expected = authors_checkpoint()
    assert_same(load(tmp_path, saved(expected, new), 'PiNAS_cls.pth.tar'), expected)


@pytest.mark.parametrize('spelling', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
def test_both_homes_of_numpy_scalars(tmp_path, spelling):
    """NumPy 1 wrote the first name, NumPy 2 writes the second; each must be read with either installed."""
    installed = np.float64().__reduce__()[0].__module__.encode()
    content = {'best_pred': np.float64(81.25), 'epoch': np.int64(7)}
    data = repacked(saved(content), lambda program: program.replace(installed, spelling))
    assert load(tmp_path, data) == {'best_pred': 81.25, 'epoch': 7}


@pytest.mark.parametrize('name', ['w.pth', 'w.pth.tar', 'w.pt', 'w.bin', 'w.safetensors', 'w'])
def test_state_dict_of_a_real_model_in_every_kind_of_file(tmp_path, name):
    """The content decides, not the name: each kind of file is read under each name."""
    model = timm.create_model('pinas_mini', num_classes=3)
    weights = model.state_dict()
    for data in (saved(weights), saved(weights, new=False), safetensors.torch.save(weights)):
        loaded = load(tmp_path, data, name)
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[key], value) for key, value in weights.items())
        model.load_state_dict(loaded, strict=True)


@BOTH
@pytest.mark.parametrize(
    'name', ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool']
)
def test_dtypes(tmp_path, name, new):
    dtype = getattr(torch, name)
    tensor = torch.arange(6).to(dtype).reshape(2, 3)
    loaded = load(tmp_path, saved({'weight': tensor}, new))['weight']
    assert loaded.dtype == dtype
    assert torch.equal(loaded, tensor)


@BOTH
def test_views_share_their_storage(tmp_path, new):
    """The authors' learning checkpoint names 1986 tensors twice; transposed and sliced views keep their place."""
    base = torch.arange(12.0).reshape(3, 4)
    content = {
        'base': base,
        'alias': base,
        'transposed': base.T,
        'slice': base[1:, 2:],
        'empty': base[:0],
        'scalar': base[2, 3],
    }
    loaded = load(tmp_path, saved(content, new))
    assert_same(loaded, content)
    assert len({tensor.untyped_storage().data_ptr() for name, tensor in loaded.items() if name != 'empty'}) == 1


@BOTH
def test_training_checkpoint_of_timm(tmp_path, new):
    """As ``timm.utils.CheckpointSaver`` writes it, arguments of the training included; they become a dictionary."""
    model = timm.create_model('pinas_mini', num_classes=3)
    args = argparse.Namespace(model='pinas_mini', lr=0.1, betas=(0.9, 0.99), inner=argparse.Namespace(seed=3))
    saver = CheckpointSaver(model, torch.optim.SGD(model.parameters(), lr=0.1), args, checkpoint_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=50.0)
    path = tmp_path / 'last.pth.tar'
    content = torch.load(path, weights_only=False)
    (tmp_path / 'file.pth').write_bytes(saved(content, new))
    loaded = load_checkpoint(tmp_path / 'file.pth')
    assert loaded['args'] == {'model': 'pinas_mini', 'lr': 0.1, 'betas': (0.9, 0.99), 'inner': {'seed': 3}}
    assert type(loaded['args']) is dict
    assert all(torch.equal(loaded['state_dict'][name], value) for name, value in model.state_dict().items())
    opened = open_model('pinas_mini', checkpoint=path)
    assert all(torch.equal(opened.state_dict()[name], value) for name, value in model.state_dict().items())
    overlay = dict(file=str(path))
    overlaid = timm.create_model('pinas_mini', pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay)
    assert all(torch.equal(overlaid.state_dict()[name], value) for name, value in model.state_dict().items())
    assert main(['convert', str(path), str(tmp_path / 'out.safetensors')]) == 0
    converted = load_checkpoint(tmp_path / 'out.safetensors')
    assert all(torch.equal(converted[name], value) for name, value in model.state_dict().items())


def test_what_torch_takes_for_harmless(tmp_path):
    content = {
        'dtype': torch.bfloat16,
        'device': torch.device('cuda:1'),
        'set': {1, 'a'},
        'complex': 1 + 2j,
        'float8': torch.ones(3).to(torch.float8_e4m3fn),
        'uint16': torch.tensor([1, 65535], dtype=torch.uint16),
        'complex64': torch.tensor([1 + 2j]),
    }
    loaded = load(tmp_path, saved(content))
    for name in ('dtype', 'device', 'set', 'complex'):
        assert loaded[name] == content[name]
    for name in ('float8', 'uint16', 'complex64'):
        assert loaded[name].dtype == content[name].dtype
        assert loaded[name].view(torch.uint8).tolist() == content[name].view(torch.uint8).tolist()


def test_every_flipped_bit_of_the_weights_is_found(tmp_path):
    data = saved({'weight': torch.arange(8.0)})
    start = data.index(torch.arange(8.0).numpy().tobytes())
    for bit in range(0, 8 * 32, 5):
        flipped = bytearray(data)
        flipped[start + bit // 8] ^= 1 << bit % 8
        assert 'Bad CRC-32' in refusal(tmp_path, bytes(flipped))


def test_file_without_checksums(tmp_path):
    """torch.save can leave the zip's checksums out; zipfile would refuse to read such a member."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        data = saved({'weight': torch.ones(2)})
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip()
    assert load(tmp_path, data)['weight'].tolist() == [1, 1]


def test_part_that_refers_to_itself_and_part_that_is_referred_to_often(tmp_path):
    itself = {}
    itself['me'] = itself
    often = []
    for _ in range(100):  # 2^100 references when followed one by one
        often = [often, often]
    loaded = load(tmp_path, saved({'itself': itself, 'often': often}))
    assert loaded['itself']['me'] is loaded['itself']
    assert loaded['often'][0] is loaded['often'][1]


def test_allow_list_of_the_process_is_left_as_it_was(tmp_path):
    """Neither widened by a call, nor robbed of what somebody else has added."""
    before = set(torch.serialization.get_safe_globals())
    load(tmp_path, saved(authors_checkpoint()))
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals([np.dtype]):
        load(tmp_path, saved(authors_checkpoint()))
        assert np.dtype in torch.serialization.get_safe_globals()


# --- files that are no checkpoint ----------------------------------------------------------------------------------

JPEG = b'\xff\xd8\xff\xe0\x00\x10JFIF' + bytes(500)
PLAIN_ZIP = io.BytesIO()
with zipfile.ZipFile(PLAIN_ZIP, 'w') as plain_zip:
    plain_zip.writestr('folder/readme.txt', 'no weights')


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'the file is empty'),
        (b'\x00', 'neither a file of torch.save nor a safetensors file'),
        (JPEG, 'neither a file of torch.save nor a safetensors file'),
        (b'epoch 1: 12.5 % right\n' * 50, 'neither a file of torch.save nor a safetensors file'),
        (b'\n<!DOCTYPE html><html><head>Google Drive', 'a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:00', 'git lfs pull'),
        (b'\x1f\x8b\x08' + bytes(50), 'gzip'),
        (PLAIN_ZIP.getvalue(), 'not one that torch.save wrote'),
        (b'PK\x03\x04' + bytes(600), 'not a zip file'),
        (pickle.dumps({'weight': 1}), 'a Python pickle that torch.save did not write'),
        (struct.pack('<Q', 2**62) + b'{"weight": 1}', 'header claims 4611686018427387904 bytes'),
        (struct.pack('<Q', 13) + b'{"weight": 1}', 'SafetensorError'),
        (bytes(257) + b'ustar\x00' + bytes(500), 'a tar archive'),
    ],
)
@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors'])
def test_no_checkpoint(tmp_path, data, reason, name):
    assert reason in refusal(tmp_path, data, name)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'missing\.pth: no such file'):
        load_checkpoint(tmp_path / 'missing.pth')
    with pytest.raises(ValueError, match='a folder; name a checkpoint file'):
        load_checkpoint(tmp_path)
    os.mkfifo(tmp_path / 'pipe.pth')  # opening it would wait for a writer
    with pytest.raises(ValueError, match='not a regular file'):
        load_checkpoint(str(tmp_path / 'pipe.pth'))


@BOTH
@pytest.mark.parametrize(('content', 'kind'), [([torch.ones(2)], 'list'), (3, 'int'), ('text', 'str')])
def test_no_dictionary(tmp_path, content, kind, new):
    assert refusal(tmp_path, saved(content, new)) == f'it holds a {kind}, not a dictionary of weights'


@pytest.mark.filterwarnings('ignore:`torch.jit:FutureWarning')
def test_torchscript_is_refused(tmp_path):
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), stream)
    assert 'a TorchScript archive, which holds code' in refusal(tmp_path, stream.getvalue())


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_every_truncation_is_refused(tmp_path, kind):
    tensors = {'weight': torch.arange(4.0)}
    data = {'zip': saved(tensors), 'legacy': saved(tensors, False), 'safetensors': safetensors.torch.save(tensors)}[
        kind
    ]
    for length in range(0, len(data), 1 if kind == 'safetensors' else 7):
        refusal(tmp_path, data[:length])


# --- files that attack ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ('function', 'arguments', 'name'),
    [
        (os.system, ('touch {marker}',), 'posix.system'),
        (builtins.eval, ("open('{marker}', 'w')",), 'eval'),
        (builtins.exec, ("open('{marker}', 'w')",), 'exec'),
        (builtins.open, ('{marker}', 'w'), 'io.open'),
        (builtins.getattr, (3, 'real'), 'getattr'),
        (functools.partial, (os.mkdir, '{marker}'), 'functools.partial'),
        (pickle.loads, (b'.',), 'pickle.loads'),
        (torch.load, ('{marker}',), 'torch.serialization.load'),
        (torch.hub.load, ('{marker}', 'x'), 'torch.hub.load'),
        # Functions of NumPy that are not needed for numbers.
        (np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b'b'), 'multiarray._reconstruct'),
        (np.load, ('{marker}',), 'numpy.load'),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_call_that_weights_do_not_need(tmp_path, function, arguments, name, new):
    marker = tmp_path / 'marker'
    filled = tuple(item.format(marker=marker) if isinstance(item, str) else item for item in arguments)
    content = {'state_dict': {'weight': torch.ones(2)}, 'extra': Calls(function, filled)}
    # Others may have widened the list of the process: mmengine adds getattr.
    with torch.serialization.safe_globals([function]):
        message = refusal(tmp_path, saved(content, new))
    # torch refuses some modules without naming a function of them.
    assert f"{name}', which is not among the harmless names" in message
    assert 'weights_only=False' not in message, 'advice to load it unsafely'
    assert 'safe_globals' not in message, 'advice to load it unsafely'
    assert not marker.exists()


def test_control_that_the_attack_works_without_the_reader(tmp_path):
    """The marker above would appear if the file were executed."""
    (tmp_path / 'file.pth').write_bytes(saved(Calls(os.mkdir, (str(tmp_path / 'marker'),))))
    torch.load(tmp_path / 'file.pth', weights_only=False)
    assert (tmp_path / 'marker').exists()


NUMBER = np.float64(1).__reduce__()
FLOAT64_STATE = np.dtype('f8').__reduce__()[2]


@pytest.mark.parametrize(
    ('attack', 'reason'),
    [
        (Calls(np.dtype, ('O', False, True)), "NumPy dtype 'O'"),
        (Calls(np.dtype, ('V16', False, True)), "NumPy dtype 'V16'"),
        (Calls(np.dtype, ([('a', 'O')], False, True)), 'NumPy dtype "[('),
        (Calls(np.dtype, ('f8', False, False), (*FLOAT64_STATE[:-1], 63)), 'alters a NumPy dtype'),
        (Calls(np.dtype, ('f8', False, True), (3, '<', None, ('a',), {'a': 1}, 8, 1, 0)), 'alters a NumPy dtype'),
        (Calls(NUMBER[0], (np.dtype('f8'), b'\x00')), 'bytes do not fit'),
        (Calls(NUMBER[0], (np.dtype('f8'), 'eight by')), 'bytes do not fit'),
        (Calls(NUMBER[0], ()), 'TypeError'),
        (np.str_('text'), "NumPy dtype 'U4'"),
        (np.datetime64('2021-08-23'), "NumPy dtype 'M8'"),
        (Calls(argparse.Namespace, (1,)), 'TypeError'),
        (Calls(argparse.Namespace, (), [1]), 'does not hold a dictionary'),
        (Calls(OrderedDict, ([['a', 1]],), None, [1]), 'UnpicklingError'),
        (torch.ones(2).to_sparse(), 'sparse'),
        (torch.ones(2, device='meta'), 'empty of values'),
        (torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), 'quantised'),
    ],
)  # fmt: skip
@BOTH
@pytest.mark.filterwarnings('ignore::UserWarning')  # of torch, about the kinds of tensors that make the files
def test_abuse_of_allowed_names(tmp_path, attack, reason, new):
    assert reason in refusal(tmp_path, saved({'attack': attack}, new))
    assert np.dtype('f8') == np.float64(1).dtype


def test_file_that_replaces_a_method_of_its_dictionary(tmp_path):
    content = {'weights': Calls(OrderedDict, (), {'items': torch.Size}, (), [('a', 1)])}
    assert load(tmp_path, saved(content)) == {'weights': {'a': 1}}


def tensor_call(size, stride, offset=0, items=()):
    arguments = (torch.ones(6)._typed_storage(), offset, size, stride, False, OrderedDict())
    return Calls(torch._utils._rebuild_tensor_v2, arguments, items=items)


@pytest.mark.parametrize(
    'attack',
    [
        tensor_call((7,), (1,)),
        tensor_call((2, 3), (4, 1)),
        tensor_call((2, 3), (3, 1), 1),
        tensor_call((-1,), (1,)),
        tensor_call((2,), (-1,), 5),
        tensor_call((2,), (1,), -1),
        tensor_call((2, 3), (1,)),
        tensor_call((2**70,), (1,)),
        tensor_call((2, 3), (3, 1), items=[(0, 1)]),  # CVE-2026-24747
    ],
)
@BOTH
def test_tensors_that_reach_beyond_their_storage(tmp_path, attack, new):
    refusal(tmp_path, saved({'weight': attack}, new))


@BOTH
def test_control_of_the_tensor_attacks(tmp_path, new):
    """The same calls with fitting numbers are read: size, stride and offset are what was refused."""
    content = {'weight': tensor_call((2, 2), (3, 1), 1), 'none': tensor_call((0, 5), (5, 1), 6)}
    loaded = load(tmp_path, saved(content, new))
    assert loaded['weight'].tolist() == [[1, 1], [1, 1]]
    assert loaded['none'].shape == (0, 5)


def test_storage_of_another_size_than_declared(tmp_path):
    """2^31 floats would be 8 GiB."""
    claimed = b'J' + struct.pack('<i', 2**31 - 1)
    raw = repacked(saved({'weight': torch.ones(2)}), lambda program: program.replace(b'K\x02t', claimed + b't'))
    refusal(tmp_path, raw)


def test_legacy_file_that_is_also_a_tar_archive(tmp_path):
    """torch < 2.6 executed the tar branch of such a file in spite of weights_only (CVE-2025-32434): never enter it."""
    raw = saved({'weight': torch.ones(2)}, new=False)
    magic, system_start = raw[:21], raw.index(b'protocol_version')
    rest = raw[raw.index(b'.', system_start) + 1 :]
    header = bytearray(512)  # of a tar archive: the text between the magic number and the weights is free to choose
    header[: len(magic) + 7] = magic + b'\x80\x02X' + struct.pack('<I', 512 - len(magic) - 7)
    header[100:156] = b'0000644\x00' + b'0000000\x00' * 2 + b'00000000000\x00' * 2 + b' ' * 8
    header[156:157] = b'0'
    header[148:156] = b'%06o\x00 ' % sum(header)
    data = bytes(header) + b'.' + rest
    assert load(tmp_path, data)['weight'].tolist() == [1, 1]
    with pytest.raises(RuntimeError, match=r'legacy \.tar format'):
        torch.load(tmp_path / 'file.pth', weights_only=True)


def tensor_entry(raw, field, value):
    """The zip with another 32-bit number in the table of contents, in the entry of the first tensor."""
    at = raw.rindex(b'archive/data/0') - 46 + field
    assert raw[at - field :].startswith(b'PK\x01\x02')
    return raw[:at] + struct.pack('<I', value) + raw[at + 4 :]


def twice(raw, name):
    """The zip with one more member."""
    stream = io.BytesIO(repacked(raw, bytes))
    with zipfile.ZipFile(stream, 'a') as archive, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # zipfile warns of the second member of one name
        archive.writestr(name, bytes(8))
    return stream.getvalue()


def with_comment(raw):
    stream = io.BytesIO(raw)
    with zipfile.ZipFile(stream, 'a') as archive:
        archive.comment = b'PK'
    return stream.getvalue()


@pytest.mark.parametrize(
    'change',
    [
        pytest.param(lambda raw: repacked(raw, bytes, zipfile.ZIP_DEFLATED), id='compressed'),
        pytest.param(lambda raw: tensor_entry(tensor_entry(raw, 20, 2**31), 24, 2**31), id='larger than the file'),
        pytest.param(lambda raw: tensor_entry(raw, 24, 2**31), id='packed to a bomb'),
        pytest.param(lambda raw: twice(raw, 'archive/data/0'), id='two of a name'),
        pytest.param(with_comment, id='a comment, which could hold a second table'),
        pytest.param(lambda raw: raw[:30] + raw, id='a second zip before it'),
        pytest.param(lambda raw: twice(raw, 'archive/DATA/0'), id='two of a name to torch, which ignores the case'),
    ],
)
def test_crafted_table_of_contents(tmp_path, change):
    raw = repacked(saved({'weight': torch.ones(2)}), bytes)
    assert load(tmp_path, raw)['weight'].tolist() == [1, 1]
    assert 'table of contents is not as torch.save writes it' in refusal(tmp_path, change(raw))


@pytest.mark.parametrize(
    'program',
    [
        b'',
        b'R',
        b't',
        b'}K\x01',
        b'}X\xff\xff\xff\xffa',  # a text of 4 GiB
        b'\x8e\xff\xff\xff\xff\xff\xff\xff\x7f',  # bytes of 8 EiB
        b'}q\xff' + b'r\xff\xff\xff\x7f' + b'j\xff\xff\xff\x7eK\x01s',  # a memo of 2^31 places
        b'cposix\nsystem\n',
        b'cposix\r\n\x1b[2Jsystem\n',
        b'(cposix\nsystem\nX\x01\x00\x00\x00ao',
        b'(X\x01\x00\x00\x00aiposix\nsystem\n',
        b'\x8c\x05posix\x8c\x06system\x93',
        b'\x82\x01',
        b'X\x01\x00\x00\x00a)R',
        b'K\x01Q',
        b'cbuiltins\nbytearray\n\x8a\x07' + bytes(6) + b'\x40\x85R',  # 2^54 bytes
        b'cnumpy\ndtype\n)\x81}b',  # made without its constructor
    ],
)
def test_crafted_pickle(tmp_path, program):
    refusal(tmp_path, with_pickle(program))


# --- damaged files -------------------------------------------------------------------------------------------------

EXTREMES = [b'\x00', b'\xff', bytes(4), b'\xff' * 4, b'\xff\xff\xff\x7f', bytes(8), b'\xff' * 8, b'\xff' * 7 + b'\x7f']


def damaged(data, other, rng):
    """The file with a few bits flipped, chunks lost, doubled, taken from another file, or numbers made extreme."""
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        at, chunk = rng.randrange(len(result) + 1), rng.randrange(1, 60)
        match rng.randrange(8):
            case 0 | 1 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 2:
                del result[at:]
            case 3:
                result[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 4:
                start = rng.randrange(len(other))
                result[at : at + rng.randrange(40)] = other[start : start + chunk]
            case 5:
                extreme = rng.choice(EXTREMES)
                result[at : at + len(extreme)] = extreme
            case 6:
                del result[at : at + chunk]
            case 7:
                start = rng.randrange(len(result) + 1)
                result[at:at] = result[start : start + chunk]
    return bytes(result)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings('ignore:invalid escape sequence:DeprecationWarning')  # in a damaged name
def test_damaged_files(tmp_path):
    """800 damaged files of every kind: each is read or refused, nothing else, and nothing in them is executed.

    In half of the damaged zip files the zip is well-formed again around the damaged pickle, so that the damage gets
    past the table of contents.
    """
    marker = tmp_path / 'marker'
    attack = {'weight': torch.ones(2), 'attack': Calls(os.system, (f'touch {marker}',))}
    weights = {'conv.weight': torch.arange(6.0).reshape(2, 3), 'bn.num_batches_tracked': torch.tensor(5)}
    bases = [
        *(saved(authors_checkpoint(), new) for new in (True, False)),
        *(saved(attack, new) for new in (True, False)),
        *(saved(weights, new) for new in (True, False)),
        safetensors.torch.save(weights),
        safetensors.torch.save({'weight': torch.ones(2, dtype=torch.bfloat16)}, {'format': 'pt'}),
    ]
    outcomes = Counter()
    for index in range(800):
        rng = random.Random(index)
        base, other = bases[index % len(bases)], rng.choice(bases)
        if base.startswith(b'PK') and rng.random() < 0.5:
            data = repacked(base, lambda program, rng=rng, other=other: damaged(program, other, rng))
        else:
            data = damaged(base, other, rng)
        try:
            assert isinstance(load(tmp_path, data), dict), f'file {index}'
            message = ''
        except ValueError as error:
            message = str(error)
        outcomes['refused' if message else 'read'] += 1
        assert message.startswith(f'{tmp_path / "file.pth"}: ' if message else ''), f'file {index}'
        assert '\n' not in message, f'file {index}'
        assert not marker.exists(), f'file {index} was executed'
    # Old files have no checksums, so some are read: the test is not one of refusing everything.
    assert outcomes.total() == 800
    assert min(outcomes['read'], outcomes['refused']) > 25


def test_command_line_says_it_in_one_line(tmp_path, capsys):
    """Exit code 2, one line, no traceback, nothing executed, nothing written."""
    marker, target, source = tmp_path / 'marker', tmp_path / 'out.pth', tmp_path / 'attack.pth'
    source.write_bytes(saved({'state_dict': Calls(os.system, (f'touch {marker}',))}))
    assert main(['convert', str(source), str(target)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count('\n')) == ('', 1)
    assert err.startswith(f'pinas-models convert: error: {source}: ')
    assert 'posix.system' in err
    assert list(tmp_path.iterdir()) == [source]
