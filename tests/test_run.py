import os
from pathlib import Path

import pytest

from raum_lightning.run import RunError, find_checkpoint, new_id, run_of
from raum_lightning.trainer import lacks_bf16, with_bases


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RAUM_RUN_ID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def test_ranks_of_one_run_agree_on_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = new_id()
    assert new_id() != "" and os.environ["RAUM_RUN_ID"]
    monkeypatch.setenv("RAUM_RUN_ID", chosen)
    monkeypatch.setenv("LOCAL_RANK", "1")  # a child of Lightning's launcher
    assert new_id() == chosen


def test_a_requeued_job_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert new_id() == "slurm-17"


def checkpoint(folder: Path, run: str, name: str, started: float) -> Path:
    path = folder / run / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    config = folder / run / "config.yaml"
    config.touch()
    os.utime(config, (started, started))
    return path


def test_the_newest_run_is_taken_and_best_before_last(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no best or last\.ckpt .* run `lightning fit` first"):
        find_checkpoint(tmp_path, None)
    old = checkpoint(tmp_path, "old", "best", 1)
    last = checkpoint(tmp_path, "new", "last", 2)
    assert find_checkpoint(tmp_path, None) == last
    assert find_checkpoint(tmp_path, "best") == old
    best = checkpoint(tmp_path, "new", "best", 2)
    assert find_checkpoint(tmp_path, None) == best
    assert run_of(best) == tmp_path / "new"
    assert run_of(tmp_path / "somewhere" / "model.ckpt") == tmp_path / "somewhere"


@pytest.mark.parametrize(
    ("accelerator", "gpu", "native", "lacks"),
    [
        ("auto", True, False, True),
        ("auto", True, True, False),
        ("cpu", True, False, False),
        ("auto", False, False, False),
    ],
)
def test_bf16_is_left_where_the_gpu_has_none(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpu: bool, native: bool, lacks: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert lacks_bf16(accelerator) == lacks


def test_a_file_comes_after_its_bases(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("base: ../a.yaml")
    (tmp_path / "c.yaml").write_text("base: sub/b.yaml")
    a, b, c = (tmp_path / name for name in ("sub/../a.yaml", "sub/b.yaml", "c.yaml"))
    for words in (["fit", "-c", str(c), "--x", "2"], ["fit", f"--config={c}", "--x", "2"]):
        expected = ["fit", "--config", str(a), "--config", str(b), "--config", str(c), "--x", "2"]
        assert with_bases(words) == expected


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.yaml: no such file, named with -c"):
        with_bases(["-c", str(tmp_path / "none.yaml")])
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    with pytest.raises(RunError, match=r"b\.yaml: no such file, named as base by .*a\.yaml"):
        with_bases(["-c", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(RunError, match=r"a\.yaml: is its own base"):
        with_bases(["-c", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("x: [")
    with pytest.raises(RunError, match=r"b\.yaml: is not valid YAML"):
        with_bases(["-c", str(tmp_path / "a.yaml")])
