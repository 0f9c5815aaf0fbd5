"""The same network in fewer operations, for inference: BN folded into convolutions, split attention in fewer passes."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d, SplitAttn
from timm.utils.model import reparameterize_model
from torch import nn
from torch.fx import Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.ops import FrozenBatchNorm2d

__all__ = ['FusedSplitAttn', 'fold_batch_norms', 'fuse']

# By exact type: a subclass (weight standardisation, a parametrization) computes something else.
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, FrozenBatchNorm2d, BatchNormAct2d)


class FusedSplitAttn(nn.Module):
    """timm's ``SplitAttn`` of radix 1 or 2 in fewer passes over the feature map, which stays channels-last if it is.

    At radix 2 the mean of the sum of both splits is the sum of their means, a softmax over two is a sigmoid of the
    difference, and weights that add up to 1 make the output a linear interpolation between the splits.
    """

    def __init__(self, reference: SplitAttn) -> None:
        """Take over the modules of ``reference``, under their names.

        Args:
            reference: A split attention of radix 1 or 2.
        """
        super().__init__()
        self.radix = reference.radix
        self.cardinality = reference.rsoftmax.cardinality
        self.conv = reference.conv
        self.bn0 = reference.bn0
        self.drop = reference.drop
        self.act0 = reference.act0
        self.fc1 = reference.fc1
        self.bn1 = reference.bn1
        self.act1 = reference.act1
        self.fc2 = reference.fc2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] to [N, C', H', W'] as the reference does."""
        x = self.act0(self.drop(self.bn0(self.conv(x))))
        mean = x.mean((2, 3), keepdim=True)
        if self.radix == 1:
            return x * self._logits(mean).sigmoid()
        first, second = x.chunk(2, dim=1)
        mean_first, mean_second = mean.chunk(2, dim=1)
        # fc2's output is cardinality-major, unlike the feature map.
        logits = self._logits(mean_first + mean_second).view(x.shape[0], self.cardinality, 2, -1)
        weight = (logits[:, :, 0] - logits[:, :, 1]).sigmoid().reshape(x.shape[0], -1, 1, 1)
        return torch.lerp(second, first, weight.to(x.dtype))  # under autocast a norm in between may have changed it

    def _logits(self, mean: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act1(self.bn1(self.fc1(mean))))


def fuse(model: nn.Module) -> nn.Module:
    """Copy a network for inference: the same outputs (to 1e-4 in float32) in less time.

    Networks that timm can re-parameterise (RepVGG and the like) are, batch norms are folded as in
    ``fold_batch_norms``, and split attention of radix 1 or 2 becomes ``FusedSplitAttn``,
    whose order stays convolution, ReLU, mean, ``fc1``, ReLU, ``fc2``.

    The copy is of the model's class, and has its methods, device, precision and memory format. The names of parameters
    stay but for the norms', so it does not load the original's checkpoints. Fuse first, then change the precision:
    ``fuse(model).to(torch.bfloat16)``. On a CPU most is gained together with
    ``.to(memory_format=torch.channels_last)``.

    Args:
        model: A network in eval mode, of this package or another one of timm, with or without ``features_only``.

    Returns:
        The fused copy, in eval mode.

    Raises:
        ValueError: If the model is in training mode, where a batch norm depends on the batch, or its operations cannot
            be followed.
    """
    _check_eval(model)
    fused = fold_batch_norms(reparameterize_model(model).eval())  # its new convolutions are in training mode
    for name, module in list(fused.named_modules()):
        if name and type(module) is SplitAttn and module.radix <= 2:
            _replace(fused, name, FusedSplitAttn(module).eval())
    return fused


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Copy a network and fold its batch norms into the convolutions in front of them.

    Every convolution whose output goes to a batch norm and nowhere else takes over that norm's scale and shift; an
    identity is left in the norm's place, or the activation of timm's ``BatchNormAct2d``. What cannot
    be folded (other norms, a batch norm without running statistics, a module that is used twice) is left as it is.

    Args:
        model: A network in eval mode.

    Returns:
        The copy, in eval mode.

    Raises:
        ValueError: See ``fuse``.
    """
    _check_eval(model)
    folded = copy.deepcopy(model).eval()  # again: the copy of an FX graph is in training mode
    for conv_name, norm_name in _foldable(folded):
        conv: Any = folded.get_submodule(conv_name)
        norm: Any = folded.get_submodule(norm_name)
        dtype = conv.weight.dtype
        # In double, so that a weight is rounded once, also a half-precision one.
        _replace(folded, conv_name, fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype))
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        _replace(folded, norm_name, rest.eval())
    return folded


def _check_eval(model: nn.Module) -> None:
    training = next((name or 'the model' for name, module in model.named_modules() if module.training), None)
    if training is not None:
        raise ValueError(f'{training} is in training mode: call model.eval() first')


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition('.')
    setattr(model.get_submodule(parent), child, module)


class _LeafTracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (FrozenBatchNorm2d, BatchNormAct2d)) or super().is_leaf_module(m, module_qualified_name)


def _foldable(model: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions and the batch norms behind them; by the flow of data, not by names or order."""
    try:
        graph = _LeafTracer().trace(model)
    except Exception as error:  # what a model's own code raises when it meets a symbol instead of a tensor
        raise ValueError(f'cannot follow the operations of {type(model).__name__}: {error}') from error
    uses = Counter(node.target for node in graph.nodes if node.op == 'call_module')

    def module(node: Node, types: tuple[type[nn.Module], ...]) -> nn.Module | None:
        if node.op != 'call_module' or uses[node.target] > 1:
            return None
        found = model.get_submodule(str(node.target))
        return found if type(found) in types else None

    pairs = []
    for norm in graph.nodes:
        found = module(norm, _BATCH_NORMS)
        if found is not None and found.running_mean is not None:
            (conv,) = norm.all_input_nodes
            if len(conv.users) == 1 and module(conv, _CONVOLUTIONS) is not None:
                pairs.append((str(conv.target), str(norm.target)))
    return pairs
