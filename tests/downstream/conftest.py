"""The adapter comes before the OpenMMLab packages that the tests import; and data for configurations, in seconds."""

import gc
import json
from functools import cache

import mmengine.config.config
import mmengine.config.utils
import mmengine.runner.runner
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image
from small_runs import DETECTOR, SEGMENTOR, train
from yapf.yapflib import yapf_api

import pinas_downstream  # noqa: F401


def _as_it_is(text, **options):
    return text, True


@pytest.fixture(scope='session', autouse=True)
def what_mmengine_repeats_is_done_once():
    """Most of the time of two iterations is none of the training.

    mmengine formats the configuration seven times, and at every start reads the index of all of mmdet's and asks the
    compiler for its version. The code of a configuration runs without the format. Programs in processes of their own
    (``test_tools.py``) are as they come.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', _as_it_is)  # the forks import it when they need it
        patch.setattr(mmengine.config.config, 'FormatCode', _as_it_is, raising=False)
        patch.setattr(mmengine.config.utils, '_get_cfg_metainfo', cache(mmengine.config.utils._get_cfg_metainfo))
        patch.setattr(mmengine.runner.runner, 'collect_env', cache(mmengine.runner.runner.collect_env))
        gc.collect()
        gc.freeze()  # datasets collect garbage when they have read their files: what is imported is none
        yield
        gc.unfreeze()


@pytest.fixture(autouse=True)
def no_scope_of_an_earlier_runner():
    """A Runner leaves its default scope behind, so that names of mmdet would be looked for in mmseg afterwards."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def mmseg_scope():
    """What ``default_scope = 'mmseg'`` in a config makes of unqualified names."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(scope='session')
def tiny_pennfudan(tmp_path_factory):
    """Folder with the layout of Penn-Fudan in COCO's format: bright boxes on noise, four to learn and two to check."""
    from pycocotools.mask import encode

    root = tmp_path_factory.mktemp('pennfudan')
    generator = np.random.default_rng(0)
    (root / 'annotations').mkdir()
    for split, count in (('train', 4), ('val', 2)):
        (root / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            name = f'{split}{index}.jpg'
            pixels = generator.integers(0, 80, (72, 96, 3), dtype=np.uint8)
            for x, y, width, height in ((10 + 3 * index, 8, 20, 50), (55, 12 + 2 * index, 24, 44)):
                mask = np.zeros((72, 96), np.uint8)
                mask[y : y + height, x : x + width] = 1
                pixels[mask == 1] = 200
                rle = encode(np.asfortranarray(mask))
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': index + 1,
                        'category_id': 1,
                        'bbox': [x, y, width, height],
                        'area': width * height,
                        'iscrowd': 0,
                        'segmentation': {'size': rle['size'], 'counts': rle['counts'].decode()},
                    }
                )
            Image.fromarray(pixels).save(root / split / name)
            images.append({'id': index + 1, 'file_name': name, 'height': 72, 'width': 96})
        content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'person'}]}
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    return root


@pytest.fixture(scope='session')
def tiny_camvid(tmp_path_factory):
    """Folder with the layout of CamVid: a band per class, in a brightness of its own; some pixels are ignored."""
    root = tmp_path_factory.mktemp('camvid')
    generator = np.random.default_rng(0)
    for split, count in (('train', 4), ('val', 2), ('test', 2)):
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            labels = np.repeat(np.arange(11, dtype=np.uint8), 6)[:, None].repeat(80, 1)
            labels = np.roll(labels, 6 * index, axis=0)
            pixels = labels[..., None] * 20 + generator.integers(0, 20, (66, 80, 3), dtype=np.uint8)
            labels[:, :4] = 255
            Image.fromarray(pixels).save(root / 'images' / split / f'{index}.jpg')
            Image.fromarray(labels).save(root / 'annotations' / split / f'{index}.png')
    return root


@pytest.fixture(scope='session')
def trained_detector(tiny_pennfudan, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('detector')
    assert train(DETECTOR, tiny_pennfudan, work_dir) == 0
    return work_dir / 'epoch_1.pth'


@pytest.fixture(scope='session')
def trained_segmentor(tiny_camvid, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('segmentor')
    assert train(SEGMENTOR, tiny_camvid, work_dir) == 0
    return work_dir / 'iter_2.pth'
