"""How good a path is: recalibration, evaluation, and the statistics of comparing networks and rankings."""

from .accuracy import CandidateEvaluator, Judgement, judge
from .base import OffersScorers, Score, Scorer, Tools, pack, unpack
from .recalibrate import recalibrate_bn

__all__ = [
    'CandidateEvaluator',
    'Judgement',
    'OffersScorers',
    'Score',
    'Scorer',
    'Tools',
    'judge',
    'pack',
    'recalibrate_bn',
    'unpack',
]
