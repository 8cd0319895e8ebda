"""Time our UNETR beside MONAI's: the same weights, in one run, the networks alternating so that drift cancels.

    python benchmarks/model.py --size 96 --repeats 5 --device cpu [--batch 1] [--threads 2] [--compile]

Per kind of step and precision: the median in ms for each network, and MONAI's time over ours (above 1, ours is faster);
on a GPU also the peak of memory above what rests there. A training step is forward, mean square of the logits and
backward, without optimiser.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from copy import copy
from statistics import median
from time import perf_counter

import torch
from monai.networks import nets
from torch import Tensor, nn

from raum_lightning.models import UNETR
from raum_lightning.models.monai import TAPS, from_monai

CHANNELS, CLASSES = 3, 4
Step = Callable[[nn.Module, Tensor], None]


def main() -> None:
    options = parse()
    torch.manual_seed(0)
    if options.threads:
        torch.set_num_threads(options.threads)
    image = torch.randn(options.batch, CHANNELS, *[options.size] * 3, device=options.device)
    networks = build(options.size, options.device)
    with torch.inference_mode():
        difference = (networks["ours"](image) - networks["MONAI"](image)).abs().max().item()
    print(
        f"{options.batch} x {CHANNELS} x {options.size}^3 on {device_name(options.device)}, torch {torch.__version__}"
    )
    print(f"largest difference of the logits in fp32: {difference:.1e}")
    if options.compile:
        networks |= {f"{name}, compiled": compiled(network) for name, network in networks.items()}
    print(header(list(networks), options.device))
    for kind, step in (("train", train), ("inference", infer)):
        for precision in (torch.float32, torch.bfloat16):
            milliseconds, megabytes = race(networks, image, step, precision, options.repeats)
            print(row(f"{kind} {str(precision).removeprefix('torch.')}", milliseconds, megabytes), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="threads of the CPU (default: torch's)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="time both under torch.compile too")
    return parser.parse_args()


def build(size: int, device: str) -> dict[str, nn.Module]:
    theirs = nets.UNETR(CHANNELS, CLASSES, size)
    ours = UNETR(in_channels=CHANNELS, out_channels=CLASSES, img_size=size, taps=TAPS)
    ours.load_state_dict(from_monai(theirs.state_dict()))
    return {"ours": ours.to(device), "MONAI": theirs.to(device)}


def compiled(network: nn.Module) -> nn.Module:
    """A shallow copy under torch.compile: the parameters are shared."""
    network = copy(network)
    network.compile()
    return network


def train(network: nn.Module, image: Tensor) -> None:
    network.train()
    network(image).float().square().mean().backward()
    network.zero_grad(set_to_none=True)


def infer(network: nn.Module, image: Tensor) -> None:
    network.eval()
    with torch.inference_mode():
        network(image)


def race(
    networks: dict[str, nn.Module], image: Tensor, step: Step, precision: torch.dtype, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Median ms and peak MB of each network, taking turns; the first round warms up and does not count."""
    rounds = [
        {name: once(network, image, step, precision) for name, network in networks.items()} for _ in range(repeats + 1)
    ][1:]
    milliseconds = {name: median(r[name][0] for r in rounds) for name in networks}
    return milliseconds, {name: max(r[name][1] for r in rounds) for name in networks}


def once(network: nn.Module, image: Tensor, step: Step, precision: torch.dtype) -> tuple[float, float]:
    cuda = image.is_cuda
    cast = torch.autocast(image.device.type, precision) if precision != torch.float32 else nullcontext()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    resting = torch.cuda.memory_allocated() if cuda else 0
    start = perf_counter()
    with cast:
        step(network, image)
    if cuda:
        torch.cuda.synchronize()
    seconds = perf_counter() - start
    return 1e3 * seconds, (torch.cuda.max_memory_allocated() - resting) / 1e6 if cuda else 0.0


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def header(names: list[str], device: str) -> str:
    unit = "ms (peak MB)" if device == "cuda" else "ms"
    ratios = ["eager ratio", "compiled ratio"][: len(names) // 2]
    columns = [f"{unit}", *names, *ratios]
    return "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)


def row(title: str, milliseconds: dict[str, float], megabytes: dict[str, float]) -> str:
    cells = [f"{ms:.1f}" + (f" ({megabytes[n]:.0f})" if megabytes[n] else "") for n, ms in milliseconds.items()]
    times = list(milliseconds.values())
    ratios = [f"{theirs / ours:.2f}" for ours, theirs in zip(times[::2], times[1::2], strict=True)]
    return "| " + " | ".join([title, *cells, *ratios]) + " |"


if __name__ == "__main__":
    main()
