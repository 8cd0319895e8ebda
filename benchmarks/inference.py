"""One whole case, ours against MONAI's sliding window: the same network, window, overlap and precision, in one run.

    python benchmarks/inference.py                                   # a small convolutional network, seconds
    python benchmarks/inference.py --network unetr --roi 128 128 128 # minutes on a CPU
    python benchmarks/inference.py --checkpoint best.ckpt --case DIR # trained weights, and the roi they were trained on

The weights of the named networks are random, and their case is made up: smooth contrast in an ellipsoid. The small
network's labels depend on a voxel's neighbourhood alone; a UNETR's also on where the windows lie, through its position
embedding and instance norm. Rows:

monai  its `sliding_window_inference`, over the whole volume
raum   our `sliding_window`: as many windows as the brain's box takes, evenly spread on it
same   our `blend` of MONAI's windows, but for those without brain: what differs from its labels is not the windows

Run it on an otherwise idle machine. Each round measures all rows in turn; the seconds are the fastest round's.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from monai.data.utils import dense_patch_slices
from monai.inferers.utils import sliding_window_inference
from torch import nn

from raum_lightning.geometry import brain_mask
from raum_lightning.inference.blending import blend
from raum_lightning.inference.sliding_window import sliding_window
from raum_lightning.machine import keep_memory
from raum_lightning.models.accelerate import accelerate

Network = Callable[[torch.Tensor], torch.Tensor]


class Measured(NamedTuple):
    """One run over the case; megabytes (MiB) are the device's peak, nan on the CPU."""

    seconds: float
    windows: int
    megabytes: float
    labels: torch.Tensor


def case(shape: tuple[int, int, int], brain: tuple[int, int, int], modalities: int = 3) -> torch.Tensor:
    """Smooth contrast and noise in an ellipsoid of `brain` voxels, centred in `shape`, and 0 around it: 1 C X Y Z."""
    torch.manual_seed(0)
    axes = [(torch.arange(size) - (size - 1) / 2) / (length / 2) for size, length in zip(shape, brain, strict=True)]
    radius = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    coarse = torch.randn(1, modalities, 12, 12, 8)
    image = nn.functional.interpolate(coarse, shape, mode="trilinear") + 0.1 * torch.randn(1, modalities, *shape)
    return image * (radius < 1)


def build(name: str, roi: tuple[int, int, int]) -> nn.Module:
    torch.manual_seed(0)
    if name == "unetr":
        from raum_lightning.models import UNETR

        return UNETR(in_channels=3, out_channels=4, img_size=roi)
    layers = [nn.Conv3d(3, 16, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(16, 16, 3, padding=1), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Conv3d(16, 4, 1))


def trained(checkpoint: Path, folder: Path) -> tuple[nn.Module, tuple[int, int, int], torch.Tensor]:
    """The network of a checkpoint, its window, and a case normalised in place: 1 C X Y Z, 0 outside the brain."""
    from raum_lightning import load
    from raum_lightning.cases.discovery import find_case
    from raum_lightning.data.normalise import normalise

    segmenter = load(checkpoint, device="cpu")
    image, _ = find_case(folder).read(segmenter.card.modalities)
    normalised, crop = normalise(image)
    image[:] = 0
    image[:, *crop] = normalised
    return segmenter.networks[0], segmenter.card.roi_size, torch.from_numpy(image)[None]


def measure(infer: Callable[[Network], torch.Tensor], network: Network, device: torch.device, bf16: bool) -> Measured:
    batches = []

    def counted(windows: torch.Tensor) -> torch.Tensor:
        batches.append(len(windows))
        return network(windows)

    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
        logits = infer(counted)
    if cuda:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    megabytes = torch.cuda.max_memory_allocated(device) / 2**20 if cuda else float("nan")
    return Measured(seconds, sum(batches), megabytes, logits.argmax(dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["small", "unetr"], default="small")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--checkpoint", type=Path, help="of `lightning fit`; with --case")
    parser.add_argument("--case", type=Path, help="folder of a case")
    parser.add_argument("--roi", type=int, nargs=3, default=[128, 128, 128])
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=1, help="windows per forward")
    parser.add_argument("--shape", type=int, nargs=3, default=[240, 240, 155])
    parser.add_argument("--brain", type=int, nargs=3, default=[140, 175, 140])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile the network, for both")
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.case is None):
        parser.error("--checkpoint and --case belong together")

    if args.checkpoint:
        network, roi, image = trained(args.checkpoint, args.case)
    else:
        roi = tuple(args.roi)
        network, image = build(args.network, roi), case(args.shape, args.brain)
    network, image = network.to(args.device).eval(), image.to(args.device)
    accelerate(network, args.device.type, compiled=args.compile)
    if args.compile:
        network = torch.compile(network)

    def ours(network: Network) -> torch.Tensor:
        return sliding_window(image, network, roi_size=roi, overlap=args.overlap, batch_size=args.batch_size)

    def monai(network: Network) -> torch.Tensor:
        return sliding_window_inference(image, roi, args.batch_size, network, overlap=args.overlap, mode="gaussian")

    def same(network: Network) -> torch.Tensor:
        boxes = dense_patch_slices(image.shape[2:], roi, [int(size * (1 - args.overlap)) for size in roi])
        starts = [tuple(side.start for side in box) for box in boxes if brain_mask(image[0][:, *box]).any()]
        return blend(image[0], network, starts, roi_size=roi, batch_size=args.batch_size)[None]

    keep_memory()
    with torch.no_grad():
        network(image.new_zeros(args.batch_size, image.shape[1], *roi))
    methods = {"monai": monai, "raum": ours, "same": same}
    rows = {(name, bf16): method for bf16 in (False, True) for name, method in methods.items()}
    best: dict[tuple[str, bool], Measured] = {}
    for _ in range(args.repeats):
        for key, infer in rows.items():
            measured = measure(infer, network, args.device, key[1])
            best[key] = min(best.get(key, measured), measured, key=lambda row: row.seconds)

    brain = brain_mask(image)
    what = args.checkpoint.name if args.checkpoint else args.network
    where = f"{args.device}, {torch.get_num_threads()} threads"
    print(f"{what} on {where}, {'x'.join(map(str, image.shape[2:]))}, roi {roi}, overlap {args.overlap}")
    print(f"{'':12} {'windows':>7} {'seconds':>8} {'ratio':>6} {'to fp32':>8} {'equal labels':>12} {'peak MiB':>9}")
    for (name, bf16), row in best.items():
        ratio, to_fp32 = (best["monai", precision].seconds / row.seconds for precision in (bf16, False))
        agreement = (row.labels == best["monai", False].labels)[brain].double().mean().item()
        title = f"{name} {'bf16' if bf16 else 'fp32'}"
        times = f"{row.windows:7} {row.seconds:8.2f} {ratio:6.2f} {to_fp32:8.2f}"
        print(f"{title:12} {times} {agreement:12.4%} {row.megabytes:9.0f}")
    print("ratio: MONAI's seconds over this row's, at the same precision; to fp32: MONAI's in fp32 over this row's.")
    print("Equal labels: against monai fp32, in the brain.")


if __name__ == "__main__":
    main()
