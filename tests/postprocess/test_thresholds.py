"""Thresholds of the regions' probabilities: what holds for all of them, their files, and from a network to a mask."""

import tracemalloc
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import EvaluationError
from raum_lightning.labels import REGIONS, classify, from_probabilities, in_classes
from raum_lightning.postprocess import Postprocess
from raum_lightning.postprocess.probabilities import Probabilities
from tests.helpers.handmade import fit_handmade

CLASSES = ("background", "NCR", "ED", "ET")
TRUST = ["--trust", "tests.helpers.handmade"]
CASES = "runs/phantom-cases"


def probabilities(seed: int, mode: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and probabilities of 500 voxels."""
    channels = 4 if mode == "labels" else 3
    logits = 3 * torch.randn(1, channels, 10, 10, 5, generator=torch.Generator().manual_seed(seed))
    return logits, logits.softmax(1) if mode == "labels" else logits.sigmoid()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(["labels", "regions"]), region=st.sampled_from([*REGIONS]))
def test_one_half_changes_nothing_and_less_makes_a_region_larger(seed: int, mode: str, region: str) -> None:
    logits, values = probabilities(seed, mode)
    plain = classify(logits, mode)
    assert (from_probabilities(values, mode) == plain).all()
    assert (from_probabilities(values, mode, thresholds=dict.fromkeys(REGIONS, 0.5)) == plain).all()
    sizes = []
    previous = torch.zeros_like(plain, dtype=torch.bool)
    for bound in (0.9, 0.7, 0.5, 0.3, 0.1):
        mask = in_classes(from_probabilities(values, mode, thresholds={region: bound}), REGIONS[region])
        assert (mask | ~previous).all()
        previous = mask
        sizes.append(int(mask.sum()))
    assert sizes[0] < sizes[-1]


def test_a_class_wins_from_its_share_on_and_a_region_from_its_probability_on() -> None:
    shares = torch.tensor([0.29, 0.31, 0.49, 0.51])
    two = torch.stack([1 - shares, torch.zeros(4), shares, torch.zeros(4)]).view(1, 4, 4, 1, 1)  # background and ED
    assert from_probabilities(two, "labels", thresholds={"WT": 0.3}).flatten().tolist() == [0, 2, 2, 2]
    assert from_probabilities(two, "labels", thresholds={"ET": 0.3}).flatten().tolist() == [0, 0, 0, 2]
    regions = torch.stack([shares, torch.zeros(4), torch.zeros(4)]).view(1, 3, 4, 1, 1)
    assert from_probabilities(regions, "regions", thresholds={"WT": 0.3}).flatten().tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_a_file_gives_the_mask_in_the_classes_again(tmp_path: Path, mode: str) -> None:
    _, values = probabilities(0, mode)
    whole = np.zeros((values.shape[1], 12, 11, 8), np.float32)
    whole[0] = mode == "labels"
    whole[:, 2:12, 0:10, 3:8] = values[0].numpy()
    channels = CLASSES if mode == "labels" else ("WT", "TC", "ET")
    box = (slice(2, 12), slice(0, 10), slice(3, 8))
    Probabilities.of(whole, box, channels, mode, "k").save(tmp_path / "one.npz")
    found = Probabilities.read(tmp_path / "one.npz")
    assert found.values.dtype == np.float16 and found.key == "k" and found.channels == channels
    rounded = torch.from_numpy(whole.astype(np.float16).astype(np.float32))[None]
    for thresholds in ({}, {"WT": 0.3, "ET": 0.7}):
        expected = from_probabilities(rounded, mode, thresholds=thresholds)[0].numpy()
        assert (found.labels(presets()["brats2023"], thresholds) == expected).all()
    cleared = expected.copy()
    cleared[2:6] = 0
    with pytest.raises(EvaluationError, match="no step has cleaned"):
        found.check(tmp_path / "one.npz", cleared, presets()["brats2023"])
    with pytest.raises(EvaluationError, match=r"is of a grid of \(12, 11, 8\) voxels"):
        found.check(tmp_path / "one.npz", expected[1:], presets()["brats2023"])


def test_probabilities_of_other_classes_and_other_files_are_refused(tmp_path: Path) -> None:
    one = np.zeros((2, 4, 4, 4), np.float32)
    found = Probabilities.of(one, (slice(0, 4),) * 3, ("background", "GTV"), "labels")
    with pytest.raises(EvaluationError, match="GTV is in one of them only"):
        found.labels(presets()["brats2023"])
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(EvaluationError, match=r"a\.npz: holds no probabilities"):
        Probabilities.read(tmp_path / "a.npz")
    with pytest.raises(EvaluationError, match=r"b\.npz: no such file"):
        Probabilities.read(tmp_path / "b.npz")
    np.save(tmp_path / "c.npy", one)
    (tmp_path / "c.npy").rename(tmp_path / "c.npz")
    with pytest.raises(EvaluationError, match=r"c\.npz: holds no probabilities"):
        Probabilities.read(tmp_path / "c.npz")


@pytest.mark.parametrize("name", ["probabilities", "shape"])
def test_a_file_that_unpacks_to_much_more_is_refused_before_it_does(name: str, tmp_path: Path) -> None:
    """100 MB of zeros in 100 kB."""
    path = tmp_path / "a.npz"
    Probabilities.of(np.zeros((2, 4, 4, 4), np.float32), (slice(0, 4),) * 3, CLASSES[:2], "labels").save(path)
    with zipfile.ZipFile(path) as file:
        arrays = {entry: file.read(entry) for entry in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, content in arrays.items():
            file.writestr(entry, content + bytes(10**8) if entry == f"{name}.npy" else content)
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(EvaluationError, match=r"a\.npz: holds no probabilities .*(too large|bytes of prob)"):
            Probabilities.read(path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic cases, and masks and probabilities of a network that sees too little tumour."""
    folder = tmp_path_factory.mktemp("thresholds")
    checkpoint = fit_handmade(folder, offset=1.4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--checkpoint", str(checkpoint), "--cases", CASES, "--out", "masks", "--probabilities", "p", *TRUST]
        assert main(["segment", *words]) == 0
    return folder


def read(path: Path | str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.mark.slow
def test_a_threshold_is_found(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(root)
    files = ["--predictions", "masks", "--references", CASES, "--probabilities", "p", "--rules", "brats2020"]
    assert main(["postprocess", "fit", *files, "--out", "post.yaml"]) == 0
    steps = Postprocess.read(Path("post.yaml"))
    assert "threshold WT" in capsys.readouterr().out and 0.01 <= steps.threshold["WT"] < 0.5


@pytest.mark.slow
def test_a_threshold_is_applied_alike_by_every_command(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    Path("post.yaml").write_text("threshold: {WT: 0.3, ET: 0.4}\n")
    given_files = ["--predictions", "masks", "--postprocess", "post.yaml"]
    assert main(["postprocess", "apply", *given_files, "--out", "bare"]) == 2
    assert "threshold is of probabilities, which masks do not have" in capsys.readouterr().err
    assert main(["postprocess", "apply", *given_files, "--probabilities", "p", "--out", "applied"]) == 0
    checkpoint = "runs/debug/handmade/checkpoints/last.ckpt"
    words = ["--checkpoint", checkpoint, "--cases", CASES, "--out", "direct", "--postprocess", "post.yaml", *TRUST]
    assert main(["segment", *words]) == 0
    predicted = ["-c", "runs/debug/handmade/config.yaml", "--module.postprocess", "post.yaml", "--out", "predicted"]
    assert main(["predict", *predicted]) == 0
    names = [path.name for path in sorted(Path("masks").glob("*.nii.gz"))]
    assert len(names) == 5
    for name in names:
        applied, direct = read(f"applied/{name}"), read(f"direct/{name}")
        assert (applied > 0).sum() > (read(f"masks/{name}") > 0).sum()
        assert (applied != direct).mean() < 1e-4  # the file is in float16
        if Path(f"predicted/{name}").exists():
            assert (read(f"predicted/{name}") != direct).mean() < 1e-3
    assert len(list(Path("predicted").glob("*.nii.gz"))) == 2


@pytest.mark.slow
def test_test_prints_raw_and_thresholded_rows(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    Path("only.yaml").write_text("threshold: {WT: 0.2}\n")
    assert main(["test", "-c", "runs/debug/handmade/config.yaml", "--module.postprocess", "only.yaml"]) == 0
    head, *rows = (line.split(",") for line in Path("runs/debug/handmade/test/cases.csv").read_text().splitlines())
    raw, cleaned = head.index("recall_wt"), head.index("cleaned/recall_wt")
    assert all(float(row[cleaned]) > float(row[raw]) for row in rows)


@pytest.mark.slow
def test_probabilities_are_written_again_where_they_are_missing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    files = sorted(Path("p").glob("*.npz"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[0].unlink()
    words = ["--checkpoint", "runs/debug/handmade/checkpoints/last.ckpt", "--cases", CASES, "--out", "masks"]
    assert main(["segment", *words, "--probabilities", "p", *TRUST]) == 0
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == files[:1]


def test_missing_and_foreign_probabilities_are_said_before_the_search(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    files = ["--predictions", "masks", "--references", CASES, "--out", "never.yaml"]
    assert main(["postprocess", "fit", *files, "--probabilities", "empty"]) == 2
    assert "no such file; `raum segment --cases DIR --probabilities DIR` writes it" in capsys.readouterr().err
    assert not Path("never.yaml").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("threshold: {WT: 1}", "threshold.WT=1 is not from 0.01 to 0.99"), ("threshold: 0.4", "does not name regions")],
)
def test_a_threshold_that_cannot_be_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "post.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        Postprocess.read(tmp_path / "post.yaml")
