import argparse
import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from raum_lightning.cli import phantom as command
from raum_lightning.datasets import load
from raum_lightning.errors import OutputError
from raum_lightning.labels import ED, ET, MODALITIES, NCR, REGIONS, in_classes
from raum_lightning.phantom import Phantom, phantom_case, write_case, write_phantoms
from raum_lightning.phantom.anatomy import Sampling, capsule, ellipsoid

SHAPE = (64, 64, 52)
TINY = (32, 32, 32)
MM3 = 240 * 240 * 155 / np.prod(SHAPE)  # of the standard head in one voxel


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [phantom_case(seed=3, index=index, shape=SHAPE) for index in range(30)]


def whole(phantom: Phantom) -> NDArray[np.bool_]:
    return phantom.labels > 0


def assert_equal(one: Phantom, other: Phantom) -> None:
    assert one.recipe == other.recipe
    np.testing.assert_array_equal(one.labels, other.labels)
    for name in MODALITIES:
        np.testing.assert_array_equal(one.images[name], other.images[name])


@pytest.mark.slow
def test_a_case_depends_on_seed_and_index_alone(phantoms: list[Phantom]) -> None:
    assert_equal(phantom_case(seed=3, index=7, shape=SHAPE), phantoms[7])
    for other in (phantom_case(seed=4, index=7, shape=SHAPE), phantoms[8]):
        assert (other.labels != phantoms[7].labels).any()
        assert (other.images["t1"] != phantoms[7].images["t1"]).mean() > 0.1


@pytest.mark.slow
def test_a_smaller_shape_is_the_same_head(phantoms: list[Phantom]) -> None:
    for index in (0, 1, 2):
        fine = phantom_case(seed=3, index=index, shape=(128, 128, 104))
        coarse = phantoms[index]
        brains, tumours = ((p.images["t1"] > 0 for p in (fine, coarse)), (whole(p) for p in (fine, coarse)))
        for (mask, reference), least in ((brains, 0.98), (tumours, 0.75)):
            pooled = mask.reshape(64, 2, 64, 2, 52, 2).mean((1, 3, 5)) > 0.5
            assert 2 * (pooled & reference).sum() / (pooled.sum() + reference.sum()) > least


def test_images_are_skull_stripped_integers(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        brain = phantom.images["flair"] > 0
        assert 1.1e6 < brain.sum() * MM3 < 2.0e6
        assert not brain[[0, -1]].any() and not brain[:, [0, -1]].any() and not brain[..., [0, -1]].any()
        assert not phantom.labels[~brain].any()
        for image in phantom.images.values():
            assert image.dtype == np.int16
            assert image.min() == 0
            np.testing.assert_array_equal(image > 0, brain)


def test_tumours_come_in_all_sizes_with_and_without_enhancement(phantoms: list[Phantom]) -> None:
    volumes = np.array([np.bincount(p.labels.ravel(), minlength=4)[1:] for p in phantoms]) * MM3
    assert (volumes[:, ED - 1] > 0).all()
    assert ((volumes[:, NCR - 1] + volumes[:, ET - 1]) > 0).all()
    assert 0.03 < (volumes[:, ET - 1] == 0).mean() < 0.4
    total = volumes.sum(1)
    assert total.min() > 3e3 and total.max() < 4e5
    assert total.max() > 4 * total.min()


def test_lesions_come_at_many_places_and_sometimes_several(phantoms: list[Phantom]) -> None:
    counts, centres = [], []
    for phantom in phantoms:
        core = in_classes(phantom.labels, REGIONS["TC"])
        components, _ = ndimage.label(core, np.ones((3, 3, 3)))
        counts.append((np.bincount(components.ravel())[1:] * MM3 > 300).sum())
        centres.append(ndimage.center_of_mass(core))
    assert 0.1 < np.mean(np.array(counts) > 1) < 0.6
    assert (np.std(centres, axis=0) > 0.05 * np.array(SHAPE)).all()


@pytest.mark.slow
def test_rim_lies_around_necrosis_and_core_inside_the_brain() -> None:
    nested = 0
    for index in range(6):
        labels = phantom_case(seed=1, index=index, shape=(96, 96, 80)).labels
        enhancing = labels == ET
        necrosis = labels == NCR
        if not (enhancing.any() and necrosis.sum() > 200):
            continue
        nested += 1
        shell = ndimage.binary_dilation(necrosis) & ~necrosis
        assert enhancing[shell].mean() > 0.65
        assert (
            ndimage.distance_transform_edt(labels > 0)[necrosis].mean()
            > ndimage.distance_transform_edt(labels > 0)[labels == ED].mean()
        )
    assert nested >= 2


def test_contrasts_are_those_of_a_glioma(phantoms: list[Phantom]) -> None:
    def median(name: str, *classes: int) -> float:
        ratios = [
            np.median(p.images[name][in_classes(p.labels, classes)]) / np.median(p.images[name][p.images[name] > 0])
            for p in phantoms
            if (p.labels == ET).any() and (p.labels == NCR).any()
        ]
        return float(np.mean(ratios))

    assert median("flair", ED) > 1.3
    assert median("t1ce", ET) > 1.2 > 0.8 > median("t1ce", NCR)
    assert median("t2", NCR) > median("t2", ED) > 1.1
    assert median("t1", NCR) < median("t1", ED) < 1


def best_threshold(phantoms: list[Phantom], name: str, classes: tuple[int, ...]) -> float:
    """Mean Dice of the best of all thresholds, from above or below, chosen on the very cases it is tried on."""
    edges = np.linspace(0, 4, 201)  # in units of the brain's median
    dices = []
    for phantom in phantoms:
        brain = phantom.images[name] > 0
        values = phantom.images[name][brain] / np.median(phantom.images[name][brain])
        truth = in_classes(phantom.labels[brain], classes)
        below, hits = (np.histogram(v, edges)[0].cumsum() for v in (values, values[truth]))
        found, hit = np.append(below, values.size - below), np.append(hits, truth.sum() - hits)
        dices.append(2 * hit / np.maximum(found + truth.sum(), 1))
    return float(np.mean(dices, axis=0).max())


@pytest.mark.slow
def test_no_threshold_on_one_contrast_finds_the_tumour(phantoms: list[Phantom]) -> None:
    assert 0.3 < best_threshold(phantoms, "flair", REGIONS["WT"]) < 0.7
    enhancing = [p for p in phantoms if (p.labels == ET).any()]
    for name in MODALITIES:
        assert best_threshold(phantoms, name, REGIONS["TC"]) < 0.4
        assert best_threshold(enhancing, name, REGIONS["ET"]) < 0.5


@pytest.mark.slow
def test_files_are_those_of_brats_2020(tmp_path: Path) -> None:
    assert write_phantoms(tmp_path, cases=2, seed=5, shape=SHAPE, progress=False) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["BraTS20_Training_001", "BraTS20_Training_002"]
    phantom = phantom_case(seed=5, index=1, shape=SHAPE)
    folder = tmp_path / "BraTS20_Training_002"
    assert len(list(folder.iterdir())) == 5
    for name in (*MODALITIES, "seg"):
        image = nib.load(folder / f"BraTS20_Training_002_{name}.nii.gz")
        volume = np.asanyarray(image.dataobj)
        assert image.header["sform_code"] == image.header["qform_code"] == 1
        assert image.header.get_zooms() == (1, 1, 1)
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(image.affine, [[-1, 0, 0, 0], [0, -1, 0, 63], [0, 0, 1, 0], [0, 0, 0, 1]])
        np.testing.assert_array_equal(image.get_qform(), image.affine)
        if name == "seg":
            assert volume.dtype == np.uint8
            assert set(np.unique(volume)) <= {0, 1, 2, 4}
            np.testing.assert_array_equal(np.where(volume == 4, 3, volume), phantom.labels)
        else:
            assert volume.dtype == np.int16
            np.testing.assert_array_equal(volume, phantom.images[name])


@pytest.mark.slow
def test_the_standard_case_has_the_grid_of_brats() -> None:
    phantom = phantom_case(seed=0, index=0)
    assert phantom.labels.shape == (240, 240, 155)
    np.testing.assert_array_equal(phantom.affine, [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


def contents(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*.nii.gz")}


def test_files_do_not_depend_on_how_many_are_made_or_by_whom(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", cases=2, shape=TINY, workers=1, progress=False)
    write_phantoms(tmp_path / "many", cases=4, shape=TINY, workers=3, progress=False)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    assert len(few) == 10 and len(many) == 20
    assert all(many[name][1] == data for name, (_, data) in few.items())


@pytest.mark.slow
def test_a_rerun_keeps_what_is_whole_and_writes_the_rest(tmp_path: Path) -> None:
    write_phantoms(tmp_path, cases=5, shape=TINY, progress=False)
    before = contents(tmp_path)
    assert write_phantoms(tmp_path, cases=5, shape=TINY, progress=False) == 0
    assert contents(tmp_path) == before

    first, second, third, fourth = (f"BraTS20_Training_{n:03d}" for n in (1, 2, 3, 4))
    (tmp_path / first / f"{first}_t2.nii.gz").unlink()
    truncated = tmp_path / second / f"{second}_seg.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    (tmp_path / third / f"{third}_t1.nii.gz").write_bytes(b"")
    shutil.rmtree(tmp_path / fourth)
    assert write_phantoms(tmp_path, cases=5, shape=TINY, progress=False) == 4
    after = contents(tmp_path)
    assert {name: data for name, (_, data) in after.items()} == {name: data for name, (_, data) in before.items()}
    kept = {name for name, entry in after.items() if entry == before[name]}
    assert {name.split("/")[0] for name in kept} == {"BraTS20_Training_005"}


def test_another_seed_replaces_but_never_mixes(tmp_path: Path) -> None:
    write_phantoms(tmp_path, cases=2, seed=0, shape=TINY, progress=False)
    with pytest.raises(ValueError, match=r"_002_flair.nii.gz is a raum phantom .* seed 0, case 1 and would stay"):
        write_phantoms(tmp_path, cases=1, seed=1, shape=TINY, progress=False)
    assert write_phantoms(tmp_path, cases=1, seed=0, shape=TINY, progress=False) == 0
    assert write_phantoms(tmp_path, cases=3, seed=1, shape=TINY, progress=False) == 3


@pytest.mark.parametrize("name", ["köln-2025", "university-hospital-of-somewhere-and-elsewhere"])
def test_any_name_of_a_data_set_is_recognised_again(tmp_path: Path, name: str) -> None:
    names = [name, f"{name}-2"]
    first, second = (replace(load("brats2020"), name=one) for one in names)
    assert write_phantoms(tmp_path, cases=2, shape=TINY, dataset=first, progress=False) == 2
    assert write_phantoms(tmp_path, cases=2, shape=TINY, dataset=first, progress=False) == 0
    with pytest.raises(ValueError, match="would stay"):
        write_phantoms(tmp_path, cases=1, shape=TINY, dataset=second, progress=False)


@pytest.mark.parametrize("name", ["BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz", "patient/t1.nii", "t1.nii"])
def test_other_cases_are_left_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is not a phantom"):
        write_phantoms(tmp_path, cases=1, shape=TINY, progress=False)
    assert path.read_bytes() == before
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_failure_leaves_no_half_written_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = phantom_case(seed=0, index=0, shape=TINY)
    write_case(phantom, tmp_path / "case", "case")
    before = contents(tmp_path)
    monkeypatch.delitem(phantom.images, "t2")
    with pytest.raises(KeyError):
        write_case(phantom, tmp_path / "case", "case")
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["case"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 cases asked for"):
        write_phantoms(tmp_path / "out", cases=0)
    with pytest.raises(ValueError, match=r"shape \(240, 240, 16\) is too small"):
        write_phantoms(tmp_path / "out", cases=1, shape=(240, 240, 16))
    with pytest.raises(ValueError, match="seed -1 is negative"):
        write_phantoms(tmp_path / "out", cases=1, seed=-1, shape=TINY)
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    defaults = parser.parse_args(["out"])
    assert (defaults.cases, defaults.seed, tuple(defaults.shape)) == (12, 0, (240, 240, 155))
    out = tmp_path / "out"
    for line in ("2 synthetic cases written, 0 kept", "0 synthetic cases written, 2 kept"):
        assert command.run(parser.parse_args([str(out), "--cases", "2", "--shape", "32", "34", "36"])) == 0
        assert line in capsys.readouterr().out
    data = gzip.decompress((out / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz").read_bytes())
    assert nib.Nifti1Image.from_bytes(data).shape == (32, 34, 36)


def test_distances_are_exact_where_they_should_be() -> None:
    points = np.array([[0, 10, 0, 3], [0, 0, -7, 4], [0, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(ellipsoid(points[:, 1:], (0, 0, 0), (2, 2, 2)), [8, 5, 3], rtol=1e-6)
    np.testing.assert_allclose(capsule(points, (0, 0, 0), (5, 0, 0), 1), [-1, 4, 6, 3], rtol=1e-6)


def test_noise_has_unit_variance_at_every_shape() -> None:
    fields = [Sampling(shape).noise(np.random.default_rng(0), 12.0) for shape in ((60, 60, 52), (120, 120, 104))]
    for field in fields:
        assert abs(field.mean()) < 0.1 and abs(field.std() - 1) < 0.1
    pooled = fields[1].reshape(*[n for size in fields[0].shape for n in (size, 2)]).mean((1, 3, 5))
    np.testing.assert_allclose(pooled, fields[0], atol=0.15)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "BraTS20_Training_001").touch()
    with pytest.raises(OutputError, match=r"BraTS20_Training_001: is a file where a folder is expected"):
        write_phantoms(tmp_path, cases=1, shape=(36, 36, 32), progress=False)
