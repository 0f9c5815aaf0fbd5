"""The authors' transforms, byte for byte, against what their code did with two images that are made here."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reference import assert_close, load_fixture
from torchvision import transforms

from pinas_models.transforms import (
    ECenterCrop,
    ERandomCrop,
    Lighting,
    authors_eval_transform,
    authors_train_transform,
)

FIXTURE = load_fixture('encoding_transforms')
CASES = FIXTURE.meta['cases']
SIDES = st.integers(1, 3000)


def picture(case):
    """The fixture's image: two ramps and a wave with noise."""
    (width, height), seed = CASES[case]['size_wh'], CASES[case]['seed']
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / (width - 1), 255 * y / (height - 1), 127.5 * (1 + np.sin(2 * np.pi * (x / 37 + y / 23))))
    noise = 12 * np.random.default_rng(seed).standard_normal((height, width, 3))
    return Image.fromarray((np.stack(channels, -1) + noise).round().clip(0, 255).astype(np.uint8))


def sha256(image):
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


@pytest.mark.parametrize('case', CASES)
def test_centre_crop_gives_the_authors_bytes(case):
    image = picture(case)
    assert sha256(image) == CASES[case]['sha256_input']
    result = ECenterCrop(224)(image)
    means = np.asarray(result, np.float64).reshape(16, 14, 16, 14, 3).mean((1, 3))
    assert_close(means, FIXTURE.arrays[f'{case}_down16'], case)  # says where, if the bytes differ
    assert sha256(result) == CASES[case]['sha256_center_uint8_hwc']


@pytest.mark.parametrize('case', CASES)
def test_eval_transform_gives_the_authors_tensor(case):
    result = authors_eval_transform(224)(picture(case))
    assert result.shape == (3, 224, 224)
    assert_close(result[:, ::32, ::32], FIXTURE.arrays[f'{case}_norm_slice'], case, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('geometry', FIXTURE.meta['center_crop_geometry'], ids=lambda g: 'x'.join(map(str, g['wh'])))
def test_centre_crop_rounds_as_the_authors_do(geometry):
    assert list(ECenterCrop(224).box(*geometry['wh'])) == geometry['box']


@pytest.mark.parametrize('reference', FIXTURE.meta['random_crop_500x375_seed401'], ids=lambda r: str(r['random_seed']))
def test_random_crop_draws_the_authors_boxes(reference):
    image = picture('A')
    seed, box = reference['random_seed'], reference['box']
    assert list(ERandomCrop(224, random.Random(seed)).box(*image.size)) == box
    assert sha256(ERandomCrop(224, random.Random(seed))(image)) == reference['sha256']
    random.seed(seed)  # the module is the default, which is what the authors' code and a DataLoader's workers seed
    assert sha256(ERandomCrop(224)(image)) == reference['sha256']


@given(SIDES, SIDES, st.integers(1, 600))
def test_centre_box_is_a_central_square_inside(width, height, size):
    left, top, right, bottom = ECenterCrop(size).box(width, height)
    side = size / (size + 32) * min(width, height)
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    assert abs(right - left - side) <= 1
    assert abs(bottom - top - side) <= 1
    assert abs(left + right - width) <= 2
    assert abs(top + bottom - height) <= 2


@given(SIDES, SIDES, st.integers(0, 2**32))
def test_random_box_keeps_area_and_aspect_or_is_the_centre(width, height, seed):
    crop = ERandomCrop(64, random.Random(seed))
    left, top, right, bottom = box = crop.box(width, height)
    assert 0 <= left <= right <= width
    assert 0 <= top <= bottom <= height
    if box != ECenterCrop(64).box(width, height):
        w, h = right - left, bottom - top
        assert 0.1 * width * height <= w * h <= width * height
        assert (h - 0.5) * 3 / 4 - 1 <= w <= (h + 0.5) * 4 / 3 + 1  # rounding of both sides


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(['RGB', 'L']))
def test_any_image_becomes_a_square_of_the_size(width, height, mode):
    image = Image.new(mode, (width, height), 7 if mode == 'L' else (1, 2, 3))
    for crop in (ECenterCrop(16), ERandomCrop(16, random.Random(width))):
        result = crop(image)
        assert result.size == (16, 16)
        assert result.getpixel((5, 5)) == image.getpixel((0, 0))  # of one colour it stays


def test_a_long_image_whose_boxes_never_fit_gets_the_centre():
    # Boxes with at least 10 % of the area and an aspect ratio of at most 4/3 are higher than such a strip.
    assert ERandomCrop(32, random.Random(0)).box(1000, 10) == ECenterCrop(32).box(1000, 10)


def test_lighting_moves_all_pixels_along_the_principal_components():
    image = torch.rand(3, 5, 4, dtype=torch.float64)
    vectors = torch.tensor(Lighting.eigenvectors, dtype=torch.float64)
    factors = []
    lighting = Lighting(0.1, torch.Generator().manual_seed(0))
    for _ in range(4000):
        shift = lighting(image) - image
        assert torch.allclose(shift, shift[:, :1, :1].expand_as(shift), atol=1e-12)
        factors.append(torch.linalg.solve(vectors, shift[:, 0, 0]) / torch.tensor(Lighting.eigenvalues).double())
    spread = torch.stack(factors).std(0)
    # A sample's standard deviation of 4,000 draws is off by 0.1/sqrt(8000) = 0.0011; 5 of these fail once in 10^6.
    assert torch.allclose(spread, torch.full((3,), 0.1, dtype=torch.float64), atol=0.0056)
    assert torch.equal(Lighting(0.0)(image), image)


def test_train_transform_is_the_authors_list():
    compose = authors_train_transform(64, random.Random(3))
    assert [type(step).__name__ for step in compose.transforms] == FIXTURE.meta['train_transform']
    assert [type(step).__name__ for step in authors_eval_transform(64).transforms] == FIXTURE.meta['val_transform']
    jitter = compose.transforms[2]
    assert isinstance(jitter, transforms.ColorJitter)
    assert (tuple(jitter.brightness), tuple(jitter.contrast), tuple(jitter.saturation)) == ((0.6, 1.4),) * 3
    assert jitter.hue is None
    torch.manual_seed(0)
    first = compose(picture('A'))
    assert first.shape == (3, 64, 64)
    torch.manual_seed(0)
    again = authors_train_transform(64, random.Random(3))(picture('A'))
    assert torch.equal(first, again)
    assert not torch.equal(compose(picture('A')), again)


@pytest.mark.parametrize('crop', [ECenterCrop, ERandomCrop])
def test_a_size_that_is_no_size_is_refused(crop):
    with pytest.raises(ValueError, match='size is 0; it must be at least 1 pixel'):
        crop(0)
