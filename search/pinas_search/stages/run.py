"""What the stages of one run have in common: configuration, folder, space, device, images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from pinas_models.common.files import write_json

from .. import STAGES, distributed
from ..config import Config, EvaluateConfig, ViewConfig
from ..data import WHOLE, ImageSource, Part, Splits, load_splits, normalize, photometric
from ..methods import Method
from ..plugins import Kind, Plugin, find_plugin
from ..randomness import generator, seeded_scope
from ..records import StageDir, done_record, load_tensors, read_json
from ..scoring import Scorer
from ..spaces import ChoicePath, Limits, Space
from ..strategies import Strategy
from ..supernets import Supernet

__all__ = ['Run']

ModuleT = TypeVar('ModuleT', bound=nn.Module)


@dataclass(frozen=True)
class Run:
    """One run. It is what ``pinas_search.scoring.Tools`` promises to scorers.

    Attributes:
        config: The configuration.
        path: The run directory.
        snapshot: Which moment of the learning stage is looked at: a folder below ``learn``; empty for its end.
        workers: Processes that train or score networks side by side.
    """

    config: Config
    path: Path
    snapshot: str = field(default='', kw_only=True)
    workers: int = field(default=1, kw_only=True)

    def variant(self, *, snapshot: str | None = None, evaluate: EvaluateConfig | None = None) -> Run:
        """The same run, looked at another moment of the learning stage or with other settings of the evaluation."""
        config = self.config
        if evaluate is not None:
            config = replace(config, search=replace(config.search, evaluate=evaluate))
        other = replace(self, config=config, snapshot=self.snapshot if snapshot is None else snapshot)
        other.share_images(self)
        return other

    def share_images(self, other: Run) -> None:
        """Take the images of a run with the same data, seed and device, if it has read them already."""
        if 'splits' in other.__dict__:
            self.__dict__['splits'] = other.splits

    @property
    def snapshots(self) -> list[tuple[int, str]]:
        """Steps and folders of what the learning stage has kept before its end, in order; none before it has ended."""
        folder = self.path / 'learn' / 'snapshots'
        if self.stage('learn').done is None or not folder.is_dir():
            return []
        steps = sorted(int(f.name) for f in folder.iterdir() if f.name.isdecimal())
        return [(step, f'snapshots/{step}') for step in steps]

    @cached_property
    def device(self) -> torch.device:
        """Where the networks run.

        Raises:
            ValueError: If the configured device is not there.
        """
        name = self.config.device
        available = {'cpu': True, 'cuda': torch.cuda.is_available(), 'mps': torch.backends.mps.is_available()}
        if name == 'auto':
            name = next(key for key in ('cuda', 'mps', 'cpu') if available[key])
        if not available[name]:
            there = ', '.join(key for key, value in available.items() if value)
            raise ValueError(f'device is {name}, but this machine has {there} only: set device=auto')
        return torch.device(name)

    @cached_property
    def splits(self) -> Splits:
        """The images, read when a stage first needs them."""
        return load_splits(self.config.data, seed=self.config.seed, device=self.device)

    def _plugin(self, kind: Kind) -> Plugin:
        config = self.config
        names = {
            'space': (config.space, config.space_options),
            'method': (config.learn.method, config.learn.options),
            'strategy': (config.search.strategy, config.search.options),
            'scorer': (config.search.scorer, config.search.scorer_options),
        }
        if kind == 'supernet':
            own = getattr(self._plugin('method').module, 'SUPERNET', self.space.supernet)
            return find_plugin(kind, config.learn.supernet or own, config.learn.supernet_options)
        return find_plugin(kind, *names[kind])

    @cached_property
    def space(self) -> Space:
        """The search space, with the classes of the data."""
        plugin, image_size = self._plugin('space'), self.config.data.image_size
        return plugin.create(plugin.options, image_size=image_size, num_classes=self.num_classes)

    @property
    def num_classes(self) -> int:
        """Classes of the data; known without the images once the run has begun."""
        if 'splits' in self.__dict__ or not self._classes_file.exists():
            return len(self.splits.class_names)
        names = read_json(self._classes_file).get('class_names')
        if not isinstance(names, list) or not names:
            raise ValueError(f'{self._classes_file} names no classes: delete it and run the stage again')
        return len(names)

    @property
    def _classes_file(self) -> Path:
        return self.path / 'classes.json'

    def note_classes(self) -> None:
        """Write the names of the classes, so that the report needs no images."""
        write_json(self._classes_file, {'class_names': list(self.splits.class_names)})

    @property
    def limits(self) -> Limits:
        """Largest allowed costs of a candidate."""
        return Limits(self.config.search.limits)

    @cached_property
    def needs(self) -> frozenset[str]:
        """What the later stages need of the supernet: ``supernet``, ``classifier``, both or nothing."""
        needs = getattr(self._plugin('scorer').module, 'NEEDS', frozenset({'supernet', 'classifier'}))
        return needs if self.config.retrain.start == 'scratch' else needs | {'supernet', 'classifier'}

    def check_scorer(self) -> None:
        """Make sure that the scorer exists and its options are right, although it may need stages that have not run.

        A scorer that needs stages can have a function ``check(tools, options)``, which is called here.

        Raises:
            ValueError: If it does not.
        """
        plugin = self._plugin('scorer')
        if not self.needs:
            self.scorer()
        check = getattr(plugin.module, 'check', None)
        if check is not None:
            check(self, plugin.options)

    @property
    def strategy_options(self) -> object:
        """Options of the strategy."""
        return self._plugin('strategy').options

    def stage(self, name: str) -> StageDir:
        """Folder of a stage."""
        return StageDir(self.path / name)

    def autocast(self) -> torch.autocast:
        """Context of the forward passes in the configured precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == 'bf16')

    def place(self, module: ModuleT) -> ModuleT:
        """Move a module to the device, convolutions in channels-last order: about a quarter faster on CPUs and GPUs."""
        return module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def draw_paths(
        self,
        count: int,
        purpose: str,
        taken: Collection[ChoicePath] = (),
        belongs: Callable[[ChoicePath], bool] = lambda path: True,
    ) -> list[ChoicePath]:
        """Draw distinct paths under the limits of the search; fewer than ``count`` if there are hardly so many.

        Args:
            count: How many.
            purpose: Name of the random stream.
            taken: Paths that are left out.
            belongs: Which paths are wanted.
        """
        stream = generator(self.config.seed, purpose)
        paths: list[ChoicePath] = []
        for _ in range(1000 * count):
            path = self.space.sample(stream)
            new = path not in taken and path not in paths and belongs(path)
            if new and self.limits.allow(self.space, np.array([path]))[0]:
                paths.append(path)
            if len(paths) == count:
                break
        return paths

    def strategy(self) -> Strategy:
        """The strategy of the search.

        Raises:
            ValueError: If no path can satisfy the limits.
        """
        plugin = self._plugin('strategy')
        return plugin.create(self.space, plugin.options, self.limits)

    def scorer(self) -> Scorer:
        """What scores the candidates.

        Raises:
            FileNotFoundError: If a stage that it needs has not finished.
        """
        plugin = self._plugin('scorer')
        return plugin.create(self, plugin.options)

    def build_supernet(self) -> Supernet:
        """A supernet with fresh weights drawn from the seed of the run."""
        plugin = self._plugin('supernet')
        with seeded_scope(self.config.seed, 'supernet/init'):
            return plugin.create(self.space, plugin.options)

    def build_method(self) -> Method:
        """The method before its first step, around a supernet with fresh weights."""
        plugin = self._plugin('method')
        with seeded_scope(self.config.seed, 'method/init'):
            return plugin.create(self.build_supernet(), plugin.options, self.num_classes)

    def load_method(self) -> Method:
        """The method with everything that the learning stage left.

        Raises:
            FileNotFoundError: If the learning stage has not finished.
        """
        method = self.build_method()
        for name, module in method.artifacts().items():
            load_tensors(module, self.path / 'learn' / self.snapshot / f'{name}.safetensors', 'learn')
        return self.place(method)

    def load_supernet(self) -> Supernet:
        """The supernet that the learning stage left.

        Raises:
            FileNotFoundError: If the learning stage has not finished.
        """
        supernet = self.build_supernet()
        load_tensors(supernet, self.path / 'learn' / self.snapshot / 'supernet.safetensors', 'learn')
        return self.place(supernet)

    def load_classifier(self) -> nn.Linear:
        """The classifier that the linear stage left.

        Raises:
            FileNotFoundError: If the linear stage has not finished.
        """
        classifier = nn.Linear(self.build_supernet().num_features, self.num_classes)
        load_tensors(classifier, self.path / 'linear' / self.snapshot / 'classifier.safetensors', 'linear')
        return classifier.to(self.device)

    def augment(
        self, images: torch.Tensor, views: ViewConfig, purpose: str, step: int, part: Part = WHOLE
    ) -> torch.Tensor:
        """Colour changes, blur, flip and normalisation of random crops [V, N, 3, S, S] in 0..1; same shape."""
        numbers = generator(self.config.seed, purpose, step)
        flat = photometric(images.flatten(0, 1), views, numbers, part=part, num_views=len(images))
        return self.normalize(flat).unflatten(0, images.shape[:2])

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images [N, 3, S, S] in 0..1; same shape, channels last in memory."""
        data = self.config.data
        return normalize(images, data.mean, data.std).contiguous(memory_format=torch.channels_last)

    def subset(self, source: ImageSource, purpose: str, shares: list[float]) -> list[ImageSource]:
        """Disjoint random parts of some images, of the given shares; the whole for a single share of 1."""
        if shares == [1.0]:
            return [source]
        order = torch.randperm(len(source), generator=generator(self.config.seed, purpose))
        ends = [round(sum(shares[: i + 1]) * len(source)) for i in range(len(shares))]
        starts = [0, *ends[:-1]]
        return [source.subset(order[a:b].sort().values) for a, b in zip(starts, ends, strict=True)]

    def finish(self, stage: StageDir, seconds: float, **more: object) -> None:
        """Mark a stage as finished."""
        record = done_record(stage.path.relative_to(self.path).as_posix(), seconds, self.device, self.config.precision)
        stage.finish({**record, **more})

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that this configuration asks for, in order."""
        truth = self.config.truth
        asked = {'truth': truth.trained_here, 'rank': bool(truth)}
        return tuple(stage for stage in STAGES if asked.get(stage, True))

    def skip(self, stage: StageDir, needs: str = '') -> bool:
        """Say whether a stage has nothing to do: finished already, or not needed by any later one."""
        return distributed.first(lambda: self._skip(stage, needs))

    def _skip(self, stage: StageDir, needs: str) -> bool:
        if stage.done is not None:
            print(f'{stage.path.relative_to(self.path)}: finished before, nothing to do', file=sys.stderr, flush=True)
            return True
        if needs and needs not in self.needs:
            self.finish(stage, 0.0, skipped=f'the scorer {self.config.search.scorer} needs no {needs}')
            return True
        return False
