"""``pinas-models predict`` as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from small_classifier import LABELS, make_classifier, picture, save_pictures

from pinas_models.cli import main
from pinas_models.evaluation import class_names
from pinas_models.evaluation.predict import find_images
from pinas_models.transforms import authors_eval_transform


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with ``model`` and ``images``."""
    folder = tmp_path_factory.mktemp('predict')
    make_classifier(folder / 'model')
    save_pictures(folder / 'images', 2)
    return folder


def predict(home, *arguments):
    return main(['predict', *map(str, arguments), '--model', f'local-dir:{home / "model"}'])


@pytest.fixture(scope='module')
def model(home):
    return timm.create_model(f'local-dir:{home / "model"}', pretrained=True).eval()


def probabilities(model, path, transform=None):
    transform = transform or timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        return model(transform(Image.open(path).convert('RGB'))[None]).softmax(1)[0]


@pytest.mark.parametrize('protocol', ['timm', 'authors'])
def test_json_is_what_the_model_says_of_each_image(home, model, capsys, protocol):
    options = ('--json', '--topk', '3', '--batch-size', '4', '--protocol', protocol)
    assert predict(home, home / 'images', *options) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record['image'] for record in records] == sorted(map(str, (home / 'images').rglob('*.png')))
    assert len({record['classes'][0]['index'] for record in records}) > 2  # else the test sees nothing
    for record in records:
        expected = probabilities(
            model,
            Path(record['image']),
            authors_eval_transform(32, mean=model.pretrained_cfg['mean'], std=model.pretrained_cfg['std'])
            if protocol == 'authors'
            else None,
        ).topk(3)
        assert [entry['index'] for entry in record['classes']] == expected.indices.tolist()
        assert [entry['name'] for entry in record['classes']] == [LABELS[i] for i in expected.indices]
        assert [entry['probability'] for entry in record['classes']] == pytest.approx(
            expected.values.tolist(), abs=1e-5
        )


def test_table_has_five_classes_with_names_and_shares(home, model, capsys):
    path = home / 'images' / 'pink' / '000.png'
    assert predict(home, path) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    best = probabilities(model, path).topk(5)
    assert first == str(path)
    assert [line.split() for line in lines] == [
        [f'{100 * share:.2f}', '%', str(index), LABELS[index]]
        for share, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def test_more_classes_than_there_are_is_all_of_them(home, capsys):
    assert predict(home, home / 'images' / 'pink' / '000.png', '--topk', '50', '--json') == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert sorted(entry['label'] for entry in record['classes']) == sorted(LABELS)
    assert sum(entry['probability'] for entry in record['classes']) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_read_is_reported_and_the_others_are_done(home, tmp_path, capsys):
    good, cut, text = tmp_path / 'a.png', tmp_path / 'b.png', tmp_path / 'c.txt'
    shutil.copy(home / 'images' / 'red' / '000.png', good)
    cut.write_bytes(good.read_bytes()[:-200])
    text.write_text('no image')
    assert predict(home, tmp_path, text, tmp_path / 'nothing', 'http://example.org/cat.jpg', f'{tmp_path}/*.gif') == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == str(good)
    assert len(out.splitlines()) == 6
    reported = [line.removeprefix('pinas-models predict: ') for line in err.splitlines()]
    assert reported == [
        f'{tmp_path}/nothing does not exist',
        'http://example.org/cat.jpg is an address: download it first',
        f'no file fits the pattern {tmp_path}/*.gif',
        next(line for line in reported if line.startswith(f'cannot read {cut} (')),
        next(line for line in reported if line.startswith(f'cannot read {text} (')),
    ]
    assert predict(home, cut, good, '--json') == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first['image'] == str(cut)
    assert first['error']
    assert second['image'] == str(good)
    assert 'error' not in second
    for nothing in ([cut], [tmp_path / 'nothing'], [cut, '--json']):
        assert predict(home, *nothing) == 2
    capsys.readouterr()


def test_folders_patterns_and_odd_names_are_found(tmp_path, monkeypatch):
    for name in ('b.png', 'a.JPG', 'deep/er/c.webp', 'deep/note.txt', 'x[1].png', 'x1.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def found(argument):
        return [str(path) for path in find_images(argument)]

    assert found('.') == ['a.JPG', 'b.png', 'deep/er/c.webp', 'x1.png', 'x[1].png']
    assert found('*.png') == ['b.png', 'x1.png', 'x[1].png']
    assert found('x[1].png') == ['x[1].png']  # a file of this name exists
    assert found('[ab].*') == ['a.JPG', 'b.png']
    assert found('**/*.webp') == ['deep/er/c.webp']
    assert found('deep/note.txt') == ['deep/note.txt']
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='empty has no images'):
        found('empty')


def test_an_image_named_twice_is_done_once(home, capsys):
    folder = home / 'images' / 'gold'
    assert predict(home, folder / '000.png', folder, f'{folder}/*.png', '--json') == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_photograph_is_turned_upright(home, tmp_path, capsys):
    upright = picture(1, 7)
    upright.save(tmp_path / 'upright.png')
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'lying.png', exif=exif)
    # One by one: within a batch a processor may add up in another order for each image.
    assert predict(home, tmp_path, '--json', '--topk', '7', '--batch-size', '1') == 0
    lying, standing = json.loads(capsys.readouterr().out)
    assert lying['classes'] == standing['classes']


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK', '1', 'I;16'])
def test_any_kind_of_image_is_read(home, tmp_path, capsys, mode):
    image = picture(0, 0).convert('L' if mode == 'I;16' else mode)
    path = tmp_path / ('image.tif' if mode == 'CMYK' else 'image.png')
    (image.convert('I;16') if mode == 'I;16' else image).save(path)
    assert predict(home, path) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6
    assert err == ''


def test_names_of_classes_are_imagenets_the_configs_or_none(home):
    names = class_names(timm.create_model('pinas_cls', device='meta'))
    assert names is not None
    assert (names.labels[0], names.descriptions[0]) == ('n01440764', 'tench, Tinca tinca')
    assert len(names.labels) == len(names.descriptions) == 1000
    ours = timm.create_model(f'local-dir:{home / "model"}', pretrained=True)
    assert class_names(ours) == (LABELS, LABELS)
    ours.reset_classifier(3)  # the names belong to the head that was there
    assert class_names(ours) is None


def test_without_names_the_index_is_the_name(home, tmp_path, capsys):
    timm.models.save_for_hf(timm.create_model('pinas_mini', num_classes=4), tmp_path / 'model')
    path = home / 'images' / 'red' / '000.png'
    assert main(['predict', str(path), '--model', f'local-dir:{tmp_path / "model"}', '--json']) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert {entry['name'] for entry in record['classes']} == {f'class {i}' for i in range(4)}
    assert {entry['label'] for entry in record['classes']} == {None}


def test_models_that_cannot_say_anything_are_refused(home, tmp_path, capsys):
    timm.models.save_for_hf(timm.create_model('pinas_mini', num_classes=0), tmp_path / 'headless')
    for model, message in (
        ('pinas_resnest50', 'weights'),
        ('pinas_unheard_of', 'pinas_unheard_of'),
        (f'local-dir:{tmp_path / "headless"}', 'the model has no classifier'),
        (f'local-dir:{tmp_path / "nowhere"}', 'nowhere'),
    ):
        assert main(['predict', str(home / 'images'), '--model', model]) == 2
        out, err = capsys.readouterr()
        assert out == ''
        assert message in err
        assert err.count('\n') == 1


def test_checkpoint_gives_the_weights(home, tmp_path, capsys):
    model = timm.create_model('pinas_mini')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'weights.pth')
    path = home / 'images' / 'red' / '000.png'
    options = ('--model', 'pinas_mini', '--checkpoint', str(tmp_path / 'weights.pth'), '--json', '--topk', '10')
    assert main(['predict', str(path), *options]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        expected = model.eval()(transform(Image.open(path))[None]).softmax(1)[0]
    found = torch.tensor([entry['probability'] for entry in sorted(record['classes'], key=lambda e: e['index'])])
    assert torch.allclose(found, expected, atol=1e-5)


def test_as_a_process_the_default_model_needs_no_network(home):
    environment = os.environ | {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'}
    arguments = ['predict', str(home / 'images' / 'red' / '000.png'), '--json']
    result = subprocess.run(
        [sys.executable, '-m', 'pinas_models.cli', *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ''
    (record,) = json.loads(result.stdout)
    airplane_to_truck = {'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'}
    assert {entry['label'] for entry in record['classes']} <= airplane_to_truck
