"""The stream of training patches against TorchIO's queue and MONAI's cached cases: the same cores, the same transforms.

    python benchmarks/data.py                              # 96^3 and 128^3, minutes; writes synthetic cases once
    python benchmarks/data.py --sizes 128 --probability 0.2
    python benchmarks/data.py --cases DIR                  # your cases, in BraTS 2020 layout

Every contender reads .nii.gz cases of three modalities and a mask, z-scores them, centres patches on tumour voxels and
applies flips, affine (p = 0.5), gamma, noise and blur (p as `--probability` says) with equal ranges, in two processes
on the same two cores; a third one collects batches of two and does nothing else.

raum     `PatchLoader`; cases are prepared before, which is timed apart
torchio  `Queue` over a `SubjectsDataset`, four patches per volume, as its documentation shows
monai    `CacheDataset` of whole cases, four patches per volume by `RandCropByPosNegLabeld`, augmented after cropping

Each runs in processes of its own and rests while another is measured. They take turns; the table shows each one's best
round, which other programs on the machine disturbed least. `CPU ms` is the time of all its processes per patch.
"""

import argparse
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

MODALITIES = ("flair", "t1ce", "t2")
WORKERS = 2
BATCH = 2
PER_VOLUME = 4
QUEUE = 16  # patches that TorchIO's queue holds
SECONDS = 8  # of one measurement, at least
IDLE = 0.1  # seconds of processor time in one by the clock, below which a contender rests
MB = 2**20


class Loader(NamedTuple):
    """`stream` never ends; `prepared` is what was spent before any epoch, in seconds."""

    stream: Iterator[Any]
    prepared: float


def raum(cases: Path, size: int, probability: float, folder: Path) -> Loader:
    import torchio as tio

    from raum_lightning.cases.discovery import find_cases
    from raum_lightning.data import augment
    from raum_lightning.data.patches import PatchDataset, PatchLoader, PatchSampler
    from raum_lightning.data.sampling import PatchPlaces
    from raum_lightning.data.store import Prepared, prepare, prepared_folder

    found = find_cases(cases)
    started = time.perf_counter()
    prepare(found, folder, MODALITIES, workers=WORKERS)
    prepared = time.perf_counter() - started
    transform = tio.Compose(
        [
            augment.RandomSpatial(flip_axes=(0, 1, 2), flip_probability=0.5, p_affine=0.5, scales=0.15, degrees=15),
            augment.RandomGamma(log_gamma=0.3, p=probability),
            augment.RandomNoise(std=(0, 0.1), p=probability),
            augment.RandomBlur(std=(0, 2), p=probability),
        ]
    )
    opened = [Prepared.open(prepared_folder(case, folder, MODALITIES)) for case in found]
    length = 10**6
    dataset = PatchDataset(
        opened,
        places=PatchPlaces((size,) * 3, foreground_probability=1),
        patches_per_epoch=length,
        transform=transform,
    )
    return Loader(iter(PatchLoader(dataset, PatchSampler(length), batch_size=BATCH, num_workers=WORKERS)), prepared)


def torchio(cases: Path, size: int, probability: float, folder: Path) -> Loader:
    import torchio as tio

    subjects = [
        tio.Subject(
            **{name: tio.ScalarImage(case / f"{case.name}_{name}.nii.gz") for name in MODALITIES},
            seg=tio.LabelMap(case / f"{case.name}_seg.nii.gz"),
        )
        for case in _folders(cases)
    ]
    transform = tio.Compose(
        [
            tio.ZNormalization(masking_method=tio.ZNormalization.mean),
            tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
            tio.RandomAffine(scales=0.15, degrees=15, p=0.5),
            tio.RandomGamma(log_gamma=0.3, p=probability),
            tio.RandomNoise(std=(0, 0.1), p=probability),
            tio.RandomBlur(std=(0, 2), p=probability),
        ]
    )
    queue = tio.Queue(
        tio.SubjectsDataset(subjects * 10**4, transform=transform),
        max_length=QUEUE,
        samples_per_volume=PER_VOLUME,
        sampler=tio.LabelSampler(size, "seg"),
        num_workers=WORKERS,
    )
    return Loader(iter(tio.SubjectsLoader(queue, batch_size=BATCH, num_workers=0)), 0)


def monai(cases: Path, size: int, probability: float, folder: Path) -> Loader:
    import numpy as np
    from monai import transforms as mt
    from monai.data import CacheDataset, DataLoader

    files = [
        {"image": [str(case / f"{case.name}_{name}.nii.gz") for name in MODALITIES]}
        | {"label": str(case / f"{case.name}_seg.nii.gz")}
        for case in _folders(cases)
    ]
    both, roi = ["image", "label"], (size,) * 3
    transform = mt.Compose(
        [
            mt.LoadImaged(both, ensure_channel_first=True, image_only=True),
            mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            mt.SpatialPadd(both, roi),
            mt.RandCropByPosNegLabeld(both, "label", roi, pos=1, neg=0, num_samples=PER_VOLUME),
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            mt.RandAffined(
                both,
                prob=0.5,
                rotate_range=[np.deg2rad(15)] * 3,
                scale_range=[0.15] * 3,
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            mt.RandAdjustContrastd("image", prob=probability, gamma=(np.exp(-0.3), np.exp(0.3))),
            mt.RandGaussianNoised("image", prob=probability, std=0.1),
            mt.RandGaussianSmoothd("image", (0.01, 2), (0.01, 2), (0.01, 2), prob=probability),
        ]
    )
    started = time.perf_counter()
    dataset = CacheDataset(files, transform, num_workers=WORKERS, progress=False)
    prepared = time.perf_counter() - started
    loader = DataLoader(dataset, batch_size=1, shuffle=True, num_workers=WORKERS, persistent_workers=True)

    def batches() -> Iterator[Any]:
        while True:
            yield from (half for volume in loader for half in (volume, volume))  # of four patches, two at a time

    return Loader(batches(), prepared)


CONTENDERS: dict[str, Callable[[Path, int, float, Path], Loader]] = {"raum": raum, "torchio": torchio, "monai": monai}


def _folders(cases: Path) -> list[Path]:
    return sorted(path for path in cases.iterdir() if path.is_dir())


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def _cpu_seconds(pid: int) -> float:
    ticks = 0
    for process in _tree(pid):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))  # its own and its dead children's, user and system
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes that a process and its descendants occupy; what they share counts once."""
    total = 0
    for process in _tree(pid):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total


def measure(stream: Iterator[Any], name: str) -> dict[str, float]:
    """Patches per second and processor seconds per patch, once what was fetched beforehand is used up."""
    warm = (QUEUE if name == "torchio" else 4 * WORKERS * BATCH) // BATCH
    for _ in range(warm):
        next(stream)
    cpu, begun, patches = _cpu_seconds(os.getpid()), time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        for _ in range(warm):  # whole fillings of the queue
            next(stream)
        patches += warm * BATCH
    seconds = time.perf_counter() - begun
    return {"rate": patches / seconds, "cpu": (_cpu_seconds(os.getpid()) - cpu) / patches}


def serve(name: str, size: int, probability: float, cases: Path, folder: Path) -> None:
    """One contender's process: says how long it took to start, then measures whenever it is sent a line."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.perf_counter()
    stream, prepared = CONTENDERS[name](cases, size, probability, folder)
    next(stream)
    print(json.dumps({"first": time.perf_counter() - started - prepared, "prepared": prepared}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure(stream, name)), flush=True)


class Contender:
    """A contender in processes of its own, idle between two measurements."""

    def __init__(self, name: str, *words: str) -> None:
        command = [sys.executable, __file__, "--one", name, *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment)
        self.rounds: list[dict[str, float]] = []
        self.peak = 0
        self.start = self._answer(watched=True)
        self._round(watched=True)
        self.settle()

    def measure(self) -> None:
        """Another round."""
        self.rounds.append(self._round())
        self.settle()

    def settle(self) -> None:
        """Waits until its workers have fetched what they fetch beforehand, and rest."""
        spent = 0.0
        while (now := _cpu_seconds(self.process.pid)) - spent > IDLE:
            spent = now
            time.sleep(1)

    def close(self) -> None:
        """Lets the process end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _round(self, *, watched: bool = False) -> dict[str, float]:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        return self._answer(watched=watched)

    def _answer(self, *, watched: bool) -> dict[str, float]:
        """What the process prints next; its memory is `watched` meanwhile, which slows it down."""
        assert self.process.stdout
        while not select.select([self.process.stdout], [], [], 0.2)[0]:
            self.peak = max(self.peak, memory(self.process.pid) if watched else 0)
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer


def compare(size: int, options: argparse.Namespace) -> dict[str, Contender]:
    """All contenders at one size, after they have taken turns."""
    contenders = {}
    with tempfile.TemporaryDirectory() as folder:
        words = ["--sizes", size, "--cases", options.cases, "--probability", options.probability]
        for name in options.contenders:
            contenders[name] = Contender(name, *map(str, [*words, "--prepared", folder]))
        for _ in range(options.rounds):
            for contender in contenders.values():
                contender.measure()
        for contender in contenders.values():
            contender.close()
    return contenders


def show(size: int, contenders: dict[str, Contender]) -> None:
    """The table of one size."""
    columns = ("patches/s", "CPU ms", "first batch s", "peak MiB", "prepared s", "raum faster by", "by CPU time")
    print(f"\n{f'{size}^3':8}" + "".join(f"{column:>{len(column) + 2}}" for column in columns))
    best = {name: (max(r["rate"] for r in c.rounds), min(r["cpu"] for r in c.rounds)) for name, c in contenders.items()}
    for name, (rate, cpu) in best.items():
        start, peak = contenders[name].start, contenders[name].peak / MB
        ours, our_cpu = best.get("raum", (math.nan, math.nan))
        row = (f"{rate:.2f}", f"{1e3 * cpu:.0f}", f"{start['first']:.1f}", f"{peak:.0f}", f"{start['prepared']:.1f}")
        row = (*row, f"{ours / rate:.1f}", f"{cpu / our_cpu:.1f}")
        print(f"{name:8}" + "".join(f"{text:>{len(c) + 2}}" for text, c in zip(row, columns, strict=True)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128], help="edges of the cubic patch in voxels")
    parser.add_argument("--probability", type=float, default=1.0, help="of gamma, noise and blur")
    parser.add_argument("--cases", type=Path, default=Path("runs/benchmark-cases"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        serve(options.one, options.sizes[0], options.probability, options.cases, options.prepared)
        return

    if not options.cases.exists():
        from raum_lightning.phantom import write_phantoms

        write_phantoms(options.cases, cases=8)
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:2]))
    print(f"{len(_folders(options.cases))} cases; p = {options.probability:g} of gamma, noise and blur; two cores; "
          f"load {os.getloadavg()[0]:.1f} at the start")  # fmt: skip
    for size in options.sizes:
        show(size, compare(size, options))


if __name__ == "__main__":
    main()
