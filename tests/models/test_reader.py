"""Reading checkpoints: real files of every kind, crafted ones that attack the reader, and damaged ones."""

from __future__ import annotations

import builtins
import functools
import io
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import pinas_models  # noqa: F401  registers the models
from pinas_models.checkpoints import load_checkpoint

BOTH = pytest.mark.parametrize('new', [True, False], ids=['zip', 'legacy'])


def saved(content: Any, new: bool = True) -> bytes:
    """What torch.save writes: the zip format of torch >= 1.6 or the one before."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def repacked(raw: bytes, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The same zip with another pickle in it, well-formed again."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, 'w', compression) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith('data.pkl') else data)
    return stream.getvalue()


def with_pickle(program: bytes) -> bytes:
    """A well-formed zip of torch.save whose pickle is this one."""
    return repacked(saved({'weight': torch.ones(2)}), lambda _: b'\x80\x02' + program + b'.')


def load(folder: Path, data: bytes, name: str = 'file.pth') -> dict[str, Any]:
    (folder / name).write_bytes(data)
    return load_checkpoint(folder / name)


def refusal(folder: Path, data: bytes, name: str = 'file.pth') -> str:
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

    def __init__(
        self, function: Any, arguments: tuple[Any, ...], state: Any = None, appended: Any = (), items: Any = ()
    ) -> None:
        self.reduced = function, arguments, state, appended, items

    def __reduce__(self) -> tuple[Any, ...]:
        *call, appended, items = self.reduced
        return (*call, iter(appended), iter(items))


def authors_checkpoint() -> dict[str, Any]:
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


def assert_same(actual: Any, expected: Any) -> None:
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
def test_authors_checkpoint(tmp_path: Path, new: bool) -> None:
    expected = authors_checkpoint()
    assert_same(load(tmp_path, saved(expected, new), 'PiNAS_cls.pth.tar'), expected)


@pytest.mark.parametrize('spelling', [b'numpy.core.multiarray', b'numpy._core.multiarray'])
def test_both_homes_of_numpy_scalars(tmp_path: Path, spelling: bytes) -> None:
    """NumPy 1 wrote the first name, NumPy 2 writes the second; each must be read with either installed."""
    installed = np.float64().__reduce__()[0].__module__.encode()
    content = {'best_pred': np.float64(81.25), 'epoch': np.int64(7)}
    data = repacked(saved(content), lambda program: program.replace(installed, spelling))
    assert load(tmp_path, data) == {'best_pred': 81.25, 'epoch': 7}


@pytest.mark.parametrize('name', ['w.pth', 'w.pth.tar', 'w.pt', 'w.bin', 'w.safetensors', 'w'])
def test_state_dict_of_a_real_model_in_every_kind_of_file(tmp_path: Path, name: str) -> None:
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
def test_dtypes(tmp_path: Path, name: str, new: bool) -> None:
    dtype = getattr(torch, name)
    tensor = torch.arange(6).to(dtype).reshape(2, 3)
    loaded = load(tmp_path, saved({'weight': tensor}, new))['weight']
    assert loaded.dtype == dtype
    assert torch.equal(loaded, tensor)


@BOTH
def test_views_share_their_storage(tmp_path: Path, new: bool) -> None:
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


def test_file_without_checksums(tmp_path: Path) -> None:
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


def test_part_that_refers_to_itself_and_part_that_is_referred_to_often(tmp_path: Path) -> None:
    itself: dict[str, Any] = {}
    itself['me'] = itself
    often: list[Any] = []
    for _ in range(100):  # 2^100 references when followed one by one
        often = [often, often]
    loaded = load(tmp_path, saved({'itself': itself, 'often': often}))
    assert loaded['itself']['me'] is loaded['itself']
    assert loaded['often'][0] is loaded['often'][1]


def test_allow_list_of_the_process_is_left_as_it_was(tmp_path: Path) -> None:
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
def test_no_checkpoint(tmp_path: Path, data: bytes, reason: str, name: str) -> None:
    assert reason in refusal(tmp_path, data, name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'missing\.pth: no such file'):
        load_checkpoint(tmp_path / 'missing.pth')
    with pytest.raises(ValueError, match='a folder; name a checkpoint file'):
        load_checkpoint(tmp_path)
    os.mkfifo(tmp_path / 'pipe.pth')  # opening it would wait for a writer
    with pytest.raises(ValueError, match='not a regular file'):
        load_checkpoint(str(tmp_path / 'pipe.pth'))


@BOTH
@pytest.mark.parametrize(('content', 'kind'), [([torch.ones(2)], 'list'), (3, 'int'), ('text', 'str')])
def test_no_dictionary(tmp_path: Path, content: Any, kind: str, new: bool) -> None:
    assert refusal(tmp_path, saved(content, new)) == f'it holds a {kind}, not a dictionary of weights'


@pytest.mark.filterwarnings('ignore:`torch.jit:FutureWarning')
def test_torchscript_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), stream)
    assert 'a TorchScript archive, which holds code' in refusal(tmp_path, stream.getvalue())


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors'])
def test_every_truncation_is_refused(tmp_path: Path, kind: str) -> None:
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
        (builtins.eval, ("open('{marker}', 'w')",), '__builtin__.eval'),
        (builtins.exec, ("open('{marker}', 'w')",), '__builtin__.exec'),
        (builtins.open, ('{marker}', 'w'), 'io.open'),
        (builtins.getattr, (3, 'real'), '__builtin__.getattr'),
        (functools.partial, (os.mkdir, '{marker}'), 'functools.partial'),
        (pickle.loads, (b'.',), 'pickle.loads'),
        (torch.load, ('{marker}',), 'torch.serialization.load'),
        (torch.hub.load, ('{marker}', 'x'), 'torch.hub.load'),
        # On torch's own allow-list, but of no use in weights: any size at once, or code less well guarded.
        (bytearray, (2**40,), '__builtin__.bytearray'),
        (torch.UntypedStorage, (2**40,), 'torch.storage.UntypedStorage'),
        (torch._utils._rebuild_meta_tensor_no_storage, (), 'torch._utils._rebuild_meta_tensor_no_storage'),
        (torch._utils._rebuild_sparse_tensor, (), 'torch._utils._rebuild_sparse_tensor'),
        (torch._tensor._rebuild_from_type_v2, (), 'torch._tensor._rebuild_from_type_v2'),
        # Functions of NumPy that are not needed for numbers.
        (np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b'b'), 'multiarray._reconstruct'),
        (np.load, ('{marker}',), 'numpy.load'),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_call_that_weights_do_not_need(
    tmp_path: Path, function: Callable[..., Any], arguments: tuple[Any, ...], name: str, new: bool
) -> None:
    marker = tmp_path / 'marker'
    filled = tuple(item.format(marker=marker) if isinstance(item, str) else item for item in arguments)
    content = {'state_dict': {'weight': torch.ones(2)}, 'extra': Calls(function, filled)}
    # Others may have widened the list of the process: mmengine adds getattr.
    with torch.serialization.safe_globals([function]):
        message = refusal(tmp_path, saved(content, new))
    assert f"{name}', which is not among the harmless names" in message
    assert 'weights_only=False' in message
    assert not marker.exists()


def test_control_that_the_attack_works_without_the_reader(tmp_path: Path) -> None:
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
        (Calls(np.dtype, ([('a', 'O')], False, True)), 'NumPy dtype a list'),
        (Calls(np.dtype, ('f8', False, False)), "NumPy dtype 'f8'"),  # would change the process's own float64
        (Calls(np.dtype, ('f8', False, True), (*FLOAT64_STATE[:-1], 63)), 'alters a NumPy dtype'),
        (Calls(np.dtype, ('f8', False, True), (3, '<', None, ('a',), {'a': 1}, 8, 1, 0)), 'alters a NumPy dtype'),
        (Calls(NUMBER[0], (np.dtype('f8'), b'\x00')), 'bytes do not fit'),
        (Calls(NUMBER[0], (np.dtype('f8'), 'eight by')), 'bytes do not fit'),
        (Calls(NUMBER[0], ()), 'is damaged'),
        (np.str_('text'), "NumPy dtype 'U4'"),
        (np.datetime64('2021-08-23'), "NumPy dtype 'M8'"),
        (Calls(np.dtype, ('f8', False, True), None, [1]), 'appends to'),
        (Calls(OrderedDict, (), {'items': 1}), 'sets attributes of'),
        (Calls(OrderedDict, ([['a', 1]],)), 'is damaged'),
        (Calls(Counter, ([1, 2],)), 'makes a Counter of something else'),
        (Calls(torch.Size, ([2, 3],)), 'a size of a list'),
    ],
)  # fmt: skip
@BOTH
def test_abuse_of_allowed_names(tmp_path: Path, attack: Any, reason: str, new: bool) -> None:
    assert reason in refusal(tmp_path, saved({'attack': attack}, new))


def tensor_call(size: Any, stride: Any, offset: Any = 0, hooks: Any = None, items: Any = ()) -> Calls:
    storage = torch.ones(6)._typed_storage()
    arguments = (storage, offset, size, stride, False, OrderedDict() if hooks is None else hooks)
    return Calls(torch._utils._rebuild_tensor_v2, arguments, items=items)


@pytest.mark.parametrize(
    ('attack', 'reason'),
    [
        (tensor_call((7,), (1,)), 'does not fit its storage of 6 elements'),
        (tensor_call((2, 3), (4, 1)), 'does not fit its storage'),
        (tensor_call((2, 3), (3, 1), 1), 'does not fit its storage'),
        (tensor_call((2**40,), (0,)), 'does not fit its storage'),  # a stride of 0 needs one element, a copy 2^40
        (tensor_call((0, 2**40, 2**40), (1, 1, 1)), 'does not fit its storage'),
        (tensor_call((-1,), (1,)), 'builds a tensor of size (-1,)'),
        (tensor_call((2,), (-1,), 5), 'builds a tensor of size'),
        (tensor_call((2,), (1,), -1), 'builds a tensor of size'),
        (tensor_call((2, 3), (1,)), 'builds a tensor of size'),
        (tensor_call((2**70,), (1,)), 'builds a tensor of size'),
        (tensor_call([2, 3], [3, 1]), 'from something else than a storage'),
        (tensor_call((2, 3), (3, 1), hooks=OrderedDict(a=1)), 'attaches something to a tensor'),
        (tensor_call((2, 3), (3, 1), items=[(0, 1)]), 'sets items of a Result'),  # CVE-2026-24747
        (Calls(torch._utils._rebuild_parameter, (3, True, OrderedDict())), 'of something else than a tensor'),
    ],
)
@BOTH
def test_tensors_that_reach_beyond_their_storage(tmp_path: Path, attack: Any, reason: str, new: bool) -> None:
    assert reason in refusal(tmp_path, saved({'weight': attack}, new))


@BOTH
def test_control_of_the_tensor_attacks(tmp_path: Path, new: bool) -> None:
    """The same calls with fitting numbers are read: size, stride and offset are what was refused."""
    content = {'weight': tensor_call((2, 2), (3, 1), 1), 'none': tensor_call((0, 5), (5, 1), 6)}
    loaded = load(tmp_path, saved(content, new))
    assert loaded['weight'].tolist() == [[1, 1], [1, 1]]
    assert loaded['none'].shape == (0, 5)


@pytest.mark.parametrize('numel', [0, 1, 3, 2**31 - 1])
def test_storage_of_another_size_than_declared(tmp_path: Path, numel: int) -> None:
    """Refused before the memory is reserved: 2^31 floats would be 8 GiB."""
    claimed = b'J' + struct.pack('<i', numel)
    empty = b'K\x00\x85'  # tensors of no elements, which fit every storage
    content = {'weight': torch.ones(2)}
    raw = repacked(
        saved(content), lambda program: program.replace(b'K\x02t', claimed + b't').replace(b'K\x02\x85', empty)
    )
    assert f'should have {numel * 4} bytes, but has 8' in refusal(tmp_path, raw)
    raw = saved(content, new=False).replace(b'K\x02Nt', claimed + b'Nt').replace(b'K\x02\x85', empty)
    assert f'should have {numel * 4 + 8} bytes, but 16 are there' in refusal(tmp_path, raw)


def test_legacy_storage_that_is_not_listed(tmp_path: Path) -> None:
    """torch would leave its memory as it is and show whatever was there before."""
    raw = saved({'weight': torch.ones(2)}, new=False)
    start = raw.rindex(b'\x80\x02]')  # the list of keys, then the data
    assert 'list of storages does not name' in refusal(tmp_path, raw[:start] + b'\x80\x02]q\x00.')


def test_legacy_file_that_is_also_a_tar_archive(tmp_path: Path) -> None:
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


def tensor_entry(raw: bytes, field: int, value: int) -> bytes:
    """The zip with another 32-bit number in the table of contents, in the entry of the first tensor."""
    at = raw.rindex(b'archive/data/0') - 46 + field
    assert raw[at - field :].startswith(b'PK\x01\x02')
    return raw[:at] + struct.pack('<I', value) + raw[at + 4 :]


def twice(raw: bytes, name: str) -> bytes:
    """The zip with one more member."""
    stream = io.BytesIO(repacked(raw, bytes))
    with zipfile.ZipFile(stream, 'a') as archive, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # zipfile warns of the second member of one name
        archive.writestr(name, bytes(8))
    return stream.getvalue()


def with_comment(raw: bytes) -> bytes:
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
def test_crafted_table_of_contents(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    raw = repacked(saved({'weight': torch.ones(2)}), bytes)
    assert load(tmp_path, raw)['weight'].tolist() == [1, 1]
    assert 'table of contents is not as torch.save writes it' in refusal(tmp_path, change(raw))


@pytest.mark.parametrize(
    ('program', 'reason'),
    [
        # A tuple that holds the one before twice: as a key, its hash takes 2^99 steps.
        (b'})' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(99)) + b'K\x01s', 'a dictionary key that is neither'),
        (b'}' + b'X\x01\x00\x00\x00a' + b'\x85' * 100_000 + b'K\x01s', 'a dictionary key that is neither'),
        (b'}X\x01\x00\x00\x00a)' + b'\x85' * 100_000 + b's', 'RecursionError'),
        (b'}q\xff' + b'r\xff\xff\xff\x7f' + b'j\xff\xff\xff\x7eK\x01s', 'is damaged'),  # a memo of 2^31 places
        (b'}X\xff\xff\xff\xffa', 'is damaged'),  # a text of 4 GiB
        (b'\x8e\xff\xff\xff\xff\xff\xff\xff\x7f', 'is damaged'),  # bytes of 8 EiB
        (b'}\x8a\xff' + b'\x7f' * 255 + b'K\x01s', ''),  # an integer of 255 bytes is one
        (b'}K\x01', 'it holds a int'),
        (b'', 'is damaged'),
        (b'R', 'is damaged'),
        (b't', 'is damaged'),
        (b'cposix\nsystem\n', 'posix.system'),
        (b'c\\x70osix\nsystem\n', 'posix.system'),
        (b'cposix\r\n\x1b[2Jsystem\n', 'not among the harmless names'),
        (b'(cposix\nsystem\nX\x01\x00\x00\x00ao', 'posix.system'),
        (b'(X\x01\x00\x00\x00aiposix\nsystem\n', 'instruction INST'),
        (b'\x8c\x05posix\x8c\x06system\x93', 'instruction SHORT_BINUNICODE'),
        (b'\x82\x01', 'instruction EXT1'),
        (b'ccollections\nOrderedDict\n)\x81', 'instruction NEWOBJ'),
        (b'X\x01\x00\x00\x00a)R', "calls 'a', which is not a function"),
        (b'ctorch\nFloatStorage\nK\x01\x85R', "calls 'torch.FloatStorage', which is not a function"),
        (b'K\x01Q', 'refers to a storage in an unknown way: 1'),
        (b'ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb', 'sets attributes of'),
        (b'\x80\x04}', 'its pickle has protocol 4'),
    ],
)
def test_crafted_pickle(tmp_path: Path, program: bytes, reason: str) -> None:
    if reason:
        assert reason in refusal(tmp_path, with_pickle(program))
    else:
        assert isinstance(load(tmp_path, with_pickle(program)), dict)


def test_one_storage_declared_twice(tmp_path: Path) -> None:
    """The first declaration would decide: the second tensor would be read with another type than it says."""
    raw = saved({'weight': torch.ones(2), 'count': torch.ones(2, dtype=torch.int32)})
    raw = repacked(raw, lambda program: program.replace(b'X\x01\x00\x00\x001', b'X\x01\x00\x00\x000'))
    assert "declares storage '0' twice, differently" in refusal(tmp_path, raw)


def test_one_member_of_the_zip_for_many_storages(tmp_path: Path) -> None:
    """To torch, which ignores the case of names, 'aaaa', 'aaaA' ... are one member, read again for each."""
    raw = repacked(
        saved({'weight': torch.ones(2), 'w': torch.ones(2)}), lambda p: p.replace(b'\x00\x00\x000', b'\x00\x00\x00a')
    )
    raw = repacked(raw.replace(b'data/0', b'data/a'), lambda p: p.replace(b'\x00\x00\x001', b'\x00\x00\x00A'))
    assert "its storage 'A' should have 8 bytes, but has 0" in refusal(tmp_path, raw)


# --- damaged files -------------------------------------------------------------------------------------------------

EXTREMES = [b'\x00', b'\xff', bytes(4), b'\xff' * 4, b'\xff\xff\xff\x7f', bytes(8), b'\xff' * 8, b'\xff' * 7 + b'\x7f']


def damaged(data: bytes, other: bytes, rng: random.Random) -> bytes:
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
def test_damaged_files(tmp_path: Path) -> None:
    """3,200 damaged files of every kind: each is read or refused, nothing else, and nothing in them is executed.

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
    outcomes: Counter[str] = Counter()
    for index in range(3200):
        rng = random.Random(index)
        base, other = bases[index % len(bases)], rng.choice(bases)
        if base.startswith(b'PK') and rng.random() < 0.5:
            data = repacked(base, lambda program, rng=rng, other=other: damaged(program, other, rng))  # type: ignore[misc]
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
    # Damage to the numbers of a tensor cannot be seen, so some are read: the test is not one of refusing everything.
    assert outcomes.total() == 3200
    assert min(outcomes['read'], outcomes['refused']) > 100


def test_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    """Exit code 2, one line, no traceback, nothing executed, nothing written."""
    marker, target, source = tmp_path / 'marker', tmp_path / 'out.pth', tmp_path / 'attack.pth'
    source.write_bytes(saved({'state_dict': Calls(os.system, (f'touch {marker}',))}))
    command = [sys.executable, '-m', 'pinas_models.cli', 'convert', str(source), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (2, '', 1)
    assert done.stderr.startswith(f'pinas-models convert: error: {source}: ')
    assert 'posix.system' in done.stderr
    assert list(tmp_path.iterdir()) == [source]
