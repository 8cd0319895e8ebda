"""What would harm a training is found, each with severity, file, value and advice; sound cases have no finding."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cases import check
from raum_lightning.cases.case import Case
from raum_lightning.cases.check import check_cases
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.measure import Facts, measure
from raum_lightning.cases.rules import RULES, SET_RULES, Finding
from raum_lightning.cli import main
from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.datasets import presets
from tests.helpers import DEBUG
from tests.helpers.cases import AFFINE, SHAPE, tiny_volumes

ALL = ("flair", "t1", "t1ce", "t2")
# class indices of BraTS 2020: NCR, ED, ET, and how far each stands out on each modality, in intensities of 100 +- 15
CONTRAST = {"flair": (20, 60, 40), "t1": (-30, -10, 0), "t1ce": (-30, -5, 80), "t2": (60, 40, 20)}


def head(seed: int) -> dict[str, np.ndarray]:
    """Four modalities whose tumour looks as it does, and the mask in label values."""
    rng, labels = np.random.default_rng(seed), tiny_volumes(seed)[1]
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    files = {
        name: (rng.normal(100, 15, SHAPE) + np.array((0, *values))[labels]).clip(1) * brain
        for name, values in CONTRAST.items()
    }
    return {name: image.astype(np.int16) for name, image in files.items()} | {
        "seg": presets()["brats2020"].decode(labels)
    }


Change = Callable[[dict[str, np.ndarray]], None]


def write(root: Path, name: str, seed: int, change: Change = lambda files: None, affine: np.ndarray = AFFINE) -> None:
    files = head(seed)
    change(files)
    for role, array in files.items():
        path = root / name / f"{name}_{role}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)


def findings(root: Path) -> list[Finding]:
    return check_cases(find_cases(root), ALL)


def only(root: Path) -> Finding:
    (finding,) = findings(root)
    assert finding.message and finding.advice
    return finding


def test_sound_cases_have_no_finding(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, f"c{seed}", seed)
    assert findings(tmp_path) == []


def set_role(role: str, array: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Change:
    return lambda files: files.__setitem__(role, array(files))


def swap(files: dict[str, np.ndarray]) -> None:
    files["flair"], files["t1ce"] = files["t1ce"], files["flair"]


def corner(files: dict[str, np.ndarray]) -> np.ndarray:
    mask = np.zeros_like(files["seg"])
    mask[:2, :2, :2] = 4
    return mask


def noise(files: dict[str, np.ndarray]) -> np.ndarray:
    around = np.random.default_rng(1).normal(0, 1e-4, SHAPE)
    return np.where(files["flair"] == 0, around, files["flair"]).astype(np.float32)


def air(files: dict[str, np.ndarray]) -> np.ndarray:
    around = np.random.default_rng(1).integers(1, 30, SHAPE)
    return np.where(files["t2"] == 0, around, files["t2"]).astype(np.int16)


def hot(files: dict[str, np.ndarray]) -> np.ndarray:
    image = files["t2"].astype(np.float32)
    image[20, 20, 20] = 1e9
    return image


@pytest.mark.parametrize(
    ("change", "rule", "severity", "file", "words"),
    [
        (
            set_role("t2", lambda files: np.where(files["t2"] > 0, 300, 0).astype(np.int16)),
            *("constant", "error", "t2", "t2 is 300 in all of the brain"),
        ),
        (
            set_role("t1ce", lambda files: files["t1"]),
            *("same modality", "error", "t1ce", "t1ce has the content of t1 (correlation 1.0000 in the brain)"),
        ),
        (
            set_role("t1ce", lambda files: (files["t1"] * 3).astype(np.int16)),
            *("same modality", "error", "t1ce", "t1ce has the content of t1 (correlation 1.0000 in the brain)"),
        ),
        (
            set_role("seg", lambda files: np.zeros_like(files["seg"])),
            *("empty mask", "warning", "seg", "the mask is empty"),
        ),
        (set_role("seg", corner), "mask elsewhere", "error", "seg", "100% of the tumour lies outside the brain"),
        (
            set_role("seg", lambda files: (2 * (files["flair"] > 0)).astype(np.uint8)),
            *("mask elsewhere", "error", "seg", "the tumour covers 100% of the brain"),
        ),
        (
            set_role("seg", lambda files: files["seg"][::-1, ::-1, ::-1]),
            *("mask of another", "warning", "seg", "standard deviations from the mean of the brain on flair"),
        ),
        (swap, "swapped", "warning", "flair", "flair and t1ce may be swapped: the tumour lies"),
        (set_role("flair", noise), "noise", "warning", "flair", "of flair is noise around 0, left by interpolation"),
        (
            set_role("t2", air),
            *("background", "warning", "t2", "100% of the voxels along the edges of t2 are not 0: its background is"),
        ),
        (set_role("t2", hot), "hot voxels", "warning", "t2", "a few voxels of t2, up to 1e+09, raise the standard"),
        (
            set_role("t1", lambda files: np.where(files["t1"], files["t1"] - 100, 0).astype(np.int16)),
            *("negative", "warning", "t1", "of t1 in the brain is negative"),
        ),
        (
            set_role("t1", lambda files: (np.digitize(files["t1"], [1, 80, 100, 120])).astype(np.int16)),
            *("few values", "warning", "t1", "t1 has only 4 different values in the brain"),
        ),
        (
            set_role("t2", lambda files: files["t2"] * (np.arange(SHAPE[0]) < 20)[:, None, None]),
            *("brains differ", "warning", "t2", "the brain of t2 overlaps that of flair by 50% only"),
        ),
        (
            set_role("t2", lambda files: files["t2"] * np.float32(1e-9)),
            *("constant", "error", "t2", "t2 has a standard deviation of 2e-08 in the brain"),
        ),
    ],
)
def test_what_harms_a_training(tmp_path: Path, change: Change, rule: str, severity: str, file: str, words: str) -> None:
    write(tmp_path, "a", 1, change)
    finding = only(tmp_path)
    assert (finding.rule, finding.severity, finding.case) == (rule, severity, "a")
    assert Path(finding.file).name == f"a_{file}.nii.gz" and words in finding.message


@pytest.mark.slow
def test_a_head_with_its_skull_is_no_finding(tmp_path: Path) -> None:
    """Where `background: none` declares it: 4 litres, up to the edges of the volume, and fat brighter than a tumour."""
    rng, shape = np.random.default_rng(0), (170, 170, 150)
    mask = np.zeros(shape, np.uint8)
    mask[80:100, 80:100, 60:80] = 1
    image = rng.normal(300, 60, shape).clip(1)
    image[mask > 0] = 200
    for role, array in (("flair", image.astype(np.int16)), ("seg", mask)):
        (tmp_path / "cases/a").mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / f"cases/a/{role}.nii")
    rules = {}
    for background in ("0", "none"):
        mine = f"images: {{flair: '{{case}}/flair'}}\nmask: '{{case}}/seg'\nlabels: {{1: T}}\nbackground: {background}"
        (tmp_path / "mine.yaml").write_text(mine)
        cases = find_cases(tmp_path / "cases", tmp_path / "mine.yaml")
        # one cache for both: what was measured depends on the background
        rules[background] = {finding.rule for finding in check_cases(cases, ["flair"], cache=tmp_path)}
    assert rules == {"0": {"background", "mask of another"}, "none": set()}


def test_a_class_that_few_masks_hold(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, f"c{seed}", seed)
    cases = [replace(case, id=f"{case.id}-{n}") for n in range(8) for case in find_cases(tmp_path)][:21]
    facts = check.measure_cases(cases[:3]) * 7
    for fact in facts[1:3]:
        assert fact.mask and fact.mask.classes["ET"] > 0
    without = [
        replace(fact, mask=fact.mask and replace(fact.mask, classes=fact.mask.classes | {"ET": 0})) for fact in facts
    ]
    rare = [f for f in check.judge(cases, [facts[0], *without[1:]], ALL) if f.rule == "rare class"]
    assert [(f.severity, f.case, f.message) for f in rare] == [("warning", "", "1 of 21 masks have ET")]
    common = [*facts[:2], *without[2:]]
    assert not [f for f in check.judge(cases, common, ALL) if f.rule == "rare class"]  # 2 of 21 are 9.5 %


@pytest.mark.slow
def test_a_training_is_refused_before_a_case_is_prepared(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once what was measured is known, no file is read again; t1 is not among the modalities, and not looked at."""
    monkeypatch.chdir(tmp_path)
    bad, sound = sorted(brats.iterdir())[:2]
    mask = bad / f"{bad.name}_seg.nii.gz"
    kept = mask.read_bytes()
    nib.save(nib.Nifti1Image(corner({"seg": np.zeros(SHAPE, np.uint8)}), AFFINE), mask)
    (sound / f"{sound.name}_t1.nii.gz").write_bytes(b"broken")
    run = ["fit", "-c", DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--trainer.max_steps", "1"]
    assert main(run) == 2
    said = capsys.readouterr().err
    assert "1 of 6 cases cannot be used; repair them or list their ids under data.exclude" in said
    assert f"{mask}: 100% of the tumour lies outside the brain; give the case its own mask" in said
    assert [path.name for path in Path("runs/prepared").iterdir()] == [check.CACHE]

    class Fitting:
        """What of a trainer the data module asks."""

        training, predicting, validating, world_size, global_rank = True, False, False, 1, 0

    def prepare(**options: Any) -> set[str]:
        data = BratsDataModule(brats, prepared_dir="runs/prepared", **options)
        data.trainer = Fitting()  # type: ignore[assignment]
        data.prepare_data()
        return {path.name.rpartition("-")[0] for path in Path("runs/prepared").glob("*/")}

    assert len(prepare(check=False)) == 6
    mask.write_bytes(kept)
    measured: list[str] = []

    def counting(case: Case) -> Facts:
        measured.append(case.id)
        return measure(case)

    monkeypatch.setattr(check, "measure", counting)
    for _ in range(2):
        prepare()
        assert measured == [bad.name]


def test_two_cases_with_the_same_content(tmp_path: Path) -> None:
    write(tmp_path, "a", 1)
    write(tmp_path, "b", 2, set_role("t1", lambda files: head(1)["t1"]))
    finding = only(tmp_path)
    assert (finding.rule, finding.severity, finding.case) == ("same content", "error", "b")
    assert finding.message == f"has the same content as {tmp_path}/a/a_t1.nii.gz of case a"


def test_voxels_of_other_sizes(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, f"c{seed}", seed, affine=AFFINE * (1.5 if seed == 2 else 1))
    finding = only(tmp_path)
    assert (finding.rule, finding.severity, finding.case) == ("odd voxels", "error", "c2")
    assert finding.message == "has voxels of 1.5 x 1.5 x 1.5 mm, most cases of 1 x 1 x 1 mm"


def test_the_order_of_the_axes_of_a_file_is_not_its_voxel_size(tmp_path: Path) -> None:
    thick = np.diag([-1.0, -1, 3, 1])
    for seed in range(3):
        write(tmp_path, f"c{seed}", seed, affine=thick)
    for path in (tmp_path / "c2").iterdir():
        image = nib.load(path)
        nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("PIR")), path)
    assert "odd voxels" not in {finding.rule for finding in findings(tmp_path)}


def test_voxels_of_the_whole_set(tmp_path: Path) -> None:
    write(tmp_path, "a", 1, affine=np.diag([-1.0, -1, 5.5, 1]))
    finding = only(tmp_path)
    assert (finding.rule, finding.severity, finding.case) == ("odd voxels everywhere", "warning", "")
    assert "most cases have voxels of 1 x 1 x 5.5 mm" in finding.message


def test_transforms_that_disagree(tmp_path: Path) -> None:
    write(tmp_path, "a", 1)
    path = tmp_path / "a/a_flair.nii.gz"
    image = nib.load(path)
    moved = AFFINE.copy()
    moved[1, 3] += 7
    image.set_qform(moved, 1)
    nib.save(image, path)
    finding = only(tmp_path)
    assert (finding.rule, finding.severity) == ("two transforms", "warning")
    assert finding.message == "sform and qform of its header disagree by up to 7 mm; raum takes the sform"


def test_a_mask_that_its_header_scales(tmp_path: Path) -> None:
    write(tmp_path, "a", 1)
    path = tmp_path / "a/a_seg.nii.gz"
    mask = np.asarray(nib.load(path).dataobj)
    content = bytearray(nib.Nifti1Image((mask * 60).astype(np.uint8), AFFINE).to_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    header["scl_slope"], header["scl_inter"] = 1.004 / 60, 0
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))
    finding = only(tmp_path)
    assert finding.rule == "unreadable" and "label 1.00" in finding.message
    assert "its header scales its values (scl_slope, scl_inter (0.0167" in finding.advice


def test_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        write(tmp_path / "cases", f"c{seed}", seed, swap)
    cases = find_cases(tmp_path / "cases")
    measured: list[str] = []

    def counting(case: Case) -> Facts:
        measured.append(case.id)
        return measure(case)

    monkeypatch.setattr(check, "measure", counting)
    first = check_cases(cases, ALL, cache=tmp_path / "cache")
    assert sorted(measured) == ["c0", "c1"] and len(first) == 2
    assert check_cases(cases, ALL, cache=tmp_path / "cache") == first and len(measured) == 2
    write(tmp_path / "cases", "c1", 5)
    assert len(check_cases(cases, ALL, cache=tmp_path / "cache")) == 1 and measured[2:] == ["c1"]
    (tmp_path / "cache" / check.CACHE).write_text('{"a": 1}')
    assert len(check_cases(cases, ALL, cache=tmp_path / "cache")) == 1 and len(measured) == 5


def test_the_command_lists_only_cases_with_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        write(tmp_path, f"c{seed}", seed, swap if seed == 1 else lambda files: None)
    assert main(["check", str(tmp_path)]) == 0  # a warning
    said = capsys.readouterr().out.splitlines()
    voxels = [sum(int((head(seed)["seg"] == value).sum()) for seed in range(3)) for value in (1, 2, 4)]
    assert said[:6] == [
        "data set brats2020: 3 cases, recognised by the names of files such as c0_flair.nii.gz",
        "3 patients, 3 masks",
        "voxels of 1 x 1 x 1 mm in 3 cases",
        *(f"class {name}: {v:,} voxels in 3 of 3 masks" for name, v in zip(("NCR", "ED", "ET"), voxels, strict=True)),
    ]
    assert said[6] == f"c1 (brats2020, {tmp_path}/c1)"
    assert said[7].startswith("  warning c1_flair.nii.gz: flair and t1ce")
    assert said[8:] == ["3 cases, 2 without findings; 0 errors, 1 warnings"]
    assert main(["check", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["summary"] == {
        **{"cases": 3, "cases_with_findings": 1, "errors": 0, "warnings": 1, "patients": 3},
        "classes": {n: {"voxels": v, "cases": 3} for n, v in zip(("NCR", "ED", "ET"), voxels, strict=True)},
    }
    assert [case["id"] for case in content["cases"] if case["findings"]] == ["c1"]
    assert set(content["cases"][1]["findings"][0]) == {"severity", "rule", "case", "file", "message", "advice"}


def test_rules_have_names_of_their_own() -> None:
    names = [rule.name for rule in (*RULES, *SET_RULES)]
    assert len(set(names)) == len(names)


MEMORY = """
import re, sys
from pathlib import Path
from raum_lightning.cases.check import check_cases
from raum_lightning.cases.case import Case
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.measure import Facts, measure
assert check_cases(find_cases(Path(sys.argv[1])), ("flair", "t1ce")) == []
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # in kB, without what the parent took
"""


@pytest.mark.slow
def test_the_memory_of_a_large_case(tmp_path: Path) -> None:
    """One volume of 256 x 256 x 200 at a time, 4 bytes a voxel; 512 x 512 x 400 take 8 times as much."""
    shape = (256, 256, 200)
    rng = np.random.default_rng(0)
    brain = np.zeros(shape, bool)
    brain[50:200, 50:200, 40:160] = True
    mask = np.zeros(shape, np.uint8)
    mask[90:120, 90:120, 80:100] = 4
    for name, lift in (("flair", 200), ("t1ce", 90)):
        image = (rng.integers(50, 500, shape) + lift * (mask > 0)) * brain
        path = tmp_path / "a" / f"a_{name}.nii"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.int16), np.diag([-0.7, -0.7, 0.7, 1])), path)
    nib.save(nib.Nifti1Image(mask, np.diag([-0.7, -0.7, 0.7, 1])), tmp_path / "a/a_seg.nii")
    run = [sys.executable, "-c", MEMORY, str(tmp_path)]
    peak = int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert peak < 60_000 + 6.5 * np.prod(shape) / 1000 + 60_000  # Python and NumPy, the case, samples


@pytest.mark.parametrize("held_out", [True, False])
def test_a_case_that_its_data_set_keeps_for_testing_needs_no_mask(tmp_path: Path, held_out: bool) -> None:
    for number in (1, 2):
        write(tmp_path, f"BraTS20_Training_00{number}", number)
    cases = find_cases(tmp_path)
    facts = [measure(case) for case in cases]
    cases[1] = replace(cases[1], label=None, held_out=held_out)
    missing = [found.case for found in check.judge(cases, facts, ALL) if "missing: mask" in found.message]
    assert missing == ([] if held_out else [cases[1].id])
