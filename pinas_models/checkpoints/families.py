"""The checkpoints that the authors' programs write: how each spells the names of a network, and how it is recognised.

"Our names" are those of ``PinasNet``: the names of the authors' classification network and of timm's ``resnest50d``.
Source: the loading code of the authors' repository (classification, PyTorch-Encoding's DeepLabV3, Detectron2's Mask
R-CNN, and supernet, linear training and learning of OpenSelfSup).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ..choices import BLOCK_CHOICES

__all__ = ['FAMILIES', 'Family', 'detectron2_name', 'recognise']

_LEAF = r'(?:weight|bias|running_mean|running_var|num_batches_tracked)'
_STEM = rf'conv1\.(?:[036]\.weight|[14]\.{_LEAF})|bn1\.{_LEAF}'
_IN_BLOCK = (
    rf'(?:conv1|conv3|conv2\.conv|downsample\.1)\.weight|conv2\.fc[12]\.(?:weight|bias)'
    rf'|(?:bn1|bn3|conv2\.bn[01]|downsample\.2)\.{_LEAF}'
)
_NETWORK = re.compile(rf'(?:{_STEM})|layer[1-4]\.\d+\.(?:{_IN_BLOCK})|fc\.(?:weight|bias)')
_SUPERNET = re.compile(rf'(?P<stem>{_STEM})|(?P<block>layer[1-4]\.\d+)\.(?P<choice>\d+)\.(?P<rest>{_IN_BLOCK})')

# Module of ours <-> module of Detectron2, where a norm is a part of its convolution. The order matters to neither side:
# no pattern matches what another one makes.
_DETECTRON2_STEM = {
    'conv1.0': 'stem.conv1.0',
    'conv1.1': 'stem.conv1.0.norm',
    'conv1.3': 'stem.conv1.1',
    'conv1.4': 'stem.conv1.1.norm',
    'conv1.6': 'stem.conv1.2',
    'bn1': 'stem.conv1.2.norm',
}
_DETECTRON2_BLOCK = {
    'conv1': 'conv1',
    'bn1': 'conv1.norm',
    'conv2.conv': 'conv2.conv',
    'conv2.bn0': 'conv2.bn0',
    'conv2.fc1': 'conv2.fc1',
    'conv2.bn1': 'conv2.bn1',
    'conv2.fc2': 'conv2.fc2',
    'conv3': 'conv3',
    'bn3': 'conv3.norm',
    'downsample.1': 'shortcut',
    'downsample.2': 'shortcut.norm',
}
_FROM_DETECTRON2_STEM = {theirs: ours for ours, theirs in _DETECTRON2_STEM.items()}
_FROM_DETECTRON2_BLOCK = {theirs: ours for ours, theirs in _DETECTRON2_BLOCK.items()}
_OUR_BLOCK_NAME = re.compile(r'layer([1-4])\.(\d+)\.(.+)')
_DETECTRON2_BLOCK_NAME = re.compile(r'res([2-5])\.(\d+)\.(.+)')


def detectron2_name(name: str) -> str:
    """Spell one of our names as Detectron2's ResNeSt does (``layer1.0.bn1.weight`` -> ``res2.0.conv1.norm.weight``).

    Raises:
        KeyError: If Detectron2's backbone has no such module (``fc``).
    """
    module, _, leaf = name.rpartition('.')
    if match := _OUR_BLOCK_NAME.fullmatch(module):
        stage, block, part = match.groups()
        return f'res{int(stage) + 1}.{block}.{_DETECTRON2_BLOCK[part]}.{leaf}'
    return f'{_DETECTRON2_STEM[module]}.{leaf}'


def _from_detectron2(name: str) -> str | None:
    module, _, leaf = name.rpartition('.')
    if match := _DETECTRON2_BLOCK_NAME.fullmatch(module):
        stage, block, part = match.groups()
        ours = _FROM_DETECTRON2_BLOCK.get(part)
        return None if ours is None else f'layer{int(stage) - 1}.{block}.{ours}.{leaf}'
    ours = _FROM_DETECTRON2_STEM.get(module)
    return None if ours is None else f'{ours}.{leaf}'


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Attributes:
        name: Short name.
        title: What it is, for messages.
        prefixes: What stands before the network's names. If there are several, each tensor is there under all of them.
        teacher_prefix: The same for the teacher of mean-teacher learning, or None.
        has_candidates: Every block is a list of the four candidates (a supernet).
        classifier: Module name of a classifier that can become ours, or None.
        rest: Names that belong to the family but to no network: heads, projections, queues.
    """

    name: str
    title: str
    prefixes: tuple[str, ...] = ('',)
    teacher_prefix: str | None = None
    has_candidates: bool = False
    classifier: str | None = None
    rest: re.Pattern[str] = re.compile(r'(?!)')  # matches nothing

    def parse(self, name: str) -> tuple[str, int | None] | None:
        """Translate a name of the family.

        Args:
            name: Name in the checkpoint.

        Returns:
            Our name, and the choice that the tensor belongs to in a supernet (None for what all choices share, and
            outside of supernets). None if the name is not of the network.
        """
        module, _, leaf = name.rpartition('.')
        if self.classifier is not None and module == self.classifier:
            return f'fc.{leaf}', None
        prefixes = self.prefixes if self.teacher_prefix is None else (*self.prefixes, self.teacher_prefix)
        for prefix in prefixes:
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if self.has_candidates:
                if match := _SUPERNET.fullmatch(rest):
                    if match['stem']:
                        return match['stem'], None
                    return f'{match["block"]}.{match["rest"]}', int(match['choice'])
            else:
                ours = _from_detectron2(rest) if self.name == 'detectron2' else rest
                if ours is not None and _NETWORK.fullmatch(ours):
                    return ours, None
        return None

    def spell(self, name: str, choice: int | None = None, teacher: bool = False) -> tuple[str, ...]:
        """Translate one of our names; the inverse of ``parse``.

        Args:
            name: Our name.
            choice: The candidate, for a block of a supernet.
            teacher: Name the teacher's tensor.

        Returns:
            All names that the tensor has in the family.
        """
        if name.startswith('fc.') and self.classifier is not None:
            return (f'{self.classifier}.{name.removeprefix("fc.")}',)
        prefixes = (self.teacher_prefix or '',) if teacher else self.prefixes
        match = _OUR_BLOCK_NAME.fullmatch(name)
        if self.name == 'detectron2':
            inner = [detectron2_name(name)]
        elif self.has_candidates and match:
            # The candidates of a stage's first block share one shortcut, which is listed under each of them.
            choices = range(len(BLOCK_CHOICES)) if match[3].startswith('downsample.') else (choice,)
            inner = [f'layer{match[1]}.{match[2]}.{c}.{match[3]}' for c in choices]
        else:
            inner = [name]
        return tuple(prefix + spelled for prefix in prefixes for spelled in inner)

    def claims(self, name: str) -> bool:
        """Whether the name can be in a checkpoint of this family."""
        return self.parse(name) is not None or self.rest.fullmatch(name) is not None


FAMILIES = (
    Family('classification', 'a classification network (or a model of ours)', classifier='fc'),
    Family(
        'deeplabv3',
        "a DeepLabV3 of the authors' segmentation",
        prefixes=('pretrained.',),
        rest=re.compile(
            rf'(?:head\.aspp\.(?:b[0-3]\.[01]|b4\.gap\.[12]|project\.[01])|(?:head\.block|auxlayer\.conv5)\.[014])\.{_LEAF}'
        ),
    ),
    Family(
        'detectron2',
        'a Mask R-CNN of Detectron2',
        prefixes=('backbone.bottom_up.',),
        rest=re.compile(
            rf'backbone\.fpn_(?:lateral|output)[2-5]\.(?:weight|bias|norm\.{_LEAF})'
            r'|proposal_generator\.rpn_head\.(?:conv|objectness_logits|anchor_deltas)\.(?:weight|bias)'
            r'|proposal_generator\.anchor_generator\.cell_anchors\.\d+'
            rf'|roi_heads\.box_head\.(?:conv\d+|fc\d+)\.(?:weight|bias|norm\.{_LEAF})'
            r'|roi_heads\.box_predictor\.(?:cls_score|bbox_pred)\.(?:weight|bias)'
            rf'|roi_heads\.mask_head\.(?:mask_fcn\d+|deconv|predictor)\.(?:weight|bias|norm\.{_LEAF})'
            r'|pixel_mean|pixel_std'
        ),
    ),
    Family('supernet', 'a supernet', has_candidates=True),
    Family(
        'linear',
        'a linear training of a supernet',
        prefixes=('backbone.',),
        has_candidates=True,
        classifier='head.fc_cls',
    ),
    Family(
        'learning',
        'a learning of a supernet',
        prefixes=('backbone.', 'encoder_q.0.'),
        teacher_prefix='encoder_k.0.',
        has_candidates=True,
        rest=re.compile(r'encoder_[qk]\.1\.mlp\.[02]\.(?:weight|bias)|queue|queue_ptr'),
    ),
)


def recognise(names: Collection[str]) -> Family:
    """Find the family of a checkpoint: the one that knows most of its names.

    Args:
        names: All names of the state dict, without wrappers' prefixes.

    Raises:
        ValueError: If no family knows any name, or the names are those of several families.
    """
    # Of families that know equally many the first is taken: without its queue, learning looks like linear training.
    family = max(FAMILIES, key=lambda family: sum(family.claims(name) for name in names))
    if not any(family.claims(name) for name in names):
        first = ', '.join(name[:120] for name in sorted(names)[:3])
        kinds = ', '.join(family.name for family in FAMILIES)
        raise ValueError(f'no known kind of checkpoint ({kinds}): it holds {first}; is it a file of another network?')
    for other in FAMILIES:
        foreign = [name for name in names if not family.claims(name) and other.claims(name)]
        if foreign:
            first = ', '.join(foreign[:3])
            raise ValueError(
                f'a mixture of checkpoints: most names are those of {family.title}, but {len(foreign)} are those of '
                f'{other.title} (first {first}); convert each on its own'
            )
    return family
