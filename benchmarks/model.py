"""Time our UNETR beside MONAI's: the same weights, in one run, the networks alternating so that drift cancels.

    python benchmarks/model.py [--size 96] [--repeats 5] [--batch 1] [--threads 2] [--device cpu] [--no-compile]

Per kind of step: the median in ms for each network and precision, eager and compiled, and under "best" the fastest of
MONAI's over the fastest of ours; ratios are MONAI's time over ours (above 1, ours is faster). On a CPU both are given
twice, by the clock and by the CPU time of the process, which other processes disturb less; CPU time is fair with one
thread only, since idle threads spin. A training step is forward, mean square of the logits and backward, without
optimiser. Peak memory is what the allocator holds in an eager training step beyond the weights and the image, the
gradients included.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from loss import allocator_peak
from monai.networks import nets
from torch import Tensor, nn

from raum_lightning.models import UNETR
from raum_lightning.models.monai import TAPS, from_monai

CHANNELS, CLASSES = 3, 4
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[nn.Module, Tensor], None]
# seconds by the clock and of CPU time
Times = dict[str, tuple[float, float]]


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    image = torch.randn(options.batch, CHANNELS, *[options.size] * 3, device=options.device)
    networks = build(options.size, options.device)
    with torch.inference_mode():
        difference = (networks["ours"](image) - networks["MONAI"](image)).abs().max().item()
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{options.batch} x {CHANNELS} x {options.size}^3 on {where}, torch {torch.__version__}")
    print(f"largest difference of the logits in fp32: {difference:.1e}\n")
    raced = (
        networks
        if options.no_compile
        else networks | {f"{name}, compiled": compiled(network) for name, network in networks.items()}
    )
    for kind, step in (("training step", train), ("inference", infer)):
        print_times(kind, race(raced, image, step, options.repeats), options.device)
    print_memory(networks["MONAI"], image)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: torch's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    return parser.parse_args()


def build(size: int, device: str, **options: Any) -> dict[str, nn.Module]:
    theirs = nets.UNETR(CHANNELS, CLASSES, size)
    return {"ours": ours_like(theirs, size, **options).to(device), "MONAI": theirs.to(device)}


def ours_like(theirs: nn.Module, size: int, **options: Any) -> nn.Module:
    ours = UNETR(in_channels=CHANNELS, out_channels=CLASSES, img_size=size, taps=TAPS, **options)
    ours.load_state_dict(from_monai(theirs.state_dict()))
    return ours


def compiled(network: nn.Module) -> nn.Module:
    """A shallow copy under torch.compile: the parameters are shared."""
    network = copy(network)
    network.compile(dynamic=False)
    return network


def train(network: nn.Module, image: Tensor) -> None:
    network.train()
    network(image).float().square().mean().backward()
    network.zero_grad(set_to_none=True)


def infer(network: nn.Module, image: Tensor) -> None:
    network.eval()
    with torch.inference_mode():
        network(image)


def race(networks: dict[str, nn.Module], image: Tensor, step: Step, repeats: int) -> Times:
    """Medians of each network in each precision, taking turns; the first round warms up and does not count."""
    contestants = [(name, precision) for precision in PRECISIONS for name in networks]
    rounds = [
        {f"{name}, {precision}": once(networks[name], image, step, precision) for name, precision in contestants}
        for _ in range(repeats + 1)
    ][1:]
    return {name: (median(r[name][0] for r in rounds), median(r[name][1] for r in rounds)) for name in rounds[0]}


def cast(precision: str, device: str) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "fp32" else torch.autocast(device, PRECISIONS[precision])


def once(network: nn.Module, image: Tensor, step: Step, precision: str) -> tuple[float, float]:
    if image.is_cuda:
        torch.cuda.synchronize()
    start, cpu_start = perf_counter(), process_time()
    with cast(precision, image.device.type):
        step(network, image)
    if image.is_cuda:
        torch.cuda.synchronize()
    return perf_counter() - start, process_time() - cpu_start


def print_times(kind: str, times: Times, device: str) -> None:
    columns = ("ms", "CPU ms") if device == "cpu" else ("ms",)
    print(f"| {kind} | " + " | ".join(f"ours, {c} | MONAI, {c} | ratio" for c in columns) + " |")
    print("|---|" + "---|" * 3 * len(columns))
    pairs = {name.removeprefix("ours, "): (name, name.replace("ours", "MONAI")) for name in times if "ours" in name}
    rows = {
        name: [(times[ours][i], times[monai][i]) for i in range(len(columns))] for name, (ours, monai) in pairs.items()
    }
    rows["best"] = [tuple(min(row[i][side] for row in rows.values()) for side in (0, 1)) for i in range(len(columns))]
    for name, cells in rows.items():
        texts = [f"{1e3 * ours:.0f} | {1e3 * monai:.0f} | {monai / ours:.2f}" for ours, monai in cells]
        print(f"| {name} | " + " | ".join(texts) + " |", flush=True)
    print()


def print_memory(theirs: nn.Module, image: Tensor) -> None:
    """Peaks of an eager training step, fp32 and bf16, of MONAI's and of ours with each way of checkpointing."""
    size = image.shape[-1]
    ways = ("none", "decoder", "all")
    networks = {"MONAI": theirs} | {
        f"ours, checkpointing {way}": ours_like(theirs, size, checkpointing=way).to(image.device) for way in ways
    }
    names = list(PRECISIONS)
    print("| training step | " + " | ".join(f"peak MiB, {name} | ms, {name}" for name in names) + " |")
    print("|---|" + "---|---|" * len(names))
    peaks = {(name, p): peak(network, image, p) for name, network in networks.items() for p in names}
    times = race(networks, image, train, repeats=2)
    for name in networks:
        texts = [f"{peaks[name, p]:.0f} | {1e3 * times[f'{name}, {p}'][0]:.0f}" for p in names]
        print(f"| {name} | " + " | ".join(texts) + " |", flush=True)


def peak(network: nn.Module, image: Tensor, precision: str) -> float:
    def step() -> None:
        with cast(precision, image.device.type):
            train(network, image)

    return allocator_peak(step, image.device.type)


if __name__ == "__main__":
    main()
