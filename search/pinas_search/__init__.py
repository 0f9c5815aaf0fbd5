"""The Π-NAS search: supernets, methods that train them, strategies that search them, and the stages of a run."""

__all__ = ['STAGES']

# All stages, in order. Each is a module and a function of its name in ``pinas_search.stages``, and a folder of a run.
STAGES = ('learn', 'linear', 'search', 'truth', 'rank', 'retrain', 'report')
