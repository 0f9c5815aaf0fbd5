"""A network as a graph: operations are the nodes. What predictors that read graphs need of a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .base import Description

__all__ = ['Graph', 'line_graph']


@dataclass(frozen=True)
class Graph:
    """A directed graph without circles, in an order in which every edge leads to a later node.

    Attributes:
        adjacency: 1 where the row's node leads to the column's, else 0; [V, V], strictly upper triangular.
        operations: Label of each node, an index of ``vocabulary``; [V].
        vocabulary: What the labels mean.
    """

    adjacency: np.ndarray
    operations: tuple[int, ...]
    vocabulary: tuple[str, ...]


def line_graph(description: Description, path: Sequence[int], order: Sequence[int] | None = None) -> Graph:
    """The graph whose nodes are the positions of a path, between an input and an output.

    Where positions are the edges of a graph, two of them are joined where one ends and the other begins (its line
    graph); positions in a row form a chain.

    Args:
        description: The space in words.
        path: One choice per position, taken as valid.
        order: The choices in the order of the vocabulary; by digit if None.
    """
    length = len(path)
    edges = description.edges or tuple((i, i + 1) for i in range(length))
    first, last = min(source for source, _ in edges), max(target for _, target in edges)
    # The input is an edge that ends at the first node of the graph, the output one that begins at the last.
    ends = np.array([first, *(target for _, target in edges), last + 1])
    begins = np.array([first - 1, *(source for source, _ in edges), last])
    order = tuple(range(len(description.choices))) if order is None else tuple(order)
    return Graph(
        adjacency=(ends[:, None] == begins[None, :]).astype(np.int64),
        operations=(0, *(1 + order.index(choice) for choice in path), len(order) + 1),
        vocabulary=('input', *(description.choices[choice].name for choice in order), 'output'),
    )
