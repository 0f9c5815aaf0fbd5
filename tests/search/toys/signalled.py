"""Another method in double precision, which leaves all of its state; SIGNALS='RANK:STEP:NAME ...' reach its process."""

import os
import signal
from dataclasses import dataclass

from pinas_search.data import Batch
from pinas_search.methods import Method
from pinas_search.plugins import find_plugin


@dataclass(frozen=True)
class Options:
    method: str = 'pinas'


class DoubleStep:
    def __init__(self, step):
        self._step = step

    def __getattr__(self, name):
        return getattr(self._step, name)

    def batch(self, stream='train'):
        images, labels = self._step.batch(stream)
        return Batch(images.double(), labels)


class Signalled(Method):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner.double()

    @property
    def supernet(self):
        return self.inner.supernet

    @property
    def streams(self):
        return self.inner.streams

    def optimizers(self, config):
        return self.inner.optimizers(config)

    def step(self, step):
        if os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') == '0':
            for signalled in os.environ.get('SIGNALS', '').split():
                rank, number, name = signalled.split(':')
                if (os.environ.get('RANK', '0'), str(step.number)) == (rank, number):
                    os.kill(os.getpid(), getattr(signal, name))
        return self.inner.step(DoubleStep(step))

    def artifacts(self):
        return {**self.inner.artifacts(), 'everything': self}

    def check_batch_size(self, batch_size):
        self.inner.check_batch_size(batch_size)


def create(supernet, options, num_classes):
    given = {'queue_size': 64, 'momentum': 0.99} if options.method == 'pinas' else {}
    plugin = find_plugin('method', options.method, given)
    return Signalled(plugin.create(supernet, plugin.options, num_classes))
