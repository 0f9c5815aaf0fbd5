"""Model folders out to the Hub and back, over HTTP, as a publisher and a reader meet it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hub_server import Hub
from huggingface_hub import HfApi, snapshot_download
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from pinas_models.cards import searched_card
from pinas_models.cli import main
from pinas_models.common.hub import explain_download, explain_upload
from pinas_models.hub import list_files, stage_folder, verify_folder
from pinas_models.hub.folder import write_checksums, wrong_checksums
from pinas_models.inspect.costs import measure_costs

PATH, CLASSES = '30123021', 7
FILES = ['README.md', 'config.json', 'model.safetensors', 'test/SHA256SUMS', 'test/rand_tensors.safetensors']
SUMMED = ['config.json', 'model.safetensors', 'test/rand_tensors.safetensors']


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = timm.create_model('pinas_mini', choices=PATH, num_classes=CLASSES).train()
    with torch.no_grad():
        for _ in range(3):  # statistics other than 0 and 1
            model(torch.randn(8, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope='module')
def found(tmp_path_factory, model):
    """What a search leaves behind: the model as ``retrain`` saves it, with its card and other files around it."""
    folder = tmp_path_factory.mktemp('run') / 'winner' / 'model'
    save_for_hf(model, str(folder), {'label_names': list('abcdefg')}, safe_serialization=True)
    card = searched_card(
        f'mini {PATH}',
        origin='A network of the space `mini`.',
        rows=[('stage 1', PATH, '')],
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=measure_costs(model, (3, 32, 32)).macs,
        image_size=32,
        facts={'Data': 'digits'},
    )
    (folder / 'README.md').write_text(card, encoding='utf-8')
    (folder / 'optimizer.bin').write_bytes(b'not for others')
    return folder


@pytest.fixture(scope='module')
def staged(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp('staged') / 'model'
    stage_folder(found, folder, 'lab/mini')
    return folder


@pytest.fixture
def folder(tmp_path, staged):
    """A staged folder of one's own."""
    return Path(shutil.copytree(staged, tmp_path / 'model'))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def verify(capsys, *arguments):
    """Exit code, and the names of the checks that failed."""
    code = main(['verify', *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.err == ''
    lines = captured.out.splitlines()[1:]
    assert all(re.fullmatch(r'  (ok    |FAILED)  (checksums|weights|golden|card) +\S.*', line) for line in lines)
    return code, [line.split()[1] for line in lines if line.startswith('  FAILED')]


# The folder


def test_dry_run_writes_the_folder_and_lists_it(found, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv('HF_TOKEN', raising=False)  # a dry run needs nobody's
    before, out = contents(found), tmp_path / 'out'
    assert main(['publish', str(found), 'lab/mini', '--dry-run', '--out', str(out)]) == 0
    captured = capsys.readouterr()
    assert contents(found) == before
    written = contents(out)
    assert sorted(written) == FILES
    for name in ('config.json', 'model.safetensors'):
        assert written[name] == before[name]
    for name, data in written.items():
        assert f'{len(data):>12,}  {hashlib.sha256(data).hexdigest()}  {name}\n' in captured.out
    assert captured.out.count('  ok  ') == 4
    assert 'note: left out: optimizer.bin\n' in captured.out
    assert 'licence' in captured.err
    card = written['README.md'].decode()
    assert "timm.create_model('hf-hub:lab/mini', pretrained=True)" in card
    assert card == before['README.md'].decode().replace('local-dir:PATH_TO_THIS_FOLDER', 'hf-hub:lab/mini')
    assert written['test/SHA256SUMS'].decode() == ''.join(
        f'{hashlib.sha256(written[name]).hexdigest()}  {name}\n' for name in SUMMED
    )


def test_golden_tensors_are_what_the_model_answers(staged, model):
    golden = load_file(staged / 'test/rand_tensors.safetensors')
    assert golden.keys() == {'input', 'features', 'pre_logits', 'output'}
    assert torch.equal(golden['input'], torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    # As timm's own inference test asks it of repositories of the Hub.
    opened = timm.create_model(f'local-dir:{staged}', pretrained=True).eval()
    with torch.inference_mode():
        features = opened.forward_features(golden['input'])
        assert torch.equal(features, golden['features'])
        assert torch.equal(opened.forward_head(features, pre_logits=True), golden['pre_logits'])
        assert torch.equal(opened(golden['input']), golden['output'])
        assert torch.equal(model(golden['input']), golden['output'])
    assert golden['output'].std() > 1e-3


def test_a_folder_without_card_and_safetensors_gets_them(tmp_path, model, capsys):
    save_for_hf(model, str(tmp_path / 'model'), safe_serialization=False)
    assert sorted(contents(tmp_path / 'model')) == ['config.json', 'pytorch_model.bin']
    notes = stage_folder(tmp_path / 'model', tmp_path / 'out', 'lab/mini')
    assert {note.split()[0] for note in notes} == {*FILES, 'left'} - {'config.json'}
    weights = load_file(tmp_path / 'out/model.safetensors')
    state = model.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert verify(capsys, tmp_path / 'out') == (0, [])
    assert "hf-hub:lab/mini'" in (tmp_path / 'out/README.md').read_text(encoding='utf-8')


@pytest.mark.parametrize(
    ('name', 'arguments', 'shape'),
    [
        ('pinas_mini', {'num_classes': 0, 'in_chans': 4}, (2, 4, 32, 32)),
        ('pinas_mini', {'num_classes': 0, 'global_pool': ''}, (2, 3, 32, 32)),
        ('test_convnext', {}, (2, 3, 160, 160)),  # its features lie in memory with the channels last
    ],
)
def test_other_models(
    tmp_path,
    capsys,
    name,
    arguments,
    shape,
):
    save_for_hf(timm.create_model(name, **arguments), str(tmp_path / 'model'), safe_serialization=True)
    stage_folder(tmp_path / 'model', tmp_path / 'out', 'lab/mini')
    assert load_file(tmp_path / 'out/test/rand_tensors.safetensors')['input'].shape == shape
    assert verify(capsys, tmp_path / 'out', '--tolerance', '0') == (0, [])


def test_weights_that_answer_nonsense_are_refused(found, tmp_path):
    shutil.copytree(found, tmp_path / 'model')
    tensors = load_file(tmp_path / 'model/model.safetensors')
    tensors['fc.bias'][2] = float('nan')
    save_file(tensors, tmp_path / 'model/model.safetensors')
    with pytest.raises(ValueError, match='the output of the model has values that are not finite'):
        stage_folder(tmp_path / 'model', tmp_path / 'out', 'lab/mini')


def test_a_folder_that_disagrees_with_its_golden_tensors_is_not_published(folder, tmp_path, capsys):
    tensors = load_file(folder / 'model.safetensors')
    tensors['fc.bias'] += 0.1  # trained on after test/ was made
    save_file(tensors, folder / 'model.safetensors', {'format': 'pt'})
    assert main(['publish', str(folder), 'lab/mini', '--dry-run', '--out', str(tmp_path / 'first')]) == 1
    captured = capsys.readouterr()
    assert re.findall(r'FAILED  (\w+)', captured.out) == ['checksums', 'golden']
    assert 'delete its test/' in captured.err
    assert 'dry run' not in captured.out
    shutil.rmtree(folder / 'test')
    stage_folder(folder, tmp_path / 'second', 'lab/mini')
    assert verify(capsys, tmp_path / 'second') == (0, [])


# Verification


def test_the_published_folder_passes(staged, capsys):
    assert verify(capsys, staged, '--tolerance', '0') == (0, [])
    assert verify(capsys, f'local-dir:{staged}') == (0, [])


@pytest.mark.skipif(shutil.which('sha256sum') is None, reason='needs sha256sum')
def test_sha256sum_reads_the_checksums(folder):
    command = ['sha256sum', '--check', '--strict', '--quiet', 'test/SHA256SUMS']
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    flip(folder / 'model.safetensors', 12345678)
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 1


@settings(max_examples=60, derandomize=True)
@given(name=st.sampled_from(SUMMED), bit=st.integers(0, 2**40))
def test_any_flipped_bit_is_found(staged, name, bit):
    path, original = staged / name, (staged / name).read_bytes()
    try:
        flip(path, bit)
        problems = wrong_checksums(staged)
    finally:
        path.write_bytes(original)
    assert len(problems) == 1
    assert problems[0].startswith(name)
    assert wrong_checksums(staged) == []


@settings(max_examples=12, derandomize=True)
@given(
    name=st.sampled_from(['config.json', 'README.md', 'test/rand_tensors.safetensors']),
    bits=st.lists(st.integers(0, 2**20), min_size=1, max_size=5),
)
def test_damaged_files_give_failed_checks_and_no_traceback(staged, name, bits):
    path, original = staged / name, (staged / name).read_bytes()
    try:
        for bit in bits:
            flip(path, bit)
        changed = path.read_bytes() != original
        checks = verify_folder(staged)
    finally:
        path.write_bytes(original)
    failed = {check.name for check in checks if not check.passed}
    assert all('\n' not in check.detail for check in checks)
    if changed and name != 'README.md':
        assert 'checksums' in failed
    else:
        assert failed <= {'card'}


def test_flipped_bit_of_the_weights_is_found_on_the_command_line(folder, capsys):
    data = (folder / 'model.safetensors').read_bytes()
    header = 8 + int.from_bytes(data[:8], 'little')
    offset = json.loads(data[8:header])['fc.weight']['data_offsets'][0]
    flip(folder / 'model.safetensors', 8 * (header + offset))  # lowest bit of the mantissa of the first weight
    assert verify(capsys, folder) == (1, ['checksums'])
    flip(folder / 'model.safetensors', 8 * (header + offset))
    flip(folder / 'model.safetensors', 8 * (header + offset) + 30)  # highest bit of the exponent
    assert verify(capsys, folder) == (1, ['checksums', 'golden'])


def test_golden_tensors_find_weights_with_checksums_of_their_own(folder, model, capsys):
    golden = load_file(folder / 'test/rand_tensors.safetensors')
    largest = golden['output'].abs().max()
    tensors = load_file(folder / 'model.safetensors')
    # A bias moves every output by the same amount, so the difference is known: a thousandth of the largest value.
    tensors['fc.bias'] += largest * 1e-3
    save_file(tensors, folder / 'model.safetensors', {'format': 'pt'})
    write_checksums(folder)
    assert verify(capsys, folder) == (1, ['golden'])
    assert verify(capsys, folder, '--tolerance', '0.0009') == (1, ['golden'])
    assert verify(capsys, folder, '--tolerance', '0.0011') == (0, [])
    tensors['fc.bias'][0] = float('nan')
    save_file(tensors, folder / 'model.safetensors', {'format': 'pt'})
    write_checksums(folder)
    assert verify(capsys, folder, '--tolerance', '0.9') == (1, ['golden'])


@pytest.mark.parametrize(
    ('name', 'content', 'failed', 'says'),
    [
        ('model.safetensors', lambda data: data[:-100], ['checksums', 'weights'], 'model.safetensors'),
        ('model.safetensors', None, ['checksums', 'weights'], 'model.safetensors is missing'),
        ('config.json', lambda data: data[:50], ['checksums', 'weights'], 'config.json'),
        ('config.json', lambda data: data.replace(b'_mini', b'_cls'), ['checksums', 'weights'], 'config.json'),
        ('test/rand_tensors.safetensors', None, ['checksums', 'golden'], 'there is no test/rand_tensors'),
        ('test/rand_tensors.safetensors', lambda data: data[:99], ['checksums', 'golden'], 'cannot be read'),
        ('test/SHA256SUMS', None, ['checksums'], 'there is no test/SHA256SUMS'),
        ('test/SHA256SUMS', lambda data: b'', ['checksums'] * 3, 'no checksum of model.safetensors'),
        ('test/SHA256SUMS', lambda data: data + b'\xff\n', ['checksums'], 'line 4'),
        ('test/SHA256SUMS', lambda data: data + b'0' * 64 + b'  ../../secret\n', ['checksums'], 'line 4'),
        ('README.md', None, ['card'], 'there is no README.md'),
        ('README.md', lambda data: data[3:], ['card'], 'front matter'),
        ('README.md', lambda data: data.replace(b'Parameters 9', b'Parameters 8'), ['card'], 'parameters'),
    ],
)
def test_each_damage_has_a_line(folder, capsys, name, content, failed, says):
    if content is None:
        (folder / name).unlink()
    else:
        data = (folder / name).read_bytes()
        assert content(data) != data
        (folder / name).write_bytes(content(data))
    assert says in ' '.join(check.detail for check in verify_folder(folder) if not check.passed)
    assert verify(capsys, folder) == (1, failed)


def test_golden_tensors_of_another_model_are_told_apart(folder):
    golden = load_file(folder / 'test/rand_tensors.safetensors')
    for change, says in {
        'input': (golden['input'][:, :2], 'does not take the golden input of shape (2, 2, 32, 32)'),
        'output': (golden['output'][:, :5], 'the output has shape (2, 7), the golden one (2, 5)'),
        'logits': (golden['output'], "'logits', which is no answer"),
        'features': (golden['features'] * 0, 'the features differs'),
    }.items():
        save_file({**golden, change: says[0].clone()}, folder / 'test/rand_tensors.safetensors')
        details = {check.name: check.detail for check in verify_folder(folder)}
        assert says[1] in details['golden']
    save_file({'input': golden['input']}, folder / 'test/rand_tensors.safetensors')
    assert 'needs an input and an output' in {check.name: check.detail for check in verify_folder(folder)}['golden']


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['publish', '{found}', 'mini', '--dry-run'], 'ORG/name'),
        (['publish', '{found}', 'lab/mi ni', '--dry-run'], 'lab/mi ni'),
        (['publish', '{found}', 'https://huggingface.co/lab/mini', '--dry-run'], 'ORG/name'),
        (['publish', '{found}/nowhere', 'lab/mini', '--dry-run', '--out', '{new}'], 'there is no folder'),
        (['publish', '{found}/..', 'lab/mini', '--dry-run', '--out', '{new}'], 'config.json'),
        (['publish', '{found}', 'lab/mini', '--dry-run', '--out', '{found}'], 'is not empty'),
        (['publish', '{found}', 'lab/mini', '--out', '{new}'], '--dry-run'),
        (['verify', 'nowhere'], 'there is no folder nowhere'),
        (['verify', 'local-dir:no/where'], 'there is no folder'),
        (['verify', '{found}', '--revision', 'main'], 'has no revisions'),
        (['verify', 'hf-hub:nowhere'], 'ORG/name'),
    ],
)
def test_mistakes_are_one_line(found, tmp_path, capsys, arguments, says):
    assert main([argument.format(found=found, new=tmp_path / 'new') for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f'pinas-models {arguments[0]}: error: ')
    assert says in captured.err
    assert not (tmp_path / 'new').exists()


@pytest.mark.parametrize('tolerance', ['-1', '1', 'nan', 'inf', 'much'])
def test_tolerance_is_a_part(staged, tolerance, capsys):
    with pytest.raises(SystemExit) as stop:
        main(['verify', str(staged), f'--tolerance={tolerance}'])
    assert stop.value.code == 2


# Over HTTP. The client is a process of its own, because huggingface_hub reads its settings when it is imported; it runs
# one command after the other, so that the tests wait for one import only.

CLIENT = """
import contextlib, io, json, os, sys
from pinas_models.cards import searched_card
from pinas_models.cli import main
from pinas_models.hub import upload_folder
from pathlib import Path
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

for line in sys.stdin:
    arguments, token = json.loads(line)
    os.environ.pop('HF_TOKEN', None)
    if token is not None:
        os.environ['HF_TOKEN'] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if isinstance(arguments, dict):  # the upload alone, without the checks before it
            disable_progress_bars()
            try:
                code = 0
                print(upload_folder(Path(arguments.pop('folder')), arguments.pop('repo_id'), **arguments))
            except (ValueError, OSError) as error:
                code = 2
                print(error, file=sys.stderr)
        else:
            enable_progress_bars()  # whatever the command before has left
            code = main(arguments)
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


class Client:
    """The command line of somebody who knows the small Hub only."""

    def __init__(self, hub, home):
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(('HF_', 'HUGGING'))}
        self.environment |= {
            'HF_ENDPOINT': hub.endpoint,
            'HF_HOME': str(home),
            'TMPDIR': str(home),
            'HF_HUB_DISABLE_XET': '1',  # or large files would go past HTTP
            'HF_HUB_DISABLE_TELEMETRY': '1',
            'OMP_NUM_THREADS': '1',
            'NO_PROXY': '*',
        }
        self.process = subprocess.Popen(
            [sys.executable, '-c', CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )

    def run(self, *arguments, token=None):
        """Run a command; returns its exit code, stdout and stderr."""
        return self.ask(list(map(str, arguments)), token)

    def upload(self, folder, repo_id, token='mine', **options):
        """Upload a staged folder."""
        return self.ask({'folder': str(folder), 'repo_id': repo_id, **options}, token)

    def ask(self, arguments, token):
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([arguments, token]) + '\n')
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out, err

    def close(self):
        self.process.communicate()


@pytest.fixture(scope='module')
def hub():
    with Hub({'mine': {'lab'}, 'reader': {'guest'}}) as hub:
        yield hub


@pytest.fixture(scope='module')
def client(hub, tmp_path_factory):
    client = Client(hub, tmp_path_factory.mktemp('home'))
    yield client
    client.close()


@pytest.fixture(scope='module')
def published(hub, client, staged):
    """A public repository."""
    assert client.upload(staged, 'lab/public') == (
        0,
        f'{hub.endpoint}/lab/public/commit/{head(hub, "lab/public")}\n',
        '',
    )
    return 'lab/public'


def head(hub, name, branch='main'):
    return hub.repositories[name].branches[branch]


def test_an_interrupted_upload_is_taken_up_by_the_same_command(hub, client, found, staged):
    """Killed in the middle of the weights; then a connection that breaks; in the end everything is there once."""
    hub.faults.extend(['hold', 'hold'])
    command = [sys.executable, '-m', 'pinas_models.cli', 'publish', str(found), 'lab/mini']
    process = subprocess.Popen(command, env={**client.environment, 'HF_TOKEN': 'mine'}, stdout=subprocess.DEVNULL)
    assert hub.held.wait(120)
    process.kill()
    process.wait()
    hub.faults.clear()
    assert list(hub.files('lab/mini')) == ['.gitattributes']

    hub.faults.append('drop')  # huggingface_hub itself tries again
    code, out, err = client.run('publish', found, 'lab/mini', '--message', 'Found on digits', token='mine')
    assert (code, err.count('\r')) == (0, 0), err
    assert f'published: {hub.endpoint}/lab/mini/commit/{head(hub, "lab/mini")}\n' in out
    assert "timm.create_model('hf-hub:lab/mini', pretrained=True)" in out
    files = hub.files('lab/mini')
    del files['.gitattributes']
    assert files == contents(staged)
    assert list(hub.repositories['lab/mini'].messages.values()) == ['initial commit', 'Found on digits']
    assert not any(authorized for _, path, authorized in hub.calls if path.startswith('/storage/'))


def test_a_refused_file_is_one_sentence_and_the_rest_is_not_sent_again(hub, client, folder):
    save_file({'input': torch.zeros(1), 'output': torch.ones(1)}, folder / 'test/rand_tensors.safetensors')
    tensors = load_file(folder / 'model.safetensors')
    tensors['fc.bias'] += 1
    save_file(tensors, folder / 'model.safetensors')
    hub.faults.append('refuse')
    code, out, err = client.upload(folder, 'lab/refused')
    assert (code, out) == (2, '')
    assert err.startswith('the upload to lab/refused broke off (HTTP 403) and nothing was published; run the command')
    assert 'secret' not in err
    assert list(hub.files('lab/refused')) == ['.gitattributes']
    before = hub.count('PUT', '/storage/')
    assert client.upload(folder, 'lab/refused')[0] == 0
    assert hub.count('PUT', '/storage/') == before + 1  # the other large file had arrived
    assert hub.files('lab/refused').items() >= contents(folder).items()


def test_create_model_from_the_hub_equals_the_original(client, published, model, tmp_path):
    x = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = {'x': x, 'y': model(x)}
    torch.save(expected, tmp_path / 'expected.pt')
    code = f"""
import pinas_models, timm, torch
saved = torch.load({str(tmp_path / 'expected.pt')!r})
model = timm.create_model('hf-hub:{published}', pretrained=True).eval()
print(type(model).__name__, ''.join(map(str, model.choices)), *model.pretrained_cfg['label_names'])
with torch.inference_mode():
    print(torch.equal(model(saved['x']), saved['y']))
"""
    home = tmp_path / 'home'
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**client.environment, 'HF_HOME': str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [f'PinasNet {PATH} a b c d e f g', 'True'], done.stderr
    assert (home / 'hub/models--lab--public').is_dir()


def test_verify_a_repository(hub, client, published):
    hub.break_download = True  # goes on from where it broke
    code, out, err = client.run('verify', published, '--tolerance', '0')
    assert (code, err) == (0, '')
    assert out.splitlines()[0] == f'lab/public on the Hub, commit {head(hub, published)}:'
    assert out.count('  ok  ') == len(out.splitlines()) - 1 == 4
    assert not hub.break_download
    assert client.run('verify', f'hf-hub:{published}@main', '--tolerance', '0') == (code, out, err)


def test_a_file_that_arrived_damaged_does_not_stay_in_the_cache(client, hub, published):
    assert client.run('verify', published)[0] == 0
    cache = Path(client.environment['HF_HOME']) / 'hub' / 'models--lab--public' / 'snapshots' / head(hub, published)
    weights = (cache / 'model.safetensors').resolve()
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    code, out, err = client.run('predict', __file__, '--model', f'hf-hub:{published}')
    assert (code, out) == (2, '')
    assert f'"pinas-models verify {published}" gets a damaged file again' in err
    code, out, err = client.run('verify', published)
    assert (code, err, out.count('  ok  ')) == (0, '', 4)
    assert weights.read_bytes() == whole


def test_a_hub_that_is_down_and_a_web_page_are_named(hub, tmp_path):
    hub.down = 503
    try:
        with (
            pytest.raises(FileNotFoundError, match='it is not in the cache, and the answer was HTTP 503, try again'),
            explain_download('lab/public'),
        ):
            snapshot_download('lab/public', endpoint=hub.endpoint, cache_dir=tmp_path)
    finally:
        hub.down = 0
    with pytest.raises(FileNotFoundError, match='does not answer as a Hub does'), explain_download('lab/public'):
        snapshot_download('lab/public', endpoint=f'{hub.endpoint}/website', cache_dir=tmp_path)


def test_verify_finds_what_the_storage_has_spoilt(hub, client, folder):
    tensors = load_file(folder / 'model.safetensors')
    tensors['bn1.num_batches_tracked'] += 1
    save_file(tensors, folder / 'model.safetensors', {'format': 'pt'})
    write_checksums(folder)
    assert client.upload(folder, 'lab/spoilt')[0] == 0
    oid = hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()
    data = bytearray(hub.blobs[oid])
    data[-1] ^= 1
    hub.blobs[oid] = bytes(data)
    code, out, err = client.run('verify', 'lab/spoilt')
    assert (code, err) == (1, '')
    assert re.findall(r'FAILED  checksums  model.safetensors has sha256 ', out)


def test_without_a_token_nothing_is_asked(hub, client, found):
    before = len(hub.calls)
    code, out, err = client.run('publish', found, 'lab/other')
    assert (code, out) == (2, '')
    assert re.fullmatch(r'pinas-models publish: error: you are not logged in .*"hf auth login".*HF_TOKEN.*\n', err)
    assert len(hub.calls) == before


@pytest.mark.parametrize(
    ('token', 'repository', 'says'),
    [
        ('expired', 'lab/other', 'the Hub does not accept your token: log in with "hf auth login"'),
        ('reader', 'lab/other', 'you have no right to write to lab/other: ask lab for it'),
        ('reader', 'lab/public', 'you have no right to write to lab/public: ask lab for it'),
    ],
)
def test_without_the_right_nothing_is_published(hub, client, published, folder, token, repository, says):
    before, commit = set(hub.repositories), head(hub, published)
    (folder / 'README.md').write_text('other', encoding='utf-8')
    code, out, err = client.upload(folder, repository, token)
    assert (code, out) == (2, '')
    assert err.startswith(says)
    assert token not in err
    assert set(hub.repositories) == before
    assert head(hub, published) == commit


def test_publishing_again_writes_what_has_changed(hub, client, published, folder):
    commit, stored = head(hub, published), hub.count('PUT', '/storage/')
    assert client.upload(folder, published)[0] == 0
    assert head(hub, published) == commit
    card = (folder / 'README.md').read_bytes() + b'\nWhat I learnt since.\n'
    (folder / 'README.md').write_bytes(card)
    assert client.upload(folder, published, revision='v2', message='Say more')[0] == 0
    assert head(hub, published) == commit
    assert hub.files(published, 'v2') == {**hub.files(published), 'README.md': card}
    assert hub.repositories[published].messages[head(hub, published, 'v2')] == 'Say more'
    assert client.upload(folder, published, revision='v2')[0] == 0  # the branch exists
    assert hub.count('PUT', '/storage/') == stored
    code, out, err = client.run('verify', published, '--revision', 'v2')
    assert (code, err) == (0, '')
    assert head(hub, published, 'v2') in out


def test_private_means_private(hub, client, published, staged):
    assert client.upload(staged, 'lab/secret', private=True)[0] == 0
    assert hub.repositories['lab/secret'].private
    assert client.run('verify', 'lab/secret', token='mine')[0] == 0
    commits = len(hub.repositories[published].commits)
    code, _, err = client.upload(staged, published, private=True)
    assert code == 2
    assert 'lab/public exists and is public' in err
    assert len(hub.repositories[published].commits) == commits


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (
            ['lab/nothing'],
            'it does not exist, or is private and you are not logged in; and there is no folder lab/nothing',
        ),
        (['lab/public', '--revision', 'v99'], 'it has no such revision'),
        (['lab/empty'], 'it has no config.json'),
    ],
)
def test_nothing_to_verify(hub, client, published, tmp_path, arguments, says):
    (tmp_path / 'notes.txt').write_text('nothing else', encoding='utf-8')
    assert client.upload(tmp_path, 'lab/empty')[0] == 0
    code, out, err = client.run('verify', *arguments)
    assert (code, out) == (2, '')
    assert len(err.splitlines()) == 1
    assert says in err


def test_no_connection_and_no_hub_are_one_sentence(hub, tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        nobody = f'http://127.0.0.1:{free.getsockname()[1]}'
    later = pytest.raises(ConnectionError, match=r'^cannot upload to lab/mini at .*; run the command again later$')
    with later, explain_upload('lab/mini'):
        HfApi(nobody, token='mine').create_repo('lab/mini')
    missing = pytest.raises(
        FileNotFoundError,
        match=r'^cannot get lab/mini from .*: it is not in the cache, and (there is no connection|HF_HUB_OFF)',
    )
    with missing, explain_download('lab/mini'):
        snapshot_download('lab/mini', endpoint=nobody, cache_dir=tmp_path)
    wrong = pytest.raises(ConnectionError, match='does not answer as a Hub does; is HF_ENDPOINT right')
    with wrong, explain_upload('lab/mini'):
        HfApi(f'{hub.endpoint}/website', token='mine').create_repo('lab/mini')


def test_list_files_is_sorted_and_exact(staged):
    files = list_files(staged)
    assert [file.name for file in files] == FILES
    assert [file.size for file in files] == [len(contents(staged)[name]) for name in FILES]
