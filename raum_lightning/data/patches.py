"""The stream of training patches: which patch and which augmentation is a function of (seed, epoch, index) alone.

A sampler yields keys (epoch, index), a dataset maps a key to a patch. Nothing else carries state, so that any number of
workers and ranks yields the same patches, each once, and a resumed run continues with the next key.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from raum_lightning.data.absent import StandIns, fill_absent
from raum_lightning.data.augment import InOrder, SampledTransform, samplable
from raum_lightning.data.option_checks import background_of, check_balanced, check_batch
from raum_lightning.data.sampling import CaseOrder, PatchPlaces
from raum_lightning.data.store import Prepared
from raum_lightning.data.transport import SharedBatches
from raum_lightning.errors import ConfigError

Key = tuple[int, int]


class ShardSampler(DistributedSampler[Any]):
    """A rank's share of `length` items, `rank, rank + num_replicas, ...`: each item once, none repeated to fill up.

    Only where there are fewer items than ranks is one given twice, as Lightning leaves a rank without any out of the
    loop in which the others wait for its metrics; `SegmentationMetrics` counts each case once by its id.

    It is a `DistributedSampler` because that is what Lightning leaves as it is and tells the epoch.
    """

    def __init__(self, length: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(range(length), num_replicas=num_replicas, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.length = length

    @property
    def share(self) -> range:
        """This rank's items."""
        return range(self.rank % max(1, self.length), self.length, self.num_replicas)

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.share)


class PatchSampler(ShardSampler):
    """A rank's keys (epoch, index) of one epoch, from the `start`-th on."""

    def __init__(self, length: int, *, num_replicas: int = 1, rank: int = 0) -> None:
        check_batch(1, length, num_replicas)
        super().__init__(length, num_replicas=num_replicas, rank=rank)
        self.start = 0

    def __iter__(self) -> Iterator[Key]:
        for index in self.share[self.start :]:
            yield self.epoch, index


class PatchLoader(DataLoader[dict[str, Any]]):
    """Batches of patches that can resume in the middle of an epoch.

    Lightning keeps `state_dict` in its checkpoints. After `load_state_dict` the first pass over that epoch leaves out
    the batches that were already yielded. `waited` counts the seconds that batches were waited for.
    """

    sampler: PatchSampler

    def __init__(
        self, dataset: "PatchDataset", sampler: PatchSampler, *, batch_size: int, num_workers: int = 0, **loading: Any
    ) -> None:
        self.shared = SharedBatches(num_workers)
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=collate_lists if dataset.raw else self.shared,
            # one set of workers, as they share memory with `shared`
            persistent_workers=num_workers > 0,
            **loading,
        )
        self.finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        """What every batch goes through at last, where no trainer does it; each complete pass is an epoch then."""
        self.limit = len(self)
        """Batches of an epoch that are taken."""
        self.batches = 0
        self.waited = 0.0
        self.resumed: dict[int, int] = {}

    def __iter__(self) -> Any:
        self.batches = self.resumed.pop(self.sampler.epoch, 0) % len(self)
        self.sampler.start = self.batches * (self.batch_size or 1)
        self.shared.restart()
        called = time.perf_counter()
        for batch in super().__iter__():
            self.batches += 1
            self.waited += time.perf_counter() - called
            batch = self.shared.receive(batch)
            yield self.finish(batch) if self.finish else batch
            del batch  # whose memory is to be used again
            called = time.perf_counter()
        if self.finish:
            self.sampler.set_epoch(self.sampler.epoch + 1)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, how many batches `of` how many this rank has yielded, and all ranks' patches per batch."""
        return {"epoch": self.sampler.epoch, "batches": self.batches, "patches": self._patches, "of": self.limit}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume from `state`; raise `ConfigError` in mid-epoch with batches of another size."""
        patches = state.get("patches", self._patches)
        of = state.get("of", ceil(self.sampler.length / patches))
        if patches != self._patches and state["batches"] < of:
            raise ConfigError(
                f"the checkpoint was taken in the middle of an epoch with {patches} patches a batch over all ranks, "
                f"now it is {self._patches}: choose data.batch_size for the number of ranks so that it stays the same"
            )
        self.resumed = {state["epoch"]: state["batches"] if patches == self._patches else 0}

    @property
    def _patches(self) -> int:
        return (self.batch_size or 1) * self.sampler.num_replicas


class VolumeDataset(Dataset[dict[str, Any]]):
    """Whole prepared volumes: `image` C X Y Z float16, `label` X Y Z uint8 (with a mask), `case`, `spacing` in mm.
    `voxels` are those of the file's grid, of which the volume is a crop.

    Of the channels those are `present` that it says, or all; what takes the place of the others, `fill_absent` says.
    """

    def __init__(self, cases: Sequence[Prepared], present: Sequence[bool] = (), stand_ins: StandIns = ()) -> None:
        self.cases, self.present, self.stand_ins = cases, present, stand_ins

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self.cases[index]
        image = torch.from_numpy(case.image).clone()
        fill_absent(image, self.present, self.stand_ins)
        item = {"image": image, "case": case.id, "spacing": torch.tensor(case.spacing), "voxels": prod(case.shape)}
        if case.tumour is not None:
            item["label"] = torch.from_numpy(case.label).clone()
        return item


class PatchDataset(Dataset[dict[str, Any]]):
    """Patches of prepared cases by key (epoch, index).

    Parameters of this project's transforms are sampled before the volume is read, so that just what they need is read;
    around the patch of any other transform, the margin is read that its strongest parameters need.

    Args:
        cases: What the patches are cut from.
        places: Where in a case a patch lies, and its size.
        patches_per_epoch: Length of an epoch.
        batch: Patches of a batch over all ranks, each with its exact share on tumour; a matter of chance where not
            given.
        case_weights: In the order of `cases`, see `CaseOrder`; equal where not given.
        transform: A TorchIO transform.
        raw: Leave patches as read, for `BatchAugmentation` to augment them on the device.
        seed: Decides, with the key, the patch and its augmentation.

    Raises:
        ConfigError: `batch` has no patch on tumour by rounding, or is one patch; or the transform leaves less than one.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        *,
        places: PatchPlaces,
        patches_per_epoch: int,
        case_weights: Sequence[float] | None = None,
        batch: int | None = None,
        transform: tio.Transform | None = None,
        raw: bool = False,
        seed: int = 0,
    ) -> None:
        self.cases = cases
        self.roi_size = places.roi_size
        self.patches_per_epoch = patches_per_epoch
        self.order = CaseOrder(case_weights or [1.0] * len(cases), seed=seed)
        self.places = places
        self.batch = batch
        self.transform = transform or tio.Compose([])
        self.in_order = None if samplable(self.transform) else InOrder(self.transform, self.roi_size)
        self.raw = raw
        self.seed = seed
        if batch is not None:
            check_balanced(places.foreground_probability, batch)
        if cases and self.in_order:
            self[0, 0]  # what a worker raised would come with its traceback

    def __len__(self) -> int:
        return self.patches_per_epoch

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return `image` C X Y Z float16 and `label` X Y Z uint8, both of `roi_size`, and `case`, the id.

        With `raw`: `image` and `label` as read, and `seed` and `offset` for `BatchAugmentation`.
        """
        epoch, index = key
        case = self.cases[self.order(epoch * self.patches_per_epoch + index)]
        volume, mask = torch.from_numpy(case.image), torch.from_numpy(case.label)[None]
        rng = np.random.default_rng((self.seed, epoch, index))
        start = self.places(case, mask.shape[1:], rng, foreground=self._foreground(epoch, index))
        seed = int(rng.integers(2**63))
        if self.in_order:
            image, label = self.in_order(volume, mask, start, seed)
            return {"image": image.half(), "label": label[0], "case": case.id}
        sampled = SampledTransform.sample(self.transform, channels=len(volume), seed=seed)
        window, offset = sampled.window(start, self.roi_size, mask.shape[1:])
        image, label = volume[:, *window], mask[:, *window]
        if self.raw:
            return {"image": image.clone(), "label": label[0].clone(), "case": case.id, "seed": seed, "offset": offset}
        image, label = sampled.apply(image, label, self.roi_size, offset)
        return {"image": image.half(), "label": label[0], "case": case.id}

    def _foreground(self, epoch: int, index: int) -> bool | None:
        """Return whether the patch is one of those of its batch that lie on tumour; None where chance decides."""
        if self.batch is None:
            return None
        number, place = divmod(index, self.batch)
        order = np.random.default_rng((self.seed, epoch, number, self.batch)).permutation(self.batch)
        return bool(order[place] >= background_of(self.batch, self.places.foreground_probability))


def in_float32(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch as `default_collate` does, its image in float32."""
    batch: dict[str, Any] = default_collate(items)
    return batch | {"image": batch["image"].float()}


def collate_lists(items: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return a batch as lists: raw patches differ in size."""
    return {key: [item[key] for item in items] for key in items[0]}
