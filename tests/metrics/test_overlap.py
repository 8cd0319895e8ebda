import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raum_lightning.labels import ED, ET, NCR, REGIONS
from raum_lightning.metrics.overlap import Overlap, confusion, overlap

labels = st.lists(st.integers(0, 4), min_size=24, max_size=24).map(lambda v: torch.tensor(v).view(2, 3, 4))


def test_a_table_of_two_small_masks() -> None:
    target = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3], dtype=torch.uint8).view(2, 2, 2)
    prediction = torch.tensor([0, 2, 1, 3, 2, 0, 3, 1], dtype=torch.uint8).view(2, 2, 2)
    table = confusion(prediction, target)
    assert table == [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0]]
    # WT: target voxels 2...7, prediction 1, 2, 3, 4, 6, 7
    assert overlap(table, REGIONS["WT"]) == Overlap(tp=5, fp=1, fn=1, tn=1)
    # TC: target voxels 2, 3, 6, 7, prediction the same, though NCR and ET are swapped twice
    assert overlap(table, (NCR, ET)) == Overlap(tp=4, fp=0, fn=0, tn=4)
    assert overlap(table, (ET,)) == Overlap(tp=1, fp=1, fn=1, tn=5)
    assert overlap(table, (ED,)) == Overlap(tp=1, fp=1, fn=1, tn=5)


def test_ratios_are_those_of_the_counts() -> None:
    counts = Overlap(tp=6, fp=2, fn=4, tn=18)
    assert counts.dice == 12 / 18
    assert counts.precision == 6 / 8
    assert counts.recall == 6 / 10
    assert counts.specificity == 18 / 20


@pytest.mark.parametrize(
    ("counts", "dice", "precision", "recall", "specificity"),
    [
        (Overlap(tp=0, fp=0, fn=0, tn=8), 1, 1, 1, 1),
        (Overlap(tp=0, fp=2, fn=0, tn=6), 0, 0, 0, 6 / 8),
        (Overlap(tp=0, fp=0, fn=2, tn=6), 0, 0, 0, 1),
        (Overlap(tp=0, fp=1, fn=2, tn=5), 0, 0, 0, 5 / 6),
        (Overlap(tp=8, fp=0, fn=0, tn=0), 1, 1, 1, 1),
        (Overlap(tp=6, fp=0, fn=2, tn=0), 12 / 14, 1, 6 / 8, 0),
    ],
    ids=["both empty", "empty reference", "empty prediction", "disjoint", "both full", "full reference"],
)
def test_ratios_without_a_denominator(
    counts: Overlap, dice: float, precision: float, recall: float, specificity: float
) -> None:
    assert (counts.dice, counts.precision, counts.recall, counts.specificity) == (dice, precision, recall, specificity)


@pytest.mark.slow
@given(prediction=labels, target=labels, members=st.sampled_from([*REGIONS.values(), (1,), (4,)]))
def test_counts_equal_those_of_boolean_masks(
    prediction: torch.Tensor, target: torch.Tensor, members: tuple[int, ...]
) -> None:
    guess, truth = (torch.isin(mask, torch.tensor(members)) for mask in (prediction, target))
    counts = overlap(confusion(prediction, target), members)
    assert counts == (
        int((guess & truth).sum()),
        int((guess & ~truth).sum()),
        int((~guess & truth).sum()),
        int((~guess & ~truth).sum()),
    )


@pytest.mark.slow
@given(first=labels, second=labels)
def test_dice_is_symmetric_and_precision_mirrors_recall(first: torch.Tensor, second: torch.Tensor) -> None:
    one, other = (overlap(confusion(*pair), (1, 3)) for pair in ((first, second), (second, first)))
    assert one.dice == other.dice
    assert one.precision == other.recall
    if one.precision + one.recall:  # F1: the harmonic mean of the two
        assert one.dice == pytest.approx(2 * one.precision * one.recall / (one.precision + one.recall))
