"""What a run leaves on the disk: stage folders, the study of its candidates, and the lock of its owner."""

from .candidates import Candidate
from .lock import own
from .predictions import Predictions
from .rundir import StageDir, done_record, load_tensors, read_json, save_tensors
from .trials import Trials

__all__ = [
    'Candidate',
    'Predictions',
    'StageDir',
    'Trials',
    'done_record',
    'load_tensors',
    'own',
    'read_json',
    'save_tensors',
]
