"""Convert the authors' checkpoints to state dicts of our models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..choices import BLOCK_CHOICES, Choices, parse_choices
from ..common.text import first_names
from . import audit
from .architecture import Architecture, Shape, block_of, candidate_shapes, infer_architecture
from .families import Family, recognise

__all__ = ['Conversion', 'convert_checkpoint', 'convert_state_dict', 'count_classes', 'unwrap']

# Where a checkpoint keeps its weights, the preferred first, as in timm.
_WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
_NESTED = 2  # levels of wrappers; a crafted file can be its own wrapper
_PREFIXES = ('module.', '_orig_mod.')  # of DistributedDataParallel and torch.compile
_DIFFERING = 'pairs of names that should be one tensor but differ'
_REMEDIES = {
    audit.UNKNOWN: 'take them out if they are not needed',
    audit.WRONG_SHAPES: 'is it a network of this space?',
    audit.NO_WEIGHTS: 'is it quantised?',
    _DIFFERING: 'the file is damaged, or of a supernet whose candidates do not share shortcuts: not supported',
}


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint and the report on it.

    Attributes:
        state_dict: The weights under our names; loads strictly into the network of the path ``choices``. Without
            classifier if the checkpoint has none. Tensors are those of the checkpoint, not copies.
        family: Kind of checkpoint: classification, deeplabv3, detectron2, supernet, linear or learning.
        choices: The path.
        layers: Blocks per stage.
        left_out: Everything in the checkpoint that is not in ``state_dict``: names of tensors, and of what lies beside
            the weights (optimizer, epoch, ...).
    """

    state_dict: dict[str, torch.Tensor]
    family: str
    choices: Choices
    layers: tuple[int, ...]
    left_out: list[str]

    @property
    def num_classes(self) -> int:
        """Classes of the classifier, 0 without one."""
        return len(self.state_dict['fc.bias']) if 'fc.bias' in self.state_dict else 0


def convert_state_dict(
    state_dict: Mapping[str, Any], choices: str | Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Convert any of the authors' checkpoints to the names of our models.

    Args:
        state_dict: A state dict or a whole checkpoint; see ``convert_checkpoint``, which also tells what is left out.
        choices: The path: which network to take out of a supernet. For others it is checked against the weights.

    Returns:
        The weights, which load strictly (476 entries for the published networks, 474 without a classifier).

    Raises:
        ValueError: If it is no such checkpoint, is damaged, or does not fit ``choices``.
    """
    return convert_checkpoint(state_dict, choices).state_dict


def convert_checkpoint(
    checkpoint: Mapping[str, Any],
    choices: str | Sequence[int] | None = None,
    *,
    teacher: bool = False,
    layers: Sequence[int] | None = None,
) -> Conversion:
    """Convert any of the authors' checkpoints, and report what was found and what is left out.

    The kinds are told apart by their names: classification (and state dicts of our own models), PyTorch-Encoding's
    DeepLabV3, Detectron2's Mask R-CNN, and three with a supernet: the supernet itself (ours as well), linear training
    and learning. The wrappers ``state_dict``, ``model`` and their EMA twins and the prefixes ``module.`` and
    ``_orig_mod.`` are removed.

    Args:
        checkpoint: What ``load_checkpoint`` returns.
        choices: The path. Needed for a supernet; for others it is checked against the weights.
        teacher: Take the teacher of a learning checkpoint instead of the student.
        layers: Blocks per stage; None stands for those of the registered networks, 3-4-6-3 or 2-2-2-2.

    Returns:
        The conversion.

    Raises:
        ValueError: If it is no such checkpoint, names are missing or unknown, shapes are wrong, tensors that should be
            one differ, or ``choices`` does not fit; the message says which kind was recognised, the first offending
            names and what to do.
    """
    tensors, beside = unwrap(checkpoint)
    family = recognise(tensors)
    if teacher and family.teacher_prefix is None:
        raise ValueError(f'this is {family.title}, which has no teacher: only a learning has one; leave teacher out')
    parsed = {name: ours for name in tensors if (ours := family.parse(name)) is not None}
    shapes = [(ours, tuple(tensors[name].shape)) for name, (ours, _) in parsed.items()]
    try:
        architecture = infer_architecture(shapes, layers)
        if family.has_candidates:
            path = _requested_path(architecture, choices)
        else:
            path = _path_of_weights(architecture, dict(shapes), choices)
        slots = list(_slots(family, architecture, path, teacher, _classifier_shapes(architecture, dict(shapes))))
    except ValueError as error:
        raise ValueError(f'this is {family.title}: {error}') from error
    _check(family, slots, tensors)

    state_dict, used = {}, set[str]()
    for slot in slots:
        present = [name for name in slot.names if name in tensors]
        if slot.target is not None and present:
            state_dict[slot.target] = tensors[present[0]].detach()
            used.update(present)
    return Conversion(
        state_dict=state_dict,
        family=family.name,
        choices=path,
        layers=architecture.layers,
        left_out=[*(name for name in tensors if name not in used), *beside],
    )


def unwrap(checkpoint: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Take the weights out of a checkpoint and remove wrappers' prefixes from their names.

    Args:
        checkpoint: A state dict, or a mapping that holds one under ``state_dict``, ``model`` or their EMA twins.

    Returns:
        The state dict, and the names of what lies beside it.

    Raises:
        ValueError: If there are no weights, something among them is no tensor, or two names become one.
    """
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'a checkpoint is a dict of tensors, this is a {type(checkpoint).__name__}')
    beside: list[str] = []
    for _ in range(_NESTED):
        wrapper = next((key for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if wrapper is not None:
            beside += [str(key) for key in checkpoint if key != wrapper]
            checkpoint = checkpoint[wrapper]
    wrong = [str(name) for name, value in checkpoint.items() if not (isinstance(value, torch.Tensor) and name)]
    if wrong or not checkpoint or not all(isinstance(name, str) for name in checkpoint):
        raise ValueError(
            f'no state dict: {first_names(wrong or map(str, checkpoint))} is no named tensor; a checkpoint is a dict '
            f'of tensors or holds one under {", ".join(_WRAPPERS)}'
        )
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in checkpoint.items():
        clean = name
        while clean.startswith(_PREFIXES):
            clean = clean.split('.', 1)[1]
        if clean in tensors:
            raise ValueError(
                f'{clean} occurs twice, with and without the prefix of a wrapper ({name}): which is meant?'
            )
        tensors[clean] = tensor
    return tensors, beside


def count_classes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Classes of the classifier in an unwrapped checkpoint of any kind; 0 without one.

    Raises:
        ValueError: If the kind is not known.
    """
    bias = tensors.get(f'{recognise(tensors).classifier}.bias')
    return 0 if bias is None or bias.ndim == 0 else len(bias)


@dataclass(frozen=True)
class _Slot:
    """A tensor that a checkpoint should hold: the names it may have, its shape, and our name if it is taken."""

    names: tuple[str, ...]
    shape: Shape
    target: str | None


def _slots(
    family: Family, architecture: Architecture, path: Choices, teacher: bool, classifier: dict[str, Shape]
) -> Iterator[_Slot]:
    """Everything that a checkpoint of the family holds of networks; the taken ones in the order of our state dict."""
    candidates = candidate_shapes(architecture)
    choice_of = dict(zip(architecture.block_names, path, strict=True))
    for of_teacher in [False, True] if family.teacher_prefix is not None else [False]:
        taken = of_teacher == teacher
        for name, shape in candidates[0].items():
            block = block_of(name)
            if block is None:
                yield _Slot(family.spell(name, teacher=of_teacher), shape, name if taken else None)
            elif not family.has_candidates:
                yield _Slot(family.spell(name), candidates[choice_of[block]][name], name)
            elif '.downsample.' in name:  # one for all candidates
                yield _Slot(family.spell(name, teacher=of_teacher), shape, name if taken else None)
            else:
                for choice, shapes in enumerate(candidates):
                    on_path = choice == choice_of[block]
                    names = family.spell(name, choice, of_teacher)
                    yield _Slot(names, shapes[name], name if taken and on_path else None)
    for name, shape in classifier.items():
        yield _Slot(family.spell(name), shape, name)


def _classifier_shapes(architecture: Architecture, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """Names and shapes of the classifier if the checkpoint has one: of any number of classes."""
    found = [shapes[name] for name in ('fc.weight', 'fc.bias') if name in shapes]
    if not found:
        return {}
    num_classes = found[0][0] if found[0] else 0
    return {'fc.weight': (num_classes, 4 * architecture.channels[-1]), 'fc.bias': (num_classes,)}


def _requested_path(architecture: Architecture, choices: str | Sequence[int] | None) -> Choices:
    positions = len(architecture.block_names)
    if choices is None:
        raise ValueError(
            f'it holds the weights of {len(BLOCK_CHOICES)}^{positions} networks, so choices must name the one to take: '
            f'a string of {positions} digits 0..{len(BLOCK_CHOICES) - 1}'
        )
    return parse_choices(choices, positions)


def _path_of_weights(
    architecture: Architecture, shapes: Mapping[str, Shape], choices: str | Sequence[int] | None
) -> Choices:
    """The path of a stand-alone network: the 3x3 convolutions of the four candidates differ in shape."""
    candidates = candidate_shapes(architecture)
    requested = None if choices is None else parse_choices(choices, len(architecture.block_names))
    path, contradicted, complete = [], [], True
    for position, block in enumerate(architecture.block_names):
        name = f'{block}.conv2.conv.weight'
        shape = shapes.get(name)
        fitting = [choice for choice, expected in enumerate(candidates) if expected[name] == shape]
        wanted = None if requested is None else requested[position]
        complete &= bool(fitting)
        if wanted is not None and wanted not in fitting:
            contradicted.append(position)
        # Where nothing fits, whatever is taken is then found to be missing or of the wrong shape.
        path.append(wanted if wanted in fitting else (fitting or [wanted or 0])[0])
    if requested is not None and contradicted and complete:
        where = first_names(f'{p} ({architecture.block_names[p]})' for p in contradicted)
        raise ValueError(
            f'its weights are those of the path {_digits(path)}, not of {_digits(requested)}: they differ at position '
            f'{where}; take a model of their own path (choices={_digits(path)!r}), or other weights'
        )
    return tuple(path)


def _check(family: Family, slots: Sequence[_Slot], tensors: Mapping[str, torch.Tensor]) -> None:
    """Compare what a checkpoint holds with what it should hold; raises ``ValueError``."""
    faults = audit.compare(tensors, ((slot.names, slot.shape) for slot in slots))
    faults[audit.UNKNOWN] = [name for name in faults[audit.UNKNOWN] if not family.rest.fullmatch(name)]
    faults[_DIFFERING] = []
    for slot in slots:
        present = [name for name in slot.names if name in tensors and tuple(tensors[name].shape) == slot.shape]
        faults[_DIFFERING] += [
            f'{name} and {present[0]}' for name in present[1:] if not _equal(tensors[name], tensors[present[0]])
        ]
    # What has other things as well is not a part of this network, but another one.
    foreign = faults[audit.UNKNOWN] or faults[audit.WRONG_SHAPES]
    missing = 'is it a file of another network?' if foreign else 'the file is incomplete, get it again'
    if text := audit.describe(faults, {**_REMEDIES, audit.MISSING: missing}):
        raise ValueError(f'this is {family.title}, but it cannot be converted: {text}')


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is b or (a.device == b.device and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()):
        return True
    return torch.equal(a, b)


def _digits(path: Iterable[int]) -> str:
    return ''.join(map(str, path))
