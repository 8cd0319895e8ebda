"""Raw scans: `--atlas`, `--skull-strip`, and `raum segment --raw`, whose mask comes back onto the T1ce."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform, zoom
from scipy.spatial.transform import Rotation

from raum_lightning.cases import brainles, registration
from raum_lightning.cases.discovery import find_case
from raum_lightning.cases.nifti import Volume, read_nifti
from raum_lightning.cases.raw import Aligned, Scans, align
from raum_lightning.cases.registration import centre_of, register
from raum_lightning.cli import main
from raum_lightning.inference import segmenter
from raum_lightning.phantom import phantom_case

PHANTOM = phantom_case(seed=0, index=0, shape=(48, 48, 40))
IMAGE = PHANTOM.images["t1ce"].astype(np.float32)
# of an atlas: other axes, voxels of 1.1 mm, and its centre elsewhere
ATLAS_AFFINE = np.array([[1.1, 0, 0, 40], [0, 1.1, 0, -90], [0, 0, 1.1, 15], [0, 0, 0, 1.0]])
ATLAS_SHAPE = (44, 46, 38)


def motion() -> np.ndarray:
    """Points of the atlas to the T1ce: turned, and with the middle some voxels off that of the T1ce."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", (5, -4, 3), degrees=True).as_matrix()
    middle = ATLAS_AFFINE @ (*((np.array(ATLAS_SHAPE) - 1) / 2), 1)
    matrix[:3, 3] = (PHANTOM.affine @ (26.5, 21.5, 21.5, 1))[:3] - matrix[:3, :3] @ middle[:3]
    return matrix


def on_atlas(data: np.ndarray, order: int = 1) -> np.ndarray:
    voxels = np.linalg.inv(PHANTOM.affine) @ motion() @ ATLAS_AFFINE
    moved: np.ndarray = affine_transform(
        data.astype(np.float32), voxels[:3, :3], voxels[:3, 3], ATLAS_SHAPE, order=order
    )
    return moved


def written(path: Path, data: np.ndarray, affine: np.ndarray = PHANTOM.affine) -> Path:
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return path


def volume(data: np.ndarray, affine: np.ndarray = PHANTOM.affine) -> Volume:
    return Volume(Path("scan.nii.gz"), data.astype(np.float32), affine)


@pytest.mark.slow
def test_the_way_to_an_atlas_is_found_within_a_millimetre() -> None:
    atlas = volume(on_atlas(PHANTOM.images["t1"]), ATLAS_AFFINE)
    found = register(atlas, volume(IMAGE), centred=True)
    brain = np.argwhere(atlas.data != 0)
    points = ATLAS_AFFINE @ np.c_[brain, np.ones(len(brain))].T
    errors = np.linalg.norm((found @ points - motion() @ points)[:3], axis=0)
    assert np.linalg.norm(centre_of(atlas) - centre_of(volume(IMAGE))) > 50 and errors.max() < 1, errors.max()


def test_a_mask_comes_back_onto_the_t1ce(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The known mask of the phantom, carried to the atlas and back: nothing but rounding at its surface is lost."""
    atlas = written(tmp_path / "atlas.nii.gz", on_atlas(IMAGE), ATLAS_AFFINE)
    monkeypatch.setattr(registration, "register", lambda fixed, moving, centred=False: motion())
    said: list[str] = []
    aligned = align(Scans({"t1ce": volume(IMAGE)}, IMAGE != 0), atlas, said.append)
    assert said[0].startswith("to atlas.nii.gz: moved by ")
    assert np.corrcoef(aligned.images["t1ce"].ravel(), on_atlas(IMAGE).ravel())[0, 1] > 0.99
    shares = [on_atlas(PHANTOM.labels == index) for index in range(4)]
    back = aligned.back(np.argmax(shares, axis=0).astype(np.uint8))
    assert back.shape == IMAGE.shape
    known, found = PHANTOM.labels > 0, back > 0
    assert 2 * (known & found).sum() / (known.sum() + found.sum()) > 0.93


def test_without_an_atlas_the_mask_is_on_the_t1ce_already() -> None:
    t1ce = volume(IMAGE)
    aligned = align(Scans({"t1ce": t1ce}, IMAGE != 0), None, print)
    assert isinstance(aligned, Aligned) and aligned.reference is t1ce
    assert np.array_equal(aligned.back(PHANTOM.labels), PHANTOM.labels)


class Stub:
    """In the place of a network: says that what is bright on the T1ce is tumour, and remembers the case."""

    def __init__(self, card: Any) -> None:
        self.card = card
        self.seen: Any = None

    def modalities_of(self, case: Any) -> tuple[str, ...]:
        case.files(self.card.modalities)
        return tuple(self.card.modalities)

    def segment(self, case: Any, progress: Any) -> Any:
        image, _ = case.read(["t1ce", "flair"])
        self.seen = image
        labels = np.where(image[0] > np.percentile(image[0], 97), 3, 0).astype(np.uint8)
        return SimpleNamespace(labels=labels, data_set=self.card.trained_on, volumes={"WT": 1.0})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    from raum_lightning.datasets import load

    card = SimpleNamespace(
        trained_on=load("brats2020"), modalities=("flair", "t1ce"), translate=lambda labels, _: labels
    )
    network = Stub(card)
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: network)
    return network


def raw_words(folder: Path, *more: str) -> list[str]:
    """The T1ce as the scanner has it, of 0.5 x 1 x 1 mm, and a FLAIR that needs no moving."""
    fine = PHANTOM.affine @ np.diag([0.5, 1, 1, 1])
    written(folder / "c.nii.gz", zoom(IMAGE, (2, 1, 1), order=0), fine)
    written(folder / "f.nii.gz", PHANTOM.images["flair"])
    mask = written(folder / "m.nii.gz", zoom(IMAGE, (2, 1, 1), order=0) != 0, fine)
    files = ["--t1ce", str(folder / "c.nii.gz"), "--flair", str(folder / "f.nii.gz"), "--brain-mask", str(mask)]
    return ["segment", "--checkpoint", "x.ckpt", "--raw", *files, "--out", str(folder / "seg.nii.gz"), *more]


def test_segment_raw_writes_the_mask_on_the_native_t1ce(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    at_rest = {True: motion(), False: np.eye(4)}
    monkeypatch.setattr(registration, "register", lambda fixed, moving, centred=False: at_rest[centred])
    atlas = written(tmp_path / "atlas.nii.gz", on_atlas(IMAGE), ATLAS_AFFINE)
    assert main(raw_words(tmp_path, "--atlas", str(atlas))) == 0
    assert "on the grid of the T1ce, labels of brats2020" in capsys.readouterr().out
    assert stub.seen.shape == (2, *ATLAS_SHAPE)
    mask, native = read_nifti(tmp_path / "seg.nii.gz"), read_nifti(tmp_path / "c.nii.gz")
    mask.check_grid(native)
    assert set(np.unique(mask.data)) == {0, 4}
    bright = native.data > np.percentile(native.data, 97)
    assert 2 * (bright & (mask.data > 0)).sum() / (bright.sum() + (mask.data > 0).sum()) > 0.7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--figure", "x.png"], "--figure does not go with --raw"),
        (["--atlas", "mni"], "--atlas mni: is neither sri24 nor a file"),
        (["--out", "x.dcm"], "x.dcm: a DICOM segmentation is of a series"),
        (["--flair", "no.nii"], "no.nii: no such file"),
    ],
)
def test_what_does_not_fit_is_said(
    words: list[str], said: str, tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(raw_words(tmp_path, *words)) == 2
    assert said in capsys.readouterr().err


def test_a_modality_that_the_network_needs_is_asked_for_before_any_work(
    tmp_path: Path, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = raw_words(tmp_path)
    words[words.index("--flair") : words.index("--brain-mask")] = []
    assert main(words) == 2
    said = capsys.readouterr()
    assert "case seg: flair is missing" in said.err and "moved by" not in said.out


def test_options_of_raw_scans_need_raw(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--model", "x.ckpt", "--case", "c", "--out", "o.nii", "--skull-strip", "hd-bet"]) == 2
    assert "--skull-strip is for --raw scans" in capsys.readouterr().err


def test_without_the_extra_one_sentence_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "brainles_preprocessing", None)
    for words in (["--skull-strip", "hd-bet"], ["--skull-strip", "synthstrip"], ["--atlas", "sri24"]):
        given = ["--t1ce", "c.nii.gz", "--flair", "f.nii.gz", "--out", str(tmp_path / "case")]
        assert main(["prepare-case", *given, *words]) == 2
        said = capsys.readouterr().err
        assert f"{words[1]}: takes brainles-preprocessing" in said and "pip install 'raum-lightning[raw]'" in said


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of brainles-preprocessing and HD-BET, with the names of 0.6.14: weights in a folder, a mask."""
    folder = tmp_path / "weights"

    class Extractor:
        def extract(self, image: Path, masked: Path, mask: Path, **options: Any) -> None:
            assert options == {"mode": "fast", "device": "cpu", "do_tta": False}
            scan = nib.load(image)
            nib.save(nib.Nifti1Image((scan.get_fdata() > 0).astype(np.uint8), scan.affine), mask)

    def download(fold: int) -> None:
        if not folder.parent.joinpath("online").exists():
            raise OSError("no route to host")
        folder.mkdir(exist_ok=True)
        (folder / f"{fold}.model").touch()

    contents: dict[str, dict[str, Any]] = {
        "brainles_preprocessing": {},
        "brainles_preprocessing.brain_extraction": {},
        "brainles_preprocessing.brain_extraction.hd_bet": {"HDBetExtractor": Extractor},
        "brainles_hd_bet": {},
        "brainles_hd_bet.utils": {
            "get_params_fname": lambda fold: folder / f"{fold}.model",
            "maybe_download_parameters": download,
        },
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return folder


def test_weights_are_fetched_before_any_work_and_once(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registration, "register", lambda fixed, moving: np.eye(4))
    files = [str(written(tmp_path / f"{name}.nii.gz", PHANTOM.images[name])) for name in ("t1ce", "flair")]
    words = ["prepare-case", "--t1ce", files[0], "--flair", files[1], "--skull-strip", "hd-bet"]
    assert main([*words, "--out", str(tmp_path / "P-1")]) == 2
    said = capsys.readouterr()
    assert said.out == f"hd-bet: is fetched from zenodo.org into {package}, once\n"
    assert "hd-bet: could not be fetched from zenodo.org (no route to host)" in said.err
    (tmp_path / "online").touch()
    assert main([*words, "--out", str(tmp_path / "P-1")]) == 0
    assert "is fetched from zenodo.org" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "P-2")]) == 0
    assert "zenodo" not in capsys.readouterr().out
    image, _ = find_case(tmp_path / "P-2").read(["t1ce"])
    assert np.array_equal(image[0], IMAGE)


def test_the_atlas_is_the_newest_that_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("7_v1.9.0", "7_v1.10.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(brainles, "_place", lambda what: (tmp_path, False))
    file = SimpleNamespace(BRATS_SRI24_SKULLSTRIPPED=SimpleNamespace(value="brats_sri24_skullstripped.nii"))
    monkeypatch.setattr(brainles, "_load", lambda what: SimpleNamespace(Atlas=file))
    assert brainles.atlas() == tmp_path / "7_v1.10.0/brats_sri24_skullstripped.nii"
