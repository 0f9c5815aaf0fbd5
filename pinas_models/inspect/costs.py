"""What a network costs: parameters, multiply-accumulates, the authors' FLOPs, activations, memory.

Everything is counted on the meta device in evaluation mode: the network runs on shapes alone, so that counting needs
neither memory nor time, and the model that is counted does not change.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..choices import BLOCK_CHOICES, BlockChoice
from ..common.text import first_line
from ..pinas import PinasNet

__all__ = ['Costs', 'ModuleCost', 'StageCosts', 'measure_costs', 'network_stages']

_ATEN = torch.ops.aten
# Operators whose outputs fvcore, and with it timm's tables, calls activations: convolutions and matrix products.
_ACTIVATIONS = (_ATEN.convolution, _ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm)


@dataclass(frozen=True)
class ModuleCost:
    """What a part of a network costs.

    Attributes:
        params: Trainable parameters.
        macs: Multiply-accumulates of its convolutions and matrix products for one image.
        output_shape: Shape of its output for one image, [C, H, W] or [C]; None if the output is not one tensor.
    """

    params: int
    macs: int
    output_shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Costs:
    """What a network costs for one image.

    Attributes:
        input_size: Shape of the image, [C, H, W].
        params: Parameters.
        statistics: Floating-point buffers: the running means and variances of the batch normalisations.
        macs: Multiply-accumulates of convolutions and matrix products; nothing else counts.
        authors_flops: FLOPs by the rule of the Π-NAS authors, which give a multiply-accumulate as one: convolutions
            and linear layers, the output of convolutions with a bias, twice the input of batch normalisations, the
            output of ReLUs and the input of average and max pools (also of a shortcut's pool of one pixel).
        activations: Elements in the outputs of convolutions and matrix products (fvcore's rule, timm's ``macts``).
        weight_bytes: Bytes of parameters and buffers.
        activation_bytes: Largest number of bytes that tensors other than weights, the image included, take at one time
            of the forward pass without gradients. The scratch memory of the operators is not in it.
        parts: Cost of every named module that ran, by name.
    """

    input_size: tuple[int, int, int]
    params: int
    statistics: int
    macs: int
    authors_flops: int
    activations: int
    weight_bytes: int
    activation_bytes: int
    parts: Mapping[str, ModuleCost] = field(repr=False)


def measure_costs(model: nn.Module, input_size: tuple[int, int, int]) -> Costs:
    """Count what a network costs for one image; the model stays as it is.

    Args:
        model: Any image model, on any device.
        input_size: Shape of the image, [C, H, W].

    Returns:
        The costs.

    Raises:
        ValueError: If the network does not run on such an image.
    """
    tensors = {
        name: torch.empty_like(tensor, device='meta')
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    parameters = list(model.parameters())
    image = torch.empty(1, *input_size, device='meta', dtype=parameters[0].dtype if parameters else None)

    def forward() -> None:
        functional_call(model, tensors, (image,))

    with _evaluation_mode(model), torch.no_grad():
        flops, shapes = FlopCounterMode(display=False), dict[str, tuple[int, ...]]()
        with _forward_hooks(model, shapes) as authors, flops:
            try:
                forward()
            except (RuntimeError, AssertionError, TypeError, IndexError, NotImplementedError) as error:
                size = 'x'.join(map(str, input_size))
                raise ValueError(
                    f'{type(model).__name__} does not run on an image of {size}: {first_line(error)}'
                ) from error
        with _ActivationMeter(image) as meter:
            forward()

    by_name = {name: sum(counts.values()) // 2 for name, counts in flops.get_flop_counts().items()}
    root = type(model).__name__
    parts = {
        name: ModuleCost(
            params=_count(module.parameters()), macs=by_name.get(f'{root}.{name}', 0), output_shape=shapes.get(name)
        )
        for name, module in model.named_modules()
        if name
    }
    buffers = list(model.buffers())
    return Costs(
        input_size=input_size,
        params=_count(parameters),
        statistics=_count(b for b in buffers if b.is_floating_point()),
        macs=by_name.get('Global', 0),
        authors_flops=authors.total,
        activations=meter.elements,
        weight_bytes=sum(t.numel() * t.element_size() for t in (*parameters, *buffers)),
        activation_bytes=meter.peak,
        parts=parts,
    )


@dataclass(frozen=True)
class StageCosts:
    """What a stage of a network of the Π-NAS space consists of and what it costs.

    Attributes:
        name: Module name, ``layer1`` and so on.
        choices: Choice of each block.
        stride: Pixels of the image per step of the stage's output.
        dilations: Dilation of the 3x3 convolution of each block.
        output_shape: Shape of the output for one image, [C, H, W].
        params: Parameters.
        macs: Multiply-accumulates for one image.
        block_macs: The same for each block.
    """

    name: str
    choices: tuple[int, ...]
    stride: int
    dilations: tuple[int, ...]
    output_shape: tuple[int, ...]
    params: int
    macs: int
    block_macs: tuple[int, ...]

    @property
    def blocks(self) -> tuple[BlockChoice, ...]:
        """What the choices mean."""
        return tuple(BLOCK_CHOICES[choice] for choice in self.choices)


def network_stages(model: PinasNet, costs: Costs) -> list[StageCosts]:
    """Describe the stages of a network.

    Args:
        model: The network.
        costs: What ``measure_costs`` counted on this network.
    """
    stages, start = [], 0
    for info in model.feature_info[1:]:  # the first is the stem
        name = info['module']
        blocks = list(model.get_submodule(name))
        cost, parts = costs.parts[name], [costs.parts[f'{name}.{i}'] for i in range(len(blocks))]
        stages.append(
            StageCosts(
                name=name,
                choices=model.choices[start : start + len(blocks)],
                stride=info['reduction'],
                dilations=tuple(block.conv2.conv.dilation[0] for block in blocks),
                output_shape=cost.output_shape or (),
                params=cost.params,
                macs=cost.macs,
                block_macs=tuple(part.macs for part in parts),
            )
        )
        start += len(blocks)
    return stages


def _count(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass
class _AuthorsFlops:
    """The sum of the authors' rule."""

    total: int = 0


@contextmanager
def _forward_hooks(model: nn.Module, shapes: dict[str, tuple[int, ...]]) -> Iterator[_AuthorsFlops]:
    """Record the output shapes of all modules in ``shapes``, and sum up the authors' FLOPs, while the context lives."""
    authors = _AuthorsFlops()

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, torch.Tensor):
                shapes[name] = tuple(output.shape[1:])
                authors.total += _authors_flops(name, module, inputs[0] if inputs else output, output)

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if name]
    try:
        yield authors
    finally:
        for handle in handles:
            handle.remove()


def _authors_flops(name: str, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """FLOPs of one module by the rule of ``openselfsup/utils/flops_counter.py``; containers count nothing."""
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return y.numel() * module.weight[0].numel() + (y.numel() if module.bias is not None else 0)
    if isinstance(module, nn.Linear):
        return y.numel() * module.in_features
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return 2 * x.numel()
    if isinstance(module, (nn.ReLU, nn.ReLU6)):
        return y.numel()
    # Where the authors have an average pool of one pixel in a shortcut, timm has the identity.
    shortcut_pool = isinstance(module, nn.Identity) and name.endswith('downsample.0')
    if shortcut_pool or isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d)):
        return x.numel()
    return 0


class _ActivationMeter(TorchDispatchMode):
    """Sees every operator: counts the outputs of convolutions and products, and the bytes that are alive at a time."""

    def __init__(self, image: torch.Tensor) -> None:
        super().__init__()
        self.elements = 0
        self.peak = 0
        self._alive = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._add(image)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.overloadpacket in _ACTIVATIONS:
            self.elements += output.numel()
        for tensor in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor)
        return output

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:  # a view, or an operator in place
            return
        size = storage.nbytes()

        def free(_: object) -> None:
            del self._storages[key]
            self._alive -= size

        self._storages[key] = weakref.ref(storage, free)
        self._alive += size
        self.peak = max(self.peak, self._alive)
