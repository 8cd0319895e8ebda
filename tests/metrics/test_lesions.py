"""Lesion-wise scores on cases built by hand, each with its arithmetic, and against the rules written out plainly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from raum_lightning.metrics import RULES
from raum_lightning.metrics.surface import Mask, hd95
from tests.helpers.pairs import scores_of

ISOTROPIC = (1.0, 1.0, 1.0)
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def draw(*boxes: Box) -> Mask:
    mask = np.zeros((48, 24, 24), bool)
    for box in boxes:
        mask[tuple(slice(*extent) for extent in box)] = True
    return mask


CUBE = ((4, 8), (4, 8), (4, 8))  # 64 voxels
FAR = ((36, 40), (16, 20), (16, 20))  # 64 voxels, out of reach
SPECK = ((42, 43), (2, 3), (2, 3))  # 1 voxel, out of reach
FIFTY = ((20, 25), (4, 9), (14, 16))  # 5 * 5 * 2 = 50 voxels
ONE_MORE = ((25, 26), (4, 5), (14, 15))  # touches it: 51
SIX_APART = ((14, 18), (4, 8), (4, 8))  # both grow by 3 towards each other: no gap is left between it and the cube
SEVEN_APART = ((15, 19), (4, 8), (4, 8))  # one voxel is left
BAR = ((4, 19), (4, 8), (4, 8))  # from the cube to the end of SEVEN_APART: 15 * 16 = 240 voxels
NEAR = ((10, 14), (4, 8), (4, 8))  # no voxel in common with the cube, but with the dilated one

CASES = {
    "perfect": (draw(CUBE, FAR), draw(CUBE, FAR), 1, 0),
    "both empty": (draw(), draw(), 1, 0),
    # two missed lesions
    "empty prediction": (draw(), draw(CUBE, FAR), 0, 374),
    # two false positives
    "empty reference": (draw(CUBE, SPECK), draw(), 0, 374),
    # (1 + 0) / 2 and (0 + 374) / 2
    "one missed lesion": (draw(CUBE), draw(CUBE, FAR), 1 / 2, 187),
    # the same, from one false component
    "one false positive": (draw(CUBE, FAR), draw(CUBE), 1 / 2, 187),
    # however small: (1 + 0 + 0) / 3 and (0 + 374 + 374) / 3
    "false positive of one voxel": (draw(CUBE, FAR, SPECK), draw(CUBE), 1 / 3, 748 / 3),
    # one missed and one false: (1 + 0 + 0) / 3
    "missed and false": (draw(CUBE, SPECK), draw(CUBE, FAR), 1 / 3, 748 / 3),
    # 50 voxels do not count, missed or found
    "50 voxels missed": (draw(CUBE), draw(CUBE, FIFTY), 1, 0),
    "50 voxels found": (draw(CUBE, FIFTY), draw(CUBE, FIFTY), 1, 0),
    "only 50 voxels, missed": (draw(), draw(FIFTY), 1, 0),
    "only 50 voxels, beside a false positive": (draw(FAR), draw(FIFTY), 0, 374),
    "51 voxels missed": (draw(CUBE), draw(CUBE, FIFTY, ONE_MORE), 1 / 2, 187),
    # one lesion of 128 voxels of which 64 are found: 2 * 64 / (128 + 64). The far end of the missed cube is 10 mm from
    # the found one and holds 9 + 12 * sqrt(1/2) / 2 + 4 * sqrt(3) / 8, more than 5 % of the area
    "two lesions merged by dilation": (draw(CUBE), draw(CUBE, SIX_APART), 2 / 3, 10),
    # two lesions, one found and one missed
    "two lesions a voxel too far to merge": (draw(CUBE), draw(CUBE, SEVEN_APART), 1 / 2, 187),
    # the bar is the prediction for either lesion: 2 * 64 / (64 + 240) twice; its far end is 11 mm from each cube
    "one component over two lesions": (draw(BAR), draw(CUBE, SEVEN_APART), 128 / 304, 11),
    # two components are one prediction: 2 * 64 / (64 + 128); the far end of the second is 6 mm away
    "two components for one lesion": (draw(CUBE, NEAR), draw(CUBE), 2 / 3, 6),
    # found, although nothing overlaps: Dice 0, but the distance of cubes shifted by 6 mm, and no false positive
    "beside the lesion": (draw(NEAR), draw(CUBE), 0, 6),
}


def by_lesion(
    prediction: Mask, target: Mask, spacing: tuple[float, float, float] = ISOTROPIC, rules: str = "brats2023"
) -> tuple[float, float]:
    """Lesion-wise Dice and HD95 by rules of 2023."""
    found = scores_of(prediction, target, "lesion_dice", "lesion_hd95", spacing=spacing, rules=RULES[rules])
    return found["lesion_dice"], found["lesion_hd95"]


@pytest.mark.parametrize(("prediction", "target", "dice", "distance"), CASES.values(), ids=CASES.keys())
def test_cases_built_by_hand(prediction: Mask, target: Mask, dice: float, distance: float) -> None:
    assert by_lesion(prediction, target) == pytest.approx((dice, distance))


def test_small_is_meant_in_mm() -> None:
    # 64 voxels of 0.78125 mm³ are 50 mm³
    assert by_lesion(draw(), draw(CUBE), (1.0, 1.0, 0.78125))[0] == 1
    assert by_lesion(draw(), draw(CUBE), (1.0, 1.0, 0.79))[0] == 0


def test_distance_is_in_mm() -> None:
    # 10 voxels of 2 mm, see above
    assert by_lesion(draw(CUBE), draw(CUBE, SIX_APART), (2.0, 1.0, 1.0))[1] == pytest.approx(20)


LARGE = ((4, 9), (4, 9), (4, 9))  # 125 voxels
SMALL = ((36, 39), (16, 19), (16, 19))  # 27 voxels, out of reach
TOUCHING = ((8, 12), (4, 8), (4, 8))  # within one dilation of the cube, without a voxel in common
ONE_APART = ((9, 13), (4, 8), (4, 8))  # beyond it
THREE_APART = ((11, 15), (4, 8), (4, 8))  # both grow by 1 towards each other, and one voxel is left
FOUR_APART = ((12, 16), (4, 8), (4, 8))
TWO_VOXELS = ((42, 44), (2, 3), (2, 3))
THREE_VOXELS = ((42, 45), (2, 3), (2, 3))
GLIOMA, MENINGIOMA, METASTASES = OF_2023 = "brats2023", "brats2023-men", "brats2023-met"


@pytest.mark.parametrize(
    ("rules", "prediction", "target", "dice", "missed"),
    [
        # the lesion of 27 mm³ counts among metastases alone: (1 + 0) / 2
        (METASTASES, draw(LARGE), draw(LARGE, SMALL), 1 / 2, 1),
        (MENINGIOMA, draw(LARGE), draw(LARGE, SMALL), 1, 0),
        (GLIOMA, draw(LARGE), draw(LARGE, SMALL), 1, 0),
        # two lesions, or one of 128 voxels of which 64 are found
        (METASTASES, draw(CUBE), draw(CUBE, FOUR_APART), 1 / 2, 1),
        (MENINGIOMA, draw(CUBE), draw(CUBE, FOUR_APART), 1 / 2, 1),
        (GLIOMA, draw(CUBE), draw(CUBE, FOUR_APART), 2 / 3, 0),
        # the last gap at which there are two, and the first at which there is one: 2 voxels to the cube NEAR
        (METASTASES, draw(CUBE), draw(CUBE, THREE_APART), 1 / 2, 1),
        (METASTASES, draw(CUBE), draw(CUBE, NEAR), 2 / 3, 0),
        (MENINGIOMA, draw(CUBE), draw(CUBE, NEAR), 2 / 3, 0),
        # 2 mm³ are left out and 3 count, and for meningioma 50 and 51
        (METASTASES, draw(CUBE), draw(CUBE, TWO_VOXELS), 1, 0),
        (METASTASES, draw(CUBE), draw(CUBE, THREE_VOXELS), 1 / 2, 1),
        (MENINGIOMA, draw(CUBE), draw(CUBE, FIFTY), 1, 0),
        (MENINGIOMA, draw(CUBE), draw(CUBE, FIFTY, ONE_MORE), 1 / 2, 1),
        # found, though with Dice 0; one voxel farther it is missed, and what was predicted is false
        (METASTASES, draw(TOUCHING), draw(CUBE), 0, 0),
        (METASTASES, draw(ONE_APART), draw(CUBE), 0, 1),
        (GLIOMA, draw(ONE_APART), draw(CUBE), 0, 0),
    ],
)
def test_meningioma_and_metastases_have_parameters_of_their_own(
    rules: str, prediction: Mask, target: Mask, dice: float, missed: int
) -> None:
    found = scores_of(prediction, target, "lesion_dice", "lesion_fn", rules=RULES[rules])
    assert found == {"lesion_dice": pytest.approx(dice), "lesion_fn": missed}


def test_small_metastases_are_meant_in_mm() -> None:
    # 3 voxels: 1.875 mm³ and 2.25 mm³
    assert by_lesion(draw(), draw(THREE_VOXELS), (1.0, 1.0, 0.625), METASTASES) == (1, 0)
    assert by_lesion(draw(), draw(THREE_VOXELS), (1.0, 1.0, 0.75), METASTASES) == (0, 374)


# dilations, and mm³ up to which lesions are left out, of BraTS-GLI, -MEN and -MET in the organisers' script
PARAMETERS = {GLIOMA: (3, 50), MENINGIOMA: (1, 50), METASTASES: (1, 2)}


def plain_formula(prediction: Mask, target: Mask, dilations: int, small: int) -> tuple[float, float]:
    """The rules as they are told, on the whole grid, one lesion after the other."""
    around, any_neighbour = ndimage.generate_binary_structure(3, 2), np.ones((3, 3, 3))
    components, found = ndimage.label(prediction, any_neighbour)
    groups, lesions = ndimage.label(ndimage.binary_dilation(target, around, iterations=dilations), any_neighbour)
    matched: set[int] = set()
    dices, distances = [], []
    for lesion in range(1, lesions + 1):
        truth = target & (groups == lesion)
        reach = ndimage.binary_dilation(truth, around, iterations=dilations)
        touched = set(components[reach & prediction].tolist())
        matched |= touched
        guess = np.isin(components, list(touched))
        if truth.sum() > small:
            dices.append(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))
            distances.append(hd95(guess, truth, ISOTROPIC, missed=374))
    false = found - len(matched)
    if not dices and not false:
        return 1, 0
    return sum(dices) / (len(dices) + false), (sum(distances) + 374 * false) / (len(dices) + false)


@st.composite
def boxes(draw: st.DrawFn) -> Mask:
    mask = np.zeros((30, 20, 10), bool)
    for _ in range(draw(st.integers(0, 5))):
        low = [draw(st.integers(0, size - 1)) for size in mask.shape]
        mask[tuple(slice(start, start + draw(st.integers(1, 6))) for start in low)] = True
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("rules", OF_2023)
@settings(max_examples=60)
@given(prediction=boxes(), target=boxes())
def test_equals_a_plain_formula_of_the_rules(rules: str, prediction: Mask, target: Mask) -> None:
    expected = plain_formula(prediction, target, *PARAMETERS[rules])
    assert by_lesion(prediction, target, rules=rules) == pytest.approx(expected)


ACROSS = ((6, 12), (4, 8), (4, 8))  # 96 voxels, 32 of the cube and 32 of NEAR


@pytest.mark.parametrize(
    ("prediction", "target", "counts", "dice"),
    [
        # one component cannot be the partner of two lesions: that with the larger Dice, or, where equal, the first
        (draw(ACROSS), draw(CUBE, NEAR), (1, 0, 1), 2 * 32 / (96 + 64)),
        (draw(CUBE, NEAR), draw(ACROSS), (1, 1, 0), 2 * 32 / (96 + 64)),
        (draw(CUBE, FAR), draw(CUBE), (1, 1, 0), 1),
        (draw(FAR), draw(CUBE), (0, 1, 1), 0),
        (draw(), draw(CUBE, FAR), (0, 0, 2), 0),
        (draw(SPECK), draw(), (0, 1, 0), 0),
    ],
    ids=["over two lesions", "two for one", "one false", "beside", "two missed", "only a false one"],
)
def test_one_to_one_by_hand(prediction: Mask, target: Mask, counts: tuple[int, int, int], dice: float) -> None:
    kinds = ("lesion_tp", "lesion_fp", "lesion_fn")
    found = scores_of(prediction, target, *kinds, "lesion_dice", rules=RULES["brats2026"])
    assert tuple(found[kind] for kind in kinds) == counts
    assert found["lesion_dice"] == pytest.approx(dice)


def test_the_sum_of_dice_decides_a_matching() -> None:
    # the greedy choice takes the bar of 12 for the lesion of 10 (Dice 20/22) and leaves the lesion of 30 to nobody;
    # the best sum pairs the bar with the lesion of 30 (4/42) only where that adds more, which it does not here
    lesion, larger = ((0, 10), (0, 1), (0, 1)), ((12, 42), (0, 1), (0, 1))
    bar, other = ((0, 14), (0, 1), (0, 1)), ((16, 42), (0, 1), (0, 1))
    found = scores_of(draw(bar, other), draw(lesion, larger), "lesion_dice", "lesion_tp", rules=RULES["brats2026"])
    assert found == {"lesion_dice": pytest.approx((20 / 24 + 52 / 56) / 2), "lesion_tp": 2}


def test_f1_by_size_of_the_lesion() -> None:
    # of 1,000 mm³ a voxel: a lesion of 64 ml is found, one of 10 ml missed, a component of 1 ml is false
    ten = ((20, 25), (4, 6), (4, 5))
    sizes = ("lesion_f1_small", "lesion_f1_medium", "lesion_f1_large", "lesion_f1")
    found = scores_of(draw(CUBE, SPECK), draw(CUBE, ten), *sizes, spacing=(10.0, 10.0, 10.0), rules=RULES["brats2026"])
    assert np.isnan(found.pop("lesion_f1_small"))
    assert found == {"lesion_f1_medium": 0, "lesion_f1_large": 1, "lesion_f1": 2 / 4}
