"""The model cards: the Hub can read them, every number in them is right and says where it comes from."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import EvalResult, ModelCard
from reference import filled_state_dict, load_fixture
from torch.utils.flop_counter import FlopCounterMode

import pinas_models
from pinas_models.cards import check_card, folder_card, searched_card
from pinas_models.cards.published import load_facts, render_card, write_cards
from pinas_models.inspect.costs import measure_costs

ROOT = Path(__file__).parents[2]
CARDS = ROOT / 'model_cards'
FACTS = (ROOT / 'pinas_models' / 'cards' / 'facts.yaml').read_text(encoding='utf-8')
NAMES = ('pinas_cls.in1k', 'pinas_trans.coco', 'pinas_trans.ade20k', 'pinas_trans.cityscapes', 'pinas_mini.cifar10')
OF_AUTHORS = NAMES[:4]

# The authors' numbers, typed from their README and paper once more.
README = {
    'pinas_cls.in1k': [('image-classification', 'imagenet-1k', 81.6), ('image-classification', 'imagenet-1k', 95.7)],
    'pinas_trans.coco': [('object-detection', 'coco', 44.07), ('image-segmentation', 'coco', 39.50)],
    'pinas_trans.ade20k': [('image-segmentation', 'ade20k', 81.27), ('image-segmentation', 'ade20k', 45.47)],
    'pinas_trans.cityscapes': [('image-segmentation', 'cityscapes', 80.70)],
}
TABLE_1 = """
ResNeSt-50 27.5M 5.42G 64.6 80.7 95.3
α 27.1M 5.38G 65.0 81.2 95.4
β 27.2M 5.39G 65.1 81.2 95.6
γ 27.0M 5.30G 65.0 81.1 95.6
δ 26.9M 5.30G 65.0 81.0 95.4
ε 26.9M 5.42G 65.0 81.0 95.4
"""
TABLE_2 = """
ResNet-50 25.6M 4.12G 835.9 2.55G 78.4
SENet-50 27.7M 4.25G - - 78.9
SKNet-50 27.5M 4.47G - - 79.2
EfficientNet-B3 12.2M 1.88G 490.5 9.25G 81.1
ResNeSt-50 27.5M 5.42G 561.6 4.16G 81.1
SPOS 27.1M 5.43G 536.4 4.12G 81.04±0.03
FairNAS 26.9M 5.31G 541.7 3.87G 81.05±0.06
DNA 26.8M 5.41G 571.6 3.71G 81.1*
FBNetV2 26.8M 5.29G 478.7 3.89G 81.1*
TuNAS 26.8M 5.39G 554.8 4.95G 81.1*
cls 27.1M 5.38G 556.8 4.07G 81.6
"""
TABLE_5 = """
ResNet-50 39.93±0.04 35.99±0.06
ResNeSt-50 42.81±0.02 38.14±0.01
cls 43.72 39.13
trans 44.11±0.04 39.48±0.02
"""
TABLE_6 = """
ResNet-50 80.66±0.27 42.74±0.64 78.42±0.30
ResNeSt-50 81.22±0.05 45.18±0.06 80.08±0.20
trans 81.31±0.04 45.49±0.02 80.40±0.30
"""
TABLES = {
    'pinas_cls.in1k': [TABLE_2, TABLE_1],
    'pinas_trans.coco': [TABLE_5, TABLE_1],
    'pinas_trans.ade20k': [TABLE_6, TABLE_1],
    'pinas_trans.cityscapes': [TABLE_6, TABLE_1],
    'pinas_mini.cifar10': [],
}
HEADERS = {
    TABLE_1: 'parameters FLOPs Acc@S top-1 top-5',
    TABLE_2: 'parameters FLOPs images/s GPU-memory top-1',
    TABLE_5: 'box-AP mask-AP',
    TABLE_6: 'ADE20K-pixel-accuracy ADE20K-mean-IoU Cityscapes-mean-IoU',
}

# Counted with the authors' own counter: parameters, the same with BN statistics, MACs, FLOPs; with 1000 classes.
COUNTS = {
    'pinas_cls': (27_046_278, 27_109_898, 5_332_293_584, 5_377_512_288),
    'pinas_trans': (27_039_016, 27_102_152, 5_253_644_608, 5_300_882_944),
    'pinas_resnest50': (27_483_240, 27_547_816, 5_371_160_576, 5_415_832_320),
}
FC_PARAMS, FC_MACS = 2048 * 1000 + 1000, 2048 * 1000

# Numbers of the authors' recipe, transforms and protocols that the text mentions.
RECIPE = {
    'pinas_cls.in1k': '270 512 50 1 2 2080 128 300 224 256 3 2010',
    'pinas_trans.coco': '270 512 1 5 2017 90,000 16 0.02 60,000 80,000 640 800 80 50',
    'pinas_trans.ade20k': '270 512 1 6 8 120 520 480 0.5 0.75 1 1.25 1.5 1.75 150 50 3',
    'pinas_trans.cityscapes': '270 512 1 6 8 240 2048 768 0.75 1 1.25 1.5 1.75 2 2.25 50 3',
    'pinas_mini.cifar10': '10 1.0 4 65,536 2020',
}
SEARCH = '16 4 100 192 8 50 1,000'
# Of the paper, of the measurement of parity, and of the general text: strides, 2 images per device, GroupNorm of 32.
GENERAL = '2021 2026 11 24 2.14.1 32 2 8 16 1 3'


def read(name):
    return (CARDS / name / 'README.md').read_text(encoding='utf-8')


def make(name):
    return timm.create_model(name, device='meta').eval()


def tables_of(text):
    """Tables of a Markdown text: the header's cells, the rows' cells and the line below the table."""
    lines, tables = text.splitlines(), []
    for i, line in enumerate(lines):
        if re.fullmatch(r'\|(---\|)+', line):
            end = next(j for j in range(i + 1, len(lines)) if not lines[j].startswith('|'))
            cells = [
                [cell.strip() for cell in row.strip('|').split('|')] for row in (lines[i - 1], *lines[i + 1 : end])
            ]
            tables.append((cells[0], cells[1:], '\n'.join(lines[end : end + 2])))
    return tables


def line_of(text, beginning):
    return next(line for line in text.splitlines() if line.startswith(beginning))


each_card = pytest.mark.parametrize('name', NAMES)


def test_there_is_a_card_for_every_name_with_weights():
    published = timm.list_models('pinas_*', pretrained=True)
    assert sorted(published) == sorted(NAMES) == sorted(load_facts()['cards'])
    assert sorted(path.name for path in CARDS.iterdir()) == sorted(NAMES)


def test_making_the_cards_again_changes_nothing(tmp_path):
    """If this fails: make cards."""
    paths = write_cards(tmp_path)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in paths} == {
        path.relative_to(CARDS): path.read_bytes() for path in CARDS.rglob('*') if path.is_file()
    }


@each_card
def test_card_passes_its_own_check(name):
    check_card(CARDS / name / 'README.md', make(name))


# Front matter


@each_card
def test_front_matter(name):
    data = ModelCard(read(name)).data
    cfg = timm.get_pretrained_cfg(name)
    assert data.library_name == 'timm'
    assert data.pipeline_tag == ('image-classification' if cfg.num_classes else 'image-feature-extraction')
    assert {'timm', data.pipeline_tag} <= set(data.tags)
    assert 'transformers' not in data.tags
    if name in OF_AUTHORS:
        assert (data.license, data.license_name, data.license_link) == (
            'other',
            'unstated',
            'https://github.com/Ernie1/Pi-NAS',
        )
    else:
        assert data.license == cfg.license == 'apache-2.0'
    assert data.datasets[0] == ('cifar10' if 'mini' in name else 'imagenet-1k')
    assert data.datasets[-1] == {'in1k': 'imagenet-1k'}.get(name.split('.')[1], name.split('.')[1])


@pytest.mark.parametrize('name', OF_AUTHORS)
def test_model_index_holds_the_authors_results(name):
    data = ModelCard(read(name)).data
    assert data.model_name == name
    assert all(isinstance(result, EvalResult) for result in data.eval_results)
    assert [(r.task_type, r.dataset_type, r.metric_value) for r in data.eval_results] == README[name]
    for result in data.eval_results:
        assert result.metric_name.endswith('(reported by the authors)')
        assert result.source_url.startswith('https://github.com/Ernie1/Pi-NAS')
    # Written and read again it is the same: nothing that the Hub would drop.
    again = ModelCard(str(ModelCard(read(name))))
    assert again.data.to_dict() == data.to_dict()


# Numbers


@each_card
def test_counts(name):
    text, (architecture, _) = read(name), name.split('.')
    model, size = make(name), 32 if 'mini' in name else 224
    counter = FlopCounterMode(display=False)
    with counter:
        model(torch.empty(1, 3, size, size, device='meta'))
    params, macs = sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2
    statistics = sum(b.numel() for n, b in model.named_buffers() if 'running' in n)
    if architecture in COUNTS:
        without_head = architecture == 'pinas_trans'
        total, with_statistics, all_macs, flops = COUNTS[architecture]
        assert params == total - without_head * FC_PARAMS
        assert params + statistics == with_statistics - without_head * FC_PARAMS
        assert macs == all_macs - without_head * FC_MACS
        assert f' {flops - without_head * FC_MACS:,} (' in line_of(text, '- FLOPs by')
    assert line_of(text, '- Parameters: ') == f'- Parameters: {params:,}'
    assert line_of(text, '- Parameters and running').endswith(f': {params + statistics:,}')
    assert f' {macs:,} at {size} x {size} px' in line_of(text, '- Multiply')
    assert f' {4 * (params + statistics) + 8 * batch_norms(model):,} bytes of weights' in line_of(text, '- Memory')
    assert 'counts are measured here' in text

    stages = next(rows for header, rows, below in tables_of(text) if header[0] == 'stage' and 'Measured here' in below)
    flops = counter.get_flop_counts()
    assert ''.join(row[1] for row in stages).replace(' ', '') == ''.join(map(str, model.choices))
    for (layer, choices, blocks, _, _, stage_params, stage_macs), index in zip(stages, range(1, 5), strict=True):
        assert layer == f'layer{index}'
        assert blocks == ', '.join(pinas_models.BLOCK_CHOICES[int(c)].name for c in choices.split())
        assert stage_params == f'{sum(p.numel() for p in model.get_submodule(layer).parameters()):,}'
        assert stage_macs == f'{sum(flops[f"PinasNet.{layer}"].values()) // 2:,}'


def batch_norms(model):
    """Number of counters of batches, 8 bytes each."""
    return sum(n.endswith('num_batches_tracked') for n, _ in model.named_buffers())


@each_card
def test_comparison_with_the_baseline_is_counted_here(name):
    rows = next(rows for header, rows, _ in tables_of(read(name)) if header[-2] == "FLOPs by the authors' rule")
    assert rows[0][0] == name
    assert {row[-1] for row in rows} == {'measured here'}
    if name in OF_AUTHORS:
        params, _, macs, flops = COUNTS['pinas_resnest50']
        if 'trans' in name:
            params, macs, flops = params - FC_PARAMS, macs - FC_MACS, flops - FC_MACS
        assert rows[1][1:] == [f'{params:,}', f'{macs:,}', f'{flops:,}', 'measured here']


@pytest.mark.parametrize('name', OF_AUTHORS)
def test_tables_are_the_authors_and_say_so(name):
    tables = [(header, rows) for header, rows, _ in tables_of(read(name)) if header[0] == 'network'][1:]
    assert len(tables) == len(TABLES[name])
    for (header, rows), expected in zip(tables, TABLES[name], strict=True):
        assert ' '.join(cell.replace(' ', '-') for cell in header[1:-1]) == HEADERS[expected]
        lines = [line.split() for line in expected.strip().splitlines()]
        assert [row[1:-1] for row in rows] == [line[1:] for line in lines]
        assert all(line[0] in row[0] for row, line in zip(rows, lines, strict=True))
        assert {row[-1] for row in rows} == {'reported by the authors'}


@each_card
def test_results_table(name):
    rows = next(rows for header, rows, _ in tables_of(read(name)) if header[0] == 'metric')
    if name in OF_AUTHORS:
        assert [float(row[1]) for row in rows] == [value for _, _, value in README[name]]
        assert {row[-1] for row in rows} == {'reported by the authors'}
    else:
        assert {row[-1] for row in rows} <= {'measured here', '-'}


@each_card
def test_every_row_with_a_number_says_where_it_comes_from(name):
    for header, rows, below in tables_of(read(name)):
        if header[0] == 'choice':  # what the blocks are: no measurement
            continue
        if header[-1] == 'source':
            labels = {row[-1] for row in rows if re.search(r'\d', ' '.join(row[1:-1]))}
            assert labels <= {'measured here', 'reported by the authors', '-'}
            assert all(row[-1] != '-' or 'not measured yet' in row for row in rows)
        else:
            assert 'Measured here' in below, header


@each_card
def test_no_number_in_the_text_comes_from_nowhere(name):
    """Counts and tables are checked above; what is left must be of the authors' recipe or the general text."""
    text = read(name).split('\n---\n', 1)[1]
    text = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|<http[^>]*>', ' ', text, flags=re.DOTALL)
    text = '\n'.join(line for line in text.splitlines() if not line.startswith(('|', '- Para', '- Mult', '- FLOPs')))
    text = re.sub(r'^(- Activations:|- Memory|Measured here on) .*$', '', text, flags=re.MULTILINE)
    allowed = set(f'{RECIPE[name]} {GENERAL}'.split()) | widths(make(name))
    if name in OF_AUTHORS:
        allowed |= set(SEARCH.split()) | {'224', '0.875', '1000'}
        allowed |= {'4.3e-06', '9.04'} if 'cls' in name else {'1.3e-05', '12.8'}
    # What is a name and no number: ResNet-50, ADE20K, Apache-2.0, a commit.
    words = re.sub(r'Apache-2\.0|commit \w+|\b[A-Za-zΠ][\w/-]*\d[\w-]*', ' ', text)
    found = set(re.findall(r'\d[\d,.]*(?:e-\d+)?(?<![.,])', words))
    assert found <= allowed, f'{name}: {sorted(found - allowed)}'


def widths(model):
    """Widths that the limits may name."""
    norms = {m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.num_features % 32}
    odd = {m.out_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels % 8}
    return {str(width) for width in norms | odd}


def test_parity_is_as_good_as_the_card_says():
    parity = load_facts()['cards']['pinas_cls.in1k']['parity']
    fixture = load_fixture('cls_32')
    model = make('pinas_cls')
    model.load_state_dict(filled_state_dict(fixture), strict=True, assign=True)
    with torch.inference_mode():
        difference = (model(fixture.input()) - torch.from_numpy(fixture.arrays['logits'])).abs().max().item()
    assert parity['largest'] == pytest.approx(abs(fixture.arrays['logits']).max(), rel=1e-2)
    # Rounding differs between machines; ten times more would be another computation.
    assert difference < 10 * parity['difference'] < 1e-4


@each_card
def test_what_a_reader_needs_is_there(name):
    text = read(name)
    assert re.search(rf'^# Model card for {re.escape(name)}$', text, re.MULTILINE)
    sections = ['Model details', 'Results', 'Usage', 'Architecture', 'Comparison', 'Search and training']
    sections += ['Where the weights come from', 'Limits', 'Intended use and bias', 'Citation']
    positions = [text.index(f'\n## {section}\n') for section in sections]
    assert positions == sorted(positions)
    assert text.count('```python') == text.count('import pinas_models  # registers the models') == 3
    assert 'rw2019timm' in text
    assert 'peng2021pinas' in text


# The record of the network made here


def with_record(**changes):
    """The facts with a complete record of a measurement, as it is filled in after the run."""
    facts = yaml.safe_load(FACTS)
    facts['sources']['cifar10'].update(command='pinas-models validate DATA', date='2030-01-02', hardware='a CPU')
    card = facts['cards']['pinas_mini.cifar10']
    card['results'][0]['value'], card['results'][1]['value'] = '91.23', '99.70'
    card['run'] = dict(
        seed=7,
        commands=['pinas-search run --config cifar10 --seed 7', 'pinas-search retrain --config long'],
        held_out_score='78.90',
        hours={'learn': '0.61', 'retrain': '1.72'},
        random={'00000000': '90.12'},
    )
    card['run'].update(changes)
    return yaml.safe_dump(facts)


def test_a_recorded_run_is_in_the_card(tmp_path):
    text = render_card('pinas_mini.cifar10', load_facts(with_record()))
    data = ModelCard(text).data
    assert [(r.dataset_name, r.metric_value) for r in data.eval_results] == [
        ('CIFAR-10 (JPEG)', 91.23),
        ('CIFAR-10 (JPEG)', 99.7),
    ]
    assert all(r.metric_name.endswith('(measured here)') for r in data.eval_results)
    rows = {row[0]: row for _, rows, _ in tables_of(text) for row in rows}
    assert rows['top-1 accuracy'][1:] == ['91.23', 'CIFAR-10 (JPEG), test', 'measured here']
    assert rows['seed'][1:] == ['7', 'measured here']
    assert rows['retrain, hours'][1:] == ['1.72', 'measured here']
    assert rows['a random network, trained alike'][1:] == ['00000000', '90.12', 'measured here']
    assert 'Measured here on 2030-01-02 with `pinas-models validate DATA`, a CPU.' in text
    assert 'pinas-search run --config cifar10 --seed 7\npinas-search retrain --config long\n' in text
    assert 'not recorded' not in text
    assert 'not measured' not in text.split('## Limits')[0]
    (tmp_path / 'README.md').write_text(text, encoding='utf-8')
    check_card(tmp_path / 'README.md', make('pinas_mini.cifar10'))


def test_half_a_record_is_an_error():
    with pytest.raises(ValueError, match=r'pinas_mini\.cifar10: the card facts lack run\.hours, run\.seed'):
        load_facts(with_record(seed=None, hours=None))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("value: '81.6', source: readme", "value: '81.6', source: memory", "source of the top-1 accuracy is 'memory'"),
        ('  coco:\n    source: paper', '  coco:\n    source: parity', "table coco .* 'parity'"),
        ("['43.72', '39.13']", "['43.72']", 'table coco .* not as long'),
    ],
)
def test_a_number_without_source_is_an_error(old, new, message):
    assert FACTS.count(old) == 1
    with pytest.raises(ValueError, match=message):
        load_facts(FACTS.replace(old, new))


def test_unknown_card():
    with pytest.raises(ValueError, match=r"'pinas_cls\.mine'; they know pinas_cls\.in1k"):
        render_card('pinas_cls.mine')


# Checking a card, and the card of a folder that has none


@pytest.fixture(scope='module')
def network():
    return timm.create_model('pinas_mini', choices='31203121', num_classes=7, device='meta')


def written(tmp_path, text):
    path = tmp_path / 'README.md'
    path.write_text(text, encoding='utf-8')
    return path


def test_the_card_that_a_search_writes_passes(tmp_path, network):
    params, macs = sum(p.numel() for p in network.parameters()), measure_costs(network, (3, 32, 32)).macs
    card = searched_card(
        'mini 31203121',
        origin='A network of the space `mini`.',
        rows=[('stage 1', '3 1', '2s2x40d, 2s1x64d')],
        params=params,
        macs=macs,
        image_size=32,
        facts={'Data': 'digits', 'Command': '`pinas-search run`'},
    )
    assert '| stage 1 | 3 1 | 2s2x40d, 2s1x64d |\n' in card
    assert card.index('- Data: digits\n') < card.index('- Command: `pinas-search run`\n')
    check_card(written(tmp_path, card), network)
    for old, new in ((f'{params:,}', f'{params + 1:,}'), (f'{macs:,}', f'{macs + 1:,}')):
        assert card.count(old) == 1
        with pytest.raises(ValueError, match=new):
            check_card(written(tmp_path, card.replace(old, new)), network)


def test_folder_card_passes_and_claims_nothing(tmp_path, network):
    card = folder_card(network, 'somebody/mine', license='mit', origin='Trained on a beach.')
    check_card(written(tmp_path, card), network)
    data = ModelCard(card).data
    assert (data.license, data.pipeline_tag, data.library_name) == ('mit', 'image-classification', 'timm')
    assert data.eval_results is None
    assert '- Accuracy: not measured' in card
    assert 'Trained on a beach.' in card
    assert "create_model('hf-hub:somebody/mine', pretrained=True)" in card
    stages = next(rows for header, rows, _ in tables_of(card) if header[0] == 'stage')
    assert [row[1] for row in stages] == ['3 1', '2 0', '3 1', '2 1']


@pytest.mark.parametrize(('name', 'kwargs'), [('resnet18', {}), ('pinas_mini', dict(num_classes=0, in_chans=1))])
def test_folder_card_of_other_models(tmp_path, name, kwargs):
    model = timm.create_model(name, **kwargs)
    card = folder_card(model, 'somebody/mine')
    check_card(written(tmp_path, card), model)
    assert ('layer1' in card) == name.startswith('pinas')
    data = ModelCard(card).data
    assert data.pipeline_tag == ('image-feature-extraction' if 'num_classes' in kwargs else 'image-classification')
    assert data.license is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda card: card.split('---\n', 2)[2], 'has no front matter'),
        (lambda card: '', 'has no front matter'),
        (lambda card: card.replace('library_name: timm', 'library_name: [timm'), 'cannot read'),
        (lambda card: re.sub(r'\A---.*?\n---', '---\n- a list\n---', card, flags=re.DOTALL), 'cannot read'),
        (lambda card: card.replace('tags:', 'model-index:\n- name: x\n  results:\n  - task: {}\ntags:'), 'cannot read'),
        (lambda card: card.replace('tags:', 'model-index: 3\ntags:'), 'cannot read'),
        (lambda card: card.replace('library_name: timm', 'library_name: keras'), "library_name 'keras'"),
        (lambda card: card.replace('library_name: timm\n', ''), 'library_name None'),
        (lambda card: card.replace('- Parameters: ', '- Parameters: 1'), 'the model has'),
        (lambda card: card.replace('- Parameters: ', '- Size: '), 'does not state the number of parameters'),
        (lambda card: card.replace('accumulates: ', 'accumulates: 1'), 'multiply-accumulates at 32x32 px, not'),
        (lambda card: card + '\nTODO: accuracy\n', r"line \d+: 'TODO' is a placeholder"),
        (lambda card: card + '\n{{ accuracy }}\n', 'is a placeholder'),
        (lambda card: card + '\n[More Information Needed]\n', 'is a placeholder'),
    ],
)
def test_what_is_wrong_in_a_card_is_found(tmp_path, network, change, message):
    card = folder_card(network, 'somebody/mine')
    changed = change(card)
    assert changed != card
    with pytest.raises(ValueError, match=message) as raised:
        check_card(written(tmp_path, changed), network)
    assert 'README.md' in str(raised.value)
    assert '\n' not in str(raised.value)


def test_card_of_another_model_is_found(tmp_path, network):
    card = folder_card(network, 'somebody/mine')
    with pytest.raises(ValueError, match='is it the same model'):
        check_card(written(tmp_path, card), make('pinas_mini'))


def test_line_ends_of_windows(tmp_path, network):
    path, card = tmp_path / 'README.md', folder_card(network, 'somebody/mine')
    params = sum(parameter.numel() for parameter in network.parameters())
    for text, fault in ((card, ''), (card.replace(f'{params:,}', f'{params + 1:,}'), f'states {params + 1:,} param')):
        path.write_bytes(text.replace('\n', '\r\n').encode())
        with pytest.raises(ValueError, match=fault) if fault else nullcontext():
            check_card(path, network)
