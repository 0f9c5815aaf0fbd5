"""A model as a file that runs without this package: ONNX, TorchScript or torch.export, compared before it is kept."""

from __future__ import annotations

import importlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from ..common.files import atomic_path
from ..common.text import first_line
from ..evaluation.labels import class_names
from ..evaluation.protocols import data_config
from .fuse import fold_batch_norms, fuse

__all__ = ['FORMATS', 'TOLERANCE', 'ExportError', 'ExportReport', 'check_target', 'export', 'find_format']

FORMATS = {'onnx': '.onnx', 'torchscript': '.pt', 'torch-export': '.pt2'}  # format: the usual suffix
TOLERANCE = 1e-4  # largest difference, in parts of the largest output; rounding alone gives 1e-6

_OLDEST_OPSET = 18  # that PyTorch's exporter writes
_INPUT, _OUTPUT = 'images', 'outputs'  # names in the ONNX graph


class ExportError(Exception):
    """The exported file does not compute what the model computes."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported and how it was checked.

    Attributes:
        path: The file.
        format: A key of ``FORMATS``.
        opset: Version of the ONNX operators; None for the other formats.
        shapes: Shapes of the inputs that file and model were compared on.
        max_difference: Largest difference of an output, over all of them.
        max_output: Largest output.
    """

    path: Path
    format: str
    opset: int | None
    shapes: tuple[tuple[int, ...], ...]
    max_difference: float
    max_output: float


def find_format(path: str | Path, format: str | None = None) -> str:
    """The format to write: the given one, else that of the suffix.

    Raises:
        ValueError: If there is no such format, or the suffix names none.
    """
    if format is None:
        suffix = Path(path).suffix
        format = next((name for name, usual in FORMATS.items() if usual == suffix), None)
        if format is None:
            known = ', '.join(f'{usual} ({name})' for name, usual in FORMATS.items())
            raise ValueError(f'{path} does not end with one of {known}: name the format')
    if format not in FORMATS:
        raise ValueError(f'there is no format {format!r}; there are {", ".join(FORMATS)}')
    return format


def check_target(path: str | Path, format: str, overwrite: bool = False) -> None:
    """Find out before the work whether a file can be written.

    Args:
        path: The file.
        format: A key of ``FORMATS``.
        overwrite: Whether it may exist.

    Raises:
        OSError: If it exists, or its folder does not.
        ValueError: If packages are missing that the format needs.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f'there is no folder {path.parent} to write {path.name} to')
    if path.is_dir():
        raise IsADirectoryError(f'{path} is a folder; name a file')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists already; choose another name, or allow to overwrite it (--force)')
    if format == 'onnx':
        missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if not _is_installed(name)]
        if missing:
            raise ValueError(f"ONNX needs {' and '.join(missing)}: pip install 'pinas-models[export]'")


def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: str | None = None,
    size: tuple[int, int] | None = None,
    dynamic_size: bool = False,
    fused: bool = False,
    opset: int | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Write a model to a file that takes batches of any size, if it computes what the model computes.

    The file is loaded again, by onnxruntime or PyTorch, and both run on random images: several batch sizes and, with
    ``dynamic_size``, several image sizes. Only then it gets its name. It holds a text ``preprocessing`` (metadata in
    ONNX, an extra file in the other formats): JSON with what timm knows about the images, such as mean and std; and,
    where the names of the classes are known, ``classes``: JSON with ``labels`` and ``descriptions`` in their order.

    Args:
        model: A network in eval mode with float32 parameters on the CPU, of one input and one output.
        path: The file to write.
        format: A key of ``FORMATS``; None takes that of the suffix.
        size: Height and width of the images in pixels; None takes those that timm knows for the model.
        dynamic_size: Whether height and width may vary as well. torch.export then takes sizes that leave more than one
            pixel of the last feature map, so above 32 for the published networks.
        fused: Export ``fuse(model)`` (for ONNX only the folding); it is compared with ``model`` all the same.
        opset: Version of the ONNX operators; None takes PyTorch's choice.
        overwrite: Replace an existing file.

    Returns:
        What was compared, and how much it differs.

    Raises:
        ExportError: If the file does not compute what the model computes; it is not kept.
        OSError: If the file exists or cannot be written.
        ValueError: If the arguments do not fit together, packages are missing, or the model cannot be exported.
    """
    path = Path(path)
    format = find_format(path, format)
    if opset is not None and format != 'onnx':
        raise ValueError(f'opset is of ONNX, not of {format}')
    check_target(path, format, overwrite)
    if opset is not None:
        newest = importlib.import_module('onnx').defs.onnx_opset_version()
        if not _OLDEST_OPSET <= opset <= newest:
            raise ValueError(f'opset is {opset}; allowed are {_OLDEST_OPSET} to {newest}')
    if model.training:
        raise ValueError('the model is in training mode: call model.eval() first')
    if any(p.dtype != torch.float32 or p.device.type != 'cpu' for p in model.parameters()):
        raise ValueError('the model must be float32 on the CPU to be exported: call model.float().cpu() first')
    config = resolve_model_data_config(model)
    channels = int(getattr(model, 'in_chans', config['input_size'][0]))
    height, width = size or config['input_size'][1:]
    shapes = [(1, channels, height, width), (3, channels, height, width)]
    if dynamic_size:  # smaller, larger, not square, odd
        shapes += [(2, channels, height - height // 4 + 1, width + width // 4), (1, channels, height + 3, width + 1)]
    metadata = {}
    if channels in (1, 3):  # what timm knows is about colour or grey images
        metadata['preprocessing'] = json.dumps({**data_config(model), 'input_size': shapes[0][1:]})
    if names := class_names(model):
        metadata['classes'] = json.dumps(names._asdict(), ensure_ascii=False)
    samples = [_sample(model, shape) for shape in shapes]

    # ONNX has no operator for the interpolation in FusedSplitAttn: its parts would take longer than what they replace.
    optimize = fold_batch_norms if format == 'onnx' else fuse
    source = optimize(model) if fused else model
    example = torch.zeros(2, channels, height, width)  # torch.export takes a batch of 1 for a constant
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='.export-') as folder:
        file = Path(folder) / path.name
        with _explained(f'cannot export the model to {format}'), torch.no_grad():
            if format == 'onnx':
                opset = _write_onnx(source, example, file, dynamic_size, opset, metadata)
            elif format == 'torchscript':
                # Through a buffer: torch's own writer ends the whole process on a full disk.
                file.write_bytes(torch.jit.script(source).save_to_buffer(_extra_files=metadata))
            else:
                _write_torch_export(source, example, file, dynamic_size, metadata)
        if len(os.listdir(folder)) > 1:
            raise ValueError(f'the model is too large for one {format} file (2 GB): use another format')
        with _explained('the written file cannot be loaded'):
            exported = _load(file, format)
        difference = max(_difference(exported, images, expected) for images, expected in samples)
        with atomic_path(path) as temporary:
            file.replace(temporary)
    largest = max(expected.abs().max().item() for _, expected in samples)
    return ExportReport(path, format, opset, tuple(shapes), difference, largest)


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what a library raises into a ValueError of one line, and silence its warnings: they are for its callers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    except OSError:  # a full disk, most likely
        raise
    # TorchScript's compiler and onnxruntime raise subclasses of Exception itself, PyTorch's exporters about anything.
    except Exception as error:
        raise ValueError(f'{what}: {first_line(error)}') from error


def _write_onnx(
    model: nn.Module, example: Tensor, file: Path, dynamic_size: bool, opset: int | None, metadata: dict[str, str]
) -> int:
    sizes = {2: 'height', 3: 'width'} if dynamic_size else {}
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes=({0: 'batch', **sizes},),
        opset_version=opset,
    )
    if program is None:  # so says its type, for dynamo=False
        raise RuntimeError('PyTorch wrote nothing')
    written = program.model.opset_imports['']
    if written != (opset or written):
        raise ValueError(f'the model needs opset {written}, not {opset}')
    program.model.metadata_props.update(metadata)
    program.save(file)
    return written


def _write_torch_export(
    model: nn.Module, example: Tensor, file: Path, dynamic_size: bool, metadata: dict[str, str]
) -> None:
    varying = (0, 2, 3) if dynamic_size else (0,)
    program = torch.export.export(model, (example,), dynamic_shapes=(dict.fromkeys(varying, torch.export.Dim.DYNAMIC),))
    # Through memory: its own writer does not say that a disk is full. Nor by name: it would insist on a suffix.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=metadata)
    file.write_bytes(content.getbuffer())


def _load(file: Path, format: str) -> Callable[[Tensor], Tensor]:
    """A function that runs the file."""
    if format == 'torch-export':
        with file.open('rb') as stream:
            return torch.export.load(stream).module()
    if format == 'torchscript':
        return torch.jit.load(file)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    return lambda images: torch.from_numpy(session.run([_OUTPUT], {_INPUT: images.numpy()})[0])


def _sample(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Random images and what the model computes for them.

    Raises:
        ValueError: If the model cannot run on them, or its output is no tensor of finite values.
    """
    # Of different contrast: the outputs for plain noise are so close that one image could stand for another.
    contrast = torch.linspace(0.5, 2, shape[0]).view(-1, 1, 1, 1)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * contrast
    with _explained(f'the model cannot run on images {_text(shape)}'), torch.no_grad():
        outputs = model(images)
    if not isinstance(outputs, Tensor):
        raise ValueError(f'the model gives a {type(outputs).__name__}; only models with one tensor can be exported')
    if not outputs.isfinite().all():
        raise ValueError('the model computes values that are not finite: its weights are damaged')
    return images, outputs


def _difference(exported: Callable[[Tensor], Tensor], images: Tensor, expected: Tensor) -> float:
    """Largest difference between the outputs of the exported model and the expected ones.

    Raises:
        ExportError: If it is too large, or the exported model does not run on the images.
    """
    where = f'on images {_text(images.shape)}'
    try:
        with _explained(f'the exported model cannot run {where}'), torch.no_grad():
            actual = exported(images)
    except ValueError as error:
        raise ExportError(str(error)) from error
    if actual.shape != expected.shape:
        raise ExportError(f'{where} the outputs have the shape {_text(actual.shape)}, not {_text(expected.shape)}')
    difference = (actual - expected).abs().max().item()
    largest = expected.abs().max().item()
    if not difference <= TOLERANCE * largest:  # also for nan
        raise ExportError(
            f'{where} the outputs differ by up to {difference:.1e} from outputs of up to {largest:.1e}; '
            f'allowed is {TOLERANCE:.0e} of the largest'
        )
    return difference


def _text(shape: Sequence[int]) -> str:
    return 'x'.join(map(str, shape))
