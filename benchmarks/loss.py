"""Dice plus cross-entropy, ours against MONAI's `DiceCELoss`: time and peak memory in one run, ratios printed.

    python benchmarks/loss.py                      # 128^3, 4 classes, batch 1, two CPU threads
    python benchmarks/loss.py --device cuda --batch 4

Run it on an otherwise idle machine: where the threads wait for a core, both losses measure the scheduler. The two take
turns; milliseconds are medians. Memory is what one forward and backward pass adds at its peak to libraries and inputs,
the logits' gradient included, each loss in a process of its own: on the CPU the resident set as Linux counts it, on a
GPU the allocator's count.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from monai.losses.dice import DiceCELoss as MonaiDiceCELoss
from torch import Tensor

from raum_lightning.losses import DiceCELoss

Loss = Callable[[Tensor, Tensor], Tensor]


def build(name: str) -> Loss:
    if name == "raum":
        return DiceCELoss()
    monai = MonaiDiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True, smooth_nr=1e-5, smooth_dr=1e-5)
    return lambda logits, labels: monai(logits, labels[:, None])


def batch(size: int, options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    cube, device = (size,) * 3, options.device
    logits = torch.randn(options.batch, options.classes, *cube, device=device, requires_grad=True)
    return logits, torch.randint(options.classes, (options.batch, *cube), dtype=torch.uint8, device=device)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.accelerator.synchronize()


def milliseconds(loss: Loss, logits: Tensor, labels: Tensor, device: str) -> tuple[float, float]:
    """Forward; forward and backward."""
    logits.grad = None
    synchronize(device)
    started = time.perf_counter()
    value = loss(logits, labels)
    synchronize(device)
    between = time.perf_counter()
    torch.autograd.backward(value)
    synchronize(device)
    return 1e3 * (between - started), 1e3 * (time.perf_counter() - started)


def kibibytes(key: str) -> int:
    """`VmRSS`, resident now, or `VmHWM`, at most since `clear_refs` was written."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(key))


def peak_mebibytes(name: str, options: argparse.Namespace) -> float:
    torch.set_num_threads(options.threads)
    loss = build(name)
    milliseconds(loss, *batch(8, options), options.device)
    logits, labels = batch(options.size, options)
    if options.device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
        resident = kibibytes("VmRSS")
        milliseconds(loss, logits, labels, options.device)
        return (kibibytes("VmHWM") - resident) / 2**10
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    milliseconds(loss, logits, labels, options.device)
    return (torch.cuda.max_memory_allocated() - allocated) / 2**20


def memory(name: str, options: argparse.Namespace) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(peak_mebibytes, name, options).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the cubic patch in voxels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    losses = {name: build(name) for name in ("raum", "monai")}
    logits, labels = batch(options.size, options)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for repeat in range(options.repeats + 1):
        for name, loss in losses.items():
            measured = milliseconds(loss, logits, labels, options.device)
            if repeat:  # the first warms up
                times[name].append(measured)

    where = f"cpu, {options.threads} threads" if options.device == "cpu" else torch.cuda.get_device_name()
    case = f"{options.size}^3, {options.classes} classes, batch {options.batch}, float32"
    print(f"{case}, {where}, torch {torch.__version__}")
    print(f"{'':24}{'raum':>10}{'MONAI':>10}{'ratio':>8}")
    rows = {
        "forward, ms": [statistics.median(forward for forward, _ in times[name]) for name in losses],
        "forward + backward, ms": [statistics.median(both for _, both in times[name]) for name in losses],
        "peak memory, MiB": [memory(name, options) for name in losses],
    }
    for row, (ours, theirs) in rows.items():
        print(f"{row:24}{ours:10.1f}{theirs:10.1f}{theirs / ours:8.2f}")


if __name__ == "__main__":
    main()
