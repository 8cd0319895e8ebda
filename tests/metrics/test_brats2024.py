"""Scores of BraTS 2024 against a slow, literal reading of the organisers' script, tissue by tissue and step by step.

The steps are those of `metrics_GLI.py` of github.com/rachitsaluja/BraTS-2024-Metrics, as of its last version. The
script hands the whole-image HD95 masks of lesion numbers, which `surface-distance` refuses; they are made boolean here.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, distance_transform_edt, generate_binary_structure, label

from raum_lightning.labels import CLASSES, ED, ET, NCR, RC
from raum_lightning.metrics import RULES, score
from raum_lightning.metrics.surface import hd95
from tests.helpers.pairs import Labels, blob, predicted, same, tumour

TISSUES = {"WT": (1, 2, 3), "TC": (1, 3), "NETC": (1,), "SNFH": (2,), "ET": (3,), "RC": (4,)}
OTHERS = {"NETC": ("ET", "RC"), "ET": ("NETC", "RC"), "RC": ("ET", "NETC"), "SNFH": ("ET", "RC", "NETC")}
NEIGHBOURS, ANY = generate_binary_structure(3, 2), np.ones((3, 3, 3))
SHAPE = (44, 36, 30)
Numbers = NDArray[np.int64]


def dilations(tissue: str) -> int:
    return 5 if tissue in ("SFNH", "NETC", "RC") else 3


def threshold(tissue: str) -> int:
    return 10 if tissue == "ET" else 20


def joined_by_dilation(mask: NDArray[np.bool_], tissue: str) -> Numbers:
    numbers, _ = label(binary_dilation(mask, NEIGHBOURS, iterations=dilations(tissue)), ANY)
    return np.where(mask, numbers, 0).astype(np.int64)


def without_small(numbers: Numbers, tissue: str) -> Numbers:
    values, counts = np.unique(numbers, return_counts=True)
    return np.where(np.isin(numbers, values[counts <= threshold(tissue)]), 0, numbers)


def touching(one: Numbers, other: Numbers) -> list[tuple[int, int]]:
    pairs = []
    for a in np.unique(one)[1:].tolist():
        around = binary_dilation(one == a, NEIGHBOURS)
        for b in np.unique(other)[1:].tolist():
            beside = binary_dilation(other == b, NEIGHBOURS)
            if (around & (other == b)).any() or (beside & (one == a)).any():
                pairs.append((a, b))
    return sorted(pairs)


def joined_by_touch(numbers: Numbers, other: Numbers) -> Numbers:
    pairs = touching(numbers, other)
    if len(pairs) <= 1:
        return numbers
    fresh, new = int(numbers.max()) + 1, {}
    for _, common in pairs:
        if common not in new:
            new[common] = fresh
            fresh += 1
    relabelled, done = numbers.copy(), set()
    for own, common in pairs:
        if own not in done:
            relabelled[numbers == own] = new[common]
            done.add(own)
    return relabelled


def lesion_numbers(labels: Labels, predicted: bool) -> dict[str, Numbers]:
    single = {}
    for tissue, values in TISSUES.items():
        single[tissue] = joined_by_dilation(np.isin(labels, values), tissue)
        if predicted:
            single[tissue] = without_small(single[tissue], tissue)
    combined = dict(single)
    for tissue, others in OTHERS.items():
        for other in others:
            combined[tissue] = joined_by_touch(combined[tissue], single[other])
    return combined


def border_distances(own: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
    borders = [mask ^ binary_erosion(mask, generate_binary_structure(3, 1)) for mask in (own, other)]
    distances: NDArray[np.float64] = distance_transform_edt(~borders[1])[borders[0]]
    return distances


def nsd(guess: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float) -> float:
    if not guess.any() or not truth.any():
        return float(guess.any() == truth.any())
    there, back = border_distances(guess, truth), border_distances(truth, guess)
    tp = [(d <= tolerance).sum() / len(d) for d in (there, back)]
    wrong = [(d > tolerance).sum() / len(d) for d in (there, back)]
    return float(sum(tp) / (sum(tp) + sum(wrong) + 1e-8))


def dice(guess: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))


def literal_scores(guesses: Numbers, truths: Numbers, tissue: str) -> dict[str, float]:
    guess, truth = guesses > 0, truths > 0
    empty = not guess.any() and not truth.any()
    found = {
        "dice": 1.0 if empty else dice(guess, truth),
        "hd95": 0.0 if empty else hd95(guess, truth, (1, 1, 1), missed=337),
        "nsd_05": nsd(guess, truth, 0.5),
        "nsd_10": nsd(guess, truth, 1.0),
    }
    rows, true_positives, tp, fn = [], [], 0, 0
    for number in np.unique(truths)[1:] if truth.any() else ():
        lesion = truths == number
        reach = binary_dilation(lesion, NEIGHBOURS, iterations=dilations(tissue))
        partners = np.unique(guesses[reach & guess])
        true_positives += partners.tolist()
        part = np.isin(guesses, partners) & guess
        if lesion.sum() <= threshold(tissue):
            continue
        tp, fn = tp + bool(len(partners)), fn + (not len(partners))
        distance = hd95(part, lesion, (1, 1, 1), missed=337)
        rows.append((dice(part, lesion), distance, nsd(part, lesion, 0.5), nsd(part, lesion, 1.0)))
    fp = len(set(np.unique(guesses[guess]).tolist()) - set(true_positives))
    count = len(rows) + fp
    for column, (name, absent, penalty) in enumerate(
        (("dice", 1, 0), ("hd95", 0, 337), ("nsd_05", 1, 0), ("nsd_10", 1, 0))
    ):
        total = sum(row[column] for row in rows) + penalty * fp
        found[f"lesion_{name}"] = total / count if count else absent
    return found | {"lesion_tp": tp, "lesion_fp": fp, "lesion_fn": fn}


VOLUME = ("dice", "hd95", "nsd_05", "nsd_10")
METRICS = (*VOLUME, *(f"lesion_{name}" for name in (*VOLUME, "tp", "fp", "fn")))


def box(labels: Labels, value: int, corner: tuple[int, int, int], size: tuple[int, int, int]) -> None:
    labels[tuple(slice(start, start + extent) for start, extent in zip(corner, size, strict=True))] = value


def built() -> dict[str, tuple[Labels, Labels]]:
    """Pairs by what is peculiar about them: prediction and reference."""
    empty = np.zeros(SHAPE, np.uint8)
    pairs = {"both empty": (empty, empty)}
    lesion = empty.copy()
    for value, radius in ((ED, 8), (ET, 6), (NCR, 3)):
        lesion[blob(SHAPE, (14, 16, 15), radius)] = value
    pairs["perfect"] = (lesion, lesion)
    pairs["empty prediction"] = (empty, lesion)
    pairs["empty reference"] = (lesion, empty)
    cavity = lesion.copy()
    cavity[blob(SHAPE, (14, 16, 15), 3)] = RC
    pairs["cavity instead of necrosis"] = (cavity, lesion)
    pairs["cavity missed"] = (lesion, cavity)
    for name, size in (("7 voxels", (7, 1, 1)), ("10 voxels", (5, 2, 1)), ("12 voxels", (3, 2, 2))):
        small = lesion.copy()
        box(small, ET, (32, 28, 22), size)
        pairs[f"{name} false"], pairs[f"{name} missed"] = (small, lesion), (lesion, small)
    for name, size in (("20 voxels", (5, 2, 2)), ("33 voxels", (11, 3, 1))):
        larger = lesion.copy()
        box(larger, NCR, (31, 28, 22), size)
        pairs[f"{name} false"], pairs[f"{name} missed"] = (larger, lesion), (lesion, larger)
    two, bridge = empty.copy(), empty.copy()
    for corner in ((4, 6, 6), (22, 6, 6)):
        box(two, ET, corner, (8, 8, 8))
    box(bridge, ET, (4, 6, 6), (26, 8, 8))
    pairs["two merged into one"], pairs["one split in two"] = (bridge, two), (two, bridge)
    # two enhancing lesions out of each other's reach that touch the same necrosis are one
    tissue = two.copy()
    box(tissue, NCR, (12, 6, 6), (10, 4, 4))
    pairs["joined by necrosis"], pairs["joined in the prediction"] = (two, tissue), (tissue, two)
    chain = tissue.copy()
    box(chain, RC, (4, 14, 6), (3, 6, 6))
    box(chain, RC, (26, 14, 6), (3, 6, 6))
    box(chain, ED, (30, 6, 6), (6, 4, 4))
    pairs["joined by a chain of tissues"] = (chain, tissue)
    pairs["chain in the reference"] = (np.roll(tissue, 1, axis=1), chain)
    return pairs


def random_pair(seed: int) -> tuple[Labels, Labels]:
    rng = np.random.default_rng(seed)
    target = tumour(rng, (30, 26, 22), lesions=int(rng.integers(2, 5)), cavity=seed % 3 > 0)
    return predicted(rng, target), target


BUILT = built()
CASES: dict[str, Callable[[], tuple[Labels, Labels]]] = {
    **{name: (lambda pair=pair: pair) for name, pair in BUILT.items()},  # type: ignore[misc]
    **{f"random {seed}": (lambda seed=seed: random_pair(seed)) for seed in range(8)},  # type: ignore[misc]
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equals_the_organisers_steps(name: str) -> None:
    prediction, target = CASES[name]()
    masks = torch.from_numpy(prediction), torch.from_numpy(target)
    ours = score(*masks, metrics=METRICS, spacing=(1, 1, 1), rules=RULES["brats2024"], regions=TISSUES)
    guesses, truths = lesion_numbers(prediction, True), lesion_numbers(target, False)
    for tissue in TISSUES:
        expected = literal_scores(guesses[tissue], truths[tissue], tissue)
        found = {metric: ours[f"{metric}_{tissue.lower()}"] for metric in METRICS}
        assert all(same(found[metric], expected[metric]) for metric in METRICS), (tissue, found, expected)


@pytest.mark.slow
def test_the_pairs_are_what_they_are_named_for() -> None:
    """What each was built for makes a difference: otherwise the parity above would show nothing."""
    regions = {"NETC": (NCR,), "ET": (ET,), "RC": (RC,)}

    def lesions(name: str, tissue: str) -> tuple[float, ...]:
        masks = (torch.from_numpy(mask) for mask in BUILT[name])
        kinds = ("lesion_tp", "lesion_fp", "lesion_fn")
        found = score(*masks, metrics=kinds, spacing=(1, 1, 1), rules=RULES["brats2024"], regions=regions)
        return tuple(found[f"{kind}_{tissue}"] for kind in kinds)

    # 10 voxels of ET are left out on either side, 12 are not; 20 of NETC are, 33 are not
    for name, counted in (("7", 0), ("10", 0), ("12", 1)):
        assert lesions(f"{name} voxels false", "et") == (1, counted, 0)
        assert lesions(f"{name} voxels missed", "et") == (1, 0, counted)
    for name, counted in (("20", 0), ("33", 1)):
        assert lesions(f"{name} voxels false", "netc") == (1, counted, 0)
        assert lesions(f"{name} voxels missed", "netc") == (1, 0, counted)
    # the lesions are 10 voxels apart: two, unless another tissue touches both
    assert lesions("two merged into one", "et") == (2, 0, 0)
    assert lesions("joined by necrosis", "et") == (1, 0, 0)
    assert lesions("cavity missed", "rc") == (0, 0, 1)


def test_tissues_are_told_by_name() -> None:
    """In a data set that lists ET first, ET has the reach and the smallest volume of ET."""
    rules = RULES["brats2024"].of(("background", "ET", "SNFH", "NCR"))
    assert [rules.reach_in((index,)) for index in (1, 2, 3)] == [3, 3, 5]
    assert [rules.small_in((index,)) for index in (1, 2, 3)] == [10, 20, 20]
    assert rules.joins == {(3,): ((1,),), (1,): ((3,),)}
    assert RULES["brats2024"].of(("background", "NCR", "ED", "ET")) is RULES["brats2024"]
    order = np.array([0, 3, 2, 1, 4], np.uint8)
    for name in ("joined by necrosis", "10 voxels false", "20 voxels missed"):
        there, here = (
            score(
                *(torch.from_numpy(table[mask]) for mask in BUILT[name]),
                metrics=METRICS,
                spacing=(1, 1, 1),
                rules=RULES["brats2024"].of([CLASSES[index] for index in table]),
                regions={"ET": (int(table[ET]),), "NETC": (int(table[NCR]),)},
            )
            for table in (np.arange(5, dtype=np.uint8), order)
        )
        assert all(same(here[metric], there[metric]) for metric in there)
