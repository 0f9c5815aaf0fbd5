"""BN recalibration under its public name; it lives in ``pinas_search.scoring``."""

from .scoring.recalibrate import PathNetwork, recalibrate_bn

__all__ = ['PathNetwork', 'recalibrate_bn']
