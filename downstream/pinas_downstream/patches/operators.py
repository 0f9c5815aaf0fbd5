"""The operators of mmcv that Mask R-CNN needs, by torchvision, under the signatures of mmcv's compiled module.

mmcv's Python code calls them as ``ext_module.nms(boxes, scores, iou_threshold=..., offset=...)``. Its 113 names are all
asked for at import, so every name exists here and those without a counterpart raise when they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch
import torchvision

__all__ = ['Extension', 'nms', 'roi_align_backward', 'roi_align_forward']


class Extension(ModuleType):
    """Stands for ``mmcv._ext``."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in _SERVED:
            return _SERVED[name]
        if name.startswith('__'):
            raise AttributeError(name)
        return _missing(name)


def _missing(name: str) -> Callable[..., NoReturn]:
    def operator(*args: object, **options: object) -> NoReturn:
        raise NotImplementedError(_sentence(name))

    return operator


def _sentence(name: str) -> str:
    return (
        f"mmcv's operator {name!r} is not available: this mmcv has no compiled operators, and pinas_downstream serves "
        'only nms and average roi_align, from torchvision. Install an mmcv with compiled operators for your versions '
        'of torch and CUDA (mmcv 2 by openmim, or onedl-mmcv built with --no-build-isolation where torch is installed)'
    )


def _arithmetic(tensor: torch.Tensor) -> torch.Tensor:
    """Half precision in float32: torchvision has no kernels for it on the CPU."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def nms(boxes: torch.Tensor, scores: torch.Tensor, *, iou_threshold: float, offset: int) -> torch.Tensor:
    """Non-maximum suppression.

    A box is suppressed if its IoU with a kept box of higher score is larger than the threshold. An IoU that is not a
    number (a coordinate that is none, or two boxes without area) suppresses nothing.

    Args:
        boxes: [N, 4] as x1, y1, x2, y2.
        scores: [N].
        iou_threshold: 0..1; boxes of exactly this IoU are kept.
        offset: 0, or 1 if a box includes its last pixel (width = x2 - x1 + 1).

    Returns:
        Indices [K] of the kept boxes by falling score, int64; equal scores in the order of the boxes.
    """
    dtype = torch.float64 if torch.float64 in (boxes.dtype, scores.dtype) else torch.float32
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: torch.Tensor,
    rois: torch.Tensor,
    output: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Average RoIAlign.

    Args:
        input: [N, C, H, W].
        rois: [R, 5] as index in the batch, x1, y1, x2, y2 in pixels of the image.
        output: [R, C, aligned_height, aligned_width], written.
        argmax_y: Of max pooling; unused.
        argmax_x: Of max pooling; unused.
        aligned_height: Rows of the output.
        aligned_width: Columns of the output.
        spatial_scale: Steps of the input per pixel of the image.
        sampling_ratio: Samples per bin and axis; 0 takes as many as a bin has steps.
        pool_mode: 1, average.
        aligned: Shift by half a step, so that a pixel's centre is at a half.

    Raises:
        NotImplementedError: For max pooling (``pool_mode`` 0).
    """
    _check_mode('roi_align_forward', pool_mode)
    size = (aligned_height, aligned_width)
    output.copy_(_roi_align(_arithmetic(input), rois, size, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: torch.Tensor,
    rois: torch.Tensor,
    argmax_y: torch.Tensor,
    argmax_x: torch.Tensor,
    grad_input: torch.Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of average RoIAlign for its input; there is none for the RoIs.

    Args:
        grad_output: [R, C, aligned_height, aligned_width].
        rois: See ``roi_align_forward``.
        argmax_y: Of max pooling; unused.
        argmax_x: Of max pooling; unused.
        grad_input: [N, C, H, W], written.
        aligned_height: Rows of the output.
        aligned_width: Columns of the output.
        spatial_scale: See ``roi_align_forward``.
        sampling_ratio: See ``roi_align_forward``.
        pool_mode: 1, average.
        aligned: See ``roi_align_forward``.

    Raises:
        NotImplementedError: For max pooling (``pool_mode`` 0).
    """
    _check_mode('roi_align_backward', pool_mode)
    grad_output = _arithmetic(grad_output)
    with torch.enable_grad():
        # The operator is linear in its input, so the gradient is the same everywhere: take it at zero. torchvision's
        # own backward operator would save this forward pass, but is private.
        zeros = torch.zeros_like(grad_input, dtype=grad_output.dtype, requires_grad=True)
        size = (aligned_height, aligned_width)
        output = _roi_align(zeros, rois, size, spatial_scale, sampling_ratio, aligned)
        (gradient,) = torch.autograd.grad(output, zeros, grad_output)
    grad_input.copy_(gradient)


def _roi_align(
    input: torch.Tensor,
    rois: torch.Tensor,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    return torchvision.ops.roi_align(input, rois.to(input.dtype), size, spatial_scale, sampling_ratio, aligned)


def _check_mode(name: str, pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError(_sentence(f"{name} with pool_mode='max'"))


def _compiler() -> str:
    return 'not compiled: operators of torchvision'


_SERVED: dict[str, Callable[..., Any]] = {
    'nms': nms,
    'roi_align_forward': roi_align_forward,
    'roi_align_backward': roi_align_backward,
    'get_compiler_version': _compiler,
    'get_compiling_cuda_version': _compiler,
}
