"""DNA: the supernet is cut into blocks, and each learns to imitate a block of a trained network, the teacher.

Li et al., "Block-wisely Supervised Neural Architecture Search with Knowledge Distillation" (CVPR 2020). A block gets
the teacher's features as its input, so blocks neither wait for nor depend on each other, and paths are rated block by
block. The paper cuts a supernet with the teacher's channels; here 1x1 convolutions translate where they differ.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pinas_models.common.text import one_line
from pinas_models.loading import open_model, resolve_name

from ..config import LearnConfig, plain_views
from ..config.types import NonNegativeFloat, PositiveFloat
from ..scoring import EvaluationImages, Score, Scorer, Tools, cached, recalibrate_bn
from ..spaces import ChoicePath, Limits
from ..strategies.traversal import best_paths
from ..supernets import ChainSupernet, Supernet
from .base import Method, Step, Stream

__all__ = ['BlockRating', 'Dna', 'Options', 'StudentBlock', 'create', 'open_teacher']

_SIDE = 64  # of the images that strides are found with, in pixels


@dataclass(frozen=True)
class Options:
    """Options of DNA; the defaults are the released code. It uses no setting of the optimizer in ``learn``.

    Attributes:
        teacher: Name of a timm model, perhaps with a tag, a model folder, or ``hf-hub:ORG/name``; must be given. It
            sees images as ``data.mean`` and ``data.std`` normalise them.
        teacher_pretrained: Load the weights that the name stands for, from the Hub if need be. None: for folders, tags
            and ``hf-hub:``, not for a bare name of timm, whose weights are then random.
        teacher_norm: The teacher's BN uses statistics of the ``batch`` (released code) or its ``running`` ones.
        lr: Learning rate of Adam; constant within an epoch.
        lr_ends: The same of the first and the last block.
        lr_decay: Multiplies the learning rates after each epoch.
        weight_decay: Weight decay of Adam.
        rating: Loss that blocks are rated by, relative to the spread of the teacher's features: ``l1`` (paper) is
            their mean absolute difference by their standard deviation, ``mse`` their mean squared difference by their
            variance.
    """

    teacher: str = ''
    teacher_pretrained: bool | None = None
    teacher_norm: Literal['batch', 'running'] = 'batch'
    lr: PositiveFloat = 0.005
    lr_ends: PositiveFloat = 0.002
    lr_decay: PositiveFloat = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    rating: Literal['l1', 'mse'] = 'l1'


class StudentBlock:
    """Consecutive positions of a supernet between two 1x1 convolutions; no module, so that nothing is registered twice.

    Attributes:
        positions: The positions.
        parameters: Everything that is trained in it, translations included.
    """

    def __init__(
        self,
        supernet: ChainSupernet,
        positions: tuple[int, ...],
        own: list[nn.Parameter],
        enter: nn.Module,
        leave: nn.Module,
    ) -> None:
        """Take a part of a supernet.

        Args:
            supernet: The supernet.
            positions: The positions; the first block has the stem as well.
            own: The parameters of the supernet that the part has.
            enter: From the teacher's channels to those of the student.
            leave: Back to the teacher's.
        """
        self.supernet, self.positions, self.enter, self.leave = supernet, positions, enter, leave
        self._own = {id(p) for p in own}
        self.parameters = [*own, *enter.parameters(), *leave.parameters()]

    def __call__(self, x: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
        """The teacher's features before the block, or images, to what the block makes of those behind it."""
        x = self.supernet.stem(x) if self.positions[0] == 0 else self.enter(x)
        return self.leave(self.supernet.run(x, path, self.positions))

    def path_modules(self, path: Sequence[int]) -> list[nn.Module]:
        """The modules of a path that belong to the block."""
        modules = self.supernet.path_modules(path)
        return [module for module in modules if any(id(p) in self._own for p in module.parameters())]

    def train(self, mode: bool = True) -> None:
        """Set the mode of the whole supernet."""
        self.supernet.train(mode)


class Dna(Method):
    """Every block follows the teacher on its own, with its own Adam; a uniform path per step."""

    def __init__(
        self, supernet: ChainSupernet, teacher: nn.Module, outputs: Sequence[int], options: Options | None = None
    ) -> None:
        """Add translations between a supernet and a teacher.

        Args:
            supernet: The supernet; it is trained in place. Its blocks are the groups of the space's description.
            teacher: Images [N, 3, H, W] -> list of feature maps; it is frozen.
            outputs: Which of the feature maps each block imitates.
            options: Options of the method.

        Raises:
            ValueError: If the groups of the space do not follow one another, or blocks share weights.
        """
        super().__init__()
        self.options = options or Options()
        self.network, self.outputs = supernet, tuple(outputs)
        self.teacher = teacher.requires_grad_(False)
        student, owned = _measure(supernet)
        with torch.no_grad():
            channels = [feature.shape[1] for feature in self._teach(torch.zeros(2, 3, _SIDE, _SIDE))]
        enter, leave = nn.ModuleList(), nn.ModuleList()
        for i, (entered, left) in enumerate(student):
            taught = channels[i - 1] if i else entered
            enter.append(nn.Identity() if taught == entered else nn.Conv2d(taught, entered, 1))
            leave.append(nn.Conv2d(left, channels[i], 1))
        self.translations = nn.ModuleDict({'enter': enter, 'leave': leave})
        self.blocks = [
            StudentBlock(supernet, positions, own, *ends)
            for positions, own, ends in zip(_blocks(supernet), owned, zip(enter, leave, strict=True), strict=True)
        ]
        self._adams: dict[str, torch.optim.Adam] = {}
        # The teacher is a function of the configuration: it is not saved with every checkpoint.
        self.register_state_dict_post_hook(_drop_teacher)
        self.register_load_state_dict_pre_hook(_add_teacher)

    @property
    def supernet(self) -> Supernet:
        """The supernet."""
        return self.network

    @property
    def streams(self) -> dict[str, Stream]:
        """Random crops and flips."""
        return {'train': Stream(plain_views())}

    def optimizers(self, config: LearnConfig) -> dict[str, torch.optim.Optimizer]:
        """An Adam per block."""
        rates = [self._lr(i) for i in range(len(self.blocks))]
        self._adams = {
            f'block-{i}': torch.optim.Adam(block.parameters, rate, weight_decay=self.options.weight_decay)
            for i, (block, rate) in enumerate(zip(self.blocks, rates, strict=True), start=1)
        }
        return dict(self._adams)

    def step(self, step: Step) -> dict[str, torch.Tensor]:
        """Draw a path; each block imitates the teacher along its part of it and is updated."""
        images, path = step.batch().images[0], self.network.space.sample(step.generator('paths'))
        with torch.no_grad(), step.autocast():
            taught = self.teach(images)
        losses = {}
        for i, (block, name) in enumerate(zip(self.blocks, self._adams, strict=True)):
            for group in self._adams[name].param_groups:
                group['lr'] = self._lr(i) * self.options.lr_decay**step.epoch
            with step.autocast():  # which keeps the loss in float32
                loss = F.mse_loss(block(taught[i], path), taught[i + 1])
            step.backward(loss)
            step.update(name)
            losses[name] = loss.detach()
        return {'loss': torch.stack(list(losses.values())).mean(), **losses}

    def teach(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The images [N, 3, H, W], then the teacher's feature map behind each block."""
        return [images, *self._teach(images)]

    def train(self, mode: bool = True) -> Dna:
        """Set the mode; the teacher stays in eval mode, but for its BN where that uses statistics of the batch."""
        super().train(mode)
        self._freeze()
        return self

    def artifacts(self) -> dict[str, nn.Module]:
        """The supernet and the translations, which the rating needs."""
        return {'supernet': self.network, 'translations': self.translations}

    def scorers(self, tools: Tools) -> dict[str, Scorer]:
        """The rating of the blocks."""
        return {'distillation': BlockRating(self, tools)}

    def _teach(self, images: torch.Tensor) -> list[torch.Tensor]:
        self._freeze()
        features = self.teacher(images)
        return [features[index] for index in self.outputs]

    def _freeze(self) -> None:
        self.teacher.eval()
        if self.options.teacher_norm == 'batch':
            for layer in self.teacher.modules():
                if isinstance(layer, _BatchNorm):
                    # Normalises by the batch and leaves its running statistics alone.
                    layer.train()
                    layer.track_running_stats = False

    def _lr(self, block: int) -> float:
        return self.options.lr_ends if block in (0, len(self.blocks) - 1) else self.options.lr


class BlockRating:
    """Rates paths by how well their blocks imitate the teacher; s(a) = -Σ loss of block i along a.

    Every block and part of a path is rated once, after recalibration of its BN, and remembered.

    Attributes:
        facts: Images behind the ratings, and the loss.
    """

    def __init__(self, method: Dna, tools: Tools) -> None:
        """Choose the images; nothing is computed yet.

        Raises:
            ValueError: If there are no held-out images.
        """
        self.method, self.autocast = method.eval(), tools.autocast
        self._config, self._images = tools.config.search.evaluate, EvaluationImages(tools)
        # Not as held-out images: behind those the report expects an accuracy.
        facts = {'rated_images' if name == 'held_out_images' else name: v for name, v in self._images.facts.items()}
        self.facts: dict[str, object] = {**facts, 'loss': method.options.rating}
        pixels = 3 * tools.config.data.image_size**2
        floats = 4 * (pixels + self._floats_per_image(tools.config.data.image_size))
        self._calibration = cached(
            lambda: self._teach(self._images.calibration()), self._images.num_calibration * floats
        )
        self._scored = cached(lambda: self._teach(self._images.scored()), self._images.num_scored * floats)
        self._spreads: list[float] = []
        self._losses: list[dict[ChoicePath, float]] = [{} for _ in method.blocks]

    def score(self, paths: Sequence[ChoicePath]) -> list[Score]:
        """Score paths by their blocks, with the loss of each block as ``loss_1``, ``loss_2``, ..."""
        scores = []
        for path in paths:
            losses = [self._loss(i, tuple(path[p] for p in b.positions)) for i, b in enumerate(self.method.blocks)]
            scores.append(Score(-sum(losses), {f'loss_{i}': loss for i, loss in enumerate(losses, start=1)}))
        return scores

    def block_losses(self) -> list[Mapping[ChoicePath, float]]:
        """The loss of every part of a path, by block. With many positions in a block these are many."""
        allowed = self.method.network.space.allowed
        for i, block in enumerate(self.method.blocks):
            for part in itertools.product(*(allowed[position] for position in block.positions)):
                self._loss(i, part)
        return list(self._losses)

    def best(self, limits: Limits | None = None, count: int = 1) -> list[tuple[ChoicePath, float]]:
        """The paths with the lowest losses of all under limits, with their scores, the best first.

        Raises:
            ValueError: If a limit cannot be met.
        """
        found = best_paths(self.method.network.space, self.block_losses(), limits, count)
        return [(path, -loss) for path, loss in found]

    def _loss(self, index: int, part: ChoicePath) -> float:
        if part not in self._losses[index]:
            with torch.no_grad(), self.autocast():
                self._losses[index][part] = self._rate(index, part)
        return self._losses[index][part]

    def _rate(self, index: int, part: ChoicePath) -> float:
        block = self.method.blocks[index]
        path = [choices[0] for choices in self.method.network.space.allowed]
        for position, choice in zip(block.positions, part, strict=True):
            path[position] = choice
        if self._config.recalibrate:
            inputs = (taught[index] for taught in self._calibration())
            recalibrate_bn(block, path, inputs, variance=self._config.variance)
        block.train(False)
        total, count, power = 0.0, 0, 1 if self.method.options.rating == 'l1' else 2
        for taught in self._scored():
            difference = (block(taught[index], path).float() - taught[index + 1].float()).double()
            total += float((difference.abs() ** power).sum())
            count += difference.numel()
        return total / count / self._spread(index) ** power

    def _spread(self, index: int) -> float:
        """Standard deviation of the teacher's features behind a block."""
        if not self._spreads:
            sums = torch.zeros(len(self.method.blocks), 3, dtype=torch.float64)
            for taught in self._scored():
                for row, feature in zip(sums, taught[1:], strict=True):
                    values = feature.double()
                    row += torch.stack([values.sum(), (values**2).sum(), values.new_tensor(values.numel())]).cpu()
            mean, square = (sums[:, :2] / sums[:, 2:]).unbind(1)
            self._spreads = (square - mean**2).clamp_min(torch.finfo(torch.float64).tiny).sqrt().tolist()
        return self._spreads[index]

    @torch.no_grad()
    def _teach(self, batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
        for images, _ in batches:
            yield self.method.teach(images)

    @torch.no_grad()
    def _floats_per_image(self, side: int) -> int:
        image = torch.zeros(2, 3, side, side, device=next(self.method.translations.parameters()).device)
        return sum(feature[0].numel() for feature in self.method.teach(image)[1:])


def open_teacher(options: Options, strides: Sequence[int]) -> tuple[nn.Module, list[int]]:
    """Open the teacher and find the feature map that each block imitates.

    Args:
        options: Say which.
        strides: Stride of the feature map behind each block of the student.

    Returns:
        The teacher, images -> list of feature maps, and the index of each block's one: the last ones at its stride.

    Raises:
        OSError: If a folder or the weights on the Hub are missing.
        ValueError: If there is no such model, it has no feature maps, or their strides do not fit.
    """
    if not options.teacher:
        raise ValueError(
            'learn.options.teacher is missing: dna imitates a trained network, name a timm model or a model folder'
        )
    source = resolve_name(options.teacher)
    named = ':' in source or '.' in source
    pretrained = options.teacher_pretrained if options.teacher_pretrained is not None else named
    if not pretrained:
        warnings.warn(
            f'the teacher {options.teacher} has random weights: set learn.options.teacher_pretrained=true or name a '
            'model folder, unless that is meant',
            stacklevel=2,
        )
    arguments: dict[str, Any] = {'features_only': True}
    try:
        teacher = open_model(options.teacher, pretrained=pretrained, model_args=arguments)
        reductions = list(teacher.feature_info.reduction())  # type: ignore[union-attr, operator]
    except (RuntimeError, AttributeError, AssertionError) as error:  # timm's, for networks without feature maps
        raise ValueError(f'learn.options.teacher {options.teacher} has no feature maps ({one_line(error)})') from error
    outputs = []
    for i, stride in enumerate(strides):
        later = sum(other == stride for other in strides[i + 1 :])
        found = [index for index, reduction in enumerate(reductions) if reduction == stride]
        if len(found) <= later:
            raise ValueError(
                f'learn.options.teacher {options.teacher} has feature maps at strides '
                f'{", ".join(map(str, reductions))}, the blocks end at strides {", ".join(map(str, strides))}: take a '
                'teacher that has those'
            )
        outputs.append(found[-1 - later])
    return teacher, outputs


def create(supernet: Supernet, options: Options, num_classes: int) -> Dna:
    """Build the method for the learning stage; it uses no labels.

    Raises:
        OSError: If the teacher is missing.
        ValueError: If the supernet cannot be cut into blocks, or the teacher does not fit.
    """
    if not isinstance(supernet, ChainSupernet):
        raise ValueError(
            f'learn.method dna cuts a supernet into blocks that follow one another; that of {supernet.space.name} is '
            'no chain: take another method'
        )
    return Dna(supernet, *open_teacher(options, _strides(supernet)), options)


def _blocks(supernet: ChainSupernet) -> list[tuple[int, ...]]:
    """The positions of each block."""
    space = supernet.space
    blocks = [group.positions for group in space.describe().groups]
    if [position for block in blocks for position in block] != list(range(space.num_positions)):
        raise ValueError(
            f'learn.method dna takes the groups of a space as blocks; those of {space.name} are not in order'
        )
    return blocks


@torch.no_grad()
def _strides(supernet: ChainSupernet) -> list[int]:
    x, path = supernet.eval().stem(torch.zeros(2, 3, _SIDE, _SIDE)), _first_path(supernet)
    strides = []
    for positions in _blocks(supernet):
        x = supernet.run(x, path, positions)
        strides.append(round(_SIDE / x.shape[-1]))
    supernet.train()
    return strides


def _measure(supernet: ChainSupernet) -> tuple[list[tuple[int, int]], list[list[nn.Parameter]]]:
    """Channels before and behind each block, and its parameters: those that its result depends on."""
    supernet.eval()
    parameters, choices = list(supernet.parameters()), supernet.space.allowed
    channels: list[tuple[int, int]] = []
    owned: list[list[nn.Parameter]] = []
    images = torch.zeros(2, 3, _SIDE, _SIDE)
    x = supernet.stem(images).detach()
    for i, positions in enumerate(_blocks(supernet)):
        used: dict[int, nn.Parameter] = {}
        for number in range(max(map(len, choices))):
            path = tuple(allowed[min(number, len(allowed) - 1)] for allowed in choices)
            y = supernet.run(x if i else supernet.stem(images), path, positions)
            gradients = torch.autograd.grad(y.sum(), parameters, allow_unused=True)
            used |= {id(p): p for p, g in zip(parameters, gradients, strict=True) if g is not None}
        if used.keys() & {id(p) for block in owned for p in block}:
            raise ValueError(f'learn.method dna trains blocks apart, but those of {supernet.space.name} share weights')
        channels.append((x.shape[1], y.shape[1]))
        owned.append([p for p in parameters if id(p) in used])
        x = y.detach()
    supernet.train()
    return channels, owned


def _first_path(supernet: ChainSupernet) -> ChoicePath:
    return tuple(allowed[0] for allowed in supernet.space.allowed)


def _drop_teacher(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    for name in [name for name in state if name.startswith(f'{prefix}teacher.')]:
        del state[name]


def _add_teacher(module: nn.Module, state: dict[str, Any], prefix: str, *more: Any) -> None:
    for name, tensor in module.get_submodule('teacher').state_dict().items():
        state.setdefault(f'{prefix}teacher.{name}', tensor)
