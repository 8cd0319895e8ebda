"""What the stream takes and leaves: memory, file handles, the data folder; and that its workers may be spawned."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.cases.discovery import find_cases
from raum_lightning.data.augment import default_augmentation
from raum_lightning.data.patches import PatchDataset, PatchLoader, PatchSampler
from raum_lightning.data.sampling import PatchPlaces
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.data.transport import PLACES

pytestmark = pytest.mark.slow

MODALITIES = ("flair", "t1ce", "t2")
LENGTH = 120  # patches in an epoch, of two to a batch
MB = 2**20


@pytest.fixture
def cases(brats: Path, tmp_path: Path) -> list[Prepared]:
    found = find_cases(brats)
    prepare(found, tmp_path / "prepared", MODALITIES)
    return [Prepared.open(prepared_folder(case, tmp_path / "prepared", MODALITIES)) for case in found]


def loader(cases: list[Prepared], *, length: int = LENGTH, **loading: Any) -> PatchLoader:
    dataset = PatchDataset(
        cases, places=PatchPlaces((12, 12, 12)), patches_per_epoch=length, transform=default_augmentation(), seed=3
    )
    return PatchLoader(dataset, PatchSampler(length), batch_size=2, **loading)


def stream(patches: PatchLoader) -> Iterator[dict[str, Any]]:
    """Batches without end."""
    for epoch in range(10**6):
        patches.sampler.set_epoch(epoch)
        yield from patches


def workers() -> list[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    return [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "pt_data_worker\n"]


def resident(pid: int) -> int:
    """Bytes of RAM a process occupies."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def handles(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_neither_memory_nor_handles_grow_over_600_batches_and_ten_epochs(cases: list[Prepared]) -> None:
    batches = stream(loader(cases, num_workers=1))
    for _ in range(120):
        next(batches)
    processes = [os.getpid(), *workers()]
    assert len(processes) == 2
    before = [(resident(pid), handles(pid)) for pid in processes]
    for _ in range(600):
        next(batches)
    for pid, (memory, opened) in zip(processes, before, strict=True):
        assert resident(pid) - memory < 8 * MB  # all batches are 25 MB
        assert handles(pid) <= opened + 4 * PLACES  # an image and a label each, kept or on their way


def test_neither_depends_on_the_number_of_cases(cases: list[Prepared]) -> None:
    many = [dataclasses.replace(case, id=f"{case.id}-{copy}") for copy in range(120) for case in cases]
    grown = []
    for part in (cases, many):
        batches = stream(loader(part, num_workers=1))
        next(batches)
        (worker,) = workers()
        start = resident(worker)
        for _ in range(len(many) // 2):
            next(batches)
        grown.append(resident(worker) - start)
        assert handles(worker) < 40
        del batches
    assert abs(grown[1] - grown[0]) < 8 * MB


def test_the_data_folder_is_only_read(brats: Path, cases: list[Prepared], tmp_path: Path) -> None:
    """And what is done to a patch is not done to the file."""
    below = [*brats.rglob("*"), *(tmp_path / "prepared").rglob("*")]
    for path in below:
        path.chmod(path.stat().st_mode & 0o555)
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in below}
    prepare(find_cases(brats), tmp_path / "prepared", MODALITIES)
    dataset = loader(cases).dataset
    for index in range(12):
        item = dataset[0, index]
        item["image"].fill_(7)
        item["label"].fill_(7)
    assert {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in below} == before
    for path in below:
        path.chmod(path.stat().st_mode | 0o200)


def test_spawned_workers_draw_the_same(cases: list[Prepared]) -> None:
    reference = [batch["image"] for batch in loader(cases, length=12)]
    spawned = loader(cases, length=12, num_workers=1, multiprocessing_context="spawn")
    assert all(torch.equal(batch["image"], ours) for batch, ours in zip(spawned, reference, strict=True))
