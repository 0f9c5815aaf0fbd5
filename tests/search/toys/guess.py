"""A predictor without a supernet."""

from dataclasses import dataclass

from pinas_search.scoring import Score

NEEDS = frozenset()


@dataclass(frozen=True)
class Options:
    favourite: int = 2


class Guess:
    facts = {}  # noqa: RUF012

    def __init__(self, favourite):
        self.favourite = favourite

    def score(self, paths):
        return [Score(sum(choice == self.favourite for choice in path) / len(path)) for path in paths]


def create(tools, options):
    return Guess(options.favourite)
