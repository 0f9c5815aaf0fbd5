"""Configuration of a run: typed dataclasses; a YAML file per experiment, any field overridable on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from .types import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

__all__ = [
    'Config',
    'DataConfig',
    'EvaluateConfig',
    'LearnConfig',
    'LinearConfig',
    'RankConfig',
    'RetrainConfig',
    'SearchConfig',
    'TruthConfig',
    'ViewConfig',
    'plain_views',
]


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        source: ``digits`` (scikit-learn's 1,797 scanned digits, built in), ``folder`` (a folder or tar of class
            folders), or any name of a data set with random access that ``timm.data.create_dataset`` knows
            (``torch/cifar10``; its other libraries, such as ``hfds/...``, are not tested).
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
    image_size: PositiveInt = 32
    held_out_per_class: NonNegativeInt = 50
    in_memory: Literal['auto', 'yes', 'no'] = 'auto'
    workers: NonNegativeInt = 2
    mean: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)


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

    scale: tuple[PositiveFloat, PositiveFloat] = (0.2, 1.0)
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    jitter: Fraction = 0.4
    jitter_prob: Fraction = 0.8
    grayscale_prob: Fraction = 0.2
    blur_prob: Fraction = 0.5
    blur_sigma: tuple[NonNegativeFloat, NonNegativeFloat] = (0.1, 2.0)
    flip_prob: Fraction = 0.5


def plain_views() -> ViewConfig:
    """Random crop and flip only: the authors' views for the linear stage, SPOS and BN recalibration."""
    return ViewConfig(scale=(0.08, 1.0), jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0)


@dataclass(frozen=True)
class LearnConfig:
    """Supernet learning.

    Attributes:
        method: How the supernet is trained: ``pinas``, ``spos``, ``fairnas``, ``fbnetv2``, ``gdas``, ``nsas``,
            ``proxylessnas``, ``tunas``, ``wpl``, or any importable module with ``Options`` and ``create``.
        options: Options of the method, see its ``Options``.
        supernet: The network whose paths are trained, by name or module; if None the one that the method brings, such
            as the masked one of ``fbnetv2``, else the one of the space.
        supernet_options: Options of the supernet, such as ``downsample_share``.
        epochs: Passes over the training images.
        max_steps: Stop after this many steps (for trying out); None means all epochs.
        batch_size: Images per step, on all ranks together.
        lr: Learning rate at the start.
        schedule: How the learning rate falls to 0, once per epoch.
        momentum: Momentum of SGD.
        nesterov: Nesterov's form of the momentum; the authors have the plain one.
        weight_decay: Weight decay of SGD.
        checkpoint_seconds: Time between checkpoints.
        views: Random views of the images; those of the method if None.
        snapshots: Keep what is learned so far at this many moments, evenly spaced, the end among them, so that the
            ranking can be followed over the training; 0 keeps the end alone. Where the linear stage trains the
            classifier, it trains one for each.
        sync_bn: With several ranks, batch norms take their statistics from all of them (GPUs only). Off: each rank has
            its own, as in the authors' code.
    """

    method: str = 'pinas'
    options: dict[str, Any] = field(default_factory=dict)
    supernet: str | None = None
    supernet_options: dict[str, Any] = field(default_factory=dict)
    epochs: PositiveInt = 100
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 192
    lr: PositiveFloat = 0.03
    momentum: Fraction = 0.9
    nesterov: bool = False
    schedule: Literal['cosine', 'linear'] = 'cosine'
    weight_decay: NonNegativeFloat = 1e-4
    checkpoint_seconds: PositiveFloat = 60.0
    views: ViewConfig | None = None
    snapshots: NonNegativeInt = 0
    sync_bn: bool = False


@dataclass(frozen=True)
class LinearConfig:
    """Linear evaluation: a classifier on the frozen supernet, a random path at each step.

    Attributes:
        epochs: Passes over the training images.
        max_steps: Stop after this many steps; None means all epochs.
        batch_size: Images per step, on all ranks together.
        lr: Learning rate of SGD at the start.
        milestones: Epochs after which the learning rate is multiplied by 0.1; None: after 60 and 80 % of them.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        checkpoint_seconds: Time between checkpoints.
        views: Random views of the images.
    """

    epochs: PositiveInt = 100
    max_steps: PositiveInt | None = None
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 30.0
    milestones: tuple[NonNegativeInt, ...] | None = None
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 0.0
    checkpoint_seconds: PositiveFloat = 60.0
    views: ViewConfig = field(default_factory=plain_views)

    @property
    def drops(self) -> tuple[int, ...]:
        """Epochs after which the learning rate falls."""
        return (self.epochs * 6 // 10, self.epochs * 8 // 10) if self.milestones is None else self.milestones


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
        share_prefixes: Compute once what candidates that are scored together have in common, such as the same first
            blocks. Scores are the same up to rounding.
    """

    recalibrate: bool = True
    batches: PositiveInt = 391
    batch_size: PositiveInt = 128
    variance: Literal['mean', 'pooled'] = 'mean'
    max_images: PositiveInt | None = None
    share_prefixes: bool = True


@dataclass(frozen=True)
class SearchConfig:
    """Which candidates are scored.

    Attributes:
        strategy: ``lanas``, ``pinas`` (the authors' greedy search), ``evolution``, ``random``, ``arch2vec``,
            ``optuna:NAME`` with a sampler of Optuna (``optuna:TPESampler``), or any importable module with ``Options``
            and ``create``.
        options: Options of the strategy, see its ``Options``.
        candidates: Number of candidates to score; may be raised after the search has finished, which then goes on.
        limits: Largest allowed costs, by name: ``{params: 3e6, macs: 1e9}``.
        skip_equivalents: Propose no path that is the same function as one before, where the space can tell.
        scorer: ``accuracy`` inside the supernet, ``method:NAME`` with a score of the method's own, ``cost:NAME`` (a
            predictor that needs no supernet), or any importable module with ``Options`` and ``create``.
        scorer_options: Options of the scorer, see its ``Options``.
        evaluate: How the accuracy of a candidate is measured.
    """

    strategy: str = 'lanas'
    options: dict[str, Any] = field(default_factory=dict)
    candidates: PositiveInt = 1000
    limits: dict[str, PositiveFloat] = field(default_factory=dict)
    skip_equivalents: bool = False
    scorer: str = 'accuracy'
    scorer_options: dict[str, Any] = field(default_factory=dict)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@dataclass(frozen=True)
class TruthConfig:
    """True accuracies of networks, which the ranking of the supernet is judged by; none unless one is named.

    Attributes:
        file: A table (``.csv``, ``.csv.gz``) or the folder of NATS-Bench. None: ``networks`` are trained here, each on
            its own, with the recipe of ``retrain``.
        column: Column of the accuracies, or data set of NATS-Bench; a table that was made here has ``accuracy``.
        key: Column that names the networks.
        fidelity: Epochs behind the accuracies; the folder of NATS-Bench needs it, 12 or 200.
        seeds: Seeds of the accuracies; the folder of NATS-Bench needs it, ``mean`` or one of its seeds.
        only: A named set of networks of the space, such as ``729`` of nasbench201; None means all.
        networks: So many networks, drawn by the seed; None means all of the table.
        trainings: Trainings of each network that is trained here, with different seeds.
    """

    file: str | None = None
    column: str = 'cifar10'
    key: str = 'arch'
    fidelity: PositiveInt | None = None
    seeds: str | None = None
    only: str | None = None
    networks: PositiveInt | None = None
    trainings: PositiveInt = 2

    @property
    def trained_here(self) -> bool:
        """Whether networks are trained for it."""
        return self.file is None and self.networks is not None

    def __bool__(self) -> bool:
        return self.file is not None or self.trained_here


@dataclass(frozen=True)
class RankConfig:
    """How the ranking is judged.

    Attributes:
        samples: Bootstrap samples of the intervals, and permutations of the test.
        curve_networks: Networks, drawn by the seed, behind each point of a curve.
        calibration: Numbers of calibration batches to judge the ranking with as well; 0 is without recalibration.
    """

    samples: PositiveInt = 1000
    curve_networks: PositiveInt = 100
    calibration: tuple[NonNegativeInt, ...] = ()


@dataclass(frozen=True)
class RetrainConfig:
    """Training of the winner as a network of its own. The paper trains the best 5 and 8 random paths.

    Attributes:
        start: ``scratch`` draws fresh weights, ``inherited`` takes those of the supernet.
        top: The best candidates that are trained, the winner among them; 0 trains none.
        random_paths: Random paths that are trained in the same way, for comparison.
        seeds: Trainings of each network, with different seeds.
        epochs: Passes over the training images, the held-out ones included.
        batch_size: Images per step, on all ranks together.
        optimizer: Name of a timm optimizer. Its ``sgd`` has Nesterov's momentum, its ``momentum`` is plain SGD.
        lr: Learning rate at the start.
        weight_decay: Weight decay; not on biases and norms.
        schedule: Name of a timm schedule.
        warmup_epochs: Epochs of linear warm-up; None: 5, or a tenth of the epochs if that is less.
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
    top: NonNegativeInt = 1
    random_paths: NonNegativeInt = 0
    seeds: PositiveInt = 1
    epochs: PositiveInt = 270
    batch_size: PositiveInt = 512
    optimizer: str = 'sgd'
    lr: PositiveFloat = 0.2
    weight_decay: NonNegativeFloat = 1e-4
    schedule: str = 'cosine'
    warmup_epochs: NonNegativeInt | None = None
    ema_decay: Fraction = 0.0
    label_smoothing: Fraction = 0.1
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    erase_prob: Fraction = 0.0
    drop_path_rate: Fraction = 0.0
    drop_rate: Fraction = 0.0
    checkpoint_seconds: PositiveFloat = 60.0
    views: ViewConfig = field(default_factory=plain_views)

    @property
    def warmup(self) -> int:
        """Epochs of linear warm-up."""
        return min(5, self.epochs // 10) if self.warmup_epochs is None else self.warmup_epochs


@dataclass(frozen=True)
class Config:
    """A run.

    Attributes:
        space: The search space: ``mini``, ``resnest50``, ``nasbench201``, or any importable module with ``Options`` and
            ``create``.
        space_options: Options of the space, see its ``Options``.
        seed: Seed of everything random.
        device: ``auto`` takes CUDA or MPS where there is one.
        precision: ``bf16`` runs the networks under autocast; losses, BN statistics and scores stay in float32.
        threads: CPU threads of each rank; None leaves PyTorch's choice.
        rank_timeout: Seconds that a rank waits for another one within a step before it gives up.
        compare_ranks: Make sure in each step that all ranks run the same paths, to find a method that does not.
        data: The images.
        learn: Supernet learning.
        linear: Linear evaluation.
        search: Search over candidates.
        truth: True accuracies.
        rank: The ranking of the supernet against them.
        retrain: Training of the winner.
    """

    space: str = 'mini'
    space_options: dict[str, Any] = field(default_factory=dict)
    seed: NonNegativeInt = 0
    device: Literal['auto', 'cpu', 'cuda', 'mps'] = 'auto'
    precision: Literal['fp32', 'bf16'] = 'fp32'
    threads: PositiveInt | None = None
    rank_timeout: PositiveFloat = 60.0
    compare_ranks: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    learn: LearnConfig = field(default_factory=LearnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    truth: TruthConfig = field(default_factory=TruthConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
