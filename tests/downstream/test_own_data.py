"""Somebody's own classes: from the command line, from a file as docs/own-data.md has it, and out of a checkpoint."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import DETECTOR, SEGMENTOR, SMALL_TEST, WITHOUT_VALIDATION, error_line, train

import pinas_models.cli
from pinas_downstream.cli import main
from pinas_downstream.config import load_config
from pinas_downstream.config.classes import extended
from pinas_downstream.patches.checkpoints import read

PAGE = Path(__file__).parents[2] / 'docs' / 'own-data.md'


@pytest.fixture(scope='module')
def pets(tiny_pennfudan, tmp_path_factory):
    """The people as cats and dogs, in turns."""
    root = shutil.copytree(tiny_pennfudan, tmp_path_factory.mktemp('own') / 'pets')
    for file in (root / 'annotations').iterdir():
        content = json.loads(file.read_text())
        content['categories'] = [{'id': 7, 'name': 'cat'}, {'id': 9, 'name': 'dog'}]
        for index, annotation in enumerate(content['annotations']):
            annotation['category_id'] = (7, 9)[index % 2]
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope='module')
def trained(pets, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    assert train(DETECTOR, pets, work_dir, flags=['--classes', 'cat, dog']) == 0
    return work_dir / 'epoch_1.pth'


def test_one_option_sets_data_and_heads(trained, pets, tmp_path):
    checkpoint = read(trained)
    assert checkpoint['meta']['dataset_meta']['classes'] == ('cat', 'dog')
    assert len(checkpoint['meta']['dataset_meta']['palette']) == 2
    assert checkpoint['state_dict']['roi_head.bbox_head.fc_cls.bias'].shape == (3,)
    assert checkpoint['state_dict']['roi_head.mask_head.conv_logits.bias'].shape == (2,)
    command = ['test', DETECTOR, str(trained), '--data-root', str(pets), '--work-dir', str(tmp_path)]
    assert main([*command, '--classes', 'cat,dog', '--cfg-options', SMALL_TEST]) == 0
    metrics = json.loads((tmp_path / 'results.json').read_text())['metrics']
    assert {'coco/cat_precision', 'coco/dog_precision'} <= metrics.keys()


def predict(config, checkpoint, image, out):
    command = ['predict', str(config), str(checkpoint), str(image), '--out-dir', str(out), '--score-thr', '0']
    assert main([*command, '--cfg-options', SMALL_TEST]) == 0
    return json.loads((out / 'predictions.json').read_text())


def test_predictions_have_the_classes_of_the_checkpoint(trained, pets, tmp_path):
    content = predict(DETECTOR, trained, pets / 'val', tmp_path / 'out')  # the configuration says person
    assert [category['name'] for category in content['categories']] == ['cat', 'dog']
    assert {entry['category_id'] for entry in content['annotations']} == {1, 2}


def test_classes_of_a_segmentor(tiny_camvid, tmp_path):
    root = shutil.copytree(tiny_camvid, tmp_path / 'scenes')
    for file in (root / 'annotations').rglob('*.png'):
        labels = np.asarray(Image.open(file))
        Image.fromarray(np.where(labels == 255, 255, labels % 2).astype(np.uint8)).save(file)
    assert train(SEGMENTOR, root, tmp_path / 'run', *WITHOUT_VALIDATION, flags=['--classes', 'sky,ground']) == 0
    state_dict = read(tmp_path / 'run' / 'iter_2.pth')['state_dict']
    for head in ('decode_head', 'auxiliary_head'):
        assert state_dict[f'{head}.conv_seg.bias'].shape == (2,)


def test_a_palette_is_completed(tiny_camvid, tmp_path):
    place = 'train_dataloader.dataset.metainfo.palette'
    assert train(SEGMENTOR, tiny_camvid, tmp_path, f'{place}=None', *WITHOUT_VALIDATION) == 0
    assert len({tuple(c) for c in read(tmp_path / 'iter_2.pth')['meta']['dataset_meta']['palette']}) == 11
    colours = load_config(SEGMENTOR, {place: [[1, 2, 3], [4, 5, 6]]}).train_dataloader.dataset.metainfo.palette
    assert [list(colour) for colour in colours[:2]] == [[1, 2, 3], [4, 5, 6]]
    assert len({tuple(colour) for colour in colours}) == 11
    assert len(set(extended(None, 150))) == 150
    assert extended([(1, 2, 3)], 1) == [(1, 2, 3)]


def test_the_file_on_the_page(pets, tmp_path):
    (block,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)
    file = tmp_path / 'pets.py'
    file.write_text(block.replace("'data/pets/'", repr(f'{pets}/')).replace('(640, 480)', '(160, 120)'))
    options = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'model.rpn_head.feat_channels=32']
    assert main(['train', str(file), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *options]) == 0
    assert read(tmp_path / 'run' / 'epoch_1.pth')['meta']['dataset_meta']['classes'] == ('cat', 'dog')


def test_a_mask_rcnn_goes_on_from_a_faster_rcnn_with_other_classes(trained_detector, pets, tmp_path, capsys):
    """Mask head and classifiers are new, the rest is that of the checkpoint; the backbone must be all there."""
    weights = read(trained_detector)['state_dict']
    faster = {name: tensor for name, tensor in weights.items() if 'mask_head' not in name}
    torch.save({'state_dict': faster}, tmp_path / 'faster.pth')
    flags = ['--classes', 'cat,dog', '--load-from', str(tmp_path / 'faster.pth')]
    still = ['optim_wrapper.optimizer.lr=0.0', 'param_scheduler=None', *WITHOUT_VALIDATION]
    assert train(DETECTOR, pets, tmp_path / 'run', *still, flags=flags) == 0
    printed = capsys.readouterr().out
    assert 'missing keys in source state_dict: roi_head.mask_head' in printed.replace('\n', ' ')
    assert 'size mismatch for roi_head.bbox_head.fc_cls' in printed
    learned = read(tmp_path / 'run' / 'epoch_1.pth')['state_dict']
    for name in ('roi_head.bbox_head.shared_fcs.0.weight', 'backbone.conv1.0.weight'):
        assert torch.equal(learned[name], weights[name])
    del faster['backbone.layer1.0.conv1.weight']
    torch.save({'state_dict': faster}, tmp_path / 'faster.pth')
    assert train(DETECTOR, pets, tmp_path / 'other', flags=flags) == 2
    assert 'does not fill the backbone: missing names: 1 (backbone.layer1.0.conv1.weight)' in capsys.readouterr().err


def test_a_published_model(trained, pets, tmp_path, capsys):
    out = tmp_path / 'pets'
    command = ['publish', DETECTOR, str(trained), str(out)]
    assert main([*command, '--cfg-options', SMALL_TEST]) == 0
    content = torch.load(out / 'model.pth', weights_only=True)  # without any class of mmengine
    assert content.keys() == {'state_dict', 'meta'}
    assert (out / 'model.pth').stat().st_size < 0.5 * trained.stat().st_size
    expected = predict(DETECTOR, trained, pets / 'val', tmp_path / 'a')
    assert predict(out / 'config.py', out / 'model.pth', pets / 'val', tmp_path / 'b') == expected
    assert load_config(str(out / 'config.py')).model.backbone.init_cfg is None
    assert main(command) == 2
    assert 'is not empty' in error_line(capsys)
    assert main([*command, '--force']) == 0

    from mmdet.apis import init_detector

    model = init_detector(str(out / 'config.py'), str(out / 'model.pth'), device='cpu')
    assert model.dataset_meta['classes'] == ('cat', 'dog')
    assert all(torch.equal(tensor, content['state_dict'][name]) for name, tensor in model.state_dict().items())
    folder = ['publish', str(out / 'backbone'), 'ORG/pets', '--dry-run', '--out', str(tmp_path / 'staged')]
    assert pinas_models.cli.main(folder) == 0
