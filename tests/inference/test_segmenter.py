"""Cases from their files to a mask on their own grid: `raum_lightning.load` and `raum segment`."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation

import raum_lightning
from raum_lightning.cli import main
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.data.voxel_checks import check_trained
from raum_lightning.datasets import presets
from raum_lightning.errors import CaseError, CheckpointError, ConfigError, GeometryError, SplitError
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.segmenter import Segmenter
from raum_lightning.labels import REGIONS, in_classes
from raum_lightning.postprocess import Postprocess
from raum_lightning.training.model_card import describe
from tests.helpers.cases import AFFINE, write_brats, write_msd
from tests.helpers.handmade import CARD, DEBUG, MODALITIES, TRUST, Handmade, fit_handmade

load = partial(raum_lightning.load, trust=TRUST)

NETWORK = [
    "--module.network",
    "tests.helpers.handmade.Handmade",
    "--module.roi_size",
    "[32,32,32]",
    "--module.overlap",
    "0.25",
]


def oblique(degrees: float) -> np.ndarray:
    """Of axes that run LPS but for a turn around z."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix() @ affine[:3, :3]
    return affine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def case(checkpoint: Path) -> Path:
    return checkpoint.parents[3] / "phantom-cases/BraTS20_Training_002"


@pytest.fixture(scope="module")
def labels(checkpoint: Path, case: Path) -> np.ndarray:
    """What the network says of the case as it is."""
    found = load(checkpoint).segment(case).labels
    assert np.bincount(found.ravel()).min() > 200
    return found


def of_regions() -> Handmade:
    network = Handmade()
    for parameter in network.parameters():
        parameter.data = parameter.data[1:]
    return network


def segment(checkpoint: Path, *words: str | Path) -> int:
    return main(["segment", "--checkpoint", str(checkpoint), "--trust", TRUST, *map(str, words)])


def copy_case(case: Path, to: Path, change: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> Path:
    """The images of a case as `change` makes them."""
    to.mkdir(parents=True)
    for path in case.glob("*.nii.gz"):
        if not path.name.endswith("_seg.nii.gz"):
            nib.save(change(nib.load(path)), to / path.name)
    return to


def test_three_lines_segment_a_case(checkpoint: Path, case: Path, labels: np.ndarray, tmp_path: Path) -> None:
    segmenter = load(checkpoint)
    result = segmenter.segment(case)
    result.save(tmp_path / "seg.nii.gz")
    mask, source = nib.load(tmp_path / "seg.nii.gz"), nib.load(case / f"{case.name}_flair.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), presets()["brats2020"].decode(labels))
    np.testing.assert_array_equal(mask.affine, source.affine)
    for key in ("pixdim", "qform_code", "sform_code", "xyzt_units", "srow_x", "quatern_b"):
        np.testing.assert_array_equal(mask.header[key], source.header[key])
    assert result.volumes == {
        name: pytest.approx(in_classes(labels, classes).sum() / 1000) for name, classes in REGIONS.items()
    }


def turned_to(codes: str) -> Callable[[nib.Nifti1Image], nib.Nifti1Image]:
    return lambda image: image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(codes)))


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAL"])
def test_the_command_says_what_predict_says(
    checkpoint: Path, case: Path, labels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codes: str
) -> None:
    turn = turned_to(codes)
    root = copy_case(case, tmp_path / "one", turn)
    assert segment(checkpoint, "--case", root, "--out", tmp_path / "a.nii") == 0
    monkeypatch.chdir(checkpoint.parents[4])
    assert main(["predict", *DEBUG, *NETWORK, "--data.predict_root", str(root), "--ckpt_path", str(checkpoint)]) == 0
    predicted = nib.load(checkpoint.parents[1] / f"predictions/{case.name}.nii.gz")
    found, source = nib.load(tmp_path / "a.nii"), nib.load(case / f"{case.name}_flair.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(predicted.dataobj))
    np.testing.assert_array_equal(found.affine, predicted.affine)
    expected = turn(nib.Nifti1Image(presets()["brats2020"].decode(labels), source.affine))
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(expected.dataobj))


@pytest.mark.parametrize(
    ("affine", "said"),
    [
        (np.diag([-1.0, -1.0, 1.2, 1.0]), "has voxels of 1 x 1 x 1.2 mm, the checkpoint's cases of 1 x 1 x 1 mm"),
        (np.diag([1.0, 1.2, 1.0, 1.0]), "has voxels of 1 x 1.2 x 1 mm"),
        (oblique(5), "is oblique by 5.0 degrees"),
    ],
)
def test_predict_leaves_to_segment_what_must_be_resampled(
    checkpoint: Path,
    case: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    affine: np.ndarray,
    said: str,
) -> None:
    root = copy_case(case, tmp_path / "one", lambda image: nib.Nifti1Image(np.asarray(image.dataobj), affine))
    monkeypatch.chdir(checkpoint.parents[4])
    assert main(["predict", *DEBUG, *NETWORK, "--data.predict_root", str(root), "--ckpt_path", str(checkpoint)]) == 2
    error = capsys.readouterr().err
    assert f"case {case.name} {said}" in error and "`raum segment`, which resamples" in error


@pytest.mark.parametrize("codes", ["RAS", "SAL", "PIR"])
def test_orientation_changes_nothing(
    checkpoint: Path, case: Path, labels: np.ndarray, tmp_path: Path, codes: str
) -> None:
    turn = turned_to(codes)
    turned = copy_case(case, tmp_path / "turned", turn)
    found = load(checkpoint).segment(turned).labels
    expected = turn(nib.Nifti1Image(labels, nib.load(case / f"{case.name}_flair.nii.gz").affine))
    np.testing.assert_array_equal(found, expected.get_fdata())


def write_balls(folder: Path, shape: tuple[int, int, int], affine: np.ndarray) -> None:
    """A head of balls around the origin: edema bright on FLAIR, in it a rim bright on T1ce, in that a core on T2."""
    where = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]

    def ball(radius: float, *centre: float) -> np.ndarray:
        distance = np.linalg.norm(where - np.array(centre)[:, None, None, None], axis=0)
        return np.clip(radius - distance + 0.5, 0, 1)

    edema, rim, core = (ball(radius, 6, -4, 3) for radius in (14, 11, 6))
    folder.mkdir(parents=True)
    for modality, bright in (("flair", edema), ("t1ce", rim - core), ("t2", core)):
        volume = (100 + 100 * bright) * (ball(28, 0, 0, 0) > 0.5)
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), folder / f"head_{modality}.nii.gz")


def test_an_oblique_thick_and_reoriented_copy_gets_its_mask(checkpoint: Path, tmp_path: Path) -> None:
    straight, oblique_affine = np.diag([-1.0, -1.0, 1.0, 1.0]), np.eye(4)
    # axes anterior, inferior, left, 2 mm apart along the last, oblique by more than 20 degrees
    rotation = Rotation.from_euler("xyz", [20, -10, 6], degrees=True).as_matrix()
    oblique_affine[:3, :3] = rotation @ np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]]) * [1, 1, 2]
    found = {}
    for name, affine, shape in (("straight", straight, (60, 62, 58)), ("oblique", oblique_affine, (62, 60, 31))):
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        write_balls(tmp_path / name, shape, affine)
        assert segment(checkpoint, "--case", tmp_path / name, "--out", tmp_path / f"{name}.nii.gz") == 0
        mask = nib.load(tmp_path / f"{name}.nii.gz")
        assert mask.shape == shape
        np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
        found[name] = presets()["brats2020"].encode(np.asarray(mask.dataobj))
    back = np.linalg.inv(oblique_affine) @ straight
    copied = ndimage.affine_transform(found["oblique"], back[:3, :3], back[:3, 3], found["straight"].shape, order=0)
    for name, classes in REGIONS.items():
        one, other = in_classes(copied, classes), in_classes(found["straight"], classes)
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.9, name


def test_files_instead_of_a_folder(checkpoint: Path, case: Path, labels: np.ndarray, tmp_path: Path) -> None:
    files = [part for name in MODALITIES for part in (f"--{name}", case / f"{case.name}_{name}.nii.gz")]
    assert segment(checkpoint, *files, "--out", tmp_path / "a.nii.gz", "--edition", "brats2023") == 0
    written = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(written, presets()["brats2023"].decode(labels))


def test_probabilities_and_picture(checkpoint: Path, case: Path, labels: np.ndarray, tmp_path: Path) -> None:
    extra = ["--probabilities", tmp_path / "p.nii.gz", "--figure", tmp_path / "a.png"]
    assert segment(checkpoint, "--case", case, "--out", tmp_path / "a.nii.gz", *extra) == 0
    written = nib.load(tmp_path / "p.nii.gz")
    values = np.asarray(written.dataobj)
    assert values.shape == (*labels.shape, 4) and written.get_data_dtype() == np.float32
    assert written.header["descrip"].item() == b"raum probabilities: background NCR ED ET"
    np.testing.assert_allclose(values.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(values.argmax(axis=-1), labels)
    outside = nib.load(case / f"{case.name}_flair.nii.gz").get_fdata() == 0
    assert (values[outside] == [1, 0, 0, 0]).all()
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_4d_image_of_msd(checkpoint: Path, tmp_path: Path) -> None:
    write_msd(tmp_path / "msd", 1)
    image = tmp_path / "msd/imagesTs/BRATS_900.nii.gz"
    assert segment(checkpoint, "--case", image, "--out", tmp_path / "a.nii.gz", "--dataset", "msd") == 0
    mask = nib.load(tmp_path / "a.nii.gz")
    assert mask.shape == nib.load(image).shape[:3]
    np.testing.assert_array_equal(mask.affine, np.eye(4))
    folder = write_brats(tmp_path, "same", presets()["brats2020"], seed=1)
    same = copy_case(folder, tmp_path / "alike", lambda image: nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)))
    alike = load(checkpoint).segment(same)
    np.testing.assert_array_equal(presets()["msd-task01"].encode(np.asarray(mask.dataobj)), alike.labels)
    assert np.bincount(alike.labels.ravel()).min() > 20
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4, 4)), AFFINE), tmp_path / "alone.nii.gz")
    with pytest.raises(CaseError, match=r"is not an image that a dataset\.json above it lists"):
        load(checkpoint).segment(tmp_path / "alone.nii.gz")


def test_an_ensemble_averages_probabilities(case: Path) -> None:
    networks = [Handmade(offset=offset) for offset in (0.8, 1.4)]
    alone = [Segmenter([network], CARD).segment(case).probabilities for network in networks]
    both = Segmenter(networks, CARD).segment(case).probabilities
    assert np.abs(alone[0] - alone[1]).max() > 0.3
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)


def test_regions_are_written_as_classes(case: Path) -> None:
    result = Segmenter([of_regions()], replace(CARD, mode="regions")).segment(case)
    assert result.card.channels == ("WT", "TC", "ET")
    for name, found in zip(REGIONS, result.probabilities, strict=True):
        inside = in_classes(result.labels, REGIONS[name])
        assert inside.any() and (found[~inside] <= 0.5).all()


def test_progress_counts_every_window(checkpoint: Path, case: Path) -> None:
    # the brain is 34 x 39 x 41 voxels, the window 32: two windows an axis, or three along those above 38
    for flips, overlap, windows in ((1, 0.0, 8), (4, 0.0, 8), (4, 0.8, 18)):
        calls: list[tuple[int, int]] = []
        segmenter = load([checkpoint, checkpoint], flips=flips, overlap=overlap)
        segmenter.segment(case, progress=lambda done, total, calls=calls: calls.append((done, total)))
        total = 2 * flips * windows
        assert [done for done, _ in calls] == sorted({done for done, _ in calls}) and calls[-1] == (total, total)


def test_bf16_agrees_almost_everywhere(checkpoint: Path, case: Path, labels: np.ndarray) -> None:
    found = load(checkpoint, precision="bf16-mixed", device="cpu").segment(case).labels
    assert (found == labels).mean() > 0.995


def test_the_checkpoint_describes_its_cases(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    card = ModelCard.of_checkpoint(content)
    assert card is not None
    assert replace(card, training_cases="", scores={}, versions={}, description={}) == CARD
    assert card.trained_on == presets()["brats2020"]
    assert len(card.training_cases) == 64 and card.versions["torch"] == version("torch")
    del content["model_card"]
    torch.save(content, tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match=r"none\.ckpt: does not say what cases it was trained on"):
        load(tmp_path / "none.ckpt")
    spacing = {"orientation": "LPS", "spacing": [1.0, 1.0, 1.0]}
    content["case"] = {"modalities": list(MODALITIES), "edition": "brats2020", **spacing}
    torch.save(content, tmp_path / "old.ckpt")
    assert replace(load(tmp_path / "old.ckpt").card, description={}) == CARD
    (tmp_path / "text.ckpt").write_text("weights")
    with pytest.raises(CheckpointError, match=r"text\.ckpt: is damaged or not a checkpoint"):
        load(tmp_path / "text.ckpt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match=r"weights\.ckpt: is not a checkpoint of `raum fit`"):
        load(tmp_path / "weights.ckpt")
    content["model_card"] = replace(CARD, modalities=("t1", "t1ce", "t2")).to_plain()
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(
        CheckpointError,
        match=r"other\.ckpt: modalities t1, t1ce, t2 differs from flair, .*; an ensemble needs the same",
    ):
        load([checkpoint, tmp_path / "other.ckpt"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either the case's folder as --case, its files"),
        (["--case", ".", "--flair", "a.nii"], "give either the case's folder as --case, its files"),
        (
            ["--case", "CASE", "--out", "seg.mha"],
            "seg.mha: is not the name of a NIfTI file; it must end in .nii.gz",
        ),
        (["--case", "CASE", "--out", "FLAIR"], "_flair.nii.gz: is a file of the case, which it would overwrite"),
        (["--case", "CASE", "--out", "MASK"], "_seg.nii.gz: is a file of the case, which it would overwrite"),
        (["--case", "CASE", "--out", "a.nii", "--probabilities", "./a.nii"], "a.nii: is what --out names"),
        (["--case", "CASE", "--checkpoint", "none.ckpt", "--figure", "a.xyz"], "a.xyz: no picture can be written"),
        (["--case", "CASE", "--checkpoint", "none.ckpt"], "none.ckpt: no such checkpoint"),
        (["--case", "CASE", "--dataset", "brats2019"], "data set 'brats2019' is unknown"),
        (["--case", "CASE", "--overlap", "1"], "overlap=1.0 is not in [0, 1)"),
        (["--case", "nowhere"], "nowhere: no such folder"),
        (["--flair", "FLAIR"], "t1ce is missing"),
        (["--flair", "FLAIR", "--t1ce", "T1CE", "--t2", "SMALL"], "small.nii.gz: shape (9, 8, 7) differs from"),
        (["--flair", "FLAIR", "--t1ce", "FLAIR", "--t2", "T1CE"], "is given as both flair and t1ce; give each its own"),
    ],
)
def test_a_users_mistake_gets_one_sentence(
    checkpoint: Path, case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    volume = np.arange(9 * 8 * 7, dtype=np.float32).reshape(9, 8, 7)
    nib.save(nib.Nifti1Image(volume, AFFINE), tmp_path / "small.nii.gz")
    files = {name.upper(): case / f"{case.name}_{name}.nii.gz" for name in ("flair", "t1ce")}
    mask = case / f"{case.name}_seg.nii.gz"
    names = {"CASE": case, **files, "MASK": mask, "SMALL": tmp_path / "small.nii.gz"}
    before = [path.stat().st_mtime_ns for path in files.values()]
    filled = [str(names.get(word, word)) for word in words]
    assert segment(checkpoint, "--out", tmp_path / "seg.nii.gz", *filled) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "seg.nii.gz").exists()
    assert [path.stat().st_mtime_ns for path in files.values()] == before


def resized(root: Path, sizes: dict[int, float]) -> None:
    """Gives cases, by their number, voxels of that size and axes that run RAS."""
    for number, size in sizes.items():
        for path in root.glob(f"*_00{number}/*.nii.gz"):
            nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.diag([size, size, size, 1])), path)


def test_the_frame_is_that_of_the_training_cases(brats: Path, tmp_path: Path) -> None:
    resized(brats, {1: 0.95, 2: 1.05, 3: 1.05})
    ids = [f"BraTS20_Training_{number:03d}" for number in range(1, 7)]
    (tmp_path / "split.json").write_text(json.dumps({"train": ids[:3], "val": ids[3:]}))
    data = BratsDataModule(brats, splits=tmp_path / "split.json", prepared_dir=tmp_path / "prepared")
    data.prepare_data()
    data.setup("fit")
    windows = {"roi_size": (8, 8, 8), "overlap": 0, "batch_size": 1}
    module = SimpleNamespace(mode="labels", flips=1, val_scores={"val/dice": 0.5}, windows=windows, steps=Postprocess())
    card = describe(module, data)
    assert card.spacing == pytest.approx([1.05] * 3)
    assert (card.orientation, card.dataset, card.scores) == ("LPS", "brats2020", {"val/dice": 0.5})


def test_a_checkpoint_of_arrays_that_lay_otherwise_is_named() -> None:
    with pytest.raises(GeometryError, match="trained on RAS arrays, cases are now reoriented to LPS"):
        check_trained([], "RAS", (1, 1, 1))


def test_a_split_without_training_cases_only_scores(brats: Path, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"test": ["BraTS20_Training_001"]}')
    data = BratsDataModule(brats, splits=tmp_path / "split.json", prepared_dir=tmp_path / "prepared")
    data.prepare_data()
    data.setup("test")
    with pytest.raises(SplitError, match=r"split\.json: has no case under train"):
        data.setup("fit")


def test_cases_of_another_voxel_size_do_not_train(brats: Path, tmp_path: Path) -> None:
    resized(brats, {2: 1.15, 5: 3})
    data = BratsDataModule(brats, prepared_dir=tmp_path / "prepared")
    data.prepare_data()
    with pytest.raises(GeometryError, match=r"2 of 5 cases .* size of most, 1 x 1 x 1 mm; .* data\.exclude") as raised:
        data.setup("fit")
    assert str(raised.value).splitlines()[1:] == [
        "  BraTS20_Training_002: 1.15 x 1.15 x 1.15 mm",
        "  BraTS20_Training_005: 3 x 3 x 3 mm",
    ]
    data = BratsDataModule(brats, prepared_dir=tmp_path / "prepared", exclude=["BraTS20_Training_002", "typo"])
    with pytest.raises(ValueError, match=r"data\.exclude names typo, no such case in"):
        data.prepare_data()


def test_a_gpu_that_is_not_there_is_named(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device=cuda: there is no GPU"):
        load(checkpoint, device="cuda")
    with pytest.raises(ValueError, match="precision='64' is none of auto, 32-true, bf16-mixed"):
        load(checkpoint, precision="64")


def test_the_cavity_needs_a_data_set_that_has_it() -> None:
    classes = (*CARD.classes, "RC")
    card = replace(CARD, dataset="brats2024", classes=classes, label_values=(0, 1, 2, 3, 4))
    with pytest.raises(ConfigError, match="brats2023 has no label for RC, which this network segments"):
        card.labelling(None, "brats2023")
    assert card.labelling(presets()["brats2023"]).name == "brats2024"
    # regions hold no cavity
    assert replace(card, mode="regions").labelling(presets()["brats2023"]).name == "brats2023"


def test_a_case_of_another_data_set_gets_its_own_label_values(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_brats(tmp_path, "BraTS-GLI-00001-000", presets()["brats2023"])
    assert segment(checkpoint, "--case", folder, "--out", tmp_path / "a.nii.gz") == 0
    mask = nib.load(tmp_path / "a.nii.gz")
    assert 3 in np.asarray(mask.dataobj) and mask.header["descrip"].item() == b"raum brats2023 case=BraTS-GLI-00001-000"
    assert "labels of brats2023" in capsys.readouterr().out
    assert segment(checkpoint, "--case", folder, "--out", tmp_path / "b.nii.gz", "--dataset", "brats2020") == 0
    overridden = nib.load(tmp_path / "b.nii.gz")
    assert 4 in np.asarray(overridden.dataobj) and b"raum brats2020 case=" in overridden.header["descrip"].item()
    # as predict does
    monkeypatch.chdir(checkpoint.parents[4])
    words = ["--data.predict_root", str(folder), "--ckpt_path", str(checkpoint)]
    assert main(["predict", *DEBUG, *NETWORK, *words]) == 0
    predicted = nib.load(checkpoint.parents[1] / f"predictions/{folder.name}.nii.gz")
    np.testing.assert_array_equal(np.asarray(predicted.dataobj), np.asarray(mask.dataobj))
