"""``pinas-models validate`` as a user meets it, against accuracies that are computed here the plain way."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_process import run_command
from PIL import Image
from scipy.stats import binomtest
from small_classifier import LABELS, make_classifier, picture, save_pictures

from pinas_models.cli import main
from pinas_models.common.progress import Progress
from pinas_models.evaluation import (
    Classifier,
    LabelledImages,
    class_names,
    evaluate,
    make_protocol,
    open_images,
    wilson_interval,
)
from pinas_models.transforms import authors_eval_transform

PER_CLASS = 10
TIMM_HEADER = 'model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A folder with ``model`` and ``data``."""
    folder = tmp_path_factory.mktemp('validate')
    make_classifier(folder / 'model')
    save_pictures(folder / 'data', PER_CLASS)
    return folder


@pytest.fixture(scope='module')
def model(home):
    return timm.create_model(f'local-dir:{home / "model"}', pretrained=True).eval()


@pytest.fixture(scope='module')
def ranks(home, model):
    """Per protocol and image, how many classes have a higher score than the right one: one image at a time."""
    transforms = {
        'authors': authors_eval_transform(32, mean=model.pretrained_cfg['mean'], std=model.pretrained_cfg['std']),
        'timm': timm.data.create_transform(**timm.data.resolve_model_data_config(model)),
    }
    found = {name: {} for name in transforms}
    for path in sorted((home / 'data').rglob('*.png')):
        image = Image.open(path).convert('RGB')
        for name, transform in transforms.items():
            with torch.no_grad():
                scores = model(transform(image)[None])[0]
            higher = (scores > scores[LABELS.index(path.parent.name)]).sum()
            found[name][f'{path.parent.name}/{path.name}'] = int(higher)
    assert {len(set(found[name].values())) > 2 for name in found} == {True}  # else the tests below see nothing
    assert found['authors'] != found['timm']
    return found


def top(ranks, k):
    return round(100 * sum(rank < k for rank in ranks.values()) / len(ranks), 4)


def validate(home, data, *options):
    return main(['validate', str(data), '--model', f'local-dir:{home / "model"}', '--workers', '0', *options])


def report(home, data, capsys, *options):
    code = validate(home, data, '--json', *options)
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


# accuracies


@pytest.mark.parametrize('options', [('--batch-size', '7'), ('--batch-size', '64', '--workers', '2')])
def test_both_protocols_in_one_pass_give_the_accuracies_of_the_plain_way(home, ranks, capsys, options):
    result = report(home, home / 'data', capsys, '--protocol', 'both', *options)
    assert [row['protocol'] for row in result['results']] == ['authors', 'timm']
    for row in result['results']:
        expected = ranks[row['protocol']]
        assert row['images'] == len(expected) == PER_CLASS * len(LABELS)
        assert (row['top1'], row['top5']) == (top(expected, 1), top(expected, 5))
        for k in (1, 5):
            correct = sum(rank < k for rank in expected.values())
            interval = binomtest(correct, len(expected)).proportion_ci(0.95, 'wilson')
            assert row[f'top{k}_low'] == pytest.approx(100 * interval.low, abs=1e-4)
            assert row[f'top{k}_high'] == pytest.approx(100 * interval.high, abs=1e-4)
    right = {name: {image for image, rank in found.items() if rank == 0} for name, found in ranks.items()}
    alone = {
        'authors': len(right['authors'] - right['timm']),
        'timm': len(right['timm'] - right['authors']),
    }
    assert result['only_right'] == alone
    assert result['results'][0]['samples_per_sec'] > 0


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_wilsons(counts):
    correct, total = counts
    low, high = wilson_interval(correct, total)
    reference = binomtest(correct, total).proportion_ci(0.95, 'wilson')
    assert low == pytest.approx(reference.low, abs=1e-9)
    assert high == pytest.approx(reference.high, abs=1e-9)
    assert 0 <= low <= correct / total <= high <= 1


def test_interval_of_nothing_is_refused():
    for correct, total in ((0, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match='is no proportion'):
            wilson_interval(correct, total)


def test_the_classifier_sees_what_timm_and_the_authors_transform_give(model):
    image = picture(2, 5)
    for name, plain in (
        ('timm', timm.data.create_transform(**timm.data.resolve_model_data_config(model))),
        ('authors', authors_eval_transform(32, mean=model.pretrained_cfg['mean'], std=model.pretrained_cfg['std'])),
    ):
        expected = model(plain(image)[None])
        actual = Classifier(model, device=torch.device('cpu'))(make_protocol(name, model).transform(image)[None])
        assert torch.equal(actual, expected.detach())


@pytest.mark.parametrize(
    ('options', 'dtype'),
    [(('--amp', 'bf16'), 'amp bf16'), (('--dtype', 'bf16', '--channels-last'), 'bf16'), (('--channels-last',), 'fp32')],
)
def test_precision_and_memory_format_change_little(
    home,
    ranks,
    capsys,
    options,
    dtype,
):
    row = report(home, home / 'data', capsys, *options)['results'][0]
    assert row['dtype'] == dtype
    assert abs(row['top1'] - top(ranks['timm'], 1)) <= 6  # 4 of 70 images


def test_compiled_is_the_same(home, ranks, capsys):
    # Not inductor, which takes half a minute to compile; eager traces the model as every backend needs it.
    result = report(home, home / 'data', capsys, '--compile', 'eager')
    assert result['setup']['compiler'] == 'eager'
    assert result['results'][0]['top1'] == top(ranks['timm'], 1)


def test_img_size_and_crop_pct_are_those_of_timm(home, model, capsys):
    row = report(home, home / 'data', capsys, '--img-size', '48', '--crop-pct', '0.8')['results'][0]
    transform = timm.data.create_transform(
        **(timm.data.resolve_model_data_config(model) | {'input_size': (3, 48, 48), 'crop_pct': 0.8})
    )
    right = 0
    for path in sorted((home / 'data').rglob('*.png')):
        with torch.no_grad():
            scores = model(transform(Image.open(path).convert('RGB'))[None])
        right += int(scores.argmax()) == LABELS.index(path.parent.name)
    assert (row['img_size'], row['crop_pct']) == (48, 0.8)
    assert row['top1'] == round(100 * right / row['images'], 4)


# where the images come from


def test_tar_and_torchvision_folder_give_the_same(home, ranks, tmp_path, capsys):
    with tarfile.open(tmp_path / 'data.tar', 'w') as tar:
        tar.add(home / 'data', '.')
    for data, options in (
        (tmp_path / 'data.tar', ['--workers', '2']),
        ('torch/image_folder', ['--data-dir', str(home / 'data')]),
    ):
        row = report(home, data, capsys, *options)['results'][0]
        assert (row['top1'], row['top5']) == (top(ranks['timm'], 1), top(ranks['timm'], 5))


def test_grey_images_of_torchvision_are_read(home, tmp_path, capsys):
    raw = tmp_path / 'MNIST' / 'raw'
    raw.mkdir(parents=True)
    images, labels = np.random.default_rng(0).integers(0, 256, (9, 28, 28), np.uint8), np.arange(9, dtype=np.uint8) % 7
    for split in ('train', 't10k'):
        (raw / f'{split}-images-idx3-ubyte').write_bytes(struct.pack('>4i', 2051, 9, 28, 28) + images.tobytes())
        (raw / f'{split}-labels-idx1-ubyte').write_bytes(struct.pack('>2i', 2049, 9) + labels.tobytes())
    code = validate(home, 'torch/mnist', '--data-dir', str(tmp_path))
    assert code == 2  # ten digits, seven classes
    assert 'torch/mnist has 10 classes, the model 7' in capsys.readouterr().err
    model = timm.create_model('pinas_mini', num_classes=10, in_chans=1)
    timm.models.save_for_hf(model, tmp_path / 'grey')
    args = ['validate', 'torch/mnist', '--data-dir', str(tmp_path), '--model', f'local-dir:{tmp_path / "grey"}']
    assert main([*args, '--workers', '0', '--json', '--protocol', 'both']) == 0
    for row in json.loads(capsys.readouterr().out)['results']:
        assert row['images'] == 9


def test_split_is_a_sub_folder_and_mixed_splits_are_refused(home, ranks, tmp_path, capsys):
    shutil.copytree(home / 'data', tmp_path / 'all' / 'test')
    shutil.copytree(home / 'data', tmp_path / 'all' / 'train')
    row = report(home, tmp_path / 'all', capsys, '--split', 'test')['results'][0]
    assert row['top1'] == top(ranks['timm'], 1)
    assert row['data'].endswith('all:test')
    assert validate(home, tmp_path / 'all') == 2
    assert 'has two folders of the class blue' in capsys.readouterr().err
    assert validate(home, tmp_path / 'all', '--split', 'val') == 2
    assert 'has no split val' in capsys.readouterr().err


def test_a_stream_is_counted_resumed_and_its_damage_told(home, model, ranks, tmp_path):
    paths = sorted((home / 'data').rglob('*.png'))

    class Reader:
        """What timm's readers of streams look like."""

        class_to_idx = {label: index for index, label in enumerate(LABELS)}  # noqa: RUF012
        damaged_after: int | None = None

        def __iter__(self):
            for number, path in enumerate(paths):
                if number == self.damaged_after:
                    raise OSError('broken data stream')
                yield Image.open(path), LABELS.index(path.parent.name)

        def __len__(self):
            return len(paths)

    reader = Reader()
    images = LabelledImages(timm.data.dataset.IterableImageDataset('', reader=reader), 'stream')
    classifier = Classifier(model, device=torch.device('cpu'))
    protocols = [make_protocol('timm', model)]
    state = tmp_path / 'state.json'
    reader.damaged_after = 40
    with pytest.raises(ValueError, match=r'stream cannot be read after about 32 images \(broken data stream\)'):
        evaluate(classifier, images, protocols, batch_size=16, state_path=state, skip_corrupt=True)
    assert json.loads(state.read_text())['state']['seen'] == 32
    reader.damaged_after = None
    evaluation = evaluate(classifier, images, protocols, batch_size=16, state_path=state)
    assert evaluation.counts['timm'].top1 == sum(rank == 0 for rank in ranks['timm'].values())
    assert evaluation.counts['timm'].images == evaluation.seen == len(paths)


def test_a_stream_that_leaves_images_out_is_warned_of(home, model):
    class Reader:
        def __iter__(self):
            yield picture(0, 0), 0

        def __len__(self):
            return 3

    images = LabelledImages(timm.data.dataset.IterableImageDataset('', reader=Reader()), 'stream')
    with pytest.warns(UserWarning, match='stream has 3 images, but only 1 could be read'):
        evaluate(Classifier(model, device=torch.device('cpu')), images, [make_protocol('timm', model)])


# which class is which


def test_a_subset_of_the_classes_is_matched_by_name(home, ranks, tmp_path, capsys):
    chosen = ('pink', 'blue')
    for label in chosen:
        shutil.copytree(home / 'data' / label, tmp_path / 'two' / label)
    expected = {name: rank for name, rank in ranks['timm'].items() if name.split('/')[0] in chosen}
    row = report(home, tmp_path / 'two', capsys)['results'][0]
    assert (row['images'], row['top1']) == (2 * PER_CLASS, top(expected, 1))


def test_wordnet_folders_are_matched_to_imagenets_classes(tmp_path):
    model = timm.create_model('pinas_cls', device='meta')
    labels = class_names(model)
    assert labels is not None
    for wnid in ('n03000684', 'n01440764'):  # chain saw, tench
        (tmp_path / wnid).mkdir()
        picture(0, 0).save(tmp_path / wnid / '0.png')
    images, notice = open_images(str(tmp_path))
    assert images.match_classes(labels.labels, 1000) == notice == ''
    (batch,) = images.batches([make_protocol('timm', model).transform], batch_size=4)
    assert batch.targets.tolist() == [0, 491]


def test_class_map_orders_the_folders_and_leaves_out_the_rest(home, ranks, tmp_path, capsys):
    renamed = {label: f'folder_{label}' for label in LABELS}
    for label, folder in renamed.items():
        shutil.copytree(home / 'data' / label, tmp_path / 'data' / folder)
    class_map = tmp_path / 'classes.txt'
    class_map.write_text(''.join(f'folder_{label}\n' for label in LABELS[:5]))
    expected = {name: rank for name, rank in ranks['timm'].items() if name.split('/')[0] in LABELS[:5]}
    assert validate(home, tmp_path / 'data', '--class-map', str(class_map), '--json') == 0
    out, err = capsys.readouterr()
    row = json.loads(out)['results'][0]
    assert (row['images'], row['top1']) == (5 * PER_CLASS, top(expected, 1))
    assert f'{2 * PER_CLASS} images are in folders that' in err
    for content, message in (
        ('\n'.join([*'abcdefg', 'folder_red']), 'has the class 7, the model only 7 classes'),
        ('', 'it is empty'),
        ('nothing', 'the folders that the class map names must be there'),
    ):
        class_map.write_text(content)
        assert validate(home, tmp_path / 'data', '--class-map', str(class_map)) == 2
        assert message in capsys.readouterr().err


def test_a_pickled_class_map_is_not_run(home, tmp_path, capsys):
    class Crafted:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'ran',)

    (tmp_path / 'map.pkl').write_bytes(pickle.dumps(Crafted()))
    assert validate(home, home / 'data', '--class-map', str(tmp_path / 'map.pkl')) == 2
    assert 'could run code' in capsys.readouterr().err
    assert not (tmp_path / 'ran').exists()
    pickle.loads((tmp_path / 'map.pkl').read_bytes())  # read the usual way it does run
    assert (tmp_path / 'ran').exists()


def test_fewer_unknown_classes_than_the_model_has_are_warned_of(home, tmp_path, capsys):
    for label in LABELS[:3]:
        shutil.copytree(home / 'data' / label, tmp_path / f'some_{label}')
    assert validate(home, tmp_path) == 0
    assert 'has 3 classes, the model 7, and the names do not say which' in capsys.readouterr().err


def test_more_classes_than_the_model_has_are_refused(home, tmp_path, capsys):
    shutil.copytree(home / 'data', tmp_path / 'data')
    shutil.copytree(home / 'data' / 'red', tmp_path / 'data' / 'an_eighth')
    assert validate(home, tmp_path / 'data') == 2
    assert 'has 8 classes, the model 7' in capsys.readouterr().err


def test_real_labels_count_any_of_several_labels_and_leave_out_images_without(home, model, tmp_path, capsys):
    """As timm's ``RealLabelsImagenet``, which cannot be resumed."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    names, scores, labels = [], [], []
    rng = np.random.default_rng(0)
    for number in range(35):
        label = number % 7  # so that the order by folder, in which images are read, is not that of the numbers
        folder = tmp_path / 'data' / LABELS[label]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f'ILSVRC2012_val_{number + 1:08d}.JPEG'
        picture(label, number).save(path, 'JPEG')
        with torch.no_grad():
            scores.append(model(transform(Image.open(path).convert('RGB'))[None]))
        names.append(path.name)
        labels.append(sorted(map(int, rng.choice(7, rng.integers(0, 3), replace=False))))
    real_json = tmp_path / 'real.json'
    real_json.write_text(json.dumps(labels))
    reference = timm.data.RealLabelsImagenet(names, real_json)
    for score in scores:
        reference.add_result(score)
    row = report(home, tmp_path / 'data', capsys, '--real-labels', str(real_json), '--batch-size', '8')['results'][0]
    assert row['real_images'] == sum(map(bool, labels)) < 35
    assert row['real_top1'] == pytest.approx(reference.get_accuracy(1), abs=1e-4)
    assert row['real_top5'] == pytest.approx(reference.get_accuracy(5), abs=1e-4)

    assert validate(home, tmp_path / 'data', '--real-labels') == 2
    assert 'they are for the 50,000 images' in capsys.readouterr().err
    assert validate(home, home / 'data', '--real-labels', str(tmp_path / 'none.json')) == 2
    assert 'none.json' in capsys.readouterr().err
    real_json.write_text(json.dumps(labels * 2))
    assert validate(home, home / 'data', '--real-labels', str(real_json)) == 2
    assert 'there is no ReaL label for the image 000.png' in capsys.readouterr().err
    real_json.write_text('no json')
    assert validate(home, home / 'data', '--real-labels', str(real_json)) == 2
    assert 'holds no ReaL labels' in capsys.readouterr().err


# damage


def test_an_image_that_cannot_be_read_is_named_and_can_be_skipped(home, ranks, tmp_path, capsys):
    data = tmp_path / 'data'
    shutil.copytree(home / 'data', data)
    bad = ('cyan/003.png', 'red/000.png')
    (data / bad[0]).write_bytes((data / bad[0]).read_bytes()[:-300])  # cut off
    (data / bad[1]).write_bytes(b'')
    assert validate(home, data, '--workers', '1') == 2
    out, err = capsys.readouterr()
    assert out == ''
    assert 'cannot read the image cyan/003.png of' in err
    assert err.count('\n') == 1
    result = report(home, data, capsys, '--skip-corrupt', '--batch-size', '5')
    expected = {name: rank for name, rank in ranks['timm'].items() if name not in bad}
    row = result['results'][0]
    assert (row['images'], row['skipped'], row['top1']) == (len(expected), 2, top(expected, 1))
    assert tuple(result['skipped']) == bad
    for path in data.rglob('*.png'):
        path.write_bytes(b'')
    assert validate(home, data, '--skip-corrupt') == 2
    assert 'no image of' in capsys.readouterr().err


def test_weights_that_are_not_finite_are_told(home, tmp_path, capsys):
    model = timm.create_model('pinas_mini', num_classes=7)
    torch.nn.init.constant_(model.fc.weight, float('nan'))
    timm.models.save_for_hf(model, tmp_path / 'model')
    assert main(['validate', str(home / 'data'), '--model', f'local-dir:{tmp_path / "model"}']) == 2
    assert 'the model computes values that are not finite' in capsys.readouterr().err


def test_mistakes_end_with_one_line(home, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'flat').mkdir()
    picture(0, 0).save(tmp_path / 'flat' / '0.png')
    (tmp_path / 'no.tar').write_bytes(b'no tar at all')
    with tarfile.open(tmp_path / 'empty.tar', 'w'):
        pass
    with tarfile.open(tmp_path / 'cut.tar', 'w') as tar:
        tar.add(home / 'data', '.')
    whole = (tmp_path / 'cut.tar').read_bytes()
    (tmp_path / 'cut.tar').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    good = home / 'data'
    for data, options, message in (
        (tmp_path / 'nothing', (), 'nothing does not exist'),
        (tmp_path / 'empty', (), 'class folders must be there'),
        (tmp_path / 'flat', (), 'outside of class folders'),
        (tmp_path / 'no.tar', (), 'is no tar'),
        (tmp_path / 'empty.tar', (), 'class folders must be there'),
        (tmp_path / 'cut.tar', (), 'is not a whole tar'),
        (tmp_path / 'other.csv', (), 'is neither a folder nor a .tar'),
        ('torch/cifar10', (), 'needs the folder where it lies'),
        ('torch/cifar10', ('--data-dir', str(tmp_path)), 'cannot open torch/cifar10'),
        ('torch/unheard_of', ('--data-dir', str(tmp_path)), 'cannot open torch/unheard_of'),
        (good, ('--class-map', str(tmp_path / 'no.txt')), 'no.txt does not exist'),
        (good, ('--class-map', str(tmp_path / 'other.csv')), 'is no class map'),
        (good, ('--device', 'abacus'), "cannot use the device 'abacus'"),
        (good, ('--compile', 'abacus'), "there is no compiler 'abacus' here; there are"),
        (good, ('--crop-pct', '0'), 'must be above 0'),
        (good, ('--crop-pct', '0.9', '--protocol', 'authors'), "--crop-pct is for timm's protocol"),
        (good, ('--data-dir', str(tmp_path)), 'is there itself'),
        (good, ('--workers', '-1'), 'must be 0 or more'),
        (good, ('--amp', 'bf16', '--dtype', 'bf16'), 'use one of the two'),
        (good, ('--results-file', str(tmp_path / 'other.csv')), 'is no table of results'),
        (good, ('--results-file', str(tmp_path / 'other.csv' / 'x.csv')), 'other.csv'),
    ):
        assert validate(home, data, *options) == 2, (data, options)
        out, err = capsys.readouterr()
        assert out == ''
        assert message in err, (data, options, err)
        assert err.startswith('pinas-models validate: error: ')
        assert err.count('\n') == 1


def test_a_model_without_weights_is_refused(home, capsys):
    assert main(['validate', str(home / 'data'), '--model', 'pinas_resnest50']) == 2
    assert 'weights' in capsys.readouterr().err


# the table of results


def test_results_are_timms_columns_first_and_rows_are_merged(home, ranks, tmp_path, capsys):
    path = tmp_path / 'deep' / 'results.csv'
    path.parent.mkdir()
    timm_row = 'resnest50d.in1k,224,80.958,19.042,95.372,4.628,27.48,0.875,bilinear'
    path.write_text(f'{TIMM_HEADER}\n{timm_row}\n')
    assert validate(home, home / 'data', '--protocol', 'both', '--results-file', str(path)) == 0
    lines = path.read_text().splitlines()
    assert lines[0].startswith(TIMM_HEADER + ',protocol,')
    assert lines[1].startswith(timm_row)
    rows = read_csv(path)
    assert [row['protocol'] for row in rows] == ['', 'authors', 'timm']
    for row in rows[1:]:
        assert float(row['top1']) == top(ranks[row['protocol']], 1)
        assert float(row['top5']) == top(ranks[row['protocol']], 5)
        assert float(row['top1']) + float(row['top1_err']) == pytest.approx(100)
        assert (row['img_size'], row['interpolation'], row['param_count']) == ('32', 'bicubic', '0.94')
    assert [row['crop_pct'] for row in rows[1:]] == ['0.5', '1.0']
    assert validate(home, home / 'data', '--results-file', str(path)) == 0  # replaces its row
    assert validate(home, home / 'data', '--results-file', str(path), '--dtype', 'bf16') == 0  # another row
    assert [(row['protocol'], row['dtype']) for row in read_csv(path)] == [
        ('', ''),
        ('authors', 'fp32'),
        ('timm', 'fp32'),
        ('timm', 'bf16'),
    ]
    assert [child.name for child in path.parent.iterdir()] == ['results.csv']
    capsys.readouterr()


# progress and interruption


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_in_a_log(capsys, monkeypatch):
    def work():
        with Progress('validate', 4, done=1, seconds=0.0) as progress:
            progress.update(2, 'top-1 timm 50.00 %')
            progress.update(1, 'top-1 timm 75.00 %')

    work()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'validate: going on after 1 images'
    assert lines[1].startswith('validate: 3/4 images, ')
    assert lines[2].startswith('validate: 4/4 images, ')
    assert lines[2].endswith('00:00 left  top-1 timm 75.00 %')
    monkeypatch.setattr(sys, 'stderr', Screen())
    work()
    assert isinstance(sys.stderr, Screen)
    screen = sys.stderr.getvalue()
    assert '4/4' in screen
    assert 'top-1 timm 75.00 %' in screen
    assert '\r' in screen


def command(home, folder, *options):
    return [
        *(sys.executable, '-m', 'pinas_models.cli', 'validate', str(home / 'data')),
        *('--model', f'local-dir:{home / "model"}', '--protocol', 'both', '--batch-size', '1', '--workers', '1'),
        *('--results-file', str(folder / 'results.csv'), *options),
    ]


def test_killed_and_given_again_it_ends_with_the_same_numbers(home, ranks, tmp_path):
    environment = os.environ | {'OMP_NUM_THREADS': '1'}
    seen = 0
    for wanted in (1, 20):  # killed twice, the second time in what was resumed
        process = subprocess.Popen(
            command(home, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        )
        while process.poll() is None and seen < wanted:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.005)
            for state in tmp_path.glob('results.csv.*.partial.json'):
                seen = json.loads(state.read_text())['state']['seen']
        assert process.poll() is None, 'it ended before it could be killed'
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / 'results.csv').exists()
    (state,) = tmp_path.glob('results.csv.*.partial.json')
    seen = json.loads(state.read_text())['state']['seen']
    assert 20 <= seen < PER_CLASS * len(LABELS)
    _, _, _, *last_command = command(home, tmp_path)
    last = run_command(main, *last_command, cwd=tmp_path)
    assert last.returncode == 0, last.stderr
    assert f'going on after {seen} images' in last.stderr
    for row in read_csv(tmp_path / 'results.csv'):
        expected = ranks[row['protocol']]
        assert (float(row['top1']), float(row['top5'])) == (top(expected, 1), top(expected, 5))
        assert int(row['images']) == len(expected)
    right = {name: {image for image, rank in found.items() if rank == 0} for name, found in ranks.items()}
    alone = len(right['authors'] - right['timm']), len(right['timm'] - right['authors'])
    assert 'right with one protocol alone: {} authors, {} timm'.format(*alone) in last.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['results.csv']


def test_a_state_of_another_evaluation_or_a_damaged_one_is_refused(home, tmp_path, capsys):
    data = tmp_path / 'data'
    shutil.copytree(home / 'data', data)
    (data / 'red' / '009.png').write_bytes(b'')  # red is the last folder: what is before it is in the state
    state = tmp_path / 'state.json'
    options = ('--resume-file', str(state), '--batch-size', '4')
    assert validate(home, data, *options) == 2
    assert json.loads(state.read_text())['state']['seen'] == 68
    capsys.readouterr()
    assert validate(home, data, *options, '--protocol', 'both') == 2
    assert 'belongs to another evaluation (protocols differ; protocols is' in capsys.readouterr().err
    shutil.copy(home / 'data' / 'red' / '009.png', data / 'red' / '009.png')
    assert validate(home, data, *options, '--json') == 0
    out, err = capsys.readouterr()
    assert json.loads(out)['results'][0]['images'] == 70
    assert 'going on after 68 images' in err
    assert not state.exists()
    for content in ('', '{}', '{"identity": {}, "state": {"counts": 3}}', '[1]'):
        state.write_text(content)
        assert validate(home, data, *options) == 2
        assert 'is not the state of an evaluation, or damaged' in capsys.readouterr().err


def test_disjoint_names_of_classes_are_told(home, tmp_path, capsys):
    for label in LABELS:
        shutil.copytree(home / 'data' / label, tmp_path / 'data' / f'my {label}')
    assert validate(home, tmp_path / 'data') == 0
    assert 'has the name of a class of the model' in capsys.readouterr().err
    assert validate(home, home / 'data') == 0
    assert 'the name of a class' not in capsys.readouterr().err


def test_names_that_fit_in_part_are_told(home, tmp_path, capsys):
    for label in LABELS:
        shutil.copytree(home / 'data' / label, tmp_path / 'data' / label)
    (tmp_path / 'data' / LABELS[1]).rename(tmp_path / 'data' / 'misspelt')
    assert validate(home, tmp_path / 'data') == 0
    assert 'misspelt is no name of a class of the model' in capsys.readouterr().err
