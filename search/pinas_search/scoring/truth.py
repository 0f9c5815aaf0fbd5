"""True accuracies of networks: what stand-alone training gave, from a table that the user has.

No table comes with this package. A table says nothing about how it was made, and copies of NAS-Bench-201 with 12 and
with 200 epochs are about; the benchmark's own interface returns 12 epochs when it is not asked. So the number of epochs
is a required argument where a file has both, and the checksum of a CSV file is compared with the one that is known.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces import Space
from .ranking import kendall_tau
from .tables import read_table

__all__ = [
    'FIDELITIES',
    'NATS_DATASETS',
    'NATS_SEEDS',
    'SOURCES',
    'Truth',
    'load_truth',
    'name_in',
    'read_nats_bench',
    'read_truth',
]

FIDELITIES = (12, 200)
"""Epochs of the two trainings of every network in NATS-Bench; the short one is a training of its own."""

NATS_DATASETS = {
    'cifar10-valid': 'valid-accuracy',
    'cifar10': 'test-accuracy',
    'cifar100': 'test-accuracy',
    'ImageNet16-120': 'test-accuracy',
}
"""Data sets of NATS-Bench -> the accuracy that is read. cifar10-valid trains on half of CIFAR-10's training images."""

NATS_SEEDS = ('mean', '777', '888', '999')
"""The seeds of NATS-Bench's trainings, or the mean over those that a network was trained with."""

_API_FILE = 'NATS-tss-v1_0-3ffb9-simple'
_TABLE = 'b9c6c5c3fc3c8c830aa217d6d791faf40476d1341715d2dd5c43aba9ef2f6a76'
_KNOWN = {_TABLE: ('NATS-Bench topology v1.0, mean over seeds', 200)}

SOURCES = (
    f'tables of NAS-Bench-201 come from NATS-Bench (github.com/D-X-Y/NATS-Bench: the folder {_API_FILE}, needs '
    'pip install nats-bench) or from github.com/v-tao/nats-bench-landscape (nats_bench.csv at b307ae5fe6e8, '
    '3,024,008 bytes, networks in the column ArchitectureString); the table index,arch,cifar10,cifar100,imagenet16_120 '
    f'of the mean test accuracies after 200 epochs has the SHA-256 {_TABLE} unpacked'
)


@dataclass(frozen=True)
class Truth:
    """True accuracies.

    Attributes:
        keys: The networks.
        accuracies: Accuracy of each in the unit of the table, [N].
        file: Where they come from.
        column: The column, or the data set.
        fidelity: Epochs that the networks were trained for; None if it is not known.
        checksum: SHA-256 of the file, unpacked; of the API folder's list of networks.
        source: What the file is, if it is a known one.
        short: Accuracies after 12 epochs, [N], if the table has them beside longer ones.
        repeats: Accuracies of single trainings, [S, N], if the table has them beside their mean.
    """

    keys: tuple[str, ...]
    accuracies: np.ndarray
    file: str
    column: str
    fidelity: int | None
    checksum: str
    source: str | None = None
    short: np.ndarray | None = None
    repeats: np.ndarray | None = None

    def only(self, rows: Sequence[int]) -> Truth:
        """The truth of some of the networks, by their rows [M]."""
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            accuracies=self.accuracies[rows],
            short=None if self.short is None else self.short[rows],
            repeats=None if self.repeats is None else self.repeats[:, rows],
        )

    @property
    def agreement(self) -> float | None:
        """How well the truth agrees with itself: the mean tau between single trainings; None if they are not known.

        No score can be expected above it.
        """
        if self.repeats is None or len(self.repeats) < 2:
            return None
        pairs = [(i, j) for i in range(len(self.repeats)) for j in range(i)]
        return float(np.mean([kendall_tau(self.repeats[i], self.repeats[j]) for i, j in pairs]))

    def facts(self) -> dict[str, Any]:
        """What a report says about it."""
        return {
            'file': self.file,
            'column': self.column,
            'fidelity': self.fidelity,
            'checksum': self.checksum,
            'source': self.source,
        }


def name_in(space: Space) -> Callable[[str], str]:
    """Make one name, its digits, of all spellings of a network of a space; leave what is none of its networks."""

    def name(text: str) -> str:
        try:
            return space.encode(space.decode(text))
        except ValueError:
            return text

    return name


def load_truth(
    path: Path,
    column: str,
    *,
    key: str = 'arch',
    fidelity: int | None = None,
    seeds: str | None = None,
    normalize: Callable[[str], str] | None = None,
) -> Truth:
    """Read accuracies from a CSV table, or from the benchmark's own folder, which needs ``fidelity`` and ``seeds``.

    Args:
        path: The table or the folder.
        column: The column of the accuracies, or the data set.
        key: The column that names the network.
        fidelity: As in ``read_truth`` and ``read_nats_bench``.
        seeds: As in ``read_nats_bench``.
        normalize: As in ``read_truth``.

    Raises:
        FileNotFoundError: If it is missing; says where tables come from.
        ValueError: If it is no such table, or an argument is missing or wrong.
    """
    if not path.is_dir():
        if seeds is not None:
            raise ValueError('seeds is for the NATS-Bench folder; a CSV table has its seeds averaged or in columns')
        return read_truth(path, column, key=key, fidelity=fidelity, normalize=normalize)
    if fidelity is None or seeds is None:
        raise ValueError(
            f'{path} holds trainings of 12 and of 200 epochs and several seeds: give fidelity 12 or 200 and seeds '
            f'{", ".join(NATS_SEEDS)}'
        )
    return read_nats_bench(path, dataset=column, fidelity=fidelity, seeds=seeds, normalize=normalize)


def read_truth(
    path: Path,
    column: str,
    *,
    key: str = 'arch',
    fidelity: int | None = None,
    normalize: Callable[[str], str] | None = None,
) -> Truth:
    """Read accuracies from a CSV table.

    Further columns are ``<column>_12ep`` with accuracies after 12 epochs, ``<column>_seed_<i>`` with single trainings.

    Args:
        path: The file, ``.csv`` or ``.csv.gz``.
        column: The column of the accuracies.
        key: The column that names the network.
        fidelity: Epochs behind the accuracies, for a file that is not known.
        normalize: Makes one name of all spellings of a network; raises ``ValueError`` for what is none.

    Raises:
        FileNotFoundError: If the file is missing; says where tables come from.
        ValueError: If it is no such table, or known to be of another fidelity.
    """
    try:
        table = read_table(path, key, normalize)
        accuracies = table.numbers(column)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f'{error}; {SOURCES}') from error
    source, known = _KNOWN.get(table.checksum, (None, None))
    if None not in (known, fidelity) and known != fidelity:
        raise ValueError(f'{path} holds accuracies after {known} epochs, not {fidelity}')
    short = f'{column}_12ep'
    repeats = [name for name in table.cells if name.removeprefix(f'{column}_seed_').isdecimal()]
    return Truth(
        keys=table.keys,
        accuracies=accuracies,
        file=path.name,
        column=column,
        fidelity=known if fidelity is None else fidelity,
        checksum=table.checksum,
        source=source,
        short=table.numbers(short) if short in table.cells else None,
        repeats=np.stack([table.numbers(name) for name in repeats]) if repeats else None,
    )


def read_nats_bench(
    folder: Path, *, dataset: str, fidelity: int, seeds: str, normalize: Callable[[str], str] | None = None
) -> Truth:
    """Read accuracies from the benchmark's own folder through its package ``nats-bench``.

    Args:
        folder: The unpacked ``NATS-tss-v1_0-3ffb9-simple``.
        dataset: One of ``NATS_DATASETS``.
        fidelity: 12 or 200 epochs.
        seeds: One of ``NATS_SEEDS``; networks that were not trained with a seed are an error.
        normalize: As in ``read_truth``.

    Raises:
        FileNotFoundError: If the folder is none of the benchmark; says where to get it.
        ValueError: If an argument is wrong, or the package is not installed.
    """
    for label, value, known in (
        ('dataset', dataset, tuple(NATS_DATASETS)),
        ('fidelity', fidelity, FIDELITIES),
        ('seeds', seeds, NATS_SEEDS),
    ):
        if value not in known:
            raise ValueError(f'{label} of {folder} is {value!r}: it must be one of {", ".join(map(str, known))}')
    meta = folder / 'meta.pickle.pbz2'
    if not meta.is_file():
        raise FileNotFoundError(f'{folder} has no {meta.name}; {SOURCES}')
    try:
        nats_bench = importlib.import_module('nats_bench')
    except ImportError as error:
        raise ValueError(f'{folder} is read by the package nats-bench: pip install nats-bench') from error
    api = nats_bench.create(str(folder), 'tss', fast_mode=True, verbose=False)
    accuracies = np.empty(len(api.meta_archs))
    for index in range(len(accuracies)):
        trained_with = False if seeds == 'mean' else int(seeds)  # the package's word for the mean is False
        info = api.get_more_info(index, dataset, hp=str(fidelity), is_random=trained_with)
        accuracies[index] = info[NATS_DATASETS[dataset]]
    keys = tuple(api.meta_archs if normalize is None else map(normalize, api.meta_archs))
    checksum = hashlib.sha256(meta.read_bytes()).hexdigest()
    return Truth(keys, accuracies, folder.name, dataset, fidelity, checksum, f'NATS-Bench topology, seeds: {seeds}')
