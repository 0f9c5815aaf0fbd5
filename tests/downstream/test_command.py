"""The command pinas-downstream: from a configuration to metrics and pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as rle
from small_runs import DETECTOR, SEGMENTOR, SMALL_TEST, WITHOUT_VALIDATION, log_of, scalars_of, train

from pinas_downstream.cli import main
from pinas_downstream.config import apply_options, builtin_configs, find_config, load_config
from pinas_downstream.inference.files import output_names
from pinas_downstream.patches.checkpoints import read


def test_two_iterations_of_the_detector(trained_detector):
    iterations = [line for line in scalars_of(trained_detector.parent) if 'loss' in line]
    assert len(iterations) == 2
    assert all(line['loss_mask'] > 0.3 and np.isfinite(line['loss']) for line in iterations)
    metrics = next(line for line in scalars_of(trained_detector.parent) if 'coco/segm_mAP' in line)
    assert 0 <= metrics['coco/segm_mAP'] <= 1
    checkpoint = read(trained_detector)
    assert checkpoint['meta']['iter'] == 2
    assert checkpoint['meta']['dataset_meta']['classes'] == ('person',)
    assert list(trained_detector.parent.glob('best_coco_segm_mAP_*.pth'))


@pytest.mark.parametrize(
    ('config', 'like', 'channels'),
    [
        ('mask-rcnn_pinas-cls_pennfudan', DETECTOR, 2048),
        ('mask-rcnn_resnest-mini_pennfudan', DETECTOR, 512),
        ('deeplabv3_pinas-cls_camvid', SEGMENTOR, 2048),
        ('deeplabv3_resnest-mini_camvid', SEGMENTOR, 512),
    ],
)
def test_the_twins_and_the_large_networks_train(config, like, channels, tiny_pennfudan, tiny_camvid, tmp_path):
    data_root = tiny_pennfudan if like == DETECTOR else tiny_camvid
    options = ['model.backbone.init_cfg=None', *WITHOUT_VALIDATION]
    assert train(config, data_root, tmp_path, *options, like=like) == 0
    losses = [line['loss'] for line in scalars_of(tmp_path) if 'loss' in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    (file,) = [path for path in tmp_path.glob('*.pth') if path.stem in ('epoch_1', 'iter_2')]
    assert len(read(file)['state_dict']['backbone.layer4.0.bn3.weight']) == channels


def test_detector_test_and_predict_agree(trained_detector, tiny_pennfudan, tmp_path, capsys):
    common = ['--data-root', str(tiny_pennfudan), '--work-dir', str(tmp_path / 'work')]
    options = ['--cfg-options', SMALL_TEST, f'test_evaluator.outfile_prefix={tmp_path / "dump"}']
    assert (
        main(['test', DETECTOR, str(trained_detector), *common, '--show-dir', str(tmp_path / 'shown'), *options]) == 0
    )
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['images'] == 2
    assert results['metrics']['coco/bbox_mAP'] >= 0
    assert results['metrics']['coco/bbox_mAP_l'] is None  # there are no large objects
    shown = capsys.readouterr().out
    assert all(word in shown for word in ('segm', 'AP75', '2 images'))
    assert {path.name for path in (tmp_path / 'shown').iterdir()} == {'val0.jpg', 'val1.jpg'}

    folder = str(tiny_pennfudan / 'val')
    out = ['--out-dir', str(tmp_path / 'out'), '--score-thr', '0']
    assert main(['predict', DETECTOR, str(trained_detector), folder, *out, '--cfg-options', SMALL_TEST]) == 0
    predicted = json.loads((tmp_path / 'out' / 'predictions.json').read_text())
    assert [Path(image['file_name']).name for image in predicted['images']] == ['val0.jpg', 'val1.jpg']
    assert predicted['categories'] == [{'id': 1, 'name': 'person'}]
    dumped = json.loads((tmp_path / 'dump.segm.json').read_text())
    assert len(dumped) == len(predicted['annotations']) > 0
    for ours, theirs in zip(predicted['annotations'], dumped, strict=True):
        assert (ours['image_id'], ours['category_id']) == (theirs['image_id'], theirs['category_id'])
        assert ours['score'] == pytest.approx(theirs['score'], abs=1e-4)
        assert ours['segmentation'] == theirs['segmentation']
        assert ours['area'] == rle.decode(ours['segmentation']).sum()
    for ours, theirs in zip(
        predicted['annotations'], json.loads((tmp_path / 'dump.bbox.json').read_text()), strict=True
    ):
        assert ours['bbox'] == pytest.approx(theirs['bbox'], abs=0.02)
    capsys.readouterr()

    image = tiny_pennfudan / 'val' / 'val0.jpg'
    out = ['--out-dir', str(tmp_path / 'none'), '--score-thr', '1.1']
    assert main(['predict', DETECTOR, str(trained_detector), str(image), *out, '--cfg-options', SMALL_TEST]) == 0
    assert f'[1/1] {image}: nothing' in capsys.readouterr().out
    drawn = [np.asarray(Image.open(tmp_path / name / 'drawn' / 'val0.jpg'), float) for name in ('none', 'out')]
    original = np.asarray(Image.open(image), float)
    assert np.abs(drawn[0] - original).mean() < 3 < np.abs(drawn[1] - original).mean()


def test_segmentor_test_and_predict_agree(trained_segmentor, tiny_camvid, tmp_path, capsys):
    common = ['--data-root', str(tiny_camvid), '--work-dir', str(tmp_path)]
    assert (
        main(['test', SEGMENTOR, str(trained_segmentor), *common, '--out', str(tmp_path / 'a' / 'b.json'), '--verbose'])
        == 0
    )
    metrics = json.loads((tmp_path / 'a' / 'b.json').read_text())['metrics']
    assert 'System environment' in capsys.readouterr().out

    images = tiny_camvid / 'images' / 'test'
    assert main(['predict', SEGMENTOR, str(trained_segmentor), str(images), '--out-dir', str(tmp_path), '--json']) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / 'predictions.json').read_text())
    confusion = np.zeros((11, 11))
    for image in content['images']:
        predicted = np.asarray(Image.open(tmp_path / image['class_map']))
        labels = np.asarray(Image.open(tiny_camvid / 'annotations' / 'test' / f'{Path(image["file_name"]).stem}.png'))
        assert predicted.shape == labels.shape
        np.add.at(confusion, (labels[labels < 255], predicted[labels < 255]), 1)
        for index, name in enumerate(content['classes']):
            assert image['shares'].get(name, 0) == pytest.approx((predicted == index).mean(), abs=1e-4)
        with Image.open(tmp_path / 'drawn' / f'{Path(image["file_name"]).stem}.jpg') as drawn:
            assert drawn.size == (80, 66)
            original = np.asarray(Image.open(image['file_name']), float)
            assert np.abs(np.asarray(drawn, float) - original).mean() > 5
    overlap = np.diag(confusion)
    for name, expected in zip(
        content['classes'], overlap / (confusion.sum(0) + confusion.sum(1) - overlap), strict=True
    ):
        assert metrics[f'IoU.{name}'] == pytest.approx(100 * expected, abs=0.006)
    assert metrics['aAcc'] == pytest.approx(100 * overlap.sum() / confusion.sum(), abs=0.006)


def test_a_single_view_of_tta_is_no_tta(trained_segmentor, tiny_camvid, tmp_path):
    """In particular, the images are normalised as the model says, not as the base at the top of the configuration."""
    config = tmp_path / 'tta.py'
    config.write_text(f"""
_base_ = {str(find_config(SEGMENTOR))!r}
tta_model = dict(_delete_=True, type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[[dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
""")
    common = ['test', str(config), str(trained_segmentor), '--data-root', str(tiny_camvid), '--work-dir', str(tmp_path)]
    assert main([*common, '--out', str(tmp_path / 'plain.json')]) == 0
    assert main([*common, '--out', str(tmp_path / 'tta.json'), '--tta']) == 0
    plain, tta = (json.loads((tmp_path / f'{name}.json').read_text())['metrics'] for name in ('plain', 'tta'))
    names = [name for name in plain if 'time' not in name]
    assert {name: tta[name] for name in names} == {name: plain[name] for name in names}
    common[1] = SEGMENTOR
    small = ['tta_model.base_size=80', 'tta_model.crop_size=64']
    assert main([*common, '--out', str(tmp_path / 'authors.json'), '--tta', '--cfg-options', *small]) == 0
    assert json.loads((tmp_path / 'authors.json').read_text())['metrics']['mIoU'] >= 0


def test_images_that_cannot_be_read(trained_segmentor, tiny_camvid, tmp_path, capsys):
    good = tiny_camvid / 'images' / 'test' / '0.jpg'
    (tmp_path / 'cut.jpg').write_bytes(good.read_bytes()[:-200])
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.jpg').touch()
    command = ['predict', SEGMENTOR, str(trained_segmentor), '--out-dir', str(tmp_path / 'out')]
    assert main([*command, str(tmp_path), str(good), 'missing.jpg']) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    named = [line.split(' ')[4] for line in lines if 'cannot read' in line]
    assert named == [str(tmp_path / name) for name in ('cut.jpg', 'empty.jpg', 'text.png')]
    assert any('missing.jpg does not exist' in line for line in lines)
    assert '[4/4]' in captured.out
    (drawn,) = (path for path in (tmp_path / 'out' / 'drawn').rglob('*.jpg'))
    assert drawn.stem == '0'
    assert main([*command, str(tmp_path / 'text.png')]) == 2
    assert main([*command, str(tmp_path / 'nowhere')]) == 2


def test_names_of_outputs(tmp_path):
    names = output_names([tmp_path / 'a' / 'x.0.jpg', tmp_path / 'b' / 'x.0.jpg', tmp_path / 'b' / 'x.1.jpg'])
    assert list(names.values()) == ['a/x.0', 'b/x.0', 'b/x.1']
    assert list(output_names([tmp_path / 'x.jpg', tmp_path / 'x.png']).values()) == ['x.jpg', 'x.png']
    assert list(output_names([tmp_path / 'x.jpg']).values()) == ['x']


def test_the_console_shows_progress_and_the_log_everything(tiny_camvid, tmp_path, capsys):
    assert train(SEGMENTOR, tiny_camvid, tmp_path) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert sum('Iter(train)' in line for line in lines) == 2
    assert any('mIoU' in line for line in lines)
    assert len(lines) < 12, captured.out
    assert captured.err == ''
    log = log_of(tmp_path)
    for text in ('System environment', 'max_iters=2', 'Hooks will be executed', 'Iter(train)', 'The best checkpoint'):
        assert text in log


def test_what_is_printed_is_in_the_log(trained_detector):
    """By pycocotools, which knows no logger."""
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in log_of(trained_detector.parent)


def leaves(value, place=''):
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, f'{place}.{key}' if place else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, child in enumerate(value):
            yield from leaves(child, f'{place}.{index}')
    else:
        yield place


@pytest.mark.parametrize('name', [DETECTOR, SEGMENTOR])
def test_every_setting_can_be_changed(name):
    original = load_config(name)
    settings = ('model', 'train_', 'val_', 'test_', 'optim', 'param', 'default_hooks', 'load_from', 'resume')
    places = [place for place in leaves(original._cfg_dict.to_dict()) if place.startswith(settings)]
    places = [place for place in places if not place.startswith(('train_pipeline', 'test_pipeline'))]
    assert len(places) > 100
    for place in places:
        config = Config(original._cfg_dict.to_dict())
        apply_options(config, {place: 'new'})
        value = config._cfg_dict
        for part in place.split('.'):
            value = value[int(part)] if isinstance(value, list) else value[part]
        assert value == 'new', place


def test_new_settings_where_they_make_sense():
    config = load_config(
        'mask-rcnn_resnest-mini_pennfudan',
        {
            'model.backbone.with_cp': True,  # an option of a constructor
            'model.backbone.init_cfg.type': 'Pretrained',  # None before
            'model.backbone.init_cfg.checkpoint': 'a.pth',
            'optim_wrapper.accumulative_counts': 2,
            'model.test_cfg.rcnn.soft': True,
            'randomness.seed': 3,
            'find_unused_parameters': True,
        },
    )
    assert config.model.backbone.with_cp is True
    assert config.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a.pth')
    assert config.randomness.seed == 3


def test_info_lists_the_configurations(capsys):
    assert main(['info']) == 0
    text = capsys.readouterr().out
    assert all(f'  {name}  ' in text for name in builtin_configs())
    assert 'for 170 photographs of pedestrians' in text


def test_info_of_a_configuration(trained_detector, tmp_path, capsys):
    file = tmp_path / 'new' / 'dumped.py'
    command = ['info', DETECTOR, '--data-root', 'elsewhere', '--dump', str(file)]
    assert main([*command, '--cfg-options', 'train_cfg.max_epochs=7', 'model.neck.num_outs=6']) == 0
    text = capsys.readouterr().out
    weights = read(trained_detector)['state_dict'].items()
    weights = {n: t for n, t in weights if 'running_' not in n and 'num_batches' not in n}
    for part in ('backbone', 'neck', 'rpn_head', 'roi_head'):
        count = sum(tensor.numel() for name, tensor in weights.items() if name.startswith(f'{part}.'))
        assert f'{part} {count:,}' in ' '.join(text.split())
    for words in (
        'path 12021102',
        'stride 32, 512 channels: 1s1x64d 1s2x42d',
        '7 epochs, validated every 4',
        'AdamW(lr=0.001',
        'data elsewhere/',
        'batches of 4',
        'pinas_mini.cifar10 (the backbone)',
    ):
        assert words in ' '.join(text.split())
    dumped = load_config(str(file))
    assert dumped.train_cfg.max_epochs == 7
    assert dumped.model.neck.num_outs == 6
    assert dumped.test_dataloader.dataset.data_root == 'elsewhere/'
