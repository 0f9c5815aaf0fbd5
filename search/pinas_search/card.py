"""The model card of a network that a run found."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from pinas_models import BLOCK_CHOICES

from .config import Config
from .spaces import Path, ResNeStSpace

__all__ = ['model_card']


def model_card(space: ResNeStSpace, path: Path, result: Mapping[str, Any], config: Config, run_dir: FilePath) -> str:
    """Write the card: architecture per stage, data, seed, measured accuracy, command.

    Args:
        space: The space of the path.
        path: The network.
        result: The record of the retraining.
        config: Configuration of the run.
        run_dir: The run directory, for the name.

    Returns:
        Markdown with the Hub's front matter.
    """
    rows, start = [], 0
    for stage, depth in enumerate(space.layers, start=1):
        blocks = ', '.join(BLOCK_CHOICES[choice].name for choice in path[start : start + depth])
        rows.append(f'| layer{stage} | {" ".join(map(str, path[start : start + depth]))} | {blocks} |')
        start += depth
    data = config.data.source if config.data.root is None else FilePath(config.data.root).name
    table = '\n'.join(rows)
    command = ' '.join([FilePath(sys.argv[0]).name, *sys.argv[1:]])
    return f"""---
tags: [image-classification, timm, neural-architecture-search]
pipeline_tag: image-classification
library_name: timm
---
# Model card for {space.architecture} {space.encode(path)}

A network of the space `{space.name}`, trained as `{result['name']}` of the run `{run_dir.name}`.

| stage | choices | blocks (radix s cardinality x base width) |
|---|---|---|
{table}

- Parameters {result['params']:,}; multiply-accumulates {result['macs']:,} at {space.image_size} px
- Data: {data}, image size {config.data.image_size}; seed {config.seed}
- Top-1, measured here: {result['accuracy']:.4f} on {result['images']} {result['accuracy_on']} images
- Weights: {result['epochs']} epochs from {result['start']}; supernet method `{config.learn.method}`
- Command: `{command}`

```python
import timm, pinas_models  # the import registers the architecture
model = timm.create_model('local-dir:PATH_TO_THIS_FOLDER', pretrained=True)
```
"""
