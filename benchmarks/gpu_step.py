"""Does the loader keep the GPU waiting? A training step with and without it, augmented in workers or on the GPU.

    python benchmarks/gpu_step.py                              # needs CUDA; writes synthetic cases once
    python benchmarks/gpu_step.py --workers 8 --batch 4 --size 96
    python benchmarks/gpu_step.py --device cpu --size 32 --batch 1 --steps 3 --small   # does it run at all?

UNETR, Dice and cross-entropy, AdamW, bf16, the augmentation of the shipped experiments. Rows:

loader off   the same batch again and again, on the device already
workers      batches as they come, augmented by the loader's processes (data.augment_on: workers)
device       batches as they come, raw, augmented on the device (data.augment_on: device)

Milliseconds are the mean over `--steps` steps between two synchronisations. Rows take turns, and the
fastest of three counts.
"""

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.losses import DiceCELoss
from raum_lightning.models import UNETR
from raum_lightning.models.accelerate import accelerate

ROUNDS = 3
Pair = tuple[Tensor, Tensor]


def batches(options: argparse.Namespace, augment_on: str) -> Iterator[Pair]:
    """Images and labels on the device, without end."""
    data = BratsDataModule(
        options.cases,
        roi_size=(options.size,) * 3,
        batch_size=options.batch,
        patches_per_epoch=options.batch * 10**5,
        augment_on=augment_on,
        prepared_dir=options.cases.parent / "prepared",
        num_workers=options.workers,
    )
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    loader.finish = None  # which is done here, on the device
    for batch in loader:
        moved = data.transfer_batch_to_device(batch, options.device, 0)
        moved = data.on_after_batch_transfer(moved, 0)
        yield moved["image"], moved["label"]


def repeated(options: argparse.Namespace) -> Iterator[Pair]:
    """One batch without end."""
    shape = (options.size,) * 3
    image = torch.randn(options.batch, 3, *shape, device=options.device)
    label = torch.randint(4, (options.batch, *shape), device=options.device, dtype=torch.uint8)
    while True:
        yield image, label


def step(network: torch.nn.Module, loss: DiceCELoss, optimizer: torch.optim.Optimizer, pair: Pair) -> None:
    """One optimiser step."""
    with torch.autocast(pair[0].device.type, torch.bfloat16):
        value = loss(network(pair[0]), pair[1])
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=Path("runs/benchmark-cases"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--size", type=int, default=128, help="edge of the cubic patch in voxels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="a network of few channels")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    if not options.cases.exists():
        from raum_lightning.phantom import write_phantoms

        write_phantoms(options.cases, cases=8)

    torch.manual_seed(0)
    small = {"embed_dim": 48, "mlp_dim": 96, "feature_size": 4} if options.small else {}
    network = UNETR(in_channels=3, out_channels=4, img_size=(options.size,) * 3, **small).to(options.device)
    accelerate(network, options.device.type)
    loss, optimizer = DiceCELoss(), torch.optim.AdamW(network.parameters(), lr=1e-4)
    sources = {"loader off": repeated(options)}
    sources |= {place: batches(options, place) for place in ("workers", "device")}
    best = dict.fromkeys(sources, float("inf"))
    for source in sources.values():
        for _ in range(3):
            step(network, loss, optimizer, next(source))
    for _ in range(ROUNDS):
        for name, source in sources.items():
            synchronise(options.device)
            started = time.perf_counter()
            for _ in range(options.steps):
                step(network, loss, optimizer, next(source))
            synchronise(options.device)
            best[name] = min(best[name], (time.perf_counter() - started) / options.steps)
    print(f"{options.batch} patches of {options.size}^3 a step, {options.workers} workers of {os.cpu_count()} cores")
    print(f"{'':12}{'ms a step':>11}{'patches/s':>11}{'of loader off':>15}")
    for name, seconds in best.items():
        rate, share = options.batch / seconds, best["loader off"] / seconds
        print(f"{name:12}{1e3 * seconds:11.1f}{rate:11.2f}{share:15.1%}")


if __name__ == "__main__":
    main()
