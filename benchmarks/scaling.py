"""Time training on one rank and on two, and the exchange of the gradients alone.

    python benchmarks/scaling.py [--rounds 5] [--steps 4] [--size 64] [--width 96] [--parameters 99.3]

Every rank is a process with one thread and the same batch, exchanging by gloo. In turn, so that drift cancels:

    alone         one rank
    beside        two ranks that exchange nothing: what sharing the machine's memory and cores costs
    together      two ranks with DistributedDataParallel, as `--trainer.devices 2` trains

Efficiency is the time of a step alone over that of a step together; what DDP costs is together over beside. A step is
forward, DiceCE, backward and AdamW on one patch. The exchange is an all-reduce of that many million float32, the
gradient of the paper's UNETR.
"""

import argparse
import os
import socket
from collections.abc import Callable
from multiprocessing.queues import Queue
from statistics import median
from time import perf_counter

import torch
from torch import distributed, multiprocessing, nn

from raum_lightning.losses import DiceCELoss
from raum_lightning.models import UNETR

PHASES = ("alone", "beside", "together")


def main() -> None:
    options = parse()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [context.Process(target=rank, args=(number, port, options, results)) for number in (0, 1)]
    for process in ranks:
        process.start()
    times, exchange, parameters = results.get()
    for process in ranks:
        process.join()
    report(options, times, exchange, parameters)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--width", type=int, default=96, help="embed_dim; the paper's is 768 (default: %(default)s)")
    parser.add_argument(
        "--parameters", type=float, default=99.3, help="millions in the exchange (default: %(default)s)"
    )
    return parser.parse_args()


def rank(number: int, port: int, options: argparse.Namespace, results: "Queue[object]") -> None:
    """One of the two processes; the first reports."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=number, world_size=2)
    step = {"beside": stepper(options, shared=False), "together": stepper(options, shared=True)}
    step["alone"] = step["beside"] if number == 0 else lambda: None
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for turn in range(options.rounds + 1):
        for phase in PHASES:
            distributed.barrier()
            start = perf_counter()
            for _ in range(options.steps):
                step[phase]()
            if turn:  # the first warms up
                times[phase].append((perf_counter() - start) / options.steps)
            distributed.barrier()
    exchange = exchanges(options)
    if number == 0:
        parameters = sum(weight.numel() for weight in network(options).parameters())
        results.put((times, exchange, parameters))
    distributed.destroy_process_group()


def network(options: argparse.Namespace) -> nn.Module:
    width = options.width
    return UNETR(in_channels=3, out_channels=4, img_size=(options.size,) * 3, embed_dim=width, mlp_dim=4 * width)


def stepper(options: argparse.Namespace, *, shared: bool) -> Callable[[], None]:
    """A training step on random data."""
    torch.manual_seed(0)
    model = network(options)
    trained = nn.parallel.DistributedDataParallel(model) if shared else model
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-4), DiceCELoss()
    image = torch.randn(1, 3, *(options.size,) * 3)
    label = torch.randint(0, 4, (1, *(options.size,) * 3), dtype=torch.uint8)

    def step() -> None:
        optimizer.zero_grad()
        loss(trained(image), label).backward()
        optimizer.step()

    return step


def exchanges(options: argparse.Namespace) -> list[float]:
    """Seconds of each all-reduce."""
    gradient = torch.ones(round(options.parameters * 1e6))
    seconds = []
    for _ in range(options.rounds + 1):
        distributed.barrier()
        start = perf_counter()
        distributed.all_reduce(gradient)
        seconds.append(perf_counter() - start)
    return seconds[1:]


def report(options: argparse.Namespace, times: dict[str, list[float]], exchange: list[float], parameters: int) -> None:
    seconds = {phase: median(values) for phase, values in times.items()}
    print(f"UNETR of {parameters / 1e6:.2f} M parameters, one patch of {options.size}^3 per rank, one thread per rank")
    print(f"torch {torch.__version__}, gloo, {os.cpu_count()} cores; medians of {options.rounds} turns\n")
    for phase in PHASES:
        spread = f"{min(times[phase]):.3f} to {max(times[phase]):.3f}"
        print(f"{phase:<10} {seconds[phase]:7.3f} s a step   ({spread})")
    print(f"\nefficiency of two ranks        {seconds['alone'] / seconds['together']:.2f}")
    print(f"time with DDP over without     {seconds['together'] / seconds['beside']:.2f}")
    gigabytes = options.parameters * 4e-3
    # busbw as nccl-tests define it: 2 (n - 1) / n of the data, which for two ranks is the data
    print(
        f"all-reduce of {gigabytes * 1000:.0f} MB           {median(exchange):.3f} s, {gigabytes / median(exchange):.2f} GB/s"
    )


if __name__ == "__main__":
    main()
