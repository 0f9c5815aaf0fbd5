"""Images of a run: data sets, splits and batches of crops."""

from .augment import normalize, photometric
from .batches import WHOLE, Batch, Part, epoch_batches, sequential_batches
from .sources import ImageSource, InMemoryImages, StreamedImages
from .splits import CAVEATS, Splits, load_splits

__all__ = [
    'CAVEATS',
    'WHOLE',
    'Batch',
    'ImageSource',
    'InMemoryImages',
    'Part',
    'Splits',
    'StreamedImages',
    'epoch_batches',
    'load_splits',
    'normalize',
    'photometric',
    'sequential_batches',
]
