"""One step of inference or training, repeated by everything that measures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..common.text import first_line
from ..evaluation.classifier import DTYPES
from ..loading import open_model

__all__ = ['BENCHES', 'Setup', 'explain', 'open_untrained', 'running', 'synchronize']

BENCHES = ('infer', 'train')
_CLASSES = 1000  # of networks that come without a classifier
# What torch raises when a network cannot run: out of memory, a wrong image size, one value per channel, no such kernel.
RUN_ERRORS = (RuntimeError, ValueError, AssertionError, NotImplementedError, TypeError, IndexError)


@dataclass(frozen=True)
class Setup:
    """How networks run.

    Attributes:
        batch_size: Images per step.
        device: Where they run, in torch's words.
        dtype: Precision of weights and activations, a key of ``DTYPES``.
        amp: Precision of autocast, ``bf16`` or ``fp16``; None for none.
        channels_last: Store the channels innermost.
        compiler: Backend of ``torch.compile``; None to run the networks as they are.
        threads: CPU threads of torch; None for torch's own number.
    """

    batch_size: int
    device: str = 'cpu'
    dtype: str = 'fp32'
    amp: str | None = None
    channels_last: bool = False
    compiler: str | None = None
    threads: int | None = None


def open_untrained(name: str) -> nn.Module:
    """Open a network by name with random weights; one without a classifier gets one of 1,000 classes.

    Raises:
        OSError: If a folder is missing.
        ValueError: If there is no such model.
    """
    model = open_model(name, pretrained=False)
    if not getattr(model, 'num_classes', _CLASSES):
        model.reset_classifier(_CLASSES)  # type: ignore[operator]
    return model


@contextlib.contextmanager
def running(
    model: nn.Module, bench: str, input_size: tuple[int, int, int], setup: Setup
) -> Iterator[Callable[[], None]]:
    """Make a network ready; afterwards it lies on the CPU, without gradients.

    Args:
        model: The network. It is moved, not copied.
        bench: ``infer`` (forward pass) or ``train`` (forward, cross-entropy, backward, a step of SGD with momentum).
        input_size: Shape of an image, [C, H, W].
        setup: How it runs.

    Yields:
        A function that makes one step on a batch of random images.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(setup.threads or threads)
    memory_format = torch.channels_last if setup.channels_last else torch.contiguous_format
    device = torch.device(setup.device)
    try:
        model.to(device, DTYPES[setup.dtype]).to(memory_format=memory_format).train(bench == 'train')
        images = torch.randn(setup.batch_size, *input_size, device=device, dtype=DTYPES[setup.dtype])
        images = images.contiguous(memory_format=memory_format)
        forward = model if setup.compiler is None else torch.compile(model, backend=setup.compiler)
        yield _make_step(model, forward, images, setup, bench)
    finally:
        model.zero_grad(set_to_none=True)
        model.to('cpu')
        torch.set_num_threads(threads)
        if device.type == 'cuda':
            torch.cuda.empty_cache()


def _make_step(
    model: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, setup: Setup, bench: str
) -> Callable[[], None]:
    def autocast() -> contextlib.AbstractContextManager:
        return torch.autocast(images.device.type, DTYPES[setup.amp]) if setup.amp else contextlib.nullcontext()

    if bench == 'infer':

        @torch.inference_mode()
        def infer() -> None:
            with autocast():
                forward(images)

        return infer

    # A learning rate of 0 costs the same and keeps the values of the weights, however many steps are made.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)

    def train() -> None:
        with autocast():
            loss = F.cross_entropy(forward(images).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told."""
    kind = torch.device(device).type
    if kind != 'cpu':
        torch.get_device_module(kind).synchronize()


def explain(error: BaseException, batch_size: int) -> str:
    """One line that says why a network did not run."""
    text = first_line(error)
    if isinstance(error, torch.cuda.OutOfMemoryError) or 'alloc' in text:
        return f'out of memory with batches of {batch_size}'
    return text
