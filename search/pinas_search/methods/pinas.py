"""Π-NAS: cross-path learning with a mean teacher and a queue of negatives (paper section 3; the authors' ``PiNAS``).

Every image gives four views. Two paths are drawn; on each, the student encodes one view and the teacher another. The
loss asks the student on one path to agree with the teacher on the *other* path (against feature shift), the teacher
is a moving average of the student (against parameter shift), and earlier teacher outputs are the negatives.

Where the paper and the authors' code differ, the code is the default and the other reading is an option.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from .. import distributed
from ..config import ViewConfig
from ..config.types import Fraction, PositiveFloat, PositiveInt
from ..plugins import options_of
from ..spaces import ChoicePath
from ..supernets import Supernet
from .base import PathMethod, Stream

__all__ = ['Neck', 'Options', 'SupernetPi', 'create']


class Neck(nn.Module):
    """Two-layer perceptron on pooled features: [N, F] -> [N, D] (OpenSelfSup's ``NonLinearNeckV1``)."""

    def __init__(self, num_features: int, feature_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(num_features, num_features), nn.ReLU(inplace=True), nn.Linear(num_features, feature_dim)
        )
        for layer in self.mlp:
            if not isinstance(layer, nn.Linear):
                continue
            nn.init.kaiming_normal_(layer.weight, mode='fan_in', nonlinearity='relu')
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features [N, F] to embeddings [N, D]."""
        return self.mlp(x)


class SupernetPi(PathMethod):
    """Student, teacher and queue. Trainable parameters are the student's and its neck's.

    State-dict names are the authors': ``encoder_q.0`` (student supernet), ``encoder_q.1`` (neck), ``encoder_k``
    (teacher), ``queue`` [D, K], ``queue_ptr`` [1].
    """

    num_views = 4
    queue: torch.Tensor
    queue_ptr: torch.Tensor

    def __init__(
        self,
        supernet: Supernet,
        queue_size: PositiveInt = 49152,
        momentum: Fraction = 0.999,
        temperature: PositiveFloat = 0.2,
        *,
        feature_dim: PositiveInt = 128,
        cross_path: bool = True,
        mean_teacher: bool = True,
        negatives: bool = True,
        path_pairs: Literal['disjoint', 'independent'] = 'disjoint',
        ema: Literal['per_path', 'shared_once', 'all_once'] = 'per_path',
        copy_bn_buffers: bool = False,
        renormalize_keys: bool = False,
    ) -> None:
        """Wrap a supernet; the defaults are the authors' code.

        Args:
            supernet: The student; it is trained in place.
            queue_size: Negatives in the queue; a multiple of the batch size of all ranks together.
            momentum: Decay λ of the teacher (paper Eq. 2).
            temperature: Divides the similarities; 1 with Eq. 4 of the paper read literally.
            feature_dim: Dimensions of the embedding.
            cross_path: Compare the student with the teacher on the other path; off: on the same path (Table 7, CP).
            mean_teacher: Off: the teacher's weights are the student's (Table 7, MT; "S-Π model").
            negatives: Off: no queue, the mean squared difference of the embeddings is the loss, which collapses (Table
                7, N).
            path_pairs: ``disjoint`` draws two different choices at each position (code), ``independent`` two paths
                (paper).
            ema: ``per_path`` updates the teacher on each path, shared parts therefore twice (code); ``shared_once``
                updates shared parts once; ``all_once`` updates every weight once per step (paper Eq. 2).
            copy_bn_buffers: Copy BN statistics to the teacher as well; off: it has its own from its own forward passes.
            renormalize_keys: Normalise the mean of two keys again before it enters the queue (paper: teacher outputs).
        """
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum if mean_teacher else 0.0
        self.cross_path = cross_path
        self.negatives = negatives
        self.path_pairs = path_pairs
        self.ema = ema
        self.copy_bn_buffers = copy_bn_buffers
        self.renormalize_keys = renormalize_keys
        self.encoder_q = nn.ModuleList([supernet, Neck(supernet.num_features, feature_dim)])
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.register_buffer('queue', F.normalize(torch.randn(feature_dim, queue_size), dim=0))
        self.register_buffer('queue_ptr', torch.zeros(1, dtype=torch.long))

    @property
    def supernet(self) -> Supernet:
        """The student's supernet."""
        return self.encoder_q[0]  # type: ignore[return-value]

    @property
    def streams(self) -> dict[str, Stream]:
        """The authors' four views of each image: crop, colour jitter, grayscale, blur, flip."""
        return {'train': Stream(ViewConfig(), self.num_views)}

    def sample_paths(self, generator: torch.Generator) -> tuple[ChoicePath, ChoicePath]:
        """Draw two paths; with ``disjoint`` they differ at every position that allows more than one choice."""
        space = self.supernet.space
        if self.path_pairs == 'independent':
            return space.sample(generator), space.sample(generator)
        orders = [torch.randperm(len(choices), generator=generator).tolist() for choices in space.allowed]
        first = tuple(choices[order[0]] for choices, order in zip(space.allowed, orders, strict=True))
        second = tuple(choices[order[:2][-1]] for choices, order in zip(space.allowed, orders, strict=True))
        return first, second

    def check_batch_size(self, batch_size: int) -> None:
        """Refuse a batch that would wrap around the end of the queue.

        Raises:
            ValueError: If the queue size is not a multiple of the batch size.
        """
        queue_size = self.queue.shape[1]
        if self.negatives and queue_size % batch_size:
            better = max(queue_size // batch_size, 1) * batch_size
            raise ValueError(
                f'learn.options.queue_size is {queue_size}, not a multiple of the batch size {batch_size}: '
                f'set it to {better}, or change learn.batch_size'
            )

    def training_step(
        self, views: torch.Tensor, paths: tuple[ChoicePath, ...], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One iteration: both forward passes of student and teacher, teacher update, loss, enqueue (paper Eq. 1-4).

        The teacher moves before its forward pass, towards the student's weights before this step's gradient update.

        Args:
            views: Normalised images [4, N, 3, H, W] in the order q0, k0, q1, k1.
            paths: The two paths.
            labels: Not used.

        Returns:
            The loss: sum of the two InfoNCE terms.

        Raises:
            ValueError: If there are not 4 views and 2 paths, or the N of all ranks do not divide the queue size.
        """
        if len(views) != self.num_views or len(paths) != 2:
            raise ValueError(f'a Π-NAS step takes 4 views and 2 paths, got {len(views)} and {len(paths)}')
        self.check_batch_size(views.shape[1] * distributed.size())
        queries, keys = [], []
        for i, path in enumerate(paths):
            queries.append(self._encode(self.encoder_q, views[2 * i], path))
            self._update_teacher(path, first=i == 0)
            with torch.no_grad():
                keys.append(self._encode(self.encoder_k, views[2 * i + 1], path))
        targets = [keys[1], keys[0]] if self.cross_path else keys
        if not self.negatives:
            return sum((F.mse_loss(q, k) for q, k in zip(queries, targets, strict=True)), queries[0].new_zeros(()))
        loss = self._contrast(queries, targets)
        self._enqueue((keys[0] + keys[1]) / 2)
        return loss

    def _encode(self, encoder: nn.ModuleList, images: torch.Tensor, path: ChoicePath) -> torch.Tensor:
        """Embeddings [N, D] in float32 (or double), on the unit sphere unless there are no negatives."""
        supernet, neck = cast(Supernet, encoder[0]), encoder[1]
        z = neck(supernet.features(supernet(images, path)))
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        return F.normalize(z, dim=1) if self.negatives else z

    def _contrast(self, queries: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        """InfoNCE of both queries against the queue as it is before the enqueue."""
        q, k = torch.cat(queries), torch.cat(targets)
        with torch.autocast(q.device.type, enabled=False):
            positives = (q * k).sum(1, keepdim=True)
            # The queue is overwritten in place before backward needs it, so the product must save a copy.
            logits = torch.cat([positives, q @ self.queue.clone()], dim=1) / self.temperature
            losses = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long), reduction='none')
        # The sum of the two batch means (Eq. 4), which have the same size.
        return 2 * losses.mean()

    @torch.no_grad()
    def _update_teacher(self, path: ChoicePath, first: bool) -> None:
        if self.ema == 'all_once':
            if first:
                self._average([self.encoder_q], [self.encoder_k])
            return
        student, teacher = self._active_modules(self.encoder_q, path), self._active_modules(self.encoder_k, path)
        done: set[nn.Parameter] = set()
        if self.ema == 'shared_once' and not first:
            done = {p for m in (*self.supernet.shared_modules(), self.encoder_q[1]) for p in m.parameters()}
        self._average(student, teacher, done)

    @staticmethod
    def _active_modules(encoder: nn.ModuleList, path: ChoicePath) -> list[nn.Module]:
        supernet, neck = encoder
        return [*supernet.path_modules(path), neck]  # type: ignore[operator]

    def _average(
        self, student: Iterable[nn.Module], teacher: Iterable[nn.Module], skip: Iterable[nn.Parameter] = ()
    ) -> None:
        """Move the teacher's parameters by 1 - λ towards the student's, in one fused call."""
        skipped = set(skip)
        pairs = [
            (k, q)
            for source, target in zip(student, teacher, strict=True)
            for q, k in zip(source.parameters(), target.parameters(), strict=True)
            if q not in skipped
        ]
        torch._foreach_lerp_([k for k, _ in pairs], [q for _, q in pairs], 1 - self.momentum)
        if self.copy_bn_buffers:
            for source, target in zip(student, teacher, strict=True):
                for q, k in zip(source.buffers(), target.buffers(), strict=True):
                    k.copy_(q)

    @torch.no_grad()
    def _enqueue(self, keys: torch.Tensor) -> None:
        """Replace the oldest columns of the queue with ``keys`` [N, D] and those of the other ranks."""
        keys = distributed.gather(keys)
        if self.renormalize_keys:
            keys = F.normalize(keys, dim=1)
        start = int(self.queue_ptr)
        self.queue[:, start : start + len(keys)] = keys.T
        self.queue_ptr[0] = (start + len(keys)) % self.queue.shape[1]

    def load_authors_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load the authors' learning checkpoint: student, teacher, queue and all alias names.

        Args:
            state_dict: The checkpoint's ``state_dict``; ``backbone.*`` repeats ``encoder_q.0.*``.

        Raises:
            ValueError: If an alias disagrees with the name that it repeats.
            RuntimeError: If names or shapes do not fit (as ``load_state_dict``).
        """
        state = {name.removeprefix('module.'): value for name, value in state_dict.items()}
        for name in [name for name in state if name.startswith('backbone.')]:
            original = 'encoder_q.0.' + name.removeprefix('backbone.')
            if original in state and not torch.equal(state[name], state[original]):
                raise ValueError(
                    f'{name} differs from {original}, which it repeats: this is no intact Π-NAS checkpoint'
                )
            state.setdefault(original, state[name])
            del state[name]
        self.load_state_dict(state)


# Spelled once, as the arguments of the class.
Options = options_of(SupernetPi)


def create(supernet: Supernet, options: Any, num_classes: int) -> SupernetPi:
    """Build the method for the learning stage (``num_classes`` is not used: Π-NAS learns without labels)."""
    return SupernetPi(supernet, **vars(options))
