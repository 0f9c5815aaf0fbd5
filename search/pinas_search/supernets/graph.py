"""What many paths of a supernet compute on the same images, with what they share there once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

__all__ = ['Call', 'Graph', 'Node']

Call = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Node:
    """A result.

    Attributes:
        call: What computes it.
        inputs: The nodes whose results ``call`` takes.
    """

    call: Call
    inputs: tuple[int, ...]


class Graph:
    """Calls and the results that they take. The same call on the same inputs is one node, whichever path asks for it.

    Attributes:
        images: The node of the images.
        nodes: All nodes, each after its inputs.
    """

    images = 0

    def __init__(self) -> None:
        self.nodes: list[Node] = [Node(_no_call, ())]
        self._found: dict[object, int] = {}

    def add(self, call: Call, *inputs: int, key: object = None) -> int:
        """Find or add the node of a call.

        Args:
            call: Takes the results of ``inputs``, which it must not change, and returns a new one. A module is called
                in the mode of the supernet. In eval mode it must treat every image alone, batch norms without running
                statistics excepted.
            inputs: Nodes.
            key: What makes calls equal, hashable; the call itself if None.

        Returns:
            The node.
        """
        identity = (call if key is None else key, inputs)
        if identity not in self._found:
            self._found[identity] = len(self.nodes)
            self.nodes.append(Node(call, inputs))
        return self._found[identity]

    def add_in_turn(self, calls: Iterable[Call], node: int) -> int:
        """Find or add the nodes of calls that each take the result of the one before; the last one's node."""
        for call in calls:
            node = self.add(call, node)
        return node

    def run(
        self, images: torch.Tensor, outputs: Collection[int], calls: Mapping[int, Call] | None = None
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Compute all nodes in order. A result is dropped as soon as no node is left that takes it.

        So adding paths sorted keeps few results at a time: in a chain, those of one path.

        Args:
            images: Images [N, 3, H, W].
            outputs: Nodes to hand out.
            calls: What to call instead of a node's own call.

        Yields:
            A node of ``outputs`` and its result, in the order of the nodes.
        """
        calls = calls or {}
        results = {self.images: images}
        for index, (node, done) in enumerate(zip(self.nodes, self._last_uses(), strict=True)):
            if index != self.images:
                results[index] = calls.get(index, node.call)(*[results[i] for i in node.inputs])
            if index in outputs:
                yield index, results[index]
            for i in done:
                del results[i]

    def ancestors(self, node: int) -> set[int]:
        """The nodes that a result needs, itself included."""
        found, waiting = {node}, [node]
        while waiting:
            new = set(self.nodes[waiting.pop()].inputs) - found
            found |= new
            waiting += new
        return found

    def uses(self) -> list[int]:
        """How many nodes take each result."""
        counts = [0] * len(self.nodes)
        for node in self.nodes:
            for i in node.inputs:
                counts[i] += 1
        return counts

    def _last_uses(self) -> list[list[int]]:
        """For each node the results that nothing takes after it."""
        last = list(range(len(self.nodes)))
        for index, node in enumerate(self.nodes):
            for i in node.inputs:
                last[i] = index
        done: list[list[int]] = [[] for _ in self.nodes]
        for i, index in enumerate(last):
            done[index].append(i)
        return done


def _no_call() -> torch.Tensor:
    raise RuntimeError('the images are given, not computed')
