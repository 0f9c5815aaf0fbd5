"""Weights of the authors' checkpoints and of ours: read files safely, convert the names of their tensors."""

from .convert import Conversion, convert_checkpoint, convert_state_dict
from .reader import load_checkpoint
from .reverse import to_authors, to_detectron2

__all__ = [
    'Conversion',
    'convert_checkpoint',
    'convert_state_dict',
    'load_checkpoint',
    'to_authors',
    'to_detectron2',
]
