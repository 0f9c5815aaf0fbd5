"""The command pinas-downstream: from a configuration to metrics and pictures, and what it says to mistakes."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as rle

from pinas_downstream.checkpoints import read
from pinas_downstream.cli import main
from pinas_downstream.configs import builtin_configs, find_config, load_config
from pinas_downstream.inference.files import output_names
from pinas_downstream.overrides import apply_options
from pinas_downstream.running.resume import find_checkpoint

DETECTOR, SEGMENTOR = 'mask-rcnn_pinas-mini_pennfudan', 'deeplabv3_pinas-mini_camvid'
# Small images and two iterations; the rest is as in the configurations.
SMALL_TEST = 'test_dataloader.dataset.pipeline.1.scale=(160,120)'
SMALL = {
    DETECTOR: [
        'train_dataloader.batch_size=2',
        'train_dataloader.dataset.pipeline.2.scales=[(160,120)]',
        'val_dataloader.dataset.pipeline.1.scale=(160,120)',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'default_hooks.logger.interval=1',
    ],
    SEGMENTOR: [
        'train_dataloader.batch_size=2',
        'train_dataloader.dataset.pipeline.3.size=(96,96)',
        'train_dataloader.dataset.pipeline.4.crop_size=(96,96)',
        'model.data_preprocessor.size=(96,96)',
        'train_cfg.max_iters=2',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.logger.interval=1',
    ],
}


def train(config, data_root, work_dir, *options, flags=(), like=None):
    """Run the command in this process, for a configuration that is like one of the two; returns its exit code."""
    command = ['train', config, '--data-root', str(data_root), '--work-dir', str(work_dir), '--seed', '0', *flags]
    return main([*command, '--cfg-options', *SMALL[like or config], *options])


def log_of(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def scalars_of(work_dir):
    (file,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope='module')
def detector(tiny_pennfudan, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('detector')
    assert train(DETECTOR, tiny_pennfudan, work_dir) == 0
    return work_dir / 'epoch_1.pth'


@pytest.fixture(scope='module')
def segmentor(tiny_camvid, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('segmentor')
    assert train(SEGMENTOR, tiny_camvid, work_dir) == 0
    return work_dir / 'iter_2.pth'


def test_two_iterations_of_the_detector(detector):
    iterations = [line for line in scalars_of(detector.parent) if 'loss' in line]
    assert len(iterations) == 2
    assert all(line['loss_mask'] > 0.3 and np.isfinite(line['loss']) for line in iterations)
    metrics = next(line for line in scalars_of(detector.parent) if 'coco/segm_mAP' in line)
    assert 0 <= metrics['coco/segm_mAP'] <= 1
    checkpoint = read(detector)
    assert checkpoint['meta']['iter'] == 2
    assert checkpoint['meta']['dataset_meta']['classes'] == ('person',)
    assert list(detector.parent.glob('best_coco_segm_mAP_*.pth'))


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
    assert train(config, data_root, tmp_path, 'model.backbone.init_cfg=None', like=like) == 0
    losses = [line['loss'] for line in scalars_of(tmp_path) if 'loss' in line]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    (file,) = [path for path in tmp_path.glob('*.pth') if path.stem in ('epoch_1', 'iter_2')]
    assert len(read(file)['state_dict']['backbone.layer4.0.bn3.weight']) == channels


def test_detector_test_and_predict_agree(detector, tiny_pennfudan, tmp_path, capsys):
    common = ['--data-root', str(tiny_pennfudan), '--work-dir', str(tmp_path / 'work')]
    options = ['--cfg-options', SMALL_TEST, f'test_evaluator.outfile_prefix={tmp_path / "dump"}']
    assert main(['test', DETECTOR, str(detector), *common, '--show-dir', str(tmp_path / 'shown'), *options]) == 0
    results = json.loads((tmp_path / 'work' / 'results.json').read_text())
    assert results['images'] == 2
    assert results['metrics']['coco/bbox_mAP'] >= 0
    assert results['metrics']['coco/bbox_mAP_l'] is None  # there are no large objects
    shown = capsys.readouterr().out
    assert all(word in shown for word in ('segm', 'AP75', '2 images'))
    assert {path.name for path in (tmp_path / 'shown').iterdir()} == {'val0.jpg', 'val1.jpg'}

    folder = str(tiny_pennfudan / 'val')
    out = ['--out-dir', str(tmp_path / 'out'), '--score-thr', '0']
    assert main(['predict', DETECTOR, str(detector), folder, *out, '--cfg-options', SMALL_TEST]) == 0
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
    assert main(['predict', DETECTOR, str(detector), str(image), *out, '--cfg-options', SMALL_TEST]) == 0
    assert f'[1/1] {image}: nothing' in capsys.readouterr().out
    drawn = [np.asarray(Image.open(tmp_path / name / 'drawn' / 'val0.jpg'), float) for name in ('none', 'out')]
    original = np.asarray(Image.open(image), float)
    assert np.abs(drawn[0] - original).mean() < 3 < np.abs(drawn[1] - original).mean()


def test_segmentor_test_and_predict_agree(segmentor, tiny_camvid, tmp_path, capsys):
    common = ['--data-root', str(tiny_camvid), '--work-dir', str(tmp_path)]
    assert main(['test', SEGMENTOR, str(segmentor), *common, '--out', str(tmp_path / 'a' / 'b.json'), '--verbose']) == 0
    metrics = json.loads((tmp_path / 'a' / 'b.json').read_text())['metrics']
    assert 'System environment' in capsys.readouterr().out

    images = tiny_camvid / 'images' / 'test'
    assert main(['predict', SEGMENTOR, str(segmentor), str(images), '--out-dir', str(tmp_path), '--json']) == 0
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


def test_a_single_view_of_tta_is_no_tta(segmentor, tiny_camvid, tmp_path):
    """In particular, the images are normalised as the model says, not as the base at the top of the configuration."""
    config = tmp_path / 'tta.py'
    config.write_text(f"""
_base_ = {str(find_config(SEGMENTOR))!r}
tta_model = dict(_delete_=True, type='SegTTAModel')
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[[dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
""")
    common = ['test', str(config), str(segmentor), '--data-root', str(tiny_camvid), '--work-dir', str(tmp_path)]
    assert main([*common, '--out', str(tmp_path / 'plain.json')]) == 0
    assert main([*common, '--out', str(tmp_path / 'tta.json'), '--tta']) == 0
    plain, tta = (json.loads((tmp_path / f'{name}.json').read_text())['metrics'] for name in ('plain', 'tta'))
    names = [name for name in plain if 'time' not in name]
    assert {name: tta[name] for name in names} == {name: plain[name] for name in names}
    common[1] = SEGMENTOR
    small = ['tta_model.base_size=80', 'tta_model.crop_size=64']
    assert main([*common, '--out', str(tmp_path / 'authors.json'), '--tta', '--cfg-options', *small]) == 0
    assert json.loads((tmp_path / 'authors.json').read_text())['metrics']['mIoU'] >= 0


def test_tta_needs_to_be_in_the_configuration(detector, tiny_pennfudan, tmp_path, capsys):
    command = [
        'test',
        DETECTOR,
        str(detector),
        '--data-root',
        str(tiny_pennfudan),
        '--work-dir',
        str(tmp_path),
        '--tta',
    ]
    assert main(command) == 2
    assert 'tta_pipeline' in error_line(capsys)


def test_images_that_cannot_be_read(segmentor, tiny_camvid, tmp_path, capsys):
    good = tiny_camvid / 'images' / 'test' / '0.jpg'
    (tmp_path / 'cut.jpg').write_bytes(good.read_bytes()[:-200])
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.jpg').touch()
    command = ['predict', SEGMENTOR, str(segmentor), '--out-dir', str(tmp_path / 'out')]
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
    capsys.readouterr()
    assert main([*command, str(good), '--device', 'abacus']) == 2
    assert 'no such device' in error_line(capsys)


def test_names_of_outputs(tmp_path):
    names = output_names([tmp_path / 'a' / 'x.0.jpg', tmp_path / 'b' / 'x.0.jpg', tmp_path / 'b' / 'x.1.jpg'])
    assert list(names.values()) == ['a/x.0', 'b/x.0', 'b/x.1']
    assert list(output_names([tmp_path / 'x.jpg', tmp_path / 'x.png']).values()) == ['x.jpg', 'x.png']
    assert list(output_names([tmp_path / 'x.jpg']).values()) == ['x']


def error_line(capsys):
    """The line of the error, the only one of the standard error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith('warning: ')]
    assert len(lines) == 1, lines
    assert ': error: ' in lines[0]
    return lines[0]


class Executed:
    """Pickles as a call that makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / 'executed'),)


def test_checkpoints_that_do_not_fit(detector, segmentor, tiny_camvid, tmp_path, capsys):
    image = str(tiny_camvid / 'images' / 'test' / '0.jpg')
    whole = segmentor.read_bytes()
    (tmp_path / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    torch.save({'state_dict': read(segmentor)['state_dict'], 'meta': Executed(tmp_path)}, tmp_path / 'crafted.pth')
    for checkpoint, text in (
        (tmp_path / 'cut.pth', 'cut.pth: cannot be read as a checkpoint, nothing in it was executed'),
        (tmp_path / 'crafted.pth', 'crafted.pth: cannot be read as a checkpoint, nothing in it was executed'),
        (detector, 'does not fit the model'),
        (tmp_path / 'none.pth', 'none.pth: no such file'),
    ):
        for command in (
            ['predict', SEGMENTOR, str(checkpoint), image, '--out-dir', str(tmp_path / 'out')],
            ['test', SEGMENTOR, str(checkpoint), '--data-root', str(tiny_camvid), '--work-dir', str(tmp_path / 'work')],
        ):
            assert main(command) == 2
            assert text in error_line(capsys)
    assert not (tmp_path / 'out').exists()
    assert not (tmp_path / 'executed').exists()


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


def test_what_is_printed_is_in_the_log(detector):
    """By pycocotools, which knows no logger."""
    assert 'Average Precision  (AP) @[ IoU=0.50:0.95' in log_of(detector.parent)


def configuration(path, name, text):
    path.write_text(f'_base_ = {str(find_config(name))!r}\n{text}')
    return str(path)


HOOK = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Interrupt(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_an_interrupted_training_says_how_to_go_on(tiny_camvid, tmp_path, monkeypatch, capsys):
    (tmp_path / 'interrupting_hook.py').write_text(HOOK)
    monkeypatch.syspath_prepend(tmp_path)
    hook = "custom_imports = dict(imports=['pinas_downstream', 'interrupting_hook'])\n"
    config = configuration(tmp_path / 'c.py', SEGMENTOR, hook + "custom_hooks = [dict(type='Interrupt')]")
    interval = 'default_hooks.checkpoint.interval=1'
    assert train(config, tiny_camvid, tmp_path / 'run', interval, like=SEGMENTOR) == 130
    assert f'with --resume goes on from {tmp_path}/run/iter_1.pth' in capsys.readouterr().err
    assert train(config, tiny_camvid, tmp_path / 'early', like=SEGMENTOR) == 130
    assert 'has no checkpoint yet' in capsys.readouterr().err
    assert train(SEGMENTOR, tiny_camvid, tmp_path / 'run', interval, flags=['--resume']) == 0
    assert read(tmp_path / 'run' / 'iter_2.pth')['meta']['iter'] == 2


def test_a_killed_training_goes_on(tiny_pennfudan, tmp_path):
    """With kill -9, at any time after the first epoch; two more follow after --resume."""
    work_dir = tmp_path / 'run'
    epochs = ['train_cfg.max_epochs=3', 'train_cfg.val_interval=3']
    command = [str(Path(sys.executable).with_name('pinas-downstream')), 'train', DETECTOR, '--work-dir', str(work_dir)]
    command += ['--data-root', str(tiny_pennfudan), '--seed', '0', '--cfg-options', *SMALL[DETECTOR], *epochs]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONUNBUFFERED': '1'}
    ) as run:
        for line in run.stdout:
            if 'Epoch(train) [2][1/2]' in line:
                run.kill()
    assert run.returncode == -9
    last = find_checkpoint(work_dir)
    assert last.name in ('epoch_1.pth', 'epoch_2.pth')
    done = read(last)['meta']['iter']
    (killed,) = work_dir.glob('*/vis_data/scalars.json')
    shutil.rmtree(killed.parents[1])
    assert train(DETECTOR, tiny_pennfudan, work_dir, *epochs, flags=['--resume']) == 0
    steps = [line['step'] for line in scalars_of(work_dir) if 'loss' in line]
    assert steps == list(range(done + 1, 7))
    assert read(work_dir / 'epoch_3.pth')['meta']['iter'] == 6


def test_resuming_where_nothing_was_trained_starts(segmentor, tiny_camvid, tmp_path):
    """From the weights of load_from, which plain mmengine would take for the checkpoint to go on from."""
    assert find_checkpoint(tmp_path) is None
    options = [f'load_from={segmentor}', 'default_hooks.checkpoint.save_best=None']
    options += [f'val_{name}=None' for name in ('cfg', 'dataloader', 'evaluator')]
    assert train(SEGMENTOR, tiny_camvid, tmp_path, *options, flags=['--resume']) == 0
    assert [line['step'] for line in scalars_of(tmp_path)] == [1, 2]


def checkpoint_file(path):
    torch.save({'meta': {}}, path)
    return path


def test_the_last_checkpoint(tmp_path):
    nine, ten = checkpoint_file(tmp_path / 'epoch_9.pth'), checkpoint_file(tmp_path / 'epoch_10.pth')
    assert find_checkpoint(tmp_path) == ten  # killed before the name was written
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('')
    assert find_checkpoint(tmp_path) == ten
    pointer.write_text(str(nine))
    assert find_checkpoint(tmp_path) == nine
    pointer.write_text('/another/folder/epoch_9.pth')
    assert find_checkpoint(tmp_path) == nine
    pointer.write_text(str(tmp_path / 'epoch_8.pth'))  # deleted before the next one was written
    assert find_checkpoint(tmp_path) == ten
    ten.write_bytes(ten.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r'epoch_10\.pth: is not a whole checkpoint.*has epoch_9\.pth as well'):
        find_checkpoint(tmp_path)
    nine.unlink()
    ten.unlink()
    checkpoint_file(tmp_path / 'best_mIoU_iter_7.pth')
    with pytest.raises(FileNotFoundError, match=r'is gone.*best_mIoU_iter_7\.pth'):
        find_checkpoint(tmp_path)


def test_resuming_from_a_checkpoint_that_is_cut_off(tiny_camvid, tmp_path, capsys):
    whole = checkpoint_file(tmp_path / 'iter_1.pth').read_bytes()
    (tmp_path / 'iter_1.pth').write_bytes(whole[:-30])
    assert train(SEGMENTOR, tiny_camvid, tmp_path, flags=['--resume']) == 2
    assert 'iter_1.pth: is not a whole checkpoint' in error_line(capsys)


def test_a_full_disk_leaves_no_half_checkpoint(tiny_camvid, tmp_path, capsys):
    """By the limit of the system on the size of a file, which ends the writing in the midst of it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        assert train(SEGMENTOR, tiny_camvid, tmp_path) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'File too large' in error_line(capsys)
    assert not list(tmp_path.glob('*.pth'))
    assert find_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ('train_cfg.max_epoch=2', 'train_cfg has no max_epoch, did you mean max_epochs?'),
        ('modle.neck.num_outs=4', 'modle: there is no such setting, did you mean model?'),
        ('model.nek.num_outs=4', 'model has no nek, did you mean neck?'),
        ('model.neck.num_outs.a=4', 'model.neck.num_outs is 5, which has no settings'),
        ('env_cfg.a.b=4', 'env_cfg has no a; it has cudnn_benchmark, '),
        ('param_scheduler.2.end=4', 'param_scheduler is a list; name an entry, 0..1'),
        ('epochs=2', 'has used it already; change the settings themselves, its value stands in '),
        ('data_root=x', '--data-root'),
        ('model.neck=4', 'model.neck: has settings of its own'),
        ('model.neck.extra=4', 'FPN has no option extra'),
        ('model.neck.relu_befor_extra_convs=4', 'did you mean relu_before_extra_convs?'),
        ('model.neck.type=FPNN', "there is no model of type 'FPNN', did you mean FPN?"),
        ('model.backbone.frozen_stages=9', 'frozen_stages is 9; allowed are'),
        ('model.backbone.depth=50', 'PiNAS has no option depth'),
        ('model.neck.num_outs=2', 'the settings of FPN do not fit'),
        ('optim_wrapper.optimizer.type=AdamV', "there is no optimizer of type 'AdamV'"),
        ('optim_wrapper.optimizer.momentum=1', 'AdamW has no option momentum'),
        ('train_dataloader.batch_sise=4', 'did you mean batch_size?'),
        ('optim_wrapper.optimizer.lr=-1', 'AdamW: Invalid learning rate: -1'),
        ('train_dataloader.persistent_workers=True', 'persistent_workers option needs num_workers > 0'),
        ('train_dataloader.speed=4', 'DataLoader has no option speed'),
        ('train_dataloader.batch_size=1', 'the backbone normalises over the images of a batch: write 2 or more'),
        ('default_hooks.checkpoint.save_best=segm_mAP', "save_best is 'segm_mAP', but CocoMetric gives coco/bbox_mAP"),
        ('model.roi_head.mask_head.num_classes=80', 'mask_head.num_classes is 80, but train_dataloader.dataset has 1'),
        ('train_dataloader.dataset.metainfo.classes=person', "written ('person',), with the comma"),
        ("train_dataloader.dataset.metainfo.classes=('dog',)", 'has no class dog; it has person'),
        ('train_dataloader.dataset.pipeline.1.poly2mask=False', 'leave poly2mask out'),
        ('train_dataloader.dataset.filter_cfg.min_size=500', 'nothing to learn from: 4 images, 4 of them with objects'),
        ('train_dataloader.dataset.indices=0', 'a dataset is empty'),
        ('train_dataloader.dataset.ann_file=a.json', 'there is no annotation file'),
        ('train_dataloader.dataset.data_prefix.img=images/', 'there is no folder'),
        ('val_evaluator.ann_file=a.json', 'val_evaluator: there is no annotation file a.json'),
        ('model.backbone.init_cfg.checkpoint=a.pth', 'a.pth'),
        ('load_from=a.pth', 'a.pth: no such file'),
    ],
)
def test_wrong_settings(options, text, tiny_pennfudan, tmp_path, capsys):
    assert train(DETECTOR, tiny_pennfudan, tmp_path / 'run', options) == 2
    assert text in error_line(capsys)


def test_wrong_settings_of_a_segmentor(tiny_camvid, tmp_path, capsys):
    for option, text in (
        ('model.auxiliary_head.num_classes=19', 'model.auxiliary_head.num_classes is 19'),
        ('train_dataloader.dataset.img_suffix=.png', 'no image ends in .png in '),
        ('train_dataloader.dataset.seg_map_suffix=_labels.png', '4 of 4 label maps are missing'),
        ('default_hooks.checkpoint.save_best=coco/mIoU', 'IoUMetric gives aAcc, mAcc, mIoU'),
        ('train_dataloader.batch_size=1', 'EncodingDeepLabHead normalises over the images of a batch'),
    ):
        assert train(SEGMENTOR, tiny_camvid, tmp_path / 'run', option) == 2
        assert text in error_line(capsys)


def test_options_that_are_none(capsys):
    for option in ('model', 'model.neck.in_channels=[1,2'):
        with pytest.raises(SystemExit) as exit:
            main(['train', DETECTOR, '--cfg-options', option])
        assert exit.value.code == 2
        assert 'is not KEY=VALUE' in capsys.readouterr().err


def damaged(root, folder, change):
    """A copy of a data set whose annotations are changed."""
    shutil.copytree(root, folder)
    file = folder / 'annotations' / 'instances_train.json'
    content = json.loads(file.read_text())
    result = change(content)
    file.write_text(json.dumps(result if isinstance(result, list) else content))
    return folder


def rename_image(content):
    content['images'][1]['file_name'] = 'nowhere.jpg'


def two_classes(content):
    content['categories'] += [{'id': 2, 'name': 'dog'}]


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (rename_image, '1 of 4 images are not in '),
        (lambda content: content['images'].clear(), 'lists no images'),
        (lambda content: content['annotations'].clear(), 'nothing to learn from'),
        (lambda content: content['annotations'][3].pop('area'), 'annotations[3] has no area'),
        (lambda content: content['annotations'][3].pop('segmentation'), '1 objects have no mask (ids 4)'),
        (lambda content: [content], 'is not in the format of COCO'),
    ],
)
def test_damaged_annotations(change, text, tiny_pennfudan, tmp_path, capsys):
    root = damaged(tiny_pennfudan, tmp_path / 'data', change)
    assert train(DETECTOR, root, tmp_path / 'run') == 2
    assert text in error_line(capsys)


def test_more_damaged_data(tiny_pennfudan, tiny_camvid, tmp_path, capsys):
    assert train(DETECTOR, tmp_path / 'nowhere', tmp_path / 'run') == 2
    assert 'there is no folder' in error_line(capsys)
    root = damaged(tiny_pennfudan, tmp_path / 'text', lambda content: None)
    (root / 'annotations' / 'instances_train.json').write_text('{')
    assert train(DETECTOR, root, tmp_path / 'run') == 2
    assert 'is not JSON' in error_line(capsys)
    # mmdet numbers the classes by the file.
    root = damaged(tiny_pennfudan, tmp_path / 'dog', two_classes)
    heads = [f'model.roi_head.{name}_head.num_classes=2' for name in ('bbox', 'mask')]
    classes = "train_dataloader.dataset.metainfo.classes=('dog','person')"
    assert train(DETECTOR, root, tmp_path / 'run', *heads, classes) == 2
    assert "another order, and mmdet numbers them by the file: write metainfo=dict(classes=('person', 'dog'))" in (
        error_line(capsys)
    )
    # An image that is damaged is met in training.
    root = damaged(tiny_pennfudan, tmp_path / 'image', lambda content: None)
    (root / 'train' / 'train2.jpg').write_bytes(b'no image')
    for workers in (0, 1):
        assert train(DETECTOR, root, tmp_path / 'run', f'train_dataloader.num_workers={workers}') == 2
        assert error_line(capsys).endswith('train2.jpg: cannot be read as an image')
    root = tmp_path / 'labels'
    shutil.copytree(tiny_camvid, root)
    Image.fromarray(np.full((66, 80), 11, np.uint8)).save(root / 'annotations' / 'train' / '1.png')
    assert train(SEGMENTOR, root, tmp_path / 'run') == 2
    assert '1.png has the labels 11; the 11 classes have 0..10, and 255 is ignored' in error_line(capsys)


def test_the_last_batch_of_an_epoch(tiny_pennfudan, tmp_path, capsys):
    config = configuration(
        tmp_path / 'c.py', DETECTOR, 'train_dataloader = dict(batch_sampler=None, dataset=dict(indices=3))'
    )
    assert train(config, tiny_pennfudan, tmp_path / 'run', like=DETECTOR) == 2
    assert 'an epoch of 3 images in batches of 2 ends with a single one' in error_line(capsys)
    options = ['train_dataloader.batch_sampler.drop_last=False', 'train_dataloader.dataset.indices=3']
    assert train(DETECTOR, tiny_pennfudan, tmp_path / 'run', *options) == 2
    assert 'a batch of one image' in error_line(capsys)


BUG = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Bug(Hook):
    def before_train(self, runner):
        raise {error}('seven')
"""


@pytest.mark.parametrize(('error', 'seen'), [('ValueError', RuntimeError), ('KeyError', KeyError)])
def test_a_bug_keeps_its_traceback(error, seen, tiny_camvid, tmp_path, monkeypatch):
    module = f'hook_with_{error.lower()}'
    (tmp_path / f'{module}.py').write_text(BUG.format(error=error).replace('Bug', f'Bug{error}'))
    monkeypatch.syspath_prepend(tmp_path)
    text = f"custom_imports = dict(imports=['pinas_downstream', {module!r}])\ncustom_hooks = [dict(type='Bug{error}')]"
    config = configuration(tmp_path / 'c.py', SEGMENTOR, text)
    with pytest.raises(seen, match='seven'):
        train(config, tiny_camvid, tmp_path / 'run', like=SEGMENTOR)


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
    assert main(['info', '--dump', 'x.py']) == 2


def test_info_of_a_configuration(detector, tmp_path, capsys):
    file = tmp_path / 'new' / 'dumped.py'
    command = ['info', DETECTOR, '--data-root', 'elsewhere', '--dump', str(file)]
    assert main([*command, '--cfg-options', 'train_cfg.max_epochs=7', 'model.neck.num_outs=6']) == 0
    text = capsys.readouterr().out
    weights = {n: t for n, t in read(detector)['state_dict'].items() if 'running_' not in n and 'num_batches' not in n}
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
    assert main(['info', 'mask-rcnn_pinas-min_pennfudan']) == 2
    assert f'did you mean {DETECTOR}?' in error_line(capsys)
