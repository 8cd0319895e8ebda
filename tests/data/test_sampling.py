"""How often cases and classes come up, against what the weights promise."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raum_lightning.cases.discovery import find_cases
from raum_lightning.data.sampling import CaseOrder, PatchPlaces, read_weights, weights_of
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.labels import CLASSES, ED, ET, NCR

DRAWS = 600


@pytest.fixture
def case(brats: Path, tmp_path: Path) -> Prepared:
    found = find_cases(brats)[0]
    prepare([found], tmp_path / "prepared", ["flair"])
    return Prepared.open(prepared_folder(found, tmp_path / "prepared", ["flair"]))


def sampled_classes(case: Prepared, weights: dict[str, float] | None) -> Counter[int]:
    """Classes of the centres of patches."""
    places = PatchPlaces((1, 1, 1), foreground_probability=1, class_weights=weights)
    label = np.asarray(case.label)
    rng = np.random.default_rng(0)
    return Counter(int(label[tuple(places(case, label.shape, rng))]) for _ in range(DRAWS))


@given(length=st.integers(1, 40), seed=st.integers(0, 1000), number=st.integers(0, 10**6))
def test_with_equal_weights_every_round_holds_each_case_once(length: int, seed: int, number: int) -> None:
    order = CaseOrder([0.3] * length, seed=seed)
    assert sorted(order(number * length + place) for place in range(length)) == list(range(length))


def test_rounds_differ() -> None:
    order = CaseOrder([1] * 8, seed=0)
    assert len({tuple(order(8 * number + place) for place in range(8)) for number in range(5)}) == 5


@pytest.mark.slow
@given(
    weights=st.lists(st.floats(0, 10), min_size=1, max_size=12).filter(lambda each: sum(each) > 0.1),
    seed=st.integers(0, 1000),
)
def test_every_round_holds_a_case_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    """Rounded up or down, and never one of weight 0."""
    length, order = len(weights), CaseOrder(weights, seed=seed)
    counts = Counter(order(place) for place in range(length))
    for case, weight in enumerate(weights):
        assert abs(counts[case] - length * weight / sum(weights)) < 1 + 1e-9
        assert weight > 0 or not counts[case]


def test_over_many_rounds_shares_are_those_of_the_weights() -> None:
    weights = [1, 2, 0.5, 0, 3.7]
    order = CaseOrder(weights, seed=1)
    counts = Counter(order(position) for position in range(5 * DRAWS))
    for case, weight in enumerate(weights):
        # a count is off by less than one per round, which averages out
        assert counts[case] == pytest.approx(5 * DRAWS * weight / sum(weights), abs=4 * DRAWS**0.5)


@pytest.mark.slow
def test_equal_classes_are_equally_likely_unless_weights_are_given(case: Prepared) -> None:
    label = np.asarray(case.label)
    for weights, shares in ((None, {NCR: 1 / 3, ED: 1 / 3, ET: 1 / 3}), ({"ET": 1}, {ET: 1})):
        places = PatchPlaces((1, 1, 1), foreground_probability=1, class_weights=weights, equal_classes=True)
        rng = np.random.default_rng(0)
        counts = Counter(int(label[tuple(places(case, label.shape, rng))]) for _ in range(DRAWS))
        for index in (NCR, ED, ET):
            assert counts[index] / DRAWS == pytest.approx(shares.get(index, 0), abs=0.06)


def test_without_class_weights_voxels_count(case: Prepared) -> None:
    assert case.tumour
    counts, voxels = sampled_classes(case, None), sum(case.tumour.values())
    assert min(case.tumour.values()) < 0.1 * voxels  # ET is rare
    for index, size in case.tumour.items():
        assert counts[index] / DRAWS == pytest.approx(size / voxels, abs=0.06)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"NCR": 1, "ED": 1, "ET": 1}, {NCR: 1 / 3, ED: 1 / 3, ET: 1 / 3}),
        ({"ET": 3, "ED": 1}, {ET: 0.75, ED: 0.25}),
        ({"ET": 1, "RC": 5}, {ET: 1}),  # the case has no RC
    ],
)
def test_class_weights_are_the_shares_of_the_classes_that_a_case_has(
    case: Prepared, weights: dict[str, float], shares: dict[int, float]
) -> None:
    counts = sampled_classes(case, weights)
    assert set(counts) == set(shares)
    for index, share in shares.items():
        # five standard deviations of a binomial
        assert counts[index] / DRAWS == pytest.approx(share, abs=5 * (share * (1 - share) / DRAWS) ** 0.5)


@pytest.mark.slow
def test_a_case_with_none_of_the_weighted_classes_is_sampled_from_as_without_weights(case: Prepared) -> None:
    assert sampled_classes(case, {"RC": 1}) == sampled_classes(case, None)


@pytest.mark.slow
def test_within_a_class_every_voxel_is_as_likely(case: Prepared) -> None:
    places = PatchPlaces((1, 1, 1), foreground_probability=1, class_weights={"ET": 1})
    rng = np.random.default_rng(0)
    counts = Counter(tuple(places(case, case.label.shape, rng)) for _ in range(4 * DRAWS))
    voxels = {tuple(voxel) for voxel in np.argwhere(np.asarray(case.label) == ET).tolist()}
    assert set(counts) == voxels
    mean = 4 * DRAWS / len(voxels)
    assert all(abs(count - mean) < 6 * mean**0.5 for count in counts.values())


def test_weights_of_cases_from_a_mapping_or_a_file(tmp_path: Path) -> None:
    cases, known, given = ["b", "a", "c"], {"a", "b", "c", "left out"}, {"a": 2, "b": 0.5, "left out": 7}
    (tmp_path / "weights.json").write_text(json.dumps(given))
    (tmp_path / "weights.yaml").write_text("a: 2\nb: 0.5\n")
    for source in (given, tmp_path / "weights.json", tmp_path / "weights.yaml"):
        assert weights_of(cases, read_weights(source), known) == [0.5, 2, 1]
    assert weights_of(cases, read_weights(None), known) == [1, 1, 1]
    (tmp_path / "numbers.yaml").write_text("12: 2\n")
    assert weights_of(["12", "13"], read_weights(tmp_path / "numbers.yaml"), {"12", "13"}) == [2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nd: 2\n", "names d, not among the cases of this run"),
        ("[1, 2", r"weights\.yaml: is not valid YAML"),
        ("[1, 2]", "must map ids of cases to numbers"),
        ("a: heavy", "gives a the weight heavy; it must be a number of at least 0"),
        ("a: -1", "gives a the weight -1"),
        ("a: .nan", "gives a the weight nan"),
        ("a: .inf", "gives a the weight inf"),
        ("a: 0", "is 0 for every training case"),
    ],
)
def test_a_wrong_file_of_weights_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        weights_of(["a"], read_weights(path), {"a"})
    with pytest.raises(ValueError, match=r"none\.yaml: no such file, named as data\.case_weights"):
        read_weights(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreground_probability": 1.5}, r"foreground_probability=1\.5 must be between 0 and 1"),
        ({"class_weights": {"WT": 1}}, f"names WT; give {', '.join(CLASSES[1:])}"),
        ({"class_weights": {"ET": 0}}, "one has to be above 0"),
        ({"class_weights": {"ET": 1, "ED": -1}}, "gives ED the weight -1"),
        ({"class_weights": {"ET": float("nan")}}, "gives ET the weight nan"),
    ],
)
def test_wrong_places(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchPlaces((1, 1, 1), **{"foreground_probability": 0.5} | options)
