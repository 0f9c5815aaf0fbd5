"""How good a path is: recalibration, evaluation, and the statistics of comparing networks and rankings."""

from .accuracy import CandidateEvaluator, Judgement, judge
from .base import OffersScorers, Predictor, Score, Scorer, Tools, pack, unpack
from .recalibrate import recalibrate_bn

__all__ = [
    'CandidateEvaluator',
    'Judgement',
    'OffersScorers',
    'Predictor',
    'Score',
    'Scorer',
    'Tools',
    'judge',
    'pack',
    'recalibrate_bn',
    'unpack',
]
