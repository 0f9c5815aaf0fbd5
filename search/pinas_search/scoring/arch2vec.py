"""arch2vec: a predictor without a supernet, on a latent space of networks that is learned without labels.

Yan et al. (NeurIPS 2020). A graph auto-encoder (``vgae``) learns to describe networks, a regression with uncertainty
(``dngo``) learns from some labelled ones. Without labels it has no ranking.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from pinas_models.common.files import atomic_path
from pinas_models.common.text import one_line

from ..config.types import NonNegativeInt, PositiveInt
from ..randomness import generator
from ..spaces import ChoicePath, Space
from .base import Score, Tools
from .dngo import Dngo, Posterior
from .tables import read_table
from .vgae import Objective, Vgae, pretrain, stack_graphs

__all__ = ['NEEDS', 'Arch2vec', 'LatentOptions', 'LatentSpace', 'Options', 'create']

NEEDS: frozenset[str] = frozenset()
_SHARE = 0.9  # of a small space that the encoder sees (the authors')
_TABLE = 20_000  # a space of at most this many paths is encoded once and whole
_CHUNK = 4096
_SETTINGS = ('epochs', 'graphs', 'operations', 'kl', 'seed')  # what the weights of an encoder depend on


@dataclass(frozen=True)
class LatentOptions:
    """How the latent space is learned; the defaults are the released code.

    Attributes:
        encoder: File of the trained encoder (``.safetensors``): read if it is there, written if not. If empty, it is
            trained anew in every process, to the same weights.
        epochs: Passes over the graphs.
        graphs: Most graphs that it is trained on. A space with at most so many gives 90 % of them, a larger one so many
            random ones.
        operations: Activation of the decoded operations: ``sigmoid`` (released code), ``softmax`` (configuration).
        kl: ``code`` divides the KL divergence by the number of nodes and graphs twice (released code), ``mean`` once.
        seed: Seed of the training, and of the regression.
    """

    encoder: str = ''
    epochs: PositiveInt = 10
    graphs: PositiveInt = 15_625
    operations: Literal['sigmoid', 'softmax'] = 'sigmoid'
    kl: Literal['code', 'mean'] = 'code'
    seed: NonNegativeInt = 0


class LatentSpace:
    """Networks of a space as points: the mean of the codes of their nodes."""

    def __init__(self, space: Space, options: LatentOptions) -> None:
        """Define it; the encoder is trained or read when it is first used.

        Args:
            space: The space.
            options: How it is learned.

        Raises:
            ValueError: If the space has no graphs.
        """
        self.space, self.options = space, options
        space.graph(tuple(choices[0] for choices in space.allowed))

    @cached_property
    def encoder(self) -> Vgae:
        """The trained auto-encoder.

        Raises:
            ValueError: If the file holds the encoder of another space or of other options.
            OSError: If the file cannot be written.
        """
        file = Path(self.options.encoder) if self.options.encoder else None
        if file is not None and file.exists():
            return self._read(file)
        options = self.options
        model = pretrain(
            stack_graphs([self.space.graph(path) for path in self._training_paths()]),
            epochs=options.epochs,
            objective=Objective(options.operations, options.kl),
            seed=options.seed,
        )
        if file is not None:
            with atomic_path(file) as temporary:
                save_file(model.state_dict(), temporary, {'arch2vec': json.dumps(self._facts)})
        return model

    def embed(self, paths: Sequence[ChoicePath] | np.ndarray) -> np.ndarray:
        """Points [N, D], float64, of paths [N, L]."""
        rows = np.asarray(paths, dtype=np.int64).reshape(-1, self.space.num_positions)
        if self.space.size > _TABLE:
            return self._encode(rows)
        points, places = self._table
        return points[[places[path] for path in map(tuple, rows.tolist())]]

    @cached_property
    def _table(self) -> tuple[np.ndarray, dict[ChoicePath, int]]:
        paths = list(itertools.product(*self.space.allowed))
        return self._encode(np.array(paths)), {path: row for row, path in enumerate(paths)}

    def _encode(self, paths: np.ndarray) -> np.ndarray:
        encoder, points = self.encoder, []
        for start in range(0, len(paths), _CHUNK):
            graphs = stack_graphs([self.space.graph(path) for path in paths[start : start + _CHUNK].tolist()])
            with torch.no_grad():
                points.append(encoder.encode(graphs)[0].mean(1))
        return torch.cat(points).double().numpy()

    def _training_paths(self) -> list[ChoicePath]:
        numbers, most = generator(self.options.seed, 'arch2vec/graphs'), self.options.graphs
        if self.space.size <= most:
            paths = list(itertools.product(*self.space.allowed))
            kept = torch.randperm(len(paths), generator=numbers)[: max(1, int(_SHARE * len(paths)))]
            return [paths[row] for row in kept.tolist()]
        return [self.space.sample(numbers) for _ in range(most)]

    @property
    def _facts(self) -> dict[str, object]:
        """What the weights depend on."""
        options = {name: value for name, value in asdict(self.options).items() if name in _SETTINGS}
        return {'space': self.space.name, **options}

    def _read(self, file: Path) -> Vgae:
        try:
            with safe_open(file, 'pt') as content:
                found = json.loads((content.metadata() or {}).get('arch2vec', '{}'))
            tensors = load_file(file)
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f'{file} is no encoder of arch2vec ({one_line(error)}): delete it or name another'
            ) from error
        wrong = [
            f'{name} {found.get(name)!r}, here {value!r}'
            for name, value in self._facts.items()
            if found.get(name) != value
        ]
        if wrong:
            raise ValueError(f'{file} holds another encoder ({"; ".join(wrong)}): name another file')
        labels = tensors['decoder.weight.bias'].numel()
        model = Vgae(labels, operations=self.options.operations)
        model.load_state_dict(tensors)
        return model.eval()


class Arch2vec:
    """Predicts values of paths from those it has observed.

    Attributes:
        facts: How many labels the predictions rest on.
    """

    def __init__(self, latent: LatentSpace, *, epochs: int = 100, seed: int = 0) -> None:
        """Begin without labels.

        Args:
            latent: The latent space.
            epochs: Passes of the regression's network over the labels.
            seed: Its seed.
        """
        self.latent, self.epochs, self.seed = latent, epochs, seed
        self._paths: list[ChoicePath] = []
        self._values: list[float] = []
        self._model: Dngo | None = None

    @property
    def facts(self) -> dict[str, object]:
        """How many labels the predictions rest on."""
        return {'labels': self.num_labels}

    @property
    def num_labels(self) -> int:
        """How many labels were observed."""
        return len(self._values)

    def observe(self, paths: Sequence[ChoicePath], values: Sequence[float]) -> None:
        """Take labelled paths; bigger values are better. Values that are not finite teach nothing."""
        for path, value in zip(paths, values, strict=True):
            if np.isfinite(value):
                self._paths.append(self.latent.space.validate(path))
                self._values.append(float(value))
        self._model = None

    def predict(self, paths: Sequence[ChoicePath] | np.ndarray) -> Posterior:
        """The posterior of the values of paths [N, L].

        Raises:
            ValueError: If fewer than two labels were observed.
        """
        if self.num_labels < 2:
            raise ValueError(f'arch2vec has {self.num_labels} labels: it ranks nothing before it has observed two')
        if self._model is None:
            points = self.latent.embed(self._paths)
            self._model = Dngo(points, np.array(self._values), epochs=self.epochs, seed=self.seed)
        return self._model.predict(self.latent.embed(paths))

    def score(self, paths: Sequence[ChoicePath]) -> list[Score]:
        """Score paths by the mean of the posterior."""
        posterior = self.predict(paths)
        rows = zip(posterior.mean.tolist(), posterior.std.tolist(), strict=True)
        return [Score(mean, {'std': std}) for mean, std in rows]


@dataclass(frozen=True)
class Options(LatentOptions):
    """Options of the scorer.

    Attributes:
        labels: CSV file (or ``.csv.gz``) of labelled networks.
        key: Its column that names the network.
        column: Its column of values; bigger is better.
        num_labels: How many of them are used, drawn at random with ``seed``; all if there are fewer. The quality of the
            ranking depends on it, so say it beside every result.
        fit_epochs: Passes of the regression's network over the labels.
    """

    labels: str = ''
    key: str = 'arch'
    column: str = 'accuracy'
    num_labels: PositiveInt = 400
    fit_epochs: PositiveInt = 100


def create(tools: Tools, options: Options) -> Arch2vec:
    """Build the scorer.

    Raises:
        FileNotFoundError: If there are no labels.
        ValueError: If the labels or the space do not fit.
    """
    space = tools.space
    if not options.labels:
        raise ValueError(
            'search.scorer arch2vec predicts from labelled networks: name a CSV file of them at '
            'search.scorer_options.labels, with columns for the network and its accuracy'
        )
    table = read_table(Path(options.labels), options.key, lambda text: space.encode(space.decode(text)))
    values = table.numbers(options.column)
    scorer = Arch2vec(LatentSpace(space, options), epochs=options.fit_epochs, seed=options.seed)
    order = torch.randperm(len(values), generator=generator(options.seed, 'arch2vec/labels')).tolist()
    kept = sorted(order[: options.num_labels])
    scorer.observe([space.decode(table.keys[row]) for row in kept], values[kept].tolist())
    return scorer
