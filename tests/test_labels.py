import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raum_lightning.datasets import presets
from raum_lightning.errors import LabelError
from raum_lightning.labels import ED, ET, NCR, RC, classify, from_regions, to_regions


@pytest.mark.parametrize(
    ("dataset", "on_disk"),
    [
        ("brats2020", [0, 1, 2, 4]),
        ("brats2021", [0, 1, 2, 4]),
        ("brats2023", [0, 1, 2, 3]),
        ("msd-task01", [0, 2, 1, 3]),
        ("brats2024", [0, 1, 2, 3, 4]),
    ],
)
def test_values_on_disk_of_each_data_set(dataset: str, on_disk: list[int]) -> None:
    indices = np.array([0, NCR, ED, ET, RC][: len(on_disk)])
    np.testing.assert_array_equal(presets()[dataset].encode(np.array(on_disk, np.float32)), indices)
    np.testing.assert_array_equal(presets()[dataset].decode(indices), on_disk)
    assert presets()[dataset].num_classes == len(on_disk)


def test_label_4_of_2023_names_is_never_taken_for_et() -> None:
    with pytest.raises(LabelError, match=r"label 4 .* 4 is ET in brats2020, 4 is RC in brats2024 and brats2025"):
        presets()["brats2023"].encode(np.array([0, 4]))


@pytest.mark.parametrize(
    ("dataset", "value"),
    [("brats2020", 3), ("brats2020", 0.5), ("brats2020", 1.0019999742507935), ("msd-task01", 4), ("brats2023", -1)],
)
def test_a_value_the_data_set_lacks_is_named(dataset: str, value: float) -> None:
    with pytest.raises(LabelError, match=f"label {value} is not one of {dataset}"):
        presets()[dataset].encode(np.array([0, 1, value]))


def test_regions_are_nested_sums_of_classes() -> None:
    labels = torch.tensor([0, NCR, ED, ET, RC]).view(1, 5, 1, 1)
    expected = {"WT": [0, 1, 1, 1, 0], "TC": [0, 1, 0, 1, 0], "ET": [0, 0, 0, 1, 0]}
    assert to_regions(labels)[0, :, :, 0, 0].int().tolist() == list(expected.values())


@given(st.lists(st.sampled_from([0, NCR, ED, ET]), min_size=1, max_size=30))
def test_regions_there_and_back(values: list[int]) -> None:
    labels = torch.tensor(values, dtype=torch.uint8).view(1, -1, 1, 1)
    assert torch.equal(from_regions(to_regions(labels)), labels)


def test_classify_takes_the_largest_channel_or_the_positive_regions() -> None:
    logits = torch.tensor([[0.1, 2.0, -1.0], [1.2, 1.0, -2.0], [-0.5, -1.0, 3.0]]).T.reshape(1, 3, 3, 1, 1)
    assert classify(logits, "labels").flatten().tolist() == [1, 0, 2]
    # voxel 0: WT and TC; voxel 1: WT; voxel 2: ET alone, the innermost region wins
    regions = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]]).T.reshape(1, 3, 3, 1, 1)
    assert classify(regions, "regions").flatten().tolist() == [NCR, ED, ET]
