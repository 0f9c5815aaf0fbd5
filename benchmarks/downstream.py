"""What the adapter for MMDetection and MMSegmentation costs, each part beside its peer in one run.

- ``backbone``: the backbone ``PiNAS`` as mmdet and mmseg build it, against the bare timm network.
- ``iteration``: a training iteration of ``mask-rcnn_resnest50_coco``, against the same with mmdet's own ResNeSt-50.
- ``operators``: NMS and RoIAlign of ``mmcv.ops`` on torchvision, against plain PyTorch.
- ``import``: ``import pinas_downstream``, and what it loads.

Equal results are checked before anything is timed. Peers run in turns, so that a busy machine slows both alike; a ratio
is the median over the rounds, of two runs of the same round.
"""

import argparse
import copy
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version

import timm
import torch
from hardware import description
from torch import nn

from pinas_downstream.config import load_config

# Before anything of mmdet or mmseg, which the parts import when they run.
from pinas_downstream.models.backbone import resolve_choices

Run = Callable[[], object]
OVERHEAD = 1.02  # asked: at most, backbone over the bare network
IMPORT_SECONDS = 0.5  # asked: less
HEAVY = ('torch', 'torchvision', 'timm', 'cv2', 'mmcv', 'mmdet', 'mmseg', 'pinas_models')
IMPORT = f"""
import sys, time
start = time.perf_counter()
import {{package}}
print(time.perf_counter() - start, *[name for name in {HEAVY} if name in sys.modules])
"""


def alternate(runs: Mapping[str, Run], repeats: int, prepare: Run | None = None) -> dict[str, list[float]]:
    """Time all runs in turns, after one untimed round.

    Args:
        runs: Name -> function.
        repeats: Timed rounds.
        prepare: Called before each run, untimed.

    Returns:
        Seconds of every round; each round begins with another one.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        first = number % len(runs)
        for name in [*runs][first:] + [*runs][:first]:
            if prepare is not None:
                prepare()
            start = time.perf_counter()
            runs[name]()
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def report(what: str, times: dict[str, list[float]], above: str, below: str) -> float:
    """Print the median times of two runs and their ratio, and return the ratio."""
    ratios = sorted(a / b for a, b in zip(times[above], times[below], strict=True))
    cells = ', '.join(f'{name} {statistics.median(times[name]) * 1000:.1f} ms' for name in (above, below))
    print(f'{what}: {cells}; {above} / {below} {statistics.median(ratios):.3f} ({ratios[0]:.3f} .. {ratios[-1]:.3f})')
    return statistics.median(ratios)


def verdict(met: bool, what: str) -> None:
    """Print whether a target is met."""
    print(f'{"met    " if met else "NOT MET"}  {what}')


def compare(what: str, actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    """Check that tensors are equal, in parts of the largest value of each.

    Raises:
        SystemExit: If they are not.
    """
    pairs = zip(actual, expected, strict=True)
    difference = max(((a - e).abs().max() / e.abs().max().clamp(min=1e-30)).item() for a, e in pairs)
    if not difference <= tolerance:
        raise SystemExit(f'{what}: differ by {difference:.1e} of the largest value, allowed is {tolerance}')
    print(f'{what}: equal, largest difference {difference:.1e} of the largest value')


def gradients(module: nn.Module) -> list[torch.Tensor]:
    """Gradients of all parameters, in the order of the state dict."""
    return [p.grad for p in module.parameters() if p.grad is not None]


def backbone(choices: str, repeats: int) -> None:
    """``PiNAS`` of mmdet at stride 32 and of mmseg at stride 8, against ``features_only`` of the same network."""
    import mmdet.registry
    import mmseg.registry

    architecture, path = resolve_choices(choices)
    for stride, registry in ((32, mmdet.registry.MODELS), (8, mmseg.registry.MODELS)):
        torch.manual_seed(0)
        ours = registry.build(dict(type='PiNAS', choices=path, output_stride=stride))
        theirs = timm.create_model(
            architecture, choices=path, features_only=True, out_indices=(1, 2, 3, 4), output_stride=stride
        )
        theirs.load_state_dict(ours.state_dict(), strict=True)
        compare_backbones(f'backbone {choices}, stride {stride}', ours, theirs, repeats)


def compare_backbones(where: str, ours: nn.Module, theirs: nn.Module, repeats: int) -> None:
    """Both ways through two networks of equal weights, and through a second copy of theirs, which shows the noise."""
    x = torch.randn(2, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    networks = {'PiNAS': ours, 'timm': theirs, 'timm, second copy': copy.deepcopy(theirs)}

    def forward(network: nn.Module) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(network(x))

    def backward(network: nn.Module) -> list[torch.Tensor]:
        features = list(network(x))
        torch.autograd.backward(features, slopes)
        return features

    def reset(training: bool) -> None:
        for network in networks.values():
            network.train(training).zero_grad()

    reset(False)
    expected = forward(theirs)
    slopes = [torch.randn(feature.shape, generator=torch.Generator().manual_seed(1)) for feature in expected]
    compare(f'{where}, features in eval mode', forward(ours), expected, 1e-6)
    reset(True)
    compare(f'{where}, features in training', backward(ours), backward(theirs), 1e-6)
    compare(f'{where}, gradients', gradients(ours), gradients(theirs), 1e-5)
    for what, step, training in (('forward', forward, False), ('forward and backward', backward, True)):
        runs = {name: partial(step, network) for name, network in networks.items()}
        times = alternate(runs, repeats, partial(reset, training))
        report(f'{where}, {what}, noise', times, 'timm, second copy', 'timm')
        ratio = report(f'{where}, {what}', times, 'PiNAS', 'timm')
        verdict(ratio <= OVERHEAD, f'{where}, {what}: {ratio:.3f} times the bare network, asked {OVERHEAD}')


def labelled_images() -> dict[str, list]:
    """Two images of 320 x 256 with five objects each, as mmdet's data loader hands them over."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    random = np.random.default_rng(0)
    height, width = 256, 320
    batch: dict[str, list] = dict(inputs=[], data_samples=[])
    for _ in range(2):
        corner = random.integers(0, (width - 100, height - 100), (5, 2))
        boxes = np.concatenate([corner, corner + random.integers(30, 100, (5, 2))], axis=1)
        masks = np.zeros((5, height, width), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = 1
        shape = (height, width)
        sample = DetDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape)
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.from_numpy(random.integers(0, 80, 5)),
            masks=BitmapMasks(masks, height, width),
        )
        batch['inputs'].append(torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8)))
        batch['data_samples'].append(sample)
    return batch


def iteration(repeats: int) -> None:
    """Mask R-CNN with the authors' settings and either ResNeSt-50."""
    from mmdet.registry import MODELS
    from mmengine.hub import get_config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.optim import build_optim_wrapper

    config = load_config('mask-rcnn_resnest50_coco')
    own = get_config('mmdet::resnest/mask-rcnn_s50_fpn_syncbn-backbone+head_ms-1x_coco.py').model.backbone
    own.update(frozen_stages=-1, init_cfg=None)  # ours trains everything
    config.model.backbone.init_cfg = None
    config.model.train_cfg.rcnn.sampler.num = 128  # not 512 RoIs per image: the heads would take most of the time
    models: dict[str, nn.Module] = {}
    for name, chosen in (('mmdet', own), ('PiNAS', config.model.backbone)):
        torch.manual_seed(0)
        models[name] = revert_sync_batchnorm(MODELS.build({**config.model, 'backbone': chosen})).train()
    theirs, ours = models['mmdet'].backbone, models['PiNAS'].backbone
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))  # the same order
    rest = {k: v for k, v in models['mmdet'].state_dict().items() if not k.startswith('backbone.')}
    models['PiNAS'].load_state_dict(rest, strict=False)

    x = torch.randn(2, 3, 256, 320, generator=torch.Generator().manual_seed(0))
    backbones = {name: copy.deepcopy(model.backbone) for name, model in models.items()}
    compare('Mask R-CNN, features', *(list(b(x)) for b in backbones.values()), 1e-5)

    def backward(name: str) -> None:
        torch.autograd.backward([feature.mean() for feature in backbones[name](x)])

    times = alternate({name: partial(backward, name) for name in backbones}, repeats)
    report('Mask R-CNN, forward and backward of the backbone alone', times, 'mmdet', 'PiNAS')

    # So small that a random network stays what it is.
    config.optim_wrapper.optimizer.lr = 1e-6
    optimizers = {name: build_optim_wrapper(model, config.optim_wrapper) for name, model in models.items()}

    def step(name: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)  # the sampling of RoIs
        return models[name].train_step(labelled, optimizers[name])

    labelled = labelled_images()
    losses = {name: step(name) for name in models}
    compare('Mask R-CNN, losses', [*losses['PiNAS'].values()], [*losses['mmdet'].values()], 1e-3)
    times = alternate({name: partial(step, name) for name in models}, repeats)
    ratio = report('Mask R-CNN, training iteration', times, 'mmdet', 'PiNAS')
    # Both compute the same by the same operators: beyond two decimals there is only noise.
    what = f'Mask R-CNN, training iteration: {ratio:.2f} times as fast as with the ResNeSt of mmdet, asked 1.0'
    verdict(round(ratio, 2) >= 1, what)


def plain_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Non-maximum suppression by tensor operations, one round per kept box.

    Args:
        boxes: [N, 4] as x1, y1, x2, y2.
        scores: [N].
        threshold: IoU above which a box of lower score is dropped.

    Returns:
        Indices [K] by falling score.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    rest = scores.argsort(descending=True, stable=True)
    kept = []
    while len(rest):
        best, rest = rest[0], rest[1:]
        kept.append(best)
        low, high = boxes[rest, :2].maximum(boxes[best, :2]), boxes[rest, 2:].minimum(boxes[best, 2:])
        overlap = (high - low).clamp(min=0).prod(1)
        rest = rest[overlap / (area[rest] + area[best] - overlap) <= threshold]
    return torch.stack(kept)


def plain_roi_align(features: torch.Tensor, rois: torch.Tensor, size: int, scale: float, samples: int) -> torch.Tensor:
    """Average RoIAlign by indexing, with bins of ``samples`` x ``samples`` points.

    Args:
        features: [N, C, H, W].
        rois: [R, 5] as index in the batch, x1, y1, x2, y2 in pixels of the image.
        size: Rows and columns of the result.
        scale: Steps of the features per pixel of the image.
        samples: Points per bin and axis.

    Returns:
        [R, C, size, size].
    """
    index = rois[:, 0].long()[:, None, None]
    begin, end = rois[:, 1:3] * scale - 0.5, rois[:, 3:] * scale - 0.5
    steps = (torch.arange(size * samples) + 0.5) / (size * samples)
    points = begin[..., None] + (end - begin)[..., None] * steps  # [R, 2, size * samples]

    def neighbours(point: torch.Tensor, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Both neighbours on an axis and their weights; outside of the map there are none."""
        inside = (point >= -1) & (point <= length)
        point = point.clamp(0, length - 1)
        low = point.floor().long()
        upper = point - low
        return [(low, (1 - upper) * inside), ((low + 1).clamp(max=length - 1), upper * inside)]

    result = 0
    for y, weight_y in neighbours(points[:, 1], features.shape[2]):
        for x, weight_x in neighbours(points[:, 0], features.shape[3]):
            weight = weight_y[:, :, None] * weight_x[:, None, :]
            result = result + features[index, :, y[:, :, None], x[:, None, :]] * weight[..., None]
    bins = result.unflatten(2, (size, samples)).unflatten(1, (size, samples))
    return bins.mean((2, 4)).permute(0, 3, 1, 2)


def operators(repeats: int) -> None:
    """NMS of 2,000 boxes, RoIAlign of 256 RoIs on 256 channels."""
    import mmcv.ops

    random = torch.Generator().manual_seed(0)
    corner, extent = 800 * torch.rand(100, 1, 2, generator=random), 20 + 100 * torch.rand(100, 1, 2, generator=random)
    objects = torch.cat([corner, corner + extent], 2)
    boxes = (objects + 0.1 * extent.repeat(1, 1, 2) * torch.randn(100, 20, 4, generator=random)).flatten(0, 1)
    scores = torch.rand(2000, generator=random)
    served, plain = (lambda: mmcv.ops.nms(boxes, scores, 0.7)[1]), (lambda: plain_nms(boxes, scores, 0.7))
    if not torch.equal(served(), plain()):
        raise SystemExit('NMS: other boxes are kept')
    print(f'NMS: the same {len(plain())} of {len(boxes)} boxes are kept')
    report('NMS', alternate({'plain': plain, 'mmcv.ops': served}, repeats), 'plain', 'mmcv.ops')

    features = torch.randn(2, 256, 64, 80, generator=random, requires_grad=True)
    corner = torch.rand(256, 2, generator=random) * torch.tensor([280.0, 220.0]) - 10  # some reach out of the map
    rois = torch.cat(
        [torch.arange(256)[:, None] % 2, corner, corner + 8 + 60 * torch.rand(256, 2, generator=random)], 1
    )
    gradient = torch.randn(256, 256, 7, 7, generator=random)
    align: dict[str, Callable[[], torch.Tensor]] = {
        'plain': lambda: plain_roi_align(features, rois, 7, 0.25, 2),
        'mmcv.ops': lambda: mmcv.ops.roi_align(features, rois, (7, 7), 0.25, 2, 'avg', True),
    }
    results = {name: function() for name, function in align.items()}
    compare('RoIAlign', [results['mmcv.ops']], [results['plain']], 1e-4)
    slopes = {name: torch.autograd.grad(result, features, gradient) for name, result in results.items()}
    compare('RoIAlign, gradient', [*slopes['mmcv.ops']], [*slopes['plain']], 1e-4)

    def backward(name: str) -> None:
        torch.autograd.grad(align[name](), features, gradient)

    with torch.no_grad():
        report('RoIAlign, forward', alternate(align, repeats), 'plain', 'mmcv.ops')
    times = alternate({name: partial(backward, name) for name in align}, repeats)
    report('RoIAlign, forward and backward', times, 'plain', 'mmcv.ops')


def start(repeats: int) -> None:
    """``import pinas_downstream`` in fresh interpreters, beside the one package that it needs."""

    def fresh(package: str) -> list[str]:
        command = [sys.executable, '-c', IMPORT.format(package=package)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    loaded = fresh('pinas_downstream')[1:]
    verdict(not loaded, f'import pinas_downstream loads {", ".join(loaded) or "none"} of {", ".join(HEAVY)}')
    times: dict[str, list[float]] = {'pinas_downstream': [], 'mmengine.registry': []}
    for _ in range(max(repeats, 7)):
        for package, values in times.items():
            values.append(float(fresh(package)[0]))
    report('import', times, 'pinas_downstream', 'mmengine.registry')
    seconds = statistics.median(times['pinas_downstream'])
    verdict(seconds < IMPORT_SECONDS, f'import pinas_downstream: {seconds:.2f} s, asked {IMPORT_SECONDS}')


def main() -> None:
    """Measure."""
    parts: dict[str, Callable[[argparse.Namespace], None]] = {
        'backbone': lambda args: backbone(args.choices, args.repeats),
        'iteration': lambda args: iteration(args.repeats),
        'operators': lambda args: operators(args.repeats),
        'import': lambda args: start(args.repeats),
    }
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/downstream.py --threads 1 --repeats 9 --only backbone import',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--only', nargs='+', choices=[*parts], default=[*parts], help='parts to measure')
    parser.add_argument('--choices', default='cls', help='network of the part backbone')
    parser.add_argument('--repeats', type=int, default=9, help='timed rounds')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of torch')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.INFO)  # mmengine tells the weight decay of every parameter
    forks = ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation', 'torchvision')
    print(description())
    print(', '.join(f'{package} {version(package)}' for package in forks) + f'; fp32, medians of {args.repeats} rounds')
    for name in args.only:
        parts[name](args)


if __name__ == '__main__':
    main()
