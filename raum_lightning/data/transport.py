"""Batches from worker processes in shared memory that is reused.

The plain way is torch's: new shared memory for each batch, whose pages the system has to clear and map. It costs 85 ms
of processor time for a patch of 128^3 in the whole stream, this costs 73 (benchmarks/README.md). A worker keeps the
memory of some batches and fills one again as soon as nothing in the main process refers to it any more. What is
referred to never changes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import default_collate, get_worker_info

PLACES = 4
"""Batches whose memory a worker keeps: two fetched ahead, one in use and one to spare."""


class SharedBatches:
    """Collates samples, in a worker into memory that it has used before.

    For the workers of one loader, who live as long as it does. The main process hands each batch to `receive` and calls
    `restart` before each pass over the data. A batch for which there is no memory left is collated as torch does it.
    """

    def __init__(self, workers: int) -> None:
        # one flag for each place of each worker, which sets it when it fills the place; the main process clears it
        self.taken = torch.zeros(workers * PLACES, dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]
        self.memory: list[dict[str, Tensor]] = [{} for _ in range(PLACES)]  # in a worker
        self.in_use: dict[int, list[StorageWeakRef]] = {}  # in the main process, by place

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"in_use": {}}  # weak references of the main process

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch as `default_collate` does; from a worker with its "place", an int as pinning keeps it."""
        worker = get_worker_info()
        first = 0 if worker is None else worker.id * PLACES
        free = (~self.taken[first : first + PLACES]).nonzero().flatten().tolist()
        if worker is None or not free:
            batch: dict[str, Any] = default_collate(samples)
            return batch
        place = first + free[0]
        self.taken[place] = True
        return self._fill(self.memory[free[0]], samples) | {"place": place}

    def _fill(self, memory: dict[str, Tensor], samples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = {}
        for key, value in samples[0].items():
            values = [sample[key] for sample in samples]
            if not isinstance(value, Tensor):
                batch[key] = default_collate(values)
                continue
            held = memory.get(key)
            if held is None or (held[0].shape, held.dtype) != (value.shape, value.dtype) or len(held) < len(values):
                held = memory[key] = value.new_empty(len(values), *value.shape).share_memory_()  # type: ignore[no-untyped-call]
            batch[key] = torch.stack(values, out=held[: len(values)])
        return batch

    def receive(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch for its consumer; notes from when on its memory may be used again."""
        for place, storages in list(self.in_use.items()):
            if all(storage.expired() for storage in storages):  # type: ignore[no-untyped-call]
                del self.in_use[place]
                self.taken[place] = False
        if "place" in batch:
            place = batch.pop("place")
            tensors = [value for value in batch.values() if isinstance(value, Tensor)]
            self.in_use[place] = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]  # type: ignore[no-untyped-call]
        return batch

    def restart(self) -> None:
        """Free what was made but never received, as when an epoch was left in the middle.

        What a worker is just making for that epoch is freed the next time.
        """
        for place in range(len(self.taken)):
            if place not in self.in_use:  # those must not look free for a moment: workers may still be at work
                self.taken[place] = False
