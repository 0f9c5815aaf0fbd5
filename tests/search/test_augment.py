"""Batched views against torchvision's and Pillow's for single images.

Statistical tests compare p-values with 1e-6: with that probability, a correct implementation fails a comparison after a
change of its seed. The seeds are fixed.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from pinas_search.config import ViewConfig
from pinas_search.data.augment import (
    color_jitter,
    crop_boxes,
    crop_resize,
    gaussian_blur,
    jitter_draws,
    normalize,
    photometric,
)

ALPHA = 1e-6
NOTHING = ViewConfig(jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, flip_prob=0.0)


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(num, height, width=None, seed=0):
    return torch.rand(num, 3, height, width or height, generator=random(seed))


# Crops


@settings(max_examples=60)
@given(data=st.data(), size=st.integers(1, 48), height=st.integers(1, 64), width=st.integers(1, 64))
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_crop_resize_equals_torchvision_image_by_image(dtype, data, size, height, width):
    images = random_images(3, height, width)
    if dtype == torch.uint8:
        images = (images * 255).round().to(torch.uint8)
    boxes = []
    for _ in images:
        h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
        boxes.append([data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w)), h, w])
    result = crop_resize(images, torch.tensor(boxes), size)
    floats = images / 255 if dtype == torch.uint8 else images
    expected = [TF.resized_crop(x, *box, [size, size], antialias=True) for x, box in zip(floats, boxes, strict=True)]
    assert result.dtype == torch.float32
    assert result.min() >= 0
    assert result.max() <= 1
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-5, rtol=0)


def test_crop_resize_is_as_pillow_up_to_its_rounding():
    images = (random_images(4, 50, 70) * 255).round().to(torch.uint8)
    boxes = torch.tensor([[0, 0, 50, 70], [3, 5, 40, 33], [10, 20, 17, 9], [49, 69, 1, 1]])
    result = crop_resize(images, boxes, 24) * 255
    for image, (top, left, height, width), ours in zip(images, boxes.tolist(), result, strict=True):
        pil = TF.to_pil_image(image).crop((left, top, left + width, top + height)).resize((24, 24), Image.BILINEAR)
        # Pillow rounds to 8 bits after each of the two passes.
        assert (TF.pil_to_tensor(pil) - ours).abs().max() <= 1.01


def test_the_whole_image_at_its_own_size_stays_as_it_is():
    images = random_images(2, 16)
    assert torch.equal(crop_resize(images, torch.tensor([[0, 0, 16, 16]] * 2), 16), images)


def test_images_keep_float32_under_autocast():
    images, boxes = random_images(8, 16), torch.tensor([[1, 2, 9, 8]] * 8)
    expected = photometric(crop_resize(images, boxes, 12), ViewConfig(), random())
    with torch.autocast('cpu', torch.bfloat16):
        result = photometric(crop_resize(images, boxes, 12), ViewConfig(), random())
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ('height', 'width', 'scale', 'ratio'),
    [
        (32, 32, (0.2, 1.0), (3 / 4, 4 / 3)),
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (300, 200, (0.2, 1.0), (3 / 4, 4 / 3)),
        (40, 160, (0.2, 1.0), (1 / 2, 2)),  # attempts often fail here
    ],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    crop = v2.RandomResizedCrop(1, scale=scale, ratio=ratio)
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([list(crop.make_params([image]).values()) for _ in range(4000)])
    ours = crop_boxes(20000, height, width, scale, ratio, random()).numpy()
    features = {
        'top': lambda b: b[:, 0],
        'left': lambda b: b[:, 1],
        'height': lambda b: b[:, 2],
        'width': lambda b: b[:, 3],
        'area': lambda b: b[:, 2] * b[:, 3],
        'ratio': lambda b: b[:, 3] / b[:, 2],
        'bottom': lambda b: b[:, 0] + b[:, 2],
        'right': lambda b: b[:, 1] + b[:, 3],
    }
    for name, feature in features.items():
        assert stats.ks_2samp(feature(ours), feature(theirs)).pvalue > ALPHA, name
    whole = [np.mean((boxes[:, 2] == height) & (boxes[:, 3] == width)) for boxes in (ours, theirs)]
    assert whole[0] == pytest.approx(whole[1], abs=0.04)


@given(
    height=st.integers(1, 500),
    width=st.integers(1, 500),
    low=st.floats(0.01, 1),
    high=st.floats(0.01, 1),
    ratio=st.floats(0.1, 1),
    seed=st.integers(0, 100),
)
def test_boxes_lie_inside_the_image(height, width, low, high, ratio, seed):
    scale = (min(low, high), max(low, high))
    top, left, h, w = crop_boxes(50, height, width, scale, (ratio, 1 / ratio), random(seed)).unbind(1)
    assert (h > 0).all()
    assert (w > 0).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


@pytest.mark.parametrize(('height', 'width'), [(10, 40), (40, 10), (7, 100), (101, 9)])
def test_the_central_fallback_is_torchvisions(height, width):
    scale, ratio = (1.0, 1.0), (3 / 4, 4 / 3)  # the whole area never has an allowed aspect ratio
    crop = v2.RandomResizedCrop(1, scale=scale, ratio=ratio)
    with torch.random.fork_rng():
        expected = list(crop.make_params([torch.empty(3, height, width)]).values())
    assert crop_boxes(5, height, width, scale, ratio, random()).tolist() == [expected] * 5


def test_boxes_of_another_seed_differ():
    draw = [crop_boxes(10, 32, 32, (0.2, 1.0), (3 / 4, 4 / 3), random(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


# Colour jitter

OPERATIONS = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


@pytest.mark.parametrize('number', range(4))
def test_each_operation_equals_torchvision(number):
    others_neutral = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    amounts = torch.linspace(-0.5, 0.5, 41) if number == 3 else torch.linspace(0, 2, 41)
    factors = others_neutral.repeat(len(amounts), 1)
    factors[:, number] = amounts
    images = random_images(len(amounts), 12)
    images[:, :, 0] = torch.tensor([0.0, 0.5, 1.0]).repeat(4)[:12]  # gray pixels
    images[:, 0, 1], images[:, 1:, 1] = 1.0, 0.0  # pure red
    images[:, :2, 2], images[:, 2, 2] = 1.0, 0.3  # equal maxima
    result = color_jitter(images, factors, torch.arange(4).repeat(len(amounts), 1))
    expected = [OPERATIONS[number](x, float(a)) for x, a in zip(images, amounts, strict=True)]
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-5, rtol=0)


def test_every_order_equals_torchvision_image_by_image():
    order = torch.tensor(list(itertools.permutations(range(4))))
    images = random_images(len(order), 16)
    factors, _ = jitter_draws(len(order), 0.4, random(1))
    before = images.clone()
    result = color_jitter(images, factors, order)
    assert torch.equal(images, before)
    for image, ours, factor, places in zip(images, result, factors.tolist(), order.tolist(), strict=True):
        for number in places:
            image = OPERATIONS[number](image, factor[number])
        torch.testing.assert_close(ours, image, atol=2e-5, rtol=0)


@pytest.mark.parametrize('strength', [0.0, 0.4, 0.8, 1.0])
def test_jitter_draws_are_uniform(strength):
    factors, order = jitter_draws(24000, strength, random())
    hue = min(strength, 0.5)
    for number, (middle, half) in enumerate([(1, strength)] * 3 + [(0, hue)]):
        values = factors[:, number].numpy()
        if half == 0:
            assert (values == middle).all()
        else:
            assert stats.kstest(values, stats.uniform(middle - half, 2 * half).cdf).pvalue > ALPHA
    if strength:
        # Correlations of 24,000 independent pairs exceed 6 standard deviations with probability 2e-9.
        assert np.abs(np.corrcoef(factors.numpy().T) - np.eye(4)).max() < 6 / math.sqrt(24000)
    codes = order @ torch.tensor([64, 16, 4, 1])
    assert len(codes.unique()) == math.factorial(4)
    assert stats.chisquare(codes.unique(return_counts=True)[1].numpy()).pvalue > ALPHA


def test_negative_factors_do_not_occur():
    factors, _ = jitter_draws(1000, 1.5, random())
    assert factors[:, :3].min() == 0


def test_photometric_jitters_by_the_strength():
    images = torch.full((5000, 3, 2, 2), 0.5)  # only the brightness can change a constant gray
    result = photometric(images, replace(NOTHING, jitter_prob=1.0, jitter=0.3), random())[:, 0, 0, 0].numpy()
    assert stats.kstest(result, stats.uniform(0.35, 0.3).cdf).pvalue > ALPHA


# Blur


def replicated(image, margin):
    return TF.pad(image, [margin] * 4, padding_mode='edge')


def test_blur_equals_torchvision_on_images_with_continued_edges():
    sigma = torch.tensor([0.1, 0.3, 0.5, 1.0, 1.5, 2.0])
    images = random_images(len(sigma), 20)
    result = gaussian_blur(images, sigma)
    for image, ours, s in zip(images, result, sigma.tolist(), strict=True):
        expected = TF.gaussian_blur(replicated(image, 24), [23, 23], [s, s])[:, 24:-24, 24:-24]
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_blur_of_images_smaller_than_the_kernel():
    images = random_images(2, 3)
    expected = TF.gaussian_blur(replicated(images, 24), [23, 23], [2.0, 2.0])[:, :, 24:-24, 24:-24]
    torch.testing.assert_close(gaussian_blur(images, torch.tensor([2.0, 2.0])), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize('sigma', [0.5, 1.0, 2.0])
def test_blur_is_close_to_pillows(sigma):
    noise = (random_images(1, 48)[0] * 255).round().to(torch.uint8)
    pil = TF.pil_to_tensor(TF.to_pil_image(noise).filter(ImageFilter.GaussianBlur(sigma)))
    difference = (gaussian_blur(noise[None] / 255, torch.tensor([sigma]))[0] * 255 - pil).abs()
    # White noise is the worst case: its standard deviation is 74, the one of the difference stays below 2 of 255.
    assert difference.square().mean().sqrt() < 2


def test_no_blur_at_sigma_zero():
    images = random_images(2, 8)
    torch.testing.assert_close(gaussian_blur(images, torch.zeros(2)), images)


# All together


def test_grayscale_equals_torchvision():
    images = random_images(3, 8)
    result = photometric(images, replace(NOTHING, grayscale_prob=1.0), random())
    torch.testing.assert_close(result, TF.rgb_to_grayscale(images, 3))


def test_flip_is_horizontal():
    images = random_images(3, 8)
    assert torch.equal(photometric(images, replace(NOTHING, flip_prob=1.0), random()), TF.horizontal_flip(images))


def test_sigma_is_drawn_per_image_and_uniformly():
    images = torch.zeros(2000, 3, 31, 31)
    images[:, :, 15, 15] = 1
    result = photometric(images, replace(NOTHING, blur_prob=1.0, blur_sigma=(0.5, 2.0)), random())
    offset = torch.arange(31) - 15.0
    sigma = (result[:, 0].sum(1) * offset**2).sum(1).sqrt()  # second moment of the blurred point
    # At small sigma a sampled Gaussian's moment differs from that of the continuous one; 0.5 gives 0.484.
    assert stats.kstest(sigma.numpy(), stats.uniform(0.5, 1.5).cdf).statistic < 0.05


@pytest.mark.parametrize('prob', [0.2, 0.5, 0.8])
@pytest.mark.parametrize('step', ['jitter_prob', 'grayscale_prob', 'blur_prob', 'flip_prob'])
def test_steps_happen_with_their_probability_independently_of_each_other(step, prob):
    num = 20000
    images = random_images(1, 4).repeat(num, 1, 1, 1)
    views = replace(NOTHING, **{step: prob}, blur_sigma=(1.0, 2.0))
    result = photometric(images, views, random())
    changed = (result != images).flatten(1).any(1).numpy()
    assert stats.binomtest(int(changed.sum()), num, prob).pvalue > ALPHA
    # Neighbouring images are independent.
    both = int((changed[:-1:2] & changed[1::2]).sum())
    assert stats.binomtest(both, num // 2, prob**2).pvalue > ALPHA


def test_steps_are_independent():
    num = 20000
    images = torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]], [[0.0, 0.0]]]).repeat(num, 1, 1, 1)
    images = images.expand(num, 3, 2, 2)
    result = photometric(images, replace(NOTHING, grayscale_prob=0.5, flip_prob=0.5), random())
    gray = (result[:, 0] == result[:, 1]).flatten(1).all(1)
    flipped = result[:, 1, 0, 0] > 0
    assert stats.binomtest(int((gray & flipped).sum()), num, 0.25).pvalue > ALPHA


def test_views_belong_to_the_generator():
    images = random_images(64, 8)
    before = images.clone()
    results = [photometric(images, ViewConfig(), random(seed)) for seed in (0, 0, 1)]
    assert torch.equal(images, before)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert results[0].min() >= 0
    assert results[0].max() <= 1
    assert results[0].is_contiguous()


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    photometric(random_images(8, 8), ViewConfig(), random())
    crop_boxes(8, 32, 32, (0.2, 1.0), (3 / 4, 4 / 3), random())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_steps_of_probability_zero_draw_nothing():
    generator = random()
    state = generator.get_state()
    images = random_images(4, 8)
    assert torch.equal(photometric(images, NOTHING, generator), images)
    assert torch.equal(generator.get_state(), state)


def test_no_image_is_chosen():
    images = random_images(1, 8)
    tiny = ViewConfig(jitter_prob=1e-9, grayscale_prob=1e-9, blur_prob=1e-9, flip_prob=1e-9)
    assert torch.equal(photometric(images, tiny, random()), images)


def test_normalize():
    images = random_images(2, 4)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    torch.testing.assert_close(normalize(images, mean, std), TF.normalize(images, mean, std))
    torch.testing.assert_close(normalize(images[None], mean, std)[0], TF.normalize(images, mean, std))
