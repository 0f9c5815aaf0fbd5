"""A table and curves of trainings of mmdet or mmseg, from their work directories; several of one name are its seeds."""

import argparse
import json
import statistics
from pathlib import Path

TITLES = {
    'coco/bbox_mAP': 'box AP',
    'coco/bbox_mAP_50': 'box AP50',
    'coco/segm_mAP': 'mask AP',
    'coco/segm_mAP_50': 'mask AP50',
    'mIoU': 'mIoU',
    'aAcc': 'pixel accuracy',
}
Curve = list[tuple[int, dict[str, float]]]


def read(work_dir: Path) -> Curve:
    """The validations of a training, resumed or not: step (epoch or iteration) and metrics in percent."""
    validations: dict[int, dict[str, float]] = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text(encoding='utf-8').splitlines():
            record = json.loads(line)
            metrics = {name: record[name] * (100 if '/' in name else 1) for name in TITLES if name in record}
            if metrics:
                validations[record['step']] = metrics
    if not validations:
        raise SystemExit(f'{work_dir}: no validation in */vis_data/scalars.json')
    return sorted(validations.items())


def table(runs: dict[str, list[Curve]]) -> str:
    """Markdown: the last validation of each name, mean and standard deviation over its seeds."""
    names = list(next(iter(runs.values()))[0][-1][1])
    lines = [
        '| network | seeds | ' + ' | '.join(TITLES[name] for name in names) + ' |',
        '|---' * (len(names) + 2) + '|',
    ]
    for run, curves in runs.items():
        cells = []
        for name in names:
            values = [curve[-1][1][name] for curve in curves]
            deviation = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
            cells.append(f'{statistics.mean(values):.1f}{deviation}')
        lines.append(f'| {run} | {len(curves)} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def draw(runs: dict[str, list[Curve]], metric: str, unit: str, out: Path) -> None:
    """Curves of one metric, a colour per name and a line per seed."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), constrained_layout=True)
    for number, (run, curves) in enumerate(runs.items()):
        for seed, curve in enumerate(curves):
            axes.plot(
                [step for step, _ in curve],
                [metrics[metric] for _, metrics in curve],
                color=f'C{number}',
                marker='.',
                label=run if seed == 0 else None,
            )
    axes.set(xlabel=unit, ylabel=f'{TITLES[metric]} (%), validation', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out, dpi=150)


def main() -> None:
    """Print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='+', metavar='NAME=DIR', help='work directory of a training')
    parser.add_argument('--metric', default='mIoU', choices=TITLES, help='what the curves show')
    parser.add_argument('--out', type=Path, help='picture of the curves')
    args = parser.parse_args()
    runs: dict[str, list[Curve]] = {}
    for run in args.runs:
        name, _, folder = run.partition('=')
        runs.setdefault(name, []).append(read(Path(folder)))
    print(table(runs))
    if args.out:
        draw(runs, args.metric, 'epoch' if '/' in args.metric else 'iteration', args.out)


if __name__ == '__main__':
    main()
