"""What a verb is going to do, decided from configuration, environment and disk without a trainer."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from raum_lightning.cli.run_plan import apply_plan, make_plan, without_run
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.runs.folder import RunFolder

FILE = [Path("experiments/small.yaml")]
LOGGERS = ("SLURM", "TORCHELASTIC", "WANDB", "RAUM", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and an environment that names no run."""
    for name in [name for name in os.environ if name.startswith(LOGGERS)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(ckpt_path: str | None = None, *, loggers: list[Any] | None = None, **trainer: Any) -> Namespace:
    given = {
        "max_steps": 10,
        "max_epochs": None,
        "max_time": None,
        "overfit_batches": 0.0,
        "precision": "32-true",
        "accelerator": "cpu",
    } | trainer
    return Namespace(
        ckpt_path=ckpt_path,
        config=None,
        out=None,
        run=Namespace(root="runs", experiment=None, id=None, keep=1),
        trainer=Namespace(logger=loggers, strategy="auto", default_root_dir=None, **given),
    )


def saved(run: Path, *names: str, step: int = 4) -> RunFolder:
    for name in names:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        torch.save({"global_step": step}, run / "checkpoints" / name)
    (run / "config.yaml").touch()
    return RunFolder(run)


def test_a_new_run_is_named_when_it_is_made(here: Path) -> None:
    plan = make_plan("fit", config(), FILE)
    assert (plan.experiment, plan.run, plan.start) == (Path("runs/small"), None, None)
    assert not list(here.iterdir())
    named = config()
    named.run.id, named.run.experiment = "one", "tuned"
    assert make_plan("fit", named, FILE).run == RunFolder(Path("runs/tuned/one"))


def test_a_trained_run_is_resumed_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(Path("runs/small/one"), "last.ckpt", "best.ckpt")
    asked = config()
    asked.run.id = "one"
    with pytest.raises(RunError, match="holds a trained run; continue it with --ckpt_path auto"):
        make_plan("fit", asked, FILE)
    asked.ckpt_path = "auto"
    plan = make_plan("fit", asked, FILE)
    assert plan.run == run and plan.start in (run.last, run.best)
    # a job that SLURM starts again finds its own run
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert make_plan("fit", config(), FILE).run == RunFolder(Path("runs/small/slurm-7"))
    shutil.copytree(run.path, "runs/small/slurm-7")
    assert make_plan("fit", config(), FILE).start == Path("runs/small/slurm-7") / plan.start.relative_to(run.path)


def test_a_run_that_has_moved_is_found_beside_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = saved(Path("elsewhere/small/one"), "last.ckpt")
    asked = config("auto")
    asked.run.experiment = "small"  # as its configuration says
    for name, run in ((None, None), ("one", moved), ("two", RunFolder(Path("runs/small/two")))):
        asked.run.id = name
        assert make_plan("fit", asked, [moved.config]).run == run
    asked.run.id = "one"
    here = RunFolder(Path("runs/small/one"))
    assert make_plan("fit", asked, [moved.config], root_is_given=True).run == here
    asked.run.experiment = "other"
    assert make_plan("fit", asked, [moved.config]).run == RunFolder(Path("runs/other/one"))
    asked.run.experiment, asked.run.id = "small", None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert make_plan("fit", asked, [moved.config]).run == RunFolder(Path("runs/small/slurm-7"))


def test_a_checkpoint_needs_steps_that_are_left() -> None:
    run = saved(Path("runs/small/one"), "last.ckpt")
    plan = make_plan("fit", config(str(run.last), max_steps=5), FILE)
    assert (plan.run, plan.start) == (run, run.last)
    with pytest.raises(RunError, match=r"was saved at step 4 and trainer\.max_steps is 4: nothing is left"):
        make_plan("fit", config(str(run.last), max_steps=4), FILE)
    assert make_plan("fit", config(str(run.last), max_steps=-1), FILE).start == run.last
    content = {"global_step": 4, "callbacks": {"Timer": {"time_elapsed": {"train": 61.2}}}}
    torch.save(content, run.last)
    timed = {"max_steps": -1, "max_time": "00:00:01:00"}
    with pytest.raises(RunError, match=r"was saved after 61 s and trainer\.max_time is 60 s: nothing is left"):
        make_plan("fit", config(str(run.last), **timed), FILE)
    for more in ({"max_time": "00:00:02:00"}, {"max_epochs": 3}):
        assert make_plan("fit", config(str(run.last), **timed | more), FILE).start == run.last
    epochs = {"epoch_progress": {"current": {"ready": 3, "started": 3, "processed": 2}}}
    for over, done in ((True, 3), (False, 2)):  # in the validation after the last batch, and before it
        loop = epochs | {"epoch_loop.batch_progress": {"is_last_batch": over}}
        torch.save({"global_step": 4, "loops": {"fit_loop": loop}}, run.last)
        long = {"max_steps": -1, "max_epochs": done}
        with pytest.raises(RunError, match=rf"was saved after {done} epochs and trainer\.max_epochs is {done}: "):
            make_plan("fit", config(str(run.last), **long), FILE)
        assert make_plan("fit", config(str(run.last), **long | {"max_epochs": done + 1}), FILE).start == run.last
    with pytest.raises(RunError, match=r"none\.ckpt: no such checkpoint"):
        make_plan("fit", config("none.ckpt"), FILE)


def test_the_other_verbs_take_the_best_checkpoint() -> None:
    run = saved(Path("runs/small/one"), "last.ckpt", "best.ckpt")
    plan = make_plan("test", config(), FILE)
    assert (plan.run, plan.start, plan.said) == (run, run.best, (f"checkpoint: {run.best}",))
    assert make_plan("test", config("last"), FILE).start == run.last
    assert make_plan("validate", config(), [run.config]).run == run


def test_a_root_that_is_typed_keeps_a_foreign_run_as_it_is() -> None:
    foreign = saved(Path("theirs/small/one"), "best.ckpt")
    asked = config(str(foreign.best))
    assert make_plan("predict", asked, FILE).run == foreign
    asked.run.root = "mine"
    assert make_plan("predict", asked, FILE, root_is_given=True).run == RunFolder(Path("mine/small/best"))
    asked.run.root = "theirs"
    assert make_plan("predict", asked, FILE, root_is_given=True).run == foreign


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.overfit_batches=2: each epoch samples new patches"):
        make_plan("fit", config(overfit_batches=2), FILE)


@pytest.mark.parametrize("name", ["a/b", "../a", "", ".."])
def test_a_run_is_one_folder_below_its_experiment(name: str) -> None:
    wanted = config()
    wanted.run.id = name
    with pytest.raises(ConfigError, match=f"run.id='{name}' becomes a folder below run.root: give one plain name"):
        make_plan("fit", wanted, [], root_is_given=False)


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, "32-true"),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "bf16-mixed"),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, "bf16-mixed"),
        ({"architecture": "aarch64"}, "bf16-mixed"),
    ],
)
def test_a_cpu_without_bf16_trains_in_float32(
    capabilities: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    plan = make_plan("fit", config(precision="bf16-mixed", accelerator="cpu"), FILE)
    said = () if precision == "bf16-mixed" else ("precision: this CPU has no bf16, using 32-true instead",)
    assert (plan.precision, plan.said) == (precision, said)
    assert make_plan("fit", config(precision="64-true", accelerator="cpu"), FILE).precision == "64-true"


def test_loggers_write_to_the_run_unless_they_have_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def logger(path: str, /, **init: Any) -> Namespace:
        return Namespace(class_path=path, init_args=Namespace(**init))

    wandb = {"id": None, "name": None, "group": None}
    loggers = [
        logger("raum_lightning.loggers.CSVLogger", save_dir="."),
        logger("raum_lightning.loggers.WandbLogger", save_dir=".", **wandb),
        logger("lightning.pytorch.loggers.TensorBoardLogger", save_dir="tb"),
        logger("lightning.pytorch.loggers.CometLogger"),
    ]
    told = config(loggers=loggers, precision="bf16-mixed", accelerator="gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: False)
    plan = make_plan("fit", told, FILE)
    assert plan.said == ("precision: this GPU has no bf16, using 32-true instead",)
    apply_plan(plan, told, RunFolder(Path("runs/small/one")), "test")
    csv, wb, tensorboard, comet = (one.init_args for one in told.trainer.logger)
    assert (csv.save_dir, tensorboard.save_dir, comet.as_dict()) == ("runs/small/one/test", "tb", {})
    again, odd = config(loggers=[logger("lightning.pytorch.loggers.WandbLogger", **wandb)]), Path("runs/don't/a#1:x%")
    apply_plan(plan, again, RunFolder(odd), "fit")
    assert again.trainer.logger[0].init_args.id == "don-t-a-1-x%"  # W&B refuses the other signs
    assert wb.as_dict() == {"save_dir": "runs/small/one", "id": "small-one", "name": "small/one", "group": "small"}
    assert (told.run.experiment, told.run.id, told.trainer.precision) == ("small", "one", "32-true")
    assert told.trainer.default_root_dir == "runs/small/one"
    again = without_run(told)
    assert (again.run.id, again.trainer.logger[1].init_args.id, told.run.id) == (None, None, "one")


def test_the_run_of_a_configuration_counts_whatever_file_comes_after_it() -> None:
    old, new = (saved(Path(f"runs/small/{name}"), "best.ckpt") for name in ("old", "new"))
    os.utime(old.best, (1, 1))
    machine = Path("experiments/hardware/cpu.yaml")
    assert make_plan("test", config(), [old.config, machine]).start == old.best
    assert make_plan("test", config(), [*FILE, machine]).start == new.best
