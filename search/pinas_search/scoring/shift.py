"""Feature shift, similarity across paths and parameter shift of a supernet (paper Figures 1 and 5).

The paper draws them and does not define them; these are natural readings. Distances are relative, so that layers and
supernets of different scale can stand in one picture.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from ..spaces import ChoicePath
from ..supernets import ChainSupernet, Supernet

__all__ = ['PathFeatures', 'compare_features', 'parameter_shift']


@dataclass(frozen=True)
class PathFeatures:
    """How alike the features of the same images are on different paths.

    Attributes:
        layers: Names of the positions; the last feature map alone if the supernet is no chain.
        distances: Mean over the images of 2 |a - b| / (|a| + |b|) between the feature maps of two paths, [L, P, P].
        similarities: Mean cosine of the two, [L, P, P].
    """

    layers: tuple[str, ...]
    distances: np.ndarray
    similarities: np.ndarray

    @property
    def shift(self) -> np.ndarray:
        """Feature shift of each layer: the distance averaged over pairs of paths, [L]; from 0, all alike, to 2."""
        return self._over_pairs(self.distances)

    @property
    def similarity(self) -> np.ndarray:
        """Cosine of each layer averaged over pairs of paths, [L]."""
        return self._over_pairs(self.similarities)

    @staticmethod
    def _over_pairs(values: np.ndarray) -> np.ndarray:
        first, second = np.triu_indices(values.shape[1], k=1)
        return values[:, first, second].mean(axis=1)


@torch.no_grad()
def compare_features(supernet: Supernet, images: torch.Tensor, paths: Sequence[ChoicePath]) -> PathFeatures:
    """Compare what paths make of the same images, behind each position of a chain, else at the end.

    Batch norms use the statistics of the images, as in learning: running statistics mix all paths. The supernet itself
    is left as it is.

    Args:
        supernet: Any supernet.
        images: Normalised images [N, 3, H, W].
        paths: P paths, at least two, such as ``[space.sample(generator) for _ in range(8)]``.

    Raises:
        ValueError: If there are fewer than two paths, or one is not in the space.
    """
    if len(paths) < 2:
        raise ValueError(f'features are compared between paths: at least two are needed, got {len(paths)}')
    paths = [supernet.space.validate(path) for path in paths]
    layers, distances, similarities = [], [], []
    for name, maps in _layers(copy.deepcopy(supernet).train(), images, paths):
        features = maps.flatten(2).double()  # [P, N, D]
        norms = features.norm(dim=2)
        products = torch.einsum('pnd,qnd->pqn', features, features)
        gaps = torch.stack([(features - one).norm(dim=2) for one in features])
        layers.append(name)
        # A feature map of zeros is at distance 0 from another one, and like it.
        distances.append(_ratio(2 * gaps, norms[:, None] + norms, 0.0).mean(2).cpu().numpy())
        similarities.append(_ratio(products, norms[:, None] * norms, 1.0).mean(2).cpu().numpy())
    return PathFeatures(tuple(layers), np.stack(distances), np.stack(similarities))


def _layers(
    supernet: Supernet, images: torch.Tensor, paths: Sequence[ChoicePath]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Feature maps [P, N, ...] of all paths, layer by layer."""
    if not isinstance(supernet, ChainSupernet):
        yield 'last feature map', torch.stack([supernet(images, path) for path in paths])
        return
    maps = [supernet.stem(images)] * len(paths)
    for position, name in enumerate(supernet.space.describe().positions):
        # Copies: a block may change its input, which the paths share at first.
        maps = [supernet.run(x.clone(), path, (position,)) for x, path in zip(maps, paths, strict=True)]
        yield name, torch.stack(maps)


def _ratio(value: torch.Tensor, by: torch.Tensor, otherwise: float) -> torch.Tensor:
    return torch.where(by > 0, value / by.clamp_min(torch.finfo(by.dtype).tiny), otherwise)


def parameter_shift(
    snapshots: Mapping[int, Mapping[str, torch.Tensor]], layer: Callable[[str], str] | None = None
) -> tuple[list[int], dict[str, np.ndarray]]:
    """How far the weights of each layer move between snapshots of a training.

    Args:
        snapshots: Step -> state dict, such as ``learn/snapshots/<step>/supernet.safetensors`` as ``load_file`` reads
            them and, at the end, ``learn/supernet.safetensors``; at least two.
        layer: From the name of a tensor to that of its layer; by default without what follows the last dot.

    Returns:
        The T steps at which an interval ends, and for each layer the movement |w' - w| / max(|w|, |w'|) in each
        interval, [T], from 0 on. Statistics of batch norms are no weights and left out.

    Raises:
        ValueError: If there are fewer than two snapshots, or they are of different networks.
    """
    if len(snapshots) < 2:
        raise ValueError(f'movement is between snapshots: at least two are needed, got {len(snapshots)}')
    steps = sorted(snapshots)
    names = [name for name, tensor in snapshots[steps[0]].items() if _is_weight(name, tensor)]
    for step in steps:
        missing = set(snapshots[steps[0]]) ^ set(snapshots[step])
        if missing:
            raise ValueError(f'the snapshots of step {steps[0]} and {step} differ in {sorted(missing)[0]}')
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(name.rpartition('.')[0] if layer is None else layer(name), []).append(name)

    def vector(step: int, names: Sequence[str]) -> torch.Tensor:
        return torch.cat([snapshots[step][name].double().flatten() for name in names])

    def moved(names: Sequence[str], before: int, after: int) -> float:
        old, new = vector(before, names), vector(after, names)
        size = max(float(old.norm()), float(new.norm()))
        return float((new - old).norm()) / size if size else 0.0

    intervals = list(pairwise(steps))
    return steps[1:], {
        name: np.array([moved(tensors, before, after) for before, after in intervals])
        for name, tensors in layers.items()
    }


def _is_weight(name: str, tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and not name.endswith(('running_mean', 'running_var'))
