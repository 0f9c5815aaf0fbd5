"""How good a path is: recalibration, evaluation, and the statistics of comparing networks and rankings."""

from .accuracy import CandidateEvaluator, Judgement, judge
from .base import OffersScorers, Predictor, Score, Scorer, Tools, pack, unpack
from .images import EvaluationImages, cached
from .recalibrate import recalibrate_bn

__all__ = [
    'CandidateEvaluator',
    'EvaluationImages',
    'Judgement',
    'OffersScorers',
    'Predictor',
    'Score',
    'Scorer',
    'Tools',
    'cached',
    'judge',
    'pack',
    'recalibrate_bn',
    'unpack',
]
