"""Stage 3: search. A strategy proposes candidates, the supernet scores them, the journal keeps them."""

from __future__ import annotations

import time
from dataclasses import asdict

from pinas_models.common.files import write_json
from pinas_models.common.progress import Progress

from ..evaluate import CandidateEvaluator
from ..journal import Journal
from ..randomness import derive_seed
from ..spaces import Limits
from ..strategies import LaNASOptions, create_strategy
from .run import Run

__all__ = ['search']


def search(run: Run) -> None:
    """Score candidates; writes ``search/journal.log``, ``search/candidates.jsonl`` and ``search/result.json``.

    Raises:
        FileNotFoundError: If an earlier stage has not finished.
        ValueError: If the strategy is unknown, a limit cannot be met or there are no held-out images.
    """
    stage, config = run.stage('search'), run.config.search
    if run.skip(stage):
        return
    limits = Limits(config.max_params, config.max_macs)
    strategy = create_strategy(
        config.strategy,
        run.space,
        seed=derive_seed(run.config.seed, 'search'),
        limits=limits,
        lanas=LaNASOptions(**asdict(config.lanas)),
    )
    evaluator = CandidateEvaluator(
        run.load_supernet(),
        run.load_classifier(),
        run.splits.train,
        run.splits.held_out,
        data=run.config.data,
        config=config.evaluate,
        views=run.config.linear.views,
        seed=run.config.seed,
        autocast=run.autocast,
    )
    journal = Journal(stage.path / 'journal.log', run.space)
    before = journal.candidates()
    strategy.restore((run.space.decode(candidate.path), candidate.score) for candidate in before)
    total = min(config.candidates, run.space.size)
    best = max((candidate.score for candidate in before), default=0.0)
    with Progress(f'search ({config.strategy})', total, len(before), unit='candidate') as progress:
        for _ in range(len(before), total):
            start = time.monotonic()
            path = strategy.ask()
            score = evaluator.score(path)
            journal.add(path, score, time.monotonic() - start)
            strategy.tell(path, score)
            best = max(best, score)
            progress.update(note=f'best {best:.4f}, last {score:.4f} ({run.space.encode(path)})')
    candidates = journal.candidates()
    journal.export(stage.path / 'candidates.jsonl')
    # Ties go to the cheaper network.
    winner = max(candidates, key=lambda candidate: (candidate.score, -candidate.macs, -candidate.number))
    write_json(
        stage.path / 'result.json',
        {
            'path': winner.path,
            'score': winner.score,
            'candidates': len(candidates),
            'strategy': config.strategy,
            'recalibrated': config.evaluate.recalibrate,
            'calibration_images': evaluator.num_calibration,
            'held_out_images': evaluator.num_scored,
        },
    )
    run.finish(stage, sum(candidate.seconds for candidate in candidates))
