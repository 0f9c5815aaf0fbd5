"""Stage: true accuracies of networks that are trained here, kept as a table that other runs can use."""

from __future__ import annotations

import csv
import io
from statistics import fmean

from pinas_models.common.files import write_json, write_text

from ..records import read_json
from .retrain import Training, train_network
from .run import Run
from .workers import train_all

__all__ = ['TABLE', 'truth']

TABLE = 'table.csv'


def truth(run: Run) -> None:
    """Train networks drawn by the seed; writes ``truth/table.csv`` and, with the recipe, ``truth/table.json``.

    The table has the columns ``arch``, ``accuracy`` (the mean over the trainings), ``accuracy_seed_<i>``, ``params``
    and ``macs``. ``truth.file`` of another run can name it, with ``truth.column=accuracy``.

    Raises:
        ValueError: If no networks are asked for, or there are fewer images than a batch.
    """
    stage, config = run.stage('truth'), run.config.truth
    if not config.trained_here:
        raise ValueError(
            'there is no truth to train: set truth.networks, the number of networks, and leave out truth.file'
        )
    if run.skip(stage):
        return
    paths = run.draw_paths(config.networks or 0, 'truth/networks', belongs=run.space.subset(config.only))
    names = [run.space.encode(path) for path in paths]
    trainings = [
        Training(name if seed == 0 else f'{name}-seed-{seed}', path, None, seed, keep=False)
        for seed in range(config.trainings)
        for name, path in zip(names, paths, strict=True)
    ]
    seconds = train_all(run, trainings, stage, train_network)
    results = {t.name: read_json(stage.path / t.name / 'result.json') for t in trainings}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator='\n')
    seeds = [f'accuracy_seed_{seed}' for seed in range(config.trainings)]
    writer.writerow(['arch', 'accuracy', *seeds, 'params', 'macs'])
    for name in names:
        own = [results[name if seed == 0 else f'{name}-seed-{seed}'] for seed in range(config.trainings)]
        accuracies = [result['accuracy'] for result in own]
        writer.writerow([name, fmean(accuracies), *accuracies, own[0]['params'], own[0]['macs']])
    write_text(stage.path / TABLE, table.getvalue())
    first = results[names[0]]
    recipe = {key: first[key] for key in ('accuracy_on', 'images', 'start', 'epochs')}
    about = {'space': run.space.name, 'seed': run.config.seed, 'trainings': config.trainings, **recipe}
    write_json(stage.path / 'table.json', about)
    run.finish(stage, seconds, networks=len(paths))
