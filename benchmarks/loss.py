"""Dice plus cross-entropy, ours against MONAI's `DiceCELoss`: time and peak memory in one run, ratios printed.

    python benchmarks/loss.py                      # 128^3, 4 classes, batch 1, two CPU threads
    python benchmarks/loss.py --device cuda --batch 4

Run it on an otherwise idle machine: where the threads wait for a core, both losses measure the scheduler. The two take
turns; milliseconds are medians. Memory is what torch's allocator holds at the peak of one forward and backward pass
beyond the inputs, the logits' gradient included.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from monai.losses.dice import DiceCELoss as MonaiDiceCELoss
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

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


def peak_mebibytes(loss: Loss, logits: Tensor, labels: Tensor, device: str) -> float:
    logits.grad = None
    return allocator_peak(lambda: milliseconds(loss, logits, labels, device), device)


def allocator_peak(step: Callable[[], object], device: str) -> float:
    """MiB that torch's allocator holds at the peak of `step`, beyond what it holds before."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    events.sort(key=lambda event: event["ts"])
    peak: int = max(accumulate(event["args"]["Bytes"] for event in events))
    return peak / 2**20


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
        "peak memory, MiB": [peak_mebibytes(loss, logits, labels, options.device) for loss in losses.values()],
    }
    for row, (ours, theirs) in rows.items():
        print(f"{row:24}{ours:10.1f}{theirs:10.1f}{theirs / ours:8.2f}")


if __name__ == "__main__":
    main()
