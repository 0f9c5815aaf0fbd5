"""The command correlate, and the tables that it reads."""

import gzip
import hashlib
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from in_process import run_command

from pinas_search.cli import main
from pinas_search.scoring.ranking import kendall_tau
from pinas_search.scoring.tables import join, read_table, unmatched
from pinas_search.scoring.truth import read_nats_bench, read_truth
from pinas_search.spaces import nasbench201

SPACE = nasbench201()
CELLS = list(itertools.islice(itertools.product(range(5), repeat=6), 0, None, 131))  # 120 of all kinds
REPORTED = {
    *('n', 'kendall_tau', 'constant', 'kendall_tau_interval', 'p_value', 'spearman', 'weighted_tau', 'precision_at'),
    *('top_tenth_tau', 'best_rank_at', 'chosen_true', 'best_true', 'regret', 'coverage', 'recalibrated'),
    *('calibration_images', 'truth', 'trivial'),
}


def correlate(folder, *arguments):
    return run_command(main, 'correlate', *arguments, cwd=folder, COLUMNS='99')


def write(path, header, rows):
    text = '\n'.join([header, *(','.join(map(str, row)) for row in rows)]) + '\n'
    if path.suffix == '.gz':
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def tables(tmp_path_factory):
    """Truths of 120 cells under the benchmark's names; good and bad predictions under digits, in another order."""
    folder = tmp_path_factory.mktemp('tables')
    g = np.random.default_rng(0)
    truth = np.round([90 * SPACE.is_connected(c) + 10 * g.random() for c in CELLS], 2)
    good, bad = truth + 0.1 * g.normal(size=len(truth)), g.normal(size=len(truth))
    order = g.permutation(len(CELLS))
    names = [SPACE.to_string(cell) for cell in CELLS]
    short = truth + g.normal(size=len(truth))
    write(folder / 'truth.csv.gz', 'arch,cifar10,cifar10_12ep', zip(names, truth, short, strict=True))
    for name, scores in (('good', good), ('bad', bad)):
        rows = [(SPACE.encode(CELLS[i]), scores[i]) for i in order]
        write(folder / f'{name}.csv', 'arch,score', rows)
    return folder, truth, good, bad


def test_a_report_of_two_tables(tables):
    folder, truth, good, bad = tables
    done = correlate(
        folder,
        *('good.csv', 'truth.csv.gz', '--space', 'nasbench201', '--samples', 100, '--out', 'report.json'),
        *('--against', 'bad.csv', '--against', 'good.csv'),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / 'report.json').read_text())
    assert set(report) >= REPORTED
    assert report['n'] == 120
    assert report['coverage'] == 1
    assert report['kendall_tau'] == pytest.approx(kendall_tau(good, truth))
    low, high = report['kendall_tau_interval']
    assert low < report['kendall_tau'] < high
    assert report['chosen'] == SPACE.encode(CELLS[int(np.argmax(good))])
    params = SPACE.costs(np.array(CELLS))['params']
    assert report['trivial']['params'] == pytest.approx(kendall_tau(params, truth))
    assert report['trivial']['12-epoch accuracy'] > 0.5
    content = gzip.decompress((folder / 'truth.csv.gz').read_bytes())
    assert report['truth']['checksum'] == hashlib.sha256(content).hexdigest()
    assert report['truth']['fidelity'] is None
    against_bad, against_itself = report['against']
    assert against_bad['verdict'] == 'better'
    assert against_bad['difference'] == pytest.approx(kendall_tau(good, truth) - kendall_tau(bad, truth))
    assert against_itself['verdict'] == 'undecided at n = 120'
    for words in ('against bad.csv: better', 'undecided at n = 120', f'{report["kendall_tau"]:+.3f}', 'regret'):
        assert words in done.stdout


def test_seeds_of_a_predictor_are_averaged_and_widen_the_interval(tables):
    folder, truth, good, bad = tables
    arguments = ('truth.csv.gz', '--space', 'nasbench201', '--samples', 200, '--out', 'seeds.json')
    done = correlate(folder, 'good.csv,bad.csv', *arguments, '--against', 'bad.csv,good.csv')
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / 'seeds.json').read_text())
    taus = [kendall_tau(good, truth), kendall_tau(bad, truth)]
    assert report['seed_taus'] == pytest.approx(taus)
    assert report['kendall_tau'] == pytest.approx(np.mean(taus))
    assert report['chosen'] == [SPACE.encode(CELLS[int(np.argmax(scores))]) for scores in (good, bad)]
    assert report['chosen_true'] == pytest.approx(np.mean([truth[np.argmax(good)], truth[np.argmax(bad)]]))
    low, high = report['kendall_tau_interval']  # a draw of two seeds may be twice the good one or twice the bad one
    assert low < taus[1] + 0.2
    assert high > taus[0] - 0.2
    assert report['against'][0]['difference'] == pytest.approx(0)
    assert f'mean of 2 seeds: {taus[0]:+.3f}, {taus[1]:+.3f}' in done.stdout


def test_the_same_seed_gives_the_same_report(tables):
    folder = tables[0]
    texts = []
    for seed, out in ((1, 'a.json'), (1, 'b.json'), (2, 'c.json')):
        arguments = ('bad.csv', 'truth.csv.gz', '--space', 'nasbench201', '--seed', seed, '--samples', 50, '--out', out)
        assert correlate(folder, *arguments).returncode == 0
        texts.append(json.loads((folder / out).read_text())['kendall_tau_interval'])
    assert texts[0] == texts[1] != texts[2]


def test_named_subsets(tables):
    folder, truth, good, _ = tables
    arguments = ('good.csv', 'truth.csv.gz', '--space', 'nasbench201', '--samples', 20, '--out', 'subset.json')
    for name, belongs in (('4096', lambda c: 0 not in c), ('6466', lambda c: SPACE.canonical(c) == c)):
        assert correlate(folder, *arguments, '--only', name).returncode == 0
        report = json.loads((folder / 'subset.json').read_text())
        rows = [row for row, cell in enumerate(CELLS) if belongs(cell)]
        assert report['n'] == len(rows)
        assert report['kendall_tau'] == pytest.approx(kendall_tau(good[rows], truth[rows]))
    done = correlate(folder, *arguments, '--only', '730')
    assert done.returncode == 2
    assert 'the named sets of nasbench201 are 729, 4096, 6466' in done.stderr


def test_networks_of_other_spaces_by_their_names_alone(tmp_path):
    names = [f'net{i}' for i in range(20)]
    write(tmp_path / 'p.csv', 'id,acc', [(n, i) for i, n in enumerate([*names[2:], 'x', 'y', 'z', 'w'])])
    write(tmp_path / 't.csv', 'name,top1', [(n, 2 * i) for i, n in enumerate(names)])
    done = correlate(
        tmp_path, 'p.csv', 't.csv', '--key', 'id', '--truth-key', 'name', '--score', 'acc', '--truth', 'top1',
        '--samples', '20', '--out', 'r.json',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'r.json').read_text())
    assert report['kendall_tau'] == pytest.approx(1)
    assert report['coverage'] == pytest.approx(18 / 20)
    assert report['unmatched'] == {'predictions': 4, 'truth': 2}
    assert 'predictions 4: x, y, z, ...; truth 2: net0, net1' in done.stdout
    assert '18 networks are few' in done.stdout


def test_constant_scores(tmp_path):
    write(tmp_path / 'p.csv', 'arch,score', [(i, 1) for i in range(60)])
    write(tmp_path / 't.csv', 'arch,cifar10', [(i, i) for i in range(60)])
    done = correlate(tmp_path, 'p.csv', 't.csv', '--samples', '20', '--out', 'r.json')
    assert done.returncode == 0
    report = json.loads((tmp_path / 'r.json').read_text())
    assert report['constant'] is True
    assert report['kendall_tau'] == 0
    assert 'all scores are the same' in done.stdout


GOOD_TRUTH = 'arch,cifar10\na,1\nb,2\n'


@pytest.mark.parametrize(
    ('predictions', 'truth', 'options', 'message'),
    [
        (None, GOOD_TRUTH, (), 'p.csv is missing'),
        ('', GOOD_TRUTH, (), "p.csv has no column 'arch'"),
        ('arch,score\n', GOOD_TRUTH, (), 'p.csv has no rows'),
        ('name,score\na,1\n', GOOD_TRUTH, (), "p.csv has no column 'arch'; its first line is name, score"),
        ('arch,acc\na,1\n', GOOD_TRUTH, (), "p.csv has no column 'score'; its columns are arch, acc"),
        ('arch,score\na,1\nb,2\na,3\n', GOOD_TRUTH, (), "p.csv, line 4: 'a' is in line 2 already"),
        ('arch,score\na,1\nb,nan\n', GOOD_TRUTH, (), "p.csv, line 3: score is 'nan', a finite number is expected"),
        ('arch,score\na,1\nb,\n', GOOD_TRUTH, (), "p.csv, line 3: score is ''"),
        ('arch,score\na,1\nb,inf\n', GOOD_TRUTH, (), "p.csv, line 3: score is 'inf'"),
        ('arch,score\na,1\n\nb,x\n', GOOD_TRUTH, (), "p.csv, line 4: score is 'x'"),
        ('arch,score\na,1\nb,2,3\n', GOOD_TRUTH, (), 'p.csv, line 3: 3 fields, the first line has 2 columns'),
        ('arch,score,score\na,1,1\n', GOOD_TRUTH, (), "p.csv, line 1: the column 'score' is there twice"),
        ('arch,score\nc,1\nd,2\n', GOOD_TRUTH, (), 'share 0 networks, a ranking needs two'),
        ('arch,score\na,1\nb,2\n', None, (), 't.csv is missing; tables of NAS-Bench-201 come from'),
        ('arch,score\na,1\nb,2\n', 'index,acc\n1,2\n', (), "t.csv has no column 'arch'"),
        ('arch,score\na,1\nb,2\n', 'arch,acc\na,2\n', (), "t.csv has no column 'cifar10'; its columns are arch, acc"),
        ('arch,score\na,1\nb,2\n', GOOD_TRUTH, ('--only', '729'), '--only 729 names a set of networks of a space'),
        ('arch,score\na,1\nb,2\n', GOOD_TRUTH, ('--samples', '0'), '--samples is 0'),
        ('arch,score\na,1\nb,2\n', GOOD_TRUTH, ('--out', 'no/r.json'), 'the folder no does not exist'),
        ('arch,score\na,1\nb,2\n', GOOD_TRUTH, ('--against', 'q.csv'), 'q.csv is missing'),
        ('arch,score\na,1\nb,2\n', GOOD_TRUTH, ('--seeds', 'mean'), 'seeds is for the NATS-Bench folder'),
        (
            'arch,score\n333132,1\n33313,2\n',
            GOOD_TRUTH,
            ('--space', 'nasbench201'),
            'p.csv, line 3: a path of nasbench201 has 6 choices, got 5',
        ),
        (
            'arch,score\n333132,1\n'
            '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|,2\n',
            GOOD_TRUTH,
            ('--space', 'nasbench201'),
            'is in line 2 already',
        ),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, monkeypatch, predictions, truth, options, message):
    for name, text in (('p.csv', predictions), ('t.csv', truth)):
        if text is not None:
            (tmp_path / name).write_text(text, encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    assert main(['correlate', 'p.csv', 't.csv', *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count('\n') == 1
    assert not captured.out


def test_a_mistake_ends_the_process_with_2(tmp_path):
    command = [sys.executable, '-m', 'pinas_search', 'correlate', 'p.csv', 't.csv']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == 'pinas-search correlate: error: p.csv is missing\n'


def test_damaged_files(tmp_path):
    whole = gzip.compress(GOOD_TRUTH.encode() * 100)
    for content in (whole[:-20], b'no gzip', whole[:15] + b'????' + whole[19:]):
        (tmp_path / 't.csv.gz').write_bytes(content)
        with pytest.raises(ValueError, match=r't\.csv\.gz cannot be unpacked'):
            read_table(tmp_path / 't.csv.gz', 'arch')
    (tmp_path / 'b.csv').write_bytes(b'arch,score\n\xff\xfe,1\n')
    with pytest.raises(ValueError, match=r'b\.csv is no CSV file'):
        read_table(tmp_path / 'b.csv', 'arch')


def test_tables_of_spreadsheets_are_read(tmp_path):
    (tmp_path / 't.csv').write_bytes('\ufeffarch,note,score\r\n"a","two\r\nlines",1\r\nb,"x, y",2e1\r\n'.encode())
    table = read_table(tmp_path / 't.csv', 'arch')
    assert table.keys == ('a', 'b')
    assert table.lines == (3, 4)
    assert list(table.numbers('score')) == [1, 20]
    assert table.cells['note'] == ['two\r\nlines', 'x, y']


def test_joining():
    joined = join(('a', 'b', 'c', 'd'), ('c', 'x', 'a'))
    assert joined.keys == ('c', 'a')
    assert list(joined.left) == [2, 0]
    assert list(joined.right) == [0, 2]
    assert joined.only_left == ('b', 'd')
    assert joined.only_right == ('x',)
    assert unmatched(joined.only_left) == '2: b, d'
    assert unmatched(()) == '0'


def test_an_unknown_table_has_the_fidelity_that_the_user_says(tmp_path):
    write(tmp_path / 't.csv', 'arch,acc', [('a', 1), ('b', 2)])
    assert read_truth(tmp_path / 't.csv', 'acc').fidelity is None
    assert read_truth(tmp_path / 't.csv', 'acc', fidelity=12).facts()['fidelity'] == 12


def test_the_benchmarks_folder_needs_every_choice(tmp_path, capsys):
    (tmp_path / 'p.csv').write_text('arch,score\n333132,1\n333133,2\n')
    folder = tmp_path / 'NATS'
    folder.mkdir()
    assert main(['correlate', str(tmp_path / 'p.csv'), str(folder), '--seeds', 'mean']) == 2
    assert 'give fidelity 12 or 200 and seeds mean, 777, 888, 999' in capsys.readouterr().err
    with pytest.raises(TypeError, match='fidelity'):
        read_nats_bench(folder, dataset='cifar10', seeds='mean')
    with pytest.raises(ValueError, match=r'fidelity of .* is 90: it must be one of 12, 200'):
        read_nats_bench(folder, dataset='cifar10', fidelity=90, seeds='mean')
    with pytest.raises(ValueError, match=r"dataset of .* is 'mnist': it must be one of cifar10-valid, cifar10"):
        read_nats_bench(folder, dataset='mnist', fidelity=12, seeds='mean')
    with pytest.raises(FileNotFoundError, match=r'has no meta\.pickle\.pbz2; tables of NAS-Bench-201 come from'):
        read_nats_bench(folder, dataset='cifar10', fidelity=200, seeds='mean')
