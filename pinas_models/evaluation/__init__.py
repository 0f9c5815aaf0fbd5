"""Evaluating and using classifiers: protocols, accuracies with intervals, names of classes."""

from .accuracy import Counts, RealLabels, wilson_interval
from .classifier import Classifier, resolve_device
from .images import LabelledImages, open_images
from .labels import ClassNames, class_names
from .protocols import PROTOCOLS, Protocol, make_protocol
from .validate import Evaluation, evaluate

__all__ = [
    'PROTOCOLS',
    'ClassNames',
    'Classifier',
    'Counts',
    'Evaluation',
    'LabelledImages',
    'Protocol',
    'RealLabels',
    'class_names',
    'evaluate',
    'make_protocol',
    'open_images',
    'resolve_device',
    'wilson_interval',
]
