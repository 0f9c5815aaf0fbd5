"""Data sources on generated images: folders, tars, workers, splits and what is said when something is wrong."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from pinas_search.config import DataConfig, ViewConfig
from pinas_search.data import (
    Batch,
    InMemoryImages,
    Part,
    StreamedImages,
    epoch_batches,
    load_splits,
    photometric,
    sequential_batches,
)
from pinas_search.data.images import open_files
from pinas_search.randomness import generator

CPU = torch.device('cpu')
CLASSES = ('airplane', 'bird', 'cat')
VIEWS = ViewConfig()


def picture(seed, height=32, width=32):
    """A smooth random colour image, so that JPEG changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_tree(root, per_class=6, size=(32, 32), suffix='.png', classes=CLASSES, seed=0):
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            picture(1000 * seed + 100 * number + i, *size).save(root / name / f'{i:02}{suffix}')
    return root


def make_tar(folder, path):
    with tarfile.open(path, 'w') as tar:
        for file in sorted(folder.rglob('*.*')):
            tar.add(file, file.relative_to(folder).as_posix())
    return path


def folder_config(root, **changes):
    settings = {'source': 'folder', 'root': str(root), 'held_out_per_class': 2, 'test_split': ''}
    return DataConfig(**{**settings, **changes})


def load(root, seed=0, **changes):
    return load_splits(folder_config(root, **changes), seed=seed, device=CPU)


def crops(source, batches, num_views=2, seed=0, purpose='test', first_step=0):
    arguments = {'num_views': num_views, 'views': VIEWS, 'seed': seed, 'purpose': purpose, 'first_step': first_step}
    return list(source.random_crops(batches, **arguments))


def assert_equal_batches(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A folder like CIFAR-10's: train and test, JPEG."""
    root = tmp_path_factory.mktemp('data') / 'tree'
    make_tree(root / 'train', per_class=8, suffix='.jpg')
    make_tree(root / 'test', per_class=3, suffix='.jpg', seed=1)
    return root


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    """Images of several sizes, all larger than 32 pixels."""
    root = tmp_path_factory.mktemp('large')
    for number, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i, size in enumerate([(40, 60), (75, 50), (64, 64), (37, 90)]):
            picture(100 * number + i, *size).save(root / name / f'{i}.png')
    return root


# Batches


def test_epoch_batches_are_a_permutation_of_their_own():
    batches = epoch_batches(23, 5, seed=1, purpose='a', epoch=0, drop_last=False)
    assert [len(b) for b in batches] == [5, 5, 5, 5, 3]
    assert torch.cat(batches).sort().values.tolist() == list(range(23))
    dropped = epoch_batches(23, 5, seed=1, purpose='a', epoch=0)
    assert [len(b) for b in dropped] == [5, 5, 5, 5]
    assert torch.equal(torch.cat(dropped), torch.cat(batches)[:20])
    for change in ({'seed': 2}, {'purpose': 'b'}, {'epoch': 1}):
        other = epoch_batches(23, 5, **{'seed': 1, 'purpose': 'a', 'epoch': 0, **change})
        assert not torch.equal(torch.cat(other), torch.cat(dropped))


def test_fewer_images_than_a_batch():
    with pytest.raises(ValueError, match='7 images are fewer than a batch of 8: lower batch_size'):
        epoch_batches(7, 8, seed=0, purpose='a', epoch=0)
    assert len(epoch_batches(7, 8, seed=0, purpose='a', epoch=0, drop_last=False)) == 1


def test_sequential_batches():
    assert [b.tolist() for b in sequential_batches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert [b.tolist() for b in sequential_batches(5, 2, limit=3)] == [[0, 1], [2]]
    assert [b.tolist() for b in sequential_batches(5, 9, limit=9)] == [[0, 1, 2, 3, 4]]
    assert sequential_batches(0, 2) == []


# Digits


def test_digits():
    splits = load_splits(DataConfig(), seed=0, device=CPU)
    assert splits.class_names == tuple('0123456789')
    assert len(splits.full_train) + len(splits.test) == 1797
    assert len(splits.test) / 1797 == pytest.approx(0.2, abs=0.01)
    assert torch.bincount(splits.held_out.labels).tolist() == [50] * 10
    (batch,) = splits.test.center_crops(sequential_batches(len(splits.test), 1000))
    assert isinstance(batch, Batch)
    assert batch.images.shape == (len(splits.test), 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert batch.images.min() == 0
    assert batch.images.max() == 1
    assert batch.labels.dtype == torch.int64
    means = torch.stack([batch.images[batch.labels == label].mean(0) for label in range(10)])
    nearest = torch.cdist(batch.images.flatten(1), means.flatten(1)).argmin(1)
    assert (nearest == batch.labels).float().mean() > 0.8  # images and labels belong together


def test_test_digits_do_not_depend_on_the_seed_but_held_out_ones_do():
    a, b = (load_splits(DataConfig(image_size=8), seed=seed, device=CPU) for seed in (0, 1))
    every = sequential_batches(len(a.test), 1000)
    assert_equal_batches(list(a.test.center_crops(every)), list(b.test.center_crops(every)))
    every = sequential_batches(500, 500)
    assert not torch.equal(next(a.held_out.center_crops(every)).images, next(b.held_out.center_crops(every)).images)


def test_digits_without_test():
    assert load_splits(DataConfig(test_split=''), seed=0, device=CPU).test is None


# Splits


def as_rows(source):
    """The centre crops of all images, hashable."""
    batches = sequential_batches(len(source), 5)
    return [image.numpy().tobytes() for batch in source.center_crops(batches) for image in batch.images]


@pytest.mark.parametrize('in_memory', ['yes', 'no'])
def test_held_out_images_are_disjoint_and_the_same_for_each_class(tree, in_memory):
    splits = load(tree, test_split='test', in_memory=in_memory, workers=0, held_out_per_class=3)
    assert isinstance(splits.train, InMemoryImages if in_memory == 'yes' else StreamedImages)
    assert splits.class_names == CLASSES
    assert torch.bincount(splits.held_out.labels).tolist() == [3] * 3
    assert torch.bincount(splits.train.labels).tolist() == [5] * 3
    assert torch.bincount(splits.test.labels).tolist() == [3] * 3
    train, held_out, everything = as_rows(splits.train), as_rows(splits.held_out), as_rows(splits.full_train)
    assert len(set(everything)) == 24
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(everything)
    assert not set(as_rows(splits.test)) & set(everything)


def test_the_split_depends_on_the_seed_but_not_on_where_the_images_are(tree):
    rows = {
        (seed, in_memory): as_rows(load(tree, seed, in_memory=in_memory, workers=0, train_split='train').held_out)
        for seed in (0, 1)
        for in_memory in ('yes', 'no')
    }
    assert rows[0, 'yes'] == rows[0, 'no']
    assert rows[0, 'yes'] != rows[1, 'yes']


def test_nothing_held_out(tree):
    splits = load(tree, held_out_per_class=0)
    assert len(splits.held_out) == 0
    assert len(splits.train) == len(splits.full_train) == 24
    assert list(splits.held_out.center_crops(sequential_batches(0, 5))) == []


def test_splits_share_the_storage(tree):
    splits = load(tree)
    assert splits.train.images.data_ptr() == splits.full_train.images.data_ptr() == splits.held_out.images.data_ptr()


def test_subset_of_a_subset(tree):
    for in_memory in ('yes', 'no'):
        source = load(tree, in_memory=in_memory, workers=0).full_train
        rows = as_rows(source)
        part = source.subset([5, 9, 20]).subset(torch.tensor([2, 0]))
        assert as_rows(part) == [rows[20], rows[5]]
        assert part.labels.tolist() == [source.labels[20], source.labels[5]]


@pytest.mark.parametrize('in_memory', ['yes', 'no'])
def test_the_parts_of_a_batch_are_the_batch(tree, in_memory):
    source = load(tree, in_memory=in_memory, workers=0).full_train
    views = ViewConfig(grayscale_prob=0.4)
    batches = epoch_batches(len(source), 12, seed=0, purpose='order', epoch=0)

    def augmented(part):
        drawn = source.random_crops(batches, num_views=3, views=views, seed=0, purpose='test', first_step=5, part=part)
        for number, (images, labels) in enumerate(drawn):
            numbers = generator(0, 'colours', number)
            changed = photometric(images.flatten(0, 1), views, numbers, part=part, num_views=3)
            yield changed.unflatten(0, (3, -1)), labels

    parts = [list(augmented(Part(index, 3))) for index in range(3)]
    for number, (images, labels) in enumerate(augmented(Part())):
        assert images.shape[:2] == (3, 12)
        torch.testing.assert_close(torch.cat([part[number][0] for part in parts], 1), images, rtol=0, atol=1e-6)
        assert torch.equal(torch.cat([part[number][1] for part in parts]), labels)
    with pytest.raises(ValueError, match='a batch of 12 images cannot be shared by 5 ranks'):
        list(augmented(Part(0, 5)))


def test_in_memory_is_chosen_by_size(tree, tmp_path):
    assert isinstance(load(tree, in_memory='auto').train, InMemoryImages)
    make_tree(tmp_path / 'a', per_class=1, classes=('x', 'y'))
    huge = load(tmp_path / 'a', image_size=20000, held_out_per_class=0)  # 3 x 20000 x 20000 x 2 bytes
    assert isinstance(huge.train, StreamedImages)


# Folders and tars


def test_folder_without_splits(tmp_path):
    make_tree(tmp_path / 'data')
    splits = load(tmp_path / 'data')
    assert splits.test is None
    assert splits.class_names == CLASSES
    assert len(splits.full_train) == 18


def test_synonyms_of_splits_are_timms(tmp_path):
    make_tree(tmp_path / 'training')
    make_tree(tmp_path / 'val', seed=1)
    assert len(load(tmp_path, train_split='train', test_split='validation').test) == 18


@pytest.mark.parametrize('workers', [0, 2])
def test_a_tar_gives_the_images_of_its_folder(tree, tmp_path, workers):
    tar = make_tar(tree / 'train', tmp_path / 'images.tar')
    from_folder, from_tar = load(tree), load(tar, in_memory='no', workers=workers)
    assert from_tar.class_names == CLASSES
    assert torch.equal(from_tar.train.labels, from_folder.train.labels)
    assert as_rows(from_tar.train) == as_rows(from_folder.train)
    assert as_rows(load(tar, in_memory='yes').train) == as_rows(from_folder.train)


def test_tars_as_splits(tree, tmp_path):
    for split in ('train', 'test'):
        make_tar(tree / split, tmp_path / f'{split}.tar')
    splits = load(tmp_path, train_split='train.tar', test_split='test.tar')
    assert as_rows(splits.test) == as_rows(load(tree, test_split='test').test)


def test_a_tar_of_tars(tree, tmp_path):
    """As ImageNet is distributed: one tar per class, within one."""
    (tmp_path / 'parts').mkdir()
    for name in CLASSES:
        make_tar(tree / 'train' / name, tmp_path / 'parts' / f'{name}.tar')
    tar = make_tar(tmp_path / 'parts', tmp_path / 'all.tar')
    splits = load(tar, in_memory='no', workers=0)
    assert splits.class_names == CLASSES
    ours, theirs = (zip(as_rows(x), x.labels.tolist(), strict=True) for x in (splits.full_train, load(tree).full_train))
    assert sorted(ours) == sorted(theirs)  # timm sorts by the names within the inner tars


@pytest.fixture
def mnist(tmp_path):
    """Files as MNIST's: 60 images for training, 30 for testing."""
    folder = tmp_path / 'MNIST' / 'raw'
    folder.mkdir(parents=True)
    for name, num in [('train', 60), ('t10k', 30)]:
        images = np.random.default_rng(num).integers(0, 256, (num, 28, 28), dtype=np.uint8)
        labels = np.arange(num, dtype=np.uint8) % 10
        for kind, array in [('images-idx3', images), ('labels-idx1', labels)]:
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, '>i4').tobytes()
            (folder / f'{name}-{kind}-ubyte').write_bytes(header + array.tobytes())
    return tmp_path


@pytest.mark.parametrize('in_memory', ['yes', 'no'])
def test_a_torchvision_data_set(mnist, in_memory):
    settings = {'root': str(mnist), 'image_size': 28, 'held_out_per_class': 2, 'in_memory': in_memory, 'workers': 1}
    splits = load_splits(DataConfig('torch/mnist', **settings), seed=0, device=CPU)
    assert [len(x) for x in (splits.train, splits.held_out, splits.test)] == [40, 20, 30]
    assert splits.class_names[3] == '3 - three'
    (batch,) = splits.test.center_crops(sequential_batches(30, 30))
    expected = np.random.default_rng(30).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    assert torch.equal((batch.images * 255).round(), torch.from_numpy(expected)[:, None].expand(-1, 3, -1, -1).float())
    assert batch.labels.tolist() == [i % 10 for i in range(30)]


def test_torchvision_takes_any_other_split_for_the_test_set(mnist):
    with pytest.raises(ValueError, match=r'data.train_split=trian is the test set of torch/mnist'):
        load_splits(DataConfig('torch/mnist', str(mnist), train_split='trian'), seed=0, device=CPU)
    with pytest.raises(ValueError, match=r'data.test_split=train is the training set of torch/mnist'):
        load_splits(DataConfig('torch/mnist', str(mnist), test_split='train', held_out_per_class=1), seed=0, device=CPU)


def test_a_torchvision_image_folder(tree):
    config = folder_config(tree, source='torch/image_folder', test_split='test')
    splits = load_splits(config, seed=0, device=CPU)
    assert splits.class_names == CLASSES
    assert as_rows(splits.test) == as_rows(load(tree, test_split='test').test)


# Crops


@pytest.mark.parametrize('in_memory', ['yes', 'no'])
def test_shapes_and_types(large, in_memory):
    source = load(large, in_memory=in_memory, workers=0).full_train
    (batch,) = crops(source, [torch.tensor([0, 5, 11])], num_views=4)
    assert batch.images.shape == (4, 3, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert batch.labels.tolist() == [0, 1, 2]
    assert not torch.equal(batch.images[0], batch.images[1])
    (batch,) = source.center_crops([torch.tensor([11, 5])])
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.labels.tolist() == [2, 1]


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    """Images of several sizes, the first one of 32 pixels."""
    root = tmp_path_factory.mktemp('mixed')
    for number, name in enumerate(CLASSES):
        (root / name).mkdir()
        for i, size in enumerate([(32, 32), (75, 50), (16, 16), (37, 90)]):
            picture(100 * number + i, *size).save(root / name / f'{i}.png')
    return root


@pytest.mark.parametrize('data', ['tree', 'large', 'mixed'])
def test_center_crops_in_memory_and_streamed_are_equal(data, request):
    root = request.getfixturevalue(data)
    batches = [torch.tensor([3, 0, 11]), torch.tensor([7])]
    sources = [load(root, in_memory=in_memory, workers=0).full_train for in_memory in ('yes', 'no')]
    assert_equal_batches(*(list(source.center_crops(batches)) for source in sources))


@pytest.mark.parametrize('size', [32, 224])
def test_center_crops_are_torchvisions(large, size):
    source = load(large, in_memory='no', workers=0, image_size=size).full_train
    files = open_files('folder', str(large), '', test=False)
    side = {32: 37, 224: 256}[size]
    # At 224 pixels the second step changes nothing: the authors' Resize(256) and CenterCrop(224).
    steps = [v2.Resize(side), *([v2.CenterCrop(side)] if size == 32 else []), v2.CenterCrop(size)]
    (batch,) = source.center_crops(sequential_batches(12, 12))
    expected = torch.stack([TF.pil_to_tensor(v2.Compose(steps)(files.load(i))) for i in range(12)])
    assert torch.equal(batch.images, expected / 255)


def test_images_of_the_wanted_size_are_not_touched(tree):
    files = open_files('folder', str(tree / 'train'), '', test=False)
    expected = torch.stack([TF.pil_to_tensor(files.load(i)) for i in range(24)]) / 255
    for in_memory in ('yes', 'no'):
        (batch,) = load(tree, in_memory=in_memory, workers=0).full_train.center_crops(sequential_batches(24, 24))
        assert torch.equal(batch.images, expected)


def test_random_crops_are_the_same_boxes_in_memory_and_streamed(tree):
    batches = epoch_batches(24, 8, seed=0, purpose='order', epoch=0)
    sources = [load(tree, in_memory=in_memory, workers=0).full_train for in_memory in ('yes', 'no')]
    for ours, theirs in zip(*(crops(source, batches) for source in sources), strict=True):
        assert (ours.images - theirs.images).abs().max() * 255 <= 1.01  # Pillow rounds to 8 bits


@pytest.mark.parametrize('in_memory', ['yes', 'no'])
def test_a_batch_depends_on_its_step_only(large, in_memory):
    source = load(large, in_memory=in_memory, workers=0).full_train
    batches = epoch_batches(12, 3, seed=0, purpose='order', epoch=0)
    everything = crops(source, batches)
    assert_equal_batches(crops(source, batches[2:], first_step=2), everything[2:])
    assert_equal_batches(crops(source, batches), everything)
    for change in ({'seed': 1}, {'purpose': 'other'}, {'first_step': 1}):
        assert not torch.equal(crops(source, batches, **change)[0].images, everything[0].images)
    same_images = crops(source, [batches[0]] * 2)
    assert not torch.equal(same_images[0].images, same_images[1].images)


def test_workers_do_not_change_the_crops(large):
    sources = [load(large, in_memory='no', workers=workers).full_train for workers in (0, 1, 2)]
    batches = epoch_batches(12, 2, seed=0, purpose='order', epoch=0)
    expected = crops(sources[0], batches)
    for source in sources[1:]:
        assert_equal_batches(crops(source, batches), expected)
        assert_equal_batches(crops(source, batches[1:], first_step=1), expected[1:])  # the same workers again
        assert_equal_batches(list(source.center_crops(batches)), list(sources[0].center_crops(batches)))


def test_interrupted_and_nested_iterations(large):
    source = load(large, in_memory='no', workers=1).full_train
    batches = epoch_batches(12, 2, seed=0, purpose='order', epoch=0)
    expected, centers = crops(source, batches), list(source.center_crops(batches))
    interrupted = source.center_crops(batches)
    next(interrupted)
    interrupted.close()
    arguments = {'num_views': 2, 'views': VIEWS, 'seed': 0, 'purpose': 'test'}
    seen = []
    for batch in source.random_crops(batches, **arguments):
        seen.append(batch)
        if len(seen) == 2:
            assert_equal_batches(list(source.center_crops(batches)), centers)
    assert_equal_batches(seen, expected)


def test_a_streamed_source_can_be_pickled(large):
    source = load(large, in_memory='no', workers=1).full_train
    batches = sequential_batches(12, 4)
    expected = list(source.center_crops(batches))  # its workers run now
    assert_equal_batches(list(pickle.loads(pickle.dumps(source)).center_crops(batches)), expected)


def test_global_generators_are_left_alone(large):
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    for in_memory in ('yes', 'no'):
        source = load(large, in_memory=in_memory, workers=1).train
        crops(source, epoch_batches(6, 2, seed=0, purpose='order', epoch=0))
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002


# Kinds of images


def color_of(image, tmp_path, suffix='.png'):
    """The one colour of an image after it went through a file."""
    for name in ('a', 'b'):
        (tmp_path / name).mkdir(exist_ok=True)
        image.save(tmp_path / name / f'1{suffix}')
    source = load(tmp_path, held_out_per_class=0).train
    (batch,) = source.center_crops([torch.tensor([0])])
    return (batch.images[0].mean((1, 2)) * 255).round().int().tolist()


@pytest.mark.parametrize(
    ('mode', 'color', 'expected'),
    [
        ('L', 100, [100] * 3),
        ('LA', (100, 50), [100] * 3),
        ('1', 1, [255] * 3),
        ('RGBA', (10, 20, 30, 40), [10, 20, 30]),
        ('I;16', 100 * 256 + 7, [100] * 3),
    ],
)
def test_other_kinds_of_png_become_rgb(mode, color, expected, tmp_path):
    assert color_of(Image.new(mode, (32, 32), color), tmp_path) == expected


def test_palettes_become_rgb(tmp_path):
    image = Image.new('RGB', (32, 32), (10, 200, 30)).quantize(4)
    assert color_of(image, tmp_path) == [10, 200, 30]


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    color = color_of(Image.new('CMYK', (32, 32), (0, 0, 0, 155)), tmp_path, '.jpg')
    assert color == pytest.approx([100] * 3, abs=2)


# What goes wrong


def corrupt(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_corrupt_image_in_memory(tmp_path, suffix):
    make_tree(tmp_path, suffix=suffix)
    corrupt(tmp_path / 'bird' / f'03{suffix}')
    with pytest.raises(
        ValueError, match=rf'^cannot read the image bird/03{suffix} of {tmp_path} .*: replace the file$'
    ):
        load(tmp_path)


@pytest.mark.parametrize('workers', [0, 1])
def test_corrupt_image_streamed(tmp_path, workers):
    make_tree(tmp_path)
    (tmp_path / 'bird' / '03.png').write_bytes(b'no image')
    source = load(tmp_path, in_memory='no', workers=workers).full_train
    batches = sequential_batches(18, 6)
    for iterate in (lambda: crops(source, batches), lambda: list(source.center_crops(batches))):
        with pytest.raises(ValueError, match=r'^cannot read the image bird/03.png of .*: replace the file$'):
            iterate()
    assert len(list(source.center_crops(batches[:1]))) == 1  # the other images still work


def test_corrupt_image_in_a_tar(tmp_path):
    make_tree(tmp_path / 'data')
    (tmp_path / 'data' / 'bird' / '03.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'cannot read the image bird/03.png of .*images.tar'):
        load(make_tar(tmp_path / 'data', tmp_path / 'images.tar'))


def test_truncated_tar(tmp_path):
    """timm would train on the images that are left."""
    tar = make_tar(make_tree(tmp_path / 'data'), tmp_path / 'images.tar')
    corrupt(tar)
    with pytest.raises(ValueError, match=r'images.tar is not a whole tar, its end is missing: copy it again'):
        load(tar)


def test_something_else_named_tar(tmp_path):
    (tmp_path / 'images.tar').write_bytes(b'x' * 5000 + bytes(2000))
    with pytest.raises(ValueError, match=r'cannot open .*images.tar'):
        load(tmp_path / 'images.tar')


def test_empty_tar(tmp_path):
    with tarfile.open(tmp_path / 'images.tar', 'w') as tar:
        tar.addfile(tarfile.TarInfo('cat/readme.txt'), io.BytesIO())
    with pytest.raises(ValueError, match=r'cannot open .*images.tar .*; it must hold class folders with images'):
        load(tmp_path / 'images.tar')


def test_compressed_tar(tmp_path):
    (tmp_path / 'images.tar.gz').write_bytes(b'')
    with pytest.raises(ValueError, match=r'neither a folder nor a .tar: unpack it'):
        load(tmp_path / 'images.tar.gz')


def test_missing_root(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'data.root=.*nowhere does not exist'):
        load(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r'needs data.root'):
        load_splits(DataConfig('folder'), seed=0, device=CPU)


def test_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match='must hold class folders with images'):
        load(tmp_path)


def test_empty_class_folder(tmp_path):
    make_tree(tmp_path)
    (tmp_path / 'dog').mkdir()
    (tmp_path / 'dog' / 'notes.txt').touch()
    (tmp_path / '.cache').mkdir()
    with pytest.raises(ValueError, match=r'class folder .*dog has no images .*: fill or remove it'):
        load(tmp_path)
    (tmp_path / 'dog' / 'notes.txt').unlink()
    (tmp_path / 'dog').rmdir()
    load(tmp_path)


def test_images_outside_of_class_folders(tmp_path):
    make_tree(tmp_path)
    picture(0).save(tmp_path / 'stray.png')
    with pytest.raises(ValueError, match=r'has the image stray.png outside of class folders'):
        load(tmp_path)
    with pytest.raises(ValueError, match=r'has the image stray.png outside of class folders'):
        load(make_tar(tmp_path, tmp_path / 'images.tar'))


def test_missing_test_split(tmp_path):
    """timm would take all images for testing, those of training included."""
    make_tree(tmp_path / 'train')
    with pytest.raises(ValueError, match=r"has no test split 'test' \(it has train\): correct data.test_split"):
        load(tmp_path, test_split='test')
    tar = make_tar(tmp_path / 'train', tmp_path / 'images.tar')
    with pytest.raises(ValueError, match=r'single tar, without a test split .*data\.test_split='):
        load(tar, test_split='test')


def test_misspelt_train_split(tree):
    with pytest.raises(ValueError, match=r'two folders of the class airplane, .*test/airplane and .*train/airplane'):
        load(tree, train_split='trian', test_split='test')


def test_a_tar_with_splits(tree, tmp_path):
    with pytest.raises(ValueError, match='two folders of the class airplane, test/airplane and train/airplane'):
        load(make_tar(tree, tmp_path / 'images.tar'))


@pytest.mark.parametrize('test_split', ['train', 'training'])
def test_same_split_twice(tree, test_split):
    with pytest.raises(ValueError, match='lead to the same images'):
        load(tree, test_split=test_split)


def test_torchvision_image_folder_without_the_test_split(tmp_path):
    make_tree(tmp_path)
    with pytest.raises(ValueError, match='lead to the same images'):
        load(tmp_path, source='torch/image_folder', test_split='test')


def test_class_too_small(tmp_path):
    make_tree(tmp_path)
    (tmp_path / 'cat' / '05.png').unlink()
    with pytest.raises(ValueError, match=r'the class cat has 5 training images, too few .*=5 .*to 4 or less'):
        load(tmp_path, held_out_per_class=5)
    assert torch.bincount(load(tmp_path, held_out_per_class=4).train.labels).tolist() == [2, 2, 1]


def test_digits_too_few():
    with pytest.raises(ValueError, match=r'has 1[0-9][0-9] training images, too few'):
        load_splits(DataConfig(held_out_per_class=170), seed=0, device=CPU)


def test_different_classes(tmp_path):
    make_tree(tmp_path / 'train')
    make_tree(tmp_path / 'test', classes=('airplane', 'bird', 'dog'))
    with pytest.raises(ValueError, match=r'1 for training only \(cat\), 1 for testing only \(dog\)'):
        load(tmp_path, test_split='test')


def test_image_size_too_small(tree):
    with pytest.raises(ValueError, match=r'data.image_size=7 is too small'):
        load(tree, image_size=7)


def test_unknown_sources(tmp_path):
    for source, message in [
        ('cifar10', 'data.source=cifar10 is unknown: .*torch/cifar10'),
        ('torch/cifra10', 'Unknown torchvision dataset cifra10'),
        ('torch/cifar10', 'must be there already'),
    ]:
        with pytest.raises(ValueError, match=f'^.*{message}.*$'):  # on one line
            load_splits(DataConfig(source, str(tmp_path)), seed=0, device=CPU)
