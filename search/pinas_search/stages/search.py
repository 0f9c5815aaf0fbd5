"""Stage: search. A strategy proposes candidates, a scorer scores them, the study keeps them."""

from __future__ import annotations

import math
import sys
from datetime import datetime

from pinas_models.common.files import write_json
from pinas_models.common.progress import Progress

from ..randomness import derive_seed
from ..records import Trials
from ..strategies import Proposer, SpaceExhaustedError
from .run import Run

__all__ = ['search']


def search(run: Run) -> None:
    """Score candidates; writes ``search/journal.log``, ``search/candidates.jsonl`` and ``search/result.json``.

    A finished search goes on when ``search.candidates`` was raised.

    Raises:
        FileNotFoundError: If an earlier stage has not finished.
        ValueError: If a limit cannot be met or there are no held-out images.
    """
    stage, config = run.stage('search'), run.config.search
    done = stage.done
    if (done is None or done.get('asked', 0) >= config.candidates) and run.skip(stage):
        return
    proposer = Proposer(
        run.strategy(), seed=derive_seed(run.config.seed, 'search'), skip_equivalents=config.skip_equivalents
    )
    scorer = run.scorer()
    trials = Trials(stage.path / 'journal.log', run.space)
    proposer.restore(trials.history())
    total = min(config.candidates, run.space.size)
    best = max((candidate.score for candidate in trials.candidates()), default=-math.inf)
    with Progress(f'search ({config.strategy})', total, len(proposer.history), unit='candidate') as progress:
        for _ in range(len(proposer.history), total):
            try:
                path = proposer.ask()
            except SpaceExhaustedError as error:
                print(f'search: ends with {len(proposer.history)} candidates: {error}', file=sys.stderr, flush=True)
                break
            started = datetime.now()
            (score,) = scorer.score([path])
            trials.add(path, score, started, datetime.now(), proposer.notes(path))
            proposer.tell(path, score.value)
            shown = score.extra.get('accuracy', score.value)
            best = max(best, shown)
            progress.update(note=f'best {best:.4f}, last {shown:.4f} ({run.space.encode(path)})')
    candidates = trials.candidates()
    if not candidates:
        raise ValueError(
            f'no network of {run.space.name} could be scored under search.limits ({run.limits}): raise them'
        )
    trials.export(stage.path / 'candidates.jsonl')
    winner = min(candidates, key=lambda candidate: candidate.order)
    result = {'path': winner.path, 'score': winner.score, 'candidates': len(candidates), 'strategy': config.strategy}
    write_json(stage.path / 'result.json', {**result, 'scorer': config.scorer, **scorer.facts})
    run.finish(stage, sum(candidate.seconds for candidate in candidates), asked=config.candidates)
