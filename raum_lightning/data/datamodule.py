"""BraTS cases as a LightningDataModule: find, split, prepare, stream."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torchio as tio
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from raum_lightning.atomic import expanded
from raum_lightning.cases.check import check_before_training
from raum_lightning.cases.splits import check_folds
from raum_lightning.data.absent import stand_ins
from raum_lightning.data.augment import BatchAugmentation
from raum_lightning.data.augment.kernels import Size
from raum_lightning.data.augment.presets import build_transform
from raum_lightning.data.option_checks import (
    check_balanced,
    check_batch,
    check_count,
    check_names,
    check_size,
    check_without,
)
from raum_lightning.data.patches import (
    PatchDataset,
    PatchLoader,
    PatchSampler,
    ShardSampler,
    VolumeDataset,
    in_float32,
)
from raum_lightning.data.sampling import PatchPlaces, read_weights
from raum_lightning.data.selection import SelectedCases
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.data.voxel_checks import check_alike, check_trained
from raum_lightning.data.workers import start_worker
from raum_lightning.datasets import DataSet, load
from raum_lightning.errors import ConfigError, SplitError
from raum_lightning.labels import CLASSES, MODALITIES
from raum_lightning.machine import usable_cores
from raum_lightning.progress import progress_bar


class BratsDataModule(SelectedCases):
    """Cases of a data set as batches.

    Training batches are patches, validation, test and prediction batches are one whole prepared volume each:
    `{"image": B C X Y Z float32, "label": B X Y Z class indices, "case": [ids]}` (no label where a case has none).

    Args:
        root: Folder with the cases; see `raum check` for what it finds there.
        modalities: What the channels of the image are, in this order; where not given flair, t1ce and t2, or all that
            the data set has where it lacks one of these.
        dataset: Which data set it is, which decides file names, label values, classes and regions: auto (what ids and
            names of files say), a name of `raum datasets`, or a YAML file. What two data sets read differently, as
            BraTS-PED of 2023 and of 2024 or a 4 under the names of BraTS 2023, has to be declared.
        roi_size: Size of a training patch in voxels, X Y Z.
        batch_size: Patches per batch and rank.
        patches_per_epoch: Patches of all ranks together in one epoch.
        foreground_probability: Share of patches centred on a tumour voxel; the others lie anywhere.
        class_weights: Weights by which the class of that voxel is sampled among those that the case has, such as
            {NCR: 1, ED: 1, ET: 1}; where not given, all tumour voxels are equally likely.
        balanced: As in nnU-Net, of each batch of all ranks together exactly the share of `foreground_probability`,
            rounded, is centred on tumour, and all classes that the case has are equally likely there, where
            `class_weights` does not say otherwise. Cases take turns in any case.
        case_weights: How often a case is sampled compared with a weight of 1, which cases not named have: ids with
            their weights, or a YAML or JSON file of them; 0 for never.
        augmentation: TorchIO transforms, applied in this order, or the name of some: light (flips, rotations by 90
            degrees and intensity, as in the paper), default, strong (as nnU-Net); true for default, false for none.
        augment_on: Where patches are augmented, by the same parameters: workers (processes of the loader) or device
            (the batch, on the GPU).
        modality_dropout: Probability of each modality, such as {flair: 0.2}, to be absent from a whole patch, where it
            is 0 as outside the brain; never all of them. The network then learns to segment without it.
        fill_absent: What an absent modality is a copy of instead, such as {flair: t2}, on which edema is bright too; 0
            where that is absent as well. In training, in `without`, and in cases that lack it.
        without: Modalities that are absent from the volumes of validate, test and predict, such as [flair]: how well
            does the network do without them?
        folds: Parts of the cross-validation.
        fold: The part that validates, from 0.
        test_fraction: Share of the patients held out for testing, the same in every fold.
        splits: JSON file with train, val and test instead; see `raum_lightning.cases.splits.read_split`.
        exclude: Ids of cases to leave out.
        predict_root: Folder with the cases to predict, whose masks are not read; the test cases where it is not given.
        prepared_dir: Where prepared volumes are kept.
        check: Look, as `raum check` does, for what is wrong with the cases before a training prepares them. What was
            measured is kept in prepared_dir, so that only new files are read.
        num_workers: Processes that read and augment patches, per rank; 0 for none but the main process.
        edition: The former name of `dataset`.
        seed: Decides, with epoch and index, each patch and its augmentation; that of `seed_everything` where not given.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        modalities: Sequence[str] | None = None,
        dataset: str = "auto",
        roi_size: Size = (128, 128, 128),
        batch_size: int = 2,
        patches_per_epoch: int = 512,
        foreground_probability: float = 0.5,
        class_weights: dict[str, float] | None = None,
        balanced: bool = False,
        case_weights: dict[str, float] | Path | None = None,
        augmentation: list[tio.Transform] | Literal["light", "default", "strong"] | bool = True,
        augment_on: Literal["workers", "device"] = "workers",
        modality_dropout: dict[str, float] | None = None,
        fill_absent: dict[str, str] | None = None,
        without: Sequence[str] = (),
        folds: int = 5,
        fold: int = 0,
        test_fraction: float = 0.1,
        splits: Path | str | None = None,
        exclude: Sequence[str] = (),
        predict_root: Path | str | None = None,
        prepared_dir: Path | str = "runs/prepared",
        check: bool = True,
        num_workers: int = 2,
        seed: int | None = None,
        edition: str | None = None,
    ) -> None:
        super().__init__()
        if edition is not None:
            rank_zero_info("data.edition is called data.dataset now; the old key will be removed in the next release")
        name = edition if edition is not None else dataset
        self.declared = name if name == "auto" else load(name)
        if isinstance(self.declared, DataSet) and self.declared.labels:
            check_names("modalities", modalities or self.declared.modalities, list(self.declared.images))
        if modalities is not None:
            # of a data set that is still to be recognised any name may be right
            check_names(
                "modalities", modalities, [*MODALITIES, *(name for name in modalities if name not in MODALITIES)]
            )
        check_size("roi_size", roi_size)
        check_count("batch_size", batch_size, 1)
        check_count("patches_per_epoch", patches_per_epoch, 1)
        check_count("num_workers", num_workers, 0)
        check_count("seed", 0 if seed is None else seed, 0)
        check_batch(batch_size, patches_per_epoch)
        check_folds(folds, fold, test_fraction)
        self.root = expanded(root)
        self._modalities = tuple(modalities or ())
        self.roi_size = roi_size
        self.batch_size = batch_size
        self.patches_per_epoch = patches_per_epoch
        self.balanced = balanced
        self.case_weights = read_weights(case_weights)
        self.folds, self.fold, self.test_fraction = folds, fold, test_fraction
        self.splits = expanded(splits) if splits else None
        self.exclude = frozenset(exclude)
        self.predict_root = expanded(predict_root) if predict_root else None
        self.prepared_dir = expanded(prepared_dir)
        self.check = check
        self.num_workers = num_workers
        self.seed = seed
        self.prepared: dict[str, Prepared] = {}
        # ids of cases that `predict_dataloader` leaves out; who writes predictions sets it
        self.predicted: frozenset[str] = frozenset()
        # with fewer cases than ranks some have none
        self.allow_zero_length_dataloader_with_multiple_devices = True
        # last, as to know modalities and classes may take finding the cases
        self.places = PatchPlaces(
            roi_size,
            foreground_probability=foreground_probability,
            class_weights=class_weights,
            classes=self.dataset.classes if class_weights else CLASSES,
            equal_classes=balanced,
        )
        self.modality_dropout = modality_dropout or {}
        self.fill_absent = fill_absent or {}
        known = (self._modalities or self.modalities) if modality_dropout or fill_absent or without else ()
        check_without(without, known)
        self.without = tuple(without)
        self.transform = build_transform(augmentation, self.modality_dropout, known, stand_ins(self.fill_absent, known))
        self.batch_augmentation: BatchAugmentation | None = None
        if augment_on == "device" and self.transform is not None:
            self.batch_augmentation = BatchAugmentation(self.transform, roi_size=self.roi_size)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self.split, part))} {part}" for part in ("train", "val", "test"))
        return f"<BratsDataModule {self.root}: {', '.join(self._modalities) or 'auto'}; {sizes}>"

    def prepare_data(self) -> None:
        """Check and prepare what the run needs and was not yet, with progress bars; on one rank of each node."""
        fitting = self.trainer is not None and self.trainer.training
        if fitting:
            if self.without:
                raise ConfigError("data.without is for validate, test and predict; fit takes data.modality_dropout")
            check_batch(self.batch_size, self.patches_per_epoch, self._ranks["num_replicas"])
            if self.balanced:
                check_balanced(self.places.foreground_probability, self.batch_size * self._ranks["num_replicas"])
            if self.fill_absent and not self.modality_dropout:
                rank_zero_info("data.fill_absent changes nothing in training without data.modality_dropout")
        self.select(announce=True)
        if self.without:
            rank_zero_info(
                f"without {', '.join(self.without)}: what the network sees of it is as data.fill_absent says, or 0"
            )
        if fitting and self.check:
            with progress_bar("checking cases") as progress:
                said = check_before_training(self.cases, self.modalities, cache=self.prepared_dir, progress=progress)
            if said:
                rank_zero_info(said)
        with progress_bar("preparing cases") as progress:
            damage = prepare(list(self.cases.values()), self.prepared_dir, self.modalities, progress=progress)
        for sentence in damage:
            rank_zero_info(sentence)

    def setup(self, stage: str) -> None:
        """Find, split and open the prepared cases."""
        self.select()
        self.prepared = {
            name: Prepared.open(prepared_folder(case, self.prepared_dir, self.modalities))
            for name, case in self.cases.items()
        }
        if stage == "fit":
            if not self.split.train:
                raise SplitError(f"{self.splits}: has no case under train to learn from")
            if seen := sorted({*self.split.train} & {*self.split.val, *self.split.test}):
                rank_zero_info(f"trained on and scored: {', '.join(seen[:5])}; these are training scores")
            check_alike([self.prepared[name] for name in (*self.split.train, *self.split.val)])
            if self.num_workers > (cores := usable_cores()):
                rank_zero_info(
                    f"data.num_workers is {self.num_workers}, and there are {cores} cores: fewer may be faster"
                )

    def check_trained(self, orientation: str, spacing: Sequence[float]) -> None:
        """Raise `GeometryError` where the cases of validate, test or predict lie otherwise than those that trained."""
        assert self.trainer is not None
        names = self.split.val if self.trainer.validating else self.predict_cases
        check_trained([self.prepared[name] for name in names], orientation, spacing)

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return batches of patches."""
        sampler = PatchSampler(self.patches_per_epoch, **self._ranks)
        dataset = self.patches([self.prepared[name] for name in self.split.train], self.weights)
        loader = PatchLoader(dataset, sampler, batch_size=self.batch_size, **self._loading(self.num_workers))
        if self.trainer is None:  # which would call it
            loader.finish = partial(self.on_after_batch_transfer, dataloader_idx=0)
        else:
            share = self.trainer.limit_train_batches
            loader.limit = min(len(loader), share if isinstance(share, int) else int(share * len(loader)))
        return loader

    def patches(self, cases: Sequence[Prepared], weights: Sequence[float] | None = None) -> PatchDataset:
        """Return the training patches of `cases`, sampled by `weights`, one per case."""
        return PatchDataset(
            cases,
            patches_per_epoch=self.patches_per_epoch,
            places=self.places,
            case_weights=weights,
            batch=self.batch_size * self._ranks["num_replicas"] if self.balanced else None,
            transform=self.transform,
            raw=self.batch_augmentation is not None,
            seed=self._seed,
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augment raw patches on their device; convert images from float16, as they travel, to the run's precision."""
        if self.batch_augmentation is None or "seed" not in batch:
            batch = batch | {"image": batch["image"].float()}
        else:
            image, label = self.batch_augmentation(batch["image"], batch["label"], batch["seed"], batch["offset"])
            batch = {"image": image, "label": label, "case": batch["case"]}
        if self.trainer is None:
            return batch
        converted: dict[str, Any] = self.trainer.precision_plugin.convert_input(batch)
        return converted

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return whole volumes of the validation cases."""
        return self._volumes(self.split.val)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return whole volumes of the test cases."""
        if not self.split.test:
            raise ConfigError(
                "there are no test cases; give data.test_fraction above 0 or data.splits with a test list"
            )
        return self._volumes(self.split.test)

    def predict_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return whole volumes of `predict_cases` without those in `predicted`."""
        return self._volumes([name for name in self.predict_cases if name not in self.predicted])

    def _volumes(self, names: Sequence[str]) -> DataLoader[dict[str, Any]]:
        cases = [self.prepared[name] for name in names]
        present = [name not in self.without for name in self.modalities]
        dataset = VolumeDataset(cases, present, stand_ins(self.fill_absent, self.modalities))
        sampler, workers = ShardSampler(len(dataset), **self._ranks), min(1, self.num_workers)
        collate = in_float32 if self.trainer is None else None  # else `on_after_batch_transfer` converts them
        loading = {"persistent_workers": workers > 0, "collate_fn": collate, **self._loading(workers)}
        return DataLoader(dataset, sampler=sampler, **loading)

    def _loading(self, workers: int) -> dict[str, Any]:
        return {
            "num_workers": workers,
            "worker_init_fn": start_worker,
            "pin_memory": torch.cuda.is_available(),
            # without it, the loader would take a seed from the global generator for its workers
            "generator": torch.Generator(),
        }

    @property
    def _seed(self) -> int:
        # PL_GLOBAL_SEED is where Lightning's seed_everything leaves the seed for all processes of a run
        return int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    @property
    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"num_replicas": 1, "rank": 0}
        return {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}
