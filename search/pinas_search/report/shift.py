"""The pictures of the paper's Figures 1 and 5: feature shift, parameter shift and similarity across paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ..scoring.shift import PathFeatures
from .figures import Picture, style

__all__ = ['draw_feature_shift', 'draw_parameter_shift', 'draw_similarity']

_LOOKS = (('#0b5fa5', 'o-'), ('#c8500a', 's--'), ('#555555', '^:'), ('#8a6d00', 'D-.'))


def draw_feature_shift(supernets: Mapping[str, PathFeatures]) -> Picture:
    """Draw the feature shift of each layer, a line per supernet.

    Args:
        supernets: Name -> features, all with the same layers.
    """
    with style():
        figure = Figure(figsize=(5.0, 3.6), layout='constrained')
        axes = figure.subplots()
        for number, (name, features) in enumerate(supernets.items()):
            color, line = _LOOKS[number % len(_LOOKS)]
            axes.plot(features.layers, features.shift, line, color=color, label=name)
        axes.tick_params(axis='x', rotation=60)
        axes.set(ylabel='relative distance between paths', ylim=(0, None), title='Feature shift')
        axes.legend(loc='best')
    ends = ', '.join(f'{name} {features.shift[-1]:.2f}' for name, features in supernets.items())
    return Picture(figure, f'Distance between the features of the same image on two paths; at the end: {ends}.')


def draw_similarity(features: PathFeatures, layer: int = -1) -> Picture:
    """Draw the cosines between the features of all pairs of paths at one layer."""
    with style():
        figure = Figure(figsize=(4.4, 3.8), layout='constrained')
        axes = figure.subplots()
        image = axes.imshow(features.similarities[layer], cmap='Greys', vmin=0, vmax=1)
        axes.grid(visible=False)
        axes.set(xlabel='path', ylabel='path', title=f'Similarity of features: {features.layers[layer]}')
        figure.colorbar(image, label='cosine')
    return Picture(figure, f'Cosines between paths; mean of the pairs {features.similarity[layer]:.2f}.')


def draw_parameter_shift(supernets: Mapping[str, tuple[Sequence[int], Mapping[str, np.ndarray]]]) -> Picture:
    """Draw the movement of the weights over the training: median of the layers, and between which half of them lie.

    Args:
        supernets: Name -> what ``parameter_shift`` returns.
    """
    medians = []
    with style():
        figure = Figure(figsize=(5.0, 3.2), layout='constrained')
        axes = figure.subplots()
        for number, (name, (steps, layers)) in enumerate(supernets.items()):
            color, line = _LOOKS[number % len(_LOOKS)]
            low, middle, high = np.quantile(np.stack(list(layers.values())), [0.25, 0.5, 0.75], axis=0)
            axes.plot(steps, middle, line, color=color, label=name)
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
            medians.append(f'{name} {middle[-1]:.2g}')
        axes.set(xlabel='step', ylabel='relative movement', ylim=(0, None), title='Parameter shift between snapshots')
        axes.legend(loc='best')
    return Picture(figure, f'Movement of the weights of a layer, median; in the last interval: {", ".join(medians)}.')
