"""Names of a model's classes."""

from __future__ import annotations

from typing import NamedTuple

from timm.data import CustomDatasetInfo, DatasetInfo, ImageNetInfo, infer_imagenet_subset
from torch import nn

__all__ = ['ClassNames', 'class_names']


class ClassNames(NamedTuple):
    """What the classes of a model are called, in their order.

    Attributes:
        labels: Short names as folders have them (``n01440764``, ``airplane``).
        descriptions: Names for people (``tench, Tinca tinca``).
    """

    labels: tuple[str, ...]
    descriptions: tuple[str, ...]


def class_names(model: nn.Module) -> ClassNames | None:
    """Find the names of the classes: those in the pretrained cfg, else ImageNet's for a model with as many classes.

    Args:
        model: A timm model.

    Returns:
        The names, or None if they are not known.
    """
    count = int(getattr(model, 'num_classes', 0) or 0)
    cfg = getattr(model, 'pretrained_cfg', None) or {}
    info: DatasetInfo | None = None
    if cfg.get('label_names'):
        info = CustomDatasetInfo(cfg['label_names'], cfg.get('label_descriptions'))
    elif subset := infer_imagenet_subset({'num_classes': count}):
        info = ImageNetInfo(subset)
    # The names in the cfg are those of its weights: with another number of classes the head was replaced.
    if info is None or sorted(info.label_indices()) != list(range(count)):
        return None
    return ClassNames(
        tuple(info.index_to_label_name(index) for index in range(count)),
        tuple(info.index_to_description(index) for index in range(count)),
    )
