"""The cards of the published weights, made from ``facts.yaml`` and from the code."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from torch import nn

from ..choices import BLOCK_CHOICES
from ..inspect.costs import measure_costs, network_stages
from ..pinas import PinasNet
from .rendering import render

__all__ = ['load_facts', 'render_card', 'write_cards']


# How the reader is told where a number comes from.
_LABELS = {'authors': 'reported by the authors', 'measured': 'measured here'}


def load_facts(text: str | None = None) -> dict[str, Any]:
    """Read the facts that the code cannot tell.

    Args:
        text: YAML; None reads the ``facts.yaml`` that comes with the package.

    Raises:
        ValueError: If a number has no source, or the record of a measurement is filled in by halves.
    """
    facts: dict[str, Any] = yaml.safe_load(
        (files(__package__) / 'facts.yaml').read_text(encoding='utf-8') if text is None else text
    )
    kinds = {name: source['kind'] for name, source in facts['sources'].items()}
    for name, table in facts['tables'].items():
        if kinds.get(table['source']) != 'authors':
            raise ValueError(
                f'table {name} of the card facts has the source {table["source"]!r}, not one of the authors'
            )
        if any(len(row) != len(table['columns']) for row in table['rows'].values()):
            raise ValueError(f'table {name} of the card facts has a row that is not as long as its columns')
    for name, card in facts['cards'].items():
        for result in card['results']:
            if result['source'] not in kinds:
                raise ValueError(f'{name}: the source of the {result["name"]} is {result["source"]!r}, which is none')
        if 'run' in card:
            _check_record(name, card, facts['sources'])
    return facts


def _check_record(name: str, card: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> None:
    """A measurement is recorded whole or, before it was made, not at all."""
    record = {f'run.{key}': value for key, value in card['run'].items()}
    record |= {result['name']: result['value'] for result in card['results']}
    for source in {result['source'] for result in card['results']}:
        record |= {f'sources.{source}.{key}': value for key, value in sources[source].items() if key != 'kind'}
    missing = [key for key, value in record.items() if value is None]
    if missing and len(missing) < len(record):
        raise ValueError(f'{name}: the card facts lack {", ".join(missing)}')


def render_card(name: str, facts: Mapping[str, Any] | None = None) -> str:
    """Write the card of published weights.

    Args:
        name: ``architecture.tag``, such as ``pinas_cls.in1k``.
        facts: What ``load_facts`` gives; None loads it.

    Returns:
        Markdown with the Hub's front matter.

    Raises:
        ValueError: If nothing is known of such weights.
    """
    facts = load_facts() if facts is None else facts
    if name not in facts['cards']:
        raise ValueError(f'the card facts know nothing of {name!r}; they know {", ".join(facts["cards"])}')
    card, sources = facts['cards'][name], facts['sources']
    cfg = timm.get_pretrained_cfg(name)
    model: PinasNet = timm.create_model(name, device='meta')
    costs = measure_costs(model, cfg.input_size)
    baseline = timm.create_model(**card['baseline']['model'], num_classes=model.num_classes, device='meta')
    largest = model.feature_info[-1]['reduction']
    widths = {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)}
    normalised = {m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    used = sorted({result['source'] for result in card['results'] if result['value'] is not None})
    values = {
        'name': name,
        'card': {'run': None, **card},
        'paper': facts['paper'],
        'license': facts['licenses'][card['license']],
        'tables': [facts['tables'][table] for table in card['tables']],
        'labels': {key: _LABELS[source['kind']] for key, source in sources.items()},
        'used_sources': [sources[key] for key in used],
        'any_measured': any(sources[key]['kind'] == 'measured' for key in used),
        'sources': sources,
        'config': cfg,
        'num_classes': model.num_classes,
        'num_features': model.num_features,
        'path': ''.join(map(str, model.choices)),
        'blocks': [(block.name, block.meaning) for block in BLOCK_CHOICES],
        'costs': costs,
        'stages': network_stages(model, costs),
        'baseline_costs': measure_costs(baseline, cfg.input_size),
        'strides': (largest // 2, largest // 4),
        'feature_shapes': _feature_shapes(name, cfg.input_size, largest),
        'dilated_shapes': _feature_shapes(name, cfg.input_size, largest // 4),
        'odd_widths': sorted(width for width in widths if width % 8),
        'widths_without_groupnorm': sorted(width for width in normalised if width % 32),
    }
    return render('card.md.j2', _front_matter(name, card, facts), values)


def _feature_shapes(name: str, input_size: tuple[int, ...], output_stride: int) -> list[tuple[int, ...]]:
    """Shapes of the feature maps that timm's ``features_only`` gives for one image."""
    backbone = timm.create_model(name, features_only=True, output_stride=output_stride, device='meta').eval()
    return [tuple(feature.shape) for feature in backbone(torch.empty(1, *input_size, device='meta'))]


def _front_matter(name: str, card: Mapping[str, Any], facts: Mapping[str, Any]) -> ModelCardData:
    terms = facts['licenses'][card['license']]
    results = []
    for result in card['results']:
        if result['value'] is None:
            continue
        source = facts['sources'][result['source']]
        results.append(
            EvalResult(
                task_type=result['task'],
                dataset_type=result['dataset'],
                dataset_name=result['dataset_name'],
                dataset_split=result['split'],
                metric_type=result['type'],
                metric_name=f'{result["name"]} ({_LABELS[source["kind"]]})',
                metric_value=float(result['value']),
                source_name=source.get('name'),
                source_url=source.get('url'),
            )
        )
    return ModelCardData(
        datasets=card['datasets'],
        library_name='timm',
        license=terms['id'],
        license_name=terms.get('name'),
        license_link=terms.get('link'),
        metrics=card['metrics'],
        pipeline_tag=card['pipeline_tag'],
        tags=[*card['tags'], 'timm', 'neural-architecture-search', 'arxiv:2108.09671'],
        model_name=name if results else None,
        eval_results=results or None,
    )


def write_cards(folder: Path) -> list[Path]:
    """Write all cards, ``<architecture.tag>/README.md`` each.

    Args:
        folder: Where to; made if missing.

    Returns:
        The files.
    """
    facts, paths = load_facts(), []
    for name in facts['cards']:
        path = folder / name / 'README.md'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render_card(name, facts), encoding='utf-8', newline='\n')
        paths.append(path)
    return paths
