"""Inference on a CPU: what each treatment gains, for one of our networks and for timm's ``resnest50d`` beside it.

The treatments are the memory format channels_last, ``pinas_models.fuse``, torch.compile and bfloat16, and onnxruntime
for comparison. Every treated network must give the outputs of the untreated one before anything is timed. All run in
turn, so that a busy machine slows all alike; a ratio is the median over the rounds, of two passes of the same round.
"""

import argparse
import copy
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
import torch._inductor.config
from hardware import description
from torch import nn

from pinas_models import fuse
from pinas_models.deploy.export import export

PEER = 'resnest50d'
TOLERANCES = {'fp32': 1e-4, 'bf16': 5e-2}  # of the largest output
EAGER = 'fp32 eager'
FASTER = ('fp32 fused, channels_last', 'fp32 compiled', 'fp32 compiled, fused, channels_last')
HALF = ('bf16 fused, channels_last', 'bf16 compiled, fused, channels_last')

Run = Callable[[], object]


def build(name: str) -> nn.Module:
    """A network with BN statistics far from the initial ones, which folding could not get wrong."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=1000, zero_init_last=False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


def treatments(model: nn.Module, x: torch.Tensor, compiled: bool, onnx_file: Path | None) -> dict[str, Run]:
    """The network in every treatment, ready to run on ``x``.

    Args:
        model: The network in float32.
        x: Images, float32 [N, 3, H, W].
        compiled: Also compile it.
        onnx_file: Where to export it to for onnxruntime; None to leave that out.

    Returns:
        Name of the treatment -> function without arguments that returns the outputs.
    """
    last = torch.channels_last
    x_last, fused = x.to(memory_format=last), fuse(model)
    fused_last = copy.deepcopy(fused).to(memory_format=last)
    half_last = copy.deepcopy(fused_last).bfloat16()
    variants: dict[str, tuple[nn.Module, torch.Tensor]] = {
        EAGER: (model, x),
        'fp32 channels_last': (copy.deepcopy(model).to(memory_format=last), x_last),
        'fp32 fused': (fused, x),
        'fp32 fused, channels_last': (fused_last, x_last),
        'bf16 eager': (copy.deepcopy(model).bfloat16(), x.bfloat16()),
        'bf16 channels_last': (copy.deepcopy(model).bfloat16().to(memory_format=last), x_last.bfloat16()),
        'bf16 fused, channels_last': (half_last, x_last.bfloat16()),
    }
    if compiled:
        variants |= {
            'fp32 compiled': (torch.compile(copy.deepcopy(model)), x),
            'fp32 compiled, fused, channels_last': (torch.compile(copy.deepcopy(fused_last)), x_last),
            'bf16 compiled, fused, channels_last': (torch.compile(copy.deepcopy(half_last)), x_last.bfloat16()),
        }
    runs: dict[str, Run] = {name: lambda m=m, images=images: m(images) for name, (m, images) in variants.items()}
    if onnx_file is not None:
        import onnxruntime

        export(model, onnx_file, size=(x.shape[2], x.shape[3]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(onnx_file, options, providers=['CPUExecutionProvider'])
        runs['fp32 onnxruntime'] = lambda: torch.from_numpy(session.run(None, {'images': x.numpy()})[0])
    return runs


def check(network: str, runs: dict[str, Run]) -> None:
    """Compare the outputs of every treatment with those of the untreated network.

    Raises:
        SystemExit: If they differ.
    """
    expected = runs[EAGER]()
    differences = {}
    for name, run in runs.items():
        differences[name] = ((run().float() - expected).abs().max() / expected.abs().max()).item()
        tolerance = TOLERANCES[name.split()[0]]
        if not differences[name] < tolerance:
            raise SystemExit(
                f'{network}, {name}: the outputs differ by {differences[name]:.1e} of the largest, '
                f'allowed is {tolerance}: nothing to compare'
            )
    worst = {kind: max(d for name, d in differences.items() if name.startswith(kind)) for kind in TOLERANCES}
    text = ', '.join(f'{difference:.1e} in {kind}' for kind, difference in worst.items())
    print(f'{network}: outputs equal, largest difference to eager fp32 in parts of the largest output {text}')


def measure(runs: dict[tuple[str, str], Run], warmup: int, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of every pass; in each round all run once, each time beginning with another one."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for number in range(warmup + rounds):
        first = number % len(runs)
        for key in [*runs][first:] + [*runs][:first]:
            start = time.perf_counter()
            runs[key]()
            if number >= warmup:
                times[key].append(time.perf_counter() - start)
    return times


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times as fast ``fast`` is: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def cpu_flags() -> list[str]:
    """Those of the CPU's instruction sets that compute in bfloat16, where Linux tells them."""
    cpuinfo = Path('/proc/cpuinfo')
    words = set(cpuinfo.read_text(encoding='utf-8').split()) if cpuinfo.exists() else set()
    return [flag for flag in ('avx512_bf16', 'amx_bf16') if flag in words]


def verdict(what: str, value: float, target: float) -> str:
    """One line about a target."""
    return f'{"met    " if value >= target else "NOT MET"}  {what}: {value:.2f}, asked {target:.2f}'


@torch.inference_mode()
def main() -> None:
    """Print a table and how the targets are met; 1.0 and more in the last column means as fast as timm or faster."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog='Example: python benchmarks/inference.py --threads 2 --batch-size 8 --rounds 15',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('--model', default='pinas_cls', help='ours; pinas_resnest50 is the same network as the peer')
    parser.add_argument('--batch-size', type=int, default=8, help='images per batch')
    parser.add_argument('--size', type=int, default=224, help='side of the images in pixels')
    parser.add_argument('--rounds', type=int, default=15, help='timed passes per network and treatment')
    parser.add_argument('--warmup', type=int, default=2, help='untimed passes per network and treatment')
    parser.add_argument('--threads', type=int, default=os.cpu_count(), help='CPU threads of torch and onnxruntime')
    parser.add_argument('--no-compile', action='store_true', help='leave out torch.compile, which takes minutes')
    args = parser.parse_args()
    # So many treatments have more kinds of convolution than oneDNN keeps (1024), which it would compile anew each time.
    os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', '16384')  # read at the first convolution
    torch.set_num_threads(args.threads)
    # Weights become constants: only then inductor repacks them and joins the ReLU to the convolution. The same as the
    # environment variable TORCHINDUCTOR_FREEZING=1.
    torch._inductor.config.freezing = True
    networks = (args.model, PEER)

    compiler = shutil.which(os.environ.get('CXX', 'g++'))
    compiled = compiler is not None and not args.no_compile
    onnx = all(map(find_spec, ('onnx', 'onnxscript', 'onnxruntime')))
    flags = cpu_flags()
    print(description())
    print(
        f'{torch.backends.cpu.get_cpu_capability()}, bfloat16 in hardware: {" ".join(flags) or "none"}; '
        f'batch {args.batch_size} of {args.size}x{args.size}, medians of {args.rounds} rounds'
    )
    x = torch.randn(args.batch_size, 3, args.size, args.size, generator=torch.Generator().manual_seed(0))
    runs: dict[tuple[str, str], Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        for network in networks:
            treated = treatments(build(network), x, compiled, Path(folder) / f'{network}.onnx' if onnx else None)
            check(network, treated)
            runs |= {(name, network): run for name, run in treated.items()}
        times = measure(runs, args.warmup, args.rounds)

    print(f'{"":36} {args.model:>31}   {PEER:>31}')
    print(f'{"treatment":36} ' + '   '.join([f'{"ms":>8} {"images/s":>10} {"x eager":>11}'] * 2) + f' {"x timm":>8}')
    gains: dict[str, float] = {}
    against_timm: dict[str, float] = {}
    for name in dict.fromkeys(name for name, _ in times):
        cells = []
        for network in networks:
            values = times[name, network]
            median = statistics.median(values)
            gain = ratio(times[EAGER, network], values)
            gains.setdefault(name, gain)
            cells.append(f'{median * 1000:8.1f} {args.batch_size / median:10.1f} {gain:11.2f}')
        against_timm[name] = ratio(times[name, PEER], times[name, args.model])
        print(f'{name:36} ' + '   '.join(cells) + f' {against_timm[name]:8.2f}')
    if not compiled:
        reason = '--no-compile' if compiler else 'no C++ compiler (g++, or the one that CXX names)'
        print(f'compiled                             not measured: {reason}')
    if not onnx:
        print("fp32 onnxruntime                     not measured: pip install 'pinas-models[export]'")

    for candidates, target in [(FASTER, 1.25)] + [(HALF, 1.7)] * bool(flags):
        best = max((name for name in candidates if name in gains), key=gains.__getitem__)
        print(verdict(f'{args.model}, {best} against eager fp32', gains[best], target))
    if not flags:
        print('no target for bf16: this CPU does not compute in it')
    for name, value in against_timm.items():
        print(verdict(f'{args.model} against timm {PEER}, both {name}', value, 1.0))


if __name__ == '__main__':
    main()
