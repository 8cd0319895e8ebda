"""Time our UNETR beside MONAI's: the same weights, in one run, taking turns so that drift cancels.

    python benchmarks/model.py [--size 96] [--repeats 5] [--batch 1] [--threads 2] [--device cpu] [--no-compile] [--v2]
    python benchmarks/model.py --size 128 --precisions bf16    # six processes: in fp32 they take 30 GB
    python benchmarks/model.py --device cuda --size 128 --batch 2 --precisions bf16 --v2 --columns training inference

Each network has a new process for each column, as it has in use, and they take turns; before, all of them compile at
once. Ours runs with `accelerate`, and on a CPU with `keep_memory`, as every verb does; "plain" is without the former.
MONAI's runs as it comes, and on a CPU once more with our `keep_memory`. `--v2` adds UNETRV2 as in
experiments/unetr_v2.yaml.

The table gives the median of the rounds in ms. A training step is forward, mean square of the logits and backward,
without optimiser; inference is the forward pass, for one window, of eight as a whole case takes them: one by one, and
in the columns after that in pairs. Ratios at the end are MONAI's time over our UNETR's (above 1, ours is faster), the
best of its rows over the best of ours. Then the peaks of a training step, eager: what torch's allocator holds beyond
weights and image, the gradients included; there a network has one process for all precisions.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any, Literal

import torch
import yaml
from loss import allocator_peak
from monai.networks import nets
from torch import Tensor, nn

from raum_lightning.machine import keep_memory
from raum_lightning.models import UNETR, UNETRV2
from raum_lightning.models.accelerate import accelerate
from raum_lightning.models.monai import OUT_INDICES, from_monai

ROOT = Path(__file__).parents[1]
CHANNELS, CLASSES = 3, 4
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEPS = ("training", "inference", "inference in pairs")
WINDOWS = 8
SETTLE = 0.05  # seconds after which the threads of a process that has had its turn no longer spin


@dataclass(frozen=True)
class Contestant:
    """A network as one uses it."""

    network: Literal["UNETR", "UNETRV2", "MONAI"]
    compile: bool = False
    accelerate: bool = True
    keeps_memory: bool = True
    options: dict[str, Any] = field(default_factory=dict)


EAGER = {
    "raum": Contestant("UNETR"),
    "raum, plain": Contestant("UNETR", accelerate=False),
    "MONAI": Contestant("MONAI", keeps_memory=False),
    "MONAI, memory kept": Contestant("MONAI"),
}
COMPILED = {
    "raum, compiled": Contestant("UNETR", compile=True),
    "MONAI, compiled": Contestant("MONAI", compile=True, keeps_memory=False),
    "MONAI, compiled, memory kept": Contestant("MONAI", compile=True),
}
SECOND = {"raum, v2": Contestant("UNETRV2"), "raum, v2, compiled": Contestant("UNETRV2", compile=True)}
SAVING = {
    "raum, checkpointing decoder": Contestant("UNETR", options={"checkpointing": "decoder"}),
    "raum, checkpointing all": Contestant("UNETR", options={"checkpointing": "all"}),
}


def main() -> None:
    options = parse()
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    print(f"{options.batch} x {CHANNELS} x {options.size}^3 on {where}, torch {torch.__version__}")
    rivals = EAGER | COMPILED | (SECOND if options.v2 else {})
    if options.no_compile:
        rivals = {name: rival for name, rival in rivals.items() if not rival.compile}
    if options.device == "cuda":  # where keeping memory is the allocator's own habit
        rivals = {name: rival for name, rival in rivals.items() if "memory kept" not in name}
    eager = {name: rival for name, rival in rivals.items() if name in EAGER}
    with Stage(eager, options) as stage:
        logits = {name: stage.ask(name, "logits", "fp32") for name in eager}
    print(f"largest difference of the logits in fp32: {abs(logits['raum'] - logits['MONAI']).max():.1e}\n")
    columns = [(step, precision) for step in options.columns for precision in options.precisions]
    times = {}
    for column in columns:
        with Stage(rivals, options) as stage:
            times[column] = stage.race(*column, options.repeats)
    print("| | " + " | ".join(f"{step}, {precision}, ms" for step, precision in columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in rivals:
        print(f"| {name} | " + " | ".join(f"{1e3 * times[column][name]:.0f}" for column in columns) + " |", flush=True)
    print()
    for kind in sorted({column[0].split()[0] for column in columns}, reverse=True):
        best = {name: min(times[column][name] for column in columns if column[0].startswith(kind)) for name in rivals}
        ours = min(time for name, time in best.items() if rivals[name].network == "UNETR")
        for what, kept in (("as it comes", False), ("memory kept", True)):
            theirs = [
                time
                for name, time in best.items()
                if rivals[name].network == "MONAI" and rivals[name].keeps_memory == kept
            ]
            if theirs:
                print(f"{kind}: best of MONAI, {what}, over best of raum: {min(theirs) / ours:.2f}")
    print_memory(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="voxels along each axis (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--columns", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--no-compile", action="store_true", help="eager only")
    parser.add_argument("--v2", action="store_true", help="UNETRV2 as well")
    return parser.parse_args()


class Stage:
    """A process for each contestant; only the one that is asked works."""

    def __init__(self, contestants: dict[str, Contestant], options: argparse.Namespace) -> None:
        context = get_context("spawn")
        self.lines: dict[str, Connection] = {}
        self.processes = []
        for name, contestant in contestants.items():
            self.lines[name], theirs = context.Pipe()
            self.processes.append(context.Process(target=perform, args=(contestant, options, theirs), daemon=True))
            self.processes[-1].start()

    def ask(self, name: str, what: str, precision: str) -> Any:
        """Its answer; see `perform`."""
        self.lines[name].send((what, precision))
        return self._answer(name)

    def _answer(self, name: str) -> Any:
        answer = self.lines[name].recv()
        sleep(SETTLE)
        return answer

    def race(self, step: str, precision: str, repeats: int) -> dict[str, float]:
        """Medians in seconds; two rounds warm up and do not count, of the first of which all take part at once."""
        for line in self.lines.values():
            line.send((step, precision))
        for name in self.lines:
            self._answer(name)
        rounds = [{name: self.ask(name, step, precision) for name in self.lines} for _ in range(repeats + 1)][1:]
        return {name: median(times[name] for times in rounds) for name in self.lines}

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        for line in self.lines.values():
            line.send(None)
        for process in self.processes:
            process.join()


def perform(contestant: Contestant, options: argparse.Namespace, line: Connection) -> None:
    """Answers requests (what, precision) with seconds, MiB or logits until there is None."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    if contestant.keeps_memory:
        keep_memory()
    image = torch.randn(options.batch, CHANNELS, *[options.size] * 3, device=options.device)
    network = build(contestant, options.size).to(options.device)
    if contestant.accelerate:
        accelerate(network, options.device, compiled=contestant.compile)
    if contestant.compile:
        network.compile(dynamic=False)
    pair = torch.cat([image, image])
    steps: dict[str, Callable[[], Any]] = {
        "training": lambda: train(network, image),
        "inference": lambda: [infer(network, image) for _ in range(WINDOWS)],
        "inference in pairs": lambda: [infer(network, pair) for _ in range(WINDOWS // 2)],
    }
    while request := line.recv():
        what, precision = request
        with cast(precision, options.device):
            if what == "logits":
                line.send(infer(network, image).cpu().numpy())
            elif what == "peak":
                line.send(allocator_peak(steps["training"], options.device))
            else:
                line.send(seconds(steps[what], options.device) / (1 if what == "training" else WINDOWS))


def build(contestant: Contestant, size: int) -> nn.Module:
    sizes = {"in_channels": CHANNELS, "out_channels": CLASSES, "img_size": size}
    if contestant.network == "UNETRV2":
        settings = yaml.safe_load((ROOT / "experiments/unetr_v2.yaml").read_text())
        return UNETRV2(**sizes, **settings["module"]["network"]["init_args"])
    theirs = nets.UNETR(CHANNELS, CLASSES, size)
    if contestant.network == "MONAI":
        return theirs
    ours = UNETR(**sizes, out_indices=OUT_INDICES, **contestant.options)
    ours.load_state_dict(from_monai(theirs.state_dict()))
    return ours


def train(network: nn.Module, image: Tensor) -> None:
    network.train()
    logits = network(image)
    several = logits if isinstance(logits, tuple) else (logits,)  # a tuple with deep supervision
    sum(one.float().square().mean() for one in several).backward()
    network.zero_grad(set_to_none=True)


def infer(network: nn.Module, image: Tensor) -> Tensor:
    network.eval()
    with torch.no_grad():  # in inference_mode autocast casts the weights again for each window
        return network(image)


def cast(precision: str, device: str) -> AbstractContextManager[Any]:
    return nullcontext() if precision == "fp32" else torch.autocast(device, PRECISIONS[precision])


def seconds(step: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - started


def print_memory(options: argparse.Namespace) -> None:
    """Of MONAI's and of ours with each way of checkpointing."""
    rivals = {"raum": EAGER["raum"], "MONAI": EAGER["MONAI"]} | SAVING
    precisions = options.precisions
    with Stage(rivals, options) as stage:
        times = {precision: stage.race("training", precision, repeats=2) for precision in precisions}
        peaks = {(name, precision): stage.ask(name, "peak", precision) for name in rivals for precision in precisions}
    print("\n| training step | " + " | ".join(f"peak MiB, {name} | ms, {name}" for name in precisions) + " |")
    print("|---|" + "---|---|" * len(precisions))
    for name in rivals:
        cells = [f"{peaks[name, p]:.0f} | {1e3 * times[p][name]:.0f}" for p in precisions]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
