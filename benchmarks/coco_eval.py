"""COCO evaluation by faster-coco-eval against pycocotools, the same numbers first: alone, and as mmdet's metrics.

The objects are drawn from a seed: polygons on images of 640 x 480, found again by detections that are shifted and
resized, some of them twice, among false ones. Both run in turns, so that a busy machine slows both alike.
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCOeval_faster
from hardware import description
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import pinas_downstream  # noqa: F401 - before anything of mmdet

WIDTH, HEIGHT = 640, 480
CORNERS = 16
Object = dict[str, Any]  # image_id, category_id, segmentation (RLE), bbox (x, y, width, height), area; score


def polygon(centre: np.ndarray, extent: np.ndarray, radii: np.ndarray) -> Object:
    """Mask, box and area of a star around a centre, in pixels."""
    angles = np.arange(CORNERS) * 2 * np.pi / CORNERS
    points = centre + extent * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = points.clip(0, (WIDTH, HEIGHT))
    mask = rle.frPyObjects([points.flatten().tolist()], HEIGHT, WIDTH)[0]
    area, bbox = float(rle.area(mask)), rle.toBbox(mask).tolist()
    return dict(segmentation={**mask, 'counts': mask['counts'].decode()}, bbox=bbox, area=area)


def draw(images: int, objects: int, categories: int) -> tuple[dict[str, Any], list[Object]]:
    """Annotations in COCO's format, and one and a half detections per object.

    Args:
        images: Number of images.
        objects: Number of objects on each.
        categories: Number of categories.
    """
    random = np.random.default_rng(0)
    annotations: list[Object] = []
    detections: list[Object] = []
    for image in range(1, images + 1):
        for _ in range(objects):
            centre, radii = random.uniform((0, 0), (WIDTH, HEIGHT)), random.uniform(0.6, 1, CORNERS)
            extent = np.exp(random.uniform(np.log(8), np.log(160))) * random.uniform(
                0.6, 1.4, 2
            )  # COCO's small .. large
            of = dict(image_id=image, category_id=int(random.integers(1, categories + 1)))
            crowd = int(random.random() < 0.02)
            annotations.append(dict(id=len(annotations) + 1, iscrowd=crowd, **of, **polygon(centre, extent, radii)))
            for _ in range(random.choice([0, 1, 1, 1, 2])):
                shifted = centre + 0.15 * extent * random.standard_normal(2)
                found = polygon(shifted, extent * np.exp(0.15 * random.standard_normal(2)), radii)
                detections.append(dict(score=random.random() ** 0.5, **of, **found))
        for _ in range(objects // 2):
            centre, radii = random.uniform((0, 0), (WIDTH, HEIGHT)), random.uniform(0.6, 1, CORNERS)
            of = dict(image_id=image, category_id=int(random.integers(1, categories + 1)))
            found = polygon(centre, random.uniform(5, 100, 2), radii)
            detections.append(dict(score=random.random() ** 2, **of, **found))
    return (
        dict(
            images=[dict(id=i, width=WIDTH, height=HEIGHT, file_name=f'{i}.jpg') for i in range(1, images + 1)],
            categories=[dict(id=i, name=f'class {i}') for i in range(1, categories + 1)],
            annotations=annotations,
        ),
        [detection for detection in detections if detection['area'] > 0],
    )


def alone(evaluator: type, truth: COCO, found: COCO, kind: str) -> np.ndarray:
    """The twelve numbers of an evaluator with pycocotools' interface, for ``'bbox'`` or ``'segm'``."""
    evaluation = evaluator(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.asarray(evaluation.stats[:12])


def as_samples(truth: dict[str, Any], detections: list[Object]) -> list[Object]:
    """The detections as a detector of mmdet hands them to a metric: one entry per image."""
    by_image: dict[int, list[Object]] = {image['id']: [] for image in truth['images']}
    for detection in detections:
        by_image[detection['image_id']].append(detection)
    samples = []
    for image, found in by_image.items():
        corners = torch.tensor([d['bbox'] for d in found], dtype=torch.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        predicted = dict(
            bboxes=corners,
            scores=torch.tensor([d['score'] for d in found], dtype=torch.float64),
            labels=torch.tensor([d['category_id'] - 1 for d in found]),
            masks=[{**d['segmentation'], 'counts': d['segmentation']['counts'].encode()} for d in found],
        )
        samples.append(dict(img_id=image, ori_shape=(HEIGHT, WIDTH), pred_instances=predicted))
    return samples


def in_mmdet(kind: str, file: Path, names: tuple[str, ...], samples: list[Object]) -> dict[str, float]:
    """All numbers of a metric of mmdet, boxes and masks, from the annotation file on."""
    from mmdet.registry import METRICS

    metric = METRICS.build(dict(type=kind, ann_file=str(file), metric=['bbox', 'segm']))
    metric.dataset_meta = dict(classes=names)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def quiet(run: Callable[[], Any]) -> Any:
    """Run without the tables that the evaluators print."""
    with contextlib.redirect_stdout(io.StringIO()):
        return run()


def race(what: str, runs: dict[str, Callable[[], Any]], repeats: int) -> None:
    """Check that two runs return the same, then time them in turns and print the ratio of the first to the second.

    Raises:
        SystemExit: If the results differ.
    """
    slow, fast = runs
    results = {name: quiet(run) for name, run in runs.items()}
    if isinstance(results[slow], dict):
        equal = results[slow] == results[fast] and len(results[slow]) == 12
        shown = ', '.join(f'{name} {results[slow][name]}' for name in ('coco/bbox_mAP', 'coco/segm_mAP'))
    else:
        equal = np.abs(results[slow] - results[fast]).max() < 1e-12
        shown = f'AP {results[slow][0]:.4f}'
    if not equal:
        raise SystemExit(f'{what}: the results differ: {results}')
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        for name in [*runs] if number % 2 else [*runs][::-1]:
            start = time.perf_counter()
            quiet(runs[name])
            times[name].append(time.perf_counter() - start)
    ratios = sorted(a / b for a, b in zip(*times.values(), strict=True))
    cells = ', '.join(f'{name} {statistics.median(values):.2f} s' for name, values in times.items())
    print(f'{what}: the same 12 numbers ({shown}); {cells}; {slow} / {fast} {statistics.median(ratios):.2f}')


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/coco_eval.py --images 500 --objects 30 --repeats 3',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--images', type=int, default=500, help='images')
    parser.add_argument('--objects', type=int, default=30, help='objects per image')
    parser.add_argument('--categories', type=int, default=80, help='categories')
    parser.add_argument('--repeats', type=int, default=3, help='timed rounds')
    args = parser.parse_args()
    logging.disable(logging.INFO)  # of mmengine
    torch.set_num_threads(1)

    print(description())
    packages = ('pycocotools', 'faster-coco-eval', 'onedl-mmdetection')
    print(', '.join(f'{package} {version(package)}' for package in packages))
    truth, detections = draw(args.images, args.objects, args.categories)
    print(f'{len(truth["images"])} images, {len(truth["annotations"])} objects, {len(detections)} detections')
    names = tuple(category['name'] for category in truth['categories'])
    samples = as_samples(truth, detections)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / 'instances.json'
        file.write_text(json.dumps(truth))
        for kind in ('bbox', 'segm'):
            # With boxes, the area of a detection would be that of its box.
            listed = [{k: v for k, v in d.items() if kind == 'bbox' or k != 'bbox'} for d in detections]
            known = quiet(partial(COCO, str(file)))
            found = quiet(partial(known.loadRes, listed))
            evaluators = {'pycocotools': COCOeval, 'faster-coco-eval': COCOeval_faster}
            runs = {name: partial(alone, evaluator, known, found, kind) for name, evaluator in evaluators.items()}
            race(f'{kind} alone', runs, args.repeats)
        metrics = ('CocoMetric', 'FasterCocoMetric')
        race('mmdet', {kind: partial(in_mmdet, kind, file, names, samples) for kind in metrics}, args.repeats)


if __name__ == '__main__':
    main()
