"""Batches in shared memory that is used again: they are torch's, and nobody sees one change."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from raum_lightning.data.patches import PatchLoader, PatchSampler
from raum_lightning.data.transport import PLACES, SharedBatches

LENGTH = 61  # samples, in batches of two: the last has one


class Numbers(Dataset[dict[str, Any]]):
    """Samples that hold their key, in as many shapes as wanted, one for each batch in turn."""

    raw = False

    def __init__(self, shapes: Sequence[tuple[int, ...]] = ((3, 4, 5, 6),)) -> None:
        self.shapes = shapes

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        image = torch.full(self.shapes[index // 2 % len(self.shapes)], 1000 * epoch + index, dtype=torch.float16)
        return {"image": image, "label": image[0].to(torch.uint8), "case": f"case {index}", "seed": index}


def loader(numbers: Numbers | None = None, *, workers: int = 2, **loading: Any) -> PatchLoader:
    patches: Any = numbers or Numbers()
    return PatchLoader(patches, PatchSampler(LENGTH), batch_size=2, num_workers=workers, **loading)


def batch_of(index: int, epoch: int = 0, numbers: Numbers | None = None) -> dict[str, Any]:
    samples = numbers or Numbers()
    return default_collate([samples[epoch, 2 * index + i] for i in range(2) if 2 * index + i < LENGTH])


def assert_same(batch: dict[str, Any], expected: dict[str, Any]) -> None:
    assert batch["case"] == expected["case"]
    assert batch.keys() == expected.keys()
    for key in ("image", "label", "seed"):
        torch.testing.assert_close(batch[key], expected[key], rtol=0, atol=0)


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where the batches came in, None for those that have memory of their own."""
    seen: list[Any] = []
    receive = SharedBatches.receive

    def noted(self: SharedBatches, batch: dict[str, Any]) -> dict[str, Any]:
        seen.append(batch.get("place"))
        return receive(self, batch)

    monkeypatch.setattr(SharedBatches, "receive", noted)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_batches_are_those_of_torch_and_memory_is_used_again(context: str, places: list[Any]) -> None:
    for index, batch in enumerate(loader(multiprocessing_context=context)):
        assert_same(batch, batch_of(index))
    assert index == LENGTH // 2
    assert None not in places
    assert len(set(places)) <= 2 * PLACES < len(places)


def test_whoever_keeps_batches_sees_none_change(places: list[Any]) -> None:
    kept = list(loader())
    assert None in places, "there was no memory left"
    for index, batch in enumerate(kept):
        assert_same(batch, batch_of(index))


def test_a_view_of_a_part_of_a_batch_is_enough_to_keep_it(places: list[Any]) -> None:
    parts = []
    for index, batch in enumerate(loader()):
        if index % 5 == 0:
            parts.append(batch["label"][0, 1:, ::2].numpy())
        del batch
    for number, part in enumerate(parts):
        assert (part == 10 * number).all()
    assert len(set(places)) < len(places)


@pytest.mark.slow
def test_what_an_abandoned_epoch_made_is_free_again_and_what_is_kept_is_not(places: list[Any]) -> None:
    patches = loader()
    kept, passes = [], []
    for epoch in range(6):
        patches.sampler.set_epoch(epoch)
        passes.append(iter(patches))  # none of them comes to its end
        batches = [next(passes[-1]) for _ in range(5)]
        for index, batch in enumerate(batches):
            assert_same(batch, batch_of(index, epoch))
        kept.append(batches[-1])
    for epoch, batch in enumerate(kept):
        assert_same(batch, batch_of(4, epoch))
    del kept, batches, batch, passes
    for _ in patches:  # workers may still have been at work for the epoch before when this one began
        places.clear()
    for _ in patches:
        pass
    assert None not in places


def test_shapes_may_change_from_batch_to_batch(places: list[Any]) -> None:
    numbers = Numbers([(2, 3, 3, 3), (2, 5, 1, 7), (1, 2, 2, 2)])
    for index, batch in enumerate(loader(numbers)):
        assert_same(batch, batch_of(index, numbers=numbers))
    assert None not in places


def test_without_workers_it_is_torchs(places: list[Any]) -> None:
    for index, batch in enumerate(loader(workers=0)):
        assert_same(batch, batch_of(index))
    assert set(places) == {None}
