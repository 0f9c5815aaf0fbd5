"""Annotations in COCO's format: what mmdet passes over in silence, or stops at without a word of the cause."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pinas_models.common.text import first_names

__all__ = ['check_coco']

_NEEDED = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


def check_coco(dataset: Any, place: str, training: bool) -> None:
    """Check an annotation file and the images that it lists.

    Args:
        dataset: A ``CocoDataset`` of mmdet that has not read its annotations.
        place: Its dotted name in the configuration.
        training: Its masks are learned.

    Raises:
        FileNotFoundError: If images are missing.
        ValueError: If the file is damaged, lacks a class, has the classes in another order, no image is left, or the
            masks are in a form that the pipeline does not read.
    """
    where = f'{place}: {dataset.ann_file}'
    content = _read(dataset.ann_file, where)
    ids = _check_classes(content['categories'], dataset.metainfo['classes'], where)
    _check_images(content['images'], dataset, where)
    annotations = [entry for entry in content['annotations'] if entry['category_id'] in ids]
    if training:
        _check_not_empty(content['images'], annotations, dataset, where)
        _check_masks(annotations, dataset, where)


def _read(path: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f'{where} is not JSON: {error}') from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _NEEDED):
        raise ValueError(f'{where} is not in the format of COCO: it needs lists {", ".join(_NEEDED)}')
    for name, keys in _NEEDED.items():
        for index, entry in enumerate(content[name]):
            lacking = [key for key in keys if key not in entry]
            if lacking:
                raise ValueError(f'{where}: {name}[{index}] has no {" and no ".join(lacking)}')
    return content


def _check_classes(categories: list[Mapping[str, Any]], classes: Any, where: str) -> set[Any]:
    """Compare the classes with the file's; returns the ids of those in use."""
    names = [category['name'] for category in categories]
    missing = [str(name) for name in classes if name not in names]
    if missing:
        raise ValueError(
            f'{where} has no class {first_names(missing)}; it has {", ".join(map(str, names[:20]))}: name the ones to '
            'learn, --classes A,B,C or metainfo=dict(classes=(...)) of every dataset'
        )
    # mmdet numbers classes in the order of the file, whatever the order here, and would show the names interchanged.
    ordered = [name for name in names if name in set(classes)]
    if ordered != list(classes):
        raise ValueError(
            f'{where} has the classes in another order, and mmdet numbers them by the file: write --classes '
            f'{",".join(map(str, ordered))} or metainfo=dict(classes={tuple(ordered)})'
        )
    return {category['id'] for category in categories if category['name'] in set(classes)}


def _check_images(images: list[Mapping[str, Any]], dataset: Any, where: str) -> None:
    if not images:
        raise ValueError(f'{where} lists no images')
    folder = Path(dataset.data_prefix.get('img', ''))
    if dataset.backend_args or '://' in str(dataset.data_prefix.get('img')):
        return
    present: dict[Path, set[str]] = {}
    missing = []
    for image in images:
        parent, name = os.path.split(folder / image['file_name'])
        if Path(parent) not in present:
            present[Path(parent)] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        if name not in present[Path(parent)]:
            missing.append(image['file_name'])
    if missing:
        raise FileNotFoundError(
            f'{where}: {len(missing)} of {len(images)} images are not in {folder}: {first_names(missing)}'
        )


def _check_not_empty(
    images: list[Mapping[str, Any]], annotations: list[Mapping[str, Any]], dataset: Any, where: str
) -> None:
    options = dataset.filter_cfg or {}
    labelled = {entry['image_id'] for entry in annotations}
    min_size = options.get('min_size', 0)
    left = [image for image in images if min(image['width'], image['height']) >= min_size]
    if options.get('filter_empty_gt', False):
        left = [image for image in left if image['id'] in labelled]
    if not left or not annotations:
        raise ValueError(
            f'{where}: nothing to learn from: {len(images)} images, {len(labelled)} of them with objects of the '
            f'classes, {len(left)} left after filter_cfg'
        )


def _check_masks(annotations: list[Mapping[str, Any]], dataset: Any, where: str) -> None:
    loading = next((step for step in dataset.pipeline.transforms if getattr(step, 'with_mask', False)), None)
    if loading is None:
        return
    single = [entry for entry in annotations if not entry.get('iscrowd')]
    bare = [str(entry['id']) for entry in single if not entry.get('segmentation')]
    if bare:
        raise ValueError(f'{where}: {len(bare)} objects have no mask (ids {first_names(bare)}), but with_mask=True')
    if not loading.poly2mask and any(isinstance(entry['segmentation'], dict) for entry in single):
        raise ValueError(
            f'{where}: has masks as run lengths, which LoadAnnotations(poly2mask=False) ignores, and the objects with '
            'them: leave poly2mask out'
        )
