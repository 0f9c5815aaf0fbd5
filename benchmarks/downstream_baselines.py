"""What a network must beat on a test set: itself before training, and the best answer that does not see the image.

Constant answers: for segmentation the most frequent class of the training set everywhere; for detection one person, the
mean box of the training set with its mean mask, at the same place of every image.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hardware import description

import pinas_downstream  # noqa: F401  # before mmdet and mmseg
from pinas_downstream.config import load_config
from pinas_downstream.running import build_runner, prepare

from mmengine.config import Config  # isort: skip
from mmengine.dataset import BaseDataset  # isort: skip
from mmengine.model import BaseModel  # isort: skip
from mmengine.structures import InstanceData, PixelData  # isort: skip

GRID = 64  # the mean mask is averaged on a square grid over the image


class OneClass(BaseModel):
    """The same class at every pixel."""

    def __init__(self, label: int, data_preprocessor: dict | None = None) -> None:
        super().__init__()  # images are not looked at, so neither is the preprocessor that mmseg's base hands over
        self.label = label

    def forward(self, inputs: list, data_samples: list, mode: str = 'predict') -> list:
        """Predict for each image, at its original size."""
        for sample in data_samples:
            sample.pred_sem_seg = PixelData(data=torch.full((1, *sample.ori_shape), self.label))
        return data_samples


class OneInstance(BaseModel):
    """The same mask, stretched to the image."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, inputs: list, data_samples: list, mode: str = 'predict') -> list:
        """Predict for each image, at its original size."""
        for sample in data_samples:
            height, width = sample.ori_shape
            mask = torch.nn.functional.interpolate(self.mask[None, None], (height, width), mode='bilinear')[0] > 0.5
            ys, xs = mask[0].nonzero(as_tuple=True)
            box = torch.tensor([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], dtype=torch.float32)
            sample.pred_instances = InstanceData(
                bboxes=box, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long), masks=mask
            )
        return data_samples


def training_set(config: Config, pipeline: list) -> BaseDataset:
    """The training images without augmentation."""
    from mmengine.registry import DATASETS, init_default_scope

    init_default_scope(config.default_scope)
    return DATASETS.build({**config.train_dataloader.dataset, 'pipeline': pipeline})


def most_frequent_class(config: Config) -> int:
    """The class with most pixels in the training set."""
    counts = np.zeros(256, np.int64)
    for item in training_set(config, [dict(type='LoadAnnotations')]):
        counts += np.bincount(item['gt_seg_map'].ravel(), minlength=256)
    return int(counts[:255].argmax())  # 255 is ignored


def mean_instance(config: Config) -> torch.Tensor:
    """The mean mask of all instances, moved into the mean box of the training set; relative to the image."""
    boxes, shapes = [], []
    for item in training_set(
        config, [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
    ):
        height, width = item['img_shape']
        for box, mask in zip(item['gt_bboxes'].tensor.numpy(), item['gt_masks'].masks, strict=True):
            boxes.append(box / [width, height, width, height])
            x1, y1, x2, y2 = box.round().astype(int)
            shape = torch.from_numpy(mask[y1:y2, x1:x2].astype(np.float32))
            shapes.append(torch.nn.functional.adaptive_avg_pool2d(shape[None, None], 16)[0, 0])
    x1, y1, x2, y2 = (np.mean(boxes, axis=0) * GRID).round().astype(int)
    mask = torch.zeros(GRID, GRID)
    shape = torch.stack(shapes).mean(0)[None, None]
    mask[y1:y2, x1:x2] = torch.nn.functional.interpolate(shape, (int(y2 - y1), int(x2 - x1)), mode='bilinear')[0, 0]
    return mask


def main() -> None:
    """Print the metrics of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='deeplabv3_pinas-mini_camvid or mask-rcnn_pinas-mini_pennfudan, or a file')
    parser.add_argument('--data-root')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    print(description())
    with TemporaryDirectory() as folder:
        for kind in ('untrained', 'constant'):
            config = load_config(args.config, data_root=args.data_root)
            if kind == 'constant' and config.default_scope == 'mmseg':
                config.model = dict(type=OneClass, label=most_frequent_class(config))
            elif kind == 'constant':
                config.model = dict(type=OneInstance, mask=mean_instance(config))
            prepare(config, Path(folder), seed=args.seed)
            metrics = build_runner(config).test()
            print(kind, {name: round(float(value), 4) for name, value in metrics.items()})


if __name__ == '__main__':
    main()
