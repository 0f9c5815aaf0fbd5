"""``pretrained=True`` from every place where weights can be, and ``open_model`` on top of it."""

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import authors_checkpoints as authors
import huggingface_hub.constants
import pytest
import timm
import torch
from authors_checkpoints import backbone_of, network
from reference import make_input
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

import pinas_models
from pinas_models import PINAS_CLS, PINAS_MINI, PINAS_TRANS, PinasNet
from pinas_models.checkpoints import convert_state_dict
from pinas_models.loading import open_model, resolve_name

MINI_FILE = Path(pinas_models.__file__).parent / 'weights' / 'pinas_mini.cifar10.safetensors'
PATH = (3, 0, 1, 2, 2, 1, 0, 3)
DIGITS = '30122103'
WAYS = ('convert', 'local-dir:', 'PINAS_HUB_NAMESPACE')  # what a user without weights is told


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, '-c', f'import timm, pinas_models\n{code}'],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1', **environment},
    )


@pytest.fixture
def offline(monkeypatch):
    """As with HF_HUB_OFFLINE=1, which is read at import."""
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)


@pytest.fixture(scope='module')
def cls():
    """Stands for the authors' classification network."""
    return network('pinas_cls', seed=1)


@pytest.fixture(scope='module')
def trans():
    """Stands for the backbone of the authors' dense networks."""
    return network('pinas_trans', seed=2)


@pytest.fixture(scope='module')
def mini():
    return network('pinas_mini', seed=3, choices=PATH)


@pytest.fixture(scope='module')
def hub(cls, trans, tmp_path_factory):
    """A cache of the Hub with the weights of two tags, as downloads leave it."""
    cache = tmp_path_factory.mktemp('hub')
    for name, model in (('pinas_cls.in1k', cls), ('pinas_trans.coco', trans)):
        folder = cache / f'models--pinas-models--{name}'
        snapshot = folder / 'snapshots' / ('0' * 40)
        save_for_hf(model, str(snapshot), safe_serialization=True)
        (folder / 'refs').mkdir()
        (folder / 'refs' / 'main').write_text('0' * 40)
    return cache


def same_weights(model, weights):
    state = model.state_dict()
    assert set(state) == set(weights)
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor), name


# The tags


def test_tags():
    assert timm.list_pretrained('pinas*') == [
        'pinas_cls.in1k',
        'pinas_mini.cifar10',
        'pinas_trans.ade20k',
        'pinas_trans.cityscapes',
        'pinas_trans.coco',
    ]
    assert timm.get_pretrained_cfg('pinas_trans').tag == 'coco'
    for tag in ('coco', 'ade20k', 'cityscapes'):
        cfg = timm.get_pretrained_cfg(f'pinas_trans.{tag}')
        assert (cfg.hf_hub_id, cfg.num_classes) == (f'pinas-models/pinas_trans.{tag}', 0)
    assert timm.get_pretrained_cfg('pinas_cls.in1k').hf_hub_id == 'pinas-models/pinas_cls.in1k'
    assert timm.create_model('pinas_trans', device='meta').num_classes == 0
    assert timm.create_model('pinas_trans', num_classes=7, device='meta').num_classes == 7


# The network that comes with the package


def test_packaged_weights_need_no_network(tmp_path):
    code = (
        'import torch\n'
        'from safetensors.torch import load_file\n'
        'model = timm.create_model("pinas_mini", pretrained=True).eval()\n'
        f'weights = load_file({str(MINI_FILE)!r})\n'
        'assert model.state_dict().keys() == weights.keys()\n'
        'assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())\n'
        'print(model.choices, model(torch.zeros(1, 3, 32, 32)).shape[1], model.pretrained_cfg["tag"])\n'
        'print(timm.get_pretrained_cfg("pinas_cls").hf_hub_id)'  # an empty variable is none
    )
    done = run_python(code, PINAS_HUB_NAMESPACE='', HF_HOME=str(tmp_path / 'empty'), HOME=str(tmp_path))
    assert done.stdout == f'{PINAS_MINI} 10 cifar10\npinas-models/pinas_cls.in1k\n', done.stderr
    assert not (tmp_path / 'empty').exists()


def test_packaged_weights_are_small_and_finite():
    assert MINI_FILE.stat().st_size <= 5_000_000
    for name, tensor in load_file(MINI_FILE).items():
        assert torch.isfinite(tensor).all(), name


def test_packaged_cfg_describes_cifar10():
    cfg = timm.get_pretrained_cfg('pinas_mini')
    names = 'airplane automobile bird cat deer dog frog horse ship truck'
    assert cfg.tag == 'cifar10'
    assert list(cfg.label_names) == names.split()
    assert (cfg.num_classes, cfg.input_size) == (10, (3, 32, 32))
    from pinas_search.config import parse_config

    data = parse_config(['cifar10'], []).data
    assert (cfg.mean, cfg.std) == (tuple(data.mean), tuple(data.std))


def test_packaged_weights_of_another_path():
    other = ''.join(str(3 - choice) for choice in PINAS_MINI)
    with pytest.raises(ValueError, match='its weights are those of the path') as info:
        timm.create_model('pinas_mini', pretrained=True, choices=other)
    text = str(info.value)
    assert ''.join(map(str, PINAS_MINI)) in text
    assert other in text
    assert '\n' not in text
    assert timm.create_model('pinas_mini', choices=other).choices == tuple(map(int, other))


@pytest.mark.parametrize('num_classes', [0, 5, 10])
@pytest.mark.parametrize('in_chans', [1, 3, 4])
def test_packaged_weights_adapt(num_classes, in_chans):
    weights = load_file(MINI_FILE)
    model = timm.create_model('pinas_mini', pretrained=True, num_classes=num_classes, in_chans=in_chans)
    state = model.state_dict()
    skipped = {'conv1.0.weight'} if in_chans != 3 else set()
    skipped |= {'fc.weight', 'fc.bias'} if num_classes != 10 else set()
    for name, tensor in weights.items():
        if name not in skipped:
            assert torch.equal(state[name], tensor), name
    if in_chans == 1:
        torch.testing.assert_close(state['conv1.0.weight'], weights['conv1.0.weight'].sum(1, keepdim=True))
    assert model.eval()(torch.zeros(1, in_chans, 32, 32)).shape == (1, num_classes or 512)


# The Hub


@pytest.mark.usefixtures('offline')
def test_hub_cache_offline(hub, cls, trans):
    same_weights(timm.create_model('pinas_cls', pretrained=True, cache_dir=hub), cls.state_dict())
    same_weights(timm.create_model('pinas_trans.coco', pretrained=True, cache_dir=hub), trans.state_dict())
    same_weights(
        timm.create_model('hf-hub:pinas-models/pinas_cls.in1k', pretrained=True, cache_dir=hub), cls.state_dict()
    )


@pytest.mark.usefixtures('offline')
@pytest.mark.parametrize(('in_chans', 'num_classes'), [(1, 5), (4, 0)])
def test_hub_weights_adapt(hub, cls, trans, in_chans, num_classes):
    for name, source in (('pinas_cls', cls), ('pinas_trans', trans)):
        model = timm.create_model(name, pretrained=True, cache_dir=hub, in_chans=in_chans, num_classes=num_classes)
        state, weights = model.state_dict(), backbone_of(source.state_dict())
        assert state['conv1.0.weight'].shape[1] == in_chans
        assert model.num_classes == num_classes
        weights.pop('conv1.0.weight')
        assert all(torch.equal(state[key], tensor) for key, tensor in weights.items())
        scaled = source.state_dict()['conv1.0.weight']  # timm: a sum over the colours, or repeated and rescaled
        expected = scaled.sum(1, keepdim=True) if in_chans == 1 else scaled.repeat(1, 2, 1, 1)[:, :4] * 3 / 4
        torch.testing.assert_close(state['conv1.0.weight'], expected)


@pytest.mark.usefixtures('offline')
@pytest.mark.parametrize('name', ['pinas_cls', 'pinas_trans'])
def test_features_with_hub_weights(name, hub, cls, trans):
    source = cls if name == 'pinas_cls' else trans
    model = timm.create_model(name, pretrained=True, cache_dir=hub, features_only=True, output_stride=8)
    same_weights(model, backbone_of(source.state_dict()))
    assert model.feature_info.reduction() == [2, 4, 8, 8, 8]
    x = make_input(5, (1, 3, 40, 48))
    dilated = timm.create_model(name, output_stride=8, num_classes=0)
    dilated.load_state_dict(backbone_of(source.state_dict()))
    with torch.inference_mode():
        features = model.eval()(x)
        expected = dilated.eval().forward_intermediates(x, intermediates_only=True)
    for feature, intermediate in zip(features, expected, strict=True):
        assert torch.equal(feature, intermediate)


class FakeHub(BaseHTTPRequestHandler):
    """Answers as the Hub does for repositories that cannot be had; the name says why."""

    ANSWERS: ClassVar = {
        'pinas_trans.coco': (403, 'GatedRepo'),
        'pinas_trans.ade20k': (404, 'EntryNotFound'),
        'pinas_trans.cityscapes': (401, 'RepoNotFound'),
    }

    def do_HEAD(self):
        code, error = next(
            (answer for word, answer in self.ANSWERS.items() if word in self.path), (404, 'RepoNotFound')
        )
        self.send_response(code)
        self.send_header('X-Error-Code', error)
        self.send_header('Content-Length', '0')
        self.end_headers()

    def log_message(self, *args):
        pass


def test_what_the_hub_does_not_give_is_one_sentence(tmp_path):
    server = ThreadingHTTPServer(('127.0.0.1', 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        'import traceback\n'
        'for name in timm.list_pretrained("pinas_[ct]*"):\n'
        '    try:\n'
        '        timm.create_model(name, pretrained=True)\n'
        '    except Exception as error:\n'
        '        shown = "".join(traceback.format_exception(error))\n'
        '        facts = type(error).__name__, error.__suppress_context__, shown.count("Traceback")\n'
        '        print(name, *facts, error, sep="|")\n'
    )
    try:
        done = run_python(
            code,
            HF_ENDPOINT=f'http://127.0.0.1:{server.server_port}',
            HF_HUB_OFFLINE='0',
            HF_HOME=str(tmp_path),
            PINAS_HUB_NAMESPACE='my-lab',
        )
    finally:
        server.shutdown()
        server.server_close()
    rows = [line.split('|') for line in done.stdout.splitlines()]
    reasons = {
        'pinas_cls.in1k': 'it does not exist, or is private',
        'pinas_trans.ade20k': 'it holds no weights',
        'pinas_trans.cityscapes': 'it does not exist, or is private',
        'pinas_trans.coco': 'access is restricted',
    }
    assert [row[0] for row in rows] == list(reasons), done.stderr
    for name, kind, suppressed, tracebacks, sentence in rows:
        # One traceback, not those of the Hub's client and of its HTTP library before it.
        assert (kind, suppressed, tracebacks) == ('FileNotFoundError', 'True', '1')
        assert f'my-lab/{name}' in sentence
        assert reasons[name] in sentence
        assert all(way in sentence for way in WAYS)


@pytest.mark.usefixtures('offline')
def test_what_is_not_in_the_cache_is_one_sentence(tmp_path):
    for name, kwargs in (('pinas_cls', {}), ('pinas_trans.ade20k', dict(features_only=True))):
        with pytest.raises(FileNotFoundError, match='not in the cache, and HF_HUB_OFFLINE is set') as info:
            timm.create_model(name, pretrained=True, cache_dir=tmp_path, **kwargs)
        text = str(info.value)
        assert f'pinas-models/{"pinas_cls.in1k" if name == "pinas_cls" else name} ' in text
        assert all(way in text for way in WAYS)
        assert '\n' not in text


def test_namespace_that_cannot_be():
    done = run_python('timm.create_model("pinas_cls", pretrained=True)', PINAS_HUB_NAMESPACE='no//such')
    assert done.stderr.splitlines()[-1].startswith('FileNotFoundError: cannot get weights from the repository no//such')


# The authors' files


@pytest.fixture(scope='module')
def files(tmp_path_factory, mini, cls, trans):
    """The authors' files, with the NumPy numbers that training leaves in them."""
    folder = tmp_path_factory.mktemp('authors')
    weights, large = mini.state_dict(), trans.state_dict()
    supernets = authors.supernet(seed=4), authors.supernet(seed=5)
    checkpoints = {
        'classification': authors.classification(weights),
        'deeplabv3': authors.deeplab(weights),
        'detectron2': authors.detectron2(weights, (2, 2, 2, 2)),
        'supernet': {'state_dict': supernets[0]},
        'linear': authors.linear(supernets[0]),
        'learning': authors.learning(*supernets),
        'cls': authors.classification(cls.state_dict()),
        'ade': authors.deeplab(large, classes=150),
        'coco': authors.detectron2(large, (3, 4, 6, 3)),
    }
    for name, checkpoint in checkpoints.items():
        torch.save(checkpoint, folder / f'{name}.pth.tar')
    return folder, checkpoints


@pytest.mark.parametrize('family', ['classification', 'deeplabv3', 'detectron2', 'supernet', 'linear', 'learning'])
def test_every_way_to_load_a_file_of_the_authors_gives_what_its_conversion_gives(family, files, tmp_path):
    file, checkpoint = str(files[0] / f'{family}.pth.tar'), files[1][family]
    plain = {key: value for key, value in checkpoint.items() if key in ('state_dict', 'model')}  # no NumPy numbers
    torch.save(plain, tmp_path / 'plain.pth')
    weights = convert_state_dict(checkpoint, PATH)
    classes = len(weights.get('fc.bias', ()))
    create = partial(timm.create_model, 'pinas_mini', choices=PATH)
    by_file = partial(create, pretrained=True, pretrained_cfg_overlay=dict(file=file))
    for model in (
        by_file(),  # a file says itself how many classes it has
        create(pretrained=True, pretrained_cfg_overlay=dict(state_dict=checkpoint), num_classes=classes),
        create(checkpoint_path=str(tmp_path / 'plain.pth'), num_classes=classes),
        open_model('pinas_mini', checkpoint=file, choices=DIGITS),
    ):
        same_weights(model, weights)
        assert model.num_classes == classes
        assert 'state_dict' not in model.pretrained_cfg  # or every model would hold its weights twice
    for model in (
        by_file(features_only=True),
        open_model('pinas_mini', checkpoint=file, choices=DIGITS, model_args=dict(features_only=True)),
    ):
        same_weights(model, backbone_of(weights))
        assert 'state_dict' not in model.pretrained_cfg
    other = by_file(num_classes=3, in_chans=1)
    assert torch.equal(other.layer3[1].conv2.fc1.weight, weights['layer3.1.conv2.fc1.weight'])
    assert (other.num_classes, other.in_chans) == (3, 1)
    with pytest.raises((RuntimeError, ValueError), match=r'the path 30122103|Missing key|size mismatch'):
        timm.create_model(
            'pinas_mini', choices='3' * 8, num_classes=classes + 1, checkpoint_path=str(tmp_path / 'plain.pth')
        )


def test_authors_files_of_the_published_networks(files, cls, trans):
    folder, _ = files
    for name, file, source in (('pinas_cls', 'cls', cls), ('pinas_trans.ade20k', 'ade', trans)):
        model = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay=dict(file=str(folder / f'{file}.pth.tar'))
        )
        same_weights(model, source.state_dict())
    # timm reads a checkpoint_path itself, without asking for a filter: the model converts the names.
    model = timm.create_model('pinas_trans', checkpoint_path=str(folder / 'coco.pth.tar'))
    same_weights(model, trans.state_dict())
    with pytest.raises(ValueError, match='the path 3333113330011021, not of 3013231203213032'):
        timm.create_model('pinas_cls', pretrained=True, pretrained_cfg_overlay=dict(file=str(folder / 'ade.pth.tar')))


def test_load_state_dict_stays_torchs(mini):
    weights = mini.state_dict()
    model = timm.create_model('pinas_mini', choices=PATH)
    assert model.load_state_dict({'fc.bias': torch.ones(10)}, strict=False).missing_keys
    assert model.load_state_dict({**weights, 'extra': torch.ones(1)}, strict=False).unexpected_keys == ['extra']
    with pytest.raises(RuntimeError, match='Unexpected key'):
        model.load_state_dict({f'module.{name}': tensor for name, tensor in weights.items()})


def test_label_names_of_other_classes_are_forgotten(tmp_path, mini):
    weights = network(choices=PATH, num_classes=4).state_dict()
    save_file(weights, tmp_path / 'four.safetensors')
    overlay = dict(file=str(tmp_path / 'four.safetensors'))
    model = timm.create_model('pinas_mini', choices=PATH, pretrained=True, pretrained_cfg_overlay=overlay)
    same_weights(model, weights)
    assert 'label_names' not in model.pretrained_cfg
    overlay['label_names'] = ('a', 'b', 'c', 'd')
    model = timm.create_model('pinas_mini', choices=PATH, pretrained=True, pretrained_cfg_overlay=overlay)
    assert model.pretrained_cfg['label_names'] == ('a', 'b', 'c', 'd')


def test_files_that_cannot_be_used(tmp_path):
    (tmp_path / 'text.pth').write_text('no weights')
    for file, error in (('text.pth', ValueError), ('nope.pth', FileNotFoundError)):
        overlay = dict(file=str(tmp_path / file))
        with pytest.raises(error, match=file):
            timm.create_model('pinas_mini', pretrained=True, pretrained_cfg_overlay=overlay)


def test_model_with_other_norm_layers_keeps_its_own_names(tmp_path):
    model = network(choices=PATH, norm_layer='groupnorm1')
    save_for_hf(model, str(tmp_path), model_args=dict(choices=list(PATH), norm_layer='groupnorm1'))
    same_weights(timm.create_model(f'local-dir:{tmp_path}', pretrained=True), model.state_dict())


# open_model


@pytest.fixture(scope='module')
def folder(tmp_path_factory, mini):
    """A model folder."""
    folder = tmp_path_factory.mktemp('models') / 'found'
    save_for_hf(mini, str(folder), model_args=dict(choices=list(PATH)), safe_serialization=True)
    return folder


def test_open_model_by_name():
    for name in ('pinas_mini', 'pinas_mini.cifar10'):
        model = open_model(name)
        same_weights(model, load_file(MINI_FILE))
        assert not model.training
    assert open_model('pinas_mini', pretrained=False).choices == PINAS_MINI
    assert open_model('pinas_resnest50', model_args=dict(device='meta')).num_classes == 1000
    assert not isinstance(open_model('resnet18', pretrained=False), PinasNet)


@pytest.mark.usefixtures('offline')
def test_open_model_from_the_hub(hub, cls, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(hub))
    same_weights(open_model('hf-hub:pinas-models/pinas_cls.in1k', model_args=dict(cache_dir=hub)), cls.state_dict())
    with pytest.raises(FileNotFoundError, match='repository a/b of the Hub') as info:
        open_model('hf-hub:a/b')
    assert all(way in str(info.value) for way in WAYS)


def test_open_model_from_a_folder(folder, mini, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for name in (folder, str(folder), f'local-dir:{folder}', 'found', './found', 'local-dir:found'):
        same_weights(open_model(name), mini.state_dict())
    (folder.parent / 'pinas_mini').mkdir()
    assert resolve_name('pinas_mini') == 'pinas_mini'  # what a name means does not depend on the working directory


def test_open_model_with_a_checkpoint(files, folder, mini):
    path = files[0] / 'classification.pth.tar'
    same_weights(open_model('pinas_mini', checkpoint=path), mini.state_dict())  # its path is that of the file
    same_weights(open_model(folder, checkpoint=path), mini.state_dict())
    model = open_model('pinas_mini', checkpoint=path, num_classes=4, model_args=dict(in_chans=1))
    assert (model.num_classes, model.in_chans, model.choices) == (4, 1, PATH)
    assert 'label_names' in open_model('pinas_mini', checkpoint=path).pretrained_cfg
    headless = open_model('pinas_mini', checkpoint=files[0] / 'deeplabv3.pth.tar')
    assert headless.num_classes == 0
    assert 'label_names' not in headless.pretrained_cfg
    same_weights(open_model('pinas_mini', checkpoint=folder / 'model.safetensors'), mini.state_dict())


def test_open_published_networks_with_a_checkpoint(files, trans):
    for name in ('pinas_trans.ade20k', 'pinas_subnet'):
        model = open_model(name, checkpoint=files[0] / 'ade.pth.tar')
        same_weights(model, trans.state_dict())
        assert model.choices == PINAS_TRANS
    with pytest.raises(ValueError, match=r'ade\.pth\.tar: this is a DeepLabV3.*the path 3333113330011021, not of 3013'):
        open_model('pinas_cls', checkpoint=files[0] / 'ade.pth.tar')
    assert open_model('pinas_cls', checkpoint=files[0] / 'cls.pth.tar').choices == PINAS_CLS


def test_open_another_model_of_timm_with_a_checkpoint(tmp_path):
    source = timm.create_model('test_resnet', num_classes=7)
    torch.save({'state_dict': source.state_dict()}, tmp_path / 'file.pth')
    model = open_model('test_resnet', checkpoint=tmp_path / 'file.pth')
    same_weights(model, source.state_dict())
    assert model.num_classes == 7
    assert 'state_dict' not in model.pretrained_cfg


@pytest.mark.parametrize(
    ('name', 'kwargs', 'error', 'match'),
    [
        ('pinas_clss', {}, ValueError, "no model 'pinas_clss', did you mean pinas_cls"),
        ('zzzzqqqq', {}, ValueError, "no model 'zzzzqqqq' .pinas-models list"),
        ('', {}, ValueError, "no model ''"),
        ('pinas_cls.nope', {}, ValueError, "pinas_cls has no tag 'nope'; it has in1k"),
        ('pinas_cls.', {}, ValueError, "pinas_cls has no tag ''"),
        ('no/folder', {}, FileNotFoundError, 'there is no folder no/folder .*hf-hub:no/folder'),
        (Path('pinas_cls'), {}, FileNotFoundError, 'there is no folder pinas_cls'),
        ('local-dir:nope', {}, FileNotFoundError, 'there is no folder nope'),
        ('.', {}, FileNotFoundError, 'it has no config.json'),
        ('local-dir:bad/empty', {}, FileNotFoundError, 'it has no config.json'),
        ('bad/text', {}, ValueError, 'cannot open local-dir:bad/text'),
        ('bad/keys', {}, ValueError, 'cannot open local-dir:bad/keys'),
        ('bad/unknown', {}, ValueError, 'Unknown model .nope'),
        ('bad/weightless', {}, ValueError, 'No suitable checkpoints found'),
        ('bad/truncated', {}, ValueError, 'cannot open local-dir:bad/truncated'),
        ('bad/argument', {}, ValueError, 'unexpected keyword argument'),
        ('bad/path', {}, ValueError, r'choices\[7\] is 4'),
        ('hf-hub:', {}, ValueError, 'no model id'),
        ('pinas_resnest50', dict(pretrained=True), ValueError, 'no weights are published for pinas_resnest50'),
        ('pinas_subnet', {}, ValueError, 'choices must name one'),
        ('pinas_mini', dict(choices='012'), ValueError, 'choices has 3 positions'),
        ('pinas_mini', dict(checkpoint='nope.pth'), FileNotFoundError, 'nope.pth'),
        ('pinas_mini', dict(checkpoint='nope.pth', pretrained=True), ValueError, 'either pretrained or a checkpoint'),
        ('pinas_cls', dict(checkpoint=MINI_FILE), ValueError, '2-2-2-2 blocks, but those of the network have 3-4-6-3'),
        ('resnet18', dict(checkpoint=MINI_FILE), ValueError, 'cannot open resnet18: .*Missing key'),
        ('pinas_mini', dict(model_args=dict(nonsense=1)), ValueError, 'unexpected keyword argument .nonsense'),
        ('pinas_mini', dict(model_args=dict(output_stride=5)), ValueError, 'output_stride is 5'),
    ],
)
def test_open_model_errors(name, kwargs, error, match, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = json.loads((folder / 'config.json').read_text())
    bad = {
        'empty': None,
        'text': '{"architecture"',
        'keys': '{}',
        'unknown': json.dumps({**config, 'architecture': 'nope'}),
        'weightless': json.dumps(config),
        'truncated': json.dumps(config),
        'argument': json.dumps({**config, 'model_args': {'nonsense': 1}}),
        'path': json.dumps({**config, 'model_args': {'choices': [0, 0, 0, 0, 0, 0, 0, 4]}}),
    }
    for kind, text in bad.items():
        (tmp_path / 'bad' / kind).mkdir(parents=True)
        if text is not None:
            (tmp_path / 'bad' / kind / 'config.json').write_text(text)
    (tmp_path / 'bad' / 'truncated' / 'model.safetensors').write_bytes(MINI_FILE.read_bytes()[:10_000])
    with pytest.raises((ValueError, OSError), match=match) as info:
        open_model(name, **kwargs)
    assert isinstance(info.value, error)
    assert len(' '.join(str(info.value).split())) < 1000
