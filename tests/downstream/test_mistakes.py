"""Mistakes of users: one line that says what, where and what to do, exit code 2, and nothing is lost. A table each."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import DETECTOR, SEGMENTOR, Call, configuration, error_line, train

from pinas_downstream.cli import main
from pinas_downstream.patches.checkpoints import read

# Train: a setting

OF_A_DETECTOR = [
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
    ('model.neck.in_channels=[256,512,1024,2048]', 'but the backbone gives [64, 128, 256, 512]'),
    ('model.backbone.out_indices=3', "PiNAS: 'int' object is not iterable"),
    ('train_dataloader.batch_size=8', 'an epoch has no batch: 4 images are fewer than train_dataloader.batch_size'),
    ('train_cfg.max_epoch=2 model.nek.a=4', 'did you mean max_epochs?; --cfg-options model.nek.a: model has no nek'),
    (
        'train_dataloader.batch_size=1 model.roi_head.mask_head.num_classes=80 val_evaluator.ann_file=a.json '
        'train_dataloader.dataset.data_prefix.img=images/',
        '4 faults: (1) train_dataloader.batch_size is 1',
    ),
    # Of every kind: the model in three places, data, optimizer, hook, schedule, sampler, metric, numbers and files.
    (
        'model.backbone.choices=huge model.neck.extra=5 model.roi_head.mask_head.num_classes=80 '
        'train_dataloader.dataset.ann_file=a.json optim_wrapper.optimizer.type=AdamV default_hooks.logger.type=Logger '
        'param_scheduler.1.type=Cosine train_dataloader.sampler.type=Sampler val_evaluator.type=CocoMetrics '
        'train_cfg.val_interval=0 load_from=b.pth',
        '11 faults: (1) model.roi_head.mask_head.num_classes is 80',
    ),
    (
        'model.neck.in_channels=[1,2] optim_wrapper.optimizer.lr=-1',
        '2 faults: (1) model.neck.in_channels is [1, 2], but',
    ),
    ('train_cfg.max_epochs=0', 'train_cfg.max_epochs is 0: write 1 or more'),
    (
        'default_hooks.logger.steps=1',
        'default_hooks.logger: LoggerHook has no option steps',
    ),
    (
        'train_dataloader.batch_sampler.drop_last=False train_dataloader.dataset.indices=3',
        'a batch of one image',
    ),
]
OF_A_SEGMENTOR = [
    ('model.auxiliary_head.num_classes=19', 'model.auxiliary_head.num_classes is 19'),
    ('model.decode_head.in_channels=2048', 'in_channels is 2048, but the backbone gives [512] at in_index 3'),
    ('train_dataloader.dataset.img_suffix=.png', 'no image ends in .png in '),
    ('train_dataloader.dataset.seg_map_suffix=_labels.png', '4 of 4 label maps are missing'),
    ('default_hooks.checkpoint.save_best=coco/mIoU', 'IoUMetric gives aAcc, mAcc, mIoU'),
    ('train_dataloader.batch_size=1', 'EncodingDeepLabHead normalises over the images of a batch'),
]
SETTINGS = [(DETECTOR, *row) for row in OF_A_DETECTOR] + [(SEGMENTOR, *row) for row in OF_A_SEGMENTOR]


@pytest.mark.parametrize(('name', 'options', 'text'), SETTINGS)
def test_settings_of_a_training(name, options, text, tiny_pennfudan, tiny_camvid, tmp_path, capsys):
    data_root = tiny_pennfudan if name == DETECTOR else tiny_camvid
    assert train(name, data_root, tmp_path / 'run', *options.split(' ')) == 2
    assert text in error_line(capsys)
    assert not list((tmp_path / 'run').glob('*.pth'))


def test_the_last_batch_of_an_epoch(tiny_pennfudan, tmp_path, capsys):
    text = 'train_dataloader = dict(batch_sampler=None, dataset=dict(indices=3))'
    config = configuration(tmp_path / 'c.py', DETECTOR, text)
    assert train(config, tiny_pennfudan, tmp_path / 'run', like=DETECTOR) == 2
    assert 'an epoch of 3 images in batches of 2 ends with a single one' in error_line(capsys)


# Train: the data


def annotations(change):
    """Change the annotations of a copy."""

    def damage(root):
        file = root / 'annotations' / 'instances_train.json'
        content = json.loads(file.read_text())
        result = change(content)
        file.write_text(json.dumps(result if isinstance(result, list) else content))

    return damage


def rename_image(content):
    content['images'][1]['file_name'] = 'nowhere.jpg'


def wrong_label(root):
    Image.fromarray(np.full((66, 80), 11, np.uint8)).save(root / 'annotations' / 'train' / '1.png')


DATA = [  # configuration, damage, more options, text
    (DETECTOR, shutil.rmtree, '', 'there is no folder'),
    (DETECTOR, annotations(rename_image), '', '1 of 4 images are not in '),
    (DETECTOR, annotations(lambda content: content['images'].clear()), '', 'lists no images'),
    (DETECTOR, annotations(lambda content: content['annotations'].clear()), '', 'nothing to learn from'),
    (DETECTOR, annotations(lambda content: content['annotations'][3].pop('area')), '', 'annotations[3] has no area'),
    (
        DETECTOR,
        annotations(lambda content: content['annotations'][3].pop('segmentation')),
        '',
        '1 objects have no mask (ids 4)',
    ),
    (DETECTOR, annotations(lambda content: [content]), '', 'is not in the format of COCO'),
    (DETECTOR, lambda root: (root / 'annotations' / 'instances_train.json').write_text('{'), '', 'is not JSON'),
    (
        DETECTOR,  # mmdet numbers the classes by the file
        annotations(lambda content: content['categories'].append({'id': 2, 'name': 'dog'})),
        'model.roi_head.bbox_head.num_classes=2 model.roi_head.mask_head.num_classes=2 '
        "train_dataloader.dataset.metainfo.classes=('dog','person')",
        'another order, and mmdet numbers them by the file: write --classes person,dog or metainfo=dict(',
    ),
    # An image that is damaged is met in training, in this process or in one of a dataloader.
    *(
        (
            DETECTOR,
            lambda root: (root / 'train' / 'train2.jpg').write_bytes(b'no image'),
            f'train_dataloader.num_workers={workers}',
            'train2.jpg: cannot be read as an image',
        )
        for workers in (0, 1)
    ),
    (SEGMENTOR, wrong_label, '', '1.png has the labels 11; the 11 classes have 0..10, and 255 is ignored'),
]


@pytest.mark.parametrize(('name', 'damage', 'options', 'text'), DATA)
def test_data_of_a_training(name, damage, options, text, tiny_pennfudan, tiny_camvid, tmp_path, capsys):
    root = shutil.copytree(tiny_pennfudan if name == DETECTOR else tiny_camvid, tmp_path / 'data')
    damage(root)
    assert train(name, root, tmp_path / 'run', *options.split()) == 2
    assert text in error_line(capsys)
    assert not list((tmp_path / 'run').glob('*.pth'))


# Test, predict and convert: the checkpoint


@pytest.fixture(scope='module')
def files(trained_detector, trained_segmentor, tmp_path_factory):
    """Files that are no checkpoint of a segmentor; one would make a folder if it were executed."""
    folder = tmp_path_factory.mktemp('files')
    whole = trained_segmentor.read_bytes()
    (folder / 'cut.pth').write_bytes(whole[: len(whole) // 2])
    (folder / 'text.pth').write_text('weights')
    crafted = {'state_dict': read(trained_segmentor)['state_dict'], 'meta': Call(os.mkdir, str(folder / 'executed'))}
    torch.save(crafted, folder / 'crafted.pth')
    torch.save({'state_dict': {'a.weight': torch.zeros(1)}}, folder / 'foreign.pth')
    shutil.copy(trained_detector, folder / 'detector.pth')
    return folder


COMMANDS = {
    'test': '{config} {file} --data-root {data} --work-dir {out}',
    'predict': '{config} {file} {data}/images/test/0.jpg --out-dir {out}',
    'convert': '{file} {out}.pth',
    'convert --to detectron2': '{file} {out}.pth',
}
CHECKPOINTS = {
    'cut.pth': dict.fromkeys(COMMANDS, 'cut.pth: '),
    'text.pth': dict.fromkeys(COMMANDS, 'text.pth: '),
    'crafted.pth': dict.fromkeys(COMMANDS, 'crafted.pth: '),
    'none.pth': dict.fromkeys(COMMANDS, 'none.pth: no such file'),
    'foreign.pth': dict.fromkeys(COMMANDS, 'foreign.pth: '),
    'detector.pth': {'test': 'does not fit the model', 'predict': 'does not fit the model', 'convert': 'detector.pth'},
}


@pytest.mark.parametrize(
    ('command', 'name'), [(command, name) for name, texts in CHECKPOINTS.items() for command in texts]
)
def test_checkpoints(command, name, files, tiny_camvid, tmp_path, capsys):
    values = dict(config=SEGMENTOR, file=files / name, data=tiny_camvid, out=tmp_path / 'out')
    assert main(f'{command} {COMMANDS[command].format(**values)}'.split()) == 2
    assert CHECKPOINTS[name][command] in error_line(capsys)
    assert not (files / 'executed').exists()
    assert not [path for path in tmp_path.rglob('*') if path.suffix in ('.pth', '.json', '.jpg')]


# Info: the file

FILES = [
    ('', 'c.py: the configuration has no model; it must be a dict with a type'),
    ('model = None', 'has model = None'),
    ('model = 5', 'has model = 5'),
    ("model = dict(backbone=dict(type='PiNAS'))", 'it must be a dict with a type'),
    ("model = dict(type='EncoderDecoder', backbone=None)", 'model.backbone = None; it must be a dict with a type'),
    ('model = dict(type=3)', 'type must be a str or valid type'),
    ("model = dict(type='PiNAS', _scope_=3)", 'scope_name should be a string'),
    ("model = dict(type='PiNAS', choices='mini')\ncustom_hooks = [3]", 'custom_hooks.0 = 3; it must be a dict'),
    ("model = dict(type='PiNAS', choices='mini')\ndefault_hooks = dict(timer=3)", 'default_hooks.timer = 3; it must'),
    ("model = dict(type='EncoderDecoder', backbone=3)", 'model.backbone = 3; it must be a dict with a type'),
    ("model = dict(type='PiNAS', choices=3.5)", 'choices is 3.5'),
    ("model = dict(type='PiNAS', choices='mini')\ntrain_dataloader = 3\noptim_wrapper = []", 'optim_wrapper = []; it'),
    (
        "model = dict(type='PiNAS', choices='mini')\nval_dataloader = dict(dataset=None)",
        'val_dataloader.dataset = None',
    ),
    ("model = dict(type='PiNAS', choices='mini')\nparam_scheduler = [3]", 'param_scheduler.0 = 3; it must be a dict'),
    ("model = dict(type='PiNAS', choices='mini')\ntrain_cfg = 'long'", "train_cfg = 'long'; it must be a dict"),
    ('model = dict(', 'c.py: cannot be read: SyntaxError'),
    ('width = 1 / 0', 'c.py: cannot be read: ZeroDivisionError: division by zero'),
    ("_base_ = 'nowhere.py'", 'nowhere.py'),
]


@pytest.mark.parametrize(('content', 'text'), FILES)
def test_files_of_configurations(content, text, tmp_path, capsys):
    (tmp_path / 'c.py').write_text(content)
    assert main(['info', str(tmp_path / 'c.py')]) == 2
    assert text in error_line(capsys)


# What else a command line can be wrong in


LINES = [
    ('test {config} {file} --data-root {data} --work-dir {out} --tta', 'tta_pipeline'),
    ('predict {config} {file} {data}/images/test/0.jpg --out-dir {out} --device abacus', "the device 'abacus'"),
    ('train {config} --launcher pytorch', 'torchrun --nproc-per-node N -m pinas_downstream.cli'),
    ('info mask-rcnn_pinas-min_pennfudan', f'did you mean {DETECTOR}?'),
    ('info --dump x.py', 'name one'),
    ('info {config} --classes a,,b', 'the classes must be different names, without an empty one'),
    ('publish {config} {file} {data}', 'is not empty: name another folder'),
    ('tool nowhere.py', 'nowhere.py: no such file'),
    ('tool mmdet/nothing', 'there is no such tool in'),
]


@pytest.mark.parametrize(('line', 'text'), LINES)
def test_command_lines(line, text, trained_segmentor, tiny_camvid, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    config = configuration(tmp_path / 'c.py', SEGMENTOR, 'tta_pipeline = None\ntta_model = None\n')
    config = config if '--tta' in line else SEGMENTOR
    values = dict(config=config, file=trained_segmentor, data=tiny_camvid, out=tmp_path / 'out')
    assert main(line.format(**values).split()) == 2
    assert text in error_line(capsys)


@pytest.mark.parametrize('option', ['model', 'model.neck.in_channels=[1,2'])
def test_options_that_are_none(option, capsys):
    with pytest.raises(SystemExit) as exit:
        main(['train', DETECTOR, '--cfg-options', option])
    assert exit.value.code == 2
    assert 'is not KEY=VALUE' in capsys.readouterr().err


# No mistake of a user


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
