"""Images of every kind, for prediction, evaluation and search alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_dataset

from pinas_models.common import images
from pinas_models.data import TimmImages
from pinas_models.evaluation.images import open_images
from pinas_models.evaluation.predict import predict
from pinas_search.data.images import open_files

SIDE = 32
LEVELS = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256


def seen_by_search(path):
    return torch.from_numpy(np.array(open_files('folder', str(path.parent.parent), '', test=False).load(0)))


def seen_by_validate(path):
    dataset, _ = open_images(str(path.parent.parent))
    (batch,) = dataset.batches([lambda image: torch.from_numpy(np.array(image))], batch_size=1)
    if batch.errors:
        raise ValueError(batch.errors[0][1])
    return batch.views[0][0]


def seen_by_predict(path):
    seen = []

    class Protocol:
        @staticmethod
        def transform(image):
            seen.append(torch.from_numpy(np.array(image)))
            return torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)

    class Model:
        num_classes, mode = 2, 'RGB'

        def __call__(self, batch):
            return torch.zeros(len(batch), 2)

    (prediction,) = predict(Model(), Protocol(), [path], topk=1)
    if prediction.error:
        raise ValueError(prediction.error)
    return seen[0]


EVERYWHERE = pytest.mark.parametrize('see', [seen_by_predict, seen_by_validate, seen_by_search])


@EVERYWHERE
@pytest.mark.parametrize(
    ('values', 'kind'),
    [
        ((LEVELS * 256 + 3).astype(np.uint16), 'PNG'),
        ((LEVELS * 256 + 3).astype(np.uint16), 'TIFF'),
        ((LEVELS * 256 + 3).astype(np.int32), 'TIFF'),
        ((LEVELS * 2**23).astype(np.int32), 'TIFF'),
        ((LEVELS / 255).astype(np.float32), 'TIFF'),
        (LEVELS.astype(np.float32), 'TIFF'),
    ],
)
def test_more_than_eight_bits(tmp_path, values, kind, see):
    path = tmp_path / 'class' / 'image.png'  # timm lists few suffixes; the content decides
    path.parent.mkdir()
    Image.fromarray(values).save(path, kind)
    expected = LEVELS // 2 if values.max() > 2**24 else LEVELS
    assert np.array_equal(see(path).numpy(), np.repeat(expected[..., None], 3, axis=2))


@EVERYWHERE
def test_photographs_are_turned_upright(tmp_path, see):
    image = Image.fromarray(np.repeat(LEVELS.astype(np.uint8)[..., None], 3, axis=2)[:20])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    path = tmp_path / 'class' / 'image.png'
    path.parent.mkdir()
    image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    assert np.array_equal(see(path).numpy(), np.array(image))


@EVERYWHERE
def test_postscript_is_not_opened_under_any_name(tmp_path, see):
    path = tmp_path / 'class' / 'image.jpg'
    path.parent.mkdir()
    stream = io.BytesIO()
    Image.new('RGB', (SIDE, SIDE)).save(stream, 'EPS')
    path.write_bytes(stream.getvalue())
    with Image.open(path) as image:
        assert image.format == 'EPS'
    with pytest.raises(ValueError, match='cannot identify image file'):
        see(path)


@EVERYWHERE
def test_pixels_beyond_the_limit(tmp_path, see, monkeypatch):
    path = tmp_path / 'class' / 'image.png'
    path.parent.mkdir()
    Image.new('RGB', (SIDE, SIDE)).save(path)
    see(path)
    monkeypatch.setattr(images, 'MAX_PIXELS', SIDE * SIDE - 1)
    with pytest.raises(ValueError, match=r'32 x 32 pixels; at most 1,023 are read'):
        see(path)


def test_folders_of_torchvision(tmp_path):
    (tmp_path / 'class').mkdir()
    Image.new('RGB', (SIDE, SIDE)).save(tmp_path / 'class' / 'image.jpg', 'EPS')
    dataset = TimmImages(create_dataset('torch/image_folder', root=str(tmp_path)), 'here')
    with pytest.raises(OSError, match='cannot identify'), dataset.opened(0):
        pass
