"""Time training on one rank and on two, and the exchange of the gradients alone.

    python benchmarks/scaling.py [--rounds 5] [--steps 4] [--size 64] [--width 96] [--parameters 99.3]

Every rank is a process with one thread and the same batch, exchanging by gloo. In turn, so that drift cancels:

    alone         one rank
    beside        two ranks that exchange nothing: what sharing the machine's memory and cores costs
    together      two ranks with DistributedDataParallel, as `--trainer.devices 2` trains

Efficiency is the time of a step alone over that of a step together; what DDP costs is together over beside. Both are
given by the clock and by the CPU time of a rank, which other work on the machine disturbs less and which leaves out
waiting. A step is forward, DiceCE, backward and AdamW on one patch. The exchange is an all-reduce of that many million
float32, the gradient of the paper's UNETR.
"""

import argparse
import os
import socket
from collections.abc import Callable
from multiprocessing.queues import Queue
from statistics import median
from time import perf_counter, process_time

import torch
from torch import distributed, multiprocessing, nn

from raum_lightning.losses import DiceCELoss
from raum_lightning.models import UNETR

PHASES = ("alone", "beside", "together")
# seconds by the clock and of CPU time
Times = dict[str, list[tuple[float, float]]]


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
    times: Times = {phase: [] for phase in PHASES}
    for turn in range(options.rounds + 1):
        for phase in PHASES:
            distributed.barrier()
            start, cpu = perf_counter(), process_time()
            for _ in range(options.steps):
                step[phase]()
            if turn:  # the first warms up
                took = perf_counter() - start, process_time() - cpu
                times[phase].append((took[0] / options.steps, took[1] / options.steps))
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


def report(options: argparse.Namespace, times: Times, exchange: list[float], parameters: int) -> None:
    print(f"UNETR of {parameters / 1e6:.2f} M parameters, one patch of {options.size}^3 per rank, one thread per rank")
    print(f"torch {torch.__version__}, gloo, {os.cpu_count()} cores; medians of {options.rounds} turns\n")
    print("seconds a step      by the clock    CPU time")
    seconds = {phase: [median(values) for values in zip(*times[phase], strict=True)] for phase in PHASES}
    for phase, (clock, cpu) in seconds.items():
        print(f"{phase:<20}{clock:>12.3f}{cpu:>12.3f}")
    for name, over, under in (("efficiency", "alone", "together"), ("DDP over none", "together", "beside")):
        ratios = [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]
        print(f"{name:<20}{ratios[0]:>12.2f}{ratios[1]:>12.2f}")
    # for two ranks, bus bandwidth as nccl-tests define it is the data over the time: 2 (n - 1) / n = 1
    size, took = options.parameters * 4e-3, median(exchange)
    print(f"\nall-reduce of {size * 1000:.0f} MB: {took:.3f} s, {size / took:.2f} GB/s")


if __name__ == "__main__":
    main()
