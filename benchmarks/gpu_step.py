"""A training step on a GPU beside MONAI's, and whether the loader keeps it waiting, augmented in workers or on the GPU.

    python benchmarks/gpu_step.py                              # needs CUDA; writes synthetic cases once
    python benchmarks/gpu_step.py --workers 8 --batch 4 --size 96
    python benchmarks/gpu_step.py --no-loader --v2 --compile   # UNETRV2 and MONAI's other networks too, and compiled
    python benchmarks/gpu_step.py --device cpu --size 32 --batch 1 --steps 3 --small   # does it run at all?

UNETR, Dice and cross-entropy, AdamW, bf16, the augmentation of the shipped experiments. Rows:

MONAI        its UNETR and its DiceCELoss; the same batch again and again, on the device already
plain        our UNETR and loss without `accelerate`; likewise
ours         with it, as every verb runs; likewise
workers      batches as they come, augmented by the loader's processes (data.augment_on: workers)
device       batches as they come, raw, augmented on the device (data.augment_on: device)
v2           UNETRV2 as in experiments/unetr_v2.yaml, with deep supervision; and MONAI's as in experiments/baselines
compiled     by torch.compile, MONAI's as it comes, ours as `module.compile` does it

Milliseconds are the mean over `--steps` steps between two synchronisations. Rows take turns, and the
fastest of three counts.
"""

import argparse
import os
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.networks import nets
from torch import Tensor, nn
from variants import MonaiLoss

from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.losses import DiceCELoss, deep_supervision
from raum_lightning.models import UNETR
from raum_lightning.models.accelerate import accelerate

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
ROUNDS = 3
PLACES = ("workers", "device")  # where the loader's batches are augmented
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


class Training:
    """A network, its loss and its optimiser."""

    def __init__(self, network: nn.Module, loss: nn.Module, device: torch.device) -> None:
        self.network, self.loss = network.to(device), loss
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step(self, pair: Pair) -> None:
        """One optimiser step."""
        with torch.autocast(pair[0].device.type, torch.bfloat16):
            output = self.network(pair[0])
            several = output if isinstance(output, tuple) else (output,)  # a tuple with deep supervision
            value = deep_supervision(self.loss, several, pair[1])
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()


def configured(name: str, size: int) -> nn.Module:
    """The network of an experiment, for patches of `size`."""
    found: dict[str, Any] = yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())["module"]["network"]
    module, _, kind = found["class_path"].rpartition(".")
    keys = found.get("init_args", {})
    if kind.endswith("UNETRV2"):
        keys = {"in_channels": 3, "out_channels": 4, "img_size": size} | keys
    network: nn.Module = getattr(import_module(module), kind)(**keys)
    return network


def trainings(options: argparse.Namespace) -> dict[str, Training]:
    """MONAI's, ours without `accelerate` and ours with it, for networks of the same sizes; then what is asked for."""
    size = (options.size,) * 3
    small = {"embed_dim": 48, "mlp_dim": 96, "feature_size": 4} if options.small else {}
    theirs = {"hidden_size": 48, "mlp_dim": 96, "feature_size": 4} if options.small else {}

    def monai() -> Training:
        return Training(nets.UNETR(3, 4, size, **theirs), MonaiLoss(), options.device)

    def ours() -> Training:
        return Training(UNETR(in_channels=3, out_channels=4, img_size=size, **small), DiceCELoss(), options.device)

    found = {"MONAI": monai(), "plain": ours(), "ours": ours()}
    accelerate(found["ours"].network, options.device.type)
    if options.v2:
        found["v2"] = Training(configured("unetr_v2", options.size), DiceCELoss(), options.device)
        accelerate(found["v2"].network, options.device.type)
        for name in ("segresnet", "dynunet", "mednext", "swin_unetr_v2"):
            found[name] = Training(configured(f"baselines/{name}", options.size), MonaiLoss(), options.device)
    if options.compile:
        found |= {"MONAI, compiled": monai(), "ours, compiled": ours()}
        accelerate(found["ours, compiled"].network, options.device.type, compiled=True)
        for name in ("MONAI, compiled", "ours, compiled"):
            found[name].network.compile(dynamic=False)
    return found


def reset_peak(device: torch.device) -> int:
    """Begin to look for the peak of the GPU's memory, and return what is taken now."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


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
    parser.add_argument("--no-loader", action="store_true", help="without the rows of the loader")
    parser.add_argument("--v2", action="store_true", help="UNETRV2 and MONAI's other networks as well")
    parser.add_argument("--compile", action="store_true", help="compiled UNETRs as well; minutes")
    parser.add_argument("--small", action="store_true", help="a network of few channels")
    options = parser.parse_args()
    if options.device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here: nothing measured")
        return
    if not options.cases.exists():
        from raum_lightning.phantom import write_phantoms

        write_phantoms(options.cases, cases=8)

    torch.manual_seed(0)
    made = trainings(options)
    rows = {name: (training, repeated(options)) for name, training in made.items()}
    if not options.no_loader:
        rows |= {place: (made["ours"], batches(options, place)) for place in PLACES}
    best, peaks = dict.fromkeys(rows, float("inf")), dict.fromkeys(rows, float("nan"))
    for name, (training, source) in rows.items():
        print(f"{name} ...", flush=True)
        for _ in range(3):
            pair = next(source)
            training.optimizer.zero_grad(set_to_none=True)
            before = reset_peak(options.device)
            training.step(pair)
            if options.device.type == "cuda":
                peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    ahead = 2 * options.workers  # batches that a loader makes while other rows take their turn
    for _ in range(ROUNDS):
        for name, (training, source) in rows.items():
            loads = name in PLACES
            steps = max(options.steps, 4 * ahead) if loads else options.steps
            for _ in range(ahead if loads else 0):
                next(source)
            synchronise(options.device)
            started = time.perf_counter()
            for _ in range(steps):
                training.step(next(source))
            synchronise(options.device)
            best[name] = min(best[name], (time.perf_counter() - started) / steps)
    where = torch.cuda.get_device_name() if options.device.type == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}: {options.batch} patches of {options.size}^3 a step, ", end="")
    print(f"{options.workers} workers of {os.cpu_count()} cores")
    print(f"{'':16}{'ms a step':>11}{'patches/s':>11}{'ours over it':>14}{'peak GiB':>10}")
    for name, seconds in best.items():
        rate, share = options.batch / seconds, best["ours"] / seconds
        print(f"{name:16}{1e3 * seconds:11.1f}{rate:11.2f}{share:14.1%}{peaks[name]:10.2f}")
    print("Peak: what a step allocates beyond weights, the optimiser's state and the batch.")


if __name__ == "__main__":
    main()
