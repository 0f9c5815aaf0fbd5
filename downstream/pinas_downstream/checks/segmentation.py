"""Images and label maps in folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pinas_models.common.text import first_names

__all__ = ['check_segmentation']

_MAPS = 10  # label maps that are looked into


def check_segmentation(dataset: Any, place: str) -> None:
    """Check that there are images, that each has a label map, and that the labels are those of the classes.

    Args:
        dataset: A ``BaseSegDataset`` of mmseg that has not listed its files.
        place: Its dotted name in the configuration.

    Raises:
        FileNotFoundError: If there are no images, or label maps are missing.
        ValueError: If a label map has a value that is no class.
    """
    if dataset.backend_args:
        return
    dataset.serialize_data = False  # of an empty list it would raise an error of NumPy
    dataset.full_init()
    entries = dataset.data_list
    folder = dataset.data_prefix.get('img_path')
    if not entries:
        suffixes = sorted({path.suffix for path in Path(folder).rglob('*') if path.suffix}) if folder else []
        raise FileNotFoundError(
            f'{place}: no image ends in {dataset.img_suffix} in {folder}'
            + (f'; there are {first_names(suffixes)}: set img_suffix' if suffixes else '')
        )
    for kind, key in (('images', 'img_path'), ('label maps', 'seg_map_path')):
        paths = [entry[key] for entry in entries if key in entry]
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise FileNotFoundError(
                f'{place}: {len(missing)} of {len(paths)} {kind} are missing: {first_names(missing)}'
            )
    maps = [entry for entry in entries if 'seg_map_path' in entry]
    for entry in maps[:: max(1, len(maps) // _MAPS)][:_MAPS]:
        _check_labels(entry, dataset, place)


def _check_labels(entry: Mapping[str, Any], dataset: Any, place: str) -> None:
    path = entry['seg_map_path']
    try:
        with Image.open(path) as image:
            labels = np.unique(np.asarray(image))
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise ValueError(f'{place}: {path} cannot be read as an image ({error})') from error
    classes = dataset.metainfo.get('classes')
    if entry['label_map'] or classes is None:  # a map: the labels are those of more classes, some of them left out
        return
    first = 1 if dataset.reduce_zero_label else 0
    allowed = {0, dataset.ignore_index, *range(first, first + len(classes))}
    wrong = [str(label) for label in labels.tolist() if label not in allowed]
    if wrong:
        raise ValueError(
            f'{place}: {path} has the labels {first_names(wrong)}; the {len(classes)} classes have {first}..'
            f'{first + len(classes) - 1}, and {dataset.ignore_index} is ignored'
        )
