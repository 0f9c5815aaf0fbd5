"""Configuration of a run: typed dataclasses; a YAML file per experiment, any field overridable on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    'Config',
    'DataConfig',
    'EvaluateConfig',
    'LaNASConfig',
    'LearnConfig',
    'LinearConfig',
    'RetrainConfig',
    'SearchConfig',
    'ViewConfig',
]


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        source: ``digits`` (scikit-learn's 1,797 scanned digits, built in), ``folder`` (a folder or tar of class
            folders), or any name of a data set with random access that ``timm.data.create_dataset`` knows
            (``torch/cifar10``, ``hfds/...``).
        root: Folder or tar file; not used by ``digits``.
        train_split: Name of the training split, as timm's ``create_dataset`` takes it.
        test_split: Name of the test split; empty: there is none, and accuracies are measured on the held-out images.
        image_size: Side of the images that the networks see, in pixels.
        held_out_per_class: Training images per class that the search scores candidates on and nothing else sees.
        in_memory: Keep the decoded images in memory; ``auto`` does so up to 2 GiB. Images that do not have
            ``image_size`` are scaled first (short side to 8/7 of it), so random crops are less sharp than from the
            files; centre crops are the same.
        workers: Processes that decode images when they do not stay in memory.
        mean: Mean of the channels, in 0..1.
        std: Standard deviation of the channels, in 0..1.
    """

    source: str = 'digits'
    root: str | None = None
    train_split: str = 'train'
    test_split: str = 'test'
    image_size: int = 32
    held_out_per_class: int = 50
    in_memory: Literal['auto', 'yes', 'no'] = 'auto'
    workers: int = 2
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewConfig:
    """Random views of an image; the defaults are the authors' for the learning stage (facts of the method, section 5).

    Attributes:
        scale: Smallest and largest area of the random crop, as a fraction of the image.
        ratio: Smallest and largest width / height of the random crop.
        jitter: Strength of the colour jitter: brightness, contrast, saturation and hue.
        jitter_prob: Probability of the colour jitter.
        grayscale_prob: Probability of turning grey.
        blur_prob: Probability of the Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur, in pixels.
        flip_prob: Probability of the horizontal flip.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.4
    jitter_prob: float = 0.8
    grayscale_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    flip_prob: float = 0.5


def plain_views() -> ViewConfig:
    """Random crop and flip only: the authors' views for the linear stage, SPOS and BN recalibration."""
    return ViewConfig(scale=(0.08, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0)


@dataclass(frozen=True)
class LearnConfig:
    """Supernet learning.

    Attributes:
        method: How the supernet is trained: a module of ``pinas_search.methods`` or any importable module like them.
        options: Options of the method, see the ``Options`` class of its module.
        downsample_share: All candidates of a position share the module of the shortcut (paper Table 7, DS).
        epochs: Passes over the training images.
        max_steps: Stop after this many steps (for trying out); None means all epochs.
        batch_size: Images per step.
        lr: Learning rate at the start.
        schedule: How the learning rate falls to 0, once per epoch.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        checkpoint_seconds: Time between checkpoints.
        views: Random views of the images; those of the method if None.
    """

    method: str = 'pinas'
    options: dict[str, Any] = field(default_factory=dict)
    downsample_share: bool = True
    epochs: int = 100
    max_steps: int | None = None
    batch_size: int = 192
    lr: float = 0.03
    momentum: float = 0.9
    schedule: Literal['cosine', 'linear'] = 'cosine'
    weight_decay: float = 1e-4
    checkpoint_seconds: float = 60.0
    views: ViewConfig | None = None


@dataclass(frozen=True)
class LinearConfig:
    """Linear evaluation: a classifier on the frozen supernet, a random path at each step.

    Attributes:
        epochs: Passes over the training images.
        max_steps: Stop after this many steps; None means all epochs.
        batch_size: Images per step.
        lr: Learning rate of SGD at the start.
        milestones: Epochs after which the learning rate is multiplied by 0.1.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        checkpoint_seconds: Time between checkpoints.
        views: Random views of the images.
    """

    epochs: int = 100
    max_steps: int | None = None
    batch_size: int = 256
    lr: float = 30.0
    milestones: tuple[int, ...] = (60, 80)
    momentum: float = 0.9
    weight_decay: float = 0.0
    checkpoint_seconds: float = 60.0
    views: ViewConfig = field(default_factory=plain_views)


@dataclass(frozen=True)
class EvaluateConfig:
    """How a candidate is scored.

    Attributes:
        recalibrate: Estimate the BN statistics of every candidate anew. Scores without it are close to meaningless.
        batches: Training batches for the estimate.
        batch_size: Images per batch, for the estimate and the scoring.
        variance: ``mean`` averages the unbiased variances of the batches (the authors' code), ``pooled`` pools all
            images.
        max_images: Score on this many held-out images at most; None means all.
    """

    recalibrate: bool = True
    batches: int = 391
    batch_size: int = 128
    variance: Literal['mean', 'pooled'] = 'mean'
    max_images: int | None = None


@dataclass(frozen=True)
class LaNASConfig:
    """Options of the strategy ``lanas``, see ``pinas_search.strategies.LaNASOptions``.

    Attributes:
        cp: Weight of exploration, for scores that are ranks in 0..1.
        initial: Uniform samples before the first tree.
        selects: Samples between one tree and the next.
        min_leaf: Fewest samples of a node; the first split needs twice as many.
    """

    cp: float = 0.1
    initial: int = 80
    selects: int = 8
    min_leaf: int = 20


@dataclass(frozen=True)
class SearchConfig:
    """Which candidates are scored.

    Attributes:
        strategy: ``lanas``, ``random``, or ``optuna:NAME`` with a sampler of Optuna (``optuna:TPESampler``).
        candidates: Number of candidates to score.
        max_params: Largest allowed number of parameters.
        max_macs: Largest allowed multiply-accumulates for one image.
        lanas: Options of the strategy ``lanas``.
        evaluate: How a candidate is scored.
    """

    strategy: str = 'lanas'
    candidates: int = 1000
    max_params: int | None = None
    max_macs: int | None = None
    lanas: LaNASConfig = field(default_factory=LaNASConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@dataclass(frozen=True)
class RetrainConfig:
    """Training of the winner as a network of its own.

    Attributes:
        start: ``scratch`` draws fresh weights, ``inherited`` takes those of the supernet.
        random_paths: Random paths that are trained in the same way, for comparison.
        epochs: Passes over the training images, the held-out ones included.
        batch_size: Images per step.
        optimizer: Name of a timm optimizer.
        lr: Learning rate at the start.
        weight_decay: Weight decay; not on biases and norms.
        schedule: Name of a timm schedule.
        warmup_epochs: Epochs of linear warm-up.
        ema_decay: Decay of timm's weight averaging; 0 switches it off.
        label_smoothing: Label smoothing.
        mixup: Alpha of Mixup; 0 switches it off.
        cutmix: Alpha of CutMix; 0 switches it off.
        erase_prob: Probability of random erasing.
        drop_path_rate: Stochastic depth of the last block.
        drop_rate: Dropout before the classifier.
        checkpoint_seconds: Time between checkpoints.
        views: Random views of the images.
    """

    start: Literal['scratch', 'inherited'] = 'scratch'
    random_paths: int = 0
    epochs: int = 270
    batch_size: int = 512
    optimizer: str = 'sgd'
    lr: float = 0.2
    weight_decay: float = 1e-4
    schedule: str = 'cosine'
    warmup_epochs: int = 5
    ema_decay: float = 0.0
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    erase_prob: float = 0.0
    drop_path_rate: float = 0.0
    drop_rate: float = 0.0
    checkpoint_seconds: float = 60.0
    views: ViewConfig = field(default_factory=plain_views)


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        space: The search space.
        seed: Seed of everything random.
        device: ``auto`` takes CUDA or MPS where there is one.
        precision: ``bf16`` runs the networks under autocast; losses, BN statistics and scores stay in float32.
        threads: CPU threads; None leaves PyTorch's choice.
        data: The images.
        learn: Supernet learning.
        linear: Linear evaluation.
        search: Search over candidates.
        retrain: Training of the winner.
    """

    space: Literal['resnest50', 'mini'] = 'mini'
    seed: int = 0
    device: Literal['auto', 'cpu', 'cuda', 'mps'] = 'auto'
    precision: Literal['fp32', 'bf16'] = 'fp32'
    threads: int | None = None
    data: DataConfig = field(default_factory=DataConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
