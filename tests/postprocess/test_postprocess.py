"""Cleaning of masks: each step on masks built by hand, and what holds for all masks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from raum_lightning.datasets import load
from raum_lightning.errors import ConfigError
from raum_lightning.labels import ED, ET, NCR, RC, REGIONS, Regions, in_classes
from raum_lightning.postprocess import Labels, Postprocess, _holes, clean
from raum_lightning.postprocess import nested as nested_regions
from raum_lightning.postprocess.fit import candidates

ISOTROPIC = (1.0, 1.0, 1.0)
SHAPE = (20, 16, 12)
CAVITY, CHILDREN = load("brats2024").regions, load("brats-ped").regions
LAYOUTS = [REGIONS, CAVITY, CHILDREN, {"tumour": (1, 2, 3, 4)}]


def empty() -> Labels:
    return np.zeros(SHAPE, np.uint8)


def nested() -> Labels:
    """ED of 10^3 voxels around NCR of 6^3 around ET of 2^3."""
    labels = empty()
    for label, inset in ((ED, 0), (NCR, 2), (ET, 4)):
        labels[1 + inset : 11 - inset, 1 + inset : 11 - inset, 1 + inset : 11 - inset] = label
    return labels


def sizes(labels: Labels) -> dict[str, int]:
    return {name: int(in_classes(labels, members).sum()) for name, members in REGIONS.items()}


def test_nothing_is_done_by_default() -> None:
    assert (clean(nested(), Postprocess(), ISOTROPIC) == nested()).all()
    assert str(Postprocess()) == "nothing" and Postprocess().to_yaml() == "{}\n"


def test_small_components_go_to_what_surrounds_them() -> None:
    labels = nested()
    labels[1:4, 1, 1] = NCR  # 3 voxels of core within the edema, not touching the other core
    labels[15:17, 5, 5] = ET  # 2 voxels by themselves
    cleaned = clean(labels, Postprocess(min_mm3={"TC": 3}), ISOTROPIC)
    assert (cleaned[1:4, 1, 1] == NCR).all() and (cleaned[15:17, 5, 5] == ED).all()
    cleaned = clean(labels, Postprocess(min_mm3={"WT": 3}), ISOTROPIC)
    assert (cleaned[15:17] == 0).all() and (cleaned[1:4, 1, 1] == NCR).all()
    cleaned = clean(labels, Postprocess(min_mm3={"ET": 9}), ISOTROPIC)
    assert sizes(cleaned) == {"WT": 1002, "TC": 216 + 3 + 2, "ET": 0}


def test_sizes_are_in_mm_and_corners_touch() -> None:
    labels = empty()
    labels[1, 1, 1] = labels[2, 2, 2] = ED  # one component of two voxels
    kept = Postprocess(min_mm3={"WT": 4})
    assert sizes(clean(labels, kept, (2.0, 1.0, 1.0)))["WT"] == 2
    assert sizes(clean(labels, kept, (1.9, 1.0, 1.0)))["WT"] == 0


def test_share_and_number_of_components() -> None:
    labels = nested()
    labels[13:18, 1:5, 1:3] = ED  # 40 voxels
    labels[14, 12, 9] = ED
    assert sizes(clean(labels, Postprocess(min_share={"WT": 0.03}), ISOTROPIC))["WT"] == 1040
    assert sizes(clean(labels, Postprocess(min_share={"WT": 0.05}), ISOTROPIC))["WT"] == 1000
    assert sizes(clean(labels, Postprocess(largest={"WT": 2}), ISOTROPIC))["WT"] == 1040
    assert sizes(clean(labels, Postprocess(largest={"WT": 1}), ISOTROPIC))["WT"] == 1000


def test_the_largest_component_of_a_region_can_be_kept_however_small() -> None:
    labels = nested()
    labels[15:17, 5, 5] = ET  # 2 voxels by themselves, beside 8 within the core
    less = {"min_mm3": {"WT": 5, "ET": 9}}
    assert sizes(clean(labels, Postprocess(**less), ISOTROPIC)) == {"WT": 1000, "TC": 216, "ET": 0}
    assert sizes(clean(labels, Postprocess(**less, keep_one=("ET",)), ISOTROPIC)) == sizes(nested())
    # of WT nothing would be left, and the share is that of what is
    most = Postprocess(min_mm3={"WT": 2000}, min_share={"WT": 0.9}, keep_one=("WT",))
    assert sizes(clean(labels, most, ISOTROPIC)) == sizes(nested())
    assert not clean(labels, Postprocess(min_mm3={"WT": 2000}), ISOTROPIC).any()


def test_holes_are_filled_but_cavities_are_none() -> None:
    labels = nested()
    labels[9, 9, 2] = 0  # a hole in the edema
    labels[4, 4, 4] = ED  # one in the core
    labels[3, 3, 3] = ED  # on the border of the core, and no hole
    labels[9, 9, 9] = RC
    filled = clean(labels, Postprocess(holes=("WT", "TC")), ISOTROPIC)
    assert filled[9, 9, 2] == ED and filled[4, 4, 4] == NCR and filled[3, 3, 3] == ED and filled[9, 9, 9] == RC
    assert clean(labels, Postprocess(holes=("WT",)), ISOTROPIC)[4, 4, 4] == ED


@pytest.mark.parametrize(("target", "found"), [("core", NCR), ("edema", ED)])
def test_too_little_enhancing_tumour_is_not_believed(target: str, found: int) -> None:
    less = Postprocess(min_enhancing_mm3=9, enhancing_to=target)
    assert (clean(nested(), less, ISOTROPIC)[5:7, 5:7, 5:7] == found).all()
    assert sizes(clean(nested(), Postprocess(min_enhancing_mm3=8, enhancing_to=target), ISOTROPIC))["ET"] == 8


def test_a_core_without_edema_is_dropped() -> None:
    labels = nested()
    labels[15:18, 5:8, 5:8] = NCR
    assert sizes(clean(labels, Postprocess(core_needs_edema=True), ISOTROPIC)) == sizes(nested())


@pytest.mark.parametrize("regions", LAYOUTS[:3], ids=["three", "cavity", "children"])
def test_the_innermost_region_is_enhancing_tumour_whatever_lies_beside(regions: Regions) -> None:
    assert nested_regions(regions) == ("WT", "TC", "ET")
    tried = [name for name, _ in candidates(regions)]
    assert [name for name in tried if name.startswith("holes")] == ["holes WT", "holes TC"]
    assert [name for name in tried if "enhancing" in name] == ["min_enhancing_mm3 ET"]


@pytest.mark.parametrize(("target", "found"), [("core", NCR), ("edema", ED)])
def test_a_cavity_is_no_enhancing_tumour(target: str, found: int) -> None:
    labels = nested()
    labels[14:18, 5:9, 5:9] = RC
    cleaned = clean(labels, Postprocess(min_enhancing_mm3=100, enhancing_to=target), ISOTROPIC, CAVITY)
    assert (cleaned[5:7, 5:7, 5:7] == found).all() and ((cleaned == RC) == (labels == RC)).all()


def test_a_tumour_of_children_keeps_its_tissues() -> None:
    et, net, cc, ed = (CHILDREN[name][0] for name in ("ET", "NET", "CC", "ED"))
    labels = empty()
    labels[1:11, 1:11, 1:11] = ed
    labels[3:9, 3:9, 3:9] = net
    labels[4, 4, 4] = ed  # a hole in the core
    labels[2, 5, 5] = 0  # one in the edema
    labels[15:17, 5, 5] = cc
    labels[15:17, 9, 9] = et

    def cleaned(**steps: object) -> Labels:
        return clean(labels, Postprocess.of(steps), ISOTROPIC, CHILDREN)

    assert cleaned(core_needs_edema=True)[5, 5, 5] == net and not cleaned(core_needs_edema=True)[15:17].any()
    assert cleaned(holes=["WT", "TC"])[4, 4, 4] == net and cleaned(holes=["WT", "TC"])[2, 5, 5] == ed
    assert (cleaned(min_enhancing_mm3=3)[15:17, 9, 9] == net).all()
    assert (cleaned(min_mm3={"TC": 3})[15:17, 5, 5] == ed).all()
    assert (cleaned(min_mm3={"CC": 3})[15:17, 5, 5] == net).all()
    assert (cleaned(min_mm3={"NET": 1000})[5, 5, 5]) == ed
    assert not cleaned(min_mm3={"ED": 10**4})[1].any()


def steps_of(regions: Regions) -> st.SearchStrategy[Postprocess]:
    one = st.sampled_from([*regions])

    def by_region(values: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, float]]:
        return st.dictionaries(one, values, max_size=3)

    return st.builds(
        Postprocess,
        holes=st.lists(st.sampled_from(nested_regions(regions)[:2]), unique=True, max_size=2).map(tuple),
        min_mm3=by_region(st.integers(0, 30)),
        min_share=by_region(st.floats(0, 1)),
        keep_one=st.lists(one, unique=True, max_size=3).map(tuple),
        largest=by_region(st.integers(1, 3)),
        min_enhancing_mm3=st.integers(0, 30),
        enhancing_to=st.sampled_from(["core", "edema"]),
        core_needs_edema=st.booleans(),
        threshold=by_region(st.floats(0.1, 0.9)),
    )


layouts_and_steps = st.sampled_from(LAYOUTS).flatmap(lambda regions: st.tuples(st.just(regions), steps_of(regions)))


@pytest.mark.slow
@settings(max_examples=120, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), density=st.floats(0.02, 0.6), chosen=layouts_and_steps)
def test_what_holds_for_all_masks(seed: int, density: float, chosen: tuple[Regions, Postprocess]) -> None:
    regions, steps = chosen
    rng = np.random.default_rng(seed)
    labels = (rng.integers(1, 5, (7, 6, 5)) * (rng.random((7, 6, 5)) < density)).astype(np.uint8)
    before = labels.copy()
    once = clean(labels, steps, ISOTROPIC, regions)
    assert (labels == before).all()  # the input is left alone
    assert (clean(once, steps, ISOTROPIC, regions) == once).all()  # idempotent
    without = clean(labels, Postprocess.of(steps.plain | {"holes": []}), ISOTROPIC, regions)
    outermost = regions[nested_regions(regions)[0]]
    assert not (in_classes(without, outermost) & ~in_classes(labels, outermost)).any()  # adds no tumour
    if "RC" not in {*steps.min_mm3, *steps.min_share, *steps.largest}:
        beside = ~in_classes(labels, outermost) & (labels > 0)  # a cavity
        assert (once[beside] == labels[beside]).all()


@settings(max_examples=40, derandomize=True)
@given(chosen=steps_of(REGIONS))
def test_a_file_says_all_of_it(chosen: Postprocess, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("steps") / "post.yaml"
    path.write_text(chosen.to_yaml("found on 3 cases"))
    assert Postprocess.read(path).plain == chosen.plain and path.read_text().startswith("# found on 3 cases\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("smallest: 3", "'smallest' is no step; the steps are core_needs_edema"),
        ("min_mm3: {WT: -1}", "postprocess.min_mm3.WT=-1 is not from 0"),
        ("min_mm3: 3", "postprocess.min_mm3=3 does not name regions"),
        ("min_share: {WT: 2}", "postprocess.min_share.WT=2 is not from 0 to 1"),
        ("largest: {WT: x}", "postprocess.largest.WT='x' is not from 1"),
        ("largest: {WT: 1.5}", "postprocess.largest.WT=1.5 is no whole number"),
        ("largest: {WT: .inf}", "postprocess.largest.WT=inf is no whole number"),
        ("enhancing_to: bone", "enhancing_to='bone' is neither core nor edema"),
        ("holes: 5", "holes=5 is no list of regions, as in [WT]"),
        ("keep_one: [[WT]]", "keep_one=[['WT']] is no list of regions"),
        ("holes: WT", "holes='WT' is no list of regions"),
        ("min_enhancing_mm3: many", "postprocess.min_enhancing_mm3='many' must be a number of at least 0"),
        ("min_enhancing_mm3: .nan", "postprocess.min_enhancing_mm3=nan must be"),
        ("min_mm3: {WT: .nan}", "postprocess.min_mm3.WT=nan is not from 0"),
        ("core_needs_edema: maybe", "postprocess.core_needs_edema='maybe' is neither true nor false"),
        ("- 3", "does not say what to do with masks"),
        ("a: [", "is not valid YAML"),
        ("min_mm3: {XY: 3}", "names 'XY', which is none of the regions WT, TC, ET"),
    ],
)
def test_a_users_mistake_gets_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "post.yaml").write_text(text)
    with pytest.raises(ConfigError) as failure:
        clean(nested(), Postprocess.read(tmp_path / "post.yaml"), ISOTROPIC)
    assert said in str(failure.value)


@pytest.mark.parametrize(("shape", "share"), [((9, 8, 7), 0.6), ((1, 5, 5), 0.5), ((12, 9, 10), 0.85), ((4, 4, 4), 0)])
def test_holes_are_those_that_scipy_fills(shape: tuple[int, int, int], share: float) -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        mask = random.random(shape) < share
        assert np.array_equal(_holes(mask), ndimage.binary_fill_holes(mask) & ~mask)
