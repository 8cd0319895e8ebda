import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchio as tio

from raum_lightning.cases.discovery import find_cases
from raum_lightning.data.augment import (
    BatchAugmentation,
    RandomBiasField,
    RandomContrast,
    RandomSpatial,
    default_augmentation,
)
from raum_lightning.data.augment.in_order import read_box
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.data.patches import PatchDataset, PatchLoader, PatchSampler, ShardSampler
from raum_lightning.data.sampling import PatchPlaces
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.errors import ConfigError
from raum_lightning.labels import BACKGROUND

MODALITIES = ("flair", "t1ce", "t2")
ROI = (16, 12, 20)


@pytest.fixture
def cases(brats: Path, tmp_path: Path) -> list[Prepared]:
    found = find_cases(brats)
    prepare(found, tmp_path / "prepared", MODALITIES)
    return [Prepared.open(prepared_folder(case, tmp_path / "prepared", MODALITIES)) for case in found]


def dataset(cases: list[Prepared], **options: Any) -> PatchDataset:
    places = PatchPlaces(options.pop("roi_size", ROI), foreground_probability=options.pop("foreground", 0.5))
    defaults = {"places": places, "patches_per_epoch": 12, "transform": default_augmentation(), "seed": 3}
    return PatchDataset(cases, **defaults | options)


def loader(cases: list[Prepared], *, workers: int = 0, ranks: int = 1, rank: int = 0, **options: Any) -> PatchLoader:
    patches = dataset(cases, **options)
    sampler = PatchSampler(len(patches), num_replicas=ranks, rank=rank)
    return PatchLoader(patches, sampler, batch_size=2, num_workers=workers)


def epochs(patches: PatchLoader, count: int = 2) -> list[torch.Tensor]:
    out = []
    for epoch in range(count):
        patches.sampler.set_epoch(epoch)
        out += [torch.cat([batch["image"], batch["label"][:, None]], dim=1) for batch in patches]
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [default_augmentation(), tio.RandomAffine(degrees=20, p=0.5), tio.OneOf([tio.RandomAffine(), tio.RandomNoise()])],
    ids=["ours", "torchio", "one of"],
)
def test_any_number_of_workers_yields_the_same(cases: list[Prepared], transform: tio.Transform) -> None:
    reference = epochs(loader(cases, transform=transform))
    assert len({tuple(batch.flatten()[:500].tolist()) for batch in reference}) == len(reference)
    for workers in (1, 2):
        for ours, theirs in zip(epochs(loader(cases, transform=transform, workers=workers)), reference, strict=True):
            assert torch.equal(ours, theirs)


def test_ranks_share_what_one_process_yields(cases: list[Prepared]) -> None:
    whole = epochs(loader(cases), 1)
    shares = [epochs(loader(cases, ranks=2, rank=rank), 1) for rank in range(2)]
    interleaved = torch.stack([torch.cat(shares[0]), torch.cat(shares[1])], dim=1).flatten(0, 1)
    assert torch.equal(interleaved, torch.cat(whole))


def test_an_epoch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patches_per_epoch=10 cannot be shared by 4 ranks .* try 12"):
        PatchSampler(10, num_replicas=4)


@pytest.mark.parametrize("length", [0, 1, 5, 8])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_volumes_are_shared_without_doubles(length: int, ranks: int) -> None:
    shares = [ShardSampler(length, num_replicas=ranks, rank=rank) for rank in range(ranks)]
    dealt = [index for share in shares[:length] for index in share]
    assert sorted(dealt) == list(range(length))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]
    # Lightning leaves a rank without a batch out of the validation loop, where the others wait for it
    assert all(len(share) == (length > 0) for share in shares[length:])


def test_every_case_is_sampled_equally_often_in_changing_order(cases: list[Prepared]) -> None:
    patches = dataset(cases, transform=None)
    cases_of = [patches[epoch, index]["case"] for epoch in range(3) for index in range(12)]
    assert set(Counter(cases_of).values()) == {6}
    rounds = [tuple(cases_of[first : first + 6]) for first in range(0, 36, 6)]
    assert len(set(rounds)) > 1 and all(len(set(each)) == 6 for each in rounds)


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_share_of_patches_centred_on_tumour(cases: list[Prepared], probability: float) -> None:
    patches = dataset(cases, transform=None, roi_size=(1, 1, 1), foreground=probability)
    hits = sum(int(patches[0, index]["label"].item() != BACKGROUND) for index in range(400))
    brain = np.mean([len(case.tumour_voxels()) / case.label.size for case in cases])
    expected = probability + (1 - probability) * brain
    # five standard deviations of a binomial
    assert abs(hits / 400 - expected) <= 5 * (expected * (1 - expected) / 400) ** 0.5 + 1e-9


@pytest.mark.slow
def test_a_patch_is_cut_from_its_volume(cases: list[Prepared]) -> None:
    patches = dataset(cases, transform=None)
    by_id = {case.id: case for case in cases}
    for index in range(12):
        item = patches[0, index]
        case = by_id[item["case"]]
        assert item["image"].shape == (3, *ROI) and item["image"].dtype == torch.float16
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(case.label), ROI)
        places = np.argwhere((windows == item["label"].numpy()).all(axis=(3, 4, 5)))
        cut = (case.image[:, *(slice(a, a + n) for a, n in zip(place, ROI, strict=True))] for place in places)
        assert any(np.array_equal(image, item["image"]) for image in cut)


def test_a_volume_smaller_than_the_patch_lies_in_its_middle(cases: list[Prepared]) -> None:
    item = dataset(cases, roi_size=(60, 50, 40), transform=None)[0, 0]
    case = next(case for case in cases if case.id == item["case"])
    inside = item["label"][12:48, 9:41, 6:34]  # crops are 36 x 32 x 28
    np.testing.assert_array_equal(inside, case.label)
    assert item["label"].sum() == inside.sum()
    assert item["image"][:, :12].abs().sum() == 0


def test_raw_patches_augmented_later_are_the_workers_patches(cases: list[Prepared]) -> None:
    transform = default_augmentation()
    later = BatchAugmentation(transform, roi_size=ROI)
    pairs = zip(loader(cases, transform=transform), loader(cases, transform=transform, raw=True), strict=True)
    for batch, raw in pairs:
        image, label = later(raw["image"], raw["label"], raw["seed"], raw["offset"])
        assert torch.equal(image.half(), batch["image"]) and torch.equal(label, batch["label"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("seen", [0, 1, 3, 5])
def test_goes_on_in_the_middle_of_an_epoch(cases: list[Prepared], seen: int, workers: int) -> None:
    reference = loader(cases)
    reference.sampler.set_epoch(1)
    batches = [batch["image"] for batch in reference]

    interrupted = loader(cases, workers=workers)
    interrupted.sampler.set_epoch(1)
    for count, _ in enumerate(interrupted, 1):
        if count >= seen:
            break
    state = interrupted.state_dict() if seen else {"epoch": 1, "batches": 0}

    resumed = loader(cases, workers=workers)
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(1)
    rest = [batch["image"] for batch in resumed]
    assert len(rest) == len(batches) - seen
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(rest, batches[seen:], strict=True))
    resumed.sampler.set_epoch(2)
    assert len(list(resumed)) == len(batches)


class Drawing(tio.Transform):  # type: ignore[misc]
    """A user's own transform, which draws from Python and NumPy."""

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        subject["image"].set_data(subject["image"].data + np.random.rand() + 10 * random.random())  # noqa: NPY002
        return subject


def test_labels_stay_classes(cases: list[Prepared]) -> None:
    for transform in (tio.RandomAffine(p=0.5), tio.RandomElasticDeformation(max_displacement=2), tio.RandomNoise()):
        patches = dataset(cases, transform=transform)
        assert {patches[0, index]["label"].dtype for index in range(6)} == {torch.uint8}
    between = tio.Lambda(lambda label: label + 0.5, types_to_apply=[tio.LABEL])
    with pytest.raises(ConfigError, match="labels between classes"):
        dataset(cases, transform=between)


def test_a_transform_of_torchio_changes_nothing_of_ours(cases: list[Prepared]) -> None:
    """After what moves voxels, a transform sees the patch and not what was read around it."""
    moving, still = RandomSpatial(degrees=40, p_affine=1e-9, flip_probability=0), tio.RandomGamma(p=0)
    contrast, field = RandomContrast(factor=(0.5, 0.5), p=1), RandomBiasField(coefficients=(0.5, 0.5), p=1)
    for ours in (contrast, field):
        alone = dataset(cases, transform=tio.Compose([moving, ours]))[0, 2]["image"]
        beside = dataset(cases, transform=tio.Compose([moving, ours, still]))[0, 2]["image"]
        plain = dataset(cases, transform=None)[0, 2]["image"]
        # the two ways draw in another order, but the parameters are the same numbers
        assert (beside - plain).abs().max() > 0.01
        assert torch.allclose(alone.float(), beside.float(), atol=4e-3)


def test_a_transform_that_draws_from_elsewhere_depends_on_the_key_alone(cases: list[Prepared]) -> None:
    state: Any = np.random.get_state
    before = random.getstate(), state()[1].tolist()
    one, again, other = (dataset(cases, transform=Drawing(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one[0, 3]["image"], again[0, 3]["image"])
    corners = [float(patches[0, index]["image"][0, 0, 0, 0]) for patches, index in ((one, 3), (one, 4), (other, 3))]
    assert len(set(corners)) == 3
    assert (random.getstate(), state()[1].tolist()) == before


def test_the_globally_seeded_generator_is_left_alone(cases: list[Prepared]) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for transform in (default_augmentation(), tio.RandomNoise()):
        dataset(cases, transform=transform)[0, 0]
    assert torch.equal(torch.get_rng_state(), before)


def test_read_box_beyond_the_volume() -> None:
    volume = torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    box = read_box(volume, (-1, 1, 0), (2, 2, 2), (0, 0, 1))
    assert box.shape == (1, 2, 2, 4)
    assert box[0, 1, 0].tolist() == [0, 3, 4, 0]
    assert box.sum() == 7
    assert read_box(volume, (5, 5, 5), (2, 2, 2)).sum() == 0


@pytest.mark.parametrize(("batch", "share", "expected"), [(2, 0.33, 1), (6, 0.5, 3), (4, 0.33, 1), (3, 0.9, 3)])
def test_every_balanced_batch_has_its_share_on_tumour(
    cases: list[Prepared], batch: int, share: float, expected: int
) -> None:
    """Expected is batch - round(batch (1 - share)), as in nnU-Net; which of a batch they are changes."""
    patches = dataset(cases, roi_size=(1, 1, 1), foreground=share, batch=batch, patches_per_epoch=12)
    patterns = set()
    for epoch in range(10):
        for first in range(0, 12, batch):
            chosen = [patches._foreground(epoch, index) for index in range(first, first + batch)]
            assert sum(map(bool, chosen)) == expected
            patterns.add(tuple(chosen))
            for index, wanted in enumerate(chosen, first):
                assert not wanted or dataset_label(patches, (epoch, index)) != BACKGROUND
    assert len(patterns) > 1 or expected == batch


@pytest.mark.parametrize(("batch", "share", "on"), [(1, 0.33, 0), (1, 0.5, 1), (2, 0.2, 0)])
def test_a_balanced_batch_that_cannot_have_its_share(cases: list[Prepared], batch: int, share: float, on: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"data\.balanced: .*={share}, {on} of the {batch} patches .* data\.batch_size"
    ):
        dataset(cases, foreground=share, batch=batch)
    dataset(cases, foreground=1.0, batch=batch)


@pytest.mark.parametrize(
    ("transform", "shown"),
    [
        (tio.CropOrPad(14), "3 x 14 x 12 x 14 and 1 x 14 x 12 x 14"),
        (tio.OneHot(num_classes=4), "and 4 x 16 x 12 x 20"),
    ],
    ids=["crop", "one-hot"],
)
def test_a_transform_that_leaves_no_patch(cases: list[Prepared], transform: tio.Transform, shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.augmentation: .*{shown} \(C X Y Z\) .*roi_size=\[16, 12, 20\]"):
        dataset(cases, transform=transform)


def dataset_label(patches: PatchDataset, key: tuple[int, int]) -> int:
    """The class of a patch of one voxel as it is in the file."""
    plain = PatchDataset(
        patches.cases, places=patches.places, patches_per_epoch=12, batch=patches.batch, seed=patches.seed
    )
    return int(plain[key]["label"])


def test_balanced_is_a_key(brats: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"roi_size": (8, 8, 8), "prepared_dir": tmp_path / "prepared", "num_workers": 0}
    for balanced, batch in ((True, 4), (False, None)):
        data = BratsDataModule(brats, batch_size=4, balanced=balanced, patches_per_epoch=8, **options)
        data.prepare_data()
        data.setup("fit")
        found = data.train_dataloader().dataset
        assert isinstance(found, PatchDataset) and found.batch == batch and found.places.equal_classes is balanced
