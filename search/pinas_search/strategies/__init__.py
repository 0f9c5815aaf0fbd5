"""Which candidate next: one module per strategy, each proposes a path from what is known."""

from .base import Observation, Proposal, Proposer, Seen, SpaceExhaustedError, Strategy
from .lanas import LaNAS
from .random import RandomStrategy

__all__ = ['LaNAS', 'Observation', 'Proposal', 'Proposer', 'RandomStrategy', 'Seen', 'SpaceExhaustedError', 'Strategy']
