"""The report of a run directory: complete, honest, self-contained, and the same bytes every time."""

import itertools
import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import kendalltau
from tables import TableSpace

from pinas_search.report import render_page, write_report
from pinas_search.report.collect import collect
from pinas_search.report.summary import standard_error, summarize
from pinas_search.scoring import pack
from pinas_search.scoring.comparison import compare, place_among
from pinas_search.spaces import mini, nasbench201, resnest50

FIGURES = {'winner', 'learning', 'linear', 'candidates', 'scores', 'costs', 'choices', 'retraining', 'time'}
HOSTILE = '<script>alert("x")</script><img src="https://evil.example/x.png" onerror=alert(1)> & $\\frac{'


@pytest.fixture(scope='module')
def space():
    return mini()


def write_lines(file, records):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(''.join(json.dumps(record) + '\n' for record in records), encoding='utf-8')


def write_done(run_dir, stage, seconds, **more):
    record = {
        'stage': stage,
        'seconds': seconds,
        'device': 'cpu',
        'precision': 'fp32',
        'threads': 2,
        'finished': f'2026-01-0{1 + len(stage) % 3}T12:00:00+00:00',
        'command': f'pinas-search {stage} --config digits --out runs/demo',
        'machine': 'Linux x86_64, 2 cores',
        'versions': {'python': '3.11.2', 'torch': '2.9.1', 'timm': '1.0.22', 'pinas-models': '0.1.0'},
    }
    (run_dir / stage).mkdir(parents=True, exist_ok=True)
    (run_dir / stage / 'done.json').write_text(json.dumps(record | more))


def make_candidates(space, count, seed=0):
    """Scores that the choices partly explain, and a strategy that slowly finds out."""
    rng = random.Random(seed)
    worth = [[rng.gauss(0, 0.03 / m) for _ in range(m)] for m in space.num_choices]
    candidates, seen = [], set()
    while len(candidates) < count:
        greed = len(candidates) / count
        path = tuple(
            max(range(m), key=lambda c: worth[p][c]) if rng.random() < 0.55 * greed else rng.randrange(m)
            for p, m in enumerate(space.num_choices)
        )
        if path in seen:
            continue
        seen.add(path)
        cost = space.cost(path)
        score = min(0.86 + sum(worth[p][c] for p, c in enumerate(path)) + rng.gauss(0, 0.012), 0.998)
        candidates.append(
            {
                'number': len(candidates),
                'path': space.encode(path),
                'score': round(500 * score) / 500,
                'params': cost.params,
                'macs': cost.macs,
                'seconds': round(rng.uniform(1.1, 1.6), 3),
            }
        )
    return candidates


def make_run(run_dir, space, candidates=60, randoms=2, result=None):
    """Write a finished run; returns the winner's candidate."""
    rng = random.Random(1)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / 'config.yaml').write_text(
        'space: mini\nseed: 7\ndata:\n  source: digits\n  held_out_per_class: 50\nlearn:\n  method: pinas\n'
    )
    steps = [
        {
            'step': 5 * i,
            'epoch': i / 6,
            'loss': 2.2 + 9.5 * math.exp(-i / 40) + rng.gauss(0, 0.12),
            'lr': 0.03,
            'seconds': 3 * i,
        }
        for i in range(1, 181)
    ]
    for step in steps:
        step['lr'] = 0.015 * (1 + math.cos(math.pi * int(step['epoch']) / 30))
    write_lines(run_dir / 'learn' / 'metrics.jsonl', steps)
    write_done(run_dir, 'learn', 542.3)
    write_lines(
        run_dir / 'linear' / 'metrics.jsonl',
        [
            {
                'step': i,
                'epoch': i / 5,
                'loss': 0.5 + 1.8 * math.exp(-i / 18) + rng.gauss(0, 0.05),
                'accuracy': min(0.86 - 0.7 * math.exp(-i / 15) + rng.gauss(0, 0.03), 1),
                'lr': 1.0,
                'seconds': 0.9 * i,
            }
            for i in range(1, 101)
        ],
    )
    write_done(run_dir, 'linear', 91.0)
    scored = make_candidates(space, candidates)
    write_lines(run_dir / 'search' / 'candidates.jsonl', scored)
    winner = max(scored, key=lambda c: (c['score'], -c['number']))
    summary = {
        'path': winner['path'],
        'score': winner['score'],
        'candidates': candidates,
        'strategy': 'lanas',
        'recalibrated': True,
        'calibration_images': 896,
        'held_out_images': 500,
    }
    (run_dir / 'search' / 'result.json').write_text(json.dumps(summary | (result or {})))
    write_done(run_dir, 'search', 81.5)
    retrained = {'winner': (winner, 0.9611)}
    retrained |= {f'random-{i}': (scored[i], 0.9444 + 0.005 * i) for i in range(randoms)}
    for name, (candidate, accuracy) in retrained.items():
        folder = run_dir / 'retrain' / name
        curve = [
            {
                'epoch': epoch,
                'loss': 2.3 * math.exp(-epoch / 6),
                'accuracy': accuracy - 0.7 * math.exp(-epoch / 3) * (1 + rng.random() / 4) * (epoch < 20),
                'lr': 0.1,
                'seconds': 9.0 * epoch,
            }
            for epoch in range(1, 21)
        ]
        write_lines(folder / 'metrics.jsonl', curve)
        network = {
            'name': name,
            'path': candidate['path'],
            'accuracy': accuracy,
            'accuracy_on': 'test',
            'images': 360,
            'params': candidate['params'],
            'macs': candidate['macs'],
            'start': 'scratch',
            'epochs': 20,
        }
        (folder / 'result.json').write_text(json.dumps(network))
    write_done(run_dir, 'retrain', 540.0)
    return winner


class Page(HTMLParser):
    """What a browser would see: tags, attributes, visible text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.styles, self.words, self.open = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        if 'style' in self.open[-1:]:
            self.styles.append(data)
        else:
            self.words.append(data)

    @property
    def text(self):
        return ' '.join(' '.join(self.words).split())

    def attributes(self):
        return [(tag, name, value or '') for tag, attrs in self.tags for name, value in attrs.items()]


# Images may stay: their addresses are checked.
LOADING_TAGS = {'script', 'link', 'iframe', 'object', 'embed', 'base', 'audio', 'video', 'source', 'feimage'}
LOADING_ATTRIBUTES = {
    'src',
    'href',
    'xlink:href',
    'srcset',
    'data',
    'poster',
    'action',
    'formaction',
    'background',
    'ping',
}


def assert_loads_nothing(page):
    for tag, attrs in page.tags:
        assert tag not in LOADING_TAGS, (tag, attrs)
        assert not (tag == 'meta' and 'http-equiv' in attrs), attrs
    for tag, name, value in page.attributes():
        assert not name.startswith('on'), (tag, name)
        if (tag, name) == ('a', 'href') and re.match(r'[./\w-]+$', value):
            continue  # a file beside the page, which is opened by a click only
        if name in LOADING_ATTRIBUTES:
            assert value.startswith(('#', 'data:')), (tag, name, value)
        for target in re.findall(r'url\(\s*["\']?([^)]*)', value):
            assert target.startswith(('#', 'data:')), (tag, name, value)
    for css in page.styles:
        assert '@import' not in css
        assert '@font-face' not in css
        assert 'url(' not in css


@pytest.fixture(scope='module')
def finished(tmp_path_factory, space):
    """A finished run with its report: (run directory, winner, page)."""
    run_dir = tmp_path_factory.mktemp('runs') / 'demo'
    winner = make_run(run_dir, space)
    index = write_report(run_dir, space)
    assert index == run_dir / 'report' / 'index.html'
    return run_dir, winner, Page(index.read_text(encoding='utf-8'))


def report_page(run_dir, space):
    return Page(write_report(run_dir, space).read_text(encoding='utf-8'))


def page_of_words(run_dir, space):
    """The page without its pictures, which take a hundred times as long as the words."""
    record = collect(run_dir, space)
    return Page(render_page(record, summarize(record, space), space, {}, run_dir / 'report' / 'index.html'))


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_page_loads_nothing_from_elsewhere(finished):
    assert_loads_nothing(finished[2])


def test_loading_check_sees_what_it_must_see():
    for html in (
        '<script src="x.js"></script>',
        '<link rel="stylesheet" href="x.css">',
        '<p style="background: url(\'https://x/y.png\')">',
        '<svg><use xlink:href="other.svg#a"/></svg>',
        '<style>@import "x.css";</style>',
        '<svg><rect clip-path="url(x.svg#a)"/></svg>',
        '<a href="https://x">x</a>',
        '<img src="x.png">',
        '<img srcset="x.png 2x" onerror="x()">',
    ):
        with pytest.raises(AssertionError):
            assert_loads_nothing(Page(html))


def test_a_run_on_digits_says_first_what_it_is_worth(finished, space, tmp_path):
    run_dir, _, page = finished
    assert page.text.index('on a task too easy to tell networks apart') < page.text.index(
        'Which mix of building blocks'
    )
    (link,) = [value for tag, name, value in page.attributes() if (tag, name) == ('a', 'href')]
    assert '## Rankings' in (run_dir / 'report' / link).read_text(encoding='utf-8')
    make_run(tmp_path, space)
    config = tmp_path / 'config.yaml'
    config.write_text(config.read_text().replace('source: digits', 'source: folder'))
    assert 'too easy' not in page_of_words(tmp_path, space).text


def test_the_end_of_the_random_phase_is_marked(finished, space, tmp_path):
    label = 'end of the random phase'
    assert label not in (finished[0] / 'report' / 'figures' / 'candidates.svg').read_text(encoding='utf-8')
    make_run(tmp_path, space)
    with (tmp_path / 'config.yaml').open('a') as config:
        config.write('search: {options: {initial: 24}}\n')
    assert 'The first 24, left of the dashed line, were drawn at random.' in report_page(tmp_path, space).text
    assert label in (tmp_path / 'report' / 'figures' / 'candidates.svg').read_text(encoding='utf-8')


def test_pareto_front_equals_its_definition(finished):
    import numpy as np

    from pinas_search.report.figures import pareto_front

    generator = np.random.default_rng(0)
    costs, scores = generator.integers(12, size=80), generator.integers(12, size=80)
    points = set(zip(costs.tolist(), scores.tolist(), strict=True))
    best = {(c, s) for c, s in points if not any((a <= c and b >= s) and (a, b) != (c, s) for a, b in points)}
    front = pareto_front(costs, scores)
    assert [(int(costs[i]), int(scores[i])) for i in front] == sorted(best)
    assert 'Pareto front' in (finished[0] / 'report' / 'figures' / 'costs.svg').read_text(encoding='utf-8')


def test_saved_figures_load_nothing_and_carry_no_metadata(finished):
    for file in (finished[0] / 'report' / 'figures').glob('*.svg'):
        text = file.read_text(encoding='utf-8')
        assert_loads_nothing(Page(text))
        assert 'metadata' not in text
        assert '<!DOCTYPE' not in text
        assert set(re.findall(r'https?://[^"\s<]+', text)) <= {
            'http://www.w3.org/2000/svg',
            'http://www.w3.org/1999/xlink',
        }


def test_page_is_one_proper_document(finished):
    run_dir, _, page = finished
    tags = [tag for tag, _ in page.tags]
    assert ('html', {'lang': 'en'}) in page.tags
    assert ('meta', {'name': 'viewport', 'content': 'width=device-width, initial-scale=1'}) in page.tags
    assert tags.count('h1') == tags.count('main') == tags.count('title') == 1
    assert [attrs.get('role') for tag, attrs in page.tags if tag == 'svg'] == ['img'] * len(FIGURES)
    assert all(attrs.get('aria-label') for tag, attrs in page.tags if tag == 'svg')
    ids = [value for _, name, value in page.attributes() if name == 'id']
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes():
        for target in re.findall(r'url\(#([^)]*)\)', value) + re.findall(
            r'^#(.*)', value if name.endswith('href') else ''
        ):
            assert target in ids
        if name == 'aria-labelledby':
            assert value in ids
    assert (run_dir / 'report' / 'index.html').stat().st_size < 3e6


def test_architecture_parameters_are_shown(tmp_path):
    space = nasbench201().without('none')
    logits = torch.zeros(6, 5)
    logits[:, 0] = 9.0  # none, which the space leaves out
    for position, choice in enumerate((3, 1, 4, 2, 3, 3)):
        logits[position, choice] = 2.0
    steps = [{'step': i, 'epoch': i, 'loss': 2.0, 'entropy': e, 'lr': 0.1} for i, e in ((1, 1.386), (2, 0.5))]
    write_lines(tmp_path / 'learn' / 'metrics.jsonl', steps)
    save_file({'logits': logits}, tmp_path / 'learn' / 'architecture.safetensors')
    page = ' '.join(write_report(tmp_path, space).read_text().split())
    probability = (math.exp(2) / (math.exp(2) + 3)) ** 6
    assert f'prefer <code>314233</code>, with a probability of {probability:.3g} among 4,096 paths' in page
    assert 'The entropy of its architecture parameters goes from 1.39 to 0.5 nats.' in page
    save_file({'rows.0': logits}, tmp_path / 'learn' / 'architecture.safetensors')  # another method's
    assert 'architecture parameters prefer' not in write_report(tmp_path, space).read_text()


def test_winner_and_its_numbers_are_shown(finished, space):
    _, winner, page = finished
    cost = space.cost(space.decode(winner['path']))
    for shown in (
        winner['path'],
        f'{100 * winner["score"]:.2f}%',
        '96.11%',
        '94.69% (mean of 2)',  # of 94.44 and 94.94
        'Among the winner and 2 random paths the winner has rank 1 of 3',
        'at least this good with a probability of 0.33 : this run does not show',
        f'{cost.params / 1e3:.2f}\N{NO-BREAK SPACE}k',
        f'{cost.macs / 1e6:.2f}\N{NO-BREAK SPACE}M',
        'pinas-search search --config digits --out runs/demo',
        'torch 2.9.1',
        'held_out_per_class: 50',
        'one seed (7)',
        '00:09:02',
        '00:20:55',  # all stages together
    ):
        assert ' '.join(shown.split()) in page.text, shown
    assert 'Warning:' not in page.text
    assert 'has not run' not in page.text


def test_best_ten_are_listed_in_order(finished):
    run_dir, winner, page = finished
    lines = (run_dir / 'search' / 'candidates.jsonl').read_text().splitlines()
    ranked = sorted(map(json.loads, lines), key=lambda c: (-c['score'], c['number']))
    assert ranked[0] == winner
    table = page.text[page.text.index('Behind the best') : page.text.index('Does it hold?')]
    assert re.findall(r'\b[0-3]{8}\b', table) == [c['path'] for c in ranked[:10]]


def test_blocks_of_the_winner_are_named_in_the_drawing(finished):
    run_dir, winner, _ = finished
    names = ('1s1x64d', '2s1x64d', '1s2x42d', '2s2x40d')
    root = ElementTree.fromstring((run_dir / 'report' / 'figures' / 'winner.svg').read_text(encoding='utf-8'))
    labels = [''.join(element.itertext()).strip() for element in root.iter('{http://www.w3.org/2000/svg}text')]
    blocks = [f'{digit}   {names[int(digit)]}' for digit in winner['path']]
    assert [label for label in labels if label.endswith(names)] == blocks


def test_every_figure_is_saved_as_png_and_svg(finished):
    folder = finished[0] / 'report' / 'figures'
    charts = FIGURES - {'winner'}  # a drawing that is made as SVG
    files = {f'{name}.svg' for name in FIGURES} | {f'{name}.png' for name in charts}
    assert {file.name for file in folder.iterdir()} == files
    for name in charts:
        with Image.open(folder / f'{name}.png') as image:
            image.load()
            assert image.width == 750, name  # 5 inches at 150 dots
            assert image.height > 200, name
            assert len(image.convert('RGB').getcolors(1 << 24)) > 10, name
        svg = (folder / f'{name}.svg').read_text(encoding='utf-8')
        assert svg.count('<path') > 3, name
        assert '<text' in svg, name  # text stays text


def test_same_run_gives_the_same_bytes(finished, space):
    report = finished[0] / 'report'
    before = {file: file.read_bytes() for file in report.rglob('*') if file.is_file()}
    write_report(finished[0], space)
    assert {file: file.read_bytes() for file in report.rglob('*') if file.is_file()} == before
    assert len(before) == 2 * len(FIGURES)  # the page, and two files of each but the drawing


@pytest.mark.parametrize('stage', ['learn', 'linear', 'search', 'retrain'])
@pytest.mark.parametrize('alone', [True, False], ids=['alone', 'missing'])
def test_missing_stages_are_named(tmp_path, space, stage, alone):
    make_run(tmp_path / 'run', space)
    stages = {'learn', 'linear', 'search', 'retrain'}
    gone = stages - {stage} if alone else {stage}
    for name in gone:
        (tmp_path / 'run' / name).rename(tmp_path / name)
    page = (report_page if alone else page_of_words)(tmp_path / 'run', space)  # some pictures each, and all words
    for name in stages:
        assert (f'The stage {name} has not run' in page.text) == (name in gone)
        assert (f'pinas-search {name} on this run directory' in page.text) == (name in gone)
    assert_loads_nothing(page)


def test_unfinished_search_and_retraining(tmp_path, space):
    winner = make_run(tmp_path, space)
    for file in (
        'search/done.json',
        'search/result.json',
        'retrain/done.json',
        'retrain/random-1/result.json',
        'config.yaml',
    ):
        (tmp_path / file).unlink()
    text = report_page(tmp_path, space).text
    assert 'The search has not finished: the winner shown here is the best candidate so far' in text
    assert winner['path'] in text
    assert 'The stage retrain has not finished' in text
    assert 'Among the winner and 1 random path the winner has rank 1 of 2' in text
    assert 'There is no config.yaml' in text
    assert '00:09:00' in text  # three networks, 180 seconds each so far


def test_skipped_linear_stage_is_explained(tmp_path, space):
    make_run(tmp_path, space)
    (tmp_path / 'linear' / 'metrics.jsonl').unlink()
    edit(tmp_path / 'linear' / 'done.json', skipped='the method trained its own classifier', seconds=0.0)
    text = page_of_words(tmp_path, space).text
    assert 'linear ✓ not needed' in text
    assert 'The linear stage was not needed: the method trained its own classifier.' in text


def test_averaged_weights_have_a_curve_of_their_own(tmp_path, space):
    make_run(tmp_path, space)
    file = tmp_path / 'retrain' / 'winner' / 'metrics.jsonl'
    write_lines(file, [json.loads(line) | {'ema_accuracy': 0.9} for line in file.read_text().splitlines()])
    text = report_page(tmp_path, space).text
    assert 'winner, averaged weights' in text
    assert 'random-0, averaged weights' not in text


def test_few_lines_are_enough(tmp_path, space):
    """A try-out run: one line of metrics, one candidate."""
    make_run(tmp_path, space, candidates=2, randoms=1)
    for file in tmp_path.rglob('*.jsonl'):
        file.write_text(file.read_text().splitlines()[0] + '\n')
    edit(
        tmp_path / 'search' / 'result.json', path=json.loads((tmp_path / 'search/candidates.jsonl').read_text())['path']
    )
    text = report_page(tmp_path, space).text
    assert 'This run scored 1 candidate on' in text
    assert 'noisy scores' not in text
    assert not (tmp_path / 'report' / 'figures' / 'choices.png').exists()


def test_empty_directory_says_what_to_run(tmp_path, space):
    for run_dir in (tmp_path, tmp_path / 'nowhere'):
        with pytest.raises(
            ValueError, match=f'{re.escape(str(run_dir))} holds nothing to report.*pinas-search run'
        ) as info:
            write_report(run_dir, space)
        assert '\n' not in str(info.value)
        assert not (run_dir / 'report').exists()


@pytest.mark.parametrize(
    'file', ['learn/metrics.jsonl', 'linear/metrics.jsonl', 'search/candidates.jsonl', 'retrain/winner/metrics.jsonl']
)
def test_half_written_last_line_is_left_out(tmp_path, space, file):
    make_run(tmp_path, space)
    whole = (tmp_path / file).read_text()
    (tmp_path / 'search' / 'result.json').unlink()  # it may name the candidate that is cut off
    (tmp_path / file).write_text(whole[:-25])
    cut = collect(tmp_path, space), page_of_words(tmp_path, space).text
    (tmp_path / file).write_text(''.join(whole.splitlines(keepends=True)[:-1]))
    assert (collect(tmp_path, space), page_of_words(tmp_path, space).text) == cut


def test_damage_elsewhere_is_reported_with_its_place(tmp_path, space):
    make_run(tmp_path, space)
    file = tmp_path / 'search' / 'candidates.jsonl'
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(''.join([*lines[:4], '{"number": 4, \n', *lines[5:]]))
    with pytest.raises(ValueError, match=r'candidates\.jsonl, line 5 is damaged'):
        write_report(tmp_path, space)
    file.write_text('{"number": 0, "path": "00000000"}\n')
    with pytest.raises(ValueError, match=r'candidates\.jsonl lacks a value .*score'):
        write_report(tmp_path, space)
    file.write_text(''.join(lines))
    (tmp_path / 'search' / 'result.json').write_text('{"path"')
    with pytest.raises(ValueError, match=r'result\.json is damaged'):
        write_report(tmp_path, space)


def test_path_of_another_space_is_refused(tmp_path, space):
    make_run(tmp_path, space)
    with pytest.raises(ValueError, match='not one of the space resnest50: a path of resnest50 has 16 choices, got 8'):
        write_report(tmp_path, resnest50())


def test_hostile_strings_are_shown_as_text(tmp_path, space):
    run_dir = tmp_path / '<b>run&'
    make_run(run_dir, space, result={'strategy': HOSTILE})
    (run_dir / 'config.yaml').write_text(
        f'seed: {json.dumps(HOSTILE)}\ndata: {{source: {json.dumps(HOSTILE)}}}\n# </pre>\n'
    )
    for stage in ('learn', 'retrain'):
        edit(
            run_dir / stage / 'done.json', command=HOSTILE, machine=HOSTILE, device=HOSTILE, versions={HOSTILE: HOSTILE}
        )
    edit(run_dir / 'linear' / 'done.json', skipped=HOSTILE)
    edit(run_dir / 'retrain' / 'winner' / 'result.json', accuracy_on=HOSTILE, start=HOSTILE)
    (run_dir / 'retrain' / 'random-0').rename(run_dir / 'retrain' / '"><svg onload=alert(1)> $\\frac{')
    page = report_page(run_dir, space)
    assert_loads_nothing(page)
    assert [tag for tag, _ in page.tags].count('svg') == len(FIGURES)
    tags = [tag for tag, _ in page.tags]
    assert tags[tags.index('h1') + 1] == 'p'  # the name of the directory opens no tag
    assert page.text.count('<script>alert("x")</script>') >= 10
    assert '<b>run&' in page.text
    assert '# </pre>' in page.text


@pytest.mark.parametrize(
    ('accuracy', 'images', 'points'), [(0.9, 500, '1.34'), (0.75, 50000, '0.19'), (0.5, 100, '5.00')]
)
def test_standard_error_of_the_score(tmp_path, space, accuracy, images, points):
    make_run(tmp_path, space, result={'score': accuracy, 'held_out_images': images})
    assert points == f'{100 * math.sqrt(accuracy * (1 - accuracy) / images):.2f}'
    text = page_of_words(tmp_path, space).text
    assert f"The standard error of the winner's score is {points} percentage points" in text
    assert f'± {points} points on {images:,} images' in text


def test_perfect_score_is_not_sold_as_certain(tmp_path, space):
    make_run(tmp_path, space, result={'score': 1.0, 'held_out_images': 300})
    assert 'errors up to about 1.00 points would have gone unnoticed' in page_of_words(tmp_path, space).text  # 3 / 300


def test_missing_recalibration_is_a_warning(tmp_path, space):
    make_run(tmp_path, space, result={'recalibrated': False})
    text = page_of_words(tmp_path, space).text
    assert 'Warning: The scores were measured without recalibrating batch norm' in text
    assert 'estimated anew' not in text


def test_other_doubts_are_warnings(tmp_path, space):
    make_run(tmp_path, space)
    other = json.loads((tmp_path / 'retrain' / 'random-0' / 'result.json').read_text())['path']
    edit(tmp_path / 'retrain' / 'winner' / 'result.json', path=other, accuracy_on='held_out')
    page = page_of_words(tmp_path, space)
    assert f'Warning: The retrained network called winner has the path {other}' in page.text
    assert 'Warning: There are no test images' in page.text
    assert 'has not been retrained' in page.text  # the accuracy of another network is not the winner's
    assert 'the winner has rank' not in page.text


def record_images(run_dir, network, right):
    """Write which of the test images a network has right."""
    bits = pack(torch.tensor(right))
    edit(
        run_dir / 'retrain' / network / 'result.json', correct=bits, accuracy=sum(right) / len(right), images=len(right)
    )


def test_the_winner_is_ranked_among_random_paths_on_the_same_images(tmp_path, space):
    make_run(tmp_path, space)
    # Of 20 images the winner has 16 right: 9 that random-0 has wrong, and random-0 has 1 that the winner has wrong.
    record_images(tmp_path, 'winner', [True] * 16 + [False] * 4)
    record_images(tmp_path, 'random-0', [True] * 7 + [False] * 9 + [True] + [False] * 3)
    record_images(tmp_path, 'random-1', [True] * 16 + [False] * 4)
    text = page_of_words(tmp_path, space).text
    # Two of the three are as good as the winner, itself included; 2 of 3 random choices would do as well.
    assert 'Among the winner and 2 random paths the winner has rank 1 to 2 (equal accuracies) of 3' in text
    assert 'with a probability of 0.67 : this run does not show that the search is better than chance' in text
    # Binomial, 10 trials: p = 2 (1 + 10) / 1024 = .0215.
    assert 'random-0 has 1 right that the winner has wrong and 9 the other way round (McNemar, p = 0.02)' in text
    assert 'random-1 has 0 right that the winner has wrong and 0 the other way round (McNemar, p = 1.00)' in text


def test_candidates_are_compared_with_the_best_on_the_same_images(tmp_path, space):
    make_run(tmp_path, space, candidates=3, randoms=0)
    file = tmp_path / 'search' / 'candidates.jsonl'
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line, right in zip(lines, ([True] * 30, [True] * 29 + [False], [True] * 20 + [False] * 10), strict=True):
        line.update(correct=pack(torch.tensor(right)), score=sum(right) / 30)
    write_lines(file, lines)
    edit(tmp_path / 'search' / 'result.json', path=lines[0]['path'], score=1.0)
    text = report_page(tmp_path, space).text
    assert 'a paired test (McNemar, 5 %) cannot tell 1 of the 2 others from the best' in text
    assert '10.00' not in text.replace('100.00', '')
    assert re.search(r'96\.67% 3\.33 1\.00', text)  # behind the best by one image: p = 1
    assert re.search(r'66\.67% 33\.33 0\.00', text)  # by ten: p = 2 / 1024


def retrained(run_dir, scores, accuracies):
    """Give the retrained networks, the winner first, scores and accuracies."""
    names = ['winner', *(f'random-{i}' for i in range(len(scores) - 1))]
    for name, score, accuracy in zip(names, scores, accuracies, strict=True):
        edit(run_dir / 'retrain' / name / 'result.json', score=score, accuracy=accuracy)


def test_tau_needs_five_networks_that_have_both(tmp_path, space):
    make_run(tmp_path, space, randoms=4)
    assert "Kendall's τ" in page_of_words(tmp_path, space).text
    # A network that is trained twice does not count twice.
    twice = json.loads((tmp_path / 'retrain' / 'random-0' / 'result.json').read_text())['path']
    edit(tmp_path / 'retrain' / 'random-1' / 'result.json', path=twice)
    assert "Kendall's τ" not in page_of_words(tmp_path, space).text


def test_tau_is_shown_with_its_interval_and_its_chance(tmp_path, space):
    make_run(tmp_path, space, randoms=4)
    scores, accuracies = (0.9, 0.83, 0.81, 0.82, 0.84), (0.97, 0.92, 0.93, 0.94, 0.95)
    retrained(tmp_path, scores, accuracies)
    record = summarize(collect(tmp_path, space), space).agreement
    # Of ten pairs two are in the wrong order, those of 0.83 with 0.81 and 0.82: τ = (8 - 2) / 10.
    assert (record.n, record.score.value) == (5, pytest.approx(0.6))
    assert -1 <= record.score.low < 0.6 < record.score.high <= 1
    as_large = [abs(kendalltau(order, accuracies).statistic) >= 0.6 - 1e-9 for order in itertools.permutations(scores)]
    # 2000 random permutations of 120: five standard deviations of that share are 0.036.
    assert record.chance == pytest.approx(np.mean(as_large), abs=0.036)
    text = page_of_words(tmp_path, space).text
    assert 'accuracy after retraining is +0.60 (' in text
    assert f'A random order is at least as far from 0 with a probability of {record.chance:.2f}' in text
    assert 'with fewer than 50 networks such figures are rough' in text
    retrained(tmp_path, (0.9,) * 5, accuracies)
    assert 'accuracy after retraining is +0.00 (all equal)' in page_of_words(tmp_path, space).text
    assert summarize(collect(tmp_path, space), space).agreement.chance == 1.0  # every order ties


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_comparison_is_mcnemars_exact_test(images):
    first, second = np.array(images).T
    paired = compare(first, second)
    gained, lost = sum(a and not b for a, b in images), sum(b and not a for a, b in images)
    assert (paired.gained, paired.lost) == (gained, lost)
    assert paired.difference == pytest.approx(first.mean() - second.mean())
    # Each image on which they differ falls to either side like a coin.
    n, tail = gained + lost, min(gained, lost)
    assert paired.p_value == pytest.approx(min(1, 2 * sum(math.comb(n, i) for i in range(tail + 1)) / 2**n))
    assert compare(second, first) == replace(paired, gained=lost, lost=gained, difference=-paired.difference)


def test_paired_comparison_needs_the_same_images():
    with pytest.raises(ValueError, match='needs the same images, got 3 and 4'):
        compare(np.ones(3, bool), np.ones(4, bool))


@given(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=5))
def test_place_is_what_permutations_of_all_values_say(value, others):
    place = place_among(value, others)
    ranked = sorted([value, *others], reverse=True)
    ranks = [i for i, other in enumerate(ranked, start=1) if other == value]
    assert (place.best, place.worst, place.count) == (ranks[0], ranks[-1], 1 + len(others))
    first = [order[0] >= value for order in itertools.permutations([value, *others])]
    assert place.chance == pytest.approx(np.mean(first))


def test_standard_error_is_the_binomial_one():
    assert standard_error(0.5, 100) == 0.05


def test_space_without_stages_is_drawn_too(tmp_path):
    plain = TableSpace('plain', (5, 3, 5, 2), *(np.arange(20).reshape(4, 5),) * 2, fixed=(100, 1000))
    make_run(tmp_path, plain, candidates=40)
    page = report_page(tmp_path, plain)
    assert 'one of 5 operations at each of 4 positions' in page.text
    assert '2s1x64d' not in page.text
    assert_loads_nothing(page)


def test_page_of_a_full_search_stays_small(tmp_path):
    make_run(tmp_path, resnest50(), candidates=1000)
    assert write_report(tmp_path, resnest50()).stat().st_size < 3e6
