"""HD95 against closed forms, numbers of the reference implementation, and a computation by brute force."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from raum_lightning.metrics import RULES
from raum_lightning.metrics import surface as module
from raum_lightning.metrics.surface import Mask, border_distances, element_distances, hd95, surface, surfel_areas

ISOTROPIC = (1.0, 1.0, 1.0)
spacings = st.sampled_from([ISOTROPIC, (1.0, 2.0, 3.0), (0.5, 0.9, 2.5)])


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, int, int] = (6, 5, 4)) -> Mask:
    """A few boxes with some voxels flipped: solid parts, thin parts and specks, at the edges too."""
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(1, 3))):
        low = [draw(st.integers(0, size - 1)) for size in shape]
        mask[tuple(slice(start, start + draw(st.integers(1, 4))) for start in low)] = True
    flips = draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in shape)), max_size=6))
    for voxel in flips:
        mask[voxel] ^= True
    assume(mask.any())
    return mask


def ellipsoid(centre: tuple[int, int, int], radii: tuple[int, int, int]) -> Mask:
    grid = np.indices((24, 24, 20)).astype(float)
    return sum(((grid[i] - centre[i]) / radii[i]) ** 2 for i in range(3)) <= 1


def stripes(factors: tuple[int, int, int], period: int) -> Mask:
    grid = np.indices((14, 12, 10))
    return sum(grid[i] * factors[i] for i in range(3)) % period < 2


LESION = ellipsoid((10, 11, 9), (7, 5, 6))
SHAPES = {
    "shifted": (LESION, ellipsoid((12, 12, 9), (5, 6, 4))),
    "stray": (LESION, LESION | ellipsoid((21, 20, 16), (2, 2, 2))),
    "scattered": (stripes((7, 5, 3), 41), stripes((3, 2, 5), 67)),
}


# printed by surface-distance 0.1: compute_robust_hausdorff(compute_surface_distances(target, prediction, spacing), 95)
@pytest.mark.parametrize(
    ("shapes", "spacing", "expected"),
    [
        ("shifted", (1.0, 1.0, 1.0), 3.1622776601683795),
        ("shifted", (1.0, 2.0, 3.0), 5.0),
        ("shifted", (0.5, 0.9, 2.5), 3.0805843601498726),
        ("stray", (1.0, 1.0, 1.0), 9.1104335791443),
        ("stray", (1.0, 2.0, 3.0), 16.15549442140351),
        ("stray", (0.5, 0.9, 2.5), 8.386894538504702),
        ("scattered", (1.0, 1.0, 1.0), 5.385164807134504),
        ("scattered", (1.0, 2.0, 3.0), 10.0),
        ("scattered", (0.5, 0.9, 2.5), 5.435071296680476),
    ],
)
def test_equals_the_reference_implementation(shapes: str, spacing: tuple[float, float, float], expected: float) -> None:
    assert hd95(*SHAPES[shapes], spacing) == pytest.approx(expected, rel=1e-14)


# sums over create_table_neighbour_code_to_surface_area(spacing) of surface-distance 0.1
@pytest.mark.parametrize(
    ("spacing", "total", "by_code", "by_square"),
    [
        ((1.0, 1.0, 1.0), 241.34313970553745, 30771.25031245602, 29760.341647965477),
        ((1.0, 2.0, 3.0), 950.4895895094021, 121187.42266244876, 117272.68689431192),
    ],
)
def test_surface_areas_equal_the_reference_implementation(
    spacing: tuple[float, float, float], total: float, by_code: float, by_square: float
) -> None:
    areas, codes = surfel_areas(spacing), np.arange(256)
    assert areas.sum() == pytest.approx(total, rel=1e-14)
    assert areas @ codes == pytest.approx(by_code, rel=1e-14)
    assert areas @ (codes**2 % 251) == pytest.approx(by_square, rel=1e-14)


@pytest.mark.parametrize("spacing", [ISOTROPIC, (1.0, 2.0, 3.0)])
def test_surface_of_a_box_is_flat_with_bevelled_edges(spacing: tuple[float, float, float]) -> None:
    size = (5, 4, 3)
    x, y, z = spacing
    faces = np.array([y * z, x * z, x * y])
    # between the outermost voxel centres a face is flat, an edge is cut by half a voxel, a corner by a triangle
    a, b, c = (length - 1 for length in size)
    flat = 2 * (b * c * faces[0] + a * c * faces[1] + a * b * faces[2])
    edges = 4 * 0.5 * (a * np.hypot(*faces[[1, 2]]) + b * np.hypot(*faces[[0, 2]]) + c * np.hypot(*faces[[0, 1]]))
    corners = 8 * np.linalg.norm(faces) / 8
    assert surface(np.ones(size, bool), spacing).areas.sum() == pytest.approx(flat + edges + corners)


def test_empty_masks() -> None:
    nothing, something = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert hd95(nothing, nothing, ISOTROPIC) == 0
    # sqrt(240² + 240² + 155²)
    assert RULES["brats2020"].missed_mm == pytest.approx(373.12866, abs=5e-6)
    assert hd95(something, nothing, ISOTROPIC, missed=374) == 374
    assert hd95(nothing, something, ISOTROPIC, missed=374) == 374


@pytest.mark.parametrize("gap", [3, 7])
def test_two_plates(gap: int) -> None:
    first, second = np.zeros((2, 12, 21, 21), bool)
    first[0], second[gap] = True, True
    # the far side of each plate, half its area, is `gap` voxels of 0.7 mm from the near side of the other
    assert hd95(first, second, (0.7, 1.0, 1.0)) == pytest.approx(0.7 * gap)


def test_five_percent_of_the_area_may_lie_anywhere() -> None:
    target = np.zeros((60, 20, 20), bool)
    target[:20] = True
    prediction = target.copy()
    prediction[55, 10, 10] = True  # one voxel has 8 corners of sqrt(3) / 8 mm² each
    assert hd95(prediction, target, ISOTROPIC) == 0
    prediction[50:60, 6:14, 6:14] = True  # 10 x 8 x 8 against 20 x 20 x 20 voxels: about 15 % of the area
    assert hd95(prediction, target, ISOTROPIC) > 30


def component_area(corners: set[tuple[int, int, int]], faces: NDArray[np.float64]) -> float:
    """Area that cuts a connected group of at most four of eight voxels off the others, by its shape."""

    def area(*eighths: int) -> float:
        return float(np.linalg.norm(np.array(eighths) * faces) / 8)

    unit = np.eye(3, dtype=int) * 2
    along = [axis for axis in range(3) if len({corner[axis] for corner in corners}) == 2]
    across = [axis for axis in range(3) if axis not in along]
    if len(corners) == 1:
        return area(1, 1, 1)
    if len(corners) == 2:  # a bevel along one axis
        return 2 * area(*(unit[across[0]] + unit[across[1]]))
    if len(corners) == 3:  # an angle in a plane
        return area(*(2 * unit[across[0]])) + 3 * area(1, 1, 1)
    if len(along) == 2:  # a flat face
        return 2 * area(*(2 * unit[across[0]]))
    neighbours = {a: [b for b in corners if sum(map(abs, np.subtract(a, b))) == 1] for a in corners}
    if any(len(near) == 3 for near in neighbours.values()):  # a tripod: the cube's hexagonal section
        return 6 * area(1, 1, 1)
    first, second = (corner for corner, near in neighbours.items() if len(near) == 2)  # a staircase around an edge
    edge = int(np.flatnonzero(np.subtract(first, second))[0])
    others = (unit[axis] for axis in range(3) if axis != edge)
    return 4 * area(1, 1, 1) + sum(area(*(unit[edge] + other)) for other in others)


def split(corners: set[tuple[int, int, int]]) -> list[set[tuple[int, int, int]]]:
    groups: list[set[tuple[int, int, int]]] = []
    for corner in corners:
        near = [group for group in groups if any(sum(map(abs, np.subtract(corner, other))) == 1 for other in group)]
        groups = [group for group in groups if group not in near] + [{corner}.union(*near)]
    return groups


def brute_surface(mask: Mask, spacing: tuple[float, float, float]) -> list[tuple[NDArray[np.float64], float]]:
    """Every corner between unlike voxels, with the area there, one at a time."""
    x, y, z = spacing
    faces = np.array([y * z, x * z, x * y])
    padded = np.pad(mask, 1)
    cube: set[Any] = set(product((0, 1), repeat=3))
    elements = []
    for corner in product(*(range(size + 1) for size in mask.shape)):
        inside = {offset for offset in cube if padded[tuple(np.add(corner, offset))]}
        smaller = inside if len(inside) <= 4 else cube - inside
        if smaller:
            areas = [component_area(group, faces) for group in split(smaller)]
            elements.append((np.array(corner) * spacing, sum(areas)))
    return elements


def brute_percentile(prediction: Mask, target: Mask, spacing: tuple[float, float, float], fraction: float) -> float:
    surfaces = [brute_surface(mask, spacing) for mask in (prediction, target)]
    percentiles = []
    for own, other in (surfaces, surfaces[::-1]):
        others = np.array([point for point, _ in other])
        found = sorted((float(np.linalg.norm(others - point, axis=1).min()), area) for point, area in own)
        needed = fraction * sum(area for _, area in found)
        while needed > 0:
            distance, area = found.pop(0)
            needed -= area
        percentiles.append(distance)
    return max(percentiles)


@pytest.mark.slow
@settings(max_examples=40)
@given(prediction=masks(), target=masks(), spacing=spacings)
def test_equals_brute_force(prediction: Mask, target: Mask, spacing: tuple[float, float, float]) -> None:
    # a step at exactly 95 % of the area belongs to either side: that is up to rounding, in the reference as well
    low, high = (brute_percentile(prediction, target, spacing, 0.95 + change) for change in (-1e-9, 1e-9))
    assert low - 1e-9 <= hd95(prediction, target, spacing) <= high + 1e-9


@pytest.mark.slow
@given(prediction=masks(), target=masks(), spacing=spacings)
def test_tree_and_distance_map_agree(prediction: Mask, target: Mask, spacing: tuple[float, float, float]) -> None:
    results = []
    for voxels in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "VOXELS_PER_POINT", voxels)
            results.append(hd95(prediction, target, spacing))
    assert results[0] == pytest.approx(results[1])


@pytest.mark.slow
@given(prediction=masks(), target=masks(), spacing=spacings)
def test_symmetry_translation_and_scale(prediction: Mask, target: Mask, spacing: tuple[float, float, float]) -> None:
    distance = hd95(prediction, target, spacing)
    assert hd95(target, prediction, spacing) == distance
    assert hd95(target, target, spacing) == 0
    moved = [np.pad(mask, ((3, 1), (0, 2), (4, 0))) for mask in (prediction, target)]
    assert hd95(moved[0], moved[1], spacing) == pytest.approx(distance)
    x, y, z = spacing
    assert hd95(prediction, target, (2 * x, 2 * y, 2 * z)) == pytest.approx(2 * distance)


@pytest.mark.slow
@given(prediction=masks(), target=masks(), axes=st.permutations(range(3)))
def test_turning_the_volume_turns_the_spacing(prediction: Mask, target: Mask, axes: list[int]) -> None:
    spacing = (0.5, 0.9, 2.5)
    i, j, k = axes
    turned = hd95(prediction.transpose(axes), target.transpose(axes), (spacing[i], spacing[j], spacing[k]))
    assert turned == pytest.approx(hd95(prediction, target, spacing))


@settings(max_examples=30)
@given(prediction=masks(), target=masks(), spacing=spacings)
def test_border_distances_equal_the_plain_way(
    prediction: Mask, target: Mask, spacing: tuple[float, float, float]
) -> None:
    def border_of(mask: Mask) -> Mask:
        return mask ^ binary_erosion(mask)

    def to(mask: Mask, other: Mask) -> NDArray[np.float64]:
        return distance_transform_edt(~border_of(other), sampling=spacing)[border_of(mask)]

    found, there, back = border_distances(prediction, target, spacing), to(prediction, target), to(target, prediction)
    assert found.prediction == pytest.approx(there) and found.target == pytest.approx(back)
    assert found.hd95_pooled() == pytest.approx(np.percentile(np.hstack([there, back]), 95))
    assert found.assd() == pytest.approx((there.mean() + back.mean()) / 2)


def test_a_cube_moved_by_a_voxel() -> None:
    target = np.zeros((12, 12, 12), bool)
    target[2:6, 2:6, 2:6] = True
    borders = border_distances(np.roll(target, 1, axis=0), target, ISOTROPIC)
    # of the 56 border voxels one end face of 16 moves out of the old border, and the 4 inner voxels of the other end
    # face move into the cube: 20 lie one voxel away
    apart = 20
    assert (borders.prediction > 0).sum() == (borders.target > 0).sum() == apart and len(borders.target) == 56
    assert borders.nsd(1.0) == 1 and borders.nsd(0.5) == pytest.approx(1 - apart / 56)
    assert borders.assd() == pytest.approx(apart / 56) and borders.hd95_pooled() == 1
    # DeepMind's elements lie at the corners of voxels: those of both end faces and of their edges are one mm away
    elements = element_distances(np.roll(target, 1, axis=0), target, ISOTROPIC)
    near = elements.prediction_areas[elements.prediction == 0].sum() / elements.prediction_areas.sum()
    assert elements.surface_dice(0.5) == pytest.approx(near) and elements.surface_dice(1.0) == 1
