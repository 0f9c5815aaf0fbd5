"""Ranks as torchrun starts them: real processes over gloo, against one process that takes the batch in chunks."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from pinas_search import distributed
from pinas_search.cli import main
from pinas_search.config import parse_config
from pinas_search.stages import Run
from pinas_search.stages.checks import check_run

TOYS = Path(__file__).parent / 'toys'
RUN = ['--config', 'digits', '--out', 'run', 'threads=1', 'data.image_size=16', 'space=nasbench201']
RUN += ['space_options={channels: 4, num_cells: 1}', 'learn.supernet_options.track_running_stats=true']
RUN += ['learn.batch_size=16', 'learn.max_steps=5', 'learn.checkpoint_seconds=0.001', 'compare_ranks=true']
RUN += ['linear.batch_size=16', 'linear.max_steps=5', 'search.candidates=2', 'search.strategy=random']
RUN += ['search.options={}', 'search.evaluate.batches=1', 'search.evaluate.variance=pooled', 'retrain.epochs=1']
RUN += ['retrain.batch_size=512', 'retrain.random_paths=0', 'retrain.ema_decay=0.9', 'retrain.warmup_epochs=0']
PINAS = [*RUN, 'learn.method=signalled', 'learn.options={method: pinas}']
LOGITS = [*RUN, 'learn.method=signalled', 'learn.options={method: logits}']
ENVIRONMENT = {'GLOO_SOCKET_IFNAME': 'lo', 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
LIMIT = 600  # seconds, of a whole command; a hanging rank must not hang the tests


def environment(**more):
    path = os.pathsep.join([str(TOYS), *filter(None, [os.environ.get('PYTHONPATH')])])
    return {**os.environ, **ENVIRONMENT, 'PYTHONPATH': path, **more}


def torchrun(folder, stage, settings, *options, signals='', ranks=2):
    """One machine, as the documentation says to start it."""
    start = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(ranks), *options]
    return subprocess.run(
        [*start, '-m', 'pinas_search', stage, *settings],
        cwd=folder,
        env=environment(SIGNALS=signals),
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


def two_processes(folder, stage, settings, signals=''):
    """Two ranks without torchrun, whose end nobody enforces."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    places = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'SIGNALS': signals}
    return [
        subprocess.Popen(
            [sys.executable, '-m', 'pinas_search', stage, *settings],
            cwd=folder,
            env=environment(**places, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


@contextmanager
def chunks(count, statistics='first'):
    """Batch norms take a batch in chunks, as many ranks would: the only place where images of a batch meet.

    Args:
        count: Number of chunks.
        statistics: Running statistics are those of the first chunk, or their mean.
    """
    whole = F.batch_norm

    def batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
        if not training:
            return whole(x, running_mean, running_var, weight, bias, training, momentum, eps)
        outputs, kept = [], []
        for part in x.chunk(count):
            buffers = [None if b is None else b.clone() for b in (running_mean, running_var)]
            outputs.append(whole(part, *buffers, weight, bias, training, momentum, eps))
            kept.append(buffers)
        if running_mean is not None:
            for buffer, values in zip((running_mean, running_var), zip(*kept, strict=True), strict=True):
                buffer.copy_(values[0] if statistics == 'first' else torch.stack(values).mean(0))
        return torch.cat(outputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, 'batch_norm', batch_norm)
        yield


def in_this_process(folder, stage, settings, signals=''):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        patch.chdir(folder)
        patch.setattr(sys, 'path', [*sys.path, str(TOYS)])
        patch.setenv('SIGNALS', signals)
        return main([stage, *settings])


def metrics(folder):
    lines = (folder / 'metrics.jsonl').read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != 'seconds'} for line in lines]


def tensors(folder):
    files = {file.relative_to(folder): load_file(file) for file in sorted(folder.rglob('*.safetensors'))}
    assert files
    return {f'{file}/{name}': tensor for file, state in files.items() for name, tensor in state.items()}


def assert_same(actual, expected, tolerance=1e-6):
    """The same metrics and tensors."""
    assert len(metrics(actual)) == len(metrics(expected)) > 0
    for one, other in zip(metrics(actual), metrics(expected), strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)
    ours, theirs = tensors(actual), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(
            ours[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f'{name}: {text}'
        )


@pytest.fixture(scope='module')
def two_ranks(tmp_path_factory):
    """All stages of a run of Π-NAS on two ranks."""
    folder = tmp_path_factory.mktemp('two')
    done = torchrun(folder, 'run', PINAS)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'run'


def test_two_ranks_are_one_process_that_takes_the_batch_in_chunks(two_ranks, tmp_path):
    one = tmp_path / 'run'
    for stage in ('learn', 'linear', 'search', 'retrain'):
        if stage == 'search':  # the first rank alone
            assert in_this_process(tmp_path, stage, PINAS) == 0
            continue
        with chunks(2, 'first' if stage != 'retrain' else 'mean'):
            assert in_this_process(tmp_path, stage, PINAS) == 0
        trained = stage if stage != 'retrain' else 'retrain/winner'
        # Learning is in double precision, the others round as float32 does in another order of summation.
        assert_same(two_ranks / trained, one / trained, 1e-6 if stage == 'learn' else 1e-5)
        assert json.loads((two_ranks / trained / 'done.json').read_text())['ranks'] == 2
    state = load_file(two_ranks / 'learn' / 'everything.safetensors')
    assert int(state['inner.queue_ptr']) == 5 * 16 % 64  # the keys of both ranks have entered
    scores = [
        [json.loads(line)['score'] for line in (run / 'search' / 'candidates.jsonl').read_text().splitlines()]
        for run in (two_ranks, one)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert (two_ranks / 'report' / 'index.html').exists()


def test_architecture_parameters_on_two_ranks(tmp_path):
    (tmp_path / 'two').mkdir()
    done = torchrun(tmp_path / 'two', 'learn', LOGITS)
    assert done.returncode == 0, done.stderr[-3000:]
    with chunks(2):
        assert in_this_process(tmp_path, 'learn', LOGITS) == 0
    assert_same(tmp_path / 'two' / 'run' / 'learn', tmp_path / 'run' / 'learn')
    learned = load_file(tmp_path / 'two' / 'run' / 'learn' / 'architecture.safetensors')
    assert max(float(row.abs().max()) for row in learned.values()) > 0.1


def test_a_run_goes_on_with_two_ranks_and_then_with_one(tmp_path):
    for name in ('ranks', 'chunks'):
        (tmp_path / name).mkdir()
        assert in_this_process(tmp_path / name, 'learn', PINAS, signals='0:0:SIGTERM') == 143
    # The second rank alone is asked to stop; both do, after the same step.
    stopped = torchrun(tmp_path / 'ranks', 'learn', PINAS, signals='1:2:SIGTERM')
    assert stopped.returncode == 1
    assert stopped.stderr.count('pinas-search: interrupted; the same command goes on from here') == 1
    with chunks(2):
        assert in_this_process(tmp_path / 'chunks', 'learn', PINAS, signals='0:2:SIGTERM') == 143
    for name in ('ranks', 'chunks'):
        checkpoint = torch.load(tmp_path / name / 'run' / 'learn' / 'checkpoint.pt', weights_only=True)
        assert checkpoint['step'] == 3
        assert in_this_process(tmp_path / name, 'learn', PINAS) == 0
    assert_same(tmp_path / 'ranks' / 'run' / 'learn', tmp_path / 'chunks' / 'run' / 'learn')


def test_a_killed_rank_is_restarted_and_the_run_ends_as_if_unbroken(two_ranks, tmp_path):
    rank, step = random.randrange(2), random.randrange(1, 5)
    done = torchrun(tmp_path, 'learn', PINAS, '--max-restarts', '2', signals=f'{rank}:{step}:SIGKILL')
    assert done.returncode == 0, f'rank {rank}, step {step}: {done.stderr[-3000:]}'
    assert f'learn (signalled): going on after {step} steps' in done.stderr
    assert metrics(tmp_path / 'run' / 'learn') == metrics(two_ranks / 'learn')
    unbroken, restarted = tensors(two_ranks / 'learn'), tensors(tmp_path / 'run' / 'learn')
    assert all(torch.equal(restarted[name], tensor) for name, tensor in unbroken.items()), (rank, step)


def test_a_rank_that_stands_still_does_not_hold_up_the_other(tmp_path):
    ranks = two_processes(tmp_path, 'learn', [*PINAS, 'rank_timeout=5'], signals='1:2:SIGSTOP')
    try:
        _, errors = ranks[0].communicate(timeout=LIMIT)
    finally:
        for rank in ranks:
            rank.kill()
        ranks[1].communicate()
    assert ranks[0].returncode == 2, errors
    *_, last = errors.strip().splitlines()
    assert last.startswith('pinas-search learn: error: rank 0 has lost the other ranks (')
    assert 'Traceback' not in errors


def test_a_mistake_is_said_by_one_rank_in_one_line(tmp_path):
    ranks = two_processes(tmp_path, 'check', [*PINAS, 'linear.batch_size=15'])
    outputs = [rank.communicate(timeout=LIMIT) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    message = 'linear.batch_size is 15, which 2 ranks cannot share: set it to 14, or start another number of ranks'
    assert outputs[0][1].strip() == f'pinas-search check: error: {message}'
    assert outputs[1] == ('', '')


def test_one_module_knows_torch_distributed():
    package = Path(distributed.__file__).parent
    knowing = {file.name for file in package.rglob('*.py') if 'import torch.distributed' in file.read_text()}
    assert knowing == {'distributed.py'}


def test_what_ranks_cannot_do_is_said_before_hours_of_work(tmp_path):
    def check(ranks, *settings):
        check_run(Run(parse_config(['digits'], ['data.image_size=16', *settings]), tmp_path / 'run'), ranks)

    check(4)
    with pytest.raises(ValueError, match=r'learn\.batch_size is 64, which 5 ranks cannot share: set it to 60'):
        check(5)
    with pytest.raises(ValueError, match=r'learn\.sync_bn needs CUDA GPUs, the device is cpu: set it to false'):
        check(2, 'learn.sync_bn=true', 'device=cpu')
