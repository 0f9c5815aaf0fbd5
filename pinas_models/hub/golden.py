"""Golden tensors: what a model answered to a fixed input where it was published.

The file has the names that timm's own repositories use (``input``, ``features``, ``pre_logits``, ``output`` in
``test/rand_tensors.safetensors``), so timm's inference test reads it as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import resolve_model_data_config
from torch import nn

from ..common.text import one_line

__all__ = ['TOLERANCE', 'check_golden', 'make_golden', 'save_tensors']

# Allowed difference, as a part of the largest golden value of a tensor. One machine repeats its values bit by bit.
# Others add up in another order: AVX-512, AVX2, SSE4.1, one or two threads, channels_last or not differed by at most
# 4.1e-6 (pinas_cls) and 5.4e-7 (pinas_mini). The rest is room for processors and library versions not tried.
TOLERANCE = 1e-4
_IMAGES = 2  # a model left in training mode gives an image another answer in other company


def make_golden(model: nn.Module) -> dict[str, torch.Tensor]:
    """Make an input and what a model answers to it.

    Args:
        model: A timm model on the CPU. It is put in eval mode.

    Returns:
        ``input`` [2, C, H, W] at the model's image size, seeded normal values; ``features``, the last feature map;
        ``pre_logits`` and ``output``, one row per image.

    Raises:
        ValueError: If an answer is not finite.
    """
    size = (_IMAGES, *resolve_model_data_config(model)['input_size'])
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    golden = {'input': x, **_answers(model, x)}
    for name, tensor in golden.items():
        if not tensor.isfinite().all():
            raise ValueError(f'the {name} of the model has values that are not finite: its weights are damaged')
    return golden


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as safetensors; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Copied, because tensors may share memory, or lie in it with the channels last.
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(copies, path, metadata={'format': 'pt'})


def check_golden(model: nn.Module, path: Path, tolerance: float = TOLERANCE) -> float:
    """Compare a model's answers with golden tensors.

    Args:
        model: A timm model on the CPU. It is put in eval mode.
        path: The file.
        tolerance: Largest difference that is allowed, as a part of the tensor's largest value; 0 means equal bits.

    Returns:
        The largest difference, as a part of the tensor's largest value.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file holds no golden tensors, or an answer differs by more.
    """
    try:
        golden = load_file(path)
    except SafetensorError as error:
        raise ValueError(f'{path.name} cannot be read: {error}') from error
    if not {'input', 'output'} <= golden.keys():
        raise ValueError(f'{path.name} holds {", ".join(golden) or "nothing"}; it needs an input and an output')
    x = golden.pop('input')
    try:
        answers = _answers(model, x)
    except (RuntimeError, ValueError) as error:  # what torch and timm raise for an input that does not fit
        reason = one_line(error, 200)
        raise ValueError(f'the model does not take the golden input of shape {tuple(x.shape)}: {reason}') from error
    largest = 0.0
    for name, expected in golden.items():
        if name not in answers:
            raise ValueError(f'{path.name} holds {name!r}, which is no answer of a model')
        answer = answers[name]
        if answer.shape != expected.shape:
            raise ValueError(f'the {name} has shape {tuple(answer.shape)}, the golden one {tuple(expected.shape)}')
        difference = _difference(answer, expected)
        if not difference <= tolerance:  # so, because of NaN
            raise ValueError(
                f'the {name} differs from the golden one by {difference:.1e} of its largest value; '
                f'{tolerance:g} is allowed'
            )
        largest = max(largest, difference)
    return largest


def _answers(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.eval()
    with torch.inference_mode():
        features = model.forward_features(x)  # type: ignore[operator]
        pre_logits = model.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return {'features': features, 'pre_logits': pre_logits, 'output': model(x)}


def _difference(answer: torch.Tensor, expected: torch.Tensor) -> float:
    answer, expected = answer.float(), expected.float()
    if torch.equal(answer, expected):
        return 0.0
    scale = expected.abs().max().item()
    return (answer - expected).abs().max().item() / scale if scale else float('inf')
